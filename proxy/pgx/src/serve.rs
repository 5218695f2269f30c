//! `pgx serve`: starts the roles that the configuration names, and stops them in order.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pgx_ring::Choice;
use tokio::net::{TcpListener, UnixListener};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tracing::{error, info, warn};

use crate::admin::{self, Node};
use crate::config::{self, Config};
use crate::console::{self, Cluster, Desk};
use crate::controller::{self, Followed, Leased};
use crate::descriptors;
use crate::exit::Failure;
use crate::fence::gate::Gate;
use crate::fence::{Fence, refuse_what_is_left};
use crate::front::{self, Front, Proxy};
use crate::holdings::{Holdings, Kept};
use crate::http;
use crate::kernel::Kernel;
use crate::metrics;
use crate::peer::certificates::Certificates;
use crate::peer::{PeerSet, Takers};
use crate::reloads::Reloads;
use crate::served::{Served, Source, Stop};
use crate::sockets::listen;
use crate::steer::stop_steering;
use crate::takeover;
use crate::takeover::give::Hand;
use crate::takeover::receive::{Elder, Handed};
use crate::telemetry;
use crate::vip::Addresses;

/// Runs until a signal asks it to stop, or another process has taken over; `take_over` has it begin
/// in that way.
///
/// # Errors
/// When the configuration is wrong or a role cannot start.
pub(crate) fn run(path: &Path, engine: Option<Choice>, take_over: bool) -> Result<(), Failure> {
    let (mut config, table) = config::load_with_table(path)?;
    let pool = config.proxy.as_mut().and_then(|proxy| proxy.pool.as_mut());
    if let (Some(pool), Some(engine)) = (pool, engine) {
        pool.engine = engine;
    }
    telemetry::start()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Failed(format!("cannot start threads: {error}")))?;
    let elder = take_over.then(|| takeover::receive::ask(&config)).transpose()?;
    let source = Source { path: path.to_owned(), engine, table };
    runtime.block_on(serve(config, source, elder))
}

/// Where HTTP is served, and how.
type Asked = (TcpListener, http::Served);

/// The process that served before, with what it has handed over.
type Predecessor = (Elder, Handed);

async fn serve(config: Config, source: Source, elder: Option<Predecessor>) -> Result<(), Failure> {
    let started = Instant::now();
    // Before anybody can know that this process is there.
    let (mut stop, mut hangup) = (Signals::new()?, listen_for(SignalKind::hangup())?);
    // The admin socket comes first: its lock tells whether another pgx runs with these files.
    let (elder, mut holdings) = match elder {
        Some((elder, handed)) => (Some(elder), Holdings::adopt(&config, handed)?),
        None => (None, Holdings::take(&config)?),
    };
    let is_successor = elder.is_some();
    let Roles { fence, kernel, mut proxy, peers, controller, addresses } =
        Roles::start(&config, &mut holdings)?;
    let control = config.control.clone().zip(peers.clone());
    let gate = fence.as_ref().and_then(Fence::gate);
    let (stops, mut stopped) = mpsc::unbounded_channel();
    let (vips, listen, front) =
        (addresses.clone(), holdings.places(), proxy.as_ref().map(Proxy::front));
    let operators = holdings.admin()?;
    begin(&config, elder, &mut proxy, &mut holdings)?;
    let scrapes = listen_for_scrapes(&config, is_successor)?;
    let asked = listen_for_http(&config, is_successor)?;
    let served = front.clone().zip(config.proxy.clone());
    let served = served.map(|(front, proxy)| Arc::new(Served::new(source, front, proxy, stops)));
    let cluster = controller.clone().zip(cluster_port(&config));
    let cluster = cluster.map(|(control, port)| Cluster { control, port });
    let desk = start_console(front.as_ref(), served.as_ref(), cluster);
    let reloads = Reloads::new(control, served.clone());
    if let Some(addresses) = &addresses {
        addresses.set_serving(config.proxy.is_some());
    }
    let kept = Kept::new(holdings);
    let (taken, mut takes) = mpsc::unbounded_channel();
    let hand = Arc::new(Hand::new(&config, kept.clone(), front.clone(), taken));
    let again = Arc::clone(&reloads);
    let node = Node {
        started,
        config,
        listen,
        front,
        desk,
        kernel,
        peers,
        controller,
        fence,
        vips,
        hand,
        reloads: again,
    };
    let answering = answer(node, operators, scrapes, asked);
    info!(release = env!("CARGO_PKG_VERSION"), "pgx is ready");

    let (taken_by, how) = loop {
        tokio::select! {
            () = stop.asked() => break (None, Stop::Gracefully),
            process = takes.recv() => break (process, Stop::Gracefully),
            Some(how) = stopped.recv() => break (None, how),
            // What comes of it is in the log.
            _ = hangup.recv() => drop(tokio::spawn(Arc::clone(&reloads).read_again())),
        }
    };
    let drain = served.as_ref().map(|served| served.drain(how)).unwrap_or_default();
    let running = Running { proxy, kept, addresses, gate, answering };
    match taken_by {
        Some(process) => running.retire(process, drain, &mut stop).await,
        None => running.end(drain, &mut stop).await,
    }
    Ok(())
}

