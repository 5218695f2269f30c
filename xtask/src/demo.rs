//! `cargo xtask demo`: the main job, shown: pgbench through VIP and pgx against a real PostgreSQL,
//! beside the same load on a direct connection.

use std::time::Duration;

use anyhow::{Context, bail};
use pgx_tests::lab::{Lab, Spec, build};

use crate::setup;

/// Rows of pgbench's accounts table, in units of 100,000; small enough to stay in memory.
const SCALE: u32 = 5;

/// Arguments of `demo`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Takes one short round instead of three longer ones
    #[arg(long)]
    quick: bool,
    /// Leaves the lab up and says how to reach it
    #[arg(long)]
    keep: bool,
    /// Concurrent clients
    #[arg(long, default_value_t = 8)]
    clients: u32,
}

/// One way from the client to PostgreSQL.
struct Way {
    name: &'static str,
    host: String,
    port: u16,
    runs: Vec<Run>,
}

/// What pgbench found in one run.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Run {
    /// Transactions per second.
    tps: f64,
    /// Mean time of a transaction in milliseconds.
    latency_ms: f64,
}

/// Runs the demo.
///
/// # Errors
/// When the machine lacks something that cannot be installed, or a step fails.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("the demo makes network namespaces and loads BPF, which takes root; use sudo");
    }
    setup::ensure(setup::LAB)?;
    eprintln!("demo: building pgx");
    let pgx = build::pgx(true)?;
    // An earlier demo that was kept makes room for this one.
    Lab::down("demo")?;
    let lab = Lab::up(&Spec { pgx: Some(pgx), ..Spec::new("demo") })?;
    let outcome = show(&lab, args);
    if args.keep {
        println!("\nThe lab is still up:");
        println!("  cargo xtask lab status --name demo");
        println!("  cargo xtask lab exec --name demo client -- psql");
        println!("  cargo xtask lab down --name demo");
    } else {
        eprintln!("demo: taking the lab down");
        Lab::down("demo")?;
    }
    outcome
}

fn show(lab: &Lab, args: &Args) -> anyhow::Result<()> {
    let env = lab.env(Vec::new())?;
    let primary = lab.host("n1")?.plan().v4().to_string();
    let mut ways = [
        Way { name: "direct", host: primary, port: env.postgres_port, runs: Vec::new() },
        Way { name: "VIP -> pgx", host: env.vip.to_string(), port: env.port, runs: Vec::new() },
    ];
    eprintln!("demo: filling the tables");
    pgbench(lab, &ways[0], &["--initialize", "--quiet", "--scale", &SCALE.to_string()])?;
    let (rounds, seconds) = if args.quick { (1, 2) } else { (3, 5) };
    for round in 1..=rounds {
        for way in &mut ways {
            eprintln!("demo: round {round} of {rounds}, {}", way.name);
            let run = load(lab, way, args.clients, Duration::from_secs(seconds))?;
            way.runs.push(run);
        }
    }
    println!("{}", report(&ways, args.clients));
    let status = lab.host("n1")?.output(None, &[&pgx_path(lab)?, "ctl", "status"])?;
    println!("pgx ctl status on n1:\n{status}");
    Ok(())
}

fn pgx_path(lab: &Lab) -> anyhow::Result<String> {
    let path = lab.spec().pgx.as_ref().context("the lab runs no pgx")?;
    Ok(path.display().to_string())
}

fn load(lab: &Lab, way: &Way, clients: u32, time: Duration) -> anyhow::Result<Run> {
    let (clients, seconds) = (clients.to_string(), time.as_secs().to_string());
    let args = ["--select-only", "--no-vacuum", "--jobs=2", "--client", &clients, "--time"];
    let text = pgbench(lab, way, &[&args[..], &[&seconds]].concat())?;
    parse(&text).with_context(|| format!("cannot read what pgbench printed:\n{text}"))
}

fn pgbench(lab: &Lab, way: &Way, args: &[&str]) -> anyhow::Result<String> {
    let port = way.port.to_string();
    let words = [&["pgbench", "--host", &way.host, "--port", &port], args].concat();
    lab.host("client")?.output(None, &words)
}

/// Picks throughput and latency out of pgbench's report.
fn parse(text: &str) -> Option<Run> {
    let number = |name: &str| {
        let value = text.lines().find_map(|line| line.strip_prefix(name))?;
        value.split_whitespace().next()?.parse::<f64>().ok()
    };
    Some(Run { tps: number("tps = ")?, latency_ms: number("latency average = ")? })
}

fn report(ways: &[Way], clients: u32) -> String {
    let mut text = format!(
        "pgbench --select-only, {clients} clients, medians of {} rounds\n\n{:<12} {:>12} {:>10} \
         {:>12}\n",
        ways[0].runs.len(),
        "path",
        "tps",
        "of direct",
        "latency ms"
    );
    let direct = median(&ways[0].runs, |run| run.tps);
    for way in ways {
        let tps = median(&way.runs, |run| run.tps);
        let latency = median(&way.runs, |run| run.latency_ms);
        text += &format!("{:<12} {tps:>12.0} {:>10.2} {latency:>12.3}\n", way.name, tps / direct);
    }
    text
}

fn median(runs: &[Run], value: impl Fn(&Run) -> f64) -> f64 {
    let mut values: Vec<_> = runs.iter().map(value).collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRINTED: &str = "number of failed transactions: 0 (0.000%)\n\
        latency average = 0.325 ms\ninitial connection time = 9.1 ms\n\
        tps = 25132.184 (without initial connection time)\n";

    #[test]
    fn throughput_and_latency_are_read_from_the_report_of_pgbench() {
        assert_eq!(parse(PRINTED), Some(Run { tps: 25132.184, latency_ms: 0.325 }));
        assert_eq!(parse("pgbench: error: connection refused"), None);
    }

    #[test]
    fn report_relates_each_path_to_the_direct_one_by_medians() {
        let run = |tps| Run { tps, latency_ms: 1.0 };
        let way = |name, runs| Way { name, host: String::new(), port: 0, runs };
        let ways = [
            way("direct", vec![run(10.0), run(1000.0), run(100.0)]),
            way("pgx", vec![run(50.0), run(50.0), run(50.0)]),
        ];
        let text = report(&ways, 8);
        assert!(text.lines().last().unwrap().contains("0.50"), "{text}");
    }
}
