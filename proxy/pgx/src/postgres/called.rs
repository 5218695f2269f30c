//! Programs of the operator's that pgx calls: as PostgreSQL's user, within a time, with facts in
//! the environment and nothing else of pgx's there, and in a process group of their own.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

use super::error::{Error, system};
use super::program::tail;
use super::{Abort, Place, owner, process};
use crate::limits::postgres::{KILL_MAX, WATCH_EVERY};

/// A program with its words, and what it is told.
pub(crate) struct Called<'a> {
    pub(crate) place: &'a Place,
    /// What it is called for, in an error.
    pub(crate) what: &'static str,
    /// The program's path and its words.
    pub(crate) words: &'a [String],
    /// Variables of its environment.
    pub(crate) facts: &'a [(&'static str, String)],
    pub(crate) limit: Duration,
}

impl Called<'_> {
    /// Runs it to its end. When its time is over, or somebody wants it to end, it is killed with
    /// its process group.
    ///
    /// # Errors
    /// When it cannot be run, fails, takes too long or is interrupted.
    pub(crate) fn run(&self, abort: &Abort) -> Result<(), Error> {
        abort.check()?;
        self.place.make_folder()?;
        let deadline = Instant::now() + self.limit;
        let said = self.place.folder().join(format!("{}.said", self.what));
        let (program, words) = self.words.split_first().ok_or_else(|| self.nothing())?;
        let mut command = Command::new(program);
        // As with PostgreSQL's own programs: what pgx was started with steers nothing.
        command.env_clear().env("LC_ALL", "C").env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        command.args(words).envs(self.facts.iter().map(|(name, value)| (name, value)));
        command.current_dir(self.place.folder()).process_group(0).stdin(Stdio::null());
        let out = self.create(&said)?;
        // Into a file: nobody has to read it, and it does not end with pgx.
        command.stderr(out.try_clone().map_err(system("cannot open", &said))?).stdout(out);
        let started = owner::spawn_as(self.place.owner, &mut command);
        let mut child = started.map_err(system("cannot run", program.as_ref()))?;
        loop {
            if let Some(status) = child.try_wait().map_err(system("cannot wait for", &said))? {
                if status.success() {
                    return Ok(());
                }
                let (program, status) = (program.clone(), status.to_string());
                let (what, said) = (self.what, tail(&said));
                return Err(Error::Called { what, program, status, said });
            }
            let is_late = Instant::now() >= deadline;
            let over = Err(Error::TimeOut { what: self.what, limit: self.limit });
            if let Err(error) = if is_late { over } else { abort.check() } {
                end(&mut child)?;
                return Err(error);
            }
            wait(&child, WATCH_EVERY.min(deadline.saturating_duration_since(Instant::now())));
        }
    }

    fn nothing(&self) -> Error {
        Error::System {
            what: format!("cannot run {}", self.what),
            error: io::ErrorKind::InvalidInput.into(),
        }
    }

    fn create(&self, path: &PathBuf) -> Result<File, Error> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        self.place.own(|| options.open(path)).map_err(system("cannot write", path))
    }
}

/// Kills a program with what it has started, unless that has left its process group.
fn end(child: &mut Child) -> Result<(), Error> {
    let error = kill_process_group(Pid::from_child(child), Signal::KILL).err();
    let deadline = Instant::now() + KILL_MAX;
    while !matches!(child.try_wait(), Ok(Some(_))) {
        if Instant::now() >= deadline {
            let what = "cannot end a program of the operator's".to_owned();
            let error = error.map_or(io::ErrorKind::TimedOut.into(), io::Error::from);
            return Err(Error::System { what, error });
        }
        wait(child, WATCH_EVERY);
    }
    Ok(())
}

fn wait(child: &Child, limit: Duration) {
    if let Some(handle) = i32::try_from(child.id()).ok().and_then(process::open) {
        process::wait(&handle, limit);
    }
}
