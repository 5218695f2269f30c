//! What an agent does in each situation of its PostgreSQL's life.

use super::testing::{NOW, local as at};
use super::*;
use crate::cluster::testing::{
    any, apply_all, directory, elect, establish, report, seal, three_nodes,
};
use crate::cluster::{Entry, Stage, testing};
use crate::ids::Attempt;

fn agent(node: u64) -> Agent {
    let record = Record::new(directory(node), testing::history(&[(1, 0, 0)]));
    Agent::new(NodeId(node), 0, record)
}

fn local(process: Process) -> Local {
    let is_standby = process == Process::Standby;
    Local { upstream: is_standby.then_some(NodeId(1)), is_streaming: is_standby, ..at(process) }
}

/// Runs the agent once; what it wants written is written.
fn next(agent: &mut Agent, state: &State, local: &Local, leased: Option<u64>) -> Vec<Step> {
    let held = leased.map(|epoch| (Epoch(epoch), NOW.after_ms(1)));
    let mut steps = agent.next(state, local, held, NOW);
    if let Some(Step::Persist(record)) = steps.last().cloned() {
        agent.handle_persisted(record);
        steps = agent.next(state, local, held, NOW);
    }
    steps
}

/// Node 3 is elected in epoch 1.
fn elected() -> State {
    let mut state = three_nodes();
    seal(&mut state, 1, &[1, 2, 3]);
    let entry = elect(&state, 3, alloc::vec![report(&state, 2, 100), report(&state, 3, 100)]);
    apply_all(&mut state, [entry]);
    state
}

fn sealed() -> State {
    let mut state = three_nodes();
    seal(&mut state, 1, &[]);
    state
}

#[test]
fn standby_freezes_before_it_reports_and_reports_when_it_has_replayed_all() {
    let (mut agent, state) = (agent(2), sealed());
    let mut local = local(Process::Standby);
    let first = agent.next(&state, &local, None, NOW);
    let [Step::Close(Epoch(0)), Step::Persist(record)] = &first[..] else { panic!("{first:?}") };
    assert_eq!(record.obeyed, (Epoch(0), Attempt(1)));
    agent.handle_persisted(record.clone());
    assert!(next(&mut agent, &state, &local, None).contains(&Step::Detach));
    assert_eq!(agent.facts().unwrap().report, None);

    local.upstream = None;
    local.is_streaming = false;
    next(&mut agent, &state, &local, None);
    assert_eq!(agent.facts().unwrap().report, None, "it still replays");
    local.is_drained = true;
    next(&mut agent, &state, &local, None);
    let report = agent.facts().unwrap().report.clone().unwrap();
    assert_eq!((report.end, report.attempt, report.epoch), (Lsn(100), Attempt(1), Epoch(0)));
}

#[test]
fn report_waits_for_the_record_to_be_on_disk() {
    let (mut agent, state) = (agent(2), sealed());
    let mut local = local(Process::Standby);
    local.upstream = None;
    local.is_drained = true;
    agent.next(&state, &local, None, NOW);
    assert_eq!(agent.facts().unwrap().report, None);
}

#[test]
fn frozen_standby_that_restarts_with_an_older_state_does_not_follow_again() {
    let (mut agent, state) = (agent(2), sealed());
    let local = local(Process::Standby);
    next(&mut agent, &state, &local, None);
    let mut reborn = Agent::new(NodeId(2), 0, agent.record().clone());
    let mut stopped = local;
    stopped.process = Process::Stopped;
    stopped.upstream = None;
    assert_eq!(reborn.next(&three_nodes(), &stopped, None, NOW), []);
}

#[test]
fn primary_is_closed_and_killed_when_its_epoch_is_sealed() {
    let (mut agent, state) = (agent(1), sealed());
    let steps = agent.next(&state, &local(Process::Primary), None, NOW);
    assert_eq!(steps[..2], [Step::Close(Epoch(0)), Step::Kill], "without waiting for a disk");
    assert_eq!(agent.wants(&state).primary, None, "not before it is on disk either");
}

