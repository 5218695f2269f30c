//! Looks for words in SQL text that hint at state which would stay on a server.
//!
//! No parser: a word in a literal or a comment counts as well. That errs to the safe side, since
//! what follows from a word is a closer look or a server that is kept. The text may come in pieces
//! of any size; the cost is a few instructions a byte, and no memory.

/// Kinds of state that a text may leave on a server, and what else of it matters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Words(u16);

impl Words {
    /// Settings: SET, RESET, set_config.
    pub(crate) const SETTING: Self = Self(1);
    /// Statements prepared in SQL: PREPARE, EXECUTE, DEALLOCATE.
    pub(crate) const PREPARED: Self = Self(1 << 1);
    /// LISTEN, UNLISTEN.
    pub(crate) const LISTEN: Self = Self(1 << 2);
    /// Temporary tables.
    pub(crate) const TEMPORARY: Self = Self(1 << 3);
    /// Advisory locks of a session.
    pub(crate) const LOCK: Self = Self(1 << 4);
    /// Cursors that outlive their transaction.
    pub(crate) const HOLD: Self = Self(1 << 5);
    /// Libraries: LOAD.
    pub(crate) const LOAD: Self = Self(1 << 6);
    /// DISCARD.
    pub(crate) const DISCARD: Self = Self(1 << 7);
    /// What may end a transaction block other than by undoing it. What follows such a statement, or
    /// one of the next kind, is not within the block.
    pub(crate) const ENDS: Self = Self(1 << 8);
    /// What undoes a transaction block: ROLLBACK, ABORT.
    pub(crate) const UNDOES: Self = Self(1 << 11);
    /// What changes tables or types: CREATE, ALTER, DROP.
    pub(crate) const CHANGES: Self = Self(1 << 9);
    /// RESET ALL in a text that does nothing but clear a session.
    pub(crate) const RESETS: Self = Self(1 << 10);
    /// The name of a setting that clusters may bound: see [`crate::strict`].
    pub(crate) const BOUNDED: Self = Self(1 << 12);

    /// Whether any of `others` was seen.
    pub(crate) fn has(self, others: Self) -> bool {
        self.0 & others.0 != 0
    }

    /// Those of the first that are not among `others`.
    pub(crate) const fn without(self, others: Self) -> Self {
        Self(self.0 & !others.0)
    }

    /// Those of both.
    pub(crate) const fn and(self, others: Self) -> Self {
        Self(self.0 | others.0)
    }
}

/// The longest word that is looked for.
const WORD_BYTES_MAX: usize = 32;

/// A scan over one text.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scan {
    word: [u8; WORD_BYTES_MAX],
    /// Bytes of the word so far; more than the longest means none of ours.
    length: usize,
    found: Words,
}

impl Default for Scan {
    fn default() -> Self {
        Self { word: [0; WORD_BYTES_MAX], length: 0, found: Words::default() }
    }
}

impl Scan {
    /// Looks at the next piece.
    pub(crate) fn feed(&mut self, piece: &[u8]) {
        for &byte in piece {
            if is_word(byte) {
                if let Some(place) = self.word.get_mut(self.length) {
                    *place = byte | 0x20;
                }
                self.length += 1;
            } else if self.length > 0 {
                self.end_word();
            }
        }
    }

    /// What was found by the end of the text.
    pub(crate) fn end(mut self) -> Words {
        self.end_word();
        self.found
    }

    fn end_word(&mut self) {
        if let Some(word) = self.word.get(..self.length) {
            self.found = self.found.and(classify(word));
        }
        self.length = 0;
    }
}

/// Looks at a whole text.
pub(crate) fn scan(text: &[u8]) -> Words {
    let mut scan = Scan::default();
    scan.feed(text);
    scan.end()
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// Lower case, where `_` has become DEL by the bit that makes letters small.
fn classify(word: &[u8]) -> Words {
    // Almost every word ends here.
    if !matches!(
        word.first(),
        Some(b'a' | b'c' | b'd' | b'e' | b'h' | b'l' | b'p' | b'r' | b's' | b't' | b'u')
    ) {
        return Words::default();
    }
    match word {
        b"set" | b"reset" | b"set\x7fconfig" => Words::SETTING,
        b"prepare" => Words::PREPARED.and(Words::ENDS),
        b"execute" | b"deallocate" => Words::PREPARED,
        b"commit" | b"end" => Words::ENDS,
        b"rollback" | b"abort" => Words::UNDOES,
        b"listen" | b"unlisten" => Words::LISTEN,
        b"temp" | b"temporary" => Words::TEMPORARY,
        b"hold" => Words::HOLD,
        b"load" => Words::LOAD,
        b"discard" => Words::DISCARD,
        b"create" | b"alter" | b"drop" => Words::CHANGES,
        b"synchronous\x7fcommit" | b"client\x7fmin\x7fmessages" => Words::BOUNDED,
        _ if word.starts_with(b"pg\x7ftemp") => Words::TEMPORARY,
        // Those of a transaction (…_xact_…) end with it.
        _ if is_lock(word) => Words::LOCK,
        _ => Words::default(),
    }
}

fn is_lock(word: &[u8]) -> bool {
    matches!(
        word,
        b"pg\x7fadvisory\x7flock"
            | b"pg\x7fadvisory\x7flock\x7fshared"
            | b"pg\x7ftry\x7fadvisory\x7flock"
            | b"pg\x7ftry\x7fadvisory\x7flock\x7fshared"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_statements_hint_at_nothing() {
        for text in [
            "select abalance from pgbench_accounts where aid = 7",
            "insert into sets (reset_at, prepared) values ('2020-01-01', true)",
            "select pg_advisory_xact_lock(1)",
            "begin; update a set_b = 1",
        ] {
            assert_eq!(scan(text.as_bytes()), Words::default(), "{text}");
        }
    }

    #[test]
    fn state_is_noticed_in_any_case_and_wherever_the_text_is_cut() {
        let cases = [
            ("SET search_path = a", Words::SETTING),
            ("select set_config('a.b', '1', false)", Words::SETTING),
            ("reset all", Words::SETTING),
            ("EXECUTE p(1)", Words::PREPARED),
            ("prepare p as select 1", Words::PREPARED.and(Words::ENDS)),
            ("COMMIT and chain", Words::ENDS),
            ("Rollback to s", Words::UNDOES),
            ("LISTEN c", Words::LISTEN),
            ("create temp table x()", Words::TEMPORARY.and(Words::CHANGES)),
            ("create table pg_temp.x()", Words::TEMPORARY.and(Words::CHANGES)),
            ("ALTER TABLE x ADD y int", Words::CHANGES),
            ("drop type x", Words::CHANGES),
            ("select pg_try_advisory_lock(1)", Words::LOCK),
            ("declare c cursor with hold for select 1", Words::HOLD),
            ("discard all", Words::DISCARD),
            ("load 'auto_explain'", Words::LOAD),
            ("show Synchronous_Commit", Words::BOUNDED),
            ("set client_min_messages to error", Words::BOUNDED.and(Words::SETTING)),
        ];
        for (text, expected) in cases {
            for cut in 0..=text.len() {
                let mut scan = Scan::default();
                scan.feed(&text.as_bytes()[..cut]);
                scan.feed(&text.as_bytes()[cut..]);
                assert_eq!(scan.end(), expected, "{text} cut at {cut}");
            }
        }
    }

    #[test]
    fn word_that_is_longer_than_any_of_ours_is_none_of_ours() {
        let long = [b's'; 200];
        assert_eq!(scan(&long), Words::default());
    }
}
