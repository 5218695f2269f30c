//! The decision in each situation of a failover.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use super::*;
use crate::cluster::sync::Rule;
use crate::cluster::testing::{any, apply_all, directory, fill_rules, report, seal, three_nodes};
use crate::cluster::{Durability, Membership, Node, Report, Role, Stage, testing};
use crate::facts::{AgentFacts, Facts, Observation, ProxyFacts, Recovered, VoterFacts};
use crate::ids::{Attempt, Epoch, Incarnation, Lsn, SystemId, Timeline, VipId};

const NOW: BootTime = BootTime(100_000_000_000);

const RECOVERED: Recovered = Recovered {
    epoch: Epoch(1),
    timeline: Timeline(2),
    switch: Lsn(101),
    end: Lsn(110),
    change: 2,
};

/// No situation here takes more entries until nothing is left to propose.
const PROPOSALS_MAX: usize = 20;

/// A cluster and what is known of it; node 1 is primary, 2 and 3 stream.
struct Scene {
    state: State,
    nodes: BTreeMap<NodeId, Observation>,
    log: BTreeMap<NodeId, LogMember>,
    wall_ms: u64,
    tenure_since: BootTime,
    sealed_since: BootTime,
    handover_since: BootTime,
    stage_since: BootTime,
}

fn agent(node: u64) -> AgentFacts {
    AgentFacts {
        epoch: Some(Epoch(0)),
        promoted: None,
        directory: directory(node),
        system: SystemId(1),
        timeline: Timeline(1),
        priority: 0,
        postgres: if node == 1 { Postgres::Primary } else { Postgres::Standby },
        end: Lsn(100),
        streams: (node != 1).then_some((NodeId(1), Epoch(0))),
        report: None,
        recovered: None,
        settled_change: 2,
        prepared: None,
        is_busy: false,
        is_idle: false,
        shut_down: None,
    }
}

fn seen(node: u64) -> Observation {
    let facts = Facts {
        epoch: Some(Epoch(0)),
        wants_leases: true,
        counts_in: 1,
        voter: Some(VoterFacts::default()),
        agent: Some(agent(node)),
        ..Facts::new(Incarnation(node.into()))
    };
    Observation { heard: NOW, facts, is_steady: node != 1 }
}

fn scene() -> Scene {
    let member = LogMember { is_voter: true, is_heard: true };
    Scene {
        state: three_nodes(),
        nodes: (1..=3).map(|node| (NodeId(node), seen(node))).collect(),
        log: (1..=3).map(|node| (NodeId(node), member)).collect(),
        wall_ms: 0,
        tenure_since: NOW,
        sealed_since: NOW,
        handover_since: NOW,
        stage_since: NOW,
    }
}

impl Scene {
    fn view(&self) -> View<'_> {
        View {
            state: &self.state,
            nodes: &self.nodes,
            log: &self.log,
            wall_ms: self.wall_ms,
            tenure_since: self.tenure_since,
            sealed_since: self.sealed_since,
            handover_since: self.handover_since,
            stage_since: self.stage_since,
        }
    }

    fn decide(&self) -> Vec<Action> {
        decide(&self.view(), NOW)
    }

    fn seen(&mut self, node: u64) -> &mut Observation {
        self.nodes.get_mut(&NodeId(node)).unwrap()
    }

    fn facts(&mut self, node: u64) -> &mut Facts {
        &mut self.seen(node).facts
    }

    fn voter(&mut self, node: u64) -> &mut VoterFacts {
        self.facts(node).voter.as_mut().unwrap()
    }

    /// These voters have missed the renewals of a right.
    fn missed(&mut self, voters: &[u64], kind: Kind, number: u64) {
        for voter in voters {
            self.voter(*voter).missed.insert(kind, number);
        }
    }

    fn proposed(&self) -> Vec<Entry> {
        let proposed = self.decide().into_iter().filter_map(|action| match action {
            Action::Propose(entry) => Some(entry),
            _ => None,
        });
        proposed.collect()
    }

    /// Every living node says that it has applied the newest epoch, and streams from its primary.
    fn follow(&mut self) {
        let tenure = self.state.tenure().unwrap().clone();
        for (node, seen) in &mut self.nodes {
            if seen.heard == NOW {
                seen.facts.epoch = Some(tenure.epoch);
                let streams = (tenure.holder, tenure.epoch);
                let agent = seen.facts.agent.as_mut().unwrap();
                agent.epoch = Some(tenure.epoch);
                agent.streams = (*node != tenure.holder).then_some(streams);
                seen.is_steady = true;
            }
        }
    }

    fn node(&mut self, node: u64) -> &mut AgentFacts {
        self.facts(node).agent.as_mut().unwrap()
    }

    /// The node's agent reports its frozen directory for the attempt under way.
    fn reports(&mut self, node: u64, end: u64) {
        let report: Report = report(&self.state, node, end);
        self.node(node).report = Some(report);
    }

    /// Nothing is heard from the node any more.
    fn silence(&mut self, node: u64) {
        self.seen(node).heard = BootTime(0);
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
    scene.missed(&[2], Kind::Primary, 0);
    assert_eq!(scene.decide(), [], "one observer may be cut off itself");
    scene.missed(&[2, 3], Kind::Primary, 0);
    assert!(matches!(scene.proposed()[..], [Entry::Seal { .. }]), "{:?}", scene.decide());
}

