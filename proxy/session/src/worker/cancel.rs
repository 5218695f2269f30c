//! Requests to cancel a client's query.
//!
//! The server to cancel is the one that the client has now, if it owes the client anything; until
//! the request has arrived there, nobody else gets that server. Who asks is told by the end of the
//! connection, as by PostgreSQL: nothing that is sent after that is hit.

use alloc::vec::Vec;

use pgx_wire::{frontend, startup};

use super::{Owner, Worker};
use crate::client::{Client, Phase};
use crate::exchange::Owed;
use crate::ids::{CancelId, ClientId, ServerId};
use crate::limits::FORWARDS_MAX;
use crate::net::{Net, Socket};
use crate::route::ServerAddress;
use crate::time::Now;

/// Set in a key's first byte when it has been passed on once: it is not passed on again.
const PASSED_ON: u8 = 0x80;

/// Where in a key's first byte the node is named that gave it.
const NODE_SHIFT: u32 = 3;
const NODE: u8 = 0x0f << NODE_SHIFT;

/// Who asks to cancel something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asker {
    /// The thread that it has come to.
    pub thread: u8,
    /// Its connection there.
    pub client: ClientId,
}

/// A request to cancel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Who asks.
    pub by: Asker,
    /// The number that the client was told whose query is meant.
    pub process: u32,
    /// The key that it was told.
    pub key: Vec<u8>,
}

/// What has become of requests to cancel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cancels {
    /// That came from clients of this thread's sockets.
    pub asked: u64,
    /// That were sent to servers of this thread.
    pub sent: u64,
    /// That were sent on to other nodes.
    pub passed_on: u64,
}

/// A request on its way to a server, or to another node.
#[derive(Debug)]
pub(super) struct Cancel {
    socket: Socket,
    /// `None` on its way to another node.
    pub(super) server: Option<ServerId>,
    process: u32,
    key: Vec<u8>,
    since: Now,
    by: Asker,
    /// Whether it is to be encrypted, as the server's own connection is.
    is_encrypted: bool,
    /// The other side has it, and has not acted on it yet.
    pub(super) is_sent: bool,
}

/// Writes into a secret which node gives it; node 0 is the only one.
pub(super) fn sign(secret: &mut [u8; 32], node: u8) {
    if node > 0 {
        secret[0] = secret[0] & !(PASSED_ON | NODE) | node << NODE_SHIFT & NODE;
    }
}

impl Worker {
    /// A client's first words are a request to cancel.
    pub(super) fn cancel_asked<N: Net>(
        &mut self,
        net: &mut N,
        id: ClientId,
        process: u32,
        key: &[u8],
    ) {
        self.counts.cancels.asked += 1;
        let by = Asker { thread: self.number, client: id };
        let mut request = Request { by, process, key: key.to_vec() };
        let own = self.config.peers.own;
        let first = request.key.first().copied().unwrap_or(0);
        let node = (first & NODE) >> NODE_SHIFT;
        let answers = if own == 0 {
            net.cancel(request)
        } else if first & PASSED_ON != 0 || node == own {
            request.key[0] = first & !PASSED_ON;
            net.cancel(request)
        } else if let Some(peer) = self.config.peers.others.get(&node).cloned() {
            request.key[0] = first | PASSED_ON;
            usize::from(self.pass_on(net, &peer, request))
        } else {
            0
        };
        let Some(client) = self.clients.get_mut(id) else { return };
        client.phase = Phase::Cancels(answers);
        if answers == 0 {
            self.end_asker(net, id);
        }
    }

    /// Sends a request to another node. Says whether it is on its way.
    fn pass_on<N: Net>(&mut self, net: &mut N, peer: &ServerAddress, request: Request) -> bool {
        let (since, count) = &mut self.passed_on;
        if self.now >= since.after_ms(1_000) {
            (*since, *count) = (self.now, 0);
        }
        if *count >= FORWARDS_MAX {
            return false;
        }
        *count += 1;
        let Some(socket) = net.connect(peer) else { return false };
        self.add(net, socket, None, request);
        true
    }

    fn add<N: Net>(
        &mut self,
        net: &mut N,
        socket: Socket,
        server: Option<ServerId>,
        request: Request,
    ) {
        let Request { by, process, key } = request;
        let known = server.and_then(|server| self.servers.get(server));
        let is_encrypted = known.is_some_and(|server| server.is_encrypted);
        let (since, is_sent) = (self.now, false);
        let cancel = Cancel { socket, server, process, key, since, by, is_encrypted, is_sent };
        let id: CancelId = self.cancels.add(|_| cancel);
        net.own(socket, Owner::Cancel(id));
    }

