//! `cargo xtask sim`: simulates whole clusters, one run for each seed.
//!
//! The simulator is a test target, built with optimisation here; it takes the arguments.

use std::process::Command;

use crate::{cargo, execute};

/// Arguments of `sim`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// How many seeds to run
    #[arg(long, default_value_t = 100)]
    seeds: u64,
    /// The first seed
    #[arg(long, default_value_t = 1)]
    first: u64,
    /// Nodes of each cluster, 3 or 5; by default some of each
    #[arg(long)]
    nodes: Option<u64>,
    /// Prints what happened in each run
    #[arg(long)]
    story: bool,
}

/// Runs the simulation.
///
/// # Errors
/// When an invariant does not hold; the run is printed, and how to repeat it.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let mut sim = Command::new(cargo());
    sim.args(["test", "--quiet", "--release", "--package", "pgx-tests", "--test", "sim", "--"]);
    sim.args(["--seeds", &args.seeds.to_string(), "--first", &args.first.to_string()]);
    if let Some(nodes) = args.nodes {
        sim.args(["--nodes", &nodes.to_string()]);
    }
    if args.story {
        sim.arg("--story");
    }
    execute(&mut sim)
}
