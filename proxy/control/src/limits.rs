//! The bounds of the control plane, and how they hang together.

/// Longest request line on the admin socket in bytes; requests are small.
pub const ADMIN_REQUEST_BYTES_MAX: usize = 64 * 1024;

/// Longest reply line on the admin socket in bytes; a client refuses more.
pub const ADMIN_REPLY_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Admin clients served at once; each costs one task and one request buffer.
pub const ADMIN_CLIENTS_MAX: usize = 32;

/// Steps that the report of a change of primary names at most.
pub const CHANGE_STEPS_MAX: usize = 200;

/// How long PostgreSQL or a disk may leave a probe unanswered before operators are told, in
/// milliseconds: well above what busy hosts take.
pub const PROBE_PATIENCE_MS: u64 = 2_000;

/// How long a node may leave another without an answer before operators are told that the two do
/// not hear each other, in milliseconds: longer than a link takes to be back after a restart.
pub const LINK_PATIENCE_MS: u64 = 4_000;

/// A disk of PostgreSQL with fewer bytes free than that counts as full: the next segment of its log
/// has no place there.
pub const DISK_FREE_BYTES_MIN: u64 = 16 * 1024 * 1024;

/// A disk whose last writes have each taken longer counts as slow, in milliseconds: a commit takes
/// as long at least.
pub const DISK_WRITE_MS_MAX: u64 = 1_000;

/// Questions to a peer that are looked back at: ten seconds' worth.
pub const TRIPS_KEPT: u32 = 20;

/// When so many of them were answered late, the network to that peer counts as slow: more than a
/// network that is gone for a moment makes.
pub const TRIPS_LATE_MIN: u32 = 4;

/// An answer is late after that time, in milliseconds: half of what is between two renewals of a
/// lease, and what the kernel waits at least before it sends a lost segment again.
pub const TRIP_MS_MAX: u64 = 200;

/// How long an admin client may take to send its request or to read the reply, in milliseconds.
pub const ADMIN_CLIENT_MS_MAX: u64 = 10_000;

/// Memberships that may wait for the primary to count in them, the one it counts in included. Each
/// is one more majority that a failover needs; a primary that adopts none for so long is ill.
pub const MEMBERSHIPS_PENDING_MAX: usize = 4;

/// Shortest time that a policy may set, in milliseconds.
pub const POLICY_MS_MIN: u64 = 100;

/// Longest time that a policy may set, in milliseconds: an hour.
pub const POLICY_MS_MAX: u64 = 3_600_000;

/// Most standbys that a commit may have to reach.
pub const SYNC_STANDBYS_MAX: usize = 8;

/// Rules of synchronous replication that may be in force at once, while one change overtakes
/// another; each is one more that reports must satisfy. When there is no room for the one that is
/// needed, the epoch ends.
pub const RULES_MAX: usize = 8;

/// Nodes that a cluster may have had in its life; each stays in the state, so that its number is
/// not given again.
pub const NODES_EVER_MAX: usize = 1024;

/// Longest address of a node, in bytes: a name of DNS and a port.
pub const ADDRESS_BYTES_MAX: usize = 262;

/// How often a standby's wait for trust doubles at most: from the default of a second to a minute.
pub const FLAPS_MAX: u32 = 6;

/// How long after its time a switchover may begin that operators wanted then, in milliseconds: what
/// was meant for the night is not done in the morning.
pub const SCHEDULE_LATE_MS_MAX: u64 = 300_000;

/// Buckets of the table by which flows are steered: as many as a table in the kernel has.
pub const BUCKETS: usize = 1024;

/// Proxies that flows may be steered to: as many as the kernel's tables number.
pub const PROXIES_MAX: usize = 63;

/// The weight of a proxy that takes so many times the flows of one with weight one.
pub const WEIGHT_MAX: u32 = 100;

const _: () = assert!(POLICY_MS_MAX << FLAPS_MAX < u64::MAX / 16);
const _: () = assert!(RULES_MAX >= 2);
const _: () = assert!(DISK_WRITE_MS_MAX < PROBE_PATIENCE_MS);
const _: () = assert!(TRIPS_LATE_MIN < TRIPS_KEPT && TRIPS_KEPT < u32::BITS);
const _: () = assert!(MEMBERSHIPS_PENDING_MAX >= 2);
const _: () = assert!(ADMIN_CLIENTS_MAX * ADMIN_REQUEST_BYTES_MAX <= 4 * 1024 * 1024);
