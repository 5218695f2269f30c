//! What a voter promises, when it stops, and when it says so.

use alloc::vec::Vec;

use super::*;
use crate::cluster::Entry;
use crate::ids::{Attempt, Incarnation, SystemId, Timeline};

const HOLDER: NodeId = NodeId(1);
const DIRECTORY: Incarnation = Incarnation(7);
/// A moment after the voter's first quiet time.
const AWAKE: BootTime = BootTime(10_000_000_000);

fn state() -> State {
    let mut state = State::new([1, 2, 3].map(NodeId).into(), Settings::default());
    let timeline = Timeline(1);
    let (system, holder, incarnation) = (SystemId(1), HOLDER, DIRECTORY);
    for entry in [
        Entry::Register { node: HOLDER },
        Entry::Bootstrap { system, holder, incarnation, timeline },
    ] {
        state.apply(&entry).unwrap();
    }
    state
}

fn voter() -> Voter {
    Voter::new(NodeId(2), Refusals::default(), state().longest_promise_ms(), BootTime(0))
}

fn ask() -> Ask {
    Ask {
        right: Right::primary(Epoch(0), HOLDER, DIRECTORY),
        epoch: Epoch(0),
        asked_at: BootTime(5),
        settings: Settings::default(),
        life: 4,
    }
}

fn actions(voter: &mut Voter) -> Vec<Action> {
    core::iter::from_fn(|| voter.next_action()).collect()
}

/// Lets the driver write what the voter wants written.
fn persist(voter: &mut Voter, now: BootTime) -> Vec<Action> {
    let [Action::Persist(written)] = &actions(voter)[..] else {
        panic!("nothing, or more, to write: {voter:?}");
    };
    voter.handle_persisted(written, now);
    actions(voter)
}

fn end_of_promise(given: BootTime) -> BootTime {
    given.after_ms(Settings::default().promise_ms())
}

#[test]
fn holder_of_the_epoch_gets_a_promise_with_its_own_clock_in_it() {
    let promise = voter().handle_ask(&ask(), &state(), AWAKE).unwrap();
    assert_eq!((promise.asked_at, promise.life), (BootTime(5), 4));
    assert_eq!((promise.voter, promise.membership_version), (NodeId(2), 1));
}

#[test]
fn voter_that_just_started_promises_nothing_until_old_promises_have_run_out() {
    let mut voter = voter();
    let end = end_of_promise(BootTime(0));
    let just_before = BootTime(end.0 - 1);
    assert_eq!(voter.handle_ask(&ask(), &state(), just_before), Err(Refusal::Quiet));
    assert!(voter.handle_ask(&ask(), &state(), end).is_ok());
}

#[test]
fn voter_that_just_started_states_nothing_until_old_promises_have_run_out() {
    let mut voter = voter();
    let end = end_of_promise(BootTime(0));
    voter.handle_wanted(Kind::Primary, 0, BootTime(1));
    voter.handle_timeout(BootTime(end.0 - 1));
    assert_eq!(actions(&mut voter), []);
    assert_eq!(voter.poll_timeout(), Some(end));
    voter.handle_timeout(end);
    assert!(matches!(actions(&mut voter)[..], [Action::Persist(_)]));
}

#[test]
fn voter_waits_after_a_start_by_the_longest_settings_there_ever_were() {
    let mut state = state();
    let long = Settings { lease_ms: 10_000, renewal_ms: 1_000, ..Settings::default() };
    state.apply(&Entry::Settings(long)).unwrap();
    state.apply(&Entry::Settings(Settings::default())).unwrap();
    assert_eq!(state.longest_promise_ms(), long.promise_ms());
}

#[test]
fn strangers_get_nothing() {
    let mut voter = voter();
    for right in [
        Right::primary(Epoch(0), NodeId(2), DIRECTORY),
        Right::primary(Epoch(0), HOLDER, Incarnation(8)),
        Right::primary(Epoch(1), HOLDER, DIRECTORY),
        Right { kind: Kind::Route(NodeId(9)), number: 1, holder: NodeId(9), ..ask().right },
        Right { kind: Kind::Route(NodeId(9)), number: 1, ..ask().right },
        Right { kind: Kind::Vip(crate::ids::VipId(1)), number: 1, ..ask().right },
    ] {
        let answer = voter.handle_ask(&Ask { right, ..ask() }, &state(), AWAKE);
        assert_eq!(answer, Err(Refusal::NotTheHolder), "{right:?}");
    }
}

