//! Asks PostgreSQL once, for `pgx doctor`: what the probe of a running node would meet with.

use std::time::Duration;

use super::server::{self, Trouble};
use crate::config::Postgres;
use crate::controller::watch::look;

/// How long the answer may take.
const ANSWER_MAX: Duration = Duration::from_secs(3);

/// What came of it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// There is no postmaster in the directory.
    Stopped,
    /// A query was answered.
    Answers,
    /// It lives, and lets this role in not at all or not now.
    Refuses(String),
    /// It gave no answer.
    Silent(String),
}

/// Asks for a query's result.
pub(crate) fn ask_once(postgres: &Postgres) -> Verdict {
    let Some(target) = look::target(postgres) else { return Verdict::Stopped };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return Verdict::Silent(error.to_string()),
    };
    let asked = runtime.block_on(async {
        // Whoever asks is not served any longer than that.
        tokio::time::timeout(ANSWER_MAX, server::query(None, &target)).await
    });
    match asked {
        Ok(Ok(_)) => Verdict::Answers,
        Ok(Err(Trouble::Refused { text, .. })) => Verdict::Refuses(text),
        Ok(Err(Trouble::Lost(text))) => Verdict::Silent(text),
        Err(_) => Verdict::Silent(format!("no answer within {ANSWER_MAX:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directory_without_a_postmaster_is_told_as_stopped() {
        let folder = tempfile::tempdir().unwrap();
        let postgres = Postgres::of(folder.path());
        assert_eq!(ask_once(&postgres), Verdict::Stopped);
    }
}
