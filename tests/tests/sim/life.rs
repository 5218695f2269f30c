//! How processes and hosts begin and end.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use pgx_control::agent::Agent;
use pgx_control::ids::NodeId;
use pgx_control::lease::Station;

use crate::control::open;
use crate::event::{Event, Input, MILLI, Thread, Time};
use crate::host::{AgentThread, Gate, Process};
use crate::proxy::Proxy;
use crate::world::World;

impl World {
    pub(crate) fn handle_start(&mut self, node: NodeId, boot: u64) {
        let host = self.hosts.get(&node);
        let is_due = host.is_some_and(|host| {
            host.boot == boot && host.has_power && host.process.is_none() && !host.is_gone
        });
        if is_due {
            self.start_process(node);
        }
    }

    pub(crate) fn start_process(&mut self, node: NodeId) {
        let life = self.unique();
        let now = self.now;
        let Some(host) = self.hosts.get_mut(&node) else { return };
        // What the last life wrote and did not sync is synced before it is read.
        host.refusals.lose_power(true);
        host.record.lose_power(true);
        let shown = host.clock.read(now);
        let Some(controller) = (if host.is_full { None } else { open(host, life, now) }) else {
            // Power may fail while the file is opened.
            if host.disk.is_off() {
                self.power_off(node);
            } else {
                self.restart(node, 300 * MILLI);
            }
            return;
        };
        let state = Arc::clone(controller.state());
        let installation = host.installation();
        let refusals = host.refusals.content.clone();
        let station = Station::new(node, installation, refusals, Arc::clone(&state), life, shown);
        let agent = AgentThread {
            agent: Agent::new(node, 0, host.record.content.clone()),
            state: Arc::clone(&state),
            steps: VecDeque::new(),
            is_busy: false,
            wants: None,
            closed_told: None,
            has_exited: false,
            answered: shown,
        };
        let controller = Some(controller);
        let (paused, inboxes, said) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        let (wake, proxy) = (None, Proxy::default());
        host.process =
            Some(Process { life, controller, station, wake, agent, proxy, paused, inboxes, said });
        self.counters.starts += 1;
        self.note(&format!("node {node} starts, life {life}"));
        self.push_tick(node, life);
        self.drain_controller(node);
        self.say(node, Thread::Lease, Input::State(state));
        let soon = 30 * MILLI + self.rng.below(30 * MILLI);
        self.tell(node, Thread::Agent, soon, Input::Look);
    }

    pub(crate) fn kill_process(&mut self, node: NodeId) {
        let Some(host) = self.hosts.get_mut(&node) else { return };
        host.process = None;
        host.rebuild = None;
    }

    pub(crate) fn restart(&mut self, node: NodeId, after: Time) {
        if let Some(host) = self.hosts.get(&node) {
            let boot = host.boot;
            self.queue.push(self.now + after, Event::Start { node, boot });
        }
    }

    /// The host loses what is not on disk, and comes back after a while.
    pub(crate) fn power_off(&mut self, node: NodeId) {
        self.kill_process(node);
        let seed = self.rng.draw();
        let arrived = [self.rng.chance(50), self.rng.chance(50)];
        let off = 200 * MILLI + self.rng.below(4_000 * MILLI);
        let Some(host) = self.hosts.get_mut(&node) else { return };
        host.has_power = false;
        host.boot += 1;
        host.disk.crash(seed);
        host.refusals.lose_power(arrived[0]);
        host.record.lose_power(arrived[1]);
        host.gate = Gate::default();
        let unsynced = host.directory.wal.len() - host.directory.flushed;
        let kept = self.rng.below(unsynced as u64 + 1);
        let Some(host) = self.hosts.get_mut(&node) else { return };
        host.directory.lose_power(usize::try_from(kept).unwrap_or(0));
        host.postgres = None;
        self.counters.power_losses += 1;
        self.check_refusals_of(node);
        self.note(&format!("power fails on node {node}"));
        self.queue.push(self.now + off, Event::PowerOn(node));
    }

    pub(crate) fn power_on(&mut self, node: NodeId) {
        let clock = self.draw_clock();
        let Some(host) = self.hosts.get_mut(&node) else { return };
        if host.has_power || host.is_gone {
            return;
        }
        host.has_power = true;
        host.clock = clock;
        self.note(&format!("power is back on node {node}"));
        let after = 20 * MILLI + self.rng.below(300 * MILLI);
        self.restart(node, after);
    }

    /// The node has left the cluster; nobody will ever hear from it again.
    pub(crate) fn switch_off(&mut self, node: NodeId) {
        self.kill_process(node);
        let Some(host) = self.hosts.get_mut(&node) else { return };
        host.postgres = None;
        host.has_power = false;
        host.is_gone = true;
        self.counters.left += 1;
        self.note(&format!("node {node} has left and is switched off"));
    }

    pub(crate) fn pause(&mut self, node: NodeId, threads: &[Thread], until: Time) {
        let host = self.hosts.get_mut(&node);
        if let Some(process) = host.and_then(|host| host.process.as_mut()) {
            for thread in threads {
                let known = process.paused.entry(*thread).or_insert(until);
                *known = (*known).max(until);
            }
        }
    }

    pub(crate) fn fill_disk(&mut self, node: NodeId, until: Time) {
        let Some(host) = self.hosts.get_mut(&node) else { return };
        host.is_full = true;
        host.disk.set_full(true);
        self.queue.push(until, Event::DiskFree(node));
    }

    pub(crate) fn free_disk(&mut self, node: NodeId) {
        if let Some(host) = self.hosts.get_mut(&node) {
            host.is_full = false;
            host.disk.set_full(false);
        }
    }

    /// All that was done to hosts and network ends, late threads and hung servers in their time.
    pub(crate) fn heal(&mut self) {
        self.note("all faults end");
        self.network.heal();
        self.healed_at = Some(self.now);
        self.checks.commits_before_healing = self.counters.commits;
        let nodes: Vec<_> = self.hosts.keys().copied().collect();
        for node in nodes {
            self.free_disk(node);
            let Some(host) = self.hosts.get_mut(&node) else { continue };
            host.disk.cut_power_at(u64::MAX);
            if host.is_gone {
                continue;
            }
            if !host.has_power {
                self.power_on(node);
            } else if host.process.is_none() {
                self.restart(node, 0);
            }
        }
        self.operate_finally();
    }
}
