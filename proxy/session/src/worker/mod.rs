//! All sessions of one thread: who has which server, and what each message leads to.
//!
//! The driver hands over what happened, with the time; what is to be done goes out through
//! [`Net`]. Nothing here waits, and nothing is shared with other threads.

mod auth;
mod cancel;
mod console;
mod course;
mod entry;
mod fail;
mod from_client;
mod from_server;
mod guard;
mod hash;
mod hold;
mod login;
mod lookup;
mod operate;
mod query;
mod reload;
mod rewrite;
mod rows;
mod share;
mod shutdown;
mod standby;
mod state;
mod strict;
mod tick;
mod views;

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::Cell;

use pgx_wire::auth::Key;
use pgx_wire::backend::{self, Status};
use pgx_wire::frontend;
use pgx_wire::{ErrorResponse, Severity, SqlState};

pub use cancel::{Asker, Cancels, Request};
pub use console::{CONSOLES, is_console};
pub use hash::Print;
pub(crate) use hash::Waits;
pub use login::thread_of;

use crate::attrs::SessionAttrs;
use crate::client::{self, Client};
use crate::config::{Config, PoolMode};
use crate::exchange::Owed;
use crate::guesses::Source;
use crate::ids::{CancelId, ClientId, Places, ServerId};
use crate::net::{Console, Net, Socket};
use crate::note::Note;
use crate::permits::{Permits, Whose};
use crate::pool::Lease;
use crate::route::{Course, Epoch, ServerAddress, Snapshot};
use crate::scan::Words;
use crate::server::Server;
use crate::statements::Statements;
use crate::stats::{Book, Totals};
use crate::time::Now;
use entry::{Entry, Failure};
pub use hold::{Hold, Scope};
pub use views::{CLIENT_BYTES, SERVER_BYTES};

pub use rows::{
    BackendView, ClientState, ClientView, DatabaseView, PoolView, ServerState, ServerView,
};

/// What a worker counts, since it began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Clients that came.
    pub clients: u64,
    /// Clients that were turned away.
    pub refused: u64,
    /// Server connections that could not be opened.
    pub unreachable: u64,
    /// What has become of requests to cancel.
    pub cancels: Cancels,
}

/// How many there are now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gauges {
    /// Clients.
    pub clients: usize,
    /// Clients at most, on all threads.
    pub clients_max: usize,
    /// Clients that wait for a server.
    pub waiting: usize,
    /// Server connections.
    pub servers: usize,
}

/// The sessions of one thread.
#[derive(Debug)]
pub struct Worker {
    config: Rc<Config>,
    permits: Box<dyn Permits>,
    /// Which of the threads this is; a part of the numbers by which queries are cancelled.
    number: u8,
    clients: Places<Client>,
    servers: Places<Server>,
    cancels: Places<cancel::Cancel>,
    /// Since when how many requests to cancel were passed on to other nodes.
    passed_on: (Now, u32),
    entries: Vec<Entry>,
    by_name: BTreeMap<entry::Name, usize>,
    /// Places in `entries` of pools that were forgotten.
    free_entries: Vec<usize>,
    /// How databases are held, by their names; those that are not there, as all are.
    holds: BTreeMap<Vec<u8>, Option<Hold>>,
    hold_all: Option<Hold>,
    /// Databases that take no clients, by an operator's word.
    disabled: BTreeSet<Vec<u8>>,
    /// Who serves them, where that is not what the configuration says.
    snapshots: BTreeMap<Vec<u8>, Snapshot>,
    /// Who serves, by the cluster's word; where there is one, that is what counts.
    course: Option<Course>,
    statements: Statements,
    hashes: hash::Hashes,
    guard: guard::Guard,
    /// By this users who do not exist look like others.
    mock: Key,
    counts: Counts,
    /// With which codes clients were turned away, how often.
    refusals: Vec<(SqlState, u64)>,
    stats: Book,
    /// How many queries each backend has answered, of those that were ever connected to.
    answered: BTreeMap<ServerAddress, Rc<Cell<u64>>>,
    now: Now,
    scratch: Vec<u8>,
}

