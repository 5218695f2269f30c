//! The network between hosts: it loses, doubles, delays and cuts.

use std::collections::BTreeMap;

use pgx_control::ids::NodeId;
use pgx_quorum::sim::Rng;

use crate::event::{MICRO, MILLI, Time};

/// How bad it is now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Weather {
    pub(crate) loss_percent: u64,
    pub(crate) double_percent: u64,
    pub(crate) delay_max: Time,
    /// In so many per mille of all messages, much longer.
    pub(crate) late_per_mille: u64,
}

/// Who is cut off from whom.
#[derive(Default)]
pub(crate) struct Network {
    pub(crate) weather: Weather,
    /// Until when nothing goes from one host to another.
    cuts: BTreeMap<(NodeId, NodeId), Time>,
    /// Until when nothing of the log reaches a host: it is a connection of its own.
    behind: BTreeMap<NodeId, Time>,
}

impl Network {
    pub(crate) fn cut(&mut self, from: NodeId, to: NodeId, until: Time) {
        let known = self.cuts.entry((from, to)).or_insert(until);
        *known = (*known).max(until);
    }

    pub(crate) fn leave_behind(&mut self, node: NodeId, until: Time) {
        let known = self.behind.entry(node).or_insert(until);
        *known = (*known).max(until);
    }

    pub(crate) fn is_behind(&self, node: NodeId, now: Time) -> bool {
        self.behind.get(&node).is_some_and(|until| now < *until)
    }

    pub(crate) fn heal(&mut self) {
        self.cuts.clear();
        self.behind.clear();
        self.weather = Weather::default();
    }

    pub(crate) fn is_cut(&self, from: NodeId, to: NodeId, now: Time) -> bool {
        self.cuts.get(&(from, to)).is_some_and(|until| now < *until)
    }

    /// How long a message takes now.
    pub(crate) fn delay(&self, rng: &mut Rng) -> Time {
        let usual = 100 * MICRO + rng.below(400 * MICRO);
        let worse = match self.weather.delay_max {
            0 => 0,
            most => rng.below(most),
        };
        let is_late = rng.below(1_000) < self.weather.late_per_mille;
        usual + worse + if is_late { rng.below(6_000 * MILLI) } else { 0 }
    }

    /// When each copy of a datagram arrives: none, one or two.
    pub(crate) fn arrivals(
        &self,
        from: NodeId,
        to: NodeId,
        now: Time,
        rng: &mut Rng,
    ) -> [Option<Time>; 2] {
        if self.is_cut(from, to, now) || rng.chance(self.weather.loss_percent) {
            return [None, None];
        }
        let first = now + self.delay(rng);
        let second = rng.chance(self.weather.double_percent).then(|| now + self.delay(rng));
        [Some(first), second]
    }
}
