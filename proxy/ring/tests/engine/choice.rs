//! Which engine is opened, and what it says about that.

use pgx_ring::{Choice, Driven, Engine, Setup, Support, probe};

use crate::support::{Recorder, is_alone, pair, turn_until};

#[test]
fn auto_opens_the_best_that_the_probe_finds() {
    let engine = Engine::open(Choice::Auto, &Setup::default()).unwrap();
    let (driver, missing) = match probe() {
        Support::Full => (Driven::Full, 0),
        Support::Reduced(_) => (Driven::Reduced, 1),
        Support::None(_) => (Driven::Epoll, 2),
    };
    assert_eq!(engine.found().driver, driver);
    assert_eq!(engine.found().missing.len(), missing);
    assert!(engine.found().to_string().starts_with(driver.name()));
}

/// As in a container whose filter of system calls leaves io_uring out.
#[test]
fn auto_falls_back_to_epoll_where_io_uring_is_forbidden_and_says_why() {
    if !is_alone() {
        return;
    }
    forbid_io_uring();
    let error = Engine::open(Choice::Full, &Setup::default()).err().expect("it is forbidden");
    assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied);
    let mut engine = Engine::open(Choice::Auto, &Setup::default()).unwrap();
    let said = engine.found().to_string();
    assert!(said.starts_with("epoll, as a ring with deferred task work failed: "), "{said}");
    assert!(said.contains("; a plain ring failed: "), "{said}");
    let (key, mut peer) = pair(&mut engine);
    std::io::Write::write_all(&mut peer, b"works").unwrap();
    let mut handler = Recorder::default();
    turn_until(&mut engine, &mut handler, "it works", |handler, _| handler.bytes(key) == b"works");
}

/// Installs a filter that answers io_uring_setup with EPERM, for this process and for good.
fn forbid_io_uring() {
    let op = |code: u32, k: u32, jt: u8, jf: u8| libc::sock_filter {
        code: u16::try_from(code).unwrap(),
        jt,
        jf,
        k,
    };
    let number = u32::try_from(libc::SYS_io_uring_setup).unwrap();
    let eperm = u32::try_from(libc::EPERM).unwrap();
    let mut filter = [
        // The system call's number stands first in what the filter sees.
        op(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        op(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, number, 0, 1),
        op(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ERRNO | eperm, 0, 0),
        op(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW, 0, 0),
    ];
    let program = libc::sock_fprog { len: 4, filter: filter.as_mut_ptr() };
    // SAFETY: the program and its filter are read during the call only.
    let installed = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
            && libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) == 0
    };
    assert!(installed, "{}", std::io::Error::last_os_error());
}

#[test]
fn handles_of_two_engines_cannot_be_mixed_up() {
    let mut one = Engine::open(Choice::Auto, &Setup::default()).unwrap();
    let mut other = Engine::open(Choice::Auto, &Setup::default()).unwrap();
    std::mem::swap(one.io(), other.io());
    let turned = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        one.turn(Some(0), &mut Recorder::default())
    }));
    assert!(turned.is_err());
}

#[test]
fn names_of_engines_are_read_and_written_alike() {
    for choice in [Choice::Auto, Choice::Full, Choice::Reduced, Choice::Epoll] {
        assert_eq!(choice.to_string().parse(), Ok(choice));
    }
    let error = "fast".parse::<Choice>().unwrap_err().to_string();
    assert_eq!(error, "there is no engine \"fast\"; there are auto full reduced epoll");
}

#[test]
fn sizes_that_cannot_work_are_refused_with_the_reason() {
    let refused = |setup: Setup| {
        let error = Engine::open(Choice::Auto, &setup).err().expect("it cannot work");
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
        error.to_string()
    };
    let said = refused(Setup { buffers: 3, ..Setup::default() });
    assert!(said.starts_with("3 receive buffers of 16384 bytes: "), "{said}");
    let said = refused(Setup { large_buffer_bytes: 0, ..Setup::default() });
    assert!(said.starts_with("8 large receive buffers of 0 bytes: "), "{said}");
    let said = refused(Setup { submissions: 4, ..Setup::default() });
    assert!(said.starts_with("4 submissions "), "{said}");
}
