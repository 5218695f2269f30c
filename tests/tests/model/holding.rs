//! Who holds an epoch: the real `lease::Holder`, the thread that drives it, and the kernel's gate.
//!
//! The gate is what counts: it is open while `now < until` by the holder's clock, for an epoch above
//! the closed one. The thread may write a deadline long after it has worked it out; what it writes
//! only moves forward. The gate outlives the process, not the host.

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
