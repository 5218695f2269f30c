//! PostgreSQL as far as failover can see it: a log of records, timelines, walsenders, and the
//! rule of synchronous replication that each of them runs. It must not know epochs: a server
//! follows whom its configuration names, and takes a timeline of the same number for the same.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use pgx_control::cluster::sync::Rule;
use pgx_control::ids::{Incarnation, NodeId};

use crate::event::Time;

/// A timeline's number and where it begins.
pub(crate) type Branch = (u32, usize);

/// What lies on disk.
#[derive(Clone, Debug)]
pub(crate) struct Directory {
    pub(crate) incarnation: Incarnation,
    /// Records by their unique numbers; a position is how many come before it.
    pub(crate) wal: Vec<u64>,
    /// How much of it survives a loss of power.
    pub(crate) flushed: usize,
    pub(crate) branches: Vec<Branch>,
    pub(crate) upstream: Option<NodeId>,
    /// The end of the shutdown checkpoint, if that is the last thing that happened.
    pub(crate) shut_down: Option<usize>,
    /// Whether the control file says "in production", or "shut down" after that.
    pub(crate) was_primary: bool,
    /// Whether a base backup into it has not ended.
    pub(crate) is_half: bool,
}

impl Directory {
    pub(crate) fn new(incarnation: Incarnation) -> Self {
        Self {
            incarnation,
            wal: Vec::new(),
            flushed: 0,
            branches: vec![(1, 0)],
            upstream: None,
            shut_down: None,
            was_primary: false,
            is_half: false,
        }
    }

    /// Power fails: `kept` of what was not flushed has arrived.
    pub(crate) fn lose_power(&mut self, kept: usize) {
        self.wal.truncate(self.flushed + kept);
        let end = self.wal.len();
        self.branches.retain(|(number, at)| *number == 1 || *at < end);
        self.flushed = end;
    }

    pub(crate) fn branch(&self) -> Branch {
        self.branches.last().copied().unwrap_or((1, 0))
    }

    /// The timelines up to a position.
    pub(crate) fn branches_to(&self, end: usize) -> Vec<Branch> {
        self.branches.iter().copied().filter(|(number, at)| *number == 1 || *at < end).collect()
    }

    /// Whether PostgreSQL would send to a standby that has these timelines and this end.
    pub(crate) fn can_feed(&self, theirs: &[Branch], end: usize) -> bool {
        let common = self.branches.iter().zip(theirs).take_while(|(a, b)| a == b).count();
        let is_ancestor = common == theirs.len();
        let left = self.branches.get(common).map_or(self.flushed, |(_, at)| *at);
        is_ancestor && end <= left
    }
}

/// What a postmaster was started for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Standby,
    Primary,
}

/// A walsender with its standby.
#[derive(Clone, Debug)]
pub(crate) struct Sender {
    pub(crate) to: NodeId,
    pub(crate) directory: Incarnation,
    /// What the standby says that it has flushed.
    pub(crate) flushed: usize,
    pub(crate) sent: usize,
    pub(crate) rule: Rule,
    pub(crate) heard: Time,
    /// The next packet arrives after this one: it is one connection.
    pub(crate) arrives: Time,
}

/// A walreceiver.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Receiver {
    pub(crate) link: u64,
    pub(crate) from: NodeId,
    pub(crate) is_up: bool,
    pub(crate) heard: Time,
    pub(crate) arrives: Time,
}

/// A commit that is not acknowledged yet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Waiter {
    pub(crate) end: usize,
    pub(crate) client: usize,
    pub(crate) op: u64,
}

/// A postmaster and its children.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    pub(crate) id: u64,
    pub(crate) mode: Mode,
    /// It has read its control file and replays, or more.
    pub(crate) is_up: bool,
    pub(crate) is_ending: bool,
    pub(crate) replayed: usize,
    /// Where it was when it started: all before that is replayed on the way.
    pub(crate) recovery_end: Option<usize>,
    pub(crate) receiver: Option<Receiver>,
    pub(crate) senders: BTreeMap<u64, Sender>,
    /// The configuration, what new backends and walsenders run, and since where all run it.
    pub(crate) configured: Rule,
    pub(crate) rule: Rule,
    pub(crate) rule_since: Option<usize>,
    /// Up to where walsenders have let commits go.
    pub(crate) released: usize,
    pub(crate) waiters: Vec<Waiter>,
    pub(crate) hung_until: Time,
}

