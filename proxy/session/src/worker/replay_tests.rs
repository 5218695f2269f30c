//! Batches that are sent once more, since the tables of their statement have changed.

use alloc::vec::Vec;

use pgx_wire::backend::{self, Status};
use pgx_wire::frontend::{self, PORTAL, STATEMENT};

use super::testing::{Bench, batch, batch_done, done, query, stale, tags};
use super::tests::{states, two};
use crate::limits::REPLAY_BYTES_MAX;
use crate::net::Socket;

/// Two clients that have given one statement the name `s`, and its server.
fn prepared() -> (Bench, Socket, Socket, Socket) {
    let (mut bench, first, second, server) = two();
    for (client, has_parse) in [(first, true), (second, false)] {
        bench.say(client, &batch("s", Some("select 1"), true));
        bench.say(server, &batch_done(has_parse, Status::Idle));
        bench.take(client);
    }
    bench.take(server);
    (bench, first, second, server)
}

/// Bind, Describe and Execute, as a driver sends them that asks for the shape of rows.
fn described(value: &[u8], has_sync: bool) -> Vec<u8> {
    let bytes = u32::try_from(value.len()).unwrap().to_be_bytes();
    let rest = [&[0, 0, 0, 1][..], &bytes, value, &[0, 0]].concat();
    let mut out = Vec::new();
    frontend::write::bind_head(&mut out, b"", b"s", rest.len());
    out.extend_from_slice(&rest);
    frontend::write::describe(&mut out, PORTAL, b"");
    frontend::write::execute(&mut out, b"", 0);
    if has_sync {
        frontend::write::sync(&mut out);
    }
    out
}

fn failed(status: Status) -> Vec<u8> {
    let mut out = stale();
    backend::write::ready(&mut out, status);
    out
}

/// What a server says to what is prepared anew, and to the batch.
fn served() -> Vec<u8> {
    let mut out = Vec::new();
    backend::write::close_complete(&mut out);
    backend::write::parse_complete(&mut out);
    backend::write::bind_complete(&mut out);
    backend::write::no_data(&mut out);
    out.extend_from_slice(&done("SELECT 0", Status::Idle));
    out
}

#[test]
fn batch_that_describes_its_rows_is_sent_once_more_and_its_client_notices_nothing() {
    let (mut bench, first, second, server) = prepared();
    bench.say_slowly(first, &described(b"x", true));
    let sent = bench.take(server);
    bench.say(second, &query("b"));
    bench.say_slowly(server, &failed(Status::Idle));
    assert_eq!(bench.take(first), b"");
    let again = bench.take(server);
    assert_eq!(tags(&again), "CPBDES");
    assert!(again.ends_with(&sent), "the batch as it was");
    let text = |text: &[u8]| again.windows(text.len()).any(|window| window == text);
    assert!(text(b"pgx_1\0select 1\0"), "under the name that it had");
    bench.say_slowly(server, &served());
    assert_eq!(bench.tags(first), "2nCZ");
    assert_eq!(bench.take(server), query("b"), "the server is free");
    bench.say(server, &done("B", Status::Idle));

    // It knows the tables now, and the next error is no longer mended.
    bench.say(first, &described(b"y", true));
    assert_eq!(tags(&bench.take(server)), "BDES");
    bench.say(server, &served()[10..]);
    assert_eq!(bench.tags(first), "2nCZ");
    let third = bench.client();
    bench.say(third, &batch("s", Some("select 1"), true));
    let sent = bench.take(server);
    assert!(sent.windows(6).any(|window| window == b"pgx_2\0"), "others prepare it anew");
}

#[test]
fn second_failure_of_a_batch_reaches_its_client() {
    let (mut bench, first, _, server) = prepared();
    bench.say(first, &described(b"x", true));
    bench.say(server, &failed(Status::Idle));
    bench.take(server);
    bench.say(server, &[&served()[..10], &failed(Status::Idle)].concat());
    let told = bench.take(first);
    assert_eq!((tags(&told).as_str(), states(&told)), ("EZ", [*b"0A000"].to_vec()));
    assert_eq!(bench.take(server), b"");
}

#[test]
fn statement_that_cannot_be_prepared_any_more_is_told_so() {
    let (mut bench, first, _, server) = prepared();
    bench.say(first, &described(b"x", true));
    bench.say(server, &failed(Status::Idle));
    bench.take(server);
    let mut gone = served()[..5].to_vec();
    gone.extend_from_slice(&super::testing::error("ERROR", "42P01"));
    backend::write::ready(&mut gone, Status::Idle);
    bench.say(server, &gone);
    let told = bench.take(first);
    assert_eq!((tags(&told).as_str(), states(&told)), ("EZ", [*b"42P01"].to_vec()));
    bench.say(first, &described(b"x", true));
    assert_eq!(tags(&bench.take(server)), "PBDES", "it is not there");
}