/// What ends in an order.
struct Running {
    proxy: Option<Proxy>,
    kept: Kept,
    addresses: Option<Arc<Addresses>>,
    gate: Option<Gate>,
    answering: JoinSet<()>,
}

impl Running {
    /// Another process serves; this one has sessions of its own for a while.
    async fn retire(self, process: u32, drain: Duration, stop: &mut Signals) {
        info!(process, "another process has taken over; it accepts all clients from here on");
        drop(self.answering);
        drain_proxy(self.proxy, drain, stop).await;
        info!("the last session has ended");
    }

    async fn end(self, drain: Duration, stop: &mut Signals) {
        if let Some(addresses) = &self.addresses {
            addresses.release_all();
            addresses.wait_until_gone().await;
        }
        // Nobody is to wait in a queue that nobody accepts from.
        self.kept.close_doors();
        drain_proxy(self.proxy, drain, stop).await;
        if let Some(addresses) = self.addresses {
            // Until the last session has ended packets for the addresses have to arrive.
            let stopped = tokio::task::spawn_blocking(move || addresses.stop()).await;
            stopped.unwrap_or_else(|error| error!(%error, "the end of the addresses was a panic"));
        }
        drop(self.answering);
        if let Some(gate) = self.gate {
            gate.end_fenced();
        }
        self.kept.end();
        info!("pgx has stopped");
    }
}

/// What runs beside the admin socket.
struct Roles {
    fence: Option<Fence>,
    kernel: Option<Kernel>,
    proxy: Option<Proxy>,
    peers: Option<Arc<PeerSet>>,
    controller: Option<controller::Control>,
    addresses: Option<Arc<Addresses>>,
}

impl Roles {
    /// Starts what the configuration names, the proxy excepted: that is prepared.
    fn start(config: &Config, holdings: &mut Holdings) -> Result<Self, Failure> {
        // Files first: a node without its memory starts no role.
        let prepared = controller::prepare(config)?;
        // Before anything serves: PostgreSQL's port is shut from here on, as far as no lease opens
        // it.
        let fence = config.fence.map(Fence::start).transpose()?;
        if config.postgres.is_some() && fence.is_none() {
            refuse_what_is_left("")?;
        }
        let kernel = config.vip.as_ref().map(Kernel::attach);
        let addresses = config.vip.as_ref().zip(kernel.as_ref());
        let start = |(vip, kernel)| Addresses::start(vip, config.proxy.as_ref(), kernel);
        let addresses = addresses.map(start).map(Arc::new);
        if config.vip.is_none() {
            stop_steering();
        }
        let proxy = start_proxy(config, holdings)?;
        let (peers, controller) = match (&config.control, prepared) {
            (Some(control), Some(prepared)) => {
                let peers = start_peers(control, prepared.takers())?;
                let leased = Leased {
                    proxy: followed(config, proxy.as_ref()),
                    gate: fence.as_ref().and_then(Fence::gate),
                    addresses: addresses.clone(),
                };
                let controller = prepared.start(Arc::clone(&peers), leased)?;
                (Some(peers), Some(controller))
            }
            _ => (None, None),
        };
        Ok(Self { fence, kernel, proxy, peers, controller, addresses })
    }
}

/// PostgreSQL's port on the hosts of the cluster, if clients go where that says.
fn cluster_port(config: &Config) -> Option<u16> {
    config.proxy.as_ref()?.pool.as_ref()?.cluster_port
}

/// The proxy, if it follows the cluster.
fn followed(config: &Config, proxy: Option<&Proxy>) -> Option<Followed> {
    let port = cluster_port(config)?;
    match proxy?.front() {
        Front::Pooled(workers) => Some(Followed { workers, port }),
        Front::Through(_) => None,
    }
}

/// Prepares the proxy; it serves nobody yet.
fn start_proxy(config: &Config, holdings: &mut Holdings) -> Result<Option<Proxy>, Failure> {
    let Some(proxy) = &config.proxy else { return Ok(None) };
    descriptors::raise(proxy).map_err(Failure::Failed)?;
    front::start(proxy, holdings.listen(proxy)?).map(Some)
}

