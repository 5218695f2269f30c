//! Who shares what clients send to virtual addresses.

use alloc::vec;

use super::*;
use crate::cluster::Proxy;
use crate::facts::Steers;
use crate::limits::BUCKETS;

const VIP: VipId = VipId(1);

fn proxy(node: u64) -> Proxy {
    let link = [2, 0, 0, 0, 0, u8::try_from(node).unwrap()];
    Proxy { link, is_leaving: false }
}

/// All three offer the address, and node 1 has it; these say that their hosts steer.
fn sharing(nodes: &[u64]) -> Scene {
    let mut scene = scene();
    for node in 1..=3 {
        scene.facts(node).entries_read_max = Entry::STEER_VERSION;
        scene.facts(node).proxy = Some(ProxyFacts { vips: [VIP].into(), ..ProxyFacts::default() });
    }
    scene.settle();
    for node in nodes {
        scene.says(*node, Some(Steers { proxy: proxy(*node), settled: None }));
    }
    scene
}

impl Scene {
    fn says(&mut self, node: u64, steers: Option<Steers>) {
        self.facts(node).proxy.as_mut().unwrap().steers = steers;
    }

    fn owns(&self, node: u64) -> usize {
        self.state.steering().table().owned_by(NodeId(node))
    }

    fn tables(&self) -> Vec<Entry> {
        let all = self.proposed().into_iter();
        all.filter(|entry| matches!(entry, Entry::Steer { .. })).collect()
    }

    fn named(&self) -> Vec<u64> {
        self.state.steering().proxies().keys().map(|node| node.0).collect()
    }

    /// Each says whether it has flows in buckets of others: none has.
    fn settle_flows(&mut self) {
        for _ in 0..PROPOSALS_MAX {
            self.settle();
            let number = self.state.steering().number();
            for node in 1..=3 {
                let steers = &mut self.facts(node).proxy.as_mut().unwrap().steers;
                if let Some(steers) = steers {
                    steers.settled = Some(number);
                }
            }
            if self.proposed().is_empty() {
                return;
            }
        }
        panic!("no end");
    }
}

#[test]
fn flows_stay_with_the_holder_until_they_end_and_then_all_have_the_same_share() {
    let mut scene = sharing(&[1, 2, 3]);
    let proposed = scene.tables();
    let alone = [(NodeId(1), proxy(1))].into();
    let begins = Entry::Steer { number: 1, proxies: alone, settled: BTreeSet::new() };
    assert_eq!(proposed, [begins], "who has the address has all flows");
    scene.settle();
    assert_eq!(scene.named(), [1, 2, 3]);
    let table = scene.state.steering().table();
    for bucket in table.buckets() {
        assert!([bucket.owner, bucket.previous].contains(&Some(NodeId(1))), "{bucket:?}");
    }
    scene.settle_flows();
    assert!(scene.state.steering().table().is_settled());
    for node in 1..=3 {
        assert!((BUCKETS / 3..=BUCKETS / 3 + 1).contains(&scene.owns(node)), "{node}");
    }
}

#[test]
fn a_proxy_whose_host_does_not_steer_gets_nothing() {
    let mut scene = sharing(&[1, 3]);
    scene.settle_flows();
    assert_eq!((scene.named(), scene.owns(2)), (vec![1, 3], 0));
    scene.says(3, None);
    scene.settle();
    assert_eq!((scene.named(), scene.owns(1)), (vec![1], BUCKETS));
}

#[test]
fn silence_alone_costs_no_flows_and_missed_leases_do() {
    let mut scene = sharing(&[1, 2, 3]);
    scene.settle_flows();
    scene.silence(2);
    assert_eq!(scene.tables(), []);
    let number = scene.state.registrations()[&NodeId(2)].number;
    scene.missed(&[1], Kind::Route(NodeId(2)), number);
    assert_eq!(scene.tables(), [], "one voter is no majority");
    scene.missed(&[1, 3], Kind::Route(NodeId(2)), number);
    let before = scene.state.steering().table().clone();
    scene.settle();
    assert_eq!(scene.named(), [1, 3]);
    let table = scene.state.steering().table();
    for (old, new) in before.buckets().iter().zip(table.buckets()) {
        assert!(old.owner == new.owner || old.owner == Some(NodeId(2)), "{old:?}, {new:?}");
    }
}

