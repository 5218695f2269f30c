//! Sequences of entries and messages that should do no harm: longer than one rule, each found by
//! somebody who tried to break them.

use alloc::collections::BTreeSet;
use alloc::vec;
use alloc::vec::Vec;

use crate::cluster::history::{Descent, History};
use crate::cluster::sync::Rule;
use crate::cluster::testing::{any, apply_all, directory, history, newest, three_nodes};
use crate::cluster::{Entry, Member, Membership, Report, Role, State, Void};
use crate::ids::{Attempt, BootTime, Epoch, Incarnation, Lsn, NodeId, Timeline, VipId};
use crate::lease::{Action, Ask, Kind, Refusal, Refusals, Right, Settings, Voter};

fn admit(node: u64) -> Entry {
    let incarnation = directory(node);
    Entry::Admit { member: Member { node: NodeId(node), incarnation, priority: 0 }, replaces: None }
}

fn seal(state: &mut State, releasers: &[u64]) {
    let epoch = newest(state);
    apply_all(state, [Entry::Seal { epoch, attempt: Attempt(1) }]);
    let released = |voter: &u64| Entry::Released {
        voter: NodeId(*voter),
        kind: Kind::Primary,
        number: epoch.0,
    };
    apply_all(state, releasers.iter().map(released));
    // Several of these scenes lose something on purpose; those that do not never say so.
    apply_all(state, [Entry::AcceptLoss { epoch, attempt: Attempt(1) }]);
}

fn report(state: &State, node: u64, end: u64, switches: &[(u32, u64, u64)]) -> Report {
    Report {
        node: NodeId(node),
        incarnation: directory(node),
        epoch: newest(state),
        attempt: Attempt(1),
        end: Lsn(end),
        shared: 0,
        history: history(switches),
    }
}

fn elect(state: &State, node: u64, reports: Vec<Report>, accept_loss: bool) -> Entry {
    let others: Vec<_> = (1..=3).filter(|other| *other != node).collect();
    Entry::NewEpoch {
        epoch: newest(state).next(),
        attempt: Attempt(1),
        holder: NodeId(node),
        incarnation: directory(node),
        reports,
        rule: any(1, &others),
        accept_loss,
    }
}

fn established(state: &State, timeline: u32, switch: u64) -> Entry {
    Entry::Established {
        epoch: newest(state),
        timeline: Timeline(timeline),
        switch: Lsn(switch),
        lsn: Lsn(switch + 1),
        change: state.tenure().unwrap().change,
        confirmed: (1..=9).map(NodeId).collect(),
    }
}

/// Node 3 was elected at 100, made timeline 2, and its epoch 1 is sealed before it served.
fn promoted_and_never_served() -> State {
    let mut state = three_nodes();
    seal(&mut state, &[2, 3]);
    let first = &[(1, 0, 0)];
    let reports = vec![report(&state, 2, 90, first), report(&state, 3, 100, first)];
    let entry = elect(&state, 3, reports, false);
    apply_all(&mut state, [entry]);
    seal(&mut state, &[2, 3]);
    state
}

#[test]
fn primary_elected_again_after_an_overdue_establishment_is_no_fork_later() {
    let mut state = promoted_and_never_served();
    let own = [(1, 0, 0), (2, 100, 1)];
    let reports = vec![report(&state, 2, 102, &own), report(&state, 3, 104, &own)];
    let entry = elect(&state, 3, reports, false);
    apply_all(&mut state, [entry]);
    // It is a primary on timeline 2 already, and goes on with it.
    let entry = established(&state, 2, 100);
    apply_all(&mut state, [entry]);

    // All three follow on that timeline. Then node 3 dies.
    seal(&mut state, &[1, 2]);
    let reports = vec![report(&state, 1, 300, &own), report(&state, 2, 300, &own)];
    let entry = elect(&state, 2, reports, false);
    assert_eq!(state.apply(&entry), Ok(()), "everybody who lives has everything");
}

#[test]
fn promotion_upon_a_promotion_that_never_served_is_no_fork_later() {
    let mut state = promoted_and_never_served();
    let own = [(1, 0, 0), (2, 100, 1)];
    let reports = vec![report(&state, 2, 104, &own), report(&state, 3, 104, &own)];
    let entry = elect(&state, 2, reports, false);
    apply_all(&mut state, [entry]);
    let entry = established(&state, 3, 104);
    apply_all(&mut state, [entry]);

    let own = [(1, 0, 0), (2, 100, 1), (3, 104, 2)];
    seal(&mut state, &[1, 3]);
    let reports = vec![report(&state, 1, 300, &own), report(&state, 3, 300, &own)];
    let entry = elect(&state, 3, reports, true);
    assert_eq!(state.apply(&entry), Ok(()), "not even accepted loss elects anybody");
}

