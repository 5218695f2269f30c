//! The thread of the controller: ticks, messages, and the files that it alone writes.

use std::sync::Arc;

use pgx_control::cluster::Entry;
use pgx_control::ids::NodeId;
use pgx_control::lease::Refusals;
use pgx_controller::{Controller, Note, Output};
use pgx_quorum::{Expected, Quorum, Store};

use crate::event::{Event, Input, MILLI, Packet, Thread};
use crate::host::Host;
use crate::world::{World, shared};

/// Between two ticks of the engine, by the node's own clock.
const TICK_MS: u64 = 25;

impl World {
    pub(crate) fn control(&mut self, node: NodeId, input: Input) {
        match input {
            Input::Write(refusals) => return self.write_refusals(node, refusals),
            Input::Synced(refusals) => return self.refusals_synced(node, refusals),
            Input::Reopen => return self.reopen(node),
            _ => {}
        }
        let now = self.now;
        let Some(host) = self.hosts.get_mut(&node) else { return };
        let shown = host.clock.read(now);
        let is_tick = matches!(input, Input::Tick);
        if is_tick {
            let due = host.clock.when(shown.after_ms(TICK_MS));
            self.tell(node, Thread::Control, due - now, Input::Tick);
        }
        let Some(controller) = self.controller(node) else { return };
        match input {
            Input::Tick => {
                // The simulator's hosts were switched on in 1970.
                controller.handle_clock(shown.0 / 1_000_000);
                controller.handle_tick(shown);
            }
            // What is refused is refused for a reason that the engine's own tests look into.
            Input::Raft { from, bytes } => drop(controller.handle_raft(from, &bytes, shown)),
            Input::Facts { from, facts } => controller.handle_facts(from, *facts, shown),
            Input::VoterFacts(facts) => controller.handle_voter_facts(facts),
            Input::ProxyFacts(facts) => controller.handle_proxy_facts(Some(facts)),
            Input::AgentFacts(facts) => controller.handle_agent_facts(facts.map(|facts| *facts)),
            Input::Request(number, request) => controller.handle_request(number, &request, shown),
            other => unreachable!("not for this thread: {other:?}"),
        }
        self.drain_controller(node);
        if self.hosts.get(&node).is_some_and(|host| host.disk.is_off()) {
            // The cut fell into one of these writes.
            self.power_off(node);
        }
    }

    fn controller(&mut self, node: NodeId) -> Option<&mut Controller> {
        self.hosts.get_mut(&node)?.process.as_mut()?.controller.as_mut()
    }

    pub(crate) fn drain_controller(&mut self, node: NodeId) {
        while let Some(output) = self.controller(node).and_then(Controller::next_output) {
            match output {
                Output::Raft { to, bytes } => self.send(node, to, Packet::Raft(shared(bytes))),
                Output::Facts { to: NodeId(0), facts } => {
                    let all: Vec<_> = self.hosts.keys().copied().collect();
                    for to in all.into_iter().filter(|to| *to != node) {
                        self.send(node, to, Packet::Facts(facts.clone()));
                    }
                }
                Output::Facts { to, facts } => self.send(node, to, Packet::Facts(facts)),
                Output::State(state) => {
                    self.note_state(node, &state);
                    self.say(node, Thread::Lease, Input::State(Arc::clone(&state)));
                    self.say(node, Thread::Proxy, Input::State(Arc::clone(&state)));
                    self.say(node, Thread::Agent, Input::State(state));
                }
                Output::Answer { request, answer } => self.handle_outcome(request, &answer),
                Output::Note(note) => self.note_note(node, &note),
                Output::Halted(error) => {
                    self.note(&format!("node {node}: the engine's file failed: {error}"));
                    if let Some(host) = self.hosts.get_mut(&node)
                        && let Some(process) = &mut host.process
                    {
                        process.controller = None;
                    }
                    self.tell(node, Thread::Control, 200 * MILLI, Input::Reopen);
                }
            }
        }
    }

