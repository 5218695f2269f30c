//! The code as it is: within these bounds nothing that must not happen does.
//!
//! The small runs take seconds without optimisation; the large ones are for `cargo xtask model`.
//! `docs/MODEL.md` has their figures.

use crate::bounds::Bounds;
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
