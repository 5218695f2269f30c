//! A host: its clock, its disks, the gate in its kernel, and what runs on it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use pgx_control::agent::{Agent, Record, Step};
use pgx_control::cluster::State;
use pgx_control::ids::{BootTime, Epoch, Incarnation, NodeId, VipId};
use pgx_control::lease::{Kind, Refusals, Right, Station, Wants};
use pgx_controller::Controller;
use pgx_quorum::sim::SimDisk;

use crate::event::{Input, Thread, Time};
use crate::postgres::{Directory, Run};
use crate::proxy::Proxy;

/// A boot-time clock: it starts anew with the host, and runs too fast or too slow.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    pub(crate) booted: Time,
    pub(crate) offset: u64,
    pub(crate) rate_per_mille: u64,
}

impl Clock {
    pub(crate) fn read(&self, at: Time) -> BootTime {
        BootTime(self.offset + (at - self.booted) * self.rate_per_mille / 1_000)
    }

    /// When this clock will show that time.
    pub(crate) fn when(&self, shown: BootTime) -> Time {
        let passed = shown.0.saturating_sub(self.offset);
        let passed = u128::from(passed) * 1_000 / u128::from(self.rate_per_mille) + 1;
        self.booted.saturating_add(u64::try_from(passed).unwrap_or(u64::MAX))
    }
}

/// Whom the gate lets in, apart from what the clock says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Mode {
    #[default]
    Shut,
    Peers(Epoch),
    Open(Epoch),
}

/// The gate in the kernel. Pinned: it survives the process, and not the host.
#[derive(Clone, Debug, Default)]
pub(crate) struct Gate {
    pub(crate) mode: Mode,
    pub(crate) closed: Option<Epoch>,
    until: BTreeMap<Epoch, BootTime>,
    member_until: Option<BootTime>,
    /// Until when it answers for each address.
    vips: BTreeMap<VipId, BootTime>,
}

impl Gate {
    pub(crate) fn hold(&mut self, right: Right, until: BootTime) {
        match right.kind {
            Kind::Primary => {
                let known = self.until.entry(Epoch(right.number)).or_insert(until);
                *known = (*known).max(until);
            }
            Kind::Member(_) => self.member_until = self.member_until.max(Some(until)),
            Kind::Vip(vip) => {
                let known = self.vips.entry(vip).or_insert(until);
                *known = (*known).max(until);
            }
            // The proxy itself looks at this one.
            Kind::Route(_) => {}
        }
    }

    pub(crate) fn close(&mut self, epoch: Epoch) {
        self.closed = self.closed.max(Some(epoch));
    }

    /// The newest primary lease.
    pub(crate) fn held(&self) -> Option<(Epoch, BootTime)> {
        self.until.last_key_value().map(|(epoch, until)| (*epoch, *until))
    }

    fn is_held(&self, epoch: Epoch, now: BootTime) -> bool {
        let is_in_time = self.until.get(&epoch).is_some_and(|until| now < *until);
        is_in_time && self.closed < Some(epoch)
    }

    /// Whether it answers who asks for an address.
    pub(crate) fn answers_for(&self, vip: VipId, now: BootTime) -> bool {
        self.vips.get(&vip).is_some_and(|until| now < *until)
    }

    /// The epoch that it is open to everybody in, whether or not the lease is over.
    pub(crate) fn open_in(&self) -> Option<Epoch> {
        match self.mode {
            Mode::Open(epoch) => Some(epoch),
            Mode::Shut | Mode::Peers(_) => None,
        }
    }

    /// Whether packets of replication pass.
    pub(crate) fn passes_peers(&self, now: BootTime) -> bool {
        match self.mode {
            Mode::Shut => false,
            Mode::Peers(epoch) | Mode::Open(epoch) => self.is_held(epoch, now),
        }
    }

    /// Whether packets of clients pass to a server that is in recovery, or is not.
    pub(crate) fn passes_clients(&self, in_recovery: bool, now: BootTime) -> bool {
        let is_member = self.member_until.is_some_and(|until| now < until);
        match self.mode {
            Mode::Open(epoch) if self.is_held(epoch, now) => true,
            _ => in_recovery && is_member,
        }
    }
}

/// A small file that is replaced whole.
#[derive(Clone, Debug)]
pub(crate) struct File<T> {
    pub(crate) content: T,
    /// Written and not synced.
    pub(crate) pending: Option<T>,
}

impl<T> File<T> {
    pub(crate) fn new(content: T) -> Self {
        Self { content, pending: None }
    }

    pub(crate) fn sync(&mut self, content: T) {
        self.content = content;
        self.pending = None;
    }

    /// Power fails: what was on its way has arrived or not.
    pub(crate) fn lose_power(&mut self, arrived: bool) {
        if let Some(pending) = self.pending.take()
            && arrived
        {
            self.content = pending;
        }
    }
}

/// The agent's thread.
pub(crate) struct AgentThread {
    pub(crate) agent: Agent,
    pub(crate) state: Arc<State>,
    pub(crate) steps: VecDeque<Step>,
    pub(crate) is_busy: bool,
    pub(crate) wants: Option<Wants>,
    pub(crate) closed_told: Option<Epoch>,
    /// PostgreSQL ended unasked in this life.
    pub(crate) has_exited: bool,
    pub(crate) answered: BootTime,
}

/// A pgx process.
pub(crate) struct Process {
    pub(crate) life: u64,
    /// `None` while the engine's file has failed.
    pub(crate) controller: Option<Controller>,
    pub(crate) station: Station,
    pub(crate) wake: Option<Time>,
    pub(crate) agent: AgentThread,
    pub(crate) proxy: Proxy,
    /// Until when each thread does not run.
    pub(crate) paused: BTreeMap<Thread, Time>,
    /// What waits for a thread that does not run.
    pub(crate) inboxes: BTreeMap<Thread, VecDeque<Input>>,
    /// When the last word to each thread arrives.
    pub(crate) said: BTreeMap<Thread, Time>,
}

/// A host that makes up one node.
pub(crate) struct Host {
    pub(crate) id: NodeId,
    pub(crate) installation: u64,
    pub(crate) clock: Clock,
    pub(crate) boot: u64,
    pub(crate) has_power: bool,
    pub(crate) disk: SimDisk,
    pub(crate) is_full: bool,
    pub(crate) refusals: File<Refusals>,
    pub(crate) record: File<Record>,
    pub(crate) gate: Gate,
    pub(crate) directory: Directory,
    pub(crate) postgres: Option<Run>,
    pub(crate) rebuild: Option<(NodeId, u64)>,
    /// The directory that was put aside while a copy is tried.
    pub(crate) kept: Option<Directory>,
    /// Directories that are kept for good.
    pub(crate) retained: Vec<Directory>,
    pub(crate) process: Option<Process>,
    /// It has left for good.
    pub(crate) is_gone: bool,
}

impl Host {
    pub(crate) fn can_write(&self, now: Time) -> bool {
        let accepts = self.postgres.as_ref().is_some_and(Run::accepts_writes);
        self.has_power && accepts && self.gate.passes_clients(false, self.clock.read(now))
    }

    pub(crate) fn passes_peers(&self, now: Time) -> bool {
        self.has_power && self.gate.passes_peers(self.clock.read(now))
    }

    pub(crate) fn installation(&self) -> Incarnation {
        Incarnation(u128::from(self.installation))
    }

    /// Who streams to its PostgreSQL now.
    pub(crate) fn streamed_to(&self) -> BTreeSet<Incarnation> {
        let links = self.postgres.iter().flat_map(|run| run.senders.values());
        links.map(|sender| sender.directory).collect()
    }
}
