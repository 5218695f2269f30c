//! The agent of this host's PostgreSQL: looks at it, asks [`Agent`] what follows from that and from
//! the agreed state, and has it done.
//!
//! One thread looks ([`look`]), one waits for the postmaster's end, one decides, one at a time
//! carries steps out ([`carry`]), and some ask PostgreSQL whether it still works ([`probe`]). Each
//! may hang alone: the one that decides waits for nothing but its own disk, where its record is.
//! What is looked at counts only if nothing was done since the look began.
//!
//! A directory that pgx has neither founded nor taken over is watched, and nothing is done to it.

mod carry;
mod directory;
mod gate;
mod hooks;
mod look;
mod place;
mod probe;
mod tell;
mod wish;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel};
use std::time::{Duration, Instant};

use pgx_control::agent::{Agent, Local, Process, Record, Step};
use pgx_control::cluster::{Durability, Stage, State};
use pgx_control::facts::AgentFacts;
use pgx_control::ids::{BootTime, Epoch, Incarnation, NodeId, SystemId};
use pgx_control::lease::{Kind, Wants};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use tracing::{error, info, warn};

use self::carry::{Change, Job, Task, Troubles};
use self::hooks::Hooks;
use self::look::{Ask, Found, Postmaster, Sight};
pub(crate) use self::place::place;
pub(super) use self::probe::Shared as Answers;
use self::probe::{Part, Probe};
pub(crate) use self::probe::{Verdict, ask_once};
pub(crate) use self::wish::Wish;
use super::clock::{boot_time, random, until};
use super::durable::{self, ReadError};
use super::lease::{self, Board};
use super::storage::{Files, Kept, Owner};
use super::{driver, spawn};
use crate::config;
use crate::fence::gate::{Gate, Width};
use crate::limits::control::{
    LOOK_CLOSELY_EVERY, LOOK_EVERY, LOOK_REFUSED_EVERY, TEND_EVERY, TRY_AGAIN,
};
use crate::postgres::settings::Managed;
use crate::postgres::{Peer, Place};

/// How often the record may be written in one round: a write may make the next step possible.
const ROUNDS_MAX: usize = 4;

/// What the agent is told.
pub(in crate::controller) enum Input {
    /// The state has changed.
    State(Arc<State>),
    /// Somebody has looked at PostgreSQL, after what counts so far.
    Looked { generation: u64, looked: Box<Result<Found, String>> },
    /// A postmaster has ended.
    Ended(i32),
    /// An operator wishes something of PostgreSQL here.
    Wish(Wish, oneshot::Sender<Result<String, String>>),
    /// A list of steps is over.
    Done { number: u64, outcome: Result<Change, String> },
}

/// Where the agent's outputs go.
pub(super) struct Outlets {
    pub(super) driver: SyncSender<driver::Input>,
    pub(super) lease: SyncSender<lease::Input>,
    pub(super) board: Board,
    /// What opens PostgreSQL's port, if something shuts it.
    pub(super) gate: Option<Gate>,
}

/// What must not be forgotten about the directory.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Memory {
    system: SystemId,
    record: Record,
}

