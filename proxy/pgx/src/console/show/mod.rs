//! Commands that show something, with PgBouncer's columns; what it does not have comes last.

mod columns;
mod connections;
mod pgpool;
mod pools;

pub(super) use connections::unpointed;

use std::collections::BTreeMap;
use std::net::SocketAddr;

use pgx_session::config::PoolMode;
use pgx_session::worker::{CLIENT_BYTES, ClientState, SERVER_BYTES, ServerState};
use pgx_wire::SqlState;

use super::Desk;
use super::averages::Sums;
use super::command::Show;
use super::table::{Answer, Cell, Columns};
use crate::workers::{Databases, Pause, View, Wish};

/// Everything that can be said, for SHOW HELP.
const HELP: &str = "\n\
    \tSHOW HELP|CONFIG|DATABASES|POOLS|CLIENTS|SERVERS|USERS|VERSION\n\
    \tSHOW PEERS|PEER_POOLS|STATE\n\
    \tSHOW FDS|SOCKETS|ACTIVE_SOCKETS|LISTS|MEM\n\
    \tSHOW DNS_HOSTS|DNS_ZONES\n\
    \tSHOW STATS|STATS_TOTALS|STATS_AVERAGES|TOTALS\n\
    \tSHOW POOL_NODES|POOL_PROCESSES|POOL_POOLS|POOL_STATUS|POOL_VERSION\n\
    \tSET key = arg\n\
    \tRELOAD\n\
    \tPAUSE [<db>]\n\
    \tRESUME [<db>]\n\
    \tDISABLE <db>\n\
    \tENABLE <db>\n\
    \tRECONNECT [<db>]\n\
    \tKILL <db>\n\
    \tKILL_CLIENT <ptr>\n\
    \tSUSPEND\n\
    \tSHUTDOWN [WAIT_FOR_SERVERS|WAIT_FOR_CLIENTS]\n\
    \tWAIT_CLOSE [<db>]";

/// The columns of what is shown.
pub(super) fn columns(what: Show) -> Columns {
    match what {
        Show::Help => &[],
        Show::Config => columns::CONFIG,
        Show::Databases => columns::DATABASES,
        Show::Pools => columns::POOLS,
        Show::Clients | Show::Servers => columns::CONNECTIONS,
        Show::Users => columns::USERS,
        Show::Version => columns::VERSION,
        Show::Fds => columns::FDS,
        Show::Sockets | Show::ActiveSockets => columns::SOCKETS,
        Show::Lists => columns::LISTS,
        Show::Mem => columns::MEM,
        Show::DnsHosts => columns::DNS_HOSTS,
        Show::DnsZones => columns::DNS_ZONES,
        Show::Stats => columns::STATS,
        Show::StatsTotals | Show::StatsAverages => columns::STATS_EACH,
        Show::Totals => columns::TOTALS,
        Show::State => columns::STATE,
        Show::Peers => columns::PEERS,
        Show::PeerPools => columns::PEER_POOLS,
        Show::PoolNodes => pgpool::NODES,
        Show::PoolProcesses => pgpool::PROCESSES,
        Show::PoolPools => pgpool::POOLS,
        Show::PoolStatus => pgpool::STATUS,
        Show::PoolVersion => pgpool::VERSION,
    }
}

/// What each needs to know of the threads.
fn wish(what: Show) -> Wish {
    let none = Wish::default();
    match what {
        Show::Databases => Wish { databases: true, ..none },
        Show::Pools => Wish { pools: true, ..none },
        Show::Clients => Wish { clients: true, ..none },
        Show::Servers | Show::PoolPools => Wish { servers: true, ..none },
        Show::Fds | Show::Sockets | Show::ActiveSockets | Show::PoolProcesses => {
            Wish { clients: true, servers: true, ..none }
        }
        Show::Lists => Wish { databases: true, pools: true, clients: true, servers: true, ..none },
        Show::Stats | Show::StatsTotals | Show::StatsAverages | Show::Totals => {
            Wish { stats: true, ..none }
        }
        _ => none,
    }
}

