//! Bytes to facts: what a packet is, as far as the verdict needs to know.
//!
//! A header counts as there only if the frame holds it and the IP length covers it; anything less
//! is [`Flaw::Truncated`]. Only headers are asked for: a payload that is cut, or that lies outside
//! the linear part of a frame, is none of our business.

use crate::{
    Bytes,
    limits::{EXTENSION_HEADERS_MAX, VLAN_TAGS_MAX},
};

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Facts {
    /// More VLAN tags than are read (IEEE 802.1Q, 802.1ad).
    Tagged,
    /// An ARP packet of full length.
    Arp,
    /// An IPv4 packet.
    Ipv4(Transport),
    /// An IPv6 packet.
    Ipv6(Transport),
    /// Any other ethertype, or an IEEE 802.3 length.
    Other,
}

/// What an IP packet carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// TCP, header of minimum length readable.
    Tcp(Segment),
    /// ICMP over IPv4; its header is not read.
    Icmp {
        /// Offset of the IP header in the packet.
        ip: usize,
        /// Offset of the ICMP header in the packet, which may not be there.
        at: usize,
    },
    /// ICMP over IPv6.
    Icmpv6 {
        /// The type field.
        kind: u8,
        /// The IPv6 hop limit: 255 only if the packet was sent on this link.
        hop_limit: u8,
        /// Offset of the IP header in the packet.
        ip: usize,
        /// Offset of the ICMP header in the packet.
        at: usize,
    },
    /// A fragment that is not the first: there is no transport header in it.
    Fragment {
        /// Whether it may belong to a TCP segment.
        may_be_tcp: bool,
    },
    /// More extension headers than are walked.
    Unreached,
    /// Any other protocol.
    Other,
}

/// Where a TCP segment is, and its ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// The ports.
    pub ports: Ports,
    /// Offset of the IP header in the packet.
    pub ip: usize,
    /// Offset of the TCP header in the packet.
    pub at: usize,
    /// Offset of the end of the segment, by the IP header.
    pub end: usize,
    /// Whether this is but its first fragment.
    pub is_cut: bool,
}

/// The ports of a TCP segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    /// Source port.
    pub source: u16,
    /// Destination port.
    pub destination: u16,
}

/// Why a frame could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// It ends before its headers do.
    Truncated,
    /// A header contradicts itself.
    Malformed,
}

// Ethernet II; IANA "IEEE 802 Numbers".
pub(crate) const ETHERNET: usize = 14;
/// Offset of what follows an Ethernet header without tags.
pub const UNTAGGED: usize = ETHERNET;
const TYPE_IPV4: u16 = 0x0800;
const TYPE_ARP: u16 = 0x0806;
const TYPE_VLAN: u16 = 0x8100;
const TYPE_IPV6: u16 = 0x86dd;
const TYPE_SERVICE_VLAN: u16 = 0x88a8;
pub(crate) const VLAN_TAG: usize = 4;

// RFC 826 with Ethernet and IPv4 addresses.
const ARP: usize = 28;
// RFC 791, RFC 8200, RFC 9293, RFC 4443.
const IPV4: usize = 20;
const IPV4_WORDS_MIN: usize = 5;
pub(crate) const IPV6: usize = 40;
pub(crate) const TCP: usize = 20;
const ICMPV6: usize = 4;
// RFC 791: flags take three bits of the field, the offset the rest.
const FRAGMENT_OFFSET: u16 = 0x1fff;
const MORE_FRAGMENTS: u16 = 0x2000;
// RFC 8200, section 4.5: here the flags are at the other end.
const FRAGMENT_OFFSET_V6: u16 = 0xfff8;
const MORE_FRAGMENTS_V6: u16 = 1;
const FRAGMENT_HEADER: usize = 8;

// IANA "Assigned Internet Protocol Numbers".
const HOP_BY_HOP: u8 = 0;
const PROTOCOL_ICMP: u8 = 1;
pub(crate) const PROTOCOL_TCP: u8 = 6;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const PROTOCOL_ICMPV6: u8 = 58;
const DESTINATION_OPTIONS: u8 = 60;
const MOBILITY: u8 = 135;

/// What follows a frame's link header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// More VLAN tags than are read (IEEE 802.1Q, 802.1ad).
    Tagged,
    /// An ARP packet of full length.
    Arp,
    /// An IP header.
    Ip(Family, usize),
    /// Any other ethertype, or an IEEE 802.3 length.
    Other,
}

/// Which IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Version 4.
    V4,
    /// Version 6.
    V6,
}

