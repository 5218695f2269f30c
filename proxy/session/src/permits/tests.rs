//! Random threads with random clients: never above a bound, and nobody starves.

use super::*;
use crate::limits::HAND_OVER_MS;

const THREADS: usize = 3;

fn named<'a>(user: &'a [u8], database: &'a [u8]) -> PoolName<'a> {
    let (attrs, mode) = (SessionAttrs::Any, PoolMode::Transaction);
    PoolName { user, database, attrs, mode, replication: b"" }
}

/// A generator of numbers that nobody needs to trust.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        usize::try_from(self.0 >> 33).unwrap() % bound
    }
}

/// What one thread has of one pool.
#[derive(Clone, Copy, Default)]
struct Share {
    idle: usize,
    busy: usize,
    waiting: usize,
    since: u64,
    is_wanted: bool,
}

struct Model {
    ledger: Ledger,
    keys: Vec<PoolKey>,
    bounds: Vec<(usize, usize, Bounds)>,
    shares: Vec<Vec<Share>>,
    mail: Vec<(usize, Word)>,
    now: u64,
}

impl Model {
    fn new(dice: &mut Dice) -> Self {
        let mut ledger = Ledger::new(THREADS);
        let (mut keys, mut bounds) = (Vec::new(), Vec::new());
        let (of_database, of_user) = (dice.below(4), dice.below(4));
        for (user, database) in [(0, 0), (0, 1), (1, 0)] {
            let own = Bounds {
                pool: 1 + dice.below(3),
                reserve: 0,
                min: dice.below(2),
                database: of_database,
                user: if user == 0 { of_user } else { 0 },
            };
            keys.push(ledger.pool(named(&[user], &[database]), own));
            bounds.push((usize::from(user), usize::from(database), own));
        }
        let shares = alloc::vec![alloc::vec![Share::default(); keys.len()]; THREADS];
        Self { ledger, keys, bounds, shares, mail: Vec::new(), now: 0 }
    }

    /// A thread tries to serve those who wait in one of its pools.
    fn serve(&mut self, thread: usize, pool: usize) {
        let share = &mut self.shares[thread][pool];
        let served = share.idle.min(share.waiting);
        (share.idle, share.waiting) = (share.idle - served, share.waiting - served);
        share.busy += served;
        if share.waiting == 0 {
            return self.ledger.withdraw(thread, self.keys[pool]);
        }
        let insists = share.idle + share.busy == 0 || self.now >= share.since + HAND_OVER_MS;
        let need = Need { since: Now::from_ms(share.since), may_reserve: false, insists };
        if self.ledger.take(thread, self.keys[pool], need) {
            self.shares[thread][pool].idle += 1;
            self.serve(thread, pool);
        }
    }

    fn offer(&mut self, thread: usize, pool: usize) {
        let share = &mut self.shares[thread][pool];
        while share.is_wanted && share.idle > 0 {
            let waits = (share.waiting > 0).then_some(Now::from_ms(share.since));
            match self.ledger.offer(thread, self.keys[pool], waits) {
                Offer::Taken => share.idle -= 1,
                Offer::Kept => return,
                Offer::Declined => share.is_wanted = false,
            }
        }
    }

    fn read(&mut self, at: usize) {
        let (thread, word) = self.mail.remove(at);
        let (Word::Granted(key) | Word::Wanted(key)) = word;
        let pool = self.keys.iter().position(|known| *known == key).unwrap();
        match word {
            Word::Granted(_) => {
                self.shares[thread][pool].idle += 1;
                self.serve(thread, pool);
            }
            Word::Wanted(_) => {
                self.shares[thread][pool].is_wanted = true;
                self.offer(thread, pool);
            }
        }
    }

    /// A server's client is done with it.
    fn finish(&mut self, thread: usize, pool: usize) {
        let share = &mut self.shares[thread][pool];
        if share.busy > 0 {
            (share.busy, share.idle) = (share.busy - 1, share.idle + 1);
            self.offer(thread, pool);
            self.serve(thread, pool);
        }
    }

