//! One moment of the cluster, and what a single step makes of it.
//!
//! Messages are never taken out of the network: each may be heard any number of times, in any
//! order, at any later moment or never. That is loss, copies, delay and reordering in one.

use std::sync::{Mutex, MutexGuard};

use pgx_control::cluster::State;
use pgx_control::lease::Kind;

use crate::bounds::{Bounds, Bug, Clocks, fast_ms, settings, slow_ms};
use crate::holding::{Candidate, Holders, Tenancy};
use crate::kept::Steps;
use crate::quorum::{self, CANDIDATES, Proposal, candidate_of, newest};
use crate::voting::{self, VoterNode, Voters};

/// Voters at most; the candidates' clocks come after theirs.
const VOTERS_MAX: usize = 5;

/// Clocks of all nodes.
const CLOCKS: usize = VOTERS_MAX + CANDIDATES.len();

/// One moment of the whole cluster. Numbers stand for objects that `Shared` keeps.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct World {
    /// How much real time has passed.
    pub(crate) ticks: u8,
    /// Which clocks are fast, one bit each.
    fast: u8,
    clocks: [u16; CLOCKS],
    /// The states at the points of the log where nodes have to look.
    pub(crate) points: Vec<u32>,
    /// The state at the end of the log.
    pub(crate) tip: u32,
    pub(crate) voters: Vec<VoterNode>,
    pub(crate) candidates: [Candidate; CANDIDATES.len()],
    /// By epoch.
    pub(crate) tenancies: Vec<Tenancy>,
    /// Requests in the network.
    pub(crate) asks: Vec<u32>,
    /// Promises in the network.
    pub(crate) promises: Vec<u32>,
    /// The epochs whose holder has said that it has closed, one bit each.
    pub(crate) closed_said: u8,
    pub(crate) voter_restarts: u8,
    pub(crate) holder_restarts: u8,
    pub(crate) holder_reboots: u8,
}

/// A step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Time passes; these clocks are fast.
    Tick { fast: u8 },
    /// The coordinator appends an entry.
    Append(Proposal),
    /// A voter applies the next entry that it looks at.
    Apply { voter: u8 },
    /// A voter hears a request.
    Hear { voter: u8, ask: u32 },
    /// A voter hears that a holder has closed.
    HearClosed { voter: u8, epoch: u8 },
    /// A voter's write is on disk.
    Written { voter: u8 },
    /// A voter's process ends and starts.
    Restart { voter: u8 },
    /// A candidate applies the next entry that it looks at.
    Learn { candidate: u8 },
    /// The holder of an epoch asks.
    Ask { epoch: u8 },
    /// The holder of an epoch hears a promise.
    Count { epoch: u8, promise: u32 },
    /// The thread writes the deadline into the kernel.
    Write { epoch: u8 },
    /// The holder of an epoch closes it for good.
    Close { epoch: u8 },
    /// A candidate's process ends and starts.
    Crash { candidate: u8 },
    /// A candidate's host boots.
    Reboot { candidate: u8 },
}

/// The real objects that worlds are made of.
#[derive(Default)]
pub(crate) struct Shared {
    pub(crate) states: Steps<State, Proposal, bool>,
    pub(crate) voters: Voters,
    pub(crate) holders: Holders,
}

/// The model.
pub(crate) struct Cluster {
    pub(crate) bounds: Bounds,
    shared: Mutex<Shared>,
}

impl Cluster {
    /// A model within these bounds.
    pub(crate) fn new(bounds: Bounds) -> Self {
        Self { bounds, shared: Mutex::default() }
    }

