//! What each of Patroni's settings is in pgx: a node of a cluster and the PostgreSQL of its host.
//! Settings without a counterpart are in `keys`.

mod keys;

use std::collections::{BTreeMap, BTreeSet};

use self::keys::{OF_RECOVERY, Way, is_detailed, way};
use super::cluster;
use super::file::File;
use super::page::{Page, printable, with_port};
use super::yaml::{Node, Pair, Value};
use super::{Entry, Made};
use crate::postgres::settings::sets;

/// What holds where nothing is said.
const PORT: &str = "5432";
const SUPERUSER: &str = "postgres";

/// Where what all nodes share begins; it is also in Patroni's store, from where on it may have
/// changed.
const SHARED: [&str; 2] = ["bootstrap", "dcs"];

/// Whether a file has a section of Patroni's.
pub(super) fn is_one(root: &Node) -> bool {
    let is_known = |key: &str| way(key).is_some() || is_detailed(key);
    root.pairs().iter().any(|pair| is_known(&pair.key)) || root.value == Value::Null
}

/// A configuration that does what Patroni's does.
pub(super) fn convert(root: &Node, file: &File) -> Made {
    let config = Config { root, file };
    let mut page = Page::new();
    control(&mut page, &config);
    if root.get(&["postgresql"]).is_some() {
        postgres(&mut page, &config);
        proxy(&mut page, &config);
        cluster::after(&mut page);
    } else {
        page.todo.push("[postgres]: the file has no section postgresql".to_owned());
    }
    synchronous(&mut page, &config);
    page.todo.push(
        "what patronictl edit-config has changed is in no file: compare patronictl show-config"
            .to_owned(),
    );
    page.text.push('\n');
    let own = config.own_sections();
    rest(&mut page, &config, "", root, &own);
    page.into_made()
}

struct Config<'a> {
    root: &'a Node,
    file: &'a File,
}

impl<'a> Config<'a> {
    /// What is said of PostgreSQL: on this host, or else for all.
    fn postgresql(&self, path: &[&str]) -> Option<&'a Node> {
        let own = self.root.get(&["postgresql"]).and_then(|section| section.get(path));
        own.filter(|node| node.value != Value::Null).or_else(|| self.shared(&["postgresql"], path))
    }

    fn word(&self, path: &[&str]) -> Option<&'a str> {
        self.postgresql(path).and_then(Node::word).filter(|word| !word.is_empty())
    }

    fn shared(&self, section: &[&str], path: &[&str]) -> Option<&'a Node> {
        self.root.get(&SHARED)?.get(section)?.get(path)
    }

    fn host_and_port(&self, key: &str) -> Option<(&'a str, &'a str)> {
        self.word(&[key]).map(host_and_port)
    }

    fn entry(&self, path: &str, line: usize) -> Entry {
        let place = format!("{}:{line}", self.file.path.display());
        Entry { place, section: String::new(), key: path.to_owned(), value: String::new() }
    }

    fn leave(&self, page: &mut Page, path: &str, line: usize, why: &str) {
        page.leave(&self.entry(path, line), why);
    }

    /// By what programs data directories are made, other than by pg_basebackup.
    fn methods(&self) -> Vec<&'a str> {
        let given = self.postgresql(&["create_replica_methods"]);
        let given = given.or_else(|| self.postgresql(&["create_replica_method"]));
        let one = given.and_then(Node::word).into_iter().flat_map(|words| words.split(','));
        let many = given.map_or(&[][..], Node::list).iter().filter_map(Node::word);
        one.map(str::trim).chain(many).filter(|method| *method != "basebackup").collect()
    }

    /// Sections that have their names from other settings.
    fn own_sections(&self) -> BTreeSet<String> {
        let methods = self.methods().into_iter().map(|method| format!("postgresql.{method}"));
        let founder = self.root.get(&["bootstrap", "method"]).and_then(Node::word);
        methods.chain(founder.map(|method| format!("bootstrap.{method}"))).collect()
    }
}

