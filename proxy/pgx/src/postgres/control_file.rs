//! What `pg_controldata` says about a data directory.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};

use pgx_control::ids::{Lsn, SystemId, Timeline};

/// What the control file of a directory says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ControlFile {
    pub(crate) system: SystemId,
    pub(crate) timeline: Timeline,
    /// How far the directory is known to go at least: its last checkpoint, or what a standby has
    /// to replay.
    pub(crate) end: Lsn,
    /// Whether it ran as a primary when the file was last written.
    pub(crate) was_primary: bool,
    /// Whether it was a primary that ended in order: nothing comes after its last checkpoint.
    pub(crate) is_shut_down: bool,
    /// Whether nothing has to be recovered before its files fit together.
    pub(crate) is_clean: bool,
    /// The last checkpoint, and the timeline that it is on.
    pub(crate) checkpoint: (Lsn, Timeline),
    /// Bytes of a segment, and of a page, of the write-ahead log.
    pub(crate) wal: (u64, u64),
    /// Settings that a standby must have at least as high as its primary, and the primary's.
    pub(crate) floors: Vec<(&'static str, u64)>,
}

/// What PostgreSQL uses of the file at most, by `PG_CONTROL_MAX_SAFE_SIZE`.
const CONTROL_BYTES_MAX: u64 = 512;

/// A setting's name there, and in the configuration.
const FLOORS: [(&str, &str); 5] = [
    ("max_connections setting", "max_connections"),
    ("max_worker_processes setting", "max_worker_processes"),
    ("max_wal_senders setting", "max_wal_senders"),
    ("max_prepared_xacts setting", "max_prepared_transactions"),
    ("max_locks_per_xact setting", "max_locks_per_transaction"),
];

/// What was read last, and from which bytes. Most of the time nothing has changed, and a process
/// costs some milliseconds.
#[derive(Debug, Default)]
pub(crate) struct Cache(Option<(Vec<u8>, ControlFile)>);

impl Cache {
    /// As [`read()`], which is done only if the file has changed.
    ///
    /// # Errors
    /// As for [`read()`].
    pub(crate) fn read(&mut self, programs: &Path, data: &Path) -> Result<ControlFile, String> {
        let bytes = bytes_of(data);
        let control = match (&bytes, self.0.take()) {
            (Some(bytes), Some((seen, control))) if *bytes == seen => control,
            _ => read(programs, data)?,
        };
        // Otherwise the program may have seen what came after them.
        let bytes = bytes.filter(|bytes| bytes_of(data).as_ref() == Some(bytes));
        self.0 = bytes.map(|bytes| (bytes, control.clone()));
        Ok(control)
    }
}

/// What is in the file, of which most is unused.
fn bytes_of(data: &Path) -> Option<Vec<u8>> {
    let file = File::open(data.join("global/pg_control")).ok()?;
    let mut bytes = Vec::new();
    file.take(CONTROL_BYTES_MAX).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

/// Has the control file read.
///
/// # Errors
/// When there is none, or it cannot be read.
pub(crate) fn read(programs: &Path, data: &Path) -> Result<ControlFile, String> {
    let program = programs.join("pg_controldata");
    let mut command = Command::new(&program);
    command.arg("-D").arg(data).env("LC_ALL", "C").stdin(Stdio::null());
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
        parse_lsn(text).ok_or_else(|| format!("{name}: {text:?} is no position"))
    };
    let timeline = |name: &str| {
        let found = u32::try_from(number(name)?);
        found.map(Timeline).map_err(|_| format!("{name}: a timeline of more than 32 bits"))
    };
    let checkpoint =
        (lsn("Latest checkpoint location")?, timeline("Latest checkpoint's TimeLineID")?);
    let recovers_to =
        (lsn("Minimum recovery ending location")?, timeline("Min recovery ending loc's timeline")?);
    let state = field("Database cluster state")?;
    let floors = FLOORS.into_iter().map(|(there, name)| Ok((name, number(there)?)));
    Ok(ControlFile {
        system: SystemId(number("Database system identifier")?),
        timeline: checkpoint.1.max(recovers_to.1),
        end: checkpoint.0.max(recovers_to.0),
        // Whatever else the state is, crash recovery for one, is a primary's.
        was_primary: !matches!(state, "shut down in recovery" | "in archive recovery"),
        is_shut_down: state == "shut down",
        is_clean: matches!(state, "shut down" | "shut down in recovery"),
        checkpoint,
        wal: (number("Bytes per WAL segment")?, number("WAL block size")?),
        floors: floors.collect::<Result<_, String>>()?,
    })
}

