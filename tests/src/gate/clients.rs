//! Clients that have come in by a cluster's address, at whichever proxy, and stay.

use std::io::Write as _;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::{Child, Stdio};

use anyhow::{Context as _, ensure};

use crate::chaos::{LIMIT, sql};
use crate::lab::spec::{POSTGRES_PORT, PROXY_PORT, vip_v4, vip_v6};
use crate::lab::{Lab, wait_for};

/// That many come in at least, and more until the host of interest has some, and others too.
const SOME: usize = 8;
/// Each host has a third of the clients: so many have never all missed one.
const MANY: usize = 60;

/// Sessions of psql that do not connect again.
pub(super) struct Clients<'a> {
    lab: &'a Lab,
    /// The host of interest.
    host: String,
    all: Vec<Client>,
}

struct Client {
    psql: Child,
    /// The host whose proxy it is at.
    proxy: String,
    /// Where it says that it was answered, and what.
    answered: PathBuf,
    /// The same in its own words.
    file: String,
    has_gone_on: bool,
}

impl<'a> Clients<'a> {
    /// Some at that host, and some at others.
    pub(super) fn start(lab: &'a Lab, host: &str) -> anyhow::Result<Self> {
        let mut clients = Self { lab, host: host.to_owned(), all: Vec::new() };
        while clients.all.len() < MANY {
            let at = clients.all.iter().filter(|client| client.proxy == host).count();
            let elsewhere = clients.all.len() - at;
            if at > 0 && elsewhere > 0 && clients.all.len() >= SOME {
                return Ok(clients);
            }
            let client = Client::start(lab, clients.all.len())?;
            clients.all.push(client);
        }
        let hosts: Vec<_> = clients.all.iter().map(|client| &client.proxy).collect();
        anyhow::bail!("clients are not shared: {hosts:?}")
    }

    /// The host of interest.
    pub(super) fn host(&self) -> &str {
        &self.host
    }

    /// Each begins a transaction; nobody waits for it.
    pub(super) fn begin(&mut self) -> anyhow::Result<()> {
        self.all.iter_mut().try_for_each(|client| client.ask("begin; select 1;"))
    }

    /// These are answered, told by whether they are at the host, and end what they have begun.
    pub(super) fn go_on(&mut self, goes_on: fn(bool) -> bool) -> anyhow::Result<()> {
        for client in self.all.iter_mut().filter(|client| goes_on(client.proxy == self.host)) {
            let doing = format!("a client at {} goes on", client.proxy);
            client.wait_for_answer().with_context(|| doing.clone())?;
            client.ask("commit;")?;
            client.wait_for_answer().with_context(|| doing)?;
            client.has_gone_on = true;
        }
        Ok(())
    }

    /// Those at the host leave.
    pub(super) fn leave(&mut self) -> anyhow::Result<()> {
        for client in self.all.iter_mut().filter(|client| client.proxy == self.host) {
            client.psql.stdin.take();
            wait_for("a client leaves", LIMIT, || !matches!(client.psql.try_wait(), Ok(None)))?;
        }
        Ok(())
    }

    /// Each that was at the host has heard something; nothing stays open that nobody can reach. How
    /// many at other hosts have gone on.
    pub(super) fn end(mut self) -> anyhow::Result<usize> {
        for client in &mut self.all {
            let (psql, answered) = (&mut client.psql, &client.answered);
            wait_for("a client hears something", LIMIT, || {
                client.has_gone_on || answered.exists() || !matches!(psql.try_wait(), Ok(None))
            })?;
        }
        let others = self.all.iter().filter(|client| client.proxy != self.host);
        let went_on = others.filter(|client| client.has_gone_on).count();
        // A living client ends what it has begun; who could not be reached must have none.
        let lab = self.lab;
        self.all.clear();
        wait_for("no transaction is open for nobody", LIMIT, || {
            transactions(lab).is_ok_and(|open| open == 0)
        })?;
        Ok(went_on)
    }
}

impl Client {
    fn start(lab: &Lab, number: usize) -> anyhow::Result<Self> {
        let host = lab.host("client")?;
        let address =
            if number.is_multiple_of(2) { IpAddr::V4(vip_v4()) } else { IpAddr::V6(vip_v6()) };
        let (address, port) = (address.to_string(), PROXY_PORT.to_string());
        let words = ["psql", "-XqAt", "-h", &address, "-p", &port, "-U", "postgres", "postgres"];
        let mut command = host.command(&words)?;
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let file = format!("/run/lab/answered-{number}");
        let answered = host.file(&file);
        let mut client = Self {
            psql: command.spawn()?,
            proxy: String::new(),
            answered,
            file,
            has_gone_on: false,
        };
        client.ask("select inet_client_addr();")?;
        let from = client.wait_for_answer()?;
        let from: IpAddr = from.trim().parse().with_context(|| format!("came from {from:?}"))?;
        let mut proxies = lab.members().map(|host| host.plan());
        let proxy =
            proxies.find(|plan| [IpAddr::V4(plan.v4()), IpAddr::V6(plan.v6())].contains(&from));
        client.proxy = proxy.with_context(|| format!("{from} is no proxy's"))?.name.clone();
        Ok(client)
    }

    /// Lets it say something; its answer is in a file when it is there.
    fn ask(&mut self, text: &str) -> anyhow::Result<()> {
        let input = self.psql.stdin.as_mut().context("it has left")?;
        let file = &self.file;
        // One that has lost its session has ended.
        let _ = writeln!(input, "\\o {file}-part\n{text}\n\\o\n\\! mv {file}-part {file}");
        Ok(())
    }

    fn wait_for_answer(&mut self) -> anyhow::Result<String> {
        let (psql, answered) = (&mut self.psql, &self.answered);
        let mut ended = None;
        wait_for("an answer", LIMIT, || {
            ended = psql.try_wait().ok().flatten();
            answered.exists() || ended.is_some()
        })?;
        ensure!(answered.exists(), "it has ended: {ended:?}");
        let text = std::fs::read_to_string(answered)?;
        std::fs::remove_file(answered)?;
        Ok(text)
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // It has ended where its session has.
        let _ = self.psql.kill();
        let _ = self.psql.wait();
        let _ = std::fs::remove_file(&self.answered);
    }
}

/// How many are open on all hosts, of clients who say nothing.
fn transactions(lab: &Lab) -> anyhow::Result<usize> {
    let query = "select count(*) from pg_stat_activity where state = 'idle in transaction'";
    let of = |name: &str| -> anyhow::Result<usize> {
        Ok(sql(lab, name, POSTGRES_PORT, query)?.parse()?)
    };
    lab.data_hosts().map(|host| of(&host.plan().name)).sum()
}
