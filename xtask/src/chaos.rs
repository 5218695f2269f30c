//! `cargo xtask chaos`: random sequences of faults in a lab, one for each seed, under the load of
//! clients that know what they were told.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, ensure};
use pgx_tests::chaos::{Chaos, Run, logs_of};
use pgx_tests::lab::build;
use serde::Serialize;

use crate::setup;
use crate::spread::spread;

const NAME: &str = "chaos";

/// Arguments of `chaos`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// How many sequences
    #[arg(long, default_value_t = 50)]
    seeds: u64,
    /// The first seed; `--first S --seeds 1` repeats one
    #[arg(long, default_value_t = 0)]
    first: u64,
    /// Writes what came of it to a file, in JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Tries this pgx instead of building one
    #[arg(long)]
    pgx: Option<PathBuf>,
    /// With the fence, and the address under its lease
    #[arg(long)]
    kernel: bool,
}

/// All runs together.
#[derive(Debug, Default, Serialize)]
struct Summary {
    runs: u64,
    commits_acknowledged: u64,
    commits_lost: u64,
    double_primaries: u64,
    hangs: u64,
    unhealed: u64,
    /// The longest time without a commit, by kind of fault.
    gaps_ms: BTreeMap<String, Vec<u64>>,
    /// The runs in which something was wrong, in full.
    failed: Vec<Run>,
}

impl Summary {
    fn add(&mut self, run: Run) {
        self.runs += 1;
        self.commits_acknowledged += run.commits_acknowledged;
        self.commits_lost += run.commits_lost;
        self.double_primaries += run.double_primaries;
        self.hangs += run.hangs;
        self.unhealed += u64::from(!run.is_healed);
        for (name, gaps) in &run.gaps_ms {
            self.gaps_ms.entry(name.clone()).or_default().extend(gaps);
        }
        if !run.is_good() {
            self.failed.push(run);
        }
    }
}

/// Runs the sequences and prints what came of them.
///
/// # Errors
/// When a commit is lost, two primaries were at work, somebody hung, or the cluster did not heal.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    setup::ensure(setup::LAB)?;
    let pgx = build::pgx_or(args.pgx.as_deref())?;
    let (mut summary, mut place) = (Summary::default(), None);
    for seed in args.first..args.first + args.seeds {
        let chaos = match place.take() {
            Some(chaos) => chaos,
            None => Chaos::up(NAME, &pgx, args.kernel)?,
        };
        let run = chaos.run(seed, &mut |step| eprintln!("seed {seed}: {step}"));
        let run = run.with_context(|| format!("seed {seed}"))?;
        eprintln!("seed {seed}: {} commits, {:?}", run.commits_acknowledged, run.client_errors);
        if run.is_good() {
            place = Some(chaos);
        } else {
            // What it left behind is not what the next begins with.
            let logs = logs_of(&format!("seed-{seed}"));
            chaos.keep_logs(&logs)?;
            eprintln!("seed {seed} FAILED, logs are in {}: {run:#?}", logs.display());
        }
        summary.add(run);
        // What there is is kept, whatever becomes of the rest.
        if let Some(path) = &args.json {
            std::fs::write(path, serde_json::to_vec_pretty(&summary)?)
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
    }
    print(&summary);
    let failed: Vec<_> = summary.failed.iter().map(|run| run.seed).collect();
    ensure!(failed.is_empty(), "failed: seeds {failed:?}");
    Ok(())
}

fn print(summary: &Summary) {
    let Summary { runs, commits_acknowledged, commits_lost, .. } = summary;
    let Summary { double_primaries, hangs, unhealed, .. } = summary;
    println!(
        "{runs} runs, {commits_acknowledged} commits acknowledged: {commits_lost} lost, \
         {double_primaries} by two primaries at a time, {hangs} hangs, {unhealed} unhealed"
    );
    println!(
        "{:32} {:>5} {:>9} {:>9}",
        "longest time without a commit", "times", "median", "worst"
    );
    for (name, gaps) in &summary.gaps_ms {
        let [_, median, worst] = spread(gaps.iter().copied()).unwrap_or_default();
        println!("{name:32} {:>5} {median:>6} ms {worst:>6} ms", gaps.len());
    }
}
