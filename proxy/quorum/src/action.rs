//! What the engine asks of its driver, as plain data.

use crate::ids::{NodeId, ProposalId};
use crate::membership::Membership;
use crate::store::StoreError;

/// One thing for the driver to do, in the order in which they come.
#[derive(Debug)]
pub enum Action {
    /// Bytes for another node. They may be lost, doubled, late or out of order.
    Send {
        /// To whom.
        to: NodeId,
        /// At most [`crate::limits::MESSAGE_BYTES_MAX`].
        bytes: Vec<u8>,
    },
    /// Something for the state machine above.
    Event(Event),
}

/// What a state machine on a replicated log gets to know, from Raft or from another such log.
#[derive(Debug)]
pub enum Event {
    /// The state as of `index` is this; whatever was applied before is void. Empty stands for the
    /// state that a machine begins with.
    Restore {
        /// The last entry whose effect is in the state.
        index: u64,
        /// What the driver once gave to `handle_snapshot`, here or on another node.
        state: Vec<u8>,
    },
    /// The next committed entry. After a restart, entries since the snapshot come again.
    Apply {
        /// Grows from entry to entry; some numbers are the engine's own and left out.
        index: u64,
        /// The term in which it was proposed.
        term: u64,
        /// The proposer's number for it.
        proposal: ProposalId,
        /// What was proposed.
        data: Vec<u8>,
    },
    /// The membership from `index` on.
    MembershipApplied {
        /// The entry of the change.
        index: u64,
        /// Voters, learners, incarnations.
        membership: Membership,
    },
    /// Another node coordinates, or it is not known who does.
    CoordinatorChanged {
        /// Who does now.
        coordinator: Option<NodeId>,
        /// The term for which it was elected.
        term: u64,
    },
    /// A proposal of this node will not be reported by `Apply` in the way of the others.
    ProposalDropped {
        /// Which.
        proposal: ProposalId,
        /// What is known of it.
        fate: Fate,
    },
    /// The log has become long, or a new member needs a state: call `handle_snapshot` soon.
    SnapshotWanted,
    /// The file failed. Nothing was sent or applied that depended on the failed write, and nothing
    /// more happens here. Drop the engine and the store; open both again when the cause is gone.
    Halted(StoreError),
}

/// What became of a proposal that was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Another entry was committed in its place, so it never will be.
    Overwritten,
    /// A snapshot took the place of that part of the log; the state shows whether it is in there.
    Unknown,
}
