//! Carries steps out, one list at a time, in a thread of its own: what it does to PostgreSQL may
//! take long, or hang, and the agent goes on looking at state and leases.

use std::path::Path;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use pgx_control::cluster::sync::Rule;
use pgx_control::ids::{Epoch, Incarnation, NodeId};
use tracing::{info, info_span, warn};

use super::Input;
use crate::controller::spawn;
use crate::limits::control::{ARCHIVE_EVERY, PROGRESS_EVERY};
use crate::postgres::error::Error;
use crate::postgres::hands::Hands;
use crate::postgres::rebuild::{Means, Progress};
use crate::postgres::{Abort, Peer, Place};

/// One thing to do, with all that it takes.
#[derive(Clone, Debug)]
pub(super) enum Task {
    Kill,
    Checkpoint(Epoch),
    ShutDown,
    /// As an operator wishes.
    End,
    Detach,
    StartStandby,
    Promote {
        rule: Rule,
        members: Vec<NodeId>,
    },
    SetRule(Rule),
    Follow(Peer),
    Rebuild {
        upstream: Peer,
        directory: Incarnation,
        /// Whatever is there is not to be made use of.
        copies_anew: bool,
    },
    Copy {
        upstream: Peer,
        kept: Incarnation,
        directory: Incarnation,
    },
    Restore(Incarnation),
    Retain(Incarnation),
    /// Slots for these members, and settings that are not too low, if it runs; nothing put aside
    /// but this.
    Tend {
        members: Option<Vec<NodeId>>,
        is_strict: bool,
        kept: Option<Incarnation>,
        troubles: Troubles,
    },
}

/// What operators were told of last, and when that was looked at.
#[derive(Clone, Debug, Default)]
pub(super) struct Troubles(Arc<Mutex<(Option<Instant>, Vec<String>)>>);

impl Troubles {
    /// Logs what is wrong with disks and archiving, and when it is well again.
    fn tend(&self, hands: &Hands) {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if told.0.is_some_and(|looked| looked.elapsed() < ARCHIVE_EVERY) {
            return;
        }
        told.0 = Some(Instant::now());
        let mut troubles = hands.scarce_disks();
        // Who cannot ask has told so, and nothing depends on this.
        troubles.extend(hands.archive_troubles().unwrap_or_default());
        for trouble in troubles.iter().filter(|trouble| !told.1.contains(trouble)) {
            warn!("{trouble}");
        }
        if troubles.is_empty() && !told.1.is_empty() {
            info!("that is well again: {}", told.1.join("; "));
        }
        told.1 = troubles;
    }
}

/// What has become of the directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::controller) enum Change {
    None,
    Rebuilt(Incarnation),
    Restored,
    Retained,
    Checkpointed(Epoch),
}

/// A list that is being carried out.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) number: u64,
    /// Whether it was begun because nothing else was to be done.
    pub(super) tends: bool,
    /// Whether it promotes, which needs the lease of its epoch.
    pub(super) promotes: bool,
    abort: Abort,
}

impl Job {
    /// Begins a list.
    ///
    /// # Errors
    /// When no thread can be had.
    pub(super) fn start(
        number: u64,
        place: &Place,
        tasks: Vec<Task>,
        done: &Sender<Input>,
    ) -> Result<Self, String> {
        let tends = matches!(tasks[..], [Task::Tend { .. }]);
        let promotes = tasks.iter().any(|task| matches!(task, Task::Promote { .. }));
        let abort = Abort::default();
        let hands = Hands::new(place.clone(), abort.clone());
        let done = done.clone();
        spawn("pgx-hands", move || {
            let _span = info_span!("job", number).entered();
            let outcome = carry_out(&hands, tasks).map_err(|error| error.to_string());
            // The agent lives as long as the process.
            let _ = done.send(Input::Done { number, outcome });
        })?;
        Ok(Self { number, tends, promotes, abort })
    }

    /// Ends it where it can be ended; that it is over is told as always.
    pub(super) fn interrupt(&self) {
        self.abort.abort();
    }
}

