//! Starts PostgreSQL and ends it.
//!
//! A server that pgx starts is nobody's child: it has its own session and log, and goes on when pgx
//! ends. The next pgx finds it by its directory. What an unclean end leaves behind is taken away
//! before a start, after it was made sure that nobody lives who could need it.

use std::path::Path;
use std::time::{Duration, Instant};

use pgx_control::ids::Lsn;
use rustix::process::{Signal, pidfd_send_signal};

use super::error::{Error, system};
use super::hands::Hands;
use super::program::{self, Program};
use super::{control_file, files, postmaster, process, rebuild, settings, wal};
use crate::limits::postgres::{QUIT_GRACE, SHUTDOWN_MAX, START_MAX};

/// As what a server starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Standby,
    #[allow(dead_code, reason = "only tests of the hands begin with a primary")]
    Primary,
}

impl Hands {
    /// Starts it as a standby, with the upstream it has or without one. Done when it has its
    /// sockets and has begun to recover; how far it is then, [`super::eyes`] tell.
    ///
    /// # Errors
    /// When the directory is half built or not pgx's, or the server ends at once.
    pub(crate) fn start_standby(&self) -> Result<(), Error> {
        self.start(Role::Standby)
    }

    /// Starts it as the primary that it is by its files: a cluster that was just founded, before
    /// there is an epoch. Later primaries come by promotion only.
    ///
    /// # Errors
    /// As for [`Self::start_standby`].
    #[allow(dead_code, reason = "only tests of the hands begin with a primary")]
    pub(crate) fn start_founder(&self) -> Result<(), Error> {
        self.start(Role::Primary)
    }

    fn start(&self, role: Role) -> Result<(), Error> {
        let place = &self.place;
        if let Some(what) = rebuild::mark(place)? {
            return Err(Error::HalfBuilt { path: place.data.clone(), what });
        }
        if postmaster::find(&place.data).is_some_and(|found| found.has_begun) {
            return Ok(());
        }
        self.clear()?;
        place.make_folder()?;
        place.make_own_directory(&place.sockets)?;
        self.write_pass_file()?;
        // That a log is long keeps nobody from being started.
        let _ = self.bound_log();
        let known = settings::known(place)?;
        settings::write(place, &known)?;
        let words = match role {
            Role::Standby => self.floors()?,
            Role::Primary => Vec::new(),
        };
        place.own(|| set_role(&place.data, role))?;
        self.launch(&words)
    }

    fn launch(&self, words: &[String]) -> Result<(), Error> {
        let place = &self.place;
        let log = place.log();
        let options = [program::config_words(place), words.to_vec()].concat();
        let options: Vec<_> = options.iter().map(|word| shell_quoted(word)).collect();
        let program = Program::new(place, "pg_ctl")
            .args(["start", "-w", "-s", "-t", "86400", "-D"])
            .arg(&place.data)
            .arg("-l")
            .arg(&log)
            .args(["-o", &options.join(" ")])
            .limit(START_MAX);
        // It waits for a consistent state, which can take long and is nobody's to wait for here.
        let launched = program.run_watched(&self.abort, |_| {
            Ok(postmaster::find(&place.data).is_some_and(|found| found.has_begun))
        });
        match launched {
            Ok(()) => Ok(()),
            Err(Error::Program { said, .. }) => {
                Err(Error::NotStarted(format!("{said}\n{}", program::tail(&log))))
            }
            Err(error) => Err(error),
        }
    }

    /// Ends whatever works in the directory, and takes away what it left in the way of a start.
    pub(super) fn clear(&self) -> Result<(), Error> {
        let place = &self.place;
        if let Some(found) = postmaster::find(&place.data)
            && !found.has_begun
            && !process::wait(&found.handle, QUIT_GRACE)
        {
            // It may be at the beginning of its start, or at its end.
            let _ = pidfd_send_signal(&found.handle, Signal::QUIT);
        }
        process::end_all(&[&place.data, &place.folder()])?;
        // PostgreSQL would do so, unless the number in it is another process's by now.
        place.own(|| files::remove(&place.data.join("postmaster.pid")))?;
        let socket = place.sockets.join(format!(".s.PGSQL.{}", place.port));
        let lock = place.sockets.join(format!(".s.PGSQL.{}.lock", place.port));
        let text = place.own(|| files::read(&lock)).unwrap_or_default().unwrap_or_default();
        let is_ours = text.lines().nth(1).is_some_and(|line| Path::new(line) == place.data);
        if is_ours {
            place.own(|| files::remove(&socket).and_then(|()| files::remove(&lock)))?;
        }
        Ok(())
    }

