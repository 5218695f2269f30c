//! The gate of PostgreSQL's port in a real cluster: whatever hangs or dies on the primary's host,
//! nothing of PostgreSQL leaves that host once its lease is over, and nobody else answers for an
//! address before its holder is silent.

use std::process::ExitCode;
use std::sync::Arc;

use libtest_mimic::Arguments;
use pgx_tests::chaos::{Chaos, Shared};
use pgx_tests::gate::{self, CASES};
use pgx_tests::lab::helper::dispatch;
use pgx_tests::skip::{Requirement, trial};

const NAME: &str = "gate-test";

type Run = dyn Fn(&Chaos) -> anyhow::Result<()> + Send;

fn main() -> ExitCode {
    match dispatch() {
        Ok(false) => {}
        Ok(true) => return ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            return ExitCode::FAILURE;
        }
    }
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    let shared = Arc::new(Shared::new(NAME, None, true));
    let in_lab = |title: String, run: Box<Run>| {
        let (shared, name) = (Arc::clone(&shared), title.clone());
        trial(&title, &[Requirement::Lab, Requirement::Bpf], move || shared.run(&name, run))
    };
    let readers = "address_of_readers_goes_by_priority_and_leads_to_standbys".to_owned();
    let mut trials = vec![in_lab(readers, Box::new(gate::readers))];
    trials.extend(CASES.iter().map(|case| {
        let title = case.title();
        let run = move |chaos: &Chaos| {
            case.run(chaos, 1).map(|found| eprintln!("{}: {found:?}", case.title()))
        };
        in_lab(title, Box::new(run))
    }));
    let conclusion = libtest_mimic::run(&arguments, trials);
    shared.down();
    conclusion.exit_code()
}
