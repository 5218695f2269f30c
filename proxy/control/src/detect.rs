//! What the coordinator remembers of what nodes say.
//!
//! Not replicated: a new coordinator begins with nothing and knows all again after one round of
//! facts. It damps: a standby that comes and goes must wait longer each time until commits may
//! depend on it.

use alloc::collections::BTreeMap;

use crate::cluster::State;
use crate::facts::{Facts, Observation};
use crate::ids::{BootTime, Epoch, NodeId};
use crate::limits::FLAPS_MAX;

/// The coordinator's memory.
#[derive(Clone, Debug, Default)]
pub struct Observer {
    nodes: BTreeMap<NodeId, Observation>,
    streams: BTreeMap<NodeId, Stream>,
}

/// How steadily a standby has streamed.
#[derive(Clone, Copy, Debug, Default)]
struct Stream {
    /// Since when it streams without a break.
    since: Option<BootTime>,
    /// In which epoch.
    epoch: Option<Epoch>,
    /// The epoch in which it broke off soon after it had begun. That counts against it when it
    /// comes back in the same one: when the epoch ends, its primary was the cause.
    broke: Option<Epoch>,
    /// How often it did; halves the trust each time.
    flaps: u32,
}

impl Observer {
    /// A node said something. Facts of one process that come out of order are dropped.
    pub fn handle_facts(&mut self, from: NodeId, facts: Facts, now: BootTime) {
        let known = self.nodes.get(&from).map(|seen| &seen.facts);
        let is_old = known.is_some_and(|known| {
            // What an earlier life said may come after what this one has said.
            known.installation == facts.installation
                && (facts.life, facts.sequence) <= (known.life, known.sequence)
        });
        if !is_old {
            let is_steady = self.nodes.get(&from).is_some_and(|seen| seen.is_steady);
            self.nodes.insert(from, Observation { heard: now, facts, is_steady });
        }
    }

    /// Judges how steady each node is by now, and forgets those that belong to the cluster no
    /// more. To be called before a decision.
    pub fn handle_timeout(
        &mut self,
        state: &State,
        belongs: impl Fn(NodeId) -> bool,
        now: BootTime,
    ) {
        self.nodes.retain(|node, _| belongs(*node));
        self.streams.retain(|node, _| belongs(*node));
        let policy = state.policy();
        let newest = state.tenure().map(|tenure| (tenure.holder, tenure.epoch));
        for (node, seen) in &mut self.nodes {
            let is_heard = now < seen.heard.after_ms(policy.silent_ms_max);
            let streams = seen.facts.agent.as_ref().and_then(|agent| agent.streams);
            let stream = self.streams.entry(*node).or_default();
            let wait_ms = policy.steady_ms_min << stream.flaps.min(FLAPS_MAX);
            if is_heard && newest.is_some() && streams == newest {
                let epoch = newest.map(|(_, epoch)| epoch);
                // It may have gone over to another primary between two looks.
                if stream.epoch != epoch {
                    (stream.since, stream.epoch) = (None, epoch);
                }
                if stream.since.is_none() && stream.broke.take() == epoch {
                    stream.flaps += 1;
                }
                let since = *stream.since.get_or_insert(now);
                if now >= since.after_ms(wait_ms.saturating_mul(8)) {
                    stream.flaps = 0;
                }
                seen.is_steady = now >= since.after_ms(wait_ms);
            } else {
                if let Some(since) = stream.since.take() {
                    let was_short = now < since.after_ms(wait_ms.saturating_mul(4));
                    stream.broke = stream.epoch.filter(|_| was_short);
                }
                seen.is_steady = false;
            }
        }
    }

