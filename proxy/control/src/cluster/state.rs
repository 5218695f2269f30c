//! The replicated state, as plain data that every node has alike.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use super::history::History;
use super::sync::Rule;
use super::{Durability, Membership};
use crate::ids::{Attempt, Epoch, Incarnation, Lsn, NodeId, SystemId, VipId};
use crate::lease::{Kind, Refusal, Right, Settings};

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
    /// Whether acknowledged commits may have been lost by its election.
    pub is_lossy: bool,
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
    /// The rules in force: one, or two while a change runs.
    pub rules: Vec<Rule>,
    /// Counts the changes of the rule, over all epochs: what is said of one change must not be
    /// taken for the next.
    pub change: u64,
    /// The timelines up to it.
    pub history: History,
}

/// A node that may hold leases.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registration {
    /// Never the same for two registrations; it numbers the node's member and route leases.
    pub number: u64,
    /// The membership that the node counts its promises in, or a later one.
    pub counts_in: u64,
}

/// All that the quorum has agreed on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    pub(super) settings: Settings,
    pub(super) longest_promise_ms: u64,
    pub(super) durability: Durability,
    /// From the oldest membership that any registered node may count in to the newest one; never
    /// empty.
    pub(super) memberships: Vec<Membership>,
    pub(super) registrations: BTreeMap<NodeId, Registration>,
    pub(super) registrations_ever: u64,
    pub(super) members: BTreeMap<NodeId, Member>,
    pub(super) vips: BTreeMap<VipId, Right>,
    pub(super) system: Option<SystemId>,
    pub(super) tenure: Option<Tenure>,
    pub(super) established: Option<Established>,
    /// The tenures after the established one that ended before they served, and the newest one
    /// while it does not.
    pub(super) unestablished: BTreeMap<Epoch, Tenure>,
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
            memberships: alloc::vec![Membership { version: 1, voters }],
            registrations: BTreeMap::new(),
            registrations_ever: 0,
            members: BTreeMap::new(),
            vips: BTreeMap::new(),
            system: None,
            tenure: None,
            established: None,
            unestablished: BTreeMap::new(),
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

    /// The nodes with data directories.
    #[must_use]
    pub fn members(&self) -> &BTreeMap<NodeId, Member> {
        &self.members
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
    pub fn unestablished(&self) -> &BTreeMap<Epoch, Tenure> {
        &self.unestablished
    }

    /// Whether a majority of every membership that the holder may count in has released rights of
    /// this kind up to `number`: nobody holds one or ever will.
    #[must_use]
    pub fn is_released(&self, kind: Kind, number: u64) -> bool {
        self.lacks_release(kind, number).is_none()
    }

    /// The first membership of which no majority has released rights of this kind up to `number`.
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
            .find(|known| known.version >= oldest && !known.has_majority(&voters))
    }

    /// Who holds the newest right of a kind, if anybody does.
    fn holder(&self, kind: Kind) -> Option<NodeId> {
        match kind {
            Kind::Primary => self.tenure.as_ref().map(|tenure| tenure.holder),
            Kind::Member(node) | Kind::Route(node) => Some(node),
            Kind::Vip(vip) => self.vips.get(&vip).map(|right| right.holder),
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
        let holds = match right.kind {
            Kind::Primary => *right == Right::primary(newest, tenure.holder, tenure.incarnation),
            Kind::Member(node) => {
                let member = self.members.get(&node);
                node == right.holder
                    && right.number == registration.number
                    && member.is_some_and(|member| member.incarnation == right.incarnation)
            }
            Kind::Route(node) => node == right.holder && right.number == registration.number,
            Kind::Vip(vip) => self.vips.get(&vip) == Some(right),
        };
        let follows_epoch = matches!(right.kind, Kind::Member(_) | Kind::Route(_));
        if !holds {
            Err(Refusal::NotTheHolder)
        } else if right.kind == Kind::Primary && self.sealed.is_some() {
            Err(Refusal::Sealed)
        } else if follows_epoch && epoch < newest {
            // Who has not heard of the newest primary must not go on reading from an older one.
            Err(Refusal::Epoch { newest })
        } else {
            Ok(())
        }
    }
}
