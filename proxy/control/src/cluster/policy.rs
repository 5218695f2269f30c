//! How the cluster shall conduct itself: what operators choose for all nodes alike.

use core::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::limits::{POLICY_MS_MAX, POLICY_MS_MIN, SYNC_STANDBYS_MAX};

/// What operators have chosen. Fields that a later release adds have defaults, so that a state
/// written by an earlier one is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Policy {
    /// How many standbys shall have flushed a commit, where that many live.
    pub sync_standbys: usize,
    /// How long a node may be silent before it counts as gone, in milliseconds; a voter counts the
    /// renewals that it misses, the coordinator the reports.
    pub silent_ms_max: u64,
    /// How long a new primary may take until it is established, in milliseconds.
    pub establish_ms_max: u64,
    /// How long an attempt waits for better reports than those of the old primary's own directory,
    /// in milliseconds.
    pub attempt_ms_max: u64,
    /// How long a switchover may take before it is given up, in milliseconds.
    pub switchover_ms_max: u64,
    /// How long a switchover waits for transactions that run, and clients for it, in milliseconds.
    pub drain_ms_max: u64,
    /// How long PostgreSQL may leave a probe unanswered before it counts as hung, in milliseconds.
    pub hung_ms_max: u64,
    /// How long a standby must have streamed before commits may depend on it, in milliseconds. It
    /// doubles each time the standby goes away again soon.
    pub steady_ms_min: u64,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            sync_standbys: 1,
            silent_ms_max: 1_600,
            establish_ms_max: 30_000,
            attempt_ms_max: 5_000,
            switchover_ms_max: 30_000,
            drain_ms_max: 5_000,
            hung_ms_max: 10_000,
            steady_ms_min: 1_000,
        }
    }
}

/// Why a policy cannot be used. The operator is at fault; the quorum keeps the old one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PolicyError {
    /// A time is outside its bounds.
    Time {
        /// Which.
        name: &'static str,
        /// What was asked for.
        found_ms: u64,
    },
    /// The number of standbys is outside its bounds.
    SyncStandbys {
        /// What was asked for.
        found: usize,
    },
}

impl fmt::Display for PolicyError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Time { name, found_ms } => {
                write!(out, "{name} is {found_ms}, expected {POLICY_MS_MIN} to {POLICY_MS_MAX}")
            }
            Self::SyncStandbys { found } => write!(
                out,
                "sync_standbys is {found}, expected 1 to {SYNC_STANDBYS_MAX}; to let commits \
                 depend on the primary alone, set durability to available"
            ),
        }
    }
}

impl core::error::Error for PolicyError {}

impl Policy {
    /// Checks the bounds.
    ///
    /// # Errors
    /// The first choice that cannot be used.
    pub fn check(&self) -> Result<(), PolicyError> {
        let times = [
            ("silent_ms_max", self.silent_ms_max),
            ("establish_ms_max", self.establish_ms_max),
            ("attempt_ms_max", self.attempt_ms_max),
            ("switchover_ms_max", self.switchover_ms_max),
            ("drain_ms_max", self.drain_ms_max),
            ("hung_ms_max", self.hung_ms_max),
            ("steady_ms_min", self.steady_ms_min),
        ];
        for (name, found_ms) in times {
            if !(POLICY_MS_MIN..=POLICY_MS_MAX).contains(&found_ms) {
                return Err(PolicyError::Time { name, found_ms });
            }
        }
        let found = self.sync_standbys;
        if (1..=SYNC_STANDBYS_MAX).contains(&found) {
            Ok(())
        } else {
            Err(PolicyError::SyncStandbys { found })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_can_be_used() {
        assert_eq!(Policy::default().check(), Ok(()));
    }

    #[test]
    fn times_and_counts_outside_their_bounds_are_refused_by_name() {
        let found_ms = POLICY_MS_MAX + 1;
        let long = Policy { attempt_ms_max: found_ms, ..Policy::default() };
        assert_eq!(long.check(), Err(PolicyError::Time { name: "attempt_ms_max", found_ms }));
        let none = Policy { sync_standbys: 0, ..Policy::default() };
        assert_eq!(none.check(), Err(PolicyError::SyncStandbys { found: 0 }));
    }
}