/// The last colon parts the two; addresses of IPv6 may stand in brackets.
fn host_and_port(text: &str) -> (&str, &str) {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if port.parse::<u16>().is_ok() => (host, port),
        _ => (text, PORT),
    };
    (host.trim_start_matches('[').trim_end_matches(']'), port)
}

/// This node's part in the cluster. Where Patroni is its own store, it names the other nodes; then
/// all have the same numbers on every host, by the order of the addresses.
fn control(page: &mut Page, config: &Config<'_>) {
    let own = config.root.get(&["raft", "self_addr"]).and_then(Node::word);
    let others = config.root.get(&["raft", "partner_addrs"]);
    let words = others.and_then(Node::word).into_iter().flat_map(|words| words.split(','));
    let all = others.map_or(&[][..], Node::list).iter().filter_map(Node::word).chain(words);
    let all: BTreeSet<&str> = all.map(str::trim).chain(own).collect();
    let place = all.iter().position(|address| Some(*address) == own);
    let host = own.map(|own| host_and_port(own).0);
    let host = host.or_else(|| config.host_and_port("connect_address").map(|(host, _)| host));
    let mut peers: Vec<(usize, &str)> = Vec::new();
    for (at, address) in all.iter().enumerate() {
        let peer = host_and_port(address).0;
        let is_new = Some(peer) != host && !peers.iter().any(|(_, known)| *known == peer);
        if place.is_some() && is_new && crate::config::is_host_and_port(&with_port(peer, "1")) {
            peers.push((at + 1, peer));
        }
    }
    if place.is_none() {
        let what = "control.node: 1 is assumed; every node has a number of its own, from 1 on";
        page.todo.push(what.to_owned());
    }
    let word = |key| config.root.get(&[key]).and_then(Node::word);
    let priority = config.root.get(&["tags", "failover_priority"]).and_then(Node::word);
    let node = cluster::Node {
        number: place.unwrap_or(0) + 1,
        name: cluster::name_of(word("name"), "node"),
        host,
        priority: priority.and_then(|text| text.parse().ok()),
    };
    cluster::control(page, cluster::name_of(word("scope"), "main"), &node, &peers);
}

fn postgres(page: &mut Page, config: &Config<'_>) {
    page.section("[postgres]");
    let folder = config.word(&["data_dir"]).unwrap_or("data");
    page.word("data_directory", &config.file.absolute(folder));
    if !folder.starts_with('/') {
        page.todo.push(
            "postgres.data_directory: data_dir is relative to where Patroni was started; say the \
             whole path"
                .to_owned(),
        );
    }
    cluster::bin_directory(page, config.word(&["bin_dir"]).filter(|path| path.starts_with('/')));
    if let Some(folder) = config.word(&["config_dir"]) {
        page.word("config_file", &config.file.absolute(&format!("{folder}/postgresql.conf")));
    }
    let (hosts, port) = config.host_and_port("listen").unwrap_or(("*", PORT));
    page.line("port", port);
    page.word("listen_addresses", hosts);
    if hosts.split(',').all(|host| ["localhost", "127.0.0.1", "::1"].contains(&host.trim())) {
        page.todo.push(format!(
            "postgres.listen_addresses: {hosts}, where neither other hosts nor their proxies reach \
             it"
        ));
    }
    let role = |of: &str| config.word(&["authentication", of, "username"]);
    let superuser = role("superuser").unwrap_or(SUPERUSER);
    page.word("user", superuser);
    if let Some(database) = config.word(&["database"]) {
        page.word("database", database);
    }
    match role("replication") {
        Some(role) if role == superuser => page.todo.push(format!(
            "postgres.replication_user: {role} is the superuser; pgx makes another role"
        )),
        Some(role) => {
            page.word("replication_user", role);
            page.todo.push(format!(
                "postgres.replication_password_file: write the password of {role} on the first \
                 line of /etc/pgx/replication.password, on every host"
            ));
        }
        None => {}
    }
    if let Some(word) = config.word(&["authentication", "replication", "sslmode"]) {
        page.word("replication_sslmode", word);
    }
    clone_command(page, config);
    files(page, config);
}

