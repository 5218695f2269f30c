//! Another configuration takes the place of the one that was.
//!
//! Nobody's connection is touched: who is in stays in as it came, and what it may do from here on
//! is what the new one says.

use alloc::rc::Rc;
use alloc::vec::Vec;

use super::Worker;
use crate::config::{Config, Database};
use crate::ids::ServerId;
use crate::net::Net;
use crate::route::Router;
use crate::time::Now;

impl Worker {
    /// Goes by this configuration from here on.
    pub fn reload<N: Net>(&mut self, net: &mut N, config: Rc<Config>, now: Now) {
        self.now = now;
        self.config = config;
        // They were made of passwords that may be others now.
        self.hashes.forget();
        for pool in 0..self.entries.len() {
            if self.by_name.get(&self.entries[pool].name) == Some(&pool) {
                self.reload_pool(net, pool);
            }
        }
        self.enter_those_with_min();
    }

    fn reload_pool<N: Net>(&mut self, net: &mut N, pool: usize) {
        let name = self.entries[pool].name.clone();
        // Who is in a database that is not named any more stays in it as it was; so does who came
        // when servers were given back at other times, or used as somebody else: others have other
        // pools from here on.
        let known = self.settings_of(&name.user, &name.database, name.is_replication());
        let Some((settings, bounds)) = known else { return };
        let forced = |settings: &Database| settings.login.as_ref().map(|login| login.user.clone());
        let is_same_user = forced(&settings) == forced(&self.entries[pool].settings);
        if settings.mode != name.mode || !is_same_user {
            return;
        }
        let is_others = settings.is_clusters != self.entries[pool].settings.is_clusters;
        let has_moved = is_others
            || settings.backends != self.entries[pool].settings.backends
            || settings.name != self.entries[pool].settings.name;
        let is_elsewhere = settings.is_clusters || self.snapshot_of(&name.database).is_some();
        let (snapshot, gate) = self.course_for(&settings, &name.database, name.attrs);
        let is_strict = self.is_strict(&settings, name.attrs);
        self.set_strict(net, pool, is_strict);
        let entry = &mut self.entries[pool];
        self.permits.rebound(entry.key, bounds);
        entry.credentials.forget();
        (entry.failure, entry.is_denied) = (None, false);
        if is_others || has_moved && !is_elsewhere {
            (entry.router, entry.gate) = (Router::new(&snapshot, name.attrs), gate);
        }
        entry.router.set_back_off(self.config.limits.server_retry_ms);
        (entry.settings, entry.may_be_over) = (Rc::new(settings), true);
        let (key, idle) = (entry.key, entry.pool.idle().collect::<Vec<ServerId>>());
        for id in idle {
            if has_moved || self.permits.is_over(key) {
                self.close_idle(net, id);
            }
        }
        if has_moved {
            // What has begun goes on where it is.
            let ids: Vec<_> =
                self.servers.iter().filter(|each| each.pool == pool).map(|each| each.id).collect();
            for id in ids {
                if let Some(server) = self.servers.get_mut(id) {
                    server.is_leaving = true;
                }
            }
        }
        self.serve(net, pool);
    }
}
