//! The holder of virtual addresses: a thread for each lease, which takes the addresses and lets
//! them go by the deadline, whatever the rest of the process does.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use pgx_bpf::{Pins, Vips, Wire};
use serde::Serialize;
use tracing::{info, warn};

use crate::announce::announcement;
use crate::clock::{Waiter, Waker, boot_ns};
use crate::duty::{Action, Duty, Wanted};
use crate::error::{Error, Refused};
use crate::loopback::Loopback;
use crate::means::{Means, Place, Shared};
use crate::record;
use crate::settings::{LeaseId, Mode, Role, Settings};

/// How one lease of addresses stands on this host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LeaseStatus {
    /// Its number.
    pub id: LeaseId,
    /// What clients find there.
    pub role: Role,
    /// The addresses.
    pub addresses: Vec<IpAddr>,
    /// How they are held.
    pub mode: Mode,
    /// The newest number under which this host was to hold them; zero before the first.
    pub number: u64,
    /// Whether this host has taken them.
    pub is_taken: bool,
    /// The newest number that was given back and under which nothing is there any more, nor comes.
    pub let_go: u64,
    /// Until when, in nanoseconds of the boot-time clock; meaningless if they are not taken.
    pub until_ns: u64,
    /// Frames that were sent to tell the network.
    pub announced_total: u64,
    /// What went wrong last, since they were last taken or let go; empty if nothing did.
    pub last_error: String,
}

/// How the addresses stand on loopback.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LoopbackStatus {
    /// Whether they are there.
    pub is_up: bool,
    /// What went wrong last; empty if nothing did.
    pub last_error: String,
}

/// Holds addresses as it is told. Dropping it gives every lease back.
pub struct Holder {
    posts: BTreeMap<LeaseId, Post>,
    loopback: Option<Loopback>,
}

/// Where a thread gets its orders.
struct Post {
    known: Shared<Known>,
    waker: Waker,
    thread: Option<JoinHandle<()>>,
}

/// What the thread and those who give orders know.
struct Known {
    wanted: Wanted,
    is_ending: bool,
    status: LeaseStatus,
}

impl Holder {
    /// Undoes what an unclean stop has left, then waits for orders. `pins` are those of the
    /// programs that [`Mode::Xdp`] needs.
    ///
    /// # Errors
    /// [`Error`] when a thread or the kernel's configuration cannot be had. Nothing is held then.
    pub fn start(settings: &Settings, pins: Option<&Pins>) -> Result<Self, Error> {
        record::clean(&settings.record)?;
        if let Some(pins) = pins {
            forget_others(settings, pins)?;
        }
        let mut posts = BTreeMap::new();
        for lease in &settings.leases {
            let means = Means::new(settings, pins)?;
            let place = Place { interface: settings.interface.clone(), lease: lease.clone() };
            posts.insert(lease.id, Post::start(means, place, settings.mode)?);
        }
        let all: Vec<_> =
            settings.leases.iter().flat_map(|lease| lease.addresses.clone()).collect();
        let stands_on_loopback = settings.mode == Mode::Xdp && !all.is_empty();
        let start = || Loopback::start(settings.interface.clone(), all, settings.record.clone());
        let loopback = stands_on_loopback.then(start).transpose()?;
        Ok(Self { posts, loopback })
    }

    /// This host holds the addresses of a lease, as its holder of that number, until `until_ns` of
    /// the boot-time clock. Within a number the deadline only moves forward. Returns at once; what
    /// becomes of it is in [`Self::status`].
    ///
    /// # Errors
    /// [`Refused`] when it comes too late.
    pub fn hold(&self, lease: LeaseId, number: u64, until_ns: u64) -> Result<(), Refused> {
        let post = self.post(lease)?;
        {
            let wanted = &mut post.known().wanted;
            if number < wanted.number {
                return Err(Refused::Older { number, newest: wanted.number });
            }
            if number == wanted.number && wanted.is_closed {
                return Err(Refused::Closed(number));
            }
            let kept_ns = if number == wanted.number { wanted.until_ns } else { 0 };
            *wanted = Wanted { number, until_ns: until_ns.max(kept_ns), is_closed: false };
        }
        post.waker.wake();
        Ok(())
    }

