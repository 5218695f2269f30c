//! Operators: they begin the cluster, and ask for things while it runs.

use std::collections::BTreeSet;

use pgx_control::admin::SharedChange;
use pgx_control::cluster::{Durability, Role, State};
use pgx_control::ids::NodeId;
use pgx_control::lease::Settings;
use pgx_controller::{Answer, Request, Unanswered};

use crate::agent::local;
use crate::event::{Event, Input, MILLI, SECOND, Thread};
use crate::world::World;

/// What operators know.
#[derive(Default)]
pub(crate) struct Operator {
    has_begun: bool,
    asked: u64,
    /// A directory that commits may depend on is none any more: somebody promoted it past pgx, its
    /// node was switched off as dead, or it went with an epoch that began with loss.
    pub(crate) may_need_loss: bool,
    /// Who was told to leave, and still runs.
    leaving: BTreeSet<NodeId>,
    /// The nodes that came later.
    came: BTreeSet<NodeId>,
}

/// Nodes that a cluster has at most, and how few it is left with.
const NODES: std::ops::RangeInclusive<usize> = 3..=5;

/// Kinds of requests.
pub(crate) const REQUESTS: u64 = 17;

/// How long operators let a fork be, before they give up what only it has.
const FORKED_MAX: u64 = 30 * SECOND;

impl World {
    pub(crate) fn begin_operating(&mut self) {
        self.queue.push(500 * MILLI, Event::Operator);
    }

    pub(crate) fn operate(&mut self) {
        if self.healed_at.is_some() {
            return self.insist();
        }
        if !self.operator.has_begun {
            return self.begin_cluster();
        }
        if self.mix.operator_gap == 0 {
            return;
        }
        self.stop_those_who_left();
        let gap = self.mix.operator_gap / 4 + self.rng.below(self.mix.operator_gap * 3 / 2);
        self.queue.push(self.now + gap, Event::Operator);
        if let Some(request) = self.draw_request() {
            self.ask(request);
        }
    }

    fn begin_cluster(&mut self) {
        self.queue.push(self.now + 200 * MILLI, Event::Operator);
        let state = |node: NodeId| {
            let process = self.hosts.get(&node)?.process.as_ref()?;
            Some(process.agent.state.clone())
        };
        let Some(state) = state(NodeId(1)) else { return };
        let is_registered = state.registrations().len() == self.hosts.len();
        if state.tenure().is_none() && is_registered {
            self.ask(Request::Bootstrap { node: NodeId(1) });
        }
        let commits = self.counters.commits;
        if state.members().len() == self.hosts.len() && commits > 5 {
            self.operator.has_begun = true;
            self.begin_faults();
        } else if self.now > 20 * SECOND {
            self.fail("goes on", "the cluster has not begun within 20 s".to_owned());
        }
    }

