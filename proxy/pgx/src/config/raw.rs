//! The form of the configuration file. The comments here are the ones that users read: the
//! example configuration is made from them.

mod pools;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use toml_example::TomlExample;

pub(super) use pools::{Database, Listener, User};

/// Configuration of pgx. A node has the roles whose sections are there: switch on what it is to be.
#[derive(Debug, Deserialize, TomlExample)]
#[serde(deny_unknown_fields)]
pub(super) struct Config {
    /// How operators reach this pgx.
    #[serde(default)]
    #[toml_example(nesting)]
    pub(super) admin: Admin,
    /// Clients connect here and are passed on to a backend.
    #[toml_example(nesting)]
    pub(super) proxy: Option<Proxy>,
    /// The kernel's part of the virtual address.
    #[toml_example(nesting)]
    pub(super) vip: Option<Vip>,
    /// This node's part in the cluster: who it is, and who the others are.
    #[toml_example(nesting)]
    pub(super) control: Option<Control>,
    /// This host's PostgreSQL, which pgx runs; docs/POSTGRES.md says what it does to it.
    #[toml_example(nesting)]
    pub(super) postgres: Option<Postgres>,
    /// The kernel's fence around this host's PostgreSQL: its port is shut until a lease opens it.
    #[toml_example(nesting)]
    pub(super) fence: Option<Fence>,
    /// Load balancers ask by HTTP whether this node is well; operators on other hosts do what
    /// `pgx ctl` does.
    #[toml_example(nesting)]
    pub(super) http: Option<Http>,
    /// What this pgx counts and knows, for Prometheus.
    #[toml_example(nesting)]
    pub(super) metrics: Option<Metrics>,
}

#[derive(Debug, Deserialize, TomlExample)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Admin {
    /// Unix socket that `pgx ctl` talks to. Only root and the user that runs pgx may use it.
    #[toml_example(default = "/run/pgx/admin.sock")]
    pub(super) socket: String,
    /// A file for the process id, for programs that want one; pgx itself goes by its admin socket.
    #[toml_example(default = "/run/pgx/pgx.pid")]
    pub(super) pid_file: Option<String>,
}

impl Default for Admin {
    fn default() -> Self {
        Self { socket: super::ADMIN_SOCKET.to_owned(), pid_file: None }
    }
}