/// By which name the record of a node tells of its directory; `None` where there is no record.
///
/// # Errors
/// When it cannot be read.
pub(crate) fn recorded_directory(control: &config::Control) -> Result<Option<Incarnation>, String> {
    match durable::read::<Kept<Memory>>(&Files::of(control).agent) {
        Ok(kept) => Ok(Some(kept.value.record.directory)),
        Err(ReadError::Missing(_)) => Ok(None),
        Err(error) => Err(error.to_string()),
    }
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
    let place = place(&postgres, me)?;
    let (sender, inbox) = channel();
    let (asks, asked) = channel();
    let hooks = Hooks::start(postgres.hooks.clone(), &place)?;
    let (looking, looked_at) = (sender.clone(), place.clone());
    let probe = Probe::start(&postgres.data_directory)?;
    spawn("pgx-look", move || look::run(&postgres, &looked_at, &asked, &looking))?;
    let answers = probe.answers.clone();
    let watcher = Watcher {
        me,
        priority,
        owner,
        path: files.agent.clone(),
        outlets,
        inputs: sender.clone(),
        asks,
        asked: Ask { generation: 0, every: LOOK_EVERY },
        place,
        state: None,
        memory: kept,
        agent: None,
        local: None,
        managed: None,
        is_managed: false,
        postmaster: None,
        ends: None,
        has_exited: false,
        job: None,
        jobs: 0,
        stamp: Stamp::default(),
        copying: None,
        copies_anew: false,
        wishes: Vec::new(),
        trouble: None,
        refuses: false,
        missed: None,
        tended: None,
        troubles: Troubles::default(),
        probe,
        hooks,
        silent: None,
        excuses: Vec::new(),
        told: (None, Wants::default()),
        closed: None,
        said: String::new(),
    };
    spawn("pgx-agent", move || watcher.run(&inbox))?;
    Ok((sender, answers))
}

/// By what of the state steps are carried out: when it changes, what runs is interrupted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Stamp {
    epoch: Option<Epoch>,
    is_sealed: bool,
    stage: Option<Stage>,
}

impl Stamp {
    fn of(state: &State) -> Self {
        Self {
            epoch: state.tenure().map(|tenure| tenure.epoch),
            is_sealed: state.sealed().is_some(),
            stage: state.stage(),
        }
    }
}

/// A failure, and when it is tried again.
struct Trouble {
    pause: Duration,
    until: Instant,
}

/// What slots and settings are seen to for.
type Tended = (Vec<NodeId>, Process, Durability);

