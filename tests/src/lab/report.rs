//! What a lab tells about itself: `status` and `env`.

use std::fmt::Write;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::postgres::Postgres;
use super::spec::{APP, Kind, POSTGRES_PORT, PROXY_PORT, vip_v4, vip_v6};
use super::{Lab, pgx, postgres};

/// How a lab is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    /// The lab's name.
    pub name: String,
    /// Whether `up` came to its end.
    pub complete: bool,
    /// Each host.
    pub hosts: Vec<HostStatus>,
    /// Each fault in force.
    pub faults: Vec<FaultStatus>,
}

/// How a host is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HostStatus {
    /// Its name.
    pub name: String,
    /// What it is for.
    pub kind: Kind,
    /// Its address; none for the switch.
    pub v4: Option<Ipv4Addr>,
    /// Its IPv6 address; none for the switch.
    pub v6: Option<Ipv6Addr>,
    /// The process id of its init, none if that died.
    pub init: Option<i32>,
    /// Whether all its processes are frozen.
    pub frozen: bool,
    /// Its PostgreSQL; none in hosts that should have none.
    pub postgres: Option<Service<Postgres>>,
    /// Its pgx; none in hosts that should have none.
    pub pgx: Option<Service<Pgx>>,
}

/// How a service of a host is.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Service<T> {
    /// The process id in the machine's own namespace; none if it does not run.
    pub pid: Option<i32>,
    /// What it is doing.
    pub state: T,
}

/// What pgx in a host is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pgx {
    /// It runs.
    Up,
    /// It is stopped by a signal or frozen with its host.
    Paused,
    /// It does not run.
    Down,
}

/// A fault in force.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FaultStatus {
    /// The number that heals it.
    pub id: u32,
    /// What it does, in words.
    pub what: String,
}

/// How to reach a lab.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Env {
    /// The lab's name.
    pub name: String,
    /// Where its state, logs and disks lie.
    pub state_dir: PathBuf,
    /// The words before a host's name and a command that run it there.
    pub exec: Vec<String>,
    /// The address of the whole cluster.
    pub vip: Ipv4Addr,
    /// The same for IPv6.
    pub vip6: Ipv6Addr,
    /// The port for clients: that of pgx, or of PostgreSQL in a lab without pgx.
    pub port: u16,
    /// The port of PostgreSQL in each data host.
    pub postgres_port: u16,
    /// The role for clients; the superuser `postgres` has the same password.
    pub user: String,
    /// Its password.
    pub password: String,
    /// Its database.
    pub database: String,
    /// Each host with its addresses.
    pub hosts: Vec<HostEnv>,
}

/// How to reach a host.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HostEnv {
    /// Its name.
    pub name: String,
    /// What it is for.
    pub kind: Kind,
    /// Its address.
    pub v4: Ipv4Addr,
    /// Its IPv6 address.
    pub v6: Ipv6Addr,
}

/// Looks at every host.
pub(super) fn status(lab: &Lab) -> anyhow::Result<Status> {
    let state = lab.state()?;
    let hosts = lab.hosts().iter().map(|host| {
        let plan = host.plan();
        let addressed = plan.kind != Kind::Switch;
        let has_postgres = plan.kind == Kind::Data && state.spec.run_postgres;
        let frozen = host.cgroup().frozen();
        HostStatus {
            name: plan.name.clone(),
            kind: plan.kind,
            v4: addressed.then(|| plan.v4()),
            v6: addressed.then(|| plan.v6()),
            init: host.init().alive().then_some(host.init().pid),
            frozen,
            postgres: has_postgres.then(|| Service {
                pid: postgres::postmaster(host).map(|proc| proc.id.pid),
                state: postgres::state(host),
            }),
            pgx: (plan.kind.runs_pgx() && state.spec.pgx.is_some()).then(|| {
                let process = pgx::process(host);
                let state = match &process {
                    None => Pgx::Down,
                    Some(proc) if proc.state == 'T' || frozen => Pgx::Paused,
                    Some(_) => Pgx::Up,
                };
                Service { pid: process.map(|proc| proc.id.pid), state }
            }),
        }
    });
    let hosts = hosts.collect();
    let faults = state.faults.iter();
    let faults = faults.map(|a| FaultStatus { id: a.id.0, what: a.fault.to_string() }).collect();
    Ok(Status { name: state.spec.name.clone(), complete: state.complete, hosts, faults })
}

