//! From the file's form to a configuration that can be used, or to all that is wrong.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use pgx_control::ids::NodeId;
use pgx_ring::Choice;
use pgx_session::config::{AuthMethod, PoolMode, User};
use pgx_session::route::{Backend, ServerAddress};

use super::{
    Config, Control, Fence, Hooks, Means, Pool, Postgres, Proxy, SessionLimits, http, listen,
    pools, raw, tls, vip,
};
use crate::limits::THREADS_MAX;
use crate::limits::peer::PEERS_MAX;
use crate::workers;

/// Longest path that a Unix socket may have, in bytes (`sun_path` less its terminator).
pub(super) const SOCKET_PATH_BYTES_MAX: usize = 107;

/// The least and the most that a hook may be given.
const HOOK_MS: std::ops::RangeInclusive<u32> = 100..=600_000;

/// Checks every value; problems are collected, not returned one by one.
pub(super) fn check(raw: raw::Config) -> Result<Config, Vec<String>> {
    let mut problems = Vec::new();
    let has_role = raw.proxy.is_some() || raw.vip.is_some() || raw.control.is_some();
    if !has_role && raw.fence.is_none() {
        problems.push(
            "no role: at least one of [proxy], [vip], [control] and [fence] is needed".to_owned(),
        );
    }
    if raw.postgres.is_some() && raw.control.is_none() {
        problems.push("postgres: the section needs [control] beside it".to_owned());
    }
    if raw.control.is_none() && raw.proxy.as_ref().is_some_and(|one| one.cluster_port.is_some()) {
        problems.push("proxy.cluster_port: it needs [control] beside it".to_owned());
    }
    let postgres_port = raw.postgres.as_ref().map(|section| section.port);
    let vip = raw.vip.map(|section| vip::check(section, &mut problems));
    let mut proxy = raw.proxy.map(|section| proxy(&section, &mut problems));
    if let (Some(proxy), Some(vip)) = (&mut proxy, &vip) {
        listen::virtual_addresses(proxy, vip, &mut problems);
    }
    let config = Config {
        admin_socket: admin_socket(&raw.admin.socket, &mut problems),
        pid_file: raw.admin.pid_file.map(|path| absolute("admin.pid_file", path, &mut problems)),
        proxy,
        vip,
        control: raw.control.map(|section| control(section, &mut problems)),
        postgres: raw.postgres.map(|section| postgres(section, &mut problems)),
        fence: raw.fence.map(|section| fence(&section, postgres_port, &mut problems)),
        http: raw.http.and_then(|section| http::check(section, &mut problems)),
        metrics: raw.metrics.and_then(|section| metrics(&section, &mut problems)),
    };
    if problems.is_empty() { Ok(config) } else { Err(problems) }
}

fn metrics(raw: &raw::Metrics, problems: &mut Vec<String>) -> Option<SocketAddr> {
    let listen = raw.listen.parse();
    if listen.is_err() {
        problems.push(format!(
            "metrics.listen: {:?} is not an address with a port, such as 127.0.0.1:9127",
            raw.listen
        ));
    }
    listen.ok()
}

fn admin_socket(path: &str, problems: &mut Vec<String>) -> PathBuf {
    let path = PathBuf::from(path);
    let bytes = path.as_os_str().len();
    if !path.is_absolute() || bytes > SOCKET_PATH_BYTES_MAX {
        problems.push(format!(
            "admin.socket: {path:?} is not an absolute path of at most {SOCKET_PATH_BYTES_MAX} \
             bytes"
        ));
    }
    path
}