    /// What is known of each node.
    #[must_use]
    pub fn nodes(&self) -> &BTreeMap<NodeId, Observation> {
        &self.nodes
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::*;
    use crate::cluster::testing::{apply_all, directory, elect, report, seal, three_nodes};
    use crate::facts::{AgentFacts, Postgres};
    use crate::ids::{Incarnation, Lsn, SystemId, Timeline};

    fn facts(sequence: u64, is_streaming: bool) -> Facts {
        let agent = AgentFacts {
            epoch: Some(Epoch(0)),
            promoted: None,
            directory: directory(2),
            system: SystemId(1),
            timeline: Timeline(1),
            priority: 0,
            postgres: Postgres::Standby,
            end: Lsn(0),
            streams: is_streaming.then_some((NodeId(1), Epoch(0))),
            report: None,
            recovered: None,
            settled_change: 0,
            prepared: None,
            is_busy: false,
            is_idle: false,
            shut_down: None,
        };
        Facts { sequence, agent: Some(agent), ..Facts::new(Incarnation(1)) }
    }

    struct Scene {
        observer: Observer,
        state: State,
        now: BootTime,
        sequence: u64,
    }

    fn scene() -> Scene {
        let (observer, state) = (Observer::default(), three_nodes());
        Scene { observer, state, now: BootTime(0), sequence: 0 }
    }

    impl Scene {
        /// Node 2 says this twice a second for so long; when it became steady, if it did.
        fn say(&mut self, is_streaming: bool, ms: u64) -> Option<u64> {
            let mut steady = None;
            for at in (0..=ms).step_by(500) {
                self.now = self.now.after_ms(500);
                self.sequence += 1;
                let mut facts = facts(self.sequence, is_streaming);
                let tenure = self.state.tenure().unwrap();
                let streams = is_streaming.then_some((tenure.holder, tenure.epoch));
                facts.agent.as_mut().unwrap().streams = streams;
                self.observer.handle_facts(NodeId(2), facts, self.now);
                self.observer.handle_timeout(&self.state, |_| true, self.now);
                if self.observer.nodes()[&NodeId(2)].is_steady {
                    steady = steady.or(Some(at));
                }
            }
            steady
        }
    }

    #[test]
    fn standby_is_steady_after_it_has_streamed_for_a_while() {
        assert_eq!(scene().say(true, 5_000), Some(1_000));
    }

    #[test]
    fn standby_that_is_heard_no_more_is_not_steady_whatever_it_said_last() {
        let mut scene = scene();
        assert!(scene.say(true, 5_000).is_some());
        let silent = scene.now.after_ms(1_600);
        scene.observer.handle_timeout(&scene.state, |_| true, silent);
        assert!(!scene.observer.nodes()[&NodeId(2)].is_steady);
    }

    #[test]
    fn standby_that_comes_and_goes_waits_longer_each_time() {
        let mut scene = scene();
        let mut waits = Vec::new();
        for _ in 0..4 {
            waits.extend(scene.say(true, 2_500).or(Some(u64::MAX)));
            // Gone so soon that it counts against it.
            scene.say(false, 500);
        }
        assert!(waits.is_sorted() && waits[0] < waits[3], "{waits:?}");
    }

    #[test]
    fn standby_whose_primary_was_replaced_does_not_wait_longer() {
        let mut scene = scene();
        assert_eq!(scene.say(true, 2_500), Some(1_000));
        scene.say(false, 500);
        seal(&mut scene.state, 1, &[1, 2, 3]);
        let reports = [1, 3].map(|node| report(&scene.state, node, 100)).to_vec();
        let entry = elect(&scene.state, 3, reports);
        apply_all(&mut scene.state, [entry]);
        assert_eq!(scene.say(true, 2_500), Some(1_000));
        scene.say(false, 500);
        assert!(scene.say(true, 2_500) > Some(1_000), "that was its own doing");
    }

    #[test]
    fn standby_that_streams_long_enough_is_forgiven() {
        let mut scene = scene();
        for _ in 0..3 {
            scene.say(true, 1_000);
            scene.say(false, 500);
        }
        assert!(scene.say(true, 10_000) > Some(1_000));
        scene.say(true, 100_000);
        scene.say(false, 500);
        assert_eq!(scene.say(true, 5_000), Some(1_000));
    }

    #[test]
    fn facts_that_come_out_of_order_are_dropped_also_those_of_an_earlier_life() {
        let mut observer = Observer::default();
        observer.handle_facts(NodeId(2), facts(5, true), BootTime(1));
        observer.handle_facts(NodeId(2), facts(4, false), BootTime(2));
        assert_eq!(observer.nodes()[&NodeId(2)].facts.sequence, 5);
        observer.handle_facts(NodeId(2), facts(5, true), BootTime(2));
        assert_eq!(observer.nodes()[&NodeId(2)].heard, BootTime(1), "a copy is no sign of life");
        let reborn = Facts { life: 9, ..facts(1, false) };
        observer.handle_facts(NodeId(2), reborn, BootTime(3));
        assert_eq!(observer.nodes()[&NodeId(2)].facts.sequence, 1);
        let belated = Facts { life: 8, ..facts(6, true) };
        observer.handle_facts(NodeId(2), belated, BootTime(4));
        assert_eq!(observer.nodes()[&NodeId(2)].facts.life, 9);
        let recovered = Facts { installation: Incarnation(2), ..facts(1, false) };
        observer.handle_facts(NodeId(2), recovered, BootTime(5));
        assert_eq!(observer.nodes()[&NodeId(2)].facts.life, 0, "another store counts for itself");
    }
}
