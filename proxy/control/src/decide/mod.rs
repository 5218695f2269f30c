//! The decision: from what is known to what is to be done, without doing it.
//!
//! [`decide`] looks at the replicated state and at what the coordinator has observed, and names the
//! next steps. It keeps nothing between calls: it can be called as often as anything changes, by
//! any coordinator, and says the same for the same view. What it proposes is checked again by
//! [`State::apply`]; what it orders is stamped, and agents obey no order that is older than one
//! they have seen ([`Gate`]). So a wrong or late coordinator costs time, not commits.

mod election;
mod orders;
mod steady;
mod view;

pub use orders::{Gate, Order, Stale, Stamp};
pub use view::{Observation, Policy, Postgres, Recovered, View};

use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use crate::cluster::{Entry, State, Void};
use crate::ids::{Attempt, BootTime, Epoch, NodeId};

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// Propose an entry to the quorum.
    Propose(Entry),
    /// Tell a node's agent what to do. Orders may be repeated: agents know what they have done.
    Order {
        /// The node.
        to: NodeId,
        /// How new the order is.
        stamp: Stamp,
        /// What to do.
        order: Order,
    },
    /// Nothing more can be done now, and why. It is what `pgx ctl status` shows.
    Wait(Reason),
}

/// What a failover waits for, in the words of an operator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// The voters' promises to the old primary have not run out yet.
    Release,
    /// The reports so far may lack an acknowledged commit; these nodes have not reported.
    Reports {
        /// The nodes whose reports would help.
        missing: Vec<NodeId>,
    },
    /// The new primary has not finished recovery, or its standbys have not caught up.
    Establishment {
        /// The new primary.
        holder: NodeId,
    },
    /// An operator has paused automatic failover.
    Paused,
}

/// Names the next steps. `now` is the coordinator's clock, by which the view was taken.
#[must_use]
pub fn decide(view: &View<'_>, now: BootTime) -> Vec<Action> {
    let Some(tenure) = view.state.tenure() else {
        // An operator begins the cluster; until then there is nothing to decide.
        return Vec::new();
    };
    if let Some(attempt) = view.state.sealed() {
        return election::next(view, tenure.epoch, attempt, now);
    }
    if suspects(view, now) {
        if view.is_paused {
            return alloc::vec![Action::Wait(Reason::Paused)];
        }
        let (epoch, attempt) = (tenure.epoch, Attempt(1));
        return alloc::vec![Action::Propose(Entry::Seal { epoch, attempt })];
    }
    if tenure.is_established {
        steady::next(view, tenure, now)
    } else {
        election::install(view, tenure)
    }
}

/// Whether the holder of the newest epoch is to be replaced.
fn suspects(view: &View<'_>, now: BootTime) -> bool {
    let Some(tenure) = view.state.tenure() else { return false };
    let is_dead = view.nodes.get(&tenure.holder).is_some_and(|holder| {
        // Its own agent says so: no need to wait for silence. What it said of an earlier epoch
        // is about an earlier life.
        holder.epoch == tenure.epoch && matches!(holder.postgres, Postgres::Dead | Postgres::Hung)
    });
    let is_silent = view.state.membership().has_majority(&view.missed_renewals);
    let is_overdue =
        !tenure.is_established && now >= view.tenure_since.after_ms(view.policy.establish_ms_max);
    is_dead || is_silent || is_overdue
}

/// The error of an entry that this crate proposes, as a test and a dry run want to see it.
///
/// # Errors
/// Why the entry would be void in this state.
pub fn rehearse(state: &State, entry: &Entry) -> Result<State, Void> {
    let mut rehearsed = state.clone();
    rehearsed.apply(entry).map(|()| rehearsed)
}

/// The stamp of this view's orders.
fn stamp(view: &View<'_>, epoch: Epoch, attempt: Attempt) -> Stamp {
    Stamp { term: view.term, attempt, epoch }
}

#[cfg(test)]
mod tests;
