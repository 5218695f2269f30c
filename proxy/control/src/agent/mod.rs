//! What a node does with its own PostgreSQL, as follows from the agreed state.
//!
//! Nobody sends orders: each node applies the log, and [`goal`] names what the state wants of it.
//! [`Agent::next`] compares that with how things stand and names the next [`Step`]s; each may be
//! repeated without harm. What must outlive the process is in [`Record`], which is on disk before
//! any step that depends on it: a node that restarts with an older state than it once acted upon
//! does nothing that it had already been told to give up.
//!
//! It must not know how PostgreSQL is started or asked; that is the driver's, who tells what it
//! finds as [`Local`].

mod goal;
mod record;

pub use goal::{Goal, goal};
pub use record::Record;

use alloc::vec::Vec;

use crate::cluster::history::{History, Switch};
use crate::cluster::sync::Rule;
use crate::cluster::{Report, State};
use crate::facts::{AgentFacts, Postgres, Recovered};
use crate::ids::{BootTime, Epoch, Incarnation, Lsn, NodeId, SystemId, Timeline};
use crate::lease::Wants;

/// The postmaster, as the driver finds it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Process {
    /// It does not run, and was not asked to in this life, or was asked to end.
    #[default]
    Stopped,
    /// It ended unasked.
    Exited,
    /// It runs as a standby or is still recovering as one.
    Standby,
    /// It runs as a primary, or recovers to become one.
    Primary,
}

/// How the local PostgreSQL stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Local {
    /// Of which database system the directory is.
    pub system: SystemId,
    /// The postmaster.
    pub process: Process,
    /// The last moment at which it answered a probe in full: accepted a connection, returned a
    /// query, and its disk took a write. Meaningless while it is stopped.
    pub answered: BootTime,
    /// Whom it is set up to receive from, durably.
    pub upstream: Option<NodeId>,
    /// Whether it receives from there now.
    pub is_streaming: bool,
    /// Without an upstream: whether its local log is replayed to the end, and nothing receives.
    pub is_drained: bool,
    /// How far it has flushed or replayed, whichever is further.
    pub end: Lsn,
    /// The timeline it is on, and where that left the one before.
    pub timeline: Timeline,
    /// Where the timeline left the one before.
    pub switch: Lsn,
    /// On a primary: where its recovery ended, once it has.
    pub recovery_end: Option<Lsn>,
    /// On a primary: the rule that every walsender runs.
    pub runs_rule: Option<Rule>,
    /// On a primary: how far enough members of that rule have flushed.
    pub rule_flushed: Lsn,
    /// How far it had flushed when it first ran that rule everywhere.
    pub rule_since: Lsn,
    /// After a clean shutdown: the end of the shutdown checkpoint.
    pub shut_down: Option<Lsn>,
}

/// One thing to do, in the order in which they come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Write the record and sync; nothing after it may be done before.
    Persist(Record),
    /// Close the gate for this epoch and all before, for good, and tell the voters then.
    Close(Epoch),
    /// Let in members only, under the epoch's lease.
    OpenToPeers(Epoch),
    /// Let in everybody, under the epoch's lease.
    Open(Epoch),
    /// End PostgreSQL at once, without its leave.
    Kill,
    /// End it in order, with a shutdown checkpoint that standbys receive.
    ShutDown,
    /// Remove the upstream durably, and end what receives from it.
    Detach,
    /// Start it as a standby, with the upstream it has or without one.
    StartStandby,
    /// Make a running standby a primary, with this rule. Every epoch has a timeline of its own, so
    /// nobody becomes primary in another way.
    Promote(Rule),
    /// Make this the rule of every walsender.
    SetRule(Rule),
    /// Receive from this node, from the directory as it is.
    Follow(NodeId),
    /// Give the directory this node's history again, by rewinding or cloning it, then follow.
    Rebuild(NodeId),
}

/// The agent of one directory.
#[derive(Clone, Debug)]
pub struct Agent {
    me: NodeId,
    priority: u32,
    /// What is to be on disk.
    draft: Record,
    /// What is on disk.
    record: Record,
    facts: Option<AgentFacts>,
}

