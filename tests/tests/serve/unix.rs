//! Clients of Unix sockets.

use std::io::{Read, Write};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};
use nix::sys::signal::Signal;
use pgx_tests::database::Database;
use pgx_tests::lab::build;
use pgx_tests::node::Node;
use pgx_wire::backend::tag;
use pgx_wire::{Frames, frontend};

use crate::{ENGINES, psql};

/// Clients that are in at once.
const CLIENTS: usize = 64;

/// A pgx whose clients come in by a folder.
fn node(database: &Database, folder: &Path, settings: &str) -> anyhow::Result<Node> {
    let backend = database.socket_folder().join(".s.PGSQL.5432");
    let sections = format!(
        "[proxy]\nlisten = [\"127.0.0.1:0\"]\nunix_socket_dir = {folder:?}\n\
         auth_type = \"trust\"\nbackends = [{backend:?}]\n{settings}"
    );
    Node::start(&build::pgx(false)?, &sections)
}

pub(crate) fn every_mode() -> anyhow::Result<()> {
    let database = Database::start()?;
    for mode in ["session", "transaction"] {
        for engine in ENGINES {
            let folder = tempfile::tempdir()?;
            let settings = format!("pool_mode = {mode:?}\nengine = {engine:?}\nthreads = 2\n");
            let mut node = node(&database, folder.path(), &settings)?;
            let port = node.address()?.port();
            by_psql(folder.path(), port)?;
            if mode == "transaction" {
                many(folder.path(), port)?;
            }
            node.end(Signal::SIGTERM)?;
            let left = std::fs::read_dir(folder.path())?.count();
            ensure!(left == 0, "a clean stop leaves nothing");
        }
    }
    without_a_pool()
}

/// Clients' own connections lead to a backend by TCP.
fn without_a_pool() -> anyhow::Result<()> {
    let port = crate::free_port()?;
    let settings = format!("-c listen_addresses=127.0.0.1 -p {port}");
    let _database = Database::start_with(&["--auth=trust"], &settings)?;
    let folder = tempfile::tempdir()?;
    let sections = format!(
        "[proxy]\nlisten = [\"127.0.0.1:0\"]\nunix_socket_dir = {:?}\n\
         backends = [\"127.0.0.1:{port}\"]\n",
        folder.path()
    );
    let node = Node::start(&build::pgx(false)?, &sections)?;
    by_psql(folder.path(), node.address()?.port())
}

fn by_psql(folder: &Path, port: u16) -> anyhow::Result<()> {
    let place = format!("host={} port={port} user=postgres dbname=postgres", folder.display());
    let output = psql(&place, "select 7")?;
    ensure!(output.stdout == b"7\n", "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// All of many clients are served, by whichever threads.
fn many(folder: &Path, port: u16) -> anyhow::Result<()> {
    let path = folder.join(format!(".s.PGSQL.{port}"));
    let clients: anyhow::Result<Vec<_>> = (0..CLIENTS).map(|_| log_in(&path)).collect();
    let mut served = [0; 2];
    for (_, process) in &clients? {
        // The first byte of the number names the thread, from 1.
        let thread = usize::try_from(process >> 24)?;
        *served.get_mut(thread.wrapping_sub(1)).context("a thread that is not there")? += 1;
    }
    println!("clients of each thread: {served:?}");
    ensure!(served.iter().sum::<usize>() == CLIENTS, "{served:?}");
    Ok(())
}

/// A client that is in, and its number.
fn log_in(path: &Path) -> anyhow::Result<(UnixStream, u32)> {
    let mut stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    let mut packet = Vec::new();
    let own = [(&b"user"[..], &b"postgres"[..]), (b"database", b"postgres")];
    frontend::write::startup(&mut packet, 0, own);
    stream.write_all(&packet)?;
    let (mut bytes, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        let mut frames = Frames::new(&bytes);
        while let Some(frame) = frames.next_frame()? {
            if frame.tag == tag::BACKEND_KEY {
                let process = frame.body.first_chunk().context("a short key")?;
                return Ok((stream, u32::from_be_bytes(*process)));
            }
        }
        let count = stream.read(&mut buffer)?;
        ensure!(count > 0, "closed: {}", String::from_utf8_lossy(&bytes));
        bytes.extend_from_slice(&buffer[..count]);
    }
}

pub(crate) fn rights() -> anyhow::Result<()> {
    let database = Database::start()?;
    let folder = tempfile::tempdir()?;
    let mode = "pool_mode = \"session\"\n";
    let settings = format!(
        "{mode}unix_socket_mode = \"0660\"\nunix_socket_group = \"postgres\"\n\
         [[proxy.listeners]]\nlisten = \"127.0.0.1:0\"\ntarget = \"standby\"\n"
    );
    let node = node(&database, folder.path(), &settings)?;
    let group = nix::unistd::Group::from_name("postgres")?.context("no group postgres")?;
    let port = node.address()?.port();
    let found = std::fs::symlink_metadata(folder.path().join(format!(".s.PGSQL.{port}")))?;
    ensure!(found.file_type().is_socket());
    ensure!(found.mode() & 0o777 == 0o660 && found.gid() == group.gid.as_raw(), "{found:?}");
    // Each port has its own, with a lock.
    ensure!(std::fs::read_dir(folder.path())?.count() == 4);
    let status = node.status()?;
    let listen = status["proxy"]["listen"].as_array().map_or(0, Vec::len);
    ensure!(listen == 4, "{status}");

    let settings = format!("{mode}unix_socket_group = \"nobody_has_such\"\n");
    let refused = super::unix::node(&database, folder.path(), &settings);
    let refused = format!("{:#}", refused.err().context("the group is not there")?);
    ensure!(refused.contains("there is no group \"nobody_has_such\""), "{refused}");
    Ok(())
}
