//! The one durable file: log, term and vote, snapshot, and whose file it is.
//!
//! A transaction of the database is written for each step of Raft, and has reached the disk when
//! [`Store::write`] returns. Commits are in two phases: the new pages are durable before the
//! header points to them, so that opening never has to choose between an older state and a newer
//! one that looks damaged. It must not know how Raft decides, nor anything of peers.

mod error;
mod record;
mod recover;

use std::fs::{File, OpenOptions};
use std::io;
use std::ops::RangeInclusive;
use std::path::Path;

use raft::eraftpb::{Entry, HardState, Snapshot};
use redb::{
    Database, Durability, ReadableDatabase, ReadableTable, StorageBackend, TableDefinition,
    WriteTransaction,
};

use crate::body;
use crate::ids::{ClusterId, Identity, NodeId};
use crate::limits::STORE_CACHE_BYTES;
use crate::membership::Membership;
pub use error::{Damage, StoreError};
#[cfg(test)]
pub(crate) use recover::recover;
pub use recover::{Probe, RecoverError, Recovered, recover_alone};

/// Version of what the file holds. It changes when an older pgx could misread a newer file.
pub const STORE_FORMAT: u32 = 1;

/// Where a cluster's log begins: the membership it was created with counts as the first entry.
pub(crate) const FOUNDING: Position = Position { index: 1, term: 1 };

const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
const LOG: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("log");

/// A place in the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Position {
    pub(crate) index: u64,
    pub(crate) term: u64,
}

/// What a new file begins with.
#[derive(Clone, Debug)]
pub enum Founding {
    /// The first members of a new cluster, the same on each of them.
    Cluster(Membership),
    /// Nothing: a coordinator will send it all to a new member.
    Joiner,
}

/// Whose file is expected; what is `None` is not compared.
#[derive(Clone, Copy, Debug, Default)]
pub struct Expected {
    /// The cluster.
    pub cluster: Option<ClusterId>,
    /// The member.
    pub node: Option<NodeId>,
}

/// What the file holds.
pub(crate) struct Contents {
    pub(crate) hard_state: HardState,
    /// Without content on a joiner that has not heard from a coordinator.
    pub(crate) snapshot: Snapshot,
    pub(crate) truncated: Position,
    pub(crate) entries: Vec<Entry>,
}

/// What becomes durable together.
#[derive(Default)]
pub(crate) struct Batch<'a> {
    /// A coordinator's snapshot, which takes the place of the whole log.
    pub(crate) received: Option<&'a Snapshot>,
    /// Entries, which take the place of all from the first one's index on.
    pub(crate) entries: &'a [Entry],
    pub(crate) hard_state: Option<&'a HardState>,
    /// The node's own snapshot, and the last entry that goes.
    pub(crate) compacted: Option<(&'a Snapshot, Position)>,
}

/// The open file.
pub struct Store {
    database: Database,
    identity: Identity,
    hard_state: HardState,
}

impl Store {
    /// Makes the file at `path`, whole or not at all.
    ///
    /// # Errors
    /// When there is one, or the disk does not take it.
    pub fn create(path: &Path, identity: Identity, founding: &Founding) -> Result<(), StoreError> {
        if path.try_exists()? {
            return Err(StoreError::Exists { path: path.to_owned() });
        }
        let mut unfinished = path.as_os_str().to_owned();
        unfinished.push(".new");
        let unfinished = Path::new(&unfinished);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(unfinished)?;
        Self::create_on(redb::backends::FileBackend::new(file)?, identity, founding)?;
        std::fs::rename(unfinished, path)?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        // The new name is durable only when its folder is.
        File::open(folder.unwrap_or(Path::new(".")))?.sync_all()?;
        Ok(())
    }

