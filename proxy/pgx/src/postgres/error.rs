//! What can go wrong with the local PostgreSQL, and what to do then.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Why something was not done. All of it may be tried again, unless an operator is named.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The system refused.
    #[error("{what}: {error}")]
    System { what: String, error: io::Error },
    /// A program of PostgreSQL's failed.
    #[error("{program} failed ({status}): {said}")]
    Program { program: &'static str, status: String, said: String },
    /// A program of the operator's failed.
    #[error("{what}: {program} failed ({status}): {said}")]
    Called { what: &'static str, program: String, status: String, said: String },
    /// What a program of the operator's has made of a directory cannot follow the source.
    #[error("the backup in {} cannot be used: {why}", path.display())]
    UselessBackup { path: PathBuf, why: &'static str },
    /// The disk is full; what was begun stays marked as half done.
    #[error("no space is left in {} ({free} bytes); make space, it is tried again: {said}",
        path.display())]
    DiskFull { path: PathBuf, free: u64, said: String },
    /// The server that is copied from went away; what was begun stays marked as half done.
    #[error("{host}:{port} cannot be reached to copy from ({error}); it is tried again: {said}")]
    SourceLost { host: String, port: u16, error: io::Error, said: String },
    /// The server that is copied from lets nobody in; nothing was begun.
    #[error("{host}:{port} lets nobody copy; nothing was changed here, it is tried again: {said}")]
    SourceRefuses { host: String, port: u16, said: String },
    /// The server that is copied from has just been promoted, or is being so; nothing was begun.
    #[error("{host}:{port} cannot be copied from yet ({why}); it is tried again")]
    SourceNotReady { host: String, port: u16, why: &'static str },
    /// Its processes cannot be told from others.
    #[error(
        "pid {0} is a postmaster, but none of PostgreSQL's programs by /proc/{0}/exe: pgx may not \
        look at it, or the program has another name"
    )]
    Unseen(i32),
    /// Something took too long.
    #[error("{what} took more than {limit:?}")]
    TimeOut { what: &'static str, limit: Duration },
    /// Somebody wanted it to end.
    #[error("interrupted")]
    Aborted,
    /// PostgreSQL could not be asked: it does not run, starts, or hangs.
    #[error("PostgreSQL gives no answer: {0}")]
    Silent(String),
    /// It answered with an error.
    #[error("PostgreSQL refuses: {text} (SQLSTATE {code})")]
    Refused { code: String, text: String },
    /// It ended while it started.
    #[error("PostgreSQL did not start: {0}")]
    NotStarted(String),
    /// The directory is half rebuilt.
    #[error("{} is half rebuilt ({what}) and is not started; it has to be rebuilt, or put back",
        path.display())]
    HalfBuilt { path: PathBuf, what: String },
    /// Processes do not end though they were killed: they wait for a disk.
    #[error("processes {pids:?} do not end though they are killed; their disk may be dead")]
    Unkillable { pids: Vec<i32> },
    /// It was ended in order, and its control file does not say so.
    #[error("PostgreSQL has ended without a shutdown checkpoint of a primary; see its log")]
    NoShutdownCheckpoint,
    /// A directory cannot be put aside.
    #[error("{} is a mount point and cannot be put aside; move it into a folder of that file \
        system", .0.display())]
    MountPoint(PathBuf),
    /// A link leads to what is not PostgreSQL's.
    #[error("{} is no directory of PostgreSQL's user, though a link in the data directory leads \
        there; remove the link, or give the directory to that user", .0.display())]
    NotOwn(PathBuf),
    /// Something is where a tablespace has to be.
    #[error("{} is not empty, and a tablespace of the source has to be there; nothing was \
        changed. Nodes on one host cannot share it: move the other node, or remove what is there",
        .0.display())]
    SpaceInUse(PathBuf),
    /// Something else is in the place of a directory.
    #[error("{} is no directory; remove it or set another path", .0.display())]
    NotADirectory(PathBuf),
    /// Something is in a directory that must be empty.
    #[error("{} is not empty; a cluster is founded in an empty directory", .0.display())]
    NotEmpty(PathBuf),
    /// What was put aside is not there.
    #[error(
        "{} is not there, and another directory is in its place: is its disk mounted?", .0.display()
    )]
    NothingAside(PathBuf),
    /// A file of pgx's is not as pgx writes it.
    #[error("{}: {what}; remove it, then adopt the directory anew", path.display())]
    Strange { path: PathBuf, what: String },
    /// The directory was never taken over.
    #[error(
        "{} is missing: this directory is not managed by pgx yet; adopt it first",
        .0.display()
    )]
    NotManaged(PathBuf),
    /// A setting that pgx has written is not in force.
    #[error(
        "{name} is {found:?} though pgx has set {wanted:?}; look for it after pgx's line in \
        postgresql.conf, and among the options that PostgreSQL was started with"
    )]
    Overridden { name: &'static str, found: String, wanted: String },
    /// Somebody has set what loses commits.
    #[error(
        "durability is strict, but {0}: take it back, or choose by 'pgx ctl edit-config --set \
        durability=available' that commits may be lost"
    )]
    Low(String),
    /// The directory cannot be looked at.
    #[error("{0}")]
    ControlFile(String),
    /// This PostgreSQL is too old.
    #[error("PostgreSQL {found} is not supported; {} or later is needed", super::versions::OLDEST)]
    Version { found: u32 },
}

/// An error of the system with what was tried, and where.
pub(super) fn system(what: &str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let what = format!("{what} {}", path.display());
    move |error| Error::System { what, error }
}
