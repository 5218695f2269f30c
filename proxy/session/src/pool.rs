//! Which server connections are free, who waits for one, and whether another may be opened.
//!
//! Servers are handed out last-in-first-out, so that few are kept warm and the others may go;
//! clients are served first-in-first-out.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use crate::ids::{ClientId, ServerId};
use crate::time::Now;

/// What a client gets that asks for a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lease {
    /// This one.
    Server(ServerId),
    /// None yet.
    Wait,
}

/// The servers of one user in one database.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    idle: Vec<(ServerId, Now)>,
    waiting: VecDeque<(ClientId, Now)>,
    /// Servers that clients have.
    busy: usize,
    /// Servers that are not ready yet.
    opening: usize,
}

impl Pool {
    /// Takes an idle server for a client, or lets it wait behind the others.
    pub(crate) fn ask(&mut self, client: ClientId, now: Now) -> Lease {
        if self.waiting.is_empty()
            && let Some((server, _)) = self.idle.pop()
        {
            self.busy += 1;
            return Lease::Server(server);
        }
        self.wait(client, now);
        Lease::Wait
    }

    /// Lets a client wait behind the others.
    pub(crate) fn wait(&mut self, client: ClientId, now: Now) {
        self.waiting.push_back((client, now));
    }

    /// Whether one more server should be opened for those who wait.
    pub(crate) fn wants_more(&self) -> bool {
        self.waiting.len() > self.opening
    }

    /// Since when the first of them waits.
    pub(crate) fn waits_since(&self) -> Option<Now> {
        self.waiting.front().map(|(_, since)| *since)
    }

    /// Whom the next server that is opened is for, as far as can be told.
    pub(crate) fn next_client(&self) -> Option<ClientId> {
        self.waiting.get(self.opening).map(|(client, _)| *client)
    }

    /// A server is being opened.
    pub(crate) fn opening(&mut self) {
        self.opening += 1;
    }

    /// The opening of a server came to nothing.
    pub(crate) fn failed(&mut self) {
        self.opening = self.opening.saturating_sub(1);
    }

    /// A server has been opened; it is free.
    pub(crate) fn opened(&mut self, server: ServerId, now: Now) {
        self.failed();
        self.idle.push((server, now));
    }

    /// A client gives its server back.
    pub(crate) fn give_back(&mut self, server: ServerId, now: Now) {
        self.busy = self.busy.saturating_sub(1);
        self.idle.push((server, now));
    }

    /// The proxy needs an idle server itself; it is given back later.
    pub(crate) fn borrow(&mut self, server: ServerId) {
        let before = self.idle.len();
        self.idle.retain(|(known, _)| *known != server);
        self.busy += before - self.idle.len();
    }

    /// A server that was ready is gone, whether it was idle or not.
    pub(crate) fn lost(&mut self, server: ServerId) {
        let before = self.idle.len();
        self.idle.retain(|(known, _)| *known != server);
        if self.idle.len() == before {
            self.busy = self.busy.saturating_sub(1);
        }
    }

    /// The next client with the server that it gets, if somebody waits and one is free that fits.
    pub(crate) fn match_up(
        &mut self,
        fits: impl Fn(ClientId, ServerId) -> bool,
    ) -> Option<(ClientId, ServerId)> {
        let found = self.waiting.iter().enumerate().find_map(|(place, (client, _))| {
            let server = self.idle.iter().rposition(|(server, _)| fits(*client, *server))?;
            Some((place, server))
        });
        let (place, server) = found?;
        let (client, _) = self.waiting.remove(place)?;
        let (server, _) = self.idle.remove(server);
        self.busy += 1;
        Some((client, server))
    }

    /// A client waits no more.
    pub(crate) fn leave(&mut self, client: ClientId) {
        self.waiting.retain(|(known, _)| *known != client);
    }

    /// All idle servers.
    pub(crate) fn idle(&self) -> impl Iterator<Item = ServerId> {
        self.idle.iter().map(|(server, _)| *server)
    }

    /// All clients that wait.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = ClientId> {
        self.waiting.iter().map(|(client, _)| *client)
    }

    /// How many servers clients have, and how many are not ready yet.
    #[cfg(test)]
    pub(crate) fn counts(&self) -> (usize, usize) {
        (self.busy, self.opening)
    }

    /// All servers, in whatever state.
    pub(crate) fn total(&self) -> usize {
        self.idle.len() + self.busy + self.opening
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: Now = Now(0);

    fn client(number: u32) -> ClientId {
        ClientId::new(number, 0)
    }

    fn server(number: u32) -> ServerId {
        ServerId::new(number, 0)
    }

    #[test]
    fn server_that_came_back_last_is_handed_out_first() {
        let mut pool = Pool::default();
        for number in [1, 2] {
            pool.opening();
            pool.opened(server(number), T);
        }
        assert_eq!(pool.ask(client(1), T), Lease::Server(server(2)));
        assert_eq!(pool.ask(client(2), T), Lease::Server(server(1)));
        pool.give_back(server(2), T);
        assert_eq!(pool.ask(client(3), T), Lease::Server(server(2)));
    }

    #[test]
    fn clients_are_served_in_the_order_in_which_they_came() {
        let mut pool = Pool::default();
        assert_eq!(pool.ask(client(1), T), Lease::Wait);
        pool.opening();
        assert_eq!(pool.ask(client(2), T), Lease::Wait);
        assert_eq!(pool.ask(client(3), T), Lease::Wait);
        pool.opened(server(1), T);
        assert_eq!(pool.match_up(|_, _| true), Some((client(1), server(1))));
        assert_eq!(pool.match_up(|_, _| true), None);
        pool.leave(client(2));
        pool.give_back(server(1), T);
        assert_eq!(pool.match_up(|_, _| true), Some((client(3), server(1))));
    }

    #[test]
    fn client_that_comes_later_does_not_overtake() {
        let mut pool = Pool::default();
        assert_eq!(pool.ask(client(1), T), Lease::Wait);
        pool.opening();
        pool.opened(server(1), T);
        assert_eq!(pool.ask(client(2), T), Lease::Wait, "the first has not been served yet");
        assert_eq!(pool.match_up(|_, _| true), Some((client(1), server(1))));
    }

    #[test]
    fn no_more_servers_are_opened_than_clients_wait() {
        let mut pool = Pool::default();
        for number in 1..=2 {
            assert_eq!(pool.ask(client(number), T), Lease::Wait);
            assert!(pool.wants_more(), "client {number}");
            pool.opening();
            assert!(!pool.wants_more(), "client {number}");
        }
        pool.failed();
        assert!(pool.wants_more());
    }
}
