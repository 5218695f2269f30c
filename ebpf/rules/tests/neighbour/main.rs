//! Who has this address? The questions that are understood, and answers that another library reads.

#[path = "../classify/packets.rs"]
#[expect(dead_code, reason = "the table is shared, its port constants are not all used here")]
mod packets;

use etherparse::{
    ArpHardwareId, ArpOperation, ArpPacket, EtherType, NetSlice, PacketBuilder, SlicedPacket,
    TransportSlice,
};
use pgx_rules::{Question, advertisement, arp_answer, question};

const OWN: [u8; 6] = [2, 0, 0, 0, 0, 9];
const ASKER_LINK: [u8; 6] = [2, 0, 0, 0, 0, 1];
const ASKER: [u8; 4] = [192, 0, 2, 1];
const VIP: [u8; 4] = [192, 0, 2, 100];
const ASKER_V6: [u8; 16] = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
const VIP_V6: [u8; 16] = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0];

fn arp(operation: ArpOperation, asker: [u8; 4], target: [u8; 4]) -> Vec<u8> {
    let packet = ArpPacket::new(
        ArpHardwareId::ETHERNET,
        EtherType::IPV4,
        operation,
        &ASKER_LINK,
        &asker,
        &[0; 6],
        &target,
    );
    let mut frame = Vec::new();
    let link = PacketBuilder::ethernet2(ASKER_LINK, [0xff; 6]);
    link.arp(packet.unwrap()).write(&mut frame).unwrap();
    frame
}

fn solicitation(asker: [u8; 16], hops: u8, kind: u8) -> Vec<u8> {
    let group = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0, 1, 0];
    let link = PacketBuilder::ethernet2(ASKER_LINK, [0x33, 0x33, 0xff, 0, 1, 0]);
    let mut frame = Vec::new();
    let ip = link.ipv6(asker, group, hops);
    ip.icmpv6_raw(kind, 0, [0; 4]).write(&mut frame, &VIP_V6).unwrap();
    frame
}

#[test]
fn request_for_an_address_is_understood_with_who_asks() {
    let asked = question(&*arp(ArpOperation::REQUEST, ASKER, VIP));
    assert_eq!(asked, Some(Question::Arp { target: VIP, asker: ASKER, link: ASKER_LINK }));
    let asked = question(&*solicitation(ASKER_V6, 255, 135));
    let expected = Question::Solicitation { target: VIP_V6, asker: ASKER_V6, link: ASKER_LINK };
    assert_eq!(asked, Some(expected));
}

#[test]
fn what_tells_or_comes_from_afar_is_no_question() {
    for frame in [
        arp(ArpOperation::REPLY, ASKER, VIP),
        arp(ArpOperation::REQUEST, VIP, VIP),
        solicitation(ASKER_V6, 254, 135),
        solicitation(ASKER_V6, 255, 136),
    ] {
        assert_eq!(question(&*frame), None, "{frame:02x?}");
    }
}

#[test]
fn question_that_is_cut_is_none() {
    for whole in [arp(ArpOperation::REQUEST, ASKER, VIP), solicitation(ASKER_V6, 255, 135)] {
        for length in 0..whole.len() {
            assert_eq!(question(&whole[..length]), None, "{length} of {} bytes", whole.len());
        }
    }
}

#[test]
fn other_packets_ask_nothing() {
    for packet in packets::all() {
        let is_question = packet.name == "ARP request" || packet.name == "neighbour solicitation";
        assert_eq!(question(&*packet.frame).is_some(), is_question, "{}", packet.name);
    }
}

#[test]
fn answer_of_arp_tells_the_asker_our_link_address() {
    let frame = arp_answer(VIP, ASKER, ASKER_LINK, OWN);
    let sliced = SlicedPacket::from_ethernet(&frame).unwrap();
    let Some(NetSlice::Arp(arp)) = sliced.net else { panic!("{sliced:?}") };
    assert_eq!(arp.operation(), ArpOperation::REPLY);
    assert_eq!((arp.sender_hw_addr(), arp.sender_protocol_addr()), (&OWN[..], &VIP[..]));
    assert_eq!((arp.target_hw_addr(), arp.target_protocol_addr()), (&ASKER_LINK[..], &ASKER[..]));
    assert_eq!((&frame[..6], &frame[6..12]), (&ASKER_LINK[..], &OWN[..]));
}

#[test]
fn advertisement_is_solicited_or_goes_to_all_when_nobody_can_be_answered() {
    let all = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    for (asker, to, flags) in [(ASKER_V6, ASKER_V6, 0x60), ([0; 16], all, 0x20)] {
        let frame = advertisement(VIP_V6, asker, ASKER_LINK, OWN);
        let sliced = SlicedPacket::from_ethernet(&frame).unwrap();
        let Some(NetSlice::Ipv6(ip)) = &sliced.net else { panic!("{sliced:?}") };
        let header = ip.header();
        assert_eq!((header.source(), header.destination()), (VIP_V6, to));
        assert_eq!(header.hop_limit(), 255);
        let Some(TransportSlice::Icmpv6(icmp)) = &sliced.transport else { panic!("{sliced:?}") };
        assert!(icmp.is_checksum_valid(VIP_V6, to));
        let slice = icmp.slice();
        assert_eq!((slice[0], slice[4], &slice[8..24]), (136, flags, &VIP_V6[..]));
        assert_eq!(slice[24..], [&[2, 1], &OWN[..]].concat()[..]);
    }
}