impl Agent {
    /// An agent that starts, with the record of its earlier lives.
    #[must_use]
    pub fn new(me: NodeId, priority: u32, record: Record) -> Self {
        Self { me, priority, draft: record.clone(), record, facts: None }
    }

    /// What is on disk.
    #[must_use]
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// The record is on disk.
    pub fn handle_persisted(&mut self, written: Record) {
        self.record = written;
    }

    /// The directory was rebuilt as a copy of the primary's: it is another one from now on.
    pub fn handle_rebuilt(&mut self, directory: Incarnation, history: History, epoch: Epoch) {
        self.draft.directory = directory;
        self.draft.is_whole = true;
        self.draft.history = history;
        self.draft.basis = Some(epoch);
    }

    /// What the coordinator is to know; `None` before the first look at PostgreSQL, and while the
    /// directory is rebuilt.
    #[must_use]
    pub fn facts(&self) -> Option<&AgentFacts> {
        self.facts.as_ref()
    }

    /// The leases that this agent can make use of.
    #[must_use]
    pub fn wants(&self, state: &State) -> Wants {
        let directory = self.record.directory;
        let newest = state.tenure().map(|tenure| (tenure.holder, tenure.epoch));
        // Reads are served only by a directory that receives from the newest primary.
        let streams = self.facts.as_ref().and_then(|facts| facts.streams);
        let is_member = newest.is_some() && streams == newest && self.record.is_whole;
        let epoch = state.tenure().map(|tenure| tenure.epoch);
        let primary =
            epoch.filter(|epoch| self.draft.may_serve(*epoch) && self.record.may_serve(*epoch));
        Wants {
            primary: primary.map(|epoch| (epoch, directory)),
            member: is_member.then_some(directory),
            proxy: false,
        }
    }

    /// The next steps, in order, as things stand. `held` is until when the newest epoch's primary
    /// lease is held here.
    pub fn next(
        &mut self,
        state: &State,
        local: &Local,
        held: Option<(Epoch, BootTime)>,
        now: BootTime,
    ) -> Vec<Step> {
        self.learn_history(state, local);
        let goal = goal(state, self.me, self.draft.directory);
        let mut steps = Vec::new();
        if self.draft.obey(&goal) {
            let leased = held.filter(|(_, until)| now < *until).map(|(epoch, _)| epoch);
            steps = self.steps(&goal, state, local, leased);
        }
        if self.draft != self.record {
            // All else waits until this is on disk, closing excepted: that only takes away.
            steps.retain(|step| matches!(step, Step::Close(_) | Step::Kill));
            steps.push(Step::Persist(self.draft.clone()));
        }
        let is_whole = self.draft.is_whole && self.record.is_whole;
        self.facts = is_whole.then(|| self.describe(&goal, state, local, now));
        steps
    }

    fn steps(
        &mut self,
        goal: &Goal,
        state: &State,
        local: &Local,
        leased: Option<Epoch>,
    ) -> Vec<Step> {
        match goal {
            Goal::Idle => Vec::new(),
            Goal::Freeze { epoch, .. } => freeze(*epoch, local),
            Goal::Promote { epoch, rule } if leased == Some(*epoch) => {
                self.promote(*epoch, rule, local)
            }
            // Nobody promotes without the lease.
            Goal::Promote { .. } => Vec::new(),
            Goal::Serve { epoch, rule } => serve(*epoch, rule, local),
            Goal::StepDown { epoch } => step_down(*epoch, local),
            Goal::Follow { epoch, upstream } => self.follow(*epoch, *upstream, false, state, local),
            Goal::Rejoin { epoch, upstream } => self.follow(*epoch, *upstream, true, state, local),
        }
    }

    fn promote(&mut self, epoch: Epoch, rule: &Rule, local: &Local) -> Vec<Step> {
        // The epoch is written into the record before PostgreSQL makes a timeline for it.
        self.draft.basis = Some(epoch);
        let mut steps = alloc::vec![Step::OpenToPeers(epoch)];
        steps.extend(match local.process {
            Process::Standby => Some(Step::Promote(rule.clone())),
            Process::Stopped => Some(Step::StartStandby),
            Process::Primary if local.runs_rule.as_ref() != Some(rule) => {
                Some(Step::SetRule(rule.clone()))
            }
            // Its death is told, and ends the epoch.
            Process::Primary | Process::Exited => None,
        });
        steps
    }

