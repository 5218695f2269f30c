//! What is said of databases and users, from the file's form to what sessions are told.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use pgx_session::attrs::SessionAttrs;
use pgx_session::config::{Database, ForcedLogin, Lookup, PEER_MAX, Peers, PoolMode, User};
use pgx_session::limits::BACKENDS_MAX;
use pgx_session::route::{Backend, ServerAddress};
use pgx_session::secret::Secret;
use pgx_session::worker::is_console;

use super::{is_host_and_port, raw};

/// What is asked of users unless configured otherwise: only a superuser may.
const LOOKUP: &str = "SELECT rolname, rolpassword FROM pg_catalog.pg_authid WHERE rolname = $1 \
    AND rolcanlogin AND (rolvaliduntil IS NULL OR rolvaliduntil >= pg_catalog.now())";

/// The name of what stands for all databases that are not named.
const OTHERS: &str = "*";

/// What holds where neither a database nor a user says otherwise: a database without a place.
pub(super) fn defaults(raw: &raw::Proxy, mode: PoolMode, problems: &mut Vec<String>) -> Database {
    let pool_size = size("proxy.default_pool_size", Some(raw.default_pool_size), problems);
    let own = [raw.auth_user.as_ref(), raw.auth_query.as_ref(), raw.auth_dbname.as_ref()];
    let database = Database {
        lookup: lookup("proxy", own, problems),
        refuses_state: refuses("proxy", &raw.session_state, problems),
        pool_min: count(raw.min_pool_size),
        reserve: count(raw.reserve_pool_size),
        reserve_ms: u64::from(raw.reserve_pool_timeout) * 1_000,
        servers_max: count(raw.max_db_connections),
        ..Database::new(Vec::new(), mode, pool_size.unwrap_or(1))
    };
    check_min("proxy", &database, problems);
    database
}

fn check_min(key: &str, database: &Database, problems: &mut Vec<String>) {
    let Database { pool_min, pool_size, .. } = database;
    if pool_min > pool_size {
        problems.push(format!("{key}: min_pool_size {pool_min} is above pool_size {pool_size}"));
    }
}

/// The databases that clients can name.
pub(super) fn databases(
    raw: &raw::Proxy,
    defaults: &Database,
    problems: &mut Vec<String>,
) -> BTreeMap<Vec<u8>, Database> {
    let mut databases = BTreeMap::new();
    for given in raw.databases.iter().flatten() {
        let key = format!("proxy.databases: {:?}", given.name);
        if !is_name(&given.name) {
            problems.push(format!("{key} cannot be a name in PostgreSQL"));
        }
        if is_console(given.name.as_bytes()) {
            problems
                .push(format!("{key} is pgx itself; give the database another name for clients"));
        }
        let database = database(&key, given, raw, defaults, problems);
        if databases.insert(given.name.clone().into_bytes(), database).is_some() {
            problems.push(format!("{key} is there twice"));
        }
    }
    if !raw.backends.is_empty() || raw.cluster_port.is_some() {
        let backends = raw.backends.iter().cloned().map(ServerAddress).map(Backend::from);
        let backends = backends.collect();
        let is_clusters = raw.cluster_port.is_some();
        let others = Database { backends, is_clusters, ..defaults.clone() };
        databases.entry(OTHERS.as_bytes().to_vec()).or_insert(others);
    }
    databases
}

