//! A driver of another team, through pgx: what it sees is what applications see.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpListener;
use std::thread::{self, JoinHandle};

use pgx_wire::{Frames, startup};
use tokio_postgres::{Config, NoTls};

use super::{Node, nobody, proxy_to, server};

/// `AuthenticationOk`, then `ReadyForQuery` outside a transaction.
const LOGGED_IN: &[u8] = b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05I";
/// `CommandComplete` of a statement without rows, then `ReadyForQuery`.
const DONE: &[u8] = b"C\0\0\0\x0bCOMMIT\0Z\0\0\0\x05I";

/// Lets one client in, and answers each of its queries until it terminates.
fn answer_queries(listener: TcpListener) -> JoinHandle<Vec<Vec<u8>>> {
    thread::spawn(move || {
        let (mut client, _) = listener.accept().unwrap();
        let (mut bytes, mut queries, mut is_in) = (Vec::new(), Vec::new(), false);
        loop {
            if !is_in && let Some((_, taken)) = startup::parse(&bytes).unwrap() {
                bytes.drain(..taken);
                is_in = true;
                client.write_all(LOGGED_IN).unwrap();
            }
            let mut frames = Frames::new(if is_in { &bytes } else { &[] });
            while let Some(frame) = frames.next_frame().unwrap() {
                match frame.tag {
                    b'Q' => queries.push(frame.body.to_vec()),
                    b'X' => return queries,
                    tag => panic!("unexpected message {tag:#04x}"),
                }
                client.write_all(DONE).unwrap();
            }
            if is_in {
                bytes = frames.rest().to_vec();
            }
            let mut more = [0; 1024];
            let count = loop {
                match client.read(&mut more) {
                    // It has a patience, and the process was stopped and goes on.
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    count => break count.unwrap(),
                }
            };
            bytes.extend_from_slice(&more[..count]);
        }
    })
}

fn config(node: &Node) -> Config {
    let address = node.address().unwrap();
    let mut config = Config::new();
    config.host(address.ip().to_string()).port(address.port()).user("ann").dbname("shop");
    config
}

#[tokio::test]
async fn queries_and_their_answers_pass() {
    let (listener, backend) = server();
    let node = proxy_to(backend);
    let answering = answer_queries(listener);

    let (client, connection) = config(&node).connect(NoTls).await.unwrap();
    let connection = tokio::spawn(connection);
    for query in ["begin", "commit"] {
        client.simple_query(query).await.unwrap();
    }
    drop(client);
    connection.await.unwrap().unwrap();

    assert_eq!(answering.join().unwrap(), [b"begin\0".to_vec(), b"commit\0".to_vec()]);
}

#[tokio::test]
async fn unreachable_backend_is_an_error_with_its_sqlstate() {
    let node = proxy_to(nobody());
    let Err(error) = config(&node).connect(NoTls).await else { panic!("nobody is there") };
    assert_eq!(error.code().map(|code| code.code()), Some("08001"), "{error}");
}
