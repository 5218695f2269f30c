//! An operator wants a standby's directory to be given up and copied anew.

use core::fmt;

use super::{Agent, Goal, Local, Process, goal};
use crate::cluster::{Durability, State};
use crate::ids::NodeId;

/// Why a directory is not given up. Text for operators is in its display.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unfit {
    /// No other node serves as primary, so there is nobody to copy from.
    NoPrimary,
    /// It is being built anew, or another one is put aside for it.
    UnderWay,
    /// A switchover is under way.
    Switchover,
    /// It may be the only one that has some acknowledged commits.
    Needed,
    /// Commits are to wait, and can wait for no other.
    Last,
}

impl fmt::Display for Unfit {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::NoPrimary => "no other node serves as primary, so there is nobody to copy from",
            Self::UnderWay => "the directory is being built anew already",
            Self::Switchover => "a switchover is under way; try again after it",
            Self::Needed => {
                "the directory may be the only one with some commits that were given up; save it, \
                 then remove it: it is cloned"
            }
            Self::Last => {
                "no other standby is waited for, so commits would wait until the copy is made: \
                 bring another standby back first, or 'pgx ctl edit-config --set \
                 durability=available'"
            }
        })
    }
}

impl Agent {
    /// Gives the directory up: from the next steps on it is nothing to anybody, and is copied anew
    /// from the primary, from whom it is taken.
    ///
    /// # Errors
    /// When commits may be lost by that, or would wait for it.
    pub fn give_up(&mut self, state: &State, local: &Local) -> Result<NodeId, Unfit> {
        let wanted = goal(state, self.me, &self.draft);
        let is_current = wanted.stamp() >= Some(self.draft.obeyed);
        let Goal::Rejoin { upstream, .. } = wanted else { return Err(Unfit::NoPrimary) };
        if !self.draft.is_whole || self.draft.kept.is_some() {
            return Err(Unfit::UnderWay);
        }
        if !is_current || upstream == self.me || local.process == Process::Primary {
            return Err(Unfit::NoPrimary);
        }
        if state.handover().is_some() {
            return Err(Unfit::Switchover);
        }
        if state.is_from_before_loss(&self.draft.history) {
            return Err(Unfit::Needed);
        }
        let mut rules = state.established().into_iter().flat_map(|established| &established.rules);
        let is_last = rules.any(|rule| {
            let mut members = rule.members.iter();
            !rule.is_degraded() && members.all(|directory| *directory == self.draft.directory)
        });
        if is_last && state.durability() == Durability::Strict {
            return Err(Unfit::Last);
        }
        self.draft.is_whole = false;
        Ok(upstream)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{NOW, local};
    use super::super::{Record, Step};
    use super::*;
    use crate::cluster::Entry;
    use crate::cluster::testing::{any, apply_all, directory, fill_rules, history, three_nodes};
    use crate::ids::{Epoch, Lsn};

    fn agent(node: u64) -> Agent {
        Agent::new(NodeId(node), 0, Record::new(directory(node), history(&[(1, 0, 0)])))
    }

    fn streaming() -> Local {
        let upstream = Some(NodeId(1));
        Local { upstream, is_streaming: true, end: Lsn(100), ..local(Process::Standby) }
    }

    /// A cluster whose commits wait for node 2 alone.
    fn waits_for(node: u64) -> State {
        let mut state = three_nodes();
        let epoch = Epoch(0);
        apply_all(&mut state, [Entry::RuleJoint { epoch, rule: any(1, &[node]) }]);
        let change = state.established().unwrap().change;
        apply_all(&mut state, [Entry::RuleSettled { epoch, change }]);
        state
    }

    #[test]
    fn directory_that_was_given_up_is_said_so_on_disk_before_it_is_built_anew() {
        let (state, mut agent) = (three_nodes(), agent(3));
        assert_eq!(agent.next(&state, &streaming(), None, NOW).len(), 2, "it closes and writes");
        assert_eq!(agent.give_up(&state, &streaming()), Ok(NodeId(1)));
        assert_eq!(agent.give_up(&state, &streaming()), Err(Unfit::UnderWay));
        let steps = agent.next(&state, &streaming(), None, NOW);
        let [Step::Close(_), Step::Persist(record)] = &steps[..] else { panic!("{steps:?}") };
        assert!(!record.is_whole);
        assert_eq!(agent.facts(), None, "it is nothing to anybody");
        agent.handle_persisted(record.clone());
        let steps = agent.next(&state, &streaming(), None, NOW);
        assert_eq!(steps, [Step::Close(Epoch(0)), Step::Rebuild(NodeId(1))]);
    }

    #[test]
    fn directory_is_not_given_up_where_nobody_else_serves_or_commits_would_wait() {
        let mut state = three_nodes();
        assert_eq!(agent(1).give_up(&state, &local(Process::Primary)), Err(Unfit::NoPrimary));
        let mut lone = waits_for(2);
        assert_eq!(agent(2).give_up(&lone, &streaming()), Err(Unfit::Last));
        assert_eq!(agent(3).give_up(&lone, &streaming()), Ok(NodeId(1)));
        apply_all(&mut lone, [Entry::Durability(Durability::Available)]);
        assert_eq!(agent(2).give_up(&lone, &streaming()), Ok(NodeId(1)));
        apply_all(&mut state, [Entry::Switchover { epoch: Epoch(0), to: NodeId(3) }]);
        assert_eq!(agent(3).give_up(&state, &streaming()), Err(Unfit::Switchover));
        let mut sealed = three_nodes();
        fill_rules(&mut sealed);
        crate::cluster::testing::seal(&mut sealed, 1, &[]);
        assert_eq!(agent(3).give_up(&sealed, &streaming()), Err(Unfit::NoPrimary));
    }

    #[test]
    fn node_that_obeyed_a_newer_goal_gives_nothing_up_by_an_older_state() {
        let (state, mut agent) = (three_nodes(), agent(3));
        agent.draft.obeyed = (Epoch(1), crate::ids::Attempt(0));
        assert_eq!(agent.give_up(&state, &streaming()), Err(Unfit::NoPrimary));
    }
}
