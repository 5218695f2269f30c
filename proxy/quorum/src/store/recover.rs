//! The way out when a majority of voters is gone for good: one survivor becomes a cluster of its
//! own. What the lost majority had committed and the survivor never received is lost with it, which
//! is why nothing does this but an operator. The steps are in `docs/QUORUM.md`.

use std::collections::BTreeMap;
use std::path::Path;

use protobuf::Message as _;
use raft::eraftpb::{ConfChange, Entry, EntryType, HardState};

use super::{Batch, Contents, Expected, META, Position, Store, StoreError, begin, record};
use crate::body;
use crate::ids::{ClusterId, Identity, Incarnation, NodeId};
use crate::membership::{Change, Membership};

/// What was found when another voter was looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    /// It answered, so it lives.
    Answers,
    /// It was called and did not answer, and the operator states that it never will again.
    Gone,
}

/// Why a survivor is left as it is.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// The file cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Another voter lives; with it there may be a majority, or a better survivor.
    #[error("{0} answers; recover only when every other voter is gone, or let it rejoin")]
    Lives(NodeId),
    /// A voter was not looked for.
    #[error("nobody looked for {0}, a voter; probe it, and stop it for good if it is to be left")]
    NotProbed(NodeId),
    /// The file's owner does not count, so it may lack anything.
    #[error("{0} is no voter; recover from one that is")]
    NotAVoter(NodeId),
    /// The new cluster must not be taken for the old one.
    #[error("the new cluster has the old one's identity; draw new ones")]
    SameIdentity,
}

/// What a recovery did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// Who the survivor is from now on.
    pub identity: Identity,
    /// Up to here the log was known to be committed.
    pub commit_index: u64,
    /// Up to here it goes now; what lies between may or may not have been committed before.
    pub last_index: u64,
}

/// Makes the voter that owns the file at `path` the only voter of a new cluster, offline.
///
/// Numbers of the others stay retired. The new cluster's identity keeps the others, should one come
/// back, from ever being listened to. `last` becomes the last entry of the log, and counts as
/// committed like the rest: by it the state machine learns that it is alone.
///
/// # Errors
/// When another voter may live, or the file cannot be used; nothing is changed then.
pub fn recover_alone(
    path: &Path,
    cluster: ClusterId,
    incarnation: Incarnation,
    probes: &BTreeMap<NodeId, Probe>,
    last: Vec<u8>,
) -> Result<Recovered, RecoverError> {
    let mut store = Store::open(path, Expected::default())?;
    recover(&mut store, cluster, incarnation, probes, last)
}

pub(crate) fn recover(
    store: &mut Store,
    cluster: ClusterId,
    incarnation: Incarnation,
    probes: &BTreeMap<NodeId, Probe>,
    last: Vec<u8>,
) -> Result<Recovered, RecoverError> {
    let old = store.identity;
    if old.cluster == cluster || old.incarnation == incarnation {
        return Err(RecoverError::SameIdentity);
    }
    let contents = store.load()?;
    let (first, state) =
        body::decode(&contents.snapshot).ok_or(RecoverError::NotAVoter(old.node))?;
    let mut newest = first.clone();
    // Whoever was a voter at any point of this log may have a majority with others of that point.
    let mut voters: Vec<_> = first.voters().collect();
    for change in contents.entries.iter().filter_map(change_of) {
        newest = newest.after(change).unwrap_or(newest);
        voters.extend(newest.voters());
    }
    check_probes(old.node, &newest, &voters, probes)?;
    let identity = Identity { cluster, node: old.node, incarnation };
    let alone = newest.alone(old.node, incarnation);
    let meta = contents.snapshot.get_metadata();
    let position = Position { index: meta.index, term: meta.term };
    let snapshot = body::snapshot(&alone, &state, position);
    let hard_state = raised(&contents);
    let end = Entry {
        index: hard_state.commit,
        term: hard_state.term,
        data: last.into(),
        // A proposal's number: without one it would be taken for an entry of the engine's own.
        context: vec![0; 8].into(),
        ..Entry::default()
    };
    let kept = contents.entries.iter().map(without_change);
    let entries: Vec<_> = kept.chain([end]).collect();
    let batch = Batch {
        entries: &entries,
        hard_state: Some(&hard_state),
        compacted: Some((&snapshot, contents.truncated)),
        ..Batch::default()
    };
    rewrite(store, &batch, identity)?;
    Ok(Recovered {
        identity,
        commit_index: contents.hard_state.commit,
        last_index: hard_state.commit,
    })
}

/// Everything in one transaction: a survivor with half of its new identity would be of no cluster.
fn rewrite(store: &mut Store, batch: &Batch<'_>, identity: Identity) -> Result<(), StoreError> {
    let transaction = begin(&store.database)?;
    super::write_meta(&transaction, batch)?;
    super::write_log(&transaction, batch)?;
    let sealed = record::seal(record::IDENTITY.as_bytes(), &record::identity_bytes(&identity));
    transaction.open_table(META)?.insert(record::IDENTITY, &*sealed)?;
    transaction.commit()?;
    store.identity = identity;
    if let Some(hard_state) = batch.hard_state {
        store.hard_state = hard_state.clone();
    }
    Ok(())
}

fn check_probes(
    survivor: NodeId,
    newest: &Membership,
    voters: &[NodeId],
    probes: &BTreeMap<NodeId, Probe>,
) -> Result<(), RecoverError> {
    if !newest.voters().any(|node| node == survivor) {
        return Err(RecoverError::NotAVoter(survivor));
    }
    for node in voters.iter().filter(|node| **node != survivor) {
        match probes.get(node) {
            Some(Probe::Gone) => {}
            Some(Probe::Answers) => return Err(RecoverError::Lives(*node)),
            None => return Err(RecoverError::NotProbed(*node)),
        }
    }
    Ok(())
}

/// The membership is rewritten as of the snapshot, so changes after it must not be applied again.
fn without_change(entry: &Entry) -> Entry {
    let mut kept = entry.clone();
    if entry.get_entry_type() != EntryType::EntryNormal {
        kept.set_entry_type(EntryType::EntryNormal);
        kept.data.clear();
        kept.context.clear();
    }
    kept
}

fn change_of(entry: &Entry) -> Option<Change> {
    if entry.get_entry_type() != EntryType::EntryConfChange {
        return None;
    }
    let change = ConfChange::parse_from_bytes(&entry.data).ok()?;
    Change::decode(&change.context)
}

/// All of the log counts as committed: some of it the lost majority may have acknowledged. One
/// entry more ends it.
fn raised(contents: &Contents) -> HardState {
    let last = contents.entries.last().map_or(contents.truncated.index, |entry| entry.index);
    let mut hard_state = contents.hard_state.clone();
    hard_state.commit = last + 1;
    hard_state.term += 1;
    hard_state.vote = 0;
    hard_state
}