#[test]
fn former_primary_reports_when_it_has_ended() {
    let (mut agent, state) = (agent(1), sealed());
    let mut local = local(Process::Stopped);
    local.is_drained = true;
    next(&mut agent, &state, &local, None);
    assert_eq!(agent.facts().unwrap().report.as_ref().unwrap().end, Lsn(100));
}

#[test]
fn nobody_promotes_without_the_epochs_lease() {
    let (mut agent, state) = (agent(3), elected());
    let mut standby = local(Process::Standby);
    standby.upstream = None;
    for leased in [None, Some(0)] {
        assert_eq!(next(&mut agent, &state, &standby, leased), [], "{leased:?}");
    }
    let steps = next(&mut agent, &state, &standby, Some(1));
    assert_eq!(steps, [Step::OpenToPeers(Epoch(1)), Step::Promote(any(1, &[1, 2]))]);
    assert_eq!(agent.record().basis, Some(Epoch(1)), "written before the promotion");
}

#[test]
fn lease_that_has_run_out_promotes_nobody() {
    let (mut agent, state) = (agent(3), elected());
    let standby = local(Process::Standby);
    let held = Some((Epoch(1), NOW));
    for _ in 0..2 {
        for step in agent.next(&state, &standby, held, NOW) {
            match step {
                Step::Persist(record) => agent.handle_persisted(record),
                other => panic!("{other:?}"),
            }
        }
    }
}

#[test]
fn new_primary_says_that_it_could_open_when_its_standbys_are_past_its_recovery() {
    let (mut agent, state) = (agent(3), elected());
    let mut standby = local(Process::Standby);
    standby.upstream = None;
    next(&mut agent, &state, &standby, Some(1));
    let rule = any(1, &[1, 2]);
    let mut primary = local(Process::Primary);
    primary.timeline = Timeline(2);
    primary.switch = Lsn(100);
    primary.recovery_end = Some(Lsn(110));
    let recovered = |agent: &mut Agent, primary: &Local| {
        next(agent, &state, primary, Some(1));
        agent.facts().unwrap().recovered
    };
    assert_eq!(recovered(&mut agent, &primary), None, "no walsender runs the rule");
    primary.runs_rule = Some(rule);
    primary.rule_flushed = Lsn(109);
    assert_eq!(recovered(&mut agent, &primary), None);
    primary.rule_flushed = Lsn(110);
    let expected = Recovered {
        epoch: Epoch(1),
        timeline: Timeline(2),
        switch: Lsn(100),
        end: Lsn(110),
        change: 2,
    };
    assert_eq!(recovered(&mut agent, &primary), Some(expected));
    assert_eq!(agent.record().history, testing::history(&[(1, 0, 0), (2, 100, 1)]));
}

#[test]
fn primary_opens_to_everybody_only_when_it_is_established() {
    let (mut agent, mut state) = (agent(3), elected());
    let primary = Local { timeline: Timeline(2), switch: Lsn(100), ..local(Process::Primary) };
    let steps = next(&mut agent, &state, &primary, Some(1));
    assert!(!steps.contains(&Step::Open(Epoch(1))), "{steps:?}");
    establish(&mut state, 2, 100).unwrap();
    let steps = next(&mut agent, &state, &primary, Some(1));
    assert_eq!(steps[0], Step::Open(Epoch(1)));
}

#[test]
fn primary_that_the_host_lost_in_a_restart_is_told_as_dead_and_not_started_again() {
    let mut agent = agent(1);
    let steps = next(&mut agent, &three_nodes(), &local(Process::Stopped), Some(0));
    assert_eq!(steps, []);
    assert_eq!(agent.facts().unwrap().postgres, Postgres::Dead);
}

#[test]
fn standby_where_the_state_wants_a_primary_is_told_as_dead() {
    // It was started as one before the node learned that its epoch was established.
    let (mut agent, mut state) = (agent(1), three_nodes());
    next(&mut agent, &state, &local(Process::Standby), Some(0));
    assert_eq!(agent.facts().unwrap().postgres, Postgres::Dead);
    testing::stop_for_switchover(&mut state, 3);
    for process in [Process::Standby, Process::Stopped] {
        next(&mut agent, &state, &local(process), Some(0));
        assert_eq!(agent.facts().unwrap().postgres, Postgres::Dead, "no clean end: {process:?}");
    }
}

