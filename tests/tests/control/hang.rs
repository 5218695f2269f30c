//! A PostgreSQL that runs and does not work, and one that works and says no: the first is replaced
//! within the cluster's `hung_ms_max`, the second never.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use libtest_mimic::Trial;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User, chown};
use pgx_tests::cluster::{Cluster, WAIT_MAX, ask, control};
use pgx_tests::database::Database;
use pgx_tests::lab::{build, wait_for, wait_for_some};
use pgx_tests::node::Node;
use pgx_tests::skip::{self, Requirement};
use serde_json::Value;
use tokio::runtime::Runtime;
use tokio_postgres::{Client, Config, NoTls};

use crate::cluster;
use crate::disk::Disk;
use crate::postgres::begin;

/// What counts as hung in these tests.
const HUNG_MS: u64 = 2_000;
const HUNG: Duration = Duration::from_millis(HUNG_MS);

/// From the moment at which it counts as hung until the seal is seen, on a busy machine.
const SEAL_MAX: Duration = Duration::from_secs(3);

pub(crate) fn trials() -> Vec<Trial> {
    type Test = fn() -> anyhow::Result<()>;
    let tests: [(&str, Test); 7] = [
        ("frozen_postmaster_counts_as_hung", frozen_postmaster_counts_as_hung),
        (
            "frozen_session_alone_is_replaced_and_when_no_new_one_comes_it_counts_as_hung",
            frozen_session_alone_is_replaced_and_when_no_new_one_comes_it_counts_as_hung,
        ),
        ("disk_that_takes_no_write_counts_as_hung", disk_that_takes_no_write_counts_as_hung),
        (
            "disk_of_the_log_is_probed_where_it_is_another",
            disk_of_the_log_is_probed_where_it_is_another,
        ),
        (
            "server_without_a_free_connection_is_not_hung",
            server_without_a_free_connection_is_not_hung,
        ),
        (
            "server_that_refuses_the_password_is_not_hung",
            server_that_refuses_the_password_is_not_hung,
        ),
        ("owner_of_the_directory_is_let_in_as_peer", owner_of_the_directory_is_let_in_as_peer),
    ];
    let trial = |(name, test)| skip::trial(name, &[Requirement::Root], test);
    tests.into_iter().map(trial).collect()
}

/// A stopped process that goes on when the value is dropped.
struct Frozen(Pid);

impl Frozen {
    fn new(pid: i32) -> anyhow::Result<Self> {
        let pid = Pid::from_raw(pid);
        kill(pid, Signal::SIGSTOP).context("cannot stop it")?;
        Ok(Self(pid))
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        // It may have been killed meanwhile.
        let _ = kill(self.0, Signal::SIGCONT);
    }
}

/// Sessions of a superuser, held open.
struct Sessions<'a> {
    runtime: Runtime,
    database: &'a Database,
    clients: Vec<Client>,
}

impl<'a> Sessions<'a> {
    fn new(database: &'a Database) -> anyhow::Result<Self> {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let mut sessions = Self { runtime, database, clients: Vec::new() };
        sessions.open()?;
        Ok(sessions)
    }

    fn open(&mut self) -> anyhow::Result<()> {
        let mut config = Config::new();
        config.host_path(self.database.socket_folder()).user("postgres").dbname("postgres");
        let (client, connection) = self.runtime.block_on(config.connect(NoTls))?;
        self.runtime.spawn(connection);
        self.clients.push(client);
        Ok(())
    }

    fn run(&self, query: &str) -> anyhow::Result<()> {
        let client = self.clients.first().context("no session")?;
        Ok(self.runtime.block_on(client.batch_execute(query))?)
    }

    /// The processes that serve pgx.
    fn probes(&self) -> anyhow::Result<Vec<i32>> {
        const OF_PGX: &str = "SELECT pid FROM pg_stat_activity WHERE application_name='pgx probe'";
        let client = self.clients.first().context("no session")?;
        let rows = self.runtime.block_on(client.query(OF_PGX, &[]))?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }
}

/// A cluster that takes PostgreSQL for hung soon.
fn begin_impatient(cluster: &Cluster) -> anyhow::Result<Vec<Node>> {
    let nodes = begin(cluster)?;
    let setting = format!("policy.hung_ms_max={HUNG_MS}");
    ask(&nodes[0], &["edit-config", "--set", &setting])?;
    wait_for("node 1 has the setting", WAIT_MAX, || {
        control(&nodes[0]).is_some_and(|seen| seen["settings"]["policy"]["hung_ms_max"] == HUNG_MS)
    })?;
    Ok(nodes)
}

fn probe<'a>(seen: &'a Value, asks: &str) -> &'a Value {
    let probes = seen["agent"]["probes"].as_array();
    let found = probes.into_iter().flatten().find(|probe| probe["asks"] == asks);
    found.unwrap_or(&Value::Null)
}

