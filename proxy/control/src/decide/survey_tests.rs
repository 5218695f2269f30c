//! What operators are told of each situation: one trouble for each cause, and what to do about it.

use alloc::string::String;

use super::*;
use crate::admin::{Survey, Trouble};
use crate::facts::Postgres;
use crate::survey::survey;

impl Scene {
    /// What node 1, who coordinates, tells.
    pub(super) fn survey(&self) -> Survey {
        let waits = self.decide().into_iter().find_map(|action| match action {
            Action::Wait(reason) => Some(reason),
            _ => None,
        });
        survey(&self.view(), NodeId(1), waits.as_ref(), NOW)
    }

    fn causes(&self) -> Vec<String> {
        self.survey().troubles.into_iter().map(|Trouble { cause, .. }| cause).collect()
    }

    /// The only trouble's cause has the one, its next step the other.
    pub(super) fn assert_only(&self, cause: &str, next: &str) {
        let troubles = self.survey().troubles;
        let [only] = &troubles[..] else { panic!("not one trouble: {troubles:#?}") };
        assert!(only.cause.contains(cause), "{only:?} lacks {cause:?}");
        assert!(only.next.contains(next), "{only:?} lacks {next:?}");
    }
}

#[test]
fn a_cluster_that_is_well_has_no_trouble_and_each_node_shows_its_part() {
    let mut scene = scene();
    scene.node(1).end = Lsn(150);
    let found = scene.survey();
    assert_eq!(found.troubles, []);
    assert_eq!(found.nodes.iter().map(|node| node.id).collect::<Vec<_>>(), [1, 2, 3]);
    let of = |at: usize| found.nodes[at].postgres.clone().unwrap();
    let (primary, standby) = (of(0), of(1));
    assert!(primary.is_holder && !primary.is_sync && primary.lag_bytes.is_none());
    assert_eq!((standby.lag_bytes, standby.streams_from), (Some(50), Some(1)));
    assert!(standby.is_sync && standby.is_steady && !standby.is_holder);
    assert_eq!((standby.state, &*standby.end), (Postgres::Standby, "0/64"));
}

#[test]
fn silent_node_is_told_once_with_where_to_look() {
    let mut scene = scene();
    scene.silence(3);
    scene.assert_only("node 3 has not been heard for 100 s", "systemctl status pgx");
    scene.nodes.remove(&NodeId(3));
    scene.assert_only("node 3 has not been heard since this coordinator began", "node 3");
    let three = scene.survey().nodes.pop().unwrap();
    assert_eq!((three.id, three.heard_ms, three.is_alive), (3, None, false));
}

#[test]
fn each_state_of_postgresql_has_its_cause_and_its_next_step() {
    let cases = [
        (Postgres::Dead, "PostgreSQL of node 3 has ended", "starts it again"),
        (Postgres::Hung, "does not answer", "which probe fails"),
        (Postgres::Starting, "does not accept connections yet", "wait"),
        (Postgres::Stopped, "is stopped", "pgx starts it again"),
    ];
    for (postgres, cause, next) in cases {
        let mut scene = scene();
        scene.node(3).postgres = postgres;
        scene.assert_only(cause, next);
    }
    let mut scene = scene();
    scene.node(3).streams = None;
    scene.assert_only("node 3 does not stream from the primary, node 1", "rewinds or copies");
    scene.facts(3).agent = None;
    scene.assert_only("node 3 says nothing of its PostgreSQL", "log on node 3");
}

#[test]
fn commits_that_wait_and_commits_that_depend_on_one_node_come_first() {
    let mut scene = scene();
    scene.node(2).streams = None;
    scene.silence(3);
    let causes = scene.causes();
    assert!(causes[0].contains("commits wait: 0 standbys stream, and 1 are to have"), "{causes:?}");
    assert_eq!(causes.len(), 3, "{causes:?}");
    let strict = scene.survey().troubles.remove(0);
    assert!(strict.next.contains("durability=available"), "{strict:?}");
    apply_all(&mut scene.state, [Entry::Durability(Durability::Available)]);
    let available = scene.survey().troubles.remove(0);
    assert!(available.next.contains("wait"), "{available:?}");
    scene.settle();
    let causes = scene.causes();
    assert!(causes[0].contains("commits wait for no standby"), "{causes:?}");
}

#[test]
fn what_a_failover_waits_for_comes_before_the_nodes_that_brought_it_about() {
    let mut scene = sealed_without_the_primary();
    let causes = scene.causes();
    assert!(causes[0].contains("may lack an acknowledged commit; not reported: "), "{causes:?}");
    let next = scene.survey().troubles.remove(0).next;
    assert!(next.contains("--accept-loss"), "{next}");
    assert!(causes.iter().any(|cause| cause.contains("node 1 has not been heard")), "{causes:?}");
    scene.state = State::new([NodeId(1)].into(), scene.state.settings());
    let first = scene.survey().troubles.remove(0);
    assert!(first.cause.contains("has not begun") && first.next.contains("bootstrap"), "{first:?}");
}

#[test]
fn pause_is_told_whether_or_not_the_primary_needs_replacing() {
    let mut scene = scene();
    apply_all(&mut scene.state, [Entry::Pause { is_paused: true }]);
    scene.assert_only("paused failover: a primary that fails is not replaced", "resume");
    scene.node(1).postgres = Postgres::Dead;
    let causes = scene.causes();
    assert!(causes[0].contains("node 1 does not serve as primary"), "{causes:?}");
    assert_eq!(causes.iter().filter(|cause| cause.contains("paused")).count(), 1, "{causes:?}");
}

#[test]
fn address_that_nobody_has_and_one_whose_holder_is_silent_are_told() {
    let mut scene = scene();
    let vips = [VipId(4)];
    for node in [2, 3] {
        let vips = vips.iter().copied().collect();
        scene.facts(node).proxy = Some(ProxyFacts { vips, ..ProxyFacts::default() });
    }
    scene.assert_only("lease 4 is held by nobody", "another proxy takes it");
    scene.settle();
    assert_eq!(scene.survey().troubles, []);
    let holder = scene.state.vips()[&VipId(4)].holder;
    assert_eq!(
        scene.survey().nodes.iter().find(|node| node.id == holder.0).unwrap().addresses,
        [4]
    );
    scene.silence(holder.0);
    let causes = scene.causes();
    assert!(causes.iter().any(|one| one.contains("belongs to node")), "{causes:?}");
}
