//! The replicated state, as plain data that every node has alike.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::String;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use super::history::{Descent, History, Switch};
use super::sync::Rule;
use super::{Durability, Membership, Policy, Role, Stage, Steering};
use crate::ids::{Attempt, Epoch, Incarnation, Lsn, NodeId, SystemId, Timeline, VipId};
use crate::lease::{Kind, Refusal, Right, Settings};

/// A node, as operators want it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Where the others reach it, as host:port.
    pub address: String,
    /// What it shall be.
    pub role: Role,
}

/// A switchover that an operator wants later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scheduled {
    /// The standby to serve next; the best one then if none.
    pub to: Option<NodeId>,
    /// When, in milliseconds since 1970 by the coordinator's clock.
    pub at_ms: u64,
}

/// A node with a data directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// The node.
    pub node: NodeId,
    /// The directory it has now.
    pub incarnation: Incarnation,
    /// Among equals the higher one is preferred as primary.
    pub priority: u32,
}

/// Who holds the newest epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tenure {
    /// The epoch.
    pub epoch: Epoch,
    /// The node.
    pub holder: NodeId,
    /// Its directory.
    pub incarnation: Incarnation,
    /// The rule it starts with.
    pub rule: Rule,
    /// Whether it may open.
    pub is_established: bool,
    /// The timelines of its directory when it was elected.
    pub history: History,
    /// How far that directory went when it was elected: its own timeline begins there.
    pub end: Lsn,
    /// Whether acknowledged commits may have been lost by its election.
    pub is_lossy: bool,
    /// The number of its rule, among all changes of rules: what is said of one rule must not be
    /// taken for another.
    pub change: u64,
    /// The last registration before the epoch began: who registers later knows of it.
    pub registrations_before: u64,
}

/// The last epoch that served: what decisions count against.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Established {
    /// The epoch.
    pub epoch: Epoch,
    /// The directory of its primary, which alone has every acknowledged commit.
    pub incarnation: Incarnation,
    /// The end of its recovery.
    pub lsn: Lsn,
    /// The rules in force: one, or more while a change runs, the newest last.
    pub rules: Vec<Rule>,
    /// Counts the changes of the rule, over all epochs: what is said of one change must not be
    /// taken for the next.
    pub change: u64,
    /// The timelines up to it.
    pub history: History,
}

/// An epoch that has not served: what must be known of it to judge directories that went through
/// it. Few bytes, since there may be many of them while something fails again and again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unserved {
    /// Where acknowledged commits may have been lost by its election: the timelines of the
    /// directory that was elected.
    pub lossy: Option<History>,
}

/// A node that may hold leases.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registration {
    /// Never the same for two registrations; it numbers the node's member and route leases.
    pub number: u64,
    /// The membership that the node counts its promises in, or a later one.
    pub counts_in: u64,
    /// Whether the quorum wants its member and route leases back.
    pub is_retiring: bool,
}

