//! `cargo xtask lab fault`: the faults as people type them.

use clap::{Subcommand, ValueEnum};
use pgx_tests::lab::{Direction, Fault, KillTarget, PauseTarget};

/// What is to go wrong.
#[derive(Subcommand)]
pub(crate) enum Verb {
    /// Kills a process at once
    Kill {
        /// Where
        host: String,
        /// Which process
        target: Kill,
    },
    /// Stops processes from running, without ending them
    Pause {
        /// Where
        host: String,
        /// Which processes
        target: Pause,
        /// All processes of PostgreSQL, not only the first
        #[arg(long)]
        tree: bool,
    },
    /// Freezes a host and takes its link down
    Stop {
        /// Which host
        host: String,
    },
    /// Takes a host's power away; healing boots it
    PowerOff {
        /// Which host
        host: String,
    },
    /// Cuts a host off, both ways if none is given
    Cut {
        /// Which host
        host: String,
        /// Only what goes to the host
        #[arg(long)]
        inbound: bool,
        /// Only what comes from the host
        #[arg(long, conflicts_with = "inbound")]
        outbound: bool,
    },
    /// Cuts two hosts from each other
    Part {
        /// One of them
        a: String,
        /// The other
        b: String,
    },
    /// Loses frames, in each direction
    Loss {
        /// Which host
        host: String,
        /// How many of a hundred
        percent: u8,
    },
    /// Makes frames arrive later, in each direction
    Delay {
        /// Which host
        host: String,
        /// By how many milliseconds
        ms: u32,
        /// By how many milliseconds at most that varies
        #[arg(long, default_value_t = 0)]
        jitter: u32,
    },
    /// Fills a data host's disk to the last block
    FillDisk {
        /// Which host
        host: String,
    },
    /// Makes each fsync of a host's PostgreSQL take longer
    SlowFsync {
        /// Which host
        host: String,
        /// By how many milliseconds
        ms: u32,
    },
}

/// What can be killed.
#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Kill {
    /// PostgreSQL's first process
    Postmaster,
    /// The oldest backend that serves a client
    Backend,
    /// The proxy
    Pgx,
}

/// What can be paused.
#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Pause {
    /// PostgreSQL's first process
    Postgres,
    /// The backends that serve clients
    Backend,
    /// The proxy
    Pgx,
    /// Everything in the host
    All,
}

impl Verb {
    /// The fault that was typed.
    pub(crate) fn into_fault(self) -> Fault {
        match self {
            Self::Kill { host, target } => Fault::Kill { host, target: target.into() },
            Self::Pause { host, target, tree } => {
                let target = match target {
                    Pause::Postgres if tree => PauseTarget::Postgres,
                    Pause::Postgres => PauseTarget::Postmaster,
                    Pause::Backend => PauseTarget::Backend,
                    Pause::Pgx => PauseTarget::Pgx,
                    Pause::All => PauseTarget::All,
                };
                Fault::Pause { host, target }
            }
            Self::Stop { host } => Fault::Stop { host },
            Self::PowerOff { host } => Fault::PowerOff { host },
            Self::Cut { host, inbound, outbound } => {
                let direction = match (inbound, outbound) {
                    (true, _) => Direction::Inbound,
                    (_, true) => Direction::Outbound,
                    _ => Direction::Both,
                };
                Fault::Cut { host, direction }
            }
            Self::Part { a, b } => Fault::Part { a, b },
            Self::Loss { host, percent } => Fault::Loss { host, percent },
            Self::Delay { host, ms, jitter } => Fault::Delay { host, ms, jitter_ms: jitter },
            Self::FillDisk { host } => Fault::FillDisk { host },
            Self::SlowFsync { host, ms } => Fault::SlowFsync { host, ms },
        }
    }
}

impl From<Kill> for KillTarget {
    fn from(target: Kill) -> Self {
        match target {
            Kill::Postmaster => Self::Postmaster,
            Kill::Backend => Self::Backend,
            Kill::Pgx => Self::Pgx,
        }
    }
}
