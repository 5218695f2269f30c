//! Hosts on one network: namespaces joined by a bridge, and ears that hear every frame.

use std::fs::File;
use std::io::IoSliceMut;
use std::net::{IpAddr, UdpSocket};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::panic::resume_unwind;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use etherparse::{ArpOperation, NetSlice, SlicedPacket, TransportSlice};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockProtocol, SockType, recvmsg,
    setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike as _};
use nix::time::{ClockId, clock_gettime};
use pgx_bpf::lab::attach_pass;
use pgx_tests::objects::objects;
use pgx_vip::boot_ns;
use tempfile::TempDir;

use crate::space::{Space, ip, read_ip};

/// The interface of every host.
pub(crate) const ETH: &str = "eth0";
/// Nothing here takes longer unless it hangs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);
/// Longest frame that is looked at.
const FRAME_BYTES_MAX: usize = 2048;

/// How XDP runs on the hosts' interfaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cable {
    /// In the driver.
    Native,
    /// In the network stack: a veth refuses native XDP when its peer's frames may be too long.
    Generic,
}

/// A network namespace with an interface on the bridge; it ends with this value.
pub(crate) struct Host {
    namespace: File,
}

/// Three hosts on one bridge, which is in the space's own namespace.
pub(crate) struct Net {
    pub(crate) client: Host,
    pub(crate) one: Host,
    pub(crate) two: Host,
    /// For files; a BPF file system takes none.
    pub(crate) files: TempDir,
}

impl Net {
    pub(crate) fn make(space: &Space, cable: Cable) -> anyhow::Result<Self> {
        ip("link add br0 type bridge mcast_snooping 0")?;
        ip("link set br0 up")?;
        let host = |number: u8| Host::make(space, cable, number);
        Ok(Self { client: host(100)?, one: host(1)?, two: host(2)?, files: tempfile::tempdir()? })
    }
}

impl Host {
    fn make(space: &Space, cable: Cable, number: u8) -> anyhow::Result<Self> {
        let enter = || -> anyhow::Result<File> {
            unshare(CloneFlags::CLONE_NEWNET)?;
            Ok(File::open("/proc/thread-self/ns/net")?)
        };
        let namespace = thread::scope(|scope| scope.spawn(enter).join());
        let host = Self { namespace: namespace.unwrap_or_else(|panic| resume_unwind(panic))? };
        let (port, mtu) = (format!("p{number}"), if cable == Cable::Native { 1500 } else { 9000 });
        ip(&format!("link add {port} mtu {mtu} type veth peer name {ETH} mtu {mtu}"))?;
        let path = format!("/proc/{}/fd/{}", std::process::id(), host.namespace.as_raw_fd());
        ip(&format!("link set {ETH} netns {path}"))?;
        ip(&format!("link set {port} master br0 up"))?;
        if cable == Cable::Native {
            // A frame that goes back out of a veth natively needs a program at the other end.
            attach_pass(&objects()?, &space.pins()?, &port)?;
        }
        host.run(|| {
            ip("link set lo up")?;
            ip(&format!("address add 192.0.2.{number}/24 dev {ETH}"))?;
            ip(&format!("address add fd00::{number}/64 dev {ETH} nodad"))?;
            ip(&format!("link set {ETH} up"))
        })?;
        Ok(host)
    }

    /// Runs something on a thread in this host; what it starts stays in there.
    pub(crate) fn run<T: Send>(
        &self,
        job: impl FnOnce() -> anyhow::Result<T> + Send,
    ) -> anyhow::Result<T> {
        let inside = || {
            setns(&self.namespace, CloneFlags::CLONE_NEWNET)?;
            job()
        };
        let result = thread::scope(|scope| scope.spawn(inside).join());
        result.unwrap_or_else(|panic| resume_unwind(panic))
    }

    /// The link address of its interface.
    pub(crate) fn link_address(&self) -> anyhow::Result<[u8; 6]> {
        self.run(|| Ok(pgx_bpf::Wire::open(ETH)?.link_address()))
    }

    /// Makes the stack ask for an address.
    pub(crate) fn send_to(&self, address: IpAddr) -> anyhow::Result<()> {
        self.run(|| {
            let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            UdpSocket::bind(any)?.send_to(b"?", (address, 9))?;
            Ok(())
        })
    }

    /// The link address that the stack has for an address; `None` while it has none.
    pub(crate) fn neighbour(&self, address: IpAddr) -> anyhow::Result<Option<String>> {
        let table = self.run(|| read_ip(&format!("neighbour show {address} dev {ETH}")))?;
        let mut words = table.split_whitespace().skip_while(|word| *word != "lladdr");
        Ok(words.nth(1).map(str::to_owned))
    }

    /// Whether an address stands on an interface of this host.
    pub(crate) fn has(&self, interface: &str, address: IpAddr) -> anyhow::Result<bool> {
        let table = self.run(|| read_ip(&format!("-o address show dev {interface}")))?;
        Ok(table
            .split_whitespace()
            .any(|word| word.split('/').next().and_then(|word| word.parse().ok()) == Some(address)))
    }
}

