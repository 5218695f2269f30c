//! What pgx does to a PostgreSQL, done to real ones on loopback.

#[allow(dead_code, unused_imports, reason = "the module under test, with tests of its own")]
#[path = "../../src/postgres/mod.rs"]
mod postgres;

mod adopt;
mod backup;
mod crash;
mod elsewhere;
mod limits;
mod measure;
mod nodes;
mod rebuild;
mod replicate;
mod single;
mod spaces;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};
use pgx_tests::skip::{Requirement, trial};

type Test = fn() -> anyhow::Result<()>;

fn main() -> ExitCode {
    if let Some(done) = crash::work().or_else(measure::measure) {
        return if done.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    let all = [
        single::tests(),
        replicate::tests(),
        rebuild::tests(),
        backup::tests(),
        elsewhere::tests(),
        crash::tests(),
        adopt::tests(),
        spaces::tests(),
    ];
    let make = |(name, test): &(&str, Test)| -> Trial { trial(name, &[Requirement::Root], *test) };
    let trials = all.iter().flat_map(|tests| tests.iter().map(make)).collect();
    let mut arguments = Arguments::from_args();
    // Each test runs several servers.
    arguments.test_threads = arguments.test_threads.or(Some(2));
    libtest_mimic::run(&arguments, trials).exit_code()
}