    fn note_note(&mut self, node: NodeId, note: &Note) {
        match note {
            Note::Coordinator { node: Some(who), term } if *who == node => {
                self.counters.coordinators += 1;
                self.note(&format!("node {node} coordinates in term {term}"));
            }
            Note::Applied { index, entry } => self.note_applied(node, *index, entry, true),
            Note::Void { index, entry, void } => {
                if self.note_applied_once(*index) {
                    self.note(&format!("void: {} ({void})", show(entry)));
                }
                self.note_applied(node, *index, entry, false);
            }
            Note::Waits(Some(reason)) => {
                self.note(&format!("coordinator {node} waits: {reason:?}"));
            }
            Note::Unreadable { index, reason } => {
                self.fail("panic", format!("node {node} cannot read {index}: {reason}"));
            }
            Note::Coordinator { .. } | Note::Waits(None) => {}
        }
    }

    fn write_refusals(&mut self, node: NodeId, refusals: Refusals) {
        let delay = MILLI + self.rng.below(8 * MILLI);
        let Some(host) = self.hosts.get_mut(&node) else { return };
        if host.is_full {
            self.tell(node, Thread::Control, 100 * MILLI, Input::Write(refusals));
        } else {
            host.refusals.pending = Some(refusals.clone());
            self.tell(node, Thread::Control, delay, Input::Synced(refusals));
        }
    }

    fn refusals_synced(&mut self, node: NodeId, refusals: Refusals) {
        if let Some(host) = self.hosts.get_mut(&node) {
            host.refusals.sync(refusals.clone());
        }
        self.check_refusals_of(node);
        self.say(node, Thread::Lease, Input::Persisted(refusals));
    }

    fn reopen(&mut self, node: NodeId) {
        let life = self.unique();
        let now = self.now;
        let Some(host) = self.hosts.get_mut(&node) else { return };
        let opened = if host.is_full { None } else { open(host, life, now) };
        if host.disk.is_off() {
            self.power_off(node);
            return;
        }
        let Some(process) = &mut host.process else { return };
        process.controller = opened;
        if process.controller.is_none() {
            self.tell(node, Thread::Control, 200 * MILLI, Input::Reopen);
            return;
        }
        self.note(&format!("node {node}: the engine's file is open again"));
        self.tell_all_again(node);
        self.drain_controller(node);
    }

    /// What the parts of the node said last: a controller that begins anew must not speak before.
    fn tell_all_again(&mut self, node: NodeId) {
        let Some(process) = self.hosts.get_mut(&node).and_then(|host| host.process.as_mut()) else {
            return;
        };
        let Some(controller) = &mut process.controller else { return };
        controller.handle_voter_facts(process.station.facts().clone());
        controller.handle_agent_facts(process.agent.agent.facts().cloned());
        controller.handle_proxy_facts(Some(process.proxy.facts(node)));
    }

    /// Power fails in the middle of what the engine writes next.
    pub(crate) fn cut_power_soon(&mut self, node: NodeId) {
        let after = 1 + self.rng.below(20);
        if let Some(host) = self.hosts.get_mut(&node)
            && host.process.as_ref().is_some_and(|process| process.controller.is_some())
        {
            host.disk.cut_power_at(host.disk.operations() + after);
        }
    }

    pub(crate) fn push_tick(&mut self, node: NodeId, life: u64) {
        let first = self.rng.below(TICK_MS * MILLI);
        let (thread, input) = (Thread::Control, Input::Tick);
        self.queue.push(self.now + first, Event::Thread { node, life, thread, input });
    }
}

/// Opens the engine's file, if it can be.
pub(crate) fn open(host: &Host, life: u64, now: u64) -> Option<Controller> {
    let store = Store::open_on(host.disk.open(), Expected::default()).ok()?;
    let quorum = Quorum::open(store, host.installation).ok()?;
    Some(Controller::new(quorum, host.installation(), life, host.clock.read(now)))
}

/// An entry in a line.
pub(crate) fn show(entry: &Entry) -> String {
    match entry {
        Entry::NewEpoch { epoch, attempt, holder, incarnation, reports, rule, accept_loss } => {
            let reports: Vec<_> = reports
                .iter()
                .map(|report| (report.node.0, report.incarnation.0, report.end.0))
                .collect();
            let loss = if *accept_loss { ", with loss" } else { "" };
            format!(
                "NewEpoch {} (attempt {}) to node {holder}, directory {}, reports (node, \
                 directory, end) {reports:?}, rule {}{loss}",
                epoch.0,
                attempt.0,
                incarnation.0,
                crate::postgres::show(rule)
            )
        }
        Entry::RuleJoint { rule, .. } => format!("RuleJoint {}", crate::postgres::show(rule)),
        other => format!("{other:?}"),
    }
}
