//! Sets whom a server follows and whom its commits wait for, and promotes it. What starts and ends
//! it is in [`super::life`], what makes its directory anew in [`super::rebuild`].

use std::time::Instant;

use pgx_control::cluster::sync::Rule;
use pgx_control::ids::{Lsn, NodeId};
use rustix::process::{Pid, Signal, kill_process, pidfd_send_signal};

use super::error::Error;
use super::postmaster::{self, Postmaster};
use super::proof::{self, Answer};
use super::session::Session;
use super::settings::{self, Managed};
use super::{Abort, Peer, Place, files, slots};
use crate::limits::postgres::{
    AGAIN_BYTES_MAX, CHECKPOINT_MAX, DETACH_MAX, PAUSE, PROMOTE_MAX, RECEIVER_GRACE,
};

/// Whoever carries steps out has these for one list of steps.
#[derive(Clone, Debug)]
pub(crate) struct Hands {
    pub(super) place: Place,
    pub(super) abort: Abort,
}

impl Hands {
    /// Hands that stop where they can when `abort` says so.
    #[must_use]
    pub(crate) fn new(place: Place, abort: Abort) -> Self {
        Self { place, abort }
    }

    /// Removes the upstream durably, and waits until nothing receives. Queries that hold up replay
    /// are ended: nobody is elected before this server has replayed all that it has. If the server
    /// is not rid of its receiver in time, it is ended.
    ///
    /// # Errors
    /// When the settings cannot be written, or a process cannot be ended.
    pub(crate) fn detach(&self) -> Result<(), Error> {
        self.change(|managed| managed.upstream = None)?;
        let start = Instant::now();
        let (mut session, mut was_held) = (None, false);
        while let Some(found) = postmaster::find(&self.place.data) {
            match replay(&self.place, &mut session, &found) {
                Ok(Replay { receiver: None, is_held: false }) => return Ok(()),
                // Once may be a matter of microseconds.
                Ok(Replay { is_held: true, .. }) if was_held => {
                    if end_queries(session.as_ref()).is_err() {
                        session = None;
                    }
                    // It sleeps between its looks at them, up to a second; a signal ends that.
                    self.reload();
                }
                Ok(Replay { receiver: Some(pid), is_held }) => {
                    if start.elapsed() >= RECEIVER_GRACE {
                        // What replays has not passed on what it was told; it starts no other
                        // receiver before it has looked at the settings.
                        let _ = Pid::from_raw(pid).map(|pid| kill_process(pid, Signal::TERM));
                    }
                    was_held = is_held;
                }
                Ok(Replay { is_held, .. }) => was_held = is_held,
                Err(_) => session = None,
            }
            if start.elapsed() >= DETACH_MAX {
                return self.kill();
            }
            self.abort.check()?;
            std::thread::sleep(PAUSE);
        }
        Ok(())
    }

    /// Receives from this member, from the directory as it is; a server that is started later, too.
    ///
    /// # Errors
    /// When the settings cannot be written.
    pub(crate) fn follow(&self, upstream: &Peer) -> Result<(), Error> {
        self.place.make_folder()?;
        self.write_pass_file()?;
        self.change(|managed| managed.upstream = Some(upstream.clone()))
    }

    /// Makes this the rule of every walsender. When all run it, [`super::eyes`] tell.
    ///
    /// # Errors
    /// When the settings cannot be written.
    pub(crate) fn set_rule(&self, rule: &Rule) -> Result<(), Error> {
        self.change(|managed| managed.rule = rule.clone())
    }

    /// Makes a running standby a primary, with this rule, and slots for these members. Done when
    /// recovery has ended. One that is a primary gets the rule and the slots.
    ///
    /// # Errors
    /// When it does not run, cannot be asked, or takes too long; it may become one later then. When
    /// a slot cannot be made; it is a primary then.
    pub(crate) fn promote(&self, rule: &Rule, members: &[NodeId]) -> Result<(), Error> {
        let found = self.running()?;
        // Both wait for the disk, and somebody waits for both.
        let (kept, changed) = std::thread::scope(|scope| {
            let slots = scope.spawn(|| {
                let session = Session::open(&self.place, &found)?;
                // Before, as members that find no slot lose time; but a slot that cannot be made
                // keeps nobody from being promoted.
                Ok((slots::prepare(&self.place, &session, members), session))
            });
            let changed = self.change(|managed| {
                managed.rule = rule.clone();
                managed.upstream = None;
            });
            (slots.join(), changed)
        });
        changed?;
        let (kept, session) =
            kept.map_err(|_| Error::Silent("who made slots died".to_owned()))??;
        if session.value("SELECT pg_is_in_recovery()")? == "t" {
            // What came before may have taken long, and there is no way back from here.
            self.abort.check()?;
            session.ask("SELECT pg_promote(false)")?;
        }
        let deadline = Instant::now() + PROMOTE_MAX;
        while session.value("SELECT pg_is_in_recovery()")? != "f" {
            self.abort.check()?;
            if Instant::now() >= deadline {
                return Err(Error::TimeOut { what: "the promotion", limit: PROMOTE_MAX });
            }
            std::thread::sleep(PAUSE);
        }
        kept
    }

