//! Clients of Unix sockets, whose processes the system knows.

use alloc::collections::BTreeMap;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;

use pgx_hba::{Files, Ident, ReadError, Rules};

use super::testing::Bench;
use super::tests::states;
use crate::config::{Access, AuthMethod, Config, Database, PoolMode, Tls};
use crate::net::Socket;
use crate::route::ServerAddress;

/// Files by their names.
struct Texts(&'static str, &'static str);

impl Files for Texts {
    fn read(&mut self, path: &str, _bytes_max: usize) -> Result<Vec<u8>, ReadError> {
        let text = if path == "rules" { self.0 } else { self.1 };
        Ok(text.as_bytes().to_vec())
    }

    fn list(&mut self, path: &str) -> Result<Vec<String>, ReadError> {
        Err(ReadError { is_missing: true, reason: path.to_string() })
    }
}

fn bench(rules: &'static str, maps: &'static str, peer: Option<&str>) -> Bench {
    let backends = alloc::vec![ServerAddress("db:5432".to_string()).into()];
    let database = Database::new(backends, PoolMode::Transaction, 1);
    let mut files = Texts(rules, maps);
    let rules = Rules::read("rules", &mut files).unwrap();
    let ident = Ident::read("maps", &mut files).unwrap();
    let mut bench = Bench::with(Config {
        databases: BTreeMap::from([(b"*".to_vec(), database)]),
        auth: AuthMethod::Rules,
        rules: Some(Arc::new(Access { rules, ident })),
        client_tls: Tls::Required,
        ..Config::default()
    });
    bench.wire.is_unix = true;
    bench.wire.peer_user = peer.map(|name| name.as_bytes().to_vec());
    bench
}

fn is_in(bench: &mut Bench, client: Socket) -> bool {
    bench.open_all();
    let answer = bench.take(client);
    let refused = states(&answer);
    assert!(refused.is_empty() || refused == [*b"28000"], "{refused:?}");
    refused.is_empty()
}

#[test]
fn peer_is_let_in_under_the_name_that_the_system_knows_it_by() {
    let rules = "local all all peer\n";
    for (peer, expected) in [(Some("ann"), true), (Some("bob"), false), (None, false)] {
        let mut bench = bench(rules, "", peer);
        let client = bench.begin_client(&[]);
        assert_eq!(is_in(&mut bench, client), expected, "{peer:?}");
    }
}

#[test]
fn maps_say_who_may_be_whom() {
    let maps = "work bob ann\nother carl ann\n";
    for (peer, expected) in [("bob", true), ("ann", false), ("carl", false)] {
        let mut bench = bench("local all all ident map=work\n", maps, Some(peer));
        let client = bench.begin_client(&[]);
        assert_eq!(is_in(&mut bench, client), expected, "{peer}");
    }
}

#[test]
fn peer_is_for_unix_sockets_alone() {
    let mut bench = bench("local all all peer\nhost all all all reject\n", "", Some("ann"));
    bench.wire.is_unix = false;
    let client = bench.begin_client(&[]);
    assert!(!is_in(&mut bench, client));
}

#[test]
fn what_comes_by_a_unix_socket_is_not_encrypted_and_need_not_be() {
    let mut bench = bench("local all all trust\n", "", None);
    let client = bench.connect();
    bench.say(client, &[0, 0, 0, 8, 4, 210, 22, 47]);
    assert_eq!(bench.take(client), b"N");
    let client = bench.begin_client(&[]);
    assert!(is_in(&mut bench, client));
}
