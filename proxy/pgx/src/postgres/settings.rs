//! The settings that are pgx's, in one file that is included last.
//!
//! `pgx.conf` lies beside `postgresql.conf`, whose last lines include it: without it PostgreSQL
//! does not start, so a lost file never means commits that wait for nobody.
//! `postgresql.auto.conf` comes after every file, so what ALTER SYSTEM has put there under one of
//! these names is taken out.

use std::fmt::Write;

use pgx_control::cluster::sync::Rule;
use pgx_control::ids::{Incarnation, NodeId};
use pgx_session::strict::{COMMIT, MESSAGES};
use serde::{Deserialize, Serialize};

use super::error::Error;
use super::files::{self, Side};
use super::{Peer, Place, versions};
use crate::limits::postgres::{KEEPALIVES, RETRIEVE_RETRY_MS, SOURCE_MAX};

/// The file's name.
const NAME: &str = "pgx.conf";

/// What the file begins with; then comes what pgx reads.
const HEAD: &str = "# pgx: ";

/// Names that are taken out of `postgresql.auto.conf`: those of the file, and those that must not
/// be set at all. `port` and `listen_addresses` follow where pgx sets them.
const NAMES: [&str; 19] = [
    "hot_standby",
    "max_slot_wal_keep_size",
    "primary_conninfo",
    "primary_slot_name",
    "promote_trigger_file",
    "recovery_min_apply_delay",
    "recovery_target",
    "recovery_target_lsn",
    "recovery_target_name",
    "recovery_target_time",
    "recovery_target_timeline",
    "recovery_target_xid",
    "restart_after_crash",
    "synchronous_standby_names",
    "unix_socket_directories",
    "wal_log_hints",
    "wal_retrieve_retry_interval",
    "port",
    "listen_addresses",
];

/// Whether pgx sees to a setting itself; docs/POSTGRES.md says how.
pub(crate) fn sets(name: &str) -> bool {
    NAMES.contains(&name)
}

/// What changes from step to step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Managed {
    /// Counts the writes, so that the same content twice is not mistaken for no change between.
    pub(crate) serial: u64,
    /// The directory, under whose name it receives.
    pub(crate) directory: Incarnation,
    /// Whom it receives from.
    pub(crate) upstream: Option<Peer>,
    /// Whom commits wait for.
    pub(crate) rule: Rule,
    /// What the operator has set that a strict cluster does not let be lower; `None` where that is
    /// up to the operator.
    #[serde(default)]
    pub(crate) floor: Option<Floor>,
}

/// Settings of the operator's that count only where they are high enough: see [`super::floor`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Floor {
    commit: String,
    messages: String,
}

impl Default for Floor {
    /// What PostgreSQL has if nobody sets anything.
    fn default() -> Self {
        Self { commit: "on".to_owned(), messages: "notice".to_owned() }
    }
}

impl Floor {
    /// The operator has set this.
    pub(super) fn set(&mut self, name: &str, value: String) {
        match name {
            COMMIT => self.commit = value,
            MESSAGES => self.messages = value,
            _ => {}
        }
    }

