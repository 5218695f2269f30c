//! Users are looked up on servers before their clients are asked who they are.

use alloc::collections::BTreeMap;
use alloc::string::ToString;
use alloc::sync::Arc;
use alloc::vec::Vec;

use pgx_wire::auth::md5::Stored;
use pgx_wire::backend::{self, Status};
use pgx_wire::{Frames, frontend};

use super::testing::{Bench, done, error, query, tags};
use crate::config::{AuthMethod, Config, Database, Limits, Lookup, PoolMode};
use crate::limits::GUESS_DELAY_MS_MIN;
use crate::net::Socket;
use crate::route::ServerAddress;

const QUERY: &str = "SELECT name, secret FROM users WHERE name = $1";

/// A pool that looks users up as "looker".
fn bench(mode: PoolMode) -> Bench {
    let backends = alloc::vec![ServerAddress("db:5432".to_string()).into()];
    let lookup = Lookup { user: b"looker".to_vec(), database: None, query: QUERY.to_string() };
    let database = Database { lookup: Some(Arc::new(lookup)), ..Database::new(backends, mode, 1) };
    Bench::with(Config {
        databases: BTreeMap::from([(b"*".to_vec(), database)]),
        auth: AuthMethod::Md5,
        limits: Limits { prepared_max: 2, ..Limits::default() },
        ..Config::default()
    })
}

/// What a server answers that is asked about a user.
fn row(name: &str, secret: Option<&str>) -> Vec<u8> {
    let mut out = Vec::new();
    backend::write::parse_complete(&mut out);
    backend::write::bind_complete(&mut out);
    backend::write::data_row(&mut out, &[Some(name.as_bytes()), secret.map(str::as_bytes)]);
    backend::write::command_complete(&mut out, b"SELECT 1");
    backend::write::ready(&mut out, Status::Idle);
    out
}

/// A client answers the challenge that it has got.
fn answer(bench: &mut Bench, client: Socket, password: &str) {
    let challenge = bench.take(client);
    let mut frames = Frames::new(&challenge);
    let frame = frames.next_frame().unwrap().expect("a challenge");
    let asked = backend::authentication(frame.body).unwrap();
    let backend::Authentication::Md5 { salt } = asked else { panic!("{asked:?}") };
    let stored = Stored::from_password(password.as_bytes(), b"ann");
    let mut out = Vec::new();
    frontend::write::password(&mut out, &stored.answer(salt));
    bench.say(client, &out);
}

#[test]
fn client_logs_in_by_what_the_server_says_and_so_does_its_server() {
    for mode in [PoolMode::Transaction, PoolMode::Session] {
        let mut bench = bench(mode);
        let evil = [("options", "-c search_path=evil"), ("DateStyle", "German")];
        let client = bench.begin_client(&evil);
        let looker = bench.open_all()[0];
        assert!(bench.take(client).is_empty(), "nothing is said before it is known");
        let asked = bench.take(looker);
        assert_eq!(tags(&asked), "PBES");
        let has = |text: &[u8]| asked.windows(text.len()).any(|at| at == text);
        assert!(has(QUERY.as_bytes()) && has(b"ann") && !has(b"evil") && !has(b"German"));
        bench.say(looker, &row("ann", Some("secret")));
        answer(&mut bench, client, "secret");
        let server = bench.wire.connects.pop().expect("its own server");
        bench.reach(server);
        let mut out = Vec::new();
        backend::write::md5(&mut out, [1; 4]);
        bench.say(server, &out);
        let expected = Stored::from_password(b"secret", b"ann").answer([1; 4]);
        let told = bench.take(server);
        assert!(told.windows(expected.len()).any(|at| at == expected), "{mode:?}");
        bench.greet(server);
        let told = bench.take(client);
        assert!(tags(&told).ends_with('Z') || mode == PoolMode::Session, "{mode:?}");
    }
}

