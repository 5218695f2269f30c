//! The bounds of the quorum, and how they hang together. Every queue, message and log has one.

/// How many ticks pass between two heartbeats of the coordinator.
pub const HEARTBEAT_TICKS: usize = 2;

/// Fewest ticks without a word from the coordinator before a voter asks for an election. Also how
/// long a coordinator goes on that hears from no majority.
pub const ELECTION_TICKS_MIN: usize = 6;

/// One more than the most ticks before that; the spread keeps voters from asking at once. With a
/// tick of 25 ms a dead coordinator is missed after 150 to 275 ms.
pub const ELECTION_TICKS_MAX: usize = 12;

/// After how many ticks a snapshot that got no answer is sent again.
pub const SNAPSHOT_RETRY_TICKS: u64 = 24;

/// Longest message between two nodes in bytes, with its envelope.
pub const MESSAGE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Longest proposal in bytes; decisions about a cluster are small.
pub const PROPOSAL_BYTES_MAX: usize = 64 * 1024;

/// How many bytes of entries one message carries; a single longer entry would still go alone.
pub const APPEND_BYTES_MAX: usize = 1024 * 1024;

/// Messages with entries that may be under way to one peer; each costs at most
/// [`APPEND_BYTES_MAX`] in the driver's queue.
pub const APPENDS_IN_FLIGHT_MAX: usize = 16;

/// Longest state of the driver's machine in a snapshot. It goes in one message, so that there is
/// no half of a snapshot to deal with.
pub const SNAPSHOT_BYTES_MAX: usize = 1024 * 1024;

/// Bytes of proposals that may wait for a majority; more are refused as busy.
pub const UNCOMMITTED_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Bytes of committed entries that are handed out before the engine looks at its inputs again.
pub const APPLY_BYTES_MAX: usize = 1024 * 1024;

/// Proposals of this node whose fate is open.
pub const PROPOSALS_PENDING_MAX: usize = 256;

/// Entries since the last snapshot after which the driver is asked for one.
pub const LOG_ENTRIES_SNAPSHOT: u64 = 1024;

/// Entries before a snapshot that stay, so that a peer a little behind needs no snapshot.
pub const LOG_ENTRIES_TRAILING: u64 = 256;

/// Entries in the log, at which the coordinator takes no more proposals.
pub const LOG_ENTRIES_MAX: u64 = 4096;

/// Bytes in the log after which the driver is asked for a snapshot. The log is also in memory.
pub const LOG_BYTES_SNAPSHOT: usize = 8 * 1024 * 1024;

/// Bytes in the log, at which the coordinator takes no more proposals.
pub const LOG_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Voters and learners together.
pub const MEMBERS_MAX: usize = 15;

/// Actions that may wait for the driver, who is to fetch them all after each input.
pub const ACTIONS_MAX: usize = 4096;

/// How many entries a learner may lack and still be promoted.
pub const CAUGHT_UP_ENTRIES_MAX: u64 = 64;

/// Highest term that is believed. At a thousand elections a second it is reached after centuries;
/// a peer that names a higher one is broken, and would end elections for good.
pub const TERM_MAX: u64 = 1 << 48;

/// Memory for pages of the file; the log itself is mirrored in memory and read only at the start.
pub const STORE_CACHE_BYTES: usize = 4 * 1024 * 1024;

/// What an entry costs beside its data: term, index, proposal's number, and the codec's tags.
const ENTRY_OVERHEAD_BYTES: usize = 64;

const _: () = assert!(HEARTBEAT_TICKS * 3 <= ELECTION_TICKS_MIN, "two heartbeats may be lost");
const _: () = assert!(ELECTION_TICKS_MIN < ELECTION_TICKS_MAX);
const _: () = assert!(SNAPSHOT_RETRY_TICKS > ELECTION_TICKS_MAX as u64);
const _: () = assert!(PROPOSAL_BYTES_MAX + ENTRY_OVERHEAD_BYTES <= APPEND_BYTES_MAX);
const _: () = assert!(2 * APPEND_BYTES_MAX <= MESSAGE_BYTES_MAX);
const _: () = assert!(2 * SNAPSHOT_BYTES_MAX <= MESSAGE_BYTES_MAX);
const _: () = assert!(PROPOSAL_BYTES_MAX * 2 <= UNCOMMITTED_BYTES_MAX);
const _: () = assert!(APPEND_BYTES_MAX <= UNCOMMITTED_BYTES_MAX);
const _: () = assert!(LOG_ENTRIES_TRAILING < LOG_ENTRIES_SNAPSHOT);
const _: () = assert!(2 * LOG_ENTRIES_SNAPSHOT <= LOG_ENTRIES_MAX);
const _: () = assert!(2 * LOG_BYTES_SNAPSHOT <= LOG_BYTES_MAX);
const _: () = assert!(UNCOMMITTED_BYTES_MAX <= LOG_BYTES_MAX);
const _: () = assert!(CAUGHT_UP_ENTRIES_MAX < LOG_ENTRIES_TRAILING);
