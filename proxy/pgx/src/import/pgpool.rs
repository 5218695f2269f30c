//! What each of pgpool-II's settings is in pgx: the proxy from what is said of clients, pools and
//! backends, and a node of a cluster from what is said of the watchdog. Settings without a
//! counterpart are in `keys`.

mod keys;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use self::keys::{Under, Way, way};
use super::cluster::{self, Node};
use super::file::{File, Files};
use super::page::{Page, listening, quoted, server, with_port};
use super::{Entry, Made};
use crate::config::is_host_and_port;

/// What holds in pgpool-II where nothing is said.
const PORT: &str = "9999";
const SOCKETS: &str = "/tmp";
const BACKEND_PORT: &str = "5432";
const CHILDREN: u64 = 32;
const POOLS: u64 = 4;
const INTERFACE: &str = "eth0";

/// Shares are numbers of at most so much.
const WEIGHT_MAX: u32 = 100;

/// Whether a setting is one of pgpool-II's.
pub(super) fn knows(key: &str) -> bool {
    way(key).is_some()
}

/// The settings, each as it was said last.
struct Settings<'a> {
    last: BTreeMap<&'a str, &'a Entry>,
    file: &'a File,
}

impl<'a> Settings<'a> {
    fn entry(&self, key: &str) -> Option<&'a Entry> {
        self.last.get(key).copied()
    }

    /// What was said, if it is not empty.
    fn get(&self, key: &str) -> Option<&'a str> {
        self.entry(key).map(|entry| entry.value.as_str()).filter(|value| !value.is_empty())
    }

    fn is_on(&self, key: &str, usual: bool) -> bool {
        self.get(key).map_or(usual, is_on)
    }

    fn is_under(&self, under: Under) -> bool {
        match under {
            Under::Always => true,
            Under::Watchdog => self.is_on("use_watchdog", false),
            Under::Balance => self.is_on("load_balance_mode", true),
            Under::Cache => self.is_on("memory_cache_enabled", false),
            Under::Ssl => self.is_on("ssl", false),
        }
    }

    /// What was said by this name with a number behind it, by the numbers.
    fn numbered(&self, name: &str) -> BTreeMap<usize, &'a Entry> {
        let all = self.last.iter().filter(|(_, entry)| !entry.value.is_empty());
        let number = |key: &str| key.strip_prefix(name)?.parse().ok();
        all.filter_map(|(key, entry)| Some((number(key)?, *entry))).collect()
    }
}

fn is_on(word: &str) -> bool {
    ["on", "true", "yes", "1", "t", "y"].contains(&word.to_ascii_lowercase().as_str())
}

/// A server that pgpool-II passes clients on to.
struct Backend<'a> {
    number: usize,
    host: &'a str,
    port: &'a str,
    address: String,
    weight: Option<f64>,
}

/// A configuration that does what pgpool-II's does.
pub(super) fn convert(entries: &[Entry], file: &File) -> Made {
    let last = entries.iter().map(|entry| (entry.key.as_str(), entry)).collect();
    let settings = Settings { last, file };
    let mut page = Page::new();
    if let Some(path) = settings.get("pid_file_name") {
        page.section("[admin]");
        page.word("pid_file", &file.absolute(path));
    }
    let backends = backends(&mut page, &settings);
    let is_cluster = settings.is_on("use_watchdog", false);
    let cluster_port = if is_cluster { cluster_port(&mut page, &backends) } else { None };
    proxy(&mut page, &settings, &backends, cluster_port);
    if is_cluster {
        control(&mut page, &settings, &backends);
        virtual_address(&mut page, &settings);
    }
    mode(&mut page, &settings);
    rest(&mut page, &settings);
    page.into_made()
}

