//! `cargo xtask model`: walks every order of events of leases within bounds.

/// Runs the model's large spaces too, optimised, one after another.
///
/// # Errors
/// When something that must not happen can, or a planted defect is not found.
pub(crate) fn run() -> anyhow::Result<()> {
    let build = ["test", "--release", "--package", "pgx-tests", "--test", "model"];
    let how = ["--", "--include-ignored", "--nocapture", "--test-threads", "1"];
    super::run_cargo(&[&build[..], &how[..]].concat())
}
