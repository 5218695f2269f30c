//! Sessions end to end, without a network.

use alloc::vec::Vec;

use pgx_wire::Frames;
use pgx_wire::backend::{self, Fields, Status};
use pgx_wire::frontend::{self, Parse};

use super::testing::{Bench, FIRST_PROCESS, batch, batch_done, done, error, query, stale, tags};
use crate::config::PoolMode;
use crate::net::Socket;

fn shared(pool_size: usize) -> Bench {
    Bench::new(PoolMode::Transaction, pool_size)
}

/// A bench with one server, and two clients that share it.
pub(super) fn two() -> (Bench, Socket, Socket, Socket) {
    let mut bench = shared(1);
    let first = bench.connect();
    let mut packet = Vec::new();
    frontend::write::startup(&mut packet, 0, [(&b"user"[..], &b"ann"[..]), (b"database", b"shop")]);
    bench.say(first, &packet);
    let server = bench.open_all()[0];
    bench.take(first);
    let second = bench.client();
    (bench, first, second, server)
}

pub(super) fn states(bytes: &[u8]) -> Vec<[u8; 5]> {
    let mut frames = Frames::new(bytes);
    let mut states = Vec::new();
    while let Some(frame) = frames.next_frame().unwrap() {
        if frame.tag == b'E' {
            states.extend(Fields::new(frame.body).sqlstate());
        }
    }
    states
}

#[test]
fn server_goes_to_the_next_client_at_the_end_of_a_transaction_and_not_before() {
    let (mut bench, first, second, server) = two();
    bench.say(first, &query("begin"));
    assert_eq!(bench.take(server), query("begin"));
    bench.say(second, &query("select 1"));
    bench.say(server, &done("BEGIN", Status::Block));
    assert_eq!((bench.tags(first).as_str(), bench.take(server).len()), ("CZ", 0));
    bench.say(first, &query("commit"));
    assert_eq!(bench.take(server), query("commit"));
    bench.say(server, &done("COMMIT", Status::Idle));
    assert_eq!(bench.tags(first), "CZ");
    assert_eq!(bench.take(server), query("select 1"), "held until the server was free");
    bench.say(server, &done("SELECT 1", Status::Idle));
    assert_eq!((bench.tags(first).as_str(), bench.tags(second).as_str()), ("", "CZ"));
}

#[test]
fn messages_cut_at_every_byte_in_both_directions_arrive_as_they_were() {
    let (mut bench, client, _, server) = two();
    let asked = [query("select 1"), batch("", Some("select 2"), true)].concat();
    bench.say_slowly(client, &asked);
    assert_eq!(bench.take(server), asked);
    let answered = [done("SELECT 1", Status::Idle), batch_done(true, Status::Idle)].concat();
    bench.say_slowly(server, &answered);
    assert_eq!(bench.take(client), answered);
}

#[test]
fn pipelined_queries_keep_their_server_until_the_last_is_answered() {
    let (mut bench, first, second, server) = two();
    bench.say(first, &[query("a"), query("b")].concat());
    bench.say(second, &query("c"));
    bench.take(server);
    bench.say(server, &done("A", Status::Idle));
    assert_eq!(bench.take(server), b"");
    bench.say(server, &done("B", Status::Idle));
    assert_eq!(bench.take(server), query("c"));
    assert_eq!(bench.tags(first), "CZCZ");
}

#[test]
fn batch_without_sync_keeps_its_server() {
    let (mut bench, first, second, server) = two();
    let mut asked = batch("", Some("select 1"), false);
    frontend::write::flush(&mut asked);
    bench.say(first, &asked);
    bench.say(second, &query("c"));
    bench.take(server);
    let mut answered = Vec::new();
    backend::write::parse_complete(&mut answered);
    backend::write::bind_complete(&mut answered);
    backend::write::command_complete(&mut answered, b"SELECT 1");
    bench.say(server, &answered);
    assert_eq!((bench.tags(first).as_str(), bench.take(server).len()), ("12C", 0));
    let mut sync = Vec::new();
    frontend::write::sync(&mut sync);
    bench.say(first, &sync);
    assert_eq!(bench.take(server), sync);
    let mut ready = Vec::new();
    backend::write::ready(&mut ready, Status::Idle);
    bench.say(server, &ready);
    assert_eq!(bench.take(server), query("c"));
}

