//! Sequences of arrivals, drains, losses and settlements, all short ones and many long ones: no
//! living proxy's flow is ever cut, nothing moves that need not, and shares come out even.

use alloc::collections::BTreeSet;

use super::*;

const SERVING: Standing = Standing::Serving { weight: 1 };

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    Arrives(u64, u32),
    Drains(u64),
    IsLost(u64),
    Settles(u64),
}

/// The table, who lives, and a flow for each bucket and proxy that it could be with.
#[derive(Clone)]
struct World {
    table: Table,
    proxies: Proxies,
    flows: BTreeSet<(usize, NodeId)>,
}

impl World {
    fn new(buckets: usize) -> Self {
        Self { table: Table::new(buckets), proxies: Proxies::new(), flows: BTreeSet::new() }
    }

    fn apply(&mut self, event: Event) {
        let before = self.clone();
        match event {
            Event::Arrives(node, weight) => {
                self.proxies.insert(NodeId(node), Standing::Serving { weight });
            }
            Event::Drains(node) => {
                if let Some(standing) = self.proxies.get_mut(&NodeId(node)) {
                    *standing = Standing::Draining;
                }
            }
            Event::IsLost(node) => {
                self.proxies.remove(&NodeId(node));
                self.flows.retain(|(_, of)| *of != NodeId(node));
            }
            Event::Settles(node) => {
                let owner = |bucket: usize| self.table.buckets()[bucket].owner;
                self.flows.retain(|(bucket, of)| of.0 != node || owner(*bucket) == Some(*of));
                self.table.settle(NodeId(node));
            }
        }
        self.step_until_done(event, &before);
        self.check_movement(event, &before);
    }

    fn step_until_done(&mut self, event: Event, before: &Self) {
        for step in 0.. {
            let next = self.table.next(&self.proxies);
            let is_done = next == self.table;
            if let (Event::IsLost(node), 0) = (event, step) {
                only_these_move(&self.table, &next, |bucket| bucket.owner == Some(NodeId(node)));
            }
            self.table = next;
            self.check_flows(event);
            if is_done {
                return;
            }
            assert!(step < 8, "{event:?} on {:?} finds no end", before.proxies);
        }
    }

    /// Each flow is found by its bucket; then a new one begins in each.
    fn check_flows(&mut self, event: Event) {
        for (bucket, node) in &self.flows {
            let Bucket { owner, previous } = self.table.buckets()[*bucket];
            let is_found = owner == Some(*node) || previous == Some(*node);
            assert!(is_found, "{event:?} cuts a flow of {node} in bucket {bucket}");
        }
        for (number, bucket) in self.table.buckets().iter().enumerate() {
            let lives = |node: &NodeId| self.proxies.contains_key(node);
            assert!(bucket.owner.iter().chain(&bucket.previous).all(lives), "{bucket:?}");
            assert!(bucket.owner.is_none() || bucket.owner != bucket.previous, "{bucket:?}");
            assert_eq!(bucket.owner.is_none(), self.proxies.is_empty(), "{event:?}");
            self.flows.extend(bucket.owner.map(|owner| (number, owner)));
        }
    }

    /// What was at rest moves only for what has happened.
    fn check_movement(&self, event: Event, before: &Self) {
        let someone_serves = self.proxies.values().any(|standing| *standing != Standing::Draining);
        if !before.table.is_settled() || before.proxies.is_empty() {
            return;
        }
        match event {
            Event::Settles(_) => assert_eq!(self.table, before.table),
            Event::Drains(node) if someone_serves => {
                let node = NodeId(node);
                only_these_move(&before.table, &self.table, |bucket| bucket.owner == Some(node));
                assert_eq!(self.table.owned_by(node), 0, "new flows still come to {node}");
            }
            Event::Drains(_) => assert_eq!(self.table, before.table, "nobody else could serve"),
            Event::Arrives(node, _) if !before.proxies.contains_key(&NodeId(node)) => {
                let moved = moved(&before.table, &self.table);
                for (number, _) in &moved {
                    let owner = self.table.buckets()[*number].owner;
                    assert_eq!(owner, Some(NodeId(node)), "bucket {number}");
                }
                let had_served = before.proxies.values().any(|how| *how != Standing::Draining);
                if had_served {
                    assert_eq!(moved.len(), self.share(NodeId(node)), "{event:?}");
                }
            }
            Event::Arrives(..) | Event::IsLost(_) => {}
        }
    }

    fn share(&self, node: NodeId) -> usize {
        let shares = Shares::of_serving(&self.proxies, self.table.buckets().len());
        shares.share(node).map_or(0, |share| usize::try_from(share).unwrap())
    }

