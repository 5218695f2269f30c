//! Whether a backend can be reached and speaks PostgreSQL: a connect, and a request for TLS that
//! any PostgreSQL answers with one byte before it wants to know who asks.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use pgx_session::route::ServerAddress;
use pgx_wire::startup::TLS_REQUEST;

use super::{Finding, State};

/// How long one backend may take to answer; the doctor asks one after the other.
const ANSWER_MAX: Duration = Duration::from_secs(3);

/// Asks one backend.
pub(super) fn examine(address: &ServerAddress) -> Finding {
    let name = format!("backend {address}");
    let (state, found, next_step) = match ask(address) {
        Ok(b'S') => (State::Good, "PostgreSQL, with TLS".to_owned(), ""),
        Ok(b'N') => (State::Good, "PostgreSQL, without TLS".to_owned(), ""),
        Ok(byte) => (
            State::Broken,
            format!("answers {byte:#04x}, which is not PostgreSQL"),
            "check the port in proxy.backends",
        ),
        Err(error) => (
            State::Broken,
            format!("does not answer: {error}"),
            "check that PostgreSQL runs there, listens on that address (listen_addresses) and is \
             not behind a firewall",
        ),
    };
    Finding { name, state, found, next_step: next_step.to_owned() }
}

fn ask(address: &ServerAddress) -> io::Result<u8> {
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for resolved in address.0.to_socket_addrs()? {
        match TcpStream::connect_timeout(&resolved, ANSWER_MAX) {
            Ok(mut server) => {
                server.set_read_timeout(Some(ANSWER_MAX))?;
                server.write_all(&TLS_REQUEST)?;
                let mut answer = [0];
                server.read_exact(&mut answer)?;
                return Ok(answer[0]);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    fn server_that_answers(bytes: &'static [u8]) -> ServerAddress {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        std::thread::spawn(move || {
            let (mut client, _) = listener.accept().unwrap();
            let mut request = [0; TLS_REQUEST.len()];
            client.read_exact(&mut request).unwrap();
            client.write_all(bytes).unwrap();
        });
        ServerAddress(address)
    }

    #[test]
    fn postgresql_is_told_from_other_servers() {
        assert_eq!(examine(&server_that_answers(b"N")).state, State::Good);
        let http = examine(&server_that_answers(b"HTTP"));
        assert_eq!(http.state, State::Broken);
        assert!(http.found.contains("not PostgreSQL"), "{}", http.found);
    }

    #[test]
    fn backend_that_refuses_gets_a_next_step() {
        let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let finding = examine(&ServerAddress(closed.to_string()));
        assert_eq!(finding.state, State::Broken);
        assert!(finding.next_step.contains("listen_addresses"));
    }
}
