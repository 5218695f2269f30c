//! The packets that the rules are tested with, on the host and in the kernel.
//!
//! Most are built by a library that knows nothing of our parser; what no library builds, because
//! it is wrong or odd, is patched or put together here byte by byte.

use etherparse::{
    ArpHardwareId, ArpOperation, ArpPacket, EtherType, Ethernet2Header, IpAuthHeader, IpFragOffset,
    IpHeaders, IpNumber, Ipv4Extensions, Ipv4Header, Ipv6Extensions, Ipv6FragmentHeader,
    Ipv6Header, Ipv6RawExtHeader, Ipv6RoutingExtensions, PacketBuilder, PacketBuilderStep,
    TcpOptionElement, VlanId,
};
use pgx_abi::Reason;

/// The source port of every TCP segment here.
pub(crate) const SOURCE_PORT: u16 = 40000;
/// The destination port of every TCP segment here.
pub(crate) const DESTINATION_PORT: u16 = 5432;

const SOURCE: [u8; 4] = [192, 0, 2, 1];
const DESTINATION: [u8; 4] = [192, 0, 2, 2];
const SOURCE_V6: [u8; 16] = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
const DESTINATION_V6: [u8; 16] = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];
const PAYLOAD: &[u8] = b"SELECT 1";
const ETHERNET: usize = 14;

/// A packet and what must become of it.
pub(crate) struct Packet {
    /// What it is.
    pub(crate) name: &'static str,
    /// The reason that it must be counted under.
    pub(crate) reason: Reason,
    /// How much of it takes part in the verdict. A shorter prefix is truncated, a longer one is
    /// judged like the whole.
    pub(crate) headers: usize,
    /// The frame.
    pub(crate) frame: Vec<u8>,
}

/// Every packet.
pub(crate) fn all() -> Vec<Packet> {
    [link(), ipv4(), ipv4_broken(), ipv6(), ipv6_extended(), neighbour_discovery()]
        .into_iter()
        .flatten()
        .collect()
}

fn packet(name: &'static str, reason: Reason, headers: usize, frame: Vec<u8>) -> Packet {
    Packet { name, reason, headers, frame }
}

fn ethernet() -> PacketBuilderStep<Ethernet2Header> {
    PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
}

/// An Ethernet frame with any payload.
fn raw(ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];
    frame.extend(ethertype.to_be_bytes());
    frame.extend(payload);
    frame
}

fn link() -> Vec<Packet> {
    let arp = ArpPacket::new(
        ArpHardwareId::ETHERNET,
        EtherType::IPV4,
        ArpOperation::REQUEST,
        &[2, 0, 0, 0, 0, 1],
        &SOURCE,
        &[0; 6],
        &DESTINATION,
    )
    .unwrap();
    let mut request = Vec::new();
    ethernet().arp(arp).write(&mut request).unwrap();
    let mut tagged = Vec::new();
    let vlan = ethernet().single_vlan(VlanId::try_new(7).unwrap());
    let inner = vlan.ipv4(SOURCE, DESTINATION, 64);
    inner.tcp(SOURCE_PORT, DESTINATION_PORT, 1, 512).write(&mut tagged, PAYLOAD).unwrap();
    let mut service = tagged.clone();
    service[12..14].copy_from_slice(&0x88a8_u16.to_be_bytes());
    // Two more tags before the one that is there.
    let tag = [0x88, 0xa8, 0, 9];
    let twice = [&tagged[..12], &tag, &tagged[12..]].concat();
    let thrice = [&tagged[..12], &tag, &tag, &tagged[12..]].concat();
    vec![
        packet("ARP request", Reason::Arp, 42, request),
        packet("TCP in a VLAN", Reason::Ipv4Tcp, 58, tagged),
        packet("TCP in a service VLAN", Reason::Ipv4Tcp, 58, service),
        packet("TCP in a VLAN of a provider's", Reason::Ipv4Tcp, 62, twice),
        packet("TCP behind three tags", Reason::VlanTagged, 22, thrice),
        packet("LLDP", Reason::OtherEthertype, ETHERNET, raw(0x88cc, &[0; 46])),
        packet("802.3 length", Reason::OtherEthertype, ETHERNET, raw(46, &[0x42; 46])),
    ]
}

