//! New transactions are held, and go on later, elsewhere if need be.
//!
//! While a database is held its servers are closed as they become free, so that what they talk to
//! may be stopped. Nobody is told anything: clients wait as they do for a free server.

use alloc::vec::Vec;

use super::Worker;
use crate::ids::ServerId;
use crate::net::Net;
use crate::route::Snapshot;
use crate::server::Phase;
use crate::time::Now;

/// Which databases are meant, by the names that clients use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope<'a> {
    /// All of them, also those that nobody has named yet.
    All,
    /// This one.
    Database(&'a [u8]),
}

/// How new transactions are held. Times in milliseconds; zero means no bound of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hold {
    /// How long each client waits before it is told; at most as long as for any server.
    pub wait_ms: u64,
    /// How long transactions under way may go on before their servers are taken away.
    pub drain_ms: u64,
    /// Servers that are free stay.
    pub keeps_servers: bool,
}

impl Worker {
    /// Holds new transactions. To be called again, with other bounds, changes nothing else.
    pub fn hold<N: Net>(&mut self, net: &mut N, scope: Scope<'_>, hold: Hold, now: Now) {
        self.now = now;
        match scope {
            Scope::All => {
                self.hold_all = Some(hold);
                self.holds.clear();
            }
            Scope::Database(name) => {
                self.holds.insert(name.to_vec(), Some(hold));
            }
        }
        for pool in self.within(scope) {
            let entry = &mut self.entries[pool];
            entry.hold = Some(hold);
            entry.drain = (hold.drain_ms > 0).then(|| now.after_ms(hold.drain_ms));
            if !hold.keeps_servers {
                self.close_all_idle(net, pool);
            }
        }
    }

    /// Lets held transactions go on.
    pub fn resume<N: Net>(&mut self, net: &mut N, scope: Scope<'_>, now: Now) {
        self.now = now;
        match scope {
            Scope::All => {
                self.hold_all = None;
                self.holds.clear();
            }
            Scope::Database(name) => {
                self.holds.insert(name.to_vec(), None);
            }
        }
        for pool in self.within(scope) {
            let entry = &mut self.entries[pool];
            (entry.hold, entry.drain, entry.is_denied) = (None, None, false);
            // Why servers could not be opened before says nothing about now.
            entry.failure = None;
            self.serve(net, pool);
        }
    }

    /// Takes over a newer snapshot of who serves a database: what has begun may go on for so long
    /// where it is, and everything else is done by the new ones.
    pub fn handle_snapshot<N: Net>(
        &mut self,
        net: &mut N,
        scope: Scope<'_>,
        snapshot: &Snapshot,
        drain_ms: u64,
        now: Now,
    ) {
        self.now = now;
        let name = match scope {
            Scope::All => b"*",
            Scope::Database(name) => name,
        };
        let known = self.snapshots.get(name).map(|known| known.epoch);
        if known.is_none_or(|known| known < snapshot.epoch) {
            self.snapshots.insert(name.to_vec(), snapshot.clone());
        }
        for pool in self.within(scope) {
            let entry = &mut self.entries[pool];
            // Of the cluster's databases the cluster alone says who serves them.
            if entry.settings.is_clusters || !entry.router.handle_snapshot(snapshot) {
                continue;
            }
            entry.drain = (drain_ms > 0).then(|| now.after_ms(drain_ms));
            entry.failure = None;
            self.close_all_idle(net, pool);
            self.serve(net, pool);
        }
    }

    /// Servers that there are, in whatever state.
    #[must_use]
    pub fn servers_of(&self, scope: Scope<'_>) -> usize {
        self.within(scope).into_iter().map(|pool| self.entries[pool].pool.total()).sum()
    }

    /// How new transactions of a database are held that nobody has used so far.
    pub(super) fn hold_of(&self, database: &[u8]) -> Option<Hold> {
        self.holds.get(database).copied().unwrap_or(self.hold_all)
    }

    /// The newest snapshot of who serves a database, if there was one.
    pub(super) fn snapshot_of(&self, database: &[u8]) -> Option<&Snapshot> {
        let all = self.snapshots.get(&b"*"[..]);
        let own = self.snapshots.get(database);
        own.into_iter().chain(all).max_by_key(|snapshot| snapshot.epoch)
    }

    /// What has begun before a hold or a change of primary has had its time.
    pub(super) fn tick_drain<N: Net>(&mut self, net: &mut N, pool: usize) {
        let entry = &mut self.entries[pool];
        if entry.drain.is_none_or(|until| self.now < until) {
            return;
        }
        entry.drain = None;
        let (is_held, epoch) = (entry.hold.is_some(), entry.router.epoch());
        let is_late = |server: &&crate::server::Server| {
            let is_old = is_held || server.epoch < epoch;
            server.pool == pool && is_old && matches!(server.phase, Phase::Ready)
        };
        let late: Vec<ServerId> =
            self.servers.iter().filter(is_late).map(|server| server.id).collect();
        for id in late {
            self.server_lost(
                net,
                id,
                b"the transaction took too long while the server was changed",
            );
        }
    }

    pub(super) fn close_all_idle<N: Net>(&mut self, net: &mut N, pool: usize) {
        let idle: Vec<_> = self.entries[pool].pool.idle().collect();
        for id in idle {
            self.close_idle(net, id);
        }
    }

    pub(super) fn within(&self, scope: Scope<'_>) -> Vec<usize> {
        let is_meant = |pool: &usize| match scope {
            Scope::All => true,
            Scope::Database(name) => self.entries[*pool].name.database == name,
        };
        (0..self.entries.len()).filter(is_meant).collect()
    }
}