/// Who has a connection, for the driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// A client.
    Client(ClientId),
    /// A server connection.
    Server(ServerId),
    /// A connection that carries a request to cancel.
    Cancel(CancelId),
}

impl Worker {
    /// A worker without sessions.
    #[must_use]
    pub fn new<N: Net>(
        config: Rc<Config>,
        permits: Box<dyn Permits>,
        number: u8,
        net: &mut N,
    ) -> Self {
        let mut worker = Self {
            config,
            permits,
            number,
            clients: Places::default(),
            servers: Places::default(),
            cancels: Places::default(),
            passed_on: (Now(0), 0),
            entries: Vec::new(),
            by_name: BTreeMap::new(),
            free_entries: Vec::new(),
            holds: BTreeMap::new(),
            hold_all: None,
            disabled: BTreeSet::new(),
            snapshots: BTreeMap::new(),
            course: None,
            statements: Statements::default(),
            hashes: hash::Hashes::default(),
            guard: guard::Guard::default(),
            mock: auth::mock_secret(net),
            counts: Counts::default(),
            refusals: Vec::new(),
            stats: Book::default(),
            answered: BTreeMap::new(),
            now: Now(0),
            scratch: Vec::new(),
        };
        worker.enter_those_with_min();
        worker
    }

    /// What was counted so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// How many there are now.
    #[must_use]
    pub fn gauges(&self) -> Gauges {
        let waiting = self.clients.iter().filter(|client| client.is_waiting).count();
        let (clients, servers) = (self.clients.len(), self.servers.len());
        Gauges { clients, clients_max: self.config.clients_max, waiting, servers }
    }

    /// Whether a client is there and has not been let in.
    #[must_use]
    pub fn is_outside(&self, id: ClientId) -> bool {
        let phase = self.clients.get(id).map(|client| &client.phase);
        matches!(phase, Some(client::Phase::Startup(_) | client::Phase::Login(_)))
    }

    /// A client has connected, where clients want such servers unless they say otherwise.
    pub fn accepted<N: Net>(
        &mut self,
        net: &mut N,
        socket: Socket,
        listener: SessionAttrs,
        now: Now,
    ) -> ClientId {
        self.now = now;
        self.counts.clients += 1;
        let mut secret = [0; 32];
        net.random(&mut secret);
        cancel::sign(&mut secret, self.config.peers.own);
        let source = Source::of(net.address(socket));
        let serial = u32::try_from(self.counts.clients & 0x00ff_ffff).unwrap_or(0);
        let id = self.clients.add(|id| {
            let client = Client::new(id, socket, serial, secret, now);
            Client { listener, source, ..client }
        });
        let enters = self.permits.enter(Whose::All, self.config.clients_max);
        if let Some(client) = self.clients.get_mut(id).filter(|_| enters) {
            client.counted.among_all = true;
        } else {
            let state = SqlState::TOO_MANY_CONNECTIONS;
            self.refuse(net, id, state, "too many clients already");
        }
        id
    }

    /// A socket that was blocked has sent all that it was given.
    pub fn drained<N: Net>(&mut self, net: &mut N, owner: Owner, now: Now) {
        self.now = now;
        match owner {
            Owner::Client(id) => {
                let Some(client) = self.clients.get_mut(id) else { return };
                let server = client.server.and_then(|server| self.servers.get_mut(server));
                let is_free = server.as_ref().is_none_or(|each| !net.is_blocked(each.socket));
                let is_ready = matches!(client.phase, client::Phase::Ready);
                let goes_on = !client.is_waiting && client.awaits.is_none();
                if matches!(client.phase, client::Phase::Console(_)) {
                    return self.console_bytes(net, id, b"");
                }
                if client.is_paused && is_ready && is_free && goes_on {
                    client.is_paused = false;
                    net.resume(client.socket);
                }
                if let Some(server) = server.filter(|server| server.is_paused) {
                    server.is_paused = false;
                    net.resume(server.socket);
                }
            }
            Owner::Cancel(_) => {}
            Owner::Server(id) => {
                let client = self.servers.get(id).and_then(|server| server.client);
                let client = client.and_then(|client| self.clients.get_mut(client));
                if let Some(client) = client.filter(|each| each.is_paused)
                    && !client.is_waiting
                    && client.awaits.is_none()
                    && !net.is_blocked(client.socket)
                {
                    client.is_paused = false;
                    net.resume(client.socket);
                }
            }
        }
    }

