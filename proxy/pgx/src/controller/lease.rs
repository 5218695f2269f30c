//! The thread that renews leases and answers those who renew theirs.
//!
//! It waits for messages and time and for nothing else: no disk, no runtime. What it is to write
//! goes to the thread of [`super::refusals`], what it says goes into the queues of the links.

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use pgx_control::cluster::State;
use pgx_control::ids::{BootTime, Epoch, NodeId};
use pgx_control::lease::{Kind, Message, Output, Refusals, Right, Station, Wants};
use pgx_controller::codec;
use tracing::{debug, warn};

use super::clock::{boot_time, until};
use super::driver;
use crate::fence::gate::Gate;
use crate::limits::control::LEASE_IDLE_MAX;
use crate::peer::{Channel, PeerSet};
use crate::vip::Addresses;
use crate::workers::RouteLease;

/// What the thread is told.
#[derive(Debug)]
pub(super) enum Input {
    /// A peer said something about leases.
    Message { from: NodeId, message: Message },
    /// The state has changed.
    State(Arc<State>),
    /// The proxy goes by this epoch.
    Proxy(Option<Epoch>),
    /// The agent wants other rights.
    Wants(Wants),
    /// Refusals are on disk.
    Persisted(Refusals),
    /// The agent has closed a right for good.
    Closed(Right),
}

/// A lease that this node holds or has held.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held {
    pub(super) right: Right,
    pub(super) until: BootTime,
    /// The least that was left of it at any renewal, in milliseconds.
    pub(super) least_ms: Option<u64>,
}

/// The leases of this node, for status and agent. Read and written for a few instructions at a
/// time; the thread that renews does not wait for it.
pub(super) type Board = Arc<Mutex<BTreeMap<Kind, Held>>>;

/// Where the thread's outputs go.
pub(super) struct Outlets {
    pub(super) peers: Arc<PeerSet>,
    pub(super) refusals: Sender<Refusals>,
    pub(super) driver: SyncSender<driver::Input>,
    pub(super) board: Board,
    /// What the proxy's threads go by, if they follow the cluster.
    pub(super) routes: Option<Arc<RouteLease>>,
    /// What opens PostgreSQL's port.
    pub(super) gate: Option<Gate>,
    /// What answers for addresses.
    pub(super) addresses: Option<Arc<Addresses>>,
}

/// Runs for as long as somebody may tell it something.
pub(super) fn run(mut station: Station, inbox: &Receiver<Input>, outlets: Outlets) {
    raise_priority();
    let mut thread = Thread { outlets, held: BTreeMap::new(), has_news: true };
    loop {
        let now = boot_time();
        station.handle_timeout(now);
        if let Some(addresses) = &thread.outlets.addresses {
            station.handle_let_go(&addresses.let_go(), now);
        }
        thread.put_out(&mut station, now);
        let wait = station.poll_timeout().map_or(LEASE_IDLE_MAX, |at| until(at, boot_time()));
        // A deadline that has just passed is looked at in the next round, not in a tight loop.
        let wait = wait.clamp(Duration::from_micros(200), LEASE_IDLE_MAX);
        let input = match inbox.recv_timeout(wait) {
            Ok(input) => input,
            Err(RecvTimeoutError::Timeout) => continue,
            Err(RecvTimeoutError::Disconnected) => return,
        };
        let now = boot_time();
        match input {
            Input::Message { from, message } => station.handle_message(from, message, now),
            Input::State(state) => station.handle_state(state, now),
            Input::Proxy(epoch) => station.handle_proxy(epoch, now),
            Input::Wants(wants) => station.handle_wants(wants, now),
            Input::Persisted(refusals) => station.handle_persisted(&refusals, now),
            Input::Closed(right) => station.handle_closed(right, now),
        }
    }
}

struct Thread {
    outlets: Outlets,
    held: BTreeMap<Kind, Held>,
    /// The controller is to be told what the voter says, and was not yet.
    has_news: bool,
}

impl Thread {
    fn put_out(&mut self, station: &mut Station, now: BootTime) {
        while let Some(output) = station.next_output() {
            match output {
                Output::Send { to, message } => self.send(to, &message),
                Output::Hold { right, until } => self.hold(right, until, now),
                Output::News => self.has_news = true,
                Output::Persist(refusals) => {
                    // The writer ends with this thread, not before.
                    let _ = self.outlets.refusals.send(refusals);
                }
            }
        }
        if self.has_news {
            let facts = driver::Input::Voter(station.facts().clone());
            // A full inbox is tried again in the next round.
            self.has_news = self.outlets.driver.try_send(facts).is_err();
        }
    }

    fn send(&self, to: NodeId, message: &Message) {
        let bytes = Bytes::from(codec::encode(message));
        if let Err(error) = self.outlets.peers.send(to, Channel::Lease, bytes) {
            debug!(%to, %error, "a message about leases was not sent");
        }
    }

    fn hold(&mut self, right: Right, until: BootTime, now: BootTime) {
        let before = self.held.get(&right.kind).filter(|held| held.right == right);
        let left_ms = before.map(|held| held.until.0.saturating_sub(now.0) / 1_000_000);
        let least_ms = before.and_then(|held| held.least_ms);
        let least_ms = least_ms.into_iter().chain(left_ms).min();
        self.held.insert(right.kind, Held { right, until, least_ms });
        self.use_right(right, until);
        // Whoever reads it now sees the renewal at the next one.
        if let Ok(mut board) = self.outlets.board.try_lock() {
            board.clone_from(&self.held);
        }
    }

    /// Lets go on what is there to make use of a right.
    fn use_right(&self, right: Right, until: BootTime) {
        let Outlets { routes, gate, addresses, .. } = &self.outlets;
        match (right.kind, routes, gate, addresses) {
            (Kind::Route(_), Some(routes), ..) => routes.hold(until),
            (Kind::Primary, _, Some(gate), _) => gate.hold_primary(Epoch(right.number), until),
            (Kind::Member(_), _, Some(gate), _) => gate.hold_member(until),
            (Kind::Vip(vip), .., Some(addresses)) => addresses.hold(vip, right.number, until),
            _ => {}
        }
    }
}

/// Lets the thread run before others; without the right to, leases may be lost on a busy host.
fn raise_priority() {
    // In Linux a thread has its own priority, and `None` is the calling one.
    if let Err(error) = rustix::process::setpriority_process(None, -10) {
        warn!(
            %error,
            "cannot raise the priority of the thread that renews leases; a busy host may lose its \
             leases: run pgx as root or give it CAP_SYS_NICE"
        );
    }
}
