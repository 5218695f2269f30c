//! One test for each rule: what it forbids is tried.

use alloc::vec;
use alloc::vec::Vec;

use super::*;
use crate::cluster::testing::{
    any, apply_all, directory, elect, establish, fill_rules, history, newest, report, seal,
    three_nodes,
};
use crate::lease::Refusal;

/// Sealed, released by a majority, with the reports of nodes 2 and 3 at these positions.
fn sealed() -> State {
    let mut state = three_nodes();
    seal(&mut state, 1, &[2, 3]);
    state
}

/// The entry that takes in a node that is new.
fn new(member: Member) -> Entry {
    Entry::Admit { member, replaces: None }
}

fn void(state: &State, entry: &Entry) -> Void {
    let mut changed = state.clone();
    let void = changed.apply(entry).expect_err("must be void");
    assert_eq!(&changed, state, "a void entry must change nothing");
    void
}

#[test]
fn failover_goes_to_the_furthest_report_and_is_established_later() {
    let mut state = sealed();
    let reports = vec![report(&state, 2, 90), report(&state, 3, 100)];
    let entry = elect(&state, 3, reports);
    apply_all(&mut state, [entry]);

    let tenure = state.tenure().unwrap();
    assert_eq!((tenure.epoch, tenure.holder), (Epoch(1), NodeId(3)));
    assert!(!tenure.is_established);
    assert_eq!(state.established().unwrap().epoch, Epoch(0), "decisions still count by the old");

    establish(&mut state, 2, 100).unwrap();
    let established = state.established().unwrap();
    assert_eq!(established.history, history(&[(1, 0, 0), (2, 100, 1)]));
    assert_eq!(established.rules, [any(1, &[1, 2])]);
}

#[test]
fn nobody_is_elected_while_the_epoch_is_not_sealed() {
    let state = three_nodes();
    let entry = elect(&state, 3, vec![report(&state, 2, 90), report(&state, 3, 100)]);
    assert_eq!(void(&state, &entry), Void::Attempt);
}

#[test]
fn nobody_is_elected_before_a_majority_has_released() {
    let mut state = three_nodes();
    seal(&mut state, 1, &[3]);
    let entry = elect(&state, 3, vec![report(&state, 2, 90), report(&state, 3, 100)]);
    assert_eq!(void(&state, &entry), Void::NotReleased { membership: 1 });
}

#[test]
fn releases_of_strangers_do_not_count() {
    let mut state = three_nodes();
    seal(&mut state, 1, &[3, 8, 9]);
    let entry = elect(&state, 3, vec![report(&state, 2, 90), report(&state, 3, 100)]);
    assert_eq!(void(&state, &entry), Void::NotReleased { membership: 1 });
}

#[test]
fn release_of_an_older_epoch_releases_no_newer_one() {
    let mut state = sealed();
    let entry = elect(&state, 3, vec![report(&state, 2, 90), report(&state, 3, 100)]);
    apply_all(&mut state, [entry]);
    seal(&mut state, 1, &[]);
    let entry = elect(&state, 1, vec![report(&state, 1, 120)]);
    assert_eq!(void(&state, &entry), Void::NotReleased { membership: 1 });
}

#[test]
fn releases_stay_when_another_attempt_begins_but_reports_do_not() {
    let mut state = sealed();
    let old = vec![report(&state, 2, 90), report(&state, 3, 100)];
    seal(&mut state, 2, &[]);
    let stray = elect(&state, 3, old.clone());
    assert_eq!(void(&state, &stray), Void::ReportStray { incarnation: directory(2) });

    let fresh = old.into_iter().map(|old| Report { attempt: Attempt(2), ..old }).collect();
    let entry = elect(&state, 3, fresh);
    apply_all(&mut state, [entry]);
}

#[test]
fn attempts_only_grow_and_an_overridden_one_elects_nobody() {
    let mut state = sealed();
    let reports = vec![report(&state, 2, 90), report(&state, 3, 100)];
    let late = elect(&state, 3, reports);
    seal(&mut state, 5, &[]);
    assert_eq!(void(&state, &late), Void::Attempt);
    for attempt in [4, 5].map(Attempt) {
        let entry = Entry::Seal { epoch: Epoch(0), attempt };
        assert_eq!(void(&state, &entry), Void::Attempt);
    }
}

