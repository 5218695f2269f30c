//! The files of the control plane: made once, by an operator, and never again by themselves.
//!
//! `quorum.redb` is the log (`docs/QUORUM.md`), `refusals` what this node has refused for ever as a
//! voter of leases, `agent` what it must not forget about its PostgreSQL. Each names the store that
//! it belongs to: files of two lives in one folder are found.

use std::collections::BTreeMap;
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;

use pgx_control::cluster::Entry;
use pgx_control::lease::Refusals;
use pgx_controller::codec;
use pgx_quorum::{
    ClusterId, Expected, Founding, Identity, Incarnation, Membership, NodeId, Probe, RecoverError,
    Recovered, Store, StoreError, recover_alone,
};
use serde::{Deserialize, Serialize};

use super::clock::{random, random_number};
use super::durable::{self, ReadError};
use crate::config::Control;

/// Whose a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Owner {
    cluster: u128,
    node: u64,
    incarnation: u64,
}

impl From<Identity> for Owner {
    fn from(identity: Identity) -> Self {
        let Identity { cluster, node, incarnation } = identity;
        Self { cluster: cluster.0, node: node.get(), incarnation: incarnation.get() }
    }
}

/// What a file holds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Kept<T> {
    /// Whose it is; two only while a store is being recovered.
    pub(super) owners: Vec<Owner>,
    pub(super) value: T,
}

/// Why the files cannot be made or used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StorageError {
    /// There is no store.
    #[error(
        "{path} is not there, and is never made by itself.\n  If this node has never run: 'pgx \
         init store --found' makes it on the first node of a new cluster, 'pgx init store --join \
         --cluster-id ID' on every other one.\n  If it has run and its disk was lost: number \
         {node} has forgotten its votes and must not be used again. On a living node run 'pgx ctl \
         node remove {node}', then give this host a new number and certificate, and join with that",
        path = path.display()
    )]
    Missing { path: PathBuf, node: u64 },
    /// The store cannot be used.
    #[error("cannot use {}: {error}", path.display())]
    Store { path: PathBuf, error: StoreError },
    /// What the voter has refused cannot be read.
    #[error(
        "{0}; a voter that forgot what it refused is worse than none: on a living node run 'pgx \
         ctl node remove {1}', then join with a new number"
    )]
    Refusals(ReadError, u64),
    /// A file of another life.
    #[error(
        "{} belongs to another store than the quorum.redb beside it; one of them was put back from \
         a copy: remove this member and join with a new number", .0.display()
    )]
    Stray(PathBuf),
    /// A number that has run here before.
    #[error(
        "{} says that node {node} has run here and lost its quorum.redb; join with a new number \
         ('pgx ctl node remove {node}' on a living node), and move that file away",
        path.display()
    )]
    Lost { path: PathBuf, node: u64 },
    /// The system refused.
    #[error("cannot make {}: {error}", path.display())]
    System { path: PathBuf, error: std::io::Error },
    /// The store cannot be recovered.
    #[error("not recovered: {0}")]
    Recover(#[from] RecoverError),
}

/// The paths.
#[derive(Clone, Debug)]
pub(super) struct Files {
    pub(super) store: PathBuf,
    pub(super) refusals: PathBuf,
    pub(super) agent: PathBuf,
}

impl Files {
    pub(super) fn of(control: &Control) -> Self {
        let file = |name: &str| control.data.join(name);
        Self { store: file("quorum.redb"), refusals: file("refusals"), agent: file("agent") }
    }
}

/// What a node starts with.
pub(super) struct Opened {
    pub(super) store: Store,
    pub(super) refusals: Refusals,
    pub(super) files: Files,
}

/// Opens what is there.
///
/// # Errors
/// When something is missing, damaged, or another node's.
pub(super) fn open(control: &Control) -> Result<Opened, StorageError> {
    let files = Files::of(control);
    let store = reopen(control, &files)?;
    let owner = Owner::from(store.identity());
    let kept = durable::read::<Kept<Refusals>>(&files.refusals)
        .map_err(|error| StorageError::Refusals(error, control.node.0))?;
    if !kept.owners.contains(&owner) {
        return Err(StorageError::Stray(files.refusals));
    }
    Ok(Opened { store, refusals: kept.value, files })
}

/// Opens the store alone.
///
/// # Errors
/// As [`open`].
pub(super) fn reopen(control: &Control, files: &Files) -> Result<Store, StorageError> {
    let expected = Expected { node: NodeId::new(control.node.0), ..Expected::default() };
    Store::open(&files.store, expected).map_err(|error| match error {
        StoreError::Missing { path } => StorageError::Missing { path, node: control.node.0 },
        error => StorageError::Store { path: files.store.clone(), error },
    })
}

/// Founds a cluster whose only voter is this node.
///
/// # Errors
/// When there is a store already, or the disk does not take it.
pub(crate) fn found(control: &Control) -> Result<Identity, StorageError> {
    let identity = identity(control, ClusterId(u128::from_be_bytes(random())));
    let alone = Membership::of_voters(&[(identity.node, identity.incarnation)]);
    let alone = alone.expect("one voter is a membership");
    make(control, identity, &Founding::Cluster(alone))?;
    Ok(identity)
}

/// Makes the store of a node that the others will take in.
///
/// # Errors
/// As [`found`].
pub(crate) fn join(control: &Control, cluster: u128) -> Result<Identity, StorageError> {
    let identity = identity(control, ClusterId(cluster));
    make(control, identity, &Founding::Joiner)?;
    Ok(identity)
}

