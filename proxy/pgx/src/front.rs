//! What clients meet: a pool on threads of its own, or a connection of their own to a backend.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use pgx_ring::Setup;
use pgx_session::config::Config;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::{error, warn};

use crate::config;
use crate::descriptors;
use crate::exit::Failure;
use crate::forward::Forwarder;
use crate::limits::{DRAIN_MAX, TICK};
use crate::served::Stop;
use crate::sockets::Sockets;
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
                 threads, zero_copy_bytes_min, peer_id or peers were changed, which takes a new \
                 start"
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
    sockets: Sockets,
    stop: watch::Sender<bool>,
    accepting: JoinSet<()>,
}

/// Starts the proxy.
///
/// # Errors
/// When a socket, the users' file, an engine or enough open files cannot be had.
pub(crate) fn start(config: &config::Proxy) -> Result<Proxy, Failure> {
    descriptors::raise(config).map_err(Failure::Failed)?;
    let sockets = Sockets::open(config)?;
    let (stop, stopped) = watch::channel(false);
    let mut accepting = JoinSet::new();
    let front = if let Some(pool) = &config.pool {
        Front::Pooled(Arc::new(start_pool(config, pool, &sockets).map_err(Failure::Failed)?))
    } else {
        let forwarder = Forwarder::new(config);
        let all = sockets.all().map_err(|error| Failure::Failed(error.to_string()))?;
        for listener in all {
            let serves = Arc::clone(&forwarder).serve(listener, stopped.clone());
            accepting.spawn(serves.map_err(|error| Failure::Failed(error.to_string()))?);
        }
        Front::Through(forwarder)
    };
    Ok(Proxy { front, sockets, stop, accepting })
}

impl Proxy {
    /// What clients meet.
    pub(crate) fn front(&self) -> Front {
        self.front.clone()
    }

    /// Where clients come in.
    pub(crate) fn places(&self) -> Vec<String> {
        self.sockets.places()
    }

    /// Accepts no more clients, lets sessions end for a while, and cuts the rest.
    pub(crate) async fn stop(mut self, how: Stop) {
        // Receivers may be gone already.
        let _ = self.stop.send(true);
        if let Front::Pooled(workers) = &self.front {
            workers.close();
        }
        // Nobody is to wait in a queue that nobody accepts from.
        drop(self.sockets);
        let drained = tokio::time::timeout(
            if how == Stop::Now { Duration::ZERO } else { DRAIN_MAX },
            async {
                if let Front::Pooled(workers) = &self.front {
                    wait_for_last(workers, TICK).await;
                }
                while let Some(ended) = self.accepting.join_next().await {
                    if let Err(error) = ended {
                        error!(%error, "the forwarder ended by a panic");
                    }
                }
            },
        );
        if drained.await.is_err() {
            warn!("sessions still open after {DRAIN_MAX:?} are cut");
        }
        self.accepting.shutdown().await;
        if let Front::Pooled(workers) = self.front {
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
    (proxy.listen.clone(), proxy.unix.clone(), pool)
}