    /// The real objects.
    pub(crate) fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().expect("a panic ends the run")
    }

    /// The beginning: everybody has been up for long, and nobody has asked yet.
    pub(crate) fn first(&self, fast: u8) -> World {
        let mut shared = self.shared();
        let state = quorum::founded(&self.bounds);
        let disk = shared.voters.empty_disk();
        let longest_promise_ms = state.longest_promise_ms();
        let voters = (0..self.bounds.voters_ever())
            .map(|place| shared.voters.start(place, disk, longest_promise_ms, 0))
            .collect();
        let mut clocks = [0; CLOCKS];
        // One tick more than the longest promise: everybody is awake.
        clocks[..VOTERS_MAX].fill(3 * fast_ms());
        clocks[VOTERS_MAX..].fill(3 * slow_ms());
        let mut tenancies = vec![Tenancy::default(); self.bounds.epochs.into()];
        tenancies[0].holder = Some(shared.holders.start(0, &state, 0, clocks[VOTERS_MAX]));
        let tip = shared.states.number(state);
        World {
            ticks: 0,
            fast,
            clocks,
            points: vec![tip],
            tip,
            voters,
            candidates: [Candidate::FIRST; CANDIDATES.len()],
            tenancies,
            asks: Vec::new(),
            promises: Vec::new(),
            closed_said: 0,
            voter_restarts: 0,
            holder_restarts: 0,
            holder_reboots: 0,
        }
    }

    /// The clocks that may be fast.
    pub(crate) fn rates(&self) -> Vec<u8> {
        let voters = (1 << self.bounds.voters_ever()) - 1;
        let all: u8 = voters | (0b11 << VOTERS_MAX);
        match self.bounds.clocks {
            Clocks::Worst => vec![voters],
            Clocks::Steady | Clocks::Free => (0..=all).filter(|fast| fast & !all == 0).collect(),
        }
    }

    /// Whether the kernel lets writes of this epoch pass.
    pub(crate) fn is_open(&self, world: &World, epoch: u8) -> bool {
        let candidate = candidate_of(epoch);
        let is_closed = world.candidates[candidate].closed > epoch;
        let now = world.clock_of(candidate);
        let until = world.tenancies[usize::from(epoch)].until;
        now < until && (!is_closed || self.bounds.bug == Bug::NoClosedEpoch)
    }

    /// What the step leads to; `None` where it changes nothing.
    pub(crate) fn after(&self, last: &World, step: Step) -> Option<World> {
        let mut world = last.clone();
        let mut shared = self.shared();
        let turn = Turn { bounds: &self.bounds, shared: &mut shared, world: &mut world };
        turn.take(step);
        (world != *last).then_some(world)
    }
}

impl World {
    /// The clock of a candidate.
    pub(crate) fn clock_of(&self, candidate: usize) -> u16 {
        self.clocks[VOTERS_MAX + candidate]
    }

    /// Tells processes that start now from earlier ones.
    pub(crate) fn life(&self) -> u8 {
        self.holder_restarts + self.holder_reboots
    }

    /// Which clocks are fast, as chosen at the beginning.
    pub(crate) fn steady_rates(&self) -> u8 {
        self.fast
    }
}

/// One step on its way.
struct Turn<'a> {
    bounds: &'a Bounds,
    shared: &'a mut Shared,
    world: &'a mut World,
}

