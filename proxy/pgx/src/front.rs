//! What clients meet: a pool on threads of its own, or a connection of their own to a backend.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use pgx_session::config::{Config, Database};

use crate::config;
use crate::forward::Forwarder;
use crate::workers::{Plan, Totals, Workers};

/// The proxy of this node.
#[derive(Clone)]
pub(crate) enum Front {
    /// Each client has a connection of its own to a backend.
    Through(Arc<Forwarder>),
    /// Clients share server connections.
    Pooled(Arc<Workers>),
}

impl Front {
    /// What was counted so far.
    pub(crate) fn totals(&self) -> Totals {
        match self {
            Self::Pooled(workers) => workers.totals(),
            Self::Through(forwarder) => {
                let counters = &forwarder.counters;
                Totals {
                    clients: counters.clients.load(Ordering::Relaxed),
                    clients_total: counters.clients_total.load(Ordering::Relaxed),
                    refused_total: counters.refused_total.load(Ordering::Relaxed),
                    unreachable_total: counters.connect_failures_total.load(Ordering::Relaxed),
                }
            }
        }
    }
}

/// Starts the threads of a pool. `listen` makes one socket for one of the addresses; each thread
/// gets its own, and the kernel spreads clients over them.
///
/// # Errors
/// When a socket or an engine cannot be had.
pub(crate) fn start_pool(
    proxy: &config::Proxy,
    pool: &config::Pool,
    listen: impl Fn(SocketAddr) -> Result<OwnedFd, String>,
) -> Result<Workers, String> {
    let database = Database {
        backends: proxy.backends.clone(),
        name: None,
        mode: pool.mode,
        pool_size: pool.size,
    };
    let users = match &pool.users {
        None => BTreeMap::new(),
        Some(path) => config::users::load(path)
            .map_err(|problem| format!("proxy.auth_file: {}: {problem}", path.display()))?,
    };
    let sessions = Config {
        databases: BTreeMap::from([(b"*".to_vec(), database)]),
        users,
        auth: pool.auth,
        clients_max: proxy.max_client_conn,
        ..Config::default()
    };
    let plan = Plan { threads: pool.threads, engine: pool.engine };
    Workers::start(&sessions, plan, || {
        proxy.listen.iter().map(|address| listen(*address)).collect()
    })
}
