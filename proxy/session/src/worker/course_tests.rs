//! Clients follow the cluster's primary.

use alloc::collections::BTreeMap;
use alloc::string::ToString;
use alloc::vec::Vec;

use pgx_wire::backend::{Status, tag};

use super::rewrite;
use super::testing::{Bench, done, query, tags};
use super::tests::states;
use crate::config::{AuthMethod, Config, Database, PoolMode};
use crate::net::Socket;
use crate::route::{Course, Epoch, Gate, ServerAddress, Snapshot};

fn snapshot(epoch: u64, backends: &[&str]) -> Snapshot {
    let backends = backends.iter().map(|name| ServerAddress(name.to_string()).into()).collect();
    Snapshot { epoch: Epoch(epoch), backends }
}

/// A primary with one standby.
fn course(epoch: u64, primary: &str, writes: Gate) -> Course {
    let standby = if primary == "a:1" { "b:1" } else { "a:1" };
    Course {
        primary: snapshot(epoch, &[primary]),
        writes,
        standbys: snapshot(epoch, &[standby]),
        reads: Gate::Open,
        is_strict: false,
    }
}

impl Bench {
    fn follow(&mut self, course: &Course) {
        self.worker.follow(&mut self.wire, course, self.now);
        self.check();
    }

    fn last(&self) -> &str {
        &self.wire.places.values().next_back().expect("no connection").0
    }
}

/// All databases are the cluster's.
fn cluster() -> Bench {
    let database = Database::new(Vec::new(), PoolMode::Transaction, 1);
    let database = Database { is_clusters: true, ..database };
    Bench::with(Config {
        databases: BTreeMap::from([(b"*".to_vec(), database)]),
        auth: AuthMethod::Trust,
        ..Config::default()
    })
}

#[test]
fn client_that_comes_before_the_cluster_has_spoken_waits() {
    let mut bench = cluster();
    let client = bench.begin_client(&[]);
    bench.tick(1_000);
    assert!(bench.wire.connects.is_empty() && bench.take(client).is_empty());
    bench.follow(&course(1, "a:1", Gate::Open));
    bench.open_all();
    assert!(bench.tags(client).ends_with('Z'));
}

/// A client and its server in an open cluster.
fn begin() -> (Bench, Socket, Socket) {
    let mut bench = cluster();
    bench.follow(&course(1, "a:1", Gate::Open));
    let client = bench.client();
    assert_eq!(bench.last(), "a:1");
    let server = *bench.wire.places.keys().next_back().unwrap();
    (bench, client, server)
}

#[test]
fn query_that_comes_while_nobody_may_write_runs_at_the_next_primary() {
    let (mut bench, client, server) = begin();
    bench.follow(&course(1, "a:1", Gate::Shut));
    assert!(bench.is_closed(server));
    bench.say(client, &query("a"));
    let late = bench.begin_client(&[]);
    bench.tick(100);
    assert!(bench.wire.connects.is_empty() && bench.take(client).is_empty());
    bench.follow(&course(2, "b:1", Gate::Open));
    assert_eq!(bench.last(), "b:1");
    let server = bench.open_all()[0];
    assert!(bench.take(server).ends_with(&query("a")));
    bench.say(server, &done("A", Status::Idle));
    assert_eq!(bench.tags(client), "CZ");
    assert!(tags(&bench.take(late)).ends_with('Z'), "who came meanwhile is in");
}

#[test]
fn what_runs_is_lost_at_once_when_its_primary_may_not_be_used_any_more() {
    let (mut bench, client, server) = begin();
    bench.say(client, &query("insert"));
    bench.take(server);
    bench.follow(&course(1, "a:1", Gate::Shut));
    assert!(bench.is_closed(server), "nothing of it is forwarded after this");
    let told = bench.take(client);
    assert_eq!(states(&told), [*b"08007"]);
    assert!(!bench.is_closed(client));
}

