//! Which backend the next server connection goes to.
//!
//! A [`Snapshot`] says which backends there are; it carries an epoch and a [`Router`] only ever
//! moves forward to a newer one. Between snapshots the router learns from failed and successful
//! connects: a backend that failed is left out for a time that doubles with each failure; and from
//! what servers say they are, so that clients who want a standby are sent to one.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use crate::attrs::{ServerKind, SessionAttrs};
use crate::limits::{BACK_OFF_MS_MAX, BACK_OFF_MS_MIN, BACKENDS_MAX, ROLE_RETRY_MS};
use crate::time::Now;

/// Orders snapshots; grows by one with each change of primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub u64);

/// Where a backend listens, as the operator wrote it: `host:port`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServerAddress(pub String);

impl ServerAddress {
    /// Whether it is the path of a Unix socket.
    #[must_use]
    pub fn is_path(&self) -> bool {
        self.0.starts_with('/')
    }
}

impl fmt::Display for ServerAddress {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(out)
    }
}

/// A backend, and how much of the work is to be its.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Where it listens.
    pub address: ServerAddress,
    /// Its share of connections among equals; at least one.
    pub weight: u32,
}

impl From<ServerAddress> for Backend {
    fn from(address: ServerAddress) -> Self {
        Self { address, weight: 1 }
    }
}

/// The backends that may be used, as of an epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Which change of primary this reflects.
    pub epoch: Epoch,
    /// In order of preference among equals; at most [`BACKENDS_MAX`] count.
    pub backends: Vec<Backend>,
}

/// What may be done at servers of a kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Gate {
    /// Everything.
    #[default]
    Open,
    /// What has begun goes on; all else waits.
    Held,
    /// Nothing: what has begun is lost.
    Shut,
}

/// Where a cluster's clients go: those that may write, and those that want standbys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Course {
    /// The primary.
    pub primary: Snapshot,
    /// What may be done there.
    pub writes: Gate,
    /// Whoever serves reads.
    pub standbys: Snapshot,
    /// What may be done there.
    pub reads: Gate,
    /// Whether no commit may be told as done that a failover could lose: clients of the primary
    /// cannot set that lower.
    pub is_strict: bool,
}

impl Course {
    /// What it says of servers of a kind.
    #[must_use]
    pub fn of(&self, attrs: SessionAttrs) -> (&Snapshot, Gate) {
        if attrs.may_write() { (&self.primary, self.writes) } else { (&self.standbys, self.reads) }
    }
}

/// Picks backends of the newest snapshot in turn, by their weights, leaving out those that just
/// failed. Those that are known to be of the kind that is wanted come first, then those of which
/// nothing is known; the others are asked last, since roles change.
#[derive(Clone, Debug)]
pub struct Router {
    epoch: Epoch,
    attrs: SessionAttrs,
    targets: Vec<Target>,
    /// How long a backend is left out after its first failure, in milliseconds.
    back_off_ms: u64,
}

#[derive(Clone, Debug)]
struct Target {
    address: ServerAddress,
    weight: i64,
    /// What its weight has earned it since its last turn.
    credit: i64,
    failures: u32,
    out_until: Now,
    kind: Option<ServerKind>,
}

impl Router {
    /// A router over `snapshot`.
    #[must_use]
    pub fn new(snapshot: &Snapshot, attrs: SessionAttrs) -> Self {
        let targets = targets(snapshot, &[]);
        Self { epoch: snapshot.epoch, attrs, targets, back_off_ms: BACK_OFF_MS_MIN }
    }

    /// Leaves backends out for so many milliseconds after their first failure.
    pub(crate) fn set_back_off(&mut self, ms: u64) {
        self.back_off_ms = ms;
    }

    /// Takes over a newer snapshot; what is known of backends that stay is kept. Says whether it
    /// was newer: an older or equal one changes nothing, since messages may arrive out of order.
    pub fn handle_snapshot(&mut self, snapshot: &Snapshot) -> bool {
        if snapshot.epoch <= self.epoch {
            return false;
        }
        self.epoch = snapshot.epoch;
        self.targets = targets(snapshot, &self.targets);
        true
    }

    /// The epoch of the snapshot in force.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// How many backends there are.
    #[must_use]
    pub fn backends(&self) -> usize {
        self.targets.len()
    }