/// The first program that is called without words of Patroni's; pgx tells its own by variables.
fn clone_command(page: &mut Page, config: &Config<'_>) {
    let mut found = false;
    for method in config.methods() {
        let Some(section) = config.postgresql(&[method]) else { continue };
        let command = section.get(&["command"]).and_then(Node::word).unwrap_or_default();
        let is_alone = section.get(&["no_params"]).is_some_and(|node| !node.is_off());
        let is_plain = command.starts_with('/') && !command.contains(['\'', '"', '\\', '$', '`']);
        let why = if found {
            "there is one clone_command; pg_basebackup copies where it fails"
        } else if !is_alone {
            "it is called with words of Patroni's; pgx tells a clone_command by variables"
        } else if !is_plain {
            "its words cannot be told apart; give postgres.clone_command as an array"
        } else {
            page.list("clone_command", command.split_whitespace());
            found = true;
            continue;
        };
        config.leave(page, &format!("postgresql.{method}"), section.line, why);
    }
}

/// What belongs into files of PostgreSQL's own, which pgx leaves to operators.
fn files(page: &mut Page, config: &Config<'_>) {
    let mut settings: BTreeMap<String, String> = BTreeMap::new();
    let (mut pgx_sets, mut has_lines) = (BTreeSet::new(), false);
    for section in ["recovery_conf", "parameters"] {
        let own = config.root.get(&["postgresql", section]);
        for pair in [config.shared(&["postgresql"], &[section]), own].into_iter().flatten() {
            for Pair { key, node, .. } in pair.pairs() {
                let key = key.to_ascii_lowercase();
                let Some(value) = node.word() else { continue };
                if sets(&key) || OF_RECOVERY.contains(&key.as_str()) {
                    pgx_sets.insert(key);
                } else {
                    settings.insert(key, value.to_owned());
                }
            }
        }
    }
    let in_quotes = |value: &str| {
        value.replace('\\', "\\\\").replace('\'', "''").replace('\n', "\\n").replace('\r', "\\r")
    };
    let lines = settings.iter().map(|(key, value)| format!("{key} = '{}'", in_quotes(value)));
    has_lines |= block(page, "postgresql.conf", lines);
    let of = |key: &str| config.postgresql(&[key]).filter(|node| !node.list().is_empty());
    let rules = of("pg_hba").or_else(|| config.root.get(&["bootstrap", "pg_hba"]));
    let words = |node: Option<&Node>| -> Vec<String> {
        let all = node.map_or(&[][..], Node::list).iter().filter_map(Node::word);
        all.map(str::to_owned).collect()
    };
    has_lines |= block(page, "pg_hba.conf", words(rules).into_iter());
    has_lines |= block(page, "pg_ident.conf", words(of("pg_ident")).into_iter());
    if has_lines {
        page.todo.push(
            "PostgreSQL's own files are yours: put the lines that are listed under [postgres] into \
             them"
                .to_owned(),
        );
    }
    for key in pgx_sets {
        page.comment(&format!("{key}: pgx sets it itself"));
    }
}

fn block(page: &mut Page, file: &str, lines: impl Iterator<Item = String>) -> bool {
    let mut lines = lines.peekable();
    if lines.peek().is_none() {
        return false;
    }
    page.comment(&format!("Lines for {file}:"));
    lines.for_each(|line| page.comment(&format!("  {}", printable(&line))));
    true
}

