//! What became of a transaction, by what its client was told: pure, and when unsure, in doubt.

use pgx_wire::backend::Status;

use super::session::Answer;

/// Whether a transaction happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It did, by what the client was told.
    Acknowledged,
    /// Nobody told.
    InDoubt,
    /// It did not, by what the client was told.
    Refused,
}

/// The fate of a transaction by the answer to what would commit it, which says `tag` if it did.
pub(super) fn of_commit(answer: &Answer, tag: &str) -> Fate {
    match answer {
        answer if answer.is(tag, Status::Idle) => Fate::Acknowledged,
        Answer::Done { tag, .. } if tag == "ROLLBACK" => Fate::Refused,
        Answer::Error { state, .. } if rules_out(state) => Fate::Refused,
        Answer::Done { .. } | Answer::Error { .. } | Answer::Lost(_) | Answer::Silence => {
            Fate::InDoubt
        }
    }
}

/// Whether an error is a promise that the transaction did not happen, also if it answers what would
/// have committed it.
fn rules_out(state: &str) -> bool {
    match state {
        // The row is there already, so that the statement ran before; and, by its name, unknown.
        "23505" | "40003" => false,
        // Nothing had been done, by PostgreSQL and by pgx: no server was reached, none was free in
        // time, none served before the end of what may be waited, or there are too many clients.
        "08001" | "08006" | "57P03" | "53300" => true,
        // Data, constraints, states of transactions, roll-backs, names and rights.
        _ => ["22", "23", "25", "40", "42"].iter().any(|class| state.starts_with(class)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn done(tag: &str, status: Status) -> Answer {
        Answer::Done { tag: tag.to_owned(), value: None, status }
    }

    fn error(state: &str) -> Answer {
        let state = state.to_owned();
        Answer::Error { state, message: String::new(), status: Some(Status::Idle) }
    }

    #[test]
    fn commit_is_acknowledged_only_by_its_tag_in_an_idle_session() {
        let fate = |answer| of_commit(&answer, "COMMIT");
        assert_eq!(fate(done("COMMIT", Status::Idle)), Fate::Acknowledged);
        assert_eq!(fate(done("ROLLBACK", Status::Idle)), Fate::Refused);
        assert_eq!(fate(done("COMMIT", Status::Block)), Fate::InDoubt);
        assert_eq!(fate(done("INSERT 0 1", Status::Idle)), Fate::InDoubt);
        assert_eq!(fate(Answer::Silence), Fate::InDoubt);
    }

    #[test]
    fn errors_that_promise_nothing_leave_a_commit_in_doubt() {
        for state in ["08007", "57P01", "57P02", "40003", "23505", "08P01", "57014", "XX000", ""] {
            assert_eq!(of_commit(&error(state), "COMMIT"), Fate::InDoubt, "{state}");
        }
        for state in ["40001", "25P02", "25006", "42P01", "08006", "57P03", "40P01"] {
            assert_eq!(of_commit(&error(state), "COMMIT"), Fate::Refused, "{state}");
        }
    }
}
