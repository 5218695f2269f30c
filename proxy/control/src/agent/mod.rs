//! What a node does with its own PostgreSQL, as follows from the agreed state.
//!
//! Nobody sends orders: each node applies the log, and [`goal()`] names what the state wants of it.
//! [`Agent::next`] compares that with how things stand and names the next [`Step`]s; each may be
//! repeated without harm. What must outlive the process is in [`Record`], which is on disk before
//! any step that depends on it: a node that restarts with an older state than it once acted upon
//! does nothing that it had already been told to give up.
//!
//! It must not know how PostgreSQL is started or asked; that is the driver's, who tells what it
//! finds as [`Local`].

mod goal;
mod record;
mod wish;

pub use goal::{Goal, goal};
pub use record::{Kept, Record};
pub use wish::Unfit;

use alloc::vec::Vec;

use crate::cluster::history::{History, Switch};
use crate::cluster::sync::Rule;
use crate::cluster::{Report, State, Tenure};
use crate::facts::{AgentFacts, Postgres, Recovered};
use crate::ids::{BootTime, Epoch, Incarnation, Lsn, NodeId, SystemId, Timeline};
use crate::lease::Wants;

/// The maker of a timeline that nobody knows: no epoch is ever that high.
const NOBODYS: Epoch = Epoch(u64::MAX);

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
    /// Whether its upstream has not the log any more that it needs next.
    pub lacks_log: bool,
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
    /// How far it had flushed when every walsender had begun to run that rule; when the same rule
    /// comes again after another one, that moment anew.
    pub rule_since: Lsn,
    /// While it is stopped: whether it was a primary when it last ran, by its control file. "In
    /// production" and "shut down" are a primary's; those with "recovery" are not.
    pub was_primary: bool,
    /// Whether clients have transactions open.
    pub is_busy: bool,
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
    /// Make a checkpoint, while it serves in this epoch.
    Checkpoint(Epoch),
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
    /// Put the directory aside under the name that the record says, unless one of that name is
    /// there, and make a copy of this node's in its place; then follow.
    Copy(NodeId),
    /// Put the directory that was put aside under the name in the record back into its place.
    Restore,
    /// Keep the directory that was put aside under that name for good: operators decide what
    /// becomes of the commits that only it has.
    Retain,
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
    /// The epoch whose switchover a checkpoint was made for.
    prepared: Option<Epoch>,
    facts: Option<AgentFacts>,
}

impl Agent {
    /// An agent that starts, with the record of its earlier lives.
    #[must_use]
    pub fn new(me: NodeId, priority: u32, record: Record) -> Self {
        Self { me, priority, draft: record.clone(), record, prepared: None, facts: None }
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

    /// Whether a server was told to promote the directory, and no look has shown its timeline yet.
    /// When that server ends, the next look comes before [`Self::next()`]: whatever the promotion
    /// has made of the directory would else be nobody's.
    #[must_use]
    pub fn awaits_timeline(&self) -> bool {
        let basis = self.draft.basis.filter(|_| self.draft.promotes);
        basis.is_some_and(|epoch| !self.has_promoted(epoch))
    }

    /// The checkpoint is made that a switchover was to begin with.
    pub fn handle_checkpointed(&mut self, epoch: Epoch) {
        self.prepared = Some(epoch);
    }

    /// The directory was rebuilt as a copy of the primary's: it is another one from now on.
    pub fn handle_rebuilt(&mut self, directory: Incarnation, history: History, epoch: Epoch) {
        self.draft.directory = directory;
        self.draft.is_whole = true;
        self.draft.history = history;
        self.draft.basis = Some(epoch);
        self.draft.promotes = false;
    }

    /// There is no directory any more.
    pub fn handle_lost(&mut self) {
        self.draft.is_whole = false;
    }

    /// The directory that was put aside is back.
    pub fn handle_restored(&mut self) {
        if let Some(Kept { directory, history, .. }) = self.draft.kept.take() {
            (self.draft.directory, self.draft.history) = (directory, history);
            self.draft.is_whole = true;
            self.draft.basis = None;
            self.draft.promotes = false;
        }
    }

    /// The directory that was put aside is kept for good.
    pub fn handle_retained(&mut self) {
        self.draft.kept = None;
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
            member: epoch.filter(|_| is_member).map(|epoch| (epoch, directory)),
        }
    }

