//! What a node must not say, believe or apply.

use super::*;

fn tick(net: &mut Net, ticks: u64) {
    for _ in 0..ticks {
        net.now = net.now.after_ms(TICK_MS);
        net.nodes.values_mut().for_each(|node| node.handle_tick(net.now));
        net.deliver();
    }
}

fn said(net: &Net, node: u64) -> Option<&Facts> {
    let coordinator = net.coordinator()?;
    Some(&net.nodes[&coordinator].observer().nodes().get(&NodeId(node))?.facts)
}

#[test]
fn node_goes_by_an_epoch_when_each_of_its_parts_does() {
    let mut net = begun();
    net.ask(50, &Request::Transfer { to: NodeId(1) });
    tick(&mut net, 40);
    assert_eq!(said(&net, 2).unwrap().epoch, Some(Epoch(0)));
    let late = ProxyFacts { epoch: None, ..ProxyFacts::default() };
    let node = net.nodes.get_mut(&NodeId(2)).unwrap();
    node.handle_proxy_facts(Some(late));
    tick(&mut net, 4);
    assert_eq!(said(&net, 2).unwrap().epoch, None, "its proxy has not heard of it");
    let node = net.nodes.get_mut(&NodeId(2)).unwrap();
    node.handle_proxy_facts(None);
    node.handle_agent_facts(Some(AgentFacts { epoch: None, ..agent(2) }));
    tick(&mut net, 4);
    assert_eq!(said(&net, 2).unwrap().epoch, None, "nor its agent");
}

#[test]
fn each_life_of_a_node_has_a_higher_number_than_those_before() {
    let mut net = begun();
    net.ask(51, &Request::Transfer { to: NodeId(1) });
    tick(&mut net, 40);
    let before = said(&net, 2).unwrap().life;
    net.start(2);
    net.run_until("it says so", |net| said(net, 2).is_some_and(|facts| facts.life > before));
}

#[test]
fn strangers_are_not_remembered_and_nobody_by_who_does_not_coordinate() {
    let mut net = begun();
    net.ask(52, &Request::Transfer { to: NodeId(1) });
    net.run_until("it took over", |net| net.coordinator() == Some(NodeId(1)));
    let facts = Facts::new(Incarnation(9));
    let now = net.now;
    let other = net.nodes.get_mut(&NodeId(2)).unwrap();
    other.handle_facts(NodeId(99), facts, now);
    assert!(!other.observer().nodes().contains_key(&NodeId(99)));
    net.ask(53, &Request::Transfer { to: NodeId(2) });
    net.run_until("it took over", |net| net.coordinator() == Some(NodeId(2)));
    assert!(net.nodes[&NodeId(1)].observer().nodes().is_empty(), "it is old when it is next used");
}

#[test]
fn node_that_cannot_read_an_entry_applies_keeps_and_decides_nothing_after_it() {
    let mut net = begun();
    let coordinator = net.coordinator().unwrap();
    let node = net.nodes.get_mut(&coordinator).unwrap();
    node.quorum.propose(ProposalId(7), vec![codec::VERSION + 1]).unwrap();
    tick(&mut net, 4);
    let unreadable = |(_, note): &(NodeId, Note)| matches!(note, Note::Unreadable { .. });
    assert_eq!(net.notes.iter().filter(|note| unreadable(note)).count(), 3);

    let before = Arc::clone(net.nodes[&coordinator].state());
    let node = net.nodes.get_mut(&coordinator).unwrap();
    node.propose(Entry::Pause { is_paused: true }).unwrap();
    // Its PostgreSQL ends, which a coordinator would seal for.
    let primary = net.nodes.get_mut(&NodeId(1)).unwrap();
    primary.handle_agent_facts(Some(AgentFacts { postgres: Postgres::Dead, ..agent(1) }));
    let last = net.nodes[&coordinator].quorum_status().last_index;
    tick(&mut net, 40);
    let node = net.nodes.get_mut(&coordinator).unwrap();
    assert_eq!(node.state(), &before);
    assert_eq!(node.quorum_status().last_index, last, "it decides by a state that nobody has");
    let snapshot = node.quorum_status().snapshot_index;
    node.snapshot_wanted = true;
    node.drain(BootTime(u64::MAX));
    assert_eq!(node.quorum_status().snapshot_index, snapshot, "it lacks what the log says");
}

#[test]
fn switchover_to_whom_it_may_be_is_to_a_standby_that_commits_depend_on() {
    let mut net = begun();
    // The others stream, but not for long enough that commits depend on them.
    let state = Arc::clone(net.nodes[&net.coordinator().unwrap()].state());
    assert!([2, 3].iter().all(|node| !state.needs(agent(*node).directory)));
    net.ask(54, &Request::Switchover { to: None });
    assert_eq!(net.answers[&54], Err(Unanswered::NoCandidate));
    net.run_until("commits depend on them", |net| {
        net.everybody(|state| [2, 3].iter().all(|node| state.needs(agent(*node).directory)))
    });
    net.ask(55, &Request::Switchover { to: None });
    assert_eq!(net.answers[&55], Ok(()));
}