#[test]
fn missed_renewals_of_an_earlier_epoch_and_of_silent_voters_seal_nothing() {
    let mut scene = scene();
    scene.missed(&[1, 3], Kind::Primary, 7);
    assert_eq!(scene.decide(), []);
    scene.missed(&[1, 2, 3], Kind::Primary, 0);
    scene.silence(2);
    scene.silence(3);
    assert!(!scene.proposed().iter().any(|entry| matches!(entry, Entry::Seal { .. })));
}

#[test]
fn what_an_agent_said_of_an_earlier_epoch_seals_no_later_one() {
    let mut scene = elected_scene();
    scene.node(3).postgres = Postgres::Dead;
    assert_eq!(scene.proposed(), [], "it may not know yet that it was elected");
    scene.node(3).epoch = Some(Epoch(1));
    assert_eq!(scene.proposed(), [Entry::Seal { epoch: Epoch(1), attempt: Attempt(1) }]);
}

/// Node 3 was elected in the place of node 1, which is silent, and does not serve yet.
fn elected_scene() -> Scene {
    let mut scene = sealed_without_the_primary();
    scene.reports(2, 100);
    scene.reports(3, 101);
    scene.settle();
    assert_eq!(scene.state.tenure().unwrap().holder, NodeId(3));
    scene
}

