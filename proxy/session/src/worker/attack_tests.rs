//! What clients and servers may do that is unkind, late, or rubbish.

use alloc::vec::Vec;

use pgx_wire::Frames;
use pgx_wire::backend::{self, Status};
use pgx_wire::frontend::{self, Parse};

use super::hold::Scope;
use super::testing::{Bench, FIRST_PROCESS, batch, batch_done, done, error, query, tags};
use super::tests::{states, two};
use crate::config::PoolMode;
use crate::limits::{COLLECT_BYTES_MAX, SWEEP_MIN};
use crate::net::Socket;
use crate::route::{Epoch, ServerAddress, Snapshot};

fn ready(status: Status) -> Vec<u8> {
    let mut out = Vec::new();
    backend::write::ready(&mut out, status);
    out
}

fn reported(name: &str, value: &str) -> Vec<u8> {
    let mut out = Vec::new();
    backend::write::parameter_status(&mut out, name.as_bytes(), value.as_bytes());
    out
}

fn close(name: &str) -> Vec<u8> {
    let mut out = Vec::new();
    frontend::write::close(&mut out, b'S', name.as_bytes());
    out
}

fn sync() -> Vec<u8> {
    let mut out = Vec::new();
    frontend::write::sync(&mut out);
    out
}

/// A client with a setting of its own, a plain one, and their server.
fn german() -> (Bench, Socket, Socket, Socket) {
    let (mut bench, _, plain, server) = two();
    let german = bench.client_with(&[("DateStyle", "German")]);
    (bench, german, plain, server)
}

#[test]
fn answer_that_comes_twice_is_not_the_next_clients_even_if_that_waits() {
    let (mut bench, first, second, server) = two();
    bench.say(first, &query("a"));
    bench.say(second, &query("b"));
    let twice = [done("A", Status::Idle), done("A", Status::Idle)].concat();
    bench.say(server, &twice);
    assert_eq!((bench.tags(first).as_str(), bench.tags(second).as_str()), ("CZ", ""));
    assert!(bench.is_closed(server));
    let server = bench.open_all()[0];
    assert_eq!(bench.take(server), query("b"));
}

#[test]
fn idle_server_that_talks_is_given_to_nobody() {
    for rubbish in [done("A", Status::Idle), error("ERROR", "XX000"), ready(Status::Block)] {
        let (mut bench, first, _, server) = two();
        bench.say(server, &rubbish);
        assert!(bench.is_closed(server), "{rubbish:?}");
        bench.say(first, &query("a"));
        let server = bench.open_all()[0];
        assert_eq!(bench.take(server), query("a"));
    }
}

#[test]
fn server_that_cannot_be_cleared_is_closed_and_its_place_is_free() {
    for failure in [error("ERROR", "57014"), done("ROLLBACK", Status::Failed)] {
        let (mut bench, first, second, server) = two();
        bench.say(first, &query("begin"));
        bench.say(server, &done("BEGIN", Status::Block));
        bench.end(first);
        bench.say(second, &query("b"));
        bench.say(server, &failure);
        assert!(bench.is_closed(server));
        assert_eq!(bench.open_all().len(), 1, "another is opened in its place");
    }
}

#[test]
fn cancel_does_not_hit_the_clearing_of_a_server() {
    let (mut bench, first, second, server) = two();
    bench.say(first, &query("listen c"));
    let cancel = bench.cancel(FIRST_PROCESS).unwrap();
    bench.say(server, &done("LISTEN", Status::Idle));
    bench.end(first);
    bench.say(second, &query("b"));
    bench.say(server, &error("ERROR", "57014"));
    assert!(bench.is_closed(server));
    bench.end(cancel);
    let server = bench.open_all()[0];
    assert_eq!(bench.take(server), query("b"));
}

#[test]
fn client_that_leaves_while_its_cancel_is_on_its_way_leaves_nothing_behind() {
    let (mut bench, first, second, server) = two();
    bench.say(first, &query("a"));
    bench.take(server);
    let cancel = bench.cancel(FIRST_PROCESS).unwrap();
    bench.say(server, &done("A", Status::Idle));
    bench.end(first);
    bench.say(second, &query("b"));
    assert_eq!(bench.take(server), b"");
    bench.end(cancel);
    assert_eq!(bench.take(server), query("b"));
}

