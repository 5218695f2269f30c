//! What makes this process the one pgx that runs by its configuration: the admin socket, the pid
//! file, and the sockets where clients come in. It is had by one process after the other: made, or
//! handed over; given up, or handed on.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pgx_control::admin::HandOver;
use tokio::net::UnixListener;

use crate::admin;
use crate::claim::{Claim, Denied};
use crate::config::{self, Config};
use crate::exit::Failure;
use crate::sockets::Sockets;
use crate::takeover::receive::{Handed, HandedTcp, HandedUnix};
use crate::unix::BoundSocket;

/// The key that names the pid file.
const PID_FILE: &str = "admin.pid_file";

/// All of it.
pub(crate) struct Holdings {
    admin: BoundSocket,
    pid_file: Option<Claim>,
    sockets: Option<Sockets>,
    /// Handed over, and not wanted any more.
    rest: Rest,
    /// Clients come in no more, as the process is to end.
    is_ending: bool,
}

/// What was handed over, and has found no use so far. It must not be closed before this process
/// has taken the other's place: clients may wait in queues.
#[derive(Default)]
struct Rest {
    pid_file: Option<Claim>,
    tcp: Vec<HandedTcp>,
    unix: Vec<HandedUnix>,
}

impl Holdings {
    /// Takes what no other process may have beside this one.
    ///
    /// # Errors
    /// When another has it, or the system refuses.
    pub(crate) fn take(config: &Config) -> Result<Self, Failure> {
        let admin = admin::bind(&config.admin_socket).map_err(|denied| failed(&denied))?;
        let pid_file = config.pid_file.as_deref().map(take_pid_file).transpose()?;
        Ok(Self { admin, pid_file, sockets: None, rest: Rest::default(), is_ending: false })
    }

    /// Goes on with what was handed over.
    ///
    /// # Errors
    /// When there is more to be had, and it cannot be.
    pub(crate) fn adopt(config: &Config, handed: Handed) -> Result<Self, Failure> {
        let Handed { admin: (listener, lock), pid_file, tcp, unix } = handed;
        let admin = BoundSocket::adopt(&config.admin_socket, listener, lock);
        let mut handed = pid_file.map(|(path, lock)| Claim::adopt(&path, lock));
        let pid_file = match config.pid_file.as_deref() {
            Some(path) if handed.as_ref().is_some_and(|claim| claim.path() == path) => {
                handed.take()
            }
            path => path.map(take_pid_file).transpose()?,
        };
        let rest = Rest { pid_file: handed, tcp, unix };
        Ok(Self { admin, pid_file, sockets: None, rest, is_ending: false })
    }

    /// Listens for clients, by what was handed over where that will do.
    ///
    /// # Errors
    /// When a socket cannot be had.
    pub(crate) fn listen(&mut self, proxy: &config::Proxy) -> Result<&Sockets, Failure> {
        let Rest { tcp, unix, .. } = &mut self.rest;
        Ok(self.sockets.insert(Sockets::open(proxy, tcp, unix)?))
    }

    /// The other process' place is this one's: whatever is left of it from here on goes with us.
    ///
    /// # Errors
    /// When files cannot be written.
    pub(crate) fn settle(&mut self, config: &Config) -> Result<(), Failure> {
        let written = |error: io::Error| {
            Failure::Failed(format!("cannot write the lock files that were handed over: {error}"))
        };
        self.admin.settle(None).map_err(written)?;
        if let Some(claim) = &mut self.pid_file {
            claim.sign().map_err(written)?;
        }
        let unix = config.proxy.as_ref().and_then(|proxy| proxy.unix.as_ref());
        let access = unix.map(config::Unix::access).transpose().map_err(Failure::Failed)?;
        if let Some(sockets) = &mut self.sockets {
            sockets.settle(access).map_err(written)?;
        }
        let Rest { pid_file, tcp, unix } = std::mem::take(&mut self.rest);
        drop(tcp);
        // What is signed is removed when it is dropped.
        if let Some(mut claim) = pid_file {
            claim.sign().map_err(written)?;
        }
        for HandedUnix { path, listener, lock } in unix {
            BoundSocket::adopt(&path, listener, lock).settle(None).map_err(written)?;
        }
        Ok(())
    }

