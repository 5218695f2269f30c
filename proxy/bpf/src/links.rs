//! The network interfaces of this network namespace, and word of every change of them (rtnetlink).
//!
//! Whoever watches lists again at each change: a missed message then costs nothing but time, and
//! the kernel says when it had to drop some.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};
use std::time::Duration;

use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkLayerType, LinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// The multicast group of changes of links (`RTNLGRP_LINK` in linux/rtnetlink.h).
const GROUP: u32 = 1;

/// What begins a packet on an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// An Ethernet header.
    Ethernet,
    /// The same, and what leaves comes in again.
    Loopback,
    /// Something else, such as the IP header of a tunnel.
    Other,
}

/// An interface as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) framing: Framing,
    pub(crate) is_up: bool,
}

/// Hears of changes.
pub(crate) struct Watch {
    socket: Socket,
}

impl Watch {
    /// Hears of every change from now on, so what is listed later is never older than that.
    pub(crate) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.add_membership(GROUP)?;
        socket.set_non_blocking(true)?;
        Ok(Self { socket })
    }

    /// Waits until something has changed, or until `limit` is over. Returns whether it has.
    pub(crate) fn wait(&self, limit: Duration) -> io::Result<bool> {
        let limit = PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX);
        let mut fds = [PollFd::new(self.as_fd(), PollFlags::POLLIN)];
        let ready = match poll(&mut fds, limit) {
            Err(nix::errno::Errno::EINTR) => 0,
            ready => ready?,
        };
        if ready == 0 {
            return Ok(false);
        }
        // What it says does not matter; that it was lost (ENOBUFS) says as much.
        loop {
            match self.socket.recv_from_full() {
                Ok(_) => {}
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
                Err(error) => return Err(error),
            }
        }
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the socket is ours, and open for as long as the borrow.
        unsafe { BorrowedFd::borrow_raw(self.socket.as_raw_fd()) }
    }
}

/// Every interface there is now.
pub(crate) fn list() -> io::Result<Vec<Link>> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let ask = RouteNetlinkMessage::GetLink(LinkMessage::default());
    send(&socket, ask, NLM_F_DUMP | NLM_F_REQUEST)?;
    let mut links = Vec::new();
    loop {
        let (bytes, _) = socket.recv_from_full()?;
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let message: NetlinkMessage<RouteNetlinkMessage> =
                NetlinkMessage::deserialize(rest).map_err(io::Error::other)?;
            let length = usize::try_from(message.header.length).unwrap_or(usize::MAX);
            match message.payload {
                NetlinkPayload::Done(_) => return Ok(links),
                NetlinkPayload::Error(error) => return Err(error.to_io()),
                NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) => {
                    links.push(read(&link));
                }
                _ => {}
            }
            // Messages begin at multiples of four; one without a length would never end.
            rest = rest.get(length.max(1).next_multiple_of(4)..).unwrap_or_default();
        }
    }
}

/// Asks for a change and waits until the kernel has made it.
pub(crate) fn ask(what: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    send(&socket, what, flags)?;
    let (bytes, _) = socket.recv_from_full()?;
    let answer: NetlinkMessage<RouteNetlinkMessage> =
        NetlinkMessage::deserialize(&bytes).map_err(io::Error::other)?;
    match answer.payload {
        NetlinkPayload::Error(error) if error.code.is_some() => Err(error.to_io()),
        _ => Ok(()),
    }
}

fn send(socket: &Socket, what: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
    let payload = NetlinkPayload::from(what);
    let mut message = NetlinkMessage::new(NetlinkHeader::default(), payload);
    message.header.flags = flags;
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    socket.send(&bytes, 0).map(drop)
}

fn read(link: &LinkMessage) -> Link {
    let name = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name.clone()),
        _ => None,
    });
    let framing = match link.header.link_layer_type {
        LinkLayerType::Ether => Framing::Ethernet,
        LinkLayerType::Loopback => Framing::Loopback,
        _ => Framing::Other,
    };
    let is_up = link.header.flags.contains(LinkFlags::Up);
    Link { index: link.header.index, name: name.unwrap_or_default(), framing, is_up }
}