/// Shows it.
pub(super) async fn show(desk: &Desk, what: Show) -> Answer {
    if what == Show::Help {
        return Answer::Notice { text: "Console usage", detail: HELP.to_owned() };
    }
    if what == Show::PoolNodes {
        return pgpool::nodes(desk).await;
    }
    let view = desk.workers.view(wish(what)).await;
    if !view.missing.is_empty() {
        let threads: Vec<String> = view.missing.iter().map(ToString::to_string).collect();
        let message = format!("threads {} do not answer; try again", threads.join(", "));
        return Answer::failed(SqlState::SYSTEM_ERROR, message);
    }
    let rows = match what {
        // Shown above.
        Show::Help | Show::PoolNodes => Vec::new(),
        Show::Config => config(desk),
        Show::Databases => pools::databases(&view),
        Show::Pools => pools::pools(&view),
        Show::Clients => connections::clients(&view),
        Show::Servers => connections::servers(&view),
        Show::Users => users(desk),
        Show::Version => vec![vec![concat!("pgx ", env!("CARGO_PKG_VERSION")).into()]],
        Show::Fds => connections::fds(&view),
        Show::Sockets => connections::sockets(&view, false),
        Show::ActiveSockets => connections::sockets(&view, true),
        Show::Lists => lists(desk, &view),
        Show::Mem => memory(&view),
        Show::DnsHosts => hosts(desk),
        // Addresses are looked up as they are; zones are not watched.
        Show::DnsZones => Vec::new(),
        Show::Stats => stats(desk, &view, &[true, false]),
        Show::StatsTotals => stats(desk, &view, &[true]),
        Show::StatsAverages => stats(desk, &view, &[false]),
        Show::Totals => totals(desk, &view),
        Show::State => state(desk),
        Show::Peers => peers(desk),
        Show::PeerPools => Vec::new(),
        Show::PoolProcesses => pgpool::processes(desk, &view),
        Show::PoolPools => pgpool::pools(desk, &view).await,
        Show::PoolStatus => pgpool::status(desk),
        Show::PoolVersion => pgpool::version(),
    };
    Answer::Rows { columns: columns(what), rows }
}

/// PgBouncer's word for a mode.
fn word(mode: PoolMode) -> &'static str {
    match mode {
        PoolMode::Session => "session",
        PoolMode::Transaction => "transaction",
        PoolMode::Statement => "statement",
    }
}

fn config(desk: &Desk) -> Vec<Vec<Cell>> {
    let settings = desk.served.settings().into_iter();
    let yes = |is: bool| if is { "yes" } else { "no" };
    settings
        .map(|one| {
            vec![
                one.key.into(),
                one.value.into(),
                one.default.into(),
                yes(one.is_changeable).into(),
            ]
        })
        .collect()
}

fn users(desk: &Desk) -> Vec<Vec<Cell>> {
    let config = desk.workers.config();
    let mut names: Vec<&Vec<u8>> = config.users.keys().chain(config.special.keys()).collect();
    names.sort_unstable();
    names.dedup();
    names
        .into_iter()
        .map(|name| {
            let user = config.special.get(name).unwrap_or(&config.usual);
            vec![
                name[..].into(),
                user.mode.map(word).unwrap_or_default().into(),
                user.pool_size.into(),
                user.servers_max.into(),
                user.clients_max.into(),
            ]
        })
        .collect()
}

fn lists(desk: &Desk, view: &View) -> Vec<Vec<Cell>> {
    let is_login = |state: ClientState| matches!(state, ClientState::Login);
    let login = view.clients.iter().filter(|seen| is_login(seen.view.state)).count();
    let used = view.servers.iter().filter(|seen| seen.view.state == ServerState::Active).count();
    let names = desk.workers.addresses().len();
    let rows: [(&str, usize); 12] = [
        ("databases", view.databases.len()),
        ("users", users(desk).len()),
        ("pools", view.pools.len()),
        ("free_clients", 0),
        ("used_clients", view.clients.len() - login),
        ("login_clients", login),
        ("free_servers", view.servers.len() - used),
        ("used_servers", used),
        ("dns_names", names),
        ("dns_zones", 0),
        ("dns_queries", 0),
        ("dns_pending", 0),
    ];
    rows.into_iter().map(|(list, items)| vec![list.into(), items.into()]).collect()
}

