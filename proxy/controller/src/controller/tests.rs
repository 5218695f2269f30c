//! Small clusters of controllers on simulated disks, with a network that loses nothing.

use std::collections::{BTreeMap, BTreeSet};

use pgx_control::admin::{PolicyChange, SharedChange};
use pgx_control::cluster::{Durability, Role};
use pgx_control::facts::{AgentFacts, Postgres, VoterFacts};
use pgx_control::ids::{Lsn, SystemId, Timeline};
use pgx_quorum::sim::SimDisk;
use pgx_quorum::{ClusterId, Expected, Founding, Identity, Membership, Store};

use super::*;
use crate::request::{Request, Unanswered};

const TICK_MS: u64 = 25;

/// No condition here takes longer, in ticks.
const TICKS_MAX: u64 = 400;

struct Net {
    nodes: BTreeMap<NodeId, Controller>,
    disks: BTreeMap<NodeId, SimDisk>,
    now: BootTime,
    answers: BTreeMap<u64, Answer>,
    notes: Vec<(NodeId, Note)>,
}

fn incarnation(node: u64) -> quorum::Incarnation {
    quorum::Incarnation::new(100 + node).unwrap()
}

fn agent(node: u64) -> AgentFacts {
    AgentFacts {
        epoch: Some(Epoch(0)),
        promoted: None,
        directory: Incarnation(u128::from(node) * 1_000),
        system: SystemId(7),
        timeline: Timeline(1),
        priority: 0,
        postgres: if node == 1 { Postgres::Primary } else { Postgres::Standby },
        end: Lsn(1),
        streams: (node != 1).then_some((NodeId(1), Epoch(0))),
        report: None,
        recovered: None,
        settled_change: 0,
        prepared: None,
        is_busy: false,
        is_idle: false,
        shut_down: None,
    }
}

impl Net {
    fn new(count: u64) -> Self {
        let number = |node| quorum::NodeId::new(node).unwrap();
        let voters: Vec<_> = (1..=count).map(|node| (number(node), incarnation(node))).collect();
        let founding = Founding::Cluster(Membership::of_voters(&voters).unwrap());
        let (nodes, disks) = (BTreeMap::new(), BTreeMap::new());
        let (answers, notes) = (BTreeMap::new(), Vec::new());
        let mut net = Self { nodes, disks, now: BootTime(0), answers, notes };
        for node in 1..=count {
            net.make(node, &founding);
        }
        net
    }

    fn make(&mut self, node: u64, founding: &Founding) {
        let disk = SimDisk::default();
        let id = quorum::NodeId::new(node).unwrap();
        let identity = Identity { cluster: ClusterId(5), node: id, incarnation: incarnation(node) };
        Store::create_on(disk.open(), identity, founding).unwrap();
        self.disks.insert(NodeId(node), disk);
        self.start(node);
    }

    /// Starts a node, or starts it again.
    fn start(&mut self, node: u64) {
        self.nodes.remove(&NodeId(node));
        let store = Store::open_on(self.disks[&NodeId(node)].open(), Expected::default()).unwrap();
        let quorum = Quorum::open(store, 1).unwrap();
        let installation = Incarnation(u128::from(100 + node));
        let controller = Controller::new(quorum, installation, node + self.now.0, self.now);
        self.nodes.insert(NodeId(node), controller);
        self.deliver();
    }

    fn deliver(&mut self) {
        loop {
            let mut sent = Vec::new();
            for (from, node) in &mut self.nodes {
                while let Some(output) = node.next_output() {
                    match output {
                        Output::Raft { .. } | Output::Facts { .. } => sent.push((*from, output)),
                        Output::Answer { request, answer } => {
                            self.answers.insert(request, answer);
                        }
                        Output::Note(note) => self.notes.push((*from, note)),
                        Output::State(state) => {
                            // As the node's leases do.
                            let counts_in = state.membership().version;
                            let epoch = state.tenure().map(|tenure| tenure.epoch);
                            let facts = VoterFacts { counts_in, epoch, ..VoterFacts::default() };
                            node.handle_voter_facts(facts);
                        }
                        Output::Halted(error) => panic!("{error}"),
                    }
                }
            }
            if sent.is_empty() {
                return;
            }
            for (from, output) in sent {
                self.receive(from, output);
            }
        }
    }