    /// Keeps slots for the other members, and none for others. On a standby, whose slots nobody
    /// uses, they advance to where each member has flushed, if that is known.
    ///
    /// # Errors
    /// When the server cannot be asked.
    pub(crate) fn keep_slots(&self, members: &[(NodeId, Option<Lsn>)]) -> Result<(), Error> {
        let session = Session::open(&self.place, &self.running()?)?;
        slots::keep(&self.place, &session, members)
    }

    /// Makes a checkpoint, so that the one at the end has little to write. It comes at the
    /// beginning of a segment: whoever receives from the next primary receives the last segment
    /// anew, and that one is waited for.
    ///
    /// # Errors
    /// When the server cannot be asked, or it takes too long.
    pub(crate) fn checkpoint(&self) -> Result<(), Error> {
        let session = Session::open(&self.place, &self.running()?)?;
        let _ = session.ask(&format!(
            "SELECT pg_catalog.pg_switch_wal() FROM \
             pg_catalog.pg_walfile_name_offset(pg_catalog.pg_current_wal_lsn()) \
             WHERE file_offset > {AGAIN_BYTES_MAX}"
        ))?;
        session.carry_out("CHECKPOINT", "the checkpoint", CHECKPOINT_MAX, &self.abort)
    }

    pub(super) fn running(&self) -> Result<Postmaster, Error> {
        let found = postmaster::find(&self.place.data);
        found.ok_or_else(|| Error::Silent("it does not run".to_owned()))
    }

    /// Changes the settings durably, and has a server that runs read them.
    pub(super) fn change(&self, change: impl FnOnce(&mut Managed)) -> Result<(), Error> {
        let mut managed = settings::known(&self.place)?;
        change(&mut managed);
        settings::write(&self.place, &managed)?;
        // Also if nothing has changed: an earlier life may have died before it said so.
        self.reload();
        Ok(())
    }

    pub(super) fn reload(&self) {
        if let Some(found) = postmaster::find(&self.place.data) {
            // One that has just ended reads them when it starts.
            let _ = pidfd_send_signal(&found.handle, Signal::HUP);
        }
    }

    /// Writes the password of the members' role where libpq finds it.
    pub(super) fn write_pass_file(&self) -> Result<(), Error> {
        let place = &self.place;
        let path = &place.replication_password_file;
        let Some(text) = files::read(path)? else { return Ok(()) };
        let escaped = |text: &str| text.replace('\\', "\\\\").replace(':', "\\:");
        let password = escaped(text.lines().next().unwrap_or_default());
        let line = format!("*:*:*:{}:{password}\n", escaped(&place.replication_user));
        place.own(|| files::write_if_other(&place.pass_file(), &line)).map(drop)
    }
}

/// What keeps a server from being done with what it receives.
struct Replay {
    /// The process that receives, if there is one.
    receiver: Option<i32>,
    /// Whether replay waits for queries.
    is_held: bool,
}

fn replay(
    place: &Place,
    session: &mut Option<Session>,
    found: &Postmaster,
) -> Result<Replay, Error> {
    let opened = match session.take() {
        Some(kept) => kept,
        None => Session::open(place, found)?,
    };
    let opened = session.insert(opened);
    let answer: Answer = proof::ask(opened)?;
    if answer.is_standby {
        // Somebody may have stopped replay; nothing would be drained then.
        opened.ask("SELECT pg_wal_replay_resume() WHERE pg_is_wal_replay_paused()")?;
    }
    let receiver = answer.process("walreceiver").map(|process| process.pid);
    let is_held = answer.process("startup").is_some_and(proof::Process::waits_for_queries);
    Ok(Replay { receiver: receiver.or(answer.receiver.map(|_| 0)), is_held })
}

/// Ends the sessions that are in a transaction, and by that what they hold.
fn end_queries(session: Option<&Session>) -> Result<(), Error> {
    let sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
               WHERE backend_type = 'client backend' AND application_name NOT LIKE 'pgx %' \
               AND state IS DISTINCT FROM 'idle'";
    session.map_or(Ok(()), |session| session.ask(sql).map(drop))
}