    /// What is counted of a pool.
    fn totals(&mut self, pool: usize) -> &mut Totals {
        self.stats.at(self.entries[pool].stats)
    }

    /// A client was turned away; of codes there are few.
    fn count_refusal(&mut self, state: SqlState) {
        self.counts.refused += 1;
        match self.refusals.iter_mut().find(|(known, _)| *known == state) {
            Some((_, count)) => *count += 1,
            None => self.refusals.push((state, 1)),
        }
    }

    /// Ends a client with an error that it can show.
    fn refuse<N: Net>(&mut self, net: &mut N, id: ClientId, state: SqlState, message: &str) {
        self.count_refusal(state);
        net.note(&Note::Refused { client: id, reason: message });
        self.dismiss(net, id, &ErrorResponse::new(Severity::Fatal, state, message));
    }

    /// Sends a client its last message.
    fn dismiss<N: Net>(&mut self, net: &mut N, id: ClientId, error: &ErrorResponse<'_>) {
        let Some(client) = self.clients.get_mut(id) else { return };
        if matches!(client.phase, client::Phase::Startup(_)) && client.doom.is_empty() {
            // It has asked for nothing yet: what it gets is the answer to that.
            client.doom = error.to_bytes();
            return;
        }
        let server = client.server.and_then(|server| self.servers.get(server));
        // Within a message of the server's it could not be read.
        if !server.is_some_and(Server::is_cut) {
            net.write(client.socket, &error.to_bytes());
        }
        net.finish(client.socket);
        self.forget_client(net, id);
    }

    /// The client is gone; its server is given back or closed.
    fn forget_client<N: Net>(&mut self, net: &mut N, id: ClientId) {
        let Some(client) = self.clients.remove(id) else { return };
        if matches!(client.phase, client::Phase::Console(_)) {
            net.console(id, Console::Ends);
        }
        self.uncount_client(&client.counted, client.pool);
        for statement in client.names.into_values() {
            self.statements.give_back(&statement);
        }
        if let Some(entry) = self.entries.get_mut(client.pool) {
            entry.pool.leave(id);
            entry.admission.retain(|known| *known != id);
        }
        let Some(server_id) = client.server else { return };
        let is_once = self.config.limits.server_lifetime_ms == 0;
        let Some(server) = self.servers.get_mut(server_id) else { return };
        server.client = None;
        server.is_leaving |= is_once;
        // The rest of half a message would be the next client's.
        let is_between = client.walker.is_between() && server.walker.is_between();
        let is_usable = is_between
            && !self.entries[server.pool].name.is_replication()
            && server.exchange.is_answered()
            && !server.exchange.is_doubtful()
            && !server.exchange.is_opaque();
        if !is_usable || server.is_leaving {
            return self.close_server(net, server_id);
        }
        // What a block has set is not set any more when it is undone.
        let is_undone = server.exchange.status() != Status::Idle;
        let may_differ = is_undone && server.words.has(Words::SETTING);
        let shared = client.mode != PoolMode::Session && !server.is_kept && !may_differ;
        let mut queries: Vec<&[u8]> = Vec::new();
        if is_undone {
            queries.push(b"ROLLBACK");
        }
        if !shared {
            queries.push(b"DISCARD ALL");
            server.prepared.clear();
            server.settings = server.base.clone();
        }
        server.is_kept = false;
        server.words = Words::default();
        server.has_unnamed = false;
        server.since = self.now;
        for query in &queries {
            self.scratch.clear();
            frontend::write::query(&mut self.scratch, query);
            net.write(server.socket, &self.scratch);
            server.exchange.owe(Owed::OurQuery);
        }
        if server.is_paused {
            server.is_paused = false;
            net.resume(server.socket);
        }
        if queries.is_empty() {
            self.give_back(net, server_id);
        }
    }

