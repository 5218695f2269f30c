//! Requests and replies of the admin socket: one JSON object a line, each with its version.
//!
//! The version grows when a reader of the old form would misunderstand the new one; new optional
//! fields and new verbs do not change it. A server answers a version that it does not speak with
//! [`Refusal::Version`], so that tools of another release get a sentence and not a parse error.

mod change;
mod cluster;
mod events;
mod fence;
mod handover;
mod survey;
mod table;

pub use change::{PolicyChange, SettingsChange, SharedChange};

pub use cluster::{
    AgentStatus, ControlStatus, EpochStatus, LeaseStatus, MemberStatus, NodeStatus, ProbeStatus,
    ScheduledStatus, Shared,
};

pub use events::{ChangeReport, Event, Step};

pub use fence::{FenceStatus, PlaceStatus, RehearsalStatus, WordStatus};

pub use handover::{HandOver, HandOverLine, HandedTcp};

pub use survey::{NodeView, PostgresView, Survey, Trouble};

pub use table::{Cell, Table};

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::cluster::Role;

/// The version that this build speaks.
pub const VERSION: u32 = 1;

/// A request as it is sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Request {
    /// Version of the form, see [`VERSION`].
    pub version: u32,
    /// Say what would be done and do nothing; for verbs that ask something of the cluster.
    #[serde(default, skip_serializing_if = "core::ops::Not::not")]
    pub dry_run: bool,
    /// What is asked.
    #[serde(flatten)]
    pub verb: Verb,
}

impl Request {
    /// A request of this build's version.
    #[must_use]
    pub fn new(verb: Verb) -> Self {
        Self { version: VERSION, dry_run: false, verb }
    }
}

/// What can be asked. Unless it says otherwise it is asked of the cluster: any node takes it and
/// passes it on to whoever coordinates.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "verb", rename_all = "kebab-case")]
pub enum Verb {
    /// What this process does and how it fares. Asked of this process.
    Status,
    /// The cluster's nodes as its coordinator sees them, and what is wrong with it.
    Survey,
    /// A table of the console. Asked of this process' pool.
    Show {
        /// What SHOW is to show: `pools`, `clients` and so on.
        what: String,
    },
    /// What has happened to the cluster, as this node has seen it.
    Events {
        /// How many, the newest last.
        last: u32,
    },
    /// Changes of primary, as this node has seen them.
    History {
        /// How many, the newest last.
        last: u32,
    },
    /// The settings that all nodes share, as this process knows them.
    ShowConfig,
    /// Change some of them.
    EditConfig(SharedChange),
    /// Begin the cluster with a node's directory, which is the primary's then.
    Bootstrap {
        /// The node.
        node: u64,
    },
    /// Let a node belong to the cluster, or no more.
    Node {
        /// The node.
        node: u64,
        /// Where the others reach it; for a node that goes, what is known is kept.
        #[serde(default)]
        address: Option<String>,
        /// What it shall be.
        role: Role,
    },
    /// Make another node primary.
    Switchover {
        /// The node; the best standby when there is none.
        #[serde(default)]
        to: Option<u64>,
        /// When, in milliseconds since 1970; at once when absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        at_ms: Option<u64>,
    },
    /// Make a node primary: by a switchover while the primary serves, else by a failover, in which
    /// whoever has most of the log is elected.
    Promote {
        /// The node.
        node: u64,
    },
    /// Spare a node: nobody is sent there who only reads, commits wait for it only where no other
    /// standby streams, and it becomes primary only if no other can.
    Detach {
        /// The node.
        node: u64,
    },
    /// Spare it no longer.
    Attach {
        /// The node.
        node: u64,
    },
    /// Give a switchover up: the one under way, or the one that is to come.
    CancelSwitchover,
    /// Replace the primary though it seems well.
    Failover,
    /// Let the failover under way lose acknowledged commits.
    AcceptLoss,
    /// Leave failover to operators, or take it back.
    Pause {
        /// Whether it pauses.
        is_paused: bool,
    },
    /// Let another voter coordinate.
    Transfer {
        /// The voter.
        to: u64,
    },
    /// Hold new transactions of a database. Asked of this process' pool, not the cluster.
    PauseDatabase {
        /// The database as clients name it; `*` for all.
        database: String,
        /// Milliseconds that each client waits; zero for as long as for any server.
        #[serde(default)]
        wait_ms: u64,
        /// Milliseconds after which transactions under way are ended; zero for never.
        #[serde(default)]
        drain_ms: u64,
    },
    /// Let them go on. Asked of this process' pool, not the cluster.
    ResumeDatabase {
        /// The database as clients name it; `*` for all.
        database: String,
        /// Where it is from now on, as host:port; where it was if there is none.
        #[serde(default)]
        backends: Vec<String>,
    },
    /// Read configuration and certificates again. Asked of this process, not the cluster.
    Reload,
    /// End this host's PostgreSQL in order and start it again. Asked of this process, not the
    /// cluster.
    Restart,
    /// Try at once what has failed with this host's PostgreSQL. Asked of this process, not the
    /// cluster.
    Rejoin,
    /// Give the directory of this host's standby up, and copy it anew. Asked of this process, not
    /// the cluster.
    Reinit,
    /// Fence this host's PostgreSQL on an operator's word. Asked of this process, not the cluster.
    Fence,
    /// Take that back. Asked of this process, not the cluster.
    Unfence {
        /// The epoch up to which it is fenced.
        epoch: u64,
    },
    /// Hand this process' sockets to the one that asks, which takes its place.
    TakeOver,
}