fn database(
    key: &str,
    given: &raw::Database,
    raw: &raw::Proxy,
    defaults: &Database,
    problems: &mut Vec<String>,
) -> Database {
    let own = given.backends.as_ref();
    if let Some(own) = own {
        backends(&format!("{key}: backends"), own, true, problems);
    } else if raw.backends.is_empty() && raw.cluster_port.is_none() {
        problems.push(format!("{key}: it has no backends, and proxy.backends names none"));
    }
    for (word, value) in [("dbname", &given.dbname), ("user", &given.user)] {
        if value.as_deref().is_some_and(|name| !is_name(name)) {
            problems.push(format!("{key}: {word} {value:?} cannot be a name in PostgreSQL"));
        }
    }
    if given.password.is_some() && given.user.is_none() {
        problems.push(format!("{key}: password is that of user, which is not given"));
    }
    let login = given.user.as_ref().map(|user| ForcedLogin {
        user: user.clone().into_bytes(),
        secret: given.password.as_ref().map(|password| Secret::parse(password.as_bytes())),
    });
    let words = [
        given.auth_user.as_ref().or(raw.auth_user.as_ref()),
        given.auth_query.as_ref().or(raw.auth_query.as_ref()),
        given.auth_dbname.as_ref().or(raw.auth_dbname.as_ref()),
    ];
    if words[0].is_none() && (words[1].is_some() || words[2].is_some()) {
        problems.push(format!("{key}: auth_user is not given, who is to look users up"));
    }
    let lookup = lookup(key, words, problems);
    let backends = weighed(key, own.unwrap_or(&raw.backends), given, problems);
    let or = |given: Option<u32>, default: usize| given.map_or(default, count);
    let reserve_ms = given.reserve_pool_timeout.map(|seconds| u64::from(seconds) * 1_000);
    let database = Database {
        backends,
        is_clusters: own.is_none() && raw.cluster_port.is_some(),
        name: given.dbname.clone(),
        attrs: given.target.as_deref().map(|word| target(key, word, problems)),
        lag_ms_max: u64::from(given.standby_lag_ms_max),
        login,
        lookup,
        mode: mode(key, given.pool_mode.as_deref(), problems).unwrap_or(defaults.mode),
        refuses_state: (given.session_state.as_deref())
            .map_or(defaults.refuses_state, |word| refuses(key, word, problems)),
        pool_size: size(key, given.pool_size, problems).unwrap_or(defaults.pool_size),
        pool_min: or(given.min_pool_size, defaults.pool_min),
        reserve: or(given.reserve_pool_size, defaults.reserve),
        reserve_ms: reserve_ms.unwrap_or(defaults.reserve_ms),
        servers_max: or(given.max_db_connections, defaults.servers_max),
        clients_max: count(given.max_db_client_connections),
    };
    check_min(key, &database, problems);
    database
}

/// How users are looked up, by the user, the query and the database that were given.
fn lookup(
    key: &str,
    [user, query, database]: [Option<&String>; 3],
    problems: &mut Vec<String>,
) -> Option<Arc<Lookup>> {
    for (word, name) in [("auth_user", user), ("auth_dbname", database)] {
        if name.is_some_and(|name| !is_name(name)) {
            problems.push(format!("{key}: {word} {name:?} cannot be a name in PostgreSQL"));
        }
    }
    if query.is_some_and(|query| !query.contains("$1") || query.contains('\0')) {
        problems.push(format!("{key}: auth_query does not ask for $1, the name of the user"));
    }
    let bytes = |word: &String| word.clone().into_bytes();
    Some(Arc::new(Lookup {
        user: user.map(bytes)?,
        database: database.map(bytes),
        query: query.map_or_else(|| LOOKUP.to_owned(), Clone::clone),
    }))
}

/// The backends with their shares.
fn weighed(
    key: &str,
    backends: &[String],
    given: &raw::Database,
    problems: &mut Vec<String>,
) -> Vec<Backend> {
    for (name, weight) in &given.weights {
        if !backends.contains(name) || *weight == 0 {
            problems
                .push(format!("{key}: weights: {name:?} = {weight} is not a share of a backend"));
        }
    }
    let weighed = |name: &String| Backend {
        address: ServerAddress(name.clone()),
        weight: given.weights.get(name).copied().unwrap_or(1),
    };
    backends.iter().map(weighed).collect()
}

/// Which servers a word means.
pub(super) fn target(key: &str, word: &str, problems: &mut Vec<String>) -> SessionAttrs {
    SessionAttrs::from_word(word.as_bytes()).unwrap_or_else(|| {
        let words: Vec<_> = SessionAttrs::WORDS.iter().map(|(word, _)| *word).collect();
        problems.push(format!("{key}: target {word:?} is none of {}", words.join(", ")));
        SessionAttrs::Any
    })
}

