//! What the engine hands out, and what a coordinator does with it.

use std::collections::BTreeMap;
use std::sync::Arc;

use pgx_control::cluster::{Entry, State};
use pgx_control::decide::{self, Action, LogMember, Reason, View, decide};
use pgx_control::detect::Observer;
use pgx_control::ids::{BootTime, Incarnation, NodeId};
use pgx_control::lease::Settings;
use pgx_quorum::{self as quorum, Event, Fate, ProposalId, ProposeError, Role, Status};

use super::{Controller, Note, Output};
use crate::codec;
use crate::limits::PROPOSALS_OPEN_MAX;
use crate::request::{Answer, Unanswered};

impl Controller {
    /// Takes all that the engine hands out.
    pub(super) fn drain(&mut self, now: BootTime) {
        while let Some(action) = self.quorum.next_action() {
            match action {
                quorum::Action::Send { to, bytes } => {
                    self.outputs.push_back(Output::Raft { to: NodeId(to.get()), bytes });
                }
                quorum::Action::Event(event) => self.handle_event(event, now),
            }
        }
        if core::mem::take(&mut self.snapshot_wanted) {
            self.snapshot();
        }
        if core::mem::take(&mut self.state_changed) {
            self.outputs.push_back(Output::State(Arc::clone(&self.state)));
        }
    }

    fn handle_event(&mut self, event: Event, now: BootTime) {
        match event {
            Event::Restore { index, state } => self.restore(index, &state),
            Event::Apply { index, proposal, data, .. } => {
                self.apply(index, proposal, &data, now);
            }
            Event::MembershipApplied { membership, .. } => {
                if !self.has_state {
                    // The beginning: the voters of the log are those that count for leases.
                    let voters = membership.voters().map(|node| NodeId(node.get())).collect();
                    self.state = Arc::new(State::new(voters, Settings::default()));
                    self.has_state = true;
                    self.state_changed = true;
                }
                self.has_news = true;
            }
            Event::CoordinatorChanged { coordinator, term } => {
                let node = coordinator.map(|node| NodeId(node.get()));
                self.note(Note::Coordinator { node, term });
                // Whoever it is knows nothing yet.
                self.has_news = true;
                self.coordinates_since = (node == Some(self.me)).then_some(now);
                if node != Some(self.me) {
                    self.observer = Observer::default();
                    self.proposed.clear();
                    self.set_waits(None);
                }
            }
            Event::ProposalDropped { proposal, fate } => {
                self.proposed.remove(&proposal);
                let unanswered = match fate {
                    Fate::Overwritten => Unanswered::NoCoordinator,
                    Fate::Unknown => Unanswered::Late,
                };
                self.answer(proposal, Err(unanswered));
            }
            Event::SnapshotWanted => self.snapshot_wanted = true,
            Event::Halted(error) => self.outputs.push_back(Output::Halted(error)),
        }
    }

    fn restore(&mut self, index: u64, state: &[u8]) {
        if state.is_empty() {
            // The membership that follows is the beginning.
            self.has_state = false;
            return;
        }
        match codec::decode(state) {
            Ok(state) => {
                self.state = Arc::new(state);
                self.has_state = true;
                self.state_changed = true;
            }
            Err(error) => self.fall_behind(index, error.to_string()),
        }
    }

    /// Whatever follows upon what is not understood must not be applied: this node would go by a
    /// state that nobody else has.
    fn fall_behind(&mut self, index: u64, reason: String) {
        self.is_behind = true;
        self.note(Note::Unreadable { index, reason });
    }

    fn apply(&mut self, index: u64, proposal: ProposalId, data: &[u8], now: BootTime) {
        self.proposed.remove(&proposal);
        if self.is_behind {
            return;
        }
        let entry = match codec::decode::<Entry>(data) {
            Ok(entry) => entry,
            Err(error) => return self.fall_behind(index, error.to_string()),
        };
        let applied = Arc::make_mut(&mut self.state).apply(&entry);
        let answer = applied.clone();
        let answer = answer.map_err(|void| Unanswered::Void { reason: void.to_string() });
        self.answer(proposal, answer);
        let entry = Box::new(entry);
        match applied {
            Ok(()) => {
                self.state_changed = true;
                self.has_news = true;
                self.note_since(now);
                self.note(Note::Applied { index, entry });
            }
            Err(void) => self.note(Note::Void { index, entry, void }),
        }
    }

    fn note_since(&mut self, now: BootTime) {
        fn update<T: PartialEq + Copy>(
            seen: &mut (Option<T>, BootTime),
            new: Option<T>,
            now: BootTime,
        ) {
            if seen.0 != new {
                *seen = (new, now);
            }
        }
        let epoch = self.state.tenure().map(|tenure| tenure.epoch);
        update(&mut self.since.tenure, epoch, now);
        update(&mut self.since.sealed, self.state.sealed(), now);
        update(&mut self.since.handover, self.state.handover(), now);
        update(&mut self.since.stage, self.state.stage(), now);
    }

    fn snapshot(&mut self) {
        if self.is_behind || !self.has_state {
            return;
        }
        let state = codec::encode(&*self.state);
        let index = self.quorum.status().applied_index;
        // Too early or too long: the engine asks again, and takes no more proposals at its bound.
        let _ = self.quorum.handle_snapshot(index, &state);
    }

