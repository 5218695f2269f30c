//! Names of the protocol that are taken back in SQL.

use alloc::vec::Vec;

use pgx_wire::backend::{self, Status};

use super::testing::{Bench, batch, batch_done, done, error, query, tags};
use super::tests::{states, two};
use crate::net::Socket;

/// What a server answers to a query without a statement.
fn empty(status: Status) -> Vec<u8> {
    let mut out = b"I\0\0\0\x04".to_vec();
    backend::write::ready(&mut out, status);
    out
}

/// The first client has given a statement the name `s`.
fn prepared() -> (Bench, Socket, Socket, Socket) {
    let (mut bench, first, second, server) = two();
    bench.say(first, &batch("s", Some("select 1"), true));
    bench.say(server, &batch_done(true, Status::Idle));
    bench.take(server);
    bench.take(first);
    (bench, first, second, server)
}

/// Whether the client's name means its statement still.
fn knows(bench: &mut Bench, client: Socket, server: Socket) -> bool {
    bench.say(client, &batch("s", None, true));
    let sent = bench.take(server);
    sent.windows(6).any(|window| window == b"pgx_1\0")
}

#[test]
fn name_that_is_taken_back_in_sql_is_gone_and_its_statement_serves_others() {
    for text in ["DEALLOCATE s", "deallocate prepare \"s\" ;"] {
        let (mut bench, first, second, server) = prepared();
        bench.say_slowly(first, &query(text));
        assert_eq!(bench.take(server), query(""));
        bench.say_slowly(server, &empty(Status::Idle));
        assert_eq!(bench.take(first), done("DEALLOCATE", Status::Idle));
        bench.say(second, &batch("t", Some("select 1"), true));
        assert_eq!(tags(&bench.take(server)), "BES", "the server is shared, and has it");
        bench.say(server, &batch_done(false, Status::Idle));
        assert!(!knows(&mut bench, first, server));
    }
}

#[test]
fn name_is_back_if_the_block_had_failed_or_the_query_was_cancelled() {
    let mut cancelled = error("ERROR", "57014");
    backend::write::ready(&mut cancelled, Status::Failed);
    let failed = Status::Failed;
    for (before, answer, code) in
        [(failed, empty(failed), b"25P02"), (Status::Block, cancelled, b"57014")]
    {
        let (mut bench, first, _, server) = prepared();
        bench.say(first, &[query("begin"), query("x"), query("deallocate s")].concat());
        bench.say(server, &done("BEGIN", Status::Block));
        bench.say(server, &done("X", before));
        bench.take(first);
        bench.say(server, &answer);
        let told = bench.take(first);
        assert_eq!((states(&told), tags(&told).as_str()), ([*code].to_vec(), "EZ"));
        bench.take(server);
        assert!(knows(&mut bench, first, server), "{code:?}");
    }
}

#[test]
fn name_is_back_if_the_batch_before_it_has_failed() {
    let (mut bench, first, _, server) = prepared();
    bench.say(first, &[batch("", Some("bad"), false), query("deallocate s")].concat());
    bench.say(server, &error("ERROR", "42601"));
    let mut sync = Vec::new();
    pgx_wire::frontend::write::sync(&mut sync);
    bench.say(first, &sync);
    bench.say(server, &empty(Status::Idle)[5..]);
    assert_eq!(bench.tags(first), "EZ");
    bench.take(server);
    assert!(knows(&mut bench, first, server));
}

#[test]
fn use_of_a_name_waits_until_it_is_known_to_be_taken_back() {
    let (mut bench, first, _, server) = prepared();
    bench.say(first, &[query("deallocate s"), batch("s", Some("select 2"), true)].concat());
    assert_eq!(bench.take(server), query(""));
    bench.say(server, &empty(Status::Idle));
    assert_eq!(tags(&bench.take(server)), "PBES", "it is free for another text");
}

#[test]
fn name_of_anothers_statement_cannot_be_taken_back() {
    let (mut bench, _, second, server) = prepared();
    bench.say(second, &query("deallocate pgx_1"));
    assert_eq!(bench.take(server), query("refused by pgx"));
    let mut failed = error("ERROR", "42601");
    backend::write::ready(&mut failed, Status::Idle);
    bench.say(server, &failed);
    assert_eq!(states(&bench.take(second)), [*b"26000"]);
    bench.say(second, &query("deallocate other"));
    assert_eq!(bench.take(server), query("deallocate other"), "the server has the words for it");
}

#[test]
fn end_of_all_names_does_not_keep_its_server() {
    let (mut bench, first, second, server) = prepared();
    bench.say(first, &query("deallocate all"));
    bench.say(server, &done("DEALLOCATE ALL", Status::Idle));
    bench.take(server);
    bench.say(second, &batch("t", Some("select 1"), true));
    assert_eq!(tags(&bench.take(server)), "PBES", "it is prepared once more");
    bench.say(server, &batch_done(true, Status::Idle));
    assert!(!knows(&mut bench, first, server));
}

#[test]
fn what_an_old_text_without_a_name_sets_follows_its_client() {
    let (mut bench, first, second, server) = two();
    let mut parse = Vec::new();
    pgx_wire::frontend::write::parse(&mut parse, b"", b"set datestyle = German", &[]);
    pgx_wire::frontend::write::sync(&mut parse);
    bench.say(first, &parse);
    let mut parsed = b"1\0\0\0\x04".to_vec();
    backend::write::ready(&mut parsed, Status::Idle);
    bench.say(server, &parsed);
    bench.say(first, &batch("", None, true));
    // It is prepared once more.
    let mut changed = b"1\0\0\0\x042\0\0\0\x04".to_vec();
    backend::write::parameter_status(&mut changed, b"DateStyle", b"German");
    changed.extend_from_slice(&done("SET", Status::Idle));
    bench.say(server, &changed);
    bench.take(server);
    bench.say(second, &query("b"));
    assert_eq!(bench.take(server), [query("RESET datestyle;"), query("b")].concat());
}

#[test]
fn end_of_all_names_that_failed_slows_nobody_down_later() {
    let (mut bench, first, second, server) = prepared();
    bench.say(second, &query("deallocate all"));
    let mut failed = error("ERROR", "57014");
    backend::write::ready(&mut failed, Status::Idle);
    bench.say(server, &failed);
    bench.take(server);
    bench.say(first, &[query("a"), batch("s", None, true)].concat());
    assert_eq!(tags(&bench.take(server)), "QCPBES", "it may be there or not; nothing waits");
}
