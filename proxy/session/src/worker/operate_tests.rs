//! What operators do with databases and clients.

use pgx_wire::backend::Status;

use super::hold::{Hold, Scope};
use super::testing::{Bench, done, query, tags};
use super::tests::two;
use crate::config::PoolMode;

const SHOP: Scope<'_> = Scope::Database(b"shop");

#[test]
fn servers_are_replaced_as_they_become_free_and_no_client_sees_it() {
    let (mut bench, first, second, server) = two();
    bench.say(first, &query("begin"));
    bench.say(server, &done("BEGIN", Status::Block));
    bench.worker.reconnect(&mut bench.wire, SHOP, bench.now);
    bench.check();
    assert_eq!(bench.worker.leaving_of(SHOP), 1);
    assert!(!bench.is_closed(server));
    bench.say(first, &query("commit"));
    bench.say(server, &done("COMMIT", Status::Idle));
    assert!(bench.is_closed(server));
    assert_eq!(bench.worker.leaving_of(SHOP), 0);
    bench.say(second, &query("a"));
    let other = bench.open_all()[0];
    assert!(bench.take(other).ends_with(&query("a")));
    assert!(!bench.is_closed(first));
}

#[test]
fn killed_database_loses_its_clients_and_servers_and_holds_those_who_come() {
    let (mut bench, first, second, server) = two();
    bench.say(first, &query("begin"));
    bench.worker.kill(&mut bench.wire, SHOP, bench.now);
    bench.check();
    assert!(bench.is_closed(first) && bench.is_closed(second) && bench.is_closed(server));
    assert!(bench.take(second).windows(5).any(|at| at == b"57P01"));
    let third = bench.client();
    bench.say(third, &query("a"));
    assert!(bench.wire.connects.is_empty(), "it waits");
    bench.worker.resume(&mut bench.wire, SHOP, bench.now);
    let server = bench.open_all()[0];
    assert!(bench.take(server).ends_with(&query("a")));
}

#[test]
fn disabled_database_takes_no_clients_and_keeps_those_it_has() {
    let mut bench = Bench::new(PoolMode::Transaction, 1);
    let first = bench.client();
    bench.worker.enable(b"shop", false);
    let second = bench.begin_client(&[]);
    assert!(bench.is_closed(second) && !bench.is_closed(first));
    assert!(bench.take(second).windows(5).any(|at| at == b"55000"));
    bench.worker.enable(b"shop", true);
    let third = bench.begin_client(&[]);
    assert!(tags(&bench.take(third)).ends_with('Z'));
}

#[test]
fn suspended_database_keeps_its_servers() {
    let (mut bench, first, _second, server) = two();
    bench.say(first, &query("a"));
    let hold = Hold { keeps_servers: true, ..Hold::default() };
    bench.worker.hold(&mut bench.wire, SHOP, hold, bench.now);
    bench.say(server, &done("A", Status::Idle));
    bench.take(server);
    bench.say(first, &query("b"));
    bench.check();
    assert!(!bench.is_closed(server) && bench.take(server).is_empty());
    bench.worker.resume(&mut bench.wire, SHOP, bench.now);
    assert_eq!(bench.take(server), query("b"));
}
