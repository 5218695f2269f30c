//! Who guesses passwords: failed logins by where they come from, and how long answers wait.
//!
//! A failure is answered late, the later the more there were before it. So many answers of one
//! address wait at most; what comes beyond that is answered at once, and hardly looked at. All of
//! it counts from when an answer would be due, whoever waits for it: to go away and come again
//! gains nothing. Who knows the password never waits. It must not know sockets.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::net::IpAddr;

use crate::limits::{
    GUESS_DELAY_MS_MAX, GUESS_DELAY_MS_MIN, GUESS_FORGET_MS, GUESS_HASHES_MAX, GUESS_LOOKS_MAX,
    GUESS_NOTES_MAX, GUESS_PLACES, GUESS_SOURCES_MAX, GUESS_USERS_MAX, GUESS_WAITING_MAX,
};
use crate::time::Now;

/// How long what is looked at beyond the bounds is counted, in milliseconds.
const WINDOW_MS: u64 = 1_000;

/// Where logins come from, as far as somebody alone has that place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Source {
    /// An address.
    V4([u8; 4]),
    /// The network of an address, which is one site's: who has one address of it has all.
    V6([u8; 8]),
    /// This host, by a Unix socket. Its users are one: there are few, and only guesses wait.
    Host,
}

impl Source {
    /// That of a connection; of a Unix socket, which has no address, it is this host.
    pub(crate) fn of(address: Option<IpAddr>) -> Self {
        match address.map(|address| address.to_canonical()) {
            Some(IpAddr::V4(address)) => Self::V4(address.octets()),
            Some(IpAddr::V6(address)) => {
                let [a, b, c, d, e, f, g, h, ..] = address.octets();
                Self::V6([a, b, c, d, e, f, g, h])
            }
            None => Self::Host,
        }
    }

    /// The address, or that of the network; `None` for this host.
    pub(crate) fn address(self) -> Option<IpAddr> {
        match self {
            Self::V4(octets) => Some(octets.into()),
            Self::V6([a, b, c, d, e, f, g, h]) => {
                Some([a, b, c, d, e, f, g, h, 0, 0, 0, 0, 0, 0, 0, 0].into())
            }
            Self::Host => None,
        }
    }
}

/// What becomes of a wrong password.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// When it is answered; `None` if at once, since too many answers wait.
    pub(crate) due: Option<Now>,
    /// Whether it is worth a word of its own to the operator.
    pub(crate) is_noted: bool,
    /// So many failures are worth one about the address.
    pub(crate) is_guessing: Option<u32>,
}

/// What is known of one source.
#[derive(Debug, Default)]
struct Record {
    /// Without a pause long enough to forget them.
    failures: u32,
    /// When the last was.
    failed: Now,
    /// When there was anything.
    used: Now,
    /// When the answers are due that wait.
    due: Vec<Now>,
    /// Users that have got in.
    users: Vec<Box<[u8]>>,
    /// Since when how much was looked at beyond the bounds, by users' places.
    looks: (Now, [u8; GUESS_PLACES]),
    /// The same, of what has to be hashed.
    hashes: (Now, u8),
}

impl Record {
    fn refresh(&mut self, now: Now) {
        self.used = now;
        if now >= self.failed.after_ms(GUESS_FORGET_MS) {
            self.failures = 0;
        }
        self.due.retain(|due| *due > now);
        if now >= self.looks.0.after_ms(WINDOW_MS) {
            self.looks = (now, [0; GUESS_PLACES]);
        }
        if now >= self.hashes.0.after_ms(WINDOW_MS) {
            self.hashes = (now, 0);
        }
    }
}

/// Failed logins, by their sources.
#[derive(Debug, Default)]
pub(crate) struct Guesses(BTreeMap<Source, Record>);

impl Guesses {
    /// A user has got in by a password.
    pub(crate) fn right(&mut self, source: Source, user: &[u8], now: Now) {
        let users = &mut self.record(source, now).users;
        if users.iter().any(|known| **known == *user) {
            return;
        }
        if users.len() >= GUESS_USERS_MAX {
            users.remove(0);
        }
        users.push(user.into());
    }

