//! What the threads share: how many servers and clients there may be.

use alloc::string::String;

use super::Worker;
use super::entry::Entry;
use crate::ids::{ClientId, ServerId};
use crate::limits::{HAND_OVER_MS, TENURE_MS};
use crate::net::Net;
use crate::permits::{Need, Offer, Whose, Word};
use crate::time::Now;

impl Entry {
    /// Whether one more server should be opened.
    fn lacks(&self) -> bool {
        let wants_first = !self.admission.is_empty() && self.pool.total() == 0;
        wants_first || self.pool.wants_more()
    }

    fn is_failing(&self, now: Now) -> bool {
        self.failure.as_ref().is_some_and(|failure| now < failure.retry)
    }
}

impl Worker {
    /// What another thread, or this one, has led to.
    pub fn told<N: Net>(&mut self, net: &mut N, word: Word, now: Now) {
        self.now = now;
        let (Word::Granted(key) | Word::Wanted(key)) = word;
        // One that was forgotten keeps its place for a while, and may have come back elsewhere.
        let is_meant = |pool: &&usize| self.entries[**pool].key == key;
        let Some(pool) = self.by_name.values().find(is_meant).copied() else { return };
        match word {
            Word::Wanted(_) => {
                self.entries[pool].is_wanted = true;
                self.offer_idle(net, pool);
            }
            Word::Granted(_) => {
                let entry = &mut self.entries[pool];
                (entry.has_want, entry.is_denied) = (false, false);
                if entry.lacks() && !entry.is_held() && !entry.is_failing(now) {
                    self.open_server(net, pool);
                    self.open_wanted(net, pool);
                } else {
                    self.permits.give(key);
                }
            }
        }
    }

    /// Opens servers for those who wait, as far as there may be more.
    pub(super) fn open_wanted<N: Net>(&mut self, net: &mut N, pool: usize) {
        while self.take_permit(pool) {
            self.open_server(net, pool);
        }
    }

    fn take_permit(&mut self, pool: usize) -> bool {
        let now = self.now;
        let entry = &mut self.entries[pool];
        if !entry.lacks() || entry.is_held() {
            if core::mem::take(&mut entry.has_want) {
                self.permits.withdraw(entry.key);
            }
            return false;
        }
        if entry.is_denied || entry.is_failing(now) {
            return false;
        }
        let since = entry.pool.waits_since().unwrap_or(now);
        let over = |limit: u64| now >= since.after_ms(limit);
        let may_reserve = entry.settings.reserve > 0 && over(entry.settings.reserve_ms);
        // Who has servers here is likely served by one of them soon.
        let insists = entry.pool.total() == 0 || over(HAND_OVER_MS);
        let takes = self.permits.take(entry.key, Need { since, may_reserve, insists });
        entry.is_denied = !takes;
        entry.has_want = !takes && insists;
        takes
    }

    /// A server is closed, or was never opened.
    pub(super) fn give_permit(&mut self, pool: usize) {
        self.entries[pool].is_denied = false;
        self.permits.give(self.entries[pool].key);
    }

    /// Closes idle servers whose permits others want more.
    pub(super) fn offer_idle<N: Net>(&mut self, net: &mut N, pool: usize) {
        while self.entries[pool].is_wanted {
            let Some(server) = self.longest_idle(pool) else { return };
            let entry = &mut self.entries[pool];
            match self.permits.offer(entry.key, entry.pool.waits_since()) {
                Offer::Taken => {
                    entry.is_denied = false;
                    self.end_idle(net, server);
                }
                Offer::Kept => return,
                Offer::Declined => entry.is_wanted = false,
            }
        }
    }

    /// The server that has been idle longest, unless it is new.
    fn longest_idle(&self, pool: usize) -> Option<ServerId> {
        let is_old = |id: &ServerId| {
            self.servers.get(*id).is_some_and(|server| self.now >= server.born.after_ms(TENURE_MS))
        };
        self.entries[pool].pool.idle().find(is_old)
    }

    /// Pools that always have servers get what they lack, one at a time.
    pub(super) fn keep_min<N: Net>(&mut self, net: &mut N, pool: usize) {
        let entry = &self.entries[pool];
        let is_in_use = entry.settings.login.is_some() || entry.clients > 0;
        let may_open = !entry.is_held() && !entry.is_failing(self.now);
        if entry.settings.pool_min == 0 || !is_in_use || !may_open {
            return;
        }
        if self.permits.take_for_min(entry.key) {
            self.open_server(net, pool);
        }
    }

    /// Counts a client that has proved who it is; or says why it cannot be let in.
    pub(super) fn count_client(
        &mut self,
        id: ClientId,
        user: &[u8],
        pool: usize,
    ) -> Result<(), String> {
        let Some(client) = self.clients.get_mut(id) else { return Ok(()) };
        let entry = &mut self.entries[pool];
        let full = |what: &str, name: &[u8]| {
            let name = String::from_utf8_lossy(name);
            Err(alloc::format!("too many connections for {what} \"{name}\""))
        };
        let max = self.config.special.get(user).map_or(0, |user| user.clients_max);
        if max > 0 {
            if !self.permits.enter(Whose::User(user), max) {
                return full("role", user);
            }
            client.counted.of_user = Some(user.into());
        }
        let (database, max) = (&entry.name.database, entry.settings.clients_max);
        if max > 0 {
            if !self.permits.enter(Whose::Database(database), max) {
                return full("database", database);
            }
            client.counted.in_database = true;
        }
        client.counted.in_pool = true;
        entry.clients += 1;
        Ok(())
    }

    /// A client that may have been counted is gone.
    pub(super) fn uncount_client(&mut self, counted: &crate::client::Counted, pool: usize) {
        if counted.among_all {
            self.permits.leave(Whose::All);
        }
        if let Some(user) = &counted.of_user {
            self.permits.leave(Whose::User(user));
        }
        let Some(entry) = self.entries.get_mut(pool) else { return };
        if counted.in_database {
            self.permits.leave(Whose::Database(&entry.name.database));
        }
        entry.clients -= usize::from(counted.in_pool);
    }
}