#[test]
fn one_of_two_standbys_is_not_enough_when_one_was_enough_for_a_commit() {
    let state = sealed();
    let entry = elect(&state, 3, vec![report(&state, 3, 100)]);
    assert_eq!(void(&state, &entry), Void::ReportsTooFew);
}

#[test]
fn directory_of_the_old_primary_alone_is_enough() {
    let mut state = sealed();
    let entry = elect(&state, 1, vec![report(&state, 1, 120)]);
    apply_all(&mut state, [entry]);
    assert_eq!(state.tenure().unwrap().holder, NodeId(1));
    assert_eq!(state.tenure().unwrap().epoch, Epoch(1), "a new epoch all the same");
}

#[test]
fn standby_that_was_cloned_anew_does_not_stand_for_the_old_one() {
    let mut state = sealed();
    let incarnation = Incarnation(333);
    let again = Member { node: NodeId(3), incarnation, priority: 0 };
    apply_all(&mut state, [Entry::Admit { member: again, replaces: Some(directory(3)) }]);
    let clone = Report { incarnation, ..report(&state, 3, 100) };
    let mut entry = elect(&state, 2, vec![report(&state, 2, 90), clone]);
    if let Entry::NewEpoch { rule, .. } = &mut entry {
        // The directory that was cloned over is no member any more.
        *rule = any(1, &[1]);
    }
    assert_eq!(void(&state, &entry), Void::ReportsTooFew);
}

#[test]
fn the_same_directory_counts_once() {
    let state = sealed();
    let twice = vec![report(&state, 3, 100), report(&state, 3, 100)];
    let stray = Void::ReportStray { incarnation: directory(3) };
    assert_eq!(void(&state, &elect(&state, 3, twice)), stray);
}

#[test]
fn directory_that_is_behind_another_is_not_elected() {
    let state = sealed();
    let entry = elect(&state, 2, vec![report(&state, 2, 90), report(&state, 3, 100)]);
    let behind = Void::CandidateBehind { end: Lsn(90), furthest: Lsn(100) };
    assert_eq!(void(&state, &entry), behind);
}

#[test]
fn fork_is_neither_elected_nor_counted_however_far_it_is() {
    let state = sealed();
    let fork = Report { history: history(&[(1, 0, 0), (9, 50, 7)]), ..report(&state, 3, 900) };
    let descent = Some(Descent::Fork);
    let with_primary = vec![report(&state, 1, 120), fork.clone()];
    let elected = elect(&state, 3, with_primary.clone());
    assert_eq!(void(&state, &elected), Void::CandidateUnknown { descent });
    let counted = elect(&state, 2, vec![report(&state, 2, 90), fork]);
    assert_eq!(void(&state, &counted), Void::ReportsTooFew);
    // And it does not hold up the election of one that counts, though it is ahead.
    let mut state = state;
    let entry = elect(&state, 1, with_primary);
    apply_all(&mut state, [entry]);
}

#[test]
fn directory_outside_the_rule_is_not_elected_though_it_is_ahead() {
    let mut state = three_nodes();
    let outsider = Member { node: NodeId(4), incarnation: directory(4), priority: 9 };
    apply_all(&mut state, [new(outsider), Entry::Register { node: NodeId(4) }]);
    seal(&mut state, 1, &[2, 3]);
    let reports = vec![report(&state, 2, 90), report(&state, 3, 100), report(&state, 4, 900)];
    let entry = elect(&state, 4, reports.clone());
    assert_eq!(void(&state, &entry), Void::CandidateUnknown { descent: Some(Descent::Counts) });
    let entry = elect(&state, 3, reports);
    apply_all(&mut state, [entry]);
}