#[test]
fn named_statement_works_on_a_server_that_its_client_has_never_met() {
    let mut bench = shared(2);
    let (first, second) = (bench.client(), bench.client());
    bench.say(first, &batch("s", Some("select $1"), true));
    let one = *bench.wire.owners.keys().next().unwrap();
    let sent = bench.take(one);
    let mut frames = Frames::new(&sent);
    let parse = Parse::read(frames.next_frame().unwrap().unwrap().body).unwrap();
    assert_eq!((parse.name, parse.text), (&b"pgx_1"[..], &b"select $1"[..]));
    bench.say(one, &batch_done(true, Status::Idle));
    assert_eq!(bench.tags(first), "12CZ");

    // The second client takes that server, so that the first gets another.
    bench.say(second, &query("begin"));
    bench.say(one, &done("BEGIN", Status::Block));
    bench.take(one);
    bench.say(first, &batch("s", None, true));
    let other = bench.open_all()[0];
    assert_eq!(tags(&bench.take(other)), "PBES", "it is prepared there first");
    bench.say(other, &batch_done(true, Status::Idle));
    assert_eq!(bench.tags(first), "2CZ", "the client has not asked for a Parse");
}

#[test]
fn same_text_of_another_client_is_not_parsed_again() {
    let (mut bench, first, second, server) = two();
    bench.say(first, &batch("a", Some("select 1"), true));
    bench.say(server, &batch_done(true, Status::Idle));
    bench.take(server);
    bench.say(second, &batch("b", Some("select 1"), true));
    assert_eq!(bench.tags(second), "1", "the proxy answers in the server's place");
    assert_eq!(tags(&bench.take(server)), "BES");
    bench.say(server, &batch_done(false, Status::Idle));
    assert_eq!(bench.tags(second), "2CZ");
}

/// What drivers' pools send when a connection comes back to them.
const CLEARING: &str = "SELECT pg_advisory_unlock_all();\nCLOSE ALL;\nUNLISTEN *;\nRESET ALL;";

/// A client with a setting of its own, another, and the server on which the first has set more.
fn with_settings() -> (Bench, Socket, Socket, Socket) {
    let mut bench = shared(1);
    let first = bench.begin_client(&[("datestyle", "German")]);
    let server = bench.open_all()[0];
    bench.take(first);
    let second = bench.client();
    bench.say(first, &query("set timezone = 'Asia/Tokyo'"));
    assert_eq!(bench.tags(server), "Q", "its setting comes first");
    let mut told = Vec::new();
    backend::write::parameter_status(&mut told, b"DateStyle", b"German");
    told.extend_from_slice(&done("SELECT 1", Status::Idle));
    bench.say(server, &told);
    assert_eq!(bench.take(server), query("set timezone = 'Asia/Tokyo'"));
    let mut told = Vec::new();
    backend::write::command_complete(&mut told, b"SET");
    backend::write::parameter_status(&mut told, b"TimeZone", b"Asia/Tokyo");
    backend::write::ready(&mut told, Status::Idle);
    bench.say(server, &told);
    bench.take(first);
    (bench, first, second, server)
}

/// A server has cleared a session.
fn cleared() -> Vec<u8> {
    let mut out = Vec::new();
    for done in ["SELECT 1", "CLOSE CURSOR ALL", "UNLISTEN", "RESET"] {
        backend::write::command_complete(&mut out, done.as_bytes());
    }
    backend::write::parameter_status(&mut out, b"DateStyle", b"ISO");
    backend::write::parameter_status(&mut out, b"TimeZone", b"UTC");
    backend::write::ready(&mut out, Status::Idle);
    out
}

#[test]
fn query_that_only_clears_its_session_keeps_no_server_and_resets_to_the_clients_own() {
    let (mut bench, first, second, server) = with_settings();
    bench.say_slowly(first, &query(CLEARING));
    assert_eq!(bench.take(server), query(CLEARING));
    bench.say(server, &cleared());
    assert!(bench.tags(first).ends_with('Z'));
    bench.say(second, &query("select 1"));
    assert_eq!(bench.take(server), query("select 1"), "nothing is left that would have to go");
    bench.say(server, &done("SELECT 1", Status::Idle));
    bench.say(first, &query("select 2"));
    let sent = bench.take(server);
    let has = |word: &[u8]| sent.windows(word.len()).any(|window| window == word);
    assert!(has(b"German") && !has(b"Tokyo"), "as at its start: {sent:?}");
}

