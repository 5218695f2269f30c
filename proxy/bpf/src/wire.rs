//! Sends frames out of an interface as they are, past the network stack.

use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

use nix::ifaddrs::getifaddrs;
use nix::libc;

use crate::Error;
use crate::device::Device;
use crate::error::is_forbidden;

/// A socket that sends whole frames by one interface. It receives nothing.
pub struct Wire {
    socket: OwnedFd,
    link: [u8; 6],
}

impl Wire {
    /// Opens it in the network namespace of this thread.
    ///
    /// # Errors
    /// [`Error::InterfaceUnknown`], also for one without a link address; [`Error::Unprivileged`]
    /// without `CAP_NET_RAW`; [`Error::Wire`] for what else the kernel may say.
    pub fn open(interface: &str) -> Result<Self, Error> {
        let device = Device::find(interface)?;
        let link = link_address(interface)?;
        let socket = open(device.index).map_err(|source| {
            if is_forbidden(&source) {
                let doing = "send frames by an interface";
                return Error::Unprivileged { doing, capability: "CAP_NET_RAW" };
            }
            Error::Wire { interface: device.name.clone(), source }
        })?;
        Ok(Self { socket, link })
    }

    /// The link address of the interface, when this was opened.
    #[must_use]
    pub fn link_address(&self) -> [u8; 6] {
        self.link
    }

    /// Sends a frame, from its Ethernet header on.
    ///
    /// # Errors
    /// What the kernel says: an interface that is down, or whose queue is full.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        // SAFETY: the frame is alive for the call, and the kernel reads `len` bytes of it.
        let sent = unsafe {
            libc::send(self.socket.as_raw_fd(), frame.as_ptr().cast(), frame.len(), SEND_FLAGS)
        };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

/// A full queue is an error, not a reason to wait: what is sent here is worth nothing later.
const SEND_FLAGS: libc::c_int = libc::MSG_DONTWAIT;

/// The link address of an interface.
///
/// # Errors
/// [`Error::InterfaceUnknown`], also for one that has none.
pub fn link_address(interface: &str) -> Result<[u8; 6], Error> {
    let unknown = || Error::InterfaceUnknown { name: interface.to_owned() };
    // Not from sysfs, which shows the network namespace that it was mounted in.
    let addresses = getifaddrs().map_err(|_| unknown())?;
    let mut own = addresses.filter(|one| one.interface_name == interface);
    own.find_map(|one| one.address?.as_link_addr()?.addr()).ok_or_else(unknown)
}

fn open(index: u32) -> io::Result<OwnedFd> {
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
    // Protocol zero: nothing is received, and so nothing queues up that nobody reads.
    // SAFETY: the call takes no pointer.
    let fd = unsafe { libc::socket(libc::AF_PACKET, kind, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: this C structure holds numbers only, for which zero is a value.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::sa_family_t::try_from(libc::AF_PACKET).map_err(io::Error::other)?;
    address.sll_ifindex = i32::try_from(index).map_err(io::Error::other)?;
    let length = libc::socklen_t::try_from(size_of_val(&address)).map_err(io::Error::other)?;
    // SAFETY: the address is alive for the call and `length` is its size.
    let bound = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) };
    if bound < 0 { Err(io::Error::last_os_error()) } else { Ok(socket) }
}
