//! How things are, for people and for the controller. Nothing here changes anything.

use super::Quorum;
use crate::ids::{Identity, NodeId};
use crate::membership::{Membership, Role};

/// One node's view of the quorum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Who looks.
    pub identity: Identity,
    /// The newest term seen.
    pub term: u64,
    /// Who coordinates, as far as known.
    pub coordinator: Option<NodeId>,
    /// Whether this node coordinates and has handed out everything that was committed before its
    /// term. Only then does what it has applied suffice to decide upon.
    pub caught_up: bool,
    /// The last entry known to be committed.
    pub commit_index: u64,
    /// The last entry handed out.
    pub applied_index: u64,
    /// The last entry in the log.
    pub last_index: u64,
    /// The last entry in the snapshot.
    pub snapshot_index: u64,
    /// What the log takes in memory, in bytes.
    pub log_bytes: usize,
    /// Whether a change of membership may be under way.
    pub change_pending: bool,
    /// The membership as of what was handed out; `None` on a joiner.
    pub membership: Option<Membership>,
    /// The other members.
    pub peers: Vec<Peer>,
}

/// Another member, as one node sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Which.
    pub node: NodeId,
    /// Whether it counts.
    pub role: Role,
    /// Up to where its log is known to be the same; only a coordinator knows.
    pub match_index: Option<u64>,
    /// Ticks since it was heard of; `None` when never.
    pub silent_ticks: Option<u64>,
}

impl Quorum {
    /// How things are now.
    #[must_use]
    pub fn status(&self) -> Status {
        let raft = &self.raft.raft;
        let coordinates = self.coordinating().is_ok();
        Status {
            identity: self.identity,
            term: raft.term,
            coordinator: self.coordinator(),
            caught_up: coordinates && self.applied.term == raft.term,
            commit_index: raft.raft_log.committed,
            applied_index: self.applied.index,
            last_index: raft.raft_log.last_index(),
            snapshot_index: self.raft.store().snapshot_position().index,
            log_bytes: self.raft.store().entries_bytes(),
            change_pending: coordinates && raft.has_pending_conf(),
            membership: self.membership().cloned(),
            peers: self.peers(coordinates),
        }
    }

    fn peers(&self, coordinates: bool) -> Vec<Peer> {
        let members = self.membership().into_iter().flat_map(Membership::iter);
        let others = members.filter(|(node, _)| *node != self.identity.node);
        let peer = |(node, member): (NodeId, crate::Member)| Peer {
            node,
            role: member.role,
            match_index: self
                .raft
                .raft
                .prs()
                .get(node.get())
                .filter(|_| coordinates)
                .map(|progress| progress.matched),
            silent_ticks: self.silent_ticks(node),
        };
        others.map(peer).collect()
    }
}
