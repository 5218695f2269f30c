//! What is counted of sessions, and who is told to be there.

use alloc::vec::Vec;

use pgx_wire::backend::{self, Status};
use pgx_wire::frontend;

use super::testing::{Bench, FIRST_PROCESS, batch, batch_done, done, error, query};
use super::{ClientState, PoolView, ServerState};
use crate::config::PoolMode;
use crate::limits::FORGET_MS;
use crate::net::Socket;
use crate::stats::Totals;

impl Bench {
    /// What was counted of all.
    fn totals(&self) -> Totals {
        let mut all = Totals::default();
        self.worker.stats().for_each(|row| all.merge(&row.totals));
        all
    }

    /// The only pool.
    fn pool(&self) -> PoolView {
        let mut pools = self.worker.pools(self.now);
        assert_eq!(pools.len(), 1, "{pools:?}");
        pools.remove(0)
    }

    /// Time passes, and nobody looks at limits.
    fn pass(&mut self, us: u64) {
        self.now.0 += us;
    }

    /// Transactions and queries that were counted, and how long they took.
    fn done(&self) -> [(u64, u64); 2] {
        let totals = self.totals();
        [&totals.transactions, &totals.queries].map(|each| (each.count(), each.sum_us()))
    }
}

/// A client of a shared pool with a server that is free.
fn begin() -> (Bench, Socket, Socket) {
    let mut bench = Bench::new(PoolMode::Transaction, 1);
    let client = bench.begin_client(&[]);
    let server = bench.open_all()[0];
    bench.take(client);
    (bench, client, server)
}

#[test]
fn queries_of_a_block_are_counted_each_and_the_block_once() {
    let (mut bench, client, server) = begin();
    for (text, command, status) in
        [("begin", "BEGIN", Status::Block), ("commit", "COMMIT", Status::Idle)]
    {
        bench.say(client, &query(text));
        bench.pass(300);
        bench.say(server, &done(command, status));
        // The client thinks.
        bench.pass(1_000);
    }
    bench.say(client, &query("select 1"));
    bench.pass(7);
    bench.say(server, &done("SELECT 1", Status::Idle));
    assert_eq!(bench.done(), [(2, 1_600 + 7), (3, 2 * 300 + 7)]);
}

#[test]
fn queries_are_counted_for_their_backend_also_when_its_servers_are_gone() {
    let (mut bench, client, server) = begin();
    let answered = |bench: &Bench| {
        let all: Vec<_> = bench.worker.answered().collect();
        let [(address, count)] = all[..] else { panic!("{all:?}") };
        assert_eq!(address.0, "db:5432");
        count
    };
    assert_eq!(answered(&bench), 0, "what it took to log in is none of a client's");
    bench.say(client, &query("select 1"));
    bench.say(server, &done("SELECT 1", Status::Idle));
    assert_eq!(answered(&bench), 1);
    bench.end(server);
    assert_eq!(answered(&bench), 1);
}

#[test]
fn batch_is_one_query_and_each_of_a_pipeline_begins_with_the_end_of_the_one_before() {
    let (mut bench, client, server) = begin();
    bench.say_slowly(client, &batch("", Some("select 1"), true));
    bench.pass(10);
    bench.say(client, &[batch("", None, true), batch("", None, true)].concat());
    bench.pass(20);
    bench.say(server, &batch_done(true, Status::Idle));
    bench.pass(30);
    bench.say(server, &[batch_done(false, Status::Idle), batch_done(false, Status::Idle)].concat());
    assert_eq!(bench.done(), [(3, 60), (3, 60)]);
    assert_eq!(bench.totals().waits.count(), 1, "it had its server for all of them");
}

#[test]
fn what_fails_is_counted_like_what_does_not() {
    let (mut bench, client, server) = begin();
    bench.say(client, &query("select 1/0"));
    bench.pass(5);
    let mut failed = error("ERROR", "22012");
    backend::write::ready(&mut failed, Status::Idle);
    bench.say(server, &failed);
    bench.say(client, &batch("", Some("select 1/0"), true));
    bench.pass(5);
    bench.say(server, &failed);
    assert_eq!(bench.done(), [(2, 10), (2, 10)]);
}

#[test]
fn copy_in_is_one_query_in_either_protocol() {
    let (mut bench, client, server) = begin();
    let copied = || {
        let mut out = Vec::new();
        backend::write::command_complete(&mut out, b"COPY 1");
        backend::write::ready(&mut out, Status::Idle);
        out
    };
    let copy_in = b"G\0\0\0\x07\0\0\0";
    bench.say(client, &query("copy t from stdin"));
    bench.say(server, copy_in);
    bench.pass(1);
    bench.say(client, b"d\0\0\0\x061\n");
    bench.say(client, b"c\0\0\0\x04");
    bench.pass(1);
    bench.say(server, &copied());
    assert_eq!(bench.done(), [(1, 2), (1, 2)]);
    let mut flight = batch("", Some("copy t from stdin"), true);
    flight.extend_from_slice(b"d\0\0\0\x061\nc\0\0\0\x04");
    frontend::write::sync(&mut flight);
    bench.say(client, &flight);
    let mut answer = Vec::new();
    backend::write::parse_complete(&mut answer);
    backend::write::bind_complete(&mut answer);
    answer.extend_from_slice(copy_in);
    bench.say(server, &answer);
    bench.pass(3);
    bench.say(server, &copied());
    assert_eq!(bench.done(), [(2, 5), (2, 5)]);
}

