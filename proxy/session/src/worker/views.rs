//! Who is there now, for consoles and metrics: rows of plain values, made when they are asked for.
//!
//! Each is as of the moment of the question, and of this thread alone; whoever asks adds threads
//! up. Making them walks over all connections once, and over no more.

use alloc::string::String;
use alloc::vec::Vec;

use super::{CONSOLES, Hold, Worker};
use crate::attrs::SessionAttrs;
use crate::client::{self, Client};
use crate::config::PoolMode;
use crate::ids::{ClientId, ServerId};
use crate::net::Socket;
use crate::route::{Backend, ServerAddress};
use crate::server::{self, Server};
use crate::stats::Row;
use crate::time::Now;
use pgx_wire::SqlState;

/// Clients and servers of a pool, by PgBouncer's words (`SHOW POOLS`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolView {
    /// The database, as clients name it.
    pub database: Vec<u8>,
    /// As whom its servers are used.
    pub user: Vec<u8>,
    /// Which servers its clients want.
    pub attrs: SessionAttrs,
    /// Whether its servers are replication connections.
    pub is_replication: bool,
    /// When clients give their servers back.
    pub mode: PoolMode,
    /// Whether new transactions are held.
    pub is_paused: bool,
    /// Clients that are in and do not wait, whether they have a server or not.
    pub cl_active: u64,
    /// Clients that wait for a server.
    pub cl_waiting: u64,
    /// Requests to cancel that its servers have got, and have not acted on.
    pub cl_active_cancel_req: u64,
    /// Requests to cancel that are on their way to its servers.
    pub cl_waiting_cancel_req: u64,
    /// Servers that clients have.
    pub sv_active: u64,
    /// Connections that carry requests to cancel.
    pub sv_active_cancel: u64,
    /// Servers that will be idle when such requests have arrived.
    pub sv_being_canceled: u64,
    /// Servers that are free.
    pub sv_idle: u64,
    /// Servers of nobody's that answer a query of the proxy's own: they are cleared, or asked how
    /// far behind they are.
    pub sv_tested: u64,
    /// Servers that are being opened.
    pub sv_login: u64,
    /// How long the first client has waited that waits now, in microseconds.
    pub maxwait_us: u64,
    /// Whether it has a row of its own among what is counted.
    pub is_counted_apart: bool,
    /// Servers at most.
    pub pool_size: usize,
    /// Servers beyond that, for clients that have waited long.
    pub reserve: usize,
}

impl PoolView {
    /// The same pool on another thread comes to it. Its bounds hold over all of them.
    pub fn merge(&mut self, other: &Self) {
        for (own, other) in [
            (&mut self.cl_active, other.cl_active),
            (&mut self.cl_waiting, other.cl_waiting),
            (&mut self.cl_active_cancel_req, other.cl_active_cancel_req),
            (&mut self.cl_waiting_cancel_req, other.cl_waiting_cancel_req),
            (&mut self.sv_active, other.sv_active),
            (&mut self.sv_active_cancel, other.sv_active_cancel),
            (&mut self.sv_being_canceled, other.sv_being_canceled),
            (&mut self.sv_idle, other.sv_idle),
            (&mut self.sv_tested, other.sv_tested),
            (&mut self.sv_login, other.sv_login),
        ] {
            *own += other;
        }
        self.maxwait_us = self.maxwait_us.max(other.maxwait_us);
        self.is_paused |= other.is_paused;
        self.is_counted_apart |= other.is_counted_apart;
    }
}

/// What a client is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientState {
    /// It has not been let in, and waits for no server.
    Login,
    /// It waits for a server.
    Waiting,
    /// It has a server.
    Active,
    /// It is in, and needs no server now.
    Idle,
    /// It has asked to cancel something.
    CancelRequest,
    /// It talks to pgx itself.
    Console,
}

