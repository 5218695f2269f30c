//! The thread that drives the controller: inputs, ticks, outputs, in that order.
//!
//! It may wait for the disk under the log, and then everything here waits; leases do not. When that
//! disk fails, the controller is dropped and begun anew from the file, again and again, until it
//! works.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel};
use std::time::{Duration, Instant};

use bytes::Bytes;
use pgx_control::admin::{ControlStatus, ProbeStatus};
use pgx_control::cluster::{Entry, State};
use pgx_control::facts::{AgentFacts, HostFacts, ProxyFacts, VoterFacts};
use pgx_control::ids::{Incarnation, NodeId};
use pgx_control::lease::Station;
use pgx_control::limits::LINK_PATIENCE_MS;
use pgx_controller::{Controller, Note, Output, Request, Unanswered, codec};
use pgx_quorum::{Quorum, Store};
use pgx_session::route::ServerAddress;
use tokio::sync::oneshot;
use tracing::{debug, error, info, warn};

use super::changes::Changes;
use super::clock::{boot_time, random_number};
use super::journal::Journal;
use super::lease::{self, Board, Outlets};
use super::members::Members;
use super::message::{Outcome, Question, Said, Told};
use super::records::Records;
use super::requests::{Asker, Waiting, done};
use super::routes::Followed;
use super::storage::{self, Files, Opened, Owner};
use super::{Leased, Prepared, Wish, refusals, routes, spawn, status, watch};
use crate::config;
use crate::limits::control::{DISK_RETRY, HOST_TICKS, INPUTS_PER_ROUND_MAX, REACH_TICKS, TICK};
use crate::moment::unix_ms;
use crate::peer::{Channel, PeerSet};
use crate::vip::Addresses;

/// What the controller is told.
pub(super) enum Input {
    /// Raft's bytes from a peer.
    Raft { from: NodeId, bytes: Bytes },
    /// A peer's facts, requests and answers.
    Said { from: NodeId, said: Said },
    /// What this node says as a voter of leases.
    Voter(VoterFacts),
    /// What this node's agent says.
    Agent(Option<AgentFacts>),
    /// What this node's proxy says.
    Proxy(ProxyFacts),
    /// An operator asks.
    Ask { question: Question, reply: oneshot::Sender<Outcome> },
    /// An operator wishes something of PostgreSQL here.
    Wish(Wish, oneshot::Sender<Result<String, String>>),
    /// How are things?
    Status(oneshot::Sender<ControlStatus>),
}

/// Starts the threads of the control plane.
///
/// # Errors
/// When the log cannot be replayed, or a thread cannot be had.
pub(super) fn start(
    prepared: Prepared,
    peers: Arc<PeerSet>,
    leased: Leased,
    changes: Changes,
) -> Result<(), String> {
    let Leased { proxy, gate, addresses } = leased;
    let Prepared { config, postgres, opened, inputs, lease_inputs } = prepared;
    let Opened { store, refusals: refused, files } = opened;
    let (identity, owner) = (store.identity(), Owner::from(store.identity()));
    let controller = begin(store)
        .map_err(|error| format!("cannot start from {}: {error}", files.store.display()))?;
    info!(%identity, "this node has its part in the cluster");
    let me = controller.me();
    let installation = Incarnation(u128::from(identity.incarnation.get()));
    // The log is replayed: no later life of this voter goes by an older state than this.
    let state = Arc::clone(controller.state());
    let station = Station::new(me, installation, refused, state, random_number(), boot_time());
    let board = Board::default();
    let (wanted, to_write) = channel();
    let (path, written) = (files.refusals.clone(), lease_inputs.0.clone());
    spawn("pgx-refusals", move || refusals::run(&path, owner, &to_write, &written))?;
    let outlets = Outlets {
        peers: Arc::clone(&peers),
        refusals: wanted,
        driver: inputs.0.clone(),
        board: Arc::clone(&board),
        routes: proxy.as_ref().map(|proxy| proxy.workers.route_lease()),
        gate: gate.clone(),
        addresses: addresses.clone(),
    };
    spawn("pgx-lease", move || lease::run(station, &lease_inputs.1, outlets))?;
    let lead = |proxy| lead(proxy, me, addresses, &inputs.0, &lease_inputs.0, &board);
    let routes = proxy.map(lead).transpose()?;
    let members = Members::start(gate.clone(), postgres.as_ref().map(|own| own.port))?;
    let agent = postgres.map(|postgres| {
        let outlets = watch::Outlets {
            driver: inputs.0.clone(),
            lease: lease_inputs.0.clone(),
            board: Arc::clone(&board),
            gate,
        };
        watch::start(postgres, &files, owner, (me, config.priority), outlets)
    });
    let (agent, answers) = agent.transpose()?.unzip();
    let driver = Driver {
        me,
        records: Records::new(&config.data, &controller),
        config,
        files,
        peers,
        board,
        engine: Engine::Running(Box::new(controller)),
        leases: lease_inputs.0,
        agent,
        routes,
        members,
        answers,
        voter: None,
        facts: None,
        proxy: None,
        waiting: Waiting::default(),
        journal: Journal::default(),
        reach: BTreeMap::new(),
        ticks: 0,
        alone: Instant::now(),
        changes,
    };
    spawn("pgx-control", move || driver.run(&inputs.1))
}

