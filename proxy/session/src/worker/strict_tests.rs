//! Clients of a strict cluster cannot have commits told as done too early.

use alloc::collections::BTreeMap;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use pgx_wire::backend::{self, Status};
use pgx_wire::{Frames, frontend};

use super::testing::{Bench, batch, batch_done, done, error, query, tags};
use super::tests::states;
use crate::config::{AuthMethod, Config, Database, PoolMode};
use crate::limits::TEXT_BYTES_MAX;
use crate::net::Socket;
use crate::route::{Course, Epoch, Gate, ServerAddress, Snapshot};

const ASKED: &str = "SHOW synchronous_commit;SHOW client_min_messages";
const LOW: &str = "set synchronous_commit = off";

fn course(epoch: u64, is_strict: bool) -> Course {
    let at = |name: &str| Snapshot {
        epoch: Epoch(epoch),
        backends: alloc::vec![ServerAddress(name.to_string()).into()],
    };
    let (primary, standbys) = (at("a:1"), at("b:1"));
    Course { primary, writes: Gate::Open, standbys, reads: Gate::Open, is_strict }
}

impl Bench {
    fn follows(&mut self, course: &Course) {
        self.worker.follow(&mut self.wire, course, self.now);
        self.check();
    }

    /// The next server is reached, lets us in, and says what it begins with when it is asked. Gives
    /// its start-up packet.
    fn begin_server(&mut self, commit: &str, messages: &str) -> (Socket, Vec<u8>) {
        let server = self.wire.connects.remove(0);
        let packet = self.reach(server);
        self.greet(server);
        assert_eq!(self.take(server), query(ASKED));
        let mut answer = Vec::new();
        for value in [commit, messages] {
            backend::write::data_row(&mut answer, &[Some(value.as_bytes())]);
            backend::write::command_complete(&mut answer, b"SHOW");
        }
        backend::write::ready(&mut answer, Status::Idle);
        self.say(server, &answer);
        (server, packet)
    }
}

fn strict(mode: PoolMode) -> Bench {
    let database = Database { is_clusters: true, ..Database::new(Vec::new(), mode, 1) };
    let mut bench = Bench::with(Config {
        databases: BTreeMap::from([(b"*".to_vec(), database)]),
        auth: AuthMethod::Trust,
        ..Config::default()
    });
    bench.follows(&course(1, true));
    bench
}

/// A client of a strict cluster, and its server.
fn begin(mode: PoolMode) -> (Bench, Socket, Socket) {
    let mut bench = strict(mode);
    let client = bench.begin_client(&[]);
    let (server, _) = bench.begin_server("on", "notice");
    assert!(bench.tags(client).ends_with('Z'));
    (bench, client, server)
}

/// The texts of simple queries.
fn texts(bytes: &[u8]) -> Vec<String> {
    let mut frames = Frames::new(bytes);
    let mut texts = Vec::new();
    while let Some(frame) = frames.next_frame().expect("messages") {
        let text = frontend::query(frame.body).expect("a query");
        texts.push(String::from_utf8_lossy(text).into_owned());
    }
    texts
}

#[test]
fn query_that_lowers_fails_at_the_server_and_is_none_of_its() {
    for mode in [PoolMode::Session, PoolMode::Transaction] {
        let message = query(&alloc::format!("insert into t values (1); {LOW}"));
        for at in 0..message.len() {
            let (mut bench, client, server) = begin(mode);
            bench.say(client, &query("begin"));
            bench.say(server, &done("BEGIN", Status::Block));
            bench.take(server);
            bench.take(client);
            bench.say(client, &message[..at]);
            bench.say(client, &message[at..]);
            // So that the block fails there as well.
            assert_eq!(texts(&bench.take(server)), ["refused by pgx"], "{mode:?} cut at {at}");
            let mut failed = error("ERROR", "42601");
            backend::write::ready(&mut failed, Status::Failed);
            bench.say(server, &failed);
            let told = bench.take(client);
            assert_eq!((tags(&told).as_str(), states(&told)), ("EZ", [*b"22023"].to_vec()));
            assert!(String::from_utf8_lossy(&told).contains("durability is strict"));
            bench.say(client, &query("rollback"));
            assert_eq!(texts(&bench.take(server)), ["rollback"]);
        }
    }
}

