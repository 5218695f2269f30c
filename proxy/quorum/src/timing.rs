//! How long a voter waits before it asks for an election, as a function of what it is given.
//!
//! Raft draws this at random so that voters do not ask at the same moment. Here the draw is a hash
//! of seed, node and term: as spread, and the same in each run.

use crate::ids::NodeId;
use crate::limits::{ELECTION_TICKS_MAX, ELECTION_TICKS_MIN};

/// Ticks without a coordinator after which `node` asks for an election to follow `term`.
pub(crate) fn election_ticks(seed: u64, node: NodeId, term: u64) -> usize {
    let mixed = mix(mix(mix(seed) ^ node.get()) ^ term);
    let spread = (ELECTION_TICKS_MAX - ELECTION_TICKS_MIN) as u64;
    ELECTION_TICKS_MIN + usize::try_from(mixed % spread).unwrap_or(0)
}

/// The finaliser of SplitMix64: each bit of the input changes half of the output's.
fn mix(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn waits_cover_the_whole_range_and_nothing_else() {
        let node = NodeId::new(1).unwrap();
        let found: BTreeSet<_> = (0..1000).map(|term| election_ticks(5, node, term)).collect();
        assert_eq!(found, (ELECTION_TICKS_MIN..ELECTION_TICKS_MAX).collect());
    }
}
