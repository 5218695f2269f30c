//! How far a run of the model goes, and which defect is planted in it.
//!
//! One tick is the time in which the slowest clock goes by half the lease. With a margin of zero a
//! promise then ends exactly where a lease may end, so the inequality of `lease::Settings` has no
//! slack in which a defect could hide.

use pgx_control::lease::Settings;

/// The lease of all runs, in ticks of the slowest clock.
const LEASE_TICKS: u64 = 2;

/// The settings that agree with the number of ticks given. Entry 0 is in force first.
pub(crate) fn settings(change: u8) -> Settings {
    // The first change lengthens the lease, the second one shortens it below the first settings:
    // either direction has its own way to go wrong.
    let ticks = match change {
        0 => LEASE_TICKS,
        1 => LEASE_TICKS + 1,
        _ => LEASE_TICKS - 1,
    };
    let defaults = Settings::default();
    let lease_ms = defaults.lease_ms / LEASE_TICKS * ticks;
    let settings = Settings { lease_ms, renewal_ms: lease_ms / 3, margin_ms: 0, ..defaults };
    settings.check().expect("the quorum must take these settings");
    settings
}

/// How far the slowest clock goes in a tick.
pub(crate) fn slow_ms() -> u16 {
    u16::try_from(settings(0).lease_ms / LEASE_TICKS).expect("leases are some seconds long")
}

/// How far the fastest clock goes in a tick: faster than the slowest by the whole drift.
pub(crate) fn fast_ms() -> u16 {
    let fast = u64::from(slow_ms()) * (100 + settings(0).drift_percent) / 100;
    u16::try_from(fast).expect("leases are some seconds long")
}

/// How the clocks go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Clocks {
    /// Those of voters as fast as the drift allows, those of candidates as slowly: the worst case.
    Worst,
    /// Each at one of the two rates from beginning to end, in any combination.
    Steady,
    /// Each at one of the two rates, chosen anew at each tick.
    Free,
}

/// What a driver, or the code under test, does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bug {
    /// Nothing.
    None,
    /// The lease is counted from when a promise came, not from when it was asked for.
    DeadlineFromReceipt,
    /// A voter that starts is not quiet at all.
    NoQuietTime,
    /// A voter that starts promises at once, but states nothing before its quiet time is over.
    PromisesAtOnce,
    /// A voter that starts states releases at once, but promises nothing in its quiet time.
    StatesAtOnce,
    /// A voter that starts has lost its refusals.
    ForgetsRefusals,
    /// A voter promises by its own settings whatever the holder goes by.
    MixedSettings,
    /// The kernel knows no closed epoch: closing only takes the deadline back.
    NoClosedEpoch,
    /// Two voters join in one change, and a release need not be known to the voters before it.
    TwoVotersAtOnce,
    /// A node says that it counts in the newest membership that it knows, whatever it still holds.
    CountsAtOnce,
    /// A voter refuses and states before its promises have run out.
    StatesBeforePromisesEnd,
    /// A voter states while the refusal is still on its way to the disk.
    StatesBeforeDurable,
    /// A holder takes promises that an earlier life of its own asked for.
    AnyLife,
    /// A voter answers by a reading of its clock from before the request came.
    StaleClock,
}

/// How far a run goes. Within it every order of every step is tried.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Ticks after which nothing more happens.
    pub(crate) ticks: u8,
    /// Epochs that the quorum may agree on, the first one included.
    pub(crate) epochs: u8,
    /// How often the holder of each epoch may ask; each request goes to all voters, any number of
    /// times, at any later moment.
    pub(crate) asks: [u8; 3],
    /// Restarts of voters, in sum.
    pub(crate) voter_restarts: u8,
    /// Restarts of the process that holds, in sum; its gate stays.
    pub(crate) holder_restarts: u8,
    /// Reboots of the host that holds, in sum; its clock begins anew and its gate is gone.
    pub(crate) holder_reboots: u8,
    /// Whether a holder may close by itself.
    pub(crate) may_close: bool,
    /// Whether a deadline reaches the kernel by a step of its own, at any later moment.
    pub(crate) is_thread_late: bool,
    /// Changes of the settings.
    pub(crate) settings: u8,
    /// Changes of the membership.
    pub(crate) memberships: u8,
    /// Whether a voter that starts has to apply the log anew from its beginning.
    pub(crate) forgets_log: bool,
    /// Whether steps that may as well happen at once do.
    pub(crate) is_reduced: bool,
    /// How the clocks go.
    pub(crate) clocks: Clocks,
    /// What is wrong.
    pub(crate) bug: Bug,
}

impl Bounds {
    /// A hand-over by seal, with one request per holder and no faults but those of the network.
    pub(crate) const fn plain(ticks: u8) -> Self {
        Self {
            ticks,
            epochs: 2,
            asks: [1, 1, 0],
            voter_restarts: 0,
            holder_restarts: 0,
            holder_reboots: 0,
            may_close: false,
            is_thread_late: false,
            settings: 0,
            memberships: 0,
            forgets_log: false,
            is_reduced: true,
            clocks: Clocks::Worst,
            bug: Bug::None,
        }
    }

    /// The voters that a run begins with; those that join later run from the beginning too.
    pub(crate) fn voters_at_first(&self) -> u8 {
        3
    }

    /// All voters that ever count.
    pub(crate) fn voters_ever(&self) -> u8 {
        let per_change = if self.bug == Bug::TwoVotersAtOnce { 2 } else { 1 };
        self.voters_at_first() + self.memberships * per_change
    }

    /// Whether the log only ever hands the epoch on, and processes that hold keep what they know.
    pub(crate) fn has_calm_log(&self) -> bool {
        self.settings == 0
            && self.memberships == 0
            && self.holder_restarts == 0
            && self.holder_reboots == 0
    }

    /// Whether steps that may as well happen at once do.
    pub(crate) fn is_eager(&self) -> bool {
        self.is_reduced
    }

    /// Whether a promise that the holder has heard, or a better one of the same voter, can never
    /// again tell it anything: it forgets none, and what counts for it stays what it was.
    pub(crate) fn keeps_promises(&self) -> bool {
        self.has_calm_log() && self.bug == Bug::None
    }
}
