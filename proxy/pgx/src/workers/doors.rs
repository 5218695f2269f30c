//! Where clients come in to a thread, and to which thread they go.

use pgx_ring::{Io, Key};
use pgx_session::attrs::SessionAttrs;

/// What is known of a listening socket.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entrance {
    pub(super) attrs: SessionAttrs,
    /// No other thread accepts from it: who comes in goes to all threads in turn.
    pub(super) is_only: bool,
}

/// The listening sockets of a thread.
#[derive(Debug, Default)]
pub(super) struct Doors {
    pub(super) open: Vec<(Key, Entrance)>,
    /// Those by which clients that were let in already may still come.
    closing: Option<Vec<(Key, Entrance)>>,
    /// Clients on their way to another thread, which have not left yet.
    leaving: Vec<(Key, usize, SessionAttrs)>,
    next: usize,
}

impl Doors {
    /// To which thread a client goes that came in there, and what it wants.
    pub(super) fn whose(
        &mut self,
        listener: Key,
        own: usize,
        threads: usize,
    ) -> (usize, SessionAttrs) {
        let closing = self.closing.iter().flatten();
        let known = self.open.iter().chain(closing).find(|(known, _)| *known == listener);
        match known {
            Some((_, Entrance { attrs, is_only: true })) => {
                self.next = (self.next + 1) % threads;
                (self.next, *attrs)
            }
            Some((_, Entrance { attrs, is_only: false })) => (own, *attrs),
            None => (own, SessionAttrs::Any),
        }
    }

    /// A client is about to leave for another thread.
    pub(super) fn leaves(&mut self, client: Key, thread: usize, attrs: SessionAttrs) {
        self.leaving.push((client, thread, attrs));
    }

    /// It has: whereto.
    pub(super) fn left(&mut self, client: Key) -> Option<(usize, SessionAttrs)> {
        let place = self.leaving.iter().position(|(known, ..)| *known == client)?;
        let (_, thread, attrs) = self.leaving.swap_remove(place);
        Some((thread, attrs))
    }

    /// Looks for those who wait and of whom nobody has told.
    pub(super) fn look(&self, io: &mut Io) {
        for (listener, _) in &self.open {
            io.look(*listener);
        }
    }

    /// Lets nobody in from here on.
    pub(super) fn close(&mut self, io: &mut Io) {
        let open = std::mem::take(&mut self.open);
        for (listener, _) in &open {
            io.finish(*listener);
        }
        self.closing.get_or_insert_default().extend(open);
    }

    /// Says once that nobody comes in any more, be it that the kernel had let them in before.
    pub(super) fn are_shut(&mut self, io: &Io) -> bool {
        let is_over = self.closing.as_ref().is_some_and(|closing| {
            self.leaving.is_empty() && !closing.iter().any(|(listener, _)| io.is_there(*listener))
        });
        if is_over {
            self.closing = None;
        }
        is_over
    }
}
