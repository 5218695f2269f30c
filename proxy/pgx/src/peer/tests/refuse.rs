//! Who is not let in, what the log says of it, and that they get nothing.

use std::net::SocketAddr;

use pgx_control::ids::NodeId;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::super::frame::{Class, header};
use super::super::hello::Hello;
use super::{
    Channel, Cluster, Log, Node, WAIT_MAX, append, listener, pair, wait_for, wait_until_connected,
};
use crate::limits::peer::{HANDSHAKE_MAX, HANDSHAKES_MAX};
use crate::peer::certificates::Certificates;

/// Node 1 of a cluster, and node 2 as `stranger` makes it; waits for both sides' reasons.
async fn refused(
    cluster: &Cluster,
    stranger: impl FnOnce(SocketAddr) -> crate::config::Control,
) -> Log {
    let (log, _guard) = Log::capture();
    let (first, first_at) = listener().await;
    let (second, second_at) = listener().await;
    let mut one = Node::start(cluster.control_by("ca", 1, first_at), first, &[(2, second_at)]);
    let two = Node::start(stranger(second_at), second, &[(1, first_at)]);
    two.send(1, Channel::Lease, b"let me in");
    one.send(2, Channel::Lease, b"hello?");
    log.wait_for_line(&["refused or lost", "127.0.0.1:"]).await;
    log.wait_for_line(&["no connection to a peer", "node 2"]).await;
    assert!(one.inbox.try_recv().is_err(), "nothing may come through");
    assert_eq!(one.state(2), "down");
    log
}

#[tokio::test]
async fn node_of_another_authority_is_refused_on_both_sides() {
    let (ours, theirs) = (Cluster::new("main"), Cluster::new("main"));
    let log = refused(&ours, |at| theirs.control_by("ca", 2, at)).await;
    assert!(log.count(&["no connection", "not signed by an authority in control.ca"]) > 0);
}

#[tokio::test]
async fn node_of_another_cluster_under_the_same_trust_is_refused() {
    let (ours, theirs) = (Cluster::new("main"), Cluster::new("test"));
    append(&theirs.path("ca/ca.pem"), &ours.path("ca/ca.pem"));
    append(&ours.path("ca/ca.pem"), &theirs.path("ca/ca.pem"));
    let log = refused(&ours, |at| theirs.control_by("ca", 2, at)).await;
    assert!(log.count(&["no connection", "for cluster test, expected main"]) > 0, "{}", log.text());
}

#[tokio::test]
async fn other_node_than_the_one_expected_there_is_refused() {
    let cluster = Cluster::new("main");
    let log = refused(&cluster, |at| cluster.control_by("ca", 3, at)).await;
    assert!(log.count(&["no connection", "for node 3, expected 2"]) > 0, "{}", log.text());
    assert!(log.count(&["refused or lost", "for node 3, expected 2"]) > 0, "{}", log.text());
}

#[tokio::test]
async fn expired_certificate_is_refused_and_its_owner_told_at_the_start() {
    let cluster = Cluster::new("main");
    let log = refused(&cluster, |at| expired(&cluster, at)).await;
    assert!(log.count(&["no connection", "expired on 2001-02-03"]) > 0, "{}", log.text());
    assert!(log.count(&["ERROR", "has expired", "2001-02-03"]) > 0, "{}", log.text());
}

/// Node 2 with a certificate of the right authority that ended long ago.
fn expired(cluster: &Cluster, at: SocketAddr) -> crate::config::Control {
    use rcgen::{CertificateParams, Issuer, KeyPair, SanType, date_time_ymd};
    let control = cluster.control_by("ca", 2, at);
    let read = |name: &str| std::fs::read_to_string(cluster.path(name)).unwrap();
    let authority = KeyPair::from_pem(&read("ca/ca.key")).unwrap();
    let issuer = Issuer::from_ca_cert_pem(&read("ca/ca.pem"), authority).unwrap();
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    let uri = "pgx://main/node/2/node".try_into().unwrap();
    params.subject_alt_names = vec![SanType::URI(uri)];
    params.not_before = date_time_ymd(2000, 1, 1);
    params.not_after = date_time_ymd(2001, 2, 3);
    let certificate = params.signed_by(&key, &issuer).unwrap();
    std::fs::write(&control.certificate, certificate.pem()).unwrap();
    std::fs::write(&control.key, key.serialize_pem()).unwrap();
    control
}

#[tokio::test]
async fn same_refusal_is_logged_once_however_often_it_repeats() {
    let (log, _guard) = Log::capture();
    let cluster = Cluster::new("main");
    let (one, _two) = pair(&cluster).await;
    for _ in 0..20 {
        let mut stream = TcpStream::connect(one.control.listen).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        assert_silent_end(&mut stream).await;
    }
    assert_eq!(log.count(&["refused or lost", "does not speak TLS"]), 1, "{}", log.text());
}

#[tokio::test]
async fn plain_client_gets_nothing_and_is_cut_off_in_time() {
    let (log, _guard) = Log::capture();
    let cluster = Cluster::new("main");
    let (one, _two) = pair(&cluster).await;
    let start = Instant::now();
    let mut stream = TcpStream::connect(one.control.listen).await.unwrap();

    assert_silent_end(&mut stream).await;

    let took = start.elapsed();
    assert!(took >= HANDSHAKE_MAX && took < HANDSHAKE_MAX * 2, "{took:?}");
    assert_eq!(log.count(&["did not show who it is", "127.0.0.1:"]), 1, "{}", log.text());
}

