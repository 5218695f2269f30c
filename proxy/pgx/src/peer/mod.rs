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

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};

use bytes::Bytes;
use pgx_control::admin::PeerStatus;
use pgx_control::ids::NodeId;
use pgx_session::route::ServerAddress;
use rustls::ServerConfig;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, interval};

use self::certificates::Certificates;
pub(crate) use self::frame::Channel;
use self::frame::Class;
use self::journal::Journal;
use self::outbox::Outbox;
use self::pulse::Pulse;
use crate::limits::peer::{EXPIRY_CHECK, INBOX_MESSAGES_MAX};

/// A message that came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    /// Who sent it, by its certificate.
    pub(crate) from: NodeId,
    pub(crate) channel: Channel,
    pub(crate) bytes: Bytes,
}

/// Who takes what comes on a channel. One sender may serve several channels; what comes while it
/// is full, or on a channel that nobody takes, is dropped and counted, for a reader that waited
/// would keep the other channels of its connection waiting.
pub(crate) type Takers = BTreeMap<Channel, mpsc::Sender<Message>>;

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
#[derive(Debug)]
pub(crate) struct PeerSet {
    shared: Arc<Shared>,
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
        takers.insert(Channel::Observe, observed);
        let peers = peers.iter().map(|(node, address)| (*node, Peer::new(*node, address.clone())));
        let peers: BTreeMap<_, _> = peers.collect();
        let node = certificates.node;
        let server = certificates.server(peers.keys().copied().collect());
        let current = RwLock::new(Current { certificates: Arc::new(certificates), server });
        let incoming = Mutex::default();
        let journal = Journal::default();
        let shared = Arc::new(Shared { node, peers, current, takers, incoming, journal });
        let mut tasks = JoinSet::new();
        tasks.spawn(accept::serve(Arc::clone(&shared), listener));
        tasks.spawn(watch_ends(Arc::clone(&shared)));
        for peer in shared.peers.keys() {
            for class in Class::ALL {
                tasks.spawn(link::keep(Arc::clone(&shared), *peer, class));
            }
        }
        Arc::new_cyclic(|set| {
            tasks.spawn(pulse::run(Weak::clone(set), inbox));
            Self { shared, _tasks: tasks }
        })
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
        let peer = self.shared.peers.get(&node).ok_or(SendError::Unknown(node))?;
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
        let server = certificates.server(self.shared.peers.keys().copied().collect());
        certificates.log_standings();
        *current = Current { certificates: Arc::new(certificates), server };
        Ok(())
    }

    /// What `pgx ctl status` shows.
    pub(crate) fn status(&self) -> Vec<PeerStatus> {
        let now = Instant::now();
        self.shared.peers.values().map(|peer| peer.status(now)).collect()
    }
}

/// What all tasks of a peer set share.
#[derive(Debug)]
struct Shared {
    node: NodeId,
    peers: BTreeMap<NodeId, Peer>,
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

    fn deliver(&self, message: Message) {
        let Some(peer) = self.peers.get(&message.from) else { return };
        peer.counters.received.fetch_add(1, Ordering::Relaxed);
        let taken = self.takers.get(&message.channel).map(|taker| taker.try_send(message));
        if !matches!(taken, Some(Ok(()))) {
            peer.counters.untaken.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Takes the place of the peer's last connection of this class, which ends; resolves when the
    /// place is taken again.
    async fn replace(&self, peer: NodeId, class: Class) {
        let (sender, replaced) = oneshot::channel();
        self.incoming.lock().unwrap_or_else(PoisonError::into_inner).insert((peer, class), sender);
        // It resolves by an error: nothing is ever sent.
        let _ = replaced.await;
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

    fn status(&self, now: Instant) -> PeerStatus {
        let round_trip = self.pulse().round_trip(now);
        let up = Class::ALL.map(|class| self.link(class).is_up());
        let state = match (up, round_trip) {
            ([true, true], Some(_)) => "connected",
            // We reach it, and nothing comes back.
            ([true, true], None) => "silent",
            ([false, false], _) => "down",
            _ => "partial",
        };
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let microseconds = |time: std::time::Duration| u64::try_from(time.as_micros()).ok();
        PeerStatus {
            id: self.node.0,
            address: self.address.to_string(),
            state: state.to_owned(),
            last_error: self.lease.last_error().or(self.bulk.last_error()).unwrap_or_default(),
            round_trip_us: round_trip.and_then(microseconds),
            sent_total: count(&self.counters.sent),
            dropped_total: count(&self.counters.dropped),
            received_total: count(&self.counters.received),
            untaken_total: count(&self.counters.untaken),
        }
    }
}

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
