//! Holding new transactions on all threads, and letting them go on, elsewhere if need be.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Instant;

use pgx_session::route::{Epoch, ServerAddress, Snapshot};
use pgx_session::stats::Histogram;
use pgx_session::time::Now;
use pgx_session::worker::{Hold, Scope};
use tokio::sync::mpsc;

use super::driver::Driver;
use super::{Letter, Shared, Workers};

/// Which databases are meant: one by its name, or all.
#[derive(Clone, Debug)]
pub(crate) struct Databases(pub(crate) Option<Vec<u8>>);

impl Databases {
    fn scope(&self) -> Scope<'_> {
        self.0.as_deref().map_or(Scope::All, Scope::Database)
    }
}

/// What a thread is told of them.
pub(super) enum Order {
    Hold(Hold),
    Resume,
    Change(Arc<Snapshot>),
    Count(mpsc::UnboundedSender<usize>),
    Reconnect,
    CountLeaving(mpsc::UnboundedSender<usize>),
    Kill,
    Enable(bool),
}

/// How databases are held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pause {
    /// Their servers are closed.
    Paused,
    /// Their servers stay.
    Suspended,
}

/// Which databases are paused, since when, and how long others were.
#[derive(Default)]
pub(super) struct Pauses {
    /// By name; `None` stands for all of them.
    since: BTreeMap<Option<Vec<u8>>, (Instant, Pause)>,
    pub(super) ended: Histogram,
}

impl Pauses {
    fn begin(&mut self, databases: &Databases, how: Pause) {
        let since = self.since.entry(databases.0.clone());
        since.or_insert_with(|| (Instant::now(), how)).1 = how;
    }

    /// All pauses end with that of all databases.
    fn end(&mut self, databases: &Databases) {
        let is_ended = |name: &Option<Vec<u8>>| databases.0.is_none() || *name == databases.0;
        let ended: Vec<_> = self.since.extract_if(.., |name, _| is_ended(name)).collect();
        for (_, (since, _)) in ended {
            self.ended.add(u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX));
        }
    }
}

impl Shared {
    pub(super) fn pauses(&self) -> MutexGuard<'_, Pauses> {
        self.pauses.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Workers {
    /// Holds new transactions.
    pub(crate) fn hold(&self, databases: &Databases, hold: Hold) {
        let how = if hold.keeps_servers { Pause::Suspended } else { Pause::Paused };
        self.shared.pauses().begin(databases, how);
        self.order(databases, || Order::Hold(hold));
    }

    /// How exactly these are held, if they are.
    pub(crate) fn held(&self, databases: &Databases) -> Option<Pause> {
        self.shared.pauses().since.get(&databases.0).map(|(_, how)| *how)
    }

    /// Closes their servers as they become free.
    pub(crate) fn reconnect(&self, databases: &Databases) {
        self.order(databases, || Order::Reconnect);
    }

    /// Ends their clients and servers, and holds those who come.
    pub(crate) fn kill(&self, databases: &Databases) {
        self.shared.pauses().begin(databases, Pause::Paused);
        self.order(databases, || Order::Kill);
    }

    /// Lets a database take clients, or not.
    pub(crate) fn enable(&self, database: &str, is_enabled: bool) {
        let databases = Databases(Some(database.as_bytes().to_vec()));
        self.order(&databases, || Order::Enable(is_enabled));
    }

    /// How many servers are there only until they are free.
    pub(crate) async fn leaving_of(&self, databases: &Databases) -> usize {
        self.sum(databases, Order::CountLeaving).await
    }

    /// Lets them go on where they were, or at these backends from now on. Takes as long as looking
    /// up their names.
    pub(crate) fn resume(&self, databases: &Databases, elsewhere: &[ServerAddress]) {
        if !elsewhere.is_empty() {
            self.names.add(elsewhere);
            self.names.look_up(elsewhere);
            let epoch = Epoch(self.shared.epoch.fetch_add(1, Ordering::Relaxed) + 1);
            let backends = elsewhere.iter().cloned().map(Into::into).collect();
            let snapshot = Arc::new(Snapshot { epoch, backends });
            self.order(databases, || Order::Change(Arc::clone(&snapshot)));
        }
        self.order(databases, || Order::Resume);
        self.shared.pauses().end(databases);
    }

    /// How many servers they have on all threads.
    pub(crate) async fn servers_of(&self, databases: &Databases) -> usize {
        self.sum(databases, Order::Count).await
    }

    async fn sum(
        &self,
        databases: &Databases,
        order: impl Fn(mpsc::UnboundedSender<usize>) -> Order,
    ) -> usize {
        let (count, mut counts) = mpsc::unbounded_channel();
        self.order(databases, || order(count.clone()));
        drop(count);
        let mut sum = 0;
        while let Some(count) = counts.recv().await {
            sum += count;
        }
        sum
    }

    fn order(&self, databases: &Databases, order: impl Fn() -> Order) {
        for number in 0..self.shared.counts.len() {
            self.shared.send(number, Letter::Databases(databases.clone(), order()));
        }
    }
}

/// A thread does as it is told.
pub(super) fn carry_out(
    io: &mut pgx_ring::Io,
    driver: &mut Driver,
    databases: &Databases,
    order: Order,
    shared: &Shared,
) {
    let (scope, now): (_, Now) = (databases.scope(), shared.now());
    driver.with(io, |worker, wire| match order {
        Order::Hold(hold) => worker.hold(wire, scope, hold, now),
        Order::Resume => worker.resume(wire, scope, now),
        Order::Change(snapshot) => worker.handle_snapshot(wire, scope, &snapshot, 0, now),
        // Who asked may have lost patience.
        Order::Count(to) => drop(to.send(worker.servers_of(scope))),
        Order::CountLeaving(to) => drop(to.send(worker.leaving_of(scope))),
        Order::Reconnect => worker.reconnect(wire, scope, now),
        Order::Kill => worker.kill(wire, scope, now),
        Order::Enable(is_enabled) => {
            if let Scope::Database(name) = scope {
                worker.enable(name, is_enabled);
            }
        }
    });
}
