//! Gives a directory another node's history: by rewinding it, by cloning it anew, or by making a
//! copy in the place of one that is put aside.
//!
//! A mark beside the directory is durable before its first byte changes and goes last: what is half
//! built is never started, and the next try goes on from what the mark says.

use std::io::ErrorKind;
use std::net::ToSocketAddrs;
use std::path::{Path, PathBuf};

use pgx_control::ids::{Incarnation, Lsn};
use rustix::fs::statvfs;

use super::elsewhere::{self, Remembered};
use super::error::{Error, system};
use super::files;
use super::hands::Hands;
use super::program::{self, Program};
use super::settings::{self, Managed};
use super::spaces;
use super::{Peer, Place, control_file, process, versions};
use crate::limits::postgres::{FULL_BELOW_BYTES, REBUILD_MAX, SOURCE_MAX};

/// The mark's name.
const MARK: &str = "rebuilding";

/// What it says, before a name, while what was put aside comes back.
const RESTORING: &str = "restoring ";

/// Where a server begins to recover that was rewound or cloned.
pub(super) const LABEL: &str = "backup_label";

/// Files of the directory that are this node's and not the source's.
const OWN_FILES: [&str; 4] = ["postgresql.conf", "pg_hba.conf", "pg_ident.conf", "pgx.conf"];

/// How a directory was rebuilt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Means {
    Rewound,
    Cloned,
    /// By the operator's program.
    FromBackup,
}

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Progress {
    pub(crate) means: Means,
    pub(crate) done_kb: u64,
    pub(crate) total_kb: u64,
}

/// What is half done to the directory; `None` if it is whole.
pub(super) fn mark(place: &Place) -> Result<Option<String>, Error> {
    let path = place.folder().join(MARK);
    Ok(place.own(|| files::read(&path))?.map(|text| text.trim().to_owned()))
}

pub(super) fn set_mark(place: &Place, what: &str) -> Result<(), Error> {
    place.make_folder()?;
    files::sync_parent(&place.folder())?;
    place.own(|| files::write(&place.folder().join(MARK), what))
}

pub(super) fn remove_mark(place: &Place) -> Result<(), Error> {
    place.own(|| files::remove(&place.folder().join(MARK)))
}

impl Hands {
    /// Gives the directory this member's history, by rewinding if that is possible; it receives
    /// from there then, as `directory`. There may be no directory yet.
    ///
    /// # Errors
    /// When it does not work out; unless it is said otherwise, the next try goes on.
    pub(crate) fn rebuild(
        &self,
        upstream: &Peer,
        directory: Incarnation,
        tell: &mut dyn FnMut(Progress),
    ) -> Result<Means, Error> {
        let place = &self.place;
        self.kill()?;
        self.end_fillers()?;
        self.prepare()?;
        self.knock(upstream)?;
        undo_restore(place)?;
        let is_half = mark(place)?.is_some();
        let can_rewind = !is_half && control_file::read(&place.programs, &place.data).is_ok();
        let means = if can_rewind && self.rewind(upstream, tell)? {
            Means::Rewound
        } else {
            // It may have gone away meanwhile.
            self.knock(upstream)?;
            self.claim(upstream)?;
            set_mark(place, &format!("cloning from node {}", upstream.node))?;
            self.clone_from(upstream, tell)?
        };
        self.finish(directory, Some(upstream))?;
        Ok(means)
    }

    /// As [`Self::rebuild`], and makes no use of whatever is there.
    ///
    /// # Errors
    /// As for [`Self::rebuild`].
    pub(crate) fn copy_anew(
        &self,
        upstream: &Peer,
        directory: Incarnation,
        tell: &mut dyn FnMut(Progress),
    ) -> Result<Means, Error> {
        // What is half built is never rewound, whoever tries it next; what is the node's own is
        // saved from it before.
        self.prepare()?;
        set_mark(&self.place, &format!("cloning from node {}", upstream.node))?;
        self.rebuild(upstream, directory, tell)
    }