    /// Settings that a standby needs as high as its primary had them when it last said so. A lower
    /// one would stop its replay, or its start.
    fn floors(&self) -> Result<Vec<String>, Error> {
        let place = &self.place;
        let control = control_file::read(&place.programs, &place.data);
        let mut words = Vec::new();
        for (name, floor) in control.map_err(Error::ControlFile)?.floors {
            let own = program::setting(place, name)?.parse::<u64>().unwrap_or_default();
            if own < floor {
                words.extend(["-c".to_owned(), format!("{name}={floor}")]);
            }
        }
        Ok(words)
    }

    /// Ends it at once, without its leave, with all of its processes: an orphan could acknowledge.
    /// It also ends what rewinds or clones.
    ///
    /// # Errors
    /// When a process does not end though it is killed.
    pub(crate) fn kill(&self) -> Result<(), Error> {
        let place = &self.place;
        let directories = [place.data.as_path(), &place.folder()];
        let found = postmaster::find(&place.data);
        if let Some(found) = &found {
            // So it leaves no shared memory behind.
            let _ = pidfd_send_signal(&found.handle, Signal::QUIT);
            if !process::all_end(&[&place.data], Instant::now() + QUIT_GRACE) {
                let _ = pidfd_send_signal(&found.handle, Signal::KILL);
            }
        }
        process::end_all(&directories)?;
        // One whose program is not known by its name is not among them.
        match found.filter(|found| !process::wait(&found.handle, Duration::ZERO)) {
            Some(found) => process::end(found.pid, &found.handle),
            None => Ok(()),
        }
    }

    /// Ends a primary in order, with a shutdown checkpoint that standbys receive. Returns the end
    /// of that checkpoint. A server that has ended so already is not started for it.
    ///
    /// # Errors
    /// When it takes too long, then it is still ending; or when what ended was no primary.
    pub(crate) fn shut_down(&self) -> Result<Lsn, Error> {
        self.end_in_order()?;
        let place = &self.place;
        let control = control_file::read(&place.programs, &place.data);
        let control = control.map_err(Error::ControlFile)?;
        if !control.is_shut_down {
            return Err(Error::NoShutdownCheckpoint);
        }
        wal::checkpoint_end(&place.data, &control)
    }

    /// Ends whatever runs in order, with its sessions.
    ///
    /// # Errors
    /// When it takes too long, then it is still ending.
    pub(crate) fn end_in_order(&self) -> Result<(), Error> {
        let place = &self.place;
        if let Some(found) = postmaster::find(&place.data) {
            let deadline = Instant::now() + SHUTDOWN_MAX;
            let _ = pidfd_send_signal(&found.handle, Signal::INT);
            while !process::wait(&found.handle, Duration::from_millis(20)) {
                self.abort.check()?;
                if Instant::now() >= deadline {
                    let what = "ending PostgreSQL in order";
                    return Err(Error::TimeOut { what, limit: SHUTDOWN_MAX });
                }
            }
        }
        process::end_all(&[&place.data])
    }
}

/// Makes the files by which a server knows as what it starts.
fn set_role(data: &Path, role: Role) -> Result<(), Error> {
    // What would end recovery somewhere is not ours.
    files::remove(&data.join("recovery.signal"))?;
    files::remove(&data.join("promote"))?;
    let signal = data.join("standby.signal");
    match role {
        Role::Primary => files::remove(&signal),
        Role::Standby if signal.exists() => Ok(()),
        Role::Standby => {
            let made = std::fs::File::create(&signal).and_then(|file| file.sync_all());
            made.map_err(system("cannot make", &signal))?;
            files::sync_parent(&signal)
        }
    }
}

/// As pg_ctl passes its options through a shell.
fn shell_quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''"))
}
