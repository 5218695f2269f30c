//! Tells the log about trouble with peers, once per peer and cause, then counted: neither a peer
//! that is down for a week nor a port scanner may fill the disk.

use std::collections::HashMap;
use std::mem::{Discriminant, discriminant};
use std::sync::{Mutex, PoisonError};

use tokio::time::Instant;
use tracing::warn;

use super::cause::Cause;
use crate::limits::peer::{LOG_AGAIN, LOG_PAIRS_MAX};

/// Which side of a connection we were.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Side {
    /// We connected.
    Outgoing,
    /// The other side connected.
    Incoming,
}

/// Where the trouble is: our side, the other's address without its port, and the kind.
type Key = (Side, String, Discriminant<Cause>);

#[derive(Debug)]
struct Seen {
    logged: Instant,
    /// How often since.
    held_back: u64,
}

/// What was logged lately.
#[derive(Debug, Default)]
pub(super) struct Journal(Mutex<HashMap<Key, Seen>>);

impl Journal {
    /// Logs the cause unless the same was logged for the same peer lately. `peer` is who it is as
    /// far as we know; `place` names the peer for counting, so a stranger's port is left out.
    pub(super) fn report(&self, side: Side, peer: &str, place: &str, cause: &Cause) {
        let Some(repeated) = self.is_due(side, place, cause, Instant::now()) else { return };
        match side {
            Side::Outgoing => warn!(peer, %cause, repeated, "no connection to a peer"),
            Side::Incoming => warn!(peer, %cause, repeated, "refused or lost a peer's connection"),
        }
    }

    /// How often it was held back since it was logged, if it is to be logged now.
    fn is_due(&self, side: Side, place: &str, cause: &Cause, now: Instant) -> Option<u64> {
        let key = (side, place.to_owned(), discriminant(cause));
        // Each entry is whole between any two statements, so a panic elsewhere spoils nothing.
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(seen) = all.get_mut(&key) {
            if now.duration_since(seen.logged) < LOG_AGAIN {
                seen.held_back += 1;
                return None;
            }
            let repeated = seen.held_back;
            *seen = Seen { logged: now, held_back: 0 };
            return Some(repeated);
        }
        if all.len() >= LOG_PAIRS_MAX {
            all.retain(|_, seen| now.duration_since(seen.logged) < LOG_AGAIN);
        }
        if all.len() >= LOG_PAIRS_MAX {
            // That many places in one minute is a scan, of which the log has seen enough.
            return None;
        }
        all.insert(key, Seen { logged: now, held_back: 0 });
        Some(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_trouble_is_logged_once_a_minute_with_its_count() {
        let journal = Journal::default();
        let start = Instant::now();
        let due = |cause, now| journal.is_due(Side::Incoming, "10.0.0.7", cause, now);
        assert_eq!(due(&Cause::Issuer, start), Some(0));
        assert_eq!(due(&Cause::Issuer, start), None);
        assert_eq!(due(&Cause::Issuer, start), None);
        assert_eq!(due(&Cause::Closed, start), Some(0), "another cause is news");
        let elsewhere = journal.is_due(Side::Incoming, "10.0.0.8", &Cause::Issuer, start);
        assert_eq!(elsewhere, Some(0));

        assert_eq!(due(&Cause::Issuer, start + LOG_AGAIN), Some(2));
    }

    #[test]
    fn scan_from_many_places_neither_grows_memory_nor_silences_the_log_for_ever() {
        let journal = Journal::default();
        let start = Instant::now();
        for place in 0..LOG_PAIRS_MAX * 2 {
            journal.is_due(Side::Incoming, &place.to_string(), &Cause::Issuer, start);
        }
        assert_eq!(journal.0.lock().unwrap().len(), LOG_PAIRS_MAX);

        let later = start + LOG_AGAIN;
        assert_eq!(journal.is_due(Side::Incoming, "new", &Cause::Issuer, later), Some(0));
    }
}
