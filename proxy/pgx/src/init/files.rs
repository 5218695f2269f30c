//! Writes keys and certificates: never over what is there, whole or not at all.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::InitError;

/// A key and its certificate, as files in one folder.
#[derive(Clone, Debug)]
pub(super) struct Pair {
    pub(super) key: PathBuf,
    pub(super) certificate: PathBuf,
}

impl Pair {
    /// `NAME.key` and `NAME.pem` in a folder.
    pub(super) fn at(folder: &Path, name: &str) -> Self {
        let [key, certificate] = ["key", "pem"].map(|kind| folder.join(format!("{name}.{kind}")));
        Self { key, certificate }
    }

    /// Writes both: the key for its owner alone, the certificate for everybody.
    ///
    /// # Errors
    /// When one of them is there already, or the system refuses; then neither is left.
    pub(super) fn write(&self, key: &str, certificate: &str) -> Result<(), InitError> {
        if let Some(folder) = self.key.parent() {
            let made = DirBuilder::new().recursive(true).mode(0o755).create(folder);
            let failed = |error| InitError::System { step: "make", path: folder.into(), error };
            made.map_err(failed)?;
        }
        // Looked at first so that the common mistake leaves nothing half done; that no other
        // program wins a race is seen to by the open below.
        for path in [&self.key, &self.certificate] {
            if fs::symlink_metadata(path).is_ok() {
                return Err(InitError::Exists(path.clone()));
            }
        }
        write_new(&self.key, key, 0o600)?;
        write_new(&self.certificate, certificate, 0o644).inspect_err(|_| {
            // The first error counts; a key without its certificate would only be in the way.
            let _ = fs::remove_file(&self.key);
        })
    }
}

/// Reads a text file.
pub(super) fn read(path: &Path) -> Result<String, InitError> {
    let failed = |error| InitError::System { step: "read", path: path.to_owned(), error };
    fs::read_to_string(path).map_err(failed)
}

fn write_new(path: &Path, text: &str, mode: u32) -> Result<(), InitError> {
    let system = |error| InitError::System { step: "write", path: path.to_owned(), error };
    let open = OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
    let mut file = open.map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists => InitError::Exists(path.to_owned()),
        _ => system(error),
    })?;
    let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
    written.map_err(|error| {
        let _ = fs::remove_file(path);
        system(error)
    })
}