#[test]
fn while_rules_change_reports_must_be_enough_for_both() {
    let mut state = three_nodes();
    let nodes =
        [4, 5].map(|node| Member { node: NodeId(node), incarnation: directory(node), priority: 0 });
    apply_all(&mut state, nodes.map(new));
    apply_all(&mut state, [Entry::RuleJoint { epoch: Epoch(0), rule: any(2, &[2, 4, 5]) }]);
    seal(&mut state, 1, &[2, 3]);

    let old_only = vec![report(&state, 2, 90), report(&state, 3, 100)];
    assert_eq!(void(&state, &elect(&state, 3, old_only.clone())), Void::ReportsTooFew);
    let new_only = vec![report(&state, 2, 90), report(&state, 4, 100), report(&state, 5, 95)];
    assert_eq!(void(&state, &elect(&state, 2, new_only)), Void::ReportsTooFew);
    let both = [old_only, vec![report(&state, 5, 100)]].concat();
    let entry = elect(&state, 3, both);
    apply_all(&mut state, [entry]);
}

#[test]
fn rules_that_are_not_settled_stay_in_force_and_only_the_newest_can_be() {
    let mut state = three_nodes();
    let epoch = Epoch(0);
    let joint = Entry::RuleJoint { epoch, rule: any(2, &[2, 3]) };
    assert_eq!(void(&state, &Entry::RuleSettled { epoch, change: 1 }), Void::RuleChange);
    apply_all(&mut state, [joint.clone()]);
    assert_eq!(state.established().unwrap().rules.len(), 2);
    // The standby that it waits for may be gone for good: another change overtakes it.
    let overtaking = Entry::RuleJoint { epoch, rule: any(1, &[3]) };
    apply_all(&mut state, [overtaking.clone()]);
    for change in [1, 2] {
        let late = Entry::RuleSettled { epoch, change };
        assert_eq!(void(&state, &late), Void::RuleChange, "it is about a change before");
    }
    // Back and forth: the same rules are in force, and another one is the newest.
    apply_all(&mut state, [joint, overtaking.clone(), overtaking]);
    let in_force = [any(1, &[2, 3]), any(2, &[2, 3]), any(1, &[3])];
    assert_eq!(state.established().unwrap().rules, in_force);
    apply_all(&mut state, [Entry::RuleSettled { epoch, change: 6 }]);
    assert_eq!(state.established().unwrap().rules, [any(1, &[3])]);
}

#[test]
fn rules_in_force_are_few() {
    let mut state = three_nodes();
    let newest = fill_rules(&mut state);
    let joint = |rule| Entry::RuleJoint { epoch: Epoch(0), rule };
    assert_eq!(state.clone().apply(&joint(newest)), Ok(()), "it is in force already");
    assert_eq!(state.clone().apply(&joint(any(1, &[2, 3]))), Err(Void::Rule), "2 has gone");
    assert_eq!(void(&state, &joint(any(1, &[3]))), Void::RuleChange, "one more to satisfy");
}

#[test]
fn election_counts_against_every_rule_in_force() {
    let mut state = three_nodes();
    let epoch = Epoch(0);
    apply_all(&mut state, [Entry::RuleJoint { epoch, rule: any(2, &[2, 3]) }]);
    apply_all(&mut state, [Entry::RuleJoint { epoch, rule: any(1, &[2, 3]) }]);
    seal(&mut state, 1, &[2, 3]);
    let one = elect(&state, 3, vec![report(&state, 3, 100)]);
    assert_eq!(void(&state, &one), Void::ReportsTooFew);
    let both = elect(&state, 3, vec![report(&state, 3, 100), report(&state, 2, 100)]);
    apply_all(&mut state, [both]);
}

#[test]
fn rule_of_an_epoch_that_does_not_serve_is_replaced_and_its_fulfilment_is_not_the_new_ones() {
    let mut state = sealed();
    let joint = |epoch| Entry::RuleJoint { epoch, rule: any(1, &[2]) };
    assert_eq!(void(&state, &joint(Epoch(0))), Void::Sealed);
    let entry = elect(&state, 1, vec![report(&state, 1, 120)]);
    apply_all(&mut state, [entry]);
    let before = state.tenure().unwrap().change;
    apply_all(&mut state, [joint(Epoch(1))]);
    assert_eq!(state.tenure().unwrap().rule, any(1, &[2]));
    assert_eq!(state.established().unwrap().rules, [any(1, &[2, 3])], "it still counts");
    let established = |change| Entry::Established {
        epoch: Epoch(1),
        timeline: Timeline(2),
        switch: Lsn(120),
        lsn: Lsn(121),
        change,
        confirmed: [1, 2, 3].map(NodeId).into(),
    };
    assert_eq!(void(&state, &established(before)), Void::RuleChange);
    apply_all(&mut state, [established(before + 1)]);
    assert_eq!(state.established().unwrap().rules, [any(1, &[2])]);
}

