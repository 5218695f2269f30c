//! Keeps logins from holding up those who are in: what clients say that are not in yet is heard for
//! a part of a thread's time, a little at once, and what is beyond that waits for it in order.
//!
//! A thousand clients that come at once, each with a handshake, would else be one turn of the
//! engine that all others wait for; and where processors are few, servers would wait for them too.

use std::collections::{HashMap, VecDeque};

use pgx_ring::Key;

use crate::limits::{LOBBY_BURST_NS, LOBBY_BYTES_MAX, LOBBY_SHARE, LOBBY_STEP_NS};

/// What clients have said that are not in yet, and has not been heard.
#[derive(Debug, Default)]
pub(super) struct Lobby {
    waiting: VecDeque<Key>,
    said: HashMap<Key, Vec<u8>>,
    /// What logins have cost lately; it is forgiven as time passes.
    debt_ns: u64,
    /// Until when that was counted.
    known_ns: u64,
    /// They have had their part, and rest until half of it is forgiven.
    is_resting: bool,
}

impl Lobby {
    /// Whether what a client has said is to be heard now; else it is kept until its turn comes.
    pub(super) fn hears(&mut self, key: Key, bytes: &[u8], now_ns: u64) -> bool {
        if self.said.is_empty() && self.has_time(now_ns) {
            return true;
        }
        let said = self.said.entry(key).or_insert_with(|| {
            self.waiting.push_back(key);
            Vec::new()
        });
        said.extend_from_slice(bytes);
        false
    }

    /// Whether something that a client has said waits, behind which all that it says has its place:
    /// it may have been let in meanwhile.
    pub(super) fn keeps(&self, key: Key) -> bool {
        !self.said.is_empty() && self.said.contains_key(&key)
    }

    /// What a client has said before, if that is to be heard now whoever waits: it ends, or says
    /// more than any login takes.
    pub(super) fn take(&mut self, key: Key, is_over: bool) -> Option<Vec<u8>> {
        if self.said.is_empty() {
            return None;
        }
        let is_due = is_over || self.said.get(&key)?.len() > LOBBY_BYTES_MAX;
        // Its place among those who wait leads nowhere then.
        is_due.then(|| self.said.remove(&key)).flatten()
    }

    /// The next to be heard, if there is time.
    pub(super) fn next(&mut self, now_ns: u64) -> Option<(Key, Vec<u8>)> {
        while self.has_time(now_ns) {
            let key = self.waiting.pop_front()?;
            if let Some(said) = self.said.remove(&key) {
                return Some((key, said));
            }
        }
        None
    }

    /// A step of a login took so long here; the kernel has its part too, before or later.
    pub(super) fn spend(&mut self, ns: u64) {
        self.debt_ns = self.debt_ns.saturating_add(ns).saturating_add(LOBBY_STEP_NS);
        self.is_resting |= self.debt_ns >= LOBBY_BURST_NS;
    }

    /// When the next is to be heard; `None` if nobody waits.
    pub(super) fn due_ns(&self) -> Option<u64> {
        let rest = if self.is_resting { LOBBY_BURST_NS / 2 } else { LOBBY_BURST_NS };
        let left = self.debt_ns.saturating_sub(rest).saturating_mul(LOBBY_SHARE);
        (!self.waiting.is_empty()).then(|| self.known_ns.saturating_add(left))
    }

    fn has_time(&mut self, now_ns: u64) -> bool {
        let passed = now_ns.saturating_sub(self.known_ns) / LOBBY_SHARE;
        if passed > 0 {
            self.debt_ns = self.debt_ns.saturating_sub(passed);
            self.known_ns = now_ns;
        }
        self.is_resting &= self.debt_ns > LOBBY_BURST_NS / 2;
        !self.is_resting
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// After how long all is forgiven.
    const LONG_NS: u64 = LOBBY_BURST_NS * LOBBY_SHARE;

    fn key(number: u64) -> Key {
        Key::from_bits(number)
    }

    /// A lobby that has used up its time just now.
    fn tired() -> Lobby {
        let mut lobby = Lobby::default();
        assert!(lobby.hears(key(1), b"a", LONG_NS));
        lobby.spend(LOBBY_BURST_NS);
        lobby
    }

    #[test]
    fn logins_have_their_part_of_the_time_and_the_rest_waits_in_order() {
        let mut lobby = tired();
        let now = LONG_NS;
        assert!(!lobby.hears(key(2), b"b", now) && !lobby.hears(key(3), b"c", now));
        assert!(!lobby.hears(key(2), b"d", now), "it has said something before");
        let due = lobby.due_ns().expect("they wait");
        assert!(due > now && lobby.next(due - LOBBY_SHARE).is_none(), "not yet");
        assert_eq!(lobby.next(due), Some((key(2), b"bd".to_vec())));
        assert!(!lobby.hears(key(4), b"e", due), "nobody comes before those who wait");
        assert_eq!(lobby.next(due), Some((key(3), b"c".to_vec())));
        assert_eq!(lobby.next(due), Some((key(4), b"e".to_vec())));
        assert!(lobby.due_ns().is_none() && lobby.hears(key(5), b"f", due));
    }

    #[test]
    fn share_of_the_time_is_kept_over_many_steps() {
        let mut lobby = Lobby::default();
        let (mut now, mut worked) = (LONG_NS, 0);
        for number in 0..10_000 {
            let mut is_heard = lobby.hears(key(number), b"x", now);
            while is_heard || lobby.next(now).is_some() {
                is_heard = false;
                lobby.spend(5_000);
                (now, worked) = (now + 5_000, worked + 5_000 + LOBBY_STEP_NS);
            }
            now = lobby.due_ns().unwrap_or(now).max(now);
        }
        let most = (now - LONG_NS) / LOBBY_SHARE + 2 * LOBBY_BURST_NS;
        assert!(worked > 0 && worked <= most, "{worked} of {most}");
    }

    #[test]
    fn who_ends_or_says_too_much_is_heard_at_once_and_once() {
        let mut lobby = tired();
        assert!(!lobby.hears(key(1), b"cancel", LONG_NS));
        assert_eq!(lobby.take(key(1), false), None);
        assert_eq!(lobby.take(key(1), true), Some(b"cancel".to_vec()));
        assert!(!lobby.hears(key(2), &vec![0; LOBBY_BYTES_MAX], LONG_NS));
        assert_eq!(lobby.take(key(2), false), None);
        assert!(!lobby.hears(key(2), b"more", LONG_NS) && lobby.keeps(key(2)));
        assert!(lobby.take(key(2), false).is_some());
        assert_eq!(lobby.next(2 * LONG_NS), None);
        assert_eq!(lobby.due_ns(), None);
    }
}