#[test]
fn postgresql_that_leaves_probes_unanswered_is_told_as_hung() {
    let mut agent = agent(1);
    let mut local = local(Process::Primary);
    local.answered = BootTime(NOW.0 - 9_999_000_000);
    next(&mut agent, &three_nodes(), &local, Some(0));
    assert_eq!(agent.facts().unwrap().postgres, Postgres::Primary);
    local.answered = BootTime(NOW.0 - 10_000_000_000);
    next(&mut agent, &three_nodes(), &local, Some(0));
    assert_eq!(agent.facts().unwrap().postgres, Postgres::Hung);
}

#[test]
fn former_primary_is_closed_killed_and_copied_with_its_directory_put_aside() {
    let (mut agent, state) = (agent(1), elected());
    let mut former = local(Process::Primary);
    former.end = Lsn(120);
    let steps = next(&mut agent, &state, &former, None);
    assert_eq!(steps, [Step::Close(Epoch(1)), Step::Kill]);
    former.process = Process::Stopped;
    let first = agent.next(&state, &former, None, NOW);
    let [Step::Close(_), Step::Persist(record)] = &first[..] else { panic!("{first:?}") };
    assert!(!record.is_whole, "written before the first byte changes");
    assert_eq!(record.kept.as_ref().unwrap().directory, directory(1));
    agent.handle_persisted(record.clone());
    let steps = next(&mut agent, &state, &former, None);
    assert_eq!(steps, [Step::Close(Epoch(1)), Step::Copy(NodeId(3))]);
}

#[test]
fn directory_that_was_put_aside_comes_back_and_reports_when_the_new_epoch_came_to_nothing() {
    let (mut agent, mut state) = (agent(1), elected());
    let mut former = local(Process::Stopped);
    (former.end, former.is_drained) = (Lsn(120), true);
    next(&mut agent, &state, &former, None);
    let copied = testing::history(&[(1, 0, 0), (2, 100, 1)]);
    agent.handle_rebuilt(Incarnation(77), copied, Epoch(1));
    let mut reborn = agent.clone();
    seal(&mut state, 1, &[]);
    let first = reborn.next(&state, &former, None, NOW);
    let [Step::Close(_), Step::Persist(record)] = &first[..] else { panic!("{first:?}") };
    assert!(record.kept.is_some() && record.may_be(directory(1)), "before the first byte changes");
    reborn.handle_persisted(record.clone());
    let steps = next(&mut reborn, &state, &former, None);
    assert!(steps.contains(&Step::Restore), "{steps:?}");
    reborn.handle_restored();
    next(&mut reborn, &state, &former, None);
    let report = reborn.facts().unwrap().report.clone().unwrap();
    assert_eq!((report.incarnation, report.end), (directory(1), Lsn(120)));
}

#[test]
fn directory_that_was_put_aside_is_let_go_when_the_new_epoch_has_served() {
    let (mut agent, mut state) = (agent(1), elected());
    let former = Local { end: Lsn(120), ..local(Process::Stopped) };
    next(&mut agent, &state, &former, None);
    let copied = testing::history(&[(1, 0, 0), (2, 100, 1)]);
    agent.handle_rebuilt(Incarnation(77), copied, Epoch(1));
    establish(&mut state, 2, 100).unwrap();
    let member =
        crate::cluster::Member { node: NodeId(1), incarnation: Incarnation(77), priority: 0 };
    apply_all(&mut state, [Entry::Admit { member, replaces: Some(directory(1)) }]);
    let mut copy = local(Process::Stopped);
    (copy.end, copy.timeline, copy.switch) = (Lsn(105), Timeline(2), Lsn(100));
    let steps = next(&mut agent, &state, &copy, None);
    assert!(steps.contains(&Step::Follow(NodeId(3))), "{steps:?}");
    assert_eq!(agent.record().kept, None);
    seal(&mut state, 1, &[]);
    let steps = next(&mut agent, &state, &copy, None);
    assert!(!steps.contains(&Step::Restore), "{steps:?}");
}

