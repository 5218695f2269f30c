//! Prepared statements of clients that share server connections.
//!
//! A client's name means a text; each text has one number and one name on every server. So a
//! statement can be used on a server that its client has never met: it is prepared there first.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::fmt::Write;

use crate::limits::{RENEW_MS, SWEEP_MIN};
use crate::scan::Words;
use crate::time::Now;

/// A text with the types of its parameters.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Statement {
    pub(crate) number: u64,
    pub(crate) text: Box<[u8]>,
    /// As they stand in the message: a count, then an identifier each.
    pub(crate) types: Box<[u8]>,
    /// What the text hints at.
    pub(crate) words: Words,
    born: Now,
}

/// A text and its types.
type Key = (Box<[u8]>, Box<[u8]>);

/// All statements of a worker's clients, each text once.
#[derive(Debug, Default)]
pub(crate) struct Statements {
    known: BTreeMap<Key, Rc<Statement>>,
    last: u64,
    now: Now,
    /// How many there may be before those that nobody uses are looked for.
    sweep_at: usize,
}

impl Statements {
    /// Time has passed.
    pub(crate) fn set_now(&mut self, now: Now) {
        self.now = now;
    }

    /// The statement of a text; a new one gets the next number. One that is old is prepared anew
    /// for who comes now: its tables may be others than they were.
    pub(crate) fn get(&mut self, text: &[u8], types: &[u8], words: Words) -> Rc<Statement> {
        if self.known.len() >= self.sweep_at.max(SWEEP_MIN) {
            // A name that was closed, or a server that was lost, may have had the last.
            self.known.retain(|_, statement| Rc::strong_count(statement) > 1);
            self.sweep_at = self.known.len() * 2;
        }
        let key = (Box::from(text), Box::from(types));
        let (last, born) = (&mut self.last, self.now);
        if self.known.get(&key).is_some_and(|known| born >= known.born.after_ms(RENEW_MS)) {
            self.known.remove(&key);
        }
        let found = self.known.entry(key).or_insert_with_key(|(text, types)| {
            *last += 1;
            let (text, types) = (text.clone(), types.clone());
            Rc::new(Statement { number: *last, text, types, words, born })
        });
        Rc::clone(found)
    }

    /// A client uses it no more: it is forgotten with its last user.
    pub(crate) fn give_back(&mut self, statement: &Rc<Statement>) {
        // One is ours, one the caller's.
        if Rc::strong_count(statement) > 2 {
            return;
        }
        let key = (statement.text.clone(), statement.types.clone());
        // A text that was renewed is not this one's to forget.
        if self.known.get(&key).is_some_and(|known| Rc::ptr_eq(known, statement)) {
            self.known.remove(&key);
        }
    }

    /// What was prepared may be about tables as they were: whoever prepares a text from here on
    /// gets another number, so that no server answers with what it made of the text before.
    pub(crate) fn renew(&mut self) {
        self.known.clear();
    }

    /// How many texts there are.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.known.len()
    }
}

/// What statements' names on servers begin with.
pub(crate) const PREFIX: &str = "pgx_";

/// A statement's name on servers.
pub(crate) fn name(number: u64) -> Vec<u8> {
    let mut name = Name(Vec::with_capacity(24));
    // Writing to memory does not fail.
    let _ = write!(name, "{PREFIX}{number:x}");
    name.0
}

/// The number of a statement by its name on servers.
pub(crate) fn number(name: &[u8]) -> Option<u64> {
    let digits = name.strip_prefix(PREFIX.as_bytes())?;
    u64::from_str_radix(core::str::from_utf8(digits).ok()?, 16).ok()
}

struct Name(Vec<u8>);

impl Write for Name {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

/// What is prepared on one server, by number, and when each was last used.
#[derive(Debug, Default)]
pub(crate) struct Prepared {
    used: BTreeMap<u64, u64>,
    clock: u64,
    /// Others than those may be there or not, since their end was asked for.
    pub(crate) is_unsure: bool,
    /// Some may be there still that were to make room, or to be forgotten.
    pub(crate) may_have_more: bool,
}

impl Prepared {
    /// Whether it is there; it counts as used now.
    pub(crate) fn touch(&mut self, number: u64) -> bool {
        self.clock += 1;
        self.used.get_mut(&number).map(|used| *used = self.clock).is_some()
    }

