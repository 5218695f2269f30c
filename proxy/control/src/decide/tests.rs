//! The decision in each situation of a failover.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use super::*;
use crate::cluster::sync::Rule;
use crate::cluster::testing::{any, apply_all, directory, report, seal, three_nodes};
use crate::cluster::{Durability, Report};
use crate::ids::{Incarnation, Lsn, Timeline};

const NOW: BootTime = BootTime(100_000_000_000);

const RECOVERED: Recovered = Recovered { timeline: Timeline(2), switch: Lsn(101), end: Lsn(110) };

/// No situation here takes more entries until nothing is left to propose.
const PROPOSALS_MAX: usize = 10;

/// A cluster and what is known of it; node 1 is primary, 2 and 3 stream.
struct Scene {
    state: State,
    nodes: BTreeMap<NodeId, Observation>,
    missed: BTreeSet<NodeId>,
    is_paused: bool,
    sealed_since: BootTime,
}

fn scene() -> Scene {
    let seen = |node: u64| Observation {
        heard: NOW,
        epoch: Epoch(0),
        postgres: if node == 1 { Postgres::Primary } else { Postgres::Standby },
        report: None,
        recovered: None,
        settled_change: 2,
        is_streaming: node != 1,
    };
    Scene {
        state: three_nodes(),
        nodes: (1..=3).map(|node| (NodeId(node), seen(node))).collect(),
        missed: BTreeSet::new(),
        is_paused: false,
        sealed_since: NOW,
    }
}

impl Scene {
    fn decide(&self) -> Vec<Action> {
        let view = View {
            state: &self.state,
            term: 4,
            nodes: &self.nodes,
            missed_renewals: self.missed.clone(),
            tenure_since: NOW,
            sealed_since: self.sealed_since,
            is_paused: self.is_paused,
            policy: Policy::default(),
        };
        decide(&view, NOW)
    }

    fn node(&mut self, node: u64) -> &mut Observation {
        self.nodes.get_mut(&NodeId(node)).unwrap()
    }

    /// The node's agent reports its frozen directory for the attempt under way.
    fn reports(&mut self, node: u64, end: u64) {
        let report: Report = report(&self.state, node, end);
        self.node(node).report = Some(report);
    }

    /// Nothing is heard from the node any more.
    fn silence(&mut self, node: u64) {
        self.node(node).heard = BootTime(0);
    }

    /// Applies what was decided, as the quorum would, until nothing is proposed.
    fn settle(&mut self) -> Vec<Action> {
        for _ in 0..PROPOSALS_MAX {
            let actions = self.decide();
            let proposed = actions.iter().find_map(|action| match action {
                Action::Propose(entry) => Some(entry.clone()),
                _ => None,
            });
            let Some(entry) = proposed else { return actions };
            apply_all(&mut self.state, [entry]);
        }
        panic!("still proposing after {PROPOSALS_MAX} entries: {:?}", self.decide());
    }
}

fn sealed_without_the_primary() -> Scene {
    let mut scene = scene();
    scene.silence(1);
    seal(&mut scene.state, 1, &[2, 3]);
    scene
}

fn elected(actions: &[Action]) -> Option<(NodeId, Rule)> {
    actions.iter().find_map(|action| match action {
        Action::Propose(Entry::NewEpoch { holder, rule, .. }) => Some((*holder, rule.clone())),
        _ => None,
    })
}

#[test]
fn a_cluster_that_is_well_needs_nothing() {
    assert_eq!(scene().decide(), []);
}

#[test]
fn dead_or_hung_postgresql_seals_at_once() {
    for postgres in [Postgres::Dead, Postgres::Hung] {
        let mut scene = scene();
        scene.node(1).postgres = postgres;
        let seal = Entry::Seal { epoch: Epoch(0), attempt: Attempt(1) };
        assert_eq!(scene.decide(), [Action::Propose(seal)]);
    }
}

#[test]
fn silence_seals_only_when_a_majority_of_voters_hears_it() {
    let mut scene = scene();
    scene.silence(1);
    scene.missed = [NodeId(2)].into();
    assert_eq!(scene.decide(), [], "one observer may be cut off itself");
    scene.missed = [2, 3].map(NodeId).into();
    assert!(matches!(scene.decide()[..], [Action::Propose(Entry::Seal { .. })]));
}

