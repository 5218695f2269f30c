//! Members come, go and are replaced while the cluster works.

use super::cluster::{Cluster, Faults, incarnation, node};
use crate::error::ChangeError;
use crate::membership::{Change, Membership, replacement_step};
use crate::{
    Expected, Fate, Founding, MessageError, NodeId, ProposeError, Role, Store, TransferError,
};

/// Enough ticks for anything that needs no time-out but one election.
const SOON: u64 = 200;

fn elected(voters: u64, seed: u64) -> Cluster {
    let mut cluster = Cluster::new(voters, seed, seed);
    let ready = cluster.tick_until(SOON, |cluster| caught_up(cluster).is_some());
    assert!(ready.is_some(), "nobody is elected");
    cluster
}

fn caught_up(cluster: &Cluster) -> Option<NodeId> {
    let coordinator = cluster.coordinator()?;
    let quorum = cluster.nodes[&coordinator].quorum.as_ref()?;
    quorum.status().caught_up.then_some(coordinator)
}

fn membership(cluster: &Cluster) -> Membership {
    let coordinator = cluster.coordinator().unwrap();
    cluster.nodes[&coordinator].quorum.as_ref().unwrap().membership().unwrap().clone()
}

fn change(cluster: &mut Cluster, change: Change) -> Result<(), ChangeError> {
    let coordinator = cluster.coordinator().unwrap();
    cluster.with(coordinator, |quorum| quorum.propose_membership(change)).unwrap()
}

/// Repeats a change until it is taken, as a driver does, and waits until it is applied.
fn carry_out(cluster: &mut Cluster, wanted: Change) {
    let taken = cluster.tick_until(SOON, |cluster| {
        cluster.propose();
        change(cluster, wanted).is_ok()
    });
    assert!(taken.is_some(), "{wanted:?} is never taken");
    let done = cluster.tick_until(SOON, |cluster| membership(cluster).after(wanted).is_err());
    assert!(done.is_some(), "{wanted:?} is never applied");
}

fn voters(cluster: &Cluster) -> Vec<u64> {
    membership(cluster).voters().map(NodeId::get).collect()
}

#[test]
fn new_voter_is_a_learner_until_it_has_the_log() {
    let mut cluster = elected(3, 1);
    for _ in 0..100 {
        cluster.propose();
        cluster.tick();
    }
    let newcomer = node(4);
    carry_out(&mut cluster, Change::AddLearner { node: newcomer, incarnation: incarnation(4) });
    let refused = change(&mut cluster, Change::Promote { node: newcomer });
    assert!(matches!(refused, Err(ChangeError::Behind { lag: 100.., .. })), "{refused:?}");

    cluster.add(newcomer, incarnation(4), &Founding::Joiner);
    carry_out(&mut cluster, Change::Promote { node: newcomer });
    assert_eq!(membership(&cluster).get(newcomer).unwrap().role, Role::Voter);
    cluster.heal(&[node(1), node(2), node(3), newcomer]);
}

#[test]
fn cluster_grows_to_five_voters_and_then_outlives_two() {
    let mut cluster = elected(3, 2);
    for number in 4..=5 {
        cluster.add(node(number), incarnation(number), &Founding::Joiner);
        let learner = Change::AddLearner { node: node(number), incarnation: incarnation(number) };
        carry_out(&mut cluster, learner);
        carry_out(&mut cluster, Change::Promote { node: node(number) });
    }
    assert_eq!(voters(&cluster), [1, 2, 3, 4, 5]);
    let coordinator = cluster.coordinator().unwrap();
    let other = (1..=5).map(node).find(|id| *id != coordinator).unwrap();
    for id in [coordinator, other] {
        cluster.nodes.remove(&id);
    }
    let left: Vec<_> = cluster.nodes.keys().copied().collect();
    cluster.heal(&left);
}

#[test]
fn voter_whose_disk_was_wiped_is_replaced_while_the_cluster_works() {
    let mut cluster = elected(3, 3);
    let old = (1..=3).map(node).find(|id| Some(*id) != cluster.coordinator()).unwrap();
    cluster.nodes.remove(&old);
    let new = (node(4), incarnation(4));
    cluster.add(new.0, new.1, &Founding::Joiner);
    let mut steps = 0;
    while let Some(step) = replacement_step(&membership(&cluster), old, true, new) {
        carry_out(&mut cluster, step);
        steps += 1;
    }
    assert_eq!(steps, 3);
    let left: Vec<_> = cluster.nodes.keys().copied().collect();
    assert_eq!(membership(&cluster).voters().collect::<Vec<_>>(), left);
    cluster.heal(&left);
}