#[test]
fn result_is_transferred_from_its_first_message_to_its_last() {
    let (mut bench, client, server) = begin();
    bench.say(client, &query("select 1"));
    bench.pass(40);
    bench.say_slowly(server, b"D\0\0\0\x06\0\0");
    bench.pass(2);
    bench.say(server, &done("SELECT 1", Status::Block));
    bench.say(client, &query("select 2"));
    bench.pass(100);
    bench.say(server, &done("SELECT 1", Status::Idle));
    let transfers = bench.totals().transfers;
    assert_eq!((transfers.count(), transfers.sum_us()), (2, 2));
}

#[test]
fn wait_for_a_server_is_counted_when_it_ends_and_none_as_zero() {
    let (mut bench, first, server) = begin();
    let second = bench.client();
    bench.say(first, &query("begin"));
    bench.say(server, &done("BEGIN", Status::Block));
    bench.say(second, &query("select 1"));
    bench.pass(2_500);
    let pool = bench.pool();
    assert_eq!((pool.cl_active, pool.cl_waiting, pool.sv_active), (1, 1, 1));
    assert_eq!(pool.maxwait_us, 2_500);
    assert_eq!(bench.totals().waits.sum_us(), 0, "it waits yet");
    bench.say(first, &query("commit"));
    bench.say(server, &done("COMMIT", Status::Idle));
    bench.say(server, &done("SELECT 1", Status::Idle));
    let waits = bench.totals().waits;
    assert_eq!((waits.count(), waits.sum_us()), (2, 2_500));
    let pool = bench.pool();
    assert_eq!((pool.cl_active, pool.cl_waiting, pool.sv_idle, pool.maxwait_us), (2, 0, 1, 0));
}

#[test]
fn queries_of_the_proxy_itself_are_nobodys() {
    let mut bench = Bench::new(PoolMode::Session, 1);
    let client = bench.begin_client(&[]);
    let server = bench.open_all()[0];
    bench.say(client, &query("select 1"));
    bench.say(server, &done("SELECT 1", Status::Idle));
    bench.end(client);
    assert_eq!(bench.tags(server), "QQ", "its query and DISCARD ALL");
    assert_eq!((bench.pool().sv_tested, bench.pool().cl_active), (1, 0));
    bench.say(server, &done("DISCARD ALL", Status::Idle));
    assert_eq!(bench.done(), [(1, 0), (1, 0)]);
    assert_eq!((bench.pool().sv_tested, bench.pool().sv_idle), (0, 1));
}

#[test]
fn bytes_are_those_of_clients_that_are_in_and_of_their_servers() {
    let (mut bench, client, server) = begin();
    let (asked, answer) = (query("select 1"), done("SELECT 1", Status::Idle));
    bench.say_slowly(client, &asked);
    bench.say(server, &answer);
    let totals = bench.totals();
    assert_eq!((totals.received, totals.sent), (asked.len() as u64, answer.len() as u64));
}

#[test]
fn query_that_comes_with_the_login_is_counted_once() {
    let (mut bench, first, server) = begin();
    let other = bench.connect();
    let mut packet = Vec::new();
    let names = [(&b"user"[..], &b"ann"[..]), (b"database", b"shop")];
    frontend::write::startup(&mut packet, 0, names);
    packet.extend_from_slice(&query("select 1"));
    bench.say(other, &packet);
    bench.say(server, &done("SELECT 1", Status::Idle));
    let asked = query("select 1").len() as u64;
    assert_eq!((bench.totals().received, bench.totals().queries.count()), (asked, 1));
    // One that waits until it is let in.
    bench.end(first);
    let mut bench = Bench::new(PoolMode::Session, 1);
    let client = bench.connect();
    bench.say_slowly(client, &packet);
    bench.open_all();
    assert_eq!(bench.totals().received, asked);
}

#[test]
fn statement_of_two_clients_is_prepared_once_and_bound_each_time() {
    let (mut bench, first, server) = begin();
    let second = bench.client();
    for (client, is_new) in [(first, true), (second, false)] {
        bench.say(client, &batch("s", Some("select 1"), true));
        bench.say(server, &batch_done(is_new, Status::Idle));
    }
    bench.say(first, &batch("s", None, true));
    bench.say(server, &batch_done(false, Status::Idle));
    let totals = bench.totals();
    assert_eq!((totals.client_parses, totals.server_parses, totals.binds), (2, 1, 3));
    let prepared: Vec<_> =
        bench.worker.client_views(bench.now).map(|client| client.prepared).collect();
    assert_eq!(prepared, [1, 1]);
    assert_eq!(bench.worker.server_views(bench.now).next().map(|server| server.prepared), Some(1));
}

