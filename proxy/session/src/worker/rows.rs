//! Rows of consoles and metrics: pools, clients, servers, databases and backends as plain values.
//! They are made in `views.rs`.

use alloc::string::String;
use alloc::vec::Vec;

use super::Hold;
use crate::attrs::SessionAttrs;
use crate::config::PoolMode;
use crate::ids::{ClientId, ServerId};
use crate::net::Socket;
use crate::route::{Backend, ServerAddress};

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