#[test]
fn strict_durability_admits_no_degraded_rule_and_available_does_on_record() {
    let mut state = three_nodes();
    let degraded = Entry::RuleJoint { epoch: Epoch(0), rule: Rule::degraded() };
    assert_eq!(void(&state, &degraded), Void::Rule);
    apply_all(&mut state, [Entry::Durability(Durability::Available), degraded]);
}

#[test]
fn rules_that_name_strangers_the_primary_or_too_few_are_void() {
    let state = three_nodes();
    for rule in [any(1, &[1, 2]), any(3, &[2, 3]), any(1, &[2, 8])] {
        let entry = Entry::RuleJoint { epoch: Epoch(0), rule };
        assert_eq!(void(&state, &entry), Void::Rule, "{entry:?}");
    }
}

#[test]
fn established_after_a_seal_in_the_log_is_void() {
    let mut state = sealed();
    let entry = elect(&state, 1, vec![report(&state, 1, 120)]);
    apply_all(&mut state, [entry]);
    seal(&mut state, 1, &[]);
    let mut changed = state.clone();
    assert_eq!(establish(&mut changed, 1, 120), Err(Void::Sealed));
    assert_eq!(changed, state);
}

#[test]
fn double_failover_before_establishment_counts_against_the_epoch_that_served() {
    let mut state = sealed();
    let reports = vec![report(&state, 2, 90), report(&state, 3, 100)];
    let entry = elect(&state, 3, reports);
    apply_all(&mut state, [entry]);
    // Node 3 dies after its promotion and before it served; node 1's directory is lost.
    seal(&mut state, 1, &[1, 2]);
    let alone = elect(&state, 2, vec![report(&state, 2, 90)]);
    assert_eq!(void(&state, &alone), Void::ReportsTooFew);

    // Node 3 comes back with the timeline of its promotion: it counts, and it is ahead.
    let promoted = Report { history: history(&[(1, 0, 0), (2, 100, 1)]), ..report(&state, 3, 104) };
    let entry = elect(&state, 3, vec![report(&state, 2, 90), promoted]);
    apply_all(&mut state, [entry]);
    establish(&mut state, 3, 104).unwrap();
    assert!(state.unestablished().is_empty());
}

#[test]
fn old_epochs_are_neither_sealed_nor_established_nor_skipped() {
    let mut state = sealed();
    let late = elect(&state, 3, vec![report(&state, 2, 90), report(&state, 3, 100)]);
    apply_all(&mut state, [late.clone()]);
    let current = Epoch(1);
    assert_eq!(void(&state, &late), Void::Epoch { current });
    let seal = Entry::Seal { epoch: Epoch(0), attempt: Attempt(9) };
    assert_eq!(void(&state, &seal), Void::Epoch { current });
    let timeline = Timeline(2);
    let confirmed = [1, 2, 3].map(NodeId).into();
    let (epoch, switch, lsn) = (Epoch(0), Lsn(1), Lsn(2));
    let old = Entry::Established { epoch, timeline, switch, lsn, change: 1, confirmed };
    assert_eq!(void(&state, &old), Void::Epoch { current });
}

#[test]
fn epoch_is_established_once() {
    let mut state = sealed();
    let entry = elect(&state, 1, vec![report(&state, 1, 120)]);
    apply_all(&mut state, [entry]);
    establish(&mut state, 1, 120).unwrap();
    assert_eq!(establish(&mut state, 1, 120), Err(Void::Establishment));
    let recorded = &state.established().unwrap().history;
    assert_eq!(recorded, &history(&[(1, 0, 0)]), "it went on with its timeline");
}

