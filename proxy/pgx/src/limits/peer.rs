//! The bounds of links between nodes, and how they hang together.
//!
//! What they hang on is the lease: 2 s long, renewed each 400 ms. A dead peer must be noticed, and
//! a returned one be found again, within that scale.

use std::time::Duration;

/// Nodes that one node may have as peers; each costs four connections and the queues below.
pub(crate) const PEERS_MAX: usize = 32;

/// How long a connect to a peer may take before the next try.
pub(crate) const DIAL_MAX: Duration = Duration::from_secs(2);

/// How long TLS handshake and hello may take together, on either side.
pub(crate) const HANDSHAKE_MAX: Duration = Duration::from_secs(5);

/// Handshakes at once. One more cuts the oldest: a real peer is through in milliseconds, so whoever
/// holds the oldest place is idle. Each costs about 40 KiB.
pub(crate) const HANDSHAKES_MAX: usize = 64;

/// The first pause before a peer is dialled again; it doubles with each failure.
pub(crate) const RETRY_MIN: Duration = Duration::from_millis(100);

/// The longest such pause.
pub(crate) const RETRY_MAX: Duration = Duration::from_secs(2);

/// How long bytes on a lease link may stay without an acknowledgement before the kernel gives up.
pub(crate) const LEASE_UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(1);

/// The same on a bulk link, where a big message on a slow network may take longer.
pub(crate) const BULK_UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(3);

/// How often an idle connection is probed.
pub(crate) const KEEPALIVE: Duration = Duration::from_secs(1);

/// Probes without an answer before an idle connection is given up.
pub(crate) const KEEPALIVE_PROBES_MAX: u32 = 2;

/// How long a peer may take to accept one message of ours before it is cut off.
pub(crate) const WRITE_MAX: Duration = Duration::from_secs(5);

/// Longest lease message in bytes: a few numbers and a list of voters.
pub(crate) const LEASE_BYTES_MAX: usize = 4 * 1024;

/// Longest Raft message in bytes; longer things, such as snapshots, travel in pieces.
pub(crate) const RAFT_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Longest message about what a node sees, in bytes.
pub(crate) const OBSERVE_BYTES_MAX: usize = 64 * 1024;

/// Longest message of facts, requests and answers, in bytes, with what tells them apart.
pub(crate) const CONTROL_BYTES_MAX: usize = pgx_controller::limits::MESSAGE_BYTES_MAX + 1024;

/// Messages that wait for one peer on one channel; one more drops the oldest.
pub(crate) const OUTBOX_MESSAGES_MAX: usize = 256;

/// Bytes that wait for one peer on one channel; beyond them the oldest messages are dropped.
pub(crate) const OUTBOX_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Messages that wait for whoever takes a channel; what comes while they wait is dropped.
pub(crate) const INBOX_MESSAGES_MAX: usize = 256;

/// Longest hello in bytes that is read; the known part has fewer, later versions may append.
pub(crate) const HELLO_BYTES_MAX: usize = 256;

/// How often a peer is asked for a sign of life.
pub(crate) const PING_EVERY: Duration = Duration::from_millis(500);

/// How old the last sign of life may be before a peer counts as silent.
pub(crate) const SILENCE_MAX: Duration = Duration::from_millis(1600);

/// How long the same trouble with the same peer is only counted after it was logged.
pub(crate) const LOG_AGAIN: Duration = Duration::from_secs(60);

/// Pairs of peer and trouble that the log remembers; strangers must not make it grow for ever.
pub(crate) const LOG_PAIRS_MAX: usize = 256;

/// From how many days before a certificate's end operators are warned.
pub(crate) const EXPIRY_WARNING_DAYS: i64 = 30;

/// How often a running node looks at the ends of its certificates.
pub(crate) const EXPIRY_CHECK: Duration = Duration::from_secs(24 * 60 * 60);

const _: () = assert!(RAFT_BYTES_MAX <= OUTBOX_BYTES_MAX);
const _: () = assert!(LEASE_BYTES_MAX < OBSERVE_BYTES_MAX && OBSERVE_BYTES_MAX < RAFT_BYTES_MAX);
const _: () = assert!(RETRY_MIN.as_millis() < RETRY_MAX.as_millis());
const _: () = assert!(SILENCE_MAX.as_millis() > 3 * PING_EVERY.as_millis());
const _: () = assert!(SILENCE_MAX.as_millis() < 2000, "a silent peer shows within a lease");
const _: () = assert!(RAFT_BYTES_MAX <= u32::MAX as usize, "lengths travel in 32 bits");