#[test]
fn server_whose_clearing_failed_is_not_used_again() {
    let (mut bench, first, second, server) = with_settings();
    bench.say(first, &query(CLEARING));
    let mut failed = error("ERROR", "57014");
    backend::write::ready(&mut failed, Status::Idle);
    bench.say(server, &failed);
    bench.say(second, &query("select 1"));
    assert!(bench.is_closed(server) && bench.wire.connects.len() == 1);
}

#[test]
fn clearing_within_a_block_keeps_its_server_since_it_may_be_undone() {
    let (mut bench, first, second, server) = with_settings();
    bench.say(first, &query("begin"));
    bench.say(server, &done("BEGIN", Status::Block));
    bench.say(first, &query(CLEARING));
    bench.say(server, &cleared());
    bench.take(server);
    bench.say(second, &query("select 1"));
    assert_eq!(bench.take(server), b"");
}

#[test]
fn text_is_prepared_anew_for_who_comes_after_a_client_has_changed_tables() {
    let (mut bench, first, second, server) = two();
    bench.say(first, &batch("s", Some("insert into t values ($1)"), true));
    bench.say(server, &batch_done(true, Status::Idle));
    bench.say(second, &query("drop table t; create table t(v date)"));
    bench.say(server, &done("CREATE TABLE", Status::Idle));
    assert_eq!(bench.wire.changes, 1, "other threads are told");
    bench.take(server);
    bench.say(second, &batch("s", Some("insert into t values ($1)"), true));
    assert_eq!(tags(&bench.take(server)), "PBES");
    bench.say(server, &batch_done(true, Status::Idle));
    bench.say(first, &batch("other", Some("insert into t values ($1)"), true));
    assert_eq!(tags(&bench.take(server)), "BES", "once is enough");
}

#[test]
fn text_is_prepared_anew_within_the_transaction_that_changes_tables() {
    let (mut bench, first, second, server) = two();
    bench.say(second, &batch("s", Some("insert into t values ($1)"), true));
    bench.say(server, &batch_done(true, Status::Idle));
    bench.say(first, &query("begin; alter table t alter v type date"));
    bench.say(server, &done("ALTER TABLE", Status::Block));
    bench.take(server);
    bench.say(first, &batch("s", Some("insert into t values ($1)"), true));
    assert_eq!(tags(&bench.take(server)), "PBES");
    assert_eq!(bench.wire.changes, 0, "it may come to nothing");
}

#[test]
fn text_whose_tables_have_changed_is_prepared_anew_when_it_is_asked_for_again() {
    let (mut bench, first, second, server) = two();
    bench.say(first, &batch("a", Some("select 1"), true));
    bench.say(server, &batch_done(true, Status::Idle));
    bench.take(server);
    bench.say(second, &batch("b", Some("select 1"), true));
    bench.take(server);
    let mut failed = stale();
    backend::write::ready(&mut failed, Status::Idle);
    bench.say(server, &failed);
    assert_eq!(bench.tags(second), "1EZ");
    bench.say(second, &batch("c", Some("select 1"), true));
    let sent = bench.take(server);
    assert_eq!(tags(&sent), "PBES", "the old one would fail again");
    let parse = Parse::read(Frames::new(&sent).next_frame().unwrap().unwrap().body).unwrap();
    assert_eq!(parse.name, b"pgx_2");
}

#[test]
fn answer_of_the_proxy_keeps_its_place_behind_the_servers() {
    let (mut bench, first, second, server) = two();
    bench.say(first, &batch("a", Some("select 1"), true));
    bench.say(server, &batch_done(true, Status::Idle));
    bench.take(server);
    let asked = [batch("x", Some("select 2"), false), batch("b", Some("select 1"), true)].concat();
    bench.say(second, &asked);
    assert_eq!(bench.tags(second), "");
    let mut answered = Vec::new();
    backend::write::parse_complete(&mut answered);
    backend::write::bind_complete(&mut answered);
    backend::write::command_complete(&mut answered, b"SELECT 0");
    bench.say(server, &answered);
    assert_eq!(bench.tags(second), "12C1");
    bench.say(server, &batch_done(false, Status::Idle));
    assert_eq!(bench.tags(second), "2CZ");
}

