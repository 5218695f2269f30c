//! What the pcp commands print, in their form (4.3), for programs that read it: from the tables of
//! the console that have pgpool-II's columns. Pure.

use std::fmt::Write;

use pgx_control::admin::{Cell, ChangeReport, Table};

use crate::moment::utc;

/// What pgpool-II calls a server that is up and has connections, and one that is down.
const UP: &str = "2";
const DOWN: &str = "3";

const NODE_TITLES: [&str; 12] = [
    "Hostname",
    "Port",
    "Status",
    "Weight",
    "Status Name",
    "Backend Status Name",
    "Role",
    "Backend Role",
    "Replication Delay",
    "Replication State",
    "Replication Sync State",
    "Last Status Change",
];

const HEALTH_TITLES: [&str; 20] = [
    "Node Id",
    "Host Name",
    "Port",
    "Status",
    "Role",
    "Last Status Change",
    "Total Count",
    "Success Count",
    "Fail Count",
    "Skip Count",
    "Retry Count",
    "Average Retry Count",
    "Max Retry Count",
    "Max Health Check Duration",
    "Minimum Health Check Duration",
    "Average Health Check Duration",
    "Last Health Check",
    "Last Successful Health Check",
    "Last Skip Health Check",
    "Last Failed Health Check",
];

/// The titles of `pcp_proc_info`, each with its column of SHOW POOL_POOLS and what stands for a
/// value that pgx does not have.
const PROCESS_COLUMNS: [(&str, &str, &str); 16] = [
    ("Database", "database", ""),
    ("Username", "username", ""),
    ("Start time", "start_time", ""),
    ("Client connection count", "client_connection_count", "0"),
    ("Major", "majorversion", ""),
    ("Minor", "minorversion", ""),
    ("Backend connection time", "backend_connection_time", ""),
    ("Client connection time", "client_connection_time", ""),
    ("Client idle duration", "client_idle_duration", "0"),
    ("Client disconnection time", "client_disconnection_time", ""),
    ("Pool Counter", "pool_counter", "0"),
    ("Backend PID", "pool_backendpid", "0"),
    ("Connected", "pool_connected", "0"),
    ("PID", "pool_pid", ""),
    ("Backend ID", "backend_id", "-1"),
    ("Status", "status", ""),
];

/// What one pgx knows of when things have changed.
pub(super) struct Times {
    /// When it started, in milliseconds since 1970.
    pub(super) started_ms: u64,
    /// The changes of primary that it has seen, the newest last.
    pub(super) changes: Vec<ChangeReport>,
}

impl Times {
    /// When a node's part has changed last, as far as this pgx has seen it: pgpool-II begins with
    /// its own start, too.
    fn of(&self, node: &str) -> String {
        let concerns = |change: &&ChangeReport| {
            let of = |id: u64| id.to_string() == node;
            of(change.to) || change.from.is_some_and(of)
        };
        let newest = self.changes.iter().rfind(concerns);
        moment(newest.map_or(self.started_ms, |change| change.began_ms + change.took_ms))
    }
}

/// A row of a table, by the names of its columns.
#[derive(Clone, Copy)]
pub(super) struct Row<'a> {
    columns: &'a [String],
    cells: &'a [Option<Cell>],
}

impl Row<'_> {
    /// A value as text; empty where there is none.
    pub(super) fn text(self, name: &str) -> String {
        let place = self.columns.iter().position(|column| column == name);
        match place.and_then(|place| self.cells.get(place)?.as_ref()) {
            Some(Cell::Text(text)) => text.clone(),
            Some(Cell::Number(number)) => number.to_string(),
            None => String::new(),
        }
    }

    /// The same with something in the place of none.
    fn or(self, name: &str, without: &str) -> String {
        Some(self.text(name)).filter(|text| !text.is_empty()).unwrap_or_else(|| without.to_owned())
    }
}

/// The rows of a table.
pub(super) fn rows(table: &Table) -> impl Iterator<Item = Row<'_>> {
    table.rows.iter().map(|cells| Row { columns: &table.columns, cells })
}

/// `pcp_node_count`.
pub(super) fn count(number: usize, is_verbose: bool) -> String {
    match is_verbose {
        true => format!("Node Count\n____________\n {number}\n"),
        false => format!("{number}\n"),
    }
}

