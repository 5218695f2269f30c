//! PostgreSQL that pgx runs: what an operator does to make the data hosts one cluster, and how the
//! cluster is then.
//!
//! Node numbers are those of the hosts: node 1 is `n1`. `docs/OPERATING.md` has the same steps.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use serde_json::Value;

use super::host::{Host, POSTGRES};
use super::postgres::{PGDATA, SOCKET_DIR};
use super::run::run;
use super::spec::{
    APP, Kind, METRICS_PORT, POSTGRES_PORT, PROXY_PORT, READERS_HOST, readers_v4, readers_v6,
    vip_v4, vip_v6,
};
use super::wait::{wait_for, wait_for_some};
use super::{Lab, pgx};

/// Where nodes reach one another.
const CONTROL_PORT: u16 = 6433;
/// What a node must not forget, on the host's disk.
const STORE: &str = "/var/lib/pgx/control";
/// The password of the role by which members receive from one another.
const PASSWORD: &str = "/var/lib/pgx/replication.password";
/// Longer than anything a cluster does by itself, on a busy machine.
const CALM: Duration = Duration::from_secs(90);
/// A pgx that runs answers at once; one that is frozen never does.
const ANSWER: Duration = Duration::from_secs(2);
/// Little memory and little log, as all hosts are on one machine and their disks are small.
const SETTINGS: &str = "shared_buffers = 16MB\nmax_connections = 100\nmin_wal_size = 32MB\n\
    max_wal_size = 128MB\nlog_line_prefix = '%m [%p] '\n";

/// What the quorum has agreed on, as some node sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Epoch {
    /// Its number.
    pub number: u64,
    /// The node whose PostgreSQL is the primary.
    pub holder: u8,
}

impl Epoch {
    /// The host of the primary.
    #[must_use]
    pub fn host(self) -> String {
        format!("n{}", self.holder)
    }
}

impl Lab {
    /// The cluster as pgx in a host sees it, asked from outside without starting a program.
    ///
    /// # Errors
    /// When it does not answer in time, or has no cluster.
    pub fn control(&self, host: &str) -> anyhow::Result<Value> {
        let control = self.pgx_status(host)?["control"].clone();
        ensure!(!control.is_null(), "pgx in {host} is of no cluster");
        Ok(control)
    }

    /// All that pgx in a host says of itself.
    ///
    /// # Errors
    /// When it does not answer in time.
    pub fn pgx_status(&self, host: &str) -> anyhow::Result<Value> {
        let mut stream = UnixStream::connect(self.host(host)?.file(pgx::ADMIN_SOCKET))?;
        stream.set_read_timeout(Some(ANSWER))?;
        stream.write_all(b"{\"version\":1,\"verb\":\"status\"}\n")?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line)?;
        let reply: Value = serde_json::from_str(&line).context("not JSON")?;
        Ok(reply["status"].clone())
    }

    /// Asks the cluster through pgx in a host, again while nobody coordinates.
    ///
    /// # Errors
    /// When it is refused, or nobody coordinates for long.
    pub fn ask(&self, host: &str, words: &[&str]) -> anyhow::Result<()> {
        wait_for_some(&format!("an answer to {words:?}"), CALM, || {
            let done = self.ask_once(host, words);
            let said = done.as_ref().err().map(|error| format!("{error:#}")).unwrap_or_default();
            let is_passing = said.contains("no majority") || said.contains("try again");
            (!is_passing).then_some(done)
        })?
    }

    /// The same once, whatever comes of it.
    ///
    /// # Errors
    /// When it is refused, with what was said.
    pub fn ask_once(&self, host: &str, words: &[&str]) -> anyhow::Result<()> {
        let program = program(self)?;
        let all = [&[&*program, "ctl", "--socket", pgx::ADMIN_SOCKET][..], words].concat();
        self.host(host)?.output(None, &all).map(drop)
    }

    /// The epoch as pgx in a host sees it.
    ///
    /// # Errors
    /// When it does not answer, or there was none yet.
    pub fn epoch(&self, host: &str) -> anyhow::Result<Epoch> {
        let epoch = self.control(host)?["epoch"].clone();
        let number = epoch["epoch"].as_u64().context("there was no epoch yet")?;
        let holder = epoch["holder"].as_u64().context("its epoch has no holder")?;
        Ok(Epoch { number, holder: u8::try_from(holder)? })
    }

    /// Waits until an epoch serves, of this number at least, in which every data host's PostgreSQL
    /// takes part and commits wait for a standby; all nodes must see it.
    ///
    /// # Errors
    /// When it does not come about in time; with what the nodes say.
    pub fn wait_for_calm(&self, least: u64) -> anyhow::Result<Epoch> {
        let hosts: Vec<_> = self.data_hosts().map(|host| host.plan().name.clone()).collect();
        let mut seen = Vec::new();
        let waited = wait_for("the cluster is calm", CALM, || {
            seen = hosts.iter().map(|host| self.control(host)).collect();
            let all = || seen.iter().filter_map(|one| one.as_ref().ok());
            all().count() == hosts.len() && all().all(|one| is_calm(one, least, hosts.len()))
        });
        if let Err(error) = waited {
            let told = |one: &anyhow::Result<Value>| match one {
                Ok(one) => format!("{} {} {}", one["epoch"], one["agent"], one["waits"]),
                Err(error) => format!("{error:#}"),
            };
            bail!("{error}: {:#?}", seen.iter().map(told).collect::<Vec<_>>());
        }
        self.epoch(&hosts[0])
    }
}