#[test]
fn names_that_an_error_voids_are_free_again() {
    let (mut bench, client, _, server) = two();
    bench.say(client, &batch("a", Some("selec"), true));
    bench.take(server);
    let mut failed = error("ERROR", "42601");
    backend::write::ready(&mut failed, Status::Idle);
    bench.say(server, &failed);
    assert_eq!(bench.tags(client), "EZ");
    bench.say(client, &batch("a", Some("select 1"), true));
    assert_eq!(tags(&bench.take(server)), "PBES", "the name was not taken");
}

#[test]
fn name_that_is_taken_fails_in_the_servers_eyes_as_well() {
    let (mut bench, client, _, server) = two();
    bench.say(client, &batch("a", Some("select 1"), true));
    bench.say(server, &batch_done(true, Status::Idle));
    bench.take(server);
    bench.take(client);
    bench.say(client, &batch("a", Some("select 2"), true));
    assert_eq!(tags(&bench.take(server)), "DBES", "the server is made to fail");
    let mut failed = error("ERROR", "26000");
    backend::write::ready(&mut failed, Status::Idle);
    bench.say(server, &failed);
    let answer = bench.take(client);
    assert_eq!((tags(&answer).as_str(), states(&answer)), ("EZ", [*b"42P05"].to_vec()));
}

#[test]
fn least_used_statement_is_closed_where_there_is_no_room() {
    let (mut bench, client, _, server) = two();
    for (name, text) in [("a", "select 1"), ("b", "select 2")] {
        bench.say(client, &batch(name, Some(text), true));
        bench.say(server, &batch_done(true, Status::Idle));
    }
    bench.take(server);
    bench.take(client);
    bench.say(client, &batch("c", Some("select 3"), true));
    assert_eq!(tags(&bench.take(server)), "CPBES");
    let mut answered = Vec::new();
    backend::write::close_complete(&mut answered);
    answered.extend_from_slice(&batch_done(true, Status::Idle));
    bench.say(server, &answered);
    assert_eq!(bench.tags(client), "12CZ");
    bench.say(client, &batch("a", None, true));
    assert_eq!(tags(&bench.take(server)), "CPBES", "what was closed is prepared once more");
}

#[test]
fn unnamed_statement_is_never_another_clients() {
    let (mut bench, first, second, server) = two();
    bench.say(first, &batch("", Some("select 'first'"), true));
    bench.say(server, &batch_done(true, Status::Idle));
    bench.say(second, &batch("", Some("select 'second'"), true));
    bench.say(server, &batch_done(true, Status::Idle));
    bench.take(server);
    bench.say(first, &batch("", None, true));
    let sent = bench.take(server);
    let mut frames = Frames::new(&sent);
    let parse = Parse::read(frames.next_frame().unwrap().unwrap().body).unwrap();
    assert_eq!(parse.text, b"select 'first'");
    bench.say(server, &batch_done(true, Status::Idle));
    bench.take(first);

    let third = bench.client();
    bench.say(third, &batch("", None, true));
    assert_eq!(tags(&bench.take(server)), "CBES", "what is there is not its own");
}

#[test]
fn settings_follow_their_client_and_never_meet_another() {
    let (mut bench, _, plain, server) = two();
    let german = bench.client_with(&[("DateStyle", "German"), ("work_mem", "1MB")]);
    bench.say(german, &query("select 1"));
    let sent = bench.take(server);
    let change = query(
        "SELECT pg_catalog.set_config('datestyle','German',false),\
         pg_catalog.set_config('work_mem','1MB',false)",
    );
    assert_eq!(sent, change, "the query waits until they are taken");
    let mut changed = Vec::new();
    backend::write::parameter_status(&mut changed, b"DateStyle", b"German");
    changed.extend_from_slice(&done("SELECT 1", Status::Idle));
    bench.say(server, &changed);
    assert_eq!(bench.take(server), query("select 1"));
    bench.say(server, &done("SELECT 1", Status::Idle));
    assert_eq!(bench.tags(german), "CZ", "it was told when it came");

    bench.say(plain, &query("select 2"));
    let change = query("RESET datestyle;RESET work_mem;");
    assert_eq!(bench.take(server), [change, query("select 2")].concat());
}

