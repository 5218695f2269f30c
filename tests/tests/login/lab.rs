//! A PostgreSQL that listens on TCP and speaks TLS, and pools before it.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use anyhow::{Context, ensure};
use nix::unistd::User;
use pgx_tests::database::Database;
use pgx_tests::lab::build;
use pgx_tests::node::Node;
use tempfile::TempDir;

use crate::papers::{Authority, Pair};

/// What a role's name says of its password's form: each has the password `secret`.
const ROLES: &str = "create role md5_user login password 'secret'; \
    set password_encryption = 'scram-sha-256'; \
    create role scram_user login password 'secret'; \
    create role looker login superuser password 'secret'; create role trusted login";

/// Everything, with an authority for both sides' certificates.
pub(crate) struct Lab {
    database: Database,
    port: u16,
    pub(crate) folder: TempDir,
    pub(crate) authority: Authority,
    /// Of pgx, for clients.
    pub(crate) proxy: Pair,
}

impl Lab {
    pub(crate) fn start() -> anyhow::Result<Self> {
        let port = free_port()?;
        let settings = format!(
            "-c listen_addresses=127.0.0.1 -p {port} -c password_encryption=md5 \
             -c log_connections=on"
        );
        let database = Database::start_with(&["--auth=trust"], &settings)?;
        let folder = tempfile::tempdir()?;
        std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755))?;
        let authority = Authority::make(folder.path(), "authority")?;
        let proxy = authority.sign(folder.path(), "proxy.test", 9)?;
        let lab = Self { database, port, folder, authority, proxy };
        lab.direct(ROLES)?;
        let own = lab.authority.sign(lab.folder.path(), "db.test", 9)?;
        let user = User::from_name("postgres")?.context("there is no user postgres")?;
        own.give((user.uid, user.gid))?;
        lab.direct(&format!("alter system set ssl_cert_file = '{}'", own.certificate.display()))?;
        lab.direct(&format!("alter system set ssl_key_file = '{}'", own.key.display()))?;
        lab.direct(&format!("alter system set ssl_ca_file = '{}'", lab.authority.file.display()))?;
        Ok(lab)
    }

    /// Whether PostgreSQL speaks TLS, and by which lines it lets clients in over TCP.
    pub(crate) fn set(&self, has_tls: bool, lines: &str) -> anyhow::Result<()> {
        let local = "local all all trust\n";
        std::fs::write(self.database.data().join("pg_hba.conf"), format!("{local}{lines}"))?;
        self.direct(&format!("alter system set ssl = {has_tls}"))?;
        self.direct("select pg_reload_conf()")?;
        let expected = if has_tls { "on" } else { "off" };
        pgx_tests::lab::wait_for("the settings hold", std::time::Duration::from_secs(20), || {
            self.direct("show ssl").is_ok_and(|found| found == expected)
        })
    }

    /// A pool with these settings.
    pub(crate) fn pool(&self, settings: &str) -> anyhow::Result<Node> {
        let users = self.folder.path().join("users.txt");
        let line = |name: &str| format!("\"{name}\" \"secret\"\n");
        std::fs::write(&users, line("md5_user") + &line("scram_user") + &line("trusted"))?;
        std::fs::set_permissions(&users, PermissionsExt::from_mode(0o600))?;
        self.pool_of(&users, settings)
    }

    /// The same, with this file of users.
    pub(crate) fn pool_of(&self, users: &Path, settings: &str) -> anyhow::Result<Node> {
        let sections = format!(
            "[proxy]\nlisten = [\"127.0.0.1:0\"]\nbackends = [\"127.0.0.1:{}\"]\npool_mode = \
             \"session\"\nthreads = 2\nauth_file = {users:?}\n\
             client_tls_cert_file = {:?}\nclient_tls_key_file = {:?}\n{settings}",
            self.port, self.proxy.certificate, self.proxy.key,
        );
        Node::start(&build::pgx(false)?, &sections)
    }

    /// Runs a text at PostgreSQL itself, as its owner.
    pub(crate) fn direct(&self, text: &str) -> anyhow::Result<String> {
        let folder = self.database.socket_folder().display().to_string();
        let place = format!("host={folder} port={} user=postgres dbname=postgres", self.port);
        let output = psql(&place, text)?;
        ensure!(output.status.success(), "{text}: {}", said(&output));
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// What libpq is told to reach a pool.
    pub(crate) fn place(node: &Node, words: &str) -> anyhow::Result<String> {
        let port = node.address()?.port();
        Ok(format!(
            "host=proxy.test hostaddr=127.0.0.1 port={port} dbname=postgres password=secret \
             connect_timeout=20 {words}"
        ))
    }
}

/// Runs a text by psql.
pub(crate) fn psql(place: &str, text: &str) -> anyhow::Result<Output> {
    Command::new("psql")
        .args(["--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--command", text, place])
        .env("HOME", Path::new("/nonexistent"))
        .output()
        .context("cannot run psql")
}

/// What a program said that failed.
pub(crate) fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A port that nobody has, below those that the kernel gives to others.
fn free_port() -> anyhow::Result<u16> {
    let first = 20_000 + u16::try_from(std::process::id() % 10_000)?;
    let mut all = (first..30_000).chain(20_000..first);
    all.find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok()).context("no port is free")
}
