//! Looks at a PostgreSQL from outside: by `pg_controldata`, its files and its process.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::Sender;
use std::time::{Duration, SystemTime};

use pgx_control::ids::{Lsn, SystemId, Timeline};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::Input;
use super::probe::{Target, owner_of};
use crate::config::Postgres;
use crate::limits::control::LOOK_EVERY;

/// What was found.
#[derive(Debug)]
pub(in crate::controller) struct Found {
    pub(super) control: ControlFile,
    pub(super) is_standby: bool,
    pub(super) postmaster: Option<Postmaster>,
}

/// What the control file of a directory says.
#[derive(Clone, Copy, Debug)]
pub(super) struct ControlFile {
    pub(super) system: SystemId,
    pub(super) timeline: Timeline,
    /// How far the directory is known to go at least: its last checkpoint, or what a standby has
    /// to replay.
    pub(super) end: Lsn,
    /// Whether it ran as a primary when the file was last written.
    pub(super) was_primary: bool,
}

/// Which state of the control file was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    written: SystemTime,
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
    let mut last = None;
    while found.send(Input::Looked(Box::new(look(postgres, &mut last)))).is_ok() {
        std::thread::sleep(LOOK_EVERY);
    }
}

/// Returns when the process has ended.
pub(super) fn wait_for_end(handle: &OwnedFd) {
    let mut fds = [PollFd::new(handle, PollFlags::IN)];
    // A signal interrupts the wait and nothing else does.
    while !matches!(poll(&mut fds, None), Ok(count) if count > 0) {}
}

fn look(postgres: &Postgres, last: &mut Option<(Stamp, ControlFile)>) -> Result<Found, String> {
    let stamp = stamp(&postgres.data_directory);
    let control = match (stamp, *last) {
        // Most of the time nothing has changed, and a process costs some milliseconds.
        (Some(stamp), Some((seen, control))) if stamp == seen => control,
        _ => control_file(postgres)?,
    };
    *last = stamp.filter(Stamp::is_settled).map(|stamp| (stamp, control));
    Ok(Found {
        control,
        is_standby: postgres.data_directory.join("standby.signal").exists(),
        postmaster: postmaster(postgres),
    })
}

fn stamp(data_directory: &Path) -> Option<Stamp> {
    let found = std::fs::metadata(data_directory.join("global/pg_control")).ok()?;
    Some(Stamp { device: found.dev(), inode: found.ino(), written: found.modified().ok()? })
}

impl Stamp {
    /// What was written a moment ago could be written again with the same time.
    fn is_settled(&self) -> bool {
        self.written.elapsed().is_ok_and(|age| age > Duration::from_secs(1))
    }
}

fn control_file(postgres: &Postgres) -> Result<ControlFile, String> {
    let program = postgres.bin_directory.join("pg_controldata");
    let mut command = Command::new(&program);
    command.arg("-D").arg(&postgres.data_directory).env("LC_ALL", "C").stdin(Stdio::null());
    let output =
        command.output().map_err(|error| format!("cannot run {}: {error}", program.display()))?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).trim_end().to_owned());
    }
    parse(&String::from_utf8_lossy(&output.stdout))
}

fn parse(text: &str) -> Result<ControlFile, String> {
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.map(str::trim).ok_or_else(|| format!("pg_controldata says no {name:?}"))
    };
    let number = |name: &str| {
        let text = field(name)?;
        text.parse::<u64>().map_err(|_| format!("{name}: {text:?} is no number"))
    };
    let lsn = |name: &str| {
        let text = field(name)?;
        let halves = text.split_once('/').and_then(|(high, low)| {
            let half = |text| u32::from_str_radix(text, 16).ok().map(u64::from);
            Some(half(high)? << 32 | half(low)?)
        });
        halves.ok_or_else(|| format!("{name}: {text:?} is no position"))
    };
    let timelines =
        [number("Latest checkpoint's TimeLineID")?, number("Min recovery ending loc's timeline")?];
    let timeline = timelines.into_iter().max().and_then(|highest| u32::try_from(highest).ok());
    let ends = [lsn("Latest checkpoint location")?, lsn("Minimum recovery ending location")?];
    Ok(ControlFile {
        system: SystemId(number("Database system identifier")?),
        timeline: Timeline(timeline.ok_or("a timeline of more than 32 bits")?),
        end: Lsn(ends[0].max(ends[1])),
        // Whatever else the state is, crash recovery for one, is a primary's.
        was_primary: !matches!(
            field("Database cluster state")?,
            "shut down in recovery" | "in archive recovery"
        ),
    })
}

/// Whom to ask, if it runs.
pub(super) fn target(postgres: &Postgres) -> Option<Target> {
    postmaster(postgres).map(|postmaster| postmaster.target)
}

