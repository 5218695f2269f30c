//! The bounds of this crate.

use std::time::Duration;

/// When a taken address is announced, in milliseconds from the taking. The first ones are for
/// frames that are lost while a switch learns; RFC 5227, section 2.3, asks for two within two
/// seconds, RFC 4861, section 7.2.6, for up to three.
pub(crate) const ANNOUNCE_AFTER_MS: [u64; 5] = [0, 100, 400, 1_000, 2_500];

/// How often it is announced after that, while it is held: who has missed all of the above, behind
/// a switch that was cut off, learns within this time. One or two small frames an address.
pub(crate) const ANNOUNCE_EVERY_MS: u64 = 10_000;

/// Least time between two announcements of an address, however often it comes and goes.
pub(crate) const ANNOUNCE_GAP_MS_MIN: u64 = 100;

/// How long one request to the kernel's network configuration may take. It waits for a lock that
/// others hold while they configure; a thread that gave up tries again.
pub(crate) const NETLINK_MAX: Duration = Duration::from_secs(1);

/// How long a step that failed is left alone.
pub(crate) const RETRY_MS: u64 = 500;

/// How long a killed program of the operator's may take to be gone. Only one that hangs in the
/// kernel takes longer, and is left behind.
pub(crate) const KILL_MS_MAX: u64 = 1_000;

/// Leases of addresses on one host; each has a thread.
pub const LEASES_MAX: usize = 16;

/// Addresses of one lease: of both families, and some in reserve for a change of numbers.
pub const ADDRESSES_MAX: usize = 4;

const _: () = assert!(ANNOUNCE_GAP_MS_MIN <= ANNOUNCE_AFTER_MS[1]);
// Those that the kernel's map holds.
const _: () = assert!(LEASES_MAX * ADDRESSES_MAX <= 64);
