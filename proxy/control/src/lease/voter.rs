//! The side that grants leases: promises, lets promises run out, refuses for ever.
//!
//! What a voter may promise follows from the cluster's state as far as this voter has applied it.
//! Promises are not durable: a voter that starts stays quiet until none of an earlier life can be
//! outstanding. Refusals are durable before anybody hears of them.

use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use core::fmt;

use serde::{Deserialize, Serialize};

use super::{Ask, Kind, Right, Settings};
use crate::cluster::State;
use crate::ids::{BootTime, Epoch, NodeId};

/// A voter's word to a holder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promise {
    /// Who promises.
    pub voter: NodeId,
    /// What was asked for.
    pub right: Right,
    /// The holder's own clock from the request.
    pub asked_at: BootTime,
    /// The settings by which the voter waits.
    pub settings: Settings,
    /// The newest membership that this voter knows, so that the holder learns of changes.
    pub membership_version: u64,
    /// The holder's life from the request.
    pub life: u64,
}

/// Why a voter does not promise. None of them is an error of the network; all but
/// [`Refusal::Refused`] may pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Refusal {
    /// The voter has just started and does not know what it promised before.
    Quiet,
    /// The holder goes by other settings.
    Settings {
        /// What the quorum has agreed on, as far as this voter knows.
        expected: Settings,
    },
    /// This right, or a later one of its kind, has been refused for ever.
    Refused {
        /// The highest number that is refused.
        number: u64,
    },
    /// The quorum is about to give this right to somebody else.
    Sealed,
    /// The holder has not heard of the newest epoch.
    Epoch {
        /// The newest one that this voter knows.
        newest: Epoch,
    },
    /// This voter does not know that the asker has the right: one of the two is behind.
    NotTheHolder,
}

impl fmt::Display for Refusal {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Quiet => write!(out, "the voter has just started and waits out old promises"),
            Self::Settings { expected } => {
                write!(out, "other lease settings are in force: {expected:?}")
            }
            Self::Refused { number } => write!(out, "rights up to {number} are refused for ever"),
            Self::Sealed => write!(out, "the epoch is sealed for a failover"),
            Self::Epoch { newest } => write!(out, "the newest epoch is {}", newest.0),
            Self::NotTheHolder => write!(out, "the voter knows of no such right"),
        }
    }
}

/// The highest refused number of each kind; kept on disk by the driver.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusals(BTreeMap<Kind, u64>);

impl Refusals {
    /// The highest number of this kind that is refused for ever.
    #[must_use]
    pub fn get(&self, kind: Kind) -> Option<u64> {
        self.0.get(&kind).copied()
    }

    fn covers(&self, kind: Kind, number: u64) -> bool {
        self.get(kind).is_some_and(|refused| number <= refused)
    }

    fn raise(&mut self, kind: Kind, number: u64) {
        let refused = self.0.entry(kind).or_insert(number);
        *refused = (*refused).max(number);
    }
}

/// What the driver has to do, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Write these refusals and fsync; then call [`Voter::handle_persisted`] with the same value.
    Persist(Refusals),
    /// Propose to the quorum that this voter has released the kind up to this number.
    StateReleased {
        /// The kind.
        kind: Kind,
        /// The highest number that is released.
        number: u64,
    },
}

/// One voter.
#[derive(Clone, Debug)]
pub struct Voter {
    me: NodeId,
    /// What is on disk.
    refusals: Refusals,
    /// What was asked to be written and is not confirmed.
    writing: Option<Refusals>,
    /// Until when each promise is outstanding, by our clock.
    promises: BTreeMap<(Kind, u64), BootTime>,
    /// What is to be refused as soon as promises have run out.
    wanted: BTreeMap<Kind, u64>,
    /// What has been stated in this life; a statement may be lost on the way and is then repeated.
    stated: BTreeSet<(Kind, u64)>,
    quiet_until: BootTime,
    actions: VecDeque<Action>,
}

impl Voter {
    /// A voter that starts now, with the refusals of its earlier lives. `longest_promise_ms` is the
    /// longest promise that any settings agreed on so far allow
    /// ([`State::longest_promise_ms`](crate::cluster::State::longest_promise_ms)).
    #[must_use]
    pub fn new(me: NodeId, refusals: Refusals, longest_promise_ms: u64, now: BootTime) -> Self {
        Self {
            me,
            refusals,
            writing: None,
            promises: BTreeMap::new(),
            wanted: BTreeMap::new(),
            stated: BTreeSet::new(),
            quiet_until: now.after_ms(longest_promise_ms),
            actions: VecDeque::new(),
        }
    }

