//! Which backend the next server connection goes to.
//!
//! A [`Snapshot`] says which backends there are; it carries an epoch and a [`Router`] only ever
//! moves forward to a newer one. Between snapshots the router learns from failed and successful
//! connects: a backend that failed is left out for a time that doubles with each failure.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use crate::limits::{BACK_OFF_MS_MAX, BACK_OFF_MS_MIN, BACKENDS_MAX};
use crate::time::Now;

/// Orders snapshots; grows by one with each change of primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub u64);

/// Where a backend listens, as the operator wrote it: `host:port`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServerAddress(pub String);

impl fmt::Display for ServerAddress {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(out)
    }
}

/// The backends that may be used, as of an epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Which change of primary this reflects.
    pub epoch: Epoch,
    /// In order of preference among equals; at most [`BACKENDS_MAX`] count.
    pub backends: Vec<ServerAddress>,
}

/// Picks backends of the newest snapshot in turn, leaving out those that just failed.
#[derive(Clone, Debug)]
pub struct Router {
    epoch: Epoch,
    targets: Vec<Target>,
    next: usize,
}

#[derive(Clone, Debug)]
struct Target {
    address: ServerAddress,
    failures: u32,
    out_until: Now,
}

impl Router {
    /// A router over `snapshot`.
    #[must_use]
    pub fn new(snapshot: &Snapshot) -> Self {
        Self { epoch: snapshot.epoch, targets: targets(snapshot, &[]), next: 0 }
    }

    /// Takes over a newer snapshot; what is known of backends that stay is kept. Says whether it
    /// was newer: an older or equal one changes nothing, since messages may arrive out of order.
    pub fn handle_snapshot(&mut self, snapshot: &Snapshot) -> bool {
        if snapshot.epoch <= self.epoch {
            return false;
        }
        self.epoch = snapshot.epoch;
        self.targets = targets(snapshot, &self.targets);
        self.next = 0;
        true
    }

    /// The epoch of the snapshot in force.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The backend for the next connection: the next in turn that is not left out, else the one
    /// whose time-out ends first, so that a client is never refused without a try. `None` when the
    /// snapshot names no backend.
    pub fn pick(&mut self, now: Now) -> Option<ServerAddress> {
        let count = self.targets.len();
        let in_turn = (0..count).map(|step| (self.next + step) % count);
        let chosen = in_turn
            .clone()
            .find(|&index| self.targets[index].out_until <= now)
            .or_else(|| in_turn.min_by_key(|&index| self.targets[index].out_until))?;
        self.next = (chosen + 1) % count;
        Some(self.targets[chosen].address.clone())
    }

    /// A connect to `address` failed: it is left out for a while.
    pub fn handle_failure(&mut self, address: &ServerAddress, now: Now) {
        if let Some(target) = self.target(address) {
            let doubled = BACK_OFF_MS_MIN.saturating_mul(1 << target.failures.min(16));
            target.failures = target.failures.saturating_add(1);
            target.out_until = now.after_ms(doubled.min(BACK_OFF_MS_MAX));
        }
    }

    /// A connect to `address` succeeded: it counts as healthy again.
    pub fn handle_success(&mut self, address: &ServerAddress) {
        if let Some(target) = self.target(address) {
            target.failures = 0;
            target.out_until = Now(0);
        }
    }

    fn target(&mut self, address: &ServerAddress) -> Option<&mut Target> {
        self.targets.iter_mut().find(|target| target.address == *address)
    }
}

fn targets(snapshot: &Snapshot, known: &[Target]) -> Vec<Target> {
    let fresh = |address: &ServerAddress| {
        let kept = known.iter().find(|target| target.address == *address);
        kept.cloned().unwrap_or(Target { address: address.clone(), failures: 0, out_until: Now(0) })
    };
    snapshot.backends.iter().take(BACKENDS_MAX).map(fresh).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    fn snapshot(epoch: u64, names: &[&str]) -> Snapshot {
        let backends = names.iter().map(|name| ServerAddress(name.to_string())).collect();
        Snapshot { epoch: Epoch(epoch), backends }
    }

    fn picks(router: &mut Router, now: u64, count: usize) -> Vec<String> {
        (0..count).map(|_| router.pick(Now(now)).unwrap().0).collect()
    }

    #[test]
    fn healthy_backends_are_used_in_turn() {
        let mut router = Router::new(&snapshot(1, &["a", "b", "c"]));
        assert_eq!(picks(&mut router, 0, 5), ["a", "b", "c", "a", "b"]);
    }

    #[test]
    fn a_backend_that_failed_is_left_out_until_its_time_has_passed() {
        let mut router = Router::new(&snapshot(1, &["a", "b"]));
        router.handle_failure(&ServerAddress("a".to_string()), Now(0));

        assert_eq!(picks(&mut router, BACK_OFF_MS_MIN - 1, 2), ["b", "b"]);
        assert_eq!(picks(&mut router, BACK_OFF_MS_MIN, 2), ["a", "b"]);
    }

    #[test]
    fn time_out_doubles_up_to_its_bound_and_ends_with_a_success() {
        let a = ServerAddress("a".to_string());
        let mut router = Router::new(&snapshot(1, &["a", "b"]));
        for _ in 0..100 {
            router.handle_failure(&a, Now(0));
        }
        assert_eq!(picks(&mut router, BACK_OFF_MS_MAX - 1, 2), ["b", "b"]);
        assert_eq!(picks(&mut router, BACK_OFF_MS_MAX, 1), ["a"]);

        router.handle_success(&a);
        router.handle_failure(&a, Now(0));
        assert_eq!(picks(&mut router, BACK_OFF_MS_MIN, 2), ["b", "a"]);
    }

    #[test]
    fn when_all_failed_the_one_that_is_due_first_is_tried() {
        let mut router = Router::new(&snapshot(1, &["a", "b"]));
        router.handle_failure(&ServerAddress("b".to_string()), Now(0));
        router.handle_failure(&ServerAddress("a".to_string()), Now(5));
        assert_eq!(picks(&mut router, 6, 2), ["b", "b"]);
    }

    #[test]
    fn snapshots_only_move_forward() {
        let mut router = Router::new(&snapshot(2, &["new"]));
        assert!(!router.handle_snapshot(&snapshot(1, &["old"])));
        assert!(!router.handle_snapshot(&snapshot(2, &["same"])));
        assert_eq!(picks(&mut router, 0, 1), ["new"]);

        assert!(router.handle_snapshot(&snapshot(3, &["newer"])));
        assert_eq!(router.epoch(), Epoch(3));
        assert_eq!(picks(&mut router, 0, 1), ["newer"]);
    }

    #[test]
    fn what_is_known_of_a_backend_survives_a_new_snapshot() {
        let mut router = Router::new(&snapshot(1, &["a", "b"]));
        router.handle_failure(&ServerAddress("a".to_string()), Now(0));
        router.handle_snapshot(&snapshot(2, &["a", "c"]));
        assert_eq!(picks(&mut router, 1, 2), ["c", "c"]);
    }

    #[test]
    fn no_backend_means_no_pick() {
        assert_eq!(Router::new(&snapshot(1, &[])).pick(Now(0)), None);
    }
}
