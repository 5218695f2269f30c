//! Every command of the README: `cargo xtask …`.
//!
//! One file per command; this one only parses the line and reports the error. Commands that change
//! the tree (`fix`, `ebpf`) are never run by those that check it (`verify`, `test`).
#![forbid(unsafe_code)]

mod bench;
mod chaos;
mod dashboard;
mod demo;
mod ebpf;
mod failover_bench;
mod fuzz;
mod gate;
mod lab;
mod model;
mod pgbench;
mod planted;
mod setup;
mod sim;
mod spread;
mod test;
mod tidy;
mod verify;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, bail};
use clap::{Parser, Subcommand};

/// The tasks of the pgx workspace.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", disable_help_subcommand = true)]
struct Task {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Shows the main job: pgbench through the VIP and pgx, beside a direct connection
    Demo(demo::Args),
    /// Sees that no panel of the dashboard is empty and no alert fires where a cluster is well
    Dashboard(dashboard::Args),
    /// Measures what the documentation states
    Bench(bench::Args),
    /// Measures how long nobody can write when the primary changes, and looks for lost commits
    FailoverBench(failover_bench::Args),
    /// Lets hosts of the primary and of the address fail, and listens to all that leaves them
    Gate(gate::Args),
    /// Tries random sequences of faults on a cluster in a lab; prints how to repeat one that fails
    Chaos(chaos::Args),
    /// Passes the tests: unit, BPF, lab and end to end
    Test(test::Args),
    /// Simulates whole clusters with virtual time; prints how to repeat a run that fails
    Sim(sim::Args),
    /// Checks formatting, lints, the style guide and the committed BPF objects; edits nothing
    Verify,
    /// Mends what a program can mend: formatting and generated documentation
    Fix,
    /// Checks what the style guide asks and a program can check
    Tidy(tidy::Args),
    /// Builds the BPF objects from source, ready to be committed
    Ebpf(ebpf::Args),
    /// Feeds what reads packets and messages with whatever bytes a fuzzer makes up
    Fuzz(fuzz::Args),
    /// Walks every order of events of leases, within bounds
    Model,
    /// Puts known bugs back, one at a time, and sees that each is caught
    Planted(planted::Args),
    /// Runs hosts in miniature: network namespaces with their own PostgreSQL and pgx
    Lab(lab::Args),
}

fn main() -> ExitCode {
    match task() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn task() -> anyhow::Result<()> {
    // Inside the hosts of a lab this program is their init, among other things.
    if pgx_tests::lab::helper::dispatch()? {
        return Ok(());
    }
    match Task::parse().verb {
        Verb::Demo(args) => demo::run(&args),
        Verb::Dashboard(args) => dashboard::run(&args),
        Verb::Bench(args) => bench::run(&args),
        Verb::FailoverBench(args) => failover_bench::run(&args),
        Verb::Gate(args) => gate::run(&args),
        Verb::Chaos(args) => chaos::run(&args),
        Verb::Test(args) => test::run(&args),
        Verb::Sim(args) => sim::run(&args),
        Verb::Verify => verify::verify(),
        Verb::Fix => verify::fix(),
        Verb::Tidy(args) => tidy::run(&args),
        Verb::Ebpf(args) => ebpf::run(&args),
        Verb::Fuzz(args) => fuzz::run(&args),
        Verb::Model => model::run(),
        Verb::Planted(args) => planted::run(&args),
        Verb::Lab(args) => lab::run(args),
    }
}

/// The top of the repository.
fn root() -> PathBuf {
    let member = Path::new(env!("CARGO_MANIFEST_DIR"));
    member.parent().unwrap_or(member).to_owned()
}

/// The cargo that runs us.
fn cargo() -> OsString {
    std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

/// Runs a command at the top of the repository, its output shown as it comes.
fn execute(command: &mut Command) -> anyhow::Result<()> {
    let line = format!("{command:?}");
    let status = command.current_dir(root()).status();
    let status = status.with_context(|| format!("cannot run {line}"))?;
    if !status.success() {
        bail!("{line} failed ({status})");
    }
    Ok(())
}

/// Runs cargo with these arguments.
fn run_cargo(args: &[&str]) -> anyhow::Result<()> {
    execute(Command::new(cargo()).args(args))
}
