//! Leases of whole nodes: who asks whom, who holds, who misses whom.

use alloc::vec::Vec;

use super::*;
use crate::cluster::testing::{apply_all, directory, elect, report, seal, three_nodes};
use crate::cluster::{Entry, Membership};
use crate::ids::Attempt;
use crate::lease::Settings;

const AWAKE: BootTime = BootTime(10_000_000_000);

fn station(node: u64, state: &State) -> Station {
    let (me, installation) = (NodeId(node), Incarnation(node.into()));
    let state = Arc::new(state.clone());
    let mut station =
        Station::new(me, installation, Refusals::default(), Arc::clone(&state), node, BootTime(0));
    station.handle_state(state, AWAKE);
    station
}

fn wants(node: u64) -> Wants {
    let primary = (node == 1).then_some((Epoch(0), directory(1)));
    Wants { primary, member: Some((Epoch(0), directory(node))) }
}

struct Net {
    stations: Vec<Station>,
    outputs: Vec<(u64, Output)>,
}

impl Net {
    fn new(state: &State) -> Self {
        let mut stations: Vec<_> = (1..=3).map(|node| station(node, state)).collect();
        for (node, station) in (1..).zip(&mut stations) {
            station.handle_wants(wants(node), AWAKE);
        }
        Self { stations, outputs: Vec::new() }
    }

    /// Lets time pass at these nodes, and delivers among them what they say.
    fn run(&mut self, nodes: &[u64], now: BootTime) {
        for node in nodes {
            self.at(*node).handle_timeout(now);
        }
        loop {
            let mut sent = Vec::new();
            for node in nodes {
                while let Some(output) = self.at(*node).next_output() {
                    match output {
                        Output::Send { to, message } => sent.push((*node, to.0, message)),
                        Output::Persist(refusals) => {
                            self.at(*node).handle_persisted(&refusals, now);
                        }
                        other => self.outputs.push((*node, other)),
                    }
                }
            }
            if sent.is_empty() {
                return;
            }
            for (from, to, message) in sent {
                if nodes.contains(&to) {
                    self.at(to).handle_message(NodeId(from), message, now);
                }
            }
        }
    }

    fn at(&mut self, node: u64) -> &mut Station {
        &mut self.stations[usize::try_from(node - 1).unwrap()]
    }

    fn held(&mut self, node: u64, kind: Kind) -> Option<BootTime> {
        self.at(node).held().find(|(right, _)| right.kind == kind).map(|(_, until)| until)
    }

    fn apply(&mut self, state: &mut State, nodes: &[u64], entry: Entry, now: BootTime) {
        apply_all(state, [entry]);
        for node in nodes {
            self.at(*node).handle_state(Arc::new(state.clone()), now);
        }
        self.run(nodes, now);
    }
}

#[test]
fn nodes_hold_what_the_state_gives_them_and_what_they_want() {
    let mut net = Net::new(&three_nodes());
    net.run(&[1, 2, 3], AWAKE);
    let end = AWAKE.after_ms(2_000);
    assert_eq!(net.held(1, Kind::Primary), Some(end));
    assert_eq!(net.held(2, Kind::Member(NodeId(2))), Some(end));
    assert_eq!(net.held(2, Kind::Route(NodeId(2))), None, "it is no proxy");
    assert_eq!(net.held(3, Kind::Primary), None);
    let held =
        Output::Hold { right: Right::primary(Epoch(0), NodeId(1), directory(1)), until: end };
    assert!(net.outputs.contains(&(1, held)), "{:?}", net.outputs);
}

#[test]
fn epoch_is_not_asked_for_by_a_node_whose_agent_does_not_want_this_one_from_this_directory() {
    for primary in [None, Some((Epoch(0), directory(9))), Some((Epoch(1), directory(1)))] {
        let mut net = Net::new(&three_nodes());
        net.at(1).handle_wants(Wants { primary, ..wants(1) }, AWAKE);
        net.run(&[1, 2, 3], AWAKE);
        assert_eq!(net.held(1, Kind::Primary), None, "{primary:?}");
    }
}

