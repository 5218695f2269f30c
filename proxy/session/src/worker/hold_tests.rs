//! Transactions that are held, and go on elsewhere.

use alloc::string::ToString;
use alloc::vec::Vec;

use pgx_wire::backend::Status;

use super::hold::{Hold, Scope};
use super::testing::{Bench, done, query};
use super::tests::{states, two};
use crate::net::Socket;
use crate::route::{Epoch, ServerAddress, Snapshot};

const SHOP: Scope<'_> = Scope::Database(b"shop");

impl Bench {
    fn hold(&mut self, scope: Scope<'_>, hold: Hold) {
        self.worker.hold(&mut self.wire, scope, hold, self.now);
        self.check();
    }

    fn resume(&mut self, scope: Scope<'_>) {
        self.worker.resume(&mut self.wire, scope, self.now);
        self.check();
    }

    fn change(&mut self, backend: &str, epoch: u64, drain_ms: u64) {
        let backends = alloc::vec![ServerAddress(backend.to_string()).into()];
        let snapshot = Snapshot { epoch: Epoch(epoch), backends };
        self.worker.handle_snapshot(&mut self.wire, SHOP, &snapshot, drain_ms, self.now);
        self.check();
    }

    fn last_place(&self) -> &str {
        &self.wire.places.values().next_back().expect("no connection").0
    }
}

#[test]
fn clients_wait_while_held_and_are_served_in_their_order() {
    let (mut bench, first, second, server) = two();
    bench.hold(SHOP, Hold::default());
    assert!(bench.is_closed(server), "nothing is left of the old servers");
    bench.say(second, &query("b"));
    bench.say(first, &query("a"));
    bench.tick(100);
    assert!(bench.wire.connects.is_empty());
    assert_eq!(bench.worker.servers_of(SHOP), 0);
    bench.resume(SHOP);
    let server = bench.open_all()[0];
    assert_eq!(bench.take(server), query("b"));
    bench.say(server, &done("B", Status::Idle));
    assert_eq!(bench.take(server), query("a"));
    bench.say(server, &done("A", Status::Idle));
    assert_eq!((bench.tags(first).as_str(), bench.tags(second).as_str()), ("CZ", "CZ"));
}

#[test]
fn transaction_that_has_begun_ends_before_its_server_is_closed() {
    let (mut bench, first, second, server) = two();
    bench.say(first, &query("begin"));
    bench.say(server, &done("BEGIN", Status::Block));
    bench.hold(SHOP, Hold::default());
    bench.say(second, &query("b"));
    bench.say(first, &query("commit"));
    assert_eq!(bench.worker.servers_of(SHOP), 1);
    bench.say(server, &done("COMMIT", Status::Idle));
    assert!(bench.is_closed(server));
    bench.say(first, &query("a"));
    assert_eq!(bench.tags(first), "CZCZ", "and its next waits");
    bench.change("new:1", 1, 0);
    bench.resume(SHOP);
    assert_eq!(bench.last_place(), "new:1");
    let server = bench.open_all()[0];
    assert_eq!(bench.take(server), query("b"));
}

/// Two clients, one in a block, one whose commit is under way, on a server each.
fn in_blocks() -> (Bench, Socket, Socket) {
    let mut bench = Bench::new(crate::config::PoolMode::Transaction, 2);
    let clients = [bench.client(), bench.client()];
    let mut servers = Vec::new();
    for client in clients {
        bench.say(client, &query("begin"));
        bench.open_all();
        let all: Vec<_> = bench.wire.owners.keys().copied().collect();
        let new = all.into_iter().find(|each| !servers.contains(each)).unwrap();
        bench.say(new, &done("BEGIN", Status::Block));
        servers.push(new);
        bench.take(client);
    }
    bench.say(clients[1], &query("commit"));
    (bench, clients[0], clients[1])
}

#[test]
fn transactions_that_do_not_end_in_time_are_ended_and_their_clients_stay() {
    for is_hold in [true, false] {
        let (mut bench, block, commit) = in_blocks();
        if is_hold {
            bench.hold(SHOP, Hold { drain_ms: 1_000, ..Hold::default() });
        } else {
            bench.change("new:1", 1, 1_000);
        }
        bench.tick(999);
        assert_eq!(bench.worker.servers_of(SHOP), 2);
        bench.tick(1);
        assert_eq!(bench.worker.servers_of(SHOP), 0);
        assert_eq!(states(&bench.take(commit)), [*b"08007"]);
        bench.say(block, &query("select 1"));
        assert_eq!(states(&bench.take(block)), [*b"40001"]);
        bench.say(block, &query("rollback"));
        bench.take(block);
        bench.say(block, &query("select 2"));
        bench.resume(SHOP);
        let server = bench.open_all()[0];
        assert_eq!(bench.take(server), query("select 2"));
    }
}

#[test]
fn client_that_is_held_longer_than_it_may_be_is_told_what_is_the_matter() {
    let (mut bench, first, second, _) = two();
    bench.hold(SHOP, Hold { wait_ms: 500, ..Hold::default() });
    bench.say(first, &query("a"));
    bench.tick(400);
    bench.say(second, &query("b"));
    bench.tick(100);
    let told = bench.take(first);
    assert_eq!(states(&told), [*b"57P03"]);
    assert!(alloc::string::String::from_utf8_lossy(&told).contains("paused"));
    assert!(bench.is_closed(first) && !bench.is_closed(second));
    bench.resume(SHOP);
    let server = bench.open_all()[0];
    assert_eq!(bench.take(server), query("b"));
}

#[test]
fn databases_that_are_used_later_are_held_as_well_and_go_where_the_others_do() {
    let mut bench = Bench::new(crate::config::PoolMode::Transaction, 1);
    bench.hold(Scope::All, Hold::default());
    bench.change("new:1", 3, 0);
    let client = bench.begin_client(&[]);
    bench.tick(100);
    assert!(bench.wire.connects.is_empty());
    bench.resume(SHOP);
    bench.tick(100);
    assert_eq!(bench.last_place(), "new:1");
    bench.open_all();
    assert!(bench.tags(client).ends_with('Z'));
    bench.begin_client_of("ann", "other", &[]);
    bench.tick(100);
    assert!(bench.wire.connects.is_empty(), "the rest is still held");
    bench.resume(Scope::All);
    assert_eq!(bench.last_place(), "db:5432");
}

#[test]
fn server_whose_opening_had_begun_is_not_used_while_held() {
    let (mut bench, first, _, server) = two();
    bench.end(server);
    bench.say(first, &query("a"));
    bench.hold(SHOP, Hold::default());
    let late = bench.open_all()[0];
    assert!(bench.is_closed(late));
    bench.resume(SHOP);
    let server = bench.open_all()[0];
    assert_eq!(bench.take(server), query("a"));
}
