//! What goes wrong, and how often: drawn anew for each seed, so that some runs see one kind of
//! trouble again and again and others a little of everything.

use pgx_control::cluster::sync::Rule;
use pgx_control::ids::NodeId;
use pgx_controller::Request;
use pgx_quorum::sim::Rng;

use crate::event::{Event, MILLI, SECOND, Thread, Time};
use crate::network::Weather;
use crate::operator::REQUESTS;
use crate::postgres::Mode;
use crate::world::World;

/// Longer than any client may wait.
const ENDLESS: Time = 300 * SECOND;

/// Kinds of faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Crash,
    Power,
    PowerWhileWriting,
    PowerEverywhere,
    PostgresDies,
    PostgresHangs,
    LateThread,
    Stop,
    Isolate,
    CutOneWay,
    /// Nothing of the log comes in; all else does.
    Behind,
    DiskFull,
    Weather,
    /// Somebody promotes by hand, past pgx.
    PromotedByHand,
    /// The disk with the data is lost, and another one takes its place.
    DataLost,
}

const KINDS: [Kind; 15] = [
    Kind::Crash,
    Kind::Power,
    Kind::PowerWhileWriting,
    Kind::PowerEverywhere,
    Kind::PostgresDies,
    Kind::PostgresHangs,
    Kind::LateThread,
    Kind::Stop,
    Kind::Isolate,
    Kind::CutOneWay,
    Kind::Behind,
    Kind::DiskFull,
    Kind::Weather,
    Kind::PromotedByHand,
    Kind::DataLost,
];

const THREADS: [Thread; 4] = [Thread::Control, Thread::Lease, Thread::Agent, Thread::Proxy];

/// How often each kind comes in one run, and what operators do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mix {
    weights: [u64; KINDS.len()],
    /// Between two faults, on average.
    gap: Time,
    /// In so many per cent the node that serves, or is about to, is hit.
    primary_percent: u64,
    /// Right after an election began, faults come thick.
    pub(crate) follows_seals: bool,
    /// In so many per mille what an agent does takes long.
    pub(crate) slow_per_mille: u64,
    /// Between two requests of operators, on average; zero for none.
    pub(crate) operator_gap: Time,
    /// Which of them.
    pub(crate) requests: u64,
    /// What they ask for again and again, in some runs.
    pub(crate) favourite: Option<u64>,
    length: Time,
}

impl Mix {
    pub(crate) fn draw(rng: &mut Rng) -> Self {
        let mut weights = [0; KINDS.len()];
        for weight in &mut weights {
            *weight = if rng.chance(45) { 1 + rng.below(10) } else { 0 };
        }
        // What ends everything is telling, and leaves little time for all else.
        weights[3] = weights[3].min(1);
        let gaps = [700 * MILLI, 1_500 * MILLI, 3_000 * MILLI, 6_000 * MILLI];
        let pick = |rng: &mut Rng| gaps[usize::try_from(rng.below(4)).unwrap_or(0)];
        Self {
            weights,
            gap: pick(rng),
            primary_percent: [20, 50, 80][usize::try_from(rng.below(3)).unwrap_or(0)],
            follows_seals: rng.chance(40),
            slow_per_mille: [0, 0, 20, 100][usize::try_from(rng.below(4)).unwrap_or(0)],
            operator_gap: if rng.chance(60) { 2 * pick(rng) } else { 0 },
            requests: rng.draw(),
            favourite: rng.chance(40).then(|| rng.below(REQUESTS)),
            length: 12 * SECOND + rng.below(24 * SECOND),
        }
    }

    fn kind(&self, rng: &mut Rng) -> Option<Kind> {
        let sum: u64 = self.weights.iter().sum();
        let mut at = if sum == 0 { return None } else { rng.below(sum) };
        for (kind, weight) in KINDS.iter().zip(self.weights) {
            match at.checked_sub(weight) {
                Some(rest) => at = rest,
                None => return Some(*kind),
            }
        }
        None
    }
}

impl World {
    /// The cluster has begun: from here on things go wrong.
    pub(crate) fn begin_faults(&mut self) {
        self.faults_until = self.now + self.mix.length;
        self.queue.push(self.faults_until, Event::Heal);
        self.queue.push(self.now + self.mix.gap, Event::Fault);
    }

    pub(crate) fn fault(&mut self) {
        if self.now >= self.faults_until {
            return;
        }
        let gap = self.mix.gap / 4 + self.rng.below(self.mix.gap * 3 / 2);
        self.queue.push(self.now + gap, Event::Fault);
        self.strike();
    }

    pub(crate) fn provoked(&mut self) {
        if self.now >= self.faults_until {
            return;
        }
        if self.mix.operator_gap > 0 && self.rng.chance(15) {
            // Operators who see something happen do not wait, and most of them want it undone.
            let wants_other = self.rng.chance(50);
            let any = self.draw_request();
            let request = if wants_other { Some(Request::Failover) } else { any };
            return request.map_or((), |request| self.ask(request));
        }
        self.strike();
    }