#[test]
fn standby_is_detached_before_it_is_meant_for_another_epoch() {
    let (mut agent, state) = (agent(2), elected());
    let standby = local(Process::Standby);
    let steps = next(&mut agent, &state, &standby, None);
    assert_eq!(steps, [Step::Close(Epoch(1)), Step::Detach]);
    assert_eq!(agent.record().basis, None, "what is under way would take its name");
}

#[test]
fn standby_follows_the_new_primary_as_it_is_and_learns_its_timeline() {
    let (mut agent, state) = (agent(2), elected());
    let mut standby = local(Process::Standby);
    standby.upstream = None;
    standby.is_streaming = false;
    let steps = next(&mut agent, &state, &standby, None);
    assert_eq!(steps, [Step::Close(Epoch(1)), Step::Follow(NodeId(3))]);
    standby.upstream = Some(NodeId(3));
    standby.is_streaming = true;
    standby.timeline = Timeline(2);
    standby.switch = Lsn(100);
    next(&mut agent, &state, &standby, None);
    assert_eq!(agent.record().history, testing::history(&[(1, 0, 0), (2, 100, 1)]));
    assert_eq!(agent.facts().unwrap().streams, Some((NodeId(3), Epoch(1))));
}

#[test]
fn switchover_stops_the_primary_in_order_and_says_where_it_ended() {
    let (mut agent, mut state) = (agent(1), three_nodes());
    let epoch = Epoch(0);
    apply_all(&mut state, [Entry::Switchover { epoch, to: NodeId(3) }]);
    let mut primary = local(Process::Primary);
    primary.runs_rule = Some(any(1, &[2, 3]));
    let steps = next(&mut agent, &state, &primary, Some(0));
    assert_eq!(steps, [Step::Open(epoch), Step::Checkpoint(epoch)]);
    agent.handle_checkpointed(epoch);
    assert_eq!(next(&mut agent, &state, &primary, Some(0)), [Step::Open(epoch)]);
    assert_eq!(agent.facts().unwrap().prepared, Some(epoch));

    apply_all(&mut state, [Entry::SwitchoverStage { epoch, stage: Stage::Holds }]);
    assert_eq!(next(&mut agent, &state, &primary, Some(0)), [Step::Open(epoch)]);
    apply_all(&mut state, [Entry::SwitchoverStage { epoch, stage: Stage::Stops }]);
    primary.is_busy = true;
    assert_eq!(next(&mut agent, &state, &primary, Some(0)), []);
    assert!(agent.facts().unwrap().is_busy);
    primary.is_busy = false;
    let steps = next(&mut agent, &state, &primary, Some(0));
    assert_eq!(steps, [Step::OpenToPeers(Epoch(0)), Step::ShutDown]);
    primary.process = Process::Stopped;
    primary.shut_down = Some(Lsn(150));
    assert_eq!(next(&mut agent, &state, &primary, Some(0)), []);
    let facts = agent.facts().unwrap();
    assert_eq!((facts.postgres, facts.shut_down), (Postgres::Stopped, Some(Lsn(150))));
}

#[test]
fn change_of_the_rule_is_told_as_settled_when_walsenders_run_it_and_all_before_is_flushed() {
    let (mut agent, mut state) = (agent(1), three_nodes());
    let rule = any(2, &[2, 3]);
    apply_all(&mut state, [Entry::RuleJoint { epoch: Epoch(0), rule: rule.clone() }]);
    let mut primary = local(Process::Primary);
    primary.runs_rule = Some(any(1, &[2, 3]));
    primary.rule_flushed = Lsn(100);
    let steps = next(&mut agent, &state, &primary, Some(0));
    assert!(steps.contains(&Step::SetRule(rule.clone())));
    assert_eq!(agent.facts().unwrap().settled_change, 1);
    primary.runs_rule = Some(rule);
    primary.rule_since = Lsn(101);
    next(&mut agent, &state, &primary, Some(0));
    assert_eq!(agent.facts().unwrap().settled_change, 1);
    primary.rule_flushed = Lsn(101);
    next(&mut agent, &state, &primary, Some(0));
    assert_eq!(agent.facts().unwrap().settled_change, 2);
}

