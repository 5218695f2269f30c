//! Clusters of real `pgx serve` on loopback, each node with a PostgreSQL that pgx runs and a proxy
//! that leads to the primary. Each node has an address of its own, and all have the same ports.

use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use anyhow::{Context, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User, chown};
use serde_json::Value;
use tempfile::TempDir;

use crate::checker::{Checker, Place, Plan, Record};
use crate::cluster::{Cluster, WAIT_MAX, ask, control};
use crate::lab::{postgres, wait_for, wait_for_some};
use crate::node::Node;

/// What the operator of each PostgreSQL has set: little memory, and few that need it.
const SETTINGS: &str = "shared_buffers = 16MB\nmax_connections = 50\nmin_wal_size = 32MB\n\
    log_line_prefix = '%m [%p] '\n";

/// A cluster whose nodes all have a PostgreSQL; its servers end with it.
#[derive(Debug)]
pub struct Members {
    cluster: Cluster,
    /// The nodes, the first of which is node 1.
    pub nodes: Vec<Node>,
    folder: TempDir,
    port: u16,
    programs: PathBuf,
    /// What else their configuration says.
    more: String,
}

impl Members {
    /// Begins a cluster of so many, and waits until all of them stream and commits wait for the
    /// standbys.
    ///
    /// # Errors
    /// When PostgreSQL is missing, or it does not come about in time.
    pub fn start(binary: &Path, count: usize) -> anyhow::Result<Self> {
        Self::start_with(binary, count, "")
    }

    /// The same with more in the configuration of each; `{}` in it stands for the folder of the
    /// data directories, `{id}` for the node's number, `{cluster}` for the folder of certificates.
    ///
    /// # Errors
    /// As for [`Self::start`].
    pub fn start_with(binary: &Path, count: usize, more: &str) -> anyhow::Result<Self> {
        let mut members = Self::found(binary, count, more)?;
        members.nodes = members.cluster.begin(1)?;
        members.init()?;
        members.tune(SETTINGS)?;
        members.begin("stopped")?;
        Ok(members)
    }

    /// The same around a PostgreSQL that runs already, and that pgx has only watched until now.
    ///
    /// # Errors
    /// As for [`Self::start`], or when that PostgreSQL starts anew on the way.
    pub fn take_over(binary: &Path, count: usize) -> anyhow::Result<Self> {
        let mut members = Self::found(binary, count, "")?;
        let data = members.data(1);
        members.run("initdb", &["--auth=trust", "--no-sync", "--pgdata", text(&data)?])?;
        let own = format!("{SETTINGS}port = {}\nwal_log_hints = on\n", members.port);
        members.tune(&own)?;
        let (log, sockets) = (members.path("log"), members.folder.path().display());
        let options = format!("-c listen_addresses=127.0.0.1 -k {sockets}");
        let words = ["--pgdata", text(&data)?, "--log", text(&log)?, "--options", &options];
        members.run("pg_ctl", &[&words[..], &["--wait", "start"]].concat())?;
        let postmaster = members.postmaster(1)?;
        members.nodes = members.cluster.begin(1)?;
        wait_for("it is watched", WAIT_MAX, || {
            control(&members.nodes[0]).is_some_and(|seen| seen["agent"]["postgres"] == "primary")
        })?;
        let said = members.init()?;
        ensure!(said.contains("took over"), "{said}");
        members.begin("primary")?;
        ensure!(members.postmaster(1)? == postmaster, "it was started anew: {said}");
        Ok(members)
    }

    fn found(binary: &Path, count: usize, more: &str) -> anyhow::Result<Self> {
        let programs = postgres::find_programs(None)?;
        let user = User::from_name("postgres")?.context("there is no user postgres")?;
        let folder = tempfile::tempdir().context("cannot make a folder")?;
        chown(folder.path(), Some(user.uid), Some(user.gid))?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let cluster = Cluster::new(binary, count)?;
        let more = more.replace("{}", text(folder.path())?);
        let mut members = Self { cluster, nodes: Vec::new(), folder, port, programs, more };
        for id in 1..=count {
            let sections = members.sections(id);
            members.cluster.configure(id, &sections);
        }
        Ok(members)
    }

    fn sections(&self, id: usize) -> String {
        let Self { port, programs, .. } = self;
        let folder = self.cluster.path("").display().to_string();
        let more = self.more.replace("{id}", &id.to_string()).replace("{cluster}", &folder);
        format!(
            "[postgres]\ndata_directory = {:?}\nbin_directory = {programs:?}\nport = {port}\n\
             listen_addresses = \"127.0.0.{id}\"\nreplication_password_file = {:?}\n\
             [proxy]\nlisten = [\"127.0.0.{id}:0\"]\npool_mode = \"transaction\"\n\
             auth_type = \"trust\"\nthreads = 1\ndrain_timeout = 1\ncluster_port = {port}\n\
             {more}",
            self.data(id),
            self.path("password"),
        )
    }

