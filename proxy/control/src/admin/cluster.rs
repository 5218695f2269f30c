//! The cluster in replies of the admin socket: what one node knows of it.

use alloc::string::String;
use alloc::vec::Vec;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::cluster::{Durability, Policy, Role};
use crate::lease::Settings;

/// The settings that all nodes share. They are part of the agreed state, not of any file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Shared {
    /// What to do when standbys are missing.
    pub durability: Durability,
    /// How long leases last.
    pub lease: Settings,
    /// The conduct of the cluster.
    pub policy: Policy,
}

/// The cluster as one node sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ControlStatus {
    /// The cluster's identity, in hexadecimal: what a joiner is given.
    pub cluster: String,
    /// This node.
    pub node: u64,
    /// Its store, in hexadecimal.
    pub incarnation: String,
    /// Why the engine stands still; empty when it runs.
    pub halted: String,
    /// Who coordinates, as far as known.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub coordinator: Option<u64>,
    /// Whether that is this node and it decides.
    pub decides: bool,
    /// Raft's newest term.
    pub term: u64,
    /// The last entry that this node has applied.
    pub applied_index: u64,
    /// Who has the log.
    pub members: Vec<MemberStatus>,
    /// Who counts for leases.
    pub voters: Vec<u64>,
    /// The nodes that operators have named.
    pub nodes: Vec<NodeStatus>,
    /// The newest epoch; absent before the cluster has begun.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub epoch: Option<EpochStatus>,
    /// What a failover, switchover or promotion waits for; known where this node decides.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub waits: Option<String>,
    /// The leases held here.
    pub leases: Vec<LeaseStatus>,
    /// Whether failover is left to operators.
    pub is_paused: bool,
    /// The switchover that is to come.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub scheduled: Option<ScheduledStatus>,
    /// The settings in force.
    pub settings: Shared,
    /// This host's PostgreSQL, where there is `[postgres]`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub agent: Option<AgentStatus>,
}

/// A member of the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MemberStatus {
    /// Its number.
    pub id: u64,
    /// `voter` or `learner`.
    pub role: String,
    /// Milliseconds since this node heard from it; followers hear from the coordinator alone.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub silent_ms: Option<u64>,
    /// Entries that it lacks; only a coordinator knows.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub lag: Option<u64>,
}

/// A node that operators have named.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NodeStatus {
    /// Its number.
    pub id: u64,
    /// Where the others reach it.
    pub address: String,
    /// What it shall be.
    pub role: Role,
}

/// The newest epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EpochStatus {
    /// Its number.
    pub epoch: u64,
    /// The primary's node.
    pub holder: u64,
    /// Whether it may serve.
    pub is_established: bool,
    /// The attempt to leave it, while there is one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub sealed: Option<u64>,
    /// Who is to serve next, in a switchover.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub handover: Option<u64>,
    /// How many standbys a commit waits for; with 0 it depends on the primary alone.
    #[serde(default)]
    pub sync_standbys: usize,
    /// The nodes of which these may be.
    #[serde(default)]
    pub sync_candidates: Vec<u64>,
}

/// A switchover that is to come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ScheduledStatus {
    /// The node that is to serve then; the best standby then when absent.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub to: Option<u64>,
    /// When, in milliseconds since 1970 by the coordinator's clock.
    pub at_ms: u64,
}

/// A lease held here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LeaseStatus {
    /// `primary`, `member`, `route` or `vip N`.
    pub kind: String,
    /// Orders the holders of this kind.
    pub number: u64,
    /// What is left of it in milliseconds; 0 when it has run out.
    pub remaining_ms: u64,
    /// The least that was left of it at any renewal, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub remaining_ms_least: Option<u64>,
}

/// This host's PostgreSQL as its agent sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AgentStatus {
    /// How PostgreSQL stands.
    pub postgres: String,
    /// The timeline it is on.
    pub timeline: u32,
    /// How far it is known to have flushed.
    pub end: String,
    /// What it is asked again and again.
    #[serde(default)]
    pub probes: Vec<ProbeStatus>,
}

/// One thing that PostgreSQL or a disk of its is asked again and again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ProbeStatus {
    /// `connection`, `query`, `data disk` or `wal disk`.
    pub asks: String,
    /// Milliseconds since the last answer; absent when it is not asked.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub unanswered_ms: Option<u64>,
    /// What the last try met with, or why it is not asked; empty when all is well.
    pub detail: String,
    /// Whether it is not asked for a reason that is expected to end by itself.
    #[serde(skip_serializing_if = "core::ops::Not::not", default)]
    pub passes: bool,
    /// Milliseconds that the fastest of the last writes to this disk took.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub write_ms: Option<u64>,
    /// Bytes that are free on this disk for PostgreSQL.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub free_bytes: Option<u64>,
}
