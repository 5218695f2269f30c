//! What has happened to the cluster, on disk for operators: events, and a report of each change of
//! primary.
//!
//! Nothing depends on these files. What cannot be written is logged and left out.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::time::Instant;

use pgx_control::admin::{ChangeReport, Event, Trouble};
use pgx_control::chronicle::{Chronicle, sentence};
use pgx_control::cluster::{Entry, State};
use pgx_controller::Controller;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tracing::warn;

use super::journal::Journal;
use crate::limits::control::{EVENTS_BYTES_MAX, REPORTS_MAX};
use crate::moment::{unix_ms, utc};

const EVENTS: &str = "events.jsonl";
const EVENTS_BEFORE: &str = "events.1.jsonl";
const REPORTS: &str = "changes";

/// Writes them.
pub(super) struct Records {
    folder: PathBuf,
    chronicle: Chronicle,
    /// The last place of the log that has been told: a start applies those before it again.
    told: u64,
    journal: Journal,
}

impl Records {
    /// Goes on in this folder, from where the log has been applied.
    pub(super) fn new(folder: &Path, controller: &Controller) -> Self {
        Self::from(folder, controller.state(), controller.quorum_status().applied_index)
    }

    fn from(folder: &Path, state: &State, told: u64) -> Self {
        let chronicle = Chronicle::new(state.tenure().map(|tenure| tenure.holder));
        Self { folder: folder.to_owned(), chronicle, told, journal: Journal::default() }
    }

    /// The state is another now.
    pub(super) fn see(&mut self, state: &State) {
        self.chronicle.see(state.tenure().map(|tenure| tenure.holder));
    }

    /// An entry was applied; `seen` says what is wrong.
    pub(super) fn applied(
        &mut self,
        index: u64,
        entry: &Entry,
        seen: impl FnOnce() -> Vec<Trouble>,
    ) {
        if index <= self.told {
            return;
        }
        self.told = index;
        let at_ms = unix_ms();
        if let Some(text) = sentence(entry, utc) {
            self.write(&Event { at_ms, index: Some(index), text });
        }
        if let Some(report) = self.chronicle.applied(entry, at_ms, utc, seen) {
            let written = write_report(&self.folder, &report);
            self.warn_of("the report of a change of primary", written);
        }
    }

    /// Something is waited for.
    pub(super) fn waits(&mut self, what: &str) {
        self.chronicle.waits(what, unix_ms());
        self.happened(format!("waits: {what}"));
    }

    /// Something else has happened.
    pub(super) fn happened(&mut self, text: String) {
        self.write(&Event { at_ms: unix_ms(), index: None, text });
    }

    fn write(&mut self, event: &Event) {
        let written = append(&self.folder, event);
        self.warn_of("an event", written);
    }

    fn warn_of(&mut self, what: &str, written: io::Result<()>) {
        let Err(error) = written else { return };
        let error = error.to_string();
        if let Some(repeated) = self.journal.is_due(&error, Instant::now()) {
            warn!(error, repeated, "cannot write {what} in {}", self.folder.display());
        }
    }
}

/// The last events, the newest last.
///
/// # Errors
/// When a file is there and cannot be read.
pub(crate) fn events(folder: &Path, last: usize) -> io::Result<Vec<Event>> {
    let mut all = Vec::new();
    for name in [EVENTS_BEFORE, EVENTS] {
        let text = unless_missing(fs::read_to_string(folder.join(name)))?.unwrap_or_default();
        // What a crash has cut off is no event.
        all.extend(text.lines().filter_map(|line| serde_json::from_str(line).ok()));
    }
    Ok(all.split_off(all.len().saturating_sub(last)))
}

/// The reports of the last changes of primary, the newest last.
///
/// # Errors
/// When one is there and cannot be read.
pub(crate) fn history(folder: &Path, last: usize) -> io::Result<Vec<ChangeReport>> {
    let names = report_names(folder)?;
    let names = names.iter().skip(names.len().saturating_sub(last));
    let reports = names.map(|path| fs::read(path).map(|bytes| parse(&bytes)));
    Ok(reports.collect::<io::Result<Vec<_>>>()?.into_iter().flatten().collect())
}

fn append(folder: &Path, event: &Event) -> io::Result<()> {
    let path = folder.join(EVENTS);
    let mut file = OpenOptions::new().create(true).append(true).read(true).open(&path)?;
    if file.metadata()?.len() >= EVENTS_BYTES_MAX {
        fs::rename(&path, folder.join(EVENTS_BEFORE))?;
        file = OpenOptions::new().create_new(true).append(true).read(true).open(&path)?;
    }
    let mut line = line(event)?;
    if ends_within_a_line(&mut file)? {
        line.insert(0, b'\n');
    }
    file.write_all(&line)
}

/// Whether a crash, or a full disk, has cut the last line off.
fn ends_within_a_line(file: &mut File) -> io::Result<bool> {
    if file.metadata()?.len() == 0 {
        return Ok(false);
    }
    let mut last = [0];
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut last)?;
    Ok(last != *b"\n")
}

