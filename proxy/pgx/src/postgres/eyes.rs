//! Looks at PostgreSQL and fills in what the agent is told of it.
//!
//! Two things are the caller's to know: since when PostgreSQL answers in full, and whether it ended
//! unasked. Looking does not touch the server, but for SIGHUP and for what ALTER SYSTEM has set
//! against pgx: see [`super::proof`] and [`super::nudge`] for why.

use std::time::Instant;

use pgx_control::agent::{Local, Process};
use pgx_control::cluster::sync::Rule;
use pgx_control::ids::{BootTime, Incarnation, Lsn, SystemId, Timeline};
use rustix::process::{Signal, pidfd_send_signal};

use super::control_file::{Cache, ControlFile};
use super::error::Error;
use super::nudge::Nudges;
use super::postmaster::{self, Postmaster};
use super::proof::{self, Answer, Proof};
use super::session::Session;
use super::settings::{self, Managed};
use super::{Place, lost, process, rebuild, wal};
use crate::limits::postgres::{PAUSE, PROOF_MAX};

/// How often what starts a receiver must have been seen at its end of the log: from the first time
/// on nothing receives, and what was received by then is replayed by the second.
const ROUNDS: u8 = 2;

/// What was found.
#[derive(Debug)]
pub(crate) struct Found {
    /// How it stands; `answered` is not told, and `process` is never [`Process::Exited`].
    pub(crate) local: Local,
    /// The postmaster, if it runs.
    pub(crate) postmaster: Option<Postmaster>,
    /// What pgx has set in it; `None` where pgx manages nothing yet.
    pub(crate) managed: Option<Managed>,
    /// What is half done to the directory, if something is: it must not be started. Then `local`
    /// tells what can be told, which may be nothing, and its settings may be another node's.
    pub(crate) half: Option<String>,
    /// Whether its upstream has removed the log that it needs next: it never streams as it is. Told
    /// when that has been so for some seconds.
    pub(crate) lost_wal: bool,
    /// Why the server that runs could not be asked in full.
    pub(crate) trouble: Option<String>,
}

/// What is remembered from look to look.
pub(crate) struct Eyes {
    place: Place,
    cache: Cache,
    session: Option<Session>,
    known: Known,
    lost: lost::Watch,
    has_lost_wal: bool,
    nudges: Nudges,
}

/// What is known of one life of the server, under one state of the settings.
#[derive(Default)]
struct Known {
    postmaster: i32,
    serial: u64,
    /// Once it runs what pgx has set.
    proof: Option<Proof>,
    rounds: u8,
    rule_since: Option<Lsn>,
    /// Of that life, whatever the settings.
    recovery_end: Option<Lsn>,
}

impl Eyes {
    #[must_use]
    pub(crate) fn new(place: Place) -> Self {
        let (cache, known, lost) = (Cache::default(), Known::default(), lost::Watch::default());
        let nudges = Nudges::default();
        Self { place, cache, session: None, known, lost, has_lost_wal: false, nudges }
    }

    /// Looks once. A server that runs and gives no answer is not an error.
    ///
    /// # Errors
    /// When there is no directory to look at, or its files cannot be read.
    pub(crate) fn look(&mut self) -> Result<Found, Error> {
        self.has_lost_wal = false;
        let place = &self.place;
        if let Some(half) = rebuild::mark(place)? {
            return Ok(self.look_at_half(half));
        }
        let control = self.cache.read(&place.programs, &place.data).map_err(Error::ControlFile)?;
        let managed = settings::read(place)?;
        let postmaster = postmaster::find(&place.data);
        let mut local = stopped(place, &control, managed.as_ref())?;
        let mut trouble = None;
        if let Some(postmaster) = &postmaster {
            local.shut_down = None;
            local.is_drained = false;
            local.process = runs_as(place);
            // Whoever cannot be asked may serve somebody.
            local.is_busy = true;
            if let Err(error) = self.examine(postmaster, managed.as_ref(), &mut local) {
                trouble = Some(error.to_string());
                if !matches!(error, Error::Overridden { .. }) {
                    self.session = None;
                }
            }
        } else {
            (self.session, self.known) = (None, Known::default());
        }
        let lost_wal = self.has_lost_wal;
        Ok(Found { local, postmaster, managed, half: None, lost_wal, trouble })
    }

    /// What is half built has no control file, or one that fits nothing else.
    fn look_at_half(&mut self, half: String) -> Found {
        let place = &self.place;
        (self.session, self.known) = (None, Known::default());
        let control = self.cache.read(&place.programs, &place.data).ok();
        let told = control.and_then(|control| stopped(place, &control, None).ok());
        let postmaster = postmaster::find(&place.data);
        let told = told.unwrap_or_else(nothing);
        let process = match &postmaster {
            None => Process::Stopped,
            Some(_) => runs_as(place),
        };
        // Nothing in it may count as drained, or as a primary's end.
        let local = Local { process, is_drained: false, shut_down: None, ..told };
        let half = Some(half);
        Found { local, postmaster, managed: None, half, lost_wal: false, trouble: None }
    }

