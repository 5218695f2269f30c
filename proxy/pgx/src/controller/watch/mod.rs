//! Watches this host's PostgreSQL and says what it would do about it. It touches nothing: neither
//! does it start, stop or promote PostgreSQL, nor write into its directory, the probe's own file
//! excepted.
//!
//! Of the steps that the agent names, it carries out two: writing the record, and telling voters
//! that a right is given up. So a primary that runs here holds the primary's lease. One thread
//! looks ([`look`]), one waits for the postmaster's end, one decides, and some ask PostgreSQL
//! whether it still works ([`probe`]); of those who look and ask, each may hang alone.

mod look;
mod probe;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel};
use std::time::Duration;

use pgx_control::agent::{Agent, Local, Process, Record, Step};
use pgx_control::cluster::State;
use pgx_control::cluster::history::{History, Switch};
use pgx_control::facts::AgentFacts;
use pgx_control::ids::{BootTime, Epoch, Incarnation, Lsn, NodeId, SystemId, Timeline};
use pgx_control::lease::{Kind, Right, Wants};
use serde::{Deserialize, Serialize};
use tracing::{error, info, warn};

use self::look::{Found, Postmaster};
pub(super) use self::probe::Shared as Answers;
use self::probe::{Part, Probe};
pub(crate) use self::probe::{Verdict, ask_once};
use super::clock::{boot_time, random, until};
use super::durable::{self, ReadError};
use super::lease::{self, Board};
use super::storage::{Files, Kept, Owner};
use super::{driver, spawn};
use crate::config;
use crate::limits::control::LOOK_EVERY;
use crate::postgres::control_file::ControlFile;

/// How often the record may be written in one round: a write may make the next step possible.
const ROUNDS_MAX: usize = 4;

/// Texts about what is not probed that are remembered, so that each is logged once in the life of a
/// postmaster; beyond them, the memory is emptied.
const EXCUSES_MAX: usize = 16;

/// What the agent is told.
pub(super) enum Input {
    /// The state has changed.
    State(Arc<State>),
    /// Somebody has looked at PostgreSQL.
    Looked(Box<Result<Found, String>>),
    /// A postmaster has ended.
    Ended(i32),
}

/// Where the agent's outputs go.
pub(super) struct Outlets {
    pub(super) driver: SyncSender<driver::Input>,
    pub(super) lease: SyncSender<lease::Input>,
    pub(super) board: Board,
}

/// What must not be forgotten about the directory.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Memory {
    system: SystemId,
    record: Record,
}

/// Starts to watch.
///
/// # Errors
/// When the record cannot be read, or a thread cannot be had.
pub(super) fn start(
    postgres: config::Postgres,
    files: &Files,
    owner: Owner,
    (me, priority): (NodeId, u32),
    outlets: Outlets,
) -> Result<(Sender<Input>, Answers), String> {
    let kept = match durable::read::<Kept<Memory>>(&files.agent) {
        // Also one of a store that was recovered since: the directory is what it was.
        Ok(kept) => Some(kept.value),
        Err(ReadError::Missing(_)) => None,
        Err(error) => {
            return Err(format!(
                "{error}; what was promised about {} is not known: clone that directory anew, then \
                 remove the file",
                postgres.data_directory.display()
            ));
        }
    };
    let (sender, inbox) = channel();
    let looking = sender.clone();
    spawn("pgx-look", move || look::run(&postgres, &looking))?;
    let probe = Probe::start()?;
    let answers = probe.answers.clone();
    let watcher = Watcher {
        me,
        priority,
        owner,
        path: files.agent.clone(),
        outlets,
        ended: sender.clone(),
        state: None,
        memory: kept,
        agent: None,
        local: None,
        postmaster: None,
        probe,
        silent: None,
        excuses: Vec::new(),
        told: (None, Wants::default()),
        closed: None,
        said: String::new(),
    };
    spawn("pgx-agent", move || watcher.run(&inbox))?;
    Ok((sender, answers))
}

struct Watcher {
    me: NodeId,
    priority: u32,
    owner: Owner,
    path: PathBuf,
    outlets: Outlets,
    ended: Sender<Input>,
    state: Option<Arc<State>>,
    memory: Option<Memory>,
    agent: Option<Agent>,
    local: Option<Local>,
    postmaster: Option<i32>,
    probe: Probe,
    /// What was logged of the probe last: who is silent and whether that counts as hung, and what
    /// is not asked.
    silent: Option<(Part, bool)>,
    excuses: Vec<String>,
    /// What the controller and the leases were told last.
    told: (Option<AgentFacts>, Wants),
    closed: Option<Epoch>,
    said: String,
}

