//! Changes of members that must come to an end.

use super::*;

fn name(node: u64, role: Role) -> Request {
    Request::Node { node: NodeId(node), address: "db:1".into(), role }
}

#[test]
fn node_that_does_not_come_holds_up_no_other_change_of_members() {
    let mut net = begun();
    net.ask(20, &name(4, Role::Voter));
    net.ask(21, &name(5, Role::Voter));
    let is_other = |node: &NodeId, net: &Net| Some(*node) != net.coordinator() && node.0 > 1;
    let gone = *net.nodes.keys().find(|node| is_other(node, &net)).unwrap();
    net.nodes.remove(&gone);
    net.ask(22, &name(gone.0, Role::Gone));
    net.run_until("the dead voter has left", |net| {
        let coordinator = net.coordinator().map(|node| &net.nodes[&node]);
        coordinator.is_some_and(|node| !node.state().membership().voters.contains(&gone))
    });
}

#[test]
fn number_that_cannot_be_given_any_more_is_refused_when_it_is_named() {
    let mut net = begun();
    for (number, request) in
        [(20, name(4, Role::Voter)), (21, name(4, Role::Gone)), (22, name(6, Role::Learner))]
    {
        net.ask(number, &request);
        assert_eq!(net.answers[&number], Ok(()));
    }
    net.make(6, &Founding::Joiner);
    net.run_until("node 6 has the log", |net| net.nodes[&NodeId(6)].state().tenure().is_some());
    net.ask(23, &name(5, Role::Voter));
    let used = Unanswered::NumberUsed { node: NodeId(5), next: NodeId(7) };
    assert_eq!(net.answers[&23], Err(used));
}

#[test]
fn operators_wish_that_a_primary_leaves_the_cluster_ends_its_epoch_first() {
    let mut net = begun();
    net.ask(30, &name(1, Role::Gone));
    for _ in 0..200 {
        let until = net.now.after_ms(25);
        net.run_until("a tick", |net| net.now >= until);
        let other =
            net.nodes.iter().find(|(node, _)| node.0 != 1 && Some(**node) == net.coordinator());
        let Some((_, node)) = other else { continue };
        let of_log = node.quorum_status().membership.unwrap();
        let is_in = of_log.voters().any(|node| node.get() == 1);
        let tenure = node.state().tenure().unwrap();
        let is_primary = tenure.holder == NodeId(1) && node.state().sealed().is_none();
        assert!(is_in || !is_primary, "it serves on, and applies nothing more");
    }
}

#[test]
fn leaving_node_that_is_silent_for_a_moment_stays_in_the_log_while_it_is_needed() {
    let mut net = begun();
    net.ask(40, &Request::Transfer { to: NodeId(1) });
    net.ask(41, &name(3, Role::Gone));
    let run = |net: &mut Net, ticks: u64| {
        for _ in 0..ticks {
            // Node 1 holds by promises of node 3, whose release a failover would need.
            let epoch = net.nodes[&NodeId(1)].state().tenure().map(|tenure| tenure.epoch);
            let facts = VoterFacts { counts_in: 1, epoch, ..VoterFacts::default() };
            net.nodes.get_mut(&NodeId(1)).unwrap().handle_voter_facts(facts);
            net.now = net.now.after_ms(TICK_MS);
            net.nodes.values_mut().for_each(|node| node.handle_tick(net.now));
            net.deliver();
        }
        let coordinator = net.coordinator().expect("two of three are there");
        net.voters_of_log(coordinator.0).contains(&NodeId(3))
    };
    assert!(run(&mut net, 80), "it is heard, and node 1 counts in a membership with it");
    let three = net.nodes.remove(&NodeId(3)).unwrap();
    assert!(run(&mut net, 20), "its disk was slow for half a second");
    net.nodes.insert(NodeId(3), three);
    assert!(run(&mut net, 20));
    // Who has just begun to coordinate has heard of nobody yet.
    let three = net.nodes.remove(&NodeId(3)).unwrap();
    net.ask(42, &Request::Transfer { to: NodeId(2) });
    net.run_until("it took over", |net| net.coordinator() == Some(NodeId(2)));
    assert!(run(&mut net, 20), "the new coordinator takes it for dead");
    net.nodes.insert(NodeId(3), three);
    assert!(run(&mut net, 80));
    net.nodes.remove(&NodeId(3));
    assert!(!run(&mut net, 80), "one that is dead leaves at once");
}
