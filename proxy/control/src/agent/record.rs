//! What an agent must not forget.

use serde::{Deserialize, Serialize};

use super::Goal;
use crate::cluster::history::History;
use crate::ids::{Attempt, Epoch, Incarnation};

/// A directory that is put aside while a copy of the primary's is tried in its place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// The directory.
    pub directory: Incarnation,
    /// Its timelines.
    pub history: History,
    /// The epoch for which the copy is made: until it has served, acknowledged commits may depend
    /// on what was put aside.
    pub epoch: Epoch,
}

/// The agent's durable record. It belongs to the directory, and lies beside it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The directory.
    pub directory: Incarnation,
    /// Whether it is whole. One that is being rebuilt is nothing to anybody, and its former content
    /// is gone.
    pub is_whole: bool,
    /// Its timelines, each with the epoch that made it.
    pub history: History,
    /// The newest goal that was obeyed: a state from before it is an old one.
    pub obeyed: (Epoch, Attempt),
    /// The epoch that the directory is promoted or follows for: a new timeline is that one's.
    pub basis: Option<Epoch>,
    /// A server that was told to promote it for that epoch may still run: what comes of it is that
    /// epoch's, however late.
    #[serde(default)]
    pub promotes: bool,
    /// The last epoch in which this node never serves again.
    pub closed: Option<Epoch>,
    /// The directory that was put aside, if there is one. The driver tells it by its name, and may
    /// remove any other: one can follow another without a record that has none.
    pub kept: Option<Kept>,
}

impl Record {
    /// The record of a directory that nobody has told anything yet.
    #[must_use]
    pub fn new(directory: Incarnation, history: History) -> Self {
        let obeyed = (Epoch(0), Attempt(0));
        Self {
            directory,
            is_whole: true,
            history,
            obeyed,
            basis: None,
            promotes: false,
            closed: None,
            kept: None,
        }
    }

    /// Whether a directory that is found may be the one that this tells of: one that is being built
    /// or put back has no name that could be relied upon.
    #[must_use]
    pub fn may_be(&self, found: Incarnation) -> bool {
        found == self.directory || !self.is_whole
    }

    /// Whether this node may still become or be primary in the epoch.
    #[must_use]
    pub fn may_serve(&self, epoch: Epoch) -> bool {
        self.is_whole && self.closed < Some(epoch) && self.obeyed <= (epoch, Attempt(0))
    }

    /// Notes a goal; whether it is to be obeyed.
    pub(super) fn obey(&mut self, goal: &Goal) -> bool {
        let Some(stamp) = goal.stamp() else { return false };
        if stamp < self.obeyed {
            return false;
        }
        self.obeyed = stamp;
        if let Goal::Freeze { epoch, .. } = goal
            && self.closed < Some(*epoch)
        {
            self.closed = Some(*epoch);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directory_that_is_not_whole_was_closed_or_was_told_of_a_later_attempt_serves_no_more() {
        let record = Record::new(Incarnation(1), History::default());
        assert!(record.may_serve(Epoch(0)));
        let half = Record { is_whole: false, ..record.clone() };
        assert!(!half.may_serve(Epoch(5)));
        let closed = Record { closed: Some(Epoch(3)), ..record.clone() };
        assert!(!closed.may_serve(Epoch(3)) && closed.may_serve(Epoch(4)));
        let frozen = Record { obeyed: (Epoch(3), Attempt(1)), ..record };
        assert!(!frozen.may_serve(Epoch(3)) && frozen.may_serve(Epoch(4)));
    }

    #[test]
    fn closing_is_never_taken_back() {
        let mut record = Record::new(Incarnation(1), History::default());
        record.closed = Some(Epoch(5));
        assert!(record.obey(&Goal::Freeze { epoch: Epoch(3), attempt: Attempt(1) }));
        assert_eq!(record.closed, Some(Epoch(5)));
    }
}
