//! What passes between client and server, and what a client hears when there is no server.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::thread;

use nix::sys::signal::Signal;
use pgx_wire::startup::TLS_REQUEST;
use pgx_wire::{Frames, SqlState};

use super::{Node, binary, client_of, nobody, proxy_section, proxy_to, read_all, server};

/// A start-up packet of protocol 3.0 for user `x`.
const LOGIN: &[u8] = b"\0\0\0\x10\0\x03\0\0user\0x\0\0";

/// Whether the bytes are one FATAL error with this code and nothing else.
fn is_fatal(bytes: &[u8], state: SqlState) -> bool {
    let mut frames = Frames::new(bytes);
    let Ok(Some(error)) = frames.next_frame() else { return false };
    let code = [b"C", &state.code()[..], b"\0"].concat();
    error.tag == b'E'
        && error.body.starts_with(b"SFATAL\0")
        && error.body.windows(code.len()).any(|bytes| bytes == code)
        && frames.rest().is_empty()
}

#[test]
fn bytes_pass_unchanged_however_they_are_cut() {
    let (listener, backend) = server();
    let node = proxy_to(backend);
    let echo = thread::spawn(move || {
        let (mut client, _) = listener.accept().unwrap();
        let mut seen = Vec::new();
        client.read_to_end(&mut seen).unwrap();
        client.write_all(&seen).unwrap();
    });

    let mut client = client_of(&node);
    for byte in LOGIN {
        client.write_all(&[*byte]).unwrap();
    }
    client.shutdown(Shutdown::Write).unwrap();

    assert_eq!(read_all(&mut client), LOGIN);
    echo.join().unwrap();
}

#[test]
fn client_is_told_when_no_backend_can_be_reached() {
    let node = proxy_to(nobody());
    let mut client = client_of(&node);
    client.write_all(LOGIN).unwrap();
    let said = read_all(&mut client);
    assert!(is_fatal(&said, SqlState::CANNOT_CONNECT), "{}", String::from_utf8_lossy(&said));

    let status = node.status().unwrap();
    assert_eq!(status["proxy"]["refused_total"], 1, "{status}");
    assert!(status["proxy"]["connect_failures_total"].as_u64().unwrap() >= 1, "{status}");
}

#[test]
fn client_that_wants_encryption_first_is_told_too() {
    let node = proxy_to(nobody());
    let mut client = client_of(&node);
    client.write_all(&TLS_REQUEST).unwrap();
    let mut answer = [0];
    client.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"N");
    client.write_all(LOGIN).unwrap();
    assert!(is_fatal(&read_all(&mut client), SqlState::CANNOT_CONNECT));
}

#[test]
fn bytes_smuggled_behind_a_request_for_encryption_get_no_answer() {
    let node = proxy_to(nobody());
    let mut client = client_of(&node);
    client.write_all(&[&TLS_REQUEST[..], LOGIN].concat()).unwrap();
    assert_eq!(read_all(&mut client), b"");
}

#[test]
fn garbage_instead_of_a_login_gets_no_answer() {
    let node = proxy_to(nobody());
    let mut client = client_of(&node);
    client.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    assert_eq!(read_all(&mut client), b"");
}

#[test]
fn client_beyond_the_limit_is_turned_away_and_the_others_go_on() {
    let (listener, backend) = server();
    let node = Node::start(binary(), &proxy_section(backend, 1)).unwrap();
    let mut first = client_of(&node);
    first.write_all(LOGIN).unwrap();
    let (mut served, _) = listener.accept().unwrap();

    let mut second = client_of(&node);
    second.write_all(LOGIN).unwrap();
    assert!(is_fatal(&read_all(&mut second), SqlState::TOO_MANY_CONNECTIONS));

    served.write_all(b"still here").unwrap();
    let mut heard = [0; 10];
    first.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"still here");
}

#[test]
fn session_in_progress_ends_in_order_when_pgx_is_asked_to_stop() {
    let (listener, backend) = server();
    let mut node = proxy_to(backend);
    let mut client = client_of(&node);
    client.write_all(LOGIN).unwrap();
    let (mut served, _) = listener.accept().unwrap();

    node.signal(Signal::SIGTERM).unwrap();
    served.write_all(b"last words").unwrap();
    drop(served);

    // The login was never read, so the server's end is a reset unless it is drained first.
    let mut heard = [0; 10];
    client.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"last words");
    drop(client);
    node.end(Signal::SIGTERM).unwrap();
}
