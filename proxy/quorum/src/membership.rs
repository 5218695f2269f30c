//! Who belongs to the quorum: voters, learners, their incarnations, and the changes to them.
//!
//! Everything here is a function of the log: each node computes the same membership from the same
//! entries. Who is reachable or caught up stands in `status.rs`. Learners receive the log and do
//! not count; a new voter is a learner first, so that it never counts before it has the log.

use std::collections::BTreeMap;

use crate::bytes::Reader;
use crate::ids::{Incarnation, NodeId};
use crate::limits::MEMBERS_MAX;

/// Version of the encoding of a membership in a snapshot.
const ENCODING: u8 = 1;

/// Whether a member counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Counts in every majority; may become coordinator.
    Voter,
    /// Receives the log and does not count.
    Learner,
}

/// One member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// The only file under this number that is listened to.
    pub incarnation: Incarnation,
    /// Whether it counts.
    pub role: Role,
}

/// One change; voters change one at a time, so that any two majorities in a row overlap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Takes in a node that does not count yet. Its number must be higher than any before it.
    AddLearner {
        /// The new member.
        node: NodeId,
        /// The file it has made for this.
        incarnation: Incarnation,
    },
    /// Makes a learner that is caught up a voter.
    Promote {
        /// The learner.
        node: NodeId,
    },
    /// Lets a voter or learner go for good.
    Remove {
        /// The member.
        node: NodeId,
    },
}

/// Why a change does not fit the membership.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Misfit {
    /// The number is or was somebody's.
    #[error("{node} was a member before; give the new member a number above {highest}")]
    NumberUsed {
        /// The number asked for.
        node: NodeId,
        /// The highest number given so far.
        highest: NodeId,
    },
    /// There is no such learner.
    #[error("{0} is no learner, so it cannot be promoted")]
    NotALearner(NodeId),
    /// There is no such member.
    #[error("{0} is no member")]
    NotAMember(NodeId),
    /// Nobody would be left to decide anything.
    #[error("{0} is the last voter and cannot be removed")]
    LastVoter(NodeId),
    /// The bound on members.
    #[error("there are {MEMBERS_MAX} members already; remove one first")]
    TooMany,
}

/// The members as of one place in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership {
    members: BTreeMap<NodeId, Member>,
    /// The highest number ever given. Numbers at or below it that are not members' are retired.
    highest: NodeId,
}

impl Membership {
    /// The membership that a cluster is created with; `None` without voters or with too many.
    #[must_use]
    pub fn of_voters(voters: &[(NodeId, Incarnation)]) -> Option<Self> {
        let voter = |&(node, incarnation)| (node, Member { incarnation, role: Role::Voter });
        let members: BTreeMap<_, _> = voters.iter().map(voter).collect();
        let highest = *members.last_key_value()?.0;
        (members.len() == voters.len() && members.len() <= MEMBERS_MAX)
            .then_some(Self { members, highest })
    }

    /// The member of that number.
    #[must_use]
    pub fn get(&self, node: NodeId) -> Option<Member> {
        self.members.get(&node).copied()
    }

