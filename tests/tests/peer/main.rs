//! Three real `pgx serve` on loopback that know each other by certificates from `pgx init`, as an
//! operator sees them: through `pgx ctl status`, `pgx doctor` and signals.
//!
//! What happens on one connection is tested beside its code, in `proxy/pgx/src/peer`.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;
use std::time::Duration;

use nix::sys::signal::Signal;
use pgx_tests::lab::{build, wait_for};
use pgx_tests::node::Node;
use tempfile::TempDir;

/// Longer than nodes need to find each other; a test that waits this long has failed.
const WAIT_MAX: Duration = Duration::from_secs(20);

/// The binary under test, built once.
fn binary() -> &'static PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| build::pgx(false).expect("pgx must build"))
}

/// Runs `pgx init` or another verb that needs no running pgx.
fn pgx(words: &[&str]) -> Output {
    Command::new(binary()).args(words).output().expect("pgx must run")
}

/// The certificates and addresses of one cluster.
struct Cluster {
    folder: TempDir,
    addresses: Vec<SocketAddr>,
}

impl Cluster {
    fn new(nodes: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        // Bound together, so that no port is given twice, and free again for the nodes.
        let listeners: Vec<_> =
            (0..nodes).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let addresses = listeners.iter().map(|found| found.local_addr().unwrap()).collect();
        let cluster = Self { folder, addresses };
        let ca = cluster.path("ca");
        let made = pgx(&["init", "ca", "--cluster", "main", "--out", &ca]);
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        for id in 1..=nodes {
            cluster.make_node(id, "certificates", "365");
        }
        cluster
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    fn make_node(&self, id: usize, out: &str, days: &str) {
        let (ca, out) = (self.path("ca"), self.path(out));
        let (number, name) = (id.to_string(), format!("db{id}"));
        let address = self.addresses[id - 1].to_string();
        let made = pgx(&[
            "init",
            "node",
            "--ca",
            &ca,
            "--id",
            &number,
            "--node",
            &name,
            "--address",
            &address,
            "--out",
            &out,
            "--days",
            days,
        ]);
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    }

    /// The configuration of a node.
    fn sections(&self, id: usize) -> String {
        let mut text = format!(
            "[control]\nnode = {id}\nlisten = \"{}\"\ncertificate = {:?}\nkey = {:?}\nca = {:?}\n\
             data = {:?}\n",
            self.addresses[id - 1],
            self.path(&format!("certificates/db{id}.pem")),
            self.path(&format!("certificates/db{id}.key")),
            self.path("ca/ca.pem"),
            self.path(&format!("data{id}")),
        );
        for (peer, address) in (1..).zip(&self.addresses).filter(|(peer, _)| *peer != id) {
            text.push_str(&format!("[[control.peers]]\nid = {peer}\naddress = \"{address}\"\n"));
        }
        text
    }

    fn start(&self, id: usize) -> Node {
        let config = self.path(&format!("pgx{id}.toml"));
        std::fs::write(&config, self.sections(id)).unwrap();
        // Nobody coordinates here; a second start finds the store of the first.
        let join = ["--join", "--cluster-id", "00000000000000000000000000000001"];
        pgx(&[&["init", "store", "--config", &config][..], &join].concat());
        Node::start(binary(), &self.sections(id)).expect("pgx must start")
    }
}

/// How a node sees its peers, by their numbers.
fn states(node: &Node) -> Vec<String> {
    let status = node.status().unwrap();
    let peers = status["peers"].as_array().expect("a node of a cluster has peers");
    peers.iter().map(|peer| peer["state"].as_str().unwrap().to_owned()).collect()
}

fn wait_for_states(node: &Node, expected: &[&str]) {
    let what = format!("peers are {expected:?}");
    let waited = wait_for(&what, WAIT_MAX, || states(node) == expected);
    let (status, log) = (node.status(), node.log());
    waited.unwrap_or_else(|error| panic!("{error}\n{status:?}\n{log}"));
}

#[test]
fn operator_sees_who_sees_whom_across_a_crash_and_a_return() {
    let cluster = Cluster::new(3);
    let (one, mut two, three) = (cluster.start(1), cluster.start(2), cluster.start(3));
    for node in [&one, &two, &three] {
        wait_for_states(node, &["connected", "connected"]);
    }
    let text = String::from_utf8(one.ctl(&["status"]).unwrap().stdout).unwrap();
    assert!(text.contains("peer 2") && text.contains("answers in"), "{text}");

    two.end(Signal::SIGKILL).unwrap();
    wait_for_states(&one, &["down", "connected"]);
    wait_for_states(&three, &["connected", "down"]);
    let text = String::from_utf8(one.ctl(&["status"]).unwrap().stdout).unwrap();
    assert!(text.contains("last error: ") && text.contains("down at"), "{text}");

    two.start_again(&cluster.sections(2)).unwrap();
    for node in [&one, &two, &three] {
        wait_for_states(node, &["connected", "connected"]);
    }
}

#[test]
fn frozen_peer_is_seen_as_silent_and_comes_back_when_it_thaws() {
    let cluster = Cluster::new(2);
    let (one, two) = (cluster.start(1), cluster.start(2));
    wait_for_states(&one, &["connected"]);
    wait_for_states(&two, &["connected"]);

    // Its kernel goes on acknowledging, so that only the missing signs of life can tell.
    two.signal(Signal::SIGSTOP).unwrap();
    wait_for_states(&one, &["silent"]);
    two.signal(Signal::SIGCONT).unwrap();
    wait_for_states(&one, &["connected"]);
}

#[test]
fn new_certificate_is_taken_at_a_signal_and_a_wrong_one_is_not() {
    let cluster = Cluster::new(2);
    let (mut one, two) = (cluster.start(1), cluster.start(2));
    wait_for_states(&one, &["connected"]);

    let certificates = Path::new(&cluster.path("certificates")).to_owned();
    std::fs::write(certificates.join("db1.pem"), "damaged").unwrap();
    one.signal(Signal::SIGHUP).unwrap();
    cluster.make_node(1, "renewed", "365");
    for kind in ["key", "pem"] {
        let file = format!("db1.{kind}");
        let renewed = Path::new(&cluster.path("renewed")).join(&file);
        std::fs::copy(renewed, certificates.join(&file)).unwrap();
    }
    one.signal(Signal::SIGHUP).unwrap();

    // Node 2 dials anew after its restart, and meets the certificate that is in use now.
    drop(two);
    let two = cluster.start(2);
    wait_for_states(&one, &["connected"]);
    wait_for_states(&two, &["connected"]);
    assert!(one.runs());
}

#[test]
fn doctor_finds_certificates_that_end_soon_and_those_that_do_not_fit() {
    let cluster = Cluster::new(1);
    let config = cluster.folder.path().join("pgx.toml");
    std::fs::write(&config, cluster.sections(1)).unwrap();
    let config = config.display().to_string();
    let doctor = || {
        let said = pgx(&["doctor", "--config", &config]);
        (said.status.code(), String::from_utf8(said.stdout).unwrap())
    };
    let (code, said) = doctor();
    assert!(code == Some(0) && said.contains("db1.pem  valid until"), "{said}");

    for kind in ["key", "pem"] {
        std::fs::remove_file(cluster.path(&format!("certificates/db1.{kind}"))).unwrap();
    }
    let (code, said) = doctor();
    assert!(code == Some(1) && said.contains("BROKEN"), "{said}");

    cluster.make_node(1, "certificates", "10");
    let (code, said) = doctor();
    assert!(code == Some(0) && said.contains("reduced  certificate"), "{said}");
    assert!(said.contains("-> renew it"), "{said}");
}
