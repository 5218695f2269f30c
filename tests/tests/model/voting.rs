//! One voter: the real `lease::Voter`, its disk, and the driver around both.
//!
//! The driver does what `lease::Station` does: it wants released what the applied state wants, and
//! writes what it is told to write. Timeouts are looked at in every tick. That leaves nothing out:
//! a late look would differ only in what was written or said later, and both may take any time.

use pgx_control::cluster::State;
use pgx_control::ids::BootTime;
use pgx_control::lease::{Action, Ask, Kind, Promise, Refusals, Voter};

use crate::bounds::{Bug, fast_ms};
use crate::kept::{Kept, Steps};
use crate::quorum::{right, voter};

/// A voter as far as it is not the same in all worlds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct VoterNode {
    /// Its `Voter`.
    pub(crate) voter: u32,
    /// How much of the log it has applied.
    pub(crate) applied: u8,
    /// The refusals that a next life will find.
    pub(crate) disk: u32,
    /// What is being written.
    pub(crate) writing: Option<u32>,
    /// The epoch after the newest one that it has said it has released; its word stays in the
    /// network for ever, to be heard at any moment or never.
    pub(crate) stated: u8,
    /// Until when a planted driver holds back what the planted voter no longer does.
    pub(crate) held_until: u16,
}

/// What a voter is given. Objects are given by their numbers, times in milliseconds of its clock.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Input {
    /// A request, and the state by which to answer.
    Ask { ask: u32, state: u32, now: u16 },
    /// This epoch is to be released.
    Wanted { epoch: u8, now: u16 },
    /// The holder has closed.
    Closed { epoch: u8, now: u16 },
    /// The disk has these refusals.
    Written { refusals: u32, now: u16 },
    /// Time has passed.
    Timeout { now: u16 },
}

/// What came out.
#[derive(Clone, Copy, Default)]
pub(crate) struct Output {
    promise: Option<u32>,
    persist: Option<u32>,
    stated: Option<u8>,
}

/// All voters there ever were, and what they did.
#[derive(Default)]
pub(crate) struct Voters {
    steps: Steps<Voter, Input, Output>,
    /// What is on disks or on the way there.
    pub(crate) refusals: Kept<Refusals>,
}

/// A moment of one clock.
pub(crate) fn moment(ms: u16) -> BootTime {
    BootTime(0).after_ms(ms.into())
}

impl Voters {
    /// A voter that starts at `now` with what its disk has.
    pub(crate) fn start(
        &mut self,
        place: u8,
        disk: u32,
        longest_promise_ms: u64,
        now: u16,
    ) -> VoterNode {
        let refusals = self.refusals.get(disk).clone();
        let voter = Voter::new(voter(place), refusals, longest_promise_ms, moment(now));
        let voter = self.steps.number(voter);
        VoterNode { voter, applied: 0, disk, writing: None, stated: 0, held_until: 0 }
    }

    /// An empty disk.
    pub(crate) fn empty_disk(&mut self) -> u32 {
        self.refusals.number(Refusals::default())
    }

    /// The voter starts anew: what was not on disk is gone.
    pub(crate) fn restart(
        &mut self,
        node: &VoterNode,
        place: u8,
        state: &State,
        now: u16,
        bug: Bug,
    ) -> VoterNode {
        let disk = if bug == Bug::ForgetsRefusals { self.empty_disk() } else { node.disk };
        let longest_ms = state.longest_promise_ms();
        let is_split = matches!(bug, Bug::PromisesAtOnce | Bug::StatesAtOnce);
        let quiet_ms = if is_split || bug == Bug::NoQuietTime { 0 } else { longest_ms };
        let end = now + u16::try_from(longest_ms).expect("promises are some seconds long");
        let fresh = self.start(place, disk, quiet_ms, now);
        let held_until = if is_split { end } else { 0 };
        VoterNode { applied: node.applied, stated: node.stated, held_until, ..fresh }
    }

