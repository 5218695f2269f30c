//! The fence on the host: who gets in by which lease, and what the answer to the others looks like.

#[path = "../classify/packets.rs"]
#[expect(dead_code, reason = "the table is shared, its port constants are not all used here")]
mod packets;

use etherparse::{PacketBuilder, SlicedPacket, TransportSlice};
use pgx_abi::{Gate, LeaseWord, PROBE_IN, PROBE_OUT, PROBE_PORT, Reason};
use pgx_rules::{
    Address, Direction, Facts, Fence, Lease, Reset, Subject, Transport, facts, facts_of_ip, fence,
    is_socket_probe, reset, subject,
};

const PORT: u16 = 5432;
const CLIENT: [u8; 4] = [192, 0, 2, 1];
const SERVER: [u8; 4] = [192, 0, 2, 2];
const CLIENT_V6: [u8; 16] = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
const SERVER_V6: [u8; 16] = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];

const MS: u64 = 1_000_000;

fn word(epoch: u64, deadline_ms: u64, gate: Gate) -> LeaseWord {
    LeaseWord::new(epoch, deadline_ms * MS, gate).unwrap()
}

/// A segment, told by its flags: the letters of S, A, F, R.
fn segment(v6: bool, direction: Direction, flags: &str, payload: &[u8]) -> Vec<u8> {
    let link = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
    let inwards = direction == Direction::In;
    let ip = if v6 {
        let (from, to) = if inwards { (CLIENT_V6, SERVER_V6) } else { (SERVER_V6, CLIENT_V6) };
        link.ipv6(from, to, 64)
    } else {
        let (from, to) = if inwards { (CLIENT, SERVER) } else { (SERVER, CLIENT) };
        link.ipv4(from, to, 64)
    };
    let (source, destination) = if inwards { (40_000, PORT) } else { (PORT, 40_000) };
    let mut tcp = ip.tcp(source, destination, u32::MAX - 3, 512);
    for flag in flags.chars() {
        tcp = match flag {
            'S' => tcp.syn(),
            'A' => tcp.ack(0x0102_0304),
            'F' => tcp.fin(),
            'R' => tcp.rst(),
            other => panic!("{other} is no flag"),
        };
    }
    let mut frame = Vec::new();
    tcp.write(&mut frame, payload).unwrap();
    frame
}

fn judge(frame: &[u8], direction: Direction, gate: Gate) -> Fence {
    let found = subject(facts(frame), direction, PORT);
    fence(frame, found, direction, || gate, |_| false, |_| false)
}

#[test]
fn gate_is_open_only_before_the_deadline_in_an_epoch_that_was_not_closed() {
    let lease = Lease { primary: word(7, 100, Gate::Open), ..Lease::default() };
    assert_eq!(lease.gate(|| 100 * MS - 1), Gate::Open);
    assert_eq!(lease.gate(|| 100 * MS), Gate::Shut, "the deadline itself is too late");
    assert_eq!(Lease { floor: 7, ..lease }.gate(|| 0), Gate::Open);
    assert_eq!(Lease { floor: 8, ..lease }.gate(|| 0), Gate::Shut, "a late thread opens nothing");
    assert_eq!(Lease { operator: 8, ..lease }.gate(|| 0), Gate::Shut);
    assert_eq!(Lease::default().gate(|| 0), Gate::Shut, "nobody has written anything");
}

#[test]
fn each_role_opens_by_its_own_lease_as_far_as_that_goes() {
    let peers = word(7, 100, Gate::Peers);
    let lease = Lease { primary: peers, member: word(7, 50, Gate::Open), ..Lease::default() };
    assert_eq!(lease.gate(|| 49 * MS), Gate::Open);
    assert_eq!(lease.gate(|| 50 * MS), Gate::Peers);
    assert_eq!(lease.gate(|| 100 * MS), Gate::Shut);
}

#[test]
fn open_gate_lets_all_pass_both_ways() {
    for v6 in [false, true] {
        for direction in [Direction::In, Direction::Out] {
            for flags in ["S", "A", "FA", "R", "SA"] {
                let frame = segment(v6, direction, flags, b"SELECT");
                let found = judge(&frame, direction, Gate::Open);
                assert_eq!(found, Fence::Pass(Reason::FenceOpen), "{v6} {direction:?} {flags}");
            }
        }
    }
}

