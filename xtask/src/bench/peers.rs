//! The proxies that `bench pgbench` compares, each started on loopback with a port of its own.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, bail};
use nix::unistd::{User, chown};
use pgx_tests::node::Node;
use tempfile::TempDir;

use super::load::{Running, free_port, wait_for_port};
use crate::setup::find_program;

/// How large pools are and how many threads there are, the same for all.
#[derive(Clone, Copy)]
pub(super) struct Size {
    /// Threads that serve clients, where a proxy has several.
    pub(super) threads: u32,
    /// Server connections that clients share, in all.
    pub(super) servers: u32,
    /// Clients in all.
    pub(super) clients: u32,
}

/// A way to PostgreSQL.
pub(super) struct Way {
    pub(super) path: &'static str,
    pub(super) pool_mode: &'static str,
    pub(super) port: u16,
    /// The process whose CPU counts as the proxy's.
    pub(super) process: Option<u32>,
    /// Is measured with prepared statements too, which Debian's pgbouncer has none of.
    pub(super) is_prepared: bool,
    /// What ends the proxy when it is dropped.
    _proxy: Option<Proxy>,
}

/// What is dropped in the end, and ended by that.
#[allow(dead_code, reason = "held to be dropped")]
enum Proxy {
    Node(Node),
    Process(Running, TempDir),
}

/// PostgreSQL itself.
pub(super) fn direct(port: u16) -> Way {
    let (path, pool_mode) = ("direct", "none");
    Way { path, pool_mode, port, process: None, is_prepared: true, _proxy: None }
}

/// pgx, with a pool of this mode.
///
/// # Errors
/// When it does not start.
pub(super) fn pgx(
    binary: &Path,
    pool_mode: &'static str,
    backend: u16,
    size: Size,
) -> anyhow::Result<Way> {
    // Who has a session has a server, and all may be on one thread; else threads share evenly.
    let pool = match pool_mode {
        "session" => size.clients,
        _ => size.servers.div_ceil(size.threads),
    };
    let sections = format!(
        "[proxy]\nlisten = [\"127.0.0.1:0\"]\nbackends = [\"127.0.0.1:{backend}\"]\n\
         pool_mode = \"{pool_mode}\"\nauth_type = \"trust\"\ndefault_pool_size = {pool}\n\
         max_client_conn = {}\nthreads = {}\n",
        size.clients, size.threads
    );
    let node = Node::start(binary, &sections)?;
    let (port, process) = (node.address()?.port(), Some(node.process_id()));
    let proxy = Some(Proxy::Node(node));
    Ok(Way { path: "pgx", pool_mode, port, process, is_prepared: true, _proxy: proxy })
}

/// Debian's pgbouncer in transaction mode. It refuses to be root.
///
/// # Errors
/// When it is missing or does not start.
pub(super) fn pgbouncer(backend: u16, size: Size) -> anyhow::Result<Way> {
    let user = User::from_name("postgres")?.context("there is no user postgres")?;
    let folder = tempfile::tempdir().context("cannot make a folder")?;
    let port = free_port()?;
    let users = folder.path().join("users.txt");
    std::fs::write(&users, "\"postgres\" \"\"\n")?;
    let text = format!(
        "[databases]\n* = host=127.0.0.1 port={backend}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
         listen_port = {port}\nunix_socket_dir =\nauth_type = trust\nauth_file = {}\n\
         pool_mode = transaction\ndefault_pool_size = {}\nmax_client_conn = {}\n\
         ignore_startup_parameters = extra_float_digits\nlog_connections = 0\n\
         log_disconnections = 0\n",
        users.display(),
        size.servers,
        size.clients
    );
    let config = folder.path().join("pgbouncer.ini");
    std::fs::write(&config, text)?;
    for path in [folder.path(), &config, &users] {
        chown(path, Some(user.uid), Some(user.gid))?;
    }
    let mut command = command("pgbouncer")?;
    command.arg(&config).uid(user.uid.as_raw()).gid(user.gid.as_raw());
    start("pgbouncer", "transaction", command, folder, port)
}

/// Debian's haproxy, which passes bytes on.
///
/// # Errors
/// When it is missing or does not start.
pub(super) fn haproxy(backend: u16, size: Size) -> anyhow::Result<Way> {
    let folder = tempfile::tempdir().context("cannot make a folder")?;
    let port = free_port()?;
    let text = format!(
        "global\n  nbthread {}\n  maxconn {}\ndefaults\n  mode tcp\n  timeout connect 5s\n  \
         timeout client 1h\n  timeout server 1h\n  option splice-auto\nlisten pgbench\n  \
         bind 127.0.0.1:{port}\n  server backend 127.0.0.1:{backend}\n",
        size.threads,
        // Each of its connections counts once; some stay half open between runs.
        size.clients * 2
    );
    let config = folder.path().join("haproxy.cfg");
    std::fs::write(&config, text)?;
    let mut command = command("haproxy")?;
    command.args(["-db", "-f"]).arg(&config);
    start("haproxy", "none", command, folder, port)
}

fn command(name: &str) -> anyhow::Result<Command> {
    match find_program(name) {
        Some(program) => Ok(Command::new(program)),
        None => bail!("{name} is not installed"),
    }
}

fn start(
    path: &'static str,
    pool_mode: &'static str,
    mut command: Command,
    folder: TempDir,
    port: u16,
) -> anyhow::Result<Way> {
    // A file, for a pipe that nobody reads would hold it up.
    let log = folder.path().join("log");
    let out = File::create(&log)?;
    command.current_dir("/").stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
    let child = command.spawn().with_context(|| format!("cannot run {path}"))?;
    let mut running = Running(child);
    if let Err(error) = wait_for_port(path, &mut running.0, port) {
        bail!("{error:#}; it said: {}", std::fs::read_to_string(&log)?);
    }
    let process = Some(running.0.id());
    let proxy = Some(Proxy::Process(running, folder));
    Ok(Way { path, pool_mode, port, process, is_prepared: false, _proxy: proxy })
}
