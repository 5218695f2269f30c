//! What an agent must hold against crashes at the worst moment.

use super::testing::{NOW, local};
use super::*;
use crate::cluster::testing::{
    any, apply_all, directory, elect, establish, history, report, seal, three_nodes,
};
use crate::cluster::{Entry, Report};

fn next(agent: &mut Agent, state: &State, local: &Local) -> Vec<Step> {
    let mut all = Vec::new();
    for _ in 0..3 {
        let steps = agent.next(state, local, None, NOW);
        for step in &steps {
            if let Step::Persist(record) = step {
                agent.handle_persisted(record.clone());
            }
        }
        all.extend(steps);
    }
    all
}

/// Epoch 1 elected node 3 at 90 while node 1, which had unacknowledged log up to 100, was away; 3
/// promoted and died before it served. Epoch 2 elected node 1, which served from 100 on.
fn second_epoch_left_the_first_promotion_behind() -> (State, State) {
    let mut state = three_nodes();
    seal(&mut state, 1, &[1, 2, 3]);
    let entry = elect(&state, 3, alloc::vec![report(&state, 2, 90), report(&state, 3, 90)]);
    apply_all(&mut state, [entry]);
    let first = state.clone();
    seal(&mut state, 1, &[1, 2, 3]);
    let entry = elect(&state, 1, alloc::vec![report(&state, 1, 100), report(&state, 2, 90)]);
    apply_all(&mut state, [entry]);
    establish(&mut state, 2, 100).unwrap();
    (first, state)
}

#[test]
fn promotion_that_the_record_does_not_know_yet_is_a_fork_and_is_rebuilt() {
    let (first, second) = second_epoch_left_the_first_promotion_behind();
    let record = Record::new(directory(3), history(&[(1, 0, 0)]));
    let mut agent = Agent::new(NodeId(3), 0, record);
    let mut found = local(Process::Standby);
    found.end = Lsn(90);
    let held = Some((Epoch(1), NOW.after_ms(1)));
    for _ in 0..2 {
        let steps = agent.next(&first, &found, held, NOW);
        if let Some(Step::Persist(record)) = steps.last() {
            agent.handle_persisted(record.clone());
        } else {
            assert!(steps.iter().any(|step| matches!(step, Step::Promote(_))), "{steps:?}");
        }
    }
    // PostgreSQL promoted: timeline 2 from 90 on, with data up to 95. The host dies before the
    // agent looks again, and comes back when epoch 2 has long been established.
    let mut reborn = Agent::new(NodeId(3), 0, agent.record().clone());
    let mut found = local(Process::Stopped);
    (found.end, found.timeline, found.switch) = (Lsn(95), Timeline(2), Lsn(90));
    let mut steps = next(&mut reborn, &second, &found);
    found.process = Process::Standby;
    found.upstream = Some(NodeId(1));
    found.is_streaming = true;
    steps.extend(next(&mut reborn, &second, &found));
    let claims = reborn.facts().and_then(|facts| facts.streams);
    let recorded = &second.established().unwrap().history;
    assert_ne!(&reborn.record().history, recorded, "a fork took the recorded history's name");
    assert_eq!(claims, None, "a fork says that it streams, and will enter the rule");
    assert!(steps.contains(&Step::Rebuild(NodeId(1))), "{steps:?}");
}

#[test]
fn standby_that_passes_an_older_timeline_on_its_way_is_not_taken_for_a_fork() {
    let mut state = three_nodes();
    seal(&mut state, 1, &[1, 2, 3]);
    let entry = elect(&state, 3, alloc::vec![report(&state, 2, 100), report(&state, 3, 100)]);
    apply_all(&mut state, [entry]);
    establish(&mut state, 2, 100).unwrap();
    seal(&mut state, 1, &[1, 2, 3]);
    let with =
        |node| Report { history: history(&[(1, 0, 0), (2, 100, 1)]), ..report(&state, node, 150) };
    let entry = elect(&state, 2, alloc::vec![with(2), with(3)]);
    apply_all(&mut state, [entry]);
    // Node 1 was away since epoch 0; it lags far behind and follows as it is.
    let record = Record::new(directory(1), history(&[(1, 0, 0)]));
    let mut agent = Agent::new(NodeId(1), 0, record);
    let mut found = local(Process::Standby);
    found.end = Lsn(50);
    assert!(next(&mut agent, &state, &found).contains(&Step::Follow(NodeId(2))));
    // On its way it is on timeline 2, made by epoch 1; the newest primary's is timeline 3.
    found.upstream = Some(NodeId(2));
    found.is_streaming = true;
    (found.end, found.timeline, found.switch) = (Lsn(120), Timeline(2), Lsn(100));
    next(&mut agent, &state, &found);
    let learned = agent.record().history.clone();
    establish(&mut state, 3, 150).unwrap();
    let steps = next(&mut agent, &state, &found);
    assert!(!steps.contains(&Step::Rebuild(NodeId(2))), "a good directory is cloned: {learned:?}");
}

