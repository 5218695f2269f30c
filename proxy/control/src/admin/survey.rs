//! The cluster in replies of the admin socket: its nodes as the coordinator sees them, and what is
//! wrong, each with what to do about it.

use alloc::string::String;
use alloc::vec::Vec;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::cluster::Role;
use crate::facts::Postgres;

/// The cluster as its coordinator sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Survey {
    /// Who that is.
    pub coordinator: u64,
    /// All nodes that it knows, by their numbers.
    pub nodes: Vec<NodeView>,
    /// What is wrong with the cluster, the most pressing first.
    pub troubles: Vec<Trouble>,
}

/// One node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NodeView {
    /// Its number.
    pub id: u64,
    /// Where the others reach it; empty where no operator has said so.
    pub address: String,
    /// What operators want it to be; absent where none has named it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub role: Option<Role>,
    /// Milliseconds since it was heard; absent if it was not since this coordinator began.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub heard_ms: Option<u64>,
    /// Whether that is recent enough.
    pub is_alive: bool,
    /// The nodes that it does not hear and that do not hear it, though the coordinator hears all.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub parted_from: Vec<u64>,
    /// The newest epoch that every part of it goes by.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub epoch: Option<u64>,
    /// Whether it is known to have a directory of the cluster, heard or not.
    #[serde(default)]
    pub is_member: bool,
    /// Whether operators have detached it.
    #[serde(skip_serializing_if = "core::ops::Not::not", default)]
    pub is_detached: bool,
    /// Its PostgreSQL as it was last heard; absent where there is none.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub postgres: Option<PostgresView>,
    /// Whether it runs a proxy.
    pub is_proxy: bool,
    /// The leases of addresses that the quorum wants here.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub addresses: Vec<u32>,
}

/// A node's PostgreSQL.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PostgresView {
    /// How it stands.
    pub state: Postgres,
    /// Whether the quorum wants it to be the primary.
    pub is_holder: bool,
    /// The timeline it is on.
    pub timeline: u32,
    /// How far it has flushed or replayed, whichever is further.
    pub end: String,
    /// Bytes that the primary has and this one lacks, as both were last heard.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub lag_bytes: Option<u64>,
    /// The node that it streams from.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub streams_from: Option<u64>,
    /// Whether it is one of those that a commit waits for.
    pub is_sync: bool,
    /// Whether it may become primary without loss: it streams, and has done so for a while.
    pub is_steady: bool,
    /// On a standby that is detached: whether no client has a transaction open.
    #[serde(skip_serializing_if = "core::ops::Not::not", default)]
    pub is_idle: bool,
    /// Among equals the higher one is preferred as primary.
    pub priority: u32,
}

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Trouble {
    /// What it is, in one sentence.
    pub cause: String,
    /// What to do next, in another.
    pub next: String,
}

impl Trouble {
    /// A cause and the next step.
    #[must_use]
    pub fn new(cause: impl Into<String>, next: impl Into<String>) -> Self {
        Self { cause: cause.into(), next: next.into() }
    }
}
