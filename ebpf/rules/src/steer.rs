//! Steering: which host gets a packet to a virtual address's port.
//!
//! Any proxy's host may be handed any packet: the holder of the address changes, and clients
//! remember the old one. Who gets it sends it on to the flow's owner, who answers the client by
//! itself. The owner of a new flow is the bucket's; an older flow's may be the bucket's previous
//! one, who is asked when the owner has no socket for it.
//!
//! **No loops.** A packet that is sent on carries in its hop limit how often it may be sent on
//! further, and nothing else of it is trusted: the first time it is set to two, the second time to
//! one, and at one it stays. So it is sent on twice at most, whatever the tables say, and also if
//! no two hosts have the same. That it came from a peer's link address counts like two.

use core::cmp::Ordering;

use pgx_abi::Reason;

use crate::Bytes;
use crate::heading::Kind;
use crate::neighbour::Mac;

/// A host that may own flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Server {
    /// Its link address.
    pub link: Mac,
    /// Whether it is this one.
    pub is_local: bool,
}

/// Whose a bucket's flows are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Choice {
    /// The owner of new flows.
    pub owner: Option<Server>,
    /// The owner of those that were there before.
    pub previous: Option<Server>,
}

/// How often a packet may be sent on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hops {
    /// It comes from its sender: twice.
    Two,
    /// A peer has sent it on: once.
    One,
    /// It stays.
    None,
}

impl Hops {
    /// Told by the hop limit (IPv4: time to live), and by where the packet came from.
    #[inline(always)]
    #[must_use]
    pub fn of(limit: u8, is_from_peer: bool) -> Self {
        match limit {
            0 | 1 => Self::None,
            2 => Self::One,
            _ if is_from_peer => Self::One,
            _ => Self::Two,
        }
    }