    fn examine(
        &mut self,
        postmaster: &Postmaster,
        managed: Option<&Managed>,
        local: &mut Local,
    ) -> Result<(), Error> {
        if self.known.postmaster != postmaster.pid {
            self.known = Known { postmaster: postmaster.pid, ..Known::default() };
        }
        self.session(postmaster)?;
        let mut answer = self.ask()?;
        let serial = managed.map_or(0, |managed| managed.serial);
        // What somebody has set against pgx since is undone, and proven anew.
        let is_as_set = managed.is_none_or(|managed| {
            !answer.restarts
                && answer.names == settings::names(&managed.rule)
                && answer.conninfo == settings::primary_conninfo(&self.place, managed)
        });
        if self.known.serial != serial || !is_as_set {
            let Known { postmaster, recovery_end, .. } = self.known;
            self.known = Known { postmaster, serial, recovery_end, ..Known::default() };
        }
        self.describe(&answer, managed, local)?;
        let Some(managed) = managed else { return Ok(()) };
        let deadline = Instant::now() + PROOF_MAX;
        loop {
            if self.known.proof.is_none() {
                self.reload(postmaster, managed)?;
                answer = self.ask()?;
            }
            let is_settled = if answer.is_standby {
                self.drain(&answer, managed)
            } else {
                self.settle(&answer, managed)
            };
            self.describe(&answer, Some(managed), local)?;
            if is_settled || Instant::now() >= deadline {
                return Ok(());
            }
            std::thread::sleep(PAUSE);
            if self.known.proof.is_some() {
                answer = self.ask()?;
            }
        }
    }

    /// Asks, and notes what that proves.
    fn ask(&mut self) -> Result<Answer, Error> {
        let session = self.session.as_ref();
        let session = session.ok_or_else(|| Error::Silent("there is no session".to_owned()))?;
        match &mut self.known.proof {
            Some(proof) => proof.advance(session),
            None => proof::ask(session),
        }
    }

    fn session(&mut self, postmaster: &Postmaster) -> Result<&Session, Error> {
        let kept = self.session.take().filter(|session| session.is_with(postmaster));
        let session = match kept {
            Some(session) => session,
            None => Session::open(&self.place, postmaster)?,
        };
        Ok(self.session.insert(session))
    }

    /// Has the configuration read anew, and makes sure that it is what pgx has set.
    fn reload(&mut self, postmaster: &Postmaster, managed: &Managed) -> Result<(), Error> {
        let place = &self.place;
        place.own(|| settings::enforce(place))?;
        // One that has just ended gets no signal, and is asked in vain below.
        let _ = pidfd_send_signal(&postmaster.handle, Signal::HUP);
        let session = self.session.insert(Session::open(place, postmaster)?);
        let children = process::of(&[&place.data]);
        if !children.contains(&postmaster.pid) {
            // Who is not seen would count as having read it.
            return Err(Error::Unseen(postmaster.pid));
        }
        for (name, wanted) in [
            ("synchronous_standby_names", settings::names(&managed.rule)),
            ("primary_conninfo", settings::primary_conninfo(place, managed)),
            ("restart_after_crash", "off".to_owned()),
        ] {
            let found = session.value(&format!("SELECT current_setting('{name}')"))?;
            if found != wanted {
                return Err(Error::Overridden { name, found, wanted });
            }
        }
        self.known.proof = Some(Proof::of(children));
        Ok(())
    }

    /// Whether the rule is run by all that acknowledge commits, or cannot be said to be yet.
    fn settle(&mut self, answer: &Answer, managed: &Managed) -> bool {
        let Some(proof) = &self.known.proof else { return true };
        let is_of_rule =
            |directory| managed.rule.members.iter().any(|member| Some(*member) == directory);
        let matters = |sender: &&proof::Sender| sender.counts || is_of_rule(sender.directory);
        let senders = answer.senders.iter().filter(matters).all(|sender| proof.has(sender.pid));
        let checkpointer = answer.process("checkpointer");
        // It tells backends whether to wait at all.
        let is_told = checkpointer.is_some_and(|process| proof.has(process.pid));
        if !(senders && is_told) {
            return false;
        }
        if self.known.rule_since.is_none() {
            // What is asked after the proof.
            let after = self.session.as_ref().map(proof::ask);
            self.known.rule_since = after.and_then(Result::ok).and_then(|answer| answer.flushed);
        }
        true
    }

