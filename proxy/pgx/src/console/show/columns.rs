//! The columns of what is shown: PgBouncer's, in its order, and behind them what it does not have.

use pgx_wire::backend::write::Type::{Int8, Text};

use super::super::table::Columns;

pub(super) const CONFIG: Columns =
    &[("key", Text), ("value", Text), ("default", Text), ("changeable", Text)];

pub(super) const DATABASES: Columns = &[
    ("name", Text),
    ("host", Text),
    ("port", Int8),
    ("database", Text),
    ("force_user", Text),
    ("pool_size", Int8),
    ("min_pool_size", Int8),
    ("reserve_pool", Int8),
    ("pool_mode", Text),
    ("max_connections", Int8),
    ("current_connections", Int8),
    ("paused", Int8),
    ("disabled", Int8),
    ("max_client_connections", Int8),
    ("current_client_connections", Int8),
    ("backends", Text),
];

pub(super) const POOLS: Columns = &[
    ("database", Text),
    ("user", Text),
    ("cl_active", Int8),
    ("cl_waiting", Int8),
    ("cl_active_cancel_req", Int8),
    ("cl_waiting_cancel_req", Int8),
    ("sv_active", Int8),
    ("sv_active_cancel", Int8),
    ("sv_being_canceled", Int8),
    ("sv_idle", Int8),
    ("sv_used", Int8),
    ("sv_tested", Int8),
    ("sv_login", Int8),
    ("maxwait", Int8),
    ("maxwait_us", Int8),
    ("pool_mode", Text),
    ("target", Text),
];

pub(super) const CONNECTIONS: Columns = &[
    ("type", Text),
    ("user", Text),
    ("database", Text),
    ("state", Text),
    ("addr", Text),
    ("port", Int8),
    ("local_addr", Text),
    ("local_port", Int8),
    ("connect_time", Text),
    ("request_time", Text),
    ("wait", Int8),
    ("wait_us", Int8),
    ("close_needed", Int8),
    ("ptr", Text),
    ("link", Text),
    ("remote_pid", Int8),
    ("tls", Text),
    ("application_name", Text),
    ("prepared_statements", Int8),
    ("replication", Int8),
    ("thread", Int8),
    ("pinned", Int8),
];

pub(super) const SOCKETS: Columns = &[
    ("type", Text),
    ("user", Text),
    ("database", Text),
    ("state", Text),
    ("addr", Text),
    ("port", Int8),
    ("local_addr", Text),
    ("local_port", Int8),
    ("connect_time", Text),
    ("request_time", Text),
    ("wait", Int8),
    ("wait_us", Int8),
    ("close_needed", Int8),
    ("ptr", Text),
    ("link", Text),
    ("remote_pid", Int8),
    ("tls", Text),
    ("application_name", Text),
    ("recv_pos", Int8),
    ("pkt_pos", Int8),
    ("pkt_remain", Int8),
    ("send_pos", Int8),
    ("send_remain", Int8),
    ("pkt_avail", Int8),
    ("send_avail", Int8),
];

pub(super) const USERS: Columns = &[
    ("name", Text),
    ("pool_mode", Text),
    ("pool_size", Int8),
    ("max_user_connections", Int8),
    ("max_user_client_connections", Int8),
];

pub(super) const VERSION: Columns = &[("version", Text)];

pub(super) const FDS: Columns = &[
    ("fd", Int8),
    ("task", Text),
    ("user", Text),
    ("database", Text),
    ("addr", Text),
    ("port", Int8),
    ("cancel", Int8),
    ("link", Int8),
    ("client_encoding", Text),
    ("std_strings", Text),
    ("datestyle", Text),
    ("timezone", Text),
    ("password", Text),
    ("scram_client_key", Text),
    ("scram_server_key", Text),
];

pub(super) const LISTS: Columns = &[("list", Text), ("items", Int8)];

pub(super) const MEM: Columns =
    &[("name", Text), ("size", Int8), ("used", Int8), ("free", Int8), ("memtotal", Int8)];

pub(super) const DNS_HOSTS: Columns = &[("hostname", Text), ("ttl", Int8), ("addrs", Text)];

pub(super) const DNS_ZONES: Columns = &[("zonename", Text), ("serial", Int8), ("count", Int8)];

pub(super) const STATS: Columns = &[
    ("database", Text),
    ("total_xact_count", Int8),
    ("total_query_count", Int8),
    ("total_received", Int8),
    ("total_sent", Int8),
    ("total_xact_time", Int8),
    ("total_query_time", Int8),
    ("total_wait_time", Int8),
    ("avg_xact_count", Int8),
    ("avg_query_count", Int8),
    ("avg_recv", Int8),
    ("avg_sent", Int8),
    ("avg_xact_time", Int8),
    ("avg_query_time", Int8),
    ("avg_wait_time", Int8),
    ("total_server_assignment_count", Int8),
    ("total_client_parse_count", Int8),
    ("total_server_parse_count", Int8),
    ("total_bind_count", Int8),
    ("avg_server_assignment_count", Int8),
    ("avg_client_parse_count", Int8),
    ("avg_server_parse_count", Int8),
    ("avg_bind_count", Int8),
];

pub(super) const STATS_EACH: Columns = &[
    ("database", Text),
    ("xact_count", Int8),
    ("query_count", Int8),
    ("bytes_received", Int8),
    ("bytes_sent", Int8),
    ("xact_time", Int8),
    ("query_time", Int8),
    ("wait_time", Int8),
    ("server_assignment_count", Int8),
    ("client_parse_count", Int8),
    ("server_parse_count", Int8),
    ("bind_count", Int8),
];

pub(super) const TOTALS: Columns = &[("name", Text), ("value", Int8)];

pub(super) const STATE: Columns = &[("key", Text), ("value", Text)];

pub(super) const PEERS: Columns =
    &[("peer_id", Int8), ("host", Text), ("port", Int8), ("pool_size", Int8)];

pub(super) const PEER_POOLS: Columns = &[
    ("database", Text),
    ("cl_active_cancel_req", Int8),
    ("cl_waiting_cancel_req", Int8),
    ("sv_active_cancel", Int8),
    ("sv_login", Int8),
];
