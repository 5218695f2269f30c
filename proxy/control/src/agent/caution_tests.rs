//! What an agent must not do yet, and what it must not say yet: one condition each.

use super::testing::{NOW, local as at};
use super::*;
use crate::cluster::testing::{
    any, apply_all, directory, elect, establish, history, report, seal, three_nodes,
};
use crate::cluster::{Entry, Role, testing};
use crate::ids::Attempt;

fn local(process: Process) -> Local {
    Local { is_drained: true, ..at(process) }
}

fn record(node: u64) -> Record {
    Record::new(directory(node), history(&[(1, 0, 0)]))
}

fn agent(node: u64, record: Record) -> Agent {
    Agent::new(NodeId(node), 0, record)
}

/// Runs the agent until it has nothing more to write; the last steps.
fn settle(agent: &mut Agent, state: &State, local: &Local) -> Vec<Step> {
    let held = state.tenure().map(|tenure| (tenure.epoch, NOW.after_ms(1)));
    loop {
        let steps = agent.next(state, local, held, NOW);
        let Some(Step::Persist(record)) = steps.last().cloned() else { return steps };
        agent.handle_persisted(record);
    }
}

fn reported(agent: &Agent) -> bool {
    agent.facts().is_some_and(|facts| facts.report.is_some())
}

fn sealed() -> State {
    let mut state = three_nodes();
    seal(&mut state, 1, &[]);
    state
}

/// Node 3, or whoever is named, is elected in the next epoch.
fn elected(node: u64) -> State {
    let mut state = three_nodes();
    seal(&mut state, 1, &[1, 2, 3]);
    let reports = [1, 2, 3].map(|node| report(&state, node, 100)).to_vec();
    let entry = elect(&state, node, reports);
    apply_all(&mut state, [entry]);
    state
}

fn served() -> State {
    let mut state = elected(3);
    establish(&mut state, 2, 100).unwrap();
    state
}

#[test]
fn timeline_of_a_promotion_is_awaited_until_a_look_has_shown_it() {
    let state = elected(3);
    let mut agent = agent(3, record(3));
    assert!(!agent.awaits_timeline());
    settle(&mut agent, &state, &local(Process::Standby));
    assert!(agent.awaits_timeline(), "it was told to promote");
    let ended = Local { timeline: Timeline(2), switch: Lsn(100), ..local(Process::Exited) };
    // As its control file says.
    let ended = Local { was_primary: true, ..ended };
    let mut late = agent.clone();
    settle(&mut agent, &state, &ended);
    assert_eq!(agent.record().history, history(&[(1, 0, 0), (2, 100, 1)]));
    assert!(!agent.awaits_timeline());
    // Else it is a fork, and what it alone may have counts no more.
    settle(&mut late, &state, &local(Process::Exited));
    settle(&mut late, &state, &ended);
    assert_eq!(late.record().history.0.last().map(|switch| switch.epoch), Some(NOBODYS));
}

#[test]
fn half_directory_that_nobody_knows_is_copied_from_a_primary_that_may_wait_for_it() {
    let half = Record { is_whole: false, ..Record::new(Incarnation(77), history(&[(1, 0, 0)])) };
    let me = NodeId(2);
    let upstream = NodeId(3);
    assert_eq!(goal(&served(), me, &half), Goal::Rejoin { epoch: Epoch(1), upstream });
    assert_eq!(goal(&elected(3), me, &half), Goal::Rejoin { epoch: Epoch(1), upstream });
    let mut ends = served();
    seal(&mut ends, 1, &[]);
    assert_eq!(goal(&ends, me, &half), Goal::Idle);
    let mut leaves = served();
    let gone = Entry::Node { node: me, address: "a:1".into(), role: Role::Gone };
    apply_all(&mut leaves, [gone]);
    assert_eq!(goal(&leaves, me, &half), Goal::Idle);
}

#[test]
fn rebuilt_directory_is_nothing_before_that_is_on_disk() {
    let state = served();
    let mut agent = agent(2, Record { is_whole: false, ..record(2) });
    agent.handle_rebuilt(Incarnation(77), history(&[(1, 0, 0), (2, 100, 1)]), Epoch(1));
    agent.next(&state, &local(Process::Stopped), None, NOW);
    assert_eq!((agent.facts(), agent.wants(&state).primary), (None, None));
}

#[test]
fn standby_of_a_node_that_is_elected_again_is_detached_before_it_follows_for_the_new_epoch() {
    let mut agent = agent(2, Record { basis: Some(Epoch(0)), ..record(2) });
    let mut found = local(Process::Standby);
    found.upstream = Some(NodeId(1));
    let steps = settle(&mut agent, &elected(1), &found);
    assert_eq!(steps, [Step::Close(Epoch(1)), Step::Detach]);
    assert_eq!(agent.record().basis, Some(Epoch(0)));
}

