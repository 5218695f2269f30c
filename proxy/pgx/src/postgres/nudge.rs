//! Shortens a standby's pause before it tries its upstream again. PostgreSQL pauses so that it
//! costs little to follow nobody for hours; but after a change of primary commits wait for the end
//! of that pause. A SIGHUP for the process that pauses ends it: `WaitForWALToBecomeAvailable` in
//! PostgreSQL's `xlogrecovery.c` (`xlog.c` before 15) waits once, for its latch or the time.

use std::path::Path;
use std::time::Instant;

use super::proof::Process;
use super::{Peer, process};
use crate::limits::postgres::{NUDGE_EVERY, NUDGES_MAX, STUCK_MIN};

/// How often the pause was ended for an upstream, and when.
#[derive(Debug, Default)]
pub(super) struct Nudges {
    upstream: Option<Peer>,
    count: u32,
    last: Option<Instant>,
    streams_since: Option<Instant>,
}

impl Nudges {
    /// Notes how the one stands that replays, on a standby with that upstream.
    pub(super) fn note(
        &mut self,
        data: &Path,
        startup: Option<&Process>,
        upstream: &Peer,
        is_streaming: bool,
    ) {
        if self.upstream.as_ref() != Some(upstream) {
            *self = Self { upstream: Some(upstream.clone()), ..Self::default() };
        }
        if is_streaming {
            let since = *self.streams_since.get_or_insert_with(Instant::now);
            // One that has nothing to stream ends within a moment, each time.
            if since.elapsed() >= STUCK_MIN {
                self.count = 0;
            }
            return;
        }
        self.streams_since = None;
        let is_due = self.last.is_none_or(|last| last.elapsed() >= NUDGE_EVERY);
        let pauses = startup.filter(|process| process.pauses());
        let Some(startup) = pauses.filter(|_| is_due && self.count < NUDGES_MAX) else { return };
        // The upstream that does not come is tried as seldom as PostgreSQL likes.
        self.count += 1;
        self.last = Some(Instant::now());
        process::hang_up(startup.pid, data);
    }
}
