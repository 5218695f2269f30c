//! What is shown.

use anyhow::{Context, ensure};
use serde_json::Value;

use crate::place::{Pgbouncer, Place, psql, rows, said};

/// All tables of PgBouncer.
const TABLES: [&str; 18] = [
    "CONFIG",
    "DATABASES",
    "POOLS",
    "CLIENTS",
    "SERVERS",
    "USERS",
    "VERSION",
    "FDS",
    "SOCKETS",
    "ACTIVE_SOCKETS",
    "LISTS",
    "MEM",
    "DNS_HOSTS",
    "DNS_ZONES",
    "STATS",
    "STATS_TOTALS",
    "STATS_AVERAGES",
    "TOTALS",
];

/// Programs that read PgBouncer's tables find each column where it was.
pub(crate) fn columns() -> anyhow::Result<()> {
    let place = Place::start("")?;
    let peer = Pgbouncer::start(&place.database)?;
    for port in [place.port()?, peer.port] {
        let output = psql(port, "postgres", "postgres", "select 1")?;
        ensure!(output.status.success(), "{}", said(&output));
    }
    for table in TABLES {
        // It passes its sockets to clients of this one, and psql takes no such thing over TCP.
        let theirs = rows(peer.port, "pgbouncer", table)?;
        let ours = rows(place.port()?, "pgbouncer", table)?;
        let (theirs, ours) = (&theirs[0], &ours[0]);
        ensure!(ours.starts_with(theirs), "{table}: {theirs:?}, but here {ours:?}");
    }
    for (table, key) in [("LISTS", 0), ("TOTALS", 0)] {
        let theirs = rows(peer.port, "pgbouncer", table)?;
        let ours = rows(place.port()?, "pgbouncer", table)?;
        for row in &theirs {
            ensure!(ours.iter().any(|own| own[key] == row[key]), "{table} lacks {}", row[key]);
        }
    }
    Ok(())
}

/// Counts and names are those of what was done.
pub(crate) fn contents() -> anyhow::Result<()> {
    let place = Place::start("[[proxy.databases]]\nname = \"shop\"\ndbname = \"postgres\"\n")?;
    let output = psql(place.port()?, "postgres", "shop", "select 1")?;
    ensure!(output.status.success(), "{}", said(&output));
    let one = |table: &str, column: &str, of: &str| -> anyhow::Result<String> {
        // In one look: threads answer in any order.
        let found = rows(place.port()?, "pgx", table)?;
        let at = |name: &str| found[0].iter().position(|known| known == name);
        let (name, column) = at("database").zip(at(column)).context("no such columns")?;
        let row = found.iter().find(|row| row[name] == of).context("no such row")?;
        Ok(row[column].clone())
    };
    for (table, column, expected) in [
        ("STATS", "total_xact_count", "1"),
        ("STATS", "total_query_count", "1"),
        ("STATS", "total_server_assignment_count", "1"),
        ("STATS_TOTALS", "xact_count", "1"),
        ("POOLS", "user", "postgres"),
        ("POOLS", "sv_idle", "1"),
        ("POOLS", "cl_active", "0"),
        ("POOLS", "pool_mode", "transaction"),
        ("SERVERS", "state", "idle"),
        ("SERVERS", "addr", "unix"),
    ] {
        let found = one(table, column, "shop")?;
        ensure!(found == expected, "{table} {column}: {found}");
    }
    let names = place.column("DATABASES", "name")?;
    ensure!(names == ["*", "shop"], "{names:?}");
    let served = place.column("DATABASES", "database")?;
    ensure!(served == ["*", "postgres"], "{served:?}");
    let clients = place.column("CLIENTS", "user")?;
    ensure!(clients == ["root"], "whoever asks is there: {clients:?}");
    // As pgpool-II would tell: a server, who has it, and what is configured.
    for (table, column, expected) in [
        ("POOL_NODES", "status", "up"),
        ("POOL_NODES", "lb_weight", "1.000000"),
        ("POOL_POOLS", "database", "shop"),
        ("POOL_POOLS", "pool_connected", "0"),
        ("POOL_PROCESSES", "username", "root"),
        ("POOL_VERSION", "pool_version", concat!("pgx ", env!("CARGO_PKG_VERSION"))),
    ] {
        let found = place.column(table, column)?;
        ensure!(found == [expected], "{table} {column}: {found:?}");
    }
    ensure!(place.column("POOL_STATUS", "item")?.iter().any(|item| item == "pool_mode"));
    let version = place.console("SHOW VERSION")?;
    ensure!(version.starts_with("pgx "), "{version}");
    Ok(())
}

pub(crate) fn by_ctl() -> anyhow::Result<()> {
    let place = Place::start("")?;
    ensure!(place.client("select 1")?.status.success());
    for (words, table) in [
        (&["pools"][..], "POOLS"),
        (&["clients"], "CLIENTS"),
        (&["show", "Servers"], "SERVERS"),
        (&["show", "config"], "CONFIG"),
    ] {
        let shown = rows(place.port()?, "pgx", table)?;
        let reply = place.node.ctl(&[words, &["--json"]].concat())?;
        let reply: Value = serde_json::from_slice(&reply.stdout).context("JSON")?;
        ensure!(reply["table"]["columns"] == serde_json::json!(shown[0]), "{table}: {reply:#}");
        let found = reply["table"]["rows"].as_array().context("rows")?;
        let is_whole = |row: &Value| row.as_array().is_some_and(|row| row.len() == shown[0].len());
        ensure!(found.iter().all(is_whole), "{table}: {reply:#}");

        let text = place.node.ctl(words)?;
        let text = String::from_utf8(text.stdout)?;
        let (headings, _) = text.split_once('\n').context("lines")?;
        let headings: Vec<_> = headings.split_whitespace().map(str::to_lowercase).collect();
        ensure!(headings == shown[0], "{table}: {text}");
    }
    let unknown = place.node.ctl(&["show", "nothing"])?;
    let said = String::from_utf8_lossy(&unknown.stderr);
    ensure!(unknown.status.code() == Some(5) && said.contains("there are"), "{unknown:?}");
    Ok(())
}
