//! Mode `command`: a program of the operator's is called, and whatever it does stalls nobody.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use pgx_vip::{Holder, Lease, LeaseId, LeaseStatus, Mode, Program, Role, Settings, boot_ns};

const PATIENCE: Duration = Duration::from_secs(10);
const MS: u64 = 1_000_000;

/// Logs its calls; for the read-only address it never ends, nor do its children.
const PROGRAM: &str = r#"#!/bin/sh
echo "$1 $2 $3 $4 $PGX_VIP_LEASE $PGX_VIP_ROLE" >> "$0.log"
if [ "$1 $PGX_VIP_ROLE" = "take read-only" ]; then
    sleep 600 &
    echo $! > "$0.child"
    wait
fi
"#;

fn wait_for(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} in vain: {what}");
        std::thread::yield_now();
    }
}

fn holder(program: &Path, limit: Duration) -> Holder {
    std::fs::write(program, PROGRAM).unwrap();
    std::fs::set_permissions(program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let lease = |id, role, addresses: &[&str]| Lease {
        id: LeaseId(id),
        role,
        addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
    };
    let settings = Settings {
        interface: "eth9".to_owned(),
        mode: Mode::Command,
        program: Some(Program { path: program.to_owned(), limit }),
        leases: vec![
            lease(1, Role::ReadWrite, &["192.0.2.1", "fd00::1"]),
            lease(2, Role::ReadOnly, &["192.0.2.2"]),
        ],
        record: program.with_extension("json"),
    };
    Holder::start(&settings, None).unwrap()
}

fn log(program: &Path) -> String {
    std::fs::read_to_string(program.with_extension("log")).unwrap_or_default()
}

fn status(holder: &Holder, id: u32) -> LeaseStatus {
    holder.status().into_iter().find(|status| status.id == LeaseId(id)).unwrap()
}

fn is_alive(process: &str) -> bool {
    // One that has ended and is not yet reaped has no command line any more.
    std::fs::read(format!("/proc/{}/cmdline", process.trim())).is_ok_and(|line| !line.is_empty())
}

#[test]
fn program_takes_and_releases_and_one_that_hangs_is_killed_with_its_children() {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("move");
    let holder = holder(&program, Duration::from_millis(400));
    // What an unclean stop may have left is let go first.
    wait_for("both were released", || log(&program).matches("release").count() == 2);

    let start = Instant::now();
    let until_ns = boot_ns() + 1_500 * MS;
    holder.hold(LeaseId(2), 7, until_ns).unwrap();
    wait_for("the program hangs", || program.with_extension("child").exists());
    holder.hold(LeaseId(1), 7, until_ns).unwrap();
    wait_for("the other lease is taken", || status(&holder, 1).is_taken);
    assert!(log(&program).contains("take eth9 192.0.2.1 fd00::1 1 read-write\n"));

    wait_for("the one that hangs is killed", || {
        status(&holder, 2).last_error.contains("took too long and was killed")
            || log(&program).matches("release eth9 192.0.2.2").count() >= 2
    });
    assert!(start.elapsed() >= Duration::from_millis(350), "killed early");
    let child = std::fs::read_to_string(program.with_extension("child")).unwrap();
    wait_for("its child is gone", || !is_alive(&child));
    wait_for("what it may have done is undone", || {
        log(&program).matches("release eth9 192.0.2.2").count() >= 2
    });

    wait_for("the lease has ended", || boot_ns() >= until_ns);
    wait_for("released at its end", || {
        log(&program).matches("release eth9 192.0.2.1 fd00::1").count() == 2
    });
    wait_for("and known to be", || !status(&holder, 1).is_taken);
}

#[test]
fn lease_that_is_given_back_ends_the_program_that_still_takes_it() {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("move");
    let holder = holder(&program, Duration::from_secs(600));
    holder.hold(LeaseId(2), 1, boot_ns() + 600_000 * MS).unwrap();
    wait_for("the program hangs", || program.with_extension("child").exists());
    holder.release(LeaseId(2), 1).unwrap();
    wait_for("released", || log(&program).matches("release eth9 192.0.2.2").count() >= 2);
    assert!(holder.hold(LeaseId(2), 1, boot_ns() + 600_000 * MS).is_err());
    let start = Instant::now();
    drop(holder);
    assert!(start.elapsed() < PATIENCE, "the end takes {:?}", start.elapsed());
}
