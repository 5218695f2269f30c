//! `cargo xtask gate`: hosts of the primary and of the address fail again and again, at random
//! moments, while everything that leaves them is listened to.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, ensure};
use pgx_tests::chaos::Shared;
use pgx_tests::gate::{CASES, Case, Figures};
use pgx_tests::lab::build;
use serde::Serialize;

use crate::setup;
use crate::spread::spread;

const NAME: &str = "gate";

/// Arguments of `gate`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// How often each failure comes
    #[arg(long, default_value_t = 30)]
    rounds: u64,
    /// The seed of the first round, from which its moments are drawn
    #[arg(long, default_value_t = 0)]
    first: u64,
    /// Only failures whose names contain this
    #[arg(long, default_value = "")]
    only: String,
    /// Writes the figures to a file, in JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// The lab's name; two with different names can run beside each other
    #[arg(long, default_value = NAME)]
    name: String,
    /// Tries this pgx instead of building one
    #[arg(long)]
    pgx: Option<PathBuf>,
}

/// What came of all rounds of one failure.
#[derive(Debug, Default, Serialize)]
struct Summary {
    figures: Vec<Figures>,
    /// What went wrong, by seed.
    failed: BTreeMap<u64, String>,
}

/// Runs the rounds and prints the figures.
///
/// # Errors
/// When something left that must not, two answered for the address, a commit was lost, or the
/// cluster was not as before.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    setup::ensure(setup::LAB)?;
    let cases: Vec<_> = CASES.iter().filter(|case| case.title().contains(&args.only)).collect();
    ensure!(!cases.is_empty(), "no failure has {:?} in its name", args.only);
    let shared = Shared::new(&args.name, Some(build::pgx_or(args.pgx.as_deref())?), true);
    let mut all = BTreeMap::<String, Summary>::new();
    for seed in args.first..args.first + args.rounds {
        for case in &cases {
            let (title, summary) = (case.title(), all.entry(case.title()).or_default());
            match shared.run(&format!("{title}-{seed}"), |chaos| case.run(chaos, seed)) {
                Ok(figures) => {
                    eprintln!("seed {seed}: {title}: {figures:?}");
                    summary.figures.push(figures);
                }
                Err(error) => {
                    eprintln!("seed {seed}: {title} FAILED: {error:#}");
                    summary.failed.insert(seed, format!("{error:#}"));
                }
            }
        }
        // What there is is kept, whatever becomes of the rest.
        if let Some(path) = &args.json {
            std::fs::write(path, serde_json::to_vec_pretty(&all)?)
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
    }
    print(&cases, &all);
    let failed: usize = all.values().map(|summary| summary.failed.len()).sum();
    ensure!(failed == 0, "{failed} failed");
    Ok(())
}

fn print(cases: &[&Case], all: &BTreeMap<String, Summary>) {
    println!("{:84} {:>5} {:>6}  median and the worst", "", "times", "failed");
    for case in cases {
        let title = case.title();
        let Some(Summary { figures, failed }) = all.get(&title) else { continue };
        let of = |value: fn(&Figures) -> Option<u64>| spread(figures.iter().filter_map(value));
        let mut text = Vec::new();
        if let Some([least, median, _]) = of(|found| found.early_ms) {
            text.push(format!("last data {median} ms before the lease ended, at least {least}"));
        }
        if let Some([_, median, most]) = of(|found| found.gap_ms) {
            text.push(format!("gap {median} ms, at most {most}"));
        }
        if let Some([_, median, most]) = of(|found| found.decided_ms) {
            text.push(format!("{median} ms after the decision, at most {most}"));
        }
        let text = text.join("; ");
        let times = figures.len() + failed.len();
        println!("{title:84} {times:>5} {:>6}  {text}", failed.len());
    }
}