    fn receive(&mut self, from: NodeId, output: Output) {
        match output {
            Output::Raft { to, bytes } => {
                if let Some(node) = self.nodes.get_mut(&to) {
                    // Refusals are the engine's business, and tested there.
                    let _ = node.handle_raft(from, &bytes, self.now);
                }
            }
            Output::Facts { to, facts } => {
                for (id, node) in &mut self.nodes {
                    if *id != from && (*id == to || to == NodeId(0)) {
                        node.handle_facts(from, (*facts).clone(), self.now);
                    }
                }
            }
            other => panic!("nobody sends {other:?}"),
        }
    }

    /// Lets ticks pass until the condition holds.
    fn run_until(&mut self, what: &str, holds: impl Fn(&Self) -> bool) {
        for _ in 0..TICKS_MAX {
            if holds(self) {
                return;
            }
            self.now = self.now.after_ms(TICK_MS);
            for node in self.nodes.values_mut() {
                node.handle_tick(self.now);
            }
            self.deliver();
        }
        panic!("not within {TICKS_MAX} ticks: {what}");
    }

    fn coordinator(&self) -> Option<NodeId> {
        let mut nodes = self.nodes.iter().filter(|(_, node)| node.is_coordinator());
        nodes.next().map(|(node, _)| *node)
    }

    fn ask(&mut self, number: u64, request: &Request) {
        self.run_until("somebody coordinates", |net| net.coordinator().is_some());
        let coordinator = self.coordinator().unwrap();
        let now = self.now;
        self.nodes.get_mut(&coordinator).unwrap().handle_request(number, request, now);
        self.deliver();
        self.run_until("an answer", |net| net.answers.contains_key(&number));
    }

    /// Who votes in the log, as a node knows it.
    fn voters_of_log(&self, node: u64) -> BTreeSet<NodeId> {
        let membership = self.nodes[&NodeId(node)].quorum_status().membership.unwrap();
        membership.voters().map(|voter| NodeId(voter.get())).collect()
    }

    fn everybody(&self, holds: impl Fn(&State) -> bool) -> bool {
        self.nodes.values().all(|node| holds(node.state()))
    }
}

/// Three nodes with directories; the cluster has begun with node 1's.
fn begun() -> Net {
    let mut net = Net::new(3);
    for (id, node) in &mut net.nodes {
        node.handle_agent_facts(Some(agent(id.0)));
    }
    net.run_until("all are registered", |net| {
        net.everybody(|state| state.registrations().len() == 3)
    });
    net.ask(1, &Request::Bootstrap { node: NodeId(1) });
    assert_eq!(net.answers[&1], Ok(()));
    net.run_until("all directories are known", |net| {
        net.everybody(|state| state.members().len() == 3)
    });
    net
}

#[test]
fn nodes_register_and_a_cluster_begins_with_one_directory_and_learns_of_the_others() {
    let net = begun();
    let tenure = net.nodes[&NodeId(2)].state().tenure().unwrap().clone();
    assert_eq!((tenure.holder, tenure.epoch), (NodeId(1), Epoch(0)));
}

#[test]
fn all_who_decide_agree_after_each_has_coordinated() {
    let mut net = begun();
    for to in [1, 2, 3] {
        net.ask(10 + to, &Request::Transfer { to: NodeId(to) });
        net.run_until("it took over", |net| net.coordinator() == Some(NodeId(to)));
    }
    let states: Vec<_> = net.nodes.values().map(|node| Arc::clone(node.state())).collect();
    assert!(states.iter().all(|state| *state == states[0]));
}

