//! Where the coordinator must not get stuck, nor turn in circles.

use super::*;

#[test]
fn change_of_the_rule_is_given_up_when_the_standby_it_waits_for_is_gone() {
    let mut scene = scene();
    let epoch = Epoch(0);
    // Node 3 was silent for a moment; before the smaller rule settles, node 2 is lost for good.
    apply_all(&mut scene.state, [Entry::RuleJoint { epoch, rule: any(1, &[2]) }]);
    let change = scene.state.established().unwrap().change;
    scene.node(1).settled_change = change - 1;
    scene.silence(2);
    // Node 3 has been back and steady for long. The primary runs `ANY 1 (2)` and commits nothing.
    let proposed = scene.proposed();
    let with_3 = |rule: &Rule| rule.members.contains(&directory(3));
    let leaves = |entry: &Entry| matches!(entry, Entry::RuleJoint { rule, .. } if with_3(rule));
    assert!(proposed.iter().any(leaves), "commits wait for ever: {proposed:?}");
}

#[test]
fn node_that_came_back_without_an_agent_is_forgotten_and_blocks_no_membership() {
    let mut scene = scene();
    let node = NodeId(3);
    let number = scene.state.registrations()[&node].number;
    apply_all(&mut scene.state, [Entry::Retire { node, number }]);
    for voter in [1, 2, 3].map(NodeId) {
        for kind in [Kind::Member(node), Kind::Route(node)] {
            apply_all(&mut scene.state, [Entry::Released { voter, kind, number }]);
        }
    }
    // It was retired while it restarted; it lives, as a voter without PostgreSQL and proxy.
    let facts = scene.facts(3);
    facts.wants_leases = false;
    facts.agent = None;
    let mut blocked = None;
    for version in 2..=9 {
        for entry in scene.proposed() {
            let _ = scene.state.apply(&entry);
        }
        for node in [1, 2, 3] {
            scene.facts(node).counts_in = version - 1;
        }
        for entry in scene.proposed() {
            let _ = scene.state.apply(&entry);
        }
        let mut voters: BTreeSet<_> = [1, 2, 3].map(NodeId).into();
        if version % 2 == 0 {
            voters.insert(NodeId(4));
        }
        if scene.state.apply(&Entry::Membership(Membership { version, voters })).is_err() {
            blocked = blocked.or(Some(version));
        }
        let member = LogMember { is_voter: true, is_heard: true };
        scene.log = scene.state.membership().voters.iter().map(|node| (*node, member)).collect();
    }
    assert_eq!(blocked, None, "its registration pins {:?}", scene.state.memberships());
}

#[test]
fn dead_holder_of_an_address_that_nobody_else_offers_is_forgotten_at_last() {
    let mut scene = scene();
    let vip = VipId(1);
    let give = Entry::GiveVip { vip, number: 1, holder: NodeId(3), incarnation: Incarnation(3) };
    apply_all(&mut scene.state, [give]);
    let registered = scene.state.registrations()[&NodeId(3)].number;
    scene.silence(3);
    scene.missed(&[1, 2], Kind::Member(NodeId(3)), registered);
    scene.missed(&[1, 2], Kind::Route(NodeId(3)), registered);
    scene.missed(&[1, 2], Kind::Vip(vip), 1);
    for _ in 0..PROPOSALS_MAX {
        for entry in scene.proposed() {
            let _ = scene.state.apply(&entry);
        }
        let wanted: Vec<_> = scene.state.wanted().collect();
        for (kind, number) in wanted {
            scene.voter(1).released.insert(kind, number);
            scene.voter(2).released.insert(kind, number);
        }
    }
    // While it is registered, what it counted in stays, and after four changes voters are stuck.
    assert!(!scene.state.registrations().contains_key(&NodeId(3)), "{:?}", scene.state.vips());
}

#[test]
fn node_that_holds_the_epoch_is_not_taken_from_the_log_that_it_must_follow() {
    let mut scene = scene();
    let gone = Entry::Node { node: NodeId(1), address: "a:1".into(), role: Role::Gone };
    apply_all(&mut scene.state, [gone]);
    let actions = scene.decide();
    let removes = Action::Change(Change::Remove { node: NodeId(1) });
    assert!(!actions.contains(&removes), "a primary that hears of nothing: {actions:?}");
}

#[test]
fn primary_that_is_hung_is_not_elected_again_while_the_others_have_all_that_was_acknowledged() {
    let mut scene = scene();
    seal(&mut scene.state, 1, &[1, 2, 3]);
    // Its log has a tail that nobody acknowledged; it starts as a standby, and promotes never.
    scene.reports(1, 110);
    scene.node(1).postgres = Postgres::Hung;
    scene.reports(2, 100);
    scene.reports(3, 100);
    scene.sealed_since = BootTime(0);
    let proposed = scene.proposed();
    let holder = proposed.iter().find_map(|entry| match entry {
        Entry::NewEpoch { holder, .. } => Some(*holder),
        _ => None,
    });
    assert_ne!(holder, Some(NodeId(1)), "sealed at once, and again, and again");
    // Nor does it come to that: with the reports of 2 and 3 alone there is an election at once.
    assert!(holder.is_some());
}

