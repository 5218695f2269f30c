//! Real clusters on loopback: their PostgreSQL lives and dies under clients that know what they
//! were told, and pgx goes on.

mod commands;
mod http;
mod nodes;
mod operators;
mod pcp;
mod process;
mod strict;
mod told;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::OnceLock;

use libtest_mimic::{Arguments, Trial};
use pgx_tests::lab::build;
use pgx_tests::skip::{Requirement, trial};

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // Elections are timed, and two cores have room for one cluster.
    arguments.test_threads = Some(1);
    let root = |name, test: fn() -> anyhow::Result<()>| -> Trial {
        trial(name, &[Requirement::Root], test)
    };
    let trials = vec![
        root("nothing_is_lost_whatever_ends_of_a_primary", process::ends),
        root("directory_that_is_removed_or_promoted_by_hand_is_made_anew", process::astray),
        root("directory_that_is_misplaced_is_missed_and_not_given_up", process::misplaced),
        root("standbys_that_are_all_removed_are_made_anew", process::wiped),
        root("nobody_is_promoted_who_may_lack_a_commit", process::lost),
        root("commits_that_were_given_up_are_kept_where_they_are", process::given_up),
        root("postgresql_that_runs_is_taken_over_where_it_is", process::taken_over),
        root("postgresql_goes_on_while_pgx_starts_again", process::restarts),
        root("hook_that_never_ends_keeps_no_failover_waiting", operators::hooks),
        root("no_client_sees_an_error_when_operators_change_the_primary", operators::switched),
        root("commit_that_is_cancelled_as_it_waits_is_not_told_as_done", operators::cancelled),
        root("nobody_lowers_what_a_strict_cluster_needs_to_lose_nothing", strict::kept),
        root("each_fault_is_told_with_its_cause_and_the_next_step", told::troubles),
        root("each_change_of_primary_leaves_a_report_on_every_node", told::history),
        root("load_balancers_and_programs_of_other_hosts_are_answered_by_http", http::asked),
        root("node_that_is_drained_serves_nobody_until_it_is_attached", nodes::spared),
        root("standbys_are_restarted_and_copied_anew_when_operators_say_so", nodes::renewed),
        root("each_command_is_answered_as_documented_whatever_is_missing", commands::answered),
        root("transaction_that_does_not_end_stops_a_switchover", operators::stuck),
        root("scripts_made_for_pgpool_go_on_by_its_commands_names", pcp::scripts),
        trial("sample_of_pgpool_is_imported", &[Requirement::Pgpool], pcp::imported),
        trial("pcp_commands_take_what_those_of_pgpool_take", &[Requirement::Pgpool], pcp::alike),
    ];
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// The binary under test, built once.
fn binary() -> &'static PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| build::pgx(false).expect("pgx must build"))
}