    fn step(&mut self, dice: &mut Dice) {
        let (thread, pool) = (dice.below(THREADS), dice.below(self.keys.len()));
        match dice.below(6) {
            0 => {
                let now = self.now;
                let share = &mut self.shares[thread][pool];
                share.since = if share.waiting == 0 { now } else { share.since };
                share.waiting += 1;
                self.serve(thread, pool);
            }
            1 => self.finish(thread, pool),
            2 if !self.mail.is_empty() => {
                let at = dice.below(self.mail.len());
                self.read(at);
            }
            3 => {
                // A server is lost, or has been idle too long.
                if self.shares[thread][pool].idle > 0
                    && self.ledger.give_spare(thread, self.keys[pool])
                {
                    self.shares[thread][pool].idle -= 1;
                }
            }
            4 => {
                if self.ledger.take_for_min(thread, self.keys[pool]) {
                    self.shares[thread][pool].idle += 1;
                    self.serve(thread, pool);
                }
            }
            _ => self.tick(30),
        }
        self.mail.extend(self.ledger.words());
        self.check();
    }

    fn tick(&mut self, ms: u64) {
        self.now += ms;
        for thread in 0..THREADS {
            for pool in 0..self.keys.len() {
                self.offer(thread, pool);
                self.serve(thread, pool);
            }
        }
        self.mail.extend(self.ledger.words());
    }

    /// Servers that there are, and permits that are on their way.
    fn held(&self, counts: impl Fn(usize) -> bool) -> usize {
        let pools = (0..self.keys.len()).filter(|pool| counts(*pool));
        let of = |pool: usize| {
            let there = self.shares.iter().map(|shares| shares[pool].idle + shares[pool].busy);
            let key = self.keys[pool];
            let granted = self.mail.iter().filter(|(_, word)| *word == Word::Granted(key)).count();
            there.sum::<usize>() + granted
        };
        pools.map(of).sum()
    }

    fn check(&self) {
        for (pool, (user, database, bounds)) in self.bounds.iter().enumerate() {
            assert!(self.held(|each| each == pool) <= bounds.pool, "above the pool's bound");
            let in_database = self.held(|each| self.bounds[each].1 == *database);
            assert!(bounds.database == 0 || in_database <= bounds.database, "database");
            let of_user = self.held(|each| self.bounds[each].0 == *user);
            assert!(bounds.user == 0 || of_user <= bounds.user, "user");
        }
        assert!(self.ledger.wants.iter().all(|want| !self.ledger.fits(want.pool, false)));
    }

    fn waiting(&self) -> usize {
        self.shares.iter().flatten().map(|share| share.waiting).sum()
    }
}

#[test]
fn bounds_hold_and_whoever_waits_is_served_whatever_the_order_of_things() {
    for seed in 0..100 {
        let mut dice = Dice(seed);
        let mut model = Model::new(&mut dice);
        for _ in 0..400 {
            model.step(&mut dice);
        }
        // From here on clients are done in time, and nobody comes.
        for round in 0.. {
            model.tick(100);
            while !model.mail.is_empty() {
                model.read(0);
                model.mail.extend(model.ledger.words());
                model.check();
            }
            if model.waiting() == 0 {
                break;
            }
            assert!(round < 2_000, "seed {seed}: {} wait for ever", model.waiting());
            for (thread, pool) in
                (0..THREADS).flat_map(|thread| (0..3).map(move |pool| (thread, pool)))
            {
                model.finish(thread, pool);
            }
            model.mail.extend(model.ledger.words());
        }
    }
}

#[test]
fn idle_server_of_one_thread_is_what_another_gets_and_a_busy_one_is_not() {
    let mut model = Model::new(&mut Dice(1));
    let bounds = Bounds { pool: 1, ..Bounds::default() };
    let key = model.ledger.pool(named(b"u", b"d"), bounds);
    let need = Need { since: Now(0), may_reserve: false, insists: true };
    assert!(model.ledger.take(0, key, need));
    assert!(!model.ledger.take(1, key, need));
    assert_eq!(model.ledger.words(), [(0, Word::Wanted(key))]);
    // Somebody waits there who came at the same time: it stays.
    assert_eq!(model.ledger.offer(0, key, Some(Now(0))), Offer::Kept);
    assert_eq!(model.ledger.offer(0, key, Some(Now::from_ms(YIELD_MS + 1))), Offer::Taken);
    assert_eq!(model.ledger.words(), [(1, Word::Granted(key))]);
    assert_eq!(model.ledger.offer(1, key, None), Offer::Declined);
}

#[test]
fn reserve_is_for_those_who_have_waited_long() {
    let mut ledger = Ledger::new(1);
    let key = ledger.pool(named(b"u", b"d"), Bounds { pool: 1, reserve: 1, ..Bounds::default() });
    let need = |may_reserve| Need { since: Now(0), may_reserve, insists: false };
    assert!(ledger.take(0, key, need(false)));
    assert!(!ledger.take(0, key, need(false)));
    assert!(ledger.take(0, key, need(true)) && !ledger.take(0, key, need(true)));
}
