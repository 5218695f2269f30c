//! The thread that looks at PostgreSQL: by its files, its process, and what it answers.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::Duration;

use pgx_control::agent::{Local, Process};
use rustix::event::{PollFd, PollFlags, poll};

use super::Input;
use super::probe::Target;
use crate::config::Postgres;
use crate::limits::control::LOOK_EVERY;
use crate::postgres::control_file::{Cache, ControlFile};
use crate::postgres::eyes::{Eyes, nothing};
use crate::postgres::owner::owner_of;
use crate::postgres::settings::{self, Managed};
use crate::postgres::{Place, postmaster};

/// What was found.
#[derive(Debug)]
pub(in crate::controller) struct Found {
    /// What is known of the directory.
    pub(super) sight: Sight,
    pub(super) postmaster: Option<Postmaster>,
    /// Why the server could not be asked in full.
    pub(super) trouble: Option<String>,
}

/// What lies in the directory's place.
#[derive(Debug)]
pub(in crate::controller) enum Sight {
    /// Nothing: it may become a copy.
    Nothing,
    /// A directory that is half built; it must not be started.
    Half(Local),
    /// A directory that pgx neither founded nor took over.
    Foreign(Local),
    /// One that is pgx's, and what pgx has set in it.
    Managed(Local, Managed),
}

/// A running postmaster, held so that its number cannot be mistaken.
#[derive(Debug)]
pub(in crate::controller) struct Postmaster {
    pub(super) pid: i32,
    pub(super) handle: OwnedFd,
    pub(super) target: Target,
}

/// What the thread is asked for: to look at once, and then again and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ask {
    /// What has been done before: a look that began earlier may show what was before it.
    pub(super) generation: u64,
    pub(super) every: Duration,
}

/// Looks for as long as somebody wants to know.
pub(super) fn run(postgres: &Postgres, place: &Place, asks: &Receiver<Ask>, found: &Sender<Input>) {
    let mut looker =
        Looker { postgres, place, eyes: Eyes::new(place.clone()), cache: Cache::default() };
    let mut ask = Ask { generation: 0, every: LOOK_EVERY };
    loop {
        let looked = Box::new(looker.look());
        let generation = ask.generation;
        if found.send(Input::Looked { generation, looked }).is_err() {
            return;
        }
        match asks.recv_timeout(ask.every) {
            Ok(newer) => ask = asks.try_iter().last().unwrap_or(newer),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

/// Returns when the process has ended.
pub(super) fn wait_for_end(handle: &OwnedFd) {
    let mut fds = [PollFd::new(handle, PollFlags::IN)];
    // A signal interrupts the wait and nothing else does.
    while !matches!(poll(&mut fds, None), Ok(count) if count > 0) {}
}

struct Looker<'a> {
    postgres: &'a Postgres,
    place: &'a Place,
    eyes: Eyes,
    cache: Cache,
}

impl Looker<'_> {
    fn look(&mut self) -> Result<Found, String> {
        let is_half = crate::postgres::is_half_built(self.place);
        let is_half = is_half.map_err(|error| error.to_string())?;
        if !is_half && !self.place.data.join("PG_VERSION").exists() {
            return Ok(Found { sight: Sight::Nothing, postmaster: None, trouble: None });
        }
        let managed = settings::read(self.place).map_err(|error| error.to_string());
        if !is_half && matches!(managed, Ok(None)) {
            return self.look_from_outside();
        }
        let found = self.eyes.look().map_err(|error| error.to_string())?;
        let postmaster = found.postmaster.map(|found| postmaster_of(self.postgres, found));
        let (postmaster, trouble) = (postmaster.transpose()?, found.trouble);
        let sight = match found.half {
            // What pgx has set in it may be the source's.
            Some(_) => Sight::Half(found.local),
            None => match found.managed {
                Some(managed) => {
                    Sight::Managed(Local { lacks_log: found.lost_wal, ..found.local }, managed)
                }
                None => return Err("what pgx has set in the directory is gone".to_owned()),
            },
        };
        Ok(Found { sight, postmaster, trouble })
    }

    /// By files and process alone.
    fn look_from_outside(&mut self) -> Result<Found, String> {
        let data = &self.postgres.data_directory;
        let control = self.cache.read(&self.postgres.bin_directory, data)?;
        let postmaster = find(self.postgres);
        let ControlFile { system, timeline, end, was_primary, .. } = control;
        let process = match &postmaster {
            None => Process::Stopped,
            Some(_) if data.join("standby.signal").exists() => Process::Standby,
            Some(_) => Process::Primary,
        };
        let local = Local { system, process, end, timeline, was_primary, ..nothing() };
        Ok(Found { sight: Sight::Foreign(local), postmaster, trouble: None })
    }
}

/// Whom to ask, if it runs.
pub(super) fn target(postgres: &Postgres) -> Option<Target> {
    find(postgres).map(|postmaster| postmaster.target)
}

fn find(postgres: &Postgres) -> Option<Postmaster> {
    let found = postmaster::find(&postgres.data_directory)?;
    postmaster_of(postgres, found).ok()
}

/// A postmaster, and how it is asked.
fn postmaster_of(postgres: &Postgres, found: postmaster::Postmaster) -> Result<Postmaster, String> {
    let data_directory = &postgres.data_directory;
    let owner = owner_of(data_directory)
        .map_err(|error| format!("cannot look at {}: {error}", data_directory.display()))?;
    let target = Target {
        postmaster: found.pid,
        data_directory: data_directory.clone(),
        owner,
        socket: found.socket,
        address: found.address,
        user: postgres.user.clone(),
        database: postgres.database.clone(),
        password: postgres.password_file.as_deref().map_or(Ok(None), password),
    };
    Ok(Postmaster { pid: found.pid, handle: found.handle, target })
}

/// Read here, by the thread that may hang with a disk.
fn password(path: &Path) -> Result<Option<String>, String> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| format!("postgres.password_file {}: {error}", path.display()))?;
    Ok(text.lines().next().map(str::to_owned))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn password_is_the_first_line_and_a_missing_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        assert!(password(&path).unwrap_err().contains("secret"));
        std::fs::write(&path, "a b\nmore\n").unwrap();
        assert_eq!(password(&path), Ok(Some("a b".to_owned())));
    }
}
