//! `cargo xtask bench pgbench`: PostgreSQL directly, through pgx, and through other proxies, all in
//! turn under pgbench's read-only load.

use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use pgx_tests::lab::build;
use serde::Serialize;

use super::cpu;
use super::load::{Load, Run, Work, in_turn, ratios, write_json};
use super::peers::{self, Size, Way};
use super::stats::{interval, median};
use crate::setup;

/// pgbench's names of the ways to send a query.
const PROTOCOLS: [&str; 3] = ["simple", "extended", "prepared"];

/// Arguments of `bench pgbench`.
#[derive(clap::Args)]
pub(super) struct Args {
    /// How often each path is measured, in turn with the others
    #[arg(long, default_value_t = 20)]
    rounds: usize,
    /// How long each measurement takes, in seconds
    #[arg(long, default_value_t = 3)]
    seconds: u32,
    /// Numbers of concurrent clients
    #[arg(long, value_delimiter = ',', default_values_t = [8, 64])]
    clients: Vec<u32>,
    /// How queries are sent
    #[arg(long, value_delimiter = ',', default_values_t = PROTOCOLS.map(str::to_owned))]
    protocols: Vec<String>,
    /// Threads of pgx and haproxy; pgbouncer has one
    #[arg(long, default_value_t = 2)]
    threads: u32,
    /// Server connections that clients share where a proxy shares them, in all
    #[arg(long, default_value_t = 20)]
    servers: u32,
    /// Measures this pgx instead of building one
    #[arg(long)]
    pgx: Option<PathBuf>,
    /// Writes the rows as JSON too
    #[arg(long)]
    json: Option<PathBuf>,
}

/// Medians of one path with one number of clients.
#[derive(Serialize)]
struct Row {
    path: &'static str,
    pool_mode: &'static str,
    query_mode: String,
    clients: u32,
    tps: f64,
    ratio_to_direct: f64,
    /// Where that is in 95 of 100 cases.
    ratio_interval: [f64; 2],
    p50_ms: f64,
    p99_ms: f64,
    proxy_cpu_us_per_tx: f64,
    machine_cpu_us_per_tx: f64,
}

/// Measures and prints.
///
/// # Errors
/// When something does not start, or a run of pgbench fails.
pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    ensure!(args.rounds > 0 && args.threads > 0, "no rounds, or no threads");
    for protocol in &args.protocols {
        ensure!(PROTOCOLS.contains(&&**protocol), "no protocol {protocol}: {PROTOCOLS:?}");
    }
    setup::ensure(setup::LAB)?;
    setup::ensure(setup::PEERS)?;
    let binary = build::pgx_or(args.pgx.as_deref())?;
    cpu::tell_others()?;
    let load = Load::start()?;
    let ways = start(&binary, load.port, args)?;
    let mut rows = Vec::new();
    for (clients, protocol) in args
        .clients
        .iter()
        .flat_map(|clients| args.protocols.iter().map(move |each| (clients, each)))
    {
        let ways: Vec<_> =
            ways.iter().filter(|way| way.is_prepared || protocol != "prepared").collect();
        eprintln!("bench: {clients} clients, {protocol}, {} paths", ways.len());
        let work = Work { clients: *clients, seconds: args.seconds, protocol };
        let runs = in_turn(ways.len(), args.rounds, |index| {
            let way = ways[index];
            let run = load.measure(way.port, way.process, work);
            run.with_context(|| format!("{} ({})", way.path, way.pool_mode))
        })?;
        let first = rows.len();
        rows.extend(ways.iter().zip(&runs).map(|(way, of)| summarise(way, work, of, &runs[0])));
        print(&rows[first..]);
        compare(&ways, &runs);
    }
    write_json(args.json.as_deref(), &rows)
}

/// Starts all that are compared; the direct way is the first.
fn start(binary: &Path, backend: u16, args: &Args) -> anyhow::Result<Vec<Way>> {
    // Connections of the last run may not be gone when the next begins.
    let clients = args.clients.iter().max().context("no clients")? * 2;
    let size = Size { threads: args.threads, servers: args.servers, clients };
    Ok(vec![
        peers::direct(backend),
        peers::pgx(binary, "transaction", backend, size)?,
        peers::pgx(binary, "session", backend, size)?,
        peers::pgbouncer(backend, size)?,
        peers::haproxy(backend, size)?,
    ])
}

fn summarise(way: &Way, work: Work<'_>, runs: &[Run], direct: &[Run]) -> Row {
    let of = |field: fn(&Run) -> f64| median(runs.iter().map(field));
    let ratios = ratios(runs, direct);
    Row {
        path: way.path,
        pool_mode: way.pool_mode,
        query_mode: work.protocol.to_owned(),
        clients: work.clients,
        tps: of(|run| run.tps),
        ratio_interval: interval(&ratios),
        ratio_to_direct: median(ratios),
        p50_ms: of(|run| run.p50_ms),
        p99_ms: of(|run| run.p99_ms),
        proxy_cpu_us_per_tx: of(|run| run.proxy_us),
        machine_cpu_us_per_tx: of(|run| run.machine_us),
    }
}

fn print(rows: &[Row]) {
    println!(
        "{:<10} {:<11} {:<8} {:>7} {:>8} {:>9} {:>13} {:>7} {:>7} {:>8} {:>10}",
        "path",
        "pool mode",
        "queries",
        "clients",
        "tps",
        "of direct",
        "95 %",
        "p50 ms",
        "p99 ms",
        "proxy us",
        "machine us"
    );
    for row in rows {
        let [low, high] = row.ratio_interval;
        println!(
            "{:<10} {:<11} {:<8} {:>7} {:>8.0} {:>9.3} {:>13} {:>7.3} {:>7.3} {:>8.1} {:>10.1}",
            row.path,
            row.pool_mode,
            row.query_mode,
            row.clients,
            row.tps,
            row.ratio_to_direct,
            format!("{low:.3}-{high:.3}"),
            row.p50_ms,
            row.p99_ms,
            row.proxy_cpu_us_per_tx,
            row.machine_cpu_us_per_tx
        );
    }
}

/// Tells how pgx stands to pgbouncer, round by round.
fn compare(ways: &[&Way], runs: &[Vec<Run>]) {
    let Some(peer) = ways.iter().position(|way| way.path == "pgbouncer") else { return };
    for (way, of) in ways.iter().zip(runs).filter(|(way, _)| way.path == "pgx") {
        let ratios = ratios(of, &runs[peer]);
        let [low, high] = interval(&ratios);
        let middle = median(ratios);
        println!("pgx ({}) of pgbouncer: {middle:.3} ({low:.3}-{high:.3})", way.pool_mode);
    }
}
