//! The fence: what becomes of packets to and from PostgreSQL's port, by the lease.
//!
//! A packet that is certainly none of PostgreSQL's is not judged here at all. While the gate is
//! shut, what may be PostgreSQL's and cannot be read is dropped: the fence fails shut.

use pgx_abi::{Gate, LeaseWord, PROBE_IN, PROBE_OUT, PROBE_PORT, Reason};

use crate::Bytes;
use crate::facts::{Facts, Flaw, Segment, TCP, Transport};

/// An IP address; IPv4 mapped into IPv6 (RFC 4291, section 2.5.5.2).
pub type Address = [u8; 16];

/// Which way a packet goes, seen from this host's PostgreSQL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Towards it: its port is the destination.
    In,
    /// From it: its port is the source.
    Out,
}

/// Whose a packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// To or from the local PostgreSQL's port.
    Local(Segment),
    /// From or to that port on another host: a backend, as a proxy here sees it.
    Remote(Segment),
    /// A packet by which pgx tries out the program that judges it now.
    Probe,
    /// It may be TCP, and its ports cannot be read.
    Unreadable,
    /// Certainly none of the above.
    Other,
}

/// The words of the fence, as read for one packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lease {
    /// The primary lease.
    pub primary: LeaseWord,
    /// The member lease.
    pub member: LeaseWord,
    /// The lowest epoch that may be open: what was closed before it stays closed.
    pub floor: u64,
    /// The lowest epoch that operators let open.
    pub operator: u64,
}

impl Lease {
    /// How far the gate is open at this moment of the boot-time clock, in nanoseconds.
    ///
    /// The clock is read last, so that a word counts no longer than it says, and only if a word
    /// could open: it is what costs most here.
    #[inline(always)]
    #[must_use]
    pub fn gate(&self, now_ns: impl FnOnce() -> u64) -> Gate {
        let (primary, member) = (self.at_most(self.primary), self.at_most(self.member));
        if matches!((primary, member), (Gate::Shut, Gate::Shut)) {
            return Gate::Shut;
        }
        let now_ns = now_ns();
        let at =
            |gate, word: LeaseWord| if now_ns < word.deadline_ns() { gate } else { Gate::Shut };
        let (primary, member) = (at(primary, self.primary), at(member, self.member));
        if primary as u8 >= member as u8 { primary } else { member }
    }