    /// This host lets the addresses of a lease go, and holds them no more under that number or one
    /// before it.
    ///
    /// # Errors
    /// [`Refused::Unknown`].
    pub fn release(&self, lease: LeaseId, number: u64) -> Result<(), Refused> {
        let post = self.post(lease)?;
        {
            let wanted = &mut post.known().wanted;
            if number >= wanted.number {
                *wanted = Wanted { number, until_ns: wanted.until_ns, is_closed: true };
            }
        }
        post.waker.wake();
        Ok(())
    }

    /// This host lets all addresses go, and holds none under the numbers that it has.
    pub fn release_all(&self) {
        for post in self.posts.values() {
            post.known().wanted.is_closed = true;
            post.waker.wake();
        }
    }

    /// Whether the local proxy serves: the addresses stand on loopback only while it does.
    pub fn set_serving(&self, is_serving: bool) {
        if let Some(loopback) = &self.loopback {
            loopback.set_serving(is_serving);
        }
    }

    /// How each lease stands.
    #[must_use]
    pub fn status(&self) -> Vec<LeaseStatus> {
        let status = |post: &Post| {
            let known = post.known();
            LeaseStatus { number: known.wanted.number, ..known.status.clone() }
        };
        self.posts.values().map(status).collect()
    }

    /// How the addresses stand on loopback; `None` in modes that put none there.
    #[must_use]
    pub fn loopback_status(&self) -> Option<LoopbackStatus> {
        let (is_up, last_error) = self.loopback.as_ref()?.status();
        Some(LoopbackStatus { is_up, last_error })
    }

    fn post(&self, lease: LeaseId) -> Result<&Post, Refused> {
        self.posts.get(&lease).ok_or(Refused::Unknown(lease))
    }
}

/// The programs of an earlier run are still attached, and drop questions for what is in their map:
/// what another mode holds, or nobody any more, must not be in there.
fn forget_others(settings: &Settings, pins: &Pins) -> Result<(), Error> {
    let ours = settings.leases.iter().flat_map(|lease| lease.addresses.iter().copied());
    let kept = if settings.mode == Mode::Xdp { ours.collect() } else { BTreeSet::new() };
    match Vips::open(pins) {
        Ok(mut vips) => Ok(vips.keep_only(&kept)?),
        // Without the map no program can be there.
        Err(_) if settings.mode != Mode::Xdp => Ok(()),
        Err(error) => Err(error.into()),
    }
}

