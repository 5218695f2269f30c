//! The rule of synchronous replication, and when reports are enough to be sure.

use alloc::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::ids::Incarnation;

/// `ANY k (members)` of PostgreSQL's `synchronous_standby_names`: a commit is acknowledged when
/// `k` of the members have flushed it. Members are data directories, not hosts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// How many must have flushed a commit.
    pub k: usize,
    /// Of these. The primary itself is not among them.
    pub members: BTreeSet<Incarnation>,
}

impl Rule {
    /// The rule without standbys: commits are acknowledged on the primary's word alone.
    #[must_use]
    pub fn degraded() -> Self {
        Self { k: 0, members: BTreeSet::new() }
    }

    /// Whether commits may be acknowledged that only the primary has.
    #[must_use]
    pub fn is_degraded(&self) -> bool {
        self.k == 0
    }

    /// Whether PostgreSQL could ever fulfil the rule.
    #[must_use]
    pub fn can_be_fulfilled(&self) -> bool {
        self.k <= self.members.len()
    }

    /// Whether among the reporters there must be one with any acknowledged commit: `k` members have
    /// it, and fewer than `k` members are missing. A degraded rule is never covered this way.
    #[must_use]
    pub fn is_covered_by(&self, reporters: &BTreeSet<Incarnation>) -> bool {
        self.members.intersection(reporters).count() + self.k > self.members.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(bits: u32) -> BTreeSet<Incarnation> {
        (0..5_u32).filter(|one| bits & (1 << one) != 0).map(|one| Incarnation(one.into())).collect()
    }

    #[test]
    fn covered_means_that_no_choice_of_k_members_avoids_the_reporters() {
        for members in 0..32_u32 {
            let size = members.count_ones() as usize;
            for k in 1..=size {
                let rule = Rule { k, members: set(members) };
                for reporters in 0..32_u32 {
                    let avoids = (0..32_u32).any(|flushed| {
                        flushed & !members == 0
                            && flushed.count_ones() as usize == k
                            && flushed & reporters == 0
                    });
                    assert_eq!(rule.is_covered_by(&set(reporters)), !avoids, "{rule:?}");
                }
            }
        }
    }

    #[test]
    fn degraded_rule_is_never_covered_by_standbys() {
        assert!(!Rule::degraded().is_covered_by(&set(0b11111)));
        let named = Rule { k: 0, members: set(0b11) };
        assert!(named.is_degraded() && !named.is_covered_by(&set(0b11)));
    }
}
