//! The bounds of this crate.

use crate::facts::{ETHERNET, IPV6, VLAN_TAG};

/// IPv6 extension headers that are walked before giving up. RFC 8200, section 4.1, lets each kind
/// appear once and destination options twice, which makes eight with mobility and authentication;
/// each one costs a turn of the loop and two reads.
pub const EXTENSION_HEADERS_MAX: usize = 8;

/// VLAN tags that are read through: a customer's and a provider's.
pub const VLAN_TAGS_MAX: usize = 2;

/// The furthest byte a walk can reach must stay below what the verifier lets an offset be (64 KiB):
/// link header with its tags, IPv6 header, and per extension header the longest there is,
/// (255 + 1) * 8 bytes.
pub(crate) const WALK_BYTES_MAX: usize = LINK_BYTES_MAX + IPV6 + EXTENSION_HEADERS_MAX * 2048;

/// Bytes before the IP header.
pub(crate) const LINK_BYTES_MAX: usize = ETHERNET + VLAN_TAGS_MAX * VLAN_TAG;

const _: () = assert!(WALK_BYTES_MAX < u16::MAX as usize);