    /// Answers a request: the number of the promise, if there is one.
    pub(crate) fn ask(
        &mut self,
        node: &mut VoterNode,
        ask: (u32, &Ask),
        state: (u32, &State),
        now: u16,
        (promises, bug): (&mut Kept<Promise>, Bug),
    ) -> Option<u32> {
        if bug == Bug::StatesAtOnce && now < node.held_until {
            return None;
        }
        let now = if bug == Bug::StaleClock { now - fast_ms() } else { now };
        let input = Input::Ask { ask: ask.0, state: state.0, now };
        let answer = |voter: &mut Voter| {
            let mut asked = *ask.1;
            if bug == Bug::MixedSettings {
                asked.settings = state.1.settings();
            }
            let promise = voter.handle_ask(&asked, state.1, moment(now)).ok();
            let promise = promise.map(|given| match bug {
                // What the planted voter took for its own goes back under the holder's settings.
                Bug::MixedSettings => Promise { settings: ask.1.settings, ..given },
                _ => given,
            });
            Output { promise: promise.map(|given| promises.number(given)), ..Output::default() }
        };
        let (voter, output) = self.steps.step(node.voter, input, answer);
        node.voter = voter;
        output.promise
    }

    /// The driver wants released what the state wants.
    pub(crate) fn follow(&mut self, node: &mut VoterNode, state: &State, now: u16, bug: Bug) {
        if bug == Bug::PromisesAtOnce && now < node.held_until {
            return;
        }
        for (kind, number) in state.wanted() {
            assert_eq!(kind, Kind::Primary, "the model has no other leases");
            let epoch = u8::try_from(number).expect("runs have few epochs");
            if bug == Bug::StatesBeforePromisesEnd {
                self.give(node, Input::Closed { epoch, now }, bug);
            } else if node.stated <= epoch || node.held_until > 0 {
                self.give(node, Input::Wanted { epoch, now }, bug);
            }
        }
    }

    /// Gives the voter something else than a request, and does what it then wants done.
    pub(crate) fn give(&mut self, node: &mut VoterNode, input: Input, bug: Bug) {
        let refusals = &mut self.refusals;
        let (voter, output) = self.steps.step(node.voter, input, |voter| {
            match input {
                Input::Ask { .. } => unreachable!("requests have a function of their own"),
                Input::Wanted { epoch, now } => {
                    voter.handle_wanted(Kind::Primary, epoch.into(), moment(now));
                }
                Input::Closed { epoch, now } => voter.handle_closed(&right(epoch), moment(now)),
                Input::Written { refusals: written, now } => {
                    voter.handle_persisted(&refusals.get(written).clone(), moment(now));
                }
                Input::Timeout { now } => voter.handle_timeout(moment(now)),
            }
            drain(voter, refusals)
        });
        node.voter = voter;
        if let Some(written) = output.persist {
            node.writing = Some(written);
            if bug == Bug::StatesBeforeDurable {
                node.stated = node.stated.max(after(self.refusals.get(written)));
            }
        }
        if let Some(epoch) = output.stated {
            node.stated = node.stated.max(epoch + 1);
        }
    }

    /// Whether what the voter has stated would be refused by a next life too.
    pub(crate) fn is_statement_durable(&self, node: &VoterNode) -> bool {
        node.stated <= after(self.refusals.get(node.disk))
    }
}

/// The first epoch that is not refused.
fn after(refusals: &Refusals) -> u8 {
    let next = refusals.get(Kind::Primary).map_or(0, |refused| refused + 1);
    u8::try_from(next).expect("runs have few epochs")
}

fn drain(voter: &mut Voter, refusals: &mut Kept<Refusals>) -> Output {
    let mut output = Output::default();
    while let Some(action) = voter.next_action() {
        match action {
            Action::Persist(written) => {
                let written = refusals.number(written);
                assert_eq!(output.persist.replace(written), None, "one write at a time");
            }
            Action::StateReleased { number, .. } => {
                let epoch = u8::try_from(number).expect("runs have few epochs");
                output.stated = output.stated.max(Some(epoch));
            }
        }
    }
    output
}
