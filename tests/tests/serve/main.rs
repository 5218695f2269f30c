//! Starts, stops and sockets of a real pgx in front of a real PostgreSQL: what an unclean stop
//! leaves, who is in the way, and clients that come in by Unix sockets.

mod claims;
mod takeover;
mod unix;

use std::net::TcpListener;
use std::process::{Command, ExitCode, Output};

use anyhow::Context;
use libtest_mimic::Arguments;
use pgx_tests::skip::{Requirement, trial};

/// Each engine that a pool may run on; "auto" is the best of this machine.
pub(crate) const ENGINES: [&str; 2] = ["auto", "epoll"];

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // Each has its own PostgreSQL.
    arguments.test_threads = Some(1);
    let root = &[Requirement::Root];
    let trials = vec![
        trial("clients_come_in_by_unix_sockets_in_every_mode", root, unix::every_mode),
        trial("rights_of_unix_sockets_are_as_configured", root, unix::rights),
        trial("what_a_killed_pgx_leaves_never_stops_the_next_start", root, claims::stale),
        trial("living_pgx_is_named_by_its_process_wherever_it_is_met", root, claims::live),
        trial("postgresql_and_pgx_keep_off_each_others_sockets", root, claims::postgresql),
        trial("no_client_notices_that_another_process_takes_over", root, takeover::under_load),
        trial("queries_of_an_old_process_are_cancelled_through_the_new", root, takeover::cancels),
        trial("process_that_does_not_get_ready_changes_nothing", root, takeover::given_up),
        trial("death_of_either_process_leaves_a_service_or_a_clean_start", root, takeover::killed),
        trial("what_cannot_be_taken_over_is_refused", root, takeover::refused),
    ];
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// Runs a text by psql.
pub(crate) fn psql(place: &str, text: &str) -> anyhow::Result<Output> {
    Command::new("psql")
        .args(["--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--command", text, place])
        .output()
        .context("cannot run psql")
}

/// A port that nobody has, below those that the kernel gives to others.
pub(crate) fn free_port() -> anyhow::Result<u16> {
    let first = 20_000 + u16::try_from(std::process::id() % 10_000)?;
    let mut all = (first..30_000).chain(20_000..first);
    all.find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok()).context("no port is free")
}
