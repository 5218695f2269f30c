//! Who asks to cancel something, at whichever node, is told when that has had its effect.

use alloc::collections::BTreeMap;
use alloc::string::ToString;
use alloc::vec::Vec;

use pgx_wire::Frames;
use pgx_wire::backend::{self, Status};
use pgx_wire::frontend;

use super::testing::{Bench, done, query};
use super::{Owner, Request};
use crate::config::{AuthMethod, Config, Database, Peers, PoolMode};
use crate::limits::FORWARDS_MAX;
use crate::net::Socket;
use crate::route::ServerAddress;

/// The node of this number, among three.
fn node(own: u8) -> Bench {
    let backends = alloc::vec![ServerAddress("db:5432".to_string()).into()];
    let database = Database::new(backends, PoolMode::Transaction, 1);
    let others = (1..=3).filter(|number| *number != own);
    let others = others.map(|number| (number, ServerAddress(alloc::format!("node{number}:6432"))));
    Bench::with(Config {
        databases: BTreeMap::from([(b"*".to_vec(), database)]),
        auth: AuthMethod::Trust,
        peers: Peers { own, others: others.collect() },
        ..Config::default()
    })
}

/// A client whose query runs, and by what it is to be cancelled.
fn busy(bench: &mut Bench) -> (Socket, Socket, Vec<u8>) {
    let client = bench.begin_client(&[]);
    let server = bench.open_all()[0];
    let hello = bench.take(client);
    let mut frames = Frames::new(&hello);
    let key = core::iter::from_fn(|| frames.next_frame().unwrap()).find(|each| each.tag == b'K');
    let (process, key) = backend::backend_key(key.unwrap().body).unwrap();
    let mut packet = Vec::new();
    frontend::write::cancel(&mut packet, process, key);
    bench.say(client, &query("select pg_sleep(9)"));
    (client, server, packet)
}

/// The only request for a worker of this node is handed to this one.
fn deliver(bench: &mut Bench) -> Request {
    let request = bench.wire.cancels.remove(0);
    bench.worker.cancel(&mut bench.wire, request.clone(), bench.now);
    request
}

/// The word for who asked arrives.
fn tell_asker(bench: &mut Bench) {
    let by = bench.wire.cancelled.remove(0);
    bench.worker.cancelled(&mut bench.wire, by.client, bench.now);
    bench.check();
}

/// The connection for a request is there; what it carries.
fn carried(bench: &mut Bench) -> (Socket, Vec<u8>) {
    let socket = bench.wire.connects.pop().expect("nothing is on its way");
    let Some(Owner::Cancel(id)) = bench.wire.owners.get(&socket).copied() else { panic!() };
    bench.worker.cancel_connected(&mut bench.wire, id, true);
    (socket, bench.take(socket))
}

#[test]
fn asker_is_let_go_when_the_server_has_heard_and_not_before() {
    let mut bench = node(0);
    let (client, server, packet) = busy(&mut bench);
    let asker = bench.connect();
    bench.say(asker, &packet);
    deliver(&mut bench);
    let (cancel, _) = carried(&mut bench);
    assert!(bench.wire.cancelled.is_empty() && !bench.is_closed(asker));
    bench.say(server, &done("SELECT 1", Status::Idle));
    bench.say(client, &query("select 2"));
    bench.end(cancel);
    tell_asker(&mut bench);
    assert!(bench.is_closed(asker) && bench.take(asker).is_empty());
}

#[test]
fn asker_with_a_wrong_key_is_let_go_and_nothing_is_cancelled() {
    let mut bench = node(0);
    let (_, _, mut packet) = busy(&mut bench);
    *packet.last_mut().unwrap() ^= 1;
    let asker = bench.connect();
    bench.say(asker, &packet);
    deliver(&mut bench);
    assert!(bench.wire.connects.is_empty());
    tell_asker(&mut bench);
    assert!(bench.is_closed(asker));
}

#[test]
fn asker_that_nobody_answers_is_let_go_in_time() {
    let mut bench = node(0);
    let (_, _, packet) = busy(&mut bench);
    let asker = bench.connect();
    bench.say(asker, &packet);
    bench.tick(60_000);
    assert!(bench.is_closed(asker) && bench.take(asker).is_empty());
}

#[test]
fn request_at_another_node_reaches_the_client_s_own_in_one_hop() {
    let (mut home, mut away) = (node(2), node(1));
    let (_, _, packet) = busy(&mut home);
    let asker = away.connect();
    away.say(asker, &packet);
    let (hop, passed_on) = carried(&mut away);
    assert_eq!(away.wire.places[&hop].0, "node2:6432");
    assert!(away.wire.cancels.is_empty(), "no client of its own is meant");

    let neighbour = home.connect();
    home.say(neighbour, &passed_on);
    deliver(&mut home);
    let (cancel, told) = carried(&mut home);
    let mut expected = Vec::new();
    frontend::write::cancel(&mut expected, 99, b"key!");
    assert_eq!(told, expected);
    home.end(cancel);
    tell_asker(&mut home);
    assert!(home.is_closed(neighbour));

    assert!(!away.is_closed(asker));
    away.end(hop);
    tell_asker(&mut away);
    assert!(away.is_closed(asker));
}

#[test]
fn request_that_was_passed_on_is_not_passed_on_again() {
    let (mut home, mut away, mut third) = (node(2), node(1), node(3));
    let (_, _, packet) = busy(&mut home);
    let asker = away.connect();
    away.say(asker, &packet);
    let (_, passed_on) = carried(&mut away);
    // As if nodes did not agree on their numbers.
    let asker = third.connect();
    third.say(asker, &passed_on);
    assert!(third.wire.connects.is_empty());
    deliver(&mut third);
    tell_asker(&mut third);
    assert!(third.is_closed(asker));
}

#[test]
fn requests_of_one_second_are_not_passed_on_without_bound() {
    let (mut home, mut away) = (node(2), node(1));
    let (_, _, packet) = busy(&mut home);
    let ask = |bench: &mut Bench| {
        let asker = bench.connect();
        bench.say(asker, &packet);
        bench.is_closed(asker)
    };
    away.tick(1_000);
    let turned_away = (0..=FORWARDS_MAX).filter(|_| ask(&mut away)).count();
    assert_eq!(turned_away, 1);
    away.tick(1_000);
    assert!(!ask(&mut away), "the next second has its own");
}
