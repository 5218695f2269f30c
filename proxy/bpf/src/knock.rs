//! The packets by which the fence is tried out: real ones, sent where others would pass, and
//! counted by the program that is to drop them.
//!
//! They come from TCP port 0, which nobody else uses, and are resets without data, so that they
//! reach the program that is meant whatever the lease, and do nothing where it is missing.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, bind, recv, sendto,
    socket,
};
use pgx_abi::{PROBE_IN, PROBE_OUT, PROBE_PORT};

const ETHERNET: usize = 14;
const IPV4: usize = 20;
const TCP: usize = 20;
const TCP_PROTOCOL: u8 = 6;
/// Of RFC 9293.
const RST: u8 = 0x04;
const SYN: u8 = 0x02;
/// Where a connection attempt comes from that nobody waits for.
const STRANGER: u16 = 40_000;
/// Nobody has it: locally administered, then `pgx` in ASCII. A switch that sees it knows nothing.
const NOBODY: [u8; 6] = [0x02, 0x70, 0x67, 0x78, 0, 0];
const ETHERTYPE_IPV4: [u8; 2] = [8, 0];

/// Sends a packet out by an interface, for the program that sees what leaves there.
pub(crate) fn out(interface: u32) -> io::Result<()> {
    send_frame(interface, &frame(PROBE_PORT, PROBE_OUT, RST))
}

/// Sends a packet over loopback, for the program that sees what comes in there.
pub(crate) fn loopback_in(interface: u32) -> io::Result<()> {
    send_frame(interface, &frame(PROBE_PORT, PROBE_IN, RST))
}

/// A frame that asks for a connection to `port`, from a port that nobody listens for.
pub(crate) fn request(port: u16) -> Vec<u8> {
    frame(STRANGER, port, SYN)
}

/// Sends a packet to a socket that listens, for the program of the cgroup that the socket is in.
pub(crate) fn socket_at(address: IpAddr, port: u16) -> io::Result<()> {
    let family = match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    };
    let raw = socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Tcp)?;
    // A raw socket's address has no port.
    let place = SockaddrStorage::from(std::net::SocketAddr::new(address, 0));
    bind(raw.as_raw_fd(), &place)?;
    let segment = segment(address, PROBE_PORT, port, RST);
    sendto(raw.as_raw_fd(), &segment, &place, MsgFlags::empty())?;
    Ok(())
}

/// A frame from nobody to nobody, which no host takes even if it gets out.
fn frame(from: u16, to: u16, flags: u8) -> Vec<u8> {
    let localhost = IpAddr::from([127, 0, 0, 1]);
    let mut frame = [&NOBODY[..], &NOBODY, &ETHERTYPE_IPV4].concat();
    frame.extend([0x45, 0, 0, 40, 0, 0, 0, 0, 64, TCP_PROTOCOL, 0, 0, 127, 0, 0, 1, 127, 0, 0, 1]);
    let sum = checksum(&frame[ETHERNET..]);
    frame[ETHERNET + 10..ETHERNET + 12].copy_from_slice(&sum);
    frame.extend(segment(localhost, from, to, flags));
    debug_assert_eq!(frame.len(), ETHERNET + IPV4 + TCP, "the lengths above");
    frame
}

/// A segment without data from an address to itself.
fn segment(address: IpAddr, from: u16, to: u16, flags: u8) -> Vec<u8> {
    let mut segment = Vec::with_capacity(TCP);
    segment.extend(from.to_be_bytes());
    segment.extend(to.to_be_bytes());
    segment.extend([0; 8]);
    segment.extend([5 << 4, flags, 0, 0, 0, 0, 0, 0]);
    let octets = match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    // The pseudo header of RFC 9293, section 3.1; its fields add up alike for both families.
    let mut summed = [&octets[..], &octets, &[0, TCP_PROTOCOL, 0, 20]].concat();
    summed.extend(&segment);
    let sum = checksum(&summed);
    segment[16..18].copy_from_slice(&sum);
    segment
}

/// The checksum of RFC 1071.
fn checksum(bytes: &[u8]) -> [u8; 2] {
    let words = bytes.chunks(2).map(|pair| match *pair {
        [high, low] => u32::from(u16::from_be_bytes([high, low])),
        [high] => u32::from(high) << 8,
        _ => 0,
    });
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!u16::try_from(sum).unwrap_or(0)).to_be_bytes()
}