impl Verb {
    /// Whether it changes nothing.
    #[must_use]
    pub fn only_looks(&self) -> bool {
        matches!(
            self,
            Self::Status
                | Self::Survey
                | Self::Show { .. }
                | Self::Events { .. }
                | Self::History { .. }
                | Self::ShowConfig
        )
    }
}

/// A reply as it is sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Body {
    /// Answer to [`Verb::Status`].
    Status(Box<Status>),
    /// Answer to [`Verb::Survey`].
    Survey(Box<Survey>),
    /// Answer to [`Verb::Show`].
    Table(Table),
    /// Answer to [`Verb::Events`].
    Events(Vec<Event>),
    /// Answer to [`Verb::History`].
    History(Vec<ChangeReport>),
    /// Answer to [`Verb::ShowConfig`].
    Config(Shared),
    /// It was done; or, of a dry run, what would be done, line by line.
    Done(Vec<String>),
    /// Answer to [`Verb::TakeOver`]; what follows on the connection are [`HandOverLine`]s.
    HandOver(HandOver),
    /// The request was understood or not, and was not carried out.
    Refused(Refusal),
}

/// Why a request was not carried out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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
    /// The certificate of who asks by HTTP does not allow it.
    Role {
        /// What it does allow; nothing if absent.
        found: Option<String>,
        /// What is needed: `viewer` or `operator`.
        needed: String,
    },
    /// Too many admin clients at once; a retry may work.
    Busy,
    /// The process has no part in a cluster.
    NoCluster,
    /// The controller waits for its disk.
    Stalled,
    /// A file is no good, or the change takes a new start.
    Files {
        /// Why, for people.
        detail: String,
    },
    /// The pool of this process did not carry it out.
    Pool {
        /// Why, for people.
        detail: String,
    },
    /// This host's PostgreSQL is left as it is.
    Postgres {
        /// Why, for people.
        detail: String,
    },
    /// The fence of this host did not carry it out.
    Fence {
        /// Why, for people.
        detail: String,
    },
    /// This process cannot be taken over from.
    TakeOver {
        /// Why, for people.
        detail: String,
    },
    /// The cluster did not carry it out.
    Cluster {
        /// Why, for people.
        detail: String,
    },
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
            Self::Role { found, needed } => write!(
                out,
                "refused: this takes the role {needed}, and your certificate has {}; see \
                 http.viewers and http.operators in the server's configuration",
                found.as_deref().unwrap_or("none"),
            ),
            Self::Busy => write!(out, "too many admin clients at once; try again"),
            Self::NoCluster => {
                write!(out, "this pgx has no part in a cluster: its configuration has no [control]")
            }
            Self::Stalled => {
                write!(out, "the controller waits for the disk under control.data; try again")
            }
            Self::Pool { detail }
            | Self::Files { detail }
            | Self::Postgres { detail }
            | Self::Fence { detail }
            | Self::TakeOver { detail }
            | Self::Cluster { detail } => out.write_str(detail),
        }
    }
}