    pub(crate) fn draw_request(&mut self) -> Option<Request> {
        let any = self.rng.below(REQUESTS);
        let favourite = self.mix.favourite.filter(|_| self.rng.chance(60));
        let kind = favourite.unwrap_or(any);
        if favourite.is_none() && self.mix.requests & (1 << kind) == 0 {
            return None;
        }
        let is_first = self.rng.chance(50);
        Some(match kind {
            0 | 1 => {
                let to = is_first.then(|| self.anybody());
                Request::Switchover { to }
            }
            2 => Request::Failover,
            3 => {
                let lease_ms = [1_000, 2_000, 4_000][usize::try_from(self.rng.below(3)).ok()?];
                let renewal_ms = lease_ms / 5;
                let lease = Settings { lease_ms, renewal_ms, ..Settings::default() };
                let lease = Some(lease.into());
                Request::Edit(SharedChange { lease, ..SharedChange::default() })
            }
            4 => {
                let policy = pgx_control::cluster::Policy {
                    sync_standbys: if is_first { 1 } else { 2 },
                    attempt_ms_max: 1_000 + self.rng.below(6_000),
                    hung_ms_max: 1_000 + self.rng.below(6_000),
                    establish_ms_max: 5_000 + self.rng.below(10_000),
                    ..pgx_control::cluster::Policy::default()
                };
                Request::Edit(SharedChange {
                    policy: Some(policy.into()),
                    ..SharedChange::default()
                })
            }
            5 => Request::Pause { is_paused: is_first },
            6 => {
                let durability = if is_first { Durability::Available } else { Durability::Strict };
                Request::Edit(SharedChange {
                    durability: Some(durability),
                    ..SharedChange::default()
                })
            }
            7 => Request::CancelSwitchover,
            8 | 9 => return self.draw_newcomer(),
            10 => return self.draw_leaver(),
            11 => {
                let sealed = |node: NodeId| {
                    let process = self.hosts.get(&node)?.process.as_ref()?;
                    process.agent.state.sealed()
                };
                // Operators who have waited for a while, which most of them do.
                let waits = self.hosts.keys().any(|node| sealed(*node).is_some());
                return (waits && self.rng.chance(30)).then_some(Request::AcceptLoss);
            }
            12 => Request::Transfer { to: self.anybody() },
            13 => Request::Detach { node: self.anybody(), is_detached: is_first },
            14 => Request::Promote { to: self.anybody() },
            15 => {
                let to = is_first.then(|| self.anybody());
                let at_ms = self.now / MILLI + self.rng.below(10_000);
                Request::Schedule { to, at_ms }
            }
            _ => {
                let node = self.anybody();
                self.give_up(node);
                return None;
            }
        })
    }

    /// An operator at the node itself wants its directory to be copied anew.
    fn give_up(&mut self, node: NodeId) {
        let Some(host) = self.hosts.get_mut(&node) else { return };
        let shown = host.clock.read(self.now);
        let local = local(host, shown);
        let Some(process) = host.process.as_mut().filter(|process| !process.agent.is_busy) else {
            return;
        };
        let thread = &mut process.agent;
        let outcome = thread.agent.give_up(&thread.state, &local);
        self.note(&format!("operator gives the directory of node {node} up: {outcome:?}"));
        self.look(node);
    }

    /// Asks whoever coordinates.
    pub(crate) fn ask(&mut self, request: Request) {
        let coordinates = |node: &NodeId| {
            let process = self.hosts.get(node).and_then(|host| host.process.as_ref());
            let controller = process.and_then(|process| process.controller.as_ref());
            controller.is_some_and(pgx_controller::Controller::is_coordinator)
        };
        let Some(node) = self.hosts.keys().copied().find(coordinates) else { return };
        self.operator.asked += 1;
        let number = self.operator.asked;
        // An epoch that is begun with loss may come to nothing, and take along what it began with.
        self.operator.may_need_loss |= matches!(request, Request::AcceptLoss);
        self.note(&format!("operator asks node {node}: {request:?}"));
        self.tell(node, Thread::Control, 100_000, Input::Request(number, Box::new(request)));
    }

    pub(crate) fn handle_outcome(&mut self, request: u64, answer: &Answer) {
        self.note(&format!("request {request}: {answer:?}"));
        if let Err(Unanswered::NumberUsed { node, .. }) = answer {
            // A later number was taken in first: the host needs another one, as a new node.
            self.operator.came.remove(node);
            self.operator.leaving.remove(node);
            self.switch_off(*node);
        }
    }

    /// A host that has never been there, with an empty disk.
    fn draw_newcomer(&mut self) -> Option<Request> {
        let node = self.hosts.keys().next_back()?.0 + 1;
        if self.staying().count() >= *NODES.end() {
            return None;
        }
        let file = self.unique();
        self.make_newcomer(node, file);
        self.operator.came.insert(NodeId(node));
        self.start_process(NodeId(node));
        Some(come(NodeId(node)))
    }

    fn draw_leaver(&mut self) -> Option<Request> {
        let node = self.anybody();
        let is_staying = self.staying().any(|staying| staying == node);
        if !is_staying || self.staying().count() <= *NODES.start() {
            return None;
        }
        self.operator.leaving.insert(node);
        Some(leave(node))
    }