/// Sends a frame out by an interface, as it is.
pub(crate) fn send_frame(interface: u32, frame: &[u8]) -> io::Result<()> {
    let socket = packet_socket(0)?;
    let to = place(interface)?;
    let length = libc::socklen_t::try_from(size_of::<libc::sockaddr_ll>());
    // SAFETY: frame and address live until the call returns, and their lengths are their own.
    let sent = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            frame.as_ptr().cast(),
            frame.len(),
            0,
            (&raw const to).cast(),
            length.map_err(io::Error::other)?,
        )
    };
    match io::Error::last_os_error() {
        _ if sent >= 0 => Ok(()),
        // So the kernel says that a program dropped it on its way out.
        error if error.raw_os_error() == Some(libc::ENOBUFS) => Ok(()),
        error => Err(error),
    }
}

/// Sees every frame of an interface, either way.
pub(crate) struct Tap {
    socket: OwnedFd,
}

impl Tap {
    pub(crate) fn open(interface: u32) -> io::Result<Self> {
        let socket = packet_socket(libc::ETH_P_ALL)?;
        let at = place(interface)?;
        let length = libc::socklen_t::try_from(size_of::<libc::sockaddr_ll>());
        let length = length.map_err(io::Error::other)?;
        // SAFETY: the address lives until the call returns, and the length is its own.
        let bound = unsafe { libc::bind(socket.as_raw_fd(), (&raw const at).cast(), length) };
        if bound < 0 { Err(io::Error::last_os_error()) } else { Ok(Self { socket }) }
    }

    /// Whether a reset from this TCP port is seen within `limit`.
    pub(crate) fn sees_reset(&self, port: u16, limit: Duration) -> io::Result<bool> {
        let start = Instant::now();
        loop {
            let left = limit.saturating_sub(start.elapsed());
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            let mut fds = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
            // What a stop of the process ends is waited for anew, for what is left of the time.
            let ready = match poll(&mut fds, timeout) {
                Err(Errno::EINTR) => continue,
                ready => ready?,
            };
            if ready == 0 {
                return Ok(false);
            }
            let mut frame = [0; ETHERNET + IPV4 + TCP];
            let length = recv(self.socket.as_raw_fd(), &mut frame, MsgFlags::empty())?;
            let is_whole = length == frame.len() && frame[ETHERNET + 9] == TCP_PROTOCOL;
            let tcp = &frame[ETHERNET + IPV4..];
            if is_whole && tcp[..2] == port.to_be_bytes() && tcp[13] & RST != 0 {
                return Ok(true);
            }
        }
    }
}

/// A socket for whole frames; of `protocol` it hears, which is none for zero.
fn packet_socket(protocol: libc::c_int) -> io::Result<OwnedFd> {
    let protocol = u16::try_from(protocol).map_err(io::Error::other)?.to_be();
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
    // SAFETY: the call takes no pointers.
    let fd = unsafe { libc::socket(libc::AF_PACKET, kind, protocol.into()) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// An interface as the address of a socket for frames.
fn place(interface: u32) -> io::Result<libc::sockaddr_ll> {
    // SAFETY: all bytes zero are a valid address of this type.
    let mut at: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    at.sll_family = u16::try_from(libc::AF_PACKET).map_err(io::Error::other)?;
    at.sll_protocol = u16::try_from(libc::ETH_P_ALL).map_err(io::Error::other)?.to_be();
    at.sll_ifindex = i32::try_from(interface).map_err(io::Error::other)?;
    Ok(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_of_what_is_sent_are_right() {
        let frame = frame(PROBE_PORT, PROBE_OUT, RST);
        assert_eq!(checksum(&frame[ETHERNET..ETHERNET + IPV4]), [0, 0]);
        for address in ["192.0.2.7", "fd00::7"].map(|text| text.parse::<IpAddr>().unwrap()) {
            let segment = segment(address, PROBE_PORT, 5432, RST);
            let octets = match address {
                IpAddr::V4(address) => address.octets().to_vec(),
                IpAddr::V6(address) => address.octets().to_vec(),
            };
            let whole = [&octets[..], &octets, &[0, TCP_PROTOCOL, 0, 20], &segment].concat();
            assert_eq!(checksum(&whole), [0, 0], "{address}");
        }
    }
}
