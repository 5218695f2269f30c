//! A `pgx serve` on loopback, for tests that need the real binary and no privileges.

use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

use crate::lab::{wait_for, wait_for_some};
use crate::scrape::Scrape;

/// How long pgx may take to start or to stop on a busy machine.
const START_MAX: Duration = Duration::from_secs(20);

/// A running pgx in a folder of its own; it is killed when the value is dropped.
#[derive(Debug)]
pub struct Node {
    binary: PathBuf,
    folder: TempDir,
    process: Child,
    variables: Vec<(String, String)>,
}

impl Node {
    /// Starts `binary` with this text as the body of its configuration, `[admin]` excepted, and
    /// waits until it is ready.
    ///
    /// # Errors
    /// When it ends at once, with what it said, or is not ready in time.
    pub fn start(binary: &Path, sections: &str) -> anyhow::Result<Self> {
        Self::start_with(binary, sections, &[])
    }

    /// As [`Node::start`], with these variables in its environment.
    ///
    /// # Errors
    /// As for [`Node::start`].
    pub fn start_with(
        binary: &Path,
        sections: &str,
        variables: &[(String, String)],
    ) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir().context("cannot make a folder")?;
        let process = spawn(binary, folder.path(), sections, variables, &[])?;
        let variables = variables.to_vec();
        let mut node = Self { binary: binary.to_owned(), folder, process, variables };
        node.wait_until_ready()?;
        Ok(node)
    }

    /// Starts the binary again in the same folder, after [`Node::end`].
    ///
    /// # Errors
    /// As for [`Node::start`].
    pub fn start_again(&mut self, sections: &str) -> anyhow::Result<()> {
        self.process = spawn(&self.binary, self.folder.path(), sections, &self.variables, &[])?;
        self.wait_until_ready()
    }

    /// Lets a new process take over from the one that runs, and waits until it has. Gives the old
    /// one, which may have sessions still.
    ///
    /// # Errors
    /// When the new one ends instead, with what it said; the old one stays then.
    pub fn take_over(&mut self, sections: &str) -> anyhow::Result<Elder> {
        let (folder, words) = (self.folder.path(), &["--take-over"]);
        let process = spawn(&self.binary, folder, sections, &self.variables, words)?;
        let mut elder = Elder(std::mem::replace(&mut self.process, process));
        let process = self.process_id();
        let mut said = String::new();
        let taken = wait_for_some("pgx takes over", START_MAX, || {
            if !self.runs() {
                said = self.last_words();
                return Some(false);
            }
            let status = self.status_quickly().ok()?;
            (status["process_id"] == process).then_some(true)
        });
        match taken {
            Ok(true) => Ok(elder),
            failed => {
                // Whoever is left serves: that is what this is the handle of.
                std::mem::swap(&mut self.process, &mut elder.0);
                failed?;
                bail!("the new pgx ended and said: {said}")
            }
        }
    }

    /// Sends a signal and waits for the process to end.
    ///
    /// # Errors
    /// When it does not end in time.
    pub fn end(&mut self, signal: Signal) -> anyhow::Result<()> {
        self.signal(signal)?;
        self.wait_for_end()
    }

    /// Waits for the process to end.
    ///
    /// # Errors
    /// When it does not end in time.
    pub fn wait_for_end(&mut self) -> anyhow::Result<()> {
        wait_for("pgx ends", START_MAX, || matches!(self.process.try_wait(), Ok(Some(_))))
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let pid = i32::try_from(self.process.id()).context("not a process id")?;
        kill(Pid::from_raw(pid), signal).context("cannot signal pgx")
    }

    /// Whether the process runs.
    pub fn runs(&mut self) -> bool {
        matches!(self.process.try_wait(), Ok(None))
    }

    /// The folder with its configuration and its admin socket.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// What it has said on standard error in all its lives.
    #[must_use]
    pub fn log(&self) -> String {
        // For people and for assertions, both of which show what is missing.
        std::fs::read_to_string(log(self.folder.path())).unwrap_or_default()
    }

    fn last_words(&self) -> String {
        let log = self.log();
        let lines: Vec<_> = log.lines().rev().take(8).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }

    /// Its process.
    #[must_use]
    pub fn process_id(&self) -> u32 {
        self.process.id()
    }

    /// Its status, asked without starting a program: for those who measure.
    ///
    /// # Errors
    /// When it does not answer, or not in JSON.
    pub fn status_quickly(&self) -> anyhow::Result<Value> {
        let mut stream = UnixStream::connect(socket(self.folder.path()))?;
        stream.write_all(b"{\"version\":1,\"verb\":\"status\"}\n")?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line)?;
        let reply: Value = serde_json::from_str(&line).context("not JSON")?;
        Ok(reply["status"].clone())
    }

    /// Runs `pgx ctl` against it.
    ///
    /// # Errors
    /// When the program cannot be run; that it fails is no error.
    pub fn ctl(&self, words: &[&str]) -> anyhow::Result<Output> {
        let mut command = Command::new(&self.binary);
        command.arg("ctl").arg("--socket").arg(socket(self.folder.path())).args(words);
        command.output().context("cannot run pgx ctl")
    }

    /// What `pgx ctl status --json` says.
    ///
    /// # Errors
    /// When it fails or is not JSON.
    pub fn status(&self) -> anyhow::Result<Value> {
        let output = self.ctl(&["status", "--json"])?;
        if !output.status.success() {
            bail!("{}", String::from_utf8_lossy(&output.stderr));
        }
        let reply: Value = serde_json::from_slice(&output.stdout).context("not JSON")?;
        Ok(reply["status"].clone())
    }

    /// The first address it listens on.
    ///
    /// # Errors
    /// When it listens on none.
    pub fn address(&self) -> anyhow::Result<SocketAddr> {
        let status = self.status()?;
        let text = status["proxy"]["listen"][0].as_str().context("pgx does not listen")?;
        Ok(text.parse()?)
    }

    /// Where it serves metrics.
    ///
    /// # Errors
    /// When it does not.
    pub fn metrics_address(&self) -> anyhow::Result<SocketAddr> {
        self.served("metrics are served")
    }

    /// Where it serves HTTP.
    ///
    /// # Errors
    /// When it does not.
    pub fn http_address(&self) -> anyhow::Result<SocketAddr> {
        self.served("HTTP is served")
    }

    fn served(&self, what: &str) -> anyhow::Result<SocketAddr> {
        let log = self.log();
        let line = log.lines().find(|line| line.contains(what));
        let address = line.and_then(|line| line.split_once("address="));
        Ok(address.with_context(|| format!("nowhere {what}"))?.1.trim().parse()?)
    }

    /// What it tells Prometheus now.
    ///
    /// # Errors
    /// When it does not, or not in the form that is promised.
    pub fn scrape(&self) -> anyhow::Result<Scrape> {
        Scrape::of(self.metrics_address()?)
    }

    fn wait_until_ready(&mut self) -> anyhow::Result<()> {
        let mut said = String::new();
        wait_for_some("pgx is ready", START_MAX, || {
            if !self.runs() {
                said = self.last_words();
                return Some(false);
            }
            self.status().ok().map(|_| true)
        })?
        .then_some(())
        .with_context(|| format!("pgx ended at once and said: {said}"))
    }
}

