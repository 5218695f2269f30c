//! Clusters of real `pgx serve` on loopback: certificates, configurations, stores, and what an
//! operator does to make them one.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use serde_json::Value;
use tempfile::TempDir;

use crate::lab::wait_for_some;
use crate::node::Node;

/// Longer than anything a cluster does by itself; a wait that long has failed.
pub const WAIT_MAX: Duration = Duration::from_secs(30);

/// The files and addresses of one cluster; its processes are [`Node`]s.
#[derive(Debug)]
pub struct Cluster {
    binary: PathBuf,
    folder: TempDir,
    addresses: Vec<SocketAddr>,
    /// More lines of the configuration, by node.
    extra: Vec<String>,
    /// Variables in the environment, by node.
    variables: Vec<Vec<(String, String)>>,
}

impl Cluster {
    /// Certificates and addresses for nodes 1 to `count`.
    ///
    /// # Errors
    /// When `pgx init` fails.
    pub fn new(binary: &Path, count: usize) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir().context("cannot make a folder")?;
        // Bound together, so that no port is given twice, and free again for the nodes. Each node
        // has an address of its own, as its PostgreSQL has the port of all others.
        let listeners: Result<Vec<_>, _> =
            (1..=count).map(|id| TcpListener::bind(format!("127.0.0.{id}:0"))).collect();
        let addresses: Result<Vec<_>, _> = listeners?.iter().map(TcpListener::local_addr).collect();
        let (addresses, extra) = (addresses?, vec![String::new(); count]);
        let (binary, variables) = (binary.to_owned(), vec![Vec::new(); count]);
        let cluster = Self { binary, folder, addresses, extra, variables };
        cluster.authority("ca")?;
        for id in 1..=count {
            cluster.certificate("ca", id)?;
        }
        Ok(cluster)
    }

    /// A path in the cluster's folder.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Where a node keeps what it must not forget.
    #[must_use]
    pub fn data(&self, id: usize) -> PathBuf {
        self.path(&format!("data{id}"))
    }

    /// Where the others reach a node.
    #[must_use]
    pub fn address(&self, id: usize) -> String {
        self.addresses[id - 1].to_string()
    }

    /// Adds sections to a node's configuration.
    pub fn configure(&mut self, id: usize, sections: &str) {
        sections.clone_into(&mut self.extra[id - 1]);
    }

    /// Adds a variable to a node's environment.
    pub fn set_variable(&mut self, id: usize, name: &str, value: &str) {
        self.variables[id - 1].push((name.to_owned(), value.to_owned()));
    }

    /// Makes an authority in a folder of this name.
    ///
    /// # Errors
    /// When `pgx init` fails.
    pub fn authority(&self, name: &str) -> anyhow::Result<()> {
        let out = self.path(name).display().to_string();
        succeed(self.pgx(&["init", "ca", "--cluster", "main", "--out", &out])?).map(|_| ())
    }

    /// Makes a node's certificate by the authority of this name, in the place of an earlier one.
    ///
    /// # Errors
    /// When `pgx init` fails.
    pub fn certificate(&self, authority: &str, id: usize) -> anyhow::Result<()> {
        let folder = self.path(&format!("certificate{id}"));
        if folder.exists() {
            std::fs::remove_dir_all(&folder)?;
        }
        let (ca, out) = (self.path(authority).display().to_string(), folder.display().to_string());
        let (number, address) = (id.to_string(), self.address(id));
        let words = ["init", "node", "--ca", &ca, "--id", &number, "--node", "node"];
        let more = ["--address", &address, "--out", &out];
        succeed(self.pgx(&[&words[..], &more].concat())?).map(|_| ())
    }

    /// The configuration of a node that is told of nodes 1 to 3 and of itself only.
    #[must_use]
    pub fn sections(&self, id: usize) -> String {
        let file = |name: &str| self.path(&format!("certificate{id}")).join(name);
        let mut text = format!(
            "[control]\nnode = {id}\nlisten = \"{}\"\ncertificate = {:?}\nkey = {:?}\nca = {:?}\n\
             data = {:?}\n",
            self.address(id),
            file("node.pem"),
            file("node.key"),
            self.path("ca/ca.pem"),
            self.data(id),
        );
        for peer in (1..=self.addresses.len().min(3)).filter(|peer| *peer != id) {
            let address = self.address(peer);
            text.push_str(&format!("[[control.peers]]\nid = {peer}\naddress = \"{address}\"\n"));
        }
        text + &self.extra[id - 1]
    }

    /// Runs `pgx init store` for a node.
    ///
    /// # Errors
    /// When the program cannot be run; that it fails is no error.
    pub fn store(&self, id: usize, words: &[&str]) -> anyhow::Result<Output> {
        let config = self.path(&format!("pgx{id}.toml"));
        std::fs::write(&config, self.sections(id))?;
        let config = config.display().to_string();
        self.pgx(&[&["init", "store", "--config", &config][..], words].concat())
    }

    /// Founds the cluster on a node, and gives its identity.
    ///
    /// # Errors
    /// When `pgx init store` fails.
    pub fn found(&self, id: usize) -> anyhow::Result<String> {
        let said = succeed(self.store(id, &["--found"])?)?;
        let line = said.lines().find_map(|line| line.trim().strip_prefix("cluster id "));
        Ok(line.context("it printed no cluster id")?.to_owned())
    }

    /// Makes the store of a node that joins.
    ///
    /// # Errors
    /// When `pgx init store` fails.
    pub fn join(&self, id: usize, cluster: &str) -> anyhow::Result<()> {
        succeed(self.store(id, &["--join", "--cluster-id", cluster])?).map(|_| ())
    }

    /// Starts a node whose store has been made.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start(&self, id: usize) -> anyhow::Result<Node> {
        Node::start_with(&self.binary, &self.sections(id), &self.variables[id - 1])
    }

    /// Founds the cluster, joins the others up to `count`, and waits until all count.
    ///
    /// # Errors
    /// When it does not come about.
    pub fn begin(&self, count: usize) -> anyhow::Result<Vec<Node>> {
        self.found(1)?;
        let mut nodes = vec![self.start(1)?];
        ask(&nodes[0], &["node", "add", "1", &self.address(1)])?;
        self.grow(&mut nodes, count)?;
        Ok(nodes)
    }

    /// Joins the nodes that are missing up to `count`, and waits until all count.
    ///
    /// # Errors
    /// When it does not come about.
    pub fn grow(&self, nodes: &mut Vec<Node>, count: usize) -> anyhow::Result<()> {
        let seen = control(&nodes[0]).context("node 1 does not tell of its cluster")?;
        let cluster = seen["cluster"].as_str().context("it has no cluster id")?.to_owned();
        for id in nodes.len() + 1..=count {
            self.join(id, &cluster)?;
            nodes.push(self.start(id)?);
            ask(&nodes[0], &["node", "add", &id.to_string(), &self.address(id)])?;
        }
        let all: Vec<_> = (1..=count as u64).collect();
        for node in nodes {
            wait_for_voters(node, &all)?;
        }
        Ok(())
    }

    /// The program under test.
    #[must_use]
    pub fn binary(&self) -> &Path {
        &self.binary
    }

    /// How many nodes it may have.
    #[must_use]
    pub fn count(&self) -> usize {
        self.addresses.len()
    }

    fn pgx(&self, words: &[&str]) -> anyhow::Result<Output> {
        Command::new(&self.binary).args(words).output().context("cannot run pgx")
    }
}

