//! The virtual addresses of this process: which mode holds them and why, and the holder itself.
//!
//! Where an address cannot be held, pgx runs without it and says why; it never fails to start for
//! that. Who gives leases is not known here, but told.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use pgx_bpf::{BPFFS, PIN_BASE, Pins, Side, destroy};
use pgx_control::admin::{AddressLease, AddressesStatus};
use pgx_control::cluster::Steering;
use pgx_control::facts::Steers;
use pgx_control::ids::{BootTime, NodeId, VipId};
use pgx_vip::{Choice, Holder, LeaseId, LeaseStatus, Mode, Settings, boot_ns, choose};
use tracing::{debug, info, warn};

use crate::config;
use crate::controller::spawn;
use crate::kernel::Kernel;
use crate::limits::control::{LEAVE_GRACE, LEAVE_MAX, LEAVE_PAUSE, SHARE_PATIENCE};
use crate::steer::{Steerer, services, stop_steering};

/// What the network was like before; gone with a boot, as our changes are.
const RECORD: &str = "/run/pgx/vip.json";

/// The virtual addresses, or why there are none.
pub(crate) struct Addresses {
    choice: Choice,
    priorities: BTreeMap<LeaseId, u32>,
    /// What shares their clients with other hosts, where that can be.
    steerer: Option<Steerer>,
    /// When the addresses were last seen on loopback.
    was_up: Mutex<Option<Instant>>,
    /// The addresses are to go to others.
    leaves: AtomicBool,
    /// By the agreed state one is to be here, or new clients.
    is_named: AtomicBool,
    /// Taken out at the end, so that it ends before the process does.
    holder: Mutex<Result<Option<Holder>, String>>,
}

impl Addresses {
    /// Chooses the mode and starts the holder, which waits for leases. Clients of addresses are
    /// shared with other hosts if their proxies follow the cluster as this one does.
    pub(crate) fn start(
        config: &config::Vip,
        proxy: Option<&config::Proxy>,
        kernel: &Kernel,
    ) -> Self {
        let choice = choose(config.mode, kernel.answers());
        let holder = start(config, &choice);
        let can_steer = choice.mode == Mode::Xdp && matches!(holder, Ok(Some(_)));
        let steerer = proxy.filter(|_| can_steer);
        let steerer = steerer.and_then(|proxy| start_steerer(config, proxy));
        if steerer.is_none() {
            stop_steering();
        }
        match &holder {
            Ok(None) => {}
            Ok(Some(_)) if choice.cause.is_empty() => {
                info!(mode = choice.mode.name(), "ready to hold virtual addresses");
            }
            Ok(Some(_)) => warn!(
                mode = choice.mode.name(),
                cause = choice.cause,
                "virtual addresses are held in another mode than the configuration says"
            ),
            Err(error) => warn!(error, "running without virtual addresses"),
        }
        Self {
            choice,
            priorities: config.priorities.clone(),
            steerer,
            was_up: Mutex::new(None),
            leaves: AtomicBool::new(false),
            is_named: AtomicBool::new(false),
            holder: Mutex::new(holder),
        }
    }

    /// The leases that this host can make use of, with its priority for each.
    pub(crate) fn offered(&self) -> BTreeMap<VipId, u32> {
        // Whoever has an address is to have a part in its table from the first one on.
        let is_ready =
            self.steerer.as_ref().is_none_or(|one| one.fails() || self.steers().is_some());
        if self.leaves.load(Ordering::Acquire) || !is_ready {
            return BTreeMap::new();
        }
        let offer = |lease: LeaseStatus| {
            let priority = self.priorities.get(&lease.id).copied().unwrap_or_default();
            (VipId(lease.id.0), priority)
        };
        self.leases().into_iter().map(offer).collect()
    }

    /// How this host shares clients of addresses; `None` while it does not. One that lets all go
    /// keeps those that it has.
    pub(crate) fn steers(&self) -> Option<Steers> {
        let is_up = |holder: &Holder| holder.loopback_status().is_some_and(|status| status.is_up);
        let steerer = self.steerer.as_ref()?;
        {
            let mut was_up = self.was_up.lock().unwrap_or_else(PoisonError::into_inner);
            if self.with(is_up) == Some(true) {
                *was_up = Some(Instant::now());
            }
            was_up.filter(|at| at.elapsed() < SHARE_PATIENCE)?;
        }
        steerer.steers(self.leaves.load(Ordering::Acquire))
    }

    /// Clients of addresses are those of this cluster.
    pub(crate) fn belong_to(&self, cluster: &str) {
        if let Some(steerer) = &self.steerer {
            steerer.belong_to(cluster);
        }
    }

    /// Clients of addresses are shared by this table from here on.
    pub(crate) fn share(&self, me: NodeId, agreed: &Steering) {
        if let Some(steerer) = &self.steerer {
            steerer.follow(me, agreed);
        }
    }

    /// This host has a lease until then, as its holder of that number. One that lets all go takes
    /// none.
    pub(crate) fn hold(&self, vip: VipId, number: u64, until: BootTime) {
        self.with(|holder| {
            if self.leaves.load(Ordering::Acquire) {
                // It may have been named before it was known to leave.
                let _ = holder.release(LeaseId(vip.0), number);
                return;
            }
            // One that came too late is held by another under a higher number.
            if let Err(refused) = holder.hold(LeaseId(vip.0), number, until.0) {
                debug!(vip = vip.0, %refused, "a lease of an address came to nothing");
            }
        });
    }

    /// Whether the local proxy serves.
    pub(crate) fn set_serving(&self, is_serving: bool) {
        self.with(|holder| holder.set_serving(is_serving));
    }

    /// Lets every address go, for others to take, and offers none from here on; the proxy goes on
    /// with what it has.
    pub(crate) fn release_all(&self) {
        self.leaves.store(true, Ordering::Release);
        self.with(Holder::release_all);
    }

