//! Drivers speak the extended protocol to the console as to any server.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use pgx_wire::backend::{Fields, tag};
use pgx_wire::frontend::write;
use pgx_wire::{Frames, SqlState};
use tokio_postgres::NoTls;

use crate::place::Place;

/// How long the console may take for an answer on a busy machine.
const ANSWER_MAX: Duration = Duration::from_secs(60);
/// What one flight may be answered with, and a table more.
const ANSWER_BYTES_MAX: usize = 17 << 20;

pub(crate) fn extended() -> anyhow::Result<()> {
    let place = Place::start("")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let words = format!("host=127.0.0.1 port={} user=root dbname=pgx", place.port()?);
    runtime.block_on(async {
        let (client, connection) = tokio_postgres::connect(&words, NoTls).await?;
        tokio::spawn(connection);
        let statement = client.prepare("SHOW STATE").await?;
        for _ in 0..2 {
            let rows = client.query(&statement, &[]).await?;
            ensure!(rows[0].get::<_, &str>("key") == "active");
            ensure!(rows[0].get::<_, &str>("value") == "yes");
        }
        // Numbers come in their binary form.
        let rows = client.query("SHOW LISTS", &[]).await?;
        let used = rows.iter().find(|row| row.get::<_, &str>("list") == "used_clients");
        ensure!(used.map(|row| row.get::<_, i64>("items")) == Some(1));
        // An error is one, and nothing more: what is sent with it is answered.
        let both = tokio::join!(client.query("SHOW NOTHING", &[]), client.query("SHOW STATE", &[]));
        ensure!(both.0.is_err() && both.1.is_ok_and(|rows| rows.len() == 3));
        ensure!(client.execute("RELOAD", &[]).await? == 0);
        let wrong = client.query("SHOW STATE", &[&1_i32]).await;
        ensure!(wrong.is_err());
        ensure!(client.simple_query("SHOW VERSION").await?.len() >= 2);
        Ok(())
    })
}

pub(crate) fn floods() -> anyhow::Result<()> {
    // So that a flight that asks for it again and again asks for much.
    let long = "x".repeat(4096);
    let place = Place::start(&format!("auth_query = \"select 'a', 'b' where $1 = '{long}'\"\n"))?;
    let mut stream = TcpStream::connect(place.node.address()?)?;
    stream.set_read_timeout(Some(ANSWER_MAX))?;
    let mut said = Vec::new();
    write::startup(&mut said, 0, [(&b"user"[..], &b"root"[..]), (b"database", b"pgx")]);
    stream.write_all(&said)?;
    read_to_ready(&mut stream)?;

    // One table after the other, in one flight.
    said.clear();
    write::parse(&mut said, b"", b"SHOW CONFIG", &[]);
    write::bind(&mut said, &[]);
    for _ in 0..6_000 {
        write::execute(&mut said, b"", 0);
    }
    write::sync(&mut said);
    stream.write_all(&said)?;
    let answer = read_to_ready(&mut stream)?;
    ensure!(answer.len() < ANSWER_BYTES_MAX, "{} bytes", answer.len());
    let mut frames = Frames::new(&answer);
    let mut errors = Vec::new();
    while let Some(frame) = frames.next_frame()? {
        if frame.tag == tag::ERROR {
            errors.extend(Fields::new(frame.body).sqlstate());
        }
    }
    ensure!(errors == [*SqlState::PROGRAM_LIMIT_EXCEEDED.code()], "{errors:?}");

    // It goes on as after any error.
    said.clear();
    write::query(&mut said, b"SHOW VERSION");
    stream.write_all(&said)?;
    let answer = read_to_ready(&mut stream)?;
    ensure!(answer.first() == Some(&tag::ROW_DESCRIPTION), "{answer:?}");
    Ok(())
}

/// Reads up to the message that says that the next may come.
fn read_to_ready(stream: &mut TcpStream) -> anyhow::Result<Vec<u8>> {
    const READY: [u8; 6] = [tag::READY, 0, 0, 0, 5, b'I'];
    let (mut all, mut buffer) = (Vec::new(), vec![0; 1 << 16]);
    while !all.ends_with(&READY) {
        let count = stream.read(&mut buffer).context("no answer")?;
        ensure!(count > 0, "the connection was closed");
        all.extend_from_slice(&buffer[..count]);
    }
    Ok(all)
}
