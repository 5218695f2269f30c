//! The bounds of the shell, and how they hang together.

pub(crate) mod control;
pub(crate) mod peer;
pub(crate) mod postgres;
pub(crate) mod probe;
pub(crate) mod steer;

use std::time::Duration;

use pgx_control::limits::ADMIN_CLIENT_MS_MAX;

/// How long a connect to one backend may take. A backend on the same network answers in less than
/// a millisecond; this is for one whose host is gone and sends no reset.
pub(crate) const CONNECT_MAX: Duration = Duration::from_secs(5);

/// How long a client may take to send its start-up packet when we have to answer it ourselves.
pub(crate) const STARTUP_MAX: Duration = Duration::from_secs(10);

/// How long sessions may go on after a request to stop, or when another process has taken over,
/// unless the configuration says otherwise: service managers kill after 90 seconds.
pub(crate) const DRAIN_SECONDS: u32 = 60;

/// How long clients are told that their sessions end.
pub(crate) const FAREWELL_MAX: Duration = Duration::from_secs(1);

/// How long each step of handing over may take that needs no preparation.
pub(crate) const HAND_OVER_STEP_MAX: Duration = Duration::from_secs(10);

/// How long a process that takes over may prepare itself, while the old one serves.
pub(crate) const TAKE_OVER_MAX: Duration = Duration::from_secs(60);

/// How long after its connections a process may end.
pub(crate) const PROCESS_END_MAX: Duration = Duration::from_secs(2);

/// Descriptors that go in one message; the kernel takes 253.
pub(crate) const HANDED_AT_ONCE: usize = 64;

/// A line between two processes of which one takes over: a request with the longest of keys fits.
pub(crate) const HAND_OVER_LINE_BYTES_MAX: usize = 4096;

/// How long accepting pauses after an error such as too many open files: long enough not to spin,
/// short enough that no client notices.
pub(crate) const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How long an address may be in use before a start fails. When a process is killed, the kernel
/// lets go of what its io_uring had open some time after the process is gone, mostly milliseconds.
pub(crate) const BIND_WAIT: Duration = Duration::from_secs(2);

/// How long a lock may be held before a start fails: that of a process that was killed goes when
/// the last of its threads has left the kernel.
pub(crate) const CLAIM_WAIT: Duration = Duration::from_secs(1);

/// How often both are tried meanwhile.
pub(crate) const BIND_PAUSE: Duration = Duration::from_millis(10);

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

/// How long one period of the console's averages is, as by default in PgBouncer.
pub(crate) const STATS_PERIOD: Duration = Duration::from_secs(60);

/// Bytes of an answer to one flight behind which nothing more of it is answered: a table of 65,536
/// clients is about as large.
pub(crate) const CONSOLE_ANSWER_BYTES_MAX: usize = 16 << 20;

/// Statements and portals that a client of the console may have.
pub(crate) const CONSOLE_STATEMENTS_MAX: usize = 256;

/// How often a lock file is opened anew because who had it has just removed it.
pub(crate) const CLAIM_TRIES_MAX: usize = 16;

/// How much of a lock file is read; PostgreSQL's have eight short lines.
pub(crate) const LOCK_FILE_BYTES_MAX: u64 = 4096;

/// Clients of HTTP at once: load balancers ask often, and briefly.
pub(crate) const HTTP_CLIENTS_MAX: usize = 64;

/// How long one may take, its handshake included: longer than what is asked of the cluster takes.
pub(crate) const HTTP_CLIENT_MAX: Duration = Duration::from_secs(15);

/// Bytes of the head of a request: the least that the library takes, and more than one has.
pub(crate) const HTTP_HEAD_BYTES_MAX: usize = 8 << 10;

const _: () = assert!((ADMIN_CLIENT_MS_MAX as u128) < HTTP_CLIENT_MAX.as_millis());

/// Scrapes of metrics at once: a pair of Prometheus servers and a person or two.
pub(crate) const METRICS_CLIENTS_MAX: usize = 4;

/// How long one may take, its request and the reading of the answer included: half as long as
/// Prometheus waits unless told otherwise.
pub(crate) const METRICS_CLIENT_MAX: Duration = Duration::from_secs(5);

/// Bytes of its request: the least that the library takes, and much more than one has.
pub(crate) const METRICS_REQUEST_BYTES_MAX: usize = 8 << 10;

const _: () = assert!(VIEW_WAIT.as_millis() < METRICS_CLIENT_MAX.as_millis());

/// Lines that one place in the code may log at once.
pub(crate) const LOG_BURST: u32 = 100;

/// How long it takes until it may log one more.
pub(crate) const LOG_EACH: Duration = Duration::from_millis(100);

/// How often it is told what was left out.
pub(crate) const LOG_TOLD_EVERY: Duration = Duration::from_secs(10);

const _: () = assert!(CONNECT_TRIES_MAX > 0);
const _: () = assert!(FAREWELL_MAX.as_millis() > 2 * TICK.as_millis());
const _: () = assert!(HANDED_AT_ONCE <= 253);
const _: () = assert!(PAUSE_WAIT.as_millis() < pgx_control::limits::ADMIN_CLIENT_MS_MAX as u128);
