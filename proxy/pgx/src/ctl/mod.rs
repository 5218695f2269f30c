//! `pgx ctl`: a thin client of the admin socket.

mod status;

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use pgx_control::admin::{Body, Reply, Request, Verb};
use pgx_control::limits::{ADMIN_CLIENT_MS_MAX, ADMIN_REPLY_BYTES_MAX};

use crate::cli::{Ctl, CtlVerb};
use crate::exit::Failure;

/// Runs the verb against the pgx behind the socket.
pub(crate) fn run(arguments: &Ctl) -> Result<(), Failure> {
    let verb = match arguments.verb {
        CtlVerb::Status => Verb::Status,
    };
    let body = ask(&arguments.socket, verb)?;
    if let Body::Refused(refusal) = body {
        return Err(Failure::Refused(refusal.to_string()));
    }
    if arguments.json {
        let text = serde_json::to_string_pretty(&Reply::new(body))
            .map_err(|error| Failure::Failed(format!("cannot print the reply: {error}")))?;
        println!("{text}");
        return Ok(());
    }
    if let Body::Status(status) = body {
        print!("{}", status::table(&status));
    }
    Ok(())
}

/// Sends one request and reads its reply.
fn ask(path: &Path, verb: Verb) -> Result<Body, Failure> {
    let reply = exchange(path, verb).map_err(|error| {
        let next = match error.kind() {
            ErrorKind::NotFound | ErrorKind::ConnectionRefused => {
                "; is pgx running on this host, and is --socket the admin.socket of its \
                 configuration?"
            }
            ErrorKind::PermissionDenied => "; run it as root or as the user that runs pgx",
            _ => "",
        };
        Failure::Unreachable(format!("cannot ask pgx at {}: {error}{next}", path.display()))
    })?;
    let reply: Reply = serde_json::from_slice(&reply).map_err(|error| {
        Failure::Failed(format!("cannot read the reply of pgx at {}: {error}", path.display()))
    })?;
    Ok(reply.body)
}

fn exchange(path: &Path, verb: Verb) -> std::io::Result<Vec<u8>> {
    let mut socket = UnixStream::connect(path)?;
    let limit = Duration::from_millis(ADMIN_CLIENT_MS_MAX);
    socket.set_read_timeout(Some(limit))?;
    socket.set_write_timeout(Some(limit))?;
    let mut line = serde_json::to_vec(&Request::new(verb))?;
    line.push(b'\n');
    socket.write_all(&line)?;
    let mut reply = Vec::new();
    let bound = u64::try_from(ADMIN_REPLY_BYTES_MAX).unwrap_or(u64::MAX);
    socket.take(bound).read_to_end(&mut reply)?;
    Ok(reply)
}
