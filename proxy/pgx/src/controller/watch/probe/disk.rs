//! Whether the disks of PostgreSQL take a write and make it durable.
//!
//! One thread for each disk, for as long as pgx runs: a write that never returns holds its thread
//! and nothing else, and no second one is begun.
//!
//! A disk without space has answered. If that is the disk of pg_wal, PostgreSQL ends by itself at
//! the first commit, and its end is seen; otherwise it tells its clients and still serves reads,
//! and standbys, which have written the same, are about as full: a failover would go from one to
//! the next. A disk that refuses writes as such, as one that was remounted read-only or has an I/O
//! error, does so on this host alone, and counts as one that does not answer.

use std::fs::OpenOptions;
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Instant;

use rustix::fs::OFlags;
use rustix::io::Errno;
use tokio::sync::watch;

use super::{Part, Shared, Target};
use crate::controller::ms;
use crate::postgres::owner;

/// The file that is written. By its first letters base backups leave it out.
const FILE: &str = "pgsql_tmp_pgx_probe";

/// What the disk did.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    /// The write is durable.
    Wrote,
    /// It has no space.
    Full,
    /// It takes no write.
    Refused(String),
    /// It was not asked, for a reason that says nothing of the disk.
    Unasked(String),
}

/// Asks again and again, for as long as somebody wants to know; after space also while PostgreSQL
/// does not run, which may be for want of it.
pub(super) fn run(
    part: Part,
    data_directory: &Path,
    targets: &watch::Receiver<Option<Target>>,
    answers: &Shared,
) {
    while targets.has_changed().is_ok() {
        let target = targets.borrow().clone();
        // A disk that does not even tell its space is silent, too.
        if let Some(target) = &target {
            answers.ask(target.postmaster, part);
        }
        let free = free(part, data_directory);
        // The board is not held while a disk is asked.
        answers.lock().free(part, free);
        if let Some(target) = target {
            let since = Instant::now();
            match ask(part, &target) {
                None => answers.excuse(target.postmaster, part, String::new(), true),
                Some(Outcome::Wrote) => {
                    answers.answered(target.postmaster, part);
                    answers.lock().wrote(part, ms(since.elapsed()));
                }
                Some(Outcome::Full) => {
                    answers.excuse(target.postmaster, part, "it is full".to_owned(), false);
                }
                Some(Outcome::Unasked(why)) => {
                    answers.excuse(target.postmaster, part, why, false);
                }
                Some(Outcome::Refused(cause)) => answers.failed(target.postmaster, part, &cause),
            }
        }
        std::thread::sleep(answers.every());
    }
}

/// Where the part's disk is mounted; `None` where there is no such disk.
fn directory(part: Part, data_directory: &Path) -> Option<PathBuf> {
    let mut directory = data_directory.to_owned();
    if part == Part::Wal {
        directory.push("pg_wal");
        let device = |path: &Path| std::fs::metadata(path).map(|found| found.dev());
        // One disk is not asked twice.
        if device(&directory).ok()? == device(data_directory).ok()? {
            return None;
        }
    }
    Some(directory)
}

/// Bytes that PostgreSQL may take of a disk; what is kept for root is not among them.
fn free(part: Part, data_directory: &Path) -> Option<u64> {
    let found = rustix::fs::statvfs(directory(part, data_directory)?).ok()?;
    Some(found.f_bavail.saturating_mul(found.f_frsize))
}

/// `None` where there is no such disk.
fn ask(part: Part, target: &Target) -> Option<Outcome> {
    let path = directory(part, &target.data_directory)?.join(FILE);
    Some(match owner::act_as(target.owner, || write(&path)) {
        Ok(()) => Outcome::Wrote,
        Err(error) => outcome(&error, &path),
    })
}

fn write(path: &PathBuf) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    options.write(true).create(true).mode(0o600).custom_flags(flags.bits().cast_signed());
    let mut file = options.open(path)?;
    file.write_all(b"written again and again by pgx, to know that this disk takes writes\n")?;
    file.sync_all()
}

fn outcome(error: &io::Error, path: &Path) -> Outcome {
    const DEAD: [Errno; 8] = [
        Errno::IO,
        Errno::ROFS,
        Errno::UCLEAN,
        Errno::NXIO,
        Errno::NODEV,
        Errno::SHUTDOWN,
        Errno::TIMEDOUT,
        Errno::STALE,
    ];
    if matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded) {
        return Outcome::Full;
    }
    let text = format!("{}: {error}", path.display());
    match Errno::from_io_error(error) {
        Some(errno) if DEAD.contains(&errno) => Outcome::Refused(text),
        _ => Outcome::Unasked(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn write_is_made_again_in_place_and_follows_no_link() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        write(&path).unwrap();
        let once = std::fs::read(&path).unwrap();
        write(&path).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), once);

        let elsewhere = folder.path().join("elsewhere");
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink(&elsewhere, &path).unwrap();
        let error = write(&path).unwrap_err();
        assert!(!elsewhere.exists());
        assert!(matches!(outcome(&error, &path), Outcome::Unasked(_)), "{error}");
    }

    #[test]
    fn space_of_a_disk_is_known_as_far_as_there_is_one() {
        let folder = tempfile::tempdir().unwrap();
        assert!(free(Part::Data, folder.path()).is_some());
        assert_eq!(free(Part::Data, &folder.path().join("gone")), None);
        std::fs::create_dir(folder.path().join("pg_wal")).unwrap();
        assert_eq!(free(Part::Wal, folder.path()), None, "it is the same disk");
    }

    #[test]
    fn full_disk_answers_dead_one_does_not_and_our_own_trouble_is_neither() {
        let path = Path::new("/data/x");
        let of = |errno: Errno| outcome(&errno.into(), path);
        assert_eq!(of(Errno::NOSPC), Outcome::Full);
        assert_eq!(of(Errno::DQUOT), Outcome::Full);
        for errno in [Errno::IO, Errno::ROFS] {
            assert!(matches!(of(errno), Outcome::Refused(text) if text.contains("/data/x")));
        }
        for errno in [Errno::ACCESS, Errno::MFILE, Errno::NOENT] {
            assert!(matches!(of(errno), Outcome::Unasked(_)), "{errno}");
        }
    }
}