/// An IPv4 header before a TCP segment; the builder fills in lengths.
fn ipv4_tcp(header: Ipv4Header) -> Vec<u8> {
    let mut frame = Vec::new();
    let ip = IpHeaders::Ipv4(header, Ipv4Extensions::default());
    let tcp = ethernet().ip(ip).tcp(SOURCE_PORT, DESTINATION_PORT, 1, 512);
    tcp.write(&mut frame, PAYLOAD).unwrap();
    frame
}

fn ipv4_header() -> Ipv4Header {
    Ipv4Header {
        time_to_live: 64,
        protocol: IpNumber::TCP,
        source: SOURCE,
        destination: DESTINATION,
        ..Ipv4Header::default()
    }
}

fn ipv4() -> Vec<Packet> {
    let mut options = Vec::new();
    let tcp = ethernet().ipv4(SOURCE, DESTINATION, 64);
    let tcp = tcp.tcp(SOURCE_PORT, DESTINATION_PORT, 1, 512).syn();
    let mss = [TcpOptionElement::MaximumSegmentSize(1460), TcpOptionElement::WindowScale(7)];
    tcp.options(&mss).unwrap().write(&mut options, &[]).unwrap();
    let longest = Ipv4Header { options: [1; 40].into(), ..ipv4_header() };
    let first = Ipv4Header { more_fragments: true, ..ipv4_header() };
    // Between them the two offsets set every bit of the field.
    let [low, high] = [0x00ff, 0x1f00].map(|offset| {
        let fragment_offset = IpFragOffset::try_new(offset).unwrap();
        ipv4_tcp(Ipv4Header { fragment_offset, ..ipv4_header() })
    });
    let mut uncut = ipv4_tcp(ipv4_header());
    uncut[16..18].fill(0);
    let (mut udp, mut icmp) = (Vec::new(), Vec::new());
    let ip = || ethernet().ipv4(SOURCE, DESTINATION, 64);
    ip().udp(SOURCE_PORT, DESTINATION_PORT).write(&mut udp, PAYLOAD).unwrap();
    ip().icmpv4_echo_request(1, 1).write(&mut icmp, PAYLOAD).unwrap();
    vec![
        packet("IPv4 TCP", Reason::Ipv4Tcp, 54, ipv4_tcp(ipv4_header())),
        packet("IPv4 SYN with TCP options", Reason::Ipv4Tcp, 54, options),
        packet("IPv4 with forty bytes of options", Reason::Ipv4Tcp, 94, ipv4_tcp(longest)),
        packet("IPv4 first fragment", Reason::Ipv4Tcp, 54, ipv4_tcp(first)),
        packet("IPv4 later fragment", Reason::Ipv4Fragment, 34, low),
        packet("IPv4 fragment far behind", Reason::Ipv4Fragment, 34, high),
        packet("IPv4 without a length (BIG TCP)", Reason::Ipv4Tcp, 54, uncut),
        packet("IPv4 UDP", Reason::Ipv4Other, 34, udp),
        packet("IPv4 ping", Reason::Ipv4Icmp, 34, icmp),
        packet("IPv4 error about an answer", Reason::Ipv4Icmp, 34, error_ipv4()),
    ]
}

/// A router says that a segment, which went the other way, was too long for it.
fn error_ipv4() -> Vec<u8> {
    let (mut answer, mut frame) = (Vec::new(), Vec::new());
    let ip = PacketBuilder::ipv4(DESTINATION, SOURCE, 64);
    ip.tcp(DESTINATION_PORT, SOURCE_PORT, 1, 512).write(&mut answer, PAYLOAD).unwrap();
    let error = ethernet().ipv4(SOURCE, DESTINATION, 64).icmpv4_raw(3, 4, [0, 0, 5, 0]);
    error.write(&mut frame, &answer).unwrap();
    frame
}