/// How to reach the lab, given the words that run this program's `exec`.
pub(super) fn env(lab: &Lab, exec: Vec<String>) -> anyhow::Result<Env> {
    let hosts = lab.hosts().iter().map(super::Host::plan);
    Ok(Env {
        name: lab.spec().name.clone(),
        state_dir: lab.state_dir().to_owned(),
        exec,
        vip: vip_v4(),
        vip6: vip_v6(),
        port: client_port(lab),
        postgres_port: POSTGRES_PORT,
        user: APP.to_owned(),
        password: lab.password()?,
        database: APP.to_owned(),
        hosts: hosts
            .filter(|plan| plan.kind != Kind::Switch)
            .map(|plan| HostEnv {
                name: plan.name.clone(),
                kind: plan.kind,
                v4: plan.v4(),
                v6: plan.v6(),
            })
            .collect(),
    })
}

/// The port that clients use.
pub(super) fn client_port(lab: &Lab) -> u16 {
    if lab.spec().pgx.is_some() { PROXY_PORT } else { POSTGRES_PORT }
}

impl Env {
    /// The variables by which PostgreSQL's client programs connect, and those of the lab.
    #[must_use]
    pub fn variables(&self) -> Vec<(String, String)> {
        let mut all = vec![
            ("PGHOST".to_owned(), self.vip.to_string()),
            ("PGPORT".to_owned(), self.port.to_string()),
            ("PGUSER".to_owned(), self.user.clone()),
            ("PGPASSWORD".to_owned(), self.password.clone()),
            ("PGDATABASE".to_owned(), self.database.clone()),
            ("PGX_LAB".to_owned(), self.name.clone()),
            ("PGX_LAB_STATE_DIR".to_owned(), self.state_dir.display().to_string()),
            ("PGX_LAB_EXEC".to_owned(), self.exec.join(" ")),
            ("PGX_LAB_VIP6".to_owned(), self.vip6.to_string()),
            ("PGX_LAB_POSTGRES_PORT".to_owned(), self.postgres_port.to_string()),
        ];
        for host in &self.hosts {
            let name = host.name.to_uppercase();
            all.push((format!("PGX_LAB_{name}"), host.v4.to_string()));
            all.push((format!("PGX_LAB_{name}_V6"), host.v6.to_string()));
        }
        all
    }
}

impl Status {
    /// A table for people.
    #[must_use]
    pub fn table(&self) -> String {
        let mut text = format!("lab {}", self.name);
        text += if self.complete { "\n" } else { ": did not come up to the end; lab down\n" };
        text += "HOST     IPV4         IPV6       INIT    POSTGRESQL        PGX\n";
        for host in &self.hosts {
            let v4 = host.v4.map_or_else(|| "-".to_owned(), |address| address.to_string());
            let v6 = host.v6.map_or_else(|| "-".to_owned(), |address| address.to_string());
            let init = match (host.init, host.frozen) {
                (None, _) => "dead".to_owned(),
                (Some(_), true) => "frozen".to_owned(),
                (Some(pid), false) => pid.to_string(),
            };
            let postgres = service(host.postgres.map(|s| (s.pid, format!("{:?}", s.state))));
            let pgx = service(host.pgx.map(|s| (s.pid, format!("{:?}", s.state))));
            let line = format!("{:<8} {v4:<12} {v6:<10} {init:<7} {postgres:<17} {pgx}", host.name);
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{}", line.trim_end());
        }
        if self.faults.is_empty() {
            return text + "no faults\n";
        }
        text += "FAULT\n";
        for fault in &self.faults {
            let _ = writeln!(text, "{:<8} {}", fault.id, fault.what);
        }
        text
    }
}

fn service(service: Option<(Option<i32>, String)>) -> String {
    match service {
        None => "-".to_owned(),
        Some((None, state)) => state.to_lowercase(),
        Some((Some(pid), state)) => format!("{} ({pid})", state.to_lowercase()),
    }
}