fn backends<'a>(page: &mut Page, settings: &Settings<'a>) -> Vec<Backend<'a>> {
    let mut backends: Vec<Backend<'a>> = Vec::new();
    for (number, entry) in settings.numbered("backend_hostname") {
        let own = |key: &str| settings.get(&format!("backend_{key}{number}"));
        let (host, port) = (entry.value.as_str(), own("port").unwrap_or(BACKEND_PORT));
        let address = server(host, port);
        // The port stands in other lines, too, without quotes.
        let has_port = port.parse::<u16>().is_ok();
        if !has_port || !host.starts_with('/') && !is_host_and_port(&address) {
            page.leave(entry, &format!("{address:?} is not a host with a port"));
        } else if backends.iter().any(|known| known.address == address) {
            page.leave(entry, &format!("{address} is there twice"));
        } else {
            let weight = own("weight").and_then(|text| text.parse().ok());
            let weight = weight.filter(|weight: &f64| weight.is_finite() && *weight >= 0.0);
            backends.push(Backend { number, host, port, address, weight });
        }
        for flag in own("flag").into_iter().flat_map(|flags| flags.split('|')) {
            let why = match flag.trim() {
                "ALWAYS_PRIMARY" => "servers say themselves who the primary is, or the quorum does",
                "DISALLOW_TO_FAILOVER" => "no backend is given up for good",
                _ => continue,
            };
            page.left.push(format!("backend_flag{number} {}: {why}", flag.trim()));
        }
    }
    backends
}

/// The port that PostgreSQL has on all hosts of a cluster.
fn cluster_port<'a>(page: &mut Page, backends: &[Backend<'a>]) -> Option<&'a str> {
    let mut ports = backends.iter().map(|backend| backend.port);
    let first = ports.next().unwrap_or(BACKEND_PORT);
    if ports.all(|port| port == first) {
        return Some(first);
    }
    page.left.push(
        "backend_port: they differ, and in a cluster PostgreSQL has the same port on all hosts: \
         make it so, and give proxy.cluster_port in place of proxy.backends"
            .to_owned(),
    );
    None
}

fn proxy(page: &mut Page, settings: &Settings<'_>, backends: &[Backend<'_>], port: Option<&str>) {
    page.section("[proxy]");
    let listen = listen(page, settings);
    // Among several backends clients want the primary, unless they say otherwise.
    let wants_primary = port.is_none() && backends.len() > 1;
    page.list("listen", if wants_primary { &[] } else { listen.as_slice() });
    sockets(page, settings);
    let mut weights = weights(page, backends);
    if port.is_some() && !weights.is_empty() {
        let what = "backend_weight0: they differ, and in a cluster standbys have equal shares";
        page.left.push(what.to_owned());
        weights.clear();
    }
    match port {
        Some(port) => page.line("cluster_port", port),
        None if backends.is_empty() => {
            page.list("backends", ["127.0.0.1:5432"]);
            page.todo.push("proxy.backends: name them; backend_hostname0 names none".to_owned());
        }
        None => page.list("backends", backends.iter().map(|backend| &backend.address)),
    }
    page.word("pool_mode", "session");
    login(page, settings);
    encryption(page, settings);
    sizes(page, settings);
    times(page, settings);
    for address in listen.iter().filter(|_| wants_primary) {
        page.section("[[proxy.listeners]]");
        page.word("listen", address);
        page.word("target", "primary");
    }
    if !weights.is_empty() {
        page.section("[[proxy.databases]]");
        page.word("name", "*");
        let shares = weights.iter().map(|(name, share)| format!("{} = {share}", quoted(name)));
        page.line("weights", &format!("{{ {} }}", shares.collect::<Vec<_>>().join(", ")));
    }
    if settings.is_under(Under::Balance) && (wants_primary || port.is_some()) {
        readers(page, &listen);
    }
}

/// Where clients come in.
fn listen(page: &mut Page, settings: &Settings<'_>) -> Vec<String> {
    let port = settings.get("port").unwrap_or(PORT);
    let given = settings.entry("listen_addresses");
    let given = given.or_else(|| settings.entry("listen_address"));
    let mut all = listening(given.map_or("localhost", |entry| entry.value.as_str()), port);
    all.retain(|address| address.parse::<std::net::SocketAddr>().is_ok());
    if let Some(entry) = given.filter(|_| all.is_empty()) {
        let why = if entry.value.is_empty() {
            "there is no pgx without an address; it is made into localhost"
        } else {
            "it has no address in numbers; it is made into localhost"
        };
        page.leave(entry, why);
    }
    if all.is_empty() { listening("localhost", port) } else { all }
}

