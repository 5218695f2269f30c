//! What operators ask of the cluster, and what becomes of it.

use pgx_control::admin::SharedChange;
use pgx_control::cluster::{Entry, Role};
use pgx_control::decide::Action;
use pgx_control::ids::NodeId;
use serde::{Deserialize, Serialize};

/// What an operator asks. Any node takes it; it is carried out by whoever coordinates.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Request {
    /// Begin the cluster with the directory of this node, which is its primary then.
    Bootstrap {
        /// The node.
        node: NodeId,
    },
    /// Change settings that all nodes share.
    Edit(SharedChange),
    /// Let a node belong to the cluster, or no more.
    Node {
        /// The node.
        node: NodeId,
        /// Where the others reach it.
        address: String,
        /// What it shall be.
        role: Role,
    },
    /// Make another node primary, without loss and without errors to clients.
    Switchover {
        /// The node; `None` for the best standby.
        to: Option<NodeId>,
    },
    /// The same later.
    Schedule {
        /// The node; `None` for the best standby then.
        to: Option<NodeId>,
        /// When, in milliseconds since 1970.
        at_ms: u64,
    },
    /// Make a node primary: by a switchover while the primary serves, and else by the failover that
    /// nobody has begun yet, in which whoever has most of the log is elected.
    Promote {
        /// The node.
        to: NodeId,
    },
    /// Spare a node: nobody is sent there who only reads, and it becomes primary only if no other
    /// can. Or end that.
    Detach {
        /// The node.
        node: NodeId,
        /// Whether it is detached from here on.
        is_detached: bool,
    },
    /// Give a switchover up, one that is to come or the one under way, while that is possible.
    CancelSwitchover,
    /// Replace the primary though it seems well.
    Failover,
    /// Let the failover under way lose acknowledged commits, since the nodes that have them do not
    /// come back.
    AcceptLoss,
    /// Leave failover to operators, or take it back.
    Pause {
        /// Whether it pauses.
        is_paused: bool,
    },
    /// Let another voter coordinate.
    Transfer {
        /// The voter.
        to: NodeId,
    },
}

/// What a request would do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rehearsal {
    /// What it would propose.
    pub entries: Vec<Entry>,
    /// What would be decided next, from what is known now.
    pub then: Vec<Action>,
}

/// What became of a request.
pub type Answer = Result<(), Unanswered>;

/// Why a request was not carried out. Text for operators is in its display.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "kebab-case")]
pub enum Unanswered {
    /// Nobody coordinates now; a retry may work.
    #[error("no majority of voters is in reach, so nothing can be agreed on; try again")]
    NoCoordinator,
    /// The cluster's rules do not allow it now.
    #[error("refused: {reason}")]
    Void {
        /// Why.
        reason: String,
    },
    /// The node to begin with has said nothing of a data directory.
    #[error("node {0} has not told of a PostgreSQL data directory; is its [postgres] running?")]
    NoDirectory(NodeId),
    /// The number is or was somebody's.
    #[error("number {node} was given before; give the new node number {next}")]
    NumberUsed {
        /// The number.
        node: NodeId,
        /// The lowest that is free.
        next: NodeId,
    },
    /// Some node could not read what is to be recorded.
    #[error(
        "node {0} runs an earlier release, or is not heard; this takes a later one on all nodes"
    )]
    Earlier(NodeId),
    /// It shall be done at a time that is over, or far away.
    #[error("that time is over by the clock of whoever coordinates, or more than a year away")]
    Time,
    /// This node could not take over.
    #[error(
        "node {0} could not take over without loss: it is the primary, or does not stream from it, \
         or commits do not wait for it; 'pgx ctl nodes' says which"
    )]
    CannotTakeOver(NodeId),
    /// The primary is being replaced.
    #[error("the primary is being replaced; 'pgx ctl status' says what that waits for")]
    UnderWay,
    /// No standby could take over.
    #[error("no standby streams from the primary, so none can take over without loss")]
    NoCandidate,
    /// There was no outcome in time; it may still be carried out.
    #[error("no outcome in time; it may still be carried out, 'pgx ctl status' shows it")]
    Late,
    /// Too many requests at once.
    #[error("too many requests at once; try again")]
    Busy,
    /// Not while a majority is missing, or while another change of members runs.
    #[error("the quorum does not take it now: {reason}")]
    Quorum {
        /// Why.
        reason: String,
    },
}
