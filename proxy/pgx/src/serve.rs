//! `pgx serve`: starts the roles that the configuration names, and stops them in order.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use pgx_ring::Choice;
use tokio::net::{TcpListener, UnixListener};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tracing::{error, info};

use crate::admin::{self, Node};
use crate::claim::{Claim, Denied};
use crate::config::{self, Config};
use crate::console::{self, Desk};
use crate::controller;
use crate::exit::Failure;
use crate::fence::Fence;
use crate::front::{self, Front, Proxy};
use crate::kernel::Kernel;
use crate::metrics;
use crate::peer::certificates::Certificates;
use crate::peer::{PeerSet, Takers};
use crate::served::{Served, Stop};
use crate::sockets::listen;
use crate::telemetry;
use crate::unix::BoundSocket;
use crate::vip::Addresses;

/// Runs until a signal asks it to stop.
///
/// # Errors
/// When the configuration is wrong or a role cannot start.
pub(crate) fn run(path: &Path, engine: Option<Choice>) -> Result<(), Failure> {
    let (mut config, table) = config::load_with_table(path)?;
    let pool = config.proxy.as_mut().and_then(|proxy| proxy.pool.as_mut());
    if let (Some(pool), Some(engine)) = (pool, engine) {
        pool.engine = engine;
    }
    telemetry::start();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Failed(format!("cannot start threads: {error}")))?;
    runtime.block_on(serve(config, table, path, engine))
}

/// What makes this process the one pgx that runs by its configuration.
struct Holdings {
    admin: BoundSocket,
    _pid_file: Option<Claim>,
}

impl Holdings {
    fn take(config: &Config) -> Result<Self, Denied> {
        let admin = admin::bind(&config.admin_socket)?;
        let pid_file = config.pid_file.as_deref().map(|path| {
            let key = "admin.pid_file";
            let mut claim = Claim::take(path, key)?;
            let signed = claim.sign();
            signed.map_err(|error| Denied::System {
                key,
                step: "write",
                path: path.to_owned(),
                error,
            })?;
            Ok(claim)
        });
        Ok(Self { admin, _pid_file: pid_file.transpose()? })
    }

    /// What operators' requests are accepted from.
    fn listener(&self) -> Result<UnixListener, Failure> {
        let listener = self.admin.share().and_then(|socket| UnixListener::from_std(socket.into()));
        listener.map_err(|error| Failure::Failed(format!("cannot serve operators: {error}")))
    }
}

async fn serve(
    config: Config,
    table: toml::Table,
    path: &Path,
    engine: Option<Choice>,
) -> Result<(), Failure> {
    let started = Instant::now();
    // The admin socket comes first: its lock tells whether another pgx runs with these files.
    let holdings = Holdings::take(&config).map_err(|denied| Failure::Failed(denied.to_string()))?;
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
    let addresses = config.vip.as_ref().zip(kernel.as_ref());
    let addresses = addresses.map(|(vip, kernel)| Arc::new(Addresses::start(vip, kernel)));
    if let Some(addresses) = &addresses {
        addresses.set_serving(config.proxy.is_some());
    }
    let front = proxy.as_ref().map(Proxy::front);
    let (stops, stopped) = mpsc::unbounded_channel();
    let served = front.clone().zip(config.proxy.clone()).map(|(front, proxy)| {
        Arc::new(Served::new(path.to_owned(), engine, front, (table, proxy), stops.clone()))
    });
    let places = proxy.as_ref().map(Proxy::places).unwrap_or_default();
    if let (Some(Front::Pooled(workers)), Some(served)) = (&front, &served) {
        let (workers, served) = (Arc::clone(workers), Arc::clone(served));
        tokio::spawn(console::serve(Arc::new(Desk::new(workers, served))));
    }
    let scrapes = config.metrics.map(|at| listen(at, "metrics.listen")).transpose()?;
    let (listen, vips) = (places, addresses.clone());
    let node = Node { started, config, listen, front, kernel, peers, controller, fence, vips };
    let answering = answer(node, holdings.listener()?, scrapes);
    info!(release = env!("CARGO_PKG_VERSION"), "pgx is ready");

    let how = wait_for_signal(stopped, || {
        if let Some((control, peers)) = &control {
            reload(control, peers);
        }
        if let Some(served) = &served {
            reload_proxy(served);
        }
    })
    .await?;
    if let Some(addresses) = &addresses {
        addresses.release_all();
    }
    if let Some(proxy) = proxy {
        proxy.stop(how).await;
    }
    if let Some(addresses) = addresses {
        // Until the last session has ended packets for the addresses have to arrive.
        let stopped = tokio::task::spawn_blocking(move || addresses.stop()).await;
        stopped.unwrap_or_else(|error| error!(%error, "the end of the addresses was a panic"));
    }
    drop(answering);
    drop(holdings);
    info!("pgx has stopped");
    Ok(())
}

/// Answers operators and whoever gathers metrics, until the value is dropped.
fn answer(node: Node, operators: UnixListener, scrapes: Option<TcpListener>) -> JoinSet<()> {
    let (node, mut answering) = (Arc::new(node), JoinSet::new());
    if let Some(listener) = scrapes {
        if let Ok(address) = listener.local_addr() {
            info!(%address, "metrics are served");
        }
        answering.spawn(metrics::serve(listener, Arc::clone(&node)));
    }
    answering.spawn(admin::serve(operators, node));
    answering
}

fn start_peers(control: &config::Control, takers: Takers) -> Result<Arc<PeerSet>, Failure> {
    let certificates =
        Certificates::load(control).map_err(|error| Failure::Failed(error.to_string()))?;
    let listener = listen(control.listen, "control.listen")?;
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
fn reload_proxy(served: &Served) {
    match served.reload() {
        Ok(()) => info!("the proxy's configuration was read again"),
        Err(problem) => {
            error!(problem, "the proxy's configuration was not read again; the old one stays");
        }
    }
}

/// Waits until pgx is to stop, and tells how.
async fn wait_for_signal(
    mut stopped: mpsc::UnboundedReceiver<Stop>,
    mut reload: impl FnMut(),
) -> Result<Stop, Failure> {
    let failed = |error| Failure::Failed(format!("cannot wait for signals: {error}"));
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut hangup = signal(SignalKind::hangup()).map_err(failed)?;
    loop {
        tokio::select! {
            _ = terminate.recv() => info!("asked to stop by SIGTERM"),
            _ = interrupt.recv() => info!("asked to stop by SIGINT"),
            _ = hangup.recv() => {
                reload();
                continue;
            }
            Some(how) = stopped.recv() => {
                info!("asked to stop by the console");
                return Ok(how);
            }
        }
        return Ok(Stop::Gracefully);
    }
}
