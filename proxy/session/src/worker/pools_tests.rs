//! Databases and users with settings of their own.

use alloc::collections::BTreeMap;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use pgx_wire::backend::Status;
use pgx_wire::{Startup, startup};

use super::testing::{Bench, done, query};
use super::tests::states;
use crate::config::{AuthMethod, Config, Database, ForcedLogin, PoolMode, User};
use crate::net::Socket;
use crate::route::ServerAddress;

/// A database on a backend.
pub(super) fn database(backend: &str, pool_size: usize) -> Database {
    let backends = alloc::vec![ServerAddress(backend.to_string()).into()];
    Database::new(backends, PoolMode::Transaction, pool_size)
}

/// A configuration without logins.
pub(super) fn config(databases: Vec<(&str, Database)>) -> Config {
    let own = |(name, database): (&str, Database)| (name.as_bytes().to_vec(), database);
    Config {
        databases: databases.into_iter().map(own).collect(),
        auth: AuthMethod::Trust,
        ..Config::default()
    }
}

/// Whom the proxy says to be on the last connection that it makes, and where.
fn said(bench: &mut Bench) -> (Socket, String, String) {
    let socket = *bench.wire.connects.last().expect("no connection");
    let owner = bench.wire.owners[&socket];
    let super::Owner::Server(id) = owner else { panic!("not a server's") };
    bench.worker.connected(&mut bench.wire, id, Ok(()), bench.now);
    let packet = bench.take(socket);
    let (packet, _) = startup::parse(&packet).unwrap().unwrap();
    let text = |name: &[u8]| String::from_utf8_lossy(packet.parameter(name).unwrap()).into_owned();
    assert!(matches!(packet, Startup::Login { .. }));
    (socket, text(b"user"), text(b"database"))
}

#[test]
fn clients_of_a_database_with_a_user_of_its_own_share_that_users_servers() {
    let mut shop = database("db:1", 1);
    shop.name = Some("shop_v2".to_string());
    shop.login = Some(ForcedLogin { user: b"app".to_vec(), secret: None });
    let mut bench = Bench::with(config(alloc::vec![("shop", shop)]));
    let first = bench.begin_client_of("ann", "shop", &[]);
    let (server, user, name) = said(&mut bench);
    assert_eq!((user.as_str(), name.as_str()), ("app", "shop_v2"));
    bench.wire.connects.clear();
    bench.greet(server);
    assert!(bench.tags(first).ends_with('Z'));
    let second = bench.begin_client_of("bob", "shop", &[]);
    assert!(bench.tags(second).ends_with('Z'), "the servers are known");
    bench.say(second, &query("select 1"));
    assert_eq!(bench.take(server), query("select 1"));
    assert!(bench.wire.connects.is_empty());
}

#[test]
fn unknown_database_is_refused_in_postgresqls_words_unless_there_is_one_for_all_others() {
    let mut bench = Bench::with(config(alloc::vec![("shop", database("db:1", 1))]));
    let client = bench.begin_client_of("ann", "none", &[]);
    let told = bench.take(client);
    assert_eq!(states(&told), [*b"3D000"]);
    assert!(String::from_utf8_lossy(&told).contains("database \"none\" does not exist"));
    assert!(bench.is_closed(client) && bench.wire.connects.is_empty());

    let all = alloc::vec![("shop", database("db:1", 1)), ("*", database("db:2", 1))];
    let mut bench = Bench::with(config(all));
    bench.begin_client_of("ann", "none", &[]);
    assert_eq!(said(&mut bench).2, "none");
}

#[test]
fn users_mode_and_size_come_before_those_of_the_database() {
    let mut config = config(alloc::vec![("shop", database("db:1", 1))]);
    let own = User { mode: Some(PoolMode::Session), pool_size: Some(2), ..User::default() };
    config.special = BTreeMap::from([(b"bob".to_vec(), own)]);
    let mut bench = Bench::with(config);
    let (mut clients, mut opened) = (Vec::new(), 0);
    for user in ["ann", "ann", "bob", "bob", "bob"] {
        clients.push(bench.begin_client_of(user, "shop", &[]));
        opened += bench.open_all().len();
    }
    assert_eq!(opened, 3, "a second one for bob alone");
    for client in &clients {
        bench.say(*client, &query("select 1"));
    }
    assert!(bench.open_all().is_empty());
    for server in bench.wire.owners.keys().copied().collect::<Vec<_>>() {
        bench.say(server, &done("SELECT 1", Status::Idle));
    }
    let waiting = bench.worker.gauges().waiting;
    assert_eq!(waiting, 1, "one of bob's, who keeps servers; ann's two share one in turn");
}
