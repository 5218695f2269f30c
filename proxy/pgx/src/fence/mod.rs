//! The fence of a running pgx: brought up before anything serves, kept up by a thread of its own,
//! shown in `pgx ctl status`, and shut by operators.
//!
//! Who gives leases is not known here; [`gate`] is told of them. Where the kernel's programs cannot
//! be had, nftables stand in, and where those cannot be had either, pgx runs without a fence and
//! says what is lost.

pub(crate) mod command;
pub(crate) mod gate;
mod show;
mod stand_in;

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use pgx_bpf::{
    At, BPFFS, Change, Counters, Error, Guard, Keeper, Nftables, Objects, Options, PIN_BASE, Pins,
    Place, Rehearsal, Side, Trial, destroy, pinned_fence, rehearse,
};
use tracing::{error, info, warn};

use self::gate::Gate;
use crate::config::{self, Means};
use crate::exit::Failure;
use crate::limits::FENCE_TRIAL;

/// What is lost with nftables.
const DEGRADED: &str = "the fence is degraded: it bounds an agent that is dead, not one that is \
    stopped in mid-renewal and goes on later, and it knows no epochs";
/// What is lost without any fence.
const LOST: &str = "nothing in the kernel keeps clients from this PostgreSQL: if pgx or the host \
    hangs when its lease ends, it goes on answering while another node is primary";

/// By what means PostgreSQL is fenced.
enum Stands {
    /// The kernel's programs.
    Programs { gate: Gate, counters: Counters },
    /// Rules of nftables.
    Nftables(Gate),
    /// Nothing.
    Nothing,
}

/// What the thread has found.
#[derive(Default)]
struct Found {
    places: Vec<Place>,
    /// Whether that is how things stand: it could be looked at last time.
    is_known: bool,
    rehearsals: Vec<Rehearsal>,
}

impl Found {
    /// Whether nothing can pass, as far as is known: interfaces without a hook of their own are
    /// guarded at the sockets.
    fn is_whole(&self) -> bool {
        let has_sockets = self.places.iter().any(|place| matches!(place.at, At::Cgroup(_)));
        self.is_known && has_sockets && self.places.iter().all(Place::is_guarded)
    }
}

/// The fence around this host's PostgreSQL.
pub(crate) struct Fence {
    port: u16,
    stands: Stands,
    /// Why by no better means.
    cause: String,
    found: Arc<Mutex<Found>>,
}

/// A fence that stands, and why by no better means.
enum Raised {
    Programs(Box<Guard>, Pins),
    Nftables(Nftables),
    Nothing,
}

impl Fence {
    /// Brings the fence up, by the best means that are allowed and to be had.
    ///
    /// # Errors
    /// When another process keeps a fence here, or its pins are of another build: then this one
    /// must not stand beside it.
    pub(crate) fn start(config: config::Fence) -> Result<Self, Failure> {
        let (raised, cause) = raise(config)?;
        let found = Arc::new(Mutex::new(Found::default()));
        let stands = match raised {
            Raised::Programs(guard, pins) => {
                let open = || Ok((Keeper::open(&pins)?, Counters::open(&pins)?));
                let (keeper, counters) =
                    open().map_err(|error: Error| Failure::Failed(error.to_string()))?;
                tell(guard.places().cloned().map(Change::Stands));
                keep_up(*guard, Arc::clone(&found))?;
                let gate = Gate::new(config.port, keeper, Arc::clone(&found));
                Stands::Programs { gate, counters }
            }
            Raised::Nftables(nftables) => {
                warn!(port = config.port, cause, "PostgreSQL is fenced by nftables");
                let thread = stand_in::start(nftables).map_err(Failure::Failed)?;
                Stands::Nftables(Gate::stand_in(config.port, thread, Arc::clone(&found)))
            }
            Raised::Nothing => {
                warn!(port = config.port, cause, "PostgreSQL is not fenced");
                Stands::Nothing
            }
        };
        Ok(Self { port: config.port, stands, cause, found })
    }

    /// Fences PostgreSQL on an operator's word, up to the newest epoch that this node has heard of.
    /// Returns what was done, or why not.
    pub(crate) fn fence(&self) -> Result<String, String> {
        let epoch = self.with_keeper(|keeper| {
            let epoch = keeper.standing()?.newest_epoch();
            keeper.fence(epoch)?;
            Ok(keeper.standing()?.fenced_up_to().unwrap_or(epoch))
        })?;
        // The gate is shut already; this tells those who only wait.
        let ended = match destroy(Side::Local(self.port)) {
            Ok(count) => format!("{count} connections ended"),
            Err(error) => format!("idle connections were not told: {error}"),
        };
        warn!(epoch, port = self.port, ended, "fenced by an operator");
        Ok(format!(
            "fenced up to epoch {epoch}, {ended}; a newer epoch opens it, and so does \
             'pgx ctl unfence --epoch {epoch}' while the lease lasts"
        ))
    }

    /// Takes an operator's fence back; who does must name the epoch.
    pub(crate) fn unfence(&self, epoch: u64) -> Result<String, String> {
        let standing = self.with_keeper(|keeper| keeper.standing())?;
        let Some(fenced) = standing.fenced_up_to() else {
            return Err("no operator fences this host; 'pgx ctl status' shows why the gate is \
                        shut, if it is"
                .to_owned());
        };
        if !self.with_keeper(|keeper| keeper.unfence(epoch))? {
            warn!(epoch, fenced, "refused to take an operator's fence back");
            return Err(format!(
                "this host is fenced up to epoch {fenced}, not {epoch}; see who did that, and \
                 why, before you name that one"
            ));
        }
        warn!(epoch, port = self.port, "an operator's fence was taken back");
        Ok(format!("no operator fences this host any more; epoch {epoch} may open by its lease"))
    }

