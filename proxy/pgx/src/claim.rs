//! What only one process may have: a locked file with the process id of whoever has it.
//!
//! The kernel drops a lock with the last process that has the file open, however that ends. So a
//! file without a lock is stale for certain, and an unclean stop never keeps the next start from
//! anything. A lock belongs to the open file and not to the process, so that it can be handed to
//! another process without anybody coming in between.

use std::fmt;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Instant;

use crate::limits::{BIND_PAUSE, CLAIM_TRIES_MAX, CLAIM_WAIT, LOCK_FILE_BYTES_MAX};

/// Why something cannot be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Denied {
    /// Somebody else has it.
    #[error("{path} is in use by {holder}; stop that first, or give this pgx another {key}")]
    Live { key: &'static str, path: PathBuf, holder: Holder },
    /// Something else is in its place, and is not ours to remove.
    #[error("{path} is not {expected}; move that file away, or change {key}")]
    Foreign { key: &'static str, path: PathBuf, expected: &'static str },
    /// The system refused.
    #[error("{key}: cannot {step} {path}: {error}")]
    System { key: &'static str, step: &'static str, path: PathBuf, error: io::Error },
}

/// Who has something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Holder {
    /// Its process id, if that is known.
    pub(crate) process: Option<u32>,
}

impl fmt::Display for Holder {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(process) = self.process else { return write!(out, "another process") };
        match std::fs::read_to_string(format!("/proc/{process}/comm")) {
            Ok(name) => write!(out, "process {process} ({})", name.trim()),
            // It has ended meanwhile, or belongs to another namespace.
            Err(_) => write!(out, "process {process}"),
        }
    }
}

/// A file that is locked by this process.
#[derive(Debug)]
pub(crate) struct Claim {
    path: PathBuf,
    file: File,
    /// It says that it is ours, and goes when we do.
    is_signed: bool,
}

impl Claim {
    /// Locks the file at `path`, made if need be, as soon as a process that is ending lets it go.
    /// What it says stays until [`Self::sign`].
    ///
    /// # Errors
    /// When another process has it, it holds no process id, or the system refuses.
    pub(crate) fn take(path: &Path, key: &'static str) -> Result<Self, Denied> {
        let until = Instant::now() + CLAIM_WAIT;
        loop {
            match Self::try_take(path, key) {
                Err(Denied::Live { .. }) if Instant::now() < until => sleep(BIND_PAUSE),
                taken => return taken,
            }
        }
    }

    fn try_take(path: &Path, key: &'static str) -> Result<Self, Denied> {
        let system = |step, error| Denied::System { key, step, path: path.to_owned(), error };
        for _ in 0..CLAIM_TRIES_MAX {
            let file = match open(path) {
                Ok(file) => file,
                // Removed, or made, between our two tries to open it.
                Err(error) if is_race(&error) => continue,
                Err(error) => return Err(system("open the lock file", error)),
            };
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    let holder = Holder { process: process(&said(&file)) };
                    return Err(Denied::Live { key, path: path.to_owned(), holder });
                }
                Err(TryLockError::Error(error)) => return Err(system("lock", error)),
            }
            // Who had it removes it at its end: then what we have locked is nobody's any more.
            if !is_at(&file, path) {
                continue;
            }
            let text = said(&file);
            let is_file = file.metadata().is_ok_and(|found| found.is_file());
            if !is_file || (!text.is_empty() && process(&text).is_none()) {
                let expected = "a file with a process id";
                return Err(Denied::Foreign { key, path: path.to_owned(), expected });
            }
            return Ok(Self { path: path.to_owned(), file, is_signed: false });
        }
        Err(system("lock", io::Error::other("other processes make and remove it all the time")))
    }

    /// Goes on with a locked file that another process has handed over.
    pub(crate) fn adopt(path: &Path, file: OwnedFd) -> Self {
        Self { path: path.to_owned(), file: File::from(file), is_signed: false }
    }

    /// Writes our process id into it; from now on it is removed when we give it up.
    ///
    /// # Errors
    /// When the system refuses.
    pub(crate) fn sign(&mut self) -> io::Result<()> {
        let line = format!("{}\n", std::process::id());
        // Never empty on the way: PostgreSQL stops at an empty lock file.
        self.file.write_all_at(line.as_bytes(), 0)?;
        self.is_signed = true;
        self.file.set_len(line.len() as u64)?;
        self.file.flush()
    }

    /// Leaves it to another process that has it open as well.
    pub(crate) fn let_go(mut self) {
        self.is_signed = false;
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// What it said before it was signed.
    pub(crate) fn text(&self) -> String {
        said(&self.file)
    }
}

