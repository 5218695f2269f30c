//! Who has this address? Questions of ARP (RFC 826) and of neighbour discovery (RFC 4861), and
//! their answers for addresses that stand on no interface of the asked host's network.

use crate::Bytes;
use crate::facts::{ETHERNET, IPV6};
use crate::fence::{Address, mapped};

/// A link address.
pub type Mac = [u8; 6];

/// Bytes of an ARP packet behind its Ethernet header.
const ARP: usize = 28;
/// Bytes of an answered ARP frame.
pub const ARP_FRAME: usize = ETHERNET + ARP;
/// Bytes of a neighbour advertisement with the target's link address, behind its Ethernet header.
const ADVERTISEMENT: usize = IPV6 + 32;
/// Bytes of an advertisement's frame.
pub const ADVERTISEMENT_FRAME: usize = ETHERNET + ADVERTISEMENT;

// RFC 826: hardware Ethernet, protocol IPv4, their lengths, request.
const ARP_REQUEST: [u8; 8] = [0, 1, 8, 0, 6, 4, 0, 1];
const ARP_REPLY: [u8; 8] = [0, 1, 8, 0, 6, 4, 0, 2];
const TYPE_ARP: [u8; 2] = [0x08, 0x06];
const TYPE_IPV6: [u8; 2] = [0x86, 0xdd];

const ICMPV6: u8 = 58;
const SOLICITATION: u8 = 135;
const ADVERTISED: u8 = 136;
const HOP_LIMIT_ON_LINK: u8 = 255;
/// Target's link address, one unit of eight bytes.
const TARGET_LINK: [u8; 2] = [2, 1];
const SOLICITED: u8 = 0x40;
const OVERRIDE: u8 = 0x20;
/// All nodes of the link, and the link address that this becomes.
const ALL_NODES: [u8; 16] = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
const ALL_NODES_LINK: Mac = [0x33, 0x33, 0, 0, 0, 1];

/// A question for one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// ARP.
    Arp {
        /// The address that is looked for.
        target: [u8; 4],
        /// Who asks.
        asker: [u8; 4],
        /// Where the answer goes.
        link: Mac,
    },
    /// A neighbour solicitation.
    Solicitation {
        /// The address that is looked for.
        target: [u8; 16],
        /// Who asks; unspecified while it looks whether its own address is taken.
        asker: [u8; 16],
        /// Where the answer goes.
        link: Mac,
    },
}

impl Question {
    /// The address that is looked for.
    #[inline(always)]
    #[must_use]
    pub fn target(&self) -> Address {
        match self {
            Self::Arp { target, .. } => mapped(*target),
            Self::Solicitation { target, .. } => *target,
        }
    }
}

/// Reads a question from an untagged frame; `None` for everything else.
#[inline(always)]
pub fn question<B: Bytes + ?Sized>(frame: &B) -> Option<Question> {
    let ethertype: [u8; 2] = frame.array(ETHERNET - 2)?;
    match ethertype {
        TYPE_ARP => arp(frame),
        TYPE_IPV6 => solicitation(frame),
        _ => None,
    }
}

#[inline(always)]
fn arp<B: Bytes + ?Sized>(frame: &B) -> Option<Question> {
    let head: [u8; 8] = frame.array(ETHERNET)?;
    if head != ARP_REQUEST {
        return None;
    }
    let link: Mac = frame.array(ETHERNET + 8)?;
    let asker = frame.array(ETHERNET + 14)?;
    let target = frame.array(ETHERNET + 24)?;
    // A gratuitous request tells, it does not ask.
    (asker != target).then_some(Question::Arp { target, asker, link })
}

#[inline(always)]
fn solicitation<B: Bytes + ?Sized>(frame: &B) -> Option<Question> {
    let [version, _, _, _, high, low, next, hops] = frame.array(ETHERNET)?;
    let is_whole = u16::from_be_bytes([high, low]) >= 24;
    if version >> 4 != 6 || next != ICMPV6 || hops != HOP_LIMIT_ON_LINK || !is_whole {
        return None;
    }
    let [kind, code] = frame.array(ETHERNET + IPV6)?;
    let asker: [u8; 16] = frame.array(ETHERNET + 8)?;
    let target: [u8; 16] = frame.array(ETHERNET + IPV6 + 8)?;
    let link: Mac = frame.array(6)?;
    // RFC 4861, section 7.1.1: a target is never multicast.
    let is_sound = kind == SOLICITATION && code == 0 && target[0] != 0xff;
    is_sound.then_some(Question::Solicitation { target, asker, link })
}

/// The frame that answers for IPv4.
#[inline(always)]
#[must_use]
pub fn arp_answer(target: [u8; 4], asker: [u8; 4], link: Mac, own: Mac) -> [u8; ARP_FRAME] {
    let mut out = [0; ARP_FRAME];
    out[..6].copy_from_slice(&link);
    out[6..12].copy_from_slice(&own);
    out[12..14].copy_from_slice(&TYPE_ARP);
    out[14..22].copy_from_slice(&ARP_REPLY);
    out[22..28].copy_from_slice(&own);
    out[28..32].copy_from_slice(&target);
    out[32..38].copy_from_slice(&link);
    out[38..42].copy_from_slice(&asker);
    out
}

/// The frame that answers for IPv6.
#[inline(always)]
#[must_use]
pub fn advertisement(
    target: [u8; 16],
    asker: [u8; 16],
    link: Mac,
    own: Mac,
) -> [u8; ADVERTISEMENT_FRAME] {
    // Who looks whether its own address is taken has none to be answered at (section 7.2.4).
    let is_anonymous = u128::from_be_bytes(asker) == 0;
    let (to, link) = if is_anonymous { (ALL_NODES, ALL_NODES_LINK) } else { (asker, link) };
    let mut out = [0; ADVERTISEMENT_FRAME];
    out[..6].copy_from_slice(&link);
    out[6..12].copy_from_slice(&own);
    out[12..14].copy_from_slice(&TYPE_IPV6);
    out[14] = 0x60;
    out[19] = 32;
    out[20] = ICMPV6;
    out[21] = HOP_LIMIT_ON_LINK;
    out[22..38].copy_from_slice(&target);
    out[38..54].copy_from_slice(&to);
    out[54] = ADVERTISED;
    out[58] = if is_anonymous { OVERRIDE } else { SOLICITED | OVERRIDE };
    out[62..78].copy_from_slice(&target);
    out[78..80].copy_from_slice(&TARGET_LINK);
    out[80..86].copy_from_slice(&own);
    let mut covered = [0_u8; 64];
    covered.copy_from_slice(&out[22..86]);
    // The pseudo header of RFC 8200, section 8.1: both addresses, the length, the protocol.
    let sum = crate::reset::sum(&covered) + 32 + u32::from(ICMPV6);
    [out[56], out[57]] = crate::reset::fold(sum).to_be_bytes();
    out
}
