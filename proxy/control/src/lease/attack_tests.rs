//! Who may end a promise.

use super::*;

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