#[test]
fn cancel_waits_for_no_settings() {
    let (mut bench, german, _, server) = german();
    bench.say(german, &query("a"));
    assert!(bench.cancel(FIRST_PROCESS + 2).is_none(), "it would hit the settings");
    bench.take(server);
    bench.say(server, &done("SELECT 1", Status::Idle));
    assert_eq!(bench.take(server), query("a"));
    assert!(bench.cancel(FIRST_PROCESS + 2).is_some());
}

#[test]
fn query_does_not_run_where_its_settings_are_refused() {
    let (mut bench, german, plain, server) = german();
    bench.say(german, &query("insert"));
    assert_eq!(tags(&bench.take(server)), "Q", "the settings alone");
    bench.say(server, &error("ERROR", "22023"));
    assert_eq!(states(&bench.take(german)), [*b"22023"]);
    assert!(bench.is_closed(german));
    assert_eq!(tags(&bench.take(server)), "X");
    bench.say(plain, &query("b"));
    let server = bench.open_all()[0];
    assert_eq!(bench.take(server), query("b"));
}

#[test]
fn loss_while_settings_are_set_is_not_noticed() {
    for farewell in [Vec::new(), error("FATAL", "57P01"), error("FATAL", "XX000")] {
        let (mut bench, german, _, server) = german();
        bench.say(german, &query("insert"));
        bench.say(server, &farewell);
        bench.end_if_open(server);
        assert_eq!(bench.take(german), b"");
        let server = bench.open_all()[0];
        assert_eq!(tags(&bench.take(server)), "Q", "the settings first");
        bench.say(server, &[reported("DateStyle", "German"), done("S", Status::Idle)].concat());
        assert_eq!(bench.take(server), query("insert"), "sent once");
    }
}

#[test]
fn settings_that_were_taken_once_go_in_the_flight_of_the_query() {
    let (mut bench, german, plain, server) = german();
    bench.say(german, &query("a"));
    bench.say(server, &[reported("DateStyle", "German"), done("S", Status::Idle)].concat());
    bench.say(server, &done("A", Status::Idle));
    bench.say(plain, &query("b"));
    bench.say(server, &[reported("DateStyle", "ISO"), done("RESET", Status::Idle)].concat());
    bench.say(server, &done("B", Status::Idle));
    bench.take(server);
    bench.take(german);
    bench.say(german, &query("c"));
    assert_eq!(tags(&bench.take(server)), "QQ");
    bench.say(server, &error("ERROR", "57014"));
    assert_eq!(states(&bench.take(german)), [*b"08007"], "its query may run without them");
    assert!(bench.is_closed(server) && !bench.is_closed(german));
}

#[test]
fn who_acts_and_what_servers_only_tell_is_never_carried() {
    for name in ["is_superuser", "session_authorization", "in_hot_standby"] {
        let (mut bench, first, second, server) = two();
        bench.say(first, &query("begin"));
        bench.say(server, &done("BEGIN", Status::Block));
        bench.say(first, &query("set local role bob"));
        bench.say(server, &[reported(name, "off"), done("SET", Status::Block)].concat());
        bench.say(first, &query("commit"));
        bench.say(server, &[reported(name, "on"), done("COMMIT", Status::Idle)].concat());
        bench.take(server);
        bench.say(second, &query("b"));
        assert_eq!(bench.take(server), query("b"), "{name}");
    }
}

#[test]
fn role_in_a_disguise_keeps_its_server() {
    for text in ["-- set local\nset role bob", "set /* local */ role bob", "/* update */set role b"]
    {
        let (mut bench, first, second, server) = two();
        bench.say(first, &query(text));
        bench.say(server, &done("SET", Status::Idle));
        bench.take(server);
        bench.say(second, &query("b"));
        assert_eq!(bench.take(server), b"", "{text}");
    }
}

#[test]
fn end_of_a_server_that_nobody_asked_for_is_not_forwarded() {
    let (mut bench, first, _, server) = two();
    bench.say(first, &query("begin"));
    bench.say(server, &done("BEGIN", Status::Block));
    bench.take(first);
    bench.say(server, &error("FATAL", "25P03"));
    bench.end_if_open(server);
    assert_eq!(bench.take(first), b"");
    bench.say(first, &query("a"));
    assert_eq!(states(&bench.take(first)), [*b"40001"]);
}

#[test]
fn end_that_answers_a_request_is_the_clients_end() {
    let (mut bench, first, _, server) = two();
    bench.say(first, &query("a"));
    bench.say(server, &error("FATAL", "08P01"));
    bench.end(server);
    assert_eq!(states(&bench.take(first)), [*b"08P01"]);
    assert!(bench.is_closed(first));
}

