//! What is to be done about a lease, and when: a pure machine, whose time comes in as a value.
//!
//! It must not know how an address is taken. The order that it keeps: what is over is let go before
//! anything else, what is taken is announced, and nothing is announced that is over.

use crate::clock::ms;
use crate::limits::{ANNOUNCE_AFTER_MS, ANNOUNCE_EVERY_MS, ANNOUNCE_GAP_MS_MIN, RETRY_MS};

/// What the lease is, as its source last said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// The number of this holder; zero before there was any.
    pub(crate) number: u64,
    /// Until when, by the boot-time clock.
    pub(crate) until_ns: u64,
    /// It was given back: this number is held no more, whatever its deadline.
    pub(crate) is_closed: bool,
}

impl Wanted {
    pub(crate) fn is_valid(&self, now_ns: u64) -> bool {
        !self.is_closed && now_ns < self.until_ns
    }
}

/// One thing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Take the addresses, under this lease.
    Take(Wanted),
    /// Keep them under the same lease with its new deadline.
    Renew(Wanted),
    /// Tell the network.
    Announce,
    /// Let them go.
    Release(Wanted),
}

/// How the host stands to the addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nobody knows: the last process may have left them.
    Unclear,
    /// They are not ours.
    Free,
    /// They are ours under this lease.
    Taken { under: Wanted, since_ns: u64, announced: usize },
}

/// The duty towards one lease.
#[derive(Clone, Debug)]
pub(crate) struct Duty {
    state: State,
    /// After a taking or a renewal that failed it is not tried again before this.
    take_after_ns: u64,
    /// The same of a release; a taking that failed is undone at once.
    release_after_ns: u64,
    /// When the addresses were last announced, whoever held them in between.
    announced_ns: Option<u64>,
    /// Under which number, and all before, they were let go for good.
    closed: u64,
}

impl Duty {
    pub(crate) fn new() -> Self {
        Self {
            state: State::Unclear,
            take_after_ns: 0,
            release_after_ns: 0,
            announced_ns: None,
            closed: 0,
        }
    }

    pub(crate) fn is_taken(&self) -> bool {
        matches!(self.state, State::Taken { .. })
    }

    /// Whether nothing of it is there, for certain.
    pub(crate) fn is_free(&self) -> bool {
        matches!(self.state, State::Free)
    }

    /// What is to be done now; [`Self::handle_done`] hears of it before the next is asked for.
    pub(crate) fn next_action(&self, wanted: Wanted, now_ns: u64) -> Option<Action> {
        let may_try = now_ns >= self.take_after_ns;
        match self.state {
            State::Unclear => (now_ns >= self.release_after_ns).then_some(Action::Release(wanted)),
            // What was let go before may come back by what is left of a taking that failed.
            State::Free if self.must_close(wanted) => {
                (now_ns >= self.release_after_ns).then_some(Action::Release(wanted))
            }
            State::Free => (may_try && wanted.is_valid(now_ns)).then_some(Action::Take(wanted)),
            State::Taken { under, .. } if under.number != wanted.number => {
                // A new holder, even if it is the same host: what was taken under the old number
                // has its own end.
                let old = Wanted { is_closed: true, ..under };
                Some(Action::Release(old))
            }
            State::Taken { .. } if !wanted.is_valid(now_ns) => Some(Action::Release(wanted)),
            State::Taken { under, .. } if may_try && wanted.until_ns > under.until_ns => {
                Some(Action::Renew(wanted))
            }
            State::Taken { .. } => (now_ns >= self.announce_at_ns()).then_some(Action::Announce),
        }
    }

    /// When the next thing has to be done if nothing else happens.
    pub(crate) fn poll_timeout(&self, wanted: Wanted, now_ns: u64) -> Option<u64> {
        match self.state {
            State::Unclear => Some(self.release_after_ns.max(now_ns)),
            State::Free if self.must_close(wanted) => Some(self.release_after_ns.max(now_ns)),
            State::Free => wanted.is_valid(now_ns).then_some(self.take_after_ns.max(now_ns)),
            State::Taken { under, .. } => {
                let is_behind = wanted.until_ns > under.until_ns;
                let renew_ns = if is_behind { self.take_after_ns } else { u64::MAX };
                Some(wanted.until_ns.min(self.announce_at_ns()).min(renew_ns))
            }
        }
    }