#[test]
fn accepted_loss_elects_what_there_is_but_never_a_fork() {
    let mut state = sealed();
    let accept = |entry: Entry| match entry {
        Entry::NewEpoch { epoch, attempt, holder, incarnation, reports, rule, .. } => {
            let accept_loss = true;
            Entry::NewEpoch { epoch, attempt, holder, incarnation, reports, rule, accept_loss }
        }
        other => other,
    };
    let fork = Report { history: history(&[(1, 0, 0), (9, 50, 7)]), ..report(&state, 2, 900) };
    let entry = accept(elect(&state, 2, vec![fork]));
    assert_eq!(void(&state, &entry), Void::LossNotAccepted, "no operator has said so");
    let (epoch, attempt) = (newest(&state), Attempt(1));
    apply_all(&mut state, [Entry::AcceptLoss { epoch, attempt }]);
    let descent = Some(Descent::Fork);
    assert_eq!(void(&state, &entry), Void::CandidateUnknown { descent });
    let entry = accept(elect(&state, 3, vec![report(&state, 3, 100)]));
    apply_all(&mut state, [entry]);
}

#[test]
fn voters_change_one_at_a_time_and_old_memberships_count_until_all_holders_have_left_them() {
    let mut state = three_nodes();
    let grown = |version, voters: &[u64]| {
        let voters = voters.iter().copied().map(NodeId).collect();
        Entry::Membership(Membership { version, voters })
    };
    assert_eq!(void(&state, &grown(2, &[1, 2, 3, 4, 5])), Void::Membership);
    apply_all(&mut state, [grown(2, &[1, 2, 3, 4]), grown(3, &[1, 2, 3, 4, 5])]);
    assert_eq!(state.memberships().len(), 3);

    // A majority of the newest membership is none of the one that a holder may still count in.
    seal(&mut state, 1, &[3, 4, 5]);
    let entry = elect(&state, 3, vec![report(&state, 2, 90), report(&state, 3, 100)]);
    assert_eq!(void(&state, &entry), Void::NotReleased { membership: 1 });

    let adopted = |node| Entry::MembershipAdopted { node: NodeId(node), version: 3 };
    // It counts for the holder alone: a bystander that does not follow blocks nobody.
    apply_all(&mut state, [adopted(1)]);
    assert_eq!(state.memberships().len(), 3, "nodes 2 and 3 may count in the first one");
    assert_eq!(void(&state, &seal_of_route(2)), Void::NotReleased { membership: 1 });
    apply_all(&mut state, [entry]);
    apply_all(&mut state, [adopted(2), adopted(3)]);
    assert_eq!(state.memberships().len(), 1);
}

#[test]
fn changes_of_voters_wait_for_holders_that_do_not_follow() {
    let mut state = three_nodes();
    let mut voters: BTreeSet<_> = [1, 2, 3].map(NodeId).into();
    let mut refused = None;
    for version in 2..20 {
        voters.insert(NodeId(version + 10));
        let entry = Entry::Membership(Membership { version, voters: voters.clone() });
        refused = state.apply(&entry).err();
        if refused.is_some() {
            break;
        }
    }
    assert_eq!(refused, Some(Void::Membership));
    assert_eq!(state.memberships().len(), MEMBERSHIPS_PENDING_MAX);
}

#[test]
fn node_is_forgotten_only_when_its_leases_are_released() {
    let mut state = three_nodes();
    let node = NodeId(3);
    let forget = Entry::Forget { node };
    assert_eq!(void(&state, &forget), Void::NotReleased { membership: 1 });
    let released = |voter, kind| Entry::Released { voter: NodeId(voter), kind, number: 3 };
    for kind in [Kind::Member(node), Kind::Route(node)] {
        apply_all(&mut state, [released(1, kind), released(2, kind)]);
    }
    apply_all(&mut state, [forget]);
    assert!(!state.registrations().contains_key(&node));

    // It may come back, under a number that nobody has refused.
    apply_all(&mut state, [Entry::Register { node }]);
    assert_eq!(state.registrations()[&node].number, 4);
}

