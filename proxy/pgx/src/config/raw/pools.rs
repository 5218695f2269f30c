//! The form of what is said of databases and users; the words are PgBouncer's where it has them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use toml_example::TomlExample;

#[derive(Debug, Deserialize, Serialize, TomlExample)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Database {
    /// Its name for clients; "*" stands for all that are not named.
    #[toml_example(default = "shop")]
    pub(in crate::config) name: String,
    /// Where it is; the backends above if they are not given.
    #[toml_example(default = ["127.0.0.1:5432"])]
    pub(in crate::config) backends: Option<Vec<String>>,
    /// Which of them its clients want: "any", "read-write", "read-only", "primary", "standby" or
    /// "prefer-standby", as in libpq; what the listener says if it is not given.
    #[toml_example(default = "any")]
    pub(in crate::config) target: Option<String>,
    /// Shares of connections among backends of one kind; 1 for those that are not named.
    #[serde(default)]
    #[toml_example(default = { "127.0.0.1:5432" = 2 })]
    pub(in crate::config) weights: BTreeMap<String, u32>,
    /// Milliseconds that a standby may be behind before it gets no clients; 0 means no limit.
    #[serde(default)]
    #[toml_example(default = 0)]
    pub(in crate::config) standby_lag_ms_max: u32,
    /// Its name on the server; the same if it is not given.
    #[toml_example(default = "shop")]
    pub(in crate::config) dbname: Option<String>,
    /// The user that all its clients are on the server, who share connections then; each is
    /// itself if it is not given.
    #[toml_example(default = "shop_app")]
    pub(in crate::config) user: Option<String>,
    /// That user's password; the secret in auth_file if it is not given.
    #[toml_example(default = "secret")]
    pub(in crate::config) password: Option<String>,
    /// How its users are looked up; as above if they are not given.
    #[toml_example(default = "pgx_auth")]
    pub(in crate::config) auth_user: Option<String>,
    #[toml_example(default = "SELECT name, secret FROM pgx_auth.get_user($1)")]
    pub(in crate::config) auth_query: Option<String>,
    #[toml_example(default = "shop")]
    pub(in crate::config) auth_dbname: Option<String>,
    /// "session", "transaction" or "statement"; as above if it is not given.
    #[toml_example(default = "transaction")]
    pub(in crate::config) pool_mode: Option<String>,
    /// "keep" or "refuse"; as above if it is not given.
    #[toml_example(default = "keep")]
    pub(in crate::config) session_state: Option<String>,
    /// Server connections of each user; default_pool_size if it is not given.
    #[toml_example(default = 20)]
    pub(in crate::config) pool_size: Option<u32>,
    /// Server connections of each user that are kept even if nobody needs them, as long as the
    /// user has clients or "user" is given.
    #[toml_example(default = 0)]
    pub(in crate::config) min_pool_size: Option<u32>,
    /// Server connections of each user beyond pool_size, for clients that have waited long.
    #[toml_example(default = 0)]
    pub(in crate::config) reserve_pool_size: Option<u32>,
    /// Seconds that a client waits before it may have one of those.
    #[toml_example(default = 5)]
    pub(in crate::config) reserve_pool_timeout: Option<u32>,
    /// Server connections of all users; 0 means no limit.
    #[toml_example(default = 0)]
    pub(in crate::config) max_db_connections: Option<u32>,
    /// Clients; 0 means no limit.
    #[serde(default)]
    #[toml_example(default = 0)]
    pub(in crate::config) max_db_client_connections: u32,
}

#[derive(Debug, Deserialize, Serialize, TomlExample)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct User {
    /// The user's name.
    #[toml_example(default = "reports")]
    pub(in crate::config) name: String,
    /// "session", "transaction" or "statement".
    #[toml_example(default = "session")]
    pub(in crate::config) pool_mode: Option<String>,
    /// Server connections in each database.
    #[toml_example(default = 5)]
    pub(in crate::config) pool_size: Option<u32>,
    /// Server connections in all databases; 0 means no limit.
    #[toml_example(default = 0)]
    pub(in crate::config) max_user_connections: Option<u32>,
    /// Clients that log in as this user; 0 means no limit.
    #[serde(default)]
    #[toml_example(default = 0)]
    pub(in crate::config) max_user_client_connections: u32,
}

#[derive(Debug, Deserialize, Serialize, TomlExample)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Listener {
    /// Address and port.
    #[toml_example(default = "0.0.0.0:6434")]
    pub(in crate::config) listen: String,
    /// Which servers clients want that come in there: "any", "read-write", "read-only",
    /// "primary", "standby" or "prefer-standby", as in libpq.
    #[toml_example(default = "standby")]
    pub(in crate::config) target: String,
}
