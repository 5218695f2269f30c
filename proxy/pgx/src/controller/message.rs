//! What nodes say to each other beside Raft and leases: facts, and operators' requests on their way
//! to whoever coordinates.

use pgx_control::facts::Facts;
use pgx_controller::{Request, Unanswered};
use serde::{Deserialize, Serialize};

/// A message on the channel `Control`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Said {
    /// What the sender knows.
    Facts(Box<Facts>),
    /// An operator's request that came to the sender, for the coordinator.
    Ask {
        /// The sender's number for it.
        number: u64,
        /// What is asked.
        question: Question,
    },
    /// What became of it.
    Answer {
        /// The asker's number for it.
        number: u64,
        /// What became of it.
        outcome: Outcome,
    },
}

/// What an operator wants to be done, or to know.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Question {
    /// Do it.
    Do(Request),
    /// Say what would be done.
    Rehearse(Request),
}

/// What became of it: lines for the operator.
pub(crate) type Outcome = Result<Vec<String>, Unanswered>;
