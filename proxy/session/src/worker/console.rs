//! Clients that talk to pgx itself: those who name one of its own databases.
//!
//! They prove who they are as all do. What they say is handed over in whole flights, each of which
//! ends with a query, a Sync or a Flush; the answers come back as bytes, one flight after the
//! other.

use alloc::collections::BTreeSet;
use alloc::vec::Vec;

use pgx_wire::backend::{self, Status};
use pgx_wire::frontend::tag;
use pgx_wire::{ErrorResponse, Frames, Severity, SqlState};

use super::Worker;
use super::login::process_id;
use crate::client::{Client, Phase};
use crate::ids::ClientId;
use crate::limits::{CONSOLE_BYTES_MAX, CONSOLES_MAX};
use crate::net::{Console, Net};
use crate::note::Note;

/// The databases that are pgx itself: by its own name, and by the one that PgBouncer has for it.
pub const CONSOLES: [&[u8]; 2] = [b"pgx", b"pgbouncer"];

/// Whether a database is pgx itself.
#[must_use]
pub fn is_console(database: &[u8]) -> bool {
    CONSOLES.contains(&database)
}

/// What clients there are told that libraries expect to be.
const REPORTED: [(&[u8], &[u8]); 8] = [
    (b"server_version", concat!(env!("CARGO_PKG_VERSION"), "/pgx").as_bytes()),
    (b"server_encoding", b"UTF8"),
    (b"client_encoding", b"UTF8"),
    (b"DateStyle", b"ISO"),
    (b"TimeZone", b"UTC"),
    (b"standard_conforming_strings", b"on"),
    (b"integer_datetimes", b"on"),
    (b"is_superuser", b"off"),
];

/// How much of what a client has said is one flight.
enum Flight {
    /// So many bytes.
    Whole(usize),
    /// The rest is to come.
    Begun,
    /// The client leaves.
    Last,
    /// It cannot be understood.
    Broken,
}

impl Worker {
    /// Whether a client that is one too many may come in nevertheless: to see to that.
    pub(super) fn may_see_to_it(&self, user: &[u8], database: Option<&[u8]>) -> bool {
        database.is_some_and(is_console) && has(&self.config.admins, user)
    }

    /// A client has proved who it is, and wants to talk to pgx itself.
    pub(super) fn enter_console<N: Net>(&mut self, net: &mut N, id: ClientId, user: &[u8]) {
        let is_admin = has(&self.config.admins, user);
        if !is_admin && !has(&self.config.viewers, user) {
            let message = "only who is named in admin_users or stats_users may log in here";
            return self.refuse(net, id, SqlState::INSUFFICIENT_PRIVILEGE, message);
        }
        let is_one = |client: &&Client| matches!(client.phase, Phase::Console(_));
        if self.clients.iter().filter(is_one).count() >= CONSOLES_MAX {
            let message = "too many clients of the console already";
            return self.refuse(net, id, SqlState::TOO_MANY_CONNECTIONS, message);
        }
        let Some(client) = self.clients.get_mut(id) else { return };
        client.user = Some(user.into());
        client.process = process_id(self.number, client);
        let out = &mut self.scratch;
        out.clear();
        backend::write::authentication_ok(out);
        for (name, value) in REPORTED {
            backend::write::parameter_status(out, name, value);
        }
        backend::write::backend_key(out, client.process, client.key());
        backend::write::ready(out, Status::Idle);
        net.write(client.socket, out);
        client.phase = Phase::Console(false);
        if core::mem::take(&mut client.is_paused) {
            net.resume(client.socket);
        }
        net.console(id, Console::Begins { user, is_admin });
        self.console_bytes(net, id, b"");
    }

    /// Bytes of a client of the console.
    pub(super) fn console_bytes<N: Net>(&mut self, net: &mut N, id: ClientId, bytes: &[u8]) {
        let Some(client) = self.clients.get_mut(id) else { return };
        client.held.extend_from_slice(bytes);
        if client.held.len() > CONSOLE_BYTES_MAX {
            return self.console_violation(net, id, "a query for the console is too long");
        }
        let Phase::Console(is_busy) = &mut client.phase else { return };
        if *is_busy || net.is_blocked(client.socket) {
            return;
        }
        match flight(&client.held) {
            Flight::Begun => {}
            Flight::Whole(end) => {
                *is_busy = true;
                let rest = client.held.split_off(end);
                let said = core::mem::replace(&mut client.held, rest);
                net.console(id, Console::Says(said));
            }
            Flight::Last => {
                net.finish(client.socket);
                self.forget_client(net, id);
            }
            Flight::Broken => {
                self.console_violation(net, id, "invalid message length");
            }
        }
    }

    fn console_violation<N: Net>(&mut self, net: &mut N, id: ClientId, what: &str) {
        net.note(&Note::Violation { client: id, what });
        let error = ErrorResponse::new(Severity::Fatal, SqlState::PROTOCOL_VIOLATION, what);
        self.dismiss(net, id, &error);
    }

    /// What a client of the console has said is answered.
    pub fn console_answers<N: Net>(&mut self, net: &mut N, id: ClientId, answer: &[u8]) {
        let Some(client) = self.clients.get_mut(id) else { return };
        let Phase::Console(is_busy) = &mut client.phase else { return };
        *is_busy = false;
        if !answer.is_empty() {
            net.write(client.socket, answer);
        }
        self.console_bytes(net, id, b"");
    }

    /// The console closes: no new clients come.
    pub fn close_consoles<N: Net>(&mut self, net: &mut N) {
        let is_one = |client: &&Client| matches!(client.phase, Phase::Console(_));
        let ids: Vec<_> = self.clients.iter().filter(is_one).map(|client| client.id).collect();
        for id in ids {
            let message = "terminating connection because pgx stops";
            let error = ErrorResponse::new(Severity::Fatal, SqlState::ADMIN_SHUTDOWN, message);
            self.dismiss(net, id, &error);
        }
    }
}

fn has(users: &BTreeSet<Vec<u8>>, user: &[u8]) -> bool {
    users.contains(user)
}

fn flight(held: &[u8]) -> Flight {
    let mut frames = Frames::new(held);
    loop {
        match frames.next_frame() {
            Ok(None) => return Flight::Begun,
            Ok(Some(frame)) => match frame.tag {
                tag::QUERY | tag::SYNC | tag::FLUSH => {
                    return Flight::Whole(held.len() - frames.rest().len());
                }
                tag::TERMINATE => return Flight::Last,
                _ => {}
            },
            Err(_) => return Flight::Broken,
        }
    }
}
