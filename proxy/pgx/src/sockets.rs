//! Where clients come in: listening sockets, TCP and Unix, and who accepts from which.
//!
//! The process keeps every socket that its threads accept from, so that it can hand the very same
//! to another process: what waits in a socket's queue would be lost with the socket.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::Instant;

use pgx_control::admin::HandOver;
use pgx_session::attrs::SessionAttrs;
use rustix::net::sockopt;
use socket2::{Domain, Socket, Type};
use tracing::warn;

use crate::config::{self, Listen};
use crate::exit::Failure;
use crate::limits::{BIND_PAUSE, BIND_WAIT, LISTEN_BACKLOG};
use crate::takeover::receive::{HandedTcp, HandedUnix};
use crate::unix::{Access, BoundSocket, socket_path};

/// Whether clients come by TCP or a Unix socket, with the socket to accept from.
#[derive(Debug)]
pub(crate) enum Listener {
    Tcp(OwnedFd),
    Unix(OwnedFd),
}

/// One address.
#[derive(Debug)]
struct Tcp {
    /// As it was configured, where port 0 asks for any.
    asked: SocketAddr,
    bound: SocketAddr,
    attrs: SessionAttrs,
    /// One for each thread.
    sockets: Vec<OwnedFd>,
}

/// What a thread accepts from.
#[derive(Debug)]
pub(crate) struct Door {
    pub(crate) socket: OwnedFd,
    /// Which servers clients want there.
    pub(crate) attrs: SessionAttrs,
    /// No other thread accepts from it: who comes in goes to all threads in turn.
    pub(crate) is_only: bool,
}

/// Who else may listen at an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shared {
    No,
    /// Others of this process.
    Yes,
    /// They too, and the host need not have the address yet.
    Virtual,
}

/// All sockets of a proxy.
#[derive(Debug)]
pub(crate) struct Sockets {
    tcp: Vec<Tcp>,
    unix: Vec<(BoundSocket, SessionAttrs)>,
}

impl Sockets {
    /// Listens wherever the configuration says, by what another process has handed over where that
    /// will do.
    ///
    /// # Errors
    /// When a socket cannot be had.
    pub(crate) fn open(
        config: &config::Proxy,
        handed: &mut Vec<HandedTcp>,
        handed_unix: &mut Vec<HandedUnix>,
    ) -> Result<Self, Failure> {
        let mut tcp = Vec::new();
        let mut first = Vec::new();
        let (own, virtual_ones): (Vec<&Listen>, Vec<_>) =
            config.listen.iter().partition(|listen| !listen.is_virtual);
        for Listen { address, attrs, may_lack, .. } in own {
            let (asked, attrs) = (*address, *attrs);
            let place = handed.iter().position(|known| known.asked == asked.to_string());
            if let Some(HandedTcp { sockets, .. }) = place.map(|place| handed.remove(place)) {
                let bound = sockets.first().map_or(Ok(asked), bound_address);
                let bound = bound.map_err(|error| unbound(asked, &error))?;
                tcp.push(Tcp { asked, bound, attrs, sockets });
                continue;
            }
            match bind(asked, Shared::No).and_then(|socket| Ok((bound_address(&socket)?, socket))) {
                Ok((bound, socket)) => {
                    first.push(tcp.len());
                    tcp.push(Tcp { asked, bound, attrs, sockets: vec![socket] });
                }
                Err(error) if *may_lack && is_lacking(&error) => {
                    warn!(%address, %error, "clients cannot come in there");
                }
                Err(error) => return Err(unbound(asked, &error)),
            }
        }
        if let Some(pool) = &config.pool {
            // They have shown that nobody else has the addresses: who shares one with the threads
            // to come would not notice another process that does.
            first.iter().for_each(|place| tcp[*place].sockets.clear());
            for place in first {
                let Tcp { bound, sockets, .. } = &mut tcp[place];
                for _ in 0..pool.threads {
                    let socket = bind(*bound, Shared::Yes);
                    sockets.push(socket.map_err(|error| unbound(*bound, &error))?);
                }
            }
            for Listen { address, attrs, .. } in virtual_ones {
                let (address, attrs) = (*address, *attrs);
                let sockets: io::Result<Vec<_>> =
                    (0..pool.threads).map(|_| bind(address, Shared::Virtual)).collect();
                match sockets {
                    Ok(sockets) => tcp.push(Tcp { asked: address, bound: address, attrs, sockets }),
                    // Of a family that this host has not.
                    Err(error) if is_lacking(&error) => {
                        warn!(%address, %error, "clients cannot come in there");
                    }
                    Err(error) => return Err(unbound(address, &error)),
                }
            }
        }
        let mut sockets = Self { tcp, unix: Vec::new() };
        if let Some(unix) = &config.unix {
            sockets.open_unix(unix, handed_unix)?;
        }
        Ok(sockets)
    }

