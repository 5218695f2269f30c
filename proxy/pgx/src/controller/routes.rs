//! Leads this node's proxy by the agreed state: clients that write go to the primary of the newest
//! epoch, once it serves, and only while this node holds its route lease.
//!
//! That the proxy goes by an epoch is said when all its threads do: a new primary opens when every
//! proxy has said so, or can have no lease any more.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::sync::{Arc, PoisonError};

use pgx_control::cluster::{Durability, Stage, State};
use pgx_control::facts::ProxyFacts;
use pgx_control::ids::{BootTime, NodeId, VipId};
use pgx_control::lease::Kind;
use pgx_session::route::{Backend, Course, Epoch as Version, Gate, ServerAddress, Snapshot};
use tracing::{info, warn};

use super::clock::boot_time;
use super::driver;
use super::lease::{self, Board};
use crate::limits::control::{FOLLOW_MAX, ROUTES_EVERY};
use crate::vip::Addresses;
use crate::workers::Workers;

/// Where the thread's outputs go, and what it looks at.
pub(super) struct Outlets {
    pub(super) driver: SyncSender<driver::Input>,
    pub(super) lease: SyncSender<lease::Input>,
    pub(super) board: Board,
    /// What can answer for addresses here.
    pub(super) addresses: Option<Arc<Addresses>>,
}

/// A proxy that follows the cluster.
#[derive(Clone)]
pub(crate) struct Followed {
    pub(crate) workers: Arc<Workers>,
    /// The port of PostgreSQL on all hosts of the cluster.
    pub(crate) port: u16,
}