#[test]
fn address_is_given_back_when_another_is_to_have_it_and_not_before() {
    let (vip, kind) = (VipId(1), Kind::Vip(VipId(1)));
    let mut state = three_nodes();
    let incarnation = Incarnation(1);
    apply_all(&mut state, [Entry::GiveVip { vip, number: 1, holder: NodeId(1), incarnation }]);
    let mut net = Net::new(&state);
    net.at(1).handle_proxy(Some(Epoch(0)), AWAKE);
    net.run(&[1, 2, 3], AWAKE);
    assert!(net.held(1, kind).is_some());

    let let_go = |net: &mut Net, number| {
        net.at(1).handle_let_go(&[(vip, number)].into(), AWAKE);
        net.run(&[1, 2, 3], AWAKE);
    };
    let released = |net: &mut Net| net.at(2).facts().released.get(&kind).copied();
    let_go(&mut net, 1);
    assert!(net.held(1, kind).is_some(), "it may come back, and be the holder still");
    net.apply(&mut state, &[1, 2, 3], Entry::RetireVip { vip, number: 1 }, AWAKE);
    assert_eq!(released(&mut net), None, "voters wait for the lease");
    let_go(&mut net, 0);
    assert_eq!(released(&mut net), None, "it may be there by this number");
    let_go(&mut net, 1);
    assert_eq!((net.held(1, kind), released(&mut net)), (None, Some(1)));
}

#[test]
fn minority_holds_nothing_new() {
    let mut net = Net::new(&three_nodes());
    net.run(&[1], AWAKE);
    assert_eq!(net.held(1, Kind::Primary), None);
}

#[test]
fn voter_misses_who_does_not_renew_and_nobody_else() {
    let mut net = Net::new(&three_nodes());
    net.run(&[1, 2, 3], AWAKE);
    let later = |ms| AWAKE.after_ms(ms);
    for ms in (400..=1_600).step_by(400) {
        net.run(&[2, 3], later(ms));
    }
    let missed: Vec<_> = net.at(2).facts().missed.keys().copied().collect();
    let routes = [1, 2, 3].map(|node| Kind::Route(NodeId(node)));
    let mut expected = alloc::vec![Kind::Primary, Kind::Member(NodeId(1))];
    expected.extend(routes);
    assert_eq!(missed, expected);
    assert!(net.outputs.contains(&(2, Output::News)));

    net.run(&[1, 2, 3], later(1_700));
    let missed: Vec<_> = net.at(2).facts().missed.keys().copied().collect();
    assert_eq!(missed, routes, "it is back");
}

#[test]
fn seal_ends_in_a_release_when_promises_have_run_out() {
    let mut state = three_nodes();
    let mut net = Net::new(&state);
    net.run(&[1, 2, 3], AWAKE);
    let seal = Entry::Seal { epoch: Epoch(0), attempt: Attempt(1) };
    net.apply(&mut state, &[2, 3], seal, AWAKE);
    assert_eq!(net.at(2).facts().released.get(&Kind::Primary), None);
    let end = AWAKE.after_ms(2_450);
    assert_eq!(net.at(2).voter.poll_timeout(), Some(end));
    net.run(&[2, 3], BootTime(end.0 - 1));
    assert_eq!(net.at(2).facts().released.get(&Kind::Primary), None);
    net.run(&[2, 3], end);
    assert_eq!(net.at(2).facts().released.get(&Kind::Primary), Some(&0));
}

#[test]
fn holder_that_closes_releases_at_once_and_never_asks_again() {
    let mut state = three_nodes();
    let mut net = Net::new(&state);
    net.run(&[1, 2, 3], AWAKE);
    let seal = Entry::Seal { epoch: Epoch(0), attempt: Attempt(1) };
    net.apply(&mut state, &[1, 2, 3], seal, AWAKE);
    let right = Right::primary(Epoch(0), NodeId(1), directory(1));
    net.at(1).handle_closed(right, AWAKE);
    net.run(&[1, 2, 3], AWAKE);
    for node in 1..=3 {
        assert_eq!(net.at(node).facts().released.get(&Kind::Primary), Some(&0), "{node}");
    }
    net.at(1).handle_wants(wants(1), AWAKE);
    assert_eq!(net.held(1, Kind::Primary), None);
}

#[test]
fn closing_is_believed_of_the_holder_alone() {
    let mut net = Net::new(&three_nodes());
    net.run(&[1, 2, 3], AWAKE);
    let right = Right::primary(Epoch(0), NodeId(1), directory(1));
    net.at(2).handle_message(NodeId(3), Message::Closed { right, life: 1 }, AWAKE);
    let ask = Ask {
        right,
        epoch: Epoch(0),
        asked_at: AWAKE,
        settings: crate::lease::Settings::default(),
        life: 1,
    };
    net.at(2).handle_message(NodeId(3), Message::Ask(ask), AWAKE);
    assert_eq!(net.at(2).next_output(), None, "an ask in another's name gets no answer");
    net.at(2).handle_message(NodeId(1), Message::Ask(ask), AWAKE);
    assert!(matches!(
        net.at(2).next_output(),
        Some(Output::Send { message: Message::Promise(_), .. })
    ));
}

