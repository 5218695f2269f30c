//! What hostile or unlucky clients do to those who come after them.

use alloc::string::String;
use alloc::vec::Vec;

use pgx_wire::backend::{self, Status};
use pgx_wire::{Startup, startup};

use super::pools_tests::{config, database};
use super::testing::{Bench, batch, done, query, tags};
use super::tests::two;
use crate::config::PoolMode;
use crate::limits::{HAND_OVER_MS, TENURE_MS};
use crate::net::Socket;

fn reported(name: &str, value: &str) -> Vec<u8> {
    let mut out = Vec::new();
    backend::write::parameter_status(&mut out, name.as_bytes(), value.as_bytes());
    out
}

/// What PostgreSQL 15 says to a SET or RESET of what it reports: the report comes behind it.
fn set(command: &str, name: &str, value: &str, status: Status) -> Vec<u8> {
    let whole = done(command, status);
    let at = whole.len() - 6;
    [&whole[..at], &reported(name, value), &whole[at..]].concat()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// As PostgreSQL reads a start-up packet: of `user`, `database` and `replication` the last counts
/// (`ProcessStartupPacket`; seen with version 15).
fn said_last(packet: &[u8], name: &[u8]) -> Option<String> {
    let (packet, _) = startup::parse(packet).unwrap().unwrap();
    let Startup::Login { parameters, .. } = packet else { panic!("no login") };
    parameters.iter().rev().find(|(known, _)| *known == name).map(|(_, value)| text(value))
}

/// The start-up packet of the server that is opened for a client with these parameters.
fn opened_with(mode: PoolMode, parameters: &[(&str, &str)]) -> Option<Vec<u8>> {
    let mut bench = Bench::new(mode, 1);
    bench.begin_client(parameters);
    let server = bench.wire.connects.pop()?;
    Some(bench.reach(server))
}

#[test]
fn client_cannot_choose_as_whom_and_where_its_own_server_logs_in() {
    for parameters in [
        [("USER", "postgres"), ("Database", "secret"), ("Replication", "database")].as_slice(),
        &[("options", "-c user=postgres -c database=secret -c replication=database")],
    ] {
        // To refuse the client is as good.
        let Some(packet) = opened_with(PoolMode::Session, parameters) else { continue };
        let last = |name: &str| said_last(&packet, name.as_bytes());
        assert_eq!(last("user").as_deref(), Some("ann"), "{parameters:?}");
        assert_eq!(last("database").as_deref(), Some("shop"), "{parameters:?}");
        assert_eq!(last("replication"), None, "{parameters:?}");
    }
}

#[test]
fn replication_cannot_choose_as_whom_and_where_it_logs_in() {
    for parameters in [
        [("replication", "true"), ("USER", "postgres"), ("DATABASE", "secret")].as_slice(),
        &[("replication", "true"), ("options", "-c user=postgres -c database=secret")],
    ] {
        let Some(packet) = opened_with(PoolMode::Transaction, parameters) else { continue };
        let last = |name: &str| said_last(&packet, name.as_bytes());
        assert_eq!(last("user").as_deref(), Some("ann"), "{parameters:?}");
        assert_eq!(last("database").as_deref(), Some("shop"), "{parameters:?}");
    }
}

/// A client that shares servers and has these parameters, another without any, and their server,
/// which has taken the first's settings.
fn with_settings(parameters: &[(&str, &str)]) -> (Bench, Socket, Socket, Socket) {
    let mut bench = Bench::new(PoolMode::Transaction, 1);
    let first = bench.begin_client(parameters);
    let server = bench.open_all()[0];
    let second = bench.client();
    bench.say(first, &query("select 1"));
    bench.say(server, &done("SELECT 1", Status::Idle));
    assert_eq!(tags(&bench.take(server)), "QQ", "its settings come first");
    bench.say(server, &done("SELECT 1", Status::Idle));
    bench.take(first);
    (bench, first, second, server)
}

/// RESET ALL leaves `role` and `session_authorization` as they are (`GUC_NO_RESET_ALL`; seen with
/// version 15).
#[test]
fn role_of_a_client_whose_driver_clears_its_session_is_not_the_next_clients() {
    let (mut bench, first, second, server) = with_settings(&[("role", "bob")]);
    bench.say(first, &query("UNLISTEN *; RESET ALL;"));
    bench.take(server);
    let mut answer = Vec::new();
    backend::write::command_complete(&mut answer, b"UNLISTEN");
    answer.extend_from_slice(&done("RESET", Status::Idle));
    bench.say(server, &answer);
    bench.say(second, &query("select secret"));
    let sent = text(&bench.take(server));
    assert!(sent.to_lowercase().contains("reset role"), "it runs as bob: {sent:?}");
}

#[test]
fn setting_that_was_set_behind_a_reset_of_all_is_not_the_next_clients() {
    let (mut bench, first, second, server) = two();
    let flight = ["reset all", "set datestyle = 'German'", "reset timezone"].map(query).concat();
    bench.say(first, &flight);
    assert_eq!(tags(&bench.take(server)), "QQQ");
    bench.say(server, &done("RESET", Status::Idle));
    bench.say(server, &set("SET", "DateStyle", "German", Status::Idle));
    bench.say(server, &done("RESET", Status::Idle));
    bench.take(first);
    bench.say(second, &query("select now()"));
    let sent = text(&bench.take(server));
    assert!(sent.contains("RESET datestyle"), "it reads German dates: {sent:?}");
}

#[test]
fn own_setting_comes_back_by_a_reset_of_all_whatever_is_sent_behind_it() {
    let (mut bench, first, _, server) = with_settings(&[("datestyle", "German")]);
    bench.say(first, &["reset all", "set timezone = 'Asia/Tokyo'"].map(query).concat());
    bench.take(server);
    bench.say(server, &set("RESET", "DateStyle", "ISO", Status::Idle));
    bench.say(server, &set("SET", "TimeZone", "Asia/Tokyo", Status::Idle));
    bench.take(first);
    bench.say(first, &query("select now()"));
    let sent = text(&bench.take(server));
    assert!(sent.contains("German"), "that is what a session goes back to: {sent:?}");
}

#[test]
fn setting_that_was_undone_when_its_client_left_is_set_for_the_next() {
    let (mut bench, first, _, server) = two();
    let german = bench.client_with(&[("datestyle", "German")]);
    bench.say(first, &query("begin"));
    bench.say(server, &done("BEGIN", Status::Block));
    bench.say(first, &query("set datestyle = 'German'"));
    bench.say(server, &set("SET", "DateStyle", "German", Status::Block));
    bench.end(first);
    assert!(text(&bench.take(server)).contains("ROLLBACK"));
    bench.say(server, &set("ROLLBACK", "DateStyle", "ISO", Status::Idle));
    bench.say(server, &done("DISCARD ALL", Status::Idle));
    bench.say(german, &query("select now()"));
    let sent = text(&bench.take(server));
    assert!(sent.contains("set_config('datestyle','German'"), "it reads ISO dates: {sent:?}");
}

#[test]
fn setting_whose_name_another_client_wrote_otherwise_is_set_for_the_next() {
    let (mut bench, first, _, server) = with_settings(&[("options", "-c DateStyle=German")]);
    let iso = bench.client_with(&[("datestyle", "SQL")]);
    bench.say(first, &query("set datestyle = 'SQL'"));
    bench.say(server, &set("SET", "DateStyle", "SQL", Status::Idle));
    bench.take(server);
    bench.say(iso, &query("select now()"));
    let sent = text(&bench.take(server));
    let is_set = sent.contains("set_config('datestyle','SQL'");
    assert!(is_set || !sent.contains("RESET"), "it reads the server's own dates: {sent:?}");
}

/// Everybody reads what others have said, until there is nothing more.
fn settle(benches: &mut [&mut Bench]) {
    while benches.iter_mut().any(|bench| bench.read_mail()) {}
}

/// Whether a thread closes its idle server for another that waits for it, after these pools of the
/// first have been forgotten.
fn hands_over_after(forgotten: &[&str]) -> bool {
    let names: Vec<_> = forgotten.iter().map(|name| (*name, database("db:1", 1))).collect();
    let mut threads = Bench::threads(config(names), 2);
    let mut other = threads.remove(1);
    let mut one = threads.remove(0);
    for name in forgotten {
        let client = one.begin_client_of("ann", name, &[]);
        one.open_all();
        assert!(one.tags(client).ends_with('Z'));
        one.end(client);
    }
    // The other thread has a client that needs no server for now.
    let theirs = other.begin_client_of("ann", forgotten[0], &[]);
    assert!(other.tags(theirs).ends_with('Z'));
    for ms in [700_000, 1, 60_000] {
        one.tick(ms);
        other.tick(ms);
    }
    assert!(one.worker.by_name.is_empty(), "all are forgotten");
    let mine = one.begin_client_of("ann", forgotten[0], &[]);
    one.say(mine, &query("select 1"));
    let server = one.open_all()[0];
    one.say(server, &done("SELECT 1", Status::Idle));
    other.say(theirs, &query("select 2"));
    // Half the time that a client waits before it is told that there was no server.
    for _ in 0..60 {
        one.tick(TENURE_MS.max(HAND_OVER_MS).max(1_000));
        other.tick(1_000);
        settle(&mut [&mut one, &mut other]);
    }
    one.is_closed(server)
}

#[test]
fn idle_server_of_a_pool_that_was_forgotten_and_came_back_goes_to_who_waits_elsewhere() {
    assert!(hands_over_after(&["a"]), "one");
    assert!(hands_over_after(&["a", "b"]), "the word went to the place that it had before");
}

#[test]
fn end_of_a_lost_block_stays_its_end_whatever_is_behind_it_in_the_batch() {
    let (mut bench, first, _, server) = two();
    bench.say(first, &query("begin"));
    bench.say(server, &done("BEGIN", Status::Block));
    bench.take(first);
    bench.end(server);
    let ended = batch("", Some("rollback"), false);
    bench.say(first, &[ended, batch("", Some(""), true)].concat());
    let told = bench.take(first);
    assert_eq!((tags(&told).as_str(), told.last()), ("12C12IZ", Some(&b'I')));
}

#[test]
fn what_another_server_says_does_not_come_within_a_message_to_who_logs_in() {
    let mut bench = Bench::new(PoolMode::Session, 2);
    let leaves = bench.begin_client(&[("timezone", "UTC")]);
    let old = bench.open_all()[0];
    bench.take(leaves);
    bench.end(leaves);
    let own = [("timezone", "UTC"), ("application_name", "a")];
    let client = bench.begin_client(&own);
    let new = bench.wire.connects.pop().expect("one is opened meanwhile");
    bench.reach(new);
    bench.take(old);
    bench.say(old, &done("DISCARD ALL", Status::Idle));
    assert_eq!(tags(&bench.take(old)), "Q", "it sets the name");
    bench.take(client);
    let mut notice = Vec::new();
    let level = backend::write::Level::Notice;
    backend::write::notice(&mut notice, level, pgx_wire::SqlState::WARNING, "one");
    bench.say(old, &notice[..10]);
    let mut other = Vec::new();
    backend::write::authentication_ok(&mut other);
    backend::write::notice(&mut other, level, pgx_wire::SqlState::WARNING, "two");
    bench.say(new, &other);
    bench.say(old, &notice[10..]);
    let told = bench.take(client);
    let is_apart = told.windows(notice.len()).any(|window| window == notice);
    assert!(is_apart, "{:?}", text(&told));
}
