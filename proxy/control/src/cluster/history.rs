//! Which data directories descend from what the quorum has recorded.
//!
//! A timeline's number says little: two forks may carry the same one. So each switch is recorded
//! with the epoch that made it, and the epoch is written into the directory before PostgreSQL
//! promotes or follows.

use alloc::collections::BTreeSet;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use crate::ids::{Epoch, Lsn, Timeline};

/// The beginning of one timeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Switch {
    /// The timeline that begins here.
    pub timeline: Timeline,
    /// Where it leaves the one before; zero for the first.
    pub at: Lsn,
    /// The epoch whose promotion made it.
    pub epoch: Epoch,
}

/// The timelines of a directory or of the cluster, the first one first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct History(pub Vec<Switch>);

/// How a directory stands to the recorded history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Descent {
    /// All it has is part of the recorded history, or of promotions that the quorum committed and
    /// that never served: its report counts.
    Counts,
    /// It went beyond the point where the recorded history left its timeline: it must be rewound.
    PastSwitch,
    /// It has a timeline that no committed epoch made, or another one of the same number.
    Fork,
}

impl History {
    /// Compares a directory, which has this history and data up to `end`, with what is recorded.
    /// `unestablished` are the committed epochs after the last established one.
    #[must_use]
    pub fn descent(&self, end: Lsn, recorded: &Self, unestablished: &BTreeSet<Epoch>) -> Descent {
        let (own, theirs) = (&self.0, &recorded.0);
        if own.is_empty() {
            return Descent::Fork;
        }
        let common = own.iter().zip(theirs).take_while(|(a, b)| a == b).count();
        if common == own.len() {
            // A prefix: on an older timeline, unless the whole is shared.
            return match theirs.get(common) {
                Some(left) if end > left.at => Descent::PastSwitch,
                _ => Descent::Counts,
            };
        }
        let extends = common == theirs.len();
        if extends && own[common..].iter().all(|switch| unestablished.contains(&switch.epoch)) {
            Descent::Counts
        } else {
            Descent::Fork
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(switches: &[(u32, u64, u64)]) -> History {
        let switch = |&(timeline, at, epoch): &(u32, u64, u64)| Switch {
            timeline: Timeline(timeline),
            at: Lsn(at),
            epoch: Epoch(epoch),
        };
        History(switches.iter().map(switch).collect())
    }

    fn descent(own: &[(u32, u64, u64)], end: u64) -> Descent {
        let recorded = history(&[(1, 0, 0), (2, 100, 3)]);
        history(own).descent(Lsn(end), &recorded, &BTreeSet::from([Epoch(4), Epoch(5)]))
    }

    #[test]
    fn same_history_counts_wherever_it_ends() {
        assert_eq!(descent(&[(1, 0, 0), (2, 100, 3)], 100), Descent::Counts);
        assert_eq!(descent(&[(1, 0, 0), (2, 100, 3)], 900), Descent::Counts);
    }

    #[test]
    fn older_timeline_counts_up_to_the_switch_and_not_beyond() {
        assert_eq!(descent(&[(1, 0, 0)], 100), Descent::Counts);
        assert_eq!(descent(&[(1, 0, 0)], 101), Descent::PastSwitch);
    }

    #[test]
    fn promotions_that_were_committed_and_never_served_count() {
        assert_eq!(descent(&[(1, 0, 0), (2, 100, 3), (3, 150, 4)], 160), Descent::Counts);
        assert_eq!(
            descent(&[(1, 0, 0), (2, 100, 3), (3, 150, 4), (4, 160, 5)], 170),
            Descent::Counts
        );
    }

    #[test]
    fn promotion_that_nobody_committed_is_a_fork_however_high_its_timeline() {
        assert_eq!(descent(&[(1, 0, 0), (2, 100, 3), (9, 150, 6)], 900), Descent::Fork);
    }

    #[test]
    fn promotion_that_was_committed_counts_only_upon_all_that_is_recorded_and_alone() {
        assert_eq!(descent(&[(1, 0, 0), (3, 90, 4)], 95), Descent::Fork);
        let also_by_hand = [(1, 0, 0), (2, 100, 3), (3, 150, 4), (4, 160, 9)];
        assert_eq!(descent(&also_by_hand, 170), Descent::Fork);
    }

    #[test]
    fn same_timeline_number_of_another_epoch_is_a_fork() {
        assert_eq!(descent(&[(1, 0, 0), (2, 100, 2)], 100), Descent::Fork);
        assert_eq!(descent(&[(1, 0, 0), (2, 90, 3)], 100), Descent::Fork);
    }

    #[test]
    fn directory_without_a_history_is_a_fork() {
        assert_eq!(descent(&[], 0), Descent::Fork);
        assert_eq!(descent(&[], 900), Descent::Fork);
    }
}