    /// Somebody asks to cancel a query. A wrong key does nothing, as in PostgreSQL.
    pub fn cancel<N: Net>(&mut self, net: &mut N, request: Request, now: Now) {
        self.now = now;
        let by = request.by;
        if !self.begin_cancel(net, request) {
            net.cancelled(by);
        }
    }

    /// Says whether the request is on its way.
    fn begin_cancel<N: Net>(&mut self, net: &mut N, mut request: Request) -> bool {
        let Request { process, key, .. } = &request;
        let is_meant = |each: &&Client| each.process == *process && same(each.key(), key);
        let id = self.clients.iter().find(is_meant).and_then(|client| client.server);
        let Some(id) = id else { return false };
        let Some(server) = self.servers.get_mut(id) else { return false };
        // The settings of its client must not be lost by it.
        let is_ours = server.exchange.front() == Some(&Owed::OurQuery);
        if server.exchange.is_answered() || is_ours || server.cancels > 0 {
            return false;
        }
        let Some(socket) = net.connect(&server.address) else { return false };
        server.cancels += 1;
        (request.process, request.key) = server.key.clone();
        self.add(net, socket, Some(id), request);
        true
    }

    /// One of those who were asked to cancel something for a client has done so, or had nothing to.
    pub fn cancelled<N: Net>(&mut self, net: &mut N, id: ClientId, now: Now) {
        self.now = now;
        let Some(client) = self.clients.get_mut(id) else { return };
        let Phase::Cancels(answers) = &mut client.phase else { return };
        *answers = answers.saturating_sub(1);
        if *answers == 0 {
            self.end_asker(net, id);
        }
    }

    pub(super) fn end_asker<N: Net>(&mut self, net: &mut N, id: ClientId) {
        let Some(client) = self.clients.get(id) else { return };
        net.finish(client.socket);
        self.forget_client(net, id);
    }

    /// The connection for a request is there, or not.
    pub fn cancel_connected<N: Net>(&mut self, net: &mut N, id: CancelId, is_there: bool) {
        let Some(cancel) = self.cancels.get(id) else { return };
        if !is_there {
            self.cancel_ended(net, id);
        } else if cancel.is_encrypted {
            net.write(cancel.socket, &startup::TLS_REQUEST);
        } else {
            self.send_cancel(net, id);
        }
    }

    /// The server says something on the connection of a request: that it speaks TLS there, too.
    pub fn cancel_bytes<N: Net>(&mut self, net: &mut N, id: CancelId, bytes: &[u8]) {
        let Some(cancel) = self.cancels.get_mut(id) else { return };
        if !core::mem::take(&mut cancel.is_encrypted) {
            return;
        }
        let server = cancel.server.and_then(|server| self.servers.get(server));
        match server.filter(|_| bytes == b"S") {
            Some(server) if net.begin_tls(cancel.socket, &server.address) => {
                self.send_cancel(net, id);
            }
            _ => self.cancel_ended(net, id),
        }
    }

    fn send_cancel<N: Net>(&mut self, net: &mut N, id: CancelId) {
        let Some(cancel) = self.cancels.get_mut(id) else { return };
        cancel.is_sent = true;
        let counts = &mut self.counts.cancels;
        *if cancel.server.is_some() { &mut counts.sent } else { &mut counts.passed_on } += 1;
        self.scratch.clear();
        frontend::write::cancel(&mut self.scratch, cancel.process, &cancel.key);
        net.write(cancel.socket, &self.scratch);
    }

    /// The server has closed the connection of a request: the request has had its effect.
    pub fn cancel_ended<N: Net>(&mut self, net: &mut N, id: CancelId) {
        let Some(cancel) = self.cancels.remove(id) else { return };
        net.abort(cancel.socket);
        net.cancelled(cancel.by);
        let Some(id) = cancel.server else { return };
        let Some(server) = self.servers.get_mut(id) else { return };
        server.cancels -= 1;
        if server.cancels == 0 && server.client.is_none() && server.exchange.is_at_rest() {
            self.give_back(net, id);
        }
    }

    /// Requests whose server does not answer are given up, and the server with them.
    pub(super) fn tick_cancels<N: Net>(&mut self, net: &mut N) {
        let limit = self.config.limits.server_connect_ms.max(1);
        let is_due = |cancel: &Cancel| self.now >= cancel.since.after_ms(limit);
        let due: Vec<_> = self.cancels.ids().filter(|(_, cancel)| is_due(cancel)).collect();
        let due: Vec<CancelId> = due.into_iter().map(|(id, _)| id).collect();
        for id in due {
            if let Some(server) = self.cancels.get(id).and_then(|cancel| cancel.server)
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
