//! What the agreed state wants of one node.

use super::Record;
use crate::cluster::sync::Rule;
use crate::cluster::{Stage, State};
use crate::ids::{Attempt, Epoch, NodeId};

/// What a node is to do with its PostgreSQL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Goal {
    /// Nothing: the cluster has not begun, or does not know this directory yet.
    Idle,
    /// Remove the upstream durably, replay the local log to its end, then report. A primary ends.
    Freeze {
        /// The epoch that is left.
        epoch: Epoch,
        /// The attempt.
        attempt: Attempt,
    },
    /// Become primary; let in members only.
    Promote {
        /// The epoch.
        epoch: Epoch,
        /// The rule to start with.
        rule: Rule,
        /// The rule's number.
        change: u64,
    },
    /// Serve.
    Serve {
        /// The epoch.
        epoch: Epoch,
        /// The rule to run; while it changes, the one to come.
        rule: Rule,
    },
    /// Serve, and make a checkpoint, for a switchover.
    Prepare {
        /// The epoch.
        epoch: Epoch,
        /// The rule to run.
        rule: Rule,
    },
    /// End cleanly, for a switchover.
    StepDown {
        /// The epoch that is left.
        epoch: Epoch,
    },
    /// Receive from the new primary, if the directory allows it as it is.
    Follow {
        /// The epoch.
        epoch: Epoch,
        /// The new primary.
        upstream: NodeId,
    },
    /// Receive from the primary, whatever that takes.
    Rejoin {
        /// The epoch.
        epoch: Epoch,
        /// The primary.
        upstream: NodeId,
    },
}

impl Goal {
    /// How new it is: a node that once obeyed a newer one does not obey this one.
    pub(super) fn stamp(&self) -> Option<(Epoch, Attempt)> {
        match self {
            Self::Idle => None,
            Self::Freeze { epoch, attempt } => Some((*epoch, *attempt)),
            Self::Promote { epoch, .. }
            | Self::Serve { epoch, .. }
            | Self::Prepare { epoch, .. }
            | Self::StepDown { epoch }
            | Self::Follow { epoch, .. }
            | Self::Rejoin { epoch, .. } => Some((*epoch, Attempt(0))),
        }
    }
}

/// What the state wants of this node with what its record says.
#[must_use]
pub fn goal(state: &State, me: NodeId, record: &Record) -> Goal {
    let Some(tenure) = state.tenure() else { return Goal::Idle };
    let (epoch, upstream) = (tenure.epoch, tenure.holder);
    let kept = record.kept.as_ref().map(|kept| kept.directory);
    let known = state.members().get(&me).map(|member| member.incarnation);
    let is_known = known.is_some_and(|known| known == record.directory || Some(known) == kept);
    if !is_known {
        // A node that is new, or whose directory is not whole, gets a copy of the primary's: of one
        // that is not established, too, which may be waiting for just this standby. It has nothing
        // to lose, should that epoch come to nothing.
        let needs_copy = !record.is_whole && upstream != me && !state.is_gone(me);
        let may_copy = needs_copy && state.sealed().is_none();
        return if may_copy { Goal::Rejoin { epoch, upstream } } else { Goal::Idle };
    }
    let is_holder = upstream == me && tenure.incarnation == record.directory;
    if let Some(attempt) = state.sealed() {
        return Goal::Freeze { epoch, attempt };
    }
    match (is_holder, tenure.is_established) {
        (true, false) => Goal::Promote { epoch, rule: tenure.rule.clone(), change: tenure.change },
        (true, true) => {
            let rules = state.established().and_then(|established| established.rules.last());
            let rule = rules.unwrap_or(&tenure.rule).clone();
            match state.stage() {
                Some(Stage::Prepares) => Goal::Prepare { epoch, rule },
                Some(Stage::Stops) => Goal::StepDown { epoch },
                Some(Stage::Holds) | None => Goal::Serve { epoch, rule },
            }
        }
        (false, false) => Goal::Follow { epoch, upstream },
        (false, true) => Goal::Rejoin { epoch, upstream },
    }
}
