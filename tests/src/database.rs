//! A real PostgreSQL on loopback, in a folder of its own, run by the user `postgres`.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};
use nix::unistd::{Gid, Uid, User, chown};
use tempfile::TempDir;

use crate::lab::postgres;

/// A running PostgreSQL; it is stopped when the value is dropped.
#[derive(Debug)]
pub struct Database {
    folder: TempDir,
    bin: PathBuf,
    user: (Uid, Gid),
    settings: String,
}

impl Database {
    /// Makes a cluster and starts it; it listens on a Unix socket only.
    ///
    /// # Errors
    /// When PostgreSQL or its user is missing, or it does not start.
    pub fn start() -> anyhow::Result<Self> {
        Self::start_with(&["--auth=trust"], "")
    }

    /// As [`Self::start`], with these words for initdb and these options for the server.
    ///
    /// # Errors
    /// As for [`Self::start`].
    pub fn start_with(words: &[&str], settings: &str) -> anyhow::Result<Self> {
        let database = Self::prepare(settings)?;
        let data = database.data().display().to_string();
        database.run("initdb", &[&["--pgdata", &data, "--no-sync"], words].concat())?;
        database.begin()?;
        Ok(database)
    }

    /// Makes a standby that streams from this one, and starts it.
    ///
    /// # Errors
    /// As for [`Self::start`], or when this one does not run.
    pub fn standby(&self) -> anyhow::Result<Self> {
        let standby = Self::prepare(&self.settings)?;
        let (data, source) = (standby.data(), text(self.socket_folder())?);
        let from = ["--host", source, "--username", "postgres", "--checkpoint", "fast"];
        let to = ["--pgdata", text(&data)?, "--write-recovery-conf", "--no-sync"];
        standby.run("pg_basebackup", &[&from[..], &to[..]].concat())?;
        standby.begin()?;
        Ok(standby)
    }

    /// Lets a standby become a primary.
    ///
    /// # Errors
    /// When it does not run, or is none.
    pub fn promote(&self) -> anyhow::Result<()> {
        self.run("pg_ctl", &["--pgdata", text(&self.data())?, "--wait", "promote"])
    }

    fn prepare(settings: &str) -> anyhow::Result<Self> {
        let bin = postgres::find_programs(None)?;
        let user = User::from_name("postgres")?.context("there is no user postgres")?;
        let folder = tempfile::tempdir().context("cannot make a folder")?;
        chown(folder.path(), Some(user.uid), Some(user.gid))?;
        Ok(Self { folder, bin, user: (user.uid, user.gid), settings: settings.to_owned() })
    }

    /// Starts it again after [`Self::kill`].
    ///
    /// # Errors
    /// When it does not start.
    pub fn begin(&self) -> anyhow::Result<()> {
        let (data, log) = (self.data(), self.folder.path().join("log"));
        let folder = self.folder.path().display();
        let options = format!("-c listen_addresses='' -k {folder} -F {}", self.settings);
        let words = ["--pgdata", text(&data)?, "--log", text(&log)?, "--options", &options];
        self.run("pg_ctl", &[&words[..], &["--wait", "start"]].concat())
    }

    /// Ends it at once, as a crash does.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill(&self) -> anyhow::Result<()> {
        let data = self.data();
        self.run("pg_ctl", &["--pgdata", text(&data)?, "--mode", "immediate", "--wait", "stop"])
    }

    /// The data directory.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// The folder of its socket.
    #[must_use]
    pub fn socket_folder(&self) -> &Path {
        self.folder.path()
    }

    /// The process that accepts connections.
    ///
    /// # Errors
    /// When it does not run.
    pub fn postmaster(&self) -> anyhow::Result<i32> {
        let text = std::fs::read_to_string(self.data().join("postmaster.pid"))?;
        Ok(text.lines().next().context("an empty postmaster.pid")?.trim().parse()?)
    }

    /// The section of a pgx that is to watch it.
    #[must_use]
    pub fn section(&self) -> String {
        format!("[postgres]\ndata_directory = {:?}\nbin_directory = {:?}\n", self.data(), self.bin)
    }

    fn run(&self, program: &str, words: &[&str]) -> anyhow::Result<()> {
        let mut command = Command::new(self.bin.join(program));
        command.args(words).uid(self.user.0.as_raw()).gid(self.user.1.as_raw()).current_dir("/");
        // A daemon keeps what it inherits, and with a pipe the wait for its end would not end.
        let said = self.folder.path().join("said");
        let out = std::fs::File::create(&said)?;
        let status = command.stdout(out.try_clone()?).stderr(out).status()?;
        if !status.success() {
            bail!("{program} failed: {}", std::fs::read_to_string(&said)?);
        }
        Ok(())
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        // It may have been stopped already.
        let _ = self.kill();
    }
}

fn text(path: &Path) -> anyhow::Result<&str> {
    path.to_str().context("a path that is not UTF-8")
}
