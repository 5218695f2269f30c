//! `cargo xtask failover-bench`: how long nobody can write when a primary or its host fails, and
//! when operators change the primary; what clients are told; and whether anything is lost.
//!
//! A lab of three data hosts and a proxy host, with clients in a host of their own that write
//! through all four proxies at a low rate, so that a small machine is not measured instead. The gap
//! is between two commits of whatever clients. An answer is waited for by a client of a proxy whose
//! host lives.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use pgx_tests::chaos::{Chaos, Trial};
use pgx_tests::lab::{Direction, Fault, KillTarget, PauseTarget, build};
use serde::Serialize;

use crate::setup;
use crate::spread::spread;

const NAME: &str = "failover-bench";

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
    /// With the fence, and the address under its lease
    #[arg(long)]
    kernel: bool,
    /// Does only this in each round
    #[arg(long, value_enum)]
    only: Option<Act>,
}

/// What is done in each round, in this order.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Act {
    Kill,
    Freeze,
    PowerOff,
    Cut,
    Switchover,
}

/// What came of all rounds of one kind.
#[derive(Debug, Default, Serialize)]
struct Kind {
    gaps_ms: Vec<u64>,
    /// The longest that a client of a living proxy waited for an answer or an end in each round,
    /// or zero if that was less than a second.
    waits_ms: Vec<u64>,
    commits_acknowledged: u64,
    commits_lost: u64,
    hangs: u64,
    /// What clients were told, by SQLSTATE or kind of end.
    client_errors: BTreeMap<String, u64>,
}

impl Act {
    const ALL: [Self; 5] = [Self::Kill, Self::Freeze, Self::PowerOff, Self::Cut, Self::Switchover];

    fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill -9 of the primary's postmaster",
            Self::Freeze => "host of the primary frozen",
            Self::PowerOff => "host of the primary off",
            Self::Cut => "host of the primary cut off",
            Self::Switchover => "planned switchover",
        }
    }

    fn takes_the_host(self) -> bool {
        matches!(self, Self::Freeze | Self::PowerOff | Self::Cut)
    }

    /// What is done to the host of the primary, if it is a fault.
    fn fault(self, host: String) -> Option<Fault> {
        Some(match self {
            Self::Kill => Fault::Kill { host, target: KillTarget::Postmaster },
            Self::Freeze => Fault::Pause { host, target: PauseTarget::All },
            Self::PowerOff => Fault::PowerOff { host },
            Self::Cut => Fault::Cut { host, direction: Direction::Both },
            Self::Switchover => return None,
        })
    }
}

/// Runs the rounds and prints the figures.
///
/// # Errors
/// When a commit is lost, a client hangs, or the cluster does not come about.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    setup::ensure(setup::LAB)?;
    let pgx = build::pgx_or(args.pgx.as_deref())?;
    let chaos = Chaos::up(NAME, &pgx, args.kernel)?;
    let mut kinds: BTreeMap<&str, Kind> = BTreeMap::new();
    let acts = args.only.map_or(Act::ALL.to_vec(), |only| vec![only]);
    for round in 1..=args.rounds {
        for &act in &acts {
            let (name, trial) = (act.name(), chaos.begin(round as u64)?);
            let kind = kinds.entry(name).or_default();
            let measured = measure(trial, kind, act);
            let (gap, wait) = (kind.gaps_ms.last(), kind.waits_ms.last());
            eprintln!("round {round}: {name}: gap {gap:?} ms, longest wait {wait:?} ms");
            // What there is is kept, whatever becomes of the rest.
            if let Some(path) = &args.json {
                std::fs::write(path, serde_json::to_vec_pretty(&kinds)?)
                    .with_context(|| format!("cannot write {}", path.display()))?;
            }
            if let Err(error) = measured {
                print(&kinds);
                let error = chaos.keep_logs_of(NAME, error);
                return Err(error.context(format!("{name}, round {round}")));
            }
        }
    }
    print(&kinds);
    Ok(())
}

fn print(kinds: &BTreeMap<&str, Kind>) {
    println!(
        "{:36} {:>9} {:>9} {:>12} {:>8} {:>5}  client errors",
        "", "median", "worst", "longest wait", "commits", "lost"
    );
    for act in Act::ALL {
        let Some(kind) = kinds.get(act.name()) else { continue };
        let [_, median, worst] = spread(kind.gaps_ms.iter().copied()).unwrap_or_default();
        let wait = kind.waits_ms.iter().max().copied().unwrap_or_default();
        let Kind { commits_acknowledged, commits_lost, client_errors, .. } = kind;
        println!(
            "{:36} {median:>6} ms {worst:>6} ms {wait:>9} ms {commits_acknowledged:>8} \
             {commits_lost:>5}  {client_errors:?}",
            act.name()
        );
    }
}

fn measure(trial: Trial<'_>, kind: &mut Kind, act: Act) -> anyhow::Result<()> {
    let (lab, before) = (trial.lab(), trial.before);
    let primary = before.host();
    let from = trial.checker.clock();
    let fault = act.fault(primary.clone()).map(|fault| lab.fault(&fault)).transpose()?;
    if fault.is_none() {
        lab.ask(&primary, &["switchover"])?;
    }
    let witness = lab.data_hosts().map(|host| host.plan().name.as_str());
    let witness = witness.filter(|name| *name != primary).last().context("one data host")?;
    trial.wait_for_another(witness)?;
    // The proxy of a host that is off, frozen or cut off answers nobody.
    let dead = act.takes_the_host().then_some(primary.as_str());
    trial.wait_for_proxies_but(dead.as_slice())?;
    let to = trial.checker.clock();
    fault.map(|id| lab.heal(id)).transpose()?;
    let all = lab.hosts().iter().map(|host| host.plan()).filter(|plan| plan.kind.runs_pgx());
    let living = all.filter(|plan| dead != Some(&plan.name)).map(|plan| trial.proxy(&plan.name));
    let living: Vec<usize> = living.collect::<anyhow::Result<_>>()?;
    let outcome = trial.end()?;
    let (lost, checked) = (outcome.lost(), outcome.check());
    let record = outcome.record;
    let ms = |time: Duration| u64::try_from(time.as_millis());
    kind.gaps_ms.push(ms(record.longest_gap(from, to).length())?);
    let waits = living.iter().map(|at| record.longest_wait_through(*at, from, to));
    kind.waits_ms.push(ms(waits.max().unwrap_or_default())?);
    let counts = record.counts();
    kind.commits_acknowledged += counts.acknowledged;
    kind.commits_lost += lost;
    kind.hangs += counts.hangs;
    for (error, count) in record.error_counts {
        *kind.client_errors.entry(error).or_default() += count;
    }
    // Fails at the first commit that is lost, and at whoever hangs.
    checked
}
