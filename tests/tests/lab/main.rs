//! Tests of the lab itself: that each fault has its effect and heals, and that nothing is left.
//!
//! Labs need root. Tests run one after another, because they share two cores and, where that
//! saves time, one lab; see `shared`.

mod life;
mod network;
mod services;
mod shared;
mod traces;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};
use pgx_tests::lab::helper;
use pgx_tests::skip::{self, Requirement};

fn main() -> anyhow::Result<ExitCode> {
    if helper::dispatch()? {
        return Ok(ExitCode::SUCCESS);
    }
    life::crash_if_asked();
    let mut args = Arguments::from_args();
    args.test_threads = Some(1);
    let mut trials = life::trials();
    trials.extend(network::trials());
    trials.extend(services::trials());
    let conclusion = libtest_mimic::run(&args, trials);
    shared::down()?;
    Ok(conclusion.exit_code())
}

/// A test that is reported as skipped where a lab cannot be.
fn trial(name: &str, test: fn() -> anyhow::Result<()>) -> Trial {
    skip::trial(name, &[Requirement::Lab], test)
}
