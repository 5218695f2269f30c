//! Opens and shuts the fence by this node's leases: who renews them says until when, the agent of
//! PostgreSQL says how far.
//!
//! What is not renewed ends by the kernel's clock, so nobody here has to be alive for it to shut.
//! Opening and shutting are a few instructions and a call of the kernel each; nothing here waits
//! for anything else, since the thread that renews leases comes by.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard};

pub(crate) use pgx_bpf::Gate as Width;
use pgx_bpf::{KeepError, Keeper, LeaseWord, Role, Side, Stale, destroy};
use pgx_control::ids::{BootTime, Epoch};
use tracing::{debug, error, info, warn};

use super::stand_in::Rules;
use super::{Found, lock};
use crate::controller::clock::boot_time;
use crate::controller::spawn;

/// How far the agent wants one role's door open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Door {
    epoch: Epoch,
    width: Width,
}

/// One role's door and lease.
#[derive(Clone, Copy, Debug, Default)]
struct Entrance {
    wanted: Option<Door>,
    /// In which epoch the lease is held, and until when. The member lease is of no epoch: it goes
    /// by the door's.
    held: Option<(Option<Epoch>, BootTime)>,
}

impl Entrance {
    /// What holds now: nothing while there is no lease, or nobody wants it open.
    fn word(&self, role: Role, closed: Option<Epoch>) -> Option<(Door, BootTime)> {
        let (door, (held, until)) = self.wanted.zip(self.held)?;
        let is_closed = role == Role::Primary && Some(door.epoch) <= closed;
        let is_other = held.is_some_and(|held| held != door.epoch);
        (!is_closed && !is_other).then_some((door, until))
    }
}

/// Who obeys the words.
enum Means {
    Programs(Box<Keeper>),
    Nftables { rules: Rules, thread: Sender<Rules> },
}

/// The means with all that they go by.
struct House {
    means: Means,
    primary: Entrance,
    member: Entrance,
    /// Up to which epoch this node is primary no more.
    closed: Option<Epoch>,
    /// The members' addresses, and whether that is all of them.
    peers: (BTreeSet<IpAddr>, bool),
    /// The hosts whose PostgreSQL nobody here may talk to; `None` before the first list.
    fenced: Option<BTreeSet<IpAddr>>,
    /// No further list is written.
    is_over: bool,
    /// What went wrong last.
    told: String,
}

/// The gate of this host's PostgreSQL.
#[derive(Clone)]
pub(crate) struct Gate {
    port: u16,
    house: Arc<Mutex<House>>,
    found: Arc<Mutex<Found>>,
}

impl Gate {
    /// A gate of the kernel's programs.
    pub(super) fn new(port: u16, keeper: Keeper, found: Arc<Mutex<Found>>) -> Self {
        Self::of(port, Means::Programs(Box::new(keeper)), found)
    }

    /// A gate of nftables.
    pub(super) fn stand_in(port: u16, thread: Sender<Rules>, found: Arc<Mutex<Found>>) -> Self {
        Self::of(port, Means::Nftables { rules: Rules::default(), thread }, found)
    }

    fn of(port: u16, means: Means, found: Arc<Mutex<Found>>) -> Self {
        let (primary, member) = (Entrance::default(), Entrance::default());
        let (closed, peers, fenced, told) = (None, (BTreeSet::new(), false), None, String::new());
        let is_over = false;
        let house = House { means, primary, member, closed, peers, fenced, is_over, told };
        Self { port, house: Arc::new(Mutex::new(house)), found }
    }

    /// The leases are those of this cluster from here on; what was opened or closed for another is
    /// void.
    pub(crate) fn belong_to(&self, cluster: &str) {
        let mut house = self.house();
        let Means::Programs(keeper) = &mut house.means else { return };
        match keeper.belong_to(cluster) {
            Ok(false) => {}
            Ok(true) => info!(cluster, "the fence was another cluster's, and begins anew"),
            Err(error) => house.tell(&error.to_string()),
        }
    }

    /// What operators and status do with the words themselves; `None` where there are none.
    pub(super) fn with_keeper<T>(&self, act: impl FnOnce(&mut Keeper) -> T) -> Option<T> {
        match &mut self.house().means {
            Means::Programs(keeper) => Some(act(keeper)),
            Means::Nftables { .. } => None,
        }
    }

