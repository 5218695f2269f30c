//! A cluster in a lab whose hosts fail while clients write through all its proxies.
//!
//! [`Chaos`] has the lab, [`Trial`] the clients of one run, [`Outcome`] what came of it. `scenario`
//! draws sequences of faults from a seed, and `sequence` carries one out.

mod scenario;
mod sequence;
mod shared;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};

use crate::checker::{Checker, Place, Plan, Record, Verdict};
use crate::lab::spec::{POSTGRES_PORT, PROXY_PORT};
use crate::lab::{Epoch, Lab, Spec, wait_for, wait_for_some};

pub use scenario::{Kind, Role, Start, Step, draw};
pub use sequence::Run;
pub use shared::Shared;

/// How long anything may take on a busy machine.
pub const LIMIT: Duration = Duration::from_secs(60);
/// That many commits more show that an address serves.
const SOME: usize = 20;
/// Longer than any fault of a sequence lasts, and what comes after it: who waits for a proxy that
/// is paused has his answer by then.
const ANSWER_MAX: Duration = Duration::from_secs(45);

/// A cluster of three data hosts and a proxy host. It goes down with this value.
#[derive(Debug)]
pub struct Chaos {
    lab: Lab,
    stays: bool,
}

/// Clients at work.
pub struct Trial<'a> {
    lab: &'a Lab,
    plan: Plan,
    /// The clients.
    pub checker: Checker,
    /// Who was the primary before anything failed.
    pub before: Epoch,
}

/// What came of a trial.
#[derive(Debug)]
pub struct Outcome {
    /// What clients saw.
    pub record: Record,
    /// Who is the primary after all.
    pub after: Epoch,
    /// What is in the database of each data host.
    pub verdicts: BTreeMap<String, Verdict>,
}

impl Chaos {
    /// Brings the lab up, and takes down first what a run that was killed left of it. With
    /// `kernel`, PostgreSQL's ports are shut by the kernel unless leases open them, and the VIP is
    /// answered for under one.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn up(name: &str, pgx: &Path, kernel: bool) -> anyhow::Result<Self> {
        Self::up_with(name, pgx, kernel, None)
    }

    /// As [`Self::up`], with this library that slows what pgx writes, if any.
    ///
    /// # Errors
    /// As there.
    pub fn up_with(
        name: &str,
        pgx: &Path,
        kernel: bool,
        shim: Option<PathBuf>,
    ) -> anyhow::Result<Self> {
        Lab::down(name)?;
        // Each change of primary keeps a segment, until that much was written.
        let spec = Spec { disk_mb: 8192, proxies: 1, pgx: Some(pgx.into()), ..Spec::new(name) };
        let lab = Lab::up(&Spec { control: true, kernel, plain_vip: !kernel, shim, ..spec })?;
        Ok(Self::of(lab))
    }

    /// A lab that is up, whose PostgreSQL is run by pgx.
    #[must_use]
    pub fn of(lab: Lab) -> Self {
        Self { lab, stays: false }
    }

    /// Leaves the lab up.
    pub fn keep(&mut self) {
        self.stays = true;
    }

    /// The lab.
    #[must_use]
    pub fn lab(&self) -> &Lab {
        &self.lab
    }

    /// Starts clients of all proxies, once all is calm.
    ///
    /// # Errors
    /// When it does not become calm, or nobody can write.
    pub fn begin(&self, seed: u64) -> anyhow::Result<Trial<'_>> {
        let hosts = self.lab.members().map(|host| host.plan().name.as_str());
        let proxies: anyhow::Result<Vec<_>> =
            hosts.map(|host| address(&self.lab, host, PROXY_PORT)).collect();
        self.begin_at(&proxies?, seed)
    }

    /// As [`Self::begin`], with clients of these addresses.
    ///
    /// # Errors
    /// As there.
    pub fn begin_at(&self, addresses: &[SocketAddr], seed: u64) -> anyhow::Result<Trial<'_>> {
        let before = self.lab.wait_for_calm(1)?;
        let plan = Plan { seed, table: format!("appends_{seed}"), ..self.plan(addresses)? };
        let primary = address(&self.lab, &before.host(), POSTGRES_PORT)?;
        Checker::prepare(&Place::at(primary, &plan), &plan)
            .with_context(|| format!("sessions there: {:?}", self.activity(&before.host())))?;
        let checker = Checker::start(plan.clone())?;
        for at in 0..plan.addresses.len() {
            wait_for("each proxy serves", LIMIT, || checker.commits_through(at) >= SOME)
                .with_context(|| format!("clients saw {:?}", checker.record().error_counts))?;
        }
        Ok(Trial { lab: &self.lab, plan, checker, before })
    }

    /// Keeps the logs of a run that failed, and says where with its error.
    #[must_use]
    pub fn keep_logs_of(&self, run: &str, error: anyhow::Error) -> anyhow::Error {
        let logs = logs_of(run);
        match self.keep_logs(&logs) {
            Ok(()) => error.context(format!("logs are in {}", logs.display())),
            Err(lost) => error.context(format!("logs were not kept: {lost:#}")),
        }
    }

    /// Copies what pgx and PostgreSQL of each host have logged.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn keep_logs(&self, folder: &Path) -> anyhow::Result<()> {
        std::fs::create_dir_all(folder)?;
        for host in self.lab.members() {
            let name = &host.plan().name;
            let logs = [
                ("pgx", self.lab.log(name, "pgx")),
                ("postgresql", host.file("/var/lib/pgx/data.pgx/server.log")),
            ];
            for (service, path) in logs {
                // There may be none.
                let _ = std::fs::copy(path, folder.join(format!("{name}.{service}.log")));
            }
        }
        Ok(())
    }

    /// What sessions of a host's PostgreSQL do, and whom they wait for.
    fn activity(&self, host: &str) -> anyhow::Result<String> {
        let text = "select string_agg(concat_ws(' ', pid, client_addr, state, wait_event_type, \
                    wait_event, now() - state_change, pg_blocking_pids(pid)::text, query), '; ') \
                    from pg_stat_activity where backend_type = 'client backend'";
        self.lab.admin_sql(host, text)
    }

    fn plan(&self, addresses: &[SocketAddr]) -> anyhow::Result<Plan> {
        let network = format!("/proc/{}/ns/net", self.lab.host("client")?.init().pid);
        let plan = Plan::new(addresses);
        Ok(Plan {
            network: Some(network.into()),
            // At each proxy one at least; together less than half of what two cores and one disk
            // have done for three hosts.
            appenders: addresses.len().max(plan.appenders),
            movers: 2,
            rate_per_client: Some(10.0),
            answer_max: ANSWER_MAX,
            ..plan
        })
    }
}

