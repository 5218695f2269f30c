//! How metrics are served, whoever asks: what there is, and how many may ask for how long.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};

use pgx_tests::lab::wait_for;
use pgx_tests::node::Node;
use pgx_tests::scrape::{Scrape, ask};

use super::{ANSWER_MAX, binary, client_of, nobody, proxy_section, read_all};

/// As many as `METRICS_CLIENTS_MAX` of pgx.
const AT_ONCE: usize = 4;

fn start() -> (Node, SocketAddr) {
    let section = proxy_section(nobody(), 10) + "[metrics]\nlisten = \"127.0.0.1:0\"\n";
    let node = Node::start(binary(), &section).expect("pgx must start");
    let at = node.metrics_address().expect("metrics are served");
    (node, at)
}

#[test]
fn proxy_without_a_pool_tells_of_its_connections() {
    let (node, _) = start();
    let mut client = client_of(&node);
    client.write_all(b"\0\0\0\x10\0\x03\0\0user\0x\0\0").unwrap();
    read_all(&mut client);
    let scrape = node.scrape().unwrap();
    assert_eq!(scrape.sum("pgx_build_info", &[("release", env!("CARGO_PKG_VERSION"))]), 1.0);
    assert_eq!(scrape.sum("pgx_clients_accepted_total", &[]), 1.0);
    assert_eq!(scrape.sum("pgx_clients_refused_total", &[]), 1.0);
    assert!(scrape.sum("pgx_servers_unreachable_total", &[]) >= 1.0, "{}", scrape.text);
}

#[test]
fn only_metrics_are_to_be_had_and_only_read() {
    let (_node, at) = start();
    for (request, status) in [
        ("GET / HTTP/1.1\r\nHost: pgx\r\n\r\n", "404"),
        ("POST /metrics HTTP/1.1\r\nHost: pgx\r\nContent-Length: 0\r\n\r\n", "405"),
        ("HEAD /metrics HTTP/1.1\r\nHost: pgx\r\n\r\n", "200"),
        ("nonsense\r\n\r\n", "400"),
    ] {
        let answer = ask(at, request).unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{request:?}: {answer}");
    }
    let long = format!("GET /metrics HTTP/1.1\r\nLong: {}\r\n\r\n", "x".repeat(1 << 16));
    // It may be cut off before all of it was sent.
    let answer = ask(at, &long).unwrap_or_default();
    assert!(!answer.starts_with("HTTP/1.1 200"), "{answer}");
    Scrape::of(at).unwrap();
}

#[test]
fn those_who_ask_and_say_nothing_are_let_go_and_keep_nobody_out_for_long() {
    let (_node, at) = start();
    let mut idle: Vec<TcpStream> =
        (0..AT_ONCE).map(|_| TcpStream::connect(at).expect("accepted")).collect();
    wait_for("one more is turned away", ANSWER_MAX, || Scrape::of(at).is_err()).unwrap();
    // Of these, each is let go in its time.
    for stream in &mut idle {
        stream.set_read_timeout(Some(ANSWER_MAX)).unwrap();
        let end = stream.read(&mut [0]);
        assert!(end.as_ref().is_ok_and(|count| *count == 0) || is_reset(&end), "{end:?}");
    }
    Scrape::of(at).unwrap();
}

fn is_reset(end: &std::io::Result<usize>) -> bool {
    end.as_ref().is_err_and(|error| error.kind() == ErrorKind::ConnectionReset)
}
