//! Threads that share what there may be.

use alloc::vec::Vec;

use pgx_wire::backend::Status;

use super::pools_tests::{config, database};
use super::testing::{Bench, done, query};
use super::tests::states;
use crate::config::{ForcedLogin, User};
use crate::limits::{HAND_OVER_MS, TENURE_MS};
use crate::net::Socket;

/// Two threads, and one server for both.
fn two() -> (Bench, Bench) {
    let mut threads = Bench::threads(config(alloc::vec![("shop", database("db:1", 1))]), 2);
    let second = threads.remove(1);
    (threads.remove(0), second)
}

/// Everybody reads what others have said, until there is nothing more.
fn settle(benches: &mut [&mut Bench]) {
    while benches.iter_mut().fold(false, |any, bench| bench.read_mail() || any) {}
}

/// A client and the server that was opened for it.
fn first(bench: &mut Bench) -> (Socket, Socket) {
    let client = bench.begin_client(&[]);
    let server = bench.open_all()[0];
    assert!(bench.tags(client).ends_with('Z'));
    (client, server)
}

#[test]
fn thread_without_a_server_gets_the_one_that_is_idle_elsewhere() {
    let (mut one, mut other) = two();
    let (_, server) = first(&mut one);
    let client = other.begin_client(&[]);
    settle(&mut [&mut one, &mut other]);
    assert!(!one.is_closed(server), "it is too young");
    assert!(other.wire.connects.is_empty());
    one.tick(TENURE_MS);
    settle(&mut [&mut one, &mut other]);
    assert!(one.is_closed(server));
    assert_eq!(other.open_all().len(), 1);
    assert!(other.tags(client).ends_with('Z'));
}

#[test]
fn busy_server_goes_to_a_thread_whose_clients_have_waited_much_longer() {
    let (mut one, mut other) = two();
    let (mine, server) = first(&mut one);
    let theirs = other.begin_client(&[]);
    one.tick(TENURE_MS);
    one.say(mine, &query("select 1"));
    let next = one.client();
    // Without the mail the first thread does not know that anybody waits.
    one.say(server, &done("SELECT 1", Status::Idle));
    one.say(mine, &query("select 2"));
    settle(&mut [&mut one, &mut other]);
    one.say(next, &query("select 3"));
    one.say(server, &done("SELECT 2", Status::Idle));
    let sent = one.take(server);
    assert!(sent.ends_with(&query("select 3")), "its own client has waited nearly as long");
    one.tick(HAND_OVER_MS + 1);
    one.say(mine, &query("select 4"));
    one.say(server, &done("SELECT 3", Status::Idle));
    assert!(one.is_closed(server), "the other has waited longer by far");
    settle(&mut [&mut one, &mut other]);
    other.open_all();
    assert!(other.tags(theirs).ends_with('Z'));
    // And back, as soon as it is idle there.
    other.tick(2 * TENURE_MS);
    one.tick(HAND_OVER_MS);
    settle(&mut [&mut one, &mut other]);
    let server = one.open_all()[0];
    assert_eq!(one.take(server), query("select 4"));
}

#[test]
fn pool_of_a_full_database_gets_the_idle_server_of_another_pool() {
    let mut shop = database("db:1", 5);
    shop.servers_max = 1;
    let mut bench = Bench::with(config(alloc::vec![("shop", shop)]));
    let (_, server) = first(&mut bench);
    let client = bench.begin_client_of("bob", "shop", &[]);
    bench.tick(TENURE_MS);
    settle(&mut [&mut bench]);
    assert!(bench.is_closed(server));
    bench.open_all();
    assert!(bench.tags(client).ends_with('Z'));
}

#[test]
fn pool_keeps_its_least_servers_over_all_threads() {
    let mut shop = database("db:1", 5);
    shop.pool_min = 3;
    shop.login = Some(ForcedLogin { user: b"app".to_vec(), secret: None });
    let mut threads = Bench::threads(config(alloc::vec![("shop", shop)]), 2);
    let mut open = 0;
    for _ in 0..5 {
        for bench in &mut threads {
            bench.tick(100);
            open += bench.open_all().len();
        }
    }
    assert_eq!(open, 3);
    // Far beyond the time that a server may be idle.
    for bench in &mut threads {
        bench.tick(700_000);
    }
    let left: usize = threads.iter().map(|bench| bench.worker.gauges().servers).sum();
    assert_eq!(left, 3);
}

#[test]
fn clients_beyond_the_bounds_are_refused_on_every_thread() {
    let mut shop = database("db:1", 5);
    shop.clients_max = 2;
    let mut config = config(alloc::vec![("shop", shop), ("other", database("db:1", 5))]);
    config.clients_max = 4;
    config.special.insert(b"bob".to_vec(), User { clients_max: 1, ..User::default() });
    let mut threads = Bench::threads(config, 2);
    let mut ask = |thread: usize, user: &str, database: &str| -> (Socket, Vec<[u8; 5]>) {
        let bench = &mut threads[thread];
        let client = bench.begin_client_of(user, database, &[]);
        bench.open_all();
        (client, states(&bench.take(client)))
    };
    let full = [*b"53300"];
    let (bob, told) = ask(0, "bob", "shop");
    assert_eq!(told, [[0; 5]; 0]);
    assert_eq!(ask(1, "bob", "other").1, full, "one of bob's");
    assert_eq!(ask(1, "ann", "shop").1, [[0; 5]; 0]);
    assert_eq!(ask(0, "eve", "shop").1, full, "two in shop");
    assert_eq!(ask(0, "eve", "other").1, [[0; 5]; 0]);
    assert_eq!(ask(1, "eve", "other").1, [[0; 5]; 0]);
    assert_eq!(ask(1, "eve", "other").1, full, "four in all");
    threads[0].end(bob);
    let bench = &mut threads[1];
    let client = bench.begin_client_of("bob", "shop", &[]);
    bench.open_all();
    assert_eq!(states(&bench.take(client)), [[0; 5]; 0]);
}

#[test]
fn client_that_has_waited_long_gets_a_server_of_the_reserve() {
    let mut shop = database("db:1", 1);
    (shop.reserve, shop.reserve_ms) = (1, 1_000);
    let mut bench = Bench::with(config(alloc::vec![("shop", shop)]));
    let clients: Vec<_> = (0..3).map(|_| bench.client()).collect();
    for client in &clients {
        bench.say(*client, &query("begin"));
    }
    bench.tick(999);
    assert!(bench.wire.connects.is_empty());
    bench.tick(1);
    assert_eq!(bench.open_all().len(), 1);
    bench.tick(1_000);
    assert!(bench.wire.connects.is_empty(), "one, not more");
}
