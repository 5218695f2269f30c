//! Steering on the host: where each packet is heading, how it is sent on, and that it is never sent
//! on for ever, whatever the tables of the hosts.

#[path = "../classify/packets.rs"]
mod packets;
mod topologies;

use std::cmp::Ordering;

use std::collections::BTreeSet;

use etherparse::Ipv4Header;
use packets::{DESTINATION_PORT, SOURCE_PORT};
use pgx_abi::{BUCKETS, FlowKey, Reason};
use pgx_rules::{
    Choice, Facts, Hops, Kind, Limit, Segment, Server, Steer, Transport, direct, facts, hash,
    heading, hop_limit, set_hop_limit, steer,
};

/// The flow of every packet of the table that belongs to one.
fn flow(v6: bool) -> FlowKey {
    let mapped = |last| [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 192, 0, 2, last];
    let local = |last| [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last];
    let (client, vip) = if v6 { (local(1), local(2)) } else { (mapped(1), mapped(2)) };
    FlowKey { client, vip, client_port: SOURCE_PORT, port: DESTINATION_PORT }
}

fn belongs_to_a_flow(packet: &packets::Packet) -> bool {
    matches!(packet.reason, Reason::Ipv4Tcp | Reason::Ipv6Tcp)
        || packet.name.contains("error about an answer")
}

#[test]
fn segments_and_errors_about_their_answers_belong_to_one_flow() {
    for packet in packets::all() {
        let found = heading(&*packet.frame, facts(&*packet.frame));
        assert_eq!(found.is_some(), belongs_to_a_flow(&packet), "{}", packet.name);
        let Some(found) = found else { continue };
        let v6 = packet.name.contains("IPv6");
        assert_eq!(found.flow, flow(v6), "{}", packet.name);
        let kind_fits = match found.kind {
            Kind::Opening(_) => packet.name.contains("SYN"),
            Kind::Going(segment) => {
                segment.is_cut == packet.name.contains("first fragment")
                    || packet.name.contains("every extension")
            }
            Kind::Ending(_) => false,
            Kind::Error => packet.name.contains("error"),
        };
        assert!(kind_fits, "{}: {:?}", packet.name, found.kind);
    }
}

#[test]
fn packet_cut_anywhere_is_of_its_flow_or_of_none() {
    for packet in packets::all() {
        let whole = heading(&*packet.frame, facts(&*packet.frame));
        for length in 0..=packet.frame.len() {
            let cut = &packet.frame[..length];
            let found = heading(cut, facts(cut));
            let about = format!("{}, {length} bytes", packet.name);
            assert!(found.is_none() || found.map(|one| one.flow) == whole.map(|one| one.flow));
            if belongs_to_a_flow(&packet) && packet.name.contains("TCP") {
                assert_eq!(found.is_some(), length >= packet.headers, "{about}");
            }
        }
    }
}

#[test]
fn error_that_quotes_somebody_elses_packet_belongs_to_no_flow() {
    for packet in packets::all().into_iter().filter(|one| one.name.contains("error about")) {
        let inner = if packet.name.contains("IPv6") { 14 + 40 + 8 } else { 14 + 20 + 8 };
        // The quoted source is no longer the address that the error comes to.
        let source = if packet.name.contains("IPv6") { inner + 8 + 15 } else { inner + 12 + 3 };
        let mut frame = packet.frame.clone();
        frame[source] ^= 1;
        assert_eq!(heading(&*frame, facts(&*frame)), None, "{}", packet.name);
        // An echo is no error.
        let mut frame = packet.frame.clone();
        frame[inner - 8] = if packet.name.contains("IPv6") { 128 } else { 8 };
        assert_eq!(heading(&*frame, facts(&*frame)), None, "{}", packet.name);
    }
}

#[test]
fn flags_tell_what_a_segment_is_to_its_flow() {
    let packet = packets::all().into_iter().find(|one| one.name == "IPv4 TCP").unwrap();
    let mut frame = packet.frame;
    for flags in 0..=u8::MAX {
        frame[14 + 20 + 13] = flags;
        let found = heading(&*frame, facts(&*frame)).unwrap().kind;
        let (syn, reset, ack) = (flags & 2 != 0, flags & 4 != 0, flags & 16 != 0);
        match found {
            Kind::Ending(_) => assert!(reset),
            Kind::Opening(_) => assert!(syn && !ack && !reset),
            Kind::Going(_) => assert!(!reset && (!syn || ack)),
            Kind::Error => panic!("a segment"),
        }
    }
}

#[test]
fn new_hop_limit_leaves_a_right_checksum() {
    for old in 0..=u8::MAX {
        for limit in [0, 1, 2, 64, 255] {
            let mut header = Ipv4Header::new(100, old, 6.into(), [10, 77, 0, 100], [10, 77, 0, 50])
                .expect("it fits");
            header.header_checksum = header.calc_header_checksum();
            let mut bytes = header.to_bytes().to_vec();
            assert_eq!(hop_limit(&*bytes, 0), Some(old));
            let Some(Limit::Ipv4(at, new)) = set_hop_limit(&*bytes, 0, limit) else { panic!() };
            bytes[at..at + 4].copy_from_slice(&new);
            let (read, _) = Ipv4Header::from_slice(&bytes).unwrap();
            assert_eq!((read.time_to_live, read.protocol), (limit, 6.into()));
            assert_eq!(read.header_checksum, read.calc_header_checksum(), "{old} to {limit}");
        }
    }
}