#[test]
fn other_settings_are_refused_with_the_ones_in_force() {
    let settings = Settings { lease_ms: 60_000, ..Settings::default() };
    let answer = voter().handle_ask(&Ask { settings, ..ask() }, &state(), AWAKE);
    assert_eq!(answer, Err(Refusal::Settings { expected: Settings::default() }));
}

#[test]
fn sealed_epoch_gets_no_more_promises_though_other_leases_go_on() {
    let mut state = state();
    state.apply(&Entry::Seal { epoch: Epoch(0), attempt: Attempt(1) }).unwrap();
    let mut voter = voter();
    assert_eq!(voter.handle_ask(&ask(), &state, AWAKE), Err(Refusal::Sealed));
    let route = Right { kind: Kind::Route(HOLDER), number: 1, ..ask().right };
    assert!(voter.handle_ask(&Ask { right: route, ..ask() }, &state, AWAKE).is_ok());
}

#[test]
fn release_waits_for_the_promise_then_for_the_disk() {
    let mut voter = voter();
    voter.handle_ask(&ask(), &state(), AWAKE).unwrap();
    let end = end_of_promise(AWAKE);

    voter.handle_wanted(Kind::Primary, 0, AWAKE);
    assert_eq!(voter.poll_timeout(), Some(end));
    voter.handle_timeout(BootTime(end.0 - 1));
    assert_eq!(actions(&mut voter), [], "the promise is outstanding");

    voter.handle_timeout(end);
    let stated = persist(&mut voter, end);
    assert_eq!(stated, [Action::StateReleased { kind: Kind::Primary, number: 0 }]);
}

#[test]
fn nothing_is_stated_before_the_refusal_is_on_disk() {
    let mut voter = voter();
    voter.handle_wanted(Kind::Primary, 0, AWAKE);
    assert!(matches!(actions(&mut voter)[..], [Action::Persist(_)]));
    for ms in 0..5 {
        voter.handle_timeout(AWAKE.after_ms(ms * 1_000));
        assert_eq!(actions(&mut voter), []);
    }
}

#[test]
fn what_is_to_be_released_is_promised_no_more_even_before_the_disk_has_it() {
    let mut voter = voter();
    voter.handle_wanted(Kind::Primary, 0, AWAKE);
    let answer = voter.handle_ask(&ask(), &state(), AWAKE);
    assert_eq!(answer, Err(Refusal::Refused { number: 0 }));
}

#[test]
fn refusal_outlives_the_voter_and_a_state_that_knows_of_no_seal() {
    let mut first = voter();
    first.handle_wanted(Kind::Primary, 0, AWAKE);
    persist(&mut first, AWAKE);
    let mut second = Voter::new(NodeId(2), first.refusals.clone(), 2_450, BootTime(0));
    let answer = second.handle_ask(&ask(), &state(), AWAKE);
    assert_eq!(answer, Err(Refusal::Refused { number: 0 }));
}

#[test]
fn holder_that_has_closed_need_not_be_waited_for() {
    let mut voter = voter();
    voter.handle_ask(&ask(), &state(), AWAKE).unwrap();
    voter.handle_wanted(Kind::Primary, 0, AWAKE);
    assert_eq!(actions(&mut voter), []);
    voter.handle_closed(&ask().right, AWAKE);
    let stated = persist(&mut voter, AWAKE);
    assert_eq!(stated, [Action::StateReleased { kind: Kind::Primary, number: 0 }]);
}

#[test]
fn renewal_prolongs_what_a_release_must_wait_for() {
    let mut voter = voter();
    let later = AWAKE.after_ms(400);
    voter.handle_ask(&ask(), &state(), AWAKE).unwrap();
    voter.handle_ask(&ask(), &state(), later).unwrap();
    voter.handle_wanted(Kind::Primary, 0, later);
    assert_eq!(voter.poll_timeout(), Some(end_of_promise(later)));
}

