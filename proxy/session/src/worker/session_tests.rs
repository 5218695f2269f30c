//! Clients that have servers of their own are let in as those servers would let them in.

use alloc::collections::BTreeMap;
use alloc::string::ToString;
use alloc::vec::Vec;

use pgx_wire::Frames;
use pgx_wire::backend::write::Level;
use pgx_wire::backend::{self, Fields, Status};
use pgx_wire::{SqlState, frontend};

use super::Owner;
use super::testing::{Bench, done, error, query, tags};
use super::tests::states;
use crate::config::{AuthMethod, Config, Database, Limits, PoolMode};
use crate::net::Socket;
use crate::route::ServerAddress;

/// A client with a setting of its own, and its server, which has been asked to begin with that.
fn begun() -> (Bench, Socket, Socket) {
    let mut bench = Bench::new(PoolMode::Session, 1);
    let client = bench.begin_client(&[("TimeZone", "Asia/Tokyo")]);
    let server = asked_for(&mut bench, b"timezone\0Asia/Tokyo\0");
    assert_eq!(bench.tags(client), "R", "it is not in before its settings are taken");
    (bench, client, server)
}

/// The server that is being opened, which is asked to begin with these parameters and no others.
fn asked_for(bench: &mut Bench, parameters: &[u8]) -> Socket {
    let server = bench.wire.connects.pop().expect("one is opened");
    let packet = bench.reach(server);
    let whole = [parameters, b"user\0ann\0database\0shop\0\0"].concat();
    assert_eq!(packet[8..], whole);
    server
}

/// A server has let its client in.
fn taken(bench: &mut Bench, server: Socket) {
    let mut told = Vec::new();
    backend::write::authentication_ok(&mut told);
    backend::write::notice(&mut told, Level::Notice, SqlState::WARNING, "cut");
    backend::write::parameter_status(&mut told, b"DateStyle", b"ISO");
    backend::write::parameter_status(&mut told, b"TimeZone", b"Asia/Tokyo");
    backend::write::backend_key(&mut told, 99, b"key!");
    backend::write::ready(&mut told, Status::Idle);
    bench.say_slowly(server, &told);
}

#[test]
fn client_is_told_what_its_own_server_says_of_its_settings() {
    let (mut bench, client, server) = begun();
    bench.say(client, &query("select 1"));
    taken(&mut bench, server);
    let hello = bench.take(client);
    assert_eq!(tags(&hello), "NSSKZ");
    let mut frames = Frames::new(&hello);
    let all = core::iter::from_fn(|| frames.next_frame().unwrap()).collect::<Vec<_>>();
    let told = |name: &[u8]| {
        let pairs = all.iter().filter(|frame| frame.tag == b'S');
        let mut pairs = pairs.map(|frame| backend::parameter_status(frame.body).unwrap());
        pairs.find(|(known, _)| *known == name).unwrap().1
    };
    assert_eq!((told(b"TimeZone"), told(b"DateStyle")), (&b"Asia/Tokyo"[..], &b"ISO"[..]));
    let (process, _) = backend::backend_key(all[3].body).unwrap();
    assert_eq!(process, 99, "the server's own number");
    assert_eq!(bench.take(server), query("select 1"), "what came too early was held");
}

#[test]
fn setting_that_no_server_takes_ends_the_login_in_the_servers_words() {
    let (mut bench, client, server) = begun();
    let mut told = Vec::new();
    backend::write::authentication_ok(&mut told);
    bench.say(server, &told);
    let refused = error("FATAL", "22023");
    bench.say_slowly(server, &refused);
    assert_eq!(bench.take(client), refused);
    assert!(bench.is_closed(client) && bench.is_closed(server));
    let client = bench.begin_client(&[]);
    assert!(!bench.is_closed(client), "nothing is wrong with the backend");
    asked_for(&mut bench, b"");
}

