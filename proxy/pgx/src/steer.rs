//! Steers what clients send to virtual addresses, by the table that the quorum has agreed on.
//!
//! A thread of its own: the kernel takes a thousand words for a table, and lists all connections of
//! the host. Nothing waits for it. Where it falls behind, flows take a hop more, and at worst go
//! where nobody knows them.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use pgx_bpf::{
    BPFFS, BUCKETS, Bucket, Objects, PIN_BASE, Pins, Plane, Side, SteerError, Steering, Table,
    Vips, buckets_in_use, destroy, link_address,
};
use pgx_control::admin::SteeringStatus;
use pgx_control::cluster::{Proxy, Steering as Agreed};
use pgx_control::facts::Steers;
use pgx_control::ids::NodeId;
use pgx_control::limits::BUCKETS as AGREED_BUCKETS;
use tracing::{info, warn};

use crate::config;
use crate::controller::spawn;
use crate::limits::steer::{FAIL_MAX, IDLE, LOOK_MAX, LOOK_MIN, RETRY, RETRY_MAX, STALE_MAX};
use crate::limits::{BIND_PAUSE, CLAIM_WAIT};

/// All addresses share one table.
const TABLE: u8 = 0;

const _: () = assert!(AGREED_BUCKETS == BUCKETS as usize);

/// The thread that steers, as others see it.
pub(crate) struct Steerer {
    orders: Sender<Order>,
    known: Arc<Mutex<Known>>,
}

/// What the thread is told.
enum Order {
    /// Tables are this cluster's.
    Belong(String),
    /// This node is to steer by that one.
    Follow(Box<Goal>),
}

/// By which table this node is to steer.
struct Goal {
    me: NodeId,
    agreed: Agreed,
}

/// What the thread has brought about.
#[derive(Clone, Debug, Default)]
struct Known {
    /// The link address of this host, once it steers.
    link: Option<[u8; 6]>,
    /// The number of the table that packets go by.
    number: u64,
    /// The buckets of this node.
    owned: usize,
    /// Who takes part.
    proxies: usize,
    /// Whether this node may have flows in buckets of others; by which table it has none.
    is_waiting: bool,
    settled: Option<u64>,
    last_error: String,
    /// When packets were first and last seen not to go by the agreed table, without a success in
    /// between.
    failing: Option<(Instant, Instant)>,
}

impl Known {
    /// Whether this host has not gone by the agreed table for too long.
    fn is_out(&self) -> bool {
        self.failing.is_some_and(|(first, last)| last.duration_since(first) >= FAIL_MAX)
    }

    /// Notes how a try went.
    fn note(&mut self, is_success: bool, now: Instant) {
        let first = self.failing.map_or(now, |(first, _)| first);
        self.failing = (!is_success).then_some((first, now));
    }
}

/// Whether a node has clients that others have had: by the tables since which it takes part, the
/// last that it went by and the next. Who begins and is not in the table has let some in meanwhile.
/// A table of nobody takes no clients from anybody.
fn has_lost_clients(
    before: Option<u64>,
    next: Option<u64>,
    is_first: bool,
    is_empty: bool,
) -> bool {
    !is_empty && (before.is_some() && before != next || is_first && next.is_none())
}

/// The pairs of address and port that are steered: where clients come in by a virtual address.
pub(crate) fn services(vip: &config::Vip, proxy: &config::Proxy) -> BTreeSet<(IpAddr, u16)> {
    let addresses = vip.leases.iter().flat_map(|lease| &lease.addresses);
    let ports = |address: IpAddr| {
        let reaches = move |ip: IpAddr| {
            ip == address || ip.is_unspecified() && ip.is_ipv4() == address.is_ipv4()
        };
        let listens = proxy.listen.iter().filter(move |listen| reaches(listen.address.ip()));
        listens.map(move |listen| (address, listen.address.port()))
    };
    addresses.flat_map(|address| ports(*address)).collect()
}

