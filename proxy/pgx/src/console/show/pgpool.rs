//! What pgpool-II shows in SQL, by its words and in its columns (4.3), for programs that read them.
//! All columns are texts, and one that has no counterpart is NULL.

use std::collections::{BTreeMap, HashMap};

use pgx_control::admin::{NodeView, PostgresView, Survey};
use pgx_control::facts::Postgres;
use pgx_controller::Unanswered;
use pgx_session::worker::{ClientState, ClientView, ServerState, ServerView};
use pgx_wire::SqlState;
use pgx_wire::backend::write::Type::Text;

use super::super::table::{Answer, Cell, Columns};
use super::super::{Cluster, Desk};
use super::connections::ago;
use super::pools::place;
use crate::workers::{Seen, View, Wish};

pub(super) const NODES: Columns = &[
    ("node_id", Text),
    ("hostname", Text),
    ("port", Text),
    ("status", Text),
    ("pg_status", Text),
    ("lb_weight", Text),
    ("role", Text),
    ("pg_role", Text),
    ("select_cnt", Text),
    ("load_balance_node", Text),
    ("replication_delay", Text),
    ("replication_state", Text),
    ("replication_sync_state", Text),
    ("last_status_change", Text),
];

pub(super) const PROCESSES: Columns = &[
    ("pool_pid", Text),
    ("start_time", Text),
    ("client_connection_count", Text),
    ("database", Text),
    ("username", Text),
    ("backend_connection_time", Text),
    ("pool_counter", Text),
    ("status", Text),
];

pub(super) const POOLS: Columns = &[
    ("pool_pid", Text),
    ("start_time", Text),
    ("client_connection_count", Text),
    ("pool_id", Text),
    ("backend_id", Text),
    ("database", Text),
    ("username", Text),
    ("backend_connection_time", Text),
    ("client_connection_time", Text),
    ("client_disconnection_time", Text),
    ("client_idle_duration", Text),
    ("majorversion", Text),
    ("minorversion", Text),
    ("pool_counter", Text),
    ("pool_backendpid", Text),
    ("pool_connected", Text),
    ("status", Text),
];

pub(super) const STATUS: Columns = &[("item", Text), ("value", Text), ("description", Text)];

pub(super) const VERSION: Columns = &[("pool_version", Text)];

/// One row of `NODES`.
struct Node {
    id: u64,
    host: String,
    port: Cell,
    is_up: bool,
    /// Whether operators have detached it; pgpool calls that down, too.
    is_detached: bool,
    /// Queries that it has answered to clients of this pgx.
    answered: u64,
    role: &'static str,
    own_role: &'static str,
    lag: Option<u64>,
    streams: &'static str,
    sync: &'static str,
}

/// The cluster's PostgreSQL servers, heard or not, by their nodes' numbers; without a cluster the
/// backends, as far as they are known, from 0.
pub(super) async fn nodes(desk: &Desk) -> Answer {
    match told(desk).await {
        Ok(nodes) => Answer::Rows { columns: NODES, rows: rows(nodes) },
        Err(unanswered) => Answer::failed(SqlState::SYSTEM_ERROR, unanswered.to_string()),
    }
}

/// The same, before it looks like anything.
async fn told(desk: &Desk) -> Result<Vec<Node>, Unanswered> {
    let view = desk.workers.view(Wish { backends: true, ..Wish::default() }).await;
    Ok(match &desk.cluster {
        Some(Cluster { control, port }) => members(&control.survey().await?, *port, &view.answered),
        None => backends(&view),
    })
}

fn members(survey: &Survey, port: u16, answered: &BTreeMap<String, u64>) -> Vec<Node> {
    let member = |node: &NodeView| {
        // As proxies call it that follow the cluster.
        let address = node.address.rsplit_once(':').map(|(host, _)| format!("{host}:{port}"));
        let told: Option<&PostgresView> = node.postgres.as_ref();
        let is_holder = told.is_some_and(|own| own.is_holder);
        // What a silent one said last is no news.
        let own = told.filter(|_| node.is_alive);
        let (own_role, is_up) = match own.map(|own| own.state) {
            Some(Postgres::Primary) => ("primary", true),
            Some(Postgres::Standby) => ("standby", true),
            _ => ("unknown", false),
        };
        let streams = own.filter(|own| own.streams_from.is_some());
        (node.is_member || told.is_some()).then(|| Node {
            id: node.id,
            host: place(&node.address).0,
            port: text(port),
            is_up,
            is_detached: node.is_detached,
            answered: address.and_then(|address| answered.get(&address).copied()).unwrap_or(0),
            role: match told {
                Some(_) if is_holder => "primary",
                Some(_) => "standby",
                None => "unknown",
            },
            own_role,
            lag: own.and_then(|own| if is_holder { Some(0) } else { own.lag_bytes }),
            streams: if streams.is_some() { "streaming" } else { "" },
            sync: match streams {
                Some(own) if own.is_sync => "quorum",
                Some(_) => "async",
                None => "",
            },
        })
    };
    survey.nodes.iter().filter_map(member).collect()
}