#[test]
fn logins_take_as_long_as_until_who_logs_in_can_go_on() {
    let mut bench = Bench::new(PoolMode::Transaction, 1);
    let client = bench.begin_client(&[]);
    bench.pass(50);
    let server = bench.wire.connects.remove(0);
    bench.reach(server);
    let pool = bench.pool();
    assert_eq!((pool.sv_login, pool.cl_waiting, pool.maxwait_us), (1, 1, 50));
    bench.pass(20);
    bench.greet(server);
    let totals = bench.totals();
    assert_eq!((totals.client_logins.sum_us(), totals.server_logins.sum_us()), (70, 70));
    assert_eq!((totals.client_logins.count(), totals.server_logins.count()), (1, 1));
    assert!(bench.tags(client).ends_with('Z'));
}

#[test]
fn lost_servers_are_counted_and_so_are_those_that_cannot_be_had() {
    let (mut bench, client, server) = begin();
    bench.say(client, &query("select 1"));
    bench.end(server);
    bench.say(client, &query("select 1"));
    let next = bench.wire.connects.remove(0);
    bench.end(next);
    let totals = bench.totals();
    assert_eq!((totals.lost, totals.unreachable, totals.queries.count()), (1, 1, 0));
    let backends = bench.worker.backends(bench.now);
    assert!(backends.len() == 1 && backends[0].is_out, "{backends:?}");
}

#[test]
fn who_is_turned_away_is_counted_by_the_code_that_it_reads() {
    let mut bench = Bench::new(PoolMode::Transaction, 1);
    for _ in 0..2 {
        let client = bench.connect();
        let mut packet = Vec::new();
        frontend::write::startup(&mut packet, 0, [(&b"database"[..], &b"shop"[..])]);
        bench.say(client, &packet);
        assert!(bench.is_closed(client));
    }
    let refusals: Vec<_> =
        bench.worker.refusals().iter().map(|(state, count)| (state.code(), *count)).collect();
    assert_eq!(refusals, [(b"28000", 2)]);
}

#[test]
fn pool_that_is_forgotten_takes_nothing_back() {
    let (mut bench, client, server) = begin();
    bench.say(client, &query("select 1"));
    bench.say(server, &done("SELECT 1", Status::Idle));
    bench.end(client);
    bench.end(server);
    let before = bench.totals();
    bench.tick(FORGET_MS);
    bench.tick(FORGET_MS);
    assert_eq!(bench.worker.pools(bench.now), [], "it is forgotten");
    assert_eq!(bench.totals(), before);
    bench.client();
    assert_eq!(bench.worker.stats().count(), 1, "who comes back is counted where it was");
    assert_eq!(bench.totals().queries.count(), 1);
    assert_eq!(bench.totals().client_logins.count(), 2);
}

#[test]
fn cancel_is_told_of_until_its_server_has_acted() {
    let (mut bench, client, server) = begin();
    bench.say(client, &query("select pg_sleep(9)"));
    let cancel = bench.cancel(FIRST_PROCESS).expect("it is on its way");
    let pool = bench.pool();
    assert_eq!((pool.cl_active_cancel_req, pool.sv_active_cancel), (1, 1));
    bench.say(server, &done("SELECT 1", Status::Idle));
    assert_eq!((bench.pool().sv_being_canceled, bench.pool().sv_idle), (1, 0));
    bench.end(cancel);
    assert_eq!((bench.pool().sv_being_canceled, bench.pool().sv_idle), (0, 1));
    assert_eq!((bench.pool().cl_active_cancel_req, bench.worker.counts().cancels.sent), (0, 1));
}

#[test]
fn client_and_server_are_told_with_each_other() {
    let mut bench = Bench::new(PoolMode::Transaction, 1);
    let client = bench.client_with(&[("application_name", "x")]);
    let server = *bench.wire.owners.keys().next().expect("a server");
    bench.say(client, &query("select 1"));
    bench.say(server, &done("SET", Status::Idle));
    bench.pass(9);
    let views = |bench: &Bench| {
        let client = bench.worker.client_views(bench.now).next().expect("a client");
        let server = bench.worker.server_views(bench.now).next().expect("a server");
        (client, server)
    };
    let (of_client, of_server) = views(&bench);
    assert_eq!((of_client.state, of_server.state), (ClientState::Active, ServerState::Active));
    assert_eq!((of_client.link, of_server.link), (Some(of_server.id), Some(of_client.id)));
    assert_eq!((of_client.request_us, of_server.request_us), (9, 9));
    assert_eq!((&of_client.user[..], &of_client.database[..]), (&b"ann"[..], &b"shop"[..]));
    assert_eq!((of_client.process, of_server.process), (FIRST_PROCESS, 99));
    bench.say(server, &done("SELECT 1", Status::Idle));
    let (of_client, of_server) = views(&bench);
    assert_eq!((of_client.state, of_server.state), (ClientState::Idle, ServerState::Idle));
    assert_eq!((of_client.link, &of_client.application_name[..]), (None, &b"x"[..]));
    let databases = bench.worker.databases();
    let shop = databases.iter().find(|each| each.name == b"shop").expect("it was named");
    assert_eq!((shop.connections, shop.client_connections, shop.pool_size), (1, 1, 1));
}