#[test]
fn setting_that_a_client_changes_is_carried_to_its_next_server() {
    let (mut bench, first, second, server) = two();
    bench.say(first, &query("set datestyle = German"));
    let mut changed = Vec::new();
    backend::write::parameter_status(&mut changed, b"DateStyle", b"German");
    changed.extend_from_slice(&done("SET", Status::Idle));
    bench.say(server, &changed);
    assert_eq!(bench.tags(first), "SCZ");
    bench.take(server);
    bench.say(second, &query("select 1"));
    assert_eq!(bench.take(server), [query("RESET datestyle;"), query("select 1")].concat());
}

#[test]
fn state_that_cannot_be_carried_keeps_its_server() {
    for text in ["create temp table t()", "listen c", "set work_mem = 1", "prepare p as select 1"] {
        let (mut bench, first, second, server) = two();
        bench.say(first, &query(text));
        bench.say(server, &done("DONE", Status::Idle));
        bench.take(server);
        bench.say(second, &query("select 1"));
        assert_eq!(bench.take(server), b"", "{text}");
        bench.end(first);
        assert_eq!(bench.take(server), query("DISCARD ALL"), "{text}");
        bench.say(server, &done("DISCARD ALL", Status::Idle));
        assert_eq!(bench.take(server), query("select 1"), "{text}");
    }
}

#[test]
fn idle_client_does_not_notice_the_loss_of_its_server() {
    let (mut bench, client, _, server) = two();
    bench.say(client, &query("select 1"));
    bench.say(server, &done("SELECT 1", Status::Idle));
    bench.take(client);
    bench.say(server, &error("FATAL", "57P01"));
    bench.end_if_open(server);
    assert_eq!(bench.take(client), b"");
    bench.say(client, &query("select 2"));
    let server = bench.open_all()[0];
    assert_eq!(bench.take(server), query("select 2"));
}

#[test]
fn block_without_a_server_is_told_at_the_next_request_and_ends_as_a_failed_one() {
    let (mut bench, client, _, server) = two();
    bench.say(client, &query("begin"));
    bench.say(server, &done("BEGIN", Status::Block));
    bench.take(client);
    bench.end(server);
    assert_eq!(bench.take(client), b"", "errors are never unsolicited");
    bench.say(client, &query("select 1"));
    let answer = bench.take(client);
    assert_eq!((tags(&answer).as_str(), states(&answer)), ("EZ", [*b"40001"].to_vec()));
    bench.say(client, &query("select 1"));
    assert_eq!(states(&bench.take(client)), [*b"25P02"]);
    bench.say(client, &query("rollback"));
    assert_eq!(bench.tags(client), "CZ");
    bench.say(client, &query("select 2"));
    let server = bench.open_all()[0];
    assert_eq!(bench.take(server), query("select 2"));
}

#[test]
fn commit_without_an_answer_is_unknown_and_never_sent_again() {
    let (mut bench, client, _, server) = two();
    bench.say(client, &query("begin"));
    bench.say(server, &done("BEGIN", Status::Block));
    bench.say(client, &query("commit"));
    bench.take(client);
    bench.end(server);
    let answer = bench.take(client);
    assert_eq!((tags(&answer).as_str(), states(&answer)), ("EZ", [*b"08007"].to_vec()));
    assert_eq!(answer.last(), Some(&b'I'));
    for server in bench.open_all() {
        assert_eq!(bench.take(server), b"");
    }
}

#[test]
fn batch_without_an_answer_is_skipped_up_to_its_sync() {
    let (mut bench, client, _, server) = two();
    bench.say(client, &batch("", Some("insert"), false));
    bench.end(server);
    let answer = bench.take(client);
    assert_eq!((tags(&answer).as_str(), states(&answer)), ("E", [*b"08007"].to_vec()));
    bench.say(client, &batch("", None, true));
    let answer = bench.take(client);
    assert_eq!((tags(&answer).as_str(), answer.last()), ("Z", Some(&b'I')));
}

