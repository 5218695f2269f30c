//! The console: what clients of the database `pgx` see and do, beside a running PgBouncer.

mod commands;
mod drivers;
mod place;
mod tables;

use std::process::ExitCode;

use libtest_mimic::Arguments;
use pgx_tests::skip::{Requirement, trial};

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // Each has its own PostgreSQL.
    arguments.test_threads = Some(1);
    let (root, peer) = (&[Requirement::Root], &[Requirement::Pgbouncer]);
    let trials = vec![
        trial("each_table_has_the_columns_of_pgbouncer", peer, tables::columns),
        trial("tables_tell_what_is_there", root, tables::contents),
        trial("commands_are_answered_as_by_pgbouncer", peer, commands::answers),
        trial("commands_have_their_effect", root, commands::effects),
        trial("only_admins_change_anything", root, commands::rights),
        trial("settings_change_until_the_file_is_read_again", root, commands::settings),
        trial("ctl_shows_what_the_console_does", root, tables::by_ctl),
        trial("shutdown_ends_pgx", root, commands::shutdown),
        trial("drivers_prepare_and_pipeline_commands", root, drivers::extended),
        trial("answers_to_one_flight_are_bounded", root, drivers::floods),
        trial("settings_that_two_change_at_once_are_both_changed", root, commands::rivals),
    ];
    libtest_mimic::run(&arguments, trials).exit_code()
}