impl Run {
    pub(crate) fn new(id: u64) -> Self {
        Self {
            id,
            mode: Mode::Standby,
            is_up: false,
            is_ending: false,
            replayed: 0,
            recovery_end: None,
            receiver: None,
            senders: BTreeMap::new(),
            configured: Rule::degraded(),
            rule: Rule::degraded(),
            rule_since: None,
            released: 0,
            waiters: Vec::new(),
            hung_until: 0,
        }
    }

    /// A database that was there before the cluster.
    pub(crate) fn start_as_primary(&mut self, end: usize) {
        self.mode = Mode::Primary;
        self.is_up = true;
        self.replayed = end;
        self.recovery_end = Some(end);
    }

    pub(crate) fn accepts_writes(&self) -> bool {
        self.mode == Mode::Primary && self.recovery_end.is_some() && !self.is_ending
    }

    /// The rule that every process of the server runs, if they agree.
    pub(crate) fn runs_rule(&self) -> Option<&Rule> {
        let agrees = self.senders.values().all(|sender| sender.rule == self.rule);
        (agrees && self.mode == Mode::Primary).then_some(&self.rule)
    }

    /// How far enough members of a rule have flushed.
    pub(crate) fn flushed_by(&self, rule: &Rule) -> usize {
        let mut best: BTreeMap<Incarnation, usize> = BTreeMap::new();
        for sender in self.senders.values() {
            if rule.members.contains(&sender.directory) {
                let known = best.entry(sender.directory).or_default();
                *known = (*known).max(sender.flushed);
            }
        }
        let mut ends: Vec<_> = best.into_values().collect();
        ends.sort_unstable_by(|a, b| b.cmp(a));
        rule.k.checked_sub(1).and_then(|at| ends.get(at).copied()).unwrap_or(0)
    }

    /// A standby has answered this walsender, which lets go what its own rule allows.
    pub(crate) fn release(&mut self, link: u64) {
        let Some(sender) = self.senders.get(&link) else { return };
        let rule = sender.rule.clone();
        self.released = self.released.max(self.flushed_by(&rule));
    }

    /// The commits that may be acknowledged by now.
    pub(crate) fn take_released(&mut self, flushed: usize) -> Vec<Waiter> {
        let end = if self.rule.is_degraded() { flushed } else { self.released.min(flushed) };
        let (done, waiting) = self.waiters.iter().partition(|waiter| waiter.end <= end);
        self.waiters = waiting;
        done
    }

    /// Notes since where the configured rule is run everywhere.
    pub(crate) fn note_rule(&mut self, flushed: usize) {
        let is_everywhere = self.runs_rule() == Some(&self.configured);
        if !is_everywhere {
            self.rule_since = None;
        } else if self.rule_since.is_none() {
            self.rule_since = Some(flushed);
        }
    }
}

/// What a server does later.
#[derive(Clone, Debug)]
pub(crate) enum Work {
    /// It is up.
    Up,
    /// Looks after its connections.
    Beat,
    Replay {
        end: usize,
    },
    Flush {
        end: usize,
    },
    /// Recovery ends, and a timeline begins.
    Promoted,
    /// The configuration reaches the backends, or a walsender.
    Reload {
        link: Option<u64>,
    },
    /// A clean end has had its time.
    EndAnyway,
}

/// What goes over a connection of replication.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    pub(crate) link: u64,
    pub(crate) what: Talk,
}

/// The replication protocol.
#[derive(Clone, Debug)]
pub(crate) enum Talk {
    Connect { directory: Incarnation, end: usize, branches: Arc<Vec<Branch>> },
    Accepted,
    Records { start: usize, records: Arc<Vec<u64>>, branches: Arc<Vec<Branch>> },
    Alive,
    Flushed { end: usize },
    Bye,
}

/// The members of a rule, for a trace.
pub(crate) fn show(rule: &Rule) -> String {
    let members: BTreeSet<_> = rule.members.iter().map(|member| member.0).collect();
    format!("any {} of {members:?}", rule.k)
}