fn backends(view: &View) -> Vec<Node> {
    let mut nodes: Vec<(&str, Node)> = Vec::new();
    for backend in &view.backends {
        let address = &*backend.address.0;
        if let Some((_, node)) = nodes.iter_mut().find(|(known, _)| *known == address) {
            node.is_up |= !backend.is_out;
            continue;
        }
        let ((host, port), id) = (place(address), nodes.len() as u64);
        let port = if let Cell::Int(port) = port { port.to_string().into() } else { Cell::Null };
        let (role, is_up) = ("unknown", !backend.is_out);
        let (lag, streams, sync) = (None, "", "");
        nodes.push((
            address,
            Node {
                id,
                host,
                port,
                is_up,
                is_detached: false,
                answered: view.answered.get(address).copied().unwrap_or(0),
                role,
                own_role: role,
                lag,
                streams,
                sync,
            },
        ));
    }
    nodes.into_iter().map(|(_, node)| node).collect()
}

fn rows(nodes: Vec<Node>) -> Vec<Vec<Cell>> {
    // Who reads only is sent to standbys that are up, to each as often; to the primary without any.
    let reads = |node: &Node| node.is_up && !node.is_detached && node.role != "primary";
    let readers = nodes.iter().filter(|node| reads(node)).count();
    let row = |node: Node| {
        let weight = match (readers, reads(&node)) {
            (0, _) if node.is_up => 1.0,
            (count, true) => 1.0 / f64::from(u32::try_from(count).unwrap_or(u32::MAX)),
            _ => 0.0,
        };
        let up = |is_up: bool| if is_up { "up" } else { "down" };
        vec![
            text(node.id),
            node.host.into(),
            node.port,
            up(node.is_up && !node.is_detached).into(),
            up(node.is_up).into(),
            format!("{weight:.6}").into(),
            node.role.into(),
            node.own_role.into(),
            node.answered.to_string().into(),
            "false".into(),
            node.lag.map(|lag| lag.to_string()).into(),
            node.streams.into(),
            node.sync.into(),
            Cell::Null,
        ]
    };
    nodes.into_iter().map(row).collect()
}

/// A row for each client: pgpool has a process for each.
pub(super) fn processes(desk: &Desk, view: &View) -> Vec<Vec<Cell>> {
    let servers: HashMap<_, _> =
        view.servers.iter().map(|seen| ((seen.thread, seen.view.id), &seen.view)).collect();
    let since = started(desk);
    let row = |seen: &Seen<ClientView>| {
        let client = &seen.view;
        let server = client.link.and_then(|id| servers.get(&(seen.thread, id)));
        let status = match client.state {
            ClientState::Active | ClientState::Waiting => "Execute command",
            _ => "Idle",
        };
        vec![
            text(std::process::id()),
            since.clone(),
            Cell::Null,
            client.database[..].into(),
            client.user[..].into(),
            server.map(|server| ago(server.connected_us)).into(),
            Cell::Null,
            status.into(),
        ]
    };
    let is_shown = |seen: &&Seen<ClientView>| seen.view.state != ClientState::Login;
    view.clients.iter().filter(is_shown).map(row).collect()
}

