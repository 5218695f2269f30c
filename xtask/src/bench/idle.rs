//! `cargo xtask bench idle`: what clients cost in memory that log in and then say nothing.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use pgx_tests::lab::build;

use super::cpu;
use super::load::Load;
use super::peers::{self, Size};
use crate::setup;

/// How long an answer may take.
const ANSWER_MAX: Duration = Duration::from_secs(20);

/// Descriptors beside those of the clients.
const SPARE: u32 = 200;

/// Arguments of `bench idle`.
#[derive(clap::Args)]
pub(super) struct Args {
    /// Clients
    #[arg(long, default_value_t = 2000)]
    clients: u32,
    /// Threads of pgx
    #[arg(long, default_value_t = 2)]
    threads: u32,
    /// Measures this pgx instead of building one
    #[arg(long)]
    pgx: Option<PathBuf>,
}

/// Measures and prints.
///
/// # Errors
/// When something does not start, or a client is not let in.
pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    ensure!(args.clients > 0, "no clients");
    setup::ensure(setup::LAB)?;
    let wanted = u64::from(args.clients + SPARE);
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < wanted {
        // Ours and, by inheritance, pgx's.
        setrlimit(Resource::RLIMIT_NOFILE, wanted, hard.max(wanted))
            .with_context(|| format!("{wanted} descriptors are needed, {soft} allowed"))?;
    }
    let binary = build::pgx_or(args.pgx.as_deref())?;
    let load = Load::start()?;
    let size = Size { threads: args.threads, servers: 20, clients: args.clients + SPARE };
    let way = peers::pgx(&binary, "transaction", load.port, size)?;
    let process = way.process.context("pgx is a process")?;
    // Those that come first find pools and buffers not made yet, which is nobody's share.
    let mut warm = Vec::new();
    for _ in 0..SPARE / 2 {
        let mut client = log_in(way.port)?;
        query(&mut client)?;
        warm.push(client);
    }
    let before = cpu::resident_kb(process)?;
    let clients: anyhow::Result<Vec<_>> = (0..args.clients).map(|_| log_in(way.port)).collect();
    let mut clients = clients?;
    let tell = |what: &str| -> anyhow::Result<()> {
        let grown = f64::from(cpu::resident_kb(process)?) - f64::from(before);
        let each = grown / f64::from(args.clients);
        println!("{what:<34} {each:>6.2} KiB for each of {} clients", args.clients);
        Ok(())
    };
    println!("{:<34} {:>6.2} MiB", "resident before", f64::from(before) / 1024.0);
    tell("growth once they have logged in")?;
    clients.iter_mut().try_for_each(query)?;
    tell("growth once each has asked once")?;
    Ok(())
}

/// A client that has been let in. Source: PostgreSQL's documentation, "Message Formats".
fn log_in(port: u16) -> anyhow::Result<TcpStream> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(ANSWER_MAX))?;
    let parameters = b"user\0postgres\0database\0postgres\0application_name\0idle\0\0";
    let mut packet = u32::try_from(parameters.len() + 8)?.to_be_bytes().to_vec();
    packet.extend_from_slice(&(3_u32 << 16).to_be_bytes());
    packet.extend_from_slice(parameters);
    stream.write_all(&packet)?;
    wait_until_ready(&mut stream)?;
    Ok(stream)
}

fn query(stream: &mut TcpStream) -> anyhow::Result<()> {
    stream.write_all(b"Q\0\0\0\x0dselect 1\0")?;
    wait_until_ready(stream)
}

fn wait_until_ready(stream: &mut TcpStream) -> anyhow::Result<()> {
    loop {
        let mut header = [0; 5];
        stream.read_exact(&mut header).context("pgx did not answer")?;
        let [kind, length @ ..] = header;
        let length = u32::from_be_bytes(length).saturating_sub(4);
        let mut body = vec![0; usize::try_from(length)?];
        stream.read_exact(&mut body)?;
        match kind {
            b'Z' => return Ok(()),
            b'E' => bail!("pgx said: {}", String::from_utf8_lossy(&body)),
            _ => {}
        }
    }
}
