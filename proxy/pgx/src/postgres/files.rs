//! Files that PostgreSQL and pgx both have a hand in: written whole or not at all, and marked
//! blocks of lines in files that are somebody else's.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

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

/// Removes a directory with all that is in it; nothing where there is none.
pub(super) fn remove_all(path: &Path) -> Result<(), Error> {
    match std::fs::remove_dir_all(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(system("cannot remove", path)(error)),
    }
}

/// Makes a new name in a directory durable.
pub(super) fn sync_parent(path: &Path) -> Result<(), Error> {
    let Some(parent) = path.parent() else { return Ok(()) };
    File::open(parent).and_then(|folder| folder.sync_all()).map_err(system("cannot sync", parent))
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
}
