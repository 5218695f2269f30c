//! How a command ends: a few exit codes, and a sentence on standard error.

use std::io::Write;
use std::process::ExitCode;

use crate::config::Problems;

/// Why a command did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// It was tried and failed.
    #[error("{0}")]
    Failed(String),
    /// It ran, and what it found and already printed is trouble.
    #[error("")]
    Trouble,
    /// The configuration is wrong; nothing was tried.
    #[error(transparent)]
    Config(#[from] Problems),
    /// No pgx answers.
    #[error("{0}")]
    Unreachable(String),
    /// A running pgx refused.
    #[error("{0}")]
    Refused(String),
}

impl Failure {
    /// Prints the sentence and gives the exit code that `pgx --help` documents.
    pub(crate) fn report(&self) -> ExitCode {
        let text = self.to_string();
        if !text.is_empty() {
            // Nothing is left to do when standard error is closed.
            let _ = writeln!(std::io::stderr(), "pgx: {text}");
        }
        ExitCode::from(match self {
            Self::Failed(_) | Self::Trouble => 1,
            Self::Config(_) => 3,
            Self::Unreachable(_) => 4,
            Self::Refused(_) => 5,
        })
    }
}