    /// The action was carried out, or failed.
    pub(crate) fn handle_done(&mut self, action: Action, is_success: bool, now_ns: u64) {
        if let (Action::Announce, State::Taken { announced, .. }) = (action, &mut self.state) {
            // One that failed is not made up for; the next one comes in its turn.
            *announced += 1;
            self.announced_ns = Some(now_ns);
            return;
        }
        let after_ns = if is_success { 0 } else { now_ns + ms(RETRY_MS) };
        match action {
            Action::Release(_) => self.release_after_ns = after_ns,
            Action::Take(_) | Action::Renew(_) | Action::Announce => self.take_after_ns = after_ns,
        }
        if let (Action::Release(Wanted { number, is_closed: true, .. }), true) =
            (action, is_success)
        {
            self.closed = self.closed.max(number);
        }
        self.state = match (action, is_success, self.state) {
            (Action::Take(under), true, _) => {
                State::Taken { under, since_ns: now_ns, announced: 0 }
            }
            (Action::Renew(under), true, State::Taken { since_ns, announced, .. }) => {
                State::Taken { under, since_ns, announced }
            }
            // The kernel or a program may have done half of it.
            (Action::Take(_) | Action::Release(_), false, _) => State::Unclear,
            (Action::Release(_), true, _) => State::Free,
            // What is taken stays so.
            (Action::Renew(_) | Action::Announce, _, state) => state,
        };
    }

    fn must_close(&self, wanted: Wanted) -> bool {
        wanted.is_closed && self.closed < wanted.number
    }

