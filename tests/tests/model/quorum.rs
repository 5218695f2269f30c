//! The log: the real `cluster::State`, and the entries that an honest coordinator may append.
//!
//! The coordinator appends whatever the state accepts, at any moment and in any order. Honest means
//! that it says of voters and holders only what they have said. Void entries change nothing and are
//! left out. Read `world` for who applies what when.

use pgx_control::cluster::history::{History, Switch};
use pgx_control::cluster::sync::Rule;
use pgx_control::cluster::{Entry, Member, Membership, Report, State, Void};
use pgx_control::ids::{Attempt, Epoch, Incarnation, Lsn, NodeId, SystemId, Timeline};
use pgx_control::lease::{Kind, Right};

use crate::bounds::{self, Bounds, Bug};

/// The nodes that may become primary: they are no voters, so that no clock is shared.
pub(crate) const CANDIDATES: [NodeId; 2] = [NodeId(10), NodeId(11)];

/// The voter at this place.
pub(crate) fn voter(place: u8) -> NodeId {
    NodeId(u64::from(place) + 1)
}

/// Which candidate holds this epoch: they take turns.
pub(crate) fn candidate_of(epoch: u8) -> usize {
    usize::from(epoch % 2)
}

/// The right to be primary in this epoch.
pub(crate) fn right(epoch: u8) -> Right {
    let candidate = CANDIDATES[candidate_of(epoch)];
    Right::primary(Epoch(epoch.into()), candidate, directory(candidate))
}

/// The newest epoch of a state, which has begun.
pub(crate) fn newest(state: &State) -> u8 {
    let tenure = state.tenure().expect("the model begins with a primary");
    u8::try_from(tenure.epoch.0).expect("runs have few epochs")
}

/// An entry in short.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Proposal {
    /// The newest epoch is to be left.
    Seal,
    /// This voter has said that it has released epochs up to this one.
    Released {
        /// The voter's place.
        voter: u8,
        /// The epoch.
        epoch: u8,
    },
    /// The other candidate becomes primary.
    NewEpoch,
    /// The next settings.
    Settings {
        /// How many changes there were before, and this one.
        change: u8,
    },
    /// The next voter joins.
    Grow,
    /// This candidate has said that it counts in this membership.
    Adopted {
        /// Which candidate.
        candidate: u8,
        /// The membership's version.
        version: u64,
    },
}

impl Proposal {
    /// Whether voters and holders look at what this entry changes.
    pub(crate) fn is_seen_by_nodes(self) -> bool {
        !matches!(self, Self::Released { .. } | Self::Adopted { .. })
    }
}

/// Three voters, two directories, and the first candidate primary in epoch 0.
pub(crate) fn founded(bounds: &Bounds) -> State {
    let voters = (0..bounds.voters_at_first()).map(voter).collect();
    let mut state = State::new(voters, bounds::settings(0));
    let [first, second] = CANDIDATES;
    for node in CANDIDATES {
        apply(&mut state, &Entry::Register { node });
    }
    let bootstrap = Entry::Bootstrap {
        system: SystemId(1),
        holder: first,
        incarnation: directory(first),
        timeline: Timeline(1),
    };
    apply(&mut state, &bootstrap);
    let member = Member { node: second, incarnation: directory(second), priority: 0 };
    apply(&mut state, &Entry::Admit { member, replaces: None });
    // Only a directory that commits could depend on may be elected.
    let epoch = Epoch(0);
    apply(&mut state, &Entry::RuleJoint { epoch, rule: any_but(first) });
    apply(&mut state, &Entry::RuleSettled { epoch, change: 1 });
    state
}

/// Appends the entry, or says why it is void.
pub(crate) fn append(state: &mut State, proposal: Proposal, bug: Bug) -> Result<(), Void> {
    if bug == Bug::TwoVotersAtOnce && proposal == Proposal::Grow {
        *state = with_two_more_voters(state);
        return Ok(());
    }
    let before = state.clone();
    if let Err(void) = state.apply(&entry(state, proposal)) {
        assert!(before == *state, "{proposal:?} is void and has changed the state");
        return Err(void);
    }
    assert!(
        proposal.is_seen_by_nodes() || sight(&before) == sight(state),
        "{proposal:?} changes what nodes go by: they must apply it in a step of their own"
    );
    Ok(())
}

/// All that voters and holders look at.
fn sight(state: &State) -> impl PartialEq {
    let wanted: Vec<_> = state.wanted().collect();
    let permits: Vec<_> = (0..3).map(|epoch| state.permits(&right(epoch), Epoch(9))).collect();
    let membership = state.membership().clone();
    (state.settings(), state.longest_promise_ms(), membership, wanted, permits)
}

fn entry(state: &State, proposal: Proposal) -> Entry {
    let newest = newest(state);
    let attempt = state.sealed().unwrap_or(Attempt(1));
    let epoch = Epoch(newest.into());
    match proposal {
        Proposal::Seal => Entry::Seal { epoch, attempt },
        Proposal::Released { voter: place, epoch } => {
            Entry::Released { voter: voter(place), kind: Kind::Primary, number: epoch.into() }
        }
        Proposal::NewEpoch => {
            let next = right(newest + 1);
            let reports = CANDIDATES.map(|node| report(node, epoch, attempt)).into();
            let (holder, incarnation) = (next.holder, next.incarnation);
            let rule = any_but(holder);
            let epoch = epoch.next();
            let accept_loss = false;
            Entry::NewEpoch { epoch, attempt, holder, incarnation, reports, rule, accept_loss }
        }
        Proposal::Settings { change } => Entry::Settings(bounds::settings(change)),
        Proposal::Grow => {
            let Membership { version, mut voters } = state.membership().clone();
            voters.insert(NodeId(voters.last().map_or(1, |last| last.0 + 1)));
            Entry::Membership(Membership { version: version + 1, voters })
        }
        Proposal::Adopted { candidate, version } => {
            Entry::MembershipAdopted { node: CANDIDATES[usize::from(candidate)], version }
        }
    }
}

/// Replication is not modelled: both directories have everything.
fn report(node: NodeId, epoch: Epoch, attempt: Attempt) -> Report {
    let first = Switch { timeline: Timeline(1), at: Lsn(0), epoch: Epoch(0) };
    let (incarnation, history) = (directory(node), History(vec![first]));
    Report { node, incarnation, epoch, attempt, end: Lsn(100), shared: 0, history }
}

/// Commits must reach the other candidate's directory.
fn any_but(primary: NodeId) -> Rule {
    let others = CANDIDATES.into_iter().filter(|node| *node != primary);
    Rule { k: 1, members: others.map(directory).collect() }
}

fn directory(node: NodeId) -> Incarnation {
    Incarnation(u128::from(node.0) * 100)
}

fn apply(state: &mut State, entry: &Entry) {
    state.apply(entry).expect("the model's cluster must be founded");
}

/// What the real state refuses, written by hand: two voters more, and no older membership counts.
fn with_two_more_voters(state: &State) -> State {
    let Membership { version, mut voters } = state.membership().clone();
    let last = voters.last().map_or(0, |last| last.0);
    voters.extend([NodeId(last + 1), NodeId(last + 2)]);
    let next = Membership { version: version + 1, voters };
    assert_eq!(state.clone().apply(&Entry::Membership(next.clone())), Err(Void::Membership));
    let mut raw = serde_json::to_value(state).expect("a state can be written");
    raw["memberships"] = serde_json::json!([next]);
    serde_json::from_value(raw).expect("a state can be read")
}
