//! Which flow a packet belongs to, seen from the virtual address that it comes to.
//!
//! A TCP segment says so itself; an ICMP error quotes the packet that it is about, which went the
//! other way. Both give the same flow, so that an error finds the host that has the connection.

use pgx_abi::FlowKey;

use crate::Bytes;
use crate::facts::{Facts, Flaw, IPV6, PROTOCOL_TCP, Segment, TCP, Transport};
use crate::fence::{Address, RST, mapped};

/// What a packet is to its flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It opens the flow: SYN without ACK.
    Opening(Segment),
    /// Any other segment.
    Going(Segment),
    /// It ends the flow: RST. It is never answered.
    Ending(Segment),
    /// An ICMP error about it.
    Error,
}

/// A packet to somewhere, as far as steering needs to know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heading {
    /// The flow, as its client sends it.
    pub flow: FlowKey,
    /// What the packet is to it.
    pub kind: Kind,
    /// Offset of the IP header in the packet.
    pub ip: usize,
}

// RFC 9293, section 3.1.
const FLAGS: usize = 13;
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

// RFC 792: unreachable, source quench (RFC 6633 has ended it), time exceeded, parameter problem.
const ERRORS: [u8; 3] = [3, 11, 12];
/// ICMP's own header before the quoted packet, in RFC 792 and RFC 4443.
const QUOTED: usize = 8;
/// RFC 4443: types below this are errors.
const ERRORS_V6_END: u8 = 128;
const IPV4_HEADER: usize = 20;

impl Kind {
    /// The segment, if it is one.
    #[inline(always)]
    #[must_use]
    pub fn segment(&self) -> Option<Segment> {
        match self {
            Self::Opening(segment) | Self::Going(segment) | Self::Ending(segment) => Some(*segment),
            Self::Error => None,
        }
    }
}

/// Reads where a packet is heading. `None` for what belongs to no TCP flow, or cannot be read.
#[inline(always)]
pub fn heading<B: Bytes + ?Sized>(packet: &B, found: Result<Facts, Flaw>) -> Option<Heading> {
    let mut flow = FlowKey::default();
    let (kind, ip) = heading_into(packet, found, &mut flow)?;
    Some(Heading { flow, kind, ip })
}

/// The same, the flow written to where it shall be: a program has no room for a second one. It
/// means nothing where the answer is `None`.
#[inline(always)]
pub fn heading_into<B: Bytes + ?Sized>(
    packet: &B,
    found: Result<Facts, Flaw>,
    flow: &mut FlowKey,
) -> Option<(Kind, usize)> {
    let transport = match found {
        Ok(Facts::Ipv4(transport) | Facts::Ipv6(transport)) => transport,
        _ => return None,
    };
    match transport {
        Transport::Tcp(segment) => Some((of_segment(packet, segment, flow)?, segment.ip)),
        Transport::Icmp { ip, at } => of_error(packet, ip, at, flow).map(|kind| (kind, ip)),
        Transport::Icmpv6 { kind, ip, at, .. } if kind < ERRORS_V6_END => {
            of_error_v6(packet, ip, at, flow).map(|kind| (kind, ip))
        }
        _ => None,
    }
}

#[inline(always)]
fn of_segment<B: Bytes + ?Sized>(packet: &B, segment: Segment, flow: &mut FlowKey) -> Option<Kind> {
    let [version, _] = packet.array(segment.ip)?;
    if version >> 4 == 4 {
        flow.client = mapped(packet.array(segment.ip + 12)?);
        flow.vip = mapped(packet.array(segment.ip + 16)?);
    } else {
        flow.client = packet.array(segment.ip + 8)?;
        flow.vip = packet.array(segment.ip + 24)?;
    }
    flow.client_port = segment.ports.source;
    flow.port = segment.ports.destination;
    let [_, flags] = packet.array(segment.at + FLAGS - 1)?;
    Some(if flags & RST != 0 {
        Kind::Ending(segment)
    } else if flags & (SYN | ACK) == SYN {
        Kind::Opening(segment)
    } else {
        Kind::Going(segment)
    })
}