#[test]
fn batch_behind_one_that_ended_is_answered_as_well() {
    let (mut bench, first, _, server) = two();
    bench.say(first, &[batch("", Some("a"), true), batch("", Some("b"), false)].concat());
    bench.end(server);
    let answer = bench.take(first);
    assert_eq!((tags(&answer).as_str(), states(&answer).len()), ("EZE", 2));
    bench.say(first, &sync());
    assert_eq!(bench.tags(first), "Z");
}

#[test]
fn query_ends_a_batch_as_a_sync_does() {
    let (mut bench, first, second, server) = two();
    bench.say(first, &[batch("", Some("a"), false), query("b")].concat());
    bench.say(second, &query("c"));
    bench.take(server);
    let answered = batch_done(true, Status::Idle);
    bench.say(server, &answered[..answered.len() - 6]);
    bench.say(server, &done("B", Status::Idle));
    assert_eq!(bench.take(server), query("c"));
}

#[test]
fn server_that_ends_within_a_message_of_nobodys_does_not_end_its_client() {
    let (mut bench, first, _, server) = two();
    // The notice began before the client came: none of it has been forwarded.
    bench.say(server, b"N\0\0\0\x20half");
    bench.say(first, &query("a"));
    bench.end(server);
    assert_eq!(states(&bench.take(first)), [*b"08007"]);
    assert!(!bench.is_closed(first));
}

#[test]
fn rest_of_a_message_is_not_the_next_clients() {
    let (mut bench, first, second, server) = two();
    bench.say(first, &query("a"));
    // The beginning of another message keeps the server.
    bench.say(first, b"Q");
    bench.say(server, &done("A", Status::Idle));
    bench.say(server, b"N\0\0\0\x0cha");
    bench.end(first);
    bench.say(second, &query("b"));
    assert!(bench.is_closed(server));
    let server = bench.open_all()[0];
    assert_eq!((bench.take(server), bench.take(second)), (query("b"), Vec::new()));
}

#[test]
fn message_that_needs_no_server_does_not_keep_one() {
    let (mut bench, first, second, server) = two();
    bench.say(first, &[query("a"), b"H\0".to_vec()].concat());
    bench.say(server, &done("A", Status::Idle));
    bench.say(second, &query("b"));
    bench.take(server);
    bench.say(first, b"\0\0\x04");
    assert!(bench.take(server).ends_with(&query("b")));
}

#[test]
fn names_behind_a_deallocate_in_the_same_flight_stay() {
    for command in ["deallocate all", "discard all"] {
        let (mut bench, client, _, server) = two();
        bench.say(client, &batch("old", Some("select 1"), true));
        bench.say(server, &batch_done(true, Status::Idle));
        bench.take(server);
        bench.take(client);
        let flight = [query(command), batch("new", Some("select 1"), true)].concat();
        bench.say(client, &flight);
        let sent = bench.take(server);
        assert_eq!(tags(&sent), "QCPBES", "what the server forgets is prepared again");
        bench.say(server, &done(&command.to_ascii_uppercase(), Status::Idle));
        let mut answered = Vec::new();
        backend::write::close_complete(&mut answered);
        answered.extend_from_slice(&batch_done(true, Status::Idle));
        bench.say(server, &answered);
        assert_eq!(bench.tags(client), "CZ12CZ", "{command}");
        bench.say(client, &batch("new", None, true));
        assert_eq!(tags(&bench.take(server)), "BES", "{command}");
        bench.say(server, &batch_done(false, Status::Idle));
        bench.take(client);
        bench.say(client, &batch("old", None, true));
        let sent = bench.take(server);
        assert!(sent.windows(4).any(|at| at == b"old\0"), "the server says that it is not there");
    }
}

#[test]
fn statement_of_another_cannot_be_had_by_its_name_on_servers() {
    let (mut bench, first, second, server) = two();
    bench.say(first, &batch("s", Some("select 'mine'"), true));
    bench.say(server, &batch_done(true, Status::Idle));
    for cut in 0..20 {
        bench.take(server);
        bench.take(second);
        let asked = batch("pgx_1", None, true);
        bench.say(second, &asked[..cut]);
        bench.say(second, &asked[cut..]);
        let sent = bench.take(server);
        assert!(!sent.windows(6).any(|at| at == b"pgx_1\0"), "cut at {cut}");
        bench.say(server, &[error("ERROR", "26000"), ready(Status::Idle)].concat());
        assert_eq!(states(&bench.take(second)), [*b"26000"]);
    }
}