    /// The next steps, in order, as things stand. `held` is until when the newest epoch's primary
    /// lease is held here. Whoever carries steps out looks at PostgreSQL only when none of the last
    /// call is under way: a rule that is being set while the one before is still seen to run would
    /// be told as settled.
    pub fn next(
        &mut self,
        state: &State,
        local: &Local,
        held: Option<(Epoch, BootTime)>,
        now: BootTime,
    ) -> Vec<Step> {
        if self.draft.is_whole {
            self.learn_history(state, local);
        }
        if matches!(local.process, Process::Stopped | Process::Exited) {
            // It starts as a standby next time, unless it is told once more.
            self.draft.promotes = false;
        }
        if state.handover().is_none() {
            // Another switchover makes another one.
            self.prepared = None;
        }
        let goal = goal(state, self.me, &self.draft);
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
            Goal::Freeze { epoch, .. } => self.freeze(*epoch, state, local),
            // Somebody made another thing of the directory that was elected.
            Goal::Promote { .. } if !self.is_as_elected(state) => {
                let is_primary = local.process == Process::Primary;
                is_primary.then_some(Step::Kill).into_iter().collect()
            }
            Goal::Promote { epoch, rule, .. } if leased == Some(*epoch) => {
                self.promote(*epoch, rule, local)
            }
            // Nobody promotes without the lease.
            Goal::Promote { .. } => Vec::new(),
            Goal::Serve { epoch, rule } => serve(*epoch, rule, local),
            Goal::Prepare { epoch, rule } => {
                let mut steps = serve(*epoch, rule, local);
                let is_due = self.prepared != Some(*epoch) && local.process == Process::Primary;
                steps.extend(is_due.then_some(Step::Checkpoint(*epoch)));
                steps
            }
            Goal::StepDown { epoch } => step_down(*epoch, local),
            Goal::Follow { epoch, upstream } => self.follow(*epoch, *upstream, false, state, local),
            Goal::Rejoin { epoch, upstream } => self.follow(*epoch, *upstream, true, state, local),
        }
    }

    fn promote(&mut self, epoch: Epoch, rule: &Rule, local: &Local) -> Vec<Step> {
        // The epoch is written into the record before PostgreSQL makes a timeline for it.
        self.draft.basis = Some(epoch);
        if self.has_promoted(epoch) && local.process != Process::Primary {
            // Once in an epoch: a second timeline of it would be a fork of the first.
            return Vec::new();
        }
        let mut steps = alloc::vec![Step::OpenToPeers(epoch)];
        self.draft.promotes |= local.process == Process::Standby;
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
        let may_promote = local.process == Process::Standby && self.draft.promotes;
        if local.process == Process::Primary || may_promote {
            steps.push(Step::Kill);
            return steps;
        }
        if upstream == self.me {
            // The epoch is that of a directory which was here before; the next one goes on.
            return steps;
        }
        if self.draft.is_whole && self.must_retain(state) {
            steps.push(Step::Retain);
            return steps;
        }
        let lacks_log = local.lacks_log && local.upstream == Some(upstream);
        let has_parted = !state.may_follow(&self.draft.history, local.end);
        if !self.draft.is_whole || lacks_log || has_parted {
            // What was put aside for an epoch that never served is worth more than its copy.
            let is_needed = self.draft.is_whole
                && !self.may_come_back(state)
                && self.is_needed(has_parted, state);
            steps.push(self.rebuild(epoch, upstream, is_needed));
            return steps;
        }
        let has_all_switches = state.established().is_some_and(|established| {
            established.epoch == epoch && established.history == self.draft.history
        });
        let is_there = has_all_switches && local.upstream == Some(upstream);
        if self.draft.basis != Some(epoch) && local.upstream.is_some() && !is_there {
            // What still comes from elsewhere may bring another timeline, which must be known by
            // the name of its own epoch before the directory is meant for this one.
            steps.push(Step::Detach);
            return steps;
        }
        if may_rebuild {
            // The epoch has served: nothing depends any more on what was put aside for it.
            self.draft.kept = None;
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

    /// Whether the directory must not be changed before another is in its place.
    fn is_needed(&self, has_parted: bool, state: &State) -> bool {
        let unserved = state.tenure().filter(|tenure| !tenure.is_established);
        // Acknowledged commits may depend on it, or it may have some that an operator gave up.
        unserved.is_some_and(|tenure| tenure.is_lossy || state.needs(self.draft.directory))
            || has_parted && state.is_from_before_loss(&self.draft.history)
    }

    /// Whether a directory is aside that comes back if the epochs since come to nothing.
    fn may_come_back(&self, state: &State) -> bool {
        let served = state.established().map(|established| established.epoch);
        self.draft.kept.as_ref().is_some_and(|kept| Some(kept.epoch) > served)
    }

    /// Whether a directory is aside that does not come back, and may have commits that were given
    /// up.
    fn must_retain(&self, state: &State) -> bool {
        let kept = self.draft.kept.as_ref().filter(|_| !self.may_come_back(state));
        kept.is_some_and(|kept| state.is_from_before_loss(&kept.history))
    }

    /// What becomes of a directory that cannot follow as it is. One that is needed is put aside: it
    /// comes back if the epoch comes to nothing.
    fn rebuild(&mut self, epoch: Epoch, upstream: NodeId, is_needed: bool) -> Step {
        if is_needed {
            let (directory, history) = (self.draft.directory, self.draft.history.clone());
            self.draft.kept = Some(Kept { directory, history, epoch });
        }
        // On disk before the first byte changes: what is half rebuilt must not be taken for what it
        // was.
        self.draft.is_whole = false;
        let keeps = self.draft.kept.is_some();
        if keeps { Step::Copy(upstream) } else { Step::Rebuild(upstream) }
    }

    /// Removes the upstream before anything is said; a primary is stopped and closed first.
    fn freeze(&mut self, epoch: Epoch, state: &State, local: &Local) -> Vec<Step> {
        let mut steps = alloc::vec![Step::Close(epoch)];
        let must_restore = self.may_come_back(state);
        let runs = matches!(local.process, Process::Standby | Process::Primary);
        let is_primary = local.process == Process::Primary || self.draft.promotes;
        if runs && (must_restore || !self.draft.is_whole || is_primary) {
            steps.push(Step::Kill);
            return steps;
        }
        if must_restore {
            // On disk before the first byte changes: until the record names what is back, what is
            // found in its place is not the directory that it tells of.
            self.draft.is_whole = false;
            steps.push(Step::Restore);
        }
        if must_restore || !self.draft.is_whole {
            return steps;
        }
        if local.upstream.is_some() {
            steps.push(Step::Detach);
        }
        // What its log holds beyond its last checkpoint is known when it has been replayed.
        let is_down = match local.process {
            Process::Exited => true,
            Process::Stopped => !local.is_drained,
            Process::Standby | Process::Primary => false,
        };
        if is_down && local.upstream.is_none() {
            steps.push(Step::StartStandby);
        }
        steps
    }

    /// A new timeline in the directory gets its name: the epoch that made it. One that cannot be
    /// told is named after what the directory was last meant for, which makes it a fork of what
    /// became of that; nothing else must ever take the name of a recorded switch.
    fn learn_history(&mut self, state: &State, local: &Local) {
        let (timeline, at) = (local.timeline, local.switch);
        if self.is_promoted_by_hand(state, local) {
            // What it has written since is nobody's, whatever number its timeline has.
            let stray = Switch { timeline, at, epoch: NOBODYS };
            if self.draft.history.0.last() != Some(&stray) {
                self.draft.history.0.push(stray);
            }
            return;
        }
        let known = self.draft.history.0.last().map(|switch| switch.timeline);
        if known.is_none_or(|known| known >= local.timeline) {
            return;
        }
        if let Some(epoch) = self.draft.basis.filter(|_| self.draft.promotes) {
            // It has made this one itself. A recorded one may have its very number and place.
            self.draft.history.0.push(Switch { timeline, at, epoch });
            return;
        }
        let is_primarys = match local.process {
            Process::Primary => true,
            Process::Stopped | Process::Exited => local.was_primary,
            Process::Standby => false,
        };
        if is_primarys {
            // Nor was it told to, so somebody did it by hand, in an epoch that may be over.
            self.draft.history.0.push(Switch { timeline, at, epoch: NOBODYS });
            return;
        }
        let tenure = state.tenure();
        let recorded = state.established().map(|established| &established.history);
        let elected = tenure.map(|tenure| &tenure.history);
        for known in recorded.into_iter().chain(elected) {
            let is_this = |switch: &Switch| (switch.timeline, switch.at) == (timeline, at);
            if let Some(place) = known.0.iter().position(is_this) {
                let upto = &known.0[..=place];
                // It went that way if what it went through before is the beginning of it.
                if upto.starts_with(&self.draft.history.0) && self.went_by(upto, tenure) {
                    self.draft.history = History(upto.to_vec());
                    return;
                }
            }
        }
        let newest = tenure
            .filter(|tenure| self.draft.basis == Some(tenure.epoch) && !tenure.is_established);
        if let Some(tenure) = newest.filter(|tenure| tenure.holder != self.me) {
            // A follower gets what its primary went through before, too.
            if tenure.history.0.starts_with(&self.draft.history.0) {
                self.draft.history = tenure.history.clone();
            }
        }
        let epoch = self.draft.basis.unwrap_or(NOBODYS);
        self.draft.history.0.push(Switch { timeline, at, epoch });
    }

    /// Whether somebody made a primary of a directory that was meant to follow in the newest epoch.
    /// It could not be told later: the timeline would get the name of the epoch that it followed
    /// for, and may have the very number and place of its primary's.
    fn is_promoted_by_hand(&self, state: &State, local: &Local) -> bool {
        let follows = state.tenure().is_some_and(|tenure| {
            tenure.holder != self.me && self.draft.basis == Some(tenure.epoch)
        });
        follows && local.process == Process::Primary
    }

    /// Whether the directory was promoted for this epoch.
    fn has_promoted(&self, epoch: Epoch) -> bool {
        self.draft.history.0.last().is_some_and(|switch| switch.epoch == epoch)
    }

    /// Whether the directory is the one that was elected: promoted for the newest epoch, or not at
    /// all since.
    fn is_as_elected(&self, state: &State) -> bool {
        let Some(tenure) = state.tenure() else { return false };
        let own = &self.draft.history.0;
        let since = own.strip_prefix(&tenure.history.0[..]);
        since.is_some_and(|since| match since {
            [] => true,
            [switch] => switch.epoch == tenure.epoch,
            _ => false,
        })
    }

    /// Whether a recorded switch can be the one that this directory went through: it followed for
    /// that epoch or a later one, or made the switch itself.
    fn went_by(&self, upto: &[Switch], tenure: Option<&Tenure>) -> bool {
        let Some(made) = upto.last().map(|switch| switch.epoch) else { return false };
        let newest = tenure.map(|tenure| tenure.epoch);
        self.draft.basis.is_some_and(|basis| basis >= made && Some(basis) <= newest)
    }

    fn describe(&self, goal: &Goal, state: &State, local: &Local, now: BootTime) -> AgentFacts {
        let hung_ms_max = state.policy().hung_ms_max;
        let is_hung = now >= local.answered.after_ms(hung_ms_max);
        let postgres = match (local.process, goal) {
            (Process::Standby | Process::Primary, _) if is_hung => Postgres::Hung,
            // As after a promotion by hand: the next epoch needs another.
            (_, Goal::Promote { .. }) if !self.is_as_elected(state) => Postgres::Dead,
            // The state takes it for a primary, and it is none: as after a restart of the host,
            // also one that came while the epoch was not known here to be established.
            (Process::Stopped | Process::Standby, Goal::Serve { .. } | Goal::Prepare { .. })
            | (Process::Standby, Goal::StepDown { .. }) => Postgres::Dead,
            (Process::Stopped, Goal::StepDown { .. }) if local.shut_down.is_none() => {
                Postgres::Dead
            }
            (Process::Standby, _) => Postgres::Standby,
            (Process::Primary, _) => Postgres::Primary,
            (Process::Exited, _) => Postgres::Dead,
            (Process::Stopped, Goal::Promote { epoch, .. }) if self.has_promoted(*epoch) => {
                Postgres::Dead
            }
            (Process::Stopped, _) => Postgres::Stopped,
        };
        AgentFacts {
            epoch: state.tenure().map(|tenure| tenure.epoch),
            directory: self.record.directory,
            system: local.system,
            timeline: local.timeline,
            priority: self.priority,
            postgres,
            end: local.end,
            streams: local.upstream.filter(|_| local.is_streaming).zip(self.record.basis),
            report: self.report(goal, state, local),
            promoted: match goal {
                Goal::Promote { epoch, .. }
                | Goal::Serve { epoch, .. }
                | Goal::Prepare { epoch, .. }
                    if local.process == Process::Primary && local.recovery_end.is_some() =>
                {
                    Some(*epoch)
                }
                _ => None,
            },
            recovered: self.recovered(goal, local),
            settled_change: settled_change(state, local),
            prepared: self.prepared,
            is_busy: matches!(goal, Goal::StepDown { .. }) && is_busy(local),
            is_idle: state.is_detached(self.me)
                && local.process == Process::Standby
                && !local.is_busy,
            shut_down: match goal {
                Goal::StepDown { .. } if local.process == Process::Stopped => local.shut_down,
                _ => None,
            },
        }
    }

    /// The report of a frozen directory, once nothing can be added to it.
    fn report(&self, goal: &Goal, state: &State, local: &Local) -> Option<Report> {
        let Goal::Freeze { epoch, attempt } = *goal else { return None };
        let is_on_disk = self.record.obeyed == (epoch, attempt) && self.draft == self.record;
        let is_still = local.upstream.is_none()
            && match local.process {
                Process::Standby => local.is_drained,
                // A former primary's directory has all that it ever flushed.
                Process::Stopped => self.record.closed >= Some(epoch) && local.is_drained,
                Process::Exited | Process::Primary => false,
            };
        let recorded = &state.established()?.history.0;
        let own = &self.record.history.0;
        let shared = own.iter().zip(recorded).take_while(|(own, known)| own == known).count();
        (is_on_disk && is_still).then(|| Report {
            node: self.me,
            incarnation: self.record.directory,
            epoch,
            attempt,
            end: local.end,
            shared,
            history: History(own[shared..].to_vec()),
        })
    }

    fn recovered(&self, goal: &Goal, local: &Local) -> Option<Recovered> {
        let Goal::Promote { epoch, rule, change } = goal else { return None };
        let end = local.recovery_end.filter(|_| local.process == Process::Primary)?;
        let runs = local.runs_rule.as_ref() == Some(rule);
        let newest = self.record.history.0.last();
        let has_timeline = newest
            .is_some_and(|switch| (switch.timeline, switch.epoch) == (local.timeline, *epoch));
        let is_safe = rule.is_degraded() || local.rule_flushed >= end;
        let (epoch, timeline, switch) = (*epoch, local.timeline, local.switch);
        let recovered = Recovered { epoch, timeline, switch, end, change: *change };
        (runs && has_timeline && is_safe).then_some(recovered)
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

/// Whether clients would lose what they are about.
fn is_busy(local: &Local) -> bool {
    local.process == Process::Primary && local.is_busy
}

/// The clean end of a primary, when nobody is about anything: members receive its last word, then
/// its gate closes for good.
fn step_down(epoch: Epoch, local: &Local) -> Vec<Step> {
    match local.process {
        _ if is_busy(local) => Vec::new(),
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
mod testing;

#[cfg(test)]
mod tests;

#[cfg(test)]
mod attack_tests;

#[cfg(test)]
mod caution_tests;

#[cfg(test)]
mod loss_tests;
