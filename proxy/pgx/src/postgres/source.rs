//! The server that a directory gets its history from, as it answers before anything is given up
//! for it. Asked by libpq's own program, so by the same rules as those that copy.

use pgx_control::ids::{Lsn, Timeline};

use super::Peer;
use super::error::Error;
use super::hands::Hands;
use super::program::Program;
use super::{rebuild, settings};
use crate::limits::postgres::REBUILD_MAX;

/// As slow as it gets: nothing of what it sends is wanted.
const SLOWEST: &str = "--max-rate=32";

impl Hands {
    /// Logs in as a copy would. Without that a directory is emptied, and nothing takes its place.
    ///
    /// # Errors
    /// When the source cannot be reached, or lets nobody in.
    pub(super) fn knock(&self, upstream: &Peer) -> Result<(), Error> {
        let words = [("replication", "true"), ("application_name", "pgx clone")];
        self.ask_source("psql", upstream, &words, "IDENTIFY_SYSTEM").map(drop)
    }

    /// Makes sure that the source's control file names the timeline that the source is on; whether
    /// it can be asked for that. `pg_rewind` before version 16 goes by the control file, which is
    /// behind until the first checkpoint after a promotion: it would find that nothing has parted,
    /// and leave a fork as it is.
    ///
    /// # Errors
    /// When the source is no primary yet, or its checkpoint is not to be had.
    pub(super) fn await_timeline(&self, upstream: &Peer) -> Result<bool, Error> {
        let Some(seen) = self.source_timelines(upstream)? else { return Ok(false) };
        if seen.current == seen.in_control_file {
            return Ok(true);
        }
        self.checkpoint_source(upstream)?;
        let Some(seen) = self.source_timelines(upstream)? else { return Ok(false) };
        if seen.current != seen.in_control_file {
            return Err(self.not_ready(upstream, "its control file names an older timeline"));
        }
        Ok(true)
    }

    /// Whether the source has removed the log from there on, and no standby that is there can
    /// follow it any more.
    ///
    /// # Errors
    /// When it cannot be asked.
    pub(super) fn has_lost(&self, upstream: &Peer, end: Lsn) -> Result<bool, Error> {
        // A standby begins with the whole segment. A segment has a name in each timeline. The byte
        // behind is asked for, as versions differ in where one segment ends.
        let next = Lsn(end.0.saturating_add(1));
        let sql = format!(
            "SELECT CASE WHEN pg_is_in_recovery() THEN false ELSE \
             '{end}'::pg_lsn < pg_current_wal_flush_lsn() AND NOT EXISTS \
             (SELECT FROM pg_ls_dir('pg_wal', true, false) AS name WHERE length(name) = 24 \
             AND substr(name, 9) = substr(pg_walfile_name('{next}'), 9)) END"
        );
        let words = [("dbname", self.place.database.as_str())];
        Ok(self.ask_source("psql-lost", upstream, &words, &sql)?.trim() == "t")
    }

    /// `None` if it does not let the members' role ask, without which nothing is rewound.
    fn source_timelines(&self, upstream: &Peer) -> Result<Option<Timelines>, Error> {
        let sql = "SELECT timeline_id, CASE WHEN pg_is_in_recovery() THEN NULL ELSE \
                   substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8) END \
                   FROM pg_control_checkpoint()";
        let words = [("dbname", self.place.database.as_str())];
        let said = match self.ask_source("psql", upstream, &words, sql) {
            Err(Error::SourceRefuses { .. }) => return Ok(None),
            other => other?,
        };
        let (in_control_file, current) = said.trim().split_once('|').unwrap_or_default();
        let current = u32::from_str_radix(current, 16).ok().map(Timeline);
        let current = current.ok_or_else(|| self.not_ready(upstream, "it is in recovery"))?;
        let in_control_file = in_control_file.parse().ok().map(Timeline);
        Ok(in_control_file.map(|in_control_file| Timelines { current, in_control_file }))
    }

    /// A base backup begins with a checkpoint, and whoever may replicate may have one.
    fn checkpoint_source(&self, upstream: &Peer) -> Result<(), Error> {
        let place = &self.place;
        let source = settings::conninfo(place, upstream, &[("application_name", "pgx checkpoint")]);
        let out = place.folder().join("pg_basebackup.out");
        let program = Program::new(place, "pg_basebackup").arg("--dbname").arg(source);
        let program = program
            .args(["--pgdata=-", "--format=tar", "--wal-method=none", "--no-manifest"])
            .args(["--checkpoint=fast", "--no-password", SLOWEST])
            .limit(REBUILD_MAX);
        let begun = program.run_watched(&self.abort, |_| {
            Ok(std::fs::metadata(&out).is_ok_and(|found| found.len() > 0))
        });
        match begun {
            // With tablespaces it cannot write to one stream, and finds that out too late for us.
            Ok(()) | Err(Error::Program { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// `label` names the files of what it says.
    pub(super) fn ask_source(
        &self,
        label: &'static str,
        upstream: &Peer,
        words: &[(&str, &str)],
        question: &str,
    ) -> Result<String, Error> {
        let source = settings::conninfo(&self.place, upstream, words);
        let program = Program::new(&self.place, "psql")
            .label(label)
            // It may be asked beside a copy.
            .alone()
            .args(["--no-psqlrc", "--no-align", "--tuples-only", "--quiet", "--no-password"])
            .args(["--command", question, "--dbname", &source]);
        program.run(&self.abort).map_err(|error| match rebuild::lost(error, upstream) {
            Error::Program { said, .. } => self.refuses(upstream, said),
            other => other,
        })
    }

    fn refuses(&self, upstream: &Peer, said: String) -> Error {
        Error::SourceRefuses { host: upstream.host.clone(), port: upstream.port, said }
    }

    fn not_ready(&self, upstream: &Peer, why: &'static str) -> Error {
        Error::SourceNotReady { host: upstream.host.clone(), port: upstream.port, why }
    }
}

struct Timelines {
    current: Timeline,
    in_control_file: Timeline,
}
