//! How the nodes of a cluster talk to each other: messages on channels, over TLS that shows both
//! sides who the other is.
//!
//! It must not know what a message means. [`PeerSet`] is all that others use: it dials every peer,
//! accepts them, and never makes a sender wait. Read next: [`link`] (outgoing), [`accept`]
//! (incoming), [`verify`] (who is let in), [`certificates`] (what a node needs for it).

mod accept;
mod cause;
pub(crate) mod certificates;
mod frame;
mod hello;
pub(crate) mod identity;
mod journal;
mod link;
mod outbox;
mod pulse;
mod socket;
mod verify;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};

use bytes::Bytes;
use pgx_control::admin::PeerStatus;
use pgx_control::ids::NodeId;
use pgx_session::route::ServerAddress;
use rustls::ServerConfig;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Duration, Instant, interval};

use self::cause::Cause;
use self::certificates::Certificates;
pub(crate) use self::frame::Channel;
use self::frame::Class;
use self::journal::Journal;
use self::outbox::Outbox;
use self::pulse::Pulse;
use crate::limits::peer::{EXPIRY_CHECK, INBOX_MESSAGES_MAX, PEERS_MAX};

/// A message that came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    /// Who sent it, by its certificate.
    pub(crate) from: NodeId,
    pub(crate) channel: Channel,
    pub(crate) bytes: Bytes,
}

/// Takes a message at once or says that it did not. What nobody takes is dropped and counted, for a
/// reader that waited would keep the other channels of its connection waiting.
pub(crate) type Taker = Arc<dyn Fn(Message) -> bool + Send + Sync>;

/// Who takes what comes on each channel.
pub(crate) type Takers = BTreeMap<Channel, Taker>;

/// A taker that hands messages to a task.
pub(crate) fn to_task(inbox: mpsc::Sender<Message>) -> Taker {
    Arc::new(move |message| inbox.try_send(message).is_ok())
}

/// Why a message was not even queued; both are mistakes of the caller.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SendError {
    /// Nobody of that number is a peer.
    #[error("node {0} is no peer of this node")]
    Unknown(NodeId),
    /// The peer would cut the connection for it.
    #[error("a message of {found} bytes on channel {channel}, expected at most {expected}")]
    TooLong { channel: Channel, found: usize, expected: usize },
}

/// New certificates that cannot take the place of the old ones.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the new certificate is for node {found_node} of cluster {found}, expected node \
     {expected_node} of cluster {expected}; the old one stays in use"
)]
pub(crate) struct ReloadError {
    expected: String,
    expected_node: NodeId,
    found: String,
    found_node: NodeId,
}

/// The connections of this node to its peers. Dropping it ends them.
pub(crate) struct PeerSet {
    shared: Arc<Shared>,
    runtime: Handle,
    /// The tasks that dial each peer; they end with their entry.
    dialling: Mutex<BTreeMap<NodeId, JoinSet<()>>>,
    _tasks: JoinSet<()>,
}

impl PeerSet {
    /// Dials the peers and accepts them on `listener`.
    pub(crate) fn start(
        certificates: Certificates,
        peers: &BTreeMap<NodeId, ServerAddress>,
        listener: TcpListener,
        mut takers: Takers,
    ) -> Arc<Self> {
        let (observed, inbox) = mpsc::channel(INBOX_MESSAGES_MAX);
        takers.insert(Channel::Observe, to_task(observed));
        let node = certificates.node;
        let server = certificates.server(BTreeSet::new());
        let current = RwLock::new(Current { certificates: Arc::new(certificates), server });
        let (incoming, journal) = (Mutex::default(), Journal::default());
        let known = RwLock::default();
        let shared = Arc::new(Shared { node, peers: known, current, takers, incoming, journal });
        let mut tasks = JoinSet::new();
        tasks.spawn(watch_ends(Arc::clone(&shared)));
        let runtime = Handle::current();
        let accepting = Arc::clone(&shared);
        let (begin, begun) = oneshot::channel();
        let set = Arc::new_cyclic(|set| {
            let pulse = pulse::run(Weak::clone(set), inbox);
            // Before the set is there, the task would take it for one that has ended.
            tasks.spawn(async {
                if begun.await.is_ok() {
                    pulse.await;
                }
            });
            tasks.spawn(accept::serve(accepting, listener));
            Self { shared, runtime, dialling: Mutex::default(), _tasks: tasks }
        });
        let _ = begin.send(());
        set.set_peers(peers);
        set
    }

