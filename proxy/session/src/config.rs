//! What a worker is told about databases, users and limits.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use pgx_hba::{Ident, Network, Rules};

use crate::attrs::SessionAttrs;
use crate::limits::BACK_OFF_MS_MIN;
use crate::route::{Backend, ServerAddress};
use crate::secret::Secret;

/// When a client gives its server back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PoolMode {
    /// When it leaves.
    Session,
    /// At the end of each transaction.
    Transaction,
    /// At the end of each statement; transaction blocks are refused.
    Statement,
}

/// How clients prove who they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthMethod {
    /// They do not have to.
    Trust,
    /// By a digest of their password.
    Md5,
    /// By SCRAM-SHA-256.
    Scram,
    /// As the rules say: see [`Config::rules`].
    Rules,
}

/// Who may log in from where, and how.
#[derive(Clone, Debug)]
pub struct Access {
    /// The rules, of which the first that matches decides.
    pub rules: Rules,
    /// Which names of certificates are which users.
    pub ident: Ident,
}

/// Whether connections are encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tls {
    /// They are not.
    Never,
    /// They are if the other side wants to, or can.
    Offered,
    /// Those that are not come to nothing.
    Required,
}

/// A database that clients can name.
#[derive(Clone, Debug)]
pub struct Database {
    /// Where it is served, in order of preference among equals.
    pub backends: Vec<Backend>,
    /// Whether it is the cluster's: its servers are those that the cluster names, once it does, and
    /// not `backends`.
    pub is_clusters: bool,
    /// Its name there; the same if there is none.
    pub name: Option<String>,
    /// Which of them its clients want, unless they say otherwise.
    pub attrs: Option<SessionAttrs>,
    /// How many milliseconds standbys may be behind; zero means no limit.
    pub lag_ms_max: u64,
    /// As whom servers are used, whoever the client is; as the client's own user if there is none.
    pub login: Option<ForcedLogin>,
    /// How users are looked up whose secrets are not in [`Config::users`].
    pub lookup: Option<Arc<Lookup>>,
    /// When clients give their servers back.
    pub mode: PoolMode,
    /// Clients that share servers may leave nothing on them that cannot follow a client.
    pub refuses_state: bool,
    /// Servers of each user at most.
    pub pool_size: usize,
    /// Servers of each user that are there even if nobody needs them, once clients are.
    pub pool_min: usize,
    /// Servers of each user beyond `pool_size`.
    pub reserve: usize,
    /// How long a client waits before it may have one of those, in milliseconds.
    pub reserve_ms: u64,
    /// Servers of all users; zero means no limit.
    pub servers_max: usize,
    /// Clients; zero means no limit.
    pub clients_max: usize,
}

impl Database {
    /// A database without more settings.
    #[must_use]
    pub fn new(backends: Vec<Backend>, mode: PoolMode, pool_size: usize) -> Self {
        Self {
            backends,
            is_clusters: false,
            name: None,
            attrs: None,
            lag_ms_max: 0,
            login: None,
            lookup: None,
            mode,
            refuses_state: false,
            pool_size,
            pool_min: 0,
            reserve: 0,
            reserve_ms: RESERVE_MS,
            servers_max: 0,
            clients_max: 0,
        }
    }
}

/// How long a client waits before it may have a server of the reserve, unless configured otherwise.
pub const RESERVE_MS: u64 = 5_000;

/// The user that a database's servers are used as. Its clients share them.
#[derive(Clone, Debug)]
pub struct ForcedLogin {
    /// The user.
    pub user: Vec<u8>,
    /// What logs it in; the secret that is known of the user if there is none.
    pub secret: Option<Secret>,
}

/// How the secrets of users are looked up on servers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lookup {
    /// As whom.
    pub user: Vec<u8>,
    /// In which database, as clients name it; the client's own if there is none.
    pub database: Option<Vec<u8>>,
    /// What is asked, with the user's name as its parameter: for one row of two columns, the name
    /// and the secret, or none.
    pub query: String,
}