    /// Puts the directory aside under the name of `kept`, unless one of that name is there, and
    /// makes a copy of this member's in its place.
    ///
    /// # Errors
    /// As for [`Self::rebuild`].
    pub(crate) fn copy(
        &self,
        upstream: &Peer,
        kept: Incarnation,
        directory: Incarnation,
        tell: &mut dyn FnMut(Progress),
    ) -> Result<(), Error> {
        let place = &self.place;
        self.kill()?;
        self.end_fillers()?;
        self.prepare()?;
        self.knock(upstream)?;
        undo_restore(place)?;
        self.claim(upstream)?;
        set_mark(place, &format!("copying from node {}", upstream.node))?;
        put_aside(place, kept)?;
        let _ = self.clone_from(upstream, tell)?;
        self.finish(directory, Some(upstream))
    }

    /// Puts the directory that was put aside under this name back into its place; what is there is
    /// removed. Where nothing is aside, the move did not come to pass, or it is back already.
    ///
    /// # Errors
    /// When a directory cannot be moved or removed, or it is neither aside nor in its place: the
    /// disk that has it may be missing.
    pub(crate) fn restore(&self, kept: Incarnation) -> Result<(), Error> {
        let place = &self.place;
        self.kill()?;
        self.end_fillers()?;
        place.make_folder()?;
        let (aside, data) = (aside(place, kept), &place.data);
        let check = &mut || self.abort.check();
        let original = if aside.exists() { &aside } else { data };
        let restoring = format!("{RESTORING}{}", settings::name(kept));
        if aside.exists() {
            set_mark(place, &restoring)?;
        } else if mark(place)?.as_ref() != Some(&restoring)
            && settings::read(place)?.map(|known| known.directory) != Some(kept)
        {
            return Err(Error::NothingAside(aside));
        }
        for space in elsewhere::all(data, original)? {
            spaces::put_back(place, &space, &beside(&space, kept), check)?;
        }
        let trash = place.folder().join("trash");
        if aside.exists() {
            files::remove_all(&trash, check)?;
            if data.exists() {
                move_durably(data, &trash)?;
            }
            move_durably(&aside, data)?;
        }
        self.finish(kept, None)?;
        files::remove_all(&trash, check)
    }

    /// Keeps the directory that was put aside under this name for good, and its tablespaces; where
    /// it is now, if it is there.
    ///
    /// # Errors
    /// When one cannot be moved.
    pub(crate) fn retain(&self, kept: Incarnation) -> Result<Option<PathBuf>, Error> {
        let place = &self.place;
        undo_restore(place)?;
        let aside = aside(place, kept);
        let lost = |what: &str| place.folder().join(format!("{what}-{}", settings::name(kept)));
        let mut what = "lost".to_owned();
        if !aside.exists() {
            return Ok(Some(lost(&what)).filter(|lost| lost.exists()));
        }
        // Somebody may have put it back before, and it comes here again.
        while lost(&what).exists() {
            what += "-again";
        }
        for space in elsewhere::all(&place.data, &aside)? {
            let name = spaces::named(&space, &what, kept);
            spaces::move_aside(place, &beside(&space, kept), &name)?;
        }
        move_durably(&aside, &lost(&what))?;
        Ok(Some(lost(&what)))
    }

    /// Removes directories that were put aside, but for this one.
    ///
    /// # Errors
    /// When one cannot be removed.
    pub(crate) fn remove_others(&self, kept: Option<Incarnation>) -> Result<(), Error> {
        undo_restore(&self.place)?;
        let folder = self.place.folder();
        let entries = std::fs::read_dir(&folder).into_iter().flatten().flatten();
        let check = &mut || self.abort.check();
        for entry in entries {
            let name = entry.file_name().into_string().unwrap_or_default();
            let Some(found) = name.strip_prefix("kept-").and_then(settings::directory) else {
                continue;
            };
            if Some(found) == kept {
                continue;
            }
            for space in elsewhere::all(&self.place.data, &entry.path())? {
                spaces::remove(&self.place, &beside(&space, found), check)?;
            }
            files::remove_all(&entry.path(), check)?;
        }
        Ok(())
    }

