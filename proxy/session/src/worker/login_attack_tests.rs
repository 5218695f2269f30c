//! Attempts of those who have proved nothing: to be let in, to take others' room, to wait for ever.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;

use pgx_hba::{Files, ReadError};
use pgx_wire::auth::scram::{Verifier, salted_password};
use pgx_wire::backend::{self, Status};
use pgx_wire::frontend;

use super::hold::{Hold, Scope};
use super::testing::{Bench, done, query, tags};
use super::tests::states;
use crate::config::{Access, AuthMethod, Config, Database, Limits, Lookup, PoolMode};
use crate::limits::GUESS_HASHES_MAX;
use crate::net::Socket;
use crate::route::ServerAddress;
use crate::secret::Secret;

struct Text(&'static str);

impl Files for Text {
    fn read(&mut self, _path: &str, _bytes_max: usize) -> Result<Vec<u8>, ReadError> {
        Ok(self.0.into())
    }

    fn list(&mut self, _path: &str) -> Result<Vec<String>, ReadError> {
        Ok(Vec::new())
    }
}

fn database(lookup: Option<Lookup>) -> Database {
    let backends = alloc::vec![ServerAddress("db:5432".to_string()).into()];
    let lookup = lookup.map(Arc::new);
    Database { lookup, ..Database::new(backends, PoolMode::Transaction, 1) }
}

fn looked_up() -> Option<Lookup> {
    let query = "SELECT name, secret FROM users WHERE name = $1".to_string();
    Some(Lookup { user: b"looker".to_vec(), database: None, query })
}

fn config(rules: &'static str) -> Config {
    let rules = pgx_hba::Rules::read("rules", &mut Text(rules)).expect("rules");
    let access = Access { rules, ident: pgx_hba::Ident::default() };
    let salted = salted_password(b"right", &[3; 16], 16);
    let verifier = Verifier::new(&salted, &[3; 16], 16).unwrap();
    Config {
        databases: BTreeMap::from([(b"*".to_vec(), database(None))]),
        users: BTreeMap::from([(b"root".to_vec(), Secret::Scram(verifier))]),
        admins: BTreeSet::from([b"root".to_vec()]),
        auth: AuthMethod::Rules,
        rules: Some(Arc::new(access)),
        clients_max: 10_000,
        ..Config::default()
    }
}

fn password(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    frontend::write::password(&mut out, text.as_bytes());
    out
}

fn row(name: &str, secret: &str) -> Vec<u8> {
    let mut out = Vec::new();
    backend::write::parse_complete(&mut out);
    backend::write::bind_complete(&mut out);
    backend::write::data_row(&mut out, &[Some(name.as_bytes()), Some(secret.as_bytes())]);
    out.extend(done("SELECT 1", Status::Idle));
    out
}

#[test]
fn rules_for_replication_let_nobody_into_the_console() {
    let rules = "host pgx,pgbouncer all all reject\nhost replication all all trust\n";
    let mut bench = Bench::with(config(rules));
    let client = bench.begin_client_of("pgx", "", &[("replication", "true")]);
    assert!(bench.is_closed(client) && bench.wire.console.is_empty());
    for kind in ["true", "on", "database", "yes", ""] {
        for console in ["pgx", "pgbouncer"] {
            let mut bench = Bench::with(config(rules));
            let client = bench.begin_client_of("root", console, &[("replication", kind)]);
            assert!(bench.is_closed(client), "{kind} {console}");
            assert_eq!(tags(&bench.take(client)), "E", "{kind} {console}");
            assert!(bench.wire.console.is_empty());
        }
    }
}

#[test]
fn client_of_the_console_that_spoke_before_its_password_was_hashed_is_read_from() {
    let mut bench = Bench::with(config("host all all all password\n"));
    let client = bench.begin_client_of("root", "pgx", &[]);
    assert_eq!(bench.tags(client), "R");
    bench.say(client, &password("right"));
    let filler = alloc::format!("show help -- {}", "x".repeat(12_000));
    bench.say(client, &query(&filler));
    assert_eq!(bench.hash_all(), 1);
    assert!(bench.tags(client).ends_with('Z'));
    assert!(!bench.is_paused(client), "nobody would read what it says next, or that it leaves");
}

#[test]
fn lookup_in_a_paused_database_ends_with_the_time_for_logins() {
    let mut config = config("host all all all md5\n");
    config.databases = BTreeMap::from([(b"*".to_vec(), database(looked_up()))]);
    config.limits = Limits { query_wait_ms: 0, ..Limits::default() };
    let limit = config.limits.client_login_ms;
    assert!(limit > 0);
    let mut bench = Bench::with(config);
    bench.worker.hold(&mut bench.wire, Scope::All, Hold::default(), bench.now);
    let client = bench.begin_client(&[]);
    bench.tick(limit + 1);
    assert!(bench.is_closed(client), "it has proved nothing, and takes a place");
}

#[test]
fn thousands_who_wait_to_be_looked_up_survive_that_nobody_is_any_more() {
    let mut config = config("host all all all md5\n");
    config.clients_max = 100_000;
    let without = config.clone();
    config.databases = BTreeMap::from([(b"*".to_vec(), database(looked_up()))]);
    let mut bench = Bench::with(config);
    let packet = {
        let mut packet = Vec::new();
        let own = [(&b"user"[..], &b"ann"[..]), (b"database", b"shop")];
        frontend::write::startup(&mut packet, 0, own);
        packet
    };
    let mut clients: Vec<Socket> = Vec::new();
    for _ in 0..20_000 {
        let client = bench.connect();
        clients.push(client);
        let id = bench.id(client);
        // Without a look at all numbers after each.
        bench.worker.client_bytes(&mut bench.wire, id, &packet, bench.now);
    }
    bench.worker.reload(&mut bench.wire, Rc::new(without), bench.now);
    bench.open_all();
    assert!(clients.iter().all(|client| tags(&bench.take(*client)) == "R"));
}

#[test]
fn many_who_know_one_password_come_in_at_once() {
    let mut bench = Bench::with(config("host all all all password\n"));
    let count = 3 * usize::from(GUESS_HASHES_MAX);
    let clients: Vec<Socket> = (0..count)
        .map(|_| {
            let client = bench.begin_client_of("root", "shop", &[]);
            bench.take(client);
            bench.say(client, &password("right"));
            client
        })
        .collect();
    bench.hash_all();
    bench.open_all();
    for client in clients {
        let told = bench.take(client);
        assert!(!bench.is_closed(client), "{:?}", states(&told));
    }
}

#[test]
fn secret_of_one_looked_up_user_logs_in_nobody_else() {
    let mut config = config("host all all all md5\n");
    config.databases = BTreeMap::from([(b"*".to_vec(), database(looked_up()))]);
    let mut bench = Bench::with(config);
    let client = bench.begin_client_of("bob", "shop", &[]);
    let looker = bench.open_all()[0];
    assert_eq!(bench.tags(looker), "PBES");
    // A row of another user, and one of the right user behind it.
    bench.say(looker, &row("ann", "known"));
    assert!(bench.is_closed(client));
    for name in ["bob\u{e9}", "b'; DROP TABLE users; --", "\"bob\"", "$1", &"x".repeat(200)] {
        let client = bench.begin_client_of(name, "shop", &[]);
        let asked = bench.take(looker);
        assert_eq!(tags(&asked), "PBES");
        let parse = asked.windows(7).filter(|at| at.starts_with(b"SELECT ")).count();
        assert_eq!(parse, 1, "the query is as configured");
        let parsed = asked.windows(name.len()).filter(|at| *at == name.as_bytes()).count();
        assert!(parsed >= 1, "{name} is a value");
        bench.say(looker, &row(&name[1..], "known"));
        assert!(bench.is_closed(client), "{name}");
    }
}