/// What is special about a user; what is `None` is as for everybody.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct User {
    /// When clients give servers of this user's back, whatever their database says.
    pub mode: Option<PoolMode>,
    /// Servers in each database at most, whatever the database says.
    pub pool_size: Option<usize>,
    /// Servers in all databases; zero means no limit.
    pub servers_max: usize,
    /// Clients that log in as this user; zero means no limit.
    pub clients_max: usize,
}

/// Everything. Times in milliseconds; zero means no limit.
#[derive(Clone, Debug)]
pub struct Config {
    /// Databases by name; `*` stands for all others.
    pub databases: BTreeMap<Vec<u8>, Database>,
    /// Users' secrets by their names.
    pub users: BTreeMap<Vec<u8>, Secret>,
    /// Who may see and change everything in the console.
    pub admins: BTreeSet<Vec<u8>>,
    /// Who may see what there is in the console.
    pub viewers: BTreeSet<Vec<u8>>,
    /// What is special about users, by their names.
    pub special: BTreeMap<Vec<u8>, User>,
    /// What holds for all other users.
    pub usual: User,
    /// How clients prove who they are.
    pub auth: AuthMethod,
    /// What [`AuthMethod::Rules`] goes by; without rules nobody is let in.
    pub rules: Option<Arc<Access>>,
    /// This host's addresses, if the rules look at them.
    pub interfaces: Vec<Network>,
    /// Whether clients' connections are encrypted.
    pub client_tls: Tls,
    /// Whether connections to servers are.
    pub server_tls: Tls,
    /// Clients at once.
    pub clients_max: usize,
    /// Other nodes whose clients' queries may be cancelled here, and the other way round.
    pub peers: Peers,
    /// How long things may take, and how much is kept.
    pub limits: Limits,
}

/// How long things may take, and how much is kept. Times in milliseconds; zero means no limit,
/// unless said otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Statements kept prepared on each server.
    pub prepared_max: usize,
    /// How long a client may take to log in.
    pub client_login_ms: u64,
    /// How long a client waits for a server.
    pub query_wait_ms: u64,
    /// How long opening a server may take.
    pub server_connect_ms: u64,
    /// How long a server may be idle.
    pub server_idle_ms: u64,
    /// How long after a failed login no server is opened where all have failed.
    pub server_retry_ms: u64,
    /// How long a server lives; zero means that each is used once.
    pub server_lifetime_ms: u64,
    /// How long a client may be idle.
    pub client_idle_ms: u64,
    /// How long a query may take.
    pub query_ms: u64,
    /// How long a client may leave a transaction idle.
    pub idle_transaction_ms: u64,
    /// How long a transaction may take, from its first statement on.
    pub transaction_ms: u64,
}

/// Nodes that pass requests to cancel on to each other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peers {
    /// This node's number among them, from 1 to [`PEER_MAX`]; 0 if there are no others.
    pub own: u8,
    /// Where the others are, by their numbers.
    pub others: BTreeMap<u8, ServerAddress>,
}

/// The largest number of a node among those that pass requests to cancel on to each other: the
/// keys that clients get have room for no more.
pub const PEER_MAX: u8 = 15;

impl Default for Config {
    fn default() -> Self {
        Self {
            databases: BTreeMap::new(),
            users: BTreeMap::new(),
            admins: BTreeSet::new(),
            viewers: BTreeSet::new(),
            special: BTreeMap::new(),
            usual: User::default(),
            auth: AuthMethod::Scram,
            rules: None,
            interfaces: Vec::new(),
            client_tls: Tls::Never,
            server_tls: Tls::Never,
            clients_max: 1_000,
            peers: Peers::default(),
            limits: Limits::default(),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            prepared_max: 200,
            client_login_ms: 60_000,
            query_wait_ms: 120_000,
            server_connect_ms: 15_000,
            server_idle_ms: 600_000,
            server_retry_ms: BACK_OFF_MS_MIN,
            server_lifetime_ms: 3_600_000,
            client_idle_ms: 0,
            query_ms: 0,
            idle_transaction_ms: 0,
            transaction_ms: 0,
        }
    }
}

impl Config {
    /// The database of that name.
    #[must_use]
    pub fn database(&self, name: &[u8]) -> Option<&Database> {
        self.databases.get(name).or_else(|| self.databases.get(&b"*"[..]))
    }
}
