//! What servers of PostgreSQL do: start, replay, end recovery, end.
//!
//! Replication between them is in `stream.rs`, the data in `postgres.rs`.

use pgx_control::agent::Record;
use pgx_control::cluster::history::History;
use pgx_control::cluster::sync::Rule;
use pgx_control::ids::NodeId;

use crate::event::{Event, MILLI, Packet, Time};
use crate::postgres::{Directory, Mode, Run, Waiter, Work};
use crate::world::World;

/// How long a clean end waits for standbys.
const END_MAX: Time = 3_000 * MILLI;

impl World {
    pub(crate) fn handle_work(&mut self, node: NodeId, run: u64, work: Work) {
        let Some(host) = self.hosts.get_mut(&node) else { return };
        let Some(server) = host.postgres.as_mut().filter(|server| server.id == run) else { return };
        if server.hung_until > self.now {
            let at = server.hung_until;
            self.queue.push(at, Event::Postgres { node, run, work });
            return;
        }
        match work {
            Work::Up => {
                server.is_up = true;
                // What the kernel still had is synced before replay begins.
                host.directory.flushed = host.directory.wal.len();
                let end = host.directory.flushed;
                let delay = self.rng.below(200 * MILLI);
                self.work(node, delay, Work::Replay { end });
                self.work(node, 0, Work::Beat);
            }
            Work::Beat => self.beat(node),
            Work::Replay { end } => {
                if server.mode == Mode::Standby {
                    server.replayed = server.replayed.max(end.min(host.directory.flushed));
                }
            }
            Work::Flush { end } => {
                let end = end.min(host.directory.wal.len());
                host.directory.flushed = host.directory.flushed.max(end);
                self.flushed(node);
            }
            Work::Promoted => self.end_recovery(node),
            // Whoever is signalled reads what is configured then.
            Work::Reload { link: None } => {
                server.rule = server.configured.clone();
                server.note_rule(host.directory.flushed);
                self.acknowledge(node);
            }
            Work::Reload { link: Some(link) } => {
                if let Some(sender) = server.senders.get_mut(&link) {
                    sender.rule = server.configured.clone();
                }
                server.note_rule(host.directory.flushed);
            }
            Work::EndAnyway => self.ended(node),
        }
    }

    /// Gives the running server something to do later.
    pub(crate) fn work(&mut self, node: NodeId, delay: Time, work: Work) {
        let run = self.hosts.get(&node).and_then(|host| host.postgres.as_ref());
        if let Some(run) = run.map(|run| run.id) {
            self.queue.push(self.now + delay, Event::Postgres { node, run, work });
        }
    }

    pub(crate) fn start_standby(&mut self, node: NodeId) {
        let id = self.unique();
        let delay = 50 * MILLI + self.rng.below(300 * MILLI);
        let now = self.now;
        let Some(host) = self.hosts.get_mut(&node) else { return };
        if host.postgres.is_some() || host.directory.is_half {
            return;
        }
        host.directory.shut_down = None;
        host.directory.was_primary = false;
        host.postgres = Some(Run::new(id));
        if let Some(process) = &mut host.process {
            process.agent.has_exited = false;
            process.agent.answered = host.clock.read(now);
        }
        self.work(node, delay, Work::Up);
    }

    /// Ends the server at once. What it wrote and did not flush stays with the kernel.
    pub(crate) fn kill_postgres(&mut self, node: NodeId, is_unasked: bool) {
        let Some(host) = self.hosts.get_mut(&node) else { return };
        if host.postgres.take().is_some()
            && let Some(process) = &mut host.process
        {
            process.agent.has_exited = is_unasked;
        }
    }

    pub(crate) fn shut_down(&mut self, node: NodeId) {
        let checkpoint = self.unique();
        let Some(host) = self.hosts.get_mut(&node) else { return };
        let Some(run) = &mut host.postgres else { return };
        if run.is_ending {
            return;
        }
        run.is_ending = true;
        run.waiters.clear();
        host.directory.wal.push(checkpoint);
        host.directory.flushed = host.directory.wal.len();
        self.work(node, END_MAX, Work::EndAnyway);
        self.flushed(node);
        self.end_if_received(node);
    }

    /// A clean end is over when every standby has all.
    pub(crate) fn end_if_received(&mut self, node: NodeId) {
        let Some(host) = self.hosts.get(&node) else { return };
        let Some(run) = host.postgres.as_ref().filter(|run| run.is_ending) else { return };
        let end = host.directory.wal.len();
        if run.senders.values().all(|sender| sender.flushed == end) {
            self.ended(node);
        }
    }

    fn ended(&mut self, node: NodeId) {
        let Some(host) = self.hosts.get_mut(&node) else { return };
        host.postgres = None;
        let end = host.directory.wal.len();
        host.directory.shut_down = Some(end);
        self.note(&format!("node {node}: PostgreSQL has shut down at {end}"));
    }

    pub(crate) fn promote(&mut self, node: NodeId, rule: Rule) {
        let delay = 20 * MILLI + self.rng.below(300 * MILLI);
        let Some(host) = self.hosts.get_mut(&node) else { return };
        let Some(run) = host.postgres.as_mut() else { return };
        if run.mode == Mode::Primary || !run.is_up {
            return;
        }
        run.mode = Mode::Primary;
        run.receiver = None;
        run.configured = rule.clone();
        run.rule = rule;
        host.directory.upstream = None;
        self.counters.promotions += 1;
        self.work(node, delay, Work::Promoted);
    }