    /// The backend for the next connection: the next in turn that is not left out, else the one
    /// whose time-out ends first, so that a client is never refused without a try. `None` when the
    /// snapshot names no backend.
    pub fn pick(&mut self, now: Now) -> Option<ServerAddress> {
        let attrs = self.attrs;
        let rank = |target: &Target| target.kind.map_or(1, |kind| attrs.rank(kind));
        let is_in = |target: &&mut Target| target.out_until <= now;
        let best = self.targets.iter_mut().filter(is_in).map(|target| rank(target)).min();
        let Some(best) = best else {
            let due = self.targets.iter().min_by_key(|target| target.out_until)?;
            return Some(due.address.clone());
        };
        let mut sum = 0;
        let mut chosen: Option<&mut Target> = None;
        for target in self.targets.iter_mut().filter(is_in).filter(|target| rank(target) == best) {
            sum += target.weight;
            target.credit += target.weight;
            if chosen.as_ref().is_none_or(|chosen| target.credit > chosen.credit) {
                chosen = Some(target);
            }
        }
        let chosen = chosen?;
        chosen.credit -= sum;
        Some(chosen.address.clone())
    }

    /// A connect to `address` failed, or it is too far behind: it is left out for a while.
    pub fn handle_failure(&mut self, address: &ServerAddress, now: Now) {
        let first_ms = self.back_off_ms;
        if let Some(target) = self.target(address) {
            let doubled = first_ms.saturating_mul(1 << target.failures.min(16));
            target.failures = target.failures.saturating_add(1);
            target.out_until = now.after_ms(doubled.min(BACK_OFF_MS_MAX.max(first_ms)));
        }
    }

    /// A connect to `address` succeeded: it counts as healthy again.
    pub fn handle_success(&mut self, address: &ServerAddress) {
        if let Some(target) = self.target(address) {
            target.failures = 0;
            target.out_until = Now(0);
        }
    }

    /// A server has said of what kind it is. Says whether that is wanted; if it never is, the
    /// backend is left out until its role may have changed.
    pub fn handle_kind(&mut self, address: &ServerAddress, kind: ServerKind, now: Now) -> bool {
        let (attrs, accepts) = (self.attrs, self.attrs.accepts(kind));
        if let Some(target) = self.target(address) {
            target.kind = Some(kind);
            if !accepts {
                target.out_until = now.after_ms(ROLE_RETRY_MS);
            }
        }
        let is_better = |target: &Target| {
            target.out_until <= now && target.kind.is_none_or(|kind| attrs.rank(kind) == 0)
        };
        accepts && (attrs.rank(kind) == 0 || !self.targets.iter().any(is_better))
    }

    /// All backends, and whether each is left out for now.
    pub(crate) fn states(&self, now: Now) -> impl Iterator<Item = (&ServerAddress, bool)> {
        self.targets.iter().map(move |target| (&target.address, target.out_until > now))
    }

    fn target(&mut self, address: &ServerAddress) -> Option<&mut Target> {
        self.targets.iter_mut().find(|target| target.address == *address)
    }
}

