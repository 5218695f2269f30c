//! Asks the kernel about TCP sockets of this network namespace (`sock_diag(7)`).

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::libc;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket,
};

// `linux/netlink.h`, `linux/sock_diag.h`, `linux/inet_diag.h`.
const HEADER: usize = 16;
const REQUEST: usize = 56;
const ADDRESS: usize = 48;
/// Bytes of an answer before its attributes.
pub(crate) const MESSAGE: usize = 72;
const BY_FAMILY: u16 = 20;
const DESTROY: u16 = 21;
const ERROR: u16 = 2;
const DONE: u16 = 3;
const IS_REQUEST: u16 = 0x1;
const WANTS_ACK: u16 = 0x4;
const IS_DUMP: u16 = 0x300;
const TCP: u8 = 6;

/// All states of TCP with a peer: neither `LISTEN` (10), `CLOSE` (7) nor `TIME_WAIT` (6).
pub(crate) const CONNECTED: u32 = 0xfff & !(1 | 1 << 6 | 1 << 7 | 1 << 10);
/// Those with a process on this side: `ESTABLISHED` and `CLOSE_WAIT`.
pub(crate) const HELD: u32 = 1 << 1 | 1 << 8;
/// `LISTEN` alone.
pub(crate) const LISTENING: u32 = 1 << 10;

/// Bytes of answers read at once; the kernel fills at most that.
const READ: usize = 32 * 1024;

/// Both address families.
pub(crate) fn families() -> [u8; 2] {
    // `AF_INET` is 2 and `AF_INET6` is 10 on every architecture of Linux.
    [2, 10]
}

/// How a connection is named: ports, addresses, interface and cookie, as the kernel gave it.
pub(crate) type Id = [u8; ADDRESS];

/// What a socket's timer is set for: to send data again.
pub(crate) const SENDS_AGAIN: u8 = 1;
/// What a socket's timer is set for: to ask for a sign of life.
pub(crate) const KEEPS_ALIVE: u8 = 2;
/// What a socket's timer is set for: to ask whether the far end takes something by now.
pub(crate) const ASKS_FOR_ROOM: u8 = 4;

/// Asks for what a connection has been through (`INET_DIAG_INFO`).
pub(crate) const WANTS_INFO: u8 = 1 << (INFO - 1);
/// The attribute with it: `struct tcp_info` of linux/tcp.h.
pub(crate) const INFO: u16 = 2;

/// A socket as the kernel tells of it: its name, and the bytes of its attributes.
pub(crate) struct Found {
    pub(crate) id: Id,
    /// What its timer is set for.
    pub(crate) timer: u8,
    /// How often what it is set for was done in vain.
    pub(crate) in_vain: u8,
    pub(crate) attributes: Vec<u8>,
}

/// A socket to ask by.
pub(crate) fn open() -> io::Result<OwnedFd> {
    let protocol = SockProtocol::NetlinkSockDiag;
    Ok(socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?)
}

/// Every socket of a family in one of these states; `wants` are attributes beyond those that the
/// kernel always tells.
pub(crate) fn list(socket: &OwnedFd, family: u8, states: u32, wants: u8) -> io::Result<Vec<Found>> {
    ask(socket, (BY_FAMILY, IS_DUMP), (family, wants), states, &[0; ADDRESS])?;
    let mut all = Vec::new();
    loop {
        let is_done = each(socket, |kind, body| match kind {
            DONE => Ok(true),
            ERROR => failure(body).map(|()| true),
            BY_FAMILY if body.len() >= MESSAGE => {
                if let [_family, _state, timer, in_vain, rest @ ..] = body
                    && let Some(id) = rest.first_chunk::<ADDRESS>()
                {
                    let (timer, in_vain) = (*timer, *in_vain);
                    let attributes = body[MESSAGE..].to_vec();
                    all.push(Found { id: *id, timer, in_vain, attributes });
                }
                Ok(false)
            }
            _ => Ok(false),
        })?;
        if is_done {
            return Ok(all);
        }
    }
}

/// Ends one connection.
pub(crate) fn end(socket: &OwnedFd, family: u8, id: &Id) -> io::Result<()> {
    ask(socket, (DESTROY, WANTS_ACK), (family, 0), CONNECTED, id)?;
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

fn ask(
    socket: &OwnedFd,
    (kind, flags): (u16, u16),
    (family, wants): (u8, u8),
    states: u32,
    id: &Id,
) -> io::Result<()> {
    let mut bytes = Vec::with_capacity(HEADER + REQUEST);
    let length = u32::try_from(HEADER + REQUEST).map_err(io::Error::other)?;
    bytes.extend(length.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend((IS_REQUEST | flags).to_ne_bytes());
    bytes.extend([0; 8]);
    bytes.extend([family, TCP, wants, 0]);
    bytes.extend(states.to_ne_bytes());
    bytes.extend(id);
    sendto(socket.as_raw_fd(), &bytes, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
    Ok(())
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

/// The value of an attribute.
pub(crate) fn attribute(mut attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    while let [l0, l1, k0, k1, ..] = *attributes {
        let length = usize::from(u16::from_ne_bytes([l0, l1]));
        let value = attributes.get(4..length)?;
        if u16::from_ne_bytes([k0, k1]) == wanted {
            return Some(value);
        }
        attributes = attributes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    None
}

/// The error that a message carries; zero is none.
fn failure(body: &[u8]) -> io::Result<()> {
    match body.first_chunk::<4>().map(|code| i32::from_ne_bytes(*code)) {
        Some(0) => Ok(()),
        Some(code) => Err(io::Error::from_raw_os_error(-code)),
        None => Err(io::Error::other("an answer of the kernel without a code")),
    }
}
