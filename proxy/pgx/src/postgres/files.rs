//! Files that PostgreSQL and pgx both have a hand in: written whole or not at all, and marked
//! blocks of lines in files that are somebody else's.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, Mode, OFlags, open, openat, unlinkat};
use rustix::io::Errno;

use super::error::{Error, system};

/// Where a block stands in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// Before all else: of rules, the first that fits counts.
    Top,
    /// After all else: of settings, the last one counts.
    Bottom,
}

const BEGIN: &str = "# pgx begins: what stands here is replaced by pgx";
const END: &str = "# pgx ends";

/// The text of a file; nothing where there is none.
pub(super) fn read(path: &Path) -> Result<Option<String>, Error> {
    match std::fs::read(path) {
        // Somebody's comments may be in any encoding, and must come out as they went in.
        Ok(bytes) => String::from_utf8(bytes).map(Some).map_err(|_| Error::Strange {
            path: path.to_owned(),
            what: "it is not in UTF-8".to_owned(),
        }),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(system("cannot read", path)(error)),
    }
}

/// Writes a file, so that after power loss it has this content or the one before.
pub(super) fn write(path: &Path, text: &str) -> Result<(), Error> {
    let mode = std::fs::metadata(path).ok().map(|found| {
        use std::os::unix::fs::PermissionsExt;
        found.permissions().mode() & 0o777
    });
    let mut draft = path.as_os_str().to_owned();
    draft.push(".pgx-new");
    let draft = PathBuf::from(draft);
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(mode.unwrap_or(0o600));
    let mut file = options.open(&draft).map_err(system("cannot write", &draft))?;
    file.write_all(text.as_bytes()).map_err(system("cannot write", &draft))?;
    file.sync_all().map_err(system("cannot sync", &draft))?;
    std::fs::rename(&draft, path).map_err(system("cannot write", path))?;
    sync_parent(path)
}

/// As [`write()`], and nothing where it has this content already.
pub(super) fn write_if_other(path: &Path, text: &str) -> Result<bool, Error> {
    if read(path)?.as_deref() == Some(text) {
        return Ok(false);
    }
    write(path, text)?;
    Ok(true)
}

/// Removes a file durably; nothing where there is none.
pub(super) fn remove(path: &Path) -> Result<(), Error> {
    match std::fs::remove_file(path) {
        Ok(()) => sync_parent(path),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(system("cannot remove", path)(error)),
    }
}

/// Is asked before each entry that is removed: gigabytes take minutes, and whoever wants it to end
/// does not wait for them.
pub(super) type Check<'a> = &'a mut dyn FnMut() -> Result<(), Error>;

/// Removes a directory with all that is in it; nothing where there is none. A link is removed, and
/// not what it leads to.
pub(super) fn remove_all(path: &Path, check: Check) -> Result<(), Error> {
    let found = match std::fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(system("cannot look at", path)(error)),
    };
    check()?;
    if !found.is_dir() {
        return std::fs::remove_file(path).map_err(system("cannot remove", path));
    }
    // What it has become since is no link that leads elsewhere.
    let opened = open(path, OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty());
    let opened = opened.map_err(|errno| system("cannot open", path)(errno.into()))?;
    remove_within(&opened, path, check)?;
    std::fs::remove_dir(path).map_err(system("cannot remove", path))
}