#[test]
fn session_with_a_server_of_its_own_ends_with_it() {
    let mut bench = Bench::new(PoolMode::Session, 1);
    let client = bench.client();
    bench.say(client, &query("select 1"));
    let server = *bench.wire.owners.keys().next().unwrap();
    bench.say(server, &done("SELECT 1", Status::Idle));
    bench.take(client);
    bench.end(server);
    let answer = bench.take(client);
    assert_eq!(states(&answer), [*b"57P01"]);
    assert!(bench.is_closed(client));
}

#[test]
fn copy_that_fails_leaves_its_late_data_to_nobody() {
    let (mut bench, first, second, server) = two();
    bench.say(first, &query("copy t from stdin"));
    bench.say(server, b"G\0\0\0\x07\0\0\0");
    bench.take(server);
    let mut failed = error("ERROR", "22P02");
    backend::write::ready(&mut failed, Status::Idle);
    bench.say(server, &failed);
    assert_eq!(bench.tags(first), "GEZ");
    bench.say(second, &query("select 1"));
    assert_eq!(bench.take(server), query("select 1"));
    bench.say(first, b"d\0\0\0\x06xyc\0\0\0\x04");
    assert_eq!(bench.take(server), b"");
    assert_eq!(bench.take(first), b"");
}

#[test]
fn sync_during_a_copy_is_not_waited_for() {
    let (mut bench, first, second, server) = two();
    // As libpq does: the batch ends with a Sync before the copy has begun.
    bench.say(first, &batch("", Some("copy t from stdin"), true));
    let mut begun = Vec::new();
    backend::write::parse_complete(&mut begun);
    backend::write::bind_complete(&mut begun);
    begun.extend_from_slice(b"G\0\0\0\x07\0\0\0");
    bench.say(server, &begun);
    let mut rest = b"d\0\0\0\x06xyc\0\0\0\x04".to_vec();
    frontend::write::sync(&mut rest);
    bench.say(first, &rest);
    bench.say(second, &query("select 1"));
    bench.take(server);
    bench.say(server, &done("COPY 1", Status::Idle));
    assert_eq!(bench.take(server), query("select 1"), "one ReadyForQuery was owed");
}

#[test]
fn client_that_leaves_in_a_block_has_it_rolled_back() {
    let (mut bench, first, second, server) = two();
    bench.say(first, &query("begin"));
    bench.say(server, &done("BEGIN", Status::Block));
    bench.take(server);
    bench.end(first);
    assert_eq!(bench.take(server), query("ROLLBACK"));
    bench.say(second, &query("select 1"));
    assert_eq!(bench.take(server), b"");
    bench.say(server, &done("ROLLBACK", Status::Idle));
    assert_eq!(bench.take(server), query("select 1"));
}

#[test]
fn client_that_leaves_before_its_answer_takes_its_server_along() {
    let (mut bench, first, second, server) = two();
    bench.say(first, &query("select 1"));
    bench.say(second, &query("select 2"));
    bench.end(first);
    assert!(bench.is_closed(server));
    let server = bench.open_all()[0];
    assert_eq!(bench.take(server), query("select 2"));
}

#[test]
fn reply_that_nobody_asked_for_ends_the_use_of_its_server() {
    let (mut bench, first, second, server) = two();
    bench.say(first, &query("select 1"));
    let twice = [done("A", Status::Idle), done("B", Status::Idle)].concat();
    bench.say(server, &twice);
    assert_eq!(bench.tags(first), "CZ", "the second answer is nobody's");
    bench.say(second, &query("select 2"));
    bench.open_all();
    assert_eq!(bench.take(second), b"", "the second answer is not its own");
}

#[test]
fn cancel_reaches_the_server_that_its_client_has_and_never_the_next() {
    let (mut bench, first, second, server) = two();
    bench.say(first, &query("select pg_sleep(9)"));
    bench.say(second, &query("select 2"));
    bench.take(server);
    let cancel = bench.cancel(FIRST_PROCESS).unwrap();
    let mut expected = Vec::new();
    frontend::write::cancel(&mut expected, 99, b"key!");
    assert_eq!(bench.take(cancel), expected);
    // The query ends by itself before the cancel has arrived.
    bench.say(server, &done("SELECT 1", Status::Idle));
    assert_eq!(bench.take(server), b"", "the next client would be hit");
    assert!(bench.wire.cancelled.is_empty(), "who asked is not told before");
    bench.end(cancel);
    assert_eq!(bench.wire.cancelled.len(), 1);
    assert_eq!(bench.take(server), query("select 2"));
}