    /// One for each port; where addresses that share one want other servers the first counts.
    fn open_unix(
        &mut self,
        config: &config::Unix,
        handed: &mut Vec<HandedUnix>,
    ) -> Result<(), Failure> {
        let access = config.access().map_err(Failure::Failed)?;
        for Tcp { bound, attrs, .. } in &self.tcp {
            let path = socket_path(&config.folder, bound.port());
            if self.unix.iter().any(|(known, _)| known.path() == path) {
                continue;
            }
            let place = handed.iter().position(|known| known.path == path);
            let socket = match place.map(|place| handed.remove(place)) {
                Some(HandedUnix { listener, lock, .. }) => {
                    BoundSocket::adopt(&path, listener, lock)
                }
                None => BoundSocket::bind(&path, "proxy.unix_socket_dir", access)
                    .map_err(|denied| Failure::Failed(denied.to_string()))?,
            };
            self.unix.push((socket, *attrs));
        }
        Ok(())
    }

    /// What was handed over is this process' own now.
    ///
    /// # Errors
    /// When files cannot be written.
    pub(crate) fn settle(&mut self, access: Option<Access>) -> io::Result<()> {
        self.unix.iter_mut().try_for_each(|(socket, _)| socket.settle(access))
    }

    /// All of it for another process.
    ///
    /// # Errors
    /// When there are no more descriptors.
    pub(crate) fn offer(&self, offer: &mut HandOver, all: &mut Vec<OwnedFd>) -> io::Result<()> {
        for Tcp { asked, bound, sockets, .. } in &self.tcp {
            offer.tcp.push(pgx_control::admin::HandedTcp {
                asked: asked.to_string(),
                bound: bound.to_string(),
                sockets: sockets.len(),
            });
            for socket in sockets {
                all.push(socket.try_clone()?);
            }
        }
        for (socket, _) in &self.unix {
            offer.unix.push(socket.path().display().to_string());
            all.extend([socket.share()?, socket.share_lock()?]);
        }
        Ok(())
    }

    /// Leaves everything to another process that has it as well.
    pub(crate) fn let_go(self) {
        self.unix.into_iter().for_each(|(socket, _)| socket.let_go());
    }

    /// What one of so many threads is to accept from. Every socket is somebody's.
    ///
    /// # Errors
    /// When there are no more descriptors.
    pub(crate) fn of_thread(&self, number: usize, threads: usize) -> io::Result<Vec<Door>> {
        let mut all = Vec::new();
        for Tcp { attrs, sockets, .. } in &self.tcp {
            for (place, socket) in sockets.iter().enumerate() {
                if is_for(place, sockets.len(), number, threads) {
                    let socket = socket.try_clone()?;
                    all.push(Door { socket, attrs: *attrs, is_only: false });
                }
            }
        }
        // There can be but one for each path, and the kernel would give its clients to whichever
        // thread is first, which mostly is the same.
        for (socket, attrs) in self.unix.iter().filter(|_| number == 0) {
            all.push(Door { socket: socket.share()?, attrs: *attrs, is_only: true });
        }
        Ok(all)
    }

