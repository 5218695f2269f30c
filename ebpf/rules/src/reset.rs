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
const WORDS: u32 = 5;
/// What a host sends by default (RFC 1700).
const HOPS: u8 = 64;
const DO_NOT_FRAGMENT: u32 = 0x4000;

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
    let [version, _] = packet.array(segment.ip)?;
    if version >> 4 == 4 {
        reset_v4(packet, segment).map(Reset::Ipv4)
    } else {
        reset_v6(packet, segment).map(Reset::Ipv6)
    }
}

/// The lengths that headers tell.
const LENGTH_V4: u32 = 40;
const LENGTH_TCP: u32 = 20;
const _: () = assert!(LENGTH_V4 as usize == RESET_IPV4 && LENGTH_TCP as usize == TCP);
/// Words of a TCP header without options.
const TCP_WORDS: usize = TCP / 4;

/// The answer to a segment over IPv4.
#[inline(always)]
pub fn reset_v4<B: Bytes + ?Sized>(packet: &B, segment: &Segment) -> Option<[u8; RESET_IPV4]> {
    let [source, destination] = words(packet, segment.ip + 12)?;
    let [t0, t1, t2, t3, t4] = answer(packet, segment, &[source, destination])?;
    let rest = u32::from(HOPS) << 24 | u32::from(PROTOCOL_TCP) << 16;
    let head = [0x4500_0000 | LENGTH_V4, DO_NOT_FRAGMENT, rest, destination, source];
    let [h0, h1, h2, h3, h4] = head;
    let h2 = h2 | u32::from(checksum(&head, 0));
    Some(bytes([h0, h1, h2, h3, h4, t0, t1, t2, t3, t4]))
}

/// The answer to a segment over IPv6.
#[inline(always)]
pub fn reset_v6<B: Bytes + ?Sized>(packet: &B, segment: &Segment) -> Option<[u8; RESET_IPV6]> {
    let addresses: [u32; 8] = words(packet, segment.ip + 8)?;
    let [t0, t1, t2, t3, t4] = answer(packet, segment, &addresses)?;
    let [a, b, c, d, e, f, g, h] = addresses;
    let rest = LENGTH_TCP << 16 | u32::from(PROTOCOL_TCP) << 8 | u32::from(HOPS);
    Some(bytes([0x6000_0000, rest, e, f, g, h, a, b, c, d, t0, t1, t2, t3, t4]))
}

/// The TCP header. By words, because single bytes of two headers would fill a program's stack.
#[inline(always)]
fn answer<B: Bytes + ?Sized, const N: usize>(
    packet: &B,
    segment: &Segment,
    addresses: &[u32; N],
) -> Option<[u32; TCP_WORDS]> {
    let [ports, sequence, acknowledged, rest, _]: [u32; TCP_WORDS] = words(packet, segment.at)?;
    let [_, flags, _, _] = rest.to_be_bytes();
    let header = (rest >> 28) as usize * 4;
    let payload = (segment.end - segment.at).saturating_sub(header);
    let occupied = payload + usize::from(flags & SYN != 0) + usize::from(flags & FIN != 0);
    let (sequence, acknowledgment, flags) = if flags & ACK != 0 {
        (acknowledged, 0, RST)
    } else {
        // Sequence numbers wrap.
        (0, sequence.wrapping_add(u32::try_from(occupied).unwrap_or(0)), RST | ACK)
    };
    let rest = WORDS << 28 | u32::from(flags) << 16;
    let header = [ports.rotate_left(16), sequence, acknowledgment, rest, 0];
    // The pseudo header: addresses, in whatever order, protocol and length.
    let pseudo = total(addresses) + u64::from(PROTOCOL_TCP) + u64::from(LENGTH_TCP);
    let [ports, sequence, acknowledgment, rest, _] = header;
    let last = u32::from(checksum(&header, pseudo)) << 16;
    Some([ports, sequence, acknowledgment, rest, last])
}

/// So many words of a packet, big end first.
#[inline(always)]
fn words<B: Bytes + ?Sized, const N: usize>(packet: &B, at: usize) -> Option<[u32; N]> {
    let mut words = [0; N];
    let mut place = 0;
    while place < N {
        words[place] = u32::from_be_bytes(packet.array(at + place * 4)?);
        place += 1;
    }
    Some(words)
}

#[inline(always)]
fn bytes<const WORDS: usize, const BYTES: usize>(words: [u32; WORDS]) -> [u8; BYTES] {
    let mut bytes = [0; BYTES];
    bytes.copy_from_slice(words.map(u32::to_be_bytes).as_flattened());
    bytes
}

#[inline(always)]
fn total<const N: usize>(words: &[u32; N]) -> u64 {
    let mut total = 0;
    let mut place = 0;
    while place < N {
        total += u64::from(words[place]);
        place += 1;
    }
    total
}

/// The checksum of words and of what else is to be covered (RFC 1071: it does not matter how many
/// bits are added at once).
#[inline(always)]
fn checksum<const N: usize>(words: &[u32; N], more: u64) -> u16 {
    let sum = total(words) + more;
    let halves = (sum & 0xffff) + (sum >> 16 & 0xffff) + (sum >> 32);
    fold(u32::try_from(halves).unwrap_or(0))
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