#[test]
fn parse_that_lowers_fails_its_batch() {
    for mode in [PoolMode::Session, PoolMode::Transaction] {
        for name in ["", "s"] {
            let (mut bench, client, server) = begin(mode);
            let message = batch(name, Some(LOW), true);
            bench.say_slowly(client, &message);
            let sent = bench.take(server);
            assert_eq!(tags(&sent).chars().next(), Some('D'), "in its place");
            assert!(!String::from_utf8_lossy(&sent).contains("synchronous"));
            let mut failed = error("ERROR", "26000");
            backend::write::ready(&mut failed, Status::Idle);
            bench.say(server, &failed);
            let told = bench.take(client);
            assert_eq!((tags(&told).as_str(), states(&told)), ("EZ", [*b"22023"].to_vec()));
            bench.say(client, &query("a"));
            assert_eq!(texts(&bench.take(server)), ["a"]);
        }
    }
}

#[test]
fn what_does_not_lower_passes_as_it_is() {
    for mode in [PoolMode::Session, PoolMode::Transaction] {
        let (mut bench, client, server) = begin(mode);
        for text in ["set synchronous_commit = remote_apply", "deallocate x", "deallocate pgx"] {
            bench.say(client, &query(text));
            assert_eq!(texts(&bench.take(server)), [text], "{mode:?}");
            bench.say(server, &done("SET", Status::Idle));
            assert_eq!(bench.tags(client), "CZ");
        }
        bench.say(client, &batch("", Some("select 1"), true));
        assert!(tags(&bench.take(server)).starts_with('P'));
        bench.say(server, &batch_done(true, Status::Idle));
        assert_eq!(bench.tags(client), "12CZ");
    }
}

#[test]
fn client_that_asks_for_less_at_its_start_is_turned_away() {
    for parameter in [
        ("options", "-c Synchronous-Commit=off"),
        ("synchronous_commit", "local"),
        ("client_min_messages", "ERROR"),
    ] {
        let mut bench = strict(PoolMode::Transaction);
        let client = bench.begin_client(&[parameter]);
        let told = bench.take(client);
        assert_eq!(states(&told), [*b"22023"], "{parameter:?}");
        assert!(bench.is_closed(client) && bench.wire.connects.is_empty());
    }
    // Standbys commit nothing.
    let mut bench = strict(PoolMode::Transaction);
    bench.begin_client(&[("options", "-c synchronous_commit=off -c pgx.target=standby")]);
    let server = bench.wire.connects.pop().unwrap();
    bench.reach(server);
    bench.greet_as(server, &[("in_hot_standby", "on")]);
    assert!(bench.take(server).is_empty(), "nor are they asked");
}

#[test]
fn server_that_begins_too_low_is_begun_once_more_with_what_it_must() {
    let mut bench = strict(PoolMode::Transaction);
    let client = bench.begin_client(&[]);
    let (low, packet) = bench.begin_server("local", "notice");
    assert!(!packet.windows(11).any(|at| at == b"synchronous"), "it may be more by itself");
    assert!(bench.is_closed(low) && bench.take(client).is_empty());
    let (server, packet) = bench.begin_server("on", "notice");
    assert!(packet.windows(22).any(|at| at == b"synchronous_commit\0on\0"));
    assert!(!packet.windows(10).any(|at| at == b"client_min"));
    assert!(bench.tags(client).ends_with('Z'));
    bench.say(client, &query("a"));
    assert_eq!(texts(&bench.take(server)), ["a"]);
}

#[test]
fn server_that_does_not_take_what_it_must_is_not_asked_for_ever() {
    let mut bench = strict(PoolMode::Transaction);
    let client = bench.begin_client(&[]);
    bench.begin_server("off", "notice");
    bench.begin_server("off", "notice");
    assert!(bench.wire.connects.is_empty());
    assert_eq!(states(&bench.take(client)), [*b"08001"]);
}