    /// Whether nothing more comes from anywhere, or something is set up to come.
    fn drain(&mut self, answer: &Answer, managed: &Managed) -> bool {
        if managed.upstream.is_some() {
            return true;
        }
        if has_receiver(answer) {
            (self.known.rounds, self.known.proof) = (0, None);
            return false;
        }
        if self.known.rounds >= ROUNDS {
            return true;
        }
        let startup = answer.process("startup");
        let proof = self.known.proof.as_ref();
        if startup.zip(proof).is_some_and(|(startup, proof)| proof.has(startup.pid)) {
            self.known.rounds += 1;
            if self.known.rounds < ROUNDS {
                self.known.proof = None;
            }
        }
        self.known.rounds >= ROUNDS
    }

    fn describe(
        &mut self,
        answer: &Answer,
        managed: Option<&Managed>,
        local: &mut Local,
    ) -> Result<(), Error> {
        let data = &self.place.data;
        local.is_busy = answer.is_busy;
        if answer.is_standby {
            local.process = Process::Standby;
            local.end = answer.received.max(answer.replayed).unwrap_or(Lsn(0)).max(local.end);
            local.timeline = wal::newest_timeline(data)?.max(local.timeline);
            local.switch = wal::switch(data, local.timeline)?;
            let from = managed.and_then(|managed| managed.upstream.as_ref());
            local.is_streaming = answer.receiver.as_ref().zip(from).is_some_and(|(found, from)| {
                let is_there = found.host == from.host && found.port == from.port.to_string();
                found.is_streaming && is_there
            });
            local.is_drained = self.known.rounds >= ROUNDS && !has_receiver(answer);
            let startup = answer.process("startup");
            if let Some(from) = from {
                self.nudges.note(data, startup, from, local.is_streaming);
            }
            let waits = startup.is_some_and(proof::Process::waits_for_log);
            self.has_lost_wal = self.lost.note(&self.place, from.filter(|_| waits), local);
            return Ok(());
        }
        local.process = Process::Primary;
        let flushed = answer.flushed.unwrap_or(Lsn(0));
        local.end = flushed;
        local.timeline = answer.timeline.unwrap_or(local.timeline);
        local.switch = wal::switch(data, local.timeline)?;
        local.recovery_end = Some(*self.known.recovery_end.get_or_insert(flushed));
        let Some(managed) = managed else { return Ok(()) };
        local.rule_flushed = flushed_by(answer, &managed.rule);
        // A sender that is new since must count as well, so the last answer decides.
        let runs = self.known.rule_since.filter(|_| self.settle(answer, managed));
        local.runs_rule = runs.map(|_| managed.rule.clone());
        local.rule_since = runs.unwrap_or(Lsn(u64::MAX));
        Ok(())
    }
}

/// As what a server runs, by its files.
fn runs_as(place: &Place) -> Process {
    let is_standby = place.data.join("standby.signal").exists();
    if is_standby { Process::Standby } else { Process::Primary }
}

/// A directory of which nothing is known.
pub(crate) fn nothing() -> Local {
    Local {
        system: SystemId(0),
        process: Process::Stopped,
        answered: BootTime(0),
        upstream: None,
        is_streaming: false,
        lacks_log: false,
        is_drained: false,
        end: Lsn(0),
        timeline: Timeline(0),
        switch: Lsn(0),
        recovery_end: None,
        runs_rule: None,
        rule_flushed: Lsn(0),
        rule_since: Lsn(u64::MAX),
        was_primary: false,
        is_busy: false,
        shut_down: None,
    }
}

/// How it stands by what lies on disk.
fn stopped(
    place: &Place,
    control: &ControlFile,
    managed: Option<&Managed>,
) -> Result<Local, Error> {
    let end = control.is_shut_down.then(|| wal::checkpoint_end(&place.data, control));
    let shut_down = end.transpose()?;
    let timeline = wal::newest_timeline(&place.data)?.max(control.timeline);
    let upstream = managed.and_then(|managed| managed.upstream.as_ref());
    Ok(Local {
        system: control.system,
        upstream: upstream.map(|peer| peer.node),
        is_drained: shut_down.is_some() && upstream.is_none(),
        end: control.end.max(shut_down.unwrap_or(Lsn(0))),
        timeline,
        switch: wal::switch(&place.data, timeline)?,
        was_primary: control.was_primary,
        shut_down,
        ..nothing()
    })
}

fn has_receiver(answer: &Answer) -> bool {
    answer.receiver.is_some() || answer.process("walreceiver").is_some()
}

/// How far enough members of a rule have flushed.
fn flushed_by(answer: &Answer, rule: &Rule) -> Lsn {
    let of = |member: &Incarnation| {
        let senders = answer.senders.iter().filter(|sender| sender.directory == Some(*member));
        senders.filter_map(|sender| sender.flushed).max()
    };
    let mut ends: Vec<_> = rule.members.iter().filter_map(of).collect();
    ends.sort_unstable_by(|a, b| b.cmp(a));
    rule.k.checked_sub(1).and_then(|at| ends.get(at).copied()).unwrap_or(Lsn(0))
}