    /// The primary lease of this epoch is held until then.
    pub(crate) fn hold_primary(&self, epoch: Epoch, until: BootTime) {
        let mut house = self.house();
        house.primary.held = Some((Some(epoch), until));
        house.write(Role::Primary);
    }

    /// The member lease is held until then, in whatever epoch the agent goes by.
    pub(crate) fn hold_member(&self, until: BootTime) {
        let mut house = self.house();
        house.member.held = Some((None, until));
        house.write(Role::Member);
    }

    /// PostgreSQL is a primary or becomes one, in this epoch, for members alone or for everybody.
    /// What it was opened for before, as a standby or by an earlier process, ends here: in this
    /// epoch nobody but members may come in before it serves.
    pub(crate) fn open_primary(&self, epoch: Epoch, width: Width) {
        let mut house = self.house();
        let door = Some(Door { epoch, width });
        if house.primary.wanted == door {
            return;
        }
        if let Err(error) = house.end_before(epoch) {
            return house.tell(&error.to_string());
        }
        house.want(Role::Primary, door);
    }

    /// PostgreSQL is a standby that receives in this epoch.
    pub(crate) fn open_member(&self, epoch: Epoch) {
        self.house().want(Role::Member, Some(Door { epoch, width: Width::Open }));
    }

    /// PostgreSQL is no primary.
    pub(crate) fn shut_primary(&self) {
        self.house().want(Role::Primary, None);
    }

    /// PostgreSQL is no standby.
    pub(crate) fn shut_member(&self) {
        self.house().want(Role::Member, None);
    }

    /// This node is primary no more in this epoch and all before; `held` says whether it was to be
    /// in this one. Whether nothing passes any more by what it was opened for, at whatever place.
    pub(crate) fn close(&self, epoch: Epoch, held: bool) -> bool {
        let mut house = self.house();
        let mut was_open = false;
        if house.closed < Some(epoch) {
            match house.close(epoch, held) {
                Ok(open) => was_open = open,
                Err(error) => {
                    house.tell(&error.to_string());
                    return false;
                }
            }
        }
        let is_certain = matches!(house.means, Means::Programs(_));
        // The thread that renews leases must not wait for what follows.
        drop(house);
        if was_open {
            // Who only waits hears of nothing else.
            self.end_idle();
        }
        is_certain && lock(&self.found).is_whole()
    }

    /// The addresses of the members. Unless these are all, those that are known already stay: an
    /// earlier process may have known more.
    pub(crate) fn set_peers(&self, addresses: &BTreeSet<IpAddr>, is_all: bool) {
        let mut house = self.house();
        let (known, was_all) = &house.peers;
        let is_known = if is_all { known == addresses } else { known.is_superset(addresses) };
        if is_known && *was_all >= is_all {
            return;
        }
        match house.set_peers(addresses, is_all) {
            Ok(()) => {
                house.peers = (addresses.clone(), is_all);
                drop(house);
                if is_all {
                    info!(?addresses, "who is let in while PostgreSQL is open to members only");
                }
            }
            Err(error) => house.tell(&error.to_string()),
        }
    }

    /// The hosts whose PostgreSQL may serve nobody, by the agreed state: nothing that comes from it
    /// is let in here, and who talks to it is told. Only the kernel's programs do that.
    pub(crate) fn set_fenced(&self, addresses: &BTreeSet<IpAddr>) {
        let mut house = self.house();
        if house.is_over || house.fenced.as_ref() == Some(addresses) {
            return;
        }
        let Some(written) = house.write_fenced(addresses) else { return };
        let before = match written {
            Ok(before) => before,
            Err(error) => return house.tell(&error.to_string()),
        };
        drop(house);
        if *addresses != before {
            info!(?addresses, "hosts whose PostgreSQL may serve nobody by the agreed state");
        }
        for address in addresses.difference(&before) {
            self.end(Side::Remote(*address, self.port), "who was connected to a fenced PostgreSQL");
        }
    }

    /// Nobody is kept off any more: nobody would take one off the list that comes back.
    pub(crate) fn end_fenced(&self) {
        let mut house = self.house();
        house.is_over = true;
        if let Some(Err(error)) = house.write_fenced(&BTreeSet::new()) {
            house.tell(&error.to_string());
        }
    }

    fn end_idle(&self) {
        self.end(Side::Local(self.port), "the gate is shut, and who was connected");
    }

