//! What must go on whatever happens to one peer, and how nodes find each other again.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use pgx_control::ids::NodeId;
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::super::certificates::Certificates;
use super::super::frame::{self, Class};
use super::super::hello::Hello;
use super::{
    Channel, Cluster, Log, Node, WAIT_MAX, address_of, append, listener, pair, wait_for,
    wait_until_connected,
};

#[tokio::test]
async fn peer_that_accepts_and_never_reads_loses_only_its_own_messages() {
    let cluster = Cluster::new("main");
    let (first, first_at) = listener().await;
    let (second, second_at) = listener().await;
    let (third, third_at) = listener().await;
    let peers = [(2, second_at), (3, third_at)];
    let one = Node::start(cluster.control_by("ca", 1, first_at), first, &peers);
    let mut two = Node::start(cluster.control_by("ca", 2, second_at), second, &[(1, first_at)]);
    let stuck = cluster.control_by("ca", 3, third_at);
    let deaf = tokio::spawn(accept_and_never_read(third, Certificates::load(&stuck).unwrap()));
    wait_for("the deaf peer has accepted", || one.state(3) == "silent").await;

    let big = Bytes::from(vec![7; Channel::Raft.bytes_max()]);
    let dropped = || one.set.status()[1].dropped_total;
    for number in 0..64_u64 {
        one.set.send(NodeId(3), Channel::Raft, big.clone()).unwrap();
        let small = Bytes::copy_from_slice(&number.to_be_bytes());
        one.set.send(NodeId(2), Channel::Raft, small.clone()).unwrap();
        assert_eq!(two.receive().await, (1, Channel::Raft, small));
    }
    assert!(dropped() > 32, "{}", dropped());
    assert_eq!(one.set.status()[0].dropped_total, 0);
    deaf.abort();
}

/// A peer that shakes hands, says hello, and reads nothing ever after.
async fn accept_and_never_read(listener: TcpListener, certificates: Certificates) {
    let mut held = Vec::new();
    let server = certificates.server([NodeId(1)].into());
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        held.push(welcome(&server, stream).await);
    }
}

/// What a peer does that accepts.
async fn welcome(server: &Arc<ServerConfig>, stream: TcpStream) -> (TlsStream<TcpStream>, Class) {
    let mut stream = TlsAcceptor::from(Arc::clone(server)).accept(stream).await.unwrap();
    Hello::ours(None).write(&mut stream).await.unwrap();
    let class = Hello::read(&mut stream).await.unwrap().class().unwrap();
    (stream, class)
}

#[tokio::test]
async fn lease_messages_do_not_wait_behind_bulk_that_is_stuck() {
    let cluster = Cluster::new("main");
    let (first, first_at) = listener().await;
    let (second, second_at) = listener().await;
    let one = Node::start(cluster.control_by("ca", 1, first_at), first, &[(2, second_at)]);
    let control = cluster.control_by("ca", 2, second_at);
    let server = Certificates::load(&control).unwrap().server([NodeId(1)].into());
    let big = Bytes::from(vec![7; Channel::Raft.bytes_max()]);
    one.set.send(NodeId(2), Channel::Raft, big).unwrap();
    one.send(2, Channel::Lease, b"renew");

    // The other side accepts both connections and reads the lease one alone.
    let mut held = BTreeMap::new();
    while held.len() < Class::ALL.len() {
        let (stream, _) = timeout(WAIT_MAX, second.accept()).await.unwrap().unwrap();
        let (stream, class) = welcome(&server, stream).await;
        held.insert(class, stream);
    }
    let lease = held.get_mut(&Class::Lease).unwrap();
    let found = timeout(WAIT_MAX, frame::read(lease, Class::Lease)).await.unwrap().unwrap();
    assert_eq!(found, (Channel::Lease, Bytes::from_static(b"renew")));
}