/// Reads what the verdict needs to know of a frame that starts with its Ethernet header, behind at
/// most [`VLAN_TAGS_MAX`] tags.
///
/// # Errors
/// [`Flaw`] if the headers are cut or contradict themselves.
#[inline(always)]
pub fn facts<B: Bytes + ?Sized>(frame: &B) -> Result<Facts, Flaw> {
    match link(frame)? {
        Link::Tagged => Ok(Facts::Tagged),
        Link::Arp => Ok(Facts::Arp),
        Link::Ip(family, at) => network(frame, family, at),
        Link::Other => Ok(Facts::Other),
    }
}

/// Reads what the verdict needs to know of a packet that starts with its IP header, as on
/// interfaces without a link header and in the programs of a cgroup.
///
/// # Errors
/// [`Flaw`] if the headers are cut or contradict themselves.
#[inline(always)]
pub fn facts_of_ip<B: Bytes + ?Sized>(packet: &B) -> Result<Facts, Flaw> {
    network(packet, family(packet)?, 0)
}

/// Reads a frame's Ethernet header and its tags.
///
/// # Errors
/// [`Flaw::Truncated`] if they, or an ARP packet behind them, are cut.
#[inline(always)]
pub fn link<B: Bytes + ?Sized>(frame: &B) -> Result<Link, Flaw> {
    let mut at = ETHERNET;
    for _ in 0..=VLAN_TAGS_MAX {
        // The ethertype is the last field before what it names.
        let ethertype = u16::from_be_bytes(frame.array(at - 2).ok_or(Flaw::Truncated)?);
        match ethertype {
            TYPE_IPV4 => return Ok(Link::Ip(Family::V4, at)),
            TYPE_IPV6 => return Ok(Link::Ip(Family::V6, at)),
            TYPE_ARP if frame.size() < at + ARP => return Err(Flaw::Truncated),
            TYPE_ARP => return Ok(Link::Arp),
            TYPE_VLAN | TYPE_SERVICE_VLAN => at += VLAN_TAG,
            _ => return Ok(Link::Other),
        }
    }
    Ok(Link::Tagged)
}

/// Which IP a packet is that starts with its IP header.
///
/// # Errors
/// [`Flaw`] if it is empty, or neither.
#[inline(always)]
pub fn family<B: Bytes + ?Sized>(packet: &B) -> Result<Family, Flaw> {
    let [version, _] = packet.array(0).ok_or(Flaw::Truncated)?;
    match version >> 4 {
        4 => Ok(Family::V4),
        6 => Ok(Family::V6),
        _ => Err(Flaw::Malformed),
    }
}

/// Reads the IP header that is so many bytes into the packet, and what is behind it.
///
/// # Errors
/// [`Flaw`] if the headers are cut or contradict themselves.
#[inline(always)]
pub fn network<B: Bytes + ?Sized>(packet: &B, family: Family, at: usize) -> Result<Facts, Flaw> {
    match family {
        Family::V4 => ipv4(packet, at).map(Facts::Ipv4),
        Family::V6 => ipv6(packet, at).map(Facts::Ipv6),
    }
}

/// The same for TCP of the usual kind, with nothing between its header and that of IP, and whole;
/// `None` for all else, sound or not. All offsets are known in advance, so it takes less time.
#[inline(always)]
pub fn plain<B: Bytes + ?Sized>(packet: &B, family: Family, ip: usize) -> Option<Facts> {
    match family {
        Family::V4 => {
            let [words, _, high, low, _, _, flags, offset, _, PROTOCOL_TCP] = packet.array(ip)?
            else {
                return None;
            };
            let fragment = u16::from_be_bytes([flags, offset]);
            if words != 0x45 || fragment & (FRAGMENT_OFFSET | MORE_FRAGMENTS) != 0 {
                return None;
            }
            let length = usize::from(u16::from_be_bytes([high, low]));
            let end = if length == 0 { packet.size() } else { ip + length };
            tcp(packet, ip, ip + IPV4, end, false).ok().map(Facts::Ipv4)
        }
        Family::V6 => {
            let [version, _, _, _, high, low, PROTOCOL_TCP, _] = packet.array(ip)? else {
                return None;
            };
            if version >> 4 != 6 {
                return None;
            }
            let length = usize::from(u16::from_be_bytes([high, low]));
            let end = if length == 0 { packet.size() } else { ip + IPV6 + length };
            tcp(packet, ip, ip + IPV6, end, false).ok().map(Facts::Ipv6)
        }
    }
}

