//! The fence around a real PostgreSQL in lab hosts, with a test writer in the place of leases.
//!
//! All tests share one lab and run one after the other. What happens inside of a host is done by
//! this program, started there with a verb of `inside`.

mod capture;
mod deadline;
mod inside;
mod operate;
mod pins;

use std::process::ExitCode;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context, ensure};
use libtest_mimic::{Arguments, Trial};
use pgx_tests::lab::{Lab, Spec, build, helper};
use pgx_tests::skip::{Requirement, trial};

/// How long anything in the lab may take on a busy machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);
const NAME: &str = "fence";

type Test = fn(&Lab) -> anyhow::Result<()>;

const TESTS: &[(&str, Test)] = &[
    ("no_data_leaves_after_the_deadline_and_active_clients_are_reset", deadline::under_load),
    ("killed_loader_leaves_a_fence_that_only_a_newer_epoch_opens", pins::loader_killed),
    ("nothing_answers_once_the_fence_is_shut_though_postgresql_came_first", pins::late_fence),
    ("nothing_answers_when_postgresql_starts_behind_a_shut_fence", pins::boot_order),
    ("shutting_again_ends_no_lease_that_is_held", pins::idempotent),
    ("operators_fence_is_obeyed_without_a_quorum", operate::operators),
    ("status_tells_where_the_fence_stands_and_what_is_lost_without", operate::ladder),
];

fn main() -> anyhow::Result<ExitCode> {
    if helper::dispatch()? || inside::dispatch()? {
        return Ok(ExitCode::SUCCESS);
    }
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    let lab = Arc::new(OnceLock::new());
    let needs = [Requirement::Lab, Requirement::Bpf];
    let trials: Vec<Trial> = TESTS
        .iter()
        .map(|&(name, test)| {
            let lab = Arc::clone(&lab);
            trial(name, &needs, move || test(shared(&lab)?))
        })
        .collect();
    let conclusion = libtest_mimic::run(&arguments, trials);
    if lab.get().is_some() {
        Lab::down(NAME)?;
    }
    Ok(conclusion.exit_code())
}

fn shared(lab: &OnceLock<Lab>) -> anyhow::Result<&Lab> {
    if lab.get().is_none() {
        let pgx = Some(build::pgx(false)?);
        // A run that was killed may have left one.
        Lab::down(NAME)?;
        let up = Lab::up(&Spec { data: 1, pgx, ..Spec::new(NAME) })?;
        up.stop_pgx("n1")?;
        let _ = lab.set(up);
    }
    lab.get().context("the lab was brought up above")
}

/// Runs `pgx` with these words in host `n1`.
pub(crate) fn pgx(lab: &Lab, words: &[&str]) -> anyhow::Result<std::process::Output> {
    let path = lab.spec().pgx.as_ref().context("the lab runs pgx")?.display().to_string();
    lab.host("n1")?.exec(&[&[&*path], words].concat())
}

/// Every address of `n1`'s PostgreSQL, with the host from which it is tried.
pub(crate) const ADDRESSES: [(&str, &str); 4] =
    [("client", "10.77.0.11"), ("client", "fd77::11"), ("n1", "127.0.0.1"), ("n1", "::1")];

/// Whether PostgreSQL answers a query there; an answer that is no refusal is an error.
pub(crate) fn answers(lab: &Lab, from: &str, address: &str) -> anyhow::Result<bool> {
    let mut command = lab.host(from)?.command(&[
        "timeout", "10", "psql", "-XAtq", "-h", address, "-p", "5432", "-U", "app", "-d", "app",
        "-c", "select 1",
    ])?;
    let output = command.env("PGPASSWORD", lab.password()?).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        let is_told = said.contains("Connection refused") || said.contains("reset by peer");
        ensure!(is_told, "{from} to {address}: {said} {:?}", output.status);
    }
    Ok(output.status.success())
}

/// Checks that it answers everywhere, or nowhere.
pub(crate) fn ensure_answers(lab: &Lab, expected: bool, when: &str) -> anyhow::Result<()> {
    for (from, address) in ADDRESSES {
        let found = answers(lab, from, address)?;
        ensure!(found == expected, "{when}: from {from} at {address} it answers: {found}");
    }
    Ok(())
}

/// Removes what a test before left: pgx, the fence and its words.
pub(crate) fn fresh(lab: &Lab) -> anyhow::Result<()> {
    lab.stop_pgx("n1")?;
    inside::run(lab, "n1", &["remove"])?;
    ensure_answers(lab, true, "without a fence")
}