    /// The hosts of the newest list.
    pub(super) fn fenced(&self) -> BTreeSet<IpAddr> {
        self.house().fenced.clone().unwrap_or_default()
    }

    /// Tells who only waits, whom no packet would tell.
    fn end(&self, side: Side<'static>, whom: &'static str) {
        let told = spawn("pgx-destroy", move || match destroy(side) {
            Ok(0) => {}
            Ok(count) => info!(count, "{whom} is told"),
            Err(error) => warn!(%error, "{whom} is not told, if it only waits"),
        });
        if let Err(error) = told {
            warn!(error, "{whom} is not told, if it only waits");
        }
    }

    fn house(&self) -> MutexGuard<'_, House> {
        lock(&self.house)
    }
}

impl House {
    fn entrance(&mut self, role: Role) -> &mut Entrance {
        match role {
            Role::Primary => &mut self.primary,
            Role::Member => &mut self.member,
        }
    }

    fn want(&mut self, role: Role, wanted: Option<Door>) {
        let before = self.entrance(role).wanted;
        if before == wanted {
            return;
        }
        // What was written last is taken back, before it is forgotten.
        let shut = |door: Door| Door { width: Width::Shut, ..door };
        self.entrance(role).wanted = wanted.or(before.map(shut));
        let is_written = self.write(role);
        // What could not be written is tried again.
        self.entrance(role).wanted = if is_written { wanted } else { before };
    }

    /// Shuts what was opened in earlier epochs, for good.
    fn end_before(&mut self, epoch: Epoch) -> Result<(), pgx_bpf::Error> {
        self.want(Role::Member, None);
        let Some(before) = epoch.0.checked_sub(1) else { return Ok(()) };
        if let Means::Programs(keeper) = &mut self.means {
            keeper.close(before)?;
        }
        Ok(())
    }

    /// Writes what holds for a role; whether that worked out.
    fn write(&mut self, role: Role) -> bool {
        let closed = self.closed;
        let Some((door, until)) = self.entrance(role).word(role, closed) else { return true };
        let written = match &mut self.means {
            Means::Programs(keeper) => keeper.lease(role, door.epoch.0, until.0, door.width),
            Means::Nftables { .. } => {
                self.hand_over();
                Ok(())
            }
        };
        match written {
            Ok(()) => true,
            // It was closed, or a newer one is there: as it should be.
            Err(KeepError::Stale(stale @ (Stale::Closed { .. } | Stale::Older { .. }))) => {
                debug!(?role, %stale, "a lease came too late for the gate");
                true
            }
            Err(error) => {
                self.tell(&error.to_string());
                false
            }
        }
    }

    /// Whether something was open, or could have been.
    fn close(&mut self, epoch: Epoch, held: bool) -> Result<bool, pgx_bpf::Error> {
        let was_open = match &mut self.means {
            Means::Programs(keeper) => {
                let before = keeper.standing()?;
                // The member lease may hold in epochs in which this node was never primary.
                let written = before.primary != LeaseWord::default();
                let own = written.then(|| before.primary.epoch().min(epoch.0));
                let up_to = if held { Some(epoch.0) } else { own };
                if let Some(up_to) = up_to {
                    keeper.close(up_to)?;
                }
                up_to.is_some_and(|up_to| before.floor <= up_to)
            }
            Means::Nftables { .. } => held,
        };
        self.closed = Some(epoch);
        self.hand_over();
        Ok(was_open)
    }

    /// Writes the hosts that nobody here may talk to, and returns those of the list before, an
    /// earlier run's included; `None` where only programs could do it.
    fn write_fenced(
        &mut self,
        addresses: &BTreeSet<IpAddr>,
    ) -> Option<Result<BTreeSet<IpAddr>, KeepError>> {
        let Means::Programs(keeper) = &mut self.means else { return None };
        // Lists are written under one lock, in the order of the states that they are from.
        let mut write = || -> Result<_, KeepError> {
            let (before, newest) = (keeper.fenced()?, keeper.newest_fenced()?);
            keeper.set_fenced(addresses, newest + 1)?;
            Ok(before)
        };
        let written = write();
        if written.is_ok() {
            self.fenced = Some(addresses.clone());
        }
        Some(written)
    }

