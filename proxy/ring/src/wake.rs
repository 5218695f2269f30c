//! Wakes an engine's thread from another one.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::event::{EventfdFlags, eventfd};

#[derive(Debug)]
pub(crate) struct Wake {
    pub(crate) fd: OwnedFd,
    /// A wake-up was written and not yet seen: another one needs no system call.
    is_pending: AtomicBool,
}

impl Wake {
    pub(crate) fn new() -> io::Result<Arc<Self>> {
        // Blocking, as io_uring does not wait for events of the other kind. Nobody blocks on it: it
        // is read when there is an event, and written to once for each.
        let fd = eventfd(0, EventfdFlags::CLOEXEC)?;
        Ok(Arc::new(Self { fd, is_pending: AtomicBool::new(false) }))
    }

    /// Takes the event, for a driver that was only told that there is one.
    pub(crate) fn read(&self) {
        let mut count = [0; 8];
        let _ = rustix::io::read(&self.fd, &mut count);
    }

    /// The event was read and is about to be handled: what comes from now on is a new one. A swap,
    /// so that what a waker that found it pending wrote before is visible here.
    pub(crate) fn seen(&self) {
        self.is_pending.swap(false, Ordering::SeqCst);
    }
}

/// Ends an engine's wait, from any thread; its handler is told by `woken`.
#[derive(Debug, Clone)]
pub struct Waker(pub(crate) Arc<Wake>);

impl Waker {
    /// Wakes the engine. Wake-ups that it has not yet seen are one. What was written before this
    /// call is visible to the handler that is told.
    pub fn wake(&self) {
        if !self.0.is_pending.swap(true, Ordering::SeqCst) {
            // Fails only when the counter is at its end, and then the engine is awake anyway.
            let _ = rustix::io::write(&self.0.fd, &1_u64.to_ne_bytes());
        }
    }
}
