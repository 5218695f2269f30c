//! How many servers and clients there may be, over all threads.
//!
//! A thread takes a permit before it opens a server and gives it back when it closes one. Where
//! none is left it may state that it wants one: then those who hold what is in the way are told,
//! and close a server that is idle, or that others have waited for much longer than their own
//! clients. The permit goes from hand to hand: nobody can come in between. This is the bookkeeping,
//! without threads; `pgx` puts a lock around it, which no query meets that has its server.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::fmt::Debug;

use crate::attrs::SessionAttrs;
use crate::config::PoolMode;
use crate::limits::YIELD_MS;
use crate::time::Now;

/// A pool's number, the same on all threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PoolKey(usize);

/// What tells pools from each other.
#[derive(Clone, Copy, Debug)]
pub struct PoolName<'a> {
    /// As whom servers are used.
    pub user: &'a [u8],
    /// The database, as clients name it.
    pub database: &'a [u8],
    /// Which servers.
    pub attrs: SessionAttrs,
    /// When clients give them back.
    pub mode: PoolMode,
    /// The start-up parameters that servers get for a replication connection; else empty.
    pub replication: &'a [u8],
}

/// How many servers there may be. Zero means no bound where it would leave none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bounds {
    /// In the pool.
    pub pool: usize,
    /// Beyond that, for clients that have waited long.
    pub reserve: usize,
    /// That the pool has even if nobody needs them.
    pub min: usize,
    /// In all pools of the database.
    pub database: usize,
    /// In all pools of the user.
    pub user: usize,
}

/// What a thread that needs a server says of its need.
#[derive(Clone, Copy, Debug)]
pub struct Need {
    /// Since when its first client waits.
    pub since: Now,
    /// That has waited long enough for the reserve.
    pub may_reserve: bool,
    /// If there is none, others are asked for theirs.
    pub insists: bool,
}

/// What became of the offer to close a server for others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offer {
    /// Its permit is somebody else's now: close it.
    Taken,
    /// It is wanted, but less than by those who wait here.
    Kept,
    /// Nobody wants it any more.
    Declined,
}

/// What a thread is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// It has a permit that it wanted.
    Granted(PoolKey),
    /// Somebody wants what servers of this pool take up.
    Wanted(PoolKey),
}