fn proxy(raw: &raw::Proxy, problems: &mut Vec<String>) -> Proxy {
    let (listen, unix) = (listen::addresses(raw, problems), listen::unix(raw, problems));
    let has_pool = raw.pool_mode != "none";
    let needs_pool = raw.databases.is_some() || raw.users.is_some() || raw.listeners.is_some();
    if needs_pool && !has_pool {
        problems.push(
            "proxy.listeners, proxy.databases, proxy.users: they need a pool; set pool_mode to \
             \"session\", \"transaction\" or \"statement\""
                .to_owned(),
        );
    }
    if raw.cluster_port.is_some() && (!has_pool || !raw.backends.is_empty()) {
        problems.push(
            "proxy.cluster_port: it stands in place of proxy.backends, and needs a pool_mode"
                .to_owned(),
        );
    }
    let others = raw.databases.is_some() || raw.cluster_port.is_some();
    if !(raw.backends.is_empty() && has_pool && others) {
        pools::backends("proxy.backends", &raw.backends, has_pool, problems);
    }
    if raw.max_client_conn == 0 {
        problems.push("proxy.max_client_conn: 0 would turn every client away".to_owned());
    }
    let pool = pool(raw, problems);
    let mut backends: Vec<_> = raw.backends.iter().cloned().map(ServerAddress).collect();
    let databases = pool.iter().flat_map(|pool| pool.databases.values());
    for Backend { address, .. } in databases.flat_map(|database| &database.backends) {
        if !backends.contains(address) {
            backends.push(address.clone());
        }
    }
    let max_client_conn = usize::try_from(raw.max_client_conn).unwrap_or(usize::MAX);
    let drain = Duration::from_secs(raw.drain_timeout.into());
    Proxy { listen, unix, backends, max_client_conn, drain, pool }
}

fn pool(raw: &raw::Proxy, problems: &mut Vec<String>) -> Option<Pool> {
    let mode = match raw.pool_mode.as_str() {
        "none" => None,
        "session" => Some(PoolMode::Session),
        "transaction" => Some(PoolMode::Transaction),
        "statement" => Some(PoolMode::Statement),
        other => {
            problems.push(format!(
                "proxy.pool_mode: {other:?} is none of \"none\", \"session\", \"transaction\", \
                 \"statement\""
            ));
            None
        }
    }?;
    let auth = auth(raw, problems);
    let users = raw.auth_file.clone().map(|path| absolute("proxy.auth_file", path, problems));
    let rules = raw.auth_hba_file.clone().map(|p| absolute("proxy.auth_hba_file", p, problems));
    let ident = raw.auth_ident_file.clone().map(|p| absolute("proxy.auth_ident_file", p, problems));
    if rules.is_none() && auth == AuthMethod::Rules {
        problems.push("proxy.auth_hba_file: auth_type \"hba\" needs it".to_owned());
    }
    let threads = raw
        .threads
        .map_or_else(workers::threads, |count| usize::try_from(count).unwrap_or(usize::MAX));
    if !(1..=THREADS_MAX).contains(&threads) {
        problems.push(format!("proxy.threads: {threads} given, expected 1 to {THREADS_MAX}"));
    }
    let engine = raw.engine.as_deref().unwrap_or("auto").parse().unwrap_or_else(|problem| {
        problems.push(format!("proxy.engine: {problem}"));
        Choice::Auto
    });
    let defaults = pools::defaults(raw, mode, problems);
    let databases = pools::databases(raw, &defaults, problems);
    let are_known = users.is_some() || databases.values().any(|each| each.lookup.is_some());
    if !are_known && matches!(auth, AuthMethod::Scram | AuthMethod::Md5) {
        problems.push(format!(
            "proxy.auth_file: auth_type {:?} needs it, or auth_user, to tell who may come in",
            raw.auth_type
        ));
    }
    let special = pools::users(raw, problems);
    let usual = User { servers_max: pools::count(raw.max_user_connections), ..User::default() };
    let peers = pools::peers(raw, problems);
    let (client_tls, server_tls) = (tls::clients(raw, problems), tls::servers(raw, problems));
    let limits = limits(raw, problems);
    Some(Pool {
        auth,
        users,
        rules: rules.map(|rules| (rules, ident)),
        databases,
        special,
        admins: names("proxy.admin_users", &raw.admin_users, problems),
        viewers: names("proxy.stats_users", &raw.stats_users, problems),
        usual,
        engine,
        threads,
        zero_copy_bytes_min: raw.zero_copy_bytes_min,
        peers,
        cluster_port: raw.cluster_port,
        client_tls,
        server_tls,
        limits,
    })
}

