//! The configuration: read once, checked whole, then an immutable value that is passed along.
//!
//! [`raw`] is the file's form and its documentation; [`check`] turns it into [`Config`] or into
//! the list of everything that is wrong with it.

pub(crate) mod access;
mod check;
pub(crate) mod command;
mod http;
mod listen;
mod pools;
mod raw;
mod tls;
pub(crate) mod users;
mod vip;

pub(crate) use check::is_host_and_port;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use nix::unistd::Group;
use pgx_bpf::Hook;
use pgx_control::ids::NodeId;
use pgx_ring::Choice;
use pgx_session::attrs::SessionAttrs;
use pgx_session::config::{AuthMethod, Database, Peers, User};
use pgx_session::route::ServerAddress;

use crate::private;
use crate::tls::Leg;
use crate::unix::Access;

/// Where the admin socket is unless the configuration says otherwise.
pub(crate) const ADMIN_SOCKET: &str = "/run/pgx/admin.sock";

/// The port of HTTP unless the configuration says otherwise.
pub(crate) const HTTP_PORT: u16 = 6434;

/// Where a node keeps what it must not forget, unless the configuration says otherwise.
const CONTROL_DATA: &str = "/var/lib/pgx";

/// A configuration that was checked.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) admin_socket: PathBuf,
    pub(crate) pid_file: Option<PathBuf>,
    pub(crate) proxy: Option<Proxy>,
    pub(crate) vip: Option<Vip>,
    pub(crate) control: Option<Control>,
    pub(crate) postgres: Option<Postgres>,
    pub(crate) fence: Option<Fence>,
    pub(crate) http: Option<Http>,
    /// Where metrics are to be had, if they are.
    pub(crate) metrics: Option<SocketAddr>,
}

/// What `[http]` says.
#[derive(Clone, Debug)]
pub(crate) struct Http {
    pub(crate) listen: SocketAddr,
    /// How it is encrypted, if it is.
    pub(crate) leg: Option<Leg>,
    /// Common names of who may look.
    pub(crate) viewers: BTreeSet<String>,
    /// Of who may act, too.
    pub(crate) operators: BTreeSet<String>,
}

/// What `[fence]` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fence {
    pub(crate) port: u16,
    pub(crate) best: Means,
}

/// By what means PostgreSQL may be fenced at best.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Means {
    /// The kernel's programs, on interfaces by this hook at best.
    Programs(Hook),
    /// Rules of nftables.
    Nftables,
    /// Nothing.
    Nothing,
}

impl Means {
    /// The words for them, the best first.
    pub(crate) const WORDS: [&str; 6] = ["native", "generic", "tcx", "clsact", "nftables", "none"];

    /// What a word means.
    pub(crate) fn from_word(word: &str) -> Option<Self> {
        match word {
            "nftables" => Some(Self::Nftables),
            "none" => Some(Self::Nothing),
            word => {
                let mut hooks = Hook::INTERFACE.into_iter();
                hooks.find(|hook| hook.name() == word).map(Self::Programs)
            }
        }
    }
}

/// What `[proxy]` says.
#[derive(Clone, Debug)]
pub(crate) struct Proxy {
    /// Where clients come in.
    pub(crate) listen: Vec<Listen>,
    pub(crate) unix: Option<Unix>,
    /// All of them, those of single databases included.
    pub(crate) backends: Vec<ServerAddress>,
    pub(crate) max_client_conn: usize,
    /// How long sessions may go on when the process is to end.
    pub(crate) drain: Duration,
    pub(crate) pool: Option<Pool>,
}

/// Where clients come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Listen {
    pub(crate) address: SocketAddr,
    /// Which servers they want there.
    pub(crate) attrs: SessionAttrs,
    /// Nobody has named it, so a host that lacks it does without.
    pub(crate) may_lack: bool,
    /// The host has it only now and then, and listens there beside any address of its own.
    pub(crate) is_virtual: bool,
}

/// The Unix sockets by which clients come in: one for each port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unix {
    pub(crate) folder: PathBuf,
    pub(crate) mode: u32,
    pub(crate) group: Option<String>,
}

impl Unix {
    /// Who may connect.
    ///
    /// # Errors
    /// When the group does not exist.
    pub(crate) fn access(&self) -> Result<Access, String> {
        let group = self.group.as_deref().map(|name| match Group::from_name(name) {
            Ok(Some(group)) => Ok(group.gid),
            Ok(None) => Err(format!("proxy.unix_socket_group: there is no group {name:?}")),
            Err(errno) => Err(format!("proxy.unix_socket_group: cannot look {name:?} up: {errno}")),
        });
        Ok(Access { mode: self.mode, group: group.transpose()? })
    }
}