#[derive(Debug, Deserialize, Serialize, TomlExample)]
#[serde(deny_unknown_fields)]
pub(super) struct Proxy {
    /// Addresses and ports to listen on. Who is to be reached from other hosts names addresses of
    /// this one, or `0.0.0.0:6432` and `[::]:6432` for all.
    #[toml_example(default = ["127.0.0.1:6432", "[::1]:6432"])]
    pub(super) listen: Option<Vec<String>>,
    /// Folder for Unix sockets, one for each port above, with the names that libpq looks for:
    /// .s.PGSQL.6432. None if it is not given.
    #[toml_example(default = "/run/postgresql")]
    pub(super) unix_socket_dir: Option<String>,
    /// Who may connect to them, as of chmod.
    #[toml_example(default = "0777")]
    pub(super) unix_socket_mode: Option<String>,
    /// The group that they belong to; that of the process if it is not given.
    #[toml_example(default = "postgres")]
    pub(super) unix_socket_group: Option<String>,
    /// Backends as host:port, used in turn; one that fails is left out for a while. With a pool
    /// the path of a Unix socket will do, and they serve every database that is not named below;
    /// without them only those below are there.
    #[serde(default)]
    #[toml_example(default = ["127.0.0.1:5432"])]
    pub(super) backends: Vec<String>,
    /// With a pool and the section control: in place of "backends", clients go where the cluster's
    /// primary is, and those that want a standby to one. PostgreSQL listens at this port on all
    /// its hosts.
    #[toml_example(default = 5432)]
    pub(super) cluster_port: Option<u16>,
    /// Clients served at once; the next one is turned away with SQLSTATE 53300.
    #[serde(default = "max_client_conn")]
    #[toml_example(default = 1000)]
    pub(super) max_client_conn: u32,
    /// Seconds that sessions may go on when pgx is asked to stop, or when another process has taken
    /// over; then they are cut.
    #[serde(default = "drain_timeout")]
    #[toml_example(default = 60)]
    pub(super) drain_timeout: u32,
    /// When a client gives its server connection back: "session" (when it leaves), "transaction",
    /// "statement" (the same, and transaction blocks are refused), or "none": each client has a
    /// connection of its own and logs in at the server itself.
    #[serde(default = "pool_mode")]
    #[toml_example(default = "none")]
    pub(super) pool_mode: String,
    /// With a pool: what becomes of state that cannot follow a client from server to server, such
    /// as LISTEN or a temporary table: "keep" (its server stays with the client) or "refuse".
    #[serde(default = "session_state")]
    #[toml_example(default = "keep")]
    pub(super) session_state: String,
    /// With a pool: how clients prove who they are: "scram-sha-256", "md5", "hba" (as the rules in
    /// auth_hba_file say), or "trust", by which whoever reaches the port may act as any user.
    #[serde(default = "auth_type")]
    #[toml_example(default = "scram-sha-256")]
    pub(super) auth_type: String,
    /// With a pool: file of users and their secrets, each line "user" "secret", both in double
    /// quotes. A secret is a password, or what PostgreSQL keeps in pg_authid.rolpassword.
    #[toml_example(default = "/etc/pgx/users.txt")]
    pub(super) auth_file: Option<String>,
    /// With a pool: as whom users are looked up that are not in auth_file, by auth_query. It may
    /// read secrets, and its own is in auth_file.
    #[toml_example(default = "pgx_auth")]
    pub(super) auth_user: Option<String>,
    /// The query: one row of two columns, $1 and the secret as PostgreSQL keeps it, or no row.
    #[toml_example(default = "SELECT name, secret FROM pgx_auth.get_user($1)")]
    pub(super) auth_query: Option<String>,
    /// In which database, as clients name it; in that of the client if it is not given.
    #[toml_example(default = "postgres")]
    pub(super) auth_dbname: Option<String>,
    /// With a pool: users who may log in to the database "pgx" (or "pgbouncer"), which is pgx
    /// itself, and change things there.
    #[serde(default)]
    #[toml_example(default = ["postgres"])]
    pub(super) admin_users: Vec<String>,
    /// The same, who may only look.
    #[serde(default)]
    #[toml_example(default = ["metrics"])]
    pub(super) stats_users: Vec<String>,
    /// With a pool: rules in the form of PostgreSQL's pg_hba.conf, for auth_type "hba".
    #[toml_example(default = "/etc/pgx/pg_hba.conf")]
    pub(super) auth_hba_file: Option<String>,
    /// With a pool: which names in certificates are which users, as in PostgreSQL's pg_ident.conf.
    #[toml_example(default = "/etc/pgx/pg_ident.conf")]
    pub(super) auth_ident_file: Option<String>,
    /// With a pool: whether clients' connections are encrypted, by words of PgBouncer: "disable",
    /// "allow" or "prefer" (if the client wants it), "require", "verify-ca" or "verify-full" (with
    /// a certificate that an authority of client_tls_ca_file has signed).
    #[toml_example(default = "disable")]
    pub(super) client_tls_sslmode: Option<String>,
    /// pgx's own certificate, with those between it and its authority, and its key, in PEM.
    #[toml_example(default = "/etc/pgx/server.crt")]
    pub(super) client_tls_cert_file: Option<String>,
    #[toml_example(default = "/etc/pgx/server.key")]
    pub(super) client_tls_key_file: Option<String>,
    /// Authorities that clients' certificates are to be signed by.
    #[toml_example(default = "/etc/pgx/clients-ca.crt")]
    pub(super) client_tls_ca_file: Option<String>,
    /// With a pool: whether connections to servers are encrypted: "disable", "prefer" (if the
    /// server can), "require", "verify-ca" (with a certificate that an authority of
    /// server_tls_ca_file has signed) or "verify-full" (for the name in "backends", too). Unix
    /// sockets never are.
    #[toml_example(default = "prefer")]
    pub(super) server_tls_sslmode: Option<String>,
    /// Authorities that servers' certificates are to be signed by.
    #[toml_example(default = "/etc/pgx/servers-ca.crt")]
    pub(super) server_tls_ca_file: Option<String>,
    /// pgx's own certificate and key for servers that ask for one.
    #[toml_example(default = "/etc/pgx/client.crt")]
    pub(super) server_tls_cert_file: Option<String>,
    #[toml_example(default = "/etc/pgx/client.key")]
    pub(super) server_tls_key_file: Option<String>,
    /// With a pool: server connections of each user in each database.
    #[serde(default = "default_pool_size")]
    #[toml_example(default = 20)]
    pub(super) default_pool_size: u32,
    /// With a pool: server connections of each user in each database that are kept even if nobody
    /// needs them, as long as the user has clients there.
    #[serde(default)]
    #[toml_example(default = 0)]
    pub(super) min_pool_size: u32,
    /// With a pool: server connections of each user in each database beyond default_pool_size, for
    /// clients that have waited long.
    #[serde(default)]
    #[toml_example(default = 0)]
    pub(super) reserve_pool_size: u32,
    /// With a pool: seconds that a client waits before it may have one of those.
    #[serde(default = "reserve_pool_timeout")]
    #[toml_example(default = 5)]
    pub(super) reserve_pool_timeout: u32,
    /// With a pool: server connections of all users in each database; 0 means no limit.
    #[serde(default)]
    #[toml_example(default = 0)]
    pub(super) max_db_connections: u32,
    /// With a pool: server connections of each user in all databases; 0 means no limit.
    #[serde(default)]
    #[toml_example(default = 0)]
    pub(super) max_user_connections: u32,
    /// With a pool: statements of the protocol that are kept prepared on each server.
    #[toml_example(default = 200)]
    pub(super) max_prepared_statements: Option<u32>,
    /// With a pool, in seconds; 0 means no limit: how long a client may take to log in.
    #[toml_example(default = 60)]
    pub(super) client_login_timeout: Option<u32>,
    /// How long a client may wait for a server before it is told so.
    #[toml_example(default = 120)]
    pub(super) query_wait_timeout: Option<u32>,
    /// How long a query may take; then its client and its server are let go.
    #[toml_example(default = 0)]
    pub(super) query_timeout: Option<u32>,
    /// How long a client may leave a transaction idle.
    #[toml_example(default = 0)]
    pub(super) idle_transaction_timeout: Option<u32>,
    /// How long a client may be idle.
    #[toml_example(default = 0)]
    pub(super) client_idle_timeout: Option<u32>,
    /// How long it may take to open a server and to log in there.
    #[toml_example(default = 15)]
    pub(super) server_connect_timeout: Option<u32>,
    /// How long a server may be idle.
    #[toml_example(default = 600)]
    pub(super) server_idle_timeout: Option<u32>,
    /// How long a transaction may take, from its first statement on; then its client and its
    /// server are let go.
    #[toml_example(default = 0)]
    pub(super) transaction_timeout: Option<u32>,
    /// How long after a failed login at each backend the next is tried, also in fractions; not 0.
    #[toml_example(default = 0.1)]
    pub(super) server_login_retry: Option<f64>,
    /// How old a server may become; it is closed when it is free. 0 means that each is used once.
    #[toml_example(default = 3600)]
    pub(super) server_lifetime: Option<u32>,
    /// With a pool: how its threads do their I/O: "auto", "full" (io_uring of kernel 6.1 and
    /// later), "reduced" (io_uring of older kernels) or "epoll".
    #[toml_example(default = "auto")]
    pub(super) engine: Option<String>,
    /// Threads that serve clients; as many as there are processors if it is not given.
    #[toml_example(default = 2)]
    pub(super) threads: Option<u32>,
    /// With a pool on io_uring: sends of at least so many bytes go out without a copy by the
    /// kernel. 0 copies all, which is faster unless a network card does the rest: measure it.
    #[serde(default)]
    #[toml_example(default = 0)]
    pub(super) zero_copy_bytes_min: u32,
    /// With a pool: this node's number among those named in "peers", from 1 to 15, not that of
    /// another. Clients' requests to cancel may come to any of them.
    #[toml_example(default = 1)]
    pub(super) peer_id: Option<u32>,
    /// With a pool: where the other nodes' clients come in, by the nodes' numbers.
    #[toml_example(default = { "2" = "10.0.0.2:6432" })]
    pub(super) peers: Option<BTreeMap<String, String>>,
    /// With a pool: more addresses to listen on, whose clients want certain servers. A client may
    /// say otherwise by options=-c pgx.target=..., and so may its database.
    #[toml_example(nesting)]
    pub(super) listeners: Option<Vec<Listener>>,
    /// With a pool: databases with settings of their own.
    #[toml_example(nesting)]
    pub(super) databases: Option<Vec<Database>>,
    /// With a pool: users with settings of their own, which come before those of databases. Those
    /// about servers are of the user that servers are used as.
    #[toml_example(nesting)]
    pub(super) users: Option<Vec<User>>,
}

