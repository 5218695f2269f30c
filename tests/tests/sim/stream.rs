//! Streaming replication: one connection from each standby to its upstream, in order while it
//! lasts. It passes the upstream's gate in both directions.

use std::sync::Arc;

use pgx_control::ids::NodeId;

use crate::event::{Event, MILLI, Packet, Time};
use crate::postgres::{Link, Mode, Receiver, Sender, Talk, Work};
use crate::world::World;

/// How often each side looks after the connection.
const BEAT: Time = 200 * MILLI;

/// How long each side waits for a word.
const SILENCE_MAX: Time = 1_500 * MILLI;

/// What a lost segment costs.
const RETRANSMISSION: Time = 200 * MILLI;

impl World {
    pub(crate) fn beat(&mut self, node: NodeId) {
        let delay = BEAT + self.rng.below(BEAT / 2);
        self.work(node, delay, Work::Beat);
        let mode =
            self.hosts.get(&node).and_then(|host| host.postgres.as_ref()).map(|run| run.mode);
        match mode {
            Some(Mode::Standby) => self.beat_standby(node),
            Some(Mode::Primary) => self.beat_primary(node),
            None => {}
        }
    }

    fn beat_standby(&mut self, node: NodeId) {
        let now = self.now;
        let link = self.unique();
        let Some(host) = self.hosts.get_mut(&node) else { return };
        let Some(run) = &mut host.postgres else { return };
        let Some(upstream) = host.directory.upstream else { return };
        let is_well = run.receiver.is_some_and(|receiver| {
            receiver.from == upstream && now < receiver.heard + SILENCE_MAX
        });
        // It connects when it has replayed what it has.
        if is_well || !run.is_up || run.replayed < host.directory.flushed {
            return;
        }
        let arrives = now;
        run.receiver = Some(Receiver { link, from: upstream, is_up: false, heard: now, arrives });
        let what = Talk::Connect {
            directory: host.directory.incarnation,
            end: host.directory.wal.len(),
            branches: Arc::new(host.directory.branches.clone()),
        };
        self.talk_up(node, what);
    }

    fn beat_primary(&mut self, node: NodeId) {
        let now = self.now;
        let Some(host) = self.hosts.get_mut(&node) else { return };
        let Some(run) = &mut host.postgres else { return };
        run.senders.retain(|_, sender| now < sender.heard + SILENCE_MAX);
        run.note_rule(host.directory.flushed);
        let links: Vec<_> = run.senders.keys().copied().collect();
        for link in links {
            self.talk_down(node, link, Talk::Alive);
        }
        self.feed_all(node);
        self.end_if_received(node);
    }

    /// From a standby to its upstream.
    fn talk_up(&mut self, node: NodeId, what: Talk) {
        let Some(receiver) = self
            .hosts
            .get(&node)
            .and_then(|host| host.postgres.as_ref())
            .and_then(|run| run.receiver)
        else {
            return;
        };
        let Receiver { link, from: upstream, arrives, .. } = receiver;
        if let Some(at) = self.carry(node, upstream, link, what, arrives)
            && let Some(host) = self.hosts.get_mut(&node)
            && let Some(receiver) = host.postgres.as_mut().and_then(|run| run.receiver.as_mut())
        {
            receiver.arrives = at;
        }
    }

    /// From a primary to one of its standbys. Records that a cut stops are sent again after it.
    fn talk_down(&mut self, node: NodeId, link: u64, what: Talk) {
        let Some(host) = self.hosts.get(&node).filter(|host| host.passes_peers(self.now)) else {
            return;
        };
        let Some(sender) = host.postgres.as_ref().and_then(|run| run.senders.get(&link)) else {
            return;
        };
        let (to, arrives) = (sender.to, sender.arrives);
        let end = match &what {
            Talk::Records { start, records, .. } => start + records.len(),
            _ => sender.sent,
        };
        if let Some(at) = self.carry(node, to, link, what, arrives)
            && let Some(host) = self.hosts.get_mut(&node)
            && let Some(sender) = host.postgres.as_mut().and_then(|run| run.senders.get_mut(&link))
        {
            sender.arrives = at;
            sender.sent = end;
        }
    }

    /// In order, and late rather than lost; but nothing passes a cut.
    fn carry(
        &mut self,
        from: NodeId,
        to: NodeId,
        link: u64,
        what: Talk,
        arrives: Time,
    ) -> Option<Time> {
        if self.network.is_cut(from, to, self.now) {
            return None;
        }
        let mut at = self.now + self.network.delay(&mut self.rng);
        if self.rng.chance(self.network.weather.loss_percent) {
            at += RETRANSMISSION;
        }
        let at = at.max(arrives + 1);
        let packet = Packet::Wal(Link { link, what });
        self.queue.push(at, Event::Packet { from, to, packet });
        Some(at)
    }