#[test]
fn standbys_that_close_an_epoch_for_themselves_take_nothing_from_its_primary() {
    let mut net = Net::new(&three_nodes());
    net.run(&[1, 2, 3], AWAKE);
    for node in [2, 3] {
        let right = Right::primary(Epoch(0), NodeId(node), directory(node));
        net.at(node).handle_closed(right, AWAKE);
        // A build that still says so must not be believed.
        let message = Message::Closed { right, life: node };
        for voter in 1..=3 {
            net.at(voter).handle_message(NodeId(node), message, AWAKE);
        }
    }
    let later = AWAKE.after_ms(400);
    net.run(&[1, 2, 3], later);
    assert_eq!(net.held(1, Kind::Primary), Some(later.after_ms(2_000)));
}

#[test]
fn station_that_has_something_to_do_says_when() {
    let mut net = Net::new(&three_nodes());
    net.run(&[1, 2, 3], AWAKE);
    let mut now = AWAKE;
    for _ in 0..50 {
        let next = net.at(1).poll_timeout().expect("a holder renews");
        assert!(next > now, "it would spin at {now:?}");
        now = next;
        net.run(&[1, 2, 3], now);
    }
}

#[test]
fn promise_counts_for_the_voter_that_sent_it_alone() {
    let mut net = Net::new(&three_nodes());
    net.at(1).handle_timeout(AWAKE);
    let right = Right::primary(Epoch(0), NodeId(1), directory(1));
    let promise = Promise {
        voter: NodeId(2),
        right,
        asked_at: AWAKE,
        settings: crate::lease::Settings::default(),
        membership_version: 1,
        life: 1,
    };
    net.at(1).handle_message(NodeId(3), Message::Promise(promise), AWAKE);
    assert_eq!(net.held(1, Kind::Primary), None, "with its own promise it would be a majority");
    net.at(1).handle_message(NodeId(2), Message::Promise(promise), AWAKE);
    assert!(net.held(1, Kind::Primary).is_some());
}

#[test]
fn right_that_was_closed_is_not_asked_for_though_the_state_still_gives_it() {
    let mut net = Net::new(&three_nodes());
    net.run(&[1, 2, 3], AWAKE);
    let right = Right::primary(Epoch(0), NodeId(1), directory(1));
    net.at(1).handle_closed(right, AWAKE);
    net.at(1).handle_wants(wants(1), AWAKE);
    net.at(1).handle_timeout(AWAKE.after_ms(400));
    while let Some(output) = net.at(1).next_output() {
        let Output::Send { message: Message::Ask(ask), .. } = output else { continue };
        assert_ne!(ask.right, right);
    }
}

#[test]
fn closing_of_an_earlier_right_takes_back_neither_the_newest_nor_its_closing() {
    let mut net = Net::new(&three_nodes());
    net.run(&[1, 2, 3], AWAKE);
    let newest = net.at(1).held().find(|(right, _)| right.kind == Kind::Member(NodeId(1)));
    let (newest, _) = newest.unwrap();
    let earlier = Right { number: 0, ..newest };
    net.at(1).handle_closed(earlier, AWAKE);
    assert!(net.held(1, newest.kind).is_some());
    net.at(1).handle_closed(newest, AWAKE);
    net.at(1).handle_closed(earlier, AWAKE);
    net.at(1).handle_wants(wants(1), AWAKE);
    net.run(&[1], AWAKE.after_ms(400));
    assert!(!net.at(1).holders.contains_key(&newest.kind), "it was closed for good");
}

#[test]
fn node_that_gives_up_what_another_holds_takes_nothing_from_it() {
    let mut net = Net::new(&three_nodes());
    net.run(&[1, 2, 3], AWAKE);
    // As a follower does that closes its gate for the epoch which it follows.
    net.at(2).handle_closed(Right::primary(Epoch(0), NodeId(2), directory(2)), AWAKE);
    let member = net.at(1).held().find(|(right, _)| right.kind == Kind::Member(NodeId(1)));
    let stolen = Right { holder: NodeId(2), ..member.unwrap().0 };
    net.at(2).handle_closed(stolen, AWAKE);
    let ahead = Right::primary(Epoch(7), NodeId(2), directory(2));
    net.at(2).handle_closed(ahead, AWAKE);
    net.run(&[1, 2, 3], AWAKE.after_ms(400));
    net.run(&[1, 2, 3], AWAKE.after_ms(800));
    let renewed = AWAKE.after_ms(800 + Settings::default().lease_ms);
    assert_eq!(net.held(1, Kind::Primary), Some(renewed));
    assert_eq!(net.held(1, Kind::Member(NodeId(1))), Some(renewed));
}

