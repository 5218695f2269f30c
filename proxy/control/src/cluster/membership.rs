//! Which voters count, and what may follow upon it.

use alloc::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::ids::NodeId;
use crate::lease::majority;

/// The voters as of one change.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Membership {
    /// Counts the changes.
    pub version: u64,
    /// The voters.
    pub voters: BTreeSet<NodeId>,
}

impl Membership {
    /// Whether `who` holds more than half of the voters.
    #[must_use]
    pub fn has_majority(&self, who: &BTreeSet<NodeId>) -> bool {
        self.voters.intersection(who).count() >= majority(self.voters.len())
    }

    /// Whether no majority is possible without one of `who`. Of four voters two are enough for
    /// that, where a majority takes three.
    #[must_use]
    pub fn is_blocked_by(&self, who: &BTreeSet<NodeId>) -> bool {
        let others = self.voters.difference(who).count();
        others < majority(self.voters.len())
    }

    /// Whether `next` may follow: one voter more or one fewer, never none. Two memberships that
    /// differ by one voter have no two majorities without a common voter; those that differ by two
    /// may.
    #[must_use]
    pub fn may_become(&self, next: &Self) -> bool {
        next.version == self.version + 1
            && !next.voters.is_empty()
            && self.voters.symmetric_difference(&next.voters).count() == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(version: u64, bits: u64) -> Membership {
        let voters = (0..6).filter(|node| bits & (1 << node) != 0).map(NodeId).collect();
        Membership { version, voters }
    }

    #[test]
    fn majorities_of_memberships_that_may_follow_always_meet() {
        for (a, b) in (1..64_u64).flat_map(|a| (1..64).map(move |b| (a, b))) {
            let (old, new) = (of(1, a), of(2, b));
            if !old.may_become(&new) {
                continue;
            }
            for (x, y) in (0..64_u64).flat_map(|x| (0..64).map(move |y| (x, y))) {
                let (some, others) = (of(0, x).voters, of(0, y).voters);
                if old.has_majority(&some) && new.has_majority(&others) {
                    assert!(x & y != 0, "{old:?} {new:?}: {some:?} and {others:?} do not meet");
                }
            }
        }
    }

    #[test]
    fn blocked_means_that_every_majority_has_one_of_them() {
        for (voters, who) in (1..64_u64).flat_map(|voters| (0..64).map(move |who| (voters, who))) {
            let membership = of(1, voters);
            let avoids = |set: &u64| {
                let is_within = set & !voters == 0;
                is_within && set & who == 0 && membership.has_majority(&of(0, *set).voters)
            };
            let is_avoided = (0..64).any(|set| avoids(&set));
            assert_eq!(membership.is_blocked_by(&of(0, who).voters), !is_avoided, "{voters:b}");
        }
    }

    #[test]
    fn growing_from_three_to_five_at_once_is_refused() {
        assert!(!of(1, 0b00111).may_become(&of(2, 0b11111)));
        assert!(of(1, 0b00111).may_become(&of(2, 0b01111)));
        assert!(!of(1, 0b00111).may_become(&of(3, 0b01111)), "a version was left out");
        assert!(!of(1, 0b1).may_become(&of(2, 0)), "nobody would be left");
        assert!(!of(1, 0b11).may_become(&of(2, 0b11)), "nothing would change");
        assert!(!of(1, 0b011).may_become(&of(2, 0b101)), "a replacement is two changes");
    }
}