/// All that the quorum has agreed on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    pub(super) settings: Settings,
    pub(super) longest_promise_ms: u64,
    pub(super) durability: Durability,
    pub(super) policy: Policy,
    /// Whether pgx leaves failover to the operators.
    pub(super) is_paused: bool,
    /// Who is to serve next, while an operator's switchover is under way.
    pub(super) handover: Option<NodeId>,
    /// How far it is; without meaning when none is.
    #[serde(default)]
    pub(super) stage: Stage,
    /// The switchover that is to leave the newest epoch later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) scheduled: Option<Scheduled>,
    /// Whether the log had an entry of [`super::Entry::OPERATE_VERSION`] ever.
    #[serde(default, skip_serializing_if = "core::ops::Not::not")]
    pub(super) was_operated: bool,
    /// The attempt in which an operator accepts loss.
    pub(super) loss_accepted: Option<Attempt>,
    /// The nodes that operators have named since the cluster was founded.
    pub(super) nodes: BTreeMap<NodeId, Node>,
    /// Those of them that operators have detached.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(super) detached: BTreeSet<NodeId>,
    /// From the oldest membership that any registered node may count in to the newest one; never
    /// empty.
    pub(super) memberships: Vec<Membership>,
    pub(super) registrations: BTreeMap<NodeId, Registration>,
    pub(super) registrations_ever: u64,
    pub(super) members: BTreeMap<NodeId, Member>,
    pub(super) vips: BTreeMap<VipId, Right>,
    /// The addresses that are to be taken from their holders.
    pub(super) vips_retiring: BTreeSet<VipId>,
    /// Which proxies share what comes in by them.
    #[serde(default, skip_serializing_if = "Steering::is_none")]
    pub(super) steering: Steering,
    pub(super) system: Option<SystemId>,
    pub(super) tenure: Option<Tenure>,
    pub(super) established: Option<Established>,
    /// The tenures after the established one that ended before they served, and the newest one
    /// while it does not.
    pub(super) unestablished: BTreeMap<Epoch, Unserved>,
    /// The newest epoch that served though acknowledged commits may have been lost by its election.
    #[serde(default)]
    pub(super) lossy: Option<Epoch>,
    /// The attempt to leave the newest epoch, if there is one.
    pub(super) sealed: Option<Attempt>,
    /// The highest number of each kind that each voter has released.
    pub(super) released: BTreeMap<Kind, BTreeMap<NodeId, u64>>,
}

impl State {
    /// The state before the first entry: these voters, and nothing to vote about yet.
    #[must_use]
    pub fn new(voters: BTreeSet<NodeId>, settings: Settings) -> Self {
        Self {
            settings,
            longest_promise_ms: settings.promise_ms(),
            durability: Durability::Strict,
            policy: Policy::default(),
            is_paused: false,
            handover: None,
            stage: Stage::Prepares,
            scheduled: None,
            was_operated: false,
            loss_accepted: None,
            nodes: BTreeMap::new(),
            detached: BTreeSet::new(),
            memberships: alloc::vec![Membership { version: 1, voters }],
            registrations: BTreeMap::new(),
            registrations_ever: 0,
            members: BTreeMap::new(),
            vips: BTreeMap::new(),
            vips_retiring: BTreeSet::new(),
            steering: Steering::default(),
            system: None,
            tenure: None,
            established: None,
            unestablished: BTreeMap::new(),
            lossy: None,
            sealed: None,
            released: BTreeMap::new(),
        }
    }

    /// The lease settings in force.
    #[must_use]
    pub fn settings(&self) -> Settings {
        self.settings
    }

    /// The longest promise, in milliseconds, that any settings agreed on so far allow. It never
    /// shrinks: a voter that restarts may have promised under older settings.
    #[must_use]
    pub fn longest_promise_ms(&self) -> u64 {
        self.longest_promise_ms
    }

    /// What to do when standbys are missing.
    #[must_use]
    pub fn durability(&self) -> Durability {
        self.durability
    }

    /// What operators have chosen.
    #[must_use]
    pub fn policy(&self) -> Policy {
        self.policy
    }

