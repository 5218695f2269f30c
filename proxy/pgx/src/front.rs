//! What clients meet: a pool on threads of its own, or a connection of their own to a backend.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use pgx_ring::Setup;
use pgx_session::config::Config;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::error;

use crate::config;
use crate::exit::Failure;
use crate::forward::Forwarder;
use crate::limits::{FAREWELL_MAX, TICK};
use crate::sockets::{Listener, Sockets};
use crate::tls::Papers;
use crate::workers::{Plan, Totals, Workers, wait_for_last};

/// The proxy of this node.
#[derive(Clone)]
pub(crate) enum Front {
    /// Each client has a connection of its own to a backend.
    Through(Arc<Forwarder>),
    /// Clients share server connections.
    Pooled(Arc<Workers>),
}

impl Front {
    /// Goes by this configuration from here on, with its files as they are now; connections stay.
    ///
    /// # Errors
    /// When a file is no good, or the change needs a new start; then nothing has changed.
    pub(crate) fn reload(&self, old: &config::Proxy, new: &config::Proxy) -> Result<(), String> {
        if fixed(old) != fixed(new) {
            return Err(
                "proxy.listen, listeners, unix_socket_*, pool_mode from or to \"none\", engine, \
                 threads, cluster_port, zero_copy_bytes_min, peer_id, peers or read-only addresses \
                 of vip.leases were changed, which takes a new start"
                    .to_owned(),
            );
        }
        let (Self::Pooled(workers), Some(pool)) = (self, &new.pool) else {
            return Err("without a pool backends and limits are those of the start".to_owned());
        };
        let (sessions, papers) = read(new, pool)?;
        workers.reload(&sessions, &papers);
        Ok(())
    }

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

/// The proxy, until it is stopped.
pub(crate) struct Proxy {
    front: Front,
    /// What a forwarder is to accept from.
    listeners: Vec<Listener>,
    stop: watch::Sender<bool>,
    accepting: JoinSet<()>,
}

/// Prepares all that serves clients; they come in when it [`Proxy::begin`]s.
///
/// # Errors
/// When a socket, the users' file or an engine cannot be had.
pub(crate) fn start(config: &config::Proxy, sockets: &Sockets) -> Result<Proxy, Failure> {
    let mut listeners = Vec::new();
    let front = if let Some(pool) = &config.pool {
        Front::Pooled(Arc::new(start_pool(config, pool, sockets).map_err(Failure::Failed)?))
    } else {
        listeners = sockets.all().map_err(|error| Failure::Failed(error.to_string()))?;
        Front::Through(Forwarder::new(config))
    };
    let (stop, accepting) = (watch::Sender::new(false), JoinSet::new());
    Ok(Proxy { front, listeners, stop, accepting })
}

impl Proxy {
    /// What clients meet.
    pub(crate) fn front(&self) -> Front {
        self.front.clone()
    }

    /// Lets clients in.
    ///
    /// # Errors
    /// When a socket cannot be accepted from.
    pub(crate) fn begin(&mut self) -> Result<(), Failure> {
        match &self.front {
            Front::Pooled(workers) => workers.go(),
            Front::Through(forwarder) => {
                for listener in std::mem::take(&mut self.listeners) {
                    let serves = Arc::clone(forwarder).serve(listener, self.stop.subscribe());
                    let serves = serves.map_err(|error| Failure::Failed(error.to_string()))?;
                    self.accepting.spawn(serves);
                }
            }
        }
        Ok(())
    }

    /// Lets no more clients in.
    pub(crate) fn close(&self) {
        // Receivers may be gone already.
        let _ = self.stop.send(true);
        if let Front::Pooled(workers) = &self.front {
            workers.close();
        }
    }

    /// Waits for the last session of those who are in, and of the process that this one took over
    /// from, through which clients cancel what they have there.
    pub(crate) async fn wait_for_last(&mut self) {
        if let Front::Pooled(workers) = &self.front {
            wait_for_last(workers, TICK).await;
        }
        while let Some(ended) = self.accepting.join_next().await {
            if let Err(error) = ended {
                error!(%error, "the forwarder ended by a panic");
            }
        }
    }

    /// Cuts the sessions that are left. Clients of a pool are told so.
    pub(crate) async fn end(mut self) {
        self.accepting.shutdown().await;
        if let Front::Pooled(workers) = self.front {
            if workers.totals().clients > 0 {
                workers.shut_down();
                // Those who said nothing so far are not told anything.
                let _ = tokio::time::timeout(FAREWELL_MAX, wait_for_last(&workers, TICK)).await;
            }
            let ended = tokio::task::spawn_blocking(move || workers.end()).await;
            ended.unwrap_or_else(|error| error!(%error, "the end of the pool was a panic"));
        }
    }
}

/// Starts the threads of a pool. Each gets TCP sockets of its own, and the kernel spreads clients
/// over them; of a Unix socket there can be but one, and clients go to whichever thread is first.
fn start_pool(
    proxy: &config::Proxy,
    pool: &config::Pool,
    sockets: &Sockets,
) -> Result<Workers, String> {
    let (sessions, papers) = read(proxy, pool)?;
    let setup = Setup { zero_copy_bytes_min: pool.zero_copy_bytes_min, ..Setup::default() };
    let plan = Plan { threads: pool.threads, engine: pool.engine, setup };
    Workers::start(&sessions, plan, papers, |number| {
        let of_thread = sockets.of_thread(number, pool.threads);
        of_thread.map_err(|error| format!("cannot share a listening socket: {error}"))
    })
}

/// What the sessions go by, with the files that the configuration names.
fn read(proxy: &config::Proxy, pool: &config::Pool) -> Result<(Config, Papers), String> {
    let users = match &pool.users {
        None => BTreeMap::new(),
        Some(path) => config::users::load(path)
            .map_err(|problem| format!("proxy.auth_file: {}: {problem}", path.display()))?,
    };
    let access = pool.rules.as_ref().map(|(rules, ident)| {
        config::access::load(rules, ident.as_deref())
            .map_err(|problems| format!("proxy.auth_hba_file:\n{problems}"))
    });
    let access = access.transpose()?;
    let looks = access.as_ref().is_some_and(|access| access.rules.uses_interfaces());
    let sessions = Config {
        databases: pool.databases.clone(),
        users,
        special: pool.special.clone(),
        admins: pool.admins.clone(),
        viewers: pool.viewers.clone(),
        usual: pool.usual,
        auth: pool.auth,
        rules: access.map(Arc::new),
        interfaces: if looks { config::access::interfaces() } else { Vec::new() },
        clients_max: proxy.max_client_conn,
        peers: pool.peers.clone(),
        client_tls: pool.client_tls.mode,
        server_tls: pool.server_tls.mode,
        limits: pool.limits,
    };
    Ok((sessions, Papers::load(&pool.client_tls, &pool.server_tls)?))
}

/// What a proxy cannot change without a new start.
fn fixed(proxy: &config::Proxy) -> impl PartialEq + use<> {
    let pool = proxy
        .pool
        .as_ref()
        .map(|pool| (pool.engine, pool.threads, pool.zero_copy_bytes_min, pool.peers.clone()));
    let cluster = proxy.pool.as_ref().and_then(|pool| pool.cluster_port);
    (proxy.listen.clone(), proxy.unix.clone(), pool, cluster)
}
