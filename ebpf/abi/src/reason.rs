//! Why a packet got its verdict: one variant, one counter index, one name for each reason.

/// Declares [`Reason`] with its index and its name in one table, so that they cannot differ.
macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident = $index:literal, $name:literal;)*) => {
        /// Why a packet got its verdict.
        ///
        /// The number is the slot in the counter map. That map is pinned and outlives the process,
        /// so a number keeps its meaning: append, never renumber within a pin version.
        #[repr(u32)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Reason {
            $($(#[$doc])* $variant = $index,)*
        }

        impl Reason {
            /// Every reason, in the order of the indices.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The name in metrics and messages; it never changes.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }
        }
    };
}

reasons! {
    /// The frame, or the IP packet in it, ends before the headers that it announces.
    Truncated = 0, "truncated";
    /// A header contradicts itself: wrong IP version, or a header length below the minimum.
    Malformed = 1, "malformed";
    /// More VLAN tags than are read; what is behind them is not.
    VlanTagged = 2, "vlan_tagged";
    /// Neither IP nor ARP.
    OtherEthertype = 3, "other_ethertype";
    /// ARP.
    Arp = 4, "arp";
    /// TCP over IPv4, ports readable.
    Ipv4Tcp = 5, "ipv4_tcp";
    /// ICMP over IPv4.
    Ipv4Icmp = 6, "ipv4_icmp";
    /// A later fragment of an IPv4 packet: it carries no ports.
    Ipv4Fragment = 7, "ipv4_fragment";
    /// Any other protocol over IPv4.
    Ipv4Other = 8, "ipv4_other";
    /// TCP over IPv6, ports readable.
    Ipv6Tcp = 9, "ipv6_tcp";
    /// A neighbour discovery message that came from this link (RFC 4861: hop limit 255).
    Ipv6NeighbourDiscovery = 10, "ipv6_neighbour_discovery";
    /// Any other ICMPv6 message.
    Ipv6Icmp = 11, "ipv6_icmp";
    /// A later fragment of an IPv6 packet: it carries no ports.
    Ipv6Fragment = 12, "ipv6_fragment";
    /// More extension headers than are walked, so the transport header was not reached.
    Ipv6ExtensionLimit = 13, "ipv6_extension_limit";
    /// Any other protocol over IPv6.
    Ipv6Other = 14, "ipv6_other";
    /// To or from PostgreSQL's port, while the gate is open.
    FenceOpen = 15, "fence_open";
    /// To or from PostgreSQL's port, with another data node, while the gate is open to those.
    FencePeer = 16, "fence_peer";
    /// To PostgreSQL's port while the gate is shut: answered with a reset.
    FenceReset = 17, "fence_reset";
    /// A reset to or from PostgreSQL's port while the gate is shut: it passes.
    FenceResetPassed = 18, "fence_reset_passed";
    /// To PostgreSQL's port while the gate is shut, and not answerable: dropped.
    FenceDropIn = 19, "fence_drop_in";
    /// From PostgreSQL's port while the gate is shut: dropped.
    FenceDropOut = 20, "fence_drop_out";
    /// While the gate is shut, a packet that may be TCP and whose ports cannot be read: dropped.
    FenceUnreadable = 21, "fence_unreadable";
    /// From or to the port of a backend that is fenced elsewhere: dropped.
    FencedBackend = 22, "fenced_backend";
    /// Who has this virtual address? Answered, under its lease.
    VipAnswered = 23, "vip_answered";
    /// Who has this virtual address? Another host, as far as is known here: not answered.
    VipNotHeld = 24, "vip_not_held";
    /// To a virtual address's port, and this host is the flow's owner: it stays here.
    SteerHere = 25, "steer_here";
    /// The same, and a socket here has the flow, whoever its owner is.
    SteerSocket = 26, "steer_socket";
    /// Sent on to the flow's owner.
    SteerOwner = 27, "steer_owner";
    /// Sent on to the flow's previous owner: here is no socket for it.
    SteerPrevious = 28, "steer_previous";
    /// It has been sent on often enough, and stays here.
    SteerEnough = 29, "steer_enough";
    /// Nobody serves that port now: it stays here.
    SteerNobody = 30, "steer_nobody";
    /// The first fragment of a segment whose owner is elsewhere: dropped.
    SteerFragment = 31, "steer_fragment";
    /// A segment of a direct service's flow from before the newest epoch: answered with a reset.
    SteerStale = 32, "steer_stale";
    /// The same, and not answerable: dropped.
    SteerStaleDropped = 33, "steer_stale_dropped";
    /// To a direct service whose server is this host or nobody, while the gate is not open:
    /// answered with a reset.
    SteerShut = 34, "steer_shut";
    /// A new flow of a direct service whose epoch was not written down: too many at once.
    SteerFlood = 35, "steer_flood";
    /// The tables were written twice while the packet was looked at: dropped, it comes again.
    SteerTorn = 36, "steer_torn";
    /// An ICMP error about a flow, sent on with it.
    SteerError = 37, "steer_error";
    /// From a fenced backend: a reset without data, which harms nobody and passes.
    FencedResetPassed = 38, "fenced_reset_passed";
    /// To a fenced backend: answered with a reset in its name.
    FencedReset = 39, "fenced_reset";
    /// A packet by which pgx tried the fence out: dropped where it was meant to be.
    FenceProbe = 40, "fence_probe";
}

impl Reason {
    /// The slot of this reason in the counter map.
    #[must_use]
    pub const fn index(self) -> u32 {
        self as u32
    }
}

const _: () = {
    let mut at = 0;
    while at < Reason::ALL.len() {
        assert!(Reason::ALL[at].index() as usize == at, "indices must be dense and in order");
        at += 1;
    }
};

#[cfg(test)]
mod tests {
    use super::Reason;

    #[test]
    fn every_reason_has_a_name_of_its_own() {
        for (at, reason) in Reason::ALL.iter().enumerate() {
            assert!(!reason.name().is_empty());
            assert!(Reason::ALL[..at].iter().all(|other| other.name() != reason.name()));
        }
    }
}
