//! Asks the kernel what XDP an interface can do, without touching its traffic.
//!
//! Attaching a program to try would do: but some drivers reset their rings for it, and the link
//! goes down for a moment. The kernel's own list is the generic netlink family `netdev`
//! (Documentation/netlink/specs/netdev.yaml, Linux 6.3).

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::libc;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket,
};

/// Whether the driver of an interface runs XDP programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Native {
    /// It says so.
    Offered,
    /// It does not.
    Missing,
}

// linux/netlink.h, linux/genetlink.h.
const HEADER: usize = 16;
const GENERIC_HEADER: usize = 4;
const ATTRIBUTE_HEADER: usize = 4;
const CONTROL: u16 = 16;
const GET_FAMILY: u8 = 3;
const FAMILY_ID: u16 = 1;
const FAMILY_NAME: u16 = 2;
const GENERIC_VERSION: u8 = 1;
// linux/netdev.h.
const FAMILY: &[u8] = b"netdev\0";
const DEV_GET: u8 = 1;
const DEV_IFINDEX: u16 = 1;
const DEV_XDP_FEATURES: u16 = 3;
const XDP_ACT_BASIC: u64 = 1;

/// An answer fits easily; the kernel sends one datagram per question.
const ANSWER_BYTES_MAX: usize = 8192;

/// What the driver of the interface with this index offers.
///
/// # Errors
/// Those of the kernel; `ENOENT` before Linux 6.3.
pub(crate) fn native(index: u32) -> io::Result<Native> {
    let socket = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkGeneric,
    )?;
    let answer = ask(&socket, CONTROL, GET_FAMILY, FAMILY_NAME, FAMILY)?;
    let family: [u8; 2] = attribute(&answer, FAMILY_ID)?;
    let family = u16::from_ne_bytes(family);
    let answer = ask(&socket, family, DEV_GET, DEV_IFINDEX, &index.to_ne_bytes())?;
    let features: [u8; 8] = attribute(&answer, DEV_XDP_FEATURES)?;
    let is_offered = u64::from_ne_bytes(features) & XDP_ACT_BASIC != 0;
    Ok(if is_offered { Native::Offered } else { Native::Missing })
}

/// Sends one question with one attribute and returns the attributes of the answer.
fn ask(
    socket: &OwnedFd,
    family: u16,
    command: u8,
    attribute: u16,
    value: &[u8],
) -> io::Result<Vec<u8>> {
    let padded = value.len().next_multiple_of(4);
    let attribute_length = u16::try_from(ATTRIBUTE_HEADER + value.len());
    let length = u32::try_from(HEADER + GENERIC_HEADER + ATTRIBUTE_HEADER + padded);
    let mut message = Vec::new();
    message.extend(length.map_err(io::Error::other)?.to_ne_bytes());
    message.extend(family.to_ne_bytes());
    message.extend(u16::try_from(libc::NLM_F_REQUEST).map_err(io::Error::other)?.to_ne_bytes());
    // Sequence and port: one question at a time on a socket of our own needs neither.
    message.extend([0; 8]);
    message.extend([command, GENERIC_VERSION, 0, 0]);
    message.extend(attribute_length.map_err(io::Error::other)?.to_ne_bytes());
    message.extend(attribute.to_ne_bytes());
    message.extend(value);
    message.resize(message.len() + padded - value.len(), 0);

    let kernel = NetlinkAddr::new(0, 0);
    sendto(socket.as_raw_fd(), &message, &kernel, MsgFlags::empty())?;
    let mut answer = vec![0; ANSWER_BYTES_MAX];
    // The kernel answers within the send, so there is nothing to wait for.
    let received = recv(socket.as_raw_fd(), &mut answer, MsgFlags::MSG_DONTWAIT)?;
    answer.truncate(received);
    let kind = answer.get(4..6).and_then(|bytes| bytes.try_into().ok()).map(u16::from_ne_bytes);
    if kind.map(i32::from) == Some(libc::NLMSG_ERROR) {
        let code = answer.get(HEADER..HEADER + 4).and_then(|bytes| bytes.try_into().ok());
        let code = code.map(i32::from_ne_bytes).ok_or_else(cut)?;
        return Err(io::Error::from_raw_os_error(-code));
    }
    answer.get(HEADER + GENERIC_HEADER..).map(<[u8]>::to_vec).ok_or_else(cut)
}

/// The value of one attribute.
fn attribute<const N: usize>(mut attributes: &[u8], wanted: u16) -> io::Result<[u8; N]> {
    while let [l0, l1, k0, k1, ..] = *attributes {
        let length = usize::from(u16::from_ne_bytes([l0, l1]));
        let value = attributes.get(ATTRIBUTE_HEADER..length).ok_or_else(cut)?;
        if u16::from_ne_bytes([k0, k1]) == wanted {
            return value.first_chunk().copied().ok_or_else(cut);
        }
        attributes = attributes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Err(io::Error::new(io::ErrorKind::NotFound, "the kernel's answer lacks the attribute"))
}

fn cut() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the kernel's answer is cut short")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(ATTRIBUTE_HEADER + value.len()).unwrap();
        let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    #[test]
    fn an_attribute_is_found_behind_a_padded_one() {
        let attributes = [encoded(2, b"netdev\0"), encoded(1, &[7, 8])].concat();
        assert_eq!(attribute::<2>(&attributes, 1).unwrap(), [7, 8]);
        assert_eq!(attribute::<2>(&attributes, 9).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_cut_answer_is_an_error_at_every_length() {
        let whole = encoded(1, &[1, 2, 3, 4, 5, 6, 7, 8]);
        for length in 0..whole.len() {
            assert!(attribute::<8>(&whole[..length], 1).is_err(), "{length} bytes");
        }
    }

    #[test]
    fn an_attribute_that_claims_no_length_ends_the_search() {
        assert!(attribute::<1>(&[0; 64], 1).is_err());
    }
}
