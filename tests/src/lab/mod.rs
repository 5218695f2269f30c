//! The lab: real hosts in miniature, for tests, benchmarks and people.
//!
//! A host is a set of namespaces with its own PostgreSQL, disk, hostname and `/run`; hosts are
//! joined by a bridge in a host of its own, the switch. Start reading at [`Lab`]; `spec` has the
//! plan, `up` the steps, `fault` what can go wrong on purpose. `docs/LAB.md` is the guide.
//!
//! This module must not know what is tested in a lab.

pub mod build;
mod cgroup;
mod fault;
pub mod helper;
mod host;
mod init;
mod members;
mod network;
pub mod pgx;
pub mod postgres;
mod procs;
mod relay;
pub mod report;
mod run;
pub mod spec;
mod state;
mod up;
mod wait;
mod xdp;

use std::ops::Deref;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

pub use fault::{Active, Direction, Fault, FaultId, KillTarget, PauseTarget};
pub use host::Host;
pub use members::Epoch;
pub use procs::ProcId;
pub use spec::Spec;
pub use wait::{wait_for, wait_for_some};

use cgroup::Cgroup;
use spec::{CLIENT, Kind, SWITCH, check_name};
use state::{Lock, State, StateDir};

/// A lab that is up. It outlives this value; see [`Lab::guard`] for one that does not.
#[derive(Clone, Debug)]
pub struct Lab {
    spec: Spec,
    dir: StateDir,
    hosts: Vec<Host>,
}

impl Lab {
    /// Brings a lab up, with progress on standard error.
    ///
    /// # Errors
    /// When a lab of this name is up, the machine lacks something, or a step fails; then nothing
    /// of the lab is left.
    pub fn up(spec: &Spec) -> anyhow::Result<Self> {
        Self::up_watched(spec, &mut |step| eprintln!("lab {}: {step}", spec.name))
    }

    /// The same, with `watch` told before each step.
    ///
    /// # Errors
    /// As for [`Lab::up`].
    pub fn up_watched(spec: &Spec, watch: &mut dyn FnMut(&str)) -> anyhow::Result<Self> {
        up::check_machine(spec)?;
        up::up(spec, watch)
    }

    /// Takes down the lab of this name, whatever a crash left of it. Says whether there was one.
    ///
    /// # Errors
    /// When something of it cannot be removed.
    pub fn down(name: &str) -> anyhow::Result<bool> {
        up::down(name)
    }

    /// Finds a lab that is up.
    ///
    /// # Errors
    /// When there is none, or its state is damaged.
    pub fn open(name: &str) -> anyhow::Result<Self> {
        check_name(name)?;
        let dir = StateDir::of_lab(name);
        let state = dir.load()?;
        Self::from_state(dir, &Cgroup::of_lab(name)?, &state)
    }

    /// Makes the lab go down when the guard is dropped.
    #[must_use]
    pub fn guard(self) -> Guard {
        Guard(self)
    }

    /// What was asked for.
    #[must_use]
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// Where the lab's state, logs and disks lie.
    #[must_use]
    pub fn state_dir(&self) -> &Path {
        self.dir.path()
    }

    /// All hosts, the switch included.
    #[must_use]
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// The hosts with PostgreSQL.
    pub fn data_hosts(&self) -> impl Iterator<Item = &Host> {
        self.hosts.iter().filter(|host| host.plan().kind == Kind::Data)
    }

    /// The hosts that run pgx; those with PostgreSQL first.
    pub fn members(&self) -> impl Iterator<Item = &Host> {
        self.hosts.iter().filter(|host| host.plan().kind.runs_pgx())
    }

    /// The host of this name.
    ///
    /// # Errors
    /// When there is none; the error lists those there are.
    pub fn host(&self, name: &str) -> anyhow::Result<&Host> {
        let names = || self.hosts.iter().map(|h| h.plan().name.as_str()).collect::<Vec<_>>();
        self.hosts.iter().find(|host| host.plan().name == name).with_context(|| {
            format!("lab {} has no host {name:?}; it has {}", self.spec.name, names().join(", "))
        })
    }

    /// The password of the roles `app`, `postgres` and `replicator`.
    ///
    /// # Errors
    /// When its file cannot be read.
    pub fn password(&self) -> anyhow::Result<String> {
        self.dir.password()
    }

    /// The log of a service of a host: `postgresql`, `pgx`, `init` or `relay`.
    #[must_use]
    pub fn log(&self, host: &str, service: &str) -> PathBuf {
        self.dir.log(host, service)
    }

    /// Puts a fault into force.
    ///
    /// # Errors
    /// When the fault cannot be here, or another is in its way.
    pub fn fault(&self, fault: &Fault) -> anyhow::Result<FaultId> {
        let _lock = Lock::take(&self.spec.name)?;
        let mut state = self.dir.load()?;
        fault.check(self, &state.faults)?;
        let id = FaultId(state.next_fault);
        let active = Active { id, fault: fault.clone(), signalled: fault::prepare(self, fault)? };
        state.next_fault += 1;
        state.faults.push(active.clone());
        self.dir.save(&state)?;
        if let Err(error) = fault::apply(self, &active) {
            // What is left of it, if this fails too, stays on record and can be healed.
            if fault::undo(self, &active).is_ok() {
                state.faults.retain(|other| other.id != id);
                self.dir.save(&state)?;
            }
            return Err(error);
        }
        Ok(id)
    }

