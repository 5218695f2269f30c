//! Facts to verdict.
//!
//! Today every packet passes and only its reason differs; a rule that drops, answers or steers adds
//! its own variant to [`Verdict`], and the entry point then has to translate it to compile.

use pgx_abi::Reason;

use crate::{Facts, Flaw, Transport};

/// What becomes of a packet, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on to the network stack.
    Pass(Reason),
}

// RFC 4861, section 4: router solicitation to redirect. Sections 6.1 and 7.1 of it require a hop
// limit of 255, which no router could have let through.
const NEIGHBOUR_DISCOVERY: core::ops::RangeInclusive<u8> = 133..=137;
const HOP_LIMIT_ON_LINK: u8 = 255;

/// Judges a frame by what [`facts`](crate::facts()) found. Unknown traffic passes.
#[inline(always)]
#[must_use]
pub fn decide(found: Result<Facts, Flaw>) -> Verdict {
    Verdict::Pass(match found {
        Ok(Facts::Tagged) => Reason::VlanTagged,
        Ok(Facts::Arp) => Reason::Arp,
        Ok(Facts::Other) => Reason::OtherEthertype,
        Ok(Facts::Ipv4(transport)) => ipv4(transport),
        Ok(Facts::Ipv6(transport)) => ipv6(transport),
        Err(Flaw::Truncated) => Reason::Truncated,
        Err(Flaw::Malformed) => Reason::Malformed,
    })
}

#[inline(always)]
fn ipv4(transport: Transport) -> Reason {
    match transport {
        Transport::Tcp(_) => Reason::Ipv4Tcp,
        Transport::Icmp { .. } => Reason::Ipv4Icmp,
        Transport::Fragment { .. } => Reason::Ipv4Fragment,
        Transport::Icmpv6 { .. } | Transport::Unreached | Transport::Other => Reason::Ipv4Other,
    }
}

#[inline(always)]
fn ipv6(transport: Transport) -> Reason {
    match transport {
        Transport::Tcp(_) => Reason::Ipv6Tcp,
        Transport::Icmpv6 { kind, hop_limit: HOP_LIMIT_ON_LINK, .. }
            if NEIGHBOUR_DISCOVERY.contains(&kind) =>
        {
            Reason::Ipv6NeighbourDiscovery
        }
        Transport::Icmpv6 { .. } => Reason::Ipv6Icmp,
        Transport::Fragment { .. } => Reason::Ipv6Fragment,
        Transport::Unreached => Reason::Ipv6ExtensionLimit,
        Transport::Icmp { .. } | Transport::Other => Reason::Ipv6Other,
    }
}
