//! The fence in replies of the admin socket: by what it stands, where, and how far the gate is
//! open.

use alloc::string::String;
use alloc::vec::Vec;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The fence around one host's PostgreSQL.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FenceStatus {
    /// By what means: `programs`, `nftables` or `none`.
    pub means: String,
    /// Why by no better ones, and what is lost by that; empty when nothing is.
    pub cause: String,
    /// PostgreSQL's port.
    pub port: u16,
    /// How far the gate is open now: `shut`, `peers`, `open`; `unknown` where nobody can tell.
    pub gate: String,
    /// The primary lease's word.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub primary: Option<WordStatus>,
    /// The member lease's word.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub member: Option<WordStatus>,
    /// The lowest epoch that may open.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub floor: Option<u64>,
    /// The epoch up to which an operator fences this host.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub fenced_up_to: Option<u64>,
    /// The hosts whose PostgreSQL may serve nobody by the agreed state: nothing that comes from it
    /// is let in here.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub fenced: Vec<String>,
    /// Where it stands.
    pub places: Vec<PlaceStatus>,
    /// What each hook did when it was tried out at the start, the best first.
    pub rehearsals: Vec<RehearsalStatus>,
    /// Packets by verdict of the fence, sorted by name, those without packets left out.
    pub packets: Vec<(String, u64)>,
}

/// What a lease's word says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WordStatus {
    /// The epoch that it was given in.
    pub epoch: u64,
    /// What is left of it in milliseconds; 0 when it has run out.
    pub remaining_ms: u64,
    /// How far it opens.
    pub gate: String,
}

/// An interface or a cgroup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PlaceStatus {
    /// The interface's name, or the cgroup's folder.
    pub at: String,
    /// The hook that what comes in meets; empty when there is none.
    pub incoming: String,
    /// The same for what leaves.
    pub outgoing: String,
    /// What real packets showed: `seen` that they end there, `missed`, or why none was sent.
    pub trial: String,
    /// Why a better hook was not to be had; empty when the best one is there.
    pub cause: String,
}

/// What a hook did with a real packet, in a network of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RehearsalStatus {
    /// The hook.
    pub hook: String,
    /// Why it does not work; empty when it does.
    pub failure: String,
}
