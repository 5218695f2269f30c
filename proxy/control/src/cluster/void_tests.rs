//! What makes an entry void, and a promise impossible: one condition each, all others being met.

use alloc::vec;
use alloc::vec::Vec;

use super::*;
use crate::cluster::history::Descent;
use crate::cluster::testing::{
    any, apply_all, directory, elect, establish, history, report, seal, three_nodes,
};
use crate::lease::Refusal;

fn void(state: &State, entry: &Entry) -> Void {
    state.clone().apply(entry).expect_err("it changes what it must not")
}

fn gone(node: u64) -> Entry {
    Entry::Node { node: NodeId(node), address: "a:1".into(), role: Role::Gone }
}

fn admit(node: u64, incarnation: Incarnation, replaces: Option<Incarnation>) -> Entry {
    Entry::Admit { member: Member { node: NodeId(node), incarnation, priority: 0 }, replaces }
}

/// The node holds no leases and may get none.
fn forget(state: &mut State, node: u64) {
    let node = NodeId(node);
    let number = state.registrations()[&node].number;
    apply_all(state, [Entry::Retire { node, number }]);
    for kind in [Kind::Member(node), Kind::Route(node)] {
        let voters = [1, 2, 3].map(NodeId);
        apply_all(state, voters.map(|voter| Entry::Released { voter, kind, number }));
    }
    apply_all(state, [Entry::Forget { node }]);
}

fn sealed() -> State {
    let mut state = three_nodes();
    seal(&mut state, 1, &[2, 3]);
    state
}

/// Elects node 3 at 100, with one thing changed.
fn elect_with(state: &State, change: impl Fn(&mut Entry)) -> Entry {
    let reports = vec![report(state, 2, 90), report(state, 3, 100)];
    let mut entry = elect(state, 3, reports);
    change(&mut entry);
    entry
}

#[test]
fn right_is_promised_under_its_number_to_its_holder_for_its_directory_in_the_newest_epoch() {
    let mut state = three_nodes();
    let (vip, holder, incarnation) = (VipId(1), NodeId(2), Incarnation(2));
    apply_all(&mut state, [Entry::GiveVip { vip, number: 1, holder, incarnation }]);
    let node = NodeId(2);
    let kind = Kind::Member(node);
    let member = Right { kind, number: 2, holder: node, incarnation: directory(2) };
    let address = Right { kind: Kind::Vip(vip), number: 1, holder, incarnation };
    for right in [member, address] {
        assert_eq!(state.permits(&right, Epoch(0)), Ok(()));
    }
    for stranger in [
        Right { number: 9, ..member },
        // Under the registration of the asker, who is another.
        Right { number: 3, holder: NodeId(3), ..member },
        Right { incarnation: directory(3), ..member },
        Right { holder: NodeId(3), ..address },
    ] {
        assert_eq!(state.permits(&stranger, Epoch(0)), Err(Refusal::NotTheHolder), "{stranger:?}");
    }
    seal(&mut state, 1, &[2, 3]);
    let entry = elect_with(&state, |_| {});
    apply_all(&mut state, [entry]);
    let late = Err(Refusal::Epoch { newest: Epoch(1) });
    assert_eq!(state.permits(&member, Epoch(0)), late);
}

#[test]
fn directory_that_another_node_has_is_not_admitted() {
    assert_eq!(void(&three_nodes(), &admit(4, directory(2), None)), Void::Member);
}

#[test]
fn statement_about_an_earlier_number_takes_back_none_about_a_later_one() {
    let mut state = three_nodes();
    let (voter, kind) = (NodeId(2), Kind::Route(NodeId(3)));
    apply_all(&mut state, [3, 2].map(|number| Entry::Released { voter, kind, number }));
    assert_eq!(state.released_by(voter, kind), Some(3));
}

#[test]
fn elections_skip_no_epoch_and_take_members_that_are_registered_with_a_rule_that_can_be() {
    let mut state = sealed();
    let epoch = |entry: &mut Entry| {
        let Entry::NewEpoch { epoch, .. } = entry else { unreachable!() };
        *epoch = Epoch(2);
    };
    let skipped = elect_with(&state, epoch);
    assert_eq!(void(&state, &skipped), Void::Epoch { current: Epoch(0) });
    let rule = |entry: &mut Entry| {
        let Entry::NewEpoch { rule, .. } = entry else { unreachable!() };
        *rule = any(1, &[9]);
    };
    assert_eq!(void(&state, &elect_with(&state, rule)), Void::Rule);
    let stray = |entry: &mut Entry| {
        let Entry::NewEpoch { reports, .. } = entry else { unreachable!() };
        reports[0].epoch = Epoch(7);
    };
    let incarnation = directory(2);
    assert_eq!(void(&state, &elect_with(&state, stray)), Void::ReportStray { incarnation });

    let entry = elect_with(&state, |_| {});
    let mut replaced = state.clone();
    apply_all(&mut replaced, [admit(3, Incarnation(333), Some(directory(3)))]);
    assert_eq!(void(&replaced, &entry), Void::Member, "it is not there any more");
    forget(&mut state, 3);
    assert_eq!(void(&state, &entry), Void::Registration);
}