impl Turn<'_> {
    fn take(mut self, step: Step) {
        self.choose(step);
        if !self.bounds.is_eager() {
            return;
        }
        for voter in 0..self.world.voters.len() {
            self.hasten(voter);
        }
        for candidate in 0..CANDIDATES.len() {
            // With two epochs the second candidate holds the last one and no other.
            let is_last_only = self.bounds.epochs == 2 && candidate == 1;
            if self.bounds.has_calm_log() || is_last_only {
                self.catch_up(candidate);
            }
        }
        if self.bounds.memberships > 0 {
            for candidate in 0..2 {
                let version = version_of(self.shared, self.world, candidate, self.bounds.bug);
                self.append(Proposal::Adopted { candidate, version });
            }
        }
        self.open_last();
    }

    /// Takes at once what may as well happen at once; `docs/MODEL.md` argues for each of these that
    /// every world without it has one with it, and with the same gates.
    fn hasten(&mut self, voter: usize) {
        while self.is_overtaken(voter) {
            self.apply(voter);
        }
        if self.world.voter_restarts == self.bounds.voter_restarts {
            self.written(voter);
        }
        let place = u8::try_from(voter).expect("there are few voters");
        if let Some(proposal) = release_to_propose(self.shared, self.world, place) {
            self.append(proposal);
        }
    }

    fn catch_up(&mut self, candidate: usize) {
        let points = self.world.points.len();
        while usize::from(self.world.candidates[candidate].applied) + 1 < points {
            self.learn(candidate);
        }
    }

    /// Whether what comes next makes no voter more careful: the epoch after one that it knows to be
    /// sealed, or a membership, which voters do not look at.
    fn is_overtaken(&self, voter: usize) -> bool {
        let applied = usize::from(self.world.voters[voter].applied);
        let Some(next) = self.world.points.get(applied + 1) else { return false };
        let states = &self.shared.states;
        let (state, next) = (states.get(self.world.points[applied]), states.get(*next));
        let is_later_epoch = state.sealed().is_some() && newest(next) > newest(state);
        is_later_epoch || state.membership() != next.membership()
    }

    /// Opens the gate of the last epoch as soon as it can be.
    fn open_last(&mut self) {
        let last = self.bounds.epochs - 1;
        let tenancy = self.world.tenancies[usize::from(last)];
        if tenancy.holder.is_none() {
            return;
        }
        if tenancy.asked < self.bounds.asks[usize::from(last)] {
            self.ask(last);
        }
        for ask in self.world.asks.clone() {
            if self.shared.holders.asks.get(ask).right.number == u64::from(last) {
                (0..self.world.voters.len()).for_each(|voter| self.hear(voter, ask));
            }
        }
        for promise in self.world.promises.clone() {
            if epoch_of(self.shared, promise) == last {
                self.count(last, promise);
            }
        }
    }

    fn choose(&mut self, step: Step) {
        match step {
            Step::Tick { fast } => self.tick(fast),
            Step::Append(proposal) => self.append(proposal),
            Step::Apply { voter } => self.apply(voter.into()),
            Step::Hear { voter, ask } => self.hear(voter.into(), ask),
            Step::HearClosed { voter, epoch } => {
                self.give(voter.into(), |now| voting::Input::Closed { epoch, now });
            }
            Step::Written { voter } => self.written(voter.into()),
            Step::Restart { voter } => self.restart(voter),
            Step::Learn { candidate } => self.learn(candidate.into()),
            Step::Ask { epoch } => self.ask(epoch),
            Step::Count { epoch, promise } => self.count(epoch, promise),
            Step::Write { epoch } => {
                let tenancy = &mut self.world.tenancies[usize::from(epoch)];
                tenancy.until = tenancy.until.max(tenancy.pending);
                tenancy.pending = 0;
            }
            Step::Close { epoch } => self.close(epoch),
            Step::Crash { candidate } => {
                self.world.holder_restarts += 1;
                self.start_anew(candidate.into());
            }
            Step::Reboot { candidate } => self.reboot(candidate.into()),
        }
    }

    fn tick(&mut self, fast: u8) {
        self.world.ticks += 1;
        for (place, clock) in self.world.clocks.iter_mut().enumerate() {
            *clock += if fast & (1 << place) == 0 { slow_ms() } else { fast_ms() };
        }
        for voter in 0..self.world.voters.len() {
            if self.bounds.bug == Bug::PromisesAtOnce {
                self.follow(voter);
            } else {
                self.give(voter, |now| voting::Input::Timeout { now });
            }
        }
    }

    fn append(&mut self, proposal: Proposal) {
        let bug = self.bounds.bug;
        let append = |state: &mut State| quorum::append(state, proposal, bug).is_ok();
        let (tip, is_valid) = self.shared.states.step(self.world.tip, proposal, append);
        self.world.tip = tip;
        if is_valid && proposal.is_seen_by_nodes() {
            self.world.points.push(tip);
        }
    }

    fn apply(&mut self, voter: usize) {
        self.world.voters[voter].applied += 1;
        self.follow(voter);
    }

    fn follow(&mut self, voter: usize) {
        let node = &mut self.world.voters[voter];
        let state = self.shared.states.get(self.world.points[usize::from(node.applied)]);
        let now = self.world.clocks[voter];
        self.shared.voters.follow(node, state, now, self.bounds.bug);
    }

    fn give(&mut self, voter: usize, input: impl FnOnce(u16) -> voting::Input) {
        let input = input(self.world.clocks[voter]);
        self.shared.voters.give(&mut self.world.voters[voter], input, self.bounds.bug);
    }

    fn hear(&mut self, voter: usize, ask: u32) {
        let node = &mut self.world.voters[voter];
        let number = self.world.points[usize::from(node.applied)];
        let state = (number, self.shared.states.get(number));
        let holders = &mut self.shared.holders;
        let ask = (ask, holders.asks.get(ask));
        let epoch = usize::try_from(ask.1.right.number).expect("runs have few epochs");
        let now = self.world.clocks[voter];
        let rest = (&mut holders.promises, self.bounds.bug);
        let promise = self.shared.voters.ask(node, ask, state, now, rest);
        if let Some(promise) = promise
            && let Err(place) = self.world.promises.binary_search(&promise)
        {
            self.world.promises.insert(place, promise);
            self.drop_useless(epoch);
        }
    }

    fn written(&mut self, voter: usize) {
        let node = &mut self.world.voters[voter];
        if let Some(refusals) = node.writing.take() {
            node.disk = refusals;
            self.give(voter, |now| voting::Input::Written { refusals, now });
        }
    }

    fn restart(&mut self, place: u8) {
        self.world.voter_restarts += 1;
        let voter = usize::from(place);
        let node = &mut self.world.voters[voter];
        if self.bounds.forgets_log {
            node.applied = 0;
        }
        let state = self.shared.states.get(self.world.points[usize::from(node.applied)]);
        let now = self.world.clocks[voter];
        *node = self.shared.voters.restart(node, place, state, now, self.bounds.bug);
        self.follow(voter);
    }

    fn learn(&mut self, candidate: usize) {
        let applied = self.world.candidates[candidate].applied + 1;
        self.world.candidates[candidate].applied = applied;
        let number = self.world.points[usize::from(applied)];
        let now = self.world.clock_of(candidate);
        let life = self.world.life();
        for epoch in (0..self.bounds.epochs).filter(|epoch| candidate_of(*epoch) == candidate) {
            let state = self.shared.states.get(number);
            let tenancy = &mut self.world.tenancies[usize::from(epoch)];
            let holders = &mut self.shared.holders;
            tenancy.holder = match tenancy.holder {
                Some(holder) => Some(holders.follow(holder, number, state)),
                None => (newest(state) == epoch).then(|| holders.start(epoch, state, life, now)),
            };
        }
    }

    fn ask(&mut self, epoch: u8) {
        let now = self.world.clock_of(candidate_of(epoch));
        let tenancy = &mut self.world.tenancies[usize::from(epoch)];
        let Some(holder) = tenancy.holder else { return };
        let Some((holder, ask)) = self.shared.holders.ask(holder, epoch, now) else { return };
        tenancy.holder = Some(holder);
        tenancy.asked += 1;
        if let Err(place) = self.world.asks.binary_search(&ask) {
            self.world.asks.insert(place, ask);
        }
    }

    fn count(&mut self, epoch: u8, promise: u32) {
        let now = self.world.clock_of(candidate_of(epoch));
        let tenancy = &mut self.world.tenancies[usize::from(epoch)];
        let Some(holder) = tenancy.holder else { return };
        let holders = &mut self.shared.holders;
        let (holder, deadline) = holders.promise(holder, promise, now, self.bounds.bug);
        tenancy.holder = Some(holder);
        if deadline > tenancy.until.max(tenancy.pending) {
            if self.bounds.memberships > 0 {
                let version = holders.counts_in(holder);
                self.world.candidates[candidate_of(epoch)].hold(version, deadline);
            }
            if self.bounds.is_thread_late {
                tenancy.pending = deadline;
            } else {
                tenancy.until = deadline;
            }
        }
        self.drop_useless(epoch.into());
    }

    /// Takes promises out of the network that could not change their holder any more: whether they
    /// are heard or not then makes no two worlds.
    fn drop_useless(&mut self, epoch: usize) {
        let Some(holder) = self.world.tenancies[epoch].holder else { return };
        if self.bounds.keeps_promises() {
            let holders = &mut self.shared.holders;
            self.world.promises.retain(|promise| {
                let is_ours = holders.promises.get(*promise).right.number == epoch as u64;
                !is_ours || holders.promise(holder, *promise, 0, Bug::None).0 != holder
            });
        }
    }

    fn close(&mut self, epoch: u8) {
        let closed = &mut self.world.candidates[candidate_of(epoch)].closed;
        *closed = (*closed).max(epoch + 1);
        let tenancy = &mut self.world.tenancies[usize::from(epoch)];
        if self.bounds.bug == Bug::NoClosedEpoch {
            tenancy.until = 0;
        }
        tenancy.holder = tenancy.holder.map(|holder| self.shared.holders.close(holder));
        self.world.closed_said |= 1 << epoch;
        self.drop_useless(epoch.into());
    }

    /// The candidate's process starts: it holds again what the state that it has applied gives it.
    fn start_anew(&mut self, candidate: usize) {
        let applied = usize::from(self.world.candidates[candidate].applied);
        let state = self.shared.states.get(self.world.points[applied]);
        let now = self.world.clock_of(candidate);
        if self.bounds.memberships > 0 {
            let longest_ms = u16::try_from(state.longest_promise_ms()).expect("leases are short");
            self.world.candidates[candidate].start_anew(now + longest_ms);
        }
        let life = self.world.life();
        for epoch in (0..self.bounds.epochs).filter(|epoch| candidate_of(*epoch) == candidate) {
            let tenancy = &mut self.world.tenancies[usize::from(epoch)];
            let is_ours = newest(state) == epoch;
            tenancy.holder = is_ours.then(|| self.shared.holders.start(epoch, state, life, now));
            tenancy.pending = 0;
        }
    }

    /// The clock begins anew, and the kernel has lost its gate.
    fn reboot(&mut self, candidate: usize) {
        self.world.holder_reboots += 1;
        self.world.clocks[VOTERS_MAX + candidate] = 0;
        self.world.candidates[candidate].closed = 0;
        for epoch in (0..self.bounds.epochs).filter(|epoch| candidate_of(*epoch) == candidate) {
            self.world.tenancies[usize::from(epoch)].until = 0;
        }
        self.start_anew(candidate);
    }
}

