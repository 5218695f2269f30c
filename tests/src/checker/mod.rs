//! The checker: clients that write through proxies for as long as they are let, and know after it
//! which commits must be in the database, which may be, and which must not.
//!
//! *Appenders* insert numbers that are never used again. *Movers* move money between accounts, and
//! a *reader* looks whether its sum holds in every snapshot. [`Checker::prepare`] makes the tables,
//! [`Checker::start`] starts the clients, [`Checker::stop`] gives the [`Record`] of what they were
//! told, and [`Record::compare`] holds it against a database. `fate` decides what an answer means.
//!
//! This module must not know what is between clients and database, nor which faults there are.

mod append;
mod client;
mod fate;
mod record;
mod session;
mod transfer;
mod verdict;

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use anyhow::{Context, anyhow, ensure};
use nix::sched::{CloneFlags, setns};
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use crate::lab::wait_for;
use client::{Client, Shared};

pub(crate) use client::Rng;
pub use record::{
    Appender, Commit, Counts, Failure, Gap, Hang, Origin, Record, Served, Slow, Span, Summary,
    Transfers, WrongSum,
};
pub use verdict::{Double, Place, Verdict};

/// What each account has at first.
const BALANCE: i64 = 1000;
/// How long ending may take beyond the answers that are waited for, on a busy machine.
const END_MAX: Duration = Duration::from_secs(20);

/// Who writes where, how much, and what is too long.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Plan {
    /// The proxies. Clients begin at one each, and go to the next when a connection breaks.
    pub addresses: Vec<SocketAddr>,
    /// From which network clients connect, if not from this one: a file such as
    /// `/proc/PID/ns/net`, for which it needs to be root.
    pub network: Option<PathBuf>,
    /// The user.
    pub user: String,
    /// Its password, if it needs one.
    pub password: Option<String>,
    /// The database.
    pub database: String,
    /// The table they append to. One of its own for each run against the same database: what was
    /// sent in an earlier run and is in doubt may yet arrive.
    pub table: String,
    /// How many clients append numbers.
    pub appenders: usize,
    /// How many clients move money; if any, one more for each proxy reads the sum.
    pub movers: usize,
    /// Between how many accounts; two or more.
    pub accounts: usize,
    /// How many transactions a client begins in a second; as many as it can, if none.
    pub rate_per_client: Option<f64>,
    /// A request hangs that has no answer, and whose connection has not ended, after this time.
    pub answer_max: Duration,
    /// A host is dead that acknowledged nothing for this time (`TCP_USER_TIMEOUT`, keepalives and
    /// connects). Three seconds or more, as keepalives are a second apart.
    pub dead_after: Duration,
    /// Of the order of forms, accounts and amounts.
    pub seed: u64,
}

/// Clients at work. They end, without a record, when the value is dropped.
pub struct Checker {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<anyhow::Result<()>>>,
}

impl Plan {
    /// A little load by `postgres` on its database without a password, through these proxies.
    #[must_use]
    pub fn new(addresses: &[SocketAddr]) -> Self {
        Self {
            addresses: addresses.to_vec(),
            network: None,
            user: "postgres".to_owned(),
            password: None,
            database: "postgres".to_owned(),
            table: "appends".to_owned(),
            appenders: 4,
            movers: 2,
            accounts: 10,
            rate_per_client: Some(20.0),
            answer_max: Duration::from_secs(30),
            dead_after: Duration::from_secs(3),
            seed: 1,
        }
    }

    /// What all accounts have together.
    fn sum(&self) -> i64 {
        BALANCE * i64::try_from(self.accounts).unwrap_or(i64::MAX / BALANCE)
    }

    fn check(&self) -> anyhow::Result<()> {
        ensure!(!self.addresses.is_empty(), "a plan needs an address");
        ensure!(self.movers == 0 || self.accounts >= 2, "movers need two accounts");
        ensure!(self.rate_per_client.is_none_or(|rate| rate > 0.0), "a rate is more than nothing");
        ensure!(i32::try_from(self.accounts.max(self.appenders)).is_ok(), "too much for an int");
        Ok(())
    }
}

impl Checker {
    /// Makes the tables, in the place of those of an earlier checker.
    ///
    /// # Errors
    /// When the database refuses.
    pub fn prepare(place: &Place, plan: &Plan) -> anyhow::Result<()> {
        verdict::prepare(place, plan)
    }

