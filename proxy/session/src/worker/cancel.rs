//! Requests to cancel a client's query.
//!
//! The server to cancel is the one that the client has now, if it owes the client anything; until
//! the request has arrived there, nobody else gets that server.

use alloc::vec::Vec;

use pgx_wire::frontend;

use super::{Owner, Worker};
use crate::exchange::Owed;
use crate::ids::{CancelId, ServerId};
use crate::net::{Net, Socket};
use crate::time::Now;

/// A request on its way to a server.
#[derive(Debug)]
pub(super) struct Cancel {
    socket: Socket,
    pub(super) server: ServerId,
    process: u32,
    key: Vec<u8>,
    since: Now,
}

impl Worker {
    /// Somebody asks to cancel a query. A wrong key does nothing, as in PostgreSQL.
    pub fn cancel<N: Net>(&mut self, net: &mut N, process: u32, key: &[u8], now: Now) {
        self.now = now;
        let mut all = self.clients.iter();
        let client = all.find(|each| each.process == process && same(each.key(), key));
        let Some(id) = client.and_then(|client| client.server) else { return };
        let Some(server) = self.servers.get_mut(id) else { return };
        // The settings of its client must not be lost by it.
        let is_ours = server.exchange.front() == Some(&Owed::OurQuery);
        if server.exchange.is_answered() || is_ours || server.cancels > 0 {
            return;
        }
        let Some(socket) = net.connect(&server.address) else { return };
        server.cancels += 1;
        let (process, key) = server.key.clone();
        let cancel = Cancel { socket, server: id, process, key, since: now };
        let cancel: CancelId = self.cancels.add(|_| cancel);
        net.own(socket, Owner::Cancel(cancel));
    }

    /// The connection for a request is there, or not.
    pub fn cancel_connected<N: Net>(&mut self, net: &mut N, id: CancelId, is_there: bool) {
        let Some(cancel) = self.cancels.get(id) else { return };
        if is_there {
            self.scratch.clear();
            frontend::write::cancel(&mut self.scratch, cancel.process, &cancel.key);
            net.write(cancel.socket, &self.scratch);
        } else {
            self.cancel_ended(net, id);
        }
    }

    /// The server has closed the connection of a request: the request has had its effect.
    pub fn cancel_ended<N: Net>(&mut self, net: &mut N, id: CancelId) {
        let Some(cancel) = self.cancels.remove(id) else { return };
        net.abort(cancel.socket);
        let Some(server) = self.servers.get_mut(cancel.server) else { return };
        server.cancels -= 1;
        if server.cancels == 0 && server.client.is_none() && server.exchange.is_at_rest() {
            self.give_back(net, cancel.server);
        }
    }

    /// Requests whose server does not answer are given up, and the server with them.
    pub(super) fn tick_cancels<N: Net>(&mut self, net: &mut N) {
        let limit = self.config.limits.server_connect_ms.max(1);
        let is_due = |cancel: &Cancel| self.now >= cancel.since.after_ms(limit);
        let due: Vec<_> = self.cancels.ids().filter(|(_, cancel)| is_due(cancel)).collect();
        let due: Vec<CancelId> = due.into_iter().map(|(id, _)| id).collect();
        for id in due {
            if let Some(server) = self.cancels.get(id).map(|cancel| cancel.server)
                && let Some(server) = self.servers.get_mut(server)
            {
                server.is_leaving = true;
            }
            self.cancel_ended(net, id);
        }
    }
}

/// Compares without telling by the time that it takes how much is the same.
fn same(own: &[u8], other: &[u8]) -> bool {
    let differs = own.iter().zip(other).fold(0, |all, (a, b)| all | (a ^ b));
    own.len() == other.len() && core::hint::black_box(differs) == 0
}
