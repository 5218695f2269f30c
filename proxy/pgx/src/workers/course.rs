//! Following the cluster: which servers clients get, and only while this node may route.
//!
//! The deadline of the route lease is a number that all threads see. Each looks at it before it
//! handles what came in a turn, so that no thread sends anything on after its end, whoever else is
//! stuck.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use pgx_control::ids::BootTime;
use pgx_session::route::{Course, ServerAddress};

use super::{Letter, Workers};

/// Until when clients of the cluster may be served.
#[derive(Debug)]
pub(crate) struct RouteLease {
    until: AtomicU64,
    /// Some thread has found that it was over.
    has_lapsed: AtomicBool,
}

impl Default for RouteLease {
    /// Of a proxy that needs none.
    fn default() -> Self {
        Self { until: AtomicU64::new(u64::MAX), has_lapsed: AtomicBool::new(false) }
    }
}

impl RouteLease {
    /// It is held until then.
    pub(crate) fn hold(&self, until: BootTime) {
        self.until.store(until.0, Ordering::Release);
    }

    /// Whether it is over.
    pub(crate) fn is_over(&self) -> bool {
        let until = self.until.load(Ordering::Acquire);
        until != u64::MAX && crate::controller::clock::boot_time() >= BootTime(until)
    }

    /// A thread has stopped because it is over.
    pub(super) fn lapse(&self) {
        self.has_lapsed.store(true, Ordering::Release);
    }

    /// Whether one has since the last look.
    pub(crate) fn take_lapse(&self) -> bool {
        self.has_lapsed.swap(false, Ordering::AcqRel)
    }
}

/// A new course, and who is told that it is followed.
pub(super) type Order = (Arc<Course>, Sender<()>);

impl Workers {
    /// The lease that threads go by.
    pub(crate) fn route_lease(&self) -> Arc<RouteLease> {
        Arc::clone(&self.shared.route_lease)
    }

    /// Lets all threads follow a course. Says whether all of them did within `wait`: then none
    /// sends anything on that it does not allow.
    pub(crate) fn follow(&self, course: &Arc<Course>, wait: Duration) -> bool {
        let (told, followed) = channel();
        let threads = self.shared.counts.len();
        for number in 0..threads {
            self.shared.send(number, Letter::Course((Arc::clone(course), told.clone())));
        }
        drop(told);
        let end = Instant::now() + wait;
        let left = || end.saturating_duration_since(Instant::now());
        (0..threads).all(|_| followed.recv_timeout(left()).is_ok())
    }

    /// Looks names of backends up, beside whatever else is done.
    pub(crate) fn look_up(&self, backends: Vec<ServerAddress>) {
        let names = Arc::clone(&self.names);
        names.add(&backends);
        let look = move || names.look_up(&backends);
        // Without a thread they are looked up with the others, now and then.
        let _ = std::thread::Builder::new().name("proxy-look-up".to_owned()).spawn(look);
    }
}
