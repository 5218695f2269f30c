//! The engine: Raft's rules by raft-rs, with its file, its messages' envelopes and its membership.
//!
//! The driver calls `handle_*` and `propose*`, and fetches every [`Action`] after each call. All
//! writing happens while actions are fetched (`advance.rs`), always before anything that depends on
//! it is handed out. `inbound.rs` checks what peers send, `change.rs` changes the membership,
//! `status.rs` tells how things are.

mod advance;
mod change;
mod inbound;
mod status;

use std::collections::{BTreeMap, VecDeque};

use raft::{Config, RawNode, StateRole};

use crate::action::{Action, Event};
use crate::body;
use crate::error::{OpenError, ProposeError, SnapshotError, Unusable};
use crate::ids::{Identity, NodeId, ProposalId};
use crate::limits::{
    ACTIONS_MAX, APPEND_BYTES_MAX, APPENDS_IN_FLIGHT_MAX, APPLY_BYTES_MAX, ELECTION_TICKS_MAX,
    ELECTION_TICKS_MIN, HEARTBEAT_TICKS, LOG_BYTES_MAX, LOG_BYTES_SNAPSHOT, LOG_ENTRIES_MAX,
    LOG_ENTRIES_TRAILING, PROPOSAL_BYTES_MAX, PROPOSALS_PENDING_MAX, SNAPSHOT_BYTES_MAX,
    UNCOMMITTED_BYTES_MAX,
};
use crate::membership::Membership;
use crate::mirror::Mirror;
use crate::store::{Batch, Position, Store};
use crate::timing::election_ticks;
pub use status::{Peer, Status};

/// One node's part in the quorum.
pub struct Quorum {
    raft: RawNode<Mirror>,
    store: Store,
    identity: Identity,
    life: u64,
    seed: u64,
    /// The membership from each index on, back to the one as of the snapshot. Empty on a joiner.
    memberships: BTreeMap<u64, Membership>,
    actions: VecDeque<Action>,
    /// What was last told about who coordinates.
    told: (Option<NodeId>, u64),
    /// This node's proposals by index, with their term, until that index is applied.
    pending: BTreeMap<u64, (u64, ProposalId)>,
    ticks: u64,
    /// When each member was last heard of.
    heard: BTreeMap<NodeId, u64>,
    /// Since when a snapshot is under way to a member.
    snapshots_sent: BTreeMap<NodeId, u64>,
    snapshot_wanted: bool,
    applied: Position,
    halted: bool,
}

impl Quorum {
    /// Starts on an open file. `seed` spreads the voters' elections; any number does, and the same
    /// number with the same inputs gives the same run.
    ///
    /// The first actions restore the state as of the snapshot; entries that were handed out before
    /// are handed out again as they follow.
    ///
    /// # Errors
    /// When the file is damaged or another incarnation's.
    ///
    /// # Panics
    /// When the limits contradict what Raft demands of its settings.
    pub fn open(mut store: Store, seed: u64) -> Result<Self, OpenError> {
        let identity = store.identity();
        let mirror = Mirror::new(store.load()?);
        let life = store.begin_life()?;
        let snapshot = mirror.snapshot_position();
        let first = body::decode(mirror.snapshot());
        let config = config(identity.node, snapshot.index);
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let raft = RawNode::new(&config, mirror, &logger)
            .expect("settings and file were checked, and reading memory cannot fail");
        let term = raft.raft.term;
        let mut quorum = Self {
            raft,
            store,
            identity,
            life,
            seed,
            memberships: BTreeMap::new(),
            actions: VecDeque::new(),
            told: (None, term),
            pending: BTreeMap::new(),
            ticks: 0,
            heard: BTreeMap::new(),
            snapshots_sent: BTreeMap::new(),
            snapshot_wanted: false,
            applied: snapshot,
            halted: false,
        };
        if let Some((membership, state)) = first {
            let own = membership.get(identity.node);
            if own.is_some_and(|member| member.incarnation != identity.incarnation) {
                return Err(OpenError::NotTheMember(identity));
            }
            quorum.restored(snapshot, membership, state);
        }
        quorum.retune();
        Ok(quorum)
    }

    /// How often the engine was opened on this file, this time included: it orders what the node
    /// says in its lives, whenever that arrives.
    #[must_use]
    pub fn life(&self) -> u64 {
        self.life
    }

    /// One tick of the driver's clock has passed.
    ///
    /// # Errors
    /// When no input is taken.
    pub fn handle_tick(&mut self) -> Result<(), Unusable> {
        self.usable()?;
        self.ticks += 1;
        self.raft.tick();
        self.retry_snapshots();
        self.retune();
        Ok(())
    }

