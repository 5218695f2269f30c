//! Members of a cluster: a directory each, below one folder.

use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use nix::unistd::{Gid, Uid, User, chown};
use pgx_control::agent::Local;
use pgx_control::cluster::sync::Rule;
use pgx_control::ids::{Incarnation, NodeId};
use pgx_tests::lab::{postgres as lab, wait_for, wait_for_some};
use tempfile::TempDir;

use crate::postgres::eyes::{Eyes, Found};
use crate::postgres::hands::Hands;
use crate::postgres::{Abort, Peer, Place};

/// Long enough for a loaded machine.
pub(crate) const SOON: Duration = Duration::from_secs(60);

/// What the operator has set.
const SETTINGS: &str = "\
fsync = off
shared_buffers = 16MB
max_connections = 40
max_wal_size = 64MB
min_wal_size = 32MB
log_line_prefix = '%m [%p] '
";

/// A cluster's nodes; their servers end with it.
pub(crate) struct Nodes {
    folder: TempDir,
    user: (Uid, Gid),
    pub(crate) all: Vec<Node>,
}

/// One of them.
pub(crate) struct Node {
    pub(crate) place: Place,
    eyes: Eyes,
    user: (Uid, Gid),
}

impl Nodes {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let user = User::from_name("postgres")?.context("there is no user postgres")?;
        let folder = tempfile::tempdir()?;
        chown(folder.path(), Some(user.uid), Some(user.gid))?;
        Ok(Self { folder, user: (user.uid, user.gid), all: Vec::new() })
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Another node, of which nothing is there yet.
    pub(crate) fn add(&mut self) -> anyhow::Result<usize> {
        let number = self.all.len();
        let home = self.folder().join(format!("n{number}"));
        std::fs::create_dir(&home)?;
        chown(&home, Some(self.user.0), Some(self.user.1))?;
        let place = Self::place_in(self.folder(), number, free_port()?)?;
        let eyes = Eyes::new(place.clone());
        self.all.push(Node { place, eyes, user: self.user });
        Ok(number)
    }

    /// Where a node lies in a cluster's folder.
    pub(crate) fn place_in(folder: &Path, number: usize, port: u16) -> anyhow::Result<Place> {
        let user = User::from_name("postgres")?.context("there is no user postgres")?;
        let data = folder.join(format!("n{number}/data"));
        Ok(Place {
            config_file: data.join("postgresql.conf"),
            data,
            programs: lab::find_programs(None)?,
            sockets: folder.join(format!("n{number}/s")),
            port,
            listen: Some("127.0.0.1".to_owned()),
            owner: user.uid.as_raw(),
            user: "postgres".to_owned(),
            database: "postgres".to_owned(),
            replication_user: "pgx replication's".to_owned(),
            replication_password_file: folder.join("password"),
            sslmode: "disable".to_owned(),
            slot_keep_mb: 256,
            clone_command: Vec::new(),
            node: NodeId(number as u64),
        })
    }

    /// A founded cluster of one node, which runs as primary.
    pub(crate) fn founded() -> anyhow::Result<Self> {
        let mut nodes = Self::new()?;
        nodes.add()?;
        let node = &nodes.all[0];
        node.found()?;
        node.hands().start_founder()?;
        node.wait_ready()?;
        node.hands().keep_slots(&[(NodeId(1), None), (NodeId(2), None)])?;
        Ok(nodes)
    }

    /// A primary with so many standbys that stream.
    pub(crate) fn streaming(count: usize) -> anyhow::Result<Self> {
        let mut nodes = Self::founded()?;
        for _ in 0..count {
            let number = nodes.add()?;
            let peer = nodes.all[0].peer();
            let node = &mut nodes.all[number];
            node.hands().rebuild(&peer, incarnation(number), &mut |_| {})?;
            node.hands().start_standby()?;
            node.wait_local("a standby that streams", |local| local.is_streaming)?;
        }
        Ok(nodes)
    }

    /// The rule that names all other nodes.
    pub(crate) fn rule(&self, k: usize, of: &[usize]) -> Rule {
        Rule { k, members: of.iter().map(|number| incarnation(*number)).collect() }
    }
}

/// The directory that was found, by the name under which it receives.
pub(crate) fn directory(found: &Found) -> Option<Incarnation> {
    found.managed.as_ref().map(|managed| managed.directory)
}

impl Drop for Nodes {
    fn drop(&mut self) {
        if std::thread::panicking() || std::env::var_os("PGX_TEST_LOGS").is_some() {
            for node in &self.all {
                eprintln!("{}", std::fs::read_to_string(node.place.log()).unwrap_or_default());
            }
        }
        for node in &self.all {
            // What has ended already is no trouble.
            let _ = node.hands().kill();
        }
    }
}