#[test]
fn wiped_voter_under_its_old_number_is_refused_by_all() {
    let mut cluster = elected(3, 4);
    let wiped = (1..=3).map(node).find(|id| Some(*id) != cluster.coordinator()).unwrap();
    // Founded anew it would campaign and vote a second time in terms in which it has voted.
    let known: Vec<_> = membership(&cluster).iter().map(|(id, m)| (id, m.incarnation)).collect();
    let again =
        known.iter().map(|(id, old)| (*id, if *id == wiped { incarnation(9) } else { *old }));
    let founding = Membership::of_voters(&again.collect::<Vec<_>>()).unwrap();
    cluster.nodes.remove(&wiped);
    cluster.add(wiped, incarnation(9), &Founding::Cluster(founding));
    for _ in 0..60 {
        cluster.tick();
    }
    let by_others = cluster.nodes.iter().filter(|(id, _)| **id != wiped);
    for (id, other) in by_others {
        let refused = other.refused.iter().any(
            |error| matches!(error, MessageError::OtherIncarnation { from, .. } if *from == wiped),
        );
        assert!(refused, "{id} listens to {wiped}");
    }
    let not_meant = |error: &MessageError| matches!(error, MessageError::NotForUs { .. });
    assert!(cluster.nodes[&wiped].refused.iter().any(not_meant));
    cluster.nodes.remove(&wiped);
    let left: Vec<_> = cluster.nodes.keys().copied().collect();
    cluster.heal(&left);
}

#[test]
fn removed_voter_is_refused_and_its_number_is_never_given_again() {
    let mut cluster = elected(3, 5);
    let gone = (1..=3).map(node).find(|id| Some(*id) != cluster.coordinator()).unwrap();
    // It must not learn of its removal, or it would fall silent by itself.
    cluster.apart.insert(gone);
    carry_out(&mut cluster, Change::Remove { node: gone });
    cluster.apart.clear();
    for _ in 0..60 {
        cluster.tick();
    }
    let refused = |error: &MessageError| *error == MessageError::Retired { from: gone };
    let listeners = cluster.nodes.iter().filter(|(id, _)| **id != gone);
    assert!(listeners.clone().count() == 2);
    assert!(listeners.clone().all(|(_, other)| other.refused.iter().any(refused)));
    let again = Change::AddLearner { node: gone, incarnation: incarnation(9) };
    assert!(matches!(change(&mut cluster, again), Err(ChangeError::Misfit(_))));
}

#[test]
fn changes_that_would_lose_the_quorum_are_refused() {
    let mut cluster = elected(3, 6);
    let coordinator = cluster.coordinator().unwrap();
    let own = change(&mut cluster, Change::Remove { node: coordinator });
    assert_eq!(own, Err(ChangeError::Coordinates(coordinator)));

    let others: Vec<_> = (1..=3).map(node).filter(|id| *id != coordinator).collect();
    let learner = Change::AddLearner { node: node(4), incarnation: incarnation(4) };
    assert_eq!(change(&mut cluster, learner), Ok(()));
    assert_eq!(change(&mut cluster, learner), Err(ChangeError::Pending));

    carry_out(&mut cluster, Change::Remove { node: node(4) });
    cluster.apart.insert(others[0]);
    for _ in 0..20 {
        cluster.tick();
    }
    let last_but_one = change(&mut cluster, Change::Remove { node: others[1] });
    assert_eq!(last_but_one, Err(ChangeError::NoMajority { reached: 1, needed: 2 }));
}

#[test]
fn coordinator_that_commits_its_own_removal_steps_down() {
    let mut removed_itself = 0;
    for seed in 0..20 {
        let mut cluster = elected(3, seed);
        let old = cluster.coordinator().unwrap();
        let gone = (1..=3).map(node).find(|id| *id != old).unwrap();
        change(&mut cluster, Change::Remove { node: gone }).unwrap();
        assert!(!cluster.checks.coordinated(gone));
        // The entry is under way to the others, and its proposer cannot commit it any more.
        cluster.crash(old);
        // With slow messages, entries follow the removal before it is committed.
        cluster.faults.delay_max = 3;
        for _ in 0..60 {
            cluster.tick();
            cluster.propose();
        }
        removed_itself += u32::from(cluster.checks.coordinated(gone));
        let left: Vec<_> = (1..=3).map(node).filter(|id| *id != gone).collect();
        cluster.heal(&left);
        assert_eq!(membership(&cluster).voters().collect::<Vec<_>>(), left, "seed {seed}");
    }
    assert!(removed_itself > 0, "no seed elected the voter that was to go");
}