impl Drop for Chaos {
    fn drop(&mut self) {
        let name = &self.lab.spec().name;
        if self.stays {
            return;
        }
        if let Err(error) = Lab::down(name) {
            eprintln!("lab {name}: cannot take it down: {error:#}");
        }
    }
}

impl Trial<'_> {
    /// The lab.
    #[must_use]
    pub fn lab(&self) -> &Lab {
        self.lab
    }

    /// Which of the clients' addresses is the proxy of a host.
    ///
    /// # Errors
    /// When it has none.
    pub fn proxy(&self, host: &str) -> anyhow::Result<usize> {
        let wanted = address(self.lab, host, PROXY_PORT)?;
        let found = self.plan.addresses.iter().position(|address| *address == wanted);
        found.with_context(|| format!("{host} has no proxy"))
    }

    /// Waits until another host than at first has the primary, seen from a host that is well.
    ///
    /// # Errors
    /// When none has in time.
    pub fn wait_for_another(&self, witness: &str) -> anyhow::Result<Epoch> {
        let Self { lab, before, .. } = self;
        wait_for_some("another primary", LIMIT, || {
            let seen = lab.epoch(witness).ok()?;
            (seen.number > before.number && seen.holder != before.holder).then_some(seen)
        })
        .with_context(|| self.said())
    }

    /// Waits until clients have written through the proxies of all hosts but these.
    ///
    /// # Errors
    /// When one does not serve in time.
    pub fn wait_for_proxies_but(&self, hosts: &[&str]) -> anyhow::Result<()> {
        for host in self.lab.members().map(|host| host.plan().name.as_str()) {
            if hosts.contains(&host) {
                continue;
            }
            let at = self.proxy(host)?;
            let so_far = self.checker.commits_through(at);
            let what = format!("commits through {host}");
            wait_for(&what, LIMIT, || self.checker.commits_through(at) >= so_far + SOME)
                .with_context(|| self.said())?;
        }
        Ok(())
    }

    /// Waits until all is calm and clients write, ends them, and compares what they were told with
    /// what each host has.
    ///
    /// # Errors
    /// When it does not become calm, or a database cannot be read; not for what is found there.
    pub fn end(self) -> anyhow::Result<Outcome> {
        let calm = self.lab.wait_for_calm(self.before.number);
        let after = calm.with_context(|| self.said())?;
        // Clients that lost a proxy do not come back to it.
        for host in self.lab.members().map(|host| host.plan().name.as_str()) {
            wait_for(&format!("the proxy of {host} leads to the primary"), LIMIT, || {
                sql(self.lab, host, PROXY_PORT, "select pg_is_in_recovery()")
                    .is_ok_and(|said| said == "f")
            })
            .with_context(|| self.said())?;
        }
        self.checker.wait_for_commits(SOME as u64, LIMIT)?;
        let record = self.checker.stop()?;
        let (after, verdicts) = compare(self.lab, &self.plan, &record, after)?;
        Ok(Outcome { record, after, verdicts })
    }

    fn said(&self) -> String {
        format!("clients saw {:?}", self.checker.record().error_counts)
    }
}

