//! Two and more nodes on loopback, with real certificates and real sockets.
//!
//! Time is real here, since the sockets are; every wait is for a named condition with a deadline.
//! What waits for a fault to show is in [`refuse`], what must survive one in [`survive`].

mod refuse;
mod survive;

use std::collections::BTreeMap;
use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use pgx_control::ids::NodeId;
use pgx_session::route::ServerAddress;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tracing::subscriber::DefaultGuard;

use super::certificates::Certificates;
use super::{Channel, Message, PeerSet, Takers, to_task};
use crate::cli::{InitNode, InitVerb};
use crate::{config, init};

/// Longer than anything here takes; a test that waits this long has failed.
const WAIT_MAX: Duration = Duration::from_secs(20);

/// Room for what a test sends before it looks.
const INBOX: usize = 1024;

/// A node under test.
struct Node {
    set: Arc<PeerSet>,
    inbox: mpsc::Receiver<Message>,
    control: config::Control,
}

/// The folder of one cluster's certificates.
struct Cluster {
    folder: tempfile::TempDir,
}

impl Cluster {
    /// A cluster with an authority of its own.
    fn new(name: &str) -> Self {
        let cluster = Self { folder: tempfile::tempdir().unwrap() };
        cluster.authority("ca", name);
        cluster
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    /// Makes an authority in the folder `folder`.
    fn authority(&self, folder: &str, cluster: &str) {
        let (cluster, out) = (cluster.to_owned(), self.path(folder));
        init::run(&InitVerb::Ca { cluster, out, days: 100 }).unwrap();
    }

    /// The configuration of a node, with a certificate of the authority in `folder`.
    fn control_by(&self, folder: &str, id: u64, listen: SocketAddr) -> config::Control {
        let out = self.path(&format!("{folder}-{id}"));
        let wanted = InitNode {
            ca: self.path(folder),
            id,
            node: "node".to_owned(),
            address: vec![listen.to_string()],
            out: out.clone(),
            days: 100,
        };
        init::run(&InitVerb::Node(wanted)).unwrap();
        config::Control {
            node: NodeId(id),
            listen,
            certificate: out.join("node.pem"),
            key: out.join("node.key"),
            ca: self.path(folder).join("ca.pem"),
            peers: BTreeMap::new(),
            data: self.path("data"),
            priority: 0,
        }
    }
}

impl Node {
    /// Starts a node on `listener` with these peers.
    fn start(control: config::Control, listener: TcpListener, peers: &[(u64, SocketAddr)]) -> Self {
        let peers = peers.iter().map(|(id, address)| (NodeId(*id), address_of(*address)));
        let control = config::Control { peers: peers.collect(), ..control };
        let (taker, inbox) = mpsc::channel(INBOX);
        let taker = to_task(taker);
        let takers = Takers::from([(Channel::Raft, Arc::clone(&taker)), (Channel::Lease, taker)]);
        let certificates = Certificates::load(&control).unwrap();
        let set = PeerSet::start(certificates, &control.peers, listener, takers);
        Self { set, inbox, control }
    }

    fn send(&self, to: u64, channel: Channel, bytes: &'static [u8]) {
        self.set.send(NodeId(to), channel, Bytes::from_static(bytes)).unwrap();
    }

    async fn receive(&mut self) -> (u64, Channel, Bytes) {
        let message = timeout(WAIT_MAX, self.inbox.recv()).await.expect("a message must come");
        let message = message.expect("the set must live");
        (message.from.0, message.channel, message.bytes)
    }