#[test]
fn shut_gate_answers_who_comes_and_lets_no_data_out() {
    for v6 in [false, true] {
        for flags in ["S", "A", "FA", "SA", ""] {
            let frame = segment(v6, Direction::In, flags, b"SELECT");
            let found = judge(&frame, Direction::In, Gate::Shut);
            assert!(matches!(found, Fence::Reset(_)), "{v6} {flags}: {found:?}");
            let frame = segment(v6, Direction::Out, flags, b"row");
            let found = judge(&frame, Direction::Out, Gate::Shut);
            assert_eq!(found, Fence::Drop(Reason::FenceDropOut), "{v6} {flags}");
        }
        for direction in [Direction::In, Direction::Out] {
            for flags in ["R", "RA"] {
                let frame = segment(v6, direction, flags, b"");
                let found = judge(&frame, direction, Gate::Shut);
                assert_eq!(found, Fence::Pass(Reason::FenceResetPassed), "never answered");
                let frame = segment(v6, direction, flags, b"data");
                let found = judge(&frame, direction, Gate::Shut);
                assert!(matches!(found, Fence::Drop(_)), "a reset is no way out for data");
            }
        }
    }
}

#[test]
fn gate_for_peers_lets_those_pass_and_nobody_else() {
    let peer_v4: Address = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 192, 0, 2, 1];
    for (v6, peer) in [(false, peer_v4), (true, CLIENT_V6)] {
        for direction in [Direction::In, Direction::Out] {
            let frame = segment(v6, direction, "A", b"WAL");
            let found = subject(facts(&*frame), direction, PORT);
            let judged = |is_peer: bool| {
                let asked = |address: &Address| {
                    assert_eq!(*address, peer);
                    is_peer
                };
                fence(&*frame, found, direction, || Gate::Peers, asked, |_| false)
            };
            assert_eq!(judged(true), Fence::Pass(Reason::FencePeer));
            assert!(!matches!(judged(false), Fence::Pass(_) | Fence::Ignore));
        }
    }
}

#[test]
fn what_is_certainly_none_of_postgresqls_is_not_even_asked_for() {
    for packet in packets::all() {
        let frame = &*packet.frame;
        // The table's segments go to 5432; seen from another port they are foreign.
        let found = subject(facts(frame), Direction::In, 22);
        if found == Subject::Unreadable {
            continue;
        }
        let judged = fence(frame, found, Direction::In, || panic!("asked"), |_| true, |_| true);
        assert_eq!(judged, Fence::Ignore, "{}", packet.name);
    }
}

#[test]
fn what_may_be_tcp_and_cannot_be_read_is_dropped_unless_the_gate_is_open() {
    let mut unreadable = 0;
    for packet in packets::all() {
        let frame = &*packet.frame;
        let is_unreadable = matches!(
            packet.reason,
            Reason::Ipv4Fragment
                | Reason::Ipv6Fragment
                | Reason::Ipv6ExtensionLimit
                | Reason::Truncated
                | Reason::VlanTagged
        );
        let is_tcp = matches!(packet.reason, Reason::Ipv4Tcp | Reason::Ipv6Tcp);
        for (direction, gate) in [(Direction::In, Gate::Shut), (Direction::Out, Gate::Peers)] {
            let found = judge(frame, direction, gate);
            if is_unreadable {
                assert_eq!(found, Fence::Drop(Reason::FenceUnreadable), "{}", packet.name);
                unreadable += 1;
            } else if !is_tcp {
                assert_eq!(found, Fence::Ignore, "{}", packet.name);
            }
        }
        if is_unreadable {
            assert_eq!(judge(frame, Direction::In, Gate::Open), Fence::Ignore);
        }
    }
    assert!(unreadable > 10, "{unreadable}");
}

#[test]
fn tcp_is_found_however_it_is_cut_and_never_passes_a_shut_gate() {
    for packet in packets::all() {
        if !matches!(packet.reason, Reason::Ipv4Tcp | Reason::Ipv6Tcp) {
            continue;
        }
        for length in 14..packet.frame.len() {
            let found = judge(&packet.frame[..length], Direction::In, Gate::Shut);
            assert!(matches!(found, Fence::Reset(_) | Fence::Drop(_)), "{} {length}", packet.name);
        }
    }
}