fn sockets(page: &mut Page, settings: &Settings<'_>) {
    let given = settings.entry("unix_socket_directories");
    let given = given.or_else(|| settings.entry("socket_dir"));
    if given.is_none() {
        page.todo.push(format!(
            "proxy.unix_socket_dir: it is not given; pgpool-II's own is {SOCKETS}, Debian's is \
             /var/run/postgresql"
        ));
    }
    let mut folders = given.map_or(SOCKETS, |entry| entry.value.as_str()).split(',');
    let Some(folder) = folders.next().map(str::trim).filter(|folder| !folder.is_empty()) else {
        return;
    };
    if let Some(entry) = given.filter(|_| folders.next().is_some()) {
        page.leave(entry, "only the first of several folders is carried over");
    }
    page.word("unix_socket_dir", folder);
    if let Some(mode) = settings.get("unix_socket_permissions") {
        page.word("unix_socket_mode", mode);
    }
    if let Some(group) = settings.get("unix_socket_group") {
        page.word("unix_socket_group", group);
    }
}

/// Shares of backends in whole numbers, where they differ.
fn weights<'a>(page: &mut Page, backends: &'a [Backend<'_>]) -> BTreeMap<&'a str, u32> {
    let given = |backend: &Backend<'_>| backend.weight.unwrap_or(1.0);
    for backend in backends.iter().filter(|backend| given(backend) == 0.0) {
        page.left.push(format!(
            "backend_weight{}: shares are above 0; who wants standbys is not sent to the primary \
             while there are any",
            backend.number
        ));
    }
    let some: Vec<_> = backends.iter().filter(|backend| given(backend) > 0.0).collect();
    let least = some.iter().map(|backend| given(backend)).fold(f64::INFINITY, f64::min);
    let most = some.iter().map(|backend| given(backend)).fold(0.0, f64::max);
    if some.is_empty() || least == most {
        return BTreeMap::new();
    }
    // Whole multiples of the least where that is possible, else parts of the most.
    let is_whole = |backend: &&Backend<'_>| (given(backend) / least).fract().abs() < 1e-6;
    let fits = most / least <= f64::from(WEIGHT_MAX) && some.iter().all(is_whole);
    let unit = if fits { least } else { most / f64::from(WEIGHT_MAX) };
    let share = |backend: &Backend<'_>| {
        let parts = (given(backend) / unit).round().clamp(1.0, f64::from(WEIGHT_MAX));
        (1..=WEIGHT_MAX).rfind(|whole| f64::from(*whole) <= parts).unwrap_or(1)
    };
    some.into_iter().map(|backend| (backend.address.as_str(), share(backend))).collect()
}

fn login(page: &mut Page, settings: &Settings<'_>) {
    if settings.is_on("enable_pool_hba", false) {
        page.word("auth_type", "hba");
        page.word("auth_hba_file", &settings.file.absolute("pool_hba.conf"));
    } else {
        page.word("auth_type", "md5");
    }
    page.word("auth_file", "/etc/pgx/users.txt");
    page.todo.push(
        "proxy.auth_file: for each user of pool_passwd a line \"user\" \"secret\"; md5 digests are \
         the same there, passwords lose the TEXT before them, and those in AES are to be written \
         anew"
            .to_owned(),
    );
}

fn encryption(page: &mut Page, settings: &Settings<'_>) {
    if !settings.is_under(Under::Ssl) {
        return;
    }
    let path = |key, usual| settings.file.absolute(settings.get(key).unwrap_or(usual));
    page.word("client_tls_sslmode", "prefer");
    page.word("client_tls_cert_file", &path("ssl_cert", "server.crt"));
    page.word("client_tls_key_file", &path("ssl_key", "server.key"));
    if let Some(ca) = settings.get("ssl_ca_cert") {
        page.word("client_tls_ca_file", &settings.file.absolute(ca));
        page.word("server_tls_ca_file", &settings.file.absolute(ca));
        page.todo.push(
            "proxy.server_tls_sslmode: \"verify-ca\" or \"verify-full\" has servers' certificates \
             checked by server_tls_ca_file"
                .to_owned(),
        );
    }
}

