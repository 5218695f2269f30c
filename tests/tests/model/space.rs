//! The space of all worlds: where it begins, which steps there are, and what must hold.

use stateright::{Model, Property};

use crate::bounds::Clocks;
use crate::quorum::{self, Proposal, candidate_of, newest};
use crate::world::{
    Cluster, Shared, Step, World, change_of, epoch_of, release_to_propose, version_of,
};

/// At most one epoch's gate is open at any instant.
pub(crate) const EXCLUSIVE: &str = "at most one gate is open";
/// When the quorum has agreed on an epoch, the gates of all earlier ones are shut for ever.
pub(crate) const SHUT_BEFORE: &str = "no gate is open below the newest epoch";
/// What a voter has stated, its disk refuses.
pub(crate) const DURABLE: &str = "what is stated is on disk";
/// The second epoch opens.
pub(crate) const HANDED_OVER: &str = "a later epoch opens";
/// A gate is open by a later request than the holder's first one.
pub(crate) const RENEWED: &str = "a gate is open by a renewal";

impl Model for Cluster {
    type State = World;
    type Action = Step;

    fn init_states(&self) -> Vec<World> {
        match self.bounds.clocks {
            Clocks::Free => vec![self.first(0)],
            Clocks::Worst | Clocks::Steady => {
                self.rates().into_iter().map(|fast| self.first(fast)).collect()
            }
        }
    }

    fn actions(&self, world: &World, steps: &mut Vec<Step>) {
        if world.ticks < self.bounds.ticks {
            let steady = vec![world.steady_rates()];
            let rates = if self.bounds.clocks == Clocks::Free { self.rates() } else { steady };
            steps.extend(rates.into_iter().map(|fast| Step::Tick { fast }));
        }
        let shared = self.shared();
        self.add_proposals(&shared, world, steps);
        self.add_steps_of_voters(&shared, world, steps);
        self.add_steps_of_holders(&shared, world, steps);
    }

    fn next_state(&self, last: &World, step: Step) -> Option<World> {
        self.after(last, step)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::always(EXCLUSIVE, |model: &Self, world: &World| {
                (0..model.bounds.epochs).filter(|epoch| model.is_open(world, *epoch)).count() <= 1
            }),
            Property::always(SHUT_BEFORE, |model: &Self, world: &World| {
                let newest = newest(model.shared().states.get(world.tip));
                (0..newest).all(|epoch| !model.is_open(world, epoch))
            }),
            Property::always(DURABLE, |model: &Self, world: &World| {
                let voters = &model.shared().voters;
                world.voters.iter().all(|node| voters.is_statement_durable(node))
            }),
            Property::sometimes(HANDED_OVER, |model: &Self, world: &World| {
                (1..model.bounds.epochs).any(|epoch| model.is_open(world, epoch))
            }),
        ];
        if self.bounds.asks.iter().any(|asks| *asks > 1) {
            properties.push(Property::sometimes(RENEWED, is_renewed));
        }
        properties
    }
}

/// Whether a gate is open by another request than the first one. That the first one was promised
/// too is not asked for.
fn is_renewed(model: &Cluster, world: &World) -> bool {
    (0..model.bounds.epochs).any(|epoch| {
        let shared = model.shared();
        let asks = world.asks.iter().map(|ask| shared.holders.asks.get(*ask));
        let first = asks
            .filter(|ask| ask.right.number == u64::from(epoch))
            .map(|ask| ask.asked_at.after_ms(ask.settings.lease_ms).0 / 1_000_000);
        let until = world.tenancies[usize::from(epoch)].until;
        let is_later = first.min().is_some_and(|first| u64::from(until) > first);
        is_later && model.is_open(world, epoch)
    })
}

impl Cluster {
    fn add_proposals(&self, shared: &Shared, world: &World, steps: &mut Vec<Step>) {
        let bounds = &self.bounds;
        let state = shared.states.get(world.tip);
        let mut propose = |proposal| steps.push(Step::Append(proposal));
        if state.sealed().is_none() {
            propose(Proposal::Seal);
        } else if newest(state) + 1 < bounds.epochs {
            propose(Proposal::NewEpoch);
        }
        let voters = 0..bounds.voters_ever();
        let releases = voters.filter_map(|place| release_to_propose(shared, world, place));
        releases.for_each(&mut propose);
        let change = change_of(state) + 1;
        if change <= bounds.settings {
            propose(Proposal::Settings { change });
        }
        if bounds.memberships == 0 {
            return;
        }
        if state.membership().version <= bounds.memberships.into() {
            propose(Proposal::Grow);
        }
        for candidate in 0..2 {
            let version = version_of(shared, world, candidate, bounds.bug);
            propose(Proposal::Adopted { candidate, version });
        }
    }

    fn add_steps_of_voters(&self, shared: &Shared, world: &World, steps: &mut Vec<Step>) {
        let membership = shared.states.get(world.tip).membership();
        for (voter, node) in (0..).zip(&world.voters) {
            if usize::from(node.applied) + 1 < world.points.len() {
                steps.push(Step::Apply { voter });
            }
            if node.writing.is_some() {
                steps.push(Step::Written { voter });
            }
            if world.voter_restarts < self.bounds.voter_restarts {
                steps.push(Step::Restart { voter });
            }
            if membership.voters.contains(&quorum::voter(voter)) {
                steps.extend(world.asks.iter().map(|ask| Step::Hear { voter, ask: *ask }));
            }
            let closed =
                (0..self.bounds.epochs).filter(|epoch| world.closed_said >> epoch & 1 == 1);
            steps.extend(closed.map(|epoch| Step::HearClosed { voter, epoch }));
        }
    }

    fn add_steps_of_holders(&self, shared: &Shared, world: &World, steps: &mut Vec<Step>) {
        for (place, candidate) in (0..).zip(&world.candidates) {
            if usize::from(candidate.applied) + 1 < world.points.len() {
                steps.push(Step::Learn { candidate: place });
            }
        }
        for (epoch, tenancy) in (0..self.bounds.epochs).zip(&world.tenancies) {
            if tenancy.pending > 0 {
                steps.push(Step::Write { epoch });
            }
            if tenancy.holder.is_none() {
                continue;
            }
            let candidate = candidate_of(epoch);
            if self.bounds.is_eager() && epoch + 1 == self.bounds.epochs {
                continue;
            }
            if tenancy.asked < self.bounds.asks[usize::from(epoch)] {
                steps.push(Step::Ask { epoch });
            }
            // What the last holder gives up, nobody else can have.
            if self.bounds.may_close && world.candidates[candidate].closed <= epoch {
                steps.push(Step::Close { epoch });
            }
            let candidate = u8::try_from(candidate).expect("there are few candidates");
            if world.holder_restarts < self.bounds.holder_restarts {
                steps.push(Step::Crash { candidate });
            }
            if world.holder_reboots < self.bounds.holder_reboots {
                steps.push(Step::Reboot { candidate });
            }
        }
        let count =
            |promise: &u32| Step::Count { epoch: epoch_of(shared, *promise), promise: *promise };
        steps.extend(world.promises.iter().map(count));
    }
}