    /// Has these peers from now on: dials who is new or moved, parts with who is not among them.
    pub(crate) fn set_peers(&self, wanted: &BTreeMap<NodeId, ServerAddress>) {
        let wanted = wanted.iter().filter(|(node, _)| **node != self.shared.node);
        let wanted: BTreeMap<_, _> = wanted.take(PEERS_MAX).collect();
        let mut dialling = self.dialling.lock().unwrap_or_else(PoisonError::into_inner);
        let mut peers = self.shared.peers.write().unwrap_or_else(PoisonError::into_inner);
        let before: BTreeSet<_> = peers.keys().copied().collect();
        peers.retain(|node, peer| {
            let stays = wanted.get(node).is_some_and(|address| **address == peer.address);
            if !stays {
                dialling.remove(node);
            }
            stays
        });
        for (node, address) in wanted {
            if peers.contains_key(node) {
                continue;
            }
            let peer = Arc::new(Peer::new(*node, address.clone()));
            let mut tasks = JoinSet::new();
            for class in Class::ALL {
                let keep = link::keep(Arc::clone(&self.shared), Arc::clone(&peer), class);
                tasks.spawn_on(keep, &self.runtime);
            }
            peers.insert(*node, peer);
            dialling.insert(*node, tasks);
        }
        let now: BTreeSet<_> = peers.keys().copied().collect();
        drop(peers);
        if now != before || now.is_empty() {
            let mut incoming = self.shared.incoming.lock().unwrap_or_else(PoisonError::into_inner);
            incoming.retain(|(node, _), _| now.contains(node));
            let mut current = self.shared.current.write().unwrap_or_else(PoisonError::into_inner);
            current.server = current.certificates.server(now);
        }
    }

    /// Queues a message and never waits. It may be lost: when the queue is full, the oldest message
    /// goes, and a connection that ends takes with it what was under way.
    ///
    /// # Errors
    /// When the peer is unknown or the message too long for its channel.
    pub(crate) fn send(
        &self,
        node: NodeId,
        channel: Channel,
        bytes: Bytes,
    ) -> Result<(), SendError> {
        let peer = self.shared.peer(node).ok_or(SendError::Unknown(node))?;
        let (found, expected) = (bytes.len(), channel.bytes_max());
        if found > expected {
            return Err(SendError::TooLong { channel, found, expected });
        }
        let dropped = peer.link(channel.class()).outbox.push(channel, bytes);
        peer.counters.dropped.fetch_add(dropped, Ordering::Relaxed);
        Ok(())
    }

    /// Uses other certificates for new connections; those that stand stay.
    ///
    /// # Errors
    /// When they are for another node or another cluster.
    pub(crate) fn reload(&self, certificates: Certificates) -> Result<(), ReloadError> {
        let mut current = self.shared.current.write().unwrap_or_else(PoisonError::into_inner);
        let old = &current.certificates;
        if (&old.cluster, old.node) != (&certificates.cluster, certificates.node) {
            return Err(ReloadError {
                expected: old.cluster.clone(),
                expected_node: old.node,
                found: certificates.cluster,
                found_node: certificates.node,
            });
        }
        let server = certificates.server(self.shared.numbers());
        certificates.log_standings();
        *current = Current { certificates: Arc::new(certificates), server };
        Ok(())
    }

    /// What `pgx ctl status` shows.
    pub(crate) fn status(&self) -> Vec<PeerStatus> {
        let now = Instant::now();
        self.shared.all().iter().map(|peer| peer.status(now)).collect()
    }
}

/// What all tasks of a peer set share.
struct Shared {
    node: NodeId,
    peers: RwLock<BTreeMap<NodeId, Arc<Peer>>>,
    current: RwLock<Current>,
    takers: Takers,
    /// The newest incoming connection of each kind; dropping a sender ends its connection.
    incoming: Mutex<BTreeMap<(NodeId, Class), oneshot::Sender<()>>>,
    journal: Journal,
}

#[derive(Debug)]
struct Current {
    certificates: Arc<Certificates>,
    server: Arc<ServerConfig>,
}

