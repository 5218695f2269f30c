//! The entries of the quorum's log, and why one may be void.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::history::{Descent, History};
use super::policy::PolicyError;
use super::sync::Rule;
use super::{Member, Membership, Policy, Proxy};
use crate::ids::{Attempt, Epoch, Incarnation, Lsn, NodeId, SystemId, Timeline, VipId};
use crate::lease::{Kind, Settings, SettingsError};

/// What to do when fewer standbys live than a commit needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Durability {
    /// Commits wait: none is acknowledged that only one directory has.
    #[default]
    Strict,
    /// The quorum may agree on a degraded rule, on record.
    Available,
}

/// What a node shall be in the quorum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// It counts.
    Voter,
    /// It has the log and does not count.
    Learner,
    /// It belongs to the cluster no more, and never again under this number.
    Gone,
}

/// How far a switchover is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// The primary makes a checkpoint and goes on, so that its last one has little to write.
    #[default]
    Prepares,
    /// Proxies let nobody begin anything new.
    Holds,
    /// What runs at the primary ends, and then the primary.
    Stops,
}

/// What a frozen data directory reports in an attempt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The node it is on.
    pub node: NodeId,
    /// The directory.
    pub incarnation: Incarnation,
    /// The epoch that is being left.
    pub epoch: Epoch,
    /// The attempt it was frozen for.
    pub attempt: Attempt,
    /// How far it has flushed or replayed, whichever is further, with its local log replayed to the
    /// end and no upstream to receive more from.
    pub end: Lsn,
    /// With how many switches of the history recorded in the established epoch its own begins.
    pub shared: usize,
    /// Its timelines beyond those: what is said in every election must not grow with the age of
    /// the cluster.
    pub history: History,
}

impl Report {
    /// The same report with its whole history. One that claims to share more than there is has
    /// none.
    #[must_use]
    pub fn upon(&self, recorded: &History) -> Self {
        let shared = recorded.0.get(..self.shared);
        let whole = shared.map(|shared| shared.iter().chain(&self.history.0).copied().collect());
        Self { shared: 0, history: History(whole.unwrap_or_default()), ..self.clone() }
    }
}

