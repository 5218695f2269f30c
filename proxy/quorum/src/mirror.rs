//! The log in memory, as Raft reads it. The file is read once, at the start; from then on each
//! write goes to the file first and then here, so that reading cannot fail in the middle of Raft.

use std::collections::VecDeque;

use protobuf::Message as _;
use raft::eraftpb::{ConfState, Entry, HardState, Snapshot};
use raft::{GetEntriesContext, RaftState, Storage, StorageError};

use crate::store::{Batch, Contents, Position};

/// What Raft knows of the file.
pub(crate) struct Mirror {
    hard_state: HardState,
    snapshot: Snapshot,
    /// The last entry that is no longer in the log.
    truncated: Position,
    entries: VecDeque<Entry>,
    entries_bytes: usize,
}

impl Mirror {
    pub(crate) fn new(contents: Contents) -> Self {
        let entries_bytes = contents.entries.iter().map(entry_bytes).sum();
        Self {
            hard_state: contents.hard_state,
            snapshot: contents.snapshot,
            truncated: contents.truncated,
            entries: contents.entries.into(),
            entries_bytes,
        }
    }

    pub(crate) fn hard_state(&self) -> &HardState {
        &self.hard_state
    }

    pub(crate) fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    pub(crate) fn snapshot_position(&self) -> Position {
        let meta = self.snapshot.get_metadata();
        Position { index: meta.index, term: meta.term }
    }

    pub(crate) fn entries_bytes(&self) -> usize {
        self.entries_bytes
    }

    pub(crate) fn first(&self) -> u64 {
        self.truncated.index + 1
    }

    pub(crate) fn last(&self) -> u64 {
        self.truncated.index + self.entries.len() as u64
    }

    /// The term of an entry that is known; zero is never one.
    pub(crate) fn term_at(&self, index: u64) -> Option<u64> {
        if index == self.truncated.index {
            return Some(self.truncated.term);
        }
        self.slot(index).and_then(|slot| self.entries.get(slot)).map(|entry| entry.term)
    }

    /// Follows what was just made durable.
    pub(crate) fn follow(&mut self, batch: &Batch<'_>) {
        if let Some(hard_state) = batch.hard_state {
            self.hard_state = hard_state.clone();
        }
        if let Some(snapshot) = batch.received {
            let meta = snapshot.get_metadata();
            self.truncated = Position { index: meta.index, term: meta.term };
            self.entries.clear();
            self.entries_bytes = 0;
        }
        if let Some(first) = batch.entries.first() {
            while self.last() >= first.index {
                let entry = self.entries.pop_back().expect("the log was not cut so far");
                self.entries_bytes -= entry_bytes(&entry);
            }
            self.entries_bytes += batch.entries.iter().map(entry_bytes).sum::<usize>();
            self.entries.extend(batch.entries.iter().cloned());
        }
        if let Some((snapshot, truncated)) = batch.compacted {
            while self.truncated.index < truncated.index {
                let entry = self.entries.pop_front().expect("only what is there is cut");
                self.entries_bytes -= entry_bytes(&entry);
                self.truncated = Position { index: entry.index, term: entry.term };
            }
            self.snapshot = snapshot.clone();
        }
        if let Some(snapshot) = batch.received {
            self.snapshot = snapshot.clone();
        }
    }

    fn slot(&self, index: u64) -> Option<usize> {
        usize::try_from(index.checked_sub(self.first())?).ok()
    }
}

/// What an entry takes in memory, near enough for a bound.
fn entry_bytes(entry: &Entry) -> usize {
    size_of::<Entry>() + entry.data.len() + entry.context.len()
}

impl Storage for Mirror {
    fn initial_state(&self) -> raft::Result<RaftState> {
        let conf_state: ConfState = self.snapshot.get_metadata().get_conf_state().clone();
        Ok(RaftState::new(self.hard_state.clone(), conf_state))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if low < self.first() {
            return Err(StorageError::Compacted.into());
        }
        let (Some(start), Some(end)) = (self.slot(low), self.slot(high)) else {
            return Err(StorageError::Unavailable.into());
        };
        if end > self.entries.len() {
            return Err(StorageError::Unavailable.into());
        }
        let bytes_max = max_size.into().unwrap_or(u64::MAX);
        let mut taken = Vec::new();
        let mut bytes = 0;
        for entry in self.entries.range(start..end) {
            bytes += u64::from(entry.compute_size());
            // The first goes in any case, or nothing would ever move.
            if bytes > bytes_max && !taken.is_empty() {
                break;
            }
            taken.push(entry.clone());
        }
        Ok(taken)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index < self.truncated.index {
            return Err(StorageError::Compacted.into());
        }
        self.term_at(index).ok_or_else(|| StorageError::Unavailable.into())
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.first())
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last())
    }

    fn snapshot(&self, _request_index: u64, to: u64) -> raft::Result<Snapshot> {
        let conf_state = self.snapshot.get_metadata().get_conf_state();
        // A node that joined after the snapshot would ignore it: it takes none without its name.
        // The driver is asked for a newer one when somebody joins.
        if conf_state.voters.contains(&to) || conf_state.learners.contains(&to) {
            Ok(self.snapshot.clone())
        } else {
            Err(StorageError::SnapshotTemporarilyUnavailable.into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::body;
    use crate::ids::{Incarnation, NodeId};
    use crate::membership::Membership;
    use crate::store::FOUNDING;

    #[test]
    fn snapshot_is_kept_from_a_node_that_it_does_not_name() {
        let voter = (NodeId::new(1).unwrap(), Incarnation::new(1).unwrap());
        let membership = Membership::of_voters(&[voter]).unwrap();
        let mirror = Mirror::new(Contents {
            hard_state: HardState::default(),
            snapshot: body::snapshot(&membership, b"", FOUNDING),
            truncated: FOUNDING,
            entries: Vec::new(),
        });
        assert!(Storage::snapshot(&mirror, 0, 1).is_ok());
        let kept = raft::Error::Store(StorageError::SnapshotTemporarilyUnavailable);
        assert_eq!(Storage::snapshot(&mirror, 0, 2).err(), Some(kept));
    }
}