/// Written aside and renamed, so that none is ever half there.
fn write_report(folder: &Path, report: &ChangeReport) -> io::Result<()> {
    let reports = folder.join(REPORTS);
    fs::create_dir_all(&reports)?;
    let (path, aside) = (reports.join(format!("{:010}.json", report.epoch)), reports.join("new"));
    fs::write(&aside, line(report)?)?;
    fs::rename(aside, path)?;
    let names = report_names(folder)?;
    for old in names.iter().rev().skip(REPORTS_MAX) {
        fs::remove_file(old)?;
    }
    Ok(())
}

/// By their epochs.
fn report_names(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let Some(found) = unless_missing(fs::read_dir(folder.join(REPORTS)))? else {
        return Ok(Vec::new());
    };
    let mut names = Vec::new();
    for entry in found {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "json") {
            names.push(path);
        }
    }
    names.sort();
    Ok(names)
}

fn line(value: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    Ok(line)
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    serde_json::from_slice(bytes).ok()
}

fn unless_missing<T>(found: io::Result<T>) -> io::Result<Option<T>> {
    match found {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        found => found.map(Some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pgx_control::ids::{Attempt, Epoch, Lsn, NodeId, Timeline};
    use pgx_control::lease::Settings;

    fn records(folder: &Path, applied: u64) -> Records {
        Records::from(folder, &State::new([NodeId(1)].into(), Settings::default()), applied)
    }

    fn seal(epoch: u64) -> Entry {
        Entry::Seal { epoch: Epoch(epoch), attempt: Attempt(1) }
    }

    fn established(epoch: u64) -> Entry {
        Entry::Established {
            epoch: Epoch(epoch),
            timeline: Timeline(2),
            switch: Lsn(1),
            lsn: Lsn(2),
            change: 1,
            confirmed: [].into(),
        }
    }

    fn bootstrap() -> Entry {
        Entry::Bootstrap {
            system: pgx_control::ids::SystemId(1),
            holder: NodeId(1),
            incarnation: pgx_control::ids::Incarnation(1),
            timeline: Timeline(1),
        }
    }

    #[test]
    fn events_survive_a_start_that_applies_the_log_again() {
        let folder = tempfile::tempdir().unwrap();
        let mut first = records(folder.path(), 0);
        first.applied(1, &bootstrap(), Vec::new);
        first.happened("node 1 coordinates".to_owned());
        let mut second = records(folder.path(), 1);
        second.applied(1, &bootstrap(), Vec::new);
        second.applied(2, &seal(0), Vec::new);
        let texts: Vec<_> =
            events(folder.path(), 9).unwrap().into_iter().map(|event| event.text).collect();
        assert_eq!(texts.len(), 3, "{texts:?}");
        assert!(texts[0].contains("node 1 as primary") && texts[2].contains("being left"));
        assert_eq!(events(folder.path(), 1).unwrap()[0].index, Some(2));
    }

    #[test]
    fn line_that_a_crash_cut_off_costs_no_other() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(EVENTS), br#"{"at_ms":1,"te"#).unwrap();
        records(folder.path(), 0).happened("on again".to_owned());
        let found = events(folder.path(), 9).unwrap();
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].text, "on again");
    }

    #[test]
    fn events_are_bounded_and_the_older_half_goes_first() {
        let folder = tempfile::tempdir().unwrap();
        let mut records = records(folder.path(), 0);
        let long = "x".repeat(64 * 1024);
        for number in 0..50 {
            records.happened(format!("{number} {long}"));
        }
        let kept = events(folder.path(), usize::MAX).unwrap();
        assert!(kept.last().unwrap().text.starts_with("49 ") && kept.len() < 50, "{}", kept.len());
        let size = |name| fs::metadata(folder.path().join(name)).unwrap().len();
        assert!(size(EVENTS) + size(EVENTS_BEFORE) <= 2 * EVENTS_BYTES_MAX + 2 * 65 * 1024);
    }

    #[test]
    fn each_change_has_its_report_and_the_oldest_reports_go() {
        let folder = tempfile::tempdir().unwrap();
        let mut records = records(folder.path(), 0);
        records.chronicle.see(Some(NodeId(1)));
        let changes = REPORTS_MAX as u64 + 3;
        for epoch in 0..changes {
            let seen = || vec![Trouble::new("cause", "next")];
            records.applied(2 + 2 * epoch, &seal(epoch), seen);
            records.applied(3 + 2 * epoch, &established(epoch + 1), Vec::new);
        }
        let kept = history(folder.path(), usize::MAX).unwrap();
        assert_eq!((kept.len(), kept.last().unwrap().epoch), (REPORTS_MAX, changes));
        assert_eq!(kept[0].seen[0].cause, "cause");
        assert_eq!(history(folder.path(), 2).unwrap().len(), 2);
        assert_eq!(history(&folder.path().join("none"), 2).unwrap(), []);
    }
}
