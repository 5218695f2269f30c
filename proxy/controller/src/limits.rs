//! The bounds of a node's part in the control plane.

/// Proposals of this node, as coordinator, whose outcome is open.
pub const PROPOSALS_OPEN_MAX: usize = 64;

/// Operators' requests of this node whose outcome is open.
pub const REQUESTS_OPEN_MAX: usize = 32;

/// How often a node says what it knows when nothing has changed, in milliseconds. Three of them fit
/// into the shortest silence of the default policy.
pub const FACTS_EVERY_MS: u64 = 400;

/// How long after the last facts news wait at least, in milliseconds, so that a storm of changes
/// makes no storm of messages.
pub const NEWS_EVERY_MS: u64 = 10;

/// How long an operator's request waits for its outcome, in milliseconds.
pub const REQUEST_MS_MAX: u64 = 5_000;

/// Longest message of facts, requests and answers, in bytes.
pub const MESSAGE_BYTES_MAX: usize = 64 * 1024;

const _: () = assert!(NEWS_EVERY_MS < FACTS_EVERY_MS);
const _: () = assert!(PROPOSALS_OPEN_MAX <= pgx_quorum::limits::PROPOSALS_PENDING_MAX);
const _: () = assert!(MESSAGE_BYTES_MAX <= pgx_quorum::limits::PROPOSAL_BYTES_MAX);

/// How far ahead operators may plan a switchover, in milliseconds: a year.
pub const SCHEDULE_MS_MAX: u64 = 366 * 24 * 3_600_000;
