//! The rules on the host: every packet of the table, whole, cut at each byte, and damaged.

mod packets;

use etherparse::{SlicedPacket, TransportSlice};
use packets::{DESTINATION_PORT, SOURCE_PORT};
use pgx_abi::Reason;
use pgx_rules::{Facts, Ports, Transport, Verdict, decide, facts};

fn reason(frame: &[u8]) -> Reason {
    let Verdict::Pass(reason) = decide(facts(frame));
    reason
}

fn ports(frame: &[u8]) -> Option<Ports> {
    match facts(frame) {
        Ok(Facts::Ipv4(Transport::Tcp(segment)) | Facts::Ipv6(Transport::Tcp(segment))) => {
            Some(segment.ports)
        }
        _ => None,
    }
}

#[test]
fn each_packet_gets_its_reason() {
    for packet in packets::all() {
        assert_eq!(reason(&packet.frame), packet.reason, "{}", packet.name);
    }
}

#[test]
fn every_reason_has_a_packet() {
    let packets = packets::all();
    // Those of the fence are not of this table.
    for wanted in Reason::ALL.iter().take_while(|reason| **reason < Reason::FenceOpen) {
        let found = packets.iter().any(|packet| packet.reason == *wanted);
        assert!(found, "no packet is counted as {}", wanted.name());
    }
}

#[test]
fn ports_are_found_behind_options_and_extension_headers() {
    let expected = Some(Ports { source: SOURCE_PORT, destination: DESTINATION_PORT });
    for packet in packets::all() {
        if matches!(packet.reason, Reason::Ipv4Tcp | Reason::Ipv6Tcp) {
            assert_eq!(ports(&packet.frame), expected, "{}", packet.name);
        }
    }
}

#[test]
fn a_packet_cut_within_its_headers_is_truncated_and_behind_them_is_not() {
    for packet in packets::all() {
        for length in 0..=packet.frame.len() {
            let expected = if length < packet.headers { Reason::Truncated } else { packet.reason };
            let found = reason(&packet.frame[..length]);
            assert_eq!(found, expected, "{}, cut to {length} bytes", packet.name);
        }
    }
}

/// The library takes IPv4's authentication header for a part of the IP header; to us it is a
/// protocol of its own.
fn is_ipv4_authentication(frame: &[u8]) -> bool {
    frame[12..14] == [8, 0] && frame[23] == 51
}

#[test]
fn a_damaged_packet_is_never_taken_for_other_ports_than_a_library_reads() {
    let mut agreed = 0;
    // The library walks on where we give up.
    let is_walked = |packet: &packets::Packet| packet.reason != Reason::Ipv6ExtensionLimit;
    for packet in packets::all().into_iter().filter(is_walked) {
        let mut frame = packet.frame.clone();
        for at in 0..frame.len().min(packet.headers + 1) {
            let original = frame[at];
            for value in 0..=u8::MAX {
                frame[at] = value;
                let found = ports(&frame);
                let Ok(SlicedPacket {
                    transport: Some(TransportSlice::Tcp(tcp)), link_exts, ..
                }) = SlicedPacket::from_ethernet(&frame)
                else {
                    continue;
                };
                if !link_exts.is_empty() || is_ipv4_authentication(&frame) {
                    continue;
                }
                let expected =
                    Ports { source: tcp.source_port(), destination: tcp.destination_port() };
                assert_eq!(found, Some(expected), "{}, byte {at} = {value}", packet.name);
                agreed += 1;
            }
            frame[at] = original;
        }
    }
    assert!(agreed > 10_000, "the library read ports in only {agreed} packets");
}
