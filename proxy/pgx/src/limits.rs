//! The bounds of the shell, and how they hang together.

pub(crate) mod control;
pub(crate) mod peer;
pub(crate) mod probe;

use std::time::Duration;

/// How long a connect to one backend may take. A backend on the same network answers in less than
/// a millisecond; this is for one whose host is gone and sends no reset.
pub(crate) const CONNECT_MAX: Duration = Duration::from_secs(5);

/// How long a client may take to send its start-up packet when we have to answer it ourselves.
pub(crate) const STARTUP_MAX: Duration = Duration::from_secs(10);

/// How long sessions may go on after a request to stop.
pub(crate) const DRAIN_MAX: Duration = Duration::from_secs(10);

/// How long accepting pauses after an error such as too many open files: long enough not to spin,
/// short enough that no client notices.
pub(crate) const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Connections that wait to be accepted; a burst of clients at a failover fits.
pub(crate) const LISTEN_BACKLOG: i32 = 4096;

/// Backends tried for one client before it is told that none can be reached.
pub(crate) const CONNECT_TRIES_MAX: usize = 3;

/// How often each place of the fence is tried out by a packet when nothing else happens: soon
/// enough to notice a hook that somebody emptied, at a cost that does not show.
pub(crate) const FENCE_TRIAL: Duration = Duration::from_secs(1);

/// How often a proxy thread looks at limits on time: a limit is kept to this.
pub(crate) const TICK: Duration = Duration::from_millis(100);

/// Threads that may serve clients: their numbers are a part of the keys by which clients cancel.
pub(crate) const THREADS_MAX: usize = 127;

/// What logins may cost at once on a proxy thread, in nanoseconds, before those who are in come
/// again: some five steps of a login by SCRAM. A handshake of TLS takes more, but is not divided.
pub(crate) const LOBBY_BURST_NS: u64 = 100_000;

/// Which part of a thread's time logins get while others wait to log in: the fourth, which is some
/// five thousand logins in a second, or some hundreds with handshakes of TLS. The rest is for
/// queries, and for the servers where there are few processors.
pub(crate) const LOBBY_SHARE: u64 = 4;

/// What one step of a login costs beside the time that it takes here, in nanoseconds: the kernel
/// accepts it, or sends its answer, when the turn is over.
pub(crate) const LOBBY_STEP_NS: u64 = 10_000;

/// Bytes that a client may say before it is in while it waits for its turn; whoever says more is
/// heard at once. No login has so many.
pub(crate) const LOBBY_BYTES_MAX: usize = 32 << 10;

/// How often names of backends are looked up again.
pub(crate) const NAMES_PAUSE: Duration = Duration::from_secs(15);

/// Sockets of one proxy thread: as many as a ring's table of files may have.
pub(crate) const SOCKETS_MAX: u32 = 1 << 20;

/// Files that a proxy thread has open beside its sockets: its ring or epoll, what wakes it, timers.
pub(crate) const DESCRIPTORS_OF_THREAD: u64 = 8;

/// Files that the process has open beside its proxy: the admin socket and its clients, links to
/// other nodes, logs, BPF programs and maps.
pub(crate) const DESCRIPTORS_SPARE: u64 = 128;

/// How long an operator who pauses a database is kept until its last server is closed; then it is
/// said how many are left.
pub(crate) const PAUSE_WAIT: Duration = Duration::from_secs(5);

/// How long whoever asks all threads for what they know waits for the slowest of them: a turn of an
/// engine takes less than a millisecond, unless the machine is overloaded.
pub(crate) const VIEW_WAIT: Duration = Duration::from_secs(1);

const _: () = assert!(CONNECT_TRIES_MAX > 0);
const _: () = assert!(PAUSE_WAIT.as_millis() < pgx_control::limits::ADMIN_CLIENT_MS_MAX as u128);