/// The same for IPv6.
fn error_ipv6() -> Vec<u8> {
    let (mut answer, mut frame) = (Vec::new(), Vec::new());
    let ip = PacketBuilder::ipv6(DESTINATION_V6, SOURCE_V6, 64);
    ip.tcp(DESTINATION_PORT, SOURCE_PORT, 1, 512).write(&mut answer, PAYLOAD).unwrap();
    let error = ethernet().ipv6(SOURCE_V6, DESTINATION_V6, 64).icmpv6_raw(2, 0, [0, 0, 5, 0]);
    error.write(&mut frame, &answer).unwrap();
    frame
}

fn ipv4_broken() -> Vec<Packet> {
    let patched = |at: usize, bytes: &[u8]| {
        let mut frame = ipv4_tcp(ipv4_header());
        frame[at..at + bytes.len()].copy_from_slice(bytes);
        frame
    };
    vec![
        packet("IPv4 of version 6", Reason::Malformed, 24, patched(ETHERNET, &[0x65])),
        packet("IPv4 header of four words", Reason::Malformed, 24, patched(ETHERNET, &[0x44])),
        packet("IPv4 shorter than its header", Reason::Malformed, 34, patched(16, &[0, 19])),
        // What stands where the ports should be is padding, and must not be taken for ports.
        packet("IPv4 that ends within TCP", Reason::Truncated, 54, patched(16, &[0, 39])),
    ]
}

fn ipv6_tcp(extensions: Ipv6Extensions) -> Vec<u8> {
    let header = Ipv6Header {
        hop_limit: 64,
        source: SOURCE_V6,
        destination: DESTINATION_V6,
        ..Ipv6Header::default()
    };
    let mut frame = Vec::new();
    let tcp = ethernet().ip(IpHeaders::Ipv6(header, extensions));
    let tcp = tcp.tcp(SOURCE_PORT, DESTINATION_PORT, 1, 512);
    tcp.write(&mut frame, PAYLOAD).unwrap();
    frame
}

fn ipv6() -> Vec<Packet> {
    let plain = ipv6_tcp(Ipv6Extensions::default());
    let (mut udp, mut echo) = (Vec::new(), Vec::new());
    let ip = || ethernet().ipv6(SOURCE_V6, DESTINATION_V6, 64);
    ip().udp(SOURCE_PORT, DESTINATION_PORT).write(&mut udp, PAYLOAD).unwrap();
    ip().icmpv6_echo_request(1, 1).write(&mut echo, PAYLOAD).unwrap();
    let mut version = plain.clone();
    version[ETHERNET] = 0x45;
    let mut jumbo = plain.clone();
    jumbo[18..20].fill(0);
    let mut short = plain.clone();
    short[18..20].copy_from_slice(&[0, 19]);
    vec![
        packet("IPv6 TCP", Reason::Ipv6Tcp, 74, plain),
        packet("IPv6 UDP", Reason::Ipv6Other, 54, udp),
        packet("IPv6 ping", Reason::Ipv6Icmp, 58, echo),
        packet("IPv6 error about an answer", Reason::Ipv6Icmp, 58, error_ipv6()),
        packet("IPv6 of version 4", Reason::Malformed, 22, version),
        packet("IPv6 without a length", Reason::Ipv6Tcp, 74, jumbo),
        packet("IPv6 that ends within TCP", Reason::Truncated, 74, short),
    ]
}

