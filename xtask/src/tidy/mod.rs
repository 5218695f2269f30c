//! `cargo xtask tidy`: what the style guide asks and a program can check.
//!
//! Every check is a function from text to findings, so that each has a test that shows it fail.
//! A finding says where, what, and how to mend it.

mod edges;
mod manifest;
mod source;
mod tree;

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

pub(crate) use tree::tracked;

/// Arguments of `tidy`; it has none, and never edits.
#[derive(clap::Args)]
pub(crate) struct Args {}

/// Something that is not as the style guide asks.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Finding {
    file: PathBuf,
    /// Counted from one; zero where the whole file is meant.
    line: usize,
    what: String,
}

impl Finding {
    fn new(file: &Path, line: usize, what: impl Into<String>) -> Self {
        Self { file: file.to_owned(), line, what: what.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(out, "{}: {}", self.file.display(), self.what),
            line => write!(out, "{}:{line}: {}", self.file.display(), self.what),
        }
    }
}

/// Runs every check.
///
/// # Errors
/// When something was found; the findings are printed.
pub(crate) fn run(_args: &Args) -> anyhow::Result<()> {
    let root = crate::root();
    let files = tree::tracked(&root)?;
    let mut findings = tree::top_level(&files);
    findings.extend(edges::check(&root)?);
    for file in &files {
        let Ok(text) = std::fs::read_to_string(root.join(file)) else {
            // Objects and other binaries are not text; a deleted file is about to be untracked.
            continue;
        };
        match file.extension().and_then(|extension| extension.to_str()) {
            Some("rs") => findings.extend(source::check(file, &text)),
            Some("md") => findings.extend(tree::links(&root, file, &text)),
            Some("toml") if file.ends_with("Cargo.toml") => {
                let found = manifest::check(file, &text);
                findings.extend(found.with_context(|| file.display().to_string())?);
            }
            _ => {}
        }
    }
    findings.sort();
    for finding in &findings {
        println!("{finding}");
    }
    match findings.len() {
        0 => Ok(()),
        count => bail!("tidy: {count} places to mend, see docs/STYLE.md for the reasons"),
    }
}
