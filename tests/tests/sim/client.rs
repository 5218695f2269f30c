//! Clients: each writes one thing after the other, and looks for the primary by trying all nodes.

use pgx_control::ids::NodeId;

use crate::event::{Event, MILLI, Packet, Time};
use crate::world::World;

/// Clients of one cluster.
const CLIENTS: usize = 2;

/// How long a client waits for the answer to one operation.
const ANSWER_MAX: Time = 400 * MILLI;

/// A client.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Client {
    target: NodeId,
    /// What it waits for; zero while it thinks.
    op: u64,
    /// Its answered operations.
    pub(crate) done: u64,
}

impl World {
    pub(crate) fn add_clients(&mut self) {
        for client in 0..CLIENTS {
            self.clients.push(Client { target: NodeId(1), op: 0, done: 0 });
            let at = self.rng.below(100 * MILLI);
            self.queue.push(at, Event::Client { client, op: 0 });
        }
    }

    /// A client has thought, or has waited too long.
    pub(crate) fn handle_client(&mut self, client: usize, op: u64) {
        let Some(known) = self.clients.get(client).copied() else { return };
        if known.op != op {
            return;
        }
        let mut target = known.target;
        if op != 0 {
            let later = self.hosts.range(NodeId(target.0 + 1)..).next();
            let next = later.or_else(|| self.hosts.first_key_value());
            target = next.map_or(target, |(node, _)| *node);
        }
        let op = self.unique();
        self.clients[client] = Client { target, op, ..known };
        let at = self.now + self.network.delay(&mut self.rng);
        let packet = Packet::Write { client, op };
        self.queue.push(at, Event::Packet { from: NodeId(0), to: target, packet });
        self.queue.push(self.now + ANSWER_MAX, Event::Client { client, op });
    }

    /// An answer has reached its client.
    pub(crate) fn handle_answer(&mut self, packet: &Packet) {
        let Packet::Written { client, op, is_done } = *packet else { return };
        let Some(known) = self.clients.get_mut(client).filter(|known| known.op == op) else {
            return;
        };
        if is_done {
            known.op = 0;
            known.done += 1;
            let pause = 10 * MILLI + self.rng.below(50 * MILLI);
            self.queue.push(self.now + pause, Event::Client { client, op: 0 });
        } else {
            let pause = self.rng.below(20 * MILLI);
            self.queue.push(self.now + pause, Event::Client { client, op });
        }
    }
}