fn answers(node: &Node, asks: &str) -> bool {
    let recent = |ms: u64| ms < HUNG_MS;
    control(node)
        .is_some_and(|seen| probe(&seen, asks)["unanswered_ms"].as_u64().is_some_and(recent))
}

fn is_sealed(node: &Node) -> bool {
    control(node).is_some_and(|seen| seen["epoch"]["sealed"] == 1)
}

/// Waits for the seal, and for this cause in log and status of node 1.
fn wait_for_seal(nodes: &[Node], since: Instant, asks: &str, cause: &str) -> anyhow::Result<()> {
    wait_for("the epoch is sealed", HUNG + SEAL_MAX, || is_sealed(&nodes[1]))
        .with_context(|| nodes[0].log())?;
    let took = since.elapsed();
    ensure!(took > HUNG / 2, "sealed after {took:?}, before it could be known");
    println!("sealed after {} ms", took.as_millis());
    let log = nodes[0].log();
    ensure!(log.contains(cause) && log.contains("it counts as hung"), "{log}");
    let seen = control(&nodes[0]).context("no status")?;
    let silent = probe(&seen, asks)["unanswered_ms"].as_u64();
    ensure!(silent >= Some(HUNG_MS), "{asks}: {seen}");
    Ok(())
}

/// Waits longer than any hang would need to be sealed.
fn never_sealed(nodes: &[Node]) -> anyhow::Result<()> {
    let start = Instant::now();
    let mut was_sealed = false;
    wait_for("twice the time of a hang", WAIT_MAX, || {
        was_sealed |= is_sealed(&nodes[1]);
        was_sealed || start.elapsed() > HUNG * 2
    })?;
    if was_sealed {
        bail!("sealed: {}", nodes[0].log());
    }
    Ok(())
}

fn frozen_postmaster_counts_as_hung() -> anyhow::Result<()> {
    let mut cluster = cluster(3);
    let database = Database::start()?;
    cluster.configure(1, &database.section());
    let nodes = begin_impatient(&cluster)?;
    wait_for("a query is answered", WAIT_MAX, || answers(&nodes[0], "query"))?;
    let since = Instant::now();
    let _frozen = Frozen::new(database.postmaster()?)?;
    wait_for_seal(&nodes, since, "connection", "PostgreSQL has not answered a new connection")?;
    ensure!(answers(&nodes[0], "query"), "the session that was there answers: {}", nodes[0].log());
    Ok(())
}

fn frozen_session_alone_is_replaced_and_when_no_new_one_comes_it_counts_as_hung()
-> anyhow::Result<()> {
    let mut cluster = cluster(3);
    let database = Database::start()?;
    cluster.configure(1, &database.section());
    let nodes = begin_impatient(&cluster)?;
    let sessions = Sessions::new(&database)?;
    let first = wait_for_some("the probe's session", WAIT_MAX, || {
        sessions.probes().ok()?.first().copied()
    })?;
    let _first = Frozen::new(first)?;
    let second = wait_for_some("another session", WAIT_MAX, || {
        sessions.probes().ok()?.into_iter().find(|pid| *pid != first)
    })?;
    never_sealed(&nodes)?;

    // Who logs in from now on gets no further, while connections are still accepted.
    sessions.run("ALTER SYSTEM SET post_auth_delay = '60s'")?;
    sessions.run("SELECT pg_reload_conf()")?;
    wait_for("the delay is in force", WAIT_MAX, || {
        // A reload reaches the postmaster and idle sessions in no order.
        let mut config = Config::new();
        config.host_path(database.socket_folder()).user("postgres").dbname("postgres");
        let login = async {
            tokio::time::timeout(Duration::from_millis(500), config.connect(NoTls)).await.is_err()
        };
        sessions.runtime.block_on(login)
    })?;
    let since = Instant::now();
    let _second = Frozen::new(second)?;
    wait_for_seal(&nodes, since, "query", "PostgreSQL has not answered a query")?;
    ensure!(answers(&nodes[0], "connection"), "{}", nodes[0].log());
    Ok(())
}

fn disk_that_takes_no_write_counts_as_hung() -> anyhow::Result<()> {
    let mut cluster = cluster(3);
    let database = Database::start()?;
    cluster.configure(1, &database.section());
    let delay = cluster.path("delay");
    slow(&mut cluster, &delay, &database.data())?;
    let nodes = begin_impatient(&cluster)?;

    // Slow is not hung.
    std::fs::write(&delay, (HUNG / 4).as_millis().to_string())?;
    never_sealed(&nodes)?;
    let since = Instant::now();
    std::fs::write(&delay, "3600000")?;
    wait_for_seal(&nodes, since, "data disk", "the data directory's disk has taken no write")?;
    ensure!(answers(&nodes[0], "query"), "{}", nodes[0].log());
    std::fs::remove_file(&delay)?;
    wait_for("the disk answers again", WAIT_MAX, || answers(&nodes[0], "data disk"))
}