/// What is special about users.
pub(super) fn users(raw: &raw::Proxy, problems: &mut Vec<String>) -> BTreeMap<Vec<u8>, User> {
    let mut users = BTreeMap::new();
    for given in raw.users.iter().flatten() {
        let key = format!("proxy.users: {:?}", given.name);
        if !is_name(&given.name) {
            problems.push(format!("{key} cannot be a name in PostgreSQL"));
        }
        let user = User {
            mode: mode(&key, given.pool_mode.as_deref(), problems),
            pool_size: size(&key, given.pool_size, problems),
            servers_max: count(given.max_user_connections.unwrap_or(raw.max_user_connections)),
            clients_max: count(given.max_user_client_connections),
        };
        if users.insert(given.name.clone().into_bytes(), user).is_some() {
            problems.push(format!("{key} is there twice"));
        }
    }
    users
}

/// The nodes that pass requests to cancel on to each other.
pub(super) fn peers(raw: &raw::Proxy, problems: &mut Vec<String>) -> Peers {
    let number = |key: &str, given: &str, problems: &mut Vec<String>| {
        let number = given.parse().ok().filter(|number| (1..=PEER_MAX).contains(number));
        if number.is_none() {
            problems.push(format!("{key}: {given:?} is not a number from 1 to {PEER_MAX}"));
        }
        number
    };
    let given = raw.peer_id.map(|own| own.to_string());
    let own = given.and_then(|own| number("proxy.peer_id", &own, problems)).unwrap_or(0);
    let mut others = BTreeMap::new();
    for (given, place) in raw.peers.iter().flatten() {
        let peer = number("proxy.peers", given, problems);
        if !is_host_and_port(place) {
            problems.push(format!("proxy.peers: {place:?} is not host:port, such as pgx2:6432"));
        }
        if peer.is_some_and(|peer| peer == own) {
            problems.push(format!("proxy.peers: {given:?} is proxy.peer_id, this node itself"));
        }
        others.extend(peer.map(|peer| (peer, ServerAddress(place.clone()))));
    }
    if raw.peer_id.is_none() && raw.peers.is_some() {
        problems.push("proxy.peers: proxy.peer_id is not given, the number of this node".into());
    }
    Peers { own, others }
}

/// Checks a list of backends.
pub(super) fn backends(key: &str, given: &[String], may_be_path: bool, problems: &mut Vec<String>) {
    if given.is_empty() || given.len() > BACKENDS_MAX {
        problems.push(format!("{key}: {} given, expected 1 to {BACKENDS_MAX}", given.len()));
    }
    let mut seen = BTreeSet::new();
    for backend in given {
        let is_path = may_be_path && backend.starts_with('/');
        if !is_path && !is_host_and_port(backend) {
            problems.push(format!(
                "{key}: {backend:?} is not host:port, such as db1:5432 or [fd00::1]:5432; with a \
                 pool the path of a Unix socket will do"
            ));
        } else if !seen.insert(backend) {
            problems.push(format!("{key}: {backend:?} is there twice"));
        }
    }
}

fn mode(key: &str, word: Option<&str>, problems: &mut Vec<String>) -> Option<PoolMode> {
    match word? {
        "session" => Some(PoolMode::Session),
        "transaction" => Some(PoolMode::Transaction),
        "statement" => Some(PoolMode::Statement),
        other => {
            problems.push(format!(
                "{key}: pool_mode {other:?} is none of \"session\", \"transaction\", \"statement\""
            ));
            None
        }
    }
}

fn refuses(key: &str, word: &str, problems: &mut Vec<String>) -> bool {
    if !matches!(word, "keep" | "refuse") {
        problems.push(format!("{key}: session_state {word:?} is none of \"keep\", \"refuse\""));
    }
    word == "refuse"
}

fn size(key: &str, given: Option<u32>, problems: &mut Vec<String>) -> Option<usize> {
    if given == Some(0) {
        problems.push(format!("{key}: pool_size 0 would leave every client waiting"));
    }
    given.map(count)
}

/// A number of things.
pub(super) fn count(given: u32) -> usize {
    usize::try_from(given).unwrap_or(usize::MAX)
}

pub(super) fn is_name(name: &str) -> bool {
    !name.is_empty() && !name.contains('\0')
}

#[cfg(test)]
mod tests {
    use pgx_session::config::PoolMode;

    use crate::config::{Pool, parse};

    const BASE: &str = "[proxy]\npool_mode = \"transaction\"\nauth_type = \"trust\"\n";

    fn pool(text: &str) -> Pool {
        parse(&format!("{BASE}{text}")).unwrap().proxy.unwrap().pool.unwrap()
    }