    /// Makes the file on any backend that is empty.
    ///
    /// # Errors
    /// When the backend does not take it.
    pub fn create_on(
        backend: impl StorageBackend,
        identity: Identity,
        founding: &Founding,
    ) -> Result<(), StoreError> {
        let database = builder().create_with_backend(backend)?;
        let (snapshot, position) = match founding {
            Founding::Cluster(membership) => (body::snapshot(membership, &[], FOUNDING), FOUNDING),
            Founding::Joiner => (Snapshot::default(), Position::default()),
        };
        let (term, commit) = (position.term, position.index);
        let hard_state = HardState { term, commit, ..HardState::default() };
        let transaction = begin(&database)?;
        {
            let mut meta = transaction.open_table(META)?;
            let mut put = |name: &'static str, content: &[u8]| {
                meta.insert(name, &*record::seal(name.as_bytes(), content)).map(drop)
            };
            put(record::FORMAT, &STORE_FORMAT.to_be_bytes())?;
            put(record::IDENTITY, &record::identity_bytes(&identity))?;
            put(record::SNAPSHOT, &record::message_bytes(&snapshot))?;
            put(record::TRUNCATED, &record::position_bytes(position))?;
            put(record::HARD_STATE, &record::message_bytes(&hard_state))?;
            transaction.open_table(LOG)?;
        }
        transaction.commit()?;
        Ok(())
    }

    /// Opens the file at `path`.
    ///
    /// # Errors
    /// When it is missing, damaged, in use, or not the one that is expected.
    pub fn open(path: &Path, expected: Expected) -> Result<Self, StoreError> {
        let file = match OpenOptions::new().read(true).write(true).open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(StoreError::Missing { path: path.to_owned() });
            }
            opened => opened?,
        };
        // The database takes an empty file for one that is still to be made.
        if file.metadata()?.len() == 0 {
            return Err(Damage::Database.into());
        }
        Self::open_on(redb::backends::FileBackend::new(file)?, expected)
    }

    /// Opens the file on any backend.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_on(backend: impl StorageBackend, expected: Expected) -> Result<Self, StoreError> {
        let database = builder().create_with_backend(backend)?;
        let transaction = database.begin_read()?;
        let meta = transaction.open_table(META)?;
        let found = record::format(&get(&meta, record::FORMAT)?)?;
        if found != STORE_FORMAT {
            return Err(StoreError::OtherFormat { found, expected: STORE_FORMAT });
        }
        let identity = record::identity(&get(&meta, record::IDENTITY)?)?;
        check_identity(identity, expected)?;
        let hard_state = record::hard_state(&get(&meta, record::HARD_STATE)?)?;
        drop((meta, transaction));
        Ok(Self { database, identity, hard_state })
    }

    /// Whose file it is.
    #[must_use]
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// Reads everything, and finds out whether it fits together.
    pub(crate) fn load(&self) -> Result<Contents, StoreError> {
        let transaction = self.database.begin_read()?;
        let meta = transaction.open_table(META)?;
        let snapshot = record::snapshot(&get(&meta, record::SNAPSHOT)?)?;
        let truncated = record::position(&get(&meta, record::TRUNCATED)?)?;
        let log = transaction.open_table(LOG)?;
        let mut entries = Vec::new();
        for item in log.iter()? {
            let (index, bytes) = item?;
            entries.push(record::unseal_entry(index.value(), bytes.value())?);
        }
        let hard_state = self.hard_state.clone();
        let contents = Contents { hard_state, snapshot, truncated, entries };
        check_contents(&contents)?;
        Ok(contents)
    }

    /// Counts another life of the node that owns the file, durably: none of its lives ever has the
    /// number of an earlier one.
    pub(crate) fn begin_life(&mut self) -> Result<u64, StoreError> {
        let transaction = begin(&self.database)?;
        let life = {
            let mut meta = transaction.open_table(META)?;
            let last = match meta.get(record::LIFE)? {
                Some(found) => record::life(record::unseal(
                    record::LIFE,
                    record::LIFE.as_bytes(),
                    found.value(),
                )?)?,
                None => 0,
            };
            let life = last + 1;
            meta.insert(
                record::LIFE,
                &*record::seal(record::LIFE.as_bytes(), &life.to_be_bytes()),
            )?;
            life
        };
        transaction.commit()?;
        Ok(life)
    }

    /// Makes a batch durable; all of it or nothing is there after power loss.
    ///
    /// # Panics
    /// When term or commit index would go back, or a vote would change: Raft never asks for that.
    pub(crate) fn write(&mut self, batch: &Batch<'_>) -> Result<(), StoreError> {
        if let Some(hard_state) = batch.hard_state {
            assert_forward(&self.hard_state, hard_state);
        }
        let transaction = begin(&self.database)?;
        write_meta(&transaction, batch)?;
        write_log(&transaction, batch)?;
        transaction.commit()?;
        if let Some(hard_state) = batch.hard_state {
            self.hard_state = hard_state.clone();
        }
        Ok(())
    }
}

