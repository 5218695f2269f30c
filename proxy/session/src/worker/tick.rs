//! What the passing of time leads to.

use alloc::vec::Vec;

use pgx_wire::SqlState;
use pgx_wire::backend::Status;

use super::Worker;
use crate::client::{Client, Phase};
use crate::config::Limits;
use crate::ids::ClientId;
use crate::net::Net;
use crate::server;
use crate::time::Now;

/// What a client is told whose database was held for too long.
const HELD: &str = "the database is paused, and was not resumed in time";

/// Why a client has to go.
type Verdict = (ClientId, SqlState, &'static str);

impl Worker {
    /// Looks at everything that has a limit. To be called several times a second while there are
    /// connections.
    pub fn tick<N: Net>(&mut self, net: &mut N, now: Now) {
        self.now = now;
        let overdue: Vec<Verdict> =
            self.clients.iter().filter_map(|client| self.is_overdue(client)).collect();
        for (id, state, message) in overdue {
            if let Some(client) = self.clients.get_mut(id)
                && matches!(client.phase, Phase::Startup(_))
            {
                // It has had its time to say something.
                client.doom.push(0);
            }
            if self.clients.get(id).is_some_and(|each| matches!(each.phase, Phase::Cancels(_))) {
                self.end_asker(net, id);
                continue;
            }
            let server = self.clients.get(id).and_then(|client| client.server);
            let server = server.and_then(|server| self.servers.get_mut(server));
            if let Some(server) = server.filter(|_| state == SqlState::TRANSACTION_TIMEOUT) {
                server.is_leaving = true;
            }
            self.refuse(net, id, state, message);
        }
        self.tick_late(net);
        self.tick_servers(net);
        self.tick_cancels(net);
        for pool in 0..self.entries.len() {
            self.tick_drain(net, pool);
            self.entries[pool].is_denied = false;
            self.offer_idle(net, pool);
            self.keep_min(net, pool);
            self.ask_idle_lags(net, pool);
            self.serve(net, pool);
            self.forget_empty(pool);
        }
    }

    fn is_overdue(&self, client: &Client) -> Option<Verdict> {
        let Limits { client_login_ms, query_wait_ms, client_idle_ms, .. } = self.config.limits;
        let over = |limit: u64| limit > 0 && self.now >= client.since.after_ms(limit);
        let id = client.id;
        if client.is_looked_up() && client_login_ms > 0 {
            // It has proved nothing, however long others may wait.
            let is_late = self.now >= client.born.after_ms(client_login_ms);
            let message = "the login took too long";
            return is_late.then_some((id, SqlState::CANNOT_CONNECT_NOW, message));
        }
        match client.phase {
            Phase::Startup(_) | Phase::Login(_) | Phase::Cancels(_) if !client.is_waiting => over(
                client_login_ms,
            )
            .then_some((id, SqlState::CANNOT_CONNECT_NOW, "the login took too long")),
            Phase::Console(_) => None,
            _ if client.is_waiting => {
                let hold = self.entries[client.pool].hold.filter(|_| client.server.is_none());
                let (state, message) = match hold {
                    Some(_) => (SqlState::CANNOT_CONNECT_NOW, HELD),
                    None => (SqlState::CONNECTION_FAILURE, "no server was free in time"),
                };
                let own = hold.is_some_and(|hold| over(hold.wait_ms));
                (own || over(query_wait_ms)).then_some((id, state, message))
            }
            _ => {
                let server = client.server.and_then(|server| self.servers.get(server));
                if server.is_some_and(|server| server.exchange.is_opaque()) {
                    // Replication is one query without an end.
                    return None;
                }
                if server.is_some_and(|server| self.lasts_too_long(server)) {
                    let message = "the transaction took longer than transaction_timeout";
                    return Some((id, SqlState::TRANSACTION_TIMEOUT, message));
                }
                let is_answered = server.is_none_or(|server| server.exchange.is_answered());
                let in_block = client.stand_in.is_some()
                    || server.is_some_and(|server| server.exchange.status() != Status::Idle);
                match (is_answered, in_block) {
                    (false, _) => over(self.config.limits.query_ms).then_some((
                        id,
                        SqlState::QUERY_CANCELED,
                        "the query took longer than query_timeout",
                    )),
                    (true, true) => over(self.config.limits.idle_transaction_ms).then_some((
                        id,
                        SqlState::IDLE_IN_TRANSACTION_TIMEOUT,
                        "the transaction was idle longer than idle_transaction_timeout",
                    )),
                    (true, false) => over(client_idle_ms).then_some((
                        id,
                        SqlState::IDLE_SESSION_TIMEOUT,
                        "the session was idle longer than client_idle_timeout",
                    )),
                }
            }
        }
    }

    /// Whether the transaction that a client has on a server takes longer than it may.
    fn lasts_too_long(&self, server: &server::Server) -> bool {
        let limit = self.config.limits.transaction_ms;
        let begun = server.begun.filter(|_| limit > 0 && server.exchange.in_transaction());
        begun.is_some_and(|begun| self.now >= begun.after_ms(limit))
    }

    /// Servers that have been idle or alive too long go; those that do not answer as well.
    fn tick_servers<N: Net>(&mut self, net: &mut N) {
        let Limits { server_idle_ms, server_lifetime_ms, server_connect_ms, .. } =
            self.config.limits;
        let over = |since: Now, limit: u64| limit > 0 && self.now >= since.after_ms(limit);
        let mut stuck = Vec::new();
        let mut old = Vec::new();
        for server in self.servers.iter() {
            let is_ready = matches!(server.phase, server::Phase::Ready);
            if !is_ready && over(server.born, server_connect_ms) {
                stuck.push(server.id);
            }
            // A query of the proxy's own has no client that waits for it with a limit.
            let is_stuck = server.client.is_none() && !server.exchange.is_answered();
            if is_ready && is_stuck && over(server.since, server_connect_ms) {
                stuck.push(server.id);
            }
            if over(server.born, server_lifetime_ms) {
                old.push(server.id);
            }
        }
        for id in stuck {
            self.server_lost(net, id, b"the server did not answer in time");
        }
        for pool in 0..self.entries.len() {
            let idle: Vec<_> = self.entries[pool].pool.idle().collect();
            for id in idle {
                let is_idle =
                    |server: &server::Server| over_idle(server.since, self.now, server_idle_ms);
                if old.contains(&id) {
                    self.close_idle(net, id);
                } else if self.servers.get(id).is_some_and(is_idle)
                    && self.permits.give_spare(self.entries[pool].key)
                {
                    self.end_idle(net, id);
                }
            }
        }
        for id in old {
            if let Some(server) = self.servers.get_mut(id) {
                server.is_leaving = true;
            }
        }
    }
}

fn over_idle(since: Now, now: Now, limit: u64) -> bool {
    limit > 0 && now >= since.after_ms(limit)
}
