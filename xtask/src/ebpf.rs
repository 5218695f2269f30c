//! `cargo xtask ebpf`: builds the BPF objects from source, or checks the committed ones.
//!
//! The objects are committed so that everybody else needs no BPF tools. Beside them stands a record
//! of what they were built from ([`record`]); `--check` compares it with the tree and needs no
//! tools either. Building is in [`mod@build`], what it needs from the machine in [`tools`].

mod build;
mod record;
mod tools;

use std::path::{Path, PathBuf};

use anyhow::bail;

pub(crate) use build::build;
use record::Record;

/// Arguments of this command.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Build into this directory and leave the committed objects alone
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Build nothing; fail if the committed objects do not belong to the sources
    #[arg(long, conflicts_with = "out")]
    check: bool,
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    if args.check {
        return check();
    }
    build(args.out.as_deref().unwrap_or(&committed()))
}

/// Fails if the committed objects were not built from the sources of this tree, or were changed
/// since. Needs no BPF tools.
///
/// # Errors
/// When they differ, or cannot be read; the text says how to mend it.
pub(crate) fn check() -> anyhow::Result<()> {
    let dir = committed();
    let record = Record::read(&dir)?;
    let sources = record::hash_sources(&root())?;
    if record.sources != sources {
        bail!(
            "the BPF sources have changed and the committed objects have not: {} was built from \
             sources {}, the tree has {sources}.\nRun `cargo xtask ebpf` and commit ebpf/objects.",
            dir.display(),
            record.sources,
        );
    }
    for (name, recorded) in &record.objects {
        let found = record::hash_file(&dir.join(format!("{name}.o")))?;
        if found != *recorded {
            bail!(
                "{name}.o in {} is not the object that was recorded: recorded {recorded}, found \
                 {found}.\nRun `cargo xtask ebpf` and commit ebpf/objects.",
                dir.display(),
            );
        }
    }
    Ok(())
}

/// The root of the workspace.
fn root() -> PathBuf {
    let mut root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    root.pop();
    root
}

/// Where the committed objects are.
fn committed() -> PathBuf {
    root().join(Path::new("ebpf/objects"))
}
