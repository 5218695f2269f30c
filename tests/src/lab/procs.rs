//! Processes as `/proc` shows them: identity that survives the reuse of process ids, and signals.
//!
//! A lab's processes are found by their cgroup, never by name: a name may belong to anybody.

use std::path::Path;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

/// A process that cannot be mistaken for another with the same id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcId {
    /// The process id in the machine's own namespace.
    pub pid: i32,
    /// When it started, in clock ticks since boot.
    pub start: u64,
}

impl ProcId {
    /// Whether the process still runs; a zombie does not.
    #[must_use]
    pub fn alive(self) -> bool {
        Proc::read(self.pid).is_some_and(|proc| proc.id == self && proc.state != 'Z')
    }

    /// Whether a signal keeps the process from running.
    pub(super) fn stopped(self) -> bool {
        Proc::read(self.pid).is_some_and(|proc| proc.id == self && proc.state == 'T')
    }

    /// Sends a signal, if the process is still the same one.
    ///
    /// # Errors
    /// When the kernel refuses; that the process is gone is no error.
    pub(super) fn signal(self, signal: Signal) -> anyhow::Result<()> {
        if !self.alive() {
            return Ok(());
        }
        match kill(Pid::from_raw(self.pid), signal) {
            Ok(()) | Err(Errno::ESRCH) => Ok(()),
            Err(error) => {
                Err(anyhow::anyhow!("cannot send {signal} to process {}: {error}", self.pid))
            }
        }
    }
}

/// What is known of a process.
#[derive(Clone, Debug)]
pub(super) struct Proc {
    /// Who it is.
    pub(super) id: ProcId,
    /// Its id in the innermost namespace; none if that is the machine's own.
    pub(super) inner_pid: Option<i32>,
    /// The one-letter state of proc(5): `T` is stopped, `Z` a zombie.
    pub(super) state: char,
    /// The kernel's short name for it.
    pub(super) comm: String,
    /// Its command line; PostgreSQL's processes put their title into the first word.
    pub(super) args: Vec<String>,
}

impl Proc {
    /// Reads a process; none if it is gone.
    pub(super) fn read(pid: i32) -> Option<Self> {
        let dir = Path::new("/proc").join(pid.to_string());
        let stat = std::fs::read_to_string(dir.join("stat")).ok()?;
        let status = std::fs::read_to_string(dir.join("status")).ok()?;
        let cmdline = std::fs::read(dir.join("cmdline")).ok()?;
        let (state, start) = parse_stat(&stat)?;
        let args = cmdline.split(|byte| *byte == 0).filter(|word| !word.is_empty());
        Some(Self {
            id: ProcId { pid, start },
            inner_pid: parse_inner_pid(&status),
            state,
            comm: stat[stat.find('(')? + 1..stat.rfind(')')?].to_owned(),
            args: args.map(|word| String::from_utf8_lossy(word).into_owned()).collect(),
        })
    }

    /// Whether this is a PostgreSQL backend that serves a client, by the title it shows: database
    /// role, database, then where the client is from.
    pub(super) fn is_client_backend(&self) -> bool {
        let title = self.args.first().and_then(|arg| arg.strip_prefix("postgres: "));
        let words: Vec<_> = title.into_iter().flat_map(str::split_whitespace).collect();
        match words.as_slice() {
            [role, _, from, ..] => {
                *role != "walsender" && (*from == "[local]" || from.ends_with(')'))
            }
            _ => false,
        }
    }
}

/// The state and the start time (field 22) of `/proc/PID/stat`. The name before them may hold any
/// character, so fields count from its closing parenthesis.
fn parse_stat(stat: &str) -> Option<(char, u64)> {
    let mut fields = stat[stat.rfind(')')? + 1..].split_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((state, fields.nth(18)?.parse().ok()?))
}

fn parse_inner_pid(status: &str) -> Option<i32> {
    let line = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
    let mut pids = line.split_whitespace();
    let _outer = pids.next()?;
    pids.next_back()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::{Proc, ProcId, parse_inner_pid, parse_stat};

    fn titled(title: &str) -> Proc {
        let id = ProcId { pid: 1, start: 1 };
        let args = vec![title.to_owned()];
        Proc { id, inner_pid: None, state: 'S', comm: "postgres".to_owned(), args }
    }

    #[test]
    fn name_with_parentheses_does_not_shift_the_fields() {
        let stat = "7 (a) (b) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20";
        assert_eq!(parse_stat(stat), Some(('S', 4711)));
    }

    #[test]
    fn inner_pid_is_the_last_one_and_absent_outside_of_a_namespace() {
        assert_eq!(parse_inner_pid("NSpid:\t812\t4\n"), Some(4));
        assert_eq!(parse_inner_pid("NSpid:\t812\n"), None);
    }

    #[test]
    fn only_backends_that_serve_clients_count_as_such() {
        assert!(
            titled("postgres: app app 10.77.0.100(4711) idle in transaction").is_client_backend()
        );
        assert!(titled("postgres: postgres app [local] idle").is_client_backend());
        let other = [
            "postgres: walsender replicator 10.77.0.12(4711) streaming 0/3000148",
            "postgres: checkpointer ",
            "postgres: startup recovering 000000010000000000000003",
            "/usr/lib/postgresql/15/bin/postgres",
        ];
        for title in other {
            assert!(!titled(title).is_client_backend(), "{title}");
        }
    }

    #[test]
    fn process_with_another_start_time_is_another_process() {
        let own = Proc::read(i32::try_from(std::process::id()).unwrap()).unwrap().id;
        assert!(own.alive());
        assert!(!ProcId { start: own.start + 1, ..own }.alive());
    }
}
