//! What goes over a host's cable, seen from a thread beside the test.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use anyhow::Context as _;
use pgx_tests::tap::{Seen, Tap};

use crate::hosts::Host;

/// A running capture of a host's TCP packets.
pub(crate) struct Wire {
    is_over: Arc<AtomicBool>,
    reader: JoinHandle<anyhow::Result<Vec<Seen>>>,
}

impl Wire {
    /// Begins to capture.
    pub(crate) fn of(host: &Host) -> anyhow::Result<Self> {
        let tap = host.run(Tap::open)?;
        let is_over = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&is_over);
        let reader = thread::spawn(move || {
            let mut all = Vec::new();
            loop {
                // Asked before: what has come by then is all read.
                let is_last = told.load(Ordering::Acquire);
                match tap.next(20)? {
                    Some((_, seen)) => all.extend(seen),
                    None if is_last => return Ok(all),
                    None => {}
                }
            }
        });
        Ok(Self { is_over, reader })
    }

    /// Everything that went by until now.
    pub(crate) fn packets(self) -> anyhow::Result<Vec<Seen>> {
        self.is_over.store(true, Ordering::Release);
        self.reader.join().ok().context("the capture panicked")?
    }
}