/// Steers nothing from here on: an earlier run may have.
pub(crate) fn stop_steering() {
    let Ok(pins) = Pins::open(Path::new(BPFFS), PIN_BASE) else { return };
    let stopped = match open_when_free(&pins) {
        Ok(mut steering) => steering.keep_only(&BTreeSet::new()),
        Err(error @ pgx_bpf::Error::SteeringBusy { .. }) => Err(error),
        // Without maps there is nothing to stop.
        Err(_) => Ok(()),
    };
    if let Err(error) = stopped {
        warn!(%error, "what an earlier run has steered still is");
    }
}

/// Opens what is steered, as soon as a process that was killed is gone.
fn open_when_free(pins: &Pins) -> Result<Steering, pgx_bpf::Error> {
    let until = Instant::now() + CLAIM_WAIT;
    loop {
        match Steering::open(pins) {
            Err(pgx_bpf::Error::SteeringBusy { .. }) if Instant::now() < until => {
                std::thread::sleep(BIND_PAUSE);
            }
            opened => return opened,
        }
    }
}

impl Steerer {
    /// Starts the thread, which steers nothing before [`Self::follow`].
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub(crate) fn start(
        interface: String,
        services: BTreeSet<(IpAddr, u16)>,
    ) -> Result<Self, String> {
        let (orders, inbox) = channel();
        let known = Arc::new(Mutex::new(Known::default()));
        let thread = Thread {
            interface,
            services,
            known: Arc::clone(&known),
            cluster: None,
            writer: None,
            goal: None,
            links: BTreeSet::new(),
            since: None,
            stale_since: None,
            retry: RETRY,
            look_every: LOOK_MIN,
            look_at: None,
        };
        spawn("pgx-steer", move || thread.run(&inbox))?;
        Ok(Self { orders, known })
    }

    /// Tables are this cluster's from here on; nothing is steered before that is known.
    pub(crate) fn belong_to(&self, cluster: &str) {
        // The thread lives as long as this does.
        let _ = self.orders.send(Order::Belong(cluster.to_owned()));
    }

    /// This node is to go by the agreed table.
    pub(crate) fn follow(&self, me: NodeId, agreed: &Agreed) {
        let goal = Box::new(Goal { me, agreed: agreed.clone() });
        let _ = self.orders.send(Order::Follow(goal));
    }

    /// Whether it cannot be done here, as things stand.
    pub(crate) fn fails(&self) -> bool {
        lock(&self.known).failing.is_some()
    }

    /// How this host takes part; `None` while it does not, also when it has long failed to.
    pub(crate) fn steers(&self, is_leaving: bool) -> Option<Steers> {
        let known = lock(&self.known);
        if known.is_out() {
            return None;
        }
        let proxy = Proxy { link: known.link?, is_leaving };
        Some(Steers { proxy, settled: known.settled })
    }

    /// What `pgx ctl status` shows.
    pub(crate) fn status(&self) -> SteeringStatus {
        let Known { number, owned, proxies, is_waiting, settled, last_error, .. } =
            lock(&self.known).clone();
        let has_old_flows = is_waiting && settled != Some(number);
        let buckets = AGREED_BUCKETS;
        SteeringStatus { table: number, proxies, owned, buckets, has_old_flows, last_error }
    }
}

fn lock(known: &Mutex<Known>) -> MutexGuard<'_, Known> {
    known.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Thread {
    interface: String,
    services: BTreeSet<(IpAddr, u16)>,
    known: Arc<Mutex<Known>>,
    cluster: Option<String>,
    writer: Option<Steering>,
    goal: Option<Box<Goal>>,
    /// Of all hosts that have taken part since the start.
    links: BTreeSet<[u8; 6]>,
    /// Since which table this node takes part.
    since: Option<u64>,
    /// Since when the table in the kernel is newer than the agreed one.
    stale_since: Option<Instant>,
    /// How long it waits after what fails next.
    retry: Duration,
    /// How long it waits between looks for old flows, and when the next one is due.
    look_every: Duration,
    look_at: Option<Instant>,
}