/// Waits for a condition, which is named when it does not come.
pub(crate) fn wait_for(
    what: &str,
    mut is_so: impl FnMut() -> anyhow::Result<bool>,
) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !is_so()? {
        if Instant::now() > deadline {
            bail!("waited {PATIENCE:?} in vain: {what}");
        }
        thread::yield_now();
    }
    Ok(())
}

/// What a frame says about an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Saying {
    /// An answer to who asked.
    Answer,
    /// Told to everybody, unasked.
    Announcement,
    /// A question.
    Question,
}

/// A frame that was heard.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Heard {
    pub(crate) saying: Saying,
    pub(crate) address: IpAddr,
    /// Who sent the frame.
    pub(crate) link: [u8; 6],
    /// When the kernel got it, by the boot-time clock.
    pub(crate) at_ns: u64,
}

/// Hears all frames of a host's interfaces.
pub(crate) struct Ear(OwnedFd);

impl Ear {
    /// Opened in the namespace of this thread. A read waits for at most `patience`.
    pub(crate) fn open(patience: Duration) -> anyhow::Result<Self> {
        let (kind, flags) = (SockType::Raw, SockFlag::SOCK_CLOEXEC);
        let socket = socket(AddressFamily::Packet, kind, flags, SockProtocol::EthAll)?;
        setsockopt(&socket, sockopt::ReceiveTimestampns, &true)?;
        let patience = TimeVal::microseconds(i64::try_from(patience.as_micros())?);
        setsockopt(&socket, sockopt::ReceiveTimeout, &patience)?;
        setsockopt(&socket, sockopt::RcvBuf, &(1 << 22))?;
        Ok(Self(socket))
    }

    /// The next frame, `None` if none has come in time. Those that say nothing about an address
    /// are left out.
    pub(crate) fn hear(&self) -> anyhow::Result<Option<Heard>> {
        loop {
            let mut frame = [0; FRAME_BYTES_MAX];
            let mut control = nix::cmsg_space!(nix::sys::time::TimeSpec);
            let mut parts = [IoSliceMut::new(&mut frame)];
            let fd = self.0.as_raw_fd();
            let got = match recvmsg::<()>(fd, &mut parts, Some(&mut control), MsgFlags::empty()) {
                Ok(got) => got,
                Err(nix::errno::Errno::EAGAIN) => return Ok(None),
                // A read with a patience ends so when the process was stopped and went on.
                Err(nix::errno::Errno::EINTR) => continue,
                Err(error) => return Err(error.into()),
            };
            let stamps = got.cmsgs()?.find_map(|each| match each {
                ControlMessageOwned::ScmTimestampns(stamp) => Some(stamp),
                _ => None,
            });
            let stamp = stamps.context("a frame without a time")?;
            let at_ns = boot_of(stamp.num_nanoseconds())?;
            let length = got.bytes;
            if let Some((saying, address, link)) = understand(&frame[..length]) {
                return Ok(Some(Heard { saying, address, link, at_ns }));
            }
        }
    }

    /// Everything that has been heard and not yet read.
    pub(crate) fn rest(&self) -> anyhow::Result<Vec<Heard>> {
        let mut all = Vec::new();
        while let Some(heard) = self.hear()? {
            all.push(heard);
        }
        Ok(all)
    }
}

/// A time of the wall clock by the boot-time clock, as the two stand to each other now.
fn boot_of(wall_ns: i64) -> anyhow::Result<u64> {
    let wall = clock_gettime(ClockId::CLOCK_REALTIME)?;
    let age_ns = wall.num_nanoseconds() - wall_ns;
    Ok(boot_ns().saturating_sub(u64::try_from(age_ns)?))
}

fn understand(frame: &[u8]) -> Option<(Saying, IpAddr, [u8; 6])> {
    let link = *frame.get(6..)?.first_chunk()?;
    let sliced = SlicedPacket::from_ethernet(frame).ok()?;
    if let Some(NetSlice::Arp(arp)) = &sliced.net {
        let sender: [u8; 4] = arp.sender_protocol_addr().try_into().ok()?;
        let target: [u8; 4] = arp.target_protocol_addr().try_into().ok()?;
        return Some(match arp.operation() {
            ArpOperation::REPLY => (Saying::Answer, sender.into(), link),
            _ if sender == target => (Saying::Announcement, sender.into(), link),
            _ => (Saying::Question, target.into(), link),
        });
    }
    let Some(TransportSlice::Icmpv6(icmp)) = &sliced.transport else { return None };
    let slice = icmp.slice();
    let target: [u8; 16] = *slice.get(8..)?.first_chunk()?;
    let saying = match (slice[0], slice[4] & 0x40) {
        (135, _) => Saying::Question,
        (136, 0) => Saying::Announcement,
        (136, _) => Saying::Answer,
        _ => return None,
    };
    Some((saying, target.into(), link))
}
