//! What is true of a transaction whose server was lost, and what a client can do behind it.

use alloc::string::String;
use alloc::vec::Vec;

use pgx_wire::backend::Status;
use pgx_wire::frontend;

use super::testing::{Bench, batch, done, query, tags};
use super::tests::{states, two};
use crate::net::Socket;

/// A client in a block that has done something, and its server.
fn in_block() -> (Bench, Socket, Socket) {
    let (mut bench, client, _, server) = two();
    bench.say(client, &query("begin"));
    bench.say(server, &done("BEGIN", Status::Block));
    bench.take(client);
    bench.take(server);
    (bench, client, server)
}

/// What a client is told that had sent this in a block when its server was lost: the code, and
/// what becomes of the block.
fn told_of(asked: &[u8]) -> ([u8; 5], char) {
    let (mut bench, client, server) = in_block();
    bench.say(client, asked);
    bench.end(server);
    let told = bench.take(client);
    (states(&told)[0], char::from(*told.last().expect("an answer")))
}

const UNDONE: [u8; 5] = *b"40001";
const UNKNOWN: [u8; 5] = *b"08007";

#[test]
fn statement_in_a_block_is_undone_with_it_in_either_protocol() {
    for asked in [
        query("insert into t values (1)"),
        query("rollback"),
        query("rollback to s"),
        batch("", Some("insert into t values ($1)"), true),
        batch("", Some("rollback"), true),
    ] {
        assert_eq!(told_of(&asked), (UNDONE, 'E'), "{asked:?}");
    }
}

#[test]
fn what_may_be_behind_the_end_of_a_block_is_not_called_undone() {
    let rollback = || batch("", Some("rollback"), false);
    let insert = || batch("", Some("insert into t values (1)"), true);
    for asked in [
        query("commit"),
        query("rollback; insert into t values (1)"),
        query("/* a */ abort; begin; insert into t values (1); commit"),
        [query("rollback"), query("insert into t values (1)")].concat(),
        [rollback(), insert()].concat(),
        [batch("", Some("rollback"), true), insert()].concat(),
        batch("", Some("commit"), true),
    ] {
        assert_eq!(told_of(&asked), (UNKNOWN, 'I'), "{asked:?}");
    }
}

/// What a client is told that sends this behind the loss of its block, once it has been told so or
/// before, and the block's state then.
fn told_behind(asked: &[u8], is_told: bool) -> (String, Option<[u8; 5]>, char) {
    let (mut bench, client, server) = in_block();
    bench.end(server);
    if is_told {
        bench.say(client, &query("select 1"));
        assert_eq!(states(&bench.take(client)), [UNDONE]);
    }
    bench.say(client, asked);
    let told = bench.take(client);
    assert!(bench.wire.connects.is_empty(), "nothing is run");
    (tags(&told), states(&told).first().copied(), char::from(*told.last().expect("an answer")))
}

#[test]
fn block_whose_server_is_gone_ends_by_each_word_for_it() {
    for text in [
        "rollback",
        "/* app:web */ ROLLBACK WORK;",
        "-- x\nabort transaction",
        "rollback /* to be safe */ and no chain;;",
    ] {
        for is_told in [false, true] {
            let told = told_behind(&query(text), is_told);
            assert_eq!(told, ("CZ".into(), None, 'I'), "{text}");
            let told = told_behind(&batch("", Some(text), true), is_told);
            assert_eq!(told, ("12CZ".into(), None, 'I'), "{text}");
        }
    }
}

#[test]
fn what_was_to_happen_with_the_end_of_a_block_is_an_error_and_not_left_out() {
    for text in [
        "commit",
        "end; insert into t values (1)",
        "rollback; insert into t values (1)",
        "rollback; begin",
        "prepare transaction 'x'",
    ] {
        for is_told in [false, true] {
            let told = told_behind(&query(text), is_told);
            assert_eq!(told, ("EZ".into(), Some(UNDONE), 'I'), "{text}");
        }
    }
}

#[test]
fn block_whose_server_is_gone_does_not_go_on() {
    for text in ["rollback to savepoint s", "rollback and chain", "commit work and chain"] {
        let told = told_behind(&query(text), true);
        assert_eq!(told, ("EZ".into(), Some(UNDONE), 'E'), "{text}");
    }
    for text in [
        "/* commit hook */ insert into t values (1)",
        "-- rollback\nselect 1",
        "commit prepared 'x'",
        "select 1; rollback",
    ] {
        let told = told_behind(&query(text), true);
        assert_eq!(told, ("EZ".into(), Some(*b"25P02"), 'E'), "{text}");
    }
    assert_eq!(told_behind(&query("; -- x"), true), ("IZ".into(), None, 'E'));
}

#[test]
fn loss_behind_an_answer_in_the_same_flight_tells_of_what_is_left() {
    let (mut bench, client, server) = in_block();
    bench.say(client, &[query("rollback"), query("insert into t values (1)")].concat());
    bench.say(server, &done("ROLLBACK", Status::Idle));
    bench.take(client);
    bench.end(server);
    assert_eq!(states(&bench.take(client)), [UNKNOWN]);
    let mut sync = Vec::new();
    frontend::write::sync(&mut sync);
    bench.say(client, &sync);
    assert_eq!(bench.tags(client), "Z");
}
