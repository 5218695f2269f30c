//! How clients log in through a pool: methods and encryption on both legs, by libpq and against a
//! real PostgreSQL.

mod encryption;
mod guesses;
mod lab;
mod methods;
mod metrics;
mod papers;
mod peer;
mod reload;

use std::process::ExitCode;

use libtest_mimic::Arguments;
use pgx_tests::skip::{Requirement, trial};

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // Each has its own PostgreSQL.
    arguments.test_threads = Some(1);
    let root = &[Requirement::Root];
    let trials = vec![
        trial("each_method_of_clients_goes_with_each_of_servers", root, methods::matrix),
        trial("who_is_refused_reads_the_words_of_postgresql", root, methods::refusals),
        trial("flood_of_guesses_keeps_nobody_out_who_knows_the_password", root, guesses::flood),
        trial("configuration_is_read_again_under_load", root, reload::under_load),
        trial("each_mode_of_each_leg_is_as_it_says", root, encryption::modes),
        trial("large_results_and_copies_pass_encrypted", root, encryption::bulk),
        trial("cancel_passes_encrypted", root, encryption::cancel),
        trial("failures_are_counted_by_their_reasons", root, metrics::failures),
        trial("direct_handshakes_need_the_protocols_name", root, encryption::direct),
        trial("system_says_who_comes_by_a_unix_socket", root, peer::peers),
        trial("files_of_secrets_that_others_may_read_are_refused", root, peer::exposed),
    ];
    libtest_mimic::run(&arguments, trials).exit_code()
}
