//! Keeps logins from holding up those who are in: of what clients say that are not in yet, one turn
//! of the engine takes so much, and the rest waits for the next in order.
//!
//! A thousand clients that come at once, each with a handshake, would else be one turn, and all
//! others would wait for its end.

use std::collections::{HashMap, VecDeque};

use pgx_ring::Key;

use crate::limits::{LOBBY_BYTES_MAX, LOBBY_SEND_NS, LOBBY_TURN_NS};

/// What clients have said that are not in yet, and has not been heard.
#[derive(Debug, Default)]
pub(super) struct Lobby {
    waiting: VecDeque<Key>,
    said: HashMap<Key, Vec<u8>>,
    /// What logins have cost in this turn.
    spent_ns: u64,
}

impl Lobby {
    /// Whether what a client has said is to be heard now; else it is kept until its turn comes.
    pub(super) fn hears(&mut self, key: Key, bytes: &[u8]) -> bool {
        if self.said.is_empty() && self.spent_ns < LOBBY_TURN_NS {
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

    /// The next to be heard in this turn.
    pub(super) fn next(&mut self) -> Option<(Key, Vec<u8>)> {
        while self.spent_ns < LOBBY_TURN_NS {
            let key = self.waiting.pop_front()?;
            if let Some(said) = self.said.remove(&key) {
                return Some((key, said));
            }
        }
        None
    }

    /// Hearing somebody took so long. What is sent then costs about as much again, later.
    pub(super) fn spend(&mut self, ns: u64) {
        self.spent_ns = self.spent_ns.saturating_add(ns).saturating_add(LOBBY_SEND_NS);
    }

    /// A turn begins.
    pub(super) fn begin_turn(&mut self) {
        self.spent_ns = 0;
    }

    /// Whether anybody waits, so that the next turn must not.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u64) -> Key {
        Key::from_bits(number)
    }

    #[test]
    fn turn_hears_so_much_and_the_rest_in_order_in_the_next() {
        let mut lobby = Lobby::default();
        lobby.begin_turn();
        assert!(lobby.hears(key(1), b"a"));
        lobby.spend(LOBBY_TURN_NS);
        assert!(!lobby.hears(key(2), b"b") && !lobby.hears(key(3), b"c"));
        assert!(!lobby.hears(key(2), b"d"), "it has said something before");
        assert_eq!(lobby.next(), None, "the turn is used up");
        lobby.begin_turn();
        assert_eq!(lobby.next(), Some((key(2), b"bd".to_vec())));
        assert!(!lobby.hears(key(4), b"e"), "nobody comes before those who wait");
        assert_eq!(lobby.next(), Some((key(3), b"c".to_vec())));
        assert_eq!(lobby.next(), Some((key(4), b"e".to_vec())));
        assert!(lobby.is_empty() && lobby.hears(key(5), b"f"));
    }

    #[test]
    fn who_ends_or_says_too_much_is_heard_at_once_and_once() {
        let mut lobby = Lobby::default();
        lobby.spend(LOBBY_TURN_NS);
        assert!(!lobby.hears(key(1), b"cancel"));
        assert_eq!(lobby.take(key(1), false), None);
        assert_eq!(lobby.take(key(1), true), Some(b"cancel".to_vec()));
        assert!(!lobby.hears(key(2), &vec![0; LOBBY_BYTES_MAX]));
        assert_eq!(lobby.take(key(2), false), None);
        assert!(!lobby.hears(key(2), b"more"));
        assert!(lobby.take(key(2), false).is_some());
        lobby.begin_turn();
        assert_eq!(lobby.next(), None);
        assert!(lobby.is_empty());
    }
}
