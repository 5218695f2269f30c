//! Defects that are planted, to see that the model finds each; and two that it shows to be none.
//!
//! Each is planted in the drivers of `voting` and `holding` or in `quorum`, never in the code under
//! test.

use crate::bounds::{Bounds, Bug};
use crate::explore::{all, until, until_two_gates};
use crate::space::DURABLE;

fn planted(bug: Bug, ticks: u8) -> Bounds {
    Bounds { bug, ..Bounds::plain(ticks) }
}

/// One voter starts anew, and knows only what its disk has.
fn with_forgetful_voter(bug: Bug, ticks: u8) -> Bounds {
    Bounds { voter_restarts: 1, forgets_log: true, ..planted(bug, ticks) }
}

#[test]
fn lease_counted_from_receipt_is_found() {
    until_two_gates("lease from receipt", planted(Bug::DeadlineFromReceipt, 2));
}

#[test]
fn voter_without_quiet_time_is_found() {
    let bounds = Bounds { voter_restarts: 1, ..planted(Bug::NoQuietTime, 0) };
    until_two_gates("no quiet time", bounds);
}

#[test]
fn voter_that_states_before_its_quiet_time_is_over_is_found() {
    let bounds = Bounds { voter_restarts: 1, ..planted(Bug::StatesAtOnce, 0) };
    until_two_gates("states at once", bounds);
}

#[test]
#[ignore = "walks the whole space; cargo xtask model does it"]
fn voter_that_only_promises_before_its_quiet_time_is_over_does_no_harm() {
    // What protects is that it states nothing: promises it makes now it remembers, and those of its
    // earlier life end before it states.
    all("promises at once", with_forgetful_voter(Bug::PromisesAtOnce, 3));
}

#[test]
fn voter_that_forgets_its_refusals_is_found() {
    until_two_gates("forgets refusals", with_forgetful_voter(Bug::ForgetsRefusals, 2));
}

#[test]
fn voter_that_ignores_the_settings_of_the_holder_is_found() {
    let bounds = Bounds { settings: 1, ..planted(Bug::MixedSettings, 2) };
    until_two_gates("mixed settings", bounds);
}

#[test]
fn gate_without_closed_epoch_is_found() {
    let bounds = Bounds { may_close: true, is_thread_late: true, ..planted(Bug::NoClosedEpoch, 0) };
    until_two_gates("no closed epoch", bounds);
}

#[test]
fn two_voters_that_join_at_once_are_found() {
    let bounds = Bounds { memberships: 1, ..planted(Bug::TwoVotersAtOnce, 0) };
    until_two_gates("two voters at once", bounds);
}

#[test]
#[ignore = "takes a minute without optimisation; cargo xtask model does it"]
fn node_that_counts_at_once_in_a_later_membership_is_found() {
    let bounds = Bounds { memberships: 1, ..planted(Bug::CountsAtOnce, 1) };
    until_two_gates("counts at once", bounds);
}

#[test]
fn release_stated_before_promises_have_run_out_is_found() {
    until_two_gates("states early", planted(Bug::StatesBeforePromisesEnd, 0));
}

#[test]
fn release_stated_before_it_is_on_disk_is_found() {
    let bounds = with_forgetful_voter(Bug::StatesBeforeDurable, 2);
    until("states before durable", DURABLE, bounds);
    until_two_gates("states before durable", bounds);
}

#[test]
fn voter_whose_clock_was_read_before_the_request_came_is_found() {
    until_two_gates("stale clock", planted(Bug::StaleClock, 1));
}

#[test]
#[ignore = "takes minutes without optimisation; cargo xtask model does it"]
fn voter_that_starts_by_a_state_older_than_the_longest_lease_is_found() {
    // No bug of the code: `Station::new` asks for a state at least as new as any that an earlier
    // life went by. This is why.
    let bounds = Bounds { settings: 1, ..with_forgetful_voter(Bug::None, 2) };
    until_two_gates("older state", bounds);
}

#[test]
fn promise_to_an_earlier_life_of_the_holder_is_found() {
    let bounds = Bounds { holder_reboots: 1, ..planted(Bug::AnyLife, 2) };
    until_two_gates("any life", bounds);
}