/// A pgx that another has taken over from; it is killed when the value is dropped.
#[derive(Debug)]
pub struct Elder(Child);

impl Elder {
    /// Waits for it to end by itself.
    ///
    /// # Errors
    /// When it does not in time, or not well.
    pub fn wait(&mut self) -> anyhow::Result<()> {
        let mut ended = None;
        wait_for("the old pgx ends", START_MAX, || {
            ended = self.0.try_wait().ok().flatten();
            ended.is_some()
        })?;
        let well = ended.is_some_and(|status| status.success());
        well.then_some(()).with_context(|| format!("the old pgx ended with {ended:?}"))
    }

    /// Whether it runs.
    pub fn runs(&mut self) -> bool {
        matches!(self.0.try_wait(), Ok(None))
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let pid = i32::try_from(self.0.id()).context("not a process id")?;
        kill(Pid::from_raw(pid), signal).context("cannot signal the old pgx")
    }
}

impl Drop for Elder {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn socket(folder: &Path) -> PathBuf {
    folder.join("admin.sock")
}

fn log(folder: &Path) -> PathBuf {
    folder.join("log")
}

fn spawn(
    binary: &Path,
    folder: &Path,
    sections: &str,
    variables: &[(String, String)],
    words: &[&str],
) -> anyhow::Result<Child> {
    let config = folder.join("pgx.toml");
    let admin = format!("[admin]\nsocket = {:?}\n", socket(folder).display().to_string());
    std::fs::write(&config, admin + sections).context("cannot write the configuration")?;
    // A file, for a pipe that nobody reads would hold it up.
    let log = OpenOptions::new().create(true).append(true).open(log(folder));
    let log = log.context("cannot open its log")?;
    let mut command = Command::new(binary);
    command.args(["serve", "--config"]).arg(config).args(words).stdin(Stdio::null()).stderr(log);
    command.envs(variables.iter().map(|(name, value)| (name, value)));
    command.spawn().with_context(|| format!("cannot run {}", binary.display()))
}
