//! Operators' requests on their way: those that came to this node, and those that came to another
//! node and are carried out here.

use std::collections::BTreeMap;

use pgx_control::ids::{BootTime, NodeId};
use pgx_controller::Unanswered;
use tokio::sync::oneshot;

use super::message::{Outcome, Told};
use super::ms;
use crate::limits::control::{FORWARDED_MAX, FORWARDED_MS_MAX, SURVEY_MAX};

/// Who waits for an answer.
pub(super) enum Asker {
    /// An operator at this node's admin socket.
    Here(oneshot::Sender<Outcome>),
    /// Another node, under its own number.
    Node(NodeId, u64),
}

/// Whoever waits, by this node's numbers.
#[derive(Default)]
pub(super) struct Waiting {
    next: u64,
    askers: BTreeMap<u64, (Asker, BootTime)>,
}

impl Waiting {
    /// A number for a request, for as long as it may wait: what operators only look at gives its
    /// place up soon, so that many looks keep no request out.
    ///
    /// # Errors
    /// When too many wait; gives the asker back.
    pub(super) fn enter(
        &mut self,
        asker: Asker,
        only_looks: bool,
        now: BootTime,
    ) -> Result<u64, Asker> {
        if self.askers.len() >= FORWARDED_MAX {
            return Err(asker);
        }
        self.next += 1;
        let wait_ms = if only_looks { ms(SURVEY_MAX) } else { FORWARDED_MS_MAX };
        self.askers.insert(self.next, (asker, now.after_ms(wait_ms)));
        Ok(self.next)
    }

    /// Who waits under this number; nobody does from then on.
    pub(super) fn leave(&mut self, number: u64) -> Option<Asker> {
        self.askers.remove(&number).map(|(asker, _)| asker)
    }

    /// Those who have waited long enough.
    pub(super) fn late(&mut self, now: BootTime) -> Vec<Asker> {
        let late = self.askers.iter().filter(|(_, (_, until))| now >= *until);
        let late: Vec<_> = late.map(|(number, _)| *number).collect();
        late.into_iter().filter_map(|number| self.leave(number)).collect()
    }

    /// All who wait.
    pub(super) fn all(&mut self) -> Vec<Asker> {
        std::mem::take(&mut self.askers).into_values().map(|(asker, _)| asker).collect()
    }
}

/// The outcome of what was done without more to say.
pub(super) fn done(answer: Result<(), Unanswered>) -> Outcome {
    answer.map(|()| Told::Lines(Vec::new()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_are_bounded_in_number_and_time() {
        let mut waiting = Waiting::default();
        let now = BootTime(0);
        let asker = || Asker::Node(NodeId(2), 7);
        for _ in 0..FORWARDED_MAX {
            assert!(waiting.enter(asker(), false, now).is_ok());
        }
        assert!(waiting.enter(asker(), false, now).is_err());
        assert!(matches!(waiting.leave(1), Some(Asker::Node(NodeId(2), 7))));
        assert!(waiting.leave(1).is_none());
        assert!(waiting.late(now).is_empty());
        assert_eq!(waiting.late(now.after_ms(FORWARDED_MS_MAX)).len(), FORWARDED_MAX - 1);
    }

    #[test]
    fn looks_that_nobody_answers_make_room_for_requests_soon() {
        let mut waiting = Waiting::default();
        let now = BootTime(0);
        let asker = || Asker::Node(NodeId(2), 7);
        for _ in 0..FORWARDED_MAX {
            assert!(waiting.enter(asker(), true, now).is_ok());
        }
        assert_eq!(waiting.late(now.after_ms(ms(SURVEY_MAX))).len(), FORWARDED_MAX);
        assert!(waiting.enter(asker(), false, now).is_ok());
    }
}
