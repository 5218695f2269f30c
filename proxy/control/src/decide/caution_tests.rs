//! What the coordinator must not propose, though it nearly could: one condition each.

use super::*;

fn gone(scene: &mut Scene, node: u64) {
    let node = NodeId(node);
    let gone = Entry::Node { node, address: "a:1".into(), role: Role::Gone };
    apply_all(&mut scene.state, [gone]);
}

/// The directory of node 4 is a member, and streams steadily, further than the others.
fn with_newcomer() -> Scene {
    let mut scene = scene();
    scene.nodes.insert(NodeId(4), seen(4));
    scene.log.insert(NodeId(4), LogMember { is_voter: false, is_heard: true });
    apply_all(&mut scene.state, [Entry::Register { node: NodeId(4) }]);
    let incarnation = directory(4);
    let member = crate::cluster::Member { node: NodeId(4), incarnation, priority: 0 };
    apply_all(&mut scene.state, [Entry::Admit { member, replaces: None }]);
    scene.node(4).end = Lsn(300);
    scene
}

fn removes(scene: &Scene, node: u64) -> bool {
    scene.decide().contains(&Action::Change(Change::Remove { node: NodeId(node) }))
}

fn memberships(scene: &Scene) -> usize {
    let proposed = scene.proposed();
    proposed.iter().filter(|entry| matches!(entry, Entry::Membership(_))).count()
}

#[test]
fn new_primary_that_has_promoted_is_not_given_up_for_being_slow() {
    let mut scene = elected_scene();
    scene.follow();
    scene.tenure_since = BootTime(0);
    let seals =
        |scene: &Scene| scene.proposed().iter().any(|entry| matches!(entry, Entry::Seal { .. }));
    assert!(seals(&scene));
    scene.node(3).promoted = Some(Epoch(1));
    assert!(!seals(&scene));
}

#[test]
fn living_node_leaves_the_log_neither_while_it_counts_nor_while_commits_depend_on_it() {
    let mut scene = scene();
    gone(&mut scene, 3);
    let voters = [1, 2].map(NodeId).into();
    apply_all(&mut scene.state, [Entry::Membership(Membership { version: 2, voters })]);
    for node in [1, 2, 3].map(NodeId) {
        apply_all(&mut scene.state, [Entry::MembershipAdopted { node, version: 2 }]);
    }
    assert_eq!(scene.state.memberships().len(), 1, "it counts nowhere");
    assert!(!removes(&scene, 3), "its directory is in the rule");
    let epoch = Epoch(0);
    apply_all(&mut scene.state, [Entry::RuleJoint { epoch, rule: any(1, &[2]) }]);
    let change = scene.state.established().unwrap().change;
    apply_all(&mut scene.state, [Entry::RuleSettled { epoch, change }]);
    assert!(removes(&scene, 3));
}

#[test]
fn holder_of_the_epoch_keeps_the_log_and_its_vote_also_when_it_is_dead_and_shall_leave() {
    let mut scene = scene();
    gone(&mut scene, 1);
    scene.log.get_mut(&NodeId(1)).unwrap().is_heard = false;
    assert!(!removes(&scene, 1), "it is sealed first, and another is elected");
    assert_eq!(memberships(&scene), 0);
}

#[test]
fn living_voter_counts_until_those_who_are_to_come_count() {
    let mut scene = scene();
    gone(&mut scene, 3);
    assert_eq!(memberships(&scene), 1);
    let (node, role) = (NodeId(4), Role::Voter);
    apply_all(&mut scene.state, [Entry::Node { node, address: "d:1".into(), role }]);
    scene.nodes.insert(node, Observation { is_steady: false, ..seen(4) });
    assert_eq!(memberships(&scene), 0, "node 4 is to have the log first");
    scene.log.insert(node, LogMember { is_voter: false, is_heard: true });
    assert_eq!(memberships(&scene), 0, "and to count");
}

