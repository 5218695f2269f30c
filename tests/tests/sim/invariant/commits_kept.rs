//! Every acknowledged commit is in the log of each primary that is established later, at the place
//! where it was: unless operators have accepted loss in an election in between, which costs the
//! commits that this primary lacks and no others. What streams from it has the same log.

use pgx_control::ids::NodeId;

use crate::world::World;

pub(crate) const NAME: &str = "commits kept";

/// The acknowledged commits, with the position after each.
#[derive(Default)]
pub(crate) struct Commits(Vec<(u64, usize)>);

impl World {
    pub(crate) fn note_acknowledged(&mut self, op: u64, end: usize) {
        self.checks.commits.0.push((op, end));
    }

    pub(super) fn acknowledged(&self) -> &[(u64, usize)] {
        &self.checks.commits.0
    }

    /// A primary is established by an election with loss.
    pub(crate) fn forget_lost(&mut self, primary: NodeId) {
        let Some(host) = self.hosts.get(&primary) else { return };
        let wal = &host.directory.wal;
        self.checks.commits.0.retain(|(op, end)| wal.get(end - 1) == Some(op));
    }

    /// A primary is established, or it is over.
    pub(crate) fn check_commits(&mut self, primary: NodeId) {
        let Some(host) = self.hosts.get(&primary) else { return };
        if host.directory.is_half {
            // Its disk was lost after it had said that it is ready: it serves nobody.
            return;
        }
        let wal = &host.directory.wal;
        let lost = self.checks.commits.0.iter().find(|(op, end)| wal.get(end - 1) != Some(op));
        if let Some((op, end)) = lost {
            let what = format!(
                "commit {op}, acknowledged at {end}, is not in the log of node {primary}, which \
                 has {} there and ends at {}",
                wal.get(end - 1).copied().unwrap_or(0),
                wal.len()
            );
            self.fail(NAME, what);
        }
        self.check_copies(primary);
    }

    /// Two forks may have timelines of one number: what follows must be no other than its primary.
    fn check_copies(&mut self, primary: NodeId) {
        let Some(host) = self.hosts.get(&primary) else { return };
        let Some(run) = &host.postgres else { return };
        // Both ends have to think so: a primary notices late that a standby has ended.
        let mut copies = self.hosts.values().filter(|copy| {
            let receiver = copy.postgres.as_ref().and_then(|run| run.receiver);
            receiver.is_some_and(|receiver| run.senders.contains_key(&receiver.link))
        });
        let other = copies.find_map(|copy| {
            let pairs = copy.directory.wal.iter().zip(&host.directory.wal);
            Some((copy.id, pairs.take_while(|(theirs, ours)| theirs == ours).count()))
                .filter(|(_, same)| *same < copy.directory.wal.len().min(host.directory.wal.len()))
        });
        if let Some((node, at)) = other {
            let what =
                format!("node {node} streams from node {primary} and has another log at {at}");
            self.fail(NAME, what);
        }
    }
}