fn is_calm(seen: &Value, least: u64, nodes: usize) -> bool {
    let epoch = &seen["epoch"];
    epoch["epoch"].as_u64() >= Some(least)
        && epoch["is_established"] == true
        && epoch["sealed"].is_null()
        && epoch["handover"].is_null()
        && epoch["sync_candidates"].as_array().is_some_and(|all| all.len() + 1 == nodes)
}

/// Makes the hosts one cluster, with the first as the primary, and waits until it is calm.
pub(super) fn make(
    lab: &Lab,
    programs: &Path,
    password: &str,
    watch: &mut dyn FnMut(&str),
) -> anyhow::Result<()> {
    watch("making certificates");
    let folder = lab.state_dir().join("certificates");
    let hosts: Vec<_> = lab.members().collect();
    let (first, others) = hosts.split_first().context("a lab has at least one data host")?;
    certify(lab, &hosts, &folder)?;
    for host in &hosts {
        configure(lab, host, programs)?;
    }
    watch("founding the cluster");
    let cluster = found(lab, first)?;
    watch("joining the others");
    for host in others {
        if is_data(host) {
            std::fs::copy(first.file(PASSWORD), host.file(PASSWORD))?;
        }
        init(lab, host, &["store", "--join", "--cluster-id", &cluster])?;
        lab.start_pgx(&host.plan().name)?;
        let (id, address) = (node(host).to_string(), address(host));
        let words = ["node", "add", &id, &address, "--learner"];
        lab.ask("n1", if is_data(host) { &words[..4] } else { &words })?;
    }
    lab.wait_for_calm(1)?;
    let sql = [
        format!("create role {APP} login password '{password}'"),
        format!("create database {APP} owner {APP}"),
    ];
    for statement in sql {
        super::postgres::admin_sql(first, &statement)?;
    }
    Ok(())
}

fn found(lab: &Lab, first: &Host) -> anyhow::Result<String> {
    let said = init(lab, first, &["store", "--found"])?;
    let cluster = said.lines().find_map(|line| line.trim().strip_prefix("cluster id "));
    let cluster = cluster.context("it printed no cluster id")?.to_owned();
    lab.start_pgx("n1")?;
    lab.ask("n1", &["node", "add", "1", &address(first)])?;
    begin(lab, first)?;
    Ok(cluster)
}

fn begin(lab: &Lab, first: &Host) -> anyhow::Result<()> {
    init(lab, first, &["postgres", "--initdb", "--auth=trust"])?;
    let data = first.file(PGDATA);
    let edit = |name: &str, text: &dyn Fn(String) -> String| -> anyhow::Result<()> {
        let path = data.join(name);
        let old = std::fs::read_to_string(&path)?;
        Ok(std::fs::write(path, text(old))?)
    };
    edit("postgresql.conf", &|old| format!("{SETTINGS}{old}"))?;
    let trusted = "host all all 10.77.0.0/24 trust\nhost all all fd77::/64 trust\n";
    edit("pg_hba.conf", &|old| format!("{old}{trusted}"))?;
    wait_for("the agent tells of its directory", CALM, || {
        lab.control("n1").is_ok_and(|seen| seen["agent"]["postgres"] == "stopped")
    })?;
    wait_for("the cluster begins", CALM, || lab.ask("n1", &["bootstrap", "--node", "1"]).is_ok())
}