/// Makes this node's store that of a new cluster of its own; see [`recover_alone`].
///
/// # Errors
/// When another voter may live, or the store cannot be used; nothing is changed then.
pub(crate) fn recover(
    control: &Control,
    probes: &BTreeMap<NodeId, Probe>,
) -> Result<Recovered, StorageError> {
    let Opened { store, refusals, files } = open(control)?;
    let old = Owner::from(store.identity());
    drop(store);
    let next = identity(control, ClusterId(u128::from_be_bytes(random())));
    let system = |error| StorageError::System { path: files.refusals.clone(), error };
    // For both until the store is the new one: a crash in between leaves either usable.
    let owners = vec![old, next.into()];
    let both = Kept { owners, value: refusals.clone() };
    durable::write(&files.refusals, &both).map_err(system)?;
    let alone = codec::encode(&Entry::Recovered { survivor: control.node });
    let recovered = recover_alone(&files.store, next.cluster, next.incarnation, probes, alone);
    let owners = vec![if recovered.is_ok() { next.into() } else { old }];
    durable::write(&files.refusals, &Kept { owners, value: refusals }).map_err(system)?;
    Ok(recovered?)
}

fn identity(control: &Control, cluster: ClusterId) -> Identity {
    let node = NodeId::new(control.node.0).expect("the configuration was checked");
    let incarnation = (0..).find_map(|_| Incarnation::new(random_number()));
    Identity { cluster, node, incarnation: incarnation.expect("zero is not drawn for ever") }
}

fn make(control: &Control, identity: Identity, founding: &Founding) -> Result<(), StorageError> {
    let files = Files::of(control);
    let made = DirBuilder::new().recursive(true).mode(0o700).create(&control.data);
    made.map_err(|error| StorageError::System { path: control.data.clone(), error })?;
    if files.store.exists() {
        let error = StoreError::Exists { path: files.store.clone() };
        return Err(StorageError::Store { path: files.store, error });
    }
    let owner = Owner::from(identity);
    match durable::read::<Kept<Refusals>>(&files.refusals) {
        Ok(kept) if kept.owners.iter().all(|other| other.node != owner.node) => {}
        Err(ReadError::Missing(_)) => {}
        Ok(_) => return Err(StorageError::Lost { path: files.refusals, node: owner.node }),
        Err(error) => return Err(StorageError::Refusals(error, owner.node)),
    }
    let first = Kept { owners: vec![owner], value: Refusals::default() };
    durable::write(&files.refusals, &first)
        .map_err(|error| StorageError::System { path: files.refusals.clone(), error })?;
    Store::create(&files.store, identity, founding).map_err(|error| {
        // Nothing has started with it, so nothing is lost.
        let _ = std::fs::remove_file(&files.refusals);
        StorageError::Store { path: files.store.clone(), error }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn control(folder: &tempfile::TempDir) -> Control {
        Control {
            node: pgx_control::ids::NodeId(3),
            listen: ([127, 0, 0, 1], 0).into(),
            certificate: PathBuf::new(),
            key: PathBuf::new(),
            ca: PathBuf::new(),
            peers: BTreeMap::new(),
            data: folder.path().join("data"),
            priority: 0,
        }
    }

    #[test]
    fn nothing_is_made_by_itself_and_the_error_names_both_cases() {
        let folder = tempfile::tempdir().unwrap();
        let control = control(&folder);
        let error = open(&control).err().unwrap().to_string();
        for part in ["--found", "--join", "pgx ctl node remove 3", "new number"] {
            assert!(error.contains(part), "{part}: {error}");
        }
        assert!(!control.data.exists());
    }

    #[test]
    fn founded_store_opens_and_is_never_made_twice() {
        let folder = tempfile::tempdir().unwrap();
        let control = control(&folder);
        let identity = found(&control).unwrap();
        assert_eq!(open(&control).unwrap().store.identity(), identity);
        assert!(matches!(found(&control), Err(StorageError::Store { .. })));
        assert!(matches!(join(&control, 1), Err(StorageError::Store { .. })));
    }

    #[test]
    fn lost_or_foreign_parts_of_a_store_are_found() {
        let folder = tempfile::tempdir().unwrap();
        let control = control(&folder);
        join(&control, 7).unwrap();
        let files = Files::of(&control);
        let kept = std::fs::read(&files.refusals).unwrap();

        std::fs::remove_file(&files.refusals).unwrap();
        assert!(matches!(open(&control), Err(StorageError::Refusals(ReadError::Missing(_), 3))));
        std::fs::write(&files.refusals, b"damaged").unwrap();
        assert!(matches!(open(&control), Err(StorageError::Refusals(..))));

        std::fs::write(&files.refusals, &kept).unwrap();
        std::fs::remove_file(&files.store).unwrap();
        assert!(matches!(join(&control, 7), Err(StorageError::Lost { node: 3, .. })));

        std::fs::remove_file(&files.refusals).unwrap();
        join(&control, 7).unwrap();
        std::fs::write(&files.refusals, &kept).unwrap();
        assert!(matches!(open(&control), Err(StorageError::Stray(_))));
    }

    #[test]
    fn sole_voter_is_recovered_into_another_cluster_with_its_refusals() {
        let folder = tempfile::tempdir().unwrap();
        let control = control(&folder);
        let before = found(&control).unwrap();
        let recovered = recover(&control, &BTreeMap::new()).unwrap();
        assert_ne!(recovered.identity.cluster, before.cluster);
        assert_eq!(open(&control).unwrap().store.identity(), recovered.identity);
    }
}
