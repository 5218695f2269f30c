//! `pgx import`: a pgx configuration from another tool's, and what of it could not be carried over.

mod ini;
mod pgbouncer;

use std::io::Write as _;
use std::path::Path;

use crate::config;
use crate::exit::Failure;

/// A configuration that was made, and what is to be said about it.
struct Made {
    /// In TOML, with comments.
    text: String,
    /// What was not carried over: the place, and why.
    left: Vec<String>,
}

/// Prints the configuration on standard output, and what is left out on standard error.
///
/// # Errors
/// When the file cannot be read, or is not one of PgBouncer's.
pub(crate) fn run(path: &Path) -> Result<(), Failure> {
    let made = import(path).map_err(Failure::Failed)?;
    if let Err(problems) = config::parse(&made.text) {
        let problems = problems.join("\n  ");
        return Err(Failure::Failed(format!(
            "what is made of {} is no usable configuration; mend these there:\n  {problems}",
            path.display()
        )));
    }
    let write = || -> std::io::Result<()> {
        std::io::stdout().write_all(made.text.as_bytes())?;
        let mut out = std::io::stderr();
        if made.left.is_empty() {
            return writeln!(out, "everything in {} was carried over", path.display());
        }
        writeln!(out, "not carried over from {}:", path.display())?;
        made.left.iter().try_for_each(|line| writeln!(out, "  {line}"))
    };
    write().map_err(|error| Failure::Failed(format!("cannot write: {error}")))
}

fn import(path: &Path) -> Result<Made, String> {
    let entries = ini::read(path)?;
    if !entries.iter().any(|entry| entry.section == "pgbouncer") {
        return Err(format!(
            "{}: there is no section [pgbouncer]; only PgBouncer's configuration is read so far",
            path.display()
        ));
    }
    Ok(pgbouncer::convert(&entries))
}