/// Everything is there: takes the place of the process that served so far, and serves.
fn begin(
    config: &Config,
    elder: Option<Elder>,
    proxy: &mut Option<Proxy>,
    holdings: &mut Holdings,
) -> Result<(), Failure> {
    let link = elder.map(Elder::relieve).transpose()?;
    if let Some(proxy) = proxy {
        proxy.begin()?;
    }
    let Some(link) = link else { return Ok(()) };
    if let Err(failure) = holdings.settle(config) {
        // Clients are served all the same.
        error!(%failure, "the files of the process that served before are not in order");
    }
    if let Some(Front::Pooled(workers)) = proxy.as_ref().map(Proxy::front) {
        takeover::link::follow_elder(link, &workers);
    }
    Ok(())
}

/// Lets sessions end for a while, and cuts the rest.
async fn drain_proxy(proxy: Option<Proxy>, drain: Duration, stop: &mut Signals) {
    let Some(mut proxy) = proxy else { return };
    proxy.close();
    tokio::select! {
        () = proxy.wait_for_last() => {}
        () = tokio::time::sleep(drain) => {
            warn!("sessions still open after proxy.drain_timeout ({drain:?}) are cut");
        }
        () = stop.asked() => warn!("asked again: sessions still open are cut"),
    }
    proxy.end().await;
}

/// Listens for whoever gathers metrics. Who has taken another process' place serves all the same
/// where that cannot be.
fn listen_for_scrapes(config: &Config, is_successor: bool) -> Result<Option<TcpListener>, Failure> {
    let Some(address) = config.metrics else { return Ok(None) };
    match listen(address, "metrics.listen") {
        Err(failure) if is_successor => {
            error!(%failure, "metrics are not served");
            Ok(None)
        }
        listener => listener.map(Some),
    }
}

/// Listens for load balancers and operators' programs, likewise.
fn listen_for_http(config: &Config, is_successor: bool) -> Result<Option<Asked>, Failure> {
    let Some(http) = &config.http else { return Ok(None) };
    let served = http::Served::new(http).map_err(|error| Failure::Failed(format!("http: {error}")));
    let asked = served.and_then(|served| Ok((listen(http.listen, "http.listen")?, served)));
    match asked {
        Err(failure) if is_successor => {
            error!(%failure, "nothing is served by HTTP");
            Ok(None)
        }
        asked => asked.map(Some),
    }
}

/// Serves the console, if there is a pool.
fn start_console(
    front: Option<&Front>,
    served: Option<&Arc<Served>>,
    cluster: Option<Cluster>,
) -> Option<Arc<Desk>> {
    let (Some(Front::Pooled(workers)), Some(served)) = (front, served) else { return None };
    let desk = Arc::new(Desk::new(Arc::clone(workers), Arc::clone(served), cluster));
    tokio::spawn(console::serve(Arc::clone(&desk)));
    Some(desk)
}

/// Answers operators and whoever gathers metrics, until the value is dropped.
fn answer(
    node: Node,
    operators: UnixListener,
    scrapes: Option<TcpListener>,
    asked: Option<Asked>,
) -> JoinSet<()> {
    let (node, mut answering) = (Arc::new(node), JoinSet::new());
    if let Some(listener) = scrapes {
        if let Ok(address) = listener.local_addr() {
            info!(%address, "metrics are served");
        }
        answering.spawn(metrics::serve(listener, Arc::clone(&node)));
    }
    if let Some((listener, served)) = asked {
        if let Ok(address) = listener.local_addr() {
            info!(%address, "HTTP is served");
        }
        answering.spawn(http::serve(listener, served, Arc::clone(&node)));
    }
    answering.spawn(admin::serve(operators, node));
    answering
}

/// The signals that ask pgx to end.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> Result<Self, Failure> {
        let terminate = listen_for(SignalKind::terminate())?;
        Ok(Self { terminate, interrupt: listen_for(SignalKind::interrupt())? })
    }

    async fn asked(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => info!("asked to stop by SIGTERM"),
            _ = self.interrupt.recv() => info!("asked to stop by SIGINT"),
        }
    }
}

fn listen_for(kind: SignalKind) -> Result<Signal, Failure> {
    signal(kind).map_err(|error| Failure::Failed(format!("cannot wait for signals: {error}")))
}

fn start_peers(control: &config::Control, takers: Takers) -> Result<Arc<PeerSet>, Failure> {
    let certificates =
        Certificates::load(control).map_err(|error| Failure::Failed(error.to_string()))?;
    let listener = listen(control.listen, "control.listen")?;
    Ok(PeerSet::start(certificates, &control.peers, listener, takers))
}