#[test]
fn primary_after_accepted_loss_can_be_failed_over() {
    let mut state = three_nodes();
    seal(&mut state, &[2, 3]);
    let first = [(1, 0, 0)];
    let reports = vec![report(&state, 2, 90, &first), report(&state, 3, 100, &first)];
    let entry = elect(&state, 3, reports, false);
    apply_all(&mut state, [entry]);
    let entry = established(&state, 2, 100);
    apply_all(&mut state, [entry]);

    // Nodes 1 and 3 are lost with their disks. Node 2 never got beyond timeline 1.
    seal(&mut state, &[1, 2]);
    let entry = elect(&state, 2, vec![report(&state, 2, 95, &first)], true);
    apply_all(&mut state, [entry]);
    // PostgreSQL takes the lowest number it has not seen, which is 2 again.
    let entry = established(&state, 2, 95);
    apply_all(&mut state, [entry]);

    seal(&mut state, &[1, 2]);
    let own = [(1, 0, 0), (2, 95, 2)];
    let entry = elect(&state, 2, vec![report(&state, 2, 200, &own)], false);
    assert_eq!(state.apply(&entry), Ok(()), "the primary's own directory has everything");
}

#[test]
fn late_duplicate_of_a_settlement_does_not_settle_the_next_change() {
    let mut state = three_nodes();
    let epoch = Epoch(0);
    apply_all(&mut state, [4, 5].map(admit));
    apply_all(&mut state, [4, 5].map(|node| Entry::Register { node: NodeId(node) }));
    // One change is settled; its proposer heard nothing and proposed the settlement twice.
    let settled = Entry::RuleSettled { epoch, change: 2 };
    apply_all(&mut state, [Entry::RuleJoint { epoch, rule: any(1, &[2]) }, settled.clone()]);
    // The next change begins. No walsender runs it, and commits are acknowledged with node 2.
    apply_all(&mut state, [Entry::RuleJoint { epoch, rule: any(1, &[4, 5]) }]);
    let _ = state.apply(&settled);

    seal(&mut state, &[2, 3]);
    let first = [(1, 0, 0)];
    let reports = vec![report(&state, 4, 50, &first), report(&state, 5, 50, &first)];
    let entry = elect(&state, 4, reports, false);
    assert_eq!(state.apply(&entry), Err(Void::ReportsTooFew), "node 2 has acknowledged commits");
}

#[test]
fn bystander_that_never_followed_does_not_block_failover() {
    let mut state = three_nodes();
    let grown = |version, voters: &[u64]| {
        let voters = voters.iter().copied().map(NodeId).collect();
        Entry::Membership(Membership { version, voters })
    };
    apply_all(&mut state, [grown(2, &[1, 2, 3, 4]), grown(3, &[1, 2, 3, 4, 5])]);
    // The primary follows. Node 2 is down, and later node 1 dies too: three of five voters live.
    let adopted = |node| Entry::MembershipAdopted { node: NodeId(node), version: 3 };
    apply_all(&mut state, [adopted(1), adopted(3)]);
    seal(&mut state, &[3, 4, 5]);
    assert!(state.is_released(Kind::Primary, 0), "{:?}", state.lacks_release(Kind::Primary, 0));
}

#[test]
fn bystander_that_never_followed_can_be_forgotten_by_the_newest_majority() {
    let mut state = three_nodes();
    for (version, voters) in [(2, vec![1, 2, 3, 4]), (3, vec![1, 2, 3, 4, 5])] {
        let voters: BTreeSet<_> = voters.into_iter().map(NodeId).collect();
        apply_all(&mut state, [Entry::Membership(Membership { version, voters })]);
    }
    apply_all(&mut state, [Entry::Register { node: NodeId(9) }]);
    let number = state.registrations()[&NodeId(9)].number;
    for kind in [Kind::Member(NodeId(9)), Kind::Route(NodeId(9))] {
        let released = |voter| Entry::Released { voter: NodeId(voter), kind, number };
        apply_all(&mut state, [3, 4, 5].map(released));
    }
    // Node 9 has only ever counted in the newest membership.
    assert_eq!(state.apply(&Entry::Forget { node: NodeId(9) }), Ok(()));
}

