//! Facts in one word of 64 bits.
//!
//! The kernel's programs make such a word unknown to the verifier, to which all ways through the
//! headers then look alike, and unpack it. The ports do not fit, and are read anew.

use pgx_abi::FlowKey;

use crate::Bytes;
use crate::facts::{Facts, Flaw, Ports, Segment, Transport};
use crate::heading::Kind;

/// [`Facts`] without the ports, or the [`Flaw`] instead. Zero is [`Flaw::Truncated`], which the
/// fence does not let pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packed(pub u64);

// Four bits say what it is: those of the frame, and those of an IP packet.
const TRUNCATED: u64 = 0;
const MALFORMED: u64 = 1;
const TAGGED: u64 = 2;
const ARP: u64 = 3;
const OTHER_LINK: u64 = 4;
const TCP: u64 = 8;
const ICMP: u64 = 9;
const ICMPV6: u64 = 10;
const FRAGMENT: u64 = 11;
const UNREACHED: u64 = 12;
const OTHER: u64 = 13;
const WHAT: u64 = 0xf;
/// It is IPv6.
const V6: u64 = 1 << 4;
/// A segment is cut, a fragment may be TCP.
const MARK: u64 = 1 << 5;
/// Offset of the IP header: six bits, which is what the link header with its tags needs.
const IP_SHIFT: u32 = 8;
const IP_MASK: u64 = 0x3f;
/// Offset of what it carries: fifteen bits, which no walk exceeds (`limits`). The verifier takes
/// offsets of up to sixteen.
const AT_SHIFT: u32 = 16;
const AT_MASK: u64 = 0x7fff;
/// The end of a segment; of ICMPv6 the type and the hop limit.
const REST_SHIFT: u32 = 32;
const HOP_LIMIT_SHIFT: u32 = 8;

const _: () = assert!(crate::limits::WALK_BYTES_MAX as u64 <= AT_MASK);
const _: () = assert!(crate::limits::LINK_BYTES_MAX as u64 <= IP_MASK);

impl Packed {
    /// Packs them.
    #[inline(always)]
    #[must_use]
    pub fn of(found: Result<Facts, Flaw>) -> Self {
        Self(match found {
            Err(Flaw::Truncated) => TRUNCATED,
            Err(Flaw::Malformed) => MALFORMED,
            Ok(Facts::Tagged) => TAGGED,
            Ok(Facts::Arp) => ARP,
            Ok(Facts::Other) => OTHER_LINK,
            Ok(Facts::Ipv4(transport)) => pack(transport),
            Ok(Facts::Ipv6(transport)) => pack(transport) | V6,
        })
    }

    /// Packs a segment, of whatever family.
    #[inline(always)]
    #[must_use]
    pub fn of_segment(segment: &Segment) -> Self {
        Self(pack(Transport::Tcp(*segment)))
    }

    /// The segment, if it is one, of whatever family.
    #[inline(always)]
    pub fn segment<B: Bytes + ?Sized>(self, packet: &B) -> Option<Segment> {
        match self.facts(packet) {
            Ok(Facts::Ipv4(Transport::Tcp(segment)) | Facts::Ipv6(Transport::Tcp(segment))) => {
                Some(segment)
            }
            _ => None,
        }
    }

