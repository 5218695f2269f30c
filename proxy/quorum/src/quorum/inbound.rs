//! What peers send: who may speak, and what no sound peer says. raft-rs trusts its messages and
//! panics on some that contradict its state, so whatever could do that is refused here by a type.

use protobuf::Message as _;
use raft::eraftpb::{ConfChange, Entry, EntryType, Message, MessageType};

use super::Quorum;
use crate::body;
use crate::envelope::Envelope;
use crate::error::{MessageError, Unsound};
use crate::ids::{Incarnation, NodeId};
use crate::limits::TERM_MAX;
use crate::membership::Change;

impl Quorum {
    /// Bytes came from `peer`, as whoever owns the connection has authenticated it.
    ///
    /// # Errors
    /// When they are not taken; the driver logs why, and nothing has changed.
    pub fn handle_message(&mut self, peer: NodeId, bytes: &[u8]) -> Result<(), MessageError> {
        self.usable()?;
        let envelope = Envelope::decode(bytes)?;
        self.check_envelope(peer, &envelope)?;
        let from = envelope.from;
        let message = Message::parse_from_bytes(envelope.payload)
            .map_err(|_| MessageError::Malformed { from })?;
        self.check_message(&message, &envelope)?;
        if self.membership().is_some_and(|membership| membership.get(from).is_some()) {
            self.heard.insert(from, self.ticks);
        }
        // What is left to refuse are answers of nodes that have meanwhile left: no news, no fault.
        let _ = self.raft.step(message);
        self.retune();
        Ok(())
    }

    fn check_envelope(&self, peer: NodeId, envelope: &Envelope<'_>) -> Result<(), MessageError> {
        let &Envelope { cluster, from, to, .. } = envelope;
        let ours = self.identity;
        if from != peer {
            return Err(MessageError::OtherSender { peer, stated: from });
        }
        if cluster != ours.cluster {
            return Err(MessageError::OtherCluster { from, found: cluster, ours: ours.cluster });
        }
        let means_us = [0, ours.incarnation.get()].contains(&envelope.to_incarnation);
        if to != ours.node || from == ours.node || !means_us {
            return Err(MessageError::NotForUs { from, to });
        }
        let Some(membership) = self.membership() else {
            // A joiner knows nobody; the cluster's identity has to do until the snapshot is here.
            return Ok(());
        };
        let found =
            Incarnation::new(envelope.from_incarnation).ok_or(MessageError::Malformed { from })?;
        match membership.get(from) {
            Some(member) if member.incarnation != found => {
                let expected = member.incarnation;
                Err(MessageError::OtherIncarnation { from, found, expected })
            }
            None if membership.is_retired(from) => Err(MessageError::Retired { from }),
            // Somebody with a higher number may have joined by an entry that is not here yet.
            _ => Ok(()),
        }
    }

    fn check_message(
        &self,
        message: &Message,
        envelope: &Envelope<'_>,
    ) -> Result<(), MessageError> {
        use MessageType as Kind;
        let from = envelope.from;
        let unsound = |what| Err(MessageError::Unsound { from, what });
        if message.from != from.get() || message.to != self.identity.node.get() {
            return unsound(Unsound::Address);
        }
        if message.term == 0 || message.term > TERM_MAX || message.request_snapshot != 0 {
            return unsound(Unsound::Term);
        }
        let last = self.raft.raft.raft_log.last_index();
        match message.get_msg_type() {
            Kind::MsgAppend => {
                self.check_append(message).map_err(|what| MessageError::Unsound { from, what })
            }
            Kind::MsgHeartbeat if message.commit > last => {
                Err(MessageError::LogLost { from, known: message.commit, last })
            }
            Kind::MsgSnapshot if !self.snapshot_is_sound(message) => unsound(Unsound::Snapshot),
            Kind::MsgAppendResponse if self.names_entries_beyond(message) => {
                unsound(Unsound::Beyond)
            }
            Kind::MsgHeartbeat
            | Kind::MsgHeartbeatResponse
            | Kind::MsgSnapshot
            | Kind::MsgAppendResponse
            | Kind::MsgRequestVote
            | Kind::MsgRequestVoteResponse
            | Kind::MsgRequestPreVote
            | Kind::MsgRequestPreVoteResponse
            | Kind::MsgTimeoutNow => Ok(()),
            Kind::MsgHup
            | Kind::MsgBeat
            | Kind::MsgPropose
            | Kind::MsgUnreachable
            | Kind::MsgSnapStatus
            | Kind::MsgCheckQuorum
            | Kind::MsgTransferLeader
            | Kind::MsgReadIndex
            | Kind::MsgReadIndexResp => unsound(Unsound::Kind),
        }
    }

    fn check_append(&self, message: &Message) -> Result<(), Unsound> {
        let log = &self.raft.raft.raft_log;
        let (mut index, mut term) = (message.index, message.log_term);
        if index >= u64::MAX - message.entries.len() as u64 {
            return Err(Unsound::Entries);
        }
        for entry in &message.entries {
            index += 1;
            if entry.index != index || entry.term < term || entry.term > message.term {
                return Err(Unsound::Entries);
            }
            term = entry.term;
            if !entry_is_sound(entry) {
                return Err(Unsound::Entries);
            }
            let here = log.term(index).unwrap_or(0);
            if index <= log.committed && here != 0 && here != term {
                return Err(Unsound::Conflict);
            }
        }
        Ok(())
    }

    /// A joiner that is named in the snapshot by another incarnation is not meant.
    fn snapshot_is_sound(&self, message: &Message) -> bool {
        let snapshot = message.get_snapshot();
        let meta = snapshot.get_metadata();
        let in_order = meta.index > 0 && meta.term > 0 && meta.term <= message.term;
        let meant = body::decode(snapshot).is_some_and(|(membership, _)| {
            let own = membership.get(self.identity.node);
            own.is_none_or(|member| member.incarnation == self.identity.incarnation)
        });
        in_order && meant
    }

    /// Whether an answer to this coordinator of this term speaks of what was never sent.
    fn names_entries_beyond(&self, message: &Message) -> bool {
        let raft = &self.raft.raft;
        let last = raft.raft_log.last_index();
        message.term == raft.term && message.index.max(message.reject_hint) > last
    }
}

fn entry_is_sound(entry: &Entry) -> bool {
    match entry.get_entry_type() {
        EntryType::EntryNormal => matches!(entry.context.len(), 0 | 8),
        EntryType::EntryConfChange => ConfChange::parse_from_bytes(&entry.data)
            .is_ok_and(|change| Change::decode(&change.context).is_some()),
        EntryType::EntryConfChangeV2 => false,
    }
}
