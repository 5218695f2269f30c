//! What nodes say of their hosts, as the coordinator tells it.

use alloc::collections::BTreeMap;

use super::*;
use crate::cluster::State;
use crate::cluster::testing::{directory, three_nodes};
use crate::facts::{AgentFacts, Facts, Observation};
use crate::ids::{Epoch, Incarnation, Lsn, SystemId, Timeline};
use crate::survey::survey;

const NOW: BootTime = BootTime(100_000_000_000);

/// Three nodes that are well; node 1 coordinates and has the primary.
struct Scene {
    state: State,
    nodes: BTreeMap<NodeId, Observation>,
}

fn scene() -> Scene {
    let seen = |node: u64| {
        let is_primary = node == 1;
        let agent = AgentFacts {
            epoch: Some(Epoch(0)),
            directory: directory(node),
            system: SystemId(1),
            timeline: Timeline(1),
            priority: 0,
            postgres: if is_primary { Postgres::Primary } else { Postgres::Standby },
            end: Lsn(100),
            streams: (!is_primary).then_some((NodeId(1), Epoch(0))),
            report: None,
            promoted: is_primary.then_some(Epoch(0)),
            recovered: None,
            settled_change: 2,
            prepared: None,
            is_busy: false,
            is_idle: false,
            shut_down: None,
        };
        let hears = (1..=3).filter(|other| *other != node).map(NodeId).collect();
        let facts = Facts {
            agent: Some(agent),
            host: HostFacts { hears, ..HostFacts::default() },
            ..Facts::new(Incarnation(node.into()))
        };
        (NodeId(node), Observation { heard: NOW, facts, is_steady: true })
    };
    Scene { state: three_nodes(), nodes: (1..=3).map(seen).collect() }
}

impl Scene {
    fn host(&mut self, node: u64) -> &mut HostFacts {
        &mut self.nodes.get_mut(&NodeId(node)).unwrap().facts.host
    }

    fn agent(&mut self, node: u64) -> &mut AgentFacts {
        self.nodes.get_mut(&NodeId(node)).unwrap().facts.agent.as_mut().unwrap()
    }

    /// The one says that of the other, and the other of the one.
    fn both(&mut self, one: u64, other: u64, set: fn(&mut HostFacts) -> &mut BTreeSet<NodeId>) {
        set(self.host(one)).insert(NodeId(other));
        set(self.host(other)).insert(NodeId(one));
    }

    fn survey(&self) -> crate::admin::Survey {
        let log = BTreeMap::new();
        let view = View {
            state: &self.state,
            nodes: &self.nodes,
            log: &log,
            wall_ms: 0,
            tenure_since: NOW,
            sealed_since: NOW,
            handover_since: NOW,
            stage_since: NOW,
        };
        survey(&view, NodeId(1), None, NOW)
    }

    fn assert_only(&self, cause: &str, next: &str) {
        let troubles = self.survey().troubles;
        let [only] = &troubles[..] else { panic!("not one trouble: {troubles:#?}") };
        assert!(only.cause.contains(cause), "{only:?} lacks {cause:?}");
        assert!(only.next.contains(next), "{only:?} lacks {next:?}");
    }
}

#[test]
fn nodes_that_do_not_hear_each_other_are_told_once_and_not_that_one_does_not_stream() {
    let mut scene = scene();
    scene.host(2).unheard.insert(NodeId(3));
    assert_eq!(scene.survey().troubles, [], "node 3 hears node 2 again");
    scene.both(2, 3, |host| &mut host.unheard);
    scene.assert_only("nodes 2 and 3 do not hear each other", "mend the network");
    let parted: Vec<_> = scene.survey().nodes.into_iter().map(|node| node.parted_from).collect();
    assert_eq!(parted, [[].to_vec(), [3].to_vec(), [2].to_vec()]);
    scene.agent(2).streams = None;
    assert_eq!(scene.survey().troubles.len(), 2, "it is not for want of the primary");

    let mut scene = self::scene();
    scene.both(1, 2, |host| &mut host.unheard);
    scene.agent(2).streams = None;
    scene.assert_only("nodes 1 and 2 do not hear each other", "mend the network");
}

#[test]
fn node_that_others_hear_is_not_taken_for_one_that_is_down() {
    let mut scene = scene();
    let silence = |scene: &mut Scene, ms: u64| {
        scene.nodes.get_mut(&NodeId(3)).unwrap().heard = BootTime(NOW.0 - ms * 1_000_000);
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
    let mut scene = scene();
    scene.both(2, 3, |host| &mut host.late);
    scene.assert_only("what nodes 2 and 3 send each other is lost or late", "ping");
    scene.both(1, 3, |host| &mut host.late);
    scene.assert_only("what node 3 and nodes 1, 2 send each other is lost or late", "ping");
}

#[test]
fn disk_is_told_by_what_it_lacks_and_with_what_becomes_of_postgresql() {
    let mut scene = scene();
    scene.host(1).write_ms = Some(1_500);
    scene.assert_only("on node 1 is slow: each write takes 1500 ms", "pgx ctl switchover");
    scene.host(1).write_ms = None;
    scene.host(2).write_ms = Some(1_500);
    scene.assert_only("on node 2 is slow", "count on that standby");
    scene.agent(2).postgres = Postgres::Hung;
    scene.assert_only("PostgreSQL of node 2, or its disk, does not answer", "which probe");
    scene.host(2).free_bytes = Some(3_000_000);
    scene.assert_only("on node 2 is full, 3 MB are free", "make space");
    scene.agent(2).postgres = Postgres::Dead;
    scene.assert_only("3 MB are free, and PostgreSQL does not run there", "starts it again");
}

#[test]
fn what_is_out_of_the_ordinary_is_read_off_links_and_probes() {
    let peer = |id, state: &str, away_ms, late| PeerStatus {
        id,
        address: String::new(),
        state: state.into(),
        last_error: String::new(),
        round_trip_us: None,
        away_ms: Some(away_ms),
        late,
        sent_total: 0,
        dropped_total: 0,
        received_total: 0,
        untaken_total: 0,
    };
    let peers = [
        peer(2, "connected", 1, TRIPS_LATE_MIN),
        peer(3, "down", LINK_PATIENCE_MS, TRIPS_LATE_MIN - 1),
        peer(4, "down", LINK_PATIENCE_MS - 1, 0),
    ];
    let probe = |write_ms, free_bytes| ProbeStatus {
        asks: "data disk".into(),
        unanswered_ms: None,
        detail: String::new(),
        passes: false,
        write_ms,
        free_bytes,
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