    fn lines(&self) -> [(&'static str, String); 2] {
        [(COMMIT, self.commit.clone()), (MESSAGES, self.messages.clone())]
    }
}

impl Managed {
    /// The settings of a directory that receives from nobody.
    #[must_use]
    pub(crate) fn new(directory: Incarnation) -> Self {
        // Clusters are strict unless they agree on something else.
        let floor = Some(Floor::default());
        Self { serial: 0, directory, upstream: None, rule: Rule::degraded(), floor }
    }
}

/// What pgx has set; `None` where it has set nothing yet.
///
/// # Errors
/// When the file cannot be read, or somebody else has written it.
pub(crate) fn read(place: &Place) -> Result<Option<Managed>, Error> {
    let path = place.config_file.with_file_name(NAME);
    let Some(text) = place.own(|| files::read(&path))? else { return Ok(None) };
    let head = text.lines().next().and_then(|line| line.strip_prefix(HEAD));
    let parsed = head.ok_or_else(|| "its first line is not pgx's".to_owned());
    let parsed = parsed.and_then(|head| {
        serde_json::from_str(head).map_err(|error| format!("its first line is damaged: {error}"))
    });
    parsed.map(Some).map_err(|what| Error::Strange { path, what })
}

/// As [`read()`], for a directory that must be pgx's.
///
/// # Errors
/// As for [`read()`], and when there is nothing.
pub(crate) fn known(place: &Place) -> Result<Managed, Error> {
    read(place)?.ok_or_else(|| Error::NotManaged(place.config_file.with_file_name(NAME)))
}

/// Writes the settings durably; whether that changes anything. All else that they need to be in
/// force is seen to as well.
///
/// # Errors
/// When a file cannot be read or written.
pub(crate) fn write(place: &Place, wanted: &Managed) -> Result<bool, Error> {
    let path = place.config_file.with_file_name(NAME);
    let version = place.own(|| versions::of_directory(place))?;
    let known = read(place)?;
    let serial = known.as_ref().map_or(0, |known| known.serial);
    let same = Managed { serial, ..wanted.clone() };
    let next = Managed { serial: serial + 1, ..wanted.clone() };
    place.own(|| {
        let current = files::read(&path)?;
        let is_same = current.as_deref() == Some(&text(place, &same, version)?);
        if !is_same {
            files::write(&path, &text(place, &next, version)?)?;
        }
        let is_enforced = enforce(place)?;
        Ok(!is_same || is_enforced)
    })
}

/// Sees to it that nothing counts more than the file: what comes after its line in
/// `postgresql.conf`, and what ALTER SYSTEM has set; whether there was any.
///
/// # Errors
/// When a file cannot be read or written.
pub(super) fn enforce(place: &Place) -> Result<bool, Error> {
    let has_included = include(place)?;
    Ok(purge(place)? || has_included)
}

fn include(place: &Place) -> Result<bool, Error> {
    let known = files::read(&place.config_file)?.unwrap_or_default();
    let wanted = files::with_block(&known, Side::Bottom, &format!("include '{NAME}'"));
    files::write_if_other(&place.config_file, &wanted)
}

/// Takes what is pgx's out of what ALTER SYSTEM has set; whether there was any.
fn purge(place: &Place) -> Result<bool, Error> {
    let path = place.data.join("postgresql.auto.conf");
    let Some(known) = files::read(&path)? else { return Ok(false) };
    let wanted = purged(&known, place.listen.is_some());
    if wanted == known {
        return Ok(false);
    }
    files::write(&path, &wanted)?;
    Ok(true)
}

fn purged(text: &str, has_listen: bool) -> String {
    without(text, |name| NAMES.contains(&name) && (name != "listen_addresses" || has_listen))
}

/// A file of settings without those that are `ours`.
pub(super) fn without(text: &str, ours: impl Fn(&str) -> bool) -> String {
    let is_ours = |line: &&str| {
        // Somebody may have written it by hand.
        let line = line.trim_start();
        let end = line.find(|c: char| c == '=' || c.is_whitespace()).unwrap_or(line.len());
        ours(&line[..end].to_ascii_lowercase())
    };
    text.split_inclusive('\n').filter(|line| !is_ours(line)).collect()
}

/// The value of `synchronous_standby_names` for a rule. It is empty only if the rule says so.
pub(crate) fn names(rule: &Rule) -> String {
    if rule.is_degraded() {
        return String::new();
    }
    let members: Vec<_> =
        rule.members.iter().map(|member| format!("\"{}\"", name(*member))).collect();
    format!("ANY {} ({})", rule.k, members.join(", "))
}

/// By which name a directory is known to the primary that it receives from.
pub(crate) fn name(directory: Incarnation) -> String {
    format!("{:032x}", directory.0)
}

/// The directory of that name.
pub(crate) fn directory(name: &str) -> Option<Incarnation> {
    let is_name = name.len() == 32 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
    u128::from_str_radix(name, 16).ok().filter(|_| is_name).map(Incarnation)
}

/// The slot that a primary keeps for a node.
pub(crate) fn slot(node: NodeId) -> String {
    format!("pgx_node_{node}")
}

/// How members are connected to.
pub(crate) fn conninfo(place: &Place, peer: &Peer, more: &[(&str, &str)]) -> String {
    let (count, idle) = KEEPALIVES;
    let silence_ms = u64::from(idle) * 1000 * u64::from(count + 1);
    let fixed = [
        ("host", peer.host.clone()),
        ("port", peer.port.to_string()),
        ("user", place.replication_user.clone()),
        ("passfile", place.pass_file().display().to_string()),
        ("sslmode", place.sslmode.clone()),
        ("connect_timeout", SOURCE_MAX.as_secs().to_string()),
        ("keepalives_idle", idle.to_string()),
        ("keepalives_interval", idle.to_string()),
        ("keepalives_count", count.to_string()),
        ("tcp_user_timeout", silence_ms.to_string()),
    ];
    let fixed = fixed.iter().map(|(key, value)| (*key, value.as_str()));
    let words = fixed.chain(more.iter().copied()).map(|(key, value)| {
        format!("{key}='{}'", value.replace('\\', "\\\\").replace('\'', "\\'"))
    });
    words.collect::<Vec<_>>().join(" ")
}

/// The value of `primary_conninfo`.
pub(crate) fn primary_conninfo(place: &Place, managed: &Managed) -> String {
    let own = name(managed.directory);
    let to = |peer| conninfo(place, peer, &[("application_name", own.as_str())]);
    managed.upstream.as_ref().map(to).unwrap_or_default()
}

fn text(place: &Place, managed: &Managed, version: u32) -> Result<String, Error> {
    let head = serde_json::to_string(managed).map_err(|error| Error::Strange {
        path: place.config_file.with_file_name(NAME),
        what: error.to_string(),
    })?;
    let mut out = format!(
        "{HEAD}{head}\n# pgx writes this file anew at each change. What else is to be set belongs \
         into postgresql.conf.\n"
    );
    let slot = managed.upstream.as_ref().map(|_| slot(place.node)).unwrap_or_default();
    let mut lines = vec![
        ("primary_conninfo", primary_conninfo(place, managed)),
        ("primary_slot_name", slot),
        ("synchronous_standby_names", names(&managed.rule)),
        ("hot_standby", "on".to_owned()),
        ("wal_log_hints", "on".to_owned()),
        ("restart_after_crash", "off".to_owned()),
        ("recovery_target_timeline", "latest".to_owned()),
        ("recovery_min_apply_delay", "0".to_owned()),
        ("wal_retrieve_retry_interval", format!("{RETRIEVE_RETRY_MS}ms")),
        ("max_slot_wal_keep_size", format!("{}MB", place.slot_keep_mb)),
        ("unix_socket_directories", place.sockets.display().to_string()),
        ("port", place.port.to_string()),
    ];
    // Not taken out of `postgresql.auto.conf`: who wants other ones has a place for them.
    let (count, idle) = KEEPALIVES;
    lines.extend([
        ("tcp_keepalives_idle", idle.to_string()),
        ("tcp_keepalives_interval", idle.to_string()),
        ("tcp_keepalives_count", count.to_string()),
    ]);
    if managed.upstream.is_none() {
        // Who receives nothing more is to be elected, or to follow another: that waits for replay,
        // which must not wait for queries. They are the operator's while it receives.
        for name in ["max_standby_streaming_delay", "max_standby_archive_delay"] {
            lines.push((name, "0".to_owned()));
        }
    }
    for target in ["", "_lsn", "_name", "_time", "_xid"] {
        let name = NAMES.iter().find(|name| name.strip_prefix("recovery_target") == Some(target));
        lines.extend(name.map(|name| (*name, String::new())));
    }
    lines.extend(managed.floor.iter().flat_map(Floor::lines));
    lines.extend(place.listen.clone().map(|listen| ("listen_addresses", listen)));
    if versions::has_trigger_file(version) {
        lines.push(("promote_trigger_file", String::new()));
    }
    for (name, value) in lines {
        let value = value.replace('\\', "\\\\").replace('\'', "''");
        // Writing to a string does not fail.
        let _ = writeln!(out, "{name} = '{value}'");
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rule_names_directories_and_is_empty_only_if_it_is_degraded() {
        let two = Rule { k: 1, members: [Incarnation(0xab), Incarnation(7)].into() };
        assert_eq!(
            names(&two),
            "ANY 1 (\"00000000000000000000000000000007\", \"000000000000000000000000000000ab\")"
        );
        assert_eq!(names(&Rule { k: 0, ..two }), "");
        assert_eq!(directory(&name(Incarnation(u128::MAX))), Some(Incarnation(u128::MAX)));
        assert_eq!(directory("walreceiver"), None);
        assert_eq!(directory("+0000000000000000000000000000007"), None);
    }

    #[test]
    fn what_changes_is_read_back_as_it_was_written() {
        let upstream = Some(Peer { node: NodeId(2), host: "db'2".to_owned(), port: 5433 });
        let rule = Rule { k: 1, members: [Incarnation(u128::MAX), Incarnation(1)].into() };
        let (directory, floor) = (Incarnation(u128::MAX - 1), None);
        let managed = Managed { serial: 3, directory, upstream, rule, floor };
        let text = serde_json::to_string(&managed).unwrap();
        assert_eq!(serde_json::from_str::<Managed>(&text).unwrap(), managed);
    }

    #[test]
    fn what_alter_system_has_set_is_kept_unless_it_is_ours() {
        let text = "# Do not edit\nwork_mem = '8MB'\nPrimary_conninfo='x'\n \tport = '1'\n\
                    synchronous_standby_names\t= ''\nlisten_addresses = '*'\n";
        let kept = "# Do not edit\nwork_mem = '8MB'\nlisten_addresses = '*'\n";
        assert_eq!(purged(text, false), kept);
        assert_eq!(purged(text, true), "# Do not edit\nwork_mem = '8MB'\n");
    }
}
