//! Who has a socket or a file: nobody, a living pgx, or a living PostgreSQL.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pgx_tests::database::Database;
use pgx_tests::lab::{build, wait_for};
use pgx_tests::node::Node;

use crate::{free_port, psql};

/// A pgx with everything that only one process may have.
fn sections(folder: &Path, address: &str, pid_file: &str) -> String {
    format!(
        "pid_file = {:?}\n[proxy]\nlisten = [\"{address}\"]\nunix_socket_dir = {folder:?}\n\
         pool_mode = \"transaction\"\nauth_type = \"trust\"\nbackends = [\"127.0.0.1:1\"]\n",
        folder.join(pid_file)
    )
}

pub(crate) fn stale() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let address = format!("127.0.0.1:{}", free_port()?);
    let sections = sections(folder.path(), &address, "pid");
    let mut node = Node::start(&build::pgx(false)?, &sections)?;
    for _ in 0..3 {
        node.end(Signal::SIGKILL)?;
        let left = std::fs::read_dir(folder.path())?.count();
        ensure!(left == 3, "a socket, its lock and a pid file must be in the way: {left}");
        node.start_again(&sections)?;
        let pid = std::fs::read_to_string(folder.path().join("pid"))?;
        ensure!(pid == format!("{}\n", node.process_id()), "{pid}");
    }
    node.end(Signal::SIGTERM)?;
    nothing_left(folder.path())
}

fn nothing_left(folder: &Path) -> anyhow::Result<()> {
    let left: Vec<_> = std::fs::read_dir(folder)?.filter_map(Result::ok).collect();
    ensure!(left.is_empty(), "a clean stop leaves nothing: {left:?}");
    Ok(())
}

pub(crate) fn live() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let binary = build::pgx(false)?;
    let port = free_port()?;
    let mut node =
        Node::start(&binary, &sections(folder.path(), &format!("127.0.0.1:{port}"), "a"))?;
    let named = format!("process {} (pgx)", node.process_id());

    // The same socket for operators.
    let again = Command::new(&binary)
        .args(["serve", "--config"])
        .arg(node.folder().join("pgx.toml"))
        .output()?;
    let said = String::from_utf8_lossy(&again.stderr);
    ensure!(again.status.code() == Some(1) && said.contains(&named), "{said}");
    ensure!(said.contains("admin.sock"), "{said}");
    // The same socket for clients, and the same pid file.
    for (address, pid_file, expected) in [
        (format!("127.0.0.2:{port}"), "b", "unix_socket_dir"),
        ("127.0.0.2:0".to_owned(), "a", "admin.pid_file"),
    ] {
        let refused = Node::start(&binary, &sections(folder.path(), &address, pid_file));
        let refused = format!("{:#}", refused.err().context("it must be refused")?);
        ensure!(refused.contains(&named) && refused.contains(expected), "{refused}");
    }
    ensure!(node.runs() && node.status().is_ok());
    node.end(Signal::SIGTERM)?;
    nothing_left(folder.path())
}

pub(crate) fn postgresql() -> anyhow::Result<()> {
    let port = free_port()?;
    let database = Database::start_with(&["--auth=trust"], &format!("-p {port}"))?;
    let folder = database.socket_folder();
    let sections = sections(folder, &format!("127.0.0.1:{port}"), "pid");
    let binary = build::pgx(false)?;

    let refused = Node::start(&binary, &sections);
    let refused = format!("{:#}", refused.err().context("PostgreSQL lives")?);
    let postmaster = database.postmaster()?;
    ensure!(refused.contains(&format!("process {postmaster} (postgres)")), "{refused}");
    let place = format!("host={} port={port} user=postgres", folder.display());
    ensure!(psql(&place, "select 7")?.stdout == b"7\n", "PostgreSQL was not left alone");

    kill(Pid::from_raw(postmaster), Signal::SIGKILL)?;
    let process = format!("/proc/{postmaster}");
    wait_for("PostgreSQL is dead", Duration::from_secs(20), || !Path::new(&process).exists())?;
    ensure!(folder.join(format!(".s.PGSQL.{port}")).exists(), "it must be in the way");
    let mut node = Node::start(&binary, &sections)?;

    // And PostgreSQL over what a killed pgx has left.
    node.end(Signal::SIGKILL)?;
    database.begin()?;
    ensure!(psql(&place, "select 7")?.stdout == b"7\n");
    Ok(())
}