/// What `[proxy]` says of pools.
#[derive(Clone, Debug)]
pub(crate) struct Pool {
    pub(crate) auth: AuthMethod,
    pub(crate) users: Option<PathBuf>,
    /// The rules and the maps of names, if logins go by them.
    pub(crate) rules: Option<(PathBuf, Option<PathBuf>)>,
    pub(crate) databases: BTreeMap<Vec<u8>, Database>,
    pub(crate) special: BTreeMap<Vec<u8>, User>,
    /// Who may log in to the console, and change things there.
    pub(crate) admins: BTreeSet<Vec<u8>>,
    /// Who may log in to the console and look.
    pub(crate) viewers: BTreeSet<Vec<u8>>,
    /// What holds for all other users.
    pub(crate) usual: User,
    pub(crate) engine: Choice,
    pub(crate) threads: usize,
    pub(crate) zero_copy_bytes_min: u32,
    pub(crate) peers: Peers,
    /// PostgreSQL's port on the hosts of the cluster, if clients go where that says.
    pub(crate) cluster_port: Option<u16>,
    pub(crate) client_tls: Leg,
    pub(crate) server_tls: Leg,
    /// How long things may take, and how much is kept.
    pub(crate) limits: SessionLimits,
}

/// How long sessions may take for things, and how much they keep.
pub(crate) type SessionLimits = pgx_session::config::Limits;

/// What `[vip]` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Vip {
    pub(crate) interface: String,
    pub(crate) mode: pgx_vip::Mode,
    pub(crate) program: Option<pgx_vip::Program>,
    pub(crate) leases: Vec<pgx_vip::Lease>,
    /// Which of them this node is to have rather than others.
    pub(crate) priorities: BTreeMap<pgx_vip::LeaseId, u32>,
}

/// What `[control]` says. The files are read by [`crate::peer::certificates`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Control {
    pub(crate) node: NodeId,
    pub(crate) listen: SocketAddr,
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
    pub(crate) ca: PathBuf,
    pub(crate) peers: BTreeMap<NodeId, ServerAddress>,
    pub(crate) data: PathBuf,
    pub(crate) priority: u32,
}

/// What `[postgres]` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Postgres {
    pub(crate) data_directory: PathBuf,
    pub(crate) bin_directory: PathBuf,
    /// In the data directory where it is not given.
    pub(crate) config_file: Option<PathBuf>,
    pub(crate) port: u16,
    pub(crate) listen_addresses: String,
    /// In pgx's own folder where it is not given.
    pub(crate) socket_directory: Option<PathBuf>,
    pub(crate) system_user: String,
    pub(crate) replication_user: String,
    pub(crate) replication_password_file: PathBuf,
    pub(crate) replication_sslmode: String,
    pub(crate) wal_keep_mb: u32,
    pub(crate) user: String,
    pub(crate) database: String,
    pub(crate) password_file: Option<PathBuf>,
    /// The program that fills an empty directory from a backup; nothing where there is none.
    pub(crate) clone_command: Vec<String>,
    pub(crate) hooks: Hooks,
}

/// What `[postgres.hooks]` says: programs with their words; none where there are no words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hooks {
    pub(crate) promote: Vec<String>,
    pub(crate) demote: Vec<String>,
    pub(crate) follow: Vec<String>,
    pub(crate) rebuild_begin: Vec<String>,
    pub(crate) rebuild_end: Vec<String>,
    /// How long each may take.
    pub(crate) limit: Duration,
}

#[cfg(test)]
impl Postgres {
    /// One of a directory, with what is usual besides.
    pub(crate) fn of(data_directory: &Path) -> Self {
        let name = "postgres".to_owned();
        Self {
            data_directory: data_directory.to_owned(),
            bin_directory: "/".into(),
            config_file: None,
            port: 5432,
            listen_addresses: "*".to_owned(),
            socket_directory: None,
            system_user: name.clone(),
            replication_user: "pgx".to_owned(),
            replication_password_file: "/".into(),
            replication_sslmode: "prefer".to_owned(),
            wal_keep_mb: 1,
            user: name.clone(),
            database: name,
            password_file: None,
            clone_command: Vec::new(),
            hooks: check::no_hooks(),
        }
    }
}

/// Everything that is wrong with a configuration file.
#[derive(Debug)]
pub(crate) struct Problems {
    pub(crate) file: PathBuf,
    pub(crate) problems: Vec<String>,
}

