//! The system calls on sockets that both drivers make.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
    connect, getpeername, sendmsg, socket_with, sockopt,
};
use rustix::time::{ClockId, clock_gettime};

use crate::handler::{Address, Peer};
use crate::limits::PIECES_MAX;
use crate::output::Output;
use crate::pool::Pool;

/// CLOCK_MONOTONIC, in nanoseconds.
#[must_use]
pub fn now_ns() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    // Neither is negative: the clock starts at boot.
    time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs()
}

/// Begins a connection; true if it stands already.
pub(crate) fn begin_connect(address: &Address) -> io::Result<(OwnedFd, Result<bool, Errno>)> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let open = |family| socket_with(family, SocketType::STREAM, flags, None);
    let (fd, result) = match address {
        Address::Tcp(address) => {
            let family = match address {
                SocketAddr::V4(_) => AddressFamily::INET,
                SocketAddr::V6(_) => AddressFamily::INET6,
            };
            let fd = open(family)?;
            sockopt::set_tcp_nodelay(&fd, true)?;
            let result = connect(&fd, address);
            (fd, result)
        }
        Address::Unix(path) => {
            let address = SocketAddrUnix::new(path)?;
            let fd = open(AddressFamily::UNIX)?;
            let result = connect(&fd, &address);
            (fd, result)
        }
    };
    let stands = match result {
        Ok(()) => Ok(true),
        Err(Errno::INPROGRESS) => Ok(false),
        Err(error) => Err(error),
    };
    Ok((fd, stands))
}

/// How a connection that was begun has ended.
pub(crate) fn connect_result(fd: impl AsFd) -> Result<(), Errno> {
    match sockopt::socket_error(fd) {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) | Err(error) => Err(error),
    }
}

/// Readies a connected or listening socket that was made elsewhere, or accepted. Unix sockets know
/// nothing of Nagle's algorithm, and a peer that has gone already is noticed by the first read.
pub(crate) fn prepare(fd: impl AsFd, is_ours: bool) -> io::Result<()> {
    let fd = fd.as_fd();
    if !is_ours {
        let flags = fcntl_getfl(fd)?;
        if !flags.contains(OFlags::NONBLOCK) {
            fcntl_setfl(fd, flags | OFlags::NONBLOCK)?;
        }
    }
    let _ = sockopt::set_tcp_nodelay(fd, true);
    Ok(())
}

pub(crate) fn peer(fd: impl AsFd) -> Option<Peer> {
    let address = getpeername(fd).ok()??;
    match address.address_family() {
        AddressFamily::UNIX => Some(Peer::Unix),
        _ => SocketAddr::try_from(address).ok().map(Peer::Tcp),
    }
}

/// Sends what one call takes; returns how much was tried and what became of it.
pub(crate) fn send(fd: impl AsFd, output: &Output, pool: &Pool) -> (usize, Result<usize, Errno>) {
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    let mut slices = output.slices(pool);
    let first = slices.next().unwrap_or_default();
    let Some(second) = slices.next() else {
        return (first.len(), rustix::net::send(fd, first, flags));
    };
    let mut all = [io::IoSlice::new(&[]); PIECES_MAX];
    let mut count = 0;
    let mut tried = 0;
    for slice in [first, second].into_iter().chain(slices) {
        tried += slice.len();
        all[count] = io::IoSlice::new(slice);
        count += 1;
    }
    (tried, sendmsg(fd, &all[..count], &mut SendAncillaryBuffer::default(), flags))
}