    /// After [`Self::release_all`]: under which number each lease's addresses are let go, so that
    /// others may have them at once. Nothing before.
    pub(crate) fn let_go(&self) -> BTreeMap<VipId, u64> {
        if !self.leaves.load(Ordering::Acquire) {
            return BTreeMap::new();
        }
        self.leases().into_iter().map(|lease| (VipId(lease.id.0), lease.let_go)).collect()
    }

    /// Another host answers for these addresses from here on, under that number: what clients send
    /// arrives there, and who has come in here by them would be waited for in vain, with all that
    /// it holds.
    pub(crate) fn end_sessions(&self, vip: VipId, number: u64) {
        if self.choice.mode == Mode::None {
            // Others move them.
            return;
        }
        // They may be this host's again by now.
        let is_here = |lease: &LeaseStatus| lease.is_taken && lease.number > number;
        let all = self.leases().into_iter();
        let lost = all.filter(|lease| lease.id.0 == vip.0 && !is_here(lease));
        let addresses: Vec<_> = lost.flat_map(|lease| lease.addresses).collect();
        let told = spawn("pgx-destroy", move || {
            for address in addresses {
                match destroy(Side::At(address)) {
                    Ok(0) => {}
                    Ok(count) => {
                        info!(%address, count, "another host has it; who came in by it is told");
                    }
                    Err(error) => warn!(%address, %error, "another host has an address, and who \
                        had come in here by it is not told"),
                }
            }
        });
        if let Err(error) = told {
            warn!(error, "who has come in by an address of another host is not told");
        }
    }

    /// Whether one of the leases is this host's by the agreed state, or it gets new clients.
    pub(crate) fn set_named(&self, is_named: bool) {
        self.is_named.store(is_named, Ordering::Release);
    }

    /// Waits until others may have the addresses, or nobody is there to decide so.
    pub(crate) async fn wait_until_gone(&self) {
        let until = Instant::now() + LEAVE_MAX;
        while self.is_named.load(Ordering::Acquire) && Instant::now() < until {
            tokio::time::sleep(LEAVE_PAUSE).await;
        }
        if self.steerer.is_some() {
            tokio::time::sleep(LEAVE_GRACE).await;
        }
    }

    /// Makes the host what it was. Takes as long as the longest step may take.
    pub(crate) fn stop(&self) {
        let holder = {
            let mut place = self.holder.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *place, Ok(None))
        };
        drop(holder);
    }

    /// What `pgx ctl status` shows; `None` where no addresses are configured.
    pub(crate) fn status(&self) -> Option<AddressesStatus> {
        let holder = self.holder.lock().unwrap_or_else(PoisonError::into_inner);
        let (mode, cause) = (self.choice.mode.name().to_owned(), self.choice.cause.clone());
        let (on_loopback, loopback_error, leases) = (None, String::new(), Vec::new());
        let steering = self.steerer.as_ref().map(Steerer::status);
        let status = AddressesStatus { mode, cause, on_loopback, loopback_error, leases, steering };
        match &*holder {
            Ok(None) => None,
            Err(error) => {
                Some(AddressesStatus { mode: "off".to_owned(), cause: error.clone(), ..status })
            }
            Ok(Some(holder)) => {
                let loopback = holder.loopback_status();
                Some(AddressesStatus {
                    on_loopback: loopback.as_ref().map(|loopback| loopback.is_up),
                    loopback_error: loopback.map(|one| one.last_error).unwrap_or_default(),
                    leases: holder.status().iter().map(lease).collect(),
                    ..status
                })
            }
        }
    }

    /// How the leases stand; none where nothing is held.
    fn leases(&self) -> Vec<LeaseStatus> {
        self.with(Holder::status).unwrap_or_default()
    }

    fn with<T>(&self, job: impl FnOnce(&Holder) -> T) -> Option<T> {
        let holder = self.holder.lock().unwrap_or_else(PoisonError::into_inner);
        holder.as_ref().ok().and_then(Option::as_ref).map(job)
    }
}

fn start_steerer(config: &config::Vip, proxy: &config::Proxy) -> Option<Steerer> {
    // A proxy that does not follow the cluster offers no address.
    proxy.pool.as_ref()?.cluster_port?;
    let started = Steerer::start(config.interface.clone(), services(config, proxy));
    started.inspect_err(|error| warn!(error, "clients of addresses are not shared")).ok()
}

fn start(config: &config::Vip, choice: &Choice) -> Result<Option<Holder>, String> {
    if config.leases.is_empty() {
        return Ok(None);
    }
    let settings = Settings {
        interface: config.interface.clone(),
        mode: choice.mode,
        program: config.program.clone(),
        leases: config.leases.clone(),
        record: RECORD.into(),
    };
    let pins = Pins::open(Path::new(BPFFS), PIN_BASE).ok();
    // What an unclean stop has left is undone by a runtime of its own, which none of ours may be
    // around.
    let started = std::thread::scope(|scope| {
        let starting = scope.spawn(|| Holder::start(&settings, pins.as_ref()));
        starting.join().map_err(|_| "the thread that starts it died".to_owned())
    });
    started?.map(Some).map_err(|error| error.to_string())
}

fn lease(status: &LeaseStatus) -> AddressLease {
    let left_ms = status.until_ns.saturating_sub(boot_ns()) / 1_000_000;
    AddressLease {
        id: status.id.0,
        role: status.role.name().to_owned(),
        addresses: status.addresses.iter().map(ToString::to_string).collect(),
        is_held: status.is_taken,
        number: status.number,
        left_ms: status.is_taken.then_some(left_ms),
        announced_total: status.announced_total,
        last_error: status.last_error.clone(),
    }
}
