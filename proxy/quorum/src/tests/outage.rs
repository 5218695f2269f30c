//! Crashes, full disks and lost majorities, as the operator meets them.

use std::collections::BTreeMap;

use super::cluster::{Cluster, node};
use crate::envelope::Envelope;
use crate::limits::{ELECTION_TICKS_MAX, ELECTION_TICKS_MIN};
use crate::store::recover;
use crate::{
    Action, ClusterId, Event, Expected, Incarnation, MessageError, NodeId, Probe, Quorum,
    RecoverError, Store, StoreError,
};

const SOON: u64 = 200;

fn elected(voters: u64, seed: u64) -> Cluster {
    let mut cluster = Cluster::new(voters, seed, seed);
    cluster.tick_until(SOON, |cluster| cluster.coordinator().is_some()).expect("an election");
    for _ in 0..10 {
        cluster.propose();
        cluster.tick();
    }
    cluster
}

#[test]
fn dead_coordinator_is_succeeded_within_twenty_ticks_in_the_median() {
    let mut waits: Vec<u64> = (0..200)
        .map(|seed| {
            let mut cluster = elected(3, seed);
            // Messages take a tick: that is far more than a network does.
            cluster.faults.delay_max = 1;
            let dead = cluster.coordinator().unwrap();
            cluster.nodes.remove(&dead);
            let next = |cluster: &mut Cluster| cluster.coordinator().is_some();
            cluster.tick_until(SOON, next).expect("a successor")
        })
        .collect();
    waits.sort_unstable();
    let (median, worst) = (waits[100], waits[199]);
    println!("successor after {median} ticks in the median, {worst} at worst of 200");
    assert!(median >= ELECTION_TICKS_MIN as u64 - 2 && median < 20, "{median}");
    assert!(worst < 5 * ELECTION_TICKS_MAX as u64, "{worst}");
}

#[test]
fn coordinator_without_a_majority_steps_down() {
    let mut cluster = elected(3, 1);
    let old = cluster.coordinator().unwrap();
    cluster.apart.insert(old);
    let alone = cluster.tick_until(SOON, |cluster| {
        cluster.nodes[&old].quorum.as_ref().unwrap().coordinator().is_none()
    });
    assert!(alone.is_some_and(|ticks| ticks <= 2 * ELECTION_TICKS_MIN as u64), "{alone:?}");
}

#[test]
fn voter_with_a_full_disk_stops_and_comes_back_when_there_is_space() {
    let mut cluster = elected(3, 2);
    let full = (1..=3).map(node).find(|id| Some(*id) != cluster.coordinator()).unwrap();
    cluster.nodes[&full].disk.set_full(true);
    let halted = |cluster: &mut Cluster| {
        cluster.propose();
        cluster.nodes[&full].halted.is_some()
    };
    cluster.tick_until(SOON, halted).expect("the write fails");
    let stopped = cluster.nodes.get_mut(&full).unwrap();
    assert!(matches!(stopped.halted, Some(StoreError::Full)), "{:?}", stopped.halted);
    // It neither votes nor acknowledges: it takes no input and asks for nothing.
    let mut quorum = stopped.quorum.take().unwrap();
    assert!(quorum.handle_tick().is_err());
    assert!(quorum.next_action().is_none());
    drop(quorum);

    let all = [node(1), node(2), node(3)];
    let others: Vec<_> = all.into_iter().filter(|id| *id != full).collect();
    cluster.crash(full);
    cluster.nodes.get_mut(&full).unwrap().disk.set_full(false);
    cluster.heal(&others);
    cluster.heal(&all);
}

/// A cluster of which one survivor's file is left, and what the cluster had committed.
fn survivor(seed: u64) -> (Cluster, NodeId) {
    let mut cluster = elected(3, seed);
    cluster.heal(&[node(1), node(2), node(3)]);
    let survivor = cluster.coordinator().unwrap();
    cluster.nodes.get_mut(&survivor).unwrap().quorum = None;
    (cluster, survivor)
}

fn probes(survivor: NodeId, probe: Probe) -> BTreeMap<NodeId, Probe> {
    (1..=3).map(node).filter(|id| *id != survivor).map(|id| (id, probe)).collect()
}

#[test]
fn survivor_is_not_made_a_cluster_while_another_voter_may_live() {
    let (cluster, survivor) = survivor(3);
    let disk = &cluster.nodes[&survivor].disk;
    let mut store = Store::open_on(disk.open(), Expected::default()).unwrap();
    let fresh = (ClusterId(78), Incarnation::new(500).unwrap());
    let mut recover =
        |probes: &BTreeMap<_, _>| recover(&mut store, fresh.0, fresh.1, probes, Vec::new());

    let lives = recover(&probes(survivor, Probe::Answers));
    assert!(matches!(lives, Err(RecoverError::Lives(_))), "{lives:?}");
    let mut incomplete = probes(survivor, Probe::Gone);
    let (forgotten, _) = incomplete.pop_first().unwrap();
    let missing = recover(&incomplete);
    assert!(matches!(missing, Err(RecoverError::NotProbed(id)) if id == forgotten), "{missing:?}");
    assert_eq!(store.identity().cluster, ClusterId(77));
}

#[test]
fn survivor_of_a_lost_majority_becomes_a_cluster_with_all_it_has() {
    let (mut cluster, survivor) = survivor(4);
    let disk = cluster.nodes.remove(&survivor).unwrap().disk;
    let mut store = Store::open_on(disk.open(), Expected::default()).unwrap();
    let gone = probes(survivor, Probe::Gone);
    let new = ClusterId(78);
    recover(&mut store, new, Incarnation::new(500).unwrap(), &gone, b"alone".to_vec()).unwrap();
    drop(store);

    let expected = Expected { cluster: Some(new), node: Some(survivor) };
    let store = Store::open_on(disk.open(), expected).unwrap();
    let mut quorum = Quorum::open(store, 1).unwrap();
    let (mut applied, mut last) = (0, Vec::new());
    for _ in 0..2 * ELECTION_TICKS_MAX {
        quorum.handle_tick().unwrap();
        while let Some(action) = quorum.next_action() {
            match action {
                Action::Event(Event::Apply { data, .. }) => {
                    applied += 1;
                    last = data;
                }
                Action::Send { to, .. } => panic!("there is nobody to talk to, and it calls {to}"),
                Action::Event(_) => {}
            }
        }
    }
    assert_eq!(quorum.coordinator(), Some(survivor));
    assert_eq!(applied, cluster.checks.committed() + 1);
    assert_eq!(last, b"alone", "by the last entry the state learns of it");
    assert_eq!(quorum.membership().unwrap().next_number(), Some(node(4)));

    // Should one of the others come back after all, nobody listens to it.
    cluster.sent = Some(Vec::new());
    for _ in 0..50 {
        cluster.tick();
    }
    let sent = cluster.sent.unwrap();
    let mut envelopes = sent.iter().map(|bytes| (Envelope::decode(bytes).unwrap(), bytes));
    let (envelope, bytes) = envelopes.find(|(envelope, _)| envelope.to == survivor).unwrap();
    let refused = quorum.handle_message(envelope.from, bytes);
    assert!(matches!(refused, Err(MessageError::OtherCluster { .. })), "{refused:?}");
}
