//! Tells the network whose an address is now: gratuitous ARP (RFC 5227) and unsolicited neighbour
//! advertisements (RFC 4861).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use pgx_rules::{ADVERTISEMENT_FRAME, ARP_FRAME, Mac, advertisement};

const BROADCAST: Mac = [0xff; 6];
/// Nobody asked, so the advertisement goes to all nodes.
const NOBODY: [u8; 16] = [0; 16];
// RFC 826: EtherType; hardware Ethernet, protocol IPv4, their lengths, request.
const TYPE_ARP: [u8; 2] = [0x08, 0x06];
const ARP_REQUEST: [u8; 8] = [0, 1, 8, 0, 6, 4, 0, 1];

/// The frame that says: this address is at this link address.
pub(crate) fn announcement(address: IpAddr, own: Mac) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => arp(address, own).to_vec(),
        IpAddr::V6(address) => unsolicited(address, own).to_vec(),
    }
}

/// The group that a host hears who is asked for this address in (RFC 4291, section 2.7.1).
pub(crate) fn solicited_node_group(address: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = address.octets();
    let low = u16::from_be_bytes([b, c]);
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(a), low)
}

/// A request for the own address, which is what RFC 5227, section 3, wants an announcement to be:
/// a reply updates nobody's entry on Linux unless it looks like one too.
fn arp(address: Ipv4Addr, own: Mac) -> [u8; ARP_FRAME] {
    let mut out = [0; ARP_FRAME];
    out[..6].copy_from_slice(&BROADCAST);
    out[6..12].copy_from_slice(&own);
    out[12..14].copy_from_slice(&TYPE_ARP);
    out[14..22].copy_from_slice(&ARP_REQUEST);
    out[22..28].copy_from_slice(&own);
    out[28..32].copy_from_slice(&address.octets());
    out[38..42].copy_from_slice(&address.octets());
    out
}

fn unsolicited(address: Ipv6Addr, own: Mac) -> [u8; ADVERTISEMENT_FRAME] {
    advertisement(address.octets(), NOBODY, BROADCAST, own)
}

#[cfg(test)]
mod tests {
    use etherparse::{ArpOperation, NetSlice, SlicedPacket, TransportSlice};

    use super::*;

    const OWN: Mac = [2, 0, 0, 0, 0, 9];

    #[test]
    fn gratuitous_arp_asks_everybody_for_the_own_address() {
        let frame = announcement("192.0.2.100".parse().unwrap(), OWN);
        assert_eq!((&frame[..6], &frame[6..12]), (&[0xff; 6][..], &OWN[..]));
        let sliced = SlicedPacket::from_ethernet(&frame).unwrap();
        let Some(NetSlice::Arp(arp)) = sliced.net else { panic!("{sliced:?}") };
        assert_eq!(arp.operation(), ArpOperation::REQUEST);
        assert_eq!(arp.sender_hw_addr(), OWN);
        assert_eq!(arp.sender_protocol_addr(), [192, 0, 2, 100]);
        assert_eq!(arp.target_protocol_addr(), [192, 0, 2, 100]);
        assert_eq!(arp.target_hw_addr(), [0; 6]);
    }

    #[test]
    fn unsolicited_advertisement_overrides_and_goes_to_all_nodes() {
        let address: Ipv6Addr = "fd00::1:2345".parse().unwrap();
        let frame = announcement(address.into(), OWN);
        assert_eq!(frame[..6], [0x33, 0x33, 0, 0, 0, 1]);
        let sliced = SlicedPacket::from_ethernet(&frame).unwrap();
        let Some(NetSlice::Ipv6(ip)) = &sliced.net else { panic!("{sliced:?}") };
        let header = ip.header();
        assert_eq!(header.source_addr(), address);
        assert_eq!(header.destination_addr(), "ff02::1".parse::<Ipv6Addr>().unwrap());
        assert_eq!(header.hop_limit(), 255);
        let Some(TransportSlice::Icmpv6(icmp)) = &sliced.transport else { panic!("{sliced:?}") };
        assert!(icmp.is_checksum_valid(header.source(), header.destination()));
        let slice = icmp.slice();
        // Override without solicited, the address, the target's link address.
        assert_eq!((slice[0], slice[4], &slice[8..24]), (136, 0x20, &address.octets()[..]));
        assert_eq!(slice[24..], [&[2, 1], &OWN[..]].concat()[..]);
    }

    #[test]
    fn group_of_an_address_has_its_last_24_bits() {
        let address = "fd00::1:2:34ab:cdef".parse().unwrap();
        let expected: Ipv6Addr = "ff02::1:ffab:cdef".parse().unwrap();
        assert_eq!(solicited_node_group(address), expected);
    }
}