    /// Keeps what is this node's own in the directory, before it gets another's.
    fn prepare(&self) -> Result<(), Error> {
        let place = &self.place;
        place.make_folder()?;
        place.make_own_directory(&place.sockets)?;
        self.write_pass_file()?;
        let saved = place.folder().join("own");
        // What is half built has the source's.
        if mark(place)?.is_some() || !place.has_config_inside() {
            return Ok(());
        }
        place.make_own_directory(&saved)?;
        place.own(|| {
            for name in OWN_FILES {
                if let Some(text) = files::read(&place.data.join(name))? {
                    files::write_if_other(&saved.join(name), &text)?;
                }
            }
            Ok(())
        })
    }

    /// The directory has its new content: it becomes this node's, and whole.
    pub(super) fn finish(
        &self,
        directory: Incarnation,
        upstream: Option<&Peer>,
    ) -> Result<(), Error> {
        let place = &self.place;
        let saved = place.folder().join("own");
        // A directory that came back has its own.
        if upstream.is_some() && place.has_config_inside() {
            place.own(|| {
                for name in OWN_FILES {
                    if let Some(text) = files::read(&saved.join(name))? {
                        files::write_if_other(&place.data.join(name), &text)?;
                    }
                }
                Ok(())
            })?;
        }
        let managed = Managed { upstream: upstream.cloned(), ..Managed::new(directory) };
        settings::write(place, &managed)?;
        if upstream.is_some() {
            let signal = place.data.join("standby.signal");
            place.own(|| files::write_if_other(&signal, ""))?;
        }
        elsewhere::forget(place)?;
        remove_mark(place)
    }

    /// Rewinds; whether that was possible. If not, nothing of value has changed.
    fn rewind(&self, upstream: &Peer, tell: &mut dyn FnMut(Progress)) -> Result<bool, Error> {
        let place = &self.place;
        if !self.await_timeline(upstream)? || !self.recover()? {
            return Ok(false);
        }
        let label = place.data.join(LABEL);
        let control = control_file::read(&place.programs, &place.data);
        let control = control.map_err(Error::ControlFile)?;
        if label.exists() {
            return Ok(false);
        }
        let version = versions::of_directory(place)?;
        let source = [("dbname", place.database.as_str())];
        let source = settings::conninfo(place, upstream, &source);
        let mut words = vec!["--no-ensure-shutdown".to_owned(), "--progress".to_owned()];
        let has_config = place.has_config_inside() || versions::rewinds_with_config_file(version);
        let has_restore = !program::setting(place, "restore_command")?.is_empty();
        if has_config && has_restore {
            words.push("--restore-target-wal".to_owned());
            if !place.has_config_inside() {
                words.push(format!("--config-file={}", place.config_file.display()));
            }
        }
        let mut run = |more: Option<&str>| {
            let program = Program::new(place, "pg_rewind").arg("--target-pgdata");
            let program = program.arg(&place.data).arg("--source-server").arg(&source);
            let program = program.args(&words).args(more).limit(REBUILD_MAX);
            let told = program.run_watched(&self.abort, |said| {
                report(said, Means::Rewound, tell);
                Ok(false)
            });
            told.map_err(|error| self.explain(error, upstream))
        };
        // All that it may fail for it finds out before it writes.
        match run(Some("--dry-run")) {
            Err(Error::Program { .. }) => return Ok(false),
            other => other?,
        }
        // Should it end half way, what is emptied then is what was this directory's before.
        self.claim(upstream)?;
        set_mark(place, &format!("rewinding to node {}", upstream.node))?;
        match run(None) {
            // Its content is neither the one nor the other now.
            Err(Error::Program { .. }) => return Ok(false),
            other => other?,
        }
        let Some(label) = place.own(|| files::read(&label))? else {
            // Nothing has parted. Recovering it has added a checkpoint of its own, unless it was a
            // standby that had ended in order; the source has other log in that place.
            let is_untouched = control.is_clean && !control.was_primary;
            return Ok(is_untouched && !self.has_lost(upstream, control.end)?);
        };
        // It needs the log since there, of which the source may have removed what came after the
        // two had parted.
        let start = first_position(&label);
        Ok(match start {
            Some(start) => has_restore || !self.has_lost(upstream, start)?,
            None => false,
        })
    }

