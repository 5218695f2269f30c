//! The BPF objects that tests load.

use std::path::PathBuf;

use anyhow::Context as _;
use pgx_bpf::Objects;

/// Names a directory of objects to test instead of the committed ones.
const VARIABLE: &str = "PGX_BPF_OBJECTS";

/// The committed objects, or those in the directory that `PGX_BPF_OBJECTS` names.
///
/// # Errors
/// When that directory is named and has no objects: falling back would test the wrong ones.
pub fn objects() -> anyhow::Result<Objects> {
    match std::env::var_os(VARIABLE) {
        None => Ok(Objects::embedded()),
        Some(dir) => {
            let dir = PathBuf::from(dir);
            Objects::from_dir(&dir).with_context(|| format!("{VARIABLE}={}", dir.display()))
        }
    }
}