#[test]
fn standby_that_lacks_a_switch_is_detached_before_it_follows_for_an_epoch_that_serves() {
    let mut agent = agent(2, Record { basis: Some(Epoch(0)), ..record(2) });
    let mut found = local(Process::Standby);
    found.upstream = Some(NodeId(3));
    let steps = settle(&mut agent, &served(), &found);
    assert_eq!(steps, [Step::Close(Epoch(1)), Step::Detach]);
}

/// Node 1's directory is put aside for epoch 1, and a copy of node 3's is in its place.
fn put_aside() -> Agent {
    let aside = Kept { directory: directory(1), history: history(&[(1, 0, 0)]), epoch: Epoch(1) };
    let copied = Record::new(Incarnation(77), history(&[(1, 0, 0), (2, 100, 1)]));
    agent(1, Record { kept: Some(aside), basis: Some(Epoch(1)), ..copied })
}

fn copy(process: Process) -> Local {
    Local { timeline: Timeline(2), switch: Lsn(100), ..local(process) }
}

#[test]
fn what_was_put_aside_stays_while_the_copy_follows_an_epoch_that_does_not_serve() {
    let mut agent = put_aside();
    settle(&mut agent, &elected(3), &copy(Process::Stopped));
    assert!(agent.record().kept.is_some(), "acknowledged commits may depend on it");
}

#[test]
fn half_a_directory_is_not_put_aside() {
    let mut agent = agent(1, Record { is_whole: false, ..record(1) });
    let found = Local { end: Lsn(120), ..local(Process::Stopped) };
    let steps = settle(&mut agent, &elected(3), &found);
    assert_eq!(steps, [Step::Close(Epoch(1)), Step::Rebuild(NodeId(3))]);
    assert_eq!(agent.record().kept, None, "it would come back as a whole one");
}

#[test]
fn what_was_put_aside_comes_back_when_nothing_runs_in_its_place_and_alone() {
    let mut state = elected(3);
    seal(&mut state, 1, &[]);
    let mut running = copy(Process::Standby);
    running.upstream = Some(NodeId(3));
    assert_eq!(settle(&mut put_aside(), &state, &running), [Step::Close(Epoch(1)), Step::Kill]);
    running.process = Process::Stopped;
    let steps = settle(&mut put_aside(), &state, &running);
    assert_eq!(steps, [Step::Close(Epoch(1)), Step::Restore], "then it is looked at anew");
}

#[test]
fn what_was_put_aside_does_not_come_back_after_its_epoch_has_served() {
    let mut state = served();
    let member =
        crate::cluster::Member { node: NodeId(1), incarnation: Incarnation(77), priority: 0 };
    apply_all(&mut state, [Entry::Admit { member, replaces: Some(directory(1)) }]);
    seal(&mut state, 1, &[]);
    let steps = settle(&mut put_aside(), &state, &copy(Process::Stopped));
    assert!(!steps.contains(&Step::Restore), "{steps:?}");
}

#[test]
fn directory_that_came_back_is_meant_for_no_epoch() {
    let mut agent = put_aside();
    agent.handle_restored();
    settle(&mut agent, &sealed(), &local(Process::Stopped));
    assert_eq!((agent.record().basis, agent.record().directory), (None, directory(1)));
}

#[test]
fn frozen_directory_is_started_only_without_an_upstream() {
    let mut found = Local { is_drained: false, ..local(Process::Stopped) };
    found.upstream = Some(NodeId(1));
    let steps = settle(&mut agent(2, record(2)), &sealed(), &found);
    assert_eq!(steps, [Step::Close(Epoch(0)), Step::Detach]);
}

#[test]
fn nothing_is_reported_before_all_is_replayed_noted_and_of_this_attempt() {
    let mut waits = agent(2, record(2));
    settle(&mut waits, &sealed(), &Local { is_drained: false, ..local(Process::Stopped) });
    assert!(!reported(&waits));
    settle(&mut waits, &sealed(), &local(Process::Stopped));
    assert!(reported(&waits));
    // A timeline that nobody knew of: its name is not on disk yet.
    waits.next(&sealed(), &copy(Process::Stopped), None, NOW);
    assert!(!reported(&waits));
    // It has obeyed a later attempt, and is shown an older state.
    let later = Record { obeyed: (Epoch(0), Attempt(2)), closed: Some(Epoch(0)), ..record(2) };
    let mut obeyed = agent(2, later);
    settle(&mut obeyed, &sealed(), &local(Process::Stopped));
    assert!(!reported(&obeyed));
}