    fn problems(text: &str) -> Vec<String> {
        parse(&format!("{BASE}{text}")).expect_err("must be refused")
    }

    #[test]
    fn databases_have_settings_of_their_own_and_the_rest_those_of_the_proxy() {
        let pool = pool(
            "backends = [\"db1:5432\"]\nsession_state = \"refuse\"\n\
             default_pool_size = 7\nmin_pool_size = 2\n\
             max_db_connections = 9\nmax_user_connections = 5\n[[proxy.databases]]\n\
             name = \"shop\"\nbackends = [\"db2:5432\"]\ndbname = \"shop_v2\"\nuser = \"app\"\n\
             password = \"x\"\npool_mode = \"session\"\npool_size = 3\n[[proxy.databases]]\n\
             name = \"plain\"\nmin_pool_size = 1\nsession_state = \"keep\"\n\
             [[proxy.users]]\nname = \"feed\"\npool_mode = \"statement\"\n",
        );
        let shop = &pool.databases[&b"shop"[..]];
        assert_eq!((shop.backends[0].address.0.as_str(), shop.pool_size), ("db2:5432", 3));
        assert_eq!((shop.name.as_deref(), shop.mode), (Some("shop_v2"), PoolMode::Session));
        assert_eq!(shop.login.as_ref().unwrap().user, b"app");
        for name in [&b"plain"[..], b"*"] {
            let other = &pool.databases[name];
            assert_eq!((other.backends[0].address.0.as_str(), other.pool_size), ("db1:5432", 7));
            assert_eq!((other.mode, other.servers_max), (PoolMode::Transaction, 9));
            assert_eq!(other.pool_min, if name == b"plain" { 1 } else { 2 });
        }
        assert_eq!(pool.usual.servers_max, 5);
        let refuses = |name: &[u8]| pool.databases[name].refuses_state;
        assert!(refuses(b"shop") && refuses(b"*") && !refuses(b"plain"));
        assert_eq!(pool.special[&b"feed"[..]].mode, Some(PoolMode::Statement));
    }

    #[test]
    fn without_backends_of_the_proxy_only_named_databases_are_there() {
        let pool = pool("[[proxy.databases]]\nname = \"a\"\nbackends = [\"db:1\"]\n");
        assert_eq!(pool.databases.keys().collect::<Vec<_>>(), [&b"a".to_vec()]);
        let found = problems("[[proxy.databases]]\nname = \"a\"\n");
        assert!(found.len() == 1 && found[0].contains("no backends"), "{found:?}");
    }

    #[test]
    fn peers_are_other_nodes_and_this_one_has_a_number() {
        let both = "backends = [\"db:1\"]\npeer_id = 3\npeers = { 1 = \"a:6432\" }\n";
        let peers = pool(both).peers;
        assert_eq!((peers.own, peers.others[&1].0.as_str()), (3, "a:6432"));
        let bad = [
            ("peer_id = 3\n", "peers = { 3 = \"a:6432\" }\n", "itself"),
            ("peer_id = 16\n", "", "from 1 to 15"),
            ("", "peers = { 1 = \"a:1\" }\n", "not given"),
            ("peer_id = 3\n", "peers = { x = \"a:6432\" }\n", "from 1 to 15"),
            ("peer_id = 3\n", "peers = { 1 = \"a\" }\n", "not host:port"),
        ];
        for (own, others, expected) in bad {
            let found = problems(&format!("backends = [\"db:1\"]\n{own}{others}"));
            assert!(found.len() == 1 && found[0].contains(expected), "{found:?}");
        }
    }

    #[test]
    fn everything_wrong_is_named_with_its_database_or_user() {
        let found = problems(
            "backends = [\"db:1\"]\n[[proxy.databases]]\nname = \"a\"\nbackends = []\n\
             pool_size = 0\npool_mode = \"none\"\nsession_state = \"drop\"\n\
             password = \"x\"\n[[proxy.databases]]\n\
             name = \"a\"\n[[proxy.users]]\nname = \"u\"\npool_size = 0\n[[proxy.users]]\n\
             name = \"u\"\n",
        );
        assert_eq!(found.len(), 8, "{found:#?}");
        assert!(found.iter().all(|each| each.contains("\"a\"") || each.contains("\"u\"")));
    }
}
