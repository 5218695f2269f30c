//! Files that keep secrets, and who else could read or change them: PostgreSQL's rules.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nix::unistd::geteuid;

/// Why a file is no place for a secret.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Exposed {
    /// Its owner could do with it what he likes.
    #[error(
        "{path} belongs to user id {found}, who is neither root nor user id {own}, by which pgx \
         runs; run: chown {own} {path}"
    )]
    Owner { path: PathBuf, found: u32, own: u32 },
    /// Others can.
    #[error("{path} is open to other users (mode {mode:03o}); run: chmod {wanted} {path}")]
    Mode { path: PathBuf, mode: u32, wanted: &'static str },
}

/// A file of passwords: its group may read it, nobody else.
///
/// # Errors
/// When others may.
pub(crate) fn check_users(path: &Path, found: &Metadata) -> Result<(), Exposed> {
    check_mode(path, found.mode(), 0o640)
}

/// A private key: of the user that runs pgx and for him alone, or root's, whose group may read it.
///
/// # Errors
/// When it is not.
pub(crate) fn check_key(path: &Path, found: &Metadata) -> Result<(), Exposed> {
    check_key_as(path, (found.uid(), found.mode()), geteuid().as_raw())
}

fn check_key_as(path: &Path, (found, mode): (u32, u32), own: u32) -> Result<(), Exposed> {
    match found {
        0 => check_mode(path, mode, 0o640),
        _ if found == own => check_mode(path, mode, 0o600),
        _ => Err(Exposed::Owner { path: path.to_owned(), found, own }),
    }
}

fn check_mode(path: &Path, mode: u32, allowed: u32) -> Result<(), Exposed> {
    let mode = mode & 0o777;
    if mode & !(allowed | 0o700) == 0 {
        return Ok(());
    }
    let wanted = if mode & allowed & 0o040 == 0 { "600" } else { "640" };
    Err(Exposed::Mode { path: path.to_owned(), mode, wanted })
}

/// What is wrong with a file that is there; one that is not is missed when it is read.
pub(crate) fn problem(
    key: &str,
    path: &Path,
    check: fn(&Path, &Metadata) -> Result<(), Exposed>,
) -> Option<String> {
    let found = std::fs::metadata(path).ok()?;
    check(path, &found).err().map(|exposed| format!("{key}: {exposed}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_kept_as_postgresql_wants_them() {
        let check = |owner, mode| check_key_as(Path::new("/k"), (owner, mode), 70);
        for (owner, mode) in [(70, 0o600), (70, 0o400), (70, 0o100_600), (0, 0o640), (0, 0o600)] {
            assert_eq!(check(owner, mode), Ok(()), "{owner} {mode:o}");
        }
        for (owner, mode) in [(70, 0o640), (70, 0o601), (0, 0o644), (0, 0o660), (71, 0o600)] {
            assert!(check(owner, mode).is_err(), "{owner} {mode:o}");
        }
        let said = check(71, 0o600).unwrap_err().to_string();
        assert!(said.contains("user id 71") && said.contains("chown 70 /k"), "{said}");
    }

    #[test]
    fn file_of_passwords_that_others_may_read_or_change_is_told_how_to_close_it() {
        for mode in [0o600, 0o640, 0o440] {
            assert_eq!(check_mode(Path::new("/u"), mode, 0o640), Ok(()));
        }
        for (mode, wanted) in [(0o644, "640"), (0o604, "600"), (0o660, "640"), (0o620, "600")] {
            let said = check_mode(Path::new("/u"), mode, 0o640).unwrap_err().to_string();
            assert!(said.contains(&format!("mode {mode:03o}")), "{said}");
            assert!(said.ends_with(&format!("run: chmod {wanted} /u")), "{said}");
        }
    }
}
