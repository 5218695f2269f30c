//! Databases and pools.

use pgx_session::worker::{DatabaseView, PoolView};

use super::super::table::Cell;
use super::word;
use crate::workers::View;

const SECOND_US: u64 = 1_000_000;

pub(super) fn databases(view: &View) -> Vec<Vec<Cell>> {
    view.databases.iter().map(database).collect()
}

fn database(view: &DatabaseView) -> Vec<Cell> {
    let first = view.backends.first().map(|backend| place(&backend.address.0));
    let (host, port) = first.unwrap_or_default();
    let backends: Vec<&str> = view.backends.iter().map(|each| &*each.address.0).collect();
    let own = String::from_utf8_lossy(&view.name).into_owned();
    vec![
        own.clone().into(),
        host.into(),
        port,
        view.dbname.clone().unwrap_or(own).into(),
        view.force_user.as_deref().into(),
        view.pool_size.into(),
        view.min_pool_size.into(),
        view.reserve.into(),
        word(view.mode).into(),
        view.max_connections.into(),
        view.connections.into(),
        view.hold.is_some().into(),
        view.is_disabled.into(),
        view.max_client_connections.into(),
        view.client_connections.into(),
        backends.join(", ").into(),
    ]
}

pub(super) fn pools(view: &View) -> Vec<Vec<Cell>> {
    view.pools.iter().map(pool).collect()
}

fn pool(view: &PoolView) -> Vec<Cell> {
    vec![
        view.database[..].into(),
        view.user[..].into(),
        view.cl_active.into(),
        view.cl_waiting.into(),
        view.cl_active_cancel_req.into(),
        view.cl_waiting_cancel_req.into(),
        view.sv_active.into(),
        view.sv_active_cancel.into(),
        view.sv_being_canceled.into(),
        view.sv_idle.into(),
        // Idle servers are listened to all the time, and need no check before they are used.
        0_u64.into(),
        view.sv_tested.into(),
        view.sv_login.into(),
        (view.maxwait_us / SECOND_US).into(),
        (view.maxwait_us % SECOND_US).into(),
        word(view.mode).into(),
        view.attrs.word().into(),
    ]
}

/// Host and port of an address; those of a Unix socket are its folder and its number.
pub(super) fn place(address: &str) -> (String, Cell) {
    if address.starts_with('/') {
        let (folder, name) = address.rsplit_once('/').unwrap_or((address, ""));
        let port = name.rsplit_once('.').and_then(|(_, port)| port.parse::<u64>().ok());
        return (folder.to_owned(), port.into());
    }
    let (host, port) = address.rsplit_once(':').unwrap_or((address, ""));
    let host = host.trim_start_matches('[').trim_end_matches(']');
    (host.to_owned(), port.parse::<u64>().ok().into())
}
