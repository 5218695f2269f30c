//! A cluster in one process: real engines and stores, simulated disks, network and ticks. One seed
//! gives one run. The invariants are in `checks.rs`; what is done to the cluster is its user's.

use std::collections::{BTreeMap, BTreeSet};

use protobuf::Message as _;
use raft::eraftpb::{Message, MessageType};

use super::checks::{Checks, Machine};
use crate::envelope::Envelope;
use crate::membership::Membership;
use crate::sim::{Rng, SimDisk};
use crate::{
    Action, ClusterId, Event, Expected, Fate, Founding, Identity, Incarnation, MessageError,
    NodeId, OpenError, ProposalId, Quorum, Store, StoreError,
};

/// Within so many ticks after the last fault the cluster must have committed something new.
pub(super) const HEAL_TICKS_MAX: u64 = 150;

/// What the network and the disks do wrong, in percent of all messages or ticks.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Faults {
    pub(super) loss: u64,
    pub(super) duplication: u64,
    /// Ticks; zero delivers within the tick, in order.
    pub(super) delay_max: u64,
    pub(super) partition: u64,
    pub(super) crash: u64,
    pub(super) propose: u64,
}

pub(super) struct Node {
    pub(super) disk: SimDisk,
    pub(super) identity: Identity,
    /// The number of its last life: each is above all before it, whatever power took.
    pub(super) life: u64,
    /// `None` while the process is down.
    pub(super) quorum: Option<Quorum>,
    pub(super) machine: Machine,
    pub(super) refused: Vec<MessageError>,
    pub(super) dropped: Vec<(ProposalId, Fate)>,
    pub(super) halted: Option<StoreError>,
    restart_at: u64,
    snapshot_wanted: bool,
}

struct Wire {
    from: NodeId,
    to: NodeId,
    bytes: Vec<u8>,
}

pub(super) struct Cluster {
    pub(super) nodes: BTreeMap<NodeId, Node>,
    pub(super) faults: Faults,
    pub(super) rng: Rng,
    pub(super) ticks: u64,
    pub(super) checks: Checks,
    /// Nodes that hear only each other, apart from all that are not in here.
    pub(super) apart: BTreeSet<NodeId>,
    /// All that went over the network, for tests of the wire format.
    pub(super) sent: Option<Vec<Vec<u8>>>,
    /// So many snapshots get lost on the way.
    pub(super) snapshots_to_lose: u32,
    wires: BTreeMap<(u64, u64), Wire>,
    wires_count: u64,
    proposals: u64,
    election_seed: u64,
}

pub(super) fn node(number: u64) -> NodeId {
    NodeId::new(number).unwrap()
}

pub(super) fn incarnation(number: u64) -> Incarnation {
    Incarnation::new(number).unwrap()
}

impl Cluster {
    /// `count` voters that have just been founded and started.
    pub(super) fn new(count: u64, seed: u64, election_seed: u64) -> Self {
        let voters: Vec<_> = (1..=count).map(|n| (node(n), incarnation(100 + n))).collect();
        let founding = Founding::Cluster(Membership::of_voters(&voters).unwrap());
        let mut cluster = Self {
            nodes: BTreeMap::new(),
            faults: Faults::default(),
            rng: Rng::new(seed),
            ticks: 0,
            checks: Checks::default(),
            apart: BTreeSet::new(),
            sent: None,
            snapshots_to_lose: 0,
            wires: BTreeMap::new(),
            wires_count: 0,
            proposals: 0,
            election_seed,
        };
        for (id, incarnation) in voters {
            cluster.add(id, incarnation, &founding);
        }
        cluster
    }

    /// Starts a node on a new disk.
    pub(super) fn add(&mut self, id: NodeId, incarnation: Incarnation, founding: &Founding) {
        let identity = Identity { cluster: ClusterId(77), node: id, incarnation };
        let disk = SimDisk::default();
        Store::create_on(disk.open(), identity, founding).unwrap();
        let node = Node {
            disk,
            identity,
            life: 0,
            quorum: None,
            machine: Machine::default(),
            refused: Vec::new(),
            dropped: Vec::new(),
            halted: None,
            restart_at: 0,
            snapshot_wanted: false,
        };
        self.nodes.insert(id, node);
        self.start(id);
    }

