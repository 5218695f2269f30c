//! What operators ask.

use pgx_control::admin::{Shared, SharedChange, Survey};
use pgx_control::cluster::{Entry, Role, State, Tenure, Void};
use pgx_control::decide;
use pgx_control::ids::{Attempt, BootTime, NodeId};
use pgx_control::survey;
use pgx_quorum as quorum;

use super::{Asked, Controller, Output};
use crate::limits::{REQUEST_MS_MAX, REQUESTS_OPEN_MAX, SCHEDULE_MS_MAX};
use crate::request::{Answer, Rehearsal, Request, Unanswered};

impl Controller {
    /// An operator asks something of the cluster. The outcome comes as [`Output::Answer`] with this
    /// number; a node that does not coordinate answers who does.
    pub fn handle_request(&mut self, number: u64, request: &Request, now: BootTime) {
        let answer = match self.entries(request, now) {
            _ if self.asked.len() >= REQUESTS_OPEN_MAX => Err(Unanswered::Busy),
            Err(unanswered) => Err(unanswered),
            Ok(Asking::Transfer(to)) => self.transfer(to),
            Ok(Asking::Entries(entries)) => {
                self.ask(number, entries, now);
                self.drain(now);
                return;
            }
        };
        self.outputs.push_back(Output::Answer { request: number, answer });
        self.drain(now);
    }

    /// What a request would propose, and what would be decided next, without doing any of it.
    ///
    /// # Errors
    /// Why it would not be carried out.
    pub fn rehearse(&self, request: &Request, now: BootTime) -> Result<Rehearsal, Unanswered> {
        let Asking::Entries(entries) = self.entries(request, now)? else {
            return Ok(Rehearsal { entries: Vec::new(), then: Vec::new() });
        };
        let mut state = State::clone(&self.state);
        for entry in &entries {
            state = decide::rehearse(&state, entry)
                .map_err(|void| Unanswered::Void { reason: void.to_string() })?;
        }
        let log = self.log(&self.quorum.status(), now);
        let then = decide::decide(&self.view(&state, &log, now), now);
        Ok(Rehearsal { entries, then })
    }

    /// The cluster as this node sees it; what it says counts only where it coordinates.
    #[must_use]
    pub fn survey(&self, now: BootTime) -> Survey {
        let log = self.log(&self.quorum.status(), now);
        let view = self.view(&self.state, &log, now);
        survey::survey(&view, self.me(), self.waits(), now)
    }

    /// Whether this node can carry requests out.
    #[must_use]
    pub fn is_coordinator(&self) -> bool {
        self.quorum.status().caught_up
    }

    /// Who can, as far as this node knows.
    #[must_use]
    pub fn known_coordinator(&self) -> Option<NodeId> {
        self.coordinator()
    }

    pub(super) fn give_up_requests(&mut self, now: BootTime) {
        let late = self.asked.iter().filter(|(_, asked)| now >= asked.until);
        for proposal in late.map(|(proposal, _)| *proposal).collect::<Vec<_>>() {
            self.answer(proposal, Err(Unanswered::Late));
        }
    }

    /// Proposes the entries in order; the outcome is that of the last one. An earlier one that is
    /// void changes nothing, and the last one then tells by its own outcome.
    fn ask(&mut self, request: u64, entries: Vec<Entry>, now: BootTime) {
        let mut last = None;
        for entry in entries {
            match self.propose(entry) {
                Ok(proposal) => last = Some(proposal),
                Err(error) => {
                    let answer = Err(Unanswered::Quorum { reason: error.to_string() });
                    return self.outputs.push_back(Output::Answer { request, answer });
                }
            }
        }
        let Some(proposal) = last else {
            return self.outputs.push_back(Output::Answer { request, answer: Ok(()) });
        };
        self.asked.insert(proposal, Asked { request, until: now.after_ms(REQUEST_MS_MAX) });
    }

