//! Users whose secrets servers know: they are asked for them before a client is.
//!
//! The client waits for a server as others do, of the user that may look. Nothing that it has sent
//! gets there but its user's name, as a value: it has not proved anything yet.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;

use pgx_wire::{SqlState, backend, frontend};

use super::{Worker, is_console};
use crate::attrs::SessionAttrs;
use crate::client::Phase;
use crate::config::Lookup;
use crate::exchange::Owed;
use crate::ids::{ClientId, ServerId};
use crate::limits::LOOKUPS_MAX;
use crate::login::{self, Step};
use crate::net::Net;
use crate::note::Note;
use crate::secret::Secret;

/// What a client reads whose user could not be looked up; why is not its business.
const FAILED: &str = "the user could not be looked up";

impl Worker {
    /// Whether a client's user is to be looked up, and has not been.
    pub(super) fn must_look_up(&self, id: ClientId) -> bool {
        let Some(client) = self.clients.get(id) else { return false };
        let Phase::Login(login) = &client.phase else { return false };
        let is_known = self.config.users.contains_key(&login.user);
        login.found.is_none() && !is_known && self.lookup_of(&login.database).is_some()
    }

    fn lookup_of(&self, database: &[u8]) -> Option<Arc<Lookup>> {
        let lookup = self.config.database(database)?.lookup.clone();
        // No server has the console.
        lookup.filter(|lookup| lookup.database.is_some() || !is_console(database))
    }

    /// A client waits until its user is looked up, which servers have been lost over before.
    pub(super) fn look_up<N: Net>(&mut self, net: &mut N, id: ClientId, lost: usize) {
        let Some(client) = self.clients.get_mut(id) else { return };
        let Phase::Login(login) = &mut client.phase else { return };
        login.step = Step::Lookup(lost);
        let (user, database) = (login.user.clone(), login.database.clone());
        // The configuration may have changed since.
        let Some(lookup) = self.lookup_of(&database) else { return self.found(net, id, None) };
        if user == lookup.user {
            // Who may look is not looked up: that would take a login as the same user.
            return self.found(net, id, None);
        }
        let place = lookup.database.as_ref().unwrap_or(&database);
        let pool = self.entry(lookup.user.clone(), place, SessionAttrs::Any, Vec::new());
        let Some(pool) = pool else { return self.found(net, id, None) };
        let Some(client) = self.clients.get_mut(id) else { return };
        client.pool = pool;
        self.ask_for_own(net, id);
    }

    /// A client that waits has got a server: that is asked about its user.
    pub(super) fn look_up_on<N: Net>(&mut self, net: &mut N, id: ClientId, server_id: ServerId) {
        let Some(client) = self.clients.get_mut(id) else { return };
        (client.is_waiting, client.since) = (false, self.now);
        let Phase::Login(login) = &client.phase else { return };
        let (user, database) = (login.user.clone(), login.database.clone());
        let Some(lookup) = self.lookup_of(&database) else {
            // Nothing was sent to it; whoever has handed it out goes on with the next who waits.
            if let Some(server) = self.servers.get(server_id) {
                self.entries[server.pool].pool.give_back(server_id, self.now);
            }
            return self.found(net, id, None);
        };
        let Some(server) = self.servers.get_mut(server_id) else { return };
        self.scratch.clear();
        // It must not matter who has used the server before.
        if !server.settings.is_same(&mut server.base) {
            let change = server.settings.change_to(&server.base);
            server.settings = server.base.clone();
            frontend::write::query(&mut self.scratch, &change);
            server.exchange.owe(Owed::OurQuery);
        }
        let out = &mut self.scratch;
        frontend::write::parse(out, b"", lookup.query.as_bytes(), &[]);
        frontend::write::bind(out, &[&user]);
        frontend::write::execute(out, b"", 0);
        frontend::write::sync(out);
        net.write(server.socket, out);
        for tag in [frontend::tag::PARSE, frontend::tag::BIND, frontend::tag::EXECUTE] {
            server.exchange.send(tag);
        }
        server.exchange.send(frontend::tag::SYNC);
        server.since = self.now;
        server.lookup = Some(Box::new(login::Lookup { client: id, rows: Vec::new(), error: None }));
    }

    /// A server has said what it knows.
    pub(super) fn looked_up<N: Net>(&mut self, net: &mut N, lookup: login::Lookup) {
        let login::Lookup { client: id, rows, error } = lookup;
        let Some(client) = self.clients.get(id).filter(|client| client.is_looked_up()) else {
            return;
        };
        let Phase::Login(login) = &client.phase else { return };
        let secret = match error {
            Some(error) => Err(error),
            None => secret(&rows, &login.user).map_err(|why| why.as_bytes().to_vec()),
        };
        match secret {
            Ok(secret) => self.found(net, id, secret),
            Err(reason) => self.not_found(net, id, &reason),
        }
    }

    /// It is known what there is to know of a client's user: its login goes on.
    fn found<N: Net>(&mut self, net: &mut N, id: ClientId, secret: Option<Secret>) {
        let Some(client) = self.clients.get_mut(id) else { return };
        let Phase::Login(login) = &mut client.phase else { return };
        (login.found, login.step) = (Some(secret), Step::Admission);
        client.since = self.now;
        if core::mem::take(&mut client.is_paused) {
            net.resume(client.socket);
        }
        self.challenge(net, id);
        // It may have spoken out of turn.
        if self.clients.get(id).is_some_and(|client| !client.held.is_empty()) {
            self.client_login(net, id, b"");
        }
    }

    /// A client's user could not be looked up.
    pub(super) fn not_found<N: Net>(&mut self, net: &mut N, id: ClientId, reason: &[u8]) {
        let Some(client) = self.clients.get(id) else { return };
        let Phase::Login(login) = &client.phase else { return };
        let user = alloc::string::String::from_utf8_lossy(&login.user).into_owned();
        net.note(&Note::NotLookedUp { client: id, user: &user, reason });
        self.refuse(net, id, SqlState::CANNOT_CONNECT, FAILED);
    }

    /// A server that was asked is lost.
    pub(super) fn look_up_again<N: Net>(&mut self, net: &mut N, id: ClientId) {
        let client = self.clients.get(id).map(|client| &client.phase);
        let Some(Phase::Login(login)) = client else { return };
        let Step::Lookup(lost) = login.step else { return };
        if lost + 1 >= LOOKUPS_MAX {
            return self.not_found(net, id, b"the servers that were asked were lost");
        }
        self.look_up(net, id, lost + 1);
    }
}

/// The secret that the rows say a user has; `None` if there is no such user, or it has none.
fn secret(rows: &[Vec<u8>], user: &[u8]) -> Result<Option<Secret>, &'static str> {
    let row = match rows {
        [] => return Ok(None),
        [row] => row,
        _ => return Err("it gave more than one row"),
    };
    let columns = backend::data_row(row).map_err(|_| "its row cannot be read")?;
    let [name, secret] = columns[..] else {
        return Err("it did not give two columns, the name and the secret");
    };
    if name != Some(user) {
        return Err("it gave the row of another user");
    }
    Ok(secret.filter(|secret| !secret.is_empty()).map(Secret::parse))
}
