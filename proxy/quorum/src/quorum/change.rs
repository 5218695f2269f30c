//! Changes of membership and office: what a coordinator must see before it asks for one.

use raft::eraftpb::{ConfChange, ConfChangeType};

use super::Quorum;
use crate::error::{ChangeError, ProposeError, TransferError};
use crate::ids::NodeId;
use crate::limits::{CAUGHT_UP_ENTRIES_MAX, ELECTION_TICKS_MAX};
use crate::membership::{Change, Membership};

impl Quorum {
    /// Asks for a change of the membership; see [`crate::ConsensusLog::propose_membership`].
    ///
    /// # Errors
    /// When it was not taken: another change is under way, it makes no sense, the learner is
    /// behind, or the quorum would be lost by it.
    pub fn propose_membership(&mut self, change: Change) -> Result<(), ChangeError> {
        self.coordinating()?;
        if self.raft.raft.has_pending_conf() {
            return Err(ChangeError::Pending);
        }
        let membership = self.membership().ok_or(ChangeError::Pending)?;
        let next = membership.after(change)?;
        let (kind, node) = match change {
            Change::AddLearner { node, .. } => (ConfChangeType::AddLearnerNode, node),
            Change::Promote { node } => {
                self.check_caught_up(node)?;
                (ConfChangeType::AddNode, node)
            }
            Change::Remove { node } if node == self.identity.node => {
                return Err(ChangeError::Coordinates(node));
            }
            Change::Remove { node } => (ConfChangeType::RemoveNode, node),
        };
        self.check_majority(&next)?;
        let mut conf_change = ConfChange::default();
        conf_change.set_change_type(kind);
        conf_change.node_id = node.get();
        conf_change.context = change.encode().into();
        let proposed = self.raft.propose_conf_change(Vec::new(), conf_change);
        self.retune();
        proposed.map_err(|_| ProposeError::Busy)?;
        Ok(())
    }

    /// Asks a voter to take over as coordinator. It is given up within the shortest election wait;
    /// whether it came to pass is told by `Event::CoordinatorChanged`.
    ///
    /// # Errors
    /// When this node does not coordinate, or that one cannot.
    pub fn transfer(&mut self, to: NodeId) -> Result<(), TransferError> {
        self.coordinating()?;
        let is_voter =
            self.membership().is_some_and(|membership| membership.voters().any(|node| node == to));
        if !is_voter {
            return Err(TransferError::NotAVoter(to));
        }
        if !self.in_reach(to) {
            return Err(TransferError::Silent(to));
        }
        self.raft.transfer_leader(to.get());
        self.retune();
        Ok(())
    }

    /// Whether the node was heard of within the longest election wait.
    pub(super) fn in_reach(&self, node: NodeId) -> bool {
        node == self.identity.node
            || self.silent_ticks(node).is_some_and(|ticks| ticks <= ELECTION_TICKS_MAX as u64)
    }

    /// How long ago the node was heard of; `None` when never.
    pub(super) fn silent_ticks(&self, node: NodeId) -> Option<u64> {
        self.heard.get(&node).map(|heard| self.ticks - heard)
    }

    fn check_caught_up(&self, node: NodeId) -> Result<(), ChangeError> {
        let matched = self.raft.raft.prs().get(node.get()).map_or(0, |progress| progress.matched);
        let lag = self.raft.raft.raft_log.last_index().saturating_sub(matched);
        // Where nothing matches there is not even a snapshot, however short the log is.
        if matched == 0 || lag > CAUGHT_UP_ENTRIES_MAX || !self.in_reach(node) {
            return Err(ChangeError::Behind { node, lag });
        }
        Ok(())
    }

    fn check_majority(&self, next: &Membership) -> Result<(), ChangeError> {
        let reached = next.voters().filter(|node| self.in_reach(*node)).count();
        let needed = next.majority();
        if reached < needed { Err(ChangeError::NoMajority { reached, needed }) } else { Ok(()) }
    }
}