/// Clients went to PostgreSQL, or to some other proxy, whose configuration Patroni does not have.
fn proxy(page: &mut Page, config: &Config<'_>) {
    let (_, port) = config.host_and_port("listen").unwrap_or(("*", PORT));
    page.text.push('\n');
    page.comment(&format!(
        "Clients come by a proxy, which follows the primary.\n[proxy]\n\
         listen = [\"0.0.0.0:6432\"]\npool_mode = \"session\"\n\
         auth_file = \"/etc/pgx/users.txt\"\ncluster_port = {port}"
    ));
    page.todo.push(
        "[proxy]: switch it on where clients come in, with an auth_file of users and secrets; \
         [[vip.leases]] gives them one address"
            .to_owned(),
    );
}

/// What commits wait for, which all nodes of pgx share and agree on.
fn synchronous(page: &mut Page, config: &Config<'_>) {
    let shared = |key: &str| config.shared(&[], &[key]);
    let is_on = |key: &str| shared(key).is_some_and(|node| !node.is_off());
    let mut words = Vec::new();
    if !is_on("synchronous_mode") {
        // It may be off by not being there at all, and then has no place.
        let what = "bootstrap.dcs.synchronous_mode: it is off; in pgx commits wait for a standby \
                    that streams, where there is one";
        page.left.push(what.to_owned());
    }
    if !is_on("synchronous_mode") || !is_on("synchronous_mode_strict") {
        words.push("--set durability=available".to_owned());
    }
    let count = shared("synchronous_node_count").and_then(Node::word);
    let count = count.and_then(|text| text.parse::<u32>().ok()).filter(|count| *count > 1);
    words.extend(count.map(|count| format!("--set policy.sync_standbys={count}")));
    if !words.is_empty() {
        page.todo.push(format!(
            "durability, and how many standbys commits wait for: as in Patroni by pgx ctl \
             edit-config {}, once the cluster has begun",
            words.join(" ")
        ));
    }
    let words: Vec<String> = founding(config.root.get(&["bootstrap", "initdb"]));
    if !words.is_empty() {
        page.todo.push(format!(
            "where PostgreSQL is founded anew: pgx init postgres {}",
            words.join(" ")
        ));
    }
}

/// Words for initdb. Checksums there are anyway.
fn founding(node: Option<&Node>) -> Vec<String> {
    let each = |node: &Node| -> Vec<String> {
        let pairs = node.pairs().iter();
        let pairs = pairs.filter_map(|pair| Some(format!("{}={}", pair.key, pair.node.word()?)));
        node.word().map(str::to_owned).into_iter().chain(pairs).collect()
    };
    let all = node.map_or(&[][..], Node::list).iter().flat_map(each);
    let all = all.filter(|word| word != "data-checksums");
    all.map(|word| format!("'--initdb=--{}'", printable(&word).replace('\'', ""))).collect()
}

/// All that code of its own has not taken; what is empty or off asks for nothing.
fn rest(page: &mut Page, config: &Config<'_>, above: &str, node: &Node, own: &BTreeSet<String>) {
    let last: BTreeMap<&str, &Pair> =
        node.pairs().iter().map(|pair| (pair.key.as_str(), pair)).collect();
    let mut last: Vec<&Pair> = last.into_values().collect();
    last.sort_by_key(|pair| pair.line);
    for Pair { key, line, node } in last {
        let said = if above.is_empty() { key.clone() } else { format!("{above}.{key}") };
        // What is said for all is named as what is said for this host.
        let path = said.strip_prefix("bootstrap.dcs.").filter(|path| is_postgresql(path));
        let path = path.unwrap_or(&said);
        if own.contains(path) || node.is_off() {
            continue;
        }
        if is_detailed(path) && !node.pairs().is_empty() {
            rest(page, config, &said, node, own);
            continue;
        }
        match way(path) {
            Some(Way::Own) => {}
            Some(Way::Anyway(why)) => page.anyway(&config.entry(&said, *line), why),
            Some(Way::Left(why)) => config.leave(page, &said, *line, why),
            None => config.leave(page, &said, *line, "it is not known to pgx"),
        }
    }
}

fn is_postgresql(path: &str) -> bool {
    path == "postgresql" || path.starts_with("postgresql.")
}

#[cfg(test)]
mod tests;
