//! Faults: what can go wrong in a lab on purpose, each with its undo.
//!
//! A fault is written down before it takes effect, so that whatever is in force can be seen and
//! healed, also after the command that caused it died half way. How each is made: `packets`,
//! `delay`, `process` and `storage`.

mod delay;
mod packets;
mod process;
mod storage;

use std::fmt;

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};

use super::Lab;
use super::procs::ProcId;
use super::spec::{Kind, SWITCH};

/// A fault, with the hosts it concerns.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Fault {
    /// SIGKILL for a process; healing starts it again.
    Kill {
        /// Where.
        host: String,
        /// Which process.
        target: KillTarget,
    },
    /// SIGSTOP for processes; healing lets them go on.
    Pause {
        /// Where.
        host: String,
        /// Which processes.
        target: PauseTarget,
    },
    /// The whole host freezes and its link goes down.
    Stop {
        /// Which host.
        host: String,
    },
    /// The host loses its power: every process is gone and its link is down. Healing boots it,
    /// with PostgreSQL and pgx.
    PowerOff {
        /// Which host.
        host: String,
    },
    /// Nothing passes the host's cable.
    Cut {
        /// Which host.
        host: String,
        /// Which way.
        direction: Direction,
    },
    /// Two hosts do not reach each other; both reach all others.
    Part {
        /// One of them.
        a: String,
        /// The other.
        b: String,
    },
    /// Frames to and from the host get lost.
    Loss {
        /// Which host.
        host: String,
        /// How many of a hundred, in each direction.
        percent: u8,
    },
    /// Frames to and from the host arrive later.
    Delay {
        /// Which host.
        host: String,
        /// By how much, in each direction.
        ms: u32,
        /// By how much at most that varies.
        jitter_ms: u32,
    },
    /// No byte is free on the host's disk.
    FillDisk {
        /// Which host.
        host: String,
    },
    /// Each fsync and fdatasync of the host's PostgreSQL takes longer.
    SlowFsync {
        /// Which host.
        host: String,
        /// By how much.
        ms: u32,
    },
}

/// What can be killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KillTarget {
    /// PostgreSQL's first process; its children end by themselves.
    Postmaster,
    /// The oldest backend that serves a client; PostgreSQL restarts itself after that.
    Backend,
    /// The proxy.
    Pgx,
}

/// What can be paused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PauseTarget {
    /// The postmaster: sessions go on, new ones hang.
    Postmaster,
    /// All of PostgreSQL's processes.
    Postgres,
    /// The backends that serve clients.
    Backend,
    /// The proxy.
    Pgx,
    /// Everything in the host; unlike with `Stop`, its link stays up.
    All,
}

/// Which way a cut cable is cut, seen from the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    /// Nothing in, nothing out.
    Both,
    /// Nothing reaches the host; what it sends arrives.
    Inbound,
    /// Nothing that the host sends arrives; it receives.
    Outbound,
}

/// The number by which a fault is healed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct FaultId(pub u32);

impl fmt::Display for FaultId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A fault that is in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Active {
    /// Its number.
    pub id: FaultId,
    /// What it is.
    pub fault: Fault,
    /// The processes that got a signal; healing lets those go on that were paused.
    pub signalled: Vec<ProcId>,
}

impl Fault {
    /// Refuses what the lab cannot do, or what healing could not tell apart later.
    pub(super) fn check(&self, lab: &Lab, active: &[Active]) -> anyhow::Result<()> {
        for name in self.hosts() {
            if lab.host(name)?.plan().kind == Kind::Switch {
                bail!("{SWITCH} is the lab's network and has no faults; name one of its hosts");
            }
        }
        match self {
            Self::Part { a, b } if a == b => bail!("{a} cannot be parted from itself"),
            Self::Loss { percent, .. } if !(1..=100).contains(percent) => {
                bail!("{percent} % of all frames cannot be lost; give 1 to 100")
            }
            Self::Delay { ms, jitter_ms, .. } if jitter_ms > ms => {
                bail!("a jitter of {jitter_ms} ms exceeds the delay of {ms} ms")
            }
            Self::FillDisk { host } | Self::SlowFsync { host, .. }
                if lab.host(host)?.plan().kind != Kind::Data =>
            {
                bail!("{host} has no disk; only data hosts have")
            }
            Self::SlowFsync { .. } if lab.spec().shim.is_none() => bail!(
                "this lab came up without the library that slows fsync; bring it up again with it"
            ),
            _ => self.check_exclusive(active),
        }
    }

    fn check_exclusive(&self, active: &[Active]) -> anyhow::Result<()> {
        let Some(key) = self.exclusive() else { return Ok(()) };
        match active.iter().find(|other| other.fault.exclusive().as_ref() == Some(&key)) {
            Some(other) => {
                bail!("fault {} is in the way ({}); heal it first", other.id, other.fault)
            }
            None => Ok(()),
        }
    }

