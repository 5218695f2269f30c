//! Writes what a voter has refused for ever, in a thread of its own: the one that renews leases
//! must not wait for a disk.

use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender};
use std::time::Instant;

use pgx_control::lease::Refusals;
use tracing::{error, info};

use super::durable;
use super::journal::Journal;
use super::lease;
use super::storage::{Kept, Owner};
use crate::limits::control::DISK_RETRY;

/// Writes until the sender is gone. What cannot be written is tried again; until then the voter
/// does not state a release, so a failover may wait for it, and promises go on.
pub(super) fn run(
    path: &Path,
    owner: Owner,
    wanted: &Receiver<Refusals>,
    done: &SyncSender<lease::Input>,
) {
    let mut journal = Journal::default();
    while let Ok(mut refusals) = wanted.recv() {
        let mut has_failed = false;
        loop {
            while let Ok(newer) = wanted.try_recv() {
                refusals = newer;
            }
            let kept = Kept { owners: vec![owner], value: refusals.clone() };
            match durable::write(path, &kept) {
                Ok(()) => break,
                Err(error) => {
                    has_failed = true;
                    let text = error.to_string();
                    if let Some(repeated) = journal.is_due(&text, Instant::now()) {
                        error!(
                            path = %path.display(), error = text, repeated,
                            "cannot write what this voter refuses; a failover may wait for it: \
                             make space or mend the disk, it is tried again each second"
                        );
                    }
                    std::thread::sleep(DISK_RETRY);
                }
            }
        }
        if has_failed {
            info!(path = %path.display(), "what this voter refuses is written again");
        }
        if done.send(lease::Input::Persisted(refusals)).is_err() {
            return;
        }
    }
}
