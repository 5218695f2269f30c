//! A capture of TCP packets on every interface of a network namespace, at the times of the kernel,
//! told by the boot-time clock.

use std::io::IoSliceMut;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};

use anyhow::Context as _;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType,
    recvmsg, setsockopt, socket, sockopt,
};
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// Bytes kept of a packet: every header fits.
const SNAP: usize = 256;
/// What may wait to be read.
const WAITING_BYTES: usize = 256 << 20;
const NS_PER_S: u64 = 1_000_000_000;

// RFC 9293, section 3.1.
const SYN: u8 = 0x02;
const RST: u8 = 0x04;

/// One packet.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Seen {
    /// When the kernel saw it.
    pub at_ns: u64,
    /// The interface's index.
    pub interface: usize,
    /// The link address that it came from.
    pub link: [u8; 6],
    /// Whether it is IPv6.
    pub is_ipv6: bool,
    /// Source port.
    pub from: u16,
    /// Destination port.
    pub to: u16,
    /// Whether it opens a connection, or agrees to that.
    pub is_opening: bool,
    /// Whether it is a reset.
    pub is_reset: bool,
    /// Bytes of data in it.
    pub data: usize,
}

/// The beginning of a frame.
#[derive(Clone, Debug)]
pub struct Frame {
    /// When the kernel saw it.
    pub at_ns: u64,
    /// The interface's index.
    pub interface: usize,
    /// From its link header on.
    pub bytes: Vec<u8>,
}

/// A running capture of the namespace that it was opened in.
pub struct Tap {
    socket: OwnedFd,
    /// Both clocks run alike for the seconds of a test.
    boot_behind_ns: u64,
}

/// The boot-time clock.
///
/// # Errors
/// When the kernel does not have it.
pub fn boot_ns() -> anyhow::Result<u64> {
    clock_ns(ClockId::CLOCK_BOOTTIME)
}

fn clock_ns(clock: ClockId) -> anyhow::Result<u64> {
    in_ns(&clock_gettime(clock)?)
}

fn in_ns(time: &TimeSpec) -> anyhow::Result<u64> {
    Ok(u64::try_from(time.tv_sec())? * NS_PER_S + u64::try_from(time.tv_nsec())?)
}

impl Tap {
    /// Begins to capture, in the namespace of the calling thread.
    ///
    /// # Errors
    /// Without the right to.
    pub fn open() -> anyhow::Result<Self> {
        let (family, flags) = (AddressFamily::Packet, SockFlag::SOCK_CLOEXEC);
        let socket = socket(family, SockType::Raw, flags, SockProtocol::EthAll)?;
        setsockopt(&socket, sockopt::RcvBufForce, &WAITING_BYTES)?;
        setsockopt(&socket, sockopt::ReceiveTimestampns, &true)?;
        let boot_behind_ns = clock_ns(ClockId::CLOCK_REALTIME)? - boot_ns()?;
        Ok(Self { socket, boot_behind_ns })
    }

    /// The next frame's time and what it is, if it is TCP; `None` if none came for so long.
    ///
    /// # Errors
    /// When the capture fails.
    pub fn next(&self, wait_ms: u8) -> anyhow::Result<Option<(u64, Option<Seen>)>> {
        let Some(Frame { at_ns, interface, bytes }) = self.frame(wait_ms)? else { return Ok(None) };
        Ok(Some((at_ns, read(&bytes, at_ns, interface))))
    }

    /// The next frame; `None` if none came for so long.
    ///
    /// # Errors
    /// When the capture fails.
    pub fn frame(&self, wait_ms: u8) -> anyhow::Result<Option<Frame>> {
        let mut fds = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::from(wait_ms)) {
            // The process was stopped and goes on.
            Ok(0) | Err(Errno::EINTR) => return Ok(None),
            done => done?,
        };
        let mut frame = [0; SNAP];
        let mut control = nix::cmsg_space!(TimeSpec);
        let (length, interface, time) = {
            let (fd, flags) = (self.socket.as_raw_fd(), MsgFlags::MSG_DONTWAIT);
            let mut parts = [IoSliceMut::new(&mut frame)];
            let got = match recvmsg::<LinkAddr>(fd, &mut parts, Some(&mut control), flags) {
                Err(Errno::EINTR | Errno::EAGAIN) => return Ok(None),
                got => got?,
            };
            let time = got.cmsgs()?.find_map(|message| match message {
                ControlMessageOwned::ScmTimestampns(time) => Some(time),
                _ => None,
            });
            (got.bytes, got.address.map_or(0, |address| address.ifindex()), time)
        };
        let at_ns = in_ns(&time.context("the kernel gives no times")?)? - self.boot_behind_ns;
        Ok(Some(Frame { at_ns, interface, bytes: frame[..length].to_vec() }))
    }
}

fn read(frame: &[u8], at_ns: u64, interface: usize) -> Option<Seen> {
    let (is_ipv6, length) = match frame.get(12..14)? {
        [8, 0] => (false, 14 + usize::from(u16::from_be_bytes([*frame.get(16)?, *frame.get(17)?]))),
        [0x86, 0xdd] => {
            (true, 54 + usize::from(u16::from_be_bytes([*frame.get(18)?, *frame.get(19)?])))
        }
        _ => return None,
    };
    // The lengths in headers speak of the whole packet; of a cut one the headers are enough.
    let (ip, tcp) = if is_ipv6 { (40, 54) } else { (20, 34) };
    let header = 14 + ip + usize::from(frame.get(tcp + 12)? >> 4) * 4;
    let protocol = if is_ipv6 { *frame.get(20)? } else { *frame.get(23)? };
    if protocol != 6 {
        return None;
    }
    let number = |at: usize| Some(u16::from_be_bytes([*frame.get(at)?, *frame.get(at + 1)?]));
    let flags = *frame.get(tcp + 13)?;
    Some(Seen {
        at_ns,
        interface,
        link: *frame.get(6..)?.first_chunk()?,
        is_ipv6,
        from: number(tcp)?,
        to: number(tcp + 2)?,
        is_opening: flags & SYN != 0,
        is_reset: flags & RST != 0,
        data: length.saturating_sub(header),
    })
}