/// A row for each connection to a server.
pub(super) async fn pools(desk: &Desk, view: &View) -> Vec<Vec<Cell>> {
    let numbers = numbers(desk).await;
    let since = started(desk);
    let row = |seen: &Seen<ServerView>| {
        let server = &seen.view;
        let host = place(&server.address.0).0;
        let number = numbers.iter().find(|(known, _)| *known == host).map(|(_, number)| *number);
        let is_used = server.state == ServerState::Active;
        vec![
            text(std::process::id()),
            since.clone(),
            Cell::Null,
            "0".into(),
            number.map(|number| number.to_string()).into(),
            server.database[..].into(),
            server.user[..].into(),
            ago(server.connected_us).into(),
            Cell::Null,
            Cell::Null,
            Cell::Null,
            // Of the protocol.
            "3".into(),
            "0".into(),
            Cell::Null,
            text(server.process),
            if is_used { "1" } else { "0" }.into(),
            if is_used { "Execute command" } else { "Idle" }.into(),
        ]
    };
    view.servers.iter().map(row).collect()
}

/// The keys of `[proxy]`.
pub(super) fn status(desk: &Desk) -> Vec<Vec<Cell>> {
    let settings = desk.served.settings().into_iter();
    settings.map(|one| vec![one.key.into(), one.value.into(), "".into()]).collect()
}

pub(super) fn version() -> Vec<Vec<Cell>> {
    vec![vec![concat!("pgx ", env!("CARGO_PKG_VERSION")).into()]]
}

/// Hosts by the numbers that `nodes` tells.
async fn numbers(desk: &Desk) -> Vec<(String, u64)> {
    let nodes = told(desk).await.unwrap_or_default();
    nodes.into_iter().map(|node| (node.host, node.id)).collect()
}

fn started(desk: &Desk) -> Cell {
    ago(u64::try_from(desk.started.elapsed().as_micros()).unwrap_or(u64::MAX)).into()
}

fn text(number: impl Into<u64>) -> Cell {
    let number: u64 = number.into();
    number.to_string().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use pgx_control::cluster::Role;

    fn node(id: u64, state: Postgres, is_holder: bool) -> NodeView {
        NodeView {
            id,
            address: format!("db{id}:6433"),
            role: Some(Role::Voter),
            heard_ms: Some(1),
            is_alive: true,
            parted_from: vec![],
            epoch: Some(1),
            is_member: true,
            is_detached: false,
            postgres: Some(PostgresView {
                state,
                is_holder,
                timeline: 1,
                end: "0/1".to_owned(),
                lag_bytes: (!is_holder).then_some(96),
                streams_from: (!is_holder).then_some(1),
                is_sync: id == 2,
                is_steady: true,
                is_idle: false,
                priority: 0,
            }),
            is_proxy: true,
            addresses: vec![],
        }
    }

    #[test]
    fn nodes_have_a_row_each_as_pgpool_tells_them() {
        let silent = NodeView { is_alive: false, ..node(4, Postgres::Standby, false) };
        let node_5 = node(5, Postgres::Dead, false);
        let proxy = NodeView { postgres: None, is_member: false, ..node_5.clone() };
        let unheard = NodeView { id: 6, postgres: None, is_alive: false, ..node_5 };
        let (one, two) = (node(1, Postgres::Primary, true), node(2, Postgres::Standby, false));
        let spared = NodeView { is_detached: true, ..node(7, Postgres::Standby, false) };
        let nodes =
            vec![one, two, node(3, Postgres::Standby, false), silent, proxy, unheard, spared];
        let answered = [("db1:5432".to_owned(), 7), ("db9:5432".to_owned(), 1)].into();
        let survey = Survey { coordinator: 1, nodes, troubles: vec![] };
        let told: Vec<Vec<String>> = rows(members(&survey, 5432, &answered))
            .into_iter()
            .map(|row| {
                let tell = |cell| if let Cell::Text(text) = cell { text } else { "-".to_owned() };
                row.into_iter().map(tell).collect()
            })
            .collect();
        let expected = [
            "1 db1 5432 up up 0.000000 primary primary 7 false 0   -",
            "2 db2 5432 up up 0.500000 standby standby 0 false 96 streaming quorum -",
            "3 db3 5432 up up 0.500000 standby standby 0 false 96 streaming async -",
            "4 db4 5432 down down 0.000000 standby unknown 0 false -   -",
            "6 db5 5432 down down 0.000000 unknown unknown 0 false -   -",
            "7 db7 5432 down up 0.000000 standby standby 0 false 96 streaming async -",
        ];
        assert_eq!(told.iter().map(|row| row.join(" ")).collect::<Vec<_>>(), expected);
        let alone = Survey { nodes: vec![node(1, Postgres::Primary, true)], ..survey };
        assert_eq!(rows(members(&alone, 5432, &answered))[0][5], "1.000000".into());
    }
}