    /// How far a word opens the gate before its deadline.
    #[inline(always)]
    fn at_most(&self, word: LeaseWord) -> Gate {
        let epoch = word.epoch();
        if epoch >= self.floor && epoch >= self.operator { word.gate() } else { Gate::Shut }
    }
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fence {
    /// It is none of the fence's.
    Ignore,
    /// It passes.
    Pass(Reason),
    /// It is answered with a reset, see [`reset`](crate::reset()).
    Reset(Segment),
    /// It is for a fenced backend: it is answered with a reset in that one's name.
    Refuse(Segment),
    /// It is dropped.
    Drop(Reason),
}

/// Whose packet it is, by its ports.
#[inline(always)]
#[must_use]
pub fn subject(found: Result<Facts, Flaw>, direction: Direction, port: u16) -> Subject {
    let transport = match found {
        Ok(Facts::Ipv4(transport) | Facts::Ipv6(transport)) => transport,
        // What ends within its headers could be TCP; so could what hides behind tags.
        Err(Flaw::Truncated) | Ok(Facts::Tagged) => return Subject::Unreadable,
        // The stack drops what contradicts itself.
        Err(Flaw::Malformed) | Ok(Facts::Arp | Facts::Other) => return Subject::Other,
    };
    match transport {
        Transport::Tcp(segment) => {
            let (near, far) = match direction {
                Direction::In => (segment.ports.destination, segment.ports.source),
                Direction::Out => (segment.ports.source, segment.ports.destination),
            };
            if near == port {
                Subject::Local(segment)
            } else if far == port {
                Subject::Remote(segment)
            } else if is_probe(&segment, direction) {
                Subject::Probe
            } else {
                Subject::Other
            }
        }
        Transport::Fragment { may_be_tcp: true } | Transport::Unreached => Subject::Unreadable,
        _ => Subject::Other,
    }
}

/// Whether pgx sent it to see that a program runs that sees packets of this direction.
#[inline(always)]
fn is_probe(segment: &Segment, direction: Direction) -> bool {
    let meant = match direction {
        Direction::In => PROBE_IN,
        Direction::Out => PROBE_OUT,
    };
    segment.ports.source == PROBE_PORT && segment.ports.destination == meant
}

/// Whether pgx sent it to see that the socket it is for has a cgroup's program before it.
#[inline(always)]
#[must_use]
pub fn is_socket_probe(whose: Subject) -> bool {
    matches!(whose, Subject::Local(segment) if segment.ports.source == PROBE_PORT)
}

/// Judges a packet. The gate is asked for only where it matters, the addresses too.
#[inline(always)]
pub fn fence<B: Bytes + ?Sized>(
    packet: &B,
    subject: Subject,
    direction: Direction,
    gate: impl FnOnce() -> Gate,
    is_peer: impl FnOnce(&Address) -> bool,
    is_fenced: impl FnOnce(&Address) -> bool,
) -> Fence {
    match subject {
        Subject::Other => Fence::Ignore,
        Subject::Probe => Fence::Drop(Reason::FenceProbe),
        Subject::Unreadable => match gate() {
            Gate::Open => Fence::Ignore,
            Gate::Shut | Gate::Peers => Fence::Drop(Reason::FenceUnreadable),
        },
        Subject::Remote(segment) => match far_address(packet, &segment, direction) {
            Some(address) if is_fenced(&address) => fenced(packet, segment, direction),
            _ => Fence::Ignore,
        },
        Subject::Local(segment) => match gate() {
            Gate::Open => Fence::Pass(Reason::FenceOpen),
            Gate::Peers => match far_address(packet, &segment, direction) {
                Some(address) if is_peer(&address) => Fence::Pass(Reason::FencePeer),
                _ => shut(packet, segment, direction),
            },
            Gate::Shut => shut(packet, segment, direction),
        },
    }
}

/// Nothing comes from a fenced backend, and who sends to it is told at once. Resets without data do
/// no harm in either direction.
#[inline(always)]
fn fenced<B: Bytes + ?Sized>(packet: &B, segment: Segment, direction: Direction) -> Fence {
    let Some([words, flags]) = packet.array(segment.at + DATA_OFFSET) else {
        return Fence::Drop(Reason::FencedBackend);
    };
    let is_empty = segment.at + usize::from(words >> 4) * 4 >= segment.end;
    match direction {
        _ if flags & RST != 0 && is_empty => Fence::Pass(Reason::FencedResetPassed),
        Direction::Out if flags & RST == 0 => Fence::Refuse(segment),
        Direction::In | Direction::Out => Fence::Drop(Reason::FencedBackend),
    }
}

/// While shut: who comes in is told at once, data does not leave, resets go both ways.
#[inline(always)]
fn shut<B: Bytes + ?Sized>(packet: &B, segment: Segment, direction: Direction) -> Fence {
    let Some([words, flags]) = packet.array(segment.at + DATA_OFFSET) else {
        return Fence::Drop(Reason::FenceUnreadable);
    };
    let header = usize::from(words >> 4) * 4;
    let is_empty = segment.at + header >= segment.end;
    match direction {
        // Never in answer to a reset (RFC 9293, section 3.5.2); without data it does no harm.
        Direction::In if flags & RST != 0 && is_empty => Fence::Pass(Reason::FenceResetPassed),
        Direction::In if flags & RST != 0 => Fence::Drop(Reason::FenceDropIn),
        Direction::In => Fence::Reset(segment),
        Direction::Out if flags & RST != 0 && is_empty => Fence::Pass(Reason::FenceResetPassed),
        Direction::Out => Fence::Drop(Reason::FenceDropOut),
    }
}

/// An IPv4 address as an [`Address`].
#[inline(always)]
pub(crate) fn mapped([a, b, c, d]: [u8; 4]) -> Address {
    // As one number: of ten zeros in a row the compiler makes a call, which takes a turn for each.
    (0xffff_0000_0000 | u128::from(u32::from_be_bytes([a, b, c, d]))).to_be_bytes()
}

/// The address of the other host.
#[inline(always)]
fn far_address<B: Bytes + ?Sized>(
    packet: &B,
    segment: &Segment,
    direction: Direction,
) -> Option<Address> {
    let [version, _] = packet.array(segment.ip)?;
    // RFC 791 and RFC 8200: source first, destination behind it.
    if version >> 4 == 4 {
        let offset = match direction {
            Direction::In => 12,
            Direction::Out => 16,
        };
        Some(mapped(packet.array(segment.ip + offset)?))
    } else {
        let offset = match direction {
            Direction::In => 8,
            Direction::Out => 24,
        };
        packet.array(segment.ip + offset)
    }
}

// RFC 9293, section 3.1.
const DATA_OFFSET: usize = 12;
pub(crate) const RST: u8 = 0x04;

const _: () = assert!(DATA_OFFSET + 2 <= TCP);