#[test]
fn holder_of_the_newest_epoch_is_not_forgotten() {
    let mut state = three_nodes();
    for kind in [Kind::Member(NodeId(1)), Kind::Route(NodeId(1))] {
        let released = |voter| Entry::Released { voter: NodeId(voter), kind, number: 1 };
        apply_all(&mut state, [1, 2, 3].map(released));
    }
    assert_eq!(void(&state, &Entry::Forget { node: NodeId(1) }), Void::Registration);
}

#[test]
fn address_goes_to_another_node_only_when_the_last_one_is_released() {
    let mut state = three_nodes();
    let vip = VipId(1);
    let give = |number, holder| Entry::GiveVip {
        vip,
        number,
        holder: NodeId(holder),
        incarnation: directory(holder),
    };
    assert_eq!(void(&state, &give(1, 9)), Void::Registration);
    apply_all(&mut state, [give(1, 1)]);
    assert_eq!(void(&state, &give(2, 2)), Void::NotReleased { membership: 1 });
    assert_eq!(void(&state, &give(1, 2)), Void::Number);
    let released =
        |voter| Entry::Released { voter: NodeId(voter), kind: Kind::Vip(vip), number: 1 };
    apply_all(&mut state, [released(2), released(3), give(2, 2)]);
    assert_eq!(state.vips()[&vip].holder, NodeId(2));
}

#[test]
fn cluster_begins_once_and_directories_are_in_one_place() {
    let state = three_nodes();
    let again = Entry::Bootstrap {
        system: SystemId(2),
        holder: NodeId(2),
        incarnation: directory(2),
        timeline: Timeline(1),
    };
    assert_eq!(void(&state, &again), Void::AlreadyBootstrapped);
    let copy = Member { node: NodeId(3), incarnation: directory(2), priority: 0 };
    assert_eq!(void(&state, &new(copy)), Void::Member);
}

#[test]
fn bad_settings_never_come_into_force() {
    let state = three_nodes();
    let bad = Settings { lease_ms: 1, ..Settings::default() };
    assert!(matches!(void(&state, &Entry::Settings(bad)), Void::Settings(_)));
}

#[test]
fn same_entries_give_the_same_state_and_it_survives_its_written_form() {
    let mut one = sealed();
    let other = sealed();
    assert_eq!(one, other);
    let entry = elect(&one, 3, vec![report(&one, 2, 90), report(&one, 3, 100)]);
    apply_all(&mut one, [entry]);
    assert_eq!(newest(&one), Epoch(1));
    let written: Vec<u8> = serde_json::to_vec(&other.tenure()).unwrap();
    let read: Option<Tenure> = serde_json::from_slice(&written).unwrap();
    assert_eq!(read.as_ref(), other.tenure());
}

/// An entry that needs the releases of a node's member and route leases.
fn seal_of_route(node: u64) -> Entry {
    Entry::Forget { node: NodeId(node) }
}

#[test]
fn accepted_loss_is_for_one_attempt() {
    let mut state = sealed();
    let epoch = newest(&state);
    let accept = |attempt| Entry::AcceptLoss { epoch, attempt: Attempt(attempt) };
    assert_eq!(void(&state, &accept(2)), Void::Attempt);
    apply_all(&mut state, [accept(1), Entry::Seal { epoch, attempt: Attempt(2) }]);
    assert_eq!(void(&state, &accept(1)), Void::Attempt);
    let mut entry = elect(&state, 3, vec![report(&state, 3, 100)]);
    if let Entry::NewEpoch { accept_loss, .. } = &mut entry {
        *accept_loss = true;
    }
    assert_eq!(void(&state, &entry), Void::LossNotAccepted);
}