impl Watcher {
    fn run(mut self, inbox: &Receiver<Input>) {
        loop {
            match inbox.recv_timeout(self.wait()) {
                Ok(Input::State(state)) => self.state = Some(state),
                Ok(Input::Looked(looked)) => self.looked(*looked),
                Ok(Input::Ended(pid)) if self.postmaster == Some(pid) => {
                    warn!(pid, "PostgreSQL has ended");
                    self.postmaster = None;
                    self.probe.set_target(None);
                    if let Some(local) = &mut self.local {
                        local.process = Process::Exited;
                    }
                }
                Ok(Input::Ended(_)) | Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            self.step();
        }
    }

    /// Until the next look at the clock: not later than the moment at which PostgreSQL counts as
    /// hung if it stays silent.
    fn wait(&self) -> Duration {
        let hung_ms_max = self.state.as_ref().map(|state| state.policy().hung_ms_max);
        let now = boot_time();
        let left = hung_ms_max
            .filter(|_| self.postmaster.is_some())
            .map(|ms| until(self.probe.answers.lock().in_full(now).after_ms(ms), now));
        left.filter(|left| !left.is_zero()).map_or(LOOK_EVERY, |left| left.min(LOOK_EVERY))
    }

    fn looked(&mut self, looked: Result<Found, String>) {
        let found = match looked {
            Ok(found) => found,
            Err(error) => return self.say(&format!("cannot look at PostgreSQL: {error}")),
        };
        let Found { control, is_standby, postmaster } = found;
        let ControlFile { system, timeline, end, was_primary, .. } = control;
        if self.agent.is_none() {
            self.begin(system, timeline);
        }
        if self.memory.as_ref().is_some_and(|memory| memory.system != system) {
            self.agent = None;
            return self.say(&format!(
                "the directory is of another database system ({}) than {} tells of; it is left out",
                system.0,
                self.path.display()
            ));
        }
        let was = self.local.as_ref().map_or(Process::Stopped, |local| local.process);
        let process = match postmaster {
            Some(postmaster) => {
                self.watch(postmaster);
                if is_standby { Process::Standby } else { Process::Primary }
            }
            // Whose end was seen is told by the thread that waits for it.
            None if self.postmaster.is_some() => was,
            None if was == Process::Exited => Process::Exited,
            None => Process::Stopped,
        };
        self.local = Some(Local {
            system,
            process,
            // Told anew at each step.
            answered: boot_time(),
            upstream: None,
            is_streaming: false,
            is_drained: false,
            end,
            timeline,
            switch: Lsn(0),
            recovery_end: None,
            runs_rule: None,
            rule_flushed: Lsn(0),
            rule_since: Lsn(0),
            was_primary,
            shut_down: None,
        });
    }

    /// The agent of the directory, with the record of earlier lives or a first one.
    fn begin(&mut self, system: SystemId, timeline: Timeline) {
        let memory = self.memory.get_or_insert_with(|| {
            let directory = Incarnation(u128::from_be_bytes(random()));
            info!(system = system.0, "a data directory that nothing is known of: a new record");
            // As a cluster begins with it.
            let first = Switch { timeline, at: Lsn(0), epoch: Epoch(0) };
            Memory { system, record: Record::new(directory, History(vec![first])) }
        });
        let (kept, agent) =
            (memory.clone(), Agent::new(self.me, self.priority, memory.record.clone()));
        if self.persist(kept) {
            self.agent = Some(agent);
        }
    }

    /// Waits for the end of a postmaster in a thread of its own.
    fn watch(&mut self, postmaster: Postmaster) {
        let Postmaster { pid, handle, target } = postmaster;
        self.probe.set_target(Some(target));
        if self.postmaster == Some(pid) {
            return;
        }
        info!(pid, "PostgreSQL runs");
        let ended = self.ended.clone();
        let waiting = spawn("pgx-postmaster", move || {
            look::wait_for_end(&handle);
            // The agent lives as long as the process.
            let _ = ended.send(Input::Ended(pid));
        });
        match waiting {
            Ok(()) => self.postmaster = Some(pid),
            Err(error) => error!(error, "cannot watch PostgreSQL"),
        }
    }

    fn step(&mut self) {
        let (Some(state), Some(mut local)) = (self.state.clone(), self.local.clone()) else {
            return;
        };
        let mut others = Vec::new();
        for _ in 0..ROUNDS_MAX {
            let held = self.held();
            // In each round, for writing the record may have taken long.
            local.answered = self.answered(&state);
            let Some(agent) = &mut self.agent else { return };
            let steps = agent.next(&state, &local, held, boot_time());
            let mut has_written = false;
            others.clear();
            for step in steps {
                match step {
                    Step::Persist(record) => {
                        let memory = Memory { system: local.system, record: record.clone() };
                        if self.persist(memory)
                            && let Some(agent) = &mut self.agent
                        {
                            agent.handle_persisted(record);
                            has_written = true;
                        }
                    }
                    Step::Close(epoch) => self.close(epoch, &state),
                    other => others.push(format!("{other:?}")),
                }
            }
            if !has_written {
                break;
            }
        }
        if others.is_empty() {
            self.said.clear();
        } else {
            self.say(&format!("not carried out, pgx only watches for now: {}", others.join(", ")));
        }
        self.tell(&state);
    }

    /// When PostgreSQL last answered in full; what is out of the ordinary about that is logged.
    fn answered(&mut self, state: &State) -> BootTime {
        let hung_ms_max = state.policy().hung_ms_max;
        let now = boot_time();
        let mut answers = self.probe.answers.lock();
        answers.beat(now);
        answers.set_hung_ms_max(hung_ms_max);
        let (answered, silence, excuses) =
            (answers.in_full(now), answers.silence(now), answers.excuses());
        drop(answers);
        if self.postmaster.is_none() {
            (self.silent, self.excuses) = (None, Vec::new());
            return answered;
        }
        let silent = silence.as_ref().map(|silence| (silence.part, silence.ms >= hung_ms_max));
        match silence {
            _ if silent == self.silent => {}
            Some(silence) if silence.ms >= hung_ms_max => {
                warn!(hung_ms_max, "{silence}; it counts as hung");
            }
            Some(silence) => warn!(hung_ms_max, "{silence}"),
            None => info!("PostgreSQL answers in full again"),
        }
        self.silent = silent;
        for (text, passes) in excuses {
            if self.excuses.contains(&text) {
                continue;
            }
            if passes {
                info!("{text}");
            } else {
                warn!("{text}; that it hangs there would not be noticed, see 'pgx doctor'");
            }
            if self.excuses.len() >= EXCUSES_MAX {
                self.excuses.clear();
            }
            self.excuses.push(text);
        }
        answered
    }

    fn tell(&mut self, state: &State) {
        let Some(agent) = &self.agent else { return };
        let (facts, wants) = (agent.facts().cloned(), agent.wants(state));
        if facts != self.told.0 {
            let input = driver::Input::Agent(facts.clone());
            if self.outlets.driver.try_send(input).is_ok() {
                self.told.0 = facts;
            }
        }
        // Nobody serves from a PostgreSQL that does not run.
        let runs = self.postmaster.is_some();
        let wants = if runs { wants } else { Wants::default() };
        if wants != self.told.1 && self.outlets.lease.send(lease::Input::Wants(wants)).is_ok() {
            self.told.1 = wants;
        }
    }

    /// Tells the voters that this node has given its epoch up: only of one that it holds.
    fn close(&mut self, epoch: Epoch, state: &State) {
        let Some(tenure) = state.tenure() else { return };
        if self.closed >= Some(epoch) || tenure.epoch != epoch || tenure.holder != self.me {
            return;
        }
        let right = Right::primary(epoch, self.me, tenure.incarnation);
        if self.outlets.lease.send(lease::Input::Closed(right)).is_ok() {
            self.closed = Some(epoch);
        }
    }

    fn held(&self) -> Option<(Epoch, BootTime)> {
        let board = self.outlets.board.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        board.get(&Kind::Primary).map(|held| (Epoch(held.right.number), held.until))
    }

    fn persist(&mut self, memory: Memory) -> bool {
        let kept = Kept { owners: vec![self.owner], value: memory.clone() };
        match durable::write(&self.path, &kept) {
            Ok(()) => {
                self.memory = Some(memory);
                true
            }
            Err(error) => {
                self.say(&format!("cannot write {}: {error}", self.path.display()));
                false
            }
        }
    }

    /// Logs a text once until another takes its place.
    fn say(&mut self, text: &str) {
        if self.said != text {
            warn!(agent = text, "PostgreSQL");
            text.clone_into(&mut self.said);
        }
    }
}
