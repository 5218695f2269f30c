//! One step of Raft: make durable, then send, then hand out. The order is the whole point.
//!
//! Also the commit index is durable before an entry is handed out, which Raft itself does not ask
//! for: so what a node has once applied, it applies again after a restart before it hears from
//! anybody, and it never un-knows a decision.

use protobuf::Message as _;
use raft::StateRole;
use raft::eraftpb::{ConfChange, Entry, EntryType, HardState, Message, Snapshot};

use super::Quorum;
use crate::action::{Action, Event, Fate};
use crate::body;
use crate::envelope::Envelope;
use crate::ids::{NodeId, ProposalId};
use crate::limits::{LOG_BYTES_SNAPSHOT, LOG_ENTRIES_SNAPSHOT, MESSAGE_BYTES_MAX};
use crate::membership::{Change, Membership};
use crate::store::{Batch, Position, StoreError};

impl Quorum {
    /// Carries out what Raft has ready. After an error nothing may be asked of Raft any more: it
    /// believes to be durable what is not.
    pub(super) fn advance(&mut self) -> Result<(), StoreError> {
        let mut ready = self.raft.ready();
        let received = (!ready.snapshot().is_empty()).then(|| ready.snapshot().clone());
        let committed = ready.take_committed_entries();
        self.persist(received.as_ref(), ready.entries(), !committed.is_empty())?;
        if let Some(snapshot) = &received {
            let meta = snapshot.get_metadata();
            let position = Position { index: meta.index, term: meta.term };
            let (membership, state) =
                body::decode(snapshot).expect("a snapshot is checked before Raft sees it");
            self.restored(position, membership, state);
        }
        self.tell_coordinator();
        self.send(ready.take_messages());
        self.send(ready.take_persisted_messages());
        self.apply(committed);
        let mut light = self.raft.advance_append(ready);
        let committed = light.take_committed_entries();
        if !committed.is_empty() {
            self.persist(None, &[], true)?;
        }
        self.send(light.take_messages());
        self.apply(committed);
        self.raft.advance_apply();
        self.want_snapshot_of_long_log();
        self.retune();
        Ok(())
    }

    /// Writes to the file, and to its mirror only then. An error halts the engine for good.
    pub(super) fn write(&mut self, batch: &Batch<'_>) -> Result<(), StoreError> {
        match self.store.write(batch) {
            Ok(()) => {
                self.raft.mut_store().follow(batch);
                Ok(())
            }
            Err(error) => {
                self.halted = true;
                Err(error)
            }
        }
    }

    /// The state begins anew at `position`.
    pub(super) fn restored(&mut self, position: Position, membership: Membership, state: Vec<u8>) {
        let Position { index, .. } = position;
        let later = self.pending.split_off(&(index + 1));
        for (_, proposal) in std::mem::replace(&mut self.pending, later).into_values() {
            self.tell(Event::ProposalDropped { proposal, fate: Fate::Unknown });
        }
        self.applied = position;
        self.memberships.clear();
        self.tell(Event::Restore { index, state });
        self.joined(index, membership);
    }

    pub(super) fn retry_snapshots(&mut self) {
        use crate::limits::SNAPSHOT_RETRY_TICKS;
        let under_way = self.raft.raft.prs().iter().filter_map(|(node, progress)| {
            let waits = progress.state == raft::ProgressState::Snapshot;
            waits.then_some(NodeId::new(*node)).flatten()
        });
        let now = self.ticks;
        let since = |node| (node, self.snapshots_sent.get(&node).copied().unwrap_or(now));
        self.snapshots_sent = under_way.map(since).collect();
        for (node, since) in &self.snapshots_sent {
            if now - since >= SNAPSHOT_RETRY_TICKS {
                // Raft waits for ever for an answer to a snapshot; it may have been lost.
                self.raft.report_snapshot(node.get(), raft::SnapshotStatus::Failure);
            }
        }
    }