#[test]
fn part_that_goes_by_an_older_epoch_gets_no_lease_in_the_name_of_the_newest() {
    let mut net = Net::new(&three_nodes());
    net.at(2).handle_proxy(Some(Epoch(0)), AWAKE);
    net.run(&[1, 2, 3], AWAKE);
    let (member, route) = (Kind::Member(NodeId(2)), Kind::Route(NodeId(2)));
    assert!(net.held(2, member).is_some() && net.held(2, route).is_some());

    let mut state = three_nodes();
    seal(&mut state, 1, &[1, 2, 3]);
    let reports = [1, 3].map(|node| report(&state, node, 100)).to_vec();
    let elected = elect(&state, 3, reports);
    apply_all(&mut state, [elected]);
    for node in 1..=3 {
        let state = Arc::new(state.clone());
        net.at(node).handle_state(state, AWAKE);
    }
    net.run(&[1, 2, 3], AWAKE.after_ms(400));
    assert_eq!((net.held(2, member), net.held(2, route)), (None, None));
    net.at(2).handle_proxy(Some(Epoch(1)), AWAKE.after_ms(400));
    net.at(2).handle_wants(Wants { member: Some((Epoch(1), directory(2))), ..wants(2) }, AWAKE);
    net.run(&[1, 2, 3], AWAKE.after_ms(401));
    assert!(net.held(2, member).is_some() && net.held(2, route).is_some());
}

#[test]
fn node_says_that_it_counts_in_a_later_membership_when_it_holds_nothing_by_an_earlier_one() {
    let mut net = Net::new(&three_nodes());
    net.run(&[1, 2, 3], AWAKE);
    assert_eq!(net.at(1).facts().counts_in, 1);
    let mut state = three_nodes();
    let voters = (1..=4).map(NodeId).collect();
    apply_all(&mut state, [Entry::Membership(Membership { version: 2, voters })]);
    let renewed = AWAKE.after_ms(400);
    net.run(&[1, 2, 3], renewed);
    net.at(1).handle_state(Arc::new(state), renewed);
    assert_eq!(net.at(1).facts().counts_in, 1, "the kernel goes on by what three voters promised");
    let end = renewed.after_ms(Settings::default().lease_ms);
    net.at(1).handle_timeout(BootTime(end.0 - 1));
    assert_eq!(net.at(1).facts().counts_in, 1, "the last renewal counts");
    net.at(1).handle_timeout(end);
    assert_eq!(net.at(1).facts().counts_in, 2);
}

#[test]
fn node_that_starts_does_not_know_by_whom_the_kernel_still_holds_for_it() {
    let (me, state) = (NodeId(1), Arc::new(three_nodes()));
    let mut station =
        Station::new(me, Incarnation(1), Refusals::default(), Arc::clone(&state), 1, BootTime(0));
    station.handle_state(state, BootTime(1));
    assert_eq!(station.facts().counts_in, 0);
    station.handle_timeout(AWAKE);
    assert_eq!(station.facts().counts_in, 1);
}

/// The same cluster with node 4 as a voter.
fn four_voters() -> State {
    let mut state = three_nodes();
    let voters = (1..=4).map(NodeId).collect();
    apply_all(&mut state, [Entry::Membership(Membership { version: 2, voters })]);
    state
}

#[test]
fn holder_counts_in_the_newest_membership_that_its_node_has_applied() {
    let mut net = Net::new(&three_nodes());
    net.run(&[1, 2, 3], AWAKE);
    let state = Arc::new(four_voters());
    net.at(1).handle_state(state, AWAKE);
    let until = net.held(1, Kind::Primary);
    net.run(&[1, 2], AWAKE.after_ms(400));
    net.run(&[1, 2], AWAKE.after_ms(800));
    assert_eq!(net.held(1, Kind::Primary), until, "two of four are no majority");
}