fn memory(view: &View) -> Vec<Vec<Cell>> {
    let row = |name: &str, size: usize, used: usize, total: usize| {
        vec![name.into(), size.into(), used.into(), 0_usize.into(), total.into()]
    };
    let (clients, servers) = (view.gauges.clients, view.gauges.servers);
    let resident = resident_bytes();
    vec![
        row("client_cache", CLIENT_BYTES, clients, CLIENT_BYTES * clients),
        row("server_cache", SERVER_BYTES, servers, SERVER_BYTES * servers),
        row("process", resident, 1, resident),
    ]
}

/// What the process has in memory, in bytes; zero if the system does not tell.
fn resident_bytes() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: usize = text.split(' ').nth(1).and_then(|word| word.parse().ok()).unwrap_or(0);
    pages * rustix::param::page_size()
}

fn hosts(desk: &Desk) -> Vec<Vec<Cell>> {
    let pause = crate::limits::NAMES_PAUSE.as_secs();
    let row = |(name, address): (String, SocketAddr)| {
        let host = name.rsplit_once(':').map_or(&*name, |(host, _)| host).to_owned();
        vec![host.into(), pause.into(), address.ip().to_string().into()]
    };
    desk.workers.addresses().into_iter().map(row).collect()
}

fn cells(sums: &Sums) -> ([Cell; 7], [Cell; 4]) {
    (
        [
            sums.transactions.into(),
            sums.queries.into(),
            sums.received.into(),
            sums.sent.into(),
            sums.transaction_us.into(),
            sums.query_us.into(),
            sums.wait_us.into(),
        ],
        [
            sums.assignments.into(),
            sums.client_parses.into(),
            sums.server_parses.into(),
            sums.binds.into(),
        ],
    )
}

/// A row for each database; for each of `totals` the totals, or the averages.
fn stats(desk: &Desk, view: &View, totals: &[bool]) -> Vec<Vec<Cell>> {
    let averages = desk.averages();
    let all = Sums::by_database(&view.stats);
    let row = |(database, sums): (&Vec<u8>, &Sums)| {
        let average = averages.of(database, sums);
        let parts: Vec<_> =
            totals.iter().map(|is| cells(if *is { sums } else { &average })).collect();
        let mut row = vec![Cell::from(&database[..])];
        row.extend(parts.iter().flat_map(|(old, _)| old.clone()));
        row.extend(parts.iter().flat_map(|(_, new)| new.clone()));
        row
    };
    all.iter().map(row).collect()
}

fn totals(desk: &Desk, view: &View) -> Vec<Vec<Cell>> {
    let averages = desk.averages();
    let (mut total, mut average) = (Sums::default(), Sums::default());
    for (database, sums) in Sums::by_database(&view.stats) {
        total = total.plus(&sums);
        average = average.plus(&averages.of(&database, &sums));
    }
    let names = [
        "xact_count",
        "query_count",
        "client_bytes",
        "server_bytes",
        "xact_time",
        "query_time",
        "wait_time",
    ];
    let more =
        ["server_assignment_count", "client_parse_count", "server_parse_count", "bind_count"];
    let rows = |prefix: &str, names: &[&str], cells: &[Cell]| -> Vec<Vec<Cell>> {
        let pairs = names.iter().zip(cells);
        pairs.map(|(name, cell)| vec![format!("{prefix}_{name}").into(), cell.clone()]).collect()
    };
    let ((old, new), (old_each, new_each)) = (cells(&total), cells(&average));
    let mut all = rows("total", &names, &old);
    all.extend(rows("avg", &names, &old_each));
    all.extend(rows("total", &more, &new));
    all.extend(rows("avg", &more, &new_each));
    all
}

fn state(desk: &Desk) -> Vec<Vec<Cell>> {
    let held = desk.workers.held(&Databases(None));
    let is = |how: Option<Pause>| if held == how { "yes" } else { "no" };
    [
        ("active", is(None)),
        ("paused", is(Some(Pause::Paused))),
        ("suspended", is(Some(Pause::Suspended))),
    ]
    .into_iter()
    .map(|(key, value)| vec![key.into(), value.into()])
    .collect()
}

fn peers(desk: &Desk) -> Vec<Vec<Cell>> {
    let config = desk.workers.config();
    let peers: BTreeMap<_, _> = config.peers.others.iter().collect();
    let row = |(number, address): (&u8, &pgx_session::route::ServerAddress)| {
        let (host, port) = pools::place(&address.0);
        vec![usize::from(*number).into(), host.into(), port, Cell::Null]
    };
    peers.into_iter().map(row).collect()
}
