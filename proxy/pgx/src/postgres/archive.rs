//! Whether archiving would survive a change of primary, which pgx does not see to itself: what is
//! wrong is told to the operator.

use super::Place;
use super::error::Error;
use super::hands::Hands;
use super::session::Session;
use super::settings;

impl Hands {
    /// What is wrong with archiving; nothing where nobody archives.
    ///
    /// # Errors
    /// When the server cannot be asked.
    pub(crate) fn archive_troubles(&self) -> Result<Vec<String>, Error> {
        let session = Session::open(&self.place, &self.running()?)?;
        let row = session.ask(QUESTION)?.into_iter().next().unwrap_or_default();
        let text = |at: usize| row.get(at).cloned().flatten().unwrap_or_default();
        let (mode, has_command, is_standby) = (text(0), text(1) == "t", text(2) == "t");
        let mut troubles = Vec::new();
        if mode != "off" && !has_command {
            troubles.push(format!(
                "archive_mode is {mode}, and there is neither archive_command nor archive_library: \
                 pg_wal grows until the disk is full"
            ));
        }
        if text(3) == "t" {
            troubles.push(format!(
                "archiving fails: {} failures, the last one with {}; what is not archived is lost \
                 with this node, and pg_wal grows: see PostgreSQL's log",
                text(4),
                text(5)
            ));
        }
        if is_standby {
            troubles.extend(self.other_mode(&mode)?);
        }
        Ok(troubles)
    }

    /// Whether the primary archives, and this standby would not in its place, or the other way.
    fn other_mode(&self, mode: &str) -> Result<Option<String>, Error> {
        let place: &Place = &self.place;
        let Some(upstream) = settings::known(place)?.upstream else { return Ok(None) };
        let words = [("dbname", place.database.as_str())];
        let question = "SELECT current_setting('archive_mode')";
        // One that is not there has other troubles.
        let Ok(said) = self.ask_source("psql-archive", &upstream, &words, question) else {
            return Ok(None);
        };
        let is_other = (said.trim() == "off") != (mode == "off");
        Ok(is_other.then(|| {
            format!(
                "archive_mode is {mode} here and {} at the primary, node {}: a change of primary \
                 ends the archive, or begins it; set it alike, which needs a restart",
                said.trim(),
                upstream.node
            )
        }))
    }
}

/// The setting of a library is one of version 15 and later.
const QUESTION: &str = "\
    SELECT current_setting('archive_mode'), \
    current_setting('archive_command') NOT IN ('', '(disabled)') \
    OR coalesce(current_setting('archive_library', true), '') <> '', \
    pg_is_in_recovery(), \
    last_failed_time > coalesce(last_archived_time, '-infinity') \
    AND current_setting('archive_mode') <> 'off', \
    failed_count, last_failed_wal FROM pg_stat_archiver";