fn carry_out(hands: &Hands, tasks: Vec<Task>) -> Result<Change, Error> {
    let mut change = Change::None;
    for task in tasks {
        let start = Instant::now();
        let text = name(&task);
        change = match task {
            Task::Kill => hands.kill().map(|()| change),
            Task::Checkpoint(epoch) => hands.checkpoint().map(|()| Change::Checkpointed(epoch)),
            Task::ShutDown => hands.shut_down().map(|_| change),
            Task::End => hands.end_in_order().map(|()| change),
            Task::Detach => hands.detach().map(|()| change),
            Task::StartStandby => hands.start_standby().map(|()| change),
            Task::Promote { rule, members } => hands.promote(&rule, &members).map(|()| change),
            Task::SetRule(rule) => hands.set_rule(&rule).map(|()| change),
            Task::Follow(upstream) => hands.follow(&upstream).map(|()| change),
            Task::Rebuild { upstream, directory, copies_anew } => {
                let means = match copies_anew {
                    true => hands.copy_anew(&upstream, directory, &mut progress())?,
                    false => hands.rebuild(&upstream, directory, &mut progress())?,
                };
                info!(?means, from = %upstream.node, "the directory is built anew");
                Ok(Change::Rebuilt(directory))
            }
            Task::Copy { upstream, kept, directory } => {
                let copied = hands.copy(&upstream, kept, directory, &mut progress());
                copied.map(|()| Change::Rebuilt(directory))
            }
            Task::Restore(kept) => hands.restore(kept).map(|()| Change::Restored),
            Task::Retain(kept) => hands.retain(kept).map(|lost| {
                let at = lost.as_deref().unwrap_or(Path::new("nowhere")).display();
                warn!(%at, "a directory may have commits that were given up, and is kept for good");
                Change::Retained
            }),
            Task::Tend { members, is_strict, kept, troubles } => {
                // Each is done whatever comes of the others.
                let mut all = vec![hands.remove_others(kept), hands.bound_log()];
                if let Some(members) = members {
                    let members: Vec<_> = members.into_iter().map(|node| (node, None)).collect();
                    all.extend([hands.keep_slots(&members), hands.settle_backup()]);
                    all.push(hands.hold_floor(is_strict));
                    troubles.tend(hands);
                }
                all.into_iter().collect::<Result<(), _>>().map(|()| change)
            }
        }?;
        if let Some(text) = text {
            info!(ms = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX), "{text}");
        }
    }
    Ok(change)
}

/// What a step is to those who read the log.
fn name(task: &Task) -> Option<String> {
    let text = match task {
        Task::Kill => "PostgreSQL was ended at once".to_owned(),
        Task::Checkpoint(_) => "PostgreSQL has made a checkpoint".to_owned(),
        Task::End => "PostgreSQL was ended, and is started again".to_owned(),
        Task::ShutDown => "PostgreSQL was shut down in order".to_owned(),
        Task::Detach => "PostgreSQL receives from nobody".to_owned(),
        Task::StartStandby => "PostgreSQL was started as a standby".to_owned(),
        Task::Promote { .. } => "PostgreSQL was promoted".to_owned(),
        Task::SetRule(rule) => {
            format!("commits wait for {} of {} standbys", rule.k, rule.members.len())
        }
        Task::Follow(upstream) => format!("PostgreSQL receives from node {}", upstream.node),
        Task::Rebuild { .. } | Task::Copy { .. } | Task::Retain(_) | Task::Tend { .. } => {
            return None;
        }
        Task::Restore(_) => "the directory that was put aside is back".to_owned(),
    };
    Some(text)
}

/// Logs how far a copy is, now and then.
fn progress() -> impl FnMut(Progress) {
    let mut told = Instant::now();
    move |Progress { means, done_kb, total_kb }| {
        if told.elapsed() >= PROGRESS_EVERY {
            told = Instant::now();
            let what = match means {
                Means::Rewound => "rewinding the directory",
                Means::Cloned | Means::FromBackup => "cloning the directory",
            };
            info!(done_mb = done_kb >> 10, total_mb = total_kb >> 10, "{what}");
        }
    }
}