#[test]
fn settings_of_others_are_gone_before_users_are_looked_up() {
    let mut bench = bench(PoolMode::Transaction);
    let mut config = (*bench.worker.config).clone();
    config.auth = AuthMethod::Trust;
    let trust = alloc::rc::Rc::new(config);
    bench.worker.reload(&mut bench.wire, trust, bench.now);
    let other = bench.begin_client_of("looker", "shop", &[("search_path", "evil")]);
    let server = bench.open_all()[0];
    bench.say(other, &query("SELECT 1"));
    assert_eq!(bench.tags(server), "Q", "its setting first");
    bench.say(server, &done("SET", Status::Idle));
    assert_eq!(bench.tags(server), "Q");
    bench.say(server, &done("SELECT 1", Status::Idle));

    bench.begin_client(&[]);
    let asked = bench.take(server);
    assert_eq!(tags(&asked), "QPBES");
    assert!(asked.windows(5).any(|at| at == b"RESET"), "{asked:?}");
}

#[test]
fn unknown_users_those_without_secret_and_wrong_passwords_read_the_same() {
    let nobody = done("SELECT 0", Status::Idle);
    let found: [(Vec<u8>, &str); 4] = [
        ([&b"1\0\0\0\x042\0\0\0\x04"[..], &nobody].concat(), "secret"),
        (row("ann", None), "secret"),
        (row("ann", Some("")), ""),
        (row("ann", Some("other")), "secret"),
    ];
    let mut read = Vec::new();
    for (found, password) in found {
        let mut bench = bench(PoolMode::Transaction);
        let client = bench.begin_client(&[]);
        let looker = bench.open_all()[0];
        bench.say(looker, &found);
        answer(&mut bench, client, password);
        bench.tick(GUESS_DELAY_MS_MIN);
        assert!(bench.is_closed(client));
        read.push(bench.take(client));
    }
    assert!(read.windows(2).all(|two| two[0] == two[1]), "{read:?}");
}

#[test]
fn what_cannot_be_looked_up_lets_nobody_in_and_says_nothing() {
    let failed = [error("ERROR", "42P01"), done("", Status::Idle)[6..].to_vec()].concat();
    let two = {
        let mut out = Vec::new();
        backend::write::parse_complete(&mut out);
        backend::write::bind_complete(&mut out);
        for _ in 0..2 {
            backend::write::data_row(&mut out, &[Some(b"ann"), Some(b"secret")]);
        }
        out.extend(done("SELECT 2", Status::Idle));
        out
    };
    for found in [failed, two, row("bob", Some("secret"))] {
        let mut bench = bench(PoolMode::Transaction);
        let client = bench.begin_client(&[]);
        let looker = bench.open_all()[0];
        bench.say(looker, &found);
        assert!(bench.is_closed(client));
        let told = bench.take(client);
        assert_eq!(tags(&told), "E");
        assert!(told.windows(16).any(|at| at == b"could not be loo"), "{told:?}");
        assert!(!bench.is_closed(looker), "it is fit for the next");
    }
}

#[test]
fn lost_server_is_followed_by_another_a_few_times() {
    let mut bench = bench(PoolMode::Transaction);
    let client = bench.begin_client(&[]);
    for _ in 0..2 {
        let looker = bench.open_all()[0];
        assert_eq!(bench.tags(looker), "PBES");
        bench.end(looker);
        assert!(!bench.is_closed(client));
    }
    let looker = bench.open_all()[0];
    bench.end(looker);
    assert!(bench.is_closed(client));
    assert_eq!(bench.tags(client), "E");
}

#[test]
fn client_that_leaves_while_it_is_looked_up_leaves_the_server_to_the_next() {
    let mut bench = bench(PoolMode::Transaction);
    let first = bench.begin_client(&[]);
    let looker = bench.open_all()[0];
    let second = bench.begin_client(&[]);
    assert_eq!(bench.tags(looker), "PBES", "one server, one after the other");
    bench.end(first);
    bench.say(looker, &row("ann", Some("secret")));
    assert_eq!(bench.tags(looker), "PBES");
    bench.say(looker, &row("ann", Some("secret")));
    assert_eq!(bench.tags(second), "R");
}
