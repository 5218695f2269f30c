//! What clients say first, in all the forms that it comes in.

use alloc::vec::Vec;

use pgx_wire::Frames;
use pgx_wire::backend;
use pgx_wire::frontend;

use super::testing::{Bench, tags};
use super::tests::states;
use crate::config::PoolMode;

const TLS_REQUEST: &[u8] = &[0, 0, 0, 8, 4, 210, 22, 47];
const GSS_REQUEST: &[u8] = &[0, 0, 0, 8, 4, 210, 22, 48];

fn startup(minor: u16, more: &[(&str, &str)]) -> Vec<u8> {
    let own = [("user", "ann"), ("database", "shop")];
    let all = own.iter().chain(more).map(|(a, b)| (a.as_bytes(), b.as_bytes()));
    let mut packet = Vec::new();
    frontend::write::startup(&mut packet, minor, all);
    packet
}

#[test]
fn client_may_ask_for_each_encryption_once_before_it_begins() {
    let mut bench = Bench::new(PoolMode::Transaction, 1);
    bench.client();
    let client = bench.connect();
    for request in [GSS_REQUEST, TLS_REQUEST] {
        bench.say_slowly(client, request);
        assert_eq!(bench.take(client), b"N");
    }
    bench.say_slowly(client, &startup(0, &[]));
    assert_eq!(bench.tags(client), "RSSKZ");

    let client = bench.connect();
    bench.say(client, TLS_REQUEST);
    assert_eq!(bench.take(client), b"N");
    bench.say(client, TLS_REQUEST);
    assert_eq!(states(&bench.take(client)), [*b"08P01"]);
    assert!(bench.is_closed(client));
}

#[test]
fn newer_version_and_unknown_options_are_negotiated_once() {
    let mut bench = Bench::new(PoolMode::Transaction, 1);
    bench.client();
    let client = bench.connect();
    bench.say_slowly(client, &startup(9_999, &[("_pq_.test_protocol_negotiation", "")]));
    let hello = bench.take(client);
    assert_eq!(tags(&hello), "vRSSKZ");
    let mut frames = Frames::new(&hello);
    let negotiated = backend::negotiate(frames.next_frame().unwrap().unwrap().body).unwrap();
    assert_eq!(negotiated.minor, 2);
    let unknown: Vec<_> = negotiated.unknown.collect();
    assert_eq!(unknown, [b"_pq_.test_protocol_negotiation"]);
    let key = core::iter::from_fn(|| frames.next_frame().unwrap()).find(|each| each.tag == b'K');
    let (_, key) = backend::backend_key(key.unwrap().body).unwrap();
    assert_eq!(key.len(), 32, "as long as 3.2 has room for");
}

#[test]
fn last_value_of_a_parameter_that_comes_twice_is_the_one_that_holds() {
    let mut bench = Bench::new(PoolMode::Session, 1);
    let client = bench.connect();
    bench.say(client, &startup(0, &[("timezone", "UTC"), ("TimeZone", "Asia/Tokyo")]));
    let server = bench.wire.connects[0];
    let asked = bench.reach(server);
    let has = |word: &[u8]| asked.windows(word.len()).any(|window| window == word);
    assert!(has(b"Asia/Tokyo") && !has(b"UTC"), "{asked:?}");
}
