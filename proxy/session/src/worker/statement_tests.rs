//! Statement mode: servers are shared as in transaction mode, and blocks are refused.

use alloc::vec::Vec;

use pgx_wire::backend::Status;

use super::testing::{Bench, batch, batch_done, done, error, query, tags};
use super::tests::states;
use crate::config::PoolMode;
use crate::net::Socket;

/// A bench with one server, and two clients that share it.
fn two() -> (Bench, Socket, Socket, Socket) {
    let mut bench = Bench::new(PoolMode::Statement, 1);
    let first = bench.begin_client(&[]);
    let server = bench.open_all()[0];
    bench.take(first);
    let second = bench.client();
    (bench, first, second, server)
}

#[test]
fn what_leaves_no_block_open_is_served_and_its_server_shared() {
    let (mut bench, first, second, server) = two();
    let mut three = Vec::new();
    for command in ["BEGIN", "INSERT 0 1"] {
        pgx_wire::backend::write::command_complete(&mut three, command.as_bytes());
    }
    three.extend_from_slice(&done("COMMIT", Status::Idle));
    let cases = [
        (query("begin; insert; commit"), three),
        (batch("", Some("select 1"), true), batch_done(true, Status::Idle)),
    ];
    for (asked, answered) in cases {
        bench.say(first, &asked);
        bench.say(second, &query("b"));
        assert_eq!(bench.take(server), asked);
        bench.say(server, &answered);
        assert!(bench.tags(first).ends_with('Z'));
        assert_eq!(bench.take(server), query("b"));
        bench.say(server, &done("B", Status::Idle));
        bench.take(second);
    }
}

#[test]
fn block_ends_its_client_and_is_rolled_back_before_the_next() {
    let mut failed = error("ERROR", "42601");
    pgx_wire::backend::write::ready(&mut failed, Status::Failed);
    let cases = [
        (query("begin"), done("BEGIN", Status::Block), "CE"),
        (batch("", Some("begin"), true), batch_done(true, Status::Block), "12CE"),
        (query("begin; fail"), failed, "EE"),
    ];
    for (asked, answered, expected) in cases {
        let (mut bench, first, second, server) = two();
        bench.say(first, &asked);
        bench.say(second, &query("b"));
        bench.take(server);
        bench.say_slowly(server, &answered);
        let told = bench.take(first);
        assert_eq!(tags(&told), expected);
        assert_eq!(states(&told).last(), Some(b"0A000"));
        assert!(told.windows(5).any(|window| window == b"FATAL"));
        assert!(bench.is_closed(first) && !bench.is_closed(server));
        assert_eq!(bench.take(server), query("ROLLBACK"));
        bench.say(server, &done("ROLLBACK", Status::Idle));
        assert_eq!(bench.take(server), query("b"));
    }
}

#[test]
fn block_with_more_behind_it_ends_with_its_server() {
    let (mut bench, first, second, server) = two();
    bench.say(first, &[query("begin"), query("insert"), query("commit")].concat());
    bench.say(second, &query("b"));
    let answers: Vec<u8> =
        [done("BEGIN", Status::Block), done("INSERT", Status::Block), done("COMMIT", Status::Idle)]
            .concat();
    bench.say(server, &answers);
    assert_eq!(bench.tags(first), "CE", "and nothing of what follows");
    assert!(bench.is_closed(first) && bench.is_closed(server));
    let server = bench.open_all()[0];
    assert_eq!(bench.take(server), query("b"));
}
