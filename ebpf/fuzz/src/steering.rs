//! What must hold of steering for any bytes: whose flow a packet is of, and where it goes.
//!
//! The oracle for flows is etherparse, as in `properties`; that for ways is to follow them.

use core::cmp::Ordering;

use etherparse::{Ipv4Slice, NetSlice, SlicedPacket, TransportSlice};
use pgx_abi::FlowKey;
use pgx_rules::{
    Choice, Heading, Hops, Kind, Limit, PackedHeading, Server, Steer, direct, facts, hash, hash_of,
    heading, hop_limit, set_hop_limit, steer,
};

/// How often a packet may be sent on, whatever the tables.
const SENT_MAX: usize = 2;
const OTHER: [u8; 6] = [2, 0, 0, 0, 0, 0x22];
const OWN: [u8; 6] = [2, 0, 0, 0, 0, 9];

/// A packet is of the flow that another parser sees, fits into its word, and is sent on twice at
/// most; a reset answers no reset.
pub fn steering(frame: &[u8]) {
    let Some(found) = heading(frame, facts(frame)) else { return };
    compare(frame, &found);
    let (kind, ip) = PackedHeading::of(found.kind, found.ip).of_flow(&found.flow).expect("a flow");
    assert_eq!((without_end(kind), ip), (without_end(found.kind), found.ip));
    check_hash(&found.flow);
    for owner in servers() {
        for previous in servers() {
            for has_socket in [false, true] {
                let choice = Choice { owner, previous };
                follow(frame, &found, |hops| steer(found.kind, hops, choice, || has_socket));
                for (is_open, begun) in [(false, None), (true, Some(Ordering::Less))] {
                    follow(frame, &found, |hops| {
                        let (kind, yes) = (found.kind, has_socket);
                        let judged = direct(kind, hops, owner, begun, || is_open, || yes);
                        check_direct(&found, is_open, begun, judged);
                        judged
                    });
                }
            }
        }
    }
}

fn servers() -> [Option<Server>; 3] {
    let server = |link, is_local| Some(Server { link, is_local });
    [None, server(OWN, true), server(OTHER, false)]
}

/// The end of a segment is not asked for once it is known whose it is.
fn without_end(kind: Kind) -> Kind {
    let cut = |mut segment: pgx_rules::Segment| {
        segment.end = segment.at;
        segment
    };
    match kind {
        Kind::Opening(segment) => Kind::Opening(cut(segment)),
        Kind::Going(segment) => Kind::Going(cut(segment)),
        Kind::Ending(segment) => Kind::Ending(cut(segment)),
        Kind::Error => Kind::Error,
    }
}

fn check_hash(flow: &FlowKey) {
    let words = [&flow.client[..8], &flow.client[8..], &flow.vip[..8], &flow.vip[8..]];
    let words = words.map(|word| u64::from_be_bytes(word.try_into().expect("8 bytes")));
    assert_eq!(hash(flow), hash_of(words, flow.client_port, flow.port));
}

/// What the oracle takes for a segment is of the flow that it reads, and is what its flags say.
fn compare(frame: &[u8], found: &Heading) {
    let Ok(SlicedPacket { net: Some(net), transport: Some(TransportSlice::Tcp(tcp)), .. }) =
        SlicedPacket::from_ethernet(frame)
    else {
        return;
    };
    let mapped = |[a, b, c, d]: [u8; 4]| [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d];
    let (client, vip) = match net {
        NetSlice::Ipv4(ip) => (mapped(ip.header().source()), mapped(ip.header().destination())),
        NetSlice::Ipv6(ip) => (ip.header().source(), ip.header().destination()),
        NetSlice::Arp(_) => return,
    };
    let (client_port, port) = (tcp.source_port(), tcp.destination_port());
    assert_eq!(found.flow, FlowKey { client, vip, client_port, port });
    match found.kind {
        Kind::Ending(_) => assert!(tcp.rst()),
        Kind::Opening(_) => assert!(tcp.syn() && !tcp.ack() && !tcp.rst()),
        Kind::Going(_) => assert!(!tcp.rst() && (tcp.ack() || !tcp.syn())),
        Kind::Error => panic!("a segment is no error"),
    }
}

/// Sends the packet on as long as hosts that all judge alike do, none of which knows the others.
fn follow(frame: &[u8], found: &Heading, judge: impl Fn(Hops) -> Steer) {
    let mut frame = frame.to_vec();
    let mut sent = 0;
    loop {
        let limit = hop_limit(&*frame, found.ip).expect("an IP header");
        let Steer::Send { to, limit: onward, .. } = judge(Hops::of(limit, false)) else { return };
        sent += 1;
        assert!(sent <= SENT_MAX, "sent on {sent} times");
        assert_eq!(to, OTHER, "sent to itself");
        assert!(onward < limit, "from {limit} to {onward}");
        let before = checksum_of(&frame, found.ip);
        match set_hop_limit(&*frame, found.ip, onward).expect("an IP header") {
            Limit::Ipv4(at, bytes) => frame[at..at + 4].copy_from_slice(&bytes),
            Limit::Ipv6(at, bytes) => frame[at..at + 1].copy_from_slice(&bytes),
        }
        assert_eq!(hop_limit(&*frame, found.ip), Some(onward));
        let after = checksum_of(&frame, found.ip);
        assert!(before != Some(true) || after == Some(true), "the checksum broke");
    }
}

/// Whether IPv4's checksum is right; `None` for what is not IPv4, or not to the oracle.
fn checksum_of(frame: &[u8], ip: usize) -> Option<bool> {
    let packet = Ipv4Slice::from_slice(frame.get(ip..)?).ok()?;
    let header = packet.header().to_header();
    // Zero and its complement are the same number; only one of them is ever written.
    let is_usual = header.header_checksum != 0xffff;
    is_usual.then(|| header.header_checksum == header.calc_header_checksum())
}

/// Nothing of a direct service stays on a host that is shut, but what the stack is to answer.
fn check_direct(found: &Heading, is_open: bool, begun: Option<Ordering>, judged: Steer) {
    if matches!(judged, Steer::Reset(_)) {
        let is_answered = matches!(found.kind, Kind::Opening(_) | Kind::Going(_));
        assert!(is_answered, "a reset in answer to {:?}", found.kind);
    }
    if matches!(judged, Steer::Pass(_)) {
        assert!(is_open || begun.is_some(), "{judged:?} on a host that is shut");
    }
}
