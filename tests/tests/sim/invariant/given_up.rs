//! Acknowledged commits that an election with loss gives up stay on each disk that has them, until
//! they are in the log of a primary again or the disk is lost.

use pgx_control::ids::NodeId;

use crate::host::Host;
use crate::world::World;

pub(crate) const NAME: &str = "given up, kept";

/// For each host the furthest of those commits that it has, with the position after it.
#[derive(Default)]
pub(crate) struct GivenUp(Vec<(NodeId, u64, usize)>);

impl World {
    /// A primary is elected with loss.
    pub(crate) fn note_given_up(&mut self, primary: NodeId) {
        let Some(elected) = self.hosts.get(&primary) else { return };
        let wal = &elected.directory.wal;
        let given_up = |(op, end): &&(u64, usize)| wal.get(end - 1) != Some(op);
        let lost: Vec<_> = self.acknowledged().iter().filter(given_up).copied().collect();
        let known = &mut self.checks.given_up.0;
        for host in self.hosts.values() {
            let furthest = lost
                .iter()
                .rev()
                .find(|(op, end)| *end <= host.directory.flushed && has(host, *op, *end));
            known.extend(furthest.map(|(op, end)| (host.id, *op, *end)));
        }
    }

    /// A primary serves: what it has is not given up.
    pub(crate) fn forget_given_up(&mut self, primary: NodeId) {
        let Some(host) = self.hosts.get(&primary) else { return };
        let wal = &host.directory.wal;
        self.checks.given_up.0.retain(|(_, op, end)| wal.get(end - 1) != Some(op));
    }

    /// A host has another disk.
    pub(crate) fn forget_disk(&mut self, node: NodeId) {
        self.checks.given_up.0.retain(|(host, ..)| *host != node);
    }

    pub(crate) fn check_given_up(&mut self) {
        let lost =
            self.checks.given_up.0.iter().find(|(node, op, end)| {
                self.hosts.get(node).is_some_and(|host| !has(host, *op, *end))
            });
        if let Some((node, op, end)) = lost {
            let what = format!("commit {op}, given up at {end}, was on node {node} and is not");
            self.fail(NAME, what);
        }
    }
}

fn has(host: &Host, op: u64, end: usize) -> bool {
    let aside = host.kept.iter().chain(&host.retained);
    [&host.directory].into_iter().chain(aside).any(|one| one.wal.get(end - 1) == Some(&op))
}
