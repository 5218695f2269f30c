//! The decision: from what is known to what the quorum is to agree on next.
//!
//! [`decide`] looks at the replicated state and at what the coordinator has heard, and names the
//! next entries. It keeps nothing between calls: it can be called as often as anything changes, by
//! any coordinator, and says the same for the same view. What it proposes is checked again by
//! [`State::apply`], and nodes do what follows from the entries ([`crate::agent`]). So a wrong or
//! late coordinator costs time, not commits.

mod election;
mod keep;
mod share;
mod steady;
mod view;

pub use view::{LogMember, View};

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

use serde::{Deserialize, Serialize};

use crate::cluster::{Entry, State, Tenure, Void};
use crate::facts::Postgres;
use crate::ids::{Attempt, BootTime, Incarnation, NodeId};
use crate::lease::Kind;

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// Propose an entry to the quorum.
    Propose(Entry),
    /// Change who has the log. The engine refuses what it cannot do yet.
    Change(Change),
    /// Nothing more can be done now, and why. It is what `pgx ctl status` shows.
    Wait(Reason),
}

/// A change of who has the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Change {
    /// Let a node have the log; it does not count yet.
    Add {
        /// The node.
        node: NodeId,
        /// The installation that it made for this.
        installation: Incarnation,
    },
    /// Let it count.
    Promote {
        /// The node.
        node: NodeId,
    },
    /// Take it from the log.
    Remove {
        /// The node.
        node: NodeId,
    },
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
    /// These nodes may still go by an earlier epoch; their leases are running out.
    Confirmation {
        /// The nodes.
        missing: Vec<NodeId>,
    },
    /// The primary is being stopped, and the next one receives the last of its log.
    Switchover {
        /// Who is to serve next.
        to: NodeId,
    },
    /// An operator has paused automatic failover.
    Paused,
}

impl fmt::Display for Reason {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Release => out.write_str("the lease of the old primary is running out"),
            Self::Reports { missing } => {
                let missing = list(missing);
                write!(
                    out,
                    "the reports so far may lack an acknowledged commit; not reported: {missing}"
                )
            }
            Self::Establishment { holder } => write!(out, "node {holder} is becoming primary"),
            Self::Confirmation { missing } => {
                write!(out, "may still go by an earlier epoch: {}", list(missing))
            }
            Self::Switchover { to } => {
                write!(out, "the primary stops, node {to} receives its last word")
            }
            Self::Paused => out.write_str("failover is paused; 'pgx ctl resume' lets it go on"),
        }
    }
}

/// Nodes as people list them.
pub(crate) fn list(nodes: &[NodeId]) -> String {
    nodes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// Names the next steps. `now` is the coordinator's clock, by which the view was taken.
#[must_use]
pub fn decide(view: &View<'_>, now: BootTime) -> Vec<Action> {
    let mut actions: Vec<_> = keep::next(view, now).into_iter().map(Action::Propose).collect();
    actions.extend(keep::change_log(view, now).into_iter().map(Action::Change));
    let Some(tenure) = view.state.tenure() else {
        // An operator begins the cluster; until then there is nobody to replace.
        return actions;
    };
    if let Some(attempt) = view.state.sealed() {
        actions.push(election::next(view, tenure.epoch, attempt, now));
    } else if suspects(view, tenure, now) {
        actions.push(if view.state.is_paused() {
            Action::Wait(Reason::Paused)
        } else {
            Action::Propose(seal(tenure))
        });
    } else if tenure.is_established {
        actions.extend(steady::next(view, tenure, now));
    } else {
        actions.extend(election::install(view, tenure, now));
    }
    actions
}

/// The entry that begins an attempt to replace the holder of the newest epoch.
#[must_use]
pub fn seal(tenure: &Tenure) -> Entry {
    Entry::Seal { epoch: tenure.epoch, attempt: Attempt(1) }
}

/// Whether the holder of the newest epoch is to be replaced.
#[must_use]
pub fn suspects(view: &View<'_>, tenure: &Tenure, now: BootTime) -> bool {
    let policy = view.state.policy();
    let said = view.nodes.get(&tenure.holder).and_then(|seen| seen.facts.agent.as_ref());
    let is_dead = said.is_some_and(|agent| {
        // Its own agent says so: no need to wait for silence. What it said of an earlier epoch
        // is about an earlier life.
        agent.epoch == Some(tenure.epoch)
            && matches!(agent.postgres, Postgres::Dead | Postgres::Hung)
    });
    let is_silent = view.is_missed(Kind::Primary, tenure.epoch.0, now);
    // Once promoted it has done its part: nobody would do better who waits for the same standbys.
    let is_promoted = said.is_some_and(|agent| agent.promoted == Some(tenure.epoch));
    let is_overdue = !tenure.is_established
        && !is_promoted
        && now >= view.tenure_since.after_ms(policy.establish_ms_max);
    is_dead || is_silent || is_overdue
}

/// The standby that could take over best without loss, if any could.
#[must_use]
pub fn best_standby(view: &View<'_>, now: BootTime) -> Option<NodeId> {
    steady::best_standby(view, view.state.tenure()?, now)
}

/// Whether a node could take over without loss as things stand.
#[must_use]
pub fn could_take_over(view: &View<'_>, node: NodeId, now: BootTime) -> bool {
    let tenure = view.state.tenure();
    tenure.is_some_and(|tenure| steady::standby(view, tenure, node, now).is_some())
}

/// What would become of the state: for dry runs, and to leave out what would be void anyway.
///
/// # Errors
/// Why the entry would be void in this state.
pub fn rehearse(state: &State, entry: &Entry) -> Result<State, Void> {
    let mut rehearsed = state.clone();
    rehearsed.apply(entry).map(|()| rehearsed)
}

#[cfg(test)]
mod tests;