    fn follow(
        &mut self,
        epoch: Epoch,
        upstream: NodeId,
        may_rebuild: bool,
        state: &State,
        local: &Local,
    ) -> Vec<Step> {
        let mut steps = Vec::new();
        // Whatever this node was before, it will not be it again in an epoch up to this one.
        if self.draft.closed < Some(epoch) {
            self.draft.closed = Some(epoch);
        }
        steps.push(Step::Close(epoch));
        if local.process == Process::Primary {
            steps.push(Step::Kill);
            return steps;
        }
        let counts = state.may_follow(&self.draft.history, local.end);
        if !counts || !self.draft.is_whole {
            // In an epoch that does not serve yet, only what no election can need is given up: a
            // directory that is half rebuilt, or one that was itself promoted in vain. Without
            // them the epoch may lack the standbys that it needs to serve.
            let is_needless = !self.draft.is_whole || state.was_in_vain(&self.draft.history);
            if may_rebuild || is_needless {
                // On disk before the first byte changes: what is half rebuilt must not be taken
                // for what it was.
                self.draft.is_whole = false;
                steps.push(Step::Rebuild(upstream));
            }
            return steps;
        }
        self.draft.basis = Some(epoch);
        if local.upstream != Some(upstream) {
            steps.push(Step::Follow(upstream));
        }
        if matches!(local.process, Process::Stopped | Process::Exited) {
            steps.push(Step::StartStandby);
        }
        steps
    }

    /// A new timeline in the directory is that of the epoch which the record names.
    fn learn_history(&mut self, state: &State, local: &Local) {
        let known = self.draft.history.0.last().map(|switch| switch.timeline);
        if known.is_none_or(|known| known >= local.timeline) {
            return;
        }
        let Some(epoch) = self.draft.basis else { return };
        let tenure = state.tenure().filter(|tenure| tenure.epoch == epoch);
        let Some(tenure) = tenure else { return };
        // A primary that crashes is promoted again in its epoch. The quorum records one switch of
        // an epoch: the last timeline, and where the first one left what was before. A later place
        // would make what another directory wrote there look as if it were shared.
        let known = self.draft.history.0.iter().find(|switch| switch.epoch == epoch);
        let at = known.map_or(local.switch, |known| known.at).min(tenure.end);
        let switch = Switch { timeline: local.timeline, at, epoch };
        if tenure.holder == self.me {
            self.draft.history.0.retain(|known| known.epoch != epoch);
            self.draft.history.0.push(switch);
            return;
        }
        // A follower gets what its primary went through before, too.
        let established = state.established().filter(|established| established.epoch == epoch);
        if let Some(established) = established {
            self.draft.history = established.history.clone();
        } else {
            self.draft.history = tenure.history.clone();
            self.draft.history.0.push(switch);
        }
    }

    fn describe(&self, goal: &Goal, state: &State, local: &Local, now: BootTime) -> AgentFacts {
        let hung_ms_max = state.policy().hung_ms_max;
        let is_hung = now >= local.answered.after_ms(hung_ms_max);
        let postgres = match (local.process, goal) {
            (Process::Standby | Process::Primary, _) if is_hung => Postgres::Hung,
            // The state takes it for a primary, and it is none: as after a restart of the host,
            // also one that came while the epoch was not known here to be established.
            (Process::Stopped | Process::Standby, Goal::Serve { .. })
            | (Process::Standby, Goal::StepDown { .. }) => Postgres::Dead,
            (Process::Stopped, Goal::StepDown { .. }) if local.shut_down.is_none() => {
                Postgres::Dead
            }
            (Process::Standby, _) => Postgres::Standby,
            (Process::Primary, _) => Postgres::Primary,
            (Process::Exited, _) => Postgres::Dead,
            (Process::Stopped, _) => Postgres::Stopped,
        };
        AgentFacts {
            directory: self.record.directory,
            system: local.system,
            timeline: local.timeline,
            priority: self.priority,
            postgres,
            end: local.end,
            streams: local.upstream.filter(|_| local.is_streaming).zip(self.record.basis),
            report: self.report(goal, local),
            recovered: self.recovered(goal, local),
            settled_change: settled_change(state, local),
            shut_down: match goal {
                Goal::StepDown { .. } if local.process == Process::Stopped => local.shut_down,
                _ => None,
            },
        }
    }