    /// Whether pgx leaves failover to the operators.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.is_paused
    }

    /// Who is to serve next, while a switchover is under way.
    #[must_use]
    pub fn handover(&self) -> Option<NodeId> {
        self.handover
    }

    /// How far a switchover is that is under way.
    #[must_use]
    pub fn stage(&self) -> Option<Stage> {
        self.handover.map(|_| self.stage)
    }

    /// The switchover that an operator wants later.
    #[must_use]
    pub fn scheduled(&self) -> Option<Scheduled> {
        self.scheduled
    }

    /// Whether who has the log must read entries of [`super::Entry::OPERATE_VERSION`].
    #[must_use]
    pub fn was_operated(&self) -> bool {
        self.was_operated
    }

    /// The attempt in which an operator accepts loss.
    #[must_use]
    pub fn loss_accepted(&self) -> Option<Attempt> {
        self.loss_accepted
    }

    /// PostgreSQL's identifier of the cluster's database; `None` before the cluster has begun.
    #[must_use]
    pub fn system(&self) -> Option<SystemId> {
        self.system
    }

    /// The nodes that operators have named since the cluster was founded.
    #[must_use]
    pub fn nodes(&self) -> &BTreeMap<NodeId, Node> {
        &self.nodes
    }

    /// The nodes that operators have detached: nobody is sent there who only reads, commits wait
    /// for them only where no other standby streams, and they become primary only if no other can.
    #[must_use]
    pub fn detached(&self) -> &BTreeSet<NodeId> {
        &self.detached
    }

    /// Whether operators have detached a node.
    #[must_use]
    pub fn is_detached(&self, node: NodeId) -> bool {
        self.detached.contains(&node)
    }

    /// These directories of members without those of detached nodes, unless no other is among them.
    #[must_use]
    pub fn without_detached(&self, directories: BTreeSet<Incarnation>) -> BTreeSet<Incarnation> {
        let detached = self.detached.iter().filter_map(|node| self.members.get(node));
        let detached: BTreeSet<_> = detached.map(|member| member.incarnation).collect();
        let others: BTreeSet<_> = directories.difference(&detached).copied().collect();
        if others.is_empty() { directories } else { others }
    }

    /// The newest membership.
    #[must_use]
    pub fn membership(&self) -> &Membership {
        let [.., newest] = &self.memberships[..] else {
            unreachable!("a state begins with a membership and never drops the newest one");
        };
        newest
    }

    /// The memberships that some registered node may count in, the oldest first.
    #[must_use]
    pub fn memberships(&self) -> &[Membership] {
        &self.memberships
    }

    /// The nodes that may hold leases.
    #[must_use]
    pub fn registrations(&self) -> &BTreeMap<NodeId, Registration> {
        &self.registrations
    }

    /// Who may answer for each virtual address.
    #[must_use]
    pub fn vips(&self) -> &BTreeMap<VipId, Right> {
        &self.vips
    }

    /// The addresses that are to be taken from their holders.
    #[must_use]
    pub fn vips_retiring(&self) -> &BTreeSet<VipId> {
        &self.vips_retiring
    }

    /// Which proxies share what comes in by virtual addresses.
    #[must_use]
    pub fn steering(&self) -> &Steering {
        &self.steering
    }

    /// What voters are to release now: a kind, and up to which number.
    pub fn wanted(&self) -> impl Iterator<Item = (Kind, u64)> + '_ {
        let sealed = self.tenure.as_ref().filter(|_| self.sealed.is_some());
        let primary = sealed.map(|tenure| (Kind::Primary, tenure.epoch.0));
        let retiring = self.registrations.iter().filter(|(_, one)| one.is_retiring);
        let nodes = retiring.flat_map(|(node, one)| {
            [Kind::Member(*node), Kind::Route(*node)].map(|kind| (kind, one.number))
        });
        let vips = self
            .vips_retiring
            .iter()
            .filter_map(|vip| self.vips.get(vip).map(|right| (Kind::Vip(*vip), right.number)));
        primary.into_iter().chain(nodes).chain(vips)
    }

    /// The highest number of a kind that a voter has stated to be released.
    #[must_use]
    pub fn released_by(&self, voter: NodeId, kind: Kind) -> Option<u64> {
        self.released.get(&kind)?.get(&voter).copied()
    }

    /// The nodes that must have applied the newest epoch before it may serve: those that may hold
    /// leases from before it.
    pub fn unconfirmed(&self) -> impl Iterator<Item = NodeId> + '_ {
        let before = self.tenure.as_ref().map_or(0, |tenure| tenure.registrations_before);
        let old = self.registrations.iter().filter(move |(_, one)| one.number <= before);
        old.map(|(node, _)| *node).filter(|node| self.may_have_leases(*node))
    }

    /// Whether a node may have a member or a route lease. If not, its PostgreSQL serves as a
    /// standby to nobody (who holds the newest epoch serves by another lease), and a proxy that
    /// follows the cluster passes nothing on.
    #[must_use]
    pub fn may_have_leases(&self, node: NodeId) -> bool {
        let kinds = [Kind::Member(node), Kind::Route(node)];
        self.registrations.get(&node).is_some_and(|one| {
            !one.is_retiring || kinds.iter().any(|kind| !self.is_released(*kind, one.number))
        })
    }

    /// The nodes with data directories.
    #[must_use]
    pub fn members(&self) -> &BTreeMap<NodeId, Member> {
        &self.members
    }

    /// The nodes whose PostgreSQL nobody is to talk to: they have directories, and no leases by
    /// which they could serve, or are to give them back. Not who holds the newest epoch: whether
    /// that one still serves, its standbys and voters judge.
    pub fn fenced(&self) -> impl Iterator<Item = NodeId> + '_ {
        let may_serve = |node: &NodeId| {
            let registration = self.registrations.get(node);
            let holds_newest = self.tenure.as_ref().is_some_and(|tenure| tenure.holder == *node);
            holds_newest || registration.is_some_and(|one| !one.is_retiring)
        };
        self.members.keys().copied().filter(move |node| !may_serve(node))
    }

    /// Who holds the newest epoch; `None` before the cluster has begun.
    #[must_use]
    pub fn tenure(&self) -> Option<&Tenure> {
        self.tenure.as_ref()
    }

    /// The last epoch that served.
    #[must_use]
    pub fn established(&self) -> Option<&Established> {
        self.established.as_ref()
    }

    /// The attempt under way, if the newest epoch is sealed.
    #[must_use]
    pub fn sealed(&self) -> Option<Attempt> {
        self.sealed
    }

    /// The tenures after the established one.
    #[must_use]
    pub fn unestablished(&self) -> &BTreeMap<Epoch, Unserved> {
        &self.unestablished
    }

    /// Whether so many voters of every membership that the holder may count in have released rights
    /// of this kind up to `number` that the others are no majority: nobody holds one or ever will.
    #[must_use]
    pub fn is_released(&self, kind: Kind, number: u64) -> bool {
        self.lacks_release(kind, number).is_none()
    }

    /// The first membership of which too few voters have released rights of this kind up to
    /// `number`.
    #[must_use]
    pub fn lacks_release(&self, kind: Kind, number: u64) -> Option<&Membership> {
        let stated = self.released.get(&kind).into_iter().flatten();
        let voters: BTreeSet<_> =
            stated.filter(|(_, up_to)| number <= **up_to).map(|(voter, _)| *voter).collect();
        let oldest = self
            .holder(kind)
            .and_then(|holder| self.registrations.get(&holder))
            .map_or(0, |registration| registration.counts_in);
        self.memberships
            .iter()
            .find(|known| known.version >= oldest && !known.is_blocked_by(&voters))
    }

    /// Who holds the newest right of a kind, if anybody does.
    fn holder(&self, kind: Kind) -> Option<NodeId> {
        match kind {
            Kind::Primary => self.tenure.as_ref().map(|tenure| tenure.holder),
            Kind::Member(node) | Kind::Route(node) => Some(node),
            Kind::Vip(vip) => self.vips.get(&vip).map(|right| right.holder),
        }
    }

    /// Whether a directory with these timelines and data up to `end` may receive from the newest
    /// epoch's primary as it is, without rewinding.
    #[must_use]
    pub fn may_follow(&self, history: &History, end: Lsn) -> bool {
        let (Some(tenure), Some(established)) = (&self.tenure, &self.established) else {
            return false;
        };
        let epoch = tenure.epoch;
        if tenure.is_established {
            return history.descent(end, &established.history, &BTreeSet::new()) == Descent::Counts;
        }
        // Where the new timeline begins is recorded only when it serves; until then, it is where
        // the elected directory ended.
        let mut expected = tenure.history.clone();
        let follows_already = history.0.last().is_some_and(|switch| switch.epoch == epoch);
        if !follows_already {
            let timeline = Timeline(u32::MAX);
            expected.0.push(Switch { timeline, at: tenure.end, epoch });
        }
        history.descent(end, &expected, &BTreeSet::from([epoch])) == Descent::Counts
    }

    /// Whether acknowledged commits may depend on a directory: it is in a rule in force, or has all
    /// that was acknowledged in the last epoch that served.
    #[must_use]
    pub fn needs(&self, incarnation: Incarnation) -> bool {
        self.established.as_ref().is_some_and(|established| {
            established.incarnation == incarnation
                || established.rules.iter().any(|rule| rule.members.contains(&incarnation))
        })
    }

    /// Whether a directory with these timelines left before the newest election that may have lost
    /// acknowledged commits: unless its log ends where the others' went on, it may be the only one
    /// that has them.
    #[must_use]
    pub fn is_from_before_loss(&self, history: &History) -> bool {
        let recorded = self.established.as_ref().map(|established| &established.history.0);
        let lossy = recorded
            .zip(self.lossy)
            .and_then(|(recorded, epoch)| recorded.iter().find(|switch| switch.epoch == epoch));
        lossy.is_some_and(|switch| !history.0.contains(switch))
    }

    /// Whether a node has left for good.
    #[must_use]
    pub fn is_gone(&self, node: NodeId) -> bool {
        self.nodes.get(&node).is_some_and(|named| named.role == Role::Gone)
    }

    /// Whether this is the newest right of its kind, in the name of who has it.
    #[must_use]
    pub fn is_holder(&self, right: &Right) -> bool {
        let registration = self.registrations.get(&right.holder);
        let is_registered = registration.is_some_and(|one| one.number == right.number);
        match right.kind {
            Kind::Primary => self.tenure.as_ref().is_some_and(|tenure| {
                *right == Right::primary(tenure.epoch, tenure.holder, tenure.incarnation)
            }),
            Kind::Member(node) => {
                let member = self.members.get(&node);
                node == right.holder
                    && is_registered
                    && member.is_some_and(|member| member.incarnation == right.incarnation)
            }
            Kind::Route(node) => node == right.holder && is_registered,
            Kind::Vip(vip) => self.vips.get(&vip) == Some(right),
        }
    }

    /// Whether a voter with this state may promise the right to a holder that goes by `epoch`.
    ///
    /// # Errors
    /// [`Refusal::Sealed`], [`Refusal::Epoch`] or [`Refusal::NotTheHolder`].
    pub fn permits(&self, right: &Right, epoch: Epoch) -> Result<(), Refusal> {
        let tenure = self.tenure.as_ref().ok_or(Refusal::NotTheHolder)?;
        let registration = self.registrations.get(&right.holder).ok_or(Refusal::NotTheHolder)?;
        let newest = tenure.epoch;
        let follows_epoch = matches!(right.kind, Kind::Member(_) | Kind::Route(_));
        if !self.is_holder(right) {
            Err(Refusal::NotTheHolder)
        } else if self.is_wanted_back(right, registration) {
            Err(Refusal::Sealed)
        } else if follows_epoch && epoch < newest {
            // Who has not heard of the newest primary must not go on reading from an older one.
            Err(Refusal::Epoch { newest })
        } else {
            Ok(())
        }
    }

    fn is_wanted_back(&self, right: &Right, registration: &Registration) -> bool {
        match right.kind {
            Kind::Primary => self.sealed.is_some(),
            Kind::Member(_) | Kind::Route(_) => registration.is_retiring,
            Kind::Vip(vip) => self.vips_retiring.contains(&vip),
        }
    }
}