/// Leads the proxy from here on.
fn lead(
    proxy: Followed,
    me: NodeId,
    addresses: Option<Arc<Addresses>>,
    driver: &SyncSender<Input>,
    lease: &SyncSender<lease::Input>,
    board: &Board,
) -> Result<Sender<Arc<State>>, String> {
    let (driver, lease, board) = (driver.clone(), lease.clone(), Arc::clone(board));
    let outlets = routes::Outlets { driver, lease, board, addresses };
    let (sender, inbox) = channel();
    spawn("pgx-routes", move || routes::run(me, proxy, &inbox, outlets))?;
    Ok(sender)
}

/// A controller on a store that was just opened.
fn begin(store: Store) -> Result<Controller, pgx_quorum::OpenError> {
    let installation = Incarnation(u128::from(store.identity().incarnation.get()));
    let quorum = Quorum::open(store, random_number())?;
    Ok(Controller::new(quorum, installation, random_number(), boot_time()))
}

enum Engine {
    Running(Box<Controller>),
    /// Its file failed; tried again then.
    Halted {
        cause: String,
        retry: Instant,
    },
}

struct Driver {
    me: NodeId,
    config: config::Control,
    files: Files,
    peers: Arc<PeerSet>,
    board: Board,
    engine: Engine,
    leases: SyncSender<lease::Input>,
    agent: Option<Sender<watch::Input>>,
    /// Who leads the proxy, if it follows the cluster.
    routes: Option<Sender<Arc<State>>>,
    /// Who tells the gate of other hosts.
    /// None on a host that has nothing for anybody to connect to.
    members: Option<Members>,
    /// What PostgreSQL has answered, for operators.
    answers: Option<watch::Answers>,
    /// What the voter and the agent said last, for a controller that begins anew.
    voter: Option<VoterFacts>,
    facts: Option<AgentFacts>,
    proxy: Option<ProxyFacts>,
    waiting: Waiting,
    journal: Journal,
    /// What has happened, for operators.
    records: Records,
    /// The peers as they were last told to the links.
    reach: BTreeMap<NodeId, ServerAddress>,
    ticks: u64,
    /// When this node last heard nobody.
    alone: Instant,
    changes: Changes,
}