/// Node 2 was elected at 110 by an operator who accepted a loss, and did not serve; sealed again.
fn lossy() -> State {
    let mut state = sealed();
    apply_all(&mut state, [Entry::AcceptLoss { epoch: Epoch(0), attempt: Attempt(1) }]);
    let mut entry = elect(&state, 2, vec![report(&state, 2, 110)]);
    let Entry::NewEpoch { accept_loss, .. } = &mut entry else { unreachable!() };
    *accept_loss = true;
    apply_all(&mut state, [entry]);
    state
}

#[test]
fn directory_outside_the_rules_says_nothing_of_how_far_commits_went_before_a_loss() {
    let mut state = lossy();
    apply_all(&mut state, [admit(4, directory(4), None)]);
    seal(&mut state, 1, &[2, 3]);
    let through = |node, at| Report {
        history: history(&[(1, 0, 0), (2, at, 1)]),
        ..report(&state, node, 200)
    };
    let reports = vec![through(4, 150), through(2, 110), report(&state, 3, 120)];
    let entry = elect(&state, 3, reports);
    assert_eq!(state.apply(&entry), Ok(()));
}

#[test]
fn fork_says_nothing_of_how_far_commits_went_before_a_loss() {
    let mut state = lossy();
    seal(&mut state, 1, &[2, 3]);
    let forked = Report {
        history: history(&[(1, 0, 0), (2, 60, 9), (3, 110, 1)]),
        ..report(&state, 2, 200)
    };
    let entry = elect(&state, 3, vec![forked, report(&state, 3, 120)]);
    assert_eq!(void(&state, &entry), Void::ReportsTooFew);
}

#[test]
fn accepted_loss_elects_nobody_who_went_past_a_switch_that_served() {
    let mut state = sealed();
    let entry = elect_with(&state, |_| {});
    apply_all(&mut state, [entry]);
    establish(&mut state, 2, 100).unwrap();
    let accept = |state: &mut State| {
        seal(state, 1, &[2, 3]);
        let epoch = state.tenure().unwrap().epoch;
        apply_all(state, [Entry::AcceptLoss { epoch, attempt: Attempt(1) }]);
    };
    let lossy = |state: &State, node, end| {
        let mut entry = elect(state, node, vec![report(state, node, end)]);
        let Entry::NewEpoch { accept_loss, .. } = &mut entry else { unreachable!() };
        *accept_loss = true;
        entry
    };
    accept(&mut state);
    // Node 2 never got beyond the first timeline; node 1 has more there than the cluster kept.
    let entry = lossy(&state, 2, 95);
    apply_all(&mut state, [entry]);
    accept(&mut state);
    let descent = Some(Descent::PastSwitch);
    assert_eq!(void(&state, &lossy(&state, 1, 150)), Void::CandidateUnknown { descent });
}

#[test]
fn rules_name_no_directory_of_a_node_that_leaves_and_degrade_on_no_loss_that_is_over() {
    let mut state = three_nodes();
    apply_all(&mut state, [gone(3)]);
    let joint = |state: &State, rule| {
        let epoch = state.tenure().unwrap().epoch;
        Entry::RuleJoint { epoch, rule }
    };
    assert_eq!(void(&state, &joint(&state, any(1, &[3]))), Void::Rule);

    let mut state = lossy();
    let degraded = joint(&state, Rule::degraded());
    assert_eq!(state.clone().apply(&degraded), Ok(()), "it does not serve yet");
    establish(&mut state, 2, 110).unwrap();
    assert_eq!(void(&state, &degraded), Void::Rule);
}

#[test]
fn rule_is_settled_by_the_primary_that_serves_alone() {
    let mut state = three_nodes();
    apply_all(&mut state, [Entry::RuleJoint { epoch: Epoch(0), rule: any(1, &[2]) }]);
    let settled = |state: &State| {
        let epoch = state.tenure().unwrap().epoch;
        Entry::RuleSettled { epoch, change: state.established().unwrap().change }
    };
    seal(&mut state, 1, &[2, 3]);
    assert_eq!(void(&state, &settled(&state)), Void::Sealed);
    let entry = elect(&state, 2, vec![report(&state, 2, 100), report(&state, 3, 90)]);
    apply_all(&mut state, [entry]);
    assert_eq!(void(&state, &settled(&state)), Void::Establishment);
}

#[test]
fn node_counts_in_memberships_that_there_are_and_goes_back_to_none() {
    let mut state = three_nodes();
    let node = NodeId(1);
    let adopt = |version| Entry::MembershipAdopted { node, version };
    assert_eq!(void(&state, &adopt(2)), Void::Membership);
    for (version, voters) in [(2, vec![1, 2, 3, 4]), (3, vec![1, 2, 3])] {
        let voters = voters.into_iter().map(NodeId).collect();
        apply_all(&mut state, [Entry::Membership(Membership { version, voters })]);
    }
    apply_all(&mut state, [adopt(3)]);
    assert_eq!(void(&state, &adopt(2)), Void::Membership);
}

