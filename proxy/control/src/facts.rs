//! What a node says of itself and of others, again and again: the only thing that nodes tell the
//! coordinator.
//!
//! Facts are levels, not events. A message that is lost, doubled or late costs time and nothing
//! else, because the next one says it all again; and what the coordinator makes of them is checked
//! when it is applied. Every node has the agreed state itself, so nobody needs to be told what to
//! do: see [`crate::agent`].

use alloc::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::cluster::{Proxy, Report};
use crate::ids::{BootTime, Epoch, Incarnation, Lsn, NodeId, SystemId, Timeline, VipId};
use crate::lease::Kind;

/// What one node says. Fields that a later release adds have defaults; a reader of an earlier one
/// skips them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// The node's life that says it; a later life has a higher number.
    pub life: u64,
    /// Grows with each message of one life.
    pub sequence: u64,
    /// The newest epoch that every part of the node goes by: leases, agent, proxy. `None` before
    /// the cluster has begun.
    pub epoch: Option<Epoch>,
    /// The node's installation, for leases that go with no data directory.
    pub installation: Incarnation,
    /// Whether it wants to hold leases: it has an agent or a proxy.
    pub wants_leases: bool,
    /// The membership that its leases count in, or a later one.
    pub counts_in: u64,
    /// The highest version of the log's entries that it can read.
    pub entries_read_max: u16,
    /// What it says as a voter.
    #[serde(default)]
    pub voter: Option<VoterFacts>,
    /// What it says of its PostgreSQL.
    #[serde(default)]
    pub agent: Option<AgentFacts>,
    /// What it says as a proxy.
    #[serde(default)]
    pub proxy: Option<ProxyFacts>,
    /// What it says of its host.
    #[serde(default, skip_serializing_if = "HostFacts::is_empty")]
    pub host: HostFacts,
}

/// What a voter says about leases.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VoterFacts {
    /// The newest epoch that its leases go by.
    #[serde(default)]
    pub epoch: Option<Epoch>,
    /// The oldest membership by which it may hold something, or the newest where it holds nothing.
    #[serde(default)]
    pub counts_in: u64,
    /// What it has refused for ever, on disk, of what the quorum wants released.
    pub released: BTreeMap<Kind, u64>,
    /// The rights that somebody holds and that nobody has renewed with it for too long.
    pub missed: BTreeMap<Kind, u64>,
}

/// How a PostgreSQL stands, in its agent's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Postgres {
    /// It has never run in this life of the agent, or starts.
    Starting,
    /// The postmaster has ended without having been asked to.
    Dead,
    /// It accepts no connection, or a query does not return, or its disk does not answer.
    Hung,
    /// It was stopped because the quorum wanted it so.
    Stopped,
    /// It replays or streams; it may serve reads.
    Standby,
    /// It accepts writes, or will once it is opened.
    Primary,
}

/// What an agent says of its PostgreSQL.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentFacts {
    /// The newest epoch that it goes by.
    pub epoch: Option<Epoch>,
    /// The data directory.
    pub directory: Incarnation,
    /// Of which database system.
    pub system: SystemId,
    /// The timeline it is on.
    pub timeline: Timeline,
    /// Among equals the higher one is preferred as primary.
    pub priority: u32,
    /// How it stands, and in which epoch that was so.
    pub postgres: Postgres,
    /// How far it has flushed or replayed, whichever is further.
    pub end: Lsn,
    /// The primary that it streams from, and the epoch that it does so for.
    pub streams: Option<(NodeId, Epoch)>,
    /// What its frozen directory reports; counts for one attempt only.
    pub report: Option<Report>,
    /// The epoch of its own for which it was promoted and has ended its recovery.
    pub promoted: Option<Epoch>,
    /// On a primary that could open: where its recovery ended.
    pub recovered: Option<Recovered>,
    /// On the primary: the newest change of the rule that every walsender runs and whose members
    /// have flushed all that came before it.
    pub settled_change: u64,
    /// The epoch for whose switchover it has made a checkpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prepared: Option<Epoch>,
    /// In the last stage of a switchover: whether clients have transactions open still.
    #[serde(default, skip_serializing_if = "core::ops::Not::not")]
    pub is_busy: bool,
    /// On the standby of a node that is detached: whether no client has a transaction open.
    #[serde(default, skip_serializing_if = "core::ops::Not::not")]
    pub is_idle: bool,
    /// After a switchover's clean shutdown: the end of the shutdown checkpoint.
    pub shut_down: Option<Lsn>,
}

/// What the agent of a new primary says once it could open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recovered {
    /// The epoch that it was promoted or started for.
    pub epoch: Epoch,
    /// The timeline it is on.
    pub timeline: Timeline,
    /// Where that timeline left the one before.
    pub switch: Lsn,
    /// The end of recovery; the rule's standbys have flushed past it.
    pub end: Lsn,
    /// The number of that rule.
    pub change: u64,
}

/// What a proxy says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProxyFacts {
    /// The newest epoch that it goes by.
    #[serde(default)]
    pub epoch: Option<Epoch>,
    /// The virtual addresses that it could answer for.
    pub vips: BTreeSet<VipId>,
    /// This node's priority for those of them for which it is not zero.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub vip_priorities: BTreeMap<VipId, u32>,
    /// The epoch whose new transactions it holds back, for a switchover.
    pub holds: Option<Epoch>,
    /// How it shares what clients send to virtual addresses; `None` where its host steers nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steers: Option<Steers>,
}

/// What a proxy says whose host steers by the agreed table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Steers {
    /// How it takes part.
    pub proxy: Proxy,
    /// The number of the table by which it steers and by which it has no flows in buckets of
    /// others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settled: Option<u64>,
}

/// What a node says of its host, for operators: no decision goes by any of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostFacts {
    /// The nodes that have just answered it.
    #[serde(default)]
    pub hears: BTreeSet<NodeId>,
    /// Those that have not been connected for
    /// [`LINK_PATIENCE_MS`](crate::limits::LINK_PATIENCE_MS).
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub unheard: BTreeSet<NodeId>,
    /// Those whose answers are late again and again.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub late: BTreeSet<NodeId>,
    /// Bytes that are free on a disk of PostgreSQL, where these are next to none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub free_bytes: Option<u64>,
    /// Milliseconds that such a disk takes for a write, where these are many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub write_ms: Option<u64>,
}

/// What the coordinator last heard from a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observation {
    /// When, by the coordinator's clock.
    pub heard: BootTime,
    /// What it said.
    pub facts: Facts,
    /// Whether commits may depend on it: it streams, and has done so long enough.
    pub is_steady: bool,
}

impl HostFacts {
    /// Whether it says nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl Facts {
    /// The facts of a node that has said nothing yet.
    #[must_use]
    pub fn new(installation: Incarnation) -> Self {
        Self {
            life: 0,
            sequence: 0,
            epoch: None,
            installation,
            wants_leases: false,
            counts_in: 0,
            entries_read_max: 1,
            voter: None,
            agent: None,
            proxy: None,
            host: HostFacts::default(),
        }
    }
}