    fn staying(&self) -> impl Iterator<Item = NodeId> + '_ {
        let hosts = self.hosts.values().filter(|host| !host.is_gone);
        hosts.map(|host| host.id).filter(|node| !self.operator.leaving.contains(node))
    }

    /// Whether any node believes that failover is left to operators.
    pub(crate) fn is_paused_anywhere(&self) -> bool {
        let mut processes = self.hosts.values().filter_map(|host| host.process.as_ref());
        processes.any(|process| process.agent.state.is_paused())
    }

    /// Whether somebody who was told to leave still runs.
    pub(crate) fn is_somebody_leaving(&self) -> bool {
        !self.operator.leaving.is_empty()
    }

    /// Nodes that the log has no more are switched off for good, as the manual says.
    fn stop_those_who_left(&mut self) {
        let controllers = self
            .hosts
            .values()
            .filter_map(|host| host.process.as_ref())
            .filter_map(|process| process.controller.as_ref());
        let coordinator = controllers.into_iter().find(|controller| controller.is_coordinator());
        let Some(members) =
            coordinator.and_then(|coordinator| coordinator.quorum_status().membership)
        else {
            return;
        };
        // A request to leave that was lost is asked again, and until then the node may yet come.
        let state = coordinator.map(|coordinator| coordinator.state().clone());
        let is_in = |node: &NodeId| {
            members.iter().any(|(member, _)| member.get() == node.0)
                || !state.iter().any(|state| state.is_gone(*node))
        };
        let left: Vec<_> =
            self.operator.leaving.iter().filter(|node| !is_in(node)).copied().collect();
        let is_needed =
            |node: &NodeId| state.iter().any(|state| state.members().contains_key(node));
        // Only who was taken for dead leaves while commits depend on its directory.
        self.operator.may_need_loss |= left.iter().any(is_needed);
        for node in left {
            self.operator.leaving.remove(&node);
            self.switch_off(node);
        }
    }

    /// Whatever was tried, the cluster is to be left to itself in the end.
    pub(crate) fn operate_finally(&mut self) {
        self.queue.push(self.now + 300 * MILLI, Event::Operator);
    }

    /// What was asked and lost is asked again, and nobody waits for operators any more.
    fn insist(&mut self) {
        self.stop_those_who_left();
        if self.is_paused_anywhere() {
            self.ask(Request::Pause { is_paused: false });
        }
        let processes = self.hosts.values().filter_map(|host| host.process.as_ref());
        let states: Vec<_> = processes.map(|process| process.agent.state.clone()).collect();
        // The longest log is the newest, and what it lacks is asked for.
        let newest = states.iter().max_by_key(|state| state.nodes().len());
        let named = newest.map(|state| state.nodes().clone()).unwrap_or_default();
        let role = |node: &NodeId| named.get(node).map(|named| named.role);
        // The fork may be the only directory that had everything: then pgx waits for people.
        let patience = self.healed_at.is_some_and(|healed| self.now > healed + FORKED_MAX);
        let waits =
            |state: &State| state.sealed().is_some() && state.sealed() != state.loss_accepted();
        let is_sealed = states.iter().any(|state| waits(state));
        if self.operator.may_need_loss && patience && is_sealed {
            self.ask(Request::AcceptLoss);
        }
        let came = self.operator.came.iter().filter(|node| role(node).is_none());
        let leaving = self.operator.leaving.iter().filter(|node| role(node) != Some(Role::Gone));
        let requests: Vec<_> = came.copied().map(come).chain(leaving.copied().map(leave)).collect();
        for request in requests {
            self.ask(request);
        }
        self.queue.push(self.now + 500 * MILLI, Event::Operator);
    }
}

fn come(node: NodeId) -> Request {
    Request::Node { node, address: format!("host{node}:1"), role: Role::Voter }
}

fn leave(node: NodeId) -> Request {
    Request::Node { node, address: String::new(), role: Role::Gone }
}
