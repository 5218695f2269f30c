//! What pgx does to this host's PostgreSQL: looks at it ([`eyes`]), starts and ends it ([`life`]),
//! sets whom it follows and whom its commits wait for ([`hands`], [`settings`]), builds its
//! directory anew ([`rebuild`]), makes one from nothing ([`found`]), takes one over ([`adopt`]).
//!
//! It must not know quorum, leases or other nodes of pgx: others decide, and say whom to follow and
//! by what rule. All functions block until a deadline; whoever calls them has a thread for that.
//! What takes long can be interrupted by an [`Abort`]. Each may be repeated, also after a process
//! that died half way: what is half done is recognised by what lies on disk.
//! docs/POSTGRES.md says which files and settings are pgx's.

pub(crate) mod adopt;
mod archive;
mod backup;
pub(crate) mod called;
pub(crate) mod control_file;
mod disks;
mod elsewhere;
pub(crate) mod error;
pub(crate) mod eyes;
mod files;
mod floor;
pub(crate) mod found;
pub(crate) mod hands;
mod hba;
pub(crate) mod life;
mod log;
mod lost;
mod nudge;
pub(crate) mod owner;
pub(crate) mod postmaster;
pub(crate) mod process;
mod program;
mod proof;
pub(crate) mod rebuild;
mod roles;
mod session;
pub(crate) mod settings;
mod slots;
mod source;
mod spaces;
mod versions;
mod wal;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use pgx_control::ids::NodeId;

use self::error::{Error, system};

/// Where a PostgreSQL lies, whose it is, and what of it is this node's alone.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// The data directory.
    pub(crate) data: PathBuf,
    /// The folder of PostgreSQL's programs.
    pub(crate) programs: PathBuf,
    /// `postgresql.conf`: in the data directory, or elsewhere as in Debian.
    pub(crate) config_file: PathBuf,
    /// The folder of its Unix socket, which nobody else may enter.
    pub(crate) sockets: PathBuf,
    /// Its port.
    pub(crate) port: u16,
    /// The addresses that it listens on; as configured by the operator if it is not given.
    pub(crate) listen: Option<String>,
    /// The system user that it runs as.
    pub(crate) owner: u32,
    /// The superuser as whom pgx asks, and where.
    pub(crate) user: String,
    pub(crate) database: String,
    /// The role by which members receive from one another, rewind and clone.
    pub(crate) replication_user: String,
    /// The file with its password on the first line, the same on every node.
    pub(crate) replication_password_file: PathBuf,
    /// How members encrypt these connections, by libpq's words.
    pub(crate) sslmode: String,
    /// How much of its log a primary keeps for a member that is away, in MiB.
    pub(crate) slot_keep_mb: u32,
    /// The operator's program that fills an empty directory from a backup, and its words, if any.
    pub(crate) clone_command: Vec<String>,
    /// This node.
    pub(crate) node: NodeId,
}

impl Place {
    /// What pgx keeps beside the data directory: marks of what is half done, logs, secrets, and
    /// directories that were put aside.
    pub(crate) fn folder(&self) -> PathBuf {
        let mut name = self.data.as_os_str().to_owned();
        name.push(".pgx");
        PathBuf::from(name)
    }

    /// The file that PostgreSQL's first messages go to, and all where it has no log of its own.
    pub(crate) fn log(&self) -> PathBuf {
        self.folder().join("server.log")
    }

    /// The file that libpq finds the password of [`Self::replication_user`] in.
    pub(crate) fn pass_file(&self) -> PathBuf {
        self.folder().join("pgpass")
    }

    fn has_config_inside(&self) -> bool {
        self.config_file.parent() == Some(&self.data)
    }

    /// Does something with files, by the rights of whom they belong to.
    fn own<T>(&self, act: impl FnOnce() -> T) -> T {
        owner::act_as(self.owner, act)
    }

    /// Makes the folder beside the data directory.
    fn make_folder(&self) -> Result<(), Error> {
        self.make_own_directory(&self.folder())
    }

    /// Makes a directory that only PostgreSQL's user may enter. Its parents may be root's; he must
    /// be able to pass those that are made.
    fn make_own_directory(&self, path: &Path) -> Result<(), Error> {
        use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
        let parents = path.parent().filter(|parent| !parent.exists());
        let mut builder = std::fs::DirBuilder::new();
        builder.recursive(true);
        parents
            .map_or(Ok(()), |parent| builder.mode(0o755).create(parent))
            .and_then(|()| builder.mode(0o700).create(path))
            .map_err(system("cannot make", path))?;
        let found = std::fs::symlink_metadata(path).map_err(system("cannot look at", path))?;
        if !found.is_dir() {
            return Err(Error::NotADirectory(path.to_owned()));
        }
        if found.uid() != self.owner {
            std::os::unix::fs::lchown(path, Some(self.owner), None)
                .map_err(system("cannot give to PostgreSQL's user", path))?;
        }
        if found.mode() & 0o777 != 0o700 {
            let mode = std::fs::Permissions::from_mode(0o700);
            self.own(|| std::fs::set_permissions(path, mode))
                .map_err(system("cannot close to others", path))?;
        }
        Ok(())
    }
}

/// Another member, as PostgreSQL reaches it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Peer {
    pub(crate) node: NodeId,
    pub(crate) host: String,
    pub(crate) port: u16,
}

/// Whether something is half done to the directory: it must not be started.
///
/// # Errors
/// When that cannot be read.
pub(crate) fn is_half_built(place: &Place) -> Result<bool, Error> {
    rebuild::mark(place).map(|mark| mark.is_some())
}

/// Interrupts what takes long, from any thread and for good: whoever goes on takes a new one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Abort(Arc<AtomicBool>);

impl Abort {
    pub(crate) fn abort(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn check(&self) -> Result<(), Error> {
        if self.0.load(Ordering::Relaxed) { Err(Error::Aborted) } else { Ok(()) }
    }
}
