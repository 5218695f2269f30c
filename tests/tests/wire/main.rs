//! The real `pgx serve` on loopback, spoken to byte by byte.
//!
//! The servers behind it are scripted here, so that each byte on both sides is known. What needs a
//! real PostgreSQL and hosts of its own is in the target `e2e`.

mod admin;
mod driver;
mod forward;
mod metrics;

use std::io::Read;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use pgx_tests::lab::build;
use pgx_tests::node::Node;

/// Longer than any answer takes; a test that waits this long has failed.
const ANSWER_MAX: Duration = Duration::from_secs(20);

/// The binary under test, built once.
fn binary() -> &'static PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| build::pgx(false).expect("pgx must build"))
}

/// A pgx in front of one backend.
fn proxy_to(backend: SocketAddr) -> Node {
    Node::start(binary(), &proxy_section(backend, 1000)).expect("pgx must start")
}

fn proxy_section(backend: SocketAddr, max_client_conn: u32) -> String {
    format!(
        "[proxy]\nlisten = [\"127.0.0.1:0\"]\nbackends = [\"{backend}\"]\nmax_client_conn = \
         {max_client_conn}\n"
    )
}

/// A listener for a scripted server, and where it is.
fn server() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback must have a free port");
    let address = listener.local_addr().expect("a bound socket has an address");
    (listener, address)
}

/// An address where nobody listens.
fn nobody() -> SocketAddr {
    server().1
}

fn client_of(node: &Node) -> TcpStream {
    let client = TcpStream::connect(node.address().unwrap()).expect("pgx must accept");
    client.set_read_timeout(Some(ANSWER_MAX)).unwrap();
    client.set_nodelay(true).unwrap();
    client
}

/// Everything until the other side closes.
fn read_all(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).expect("the connection must end in order");
    bytes
}