#[test]
fn releases_are_written_down_when_they_are_wanted() {
    let mut scene = scene();
    scene.voter(2).released.insert(Kind::Primary, 0);
    assert_eq!(scene.proposed(), []);
    seal(&mut scene.state, 1, &[]);
    let (voter, kind) = (NodeId(2), Kind::Primary);
    assert!(scene.proposed().contains(&Entry::Released { voter, kind, number: 0 }));
    // Of the registration before the one that is wanted back.
    let kind = Kind::Route(NodeId(3));
    scene.voter(1).released.insert(kind, 2);
    apply_all(&mut scene.state, [Entry::Retire { node: NodeId(3), number: 3 }]);
    let earlier = Entry::Released { voter: NodeId(1), kind, number: 2 };
    assert!(!scene.proposed().contains(&earlier));
}

#[test]
fn node_that_registered_under_the_new_epoch_does_not_hold_it_back() {
    let mut scene = elected_scene();
    scene.follow();
    scene.tenure_since = BootTime(0);
    scene.node(3).promoted = Some(Epoch(1));
    apply_all(&mut scene.state, [Entry::Register { node: NodeId(4) }]);
    scene.nodes.insert(NodeId(4), seen(4));
    let retires = |node| {
        let number = scene.state.registrations()[&NodeId(node)].number;
        scene.proposed().contains(&Entry::Retire { node: NodeId(node), number })
    };
    assert!(!retires(4), "it knows of the epoch, whatever it said before");
}

#[test]
fn address_is_not_given_to_a_node_whose_leases_are_asked_back() {
    let mut scene = scene();
    let vip = VipId(1);
    scene.facts(2).proxy = Some(ProxyFacts { vips: [vip].into(), ..ProxyFacts::default() });
    apply_all(&mut scene.state, [Entry::Retire { node: NodeId(2), number: 2 }]);
    let gives = |entry: &Entry| matches!(entry, Entry::GiveVip { .. });
    assert!(!scene.proposed().iter().any(gives));
    scene.facts(2).proxy = None;
    scene.facts(3).proxy = Some(ProxyFacts { vips: [vip].into(), ..ProxyFacts::default() });
    assert!(scene.proposed().iter().any(gives));
    gone(&mut scene, 3);
    assert!(!scene.proposed().iter().any(gives), "nor to one that leaves");
}

#[test]
fn address_of_a_silent_node_is_taken_when_voters_miss_it_or_it_shall_leave() {
    let mut scene = scene();
    let vip = VipId(1);
    scene.facts(3).proxy = Some(ProxyFacts { vips: [vip].into(), ..ProxyFacts::default() });
    scene.settle();
    scene.silence(3);
    let retire = Entry::RetireVip { vip, number: 1 };
    assert!(!scene.proposed().contains(&retire), "it may answer on: only voters can tell");
    gone(&mut scene, 3);
    assert!(scene.proposed().contains(&retire));
}

#[test]
fn rule_is_not_settled_by_what_a_primary_said_of_an_earlier_epoch() {
    let mut scene = scene();
    let epoch = Epoch(0);
    apply_all(&mut scene.state, [Entry::RuleJoint { epoch, rule: any(2, &[2, 3]) }]);
    let change = scene.state.established().unwrap().change;
    scene.node(1).settled_change = change;
    scene.node(1).epoch = None;
    let settled = Entry::RuleSettled { epoch, change };
    assert!(!scene.proposed().contains(&settled));
    scene.node(1).epoch = Some(epoch);
    assert!(scene.proposed().contains(&settled));
}

#[test]
fn primary_that_leaves_hands_over_to_who_streams_steadily_stays_and_can_be_elected() {
    let expect = |scene: &Scene, to| {
        let switchover = Entry::Switchover { epoch: Epoch(0), to: NodeId(to) };
        assert!(scene.proposed().contains(&switchover), "{to}: {:?}", scene.proposed());
    };
    let mut newcomer = with_newcomer();
    gone(&mut newcomer, 1);
    newcomer.node(2).end = Lsn(200);
    expect(&newcomer, 2);
    newcomer.seen(2).is_steady = false;
    expect(&newcomer, 3);
    newcomer.seen(2).is_steady = true;
    gone(&mut newcomer, 2);
    expect(&newcomer, 3);
}