#[test]
fn name_that_no_server_takes_ends_the_login_as_well() {
    let mut bench = Bench::new(PoolMode::Session, 1);
    let client = bench.begin_client(&[("application_name", "a")]);
    let server = asked_for(&mut bench, b"");
    bench.greet(server);
    assert_eq!(bench.tags(server), "Q");
    bench.say(server, &error("ERROR", "22023"));
    let told = bench.take(client);
    let mut frames = Frames::new(&told[9..]);
    let fields = Fields::new(frames.next_frame().unwrap().unwrap().body);
    assert!(fields.is_fatal() && fields.text(b'S') == Some(b"FATAL"), "as in a login");
    assert!(bench.is_closed(client) && bench.is_closed(server));
}

#[test]
fn server_is_used_again_by_who_would_begin_as_it_did() {
    let (mut bench, client, server) = begun();
    taken(&mut bench, server);
    bench.end(client);
    assert_eq!(bench.take(server), query("DISCARD ALL"));
    bench.say(server, &done("DISCARD ALL", Status::Idle));
    let next = bench.begin_client(&[("timezone", "Asia/Tokyo"), ("application_name", "b")]);
    assert_eq!(tags(&bench.take(server)), "Q", "its name is set");
    bench.say(server, &done("SELECT 1", Status::Idle));
    assert_eq!(bench.tags(next), "RSSKZ");
    bench.end(next);
    bench.say(server, &done("DISCARD ALL", Status::Idle));
    let other = bench.begin_client(&[]);
    assert!(bench.is_closed(server), "it would go back to another's settings");
    let server = asked_for(&mut bench, b"");
    bench.greet(server);
    assert_eq!(bench.tags(other), "RSSKZ");
}

#[test]
fn clients_who_begin_differently_get_each_their_own_server() {
    let mut bench = Bench::new(PoolMode::Session, 2);
    let first = bench.begin_client(&[("timezone", "UTC")]);
    let second = bench.begin_client(&[("timezone", "Asia/Tokyo")]);
    let later = asked_for(&mut bench, b"timezone\0Asia/Tokyo\0");
    let earlier = asked_for(&mut bench, b"timezone\0UTC\0");
    taken(&mut bench, later);
    assert_eq!((bench.tags(first).as_str(), bench.tags(second).as_str()), ("R", "RNSSKZ"));
    bench.greet(earlier);
    assert_eq!(bench.tags(first), "SSKZ");
}

#[test]
fn client_cancels_by_the_number_of_its_server() {
    let (mut bench, client, server) = begun();
    taken(&mut bench, server);
    bench.say(client, &query("select 1"));
    let cancel = bench.cancel(99).expect("it is on its way");
    let mut expected = Vec::new();
    frontend::write::cancel(&mut expected, 99, b"key!");
    assert_eq!(bench.take(cancel), expected);
}

#[test]
fn login_waits_for_a_server_and_is_told_when_that_took_too_long() {
    let backends = alloc::vec![ServerAddress("db:5432".to_string()).into()];
    let database = Database::new(backends, PoolMode::Session, 1);
    let mut bench = Bench::with(Config {
        databases: BTreeMap::from([(b"*".to_vec(), database)]),
        auth: AuthMethod::Trust,
        limits: Limits { query_wait_ms: 700, client_login_ms: 300, ..Limits::default() },
        ..Config::default()
    });
    let first = bench.begin_client(&[]);
    let server = bench.open_all()[0];
    let (second, third) = (bench.begin_client(&[]), bench.begin_client(&[]));
    bench.tick(600);
    assert!(!bench.is_closed(second), "the time of a login does not count");
    bench.end(first);
    bench.say(server, &done("DISCARD ALL", Status::Idle));
    assert_eq!(bench.tags(second), "RSSKZ");
    bench.tick(100);
    let told = bench.take(third);
    assert!(tags(&told) == "RE" && states(&told) == [*b"08006"] && bench.is_closed(third));
}

#[test]
fn login_is_refused_at_once_when_no_server_can_be_reached() {
    let mut bench = Bench::new(PoolMode::Session, 1);
    let client = bench.begin_client(&[]);
    let server = bench.wire.connects.pop().unwrap();
    bench.end(server);
    assert_eq!(states(&bench.take(client)), [*b"08001"]);
    assert!(bench.is_closed(client));
}

