//! The answer to a segment that nobody may receive: a reset that its sender believes.
//!
//! RFC 9293, section 3.5.2: with an acknowledgement in the segment, the reset takes its sequence
//! number from there; without, it has number zero and acknowledges what the segment occupies. A
//! receiver believes only the exact next number (RFC 5961, section 3.2), which this is.

use crate::Bytes;
use crate::facts::{IPV6, PROTOCOL_TCP, Segment, TCP};
use crate::fence::RST;

const IPV4: usize = 20;
/// Bytes of a reset from its IPv4 header on.
pub const RESET_IPV4: usize = IPV4 + TCP;
/// Bytes of a reset from its IPv6 header on.
pub const RESET_IPV6: usize = IPV6 + TCP;

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;
/// Five words of header, no options.
const WORDS: u8 = 5 << 4;
/// What a host sends by default (RFC 1700).
const HOPS: u8 = 64;
const DO_NOT_FRAGMENT: u8 = 0x40;

/// A reset, from its IP header on. What is before that stays as it came, with the two link
/// addresses exchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reset {
    /// IPv4 and TCP header.
    Ipv4([u8; RESET_IPV4]),
    /// IPv6 and TCP header.
    Ipv6([u8; RESET_IPV6]),
}

/// The answer to a segment; `None` if it ends too early to be answered. It is never longer than
/// the segment.
#[inline(always)]
pub fn reset<B: Bytes + ?Sized>(packet: &B, segment: &Segment) -> Option<Reset> {
    let tcp = answer(packet, segment)?;
    let [version, _] = packet.array(segment.ip)?;
    if version >> 4 == 4 {
        ipv4(packet, segment, tcp).map(Reset::Ipv4)
    } else {
        ipv6(packet, segment, tcp).map(Reset::Ipv6)
    }
}

/// The TCP header without its checksum.
#[inline(always)]
fn answer<B: Bytes + ?Sized>(packet: &B, segment: &Segment) -> Option<[u8; TCP]> {
    let asked: [u8; TCP] = packet.array(segment.at)?;
    let word =
        |at: usize| u32::from_be_bytes([asked[at], asked[at + 1], asked[at + 2], asked[at + 3]]);
    let (sequence, acknowledged, flags) = (word(4), word(8), asked[13]);
    let header = usize::from(asked[12] >> 4) * 4;
    let payload = (segment.end - segment.at).saturating_sub(header);
    let occupied = payload + usize::from(flags & SYN != 0) + usize::from(flags & FIN != 0);
    let mut tcp = [0; TCP];
    [tcp[0], tcp[1]] = [asked[2], asked[3]];
    [tcp[2], tcp[3]] = [asked[0], asked[1]];
    if flags & ACK != 0 {
        [tcp[4], tcp[5], tcp[6], tcp[7]] = acknowledged.to_be_bytes();
        tcp[13] = RST;
    } else {
        // Sequence numbers wrap.
        let next = sequence.wrapping_add(u32::try_from(occupied).unwrap_or(0));
        [tcp[8], tcp[9], tcp[10], tcp[11]] = next.to_be_bytes();
        tcp[13] = RST | ACK;
    }
    tcp[12] = WORDS;
    Some(tcp)
}

#[inline(always)]
fn ipv4<B: Bytes + ?Sized>(
    packet: &B,
    segment: &Segment,
    mut tcp: [u8; TCP],
) -> Option<[u8; RESET_IPV4]> {
    let addresses: [u8; 8] = packet.array(segment.ip + 12)?;
    let mut out = [0; RESET_IPV4];
    out[0] = 0x45;
    out[3] = 40;
    out[6] = DO_NOT_FRAGMENT;
    out[8] = HOPS;
    out[9] = PROTOCOL_TCP;
    out[12..16].copy_from_slice(&addresses[4..]);
    out[16..20].copy_from_slice(&addresses[..4]);
    let mut header = [0; IPV4];
    header.copy_from_slice(&out[..IPV4]);
    [out[10], out[11]] = fold(sum(&header)).to_be_bytes();
    let pseudo = sum(&addresses) + u32::from(PROTOCOL_TCP) + 20;
    [tcp[16], tcp[17]] = fold(pseudo + sum(&tcp)).to_be_bytes();
    out[IPV4..].copy_from_slice(&tcp);
    Some(out)
}

#[inline(always)]
fn ipv6<B: Bytes + ?Sized>(
    packet: &B,
    segment: &Segment,
    mut tcp: [u8; TCP],
) -> Option<[u8; RESET_IPV6]> {
    let addresses: [u8; 32] = packet.array(segment.ip + 8)?;
    let mut out = [0; RESET_IPV6];
    out[0] = 0x60;
    out[5] = 20;
    out[6] = PROTOCOL_TCP;
    out[7] = HOPS;
    out[8..24].copy_from_slice(&addresses[16..]);
    out[24..40].copy_from_slice(&addresses[..16]);
    let pseudo = sum(&addresses) + u32::from(PROTOCOL_TCP) + 20;
    [tcp[16], tcp[17]] = fold(pseudo + sum(&tcp)).to_be_bytes();
    out[IPV6..].copy_from_slice(&tcp);
    Some(out)
}

/// The sum of 16-bit words, big end first (RFC 1071); few enough that 32 bits cannot overflow.
#[inline(always)]
pub(crate) fn sum<const N: usize>(bytes: &[u8; N]) -> u32 {
    let mut total = 0;
    let mut at = 0;
    while at + 1 < N {
        total += u32::from(u16::from_be_bytes([bytes[at], bytes[at + 1]]));
        at += 2;
    }
    total
}

/// The checksum of a sum.
#[inline(always)]
pub(crate) fn fold(sum: u32) -> u16 {
    let once = (sum & 0xffff) + (sum >> 16);
    let twice = (once & 0xffff) + (once >> 16);
    !u16::try_from(twice & 0xffff).unwrap_or(0)
}
