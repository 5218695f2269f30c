//! The bookkeeping of servers and clients that all threads share, behind a lock.
//!
//! It is asked when a server is opened or closed and when a client comes or goes, never on the way
//! of a query that has its server.

use std::sync::{Arc, PoisonError};

use pgx_session::permits::{
    Bounds, Ledger, Need, Offer, Permits, PoolKey, PoolName, Reported, Whose, Word,
};
use pgx_session::time::Now;

use super::{Letter, Shared};

/// One thread's side of it.
pub(super) struct Desk {
    shared: Arc<Shared>,
    thread: usize,
}

impl std::fmt::Debug for Desk {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Desk").field("thread", &self.thread).finish_non_exhaustive()
    }
}

impl Desk {
    pub(super) fn new(shared: Arc<Shared>, thread: usize) -> Self {
        Self { shared, thread }
    }

    fn ask<T>(&self, ask: impl FnOnce(&mut Ledger, usize) -> T) -> T {
        // A panic of another thread ends the process' service anyway; what it held stays held.
        let mut ledger = self.shared.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        let answer = ask(&mut ledger, self.thread);
        let words: Vec<(usize, Word)> = ledger.words();
        drop(ledger);
        for (to, word) in words {
            self.shared.send(to, Letter::Permit(word));
        }
        answer
    }
}

impl Permits for Desk {
    fn pool(&mut self, name: PoolName<'_>, bounds: Bounds) -> PoolKey {
        self.ask(|ledger, _| ledger.pool(name, bounds))
    }

    fn rebound(&mut self, pool: PoolKey, bounds: Bounds) {
        self.ask(|ledger, _| ledger.rebound(pool, bounds));
    }

    fn is_over(&mut self, pool: PoolKey) -> bool {
        self.ask(|ledger, _| ledger.is_over(pool))
    }

    fn forget(&mut self, pool: PoolKey) -> bool {
        self.ask(|ledger, thread| ledger.forget(thread, pool))
    }

    fn take(&mut self, pool: PoolKey, need: Need) -> bool {
        self.ask(|ledger, thread| ledger.take(thread, pool, need))
    }

    fn take_for_min(&mut self, pool: PoolKey) -> bool {
        self.ask(|ledger, thread| ledger.take_for_min(thread, pool))
    }

    fn give(&mut self, pool: PoolKey) {
        self.ask(|ledger, thread| ledger.give(thread, pool));
    }

    fn give_spare(&mut self, pool: PoolKey) -> bool {
        self.ask(|ledger, thread| ledger.give_spare(thread, pool))
    }

    fn offer(&mut self, pool: PoolKey, waits: Option<Now>) -> Offer {
        self.ask(|ledger, thread| ledger.offer(thread, pool, waits))
    }

    fn withdraw(&mut self, pool: PoolKey) {
        self.ask(|ledger, thread| ledger.withdraw(thread, pool));
    }

    fn tell_reported(&mut self, pool: PoolKey, reported: &Reported) {
        self.ask(|ledger, _| ledger.tell_reported(pool, reported));
    }

    fn reported(&mut self, pool: PoolKey) -> Option<Reported> {
        self.ask(|ledger, _| ledger.reported(pool))
    }

    fn enter(&mut self, whose: Whose<'_>, max: usize) -> bool {
        self.ask(|ledger, _| ledger.enter(whose, max))
    }

    fn leave(&mut self, whose: Whose<'_>) {
        self.ask(|ledger, _| ledger.leave(whose));
    }
}
