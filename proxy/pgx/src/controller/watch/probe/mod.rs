//! Asks this host's PostgreSQL again and again whether it still works: a hung one does not end, so
//! its process tells nothing.
//!
//! [`answers`] is what follows from the answers. Here are those who ask: one thread for the server
//! ([`server`]), one for each disk ([`disk`]). Each may hang alone; what they find out goes into a
//! board that the agent reads, so that a hung one keeps nobody waiting. They log nothing: also a
//! log may hang.

mod answers;
mod disk;
mod once;
mod server;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;

pub(in crate::controller) use self::answers::{Answers, Part};
pub(crate) use self::once::{Verdict, ask_once};
use self::server::{Trouble, hedged};
use crate::controller::clock::boot_time;
use crate::controller::spawn;
use crate::limits::probe::{AGAIN_MAX, AGAIN_MIN, BEAT};

/// Whom to ask, and as whom.
#[derive(Clone, PartialEq, Eq)]
pub(in crate::controller) struct Target {
    pub(super) postmaster: i32,
    pub(super) data_directory: PathBuf,
    /// Whom the directory belongs to.
    pub(super) owner: u32,
    /// Where it listens, as far as it has said.
    pub(super) socket: Option<PathBuf>,
    pub(super) address: Option<SocketAddr>,
    pub(super) user: String,
    pub(super) database: String,
    /// Absent where none is configured; or why it cannot be read.
    pub(super) password: Result<Option<String>, String>,
}

// Written by hand to leave the password out.
impl std::fmt::Debug for Target {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { postmaster, socket, address, user, .. } = self;
        write!(out, "Target {{ {postmaster}, {socket:?}, {address:?}, {user} }}")
    }
}

/// The board. It is held for a few instructions at a time.
#[derive(Clone, Debug)]
pub(in crate::controller) struct Shared(Arc<Mutex<Answers>>);

impl Shared {
    fn new() -> Self {
        Self(Arc::new(Mutex::new(Answers::new(boot_time()))))
    }

    pub(in crate::controller) fn lock(&self) -> MutexGuard<'_, Answers> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn every(&self) -> Duration {
        self.lock().every()
    }

    fn ask(&self, postmaster: i32, part: Part) {
        self.lock().ask(postmaster, part, boot_time());
    }

    fn answered(&self, postmaster: i32, part: Part) {
        self.lock().answered(postmaster, part, boot_time());
    }

    fn failed(&self, postmaster: i32, part: Part, cause: &str) {
        self.lock().failed(postmaster, part, cause);
    }

    fn excuse(&self, postmaster: i32, part: Part, why: String, passes: bool) {
        self.lock().excuse(postmaster, part, why, passes);
    }
}

/// Those who ask, as the agent tells them whom.
pub(super) struct Probe {
    pub(super) answers: Shared,
    targets: watch::Sender<Option<Target>>,
}

impl Probe {
    /// Starts the threads; they end when this is dropped and none of them hangs.
    ///
    /// # Errors
    /// When a thread cannot be had.
    pub(super) fn start(data_directory: &Path) -> Result<Self, String> {
        let (targets, receiver) = watch::channel(None);
        let answers = Shared::new();
        for (name, part) in [("pgx-probe-data", Part::Data), ("pgx-probe-wal", Part::Wal)] {
            let (targets, answers) = (receiver.clone(), answers.clone());
            let data = data_directory.to_owned();
            spawn(name, move || disk::run(part, &data, &targets, &answers))?;
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| format!("cannot start the probe: {error}"))?;
        let asking = answers.clone();
        spawn("pgx-probe", move || runtime.block_on(run(receiver, asking)))?;
        Ok(Self { answers, targets })
    }

    /// Asks this one from now on, or nobody.
    pub(super) fn set_target(&self, target: Option<Target>) {
        match &target {
            Some(target) => self.answers.lock().begin(target.postmaster, boot_time()),
            None => self.answers.lock().end(boot_time()),
        }
        self.targets.send_if_modified(|known| {
            let is_new = *known != target;
            *known = target;
            is_new
        });
    }
}

async fn run(mut targets: watch::Receiver<Option<Target>>, answers: Shared) {
    loop {
        let target = targets.borrow_and_update().clone();
        let asking = async {
            match &target {
                Some(target) => {
                    tokio::join!(beat(&answers), knock(target, &answers), query(target, &answers));
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = targets.changed() => if changed.is_err() { return },
            () = asking => {}
        }
    }
}

async fn beat(answers: &Shared) {
    loop {
        answers.lock().beat(boot_time());
        sleep(BEAT).await;
    }
}

async fn knock(target: &Target, answers: &Shared) {
    let postmaster = target.postmaster;
    loop {
        answers.ask(postmaster, Part::Connection);
        let patience = answers.lock().patience();
        match hedged(patience, server::knock(target), server::knock(target)).await {
            Some(Ok(())) => answers.answered(postmaster, Part::Connection),
            Some(Err(Trouble::Refused { text, .. } | Trouble::Lost(text))) => {
                answers.failed(postmaster, Part::Connection, &text);
            }
            None => {}
        }
        sleep(answers.every()).await;
    }
}

async fn query(target: &Target, answers: &Shared) {
    let postmaster = target.postmaster;
    let mut session = None;
    let mut again = AGAIN_MIN;
    loop {
        answers.ask(postmaster, Part::Query);
        let patience = answers.lock().patience();
        let first = server::query(session.take(), target);
        match hedged(patience, first, server::query(None, target)).await {
            Some(Ok(kept)) => {
                answers.answered(postmaster, Part::Query);
                session = Some(kept);
                again = AGAIN_MIN;
                sleep(answers.every()).await;
            }
            Some(Err(Trouble::Lost(text))) => {
                answers.failed(postmaster, Part::Query, &text);
                sleep(answers.every()).await;
            }
            Some(Err(Trouble::Refused { text, passes })) => {
                answers.excuse(postmaster, Part::Query, text, passes);
                // Each try that is refused is a line in PostgreSQL's log.
                sleep(again).await;
                again = (again * 2).min(AGAIN_MAX);
            }
            None => {}
        }
    }
}
