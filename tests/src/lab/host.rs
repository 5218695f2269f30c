//! A host of a running lab: running programs in it, and reaching its files.
//!
//! A program gets into a host by joining its cgroup first and its namespaces second, so that at no
//! moment a process of the lab exists that tear-down would miss.

use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, bail};
use nix::unistd::User;

use super::cgroup::Cgroup;
use super::procs::{Proc, ProcId};
use super::run::run;
use super::spec::Plan;

/// Where a data host's disk is mounted; other hosts have memory there.
pub(super) const DISK: &str = "/var/lib/pgx";
/// The user that PostgreSQL runs as.
pub(super) const POSTGRES: &str = "postgres";

/// What a look for a process found.
#[derive(Debug)]
pub(super) enum Sighting {
    /// It runs.
    Seen(Proc),
    /// Some process is in the midst of an exec and has no command line yet.
    Unclear,
    /// It does not run.
    Absent,
}

impl Sighting {
    pub(super) fn seen(self) -> Option<Proc> {
        match self {
            Self::Seen(proc) => Some(proc),
            Self::Unclear | Self::Absent => None,
        }
    }
}

/// A host of a running lab.
#[derive(Clone, Debug)]
pub struct Host {
    plan: Plan,
    init: ProcId,
    cgroup: Cgroup,
    env: Vec<(String, OsString)>,
}

impl Host {
    pub(super) fn new(
        plan: Plan,
        init: ProcId,
        cgroup: Cgroup,
        env: Vec<(String, OsString)>,
    ) -> Self {
        Self { plan, init, cgroup, env }
    }

    /// Its name, kind and addresses.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Its first process; while that lives, the host does.
    #[must_use]
    pub fn init(&self) -> ProcId {
        self.init
    }

    /// Where a file of the host is found from outside, also while the host is frozen.
    #[must_use]
    pub fn file(&self, path: &str) -> PathBuf {
        Path::new("/proc").join(self.init.pid.to_string()).join("root").join(&path[1..])
    }

    /// All its processes that run now.
    #[must_use]
    pub fn processes(&self) -> Vec<ProcId> {
        self.cgroup.procs().iter().map(|proc| proc.id).collect()
    }

    /// A command that runs `words` in the host as root.
    ///
    /// # Errors
    /// When the host is gone, or frozen by a fault: what enters a frozen host freezes too.
    pub fn command<S: AsRef<str>>(&self, words: &[S]) -> anyhow::Result<Command> {
        self.command_as(None, words)
    }

    /// A command that runs `words` in the host as `user`.
    ///
    /// # Errors
    /// As for [`Host::command`], and when there is no such user.
    pub fn command_as<S: AsRef<str>>(
        &self,
        user: Option<&str>,
        words: &[S],
    ) -> anyhow::Result<Command> {
        if self.cgroup.frozen() {
            bail!(
                "{} is frozen by a fault, and so would be what enters it; see `lab status`, \
                 then `lab heal`",
                self.plan.name
            );
        }
        let mut command = self.enter()?;
        if let Some(user) = user {
            let known = User::from_name(user)?.with_context(|| format!("no user {user} here"))?;
            command.env("HOME", known.dir).args(["setpriv", "--init-groups"]);
            command.args([
                format!("--reuid={user}"),
                format!("--regid={}", known.gid),
                "--".into(),
            ]);
        }
        command.args(words.iter().map(AsRef::as_ref));
        Ok(command)
    }

    /// Runs `words` in the host as root and returns what came of it.
    ///
    /// # Errors
    /// As for [`Host::command`]; that the program fails is no error.
    pub fn exec<S: AsRef<str>>(&self, words: &[S]) -> anyhow::Result<Output> {
        self.exec_as(None, words)
    }

    /// Runs `words` in the host as `user` and returns what came of it.
    ///
    /// # Errors
    /// As for [`Host::command_as`]; that the program fails is no error.
    pub fn exec_as<S: AsRef<str>>(
        &self,
        user: Option<&str>,
        words: &[S],
    ) -> anyhow::Result<Output> {
        let mut command = self.command_as(user, words)?;
        command.stdin(Stdio::null()).output().context("cannot run sh")
    }

    /// Runs `words` in the host as `user` and returns their standard output.
    ///
    /// # Errors
    /// As for [`Host::command_as`], and when the program fails.
    pub fn output<S: AsRef<str>>(&self, user: Option<&str>, words: &[S]) -> anyhow::Result<String> {
        run(&mut self.command_as(user, words)?)
            .with_context(|| format!("in host {}", self.plan.name))
    }

    /// Starts a program that goes on when the starter ends; its output is appended to `log`.
    pub(super) fn start<S: AsRef<str>>(
        &self,
        user: Option<&str>,
        log: &Path,
        words: &[S],
    ) -> anyhow::Result<()> {
        let mut options = File::options();
        let out = options
            .append(true)
            .create(true)
            .open(log)
            .with_context(|| format!("cannot open {}", log.display()))?;
        // The starter's death orphans it, so that the host's init becomes its parent and reaps it.
        let detached = ["setsid", "--fork"].into_iter().chain(words.iter().map(AsRef::as_ref));
        let mut command = self.command_as(user, &detached.collect::<Vec<_>>())?;
        command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
        let status = command.status().context("cannot run sh")?;
        if !status.success() {
            bail!(
                "cannot start {} in {}: see {}",
                words[0].as_ref(),
                self.plan.name,
                log.display()
            );
        }
        Ok(())
    }

    /// A command that runs in the host's network namespace and nowhere else of it.
    pub(super) fn net_command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg("--target").arg(self.init.pid.to_string()).args(["--net", "--", program]);
        command
    }

    /// The host's cgroup.
    pub(super) fn cgroup(&self) -> &Cgroup {
        &self.cgroup
    }

    /// Looks for the process with these consecutive words in its command line, the oldest if
    /// there are several.
    pub(super) fn look_for(&self, words: &[&str]) -> Sighting {
        let mut inside = self.cgroup.procs();
        inside.retain(|proc| proc.inner_pid.is_some() && proc.state != 'Z');
        inside.sort_by_key(|proc| proc.inner_pid);
        let started_so = |proc: &Proc| {
            proc.args.windows(words.len()).any(|w| w.iter().eq(words.iter().copied()))
        };
        let unclear = inside.iter().any(|proc| proc.args.is_empty());
        match inside.into_iter().find(started_so) {
            Some(proc) => Sighting::Seen(proc),
            None if unclear => Sighting::Unclear,
            None => Sighting::Absent,
        }
    }

    fn enter(&self) -> anyhow::Result<Command> {
        if !self.init.alive() {
            bail!("host {} is not running any more; remove its lab: lab down", self.plan.name);
        }
        let mut command = Command::new("sh");
        command.args(["-c", "echo $$ > \"$0/cgroup.procs\" && exec \"$@\""]);
        command.arg(self.cgroup.path()).arg("nsenter");
        command.arg(format!("--target={}", self.init.pid));
        command.args(["--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--"]);
        command.envs(self.env.iter().map(|(key, value)| (key, value)));
        Ok(command)
    }
}