    /// Decides and proposes, where this node coordinates and has caught up.
    pub(super) fn coordinate(&mut self, now: BootTime) {
        let Some(began) = self.coordinates_since else { return };
        let status = self.quorum.status();
        if !status.caught_up || self.is_behind {
            return;
        }
        let log = self.log(&status, now);
        let (state, quorum) = (Arc::clone(&self.state), &self.quorum);
        let belongs = |node: NodeId| {
            let member =
                quorum::NodeId::new(node.0).and_then(|node| quorum.membership()?.get(node));
            member.is_some() || state.nodes().contains_key(&node)
        };
        self.observer.handle_timeout(&state, belongs, now);
        let actions = decide(&self.view(&state, &log, began), now);
        let mut waits = None;
        let mut is_changing = false;
        for action in actions {
            match action {
                Action::Propose(entry) => self.propose_once(entry),
                Action::Change(change) if !is_changing => is_changing = self.change(change),
                Action::Change(_) => {}
                Action::Wait(reason) => waits = Some(reason),
            }
        }
        self.set_waits(waits);
        self.drain(now);
    }

    /// Who has the log, and who of them is there. Who is not may lose its place for good, so a
    /// moment of silence does not count, nor that whoever has just begun has heard of nobody yet.
    pub(super) fn log(&self, status: &Status, now: BootTime) -> BTreeMap<NodeId, LogMember> {
        let silent_ms_max = self.state.policy().silent_ms_max;
        let is_new = self.coordinates_since.is_none_or(|began| now < began.after_ms(silent_ms_max));
        let is_silent = |node: quorum::NodeId| {
            let peer = status.peers.iter().find(|peer| peer.node == node);
            let ticks = peer.map_or(Some(0), |peer| peer.silent_ticks);
            let of_late = quorum::limits::ELECTION_TICKS_MAX as u64;
            let said = self.observer.nodes().get(&NodeId(node.get()));
            let has_spoken = said.is_some_and(|seen| now < seen.heard.after_ms(silent_ms_max));
            ticks.is_none_or(|ticks| ticks > of_late) && !has_spoken
        };
        let members = status.membership.iter().flat_map(quorum::Membership::iter);
        members
            .map(|(node, member)| {
                let is_voter = member.role == Role::Voter;
                let is_heard = is_new || !is_silent(node);
                (NodeId(node.get()), LogMember { is_voter, is_heard })
            })
            .collect()
    }

    /// What is known by whoever coordinates since `began`.
    pub(super) fn view<'a>(
        &'a self,
        state: &'a State,
        log: &'a BTreeMap<NodeId, LogMember>,
        began: BootTime,
    ) -> View<'a> {
        let began = self.coordinates_since.unwrap_or(began);
        View {
            state,
            nodes: self.observer.nodes(),
            log,
            wall_ms: self.wall_ms,
            tenure_since: self.since.tenure.1.max(began),
            sealed_since: self.since.sealed.1.max(began),
            handover_since: self.since.handover.1.max(began),
            stage_since: self.since.stage.1.max(began),
        }
    }

    fn set_waits(&mut self, waits: Option<Reason>) {
        if self.waits != waits {
            self.waits.clone_from(&waits);
            self.note(Note::Waits(waits));
        }
    }

    /// Proposes what is not under way already.
    fn propose_once(&mut self, entry: Entry) {
        let is_under_way = self.proposed.values().any(|proposed| *proposed == entry);
        if !is_under_way && self.proposed.len() < PROPOSALS_OPEN_MAX {
            // Busy, or no longer coordinator: the next decision says it again.
            let _ = self.propose(entry);
        }
    }

    pub(super) fn propose(&mut self, entry: Entry) -> Result<ProposalId, ProposeError> {
        self.next_proposal = self.next_proposal.wrapping_add(1);
        let proposal = ProposalId(self.next_proposal);
        self.quorum.propose(proposal, codec::encode(&entry))?;
        self.proposed.insert(proposal, entry);
        Ok(proposal)
    }

    /// Whether the engine has taken the change.
    fn change(&mut self, change: decide::Change) -> bool {
        let number = |node: NodeId| quorum::NodeId::new(node.0);
        let change = match change {
            decide::Change::Add { node, installation } => {
                let incarnation = installation_of(installation);
                number(node)
                    .zip(incarnation)
                    .map(|(node, incarnation)| quorum::Change::AddLearner { node, incarnation })
            }
            decide::Change::Promote { node } => {
                number(node).map(|node| quorum::Change::Promote { node })
            }
            decide::Change::Remove { node } if node == self.me => {
                self.hand_office_on();
                None
            }
            decide::Change::Remove { node } => {
                number(node).map(|node| quorum::Change::Remove { node })
            }
        };
        // What the engine cannot do yet is tried again: a learner that is behind, a change that
        // runs, a majority out of reach.
        change.is_some_and(|change| self.quorum.propose_membership(change).is_ok())
    }

    /// A coordinator does not remove itself: another voter takes over and does.
    fn hand_office_on(&mut self) {
        let status = self.quorum.status();
        let voters = status.peers.iter().filter(|peer| peer.role == Role::Voter);
        let next = voters.max_by_key(|peer| peer.match_index).map(|peer| peer.node);
        if let Some(next) = next {
            let _ = self.quorum.transfer(next);
        }
    }

    pub(super) fn answer(&mut self, proposal: ProposalId, answer: Answer) {
        if let Some(asked) = self.asked.remove(&proposal) {
            self.outputs.push_back(Output::Answer { request: asked.request, answer });
        }
    }
}

/// The installation's number, as the engine knows it.
fn installation_of(installation: Incarnation) -> Option<quorum::Incarnation> {
    quorum::Incarnation::new(u64::try_from(installation.0).ok()?)
}
