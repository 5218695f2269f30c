//! Sequences of faults, drawn from a seed. Pure: a seed goes in, a list of steps comes out.

use std::fmt;
use std::time::Duration;

use crate::checker::Rng;

/// How many steps a sequence has at most.
const STEPS_MAX: usize = 3;
/// A fault lasts from here …
const HOLD_MS_MIN: usize = 200;
/// … to here: beyond what a failover takes.
const HOLD_MS_MAX: usize = 6_000;

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// SIGKILL for the postmaster.
    KillPostmaster,
    /// SIGKILL for a backend.
    KillBackend,
    /// SIGKILL for pgx.
    KillPgx,
    /// SIGSTOP for the postmaster: sessions go on, new ones hang.
    PausePostmaster,
    /// SIGSTOP for all of PostgreSQL.
    PausePostgres,
    /// SIGSTOP for all backends.
    PauseBackends,
    /// SIGSTOP for pgx.
    PausePgx,
    /// All processes freeze; the host's kernel still answers.
    Freeze,
    /// All processes freeze, and the link is down.
    Stop,
    /// All processes are gone, and the link is down.
    PowerOff,
    /// Nothing passes the cable.
    Cut,
    /// Nothing reaches the host.
    CutInbound,
    /// Nothing that the host sends arrives.
    CutOutbound,
    /// The other data hosts do not hear the host, nor it them; clients do.
    Isolate,
    /// One of the other data hosts and the host do not hear each other.
    Part,
    /// Three of ten frames get lost, each way.
    Loss,
    /// Frames arrive later.
    Delay,
    /// The disk is full.
    FillDisk,
    /// An operator changes the primary.
    Switchover,
    /// Somebody who does not know of pgx promotes a standby.
    PromoteByHand,
    /// A standby's data directory is gone.
    Wipe,
}

/// To whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// The host of the primary.
    Primary,
    /// A host with a standby.
    Standby,
    /// The host of who leads the quorum.
    Coordinator,
    /// The host that is a proxy only.
    Proxy,
}

/// When a step begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// While what was done before lasts.
    During,
    /// When that is healed, with whatever follows from it.
    After,
    /// When all is calm again.
    Calm,
}

/// One thing that is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// When.
    pub start: Start,
    /// What.
    pub kind: Kind,
    /// To whom.
    pub role: Role,
    /// Where two hosts are left to choose from: which.
    pub pick: usize,
    /// How long it lasts before it is healed.
    pub hold: Duration,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 21] = [
        Self::KillPostmaster,
        Self::KillBackend,
        Self::KillPgx,
        Self::PausePostmaster,
        Self::PausePostgres,
        Self::PauseBackends,
        Self::PausePgx,
        Self::Freeze,
        Self::Stop,
        Self::PowerOff,
        Self::Cut,
        Self::CutInbound,
        Self::CutOutbound,
        Self::Isolate,
        Self::Part,
        Self::Loss,
        Self::Delay,
        Self::FillDisk,
        Self::Switchover,
        Self::PromoteByHand,
        Self::Wipe,
    ];

    /// In words, with hyphens.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::KillPostmaster => "kill-postmaster",
            Self::KillBackend => "kill-backend",
            Self::KillPgx => "kill-pgx",
            Self::PausePostmaster => "pause-postmaster",
            Self::PausePostgres => "pause-postgres",
            Self::PauseBackends => "pause-backends",
            Self::PausePgx => "pause-pgx",
            Self::Freeze => "freeze",
            Self::Stop => "stop",
            Self::PowerOff => "power-off",
            Self::Cut => "cut",
            Self::CutInbound => "cut-inbound",
            Self::CutOutbound => "cut-outbound",
            Self::Isolate => "isolate",
            Self::Part => "part",
            Self::Loss => "loss",
            Self::Delay => "delay",
            Self::FillDisk => "fill-disk",
            Self::Switchover => "switchover",
            Self::PromoteByHand => "promote-by-hand",
            Self::Wipe => "wipe",
        }
    }

    /// To whom it can be done.
    fn roles(self) -> &'static [Role] {
        use Role::{Coordinator, Primary, Proxy, Standby};
        match self {
            Self::KillBackend | Self::PauseBackends | Self::Switchover => &[Primary],
            Self::PromoteByHand | Self::Wipe => &[Standby],
            Self::KillPgx
            | Self::PausePgx
            | Self::Freeze
            | Self::Stop
            | Self::PowerOff
            | Self::Cut
            | Self::CutInbound
            | Self::CutOutbound
            | Self::Loss
            | Self::Delay => &[Primary, Primary, Coordinator, Standby, Proxy],
            Self::KillPostmaster
            | Self::PausePostmaster
            | Self::PausePostgres
            | Self::Isolate
            | Self::Part
            | Self::FillDisk => &[Primary, Primary, Coordinator, Standby],
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Primary => "primary",
            Self::Standby => "standby",
            Self::Coordinator => "coordinator",
            Self::Proxy => "proxy",
        })
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let start = match self.start {
            Start::During => "during that ",
            Start::After => "",
            Start::Calm => "calm, ",
        };
        let ms = self.hold.as_millis();
        write!(f, "{start}{} {} for {ms} ms", self.kind.name(), self.role)
    }
}

/// The sequence of a seed.
#[must_use]
pub fn draw(seed: u64) -> Vec<Step> {
    let mut random = Rng::new(seed);
    let count = 1 + random.below(STEPS_MAX);
    let step = |at: usize| {
        // Kinds take turns over the seeds, so that few seeds have all of them.
        let kind = match at {
            0 => Kind::ALL[usize::try_from(seed % Kind::ALL.len() as u64).unwrap_or(0)],
            _ => Kind::ALL[random.below(Kind::ALL.len())],
        };
        let roles = kind.roles();
        let start = [Start::During, Start::After, Start::Calm][random.below(3)];
        let hold = HOLD_MS_MIN + random.below(HOLD_MS_MAX - HOLD_MS_MIN);
        Step {
            start: if at == 0 { Start::Calm } else { start },
            kind,
            role: roles[random.below(roles.len())],
            pick: random.below(2),
            hold: Duration::from_millis(hold as u64),
        }
    };
    (0..count).map(step).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seed_gives_the_same_sequence_again_and_few_seeds_have_every_kind() {
        assert_eq!(draw(7), draw(7));
        let first: std::collections::BTreeSet<_> = (0..21).map(|seed| draw(seed)[0].kind).collect();
        assert_eq!(first.len(), Kind::ALL.len());
        assert!((0..50).all(|seed| (1..=STEPS_MAX).contains(&draw(seed).len())));
    }
}