/// Keys of `[proxy]` that are tables of their own.
pub(super) const TABLES: [&str; 3] = ["databases", "users", "listeners"];

/// Keys of `[proxy]` that take a new start.
pub(super) const FIXED: [&str; 10] = [
    "cluster_port",
    "listen",
    "unix_socket_dir",
    "unix_socket_mode",
    "unix_socket_group",
    "engine",
    "threads",
    "zero_copy_bytes_min",
    "peer_id",
    "peers",
];

fn pool_mode() -> String {
    "none".to_owned()
}

fn drain_timeout() -> u32 {
    crate::limits::DRAIN_SECONDS
}

fn session_state() -> String {
    "keep".to_owned()
}

fn auth_type() -> String {
    "scram-sha-256".to_owned()
}

fn reserve_pool_timeout() -> u32 {
    5
}

fn default_pool_size() -> u32 {
    20
}

fn max_client_conn() -> u32 {
    1000
}

#[derive(Debug, Deserialize, TomlExample)]
#[serde(deny_unknown_fields)]
pub(super) struct Vip {
    /// Network interface whose packets the XDP program sees; the addresses are on its network.
    #[toml_example(default = "eth0")]
    pub(super) interface: String,
    /// How addresses are held: "xdp" (answered in the kernel, under the lease), "address" (on the
    /// interface while the lease lasts), "command" (by a program of yours) or "none".
    #[serde(default = "vip_mode")]
    #[toml_example(default = "xdp")]
    pub(super) mode: String,
    /// The program of mode "command", called as PROGRAM take|release INTERFACE ADDRESS...
    #[toml_example(default = "/usr/local/sbin/move-address")]
    pub(super) command: Option<String>,
    /// Milliseconds that one call of it may take before it is killed.
    #[serde(default = "command_ms_max")]
    #[toml_example(default = 5000)]
    pub(super) command_ms_max: u32,
    /// Addresses that come and go together: whoever holds the lease answers for them.
    #[toml_example(nesting)]
    pub(super) leases: Option<Vec<VipLease>>,
}