struct Watcher {
    me: NodeId,
    priority: u32,
    owner: Owner,
    path: PathBuf,
    outlets: Outlets,
    inputs: Sender<Input>,
    asks: Sender<Ask>,
    /// What the thread that looks was asked for last.
    asked: Ask,
    place: Place,
    state: Option<Arc<State>>,
    memory: Option<Memory>,
    agent: Option<Agent>,
    /// As it was found since the last thing was done.
    local: Option<Local>,
    managed: Option<Managed>,
    /// Whether pgx may touch the directory.
    is_managed: bool,
    postmaster: Option<i32>,
    /// The postmaster that a list of steps ends, or may end.
    ends: Option<i32>,
    /// Whether it ended unasked, and has not run since.
    has_exited: bool,
    job: Option<Job>,
    jobs: u64,
    /// By what the job was begun.
    stamp: Stamp,
    /// The state by which a copy is made or was made, until it is looked at.
    copying: Option<(Arc<State>, Option<Incarnation>)>,
    /// Whether what is rebuilt next is copied, as an operator wants it.
    copies_anew: bool,
    /// What operators wish, until it can be looked into.
    wishes: Vec<(Wish, oneshot::Sender<Result<String, String>>)>,
    trouble: Option<Trouble>,
    /// Whether the server could not be asked when it was looked at last.
    refuses: bool,
    /// Since when the directory has not been there.
    missed: Option<Instant>,
    /// When slots and settings were seen to, and for what.
    tended: Option<(Instant, Tended)>,
    troubles: Troubles,
    probe: Probe,
    hooks: Hooks,
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
                Ok(input) => self.take(input),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            self.grant_wishes();
            self.step();
            self.ask();
        }
    }

    fn take(&mut self, input: Input) {
        match input {
            Input::State(state) => {
                let before = self.state.replace(Arc::clone(&state));
                self.see_stage(before.as_deref().map(Stamp::of), Stamp::of(&state));
            }
            Input::Looked { generation, looked } => {
                if generation == self.asked.generation && self.job.is_none() {
                    self.looked(*looked);
                }
            }
            Input::Ended(pid) if self.postmaster == Some(pid) => self.ended(pid),
            Input::Ended(_) => {}
            Input::Wish(wish, reply) => self.wishes.push((wish, reply)),
            Input::Done { number, outcome } => {
                if self.job.as_ref().is_some_and(|job| job.number == number) {
                    self.done(outcome);
                }
            }
        }
    }

    /// What is done next may depend on more than the last look has told.
    fn see_stage(&mut self, before: Option<Stamp>, now: Stamp) {
        if now.stage == Some(Stage::Stops) && before != Some(now) {
            // Whether a session is about something since it was seen last.
            self.look_again();
        } else if before != Some(now) {
            // It lives as long as this one.
            let _ = self.asks.send(self.asked);
        }
    }

    /// Until the next look at the clock: not later than the moment at which PostgreSQL counts as
    /// hung if it stays silent, and soon while a promotion depends on the lease.
    fn wait(&self) -> Duration {
        let promotes = self.job.as_ref().is_some_and(|job| job.promotes);
        let most = if promotes { LOOK_CLOSELY_EVERY } else { LOOK_EVERY };
        let hung_ms_max = self.state.as_ref().map(|state| state.policy().hung_ms_max);
        let now = boot_time();
        let left = hung_ms_max
            .filter(|_| self.postmaster.is_some())
            .map(|ms| until(self.probe.answers.lock().in_full(now).after_ms(ms), now));
        left.filter(|left| !left.is_zero()).map_or(most, |left| left.min(most))
    }

    /// Has PostgreSQL looked at as often as it is worth now.
    fn ask(&mut self) {
        let every = match self.is_waiting() {
            // Each look would be a line in its log.
            true if self.refuses => LOOK_REFUSED_EVERY,
            true => LOOK_CLOSELY_EVERY,
            false => LOOK_EVERY,
        };
        if self.asked.every != every {
            self.asked.every = every;
            // It lives as long as this one.
            let _ = self.asks.send(self.asked);
        }
    }

    /// Whether something is about to happen with PostgreSQL that others wait for.
    fn is_waiting(&self) -> bool {
        let Some(state) = self.state.as_ref().filter(|_| self.is_managed) else { return false };
        let Some(tenure) = state.tenure() else { return false };
        if self.job.is_some() {
            // What is seen meanwhile does not count.
            return false;
        }
        let is_changing = |local: &Local| match local.process {
            Process::Standby => local.upstream.is_some() && !local.is_streaming,
            Process::Primary => {
                state.established().is_some_and(|established| established.rules.len() > 1)
            }
            Process::Stopped | Process::Exited => false,
        };
        state.sealed().is_some()
            || !tenure.is_established
            || state.stage() == Some(Stage::Stops)
            || self.local.as_ref().is_some_and(is_changing)
    }

    /// What was seen before counts no more.
    fn look_again(&mut self) {
        self.asked.generation += 1;
        self.local = None;
        // It lives as long as this one.
        let _ = self.asks.send(self.asked);
    }

    fn ended(&mut self, pid: i32) {
        self.postmaster = None;
        self.probe.set_target(None);
        self.see_end();
        if self.ends != Some(pid) {
            warn!(pid, "PostgreSQL has ended");
            self.has_exited = true;
        }
        // A look that began before would say that it runs.
        self.asked.generation += 1;
        let _ = self.asks.send(self.asked);
        if self.agent.as_ref().is_some_and(Agent::awaits_timeline) {
            // How far its promotion came has to be seen before that counts as over.
            self.local = None;
        }
        if let Some(local) = &mut self.local {
            local.process = if self.has_exited { Process::Exited } else { Process::Stopped };
        }
    }

    fn done(&mut self, outcome: Result<Change, String>) {
        let tends = self.job.take().is_some_and(|job| job.tends);
        match outcome {
            // It is done again soon, and keeps nothing else waiting.
            Err(error) if tends => self.say(&error),
            Ok(_) if tends => {}
            Ok(change) => {
                self.trouble = None;
                self.said.clear();
                self.see_done(matches!(change, Change::Rebuilt(_)));
                match change {
                    Change::None => self.copying = None,
                    Change::Rebuilt(directory) => {
                        self.copies_anew = false;
                        if let Some((_, made)) = &mut self.copying {
                            *made = Some(directory);
                        }
                    }
                    Change::Checkpointed(epoch) => {
                        if let Some(agent) = &mut self.agent {
                            agent.handle_checkpointed(epoch);
                        }
                    }
                    Change::Restored => {
                        self.copying = None;
                        if let Some(agent) = &mut self.agent {
                            agent.handle_restored();
                        }
                    }
                    Change::Retained => {
                        self.copying = None;
                        if let Some(agent) = &mut self.agent {
                            agent.handle_retained();
                        }
                    }
                }
            }
            Err(error) => {
                self.copying = None;
                let (first, last) = TRY_AGAIN;
                let before = self.trouble.as_ref().map(|trouble| trouble.pause * 2);
                let pause = before.unwrap_or(first).min(last);
                self.trouble = Some(Trouble { pause, until: Instant::now() + pause });
                self.say(&error);
            }
        }
        self.look_again();
    }

    fn looked(&mut self, looked: Result<Found, String>) {
        let Found { sight, postmaster, trouble } = match looked {
            Ok(found) => found,
            Err(error) => return self.say(&format!("cannot look at PostgreSQL: {error}")),
        };
        self.is_managed = !matches!(sight, Sight::Foreign(_));
        if !matches!(sight, Sight::Nothing) {
            self.missed = None;
        }
        let (local, managed) = match sight {
            Sight::Nothing => return self.find_nothing(),
            Sight::Half(local) => (local, None),
            Sight::Foreign(local) => (local, None),
            Sight::Managed(local, managed) => (local, Some(managed)),
        };
        self.refuses = trouble.is_some();
        if let Some(trouble) = trouble {
            self.say(&trouble);
        }
        self.managed = managed;
        let is_half = self.is_managed && self.managed.is_none();
        let mut local = local;
        if is_half {
            let Some(memory) = &self.memory else {
                return self.say("the directory is half built; see 'pgx init postgres'");
            };
            local.system = memory.system;
        }
        self.end_copy(&local);
        if let Err(text) = self.check(&local) {
            self.agent = None;
            return self.say(&text);
        }
        if self.agent.is_none() {
            self.begin(local.system, local.timeline);
        }
        if let Some(postmaster) = postmaster {
            self.watch(postmaster);
            self.has_exited = false;
        }
        let process = match local.process {
            Process::Standby | Process::Primary => local.process,
            // Whose end was seen is told by the thread that waits for it.
            _ if self.postmaster.is_some() => return,
            _ if self.has_exited => Process::Exited,
            _ => Process::Stopped,
        };
        self.local = Some(Local { process, ..local });
    }

    /// Waits for the end of a postmaster in a thread of its own.
    fn watch(&mut self, postmaster: Postmaster) {
        let Postmaster { pid, handle, target } = postmaster;
        self.probe.set_target(Some(target));
        if self.postmaster == Some(pid) {
            return;
        }
        info!(pid, "PostgreSQL runs");
        let ended = self.inputs.clone();
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
        let Some(state) = self.state.clone() else { return };
        if let Some(job) = &self.job {
            let is_leased = |epoch| {
                self.held().is_some_and(|(held, until)| held == epoch && boot_time() < until)
            };
            // Nobody is promoted without the lease, however long what comes before takes.
            if self.stamp != Stamp::of(&state)
                || job.promotes && !self.stamp.epoch.is_some_and(is_leased)
            {
                job.interrupt();
            }
        }
        if self.agent.is_none() {
            return self.tell(&state, false);
        }
        let Some(mut local) = self.local.clone().filter(|_| self.job.is_none()) else {
            // A disk that is dead may hold up who looks or carries out, and must not hide that
            // PostgreSQL is silent.
            let answered = self.answered(&state);
            let is_hung = boot_time() >= answered.after_ms(state.policy().hung_ms_max);
            return self.tell(&state, self.postmaster.is_some() && is_hung);
        };
        self.see_local(&state, &local);
        for _ in 0..ROUNDS_MAX {
            let held = self.held();
            // In each round, for writing the record may have taken long.
            local.answered = self.answered(&state);
            let Some(agent) = &mut self.agent else { return };
            let steps = agent.next(&state, &local, held, boot_time());
            let mut has_written = false;
            let mut work = Vec::new();
            let (mut record, mut opens) = (None, None);
            for step in steps {
                match step {
                    Step::Persist(wanted) => record = Some(wanted),
                    Step::Close(epoch) => self.close(epoch, &state, &local),
                    Step::Open(epoch) => opens = Some((epoch, Width::Open)),
                    Step::OpenToPeers(epoch) => opens = Some((epoch, Width::Peers)),
                    step => work.push(step),
                }
            }
            self.open(opens, local.process);
            if work.is_empty() {
                work.extend(self.moved_upstream(&state));
            }
            // Ending a server does not wait for the record.
            self.carry_out(work, &state, &local);
            if let Some(record) = record {
                let memory = Memory { system: local.system, record: record.clone() };
                if self.persist(memory)
                    && let Some(agent) = &mut self.agent
                {
                    agent.handle_persisted(record);
                    has_written = true;
                }
            }
            if self.job.is_some() || !has_written {
                break;
            }
        }
        if self.job.is_none() {
            self.tend(&state, &local);
        }
        self.tell(&state, false);
    }

    /// Begins to carry out what of these steps is not done already.
    fn carry_out(&mut self, steps: Vec<Step>, state: &Arc<State>, local: &Local) {
        if steps.is_empty() {
            return;
        }
        if !self.is_managed {
            return self.say(&format!(
                "not carried out: {steps:?}; this directory is not pgx's, which only watches it; \
                 see 'pgx init postgres'"
            ));
        }
        let stamp = Stamp::of(state);
        let is_new = stamp != self.stamp;
        if self.trouble.as_ref().is_some_and(|known| !is_new && Instant::now() < known.until) {
            return;
        }
        let mut tasks = Vec::new();
        for step in steps {
            match self.task(step, state, local) {
                Ok(task) => tasks.extend(task),
                Err(text) => return self.say(&text),
            }
        }
        if tasks.is_empty() {
            return;
        }
        let ends = tasks.iter().any(|task| {
            !matches!(
                task,
                Task::SetRule(_)
                    | Task::Follow(_)
                    | Task::Promote { .. }
                    | Task::Checkpoint(_)
                    | Task::Retain(_)
            )
        });
        let copies =
            tasks.iter().any(|task| matches!(task, Task::Rebuild { .. } | Task::Copy { .. }));
        self.ends = self.postmaster.filter(|_| ends);
        self.copying = copies.then(|| (Arc::clone(state), None));
        if copies {
            self.see_rebuild();
        }
        self.begin_job(tasks, stamp);
    }

    fn begin_job(&mut self, tasks: Vec<Task>, stamp: Stamp) {
        self.jobs += 1;
        match Job::start(self.jobs, &self.place, tasks, &self.inputs) {
            Ok(job) => {
                self.stamp = stamp;
                self.local = None;
                self.job = Some(job);
            }
            Err(error) => self.say(&error),
        }
    }

    /// What it takes to carry a step out; nothing if it is done already.
    fn task(&self, step: Step, state: &State, local: &Local) -> Result<Option<Task>, String> {
        let managed = self.managed.as_ref();
        let kept = || {
            let record = self.agent.as_ref().map(|agent| agent.record());
            let kept = record.and_then(|record| record.kept.as_ref());
            kept.map(|kept| kept.directory).ok_or("nothing is put aside by the record".to_owned())
        };
        let new = || Incarnation(u128::from_be_bytes(random()));
        let runs = matches!(local.process, Process::Standby | Process::Primary);
        let task = match step {
            Step::Kill => runs.then_some(Task::Kill),
            Step::Checkpoint(epoch) => runs.then_some(Task::Checkpoint(epoch)),
            Step::ShutDown => runs.then_some(Task::ShutDown),
            Step::Detach => Some(Task::Detach),
            Step::StartStandby => (!runs && managed.is_some()).then_some(Task::StartStandby),
            Step::Promote(rule) => {
                let members = state.members().keys().copied().collect();
                Some(Task::Promote { rule, members })
            }
            Step::SetRule(rule) => {
                let is_set = managed.is_some_and(|managed| managed.rule == rule);
                (!is_set).then_some(Task::SetRule(rule))
            }
            Step::Follow(upstream) => {
                let upstream = self.peer(upstream, state)?;
                let is_set = managed.and_then(|managed| managed.upstream.as_ref());
                (is_set != Some(&upstream)).then_some(Task::Follow(upstream))
            }
            Step::Rebuild(upstream) => {
                let upstream = self.peer(upstream, state)?;
                let copies_anew = self.copies_anew;
                Some(Task::Rebuild { upstream, directory: new(), copies_anew })
            }
            Step::Copy(upstream) => {
                let upstream = self.peer(upstream, state)?;
                Some(Task::Copy { upstream, kept: kept()?, directory: new() })
            }
            Step::Restore => Some(Task::Restore(kept()?)),
            Step::Retain => Some(Task::Retain(kept()?)),
            Step::Persist(_) | Step::Close(_) | Step::Open(_) | Step::OpenToPeers(_) => None,
        };
        Ok(task)
    }

    /// The primary is reached under another address than the one that is set.
    fn moved_upstream(&self, state: &State) -> Option<Step> {
        let known = self.managed.as_ref()?.upstream.as_ref()?;
        let holds = state.tenure().is_some_and(|tenure| tenure.holder == known.node);
        let is_other = self.peer(known.node, state).is_ok_and(|found| found != *known);
        (holds && is_other && state.sealed().is_none()).then_some(Step::Follow(known.node))
    }

    /// Another member, as PostgreSQL reaches it: on the same port as here.
    fn peer(&self, node: NodeId, state: &State) -> Result<Peer, String> {
        let named = state.nodes().get(&node).and_then(|known| known.address.rsplit_once(':'));
        let (host, _) = named.ok_or_else(|| format!("the address of node {node} is not known"))?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        Ok(Peer { node, host, port: self.place.port })
    }

    /// Now and then, while nothing else is to be done: slots of members, and what was put aside.
    fn tend(&mut self, state: &State, local: &Local) {
        let members: Vec<_> = state.members().keys().copied().collect();
        let now = (members.clone(), local.process, state.durability());
        let is_due = self
            .tended
            .as_ref()
            .is_none_or(|(tended, known)| tended.elapsed() >= TEND_EVERY || *known != now);
        let Some(agent) = self.agent.as_ref().filter(|_| is_due) else { return };
        let is_calm = state.tenure().is_some_and(|tenure| tenure.is_established)
            && state.sealed().is_none()
            && state.handover().is_none();
        // What failed may be what this mends, and nothing else may be left to be done.
        let waits = self.trouble.as_ref().is_some_and(|known| Instant::now() < known.until);
        if !is_calm || self.managed.is_none() || waits {
            return;
        }
        self.tended = Some((Instant::now(), now));
        let kept = agent.record().kept.as_ref().map(|kept| kept.directory);
        let runs = matches!(local.process, Process::Standby | Process::Primary);
        let members = runs.then_some(members);
        self.ends = None;
        let troubles = self.troubles.clone();
        let is_strict = state.durability() == Durability::Strict;
        let tend = Task::Tend { members, is_strict, kept, troubles };
        self.begin_job(vec![tend], Stamp::of(state));
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