#[test]
fn accepted_loss_that_never_served_does_not_outbid_a_directory_that_has_everything() {
    let mut state = three_nodes();
    seal(&mut state, &[2, 3]);
    let first = [(1, 0, 0)];
    // Node 3 has acknowledged commits up to 100 and is away; an operator accepts the loss.
    let entry = elect(&state, 2, vec![report(&state, 2, 90, &first)], true);
    apply_all(&mut state, [entry]);
    // Before that serves, node 3 is back. Node 2 has written a checkpoint on its own timeline.
    seal(&mut state, &[2, 3]);
    let lossy = report(&state, 2, 200, &[(1, 0, 0), (2, 90, 1)]);
    let reports = vec![lossy, report(&state, 3, 100, &first)];
    let loses = elect(&state, 2, reports.clone(), false);
    let mut changed = state.clone();
    assert!(changed.apply(&loses).is_err(), "nobody accepted a loss in this attempt");
    let keeps = elect(&state, 3, reports, false);
    assert_eq!(state.apply(&keeps), Ok(()));
}

#[test]
fn directory_elected_with_accepted_loss_can_be_elected_again() {
    let mut state = three_nodes();
    seal(&mut state, &[2, 3]);
    let first = [(1, 0, 0)];
    let reports = vec![report(&state, 2, 90, &first), report(&state, 3, 100, &first)];
    let entry = elect(&state, 3, reports, false);
    apply_all(&mut state, [entry]);
    let entry = established(&state, 2, 100);
    apply_all(&mut state, [entry]);

    seal(&mut state, &[1, 2]);
    let entry = elect(&state, 2, vec![report(&state, 2, 95, &first)], true);
    apply_all(&mut state, [entry]);
    // Promoted, and restarted before it was established.
    seal(&mut state, &[1, 2]);
    let own = [(1, 0, 0), (2, 95, 2)];
    let entry = elect(&state, 2, vec![report(&state, 2, 96, &own)], true);
    assert_eq!(state.apply(&entry), Ok(()));
}

#[test]
fn late_duplicate_of_an_admission_does_not_bring_a_replaced_directory_back() {
    let mut state = three_nodes();
    let node = NodeId(3);
    let again = Member { node, incarnation: Incarnation(333), priority: 0 };
    let replaces = Some(directory(3));
    apply_all(&mut state, [Entry::Admit { member: again, replaces }]);
    let _ = state.apply(&admit(3));
    assert_eq!(state.members()[&node].incarnation, Incarnation(333));
}

#[test]
fn second_directory_on_the_primary_s_node_is_no_synchronous_standby() {
    let mut state = three_nodes();
    let beside = Incarnation(111);
    let node = NodeId(1);
    let member = Member { node, incarnation: beside, priority: 0 };
    apply_all(&mut state, [Entry::Admit { member, replaces: Some(directory(1)) }]);
    let rule = Rule { k: 1, members: [beside].into() };
    assert_eq!(state.apply(&Entry::RuleJoint { epoch: Epoch(0), rule }), Err(Void::Rule));
}

#[test]
fn statement_about_an_epoch_to_come_does_not_release_it() {
    let mut state = three_nodes();
    let released = |voter| Entry::Released { voter: NodeId(voter), kind: Kind::Primary, number: 7 };
    for voter in [2, 3] {
        let _ = state.apply(&released(voter));
    }
    assert!(!state.is_released(Kind::Primary, 3));
}

#[test]
fn directory_without_a_history_is_a_fork_however_much_it_holds() {
    let recorded = history(&[(1, 0, 0)]);
    assert_eq!(History::default().descent(Lsn(5), &recorded, &BTreeSet::new()), Descent::Fork);
}

/// Node 1 may answer for an address.
fn with_vip() -> (State, Ask, BootTime) {
    let mut state = three_nodes();
    let (vip, holder, incarnation) = (VipId(1), NodeId(1), directory(1));
    apply_all(&mut state, [Entry::GiveVip { vip, number: 1, holder, incarnation }]);
    let right = Right { kind: Kind::Vip(vip), number: 1, holder, incarnation };
    let (asked_at, settings) = (BootTime(5), Settings::default());
    let awake = BootTime(0).after_ms(settings.promise_ms());
    (state, Ask { right, epoch: Epoch(0), asked_at, settings, life: 1 }, awake)
}