/// What a voter has said and the log does not know yet.
pub(crate) fn release_to_propose(shared: &Shared, world: &World, place: u8) -> Option<Proposal> {
    let epoch = world.voters[usize::from(place)].stated.checked_sub(1)?;
    let state = shared.states.get(world.tip);
    let known = state.released_by(quorum::voter(place), Kind::Primary);
    let is_news = known.is_none_or(|known| known < epoch.into());
    is_news.then_some(Proposal::Released { voter: place, epoch })
}

/// The membership that a candidate says it counts in.
pub(crate) fn version_of(shared: &Shared, world: &World, place: u8, bug: Bug) -> u64 {
    let candidate = &world.candidates[usize::from(place)];
    let applied = world.points[usize::from(candidate.applied)];
    let newest = shared.states.get(applied).membership().version;
    if bug == Bug::CountsAtOnce {
        return newest;
    }
    candidate.counts_in(newest, world.clock_of(place.into()))
}

/// Which epoch a promise is for.
pub(crate) fn epoch_of(shared: &Shared, promise: u32) -> u8 {
    let number = shared.holders.promises.get(promise).right.number;
    u8::try_from(number).expect("runs have few epochs")
}

/// The change of settings that led to those in force.
pub(crate) fn change_of(state: &State) -> u8 {
    let is_it = |change: &u8| settings(*change) == state.settings();
    (0..=2).find(is_it).expect("the model's settings are in force")
}
