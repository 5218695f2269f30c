//! Runs PostgreSQL's programs: as its user, within a deadline, and so that they can be interrupted.
//!
//! They work in the folder beside the data directory. By that a later pgx knows those that outlived
//! an earlier one, and ends them before it does anything else.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use super::error::{Error, system};
use super::{Abort, Place, owner, process};
use crate::limits::postgres::{PROGRAM_MAX, SAID_BYTES_MAX};

/// A program and its words.
pub(super) struct Program<'a> {
    place: &'a Place,
    name: &'static str,
    label: &'static str,
    command: Command,
    input: Option<String>,
    limit: Duration,
    is_alone: bool,
}

impl<'a> Program<'a> {
    pub(super) fn new(place: &'a Place, name: &'static str) -> Self {
        let mut command = Command::new(place.programs.join(name));
        // What pgx was started with must not steer libpq or the server.
        command.env_clear().env("LC_ALL", "C").env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        command.current_dir(place.folder()).stdin(Stdio::null());
        Self { place, name, label: name, command, input: None, limit: PROGRAM_MAX, is_alone: false }
    }

    pub(super) fn arg(mut self, word: impl AsRef<OsStr>) -> Self {
        self.command.arg(word);
        self
    }

    pub(super) fn args<W: AsRef<OsStr>>(mut self, words: impl IntoIterator<Item = W>) -> Self {
        self.command.args(words);
        self
    }

    /// By which the files of what it says are named, where two of one name may run at once.
    pub(super) fn label(mut self, label: &'static str) -> Self {
        self.label = label;
        self
    }

    pub(super) fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// It has no helpers, and others may run beside it: whoever ends it ends nobody else.
    pub(super) fn alone(mut self) -> Self {
        self.is_alone = true;
        self
    }

    /// What it reads from its standard input.
    pub(super) fn input(mut self, text: String) -> Self {
        self.input = Some(text);
        self
    }

    /// Runs it to its end, and returns what it has said on standard output.
    pub(super) fn run(self, abort: &Abort) -> Result<String, Error> {
        let out = self.said_file("out");
        self.run_watched(abort, |_| Ok(false))?;
        std::fs::read_to_string(&out).map_err(system("cannot read", &out))
    }

    /// Runs it until it ends or `watch` says that it has done its work; that is asked now and then,
    /// with the end of what it has said about its progress.
    pub(super) fn run_watched(
        mut self,
        abort: &Abort,
        mut watch: impl FnMut(&str) -> Result<bool, Error>,
    ) -> Result<(), Error> {
        abort.check()?;
        self.place.make_folder()?;
        let deadline = Instant::now() + self.limit;
        let said = self.said_file("err");
        // Into files: with pipes it would die with pgx, or wait for somebody to read.
        self.command.stdout(self.create(&self.said_file("out"))?);
        self.command.stderr(self.create(&said)?);
        if let Some(text) = self.input.take() {
            let path = self.said_file("in");
            let mut file = self.create(&path)?;
            file.write_all(text.as_bytes()).map_err(system("cannot write", &path))?;
            file.rewind().map_err(system("cannot rewind", &path))?;
            // It may hold secrets, and is read through the handle.
            std::fs::remove_file(&path).map_err(system("cannot remove", &path))?;
            self.command.stdin(file);
        }
        let started = owner::spawn_as(self.place.owner, &mut self.command);
        let mut child =
            started.map_err(system("cannot run", &self.place.programs.join(self.name)))?;
        let handle = i32::try_from(child.id()).ok().and_then(process::open);
        loop {
            if let Some(status) = child.try_wait().map_err(system("cannot wait for", &said))? {
                return self.outcome(status, &said);
            }
            let is_over = Instant::now() >= deadline;
            let verdict = match watch(&tail(&said)) {
                Ok(false) if is_over => Err(Error::TimeOut { what: self.name, limit: self.limit }),
                Ok(false) => abort.check().map(|()| false),
                other => other,
            };
            match verdict {
                Ok(false) => {}
                Ok(true) => return reap(&mut child),
                Err(error) => {
                    reap(&mut child)?;
                    if !self.is_alone {
                        process::end_all(&[&self.place.folder()])?;
                    }
                    return Err(error);
                }
            }
            if let Some(handle) = &handle {
                process::wait(handle, Duration::from_millis(20));
            }
        }
    }