    /// A server without a client is free for the next.
    fn give_back<N: Net>(&mut self, net: &mut N, id: ServerId) {
        let Some(server) = self.servers.get_mut(id) else { return };
        if server.cancels > 0 {
            // Nobody else may meet a cancel that was meant for the last client.
            return;
        }
        if let Some(lookup) = server.lookup.take() {
            self.looked_up(net, *lookup);
        }
        let Some(server) = self.servers.get_mut(id) else { return };
        let entry = &mut self.entries[server.pool];
        entry.may_be_over = entry.may_be_over && self.permits.is_over(entry.key);
        let is_too_many = entry.may_be_over;
        let is_old = server.epoch < self.entries[server.pool].router.epoch();
        let is_held = self.entries[server.pool].is_emptied();
        let is_used_up = self.config.limits.server_lifetime_ms == 0 && server.begun.is_some();
        let is_leaving = server.is_leaving || is_used_up;
        let is_over = server.exchange.is_doubtful() || is_leaving || is_old || is_held;
        if is_over || is_too_many || !self.is_near(net, id) {
            return self.close_server(net, id);
        }
        if self.ask_lag(net, id) {
            return;
        }
        let Some(server) = self.servers.get_mut(id) else { return };
        server.since = self.now;
        let pool = server.pool;
        let entry = &mut self.entries[pool];
        entry.pool.give_back(id, self.now);
        if entry.is_wanted {
            self.offer_idle(net, pool);
        }
        self.serve(net, pool);
    }

    /// Ends a server connection that nobody may use any more.
    fn close_server<N: Net>(&mut self, net: &mut N, id: ServerId) {
        let Some(server) = self.servers.remove(id) else { return };
        if server.exchange.is_doubtful() {
            self.totals(server.pool).doubtful += 1;
            net.note(&Note::Doubtful { server: id });
        }
        self.scratch.clear();
        frontend::write::terminate(&mut self.scratch);
        net.write(server.socket, &self.scratch);
        net.finish(server.socket);
        self.entries[server.pool].pool.lost(id);
        self.give_permit(server.pool);
        if let Some(lookup) = &server.lookup {
            self.look_up_again(net, lookup.client);
        }
        self.serve(net, server.pool);
    }

    /// Gives free servers to those who wait, and opens more where that is allowed.
    fn serve<N: Net>(&mut self, net: &mut N, pool: usize) {
        while !self.entries[pool].is_held() {
            let (clients, servers) = (&self.clients, &self.servers);
            let fits = |client, server| are_fit(clients.get(client), servers.get(server));
            let Some((client, server)) = self.entries[pool].pool.match_up(fits) else { break };
            self.link(net, client, server);
        }
        self.open_wanted(net, pool);
        self.make_room(net, pool);
    }

    /// Closes idle servers that fit nobody who waits, where there may be no more beside them.
    fn make_room<N: Net>(&mut self, net: &mut N, pool: usize) {
        loop {
            let entry = &self.entries[pool];
            let Some(oldest) = entry.pool.idle().next() else { return };
            if entry.is_held() || !entry.is_denied || !entry.pool.wants_more() {
                return;
            }
            self.close_idle(net, oldest);
            self.open_wanted(net, pool);
        }
    }

    /// A client that is to have a server of its own waits for one that it can begin with.
    fn ask_for_own<N: Net>(&mut self, net: &mut N, id: ClientId) {
        let Some(client) = self.clients.get_mut(id) else { return };
        if !core::mem::replace(&mut client.is_waiting, true) {
            client.since = self.now;
        }
        if !client.is_paused {
            client.is_paused = true;
            net.pause(client.socket);
        }
        let pool = client.pool;
        self.entries[pool].pool.wait(id, self.now);
        self.serve(net, pool);
    }

    /// A client needs a server. Says whether it has one now; else it waits.
    fn ask<N: Net>(&mut self, net: &mut N, id: ClientId) -> bool {
        let Some(client) = self.clients.get_mut(id) else { return false };
        let pool = client.pool;
        let entry = &mut self.entries[pool];
        client.is_waiting = true;
        client.since = self.now;
        match entry.pool.ask(id, self.now) {
            Lease::Server(server) if !entry.is_held() => {
                self.take(net, id, server);
                if self.clients.get(id).is_some_and(|client| !client.is_waiting) {
                    return true;
                }
            }
            Lease::Server(server) => {
                entry.pool.give_back(server, self.now);
                entry.pool.wait(id, self.now);
            }
            Lease::Wait => self.open_wanted(net, pool),
        }
        // What comes meanwhile is kept: it should be little.
        if let Some(client) = self.clients.get_mut(id).filter(|client| !client.is_paused) {
            client.is_paused = true;
            net.pause(client.socket);
        }
        false
    }