    fn transfer(&mut self, to: NodeId) -> Answer {
        let Some(to) = quorum::NodeId::new(to.0) else { return Err(Unanswered::NoCandidate) };
        let transferred = self.quorum.transfer(to);
        transferred.map_err(|error| Unanswered::Quorum { reason: error.to_string() })
    }

    fn entries(&self, request: &Request, now: BootTime) -> Result<Asking, Unanswered> {
        if !self.is_coordinator() {
            return Err(Unanswered::NoCoordinator);
        }
        let tenure = self.state.tenure();
        let newest = || {
            let reason = Void::NotBootstrapped.to_string();
            tenure.ok_or(Unanswered::Void { reason })
        };
        let entries = match request {
            Request::Bootstrap { node } => self.bootstrap(*node)?,
            // A change is of what is agreed on. One under way would be undone by it.
            Request::Edit(_) if self.proposed.values().any(is_setting) => {
                return Err(Unanswered::Busy);
            }
            Request::Edit(change) => self.edit(change)?,
            Request::Node { node, address, role } => {
                self.check_number(*node, *role)?;
                vec![Entry::Node { node: *node, address: address.clone(), role: *role }]
            }
            Request::Switchover { to } => {
                let tenure = newest()?;
                let log = self.log(&self.quorum.status(), now);
                let best = || decide::best_standby(&self.view(&self.state, &log, now), now);
                let to = to.or_else(best).ok_or(Unanswered::NoCandidate)?;
                self.check_candidate(to, now)?;
                vec![Entry::Switchover { epoch: tenure.epoch, to }]
            }
            Request::Promote { to } => self.promote(newest()?, *to, now)?,
            Request::Detach { node, is_detached } => {
                self.check_is_read(now)?;
                vec![Entry::Detach { node: *node, is_detached: *is_detached }]
            }
            Request::Schedule { to, at_ms } => {
                self.check_is_read(now)?;
                if !(self.wall_ms..=self.wall_ms + SCHEDULE_MS_MAX).contains(at_ms) {
                    return Err(Unanswered::Time);
                }
                to.map_or(Ok(()), |to| self.check_candidate(to, now))?;
                vec![Entry::Schedule { epoch: newest()?.epoch, to: *to, at_ms: *at_ms }]
            }
            Request::CancelSwitchover => vec![match self.state.scheduled() {
                Some(scheduled) if self.state.handover().is_none() => {
                    Entry::ScheduleCancelled { at_ms: scheduled.at_ms }
                }
                _ => Entry::SwitchoverCancelled { epoch: newest()?.epoch },
            }],
            Request::Failover => vec![decide::seal(newest()?)],
            Request::AcceptLoss => {
                let attempt = self.state.sealed().unwrap_or(Attempt(0));
                vec![Entry::AcceptLoss { epoch: newest()?.epoch, attempt }]
            }
            Request::Pause { is_paused } => vec![Entry::Pause { is_paused: *is_paused }],
            Request::Transfer { to } => return Ok(Asking::Transfer(*to)),
        };
        Ok(Asking::Entries(entries))
    }

    /// Checked together, so that a change is made whole or not at all.
    fn edit(&self, change: &SharedChange) -> Result<Vec<Entry>, Unanswered> {
        let Shared { durability, lease, policy } = change.onto(Shared {
            durability: self.state.durability(),
            lease: self.state.settings(),
            policy: self.state.policy(),
        });
        let lease = change.lease.map(|_| Entry::Settings(lease));
        let durability = change.durability.map(|_| Entry::Durability(durability));
        let policy = change.policy.map(|_| Entry::Policy(policy));
        let entries: Vec<_> = lease.into_iter().chain(durability).chain(policy).collect();
        for entry in &entries {
            decide::rehearse(&self.state, entry)
                .map_err(|void| Unanswered::Void { reason: void.to_string() })?;
        }
        Ok(entries)
    }