#[test]
fn recorded_switch_gives_its_name_only_to_who_can_have_gone_through_it() {
    // The newest epoch is 2; its primary, node 1, left the first timeline at 100.
    let mut state = elected(3);
    seal(&mut state, 1, &[1, 2, 3]);
    let reports = [1, 2].map(|node| report(&state, node, 100)).to_vec();
    let entry = elect(&state, 1, reports);
    apply_all(&mut state, [entry]);
    establish(&mut state, 2, 100).unwrap();
    let recorded = state.established().unwrap().history.clone();
    let first = history(&[(1, 0, 0)]);
    let learned_of = |found: Local, basis: u64, history: &History| {
        let record = Record { basis: Some(Epoch(basis)), history: history.clone(), ..record(2) };
        let mut agent = agent(2, record);
        agent.learn_history(&state, &found);
        agent.draft.history
    };
    let learned = |basis, history: &History| learned_of(copy(Process::Standby), basis, history);
    assert_eq!(learned(2, &first), recorded);
    assert_ne!(learned(1, &first), recorded, "it was promoted in epoch 1 at the same place");
    assert_ne!(learned(3, &first), recorded, "it was meant for an epoch that is not known here");
    assert_ne!(learned(2, &history(&[(1, 0, 9)])), recorded, "it came another way");
    for process in [Process::Stopped, Process::Exited] {
        assert_eq!(learned_of(copy(process), 2, &first), recorded, "it came and was not noted");
        let promoted = Local { was_primary: true, ..copy(process) };
        assert_ne!(learned_of(promoted, 2, &first), recorded, "nobody looked when it came");
    }
    let mut nobodys = first.clone();
    nobodys.0.push(Switch { epoch: NOBODYS, ..recorded.0[1] });
    for basis in [1, 2] {
        assert_eq!(learned_of(copy(Process::Primary), basis, &first), nobodys, "in {basis}");
    }
}

#[test]
fn promotion_is_told_as_done_when_the_primary_runs_on_the_timeline_of_its_epoch() {
    let state = elected(3);
    let promoted = || Local {
        recovery_end: Some(Lsn(110)),
        runs_rule: Some(any(1, &[1, 2])),
        rule_flushed: Lsn(110),
        ..copy(Process::Primary)
    };
    let recovered = |found: Local| {
        let mut agent = agent(3, record(3));
        settle(&mut agent, &state, &local(Process::Standby));
        settle(&mut agent, &state, &found);
        agent.facts().unwrap().recovered
    };
    assert!(recovered(promoted()).is_some());
    assert_eq!(recovered(Local { process: Process::Exited, ..promoted() }), None);
    let old = Local { timeline: Timeline(1), switch: Lsn(0), ..promoted() };
    assert_eq!(recovered(old), None, "its own timeline is not seen yet");
}

#[test]
fn primary_that_still_runs_has_not_shut_down() {
    let mut state = three_nodes();
    testing::stop_for_switchover(&mut state, 3);
    let mut agent = agent(1, record(1));
    // As an earlier clean end left it.
    let found = Local { shut_down: Some(Lsn(90)), ..local(Process::Primary) };
    settle(&mut agent, &state, &found);
    assert_eq!(agent.facts().unwrap().shut_down, None);
}

#[test]
fn former_primary_that_still_runs_keeps_the_name_of_the_promotion_that_it_was_elected_for() {
    let mut state = elected(2);
    seal(&mut state, 1, &[1, 2, 3]);
    let reports = [1, 3].map(|node| report(&state, node, 100)).to_vec();
    let entry = elect(&state, 3, reports);
    apply_all(&mut state, [entry]);
    // It was promoted in epoch 1, and hears of epoch 2 before it has looked at itself.
    let promoted = Record { basis: Some(Epoch(1)), promotes: true, ..record(2) };
    let mut former = agent(2, promoted);
    settle(&mut former, &state, &copy(Process::Primary));
    assert_eq!(former.record().history, history(&[(1, 0, 0), (2, 100, 1)]));
}

/// A primary of epoch 1 that was told to promote, and did so only when another served.
#[test]
fn timeline_that_comes_late_has_the_name_of_the_epoch_that_it_was_made_for() {
    let mut state = elected(2);
    let mut agent = agent(2, record(2));
    let steps = settle(&mut agent, &state, &local(Process::Standby));
    assert!(steps.iter().any(|step| matches!(step, Step::Promote(_))), "{steps:?}");
    // Node 3 is elected and establishes timeline 2, which begins where node 2's will.
    seal(&mut state, 1, &[1, 2, 3]);
    let reports = [1, 3].map(|node| report(&state, node, 100)).to_vec();
    let entry = elect(&state, 3, reports);
    apply_all(&mut state, [entry]);
    establish(&mut state, 2, 100).unwrap();

    // The server still runs as a standby, so it may promote at any time.
    let steps = settle(&mut agent, &state, &local(Process::Standby));
    assert!(steps.contains(&Step::Kill) && !steps.iter().any(|s| matches!(s, Step::Follow(_))));
    let late = Local { timeline: Timeline(2), switch: Lsn(100), ..local(Process::Exited) };
    settle(&mut agent, &state, &late);
    assert_eq!(agent.record().history, history(&[(1, 0, 0), (2, 100, 1)]), "not epoch 2's");
}