#[test]
fn epoch_serves_only_when_nobody_goes_by_an_earlier_one() {
    let mut state = sealed();
    let entry = elect(&state, 3, vec![report(&state, 2, 100), report(&state, 3, 101)]);
    apply_all(&mut state, [entry]);
    let established = |confirmed: &[u64]| Entry::Established {
        epoch: Epoch(1),
        timeline: Timeline(2),
        switch: Lsn(101),
        lsn: Lsn(102),
        change: 2,
        confirmed: confirmed.iter().copied().map(NodeId).collect(),
    };
    assert_eq!(void(&state, &established(&[2, 3])), Void::Unconfirmed { node: NodeId(1) });
    // Who registers after the epoch began knows of it.
    apply_all(&mut state, [Entry::Register { node: NodeId(9) }]);
    let number = state.registrations()[&NodeId(1)].number;
    apply_all(&mut state, [Entry::Retire { node: NodeId(1), number }]);
    for kind in [Kind::Member(NodeId(1)), Kind::Route(NodeId(1))] {
        assert_eq!(void(&state, &established(&[2, 3])), Void::Unconfirmed { node: NodeId(1) });
        for voter in [2, 3].map(NodeId) {
            apply_all(&mut state, [Entry::Released { voter, kind, number }]);
        }
    }
    apply_all(&mut state, [established(&[2, 3])]);
}

#[test]
fn retired_registration_is_renewed_under_a_new_number_and_counts_where_it_counted() {
    let mut state = three_nodes();
    let node = NodeId(1);
    assert_eq!(void(&state, &Entry::Retire { node, number: 9 }), Void::Registration);
    apply_all(&mut state, [Entry::Retire { node, number: 1 }]);
    assert!(matches!(void(&state, &Entry::Register { node }), Void::NotReleased { .. }));
    let voters = [1, 2, 3, 4].map(NodeId).into();
    apply_all(&mut state, [Entry::Membership(Membership { version: 2, voters })]);
    for kind in [Kind::Member(node), Kind::Route(node)] {
        for voter in [2, 3, 4].map(NodeId) {
            apply_all(&mut state, [Entry::Released { voter, kind, number: 1 }]);
        }
    }
    apply_all(&mut state, [Entry::Register { node }]);
    let renewed = state.registrations()[&node];
    assert_eq!((renewed.number, renewed.counts_in, renewed.is_retiring), (4, 1, false));
}

#[test]
fn what_is_wanted_back_is_promised_no_more_and_asked_of_voters() {
    let mut state = three_nodes();
    let vip = VipId(1);
    let incarnation = Incarnation(5);
    let holder = NodeId(2);
    apply_all(&mut state, [Entry::GiveVip { vip, number: 1, holder, incarnation }]);
    assert_eq!(state.wanted().count(), 0);
    let right = state.vips()[&vip];
    assert_eq!(state.permits(&right, Epoch(0)), Ok(()));
    apply_all(&mut state, [Entry::RetireVip { vip, number: 1 }]);
    assert_eq!(state.permits(&right, Epoch(0)), Err(Refusal::Sealed));
    apply_all(&mut state, [Entry::Retire { node: NodeId(3), number: 3 }]);
    let wanted: Vec<_> = state.wanted().collect();
    let node = NodeId(3);
    let expected = [(Kind::Member(node), 3), (Kind::Route(node), 3), (Kind::Vip(vip), 1)];
    assert_eq!(wanted, expected);
    let member =
        Right { kind: Kind::Member(node), number: 3, holder: node, incarnation: directory(3) };
    assert_eq!(state.permits(&member, Epoch(0)), Err(Refusal::Sealed));
}

#[test]
fn switchover_is_to_another_member_once_and_ends_with_the_epoch() {
    let mut state = three_nodes();
    let epoch = Epoch(0);
    for to in [1, 9].map(NodeId) {
        assert_eq!(void(&state, &Entry::Switchover { epoch, to }), Void::Switchover);
    }
    assert_eq!(void(&state, &Entry::SwitchoverCancelled { epoch }), Void::Switchover);
    apply_all(&mut state, [Entry::Switchover { epoch, to: NodeId(3) }]);
    assert_eq!(void(&state, &Entry::Switchover { epoch, to: NodeId(2) }), Void::Switchover);
    let stage = |stage| Entry::SwitchoverStage { epoch, stage };
    assert_eq!(state.stage(), Some(Stage::Prepares));
    assert_eq!(void(&state, &stage(Stage::Stops)), Void::Switchover, "clients are not held");
    apply_all(&mut state, [stage(Stage::Holds)]);
    assert_eq!(void(&state, &stage(Stage::Holds)), Void::Switchover, "a late duplicate");
    apply_all(&mut state, [stage(Stage::Stops), Entry::SwitchoverCancelled { epoch }]);
    assert_eq!(state.stage(), None);
    assert_eq!(void(&state, &stage(Stage::Holds)), Void::Switchover);
    apply_all(&mut state, [Entry::Switchover { epoch, to: NodeId(2) }]);
    assert_eq!(state.stage(), Some(Stage::Prepares), "each one from the beginning");
    seal(&mut state, 1, &[1, 2, 3]);
    assert_eq!(void(&state, &Entry::SwitchoverCancelled { epoch }), Void::Sealed);
    let entry = elect(&state, 2, vec![report(&state, 1, 100), report(&state, 2, 100)]);
    apply_all(&mut state, [entry]);
    assert_eq!(state.handover(), None);
}