    /// How many are there.
    pub(crate) fn len(&self) -> usize {
        self.used.len()
    }

    /// All that are there.
    #[cfg(test)]
    pub(crate) fn numbers(&self) -> Vec<u64> {
        self.used.keys().copied().collect()
    }

    /// It is there from now on. Says which one has to go for it, if `max` are there already.
    pub(crate) fn add(&mut self, number: u64, max: usize) -> Option<u64> {
        self.clock += 1;
        let is_full = self.used.len() >= max && !self.used.contains_key(&number);
        let oldest = || self.used.iter().min_by_key(|(_, used)| **used).map(|(number, _)| *number);
        let evicted = if is_full { oldest() } else { None };
        if let Some(number) = evicted {
            self.used.remove(&number);
        }
        self.used.insert(number, self.clock);
        evicted
    }

    /// It is not there after all.
    pub(crate) fn lose(&mut self, number: u64) {
        self.used.remove(&number);
    }

    /// The server has forgotten all.
    pub(crate) fn clear(&mut self) {
        self.used.clear();
        self.is_unsure = false;
        self.may_have_more = false;
    }

    /// The server may forget all when it comes to what was sent just now.
    pub(crate) fn doubt(&mut self) {
        self.used.clear();
        self.is_unsure = true;
    }

    /// Nothing that was sent is owed an answer: what may have been forgotten is, or is there still.
    pub(crate) fn settle(&mut self) {
        self.may_have_more |= core::mem::take(&mut self.is_unsure);
    }

    /// The server has forgotten all but those that are to be prepared behind that; if `again`, it
    /// may do so once more.
    pub(crate) fn forgotten(&mut self, later: &BTreeSet<u64>, again: bool) {
        self.used.retain(|number, _| later.contains(number));
        self.is_unsure &= again;
        self.may_have_more = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_text_has_one_number_and_other_types_make_another_statement() {
        let mut all = Statements::default();
        let words = Words::default();
        let one = all.get(b"select $1", b"\0\0", words);
        assert_eq!(all.get(b"select $1", b"\0\0", words).number, one.number);
        assert_ne!(all.get(b"select $1", b"\0\x01\0\0\0\x17", words).number, one.number);
        assert_eq!(name(one.number), b"pgx_1");
        assert_eq!(number(&name(0x1f)), Some(0x1f));
        assert_eq!(number(b"pgx_unknown"), None);
    }

    #[test]
    fn statement_is_forgotten_with_its_last_user() {
        let mut all = Statements::default();
        let words = Words::default();
        let (one, other) = (all.get(b"a", b"", words), all.get(b"a", b"", words));
        all.give_back(&one);
        drop(one);
        assert_eq!(all.len(), 1);
        all.give_back(&other);
        assert_eq!(all.len(), 0);
        assert_eq!(all.get(b"b", b"", words).number, 2, "numbers are never used again");
    }

    #[test]
    fn renewed_text_gets_another_number_and_keeps_it_whatever_becomes_of_the_old() {
        let mut all = Statements::default();
        let words = Words::default();
        let old = all.get(b"a", b"", words);
        all.renew();
        let new = all.get(b"a", b"", words);
        assert_ne!(new.number, old.number);
        all.give_back(&old);
        assert_eq!(all.get(b"a", b"", words).number, new.number);
    }

    #[test]
    fn text_that_was_prepared_long_ago_gets_another_number() {
        let mut all = Statements::default();
        let words = Words::default();
        let old = all.get(b"a", b"", words);
        all.set_now(Now::from_ms(RENEW_MS - 1));
        assert_eq!(all.get(b"a", b"", words).number, old.number);
        all.set_now(Now::from_ms(RENEW_MS));
        let new = all.get(b"a", b"", words);
        assert_ne!(new.number, old.number);
        assert_eq!(all.get(b"a", b"", words).number, new.number);
    }

    #[test]
    fn statement_that_was_used_longest_ago_makes_room() {
        let mut prepared = Prepared::default();
        assert_eq!(prepared.add(1, 2), None);
        assert_eq!(prepared.add(2, 2), None);
        assert!(prepared.touch(1));
        assert_eq!(prepared.add(3, 2), Some(2));
        assert!(!prepared.touch(2));
        assert!(prepared.touch(1) && prepared.touch(3));
    }
}
