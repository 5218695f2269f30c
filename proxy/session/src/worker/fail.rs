//! What becomes of clients whose server is gone.
//!
//! Nobody is left waiting, and nothing is run twice: what may have been committed is said to be
//! unknown. A client that had nothing under way keeps its connection.

use alloc::string::String;
use alloc::vec::Vec;

use pgx_wire::backend::{self, Fields, Status, tag};
use pgx_wire::limits::HEADER_BYTES;
use pgx_wire::{ErrorResponse, Severity, SqlState, frontend};

use super::{Worker, rewrite};
use crate::client::Client;
use crate::exchange::Exchange;
use crate::ids::{ClientId, ServerId};
use crate::net::Net;
use crate::note::Note;
use crate::server::{Phase, Server};
use crate::stand_in::{StandIn, rolled_back};
use crate::time::Now;

impl Worker {
    /// A server's connection has ended.
    pub fn server_ended<N: Net>(&mut self, net: &mut N, id: ServerId, reason: &[u8], now: Now) {
        self.now = now;
        self.server_lost(net, id, reason);
    }

    /// A server cannot be used any more.
    pub(super) fn server_lost<N: Net>(&mut self, net: &mut N, id: ServerId, reason: &[u8]) {
        let Some(server) = self.servers.remove(id) else { return };
        let pool = server.pool;
        let entry = &mut self.entries[pool];
        if server.is_unwanted {
            self.scratch.clear();
            frontend::write::terminate(&mut self.scratch);
            net.write(server.socket, &self.scratch);
            net.finish(server.socket);
            net.note(&Note::OtherKind { address: &server.address });
            return self.not_opened(net, pool, reason, None);
        }
        net.abort(server.socket);
        if server.is_void {
            entry.pool.failed();
            self.give_permit(pool);
            return self.open_wanted(net, pool);
        }
        if !matches!(server.phase, Phase::Ready) {
            entry.router.handle_failure(&server.address, self.now);
            let said = if server.farewell.is_empty() { reason } else { &server.farewell };
            net.note(&Note::Unreachable { address: &server.address, reason: said });
            return self.not_opened(net, pool, said, server.refusal);
        }
        entry.pool.lost(id);
        self.give_permit(pool);
        if let Some(lookup) = &server.lookup {
            self.look_up_again(net, lookup.client);
        }
        let Some(client) = server.client else { return self.serve(net, pool) };
        self.totals(pool).lost += 1;
        let said = if server.farewell.is_empty() { reason } else { &server.farewell };
        net.note(&Note::Lost { server: id, client, reason: said });
        self.bereave(net, client, &server);
        self.serve(net, pool);
    }

    /// Tells a client what the loss of its server means for it.
    fn bereave<N: Net>(&mut self, net: &mut N, id: ClientId, server: &Server) {
        let Some(client) = self.clients.get_mut(id) else { return };
        client.server = None;
        if client.is_waiting {
            // None of its requests has been sent.
            return self.ask_again(net, id);
        }
        let has_state = !client.shares() || server.is_kept || server.exchange.is_opaque();
        let is_cut = server.is_cut() || server.has_told;
        // How many answers it expects cannot be told any more.
        let is_unsure = server.exchange.is_doubtful();
        if has_state || is_cut || is_unsure || !client.walker.is_between() {
            // Its state is gone with the server, or it has read half a message.
            let message = "terminating connection because its server was lost";
            let error = ErrorResponse::new(Severity::Fatal, SqlState::ADMIN_SHUTDOWN, message);
            if is_cut {
                net.finish(client.socket);
                return self.forget_client(net, id);
            }
            return self.dismiss(net, id, &error);
        }
        client.unnamed = None;
        let exchange = &server.exchange;
        let in_block = exchange.status() != Status::Idle;
        if exchange.is_answered() {
            // It learns of it by the answer to its next request.
            client.stand_in = in_block.then(|| StandIn::new(true));
        } else if exchange.skips() {
            // The batch had failed before; what the client is owed comes with its Sync.
            // It may have ended the block before that, and read so.
            let in_block = in_block && !server.may_commit;
            let mut stand_in = StandIn::new(in_block);
            stand_in.begin_skipping(!in_block);
            client.stand_in = Some(stand_in);
        } else {
            let is_rolled_back = in_block && !server.may_commit;
            self.scratch.clear();
            answer(exchange, is_rolled_back, &mut self.scratch);
            net.write(client.socket, &self.scratch);
            let mut stand_in = StandIn::new(false);
            if exchange.is_batch_open() {
                // The rest of the batch is skipped, up to its Sync.
                stand_in.begin_skipping(!is_rolled_back);
                client.stand_in = Some(stand_in);
            } else {
                client.stand_in = is_rolled_back.then_some(stand_in);
            }
        }
        if client.awaits.is_some() {
            return self.go_on(net, id);
        }
        if core::mem::take(&mut client.is_paused) {
            net.resume(client.socket);
        }
    }