#[test]
fn backend_that_is_fenced_elsewhere_is_neither_heard_nor_spoken_to() {
    for v6 in [false, true] {
        // Seen from a proxy: what the backend sends comes in with its port as the source.
        for (direction, frame) in [
            (Direction::In, segment(v6, Direction::Out, "A", b"row")),
            (Direction::Out, segment(v6, Direction::In, "A", b"SELECT")),
        ] {
            let found = subject(facts(&*frame), direction, PORT);
            assert!(matches!(found, Subject::Remote(_)), "{found:?}");
            let judged = |is_fenced| {
                fence(&*frame, found, direction, || Gate::Shut, |_| false, |_| is_fenced)
            };
            match direction {
                Direction::In => assert_eq!(judged(true), Fence::Drop(Reason::FencedBackend)),
                Direction::Out => assert!(matches!(judged(true), Fence::Refuse(_))),
            }
            assert_eq!(judged(false), Fence::Ignore, "the local gate is no matter for it");
        }
    }
}

#[test]
fn resets_alone_pass_between_a_host_and_a_fenced_backend() {
    for v6 in [false, true] {
        for (direction, seen) in [(Direction::In, Direction::Out), (Direction::Out, Direction::In)]
        {
            for (payload, expected) in [
                (&b""[..], Fence::Pass(Reason::FencedResetPassed)),
                (b"row", Fence::Drop(Reason::FencedBackend)),
            ] {
                let frame = segment(v6, seen, "R", payload);
                let found = subject(facts(&*frame), direction, PORT);
                let judged = fence(&*frame, found, direction, || Gate::Shut, |_| false, |_| true);
                assert_eq!(judged, expected, "{direction:?}");
            }
        }
    }
}

/// The answer, as a frame of its own.
fn answered(frame: &[u8]) -> Vec<u8> {
    let Fence::Reset(segment) = judge(frame, Direction::In, Gate::Shut) else { panic!("no reset") };
    let link = &frame[..segment.ip];
    match reset(frame, &segment).unwrap() {
        Reset::Ipv4(bytes) => [link, &bytes].concat(),
        Reset::Ipv6(bytes) => [link, &bytes].concat(),
    }
}

#[test]
fn answer_is_a_reset_that_its_receiver_believes() {
    for v6 in [false, true] {
        for (flags, payload, sequence, acknowledged) in [
            ("A", 6, 0x0102_0304, None),
            ("FA", 0, 0x0102_0304, None),
            ("SA", 0, 0x0102_0304, None),
            // One for the SYN, one for the FIN; the sequence number wraps.
            ("S", 0, 0, Some(u32::MAX - 2)),
            ("SF", 6, 0, Some(4)),
            ("", 6, 0, Some(2)),
        ] {
            let frame = segment(v6, Direction::In, flags, &vec![7; payload]);
            let answer = answered(&frame);
            assert!(answer.len() <= frame.len(), "it must fit into what came");
            let sliced = SlicedPacket::from_ethernet(&answer).unwrap();
            let Some(TransportSlice::Tcp(tcp)) = &sliced.transport else { panic!("{sliced:?}") };
            assert_eq!((tcp.source_port(), tcp.destination_port()), (PORT, 40_000));
            assert!(tcp.rst() && !tcp.syn() && !tcp.fin() && tcp.payload().is_empty());
            assert_eq!(tcp.sequence_number(), sequence, "{v6} {flags}");
            assert_eq!(tcp.ack().then(|| tcp.acknowledgment_number()), acknowledged, "{flags}");
            check_ip(&sliced, tcp);
        }
    }
}

