//! Who may end a promise.

use super::*;
use crate::ids::VipId;

#[test]
fn node_that_closes_an_epoch_that_it_does_not_hold_ends_no_promise_to_its_holder() {
    let mut state = three_nodes();
    let mut net = Net::new(&state);
    net.run(&[1, 2, 3], AWAKE);
    let until = net.held(1, Kind::Primary).expect("node 1 serves");
    // Node 1 is cut off. The epoch is sealed, and node 3's agent, frozen, closes it for itself, as
    // `Step::Close` says: "for good, and tell the voters then".
    let now = AWAKE.after_ms(10);
    let sealed = Entry::Seal { epoch: Epoch(0), attempt: Attempt(1) };
    net.apply(&mut state, &[2, 3], sealed, now);
    net.at(3).handle_closed(Right::primary(Epoch(0), NodeId(3), directory(3)), now);
    net.run(&[2, 3], now);
    let released = |station: &Station| station.facts().released.get(&Kind::Primary).copied();
    let (two, three) = (released(net.at(2)), released(net.at(3)));
    assert!(now < until);
    assert_eq!((two, three), (None, None), "node 1 may serve until {until:?}, now is {now:?}");
}

#[test]
fn follower_that_closes_the_running_epoch_takes_nothing_from_its_primary() {
    let state = three_nodes();
    let mut net = Net::new(&state);
    net.run(&[1, 2, 3], AWAKE);
    // `Agent::follow` emits `Close(epoch)` at each call on every standby.
    net.at(3).handle_closed(Right::primary(Epoch(0), NodeId(3), directory(3)), AWAKE);
    net.run(&[1, 2, 3], AWAKE.after_ms(1));
    let later = AWAKE.after_ms(1_000);
    net.run(&[1, 2, 3], later);
    let until = net.held(1, Kind::Primary);
    assert_eq!(until, Some(later.after_ms(2_000)), "the primary cannot renew");
}

/// Node 1 may answer for an address.
fn with_address() -> (State, Right) {
    let mut state = three_nodes();
    let (vip, holder, incarnation) = (VipId(1), NodeId(1), Incarnation(1));
    apply_all(&mut state, [Entry::GiveVip { vip, number: 1, holder, incarnation }]);
    (state, Right { kind: Kind::Vip(vip), number: 1, holder, incarnation })
}

#[test]
fn closing_that_an_earlier_life_told_ends_no_promise_to_a_later_one() {
    let (mut state, right) = with_address();
    let mut net = Net::new(&state);
    net.at(1).handle_proxy(Some(Epoch(0)), AWAKE);
    net.run(&[1, 2, 3], AWAKE);
    assert!(net.held(1, right.kind).is_some());
    // The proxy goes down and gives the address up. Node 3 hears of it, node 2 much later.
    net.at(1).handle_closed(right, AWAKE);
    let mut late = None;
    while let Some(output) = net.at(1).next_output() {
        match output {
            Output::Send { to: NodeId(3), message } => {
                net.at(3).handle_message(NodeId(1), message, AWAKE);
            }
            Output::Send { message: message @ Message::Closed { .. }, .. } => late = Some(message),
            _ => {}
        }
    }
    // Its process starts anew and knows nothing of that; two of three promise.
    let now = AWAKE.after_ms(5_000);
    let refusals = Refusals::default();
    let started = Arc::new(state.clone());
    net.stations[0] = Station::new(NodeId(1), Incarnation(1), refusals, started, 11, AWAKE);
    net.at(1).handle_proxy(Some(Epoch(0)), now);
    net.run(&[1, 2, 3], now);
    let until = net.held(1, right.kind).expect("nodes 1 and 2 promise");

    // An ask of the earlier life comes late as well; its promise is for nobody.
    let (epoch, settings, life) = (Epoch(0), Settings::default(), 1);
    let ask = Message::Ask(Ask { right, epoch, asked_at: AWAKE, settings, life });
    net.at(2).handle_message(NodeId(1), ask, now);
    net.at(2).handle_message(NodeId(1), late.expect("it was sent"), now);
    let retire = Entry::RetireVip { vip: VipId(1), number: 1 };
    net.apply(&mut state, &[2, 3], retire, now);
    let released = |station: &Station| station.facts().released.get(&right.kind).copied();
    assert_eq!(released(net.at(3)), Some(1), "nobody holds it by node 3");
    assert_eq!(released(net.at(2)), None, "node 1 answers until {until:?}, now is {now:?}");
    net.run(&[2, 3], now.after_ms(2_450));
    assert_eq!(released(net.at(2)), Some(1), "it is closed all the same");
}

#[test]
fn what_is_held_when_the_membership_shrinks_is_counted_where_it_is_held() {
    let mut state = three_nodes();
    let voters = (1..=4).map(NodeId).collect();
    apply_all(&mut state, [Entry::Membership(Membership { version: 2, voters })]);
    let mut net = Net::new(&state);
    let right = Right::primary(Epoch(0), NodeId(1), directory(1));
    let settings = Settings::default();
    let promise = |voter: u64, asked_at| Promise {
        voter: NodeId(voter),
        right,
        asked_at,
        settings,
        membership_version: 2,
        life: 1,
    };
    let later = AWAKE.after_ms(400);
    for (voter, asked_at) in [(3, AWAKE), (1, later), (2, later)] {
        let promise = Message::Promise(promise(voter, asked_at));
        net.at(1).handle_message(NodeId(voter), promise, later);
    }
    assert_eq!(net.held(1, Kind::Primary), Some(AWAKE.after_ms(2_000)), "by three of four");
    while net.at(1).next_output().is_some() {}
    // Two of three have promised for the later request already.
    let voters = (1..=3).map(NodeId).collect();
    apply_all(&mut state, [Entry::Membership(Membership { version: 3, voters })]);
    net.at(1).handle_state(Arc::new(state.clone()), later);
    let until = later.after_ms(2_000);
    assert_eq!(net.held(1, Kind::Primary), Some(until));
    assert_eq!(net.at(1).next_output(), Some(Output::Hold { right, until }));
    let voters = (1..=4).map(NodeId).collect();
    apply_all(&mut state, [Entry::Membership(Membership { version: 4, voters })]);
    net.at(1).handle_state(Arc::new(state), later);
    net.at(1).handle_timeout(AWAKE.after_ms(2_000));
    assert_eq!(net.at(1).facts().counts_in, 3, "it holds by membership 3 until {until:?}");
}
