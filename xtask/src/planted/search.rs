//! Looks for a planted bug: many seeds of the simulator at once, or one test of the model.

use std::ops::RangeInclusive;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, bail};

/// Seeds that one process runs. More would leave the other processors idle at the end, fewer spend
/// more on the seed that each process runs twice.
const CHUNK: u64 = 20;

/// How a bug was caught.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// By what.
    pub(super) by: String,
    /// The invariant that failed.
    pub(super) what: String,
    /// How long that took.
    pub(super) after: String,
}

/// The names of the simulator's invariants.
pub(super) fn invariants(sim: &Path) -> anyhow::Result<Vec<String>> {
    let output = Command::new(sim).arg("--invariants").output().context("cannot run sim")?;
    Ok(String::from_utf8(output.stdout)?.lines().map(str::to_owned).collect())
}

/// What runs with many seeds.
#[derive(Clone, Copy)]
pub(super) struct Simulator<'a> {
    /// With the bug.
    pub(super) planted: &'a Path,
    /// Without it. A seed for which this one fails as well says nothing about the bug.
    pub(super) clean: &'a Path,
    /// The invariant that has to fail; any, if none is named.
    pub(super) fails: Option<&'a str>,
}

/// The first seed for which the simulator fails as it should. All processors take part, and the
/// answer does not depend on how many there are.
pub(super) fn simulator(
    simulator: Simulator<'_>,
    nodes: u64,
    seeds: u64,
) -> anyhow::Result<Option<Found>> {
    let (next, found) = (AtomicU64::new(1), Mutex::new(None::<(u64, String)>));
    let best = || found.lock().map_or(None, |found| found.as_ref().map(|(seed, _)| *seed));
    let work = || -> anyhow::Result<()> {
        loop {
            let first = next.fetch_add(CHUNK, Ordering::Relaxed);
            if first > seeds || best().is_some_and(|best| best < first) {
                return Ok(());
            }
            let last = seeds.min(first + CHUNK - 1);
            if let Some(one) = first_failure(simulator, nodes, first..=last)?
                && let Ok(mut found) = found.lock()
                && found.as_ref().is_none_or(|known| one.0 < known.0)
            {
                *found = Some(one);
            }
        }
    };
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        let results = threads.into_iter().map(|thread| match thread.join() {
            Ok(result) => result,
            Err(_) => bail!("a thread of the search has panicked"),
        });
        results.collect::<anyhow::Result<()>>()
    })?;
    let found = found.into_inner().unwrap_or_default();
    Ok(found.map(|(seed, what)| Found {
        by: format!("sim, {nodes} nodes"),
        what,
        after: format!("{seed} seed{}", if seed == 1 { "" } else { "s" }),
    }))
}

/// The first of these seeds that fails as it should, and what failed.
fn first_failure(
    Simulator { planted, clean, fails }: Simulator<'_>,
    nodes: u64,
    seeds: RangeInclusive<u64>,
) -> anyhow::Result<Option<(u64, String)>> {
    let (mut first, last) = (*seeds.start(), *seeds.end());
    while first <= last {
        let Some((seed, what)) = run(planted, nodes, first..=last)? else { return Ok(None) };
        let is_wanted = fails.is_none_or(|wanted| wanted == what);
        if is_wanted && run(clean, nodes, seed..=seed)?.is_none() {
            return Ok(Some((seed, what)));
        }
        first = seed + 1;
    }
    Ok(None)
}

/// Runs these seeds until one fails.
fn run(
    sim: &Path,
    nodes: u64,
    seeds: RangeInclusive<u64>,
) -> anyhow::Result<Option<(u64, String)>> {
    let (first, count) = (*seeds.start(), seeds.count());
    let mut command = Command::new(sim);
    command.args(["--brief", "--nodes", &nodes.to_string(), "--first", &first.to_string()]);
    command.args(["--seeds", &count.to_string()]);
    let output = command.stderr(Stdio::null()).output().context("cannot run sim")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let outcome = outcome(&text).with_context(|| format!("sim from seed {first} says {text:?}"))?;
    Ok(outcome.map(|(what, tried)| (first + tried - 1, what.to_owned())))
}

/// What `sim --brief` says in the end: nothing failed, or what did after how many seeds.
fn outcome(text: &str) -> Option<Option<(&str, u64)>> {
    let line = text.lines().last()?;
    if line.starts_with("held ") {
        return Some(None);
    }
    let (what, tried) = line.strip_prefix("failed ")?.rsplit_once(": ")?;
    Some(Some((what, tried.parse().ok()?)))
}

/// Runs a test of the model, which has to fail by a property.
pub(super) fn model(model: &Path, test: &str) -> anyhow::Result<Option<Found>> {
    let mut command = Command::new(model);
    command.args([test, "--exact", "--include-ignored", "--nocapture"]);
    let output = command.output().context("cannot run model")?;
    let (out, err) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if !out.contains("running 1 test") {
        bail!("the model has no test {test}");
    }
    let broken = err.lines().find_map(|line| line.split_once(" does not hold after"));
    let states = out.lines().find_map(|line| line.split(": ").nth(1)?.split_once(" states"));
    Ok(broken.zip(states).map(|((what, _), (states, _))| Found {
        by: "model".to_owned(),
        what: what.split(": ").last().unwrap_or_default().trim_matches('"').to_owned(),
        after: format!("{states} states"),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_simulator_says_is_read_and_anything_else_is_no_answer() {
        assert_eq!(outcome("held 20\n"), Some(None));
        assert_eq!(outcome("failed goes on: 7\n"), Some(Some(("goes on", 7))));
        assert_eq!(outcome("seed 4 gives two different runs\n"), None);
        assert_eq!(outcome(""), None);
    }
}
