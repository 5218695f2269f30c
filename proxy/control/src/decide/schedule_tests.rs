//! Switchovers that operators want later.

use super::*;
use crate::limits::SCHEDULE_LATE_MS_MAX;

const AT_MS: u64 = 1_000_000;

fn scheduled(to: Option<u64>) -> Scene {
    let mut scene = scene();
    let (epoch, to) = (Epoch(0), to.map(NodeId));
    apply_all(&mut scene.state, [Entry::Schedule { epoch, to, at_ms: AT_MS }]);
    scene
}

#[test]
fn scheduled_switchover_begins_at_its_time_and_is_over_then() {
    let mut scene = scheduled(Some(2));
    scene.wall_ms = AT_MS - 1;
    assert_eq!(scene.decide(), []);
    scene.wall_ms = AT_MS;
    let begin = Entry::Switchover { epoch: Epoch(0), to: NodeId(2) };
    assert_eq!(scene.proposed(), core::slice::from_ref(&begin));
    apply_all(&mut scene.state, [begin]);
    assert_eq!(scene.state.scheduled(), None);
}

#[test]
fn scheduled_switchover_without_a_name_is_to_the_best_standby_then() {
    let mut scene = scheduled(None);
    scene.wall_ms = AT_MS;
    scene.node(3).end = Lsn(101);
    let to = NodeId(3);
    assert_eq!(scene.proposed(), [Entry::Switchover { epoch: Epoch(0), to }]);
    scene.node(3).streams = None;
    let to = NodeId(2);
    assert_eq!(scene.proposed(), [Entry::Switchover { epoch: Epoch(0), to }]);
}

#[test]
fn scheduled_switchover_waits_for_its_standby_and_is_given_up_when_it_is_late() {
    let mut scene = scheduled(Some(2));
    scene.node(2).streams = None;
    scene.wall_ms = AT_MS + SCHEDULE_LATE_MS_MAX;
    assert!(!scene.proposed().iter().any(|entry| matches!(entry, Entry::Switchover { .. })));
    scene.wall_ms += 1;
    assert!(scene.proposed().contains(&Entry::ScheduleCancelled { at_ms: AT_MS }));
}

#[test]
fn scheduled_switchover_ends_with_the_primary_that_it_was_to_leave() {
    let mut scene = scheduled(None);
    seal(&mut scene.state, 1, &[2, 3]);
    scene.silence(1);
    scene.reports(2, 100);
    scene.reports(3, 100);
    let elects = scene.proposed().into_iter().find(|entry| matches!(entry, Entry::NewEpoch { .. }));
    apply_all(&mut scene.state, elects);
    assert_eq!(scene.state.scheduled(), None);
}

#[test]
fn only_the_switchover_of_that_time_is_given_up_and_none_is_planned_to_who_cannot_serve() {
    let scene = scheduled(None);
    let other = Entry::ScheduleCancelled { at_ms: AT_MS + 1 };
    assert_eq!(rehearse(&scene.state, &other).unwrap_err(), Void::Schedule);
    let cancelled = rehearse(&scene.state, &Entry::ScheduleCancelled { at_ms: AT_MS }).unwrap();
    assert_eq!(cancelled.scheduled(), None);
    for to in [1, 9] {
        let entry = Entry::Schedule { epoch: Epoch(0), to: Some(NodeId(to)), at_ms: AT_MS };
        assert_eq!(rehearse(&scene.state, &entry).unwrap_err(), Void::Switchover, "{to}");
    }
}