/// Node 1's leases are released, as far as the state knows.
fn forget_the_old_primary(scene: &mut Scene) {
    for kind in [Kind::Member(NodeId(1)), Kind::Route(NodeId(1))] {
        scene.missed(&[2, 3], kind, 1);
    }
    scene.settle();
    for voter in [2, 3] {
        for kind in [Kind::Member(NodeId(1)), Kind::Route(NodeId(1))] {
            scene.voter(voter).released.insert(kind, 1);
        }
    }
    scene.settle();
    assert_eq!(scene.state.registrations().get(&NodeId(1)), None);
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
fn rule_that_there_is_no_room_for_ends_the_epoch_if_the_newest_cannot_be_fulfilled() {
    let mut scene = scene();
    let newest = fill_rules(&mut scene.state);
    scene.node(1).settled_change = 0;
    scene.node(2).directory = *newest.members.first().unwrap();
    assert_eq!(scene.decide(), [], "node 2 can fulfil it");
    scene.silence(2);
    let seal = Entry::Seal { epoch: Epoch(0), attempt: Attempt(1) };
    assert_eq!(scene.decide(), [Action::Propose(seal)]);
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
    scene.log.retain(|node, _| *node == holder);
    seal(&mut scene.state, 1, &[1]);
    scene.reports(1, 10);
    assert_eq!(elected(&scene.decide()), Some((holder, Rule::degraded())));
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
            scene.missed(&[2, 3], Kind::Primary, 0);
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

#[test]
fn attempt_says_whose_reports_it_lacks() {
    let mut scene = sealed_without_the_primary();
    scene.reports(2, 100);
    let missing = [1, 3].map(NodeId).to_vec();
    assert_eq!(scene.decide(), [Action::Wait(Reason::Reports { missing })]);
}

#[test]
fn new_primary_is_established_on_its_word_when_nobody_goes_by_the_old_epoch() {
    let mut scene = elected_scene();
    let waits = |scene: &Scene| scene.decide().pop();
    let holder = NodeId(3);
    assert_eq!(waits(&scene), Some(Action::Wait(Reason::Establishment { holder })));

    scene.node(3).recovered = Some(RECOVERED);
    scene.facts(3).epoch = Some(Epoch(1));
    let missing = [1, 2].map(NodeId).to_vec();
    assert_eq!(waits(&scene), Some(Action::Wait(Reason::Confirmation { missing })));

    scene.follow();
    let missing = [1].map(NodeId).to_vec();
    assert_eq!(waits(&scene), Some(Action::Wait(Reason::Confirmation { missing })));
    forget_the_old_primary(&mut scene);
    assert_eq!(scene.state.established().unwrap().epoch, Epoch(1));
}

#[test]
fn recovery_of_an_earlier_epoch_establishes_nothing() {
    let mut scene = elected_scene();
    scene.follow();
    scene.node(3).recovered = Some(Recovered { epoch: Epoch(0), ..RECOVERED });
    let holder = NodeId(3);
    assert_eq!(scene.decide(), [Action::Wait(Reason::Establishment { holder })]);
}

#[test]
fn new_primary_that_takes_too_long_is_given_up() {
    let mut scene = elected_scene();
    scene.seen(1).heard = NOW;
    scene.follow();
    scene.tenure_since = BootTime(0);
    assert_eq!(scene.proposed(), [Entry::Seal { epoch: Epoch(1), attempt: Attempt(1) }]);
}

#[test]
fn paused_cluster_says_so_and_does_nothing() {
    let mut scene = scene();
    scene.node(1).postgres = Postgres::Dead;
    apply_all(&mut scene.state, [Entry::Pause { is_paused: true }]);
    assert_eq!(scene.decide(), [Action::Wait(Reason::Paused)]);
}

/// A switchover to node 3, in which the primary is to stop.
fn stopping_scene() -> Scene {
    let mut scene = scene();
    testing::stop_for_switchover(&mut scene.state, 3);
    scene
}

#[test]
fn switchover_holds_clients_after_the_checkpoint_and_stops_the_primary_when_all_proxies_hold() {
    let mut scene = scene();
    let (epoch, to) = (Epoch(0), NodeId(3));
    apply_all(&mut scene.state, [Entry::Switchover { epoch, to }]);
    assert_eq!(scene.decide(), [Action::Wait(Reason::Switchover { to })]);
    scene.node(1).prepared = Some(epoch);
    let holds = Entry::SwitchoverStage { epoch, stage: Stage::Holds };
    assert_eq!(scene.proposed(), core::slice::from_ref(&holds));

    apply_all(&mut scene.state, [holds]);
    let stops = Entry::SwitchoverStage { epoch, stage: Stage::Stops };
    assert_eq!(scene.proposed(), core::slice::from_ref(&stops), "no node has a proxy");
    for node in [1, 2] {
        let holds = (node == 1).then_some(epoch);
        scene.facts(node).proxy = Some(ProxyFacts { holds, ..ProxyFacts::default() });
    }
    assert_eq!(scene.decide(), [Action::Wait(Reason::Switchover { to })]);
    scene.stage_since = BootTime(0);
    let over = scene.proposed();
    assert_eq!(over, core::slice::from_ref(&stops), "one that never says so has had its time");
    scene.stage_since = NOW;
    scene.facts(2).proxy = Some(ProxyFacts { holds: Some(epoch), ..ProxyFacts::default() });
    assert_eq!(scene.proposed(), [stops]);
}

#[test]
fn switchover_is_given_up_for_a_transaction_that_does_not_end() {
    let mut scene = stopping_scene();
    scene.node(1).is_busy = true;
    assert_eq!(scene.decide(), [Action::Wait(Reason::Switchover { to: NodeId(3) })]);
    scene.stage_since = BootTime(NOW.0 - 5_000_000_000);
    assert_eq!(scene.proposed(), [Entry::SwitchoverCancelled { epoch: Epoch(0) }]);
    scene.node(1).is_busy = false;
    assert_eq!(scene.decide(), [Action::Wait(Reason::Switchover { to: NodeId(3) })]);
}

#[test]
fn primary_that_ends_for_a_switchover_takes_its_standbys_with_it() {
    let mut scene = stopping_scene();
    scene.node(3).streams = None;
    assert_eq!(scene.decide(), [Action::Wait(Reason::Switchover { to: NodeId(3) })]);
    scene.node(1).is_busy = true;
    assert_eq!(scene.proposed(), [Entry::SwitchoverCancelled { epoch: Epoch(0) }]);
}

#[test]
fn switchover_waits_for_the_clean_end_and_for_the_next_one_to_have_all() {
    let mut scene = stopping_scene();
    let to = NodeId(3);
    assert_eq!(scene.decide(), [Action::Wait(Reason::Switchover { to })]);
    scene.node(1).postgres = Postgres::Stopped;
    scene.node(1).shut_down = Some(Lsn(150));
    assert_eq!(scene.decide(), [Action::Wait(Reason::Switchover { to })]);
    scene.node(3).end = Lsn(150);
    assert_eq!(scene.proposed(), [Entry::Seal { epoch: Epoch(0), attempt: Attempt(1) }]);

    seal(&mut scene.state, 1, &[1, 2, 3]);
    for (node, end) in [(1, 150), (2, 150)] {
        scene.reports(node, end);
    }
    assert_eq!(elected(&scene.decide()), None, "they are enough, and it is about to report");
    scene.sealed_since = BootTime(NOW.0 - 1_600_000_000);
    assert_eq!(elected(&scene.decide()).unwrap().0, NodeId(2), "it has had its time");
    scene.sealed_since = NOW;
    scene.reports(3, 150);
    assert_eq!(elected(&scene.decide()).unwrap().0, to, "not the lower node");
}

#[test]
fn switchover_is_given_up_while_the_primary_runs_and_ends_the_epoch_when_it_does_not() {
    let mut scene = stopping_scene();
    scene.handover_since = BootTime(0);
    assert_eq!(scene.proposed(), [Entry::SwitchoverCancelled { epoch: Epoch(0) }]);
    scene.node(1).postgres = Postgres::Stopped;
    scene.node(1).shut_down = Some(Lsn(150));
    assert!(matches!(scene.proposed()[..], [Entry::Seal { .. }]));
}

#[test]
fn switchover_to_a_node_that_is_gone_is_given_up_at_once() {
    let mut scene = scene();
    apply_all(&mut scene.state, [Entry::Switchover { epoch: Epoch(0), to: NodeId(3) }]);
    scene.silence(3);
    assert_eq!(scene.proposed(), [Entry::SwitchoverCancelled { epoch: Epoch(0) }]);
}

#[test]
fn loss_is_accepted_by_operators_only() {
    let mut scene = sealed_without_the_primary();
    scene.state = {
        let mut state = three_nodes();
        let epoch = Epoch(0);
        let rule = any(2, &[2, 3]);
        apply_all(&mut state, [Entry::RuleJoint { epoch, rule }]);
        apply_all(&mut state, [Entry::RuleSettled { epoch, change: 2 }]);
        seal(&mut state, 1, &[2, 3]);
        state
    };
    scene.facts(3).agent = None;
    scene.silence(2);
    assert_eq!(elected(&scene.decide()), None);
    scene.seen(2).heard = NOW;
    let foreign = Report { incarnation: Incarnation(99), ..report(&scene.state, 2, 50) };
    scene.node(2).report = Some(foreign);
    scene.node(2).directory = Incarnation(99);
    scene.settle();
    assert_eq!(elected(&scene.decide()), None);
    let (epoch, attempt) = (Epoch(0), Attempt(1));
    apply_all(&mut scene.state, [Entry::AcceptLoss { epoch, attempt }]);
    let lossy = scene.proposed().into_iter().find_map(|entry| match entry {
        Entry::NewEpoch { holder, accept_loss, .. } => Some((holder, accept_loss)),
        _ => None,
    });
    assert_eq!(lossy, Some((NodeId(2), true)));
}

#[test]
fn node_that_a_majority_misses_loses_its_leases_and_is_forgotten() {
    let mut scene = scene();
    scene.silence(3);
    let kinds = [Kind::Member(NodeId(3)), Kind::Route(NodeId(3))];
    scene.missed(&[1, 2], kinds[0], 3);
    assert!(!scene.proposed().iter().any(|entry| matches!(entry, Entry::Retire { .. })));
    scene.missed(&[1, 2], kinds[1], 3);
    let retire = Entry::Retire { node: NodeId(3), number: 3 };
    assert!(scene.proposed().contains(&retire), "{:?}", scene.decide());
    apply_all(&mut scene.state, [retire]);
    for voter in [1, 2] {
        for kind in kinds {
            scene.voter(voter).released.insert(kind, 3);
        }
    }
    scene.node(1).settled_change = 3;
    scene.settle();
    assert_eq!(scene.state.registrations().get(&NodeId(3)), None);
}

#[test]
fn retired_node_that_is_back_gets_a_new_number() {
    let mut scene = scene();
    apply_all(&mut scene.state, [Entry::Retire { node: NodeId(3), number: 3 }]);
    assert_eq!(scene.proposed(), [], "its leases are not released yet");
    for voter in [1, 2] {
        for kind in [Kind::Member(NodeId(3)), Kind::Route(NodeId(3))] {
            scene.voter(voter).released.insert(kind, 3);
        }
    }
    scene.settle();
    let registration = scene.state.registrations()[&NodeId(3)];
    assert_eq!((registration.number, registration.is_retiring), (4, false));
}

#[test]
fn voters_of_leases_follow_those_of_the_log_one_by_one() {
    let mut scene = scene();
    scene.log.remove(&NodeId(3));
    for node in [4, 5] {
        scene.log.insert(NodeId(node), LogMember { is_voter: true, is_heard: true });
    }
    let voters = |voters: &[u64]| voters.iter().copied().map(NodeId).collect::<BTreeSet<_>>();
    let mut steps = Vec::new();
    for counts_in in 2..5 {
        for entry in scene.proposed() {
            if let Entry::Membership(Membership { voters, .. }) = &entry {
                steps.push(voters.clone());
                apply_all(&mut scene.state, [entry]);
            }
        }
        for node in 1..=3 {
            scene.facts(node).counts_in = counts_in;
        }
    }
    assert_eq!(steps, [voters(&[1, 2, 3, 4]), voters(&[1, 2, 3, 4, 5]), voters(&[1, 2, 4, 5])]);
}

#[test]
fn dead_voter_leaves_before_its_successor_counts_and_a_living_one_after() {
    for is_heard in [false, true] {
        let mut scene = scene();
        let mut name = |node: u64, role| {
            let address = Node { address: "db:1".into(), role }.address;
            apply_all(&mut scene.state, [Entry::Node { node: NodeId(node), address, role }]);
        };
        name(3, Role::Gone);
        name(4, Role::Voter);
        scene.nodes.insert(NodeId(4), Observation { is_steady: false, ..seen(4) });
        scene.log.get_mut(&NodeId(3)).unwrap().is_heard = is_heard;
        let change = |scene: &Scene| {
            scene.decide().into_iter().find_map(|action| match action {
                Action::Change(change) => Some(change),
                _ => None,
            })
        };
        let add = Change::Add { node: NodeId(4), installation: Incarnation(4) };
        assert_eq!(change(&scene), Some(add));
        scene.log.insert(NodeId(4), LogMember { is_voter: false, is_heard: true });
        let (remove, promote) =
            (Change::Remove { node: NodeId(3) }, Change::Promote { node: NodeId(4) });
        if is_heard {
            assert_eq!(change(&scene), Some(promote));
            scene.log.get_mut(&NodeId(4)).unwrap().is_voter = true;
            assert_eq!(change(&scene), None, "commits depend on its directory");
            let (epoch, rule) = (Epoch(0), any(1, &[2]));
            apply_all(&mut scene.state, [Entry::RuleJoint { epoch, rule }]);
            let change_of_rule = scene.state.established().unwrap().change;
            let settled = Entry::RuleSettled { epoch, change: change_of_rule };
            apply_all(&mut scene.state, [settled]);
            assert_eq!(change(&scene), None, "it counts for leases");
            for counts_in in 2..5 {
                let books = scene.proposed().into_iter().filter(|entry| {
                    matches!(entry, Entry::Membership(_) | Entry::MembershipAdopted { .. })
                });
                apply_all(&mut scene.state, books);
                for node in 1..=4 {
                    scene.facts(node).counts_in = counts_in;
                }
            }
            assert!(!scene.state.membership().voters.contains(&NodeId(3)));
            assert_eq!(change(&scene), Some(remove));
        } else {
            assert_eq!(change(&scene), Some(remove));
            scene.log.remove(&NodeId(3));
            assert_eq!(change(&scene), Some(promote));
        }
    }
}

#[test]
fn directory_that_takes_the_place_of_another_is_admitted_by_naming_it() {
    let mut scene = scene();
    scene.node(3).directory = Incarnation(77);
    let member =
        crate::cluster::Member { priority: 0, node: NodeId(3), incarnation: Incarnation(77) };
    let admit = Entry::Admit { member, replaces: Some(directory(3)) };
    assert!(scene.proposed().contains(&admit), "{:?}", scene.decide());
    scene.node(3).system = SystemId(9);
    assert!(!scene.proposed().contains(&admit), "it is of another database");
}

#[test]
fn node_that_does_not_apply_a_new_epoch_in_time_is_retired_so_that_the_epoch_can_serve() {
    let mut scene = elected_scene();
    scene.seen(1).heard = NOW;
    scene.follow();
    scene.facts(1).epoch = Some(Epoch(0));
    scene.node(3).recovered = Some(RECOVERED);
    assert_eq!(scene.proposed(), [], "it has not had its time");
    scene.tenure_since = BootTime(NOW.0 - 1_600_000_000);
    assert_eq!(scene.proposed(), [Entry::Retire { node: NodeId(1), number: 1 }]);
}

#[test]
fn node_that_is_heard_keeps_its_registration_though_it_asks_for_nothing() {
    let mut scene = scene();
    for kind in [Kind::Member(NodeId(3)), Kind::Route(NodeId(3))] {
        scene.missed(&[1, 2, 3], kind, 3);
    }
    assert_eq!(scene.decide(), []);
}

#[test]
fn standby_enters_the_rule_when_it_is_steady_and_stays_while_it_streams() {
    let mut scene = scene();
    scene.seen(3).is_steady = false;
    assert_eq!(scene.decide(), [], "it is in the rule");
    scene.silence(3);
    scene.node(1).settled_change = 3;
    scene.node(1).settled_change = scene.state.established().unwrap().change + 1;
    scene.settle();
    assert_eq!(scene.state.established().unwrap().rules, [any(1, &[2])]);
    scene.seen(3).heard = NOW;
    assert_eq!(scene.proposed(), [], "it has only just come back");
    scene.seen(3).is_steady = true;
    let rule = any(1, &[2, 3]);
    assert_eq!(scene.proposed(), [Entry::RuleJoint { epoch: Epoch(0), rule }]);
}

#[path = "attack_tests.rs"]
mod attack;

#[path = "caution_tests.rs"]
mod caution;

#[path = "detach_tests.rs"]
mod detach;

#[path = "host_tests.rs"]
mod host;

#[path = "schedule_tests.rs"]
mod schedule;

#[path = "share_tests.rs"]
mod share;

#[path = "survey_tests.rs"]
mod survey;

#[path = "vip_tests.rs"]
mod vip;