    fn outcome(&self, status: ExitStatus, said: &Path) -> Result<(), Error> {
        if status.success() {
            return Ok(());
        }
        let said = [tail(said), tail(&self.said_file("out"))].join("\n").trim().to_owned();
        Err(Error::Program { program: self.name, status: status.to_string(), said })
    }

    fn said_file(&self, what: &str) -> PathBuf {
        self.place.folder().join(format!("{}.{what}", self.label))
    }

    fn create(&self, path: &Path) -> Result<File, Error> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(true).mode(0o600);
        self.place.own(|| options.open(path)).map_err(system("cannot write", path))
    }
}

fn reap(child: &mut Child) -> Result<(), Error> {
    let _ = child.kill();
    let waited = child.wait();
    waited.map(drop).map_err(|error| Error::System { what: "cannot wait".to_owned(), error })
}

/// The end of what a program has said.
pub(super) fn tail(path: &Path) -> String {
    let read = || -> std::io::Result<String> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(SAID_BYTES_MAX as u64)))?;
        let mut bytes = Vec::new();
        file.take(SAID_BYTES_MAX as u64).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
    };
    read().unwrap_or_default()
}

/// The value of a setting as a server would have it that is started now.
pub(super) fn setting(place: &Place, name: &str) -> Result<String, Error> {
    let program = Program::new(place, "postgres").arg("-C").arg(name).arg("-D").arg(&place.data);
    let said = program.args(config_words(place)).run(&Abort::default())?;
    Ok(said.trim().to_owned())
}

/// Words that tell a server where its configuration is, if that is not in its directory.
pub(super) fn config_words(place: &Place) -> Vec<String> {
    if place.has_config_inside() {
        return Vec::new();
    }
    vec!["-c".to_owned(), format!("config_file={}", place.config_file.display())]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn question_that_takes_too_long_ends_no_other_program() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["psql", "pg_basebackup"] {
            std::fs::copy("/bin/sleep", folder.path().join(name)).unwrap();
        }
        let place = Place {
            data: folder.path().join("data"),
            programs: folder.path().to_owned(),
            config_file: folder.path().join("data/postgresql.conf"),
            sockets: folder.path().join("sockets"),
            port: 1,
            listen: None,
            owner: rustix::process::getuid().as_raw(),
            user: String::new(),
            database: String::new(),
            replication_user: String::new(),
            replication_password_file: folder.path().join("password"),
            sslmode: String::new(),
            slot_keep_mb: 0,
            clone_command: Vec::new(),
            node: pgx_control::ids::NodeId(1),
        };
        place.make_folder().unwrap();
        let copy = |seconds| Program::new(&place, "pg_basebackup").arg(seconds);
        let (outcome, copied) = std::thread::scope(|scope| {
            let copying = scope.spawn(|| copy("2").run(&Abort::default()));
            while process::of(&[&place.folder()]).is_empty() {
                std::thread::yield_now();
            }
            let limit = Duration::from_millis(50);
            let question = Program::new(&place, "psql").arg("60").limit(limit).alone();
            (question.run(&Abort::default()), copying.join().unwrap())
        });
        assert!(matches!(outcome, Err(Error::TimeOut { .. })), "{outcome:?}");
        assert!(copied.is_ok(), "{copied:?}");
        // One that has helpers takes them along.
        let limit = Duration::from_millis(50);
        let outcome = copy("60").limit(limit).run(&Abort::default());
        assert!(matches!(outcome, Err(Error::TimeOut { .. })), "{outcome:?}");
    }
}