    /// The hop limit that it is sent on with; `None` if it is not.
    #[inline(always)]
    #[must_use]
    pub fn onward(self) -> Option<u8> {
        match self {
            Self::Two => Some(2),
            Self::One => Some(1),
            Self::None => None,
        }
    }
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Steer {
    /// It goes to this host's network stack.
    Pass(Reason),
    /// It goes to that host, with this hop limit.
    Send {
        /// The host's link address.
        to: Mac,
        /// The hop limit.
        limit: u8,
        /// Why.
        reason: Reason,
    },
    /// It is answered with a reset, towards where it came from.
    Reset(Reason),
    /// It is dropped.
    Drop(Reason),
}

/// Judges a packet to a proxies' port. Whether a socket here has the flow is asked only where it
/// matters; one in TIME-WAIT, and a half-open one, count.
#[inline(always)]
pub fn steer(kind: Kind, hops: Hops, choice: Choice, has_socket: impl FnOnce() -> bool) -> Steer {
    let is_here = |server: Option<Server>| server.is_some_and(|server| server.is_local);
    let is_owner = is_here(choice.owner);
    match kind {
        // Its later fragments carry no ports, so nobody could send them after it. The stack here
        // gets all of them.
        Kind::Opening(part) | Kind::Going(part) | Kind::Ending(part) if part.is_cut => {
            if choice.owner.is_none() || is_owner || has_socket() {
                Steer::Pass(Reason::SteerHere)
            } else {
                Steer::Drop(Reason::SteerFragment)
            }
        }
        Kind::Opening(_) => to(choice.owner, hops, Reason::SteerOwner),
        Kind::Going(_) | Kind::Ending(_) | Kind::Error => {
            let may_be_here = is_owner || is_here(choice.previous) || hops != Hops::Two;
            if may_be_here && has_socket() {
                return Steer::Pass(Reason::SteerSocket);
            }
            match (choice.owner, choice.previous) {
                (owner, Some(previous)) if owner.is_none() || is_owner => {
                    to(Some(previous), hops, reason(kind, Reason::SteerPrevious))
                }
                (owner, _) => to(owner, hops, reason(kind, Reason::SteerOwner)),
            }
        }
    }
}

/// Judges a packet to a port behind which PostgreSQL itself is. `begun` is how the epoch that the
/// flow began in, if it is known, compares with the table's; `is_open` says whether this host may
/// serve.
///
/// Nothing stays here that is not for here: this host's PostgreSQL may be another one than the
/// client means.
#[inline(always)]
pub fn direct(
    kind: Kind,
    hops: Hops,
    owner: Option<Server>,
    begun: Option<Ordering>,
    is_open: impl FnOnce() -> bool,
    has_socket: impl FnOnce() -> bool,
) -> Steer {
    let is_opening = matches!(kind, Kind::Opening(_));
    if !is_opening && begun.is_some_and(Ordering::is_lt) {
        return match (kind, hops) {
            (Kind::Error | Kind::Ending(_), _) => Steer::Drop(Reason::SteerStaleDropped),
            (_, Hops::Two) => Steer::Reset(Reason::SteerStale),
            // Where it came from is not where its sender is. The stack knows the way, and resets
            // what it has no socket for.
            _ if has_socket() => Steer::Drop(Reason::SteerStaleDropped),
            _ => Steer::Pass(Reason::SteerStale),
        };
    }
    let is_cut = kind.segment().is_some_and(|segment| segment.is_cut);
    match owner {
        Some(Server { is_local: true, .. }) if is_open() => Steer::Pass(Reason::SteerHere),
        Some(Server { is_local: true, .. }) => refuse(kind, hops, Reason::SteerShut),
        Some(_) if is_cut => Steer::Drop(Reason::SteerFragment),
        Some(_) if hops == Hops::None => refuse(kind, hops, Reason::SteerEnough),
        Some(_) => to(owner, hops, reason(kind, Reason::SteerOwner)),
        None => refuse(kind, hops, Reason::SteerNobody),
    }
}

#[inline(always)]
fn reason(kind: Kind, reason: Reason) -> Reason {
    if matches!(kind, Kind::Error) { Reason::SteerError } else { reason }
}

#[inline(always)]
fn to(server: Option<Server>, hops: Hops, reason: Reason) -> Steer {
    match (server, hops.onward()) {
        (None, _) => Steer::Pass(Reason::SteerNobody),
        (Some(Server { is_local: true, .. }), _) => Steer::Pass(Reason::SteerHere),
        (Some(_), None) => Steer::Pass(Reason::SteerEnough),
        (Some(Server { link, .. }), Some(limit)) => Steer::Send { to: link, limit, reason },
    }
}

/// Says no. A packet that a peer has sent on cannot be answered from here: its sender's link
/// address is gone. The sender tries again, and the peer may know better by then.
#[inline(always)]
fn refuse(kind: Kind, hops: Hops, reason: Reason) -> Steer {
    match (kind, hops) {
        (Kind::Error | Kind::Ending(_), _) | (_, Hops::One | Hops::None) => Steer::Drop(reason),
        (_, Hops::Two) => Steer::Reset(reason),
    }
}

/// What is written over a packet's IP header to give it another hop limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// Time to live, protocol, checksum, at this offset.
    Ipv4(usize, [u8; 4]),
    /// Hop limit, at this offset.
    Ipv6(usize, [u8; 1]),
}

/// Gives the hop limit of the packet whose IP header is at that offset.
#[inline(always)]
pub fn hop_limit<B: Bytes + ?Sized>(packet: &B, ip: usize) -> Option<u8> {
    let [version, _, _, _, _, _, _, v6, v4] = packet.array(ip)?;
    Some(if version >> 4 == 4 { v4 } else { v6 })
}

/// The bytes that set it, IPv4's checksum mended by RFC 1624.
#[inline(always)]
pub fn set_hop_limit<B: Bytes + ?Sized>(packet: &B, ip: usize, limit: u8) -> Option<Limit> {
    let [version, _] = packet.array(ip)?;
    if version >> 4 != 4 {
        return Some(Limit::Ipv6(ip + 7, [limit]));
    }
    let [old, protocol, high, low] = packet.array(ip + 8)?;
    let word = |first| u32::from(u16::from_be_bytes([first, protocol]));
    // Equation 3: the complement of the sum of the old checksum's complement, the old word's
    // complement, and the new word.
    let sum = (!word(old) & 0xffff) + word(limit) + u32::from(!u16::from_be_bytes([high, low]));
    let [high, low] = crate::reset::fold(sum).to_be_bytes();
    Some(Limit::Ipv4(ip + 8, [limit, protocol, high, low]))
}
