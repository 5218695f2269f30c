//! Attempts to reach servers that a cluster's clients may not use any more, or to wait for ever.

use alloc::collections::BTreeMap;
use alloc::rc::Rc;
use alloc::string::ToString;
use alloc::vec::Vec;

use pgx_wire::backend::Status;

use super::hold::Scope;
use super::testing::{Bench, done, query};
use crate::config::{AuthMethod, Config, Database, PoolMode};
use crate::route::{Course, Epoch, Gate, ServerAddress, Snapshot};

fn snapshot(epoch: u64, backend: &str) -> Snapshot {
    let backends = alloc::vec![ServerAddress(backend.to_string()).into()];
    Snapshot { epoch: Epoch(epoch), backends }
}

fn course(epoch: u64, primary: &str, writes: Gate) -> Course {
    let (primary, standbys) = (snapshot(epoch, primary), snapshot(epoch, "s:1"));
    Course { primary, writes, standbys, reads: Gate::Open, is_strict: false }
}

/// All databases, of the cluster or of one server.
fn config(is_clusters: bool) -> Config {
    let own = alloc::vec![ServerAddress("own:1".to_string()).into()];
    let backends = if is_clusters { Vec::new() } else { own };
    let database = Database { is_clusters, ..Database::new(backends, PoolMode::Transaction, 1) };
    Config {
        databases: BTreeMap::from([(b"*".to_vec(), database)]),
        auth: AuthMethod::Trust,
        ..Config::default()
    }
}

impl Bench {
    fn goes(&mut self, course: &Course) {
        self.worker.follow(&mut self.wire, course, self.now);
        self.check();
    }

    fn reload_with(&mut self, config: Config) {
        self.worker.reload(&mut self.wire, Rc::new(config), self.now);
        self.check();
    }

    fn place(&self) -> &str {
        &self.wire.places.values().next_back().expect("no connection").0
    }
}

#[test]
fn database_that_becomes_the_clusters_by_a_reload_goes_by_its_course() {
    for gate in [Gate::Open, Gate::Shut] {
        let mut bench = Bench::with(config(false));
        bench.goes(&course(2, "a:1", gate));
        let client = bench.client();
        assert_eq!(bench.place(), "own:1");
        bench.reload_with(config(true));
        bench.say(client, &query("a"));
        if gate == Gate::Shut {
            assert_eq!(bench.place(), "own:1", "nobody may be asked");
            bench.goes(&course(2, "a:1", Gate::Open));
        }
        assert_eq!(bench.place(), "a:1");
    }
}

#[test]
fn transaction_that_runs_when_its_database_becomes_the_clusters_may_end() {
    let mut bench = Bench::with(config(false));
    bench.goes(&course(2, "a:1", Gate::Open));
    let client = bench.client();
    let server = *bench.wire.places.keys().next_back().unwrap();
    bench.say(client, &query("begin"));
    bench.say(server, &done("BEGIN", Status::Block));
    bench.take(server);
    bench.reload_with(config(true));
    bench.say(client, &query("commit"));
    assert_eq!(bench.take(server), query("commit"));
    bench.say(server, &done("COMMIT", Status::Idle));
    assert!(bench.is_closed(server));
    bench.say(client, &query("a"));
    assert_eq!(bench.place(), "a:1");
}

#[test]
fn database_that_is_the_clusters_no_more_waits_for_no_course() {
    for spoken in [false, true] {
        let mut bench = Bench::with(config(true));
        if spoken {
            bench.goes(&course(2, "a:1", Gate::Shut));
        }
        let waits = bench.begin_client(&[]);
        bench.tick(100);
        assert!(bench.wire.connects.is_empty());
        bench.reload_with(config(false));
        bench.open_all();
        assert!(bench.tags(waits).ends_with('Z'), "spoken: {spoken}");
        assert_eq!(bench.place(), "own:1");
    }
}

#[test]
fn operator_cannot_lead_the_clusters_clients_elsewhere() {
    let mut bench = Bench::with(config(true));
    bench.goes(&course(2, "a:1", Gate::Open));
    let client = bench.client();
    let (scope, stray) = (Scope::Database(b"shop"), snapshot(9, "stray:1"));
    bench.worker.handle_snapshot(&mut bench.wire, scope, &stray, 0, bench.now);
    bench.say(client, &query("a"));
    assert_eq!(bench.place(), "a:1");
    bench.goes(&course(3, "b:1", Gate::Shut));
    bench.goes(&course(3, "b:1", Gate::Open));
    bench.say(client, &query("b"));
    assert_eq!(bench.place(), "b:1", "the next primary is not taken for an older one");
}

#[test]
fn transaction_does_not_go_on_at_a_primary_that_another_has_followed() {
    let mut bench = Bench::with(config(true));
    bench.goes(&course(2, "a:1", Gate::Open));
    let client = bench.client();
    let server = *bench.wire.places.keys().next_back().unwrap();
    bench.say(client, &query("begin"));
    bench.say(server, &done("BEGIN", Status::Block));
    bench.goes(&course(3, "b:1", Gate::Open));
    assert!(bench.is_closed(server), "what is between the two courses may have been missed");
}