impl fmt::Display for Problems {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "configuration {} is not usable:", self.file.display())?;
        for problem in &self.problems {
            write!(out, "\n  {problem}")?;
        }
        write!(out, "\nmend it, then see 'pgx config check'; 'pgx config example' shows all keys")
    }
}

impl std::error::Error for Problems {}

/// Reads and checks the file at `path`.
///
/// # Errors
/// When the file cannot be read or anything in it is wrong; all problems are named.
pub(crate) fn load(path: &Path) -> Result<Config, Problems> {
    load_with_table(path).map(|(config, _)| config)
}

/// The same, with the file's own form.
///
/// # Errors
/// As above.
pub(crate) fn load_with_table(path: &Path) -> Result<(Config, toml::Table), Problems> {
    let read = std::fs::read_to_string(path)
        .map_err(|error| vec![format!("cannot be read: {error}")])
        .and_then(|text| {
            let config = here(parse(&text)?)?;
            let table = text.parse().map_err(|error: toml::de::Error| vec![error.to_string()])?;
            Ok((config, table))
        });
    read.map_err(|problems| Problems { file: path.to_owned(), problems })
}

/// Checks what a file would say.
///
/// # Errors
/// Everything that is wrong with it.
pub(crate) fn from_table(table: &toml::Table) -> Result<Config, Vec<String>> {
    let raw = raw::Config::deserialize(table.clone());
    let raw = raw.map_err(|error| vec![error.to_string().trim_end().to_owned()])?;
    check::check(raw).and_then(here)
}

/// Checks a configuration on this machine, as far as that can be seen from outside.
fn here(config: Config) -> Result<Config, Vec<String>> {
    let problems = problems_here(&config);
    if problems.is_empty() { Ok(config) } else { Err(problems) }
}

fn problems_here(config: &Config) -> Vec<String> {
    let key = |key, path: &PathBuf| private::problem(key, path, private::check_key);
    let mut all = Vec::new();
    all.extend(config.control.as_ref().and_then(|control| key("control.key", &control.key)));
    let Some(proxy) = &config.proxy else { return all };
    all.extend(crate::descriptors::check(proxy));
    all.extend(proxy.unix.as_ref().and_then(|unix| unix.access().err()));
    let Some(pool) = &proxy.pool else { return all };
    let users = pool.users.as_ref();
    all.extend(
        users.and_then(|path| private::problem("proxy.auth_file", path, private::check_users)),
    );
    for (name, leg) in [
        ("proxy.client_tls_key_file", &pool.client_tls),
        ("proxy.server_tls_key_file", &pool.server_tls),
    ] {
        all.extend(leg.own.as_ref().and_then(|(_, path)| key(name, path)));
    }
    all
}

/// A key of `[proxy]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Setting {
    pub(crate) key: String,
    pub(crate) value: String,
    pub(crate) default: String,
    /// Whether it can be another while pgx runs.
    pub(crate) is_changeable: bool,
}

/// All keys of `[proxy]` but for its lists of databases, users and listeners.
pub(crate) fn settings(table: &toml::Table) -> Vec<Setting> {
    let shown = |proxy: toml::Table| -> serde_json::Map<String, serde_json::Value> {
        let raw = raw::Proxy::deserialize(proxy).ok();
        let raw = raw.and_then(|raw| serde_json::to_value(raw).ok());
        raw.and_then(|raw| raw.as_object().cloned()).unwrap_or_default()
    };
    let proxy = table.get("proxy").and_then(toml::Value::as_table).cloned().unwrap_or_default();
    let defaults = shown(toml::Table::new());
    let all = shown(proxy).into_iter().filter(|(key, _)| !raw::TABLES.contains(&key.as_str()));
    all.map(|(key, value)| Setting {
        value: words(&value),
        default: defaults.get(&key).map(words).unwrap_or_default(),
        is_changeable: !raw::FIXED.contains(&key.as_str()),
        key,
    })
    .collect()
}

/// A value in words.
fn words(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::Null => String::new(),
        serde_json::Value::String(text) => text.clone(),
        serde_json::Value::Array(all) => all.iter().map(words).collect::<Vec<_>>().join(", "),
        serde_json::Value::Object(all) => {
            let pairs = all.iter().map(|(key, value)| format!("{key} = {}", words(value)));
            pairs.collect::<Vec<_>>().join(", ")
        }
        other => other.to_string(),
    }
}

/// Checks the text of a file, as far as that does not depend on the machine.
pub(crate) fn parse(text: &str) -> Result<Config, Vec<String>> {
    let raw: raw::Config =
        toml::from_str(text).map_err(|error| vec![error.to_string().trim_end().to_owned()])?;
    check::check(raw)
}
