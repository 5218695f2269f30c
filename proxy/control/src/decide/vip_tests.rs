//! Who has which address.

use super::*;

#[test]
fn addresses_go_to_who_offers_them_and_move_when_their_holder_is_gone() {
    let mut scene = scene();
    let vip = VipId(1);
    let offer = || Some(ProxyFacts { vips: [vip].into(), ..ProxyFacts::default() });
    scene.facts(1).proxy = offer();
    scene.facts(2).proxy = offer();
    scene.settle();
    assert_eq!(scene.state.vips()[&vip].holder, NodeId(1));

    scene.silence(1);
    scene.missed(&[2, 3], Kind::Vip(vip), 1);
    scene.settle();
    assert!(scene.state.vips_retiring().contains(&vip));
    assert_eq!(scene.state.vips()[&vip].holder, NodeId(1), "not before it is released");
    for voter in [2, 3] {
        scene.voter(voter).released.insert(Kind::Vip(vip), 1);
    }
    scene.settle();
    let right = scene.state.vips()[&vip];
    assert_eq!((right.holder, right.number), (NodeId(2), 2));
}

#[test]
fn address_goes_to_the_highest_priority_and_stays_when_a_higher_one_comes_back() {
    let mut scene = scene();
    let vip = VipId(1);
    let offer = |priority| {
        let vip_priorities = [(vip, priority)].into();
        Some(ProxyFacts { vips: [vip].into(), vip_priorities, ..ProxyFacts::default() })
    };
    for (node, priority) in [(1, 0), (2, 7), (3, 5)] {
        scene.facts(node).proxy = offer(priority);
    }
    scene.settle();
    assert_eq!(scene.state.vips()[&vip].holder, NodeId(2));

    scene.facts(2).proxy = Some(ProxyFacts::default());
    scene.settle();
    for voter in [1, 2, 3] {
        scene.voter(voter).released.insert(Kind::Vip(vip), 1);
    }
    scene.settle();
    assert_eq!(scene.state.vips()[&vip].holder, NodeId(3));

    scene.facts(2).proxy = offer(7);
    assert_eq!(scene.proposed(), [], "it serves where it is");
}

#[test]
fn address_is_taken_from_a_living_node_that_offers_it_no_more() {
    let mut scene = scene();
    let vip = VipId(1);
    for node in [1, 2] {
        scene.facts(node).proxy = Some(ProxyFacts { vips: [vip].into(), ..ProxyFacts::default() });
    }
    scene.settle();
    assert_eq!(scene.proposed(), [], "while it is offered it stays");
    scene.facts(1).proxy = Some(ProxyFacts::default());
    assert_eq!(scene.proposed(), [Entry::RetireVip { vip, number: 1 }]);
}
