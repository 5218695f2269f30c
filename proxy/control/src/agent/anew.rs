//! An operator wants a standby's directory to be given up and copied anew.

use core::fmt;

use super::{Agent, Goal, Local, Process, goal};
use crate::cluster::State;
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
    /// Commits wait for it, or did until just now.
    Waited,
    /// What is agreed on is not known here yet, or not any more.
    Old,
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
            Self::Waited => {
                "commits wait for it: 'pgx ctl detach' its node, so that they wait for another \
                 standby, and try again; where there is no other, remove the directory: it is \
                 cloned from a primary that goes on"
            }
            Self::Old => "this node goes by an older state than before; try again",
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
        if !is_current {
            return Err(Unfit::Old);
        }
        if upstream == self.me || local.process == Process::Primary {
            return Err(Unfit::NoPrimary);
        }
        if state.handover().is_some() {
            return Err(Unfit::Switchover);
        }
        if state.is_from_before_loss(&self.draft.history) {
            return Err(Unfit::Needed);
        }
        // Whether the primary lives is not known here. While a rule has this directory it may be
        // the only one with some commits, and it is out of all when others have them.
        if state.needs(self.draft.directory) {
            return Err(Unfit::Waited);
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
        let (state, mut agent) = (waits_for(2), agent(3));
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
    fn directory_is_not_given_up_where_nobody_else_serves_or_commits_depend_on_it() {
        let mut state = waits_for(2);
        assert_eq!(agent(1).give_up(&state, &local(Process::Primary)), Err(Unfit::NoPrimary));
        assert_eq!(agent(2).give_up(&state, &streaming()), Err(Unfit::Waited));
        assert_eq!(agent(3).give_up(&state, &streaming()), Ok(NodeId(1)));
        let (epoch, rule) = (Epoch(0), any(1, &[3]));
        apply_all(&mut state, [Entry::RuleJoint { epoch, rule }]);
        assert_eq!(
            agent(2).give_up(&state, &streaming()),
            Err(Unfit::Waited),
            "it is in one still"
        );
        state = waits_for(2);
        apply_all(&mut state, [Entry::Switchover { epoch, to: NodeId(2) }]);
        assert_eq!(agent(3).give_up(&state, &streaming()), Err(Unfit::Switchover));
        let mut sealed = three_nodes();
        fill_rules(&mut sealed);
        crate::cluster::testing::seal(&mut sealed, 1, &[]);
        assert_eq!(agent(3).give_up(&sealed, &streaming()), Err(Unfit::NoPrimary));
    }

    #[test]
    fn node_that_obeyed_a_newer_goal_gives_nothing_up_by_an_older_state() {
        let (state, mut agent) = (waits_for(2), agent(3));
        agent.draft.obeyed = (Epoch(1), crate::ids::Attempt(0));
        assert_eq!(agent.give_up(&state, &streaming()), Err(Unfit::Old));
    }
}
