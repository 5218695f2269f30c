//! A capture of TCP packets on every interface of a host, at the times of the kernel, told by the
//! boot-time clock.

use std::io::{IoSliceMut, Write as _};
use std::os::fd::AsRawFd as _;

use anyhow::Context as _;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType,
    recvmsg, setsockopt, socket, sockopt,
};
use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use std::os::fd::AsFd as _;

use crate::inside::boot_ns;

/// Bytes kept of a packet: every header fits.
const SNAP: usize = 256;
/// What may wait to be read.
const WAITING_BYTES: usize = 256 << 20;
/// Says that the capture runs.
pub(crate) const READY: &str = "ready";

/// One packet.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Seen {
    /// When the kernel saw it.
    pub(crate) at_ns: u64,
    /// The interface's index.
    pub(crate) interface: usize,
    pub(crate) is_ipv6: bool,
    pub(crate) from: u16,
    pub(crate) to: u16,
    pub(crate) is_reset: bool,
    /// Bytes of data in it.
    pub(crate) data: usize,
}

/// Prints every packet to or from `port` that the kernel sees between two times, one a line.
pub(crate) fn serve(port: u16, from_ns: u64, until_ns: u64) -> anyhow::Result<()> {
    let tap =
        socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll)?;
    setsockopt(&tap, sockopt::RcvBufForce, &WAITING_BYTES)?;
    setsockopt(&tap, sockopt::ReceiveTimestampns, &true)?;
    let real = clock_gettime(ClockId::CLOCK_REALTIME)?;
    let real_ns = u64::try_from(real.tv_sec())? * 1_000_000_000 + u64::try_from(real.tv_nsec())?;
    // Both clocks run alike for these seconds.
    let boot_behind_ns = real_ns - boot_ns()?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "{READY}")?;
    out.flush()?;
    // Printed at the end: a reader that is late must not hold up the capture.
    let mut all = Vec::new();
    loop {
        let mut fds = [PollFd::new(tap.as_fd(), PollFlags::POLLIN)];
        if poll(&mut fds, PollTimeout::from(50_u8))? == 0 {
            if boot_ns()? < until_ns {
                continue;
            }
            break;
        }
        let mut frame = [0; SNAP];
        let mut control = nix::cmsg_space!(nix::sys::time::TimeSpec);
        let (length, interface, time) = {
            let mut parts = [IoSliceMut::new(&mut frame)];
            let flags = MsgFlags::empty();
            let got = recvmsg::<LinkAddr>(tap.as_raw_fd(), &mut parts, Some(&mut control), flags)?;
            let time = got.cmsgs()?.find_map(|message| match message {
                ControlMessageOwned::ScmTimestampns(time) => Some(time),
                _ => None,
            });
            (got.bytes, got.address.map_or(0, |address| address.ifindex()), time)
        };
        let time = time.context("the kernel gives no times")?;
        let at_ns = u64::try_from(time.tv_sec())? * 1_000_000_000 + u64::try_from(time.tv_nsec())?;
        let at_ns = at_ns - boot_behind_ns;
        // By their own times: on a busy host they are read later than they came.
        if at_ns > until_ns {
            break;
        }
        if at_ns < from_ns {
            continue;
        }
        all.extend(read(&frame[..length], port, at_ns, interface));
    }
    for seen in all {
        writeln!(out, "{}", serde_json::to_string(&seen)?)?;
    }
    Ok(())
}

fn read(frame: &[u8], port: u16, at_ns: u64, interface: usize) -> Option<Seen> {
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
    let (from, to) = (number(tcp)?, number(tcp + 2)?);
    let flags = *frame.get(tcp + 13)?;
    (from == port || to == port).then_some(Seen {
        at_ns,
        interface,
        is_ipv6,
        from,
        to,
        is_reset: flags & 4 != 0,
        data: length.saturating_sub(header),
    })
}