fn voter() -> Voter {
    Voter::new(NodeId(2), Refusals::default(), Settings::default().promise_ms(), BootTime(0))
}

#[test]
fn closing_is_final_so_that_a_late_duplicate_of_it_releases_nothing_that_is_held() {
    let (state, ask, now) = with_vip();
    let mut voter = voter();
    voter.handle_ask(&ask, &state, now).expect("node 1 has the right");
    // The proxy goes down and closes; it comes up again and asks under the same right.
    voter.handle_closed(&ask.right, now);
    let again = Ask { asked_at: BootTime(9), ..ask };
    assert_eq!(voter.handle_ask(&again, &state, now), Err(Refusal::Refused { number: 1 }));
}

#[test]
fn voter_with_nothing_left_to_do_names_no_moment() {
    let mut voter = voter();
    let now = BootTime(0).after_ms(10_000);
    voter.handle_wanted(Kind::Primary, 0, now);
    let Some(Action::Persist(written)) = voter.next_action() else { panic!("{voter:?}") };
    voter.handle_persisted(&written, now);
    assert!(matches!(voter.next_action(), Some(Action::StateReleased { .. })));
    assert_eq!(voter.poll_timeout(), None, "a driver that sleeps until then never sleeps");
}

#[test]
fn directory_that_loss_was_accepted_for_is_no_proof_for_one_that_is_behind_it() {
    // Node 1 has everything up to 120, and was elected again by an operator who accepted a loss.
    let mut state = three_nodes();
    seal(&mut state, &[2, 3]);
    let first = [(1, 0, 0)];
    let entry = elect(&state, 1, vec![report(&state, 1, 120, &first)], true);
    apply_all(&mut state, [entry]);
    seal(&mut state, &[2, 3]);
    let promoted = report(&state, 1, 130, &[(1, 0, 0), (2, 120, 1)]);
    let entry = elect(&state, 3, vec![promoted, report(&state, 3, 100, &first)], false);
    assert_eq!(state.apply(&entry), Err(Void::ReportsTooFew));
}

#[test]
fn directory_that_loss_was_accepted_for_still_says_how_far_commits_went() {
    // Commits up to 110 depended on node 2, which was elected by an operator before 3 was back.
    let mut state = three_nodes();
    seal(&mut state, &[2, 3]);
    let first = [(1, 0, 0)];
    let entry = elect(&state, 2, vec![report(&state, 2, 110, &first)], true);
    apply_all(&mut state, [entry]);
    seal(&mut state, &[2, 3]);
    let promoted = report(&state, 2, 200, &[(1, 0, 0), (2, 110, 1)]);
    let entry = elect(&state, 3, vec![promoted, report(&state, 3, 100, &first)], false);
    let behind = Void::CandidateBehind { end: Lsn(100), furthest: Lsn(110) };
    assert_eq!(state.apply(&entry), Err(behind));
}

/// Node 3 is elected when 1 is lost, with node 2's directory alone in its rule: 2 was in no rule of
/// the epoch before.
fn elected_upon_a_newcomer() -> State {
    let mut state = three_nodes();
    let epoch = Epoch(0);
    apply_all(&mut state, [Entry::RuleJoint { epoch, rule: any(1, &[3]) }]);
    let change = state.established().unwrap().change;
    apply_all(&mut state, [Entry::RuleSettled { epoch, change }]);
    seal(&mut state, &[2, 3]);
    let first = &[(1, 0, 0)];
    let reports = vec![report(&state, 2, 90, first), report(&state, 3, 100, first)];
    let Entry::NewEpoch { epoch, attempt, holder, incarnation, reports, accept_loss, .. } =
        elect(&state, 3, reports, false)
    else {
        unreachable!();
    };
    let rule = any(1, &[2]);
    apply_all(
        &mut state,
        [Entry::NewEpoch { epoch, attempt, holder, incarnation, reports, rule, accept_loss }],
    );
    state
}

fn gone(node: u64) -> Entry {
    Entry::Node { node: NodeId(node), address: "a:1".into(), role: Role::Gone }
}

