//! What only test hosts need.

use std::io;
use std::net::UdpSocket;
use std::os::fd::AsRawFd as _;
use std::path::PathBuf;

use nix::libc;
use pgx_abi::{LAB_OBJECT, LAB_PASS};

use crate::{Attachment, Error, Mode, Objects, Pins, attach, load};

/// Attaches the program that passes everything to an interface and pins its link.
///
/// A veth whose peer answers by native `XDP_TX` needs it, or the answers are lost.
///
/// # Errors
/// As [`Plane::load`](crate::Plane::load) and [`Plane::attach`](crate::Plane::attach).
pub fn attach_pass(objects: &Objects, pins: &Pins, interface: &str) -> Result<Attachment, Error> {
    let mut ebpf = load::unpinned(LAB_OBJECT, &objects.lab)?;
    let program = load::program(&mut ebpf, LAB_OBJECT, LAB_PASS)?;
    attach::attach(program, LAB_PASS, pins, interface, &Mode::ALL)
}

/// Detaches it again and removes the pin. Returns whether there was one.
///
/// # Errors
/// [`Error::InterfaceUnknown`] or [`Error::Pin`].
pub fn detach_pass(pins: &Pins, interface: &str) -> Result<bool, Error> {
    attach::detach(LAB_PASS, pins, interface)
}

/// The part of `struct ethtool_value` of `linux/ethtool.h` that switches one feature.
#[repr(C)]
struct Feature {
    command: u32,
    value: u32,
}

/// `ETHTOOL_STXCSUM` of `linux/ethtool.h`.
const SET_CHECKSUMS: u32 = 0x17;

/// Lets the stack compute the checksums of what leaves by an interface of the caller's network
/// namespace, as a card or a driver would have. A veth does not: it hands over a frame with a
/// promise in its place, and the promise is lost when an XDP program sends the frame on.
///
/// # Errors
/// [`Error::InterfaceUnknown`] or [`Error::Pin`].
pub fn compute_checksums(interface: &str) -> Result<(), Error> {
    let unknown = || Error::InterfaceUnknown { name: interface.to_owned() };
    let path = || PathBuf::from(interface);
    let failed = |source| Error::Pin { doing: "switch the checksums of", path: path(), source };
    let socket = UdpSocket::bind(("0.0.0.0", 0)).map_err(failed)?;
    let mut feature = Feature { command: SET_CHECKSUMS, value: 0 };
    // SAFETY: all bits zero are a valid `ifreq`.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // The last byte stays nul.
    if interface.len() >= request.ifr_name.len() {
        return Err(unknown());
    }
    for (to, from) in request.ifr_name.iter_mut().zip(interface.bytes()) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_data = (&raw mut feature).cast();
    // SAFETY: the kernel reads a request that names an interface and points to a feature's value;
    // both live until the call returns.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL, &raw mut request) };
    if done < 0 { Err(failed(io::Error::last_os_error())) } else { Ok(()) }
}
