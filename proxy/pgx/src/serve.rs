//! `pgx serve`: starts the roles that the configuration names, and stops them in order.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use pgx_ring::Choice;
use socket2::{Domain, Socket, Type};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::{error, info, warn};

use crate::admin::{AdminSocket, Node};
use crate::config::{self, Config};
use crate::controller;
use crate::exit::Failure;
use crate::fence::Fence;
use crate::forward::Forwarder;
use crate::front::{self, Front};
use crate::kernel::Kernel;
use crate::limits::{DRAIN_MAX, LISTEN_BACKLOG, TICK};
use crate::peer::certificates::Certificates;
use crate::peer::{PeerSet, Takers};
use crate::telemetry;
use crate::vip::Addresses;
use crate::workers::{Workers, wait_for_last};

/// Runs until a signal asks it to stop.
///
/// # Errors
/// When the configuration is wrong or a role cannot start.
pub(crate) fn run(path: &Path, engine: Option<Choice>) -> Result<(), Failure> {
    let mut config = config::load(path)?;
    let pool = config.proxy.as_mut().and_then(|proxy| proxy.pool.as_mut());
    if let (Some(pool), Some(engine)) = (pool, engine) {
        pool.engine = engine;
    }
    telemetry::start();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Failed(format!("cannot start threads: {error}")))?;
    runtime.block_on(serve(config))
}

async fn serve(config: Config) -> Result<(), Failure> {
    let started = Instant::now();
    // The admin socket comes first: its lock tells whether another pgx runs with these files.
    let admin = AdminSocket::bind(&config.admin_socket)
        .map_err(|error| Failure::Failed(error.to_string()))?;
    // Files next: a node without its memory starts no role.
    let prepared = controller::prepare(&config)?;
    // Before anything serves: PostgreSQL's port is shut from here on, as far as no lease opens it.
    let fence = config.fence.map(Fence::start).transpose()?;
    let kernel = config.vip.as_ref().map(Kernel::attach);
    let mut listeners = Vec::new();
    for address in config.proxy.iter().flat_map(|proxy| &proxy.listen) {
        listeners.push(listen(*address, "proxy.listen", false)?);
    }
    // What was bound, not what was asked for: port 0 asks for any.
    let bound: Vec<SocketAddr> =
        listeners.iter().filter_map(|listener| listener.local_addr().ok()).collect();
    let (stop, stopped) = watch::channel(false);
    let mut roles = JoinSet::new();
    let front = match &config.proxy {
        None => None,
        Some(proxy) => match &proxy.pool {
            Some(pool) => Some(Front::Pooled(start_pool(proxy, pool, listeners, &bound)?)),
            None => {
                let forwarder = Forwarder::new(proxy);
                for listener in listeners {
                    roles.spawn(Arc::clone(&forwarder).serve(listener, stopped.clone()));
                }
                Some(Front::Through(forwarder))
            }
        },
    };
    let listen = bound;
    let (peers, controller) = match (&config.control, prepared) {
        (Some(control), Some(prepared)) => {
            let peers = start_peers(control, prepared.takers())?;
            let controller = prepared.start(Arc::clone(&peers))?;
            (Some(peers), Some(controller))
        }
        _ => (None, None),
    };
    let control = config.control.clone().zip(peers.clone());
    let addresses = config.vip.as_ref().zip(kernel.as_ref());
    let addresses = addresses.map(|(vip, kernel)| Arc::new(Addresses::start(vip, kernel)));
    if let Some(addresses) = &addresses {
        addresses.set_serving(config.proxy.is_some());
    }
    let vips = addresses.clone();
    let node = Node {
        started,
        config,
        listen,
        front: front.clone(),
        kernel,
        peers,
        controller,
        fence,
        vips,
    };
    let admin = tokio::spawn(admin.serve(Arc::new(node)));
    info!(release = env!("CARGO_PKG_VERSION"), "pgx is ready");

    wait_for_signal(control.as_ref()).await?;
    if let Some(addresses) = &addresses {
        addresses.release_all();
    }
    // Receivers may be gone already when no role listens.
    let _ = stop.send(true);
    if let Some(Front::Pooled(workers)) = &front {
        workers.close();
    }
    let drained = tokio::time::timeout(DRAIN_MAX, async {
        if let Some(Front::Pooled(workers)) = &front {
            wait_for_last(workers, TICK).await;
        }
        while let Some(ended) = roles.join_next().await {
            if let Err(error) = ended {
                error!(%error, "a role ended by a panic");
            }
        }
    });
    if drained.await.is_err() {
        warn!("sessions still open after {DRAIN_MAX:?} are cut");
    }
    roles.shutdown().await;
    if let Some(Front::Pooled(workers)) = front {
        let ended = tokio::task::spawn_blocking(move || workers.end()).await;
        ended.unwrap_or_else(|error| error!(%error, "the end of the proxy was a panic"));
    }
    if let Some(addresses) = addresses {
        // Until the last session has ended packets for the addresses have to arrive.
        let stopped = tokio::task::spawn_blocking(move || addresses.stop()).await;
        stopped.unwrap_or_else(|error| error!(%error, "the end of the addresses was a panic"));
    }
    admin.abort();
    info!("pgx has stopped");
    Ok(())
}

