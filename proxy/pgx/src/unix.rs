//! Unix sockets that this process listens on: the admin socket, and those for clients.
//!
//! Beside each is a lock file, as PostgreSQL has one: `.s.PGSQL.5432.lock` keeps pgx and PostgreSQL
//! from each other. PostgreSQL locks nothing, but it listens: whether somebody does is asked of the
//! kernel, by a connection.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use nix::sys::socket::{getsockopt, sockopt};
use nix::unistd::{Gid, chown};
use socket2::{Domain, SockAddr, Socket, Type};
use tracing::info;

use crate::claim::{self, Claim, Denied, Holder};
use crate::limits::LISTEN_BACKLOG;

/// Who may connect to a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Access {
    /// As of `chmod`.
    pub(crate) mode: u32,
    /// The group that the file belongs to; that of the process if there is none.
    pub(crate) group: Option<Gid>,
}

/// A listening socket, and the lock that makes its path ours.
#[derive(Debug)]
pub(crate) struct BoundSocket {
    listener: OwnedFd,
    path: PathBuf,
    /// Taken out when all is left to another process.
    claim: Option<Claim>,
    /// Which file is ours, and goes when we do.
    file: Option<(u64, u64)>,
}

impl BoundSocket {
    /// Binds the socket at `path`, replacing one that an unclean stop left behind.
    ///
    /// # Errors
    /// When a living process has it, a foreign file is in its place, or the system refuses.
    pub(crate) fn bind(path: &Path, key: &'static str, access: Access) -> Result<Self, Denied> {
        let system = |step, error| Denied::System { key, step, path: path.to_owned(), error };
        let live = |holder| Denied::Live { key, path: path.to_owned(), holder };
        let mut claim = Claim::take(&lock_path(path), key).map_err(|denied| match denied {
            Denied::Live { holder, .. } => live(holder),
            // The lock may be of somebody whose files are not ours to open.
            denied @ Denied::System { .. } => match listener(path) {
                Ok(Some(holder)) => live(holder),
                _ => denied,
            },
            denied @ Denied::Foreign { .. } => denied,
        })?;
        match std::fs::symlink_metadata(path) {
            Ok(found) if found.file_type().is_socket() => {
                let listener = listener(path).map_err(|error| system("connect to", error))?;
                if let Some(holder) = listener.filter(|holder| !was_pgx(&claim.text(), *holder)) {
                    return Err(live(holder));
                }
                info!(path = %path.display(), "replacing the socket that an unclean stop left");
                std::fs::remove_file(path).map_err(|error| system("remove the stale", error))?;
            }
            Ok(_) => {
                let expected = "a socket";
                return Err(Denied::Foreign { key, path: path.to_owned(), expected });
            }
            Err(_) => {}
        }
        if let Some(process) = postmaster(&claim.text()) {
            return Err(live(Holder { process: Some(process) }));
        }
        claim.sign().map_err(|error| system("write the lock file of", error))?;
        let bind = || -> io::Result<Socket> {
            let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
            socket.set_nonblocking(true)?;
            socket.bind(&SockAddr::unix(path)?)?;
            Ok(socket)
        };
        let socket = bind().map_err(|error| system("bind", error))?;
        let bound = Self {
            listener: socket.into(),
            path: path.to_owned(),
            claim: Some(claim),
            file: identity(path),
        };
        // Before it listens nobody can connect, so nobody comes in by other rights.
        bound.set_access(access).map_err(|error| system("set permissions of", error))?;
        rustix::net::listen(&bound.listener, LISTEN_BACKLOG)
            .map_err(|error| system("listen on", error.into()))?;
        Ok(bound)
    }

    /// Goes on with what another process has handed over.
    pub(crate) fn adopt(path: &Path, listener: OwnedFd, lock: OwnedFd) -> Self {
        let claim = Some(Claim::adopt(&lock_path(path), lock));
        Self { listener, path: path.to_owned(), claim, file: None }
    }

