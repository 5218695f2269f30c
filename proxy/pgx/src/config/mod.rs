//! The configuration: read once, checked whole, then an immutable value that is passed along.
//!
//! [`raw`] is the file's form and its documentation; [`check`] turns it into [`Config`] or into
//! the list of everything that is wrong with it.

pub(crate) mod access;
mod check;
pub(crate) mod command;
mod pools;
mod raw;
mod tls;
pub(crate) mod users;
mod vip;

pub(crate) use check::is_host_and_port;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use pgx_bpf::Hook;
use pgx_control::ids::NodeId;
use pgx_ring::Choice;
use pgx_session::attrs::SessionAttrs;
use pgx_session::config::{AuthMethod, Database, Peers, User};
use pgx_session::route::ServerAddress;

use crate::tls::Leg;

/// Where the admin socket is unless the configuration says otherwise.
pub(crate) const ADMIN_SOCKET: &str = "/run/pgx/admin.sock";

/// Where a node keeps what it must not forget, unless the configuration says otherwise.
const CONTROL_DATA: &str = "/var/lib/pgx";

/// A configuration that was checked.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) admin_socket: PathBuf,
    pub(crate) proxy: Option<Proxy>,
    pub(crate) vip: Option<Vip>,
    pub(crate) control: Option<Control>,
    pub(crate) postgres: Option<Postgres>,
    pub(crate) fence: Option<Fence>,
    /// Where metrics are to be had, if they are.
    pub(crate) metrics: Option<SocketAddr>,
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
    /// Where clients come in, and which servers they want there.
    pub(crate) listen: Vec<(SocketAddr, SessionAttrs)>,
    /// All of them, those of single databases included.
    pub(crate) backends: Vec<ServerAddress>,
    pub(crate) max_client_conn: usize,
    pub(crate) pool: Option<Pool>,
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
    /// What holds for all other users.
    pub(crate) usual: User,
    pub(crate) engine: Choice,
    pub(crate) threads: usize,
    pub(crate) zero_copy_bytes_min: u32,
    pub(crate) peers: Peers,
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
    pub(crate) user: String,
    pub(crate) database: String,
    pub(crate) password_file: Option<PathBuf>,
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
    let read = std::fs::read_to_string(path)
        .map_err(|error| vec![format!("cannot be read: {error}")])
        .and_then(|text| parse(&text))
        .and_then(|config| {
            let problem = config.proxy.as_ref().and_then(crate::descriptors::check);
            problem.map_or(Ok(config), |problem| Err(vec![problem]))
        });
    read.map_err(|problems| Problems { file: path.to_owned(), problems })
}

/// Checks the text of a file, as far as that does not depend on the machine.
pub(crate) fn parse(text: &str) -> Result<Config, Vec<String>> {
    let raw: raw::Config =
        toml::from_str(text).map_err(|error| vec![error.to_string().trim_end().to_owned()])?;
    check::check(raw)
}
