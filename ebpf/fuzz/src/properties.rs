//! What must hold of the rules for any bytes: each function takes a frame, and panics if it does
//! not.
//!
//! The oracle is etherparse, which shares no line with the rules. What it takes for TCP to a port
//! is what the rules must fence; what it refuses, the network stack may still take, so nothing
//! follows from a refusal.

use etherparse::{LinkExtSlice, NetSlice, SlicedPacket, TcpSlice, TransportSlice};
use pgx_abi::{Gate, Reason};
use pgx_rules::{
    Bytes, Direction, Facts, Fence, Link, Packed, Question, RESET_IPV4, RESET_IPV6, Reset, Segment,
    Subject, Transport, advertisement, arp_answer, decide, facts, facts_of_ip, link, plain,
    question, subject,
};

/// The port that is fenced; that of every TCP packet in the table.
const PORT: u16 = 5432;
/// The verifier takes no offset into a packet beyond this.
const OFFSET_MAX: usize = 0xffff;
const ETHERTYPE: usize = 12;
const RST: u8 = 0x04;
const OWN: [u8; 6] = [2, 0, 0, 0, 0, 9];

/// A frame that checks how it is read.
struct Watched<'a>(&'a [u8]);

impl Bytes for Watched<'_> {
    fn size(&self) -> usize {
        self.0.len()
    }

    fn array<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        assert!(offset <= OFFSET_MAX, "a read at {offset} would not pass the verifier");
        self.0.array(offset)
    }
}

/// Classification reads what is there, and what is behind the packet changes nothing; what was
/// found fits into the word that the kernel's programs hand it on in.
pub fn classify(frame: &[u8]) {
    let found = facts(&Watched(frame));
    assert_eq!(Packed::of(found).facts(&Watched(frame)), found);
    let found_of_ip = facts_of_ip(&Watched(frame));
    assert_eq!(Packed::of(found_of_ip).facts(&Watched(frame)), found_of_ip);
    if let Ok(Link::Ip(family, at)) = link(&Watched(frame)) {
        let usual = plain(&Watched(frame), family, at);
        assert!(usual.is_none_or(|usual| found == Ok(usual)), "{usual:?}, {found:?}");
    }
    if let Some(segment) = segment(found) {
        assert!(segment.ip < segment.at && segment.at + 20 <= segment.end, "{segment:?}");
        assert!(segment.at + 20 <= frame.len(), "a header that is not there: {segment:?}");
    }
    let reason = decide(found);
    if reason != decide(facts::<[u8]>(&[])) {
        let padded = [frame, &[0xa5; 64]].concat();
        assert_eq!(reason, decide(facts(&*padded)), "padding changed the verdict");
    }
    let is_beyond = matches!(
        found,
        Ok(Facts::Tagged | Facts::Ipv6(Transport::Unreached) | Facts::Ipv4(Transport::Unreached))
    );
    if let Some(tcp) = tcp_of(frame).filter(|_| !is_beyond) {
        let segment = segment(found).expect("etherparse reads TCP here");
        let ports = (segment.ports.source, segment.ports.destination);
        assert_eq!(ports, (tcp.source_port(), tcp.destination_port()));
    }
}

