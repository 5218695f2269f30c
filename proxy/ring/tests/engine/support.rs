//! What the tests of the engine share: a handler that records, waits with a deadline, and a macro
//! that runs each test on every driver.

#![allow(clippy::too_many_lines, reason = "a test tells its story in one place")]

use std::collections::HashMap;
use std::io::{self, ErrorKind};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use pgx_ring::{Choice, Driven, End, Engine, Handler, Io, Key, Received, Setup, now_ns};

/// How long anything may take before the test has failed.
pub(crate) const WAIT_MAX: Duration = Duration::from_secs(60);

/// Makes a test for each driver out of a function that takes the choice.
#[macro_export]
macro_rules! on_every_engine {
    ($($name:ident),* $(,)?) => {
        mod full { $( #[test] fn $name() { super::$name(pgx_ring::Choice::Full); } )* }
        mod reduced { $( #[test] fn $name() { super::$name(pgx_ring::Choice::Reduced); } )* }
        mod epoll { $( #[test] fn $name() { super::$name(pgx_ring::Choice::Epoll); } )* }
    };
}

/// Opens an engine; `None`, with a word on standard error, where this machine has no such one.
pub(crate) fn open_with(choice: Choice, setup: &Setup) -> Option<Engine> {
    match Engine::open(choice, setup) {
        Ok(engine) => {
            let is_as_asked = match choice {
                Choice::Auto => true,
                Choice::Full => engine.found().driver == Driven::Full,
                Choice::Reduced => engine.found().driver == Driven::Reduced,
                Choice::Epoll => engine.found().driver == Driven::Epoll,
            };
            assert!(is_as_asked, "asked for {choice}, got {}", engine.found());
            Some(engine)
        }
        // What the kernel says where it has no io_uring, or is not to be used for it; one that can
        // be opened and then does not pass its first exchange is broken.
        Err(error)
            if choice != Choice::Epoll
                && matches!(
                    error.kind(),
                    ErrorKind::Unsupported | ErrorKind::PermissionDenied | ErrorKind::InvalidInput
                ) =>
        {
            eprintln!("SKIPPED: {error}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

pub(crate) fn open(choice: Choice) -> Option<Engine> {
    open_with(choice, &Setup::default())
}

type OnReceived = Box<dyn FnMut(&mut Io, Key, &Received<'_>)>;

/// Records what it is told, and does to what arrives what the test says.
#[derive(Default)]
pub(crate) struct Recorder {
    pub(crate) accepted: Vec<Key>,
    pub(crate) connected: Vec<(Key, io::Result<()>)>,
    pub(crate) received: HashMap<Key, Vec<u8>>,
    pub(crate) ended: Vec<(Key, End)>,
    pub(crate) drained: Vec<Key>,
    pub(crate) taken: Vec<(Key, OwnedFd)>,
    pub(crate) woken: usize,
    /// Instead of keeping what arrives.
    pub(crate) on_received: Option<OnReceived>,
    /// Echoes what arrives, and finishes on the end.
    pub(crate) echoes: bool,
}

impl Recorder {
    pub(crate) fn bytes(&self, key: Key) -> &[u8] {
        self.received.get(&key).map_or(&[], |bytes| bytes)
    }

    pub(crate) fn has_ended(&self, key: Key) -> bool {
        self.ended.iter().any(|(ended, _)| *ended == key)
    }
}

impl Handler for Recorder {
    fn accepted(&mut self, _: &mut Io, _: Key, socket: Key) {
        self.accepted.push(socket);
    }

    fn connected(&mut self, _: &mut Io, socket: Key, result: io::Result<()>) {
        self.connected.push((socket, result));
    }

    fn received(&mut self, io: &mut Io, socket: Key, data: &Received<'_>) {
        assert!(!data.is_empty());
        assert!(!self.has_ended(socket), "data after the end");
        if self.echoes {
            io.forward(socket, data, 0..data.len());
        } else if let Some(act) = &mut self.on_received {
            act(io, socket, data);
        } else {
            self.received.entry(socket).or_default().extend_from_slice(data);
        }
    }

    fn ended(&mut self, io: &mut Io, socket: Key, end: End) {
        if self.echoes {
            io.finish(socket);
        }
        self.ended.push((socket, end));
    }

    fn drained(&mut self, _: &mut Io, socket: Key) {
        self.drained.push(socket);
    }

    fn taken(&mut self, _: &mut Io, socket: Key, fd: OwnedFd) {
        self.taken.push((socket, fd));
    }

    fn woken(&mut self, _: &mut Io) {
        self.woken += 1;
    }
}

/// Runs the rest of a test in a process of its own, as what it looks at or changes is the whole
/// process's: true in that process, and false, once that has passed, in the one of all tests.
pub(crate) fn is_alone() -> bool {
    const ALONE: &str = "PGX_RING_TEST_ALONE";
    if std::env::var_os(ALONE).is_some() {
        return true;
    }
    let thread = std::thread::current();
    let test = thread.name().expect("a test's thread has its name");
    let mut child = std::process::Command::new(std::env::current_exe().expect("we run"));
    child.args(["--exact", "--nocapture", test]).env(ALONE, "1");
    let output = child.output().expect("the tests can be run again");
    let said = String::from_utf8_lossy(&output.stdout);
    let complained = String::from_utf8_lossy(&output.stderr);
    eprintln!("{complained}");
    assert!(output.status.success() && said.contains("1 passed"), "{said}{complained}");
    false
}

/// Turns the engine until the condition holds.
pub(crate) fn turn_until<H: Handler>(
    engine: &mut Engine,
    handler: &mut H,
    what: &str,
    mut holds: impl FnMut(&mut H, &mut Io) -> bool,
) {
    let start = Instant::now();
    while !holds(handler, engine.io()) {
        assert!(start.elapsed() < WAIT_MAX, "not within {WAIT_MAX:?}: {what}");
        engine.turn(Some(now_ns() + 20_000_000), handler).expect("the engine turns");
    }
}

/// Turns that do not wait, for what must not happen.
pub(crate) fn turn_times<H: Handler>(engine: &mut Engine, handler: &mut H, times: usize) {
    for _ in 0..times {
        engine.turn(Some(now_ns() + 1_000_000), handler).expect("the engine turns");
    }
}

/// A Unix socket pair: ours is in the engine, theirs is in blocking mode.
pub(crate) fn pair(engine: &mut Engine) -> (Key, UnixStream) {
    let (ours, theirs) = UnixStream::pair().expect("a socket pair");
    let key = engine.io().adopt(ours.into()).expect("a slot");
    theirs.set_read_timeout(Some(WAIT_MAX)).expect("a time-out");
    theirs.set_write_timeout(Some(WAIT_MAX)).expect("a time-out");
    (key, theirs)
}

/// A TCP connection over loopback, as [`pair`].
pub(crate) fn tcp_pair(engine: &mut Engine) -> (Key, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let theirs = TcpStream::connect(listener.local_addr().expect("bound")).expect("connects");
    let ours = listener.accept().expect("accepts").0;
    let key = engine.io().adopt(ours.into()).expect("a slot");
    theirs.set_read_timeout(Some(WAIT_MAX)).expect("a time-out");
    theirs.set_write_timeout(Some(WAIT_MAX)).expect("a time-out");
    (key, theirs)
}

/// Bytes in which a lost, doubled or swapped piece shows.
pub(crate) fn pattern(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// Resident memory of this process.
pub(crate) fn resident_bytes() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").expect("proc is mounted");
    let pages = text.split_whitespace().nth(1).and_then(|pages| pages.parse::<usize>().ok());
    pages.expect("statm has its resident pages") * 4096
}

/// Lets this process have as many descriptors as it may.
pub(crate) fn raise_descriptors() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).expect("the soft limit can be raised");
}
