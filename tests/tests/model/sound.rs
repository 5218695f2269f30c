//! The code as it is: within these bounds nothing that must not happen does.
//!
//! The small runs take seconds without optimisation; the large ones are for `cargo xtask model`.
//! `docs/MODEL.md` has their figures.

use crate::bounds::{Bounds, Clocks};
use crate::explore::all;

#[test]
fn hand_over_is_safe_in_small() {
    all("small hand-over", Bounds::plain(2));
}

#[test]
fn restart_of_a_voter_is_safe_in_small() {
    all("small restart", Bounds { voter_restarts: 1, forgets_log: true, ..Bounds::plain(1) });
}

#[test]
fn closing_is_safe_in_small() {
    all("small closing", Bounds { may_close: true, is_thread_late: true, ..Bounds::plain(0) });
}

#[test]
fn boot_of_a_holders_host_is_safe_in_small() {
    all("small boot", Bounds { holder_reboots: 1, ..Bounds::plain(1) });
}
#[test]
#[ignore = "walks a large space; cargo xtask model does it"]
fn hand_over_with_renewals_is_safe() {
    all("hand-over with renewals", Bounds { asks: [2, 1, 0], ..Bounds::plain(3) });
}

#[test]
#[ignore = "walks a large space; cargo xtask model does it"]
fn hand_over_with_any_clocks_is_safe() {
    all("hand-over with any clocks", Bounds { clocks: Clocks::Steady, ..Bounds::plain(2) });
}

#[test]
#[ignore = "walks a large space; cargo xtask model does it"]
fn hand_over_with_changing_clocks_is_safe() {
    all("hand-over with changing clocks", Bounds { clocks: Clocks::Free, ..Bounds::plain(1) });
}

#[test]
#[ignore = "walks a large space; cargo xtask model does it"]
fn restart_of_a_voter_is_safe() {
    all("restart of a voter", Bounds { voter_restarts: 1, ..Bounds::plain(3) });
}

#[test]
#[ignore = "walks a large space; cargo xtask model does it"]
fn boot_of_a_holders_host_is_safe() {
    all("boot of a holder's host", Bounds { holder_reboots: 1, ..Bounds::plain(2) });
}

#[test]
#[ignore = "walks a large space; cargo xtask model does it"]
fn change_of_settings_is_safe() {
    all("change of settings", Bounds { settings: 1, ..Bounds::plain(2) });
}

#[test]
#[ignore = "walks a large space; cargo xtask model does it"]
fn change_of_membership_is_safe() {
    all("change of membership", Bounds { memberships: 1, ..Bounds::plain(1) });
}