/// While the gate is shut, nothing of the port passes but resets without data, whatever the bytes.
pub fn fence(frame: &[u8]) {
    for direction in [Direction::In, Direction::Out] {
        let whose = subject(facts(&Watched(frame)), direction, PORT);
        let judge = |gate, is_peer| {
            let frame = Watched(frame);
            pgx_rules::fence(&frame, whose, direction, || gate, |_| is_peer, |_| false)
        };
        if let Some(tcp) = tcp_of(frame) {
            let is_ours = match direction {
                Direction::In => tcp.destination_port() == PORT,
                Direction::Out => tcp.source_port() == PORT,
            };
            let is_seen = matches!(whose, Subject::Local(_));
            // Behind more headers than are walked nothing is read, and so nothing passes.
            let is_kept = is_seen || whose == Subject::Unreadable;
            assert!(if is_ours { is_kept } else { !is_seen }, "{whose:?}");
        }
        let is_others = matches!(whose, Subject::Other | Subject::Remote(_));
        for (gate, is_peer) in [(Gate::Shut, false), (Gate::Shut, true), (Gate::Peers, false)] {
            match judge(gate, is_peer) {
                Fence::Ignore => assert!(is_others, "{whose:?} was not judged"),
                Fence::Pass(reason) => {
                    assert_eq!(reason, Reason::FenceResetPassed);
                    let Subject::Local(segment) = whose else { panic!("{whose:?} passed") };
                    assert!(flags(frame, &segment) & RST != 0, "passed, and is no reset");
                    assert_eq!(payload(frame, &segment), 0, "a reset took data along");
                }
                Fence::Reset(segment) => {
                    assert_eq!(direction, Direction::In, "a reset in answer to ourselves");
                    assert_eq!(flags(frame, &segment) & RST, 0, "a reset for a reset");
                }
                Fence::Refuse(_) => panic!("{whose:?}, and no backend is fenced"),
                Fence::Drop(_) => assert!(!is_others, "{whose:?} was dropped"),
            }
        }
        // What pgx tries the fence out with never passes.
        let is_probe = whose == Subject::Probe;
        let open = judge(Gate::Open, false);
        let passes = matches!(open, Fence::Ignore | Fence::Pass(Reason::FenceOpen));
        let is_dropped = open == Fence::Drop(Reason::FenceProbe);
        assert!(if is_probe { is_dropped } else { passes }, "{open:?}");
    }
}

/// A reset that is sent is one that its receiver reads and believes, and never longer than what it
/// answers.
pub fn reset(frame: &[u8]) {
    let Some(asked) = segment(facts(&Watched(frame))) else { return };
    let whose = subject(facts(&Watched(frame)), Direction::In, asked.ports.destination);
    let shut = || Gate::Shut;
    let judged = fence_in(frame, whose, shut);
    let Fence::Reset(segment) = judged else { return };
    let answer = pgx_rules::reset(&Watched(frame), &segment).expect("a header that was read");
    let room = frame.len() - segment.ip;
    let (bytes, v6) = match &answer {
        Reset::Ipv4(bytes) => (&bytes[..], false),
        Reset::Ipv6(bytes) => (&bytes[..], true),
    };
    assert_eq!(bytes.len(), if v6 { RESET_IPV6 } else { RESET_IPV4 });
    assert!(bytes.len() <= room, "{} bytes do not fit into {room}", bytes.len());
    let sliced = SlicedPacket::from_ip(bytes).expect("readable");
    let Some(TransportSlice::Tcp(tcp)) = &sliced.transport else { panic!("{sliced:?}") };
    assert!(tcp.rst() && !tcp.syn() && !tcp.fin() && !tcp.psh() && tcp.payload().is_empty());
    let ports = (tcp.destination_port(), tcp.source_port());
    assert_eq!(ports, (segment.ports.source, segment.ports.destination));
    check_sums(&sliced, tcp);
    let pair = |at: usize| frame.get(segment.ip + at..).unwrap_or_default();
    let (at, length) = if v6 { (8, 16) } else { (12, 4) };
    assert_eq!(bytes[at..at + length], pair(at + length)[..length], "not from who was asked");
    assert_eq!(bytes[at + length..at + 2 * length], pair(at)[..length], "not to who asked");
    check_number(frame, &segment, tcp);
}

/// Questions are those that another parser sees too, and answers are read by it.
pub fn neighbour(frame: &[u8]) {
    let asked = question(&Watched(frame));
    if let Ok(SlicedPacket { net: Some(NetSlice::Arp(arp)), link_exts, .. }) =
        SlicedPacket::from_ethernet(frame)
        && link_exts.is_empty()
        && let Ok(arp) = etherparse::ArpEthIpv4Packet::try_from(arp.to_packet())
    {
        let is_request = arp.operation == etherparse::ArpOperation::REQUEST;
        let is_question = is_request && arp.sender_ipv4 != arp.target_ipv4;
        assert_eq!(is_question, asked.is_some(), "{arp:?}");
    }
    match asked {
        None => {}
        Some(Question::Arp { target, asker, link }) => {
            let answer = arp_answer(target, asker, link, OWN);
            assert!(answer.len() <= frame.len(), "longer than the question");
            let sliced = SlicedPacket::from_ethernet(&answer).expect("readable");
            let Some(NetSlice::Arp(arp)) = sliced.net else { panic!("{sliced:?}") };
            assert_eq!((arp.sender_protocol_addr(), arp.sender_hw_addr()), (&target[..], &OWN[..]));
            assert_eq!((arp.target_protocol_addr(), arp.target_hw_addr()), (&asker[..], &link[..]));
        }
        Some(Question::Solicitation { target, asker, link }) => {
            assert_ne!(target[0], 0xff, "an answer for a group");
            let answer = advertisement(target, asker, link, OWN);
            let sliced = SlicedPacket::from_ethernet(&answer).expect("readable");
            let Some(NetSlice::Ipv6(ip)) = &sliced.net else { panic!("{sliced:?}") };
            let (source, destination) = (ip.header().source(), ip.header().destination());
            let Some(TransportSlice::Icmpv6(icmp)) = &sliced.transport else { panic!() };
            assert!(icmp.is_checksum_valid(source, destination), "{sliced:?}");
            assert_eq!(source, target);
            assert_eq!(asker == [0; 16], destination[0] == 0xff && destination != asker);
        }
    }
}

