//! `cargo xtask bench kernel`: what the fence, the address under its lease and steering cost, under
//! pgbench through the address; in turn with the same cluster without them, and with one whose
//! cable has an XDP program that passes everything: on a veth, XDP itself has a price that a card's
//! driver does not ask.

use std::path::{Path, PathBuf};

use anyhow::ensure;
use pgx_tests::chaos::{LIMIT, sql};
use pgx_tests::lab::spec::{PROXY_PORT, vip_v4};
use pgx_tests::lab::{Guard, Lab, Spec, build, wait_for};
use serde::Serialize;

use super::cpu;
use super::load::{in_turn, write_json};
use super::stats::{interval, median};
use crate::{pgbench, setup};

/// Arguments of `bench kernel`.
#[derive(clap::Args)]
pub(super) struct Args {
    /// How often each is measured, in turn with the others
    #[arg(long, default_value_t = 20)]
    rounds: usize,
    /// After how many rounds the clusters are made anew: where a cluster's memory comes to lie
    /// makes it faster or slower than its twin, for as long as it lives
    #[arg(long, default_value_t = 2)]
    renew: usize,
    /// How often it is each one's turn within a round. Other work on the machine comes and goes
    /// within seconds: short turns let all have the same of it
    #[arg(long, default_value_t = 4)]
    turns: usize,
    /// How long a turn takes, in seconds
    #[arg(long, default_value_t = 2)]
    seconds: u32,
    /// Concurrent clients
    #[arg(long, default_value_t = 8)]
    clients: u32,
    /// Measures this pgx instead of building one
    #[arg(long)]
    pgx: Option<PathBuf>,
    /// Writes the figures as JSON too
    #[arg(long)]
    json: Option<PathBuf>,
}

/// One measurement.
#[derive(Clone, Copy, Debug, Serialize)]
struct Run {
    tps: f64,
    latency_ms: f64,
    machine_cpu_us_per_tx: f64,
}

/// All of them, pairs at the same place.
#[derive(Debug, Default, Serialize)]
struct Figures {
    with: Vec<Run>,
    passing: Vec<Run>,
    without: Vec<Run>,
}

/// Measures and prints.
///
/// # Errors
/// When a lab does not come up, or a run of pgbench fails.
pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    ensure!(args.rounds > 0 && args.turns > 0, "no rounds, or no turns in them");
    ensure!(args.renew > 0, "--renew 0: clusters live for a round at least");
    setup::ensure(setup::LAB)?;
    let pgx = build::pgx_or(args.pgx.as_deref())?;
    cpu::tell_others()?;
    let mut figures = Figures::default();
    while figures.with.len() < args.rounds {
        let rounds = args.renew.min(args.rounds - figures.with.len());
        let labs = [
            up("bench-kernel", &pgx, true)?,
            up("bench-pass", &pgx, false)?,
            up("bench-plain", &pgx, false)?,
        ];
        labs[1].pass_xdp("n1")?;
        let turns = in_turn(labs.len(), rounds * args.turns, |at| measure(&labs[at], args))?;
        let legs = [&mut figures.with, &mut figures.passing, &mut figures.without];
        for (leg, turns) in legs.into_iter().zip(turns) {
            leg.extend(turns.chunks(args.turns).map(whole));
        }
        eprintln!("bench: {} rounds of {} are done", figures.with.len(), args.rounds);
    }
    print(&figures, args.clients);
    write_json(args.json.as_deref(), &figures)
}

/// A cluster of one host, so that primary, proxy and address are at the same place in both.
fn up(name: &str, pgx: &Path, kernel: bool) -> anyhow::Result<Guard> {
    Lab::down(name)?;
    let spec = Spec { data: 1, pgx: Some(pgx.into()), ..Spec::new(name) };
    let lab = Lab::up(&Spec { control: true, kernel, plain_vip: !kernel, ..spec })?.guard();
    wait_for("the address serves", LIMIT, || {
        sql(&lab, &vip_v4().to_string(), PROXY_PORT, "select 1").is_ok()
    })?;
    pgbench::fill(&lab, (&vip_v4().to_string(), &PROXY_PORT.to_string()))?;
    Ok(lab)
}

/// What one measured in the turns of a round.
fn whole(turns: &[Turn]) -> Run {
    let mean = |of: fn(&Turn) -> f64| turns.iter().map(of).sum::<f64>() / turns.len() as f64;
    Run {
        tps: mean(|turn| turn.found.tps),
        latency_ms: mean(|turn| turn.found.latency_ms),
        machine_cpu_us_per_tx: mean(|turn| turn.used_us) / mean(|turn| turn.found.transactions),
    }
}

/// One turn of one of them.
struct Turn {
    found: pgbench::Run,
    used_us: f64,
}

fn measure(lab: &Lab, args: &Args) -> anyhow::Result<Turn> {
    let before = cpu::machine_s()?;
    let (vip, port) = (vip_v4().to_string(), PROXY_PORT.to_string());
    let found = pgbench::select_only(lab, (&vip, &port), args.clients, args.seconds)?;
    Ok(Turn { found, used_us: (cpu::machine_s()? - before) * 1e6 })
}

fn print(figures: &Figures, clients: u32) {
    println!(
        "pgbench --select-only by the address, {clients} clients, medians of {} rounds\n\n{:<28} \
         {:>10} {:>12} {:>18}",
        figures.with.len(),
        "",
        "tps",
        "latency ms",
        "CPU us/transaction"
    );
    let ways = [
        ("fence, address, steering", &figures.with),
        ("XDP that passes everything", &figures.passing),
        ("none of it", &figures.without),
    ];
    for (name, runs) in ways {
        let of = |value: fn(&Run) -> f64| median(runs.iter().map(value));
        let (tps, ms) = (of(|run| run.tps), of(|run| run.latency_ms));
        let cpu_us = of(|run| run.machine_cpu_us_per_tx);
        println!("{name:<28} {tps:>10.0} {ms:>12.3} {cpu_us:>18.1}");
    }
    for (what, other) in
        [("none of it", &figures.without), ("XDP that passes everything", &figures.passing)]
    {
        let paired = |value: fn(&Run) -> f64| -> Vec<f64> {
            figures.with.iter().zip(other).map(|(with, other)| value(with) / value(other)).collect()
        };
        for (name, ratios) in [
            ("throughput", paired(|run| run.tps)),
            ("CPU a transaction", paired(|run| run.machine_cpu_us_per_tx)),
        ] {
            let [low, high] = interval(&ratios);
            println!(
                "{name}, all against {what}: {:.3} (95 %: {low:.3} to {high:.3})",
                median(ratios.iter().copied())
            );
        }
    }
}
