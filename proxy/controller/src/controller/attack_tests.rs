//! Changes of members that must come to an end.

use super::*;

fn name(node: u64, role: Role) -> Request {
    Request::Node { node: NodeId(node), address: "db:1".into(), role }
}

#[test]
fn node_that_can_never_be_added_holds_up_no_other_change_of_members() {
    let mut net = begun();
    net.ask(20, &name(4, Role::Voter));
    net.ask(21, &name(5, Role::Voter));
    // Node 5 comes up first; 4's number is used up by that.
    net.make(5, &Founding::Joiner);
    net.run_until("node 5 counts", |net| {
        net.everybody(|state| state.membership().voters.contains(&NodeId(5)))
    });
    net.make(4, &Founding::Joiner);
    let until = net.now.after_ms(500);
    net.run_until("node 4 has introduced itself", |net| net.now >= until);
    let gone = *net.nodes.keys().find(|node| Some(**node) != net.coordinator() && node.0 < 4).unwrap();
    net.nodes.remove(&gone);
    net.ask(22, &name(gone.0, Role::Gone));
    net.run_until("the dead voter has left", |net| {
        let coordinator = net.coordinator().map(|node| &net.nodes[&node]);
        coordinator.is_some_and(|node| !node.state().membership().voters.contains(&gone))
    });
}

#[test]
fn node_that_was_named_joins_though_a_higher_number_came_up_first() {
    let mut net = begun();
    net.ask(20, &name(4, Role::Voter));
    net.ask(21, &name(5, Role::Voter));
    net.make(5, &Founding::Joiner);
    net.run_until("node 5 counts", |net| {
        net.everybody(|state| state.membership().voters.contains(&NodeId(5)))
    });
    net.make(4, &Founding::Joiner);
    let refused = net.run_for(8_000);
    let joined = net.nodes[&NodeId(1)].state().membership().voters.contains(&NodeId(4));
    assert!(joined || refused, "taken as named, and never added, without a word");
}

impl Net {
    /// Lets time pass; whether an operator was told that a node cannot be taken.
    fn run_for(&mut self, ms: u64) -> bool {
        let until = self.now.after_ms(ms);
        self.run_until("time passes", |net| net.now >= until);
        self.answers.values().any(Result::is_err)
    }
}

#[test]
fn operators_wish_that_a_primary_leaves_the_cluster_ends_its_epoch_first() {
    let mut net = begun();
    net.ask(30, &name(1, Role::Gone));
    for _ in 0..200 {
        let until = net.now.after_ms(25);
        net.run_until("a tick", |net| net.now >= until);
        let other = net.nodes.iter().find(|(node, _)| node.0 != 1 && Some(**node) == net.coordinator());
        let Some((_, node)) = other else { continue };
        let of_log = node.quorum_status().membership.unwrap();
        let is_in = of_log.voters().any(|node| node.get() == 1);
        let tenure = node.state().tenure().unwrap();
        let is_primary = tenure.holder == NodeId(1) && node.state().sealed().is_none();
        assert!(is_in || !is_primary, "it serves on, and applies nothing more");
    }
}
