//! `pgx serve`: starts the roles that the configuration names, and stops them in order.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use pgx_ring::Choice;
use socket2::{Domain, Socket, Type};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{error, info};

use crate::admin::{AdminSocket, Node};
use crate::config::{self, Config};
use crate::controller;
use crate::exit::Failure;
use crate::fence::Fence;
use crate::front::{self, Front, Proxy};
use crate::kernel::Kernel;
use crate::limits::LISTEN_BACKLOG;
use crate::metrics;
use crate::peer::certificates::Certificates;
use crate::peer::{PeerSet, Takers};
use crate::telemetry;
use crate::vip::Addresses;

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
    runtime.block_on(serve(config, path))
}

async fn serve(config: Config, path: &Path) -> Result<(), Failure> {
    let started = Instant::now();
    // The admin socket comes first: its lock tells whether another pgx runs with these files.
    let admin = AdminSocket::bind(&config.admin_socket)
        .map_err(|error| Failure::Failed(error.to_string()))?;
    // Files next: a node without its memory starts no role.
    let prepared = controller::prepare(&config)?;
    // Before anything serves: PostgreSQL's port is shut from here on, as far as no lease opens it.
    let fence = config.fence.map(Fence::start).transpose()?;
    let kernel = config.vip.as_ref().map(Kernel::attach);
    let proxy = config.proxy.as_ref().map(front::start).transpose()?;
    let (peers, controller) = match (&config.control, prepared) {
        (Some(control), Some(prepared)) => {
            let peers = start_peers(control, prepared.takers())?;
            let controller = prepared.start(Arc::clone(&peers))?;
            (Some(peers), Some(controller))
        }
        _ => (None, None),
    };
    let control = config.control.clone().zip(peers.clone());
    let served = config.proxy.clone();
    let addresses = config.vip.as_ref().zip(kernel.as_ref());
    let addresses = addresses.map(|(vip, kernel)| Arc::new(Addresses::start(vip, kernel)));
    if let Some(addresses) = &addresses {
        addresses.set_serving(config.proxy.is_some());
    }
    let vips = addresses.clone();
    let front = proxy.as_ref().map(Proxy::front);
    let mut reloads = served.zip(front.clone());
    let scrapes = config.metrics.map(|at| listen(at, "metrics.listen", false)).transpose()?;
    let listen = proxy.as_ref().map(|proxy| proxy.bound.clone()).unwrap_or_default();
    let node = Node { started, config, listen, front, kernel, peers, controller, fence, vips };
    let node = Arc::new(node);
    let scrapes = scrapes.map(|listener| {
        if let Ok(address) = listener.local_addr() {
            info!(%address, "metrics are served");
        }
        tokio::spawn(metrics::serve(listener, Arc::clone(&node)))
    });
    let admin = tokio::spawn(admin.serve(node));
    info!(release = env!("CARGO_PKG_VERSION"), "pgx is ready");

    wait_for_signal(|| {
        if let Some((control, peers)) = &control {
            reload(control, peers);
        }
        if let Some((served, front)) = &mut reloads {
            reload_proxy(path, served, front);
        }
    })
    .await?;
    if let Some(addresses) = &addresses {
        addresses.release_all();
    }
    if let Some(proxy) = proxy {
        proxy.stop().await;
    }
    if let Some(addresses) = addresses {
        // Until the last session has ended packets for the addresses have to arrive.
        let stopped = tokio::task::spawn_blocking(move || addresses.stop()).await;
        stopped.unwrap_or_else(|error| error!(%error, "the end of the addresses was a panic"));
    }
    admin.abort();
    if let Some(scrapes) = scrapes {
        scrapes.abort();
    }
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

/// Reads the configuration again for the proxy; what is in force stays when the new one is no good.
fn reload_proxy(path: &Path, served: &mut config::Proxy, front: &Front) {
    let reloaded = config::load(path).map_err(|problems| problems.to_string());
    let reloaded = reloaded.and_then(|config| {
        config.proxy.ok_or_else(|| "it has no [proxy] any more, which takes a new start".to_owned())
    });
    let reloaded = reloaded.and_then(|new| {
        front.reload(served, &new)?;
        *served = new;
        Ok(())
    });
    match reloaded {
        Ok(()) => info!("the proxy's configuration was read again"),
        Err(problem) => {
            error!(problem, "the proxy's configuration was not read again; the old one stays");
        }
    }
}

/// Listens. Where the address `is_shared`, others that share it may listen there as well.
pub(crate) fn listen(
    address: SocketAddr,
    key: &str,
    is_shared: bool,
) -> Result<TcpListener, Failure> {
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

async fn wait_for_signal(mut reload: impl FnMut()) -> Result<(), Failure> {
    let failed = |error| Failure::Failed(format!("cannot wait for signals: {error}"));
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut hangup = signal(SignalKind::hangup()).map_err(failed)?;
    loop {
        tokio::select! {
            _ = terminate.recv() => break info!("asked to stop by SIGTERM"),
            _ = interrupt.recv() => break info!("asked to stop by SIGINT"),
            _ = hangup.recv() => reload(),
        }
    }
    Ok(())
}