/// What it printed, if it did what it was asked.
fn succeed(output: Output) -> anyhow::Result<String> {
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

/// Asks the cluster through a node, again while nobody coordinates.
///
/// # Errors
/// When it is refused, or nobody coordinates for long.
pub fn ask(node: &Node, words: &[&str]) -> anyhow::Result<String> {
    let output = settled(words, || node.ctl(words))?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// What comes of a command of `pgx ctl`, run again while it is refused for what passes by itself.
///
/// # Errors
/// When that lasts.
pub fn settled(
    words: &[&str],
    mut run: impl FnMut() -> anyhow::Result<Output>,
) -> anyhow::Result<Output> {
    wait_for_some(&format!("an answer to {words:?}"), WAIT_MAX, || {
        let output = run().ok()?;
        let said = String::from_utf8_lossy(&output.stderr);
        let passes = said.trim_end().ends_with("; try again");
        (!passes).then_some(output)
    })
}

/// The cluster as a node sees it.
#[must_use]
pub fn control(node: &Node) -> Option<Value> {
    node.status().ok().map(|status| status["control"].clone()).filter(|found| !found.is_null())
}

/// Waits until a node sees these voters in log and leases.
///
/// # Errors
/// When it does not in time.
pub fn wait_for_voters(node: &Node, expected: &[u64]) -> anyhow::Result<()> {
    let mut seen = Value::Null;
    let found = wait_for_some(&format!("voters {expected:?}"), WAIT_MAX, || {
        seen = control(node)?;
        let members: Vec<_> = seen["members"].as_array()?.iter().collect();
        let voters = members.iter().filter(|member| member["role"] == "voter");
        let of_log: Vec<_> = voters.filter_map(|member| member["id"].as_u64()).collect();
        (seen["voters"] == serde_json::json!(expected) && of_log == expected).then_some(())
    });
    match found {
        Ok(()) => Ok(()),
        Err(error) => bail!("{error}; it sees {seen}\n{}", node.log()),
    }
}

/// Waits until all these nodes name the same coordinator, and gives its number.
///
/// # Errors
/// When they do not in time.
pub fn wait_for_coordinator(nodes: &[&Node]) -> anyhow::Result<u64> {
    wait_for_some("a coordinator", WAIT_MAX, || {
        let seen: Option<Vec<_>> =
            nodes.iter().map(|node| control(node)?["coordinator"].as_u64()).collect();
        let seen = seen?;
        let first = *seen.first()?;
        seen.iter().all(|found| *found == first).then_some(first)
    })
}