/// Users by their names.
fn names(key: &str, given: &[String], problems: &mut Vec<String>) -> BTreeSet<Vec<u8>> {
    for name in given.iter().filter(|name| !pools::is_name(name)) {
        problems.push(format!("{key}: {name:?} cannot be a name in PostgreSQL"));
    }
    given.iter().map(|name| name.clone().into_bytes()).collect()
}

/// How clients prove who they are.
fn auth(raw: &raw::Proxy, problems: &mut Vec<String>) -> AuthMethod {
    match raw.auth_type.as_str() {
        "trust" => AuthMethod::Trust,
        "md5" => AuthMethod::Md5,
        "scram-sha-256" => AuthMethod::Scram,
        "hba" => AuthMethod::Rules,
        other => {
            problems.push(format!(
                "proxy.auth_type: {other:?} is none of \"scram-sha-256\", \"md5\", \"hba\", \
                 \"trust\""
            ));
            AuthMethod::Scram
        }
    }
}

fn limits(raw: &raw::Proxy, problems: &mut Vec<String>) -> SessionLimits {
    let usual = SessionLimits::default();
    let ms = |seconds: Option<u32>, usual| seconds.map_or(usual, |given| u64::from(given) * 1_000);
    let prepared_max = raw.max_prepared_statements;
    if prepared_max == Some(0) {
        problems.push("proxy.max_prepared_statements: 0 given, expected at least 1".to_owned());
    }
    let server_retry_ms = raw.server_login_retry.map_or(usual.server_retry_ms, |seconds| {
        let ms = Duration::try_from_secs_f64(seconds).map_or(0, |given| given.as_millis());
        if ms == 0 {
            problems.push(format!(
                "proxy.server_login_retry: {seconds} seconds given, expected at least 0.001"
            ));
        }
        u64::try_from(ms).unwrap_or(u64::MAX)
    });
    SessionLimits {
        prepared_max: prepared_max.map_or(usual.prepared_max, |given| given as usize),
        client_login_ms: ms(raw.client_login_timeout, usual.client_login_ms),
        query_wait_ms: ms(raw.query_wait_timeout, usual.query_wait_ms),
        server_connect_ms: ms(raw.server_connect_timeout, usual.server_connect_ms),
        server_idle_ms: ms(raw.server_idle_timeout, usual.server_idle_ms),
        server_lifetime_ms: ms(raw.server_lifetime, usual.server_lifetime_ms),
        client_idle_ms: ms(raw.client_idle_timeout, usual.client_idle_ms),
        query_ms: ms(raw.query_timeout, usual.query_ms),
        idle_transaction_ms: ms(raw.idle_transaction_timeout, usual.idle_transaction_ms),
        transaction_ms: ms(raw.transaction_timeout, usual.transaction_ms),
        server_retry_ms,
    }
}

