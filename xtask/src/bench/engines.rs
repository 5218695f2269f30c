//! `cargo xtask bench engines`: bare forwarders on our engine and on others, beside a direct
//! connection, under pgbench against a real PostgreSQL. It is how the choice of engine is checked.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, ensure};
use pgx_tests::database::Database;
use pgx_tests::lab::{build, postgres};
use serde::Serialize;

use super::TICKS_PER_S;

/// The engines of the forwarder, and what pgbench is compared with.
const DIRECT: &str = "direct";
const ENGINES: [&str; 5] = ["full", "reduced", "epoll", "tokio", "tokio-uring"];

/// Rows of pgbench's accounts table, in units of 100,000; small enough to stay in memory.
const SCALE: &str = "5";

/// Arguments of `bench engines`.
#[derive(clap::Args)]
pub(super) struct Args {
    /// How often each path is measured, in turn with the others
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// How long each measurement takes, in seconds
    #[arg(long, default_value_t = 3)]
    seconds: u32,
    /// Numbers of concurrent clients
    #[arg(long, value_delimiter = ',', default_values_t = [8, 64])]
    clients: Vec<u32>,
    /// Loops of the forwarder
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Only these engines
    #[arg(long, value_delimiter = ',', default_values_t = ENGINES.map(str::to_owned))]
    engines: Vec<String>,
    /// Writes the rows as JSON too
    #[arg(long)]
    json: Option<PathBuf>,
}

/// Medians of one path with one number of clients.
#[derive(Serialize)]
struct Row {
    engine: String,
    clients: u32,
    tps: f64,
    ratio_to_direct: f64,
    forwarder_cpu_us_per_tx: f64,
    machine_cpu_us_per_tx: f64,
}

/// One measurement.
#[derive(Clone, Copy)]
struct Run {
    tps: f64,
    forwarder_us: f64,
    machine_us: f64,
}

/// A running forwarder; killed when dropped.
struct Forwarder {
    process: Child,
    port: u16,
}

/// Measures and prints.
///
/// # Errors
/// When something does not start, or a run of pgbench fails.
pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    for engine in &args.engines {
        ensure!(ENGINES.contains(&&**engine), "no engine {engine}; there are {ENGINES:?}");
    }
    ensure!(args.rounds > 0, "no rounds");
    eprintln!("bench: building the forwarder");
    let binary = build::forwarder()?;
    let port = free_port()?;
    let settings = format!("-c listen_addresses=127.0.0.1 -c port={port} -c max_connections=300");
    let _database = Database::start_with(&["--auth=trust"], &settings)?;
    let pgbench = postgres::find_programs(None)?.join("pgbench");
    execute(&pgbench, port, &["--initialize", "--quiet", "--scale", SCALE])?;
    let mut paths = vec![(DIRECT.to_owned(), None)];
    for engine in &args.engines {
        let forwarder = Forwarder::start(&binary, engine, port, args.threads)?;
        paths.push((engine.clone(), Some(forwarder)));
    }
    let mut rows = Vec::new();
    for clients in &args.clients {
        let mut runs = vec![Vec::new(); paths.len()];
        for round in 0..args.rounds {
            eprintln!("bench: {clients} clients, round {} of {}", round + 1, args.rounds);
            // Another one begins each time, so that nobody always comes after the same one.
            for place in 0..paths.len() {
                let index = (place + round) % paths.len();
                let run = measure(&pgbench, port, paths[index].1.as_ref(), *clients, args.seconds);
                runs[index].push(run.with_context(|| paths[index].0.clone())?);
            }
        }
        rows.extend(
            paths
                .iter()
                .zip(&runs)
                .map(|((engine, _), of)| summarise(engine, *clients, of, &runs[0])),
        );
    }
    print(&rows);
    if let Some(file) = &args.json {
        let text = serde_json::to_string_pretty(&rows)?;
        std::fs::write(file, text).with_context(|| format!("{}", file.display()))?;
    }
    Ok(())
}

