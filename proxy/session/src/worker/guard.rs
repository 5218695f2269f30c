//! What clients meet that do not know their password: an answer that comes late, or, where too
//! many wait for one, none that took work. How late is [`crate::guesses`]'s.

use alloc::string::String;
use alloc::vec::Vec;

use pgx_wire::{ErrorResponse, Severity, SqlState};

use super::Worker;
use crate::client::Phase;
use crate::guesses::Guesses;
use crate::ids::ClientId;
use crate::limits::LATE_MAX;
use crate::login::Step;
use crate::net::Net;
use crate::note::Note;
use crate::permits::Whose;
use crate::time::Now;

/// What clients read from an address with too many failed logins, whoever they say they are: those
/// who know the password too, so it tells nothing of that.
const TOO_MANY: &str = "too many failed logins from this address, try again later";

/// Failed logins, and those who wait to be told.
#[derive(Debug, Default)]
pub(super) struct Guard {
    guesses: Guesses,
    /// When each is told. Those who are gone keep their places until then.
    late: Vec<(Now, ClientId)>,
}

impl Worker {
    /// Whether what a client has sent to prove itself may be looked at. Else it is turned away.
    pub(super) fn may_look<N: Net>(&mut self, net: &mut N, id: ClientId) -> bool {
        let Some(client) = self.clients.get(id) else { return false };
        let Phase::Login(login) = &client.phase else { return false };
        let may = self.guard.guesses.may_look(client.source, &login.user, self.now);
        if !may {
            self.turn_away(net, id);
        }
        may
    }

    /// Whether a password that is not known to be right may be hashed, or looks as if it were.
    pub(super) fn may_hash<N: Net>(&mut self, net: &mut N, id: ClientId) -> bool {
        let Some(client) = self.clients.get(id) else { return false };
        let may = self.guard.guesses.may_hash(client.source, self.now);
        if !may {
            self.turn_away(net, id);
        }
        may
    }

    /// A client knows its password.
    pub(super) fn note_right(&mut self, id: ClientId) {
        let Some(client) = self.clients.get(id) else { return };
        let Phase::Login(login) = &client.phase else { return };
        self.guard.guesses.right(client.source, &login.user, self.now);
    }

    /// A client does not know its password: it reads so in a while.
    pub(super) fn wrong_password<N: Net>(&mut self, net: &mut N, id: ClientId, why: &str) {
        let Some(client) = self.clients.get_mut(id) else { return };
        let Phase::Login(login) = &mut client.phase else { return };
        let verdict = self.guard.guesses.wrong(client.source, self.now);
        if verdict.is_noted {
            let user = String::from_utf8_lossy(&login.user);
            net.note(&Note::Unproved { client: id, user: &user, reason: why });
        }
        if let Some(failures) = verdict.is_guessing {
            net.note(&Note::Guessing { address: client.source.address(), failures });
        }
        let Some(due) = verdict.due.filter(|_| self.guard.late.len() < LATE_MAX) else {
            return self.turn_away(net, id);
        };
        self.guard.late.push((due, id));
        login.step = Step::Late;
        client.held.clear();
        // Whoever waits for that takes no other's place.
        if core::mem::take(&mut client.counted.among_all) {
            self.permits.leave(Whose::All);
        }
    }

    /// Tells those whose time it is.
    pub(super) fn tick_late<N: Net>(&mut self, net: &mut N) {
        let now = self.now;
        let mut due = Vec::new();
        self.guard.late.retain(|(when, id)| {
            let is_due = now >= *when;
            if is_due {
                due.push(*id);
            }
            !is_due
        });
        for id in due {
            let Some(Phase::Login(login)) = self.clients.get(id).map(|client| &client.phase) else {
                continue;
            };
            if !matches!(login.step, Step::Late) {
                continue;
            }
            let user = String::from_utf8_lossy(&login.user);
            let message = alloc::format!("password authentication failed for user \"{user}\"");
            self.dismiss_quietly(net, id, SqlState::INVALID_PASSWORD, &message);
        }
    }

    fn turn_away<N: Net>(&mut self, net: &mut N, id: ClientId) {
        self.dismiss_quietly(net, id, SqlState::TOO_MANY_CONNECTIONS, TOO_MANY);
    }

    /// Turns a client away of whose like the operator has heard.
    fn dismiss_quietly<N: Net>(
        &mut self,
        net: &mut N,
        id: ClientId,
        state: SqlState,
        message: &str,
    ) {
        self.count_refusal(state);
        self.dismiss(net, id, &ErrorResponse::new(Severity::Fatal, state, message));
    }
}
