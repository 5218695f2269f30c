//! What each of PgBouncer's settings is in pgx.

use std::collections::BTreeMap;

use super::ini::pairs;
use super::page::{Page, listening, quoted};
use super::{Entry, Made};

/// How a setting is carried over.
enum Way {
    /// As it is, by this key: a number, or a word in quotes.
    Number(&'static str),
    Word(&'static str),
    /// By the same key, as a list of words.
    Words,
    /// With others, by code of its own.
    Own,
    /// There is nothing to carry: pgx does so anyway, for this reason.
    Anyway(&'static str),
    /// Not at all, for this reason.
    Left(&'static str),
}

/// Numbers that mean the same in both.
const NUMBERS: [&str; 19] = [
    "max_client_conn",
    "default_pool_size",
    "min_pool_size",
    "reserve_pool_size",
    "reserve_pool_timeout",
    "max_db_connections",
    "max_user_connections",
    "max_prepared_statements",
    "client_login_timeout",
    "client_idle_timeout",
    "query_wait_timeout",
    "query_timeout",
    "idle_transaction_timeout",
    "transaction_timeout",
    "server_connect_timeout",
    "server_idle_timeout",
    "server_lifetime",
    "server_login_retry",
    "peer_id",
];

/// Words and paths that mean the same in both.
const WORDS: [&str; 16] = [
    "unix_socket_mode",
    "unix_socket_group",
    "auth_file",
    "auth_user",
    "auth_query",
    "auth_dbname",
    "auth_hba_file",
    "auth_ident_file",
    "client_tls_sslmode",
    "client_tls_cert_file",
    "client_tls_key_file",
    "client_tls_ca_file",
    "server_tls_sslmode",
    "server_tls_cert_file",
    "server_tls_key_file",
    "server_tls_ca_file",
];

fn way(key: &str) -> Way {
    use Way::{Anyway, Left, Number, Own, Word, Words};
    let known = |all: &[&'static str]| all.iter().find(|known| **known == key).copied();
    if let Some(key) = known(&NUMBERS) {
        return Number(key);
    }
    if let Some(key) = known(&WORDS) {
        return Word(key);
    }
    match key {
        "admin_users" | "stats_users" => Words,
        "listen_addr" | "listen_port" | "unix_socket_dir" | "pidfile" | "pool_mode"
        | "auth_type" => Own,
        "server_reset_query" | "server_reset_query_always" => {
            Anyway("what a client leaves is known and undone")
        }
        "server_check_query" | "server_check_delay" => {
            Anyway("idle servers are listened to all the time")
        }
        "ignore_startup_parameters" | "track_extra_parameters" => {
            Anyway("all start-up parameters are honoured")
        }
        "so_reuseport" | "listen_backlog" => Anyway("each thread has sockets of its own"),
        "tcp_keepalive"
        | "tcp_keepcnt"
        | "tcp_keepidle"
        | "tcp_keepintvl"
        | "tcp_user_timeout"
        | "tcp_defer_accept"
        | "tcp_socket_buffer"
        | "pkt_buf"
        | "sbuf_loopcnt"
        | "suspend_timeout"
        | "max_packet_size"
        | "dns_max_ttl"
        | "dns_nxdomain_ttl"
        | "dns_zone_check_period"
        | "resolv_conf"
        | "disable_pqexec"
        | "conffile"
        | "service_name"
        | "job_name"
        | "autodb_idle_timeout"
        | "server_fast_close"
        | "cancel_wait_timeout"
        | "client_tls_dheparams"
        | "client_tls_ecdhcurve"
        | "client_tls_ciphers"
        | "server_tls_ciphers"
        | "client_tls_protocols"
        | "server_tls_protocols" => Left("there is nothing like it in pgx, which does without"),
        "logfile" | "syslog" | "syslog_ident" | "syslog_facility" | "log_connections"
        | "log_disconnections" | "log_pooler_errors" | "log_stats" | "verbose" | "stats_period" => {
            Left("pgx logs to standard error, which the service manager keeps")
        }
        "user" => Left("the service manager does that"),
        "server_round_robin" => Left("servers are handed out last-in-first-out"),
        "application_name_add_host" => Left("application_name is the client's"),
        _ => Left("it is not known to pgx"),
    }
}

/// A configuration that does what PgBouncer's does.
pub(super) fn convert(entries: &[Entry]) -> Made {
    let mut page = Page::new();
    let own = |key: &str| {
        let mut own = entries.iter().filter(|each| each.section == "pgbouncer" && each.key == key);
        own.next_back().map(|entry| entry.value.as_str())
    };
    if let Some(path) = own("pidfile").filter(|path| !path.is_empty()) {
        page.text.push_str("[admin]\n");
        page.word("pid_file", path);
        page.text.push('\n');
    }
    page.text.push_str("[proxy]\n");
    listen(&mut page, own("listen_addr"), own("listen_port"));
    let has_unix = unix(&mut page, own("unix_socket_dir"));
    page.word("pool_mode", own("pool_mode").unwrap_or("session"));
    let usual = entries.iter().find(|entry| entry.key == "auth_type");
    auth_type(&mut page, usual);
    // What PgBouncer does without being told is not what pgx does.
    if own("max_client_conn").is_none() {
        page.line("max_client_conn", "100");
    }
    let settings = entries.iter().filter(|entry| entry.section == "pgbouncer");
    let last: BTreeMap<&str, &Entry> = settings.map(|entry| (entry.key.as_str(), entry)).collect();
    for entry in last.into_values() {
        match way(&entry.key) {
            // About sockets that there are none of.
            Way::Word("unix_socket_mode" | "unix_socket_group") if !has_unix => {}
            Way::Number(key) => page.number(entry, key, &entry.value),
            Way::Word(key) if entry.value.is_empty() => {
                page.leave(entry, &format!("{key} is empty"));
            }
            Way::Word(key) => page.word(key, &entry.value),
            Way::Own => {}
            Way::Words => page.words(&entry.key, &entry.value),
            Way::Anyway(why) => page.anyway(entry, why),
            Way::Left(why) => page.leave(entry, why),
        }
    }
    for entry in entries {
        match entry.section.as_str() {
            "databases" => database(&mut page, entry),
            "users" => user(&mut page, entry),
            "peers" => page.leave(entry, "name the other nodes in proxy.peers, as host:port"),
            "pgbouncer" => {}
            other => page.leave(entry, &format!("section [{other}] is not known to pgx")),
        }
    }
    if !entries.iter().any(|entry| entry.section == "databases") {
        page.left
            .push("[databases] is empty: give proxy.backends, or [[proxy.databases]]".to_owned());
        page.text =
            page.text.replacen("[proxy]\n", "[proxy]\nbackends = [\"127.0.0.1:5432\"]\n", 1);
    }
    page.into_made()
}

fn listen(page: &mut Page, addresses: Option<&str>, port: Option<&str>) {
    let port = port.unwrap_or("6432");
    let all = listening(addresses.unwrap_or("127.0.0.1"), port).into_iter();
    let all: Vec<String> = all.map(|address| quoted(&address)).collect();
    page.line("listen", &format!("[{}]", all.join(", ")));
}

/// The folder of Unix sockets; PgBouncer has them without being told. Says whether there are any.
fn unix(page: &mut Page, folder: Option<&str>) -> bool {
    match folder.unwrap_or("/tmp") {
        "" => false,
        name if name.starts_with('@') => {
            let why = "sockets without files, whose names begin with @, are not to be had";
            page.left.push(format!("unix_socket_dir {name}: {why}"));
            false
        }
        folder => {
            page.word("unix_socket_dir", folder);
            true
        }
    }
}

fn auth_type(page: &mut Page, entry: Option<&Entry>) {
    match entry.map_or("md5", |entry| entry.value.as_str()) {
        word @ ("md5" | "scram-sha-256" | "hba" | "trust") => page.word("auth_type", word),
        "any" => {
            page.word("auth_type", "trust");
            page.left
                .push("auth_type any: made into trust; clients keep their own users".to_owned());
        }
        other => {
            page.word("auth_type", "scram-sha-256");
            let how = "made into scram-sha-256; by rules (auth_type hba) more can be said";
            page.left.push(format!("auth_type {other}: {how}"));
        }
    }
}

fn database(page: &mut Page, entry: &Entry) {
    let pairs = match pairs(&entry.value) {
        Ok(pairs) => pairs,
        Err(problem) => return page.leave(entry, &problem),
    };
    page.text.push_str("\n[[proxy.databases]]\n");
    page.word("name", &entry.key);
    let get = |key: &str| pairs.iter().rfind(|(known, _)| known == key).map(|(_, value)| value);
    let port = get("port").map_or("5432", String::as_str);
    let hosts = get("host").map_or("/var/run/postgresql", String::as_str);
    let backends: Vec<String> = hosts
        .split(',')
        .map(|host| match host {
            path if path.starts_with('/') => quoted(&format!("{path}/.s.PGSQL.{port}")),
            six if six.contains(':') => quoted(&format!("[{six}]:{port}")),
            host => quoted(&format!("{host}:{port}")),
        })
        .collect();
    page.line("backends", &format!("[{}]", backends.join(", ")));
    for (key, value) in &pairs {
        let entry = Entry { key: format!("{} {key}", entry.key), ..entry.clone() };
        match key.as_str() {
            "host" | "port" => {}
            "dbname" | "user" | "password" | "pool_mode" | "auth_user" | "auth_query"
            | "auth_dbname" => page.word(key, value),
            "pool_size"
            | "min_pool_size"
            | "max_db_connections"
            | "max_db_client_connections"
            | "reserve_pool_timeout" => page.number(&entry, key, value),
            "reserve_pool" | "reserve_pool_size" => page.number(&entry, "reserve_pool_size", value),
            "connect_query" => page.leave(&entry, "pgx runs nothing when it connects"),
            "client_encoding" | "datestyle" | "timezone" | "application_name" => {
                page.leave(
                    &entry,
                    "clients say that themselves; or ALTER ROLE ... SET on the server",
                );
            }
            _ => page.leave(&entry, "it is not known to pgx"),
        }
    }
}

fn user(page: &mut Page, entry: &Entry) {
    let pairs = match pairs(&entry.value) {
        Ok(pairs) => pairs,
        Err(problem) => return page.leave(entry, &problem),
    };
    page.text.push_str("\n[[proxy.users]]\n");
    page.word("name", &entry.key);
    for (key, value) in &pairs {
        let entry = Entry { key: format!("{} {key}", entry.key), ..entry.clone() };
        match key.as_str() {
            "pool_mode" => page.word(key, value),
            "pool_size" | "max_user_connections" | "max_user_client_connections" => {
                page.number(&entry, key, value);
            }
            _ => page.leave(&entry, "it is not known to pgx"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use pgx_session::config::PoolMode;

    use super::*;
    use crate::config::{Pool, parse};
    use crate::import::file::Files;
    use crate::import::ini::read;

    fn converted(text: &str) -> Made {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pgbouncer.ini");
        std::fs::write(&path, text).unwrap();
        let mut files = Files::default();
        let file = files.first(&path).unwrap();
        convert(&read(&file, &mut files).unwrap())
    }

    fn pool(made: &Made) -> Pool {
        let parsed = parse(&made.text);
        parsed
            .unwrap_or_else(|found| panic!("{found:?}\n{}", made.text))
            .proxy
            .unwrap()
            .pool
            .unwrap()
    }

    #[test]
    fn settings_databases_and_users_are_carried_over() {
        let made = converted(
            "[databases]\nshop = host=db1,db2 port=5433 dbname=shop_v2 user=app password='it''s' \
             pool_size=7 reserve_pool=2 pool_mode=transaction\n* = host=/run/pg\n[users]\n\
             ann = pool_mode=statement max_user_connections=3\n[pgbouncer]\nlisten_addr = *\n\
             auth_type = trust\nserver_lifetime = 0\nquery_wait_timeout = 9\n\
             server_login_retry = 1.5\n",
        );
        assert!(made.left.is_empty(), "{:?}", made.left);
        let pool = pool(&made);
        let shop = &pool.databases[&b"shop"[..]];
        let places: Vec<_> = shop.backends.iter().map(|each| each.address.0.as_str()).collect();
        assert_eq!(places, ["db1:5433", "db2:5433"]);
        assert_eq!((shop.pool_size, shop.reserve, shop.mode), (7, 2, PoolMode::Transaction));
        assert_eq!(shop.name.as_deref(), Some("shop_v2"));
        let others = &pool.databases[&b"*"[..]];
        assert_eq!(others.backends[0].address.0, "/run/pg/.s.PGSQL.5432");
        assert_eq!(others.mode, PoolMode::Session, "as PgBouncer does by default");
        assert_eq!(pool.special[&b"ann"[..]].mode, Some(PoolMode::Statement));
        assert_eq!((pool.limits.server_lifetime_ms, pool.limits.server_retry_ms), (0, 1_500));
    }

    #[test]
    fn unix_sockets_and_the_file_of_the_process_are_where_they_were() {
        let made = converted(
            "[databases]\n* = host=db\n[pgbouncer]\nauth_type = trust\npidfile = /run/b.pid\n\
             unix_socket_dir = /run/pg\nunix_socket_mode = 0770\nunix_socket_group = app\n",
        );
        let config = parse(&made.text).unwrap();
        assert_eq!(config.pid_file.as_deref(), Some(Path::new("/run/b.pid")));
        let unix = config.proxy.unwrap().unix.unwrap();
        assert_eq!((unix.folder.as_path(), unix.mode), (Path::new("/run/pg"), 0o770));
        assert_eq!(unix.group.as_deref(), Some("app"));

        let of = |line: &str| {
            let text = "[databases]\n* = host=db\n[pgbouncer]\nauth_type = trust\n";
            let made = converted(&format!("{text}{line}\n"));
            (parse(&made.text).unwrap().proxy.unwrap().unix, made.left)
        };
        assert_eq!(of("").0.unwrap().folder, Path::new("/tmp"), "as PgBouncer does by default");
        assert_eq!(of("unix_socket_dir =\nunix_socket_mode = 0700").0, None);
        let (none, left) = of("unix_socket_dir = @name");
        assert!(none.is_none() && left[0].contains("@name"), "{left:?}");
    }

    #[test]
    fn what_is_left_out_is_named_with_its_place_and_a_reason() {
        let made = converted(
            "[databases]\na = host=x connect_query='select 1'\nb = host\n[peers]\n\
             1 = host=x\n[pgbouncer]\nauth_type = pam\nadmin_users = ann\nnew_thing = 1\n\
             default_pool_size = many\nserver_reset_query = DISCARD ALL\n",
        );
        let left = made.left.join("\n");
        for expected in [
            ":2: a connect_query: pgx runs nothing",
            ":3: b: expected key=value",
            ":5: 1: name the other nodes",
            "auth_type pam: made into scram-sha-256",
            "new_thing: it is not known",
            "default_pool_size: \"many\" is not a number",
        ] {
            assert!(left.contains(expected), "{expected}\n{left}");
        }
        assert!(made.text.contains("admin_users = [\"ann\"]\n"), "{}", made.text);
        assert!(!left.contains("reset_query"), "pgx does so anyway: {left}");
    }
}