fn vip_mode() -> String {
    "xdp".to_owned()
}

fn command_ms_max() -> u32 {
    5000
}

#[derive(Debug, Deserialize, TomlExample)]
#[serde(deny_unknown_fields)]
pub(super) struct VipLease {
    /// The lease's number, from 1, the same on every node.
    #[toml_example(default = 1)]
    pub(super) id: u32,
    /// What clients find there: "read-write" (the primary) or "read-only" (standbys).
    #[toml_example(default = "read-write")]
    pub(super) role: String,
    /// The addresses, without a prefix; usually one of each family.
    #[toml_example(default = ["10.0.0.50", "fd00::50"])]
    pub(super) addresses: Vec<String>,
    /// Of the nodes that could have it, the one with the higher number gets it, when it is free.
    #[serde(default)]
    #[toml_example(default = 0)]
    pub(super) priority: u32,
}

#[derive(Debug, Deserialize, TomlExample)]
#[serde(deny_unknown_fields)]
pub(super) struct Control {
    /// This node's number, from 1, also in its certificate; never used again for another node.
    #[toml_example(default = 1)]
    pub(super) node: u64,
    /// Address and port where the other nodes reach this one.
    #[serde(default = "control_listen")]
    #[toml_example(default = "0.0.0.0:6433")]
    pub(super) listen: String,
    /// This node's certificate, made by `pgx init node`.
    #[toml_example(default = "/etc/pgx/node.pem")]
    pub(super) certificate: String,
    /// The key of that certificate.
    #[toml_example(default = "/etc/pgx/node.key")]
    pub(super) key: String,
    /// The authorities whose certificates are accepted; several while one takes over from another.
    #[toml_example(default = "/etc/pgx/ca.pem")]
    pub(super) ca: String,
    /// Folder for what this node must not forget; made by `pgx init store`.
    #[serde(default = "control_data")]
    #[toml_example(default = "/var/lib/pgx")]
    pub(super) data: String,
    /// Among standbys that are equally far, the one with the higher number becomes primary.
    #[serde(default)]
    #[toml_example(default = 0)]
    pub(super) priority: u32,
    /// The other nodes.
    #[toml_example(nesting)]
    pub(super) peers: Option<Vec<Peer>>,
}

