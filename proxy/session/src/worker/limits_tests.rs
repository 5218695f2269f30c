//! What happens when something takes longer than it may.

use alloc::collections::BTreeMap;
use alloc::string::ToString;
use alloc::vec;

use pgx_wire::backend::Status;

use super::testing::{Bench, batch, done, error, query};
use crate::config::{AuthMethod, Config, Database, Limits, PoolMode};
use crate::net::Socket;
use crate::route::ServerAddress;

fn bench(limits: Limits) -> Bench {
    bench_of(PoolMode::Transaction, limits)
}

fn bench_of(mode: PoolMode, limits: Limits) -> Bench {
    let backends = vec![ServerAddress("db:5432".to_string()).into()];
    let database = Database::new(backends, mode, 1);
    Bench::with(Config {
        databases: BTreeMap::from([(b"*".to_vec(), database)]),
        auth: AuthMethod::Trust,
        limits,
        ..Config::default()
    })
}

/// A client that is in, and the server that let it in.
fn client_and_server(bench: &mut Bench) -> (Socket, Socket) {
    let client = bench.begin_client(&[]);
    let server = bench.open_all()[0];
    bench.take(client);
    (client, server)
}

fn says(bench: &mut Bench, socket: Socket, code: &[u8]) -> bool {
    bench.take(socket).windows(code.len()).any(|window| window == code)
}

/// The client is told so when the time has passed, and not before.
fn ends_after(bench: &mut Bench, socket: Socket, ms: u64, code: &[u8]) {
    bench.tick(ms - 1);
    assert!(!bench.is_closed(socket), "too early");
    bench.tick(1);
    assert!(says(bench, socket, code) && bench.is_closed(socket));
}

#[test]
fn client_that_does_not_log_in_is_let_go() {
    let mut bench = bench(Limits { client_login_ms: 700, ..Limits::default() });
    let client = bench.connect();
    ends_after(&mut bench, client, 700, b"57P03");
}

#[test]
fn idle_client_is_let_go_and_one_that_works_is_not() {
    let mut bench = bench(Limits { client_idle_ms: 700, ..Limits::default() });
    let (client, server) = client_and_server(&mut bench);
    bench.tick(600);
    bench.say(client, &query("select 1"));
    bench.tick(5_000);
    assert!(!bench.is_closed(client), "its query runs");
    bench.say(server, &done("SELECT 1", Status::Idle));
    bench.take(client);
    ends_after(&mut bench, client, 700, b"57P05");
    assert!(!bench.is_closed(server), "it is clean, and serves others");
}

#[test]
fn query_that_takes_too_long_ends_with_its_server() {
    let mut bench = bench(Limits { query_ms: 700, ..Limits::default() });
    let (client, server) = client_and_server(&mut bench);
    bench.say(client, &query("select pg_sleep(9)"));
    ends_after(&mut bench, client, 700, b"57014");
    assert!(bench.is_closed(server), "what it does for nobody would keep others waiting");
}

#[test]
fn transaction_that_is_left_idle_is_rolled_back_and_its_client_let_go() {
    let mut bench = bench(Limits { idle_transaction_ms: 700, ..Limits::default() });
    let (client, server) = client_and_server(&mut bench);
    bench.say(client, &query("begin"));
    bench.say(server, &done("BEGIN", Status::Block));
    bench.take(client);
    bench.take(server);
    ends_after(&mut bench, client, 700, b"25P03");
    assert!(says(&mut bench, server, b"ROLLBACK"), "its locks go");
}

#[test]
fn transaction_that_takes_too_long_ends_with_its_server_however_busy_it_is() {
    let mut bench = bench(Limits { transaction_ms: 700, ..Limits::default() });
    let (client, server) = client_and_server(&mut bench);
    bench.tick(5_000);
    bench.say(client, &query("begin"));
    bench.say(server, &done("BEGIN", Status::Block));
    for _ in 0..6 {
        bench.tick(100);
        bench.say(client, &query("select 1"));
        bench.say(server, &done("SELECT 1", Status::Block));
    }
    bench.take(client);
    ends_after(&mut bench, client, 100, b"25P04");
    assert!(bench.is_closed(server) && bench.tags(server).ends_with('X'));
}

#[test]
fn transactions_in_a_row_are_not_one_that_takes_long() {
    let mut bench = bench(Limits { transaction_ms: 700, ..Limits::default() });
    let (client, server) = client_and_server(&mut bench);
    let flight = [query("a"), query("b"), batch("", Some("c"), false)].concat();
    bench.say(client, &flight);
    for _ in 0..2 {
        bench.tick(600);
        bench.say(server, &done("A", Status::Idle));
    }
    bench.take(client);
    ends_after(&mut bench, client, 700, b"25P04");
}

#[test]
fn server_without_a_lifetime_is_used_once() {
    for mode in [PoolMode::Transaction, PoolMode::Session] {
        let mut bench = bench_of(mode, Limits { server_lifetime_ms: 0, ..Limits::default() });
        let (client, server) = client_and_server(&mut bench);
        bench.tick(5_000);
        assert!(!bench.is_closed(server), "nobody has used it");
        bench.say(client, &query("begin"));
        bench.say(server, &done("BEGIN", Status::Block));
        bench.say(client, &query("commit"));
        bench.say(server, &done("COMMIT", Status::Idle));
        assert_eq!(bench.is_closed(server), mode == PoolMode::Transaction);
        bench.end(client);
        assert!(bench.is_closed(server));
    }
}

#[test]
fn server_whose_login_failed_is_left_alone_for_a_while() {
    let limits = Limits { server_retry_ms: 7_000, query_wait_ms: 0, ..Limits::default() };
    let mut bench = bench(limits);
    let (client, server) = client_and_server(&mut bench);
    bench.end(server);
    bench.say(client, &query("select 1"));
    let next = core::mem::take(&mut bench.wire.connects).remove(0);
    bench.reach(next);
    bench.say(next, &error("FATAL", "57P03"));
    for _ in 0..2 {
        // The second wait is as long as the first: each is longer than any back-off.
        bench.tick(6_999);
        assert!(bench.wire.connects.is_empty(), "too early");
        bench.tick(1);
        let next = core::mem::take(&mut bench.wire.connects).remove(0);
        bench.end(next);
    }
}

#[test]
fn server_goes_when_it_is_idle_or_old_but_never_under_a_client() {
    let idle = Limits { server_idle_ms: 700, ..Limits::default() };
    let old = Limits { server_idle_ms: 0, server_lifetime_ms: 700, ..Limits::default() };
    for limits in [idle, old] {
        let mut bench = bench(limits);
        let (client, server) = client_and_server(&mut bench);
        bench.say(client, &query("begin"));
        bench.say(server, &done("BEGIN", Status::Block));
        bench.tick(5_000);
        assert!(!bench.is_closed(server), "a transaction is open");
        bench.say(client, &query("commit"));
        bench.say(server, &done("COMMIT", Status::Idle));
        assert!(bench.tags(client).ends_with("Z"));
        bench.tick(700);
        assert!(bench.is_closed(server));
        assert!(!bench.is_closed(client));
    }
}

#[test]
fn server_that_does_not_let_in_in_time_is_given_up() {
    let limits = Limits { server_connect_ms: 700, query_wait_ms: 0, ..Limits::default() };
    let mut bench = bench(limits);
    bench.begin_client(&[]);
    let server = core::mem::take(&mut bench.wire.connects).remove(0);
    bench.reach(server);
    bench.tick(699);
    assert!(!bench.is_closed(server));
    bench.tick(1);
    assert!(bench.is_closed(server));
}