    /// A primary that serves hands over; one that does not is replaced, whoever has all commits.
    fn promote(
        &self,
        tenure: &Tenure,
        to: NodeId,
        now: BootTime,
    ) -> Result<Vec<Entry>, Unanswered> {
        let log = self.log(&self.quorum.status(), now);
        if !decide::suspects(&self.view(&self.state, &log, now), tenure, now) {
            if !tenure.is_established || self.state.sealed().is_some() {
                return Err(Unanswered::UnderWay);
            }
            self.check_candidate(to, now)?;
            return Ok(vec![Entry::Switchover { epoch: tenure.epoch, to }]);
        }
        let may_serve = self.state.members().contains_key(&to) && !self.state.is_gone(to);
        match may_serve && to != tenure.holder {
            true => Ok(vec![decide::seal(tenure)]),
            false => Err(Unanswered::CannotTakeOver(to)),
        }
    }

    /// A switchover to who could not take over would be given up at once, when nobody looks any
    /// more.
    fn check_candidate(&self, to: NodeId, now: BootTime) -> Result<(), Unanswered> {
        let log = self.log(&self.quorum.status(), now);
        match decide::could_take_over(&self.view(&self.state, &log, now), to, now) {
            true => Ok(()),
            false => Err(Unanswered::CannotTakeOver(to)),
        }
    }

    /// Whether every node reads what operators ask since [`Entry::OPERATE_VERSION`].
    fn check_is_read(&self, now: BootTime) -> Result<(), Unanswered> {
        if self.state.was_operated() {
            // Who has the log reads it; a node that is down would else keep others from working.
            return Ok(());
        }
        let log = self.log(&self.quorum.status(), now);
        let reads = |node: &NodeId| {
            let seen = self.observer.nodes().get(node);
            seen.is_some_and(|seen| seen.facts.entries_read_max >= Entry::OPERATE_VERSION)
        };
        match log.keys().find(|node| !reads(node)) {
            Some(node) => Err(Unanswered::Earlier(*node)),
            None => Ok(()),
        }
    }

    /// Numbers are used in order and never again: a node that could never be added is refused here,
    /// where somebody reads why.
    fn check_number(&self, node: NodeId, role: Role) -> Result<(), Unanswered> {
        let Some(members) = self.quorum.membership().filter(|_| role != Role::Gone) else {
            return Ok(());
        };
        let is_in = |node: NodeId| {
            quorum::NodeId::new(node.0).is_some_and(|node| members.get(node).is_some())
        };
        let named = self.state.nodes().get(&node);
        if is_in(node) || named.is_some_and(|named| named.role != Role::Gone) {
            return Ok(());
        }
        let next = members.next_number().map_or(u64::MAX, quorum::NodeId::get);
        if node.0 < next {
            return Err(Unanswered::NumberUsed { node, next: NodeId(next) });
        }
        if members.iter().count() >= quorum::limits::MEMBERS_MAX {
            let reason = quorum::Misfit::TooMany.to_string();
            return Err(Unanswered::Quorum { reason });
        }
        Ok(())
    }

    fn bootstrap(&self, node: NodeId) -> Result<Vec<Entry>, Unanswered> {
        let seen = self.observer.nodes().get(&node);
        let agent = seen.and_then(|seen| seen.facts.agent.as_ref());
        let agent = agent.ok_or(Unanswered::NoDirectory(node))?;
        let bootstrap = Entry::Bootstrap {
            system: agent.system,
            holder: node,
            incarnation: agent.directory,
            timeline: agent.timeline,
        };
        Ok(vec![bootstrap])
    }
}

/// What a request comes to.
enum Asking {
    Entries(Vec<Entry>),
    Transfer(NodeId),
}

fn is_setting(entry: &Entry) -> bool {
    matches!(entry, Entry::Settings(_) | Entry::Durability(_) | Entry::Policy(_))
}