/// One client (`SHOW CLIENTS`). Its addresses are known to whoever has its socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientView {
    /// Which.
    pub id: ClientId,
    /// Its connection.
    pub socket: Socket,
    /// The number that it was told, by which it cancels; zero before that.
    pub process: u32,
    /// What it is about.
    pub state: ClientState,
    /// As whom it has logged in; empty before it has.
    pub user: Vec<u8>,
    /// The database, as it names it; empty before that is known.
    pub database: Vec<u8>,
    /// Its `application_name`.
    pub application_name: Vec<u8>,
    /// How long it has been there, in microseconds.
    pub connected_us: u64,
    /// Since when it is in its state, or has sent a request that is not answered, in microseconds
    /// until now.
    pub request_us: u64,
    /// How long it has waited for a server; zero if it does not.
    pub wait_us: u64,
    /// The server that it has.
    pub link: Option<ServerId>,
    /// It keeps that beyond its transaction, because of what it has left there.
    pub is_pinned: bool,
    /// Whether the connection is encrypted.
    pub is_tls: bool,
    /// Statements with names that it has prepared.
    pub prepared: usize,
    /// Whether it is about replication.
    pub is_replication: bool,
}

/// What a server is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerState {
    /// It is being opened.
    Login,
    /// A client has it.
    Active,
    /// It is free.
    Idle,
    /// It will be free when a request to cancel has arrived.
    BeingCanceled,
    /// It answers a query of the proxy's own.
    Tested,
}

/// One server connection (`SHOW SERVERS`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerView {
    /// Which.
    pub id: ServerId,
    /// Its connection.
    pub socket: Socket,
    /// The number of its process there; zero before it is known.
    pub process: u32,
    /// What it is about.
    pub state: ServerState,
    /// As whom it is used.
    pub user: Vec<u8>,
    /// The database, as clients name it.
    pub database: Vec<u8>,
    /// The backend.
    pub address: ServerAddress,
    /// Its `application_name`.
    pub application_name: Vec<u8>,
    /// How long it has been there, in microseconds.
    pub connected_us: u64,
    /// Since when it is idle, or its client has sent a request that is not answered, in
    /// microseconds until now.
    pub request_us: u64,
    /// The client that has it.
    pub link: Option<ClientId>,
    /// It is closed when it is free.
    pub is_leaving: bool,
    /// Whether the connection is encrypted.
    pub is_tls: bool,
    /// Statements that are prepared on it.
    pub prepared: usize,
    /// Whether it is a replication connection.
    pub is_replication: bool,
}

/// One database (`SHOW DATABASES`): those that are configured, and those that clients have named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatabaseView {
    /// Its name for clients; `*` stands for all that are not named.
    pub name: Vec<u8>,
    /// Where it is configured to be.
    pub backends: Vec<Backend>,
    /// Its name there; the same if there is none.
    pub dbname: Option<String>,
    /// The user that all its clients are there, if they are one.
    pub force_user: Option<Vec<u8>>,
    /// When clients give their servers back.
    pub mode: PoolMode,
    /// Servers of each user.
    pub pool_size: usize,
    /// Of these, that stay.
    pub min_pool_size: usize,
    /// Beyond these, for clients that have waited long.
    pub reserve: usize,
    /// Servers of all users; zero means no limit.
    pub max_connections: usize,
    /// Clients; zero means no limit.
    pub max_client_connections: usize,
    /// Servers that there are.
    pub connections: usize,
    /// Clients that there are.
    pub client_connections: usize,
    /// How new transactions are held.
    pub hold: Option<Hold>,
    /// It takes no clients, by an operator's word.
    pub is_disabled: bool,
}

/// A backend, as one pool sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendView {
    /// The database whose pool that is.
    pub database: Vec<u8>,
    /// Where it is.
    pub address: ServerAddress,
    /// It is left out for now, since it failed, is behind, or is not of the kind that is wanted.
    pub is_out: bool,
}

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

fn application_name(values: &crate::settings::Values) -> Vec<u8> {
    values.get(&b"application_name"[..]).cloned().unwrap_or_default()
}