fn control_listen() -> String {
    "0.0.0.0:6433".to_owned()
}

fn control_data() -> String {
    super::CONTROL_DATA.to_owned()
}

#[derive(Debug, Deserialize, TomlExample)]
#[serde(deny_unknown_fields)]
pub(super) struct Postgres {
    /// PostgreSQL's data directory. Beside it, in a folder of its name with ".pgx" at the end, pgx
    /// keeps what it needs. Where there is none, it becomes a copy of the primary's. One that 'pgx
    /// init postgres' has neither founded nor taken over is watched and not touched.
    #[toml_example(default = "/var/lib/postgresql/data")]
    pub(super) data_directory: String,
    /// The folder with its programs.
    #[toml_example(default = "/usr/lib/postgresql/17/bin")]
    pub(super) bin_directory: String,
    /// postgresql.conf, if it is not in the data directory.
    #[toml_example(default = "/etc/postgresql/17/main/postgresql.conf")]
    pub(super) config_file: Option<String>,
    /// The port, the same on all hosts of the cluster.
    #[serde(default = "postgres_port")]
    #[toml_example(default = 5432)]
    pub(super) port: u16,
    /// The addresses that it listens on: the other hosts and the proxies must reach it.
    #[serde(default = "postgres_listen")]
    #[toml_example(default = "*")]
    pub(super) listen_addresses: String,
    /// The folder of its Unix socket, which only its user may enter: clients come by the proxy. In
    /// pgx's folder beside the data directory unless it is given.
    #[toml_example(default = "/run/pgx/postgres")]
    pub(super) socket_directory: Option<String>,
    /// The system's user that a new data directory belongs to, and that PostgreSQL runs as.
    #[serde(default = "postgres_name")]
    #[toml_example(default = "postgres")]
    pub(super) system_user: String,
    /// The role by which members receive from one another, rewind and clone; pgx makes it.
    #[serde(default = "replication_user")]
    #[toml_example(default = "pgx")]
    pub(super) replication_user: String,
    /// The file with its password on the first line, the same on every host. 'pgx init postgres'
    /// makes it where there is none; copy it to the other hosts.
    #[serde(default = "replication_password_file")]
    #[toml_example(default = "/etc/pgx/replication.password")]
    pub(super) replication_password_file: String,
    /// How members encrypt what goes between them, in libpq's words.
    #[serde(default = "replication_sslmode")]
    #[toml_example(default = "prefer")]
    pub(super) replication_sslmode: String,
    /// How much of its log a primary keeps for a member that is away, in MiB; one that is away for
    /// longer is cloned anew.
    #[serde(default = "wal_keep_mb")]
    #[toml_example(default = 10240)]
    pub(super) wal_keep_mb: u32,
    /// The role by which pgx asks whether queries are still answered, and sets what it has to:
    /// a superuser. pgx connects by the Unix socket with the rights of the data directory's owner,
    /// so `peer` in pg_hba.conf lets it in.
    #[serde(default = "postgres_name")]
    #[toml_example(default = "postgres")]
    pub(super) user: String,
    /// The database that it connects to.
    #[serde(default = "postgres_name")]
    #[toml_example(default = "postgres")]
    pub(super) database: String,
    /// A file with that role's password on its first line, where one is asked for.
    #[toml_example(default = "/etc/pgx/postgres.password")]
    pub(super) password_file: Option<String>,
    /// A program, as an absolute path and words, that fills an empty data directory from a backup
    /// when this host needs a copy; pg_basebackup does so where it is not given, or fails.
    #[toml_example(default = ["/usr/bin/pgbackrest", "--stanza=main", "--type=standby", "restore"])]
    pub(super) clone_command: Option<Vec<String>>,
    /// Programs that are called after something has happened to this host's PostgreSQL: arrays of
    /// an absolute path and words, without a shell. They run as PostgreSQL's user, one at a time,
    /// and nothing waits for them; docs/POSTGRES.md says what they are told.
    #[toml_example(nesting)]
    pub(super) hooks: Option<Hooks>,
}

