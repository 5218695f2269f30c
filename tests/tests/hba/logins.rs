//! Who is let in, and what the others are told.

use std::io::{Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use pgx_hba::{Connection, Network, Refusal, Rules};
use pgx_tests::database::Database;
use pgx_wire::backend::{Fields, tag};
use pgx_wire::{Frames, frontend};

use crate::{rules, write};

/// How long an answer may take on a busy machine; none is waited for longer.
const ANSWER_MAX: Duration = Duration::from_secs(20);

const LONG: &str = "a_name_of_more_bytes_than_postgresql_goes_by_which_are_sixty_three_";

const RULES: &str = "\
local all eve reject
local replication eve,repl reject
local sameuser all trust
local \"all\",\"replication\" bob trust
local shop xa,\"all\" trust
host all eve 127.0.0.0 255.0.0.0 reject
host replication repl samehost scram-sha-256
host replication eve samenet reject
host all bob 127.0.0.1/32 md5
host all dan 127.0.0.2/32 trust
hostssl all fay all trust
hostgssenc all fay all trust
hostnossl shop fay all trust
host all a_name_of_more_bytes_than_postgresql_goes_by_which_are_sixty_th all reject
host sameuser all all trust
host shop,bob,\"all\" all samenet trust
local bob,\"replication\",replication all trust
";

/// What a server answers to a start-up packet.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    /// Its rules let the client go on, whether it gets in or not.
    MayTry,
    Refused {
        code: Option<[u8; 5]>,
        message: String,
    },
}

/// Each user for each database from both sides, for replication and not, at PostgreSQL and by our
/// rules.
pub(crate) fn same_outcome() -> anyhow::Result<()> {
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let settings = format!("-c listen_addresses=127.0.0.1 -c port={port}");
    let database = Database::start_with(&["--auth=trust"], &settings)?;
    database.kill()?;
    write(&database, "pg_hba.conf", RULES)?;
    database.begin()?;
    let rules = rules(&database)?;
    let loopback = IpAddr::from([127, 0, 0, 1]);
    let interfaces =
        [Network::new(loopback, [255, 0, 0, 0].into()).context("both are IPv4 addresses")?];

    let mut refused = 0;
    for user in ["eve", "bob", "dan", "fay", "repl", "all", "xa", LONG] {
        for name in ["all", "shop", "replication", "bob", LONG] {
            for (address, is_replication) in
                [(None, false), (None, true), (Some(loopback), false), (Some(loopback), true)]
            {
                let connection = Connection {
                    address,
                    is_tls: false,
                    database: name.as_bytes(),
                    user: user.as_bytes(),
                    is_replication,
                    interfaces: &interfaces,
                };
                let theirs = match address {
                    None => {
                        let path = database.socket_folder().join(format!(".s.PGSQL.{port}"));
                        let stream = UnixStream::connect(path)?;
                        stream.set_read_timeout(Some(ANSWER_MAX))?;
                        ask(stream, &connection)?
                    }
                    Some(address) => {
                        let stream = TcpStream::connect((address, port))?;
                        stream.set_read_timeout(Some(ANSWER_MAX))?;
                        ask(stream, &connection)?
                    }
                };
                let ours = by(&rules, &connection);
                refused += usize::from(ours != Outcome::MayTry);
                ensure!(theirs == ours, "{connection:?}\n{theirs:?} by PostgreSQL\n{ours:?} by us");
            }
        }
    }
    ensure!((60..120).contains(&refused), "{refused} are refused, of 160");
    Ok(())
}

fn by(rules: &Rules, connection: &Connection<'_>) -> Outcome {
    match Refusal::new(connection, rules.find(connection)) {
        None => Outcome::MayTry,
        Some(refusal) => Outcome::Refused {
            code: Some(*refusal.sqlstate().code()),
            message: refusal.to_string(),
        },
    }
}

fn ask(mut stream: impl Read + Write, connection: &Connection<'_>) -> anyhow::Result<Outcome> {
    let mut parameters: Vec<(&[u8], &[u8])> =
        vec![(b"user", connection.user), (b"database", connection.database)];
    parameters.extend(connection.is_replication.then_some((&b"replication"[..], &b"true"[..])));
    let mut packet = Vec::new();
    frontend::write::startup(&mut packet, 0, parameters);
    stream.write_all(&packet)?;
    let (mut bytes, mut buffer) = (Vec::new(), [0; 1024]);
    loop {
        let mut frames = Frames::new(&bytes);
        if let Some(frame) = frames.next_frame()? {
            let fields = Fields::new(frame.body);
            let message = String::from_utf8_lossy(fields.message().unwrap_or_default());
            return Ok(match frame.tag {
                tag::ERROR if message.contains("pg_hba.conf") => {
                    Outcome::Refused { code: fields.sqlstate(), message: message.into_owned() }
                }
                tag::ERROR | tag::AUTHENTICATION => Outcome::MayTry,
                other => bail!("an answer that begins with {:?}", char::from(other)),
            });
        }
        let count = stream.read(&mut buffer)?;
        ensure!(count > 0, "closed without an answer");
        bytes.extend_from_slice(&buffer[..count]);
    }
}