    pub(super) fn start(&mut self, id: NodeId) {
        let seed = self.election_seed;
        let node = self.nodes.get_mut(&id).unwrap();
        let store = Store::open_on(node.disk.open(), Expected::default());
        let opened = store.map_err(OpenError::from).and_then(|store| {
            assert_eq!(store.identity(), node.identity);
            Quorum::open(store, seed)
        });
        let quorum = match opened {
            Ok(quorum) => quorum,
            Err(error) => {
                assert!(node.disk.is_off(), "{id} does not open: {error}");
                return self.crash(id);
            }
        };
        assert!(quorum.life() > node.life, "{id} has lived this life before");
        node.life = quorum.life();
        let known = std::mem::take(&mut node.machine).index;
        node.quorum = Some(quorum);
        self.drain(id);
        let node = &self.nodes[&id];
        assert!(
            node.machine.index >= known || node.quorum.is_none(),
            "{id} has unlearnt entries {} to {known}",
            node.machine.index
        );
    }

    /// The process dies and the machine loses power.
    pub(super) fn crash(&mut self, id: NodeId) {
        let seed = self.rng.draw();
        let down = 1 + self.rng.below(40);
        let node = self.nodes.get_mut(&id).unwrap();
        node.quorum = None;
        node.halted = None;
        node.snapshot_wanted = false;
        node.restart_at = self.ticks + down;
        node.disk.crash(seed);
    }

    /// One tick everywhere, with the faults that are on.
    pub(super) fn tick(&mut self) {
        self.ticks += 1;
        let ids: Vec<_> = self.nodes.keys().copied().collect();
        self.disturb(&ids);
        for id in &ids {
            let node = &self.nodes[id];
            if node.quorum.is_none() && node.restart_at <= self.ticks {
                self.start(*id);
            }
        }
        self.deliver();
        for id in &ids {
            if self.nodes[id].halted.is_none() {
                self.with(*id, |quorum| quorum.handle_tick().unwrap());
            }
            self.deliver();
        }
    }

    /// Ticks until the condition holds; how many it took, or `None` if it never did.
    pub(super) fn tick_until(
        &mut self,
        ticks_max: u64,
        mut condition: impl FnMut(&mut Self) -> bool,
    ) -> Option<u64> {
        for ticks in 0..ticks_max {
            if condition(self) {
                return Some(ticks);
            }
            self.tick();
        }
        None
    }

    /// Gives an input to a node that is up, and carries out what comes of it.
    pub(super) fn with<T>(
        &mut self,
        id: NodeId,
        input: impl FnOnce(&mut Quorum) -> T,
    ) -> Option<T> {
        let output = self.nodes.get_mut(&id)?.quorum.as_mut().map(input)?;
        self.drain(id);
        Some(output)
    }

    /// The node that coordinates in the highest term, if it is up.
    pub(super) fn coordinator(&self) -> Option<NodeId> {
        let up = self.nodes.iter().filter_map(|(id, node)| Some((id, node.quorum.as_ref()?)));
        let own = up.filter(|(id, quorum)| quorum.coordinator() == Some(**id));
        own.max_by_key(|(_, quorum)| quorum.status().term).map(|(id, _)| *id)
    }

    /// Proposes something new at the coordinator; its number if it was taken.
    pub(super) fn propose(&mut self) -> Option<ProposalId> {
        let coordinator = self.coordinator()?;
        self.proposals += 1;
        let id = ProposalId(self.proposals);
        let length = usize::try_from(self.rng.below(200)).unwrap();
        let data = vec![u8::try_from(self.proposals % 251).unwrap(); length];
        self.with(coordinator, |quorum| quorum.propose(id, data))?.ok()?;
        Some(id)
    }

    /// Lifts all faults and demands that something new is committed everywhere soon.
    pub(super) fn heal(&mut self, voters: &[NodeId]) {
        self.faults = Faults::default();
        self.apart.clear();
        for node in self.nodes.values_mut() {
            node.restart_at = 0;
        }
        let mut last = None;
        let healed = self.tick_until(HEAL_TICKS_MAX, |cluster| {
            let done = |id: ProposalId| {
                voters.iter().all(|voter| cluster.nodes[voter].machine.last == Some(id))
            };
            if last.is_some_and(done) {
                return true;
            }
            if cluster.ticks.is_multiple_of(10) {
                last = cluster.propose().or(last);
            }
            false
        });
        assert!(healed.is_some(), "nothing new was committed within {HEAL_TICKS_MAX} ticks");
        let ends: BTreeSet<_> =
            voters.iter().map(|voter| self.nodes[voter].machine.chain).collect();
        assert_eq!(ends.len(), 1, "the voters' states differ");
    }

