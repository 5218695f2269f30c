//! Moves what lies outside of a data directory: tablespaces, and the log where it does.
//!
//! Links in the directory lead there, and whoever owns it could have made any. So as root nothing
//! is moved, given away or removed by such a link but what is PostgreSQL's user's, by a handle of
//! the folder that it lies in: a part of the path may be another link a moment later.

use std::ffi::OsStr;
use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use pgx_control::ids::Incarnation;
use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, Uid, fchown, fsync, mkdirat, open, openat, renameat, statat,
    unlinkat,
};
use rustix::io::Errno;

use super::Place;
use super::error::{Error, system};
use super::files::{self, Check};
use super::settings;

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

/// The name of what is beside a tablespace's directory.
pub(super) fn named(space: &Path, what: &str, directory: Incarnation) -> PathBuf {
    let mut name = space.as_os_str().to_owned();
    name.push(format!(".pgx-{what}-{}", settings::name(directory)));
    PathBuf::from(name)
}

/// Gives what lies aside another name; nothing where it is not there.
pub(super) fn move_aside(place: &Place, from: &Path, to: &Path) -> Result<(), Error> {
    let Some((folder, name)) = folder_of(from)? else { return Ok(()) };
    if owned(place, &folder, name, from)? { rename(&folder, from, to) } else { Ok(()) }
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
