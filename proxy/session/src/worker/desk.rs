//! The bookkeeping of permits for workers that are made of bytes, with its mail.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::RefCell;

use crate::permits::{
    Bounds, Ledger, Need, Offer, Permits, PoolKey, PoolName, Reported, Whose, Word,
};
use crate::time::Now;

/// One thread's side of it.
#[derive(Clone, Debug)]
pub(super) struct Desk {
    ledger: Rc<RefCell<Ledger>>,
    mail: Rc<RefCell<VecDeque<(usize, Word)>>>,
    pub(super) thread: usize,
}

impl Desk {
    /// The sides of this many threads.
    pub(super) fn all(threads: usize) -> Vec<Self> {
        let ledger = Rc::new(RefCell::new(Ledger::new(threads)));
        let mail = Rc::default();
        let own = |thread| Self { ledger: Rc::clone(&ledger), mail: Rc::clone(&mail), thread };
        (0..threads).map(own).collect()
    }

    pub(super) fn boxed(&self) -> Box<dyn Permits> {
        Box::new(self.clone())
    }

    /// The next word to this thread.
    pub(super) fn word(&self) -> Option<Word> {
        let mut mail = self.mail.borrow_mut();
        let at = mail.iter().position(|(to, _)| *to == self.thread)?;
        mail.remove(at).map(|(_, word)| word)
    }

    /// Permits of a pool, those included that are in the mail.
    pub(super) fn held(&self, pool: PoolKey) -> (usize, usize) {
        let mail = self.mail.borrow();
        let granted = (self.thread, Word::Granted(pool));
        let mailed = mail.iter().filter(|letter| **letter == granted).count();
        (self.ledger.borrow().held(self.thread, pool), mailed)
    }

    fn ask<T>(&self, ask: impl FnOnce(&mut Ledger) -> T) -> T {
        let mut ledger = self.ledger.borrow_mut();
        let answer = ask(&mut ledger);
        self.mail.borrow_mut().extend(ledger.words());
        answer
    }
}

impl Permits for Desk {
    fn pool(&mut self, name: PoolName<'_>, bounds: Bounds) -> PoolKey {
        self.ask(|ledger| ledger.pool(name, bounds))
    }

    fn rebound(&mut self, pool: PoolKey, bounds: Bounds) {
        self.ask(|ledger| ledger.rebound(pool, bounds));
    }

    fn is_over(&mut self, pool: PoolKey) -> bool {
        self.ask(|ledger| ledger.is_over(pool))
    }

    fn forget(&mut self, pool: PoolKey) -> bool {
        self.ask(|ledger| ledger.forget(self.thread, pool))
    }

    fn take(&mut self, pool: PoolKey, need: Need) -> bool {
        self.ask(|ledger| ledger.take(self.thread, pool, need))
    }

    fn take_for_min(&mut self, pool: PoolKey) -> bool {
        self.ask(|ledger| ledger.take_for_min(self.thread, pool))
    }

    fn give(&mut self, pool: PoolKey) {
        self.ask(|ledger| ledger.give(self.thread, pool));
    }

    fn give_spare(&mut self, pool: PoolKey) -> bool {
        self.ask(|ledger| ledger.give_spare(self.thread, pool))
    }

    fn offer(&mut self, pool: PoolKey, waits: Option<Now>) -> Offer {
        self.ask(|ledger| ledger.offer(self.thread, pool, waits))
    }

    fn withdraw(&mut self, pool: PoolKey) {
        self.ask(|ledger| ledger.withdraw(self.thread, pool));
    }

    fn tell_reported(&mut self, pool: PoolKey, reported: &Reported) {
        self.ask(|ledger| ledger.tell_reported(pool, reported));
    }

    fn reported(&mut self, pool: PoolKey) -> Option<Reported> {
        self.ask(|ledger| ledger.reported(pool))
    }

    fn enter(&mut self, whose: Whose<'_>, max: usize) -> bool {
        self.ask(|ledger| ledger.enter(whose, max))
    }

    fn leave(&mut self, whose: Whose<'_>) {
        self.ask(|ledger| ledger.leave(whose));
    }
}