fn ipv6_extended() -> Vec<Packet> {
    let options = |bytes| Ipv6RawExtHeader::new_raw(IpNumber::TCP, &vec![1; bytes]).unwrap();
    let fragment = |offset, more| {
        let offset = IpFragOffset::try_new(offset).unwrap();
        let fragment = Ipv6FragmentHeader::new(IpNumber::TCP, offset, more, 9);
        Ipv6Extensions { fragment: Some(fragment), ..Ipv6Extensions::default() }
    };
    let every = Ipv6Extensions {
        hop_by_hop_options: Some(options(6)),
        destination_options: Some(options(14)),
        routing: Some(Ipv6RoutingExtensions {
            routing: options(22),
            final_destination_options: Some(options(6)),
        }),
        auth: Some(IpAuthHeader::new(IpNumber::TCP, 1, 1, &[7; 12]).unwrap()),
        ..fragment(0, true)
    };
    // Hop-by-hop 8, destination 16, routing 24, fragment 8, authentication 24, destination 8.
    let every_headers = 54 + 8 + 16 + 24 + 8 + 24 + 8 + 20;
    let longest =
        Ipv6Extensions { destination_options: Some(options(2046)), ..Ipv6Extensions::default() };
    vec![
        packet("IPv6 with every extension", Reason::Ipv6Tcp, every_headers, ipv6_tcp(every)),
        packet("IPv6 with 2 KiB of options", Reason::Ipv6Tcp, 54 + 2048 + 20, ipv6_tcp(longest)),
        packet("IPv6 first fragment", Reason::Ipv6Tcp, 82, ipv6_tcp(fragment(0, true))),
        packet("IPv6 later fragment", Reason::Ipv6Fragment, 62, ipv6_tcp(fragment(0x00ff, false))),
        packet(
            "IPv6 fragment far behind",
            Reason::Ipv6Fragment,
            62,
            ipv6_tcp(fragment(0x1f00, true)),
        ),
        packet("IPv6 with eight extensions", Reason::Ipv6Tcp, 54 + 8 * 8 + 20, chain(8)),
        packet("IPv6 with nine extensions", Reason::Ipv6ExtensionLimit, 54 + 9 * 8, chain(9)),
    ]
}

/// A TCP segment behind `count` headers of destination options, eight bytes each.
fn chain(count: usize) -> Vec<u8> {
    let plain = ipv6_tcp(Ipv6Extensions::default());
    let (headers, segment) = plain.split_at(54);
    let mut frame = headers.to_vec();
    for at in 1..=count {
        let next = if at == count { IpNumber::TCP } else { IpNumber::IPV6_DESTINATION_OPTIONS };
        frame.extend([next.0, 0, 1, 4, 0, 0, 0, 0]);
    }
    frame[20] = IpNumber::IPV6_DESTINATION_OPTIONS.0;
    let length = u16::try_from(segment.len() + count * 8).unwrap();
    frame[18..20].copy_from_slice(&length.to_be_bytes());
    frame.extend(segment);
    frame
}

fn neighbour_discovery() -> Vec<Packet> {
    let message = |kind, hop_limit| {
        let mut frame = Vec::new();
        let ip = ethernet().ipv6(SOURCE_V6, DESTINATION_V6, hop_limit);
        // A solicitation: reserved word, target address, source link-layer address.
        let body = [&DESTINATION_V6[..], &[1, 1, 2, 0, 0, 0, 0, 1]].concat();
        ip.icmpv6_raw(kind, 0, [0; 4]).write(&mut frame, &body).unwrap();
        frame
    };
    let discovery = Reason::Ipv6NeighbourDiscovery;
    vec![
        packet("router solicitation", discovery, 58, message(133, 255)),
        packet("neighbour solicitation", discovery, 58, message(135, 255)),
        packet("redirect", discovery, 58, message(137, 255)),
        packet("neighbour solicitation from afar", Reason::Ipv6Icmp, 58, message(135, 254)),
        packet("multicast listener report", Reason::Ipv6Icmp, 58, message(132, 255)),
    ]
}
