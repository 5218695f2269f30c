//! Files of other tools, read as they are, at a bounded cost: how large one may be, and how many
//! may include each other.

use std::io::Read as _;
use std::path::{Path, PathBuf};

/// How deep files may include each other, how many of them there may be, and how large each: more
/// than anybody has, few enough that a file which includes itself is noticed at once.
const DEPTH_MAX: usize = 8;
const FILES_MAX: usize = 64;
const BYTES_MAX: u64 = 4 << 20;

/// A file that was read.
pub(super) struct File {
    pub(super) path: PathBuf,
    pub(super) text: String,
    depth: usize,
}

impl File {
    /// A path that the file names, which may be relative to its own folder.
    pub(super) fn beside(&self, path: &str) -> PathBuf {
        self.path.parent().unwrap_or(Path::new("/")).join(path)
    }

    /// The same, from the root on.
    pub(super) fn absolute(&self, path: &str) -> String {
        let path = self.beside(path);
        std::path::absolute(&path).unwrap_or(path).to_string_lossy().into_owned()
    }
}

/// Counts the files that are read.
#[derive(Default)]
pub(super) struct Files {
    count: usize,
}

impl Files {
    /// The file that the operator names.
    ///
    /// # Errors
    /// When it cannot be read, is no text or too large.
    pub(super) fn first(&mut self, path: &Path) -> Result<File, String> {
        self.read(path, 0)
    }

    /// A file that another one includes.
    ///
    /// # Errors
    /// As above, and when too many files include each other.
    pub(super) fn included(&mut self, by: &File, path: &str) -> Result<File, String> {
        self.read(&by.beside(path), by.depth + 1)
    }

    fn read(&mut self, path: &Path, depth: usize) -> Result<File, String> {
        let name = path.display();
        self.count += 1;
        if depth > DEPTH_MAX {
            return Err(format!("{name}: files include each other more than {DEPTH_MAX} deep"));
        }
        if self.count > FILES_MAX {
            return Err(format!("{name}: files include more than {FILES_MAX} others"));
        }
        let failed = |error| format!("{name}: cannot be read: {error}");
        let file = std::fs::File::open(path).map_err(failed)?;
        let mut bytes = Vec::new();
        // One byte more, to tell a file of just that size from a larger one.
        file.take(BYTES_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
        if bytes.len() as u64 > BYTES_MAX {
            return Err(format!("{name}: expected at most {BYTES_MAX} bytes"));
        }
        let text = String::from_utf8(bytes).map_err(|error| {
            let before = &error.as_bytes()[..error.utf8_error().valid_up_to()];
            let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
            format!("{name}:{line}: it is no text in UTF-8")
        })?;
        Ok(File { path: path.to_owned(), text, depth })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_are_too_large_or_no_text_are_refused_and_named() {
        let endless = Files::default().first(Path::new("/dev/zero")).err().unwrap();
        assert!(endless.contains("/dev/zero") && endless.contains("at most"), "{endless}");
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        std::fs::write(&path, b"a\nb\xff\n").unwrap();
        let found = Files::default().first(&path).err().unwrap();
        assert!(found.contains("x:2: it is no text"), "{found}");
    }

    #[test]
    fn files_that_include_others_again_and_again_come_to_an_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        std::fs::write(&path, "").unwrap();
        let mut files = Files::default();
        let file = files.first(&path).unwrap();
        let all = (0..FILES_MAX).map(|_| files.included(&file, "x"));
        let failed = all.filter_map(Result::err).collect::<Vec<_>>();
        assert!(failed.len() == 1 && failed[0].contains("more than 64"), "{failed:?}");
    }
}