#[derive(Debug, Deserialize, TomlExample)]
#[serde(deny_unknown_fields)]
pub(super) struct Hooks {
    /// It has become the primary of an epoch.
    #[toml_example(default = ["/usr/local/bin/pgx-hook"])]
    pub(super) on_promote: Option<Vec<String>>,
    /// It was the primary, and has ended.
    #[toml_example(default = ["/usr/local/bin/pgx-hook"])]
    pub(super) on_demote: Option<Vec<String>>,
    /// It runs as a standby, and receives from another node than before.
    #[toml_example(default = ["/usr/local/bin/pgx-hook"])]
    pub(super) on_follow: Option<Vec<String>>,
    /// Its directory is being rewound, or replaced by a copy.
    #[toml_example(default = ["/usr/local/bin/pgx-hook"])]
    pub(super) on_rebuild_begin: Option<Vec<String>>,
    /// That is done, or not wanted any more.
    #[toml_example(default = ["/usr/local/bin/pgx-hook"])]
    pub(super) on_rebuild_end: Option<Vec<String>>,
    /// How long each may take, in milliseconds, before it is killed with its process group.
    #[serde(default = "hook_ms_max")]
    #[toml_example(default = 10000)]
    pub(super) hook_ms_max: u32,
}

fn hook_ms_max() -> u32 {
    10_000
}

fn postgres_name() -> String {
    "postgres".to_owned()
}

fn postgres_listen() -> String {
    "*".to_owned()
}

fn replication_user() -> String {
    "pgx".to_owned()
}

fn replication_password_file() -> String {
    "/etc/pgx/replication.password".to_owned()
}

fn replication_sslmode() -> String {
    "prefer".to_owned()
}

fn wal_keep_mb() -> u32 {
    10_240
}

#[derive(Debug, Deserialize, TomlExample)]
#[serde(deny_unknown_fields)]
pub(super) struct Peer {
    /// The node's number.
    #[toml_example(default = 2)]
    pub(super) id: u64,
    /// Its control.listen as host:port.
    #[toml_example(default = "db2:6433")]
    pub(super) address: String,
}

#[derive(Debug, Deserialize, TomlExample)]
#[serde(deny_unknown_fields)]
pub(super) struct Fence {
    /// PostgreSQL's port: postgres.port, or 5432 where there is no such section.
    #[toml_example(default = 5432)]
    pub(super) port: Option<u16>,
    /// The best means that may be used: native, generic, tcx, clsact, nftables or none. Each stands
    /// for itself and all that come after it.
    #[serde(default = "fence_best")]
    #[toml_example(default = "native")]
    pub(super) best: String,
}

fn postgres_port() -> u16 {
    pgx_bpf::PORT_DEFAULT
}

fn fence_best() -> String {
    "native".to_owned()
}

#[derive(Debug, Deserialize, TomlExample)]
#[serde(deny_unknown_fields)]
pub(super) struct Http {
    /// Address and port. Whoever reaches it may ask whether this node is well, and nothing else.
    #[serde(default = "http_listen")]
    #[toml_example(default = "127.0.0.1:6434")]
    pub(super) listen: String,
    /// This node's certificate, by which it is served encrypted. It is read at the start.
    #[toml_example(default = "/etc/pgx/http.pem")]
    pub(super) tls_cert_file: Option<String>,
    /// The key that belongs to it.
    #[toml_example(default = "/etc/pgx/http.key")]
    pub(super) tls_key_file: Option<String>,
    /// The authorities that sign the certificates of those who may do more.
    #[toml_example(default = "/etc/pgx/operators-ca.pem")]
    pub(super) tls_ca_file: Option<String>,
    /// Who may look at everything, by the common names of their certificates.
    #[toml_example(default = ["monitoring"])]
    pub(super) viewers: Option<Vec<String>>,
    /// Who may change things, too.
    #[toml_example(default = ["alice"])]
    pub(super) operators: Option<Vec<String>>,
}

fn http_listen() -> String {
    format!("127.0.0.1:{}", super::HTTP_PORT)
}

#[derive(Debug, Deserialize, TomlExample)]
#[serde(deny_unknown_fields)]
pub(super) struct Metrics {
    /// Address and port of http://…/metrics. Whoever reaches it may read the names of databases,
    /// users and backends.
    #[serde(default = "metrics_listen")]
    #[toml_example(default = "127.0.0.1:9127")]
    pub(super) listen: String,
}

fn metrics_listen() -> String {
    "127.0.0.1:9127".to_owned()
}
