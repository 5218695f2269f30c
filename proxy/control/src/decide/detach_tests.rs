//! What becomes of nodes that operators have detached.

use super::*;

fn detach(scene: &mut Scene, node: u64) {
    apply_all(&mut scene.state, [Entry::Detach { node: NodeId(node), is_detached: true }]);
}

fn detached_scene(node: u64) -> Scene {
    let mut scene = scene();
    for node in 1..=3 {
        apply_all(&mut scene.state, [named(node, Role::Voter)]);
    }
    detach(&mut scene, node);
    scene
}

fn named(node: u64, role: Role) -> Entry {
    Entry::Node { node: NodeId(node), address: "a:1".into(), role }
}

fn joint(scene: &Scene) -> Option<Rule> {
    scene.proposed().into_iter().find_map(|entry| match entry {
        Entry::RuleJoint { rule, .. } => Some(rule),
        _ => None,
    })
}

#[test]
fn commits_wait_for_detached_standbys_only_where_no_other_streams() {
    let mut scene = detached_scene(3);
    assert_eq!(joint(&scene), Some(any(1, &[2])));
    scene.silence(2);
    assert_eq!(joint(&scene), Some(any(1, &[3])));
    apply_all(&mut scene.state, [Entry::Detach { node: NodeId(3), is_detached: false }]);
    scene.seen(2).heard = NOW;
    assert_eq!(joint(&scene), None, "the rule is of both, as it was");
}

#[test]
fn detached_standby_is_elected_only_if_no_other_has_as_much() {
    for (end, wanted) in [(100, 3), (101, 2)] {
        let mut scene = detached_scene(2);
        scene.silence(1);
        seal(&mut scene.state, 1, &[2, 3]);
        scene.reports(2, end);
        scene.reports(3, 100);
        assert_eq!(elected(&scene.decide()).map(|(node, _)| node), Some(NodeId(wanted)), "{end}");
    }
}

#[test]
fn first_commits_of_an_epoch_wait_for_detached_standbys_only_where_there_is_no_other() {
    let mut scene = detached_scene(2);
    seal(&mut scene.state, 1, &[2, 3]);
    scene.reports(2, 100);
    scene.reports(3, 100);
    scene.reports(1, 100);
    assert_eq!(first_rule(&scene), Some(any(1, &[1])), "the old primary reported and comes back");
    scene.silence(1);
    scene.node(1).report = None;
    assert_eq!(first_rule(&scene), Some(any(1, &[2])));
}

fn first_rule(scene: &Scene) -> Option<Rule> {
    scene.proposed().into_iter().find_map(|entry| match entry {
        Entry::NewEpoch { rule, .. } => Some(rule),
        _ => None,
    })
}

#[test]
fn primary_who_leaves_hands_over_to_who_is_not_detached() {
    let mut scene = detached_scene(3);
    scene.node(3).end = Lsn(500);
    apply_all(&mut scene.state, [named(1, Role::Gone)]);
    let to = NodeId(2);
    assert!(scene.proposed().contains(&Entry::Switchover { epoch: Epoch(0), to }));
}

#[test]
fn primary_and_strangers_are_not_detached_and_who_leaves_is_so_no_more() {
    let mut scene = detached_scene(3);
    for node in [1, 9] {
        let entry = Entry::Detach { node: NodeId(node), is_detached: true };
        assert_eq!(rehearse(&scene.state, &entry).unwrap_err(), Void::Detach);
    }
    assert!(scene.state.is_detached(NodeId(3)));
    apply_all(&mut scene.state, [named(3, Role::Gone)]);
    assert!(scene.state.detached().is_empty());
}

#[test]
fn detached_node_is_told_with_what_ends_that_and_not_when_it_became_primary() {
    let mut scene = detached_scene(3);
    scene.assert_only("an operator has detached node 3", "pgx ctl attach 3");
    let is_detached = |scene: &Scene| scene.survey().nodes.iter().any(|node| node.is_detached);
    assert!(is_detached(&scene));
    seal(&mut scene.state, 1, &[2, 3]);
    scene.silence(1);
    scene.reports(2, 100);
    scene.reports(3, 101);
    let elects = scene.proposed().into_iter().find(|entry| matches!(entry, Entry::NewEpoch { .. }));
    apply_all(&mut scene.state, elects);
    assert_eq!(scene.state.tenure().unwrap().holder, NodeId(3));
    assert!(is_detached(&scene));
    let told = scene.survey().troubles;
    assert!(!told.iter().any(|trouble| trouble.cause.contains("detached")), "{told:?}");
}

#[test]
fn newcomer_that_cannot_read_who_is_detached_gets_no_log_that_says_so() {
    let mut scene = detached_scene(3);
    apply_all(&mut scene.state, [Entry::Detach { node: NodeId(3), is_detached: false }]);
    apply_all(&mut scene.state, [named(4, Role::Voter)]);
    scene.nodes.insert(NodeId(4), seen(4));
    let adds = |scene: &Scene| {
        scene.decide().iter().any(|one| matches!(one, Action::Change(Change::Add { .. })))
    };
    scene.facts(4).entries_read_max = Entry::OPERATE_VERSION - 1;
    assert!(!adds(&scene), "it is in the log still");
    scene.facts(4).entries_read_max = Entry::OPERATE_VERSION;
    assert!(adds(&scene));
}

#[test]
fn cluster_of_its_own_has_nobody_detached_who_is_gone() {
    let mut scene = detached_scene(3);
    detach(&mut scene, 2);
    apply_all(&mut scene.state, [Entry::Recovered { survivor: NodeId(2) }]);
    assert_eq!(scene.state.detached(), &[NodeId(2)].into());
}