#[test]
fn rule_of_a_new_epoch_does_not_depend_on_nodes_that_have_left_for_good() {
    let mut scene = scene();
    for node in [2, 3] {
        let gone = Entry::Node { node: NodeId(node), address: "a:1".into(), role: Role::Gone };
        apply_all(&mut scene.state, [gone]);
        scene.nodes.remove(&NodeId(node));
        scene.log.remove(&NodeId(node));
        for entry in scene.proposed() {
            let _ = scene.state.apply(&entry);
        }
    }
    let members: Vec<_> = scene.state.members().keys().map(|node| node.0).collect();
    assert_eq!(members, [1, 3], "the rule was changed once, and commits depend on node 3");

    seal(&mut scene.state, 1, &[1, 2, 3]);
    scene.reports(1, 100);
    apply_all(&mut scene.state, [Entry::Durability(Durability::Available)]);
    let entry = scene.proposed().into_iter().find(|entry| matches!(entry, Entry::NewEpoch { .. }));
    let Some(Entry::NewEpoch { rule, .. }) = &entry else { panic!("{:?}", scene.decide()) };
    assert!(rule.is_degraded(), "{rule:?}");
    apply_all(&mut scene.state, entry);
    crate::cluster::testing::establish(&mut scene.state, 2, 100).unwrap();
    let members: Vec<_> = scene.state.members().keys().map(|node| node.0).collect();
    assert_eq!(members, [1], "nothing depends on the others any more");
}

#[test]
fn rule_of_a_new_epoch_does_not_depend_on_a_report_that_counts_for_nothing_alone() {
    let mut scene = scene();
    seal(&mut scene.state, 1, &[1, 2, 3]);
    scene.reports(1, 100);
    scene.reports(2, 100);
    // Node 3 has a timeline that no committed epoch made.
    scene.reports(3, 90);
    let forked = crate::cluster::testing::history(&[(1, 0, 0), (2, 50, 9)]);
    scene.node(3).report.as_mut().unwrap().history = forked;
    let proposed = scene.proposed();
    let rule = proposed.iter().find_map(|entry| match entry {
        Entry::NewEpoch { rule, .. } => Some(rule.clone()),
        _ => None,
    });
    let rule = rule.expect("2 has all that 1 has");
    assert!(!rule.members.contains(&directory(3)), "it can follow only when it is rebuilt");
}

#[test]
fn accepted_loss_with_one_directory_left_makes_an_epoch_that_can_be_established() {
    let mut scene = scene();
    seal(&mut scene.state, 1, &[2, 3]);
    scene.silence(1);
    scene.reports(3, 100);
    // Node 2 votes, and its directory is lost for good, as is node 1.
    scene.facts(2).agent = None;
    scene.sealed_since = BootTime(0);
    let accept = Entry::AcceptLoss { epoch: Epoch(0), attempt: Attempt(1) };
    apply_all(&mut scene.state, [accept]);
    let proposed = scene.proposed();
    let rule = proposed.iter().find_map(|entry| match entry {
        Entry::NewEpoch { rule, .. } => Some(rule.clone()),
        _ => None,
    });
    let rule = rule.expect("the loss is accepted");
    assert!(rule.is_degraded(), "nobody is left to flush for {rule:?}");
}

#[test]
fn address_that_its_holder_could_not_use_goes_to_another_node_that_offers_it() {
    let mut scene = scene();
    let vips = [1, 2, 3].map(VipId);
    // Nodes 2 and 3 offer all. Node 3 reaches the coordinator, and too few voters to hold a lease.
    for node in [2, 3] {
        let proxy = ProxyFacts { vips: vips.into(), ..ProxyFacts::default() };
        scene.facts(node).proxy = Some(proxy);
    }
    let give = |vip, holder: u64, number| Entry::GiveVip {
        vip,
        number,
        holder: NodeId(holder),
        incarnation: Incarnation(holder.into()),
    };
    apply_all(&mut scene.state, [give(vips[1], 2, 1), give(vips[2], 2, 1)]);
    let mut holders = Vec::new();
    for number in 1..=4 {
        if number == 1 {
            apply_all(&mut scene.state, [give(vips[0], 3, 1)]);
        } else {
            for entry in scene.proposed() {
                let _ = scene.state.apply(&entry);
            }
        }
        let right = scene.state.vips()[&vips[0]];
        holders.push(right.holder);
        if right.holder == NodeId(3) {
            scene.missed(&[1, 2, 3], Kind::Vip(vips[0]), right.number);
        }
        for entry in scene.proposed() {
            let _ = scene.state.apply(&entry);
        }
        for voter in [1, 2] {
            scene.voter(voter).released.insert(Kind::Vip(vips[0]), right.number);
        }
        for entry in scene.proposed() {
            if matches!(entry, Entry::Released { .. }) {
                let _ = scene.state.apply(&entry);
            }
        }
    }
    assert!(holders.contains(&NodeId(2)), "it goes to node 3 for ever: {holders:?}");
}

