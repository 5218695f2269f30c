//! Orders to agents, and the gate that keeps old ones out.

use core::fmt;

use serde::{Deserialize, Serialize};

use crate::cluster::sync::Rule;
use crate::ids::{Attempt, Epoch, NodeId};

/// What an agent is to do. Each may be repeated without harm.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Order {
    /// Remove the upstream durably and keep that over restarts, replay the local log to its end,
    /// then report. A primary stops its PostgreSQL first.
    Freeze,
    /// Under the epoch's lease: write the epoch and the rule durably, promote, let in members only.
    Promote {
        /// The rule to start with.
        rule: Rule,
    },
    /// Write the epoch durably and stream from this node.
    Follow {
        /// The new primary.
        upstream: NodeId,
    },
    /// Give the directory the primary's history again, by rewinding or cloning it.
    Rejoin {
        /// The primary.
        upstream: NodeId,
    },
}

/// How new an order is. Compared in this order: a later coordinator overrides an earlier one, then
/// a later epoch, then a later attempt in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Stamp {
    /// The coordinator's term.
    pub term: u64,
    /// The newest epoch when the order was made.
    pub epoch: Epoch,
    /// The attempt to leave that epoch; zero while there is none.
    pub attempt: Attempt,
}

/// An order is older than one that was obeyed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stale {
    /// The stamp of the order.
    pub found: Stamp,
    /// The newest stamp obeyed so far.
    pub newest: Stamp,
}

impl fmt::Display for Stale {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "an order of {:?} came after one of {:?}", self.found, self.newest)
    }
}

impl core::error::Error for Stale {}

/// Remembers the newest stamp that an agent has obeyed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gate {
    newest: Option<Stamp>,
}

impl Gate {
    /// Lets an order in if none newer was. The driver makes the gate durable before it obeys.
    ///
    /// # Errors
    /// When the order is stale.
    pub fn admit(&mut self, found: Stamp) -> Result<(), Stale> {
        match self.newest {
            Some(newest) if found < newest => Err(Stale { found, newest }),
            _ => {
                self.newest = Some(found);
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(term: u64, epoch: u64, attempt: u64) -> Stamp {
        Stamp { term, epoch: Epoch(epoch), attempt: Attempt(attempt) }
    }

    #[test]
    fn orders_of_an_older_coordinator_epoch_or_attempt_are_refused() {
        let mut gate = Gate::default();
        let newest = stamp(5, 3, 2);
        assert_eq!(gate.admit(newest), Ok(()));
        assert_eq!(gate.admit(newest), Ok(()), "a repeated order is no old one");
        for found in [stamp(4, 9, 9), stamp(5, 2, 9), stamp(5, 3, 1)] {
            assert_eq!(gate.admit(found), Err(Stale { found, newest }));
        }
        assert_eq!(gate.admit(stamp(6, 3, 0)), Ok(()));
    }
}