    /// The report of a frozen directory, once nothing can be added to it.
    fn report(&self, goal: &Goal, local: &Local) -> Option<Report> {
        let Goal::Freeze { epoch, attempt } = *goal else { return None };
        let is_on_disk = self.record.obeyed == (epoch, attempt) && self.draft == self.record;
        let is_still = local.upstream.is_none()
            && match local.process {
                Process::Standby => local.is_drained,
                // A former primary's directory has all that it ever flushed.
                Process::Stopped => self.record.closed >= Some(epoch) && local.is_drained,
                Process::Exited | Process::Primary => false,
            };
        (is_on_disk && is_still).then(|| Report {
            node: self.me,
            incarnation: self.record.directory,
            epoch,
            attempt,
            end: local.end,
            history: self.record.history.clone(),
        })
    }

    fn recovered(&self, goal: &Goal, local: &Local) -> Option<Recovered> {
        let Goal::Promote { epoch, rule } = goal else { return None };
        let end = local.recovery_end.filter(|_| local.process == Process::Primary)?;
        let runs = local.runs_rule.as_ref() == Some(rule);
        let newest = self.record.history.0.last()?;
        let has_timeline = (newest.timeline, newest.epoch) == (local.timeline, *epoch);
        let is_safe = rule.is_degraded() || local.rule_flushed >= end;
        let (epoch, timeline, switch) = (*epoch, local.timeline, newest.at);
        (runs && has_timeline && is_safe).then_some(Recovered { epoch, timeline, switch, end })
    }
}

fn serve(epoch: Epoch, rule: &Rule, local: &Local) -> Vec<Step> {
    match local.process {
        Process::Primary => {
            let mut steps = alloc::vec![Step::Open(epoch)];
            if local.runs_rule.as_ref() != Some(rule) {
                steps.push(Step::SetRule(rule.clone()));
            }
            steps
        }
        // After a restart of the host or of the agent, what has ended is told as dead: only a
        // new epoch starts a primary again, since commits may wait for what is elsewhere.
        Process::Stopped | Process::Exited | Process::Standby => Vec::new(),
    }
}

/// Removes the upstream before anything is said; a primary is stopped and closed first.
fn freeze(epoch: Epoch, local: &Local) -> Vec<Step> {
    let mut steps = alloc::vec![Step::Close(epoch)];
    if local.process == Process::Primary {
        steps.push(Step::Kill);
        return steps;
    }
    if local.upstream.is_some() {
        steps.push(Step::Detach);
    }
    // What its log holds beyond its last checkpoint is known when it has been replayed.
    let must_replay = !local.is_drained && local.upstream.is_none();
    if must_replay && matches!(local.process, Process::Stopped | Process::Exited) {
        steps.push(Step::StartStandby);
    }
    steps
}

/// The clean end of a primary: members receive its last word, then its gate closes for good.
fn step_down(epoch: Epoch, local: &Local) -> Vec<Step> {
    match local.process {
        Process::Primary => alloc::vec![Step::OpenToPeers(epoch), Step::ShutDown],
        Process::Stopped | Process::Standby | Process::Exited => Vec::new(),
    }
}

/// The newest change of the rule that has become true.
fn settled_change(state: &State, local: &Local) -> u64 {
    let Some(established) = state.established() else { return 0 };
    let Some(newest) = established.rules.last() else { return 0 };
    let runs = local.process == Process::Primary && local.runs_rule.as_ref() == Some(newest);
    let is_flushed = newest.is_degraded() || local.rule_flushed >= local.rule_since;
    if runs && is_flushed { established.change } else { established.change.saturating_sub(1) }
}

#[cfg(test)]
mod tests;
