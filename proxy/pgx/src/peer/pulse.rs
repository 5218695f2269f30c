//! Signs of life on the channel [`Channel::Observe`]: a ping with a number, answered by a pong with
//! the same. They show operators who hears whom, and how fast; no lease depends on them.
//!
//! A ping travels on our connection to the peer, its pong on the peer's connection to us, so that a
//! pong proves both directions.

use std::sync::Weak;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::frame::{Channel, Class};
use super::{Message, PeerSet};
use crate::limits::peer::{PING_EVERY, SILENCE_MAX};
use pgx_control::limits::{TRIP_MS_MAX, TRIPS_KEPT};

/// First byte of a ping, and of a pong; the number follows in 64 bits, big end first.
const PING: u8 = 0;
const PONG: u8 = 1;

/// What is known of a peer's life.
#[derive(Debug)]
pub(super) struct Pulse {
    number: u64,
    asked: Option<Instant>,
    answered: Option<(Instant, Duration)>,
    /// When the peer was last found as it is to be, or began to be a peer.
    whole: Instant,
    /// The last questions, a bit each, the newest lowest: set if its answer was late or never came.
    late: u32,
}

impl Default for Pulse {
    fn default() -> Self {
        Self { number: 0, asked: None, answered: None, whole: Instant::now(), late: 0 }
    }
}

impl Pulse {
    /// The next question.
    fn ask(&mut self, now: Instant) -> Bytes {
        if self.asked.is_some() {
            self.remember(true);
        }
        self.number += 1;
        self.asked = Some(now);
        message(PING, self.number)
    }

    /// Takes an answer; one to an older question says nothing new.
    fn handle_pong(&mut self, number: u64, now: Instant) {
        if let Some(asked) = self.asked.take_if(|_| number == self.number) {
            let trip = now.duration_since(asked);
            if self.round_trip(now).is_none() {
                // It was away, which is another thing than a slow network to it.
                self.late = 0;
            }
            self.remember(trip.as_millis() > u128::from(TRIP_MS_MAX));
            self.answered = Some((now, trip));
        }
    }

    fn remember(&mut self, is_late: bool) {
        self.late = (self.late << 1 | u32::from(is_late)) & ((1 << TRIPS_KEPT) - 1);
    }

    /// How many of the last questions were answered late, or not at all.
    pub(super) fn late(&self) -> u32 {
        self.late.count_ones()
    }

    /// Takes whether all is as it is to be, and tells for how long it has not been.
    pub(super) fn away(&mut self, is_whole: bool, now: Instant) -> Duration {
        if is_whole {
            self.whole = now;
        }
        now.duration_since(self.whole)
    }

    /// Time to the peer and back, unless it has been silent for too long.
    pub(super) fn round_trip(&self, now: Instant) -> Option<Duration> {
        let (at, round_trip) = self.answered?;
        (now.duration_since(at) <= SILENCE_MAX).then_some(round_trip)
    }
}

/// Asks and answers for as long as the set lives.
pub(super) async fn run(set: Weak<PeerSet>, mut inbox: mpsc::Receiver<Message>) {
    let mut ticks = interval(PING_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let message = tokio::select! {
            _ = ticks.tick() => None,
            message = inbox.recv() => message,
        };
        let Some(set) = set.upgrade() else { return };
        match message {
            Some(message) => handle(&set, &message),
            None => ask_all(&set),
        }
    }
}

fn ask_all(set: &PeerSet) {
    for peer in set.shared.all() {
        peer.state(Instant::now());
        // Questions that wait for a connection would only tell how long it was away.
        if peer.link(Class::Bulk).is_up() {
            let question = peer.pulse().ask(Instant::now());
            // The peer may have been dismissed in between.
            let _ = set.send(peer.node, Channel::Observe, question);
        }
    }
}

fn handle(set: &PeerSet, message: &Message) {
    match parse(&message.bytes) {
        Some((PING, number)) => {
            // As above.
            let _ = set.send(message.from, Channel::Observe, self::message(PONG, number));
        }
        Some((PONG, number)) => {
            if let Some(peer) = set.shared.peer(message.from) {
                peer.pulse().handle_pong(number, Instant::now());
            }
        }
        // A later release may have more to say to those who understand it.
        _ => {}
    }
}

fn message(kind: u8, number: u64) -> Bytes {
    let number = number.to_be_bytes();
    Bytes::copy_from_slice(&[&[kind], &number[..]].concat())
}

fn parse(bytes: &[u8]) -> Option<(u8, u64)> {
    let (kind, number) = bytes.split_first()?;
    Some((*kind, u64::from_be_bytes(number.try_into().ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_answer_to_the_last_question_counts() {
        let mut pulse = Pulse::default();
        let start = Instant::now();
        let (_, first) = parse(&pulse.ask(start)).unwrap();
        let later = start + PING_EVERY;
        let (_, second) = parse(&pulse.ask(later)).unwrap();

        pulse.handle_pong(first, later);
        assert_eq!(pulse.round_trip(later), None);
        let trip = Duration::from_millis(3);
        pulse.handle_pong(second, later + trip);
        pulse.handle_pong(second, later + trip * 2);
        assert_eq!(pulse.round_trip(later + trip), Some(trip));
    }

    #[test]
    fn silence_is_told_from_an_old_answer() {
        let mut pulse = Pulse::default();
        let start = Instant::now();
        let (_, number) = parse(&pulse.ask(start)).unwrap();
        pulse.handle_pong(number, start);
        assert!(pulse.round_trip(start + SILENCE_MAX).is_some());
        assert_eq!(pulse.round_trip(start + SILENCE_MAX + PING_EVERY), None);
    }

    #[test]
    fn late_answers_are_counted_over_a_while_and_forgotten_when_the_peer_was_away() {
        let mut pulse = Pulse::default();
        let mut now = Instant::now();
        let answer = |pulse: &mut Pulse, now: &mut Instant, ms: u64| {
            let (_, number) = parse(&pulse.ask(*now)).unwrap();
            pulse.handle_pong(number, *now + Duration::from_millis(ms));
            *now += PING_EVERY;
        };
        for ms in [1, TRIP_MS_MAX + 1, TRIP_MS_MAX, 400] {
            answer(&mut pulse, &mut now, ms);
        }
        assert_eq!(pulse.late(), 2);
        pulse.ask(now);
        now += PING_EVERY;
        answer(&mut pulse, &mut now, 1);
        assert_eq!(pulse.late(), 3, "what never came is late as well");
        for _ in 0..TRIPS_KEPT {
            answer(&mut pulse, &mut now, 1);
        }
        assert_eq!(pulse.late(), 0);
        answer(&mut pulse, &mut now, 400);
        now += SILENCE_MAX * 2;
        answer(&mut pulse, &mut now, 1);
        assert_eq!(pulse.late(), 0, "it was away");
    }

    #[test]
    fn anything_else_is_no_sign_of_life() {
        assert_eq!(parse(b""), None);
        assert_eq!(parse(b"\x01short"), None);
        assert_eq!(parse(b"\x01number!\x00"), Some((PONG, u64::from_be_bytes(*b"number!\0"))));
    }
}
