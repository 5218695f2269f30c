//! Clients that want a certain kind of server.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use pgx_wire::backend::{self, Status};

use super::pools_tests::{config, database};
use super::testing::{Bench, done, query, tags};
use super::tests::states;
use crate::attrs::SessionAttrs;
use crate::config::Database;
use crate::limits::{BACK_OFF_MS_MIN, LAG_CHECK_MS, ROLE_RETRY_MS};
use crate::net::Socket;
use crate::route::ServerAddress;

/// A database on these backends.
fn on(backends: &[&str]) -> Database {
    let mut database = database("", 4);
    let backend = |name: &&str| ServerAddress((*name).to_string()).into();
    database.backends = backends.iter().map(backend).collect();
    database
}

/// Lets every connection in, as what the backend is: those that begin with `s` are standbys. Says
/// where they were, until nobody connects any more.
fn open(bench: &mut Bench) -> Vec<(String, Socket)> {
    let mut opened = Vec::new();
    while let Some(socket) = bench.wire.connects.pop() {
        let place = bench.wire.places[&socket].0.clone();
        let value = if place.starts_with('s') { "on" } else { "off" };
        bench.reach(socket);
        bench.greet_as(socket, &[("in_hot_standby", value)]);
        opened.push((place, socket));
    }
    opened
}

fn places(opened: &[(String, Socket)]) -> Vec<&str> {
    opened.iter().map(|(place, _)| place.as_str()).collect()
}

#[test]
fn client_gets_a_server_of_the_kind_that_it_names() {
    let cases: [(&str, &[&str]); 6] = [
        ("any", &["p:1"]),
        ("primary", &["p:1"]),
        ("read-write", &["p:1"]),
        ("standby", &["p:1", "s:1"]),
        ("read-only", &["p:1", "s:1"]),
        ("prefer-standby", &["p:1", "s:1"]),
    ];
    for (word, expected) in cases {
        let mut bench = Bench::with(config(alloc::vec![("shop", on(&["p:1", "s:1"]))]));
        let options = alloc::format!("-c pgx.target={word}");
        let client = bench.begin_client(&[("options", &options)]);
        assert_eq!(places(&open(&mut bench)), expected, "{word}");
        assert!(bench.tags(client).ends_with('Z'), "{word}");
    }
}

#[test]
fn word_that_names_no_kind_is_refused() {
    let mut bench = Bench::with(config(alloc::vec![("shop", on(&["p:1"]))]));
    let client = bench.begin_client(&[("options", "-c pgx.target=slave")]);
    assert_eq!(states(&bench.take(client)), [*b"22023"]);
}

#[test]
fn what_the_client_names_comes_before_its_database_and_that_before_its_port() {
    let mut alias = on(&["p:1", "s:1"]);
    alias.attrs = Some(SessionAttrs::Standby);
    let all = alloc::vec![("shop", on(&["p:1", "s:1"])), ("shop_ro", alias)];
    let mut bench = Bench::with(config(all));
    bench.listener = SessionAttrs::Primary;
    bench.begin_client_of("ann", "shop", &[]);
    assert_eq!(places(&open(&mut bench)), ["p:1"]);
    bench.begin_client_of("ann", "shop_ro", &[]);
    assert_eq!(places(&open(&mut bench)), ["p:1", "s:1"]);
    bench.begin_client_of("ann", "shop_ro", &[("options", "-c pgx.target=read-write")]);
    assert_eq!(places(&open(&mut bench)), ["p:1"]);
}

#[test]
fn server_that_does_not_report_its_role_is_asked() {
    let mut bench = Bench::with(config(alloc::vec![("shop", on(&["a:1", "b:1"]))]));
    let client = bench.begin_client(&[("options", "-c pgx.target=standby")]);
    for value in ["f", "t"] {
        let server = bench.wire.connects.pop().expect("a connection");
        bench.reach(server);
        bench.greet(server);
        assert_eq!(tags(&bench.take(server)), "Q");
        let mut answer = b"D\0\0\0\x0b\0\x01\0\0\0\x01".to_vec();
        answer.extend_from_slice(value.as_bytes());
        answer.extend_from_slice(&done("SELECT 1", Status::Idle));
        bench.say(server, &answer);
        assert_eq!(bench.is_closed(server), value == "f");
    }
    assert!(bench.tags(client).ends_with('Z'));
}

