//! The bounds of what pgx does to the local PostgreSQL, and how they hang together.

use std::time::Duration;

/// How long a server may take until it has its sockets and begins to recover.
pub(crate) const START_MAX: Duration = Duration::from_secs(30);

/// How long the children of a server that is ended at once may take by themselves, before each of
/// them is killed. A backend in a system call to a slow disk takes longer, and needs the kill.
pub(crate) const QUIT_GRACE: Duration = Duration::from_millis(100);

/// How long killed processes may take to be gone; one that waits for a dead disk stays.
pub(crate) const KILL_MAX: Duration = Duration::from_secs(10);

/// How long an end in order may take: its checkpoint, and standbys that receive it.
pub(crate) const SHUTDOWN_MAX: Duration = Duration::from_secs(300);

/// How long a WAL receiver may take to end after its server was told of no upstream, before it is
/// told itself: what replays may be held up, and not pass on what it is told.
pub(crate) const RECEIVER_GRACE: Duration = Duration::from_millis(500);

/// How long it may take in all; then the whole server is ended, which receives nothing either.
pub(crate) const DETACH_MAX: Duration = Duration::from_secs(3);

/// How long recovery may take to end after a promotion, replay of what is left included.
pub(crate) const PROMOTE_MAX: Duration = Duration::from_secs(60);

/// How long one query of the agent's own may take, also on the server's side.
pub(crate) const QUERY_MAX: Duration = Duration::from_secs(2);

/// How often it is asked whether what takes long is still wanted.
pub(crate) const WATCH_EVERY: Duration = Duration::from_millis(50);

/// How long the checkpoint before a switchover may take.
pub(crate) const CHECKPOINT_MAX: Duration = Duration::from_secs(600);

/// How long one look waits for processes to show that they have read a new configuration; the next
/// look goes on with it.
pub(crate) const PROOF_MAX: Duration = Duration::from_millis(150);

/// How long a standby must have needed the same piece of log before its upstream is asked whether
/// it still has it, and between two such questions.
pub(crate) const STUCK_MIN: Duration = Duration::from_secs(3);

/// Between two tries while something is waited for that tells nobody when it happens.
pub(crate) const PAUSE: Duration = Duration::from_millis(2);

/// How long a small program may take: `postgres -C`, `pg_controldata`.
pub(crate) const PROGRAM_MAX: Duration = Duration::from_secs(20);

/// How long rewinding, cloning or the recovery before it may take: a day of copying, after which
/// somebody should look.
pub(crate) const REBUILD_MAX: Duration = Duration::from_secs(24 * 3600);

/// How long the server that is copied from may take to accept a connection, when it is asked
/// whether a copy broke because of it.
pub(crate) const SOURCE_MAX: Duration = Duration::from_secs(3);

/// How much of a segment may be received anew after a switchover: less than what another segment
/// costs.
pub(crate) const AGAIN_BYTES_MAX: u64 = 1 << 20;

/// A disk with less space than that is called full when a copy broke: the size of a WAL segment.
pub(crate) const FULL_BELOW_BYTES: u64 = 16 << 20;

/// Operators are told of a disk with less space than that: a few segments.
pub(crate) const SCARCE_BELOW_BYTES: u64 = 128 << 20;

/// How much of what a program has said goes into an error.
pub(crate) const SAID_BYTES_MAX: usize = 2048;

/// How long `server.log` may become before it is put aside, and how many of those are kept: 128 MiB
/// in all.
pub(crate) const SERVER_LOG_BYTES_MAX: u64 = 32 << 20;
pub(crate) const SERVER_LOGS_MAX: u32 = 3;

/// How soon a standby tries its upstream again. Members that follow a new primary meet a closed
/// gate until it holds its lease, and commits wait for them then; each try costs a process and some
/// lines of the log, also where there is nobody to follow for hours.
pub(crate) const RETRIEVE_RETRY_MS: u64 = 200;

/// How often a standby that has just lost its upstream, or got another, is made to try it sooner
/// than that, and how many times: for about as long as a promotion takes.
pub(crate) const NUDGE_EVERY: Duration = Duration::from_millis(30);
pub(crate) const NUDGES_MAX: u32 = 60;

/// How often a silent TCP connection is tried before it counts as dead, and how long it may be
/// silent before that and between tries, in seconds: a standby's to its upstream; and a session's
/// to its client, as nobody else tells PostgreSQL that a proxy's host is gone, and what its
/// transactions have locked stays locked until then.
pub(crate) const KEEPALIVES: (u32, u32) = (3, 5);

const _: () = assert!(RECEIVER_GRACE.as_millis() < DETACH_MAX.as_millis());
const _: () = assert!(QUIT_GRACE.as_millis() < KILL_MAX.as_millis());
