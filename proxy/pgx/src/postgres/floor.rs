//! What a strict cluster does not let anybody set too low, on this server: files are overridden,
//! ALTER SYSTEM is undone, and what roles and databases have is told. Which values are too low is
//! [`pgx_session::strict`]'s to say, by which proxies go as well.

use pgx_session::strict::{NAMES, is_low};

use super::error::Error;
use super::files;
use super::hands::Hands;
use super::postmaster;
use super::session::Session;
use super::settings::{self, Floor};

/// What the operator's files say last, and whether ALTER SYSTEM did.
const FILES: &str = "SELECT DISTINCT ON (lower(name)) lower(name), setting, \
    sourcefile LIKE '%/postgresql.auto.conf', sourcefile || ':' || sourceline \
    FROM pg_file_settings WHERE error IS NULL AND sourcefile NOT LIKE '%/pgx.conf' \
    ORDER BY lower(name), seqno DESC";

/// What a primary's roles and databases have set.
const ROLES: &str = "SELECT lower(split_part(setting, '=', 1)), split_part(setting, '=', 2), \
    concat_ws(' in ', 'role ' || quote_ident(rolname), 'database ' || quote_ident(datname)) \
    FROM pg_db_role_setting CROSS JOIN unnest(setconfig) AS setting \
    LEFT JOIN pg_roles ON pg_roles.oid = setrole \
    LEFT JOIN pg_database ON pg_database.oid = setdatabase \
    WHERE NOT pg_is_in_recovery() ORDER BY 1, 2, 3";

impl Hands {
    /// Sees to it that a strict cluster's server has nothing too low, or leaves it to the operator.
    ///
    /// # Errors
    /// When the server cannot be asked or a file not be written; and when somebody has set what is
    /// too low, to be told.
    pub(crate) fn hold_floor(&self, is_strict: bool) -> Result<(), Error> {
        let place = &self.place;
        let known = settings::known(place)?.floor;
        if !is_strict {
            return if known.is_none() { Ok(()) } else { self.change(|all| all.floor = None) };
        }
        let found = postmaster::find(&place.data);
        let found = found.ok_or_else(|| Error::Silent("it does not run".to_owned()))?;
        let session = Session::open(place, &found)?;
        let (mut floor, mut low) = (Floor::default(), Vec::new());
        for row in session.ask(FILES)? {
            let [name, value, is_system, place] = texts(row);
            if is_low(&name, &value) {
                if is_system == "t" {
                    self.take_out(&name)?;
                }
                low.push(format!("{place} sets {name} to {value:?}, which does not count"));
            } else if NAMES.contains(&name.as_str()) {
                floor.set(&name, value);
            }
        }
        if known.as_ref() != Some(&floor) {
            self.change(|all| all.floor = Some(floor))?;
        }
        for row in session.ask(ROLES)? {
            let [name, value, whose] = texts(row);
            if is_low(&name, &value) {
                low.push(format!("{whose} has {name} = {value:?}, which counts past proxies"));
            }
        }
        if low.is_empty() { Ok(()) } else { Err(Error::Low(low.join("; "))) }
    }

    /// Takes out what ALTER SYSTEM has set.
    fn take_out(&self, name: &str) -> Result<(), Error> {
        let path = self.place.data.join("postgresql.auto.conf");
        let has_changed = self.place.own(|| {
            let known = files::read(&path)?.unwrap_or_default();
            let kept = settings::without(&known, |found| found == name);
            files::write_if_other(&path, &kept)
        })?;
        if has_changed {
            self.reload();
        }
        Ok(())
    }
}

fn texts<const COUNT: usize>(row: Vec<Option<String>>) -> [String; COUNT] {
    let mut row = row.into_iter();
    std::array::from_fn(|_| row.next().flatten().unwrap_or_default())
}