#[test]
fn switchover_is_for_standbys_that_can_be_elected_and_under_an_epoch_that_serves() {
    let mut state = three_nodes();
    let to = |node| Entry::Switchover { epoch: Epoch(0), to: NodeId(node) };
    apply_all(&mut state, [admit(4, directory(4), None), Entry::Register { node: NodeId(4) }]);
    assert_eq!(void(&state, &to(4)), Void::Switchover, "no commit depends on it");
    let mut leaving = state.clone();
    apply_all(&mut leaving, [gone(3)]);
    assert_eq!(void(&leaving, &to(3)), Void::Switchover);
    let mut forgotten = state.clone();
    forget(&mut forgotten, 3);
    assert_eq!(void(&forgotten, &to(3)), Void::Switchover);
    seal(&mut state, 1, &[]);
    assert_eq!(void(&state, &to(3)), Void::Sealed);
}

#[test]
fn loss_that_was_accepted_for_an_earlier_epoch_is_accepted_for_no_later_one() {
    let mut state = lossy();
    seal(&mut state, 1, &[]);
    let late = Entry::AcceptLoss { epoch: Epoch(0), attempt: Attempt(1) };
    assert_eq!(void(&state, &late), Void::Epoch { current: Epoch(1) });
}

#[test]
fn node_is_not_forgotten_while_it_may_answer_for_an_address() {
    let mut state = three_nodes();
    let (vip, node, incarnation) = (VipId(1), NodeId(3), Incarnation(3));
    let give = |number| Entry::GiveVip { vip, number, holder: node, incarnation };
    assert_eq!(void(&state, &give(2)), Void::Number);
    apply_all(&mut state, [give(1), Entry::Retire { node, number: 3 }]);
    let release = |state: &mut State, kind, number| {
        let voters = [1, 2].map(NodeId);
        apply_all(state, voters.map(|voter| Entry::Released { voter, kind, number }));
    };
    for kind in [Kind::Member(node), Kind::Route(node)] {
        release(&mut state, kind, 3);
    }
    let forget = Entry::Forget { node };
    assert_eq!(void(&state, &forget), Void::Registration);
    assert_eq!(void(&state, &Entry::RetireVip { vip, number: 2 }), Void::Number);
    let mut closed = state.clone();
    release(&mut closed, Kind::Vip(vip), 1);
    assert_eq!(void(&closed, &forget), Void::Registration, "nobody has taken it back");
    apply_all(&mut state, [Entry::RetireVip { vip, number: 1 }]);
    assert_eq!(void(&state, &forget), Void::Registration, "it is not released");
    release(&mut state, Kind::Vip(vip), 1);
    assert_eq!(state.apply(&forget), Ok(()));
    assert_eq!(state.released_by(NodeId(1), Kind::Route(node)), None, "it would stay for ever");
}

#[test]
fn primary_s_node_stays_a_member_whatever_directory_it_has_now() {
    let mut state = three_nodes();
    apply_all(&mut state, [admit(1, Incarnation(111), Some(directory(1))), gone(1)]);
    let nodes: Vec<_> = state.members().keys().map(|node| node.0).collect();
    assert_eq!(nodes, [1, 2, 3]);
}

#[test]
fn registration_is_renewed_only_after_its_leases_were_asked_back() {
    assert_eq!(void(&three_nodes(), &Entry::Register { node: NodeId(2) }), Void::Registration);
}

#[test]
fn epoch_that_serves_is_recorded_with_the_end_of_its_recovery() {
    let mut state = sealed();
    let entry = elect_with(&state, |_| {});
    apply_all(&mut state, [entry]);
    establish(&mut state, 2, 100).unwrap();
    assert_eq!(state.established().unwrap().lsn, Lsn(101));
}

#[test]
fn report_that_claims_to_share_more_than_was_recorded_counts_for_nothing() {
    let state = sealed();
    let claims = |entry: &mut Entry| {
        let Entry::NewEpoch { reports, .. } = entry else { unreachable!() };
        reports[1].shared = 2;
    };
    assert_eq!(void(&state, &elect_with(&state, claims)), Void::ReportsTooFew);
}

#[test]
fn numbers_of_nodes_run_out() {
    let mut state = three_nodes();
    let name =
        |node| Entry::Node { node: NodeId(node), address: "a:1".into(), role: Role::Learner };
    apply_all(&mut state, (1..=NODES_EVER_MAX as u64).map(name));
    assert_eq!(void(&state, &name(NODES_EVER_MAX as u64 + 1)), Void::Node);
    assert_eq!(state.apply(&name(1)), Ok(()), "it has its number");
}