/// What one pgx process does and how it fares.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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
    /// The virtual addresses, where this process may hold some.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub addresses: Option<AddressesStatus>,
    /// The other nodes as this one sees them, where it is part of a cluster.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub peers: Option<Vec<PeerStatus>>,
    /// The cluster as this node sees it; absent while the controller waits for its disk.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub control: Option<Box<ControlStatus>>,
    /// The fence around this host's PostgreSQL, where this process keeps one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub fence: Option<FenceStatus>,
    /// What is wrong with the cluster and with this node, the most pressing first.
    #[serde(default)]
    pub troubles: Vec<Trouble>,
}

/// How the proxy fares.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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

/// How this host holds virtual addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AddressesStatus {
    /// By what means: `xdp`, `address`, `command` or `none`; `off` with the cause.
    pub mode: String,
    /// Why the means are not those of the configuration; empty when they are.
    pub cause: String,
    /// Whether the addresses stand on loopback; absent in modes that put none there.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub on_loopback: Option<bool>,
    /// What went wrong with loopback last; empty if nothing did.
    pub loopback_error: String,
    /// Each lease of addresses.
    pub leases: Vec<AddressLease>,
    /// How their clients are shared with other hosts; absent where they are not.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub steering: Option<SteeringStatus>,
}

/// How clients of virtual addresses are shared with other hosts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SteeringStatus {
    /// The number of the table that packets go by here; zero before the first.
    pub table: u64,
    /// How many proxies it names.
    pub proxies: usize,
    /// How many of the buckets are this node's: its share of new clients.
    pub owned: usize,
    /// How many there are.
    pub buckets: usize,
    /// Whether this node may have clients from before whose bucket is another's now.
    pub has_old_flows: bool,
    /// Why packets go by an older table; empty if they do not.
    pub last_error: String,
}

/// How one lease of virtual addresses stands on this host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AddressLease {
    /// Its number in the configuration.
    pub id: u32,
    /// What clients find there.
    pub role: String,
    /// The addresses.
    pub addresses: Vec<String>,
    /// Whether this host holds them now.
    pub is_held: bool,
    /// The newest number under which it held them, or was to; zero before the first.
    pub number: u64,
    /// Milliseconds until the lease ends; absent when it is not held.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub left_ms: Option<u64>,
    /// Frames that told the network since the start.
    pub announced_total: u64,
    /// What went wrong last, since it was last taken or let go; empty if nothing did.
    pub last_error: String,
}

/// How this node sees one of the others.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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
    /// Milliseconds since it was last connected, or since it was first to be.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub away_ms: Option<u64>,
    /// How many of the last 20 questions it answered late or not at all, while there was a link.
    #[serde(default)]
    pub late: u32,
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
    fn requests_of_the_cluster_look_on_the_wire_as_documented() {
        let verb = Verb::Node { node: 4, address: Some("db4:6433".into()), role: Role::Voter };
        let request = Request { dry_run: true, ..Request::new(verb) };
        let text = serde_json::to_string(&request).unwrap();
        let expected = r#"{"version":1,"dry_run":true,"verb":"node","node":4,"#;
        assert!(text.starts_with(expected), "{text}");
        assert_eq!(serde_json::from_str::<Request>(&text).unwrap(), request);
        let text = r#"{"version":1,"verb":"edit-config","durability":"available"}"#;
        let request: Request = serde_json::from_str(text).unwrap();
        assert!(matches!(request.verb, Verb::EditConfig(_)), "{request:?}");
        let text = r#"{"version":1,"verb":"edit-config","durable":"available"}"#;
        assert!(serde_json::from_str::<Request>(text).is_err(), "an unknown key is refused");
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