impl Node {
    pub(crate) fn hands(&self) -> Hands {
        Hands::new(self.place.clone(), Abort::default())
    }

    pub(crate) fn peer(&self) -> Peer {
        Peer { node: self.place.node, host: "127.0.0.1".to_owned(), port: self.place.port }
    }

    /// Runs one of PostgreSQL's programs as its user.
    pub(crate) fn program(&self, name: &str, words: &[&str]) -> anyhow::Result<()> {
        let mut command = Command::new(self.place.programs.join(name));
        command.args(words).args(["-U", "postgres"]).current_dir("/");
        command.uid(self.user.0.as_raw()).gid(self.user.1.as_raw());
        let output = command.output()?;
        anyhow::ensure!(output.status.success(), "{name}: {output:?}");
        Ok(())
    }

    pub(crate) fn found(&self) -> anyhow::Result<()> {
        let words = ["--no-sync", "--encoding=UTF8", "--locale=C.UTF-8"].map(str::to_owned);
        let number = usize::try_from(self.place.node.0)?;
        self.hands().found(incarnation(number), &words)?;
        let known = std::fs::read_to_string(&self.place.config_file)?;
        std::fs::write(&self.place.config_file, format!("{SETTINGS}{known}{SETTINGS}"))?;
        Ok(())
    }

    pub(crate) fn look(&mut self) -> anyhow::Result<Found> {
        Ok(self.eyes.look()?)
    }

    /// Whether its directory is half made, or not begun.
    pub(crate) fn is_half(&self) -> bool {
        let is_whole = Eyes::new(self.place.clone()).look().is_ok_and(|found| found.half.is_none());
        !is_whole
    }

    /// A pgx that starts anew remembers nothing.
    pub(crate) fn forget(&mut self) {
        self.eyes = Eyes::new(self.place.clone());
    }

    /// Waits until it stands so.
    pub(crate) fn wait_local(
        &mut self,
        what: &str,
        test: impl Fn(&Local) -> bool,
    ) -> anyhow::Result<Local> {
        let mut last = None;
        let waited = wait_for_some(what, SOON, || {
            last = Some(self.eyes.look());
            let found = last.as_ref()?.as_ref().ok()?;
            test(&found.local).then(|| found.local.clone())
        });
        let log = || std::fs::read_to_string(self.place.log()).unwrap_or_default();
        waited.with_context(|| format!("last seen {last:?}\n{}", log()))
    }

    pub(crate) fn wait_ready(&self) -> anyhow::Result<()> {
        wait_for("a server that answers", SOON, || self.sql("select 1").is_ok())
    }

    /// Asks as an operator would, for ten seconds at most.
    pub(crate) fn sql(&self, query: &str) -> anyhow::Result<String> {
        let mut command = self.command("10");
        let output = command.args(["-c", query]).output()?;
        if !output.status.success() {
            bail!("{query}: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    }

    /// A session that does this and then stays, until it is killed.
    pub(crate) fn psql(&self, query: &str) -> anyhow::Result<Child> {
        let mut command = self.command("600");
        command.args(["-c", query, "-c", "select pg_sleep(600)"]);
        Ok(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?)
    }

    fn command(&self, limit: &str) -> Command {
        let mut command = Command::new("timeout");
        command.arg(limit).arg(self.place.programs.join("psql"));
        command.args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-d", "postgres"]);
        command.arg("-h").arg(&self.place.sockets).args(["-p", &self.place.port.to_string()]);
        command.uid(self.user.0.as_raw()).gid(self.user.1.as_raw()).current_dir("/");
        command
    }

    pub(crate) fn wait_sql(&self, query: &str, answer: &str) -> anyhow::Result<()> {
        wait_for(&format!("{query} to say {answer}"), SOON, || {
            self.sql(query).is_ok_and(|said| said == answer)
        })
        .with_context(|| format!("it says {:?}", self.sql(query)))
    }

    pub(crate) fn postmaster(&self) -> anyhow::Result<i32> {
        let found = crate::postgres::postmaster::find(&self.place.data);
        Ok(found.context("it does not run")?.pid)
    }

    /// All processes that work in its directory.
    pub(crate) fn processes(&self) -> Vec<i32> {
        crate::postgres::process::of(&[&self.place.data])
    }
}

/// The name of a node's first directory.
pub(crate) fn incarnation(number: usize) -> Incarnation {
    Incarnation(0xfeed_0000_0000_0000_0000_0000_0000_0000 + number as u128)
}

fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
