//! A PostgreSQL, pgx before it, and PgBouncer where that is wanted.

use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};
use nix::unistd::{User, chown};
use pgx_tests::database::Database;
use pgx_tests::lab::{build, wait_for};
use pgx_tests::node::Node;
use tempfile::TempDir;

/// How long PgBouncer may take to start on a busy machine.
const START_MAX: Duration = Duration::from_secs(20);

/// PostgreSQL and pgx.
pub(crate) struct Place {
    pub(crate) database: Database,
    pub(crate) node: Node,
}

impl Place {
    /// In transaction mode, with these settings, before any database.
    pub(crate) fn start(settings: &str) -> anyhow::Result<Self> {
        let database = Database::start()?;
        let socket = database.socket_folder().join(".s.PGSQL.5432");
        let node = Node::start(
            &build::pgx(false)?,
            &format!(
                "[proxy]\nlisten = [\"127.0.0.1:0\"]\nbackends = [{socket:?}]\nthreads = 2\n\
                 pool_mode = \"transaction\"\nauth_type = \"trust\"\nadmin_users = [\"root\"]\n\
                 stats_users = [\"eve\"]\n{settings}"
            ),
        )?;
        Ok(Self { database, node })
    }

    pub(crate) fn port(&self) -> anyhow::Result<u16> {
        Ok(self.node.address()?.port())
    }

    /// What a command says: rows with `|` between columns, or what was done.
    pub(crate) fn console(&self, text: &str) -> anyhow::Result<String> {
        let output = psql(self.port()?, "root", "pgx", text)?;
        ensure!(output.status.success(), "{text}: {}", said(&output));
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// One column of a table, by the column's name.
    pub(crate) fn column(&self, table: &str, name: &str) -> anyhow::Result<Vec<String>> {
        let rows = rows(self.port()?, "pgx", table)?;
        let place = rows[0].iter().position(|column| column == name).context("no such column")?;
        Ok(rows[1..].iter().map(|row| row[place].clone()).collect())
    }

    /// A client of the database that runs a text.
    pub(crate) fn client(&self, text: &str) -> anyhow::Result<Output> {
        psql(self.port()?, "postgres", "postgres", text)
    }
}

/// A table with its header, as lists of texts.
pub(crate) fn rows(port: u16, database: &str, table: &str) -> anyhow::Result<Vec<Vec<String>>> {
    let output = Command::new("psql")
        .args(["--no-psqlrc", "--csv", "--command", &format!("SHOW {table}")])
        .arg(format!("host=127.0.0.1 port={port} user=root dbname={database}"))
        .env("HOME", Path::new("/nonexistent"))
        .output()?;
    ensure!(output.status.success(), "SHOW {table}: {}", said(&output));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    // No column that tests look at has a comma in it, but for the last of databases.
    Ok(text.lines().map(|line| line.split(',').map(str::to_owned).collect()).collect())
}

/// Runs a text by psql.
pub(crate) fn psql(port: u16, user: &str, database: &str, text: &str) -> anyhow::Result<Output> {
    Command::new("psql")
        .args(["--no-psqlrc", "--tuples-only", "--no-align", "--command", text])
        .arg(format!("host=127.0.0.1 port={port} user={user} dbname={database} connect_timeout=20"))
        .env("HOME", Path::new("/nonexistent"))
        .output()
        .context("cannot run psql")
}

/// What a program said that failed.
pub(crate) fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).trim().to_owned()
}

/// Debian's pgbouncer before the same PostgreSQL; it is ended when the value is dropped.
pub(crate) struct Pgbouncer {
    process: Child,
    pub(crate) port: u16,
    _folder: TempDir,
}

impl Pgbouncer {
    pub(crate) fn start(database: &Database) -> anyhow::Result<Self> {
        // It refuses to be root.
        let user = User::from_name("postgres")?.context("there is no user postgres")?;
        let folder = tempfile::tempdir()?;
        let port = free_port()?;
        let (config, users) = (folder.path().join("ini"), folder.path().join("users"));
        std::fs::write(&users, "\"root\" \"\"\n\"eve\" \"\"\n\"postgres\" \"\"\n")?;
        let place = database.socket_folder().display();
        std::fs::write(
            &config,
            format!(
                "[databases]\n* = host={place} port=5432\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
                 listen_port = {port}\nunix_socket_dir =\nauth_type = trust\nauth_file = {}\n\
                 pool_mode = transaction\nadmin_users = root\nstats_users = eve\n",
                users.display(),
            ),
        )?;
        for path in [folder.path(), &config, &users] {
            chown(path, Some(user.uid), Some(user.gid))?;
        }
        let process = Command::new("pgbouncer")
            .arg(&config)
            .uid(user.uid.as_raw())
            .gid(user.gid.as_raw())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot run pgbouncer")?;
        let peer = Self { process, port, _folder: folder };
        wait_for("pgbouncer is ready", START_MAX, || {
            psql(port, "root", "pgbouncer", "SHOW VERSION").is_ok_and(|out| out.status.success())
        })?;
        Ok(peer)
    }
}

impl Drop for Pgbouncer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A port that nobody has, below those that the kernel gives to others.
fn free_port() -> anyhow::Result<u16> {
    let first = 20_000 + u16::try_from(std::process::id() % 10_000)?;
    let mut all = (first..30_000).chain(20_000..first);
    all.find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok()).context("no port is free")
}
