//! What operators do with databases and clients while everything runs.

use alloc::vec::Vec;

use pgx_wire::{ErrorResponse, Severity, SqlState};

use super::{Hold, Scope, Worker};
use crate::ids::{ClientId, ServerId};
use crate::net::Net;
use crate::time::Now;

/// What clients read whose connection an operator ends; PostgreSQL's words.
const ENDED: &str = "terminating connection due to administrator command";

impl Worker {
    /// Closes each server of a database when it is free, so that others take their place.
    pub fn reconnect<N: Net>(&mut self, net: &mut N, scope: Scope<'_>, now: Now) {
        self.now = now;
        let pools = self.within(scope);
        for server in self.servers_in(&pools) {
            if let Some(server) = self.servers.get_mut(server) {
                server.is_leaving = true;
            }
        }
        for pool in pools {
            self.close_all_idle(net, pool);
            self.serve(net, pool);
        }
    }

    /// Servers that are there until they are free, and no longer.
    #[must_use]
    pub fn leaving_of(&self, scope: Scope<'_>) -> usize {
        let pools = self.within(scope);
        let leaves =
            |server: &&crate::server::Server| server.is_leaving && pools.contains(&server.pool);
        self.servers.iter().filter(leaves).count()
    }

    /// Ends all clients and servers of a database at once, and holds those who come.
    pub fn kill<N: Net>(&mut self, net: &mut N, scope: Scope<'_>, now: Now) {
        self.hold(net, scope, Hold::default(), now);
        let pools = self.within(scope);
        let is_in = |client: &&crate::client::Client| {
            client.counted.in_pool && pools.contains(&client.pool)
        };
        let clients: Vec<ClientId> =
            self.clients.iter().filter(is_in).map(|client| client.id).collect();
        for client in clients {
            self.kill_client(net, client, now);
        }
        for server in self.servers_in(&pools) {
            self.server_lost(net, server, b"an operator has ended the database");
        }
    }

    /// Ends a client. Says whether it was there.
    pub fn kill_client<N: Net>(&mut self, net: &mut N, id: ClientId, now: Now) -> bool {
        self.now = now;
        let is_there = self.clients.get(id).is_some();
        let error = ErrorResponse::new(Severity::Fatal, SqlState::ADMIN_SHUTDOWN, ENDED);
        self.dismiss(net, id, &error);
        is_there
    }

    /// Lets a database take clients, or not; who is in stays in.
    pub fn enable(&mut self, database: &[u8], is_enabled: bool) {
        if is_enabled {
            self.disabled.remove(database);
        } else {
            self.disabled.insert(database.to_vec());
        }
    }

    fn servers_in(&self, pools: &[usize]) -> Vec<ServerId> {
        let is_in = |server: &&crate::server::Server| pools.contains(&server.pool);
        self.servers.iter().filter(is_in).map(|server| server.id).collect()
    }
}