    /// A client that has waited gets its server, and goes on.
    fn link<N: Net>(&mut self, net: &mut N, id: ClientId, server: ServerId) {
        if self.clients.get(id).is_some_and(Client::is_looked_up) {
            return self.look_up_on(net, id, server);
        }
        self.take(net, id, server);
        if self.clients.get(id).is_some_and(|client| !client.is_waiting) {
            self.go_on(net, id);
        }
    }

    /// A client may send what was held.
    fn go_on<N: Net>(&mut self, net: &mut N, id: ClientId) {
        let Some(client) = self.clients.get_mut(id) else { return };
        client.is_waiting = false;
        client.awaits = None;
        if matches!(client.phase, client::Phase::Login(_)) {
            return self.session_begun(net, id);
        }
        let held = core::mem::take(&mut client.held);
        if core::mem::take(&mut client.is_paused) {
            net.resume(client.socket);
        }
        self.client_piece(net, id, &held, false);
    }

    /// The client has this server from now on.
    fn take<N: Net>(&mut self, net: &mut N, id: ClientId, server_id: ServerId) {
        let (Some(client), Some(server)) =
            (self.clients.get_mut(id), self.servers.get_mut(server_id))
        else {
            return;
        };
        let waits_since = core::mem::replace(&mut client.since, self.now);
        client.server = Some(server_id);
        server.client = Some(id);
        (server.since, server.asked, server.replied) = (self.now, self.now, None);
        let totals = self.stats.at(self.entries[server.pool].stats);
        totals.waits.add(self.now.us_since(waits_since));
        adjust(net, &mut self.scratch, client, server);
        // What might be refused is waited for: its query must not run without it.
        client.is_waiting =
            !server.exchange.is_answered() && !client.settings.is_same(&mut client.proven);
    }

    /// Opens one more server for a pool, for which there is a permit.
    fn open_server<N: Net>(&mut self, net: &mut N, pool: usize) {
        let entry = &mut self.entries[pool];
        let next = entry.pool.next_client();
        entry.pool.opening();
        let Some(address) = entry.router.pick(self.now) else {
            return self.not_opened(net, pool, b"no backend is known", None);
        };
        let Some(socket) = net.connect(&address) else {
            entry.router.handle_failure(&address, self.now);
            return self.not_opened(net, pool, b"no connection can be made", None);
        };
        let (epoch, now, attrs) = (entry.router.epoch(), self.now, entry.name.attrs);
        let is_own = entry.settings.mode == PoolMode::Session && !entry.name.is_replication();
        let client = next.filter(|_| is_own).and_then(|client| self.clients.get(client));
        let client = client.filter(|client| !client.is_looked_up());
        let opened_for = client.map(|client| client.id);
        let base = client.map(|client| client.base.clone()).unwrap_or_default();
        let answered = Rc::clone(self.answered.entry(address.clone()).or_default());
        let id = self.servers.add(|id| {
            let server = Server::new(id, socket, pool, address, epoch, now);
            Server { attrs, settings: base.clone(), base, opened_for, answered, ..server }
        });
        net.own(socket, Owner::Server(id));
    }

    /// The opening of a server came to nothing. It is tried again while somebody waits; who wants
    /// to be let in is told so when each backend has failed, and everybody if a server refused.
    fn not_opened<N: Net>(
        &mut self,
        net: &mut N,
        pool: usize,
        reason: &[u8],
        refusal: Option<SqlState>,
    ) {
        self.counts.unreachable += 1;
        self.totals(pool).unreachable += 1;
        let entry = &mut self.entries[pool];
        entry.pool.failed();
        let times = entry.failure.as_ref().map_or(0, |failure| failure.times) + 1;
        let has_more = times < entry.router.backends();
        let retry_ms = if has_more { 0 } else { self.config.limits.server_retry_ms };
        let retry = self.now.after_ms(retry_ms);
        entry.failure = Some(Failure { times, reason: reason.to_vec(), refusal, retry });
        self.give_permit(pool);
        if refusal.is_some() || !has_more {
            self.give_up(net, pool, refusal.is_some());
        }
        self.open_wanted(net, pool);
    }