#[test]
fn promoted_standby_leaves_the_pool_of_standbys_and_joins_that_of_primaries() {
    let mut bench = Bench::with(config(alloc::vec![("shop", on(&["p:1", "s:1"]))]));
    let client = bench.begin_client(&[("options", "-c pgx.target=standby")]);
    let (_, server) = open(&mut bench).pop().unwrap();
    bench.take(client);
    bench.say(client, &query("select 1"));
    let mut answer = Vec::new();
    backend::write::parameter_status(&mut answer, b"in_hot_standby", b"off");
    answer.extend_from_slice(&done("SELECT 1", Status::Idle));
    bench.say(server, &answer);
    assert!(bench.is_closed(server));
    assert!(bench.tags(client).ends_with('Z'));
    // A client that wants the primary finds it where it was not before.
    let writer = bench.begin_client(&[("options", "-c pgx.target=primary")]);
    let old = bench.wire.connects.pop().unwrap();
    bench.end(old);
    let new = bench.wire.connects.pop().unwrap();
    assert_eq!(bench.wire.places[&new].0, "s:1");
    bench.reach(new);
    bench.greet_as(new, &[("in_hot_standby", "off")]);
    assert!(bench.tags(writer).ends_with('Z'));
}

#[test]
fn clients_wait_for_a_standby_that_comes_back_and_the_primary_is_not_taken_meanwhile() {
    let mut bench = Bench::with(config(alloc::vec![("shop", on(&["p:1", "s:1"]))]));
    let client = bench.begin_client(&[("options", "-c pgx.target=standby")]);
    let (_, server) = open(&mut bench).pop().unwrap();
    bench.take(client);
    bench.end(server);
    bench.say(client, &query("select 1"));
    for _ in 0..5 {
        while let Some(socket) = bench.wire.connects.pop() {
            if bench.wire.places[&socket].0 == "s:1" {
                bench.end(socket);
            } else {
                bench.reach(socket);
                bench.greet_as(socket, &[("in_hot_standby", "off")]);
                assert!(bench.is_closed(socket));
            }
        }
        bench.tick(ROLE_RETRY_MS);
    }
    let mut served = None;
    for _ in 0..100 {
        served = open(&mut bench).into_iter().find(|(place, _)| place == "s:1").or(served);
        bench.tick(BACK_OFF_MS_MIN);
    }
    let (_, server) = served.expect("the standby is tried again");
    assert_eq!(bench.take(server), query("select 1"));
    assert_eq!(bench.take(client), b"");
}

/// What a server answers that is asked how far behind it is.
fn lag(ms: &str) -> Vec<u8> {
    let length = |value: usize| u32::try_from(value).unwrap().to_be_bytes();
    let mut out = b"D".to_vec();
    out.extend_from_slice(&length(4 + 2 + 4 + ms.len()));
    out.extend_from_slice(&[0, 1]);
    out.extend_from_slice(&length(ms.len()));
    out.extend_from_slice(ms.as_bytes());
    out.extend_from_slice(&done("SELECT 1", Status::Idle));
    out
}

#[test]
fn standby_that_is_too_far_behind_is_left_out_until_it_is_near_again() {
    let mut shop = on(&["s1:1", "s2:1"]);
    (shop.lag_ms_max, shop.attrs) = (1_000, Some(SessionAttrs::Standby));
    let mut bench = Bench::with(config(alloc::vec![("shop", shop)]));
    let client = bench.begin_client(&[]);
    let (place, first) = open(&mut bench).pop().unwrap();
    assert_eq!((place.as_str(), tags(&bench.take(first)).as_str()), ("s1:1", "Q"));
    bench.take(client);
    bench.say(client, &query("select 1"));
    assert_eq!(bench.take(first), b"", "it is not known yet whether it may be used");
    bench.say(first, &lag("1001"));
    assert!(bench.is_closed(first));
    let (place, second) = open(&mut bench).pop().unwrap();
    assert_eq!((place.as_str(), tags(&bench.take(second)).as_str()), ("s2:1", "Q"));
    bench.say(second, &lag("1000"));
    assert_eq!(bench.take(second), query("select 1"));
    bench.say(second, &done("SELECT 1", Status::Idle));
    assert_eq!(bench.tags(client), "CZ", "and nothing of what the proxy asked");
    assert_eq!(bench.take(second), b"", "it was asked just now");
    bench.tick(LAG_CHECK_MS);
    assert_eq!(tags(&bench.take(second)), "Q");
    bench.say(second, &lag("999999"));
    assert!(bench.is_closed(second), "it has fallen behind while idle");
    bench.say(client, &query("select 2"));
    let (_, again) = open(&mut bench).pop().unwrap();
    bench.take(again);
    bench.say(again, &lag("0"));
    assert_eq!(bench.take(again), query("select 2"));
}
