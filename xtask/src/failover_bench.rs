//! `cargo xtask failover-bench`: how long nobody can write when a primary dies, and when operators
//! change it; what clients are told; and whether anything is lost.
//!
//! Three nodes on loopback, each with a PostgreSQL and a proxy, and clients at a low rate, so that
//! a small machine is not measured instead. The gap is between two commits of whatever clients.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use pgx_tests::cluster::{WAIT_MAX, ask};
use pgx_tests::lab::build;
use pgx_tests::members::Members;
use serde::Serialize;

use crate::setup;

/// Arguments of `failover-bench`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// How often each is done
    #[arg(long, default_value_t = 20)]
    rounds: usize,
    /// Writes the figures of each round to a file, in JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Measures this pgx instead of building one
    #[arg(long)]
    pgx: Option<PathBuf>,
}

/// What came of all rounds of one kind.
#[derive(Debug, Default, Serialize)]
struct Kind {
    gaps_ms: Vec<u64>,
    commits_acknowledged: u64,
    commits_lost: u64,
    hangs: u64,
    /// What clients were told, by SQLSTATE or kind of end.
    client_errors: BTreeMap<String, u64>,
}

/// Runs the rounds and prints the figures.
///
/// # Errors
/// When a commit is lost, a client hangs, or the cluster does not come about.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    setup::ensure(setup::LAB)?;
    let pgx = args.pgx.clone().map_or_else(|| build::pgx(true), Ok)?;
    let members = Members::start(&pgx, 3)?;
    let mut kinds: BTreeMap<&str, Kind> = BTreeMap::new();
    for round in 1..=args.rounds {
        for (name, act) in [
            ("kill -9 of the primary's postmaster", kill as Act),
            ("planned switchover", switch_over as Act),
        ] {
            let kind = kinds.entry(name).or_default();
            measure(&members, kind, act).with_context(|| format!("{name}, round {round}"))?;
            eprintln!("round {round}: {name}: {} ms", kind.gaps_ms.last().unwrap_or(&0));
        }
    }
    println!(
        "{:36} {:>9} {:>9} {:>8} {:>5}  client errors",
        "", "median", "worst", "commits", "lost"
    );
    for (name, kind) in &kinds {
        let mut gaps = kind.gaps_ms.clone();
        gaps.sort_unstable();
        let median = gaps.get(gaps.len() / 2).copied().unwrap_or_default();
        let worst = gaps.last().copied().unwrap_or_default();
        let Kind { commits_acknowledged, commits_lost, client_errors, .. } = kind;
        println!(
            "{name:36} {median:>6} ms {worst:>6} ms {commits_acknowledged:>8} {commits_lost:>5}  \
             {client_errors:?}"
        );
    }
    if let Some(path) = &args.json {
        std::fs::write(path, serde_json::to_vec_pretty(&kinds)?)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

type Act = fn(&Members, usize) -> anyhow::Result<()>;

fn kill(members: &Members, primary: usize) -> anyhow::Result<()> {
    members.kill_postmaster(primary)
}

fn switch_over(members: &Members, _: usize) -> anyhow::Result<()> {
    ask(members.node(1), &["switchover"]).map(drop)
}

fn measure(members: &Members, kind: &mut Kind, act: Act) -> anyhow::Result<()> {
    let load = members.load()?;
    load.wait_for_commits(50, WAIT_MAX)?;
    let (primary, epoch) = members.primary()?;
    let from = load.clock();
    act(members, primary)?;
    members.wait_for_calm(epoch + 1)?;
    load.wait_for_commits(50, WAIT_MAX)?;
    let to = load.clock();
    // Fails at the first commit that is lost, and at whoever hangs.
    let record = members.end(load)?;
    let gap: Duration = record.longest_gap(from, to).length();
    kind.gaps_ms.push(u64::try_from(gap.as_millis())?);
    let counts = record.counts();
    kind.commits_acknowledged += counts.acknowledged;
    kind.hangs += counts.hangs;
    for (error, count) in record.error_counts {
        *kind.client_errors.entry(error).or_default() += count;
    }
    Ok(())
}