fn fence_in(frame: &[u8], whose: Subject, gate: impl FnOnce() -> Gate) -> Fence {
    pgx_rules::fence(&Watched(frame), whose, Direction::In, gate, |_| false, |_| false)
}

fn segment(found: Result<Facts, pgx_rules::Flaw>) -> Option<Segment> {
    match found {
        Ok(Facts::Ipv4(Transport::Tcp(segment)) | Facts::Ipv6(Transport::Tcp(segment))) => {
            Some(segment)
        }
        _ => None,
    }
}

/// The TCP segment that etherparse sees where Linux looks: behind tags of the two kinds that its
/// stack takes off, not behind those of a vendor (0x9100) and not in MACsec's.
fn tcp_of(frame: &[u8]) -> Option<TcpSlice<'_>> {
    let sliced = SlicedPacket::from_ethernet(frame).ok()?;
    let is_read = |(at, tag): (usize, &LinkExtSlice<'_>)| {
        let named = frame.get(ETHERTYPE + at * 4..)?.first_chunk()?;
        let is_known = matches!(named, [0x81, 0x00] | [0x88, 0xa8]);
        (is_known && matches!(tag, LinkExtSlice::Vlan(_))).then_some(())
    };
    sliced.link_exts.iter().enumerate().try_for_each(|each| is_read(each).ok_or(())).ok()?;
    let TransportSlice::Tcp(tcp) = sliced.transport? else { return None };
    Some(tcp)
}

fn flags(frame: &[u8], segment: &Segment) -> u8 {
    frame[segment.at + 13]
}

fn payload(frame: &[u8], segment: &Segment) -> usize {
    let header = usize::from(frame[segment.at + 12] >> 4) * 4;
    (segment.end - segment.at).saturating_sub(header)
}

/// The checksums of an answer, by the oracle.
fn check_sums(sliced: &SlicedPacket<'_>, tcp: &TcpSlice<'_>) {
    let expected = match &sliced.net {
        Some(NetSlice::Ipv4(ip)) => {
            let header = ip.header().to_header();
            assert_eq!(header.header_checksum, header.calc_header_checksum());
            tcp.calc_checksum_ipv4(header.source, header.destination)
        }
        Some(NetSlice::Ipv6(ip)) => {
            tcp.calc_checksum_ipv6(ip.header().source(), ip.header().destination())
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(Ok(tcp.checksum()), expected.map_err(|_| ()));
}

/// RFC 9293, section 3.5.2: the number that the other side expects next.
fn check_number(frame: &[u8], segment: &Segment, answer: &TcpSlice<'_>) {
    let asked: [u8; 20] = frame[segment.at..segment.at + 20].try_into().expect("20 bytes");
    let word = |at: usize| u32::from_be_bytes(asked[at..at + 4].try_into().expect("4 bytes"));
    let has = |bit: u8| asked[13] & bit != 0;
    if has(0x10) {
        assert_eq!((answer.sequence_number(), answer.ack()), (word(8), false));
    } else {
        let occupied = payload(frame, segment) + usize::from(has(0x02)) + usize::from(has(0x01));
        let next = word(4).wrapping_add(u32::try_from(occupied).expect("16 bits of length"));
        assert_eq!((answer.sequence_number(), answer.acknowledgment_number()), (0, next));
        assert!(answer.ack());
    }
}