impl AsFd for Claim {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // Somebody who does not care for locks may have put another in its place.
        if self.is_signed && is_at(&self.file, &self.path) {
            // Nothing is lost if it stays.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Opens it as it is, or makes it. Two calls, for in folders like /tmp the kernel lets nobody open
/// another user's file by a call that may make it.
fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    let flags = i32::try_from(flags.bits()).unwrap_or_default();
    options.read(true).write(true).mode(0o644).custom_flags(flags);
    match options.open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => options.create_new(true).open(path),
        opened => opened,
    }
}

fn is_race(error: &io::Error) -> bool {
    error.kind() == ErrorKind::AlreadyExists
}

fn is_at(file: &File, path: &Path) -> bool {
    let (Ok(own), Ok(found)) = (file.metadata(), std::fs::symlink_metadata(path)) else {
        return false;
    };
    (own.dev(), own.ino()) == (found.dev(), found.ino())
}

fn said(file: &File) -> String {
    let mut text = Vec::new();
    // What cannot be read says nothing.
    let mut reader = At { file, offset: 0 }.take(LOCK_FILE_BYTES_MAX);
    let _ = reader.read_to_end(&mut text);
    String::from_utf8_lossy(&text).into_owned()
}

/// Reads a file that others may have open at a place of theirs.
struct At<'a> {
    file: &'a File,
    offset: u64,
}

impl io::Read for At<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read_at(buffer, self.offset)?;
        self.offset += count as u64;
        Ok(count)
    }
}

/// The process that a lock file names on its first line; a server for one user has a minus there.
pub(crate) fn process(text: &str) -> Option<u32> {
    let line = text.lines().next()?.trim();
    line.strip_prefix('-').unwrap_or(line).parse().ok().filter(|process| *process > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pid");
        (folder, path)
    }

    #[test]
    fn living_holder_is_named_and_its_file_left_alone() {
        let (_folder, path) = place();
        let mut first = Claim::take(&path, "x").unwrap();
        first.sign().unwrap();

        let second = Claim::take(&path, "x").unwrap_err();

        let own = std::process::id();
        assert!(second.to_string().contains(&format!("process {own} (")), "{second}");
        assert_eq!(process(&first.text()), Some(own));
    }

    #[test]
    fn lock_of_a_holder_that_is_ending_is_waited_for() {
        let (_folder, path) = place();
        let first = Claim::take(&path, "x").unwrap();
        let (asks, asked) = std::sync::mpsc::channel();
        let ends = std::thread::spawn(move || {
            asked.recv().unwrap();
            drop(first);
        });
        assert!(matches!(Claim::try_take(&path, "x"), Err(Denied::Live { .. })));
        asks.send(()).unwrap();
        Claim::take(&path, "x").unwrap();
        ends.join().unwrap();
    }

    #[test]
    fn file_of_a_dead_holder_is_taken_whatever_process_it_names() {
        let (_folder, path) = place();
        // A process that lives, but has no lock: its number was used again.
        std::fs::write(&path, format!("{}\n/somewhere\n", std::process::id())).unwrap();

        let mut claim = Claim::take(&path, "x").unwrap();
        claim.sign().unwrap();

        assert_eq!(claim.text(), format!("{}\n", std::process::id()));
        drop(claim);
        assert!(!path.exists(), "a clean stop leaves nothing");
    }

    #[test]
    fn file_that_holds_something_else_is_never_overwritten() {
        let (_folder, path) = place();
        std::fs::write(&path, "precious\n").unwrap();

        assert!(matches!(Claim::take(&path, "x"), Err(Denied::Foreign { .. })));

        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious\n");
        let device = Path::new("/dev/null");
        assert!(matches!(Claim::take(device, "x"), Err(Denied::Foreign { .. })));
        assert!(device.exists());
    }

    #[test]
    fn file_that_somebody_has_put_in_its_place_is_left_alone() {
        let (_folder, path) = place();
        let mut claim = Claim::take(&path, "x").unwrap();
        claim.sign().unwrap();
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "theirs").unwrap();

        drop(claim);

        assert_eq!(std::fs::read_to_string(&path).unwrap(), "theirs");
    }

    #[test]
    fn lock_stays_when_it_is_handed_over_and_the_first_process_lets_go() {
        let (_folder, path) = place();
        let mut first = Claim::take(&path, "x").unwrap();
        first.sign().unwrap();
        let second = Claim::adopt(&path, first.as_fd().try_clone_to_owned().unwrap());

        first.let_go();

        assert!(matches!(Claim::take(&path, "x"), Err(Denied::Live { .. })));
        drop(second);
        assert!(path.exists(), "nobody has signed it");
        assert!(Claim::take(&path, "x").is_ok());
    }

    #[test]
    fn lock_of_a_file_that_was_removed_meanwhile_counts_for_nothing() {
        let (_folder, path) = place();
        let removed = open(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert!(!is_at(&removed, &path));
        let mut claim = Claim::take(&path, "x").unwrap();
        claim.sign().unwrap();
        assert!(!is_at(&removed, &path) && is_at(&claim.file, &path));
    }
}