    /// When all old flows have ended, each has its share.
    fn check_balance(&mut self) {
        for _ in 0..=self.table.buckets().len() {
            for node in self.proxies.keys().copied().collect::<Vec<_>>() {
                self.apply(Event::Settles(node.0));
            }
            if self.table.is_settled() {
                break;
            }
        }
        assert!(self.table.is_settled());
        let serving = self.proxies.iter().filter(|(_, how)| **how != Standing::Draining);
        for (node, _) in serving {
            let (owned, share) = (self.table.owned_by(*node), self.share(*node));
            let most = share + self.proxies.len();
            assert!((share..=most).contains(&owned), "{node} has {owned}, its share is {share}");
        }
    }
}

fn moved(old: &Table, new: &Table) -> Vec<(usize, Bucket)> {
    let pairs = old.buckets().iter().zip(new.buckets()).enumerate();
    pairs.filter(|(_, (a, b))| a.owner != b.owner).map(|(at, (a, _))| (at, *a)).collect()
}

fn only_these_move(old: &Table, new: &Table, may: impl Fn(&Bucket) -> bool) {
    for (number, bucket) in moved(old, new) {
        assert!(may(&bucket), "bucket {number} of {bucket:?} moved");
    }
}

fn events() -> Vec<Event> {
    let nodes = 1..=4;
    let of = |node| {
        [Event::Arrives(node, 1), Event::Drains(node), Event::IsLost(node), Event::Settles(node)]
    };
    nodes.flat_map(of).chain([Event::Arrives(2, 3)]).collect()
}

fn walk(world: &World, depth: usize, count: &mut usize) {
    *count += 1;
    world.clone().check_balance();
    if depth == 0 {
        return;
    }
    for event in events() {
        let mut next = world.clone();
        next.apply(event);
        // What changes nothing leads nowhere new.
        if next.table != world.table || next.proxies != world.proxies {
            walk(&next, depth - 1, count);
        }
    }
}

#[test]
fn no_short_sequence_of_changes_cuts_a_living_proxys_flow_or_moves_too_much() {
    for buckets in [1, 7, 12] {
        let mut count = 0;
        walk(&World::new(buckets), 5, &mut count);
        assert!(count > 1_000, "only {count} worlds");
    }
}

#[test]
fn long_sequences_of_changes_keep_the_same_promises_over_a_whole_table() {
    // A linear congruential generator (Knuth's MMIX) is random enough, and the same each time.
    let mut state = 1_u64;
    let mut draw = |end: usize| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).unwrap() % end
    };
    for _ in 0..8 {
        let mut world = World::new(256);
        for _ in 0..60 {
            let events = events();
            world.apply(events[draw(events.len())]);
        }
        world.check_balance();
    }
}

#[test]
fn three_proxies_share_evenly_and_a_lost_ones_buckets_go_to_both_others() {
    let mut world = World::new(1024);
    for node in 1..=3 {
        world.apply(Event::Arrives(node, 1));
        world.check_balance();
    }
    let table = world.table.clone();
    assert_eq!([1, 2, 3].map(|node| table.owned_by(NodeId(node))), [342, 341, 341]);
    world.apply(Event::IsLost(2));
    assert_eq!([1, 3].map(|node| world.table.owned_by(NodeId(node))), [512, 512]);
    assert!(world.table.is_settled(), "nobody has old flows: those of the lost one are gone");
}

#[test]
fn drained_proxy_gets_no_new_flows_and_keeps_its_old_ones_until_they_end() {
    let mut world = World::new(64);
    world.apply(Event::Arrives(1, 1));
    world.apply(Event::Arrives(2, 1));
    world.check_balance();
    world.apply(Event::Drains(1));
    let old = world.table.buckets().iter().filter(|bucket| bucket.previous == Some(NodeId(1)));
    assert_eq!((world.table.owned_by(NodeId(1)), old.count()), (0, 32));
    world.apply(Event::Settles(1));
    assert!(world.table.is_settled());
}

#[test]
fn proxy_that_comes_back_from_a_drain_gets_its_own_buckets_again() {
    let mut world = World::new(64);
    world.apply(Event::Arrives(1, 1));
    world.apply(Event::Arrives(2, 1));
    world.check_balance();
    let before = world.table.clone();
    world.apply(Event::Drains(1));
    world.apply(Event::Arrives(1, 1));
    assert!(moved(&before, &world.table).is_empty());
}

#[test]
fn weights_are_kept() {
    let mut table = Table::new(1024);
    let proxies: Proxies =
        [(NodeId(1), SERVING), (NodeId(2), Standing::Serving { weight: 3 })].into();
    table = table.next(&proxies);
    assert_eq!([1, 2].map(|node| table.owned_by(NodeId(node))), [256, 768]);
}

#[test]
fn table_of_nobody_is_empty() {
    assert!(Table::new(4).next(&Proxies::new()).buckets().iter().all(|one| one.owner.is_none()));
}