/// Reads until the end: a TLS alert may come, and not a byte of pgx's own.
async fn assert_silent_end(stream: &mut TcpStream) {
    let mut said = Vec::new();
    let read = timeout(WAIT_MAX, stream.read_to_end(&mut said)).await;
    // A reset is an end as well.
    let _ = read.expect("the connection must be cut");
    let alert = 21;
    assert!(said.first().is_none_or(|first| *first == alert), "{said:?}");
}

#[tokio::test]
async fn client_without_a_certificate_is_refused() {
    let (log, _guard) = Log::capture();
    let cluster = Cluster::new("main");
    let (one, _two) = pair(&cluster).await;
    let mut roots = rustls::RootCertStore::empty();
    let authority = super::super::certificates::certificates(&one.control.ca).unwrap();
    roots.add(authority[0].clone()).unwrap();
    let provider = super::super::certificates::provider();
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = TcpStream::connect(one.control.listen).await.unwrap();
    let connector = TlsConnector::from(std::sync::Arc::new(config));
    let name = ServerName::from(one.control.listen.ip());
    let mut stream = connector.connect(name, stream).await.unwrap();

    let read = timeout(WAIT_MAX, stream.read(&mut [0; 1])).await.unwrap();

    assert!(read.is_err(), "it may get an alert and nothing else: {read:?}");
    log.wait_for_line(&["refused or lost", "showed no certificate"]).await;
}

/// A connection to `one` by the certificates of `two`, past the handshake, before the hello.
async fn shake_hands(one: &Node, two: &Node) -> TlsStream<TcpStream> {
    let config = Certificates::load(&two.control).unwrap().client(one.control.node);
    let stream = TcpStream::connect(one.control.listen).await.unwrap();
    let name = ServerName::from(one.control.listen.ip());
    TlsConnector::from(config).connect(name, stream).await.unwrap()
}

#[tokio::test]
async fn message_over_its_bound_cuts_the_connection_with_the_reason() {
    let (log, _guard) = Log::capture();
    let cluster = Cluster::new("main");
    let (one, two) = pair(&cluster).await;
    wait_until_connected(&[(&one, 2), (&two, 1)]).await;
    let mut stream = shake_hands(&one, &two).await;
    Hello::read(&mut stream).await.unwrap();
    Hello::ours(Some(Class::Lease)).write(&mut stream).await.unwrap();
    let long = bytes::Bytes::from(vec![0; Channel::Lease.bytes_max() + 1]);
    stream.write_all(&header(Channel::Lease, &long)).await.unwrap();
    stream.flush().await.unwrap();

    let ended = timeout(WAIT_MAX, stream.read(&mut [0; 1])).await.unwrap();

    assert!(!matches!(ended, Ok(1..)), "{ended:?}");
    log.wait_for_line(&["node 2 from 127.0.0.1", "4097 bytes on channel lease", "4096"]).await;
}

#[tokio::test]
async fn peer_of_a_later_protocol_alone_is_refused_with_both_ranges() {
    let (log, _guard) = Log::capture();
    let cluster = Cluster::new("main");
    let (one, two) = pair(&cluster).await;
    let mut stream = shake_hands(&one, &two).await;
    stream.write_all(b"pgxp\x00\x05\x00\x07\x00\x09\x02").await.unwrap();
    stream.flush().await.unwrap();
    log.wait_for_line(&["speaks versions 7 to 9", "expected 1 to 1"]).await;
}

#[tokio::test]
async fn flood_of_idle_connections_keeps_no_peer_out() {
    let (log, _guard) = Log::capture();
    let cluster = Cluster::new("main");
    let (first, first_at) = listener().await;
    let (second, second_at) = listener().await;
    let mut one = Node::start(cluster.control_by("ca", 1, first_at), first, &[(2, second_at)]);
    let mut idle = Vec::new();
    for _ in 0..500 {
        idle.push(TcpStream::connect(first_at).await.unwrap());
    }
    assert!(idle.len() > HANDSHAKES_MAX * 2);

    let start = Instant::now();
    let two = Node::start(cluster.control_by("ca", 2, second_at), second, &[(1, first_at)]);
    two.send(1, Channel::Lease, b"through");

    assert_eq!(&*one.receive().await.2, b"through");
    assert!(start.elapsed() < HANDSHAKE_MAX, "{:?}", start.elapsed());
    wait_for("the flood is in the log", || log.count(&["cut to make room"]) == 1).await;
}

#[tokio::test]
async fn certificate_of_another_node_is_refused_before_the_start_and_at_a_reload() {
    let cluster = Cluster::new("main");
    let (one, two) = pair(&cluster).await;
    let mut wrong = one.control.clone();
    wrong.node = NodeId(7);
    let error = Certificates::load(&wrong).unwrap_err().to_string();
    assert!(error.contains("node/1/") && error.contains("expected one for node 7"), "{error}");

    let error = one.set.reload(Certificates::load(&two.control).unwrap()).unwrap_err().to_string();
    assert!(error.contains("node 2") && error.contains("the old one stays"), "{error}");
}