#[test]
fn login_goes_on_with_another_server_when_its_first_is_lost() {
    let mut bench = Bench::new(PoolMode::Session, 1);
    let client = bench.begin_client(&[("application_name", "a")]);
    let server = asked_for(&mut bench, b"");
    bench.greet(server);
    assert_eq!(bench.tags(server), "Q");
    bench.end(server);
    let server = asked_for(&mut bench, b"");
    bench.greet(server);
    bench.say(server, &done("SELECT 1", Status::Idle));
    assert_eq!(bench.tags(client), "RSSKZ");
}

#[test]
fn server_that_knows_no_newer_version_is_asked_by_the_oldest() {
    let mut bench = Bench::new(PoolMode::Session, 1);
    let client = bench.begin_client(&[]);
    let server = bench.wire.connects.pop().unwrap();
    let minor = |bench: &mut Bench, server: Socket| {
        let Some(Owner::Server(id)) = bench.wire.owners.get(&server).copied() else { panic!() };
        bench.worker.connected(&mut bench.wire, id, Ok(()), bench.now);
        bench.take(server)[7]
    };
    assert_eq!(minor(&mut bench, server), 2);
    bench.say(server, &error("FATAL", "08P01"));
    assert!(bench.is_closed(server));
    let server = bench.wire.connects.pop().expect("it is tried again at once");
    assert_eq!(minor(&mut bench, server), 0);
    bench.greet(server);
    assert_eq!(bench.tags(client), "RSSKZ");
}

#[test]
fn replication_has_servers_of_its_own_that_are_told_all_at_the_start() {
    let mut bench = Bench::new(PoolMode::Transaction, 1);
    bench.client();
    let client = bench.begin_client(&[("replication", "true"), ("application_name", "b")]);
    let server = bench.wire.connects.pop().expect("the pool's own server is none for it");
    let Some(Owner::Server(id)) = bench.wire.owners.get(&server).copied() else { panic!() };
    bench.worker.connected(&mut bench.wire, id, Ok(()), bench.now);
    let told = bench.take(server);
    let own = b"replication\0true\0application_name\0b\0user\0ann\0database\0shop\0\0";
    assert!(told.ends_with(own), "{told:?}");
    bench.greet(server);
    assert_eq!(bench.take(server), b"", "it takes no queries");
    assert_eq!(bench.tags(client), "RSSKZ");
    bench.say(client, &query("START_REPLICATION 0/0"));
    bench.say(server, b"W\0\0\0\x07\0\0\0");
    let copied = [b"d\0\0\0\x05w", &b"d\0\0\0\x05k"[..]].concat();
    bench.say_slowly(server, &copied);
    assert_eq!(&bench.take(client)[8..], copied);
    bench.say(client, &copied);
    bench.tick(1_000_000);
    bench.end(client);
    assert!(bench.is_closed(server), "nobody else may have it");
}

#[test]
fn replication_that_is_off_is_none() {
    for off in ["false", "OFF", "n", "0", "f"] {
        let mut bench = Bench::new(PoolMode::Transaction, 1);
        bench.client();
        bench.begin_client(&[("replication", off)]);
        assert!(bench.wire.connects.is_empty(), "{off}");
    }
}

#[test]
fn pool_that_nobody_uses_is_forgotten_and_its_place_used_again() {
    let mut bench = Bench::new(PoolMode::Transaction, 1);
    for round in 0..5 {
        let client = bench.begin_client_of("ann", &alloc::format!("shop{round}"), &[]);
        bench.open_all();
        assert_eq!(bench.tags(client), "RSSKZ");
        bench.end(client);
        bench.tick(1_000);
        bench.tick(700_000);
        assert_eq!(bench.worker.gauges().servers, 0, "idle for too long");
        bench.tick(60_000);
    }
    assert_eq!((bench.worker.entries.len(), bench.worker.by_name.len()), (1, 0));
}