fn targets(snapshot: &Snapshot, known: &[Target]) -> Vec<Target> {
    let fresh = |backend: &Backend| {
        let weight = i64::from(backend.weight.max(1));
        let kept = known.iter().find(|target| target.address == backend.address);
        let address = backend.address.clone();
        let new = Target { address, weight, credit: 0, failures: 0, out_until: Now(0), kind: None };
        // A new turn begins with each snapshot.
        kept.map_or(new, |kept| Target { weight, credit: 0, ..kept.clone() })
    };
    snapshot.backends.iter().take(BACKENDS_MAX).map(fresh).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    fn snapshot(epoch: u64, names: &[&str]) -> Snapshot {
        let backends = names.iter().map(|name| ServerAddress(name.to_string()).into()).collect();
        Snapshot { epoch: Epoch(epoch), backends }
    }

    fn picks(router: &mut Router, now: u64, count: usize) -> Vec<String> {
        (0..count).map(|_| router.pick(Now::from_ms(now)).unwrap().0).collect()
    }

    #[test]
    fn healthy_backends_are_used_in_turn() {
        let mut router = Router::new(&snapshot(1, &["a", "b", "c"]), SessionAttrs::Any);
        assert_eq!(picks(&mut router, 0, 5), ["a", "b", "c", "a", "b"]);
    }

    #[test]
    fn a_backend_that_failed_is_left_out_until_its_time_has_passed() {
        let mut router = Router::new(&snapshot(1, &["a", "b"]), SessionAttrs::Any);
        router.handle_failure(&ServerAddress("a".to_string()), Now(0));

        assert_eq!(picks(&mut router, BACK_OFF_MS_MIN - 1, 2), ["b", "b"]);
        assert_eq!(picks(&mut router, BACK_OFF_MS_MIN, 2), ["a", "b"]);
    }

    #[test]
    fn time_out_doubles_up_to_its_bound_and_ends_with_a_success() {
        let a = ServerAddress("a".to_string());
        let mut router = Router::new(&snapshot(1, &["a", "b"]), SessionAttrs::Any);
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
        let mut router = Router::new(&snapshot(1, &["a", "b"]), SessionAttrs::Any);
        router.handle_failure(&ServerAddress("b".to_string()), Now(0));
        router.handle_failure(&ServerAddress("a".to_string()), Now::from_ms(5));
        assert_eq!(picks(&mut router, 6, 2), ["b", "b"]);
    }

    #[test]
    fn snapshots_only_move_forward() {
        let mut router = Router::new(&snapshot(2, &["new"]), SessionAttrs::Any);
        assert!(!router.handle_snapshot(&snapshot(1, &["old"])));
        assert!(!router.handle_snapshot(&snapshot(2, &["same"])));
        assert_eq!(picks(&mut router, 0, 1), ["new"]);

        assert!(router.handle_snapshot(&snapshot(3, &["newer"])));
        assert_eq!(router.epoch(), Epoch(3));
        assert_eq!(picks(&mut router, 0, 1), ["newer"]);
    }

    #[test]
    fn what_is_known_of_a_backend_survives_a_new_snapshot() {
        let mut router = Router::new(&snapshot(1, &["a", "b"]), SessionAttrs::Any);
        router.handle_failure(&ServerAddress("a".to_string()), Now(0));
        router.handle_snapshot(&snapshot(2, &["a", "c"]));
        assert_eq!(picks(&mut router, 1, 2), ["c", "c"]);
    }

    #[test]
    fn no_backend_means_no_pick() {
        assert_eq!(Router::new(&snapshot(1, &[]), SessionAttrs::Any).pick(Now(0)), None);
    }

    const PRIMARY: ServerKind = ServerKind { in_standby: false, read_only: false };
    const STANDBY: ServerKind = ServerKind { in_standby: true, read_only: false };

    #[test]
    fn work_is_spread_by_weight_and_evenly_in_time() {
        let mut snapshot = snapshot(1, &["a", "b"]);
        snapshot.backends[0].weight = 3;
        let mut router = Router::new(&snapshot, SessionAttrs::Any);
        assert_eq!(picks(&mut router, 0, 8), ["a", "a", "b", "a", "a", "a", "b", "a"]);
    }

    #[test]
    fn backends_of_the_wanted_kind_come_first_and_others_are_asked_again_later() {
        let name = |name: &str| ServerAddress(name.to_string());
        let mut router = Router::new(&snapshot(1, &["a", "b", "c"]), SessionAttrs::Standby);
        assert!(!router.handle_kind(&name("a"), PRIMARY, Now(0)));
        assert_eq!(picks(&mut router, 0, 2), ["b", "c"], "nothing is known of them");
        assert!(router.handle_kind(&name("c"), STANDBY, Now(0)));
        assert_eq!(picks(&mut router, ROLE_RETRY_MS, 2), ["c", "c"]);
        router.handle_failure(&name("c"), Now::from_ms(ROLE_RETRY_MS));
        router.handle_failure(&name("b"), Now::from_ms(ROLE_RETRY_MS));
        assert_eq!(picks(&mut router, ROLE_RETRY_MS, 1), ["a"], "it may have become one");
        assert!(router.handle_kind(&name("a"), STANDBY, Now::from_ms(ROLE_RETRY_MS)));
    }

    #[test]
    fn primary_is_taken_where_standbys_are_preferred_and_none_can_be_had() {
        let name = |name: &str| ServerAddress(name.to_string());
        let mut router = Router::new(&snapshot(1, &["a", "b"]), SessionAttrs::PreferStandby);
        assert!(!router.handle_kind(&name("a"), PRIMARY, Now(0)), "b may be a standby");
        assert!(router.handle_kind(&name("b"), STANDBY, Now(0)));
        assert_eq!(picks(&mut router, 0, 2), ["b", "b"]);
        router.handle_failure(&name("b"), Now(0));
        assert!(router.handle_kind(&name("a"), PRIMARY, Now(0)));
        assert_eq!(picks(&mut router, 0, 2), ["a", "a"]);
    }
}