#[tokio::test]
async fn nodes_find_each_other_again_after_a_restart() {
    let (log, _guard) = Log::capture();
    let cluster = Cluster::new("main");
    let (mut one, two) = pair(&cluster).await;
    wait_until_connected(&[(&one, 2), (&two, 1)]).await;
    let (control, one_at) = (two.control.clone(), one.control.listen);
    drop(two);
    wait_for("the loss is seen", || one.state(2) == "down").await;
    log.wait_for_line(&["no connection to a peer", "node 2"]).await;

    let again = TcpListener::bind(control.listen).await.unwrap();
    let mut two = Node::start(control, again, &[(1, one_at)]);

    wait_until_connected(&[(&one, 2), (&two, 1)]).await;
    one.send(2, Channel::Raft, b"back");
    assert_eq!(two.receive().await.2, Bytes::from_static(b"back"));
    two.send(1, Channel::Lease, b"too");
    assert_eq!(one.receive().await.2, Bytes::from_static(b"too"));
}

#[tokio::test]
async fn newer_connection_of_a_node_takes_the_place_of_the_older() {
    let (log, _guard) = Log::capture();
    let cluster = Cluster::new("main");
    let (one, two) = pair(&cluster).await;
    wait_until_connected(&[(&one, 2), (&two, 1)]).await;
    let (third, _) = listener().await;
    // A copy of node 2 elsewhere, such as a cloned machine that was started by mistake.
    let _copy = Node::start(two.control.clone(), third, &[(1, one.control.listen)]);
    log.wait_for_line(&["node 2", "two nodes use one certificate"]).await;
}

#[tokio::test]
async fn authority_is_replaced_without_a_lost_connection() {
    let (log, _guard) = Log::capture();
    let cluster = Cluster::new("main");
    let (mut one, mut two) = pair(&cluster).await;
    wait_until_connected(&[(&one, 2), (&two, 1)]).await;

    // First both trust both, then each gets a certificate of the new one, then the old one goes.
    cluster.authority("new", "main");
    let both = cluster.path("both.pem");
    std::fs::copy(cluster.path("ca/ca.pem"), &both).unwrap();
    append(&cluster.path("new/ca.pem"), &both);
    for step in ["trust both", "new certificates", "trust the new one"] {
        for node in [&mut one, &mut two] {
            let old = node.control.clone();
            let mut control = match step {
                "trust both" => old,
                "new certificates" => cluster.control_by("new", old.node.0, old.listen),
                _ => old,
            };
            let new = cluster.path("new/ca.pem");
            control.ca = if step == "trust the new one" { new } else { both.clone() };
            node.set.reload(Certificates::load(&control).unwrap()).unwrap();
            node.control = control;
        }
        one.send(2, Channel::Lease, b"still here");
        assert_eq!(two.receive().await.2, Bytes::from_static(b"still here"));
        two.send(1, Channel::Raft, b"me too");
        assert_eq!(one.receive().await.2, Bytes::from_static(b"me too"));
    }
    assert_eq!(log.count(&["no connection to a peer"]), 0, "{}", log.text());
    assert_eq!(log.count(&["refused or lost"]), 0, "{}", log.text());

    // Only now is a connection made anew, by the new certificates alone.
    let (control, one_at) = (two.control.clone(), one.control.listen);
    drop(two);
    wait_for("the loss is seen", || one.state(2) == "down").await;
    let again = TcpListener::bind(control.listen).await.unwrap();
    let two = Node::start(control, again, &[(1, one_at)]);
    wait_until_connected(&[(&one, 2), (&two, 1)]).await;
}

#[tokio::test]
async fn peers_come_and_go_at_run_time() {
    let cluster = Cluster::new("main");
    let (first, first_at) = listener().await;
    let (second, second_at) = listener().await;
    let mut one = Node::start(cluster.control_by("ca", 1, first_at), first, &[]);
    let two = Node::start(cluster.control_by("ca", 2, second_at), second, &[(1, first_at)]);
    wait_for("the stranger is refused", || two.state(1) == "down").await;
    assert!(one.set.status().is_empty());

    let peers = BTreeMap::from([(NodeId(2), address_of(second_at))]);
    one.set.set_peers(&peers);
    wait_for("they see each other", || one.state(2) == "connected").await;
    two.send(1, Channel::Raft, b"hello");
    assert_eq!(one.receive().await, (2, Channel::Raft, Bytes::from_static(b"hello")));

    one.set.set_peers(&BTreeMap::new());
    assert!(one.set.status().is_empty());
    wait_for("its connections end", || two.state(1) == "down").await;
    let refused = one.set.send(NodeId(2), Channel::Raft, Bytes::new());
    assert_eq!(refused, Err(crate::peer::SendError::Unknown(NodeId(2))));
}
