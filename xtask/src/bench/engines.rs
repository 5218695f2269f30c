//! `cargo xtask bench engines`: bare forwarders on our engine and on others, beside a direct
//! connection, under pgbench against a real PostgreSQL. It is how the choice of engine is checked.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};
use pgx_tests::lab::build;
use serde::Serialize;

use super::cpu;
use super::load::{Load, Run, Running, Work, free_port, in_turn, ratios, write_json};
use super::stats::median;

/// The engines of the forwarder, and what pgbench is compared with.
const DIRECT: &str = "direct";
const ENGINES: [&str; 5] = ["full", "reduced", "epoll", "tokio", "tokio-uring"];

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

/// A running forwarder.
struct Forwarder {
    process: Running,
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
    cpu::tell_others()?;
    let load = Load::start()?;
    let mut paths = vec![(DIRECT.to_owned(), None)];
    for engine in &args.engines {
        let forwarder = Forwarder::start(&binary, engine, load.port, args.threads)?;
        paths.push((engine.clone(), Some(forwarder)));
    }
    let mut rows = Vec::new();
    for clients in &args.clients {
        eprintln!("bench: {clients} clients");
        let work = Work { clients: *clients, seconds: args.seconds, protocol: "simple" };
        let runs = in_turn(paths.len(), args.rounds, |index| {
            let (engine, forwarder) = &paths[index];
            let port = forwarder.as_ref().map_or(load.port, |forwarder| forwarder.port);
            let process = forwarder.as_ref().map(|forwarder| forwarder.process.0.id());
            load.measure(port, process, work).with_context(|| engine.clone())
        })?;
        rows.extend(
            paths
                .iter()
                .zip(&runs)
                .map(|((engine, _), of)| summarise(engine, *clients, of, &runs[0])),
        );
    }
    print(&rows);
    write_json(args.json.as_deref(), &rows)
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
        let forwarder = Self { process: Running(process), port };
        let mut line = String::new();
        BufReader::new(said).read_line(&mut line)?;
        ensure!(line == "ready\n", "the forwarder on {engine} did not start");
        Ok(forwarder)
    }
}

fn summarise(engine: &str, clients: u32, runs: &[Run], direct: &[Run]) -> Row {
    Row {
        engine: engine.to_owned(),
        clients,
        tps: median(runs.iter().map(|run| run.tps)),
        ratio_to_direct: median(ratios(runs, direct)),
        forwarder_cpu_us_per_tx: median(runs.iter().map(|run| run.proxy_us)),
        machine_cpu_us_per_tx: median(runs.iter().map(|run| run.machine_us)),
    }
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
