//! Virtual addresses on loopback, so that this host takes packets for them whoever sends them here,
//! while its network stack answers for them to nobody.
//!
//! They stand there while the local proxy serves. The thread here does nothing else: the kernel's
//! configuration waits for a lock, and leases must not wait for that.

use std::net::{IpAddr, Ipv6Addr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use nix::net::if_::if_nametoindex;
use tracing::{info, warn};

use crate::LOOPBACK;
use crate::announce::solicited_node_group;
use crate::clock::{Waiter, Waker, boot_ns, ms};
use crate::error::Error;
use crate::limits::RETRY_MS;
use crate::means::Shared;
use crate::netlink::Netlink;
use crate::record::{Changed, Record, forget, get, remove, set};

/// Linux: answer ARP only for addresses of the interface that is asked (1 or more, zero for all),
/// and tell only such addresses as the own (2). For all interfaces: another one on the same
/// network would answer without a lease. The larger of this and an interface's own value counts.
const SETTINGS: [(&str, u8); 2] = [
    ("/proc/sys/net/ipv4/conf/all/arp_ignore", 1),
    ("/proc/sys/net/ipv4/conf/all/arp_announce", 2),
];

/// What the thread is to bring about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Goal {
    /// The addresses are there.
    Up,
    /// They are not.
    Down,
    /// They are not, and the host is as before.
    Gone,
}

struct Known {
    goal: Goal,
    is_up: bool,
    last_error: String,
}

/// The thread that keeps addresses on loopback.
pub(crate) struct Loopback {
    known: Shared<Known>,
    waker: Waker,
    thread: Option<JoinHandle<()>>,
}

impl Loopback {
    /// Begins with the addresses not there.
    pub(crate) fn start(
        interface: String,
        addresses: Vec<IpAddr>,
        record: PathBuf,
    ) -> Result<Self, Error> {
        let thread_error = |source| Error::Thread { source };
        let (waiter, waker) = Waiter::new().map_err(thread_error)?;
        let netlink = Netlink::open().map_err(|source| Error::Netlink { source })?;
        let known = Known { goal: Goal::Down, is_up: false, last_error: String::new() };
        let known = Arc::new(Mutex::new(known));
        let work = Work {
            known: Arc::clone(&known),
            interface,
            addresses,
            path: record,
            netlink,
            record: None,
            is_up: false,
            groups: Vec::new(),
        };
        let thread = thread::Builder::new().name("vip-loopback".to_owned());
        let thread = thread.spawn(move || work.run(&waiter)).map_err(thread_error)?;
        Ok(Self { known, waker, thread: Some(thread) })
    }

    /// Whether the local proxy serves, so that packets for the addresses are welcome here.
    pub(crate) fn set_serving(&self, is_serving: bool) {
        self.aim(if is_serving { Goal::Up } else { Goal::Down });
    }

    /// Whether the addresses are there, and what went wrong last; empty if nothing has.
    pub(crate) fn status(&self) -> (bool, String) {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        (known.is_up, known.last_error.clone())
    }

    fn aim(&self, goal: Goal) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).goal = goal;
        self.waker.wake();
    }
}

impl Drop for Loopback {
    fn drop(&mut self) {
        self.aim(Goal::Gone);
        // A panic in there was reported as it happened.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

struct Work {
    known: Shared<Known>,
    interface: String,
    addresses: Vec<IpAddr>,
    path: PathBuf,
    netlink: Netlink,
    /// What was changed; nothing yet if there is none.
    record: Option<Record>,
    /// Whether they have been put there, so that it is logged once.
    is_up: bool,
    /// Sockets that are members of the addresses' groups.
    groups: Vec<UdpSocket>,
}

impl Work {
    fn run(mut self, waiter: &Waiter) {
        loop {
            let goal = self.known.lock().unwrap_or_else(PoisonError::into_inner).goal;
            let done = match goal {
                Goal::Up => self.put(),
                Goal::Down => self.take_off(),
                Goal::Gone => self.take_off().and_then(|()| self.restore()),
            };
            let retry_ns = match &done {
                Ok(()) => None,
                Err(error) => {
                    warn!(%error, ?goal, "virtual addresses on loopback are not as they should be");
                    Some(boot_ns() + ms(RETRY_MS))
                }
            };
            {
                let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
                known.is_up = goal == Goal::Up && done.is_ok();
                known.last_error = done.err().map(|error| error.to_string()).unwrap_or_default();
                // What is left after one attempt is for the next start: ending must not hang.
                if goal == Goal::Gone {
                    return;
                }
                if known.goal != goal {
                    continue;
                }
            }
            if let Err(error) = waiter.wait(retry_ns, None) {
                warn!(%error, "cannot wait for orders; virtual addresses on loopback stay as is");
                return;
            }
        }
    }

    /// Silence first, then the addresses.
    fn put(&mut self) -> Result<(), Error> {
        if self.record.is_none() {
            self.record = Some(silence(&self.path, &self.addresses)?);
        }
        if self.groups.is_empty() {
            self.groups = join_groups(&self.interface, &self.addresses)?;
        }
        for address in &self.addresses {
            self.netlink.put(LOOPBACK, *address, None).map_err(|source| Error::Address {
                doing: "put",
                address: *address,
                interface: LOOPBACK.to_owned(),
                source,
            })?;
        }
        if !self.is_up {
            info!(addresses = ?self.addresses, "virtual addresses are on loopback");
        }
        self.is_up = true;
        Ok(())
    }

    fn take_off(&mut self) -> Result<(), Error> {
        self.is_up = false;
        for address in &self.addresses {
            if remove(&self.netlink, *address)? {
                info!(%address, "a virtual address is off loopback");
            }
        }
        self.groups.clear();
        Ok(())
    }

    fn restore(&mut self) -> Result<(), Error> {
        let Some(record) = self.record.take() else { return Ok(()) };
        record.undo(&self.netlink)?;
        forget(&self.path)
    }
}

/// Makes the network stack silent about addresses on loopback; written down before it is done.
fn silence(path: &Path, addresses: &[IpAddr]) -> Result<Record, Error> {
    let mut record = Record { changed: Vec::new(), addresses: addresses.to_vec() };
    for (setting, least) in SETTINGS {
        let before = get(Path::new(setting))?;
        let is_silent = before.parse::<u8>().is_ok_and(|found| found >= least);
        if !is_silent {
            let (path, after) = (PathBuf::from(setting), least.to_string());
            record.changed.push(Changed { path, before, after });
        }
    }
    record.write(path)?;
    for Changed { path, after, .. } in &record.changed {
        set(path, after)?;
    }
    Ok(record)
}

/// Joins the groups in which IPv6 asks for the addresses: an interface whose address it is would
/// be a member by that.
fn join_groups(interface: &str, addresses: &[IpAddr]) -> Result<Vec<UdpSocket>, Error> {
    let join = |address: Ipv6Addr| {
        let group = solicited_node_group(address);
        let joined = || -> std::io::Result<UdpSocket> {
            let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0))?;
            socket.join_multicast_v6(&group, if_nametoindex(interface)?)?;
            Ok(socket)
        };
        joined().map_err(|source| Error::Group { group, interface: interface.to_owned(), source })
    };
    let v6 = addresses.iter().filter_map(|address| match address {
        IpAddr::V6(address) => Some(*address),
        IpAddr::V4(_) => None,
    });
    v6.map(join).collect()
}
