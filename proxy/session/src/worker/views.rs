//! Who is there now, for consoles and metrics: rows of plain values, made when they are asked for.
//!
//! Each is as of the moment of the question, and of this thread alone; whoever asks adds threads
//! up. Making them walks over all connections once, and over no more.

use alloc::vec::Vec;

use super::rows::{
    BackendView, ClientState, ClientView, DatabaseView, PoolView, ServerState, ServerView,
};
use super::{CONSOLES, Worker};
use crate::client::{self, Client};
use crate::route::ServerAddress;
use crate::server::{self, Server};
use crate::settings::Values;
use crate::stats::Row;
use crate::time::Now;
use pgx_wire::SqlState;

/// What one client costs while nothing of its is kept, in bytes.
pub const CLIENT_BYTES: usize = size_of::<Client>();

/// What one server connection costs while nothing of its is kept, in bytes.
pub const SERVER_BYTES: usize = size_of::<Server>();

impl Worker {
    /// What was counted, by user and database.
    pub fn stats(&self) -> impl Iterator<Item = &Row> {
        self.stats.rows()
    }

    /// With which codes clients were turned away, and how often.
    #[must_use]
    pub fn refusals(&self) -> &[(SqlState, u64)] {
        &self.refusals
    }

    /// All pools.
    #[must_use]
    pub fn pools(&self, now: Now) -> Vec<PoolView> {
        let mut all: Vec<PoolView> =
            (0..self.entries.len()).map(|place| self.empty_view(place, now)).collect();
        for client in self.clients.iter().filter(|client| client.counted.in_pool) {
            match self.client_state(client) {
                ClientState::Waiting | ClientState::Login => all[client.pool].cl_waiting += 1,
                _ => all[client.pool].cl_active += 1,
            }
        }
        for server in self.servers.iter() {
            let view = &mut all[server.pool];
            *match server_state(server) {
                ServerState::Login => &mut view.sv_login,
                ServerState::Active => &mut view.sv_active,
                ServerState::Idle => &mut view.sv_idle,
                ServerState::BeingCanceled => &mut view.sv_being_canceled,
                ServerState::Tested => &mut view.sv_tested,
            } += 1;
        }
        for cancel in self.cancels.iter() {
            let server = cancel.server.and_then(|server| self.servers.get(server));
            let Some(view) = server.map(|server| &mut all[server.pool]) else { continue };
            if cancel.is_sent {
                (view.cl_active_cancel_req, view.sv_active_cancel) =
                    (view.cl_active_cancel_req + 1, view.sv_active_cancel + 1);
            } else {
                view.cl_waiting_cancel_req += 1;
            }
        }
        let mut places = 0..;
        // Places of those that were forgotten are left out.
        all.retain(|_| places.next().is_some_and(|place| self.is_known(place)));
        all
    }

    /// All clients.
    pub fn client_views(&self, now: Now) -> impl Iterator<Item = ClientView> {
        self.clients.iter().map(move |client| self.client_view(client, now))
    }

    /// All servers.
    pub fn server_views(&self, now: Now) -> impl Iterator<Item = ServerView> {
        self.servers.iter().map(move |server| self.server_view(server, now))
    }

    /// All databases.
    #[must_use]
    pub fn databases(&self) -> Vec<DatabaseView> {
        let named = self.entries.iter().map(|entry| &entry.name.database);
        let mut names: Vec<&Vec<u8>> = self.config.databases.keys().chain(named).collect();
        names.sort_unstable();
        names.dedup();
        names.into_iter().filter_map(|name| self.database_view(name)).collect()
    }

    /// All backends of all pools.
    #[must_use]
    pub fn backends(&self, now: Now) -> Vec<BackendView> {
        let known = (0..self.entries.len()).filter(|place| self.is_known(*place));
        let mut all = Vec::new();
        for entry in known.map(|place| &self.entries[place]) {
            let database = &entry.name.database;
            all.extend(entry.router.states(now).map(|(address, is_out)| BackendView {
                database: database.clone(),
                address: address.clone(),
                is_out,
            }));
        }
        all
    }

    /// How many queries of clients each backend has answered.
    pub fn answered(&self) -> impl Iterator<Item = (&ServerAddress, u64)> {
        self.answered.iter().map(|(address, count)| (address, count.get()))
    }

    /// Whether a place has a pool that was not forgotten.
    fn is_known(&self, place: usize) -> bool {
        self.by_name.get(&self.entries[place].name) == Some(&place)
    }