fn builder() -> redb::Builder {
    let mut builder = Database::builder();
    // A few megabytes are read in full at each start; in return no damage goes unnoticed.
    builder.set_cache_size(STORE_CACHE_BYTES).set_check_integrity_on_open(true);
    builder
}

fn begin(database: &Database) -> Result<WriteTransaction, StoreError> {
    let mut transaction = database.begin_write()?;
    transaction.set_durability(Durability::Immediate)?;
    transaction.set_two_phase_commit(true);
    Ok(transaction)
}

fn get(
    meta: &impl ReadableTable<&'static str, &'static [u8]>,
    name: &'static str,
) -> Result<Vec<u8>, StoreError> {
    let found = meta.get(name)?.ok_or(Damage::Malformed(name))?;
    Ok(record::unseal(name, name.as_bytes(), found.value())?.to_vec())
}

fn write_meta(transaction: &WriteTransaction, batch: &Batch<'_>) -> Result<(), StoreError> {
    let mut meta = transaction.open_table(META)?;
    let mut put = |name: &'static str, content: &[u8]| {
        meta.insert(name, &*record::seal(name.as_bytes(), content)).map(drop)
    };
    if let Some(hard_state) = batch.hard_state {
        put(record::HARD_STATE, &record::message_bytes(hard_state))?;
    }
    let received = batch.received.map(|snapshot| {
        let meta = snapshot.get_metadata();
        (snapshot, Position { index: meta.index, term: meta.term })
    });
    if let Some((snapshot, truncated)) = received.or(batch.compacted) {
        put(record::SNAPSHOT, &record::message_bytes(snapshot))?;
        put(record::TRUNCATED, &record::position_bytes(truncated))?;
    }
    Ok(())
}

fn write_log(transaction: &WriteTransaction, batch: &Batch<'_>) -> Result<(), StoreError> {
    let mut log = transaction.open_table(LOG)?;
    if batch.received.is_some() {
        delete(&mut log, 0..=u64::MAX)?;
    }
    if let Some(first) = batch.entries.first() {
        delete(&mut log, first.index..=u64::MAX)?;
    }
    for entry in batch.entries {
        log.insert(entry.index, &*record::seal_entry(entry))?;
    }
    if let Some((_, truncated)) = batch.compacted {
        delete(&mut log, 0..=truncated.index)?;
    }
    Ok(())
}

fn delete(
    log: &mut redb::Table<'_, u64, &'static [u8]>,
    range: RangeInclusive<u64>,
) -> Result<(), StoreError> {
    log.retain_in(range, |_, _| false)?;
    Ok(())
}

fn check_identity(found: Identity, expected: Expected) -> Result<(), StoreError> {
    if let Some(cluster) = expected.cluster
        && cluster != found.cluster
    {
        return Err(StoreError::OtherCluster { found: found.cluster, expected: cluster });
    }
    if let Some(node) = expected.node
        && node != found.node
    {
        return Err(StoreError::OtherNode { found: found.node, expected: node });
    }
    Ok(())
}

fn check_contents(contents: &Contents) -> Result<(), Damage> {
    let Contents { hard_state, snapshot, truncated, entries } = contents;
    let meta = snapshot.get_metadata();
    let mut last = *truncated;
    let mut snapshot_fits = meta.index == last.index && meta.term == last.term;
    for entry in entries {
        if entry.index != last.index + 1 || entry.term < last.term {
            return Err(Damage::Torn(entry.index));
        }
        last = Position { index: entry.index, term: entry.term };
        snapshot_fits |= meta.index == last.index && meta.term == last.term;
    }
    if !snapshot_fits {
        return Err(Damage::Torn(meta.index));
    }
    if !snapshot.is_empty() && body::decode(snapshot).is_none() {
        return Err(Damage::Malformed(record::SNAPSHOT));
    }
    let commits = meta.index..=last.index;
    if !commits.contains(&hard_state.commit) || hard_state.term < last.term {
        return Err(Damage::HardState);
    }
    Ok(())
}

fn assert_forward(old: &HardState, new: &HardState) {
    assert!(new.term >= old.term, "the term goes back from {} to {}", old.term, new.term);
    assert!(new.commit >= old.commit, "the commit goes back from {} to {}", old.commit, new.commit);
    let same_vote = old.vote == 0 || new.term > old.term || new.vote == old.vote;
    assert!(same_vote, "the vote of term {} changes", old.term);
}
