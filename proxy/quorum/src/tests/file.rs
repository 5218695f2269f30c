//! The file is refused when it is missing, damaged or somebody else's.

use super::cluster::Cluster;
use crate::membership::Membership;
use crate::sim::Rng;
use crate::{
    ClusterId, Expected, Founding, Identity, Incarnation, NodeId, OpenError, Quorum, Store,
    StoreError,
};

fn identity(node: u64) -> Identity {
    Identity {
        cluster: ClusterId(3),
        node: NodeId::new(node).unwrap(),
        incarnation: Incarnation::new(9).unwrap(),
    }
}

fn founding() -> Founding {
    let Identity { node, incarnation, .. } = identity(1);
    Founding::Cluster(Membership::of_voters(&[(node, incarnation)]).unwrap())
}

#[test]
fn file_is_made_once_and_found_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("quorum");
    Store::create(&path, identity(1), &founding()).unwrap();
    let again = Store::create(&path, identity(1), &founding());
    assert!(matches!(again, Err(StoreError::Exists { .. })), "{again:?}");

    let store = Store::open(&path, Expected::default()).unwrap();
    assert_eq!(store.identity(), identity(1));
    let second = Store::open(&path, Expected::default()).err();
    assert!(matches!(second, Some(StoreError::InUse)), "{second:?}");
}

#[test]
fn missing_file_is_not_made_anew() {
    let folder = tempfile::tempdir().unwrap();
    let missing = Store::open(&folder.path().join("quorum"), Expected::default()).err().unwrap();
    assert!(matches!(missing, StoreError::Missing { .. }), "{missing}");
    assert!(missing.to_string().contains("comes back only as a new member"));
}

#[test]
fn empty_file_is_damaged_and_not_a_beginning() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("quorum");
    std::fs::write(&path, b"").unwrap();
    let opened = Store::open(&path, Expected::default()).err();
    assert!(matches!(opened, Some(StoreError::Corrupt(_))), "{opened:?}");
}

#[test]
fn file_of_another_cluster_or_node_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("quorum");
    Store::create(&path, identity(1), &founding()).unwrap();
    let cluster = Expected { cluster: Some(ClusterId(4)), node: None };
    let opened = Store::open(&path, cluster).err();
    assert!(matches!(opened, Some(StoreError::OtherCluster { .. })), "{opened:?}");
    let node = Expected { cluster: Some(ClusterId(3)), node: NodeId::new(2) };
    let opened = Store::open(&path, node).err();
    assert!(matches!(opened, Some(StoreError::OtherNode { .. })), "{opened:?}");
}

#[test]
fn file_whose_log_names_another_incarnation_is_refused() {
    let disk = crate::sim::SimDisk::default();
    let other = Identity { incarnation: Incarnation::new(10).unwrap(), ..identity(1) };
    Store::create_on(disk.open(), other, &founding()).unwrap();
    let store = Store::open_on(disk.open(), Expected::default()).unwrap();
    assert!(matches!(Quorum::open(store, 0), Err(OpenError::NotTheMember(_))));
}

#[test]
fn damage_is_found_or_harmless_and_never_believed() {
    let mut cluster = Cluster::new(3, 1, 1);
    for _ in 0..60 {
        cluster.propose();
        cluster.tick();
    }
    let node = cluster.nodes.pop_first().unwrap().1;
    drop(node.quorum);
    let load = || {
        let store = Store::open_on(node.disk.open(), Expected::default())?;
        let contents = store.load()?;
        Ok::<_, StoreError>((store.identity(), contents.hard_state, contents.entries))
    };
    let sound = load().unwrap();
    let (mut rng, mut found) = (Rng::new(1), 0);
    for _ in 0..1500 {
        let image = node.disk.durable_image();
        let used: Vec<_> = (0..image.len()).filter(|at| image[*at] != 0).collect();
        let at = used[usize::try_from(rng.below(used.len() as u64)).unwrap()];
        node.disk.damage(at, u8::try_from(rng.below(8)).unwrap());
        match load() {
            Ok(loaded) => assert_eq!(loaded, sound, "byte {at} was believed"),
            Err(error) => {
                found += 1;
                assert!(matches!(error, StoreError::Corrupt(_)), "byte {at}: {error}");
            }
        }
        node.disk.restore_image(image);
    }
    assert!(found > 500, "only {found} of 1500 were found");
}