    /// The state of a peer as operators see it.
    fn state(&self, peer: u64) -> String {
        let status = self.set.status();
        status.into_iter().find(|status| status.id == peer).unwrap().state
    }
}

/// Nodes 1 and 2 of one cluster, which know each other.
async fn pair(cluster: &Cluster) -> (Node, Node) {
    let (first, first_at) = listener().await;
    let (second, second_at) = listener().await;
    let one = Node::start(cluster.control_by("ca", 1, first_at), first, &[(2, second_at)]);
    let two = Node::start(cluster.control_by("ca", 2, second_at), second, &[(1, first_at)]);
    (one, two)
}

async fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

fn address_of(address: SocketAddr) -> ServerAddress {
    ServerAddress(address.to_string())
}

/// Waits until a named condition holds.
async fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    let mut looks = tokio::time::interval(Duration::from_millis(5));
    while !condition() {
        assert!(start.elapsed() < WAIT_MAX, "waited in vain for: {what}");
        looks.tick().await;
    }
}

async fn wait_until_connected(nodes: &[(&Node, u64)]) {
    for (node, peer) in nodes {
        wait_for("nodes are connected", || node.state(*peer) == "connected").await;
    }
}

/// Everything that this thread logs.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    /// Starts to listen; ends with the guard.
    fn capture() -> (Self, DefaultGuard) {
        let log = Self::default();
        let sink = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_max_level(tracing::Level::INFO)
            .with_writer(move || sink.clone())
            .finish();
        let guard = tracing::subscriber::set_default(subscriber);
        (log, guard)
    }

    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }

    /// How many lines have all of these parts.
    fn count(&self, parts: &[&str]) -> usize {
        let text = self.text();
        text.lines().filter(|line| parts.iter().all(|part| line.contains(part))).count()
    }

    async fn wait_for_line(&self, parts: &[&str]) {
        let start = Instant::now();
        let mut looks = tokio::time::interval(Duration::from_millis(5));
        while self.count(parts) == 0 {
            assert!(start.elapsed() < WAIT_MAX, "no line with {parts:?} in:\n{}", self.text());
            looks.tick().await;
        }
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Appends one file to another, as an operator does who trusts two authorities for a while.
fn append(from: &Path, to: &Path) {
    let text = std::fs::read_to_string(from).unwrap();
    std::fs::OpenOptions::new().append(true).open(to).unwrap().write_all(text.as_bytes()).unwrap();
}

#[tokio::test]
async fn two_nodes_exchange_messages_both_ways_on_every_channel() {
    let cluster = Cluster::new("main");
    let (mut one, mut two) = pair(&cluster).await;
    for channel in [Channel::Raft, Channel::Lease] {
        one.send(2, channel, b"question");
        assert_eq!(two.receive().await, (1, channel, Bytes::from_static(b"question")));
        two.send(1, channel, b"answer");
        assert_eq!(one.receive().await, (2, channel, Bytes::from_static(b"answer")));
    }
    wait_until_connected(&[(&one, 2), (&two, 1)]).await;
    let status = one.set.status().remove(0);
    assert!(status.round_trip_us.is_some(), "{status:?}");
    assert!(status.sent_total >= 3 && status.dropped_total == 0, "{status:?}");
}

#[tokio::test]
async fn longest_messages_pass_whole() {
    let cluster = Cluster::new("main");
    let (one, mut two) = pair(&cluster).await;
    for channel in [Channel::Raft, Channel::Lease] {
        let bytes = Bytes::from(vec![7; channel.bytes_max()]);
        one.set.send(NodeId(2), channel, bytes.clone()).unwrap();
        assert_eq!(two.receive().await, (1, channel, bytes));
    }
}

#[tokio::test]
async fn message_that_no_peer_would_take_is_refused_at_once() {
    let cluster = Cluster::new("main");
    let (one, _two) = pair(&cluster).await;
    let long = Bytes::from(vec![7; Channel::Lease.bytes_max() + 1]);
    let error = one.set.send(NodeId(2), Channel::Lease, long).unwrap_err().to_string();
    assert!(error.contains("4097") && error.contains("4096"), "{error}");
    let error = one.set.send(NodeId(9), Channel::Lease, Bytes::new()).unwrap_err().to_string();
    assert!(error.contains("node 9"), "{error}");
}
