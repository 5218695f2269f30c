//! Clusters in a few words, for the tests of this crate.

use alloc::vec::Vec;

use super::history::{History, Switch};
use super::sync::Rule;
use super::{Entry, Member, Report, Stage, State, Void};
use crate::ids::{Attempt, Epoch, Incarnation, Lsn, NodeId, SystemId, Timeline};
use crate::lease::{Kind, Settings};
use crate::limits::RULES_MAX;

/// The directory of node `n` in these tests.
pub(crate) fn directory(node: u64) -> Incarnation {
    Incarnation(u128::from(node) * 100)
}

/// `ANY k` of the directories of these nodes.
pub(crate) fn any(k: usize, nodes: &[u64]) -> Rule {
    Rule { k, members: nodes.iter().copied().map(directory).collect() }
}

/// Three voters with directories; node 1 is primary in epoch 0 with `ANY 1 (2, 3)`.
pub(crate) fn three_nodes() -> State {
    let mut state = State::new([1, 2, 3].map(NodeId).into(), Settings::default());
    let holder = NodeId(1);
    let bootstrap = Entry::Bootstrap {
        system: SystemId(1),
        holder,
        incarnation: directory(1),
        timeline: Timeline(1),
    };
    apply_all(&mut state, [1, 2, 3].map(|node| Entry::Register { node: NodeId(node) }));
    apply_all(&mut state, [bootstrap]);
    apply_all(
        &mut state,
        [1, 2, 3].map(|node| {
            let replaces = (node == 1).then_some(directory(1));
            let incarnation = directory(node);
            Entry::Admit {
                member: Member { node: NodeId(node), incarnation, priority: 0 },
                replaces,
            }
        }),
    );
    let epoch = Epoch(0);
    apply_all(
        &mut state,
        [
            Entry::RuleJoint { epoch, rule: any(1, &[2, 3]) },
            Entry::RuleSettled { epoch, change: 1 },
        ],
    );
    state
}

/// Has node 2 rebuilt, and named by a rule of its own, until there is room for no other rule.
pub(crate) fn fill_rules(state: &mut State) -> Rule {
    let mut rule = any(1, &[2, 3]);
    for name in 1000..1000 + RULES_MAX as u128 - 1 {
        let replaces = state.members().get(&NodeId(2)).map(|member| member.incarnation);
        let member = Member { node: NodeId(2), incarnation: Incarnation(name), priority: 0 };
        rule = Rule { k: 1, members: [member.incarnation].into() };
        let joint = Entry::RuleJoint { epoch: newest(state), rule: rule.clone() };
        apply_all(state, [Entry::Admit { member, replaces }, joint]);
    }
    rule
}

/// Applies entries that must not be void.
pub(crate) fn apply_all(state: &mut State, entries: impl IntoIterator<Item = Entry>) {
    for entry in entries {
        if let Err(void) = state.apply(&entry) {
            panic!("{entry:?} is void: {void}");
        }
    }
}

/// Seals the newest epoch and has these voters release it.
pub(crate) fn seal(state: &mut State, attempt: u64, releasers: &[u64]) {
    let epoch = newest(state);
    apply_all(state, [Entry::Seal { epoch, attempt: Attempt(attempt) }]);
    let released = releasers.iter().map(|voter| Entry::Released {
        voter: NodeId(*voter),
        kind: Kind::Primary,
        number: epoch.0,
    });
    apply_all(state, released);
}

/// The newest epoch.
pub(crate) fn newest(state: &State) -> Epoch {
    state.tenure().expect("the cluster has begun").epoch
}

/// The timelines in short: number, where it begins, the epoch that made it.
pub(crate) fn history(switches: &[(u32, u64, u64)]) -> History {
    let switch = |&(timeline, at, epoch): &(u32, u64, u64)| Switch {
        timeline: Timeline(timeline),
        at: Lsn(at),
        epoch: Epoch(epoch),
    };
    History(switches.iter().map(switch).collect())
}

/// The report of a node for the attempt under way, on the first timeline.
pub(crate) fn report(state: &State, node: u64, end: u64) -> Report {
    Report {
        node: NodeId(node),
        incarnation: directory(node),
        epoch: newest(state),
        attempt: state.sealed().unwrap_or(Attempt(0)),
        end: Lsn(end),
        shared: 0,
        history: history(&[(1, 0, 0)]),
    }
}

/// The entry that makes `node` primary by these reports, with `ANY 1` of the other two.
pub(crate) fn elect(state: &State, node: u64, reports: Vec<Report>) -> Entry {
    let others: Vec<_> = (1..=3).filter(|other| *other != node).collect();
    Entry::NewEpoch {
        epoch: newest(state).next(),
        attempt: state.sealed().unwrap_or(Attempt(0)),
        holder: NodeId(node),
        incarnation: directory(node),
        reports,
        rule: any(1, &others),
        accept_loss: false,
    }
}

/// Says that the newest epoch serves, on a timeline of its own that began at `switch`.
pub(crate) fn establish(state: &mut State, timeline: u32, switch: u64) -> Result<(), Void> {
    let epoch = newest(state);
    let (switch, lsn) = (Lsn(switch), Lsn(switch + 1));
    let confirmed = state.registrations().keys().copied().collect();
    let change = state.tenure().map_or(0, |tenure| tenure.change);
    let timeline = Timeline(timeline);
    state.apply(&Entry::Established { epoch, timeline, switch, lsn, change, confirmed })
}

/// Gives a cluster of one directory its next epoch, with the same holder.
pub(crate) fn move_primary(state: &mut State) {
    let tenure = state.tenure().expect("the cluster has begun").clone();
    let voters: Vec<_> = state.membership().voters.iter().map(|voter| voter.0).collect();
    seal(state, 1, &voters);
    let own = Report { incarnation: tenure.incarnation, ..report(state, tenure.holder.0, 10) };
    let entry = Entry::NewEpoch {
        epoch: tenure.epoch.next(),
        attempt: Attempt(1),
        holder: tenure.holder,
        incarnation: tenure.incarnation,
        reports: alloc::vec![own],
        rule: Rule::degraded(),
        accept_loss: false,
    };
    apply_all(state, [entry]);
}

/// A switchover to this node, in which the primary of epoch 0 is to stop.
pub(crate) fn stop_for_switchover(state: &mut State, to: u64) {
    let epoch = Epoch(0);
    let stage = |stage| Entry::SwitchoverStage { epoch, stage };
    let begun = Entry::Switchover { epoch, to: NodeId(to) };
    apply_all(state, [begun, stage(Stage::Holds), stage(Stage::Stops)]);
}
