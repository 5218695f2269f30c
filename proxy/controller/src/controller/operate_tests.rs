//! What operators ask, and when it is refused instead of coming to nothing unseen.

use pgx_control::decide::Reason;

use super::*;
use crate::limits::SCHEDULE_MS_MAX;

const HOUR_MS: u64 = 3_600_000;

/// All is well, commits depend on both standbys, and it is a quarter past midnight of 1970.
fn calm() -> Net {
    let mut net = begun();
    net.run_until("commits depend on the standbys", |net| {
        net.everybody(|state| [2, 3].iter().all(|node| state.needs(agent(*node).directory)))
    });
    for (number, node) in (100..).zip(1..=3) {
        let (address, role) = (format!("db{node}:1"), Role::Voter);
        net.ask(number, &Request::Node { node: NodeId(node), address, role });
    }
    net.nodes.values_mut().for_each(|node| node.handle_clock(HOUR_MS / 4));
    net
}

fn answer(net: &mut Net, number: u64, request: &Request) -> Answer {
    net.ask(number, request);
    net.answers[&number].clone()
}

fn handover(net: &Net) -> Option<NodeId> {
    net.nodes[&net.coordinator().unwrap()].state().handover()
}

#[test]
fn promotion_hands_over_where_the_primary_serves_and_begins_no_failover_anew() {
    let mut net = calm();
    for (number, to) in [(1_000, 1), (1_001, 9)] {
        let refused = Err(Unanswered::CannotTakeOver(NodeId(to)));
        assert_eq!(answer(&mut net, number, &Request::Promote { to: NodeId(to) }), refused);
    }
    assert_eq!(answer(&mut net, 1_002, &Request::Promote { to: NodeId(3) }), Ok(()));
    assert_eq!(handover(&net), Some(NodeId(3)));
    assert_eq!(answer(&mut net, 1_003, &Request::CancelSwitchover), Ok(()));

    // Nobody replaces the primary by himself.
    assert_eq!(answer(&mut net, 1_004, &Request::Pause { is_paused: true }), Ok(()));
    let primary = net.nodes.get_mut(&NodeId(1)).unwrap();
    primary.handle_agent_facts(Some(AgentFacts { postgres: Postgres::Dead, ..agent(1) }));
    net.run_until("it is missed", |net| {
        let coordinator = &net.nodes[&net.coordinator().unwrap()];
        coordinator.waits() == Some(&Reason::Paused)
    });
    for (number, to) in [(1_005, 1), (1_006, 9)] {
        let refused = Err(Unanswered::CannotTakeOver(NodeId(to)));
        assert_eq!(answer(&mut net, number, &Request::Promote { to: NodeId(to) }), refused);
    }
    assert!(net.everybody(|state| state.sealed().is_none()));
    assert_eq!(answer(&mut net, 1_007, &Request::Promote { to: NodeId(3) }), Ok(()));
    net.run_until("it is sealed", |net| net.everybody(|state| state.sealed().is_some()));
    let primary = net.nodes.get_mut(&NodeId(1)).unwrap();
    primary.handle_agent_facts(Some(agent(1)));
    net.run_until("it is no suspect", |net| {
        let coordinator = &net.nodes[&net.coordinator().unwrap()];
        coordinator.waits() != Some(&Reason::Paused)
    });
    let again = answer(&mut net, 1_008, &Request::Promote { to: NodeId(3) });
    assert_eq!(again, Err(Unanswered::UnderWay));
}

#[test]
fn later_is_within_a_year_and_for_who_could_take_over_and_is_given_up_like_a_switchover() {
    let mut net = calm();
    let now = HOUR_MS / 4;
    let at = |at_ms| Request::Schedule { to: None, at_ms };
    for (number, at_ms) in [(1_010, now - 1), (1_011, now + SCHEDULE_MS_MAX + 1), (1_012, u64::MAX)]
    {
        assert_eq!(answer(&mut net, number, &at(at_ms)), Err(Unanswered::Time), "{at_ms}");
    }
    let stranger = Request::Schedule { to: Some(NodeId(9)), at_ms: HOUR_MS };
    assert_eq!(answer(&mut net, 1_013, &stranger), Err(Unanswered::CannotTakeOver(NodeId(9))));
    assert_eq!(answer(&mut net, 1_014, &at(HOUR_MS)), Ok(()));
    let scheduled = |net: &Net| net.nodes[&NodeId(1)].state().scheduled().map(|wish| wish.at_ms);
    net.run_until("all know", |net| scheduled(net) == Some(HOUR_MS));
    assert_eq!(answer(&mut net, 1_015, &Request::CancelSwitchover), Ok(()));
    net.run_until("all know", |net| scheduled(net).is_none());

    assert_eq!(answer(&mut net, 1_016, &at(HOUR_MS)), Ok(()));
    net.nodes.values_mut().for_each(|node| node.handle_clock(HOUR_MS));
    net.run_until("it begins", |net| handover(net).is_some());
    assert_eq!(scheduled(&net), None);
}

#[test]
fn what_an_earlier_release_cannot_read_is_refused_until_the_log_has_some() {
    let mut net = calm();
    let detach = |is_detached| Request::Detach { node: NodeId(3), is_detached };
    let reads = |net: &mut Net, version| {
        let node = net.nodes.get_mut(&NodeId(2)).unwrap();
        (node.own.entries_read_max, node.has_news) = (version, true);
        net.run_until("the coordinator hears of it", |net| {
            let coordinator = &net.nodes[&net.coordinator().unwrap()];
            let seen = coordinator.observer().nodes().get(&NodeId(2));
            seen.is_some_and(|seen| seen.facts.entries_read_max == version)
        });
    };
    reads(&mut net, Entry::OPERATE_VERSION - 1);
    let refused = Err(Unanswered::Earlier(NodeId(2)));
    assert_eq!(answer(&mut net, 1_020, &detach(true)), refused);
    reads(&mut net, Entry::OPERATE_VERSION);
    assert_eq!(answer(&mut net, 1_021, &detach(true)), Ok(()));
    // Whoever has the log reads it now, and one that is down keeps nobody from working.
    reads(&mut net, Entry::OPERATE_VERSION - 1);
    assert_eq!(answer(&mut net, 1_022, &detach(false)), Ok(()));
}