#[test]
fn large_text_that_names_such_a_setting_is_never_whole_at_its_server() {
    for mode in [PoolMode::Session, PoolMode::Transaction] {
        let (mut bench, client, server) = begin(mode);
        let text = alloc::format!("{}; {LOW}", "x".repeat(TEXT_BYTES_MAX));
        let message = query(&text);
        bench.say(client, &message[..9_000]);
        bench.say(client, &message[9_000..]);
        assert!(bench.take(server).len() < message.len());
        assert!(bench.is_closed(server) && bench.is_closed(client));
        assert_eq!(states(&bench.take(client)), [*b"22023"], "{mode:?}");
        // Others are served.
        let other = bench.begin_client(&[]);
        bench.say(other, &query("a"));
        let (server, _) = bench.begin_server("on", "notice");
        assert_eq!(texts(&bench.take(server)), ["a"]);
    }
}

#[test]
fn large_text_that_names_no_such_setting_goes_on_as_it_comes() {
    for mode in [PoolMode::Session, PoolMode::Transaction] {
        let (mut bench, client, server) = begin(mode);
        let message = query(&"set ".repeat(TEXT_BYTES_MAX));
        bench.say(client, &message[..9_000]);
        assert_eq!(bench.take(server), message[..9_000], "{mode:?}");
        bench.say(client, &message[9_000..]);
        assert_eq!(bench.take(server), message[9_000..]);
    }
}

#[test]
fn nothing_is_looked_at_where_durability_is_up_to_clients() {
    let (mut bench, client, server) = begin(PoolMode::Transaction);
    bench.follows(&course(1, false));
    assert!(bench.is_closed(server), "it may begin otherwise now");
    bench.say(client, &query(LOW));
    let server = bench.open_all()[0];
    assert_eq!(texts(&bench.take(server)), [LOW]);
}

#[test]
fn what_was_set_before_strict_is_raised_with_the_next_transaction() {
    for mode in [PoolMode::Session, PoolMode::Transaction] {
        let mut bench = strict(mode);
        bench.follows(&course(1, false));
        let client = bench.client();
        bench.say(client, &query(LOW));
        let server = *bench.wire.places.keys().next_back().unwrap();
        bench.say(server, &done("SET", Status::Idle));
        bench.take(server);
        bench.follows(&course(1, true));
        bench.say(client, &query("a"));
        let sent = texts(&bench.take(server));
        let raised = "SELECT pg_catalog.set_config('client_min_messages','warning',false),\
                      pg_catalog.set_config('synchronous_commit','on',false)";
        assert_eq!(sent, [raised, "a"], "{mode:?}");
    }
}

#[test]
fn what_a_client_began_with_before_strict_is_raised() {
    let mut bench = strict(PoolMode::Transaction);
    bench.follows(&course(1, false));
    let client = bench.client_with(&[("synchronous_commit", "off")]);
    bench.follows(&course(1, true));
    bench.say(client, &query("a"));
    let (server, _) = bench.begin_server("on", "notice");
    let raised = "SELECT pg_catalog.set_config('synchronous_commit','on',false)";
    assert_eq!(texts(&bench.take(server))[0], raised);
}

#[test]
fn statement_that_was_prepared_before_strict_is_not_run() {
    let mut bench = strict(PoolMode::Transaction);
    bench.follows(&course(1, false));
    let client = bench.client();
    bench.say(client, &batch("s", Some(LOW), true));
    let server = *bench.wire.places.keys().next_back().unwrap();
    bench.say(server, &batch_done(true, Status::Idle));
    bench.take(server);
    bench.take(client);
    bench.follows(&course(1, true));
    bench.say(client, &batch("s", None, true));
    let sent = bench.take(server);
    assert!(!tags(&sent).contains('B'), "{}", tags(&sent));
}