    /// Makes the directory of node 1 pgx's.
    fn init(&self) -> anyhow::Result<String> {
        let config = self.cluster.path("pgx1.toml").display().to_string();
        let words = ["init", "postgres", "--config", &config, "--initdb", "--auth=trust"];
        said(Command::new(self.cluster.binary()).args(words).output()?)
    }

    /// Sets what operators set, and lets everybody in without a password: proxies and tests are on
    /// this host.
    fn tune(&self, settings: &str) -> anyhow::Result<()> {
        for (name, before, after) in [
            ("postgresql.conf", settings, ""),
            ("pg_hba.conf", "", "host all all 127.0.0.0/8 trust\n"),
        ] {
            let file = self.data(1).join(name);
            let text = std::fs::read_to_string(&file)?;
            std::fs::write(&file, format!("{before}{text}{after}"))?;
        }
        Ok(())
    }

    fn command(&self, program: &str, words: &[&str]) -> anyhow::Result<Command> {
        let user = User::from_name("postgres")?.context("there is no user postgres")?;
        let mut command = Command::new(self.programs.join(program));
        command.args(words).uid(user.uid.as_raw()).gid(user.gid.as_raw()).current_dir("/");
        Ok(command)
    }

    fn run(&self, program: &str, words: &[&str]) -> anyhow::Result<()> {
        let mut command = self.command(program, words)?;
        // A daemon keeps what it inherits, and with a pipe the wait for its end would not end.
        let log = self.path("said");
        let out = std::fs::File::create(&log)?;
        let status = command.stdout(out.try_clone()?).stderr(out).status()?;
        ensure!(status.success(), "{program}: {}", std::fs::read_to_string(&log)?);
        Ok(())
    }

    fn begin(&mut self, postgres: &str) -> anyhow::Result<()> {
        let count = self.count();
        wait_for("the agent tells of its directory", WAIT_MAX, || {
            control(&self.nodes[0]).is_some_and(|seen| seen["agent"]["postgres"] == postgres)
        })
        .with_context(|| self.nodes[0].log())?;
        wait_for("the cluster begins", WAIT_MAX, || {
            ask(&self.nodes[0], &["bootstrap", "--node", "1"]).is_ok()
        })?;
        self.cluster.grow(&mut self.nodes, count)?;
        self.wait_for_calm(0)
    }

    fn count(&self) -> usize {
        self.cluster.count()
    }

    /// The folder of the cluster's certificates.
    #[must_use]
    pub fn certificates(&self) -> PathBuf {
        self.cluster.path("")
    }

    /// A path in the folder of the data directories.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A node's data directory.
    #[must_use]
    pub fn data(&self, id: usize) -> PathBuf {
        self.path(&format!("pg{id}"))
    }

    /// Makes a cluster that is nobody's where a node's directory was.
    ///
    /// # Errors
    /// When `initdb` fails.
    pub fn found_another(&self, id: usize) -> anyhow::Result<()> {
        let data = self.data(id);
        self.run("initdb", &["--auth=trust", "--no-sync", "--pgdata", text(&data)?])
    }

