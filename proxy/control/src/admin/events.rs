//! What has happened to the cluster, in replies of the admin socket.

use alloc::string::String;
use alloc::vec::Vec;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Trouble;

/// Something that was agreed on or found, as one node has seen it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Event {
    /// When this node saw it, in milliseconds since 1970 (UTC).
    pub at_ms: u64,
    /// Its place in the log, for what was agreed on.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub index: Option<u64>,
    /// What it was, in a sentence.
    pub text: String,
}

/// A change of primary from its beginning until the next one served, as one node has seen it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ChangeReport {
    /// The epoch that serves since.
    pub epoch: u64,
    /// Who was primary.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub from: Option<u64>,
    /// Who is since.
    pub to: u64,
    /// Whether operators asked for it.
    pub is_switchover: bool,
    /// When it began, in milliseconds since 1970 (UTC).
    pub began_ms: u64,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
    /// What was wrong when it began; only the node that coordinated knows.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub seen: Vec<Trouble>,
    /// What was done.
    pub steps: Vec<Step>,
    /// What may be in doubt, in a sentence.
    pub doubt: String,
}

/// One step of a change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Step {
    /// Milliseconds from the beginning of the change.
    pub after_ms: u64,
    /// What it was, in a sentence.
    pub text: String,
}
