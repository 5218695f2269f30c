//! What a voter has stated to be released it has on its disk, and never promises again.

use std::collections::BTreeMap;

use pgx_control::facts::VoterFacts;
use pgx_control::ids::NodeId;
use pgx_control::lease::{Kind, Message};

use crate::world::World;

pub(crate) const NAME: &str = "refusals";

/// The highest number that each voter has stated, of each kind.
#[derive(Default)]
pub(crate) struct Stated(BTreeMap<(NodeId, Kind), u64>);

impl World {
    /// A voter states what it has released.
    pub(crate) fn check_statement(&mut self, node: NodeId, facts: &VoterFacts) {
        for (kind, number) in &facts.released {
            let stated = self.checks.stated.0.entry((node, *kind)).or_insert(*number);
            *stated = (*stated).max(*number);
            self.check_on_disk(node, *kind, *number);
        }
    }

    fn check_on_disk(&mut self, node: NodeId, kind: Kind, number: u64) {
        let on_disk = self.hosts.get(&node).and_then(|host| host.refusals.content.get(kind));
        if on_disk < Some(number) {
            let what = format!(
                "node {node} has stated that {kind:?} is released up to {number}, and has \
                 {on_disk:?} on its disk"
            );
            self.fail(NAME, what);
        }
    }

    /// A voter sends something about leases.
    pub(crate) fn check_promise(&mut self, node: NodeId, message: &Message) {
        let Message::Promise(promise) = message else { return };
        let (kind, number) = (promise.right.kind, promise.right.number);
        let stated = self.checks.stated.0.get(&(node, kind)).copied();
        if stated.is_some_and(|stated| number <= stated) {
            let what = format!(
                "node {node} promises {kind:?} number {number} and has stated that it is released"
            );
            self.fail(NAME, what);
        }
    }

    /// A voter's disk was written, or read after a loss of power.
    pub(crate) fn check_refusals_of(&mut self, node: NodeId) {
        let of_node: Vec<_> = self
            .checks
            .stated
            .0
            .iter()
            .filter(|((who, _), _)| *who == node)
            .map(|((_, kind), number)| (*kind, *number))
            .collect();
        for (kind, number) in of_node {
            self.check_on_disk(node, kind, number);
        }
    }
}
