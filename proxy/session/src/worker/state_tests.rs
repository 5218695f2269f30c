//! State that cannot follow a client, where that is refused.

use alloc::string::String;
use alloc::vec::Vec;

use pgx_wire::backend::{self, Fields, Status};
use pgx_wire::{Frames, frontend};

use super::pools_tests::{config, database};
use super::testing::{Bench, batch, batch_done, done, error, query, tags};
use super::tests::states;
use crate::config::PoolMode;
use crate::limits::COLLECT_BYTES_MAX;
use crate::net::Socket;

/// A bench with one server, and two clients that share it and may leave nothing on it.
fn two() -> (Bench, Socket, Socket, Socket) {
    let mut shop = database("db:1", 1);
    shop.refuses_state = true;
    shop.mode = PoolMode::Transaction;
    let mut bench = Bench::with(config(alloc::vec![("shop", shop)]));
    let first = bench.begin_client(&[]);
    let server = bench.open_all()[0];
    bench.take(first);
    let second = bench.client();
    (bench, first, second, server)
}

fn failed(code: &str, status: Status) -> Vec<u8> {
    let mut out = error("ERROR", code);
    backend::write::ready(&mut out, status);
    out
}

fn message(bytes: &[u8]) -> String {
    let mut frames = Frames::new(bytes);
    let frame = frames.next_frame().unwrap().expect("a message");
    String::from_utf8_lossy(Fields::new(frame.body).message().expect("a text")).into_owned()
}

#[test]
fn text_that_would_keep_its_server_is_refused_and_never_reaches_it() {
    for (text, what) in [
        ("listen c", "LISTEN"),
        ("create temp table t()", "a temporary table"),
        ("select pg_advisory_lock(1)", "a session advisory lock"),
        ("declare c cursor with hold for select 1", "a cursor WITH HOLD"),
        ("load 'x'", "LOAD"),
        ("prepare p as select 1", "PREPARE in SQL"),
        ("set work_mem = 1", "a setting that servers do not report"),
    ] {
        let simple = (query(text), "42601");
        let unnamed = (batch("", Some(text), true), "26000");
        let named = (batch("a", Some(text), true), "26000");
        for (asked, code) in [simple, unnamed, named] {
            let (mut bench, first, second, server) = two();
            bench.say_slowly(first, &asked);
            bench.say(second, &query("b"));
            let sent = bench.take(server);
            let has = sent.windows(text.len()).any(|window| window == text.as_bytes());
            assert!(!has && !sent.is_empty(), "{text}: {sent:?}");
            bench.say(server, &failed(code, Status::Idle));
            let told = bench.take(first);
            assert_eq!((tags(&told).as_str(), states(&told)), ("EZ", [*b"0A000"].to_vec()));
            assert!(message(&told).starts_with(&alloc::format!("{what} is not")), "{told:?}");
            assert_eq!(bench.take(server), query("b"), "{text}: the server is not kept");
        }
    }
}

#[test]
fn refusal_has_its_place_among_the_answers_and_fails_the_block() {
    let (mut bench, first, second, server) = two();
    let flight = [query("begin"), query("listen c"), query("select 1")];
    bench.say(first, &flight.concat());
    bench.say(second, &query("b"));
    assert_eq!(tags(&bench.take(server)), "QQQ");
    bench.say(server, &done("BEGIN", Status::Block));
    assert_eq!(bench.tags(first), "CZ");
    bench.say(server, &failed("42601", Status::Failed));
    bench.say(server, &failed("25P02", Status::Failed));
    let told = bench.take(first);
    assert_eq!(states(&told), [*b"0A000", *b"25P02"]);
    assert_eq!((tags(&told).as_str(), told.last()), ("EZEZ", Some(&b'E')));
    bench.say(first, &query("rollback"));
    bench.say(server, &done("ROLLBACK", Status::Idle));
    assert_eq!(tags(&bench.take(server)), "QQ", "then the next client's");
}

#[test]
fn what_can_follow_a_client_is_served_in_pieces_of_any_size() {
    let (mut bench, first, second, server) = two();
    for text in ["select 1", "set datestyle = German", "discard all", "set local work_mem = 1"] {
        bench.say_slowly(first, &query(text));
        assert_eq!(bench.take(server), query(text));
        bench.say(server, &done("DONE", Status::Idle));
        assert_eq!(bench.tags(first), "CZ");
        bench.say(second, &query("b"));
        assert!(bench.take(server).ends_with(&query("b")), "{text}");
        bench.say(server, &done("B", Status::Idle));
    }
}

#[test]
fn refusal_within_a_batch_that_has_failed_is_skipped_with_the_rest() {
    let (mut bench, first, _, server) = two();
    bench.say(first, &[batch("", Some("bad"), false), query("listen c")].concat());
    bench.take(server);
    bench.say(server, &error("ERROR", "42601"));
    assert_eq!(states(&bench.take(first)), [*b"42601"]);
    let mut sync = query("listen d");
    frontend::write::sync(&mut sync);
    bench.say(first, &sync);
    bench.take(server);
    let mut ready = Vec::new();
    backend::write::ready(&mut ready, Status::Idle);
    bench.say(server, &ready);
    assert_eq!(bench.tags(first), "Z");
    bench.say(first, &batch("", Some("select 1"), true));
    bench.say(server, &batch_done(true, Status::Idle));
    assert_eq!(bench.tags(first), "12CZ");
}

#[test]
fn text_that_is_too_large_to_be_looked_at_is_refused_for_its_size() {
    let text = "x".repeat(COLLECT_BYTES_MAX);
    for (asked, sent) in [(query(&text), "Q"), (batch("a", Some(&text), true), "DBES")] {
        let (mut bench, first, second, server) = two();
        for piece in asked.chunks(100_000) {
            bench.say(first, piece);
        }
        bench.say(second, &query("b"));
        assert_eq!(tags(&bench.take(server)), sent);
        bench.say(server, &failed("42601", Status::Idle));
        let told = bench.take(first);
        assert_eq!(states(&told), [*b"0A000"]);
        assert!(message(&told).contains("too large"), "{told:?}");
        assert_eq!(bench.take(server), query("b"));
    }
}

#[test]
fn session_of_its_own_may_leave_what_it_likes() {
    let mut shop = database("db:1", 1);
    (shop.refuses_state, shop.mode) = (true, PoolMode::Session);
    let mut bench = Bench::with(config(alloc::vec![("shop", shop)]));
    let client = bench.begin_client(&[]);
    let server = bench.open_all()[0];
    bench.say(client, &query("listen c"));
    assert_eq!(bench.take(server), query("listen c"));
}