fn start_peers(control: &config::Control, takers: Takers) -> Result<Arc<PeerSet>, Failure> {
    let certificates =
        Certificates::load(control).map_err(|error| Failure::Failed(error.to_string()))?;
    let listener = listen(control.listen, "control.listen", false)?;
    Ok(PeerSet::start(certificates, &control.peers, listener, takers))
}

/// Reads the certificates again; those in use stay when the new ones are no good.
fn reload(control: &config::Control, peers: &PeerSet) {
    let reloaded = match Certificates::load(control) {
        Ok(certificates) => peers.reload(certificates).map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    match reloaded {
        Ok(()) => info!("certificates read again; new connections use them"),
        Err(error) => error!(error, "certificates not reloaded; the old ones stay in use"),
    }
}

/// Starts the threads of a pool, each with sockets of its own. The first sockets have shown that
/// nobody else has the addresses: who shares one does not notice other processes that do.
fn start_pool(
    proxy: &config::Proxy,
    pool: &config::Pool,
    listeners: Vec<TcpListener>,
    bound: &[SocketAddr],
) -> Result<Arc<Workers>, Failure> {
    let mut proxy = proxy.clone();
    proxy.listen = bound.to_vec();
    drop(listeners);
    let listen = |address: SocketAddr| {
        let listener = listen(address, "proxy.listen", true).map_err(|error| error.to_string())?;
        listener.into_std().map(OwnedFd::from).map_err(|error| error.to_string())
    };
    front::start_pool(&proxy, pool, listen).map(Arc::new).map_err(Failure::Failed)
}

/// Listens. Where the address `is_shared`, others that share it may listen there as well.
fn listen(address: SocketAddr, key: &str, is_shared: bool) -> Result<TcpListener, Failure> {
    let bind = || -> std::io::Result<TcpListener> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        // Connections of the last run that linger in TIME_WAIT must not stop the next start.
        socket.set_reuse_address(true)?;
        if address.is_ipv6() {
            // Else [::] would take the port of 0.0.0.0 as well, and the second of them fail.
            socket.set_only_v6(true)?;
        }
        socket.set_reuse_port(is_shared)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(LISTEN_BACKLOG)?;
        TcpListener::from_std(socket.into())
    };
    bind().map_err(|error| {
        Failure::Failed(format!(
            "cannot listen on {address}: {error}; 'ss -ltnp' shows who does, or change {key}"
        ))
    })
}

async fn wait_for_signal(control: Option<&(config::Control, Arc<PeerSet>)>) -> Result<(), Failure> {
    let failed = |error| Failure::Failed(format!("cannot wait for signals: {error}"));
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut hangup = signal(SignalKind::hangup()).map_err(failed)?;
    loop {
        tokio::select! {
            _ = terminate.recv() => break info!("asked to stop by SIGTERM"),
            _ = interrupt.recv() => break info!("asked to stop by SIGINT"),
            _ = hangup.recv() => match control {
                Some((control, peers)) => reload(control, peers),
                None => info!("nothing to read again at SIGHUP: there is no [control]"),
            }
        }
    }
    Ok(())
}