    /// Starts the clients, on a thread of their own. Each start needs tables that were just made.
    ///
    /// # Errors
    /// When the plan makes no sense, or its network cannot be entered.
    pub fn start(plan: Plan) -> anyhow::Result<Self> {
        plan.check()?;
        let network = plan.network.clone();
        let record = Record {
            addresses: plan.addresses.clone(),
            began_unix_ms: u64::try_from(SystemTime::UNIX_EPOCH.elapsed()?.as_millis())?,
            table: plan.table.clone(),
            sum: plan.sum(),
            appenders: vec![Appender::default(); plan.appenders],
            ..Record::default()
        };
        let shared = Arc::new(Shared::new(plan, record));
        let (of_clients, (ready, started)) = (Arc::clone(&shared), mpsc::channel());
        let thread = thread_in(network.as_deref(), "checker", async move || {
            ready.send(())?;
            clients(&of_clients).await
        })?;
        let checker = Self { shared, thread: Some(thread) };
        match started.recv() {
            Ok(()) => Ok(checker),
            Err(_) => Err(checker.end().err().unwrap_or_else(|| anyhow!("no client runs"))),
        }
    }

    /// The time that errors, hangs and gaps are told in: since the clients began.
    #[must_use]
    pub fn clock(&self) -> Duration {
        self.shared.began.elapsed()
    }

    /// How much there is of everything so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.shared.record().counts()
    }

    /// How many commits through one of the addresses are acknowledged so far.
    #[must_use]
    pub fn commits_through(&self, address: usize) -> usize {
        let record = self.shared.record();
        record.commits.iter().filter(|commit| commit.address == address).count()
    }

    /// Waits until that many commits more are acknowledged.
    ///
    /// # Errors
    /// When they are not within `limit`.
    pub fn wait_for_commits(&self, more: u64, limit: Duration) -> anyhow::Result<()> {
        let wanted = self.counts().acknowledged + more;
        wait_for(&format!("{more} commits more"), limit, || self.counts().acknowledged >= wanted)
            .with_context(|| format!("clients saw {:?}", self.record().error_counts))
    }

    /// A copy of the record as it is now.
    #[must_use]
    pub fn record(&self) -> Record {
        let mut record = self.shared.record().clone();
        record.took_us = self.shared.now_us();
        record
    }

    /// Ends the clients and gives what they saw. Nothing new is sent from here on; what was sent is
    /// waited for, so that it takes [`Plan::answer_max`] at most where someone hangs.
    ///
    /// # Errors
    /// When a client has panicked, or does not end.
    pub fn stop(self) -> anyhow::Result<Record> {
        let shared = Arc::clone(&self.shared);
        self.end()?;
        let mut record = std::mem::take(&mut *shared.record());
        record.took_us = shared.now_us();
        Ok(record)
    }

    fn end(mut self) -> anyhow::Result<()> {
        self.shared.stop.send_replace(true);
        let Some(thread) = self.thread.take() else { return Ok(()) };
        let plan = &self.shared.plan;
        let limit = plan.answer_max + plan.dead_after + END_MAX;
        wait_for("the checker's clients end", limit, || thread.is_finished())?;
        thread.join().map_err(|_| anyhow!("the checker's thread has panicked"))?
    }
}

impl Drop for Checker {
    fn drop(&mut self) {
        self.shared.stop.send_replace(true);
    }
}

async fn clients(shared: &Arc<Shared>) -> anyhow::Result<()> {
    let plan = &shared.plan;
    let mut tasks = JoinSet::new();
    for (index, id) in (0..plan.appenders).zip(0..) {
        let client = Client::new(shared, format!("appender {id}"), index);
        tasks.spawn(append::run(client, id, index));
    }
    for index in 0..plan.movers {
        let client = Client::new(shared, format!("mover {index}"), plan.appenders + index);
        tasks.spawn(transfer::run(client));
    }
    // One for each proxy: any of them could still lead to an old primary.
    let readers = if plan.movers > 0 { plan.addresses.len() } else { 0 };
    for index in 0..readers {
        let client = Client::new(shared, format!("reader {index}"), index);
        tasks.spawn(transfer::read(client));
    }
    while let Some(ended) = tasks.join_next().await {
        ended.context("a client has panicked")?;
    }
    Ok(())
}

/// Runs something with sockets on a thread of its own, whose sockets are of that network.
fn thread_in<T: Send + 'static>(
    network: Option<&Path>,
    name: &str,
    work: impl AsyncFnOnce() -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<JoinHandle<anyhow::Result<T>>> {
    let network = network.map(|path| {
        File::open(path).with_context(|| format!("cannot open the network {}", path.display()))
    });
    let network = network.transpose()?;
    let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
        if let Some(network) = network {
            // Of this thread only, which ends with the work.
            setns(network, CloneFlags::CLONE_NEWNET).context("cannot enter the network")?;
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(work())
    })?;
    Ok(thread)
}