fn control(raw: raw::Control, problems: &mut Vec<String>) -> Control {
    if raw.node == 0 {
        problems.push("control.node: 0 is no node's number; they begin with 1".to_owned());
    }
    let listen = raw.listen.parse().unwrap_or_else(|_| {
        problems.push(format!(
            "control.listen: {:?} is not an address with a port, such as 0.0.0.0:6433",
            raw.listen
        ));
        SocketAddr::from(([0, 0, 0, 0], 0))
    });
    let given = raw.peers.unwrap_or_default();
    if given.len() > PEERS_MAX {
        let count = given.len();
        problems.push(format!("control.peers: {count} given, expected at most {PEERS_MAX}"));
    }
    let mut peers = BTreeMap::new();
    for peer in given {
        let (id, address) = (NodeId(peer.id), peer.address);
        if id.0 == 0 || id.0 == raw.node {
            problems.push(format!(
                "control.peers: id {id} is this node's own or 0; name each other node by its number"
            ));
        }
        if !is_host_and_port(&address) {
            problems.push(format!(
                "control.peers: {address:?} is not host:port, such as db2:6433 or [fd00::2]:6433"
            ));
        }
        if peers.values().any(|ServerAddress(other)| *other == address) {
            problems.push(format!("control.peers: {address:?} is there twice"));
        }
        if peers.insert(id, ServerAddress(address)).is_some() {
            problems.push(format!("control.peers: id {id} is there twice"));
        }
    }
    let mut file = |key: &str, text| absolute(&format!("control.{key}"), text, problems);
    Control {
        node: NodeId(raw.node),
        listen,
        certificate: file("certificate", raw.certificate),
        key: file("key", raw.key),
        ca: file("ca", raw.ca),
        data: file("data", raw.data),
        peers,
        priority: raw.priority,
    }
}

/// libpq's words.
const SSL_MODES: [&str; 6] = ["disable", "allow", "prefer", "require", "verify-ca", "verify-full"];

/// An absolute path and words, for a program of the operator's.
fn words(key: &str, words: Option<Vec<String>>, problems: &mut Vec<String>) -> Vec<String> {
    let Some(words) = words else { return Vec::new() };
    match words.first() {
        None => problems.push(format!("{key}: it is empty; name a program, or leave it out")),
        Some(path) if !path.starts_with('/') => {
            problems.push(format!("{key}: {path:?} is not an absolute path"));
        }
        Some(_) => {}
    }
    if words.iter().any(|word| word.contains('\0')) {
        problems.push(format!("{key}: words of a program cannot have a NUL"));
    }
    words
}

/// Where no program is to be called.
pub(super) fn no_hooks() -> Hooks {
    let none = Vec::new;
    Hooks {
        promote: none(),
        demote: none(),
        follow: none(),
        rebuild_begin: none(),
        rebuild_end: none(),
        limit: Duration::ZERO,
    }
}

fn hooks(raw: Option<raw::Hooks>, problems: &mut Vec<String>) -> Hooks {
    let Some(raw) = raw else { return no_hooks() };
    if !HOOK_MS.contains(&raw.hook_ms_max) {
        let (least, most) = (HOOK_MS.start(), HOOK_MS.end());
        let given = raw.hook_ms_max;
        problems.push(format!("postgres.hooks.hook_ms_max: {given}, expected {least} to {most}"));
    }
    let mut hook = |key: &str, raw| words(&format!("postgres.hooks.{key}"), raw, problems);
    Hooks {
        promote: hook("on_promote", raw.on_promote),
        demote: hook("on_demote", raw.on_demote),
        follow: hook("on_follow", raw.on_follow),
        rebuild_begin: hook("on_rebuild_begin", raw.on_rebuild_begin),
        rebuild_end: hook("on_rebuild_end", raw.on_rebuild_end),
        limit: Duration::from_millis(raw.hook_ms_max.into()),
    }
}