    /// Every member, in the order of their numbers.
    pub fn iter(&self) -> impl Iterator<Item = (NodeId, Member)> + '_ {
        self.members.iter().map(|(node, member)| (*node, *member))
    }

    /// Those who count.
    pub fn voters(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.with_role(Role::Voter)
    }

    /// Those who do not count yet.
    pub fn learners(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.with_role(Role::Learner)
    }

    /// Fewest voters that make a majority.
    #[must_use]
    pub fn majority(&self) -> usize {
        self.voters().count() / 2 + 1
    }

    /// The lowest number that a new member may have; `None` when numbers have run out.
    #[must_use]
    pub fn next_number(&self) -> Option<NodeId> {
        NodeId::new(self.highest.get().checked_add(1)?)
    }

    /// Whether the number belonged to a member that is gone.
    #[must_use]
    pub fn is_retired(&self, node: NodeId) -> bool {
        node <= self.highest && !self.members.contains_key(&node)
    }

    /// The membership after a change.
    ///
    /// # Errors
    /// When the change does not fit; every node finds the same.
    pub fn after(&self, change: Change) -> Result<Self, Misfit> {
        let mut next = self.clone();
        match change {
            Change::AddLearner { node, .. } if node <= self.highest => {
                return Err(Misfit::NumberUsed { node, highest: self.highest });
            }
            Change::AddLearner { node, incarnation } => {
                if self.members.len() >= MEMBERS_MAX {
                    return Err(Misfit::TooMany);
                }
                next.members.insert(node, Member { incarnation, role: Role::Learner });
                next.highest = node;
            }
            Change::Promote { node } => match next.members.get_mut(&node) {
                Some(member) if member.role == Role::Learner => member.role = Role::Voter,
                _ => return Err(Misfit::NotALearner(node)),
            },
            Change::Remove { node } => {
                next.members.remove(&node).ok_or(Misfit::NotAMember(node))?;
                if next.voters().next().is_none() {
                    return Err(Misfit::LastVoter(node));
                }
            }
        }
        Ok(next)
    }

    /// The membership of one survivor alone, with the numbers of the others retired.
    pub(crate) fn alone(&self, survivor: NodeId, incarnation: Incarnation) -> Self {
        let member = Member { incarnation, role: Role::Voter };
        Self { members: BTreeMap::from([(survivor, member)]), highest: self.highest.max(survivor) }
    }

    /// Appends the membership as a snapshot carries it.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.push(ENCODING);
        out.extend(self.highest.get().to_be_bytes());
        // MEMBERS_MAX keeps the count within a byte.
        out.push(u8::try_from(self.members.len()).unwrap_or(u8::MAX));
        for (node, member) in self.iter() {
            out.extend(node.get().to_be_bytes());
            out.extend(member.incarnation.get().to_be_bytes());
            out.push(match member.role {
                Role::Voter => 0,
                Role::Learner => 1,
            });
        }
    }

    /// Reads what [`Self::encode`] wrote and leaves the rest in the reader.
    pub(crate) fn decode(reader: &mut Reader<'_>) -> Option<Self> {
        if reader.u8()? != ENCODING {
            return None;
        }
        let highest = NodeId::new(reader.u64()?)?;
        let count = usize::from(reader.u8()?);
        let mut members = BTreeMap::new();
        for _ in 0..count {
            let node = NodeId::new(reader.u64()?)?;
            let incarnation = Incarnation::new(reader.u64()?)?;
            let role = match reader.u8()? {
                0 => Role::Voter,
                1 => Role::Learner,
                _ => return None,
            };
            members.insert(node, Member { incarnation, role });
        }
        let membership = Self { members, highest };
        let sound = membership.members.len() == count
            && count <= MEMBERS_MAX
            && membership.voters().next().is_some()
            && membership.members.keys().all(|node| *node <= highest);
        sound.then_some(membership)
    }

    fn with_role(&self, role: Role) -> impl Iterator<Item = NodeId> + '_ {
        self.iter().filter(move |(_, member)| member.role == role).map(|(node, _)| node)
    }
}

impl Change {
    /// The member that the change is about.
    #[must_use]
    pub fn node(self) -> NodeId {
        match self {
            Self::AddLearner { node, .. } | Self::Promote { node } | Self::Remove { node } => node,
        }
    }

    /// The change as an entry carries it.
    pub(crate) fn encode(self) -> Vec<u8> {
        let (kind, incarnation) = match self {
            Self::AddLearner { incarnation, .. } => (0, incarnation.get()),
            Self::Promote { .. } => (1, 0),
            Self::Remove { .. } => (2, 0),
        };
        let mut out = vec![kind];
        out.extend(self.node().get().to_be_bytes());
        out.extend(incarnation.to_be_bytes());
        out
    }

    /// Reads what [`Self::encode`] wrote.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader(bytes);
        let kind = reader.u8()?;
        let node = NodeId::new(reader.u64()?)?;
        let incarnation = reader.u64()?;
        match kind {
            0 => Some(Self::AddLearner { node, incarnation: Incarnation::new(incarnation)? }),
            1 => Some(Self::Promote { node }),
            2 => Some(Self::Remove { node }),
            _ => None,
        }
    }
}

/// The next step on the way from `old` to `new` in one voter's place, or `None` at the end.
///
/// The steps are found from the membership alone, so any coordinator can go on where another one
/// stopped. A dead voter leaves before its successor counts: no majority ever includes it in vain.
#[must_use]
pub fn replacement_step(
    membership: &Membership,
    old: NodeId,
    old_is_dead: bool,
    new: (NodeId, Incarnation),
) -> Option<Change> {
    let (node, incarnation) = new;
    let old_is_there = membership.get(old).is_some();
    match membership.get(node).map(|member| member.role) {
        None => Some(Change::AddLearner { node, incarnation }),
        Some(Role::Learner) if old_is_there && old_is_dead => Some(Change::Remove { node: old }),
        Some(Role::Learner) => Some(Change::Promote { node }),
        Some(Role::Voter) => old_is_there.then_some(Change::Remove { node: old }),
    }
}