fn disk_of_the_log_is_probed_where_it_is_another() -> anyhow::Result<()> {
    let mut cluster = cluster(3);
    // Below a folder that everybody may enter.
    let folder = tempfile::Builder::new().permissions(Permissions::from_mode(0o755)).tempdir()?;
    let wal = folder.path().join("wal");
    let _disk = Disk::new(&wal, "128m")?;
    let postgres = User::from_name("postgres")?.context("there is no user postgres")?;
    chown(&wal, Some(postgres.uid), Some(postgres.gid))?;
    let waldir = format!("--waldir={}", wal.display());
    let database = Database::start_with(&["--auth=trust", &waldir], "")?;
    cluster.configure(1, &database.section());
    let delay = cluster.path("delay");
    slow(&mut cluster, &delay, &wal)?;
    let nodes = begin_impatient(&cluster)?;
    wait_for("it is asked", WAIT_MAX, || answers(&nodes[0], "wal disk"))?;
    let since = Instant::now();
    std::fs::write(&delay, "3600000")?;
    wait_for_seal(&nodes, since, "wal disk", "the disk of pg_wal has taken no write")?;
    ensure!(answers(&nodes[0], "data disk"), "{}", nodes[0].log());
    Ok(())
}

/// Lets node 1 wait for files below this folder as long as the file `delay` says.
fn slow(cluster: &mut Cluster, delay: &Path, only: &Path) -> anyhow::Result<()> {
    cluster.set_variable(1, "LD_PRELOAD", &build::shim()?.display().to_string());
    cluster.set_variable(1, "PGX_LAB_FSYNC_DELAY", &delay.display().to_string());
    cluster.set_variable(1, "PGX_LAB_FSYNC_ONLY", &only.display().to_string());
    Ok(())
}

fn server_without_a_free_connection_is_not_hung() -> anyhow::Result<()> {
    let mut cluster = cluster(3);
    let settings = "-c max_connections=4 -c superuser_reserved_connections=1 -c max_wal_senders=0";
    let database = Database::start_with(&["--auth=trust"], settings)?;
    cluster.configure(1, &database.section());
    let nodes = begin_impatient(&cluster)?;
    let mut sessions = Sessions::new(&database)?;
    wait_for("all connections are taken, the probe's too", WAIT_MAX, || {
        while sessions.open().is_ok() {}
        for pid in sessions.probes().unwrap_or_default() {
            sessions.run(&format!("SELECT pg_terminate_backend({pid}, 100)")).ok();
            sessions.open().ok();
        }
        control(&nodes[0]).is_some_and(|seen| {
            let query = probe(&seen, "query");
            query["detail"].as_str().is_some_and(|detail| detail.contains("53300"))
                && query["unanswered_ms"].is_null()
        })
    })
    .with_context(|| nodes[0].log())?;
    never_sealed(&nodes)?;
    ensure!(answers(&nodes[0], "connection"), "{}", nodes[0].log());
    drop(sessions);
    wait_for("queries are asked again", WAIT_MAX, || answers(&nodes[0], "query"))
}

fn server_that_refuses_the_password_is_not_hung() -> anyhow::Result<()> {
    let mut cluster = cluster(3);
    let given = cluster.path("given");
    std::fs::write(&given, "wrong\n")?;
    // The folder is root's; PostgreSQL's own user must read this one.
    let shown = tempfile::Builder::new().suffix(".pw").tempfile()?;
    std::fs::write(shown.path(), "right\n")?;
    let postgres = User::from_name("postgres")?.context("there is no user postgres")?;
    chown(shown.path(), Some(postgres.uid), None)?;
    let pwfile = format!("--pwfile={}", shown.path().display());
    let database = Database::start_with(&["--auth=scram-sha-256", &pwfile], "")?;
    cluster.configure(1, &format!("{}password_file = {given:?}\n", database.section()));
    let nodes = begin_impatient(&cluster)?;
    wait_for("the refusal is told", WAIT_MAX, || {
        control(&nodes[0]).is_some_and(|seen| {
            probe(&seen, "query")["detail"].as_str().is_some_and(|text| text.contains("28P01"))
        })
    })
    .with_context(|| nodes[0].log())?;
    ensure!(nodes[0].log().contains("query is not probed"), "{}", nodes[0].log());
    never_sealed(&nodes)?;
    std::fs::write(&given, "right\n")?;
    wait_for("queries are asked", WAIT_MAX, || answers(&nodes[0], "query"))
}

fn owner_of_the_directory_is_let_in_as_peer() -> anyhow::Result<()> {
    let mut cluster = cluster(3);
    let database = Database::start_with(&["--auth=peer"], "")?;
    cluster.configure(1, &database.section());
    let nodes = begin(&cluster)?;
    for asks in ["connection", "query", "data disk"] {
        wait_for(asks, WAIT_MAX, || answers(&nodes[0], asks)).with_context(|| nodes[0].log())?;
    }
    Ok(())
}
