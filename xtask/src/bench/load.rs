//! pgbench against a real PostgreSQL, directly and through proxies that take turns.

use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use anyhow::{Context, ensure};
use pgx_tests::database::Database;
use pgx_tests::lab::{postgres, wait_for_some};
use tempfile::TempDir;

use super::{cpu, stats};
use crate::pgbench;

/// Connections that PostgreSQL allows: all clients of a run, and pools beside them.
const CONNECTIONS_MAX: u32 = 400;

/// How long a proxy may take to listen.
const START_MAX: Duration = Duration::from_secs(20);

/// A PostgreSQL with pgbench's tables.
pub(super) struct Load {
    pgbench: PathBuf,
    /// Where it listens on loopback.
    pub(super) port: u16,
    _database: Database,
}

/// What pgbench is to do.
#[derive(Clone, Copy)]
pub(super) struct Work<'a> {
    /// Concurrent clients.
    pub(super) clients: u32,
    /// How long.
    pub(super) seconds: u32,
    /// As pgbench's `--protocol` has it.
    pub(super) protocol: &'a str,
}

/// One measurement.
#[derive(Clone, Copy)]
pub(super) struct Run {
    pub(super) tps: f64,
    pub(super) p50_ms: f64,
    pub(super) p99_ms: f64,
    pub(super) proxy_us: f64,
    pub(super) machine_us: f64,
}

/// A process that is killed when dropped.
pub(super) struct Running(pub(super) Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Load {
    /// Starts PostgreSQL and fills the tables.
    ///
    /// # Errors
    /// When PostgreSQL is missing or does not start.
    pub(super) fn start() -> anyhow::Result<Self> {
        let port = free_port()?;
        let settings = format!(
            "-c listen_addresses=127.0.0.1 -c port={port} -c max_connections={CONNECTIONS_MAX}"
        );
        let database = Database::start_with(&["--auth=trust"], &settings)?;
        let pgbench = postgres::find_programs(None)?.join("pgbench");
        let load = Self { pgbench, port, _database: database };
        load.execute(port, &["--initialize", "--quiet", "--scale", pgbench::SCALE])?;
        Ok(load)
    }

    /// Runs pgbench at `port`, where `proxy` listens if it is not PostgreSQL itself.
    ///
    /// # Errors
    /// When pgbench fails or the proxy is gone.
    pub(super) fn measure(
        &self,
        port: u16,
        proxy: Option<u32>,
        work: Work<'_>,
    ) -> anyhow::Result<Run> {
        let folder = tempfile::tempdir().context("cannot make a folder")?;
        let prefix = format!("--log-prefix={}/log", folder.path().display());
        let (clients, seconds) = (work.clients.to_string(), work.seconds.to_string());
        let protocol = format!("--protocol={}", work.protocol);
        let words = ["--select-only", "--no-vacuum", "--jobs=2", "--log", &prefix, &protocol];
        let words = [&words[..], &["--client", &clients, "--time", &seconds]].concat();
        let cpu_ns = || proxy.map_or(Ok(0), cpu::process_ns);
        let before = (cpu_ns()?, cpu::machine_s()?);
        let text = self.execute(port, &words)?;
        let after = (cpu_ns()?, cpu::machine_s()?);
        let tps = pgbench::number(&text, pgbench::TPS)?;
        let latencies_us = latencies_us(&folder)?;
        let count = f64::from(u32::try_from(latencies_us.len())?);
        let at = |per_mille| {
            let value = stats::percentile(&latencies_us, per_mille);
            value.and_then(|value| u32::try_from(value).ok()).map(|us| f64::from(us) / 1e3)
        };
        Ok(Run {
            tps,
            p50_ms: at(500).with_context(|| format!("pgbench did nothing:\n{text}"))?,
            p99_ms: at(990).context("a latency of more than an hour")?,
            proxy_us: f64::from(u32::try_from((after.0 - before.0) / 1000)?) / count,
            machine_us: (after.1 - before.1) * 1e6 / count,
        })
    }

    fn execute(&self, port: u16, words: &[&str]) -> anyhow::Result<String> {
        let port = port.to_string();
        let output = Command::new(&self.pgbench)
            .args(["--host=127.0.0.1", "--username=postgres", "--port", &port])
            .args(words)
            .arg("postgres")
            .output()
            .context("cannot run pgbench")?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

/// Measures all paths in each round; the runs of each path come back in the order of the rounds.
/// Another path begins each time, so that nobody always comes after the same one.
///
/// # Errors
/// The first that `measure` has.
pub(super) fn in_turn<T>(
    paths: usize,
    rounds: usize,
    mut measure: impl FnMut(usize) -> anyhow::Result<T>,
) -> anyhow::Result<Vec<Vec<T>>> {
    let mut runs: Vec<_> = (0..paths).map(|_| Vec::new()).collect();
    for round in 0..rounds {
        for place in 0..paths {
            let index = (place + round) % paths;
            runs[index].push(measure(index)?);
        }
        eprint!("\rbench: round {} of {rounds}", round + 1);
    }
    eprintln!();
    Ok(runs)
}

/// Throughput of each run against that of another path in the same round, as the machine changes
/// over time.
pub(super) fn ratios(runs: &[Run], others: &[Run]) -> Vec<f64> {
    runs.iter().zip(others).map(|(run, other)| run.tps / other.tps).collect()
}

/// A port that nobody listened on just now.
pub(super) fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// Waits until a process that was started listens.
///
/// # Errors
/// When it ends, or does not listen in time.
pub(super) fn wait_for_port(name: &str, process: &mut Child, port: u16) -> anyhow::Result<()> {
    let listens = wait_for_some(&format!("{name} to listen"), START_MAX, || {
        if !matches!(process.try_wait(), Ok(None)) {
            return Some(false);
        }
        TcpStream::connect(("127.0.0.1", port)).is_ok().then_some(true)
    })?;
    ensure!(listens, "{name} ended at once");
    Ok(())
}

/// Writes rows where `--json` wants them.
///
/// # Errors
/// When that cannot be done.
pub(super) fn write_json(file: Option<&Path>, rows: &impl serde::Serialize) -> anyhow::Result<()> {
    let Some(file) = file else { return Ok(()) };
    let text = serde_json::to_string_pretty(rows)?;
    std::fs::write(file, text).with_context(|| format!("{}", file.display()))
}

/// Times of all transactions in order, from what pgbench's threads have logged of each: the third
/// field, in microseconds.
fn latencies_us(folder: &TempDir) -> anyhow::Result<Vec<u64>> {
    let mut all = Vec::new();
    for file in std::fs::read_dir(folder.path())? {
        let text = std::fs::read_to_string(file?.path())?;
        for line in text.lines() {
            let time = line.split(' ').nth(2).and_then(|field| field.parse().ok());
            all.push(time.with_context(|| format!("pgbench logged a line without time: {line}"))?);
        }
    }
    all.sort_unstable();
    Ok(all)
}