    /// Unpacks them. The packet is the same one; if its ports are gone, it is truncated.
    ///
    /// # Errors
    /// [`Flaw`] as it was packed.
    #[inline(always)]
    pub fn facts<B: Bytes + ?Sized>(self, packet: &B) -> Result<Facts, Flaw> {
        let word = self.0;
        let ip = (word >> IP_SHIFT & IP_MASK) as usize;
        let at = (word >> AT_SHIFT & AT_MASK) as usize;
        let is_marked = word & MARK != 0;
        let rest = (word >> REST_SHIFT) as u32;
        let transport = match word & WHAT {
            MALFORMED => return Err(Flaw::Malformed),
            TAGGED => return Ok(Facts::Tagged),
            ARP => return Ok(Facts::Arp),
            OTHER_LINK => return Ok(Facts::Other),
            TCP => {
                let ports = ports(packet, at).ok_or(Flaw::Truncated)?;
                let end = rest as usize;
                Transport::Tcp(Segment { ports, ip, at, end, is_cut: is_marked })
            }
            ICMP => Transport::Icmp { ip, at },
            ICMPV6 => {
                let (kind, hop_limit) = (rest as u8, (rest >> HOP_LIMIT_SHIFT) as u8);
                Transport::Icmpv6 { kind, hop_limit, ip, at }
            }
            FRAGMENT => Transport::Fragment { may_be_tcp: is_marked },
            UNREACHED => Transport::Unreached,
            OTHER => Transport::Other,
            _ => return Err(Flaw::Truncated),
        };
        Ok(if word & V6 == 0 { Facts::Ipv4(transport) } else { Facts::Ipv6(transport) })
    }
}

#[inline(always)]
fn pack(transport: Transport) -> u64 {
    let places = |ip: usize, at: usize| (ip as u64) << IP_SHIFT | (at as u64) << AT_SHIFT;
    let mark = |is_marked: bool| if is_marked { MARK } else { 0 };
    match transport {
        Transport::Tcp(Segment { ip, at, end, is_cut, .. }) => {
            TCP | mark(is_cut) | places(ip, at) | (end as u64) << REST_SHIFT
        }
        Transport::Icmp { ip, at } => ICMP | places(ip, at),
        Transport::Icmpv6 { kind, hop_limit, ip, at } => {
            let rest = u64::from(hop_limit) << HOP_LIMIT_SHIFT | u64::from(kind);
            ICMPV6 | places(ip, at) | rest << REST_SHIFT
        }
        Transport::Fragment { may_be_tcp } => FRAGMENT | mark(may_be_tcp),
        Transport::Unreached => UNREACHED,
        Transport::Other => OTHER,
    }
}

#[inline(always)]
fn ports<B: Bytes + ?Sized>(packet: &B, at: usize) -> Option<Ports> {
    let [a, b, c, d] = packet.array(at)?;
    Some(Ports { source: u16::from_be_bytes([a, b]), destination: u16::from_be_bytes([c, d]) })
}

/// A [`Heading`](crate::Heading) without its flow; zero for none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackedHeading(pub u64);

const ERROR: u64 = 1;
const OPENING: u64 = 2;
const GOING: u64 = 3;
const ENDING: u64 = 4;

impl PackedHeading {
    /// Packs it.
    #[inline(always)]
    #[must_use]
    pub fn of(kind: Kind, ip: usize) -> Self {
        let what = match kind {
            Kind::Error => ERROR,
            Kind::Opening(_) => OPENING,
            Kind::Going(_) => GOING,
            Kind::Ending(_) => ENDING,
        };
        let segment = kind.segment();
        let at = segment.map_or(0, |segment| segment.at as u64);
        let mark = if segment.is_some_and(|segment| segment.is_cut) { MARK } else { 0 };
        Self(what | mark | (ip as u64) << IP_SHIFT | at << AT_SHIFT)
    }

    /// What the packet is to that flow, if to any, and the offset of its IP header. The end of a
    /// segment is not in it, and is its beginning here.
    #[inline(always)]
    #[must_use]
    pub fn of_flow(self, flow: &FlowKey) -> Option<(Kind, usize)> {
        let word = self.0;
        let ip = (word >> IP_SHIFT & IP_MASK) as usize;
        let at = (word >> AT_SHIFT & AT_MASK) as usize;
        let ports = Ports { source: flow.client_port, destination: flow.port };
        let segment = Segment { ports, ip, at, end: at, is_cut: word & MARK != 0 };
        let kind = match word & WHAT {
            ERROR => Kind::Error,
            OPENING => Kind::Opening(segment),
            GOING => Kind::Going(segment),
            ENDING => Kind::Ending(segment),
            _ => return None,
        };
        Some((kind, ip))
    }
}