impl Post {
    fn start(means: Means, place: Place, mode: Mode) -> Result<Self, Error> {
        let thread_error = |source| Error::Thread { source };
        let (waiter, waker) = Waiter::new().map_err(thread_error)?;
        let status = LeaseStatus {
            id: place.lease.id,
            role: place.lease.role,
            addresses: place.lease.addresses.clone(),
            mode,
            number: 0,
            is_taken: false,
            let_go: 0,
            until_ns: 0,
            announced_total: 0,
            last_error: String::new(),
        };
        let known = Known { wanted: Wanted::default(), is_ending: false, status };
        let known = Arc::new(Mutex::new(known));
        let name = format!("vip-{}", place.lease.id);
        let worker = Worker { known: Arc::clone(&known), means, place, waiter, wire: None };
        let thread = thread::Builder::new().name(name).spawn(move || worker.run());
        Ok(Self { known, waker, thread: Some(thread.map_err(thread_error)?) })
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Post {
    fn drop(&mut self) {
        {
            let mut known = self.known();
            known.wanted.is_closed = true;
            known.is_ending = true;
        }
        self.waker.wake();
        // Each of its steps has a bound, so this has one; a panic was reported as it happened.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

struct Worker {
    known: Shared<Known>,
    means: Means,
    place: Place,
    waiter: Waiter,
    /// Opened when the addresses are taken, because an interface may change its link address.
    wire: Option<Wire>,
}

impl Worker {
    fn run(mut self) {
        let mut duty = Duty::new();
        loop {
            let (wanted, is_ending) = {
                let known = self.known();
                (known.wanted, known.is_ending)
            };
            let now_ns = boot_ns();
            if let Some(action) = duty.next_action(wanted, now_ns) {
                let done = self.carry_out(action);
                let is_success = done.is_ok();
                duty.handle_done(action, is_success, boot_ns());
                self.report(action, done.err(), duty.is_taken());
                // What cannot be let go at the end is left to the next start, and to the kernel.
                if is_ending && !is_success {
                    return;
                }
                continue;
            }
            if is_ending && !duty.is_taken() {
                return;
            }
            if wanted.is_closed && duty.is_free() {
                self.known().status.let_go = wanted.number;
            }
            if let Err(error) = self.waiter.wait(duty.poll_timeout(wanted, now_ns), None) {
                warn!(lease = %self.place.lease.id, %error, "cannot wait; the lease is given up");
                let over = Wanted { is_closed: true, ..wanted };
                let _ = self.means.release(&self.place, over, &self.waiter);
                return;
            }
        }
    }

    fn carry_out(&mut self, action: Action) -> Result<(), Error> {
        match action {
            Action::Take(under) => {
                let known = Arc::clone(&self.known);
                let end = move || valid_until(&known, under.number);
                self.means.take(&self.place, under, &self.waiter, end)
            }
            Action::Renew(under) => self.means.renew(&self.place, under),
            Action::Announce => self.announce(),
            Action::Release(under) => {
                self.wire = None;
                self.means.release(&self.place, under, &self.waiter)
            }
        }
    }

    fn announce(&mut self) -> Result<(), Error> {
        if !self.means.announces() {
            return Ok(());
        }
        let wire = match self.wire.take() {
            Some(wire) => wire,
            None => Wire::open(&self.place.interface)?,
        };
        let interface = &self.place.interface;
        for address in &self.place.lease.addresses {
            let frame = announcement(*address, wire.link_address());
            let number = self.known().wanted.number;
            // Right before it leaves: whoever holds the address next must not be talked over.
            if valid_until(&self.known, number).is_none_or(|until_ns| boot_ns() >= until_ns) {
                break;
            }
            wire.send(&frame)
                .map_err(|source| pgx_bpf::Error::Wire { interface: interface.clone(), source })?;
            self.known().status.announced_total += 1;
        }
        self.wire = Some(wire);
        Ok(())
    }

    fn report(&self, action: Action, error: Option<Error>, is_taken: bool) {
        let (lease, number) = (self.place.lease.id, self.known().wanted.number);
        let addresses = &self.place.lease.addresses;
        match (&error, action) {
            (Some(error), _) => warn!(%lease, number, %error, "a step for a lease has failed"),
            (None, Action::Take(_)) => info!(%lease, number, ?addresses, "addresses taken"),
            (None, Action::Release(_)) => info!(%lease, number, ?addresses, "addresses let go"),
            (None, Action::Renew(_) | Action::Announce) => {}
        }
        let mut known = self.known();
        known.status.is_taken = is_taken;
        known.status.until_ns = known.wanted.until_ns;
        if let Some(error) = error {
            known.status.last_error = error.to_string();
        } else if matches!(action, Action::Take(_) | Action::Release(_)) {
            known.status.last_error.clear();
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Until when the holder of that number has the lease; `None` if it has it no more.
fn valid_until(known: &Shared<Known>, number: u64) -> Option<u64> {
    let wanted = known.lock().unwrap_or_else(PoisonError::into_inner).wanted;
    (wanted.number == number && wanted.is_valid(boot_ns())).then_some(wanted.until_ns)
}