    /// What the fault needs for itself: two faults with the same could not be undone one by one.
    fn exclusive(&self) -> Option<String> {
        match self {
            Self::Stop { host }
            | Self::PowerOff { host }
            | Self::Pause { host, target: PauseTarget::All } => Some(format!("freezer {host}")),
            Self::Pause { host, target: PauseTarget::Pgx } => Some(format!("pgx {host}")),
            Self::Pause { host, .. } => Some(format!("postgres {host}")),
            Self::Delay { host, .. } => Some(format!("delay {host}")),
            Self::FillDisk { host } => Some(format!("disk {host}")),
            Self::SlowFsync { host, .. } => Some(format!("fsync {host}")),
            Self::Kill { .. } | Self::Cut { .. } | Self::Part { .. } | Self::Loss { .. } => None,
        }
    }

    fn hosts(&self) -> Vec<&str> {
        match self {
            Self::Part { a, b } => vec![a, b],
            Self::Kill { host, .. }
            | Self::Pause { host, .. }
            | Self::Stop { host }
            | Self::PowerOff { host }
            | Self::Cut { host, .. }
            | Self::Loss { host, .. }
            | Self::Delay { host, .. }
            | Self::FillDisk { host }
            | Self::SlowFsync { host, .. } => vec![host],
        }
    }

    /// Faults that heal by starting something come last: what they start needs the rest to work.
    pub(super) fn heals_last(&self) -> bool {
        matches!(self, Self::Kill { .. } | Self::PowerOff { .. })
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kill { host, target } => write!(f, "{host}: {target:?} killed"),
            Self::Pause { host, target } => write!(f, "{host}: {target:?} paused"),
            Self::Stop { host } => write!(f, "{host}: stopped, link down"),
            Self::PowerOff { host } => write!(f, "{host}: without power"),
            Self::Cut { host, direction } => write!(f, "{host}: cut off, {direction:?}"),
            Self::Part { a, b } => write!(f, "{a} and {b}: cut from each other"),
            Self::Loss { host, percent } => write!(f, "{host}: {percent} % of frames lost"),
            Self::Delay { host, ms, jitter_ms } => {
                write!(f, "{host}: {ms} ms later each way, jitter {jitter_ms} ms")
            }
            Self::FillDisk { host } => write!(f, "{host}: disk full"),
            Self::SlowFsync { host, ms } => write!(f, "{host}: fsync {ms} ms slower"),
        }
    }
}

/// Finds the processes that a fault will signal, before it is written down.
pub(super) fn prepare(lab: &Lab, fault: &Fault) -> anyhow::Result<Vec<ProcId>> {
    match fault {
        Fault::Kill { host, target } => Ok(vec![process::to_kill(lab.host(host)?, *target)?]),
        Fault::Pause { host, target } => process::to_pause(lab.host(host)?, *target),
        Fault::PowerOff { host } => Ok(process::all_but_init(lab.host(host)?)),
        _ => Ok(Vec::new()),
    }
}

/// Puts a fault into force.
pub(super) fn apply(lab: &Lab, active: &Active) -> anyhow::Result<()> {
    let apply = || match &active.fault {
        Fault::Kill { .. } => process::kill(&active.signalled),
        Fault::Pause { host, target } => {
            process::pause(lab.host(host)?, *target, &active.signalled)
        }
        Fault::Stop { host } => process::stop(lab, lab.host(host)?),
        Fault::PowerOff { host } => process::power_off(lab, lab.host(host)?),
        Fault::Delay { host, ms, jitter_ms } => delay::apply(lab, lab.host(host)?, *ms, *jitter_ms),
        Fault::FillDisk { host } => storage::fill(lab.host(host)?),
        Fault::SlowFsync { host, ms } => storage::slow_fsync(lab.host(host)?, *ms),
        Fault::Cut { .. } | Fault::Part { .. } | Fault::Loss { .. } => packets::apply(lab, active),
    };
    apply().with_context(|| format!("cannot make the fault \"{}\"", active.fault))
}

/// Takes a fault back; taking it back again changes nothing.
pub(super) fn undo(lab: &Lab, active: &Active) -> anyhow::Result<()> {
    let undo = || match &active.fault {
        Fault::Kill { host, target } => process::revive(lab, lab.host(host)?, *target),
        Fault::Pause { host, target } => {
            process::resume(lab.host(host)?, *target, &active.signalled)
        }
        Fault::Stop { host } => process::unstop(lab, lab.host(host)?),
        Fault::PowerOff { host } => process::boot(lab, lab.host(host)?),
        Fault::Delay { host, .. } => delay::undo(lab, lab.host(host)?),
        Fault::FillDisk { host } => storage::empty(lab.host(host)?),
        Fault::SlowFsync { host, .. } => storage::normal_fsync(lab.host(host)?),
        Fault::Cut { .. } | Fault::Part { .. } | Fault::Loss { .. } => packets::undo(lab, active),
    };
    undo().with_context(|| format!("cannot heal fault {} ({})", active.id, active.fault))
}