#[test]
fn node_names_the_oldest_membership_by_which_it_holds_something() {
    let mut net = Net::new(&three_nodes());
    net.run(&[1, 2, 3], AWAKE);
    net.at(1).handle_state(Arc::new(four_voters()), AWAKE);
    let renewed = AWAKE.after_ms(400);
    net.run(&[1, 2, 3], renewed);
    assert_eq!(net.held(1, Kind::Primary), Some(renewed.after_ms(2_000)), "by three of four");
    net.at(1).handle_timeout(renewed);
    assert_eq!(net.at(1).facts().counts_in, 1);
}

#[test]
fn holders_go_by_the_settings_that_their_node_has_applied() {
    let mut state = three_nodes();
    let mut net = Net::new(&state);
    net.run(&[1, 2, 3], AWAKE);
    let longer = Settings { lease_ms: 5_000, ..Settings::default() };
    net.apply(&mut state, &[1, 2, 3], Entry::Settings(longer), AWAKE);
    let renewed = AWAKE.after_ms(400);
    net.run(&[1, 2, 3], renewed);
    assert_eq!(net.held(1, Kind::Primary), Some(renewed.after_ms(5_000)));
}

#[test]
fn node_that_registered_anew_asks_under_its_new_number_and_none_that_it_closed() {
    let mut state = three_nodes();
    let mut net = Net::new(&state);
    net.run(&[1, 2, 3], AWAKE);
    let kind = Kind::Member(NodeId(2));
    let number = |net: &mut Net| {
        let held = net.at(2).held().find(|(right, _)| right.kind == kind);
        held.map(|(right, _)| right.number)
    };
    assert_eq!(number(&mut net), Some(2));
    let retire = Entry::Retire { node: NodeId(2), number: 2 };
    net.apply(&mut state, &[1, 2, 3], retire, AWAKE);
    assert_eq!(number(&mut net), None, "it is wanted back, so nobody asks for it");
    for kind in [kind, Kind::Route(NodeId(2))] {
        for voter in [1, 3].map(NodeId) {
            apply_all(&mut state, [Entry::Released { voter, kind, number: 2 }]);
        }
    }
    // In one step with what it missed: as after a while without the others.
    let mut late = Net::new(&three_nodes());
    late.run(&[1, 2, 3], AWAKE);
    late.apply(&mut state, &[1, 2, 3], Entry::Register { node: NodeId(2) }, AWAKE);
    late.run(&[1, 2, 3], AWAKE.after_ms(400));
    assert_eq!(number(&mut late), Some(4));
    let right = Right { kind, number: 5, holder: NodeId(2), incarnation: directory(2) };
    late.at(2).handle_closed(right, AWAKE);
    late.at(2).handle_wants(wants(2), AWAKE);
    assert_eq!(number(&mut late), None, "whoever closes a right closes those before");
}

#[test]
fn voter_that_missed_an_epoch_releases_the_next_one_too() {
    let mut state = three_nodes();
    let mut net = Net::new(&state);
    let seal_now = Entry::Seal { epoch: Epoch(0), attempt: Attempt(1) };
    net.apply(&mut state, &[2, 3], seal_now, AWAKE);
    for voter in [2, 3].map(NodeId) {
        apply_all(&mut state, [Entry::Released { voter, kind: Kind::Primary, number: 0 }]);
    }
    let entry = elect(&state, 3, [2, 3].map(|node| report(&state, node, 100)).to_vec());
    apply_all(&mut state, [entry]);
    let seal_next = Entry::Seal { epoch: Epoch(1), attempt: Attempt(1) };
    net.apply(&mut state, &[2, 3], seal_next, AWAKE);
    assert_eq!(net.at(2).facts().released.get(&Kind::Primary), Some(&1));
}

#[test]
fn voter_says_no_more_of_a_release_that_nobody_wants_any_more() {
    let mut state = three_nodes();
    let mut net = Net::new(&state);
    let seal = Entry::Seal { epoch: Epoch(0), attempt: Attempt(1) };
    net.apply(&mut state, &[2, 3], seal, AWAKE);
    assert_eq!(net.at(2).facts().released.get(&Kind::Primary), Some(&0));
    for voter in [2, 3].map(NodeId) {
        apply_all(&mut state, [Entry::Released { voter, kind: Kind::Primary, number: 0 }]);
    }
    let entry = elect(&state, 3, [2, 3].map(|node| report(&state, node, 100)).to_vec());
    net.apply(&mut state, &[2, 3], entry, AWAKE);
    assert!(net.at(2).facts().released.is_empty(), "facts would grow for ever");
}

#[path = "attack_tests.rs"]
mod attack;