/// A position as PostgreSQL writes it.
pub(crate) fn parse_lsn(text: &str) -> Option<Lsn> {
    let (high, low) = text.trim().split_once('/')?;
    let half = |text| u32::from_str_radix(text, 16).ok().map(u64::from);
    Some(Lsn(half(high)? << 32 | half(low)?))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const SAID: &str = "\
pg_control version number:            1300
Database system identifier:           7450000000000000001
Database cluster state:               in production
Latest checkpoint location:           1/1500028
Latest checkpoint's TimeLineID:       2
Minimum recovery ending location:     0/0
Min recovery ending loc's timeline:   0
max_connections setting:              200
max_worker_processes setting:         8
max_wal_senders setting:              20
max_prepared_xacts setting:           0
max_locks_per_xact setting:           64
WAL block size:                       8192
Bytes per WAL segment:                16777216
";

    #[test]
    fn what_pg_controldata_says_is_read() {
        let found = parse(SAID).unwrap();
        assert_eq!(found.system, SystemId(7_450_000_000_000_000_001));
        assert_eq!((found.timeline, found.end), (Timeline(2), Lsn(0x1_0150_0028)));
        assert_eq!(found.wal, (16 << 20, 8192));
        assert_eq!(found.floors[0], ("max_connections", 200));
        let standby = SAID.replace("location:     0/0", "location:     2/0");
        assert_eq!(parse(&standby).unwrap().end, Lsn(0x2_0000_0000));
        let as_in = |state| parse(&SAID.replace("in production", state)).unwrap();
        for state in ["in production", "shut down", "shutting down", "in crash recovery"] {
            assert!(as_in(state).was_primary, "{state}");
            assert_eq!(as_in(state).is_shut_down, state == "shut down");
        }
        for state in ["in archive recovery", "shut down in recovery"] {
            assert!(!as_in(state).was_primary && !as_in(state).is_shut_down, "{state}");
        }
    }

    #[test]
    fn program_is_asked_again_only_when_the_file_has_changed() {
        let folder = tempfile::tempdir().unwrap();
        let (data, programs) = (folder.path().join("data"), folder.path().join("bin"));
        std::fs::create_dir_all(data.join("global")).unwrap();
        std::fs::create_dir_all(&programs).unwrap();
        let asked = folder.path().join("asked");
        let program = programs.join("pg_controldata");
        let text = format!("#!/bin/sh\necho >> {}\ncat <<'END'\n{SAID}END\n", asked.display());
        std::fs::write(&program, text).unwrap();
        std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
        let mut cache = Cache::default();
        let mut times = |content: &[u8]| {
            std::fs::write(data.join("global/pg_control"), content).unwrap();
            assert_eq!(cache.read(&programs, &data).unwrap(), parse(SAID).unwrap());
            std::fs::read(&asked).unwrap().len()
        };
        let unused = [&[1; 512][..], &[2; 512]].concat();
        assert_eq!([times(&[1; 512]), times(&[1; 512]), times(&unused)], [1, 1, 1]);
        assert_eq!([times(&[3; 512]), times(&[1; 512])], [2, 3]);
    }

    #[test]
    fn what_is_missing_or_foreign_is_named() {
        let error = parse("").unwrap_err();
        assert!(error.contains("Latest checkpoint location"), "{error}");
        let error = parse(&SAID.replace("1/1500028", "somewhere")).unwrap_err();
        assert!(error.contains("somewhere"), "{error}");
    }
}
