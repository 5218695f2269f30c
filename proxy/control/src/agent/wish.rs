//! What operators wish of one node's PostgreSQL. Nobody else is asked, so a wish is granted only
//! where whatever follows from it is what the agent does anyway, and loses nothing.

use core::fmt;

use super::{Agent, Goal, Local, Process, goal};
use crate::cluster::State;
use crate::ids::NodeId;

/// Why a wish is not granted. Text for operators is in its display.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unfit {
    /// The primary is being changed, or the cluster has not begun.
    Changing,
    /// What is agreed on is not known here yet, or not any more.
    Old,
    /// It is the primary, and others could take over.
    Primary,
    /// It is the only one, and nobody makes it primary again.
    Paused,
    /// The same, since this node holds no lease.
    Unleased,
    /// It does not run.
    Down,
    /// The cluster wants nothing of this directory.
    Unwanted,
    /// There is no other primary to copy from.
    NoSource,
    /// It is being built anew, or another one is put aside for it.
    UnderWay,
    /// It may be the only one that has some acknowledged commits.
    Needed,
    /// Commits wait for it, or did until just now.
    Waited,
}

impl fmt::Display for Unfit {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Changing => {
                "no primary serves, or it is being changed; try again when 'pgx ctl status' shows \
                 one that serves"
            }
            Self::Old => "this node goes by an older state than before; try again",
            Self::Primary => {
                "PostgreSQL here is the primary: 'pgx ctl switchover' first, without errors to \
                 clients, and restart it then"
            }
            Self::Paused => {
                "failover is paused, so nobody would make it primary again: 'pgx ctl resume' first"
            }
            Self::Unleased => {
                "this node holds no lease, so nobody would make it primary again: 'pgx ctl \
                 status' says why"
            }
            Self::Down => {
                "PostgreSQL does not run here; pgx starts it when the cluster needs it, and 'pgx \
                 ctl status' says what is wrong"
            }
            Self::Unwanted => {
                "the cluster wants nothing of this PostgreSQL, so nobody would start it again: \
                 'pgx ctl status' says why"
            }
            Self::NoSource => "no other node serves as primary, so there is nobody to copy from",
            Self::UnderWay => "the directory is being built anew already",
            Self::Needed => {
                "the directory may be the only one with some commits that were given up; save it, \
                 then remove it: it is cloned"
            }
            Self::Waited => {
                "commits wait for it: 'pgx ctl detach' its node, so that they wait for another \
                 standby, and try again; where there is no other, remove the directory: it is \
                 cloned from a primary that goes on"
            }
        })
    }
}

impl Agent {
    /// Whether PostgreSQL may be ended in order, since it is started again. `is_leased` says
    /// whether this node holds the lease of the newest epoch's primary.
    ///
    /// # Errors
    /// When nobody would start it again, or another one should take over before.
    pub fn may_restart(&self, state: &State, local: &Local, is_leased: bool) -> Result<(), Unfit> {
        let wanted = self.wanted(state)?;
        match local.process {
            Process::Stopped | Process::Exited => Err(Unfit::Down),
            Process::Standby if matches!(wanted, Goal::Rejoin { .. }) => Ok(()),
            Process::Standby => Err(Unfit::Unwanted),
            Process::Primary if state.members().keys().any(|node| *node != self.me) => {
                Err(Unfit::Primary)
            }
            // The next epoch elects it, and starts it for that.
            Process::Primary if state.is_paused() => Err(Unfit::Paused),
            Process::Primary if !is_leased => Err(Unfit::Unleased),
            Process::Primary if matches!(wanted, Goal::Serve { .. }) => Ok(()),
            Process::Primary => Err(Unfit::Unwanted),
        }
    }