#[test]
fn node_that_has_left_the_log_and_runs_on_keeps_neither_leases_nor_memberships_nor_an_address() {
    let mut scene = scene();
    let (node, vip) = (NodeId(3), VipId(1));
    let give = Entry::GiveVip { vip, number: 1, holder: node, incarnation: Incarnation(3) };
    let gone = Entry::Node { node, address: "a:1".into(), role: Role::Gone };
    apply_all(&mut scene.state, [give, gone]);
    for node in [2, 3] {
        scene.facts(node).proxy = Some(ProxyFacts { vips: [vip].into(), ..ProxyFacts::default() });
    }
    let proposed = scene.proposed();
    assert!(proposed.contains(&Entry::RetireVip { vip, number: 1 }), "{proposed:?}");
    let retire = Entry::Retire { node, number: 3 };
    assert!(!proposed.contains(&retire), "it still hears of what comes");
    apply_all(&mut scene.state, [Entry::RetireVip { vip, number: 1 }]);
    for voter in [1, 2].map(NodeId) {
        let kind = Kind::Vip(vip);
        apply_all(&mut scene.state, [Entry::Released { voter, kind, number: 1 }]);
    }
    scene.node(1).settled_change = 3;
    scene.settle();
    assert_eq!(scene.state.vips()[&vip].holder, NodeId(2), "not to who leaves");
    // It hears of nothing and is not heard, but asks voters on and on, who miss nothing.
    scene.log.remove(&node);
    scene.silence(3);
    assert!(scene.proposed().contains(&retire), "it pins {:?}", scene.state.memberships());
    apply_all(&mut scene.state, [retire]);
    for kind in [Kind::Member(node), Kind::Route(node)] {
        for voter in [1, 2].map(NodeId) {
            apply_all(&mut scene.state, [Entry::Released { voter, kind, number: 3 }]);
        }
    }
    // What it said before it left may come late.
    scene.seen(3).heard = NOW;
    let proposed = scene.proposed();
    assert!(proposed.contains(&Entry::Forget { node }), "{proposed:?}");
    assert!(!proposed.contains(&Entry::Register { node }), "{proposed:?}");
    apply_all(&mut scene.state, [Entry::Forget { node }]);
    assert!(!scene.proposed().contains(&Entry::Register { node }));
}

#[test]
fn living_voter_that_leaves_counts_on_for_leases_while_the_others_are_no_majority() {
    let mut scene = scene();
    let gone = Entry::Node { node: NodeId(3), address: "a:1".into(), role: Role::Gone };
    apply_all(&mut scene.state, [gone]);
    // Node 2 restarts. The engine keeps node 3 as well: without it nothing could be agreed on.
    scene.silence(2);
    let membership = |scene: &Scene| {
        let proposed = scene.proposed().into_iter();
        proposed.filter(|entry| matches!(entry, Entry::Membership(_))).count()
    };
    assert_eq!(membership(&scene), 0, "the primary could not renew");
    scene.seen(2).heard = NOW;
    assert_eq!(membership(&scene), 1);
    // One that is out of the log counts no more, whoever is there.
    scene.silence(2);
    scene.log.remove(&NodeId(3));
    assert_eq!(membership(&scene), 1);
}

#[test]
fn survivor_of_a_lost_majority_gives_its_cluster_another_epoch_and_takes_in_new_voters() {
    // Nodes 1 and 3 are lost for good, and node 2 was made a cluster of its own.
    let mut scene = scene();
    apply_all(&mut scene.state, [Entry::Recovered { survivor: NodeId(2) }]);
    for lost in [1, 3] {
        scene.log.remove(&NodeId(lost));
        scene.silence(lost);
    }
    for _ in 0..PROPOSALS_MAX {
        for entry in scene.proposed() {
            let _ = scene.state.apply(&entry);
        }
        scene.facts(2).counts_in = scene.state.membership().version;
        let wanted: Vec<_> = scene.state.wanted().collect();
        scene.voter(2).released.extend(wanted);
        for (kind, number) in
            [(Kind::Primary, 0), (Kind::Member(NodeId(1)), 1), (Kind::Route(NodeId(1)), 1)]
        {
            scene.missed(&[2], kind, number);
        }
        for kind in [Kind::Member(NodeId(3)), Kind::Route(NodeId(3))] {
            scene.missed(&[2], kind, 3);
        }
        if scene.state.sealed().is_some() {
            scene.reports(2, 100);
        }
    }
    assert_eq!(scene.state.membership().voters, [NodeId(2)].into());
    let stuck = scene.state.memberships();
    assert!(scene.state.is_released(Kind::Primary, 0), "nobody can ever be elected: {stuck:?}");
}