    /// A client whose server was lost before it could use it waits for another.
    fn ask_again<N: Net>(&mut self, net: &mut N, id: ClientId) {
        let Some(client) = self.clients.get_mut(id) else { return };
        if client.is_logging_in() {
            return self.ask_for_own(net, id);
        }
        let since = core::mem::replace(&mut client.since, self.now);
        if self.ask(net, id) {
            return self.go_on(net, id);
        }
        if let Some(client) = self.clients.get_mut(id) {
            client.since = since;
        }
    }

    /// A server of its own does not let a client begin with its settings.
    pub(super) fn settings_wrong<N: Net>(
        &mut self,
        net: &mut N,
        client: Option<ClientId>,
        error: &[u8],
    ) {
        let client = client.and_then(|client| self.clients.get(client));
        let Some(client) = client.filter(|client| client.waits_to_begin()) else { return };
        let id = client.id;
        net.write(client.socket, &rewrite::message(tag::ERROR, error));
        net.finish(client.socket);
        self.forget_client(net, id);
    }

    /// The server takes the client's settings for wrong, so it cannot be served.
    pub(super) fn settings_refused<N: Net>(&mut self, net: &mut N, id: ServerId, error: &[u8]) {
        let Some(server) = self.servers.get_mut(id) else { return };
        server.is_leaving = true;
        let Some(client) = server.client else { return };
        let Some(known) = self.clients.get(client) else { return };
        let fatal = known.is_logging_in().then(|| ended_by(error));
        net.write(known.socket, fatal.as_deref().unwrap_or(error));
        net.finish(known.socket);
        self.forget_client(net, client);
    }

    /// A client has begun a transaction block that its mode does not allow: it is rolled back.
    pub(super) fn block_refused<N: Net>(&mut self, net: &mut N, id: ServerId) {
        let Some(client) = self.servers.get(id).and_then(|server| server.client) else { return };
        let message = "transaction blocks are not allowed in statement pooling mode";
        self.refuse(net, client, SqlState::FEATURE_NOT_SUPPORTED, message);
    }

    /// Those who wait to be let in, and if `all` those who are in, are told that no server is to be
    /// had.
    pub(super) fn give_up<N: Net>(&mut self, net: &mut N, pool: usize, all: bool) {
        let entry = &mut self.entries[pool];
        let mut ids = core::mem::take(&mut entry.admission);
        let clients = &self.clients;
        let is_told = |id: &ClientId| all || clients.get(*id).is_some_and(Client::is_logging_in);
        ids.extend(entry.pool.waiting().filter(is_told));
        let Some(failure) = &entry.failure else { return };
        let said = String::from_utf8_lossy(&failure.reason);
        let (state, message) = match failure.refusal {
            // It is about the client, who reads what it would read there.
            Some(state) if state != SqlState::CANNOT_CONNECT => (state, said.into_owned()),
            _ => (SqlState::CANNOT_CONNECT, alloc::format!("no server can be used: {said}")),
        };
        for id in ids {
            if self.clients.get(id).is_some_and(Client::is_looked_up) {
                self.not_found(net, id, message.as_bytes());
            } else {
                self.refuse(net, id, state, &message);
            }
        }
    }
}

/// The answers that the server owes its client and will not give.
fn answer(exchange: &Exchange, is_rolled_back: bool, out: &mut Vec<u8>) {
    let (error, status) =
        if is_rolled_back { (rolled_back(), Status::Failed) } else { (unknown(), Status::Idle) };
    let readies = exchange.readies_owed();
    for _ in 0..readies {
        out.extend_from_slice(&error.to_bytes());
        backend::write::ready(out, status);
    }
    if readies == 0 || exchange.is_batch_open() {
        out.extend_from_slice(&error.to_bytes());
    }
}

/// The same error, as the end of the session that could not begin.
fn ended_by(error: &[u8]) -> Vec<u8> {
    let fatal = |field: u8| matches!(field, b'S' | b'V').then_some(&b"FATAL"[..]);
    let mut body = Vec::new();
    for (field, value) in Fields::new(&error[HEADER_BYTES..]) {
        body.push(field);
        body.extend_from_slice(fatal(field).unwrap_or(value));
        body.push(0);
    }
    body.push(0);
    rewrite::message(tag::ERROR, &body)
}

/// What was sent may have been committed, or not.
fn unknown() -> ErrorResponse<'static> {
    let message = "the server was lost before it answered; whether it committed is not known";
    let hint = "Look whether the change is there before you make it again.";
    let state = SqlState::TRANSACTION_RESOLUTION_UNKNOWN;
    ErrorResponse { hint, ..ErrorResponse::new(Severity::Error, state, message) }
}