#[test]
fn flows_of_one_host_spread_over_the_buckets() {
    // As a proxy of applications makes them: one address, ports in a row.
    for v6 in [false, true] {
        let mut hits = vec![0_u32; BUCKETS as usize];
        for port in 1024..=u16::MAX {
            let key = FlowKey { client_port: port, ..flow(v6) };
            hits[(hash(&key) % BUCKETS) as usize] += 1;
        }
        let mean = f64::from(u32::from(u16::MAX) - 1023) / f64::from(BUCKETS);
        let square: f64 = hits.iter().map(|hit| (f64::from(*hit) - mean).powi(2) / mean).sum();
        // Chi squared of 1023 degrees of freedom: 1023 on average, 1168 once in a thousand.
        assert!((850.0..1200.0).contains(&square), "chi squared {square}");
    }
}

#[test]
fn hash_is_the_same_in_every_build() {
    // Hosts of two versions steer by one table; a change here needs a new pin version.
    assert_eq!((hash(&flow(false)), hash(&flow(true))), (HASH_V4, HASH_V6));
}

const HASH_V4: u32 = 417_283_341;
const HASH_V6: u32 = 2_189_900_906;

fn here() -> Option<Server> {
    Some(Server { link: [2; 6], is_local: true })
}

fn there() -> Option<Server> {
    Some(Server { link: [4; 6], is_local: false })
}

fn segment(is_cut: bool) -> Segment {
    let packet = packets::all().into_iter().find(|one| one.name == "IPv4 TCP").unwrap();
    let Ok(Facts::Ipv4(Transport::Tcp(segment))) = facts(&*packet.frame) else { panic!() };
    Segment { is_cut, ..segment }
}

#[test]
fn sockets_are_looked_for_only_where_the_answer_matters() {
    let asked = |kind, hops, choice| {
        let mut asked = false;
        let _ = steer(kind, hops, choice, || {
            asked = true;
            false
        });
        asked
    };
    let far = Choice { owner: there(), previous: there() };
    let old = Choice { owner: there(), previous: here() };
    let own = Choice { owner: here(), previous: None };
    assert!(!asked(Kind::Opening(segment(false)), Hops::Two, own));
    assert!(!asked(Kind::Going(segment(false)), Hops::Two, far));
    assert!(asked(Kind::Going(segment(false)), Hops::One, far));
    assert!(asked(Kind::Going(segment(false)), Hops::Two, old));
    assert!(asked(Kind::Going(segment(false)), Hops::Two, own));
}

#[test]
fn first_fragment_goes_nowhere_where_its_others_could_not_follow() {
    let kind = Kind::Going(segment(true));
    let far = Choice { owner: there(), previous: None };
    let own = Choice { owner: here(), previous: None };
    assert_eq!(steer(kind, Hops::Two, far, || false), Steer::Drop(Reason::SteerFragment));
    assert_eq!(steer(kind, Hops::Two, far, || true), Steer::Pass(Reason::SteerHere));
    assert_eq!(steer(kind, Hops::Two, own, || false), Steer::Pass(Reason::SteerHere));
}

#[test]
fn direct_services_flow_ends_with_its_epoch_and_resets_are_never_answered() {
    let (going, opening) = (Kind::Going(segment(false)), Kind::Opening(segment(false)));
    let judge = |kind, hops, owner, begun, has_socket| {
        direct(kind, hops, owner, begun, || true, || has_socket)
    };
    for owner in [here(), there(), None] {
        let stale = |kind, hops, has| judge(kind, hops, owner, Some(Ordering::Less), has);
        assert_eq!(stale(going, Hops::Two, true), Steer::Reset(Reason::SteerStale));
        // Who sent it is not known behind a peer: the stack tells it, or nobody.
        let dropped = Steer::Drop(Reason::SteerStaleDropped);
        assert_eq!(stale(going, Hops::One, true), dropped);
        assert_eq!(stale(going, Hops::One, false), Steer::Pass(Reason::SteerStale));
        for kind in [Kind::Ending(segment(false)), Kind::Error] {
            assert_eq!(stale(kind, Hops::Two, true), dropped);
        }
        assert_ne!(stale(opening, Hops::Two, false), Steer::Reset(Reason::SteerStale));
    }
    for begun in [None, Some(Ordering::Equal), Some(Ordering::Greater)] {
        let to_here = judge(going, Hops::Two, here(), begun, true);
        assert_eq!(to_here, Steer::Pass(Reason::SteerHere), "{begun:?}");
    }
}

#[test]
fn direct_service_stays_on_no_host_but_its_open_owner() {
    let kinds = [Kind::Opening(segment(false)), Kind::Going(segment(true)), Kind::Error];
    for kind in kinds.into_iter().chain([Kind::Going(segment(false)), Kind::Ending(segment(true))])
    {
        for hops in [Hops::Two, Hops::One, Hops::None] {
            for owner in [here(), there(), None] {
                for is_open in [false, true] {
                    let judged = direct(kind, hops, owner, None, || is_open, || true);
                    let may_stay = is_open && owner == here();
                    assert_eq!(matches!(judged, Steer::Pass(_)), may_stay, "{kind:?} {judged:?}");
                }
            }
        }
    }
}

#[test]
fn every_reason_of_steering_has_a_name_that_says_so() {
    let names: BTreeSet<_> = (Reason::SteerHere as u32..=Reason::SteerError as u32)
        .map(|index| Reason::ALL[index as usize].name())
        .collect();
    assert!(names.iter().all(|name| name.starts_with("steer_")), "{names:?}");
}
