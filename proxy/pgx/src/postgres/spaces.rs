//! Directories of tablespaces, which lie outside of the data directory, and its log where it does.
//!
//! Links in the directory lead there, and whoever owns it could have made any. So as root nothing
//! is moved, given away or removed by such a link but what is PostgreSQL's user's, by a handle of
//! the folder that it lies in: a part of the path may be another link a moment later.
//!
//! A copy writes into tablespaces before it makes the links to them, so where it may write is noted
//! before it begins: what it leaves behind when it ends half way would be in the way of the next.

use std::ffi::OsStr;
use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, Uid, fchown, fsync, mkdirat, open, openat, renameat, statat,
    unlinkat,
};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::error::{Error, system};
use super::files::{self, Check};
use super::hands::Hands;
use super::{Peer, Place};

/// The file in which the places of a copy are noted.
const NOTE: &str = "places";

/// Where a copy writes that has not ended yet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Places {
    /// Where the log goes, if not into the directory.
    pub(super) log: Option<PathBuf>,
    /// Tablespaces in which nothing was before.
    pub(super) spaces: Vec<PathBuf>,
}

/// Where a copy that ended half way has written.
pub(super) fn noted(place: &Place) -> Result<Places, Error> {
    let path = place.folder().join(NOTE);
    let Some(text) = place.own(|| files::read(&path))? else { return Ok(Places::default()) };
    serde_json::from_str(&text)
        .map_err(|error| Error::Strange { path, what: format!("it is damaged: {error}") })
}

/// The copy is whole.
pub(super) fn forget(place: &Place) -> Result<(), Error> {
    place.own(|| files::remove(&place.folder().join(NOTE)))
}

impl Hands {
    /// Notes where a copy of this source is about to write.
    pub(super) fn note_places(
        &self,
        upstream: &Peer,
        known: &Places,
        log: Option<&Path>,
    ) -> Result<(), Error> {
        let place = &self.place;
        let spaces = self.source_spaces(upstream)?;
        let is_empty = |path: &PathBuf| {
            // What is there already is somebody else's, and the copy fails.
            std::fs::read_dir(path).map_or_else(
                |error| error.kind() == ErrorKind::NotFound,
                |mut entries| entries.next().is_none(),
            )
        };
        let mut next = Places { log: log.map(Path::to_owned), spaces: known.spaces.clone() };
        next.spaces.extend(spaces.into_iter().filter(is_empty));
        next.spaces.sort();
        next.spaces.dedup();
        if next == Places::default() {
            return Ok(());
        }
        let path = place.folder().join(NOTE);
        let text = serde_json::to_string(&next)
            .map_err(|error| Error::Strange { path: path.clone(), what: error.to_string() })?;
        place.own(|| files::write_if_other(&path, &text)).map(drop)
    }
}

/// Puts a tablespace's directory aside, unless something is there, and an empty one in its place.
pub(super) fn put_aside(place: &Place, space: &Path, aside: &Path) -> Result<(), Error> {
    let missing = || system("cannot find", space)(ErrorKind::NotFound.into());
    let (folder, name) = folder_of(space)?.ok_or_else(missing)?;
    let is_there = owned(place, &folder, name, space)?;
    if !aside.exists() {
        if !is_there {
            return Err(missing());
        }
        rename(&folder, space, aside)?;
    }
    let failed = |errno: Errno| system("cannot make", space)(errno.into());
    match mkdirat(&folder, name, Mode::from_raw_mode(0o700)) {
        Err(Errno::EXIST) => return Ok(()),
        other => other.map_err(failed)?,
    }
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let made = openat(&folder, name, flags, Mode::empty()).map_err(failed)?;
    fchown(&made, Some(Uid::from_raw(place.owner)), None).map_err(failed)?;
    fsync(&folder).map_err(failed)
}

/// Puts a tablespace's directory back that lies aside, in the place of what is there now.
pub(super) fn put_back(
    place: &Place,
    space: &Path,
    aside: &Path,
    check: Check,
) -> Result<(), Error> {
    let Some((folder, name)) = folder_of(aside)? else { return Ok(()) };
    if owned(place, &folder, name, aside)? {
        remove(place, space, check)?;
        rename(&folder, aside, space)?;
    }
    Ok(())
}

/// Removes a tablespace's directory; nothing where there is none.
pub(super) fn remove(place: &Place, space: &Path, check: Check) -> Result<(), Error> {
    let Some((folder, name)) = folder_of(space)? else { return Ok(()) };
    if !owned(place, &folder, name, space)? {
        return Ok(());
    }
    place.own(|| files::remove_content(space, check))?;
    let failed = |errno: Errno| system("cannot remove", space)(errno.into());
    unlinkat(&folder, name, AtFlags::REMOVEDIR).map_err(failed)?;
    fsync(&folder).map_err(failed)
}

/// Both lie in the same folder.
fn rename(folder: &OwnedFd, from: &Path, to: &Path) -> Result<(), Error> {
    let name = |path: &Path| path.file_name().unwrap_or_default().to_owned();
    renameat(folder, name(from), folder, name(to)).map_err(|errno| match errno {
        Errno::XDEV | Errno::BUSY => Error::MountPoint(from.to_owned()),
        errno => system("cannot move", from)(errno.into()),
    })?;
    fsync(folder).map_err(|errno| system("cannot sync", from)(errno.into()))
}

/// The folder that it lies in, if there is one, and its name there.
fn folder_of(path: &Path) -> Result<Option<(OwnedFd, &OsStr)>, Error> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Error::NotOwn(path.to_owned()));
    };
    match open(parent, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()) {
        Ok(opened) => Ok(Some((opened, name))),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(system("cannot open", parent)(errno.into())),
    }
}

/// Whether it is there; if so, it is a directory of PostgreSQL's user.
fn owned(place: &Place, folder: &OwnedFd, name: &OsStr, path: &Path) -> Result<bool, Error> {
    match statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(found)
            if found.st_uid == place.owner
                && FileType::from_raw_mode(found.st_mode) == FileType::Directory =>
        {
            Ok(true)
        }
        Ok(_) => Err(Error::NotOwn(path.to_owned())),
        Err(Errno::NOENT) => Ok(false),
        Err(errno) => Err(system("cannot look at", path)(errno.into())),
    }
}
