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
fn hand_over_is_safe_in_small_where_no_step_is_hastened() {
    all("small, unreduced", Bounds { asks: [1, 0, 0], epochs: 1, ..unreduced(1) });
}

#[test]
fn restart_of_a_voter_is_safe_in_small() {
    all("small restart", Bounds { voter_restarts: 1, forgets_log: true, ..Bounds::plain(1) });
}

#[test]
fn closing_is_safe_in_small() {
    all("small closing", Bounds { may_close: true, is_thread_late: true, ..Bounds::plain(0) });
}

fn unreduced(ticks: u8) -> Bounds {
    Bounds { is_reduced: false, ..Bounds::plain(ticks) }
}