    fn persist(
        &mut self,
        received: Option<&Snapshot>,
        entries: &[Entry],
        applies: bool,
    ) -> Result<(), StoreError> {
        let hard_state: HardState = self.raft.raft.hard_state();
        let durable = self.raft.store().hard_state();
        let needed = received.is_some()
            || !entries.is_empty()
            || hard_state.term != durable.term
            || hard_state.vote != durable.vote
            || (applies && hard_state.commit > durable.commit);
        if !needed {
            return Ok(());
        }
        let batch = Batch { received, entries, hard_state: Some(&hard_state), ..Batch::default() };
        self.write(&batch)
    }

    fn tell(&mut self, event: Event) {
        self.actions.push_back(Action::Event(event));
    }

    fn tell_coordinator(&mut self) {
        let (coordinator, term) = (self.coordinator(), self.raft.raft.term);
        if self.told != (coordinator, term) {
            self.told = (coordinator, term);
            self.tell(Event::CoordinatorChanged { coordinator, term });
        }
    }

    fn send(&mut self, messages: Vec<Message>) {
        for message in messages {
            let to = NodeId::new(message.to).expect("Raft sends to members only");
            let payload = message.write_to_bytes().expect("proto3 has no required fields");
            let known = self.membership().and_then(|membership| membership.get(to));
            let envelope = Envelope {
                cluster: self.identity.cluster,
                from: self.identity.node,
                from_incarnation: self.identity.incarnation.get(),
                to,
                to_incarnation: known.map_or(0, |member| member.incarnation.get()),
                payload: &payload,
            };
            let bytes = envelope.encode();
            assert!(bytes.len() <= MESSAGE_BYTES_MAX, "the limits keep messages short enough");
            self.actions.push_back(Action::Send { to, bytes });
        }
    }

    fn apply(&mut self, entries: Vec<Entry>) {
        for entry in entries {
            let Entry { index, term, .. } = entry;
            self.applied = Position { index, term };
            self.settle(index, term);
            if entry.get_entry_type() == EntryType::EntryNormal {
                // The entry by which a coordinator begins its term has no number and says nothing.
                if let Ok(number) = <[u8; 8]>::try_from(&*entry.context) {
                    let proposal = ProposalId(u64::from_be_bytes(number));
                    let data = entry.data.to_vec();
                    self.tell(Event::Apply { index, term, proposal, data });
                }
            } else {
                self.apply_change(index, &entry.data);
            }
        }
    }

    /// Tells the fate of an own proposal that did not get its place in the log.
    fn settle(&mut self, index: u64, term: u64) {
        if let Some((proposed, proposal)) = self.pending.remove(&index)
            && proposed != term
        {
            self.tell(Event::ProposalDropped { proposal, fate: Fate::Overwritten });
        }
    }

    fn apply_change(&mut self, index: u64, data: &[u8]) {
        let conf_change =
            ConfChange::parse_from_bytes(data).expect("entries are checked before Raft sees them");
        let change = Change::decode(&conf_change.context)
            .expect("entries are checked before Raft sees them");
        let before = self.membership().expect("a snapshot comes before any entry");
        // Every node finds the same misfits, and leaves them out.
        let Ok(membership) = before.after(change) else { return };
        self.raft.apply_conf_change(&conf_change).expect("Raft and the membership agree");
        self.joined(index, membership);
        if matches!(change, Change::AddLearner { .. }) {
            // The newcomer can take only a snapshot in which it is named.
            self.want_snapshot();
        }
        let raft = &mut self.raft.raft;
        if raft.state == StateRole::Leader && !raft.promotable() {
            // raft-rs would go on as coordinator after its own removal, and trip over its absence.
            let term = raft.term;
            raft.become_follower(term, raft::INVALID_ID);
        }
    }

    fn joined(&mut self, index: u64, membership: Membership) {
        self.heard.retain(|node, _| membership.get(*node).is_some());
        self.memberships.insert(index, membership.clone());
        self.tell(Event::MembershipApplied { index, membership });
    }

    fn want_snapshot_of_long_log(&mut self) {
        let log = self.raft.store();
        let entries = self.applied.index - log.snapshot_position().index;
        if entries >= LOG_ENTRIES_SNAPSHOT || log.entries_bytes() >= LOG_BYTES_SNAPSHOT {
            self.want_snapshot();
        }
    }

    fn want_snapshot(&mut self) {
        if !self.snapshot_wanted {
            self.snapshot_wanted = true;
            self.tell(Event::SnapshotWanted);
        }
    }
}