    fn strike(&mut self) {
        let Some(kind) = self.mix.kind(&mut self.rng) else { return };
        let Some(node) = self.victim() else { return };
        let short = 50 * MILLI + self.rng.below(1_500 * MILLI);
        let long = 200 * MILLI + self.rng.below(9 * SECOND);
        let length = if self.rng.chance(50) { short } else { long };
        let until = self.now + length;
        self.note(&format!("fault on node {node}: {kind:?} for {} ms", length / MILLI));
        self.counters.faults += 1;
        match kind {
            Kind::Crash => {
                self.kill_process(node);
                self.restart(node, length / 2);
            }
            Kind::Power => self.power_off(node),
            Kind::PowerWhileWriting => self.cut_power_soon(node),
            Kind::PowerEverywhere => {
                for node in self.hosts.keys().copied().collect::<Vec<_>>() {
                    self.power_off(node);
                }
            }
            Kind::PostgresDies => self.kill_postgres(node, true),
            Kind::PostgresHangs => self.hang_for(node, length),
            Kind::LateThread => {
                let at = usize::try_from(self.rng.below(THREADS.len() as u64)).unwrap_or(0);
                self.pause(node, &THREADS[at..=at], until);
            }
            Kind::Stop => {
                self.pause(node, &THREADS, until);
                if self.rng.chance(50) {
                    self.hang(node, until);
                }
            }
            Kind::Isolate => self.isolate(node, until),
            Kind::CutOneWay => {
                let other = self.anybody();
                self.network.cut(node, other, until);
            }
            Kind::Behind => self.network.leave_behind(node, until),
            Kind::DiskFull => {
                self.fill_disk(node, until);
                if self.rng.chance(50) {
                    self.kill_postgres(node, true);
                }
            }
            Kind::PromotedByHand => self.promote_by_hand(until),
            Kind::DataLost => self.lose_data(node, length),
            Kind::Weather => self.network.weather = draw_weather(&mut self.rng),
        }
    }

    /// Somebody takes a standby for the primary's successor. Half of them see to it that pgx does
    /// not interfere for a while.
    fn promote_by_hand(&mut self, until: Time) {
        let node = self.anybody();
        let run = self.hosts.get(&node).and_then(|host| host.postgres.as_ref());
        let is_up = run.is_some_and(|run| run.is_up && run.mode == Mode::Standby);
        if !is_up || !self.is_dispensable(node) {
            return;
        }
        self.operator.may_need_loss = true;
        self.promote(node, Rule::degraded());
        if self.rng.chance(50) {
            self.pause(node, &[Thread::Agent], until);
        }
    }

    /// Whether people can do without what a node has: once in a run, and not the directory that
    /// alone may have everything.
    fn is_dispensable(&self, node: NodeId) -> bool {
        let Some(host) = self.hosts.get(&node) else { return false };
        let state = host.process.as_ref().map(|process| &process.agent.state);
        let established = state.and_then(|state| state.established());
        let is_other = established.is_some_and(|one| one.incarnation != host.directory.incarnation);
        is_other && !self.operator.may_need_loss
    }

    /// A node loses its data, and what its agent noted beside it; the quorum's file is elsewhere.
    fn lose_data(&mut self, node: NodeId, length: Time) {
        if !self.is_dispensable(node) {
            return;
        }
        self.operator.may_need_loss = true;
        self.kill_process(node);
        self.kill_postgres(node, true);
        self.empty_directory(node);
        self.restart(node, length / 2);
    }

    /// A standby that hangs has only itself to blame; a primary may hang for as good as ever.
    fn hang_for(&mut self, node: NodeId, length: Time) {
        let run = self.hosts.get(&node).and_then(|host| host.postgres.as_ref());
        let is_primary = run.is_some_and(|run| run.mode == Mode::Primary);
        let is_endless = is_primary && self.rng.chance(30);
        let length = if is_endless { ENDLESS } else { 2 * length };
        self.hang(node, self.now + length);
    }

    fn hang(&mut self, node: NodeId, until: Time) {
        if let Some(run) = self.hosts.get_mut(&node).and_then(|host| host.postgres.as_mut()) {
            run.hung_until = run.hung_until.max(until);
        }
    }

    fn isolate(&mut self, node: NodeId, until: Time) {
        for other in self.hosts.keys().copied().collect::<Vec<_>>() {
            self.network.cut(node, other, until);
            self.network.cut(other, node, until);
        }
    }

    pub(crate) fn anybody(&mut self) -> NodeId {
        let nodes: Vec<_> =
            self.hosts.values().filter(|host| !host.is_gone).map(|host| host.id).collect();
        nodes[usize::try_from(self.rng.below(nodes.len() as u64)).unwrap_or(0)]
    }

    fn victim(&mut self) -> Option<NodeId> {
        let holder = self.newest_holder().map(|(_, holder)| holder);
        let any = self.anybody();
        let node = if self.rng.chance(self.mix.primary_percent) { holder? } else { any };
        self.hosts.get(&node).is_some_and(|host| host.has_power && !host.is_gone).then_some(node)
    }

    /// An entry was applied for the first time anywhere: some runs are hard on elections.
    pub(crate) fn provoke(&mut self) {
        if self.mix.follows_seals && self.now < self.faults_until && self.rng.chance(60) {
            let soon = self.rng.below(400 * MILLI);
            self.queue.push(self.now + soon, Event::Provoked);
        }
    }
}

fn draw_weather(rng: &mut Rng) -> Weather {
    if rng.chance(40) {
        return Weather::default();
    }
    Weather {
        loss_percent: [0, 2, 10, 30][usize::try_from(rng.below(4)).unwrap_or(0)],
        double_percent: [0, 5, 30][usize::try_from(rng.below(3)).unwrap_or(0)],
        delay_max: [0, 5 * MILLI, 50 * MILLI, 300 * MILLI]
            [usize::try_from(rng.below(4)).unwrap_or(0)],
        late_per_mille: [0, 0, 10, 50][usize::try_from(rng.below(4)).unwrap_or(0)],
    }
}
