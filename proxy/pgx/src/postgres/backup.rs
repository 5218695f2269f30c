//! Fills an empty data directory from a backup, by a program of the operator's, in the place of a
//! copy that goes over the network. What it leaves is looked at before anybody relies on it; where
//! it is of no use, [`super::rebuild`] copies as if there were no such program.

use std::path::Path;
use std::time::Instant;

use pgx_control::ids::{Lsn, Timeline};
use rustix::process::{Signal, pidfd_send_signal};
use tracing::warn;

use super::called::Called;
use super::control_file::parse_lsn;
use super::error::Error;
use super::hands::Hands;
use super::session::Session;
use super::{Peer, Place, control_file, files, postmaster, process, program, rebuild, settings};
use crate::limits::postgres::{KILL_MAX, PAUSE, REBUILD_MAX};

/// What the program is called for, and the event that it is told of.
const WHAT: &str = "clone_command";
const EVENT: &str = "clone";

/// Says that the program has made the directory, and that nobody has seen it stream since.
const UNPROVEN: &str = "from_backup";

impl Hands {
    /// Has the operator's program fill the directory, which is empty; whether it is of use now. If
    /// not, anything may be in it.
    ///
    /// # Errors
    /// When somebody wants it to end, or what it has started cannot be ended.
    pub(super) fn fill(&self, upstream: &Peer, log: Option<&Path>) -> Result<bool, Error> {
        let place = &self.place;
        if place.clone_command.is_empty() {
            return Ok(false);
        }
        let unproven = place.folder().join(UNPROVEN);
        if unproven.exists() {
            // From the same backup the same would come again.
            warn!("what {WHAT} made last has never streamed; pg_basebackup copies this time");
            place.own(|| files::remove(&unproven))?;
            return Ok(false);
        }
        let mut facts = facts(place, upstream);
        facts.extend(log.map(|log| ("PGX_WAL_DIRECTORY", log.display().to_string())));
        let words = &place.clone_command;
        let called = Called { place, what: WHAT, words, facts: &facts, limit: REBUILD_MAX };
        let filled = called.run(&self.abort);
        // It may have left something behind that goes on writing.
        self.end_fillers()?;
        match filled.and_then(|()| self.check_filled(upstream)) {
            Ok(()) => place.own(|| files::write(&unproven, "")).map(|()| true),
            Err(Error::Aborted) => Err(Error::Aborted),
            Err(error) => {
                warn!("{WHAT} is of no use, pg_basebackup copies: {error}");
                Ok(false)
            }
        }
    }

    /// Whether the directory is of the source's cluster, and the source's history goes on from
    /// where it was backed up.
    fn check_filled(&self, upstream: &Peer) -> Result<(), Error> {
        let place = &self.place;
        let useless = |why| Error::UselessBackup { path: place.data.clone(), why };
        let found = place.own(|| control_file::read(&place.programs, &place.data));
        let found = found.map_err(Error::ControlFile)?;
        let words = [("replication", "true"), ("application_name", "pgx clone")];
        let said = self.ask_source("psql", upstream, &words, "IDENTIFY_SYSTEM")?;
        let (system, rest) = said.trim().split_once('|').unwrap_or_default();
        if system != found.system.0.to_string() {
            return Err(useless("it is of another database system than the source"));
        }
        let newest = rest.split('|').next().and_then(|text| text.parse().ok()).map(Timeline);
        let newest = newest.ok_or_else(|| useless("the source does not tell its timeline"))?;
        let label = place.own(|| files::read(&place.data.join(rebuild::LABEL)))?;
        let label = label.as_deref().unwrap_or_default();
        let start = rebuild::first_position(label).unwrap_or(found.checkpoint.0);
        let timeline = first_timeline(label).unwrap_or(found.checkpoint.1);
        if timeline != newest {
            let question = format!("TIMELINE_HISTORY {}", newest.0);
            let history = match newest.0 {
                1 => String::new(),
                _ => self.ask_source("psql", upstream, &words, &question)?,
            };
            if switch_from(&history, timeline).is_none_or(|switch| switch <= start) {
                return Err(useless("it is of a timeline that the source does not come from"));
            }
        }
        let can_fetch = program::setting(place, "restore_command").is_ok_and(|set| !set.is_empty());
        if !can_fetch && self.has_lost(upstream, start)? {
            return Err(useless(
                "the source has removed the log since then, and there is no restore_command",
            ));
        }
        Ok(())
    }