/// A process of pgpool-II has one client, and keeps some servers for later ones.
fn sizes(page: &mut Page, settings: &Settings<'_>) {
    let mut number = |key: &str, usual: u64| {
        let Some(entry) = settings.entry(key) else { return usual };
        entry.value.parse().ok().filter(|number| *number <= u64::from(u32::MAX)).unwrap_or_else(
            || {
                page.leave(entry, &format!("{:?} is not a number", entry.value));
                usual
            },
        )
    };
    let children = number("num_init_children", CHILDREN).max(1);
    let pools = number("max_pool", POOLS).max(1);
    let reserved = number("reserved_connections", 0);
    page.line("default_pool_size", &children.to_string());
    page.line("max_db_connections", &(children.saturating_mul(pools)).to_string());
    if reserved > 0 {
        page.line("max_client_conn", &children.saturating_sub(reserved).max(1).to_string());
    }
}

fn times(page: &mut Page, settings: &Settings<'_>) {
    let mut time = |key: &str, unit_ms: u64| {
        let entry = settings.entry(key)?;
        let seconds = seconds(&entry.value, unit_ms);
        if seconds.is_none() {
            page.leave(entry, &format!("{:?} is not a time", entry.value));
        }
        seconds
    };
    let login = time("authentication_timeout", 1_000);
    let connect = time("connect_timeout", 1);
    let client = time("client_idle_limit", 1_000);
    // Processes end when they are idle, and with them what servers they kept.
    let idle = [time("connection_life_time", 1_000), time("child_life_time", 1_000)];
    let idle = idle.into_iter().flatten().filter(|seconds| *seconds > 0).min();
    for (key, given) in [
        ("client_login_timeout", login),
        ("server_connect_timeout", connect),
        ("client_idle_timeout", client),
        ("idle_transaction_timeout", client),
        ("server_idle_timeout", idle),
    ] {
        if let Some(seconds) = given {
            page.line(key, &seconds.to_string());
        }
    }
    if !settings.is_on("connection_cache", true) {
        page.line("server_lifetime", "0");
    }
}

