//! How long leases last, and the inequality between holder and voter.
//!
//! The holder stops at `t0 + lease` by its clock, and `t0` was read before the voter heard of the
//! request. The voter waits `lease · (1 + drift) + margin` by its clock from when it heard. If one
//! clock runs at most `drift` faster than the other, the voter's wait ends after the holder's
//! lease. The margin covers what the clocks cannot: reading granularity and the way from the check
//! of a packet to the wire.

use core::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Shortest lease in milliseconds; below it a scheduling delay looks like a dead host.
pub const LEASE_MS_MIN: u64 = 500;
/// Longest lease in milliseconds; it bounds how long a failover waits for a silent host.
pub const LEASE_MS_MAX: u64 = 60_000;
/// Least drift between two clocks in per cent of the lease that may be assumed. Boot clocks are
/// slewed by NTP, by up to 10 % under `adjtimex`, in opposite directions on two hosts at worst.
pub const DRIFT_PERCENT_MIN: u64 = 1;
/// Most drift that can be asked for, in per cent.
pub const DRIFT_PERCENT_MAX: u64 = 100;
/// Longest margin in milliseconds. A voter that starts waits for the longest promise that was ever
/// agreed on, so one slip of a hand would keep voters quiet at each start from then on.
pub const MARGIN_MS_MAX: u64 = 10_000;
/// Renewals that fit into a lease at least, so that one lost message takes nobody's lease.
pub const RENEWALS_PER_LEASE_MIN: u64 = 3;

/// The lease settings in force, agreed on by the quorum. They travel in each request, and a voter
/// that has others refuses: two sides that wait by different numbers would keep nothing apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Settings {
    /// How long a holder may act after it asked.
    pub lease_ms: u64,
    /// How often it asks.
    pub renewal_ms: u64,
    /// By how much two clocks may differ in rate, in per cent.
    pub drift_percent: u64,
    /// What is added to the voter's wait for all else.
    pub margin_ms: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self { lease_ms: 2_000, renewal_ms: 400, drift_percent: 20, margin_ms: 50 }
    }
}

/// Why settings cannot be used. The operator is at fault; the quorum keeps the old ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SettingsError {
    /// The lease is outside its bounds.
    Lease {
        /// What was asked for.
        found_ms: u64,
    },
    /// Too few renewals would fit into one lease.
    Renewal {
        /// What was asked for.
        found_ms: u64,
        /// The longest that would do.
        most_ms: u64,
    },
    /// The drift is outside its bounds.
    Drift {
        /// What was asked for.
        found_percent: u64,
    },
    /// The margin is too long.
    Margin {
        /// What was asked for.
        found_ms: u64,
    },
}

impl fmt::Display for SettingsError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lease { found_ms } => {
                write!(out, "lease_ms is {found_ms}, expected {LEASE_MS_MIN} to {LEASE_MS_MAX}")
            }
            Self::Renewal { found_ms, most_ms } => write!(
                out,
                "renewal_ms is {found_ms}, expected 1 to {most_ms}, so that \
                 {RENEWALS_PER_LEASE_MIN} renewals fit into a lease"
            ),
            Self::Drift { found_percent } => write!(
                out,
                "drift_percent is {found_percent}, expected {DRIFT_PERCENT_MIN} to \
                 {DRIFT_PERCENT_MAX}"
            ),
            Self::Margin { found_ms } => {
                write!(out, "margin_ms is {found_ms}, expected 0 to {MARGIN_MS_MAX}")
            }
        }
    }
}

impl core::error::Error for SettingsError {}

impl Settings {
    /// Checks the bounds and their relations.
    ///
    /// # Errors
    /// The first setting that cannot be used.
    pub fn check(&self) -> Result<(), SettingsError> {
        if !(LEASE_MS_MIN..=LEASE_MS_MAX).contains(&self.lease_ms) {
            return Err(SettingsError::Lease { found_ms: self.lease_ms });
        }
        let most_ms = self.lease_ms / RENEWALS_PER_LEASE_MIN;
        if !(1..=most_ms).contains(&self.renewal_ms) {
            return Err(SettingsError::Renewal { found_ms: self.renewal_ms, most_ms });
        }
        if !(DRIFT_PERCENT_MIN..=DRIFT_PERCENT_MAX).contains(&self.drift_percent) {
            return Err(SettingsError::Drift { found_percent: self.drift_percent });
        }
        if self.margin_ms > MARGIN_MS_MAX {
            return Err(SettingsError::Margin { found_ms: self.margin_ms });
        }
        Ok(())
    }

    /// How long a voter keeps a promise, by its own clock, in milliseconds: rounded up.
    #[must_use]
    pub fn promise_ms(&self) -> u64 {
        let scaled = self.lease_ms.saturating_mul(100 + self.drift_percent).div_ceil(100);
        scaled.saturating_add(self.margin_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_can_be_used_and_promise_longer_than_they_lease() {
        let settings = Settings::default();
        assert_eq!(settings.check(), Ok(()));
        assert_eq!(settings.promise_ms(), 2_450);
    }

    #[test]
    fn promise_outlasts_the_lease_whatever_the_clocks_do_within_the_drift() {
        for lease_ms in [LEASE_MS_MIN, 999, 2_000, LEASE_MS_MAX] {
            for drift_percent in [DRIFT_PERCENT_MIN, 7, 20, DRIFT_PERCENT_MAX] {
                let settings = Settings { lease_ms, drift_percent, margin_ms: 0, renewal_ms: 1 };
                // The voter's clock runs faster by the whole drift: in real time it waits less.
                let real_wait_times_hundred = settings.promise_ms() * 100 * 100;
                let real_lease = lease_ms * 100 * (100 + drift_percent);
                assert!(real_wait_times_hundred >= real_lease, "{settings:?}");
            }
        }
    }

    #[test]
    fn settings_out_of_bounds_are_refused() {
        let good = Settings::default();
        let short = Settings { lease_ms: LEASE_MS_MIN - 1, ..good };
        assert!(matches!(short.check(), Err(SettingsError::Lease { .. })));
        let rare = Settings { renewal_ms: 667, ..good };
        assert_eq!(rare.check(), Err(SettingsError::Renewal { found_ms: 667, most_ms: 666 }));
        let ideal = Settings { drift_percent: 0, ..good };
        assert!(matches!(ideal.check(), Err(SettingsError::Drift { .. })));
        let wide = Settings { margin_ms: MARGIN_MS_MAX, ..good };
        assert_eq!(wide.check(), Ok(()));
        let found_ms = MARGIN_MS_MAX + 1;
        let endless = Settings { margin_ms: found_ms, ..good };
        assert_eq!(endless.check(), Err(SettingsError::Margin { found_ms }));
    }
}