    /// What leases open; `None` where they open nothing.
    pub(crate) fn gate(&self) -> Option<Gate> {
        match &self.stands {
            Stands::Programs { gate, .. } | Stands::Nftables(gate) => Some(gate.clone()),
            Stands::Nothing => None,
        }
    }

    fn with_keeper<T>(
        &self,
        act: impl FnOnce(&mut Keeper) -> Result<T, Error>,
    ) -> Result<T, String> {
        let done = self.gate().and_then(|gate| gate.with_keeper(act));
        let refused = || {
            format!(
                "only the kernel's programs can be shut by an operator, and they do not stand \
                 here: {}; stop PostgreSQL instead",
                self.cause
            )
        };
        done.ok_or_else(refused)?.map_err(|error| error.to_string())
    }
}

/// A thread that died while it held a lock has left what it wrote whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Goes down the ladder until something stands.
fn raise(config: config::Fence) -> Result<(Raised, String), Failure> {
    let port = config.port;
    let mut causes = Vec::new();
    if let Means::Programs(best) = config.best {
        match programs(Options { port, best }) {
            Ok((guard, pins)) => {
                return Ok((Raised::Programs(Box::new(guard), pins), String::new()));
            }
            Err(error @ (Error::KeeperBusy { .. } | Error::PinLayout { .. })) => {
                return Err(Failure::Failed(error.to_string()));
            }
            Err(error) => causes.push(error.to_string()),
        }
    }
    refuse_what_is_left(&causes.join("; "))?;
    if config.best != Means::Nothing {
        match nftables(port) {
            Ok(nftables) => {
                causes.push(DEGRADED.to_owned());
                return Ok((Raised::Nftables(nftables), causes.join("; ")));
            }
            Err(error) => causes.push(error.to_string()),
        }
    }
    causes.push(LOST.to_owned());
    Ok((Raised::Nothing, causes.join("; ")))
}

/// Who does not write the words of programs that stand here must not run beside them.
///
/// # Errors
/// When there are some: PostgreSQL's port would be shut for good.
pub(crate) fn refuse_what_is_left(cause: &str) -> Result<(), Failure> {
    let Some(pin) = pinned_fence(Path::new(BPFFS), PIN_BASE) else { return Ok(()) };
    let cause = if cause.is_empty() { String::new() } else { format!(" ({cause})") };
    Err(Failure::Failed(format!(
        "a fence of the kernel's programs stands around PostgreSQL ({}), and with this \
         configuration nobody would open it{cause}: let [fence] have them, or remove {BPFFS}/{}, \
         which detaches them",
        pin.display(),
        PIN_BASE
    )))
}

fn programs(options: Options) -> Result<(Guard, Pins), Error> {
    let pins = Pins::open(Path::new(BPFFS), PIN_BASE)?;
    let guard = Guard::raise(&Objects::embedded(), pins.clone(), options)?;
    Ok((guard, pins))
}

fn nftables(port: u16) -> Result<Nftables, Error> {
    let fence = Nftables::raise(port)?;
    match fence.try_out()? {
        Trial::Missed => {
            let source = std::io::Error::other("a packet passed that was to end in the rules");
            Err(Error::Nftables { source })
        }
        Trial::Seen | Trial::Untried(_) => Ok(fence),
    }
}

/// Keeps the fence up until the process ends.
fn keep_up(mut guard: Guard, found: Arc<Mutex<Found>>) -> Result<(), Failure> {
    note(&found, &guard);
    let run = move || {
        let rehearsals = rehearse(&Objects::embedded());
        for Rehearsal { hook, result } in &rehearsals {
            match result {
                Ok(()) => info!(%hook, "the fence works in this hook on this kernel"),
                Err(error) => warn!(%hook, %error, "the fence does not work in this hook here"),
            }
        }
        lock(&found).rehearsals = rehearsals;
        let mut told = String::new();
        loop {
            let tended = guard.wait(FENCE_TRIAL).and_then(|_| guard.tend());
            match tended {
                Ok(changes) => {
                    note(&found, &guard);
                    tell(changes);
                    told.clear();
                }
                Err(error) => {
                    lock(&found).is_known = false;
                    let error = error.to_string();
                    if error != told {
                        error!(error, "the fence cannot be kept up; it stands where it stood");
                        told = error;
                    }
                    // What fails at once must not spin.
                    thread::sleep(FENCE_TRIAL);
                }
            }
        }
    };
    let thread = thread::Builder::new().name("pgx-fence".to_owned()).spawn(run);
    thread.map(drop).map_err(|error| Failure::Failed(format!("cannot start a thread: {error}")))
}

fn note(found: &Mutex<Found>, guard: &Guard) {
    let mut found = lock(found);
    found.places = guard.places().cloned().collect();
    found.is_known = true;
}

fn tell(changes: impl IntoIterator<Item = Change>) {
    for change in changes {
        match change {
            Change::Stands(place) if place.is_guarded() => info!("the fence stands at {place}"),
            Change::Stands(place) => error!("THE FENCE DOES NOT STAND at {place}"),
            Change::Gone(at) => info!("{at} is gone, and the fence there with it"),
        }
    }
}