/// `pcp_node_info`.
pub(super) fn nodes<'a>(
    nodes: impl Iterator<Item = Row<'a>>,
    times: &Times,
    is_verbose: bool,
) -> String {
    let lines = nodes.map(|node| {
        let status = node.text("status");
        let values = [
            node.text("hostname"),
            node.or("port", "0"),
            if status == "up" { UP } else { DOWN }.to_owned(),
            node.or("lb_weight", "0.000000"),
            status,
            node.text("pg_status"),
            node.text("role"),
            node.text("pg_role"),
            node.or("replication_delay", "0"),
            node.or("replication_state", "none"),
            node.or("replication_sync_state", "none"),
            times.of(&node.text("node_id")),
        ];
        line(&NODE_TITLES, &values, is_verbose)
    });
    let text: String = lines.collect();
    if text.is_empty() { "No node information available\n\n".to_owned() } else { text }
}

/// `pcp_health_check_stats`: pgx counts none of it, and knows when it has heard of the node.
pub(super) fn health(node: Row, times: &Times, heard_ms: Option<u64>, is_verbose: bool) -> String {
    let id = node.text("node_id");
    let changed = times.of(&id);
    let is_up = node.text("pg_status") == "up";
    let heard = heard_ms.map(moment).unwrap_or_default();
    let (well, failed) = if is_up { (heard.clone(), "") } else { (String::new(), &heard[..]) };
    let counts = ["0", "0", "0", "0", "0", "0.000000", "0", "0", "0", "0.000000"];
    let head = [id, node.text("hostname"), node.or("port", "0")].into_iter();
    let values: Vec<_> = head
        .chain([node.text("status"), node.text("role"), changed])
        .chain(counts.map(str::to_owned))
        .chain([heard.clone(), well, String::new(), failed.to_owned()])
        .collect();
    line(&HEALTH_TITLES, &values, is_verbose)
}

/// `pcp_proc_count`.
pub(super) fn processes(all: &[u32], is_verbose: bool) -> String {
    if !is_verbose {
        let ids: String = all.iter().map(|id| format!("{id} ")).collect();
        return format!("{ids}\n");
    }
    let mut text = "No \t | \t PID\n_____________________\n".to_owned();
    for (number, id) in all.iter().enumerate() {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{number} \t | \t {id}");
    }
    text + &format!("\nTotal Processes:{}\n", all.len())
}

/// `pcp_proc_info`.
pub(super) fn connections(table: &Table, is_verbose: bool) -> String {
    let titles = PROCESS_COLUMNS.map(|(title, ..)| title);
    let lines = rows(table).map(|row| {
        let value = |(_, name, without)| row.or(name, without).trim_end_matches(" UTC").to_owned();
        line(&titles, &PROCESS_COLUMNS.map(value), is_verbose)
    });
    let text: String = lines.collect();
    if text.is_empty() { "No process information available\n\n".to_owned() } else { text }
}

/// `pcp_pool_status`.
pub(super) fn settings(table: &Table, is_verbose: bool) -> String {
    let one = |(number, row): (usize, Row)| {
        let [name, value, about] = ["item", "value", "description"].map(|name| row.text(name));
        match is_verbose {
            true => format!(
                "Name [{number:3}]:\t{name}\nValue:      \t{value}\nDescription:\t{about}\n\n"
            ),
            false => format!("name : {name}\nvalue: {value}\ndesc : {about}\n\n"),
        }
    };
    rows(table).enumerate().map(one).collect()
}

/// Values in one line, or each behind its title.
fn line(titles: &[&str], values: &[String], is_verbose: bool) -> String {
    if !is_verbose {
        return format!("{}\n", values.join(" "));
    }
    let width = titles.iter().map(|title| title.len()).max().unwrap_or_default();
    let pairs = titles.iter().zip(values);
    let lines: String = pairs.map(|(title, value)| format!("{title:width$} : {value}\n")).collect();
    lines + "\n"
}

/// A time in the form of pgpool-II, and in UTC.
fn moment(ms: u64) -> String {
    utc(ms).trim_end_matches(" UTC").to_owned()
}
