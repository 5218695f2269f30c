//! Looks at a PostgreSQL from outside: by `pg_controldata`, its files and its process.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::mpsc::Sender;

use rustix::event::{PollFd, PollFlags, poll};

use super::Input;
use super::probe::Target;
use crate::config::Postgres;
use crate::limits::control::LOOK_EVERY;
use crate::postgres::control_file::{Cache, ControlFile};
use crate::postgres::owner::owner_of;
use crate::postgres::postmaster;

/// What was found.
#[derive(Debug)]
pub(in crate::controller) struct Found {
    pub(super) control: ControlFile,
    pub(super) is_standby: bool,
    pub(super) postmaster: Option<Postmaster>,
}

/// A running postmaster, held so that its number cannot be mistaken.
#[derive(Debug)]
pub(in crate::controller) struct Postmaster {
    pub(super) pid: i32,
    pub(super) handle: OwnedFd,
    pub(super) target: Target,
}

/// Looks again and again, for as long as somebody wants to know.
pub(super) fn run(postgres: &Postgres, found: &Sender<Input>) {
    let mut cache = Cache::default();
    while found.send(Input::Looked(Box::new(look(postgres, &mut cache)))).is_ok() {
        std::thread::sleep(LOOK_EVERY);
    }
}

/// Returns when the process has ended.
pub(super) fn wait_for_end(handle: &OwnedFd) {
    let mut fds = [PollFd::new(handle, PollFlags::IN)];
    // A signal interrupts the wait and nothing else does.
    while !matches!(poll(&mut fds, None), Ok(count) if count > 0) {}
}

fn look(postgres: &Postgres, cache: &mut Cache) -> Result<Found, String> {
    let data = &postgres.data_directory;
    Ok(Found {
        control: cache.read(&postgres.bin_directory, data)?,
        is_standby: data.join("standby.signal").exists(),
        postmaster: postmaster(postgres),
    })
}

/// Whom to ask, if it runs.
pub(super) fn target(postgres: &Postgres) -> Option<Target> {
    postmaster(postgres).map(|postmaster| postmaster.target)
}

/// The postmaster of the directory, if it runs, and how it is asked.
fn postmaster(postgres: &Postgres) -> Option<Postmaster> {
    let data_directory = &postgres.data_directory;
    let found = postmaster::find(data_directory)?;
    let target = Target {
        postmaster: found.pid,
        data_directory: data_directory.clone(),
        owner: owner_of(data_directory).ok()?,
        socket: found.socket,
        address: found.address,
        user: postgres.user.clone(),
        database: postgres.database.clone(),
        password: postgres.password_file.as_deref().map_or(Ok(None), password),
    };
    Some(Postmaster { pid: found.pid, handle: found.handle, target })
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
