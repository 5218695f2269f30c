//! pgx's lines in `pg_hba.conf`: the agent's way in, and the members'.

use std::path::Path;

use super::Place;
use super::error::Error;
use super::files::{self, Side};

/// Puts the lines in; whether that changes anything. All else in the file stays as it is.
pub(super) fn write(place: &Place, path: &Path) -> Result<bool, Error> {
    let known = files::read(path)?.unwrap_or_default();
    files::write_if_other(path, &files::with_block(&known, Side::Top, &lines(place)))
}

fn lines(place: &Place) -> String {
    let (user, database) = (quoted(&place.user), quoted(&place.database));
    let member = quoted(&place.replication_user);
    format!(
        "local all {user} peer\n\
         host replication {member} all scram-sha-256\n\
         host {database} {member} all scram-sha-256\n\
         # Nothing else is that role's.\n\
         host all {member} all reject\n"
    )
}

/// Quoted, a name has no other meaning.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