    /// What a query says of a directory that no server uses, with its log replayed.
    ///
    /// # Errors
    /// When a single user cannot start there.
    pub fn read_alone(&self, data: &Path, text: &str) -> anyhow::Result<String> {
        // A single user is no standby.
        let signal = data.join("standby.signal");
        if signal.exists() {
            std::fs::remove_file(signal)?;
        }
        let query = self.path("query");
        std::fs::write(&query, format!("{text}\n"))?;
        let mut command = self.command("postgres", &["--single", "-D"])?;
        let command = command.arg(data).arg("postgres").stdin(std::fs::File::open(&query)?);
        let output = command.output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// A node.
    #[must_use]
    pub fn node(&self, id: usize) -> &Node {
        &self.nodes[id - 1]
    }

    /// Waits until an epoch serves, of this number at least, in which every node's PostgreSQL takes
    /// part and commits wait for a standby. Gives the epoch's number and its primary.
    ///
    /// # Errors
    /// When it does not come about in time; with what the nodes say.
    pub fn wait_for_calm(&self, epoch: u64) -> anyhow::Result<()> {
        let mut seen = Vec::new();
        let waited = wait_for("the cluster is calm", WAIT_MAX, || {
            seen = self.nodes.iter().map(control).collect();
            let all: Option<Vec<_>> = seen.iter().cloned().collect();
            all.is_some_and(|all| all.iter().all(|one| self.is_calm(one, epoch)))
        });
        if waited.is_ok() {
            return Ok(());
        }
        let told: Vec<_> = seen
            .iter()
            .map(|seen| seen.as_ref().map(|seen| (&seen["epoch"], &seen["agent"], &seen["waits"])))
            .collect();
        let logs: Vec<_> = (1..=self.count()).map(|id| self.log(id)).collect();
        bail!("{waited:?}: {told:?}\n{}", logs.join("\n"))
    }

    fn is_calm(&self, seen: &Value, least: u64) -> bool {
        let epoch = &seen["epoch"];
        let others = self.nodes.len() - 1;
        epoch["epoch"].as_u64() >= Some(least)
            && epoch["is_established"] == true
            && epoch["sealed"].is_null()
            && epoch["handover"].is_null()
            && epoch["sync_candidates"].as_array().is_some_and(|all| all.len() == others)
    }

    /// The node that the quorum calls primary, and its epoch, as some node sees it.
    ///
    /// # Errors
    /// When nobody says so in time.
    pub fn primary(&self) -> anyhow::Result<(usize, u64)> {
        wait_for_some("a primary", WAIT_MAX, || {
            self.nodes.iter().find_map(|node| {
                let seen = control(node)?;
                let holder = usize::try_from(seen["epoch"]["holder"].as_u64()?).ok()?;
                Some((holder, seen["epoch"]["epoch"].as_u64()?))
            })
        })
    }

    /// Runs a text through a node's proxy.
    ///
    /// # Errors
    /// When it fails, with what was said.
    pub fn sql(&self, id: usize, text: &str) -> anyhow::Result<String> {
        let address = self.node(id).address()?;
        said(psql(&address.ip().to_string(), address.port(), text)?)
    }

    /// The same, where standbys serve who only reads.
    ///
    /// # Errors
    /// When it fails, with what was said.
    pub fn read(&self, id: usize, text: &str) -> anyhow::Result<String> {
        let address = self.node(id).address()?;
        let mut command = psql_command(&address.ip().to_string(), address.port(), text);
        command.env("PGOPTIONS", "-c pgx.target=standby");
        said(command.output().context("cannot run psql")?)
    }

    /// Runs a text at a node's PostgreSQL itself.
    ///
    /// # Errors
    /// When it fails, with what was said.
    pub fn sql_at(&self, id: usize, text: &str) -> anyhow::Result<String> {
        said(psql(&format!("127.0.0.{id}"), self.port, text)?)
    }

    /// Where a node's PostgreSQL listens.
    #[must_use]
    pub fn server(&self, id: usize) -> (String, u16) {
        (format!("127.0.0.{id}"), self.port)
    }

    /// The postmaster of a node.
    ///
    /// # Errors
    /// When it does not run.
    pub fn postmaster(&self, id: usize) -> anyhow::Result<i32> {
        let text = std::fs::read_to_string(self.data(id).join("postmaster.pid"))?;
        Ok(text.lines().next().context("an empty postmaster.pid")?.trim().parse()?)
    }

    /// Ends a node's postmaster at once.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill_postmaster(&self, id: usize) -> anyhow::Result<()> {
        kill(Pid::from_raw(self.postmaster(id)?), Signal::SIGKILL).context("no such process")
    }

    /// A node, to end it and to start it again.
    pub fn node_mut(&mut self, id: usize) -> &mut Node {
        &mut self.nodes[id - 1]
    }