/// A change of the cluster's state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Entry {
    /// The cluster begins with one directory, in epoch 0, which counts as established and degraded.
    Bootstrap {
        /// PostgreSQL's system identifier.
        system: SystemId,
        /// The node that serves first.
        holder: NodeId,
        /// Its directory.
        incarnation: Incarnation,
        /// The timeline it is on.
        timeline: Timeline,
    },
    /// A node with a directory joins, or has another directory than before.
    Admit {
        /// The node and its directory from now on.
        member: Member,
        /// The directory it had before; none for a node that is new. A late entry must not bring
        /// back a directory that was replaced.
        replaces: Option<Incarnation>,
    },
    /// From here on voters renew the epoch's primary lease no more.
    Seal {
        /// The epoch to leave.
        epoch: Epoch,
        /// Numbers the attempt.
        attempt: Attempt,
    },
    /// A voter has refused for ever.
    Released {
        /// The voter.
        voter: NodeId,
        /// What it refuses.
        kind: Kind,
        /// Up to which number.
        number: u64,
    },
    /// A new primary. It opens only when established.
    NewEpoch {
        /// The epoch that begins.
        epoch: Epoch,
        /// The attempt whose reports these are.
        attempt: Attempt,
        /// The node to serve.
        holder: NodeId,
        /// Its directory.
        incarnation: Incarnation,
        /// What the choice was made from.
        reports: Vec<Report>,
        /// The rule that holds in the new epoch.
        rule: Rule,
        /// Whether an operator has accepted that acknowledged commits may be lost.
        accept_loss: bool,
    },
    /// The epoch's primary has ended recovery, its rule's standbys have flushed past that, and
    /// nobody goes by an earlier epoch any more: from here on it serves.
    Established {
        /// The epoch.
        epoch: Epoch,
        /// The timeline that its promotion made, or the one it went on with.
        timeline: Timeline,
        /// Where that timeline left the one before.
        switch: Lsn,
        /// The end of recovery.
        lsn: Lsn,
        /// The number of the rule that was fulfilled; see [`Entry::RuleJoint`].
        change: u64,
        /// The registered nodes that have applied the epoch.
        confirmed: BTreeSet<NodeId>,
    },
    /// A change of the rule begins: until it is settled, decisions satisfy the old and the new one.
    /// A further change may begin before: then they satisfy all. The rule of an epoch that does not
    /// serve yet, in which nothing was acknowledged, is replaced at once.
    RuleJoint {
        /// The epoch it is for.
        epoch: Epoch,
        /// The rule to come.
        rule: Rule,
    },
    /// Every walsender runs the newest rule, and its members have flushed all that came before.
    RuleSettled {
        /// The epoch it is for.
        epoch: Epoch,
        /// The number of the change.
        change: u64,
    },
    /// A node shall belong to the cluster, or no more. Whoever coordinates sees to it, step by
    /// step.
    Node {
        /// The node.
        node: NodeId,
        /// Where the others reach it, as host:port.
        address: String,
        /// What it shall be.
        role: Role,
    },
    /// One voter more or one fewer.
    Membership(Membership),
    /// A node wants to hold leases. It counts in the newest membership, or a later one, from before
    /// it asks for the first promise.
    Register {
        /// The node.
        node: NodeId,
    },
    /// A node's member and route leases are to be released: voters renew them no more. It is final
    /// for this registration.
    Retire {
        /// The node.
        node: NodeId,
        /// Its registration.
        number: u64,
    },
    /// A node's member and route leases are released: it holds none and gets none before it
    /// registers anew.
    Forget {
        /// The node.
        node: NodeId,
    },
    /// A node counts its promises in this membership, or a later one, from now on; it has made that
    /// durable.
    MembershipAdopted {
        /// The node.
        node: NodeId,
        /// The membership's version.
        version: u64,
    },
    /// The right to a virtual address is to be released, so that another node may get it.
    RetireVip {
        /// The address.
        vip: VipId,
        /// The number of its holder.
        number: u64,
    },
    /// Another node may answer for a virtual address.
    GiveVip {
        /// The address.
        vip: VipId,
        /// One more than the number before.
        number: u64,
        /// The node.
        holder: NodeId,
        /// The installation of the node.
        incarnation: Incarnation,
    },
    /// These proxies share what clients send to virtual addresses. Releases before
    /// [`Self::STEER_VERSION`] cannot read it.
    Steer {
        /// One more than the number of the table before.
        number: u64,
        /// Who takes part, and how.
        proxies: BTreeMap<NodeId, Proxy>,
        /// Who has said of the table before that it has no flows any more in buckets of others.
        settled: BTreeSet<NodeId>,
    },
    /// Other lease settings.
    Settings(Settings),
    /// Another choice between waiting and going on.
    Durability(Durability),
    /// What operators have chosen for the cluster's conduct.
    Policy(Policy),
    /// From here on pgx seals no epoch by itself; or does so again.
    Pause {
        /// Whether it pauses.
        is_paused: bool,
    },
    /// An operator wants a node to serve nobody who only reads, and to become primary only if no
    /// other can; or that this is over. Releases before [`Self::OPERATE_VERSION`] cannot read it.
    Detach {
        /// The node.
        node: NodeId,
        /// Whether it is detached from here on.
        is_detached: bool,
    },
    /// An operator wants another primary, without loss and without an error to any client.
    Switchover {
        /// The newest epoch, which is to be left.
        epoch: Epoch,
        /// The standby to serve next.
        to: NodeId,
    },
    /// An operator wants a switchover later. Releases before [`Self::OPERATE_VERSION`] cannot read
    /// it.
    Schedule {
        /// The newest epoch, which is to be left.
        epoch: Epoch,
        /// The standby to serve next; the best one if none.
        to: Option<NodeId>,
        /// When, in milliseconds since 1970 by the coordinator's clock.
        at_ms: u64,
    },
    /// That is given up. Releases before [`Self::OPERATE_VERSION`] cannot read it.
    ScheduleCancelled {
        /// When it was to begin.
        at_ms: u64,
    },
    /// The switchover comes to the next stage.
    SwitchoverStage {
        /// The epoch that is to be left.
        epoch: Epoch,
        /// The stage that begins.
        stage: Stage,
    },
    /// The switchover is given up; the primary goes on.
    SwitchoverCancelled {
        /// The epoch that was to be left.
        epoch: Epoch,
    },
    /// The other voters are lost for good, and with them a majority. Operators made this one a
    /// cluster of its own; nobody else ever proposes it. See `docs/QUORUM.md`.
    Recovered {
        /// The voter that is left.
        survivor: NodeId,
    },
    /// An operator accepts that the election of this attempt loses acknowledged commits.
    AcceptLoss {
        /// The sealed epoch.
        epoch: Epoch,
        /// The attempt.
        attempt: Attempt,
    },
}

impl Entry {
    /// The version of [`Self::Steer`]: it is proposed when every node reads it.
    pub const STEER_VERSION: u16 = 2;
    /// The version of [`Self::Detach`], [`Self::Schedule`] and [`Self::ScheduleCancelled`]: they
    /// are proposed when every node reads them.
    pub const OPERATE_VERSION: u16 = 3;
}