    fn set_peers(
        &mut self,
        addresses: &BTreeSet<IpAddr>,
        is_all: bool,
    ) -> Result<(), pgx_bpf::Error> {
        match &mut self.means {
            Means::Programs(keeper) if is_all => keeper.set_peers(addresses)?,
            Means::Programs(keeper) => keeper.add_peers(addresses)?,
            Means::Nftables { rules, .. } => rules.peers.clone_from(addresses),
        }
        self.hand_over();
        Ok(())
    }

    /// Tells nftables, which know of one word only: the wider of the two.
    fn hand_over(&mut self) {
        let (closed, now) = (self.closed, boot_time());
        let words = [(Role::Primary, self.primary), (Role::Member, self.member)];
        let open = words.iter().filter_map(|(role, entrance)| entrance.word(*role, closed));
        let open = open.map(|(door, until)| (door.width, until)).filter(|(_, until)| now < *until);
        let gate = open.max();
        let Means::Nftables { rules, thread } = &mut self.means else { return };
        rules.gate = gate;
        // The thread lives as long as the process.
        let _ = thread.send(rules.clone());
    }

    fn tell(&mut self, text: &str) {
        if self.told != text {
            error!(error = text, "the gate of PostgreSQL cannot be moved; it shuts by itself");
            text.clone_into(&mut self.told);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, channel};

    use super::*;

    /// A gate whose rules nobody hands over to a kernel, and what they are to be.
    fn gate() -> (Gate, Receiver<Rules>) {
        let (sender, rules) = channel();
        (Gate::stand_in(5432, sender, Arc::default()), rules)
    }

    fn later() -> BootTime {
        boot_time().after_ms(3_600_000)
    }

    /// How far the gate is open now.
    fn width(rules: &Receiver<Rules>) -> Width {
        let newest = rules.try_iter().last().expect("nothing was handed over");
        newest.gate.map_or(Width::Shut, |(width, _)| width)
    }

    #[test]
    fn lease_alone_opens_nothing_and_neither_does_a_wish() {
        let (gate, rules) = gate();
        gate.hold_primary(Epoch(4), later());
        gate.hold_member(later());
        assert!(rules.try_recv().is_err());
        let (gate, rules) = self::gate();
        gate.open_primary(Epoch(4), Width::Open);
        gate.open_member(Epoch(4));
        assert!(rules.try_recv().is_err());
    }

    #[test]
    fn lease_of_one_epoch_opens_no_door_of_another() {
        let (gate, rules) = gate();
        gate.open_primary(Epoch(4), Width::Open);
        gate.hold_primary(Epoch(3), later());
        gate.hold_primary(Epoch(5), later());
        assert!(rules.try_recv().is_err());
        gate.hold_primary(Epoch(4), later());
        assert_eq!(width(&rules), Width::Open);
    }

    #[test]
    fn renewal_opens_nothing_that_was_closed() {
        let (gate, rules) = gate();
        gate.open_primary(Epoch(4), Width::Open);
        gate.hold_primary(Epoch(4), later());
        assert_eq!(width(&rules), Width::Open);
        gate.close(Epoch(4), true);
        assert_eq!(width(&rules), Width::Shut);
        gate.hold_primary(Epoch(4), later());
        assert!(rules.try_recv().is_err());
    }

    #[test]
    fn standby_is_read_from_in_epochs_in_which_it_never_was_primary() {
        let (gate, rules) = gate();
        gate.close(Epoch(4), false);
        gate.open_member(Epoch(4));
        gate.hold_member(later());
        assert_eq!(width(&rules), Width::Open);
        gate.shut_member();
        assert_eq!(width(&rules), Width::Shut);
    }

    #[test]
    fn standby_that_is_promoted_is_open_to_members_alone() {
        let (gate, rules) = gate();
        gate.open_member(Epoch(4));
        gate.hold_member(later());
        assert_eq!(width(&rules), Width::Open);
        gate.hold_primary(Epoch(5), later());
        gate.open_primary(Epoch(5), Width::Peers);
        assert_eq!(width(&rules), Width::Peers);
        gate.hold_member(later());
        gate.hold_primary(Epoch(5), later());
        assert_eq!(width(&rules), Width::Peers);
    }

    #[test]
    fn lease_that_is_over_opens_nothing() {
        let (gate, rules) = gate();
        gate.open_primary(Epoch(4), Width::Open);
        gate.hold_primary(Epoch(4), boot_time());
        assert_eq!(width(&rules), Width::Shut);
    }
}