    fn announce_at_ns(&self) -> u64 {
        let State::Taken { since_ns, announced, .. } = self.state else { return u64::MAX };
        let last_ns = self.announced_ns.unwrap_or_default();
        let at_ns = match ANNOUNCE_AFTER_MS.get(announced) {
            Some(after_ms) => since_ns + ms(*after_ms),
            None => last_ns + ms(ANNOUNCE_EVERY_MS),
        };
        at_ns.max(self.announced_ns.map_or(0, |last| last + ms(ANNOUNCE_GAP_MS_MIN)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(number: u64, until_ms: u64) -> Wanted {
        Wanted { number, until_ns: ms(until_ms), is_closed: false }
    }

    /// Carries everything out until a point of the clock; what was done when, in milliseconds.
    fn carry_out(duty: &mut Duty, wanted: Wanted, from_ms: u64, to_ms: u64) -> Vec<(u64, Action)> {
        let mut done = Vec::new();
        let mut now_ns = ms(from_ms);
        while now_ns <= ms(to_ms) {
            if let Some(action) = duty.next_action(wanted, now_ns) {
                duty.handle_done(action, true, now_ns);
                done.push((now_ns / 1_000_000, action));
            } else {
                let Some(next) = duty.poll_timeout(wanted, now_ns) else { break };
                assert!(next > now_ns, "would spin at {now_ns}: {duty:?}");
                now_ns = next;
            }
        }
        done
    }

    #[test]
    fn what_another_process_left_is_let_go_first() {
        let mut duty = Duty::new();
        let done = carry_out(&mut duty, Wanted::default(), 1_000, 99_000);
        assert_eq!(done, [(1_000, Action::Release(Wanted::default()))]);
        assert_eq!(duty.poll_timeout(Wanted::default(), ms(99_000)), None);
    }

    #[test]
    fn address_is_announced_often_at_first_then_rarely_and_never_after_its_end() {
        let mut duty = Duty::new();
        carry_out(&mut duty, Wanted::default(), 0, 0);
        let lease = wanted(1, 30_000);
        let done = carry_out(&mut duty, lease, 1_000, 60_000);
        let (take, rest) = done.split_first().unwrap();
        let (release, told) = rest.split_last().unwrap();
        assert_eq!(*take, (1_000, Action::Take(lease)));
        assert_eq!(*release, (30_000, Action::Release(lease)));
        assert!(told.iter().all(|(_, action)| *action == Action::Announce), "{told:?}");
        let at: Vec<_> = told.iter().map(|(at, _)| *at).collect();
        assert_eq!(at, [1_000, 1_100, 1_400, 2_000, 3_500, 13_500, 23_500]);
    }

    #[test]
    fn renewal_moves_the_end_and_begins_no_new_announcements() {
        let mut duty = Duty::new();
        carry_out(&mut duty, wanted(1, 2_000), 0, 500);
        let done = carry_out(&mut duty, wanted(1, 4_000), 900, 900);
        assert_eq!(done, [(900, Action::Renew(wanted(1, 4_000)))]);
        let done = carry_out(&mut duty, wanted(1, 4_000), 901, 10_000);
        let release = done.last().unwrap();
        assert_eq!(*release, (4_000, Action::Release(wanted(1, 4_000))));
        assert_eq!(done.len(), 3, "{done:?}");
    }

    #[test]
    fn closed_lease_is_let_go_at_once_and_a_new_number_is_taken_anew() {
        let mut duty = Duty::new();
        carry_out(&mut duty, wanted(1, 2_000), 0, 50);
        let closed = Wanted { is_closed: true, ..wanted(1, 2_000) };
        assert_eq!(carry_out(&mut duty, closed, 60, 60), [(60, Action::Release(closed))]);

        carry_out(&mut duty, wanted(2, 2_000), 70, 70);
        let done = carry_out(&mut duty, wanted(3, 3_000), 80, 80);
        let old = Wanted { is_closed: true, ..wanted(2, 2_000) };
        let next = [(80, Action::Release(old)), (80, Action::Take(wanted(3, 3_000)))];
        assert_eq!(done, next);
    }

    #[test]
    fn lease_is_closed_even_if_its_addresses_could_not_be_taken() {
        let mut duty = Duty::new();
        carry_out(&mut duty, Wanted::default(), 0, 0);
        let lease = wanted(4, 9_000);
        duty.handle_done(Action::Take(lease), false, ms(100));
        carry_out(&mut duty, lease, 100, 100);
        assert!(duty.is_free());
        let closed = Wanted { is_closed: true, ..lease };
        assert_eq!(carry_out(&mut duty, closed, 110, 9_999), [(110, Action::Release(closed))]);
    }

    #[test]
    fn announcements_are_bounded_however_often_an_address_comes_and_goes() {
        let mut duty = Duty::new();
        let mut told = 0;
        for turn in 0..1_000 {
            let lease = wanted(turn + 1, u64::MAX / 1_000_000);
            let done = carry_out(&mut duty, lease, turn, turn);
            told += done.iter().filter(|(_, action)| *action == Action::Announce).count();
        }
        assert!((1..=10).contains(&told), "{told} in a second");
    }

    #[test]
    fn what_could_not_be_let_go_is_tried_again_until_it_is() {
        let mut duty = Duty::new();
        carry_out(&mut duty, wanted(1, 1_000), 0, 500);
        let release = duty.next_action(wanted(1, 1_000), ms(1_000)).unwrap();
        duty.handle_done(release, false, ms(1_000));
        // Not even for a new lease is anything done before it.
        assert_eq!(duty.next_action(wanted(2, 9_000), ms(1_100)), None);
        assert_eq!(duty.poll_timeout(wanted(2, 9_000), ms(1_100)), Some(ms(1_000 + RETRY_MS)));
        let done = carry_out(&mut duty, wanted(2, 9_000), 1_000 + RETRY_MS, 1_000 + RETRY_MS);
        assert_eq!(done[0].1, Action::Release(wanted(2, 9_000)));
        assert_eq!(done[1].1, Action::Take(wanted(2, 9_000)));
    }

    #[test]
    fn taking_that_fails_is_undone_at_once_and_tried_again_later() {
        let mut duty = Duty::new();
        carry_out(&mut duty, Wanted::default(), 0, 0);
        let lease = wanted(1, 9_000);
        duty.handle_done(Action::Take(lease), false, ms(100));
        let done = carry_out(&mut duty, lease, 100, 100 + RETRY_MS);
        assert_eq!(done[0], (100, Action::Release(lease)));
        assert_eq!(done[1], (100 + RETRY_MS, Action::Take(lease)));
    }

    #[test]
    fn renewal_that_fails_is_tried_again_later_and_does_not_put_the_end_off() {
        let mut duty = Duty::new();
        carry_out(&mut duty, wanted(1, 1_000), 0, 900);
        let renew = duty.next_action(wanted(1, 2_000), ms(950)).unwrap();
        assert_eq!(renew, Action::Renew(wanted(1, 2_000)));
        duty.handle_done(renew, false, ms(950));
        let next = duty.next_action(wanted(1, 2_000), ms(951));
        assert_ne!(next, Some(renew), "would spin");
        // The lease is over after all: nothing is left to wait for.
        let over = Wanted { is_closed: true, ..wanted(1, 2_000) };
        assert_eq!(duty.next_action(over, ms(952)), Some(Action::Release(over)));
    }
}