    /// All of them, to accept from.
    ///
    /// # Errors
    /// When there are no more descriptors.
    pub(crate) fn all(&self) -> io::Result<Vec<Listener>> {
        let tcp = self.tcp.iter().flat_map(|tcp| &tcp.sockets);
        let tcp = tcp.map(|socket| Ok(Listener::Tcp(socket.try_clone()?)));
        let unix = self.unix.iter().map(|(socket, _)| Ok(Listener::Unix(socket.share()?)));
        tcp.chain(unix).collect()
    }

    /// Where they are: what was bound, not what was asked for, since port 0 asks for any.
    pub(crate) fn places(&self) -> Vec<String> {
        let tcp = self.tcp.iter().map(|tcp| tcp.bound.to_string());
        let unix = self.unix.iter().map(|(socket, _)| socket.path().display().to_string());
        tcp.chain(unix).collect()
    }
}

/// Whether a socket that has this place among so many is accepted from by a thread that has this
/// number among so many.
fn is_for(place: usize, sockets: usize, number: usize, threads: usize) -> bool {
    if threads < sockets { place % threads == number } else { number % sockets == place }
}

/// Listens, as soon as the kernel has cleared away a process that was killed.
fn bind(address: SocketAddr, shared: Shared) -> io::Result<OwnedFd> {
    let until = Instant::now() + BIND_WAIT;
    loop {
        match try_bind(address, shared) {
            Err(error) if error.kind() == ErrorKind::AddrInUse && Instant::now() < until => {
                std::thread::sleep(BIND_PAUSE);
            }
            bound => return bound,
        }
    }
}

/// Listens.
fn try_bind(address: SocketAddr, shared: Shared) -> io::Result<OwnedFd> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    // Connections of the last run that linger in TIME_WAIT must not stop the next start.
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        // Else [::] would take the port of 0.0.0.0 as well, and the second of them fail.
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_port(shared != Shared::No)?;
    if shared == Shared::Virtual {
        match address {
            SocketAddr::V4(_) => sockopt::set_ip_freebind(&socket, true)?,
            SocketAddr::V6(_) => sockopt::set_ipv6_freebind(&socket, true)?,
        }
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(LISTEN_BACKLOG)?;
    Ok(socket.into())
}

/// Listens for others than clients.
///
/// # Errors
/// When the address cannot be had.
pub(crate) fn listen(address: SocketAddr, key: &str) -> Result<tokio::net::TcpListener, Failure> {
    let listener = bind(address, Shared::No)
        .and_then(|socket| tokio::net::TcpListener::from_std(socket.into()));
    listener.map_err(|error| taken(address, key, &error))
}

fn unbound(address: SocketAddr, error: &io::Error) -> Failure {
    taken(address, "proxy.listen", error)
}

fn taken(address: SocketAddr, key: &str, error: &io::Error) -> Failure {
    Failure::Failed(format!(
        "cannot listen on {address}: {error}; 'ss -ltnp' shows who does, or change {key}"
    ))
}

/// The host has no such address.
fn is_lacking(error: &io::Error) -> bool {
    let lacks = [rustix::io::Errno::ADDRNOTAVAIL, rustix::io::Errno::AFNOSUPPORT];
    error.raw_os_error().is_some_and(|code| lacks.iter().any(|known| known.raw_os_error() == code))
}

fn bound_address(socket: &OwnedFd) -> io::Result<SocketAddr> {
    Ok(SocketAddr::try_from(rustix::net::getsockname(socket)?)?)
}

#[cfg(test)]
mod tests {
    use super::is_for;

    #[test]
    fn every_socket_is_somebodys_and_nobody_goes_without() {
        for sockets in 1..6 {
            for threads in 1..6 {
                let pairs = |place, number| is_for(place, sockets, number, threads);
                for place in 0..sockets {
                    assert!((0..threads).any(|number| pairs(place, number)));
                }
                for number in 0..threads {
                    assert!((0..sockets).any(|place| pairs(place, number)));
                }
            }
        }
    }
}