    /// Has the directory's own log replayed, without which it cannot be rewound. By ourselves, as
    /// pg_rewind does not find a configuration elsewhere in every version; whether it worked out.
    fn recover(&self) -> Result<bool, Error> {
        let place = &self.place;
        let control = control_file::read(&place.programs, &place.data);
        if control.map_err(Error::ControlFile)?.is_clean {
            return Ok(true);
        }
        // A single user is no standby.
        place.own(|| {
            files::remove(&place.data.join("standby.signal"))?;
            files::remove(&place.data.join("recovery.signal"))
        })?;
        self.clear()?;
        // With all that it writes synced: what a dead host loses of it no rewind would bring back.
        let program = Program::new(place, "postgres").args(["--single", "-D"]).arg(&place.data);
        // Its last checkpoint would remove the log since the point where the two have parted.
        let words = ["-c", "wal_keep_size=1TB", &place.database];
        let program = program.args(program::config_words(place)).args(words);
        match program.limit(REBUILD_MAX).run(&self.abort) {
            Ok(_) => Ok(true),
            Err(Error::Program { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn clone_from(&self, upstream: &Peer, tell: &mut dyn FnMut(Progress)) -> Result<Means, Error> {
        let place = &self.place;
        let remembered = Remembered::read(place)?;
        let empty = || {
            let all = remembered.all();
            place.own(|| elsewhere::empty(&place.data, &all, &mut || self.abort.check()))?;
            place.make_own_directory(&place.data)
        };
        empty()?;
        if self.fill(upstream, remembered.log.as_deref())? {
            // PostgreSQL's programs do so themselves; of the operator's nobody knows.
            files::sync_disk(&place.data)?;
            // Those that were emptied, and that the backup has not, may be gone.
            let mut all = remembered.all().into_iter().filter(|path| path.exists());
            all.try_for_each(|path| files::sync_disk(&path))?;
            return Ok(Means::FromBackup);
        }
        empty()?;
        let source = settings::conninfo(place, upstream, &[("application_name", "pgx clone")]);
        let mut program = Program::new(place, "pg_basebackup")
            .arg("--pgdata")
            .arg(&place.data)
            .arg("--dbname")
            .arg(source)
            .args(["--wal-method=stream", "--checkpoint=fast", "--progress", "--no-password"])
            // What it has written stays, so that a full disk is seen to be one.
            .args(["--no-clean"])
            .limit(REBUILD_MAX);
        // It makes that itself: as root, nothing is made where a link leads.
        if let Some(log) = &remembered.log {
            program = program.arg("--waldir").arg(log);
        }
        let cloned = program.run_watched(&self.abort, |said| {
            report(said, Means::Cloned, tell);
            Ok(false)
        });
        cloned.map(|()| Means::Cloned).map_err(|error| self.explain(error, upstream))
    }

    /// Why a program failed, by what can be seen of it: not by its words.
    fn explain(&self, error: Error, upstream: &Peer) -> Error {
        let Error::Program { said, .. } = &error else { return error };
        let (path, said) = (self.place.data.clone(), said.clone());
        let space = statvfs(&path).map(|found| found.f_bavail.saturating_mul(found.f_frsize));
        if let Ok(free) = space
            && free < FULL_BELOW_BYTES
        {
            return Error::DiskFull { path, free, said };
        }
        let error = lost(error, upstream);
        if !matches!(error, Error::Program { .. }) || self.knock(upstream).is_ok() {
            return error;
        }
        // It is about to end, and accepts connections that it never answers.
        let (host, port) = (upstream.host.clone(), upstream.port);
        Error::SourceLost { host, port, error: ErrorKind::ConnectionAborted.into(), said }
    }
}

/// As which a program's failure counts if the source is not there.
pub(super) fn lost(error: Error, upstream: &Peer) -> Error {
    let Error::Program { said, .. } = &error else { return error };
    match reach(upstream) {
        Ok(()) => error,
        Err(cause) => {
            let (host, port, said) = (upstream.host.clone(), upstream.port, said.clone());
            Error::SourceLost { host, port, error: cause, said }
        }
    }
}

fn reach(upstream: &Peer) -> std::io::Result<()> {
    let mut outcome = Err(ErrorKind::AddrNotAvailable.into());
    for address in (upstream.host.as_str(), upstream.port).to_socket_addrs()? {
        outcome = std::net::TcpStream::connect_timeout(&address, SOURCE_MAX).map(drop);
        if outcome.is_ok() {
            break;
        }
    }
    outcome
}

/// Where recovery begins, as the label of a backup says.
pub(super) fn first_position(label: &str) -> Option<Lsn> {
    let line = label.lines().find_map(|line| line.strip_prefix("START WAL LOCATION:"))?;
    control_file::parse_lsn(line.split_once('(')?.0)
}

/// Tells what a program says of its progress: `done/total kB`.
fn report(said: &str, means: Means, tell: &mut dyn FnMut(Progress)) {
    let last = said.rsplit(['\r', '\n']).find_map(|line| line.split_once(" kB"));
    let Some((done, total)) = last.and_then(|(numbers, _)| numbers.trim().split_once('/')) else {
        return;
    };
    if let (Ok(done_kb), Ok(total_kb)) = (done.trim().parse(), total.trim().parse()) {
        tell(Progress { means, done_kb, total_kb });
    }
}

/// Where a directory is put aside.
fn aside(place: &Place, kept: Incarnation) -> PathBuf {
    place.folder().join(format!("kept-{}", settings::name(kept)))
}

/// Where a tablespace's directory is put aside.
fn beside(space: &Path, kept: Incarnation) -> PathBuf {
    spaces::named(space, "kept", kept)
}

fn put_aside(place: &Place, kept: Incarnation) -> Result<(), Error> {
    let aside = aside(place, kept);
    if aside.exists() {
        return Ok(());
    }
    // The directory goes last: until then it is found in its place.
    for space in elsewhere::all(&place.data, &place.data)? {
        spaces::put_aside(place, &space, &beside(&space, kept))?;
    }
    if place.data.exists() {
        move_durably(&place.data, &aside)?;
    }
    Ok(())
}

/// Puts aside once more what a restore that has ended in the middle has brought back already:
/// tablespaces go first, and one in its place is taken for that of the directory which is there.
fn undo_restore(place: &Place) -> Result<(), Error> {
    let mark = mark(place)?;
    let name = mark.as_deref().and_then(|mark| mark.strip_prefix(RESTORING));
    let Some(kept) = name.and_then(settings::directory) else { return Ok(()) };
    let aside = aside(place, kept);
    if aside.exists() {
        for space in elsewhere::all(&place.data, &aside)? {
            spaces::put_aside(place, &space, &beside(&space, kept))?;
        }
        // Once: later there may be others in their places, or they under other names.
        set_mark(place, "what was put aside was not put back")?;
    }
    Ok(())
}

/// Renames, which needs rights in both parents that PostgreSQL's user may lack.
pub(super) fn move_durably(from: &Path, to: &Path) -> Result<(), Error> {
    std::fs::rename(from, to).map_err(|error| match error.kind() {
        ErrorKind::CrossesDevices | ErrorKind::ResourceBusy => Error::MountPoint(from.to_owned()),
        _ => system("cannot move", from)(error),
    })?;
    files::sync_parent(from)?;
    files::sync_parent(to)
}

/// Ends what works in a directory that somebody wants to use for something else.
pub(super) fn end_strays(place: &Place) -> Result<(), Error> {
    process::end_all(&[&place.data, &place.folder()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_the_newest_that_a_program_has_told() {
        let mut told = Vec::new();
        let said = "waiting for checkpoint\n    8/23456 kB (0%), 0/1 tablespace\r 1200/23456 kB \
                    (5%), 0/1 tablespace\r";
        report(said, Means::Cloned, &mut |progress| told.push(progress));
        report("pg_rewind: nothing", Means::Rewound, &mut |progress| told.push(progress));
        assert_eq!(told, [Progress { means: Means::Cloned, done_kb: 1200, total_kb: 23456 }]);
    }

    #[test]
    fn label_says_where_recovery_begins() {
        let label = "START WAL LOCATION: 1/3000028 (file 000000010000000100000003)\n\
                     CHECKPOINT LOCATION: 1/3000060\nBACKUP METHOD: pg_rewind\n";
        assert_eq!(first_position(label), Some(Lsn(0x1_0300_0028)));
        assert_eq!(first_position("BACKUP METHOD: pg_rewind\n"), None);
    }
}
