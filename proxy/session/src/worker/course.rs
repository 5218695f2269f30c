//! Where a cluster's clients go, as its epochs say: who may write, and whether anybody may now.
//!
//! A change comes whole, and is in force when the call returns: nothing is sent to a server that
//! may not be used any more, so whoever has called may tell others so.

use alloc::vec::Vec;

use super::Worker;
use crate::ids::ServerId;
use crate::net::Net;
use crate::route::{Course, Gate};
use crate::time::Now;

/// What clients' servers say when they are lost to a change of primary.
const LOST: &[u8] = b"the primary has changed";

impl Worker {
    /// Goes by this from here on, unless it is of an older epoch. What is known of backends that
    /// stay is kept.
    pub fn follow<N: Net>(&mut self, net: &mut N, course: &Course, now: Now) {
        self.now = now;
        let known = self.course.as_ref().map(|known| known.primary.epoch);
        if known.is_some_and(|known| known > course.primary.epoch) {
            return;
        }
        self.course = Some(course.clone());
        for pool in 0..self.entries.len() {
            let entry = &mut self.entries[pool];
            if !entry.settings.is_clusters {
                continue;
            }
            let (snapshot, gate) = course.of(entry.name.attrs);
            let is_strict = course.is_strict && entry.name.attrs.may_write();
            let before = core::mem::replace(&mut entry.gate, gate);
            if entry.router.handle_snapshot(snapshot) {
                // Why servers could not be opened before says nothing about these.
                (entry.failure, entry.is_denied) = (None, false);
                if self.entries[pool].name.attrs.may_write() {
                    // What came between the two may not have been heard of.
                    self.cut(net, pool);
                }
                self.close_all_idle(net, pool);
            }
            self.set_strict(net, pool, is_strict);
            match gate {
                Gate::Open if before != Gate::Open => {
                    let entry = &mut self.entries[pool];
                    (entry.failure, entry.is_denied) = (None, false);
                }
                Gate::Open | Gate::Held => {}
                Gate::Shut => self.cut(net, pool),
            }
            self.serve(net, pool);
        }
    }

    /// Nothing may be done at any of the cluster's servers, until somebody says again what may.
    pub fn shut<N: Net>(&mut self, net: &mut N, now: Now) {
        if let Some(known) = &self.course {
            let shut = Course { writes: Gate::Shut, reads: Gate::Shut, ..known.clone() };
            self.follow(net, &shut, now);
        }
    }

    /// All servers of a pool are lost, those that are being opened, too.
    fn cut<N: Net>(&mut self, net: &mut N, pool: usize) {
        self.close_all_idle(net, pool);
        let ids: Vec<ServerId> =
            self.servers.iter().filter(|each| each.pool == pool).map(|each| each.id).collect();
        for id in ids {
            if let Some(server) = self.servers.get_mut(id) {
                // It is nothing against its backend.
                server.is_void = !matches!(server.phase, crate::server::Phase::Ready);
            }
            self.server_lost(net, id, LOST);
        }
    }
}
