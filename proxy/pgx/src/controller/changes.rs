//! How long changes of primary took, as this node has seen them by the agreed state.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use pgx_control::cluster::State;
use pgx_session::stats::Histogram;

/// Whoever looks, and whoever counts.
#[derive(Clone, Default)]
pub(crate) struct Changes(Arc<Mutex<Seen>>);

#[derive(Default)]
struct Seen {
    /// Since when nobody may serve, or somebody is being replaced.
    since: Option<Instant>,
    ended: Histogram,
}

impl Changes {
    /// How long those took that have ended.
    pub(crate) fn ended(&self) -> Histogram {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).ended.clone()
    }

    /// The state is another now.
    pub(super) fn see(&self, state: &State, now: Instant) {
        // Before there is an epoch nobody is replaced.
        let Some(tenure) = state.tenure() else { return };
        self.look(tenure.is_established && state.sealed().is_none(), now);
    }

    fn look(&self, is_served: bool, now: Instant) {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !is_served {
            seen.since.get_or_insert(now);
        } else if let Some(since) = seen.since.take() {
            let took = now.saturating_duration_since(since);
            seen.ended.add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn change_lasts_from_its_seal_until_somebody_serves_again_however_many_steps_it_takes() {
        let (changes, begun) = (Changes::default(), Instant::now());
        let at = |ms| begun + Duration::from_millis(ms);
        for (is_served, ms) in [(true, 0), (false, 10), (false, 400), (true, 1_510), (true, 9_000)]
        {
            changes.look(is_served, at(ms));
        }
        let ended = changes.ended();
        assert_eq!((ended.count(), ended.sum_us()), (1, 1_500_000));
    }
}