fn check_ip(sliced: &SlicedPacket<'_>, tcp: &etherparse::TcpSlice<'_>) {
    use etherparse::NetSlice;
    match sliced.net.as_ref().unwrap() {
        NetSlice::Ipv4(ip) => {
            let header = ip.header();
            assert_eq!((header.source(), header.destination()), (SERVER, CLIENT));
            assert_eq!(header.header_checksum(), header.to_header().calc_header_checksum());
            let expected = tcp.calc_checksum_ipv4(SERVER, CLIENT).unwrap();
            assert_eq!(tcp.checksum(), expected);
        }
        NetSlice::Ipv6(ip) => {
            let header = ip.header();
            assert_eq!((header.source(), header.destination()), (SERVER_V6, CLIENT_V6));
            assert_eq!(tcp.checksum(), tcp.calc_checksum_ipv6(SERVER_V6, CLIENT_V6).unwrap());
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn packet_without_a_link_header_is_read_like_one_behind_it() {
    for packet in packets::all() {
        let frame = &*packet.frame;
        let is_ip = frame[12..14] == [8, 0] || frame[12..14] == [0x86, 0xdd];
        if !is_ip {
            continue;
        }
        let moved = |found: Facts| match found {
            Facts::Ipv4(Transport::Tcp(at)) | Facts::Ipv6(Transport::Tcp(at)) => Some(at.ports),
            _ => None,
        };
        let (with, without) = (facts(frame).ok(), facts_of_ip(&frame[14..]).ok());
        assert_eq!(with.and_then(moved), without.and_then(moved), "{}", packet.name);
    }
}

/// A small generator: the same packets each time.
fn random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

#[test]
fn no_bytes_make_the_rules_panic_or_pass_postgresqls_data_out_of_a_shut_gate() {
    let table = packets::all();
    let mut seed = 0x5eed_u64;
    for round in 0..200_000_usize {
        let mut frame = table[round % table.len()].frame.clone();
        frame.truncate(14 + usize::try_from(random(&mut seed) % 120).unwrap());
        for _ in 0..random(&mut seed) % 6 {
            let at = usize::try_from(random(&mut seed)).unwrap_or(0) % frame.len();
            frame[at] = random(&mut seed).to_le_bytes()[0];
        }
        for direction in [Direction::In, Direction::Out] {
            let judged = judge(&frame, direction, Gate::Shut);
            if let Fence::Reset(segment) = judged {
                let _ = reset(&*frame, &segment);
            }
            let Ok(SlicedPacket { transport: Some(TransportSlice::Tcp(tcp)), .. }) =
                SlicedPacket::from_ethernet(&frame)
            else {
                continue;
            };
            let is_local = direction == Direction::Out && tcp.source_port() == PORT;
            if is_local && !tcp.payload().is_empty() && frame[14] >> 4 != 0 {
                let passes = matches!(judged, Fence::Ignore | Fence::Pass(_));
                assert!(!passes, "{frame:02x?}: {judged:?}");
            }
        }
    }
}

/// A reset without data, from the port that only probes come from.
fn probe(to: u16) -> Vec<u8> {
    let ip = PacketBuilder::ethernet2([2; 6], [2; 6]).ipv4(CLIENT, SERVER, 64);
    let mut frame = Vec::new();
    ip.tcp(PROBE_PORT, to, 0, 0).rst().write(&mut frame, &[]).unwrap();
    frame
}

#[test]
fn probes_end_at_the_program_that_is_meant_and_reach_it_whatever_the_gate() {
    for gate in [Gate::Shut, Gate::Peers, Gate::Open] {
        let dropped = Fence::Drop(Reason::FenceProbe);
        assert_eq!(judge(&probe(PROBE_OUT), Direction::Out, gate), dropped);
        assert_eq!(judge(&probe(PROBE_OUT), Direction::In, gate), Fence::Ignore);
        assert_eq!(judge(&probe(PROBE_IN), Direction::Out, gate), Fence::Ignore);
        assert_eq!(judge(&probe(PROBE_IN), Direction::In, gate), dropped);
        assert_eq!(judge(&probe(PORT), Direction::Out, gate), Fence::Ignore);
        let passed = judge(&probe(PORT), Direction::In, gate);
        assert!(matches!(passed, Fence::Pass(_)), "the cgroup's program never sees it: {passed:?}");
    }
    let whose = subject(facts(&*probe(PORT)), Direction::In, PORT);
    assert!(is_socket_probe(whose));
    let client = segment(false, Direction::In, "R", &[]);
    assert!(!is_socket_probe(subject(facts(&*client), Direction::In, PORT)));
}