    /// Somebody does not know the password.
    pub(crate) fn wrong(&mut self, source: Source, now: Now) -> Verdict {
        let record = self.record(source, now);
        record.failures = record.failures.saturating_add(1);
        record.failed = now;
        let failures = record.failures;
        let is_noted = failures <= GUESS_NOTES_MAX;
        let times = failures / GUESS_NOTES_MAX;
        let is_guessing = failures.is_multiple_of(GUESS_NOTES_MAX) && times.is_power_of_two();
        let due = (record.due.len() < GUESS_WAITING_MAX).then(|| {
            let grown = GUESS_DELAY_MS_MIN.saturating_mul(1 << (failures - 1).min(16));
            let due = now.after_ms(grown.min(GUESS_DELAY_MS_MAX));
            record.due.push(due);
            due
        });
        Verdict { due, is_noted, is_guessing: is_guessing.then_some(failures) }
    }

    /// Whether a proof is to be looked at. Where too many answers wait, only those of users are
    /// that have got in from there before, and a few of others: so that nobody is kept out for
    /// long who shares an address with somebody who guesses another user's password.
    pub(crate) fn may_look(&mut self, source: Source, user: &[u8], now: Now) -> bool {
        if !self.0.contains_key(&source) {
            return true;
        }
        let record = self.record(source, now);
        let is_known = record.users.iter().any(|known| **known == *user);
        if is_known || record.due.len() < GUESS_WAITING_MAX {
            return true;
        }
        take(&mut record.looks.1[place(user)], GUESS_LOOKS_MAX)
    }

    /// Whether a password may be hashed, which takes time.
    pub(crate) fn may_hash(&mut self, source: Source, now: Now) -> bool {
        take(&mut self.record(source, now).hashes.1, GUESS_HASHES_MAX)
    }

    fn record(&mut self, source: Source, now: Now) -> &mut Record {
        if self.0.len() >= GUESS_SOURCES_MAX && !self.0.contains_key(&source) {
            // Nobody is asked to remember more sources than that; the oldest is forgotten.
            let oldest = self.0.iter().min_by_key(|(_, record)| record.used);
            if let Some(oldest) = oldest.map(|(source, _)| *source) {
                self.0.remove(&oldest);
            }
        }
        let record = self.0.entry(source).or_default();
        record.refresh(now);
        record
    }
}

/// Counts one more, up to a bound. Says whether it was within that.
fn take(count: &mut u8, max: u8) -> bool {
    let is_within = *count < max;
    *count += u8::from(is_within);
    is_within
}

/// Where a user's looks are counted: others may be there as well, but few (FNV-1a).
fn place(user: &[u8]) -> usize {
    let mix = |hash: u32, byte: &u8| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
    user.iter().fold(0x811c_9dc5, mix) as usize % GUESS_PLACES
}

#[cfg(test)]
mod tests {
    use alloc::format;

    use super::*;

    const HERE: Source = Source::V4([192, 0, 2, 1]);
    const THERE: Source = Source::V4([192, 0, 2, 2]);

    /// Many failures at once.
    fn flooded(now: Now) -> Guesses {
        let mut guesses = Guesses::default();
        for _ in 0..1_000 {
            guesses.wrong(HERE, now);
        }
        guesses
    }

    fn delay_ms(guesses: &mut Guesses, now: Now) -> u64 {
        let due = guesses.wrong(HERE, now).due.expect("it waits");
        due.us_since(now) / 1_000
    }

    #[test]
    fn delays_double_up_to_their_bound_and_are_forgotten_after_a_while() {
        let mut guesses = Guesses::default();
        let mut now = Now::from_ms(1);
        let mut found = Vec::new();
        for _ in 0..9 {
            found.push(delay_ms(&mut guesses, now));
            now = now.after_ms(10_000);
        }
        assert_eq!(found, [100, 200, 400, 800, 1_600, 3_200, 5_000, 5_000, 5_000]);
        assert_eq!(delay_ms(&mut guesses, now.after_ms(GUESS_FORGET_MS)), 100);
    }

    #[test]
    fn answers_that_wait_are_bounded_and_leaving_early_makes_no_room() {
        let mut guesses = Guesses::default();
        let now = Now::from_ms(1);
        let waiting = (0..1_000).filter(|_| guesses.wrong(HERE, now).due.is_some()).count();
        assert_eq!(waiting, GUESS_WAITING_MAX);
        assert_eq!(guesses.wrong(HERE, now.after_ms(90)).due, None);
        assert!(guesses.wrong(THERE, now).due.is_some(), "another address is not concerned");
        assert!(guesses.wrong(HERE, now.after_ms(GUESS_DELAY_MS_MAX)).due.is_some());
    }