/// Removes all that is in a directory, or in the one that it leads to.
pub(super) fn remove_content(path: &Path, check: Check) -> Result<(), Error> {
    let opened = open(path, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    let opened = opened.map_err(|errno| system("cannot open", path)(errno.into()))?;
    remove_within(&opened, path, check)
}

/// By handles, as whoever owns the directory could put a link in the place of a path's part.
fn remove_within(folder: &OwnedFd, path: &Path, check: Check) -> Result<(), Error> {
    let failed = |errno: Errno| system("cannot remove what is in", path)(errno.into());
    for entry in Dir::read_from(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        check()?;
        let removed = match unlinkat(folder, name, AtFlags::empty()) {
            Err(Errno::ISDIR) => {
                let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let inner = openat(folder, name, flags, Mode::empty()).map_err(failed)?;
                let inner_path = path.join(OsStr::from_bytes(name.to_bytes()));
                remove_within(&inner, &inner_path, check)?;
                unlinkat(folder, name, AtFlags::REMOVEDIR)
            }
            other => other,
        };
        match removed {
            // Somebody else was faster.
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(failed(errno)),
        }
    }
    Ok(())
}

/// Makes a new name in a directory durable.
pub(super) fn sync_parent(path: &Path) -> Result<(), Error> {
    let Some(parent) = path.parent() else { return Ok(()) };
    File::open(parent).and_then(|folder| folder.sync_all()).map_err(system("cannot sync", parent))
}

/// Makes everything durable that was written to the file system of this folder.
pub(super) fn sync_disk(folder: &Path) -> Result<(), Error> {
    let opened = File::open(folder).map_err(system("cannot open", folder))?;
    rustix::fs::syncfs(&opened).map_err(|errno| system("cannot sync", folder)(errno.into()))
}

/// The text with pgx's block in it, once, and nothing else changed.
pub(super) fn with_block(text: &str, side: Side, block: &str) -> String {
    let rest = without_block(text);
    let block = format!("{BEGIN}\n{}\n{END}\n", block.trim_end());
    match side {
        Side::Top => format!("{block}{rest}"),
        Side::Bottom if rest.is_empty() || rest.ends_with('\n') => format!("{rest}{block}"),
        Side::Bottom => format!("{rest}\n{block}"),
    }
}

fn without_block(text: &str) -> String {
    let mut is_inside = false;
    let keep = |line: &&str| {
        let bare = line.trim_end_matches(['\n', '\r']);
        let was_inside = is_inside;
        is_inside = bare == BEGIN || (is_inside && bare != END);
        !was_inside && !is_inside
    };
    text.split_inclusive('\n').filter(keep).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn block_is_put_in_once_and_the_rest_stays_as_it_is() {
        let text = "# mine\r\na = 1\n\n";
        let top = with_block(text, Side::Top, "x\ny\n");
        assert_eq!(top, format!("{BEGIN}\nx\ny\n{END}\n{text}"));
        assert_eq!(with_block(&top, Side::Top, "x\ny"), top);
        let bottom = with_block(&top, Side::Bottom, "z");
        assert_eq!(bottom, format!("{text}{BEGIN}\nz\n{END}\n"));
        let later = format!("{bottom}b = 2");
        assert_eq!(
            with_block(&later, Side::Bottom, "z"),
            format!("{text}b = 2\n{BEGIN}\nz\n{END}\n"),
            "what came after it comes before it now"
        );
    }

    #[test]
    fn file_is_written_whole_and_keeps_its_mode() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        assert_eq!(read(&path).unwrap(), None);
        assert!(write_if_other(&path, "a").unwrap());
        assert!(!write_if_other(&path, "a").unwrap());
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        write(&path, "b").unwrap();
        assert_eq!(read(&path).unwrap().as_deref(), Some("b"));
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o640);
        remove(&path).unwrap();
        remove(&path).unwrap();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
    #[test]
    fn removal_takes_links_and_not_what_they_lead_to() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::create_dir_all(path("tree/deep/er")).unwrap();
        std::fs::create_dir(path("other")).unwrap();
        for name in ["tree/a", "tree/deep/er/b", "other/c"] {
            std::fs::write(path(name), "").unwrap();
        }
        std::os::unix::fs::symlink(path("other"), path("tree/deep/link")).unwrap();
        remove_all(&path("tree"), &mut || Ok(())).unwrap();
        remove_all(&path("tree"), &mut || Ok(())).unwrap();
        assert!(!path("tree").exists() && path("other/c").exists());
        std::os::unix::fs::symlink(path("other"), path("tree")).unwrap();
        remove_all(&path("tree"), &mut || Ok(())).unwrap();
        assert!(!path("tree").is_symlink() && path("other/c").exists());
        std::os::unix::fs::symlink(path("other"), path("tree")).unwrap();
        remove_content(&path("tree"), &mut || Ok(())).unwrap();
        assert!(path("other").exists() && !path("other/c").exists(), "a data directory may be one");
    }

    #[test]
    fn removal_ends_in_the_middle_when_somebody_wants_it_to() {
        let folder = tempfile::tempdir().unwrap();
        let deep = folder.path().join("tree/deep");
        std::fs::create_dir_all(&deep).unwrap();
        for number in 0..10 {
            std::fs::write(deep.join(number.to_string()), "").unwrap();
        }
        // Before the tree, before what is in it, and before three of the files.
        let mut left = 5;
        let ended = remove_all(&folder.path().join("tree"), &mut || {
            left -= 1;
            if left > 0 { Ok(()) } else { Err(Error::Aborted) }
        });
        assert!(matches!(ended, Err(Error::Aborted)), "{ended:?}");
        assert_eq!(std::fs::read_dir(&deep).unwrap().count(), 8);
    }
}