impl Shared {
    fn certificates(&self) -> Arc<Certificates> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&current.certificates)
    }

    fn server(&self) -> Arc<ServerConfig> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&current.server)
    }

    fn peer(&self, node: NodeId) -> Option<Arc<Peer>> {
        self.peers.read().unwrap_or_else(PoisonError::into_inner).get(&node).cloned()
    }

    fn all(&self) -> Vec<Arc<Peer>> {
        let peers = self.peers.read().unwrap_or_else(PoisonError::into_inner);
        peers.values().cloned().collect()
    }

    fn numbers(&self) -> BTreeSet<NodeId> {
        self.peers.read().unwrap_or_else(PoisonError::into_inner).keys().copied().collect()
    }

    fn deliver(&self, message: Message) {
        let Some(peer) = self.peer(message.from) else { return };
        peer.counters.received.fetch_add(1, Ordering::Relaxed);
        if !self.takers.get(&message.channel).is_some_and(|taker| taker(message)) {
            peer.counters.untaken.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Takes the place of the peer's last connection of this class, which ends; resolves when the
    /// place is taken again or the peer is one no more.
    async fn replace(&self, peer: NodeId, class: Class) -> Cause {
        let (sender, replaced) = oneshot::channel();
        self.incoming.lock().unwrap_or_else(PoisonError::into_inner).insert((peer, class), sender);
        // It resolves by an error: nothing is ever sent.
        let _ = replaced.await;
        if self.peer(peer).is_some() { Cause::Replaced } else { Cause::Dismissed }
    }
}

/// One peer, and how it fares.
#[derive(Debug)]
struct Peer {
    node: NodeId,
    address: ServerAddress,
    lease: Link,
    bulk: Link,
    pulse: Mutex<Pulse>,
    counters: Counters,
}

#[derive(Debug, Default)]
struct Counters {
    sent: AtomicU64,
    dropped: AtomicU64,
    received: AtomicU64,
    untaken: AtomicU64,
}

impl Peer {
    fn new(node: NodeId, address: ServerAddress) -> Self {
        let (lease, bulk) = (Link::default(), Link::default());
        Self { node, address, lease, bulk, pulse: Mutex::default(), counters: Counters::default() }
    }

    fn link(&self, class: Class) -> &Link {
        match class {
            Class::Lease => &self.lease,
            Class::Bulk => &self.bulk,
        }
    }

    fn pulse(&self) -> MutexGuard<'_, Pulse> {
        self.pulse.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How it is, and for how long it has not been as it is to be.
    fn state(&self, now: Instant) -> (&'static str, Duration) {
        let up = Class::ALL.map(|class| self.link(class).is_up());
        let mut pulse = self.pulse();
        let state = match (up, pulse.round_trip(now)) {
            ([true, true], Some(_)) => CONNECTED,
            // We reach it, and nothing comes back.
            ([true, true], None) => "silent",
            ([false, false], _) => "down",
            _ => "partial",
        };
        (state, pulse.away(state == CONNECTED, now))
    }

    fn status(&self, now: Instant) -> PeerStatus {
        let (state, away) = self.state(now);
        let (round_trip, late) = {
            let pulse = self.pulse();
            (pulse.round_trip(now), pulse.late())
        };
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let microseconds = |time: Duration| u64::try_from(time.as_micros()).ok();
        PeerStatus {
            id: self.node.0,
            address: self.address.to_string(),
            state: state.to_owned(),
            last_error: self.lease.last_error().or(self.bulk.last_error()).unwrap_or_default(),
            round_trip_us: round_trip.and_then(microseconds),
            away_ms: u64::try_from(away.as_millis()).ok(),
            late,
            sent_total: count(&self.counters.sent),
            dropped_total: count(&self.counters.dropped),
            received_total: count(&self.counters.received),
            untaken_total: count(&self.counters.untaken),
        }
    }
}

/// The state of a peer with which all is well.
const CONNECTED: &str = "connected";

/// One outgoing connection, as it is now.
#[derive(Debug, Default)]
struct Link {
    outbox: Outbox,
    state: Mutex<LinkState>,
}

#[derive(Debug, Default)]
struct LinkState {
    is_up: bool,
    last_error: Option<String>,
}

impl Link {
    fn is_up(&self) -> bool {
        self.state().is_up
    }

    fn last_error(&self) -> Option<String> {
        self.state().last_error.clone()
    }

    fn up(&self) {
        self.state().is_up = true;
    }

    fn down(&self, cause: String) {
        *self.state() = LinkState { is_up: false, last_error: Some(cause) };
    }

    fn state(&self) -> MutexGuard<'_, LinkState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tells the log at the start, and then once a day, about certificates that end.
async fn watch_ends(shared: Arc<Shared>) {
    let mut days = interval(EXPIRY_CHECK);
    loop {
        days.tick().await;
        shared.certificates().log_standings();
    }
}