/// Whose clients are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose<'a> {
    /// All of them.
    All,
    /// Those that have logged in as this user.
    User(&'a [u8]),
    /// Those of this database.
    Database(&'a [u8]),
}

/// Settings with their values.
pub type Reported = BTreeMap<Vec<u8>, Vec<u8>>;

/// One thread's side of the bookkeeping.
pub trait Permits: Debug {
    /// The number of a pool, which the thread uses from here on.
    fn pool(&mut self, name: PoolName<'_>, bounds: Bounds) -> PoolKey;
    /// A pool has other bounds from here on. Servers beyond them stay until they are closed.
    fn rebound(&mut self, pool: PoolKey, bounds: Bounds);
    /// Whether a pool has more servers than it may, since its bounds were changed.
    fn is_over(&mut self, pool: PoolKey) -> bool;
    /// The thread uses a pool no more. `false` if it has a permit of it, perhaps one that it has
    /// not been told of: then nothing has changed.
    fn forget(&mut self, pool: PoolKey) -> bool;
    /// Takes a permit for one more server.
    fn take(&mut self, pool: PoolKey, need: Need) -> bool;
    /// Takes one if the pool has fewer servers than it always should.
    fn take_for_min(&mut self, pool: PoolKey) -> bool;
    /// A server is closed.
    fn give(&mut self, pool: PoolKey);
    /// A server that nobody uses is closed, if the pool has more than it always should.
    fn give_spare(&mut self, pool: PoolKey) -> bool;
    /// A free server is offered to others; since when somebody here waits for it, if anybody does.
    fn offer(&mut self, pool: PoolKey, waits: Option<Now>) -> Offer;
    /// A permit is wanted no more.
    fn withdraw(&mut self, pool: PoolKey);
    /// What servers of the pool report at their start, as a thread has seen.
    fn tell_reported(&mut self, pool: PoolKey, reported: &Reported);
    /// The same, for a thread that has seen none.
    fn reported(&mut self, pool: PoolKey) -> Option<Reported>;
    /// One more client, if there may be; zero means no bound.
    fn enter(&mut self, whose: Whose<'_>, max: usize) -> bool;
    /// A client that was counted leaves.
    fn leave(&mut self, whose: Whose<'_>);
}

type Name = (Vec<u8>, Vec<u8>, SessionAttrs, PoolMode, Vec<u8>);

#[derive(Debug)]
struct Pool {
    name: Name,
    bounds: Bounds,
    /// How many threads use it.
    users: usize,
    /// Servers by thread.
    held: Vec<usize>,
    reported: Option<Reported>,
}

impl Pool {
    fn total(&self) -> usize {
        self.held.iter().sum()
    }
}

/// A thread wants a permit.
#[derive(Clone, Copy, Debug)]
struct Want {
    thread: usize,
    pool: usize,
    since: Now,
    may_reserve: bool,
}

/// The bookkeeping of all threads.
#[derive(Debug)]
pub struct Ledger {
    threads: usize,
    /// By their numbers, which are never used again.
    pools: BTreeMap<usize, Pool>,
    next: usize,
    /// Servers of databases, and of users, that have any.
    databases: BTreeMap<Vec<u8>, usize>,
    users: BTreeMap<Vec<u8>, usize>,
    by_name: BTreeMap<Name, usize>,
    /// In the order in which they were stated. None of them could be granted now.
    wants: Vec<Want>,
    /// What threads are to be told.
    words: Vec<(usize, Word)>,
    clients: BTreeMap<(u8, Vec<u8>), usize>,
}

impl Ledger {
    /// For this many threads.
    #[must_use]
    pub fn new(threads: usize) -> Self {
        Self {
            threads,
            pools: BTreeMap::new(),
            next: 0,
            databases: BTreeMap::new(),
            users: BTreeMap::new(),
            by_name: BTreeMap::new(),
            wants: Vec::new(),
            words: Vec::new(),
            clients: BTreeMap::new(),
        }
    }

    /// What threads are to be told of, by their numbers, in order.
    #[must_use]
    pub fn words(&mut self) -> Vec<(usize, Word)> {
        core::mem::take(&mut self.words)
    }

    /// See [`Permits::pool`].
    pub fn pool(&mut self, name: PoolName<'_>, bounds: Bounds) -> PoolKey {
        let PoolName { user, database, attrs, mode, replication } = name;
        let name = (user.to_vec(), database.to_vec(), attrs, mode, replication.to_vec());
        if let Some(known) = self.by_name.get(&name) {
            if let Some(pool) = self.pools.get_mut(known) {
                pool.users += 1;
            }
            return PoolKey(*known);
        }
        let held = alloc::vec![0; self.threads];
        let pool = Pool { name: name.clone(), bounds, users: 1, held, reported: None };
        let number = self.next;
        self.next += 1;
        self.pools.insert(number, pool);
        self.by_name.insert(name, number);
        PoolKey(number)
    }

    /// See [`Permits::rebound`].
    pub fn rebound(&mut self, key: PoolKey, bounds: Bounds) {
        if let Some(pool) = self.pools.get_mut(&key.0) {
            pool.bounds = bounds;
        }
        self.grant();
    }

    /// See [`Permits::is_over`].
    #[must_use]
    pub fn is_over(&self, key: PoolKey) -> bool {
        let is_over = |pool: &Pool| pool.total() > pool.bounds.pool + pool.bounds.reserve;
        self.pools.get(&key.0).is_some_and(is_over)
    }

    /// See [`Permits::forget`].
    pub fn forget(&mut self, thread: usize, key: PoolKey) -> bool {
        let Some(pool) = self.pools.get_mut(&key.0) else { return true };
        if pool.held[thread] > 0 {
            return false;
        }
        pool.users -= 1;
        if pool.users == 0 {
            self.by_name.remove(&pool.name);
            self.pools.remove(&key.0);
        }
        self.withdraw(thread, key);
        true
    }

    /// See [`Permits::take`].
    pub fn take(&mut self, thread: usize, PoolKey(pool): PoolKey, need: Need) -> bool {
        let Need { since, may_reserve, insists } = need;
        let want = Want { thread, pool, since, may_reserve };
        let known = self.wants.iter().position(|want| want.thread == thread && want.pool == pool);
        if self.fits(pool, may_reserve) {
            known.map(|at| self.wants.remove(at));
            self.hold(thread, pool);
            return true;
        }
        if !insists {
            return false;
        }
        match known {
            Some(at) => self.wants[at] = want,
            None => self.wants.push(want),
        }
        for (&other, holder) in &self.pools {
            let is_own = |holds: usize| other == pool && holds == thread;
            for holds in
                (0..self.threads).filter(|holds| holder.held[*holds] > 0 && !is_own(*holds))
            {
                if self.relieves(other, &want) {
                    self.words.push((holds, Word::Wanted(PoolKey(other))));
                }
            }
        }
        false
    }

    /// See [`Permits::take_for_min`].
    pub fn take_for_min(&mut self, thread: usize, PoolKey(pool): PoolKey) -> bool {
        let is_short = self.pools[&pool].total() < self.pools[&pool].bounds.min;
        let takes = is_short && self.fits(pool, false);
        if takes {
            self.hold(thread, pool);
        }
        takes
    }

    /// See [`Permits::give`].
    pub fn give(&mut self, thread: usize, PoolKey(pool): PoolKey) {
        self.let_go(thread, pool);
        self.grant();
    }

    /// See [`Permits::give_spare`].
    pub fn give_spare(&mut self, thread: usize, key: PoolKey) -> bool {
        let pool = &self.pools[&key.0];
        let gives = pool.total() > pool.bounds.min;
        if gives {
            self.give(thread, key);
        }
        gives
    }

    /// See [`Permits::offer`].
    pub fn offer(&mut self, thread: usize, key: PoolKey, waits: Option<Now>) -> Offer {
        let own = |want: &Want| want.thread == thread && want.pool == key.0;
        let mut wants = self.wants.iter().filter(|want| !own(want) && self.relieves(key.0, want));
        let Some(first) = wants.next() else { return Offer::Declined };
        // Each time costs a login, so a small difference is let be.
        let is_theirs = |want: &Want| waits.is_none_or(|own| want.since.after_ms(YIELD_MS) < own);
        if !is_theirs(first) && !wants.any(is_theirs) {
            return Offer::Kept;
        }
        self.give(thread, key);
        Offer::Taken
    }

    /// See [`Permits::withdraw`].
    pub fn withdraw(&mut self, thread: usize, PoolKey(pool): PoolKey) {
        self.wants.retain(|want| want.thread != thread || want.pool != pool);
    }

    /// See [`Permits::tell_reported`].
    pub fn tell_reported(&mut self, PoolKey(pool): PoolKey, reported: &Reported) {
        if let Some(pool) = self.pools.get_mut(&pool) {
            pool.reported.get_or_insert_with(|| reported.clone());
        }
    }

    /// See [`Permits::reported`].
    #[must_use]
    pub fn reported(&self, PoolKey(pool): PoolKey) -> Option<Reported> {
        self.pools.get(&pool)?.reported.clone()
    }

    /// See [`Permits::enter`].
    pub fn enter(&mut self, whose: Whose<'_>, max: usize) -> bool {
        let count = self.clients.entry(name(whose)).or_default();
        let enters = max == 0 || *count < max;
        *count += usize::from(enters);
        enters
    }

    /// See [`Permits::leave`].
    pub fn leave(&mut self, whose: Whose<'_>) {
        let name = name(whose);
        let count = self.clients.entry(name.clone()).or_default();
        *count = count.saturating_sub(1);
        if *count == 0 {
            self.clients.remove(&name);
        }
    }

    /// Permits that a thread has of a pool, those included that it has not been told of.
    #[cfg(test)]
    pub(crate) fn held(&self, thread: usize, PoolKey(pool): PoolKey) -> usize {
        self.pools.get(&pool).map_or(0, |pool| pool.held[thread])
    }

    /// Which bounds are reached for one more server: the pool's, the database's, the user's.
    fn reached(&self, pool: usize, may_reserve: bool) -> (bool, bool, bool) {
        let Pool { bounds, name: (user, database, ..), .. } = &self.pools[&pool];
        let reserve = if may_reserve { bounds.reserve } else { 0 };
        let is_at = |held: usize, max: usize| max > 0 && held >= max;
        (
            self.pools[&pool].total() >= bounds.pool + reserve,
            is_at(held(&self.databases, database), bounds.database),
            is_at(held(&self.users, user), bounds.user),
        )
    }

    fn fits(&self, pool: usize, may_reserve: bool) -> bool {
        self.reached(pool, may_reserve) == (false, false, false)
    }

    /// Whether one server less in a pool brings a want nearer.
    fn relieves(&self, pool: usize, want: &Want) -> bool {
        let (in_pool, in_database, of_user) = self.reached(want.pool, want.may_reserve);
        let (holder, wanted) = (&self.pools[&pool].name, &self.pools[&want.pool].name);
        if in_pool {
            return pool == want.pool;
        }
        in_database && holder.1 == wanted.1 || of_user && holder.0 == wanted.0
    }

    /// Grants what can be, the oldest first.
    fn grant(&mut self) {
        let mut at = 0;
        while let Some(want) = self.wants.get(at).copied() {
            if self.fits(want.pool, want.may_reserve) {
                self.wants.remove(at);
                self.hold(want.thread, want.pool);
                self.words.push((want.thread, Word::Granted(PoolKey(want.pool))));
            } else {
                at += 1;
            }
        }
    }

    fn hold(&mut self, thread: usize, pool: usize) {
        let Some(pool) = self.pools.get_mut(&pool) else { return };
        pool.held[thread] += 1;
        let (user, database, ..) = pool.name.clone();
        *self.databases.entry(database).or_default() += 1;
        *self.users.entry(user).or_default() += 1;
    }

    fn let_go(&mut self, thread: usize, pool: usize) {
        let Some(pool) = self.pools.get_mut(&pool) else { return };
        assert!(pool.held[thread] > 0, "a permit that was never taken");
        pool.held[thread] -= 1;
        for (sums, name) in [(&mut self.databases, &pool.name.1), (&mut self.users, &pool.name.0)] {
            let left = held(sums, name).saturating_sub(1);
            match left {
                0 => sums.remove(name),
                _ => sums.insert(name.clone(), left),
            };
        }
    }
}

fn held(sums: &BTreeMap<Vec<u8>, usize>, name: &[u8]) -> usize {
    sums.get(name).copied().unwrap_or(0)
}

fn name(whose: Whose<'_>) -> (u8, Vec<u8>) {
    match whose {
        Whose::All => (0, Vec::new()),
        Whose::User(name) => (1, name.to_vec()),
        Whose::Database(name) => (2, name.to_vec()),
    }
}

#[cfg(test)]
mod tests;