    /// Gives the directory up: from the next steps on it is nothing to anybody, and is copied anew
    /// from the primary, whose node this gives.
    ///
    /// # Errors
    /// When commits may be lost by that, or would wait for it.
    pub fn give_up(&mut self, state: &State, local: &Local) -> Result<NodeId, Unfit> {
        let Goal::Rejoin { upstream, .. } = self.wanted(state)? else {
            return Err(Unfit::NoSource);
        };
        if upstream == self.me || local.process == Process::Primary {
            return Err(Unfit::NoSource);
        }
        if !self.draft.is_whole || self.draft.kept.is_some() {
            return Err(Unfit::UnderWay);
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

    /// What the newest state wants of the directory, under a primary that serves and stays.
    fn wanted(&self, state: &State) -> Result<Goal, Unfit> {
        let serves = state.tenure().is_some_and(|tenure| tenure.is_established);
        if !serves || state.sealed().is_some() || state.handover().is_some() {
            return Err(Unfit::Changing);
        }
        let wanted = goal(state, self.me, &self.draft);
        // Of a directory that the cluster does not know nothing is wanted, in any state.
        let is_current = wanted.stamp().is_none_or(|stamp| stamp >= self.draft.obeyed);
        if is_current { Ok(wanted) } else { Err(Unfit::Old) }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{NOW, local};
    use super::super::{Kept, Record, Step};
    use super::*;
    use crate::cluster::Entry;
    use crate::cluster::testing::{
        any, apply_all, directory, elect, establish, history, report, seal, three_nodes,
    };
    use crate::ids::{Attempt, Epoch, Lsn, SystemId, Timeline};
    use crate::lease::Settings;

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
        assert_eq!(agent(1).give_up(&state, &local(Process::Primary)), Err(Unfit::NoSource));
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
        assert_eq!(agent(3).give_up(&state, &streaming()), Err(Unfit::Changing));
        let mut sealed = three_nodes();
        seal(&mut sealed, 1, &[]);
        assert_eq!(agent(3).give_up(&sealed, &streaming()), Err(Unfit::Changing));
    }

    #[test]
    fn node_that_obeyed_a_newer_goal_gives_nothing_up_by_an_older_state() {
        let (state, mut agent) = (waits_for(2), agent(3));
        agent.draft.obeyed = (Epoch(1), Attempt(0));
        assert_eq!(agent.give_up(&state, &streaming()), Err(Unfit::Old));
    }

    #[test]
    fn directory_with_commits_that_were_given_up_or_one_aside_is_not_given_up() {
        let mut state = three_nodes();
        seal(&mut state, 1, &[1, 2, 3]);
        let mut entry = elect(&state, 3, [report(&state, 3, 100)].to_vec());
        if let Entry::NewEpoch { accept_loss, .. } = &mut entry {
            *accept_loss = true;
        }
        let (epoch, attempt) = (Epoch(0), Attempt(1));
        apply_all(&mut state, [Entry::AcceptLoss { epoch, attempt }, entry]);
        establish(&mut state, 2, 100).unwrap();
        let parted = Local { end: Lsn(120), ..streaming() };
        assert_eq!(agent(1).give_up(&state, &parted), Err(Unfit::Needed));

        let (state, mut agent) = (waits_for(2), agent(3));
        let kept = Kept { directory: directory(3), history: history(&[]), epoch: Epoch(0) };
        agent.draft.kept = Some(kept);
        assert_eq!(agent.give_up(&state, &streaming()), Err(Unfit::UnderWay));
    }

    #[test]
    fn postgresql_is_restarted_only_where_it_is_started_again() {
        let mut state = three_nodes();
        let primary = local(Process::Primary);
        assert_eq!(agent(2).may_restart(&state, &streaming(), false), Ok(()));
        assert_eq!(agent(2).may_restart(&state, &local(Process::Exited), false), Err(Unfit::Down));
        assert_eq!(agent(1).may_restart(&state, &primary, true), Err(Unfit::Primary));
        let stranger = Agent::new(NodeId(2), 0, Record::new(directory(9), history(&[(1, 0, 0)])));
        assert_eq!(stranger.may_restart(&state, &streaming(), false), Err(Unfit::Unwanted));
        apply_all(&mut state, [Entry::Switchover { epoch: Epoch(0), to: NodeId(3) }]);
        assert_eq!(agent(2).may_restart(&state, &streaming(), false), Err(Unfit::Changing));
    }

    #[test]
    fn primary_that_is_alone_is_restarted_only_where_it_is_elected_again() {
        let mut state = State::new([NodeId(1)].into(), Settings::default());
        let (holder, incarnation) = (NodeId(1), directory(1));
        let (system, timeline) = (SystemId(1), Timeline(1));
        let begin = Entry::Bootstrap { system, holder, incarnation, timeline };
        apply_all(&mut state, [begin]);
        let primary = local(Process::Primary);
        assert_eq!(agent(1).may_restart(&state, &primary, true), Ok(()));
        assert_eq!(agent(1).may_restart(&state, &primary, false), Err(Unfit::Unleased));
        apply_all(&mut state, [Entry::Pause { is_paused: true }]);
        assert_eq!(agent(1).may_restart(&state, &primary, true), Err(Unfit::Paused));
    }

    #[test]
    fn standby_of_a_node_that_is_detached_is_idle_when_no_client_has_a_transaction_open() {
        let mut state = three_nodes();
        let node = NodeId(3);
        let is_idle = |state: &State, local: &Local| {
            let mut agent = agent(3);
            let record = agent.record().clone();
            agent.next(state, local, None, NOW);
            agent.handle_persisted(record);
            agent.facts().is_some_and(|facts| facts.is_idle)
        };
        assert!(!is_idle(&state, &streaming()), "nobody waits for that");
        let address = "db3:1".into();
        let named = Entry::Node { node, address, role: crate::cluster::Role::Voter };
        apply_all(&mut state, [named, Entry::Detach { node, is_detached: true }]);
        assert!(is_idle(&state, &streaming()));
        assert!(!is_idle(&state, &Local { is_busy: true, ..streaming() }));
    }
}