    /// Where clients come in.
    pub(crate) fn places(&self) -> Vec<String> {
        self.sockets.as_ref().map(Sockets::places).unwrap_or_default()
    }

    /// What operators' requests are accepted from.
    ///
    /// # Errors
    /// When there are no more descriptors.
    pub(crate) fn admin(&self) -> Result<UnixListener, Failure> {
        let listener = self.admin.share().and_then(|socket| UnixListener::from_std(socket.into()));
        listener.map_err(|error| Failure::Failed(format!("cannot serve operators: {error}")))
    }

    /// All of it, with its descriptors in the order that they are sent in.
    ///
    /// # Errors
    /// When there are no more descriptors.
    fn offer(&self, peer_id: u8) -> io::Result<(HandOver, Vec<OwnedFd>)> {
        let mut descriptors = vec![self.admin.share()?, self.admin.share_lock()?];
        let mut offer = HandOver {
            process_id: std::process::id(),
            peer_id,
            pid_file: None,
            tcp: Vec::new(),
            unix: Vec::new(),
        };
        if let Some(claim) = &self.pid_file {
            offer.pid_file = Some(claim.path().display().to_string());
            descriptors.push(claim.as_fd().try_clone_to_owned()?);
        }
        if let Some(sockets) = &self.sockets {
            sockets.offer(&mut offer, &mut descriptors)?;
        }
        Ok((offer, descriptors))
    }

    /// Closes the doors of clients, for good: the next process may have them.
    fn close_doors(&mut self) {
        (self.sockets, self.is_ending) = (None, true);
    }

    /// Leaves everything to another process that has it as well.
    fn let_go(self) {
        self.admin.let_go();
        if let Some(claim) = self.pid_file {
            claim.let_go();
        }
        if let Some(sockets) = self.sockets {
            sockets.let_go();
        }
    }
}

/// What is there until the process gives it up, or another has it.
#[derive(Clone)]
pub(crate) struct Kept(Arc<Mutex<Option<Holdings>>>);

impl Kept {
    pub(crate) fn new(holdings: Holdings) -> Self {
        Self(Arc::new(Mutex::new(Some(holdings))))
    }

    /// Closes the doors of clients, if they are still this process' own.
    pub(crate) fn close_doors(&self) {
        if let Some(holdings) = self.lock().as_mut() {
            holdings.close_doors();
        }
    }

    /// Ends it, if it is still there: files go.
    pub(crate) fn end(&self) {
        drop(self.lock().take());
    }

    /// What another process is to have; `None` if that comes too late.
    pub(crate) fn offer(&self, peer_id: u8) -> Option<io::Result<(HandOver, Vec<OwnedFd>)>> {
        let holdings = self.lock();
        holdings.as_ref().filter(|it| !it.is_ending).map(|it| it.offer(peer_id))
    }

    /// Leaves it to that process, which is told so by `tell`.
    ///
    /// # Errors
    /// When it cannot be told, or this comes too late; then all stays as it was.
    pub(crate) fn hand_on(&self, tell: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let mut place = self.lock();
        let Some(holdings) = place.take_if(|it| !it.is_ending) else {
            return Err(io::Error::other("this process has been asked to end meanwhile"));
        };
        if let Err(error) = tell() {
            *place = Some(holdings);
            return Err(error);
        }
        holdings.let_go();
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Option<Holdings>> {
        // Whoever panicked while it held the lock has left all sockets where they were.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn take_pid_file(path: &Path) -> Result<Claim, Failure> {
    let mut claim = Claim::take(path, PID_FILE).map_err(|denied| failed(&denied))?;
    let signed = claim.sign().map_err(|error| {
        let (step, path) = ("write", path.to_owned());
        failed(&Denied::System { key: PID_FILE, step, path, error })
    });
    signed.map(|()| claim)
}

fn failed(denied: &Denied) -> Failure {
    Failure::Failed(denied.to_string())
}