#[test]
fn what_an_agent_said_of_an_earlier_epoch_seals_no_later_one() {
    let mut scene = sealed_without_the_primary();
    scene.reports(2, 100);
    scene.reports(3, 100);
    let actions = scene.decide();
    let Some(Action::Propose(entry)) = actions.last() else { panic!("{actions:?}") };
    apply_all(&mut scene.state, [entry.clone()]);
    scene.node(2).postgres = Postgres::Dead;
    let actions = scene.decide();
    assert!(!actions.iter().any(|action| matches!(action, Action::Propose(_))), "{actions:?}");
}

#[test]
fn dead_standby_seals_nothing_and_leaves_the_rule() {
    let mut scene = scene();
    scene.silence(3);
    let joint = Entry::RuleJoint { epoch: Epoch(0), rule: any(1, &[2]) };
    assert_eq!(scene.decide(), [Action::Propose(joint)]);
}

#[test]
fn rule_is_settled_when_the_primary_says_so_and_not_before() {
    let mut scene = scene();
    scene.silence(3);
    scene.node(1).settled_change = 1;
    let actions = scene.settle();
    assert_eq!(scene.state.established().unwrap().rules.len(), 2, "{actions:?}");
    scene.node(1).settled_change = 2;
    scene.settle();
    assert_eq!(scene.state.established().unwrap().rules, [any(1, &[2])]);
}

#[test]
fn without_standbys_strict_commits_wait_and_available_ones_degrade_on_record() {
    let mut scene = scene();
    scene.silence(2);
    scene.silence(3);
    assert_eq!(scene.decide(), []);
    apply_all(&mut scene.state, [Entry::Durability(Durability::Available)]);
    let joint = Entry::RuleJoint { epoch: Epoch(0), rule: Rule::degraded() };
    assert_eq!(scene.decide(), [Action::Propose(joint)]);
}

#[test]
fn sealed_epoch_freezes_all_who_have_not_reported_with_the_attempts_stamp() {
    let mut scene = sealed_without_the_primary();
    scene.reports(2, 100);
    let actions = scene.decide();
    let stamp = Stamp { term: 4, epoch: Epoch(0), attempt: Attempt(1) };
    let freeze = |node| Action::Order { to: NodeId(node), stamp, order: Order::Freeze };
    assert_eq!(actions[..2], [freeze(1), freeze(3)]);
    let missing = [1, 3].map(NodeId).to_vec();
    assert_eq!(actions[2..], [Action::Wait(Reason::Reports { missing })]);
}

#[test]
fn enough_reports_elect_the_furthest_then_the_preferred() {
    let mut scene = sealed_without_the_primary();
    scene.reports(2, 100);
    scene.reports(3, 101);
    assert_eq!(elected(&scene.decide()), Some((NodeId(3), any(1, &[2]))));

    scene.reports(3, 100);
    assert_eq!(elected(&scene.decide()).unwrap().0, NodeId(2), "equal: the lower node");
    let preferred =
        crate::cluster::Member { node: NodeId(3), incarnation: directory(3), priority: 5 };
    let replaces = Some(directory(3));
    apply_all(&mut scene.state, [Entry::Admit { member: preferred, replaces }]);
    assert_eq!(elected(&scene.decide()).unwrap().0, NodeId(3));
}

#[test]
fn nobody_is_elected_before_the_old_lease_is_released() {
    let mut scene = scene();
    scene.silence(1);
    seal(&mut scene.state, 1, &[2]);
    scene.reports(2, 100);
    scene.reports(3, 100);
    let actions = scene.decide();
    assert_eq!(actions.last(), Some(&Action::Wait(Reason::Release)));
}

#[test]
fn reports_of_an_earlier_attempt_or_of_nodes_that_are_gone_do_not_count() {
    let mut scene = sealed_without_the_primary();
    scene.reports(2, 100);
    scene.reports(3, 101);
    scene.silence(3);
    assert_eq!(elected(&scene.decide()), None, "node 3 could not be installed");

    let mut scene = sealed_without_the_primary();
    scene.reports(2, 100);
    scene.reports(3, 101);
    seal(&mut scene.state, 2, &[]);
    assert_eq!(elected(&scene.decide()), None);
}

#[test]
fn old_primary_is_elected_again_only_when_the_others_had_their_time() {
    let mut scene = scene();
    scene.silence(2);
    seal(&mut scene.state, 1, &[1, 3]);
    scene.reports(1, 120);
    scene.reports(3, 100);
    assert_eq!(elected(&scene.decide()), None, "node 2 may still report");
    scene.sealed_since = BootTime(0);
    assert_eq!(elected(&scene.decide()), Some((NodeId(1), any(1, &[3]))));
}