#[test]
fn office_is_transferred_without_waiting_for_a_time_out() {
    let mut cluster = elected(3, 7);
    let old = cluster.coordinator().unwrap();
    let new = (1..=3).map(node).find(|id| *id != old).unwrap();
    cluster.with(old, |quorum| quorum.transfer(new)).unwrap().unwrap();
    let ticks = cluster.tick_until(SOON, |cluster| cluster.coordinator() == Some(new));
    assert!(ticks.is_some_and(|ticks| ticks <= 2), "{ticks:?}");
    let refused = cluster.with(old, |quorum| quorum.transfer(new)).unwrap();
    let not_here = ProposeError::NotCoordinator { coordinator: Some(new) };
    assert_eq!(refused, Err(TransferError::Propose(not_here)));
}

#[test]
fn proposal_that_lost_its_place_is_reported() {
    let mut cluster = elected(3, 8);
    let old = cluster.coordinator().unwrap();
    cluster.apart.insert(old);
    let proposal = cluster.propose().unwrap();
    let others = cluster.tick_until(SOON, |cluster| {
        cluster.coordinator().is_some_and(|coordinator| coordinator != old)
    });
    assert!(others.is_some());
    cluster.heal(&[node(1), node(2), node(3)]);
    assert_eq!(cluster.nodes[&old].dropped, [(proposal, Fate::Overwritten)]);
}

#[test]
fn long_log_is_cut_and_a_voter_far_behind_gets_a_snapshot() {
    let mut cluster = elected(3, 9);
    let behind = (1..=3).map(node).find(|id| Some(*id) != cluster.coordinator()).unwrap();
    cluster.apart.insert(behind);
    for _ in 0..700 {
        for _ in 0..4 {
            cluster.propose();
        }
        cluster.tick();
    }
    let coordinator = cluster.coordinator().unwrap();
    let status = cluster.nodes[&coordinator].quorum.as_ref().unwrap().status();
    assert!(status.snapshot_index > 2000, "{status:?}");
    cluster.faults.loss = 30;
    cluster.apart.clear();
    for _ in 0..50 {
        cluster.tick();
    }
    cluster.heal(&[node(1), node(2), node(3)]);
    let store = cluster.nodes.remove(&behind).unwrap();
    drop(store.quorum);
    let contents = Store::open_on(store.disk.open(), Expected::default()).unwrap().load().unwrap();
    assert!(contents.truncated.index > 1000, "the log came by snapshot, not entry by entry");
}

#[test]
fn snapshot_that_got_lost_is_sent_again() {
    let mut cluster = elected(3, 10);
    cluster.snapshots_to_lose = 3;
    cluster.add(node(4), incarnation(4), &Founding::Joiner);
    carry_out(&mut cluster, Change::AddLearner { node: node(4), incarnation: incarnation(4) });
    carry_out(&mut cluster, Change::Promote { node: node(4) });
    assert_eq!(cluster.snapshots_to_lose, 0);
}

#[test]
fn members_change_under_faults_without_two_coordinators_or_a_lost_entry() {
    for seed in 0..25 {
        let mut cluster = Cluster::new(3, seed, seed);
        cluster.faults =
            Faults { loss: 5, duplication: 5, delay_max: 3, partition: 1, crash: 2, propose: 30 };
        cluster.add(node(4), incarnation(4), &Founding::Joiner);
        cluster.add(node(5), incarnation(5), &Founding::Joiner);
        for _ in 0..400 {
            cluster.tick();
            let Some(coordinator) = caught_up(&cluster) else { continue };
            let old = node(1 + seed % 3);
            let new = node(4 + seed % 2);
            let place = (new, incarnation(new.get()));
            let members = membership(&cluster);
            if let Some(step) = replacement_step(&members, old, seed.is_multiple_of(2), place) {
                let _ = cluster.with(coordinator, |quorum| quorum.propose_membership(step));
            }
        }
        cluster.faults = Faults::default();
        cluster.apart.clear();
        for _ in 0..100 {
            cluster.tick();
        }
        let left: Vec<_> = membership(&cluster).voters().collect();
        cluster.heal(&left);
    }
}