#[test]
fn lost_statement_is_repeated_when_it_is_wanted_again_and_not_otherwise() {
    let mut voter = voter();
    voter.handle_wanted(Kind::Primary, 0, AWAKE);
    persist(&mut voter, AWAKE);
    voter.handle_timeout(AWAKE);
    assert_eq!(actions(&mut voter), []);
    voter.handle_wanted(Kind::Primary, 0, AWAKE);
    let repeated = [Action::StateReleased { kind: Kind::Primary, number: 0 }];
    assert_eq!(actions(&mut voter), repeated);
}

#[test]
fn releases_that_come_due_during_a_write_are_written_next() {
    let mut voter = voter();
    voter.handle_wanted(Kind::Primary, 0, AWAKE);
    let [Action::Persist(first)] = &actions(&mut voter)[..] else { panic!("{voter:?}") };
    voter.handle_wanted(Kind::Route(NodeId(9)), 4, AWAKE);
    assert_eq!(actions(&mut voter), [], "one write at a time");

    voter.handle_persisted(first, AWAKE);
    let next = actions(&mut voter);
    let [Action::StateReleased { kind: Kind::Primary, number: 0 }, Action::Persist(second)] =
        &next[..]
    else {
        panic!("{next:?}");
    };
    assert_eq!(second.get(Kind::Route(NodeId(9))), Some(4));
    assert_eq!(second.get(Kind::Primary), Some(0));
}

#[test]
fn proxy_that_has_not_heard_of_the_newest_epoch_gets_no_route() {
    let mut state = state();
    crate::cluster::testing::move_primary(&mut state);
    let route = Right { kind: Kind::Route(HOLDER), number: 1, ..ask().right };
    let old = Ask { right: route, ..ask() };
    let mut voter = voter();
    let answer = voter.handle_ask(&old, &state, AWAKE);
    assert_eq!(answer, Err(Refusal::Epoch { newest: Epoch(1) }));
    assert!(voter.handle_ask(&Ask { epoch: Epoch(1), ..old }, &state, AWAKE).is_ok());
}

#[test]
fn what_was_wanted_back_once_stays_so_when_less_is_wanted_later() {
    let mut state = state();
    crate::cluster::testing::move_primary(&mut state);
    let right = Right::primary(Epoch(1), HOLDER, DIRECTORY);
    let mut voter = voter();
    voter.handle_wanted(Kind::Primary, 1, AWAKE);
    // A closing of the epoch before comes late.
    voter.handle_wanted(Kind::Primary, 0, AWAKE);
    let answer = voter.handle_ask(&Ask { right, ..ask() }, &state, AWAKE);
    assert_eq!(answer, Err(Refusal::Refused { number: 1 }));
}

#[test]
fn refusal_is_not_taken_back_by_what_was_written_before_it() {
    let mut state = state();
    crate::cluster::testing::move_primary(&mut state);
    let refused = |number| Refusals([(Kind::Primary, number)].into());
    let mut voter = Voter::new(NodeId(2), refused(1), state.longest_promise_ms(), BootTime(0));
    voter.handle_persisted(&refused(0), AWAKE);
    let right = Right::primary(Epoch(1), HOLDER, DIRECTORY);
    let answer = voter.handle_ask(&Ask { right, ..ask() }, &state, AWAKE);
    assert_eq!(answer, Err(Refusal::Refused { number: 1 }));
}

#[test]
fn release_waits_for_promises_of_every_number_that_it_covers() {
    let mut voter = voter();
    let kind = Kind::Route(HOLDER);
    let route = Right { kind, number: 1, ..ask().right };
    voter.handle_ask(&Ask { right: route, ..ask() }, &state(), AWAKE).unwrap();
    voter.handle_wanted(kind, 2, AWAKE);
    assert_eq!(actions(&mut voter), [], "number 1 is held");
    let end = end_of_promise(AWAKE);
    assert_eq!(voter.poll_timeout(), Some(end));
    voter.handle_timeout(end);
    assert_eq!(persist(&mut voter, end), [Action::StateReleased { kind, number: 2 }]);
}