    /// Sends each standby what it lacks.
    pub(crate) fn feed_all(&mut self, node: NodeId) {
        let Some(host) = self.hosts.get(&node).filter(|host| host.passes_peers(self.now)) else {
            return;
        };
        let end = host.directory.flushed;
        let Some(run) = host.postgres.as_ref().filter(|run| run.recovery_end.is_some()) else {
            return;
        };
        let behind: Vec<_> = run
            .senders
            .iter()
            .filter(|(_, sender)| sender.sent < end)
            .map(|(link, sender)| (*link, sender.sent))
            .collect();
        if behind.is_empty() {
            return;
        }
        let branches = Arc::new(host.directory.branches_to(end));
        let wal = host.directory.wal.clone();
        for (link, start) in behind {
            let records = Arc::new(wal[start..end].to_vec());
            let branches = Arc::clone(&branches);
            self.talk_down(node, link, Talk::Records { start, records, branches });
        }
    }

    pub(crate) fn say_flushed(&mut self, node: NodeId) {
        let Some(host) = self.hosts.get(&node) else { return };
        let end = host.directory.flushed;
        self.talk_up(node, Talk::Flushed { end });
    }

    pub(crate) fn handle_talk(&mut self, from: NodeId, to: NodeId, link: &Link) {
        let now = self.now;
        let Some(host) = self.hosts.get_mut(&to) else { return };
        let is_passed = host.passes_peers(now);
        let Some(run) = host.postgres.as_mut().filter(|run| run.is_up) else { return };
        if run.hung_until > now {
            let at = run.hung_until;
            let packet = Packet::Wal(link.clone());
            self.queue.push(at, Event::Packet { from, to, packet });
            return;
        }
        match run.mode {
            Mode::Primary if is_passed => self.heard_up(from, to, link),
            Mode::Standby => self.heard_down(to, link),
            Mode::Primary => {}
        }
    }

    /// A primary hears from a standby.
    fn heard_up(&mut self, from: NodeId, node: NodeId, Link { link, what }: &Link) {
        let now = self.now;
        let Some(host) = self.hosts.get_mut(&node) else { return };
        let Some(run) = &mut host.postgres else { return };
        match what {
            Talk::Connect { directory, end, branches } => {
                let is_ready = run.recovery_end.is_some() && !run.is_ending;
                if !is_ready || !host.directory.can_feed(branches, *end) {
                    let own = host.directory.branches.clone();
                    self.note(&format!(
                        "node {node} does not feed node {from}, ready {is_ready}: {branches:?} to \
                         {end}, has {own:?}"
                    ));
                    return;
                }
                let rule = run.rule.clone();
                let sender = Sender {
                    to: from,
                    directory: *directory,
                    flushed: 0,
                    sent: *end,
                    rule,
                    heard: now,
                    arrives: now,
                };
                run.senders.insert(*link, sender);
                run.note_rule(host.directory.flushed);
                // Begun between a reload and its end: the signal reaches this process, too.
                let (is_changing, link) = (run.rule != run.configured, *link);
                if is_changing {
                    let delay = self.rng.below(150 * MILLI);
                    self.work(node, delay, Work::Reload { link: Some(link) });
                }
                self.talk_down(node, link, Talk::Accepted);
                self.feed_all(node);
            }
            Talk::Flushed { end } => {
                let Some(sender) = run.senders.get_mut(link) else { return };
                sender.flushed = sender.flushed.max(*end);
                sender.heard = now;
                run.release(*link);
                self.acknowledge(node);
                self.end_if_received(node);
            }
            Talk::Bye => {
                run.senders.remove(link);
            }
            _ => {}
        }
    }

    /// A standby hears from its upstream.
    fn heard_down(&mut self, node: NodeId, Link { link, what }: &Link) {
        let now = self.now;
        let delay = 300_000 + self.rng.below(3 * MILLI);
        let Some(host) = self.hosts.get_mut(&node) else { return };
        let directory = &mut host.directory;
        let Some(run) = &mut host.postgres else { return };
        let Some(receiver) = run.receiver.as_mut().filter(|receiver| receiver.link == *link) else {
            return;
        };
        receiver.heard = now;
        receiver.is_up = true;
        match what {
            Talk::Records { start, records, branches } => {
                if *start != directory.wal.len() || host.is_full {
                    self.talk_up(node, Talk::Bye);
                    self.drop_receiver(node);
                    return;
                }
                directory.wal.extend(records.iter());
                directory.branches.clone_from(branches);
                let end = directory.wal.len();
                self.work(node, delay, Work::Flush { end });
            }
            Talk::Accepted | Talk::Alive => self.say_flushed(node),
            _ => {}
        }
    }

    fn drop_receiver(&mut self, node: NodeId) {
        if let Some(run) = self.hosts.get_mut(&node).and_then(|host| host.postgres.as_mut()) {
            run.receiver = None;
        }
    }
}
