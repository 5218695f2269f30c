//! What a decision is made from.

use alloc::collections::BTreeMap;

use crate::cluster::State;
use crate::facts::{AgentFacts, Observation, VoterFacts};
use crate::ids::{BootTime, NodeId};
use crate::lease::Kind;

/// A member of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogMember {
    /// Whether it counts.
    pub is_voter: bool,
    /// Whether it was heard lately, or the coordinator is too new to know.
    pub is_heard: bool,
}

/// Everything that a decision may depend on, beside the time.
#[derive(Clone, Debug)]
pub struct View<'a> {
    /// What the quorum has agreed on, as far as the coordinator has applied it.
    pub state: &'a State,
    /// What is known of each node, the coordinator's own included.
    pub nodes: &'a BTreeMap<NodeId, Observation>,
    /// Who has the log itself. Those who count for leases follow its voters one by one.
    pub log: &'a BTreeMap<NodeId, LogMember>,
    /// Milliseconds since 1970 by the coordinator's clock; zero if it has not been told. Only what
    /// operators want at some time goes by it.
    pub wall_ms: u64,
    /// When the coordinator saw the newest epoch begin.
    pub tenure_since: BootTime,
    /// When the coordinator saw the newest epoch sealed.
    pub sealed_since: BootTime,
    /// When the coordinator saw the switchover begin.
    pub handover_since: BootTime,
    /// When the coordinator saw the switchover come to its stage.
    pub stage_since: BootTime,
}

impl View<'_> {
    /// Whether the node was heard lately.
    #[must_use]
    pub fn is_alive(&self, node: NodeId, now: BootTime) -> bool {
        self.alive(node, now).is_some()
    }

    /// What is known of a node that was heard lately.
    #[must_use]
    pub fn alive(&self, node: NodeId, now: BootTime) -> Option<&Observation> {
        let silent_ms_max = self.state.policy().silent_ms_max;
        self.nodes.get(&node).filter(|seen| now < seen.heard.after_ms(silent_ms_max))
    }

    /// What its agent says of a node's PostgreSQL, if it was heard lately.
    #[must_use]
    pub fn agent(&self, node: NodeId, now: BootTime) -> Option<&AgentFacts> {
        self.alive(node, now)?.facts.agent.as_ref()
    }

    /// Whether a majority of the voters has missed the renewals of a right. Several observers: one
    /// that is cut off from a holder takes nothing from it.
    #[must_use]
    pub fn is_missed(&self, kind: Kind, number: u64, now: BootTime) -> bool {
        let voters = self.state.membership().voters.iter().copied();
        let missing = voters.filter(|voter| {
            self.voter(*voter, now).is_some_and(|said| said.missed.get(&kind) == Some(&number))
        });
        self.state.membership().has_majority(&missing.collect())
    }

    /// What a voter that was heard lately says about leases.
    #[must_use]
    pub fn voter(&self, node: NodeId, now: BootTime) -> Option<&VoterFacts> {
        self.alive(node, now)?.facts.voter.as_ref()
    }
}