    fn close_idle<N: Net>(&mut self, net: &mut N, id: ServerId) {
        if let Some(pool) = self.servers.get(id).map(|server| server.pool) {
            self.end_idle(net, id);
            self.give_permit(pool);
        }
    }

    /// Closes an idle server whose permit is somebody else's already.
    fn end_idle<N: Net>(&mut self, net: &mut N, id: ServerId) {
        let Some(server) = self.servers.remove(id) else { return };
        self.scratch.clear();
        frontend::write::terminate(&mut self.scratch);
        net.write(server.socket, &self.scratch);
        net.finish(server.socket);
        self.entries[server.pool].pool.lost(id);
    }
}

/// Whether a client can have a server: one of its own must have begun as it would itself.
fn are_fit(client: Option<&Client>, server: Option<&Server>) -> bool {
    let (Some(client), Some(server)) = (client, server) else { return true };
    if client.is_looked_up() {
        return server.base.values().is_empty();
    }
    client.shares() || client.is_replicating || client.base.values() == server.base.values()
}

/// Makes a server's settings those of its client, and tells the client what the server reports.
fn adjust<N: Net>(net: &mut N, scratch: &mut Vec<u8>, client: &mut Client, server: &mut Server) {
    if !server.settings.is_same(&mut client.settings) {
        let change = server.settings.change_to(&client.settings);
        server.settings = client.settings.clone();
        scratch.clear();
        frontend::write::query(scratch, &change);
        net.write(server.socket, scratch);
        server.exchange.owe(Owed::OurQuery);
    } else if !client.reported.is_same(&mut server.reported) {
        tell(net, scratch, client, server);
    }
}

/// Tells a client which reported settings differ from what it was told.
fn tell<N: Net>(net: &mut N, scratch: &mut Vec<u8>, client: &mut Client, server: &Server) {
    scratch.clear();
    for (name, value) in server.reported.values() {
        if client.reported.values().get(name) != Some(value) {
            backend::write::parameter_status(scratch, name, value);
        }
    }
    if !scratch.is_empty() {
        net.write(client.socket, scratch);
    }
    client.reported = server.reported.clone();
}

/// The epoch of configured backends; those that the cluster names come later.
pub(crate) const FIRST_EPOCH: Epoch = Epoch(0);

#[cfg(test)]
mod attack_tests;
#[cfg(test)]
mod backend_model;
#[cfg(test)]
mod cancel_tests;
#[cfg(test)]
mod chaos_tests;
#[cfg(test)]
mod client_model;
#[cfg(test)]
mod console_tests;
#[cfg(test)]
mod course_attack_tests;
#[cfg(test)]
mod course_tests;
#[cfg(test)]
mod desk;
#[cfg(test)]
mod guard_tests;
#[cfg(test)]
mod hold_tests;
#[cfg(test)]
mod limits_tests;
#[cfg(test)]
mod login_attack_tests;
#[cfg(test)]
mod lookup_tests;
#[cfg(test)]
mod lost_tests;
#[cfg(test)]
mod operate_tests;
#[cfg(test)]
mod peer_tests;
#[cfg(test)]
mod pools_tests;
#[cfg(test)]
mod query_tests;
#[cfg(test)]
mod random_tests;
#[cfg(test)]
mod recount;
#[cfg(test)]
mod reload_attack_tests;
#[cfg(test)]
mod replay_tests;
#[cfg(test)]
mod session_tests;
#[cfg(test)]
mod share_tests;
#[cfg(test)]
mod standby_tests;
#[cfg(test)]
mod start_attack_tests;
#[cfg(test)]
mod startup_tests;
#[cfg(test)]
mod state_tests;
#[cfg(test)]
mod statement_tests;
#[cfg(test)]
mod stats_tests;
#[cfg(test)]
mod strict_tests;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