#[test]
fn one_that_was_never_heard_by_this_coordinator_is_kept_until_it_is_missed() {
    let mut scene = sharing(&[1, 2, 3]);
    scene.settle_flows();
    scene.nodes.remove(&NodeId(2));
    assert_eq!(scene.tables(), []);
    let number = scene.state.registrations()[&NodeId(2)].number;
    scene.missed(&[1, 3], Kind::Route(NodeId(2)), number);
    scene.settle();
    assert_eq!(scene.named(), [1, 3]);
}

#[test]
fn one_that_leaves_gets_no_new_flows_and_keeps_its_old_ones() {
    let mut scene = sharing(&[1, 2, 3]);
    scene.settle_flows();
    let leaving = Proxy { is_leaving: true, ..proxy(2) };
    scene.says(2, Some(Steers { proxy: leaving, settled: None }));
    scene.settle();
    assert_eq!((scene.named(), scene.owns(2)), (vec![1, 2, 3], 0));
    let table = scene.state.steering().table();
    assert!(table.is_waiting_for(NodeId(2)));
    let number = scene.state.steering().number();
    scene.says(2, Some(Steers { proxy: leaving, settled: Some(number - 1) }));
    assert_eq!(scene.tables(), [], "what it says of an older table does not count");
}

#[test]
fn when_nobody_took_part_flows_are_where_the_address_is() {
    let mut scene = sharing(&[1, 2, 3]);
    scene.settle_flows();
    for node in 1..=3 {
        scene.says(node, None);
    }
    scene.settle();
    assert_eq!(scene.named(), Vec::<u64>::new());
    for node in 1..=3 {
        scene.says(node, Some(Steers { proxy: proxy(node), settled: None }));
    }
    let [Entry::Steer { proxies, .. }] = &scene.tables()[..] else { panic!("no table") };
    assert_eq!(proxies.keys().map(|node| node.0).collect::<Vec<_>>(), [1]);
}

#[test]
fn a_newcomer_that_cannot_read_tables_gets_no_log_that_has_some() {
    let mut scene = sharing(&[1, 2, 3]);
    scene.settle_flows();
    let node = NodeId(4);
    let named = Entry::Node { node, address: "db4:1".into(), role: Role::Voter };
    apply_all(&mut scene.state, [named]);
    scene.nodes.insert(node, seen(4));
    let adds = |scene: &Scene| {
        scene.decide().iter().any(|one| matches!(one, Action::Change(Change::Add { .. })))
    };
    assert!(!adds(&scene));
    scene.facts(4).entries_read_max = Entry::STEER_VERSION;
    assert!(adds(&scene));
}

#[test]
fn there_is_no_table_before_every_node_can_read_it() {
    let mut scene = sharing(&[1, 2, 3]);
    scene.facts(3).entries_read_max = Entry::STEER_VERSION - 1;
    assert_eq!(scene.tables(), []);
    scene.nodes.remove(&NodeId(3));
    assert_eq!(scene.tables(), [], "whoever is not heard may be of an older release");
    scene.log.remove(&NodeId(3));
    assert!(matches!(scene.tables()[..], [Entry::Steer { .. }]));
}

#[test]
fn one_that_retires_is_left_out_unless_it_is_heard() {
    let mut scene = sharing(&[1, 2, 3]);
    scene.settle_flows();
    let number = scene.state.registrations()[&NodeId(3)].number;
    apply_all(&mut scene.state, [Entry::Retire { node: NodeId(3), number }]);
    assert_eq!(scene.tables(), [], "it goes on, and registers anew");
    scene.silence(3);
    let [Entry::Steer { proxies, .. }] = &scene.tables()[..] else { panic!("no table") };
    assert_eq!(proxies.keys().map(|node| node.0).collect::<Vec<_>>(), [1, 2]);
}