fn postgres(raw: raw::Postgres, problems: &mut Vec<String>) -> Postgres {
    for (key, text) in [
        ("user", &raw.user),
        ("database", &raw.database),
        ("replication_user", &raw.replication_user),
    ] {
        // In postgresql.conf and pg_hba.conf a line ends what it says.
        if text.is_empty() || text.contains(['\0', '\n', '\r']) {
            problems.push(format!("postgres.{key}: {text:?} cannot be a name in PostgreSQL"));
        }
    }
    if raw.listen_addresses.contains(['\0', '\n', '\r']) {
        problems.push("postgres.listen_addresses: it must be one line".to_owned());
    }
    if raw.replication_user == raw.user {
        problems.push(
            "postgres.replication_user: it must be another role than postgres.user, as it may do \
             less"
                .to_owned(),
        );
    }
    if raw.port == 0 {
        problems.push("postgres.port: 0 is no port that PostgreSQL could listen on".to_owned());
    }
    if !SSL_MODES.contains(&raw.replication_sslmode.as_str()) {
        problems.push(format!(
            "postgres.replication_sslmode: {:?} is none of {}",
            raw.replication_sslmode,
            SSL_MODES.join(", ")
        ));
    }
    let hooks = hooks(raw.hooks, problems);
    let clone_command = words("postgres.clone_command", raw.clone_command, problems);
    let mut path = |key: &str, text| absolute(&format!("postgres.{key}"), text, problems);
    Postgres {
        clone_command,
        hooks,
        data_directory: path("data_directory", raw.data_directory),
        bin_directory: path("bin_directory", raw.bin_directory),
        config_file: raw.config_file.map(|text| path("config_file", text)),
        port: raw.port,
        listen_addresses: raw.listen_addresses,
        socket_directory: raw.socket_directory.map(|text| path("socket_directory", text)),
        system_user: raw.system_user,
        replication_user: raw.replication_user,
        replication_password_file: path("replication_password_file", raw.replication_password_file),
        replication_sslmode: raw.replication_sslmode,
        wal_keep_mb: raw.wal_keep_mb,
        password_file: raw.password_file.map(|text| path("password_file", text)),
        user: raw.user,
        database: raw.database,
    }
}

fn fence(raw: &raw::Fence, postgres: Option<u16>, problems: &mut Vec<String>) -> Fence {
    let port = raw.port.or(postgres).unwrap_or(pgx_bpf::PORT_DEFAULT);
    if port == 0 {
        problems.push("fence.port: 0 is no port that PostgreSQL could listen on".to_owned());
    }
    if postgres.is_some_and(|postgres| postgres != port) {
        problems.push("fence.port: it is another one than postgres.port".to_owned());
    }
    let best = Means::from_word(&raw.best).unwrap_or_else(|| {
        let words = Means::WORDS.join(", ");
        problems.push(format!("fence.best: {:?} is none of {words}", raw.best));
        Means::Nothing
    });
    Fence { port, best }
}

pub(super) fn absolute(key: &str, text: String, problems: &mut Vec<String>) -> PathBuf {
    let path = PathBuf::from(text);
    if !path.is_absolute() {
        problems.push(format!("{key}: {path:?} is not an absolute path"));
    }
    path
}

/// Whether this can be dialled.
pub(crate) fn is_host_and_port(text: &str) -> bool {
    if text.parse::<SocketAddr>().is_ok_and(|address| address.port() != 0) {
        return true;
    }
    let Some((host, port)) = text.rsplit_once(':') else {
        return false;
    };
    let label = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    !host.is_empty() && host.bytes().all(label) && port.parse::<u16>().is_ok_and(|port| port != 0)
}

#[cfg(test)]
mod tests {
    use crate::config::{Config, Means, parse};

    fn problems(text: &str) -> Vec<String> {
        parse(text).expect_err("must be refused")
    }

    #[test]
    fn a_plain_pooler_needs_two_lines() {
        let config: Config = parse("[proxy]\nbackends = [\"db1:5432\"]\n").unwrap();
        let proxy = config.proxy.unwrap();
        assert_eq!(proxy.listen.len(), 2);
        assert_eq!(proxy.backends[0].0, "db1:5432");
        assert_eq!(config.vip, None);
    }

    #[test]
    fn all_problems_are_reported_together() {
        let found = problems(
            "[admin]\nsocket = \"run/x\"\n[proxy]\nlisten = [\"6432\"]\nbackends = [\"db1\"]\n\
             max_client_conn = 0\n[vip]\ninterface = \"a name that is too long\"\n",
        );
        assert_eq!(found.len(), 5, "{found:#?}");
        let keys = ["admin.socket", "listen", "backends", "max_client_conn", "vip.interface"];
        for key in keys {
            assert!(found.iter().any(|problem| problem.contains(key)), "{key}: {found:#?}");
        }
    }