    fn end_recovery(&mut self, node: NodeId) {
        let record = self.unique();
        let Some(host) = self.hosts.get_mut(&node) else { return };
        let Some(run) = &mut host.postgres else { return };
        let directory = &mut host.directory;
        let (timeline, at) = (directory.branch().0 + 1, directory.wal.len());
        directory.branches.push((timeline, at));
        directory.wal.push(record);
        directory.flushed = at + 1;
        directory.was_primary = true;
        run.replayed = at + 1;
        run.recovery_end = Some(at + 1);
        run.note_rule(at + 1);
        self.note(&format!("node {node}: PostgreSQL begins timeline {timeline} at {at}"));
        self.flushed(node);
        self.provoke();
    }

    pub(crate) fn set_rule(&mut self, node: NodeId, rule: &Rule) {
        let Some(host) = self.hosts.get_mut(&node) else { return };
        let Some(run) = &mut host.postgres else { return };
        run.configured = rule.clone();
        run.rule_since = None;
        let links: Vec<_> = run.senders.keys().copied().map(Some).chain([None]).collect();
        for link in links {
            let delay = self.rng.below(150 * MILLI);
            self.work(node, delay, Work::Reload { link });
        }
    }

    pub(crate) fn set_upstream(&mut self, node: NodeId, upstream: Option<NodeId>) {
        let Some(host) = self.hosts.get_mut(&node) else { return };
        host.directory.upstream = upstream;
        if let Some(run) = &mut host.postgres
            && run.mode == Mode::Standby
        {
            run.receiver = None;
        }
    }

    /// A client's write has come in.
    pub(crate) fn handle_write(&mut self, node: NodeId, client: usize, op: u64) {
        let now = self.now;
        let delay = 300_000 + self.rng.below(3 * MILLI);
        let Some(host) = self.hosts.get_mut(&node) else { return };
        let is_standby = host.postgres.as_ref().is_some_and(|run| run.mode == Mode::Standby);
        let is_passed = host.gate.passes_clients(is_standby, host.clock.read(now));
        let hung = host.postgres.as_ref().filter(|run| now < run.hung_until);
        if let Some(run) = hung.filter(|_| is_passed).map(|run| run.id) {
            return self.note_wait(node, run);
        }
        // A gate that is shut answers with a reset.
        let accepts = is_passed && host.postgres.as_ref().is_some_and(Run::accepts_writes);
        if !accepts || host.is_full {
            let packet = Packet::Written { client, op, is_done: false };
            let at = self.now + self.network.delay(&mut self.rng);
            self.queue.push(at, Event::Packet { from: node, to: NodeId(0), packet });
            return;
        }
        host.directory.wal.push(op);
        let end = host.directory.wal.len();
        if let Some(run) = &mut host.postgres {
            run.waiters.push(Waiter { end, client, op });
        }
        self.work(node, delay, Work::Flush { end });
    }

    /// More is flushed: it is sent on, and commits may be done.
    fn flushed(&mut self, node: NodeId) {
        let Some(host) = self.hosts.get(&node) else { return };
        match host.postgres.as_ref().map(|run| run.mode) {
            Some(Mode::Primary) => {
                self.feed_all(node);
                self.acknowledge(node);
            }
            Some(Mode::Standby) => {
                let end = host.directory.flushed;
                let lag = MILLI + self.rng.below(20 * MILLI);
                self.work(node, lag, Work::Replay { end });
                self.say_flushed(node);
            }
            None => {}
        }
    }

    /// Acknowledges the commits that the rule lets go, where the gate lets the answers out.
    pub(crate) fn acknowledge(&mut self, node: NodeId) {
        let now = self.now;
        let Some(host) = self.hosts.get_mut(&node) else { return };
        let flushed = host.directory.flushed;
        let Some(run) = host.postgres.as_mut().filter(|run| run.mode == Mode::Primary) else {
            return;
        };
        let done = run.take_released(flushed);
        if done.is_empty() || !host.can_write(now) {
            return;
        }
        for Waiter { client, op, end } in done {
            self.counters.commits += 1;
            self.note_acknowledged(op, end);
            let packet = Packet::Written { client, op, is_done: true };
            let at = self.now + self.network.delay(&mut self.rng);
            self.queue.push(at, Event::Packet { from: node, to: NodeId(0), packet });
        }
    }

    /// What a base backup from this node gets now, with the history that goes with it.
    pub(crate) fn base_backup(&self, from: NodeId, to: NodeId) -> Option<(Directory, History)> {
        let host = self.hosts.get(&from)?;
        let run = host.postgres.as_ref()?;
        let is_cut =
            self.network.is_cut(from, to, self.now) || self.network.is_cut(to, from, self.now);
        let serves = run.mode == Mode::Primary && run.recovery_end.is_some();
        if !serves || is_cut || run.hung_until > self.now || !host.passes_peers(self.now) {
            return None;
        }
        let end = host.directory.flushed;
        let mut copy = Directory::new(host.directory.incarnation);
        copy.wal = host.directory.wal[..end].to_vec();
        copy.flushed = end;
        copy.branches = host.directory.branches_to(end);
        let Record { history, .. } = host.record.content.clone();
        Some((copy, history))
    }
}
