//! What a decision is made from.

use alloc::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::cluster::{Report, State};
use crate::ids::{BootTime, Epoch, Lsn, NodeId, Timeline};

/// How a PostgreSQL stands, in its agent's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Postgres {
    /// The postmaster has ended.
    Dead,
    /// It accepts no connection, or a query does not return, or its disk does not answer.
    Hung,
    /// It replays or streams; it may serve reads.
    Standby,
    /// It accepts writes, or will once it is opened.
    Primary,
}

/// What the coordinator last heard from a node's agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observation {
    /// When, by the coordinator's clock.
    pub heard: BootTime,
    /// The newest epoch that the agent had applied when it said this.
    pub epoch: Epoch,
    /// How its PostgreSQL stands.
    pub postgres: Postgres,
    /// What its frozen directory reports; counts for one attempt only.
    pub report: Option<Report>,
    /// On the primary: whether its recovery has ended and the standbys of its rule have flushed
    /// past that. On others meaningless.
    pub recovered: Option<Recovered>,
    /// On the primary: the newest change of the rule that every walsender runs and whose members
    /// have flushed all that came before it.
    pub settled_change: u64,
    /// On a standby: whether it streams from the newest epoch's primary.
    pub is_streaming: bool,
}

/// What the agent of a new primary says once it could open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recovered {
    /// The timeline it is on.
    pub timeline: Timeline,
    /// Where that timeline left the one before.
    pub switch: Lsn,
    /// The end of recovery; the rule's standbys have flushed past it.
    pub end: Lsn,
}

/// What operators have chosen; agreed on by the quorum, not by this view's maker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// How many standbys shall have flushed a commit, where that many live.
    pub sync_standbys: usize,
    /// How long an agent may be silent before it counts as gone, in milliseconds.
    pub silent_ms_max: u64,
    /// How long a new primary may take until it is established, in milliseconds.
    pub establish_ms_max: u64,
    /// How long an attempt waits for better reports than those of the old primary's own directory,
    /// in milliseconds.
    pub attempt_ms_max: u64,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            sync_standbys: 1,
            silent_ms_max: 2_000,
            establish_ms_max: 30_000,
            attempt_ms_max: 5_000,
        }
    }
}

/// Everything that a decision may depend on, beside the time.
#[derive(Clone, Debug)]
pub struct View<'a> {
    /// What the quorum has agreed on, as far as the coordinator has applied it.
    pub state: &'a State,
    /// The coordinator's term.
    pub term: u64,
    /// What is known of each node.
    pub nodes: &'a BTreeMap<NodeId, Observation>,
    /// The voters that have not been asked for the primary's lease for too long.
    pub missed_renewals: BTreeSet<NodeId>,
    /// When the coordinator saw the newest epoch begin.
    pub tenure_since: BootTime,
    /// When the coordinator saw the newest epoch sealed.
    pub sealed_since: BootTime,
    /// Whether an operator has paused automatic failover.
    pub is_paused: bool,
    /// What operators have chosen.
    pub policy: Policy,
}

impl View<'_> {
    /// Whether the node's agent was heard lately.
    #[must_use]
    pub fn is_alive(&self, node: NodeId, now: BootTime) -> bool {
        self.nodes
            .get(&node)
            .is_some_and(|seen| now < seen.heard.after_ms(self.policy.silent_ms_max))
    }
}
