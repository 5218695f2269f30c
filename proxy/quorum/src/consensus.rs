//! What the controller needs of a replicated log, so that one kept elsewhere could take the place
//! of the engine here. What comes out is [`crate::Event`], in order, through whoever drives it.

use crate::error::{ChangeError, ProposeError};
use crate::ids::{NodeId, ProposalId};
use crate::membership::{Change, Membership};
use crate::quorum::Quorum;

/// A log that a majority agrees on.
pub trait ConsensusLog {
    /// Asks for an entry. `Ok` says that it was taken, not that it is committed: that is told by
    /// `Event::Apply` with the same number, or `Event::ProposalDropped`.
    ///
    /// # Errors
    /// When it was not taken; then it will not be committed.
    fn propose(&mut self, proposal: ProposalId, data: Vec<u8>) -> Result<(), ProposeError>;

    /// Asks for a change of the membership, told by `Event::MembershipApplied`.
    ///
    /// # Errors
    /// When it was not taken.
    fn propose_membership(&mut self, change: Change) -> Result<(), ChangeError>;

    /// Who coordinates, as far as this node knows.
    fn coordinator(&self) -> Option<NodeId>;

    /// The membership as of the last entry handed out; `None` before the first word from a
    /// coordinator.
    fn membership(&self) -> Option<&Membership>;
}

impl ConsensusLog for Quorum {
    fn propose(&mut self, proposal: ProposalId, data: Vec<u8>) -> Result<(), ProposeError> {
        Self::propose(self, proposal, data)
    }

    fn propose_membership(&mut self, change: Change) -> Result<(), ChangeError> {
        Self::propose_membership(self, change)
    }

    fn coordinator(&self) -> Option<NodeId> {
        Self::coordinator(self)
    }

    fn membership(&self) -> Option<&Membership> {
        Self::membership(self)
    }
}