/// Node 3 is elected in epoch 2, strict, with node 1 alone in its rule; 2 is gone for good.
fn elected_with_only_node_1_to_flush() -> State {
    let mut state = three_nodes();
    seal(&mut state, 1, &[1, 2, 3]);
    let entry = elect(&state, 2, alloc::vec![report(&state, 2, 100), report(&state, 3, 100)]);
    apply_all(&mut state, [entry]);
    let epoch = Epoch(1);
    establish(&mut state, 2, 100).unwrap();
    apply_all(&mut state, [Entry::RuleJoint { epoch, rule: any(1, &[3]) }]);
    let change = state.established().unwrap().change;
    apply_all(&mut state, [Entry::RuleSettled { epoch, change }]);
    seal(&mut state, 1, &[1, 3]);
    let own = Report { history: history(&[(1, 0, 0), (2, 100, 1)]), ..report(&state, 3, 150) };
    // As `decide::election::first_rule` makes it of 1's report, which counts for nothing.
    let entry = elect(&state, 3, alloc::vec![own, report(&state, 1, 110)]);
    let Entry::NewEpoch { epoch, attempt, holder, incarnation, reports, accept_loss, .. } = entry
    else {
        unreachable!();
    };
    let rule = any(1, &[1]);
    apply_all(
        &mut state,
        [Entry::NewEpoch { epoch, attempt, holder, incarnation, reports, rule, accept_loss }],
    );
    state
}

#[test]
fn directory_past_the_switch_is_rebuilt_though_the_epoch_waits_for_it_to_be_established() {
    let state = elected_with_only_node_1_to_flush();
    let record = Record::new(directory(1), history(&[(1, 0, 0)]));
    let mut agent = Agent::new(NodeId(1), 0, record);
    let mut found = local(Process::Stopped);
    found.end = Lsn(110);
    let steps = next(&mut agent, &state, &found);
    assert!(steps.contains(&Step::Rebuild(NodeId(3))), "nobody can ever flush: {steps:?}");
}

#[test]
fn half_rebuilt_directory_is_rebuilt_though_the_epoch_waits_for_it_to_be_established() {
    let state = elected_with_only_node_1_to_flush();
    let mut record = Record::new(directory(1), history(&[(1, 0, 0)]));
    record.is_whole = false;
    let mut agent = Agent::new(NodeId(1), 0, record);
    let steps = next(&mut agent, &state, &local(Process::Stopped));
    assert!(steps.contains(&Step::Rebuild(NodeId(3))), "nobody can ever flush: {steps:?}");
}

fn sealed() -> State {
    let mut state = three_nodes();
    seal(&mut state, 1, &[]);
    state
}

#[test]
fn primary_that_an_operator_stopped_cleanly_reports_or_is_started_to_report() {
    let record = Record::new(directory(1), history(&[(1, 0, 0)]));
    let mut agent = Agent::new(NodeId(1), 0, record);
    // `pg_ctl stop`: it ended unasked, and there is nothing left to replay.
    let mut found = local(Process::Exited);
    found.is_drained = true;
    let steps = next(&mut agent, &sealed(), &found);
    let reports = agent.facts().is_some_and(|facts| facts.report.is_some());
    assert!(reports || steps.contains(&Step::StartStandby), "it never reports: {steps:?}");
}

#[test]
fn half_rebuilt_directory_is_not_started_by_a_freeze() {
    let mut record = Record::new(directory(2), history(&[(1, 0, 0)]));
    record.is_whole = false;
    let mut agent = Agent::new(NodeId(2), 0, record);
    let steps = next(&mut agent, &sealed(), &local(Process::Stopped));
    assert!(!steps.contains(&Step::StartStandby), "{steps:?}");
}