    /// Takes a fault back.
    ///
    /// # Errors
    /// When there is no such fault, or it cannot be undone now; it stays on record then.
    pub fn heal(&self, id: FaultId) -> anyhow::Result<()> {
        let _lock = Lock::take(&self.spec.name)?;
        let mut state = self.dir.load()?;
        let known = || state.faults.iter().map(|a| a.id.to_string()).collect::<Vec<_>>().join(", ");
        let Some(active) = state.faults.iter().find(|active| active.id == id) else {
            bail!("lab {} has no fault {id}; in force are: {}", self.spec.name, known());
        };
        fault::undo(self, active)?;
        state.faults.retain(|other| other.id != id);
        self.dir.save(&state)
    }

    /// Takes all faults back and returns their numbers.
    ///
    /// # Errors
    /// When one cannot be undone; all others are tried before.
    pub fn heal_all(&self) -> anyhow::Result<Vec<FaultId>> {
        let mut faults = self.faults()?;
        faults.sort_by_key(|active| (active.fault.heals_last(), std::cmp::Reverse(active.id)));
        let mut failed = None;
        for active in &faults {
            if let Err(error) = self.heal(active.id) {
                failed = failed.or(Some(error));
            }
        }
        match failed {
            Some(error) => Err(error),
            None => Ok(faults.iter().map(|active| active.id).collect()),
        }
    }

    /// The faults in force.
    ///
    /// # Errors
    /// When the lab's state cannot be read.
    pub fn faults(&self) -> anyhow::Result<Vec<Active>> {
        Ok(self.dir.load()?.faults)
    }

    /// Starts PostgreSQL in a host and waits until it accepts connections.
    ///
    /// # Errors
    /// When it runs already or does not come up.
    pub fn start_postgres(&self, host: &str) -> anyhow::Result<()> {
        postgres::start(self.host(host)?, &self.log(host, "postgresql"))
    }

    /// Stops PostgreSQL in a host the fast way and waits until it is gone.
    ///
    /// # Errors
    /// When it does not end in time.
    pub fn stop_postgres(&self, host: &str) -> anyhow::Result<()> {
        postgres::stop(self.host(host)?)
    }

    /// Runs a text at a host's PostgreSQL, as its superuser.
    ///
    /// # Errors
    /// When it fails, with what was said.
    pub fn admin_sql(&self, host: &str, text: &str) -> anyhow::Result<String> {
        postgres::admin_sql(self.host(host)?, text)
    }

    /// Waits until a host has no process of PostgreSQL any more.
    ///
    /// # Errors
    /// When some do not end in time.
    pub fn wait_until_postgres_is_gone(&self, host: &str) -> anyhow::Result<()> {
        postgres::wait_until_gone(self.host(host)?)
    }

    /// Starts pgx in a host and waits until it listens.
    ///
    /// # Errors
    /// When it runs already, does not come up, or the lab has no pgx.
    pub fn start_pgx(&self, host: &str) -> anyhow::Result<()> {
        let program = self.spec.pgx.as_deref().context("this lab came up without pgx")?;
        let (host, log) = (self.host(host)?, self.log(host, "pgx"));
        // It starts PostgreSQL with an environment of its own, and writes to the same disk.
        let before = if self.spec.control { postgres::preload(host) } else { Vec::new() };
        pgx::start(host, &before, program, &log)
    }

    /// Asks pgx in a host to end and waits until it has.
    ///
    /// # Errors
    /// When it does not end in time.
    pub fn stop_pgx(&self, host: &str) -> anyhow::Result<()> {
        pgx::stop(self.host(host)?)
    }

    /// Attaches an XDP program that passes everything to a host's cable: what XDP costs by itself.
    ///
    /// # Errors
    /// When the host is unknown, or has no XDP.
    pub fn pass_xdp(&self, host: &str) -> anyhow::Result<()> {
        network::pass_xdp_at(self.host(host)?, vec!["eth0".to_owned()])
    }

    /// How the lab is.
    ///
    /// # Errors
    /// When its state cannot be read.
    pub fn status(&self) -> anyhow::Result<report::Status> {
        report::status(self)
    }

    /// How to reach the lab; `exec` are the words that run a command in a host.
    ///
    /// # Errors
    /// When its password cannot be read.
    pub fn env(&self, exec: Vec<String>) -> anyhow::Result<report::Env> {
        report::env(self, exec)
    }

    fn switch(&self) -> anyhow::Result<&Host> {
        self.host(SWITCH)
    }

    fn state(&self) -> anyhow::Result<State> {
        self.dir.load()
    }

    fn from_state(dir: StateDir, cgroup: &Cgroup, state: &State) -> anyhow::Result<Self> {
        let mut lab = Self { spec: state.spec.clone(), dir, hosts: Vec::new() };
        let path = ("PATH".to_owned(), postgres::search_path(&state.postgres_bin));
        for known in &state.hosts {
            let mut env = vec![path.clone()];
            if known.plan.name == CLIENT {
                let connect = lab.env(Vec::new())?.variables().into_iter();
                env.extend(connect.map(|(key, value)| (key, value.into())));
            }
            let own = cgroup.host(&known.plan.name);
            lab.hosts.push(Host::new(known.plan.clone(), known.init, own, env));
        }
        Ok(lab)
    }
}

/// A lab that goes down with this value.
#[derive(Debug)]
pub struct Guard(Lab);

impl Deref for Guard {
    type Target = Lab;

    fn deref(&self) -> &Lab {
        &self.0
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Err(error) = Lab::down(&self.0.spec.name) {
            eprintln!("lab {}: cannot take it down: {error:#}", self.0.spec.name);
        }
    }
}