    /// Answers a holder.
    ///
    /// # Errors
    /// Why there is no promise.
    pub fn handle_ask(
        &mut self,
        ask: &Ask,
        state: &State,
        now: BootTime,
    ) -> Result<Promise, Refusal> {
        let Right { kind, number, .. } = ask.right;
        if now < self.quiet_until {
            return Err(Refusal::Quiet);
        }
        if let Some(refused) = self.highest_refused(kind).filter(|refused| number <= *refused) {
            return Err(Refusal::Refused { number: refused });
        }
        let expected = state.settings();
        if ask.settings != expected {
            return Err(Refusal::Settings { expected });
        }
        state.permits(&ask.right, ask.epoch)?;
        self.forget_expired(now);
        let until = now.after_ms(expected.promise_ms());
        let promised = self.promises.entry((kind, number)).or_insert(until);
        *promised = (*promised).max(until);
        Ok(Promise {
            voter: self.me,
            right: ask.right,
            asked_at: ask.asked_at,
            settings: expected,
            membership_version: state.membership().version,
            life: ask.life,
        })
    }

    /// The holder has closed its gate for good and says so: there is nothing to wait for, and
    /// nothing more is promised for this right. Who wants to hold it again needs a new number. The
    /// driver has checked that the message comes from the holder itself.
    pub fn handle_closed(&mut self, right: &Right, now: BootTime) {
        self.promises.remove(&(right.kind, right.number));
        self.handle_wanted(right.kind, right.number, now);
    }

    /// The quorum wants rights of this kind up to `number` to be released: nothing more is promised
    /// for them, and a statement follows when what was promised has run out. Repeated calls repeat
    /// the statement, since it may have been lost.
    pub fn handle_wanted(&mut self, kind: Kind, number: u64, now: BootTime) {
        let wanted = self.wanted.entry(kind).or_insert(number);
        *wanted = (*wanted).max(number);
        self.stated.remove(&(kind, number));
        self.handle_timeout(now);
    }

    /// The driver has written these refusals durably.
    pub fn handle_persisted(&mut self, written: &Refusals, now: BootTime) {
        for (kind, number) in &written.0 {
            self.refusals.raise(*kind, *number);
        }
        if self.writing.as_ref() == Some(written) {
            self.writing = None;
        }
        self.handle_timeout(now);
    }

    /// Looks at what has run out by now.
    pub fn handle_timeout(&mut self, now: BootTime) {
        self.forget_expired(now);
        if now < self.quiet_until {
            return;
        }
        let mut wanted_on_disk = self.refusals.clone();
        for (kind, number) in self.wanted.clone() {
            if self.is_outstanding(kind, number) {
                continue;
            }
            if !self.refusals.covers(kind, number) {
                wanted_on_disk.raise(kind, number);
            } else if self.stated.insert((kind, number)) {
                self.actions.push_back(Action::StateReleased { kind, number });
            }
        }
        self.stated.retain(|(kind, number)| self.wanted.get(kind) == Some(number));
        if wanted_on_disk != self.refusals && self.writing.is_none() {
            self.writing = Some(wanted_on_disk.clone());
            self.actions.push_back(Action::Persist(wanted_on_disk));
        }
    }

    /// When [`Voter::handle_timeout`] has something to do.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<BootTime> {
        let unstated = self.wanted.iter().filter(|(kind, number)| {
            let is_stated = self.stated.contains(&(**kind, **number));
            // While a write is on its way there is nothing to do but wait for it.
            !is_stated && (self.writing.is_none() || self.is_outstanding(**kind, **number))
        });
        let due = unstated.map(|(kind, number)| {
            let outstanding = self.promises.range((*kind, 0)..=(*kind, *number));
            let last = outstanding.map(|(_, until)| *until).max();
            last.map_or(self.quiet_until, |until| until.max(self.quiet_until))
        });
        due.min()
    }

    /// The next thing to do, in order.
    pub fn next_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// What is refused now, be it on disk, on its way there, or waiting for promises to run out.
    fn highest_refused(&self, kind: Kind) -> Option<u64> {
        self.refusals.get(kind).max(self.wanted.get(&kind).copied())
    }

    fn is_outstanding(&self, kind: Kind, number: u64) -> bool {
        self.promises.range((kind, 0)..=(kind, number)).next().is_some()
    }

    fn forget_expired(&mut self, now: BootTime) {
        self.promises.retain(|_, until| now < *until);
    }
}

#[cfg(test)]
#[path = "voter_tests.rs"]
mod tests;