    /// Starts pgx again on a node where it was ended.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start_again(&mut self, id: usize) -> anyhow::Result<()> {
        let sections = self.cluster.sections(id);
        self.nodes[id - 1].start_again(&sections)
    }

    /// Waits until another than this one serves, in a later epoch. Gives its number.
    ///
    /// # Errors
    /// When nobody does in time.
    pub fn wait_for_another(&self, than: usize, epoch: u64) -> anyhow::Result<usize> {
        wait_for_some("another primary", WAIT_MAX, || {
            let others = (1..=self.count()).filter(|id| *id != than);
            others.filter_map(|id| control(self.node(id))).find_map(|seen| {
                let seen = &seen["epoch"];
                let serves = seen["is_established"] == true && seen["epoch"].as_u64() > Some(epoch);
                usize::try_from(seen["holder"].as_u64()?).ok().filter(|_| serves)
            })
        })
        .with_context(|| (1..=self.count()).map(|id| self.log(id)).collect::<String>())
    }

    /// Clients that write through all proxies, a little.
    ///
    /// # Errors
    /// When the tables for it cannot be made.
    pub fn load(&self) -> anyhow::Result<Checker> {
        let addresses: Result<Vec<_>, _> = self.nodes.iter().map(Node::address).collect();
        let addresses = addresses?;
        let plan = Plan { appenders: 3, rate_per_client: Some(15.0), ..Plan::new(&addresses) };
        Checker::prepare(&Place::at(addresses[0], &plan), &plan)?;
        Checker::start(plan)
    }

    /// Ends the clients, and compares what they were told with what every node has.
    ///
    /// # Errors
    /// When a commit is lost, a client hung, or a standby does not catch up.
    pub fn end(&self, load: Checker) -> anyhow::Result<Record> {
        let record = load.stop()?;
        record.check()?;
        let (primary, _) = self.primary()?;
        let end = self.sql_at(primary, "select pg_current_wal_flush_lsn()")?;
        let text = format!("select pg_is_in_recovery() and pg_last_wal_replay_lsn() >= '{end}'");
        for id in 1..=self.count() {
            if id != primary {
                wait_for("the standby has all", WAIT_MAX, || {
                    self.sql_at(id, &text).is_ok_and(|said| said == "t")
                })
                .with_context(|| self.log(id))?;
            }
            let address = format!("127.0.0.{id}:{}", self.port).parse()?;
            let place = Place::at(address, &Plan::new(&[]));
            let verdict = record.compare(&place)?;
            verdict.check().with_context(|| format!("on node {id}: {:?}", record.summary()))?;
        }
        Ok(record)
    }

    /// A session with a node's PostgreSQL itself that runs a text.
    ///
    /// # Errors
    /// When psql is missing.
    pub fn session(&self, id: usize, text: &str) -> anyhow::Result<Child> {
        let mut command = psql_command(&format!("127.0.0.{id}"), self.port, text);
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().context("cannot run psql")
    }

    /// A session through a node's proxy that runs a text.
    ///
    /// # Errors
    /// When psql is missing, or the proxy does not listen.
    pub fn session_by_proxy(&self, id: usize, text: &str) -> anyhow::Result<Child> {
        let address = self.node(id).address()?;
        let mut command = psql_command(&address.ip().to_string(), address.port(), text);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().context("cannot run psql")
    }

    /// By which name a node's directory receives: another one after it was built anew.
    ///
    /// # Errors
    /// When there is none.
    pub fn directory(&self, id: usize) -> anyhow::Result<String> {
        let text = std::fs::read_to_string(self.data(id).join("pgx.conf"))?;
        let head = text.lines().next().context("an empty pgx.conf")?;
        let json: Value = serde_json::from_str(head.trim_start_matches("# pgx: "))?;
        Ok(json["directory"].to_string())
    }

    /// Promotes a node's PostgreSQL, as somebody who does not know of pgx does.
    ///
    /// # Errors
    /// When it does not run, or is none.
    pub fn promote_by_hand(&self, id: usize) -> anyhow::Result<()> {
        self.sql_at(id, "select pg_promote(false)").map(drop)
    }

    /// The processes that work in a node's data directory.
    #[must_use]
    pub fn processes(&self, id: usize) -> Vec<i32> {
        let data = self.data(id);
        let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        let works = |pid: &i32| {
            std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|folder| folder == data)
        };
        pids.filter(works).collect()
    }

    /// What a node and its PostgreSQL have logged.
    #[must_use]
    pub fn log(&self, id: usize) -> String {
        let server = self.path(&format!("pg{id}.pgx/server.log"));
        let server = std::fs::read_to_string(server).unwrap_or_default();
        let end = server.char_indices().rev().nth(6_000).map_or(0, |(at, _)| at);
        let node = self.nodes.get(id - 1).map(Node::log).unwrap_or_default();
        format!("--- node {id}\n{node}\n--- its server\n{}\n", &server[end..])
    }
}

impl Drop for Members {
    fn drop(&mut self) {
        // First those who would start them again.
        self.nodes.clear();
        for id in 1..=self.count() {
            if let Ok(pid) = self.postmaster(id) {
                // As in a crash, with all its children.
                let _ = kill(Pid::from_raw(pid), Signal::SIGQUIT);
            }
        }
    }
}

fn text(path: &Path) -> anyhow::Result<&str> {
    path.to_str().context("a path that is not UTF-8")
}

fn psql(host: &str, port: u16, text: &str) -> anyhow::Result<Output> {
    psql_command(host, port, text).output().context("cannot run psql")
}

fn psql_command(host: &str, port: u16, text: &str) -> Command {
    let mut command = Command::new("psql");
    command
        .args(["--no-psqlrc", "--tuples-only", "--no-align", "--command", text])
        .arg(format!("host={host} port={port} user=postgres dbname=postgres connect_timeout=10"))
        .env("HOME", "/nonexistent");
    command
}

fn said(output: Output) -> anyhow::Result<String> {
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?.trim_end().to_owned())
}