#[test]
fn rule_of_an_epoch_that_does_not_serve_is_replaced_late_and_only_if_it_cannot_be_fulfilled() {
    let mut scene = elected_scene();
    assert_eq!(scene.state.tenure().unwrap().rule, any(1, &[2]));
    scene.seen(1).heard = NOW;
    scene.follow();
    scene.node(2).streams = None;
    let replaces = |scene: &Scene| {
        scene.proposed().iter().any(|entry| matches!(entry, Entry::RuleJoint { .. }))
    };
    assert!(!replaces(&scene), "node 2 has had no time");
    scene.tenure_since = BootTime(NOW.0 - 1_600_000_000);
    assert!(replaces(&scene));
    scene.follow();
    assert!(!replaces(&scene), "node 2 does what is waited for");
}

#[test]
fn rule_names_neither_nodes_that_leave_nor_directories_that_are_not_admitted() {
    let joint = |rule| Entry::RuleJoint { epoch: Epoch(0), rule };
    let mut leaving = scene();
    gone(&mut leaving, 3);
    assert!(leaving.proposed().contains(&joint(any(1, &[2]))), "{:?}", leaving.proposed());
    let mut replaced = scene();
    replaced.node(3).directory = Incarnation(77);
    assert!(replaced.proposed().contains(&joint(any(1, &[2]))), "{:?}", replaced.proposed());
}

#[test]
fn new_primary_is_not_established_by_an_earlier_rule() {
    let mut scene = elected_scene();
    scene.seen(1).heard = NOW;
    scene.follow();
    let establishes = |scene: &Scene| {
        scene.proposed().iter().any(|entry| matches!(entry, Entry::Established { .. }))
    };
    let change = scene.state.tenure().unwrap().change;
    scene.node(3).recovered = Some(Recovered { change, ..RECOVERED });
    assert!(establishes(&scene));
    scene.node(3).recovered = Some(Recovered { change: change - 1, ..RECOVERED });
    assert!(!establishes(&scene));
}

#[test]
fn report_of_another_attempt_holds_up_no_election() {
    let mut scene = scene();
    seal(&mut scene.state, 1, &[1, 2, 3]);
    scene.reports(1, 100);
    scene.reports(2, 100);
    let stray = Report { attempt: Attempt(9), ..report(&scene.state, 3, 100) };
    scene.node(3).report = Some(stray);
    scene.sealed_since = BootTime(0);
    assert!(elected(&scene.decide()).is_some(), "{:?}", scene.decide());
}

#[test]
fn node_that_leaves_is_elected_last_among_equals_and_is_in_no_new_rule() {
    let mut scene = sealed_without_the_primary();
    gone(&mut scene, 2);
    scene.reports(2, 100);
    scene.reports(3, 100);
    assert_eq!(elected(&scene.decide()), Some((NodeId(3), any(1, &[1]))));
}

#[test]
fn first_rule_names_a_standby_that_is_about_to_report_and_could_follow() {
    // The old primary has reported, which has to start before anybody can wait for it.
    let sealed = || {
        let mut scene = stopping_scene();
        scene.node(1).postgres = Postgres::Stopped;
        seal(&mut scene.state, 1, &[1, 2, 3]);
        scene.reports(1, 150);
        scene.reports(3, 150);
        scene
    };
    let rule = |scene: &Scene| elected(&scene.decide()).unwrap().1;
    assert_eq!(rule(&sealed()), any(1, &[1, 2]));
    let changes: [fn(&mut Scene); 5] = [
        |scene| scene.silence(2),
        |scene| scene.node(2).postgres = Postgres::Hung,
        |scene| scene.node(2).end = Lsn(151),
        |scene| scene.node(2).timeline = Timeline(2),
        |scene| scene.node(2).directory = Incarnation(999),
    ];
    for change in changes {
        let mut scene = sealed();
        change(&mut scene);
        assert_eq!(rule(&scene), any(1, &[1]));
    }
}
