//! Takes over a cluster that runs already, without a restart where its settings allow that.

use std::path::{Path, PathBuf};

use super::error::Error;
use super::files;
use super::hands::Hands;
use super::session::{Session, literal};
use super::settings::{self, Managed};
use super::{hba, postmaster, roles, versions};

/// What a setting lacks, and what it takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Lack {
    pub(crate) setting: String,
    pub(crate) found: String,
    pub(crate) wanted: String,
    pub(crate) remedy: Remedy,
}

/// What it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Remedy {
    /// pgx has set it; it is in force after the next restart.
    Restart,
    /// An operator has to set it in `postgresql.conf`, and restart.
    Operator,
}

/// What came of taking over.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Adoption {
    pub(crate) lacks: Vec<Lack>,
    /// The file by which the distribution's autostart was switched off.
    pub(crate) autostart: Option<PathBuf>,
}

/// Settings of the operator's without which there is no cluster: what they have to be, by SQL.
const NEEDED: [(&str, &str, &str); 5] = [
    ("wal_level", "replica or logical", "setting IN ('replica', 'logical')"),
    ("fsync", "on", "setting = 'on'"),
    ("full_page_writes", "on", "setting = 'on'"),
    ("max_wal_senders", "at least 10", "setting::int >= 10"),
    ("max_replication_slots", "at least 10", "setting::int >= 10"),
];

impl Hands {
    /// Takes over a server that runs: its settings, its rules for logins, on a primary the members'
    /// role, and the distribution's autostart. `managed` is what it is to go by from now on: a
    /// standby's upstream, and a primary's rule.
    ///
    /// # Errors
    /// When it does not run, cannot be asked, or a file cannot be written.
    pub(crate) fn adopt(&self, managed: &Managed) -> Result<Adoption, Error> {
        let place = &self.place;
        versions::of_directory(place)?;
        let found = postmaster::find(&place.data);
        let found = found.ok_or_else(|| Error::Silent("it does not run".to_owned()))?;
        let session = Session::open(place, &found)?;
        place.make_folder()?;
        place.make_own_directory(&place.sockets)?;
        let rules = PathBuf::from(session.value("SHOW hba_file")?);
        place.own(|| hba::write(place, &rules))?;
        let is_standby = session.value("SELECT pg_is_in_recovery()")? == "t";
        if !is_standby {
            let password = roles::password(place)?;
            let name = literal(&place.replication_user);
            let sql = format!("SELECT count(*) FROM pg_roles WHERE rolname = {name}");
            let exists = session.value(&sql)? != "0";
            for statement in roles::statements(place, exists, &password) {
                session.ask(&statement)?;
            }
        }
        self.write_pass_file()?;
        settings::write(place, managed)?;
        self.reload();
        // It has read the files, as the postmaster has before it lets anybody in.
        let session = Session::open(place, &found)?;
        let autostart = place.own(|| stop_autostart(&place.config_file))?;
        Ok(Adoption { lacks: lacks(&session)?, autostart })
    }
}

fn lacks(session: &Session) -> Result<Vec<Lack>, Error> {
    let mut all = Vec::new();
    for (name, wanted, test) in NEEDED {
        let sql = format!(
            "SELECT setting FROM pg_settings WHERE name = {} AND NOT ({test})",
            literal(name)
        );
        for row in session.ask(&sql)? {
            let found = row.into_iter().next().flatten().unwrap_or_default();
            let (setting, wanted) = (name.to_owned(), wanted.to_owned());
            all.push(Lack { setting, found, wanted, remedy: Remedy::Operator });
        }
    }
    // Checksums do as well: either tells pg_rewind which pages have changed.
    let rows = session.ask(
        "SELECT s.name, s.setting, f.setting FROM pg_settings AS s \
         JOIN pg_file_settings AS f USING (name) \
         WHERE s.pending_restart AND f.sourcefile LIKE '%/pgx.conf' \
         AND NOT (s.name = 'wal_log_hints' AND current_setting('data_checksums') = 'on') \
         ORDER BY 1",
    )?;
    for row in rows {
        let text = |at: usize| row.get(at).cloned().flatten().unwrap_or_default();
        let (setting, found, wanted) = (text(0), text(1), text(2));
        all.push(Lack { setting, found, wanted, remedy: Remedy::Restart });
    }
    Ok(all)
}

/// Debian starts a cluster at boot if a file beside its configuration says `auto`.
fn stop_autostart(config_file: &Path) -> Result<Option<PathBuf>, Error> {
    let path = config_file.with_file_name("start.conf");
    let Some(text) = files::read(&path)? else { return Ok(None) };
    let wanted: String = text
        .split_inclusive('\n')
        .map(|line| if line.trim() == "auto" { "manual\n" } else { line })
        .collect();
    files::write_if_other(&path, &wanted)?;
    Ok(Some(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn autostart_is_switched_off_and_the_rest_of_its_file_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("postgresql.conf");
        assert_eq!(stop_autostart(&config).unwrap(), None);
        let path = folder.path().join("start.conf");
        std::fs::write(&path, "# auto starts it\n\nauto\n").unwrap();
        assert_eq!(stop_autostart(&config).unwrap(), Some(path.clone()));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "# auto starts it\n\nmanual\n");
        assert_eq!(stop_autostart(&config).unwrap(), Some(path));
    }
}