    /// Makes what was handed over ours: it is removed when we give it up.
    ///
    /// # Errors
    /// When the system refuses.
    pub(crate) fn settle(&mut self, access: Option<Access>) -> io::Result<()> {
        self.file = identity(&self.path);
        if let Some(claim) = &mut self.claim {
            claim.sign()?;
        }
        // The kernel tells clients whose process listened last: that is this one from now on.
        rustix::net::listen(&self.listener, LISTEN_BACKLOG)?;
        access.map_or(Ok(()), |access| self.set_access(access))
    }

    /// Leaves it to another process that has it open as well.
    pub(crate) fn let_go(mut self) {
        self.file = None;
        if let Some(claim) = self.claim.take() {
            claim.let_go();
        }
    }

    /// The same socket once more, to accept from.
    ///
    /// # Errors
    /// When there are no more descriptors.
    pub(crate) fn share(&self) -> io::Result<OwnedFd> {
        self.listener.try_clone()
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Its lock once more, for another process.
    ///
    /// # Errors
    /// When there are no more descriptors, or another process has it already.
    pub(crate) fn share_lock(&self) -> io::Result<OwnedFd> {
        let claim = self.claim.as_ref().ok_or_else(|| io::Error::other("it is handed over"))?;
        claim.as_fd().try_clone_to_owned()
    }

    fn set_access(&self, access: Access) -> io::Result<()> {
        let Access { mode, group } = access;
        if group.is_some() {
            chown(&self.path, None, group)?;
        }
        std::fs::set_permissions(&self.path, std::fs::Permissions::from_mode(mode))
    }
}

impl Drop for BoundSocket {
    fn drop(&mut self) {
        // Somebody who does not care for locks may have put another in its place.
        if self.file.is_some() && self.file == identity(&self.path) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Which file is at a path.
fn identity(path: &Path) -> Option<(u64, u64)> {
    let found = std::fs::symlink_metadata(path).ok()?;
    Some((found.dev(), found.ino()))
}

/// Where PostgreSQL's clients look for the socket of a port.
pub(crate) fn socket_path(folder: &Path, port: u16) -> PathBuf {
    folder.join(format!(".s.PGSQL.{port}"))
}

fn lock_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    PathBuf::from(name)
}

/// Who listens on the socket at `path`; `None` if nobody does.
fn listener(path: &Path) -> io::Result<Option<Holder>> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // A queue that is full must not hold us up.
    socket.set_nonblocking(true)?;
    match socket.connect(&SockAddr::unix(path)?) {
        Ok(()) => {
            let who = getsockopt(&socket, sockopt::PeerCredentials).ok();
            let process = who.and_then(|who| u32::try_from(who.pid()).ok());
            Ok(Some(Holder { process: process.filter(|process| *process > 0) }))
        }
        Err(error) => match error.raw_os_error().map(rustix::io::Errno::from_raw_os_error) {
            Some(rustix::io::Errno::CONNREFUSED | rustix::io::Errno::NOENT) => Ok(None),
            Some(rustix::io::Errno::AGAIN | rustix::io::Errno::PROTOTYPE) => {
                Ok(Some(Holder { process: None }))
            }
            _ => Err(error),
        },
    }
}

/// Whether a listener is what the kernel has not yet cleared away of a pgx that is dead: io_uring
/// holds on to its files for a while. Who wrote its number into the lock file in our form had the
/// lock for as long as it lived, and now we have it.
fn was_pgx(text: &str, holder: Holder) -> bool {
    holder.process.is_some() && claim::process(text) == holder.process && text.lines().count() == 1
}

/// The PostgreSQL that wrote a lock file, if it lives: its process is at home in the data directory
/// that stands on the second line. It has the file before it listens, and after its socket is gone.
fn postmaster(text: &str) -> Option<u32> {
    let process = claim::process(text)?;
    let data = text.lines().nth(1).filter(|line| line.starts_with('/'))?;
    let home = std::fs::read_link(format!("/proc/{process}/cwd")).ok()?;
    let data = std::fs::canonicalize(data).unwrap_or_else(|_| PathBuf::from(data));
    (home == data).then_some(process)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;

    const ACCESS: Access = Access { mode: 0o666, group: None };

    fn place() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(".s.PGSQL.6432");
        (folder, path)
    }