#[test]
fn node_that_restarts_has_at_once_what_it_had_applied() {
    let mut net = begun();
    let before = Arc::clone(net.nodes[&NodeId(2)].state());
    net.start(2);
    assert_eq!(net.nodes[&NodeId(2)].state(), &before);
}

#[test]
fn dead_postgresql_of_the_primary_is_sealed_within_a_few_ticks() {
    let mut net = begun();
    let facts = AgentFacts { postgres: Postgres::Dead, ..agent(1) };
    net.nodes.get_mut(&NodeId(1)).unwrap().handle_agent_facts(Some(facts));
    let before = net.now;
    net.run_until("a seal", |net| net.everybody(|state| state.sealed().is_some()));
    assert!(net.now <= before.after_ms(8 * TICK_MS), "{:?} {:?}", before, net.now);
}

#[test]
fn settings_of_all_are_changed_whole_or_not_at_all() {
    let mut net = begun();
    let bad = PolicyChange { sync_standbys: Some(0), ..PolicyChange::default() };
    let durability = Some(Durability::Available);
    let change = SharedChange { durability, policy: Some(bad), ..SharedChange::default() };
    net.ask(2, &Request::Edit(change));
    assert!(matches!(net.answers[&2], Err(Unanswered::Void { .. })), "{:?}", net.answers);
    assert!(net.everybody(|state| state.durability() == Durability::Strict));

    let change = SharedChange { durability, ..SharedChange::default() };
    net.ask(3, &Request::Edit(change));
    assert_eq!(net.answers[&3], Ok(()));
    assert!(net.nodes.values().any(|node| node.state().durability() == Durability::Available));
}

#[test]
fn change_of_settings_waits_for_the_one_under_way_which_it_would_undo() {
    let mut net = begun();
    let change =
        |policy| Request::Edit(SharedChange { policy: Some(policy), ..Default::default() });
    let both = PolicyChange { sync_standbys: Some(2), ..PolicyChange::default() };
    let hung = PolicyChange { hung_ms_max: Some(9_000), ..PolicyChange::default() };
    let (coordinator, now) = (net.coordinator().unwrap(), net.now);
    let node = net.nodes.get_mut(&coordinator).unwrap();
    node.handle_request(2, &change(both), now);
    node.handle_request(3, &change(hung), now);
    net.deliver();
    net.run_until("answers", |net| [2, 3].iter().all(|number| net.answers.contains_key(number)));
    assert_eq!((&net.answers[&2], &net.answers[&3]), (&Ok(()), &Err(Unanswered::Busy)));
    net.ask(4, &change(hung));
    let policy = net.nodes[&coordinator].state().policy();
    assert_eq!((policy.sync_standbys, policy.hung_ms_max), (2, 9_000));
}

#[test]
fn named_node_joins_becomes_a_voter_of_log_and_leases_and_the_one_it_replaces_leaves() {
    let mut net = begun();
    net.nodes.remove(&NodeId(3));
    net.make(4, &Founding::Joiner);
    let name = |node, role| Request::Node { node: NodeId(node), address: "db:1".into(), role };
    net.ask(4, &name(4, Role::Voter));
    net.ask(5, &name(3, Role::Gone));
    let expected = [1, 2, 4].map(NodeId).into();
    net.run_until("node 4 counts in the place of 3", |net| {
        net.everybody(|state| state.membership().voters == expected)
            && net.voters_of_log(1) == expected
    });
}