    #[test]
    fn hooks_are_programs_with_words_and_none_where_nothing_is_said() {
        let base = "[control]\nnode = 1\ncertificate = \"/c\"\nkey = \"/k\"\nca = \"/a\"\n\
                    [postgres]\ndata_directory = \"/d\"\nbin_directory = \"/b\"\n";
        let hooks = |more: &str| {
            parse(&format!("{base}{more}")).map(|config| config.postgres.unwrap().hooks)
        };
        assert_eq!(hooks("").unwrap(), super::no_hooks());
        let known = hooks("[postgres.hooks]\non_promote = [\"/bin/x\", \"a b\"]\n").unwrap();
        assert_eq!((known.promote.len(), known.demote.len()), (2, 0));
        assert_eq!(known.limit.as_millis(), 10_000);
        let wrong = "clone_command = [\"x\"]\n[postgres.hooks]\non_promote = []\n\
                     on_follow = [\"x\"]\nhook_ms_max = 0\n";
        let found = hooks(wrong).unwrap_err();
        for key in ["hooks.on_promote", "hooks.on_follow", "hook_ms_max", "clone_command"] {
            assert!(found.iter().any(|problem| problem.contains(key)), "{key}: {found:#?}");
        }
        assert_eq!(found.len(), 4, "{found:#?}");
    }

    #[test]
    fn peers_are_other_nodes_each_once() {
        let files = "certificate = \"/c\"\nkey = \"/k\"\nca = \"a.pem\"\n";
        let peer = |id: u64, address: &str| {
            format!("[[control.peers]]\nid = {id}\naddress = \"{address}\"\n")
        };
        let text = format!("[control]\nnode = 1\n{files}{}", peer(2, "db2:6433"));
        let found = problems(&text);
        assert_eq!(found.len(), 1, "{found:#?}");
        assert!(found[0].contains("control.ca") && found[0].contains("absolute"), "{found:?}");

        let good = parse(&text.replace("a.pem", "/a.pem")).unwrap().control.unwrap();
        assert_eq!(good.listen.port(), 6433);
        assert_eq!(good.peers.len(), 1);

        let peers = [peer(1, "db1:6433"), peer(2, "db2:6433"), peer(2, "db2:6433"), peer(0, "x")];
        let found = problems(&format!("[control]\nnode = 1\n{files}{}", peers.concat()));
        assert_eq!(found.len(), 6, "{found:#?}");
    }

    #[test]
    fn fence_alone_is_a_role_and_its_means_have_names() {
        let fence = parse("[fence]\n").unwrap().fence.unwrap();
        assert_eq!(fence.port, 5432);
        assert_eq!(fence.best, Means::Programs(pgx_bpf::Hook::Native));
        for word in Means::WORDS {
            parse(&format!("[fence]\nbest = \"{word}\"\n")).unwrap();
        }
        let fenced = |port: Option<u16>, postgres| {
            let mut problems = Vec::new();
            let raw = super::super::raw::Fence { port, best: "none".to_owned() };
            (super::fence(&raw, postgres, &mut problems).port, problems.len())
        };
        assert_eq!(fenced(None, Some(5433)), (5433, 0), "it is PostgreSQL's");
        assert_eq!(fenced(Some(5432), Some(5433)).1, 1, "it guards nothing");
        let found = problems("[fence]\nport = 0\nbest = \"ebtables\"\n");
        assert_eq!(found.len(), 2, "{found:#?}");
        assert!(found[1].contains("ebtables") && found[1].contains("clsact"), "{found:#?}");
    }

