//! The world: hosts, network, clients, and the one queue that everything happens through.
//!
//! Here is what all share; what happens on a host is in `control.rs`, `lease.rs`, `agent.rs` and
//! `server.rs`, what is done to hosts in `life.rs`, `fault.rs` and `operator.rs`.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use pgx_control::agent::Record;
use pgx_control::cluster::history::{History, Switch};
use pgx_control::ids::{Epoch, Incarnation, Lsn, NodeId, Timeline};
use pgx_control::lease::Refusals;
use pgx_quorum::sim::{Rng, SimDisk};
use pgx_quorum::{self as quorum, ClusterId, Founding, Identity, Membership, Store};

use crate::client::Client;
use crate::counters::Counters;
use crate::event::{Event, Input, MICRO, MILLI, Packet, Queue, Thread, Time};
use crate::fault::Mix;
use crate::host::{Clock, File, Gate, Host};
use crate::invariant::{Checks, Failure};
use crate::network::Network;
use crate::operator::Operator;
use crate::postgres::{Directory, Run};
use crate::trace::Trace;

/// The database system that every directory here is of.
pub(crate) const SYSTEM: u64 = 7;

/// A cluster and all around it.
pub(crate) struct World {
    pub(crate) now: Time,
    pub(crate) rng: Rng,
    pub(crate) queue: Queue,
    pub(crate) hosts: BTreeMap<NodeId, Host>,
    pub(crate) network: Network,
    pub(crate) clients: Vec<Client>,
    pub(crate) operator: Operator,
    pub(crate) mix: Mix,
    pub(crate) faults_until: Time,
    pub(crate) healed_at: Option<Time>,
    pub(crate) checks: Checks,
    pub(crate) trace: Trace,
    pub(crate) counters: Counters,
    pub(crate) last_holder: Option<NodeId>,
    pub(crate) switching_to: Option<NodeId>,
    ids: u64,
}

/// How a run ended.
pub(crate) struct Outcome {
    pub(crate) failure: Option<Failure>,
    pub(crate) counters: Counters,
    pub(crate) hash: u64,
    pub(crate) story: String,
}

impl World {
    /// A cluster of so many nodes that have just started for the first time.
    pub(crate) fn new(seed: u64, nodes: u64) -> Self {
        let mut rng = Rng::new(seed);
        let mix = Mix::draw(&mut rng);
        let mut world = Self {
            now: 0,
            queue: Queue::default(),
            hosts: BTreeMap::new(),
            network: Network::default(),
            clients: Vec::new(),
            operator: Operator::default(),
            faults_until: 0,
            healed_at: None,
            mix,
            checks: Checks::default(),
            trace: Trace::new(),
            counters: Counters::default(),
            last_holder: Some(NodeId(1)),
            switching_to: None,
            ids: 1_000,
            rng,
        };
        world.note(&format!("seed {seed}, {nodes} nodes, faults: {mix:?}"));
        let number = |node| quorum::NodeId::new(node).expect("numbers begin with one");
        let voters: Vec<_> =
            (1..=nodes).map(|node| (number(node), installation(1_000 + node))).collect();
        let founding = Membership::of_voters(&voters).expect("there are few of them");
        let founding = Founding::Cluster(founding);
        for node in 1..=nodes {
            let first = History(vec![first_switch()]);
            let directory = world.founding_directory();
            world.make_host(node, 1_000 + node, &founding, directory, first);
        }
        let first = world.hosts.get_mut(&NodeId(1)).expect("it was just made");
        let mut run = Run::new(1);
        run.start_as_primary(first.directory.flushed);
        first.postgres = Some(run);
        first.directory.shut_down = None;
        first.directory.was_primary = true;
        world.queue.push(
            MILLI,
            Event::Postgres { node: NodeId(1), run: 1, work: crate::postgres::Work::Beat },
        );
        for node in 1..=nodes {
            world.start_process(NodeId(node));
        }
        world.add_clients();
        world.begin_operating();
        world
    }

    fn founding_directory(&mut self) -> Directory {
        let mut directory = Directory::new(Incarnation(u128::from(self.unique())));
        directory.wal = vec![1, 2, 3, 4, 5];
        directory.flushed = 5;
        directory.shut_down = Some(5);
        directory
    }

