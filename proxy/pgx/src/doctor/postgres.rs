//! Whether the agent can ask this host's PostgreSQL a query, without which one that hangs there is
//! not noticed.

use super::{Finding, State};
use crate::config::{Control, Postgres};
use crate::controller::{Verdict, ask_once, place};
use crate::postgres::Abort;
use crate::postgres::hands::Hands;

/// Asks it once.
pub(super) fn examine(postgres: &Postgres) -> Finding {
    finding(postgres, ask_once(postgres))
}

/// Whether the disks have room, and whether archiving works, and would after a change of primary;
/// of that nothing where it cannot be asked.
pub(super) fn troubles(postgres: &Postgres, control: &Control) -> Vec<Finding> {
    let Ok(place) = place(postgres, control.node) else { return Vec::new() };
    let hands = Hands::new(place, Abort::default());
    let disks = hands.scarce_disks();
    let disks = trouble("disks", &disks, "they have room", "make room, or give them more");
    let archiving = hands.archive_troubles().ok().map(|found| {
        let well = "nothing is wrong with it, or nobody archives";
        trouble("archiving", &found, well, "see docs/POSTGRES.md, Archiving")
    });
    [disks].into_iter().chain(archiving).collect()
}

fn trouble(name: &str, troubles: &[String], well: &str, next_step: &str) -> Finding {
    let name = name.to_owned();
    if troubles.is_empty() {
        let next_step = String::new();
        return Finding { name, state: State::Good, found: well.to_owned(), next_step };
    }
    let next_step = next_step.to_owned();
    Finding { name, state: State::Reduced, found: troubles.join("; "), next_step }
}

fn finding(postgres: &Postgres, verdict: Verdict) -> Finding {
    let directory = postgres.data_directory.display();
    let (state, found, next_step) = match verdict {
        Verdict::Answers => (State::Good, "answers a query".to_owned(), ""),
        Verdict::Stopped => (
            State::Reduced,
            format!("no postmaster runs in {directory}"),
            "check postgres.data_directory, or start PostgreSQL",
        ),
        Verdict::Refuses(text) => (
            State::Reduced,
            format!("lets {:?} into {:?} not: {text}", postgres.user, postgres.database),
            "pgx notices only a server that accepts no connection or whose disk hangs; let the \
             role in by pg_hba.conf, or see postgres.user, .database and .password_file",
        ),
        Verdict::Silent(text) => (
            State::Broken,
            format!("does not answer: {text}"),
            "a running node would take it for hung; see PostgreSQL's own log",
        ),
    };
    let next_step = next_step.to_owned();
    Finding { name: "PostgreSQL".to_owned(), state, found, next_step }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusal_is_a_reduction_with_a_way_out_and_silence_is_trouble() {
        let postgres = Postgres { user: "watcher".to_owned(), ..Postgres::of("/".as_ref()) };
        let refused = finding(&postgres, Verdict::Refuses("no".to_owned()));
        assert_eq!(refused.state, State::Reduced);
        assert!(refused.found.contains("watcher") && refused.next_step.contains("password_file"));
        assert_eq!(finding(&postgres, Verdict::Silent(String::new())).state, State::Broken);
    }
}
