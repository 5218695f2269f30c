//! Why the engine refuses an input. Nothing has changed then, unless the text says so.

use crate::envelope::EnvelopeError;
use crate::ids::{ClusterId, Identity, Incarnation, NodeId};
use crate::limits::{ACTIONS_MAX, PROPOSAL_BYTES_MAX, SNAPSHOT_BYTES_MAX};
use crate::membership::Misfit;
use crate::store::StoreError;

/// The engine cannot take any input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// Its file failed; see [`crate::Event::Halted`].
    #[error("the quorum's file failed; open it again when the cause is gone")]
    Halted,
    /// The driver did not fetch the actions of earlier inputs.
    #[error("{ACTIONS_MAX} actions wait for the driver, which is to fetch them after each input")]
    Undrained,
}

/// The engine could not be started.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The file cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The file was made for another incarnation than the log knows.
    #[error("{0} is not the member that its own log names; remove it and join as a new member")]
    NotTheMember(Identity),
}

/// Why a peer's message was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MessageError {
    /// Not now.
    #[error(transparent)]
    Unusable(#[from] Unusable),
    /// Not our protocol.
    #[error(transparent)]
    Envelope(#[from] EnvelopeError),
    /// Raft's part of the message does not decode.
    #[error("a message from {from} that does not decode")]
    Malformed {
        /// The sender.
        from: NodeId,
    },
    /// Raft's part contradicts itself or what a peer may send.
    #[error("a message from {from} that no sound peer sends: {what}")]
    Unsound {
        /// The sender.
        from: NodeId,
        /// What is wrong.
        what: Unsound,
    },
    /// The connection's peer states to be somebody else.
    #[error("the connection is with {peer}, the message says {stated}")]
    OtherSender {
        /// Whose connection it is.
        peer: NodeId,
        /// Who the message says.
        stated: NodeId,
    },
    /// A node of another cluster, or of this one before it was recovered from a survivor.
    #[error("{from} is of {found}, this node is of {ours}; one of them has a wrong peer address")]
    OtherCluster {
        /// The sender.
        from: NodeId,
        /// Its cluster.
        found: ClusterId,
        /// Ours.
        ours: ClusterId,
    },
    /// The message is for another node, or for what this one was before it lost its disk.
    #[error("{from} means another {to} than this node; it was replaced, or an address is wrong")]
    NotForUs {
        /// The sender.
        from: NodeId,
        /// For whom it is.
        to: NodeId,
    },
    /// The sender has lost its disk and came back under its old number.
    #[error(
        "{from} has {found}, the log knows {expected}: it lost its file and forgot its votes; \
         remove it and let it join with a new number"
    )]
    OtherIncarnation {
        /// The sender.
        from: NodeId,
        /// What it says.
        found: Incarnation,
        /// What was committed for it.
        expected: Incarnation,
    },
    /// The sender was removed.
    #[error("{from} was removed; stop it, or let it join with a new number")]
    Retired {
        /// The sender.
        from: NodeId,
    },
    /// This node's log ends before what the coordinator knows it once had.
    #[error(
        "{from} knows of entries up to {known} here, and the log ends at {last}: it was rolled \
         back, by an old backup perhaps; remove this member and join as a new one"
    )]
    LogLost {
        /// The coordinator.
        from: NodeId,
        /// What this node once had.
        known: u64,
        /// What it has.
        last: u64,
    },
}

/// What is wrong with a message that decodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unsound {
    /// Only the engine itself makes messages of this kind.
    #[error("its kind is not for peers")]
    Kind,
    /// Sender or receiver differ from the envelope's.
    #[error("its sender or receiver is not the envelope's")]
    Address,
    /// Zero or out of bounds.
    #[error("its term is out of bounds")]
    Term,
    /// Its entries have holes, go back, or are of a kind that is not used.
    #[error("its entries are not in order")]
    Entries,
    /// It contradicts what is committed here.
    #[error("it contradicts what is committed")]
    Conflict,
    /// Its snapshot does not decode.
    #[error("its snapshot does not decode")]
    Snapshot,
    /// It names entries that do not exist.
    #[error("it names entries beyond the log's end")]
    Beyond,
}

/// Why a proposal was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Not now.
    #[error(transparent)]
    Unusable(#[from] Unusable),
    /// Somebody else decides.
    #[error("this node does not coordinate; ask {}", coordinator_text(*.coordinator))]
    NotCoordinator {
        /// Who does, as far as known.
        coordinator: Option<NodeId>,
    },
    /// Longer than any decision.
    #[error("a proposal of {0} bytes, at most {PROPOSAL_BYTES_MAX} are taken")]
    TooLong(usize),
    /// Too many wait for a majority, or the log waits for a snapshot, or a transfer is under way.
    /// Try again.
    #[error("too much waits for a majority; try again")]
    Busy,
}

/// Why a change of the membership was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// Not now, or not here.
    #[error(transparent)]
    Propose(#[from] ProposeError),
    /// Another change is not through, or this coordinator has not yet learned that it is.
    #[error("another change is under way; try again")]
    Pending,
    /// It makes no sense as things are.
    #[error(transparent)]
    Misfit(#[from] Misfit),
    /// The learner lacks entries.
    #[error("{node} lacks {lag} entries; try again when it has caught up")]
    Behind {
        /// The learner.
        node: NodeId,
        /// How many.
        lag: u64,
    },
    /// The coordinator would remove itself.
    #[error("{0} coordinates; transfer that to another voter first")]
    Coordinates(NodeId),
    /// The voters after the change would not have a majority in reach.
    #[error("after this change {reached} voters would be in reach, {needed} are needed")]
    NoMajority {
        /// In reach now.
        reached: usize,
        /// A majority.
        needed: usize,
    },
}

/// Why the office cannot be handed to that node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransferError {
    /// Not now, or not here.
    #[error(transparent)]
    Propose(#[from] ProposeError),
    /// Only voters coordinate.
    #[error("{0} is no voter")]
    NotAVoter(NodeId),
    /// It has not been heard of for a while.
    #[error("{0} is silent")]
    Silent(NodeId),
}

/// Why a snapshot was not taken.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// Not now.
    #[error(transparent)]
    Unusable(#[from] Unusable),
    /// More than goes in one message.
    #[error("a state of {0} bytes, at most {SNAPSHOT_BYTES_MAX} are taken")]
    TooLong(usize),
    /// Not between the last snapshot and the last entry handed out.
    #[error("a state as of entry {index}, it can be from {first} to {applied}")]
    Index {
        /// What the driver says.
        index: u64,
        /// One after the last snapshot.
        first: u64,
        /// The last entry handed out.
        applied: u64,
    },
    /// The file failed, and the engine has halted.
    #[error(transparent)]
    Store(#[from] StoreError),
}

fn coordinator_text(coordinator: Option<NodeId>) -> String {
    coordinator.map_or_else(|| "again when one is elected".to_owned(), |node| node.to_string())
}
