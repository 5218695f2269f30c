//! A PostgreSQL, and pgx and pgbouncer before it, with users whose secrets are kept in each form.

use std::fmt::Write as _;
use std::fs::File;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};
use nix::unistd::{User, chown};
use pgx_tests::database::Database;
use pgx_tests::node::Node;
use tempfile::TempDir;

use super::super::load::{Running, free_port, wait_for_port};
use crate::setup::find_program;

/// Server connections that clients share.
const SERVERS: usize = 20;

/// Ways in which clients log in, in the databases that are called so.
pub(super) const METHODS: [&str; 3] = ["scram-sha-256", "md5", "password"];

/// The password of all users.
pub(super) const PASSWORD: &str = "correct horse";

/// Users, by the form in which their secrets are kept.
pub(super) const USERS: [&str; 3] = ["password", "digest", "verifier"];

/// A PostgreSQL that lets everybody in, with what it keeps of the users.
pub(super) struct Backend {
    database: Database,
    port: u16,
    folder: TempDir,
    users: PathBuf,
}

/// A proxy.
pub(super) struct Place {
    pub(super) address: SocketAddr,
    pub(super) process: u32,
    _proxy: Proxy,
}

#[allow(dead_code, reason = "held to be dropped")]
enum Proxy {
    Node(Node),
    Process(Running, TempDir),
}

impl Backend {
    /// Starts it.
    ///
    /// # Errors
    /// When PostgreSQL is missing or does not start.
    pub(super) fn start() -> anyhow::Result<Self> {
        let port = free_port()?;
        let settings =
            format!("-c listen_addresses=127.0.0.1 -c port={port} -c max_connections=200");
        let database = Database::start_with(&["--auth=trust"], &settings)?;
        let folder = tempfile::tempdir().context("cannot make a folder")?;
        let users = folder.path().join("users.txt");
        let backend = Self { database, port, folder, users };
        let mut lines = String::new();
        for user in USERS {
            let form = if user == "digest" { "md5" } else { "scram-sha-256" };
            let role = format!("\"{user}\"");
            backend.run(&format!(
                "set password_encryption = '{form}'; create role {role} login password '{PASSWORD}'"
            ))?;
            let secret = match user {
                "password" => PASSWORD.to_owned(),
                _ => backend
                    .run(&format!("select rolpassword from pg_authid where rolname = '{user}'"))?,
            };
            writeln!(lines, "{role} \"{secret}\"")?;
        }
        std::fs::write(&backend.users, lines)?;
        std::fs::set_permissions(&backend.users, PermissionsExt::from_mode(0o600))?;
        Ok(backend)
    }

    fn run(&self, text: &str) -> anyhow::Result<String> {
        let host = self.database.socket_folder().display().to_string();
        let output = Command::new("psql")
            .args(["--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--username=postgres"])
            .args([
                "--host",
                &host,
                "--port",
                &self.port.to_string(),
                "--command",
                text,
                "postgres",
            ])
            .output()
            .context("cannot run psql")?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// pgx before it.
    ///
    /// # Errors
    /// When it does not start.
    pub(super) fn pgx(&self, binary: &Path, threads: u32, clients: usize) -> anyhow::Result<Place> {
        let (mut rules, mut databases) = (String::new(), String::new());
        for method in METHODS {
            writeln!(rules, "host {method} all 127.0.0.1/32 {method}")?;
            writeln!(databases, "[[proxy.databases]]\nname = \"{method}\"\ndbname = \"postgres\"")?;
        }
        let file = self.folder.path().join("rules");
        std::fs::write(&file, rules)?;
        let papers = self.papers()?;
        let sections = format!(
            "[proxy]\nlisten = [\"127.0.0.1:0\"]\nbackends = [\"127.0.0.1:{}\"]\n\
             pool_mode = \"transaction\"\nauth_type = \"hba\"\nauth_hba_file = {file:?}\n\
             auth_file = {:?}\ndefault_pool_size = {SERVERS}\nmax_client_conn = {clients}\n\
             threads = {threads}\nclient_tls_sslmode = \"allow\"\n\
             client_tls_cert_file = {:?}\nclient_tls_key_file = {:?}\n{databases}",
            self.port, self.users, papers.0, papers.1
        );
        let node = Node::start(binary, &sections)?;
        let (address, process) = (node.address()?, node.process_id());
        Ok(Place { address, process, _proxy: Proxy::Node(node) })
    }

    /// Debian's pgbouncer before it, which has one way of logging in.
    ///
    /// # Errors
    /// When it is missing or does not start.
    pub(super) fn pgbouncer(&self, method: &str, clients: usize) -> anyhow::Result<Place> {
        let user = User::from_name("postgres")?.context("there is no user postgres")?;
        let folder = tempfile::tempdir().context("cannot make a folder")?;
        let (port, users) = (free_port()?, folder.path().join("users.txt"));
        std::fs::copy(&self.users, &users)?;
        let papers = self.papers()?;
        let key = folder.path().join("key");
        std::fs::copy(papers.1, &key)?;
        let text = format!(
            "[databases]\n* = host=127.0.0.1 port={} dbname=postgres\n[pgbouncer]\n\
             listen_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n\
             listen_backlog = 4096\nauth_type = {method}\nauth_file = {}\n\
             pool_mode = transaction\ndefault_pool_size = {SERVERS}\nmax_client_conn = {clients}\n\
             client_tls_sslmode = allow\nclient_tls_cert_file = {}\nclient_tls_key_file = {}\n\
             log_connections = 0\nlog_disconnections = 0\n",
            self.port,
            users.display(),
            papers.0.display(),
            key.display()
        );
        let config = folder.path().join("pgbouncer.ini");
        std::fs::write(&config, text)?;
        for path in [folder.path(), &config, &users, &key] {
            chown(path, Some(user.uid), Some(user.gid))?;
        }
        let program = find_program("pgbouncer").context("pgbouncer is not installed")?;
        // A file, for a pipe that nobody reads would hold it up.
        let out = File::create(folder.path().join("log"))?;
        let mut command = Command::new(program);
        command.arg(&config).uid(user.uid.as_raw()).gid(user.gid.as_raw()).current_dir("/");
        command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
        let mut running = Running(command.spawn().context("cannot run pgbouncer")?);
        if let Err(error) = wait_for_port("pgbouncer", &mut running.0, port) {
            let said = std::fs::read_to_string(folder.path().join("log"))?;
            return Err(error.context(said));
        }
        let (process, address) = (running.0.id(), SocketAddr::from(([127, 0, 0, 1], port)));
        Ok(Place { address, process, _proxy: Proxy::Process(running, folder) })
    }

    /// A certificate and its key, which sign themselves.
    fn papers(&self) -> anyhow::Result<(PathBuf, PathBuf)> {
        let [certificate, key] = ["crt", "key"].map(|name| self.folder.path().join(name));
        if certificate.exists() {
            return Ok((certificate, key));
        }
        let output = Command::new("openssl")
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"])
            .args(["-nodes", "-days", "2", "-subj", "/CN=localhost", "-out"])
            .arg(&certificate)
            .arg("-keyout")
            .arg(&key)
            .output()
            .context("cannot run openssl")?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        std::fs::set_permissions(self.folder.path(), PermissionsExt::from_mode(0o755))?;
        Ok((certificate, key))
    }
}