    #[test]
    fn times_are_seconds_and_the_wait_for_a_login_also_parts_of_one() {
        let pool = |more: &str| {
            let base = "[proxy]\nbackends = [\"db:1\"]\npool_mode = \"statement\"\n";
            parse(&format!("{base}auth_type = \"trust\"\n{more}"))
        };
        let limits = |more: &str| pool(more).unwrap().proxy.unwrap().pool.unwrap().limits;
        assert_eq!(limits("").server_retry_ms, 100);
        assert_eq!(limits("server_login_retry = 15\n").server_retry_ms, 15_000);
        let found = limits("server_login_retry = 0.25\ntransaction_timeout = 9\n");
        assert_eq!((found.server_retry_ms, found.transaction_ms), (250, 9_000));
        for wrong in ["0", "-1", "nan", "0.0001"] {
            let found = pool(&format!("server_login_retry = {wrong}\n")).unwrap_err();
            assert!(found.len() == 1 && found[0].contains("server_login_retry"), "{found:?}");
        }
    }

    #[test]
    fn metrics_are_served_where_their_section_says_and_nowhere_without_it() {
        let role = "[fence]\n";
        assert_eq!(parse(role).unwrap().metrics, None);
        let listen = parse(&format!("{role}[metrics]\n")).unwrap().metrics.unwrap();
        assert!(listen.ip().is_loopback() && listen.port() == 9127, "{listen}");
        let found = problems(&format!("{role}[metrics]\nlisten = \"everywhere\"\n"));
        assert!(found.len() == 1 && found[0].contains("metrics.listen"), "{found:?}");
        assert!(problems("[metrics]\n")[0].contains("no role"));
    }

    #[test]
    fn http_gives_roles_only_to_those_who_can_prove_who_they_are() {
        let http = |more: &str| parse(&format!("[fence]\n[http]\n{more}"));
        let found = http("").unwrap().http.unwrap();
        assert!(found.listen.ip().is_loopback() && found.listen.port() == 6434, "{found:?}");
        assert!(found.leg.is_none() && found.viewers.is_empty() && found.operators.is_empty());
        let own = "tls_cert_file = \"/a\"\ntls_key_file = \"/b\"\n";
        let who = "operators = [\"ann\"]\nviewers = [\"eve\"]\n";
        let found = http(&format!("{own}{who}tls_ca_file = \"/c\"\n")).unwrap().http.unwrap();
        assert!(found.operators.contains("ann") && found.viewers.contains("eve"), "{found:?}");
        assert!(found.leg.is_some_and(|leg| leg.own.is_some() && leg.ca.is_some()));
        for (wrong, key) in [
            (who.to_owned(), "http.viewers"),
            (format!("{own}{who}"), "http.viewers"),
            ("tls_cert_file = \"/a\"\n".to_owned(), "http.tls_cert_file"),
            ("tls_ca_file = \"c\"\n".to_owned(), "http.tls_ca_file"),
            ("listen = \"6434\"\n".to_owned(), "http.listen"),
        ] {
            let found = http(&wrong).unwrap_err();
            assert!(found.len() == 1 && found[0].contains(key), "{wrong}: {found:?}");
        }
    }

    #[test]
    fn an_unknown_key_is_refused_with_its_place() {
        let found = problems("[proxy]\nbackends = [\"db1:5432\"]\nbackend = 1\n");
        assert!(found[0].contains("line 3") && found[0].contains("backend"), "{found:?}");
    }

    #[test]
    fn a_file_without_a_role_is_refused() {
        assert!(problems("")[0].contains("no role"));
    }

    #[test]
    fn backends_are_names_or_addresses_with_a_port() {
        for good in ["db-1.example:5432", "10.0.0.1:5432", "[fd00::1]:5432"] {
            assert!(super::is_host_and_port(good), "{good}");
        }
        for bad in ["", ":5432", "db1", "db1:", "db1:0", "fd00::1:5432", "a b:1", "db1:65536"] {
            assert!(!super::is_host_and_port(bad), "{bad}");
        }
        let twice = problems("[proxy]\nbackends = [\"db1:5432\", \"db1:5432\"]\n");
        assert!(twice[0].contains("twice"));
    }
}