/// A time in whole seconds, which are never fewer than what was given.
fn seconds(text: &str, unit_ms: u64) -> Option<u64> {
    let end = text.find(|char: char| !char.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let number: u64 = number.parse().ok()?;
    let unit_ms = match unit.trim() {
        "" => unit_ms,
        "us" => return Some(number.div_ceil(1_000_000)),
        "ms" => 1,
        "s" => 1_000,
        "min" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    let seconds = number.checked_mul(unit_ms)?.div_ceil(1_000);
    (seconds <= u64::from(u32::MAX)).then_some(seconds)
}

/// Says where reading clients find standbys.
fn readers(page: &mut Page, listen: &[String]) {
    page.left.push(
        "load_balance_mode: no statement is picked out and sent to a standby; clients that only \
         read come by a listener or a database with target \"prefer-standby\", by a read-only \
         address of [vip], or say options=-c pgx.target=prefer-standby"
            .to_owned(),
    );
    let address = listen.first().and_then(|text| text.parse::<std::net::SocketAddr>().ok());
    let Some(mut address) = address else { return };
    address.set_port(address.port().checked_add(1).unwrap_or(9998));
    page.text.push('\n');
    page.comment(&format!(
        "Clients that only read, and find standbys there.\n[[proxy.listeners]]\n\
         listen = \"{address}\"\ntarget = \"prefer-standby\""
    ));
}

/// This node's part in the cluster that the watchdog's nodes and the backends make up.
fn control(page: &mut Page, settings: &Settings<'_>, backends: &[Backend<'_>]) {
    let watchdog = settings.numbered("hostname");
    let mut nodes: BTreeMap<usize, &str> =
        watchdog.iter().map(|(number, entry)| (number + 1, entry.value.as_str())).collect();
    let known: BTreeSet<&str> = nodes.values().copied().collect();
    let mut next = nodes.keys().next_back().map_or(2, |number| number + 1);
    for host in backends.iter().map(|backend| backend.host) {
        let is_new = !known.contains(host) && !nodes.values().any(|known| *known == host);
        if is_new && !host.starts_with('/') {
            nodes.insert(next, host);
            next += 1;
        }
    }
    let path = settings.file.beside("pgpool_node_id");
    let text = Files::default().first(&path).map(|file| file.text).unwrap_or_default();
    let own = text.trim().parse::<usize>().ok().and_then(|number| number.checked_add(1));
    if own.is_none() {
        page.todo.push(format!(
            "control.node: 1 is assumed, as {} has no number; hostname0 is node 1, and so on",
            path.display()
        ));
    }
    let number = own.unwrap_or(1);
    let host = nodes.remove(&number);
    // A host with two pgpool-II is one node.
    let mut seen: BTreeSet<&str> = host.into_iter().collect();
    let mut is_peer = |host| is_host_and_port(&with_port(host, "6433")) && seen.insert(host);
    let peers: Vec<_> = nodes.into_iter().filter(|(_, host)| is_peer(host)).collect();
    let node = Node { number, name: cluster::name_of(host, "node"), host, priority: None };
    cluster::control(page, "main", &node, &peers);

    let own = backends.iter().find(|backend| Some(backend.host) == host);
    let own = own.and_then(|backend| {
        let folder = settings.get(&format!("backend_data_directory{}", backend.number));
        folder.map(|folder| (folder, backend.port))
    });
    let Some((folder, port)) = own else {
        page.todo.push(
            "[postgres]: no backend is on this host by its name; give the section where PostgreSQL \
             runs"
                .to_owned(),
        );
        return;
    };
    page.section("[postgres]");
    page.word("data_directory", &settings.file.absolute(folder));
    cluster::bin_directory(page, None);
    page.line("port", port);
    cluster::after(page);
}

fn virtual_address(page: &mut Page, settings: &Settings<'_>) {
    let Some(entry) = settings.entry("delegate_ip").filter(|entry| !entry.value.is_empty()) else {
        return;
    };
    let Ok(address) = entry.value.parse::<IpAddr>() else {
        return page.leave(entry, &format!("{:?} is not an address", entry.value));
    };
    let words = settings.get("if_up_cmd").unwrap_or_default().split_whitespace();
    let interface = words.skip_while(|word| *word != "dev").nth(1);
    if interface.is_none() {
        page.todo.push(format!(
            "vip.interface: {INTERFACE} is assumed; say whose network the address is on"
        ));
    }
    page.section("[vip]");
    page.word("interface", interface.unwrap_or(INTERFACE));
    page.text.push_str("[[vip.leases]]\n");
    page.line("id", "1");
    page.word("role", "read-write");
    page.list("addresses", [address.to_string()]);
    if let Some(entry) = settings.entry("wd_priority") {
        page.number(entry, "priority", &entry.value);
    }
}

fn mode(page: &mut Page, settings: &Settings<'_>) {
    let Some(entry) = settings.entry("backend_clustering_mode") else { return };
    match entry.value.as_str() {
        "streaming_replication" | "" => {}
        "raw" => page.leave(
            entry,
            "clients want the primary among several backends, not the first that is there",
        ),
        _ => page.leave(
            entry,
            "pgx passes clients on to a primary and its standbys, by streaming replication",
        ),
    }
}

/// All that code of its own has not taken; what is empty or off asks for nothing.
fn rest(page: &mut Page, settings: &Settings<'_>) {
    let says_nothing = |value: &str| {
        let word = value.to_ascii_lowercase();
        ["", "off", "false", "no", "0", "0s", "f", "n"].contains(&word.as_str())
    };
    page.text.push('\n');
    for entry in settings.last.values() {
        match way(&entry.key) {
            Some((Way::Own, _)) => {}
            _ if says_nothing(&entry.value) => {}
            Some((_, under)) if !settings.is_under(under) => {}
            Some((Way::Anyway(why), _)) => page.anyway(entry, why),
            Some((Way::Left(why), _)) => page.leave(entry, why),
            None => page.leave(entry, "it is not known to pgx"),
        }
    }
}

#[cfg(test)]
mod tests;
