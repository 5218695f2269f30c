//! The clock that leases go by, and randomness: what the pure machines are given.

use std::time::Duration;

use pgx_control::ids::BootTime;
use rustix::time::{ClockId, clock_gettime};

/// The boot-time clock, which goes on while the host sleeps.
pub(crate) fn boot_time() -> BootTime {
    let now = clock_gettime(ClockId::Boottime);
    // Neither is ever negative for this clock.
    let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
    let nanoseconds = u64::try_from(now.tv_nsec).unwrap_or_default();
    BootTime(seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds))
}

/// How long from `now` until `then`; nothing when that has passed.
pub(super) fn until(then: BootTime, now: BootTime) -> Duration {
    Duration::from_nanos(then.0.saturating_sub(now.0))
}

/// Random bytes from the library that makes keys.
///
/// # Panics
/// When the system has no randomness; then nothing of this program is safe to run.
pub(crate) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    let provider = crate::peer::certificates::provider();
    provider.secure_random.fill(&mut bytes).expect("the system's source of randomness must work");
    bytes
}

/// A random number.
pub(super) fn random_number() -> u64 {
    u64::from_be_bytes(random())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clock_goes_forward_and_waits_are_never_negative() {
        let first = boot_time();
        assert!(boot_time() >= first && first.0 > 0);
        assert_eq!(until(first, BootTime(first.0 + 1)), Duration::ZERO);
        assert_eq!(until(BootTime(3_000_000), BootTime(1_000_000)), Duration::from_millis(2));
    }

    #[test]
    fn numbers_differ() {
        assert_ne!(random_number(), random_number());
    }
}
