//! What of a data directory lies elsewhere, behind links: tablespaces, and the log if `pg_wal` is a
//! link. It is remembered beside the directory, as a copy has the links last, and one that has
//! begun and failed would find its own left-overs in the way.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::error::{Error, system};
use super::files::{self, Check};
use super::hands::Hands;
use super::rebuild::mark;
use super::{Peer, Place};

/// Files of the folder `own`: where the log is, and the tablespaces, a line each.
const LOG: &str = "pg_wal";
const SPACES: &str = "pg_tblspc";

/// The directories of a data directory's tablespaces, if it lies there now. Links are read as in
/// its place: a relative one leads elsewhere from where it was put aside.
fn tablespaces(data: &Path, there: &Path) -> Result<Vec<PathBuf>, Error> {
    let folder = there.join("pg_tblspc");
    let entries = match std::fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(system("cannot list", &folder)(error)),
    };
    // A directory instead of a link lies inside, and moves with the rest.
    let links = entries.flatten().filter_map(|entry| std::fs::read_link(entry.path()).ok());
    Ok(links.map(|link| data.join("pg_tblspc").join(link)).collect())
}

/// Where its log is, if that is elsewhere.
pub(super) fn log(data: &Path, there: &Path) -> Option<PathBuf> {
    std::fs::read_link(there.join("pg_wal")).ok().map(|link| data.join(link))
}

/// All directories that belong to a data directory and lie elsewhere, if it lies there now.
pub(super) fn all(data: &Path, there: &Path) -> Result<Vec<PathBuf>, Error> {
    Ok(tablespaces(data, there)?.into_iter().chain(log(data, there)).collect())
}

/// The directory is whole: what it has elsewhere its links say.
pub(super) fn forget(place: &Place) -> Result<(), Error> {
    let saved = place.folder().join("own");
    place.own(|| files::remove(&saved.join(SPACES)).and_then(|()| files::remove(&saved.join(LOG))))
}

/// Empties a directory, with these that lie elsewhere. What makes it a data directory goes first,
/// and the links last: an end in the middle loses none.
pub(super) fn empty(data: &Path, remembered: &[PathBuf], check: Check) -> Result<(), Error> {
    check()?;
    if data.exists() {
        files::remove(&data.join("global/pg_control"))?;
    }
    for folder in all(data, data)?.iter().chain(remembered).filter(|folder| folder.exists()) {
        files::remove_content(folder, check)?;
    }
    if data.exists() { files::remove_content(data, check) } else { Ok(()) }
}

/// What was remembered of the directory that is being built.
pub(super) struct Remembered {
    pub(super) log: Option<PathBuf>,
    pub(super) spaces: Vec<PathBuf>,
}

impl Remembered {
    pub(super) fn read(place: &Place) -> Result<Self, Error> {
        let lines = |name: &str| -> Result<Vec<PathBuf>, Error> {
            let text = place.own(|| files::read(&place.folder().join("own").join(name)))?;
            Ok(text.unwrap_or_default().lines().map(PathBuf::from).collect())
        };
        Ok(Self { log: lines(LOG)?.pop(), spaces: lines(SPACES)? })
    }

    pub(super) fn all(&self) -> Vec<PathBuf> {
        self.spaces.iter().chain(&self.log).cloned().collect()
    }
}

impl Hands {
    /// Remembers what lies elsewhere, and makes sure that the source's tablespaces have room: each
    /// node has them at the same path, so on one host they would be the same.
    ///
    /// # Errors
    /// When something else is where a tablespace has to be; nothing was changed then.
    pub(super) fn claim(&self, upstream: &Peer) -> Result<(), Error> {
        let place = &self.place;
        let saved = place.folder().join("own");
        place.make_own_directory(&saved)?;
        let data = &place.data;
        let mut known = Remembered { log: log(data, data), spaces: tablespaces(data, data)? };
        if mark(place)?.is_some() {
            let before = Remembered::read(place)?;
            known.log = known.log.or(before.log);
            known.spaces.extend(before.spaces);
        }
        for space in self.spaces_of(upstream)? {
            if known.spaces.contains(&space) {
                continue;
            }
            let mut entries = std::fs::read_dir(&space).into_iter().flatten();
            if entries.next().is_some() {
                return Err(Error::SpaceInUse(space));
            }
            known.spaces.push(space);
        }
        known.spaces.sort();
        known.spaces.dedup();
        let lines = |paths: &[PathBuf]| -> String {
            paths.iter().map(|path| format!("{}\n", path.display())).collect()
        };
        place.own(|| {
            files::write_if_other(&saved.join(SPACES), &lines(&known.spaces))?;
            let log: Vec<_> = known.log.into_iter().collect();
            files::write_if_other(&saved.join(LOG), &lines(&log)).map(drop)
        })
    }

    fn spaces_of(&self, upstream: &Peer) -> Result<Vec<PathBuf>, Error> {
        let words = [("dbname", self.place.database.as_str())];
        let question = "SELECT location FROM pg_tablespace, \
                        pg_tablespace_location(oid) AS location WHERE location LIKE '/%'";
        match self.ask_source("psql", upstream, &words, question) {
            Ok(said) => Ok(said.lines().map(PathBuf::from).collect()),
            // It can be copied all the same; what is in the way pg_basebackup finds out.
            Err(Error::SourceRefuses { .. }) => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directory_is_emptied_with_what_its_links_lead_to_but_not_further() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for name in ["data/global", "data/pg_tblspc", "space/PG_15", "log", "other", "begun"] {
            std::fs::create_dir_all(path(name)).unwrap();
        }
        for name in ["data/global/pg_control", "space/PG_15/1", "log/1", "other/1", "begun/1"] {
            std::fs::write(path(name), "x").unwrap();
        }
        let link = |to: &str, at: &str| std::os::unix::fs::symlink(path(to), path(at)).unwrap();
        link("space", "data/pg_tblspc/16384");
        link("log", "data/pg_wal");
        link("other", "data/link");
        let data = path("data");
        assert_eq!(all(&data, &data).unwrap(), [path("space"), path("log")]);
        std::os::unix::fs::symlink("../relative", path("log/pg_wal")).unwrap();
        let aside = all(&data, &path("log")).unwrap();
        assert_eq!(aside, [path("data/../relative")], "as in its place, not where it lies now");
        // What was begun without a link yet is remembered.
        let remembered = [path("begun"), path("never")];
        empty(&path("data"), &remembered, &mut || Ok(())).unwrap();
        for name in ["data", "space", "log", "begun"] {
            assert_eq!(std::fs::read_dir(path(name)).unwrap().count(), 0, "{name}");
        }
        assert!(path("other/1").exists());
        empty(&path("missing"), &[], &mut || Ok(())).unwrap();
    }
}