#[test]
fn directory_that_an_epoch_begins_with_stays_a_member_though_its_node_leaves_before_it_serves() {
    let mut state = elected_upon_a_newcomer();
    // Node 2 streams and has flushed all; then its node shall leave, and the epoch serves.
    apply_all(&mut state, [gone(2)]);
    let entry = established(&state, 2, 100);
    apply_all(&mut state, [entry]);
    assert!(state.needs(directory(2)), "each commit is flushed there");
    assert!(state.members().contains_key(&NodeId(2)), "it neither freezes nor reports");
}

#[test]
fn directory_that_was_put_aside_comes_back_as_a_member_though_its_node_leaves_meanwhile() {
    // Node 1 had acknowledged commits of epoch 0, was put aside for a copy of 3's, and leaves.
    let mut state = three_nodes();
    seal(&mut state, &[2, 3]);
    let first = &[(1, 0, 0)];
    let reports = vec![report(&state, 2, 90, first), report(&state, 3, 100, first)];
    let entry = elect(&state, 3, reports, false);
    apply_all(&mut state, [entry]);
    let node = NodeId(1);
    let copy = Member { node, incarnation: Incarnation(111), priority: 0 };
    apply_all(&mut state, [Entry::Admit { member: copy, replaces: Some(directory(1)) }, gone(1)]);
    assert!(state.members().contains_key(&node), "what it has aside may be all there is");
    // Epoch 1 comes to nothing, node 2 is lost too: the directory is put back.
    seal(&mut state, &[2, 3]);
    let back = Member { node, incarnation: directory(1), priority: 0 };
    let admit = Entry::Admit { member: back, replaces: Some(Incarnation(111)) };
    assert_eq!(state.apply(&admit), Ok(()), "without it nobody can be elected but with loss");
    let reports = vec![report(&state, 1, 120, first)];
    let others = elect(&state, 1, reports, false);
    assert_eq!(state.apply(&others), Ok(()));
    // What nothing depends on any more does not come back.
    let entry = established(&state, 2, 120);
    apply_all(&mut state, [entry]);
    let stray = Member { node, incarnation: Incarnation(112), priority: 0 };
    let stray = Entry::Admit { member: stray, replaces: Some(directory(1)) };
    assert_eq!(state.apply(&stray), Err(Void::Member));
}

#[test]
fn rule_that_names_the_next_primary_stays_in_force_while_a_switchover_runs() {
    let mut state = three_nodes();
    let epoch = Epoch(0);
    apply_all(&mut state, [Entry::RuleJoint { epoch, rule: any(1, &[2]) }]);
    let change = state.established().unwrap().change;
    // The settlement was under way when an operator asked for node 3.
    apply_all(&mut state, [Entry::Switchover { epoch, to: NodeId(3) }]);
    let settled = Entry::RuleSettled { epoch, change };
    assert_eq!(state.apply(&settled), Err(Void::RuleChange), "no election could take node 3");
    let mut names = state.clone();
    apply_all(&mut names, [Entry::RuleJoint { epoch, rule: any(1, &[3]) }]);
    let change = names.established().unwrap().change;
    assert_eq!(names.apply(&Entry::RuleSettled { epoch, change }), Ok(()));
    apply_all(&mut state, [Entry::SwitchoverCancelled { epoch }, settled]);
}

#[test]
fn directory_that_was_promoted_elsewhere_for_the_same_epoch_does_not_follow_once_that_serves() {
    let mut state = three_nodes();
    seal(&mut state, &[2, 3]);
    let first = &[(1, 0, 0)];
    let reports = vec![report(&state, 2, 90, first), report(&state, 3, 100, first)];
    let entry = elect(&state, 3, reports, false);
    apply_all(&mut state, [entry]);
    let entry = established(&state, 2, 100);
    apply_all(&mut state, [entry]);
    assert!(state.may_follow(&history(&[(1, 0, 0), (2, 100, 1)]), Lsn(300)));
    assert!(!state.may_follow(&history(&[(1, 0, 0), (2, 90, 1)]), Lsn(95)));
}

#[test]
fn right_of_a_holder_that_is_not_registered_is_released_by_every_membership() {
    let mut state = State::new([1, 2, 3].map(NodeId).into(), Settings::default());
    let (system, holder) = (crate::ids::SystemId(1), NodeId(1));
    let (incarnation, timeline) = (directory(1), Timeline(1));
    apply_all(&mut state, [Entry::Bootstrap { system, holder, incarnation, timeline }]);
    assert!(!state.is_released(Kind::Primary, 0), "it may register, and hold, at any time");
}