    fn bind(path: &Path) -> Result<BoundSocket, Denied> {
        BoundSocket::bind(path, "x", ACCESS)
    }

    #[test]
    fn socket_left_by_an_unclean_stop_is_replaced() {
        let (folder, path) = place();
        // A listener that is dropped leaves its file, as a killed process does.
        drop(UnixListener::bind(&path).unwrap());
        assert!(UnixListener::bind(&path).is_err(), "the file must be in the way");

        let bound = bind(&path).unwrap();

        assert!(UnixStream::connect(&path).is_ok());
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o666);
        drop(bound);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "a clean stop");
    }

    #[test]
    fn socket_of_a_living_pgx_is_refused_and_left_alone() {
        let (_folder, path) = place();
        let _first = bind(&path).unwrap();

        let second = bind(&path).unwrap_err();

        assert!(second.to_string().contains(&format!("process {}", std::process::id())));
        assert!(UnixStream::connect(&path).is_ok());
    }

    #[test]
    fn socket_of_a_living_program_without_a_lock_is_refused_and_left_alone() {
        let (_folder, path) = place();
        let _other = UnixListener::bind(&path).unwrap();

        let refused = bind(&path).unwrap_err();

        assert!(refused.to_string().contains(&format!("process {}", std::process::id())));
        assert!(UnixStream::connect(&path).is_ok());
    }

    #[test]
    fn listener_of_a_dead_pgx_that_the_kernel_still_has_is_replaced() {
        let (_folder, path) = place();
        let _lingers = UnixListener::bind(&path).unwrap();
        std::fs::write(lock_path(&path), format!("{}\n", std::process::id())).unwrap();

        let _bound = bind(&path).unwrap();

        assert!(UnixStream::connect(&path).is_ok());
    }

    #[test]
    fn lock_file_of_a_living_postgresql_is_left_alone_before_it_listens() {
        let (_folder, path) = place();
        let home = std::env::current_dir().unwrap();
        let text = format!("{}\n{}\n1\n6432\n", std::process::id(), home.display());
        std::fs::write(lock_path(&path), &text).unwrap();

        assert!(matches!(bind(&path), Err(Denied::Live { .. })));
        assert_eq!(std::fs::read_to_string(lock_path(&path)).unwrap(), text);

        let dead = text.replacen(&home.display().to_string(), "/nowhere", 1);
        std::fs::write(lock_path(&path), dead).unwrap();
        assert!(bind(&path).is_ok(), "its process number was used again");
    }

    #[test]
    fn socket_that_somebody_has_put_in_its_place_is_left_alone() {
        let (_folder, path) = place();
        let bound = bind(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let _theirs = UnixListener::bind(&path).unwrap();

        drop(bound);

        assert!(UnixStream::connect(&path).is_ok());
    }

    #[test]
    fn file_that_is_no_socket_is_never_removed() {
        let (_folder, path) = place();
        std::fs::write(&path, "precious").unwrap();

        assert!(matches!(bind(&path), Err(Denied::Foreign { .. })));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    }

    #[test]
    fn socket_that_is_handed_over_goes_with_the_process_that_has_it_last() {
        let (folder, path) = place();
        let first = bind(&path).unwrap();
        let lock = first.share_lock().unwrap();
        let mut second = BoundSocket::adopt(&path, first.share().unwrap(), lock);

        second.settle(None).unwrap();
        first.let_go();

        assert!(UnixStream::connect(&path).is_ok());
        assert!(matches!(bind(&path), Err(Denied::Live { .. })));
        drop(second);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