    /// Remembers that the directory is one that streams, if it does.
    ///
    /// # Errors
    /// When the file that says otherwise cannot be removed.
    pub(crate) fn settle_backup(&self) -> Result<(), Error> {
        let unproven = self.place.folder().join(UNPROVEN);
        if !unproven.exists() {
            return Ok(());
        }
        let Some(found) = postmaster::find(&self.place.data) else { return Ok(()) };
        let session = Session::open(&self.place, &found)?;
        let streams = "SELECT count(*) FROM pg_stat_wal_receiver WHERE status = 'streaming'";
        if session.value(streams)? == "1" {
            self.place.own(|| files::remove(&unproven))?;
        }
        Ok(())
    }

    /// Ends what the program has started, of an earlier pgx too: it may have left its process
    /// group, but not what it was told.
    ///
    /// # Errors
    /// When one does not end though it is killed.
    pub(super) fn end_fillers(&self) -> Result<(), Error> {
        if self.place.clone_command.is_empty() {
            return Ok(());
        }
        let deadline = Instant::now() + KILL_MAX;
        let mut quiet = 0;
        // Twice, as one that starts another while the list is read can hide it.
        while quiet < 2 {
            let pids = fillers(&self.place.data);
            quiet = if pids.is_empty() { quiet + 1 } else { 0 };
            if Instant::now() >= deadline {
                return Err(Error::Unkillable { pids });
            }
            for pid in pids {
                let handle = process::open(pid).filter(|_| is_filler(pid, &self.place.data));
                let _ = handle.map(|handle| pidfd_send_signal(&handle, Signal::KILL));
                std::thread::sleep(PAUSE);
            }
        }
        Ok(())
    }
}

fn facts(place: &Place, upstream: &Peer) -> Vec<(&'static str, String)> {
    let source = settings::conninfo(place, upstream, &[("application_name", "pgx clone")]);
    vec![
        ("PGX_EVENT", EVENT.to_owned()),
        ("PGX_NODE", place.node.to_string()),
        ("PGX_DATA_DIRECTORY", place.data.display().to_string()),
        ("PGX_PORT", place.port.to_string()),
        ("PGX_PRIMARY", upstream.node.to_string()),
        ("PGX_PRIMARY_HOST", upstream.host.clone()),
        ("PGX_PRIMARY_PORT", upstream.port.to_string()),
        ("PGX_PRIMARY_CONNINFO", source),
    ]
}

fn fillers(data: &Path) -> Vec<i32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| is_filler(*pid, data)).collect()
}

fn is_filler(pid: i32, data: &Path) -> bool {
    let told = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    let has = |line: String| told.split(|byte| *byte == 0).any(|known| known == line.as_bytes());
    has(format!("PGX_EVENT={EVENT}")) && has(format!("PGX_DATA_DIRECTORY={}", data.display()))
}

/// The timeline on which a backup began, as its label says.
fn first_timeline(label: &str) -> Option<Timeline> {
    let line = label.lines().find_map(|line| line.strip_prefix("START TIMELINE:"))?;
    line.trim().parse().ok().map(Timeline)
}

/// Where a history leaves a timeline. psql has the file's name before its first line.
fn switch_from(history: &str, timeline: Timeline) -> Option<Lsn> {
    history.lines().find_map(|line| {
        let line = line.rsplit_once('|').map_or(line, |(_, line)| line);
        let mut words = line.split_whitespace();
        let is_it = words.next()?.parse() == Ok(timeline.0);
        words.next().filter(|_| is_it).and_then(parse_lsn)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backup_is_of_use_up_to_where_the_history_leaves_its_timeline() {
        let history = "00000003.history|1\t0/5000000\tno recovery target specified\n\n\
                       2\t1/6000000\tno recovery target specified\n";
        assert_eq!(switch_from(history, Timeline(1)), Some(Lsn(0x500_0000)));
        assert_eq!(switch_from(history, Timeline(2)), Some(Lsn(0x1_0600_0000)));
        assert_eq!(switch_from(history, Timeline(3)), None);
        assert_eq!(first_timeline("LABEL: x\nSTART TIMELINE: 7\n"), Some(Timeline(7)));
    }
}
