//! Ends established connections at once, idle ones too (`SOCK_DESTROY`, Linux 4.9).
//!
//! A fence answers who sends; who only waits hears of nothing. Destroying a socket tells its far
//! end by a reset, and the process that has it by an error. It works on the sockets of this network
//! namespace, whoever has them.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::libc;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket,
};

use crate::Error;
use crate::error::is_forbidden;

/// Which connections are ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Those of a local server: its port is ours.
    Local,
    /// Those to a server on this host.
    Remote(IpAddr),
}

// `linux/netlink.h`, `linux/sock_diag.h`, `linux/inet_diag.h`.
const HEADER: usize = 16;
const REQUEST: usize = 56;
const ADDRESS: usize = 48;
const MESSAGE: usize = 72;
const BY_FAMILY: u16 = 20;
const DESTROY: u16 = 21;
const ERROR: u16 = 2;
const DONE: u16 = 3;
const IS_REQUEST: u16 = 0x1;
const WANTS_ACK: u16 = 0x4;
const IS_DUMP: u16 = 0x300;
/// All states of TCP with a peer: neither `LISTEN` (10), `CLOSE` (7) nor `TIME_WAIT` (6).
const STATES: u32 = 0xfff & !(1 | 1 << 6 | 1 << 7 | 1 << 10);
const TCP: u8 = 6;

/// Bytes of answers read at once; the kernel fills at most that.
const READ: usize = 32 * 1024;

/// How a connection is named: ports, addresses, interface and cookie, as the kernel gave it.
type Id = [u8; ADDRESS];

/// Ends the connections that use `port` on that side. Returns how many there were; one that ended
/// by itself meanwhile counts too.
///
/// # Errors
/// [`Error::Unprivileged`] without `CAP_NET_ADMIN`; [`Error::KernelLacks`] where the kernel was
/// built without `CONFIG_INET_DIAG_DESTROY`.
pub fn destroy(side: Side, port: u16) -> Result<usize, Error> {
    let run = || -> io::Result<usize> {
        let socket = open()?;
        let mut count = 0;
        for family in [libc::AF_INET, libc::AF_INET6] {
            let family = u8::try_from(family).map_err(io::Error::other)?;
            for id in list(&socket, family)?.iter().filter(|id| matches(id, side, port)) {
                end(&socket, family, id)?;
                count += 1;
            }
        }
        Ok(count)
    };
    run().map_err(|source| {
        let doing = "end established connections";
        if is_forbidden(&source) {
            return Error::Unprivileged { doing, capability: "CAP_NET_ADMIN" };
        }
        let needed = "Linux 4.9 or later with CONFIG_INET_DIAG_DESTROY";
        Error::KernelLacks { doing, needed, source }
    })
}

fn open() -> io::Result<OwnedFd> {
    let protocol = SockProtocol::NetlinkSockDiag;
    Ok(socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?)
}

fn ask(socket: &OwnedFd, kind: u16, flags: u16, family: u8, id: &Id) -> io::Result<()> {
    let mut bytes = Vec::with_capacity(HEADER + REQUEST);
    let length = u32::try_from(HEADER + REQUEST).map_err(io::Error::other)?;
    bytes.extend(length.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend((IS_REQUEST | flags).to_ne_bytes());
    bytes.extend([0; 8]);
    bytes.extend([family, TCP, 0, 0]);
    bytes.extend(STATES.to_ne_bytes());
    bytes.extend(id);
    sendto(socket.as_raw_fd(), &bytes, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
    Ok(())
}

/// Every connection of a family.
fn list(socket: &OwnedFd, family: u8) -> io::Result<Vec<Id>> {
    ask(socket, BY_FAMILY, IS_DUMP, family, &[0; ADDRESS])?;
    let mut ids = Vec::new();
    loop {
        let is_done = each(socket, |kind, body| match kind {
            DONE => Ok(true),
            ERROR => failure(body).map(|()| true),
            BY_FAMILY if body.len() >= MESSAGE => {
                // Family, state, timer and retransmits come first.
                ids.extend(body.get(4..).and_then(|rest| rest.first_chunk::<ADDRESS>()));
                Ok(false)
            }
            _ => Ok(false),
        })?;
        if is_done {
            return Ok(ids);
        }
    }
}

fn end(socket: &OwnedFd, family: u8, id: &Id) -> io::Result<()> {
    ask(socket, DESTROY, WANTS_ACK, family, id)?;
    let mut answered = Ok(());
    each(socket, |kind, body| {
        if kind == ERROR {
            answered = failure(body);
        }
        Ok(true)
    })?;
    match answered {
        // It has ended by itself.
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        answered => answered,
    }
}

/// Reads messages once; whether one of them was the last.
fn each(
    socket: &OwnedFd,
    mut take: impl FnMut(u16, &[u8]) -> io::Result<bool>,
) -> io::Result<bool> {
    let mut buffer = vec![0; READ];
    let length = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
    let mut rest = &buffer[..length];
    let mut is_last = false;
    while let Some(header) = rest.first_chunk::<HEADER>() {
        let [a, b, c, d, e, f, ..] = *header;
        let length = usize::try_from(u32::from_ne_bytes([a, b, c, d])).unwrap_or(0);
        let Some(message) = rest.get(HEADER..length) else { break };
        is_last |= take(u16::from_ne_bytes([e, f]), message)?;
        // Messages begin at multiples of four.
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(is_last)
}

/// The error that a message carries; zero is none.
fn failure(body: &[u8]) -> io::Result<()> {
    match body.first_chunk::<4>().map(|code| i32::from_ne_bytes(*code)) {
        Some(0) => Ok(()),
        Some(code) => Err(io::Error::from_raw_os_error(-code)),
        None => Err(io::Error::other("an answer of the kernel without a code")),
    }
}

fn matches(id: &Id, side: Side, port: u16) -> bool {
    let near = u16::from_be_bytes([id[0], id[1]]);
    let far = u16::from_be_bytes([id[2], id[3]]);
    match side {
        Side::Local => near == port,
        Side::Remote(address) => far == port && is_address(&id[20..36], address),
    }
}

/// Whether 16 bytes of the kernel's are this address: IPv4 in the first four, or mapped.
fn is_address(bytes: &[u8], address: IpAddr) -> bool {
    match address {
        IpAddr::V6(address) => bytes == address.octets(),
        IpAddr::V4(address) => {
            let is_plain =
                bytes[..4] == address.octets() && bytes[4..].iter().all(|byte| *byte == 0);
            is_plain || bytes == address.to_ipv6_mapped().octets()
        }
    }
}