#[test]
fn nodes_that_are_named_together_join_in_the_order_of_their_numbers() {
    let mut net = Net::new(1);
    let name =
        |node| Request::Node { node: NodeId(node), address: "db:1".into(), role: Role::Voter };
    net.ask(1, &name(2));
    net.ask(2, &name(3));
    // The higher number is there first, and must not keep the lower one out for good.
    net.make(3, &Founding::Joiner);
    for _ in 0..40 {
        net.now = net.now.after_ms(TICK_MS);
        net.nodes.values_mut().for_each(|node| node.handle_tick(net.now));
        net.deliver();
    }
    net.make(2, &Founding::Joiner);
    let expected = [1, 2, 3].map(NodeId).into();
    net.run_until("all three count", |net| {
        net.everybody(|state| state.membership().voters == expected)
    });
    net.ask(3, &Request::Node { node: NodeId(3), address: "db:1".into(), role: Role::Gone });
    let voters = [1, 2].map(NodeId).into();
    net.run_until("node 3 is out", |net| {
        net.nodes[&NodeId(1)].state().membership().voters == voters
            && net.voters_of_log(1) == voters
    });
    net.ask(4, &name(3));
    let used = Unanswered::NumberUsed { node: NodeId(3), next: NodeId(4) };
    assert_eq!(net.answers[&4], Err(used));
}

#[test]
fn coordinator_that_is_to_leave_hands_its_office_on_first() {
    let mut net = begun();
    // Not the primary: that one hands over first.
    let leaving = NodeId(2);
    net.ask(5, &Request::Transfer { to: leaving });
    net.run_until("it took over", |net| net.coordinator() == Some(leaving));
    let request = Request::Node { node: leaving, address: "db:1".into(), role: Role::Gone };
    net.ask(6, &request);
    net.run_until("it is out", |net| {
        let others = net.nodes.iter().filter(|(node, _)| **node != leaving);
        let mut others = others.map(|(node, _)| net.voters_of_log(node.0));
        others.all(|voters| !voters.contains(&leaving))
    });
    assert_ne!(net.coordinator(), Some(leaving));
}

#[test]
fn rehearsal_says_what_would_follow_and_changes_nothing() {
    let mut net = begun();
    net.run_until("somebody coordinates", |net| net.coordinator().is_some());
    let coordinator = net.coordinator().unwrap();
    let node = &net.nodes[&coordinator];
    let before = Arc::clone(node.state());
    let rehearsal = node.rehearse(&Request::Failover, net.now).unwrap();
    assert!(matches!(rehearsal.entries[..], [Entry::Seal { .. }]), "{rehearsal:?}");
    let waits = |action: &pgx_control::decide::Action| {
        matches!(action, pgx_control::decide::Action::Wait(_))
    };
    assert!(rehearsal.then.iter().any(waits), "{rehearsal:?}");
    assert!(node.rehearse(&Request::CancelSwitchover, net.now).is_err());
    assert_eq!(net.nodes[&coordinator].state(), &before);
}

#[test]
fn node_that_cannot_coordinate_says_so() {
    let mut net = begun();
    net.run_until("somebody coordinates", |net| net.coordinator().is_some());
    let other = *net.nodes.keys().find(|node| Some(**node) != net.coordinator()).unwrap();
    let now = net.now;
    net.nodes.get_mut(&other).unwrap().handle_request(7, &Request::Failover, now);
    net.deliver();
    assert_eq!(net.answers[&7], Err(Unanswered::NoCoordinator));
}

#[test]
fn request_without_an_outcome_is_answered_in_time() {
    let mut net = begun();
    let coordinator = net.coordinator().unwrap();
    net.nodes.retain(|node, _| *node == coordinator);
    net.ask(8, &Request::Pause { is_paused: true });
    assert!(net.answers[&8].is_err(), "{:?}", net.answers);
}

#[test]
fn long_log_is_replaced_by_a_snapshot_from_which_a_node_starts() {
    let mut net = begun();
    for number in 0..1_100 {
        net.ask(1_000 + number, &Request::Pause { is_paused: number % 2 == 0 });
    }
    let node = net.coordinator().unwrap();
    assert!(net.nodes[&node].quorum_status().snapshot_index > 1);
    let before = Arc::clone(net.nodes[&node].state());
    net.start(node.0);
    assert_eq!(net.nodes[&node].state(), &before);
}

#[path = "attack_tests.rs"]
mod attack;

#[path = "caution_tests.rs"]
mod caution;

#[path = "operate_tests.rs"]
mod operate;
