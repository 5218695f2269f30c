//! Requests and replies of the admin socket: one JSON object a line, each with its version.
//!
//! The version grows when a reader of the old form would misunderstand the new one; new optional
//! fields and new verbs do not change it. A server answers a version that it does not speak with
//! [`Refusal::Version`], so that tools of another release get a sentence and not a parse error.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use serde::{Deserialize, Serialize};

/// The version that this build speaks.
pub const VERSION: u32 = 1;

/// A request as it is sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Version of the form, see [`VERSION`].
    pub version: u32,
    /// What is asked.
    #[serde(flatten)]
    pub verb: Verb,
}

impl Request {
    /// A request of this build's version.
    #[must_use]
    pub fn new(verb: Verb) -> Self {
        Self { version: VERSION, verb }
    }
}

/// What can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "kebab-case")]
pub enum Verb {
    /// What this process does and how it fares.
    Status,
}

/// A reply as it is sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    /// Version of the form, see [`VERSION`].
    pub version: u32,
    /// What was found, or why not.
    #[serde(flatten)]
    pub body: Body,
}

impl Reply {
    /// A reply of this build's version.
    #[must_use]
    pub fn new(body: Body) -> Self {
        Self { version: VERSION, body }
    }
}

/// What a reply carries.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Body {
    /// Answer to [`Verb::Status`].
    Status(Box<Status>),
    /// The request was understood or not, and was not carried out.
    Refused(Refusal),
}

/// Why a request was not carried out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reason", rename_all = "kebab-case")]
pub enum Refusal {
    /// The request is of a version that this server does not speak.
    Version {
        /// What the server speaks.
        expected: u32,
        /// What came.
        found: u32,
    },
    /// The line is not a request.
    Malformed {
        /// What the parser says, with the place in the line.
        detail: String,
    },
    /// The line is longer than [`crate::limits::ADMIN_REQUEST_BYTES_MAX`].
    TooLong,
    /// The peer is neither root nor the user that runs the server.
    Peer {
        /// User id of the peer.
        found: u32,
        /// User id of the server.
        expected: u32,
    },
    /// Too many admin clients at once; a retry may work.
    Busy,
}

impl fmt::Display for Refusal {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Version { expected, found } => write!(
                out,
                "the server speaks version {expected} of the admin protocol, the request has \
                 version {found}; use the pgx that belongs to the server"
            ),
            Self::Malformed { detail } => write!(out, "not a request: {detail}"),
            Self::TooLong => write!(out, "the request is too long"),
            Self::Peer { found, expected } => write!(
                out,
                "user id {found} may not use the admin socket; run it as root or as user id \
                 {expected}"
            ),
            Self::Busy => write!(out, "too many admin clients at once; try again"),
        }
    }
}

/// What one pgx process does and how it fares.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Release of the server.
    pub release: String,
    /// Process id as the server sees it.
    pub process_id: u32,
    /// Milliseconds since the server started.
    pub up_ms: u64,
    /// The proxy, where this process is one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub proxy: Option<ProxyStatus>,
    /// The kernel plane, where this process uses it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub kernel: Option<KernelStatus>,
    /// The other nodes as this one sees them, where it is part of a cluster.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub peers: Option<Vec<PeerStatus>>,
}

/// How the proxy fares.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProxyStatus {
    /// Where it listens.
    pub listen: Vec<String>,
    /// Which backends it uses.
    pub backends: Vec<String>,
    /// Client connections now.
    pub clients: u64,
    /// Client connections since the start.
    pub clients_total: u64,
    /// Clients that were turned away since the start.
    pub refused_total: u64,
    /// Connects to backends that failed since the start.
    pub connect_failures_total: u64,
}

/// What the kernel does for this process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelStatus {
    /// The interface that the root program is attached to.
    pub interface: String,
    /// How: `native`, `generic`, or `off` with the cause in [`Self::cause`].
    pub mode: String,
    /// Why the mode is not `native`; empty when it is.
    pub cause: String,
    /// Packets by verdict, sorted by name, those without packets left out.
    pub packets: Vec<(String, u64)>,
}

/// How this node sees one of the others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerStatus {
    /// Its number.
    pub id: u64,
    /// Where it is dialled.
    pub address: String,
    /// `connected`; `silent` when it accepts and does not answer; `partial` when one of the two
    /// connections to it stands; `down`.
    pub state: String,
    /// What last ended or prevented a connection to it, also when that is long mended.
    pub last_error: String,
    /// Microseconds to it and back, when it answered lately.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub round_trip_us: Option<u64>,
    /// Messages given to the kernel since the start.
    pub sent_total: u64,
    /// Messages dropped since the start because newer ones needed their place.
    pub dropped_total: u64,
    /// Messages that came since the start.
    pub received_total: u64,
    /// Messages that came and that nobody took: a channel without a taker, or a slow one.
    pub untaken_total: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_look_on_the_wire_as_documented() {
        let text = serde_json::to_string(&Request::new(Verb::Status)).unwrap();
        assert_eq!(text, r#"{"version":1,"verb":"status"}"#);
        assert_eq!(serde_json::from_str::<Request>(&text).unwrap(), Request::new(Verb::Status));
    }

    #[test]
    fn refusals_look_on_the_wire_as_documented() {
        let refusal = Refusal::Version { expected: 1, found: 9 };
        let text = serde_json::to_string(&Reply::new(Body::Refused(refusal))).unwrap();
        let expected = r#"{"version":1,"refused":{"reason":"version","expected":1,"found":9}}"#;
        assert_eq!(text, expected);
    }

    #[test]
    fn a_status_with_fields_of_a_later_release_is_read() {
        let text = r#"{"version":1,"status":{"release":"9","process_id":1,"up_ms":2,"new":3}}"#;
        let reply: Reply = serde_json::from_str(text).unwrap();
        let Body::Status(status) = reply.body else { panic!("not a status: {reply:?}") };
        assert_eq!(status.proxy, None);
    }
}
