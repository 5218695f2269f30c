//! Who holds an epoch: the real `lease::Holder`, the thread that drives it, and the kernel's gate.
//!
//! The gate is what counts: it is open while `now < until` by the holder's clock, for an epoch
//! above the closed one. The thread may write a deadline long after it has worked it out; what it
//! writes only moves forward. The gate outlives the process, not the host.

use pgx_control::cluster::State;
use pgx_control::ids::{BootTime, Epoch};
use pgx_control::lease::{Ask, Holder, Promise};

use crate::bounds::Bug;
use crate::kept::{Kept, Steps};
use crate::quorum::right;
use crate::voting::moment;

/// A node that may become primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Candidate {
    /// How much of the log it has applied.
    pub(crate) applied: u8,
    /// The epoch after the newest one that is closed in its kernel for good.
    pub(crate) closed: u8,
    /// Until when it holds anything by promises of the voters of each membership, by its clock. The
    /// first entry is for what an earlier life held, by whose promises nobody knows.
    pub(crate) held: [u16; MEMBERSHIPS],
}

/// Versions of memberships that there are within all bounds, and one for earlier lives.
pub(crate) const MEMBERSHIPS: usize = 3;

impl Candidate {
    /// A candidate that has been up for long and holds nothing.
    pub(crate) const FIRST: Self = Self { applied: 0, closed: 0, held: [0; MEMBERSHIPS] };

    /// It may hold something until then, by this membership.
    pub(crate) fn hold(&mut self, version: u64, until: u16) {
        let version = usize::try_from(version).expect("runs have few memberships");
        self.held[version] = self.held[version].max(until);
    }

    /// Its process starts anew; what an earlier life held the kernel may hold for so long.
    pub(crate) fn start_anew(&mut self, until: u16) {
        self.held = [0; MEMBERSHIPS];
        self.held[0] = until;
    }

    /// The membership in which it counts: the oldest by which it still holds anything, which is
    /// what `lease::Station` says.
    pub(crate) fn counts_in(&self, newest: u64, now: u16) -> u64 {
        let oldest = (0..).zip(self.held).find(|(_, until)| now < *until);
        oldest.map_or(newest, |(version, _)| newest.min(version))
    }
}

/// What the candidate of one epoch does to hold it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Tenancy {
    /// Its `Holder`, once it knows of the epoch.
    pub(crate) holder: Option<u32>,
    /// How often it has asked, over all lives.
    pub(crate) asked: u8,
    /// A deadline that a thread has worked out and not written yet; zero for none.
    pub(crate) pending: u16,
    /// The deadline in the kernel.
    pub(crate) until: u16,
}

/// What a holder is given.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Input {
    /// Time has passed.
    Timeout { epoch: u8, now: u16 },
    /// A promise, and the clock, which only a planted driver looks at.
    Promise { promise: u32, now: u16 },
    /// The node has applied this state.
    State(u32),
    /// The gate is closed.
    Close,
}

/// What came out.
#[derive(Clone, Copy, Default)]
pub(crate) struct Output {
    /// The request to send.
    pub(crate) ask: Option<u32>,
    /// Until when the holder may act, in milliseconds of its clock; zero when it may not.
    pub(crate) deadline: u16,
}

/// All holders there ever were, and what they said.
#[derive(Default)]
pub(crate) struct Holders {
    steps: Steps<Holder, Input, Output>,
    /// Requests.
    pub(crate) asks: Kept<Ask>,
    /// Promises.
    pub(crate) promises: Kept<Promise>,
}

impl Holders {
    /// A process that starts to hold this epoch, by the state that it has applied.
    pub(crate) fn start(&mut self, epoch: u8, state: &State, life: u8, now: u16) -> u32 {
        let membership = state.membership().clone();
        let holder =
            Holder::new(right(epoch), state.settings(), membership, life.into(), moment(now));
        self.steps.number(holder)
    }

    /// A request, if one is due.
    pub(crate) fn ask(&mut self, holder: u32, epoch: u8, now: u16) -> Option<(u32, u32)> {
        let asks = &mut self.asks;
        let input = Input::Timeout { epoch, now };
        let (next, output) = self.steps.step(holder, input, |holder| {
            let ask = holder.handle_timeout(Epoch(epoch.into()), moment(now));
            Output { ask: ask.map(|ask| asks.number(ask)), ..Output::default() }
        });
        output.ask.map(|ask| (next, ask))
    }

    /// What a promise makes of the holder, and its deadline then.
    pub(crate) fn promise(&mut self, holder: u32, promise: u32, now: u16, bug: Bug) -> (u32, u16) {
        let is_late = bug == Bug::DeadlineFromReceipt;
        let input = Input::Promise { promise, now: if is_late { now } else { 0 } };
        let promises = &self.promises;
        let (next, output) = self.steps.step(holder, input, |holder| {
            let mut given = *promises.get(promise);
            if is_late {
                given.asked_at = moment(now);
            }
            if bug == Bug::AnyLife {
                given.life = life_of(holder);
            }
            holder.handle_promise(&given);
            Output { ask: None, deadline: deadline(holder) }
        });
        (next, output.deadline)
    }

    /// The holder goes by this state from now on. The driver has made it durable before.
    pub(crate) fn follow(&mut self, holder: u32, number: u32, state: &State) -> u32 {
        let follow = |holder: &mut Holder| {
            holder.handle_settings(state.settings());
            holder.handle_membership(state.membership());
            Output::default()
        };
        self.steps.step(holder, Input::State(number), follow).0
    }

    /// The membership by which the holder counts.
    pub(crate) fn counts_in(&self, holder: u32) -> u64 {
        self.steps.get(holder).counts_in()
    }

    /// The holder gives up; its gate is closed already.
    pub(crate) fn close(&mut self, holder: u32) -> u32 {
        let close = |holder: &mut Holder| {
            holder.close();
            Output::default()
        };
        self.steps.step(holder, Input::Close, close).0
    }
}

/// The deadline in milliseconds: those of the model are whole ones.
fn deadline(holder: &Holder) -> u16 {
    let nanoseconds = holder.deadline().map_or(0, |deadline| deadline.0);
    u16::try_from(nanoseconds / 1_000_000).expect("runs last some seconds")
}

/// The life that the holder's next request would name.
fn life_of(holder: &Holder) -> u64 {
    let ask = holder.clone().handle_timeout(Epoch(0), BootTime(u64::MAX));
    ask.map_or(0, |ask| ask.life)
}