impl Forwarder {
    fn start(binary: &Path, engine: &str, backend: u16, threads: usize) -> anyhow::Result<Self> {
        let port = free_port()?;
        let words = [engine, &port.to_string(), &backend.to_string(), &threads.to_string()];
        let mut process = Command::new(binary)
            .args(words)
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot run {}", binary.display()))?;
        let said = process.stdout.take().context("its output is ours")?;
        let forwarder = Self { process, port };
        let mut line = String::new();
        BufReader::new(said).read_line(&mut line)?;
        ensure!(line == "ready\n", "the forwarder on {engine} did not start");
        Ok(forwarder)
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

fn measure(
    pgbench: &Path,
    direct: u16,
    forwarder: Option<&Forwarder>,
    clients: u32,
    seconds: u32,
) -> anyhow::Result<Run> {
    let port = forwarder.map_or(direct, |forwarder| forwarder.port);
    let process = forwarder.map(|forwarder| forwarder.process.id());
    let cpu_ns = || process.map_or(Ok(0), process_cpu_ns);
    let (clients, seconds) = (clients.to_string(), seconds.to_string());
    let words = ["--select-only", "--no-vacuum", "--jobs=2", "--client", &clients, "--time"];
    let before = (cpu_ns()?, machine_cpu_s()?);
    let text = execute(pgbench, port, &[&words[..], &[&seconds]].concat())?;
    let after = (cpu_ns()?, machine_cpu_s()?);
    let number = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        let value = line.and_then(|rest| rest.split_whitespace().next());
        value.and_then(|value| value.parse::<f64>().ok())
    };
    let read = || Some((number("tps = ")?, number("number of transactions actually processed: ")?));
    let (tps, count) = read().with_context(|| format!("cannot read what it printed:\n{text}"))?;
    ensure!(count > 0.0, "pgbench did nothing:\n{text}");
    Ok(Run {
        tps,
        forwarder_us: f64::from(u32::try_from((after.0 - before.0) / 1000)?) / count,
        machine_us: (after.1 - before.1) * 1e6 / count,
    })
}

fn execute(pgbench: &Path, port: u16, words: &[&str]) -> anyhow::Result<String> {
    let port = port.to_string();
    let output = Command::new(pgbench)
        .args(["--host=127.0.0.1", "--username=postgres", "--port", &port])
        .args(words)
        .arg("postgres")
        .output()
        .context("cannot run pgbench")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Nanoseconds of CPU that all threads of a process have used.
fn process_cpu_ns(process: u32) -> anyhow::Result<u64> {
    let mut sum = 0;
    for thread in std::fs::read_dir(format!("/proc/{process}/task"))? {
        let text = std::fs::read_to_string(thread?.path().join("schedstat"))?;
        sum += text.split_whitespace().next().context("schedstat is empty")?.parse::<u64>()?;
    }
    Ok(sum)
}

/// Seconds of CPU that all processes, interrupts included, have used: not only ours.
fn machine_cpu_s() -> anyhow::Result<f64> {
    let text = std::fs::read_to_string("/proc/stat")?;
    let line = text.lines().next().context("stat is empty")?;
    let fields: Result<Vec<u32>, _> = line.split_whitespace().skip(1).map(str::parse).collect();
    let fields = fields?;
    // user, nice, system, idle, iowait, irq, softirq, steal; guests are within the first two.
    ensure!(fields.len() >= 7, "stat has no softirq: {line}");
    let busy = [0, 1, 2, 5, 6].map(|index| f64::from(fields[index]));
    Ok(busy.iter().sum::<f64>() / TICKS_PER_S)
}

fn summarise(engine: &str, clients: u32, runs: &[Run], direct: &[Run]) -> Row {
    // Each run against the direct one of its round, as the machine changes over time.
    let ratios = runs.iter().zip(direct).map(|(run, direct)| run.tps / direct.tps);
    Row {
        engine: engine.to_owned(),
        clients,
        tps: median(runs.iter().map(|run| run.tps)),
        ratio_to_direct: median(ratios),
        forwarder_cpu_us_per_tx: median(runs.iter().map(|run| run.forwarder_us)),
        machine_cpu_us_per_tx: median(runs.iter().map(|run| run.machine_us)),
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<_> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn print(rows: &[Row]) {
    println!(
        "{:<12} {:>7} {:>9} {:>10} {:>18} {:>16}",
        "engine", "clients", "tps", "of direct", "forwarder us/tx", "machine us/tx"
    );
    for row in rows {
        println!(
            "{:<12} {:>7} {:>9.0} {:>10.3} {:>18.1} {:>16.1}",
            row.engine,
            row.clients,
            row.tps,
            row.ratio_to_direct,
            row.forwarder_cpu_us_per_tx,
            row.machine_cpu_us_per_tx
        );
    }
}
