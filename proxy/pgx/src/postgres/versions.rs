//! What differs between PostgreSQL's versions. Tests run with the one that is installed, 15 here;
//! the rest is from the release notes.

use super::Place;
use super::error::Error;

/// The oldest that is supported: from 13 on a reload is enough to follow another primary.
pub(super) const OLDEST: u32 = 13;

/// The major version of a directory.
pub(super) fn of_directory(place: &Place) -> Result<u32, Error> {
    let path = place.data.join("PG_VERSION");
    let text = super::files::read(&path)?.unwrap_or_default();
    let found = text.trim().parse().map_err(|_| Error::Strange {
        path,
        what: format!("{:?} is no version of PostgreSQL", text.trim()),
    })?;
    if found < OLDEST { Err(Error::Version { found }) } else { Ok(found) }
}

/// Whether a file can promote a standby behind everybody's back, if a setting names it: until 15.
pub(super) fn has_trigger_file(version: u32) -> bool {
    version <= 15
}

/// Whether `pg_rewind` can be told of a configuration outside of the directory: since 15. Without
/// it, `--restore-target-wal` does not find `restore_command` there.
pub(super) fn rewinds_with_config_file(version: u32) -> bool {
    version >= 15
}
