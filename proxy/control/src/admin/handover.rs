//! What a pgx hands to the one that takes over from it.

use alloc::string::String;
use alloc::vec::Vec;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Sockets and locks of a running pgx. Their descriptors follow when they are asked for, in this
/// order: the admin socket and its lock; the lock of the pid file, if there is one; the sockets of
/// each address; each Unix socket with its lock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HandOver {
    /// Process id as the server sees it.
    pub process_id: u32,
    /// Its number among the nodes that serve behind one address; 0 if it has none.
    pub peer_id: u8,
    /// Its pid file.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub pid_file: Option<String>,
    /// Where clients come in by TCP.
    pub tcp: Vec<HandedTcp>,
    /// Where they come in by Unix sockets.
    pub unix: Vec<String>,
}

/// An address where clients come in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HandedTcp {
    /// As it was configured, where port 0 asks for any.
    pub asked: String,
    /// As it is.
    pub bound: String,
    /// How many sockets have it.
    pub sockets: usize,
}

impl HandOver {
    /// How many descriptors follow.
    #[must_use]
    pub fn descriptors(&self) -> usize {
        let tcp = self.tcp.iter().fold(0_usize, |sum, tcp| sum.saturating_add(tcp.sockets));
        let fixed = 2 + usize::from(self.pid_file.is_some()) + 2 * self.unix.len();
        tcp.saturating_add(fixed)
    }
}

/// What the two tell each other afterwards, one object a line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum HandOverLine {
    /// From the new one: send the descriptors.
    Sockets,
    /// From the new one: it can serve, and waits for the word.
    Ready,
    /// From the old one: the sockets are yours.
    Yours,
    /// From the new one: a client asks to cancel a query that may be of the old one's.
    Cancel {
        /// The number by which the old one answers.
        serial: u32,
        /// The number that the query's client was told.
        process: u32,
        /// The key that it was told.
        key: Vec<u8>,
    },
    /// From the old one: the request of this number has had its effect, or none.
    Cancelled {
        /// The number.
        serial: u32,
    },
}
