//! The bounds of the control plane's threads, and how they hang together.

use std::time::Duration;

/// One tick of the engine.
pub(crate) const TICK: Duration = Duration::from_millis(25);

/// Ticks between two looks at who has left the log.
pub(crate) const REACH_TICKS: u64 = 40;

/// How many ticks pass between two looks at this host's links and disks, for operators: as often as
/// facts are said.
pub(crate) const HOST_TICKS: u64 = 16;

/// Inputs that wait for the controller; what comes while they wait is dropped, and Raft repeats it.
pub(crate) const INBOX_MAX: usize = 1024;

/// Inputs that it takes before it looks at the clock again.
pub(crate) const INPUTS_PER_ROUND_MAX: usize = 64;

/// Messages that wait for the thread that renews leases; holders repeat what is dropped.
pub(crate) const LEASE_INBOX_MAX: usize = 1024;

/// The longest that thread sleeps: also its bound when there is nothing to renew.
pub(crate) const LEASE_IDLE_MAX: Duration = Duration::from_secs(1);

/// How often a file that could not be opened or written is tried again.
pub(crate) const DISK_RETRY: Duration = Duration::from_secs(1);

/// How long the admin socket waits for the outcome of a request.
pub(crate) const ANSWER_MAX: Duration = Duration::from_millis(7_000);

/// How long the admin socket waits for the controller's view.
pub(crate) const STATUS_MAX: Duration = Duration::from_secs(2);

/// Bytes after which a file of events is put aside; one is kept beside the newest.
pub(crate) const EVENTS_BYTES_MAX: u64 = 1024 * 1024;

/// Reports of changes of primary that are kept.
pub(crate) const REPORTS_MAX: usize = 200;

/// Events or reports that a reply names at most.
pub(crate) const TOLD_MAX: usize = 1_000;

/// How long a status waits for what the coordinator says of the cluster.
pub(crate) const SURVEY_MAX: Duration = Duration::from_millis(500);

/// Operators' requests that wait for another node's answer.
pub(crate) const FORWARDED_MAX: usize = 32;

/// How long such a request waits.
pub(crate) const FORWARDED_MS_MAX: u64 = pgx_controller::limits::REQUEST_MS_MAX + 1_000;

/// How long a process that ends waits until its addresses may be another's; how often it looks.
pub(crate) const LEAVE_MAX: Duration = Duration::from_secs(1);
pub(crate) const LEAVE_PAUSE: Duration = Duration::from_millis(10);

/// How long the other hosts have to hear that this one gets no new clients, before it refuses them.
pub(crate) const LEAVE_GRACE: Duration = Duration::from_millis(100);

/// How long addresses may be off loopback before this host says that it does not share clients: a
/// change of them that failed is tried again sooner.
pub(crate) const SHARE_PATIENCE: Duration = Duration::from_secs(2);

/// How often PostgreSQL is looked at when nothing has changed.
pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(250);

/// How often it is looked at while something is waited for: a failover, or a standby to stream.
pub(crate) const LOOK_CLOSELY_EVERY: Duration = Duration::from_millis(10);

/// How often it is looked at then while it answers with errors, each of which it logs.
pub(crate) const LOOK_REFUSED_EVERY: Duration = Duration::from_millis(50);

/// How soon what failed is tried again; each time it takes twice as long, up to the other.
pub(crate) const TRY_AGAIN: (Duration, Duration) =
    (Duration::from_millis(500), Duration::from_secs(10));

/// How long a directory that commits may depend on has to be missed before it is cloned from a
/// primary that goes on without it: its disk may be mounted yet.
pub(crate) const MISSED_MIN: Duration = Duration::from_secs(15);

/// How often the addresses of members are looked up that are let in while PostgreSQL is open to
/// members only.
pub(crate) const MEMBERS_EVERY: Duration = Duration::from_secs(30);

/// How often it is looked for connections that the host of a lost node has left to PostgreSQL here.
pub(crate) const LEFT_EVERY: Duration = Duration::from_secs(1);

/// For how long after a node was lost. Who has let a window shut for long is asked for room every
/// two minutes only, and is to leave that unanswered twice. Idle ones are asked for signs of life
/// all the time, and end by that.
pub(crate) const LEFT_FOR: Duration = Duration::from_secs(300);

/// How often slots are seen to, and what was put aside.
pub(crate) const TEND_EVERY: Duration = Duration::from_secs(5);

/// How often it is looked at whether archiving works; each time costs a session here, and one at
/// the primary.
pub(crate) const ARCHIVE_EVERY: Duration = Duration::from_secs(60);

/// How often it is logged how far a copy is.
pub(crate) const PROGRESS_EVERY: Duration = Duration::from_secs(10);

const _: () = assert!((FORWARDED_MS_MAX as u128) < ANSWER_MAX.as_millis());
const _: () = assert!(
    ANSWER_MAX.as_millis() + STATUS_MAX.as_millis()
        < pgx_control::limits::ADMIN_CLIENT_MS_MAX as u128
);

/// How long the threads of the proxy may take to follow the cluster before this node says nothing
/// of it: a turn of an engine takes less than a millisecond.
pub(crate) const FOLLOW_MAX: Duration = Duration::from_secs(1);

/// How often it is looked whether the proxy may route, beside each change of the state.
pub(crate) const ROUTES_EVERY: Duration = Duration::from_millis(50);