#[test]
fn large_statement_without_a_name_is_the_one_that_runs() {
    let (mut bench, client, other, server) = two();
    bench.say(client, &batch("", Some("select 'old'"), true));
    bench.say(server, &batch_done(true, Status::Idle));
    bench.say(other, &query("a"));
    bench.say(server, &done("A", Status::Idle));
    bench.take(server);
    let text = alloc::format!("select '{}'", "x".repeat(COLLECT_BYTES_MAX));
    bench.say(client, &batch("", Some(&text), true));
    let sent = bench.take(server);
    let mut frames = Frames::new(&sent);
    let mut last = 0;
    while let Some(frame) = frames.next_frame().unwrap() {
        match frame.tag {
            b'P' => last = Parse::read(frame.body).unwrap().text.len(),
            b'B' => assert_eq!(last, text.len(), "another statement is bound"),
            _ => {}
        }
    }
}

#[test]
fn texts_of_closed_statements_are_forgotten() {
    let (mut bench, client, _, server) = two();
    for number in 0..10 * SWEEP_MIN {
        let text = alloc::format!("select {number}");
        bench.say(client, &[batch("s", Some(&text), false), close("s"), sync()].concat());
        let sent = tags(&bench.take(server));
        let mut answered = Vec::new();
        if sent.starts_with('C') {
            backend::write::close_complete(&mut answered);
        }
        answered.extend_from_slice(&batch_done(true, Status::Idle));
        bench.say(server, &answered);
    }
    assert!(bench.worker.statements.len() <= 2 * SWEEP_MIN, "nobody uses them");
}

#[test]
fn endless_replies_that_need_no_server_are_bounded() {
    let (mut bench, client, _, server) = two();
    bench.say(client, &batch("s", Some("select pg_sleep(9)"), false));
    bench.take(server);
    let many = close("x").repeat(1_000);
    for _ in 0..100 {
        if !bench.is_closed(client) {
            bench.say(client, &many);
        }
    }
    assert_eq!(states(&bench.take(client)), [*b"08P01"]);
}

#[test]
fn client_that_does_not_read_what_the_proxy_answers_is_not_read_from() {
    let (mut bench, client, _, _) = two();
    bench.wire.blocked.insert(client);
    bench.say(client, &sync());
    assert!(bench.wire.paused.contains(&client));
    bench.wire.blocked.remove(&client);
    bench.drained(client);
    assert!(!bench.wire.paused.contains(&client));
}

#[test]
fn server_whose_login_began_before_a_change_of_primary_is_not_used() {
    let (mut bench, client, _, server) = two();
    bench.end(server);
    bench.say(client, &query("a"));
    let backends = alloc::vec![ServerAddress("new:5432".into()).into()];
    let snapshot = Snapshot { epoch: Epoch(1), backends };
    bench.worker.handle_snapshot(
        &mut bench.wire,
        Scope::Database(b"shop"),
        &snapshot,
        0,
        bench.now,
    );
    let old = bench.open_all()[0];
    assert!(bench.is_closed(old));
    let new = bench.open_all()[0];
    assert_eq!((tags(&bench.take(old)), bench.take(new)), ("X".into(), query("a")));
}

#[test]
fn name_that_is_closed_in_a_failed_block_is_free() {
    let (mut bench, client, _, server) = two();
    bench.say(client, &batch("s", Some("select 1"), true));
    bench.say(server, &batch_done(true, Status::Idle));
    bench.say(client, &query("begin"));
    bench.say(server, &done("BEGIN", Status::Block));
    bench.take(client);
    bench.end(server);
    bench.say(client, &[close("s"), sync(), query("rollback")].concat());
    assert_eq!(bench.tags(client), "3ZCZ");
    bench.say(client, &batch("s", Some("select 2"), true));
    let server = bench.open_all()[0];
    assert_eq!(tags(&bench.take(server)), "PBES");
}

#[test]
fn everybody_is_told_when_a_server_refuses_the_login() {
    let mut bench = Bench::new(PoolMode::Transaction, 2);
    let clients: Vec<_> = (0..5).map(|_| bench.begin_client(&[])).collect();
    let server = bench.wire.connects.remove(0);
    bench.reach(server);
    bench.say(server, &error("FATAL", "28P01"));
    for client in clients {
        assert_eq!(states(&bench.take(client)), [*b"08001"]);
        assert!(bench.is_closed(client));
    }
}
