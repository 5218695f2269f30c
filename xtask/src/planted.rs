//! `cargo xtask planted`: puts known bugs back, one at a time, and sees that each is caught.
//!
//! The bugs are patches in `tests/planted`. Each is applied to a copy of the tree, never to the
//! tree itself; what is built there is the simulator, or the model for a bug that only the model
//! can see. An invariant that fails for no bug proves nothing, and fails the run as well.

mod copy;
mod patch;
mod search;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, bail, ensure};

use copy::Copy;
use patch::{Detector, Patch};
use search::{Found, Simulator};

/// Arguments of `planted`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The bugs to plant, by the names of their patches; all of them if none is named
    bugs: Vec<String>,
    /// How many seeds of three nodes are tried for each; half as many of five come after
    #[arg(long, default_value_t = 6_000)]
    seeds: u64,
}

/// Plants each bug and looks for it.
///
/// # Errors
/// When a patch does not apply or compile, when a bug is not caught, and when an invariant has
/// failed for none of all bugs.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let all = patch::all(&crate::root())?;
    if let Some(name) = args.bugs.iter().find(|name| !all.iter().any(|one| one.name == **name)) {
        bail!("there is no bug {name} in {}", patch::FOLDER);
    }
    let is_chosen = |patch: &&Patch| args.bugs.is_empty() || args.bugs.contains(&patch.name);
    let copy = Copy::open()?;
    let clean = copy.build("sim")?;
    let clean = copy.keep(&clean)?;
    let (mut problems, mut failed) = (Vec::new(), BTreeSet::new());
    println!("{:28} {:13} {:16} what failed", "bug", "found by", "after");
    for patch in all.iter().filter(is_chosen) {
        let found = look_for(patch, &copy, &clean, args.seeds);
        let problem = match found {
            Ok(Some(Found { by, what, after })) => {
                println!("{:28} {by:13} {after:16} {what}", patch.name);
                failed.insert(what);
                continue;
            }
            Ok(None) => format!("{} is not caught", patch.name),
            Err(error) => format!("{}: {error:#}", patch.name),
        };
        println!("{problem}");
        problems.push(problem);
    }
    if args.bugs.is_empty() {
        let invariants = search::invariants(&clean)?;
        let silent = invariants.iter().filter(|name| !failed.contains(*name));
        problems.extend(silent.map(|name| format!("the invariant {name:?} fails for no bug")));
    }
    if problems.is_empty() {
        return Ok(());
    }
    bail!("planted: {}", problems.join("; "))
}

/// Plants one bug. `None` where it is not caught.
fn look_for(patch: &Patch, copy: &Copy, clean: &Path, seeds: u64) -> anyhow::Result<Option<Found>> {
    copy.restore()?;
    copy.apply(&patch.path)?;
    match &patch.detector {
        Detector::Simulator { fails } => {
            let (planted, fails) = (&copy.build("sim")?, fails.as_deref());
            let simulator = Simulator { planted, clean, fails };
            for (nodes, seeds) in [(3, seeds), (5, seeds / 2)] {
                if let Some(found) = search::simulator(simulator, nodes, seeds)? {
                    return Ok(Some(found));
                }
            }
            Ok(None)
        }
        Detector::Model { test } => search::model(&copy.build("model")?, test),
    }
}

/// Whether every patch still applies to the tree as it is; for `verify`.
///
/// # Errors
/// When one does not: the code around its bug has changed, and the bug must be planted anew.
pub(crate) fn check() -> anyhow::Result<()> {
    let root = crate::root();
    for patch in patch::all(&root)? {
        let mut git = Command::new("git");
        git.args(["apply", "--check"]).arg(&patch.path).current_dir(&root);
        apply(&mut git, &patch.path)?;
    }
    Ok(())
}

fn apply(git: &mut Command, patch: &Path) -> anyhow::Result<()> {
    let output = git.output().context("cannot run git")?;
    ensure!(
        output.status.success(),
        "{} does not apply; plant the bug anew in the code as it is now:\n{}",
        patch.display(),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}
