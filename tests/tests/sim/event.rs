//! Everything that can happen in the world, as plain data in one queue.
//!
//! Time is true time in nanoseconds, which no node can read; see `host.rs` for what nodes read.

use std::collections::BTreeMap;
use std::sync::Arc;

use pgx_control::agent::Step;
use pgx_control::cluster::State;
use pgx_control::facts::{AgentFacts, Facts, ProxyFacts, VoterFacts};
use pgx_control::ids::{BootTime, Epoch, NodeId};
use pgx_control::lease::{Message, Refusals, Right, Wants};
use pgx_controller::Request;

use crate::postgres::{Link, Work};

/// Nanoseconds of true time since the world began.
pub(crate) type Time = u64;

pub(crate) const MICRO: Time = 1_000;
pub(crate) const MILLI: Time = 1_000_000;
pub(crate) const SECOND: Time = 1_000_000_000;

/// The threads of a pgx process; each can be late on its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Thread {
    Control,
    Lease,
    Agent,
    Proxy,
}

/// What a thread finds in its inbox.
#[derive(Clone, Debug)]
pub(crate) enum Input {
    /// It runs again.
    Resume,
    /// The engine's tick.
    Tick,
    Raft {
        from: NodeId,
        bytes: Arc<Vec<u8>>,
    },
    Facts {
        from: NodeId,
        facts: Box<Facts>,
    },
    /// The lease thread wants these on disk.
    Write(Refusals),
    /// They are.
    Synced(Refusals),
    VoterFacts(VoterFacts),
    AgentFacts(Option<Box<AgentFacts>>),
    ProxyFacts(ProxyFacts),
    Request(u64, Box<Request>),
    /// The engine's file failed a while ago.
    Reopen,
    State(Arc<State>),
    Wake,
    Lease {
        from: NodeId,
        message: Box<Message>,
    },
    Persisted(Refusals),
    Closed(Right),
    Wants(Wants),
    /// The proxy goes by this epoch.
    Proxy(Option<Epoch>),
    /// The way from the decision to hold to the kernel's table.
    Hold {
        right: Right,
        until: BootTime,
    },
    /// The agent's round.
    Look,
    /// The same, out of turn.
    LookAgain,
    /// The next step has had its time.
    Do(Box<Step>),
    /// A base backup has been received.
    Rebuilt(u64),
}

/// What goes over the network.
#[derive(Clone, Debug)]
pub(crate) enum Packet {
    Raft(Arc<Vec<u8>>),
    Facts(Box<Facts>),
    Lease(Box<Message>),
    /// Between two servers of PostgreSQL.
    Wal(Link),
    /// A client's write, and the answer to it.
    Write {
        client: usize,
        op: u64,
    },
    Written {
        client: usize,
        op: u64,
        is_done: bool,
    },
}

/// What comes next.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    Thread {
        node: NodeId,
        life: u64,
        thread: Thread,
        input: Input,
    },
    Packet {
        from: NodeId,
        to: NodeId,
        packet: Packet,
    },
    Postgres {
        node: NodeId,
        run: u64,
        work: Work,
    },
    /// A process starts on a host that has power.
    Start {
        node: NodeId,
        boot: u64,
    },
    /// Power comes back.
    PowerOn(NodeId),
    DiskFree(NodeId),
    /// A client goes on: after a pause, or since it has waited too long for this operation.
    Client {
        client: usize,
        op: u64,
    },
    /// The next fault.
    Fault,
    /// One that somebody has provoked.
    Provoked,
    Operator,
    /// All faults end for good.
    Heal,
}

/// What is to come, in order; at the same time what was said first comes first.
#[derive(Default)]
pub(crate) struct Queue {
    events: BTreeMap<(Time, u64), Event>,
    count: u64,
}

impl Queue {
    pub(crate) fn push(&mut self, at: Time, event: Event) {
        self.count += 1;
        self.events.insert((at, self.count), event);
    }

    pub(crate) fn pop(&mut self) -> Option<(Time, Event)> {
        self.events.pop_first().map(|((at, _), event)| (at, event))
    }
}
