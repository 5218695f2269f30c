//! What a configuration that is read again, and a loss behind a COMMIT, do to clients.

use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;

use pgx_wire::backend::{self, Status};
use pgx_wire::frontend;

use super::pools_tests::{config, database};
use super::testing::{Bench, batch, done, error, query};
use super::tests::{states, two};
use crate::config::{Config, ForcedLogin, PoolMode};
use crate::secret::Secret;

fn pool(mode: PoolMode, backend: &str) -> Config {
    let mut shop = database(backend, 1);
    shop.mode = mode;
    config(alloc::vec![("shop", shop)])
}

fn reload(bench: &mut Bench, config: Config) {
    bench.worker.reload(&mut bench.wire, Rc::new(config), bench.now);
    bench.check();
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// RESET goes back to the start-up packet's value (seen with version 15).
#[test]
fn server_that_began_with_a_clients_settings_is_nobody_elses_when_its_pool_becomes_shared() {
    let mut bench = Bench::with(pool(PoolMode::Session, "db:1"));
    let evil = bench.client_with(&[("search_path", "evil")]);
    let server = *bench.wire.places.keys().next().expect("a server");
    bench.end(evil);
    bench.take(server);
    bench.say(server, &done("DISCARD ALL", Status::Idle));
    reload(&mut bench, pool(PoolMode::Transaction, "db:1"));
    let other = bench.client();
    bench.say(other, &query("select secret"));
    let sent = text(&bench.take(server));
    assert!(!sent.contains("select secret"), "it runs with search_path=evil: {sent:?}");
}

#[test]
fn server_for_a_client_that_shares_does_not_begin_with_its_settings_in_a_pool_of_sessions() {
    let mut bench = Bench::with(pool(PoolMode::Transaction, "db:1"));
    let evil = bench.client_with(&[("search_path", "evil")]);
    let other = bench.client();
    let old = *bench.wire.places.keys().next().expect("a server");
    reload(&mut bench, pool(PoolMode::Session, "db:1"));
    bench.end(old);
    bench.say(evil, &query("select 1"));
    let server = bench.wire.connects.pop().expect("one is opened");
    let packet = text(&bench.reach(server));
    bench.greet(server);
    bench.say(server, &done("SELECT 1", Status::Idle));
    bench.take(server);
    bench.say(other, &query("select secret"));
    let sent = text(&bench.take(server));
    let is_others = packet.contains("evil") && sent.contains("select secret");
    assert!(!is_others, "it runs with search_path=evil: {sent:?}");
}

#[test]
fn server_that_was_on_its_way_to_where_a_database_was_is_not_used_after_it_has_moved() {
    let mut bench = Bench::with(pool(PoolMode::Transaction, "old:1"));
    let client = bench.begin_client(&[]);
    let server = bench.wire.connects.pop().expect("one is opened");
    reload(&mut bench, pool(PoolMode::Transaction, "new:1"));
    bench.reach(server);
    bench.greet(server);
    bench.open_all();
    bench.take(client);
    bench.tick(60_000);
    bench.say(client, &query("insert into t values (1)"));
    let sent = text(&bench.take(server));
    assert!(!sent.contains("insert"), "a minute later it writes to {:?}", bench.wire.places);
}

#[test]
fn commit_that_was_answered_is_not_called_undone_by_an_error_behind_it_and_a_loss() {
    let (mut bench, client, _, server) = two();
    bench.say(client, &query("begin"));
    bench.say(server, &done("BEGIN", Status::Block));
    bench.take(client);
    let commit = batch("", Some("commit"), false);
    bench.say(client, &[commit, batch("", Some("select 1/0"), false)].concat());
    let mut answer = Vec::new();
    backend::write::parse_complete(&mut answer);
    backend::write::bind_complete(&mut answer);
    backend::write::command_complete(&mut answer, b"COMMIT");
    answer.extend_from_slice(&error("ERROR", "22012"));
    bench.say(server, &answer);
    bench.end(server);
    bench.take(client);
    let mut sync = Vec::new();
    frontend::write::sync(&mut sync);
    bench.say(client, &sync);
    let status = bench.take(client).last().copied().map(char::from);
    bench.say(client, &query("select 1"));
    let told = states(&bench.take(client));
    assert!(!told.contains(b"40001"), "{status:?}: it committed, and is told to do it again");
}

#[test]
fn user_of_a_pool_from_before_is_not_logged_in_by_the_secret_of_the_user_that_came_after_it() {
    let forced = |user: &str, secret: &str| {
        let mut config = pool(PoolMode::Transaction, "db:1");
        let shop = config.databases.get_mut(&b"shop"[..]).expect("there is one");
        let secret = Some(Secret::Password(secret.into()));
        shop.login = Some(ForcedLogin { user: user.into(), secret });
        config
    };
    let mut bench = Bench::with(forced("app", "old"));
    let client = bench.client();
    let old = *bench.wire.places.keys().next().expect("a server");
    reload(&mut bench, forced("admin", "new"));
    bench.end(old);
    bench.wire.connects.clear();
    bench.say(client, &query("select 1"));
    bench.tick(1_000);
    let server = bench.wire.connects.pop().expect("one is opened");
    let packet = text(&bench.reach(server));
    let mut asks = Vec::new();
    backend::write::authentication_clear_text(&mut asks);
    bench.say(server, &asks);
    let said = text(&bench.take(server));
    assert!(!(packet.contains("app") && said.contains("new")), "{packet:?} says {said:?}");
}

#[test]
fn client_that_waits_for_a_server_of_its_own_gets_one_though_its_pool_becomes_shared() {
    let mut bench = Bench::with(pool(PoolMode::Session, "db:1"));
    let first = bench.client();
    let second = bench.begin_client(&[("timezone", "UTC")]);
    bench.take(second);
    reload(&mut bench, pool(PoolMode::Transaction, "db:1"));
    bench.end(first);
    let server = *bench.wire.places.keys().next().expect("a server");
    bench.say(server, &done("DISCARD ALL", Status::Idle));
    let mut opened = 0;
    for _ in 0..50 {
        opened += bench.open_all().len();
        bench.tick(1_000);
        bench.read_mail();
    }
    let is_in = text(&bench.take(second)).contains("TimeZone");
    assert!(is_in && opened < 3, "{opened} servers were opened for it, and it is not let in");
}

#[test]
fn settings_that_a_server_refuses_are_not_tried_without_end_in_a_pool_that_becomes_one_of_sessions()
{
    let mut bench = Bench::with(pool(PoolMode::Transaction, "db:1"));
    let client = bench.client_with(&[("no_such", "1")]);
    let old = *bench.wire.places.keys().next().expect("a server");
    reload(&mut bench, pool(PoolMode::Session, "db:1"));
    bench.end(old);
    bench.say(client, &query("select 1"));
    let mut tried = 0;
    while tried < 100 {
        let Some(server) = bench.wire.connects.pop() else { break };
        bench.reach(server);
        let mut refuses = Vec::new();
        backend::write::authentication_ok(&mut refuses);
        refuses.extend_from_slice(&error("FATAL", "42704"));
        bench.say(server, &refuses);
        bench.end_if_open(server);
        tried += 1;
    }
    assert!(tried < 3 && bench.is_closed(client), "tried {tried} times at the same time");
}