impl Outcome {
    /// How many commits that were acknowledged some host does not have.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.most(|verdict| verdict.lost.len())
    }

    /// How much two primaries at a time have done.
    #[must_use]
    pub fn doubles(&self) -> u64 {
        self.most(|verdict| verdict.doubles.len())
    }

    /// Of the host that has the most.
    fn most(&self, count: fn(&Verdict) -> usize) -> u64 {
        self.verdicts.values().map(count).max().unwrap_or_default() as u64
    }

    /// An error that tells what must never be.
    ///
    /// # Errors
    /// When a commit is lost, two primaries were at work, somebody hung, or an answer was none.
    pub fn check(&self) -> anyhow::Result<()> {
        self.record.check()?;
        for (host, verdict) in &self.verdicts {
            verdict.check().with_context(|| format!("on {host}"))?;
        }
        Ok(())
    }
}

fn compare(
    lab: &Lab,
    plan: &Plan,
    record: &Record,
    epoch: Epoch,
) -> anyhow::Result<(Epoch, BTreeMap<String, Verdict>)> {
    // A failover may have begun since that epoch was calm: of a fault that nobody had noticed yet.
    let (epoch, end) = wait_for_some("the end of the primary's log", LIMIT, || {
        let epoch = lab.wait_for_calm(epoch.number).ok()?;
        let end = "select pg_current_wal_insert_lsn()";
        Some((epoch, sql(lab, &epoch.host(), POSTGRES_PORT, end).ok()?))
    })?;
    let primary = epoch.host();
    let mut verdicts = BTreeMap::new();
    for host in lab.data_hosts() {
        let name = &host.plan().name;
        if *name != primary {
            let query = format!("select pg_last_wal_replay_lsn() >= '{end}'");
            wait_for(&format!("{name} has all that {primary} has"), LIMIT, || {
                sql(lab, name, POSTGRES_PORT, &query).is_ok_and(|said| said == "t")
            })?;
        }
        let place = Place::at(address(lab, name, POSTGRES_PORT)?, plan);
        verdicts.insert(name.clone(), record.compare(&place)?);
    }
    ensure!(!verdicts.is_empty(), "a lab without data hosts");
    Ok((epoch, verdicts))
}

fn address(lab: &Lab, host: &str, port: u16) -> anyhow::Result<SocketAddr> {
    Ok(SocketAddr::new(IpAddr::V4(lab.host(host)?.plan().v4()), port))
}

/// Asks from the client's host: a host's PostgreSQL itself, its proxy, or an address.
///
/// # Errors
/// When nobody answers, or with an error.
pub fn sql(lab: &Lab, host: &str, port: u16, query: &str) -> anyhow::Result<String> {
    let at = format!("host={host} port={port} user=postgres dbname=postgres connect_timeout=5");
    let said = lab.host("client")?.output(None, &["psql", "-XAtc", query, &at])?;
    Ok(said.trim_end().to_owned())
}

/// Where the logs of a run are kept that failed.
#[must_use]
pub fn logs_of(run: &str) -> PathBuf {
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/chaos");
    target.join(run)
}
