//! What becomes of directories that may have commits which an operator gave up.

use super::testing::{NOW, local};
use super::*;
use crate::cluster::testing::{
    any, apply_all, directory, elect, establish, history, report, seal, three_nodes,
};
use crate::cluster::{Entry, Member};
use crate::ids::Attempt;

/// Node 3 is elected with loss, and serves from 100 on or not.
fn elected_with_loss(serves: bool) -> State {
    let mut state = three_nodes();
    seal(&mut state, 1, &[1, 2, 3]);
    let mut entry = elect(&state, 3, [report(&state, 3, 100)].to_vec());
    if let Entry::NewEpoch { accept_loss, .. } = &mut entry {
        *accept_loss = true;
    }
    apply_all(&mut state, [Entry::AcceptLoss { epoch: Epoch(0), attempt: Attempt(1) }, entry]);
    if serves {
        establish(&mut state, 2, 100).unwrap();
    }
    state
}

/// What a stopped server left, on the timeline that node 1 and node 2 know.
fn stopped(end: u64) -> Local {
    Local { is_drained: true, end: Lsn(end), ..local(Process::Stopped) }
}

fn agent(node: u64) -> Agent {
    Agent::new(NodeId(node), 0, Record::new(directory(node), history(&[(1, 0, 0)])))
}

/// Runs the agent until it has nothing more to write; the last steps.
fn settle(agent: &mut Agent, state: &State, local: &Local) -> Vec<Step> {
    loop {
        let steps = agent.next(state, local, None, NOW);
        let Some(Step::Persist(record)) = steps.last().cloned() else { return steps };
        agent.handle_persisted(record);
    }
}

/// The copy is made, and admitted.
fn copied(agent: &mut Agent, state: &mut State) -> Local {
    let copy = history(&[(1, 0, 0), (2, 100, 1)]);
    agent.handle_rebuilt(Incarnation(77), copy, Epoch(1));
    let node = agent.me;
    let member = Member { node, incarnation: Incarnation(77), priority: 0 };
    let replaces = state.members().get(&node).map(|known| known.incarnation);
    apply_all(state, [Entry::Admit { member, replaces }]);
    Local { timeline: Timeline(2), switch: Lsn(100), ..stopped(105) }
}

#[test]
fn directory_that_comes_back_after_a_loss_is_kept_for_good() {
    let mut state = elected_with_loss(true);
    let mut agent = agent(1);
    let steps = settle(&mut agent, &state, &stopped(120));
    assert_eq!(steps, [Step::Close(Epoch(1)), Step::Copy(NodeId(3))]);
    let copy = copied(&mut agent, &mut state);
    let steps = settle(&mut agent, &state, &copy);
    assert_eq!(steps, [Step::Close(Epoch(1)), Step::Retain]);
    assert!(agent.record().kept.is_some(), "until it is done");
    agent.handle_retained();
    let steps = settle(&mut agent, &state, &copy);
    assert!(steps.contains(&Step::Follow(NodeId(3))), "{steps:?}");
    assert_eq!(agent.record().kept, None);
}

#[test]
fn directory_that_was_put_aside_before_the_loss_was_final_is_kept_for_good() {
    let mut state = elected_with_loss(false);
    // No rule names node 2's directory any more: it may have a commit all the same.
    let mut agent = agent(2);
    let member = Member { node: NodeId(2), incarnation: Incarnation(22), priority: 0 };
    apply_all(&mut state, [Entry::Admit { member, replaces: Some(directory(2)) }]);
    agent.draft.directory = Incarnation(22);
    agent.record.directory = Incarnation(22);
    let steps = settle(&mut agent, &state, &stopped(120));
    assert_eq!(steps, [Step::Close(Epoch(1)), Step::Copy(NodeId(3))]);
    let copy = copied(&mut agent, &mut state);
    let steps = settle(&mut agent, &state, &copy);
    assert!(!steps.contains(&Step::Retain), "it comes back if the epoch comes to nothing");
    establish(&mut state, 2, 100).unwrap();
    let steps = settle(&mut agent, &state, &copy);
    assert_eq!(steps, [Step::Close(Epoch(1)), Step::Retain]);
}

#[test]
fn directory_that_lacks_nothing_of_its_own_is_not_kept_after_a_loss() {
    let state = elected_with_loss(true);
    let mut behind = agent(1);
    let steps = settle(&mut behind, &state, &stopped(90));
    assert!(steps.contains(&Step::Follow(NodeId(3))), "{steps:?}");
    let mut stuck = agent(1);
    let upstream = Some(NodeId(3));
    let found = Local { lacks_log: true, upstream, ..stopped(90) };
    let steps = settle(&mut stuck, &state, &found);
    assert_eq!(steps, [Step::Close(Epoch(1)), Step::Rebuild(NodeId(3))]);
}

#[test]
fn directory_that_went_through_the_loss_is_not_kept_when_it_parts_later() {
    let mut state = elected_with_loss(true);
    seal(&mut state, 1, &[1, 2, 3]);
    let later = history(&[(1, 0, 0), (2, 100, 1)]);
    let mut reports = [2, 3].map(|node| report(&state, node, 150)).to_vec();
    for report in &mut reports {
        report.history = later.clone();
    }
    let entry = elect(&state, 2, reports);
    apply_all(&mut state, [entry]);
    establish(&mut state, 3, 150).unwrap();
    let mut agent = agent(3);
    agent.draft.history = later.clone();
    agent.record.history = later;
    let parted = Local { timeline: Timeline(2), switch: Lsn(100), ..stopped(160) };
    let steps = settle(&mut agent, &state, &parted);
    assert_eq!(steps, [Step::Close(Epoch(2)), Step::Rebuild(NodeId(2))]);
}

#[test]
fn copy_for_an_epoch_that_never_served_takes_nobodys_place() {
    let mut state = elected_with_loss(false);
    let mut agent = agent(1);
    settle(&mut agent, &state, &stopped(120));
    let copy = copied(&mut agent, &mut state);
    settle(&mut agent, &state, &copy);
    // It is away while the next one is elected, which knows nothing of that epoch either.
    seal(&mut state, 2, &[1, 2, 3]);
    let mut entry = elect(&state, 2, [report(&state, 2, 90)].to_vec());
    if let Entry::NewEpoch { accept_loss, rule, .. } = &mut entry {
        (*accept_loss, *rule) = (true, any(1, &[3]));
    }
    apply_all(&mut state, [Entry::AcceptLoss { epoch: Epoch(1), attempt: Attempt(2) }, entry]);
    let steps = settle(&mut agent, &state, &copy);
    assert_eq!(steps, [Step::Close(Epoch(2)), Step::Copy(NodeId(2))]);
    let kept = agent.record().kept.as_ref().map(|kept| (kept.directory, kept.epoch));
    assert_eq!(kept, Some((directory(1), Epoch(1))), "the only one that has it all");
}