impl Driver {
    fn run(mut self, inbox: &Receiver<Input>) {
        let mut tick = Instant::now() + TICK;
        loop {
            self.put_out();
            let wait = tick.saturating_duration_since(Instant::now());
            match inbox.recv_timeout(wait) {
                Ok(input) => {
                    self.take(input);
                    for input in inbox.try_iter().take(INPUTS_PER_ROUND_MAX) {
                        self.put_out();
                        self.take(input);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            let now = Instant::now();
            if now >= tick {
                // A tick that was missed is left out: time has passed for everybody.
                tick = now + TICK;
                self.tick();
            }
        }
    }

    fn tick(&mut self) {
        let now = boot_time();
        let host = self.ticks.is_multiple_of(HOST_TICKS).then(|| self.host());
        match &mut self.engine {
            Engine::Running(controller) => {
                controller.handle_clock(unix_ms());
                if let Some(host) = host {
                    controller.handle_host_facts(host);
                }
                controller.handle_tick(now);
            }
            Engine::Halted { retry, .. } if Instant::now() >= *retry => self.retry(),
            Engine::Halted { .. } => {}
        }
        self.ticks += 1;
        if self.ticks.is_multiple_of(REACH_TICKS) {
            self.reach_out();
        }
        for asker in self.waiting.late(now) {
            self.tell(asker, Err(Unanswered::Late));
        }
    }

    /// How this host's links and disks are.
    fn host(&mut self) -> HostFacts {
        let mut host = HostFacts::of(&self.peers.status(), &self.probes().unwrap_or_default());
        let now = Instant::now();
        if host.hears.is_empty() {
            self.alone = now;
        }
        // When its network comes back, its links do one after the other.
        if now.duration_since(self.alone) < Duration::from_millis(LINK_PATIENCE_MS) {
            host.unheard.clear();
        }
        host
    }

    fn probes(&self) -> Option<Vec<ProbeStatus>> {
        self.answers.as_ref().map(|answers| answers.lock().status(boot_time()))
    }

    fn take(&mut self, input: Input) {
        let now = boot_time();
        match input {
            Input::Ask { question, reply } => self.ask(Asker::Here(reply), question, false),
            Input::Said { from, said: Said::Ask { number, question } } => {
                self.ask(Asker::Node(from, number), question, true);
            }
            Input::Said { said: Said::Answer { number, outcome }, .. } => {
                if let Some(asker) = self.waiting.leave(number) {
                    self.tell(asker, outcome);
                }
            }
            Input::Wish(wish, reply) => match &self.agent {
                // It lives as long as the process; whoever asked may have left.
                Some(agent) => drop(agent.send(watch::Input::Wish(wish, reply))),
                None => drop(
                    reply.send(Err("this pgx runs no PostgreSQL: its configuration has \
                                             no [postgres]"
                        .to_owned())),
                ),
            },
            Input::Status(reply) => {
                // Whoever asked may have left.
                let _ = reply.send(self.status());
            }
            input => self.inform(input, now),
        }
    }

    /// What only a running controller takes; for a halted one it is kept or left out.
    fn inform(&mut self, input: Input, now: pgx_control::ids::BootTime) {
        match &input {
            Input::Voter(facts) => self.voter = Some(facts.clone()),
            Input::Agent(facts) => self.facts.clone_from(facts),
            Input::Proxy(facts) => self.proxy = Some(facts.clone()),
            _ => {}
        }
        let Engine::Running(controller) = &mut self.engine else { return };
        match input {
            Input::Raft { from, bytes } => {
                if let Err(error) = controller.handle_raft(from, &bytes, now) {
                    let error = error.to_string();
                    if let Some(repeated) = self.journal.is_due(&error, Instant::now()) {
                        warn!(%from, error, repeated, "a message of the quorum was refused");
                    }
                }
            }
            Input::Said { from, said: Said::Facts(facts) } => {
                controller.handle_facts(from, *facts, now);
            }
            Input::Voter(facts) => controller.handle_voter_facts(facts),
            Input::Agent(facts) => controller.handle_agent_facts(facts),
            Input::Proxy(facts) => controller.handle_proxy_facts(Some(facts)),
            Input::Said { .. } | Input::Ask { .. } | Input::Wish(..) | Input::Status(_) => {}
        }
    }

    fn put_out(&mut self) {
        loop {
            let Engine::Running(controller) = &mut self.engine else { return };
            let Some(output) = controller.next_output() else { return };
            match output {
                Output::Raft { to, bytes } => self.send(to, Channel::Raft, bytes.into()),
                Output::Facts { to: NodeId(0), facts } => {
                    let bytes = Bytes::from(codec::encode(&Said::Facts(facts)));
                    for to in self.reach.keys() {
                        self.send(*to, Channel::Control, bytes.clone());
                    }
                }
                Output::Facts { to, facts } => self.say(to, &Said::Facts(facts)),
                Output::State(state) => self.publish(&state),
                Output::Answer { request, answer } => {
                    if let Some(asker) = self.waiting.leave(request) {
                        self.tell(asker, done(answer));
                    }
                }
                Output::Note(note) => {
                    log(&note);
                    self.record(&note);
                }
                Output::Halted(error) => self.halt(&error.to_string()),
            }
        }
    }

    /// Notes what has happened where operators find it.
    fn record(&mut self, note: &Note) {
        match note {
            Note::Applied { index, entry } => {
                let Engine::Running(controller) = &self.engine else { return };
                let seen = || match controller.is_coordinator() {
                    true => controller.survey(boot_time()).troubles,
                    false => Vec::new(),
                };
                self.records.applied(*index, entry, seen);
            }
            Note::Waits(Some(reason)) => self.records.waits(&reason.to_string()),
            Note::Coordinator { node: Some(node), .. } => {
                self.records.happened(format!("node {node} coordinates"));
            }
            Note::Coordinator { node: None, .. } => {
                self.records.happened("nobody coordinates".to_owned());
            }
            Note::Unreadable { index, reason } => {
                self.records.happened(format!("cannot read entry {index} of the log: {reason}"));
            }
            Note::Waits(None) | Note::Void { .. } => {}
        }
    }

    fn say(&self, to: NodeId, said: &Said) {
        self.send(to, Channel::Control, codec::encode(said).into());
    }

    fn send(&self, to: NodeId, channel: Channel, bytes: Bytes) {
        // A member whose address is not known yet; the state tells it in time.
        if let Err(error) = self.peers.send(to, channel, bytes) {
            debug!(%to, %channel, %error, "not sent");
        }
    }

    /// Hands the state to all who go by it.
    fn publish(&mut self, state: &Arc<State>) {
        self.changes.see(state, Instant::now());
        self.records.see(state);
        // Both threads live as long as this one.
        let _ = self.leases.send(lease::Input::State(Arc::clone(state)));
        if let Some(agent) = &self.agent {
            let _ = agent.send(watch::Input::State(Arc::clone(state)));
        }
        if let Some(routes) = &self.routes {
            let _ = routes.send(Arc::clone(state));
        }
        if let Some(members) = &mut self.members {
            members.see(state);
        }
        self.reach_out();
    }

    /// Tells the links whom to talk to, when that has changed.
    fn reach_out(&mut self) {
        let Engine::Running(controller) = &self.engine else { return };
        let log = controller.quorum_status().membership;
        let has_log = |node: NodeId| {
            let node = pgx_quorum::NodeId::new(node.0);
            node.zip(log.as_ref()).is_some_and(|(node, log)| log.get(node).is_some())
        };
        let reach = reach(&self.config, controller.state(), has_log);
        if reach != self.reach {
            self.peers.set_peers(&reach);
            self.reach = reach;
        }
    }

    fn halt(&mut self, cause: &str) {
        error!(
            cause, path = %self.files.store.display(),
            "the log cannot be written, so this node takes no part in decisions; leases go on. \
             Make space or mend the disk: the file is opened again each second"
        );
        let retry = Instant::now() + DISK_RETRY;
        // Dropped here, so that the file can be opened again.
        self.engine = Engine::Halted { cause: cause.to_owned(), retry };
        for asker in self.waiting.all() {
            self.tell(asker, Err(Unanswered::Late));
        }
    }

    fn retry(&mut self) {
        let opened = storage::reopen(&self.config, &self.files);
        let begun = opened
            .map_err(|error| error.to_string())
            .and_then(|store| begin(store).map_err(|error| error.to_string()));
        match begun {
            Ok(mut controller) => {
                info!("the log is open again; this node takes part as before");
                if let Some(facts) = &self.voter {
                    controller.handle_voter_facts(facts.clone());
                }
                controller.handle_agent_facts(self.facts.clone());
                controller.handle_proxy_facts(self.proxy.clone());
                self.engine = Engine::Running(Box::new(controller));
            }
            Err(cause) => {
                if let Some(repeated) = self.journal.is_due(&cause, Instant::now()) {
                    error!(cause, repeated, "the log still cannot be opened");
                }
                self.engine = Engine::Halted { cause, retry: Instant::now() + DISK_RETRY };
            }
        }
    }

    /// Carries a question out, or passes it on, once, to whoever coordinates.
    fn ask(&mut self, asker: Asker, question: Question, was_passed_on: bool) {
        let now = boot_time();
        let Engine::Running(controller) = &mut self.engine else {
            return self.tell(asker, Err(Unanswered::NoCoordinator));
        };
        let coordinator = controller.known_coordinator();
        match question {
            _ if !controller.is_coordinator() => {
                let other = coordinator.filter(|node| *node != self.me && !was_passed_on);
                let Some(other) = other else {
                    return self.tell(asker, Err(Unanswered::NoCoordinator));
                };
                let only_looks = question == Question::Survey;
                match self.waiting.enter(asker, only_looks, now) {
                    Ok(number) => self.say(other, &Said::Ask { number, question }),
                    Err(asker) => self.tell(asker, Err(Unanswered::Busy)),
                }
            }
            Question::Rehearse(request) => {
                let rehearsed = controller.rehearse(&complete(request, controller), now);
                self.tell(asker, rehearsed.map(|all| Told::Lines(status::lines(&all))));
            }
            Question::Survey => {
                let survey = Told::Survey(Box::new(controller.survey(now)));
                self.tell(asker, Ok(survey));
            }
            Question::Do(request) => match self.waiting.enter(asker, false, now) {
                Ok(number) => {
                    controller.handle_request(number, &complete(request, controller), now);
                }
                Err(asker) => self.tell(asker, Err(Unanswered::Busy)),
            },
        }
    }

    fn tell(&self, asker: Asker, outcome: Outcome) {
        match asker {
            // Whoever asked may have left.
            Asker::Here(reply) => drop(reply.send(outcome)),
            Asker::Node(node, number) => self.say(node, &Said::Answer { number, outcome }),
        }
    }

    fn status(&self) -> ControlStatus {
        let held = self.board.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
        let agent = self.facts.as_ref().zip(self.probes());
        match &self.engine {
            Engine::Running(controller) => status::of(controller, &held, agent),
            Engine::Halted { cause, .. } => status::of_halted(self.me, cause, &held),
        }
    }
}

/// An address that was left out is the one that is known.
fn complete(request: Request, controller: &Controller) -> Request {
    match request {
        Request::Node { node, address, role } if address.is_empty() => {
            let known = controller.state().nodes().get(&node);
            let address = known.map_or_else(|| "unknown:0".to_owned(), |one| one.address.clone());
            Request::Node { node, address, role }
        }
        request => request,
    }
}

/// Whom to talk to: those of the configuration and those of the state, which knows better. One that
/// is to go is talked to until it is out of the log: it may coordinate.
fn reach(
    config: &config::Control,
    state: &State,
    has_log: impl Fn(NodeId) -> bool,
) -> BTreeMap<NodeId, ServerAddress> {
    let mut reach = config.peers.clone();
    for (node, named) in state.nodes() {
        if named.role == pgx_control::cluster::Role::Gone {
            if !has_log(*node) {
                reach.remove(node);
            }
        } else {
            reach.insert(*node, ServerAddress(named.address.clone()));
        }
    }
    reach.remove(&config.node);
    reach
}

fn log(note: &Note) {
    match note {
        Note::Coordinator { node: Some(node), term } => info!(%node, term, "a voter coordinates"),
        Note::Coordinator { node: None, term } => {
            warn!(term, "nobody coordinates; decisions wait for a majority of voters");
        }
        Note::Applied { index, entry } => match &**entry {
            Entry::Released { .. } | Entry::MembershipAdopted { .. } => {
                debug!(index, ?entry, "applied");
            }
            entry => info!(index, ?entry, "applied"),
        },
        Note::Void { index, entry, void } => info!(index, %void, ?entry, "changed nothing"),
        Note::Unreadable { index, reason } => error!(
            index,
            reason, "cannot read what the quorum has agreed on; upgrade pgx on this node"
        ),
        Note::Waits(Some(reason)) => warn!(waits = %reason, "waiting"),
        Note::Waits(None) => info!("nothing is waited for"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pgx_control::cluster::Role;
    use pgx_control::lease::Settings;

    #[test]
    fn addresses_of_the_state_take_the_place_of_configured_ones_and_who_is_gone_is_left_out() {
        let address = |text: &str| ServerAddress(text.to_owned());
        let peers = [(NodeId(2), address("old:1")), (NodeId(3), address("db3:1"))];
        let config = config::Control {
            node: NodeId(1),
            listen: ([127, 0, 0, 1], 0).into(),
            certificate: "/".into(),
            key: "/".into(),
            ca: "/".into(),
            peers: peers.into(),
            data: "/".into(),
            priority: 0,
        };
        let mut state = State::new([NodeId(1)].into(), Settings::default());
        let named = [(1, Role::Voter, "me:1"), (2, Role::Voter, "new:1"), (3, Role::Gone, "db3:1")];
        for (node, role, address) in named {
            let entry = Entry::Node { node: NodeId(node), address: address.into(), role };
            state.apply(&entry).unwrap();
        }
        let two = (NodeId(2), address("new:1"));
        assert_eq!(reach(&config, &state, |_| false), [two.clone()].into());
        let both = [two, (NodeId(3), address("db3:1"))];
        assert_eq!(reach(&config, &state, |_| true), both.into());
    }
}