#[test]
fn transaction_goes_on_and_others_wait_while_writes_are_held() {
    let (mut bench, client, server) = begin();
    let other = bench.client();
    bench.say(client, &query("begin"));
    bench.say(server, &done("BEGIN", Status::Block));
    bench.follow(&course(1, "a:1", Gate::Held));
    bench.take(server);
    bench.say(other, &query("x"));
    bench.say(client, &query("commit"));
    assert_eq!(bench.take(server), query("commit"));
    bench.say(server, &done("COMMIT", Status::Idle));
    assert!(bench.take(server).is_empty(), "the other waits");
    bench.take(client);
    bench.end(server);
    bench.follow(&course(2, "b:1", Gate::Open));
    let server = bench.open_all()[0];
    assert!(bench.take(server).ends_with(&query("x")));
    assert!(bench.take(client).is_empty(), "nobody has read an error");
}

#[test]
fn readers_stay_where_they_are_while_nobody_may_write() {
    let mut bench = cluster();
    bench.follow(&course(1, "a:1", Gate::Open));
    let reader = bench.begin_client(&[("options", "-c pgx.target=standby")]);
    assert_eq!(bench.last(), "b:1");
    let server = bench.wire.connects.pop().unwrap();
    bench.reach(server);
    bench.greet_as(server, &[("in_hot_standby", "on")]);
    bench.take(reader);
    bench.follow(&course(1, "a:1", Gate::Shut));
    bench.say(reader, &query("a"));
    assert_eq!(bench.take(server), query("a"));
    bench.say(server, &done("A", Status::Idle));
    // Its standby is the primary now.
    bench.follow(&course(2, "b:1", Gate::Open));
    assert!(bench.is_closed(server));
    bench.say(reader, &query("b"));
    assert_eq!(bench.last(), "a:1");
}

#[test]
fn older_word_of_who_serves_changes_no_backend() {
    let (mut bench, client, _server) = begin();
    bench.follow(&course(3, "b:1", Gate::Open));
    bench.follow(&course(2, "a:1", Gate::Open));
    bench.say(client, &query("a"));
    assert_eq!(bench.last(), "b:1");
    let sockets: Vec<Socket> = bench.open_all();
    assert_eq!(sockets.len(), 1);
}

#[test]
fn pause_of_an_operator_stays_in_force_whatever_the_cluster_says() {
    let (mut bench, client, _server) = begin();
    let scope = super::Scope::Database(b"shop");
    bench.worker.hold(&mut bench.wire, scope, super::Hold::default(), bench.now);
    bench.follow(&course(2, "b:1", Gate::Shut));
    bench.follow(&course(2, "b:1", Gate::Open));
    bench.say(client, &query("a"));
    assert!(bench.wire.connects.is_empty());
    bench.worker.resume(&mut bench.wire, scope, bench.now);
    assert_eq!(bench.last(), "b:1");
}

/// A warning of the server's from this routine, all of whose other words may be in any language.
fn warning(routine: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    for (field, text) in [(b'S', &b"WARNUNG"[..]), (b'V', b"WARNING"), (b'R', routine)] {
        body.push(field);
        body.extend_from_slice(text);
        body.push(0);
    }
    body.push(0);
    rewrite::message(tag::NOTICE, &body)
}

#[test]
fn commit_that_waits_for_standbys_no_more_is_not_told_as_done() {
    let answer = [&warning(b"SyncRepWaitForLSN")[..], &done("COMMIT", Status::Idle)].concat();
    for at in 0..answer.len() {
        let (mut bench, client, server) = begin();
        bench.say(client, &query("commit"));
        bench.say(server, &answer[..at]);
        if !bench.is_closed(server) {
            bench.say(server, &answer[at..]);
        }
        let told = bench.take(client);
        assert_eq!((tags(&told).as_str(), states(&told)), ("EZ", [*b"08007"].to_vec()), "{at}");
        assert!(bench.is_closed(server) && !bench.is_closed(client));
    }
}

#[test]
fn other_warnings_are_passed_on() {
    let (mut bench, client, server) = begin();
    bench.say(client, &query("commit"));
    bench.say(server, &[&warning(b"BeginTransactionBlock")[..], &done("A", Status::Idle)].concat());
    assert_eq!(bench.tags(client), "NCZ");
}