    #[test]
    fn flood_of_guesses_is_hardly_looked_at_but_for_users_who_are_known_there() {
        let now = Now::from_ms(1);
        let mut guesses = flooded(now);
        guesses.right(HERE, b"ann", now);
        let looks = |guesses: &mut Guesses, user: &[u8], now| {
            (0..1_000).filter(|_| guesses.may_look(HERE, user, now)).count()
        };
        assert_eq!(looks(&mut guesses, b"ann", now), 1_000);
        assert_eq!(looks(&mut guesses, b"bob", now), usize::from(GUESS_LOOKS_MAX));
        let other = (0..u8::MAX).find(|name| place(&[*name]) != place(b"bob")).unwrap();
        assert!(guesses.may_look(HERE, &[other], now), "another user is not concerned");
        // Some of the answers are given by then, and others take their places.
        let later = now.after_ms(WINDOW_MS);
        for _ in 0..GUESS_WAITING_MAX {
            guesses.wrong(HERE, later);
        }
        assert_eq!(looks(&mut guesses, b"bob", later), usize::from(GUESS_LOOKS_MAX));
        assert!(guesses.may_look(THERE, b"bob", now));
        let names = (0..10_000).map(|number| format!("user{number}"));
        let all = names.filter(|name| guesses.may_look(HERE, name.as_bytes(), now)).count();
        assert!(all <= GUESS_PLACES * usize::from(GUESS_LOOKS_MAX), "{all} for many names");
    }

    #[test]
    fn what_takes_time_is_limited_in_rate_before_anything_has_failed() {
        let mut guesses = Guesses::default();
        let mut count = |now| (0..1_000).filter(|_| guesses.may_hash(HERE, now)).count();
        assert_eq!(count(Now::from_ms(1)), usize::from(GUESS_HASHES_MAX));
        assert_eq!(count(Now::from_ms(900)), 0);
        assert_eq!(count(Now::from_ms(1 + WINDOW_MS)), usize::from(GUESS_HASHES_MAX));
    }

    #[test]
    fn operator_hears_of_the_first_failures_and_then_of_each_doubling() {
        let mut guesses = Guesses::default();
        let verdicts: Vec<_> = (0..10_000).map(|_| guesses.wrong(HERE, Now(1))).collect();
        let noted = verdicts.iter().filter(|verdict| verdict.is_noted).count();
        assert_eq!(noted, 10);
        let told: Vec<_> = verdicts.iter().filter_map(|verdict| verdict.is_guessing).collect();
        assert_eq!(told, [10, 20, 40, 80, 160, 320, 640, 1_280, 2_560, 5_120]);
    }

    #[test]
    fn site_of_an_address_is_one_source_however_the_address_is_written() {
        let of = |text: &str| Source::of(Some(text.parse().unwrap()));
        assert_eq!(of("2001:db8:1:2::1"), of("2001:db8:1:2:ffff::"));
        assert_ne!(of("2001:db8:1:2::1"), of("2001:db8:1:3::1"));
        assert_eq!(of("::ffff:192.0.2.1"), HERE);
        assert_eq!(Source::of(None), Source::Host);
        assert_eq!(of("2001:db8:1:2::1").address(), "2001:db8:1:2::".parse().ok());
        assert_eq!((HERE.address(), Source::Host.address()), ("192.0.2.1".parse().ok(), None));
    }

    #[test]
    fn no_more_sources_are_remembered_than_the_bound_and_the_newest_are() {
        let mut guesses = Guesses::default();
        for number in 0..=u32::try_from(GUESS_SOURCES_MAX).unwrap() {
            let source = Source::V4(number.to_be_bytes());
            guesses.right(source, b"ann", Now::from_ms(u64::from(number)));
        }
        assert_eq!(guesses.0.len(), GUESS_SOURCES_MAX);
        assert!(!guesses.0.contains_key(&Source::V4([0; 4])), "the oldest is gone");
        let users = (0..100_u8).map(|number| [number]);
        users.for_each(|user| guesses.right(HERE, &user, Now::from_ms(u64::MAX / 2_000)));
        assert_eq!(guesses.0[&HERE].users.len(), GUESS_USERS_MAX);
    }
}