    fn empty_view(&self, place: usize, now: Now) -> PoolView {
        let entry = &self.entries[place];
        let since_came =
            entry.admission.iter().filter_map(|id| Some(self.clients.get(*id)?.born)).min();
        let since = entry.pool.waits_since().into_iter().chain(since_came).min();
        PoolView {
            database: entry.name.database.clone(),
            user: entry.name.user.clone(),
            attrs: entry.name.attrs,
            is_replication: entry.name.is_replication(),
            mode: entry.name.mode,
            is_paused: entry.hold.is_some(),
            cl_active: 0,
            cl_waiting: 0,
            cl_active_cancel_req: 0,
            cl_waiting_cancel_req: 0,
            sv_active: 0,
            sv_active_cancel: 0,
            sv_being_canceled: 0,
            sv_idle: 0,
            sv_tested: 0,
            sv_login: 0,
            maxwait_us: since.map_or(0, |since| now.us_since(since)),
            is_counted_apart: entry.stats > 0,
            pool_size: entry.settings.pool_size,
            reserve: entry.settings.reserve,
        }
    }

    fn client_state(&self, client: &Client) -> ClientState {
        match client.phase {
            client::Phase::Cancels(_) => ClientState::CancelRequest,
            client::Phase::Console(_) => ClientState::Console,
            _ if client.is_waiting && client.server.is_none() => ClientState::Waiting,
            client::Phase::Startup(_) | client::Phase::Login(_) => ClientState::Login,
            client::Phase::Ready if client.server.is_some() => ClientState::Active,
            client::Phase::Ready => ClientState::Idle,
        }
    }

    fn client_view(&self, client: &Client, now: Now) -> ClientView {
        let entry = client.counted.in_pool.then(|| &self.entries[client.pool].name);
        let login = match &client.phase {
            client::Phase::Login(login) if !login.user.is_empty() => Some(&**login),
            _ => None,
        };
        let of_entry = entry.map(|name| (&name.user, &name.database));
        let (user, database) =
            of_entry.or(login.map(|login| (&login.user, &login.database))).unzip();
        let console = CONSOLES[0].to_vec();
        let is_console = matches!(client.phase, client::Phase::Console(_));
        let database = database.or(is_console.then_some(&console));
        let user = client.user.as_deref().or(user.map(|user| &user[..])).unwrap_or_default();
        let state = self.client_state(client);
        let request_us = now.us_since(client.since);
        let server = client.server.and_then(|server| self.servers.get(server));
        ClientView {
            id: client.id,
            socket: client.socket,
            process: client.process,
            state,
            user: user.to_vec(),
            database: database.cloned().unwrap_or_default(),
            application_name: application_name(client.settings.values()),
            connected_us: now.us_since(client.born),
            request_us,
            wait_us: if state == ClientState::Waiting { request_us } else { 0 },
            link: client.server,
            is_pinned: client.shares() && server.is_some_and(|server| server.is_kept),
            is_tls: client.is_encrypted,
            prepared: client.names.len(),
            is_replication: client.is_replicating,
        }
    }

    fn server_view(&self, server: &Server, now: Now) -> ServerView {
        let name = &self.entries[server.pool].name;
        ServerView {
            id: server.id,
            socket: server.socket,
            process: server.key.0,
            state: server_state(server),
            user: name.user.clone(),
            database: name.database.clone(),
            address: server.address.clone(),
            application_name: application_name(server.settings.values()),
            connected_us: now.us_since(server.born),
            request_us: now.us_since(server.since),
            link: server.client,
            is_leaving: server.is_leaving,
            is_tls: server.is_encrypted,
            prepared: server.prepared.len(),
            is_replication: name.is_replication(),
        }
    }

    fn database_view(&self, name: &[u8]) -> Option<DatabaseView> {
        let settings = self.config.database(name)?;
        let pools = || self.entries.iter().filter(|entry| entry.name.database == name);
        Some(DatabaseView {
            name: name.to_vec(),
            backends: settings.backends.clone(),
            dbname: settings.name.clone(),
            force_user: settings.login.as_ref().map(|login| login.user.clone()),
            mode: settings.mode,
            pool_size: settings.pool_size,
            min_pool_size: settings.pool_min,
            reserve: settings.reserve,
            max_connections: settings.servers_max,
            max_client_connections: settings.clients_max,
            connections: pools().map(|entry| entry.pool.total()).sum(),
            client_connections: pools().map(|entry| entry.clients).sum(),
            hold: self.hold_of(name),
            is_disabled: self.disabled.contains(name),
        })
    }
}

fn server_state(server: &Server) -> ServerState {
    match server.phase {
        server::Phase::Ready if server.client.is_some() => ServerState::Active,
        server::Phase::Ready if !server.exchange.is_answered() => ServerState::Tested,
        server::Phase::Ready if server.cancels > 0 => ServerState::BeingCanceled,
        server::Phase::Ready => ServerState::Idle,
        _ => ServerState::Login,
    }
}

fn application_name(values: &Values) -> Vec<u8> {
    values.get(&b"application_name"[..]).cloned().unwrap_or_default()
}