/// The postmaster of the directory, if it runs. Its working directory is the data directory, by
/// which another process of the same number is told from it.
fn postmaster(postgres: &Postgres) -> Option<Postmaster> {
    let data_directory = &postgres.data_directory;
    let text = std::fs::read_to_string(data_directory.join("postmaster.pid")).ok()?;
    let pid: i32 = text.lines().next()?.trim().parse().ok()?;
    let handle = pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?;
    let own = std::fs::canonicalize(format!("/proc/{pid}/cwd")).ok()?;
    let is_it = std::fs::canonicalize(data_directory).is_ok_and(|folder| folder == own);
    if !is_it {
        return None;
    }
    let (socket, address) = listens(&text);
    let target = Target {
        postmaster: pid,
        data_directory: data_directory.clone(),
        owner: owner_of(data_directory).ok()?,
        socket,
        address,
        user: postgres.user.clone(),
        database: postgres.database.clone(),
        password: postgres.password_file.as_deref().map_or(Ok(None), password),
    };
    Some(Postmaster { pid, handle, target })
}

/// Where a postmaster listens, as its file says: the port is on the fourth line, the folder of its
/// socket on the fifth, what it listens on beside that on the sixth. Names other than `localhost`
/// are not looked up: the probe waits for no DNS server.
fn listens(text: &str) -> (Option<PathBuf>, Option<SocketAddr>) {
    let mut lines = text.lines().skip(3).map(str::trim);
    let Some(port) = lines.next().and_then(|port| port.parse::<u16>().ok()) else {
        return (None, None);
    };
    let folder = lines.next().filter(|folder| folder.starts_with('/'));
    let socket = folder.map(|folder| Path::new(folder).join(format!(".s.PGSQL.{port}")));
    let address = match lines.next().unwrap_or_default() {
        "*" | "localhost" => Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        text => match text.parse().ok() {
            Some(IpAddr::V4(any)) if any.is_unspecified() => Some(Ipv4Addr::LOCALHOST.into()),
            Some(IpAddr::V6(any)) if any.is_unspecified() => Some(Ipv6Addr::LOCALHOST.into()),
            other => other,
        },
    };
    (socket, address.map(|address| SocketAddr::new(address, port)))
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

    const SAID: &str = "\
pg_control version number:            1300
Database system identifier:           7450000000000000001
Database cluster state:               in production
Latest checkpoint location:           1/1500028
Latest checkpoint's TimeLineID:       2
Minimum recovery ending location:     0/0
Min recovery ending loc's timeline:   0
";

    #[test]
    fn what_pg_controldata_says_is_read() {
        let found = parse(SAID).unwrap();
        assert_eq!(found.system, SystemId(7_450_000_000_000_000_001));
        assert_eq!((found.timeline, found.end), (Timeline(2), Lsn(0x1_0150_0028)));
        let standby = SAID.replace("location:     0/0", "location:     2/0");
        assert_eq!(parse(&standby).unwrap().end, Lsn(0x2_0000_0000));
        let was_primary = |state| parse(&SAID.replace("in production", state)).unwrap().was_primary;
        for state in ["in production", "shut down", "shutting down", "in crash recovery"] {
            assert!(was_primary(state), "{state}");
        }
        for state in ["in archive recovery", "shut down in recovery"] {
            assert!(!was_primary(state), "{state}");
        }
    }

    #[test]
    fn what_is_missing_or_foreign_is_named() {
        let error = parse("").unwrap_err();
        assert!(error.contains("TimeLineID"), "{error}");
        let error = parse(&SAID.replace("1/1500028", "somewhere")).unwrap_err();
        assert!(error.contains("somewhere"), "{error}");
    }

    #[test]
    fn process_of_another_folder_is_no_postmaster() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("postmaster.pid");
        let postgres = |data_directory: &Path| Postgres {
            data_directory: data_directory.to_owned(),
            bin_directory: "/".into(),
            user: "postgres".to_owned(),
            database: "postgres".to_owned(),
            password_file: None,
        };
        assert!(postmaster(&postgres(folder.path())).is_none());
        std::fs::write(&file, format!("{}\n", std::process::id())).unwrap();
        assert!(postmaster(&postgres(folder.path())).is_none(), "it works elsewhere");
        let own = std::env::current_dir().unwrap();
        assert!(postmaster(&postgres(&own)).is_none(), "it has no such file");
    }

    #[test]
    fn places_where_it_listens_are_those_that_it_has_written_so_far() {
        let socket = Some(PathBuf::from("/run/pg/.s.PGSQL.5433"));
        let address = |text: &str| Some(text.parse::<SocketAddr>().unwrap());
        let said = |rest: &str| listens(&format!("7\n/data\n1700000000\n5433\n{rest}"));
        assert_eq!(said(""), (None, None));
        assert_eq!(said("/run/pg\n"), (socket.clone(), None));
        assert_eq!(said("/run/pg\n*\n"), (socket.clone(), address("127.0.0.1:5433")));
        assert_eq!(said("/run/pg\n10.1.0.1\n"), (socket.clone(), address("10.1.0.1:5433")));
        assert_eq!(said("\n::\n"), (None, address("[::1]:5433")));
        assert_eq!(said("/run/pg\ndb1.example\n"), (socket, None));
        assert_eq!(listens("7\n"), (None, None));
    }

    #[test]
    fn password_is_the_first_line_and_a_missing_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        assert!(password(&path).unwrap_err().contains("secret"));
        std::fs::write(&path, "a b\nmore\n").unwrap();
        assert_eq!(password(&path), Ok(Some("a b".to_owned())));
    }
}