    /// Asks for an entry to be committed; see [`crate::ConsensusLog::propose`].
    ///
    /// # Errors
    /// When it was not taken; then it will not be committed.
    pub fn propose(&mut self, proposal: ProposalId, data: Vec<u8>) -> Result<(), ProposeError> {
        self.coordinating()?;
        if data.len() > PROPOSAL_BYTES_MAX {
            return Err(ProposeError::TooLong(data.len()));
        }
        let log = self.raft.store();
        let entries = log.last() + 1 - log.first();
        let log_is_full = entries >= LOG_ENTRIES_MAX || log.entries_bytes() >= LOG_BYTES_MAX;
        if log_is_full || self.pending.len() >= PROPOSALS_PENDING_MAX {
            return Err(ProposeError::Busy);
        }
        let proposed = self.raft.propose(proposal.0.to_be_bytes().to_vec(), data);
        self.retune();
        proposed.map_err(|_| ProposeError::Busy)?;
        let index = self.raft.raft.raft_log.last_index();
        self.pending.insert(index, (self.raft.raft.term, proposal));
        Ok(())
    }

    /// Takes the driver's state as of `index`, so that the log up to there can go.
    ///
    /// # Errors
    /// When it is too long, or not a state between the last one and what was handed out.
    ///
    /// # Panics
    /// Never; the index was checked against the log.
    pub fn handle_snapshot(&mut self, index: u64, state: &[u8]) -> Result<(), SnapshotError> {
        self.usable()?;
        if state.len() > SNAPSHOT_BYTES_MAX {
            return Err(SnapshotError::TooLong(state.len()));
        }
        let log = self.raft.store();
        let (first, applied) = (log.snapshot_position().index + 1, self.applied.index);
        let membership = self.memberships.range(..=index).next_back();
        let Some((_, membership)) = membership.filter(|_| (first..=applied).contains(&index))
        else {
            return Err(SnapshotError::Index { index, first, applied });
        };
        let trailing = match log.entries_bytes() {
            bytes if bytes > LOG_BYTES_SNAPSHOT => 0,
            _ => LOG_ENTRIES_TRAILING,
        };
        let truncated = index.saturating_sub(trailing).max(log.first() - 1);
        let at = |index| log.term_at(index).map(|term| Position { index, term });
        let (position, truncated) = at(index).zip(at(truncated)).expect("both are in the log");
        let membership = membership.clone();
        let snapshot = body::snapshot(&membership, state, position);
        let batch = Batch { compacted: Some((&snapshot, truncated)), ..Batch::default() };
        self.write(&batch)?;
        self.memberships = self.memberships.split_off(&index);
        self.memberships.insert(index, membership);
        self.snapshot_wanted = false;
        Ok(())
    }

    /// The next thing to do, until there is none.
    pub fn next_action(&mut self) -> Option<Action> {
        loop {
            if let Some(action) = self.actions.pop_front() {
                return Some(action);
            }
            if self.halted || !self.raft.has_ready() {
                return None;
            }
            if let Err(error) = self.advance() {
                self.halted = true;
                self.actions.push_back(Action::Event(Event::Halted(error)));
            }
        }
    }

    /// Who coordinates, as far as this node knows.
    #[must_use]
    pub fn coordinator(&self) -> Option<NodeId> {
        NodeId::new(self.raft.raft.leader_id)
    }

    /// The membership as of the last entry handed out; `None` before the first word from a
    /// coordinator.
    #[must_use]
    pub fn membership(&self) -> Option<&Membership> {
        self.memberships.last_key_value().map(|(_, membership)| membership)
    }

    fn usable(&self) -> Result<(), Unusable> {
        if self.halted {
            Err(Unusable::Halted)
        } else if self.actions.len() + self.raft.raft.msgs.len() > ACTIONS_MAX {
            Err(Unusable::Undrained)
        } else {
            Ok(())
        }
    }

    fn coordinating(&self) -> Result<(), ProposeError> {
        self.usable()?;
        if self.raft.raft.state == StateRole::Leader {
            Ok(())
        } else {
            Err(ProposeError::NotCoordinator { coordinator: self.coordinator() })
        }
    }

    /// Replaces the wait that raft-rs drew at random, after anything that may have made it draw.
    /// It looks at the wait only in a tick, so the random one is never acted upon.
    fn retune(&mut self) {
        let wait = election_ticks(self.seed, self.identity.node, self.raft.raft.term);
        self.raft.raft.set_randomized_election_timeout(wait);
    }
}

fn config(node: NodeId, applied: u64) -> Config {
    Config {
        id: node.get(),
        election_tick: ELECTION_TICKS_MIN,
        min_election_tick: ELECTION_TICKS_MIN,
        max_election_tick: ELECTION_TICKS_MAX,
        heartbeat_tick: HEARTBEAT_TICKS,
        applied,
        max_size_per_msg: APPEND_BYTES_MAX as u64,
        max_inflight_msgs: APPENDS_IN_FLIGHT_MAX,
        check_quorum: true,
        pre_vote: true,
        max_uncommitted_size: UNCOMMITTED_BYTES_MAX as u64,
        max_committed_size_per_ready: APPLY_BYTES_MAX as u64,
        ..Config::default()
    }
}