    /// A host with power and disks, and nothing that runs.
    pub(crate) fn make_host(
        &mut self,
        node: u64,
        file: u64,
        founding: &Founding,
        directory: Directory,
        history: History,
    ) {
        let disk = SimDisk::default();
        let number = quorum::NodeId::new(node).expect("numbers begin with one");
        let incarnation = installation(file);
        let identity = Identity { cluster: ClusterId(5), node: number, incarnation };
        Store::create_on(disk.open(), identity, founding).expect("the disk is new");
        let is_whole = !directory.is_half;
        let record = Record { is_whole, ..Record::new(directory.incarnation, history) };
        let host = Host {
            id: NodeId(node),
            installation: file,
            clock: self.draw_clock(),
            boot: 0,
            has_power: true,
            disk,
            is_full: false,
            refusals: File::new(Refusals::default()),
            record: File::new(record),
            gate: Gate::default(),
            directory,
            postgres: None,
            rebuild: None,
            kept: None,
            retained: Vec::new(),
            process: None,
            is_gone: false,
        };
        self.hosts.insert(NodeId(node), host);
    }

    /// A host that comes later: its disk is empty but for what joining makes.
    pub(crate) fn make_newcomer(&mut self, node: u64, file: u64) {
        let incarnation = Incarnation(u128::from(self.unique()));
        let directory = Directory { is_half: true, ..Directory::new(incarnation) };
        self.counters.came += 1;
        self.note(&format!("node {node} is new"));
        self.make_host(node, file, &Founding::Joiner, directory, History::default());
    }

    /// An empty disk takes the place of the one with the data.
    pub(crate) fn empty_directory(&mut self, node: NodeId) {
        let incarnation = Incarnation(u128::from(self.unique()));
        let Some(host) = self.hosts.get_mut(&node) else { return };
        host.directory = Directory { is_half: true, ..Directory::new(incarnation) };
        let record = Record::new(incarnation, History::default());
        host.record = File::new(Record { is_whole: false, ..record });
        host.kept = None;
        host.retained.clear();
        self.forget_disk(node);
    }

    /// Two clocks differ by at most the drift that the default settings allow for.
    pub(crate) fn draw_clock(&mut self) -> Clock {
        let offset = self.rng.below(1_000_000_000_000);
        Clock { booted: self.now, offset, rate_per_mille: 914 + self.rng.below(181) }
    }

    /// A number that was never given before.
    pub(crate) fn unique(&mut self) -> u64 {
        self.ids += 1;
        self.ids
    }

    /// Runs until the cluster has healed, or an invariant fails.
    pub(crate) fn run(mut self) -> Outcome {
        while let Some((at, event)) = self.queue.pop() {
            self.now = self.now.max(at);
            self.trace.mix(self.now);
            self.handle(event);
            self.check();
            if self.checks.failure.is_some() || self.is_over() {
                break;
            }
        }
        self.counters.virtual_ns += self.now;
        self.counters.seeds += 1;
        Outcome {
            failure: self.checks.failure.take(),
            counters: self.counters,
            hash: self.trace.hash(),
            story: self.trace.last(400),
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Thread { node, life, thread, input } => {
                self.handle_thread(node, life, thread, input);
            }
            Event::Packet { from, to, packet } => self.handle_packet(from, to, packet),
            Event::Postgres { node, run, work } => self.handle_work(node, run, work),
            Event::Start { node, boot } => self.handle_start(node, boot),
            Event::PowerOn(node) => self.power_on(node),
            Event::DiskFree(node) => self.free_disk(node),
            Event::Client { client, op } => self.handle_client(client, op),
            Event::Fault => self.fault(),
            Event::Provoked => self.provoked(),
            Event::Operator => self.operate(),
            Event::Heal => self.heal(),
        }
    }

    fn handle_thread(&mut self, node: NodeId, life: u64, thread: Thread, input: Input) {
        let Some(process) = self.hosts.get_mut(&node).and_then(|host| host.process.as_mut()) else {
            return;
        };
        if process.life != life {
            return;
        }
        let paused = process.paused.get(&thread).copied().unwrap_or(0);
        let inbox = process.inboxes.entry(thread).or_default();
        let is_resuming = matches!(input, Input::Resume);
        if paused > self.now {
            // What comes while a thread is late waits for it in order.
            if is_resuming || inbox.is_empty() {
                let input = Input::Resume;
                self.queue.push(paused, Event::Thread { node, life, thread, input });
            }
            if !is_resuming {
                inbox.push_back(input);
            }
        } else if is_resuming {
            self.resume(node, life, thread);
        } else if inbox.is_empty() {
            self.handle_input(node, thread, input);
        } else {
            inbox.push_back(input);
        }
    }