/// Node 3 is elected in epoch 1 at 100; node 2 has followed it, and is promoted by hand at `at`.
fn follower_promoted_by_hand(serves: bool, at: u64) -> (State, Agent) {
    let mut state = three_nodes();
    seal(&mut state, 1, &[1, 2, 3]);
    let entry = elect(&state, 3, alloc::vec![report(&state, 2, at), report(&state, 3, 100)]);
    apply_all(&mut state, [entry]);
    let record = Record::new(directory(2), history(&[(1, 0, 0)]));
    let mut agent = Agent::new(NodeId(2), 0, record);
    let mut found = local(Process::Standby);
    found.end = Lsn(at);
    assert!(next(&mut agent, &state, &found).contains(&Step::Follow(NodeId(3))));
    if serves {
        establish(&mut state, 2, 100).unwrap();
    }
    // `pg_ctl promote`: PostgreSQL takes the same number of a timeline as the primary did.
    found.process = Process::Primary;
    (found.end, found.timeline, found.switch) = (Lsn(900), Timeline(2), Lsn(at));
    assert!(next(&mut agent, &state, &found).contains(&Step::Kill));
    (state, agent)
}

/// The report of a node that was killed, once the newest epoch is sealed.
fn reported(agent: &mut Agent, state: &mut State, at: u64) -> Report {
    seal(state, 1, &[1, 2, 3]);
    let mut found = local(Process::Stopped);
    (found.end, found.timeline, found.switch) = (Lsn(900), Timeline(2), Lsn(at));
    found.is_drained = true;
    next(agent, state, &found);
    agent.facts().and_then(|facts| facts.report.clone()).expect("it is frozen")
}

#[test]
fn follower_that_somebody_promoted_by_hand_is_not_elected_for_what_was_written_there() {
    // Before the epoch served; and at the very point where its primary was promoted.
    for (serves, at) in [(false, 90), (false, 100), (true, 100)] {
        let (mut state, mut agent) = follower_promoted_by_hand(serves, at);
        let fork = reported(&mut agent, &mut state, at);
        let own = history(&[(1, 0, 0), (2, 100, 1)]);
        let primary = Report { history: own, ..report(&state, 3, 300) };
        let forked = elect(&state, 2, alloc::vec![fork, primary]);
        assert!(state.clone().apply(&forked).is_err(), "commits of 3 are lost: {serves} {at}");
    }
}

#[test]
fn standby_that_somebody_started_as_a_primary_is_rebuilt_though_it_has_no_timeline_of_its_own() {
    let state = three_nodes();
    let record = Record::new(directory(2), history(&[(1, 0, 0)]));
    let mut agent = Agent::new(NodeId(2), 0, record);
    let mut found = local(Process::Standby);
    found.upstream = Some(NodeId(1));
    next(&mut agent, &state, &found);
    // Its `standby.signal` was removed, and it was started: it writes on the primary's timeline.
    found.process = Process::Primary;
    assert!(next(&mut agent, &state, &found).contains(&Step::Kill));
    found.process = Process::Stopped;
    let steps = next(&mut agent, &state, &found);
    assert!(steps.contains(&Step::Rebuild(NodeId(1))), "{steps:?}");
}

#[test]
fn directory_that_an_operator_put_in_the_primary_s_place_is_not_rebuilt_from_itself() {
    // The primary's disk is lost and a backup restored in its place; the quorum has admitted it.
    let mut state = three_nodes();
    let restored = Incarnation(111);
    let member = crate::cluster::Member { node: NodeId(1), incarnation: restored, priority: 0 };
    apply_all(&mut state, [Entry::Admit { member, replaces: Some(directory(1)) }]);
    let mut agent = Agent::new(NodeId(1), 0, Record::new(restored, history(&[(9, 0, 0)])));
    let mut found = local(Process::Primary);
    found.timeline = Timeline(9);
    assert!(next(&mut agent, &state, &found).contains(&Step::Kill));
    found.process = Process::Stopped;
    let steps = next(&mut agent, &state, &found);
    assert!(!steps.contains(&Step::Rebuild(NodeId(1))), "it may be all there is: {steps:?}");
    assert!(agent.record().is_whole, "it could not even be elected with loss");
    assert!(!agent.record().may_serve(Epoch(0)), "that was the other's right");
}