#[inline(always)]
fn ipv4<B: Bytes + ?Sized>(frame: &B, ip: usize) -> Result<Transport, Flaw> {
    let [version_words, _, length_high, length_low, _, _, flags, offset, _, protocol] =
        frame.array(ip).ok_or(Flaw::Truncated)?;
    let words = usize::from(version_words & 0x0f);
    if version_words >> 4 != 4 || words < IPV4_WORDS_MIN {
        return Err(Flaw::Malformed);
    }
    let header = words * 4;
    let at = ip + header;
    if frame.size() < at {
        return Err(Flaw::Truncated);
    }
    let length = usize::from(u16::from_be_bytes([length_high, length_low]));
    // Segments that the kernel has not cut yet (BIG TCP) announce no length.
    if length != 0 && length < header {
        return Err(Flaw::Malformed);
    }
    let end = if length == 0 { frame.size() } else { ip + length };
    let fragment = u16::from_be_bytes([flags, offset]);
    if fragment & FRAGMENT_OFFSET != 0 {
        return Ok(Transport::Fragment { may_be_tcp: protocol == PROTOCOL_TCP });
    }
    match protocol {
        PROTOCOL_TCP => tcp(frame, ip, at, end, fragment & MORE_FRAGMENTS != 0),
        PROTOCOL_ICMP => Ok(Transport::Icmp { ip, at }),
        _ => Ok(Transport::Other),
    }
}

#[inline(always)]
fn ipv6<B: Bytes + ?Sized>(frame: &B, ip: usize) -> Result<Transport, Flaw> {
    let [version, _, _, _, length_high, length_low, mut next, hop_limit] =
        frame.array(ip).ok_or(Flaw::Truncated)?;
    if version >> 4 != 6 {
        return Err(Flaw::Malformed);
    }
    let length = usize::from(u16::from_be_bytes([length_high, length_low]));
    // A jumbogram (RFC 2675) announces no length here.
    let end = if length == 0 { frame.size() } else { ip + IPV6 + length };
    let mut at = ip + IPV6;
    let mut is_cut = false;
    if frame.size() < at {
        return Err(Flaw::Truncated);
    }
    for _ in 0..=EXTENSION_HEADERS_MAX {
        let step = match next {
            PROTOCOL_TCP => return tcp(frame, ip, at, end, is_cut),
            PROTOCOL_ICMPV6 => return icmpv6(frame, ip, at, end, hop_limit),
            FRAGMENT => FRAGMENT_HEADER,
            HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS | MOBILITY | AUTHENTICATION => {
                let [_, units] = frame.array(at).ok_or(Flaw::Truncated)?;
                // RFC 4302 counts words less two, RFC 8200 eights of bytes less one.
                let is_words = next == AUTHENTICATION;
                if is_words { (usize::from(units) + 2) * 4 } else { (usize::from(units) + 1) * 8 }
            }
            _ => return Ok(Transport::Other),
        };
        if at + step > end || at + step > frame.size() {
            return Err(Flaw::Truncated);
        }
        let [after, _, high, low] = frame.array(at).ok_or(Flaw::Truncated)?;
        let fragment = u16::from_be_bytes([high, low]);
        if next == FRAGMENT && fragment & FRAGMENT_OFFSET_V6 != 0 {
            // Behind further headers, which only the first fragment has, there may be anything.
            return Ok(Transport::Fragment {
                may_be_tcp: is_extension(after) || after == PROTOCOL_TCP,
            });
        }
        is_cut |= next == FRAGMENT && fragment & MORE_FRAGMENTS_V6 != 0;
        next = after;
        at += step;
    }
    Ok(Transport::Unreached)
}

#[inline(always)]
fn is_extension(next: u8) -> bool {
    matches!(
        next,
        HOP_BY_HOP | ROUTING | FRAGMENT | DESTINATION_OPTIONS | MOBILITY | AUTHENTICATION
    )
}

#[inline(always)]
fn tcp<B: Bytes + ?Sized>(
    frame: &B,
    ip: usize,
    at: usize,
    end: usize,
    is_cut: bool,
) -> Result<Transport, Flaw> {
    if at + TCP > end {
        return Err(Flaw::Truncated);
    }
    // The whole header, so that one comparison says that it is there.
    let header: [u8; TCP] = frame.array(at).ok_or(Flaw::Truncated)?;
    let [source_high, source_low, destination_high, destination_low, ..] = header;
    let source = u16::from_be_bytes([source_high, source_low]);
    let destination = u16::from_be_bytes([destination_high, destination_low]);
    Ok(Transport::Tcp(Segment { ports: Ports { source, destination }, ip, at, end, is_cut }))
}

#[inline(always)]
fn icmpv6<B: Bytes + ?Sized>(
    frame: &B,
    ip: usize,
    at: usize,
    end: usize,
    hop_limit: u8,
) -> Result<Transport, Flaw> {
    if at + ICMPV6 > end {
        return Err(Flaw::Truncated);
    }
    let [kind, _, _, _] = frame.array(at).ok_or(Flaw::Truncated)?;
    Ok(Transport::Icmpv6 { kind, hop_limit, ip, at })
}