/// The quoted packet went from the virtual address to the client.
#[inline(always)]
fn of_error<B: Bytes + ?Sized>(
    packet: &B,
    ip: usize,
    at: usize,
    flow: &mut FlowKey,
) -> Option<Kind> {
    let [kind, _] = packet.array(at)?;
    let quoted = at + QUOTED;
    let [version_words, _, _, _, _, _, flags, offset, _, protocol] = packet.array(quoted)?;
    let header = usize::from(version_words & 0x0f) * 4;
    let is_first = u16::from_be_bytes([flags, offset]) & 0x1fff == 0;
    let is_tcp = version_words >> 4 == 4 && protocol == PROTOCOL_TCP && header >= IPV4_HEADER;
    if !ERRORS.contains(&kind) || !is_tcp || !is_first {
        return None;
    }
    // An honest error comes to the address that the quoted packet came from.
    let to: [u8; 4] = packet.array(ip + 16)?;
    let from: [u8; 4] = packet.array(quoted + 12)?;
    if to != from {
        return None;
    }
    flow.vip = mapped(from);
    flow.client = mapped(packet.array(quoted + 16)?);
    error(packet.array(quoted + header)?, flow)
}

#[inline(always)]
fn of_error_v6<B: Bytes + ?Sized>(
    packet: &B,
    ip: usize,
    at: usize,
    flow: &mut FlowKey,
) -> Option<Kind> {
    let quoted = at + QUOTED;
    // Our own answers have no extension headers.
    let [version, _, _, _, _, _, next] = packet.array(quoted)?;
    if version >> 4 != 6 || next != PROTOCOL_TCP {
        return None;
    }
    let to: Address = packet.array(ip + 24)?;
    flow.vip = packet.array(quoted + 8)?;
    if to != flow.vip {
        return None;
    }
    flow.client = packet.array(quoted + 24)?;
    error(packet.array(quoted + IPV6)?, flow)
}

/// The ports of the quoted packet.
#[inline(always)]
fn error([a, b, c, d]: [u8; 4], flow: &mut FlowKey) -> Option<Kind> {
    (flow.port, flow.client_port) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
    Some(Kind::Error)
}

/// The bucket-choosing number of a flow; the same on every host and in every build.
///
/// Not keyed: who wants to load one proxy alone can do that by opening connections until it is hit.
#[inline(always)]
#[must_use]
pub fn hash(flow: &FlowKey) -> u32 {
    let [client_high, client_low] = halves(&flow.client);
    let [vip_high, vip_low] = halves(&flow.vip);
    hash_of([client_high, client_low, vip_high, vip_low], flow.client_port, flow.port)
}

/// The same of client and virtual address in four words, big end first.
#[inline(always)]
#[must_use]
pub fn hash_of(addresses: [u64; 4], client_port: u16, port: u16) -> u32 {
    let mut mixed = (u64::from(client_port) << 16 | u64::from(port)) ^ MIX_A;
    for word in addresses {
        mixed = mix(mixed ^ word);
    }
    (mixed >> 32) as u32
}

// The constants of a published finaliser (Stafford's thirteenth): each input bit changes each
// output bit about half of the time.
const MIX_A: u64 = 0xbf58_476d_1ce4_e5b9;
const MIX_B: u64 = 0x94d0_49bb_1331_11eb;

#[inline(always)]
fn mix(word: u64) -> u64 {
    let word = (word ^ word >> 30).wrapping_mul(MIX_A);
    let word = (word ^ word >> 27).wrapping_mul(MIX_B);
    word ^ word >> 31
}

#[inline(always)]
fn halves(address: &Address) -> [u64; 2] {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = *address;
    [u64::from_be_bytes([a, b, c, d, e, f, g, h]), u64::from_be_bytes([i, j, k, l, m, n, o, p])]
}

const _: () = assert!(FLAGS < TCP);