    fn disturb(&mut self, ids: &[NodeId]) {
        let faults = self.faults;
        if self.rng.chance(faults.partition) {
            let side = self.rng.draw();
            self.apart = ids.iter().copied().filter(|id| side >> id.get() & 1 == 1).collect();
        }
        if self.rng.chance(faults.crash) {
            let id = ids[usize::try_from(self.rng.below(ids.len() as u64)).unwrap()];
            if self.rng.chance(50) {
                self.crash(id);
            } else {
                // Later, in the middle of a write.
                let disk = &self.nodes[&id].disk;
                disk.cut_power_at(disk.operations() + 1 + self.rng.below(30));
            }
        }
        if self.rng.chance(faults.propose) {
            self.propose();
        }
    }

    fn deliver(&mut self) {
        while let Some(entry) = self.wires.first_entry().filter(|wire| wire.key().0 <= self.ticks) {
            let Wire { from, to, bytes } = entry.remove();
            if self.apart.contains(&from) != self.apart.contains(&to) {
                continue;
            }
            let taken = self.with(to, |quorum| quorum.handle_message(from, &bytes));
            if let Some(Err(error)) = taken {
                self.nodes.get_mut(&to).unwrap().refused.push(error);
            }
        }
    }

    fn drain(&mut self, id: NodeId) {
        while let Some(action) =
            self.nodes.get_mut(&id).unwrap().quorum.as_mut().and_then(Quorum::next_action)
        {
            self.checks.trace(id, &action);
            match action {
                Action::Send { to, bytes } => self.send(id, to, &bytes),
                Action::Event(event) => self.observe(id, event),
            }
        }
        let node = self.nodes.get_mut(&id).unwrap();
        let Some(quorum) = &mut node.quorum else { return };
        if std::mem::take(&mut node.snapshot_wanted) {
            let index = quorum.status().applied_index;
            // A power cut in here shows as a halted engine at the next input.
            let taken = quorum.handle_snapshot(index, &node.machine.state());
            if taken.is_err() && node.disk.is_off() {
                self.crash(id);
            }
        }
    }

    fn observe(&mut self, id: NodeId, event: Event) {
        let node = self.nodes.get_mut(&id).unwrap();
        match event {
            Event::Restore { index, state } => {
                node.machine = Machine::of(index, &state);
                self.checks.restored(id, index, &node.machine);
            }
            Event::Apply { index, term, proposal, data } => {
                node.machine.apply(index, term, proposal, &data);
                self.checks.applied(id, index, &node.machine);
            }
            Event::CoordinatorChanged { coordinator: Some(coordinator), term } => {
                self.checks.coordinates(coordinator, term);
            }
            Event::CoordinatorChanged { .. } | Event::MembershipApplied { .. } => {}
            Event::ProposalDropped { proposal, fate } => node.dropped.push((proposal, fate)),
            Event::SnapshotWanted => node.snapshot_wanted = true,
            Event::Halted(error) => {
                if node.disk.is_off() {
                    self.crash(id);
                } else {
                    node.halted = Some(error);
                }
            }
        }
    }

    fn send(&mut self, from: NodeId, to: NodeId, bytes: &[u8]) {
        if let Some(sent) = &mut self.sent {
            sent.push(bytes.to_vec());
        }
        if self.snapshots_to_lose > 0 && is_snapshot(bytes) {
            self.snapshots_to_lose -= 1;
            return;
        }
        let copies = if self.rng.chance(self.faults.duplication) { 2 } else { 1 };
        for _ in 0..copies {
            if self.rng.chance(self.faults.loss) {
                continue;
            }
            let delay = self.rng.below(self.faults.delay_max + 1);
            self.wires_count += 1;
            let key = (self.ticks + delay, self.wires_count);
            self.wires.insert(key, Wire { from, to, bytes: bytes.to_vec() });
        }
    }
}

fn is_snapshot(bytes: &[u8]) -> bool {
    let payload = Envelope::decode(bytes).unwrap().payload;
    let message = Message::parse_from_bytes(payload).unwrap();
    message.get_msg_type() == MessageType::MsgSnapshot
}