#[test]
fn node_that_left_is_never_named_again() {
    let mut state = three_nodes();
    let named = |role| Entry::Node { node: NodeId(4), address: "db4:6433".into(), role };
    apply_all(&mut state, [named(Role::Learner), named(Role::Voter), named(Role::Gone)]);
    assert_eq!(void(&state, &named(Role::Voter)), Void::Node);
    let address = "x".repeat(1_000);
    let long = Entry::Node { node: NodeId(5), address, role: Role::Voter };
    assert_eq!(void(&state, &long), Void::Node);
}

#[test]
fn directory_may_follow_as_it_is_only_up_to_where_the_new_timeline_begins() {
    let mut state = sealed();
    let entry = elect(&state, 3, vec![report(&state, 2, 100), report(&state, 3, 101)]);
    apply_all(&mut state, [entry]);
    let first = history(&[(1, 0, 0)]);
    let ours = history(&[(1, 0, 0), (2, 101, 1)]);
    let foreign = history(&[(1, 0, 0), (2, 101, 7)]);
    for is_established in [false, true] {
        if is_established {
            establish(&mut state, 2, 101).unwrap();
        }
        assert!(state.may_follow(&first, Lsn(101)), "{is_established}");
        assert!(!state.may_follow(&first, Lsn(102)), "{is_established}");
        assert!(state.may_follow(&ours, Lsn(500)), "{is_established}");
        assert!(!state.may_follow(&foreign, Lsn(101)), "{is_established}");
    }
}

#[test]
fn accepted_loss_ends_with_the_epoch() {
    let mut state = sealed();
    let (epoch, attempt) = (newest(&state), Attempt(1));
    apply_all(&mut state, [Entry::AcceptLoss { epoch, attempt }]);
    let entry = elect(&state, 3, vec![report(&state, 2, 100), report(&state, 3, 100)]);
    apply_all(&mut state, [entry]);
    seal(&mut state, 1, &[1, 2, 3]);
    assert_eq!(state.loss_accepted(), None);
    let mut entry = elect(&state, 2, vec![report(&state, 2, 100)]);
    if let Entry::NewEpoch { accept_loss, .. } = &mut entry {
        *accept_loss = true;
    }
    assert_eq!(void(&state, &entry), Void::LossNotAccepted);
}

#[test]
fn node_that_registered_last_before_an_epoch_must_confirm_it_too() {
    let mut state = sealed();
    let entry = elect(&state, 3, vec![report(&state, 2, 100), report(&state, 3, 101)]);
    apply_all(&mut state, [entry]);
    assert_eq!(state.unconfirmed().collect::<Vec<_>>(), [1, 2, 3].map(NodeId));
}

#[test]
fn address_that_was_given_anew_is_wanted_back_no_more() {
    let mut state = three_nodes();
    let (vip, incarnation) = (VipId(1), Incarnation(5));
    let give = |number, holder| Entry::GiveVip { vip, number, holder, incarnation };
    apply_all(&mut state, [give(1, NodeId(1)), Entry::RetireVip { vip, number: 1 }]);
    for voter in [1, 2].map(NodeId) {
        apply_all(&mut state, [Entry::Released { voter, kind: Kind::Vip(vip), number: 1 }]);
    }
    apply_all(&mut state, [give(2, NodeId(2))]);
    assert_eq!(state.wanted().count(), 0);
    assert_eq!(state.permits(&state.vips()[&vip], Epoch(0)), Ok(()));
}