#[test]
fn client_whose_server_is_slow_is_not_read_from() {
    let (mut bench, client, _, server) = two();
    bench.wire.blocked.insert(server);
    bench.say(client, &query("select 1"));
    assert!(bench.wire.paused.contains(&client));
    bench.wire.blocked.remove(&server);
    let owner = bench.wire.owners[&server];
    bench.worker.drained(&mut bench.wire, owner, bench.now);
    assert!(!bench.wire.paused.contains(&client));
}

#[test]
fn bytes_behind_a_request_for_encryption_are_not_read() {
    let mut bench = shared(1);
    let client = bench.connect();
    let mut packet = pgx_wire::startup::TLS_REQUEST.to_vec();
    bench.say(client, &packet);
    assert_eq!(bench.take(client), b"N");
    packet.extend_from_slice(b"x");
    let other = bench.connect();
    bench.say(other, &packet);
    assert!(bench.is_closed(other) && bench.take(other).is_empty());
}

#[test]
fn client_that_waits_too_long_is_told_so() {
    let (mut bench, first, second, _) = two();
    bench.say(first, &query("select pg_sleep(999)"));
    bench.say(second, &query("select 1"));
    bench.now = bench.now.after_ms(120_000);
    bench.worker.tick(&mut bench.wire, bench.now);
    assert_eq!(states(&bench.take(second)), [*b"08006"]);
    assert!(bench.is_closed(second) && !bench.is_closed(first));
}

#[test]
fn unknown_message_ends_the_session_and_is_not_forwarded() {
    let (mut bench, client, _, server) = two();
    bench.say(client, b"?\0\0\0\x04");
    assert_eq!(states(&bench.take(client)), [*b"08P01"]);
    assert!(bench.is_closed(client));
    assert_eq!(bench.take(server), b"");
}

#[test]
fn client_in_session_mode_reads_why_its_server_ended_in_the_servers_words() {
    let mut bench = Bench::new(PoolMode::Session, 1);
    let client = bench.begin_client(&[]);
    let server = bench.open_all()[0];
    bench.take(client);
    bench.say(client, &query("select 1"));
    let farewell = error("FATAL", "57P01");
    bench.say_slowly(server, &farewell);
    bench.end_if_open(server);
    assert_eq!(bench.take(client), farewell, "and nothing of the proxy's own");
    assert!(bench.is_closed(client));
}

#[test]
fn client_knows_its_own_notification_by_the_number_that_it_was_told() {
    let (mut bench, client, _, server) = two();
    bench.say(client, &query("listen x; notify x"));
    let heard = |process: u32| {
        let body = [&process.to_be_bytes()[..], b"x\0\0"].concat();
        [b"A\0\0\0\x0b", &body[..]].concat()
    };
    bench.say_slowly(server, &[heard(99), heard(98)].concat());
    assert_eq!(bench.take(client), [heard(FIRST_PROCESS), heard(98)].concat());
}

#[test]
fn noise_in_place_of_a_start_is_not_answered() {
    for noise in
        [&b"X\0\0\0\x04"[..], b"GET / HTTP/1.1\r\n", &[0, 0, 0, 12, 4, 210, 22, 46, 0, 0, 0, 1]]
    {
        let mut bench = shared(1);
        let client = bench.connect();
        bench.say(client, noise);
        assert!(bench.take(client).is_empty() && bench.is_closed(client), "{noise:?}");
    }
}

#[test]
fn number_of_a_client_that_has_left_is_not_the_next_ones() {
    let (mut bench, first, _, _) = two();
    bench.end(first);
    let next = bench.begin_client(&[]);
    let hello = bench.take(next);
    let mut frames = Frames::new(&hello);
    let key = core::iter::from_fn(|| frames.next_frame().unwrap()).find(|each| each.tag == b'K');
    let (process, _) = backend::backend_key(key.unwrap().body).unwrap();
    assert_eq!(process, FIRST_PROCESS + 2, "two came before");
}
