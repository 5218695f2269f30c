//! Clients that talk to pgx itself.

use alloc::collections::BTreeSet;
use alloc::rc::Rc;
use alloc::string::String;

use pgx_wire::frontend;

use super::testing::{Bench, query, tags};
use crate::config::PoolMode;
use crate::limits::CONSOLE_BYTES_MAX;
use crate::net::Socket;

fn bench() -> Bench {
    let mut bench = Bench::new(PoolMode::Transaction, 1);
    let mut config = (*bench.worker.config).clone();
    config.admins = BTreeSet::from([b"root".to_vec()]);
    config.viewers = BTreeSet::from([b"eve".to_vec()]);
    config.clients_max = 2;
    bench.worker.reload(&mut bench.wire, Rc::new(config), bench.now);
    bench
}

fn answer(bench: &mut Bench, client: Socket, answer: &[u8]) {
    let id = bench.id(client);
    bench.worker.console_answers(&mut bench.wire, id, answer);
}

fn done(bench: &mut Bench) -> String {
    core::mem::take(&mut bench.wire.console).join("; ")
}

#[test]
fn only_who_is_named_talks_to_the_console_and_no_server_is_asked() {
    let mut bench = bench();
    let stranger = bench.begin_client_of("ann", "pgx", &[]);
    assert!(bench.is_closed(stranger));
    assert!(bench.take(stranger).windows(5).any(|at| at == b"42501"));
    assert_eq!(done(&mut bench), "");
    for (user, database, is_admin) in [("root", "pgx", true), ("eve", "pgbouncer", false)] {
        let client = bench.begin_client_of(user, database, &[]);
        assert!(tags(&bench.take(client)).starts_with("RS"));
        assert!(done(&mut bench).ends_with(&alloc::format!("is_admin: {is_admin} }}")));
        bench.end(client);
        assert_eq!(done(&mut bench), "Ends");
    }
    assert!(bench.wire.connects.is_empty());
}

#[test]
fn flights_are_handed_over_whole_and_one_after_the_other() {
    let mut bench = bench();
    let client = bench.begin_client_of("root", "pgx", &[]);
    bench.take(client);
    done(&mut bench);
    let mut batch = alloc::vec::Vec::new();
    frontend::write::parse(&mut batch, b"", b"SHOW POOLS", &[]);
    frontend::write::sync(&mut batch);
    let (first, rest) = batch.split_at(7);
    bench.say(client, first);
    assert_eq!(done(&mut bench), "");
    bench.say(client, rest);
    assert_eq!(done(&mut bench), alloc::format!("{:?}", crate::net::Console::Says(batch)));
    bench.say(client, &query("SHOW STATS"));
    assert_eq!(done(&mut bench), "", "the first is not answered");
    answer(&mut bench, client, b"1\0\0\0\x04");
    assert_eq!(bench.tags(client), "1");
    let second = crate::net::Console::Says(query("SHOW STATS"));
    assert_eq!(done(&mut bench), alloc::format!("{second:?}"));
}

#[test]
fn who_says_too_much_at_once_is_let_go() {
    let mut bench = bench();
    let client = bench.begin_client_of("root", "pgx", &[]);
    bench.take(client);
    bench.say(client, &query("PAUSE"));
    bench.say(client, &alloc::vec![b'Q'; CONSOLE_BYTES_MAX + 1]);
    assert!(bench.is_closed(client));
    assert_eq!(bench.tags(client), "E");
}

#[test]
fn admins_come_in_where_there_are_too_many_clients_and_viewers_do_not() {
    let mut bench = bench();
    bench.client();
    bench.client();
    let ann = bench.begin_client(&[]);
    let eve = bench.begin_client_of("eve", "pgx", &[]);
    assert!(bench.is_closed(ann) && bench.is_closed(eve));
    let root = bench.begin_client_of("root", "pgx", &[]);
    assert!(tags(&bench.take(root)).ends_with('Z'));
    let elsewhere = bench.begin_client_of("root", "shop", &[]);
    assert!(bench.is_closed(elsewhere));
}

#[test]
fn console_closes_when_pgx_stops_and_never_for_being_idle() {
    let mut bench = bench();
    let client = bench.begin_client_of("root", "pgx", &[]);
    bench.take(client);
    bench.tick(10_000_000);
    assert!(!bench.is_closed(client));
    bench.worker.close_consoles(&mut bench.wire);
    assert!(bench.is_closed(client));
    assert!(bench.take(client).windows(5).any(|at| at == b"57P01"));
}
