//! The processes of a directory. A server's children have sessions of their own, so they are known
//! by what they cannot change: their working directory is the data directory, and their program is
//! one of PostgreSQL's.

use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::error::Error;
use crate::limits::postgres::{KILL_MAX, PAUSE};

/// Programs whose processes write into a directory, or acknowledge what is in it.
const PROGRAMS: [&str; 5] = ["postgres", "pg_rewind", "pg_basebackup", "initdb", "pg_ctl"];

/// The processes that work in one of these directories. What pgx may not look at is left out.
pub(crate) fn of(directories: &[&Path]) -> Vec<i32> {
    let places: Vec<_> = directories.iter().filter_map(|path| place(path)).collect();
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| is_of(*pid, &places)).collect()
}

fn place(path: &Path) -> Option<(u64, u64)> {
    std::fs::metadata(path).ok().map(|found| (found.dev(), found.ino()))
}

fn is_of(pid: i32, places: &[(u64, u64)]) -> bool {
    let works = place(Path::new(&format!("/proc/{pid}/cwd")));
    let is_there = works.is_some_and(|works| places.contains(&works));
    is_there && program_of(pid).is_some_and(|name| PROGRAMS.contains(&name.as_str()))
}

fn program_of(pid: i32) -> Option<String> {
    let path = std::fs::read_link(format!("/proc/{pid}/exe")).ok()?;
    // After an upgrade of the package its program is gone.
    let name = path.file_name()?.to_str()?;
    Some(name.strip_suffix(" (deleted)").unwrap_or(name).to_owned())
}

/// Kills all processes that work in these directories, and waits until they are gone: an orphan
/// could still acknowledge, or write into what is built anew.
pub(crate) fn end_all(directories: &[&Path]) -> Result<(), Error> {
    let deadline = Instant::now() + KILL_MAX;
    let places: Vec<_> = directories.iter().filter_map(|path| place(path)).collect();
    let mut quiet = 0;
    loop {
        let pids = of(directories);
        // Twice, as one that starts another while the list is read can hide it.
        quiet = if pids.is_empty() { quiet + 1 } else { 0 };
        if quiet == 2 {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(Error::Unkillable { pids });
        }
        // All of them first: each takes its time to go.
        let handles: Vec<_> = pids.into_iter().filter_map(|pid| kill(pid, &places)).collect();
        for handle in handles {
            wait(&handle, Duration::from_millis(100));
        }
    }
}

/// Sends SIGHUP to a process if it works there.
pub(super) fn hang_up(pid: i32, directory: &Path) {
    let places: Vec<_> = place(directory).into_iter().collect();
    // One that has just ended gets no signal, and needs none.
    let handle = open(pid).filter(|_| is_of(pid, &places));
    let _ = handle.map(|handle| pidfd_send_signal(&handle, Signal::HUP));
}

/// Kills this process, and waits until it is gone.
pub(super) fn end(pid: i32, handle: &OwnedFd) -> Result<(), Error> {
    let _ = pidfd_send_signal(handle, Signal::KILL);
    if wait(handle, KILL_MAX) { Ok(()) } else { Err(Error::Unkillable { pids: vec![pid] }) }
}

/// Kills a process if it still works there.
fn kill(pid: i32, places: &[(u64, u64)]) -> Option<OwnedFd> {
    let handle = open(pid)?;
    // The number may be another's by now; through the handle it is this one.
    if !is_of(pid, places) {
        return None;
    }
    pidfd_send_signal(&handle, Signal::KILL).ok().map(|()| handle)
}

/// Whether they end by themselves until then.
pub(crate) fn all_end(directories: &[&Path], deadline: Instant) -> bool {
    while !of(directories).is_empty() {
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(PAUSE);
    }
    true
}

/// A handle of a process; of none if the number is none of one.
pub(crate) fn open(pid: i32) -> Option<OwnedFd> {
    let pid = Pid::from_raw(pid.max(0))?;
    pidfd_open(pid, PidfdFlags::empty()).ok()
}

/// Waits for the end of a process; whether it came.
pub(crate) fn wait(handle: &OwnedFd, limit: Duration) -> bool {
    let limit = Timespec::try_from(limit).ok();
    let mut fds = [PollFd::new(handle, PollFlags::IN)];
    matches!(poll(&mut fds, limit.as_ref()), Ok(count) if count > 0)
}

/// What a process is doing, as far as signals are concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Doing {
    /// It waits in the kernel for something that may be interrupted.
    pub(crate) sleeps: bool,
    /// A SIGHUP has been sent and is not delivered yet.
    pub(crate) has_hangup: bool,
}

/// What a process is doing, if it lives.
pub(crate) fn doing(pid: i32) -> Option<Doing> {
    parse(&std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?)
}

fn parse(text: &str) -> Option<Doing> {
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let pending = |name| u64::from_str_radix(field(name)?, 16).ok();
    let has_hangup = (pending("SigPnd:")? | pending("ShdPnd:")?) & 1 != 0;
    Some(Doing { sleeps: field("State:")?.starts_with('S'), has_hangup })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pending_hangup_and_sleep_are_read() {
        let said = |state: &str, own: &str, shared: &str| {
            format!("Name:\tpostgres\nState:\t{state}\nSigPnd:\t{own}\nShdPnd:\t{shared}\n")
        };
        let none = "0000000000000000";
        let found = parse(&said("S (sleeping)", none, none)).unwrap();
        assert_eq!(found, Doing { sleeps: true, has_hangup: false });
        let found = parse(&said("R (running)", none, "0000000000000201")).unwrap();
        assert_eq!(found, Doing { sleeps: false, has_hangup: true });
        assert!(parse("").is_none());
        assert!(!doing(i32::try_from(std::process::id()).unwrap()).unwrap().has_hangup);
    }

    #[test]
    fn other_programs_that_work_there_are_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let mut shell = std::process::Command::new("sleep");
        let mut shell = shell.arg("60").current_dir(folder.path()).spawn().unwrap();
        assert_eq!(of(&[folder.path()]), Vec::<i32>::new());
        end_all(&[folder.path()]).unwrap();
        assert!(shell.try_wait().unwrap().is_none());
        shell.kill().unwrap();
        shell.wait().unwrap();
    }
}
