//! `cargo xtask test`: every test, those that need nothing first.
//!
//! Tests that need root or a kernel feature report themselves as ignored, with the reason, where
//! it is missing; the rest of them runs everywhere.

use std::path::Path;
use std::process::Command;

use crate::{ebpf, execute, run_cargo, setup};

/// Arguments of `test`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Builds the BPF objects from source too, and runs their tests on both
    #[arg(long)]
    fresh_objects: bool,
}

/// Runs the tests.
///
/// # Errors
/// When one fails, or something they need cannot be installed.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    if nix::unistd::geteuid().is_root() {
        setup::ensure(setup::LAB)?;
        setup::ensure(setup::ALERTS)?;
    }
    step("unit tests, and what is done to a real PostgreSQL");
    run_cargo(&["test", "--workspace", "--exclude", "pgx-tests"])?;
    run_cargo(&["test", "--package", "pgx-tests", "--lib"])?;

    alerts()?;

    step("wire tests");
    run_cargo(&["test", "--package", "pgx-tests", "--test", "wire", "--test", "peer"])?;

    step("simulated clusters");
    run_cargo(&["test", "--package", "pgx-tests", "--test", "sim"])?;

    step("clusters of real nodes on loopback");
    run_cargo(&["test", "--package", "pgx-tests", "--test", "control"])?;
    step("the search for lost commits, on what it has to find");
    run_cargo(&["test", "--package", "pgx-tests", "--test", "checker"])?;
    step("failovers and switchovers of real clusters on loopback");
    run_cargo(&["test", "--package", "pgx-tests", "--test", "failover"])?;
    step("a pool before a real PostgreSQL");
    run_cargo(&["test", "--package", "pgx-tests", "--test", "pool"])?;
    step("logins by libpq, at a pool before a real PostgreSQL");
    run_cargo(&["test", "--package", "pgx-tests", "--test", "login"])?;
    step("the console, beside pgbouncer");
    run_cargo(&["test", "--package", "pgx-tests", "--test", "console"])?;
    step("starts, stops and upgrades of pgx");
    run_cargo(&["test", "--package", "pgx-tests", "--test", "serve"])?;
    step("HBA files as a real PostgreSQL reads them");
    run_cargo(&["test", "--package", "pgx-tests", "--test", "hba"])?;
    step("BPF tests on the committed objects");
    run_cargo(&["test", "--package", "pgx-tests", "--test", "bpf"])?;
    if args.fresh_objects {
        step("BPF tests on objects built from source");
        let fresh = crate::root().join("target/fresh-objects");
        ebpf::build(&fresh)?;
        bpf_tests_on(&fresh)?;
    }

    step("the fence around a real PostgreSQL");
    run_cargo(&["test", "--package", "pgx-tests", "--test", "fence"])?;

    step("the gate of PostgreSQL's port, and the address, under leases");
    run_cargo(&["test", "--package", "pgx-tests", "--test", "gate"])?;

    step("lab tests");
    run_cargo(&["test", "--package", "pgx-tests", "--test", "lab"])?;
    step("hosts of a cluster that fail");
    run_cargo(&["test", "--package", "pgx-tests", "--test", "chaos"])?;
    step("end-to-end tests");
    run_cargo(&["test", "--package", "pgx-tests", "--test", "e2e"])
}

/// Has Prometheus' tool read the alerts, and see each fire on series that are made up for it.
///
/// # Errors
/// When one cannot be read, or does not fire when it is to.
pub(crate) fn alerts() -> anyhow::Result<()> {
    let Some(promtool) = setup::find_program(setup::PROMTOOL) else {
        step("alerts: left out, as promtool is not here");
        return Ok(());
    };
    step("alerts, as Prometheus reads them");
    let rules = crate::root().join("observability");
    for (what, file) in [("check", "alerts.yml"), ("test", "alerts-test.yml")] {
        execute(Command::new(&promtool).args([what, "rules"]).arg(rules.join(file)))?;
    }
    Ok(())
}

fn bpf_tests_on(objects: &Path) -> anyhow::Result<()> {
    let mut tests = Command::new(crate::cargo());
    tests.args(["test", "--package", "pgx-tests", "--test", "bpf"]);
    execute(tests.env("PGX_BPF_OBJECTS", objects))
}

fn step(name: &str) {
    eprintln!("==> {name}");
}
