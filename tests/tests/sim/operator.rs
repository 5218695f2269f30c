//! Operators: they begin the cluster, and ask for things while it runs.

use pgx_control::cluster::Durability;
use pgx_control::ids::NodeId;
use pgx_control::lease::Settings;
use pgx_controller::{Answer, Change, Request};

use crate::event::{Event, Input, MILLI, SECOND, Thread};
use crate::world::World;

/// What operators know.
#[derive(Default)]
pub(crate) struct Operator {
    has_begun: bool,
    asked: u64,
    /// What must have been undone in the end.
    wants_finally: Vec<Request>,
}

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

    fn draw_request(&mut self) -> Option<Request> {
        let kind = self.rng.below(9);
        if self.mix.requests & (1 << kind) == 0 {
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
                let lease = Some(Settings { lease_ms, renewal_ms, ..Settings::default() });
                Request::Edit(Change { lease, ..Change::default() })
            }
            4 => {
                let policy = pgx_control::cluster::Policy {
                    sync_standbys: if is_first { 1 } else { 2 },
                    attempt_ms_max: 1_000 + self.rng.below(6_000),
                    hung_ms_max: 1_000 + self.rng.below(6_000),
                    establish_ms_max: 5_000 + self.rng.below(10_000),
                    ..pgx_control::cluster::Policy::default()
                };
                Request::Edit(Change { policy: Some(policy), ..Change::default() })
            }
            5 => Request::Pause { is_paused: is_first },
            6 => {
                let durability = if is_first { Durability::Available } else { Durability::Strict };
                Request::Edit(Change { durability: Some(durability), ..Change::default() })
            }
            7 => Request::CancelSwitchover,
            _ => Request::Transfer { to: self.anybody() },
        })
    }

    /// Asks whoever coordinates.
    fn ask(&mut self, request: Request) {
        let coordinates = |node: &NodeId| {
            let process = self.hosts.get(node).and_then(|host| host.process.as_ref());
            let controller = process.and_then(|process| process.controller.as_ref());
            controller.is_some_and(pgx_controller::Controller::is_coordinator)
        };
        let Some(node) = self.hosts.keys().copied().find(coordinates) else { return };
        self.operator.asked += 1;
        let number = self.operator.asked;
        self.note(&format!("operator asks node {node}: {request:?}"));
        self.tell(node, Thread::Control, 100_000, Input::Request(number, Box::new(request)));
    }

    pub(crate) fn handle_outcome(&mut self, request: u64, answer: &Answer) {
        self.note(&format!("request {request}: {answer:?}"));
    }

    /// Whatever was tried, the cluster is to be left to itself in the end.
    pub(crate) fn operate_finally(&mut self) {
        self.operator.wants_finally = vec![Request::Pause { is_paused: false }];
        self.queue.push(self.now + 300 * MILLI, Event::Operator);
    }

    fn insist(&mut self) {
        let is_paused = self
            .hosts
            .values()
            .filter_map(|host| host.process.as_ref())
            .any(|process| process.agent.state.is_paused());
        if is_paused {
            for request in self.operator.wants_finally.clone() {
                self.ask(request);
            }
        }
        self.queue.push(self.now + 500 * MILLI, Event::Operator);
    }
}