#[test]
fn old_primary_that_is_a_clusters_only_member_need_not_wait() {
    let mut state = State::new([NodeId(1)].into(), crate::lease::Settings::default());
    let (holder, incarnation) = (NodeId(1), directory(1));
    let system = crate::ids::SystemId(1);
    let timeline = Timeline(1);
    apply_all(
        &mut state,
        [
            Entry::Register { node: holder },
            Entry::Bootstrap { system, holder, incarnation, timeline },
        ],
    );
    let mut scene = Scene { state, ..scene() };
    scene.nodes.retain(|node, _| *node == holder);
    seal(&mut scene.state, 1, &[1]);
    scene.reports(1, 10);
    assert_eq!(elected(&scene.decide()), Some((holder, Rule::degraded())));
}

#[test]
fn new_primary_is_promoted_followed_and_established_on_its_word() {
    let mut scene = sealed_without_the_primary();
    scene.reports(2, 100);
    scene.reports(3, 101);
    let actions = scene.settle();
    let stamp = Stamp { term: 4, epoch: Epoch(1), attempt: Attempt(0) };
    let order = |to, order| Action::Order { to: NodeId(to), stamp, order };
    assert_eq!(
        actions,
        [
            order(3, Order::Promote { rule: any(1, &[2]) }),
            order(2, Order::Follow { upstream: NodeId(3) }),
            Action::Wait(Reason::Establishment { holder: NodeId(3) }),
        ]
    );

    scene.node(3).epoch = Epoch(1);
    scene.node(3).recovered = Some(RECOVERED);
    scene.node(3).postgres = Postgres::Primary;
    scene.node(2).epoch = Epoch(1);
    scene.node(3).is_streaming = false;
    assert_eq!(scene.settle(), []);
    assert_eq!(scene.state.established().unwrap().epoch, Epoch(1));
}

#[test]
fn new_primary_that_takes_too_long_is_given_up() {
    let mut scene = sealed_without_the_primary();
    scene.reports(2, 100);
    scene.reports(3, 101);
    scene.settle();
    let view = View {
        state: &scene.state,
        term: 4,
        nodes: &scene.nodes,
        missed_renewals: BTreeSet::new(),
        tenure_since: BootTime(0),
        sealed_since: NOW,
        is_paused: false,
        policy: Policy::default(),
    };
    let seal = Entry::Seal { epoch: Epoch(1), attempt: Attempt(1) };
    assert_eq!(decide(&view, NOW), [Action::Propose(seal)]);
}

#[test]
fn former_primary_that_returns_is_told_to_rejoin() {
    let mut scene = sealed_without_the_primary();
    scene.reports(2, 100);
    scene.reports(3, 101);
    scene.settle();
    scene.node(3).epoch = Epoch(1);
    scene.node(3).recovered = Some(RECOVERED);
    scene.node(2).epoch = Epoch(1);
    scene.settle();
    scene.node(1).heard = NOW;
    let stamp = Stamp { term: 4, epoch: Epoch(1), attempt: Attempt(0) };
    let order = Order::Rejoin { upstream: NodeId(3) };
    assert_eq!(scene.decide(), [Action::Order { to: NodeId(1), stamp, order }]);
}

#[test]
fn paused_cluster_says_so_and_does_nothing() {
    let mut scene = scene();
    scene.node(1).postgres = Postgres::Dead;
    scene.is_paused = true;
    assert_eq!(scene.decide(), [Action::Wait(Reason::Paused)]);
}

#[test]
fn every_proposal_in_every_small_situation_is_one_that_the_quorum_accepts() {
    let mut proposals = 0;
    for bits in 0..1_u32 << 9 {
        let bit = |at: u32| bits & (1 << at) != 0;
        let mut scene = scene();
        for node in 1..=3 {
            if bit(node - 1) {
                scene.silence(node.into());
            }
        }
        if bit(3) {
            scene.missed = [2, 3].map(NodeId).into();
        }
        if bit(4) {
            seal(&mut scene.state, 1, &[2, 3]);
            for node in 1..=3_u32 {
                if bit(4 + node) {
                    scene.reports(node.into(), 100 + u64::from(node));
                }
            }
        }
        if bit(8) {
            scene.node(3).report = scene
                .node(3)
                .report
                .take()
                .map(|report| Report { incarnation: Incarnation(999), ..report });
        }
        for action in scene.decide() {
            if let Action::Propose(entry) = action {
                proposals += 1;
                if let Err(void) = rehearse(&scene.state, &entry) {
                    panic!("situation {bits:#b}: {entry:?} is void: {void}");
                }
            }
        }
    }
    assert!(proposals > 100, "{proposals}");
}
