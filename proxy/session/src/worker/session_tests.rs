//! Clients that have servers of their own are let in as those servers would let them in.

use alloc::collections::BTreeMap;
use alloc::string::ToString;
use alloc::vec::Vec;

use pgx_wire::Frames;
use pgx_wire::backend::write::Level;
use pgx_wire::backend::{self, Fields, Status};
use pgx_wire::{SqlState, frontend};

use super::testing::{Bench, done, error, query, tags};
use super::tests::states;
use crate::config::{AuthMethod, Config, Database, Limits, PoolMode};
use crate::net::Socket;
use crate::route::ServerAddress;

/// A client with a setting of its own, and its server, which has been asked to take that.
fn begun() -> (Bench, Socket, Socket) {
    let mut bench = Bench::new(PoolMode::Session, 1);
    let client = bench.begin_client(&[("timezone", "Asia/Tokyo")]);
    let server = bench.open_all()[0];
    assert_eq!(tags(&bench.take(server)), "Q");
    assert_eq!(bench.tags(client), "R", "it is not in before its settings are taken");
    (bench, client, server)
}

/// A server has taken its client's settings.
fn taken(bench: &mut Bench, server: Socket) {
    let mut told = Vec::new();
    backend::write::notice(&mut told, Level::Notice, SqlState::WARNING, "cut");
    backend::write::parameter_status(&mut told, b"TimeZone", b"Asia/Tokyo");
    told.extend_from_slice(&done("SELECT 1", Status::Idle));
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
    bench.say(server, &error("ERROR", "22023"));
    let told = bench.take(client);
    let mut frames = Frames::new(&told);
    let fields = Fields::new(frames.next_frame().unwrap().unwrap().body);
    assert!(fields.is_fatal() && fields.text(b'S') == Some(b"FATAL"), "as in a login");
    assert_eq!(fields.sqlstate(), Some(*b"22023"));
    assert!(frames.rest().is_empty() && bench.is_closed(client) && bench.is_closed(server));
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
    let (mut bench, client, server) = begun();
    bench.end(server);
    let server = bench.open_all()[0];
    bench.take(server);
    taken(&mut bench, server);
    assert_eq!(bench.tags(client), "NSSKZ");
}