impl Thread {
    fn run(mut self, inbox: &Receiver<Order>) {
        let mut pause = IDLE;
        loop {
            match inbox.recv_timeout(pause) {
                Ok(order) => {
                    for order in std::iter::once(order).chain(inbox.try_iter()) {
                        match order {
                            Order::Belong(cluster) => self.cluster = Some(cluster),
                            Order::Follow(goal) => self.goal = Some(goal),
                        }
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            let Some(cluster) = self.cluster.clone() else { continue };
            let worked = self.work(&cluster);
            let is_success = worked.is_ok();
            lock(&self.known).note(is_success, Instant::now());
            // That old flows cannot be looked for makes no packet go wrong.
            let error = worked.and_then(|()| self.look()).err().unwrap_or_default();
            pause = match self.look_at {
                _ if !is_success => self.retry,
                Some(at) => at.saturating_duration_since(Instant::now()).min(IDLE),
                None => IDLE,
            };
            self.retry = if is_success { RETRY } else { (self.retry * 2).min(RETRY_MAX) };
            let mut known = lock(&self.known);
            if !error.is_empty() && known.last_error != error {
                warn!(error, "what clients send to virtual addresses is not steered as agreed");
            }
            known.last_error = error;
        }
    }

    /// Has packets go by the newest table that is agreed on.
    fn work(&mut self, cluster: &str) -> Result<(), String> {
        let link = link_address(&self.interface).map_err(|error| error.to_string())?;
        let mut writer = match self.writer.take() {
            Some(writer) => writer,
            None => self.open(cluster)?,
        };
        let worked = self.meet(link).and_then(|()| self.steer(&mut writer));
        self.writer = Some(writer);
        worked
    }

    fn open(&self, cluster: &str) -> Result<Steering, String> {
        let open = || -> Result<Steering, pgx_bpf::Error> {
            let pins = Pins::open(Path::new(BPFFS), PIN_BASE)?;
            // Here, because the kernel takes its time to verify it, and leases are to go on. Until
            // then what an earlier run has loaded steers on.
            Plane::load(&Objects::embedded(), pins.clone())?.steer()?;
            let mut steering = open_when_free(&pins)?;
            if steering.belong_to(cluster)? {
                info!(cluster, "tables of clients were another cluster's, and begin anew");
            }
            steering.keep_only(&self.services)?;
            for (address, port) in &self.services {
                steering.serve(*address, *port, TABLE, false)?;
            }
            Ok(steering)
        };
        open().map_err(|error| error.to_string())
    }

    /// Frames for this link address are this host's; it may be another one than before.
    fn meet(&self, link: [u8; 6]) -> Result<(), String> {
        if lock(&self.known).link == Some(link) {
            return Ok(());
        }
        let pins = Pins::open(Path::new(BPFFS), PIN_BASE);
        // Who has never had an address steers as well.
        let met = pins.and_then(|pins| Vips::open(&pins)?.add_interface(&self.interface));
        met.map_err(|error| error.to_string())?;
        lock(&self.known).link = Some(link);
        Ok(())
    }

    fn steer(&mut self, writer: &mut Steering) -> Result<(), String> {
        let Some(goal) = self.goal.take() else { return Ok(()) };
        let published = lock(&self.known).number;
        let is_there = published == goal.agreed.number();
        let done = if is_there { Ok(()) } else { self.publish(writer, &goal) };
        self.goal = Some(goal);
        done
    }

    /// Has packets go by the agreed table, and ends the flows that this node has lost.
    fn publish(&mut self, writer: &mut Steering, goal: &Goal) -> Result<(), String> {
        let (agreed, me) = (&goal.agreed, goal.me);
        let nodes: Vec<_> = agreed.proxies().keys().copied().collect();
        let place = |node: Option<NodeId>| nodes.binary_search(&node?).ok();
        let servers: Vec<_> = agreed.proxies().values().map(|one| one.proxy.link).collect();
        let buckets = agreed.table().buckets().iter();
        let buckets: Vec<_> = buckets
            .map(|bucket| Bucket { owner: place(bucket.owner), previous: place(bucket.previous) })
            .collect();
        self.links.extend(&servers);
        writer.set_hops(&self.links).map_err(|error| error.to_string())?;
        let epoch = u32::try_from(agreed.number()).unwrap_or(u32::MAX);
        let local = place(Some(me));
        let table = Table { epoch, servers: &servers, local, buckets: &buckets };
        self.write(writer, &table)?;
        let (owned, proxies) = (agreed.table().owned_by(me), nodes.len());
        info!(table = agreed.number(), proxies, owned, "clients of virtual addresses are shared");
        let since = agreed.proxies().get(&me).map(|one| one.since);
        let (is_first, is_empty) = (lock(&self.known).number == 0, nodes.is_empty());
        if has_lost_clients(self.since, since, is_first, is_empty) {
            self.end_sessions();
        }
        if !is_empty {
            self.since = since;
        }
        let is_waiting = agreed.table().is_waiting_for(me);
        // The first look comes when what was under way at the swap has arrived.
        self.look_every = LOOK_MIN;
        self.look_at = is_waiting.then(|| Instant::now() + LOOK_MIN);
        let mut known = lock(&self.known);
        (known.number, known.owned, known.proxies) = (agreed.number(), owned, proxies);
        (known.is_waiting, known.settled) = (is_waiting, None);
        Ok(())
    }

    /// A table that is newer than the agreed one for long is of what this cluster has lost.
    fn write(&mut self, writer: &mut Steering, table: &Table<'_>) -> Result<(), String> {
        let written = writer.publish(TABLE, table);
        if !matches!(written, Err(SteerError::Stale(_))) {
            self.stale_since = None;
            return written.map_err(|error| error.to_string());
        }
        if self.stale_since.get_or_insert_with(Instant::now).elapsed() < STALE_MAX {
            return written.map_err(|error| error.to_string());
        }
        writer.rewind(TABLE).map_err(|error| error.to_string())?;
        writer.publish(TABLE, table).map_err(|error| error.to_string())
    }

    /// Others have had what clients of virtual addresses send: who came in here by one is told, and
    /// holds nothing up that nobody can reach.
    fn end_sessions(&self) {
        let addresses: BTreeSet<_> = self.services.iter().map(|(address, _)| *address).collect();
        for address in addresses {
            match destroy(Side::At(address)) {
                Ok(0) => {}
                Ok(count) => info!(%address, count, "others have its clients; they are told"),
                Err(error) => warn!(%address, %error, "others have an address' clients, and who \
                    had come in here by it is not told"),
            }
        }
    }

    /// Looks whether this node has flows in buckets of others, when that is due.
    fn look(&mut self) -> Result<(), String> {
        let now = Instant::now();
        let (Some(goal), Some(at)) = (&self.goal, self.look_at) else { return Ok(()) };
        if now < at {
            return Ok(());
        }
        self.look_every = (self.look_every * 2).min(LOOK_MAX);
        self.look_at = Some(now + self.look_every);
        let addresses = self.services.iter().map(|(address, _)| *address).collect();
        let in_use = buckets_in_use(&addresses).map_err(|error| error.to_string())?;
        let buckets = goal.agreed.table().buckets();
        let owner = |bucket: &u32| buckets.get(*bucket as usize).and_then(|one| one.owner);
        if in_use.iter().all(|bucket| owner(bucket) == Some(goal.me)) {
            lock(&self.known).settled = Some(goal.agreed.number());
            self.look_at = None;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_left_out_or_begins_outside_has_lost_clients_and_a_table_of_nobody_takes_none() {
        let lost = has_lost_clients;
        assert!(lost(Some(3), None, false, false), "others have them");
        assert!(lost(Some(3), Some(5), false, false), "others had them in between");
        assert!(lost(None, None, true, false), "it let some in before it knew");
        assert!(!lost(Some(3), Some(3), false, false));
        assert!(!lost(None, Some(4), true, false), "it begins with what it has");
        assert!(!lost(None, None, false, false));
        assert!(!lost(Some(3), None, false, true));
        assert!(!lost(None, None, true, true));
    }

    #[test]
    fn one_takes_no_part_when_tries_have_failed_for_long_and_not_when_time_has_passed() {
        let (mut known, now) = (Known::default(), Instant::now());
        known.note(false, now);
        known.note(false, now + FAIL_MAX / 2);
        assert!(!known.is_out());
        known.note(true, now + FAIL_MAX);
        known.note(false, now + FAIL_MAX * 2);
        assert!(!known.is_out(), "a success in between");
        known.note(false, now + FAIL_MAX * 3);
        assert!(known.is_out());
        known.note(true, now + FAIL_MAX * 4);
        assert!(!known.is_out());
    }
}