    fn resume(&mut self, node: NodeId, life: u64, thread: Thread) {
        loop {
            let process = self.hosts.get_mut(&node).and_then(|host| host.process.as_mut());
            let Some(process) = process.filter(|process| process.life == life) else { return };
            let inbox = process.inboxes.get_mut(&thread);
            let Some(input) = inbox.and_then(VecDeque::pop_front) else { return };
            self.handle_input(node, thread, input);
        }
    }

    fn handle_input(&mut self, node: NodeId, thread: Thread, input: Input) {
        match thread {
            Thread::Control => self.control(node, input),
            Thread::Lease => self.lease(node, input),
            Thread::Agent => self.agent(node, input),
            Thread::Proxy => self.proxy(node, input),
        }
    }

    fn handle_packet(&mut self, from: NodeId, to: NodeId, packet: Packet) {
        let Some(host) = self.hosts.get(&to) else {
            return self.handle_answer(&packet);
        };
        if !host.has_power || host.is_gone {
            return;
        }
        let soon = self.latency();
        match packet {
            Packet::Raft(bytes) => {
                self.tell(to, Thread::Control, soon, Input::Raft { from, bytes });
            }
            Packet::Facts(facts) => {
                self.tell(to, Thread::Control, soon, Input::Facts { from, facts });
            }
            Packet::Lease(message) => {
                self.tell(to, Thread::Lease, soon, Input::Lease { from, message });
            }
            Packet::Wal(link) => self.handle_talk(from, to, &link),
            Packet::Write { client, op } => self.handle_write(to, client, op),
            Packet::Written { .. } => {}
        }
    }

    /// How long a thread takes to notice what is in its inbox.
    pub(crate) fn latency(&mut self) -> Time {
        5 * MICRO + self.rng.below(200 * MICRO)
    }

    /// Puts something into a thread's inbox.
    pub(crate) fn tell(&mut self, node: NodeId, thread: Thread, delay: Time, input: Input) {
        let process = self.hosts.get(&node).and_then(|host| host.process.as_ref());
        if let Some(life) = process.map(|process| process.life) {
            let at = self.now + delay;
            self.queue.push(at, Event::Thread { node, life, thread, input });
        }
    }

    /// Says something to a thread: what was said to it first arrives first.
    pub(crate) fn say(&mut self, node: NodeId, thread: Thread, input: Input) {
        let soon = self.now + self.latency();
        let process = self.hosts.get_mut(&node).and_then(|host| host.process.as_mut());
        let Some(process) = process else { return };
        let last = process.said.entry(thread).or_default();
        *last = soon.max(*last);
        let (at, life) = (*last, process.life);
        self.queue.push(at, Event::Thread { node, life, thread, input });
    }

    /// Puts a datagram on the network.
    pub(crate) fn send(&mut self, from: NodeId, to: NodeId, packet: Packet) {
        if matches!(packet, Packet::Raft(_)) && self.network.is_behind(to, self.now) {
            return;
        }
        let arrivals = self.network.arrivals(from, to, self.now, &mut self.rng);
        let mut arrivals = arrivals.into_iter().flatten().peekable();
        while let Some(at) = arrivals.next() {
            if arrivals.peek().is_none() {
                return self.queue.push(at, Event::Packet { from, to, packet });
            }
            self.queue.push(at, Event::Packet { from, to, packet: packet.clone() });
        }
    }

    pub(crate) fn note(&mut self, line: &str) {
        self.trace.note(self.now, line);
    }

    /// The node whose server clients can write to now.
    pub(crate) fn serving(&self) -> Option<NodeId> {
        self.hosts.values().find(|host| host.can_write(self.now)).map(|host| host.id)
    }

    /// The node that holds the newest epoch that anybody knows of.
    pub(crate) fn newest_holder(&self) -> Option<(Epoch, NodeId)> {
        let states = self.hosts.values().filter_map(|host| host.process.as_ref());
        let tenures = states.filter_map(|process| process.agent.state.tenure());
        tenures.map(|tenure| (tenure.epoch, tenure.holder)).max()
    }
}

/// The number of one file of one member.
pub(crate) fn installation(number: u64) -> quorum::Incarnation {
    quorum::Incarnation::new(number).expect("none is zero")
}

fn first_switch() -> Switch {
    Switch { timeline: Timeline(1), at: Lsn(0), epoch: Epoch(0) }
}

/// Bytes that several copies of a message share.
pub(crate) fn shared(bytes: Vec<u8>) -> Arc<Vec<u8>> {
    Arc::new(bytes)
}