/// Runs for as long as somebody may tell it of a state.
pub(super) fn run(me: NodeId, proxy: Followed, inbox: &Receiver<Arc<State>>, outlets: Outlets) {
    // Nothing is routed before there is a lease.
    proxy.workers.route_lease().hold(BootTime(0));
    let mut leader = Leader {
        me,
        proxy,
        outlets,
        state: None,
        told: None,
        standbys: (0, BTreeSet::new()),
        said: None,
        holders: BTreeMap::new(),
        shared: 0,
    };
    loop {
        match inbox.recv_timeout(ROUTES_EVERY) {
            Ok(state) => leader.state = Some(inbox.try_iter().last().unwrap_or(state)),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        leader.lead();
    }
}

struct Leader {
    me: NodeId,
    proxy: Followed,
    outlets: Outlets,
    state: Option<Arc<State>>,
    /// What the threads follow.
    told: Option<Arc<Course>>,
    /// Who serves reads, and how often that has changed.
    standbys: (u64, BTreeSet<NodeId>),
    /// What was last said of it.
    said: Option<ProxyFacts>,
    /// Which holder of each address was seen last, by its number.
    holders: BTreeMap<VipId, u64>,
    /// The table by which clients of addresses are shared, by its number.
    shared: u64,
}

/// Whether a switchover has come so far that nobody begins anything new.
fn holds(state: &State) -> bool {
    matches!(state.stage(), Some(Stage::Holds | Stage::Stops))
}

impl Leader {
    fn lead(&mut self) {
        let Some(state) = self.state.clone() else { return };
        let course = Arc::new(self.course(&state));
        let has_lapsed = self.proxy.workers.route_lease().take_lapse();
        if has_lapsed || self.told.as_ref() != Some(&course) {
            if !self.proxy.workers.follow(&course, FOLLOW_MAX) {
                warn!("a proxy thread does not answer; this node is not said to follow");
                self.told = None;
                return;
            }
            if self.told.as_ref().map(|told| (told.writes, told.primary.epoch))
                != Some((course.writes, course.primary.epoch))
            {
                let primary = course.primary.backends.first().map(|backend| &backend.address);
                info!(?primary, writes = ?course.writes, "clients follow the cluster");
            }
            self.told = Some(course);
        }
        self.say(&state);
    }

    /// Says which epoch the proxy goes by.
    fn say(&mut self, state: &State) {
        let epoch = state.tenure().map(|tenure| tenure.epoch);
        let holds = epoch.filter(|_| holds(state));
        let mut vip_priorities = self.offer(state);
        let vips = vip_priorities.keys().copied().collect();
        vip_priorities.retain(|_, priority| *priority > 0);
        let steers = self.outlets.addresses.as_ref().and_then(|addresses| addresses.steers());
        let facts = ProxyFacts { epoch, vips, vip_priorities, holds, steers };
        if self.said.as_ref() == Some(&facts) {
            return;
        }
        let to_lease = self.outlets.lease.try_send(lease::Input::Proxy(epoch));
        let to_driver = self.outlets.driver.try_send(driver::Input::Proxy(facts.clone()));
        if to_lease.is_ok() && to_driver.is_ok() {
            self.said = Some(facts);
        }
    }

    /// The addresses that could be answered for here, with this node's priority for each.
    fn offer(&mut self, state: &State) -> BTreeMap<VipId, u32> {
        let Some(addresses) = &self.outlets.addresses else { return BTreeMap::new() };
        let steering = state.steering();
        if self.shared != steering.number() {
            addresses.share(self.me, steering);
            self.shared = steering.number();
        }
        let sharer = |node: NodeId| steering.proxies().get(&node);
        for (vip, right) in state.vips() {
            let is_new = self.holders.insert(*vip, right.number) != Some(right.number);
            // The next holder sends on what belongs here.
            let goes_on = sharer(self.me).is_some() && sharer(right.holder).is_some();
            if is_new && right.holder != self.me && !goes_on {
                addresses.end_sessions(*vip, right.number);
            }
        }
        let gets_clients = steering.table().owned_by(self.me) > 0;
        let has_address = state.vips().values().any(|right| right.holder == self.me);
        addresses.set_named(gets_clients || has_address);
        addresses.offered()
    }

    fn course(&mut self, state: &State) -> Course {
        let is_leased = self.is_leased();
        let tenure = state.tenure();
        let writes = match tenure {
            _ if !is_leased => Gate::Shut,
            // Nobody serves yet, or not any more.
            None => Gate::Held,
            Some(_) if state.sealed().is_some() => Gate::Shut,
            Some(tenure) if !tenure.is_established => Gate::Shut,
            Some(_) if holds(state) => Gate::Held,
            Some(_) => Gate::Open,
        };
        let holder = tenure.map(|tenure| tenure.holder);
        let serves_reads = |node: &NodeId| Some(*node) != holder && !state.is_detached(*node);
        let members: BTreeSet<NodeId> =
            state.members().keys().copied().filter(serves_reads).collect();
        if self.standbys.1 != members || self.standbys.0 == 0 {
            self.standbys = (self.standbys.0 + 1, members);
        }
        // Zero is what is configured; the epochs of the cluster come after it.
        let version = tenure.map_or(1, |tenure| tenure.epoch.0.saturating_add(2));
        let primary = holder.into_iter().collect::<BTreeSet<_>>();
        let course = Course {
            primary: self.snapshot(state, version, &primary),
            writes,
            standbys: self.snapshot(state, self.standbys.0, &self.standbys.1),
            reads: if is_leased && tenure.is_some() { Gate::Open } else { Gate::Shut },
            is_strict: state.durability() == Durability::Strict,
        };
        self.look_up(&course);
        course
    }

    fn snapshot(&self, state: &State, version: u64, nodes: &BTreeSet<NodeId>) -> Snapshot {
        let address = |node: &NodeId| {
            let named = &state.nodes().get(node)?.address;
            let (host, _) = named.rsplit_once(':')?;
            Some(ServerAddress(format!("{host}:{}", self.proxy.port)))
        };
        let backends = nodes.iter().filter_map(address).map(Backend::from).collect();
        Snapshot { epoch: Version(version), backends }
    }

    /// Names that are new are looked up while clients wait.
    fn look_up(&self, course: &Course) {
        let all = |course: &Course| {
            let both = course.primary.backends.iter().chain(&course.standbys.backends);
            both.map(|backend| backend.address.clone()).collect::<BTreeSet<_>>()
        };
        let known = self.told.as_deref().map(all).unwrap_or_default();
        let new: Vec<_> = all(course).difference(&known).cloned().collect();
        if !new.is_empty() {
            self.proxy.workers.look_up(new);
        }
    }

    fn is_leased(&self) -> bool {
        let board = self.outlets.board.lock().unwrap_or_else(PoisonError::into_inner);
        board.get(&Kind::Route(self.me)).is_some_and(|held| boot_time() < held.until)
    }
}
