//! Logs: where they go and which are shown.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// Environment variable that filters logs, in `tracing`'s syntax, for example `pgx=debug`.
pub(crate) const FILTER: &str = "PGX_LOG";

/// Sends logs to standard error, at level `info` unless [`FILTER`] says otherwise.
pub(crate) fn start() {
    let filter = EnvFilter::builder()
        .with_default_directive(tracing::Level::INFO.into())
        .with_env_var(FILTER);
    tracing_subscriber::fmt()
        .with_env_filter(filter.from_env_lossy())
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
}