fn init(lab: &Lab, host: &Host, words: &[&str]) -> anyhow::Result<String> {
    let program = program(lab)?;
    let (name, more) = words.split_first().context("init takes words")?;
    let all = [&[&*program, "init", *name, "--config", pgx::CONFIG][..], more].concat();
    host.output(None, &all)
}

/// Makes an authority and a certificate for each host, on the machine, and copies the latter there.
fn certify(lab: &Lab, hosts: &[&Host], folder: &Path) -> anyhow::Result<()> {
    let program = program(lab)?;
    let path = |name: &str| -> PathBuf { folder.join(name) };
    std::fs::create_dir_all(folder)?;
    run(Command::new(&program).args(["init", "ca", "--cluster", "lab", "--out"]).arg(path("ca")))?;
    for host in hosts {
        let own = path(&host.plan().name);
        let mut command = Command::new(&program);
        command.args(["init", "node", "--node", "node", "--address", &address(host)]);
        command.args(["--id", &node(host).to_string(), "--ca"]).arg(path("ca"));
        run(command.arg("--out").arg(&own))?;
        for file in [own.join("node.pem"), own.join("node.key"), path("ca").join("ca.pem")] {
            let name = file.file_name().context("it has a name")?;
            std::fs::copy(&file, host.file("/run/pgx").join(name))
                .with_context(|| format!("cannot copy {}", file.display()))?;
        }
    }
    Ok(())
}

fn configure(lab: &Lab, host: &Host, programs: &Path) -> anyhow::Result<()> {
    let mut text = format!(
        "[admin]\nsocket = {:?}\n\
         [control]\nnode = {}\nlisten = {:?}\ndata = {STORE:?}\n\
         certificate = \"/run/pgx/node.pem\"\nkey = \"/run/pgx/node.key\"\n\
         ca = \"/run/pgx/ca.pem\"\n",
        pgx::ADMIN_SOCKET,
        node(host),
        address(host),
    );
    for other in lab.members().filter(|other| other.plan() != host.plan()) {
        let (id, address) = (node(other), address(other));
        text += &format!("[[control.peers]]\nid = {id}\naddress = {address:?}\n");
    }
    if is_data(host) {
        text += &format!(
            "[postgres]\ndata_directory = {PGDATA:?}\nbin_directory = {programs:?}\n\
             port = {POSTGRES_PORT}\nsystem_user = {POSTGRES:?}\n\
             socket_directory = {SOCKET_DIR:?}\nreplication_password_file = {PASSWORD:?}\n\
             wal_keep_mb = 256\n",
        );
    }
    if lab.spec().kernel {
        text += &format!(
            "[fence]\n[vip]\ninterface = \"eth0\"\n[[vip.leases]]\nid = 1\nrole = \"read-write\"\n\
             addresses = [\"{}\", \"{}\"]\n[[vip.leases]]\nid = 2\nrole = \"read-only\"\n\
             addresses = [\"{}\", \"{}\"]\npriority = {}\n",
            vip_v4(),
            vip_v6(),
            readers_v4(),
            readers_v6(),
            u8::from(host.plan().name == READERS_HOST),
        );
    }
    text += &format!(
        "[proxy]\nlisten = [\"0.0.0.0:{PROXY_PORT}\", \"[::]:{PROXY_PORT}\"]\n\
         pool_mode = \"transaction\"\nauth_type = \"trust\"\nthreads = 1\n\
         cluster_port = {POSTGRES_PORT}\ndrain_timeout = 10\n\
         [metrics]\nlisten = \"0.0.0.0:{METRICS_PORT}\"\n",
    );
    std::fs::write(host.file(pgx::CONFIG), text)
        .with_context(|| format!("cannot write {} in {}", pgx::CONFIG, host.plan().name))
}

fn program(lab: &Lab) -> anyhow::Result<String> {
    let path = lab.spec().pgx.as_ref().context("this lab came up without pgx")?;
    Ok(path.to_str().context("the path of pgx is not UTF-8")?.to_owned())
}

fn is_data(host: &Host) -> bool {
    host.plan().kind == Kind::Data
}

/// The number of a host's node.
fn node(host: &Host) -> u8 {
    host.plan().number - 10
}

fn address(host: &Host) -> String {
    format!("{}:{CONTROL_PORT}", host.plan().v4())
}
