//! What must hold at every moment. Each invariant has a file and a name; the first that fails ends
//! the run. They look at the world from outside and use none of the rules that they check.

mod commits_kept;
mod epochs_grow;
mod given_up;
mod goes_on;
mod no_stale_reads;
mod one_address;
mod one_primary;
mod refusals;
mod waits_end;

use crate::world::World;

/// The names, for the table of planted bugs.
pub(crate) const NAMES: [&str; 9] = [
    one_primary::NAME,
    one_address::NAME,
    no_stale_reads::NAME,
    commits_kept::NAME,
    epochs_grow::NAME,
    given_up::NAME,
    goes_on::NAME,
    waits_end::NAME,
    refusals::NAME,
];

/// An invariant that does not hold.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub(crate) invariant: &'static str,
    pub(crate) what: String,
}

/// What the invariants remember.
#[derive(Default)]
pub(crate) struct Checks {
    pub(crate) failure: Option<Failure>,
    pub(crate) commits_before_healing: u64,
    commits: commits_kept::Commits,
    epochs: epochs_grow::Epochs,
    given_up: given_up::GivenUp,
    stated: refusals::Stated,
    waits: waits_end::Waits,
}

impl World {
    /// To be called after each event.
    pub(crate) fn check(&mut self) {
        self.check_one_primary();
        self.check_one_address();
        self.check_no_stale_reads();
        self.check_waits_end();
        self.check_goes_on();
        self.check_given_up();
    }

    pub(crate) fn fail(&mut self, invariant: &'static str, what: String) {
        if self.checks.failure.is_none() {
            self.note(&format!("INVARIANT {invariant}: {what}"));
            self.checks.failure = Some(Failure { invariant, what });
        }
    }
}
