//! What nodes say of their hosts, as the coordinator tells it.

use super::*;
use crate::admin::{PeerStatus, ProbeStatus};
use crate::facts::HostFacts;
use crate::limits::{DISK_FREE_BYTES_MIN, DISK_WRITE_MS_MAX, LINK_PATIENCE_MS, TRIPS_LATE_MIN};

/// Three nodes that are well and hear each other.
fn hosts() -> Scene {
    let mut scene = scene();
    for node in 1..=3 {
        scene.host(node).hears = (1..=3).filter(|other| *other != node).map(NodeId).collect();
    }
    scene
}

impl Scene {
    fn host(&mut self, node: u64) -> &mut HostFacts {
        &mut self.facts(node).host
    }

    /// The one says that of the other, and the other of the one.
    fn both(&mut self, one: u64, other: u64, set: fn(&mut HostFacts) -> &mut BTreeSet<NodeId>) {
        set(self.host(one)).insert(NodeId(other));
        set(self.host(other)).insert(NodeId(one));
    }
}

#[test]
fn nodes_that_do_not_hear_each_other_are_told_once_and_not_that_one_does_not_stream() {
    let mut scene = hosts();
    scene.host(2).unheard.insert(NodeId(3));
    assert_eq!(scene.survey().troubles, [], "node 3 hears node 2 again");
    scene.both(2, 3, |host| &mut host.unheard);
    scene.assert_only("nodes 2 and 3 do not hear each other", "mend the network");
    let parted: Vec<_> = scene.survey().nodes.into_iter().map(|node| node.parted_from).collect();
    assert_eq!(parted, [[].to_vec(), [3].to_vec(), [2].to_vec()]);
    scene.node(2).streams = None;
    assert_eq!(scene.survey().troubles.len(), 2, "it is not for want of the primary");

    let mut scene = hosts();
    scene.both(1, 2, |host| &mut host.unheard);
    scene.node(2).streams = None;
    scene.assert_only("nodes 1 and 2 do not hear each other", "mend the network");
}

#[test]
fn node_that_others_hear_is_not_taken_for_one_that_is_down() {
    let mut scene = hosts();
    let silence = |scene: &mut Scene, ms: u64| {
        scene.seen(3).heard = BootTime(NOW.0 - ms * 1_000_000);
    };
    silence(&mut scene, 3_900);
    scene.host(1).hears.remove(&NodeId(3));
    scene.assert_only("node 3 has not been heard for 3 s", "systemctl status pgx");
    scene.host(1).unheard.insert(NodeId(3));
    scene.assert_only(
        "heard for 3 s by node 1, which coordinates, and is heard by node 2",
        "mend the",
    );
    scene.host(2).hears.remove(&NodeId(3));
    scene.assert_only("node 3 has not been heard for 3 s", "systemctl status pgx");
}

#[test]
fn slow_network_is_told_of_the_node_that_all_pairs_have_in_common_or_of_the_pair() {
    let mut scene = hosts();
    scene.both(2, 3, |host| &mut host.late);
    scene.assert_only("what nodes 2 and 3 send each other is lost or late", "ping");
    scene.both(1, 3, |host| &mut host.late);
    scene.assert_only("what node 3 and nodes 1, 2 send each other is lost or late", "ping");
}

#[test]
fn disk_is_told_by_what_it_lacks_and_with_what_becomes_of_postgresql() {
    let mut scene = hosts();
    scene.host(1).write_ms = Some(1_500);
    scene.assert_only("on node 1 is slow: each write takes 1500 ms", "pgx ctl switchover");
    scene.host(1).write_ms = None;
    scene.host(2).write_ms = Some(1_500);
    scene.assert_only("on node 2 is slow", "count on that standby");
    scene.node(2).postgres = Postgres::Hung;
    scene.assert_only("PostgreSQL of node 2, or its disk, does not answer", "which probe");
    scene.host(2).free_bytes = Some(3_000_000);
    scene.assert_only("on node 2 is full, 3 MB are free", "make space");
    scene.node(2).postgres = Postgres::Dead;
    scene.assert_only("3 MB are free, and PostgreSQL does not run there", "starts it again");
}

#[test]
fn what_is_out_of_the_ordinary_is_read_off_links_and_probes() {
    let peer = |id, state: &str, away_ms, late| {
        let away_ms = Some(away_ms);
        PeerStatus { id, state: state.into(), away_ms, late, ..PeerStatus::default() }
    };
    let peers = [
        peer(2, "connected", 1, TRIPS_LATE_MIN),
        peer(3, "down", LINK_PATIENCE_MS, TRIPS_LATE_MIN - 1),
        peer(4, "down", LINK_PATIENCE_MS - 1, 0),
    ];
    let probe = |write_ms, free_bytes| ProbeStatus {
        asks: "data disk".into(),
        write_ms,
        free_bytes,
        ..ProbeStatus::default()
    };
    let probes = [
        probe(Some(DISK_WRITE_MS_MAX), Some(DISK_FREE_BYTES_MIN)),
        probe(Some(DISK_WRITE_MS_MAX - 1), Some(DISK_FREE_BYTES_MIN - 1)),
    ];
    let found = HostFacts::of(&peers, &probes);
    let expected = HostFacts {
        hears: [NodeId(2)].into(),
        unheard: [NodeId(3)].into(),
        late: [NodeId(2)].into(),
        free_bytes: Some(DISK_FREE_BYTES_MIN - 1),
        write_ms: Some(DISK_WRITE_MS_MAX),
    };
    assert_eq!(found, expected);
    let well = HostFacts::of(&[], &[probe(Some(1), Some(DISK_FREE_BYTES_MIN))]);
    assert!(well.is_empty());
}