#[test]
fn directory_that_is_half_rebuilt_is_never_taken_for_what_it_was() {
    let (mut agent, mut state) = (agent(1), elected());
    establish(&mut state, 2, 100).unwrap();
    let former = Local { end: Lsn(120), ..local(Process::Stopped) };
    next(&mut agent, &state, &former, None);
    let mut reborn = Agent::new(NodeId(1), 0, agent.record().clone());
    // What is half copied looks as if it could follow.
    let half = Local { end: Lsn(90), is_drained: true, ..local(Process::Stopped) };
    let steps = next(&mut reborn, &state, &half, None);
    assert_eq!(steps, [Step::Close(Epoch(1)), Step::Rebuild(NodeId(3))]);
    assert_eq!(reborn.facts(), None);
    seal(&mut state, 1, &[]);
    next(&mut reborn, &state, &half, None);
    assert_eq!(reborn.facts(), None, "it reports nothing either");

    let copied = state.established().unwrap().history.clone();
    reborn.handle_rebuilt(Incarnation(77), copied, Epoch(1));
    next(&mut reborn, &state, &half, None);
    assert_eq!(reborn.facts().unwrap().directory, Incarnation(77));
    assert_eq!(reborn.facts().unwrap().report, None, "the quorum does not know it yet");
}

#[test]
fn reads_are_wanted_only_by_who_receives_from_the_newest_primary() {
    let (mut agent, state) = (agent(2), three_nodes());
    agent.next(&state, &local(Process::Standby), None, NOW);
    assert_eq!(agent.wants(&state).member, None, "it is not on disk for which epoch it does");
    next(&mut agent, &state, &local(Process::Standby), None);
    assert_eq!(agent.wants(&state).member, Some((Epoch(0), directory(2))));
    assert_eq!(agent.wants(&elected()).member, None);
}

#[test]
fn nothing_is_reported_while_there_is_an_upstream_or_the_node_is_not_closed() {
    let (mut agent, state) = (agent(2), sealed());
    let attached = Local { is_drained: true, ..local(Process::Standby) };
    next(&mut agent, &state, &attached, None);
    assert_eq!(agent.facts().unwrap().report, None);
}

#[test]
fn new_primary_whose_walsenders_run_another_rule_does_not_open() {
    let (mut agent, state) = (agent(3), elected());
    let mut standby = local(Process::Standby);
    standby.upstream = None;
    next(&mut agent, &state, &standby, Some(1));
    let primary = Local {
        timeline: Timeline(2),
        switch: Lsn(100),
        recovery_end: Some(Lsn(110)),
        runs_rule: Some(any(1, &[2])),
        rule_flushed: Lsn(200),
        ..local(Process::Primary)
    };
    let steps = next(&mut agent, &state, &primary, Some(1));
    assert!(steps.contains(&Step::SetRule(any(1, &[1, 2]))), "{steps:?}");
    assert_eq!(agent.facts().unwrap().recovered, None);
}

#[test]
fn elected_directory_that_somebody_promoted_by_hand_is_told_as_dead_and_not_established() {
    let (mut agent, state) = (agent(3), elected());
    let mut forked = local(Process::Primary);
    (forked.timeline, forked.switch, forked.recovery_end) = (Timeline(2), Lsn(100), Some(Lsn(101)));
    assert_eq!(next(&mut agent, &state, &forked, Some(1)), [Step::Kill]);
    let facts = agent.facts().unwrap();
    assert_eq!((facts.postgres, facts.recovered), (Postgres::Dead, None));
    forked.process = Process::Exited;
    assert_eq!(next(&mut agent, &state, &forked, Some(1)), [], "a second timeline hides nothing");
}

#[test]
fn primary_that_ends_after_its_promotion_is_told_as_dead_and_not_promoted_again() {
    let (mut agent, state) = (agent(3), elected());
    let standby = Local { upstream: None, ..local(Process::Standby) };
    next(&mut agent, &state, &standby, Some(1));
    // The host went down before the agent saw the new timeline.
    let mut ended = Agent::new(NodeId(3), 0, agent.record().clone());
    let found = Local { timeline: Timeline(2), switch: Lsn(100), ..local(Process::Stopped) };
    assert_eq!(next(&mut ended, &state, &found, Some(1)), []);
    assert_eq!(ended.facts().unwrap().postgres, Postgres::Dead);
}