/// Why an entry changed nothing. To be void is normal: proposals race. The proposer looks at the
/// state again and decides anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Void {
    /// The cluster has begun already.
    AlreadyBootstrapped,
    /// The cluster has not begun.
    NotBootstrapped,
    /// It is about an epoch that is not the newest.
    Epoch {
        /// The newest one.
        current: Epoch,
    },
    /// The epoch is sealed, so nothing may be recorded for it any more.
    Sealed,
    /// It belongs to no running attempt, or to one that a later one overrides.
    Attempt,
    /// The epoch is established already, or must be first.
    Establishment,
    /// No majority of this membership's voters has released what is to be given anew.
    NotReleased {
        /// The membership's version.
        membership: u64,
    },
    /// A report is of another attempt, or there are two of one directory.
    ReportStray {
        /// The directory.
        incarnation: Incarnation,
    },
    /// The reports may lack an acknowledged commit.
    ReportsTooFew,
    /// The chosen directory is not among the reports that count.
    CandidateUnknown {
        /// How its history stands, if it reported.
        descent: Option<Descent>,
    },
    /// Another report that counts is ahead of the chosen one.
    CandidateBehind {
        /// Where the chosen one ends.
        end: Lsn,
        /// The furthest.
        furthest: Lsn,
    },
    /// The rule cannot be fulfilled, names the primary itself, or is degraded where it may not be.
    Rule,
    /// A change of the rule runs already, or none runs.
    RuleChange,
    /// More or fewer than one voter would change, or too many changes wait for holders to follow.
    Membership,
    /// The node is registered already, or is not, or holds the newest epoch.
    Registration,
    /// The number does not follow upon the last one.
    Number,
    /// The node has left for good, or there is no room for one more.
    Node,
    /// The table does not follow upon the last one, has too many proxies, or changes nothing.
    Steering,
    /// The settings cannot be used.
    Settings(SettingsError),
    /// The policy cannot be used.
    Policy(PolicyError),
    /// This node may still go by an earlier epoch.
    Unconfirmed {
        /// The node.
        node: NodeId,
    },
    /// The standby cannot take over, or another switchover is under way, or none is.
    Switchover,
    /// No node of the cluster has that number, or it is primary.
    Detach,
    /// No switchover was to come at that time.
    Schedule,
    /// No operator has accepted a loss in this attempt.
    LossNotAccepted,
    /// The node or directory is not a member as stated.
    Member,
}

impl fmt::Display for Void {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AlreadyBootstrapped => write!(out, "the cluster has begun already"),
            Self::NotBootstrapped => write!(out, "the cluster has not begun"),
            Self::Epoch { current } => write!(out, "the newest epoch is {}", current.0),
            Self::Sealed => write!(out, "the epoch is sealed"),
            Self::Attempt => write!(out, "another attempt is under way"),
            Self::Establishment => write!(out, "the epoch is not in the right stage"),
            Self::NotReleased { membership } => {
                write!(out, "no majority of membership {membership} has released it")
            }
            Self::ReportStray { incarnation } => {
                write!(out, "the report of directory {:x} does not belong here", incarnation.0)
            }
            Self::ReportsTooFew => write!(out, "an acknowledged commit may be in no report"),
            Self::CandidateUnknown { descent: None } => {
                write!(out, "the chosen directory has not reported")
            }
            Self::CandidateUnknown { descent: Some(descent) } => {
                write!(out, "the chosen directory's history does not count: {descent:?}")
            }
            Self::CandidateBehind { end, furthest } => {
                write!(out, "the chosen directory ends at {end}, another one at {furthest}")
            }
            Self::Rule => write!(out, "the rule of synchronous replication cannot be used"),
            Self::RuleChange => write!(out, "a change of the rule is under way, or none is"),
            Self::Membership => write!(out, "voters change one at a time"),
            Self::Registration => write!(out, "the node's registration does not allow it"),
            Self::Number => write!(out, "the number does not follow upon the last one"),
            Self::Node => write!(out, "that node has left for good, or there are too many nodes"),
            Self::Steering => write!(out, "the table does not follow upon the last one"),
            Self::Settings(error) => error.fmt(out),
            Self::Policy(error) => error.fmt(out),
            Self::Unconfirmed { node } => {
                write!(out, "node {node} may still go by an earlier epoch")
            }
            Self::Switchover => {
                out.write_str("commits wait for no such standby, or a switchover is under way")
            }
            Self::Detach => out.write_str(
                "no node of the cluster has that number, or it is primary: switch over first",
            ),
            Self::Schedule => out.write_str("no switchover was to come at that time"),
            Self::LossNotAccepted => write!(out, "no operator has accepted a loss in this attempt"),
            Self::Member => write!(out, "that node is no member with that directory"),
        }
    }
}

impl core::error::Error for Void {}