#[test]
fn client_that_prepares_what_others_had_before_gets_it_as_it_is_now() {
    let (mut bench, first, _, server) = prepared();
    let mut prepares = Vec::new();
    frontend::write::parse(&mut prepares, b"t", b"select 1", &[]);
    frontend::write::describe(&mut prepares, STATEMENT, b"t");
    frontend::write::sync(&mut prepares);
    let parameters = b"t\0\0\0\x06\0\0";
    bench.say(first, &prepares);
    assert_eq!(bench.tags(first), "1", "others had it");
    bench.take(server);
    bench.say_slowly(server, &[parameters, &failed(Status::Idle)[..]].concat());
    assert_eq!(bench.take(first), b"", "the parameters are held back");
    assert_eq!(tags(&bench.take(server)), "CPDS");
    bench.say(server, &[&served()[..10], parameters].concat());
    let mut rest = Vec::new();
    backend::write::no_data(&mut rest);
    backend::write::ready(&mut rest, Status::Idle);
    bench.say(server, &rest);
    assert_eq!(bench.tags(first), "tnZ");
}

/// The client reads the error, and nothing is sent again.
fn is_told(bench: &mut Bench, client: Socket, server: Socket, status: Status) {
    bench.take(server);
    bench.take(client);
    bench.say(server, &stale());
    let told = bench.take(client);
    assert_eq!((tags(&told).as_str(), states(&told)), ("E", [*b"0A000"].to_vec()));
    let mut ready = Vec::new();
    backend::write::ready(&mut ready, status);
    bench.say(server, &ready);
    assert_eq!(bench.take(server), b"");
}

#[test]
fn batch_is_not_sent_again_where_that_could_be_noticed() {
    // It does not say how its rows look.
    let (mut bench, first, _, server) = prepared();
    bench.say(first, &batch("s", None, true));
    is_told(&mut bench, first, server, Status::Idle);

    // In a block, which has failed.
    let (mut bench, first, _, server) = prepared();
    bench.say(first, &query("begin"));
    bench.say(server, &done("BEGIN", Status::Block));
    bench.say(first, &described(b"x", true));
    is_told(&mut bench, first, server, Status::Failed);

    // Behind another query in its flight.
    let (mut bench, first, _, server) = prepared();
    bench.say(first, &[query("a"), described(b"x", true)].concat());
    bench.say(server, &done("A", Status::Idle));
    is_told(&mut bench, first, server, Status::Idle);

    // Another batch is behind it.
    let (mut bench, first, _, server) = prepared();
    bench.say(first, &[described(b"x", true), described(b"y", true)].concat());
    is_told(&mut bench, first, server, Status::Idle);

    // It has not ended.
    let (mut bench, first, _, server) = prepared();
    bench.say(first, &described(b"x", false));
    bench.say(server, &stale());
    assert_eq!(
        (states(&bench.take(first)), bench.tags(server).as_str()),
        ([*b"0A000"].to_vec(), "BDE")
    );

    // Something was said of it.
    let (mut bench, first, _, server) = prepared();
    bench.say(first, &described(b"x", true));
    bench.say(server, &batch_done(false, Status::Idle)[..5]);
    is_told(&mut bench, first, server, Status::Idle);

    // It is larger than what is kept.
    let (mut bench, first, _, server) = prepared();
    bench.say(first, &described(&[b'x'; REPLAY_BYTES_MAX], true));
    is_told(&mut bench, first, server, Status::Idle);
}

#[test]
fn parameters_that_were_held_back_come_before_the_error() {
    let (mut bench, first, _, server) = prepared();
    let mut asked = Vec::new();
    frontend::write::describe(&mut asked, STATEMENT, b"s");
    frontend::write::sync(&mut asked);
    bench.say(first, &asked);
    let mut answered = b"t\0\0\0\x06\0\0".to_vec();
    answered.extend_from_slice(&super::testing::error("ERROR", "XX000"));
    backend::write::ready(&mut answered, Status::Idle);
    bench.say_slowly(server, &answered);
    assert_eq!(bench.take(first), answered);
}

#[test]
fn batch_is_not_sent_again_once_its_parameters_were_told() {
    let (mut bench, first, _, server) = prepared();
    let mut asked = Vec::new();
    frontend::write::describe(&mut asked, STATEMENT, b"s");
    frontend::write::sync(&mut asked);
    bench.say(first, &asked);
    let mut answered = b"t\0\0\0\x06\0\0".to_vec();
    backend::write::parameter_status(&mut answered, b"TimeZone", b"GMT");
    bench.say(server, &answered);
    assert_eq!(bench.take(first), answered);
    is_told(&mut bench, first, server, Status::Idle);
}
