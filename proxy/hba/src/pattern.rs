//! Regular expressions, as far as PostgreSQL's and ours mean the same.
//!
//! Matching takes linear time, so there are no back references and no looking around. What both
//! would take but read differently is refused, never matched by the other meaning: these words say
//! who gets in. PostgreSQL's classes are ASCII here (it matches by the C collation), and `.` takes
//! any character.

use alloc::string::{String, ToString};
use core::iter::Peekable;
use core::str::Chars;

use regex::bytes::{Regex, RegexBuilder};

use crate::limits;

/// The classes of both. Any other name is for the library a set of its letters.
const CLASSES: &[&str] = &[
    "alnum", "alpha", "blank", "cntrl", "digit", "graph", "lower", "print", "punct", "space",
    "upper", "word", "xdigit",
];

/// A regular expression and its text, without the slash before it.
#[derive(Clone, Debug)]
pub struct Pattern {
    text: String,
    regex: Regex,
    /// Whether groups match the same part of a name in PostgreSQL, see [`translate`].
    is_certain: bool,
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Pattern {}

/// Why a regular expression is refused, and how to write it instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say what they are")]
pub enum Fault {
    #[error("it has more than {} bytes; make two of it", limits::PATTERN_BYTES_MAX)]
    TooLong,
    #[error(
        "it needs more than {} bytes when compiled; repeat less",
        limits::PATTERN_COMPILED_BYTES_MAX
    )]
    TooLarge,
    #[error(
        "\\{0} is not matched by pgx; it knows \\d, \\s, \\w, \\D, \\S, \\W (small ones within \
         brackets) and \\ before what is neither letter nor digit"
    )]
    Escape(char),
    #[error("(? is not matched by pgx, but for (?:; write both cases as [aA], and what is wanted")]
    Special,
    #[error("{{ begins a repetition as {{2,5}}; write \\{{ for the brace itself")]
    Brace,
    #[error("[ within brackets begins a class as [:alpha:]; write \\[ for the bracket itself")]
    Nested,
    #[error("{0}{0} within brackets; write {0} once, and as \\{0} if it stands for itself")]
    Doubled(char),
    #[error("a range within brackets ends in a class; write \\- for the sign itself")]
    RangeToClass,
    #[error("{0}; mend it")]
    Invalid(String),
}

impl Pattern {
    /// Compiles it.
    pub(crate) fn new(text: &str) -> Result<Self, Fault> {
        if text.len() > limits::PATTERN_BYTES_MAX {
            return Err(Fault::TooLong);
        }
        let (translated, is_certain) = translate(text)?;
        let regex = RegexBuilder::new(&translated)
            .dot_matches_new_line(true)
            .size_limit(limits::PATTERN_COMPILED_BYTES_MAX)
            .build()
            .map_err(|error| match error {
                regex::Error::CompiledTooBig(_) => Fault::TooLarge,
                // The text shows the place first, in several lines.
                error => {
                    let text = error.to_string();
                    let reason = text.rsplit_once("error: ").map_or(&text[..], |(_, last)| last);
                    Fault::Invalid(reason.to_string())
                }
            })?;
        Ok(Self { text: text.to_string(), regex, is_certain })
    }

    /// The text, without the slash.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether it matches anywhere in a name, as PostgreSQL has it: `^` and `$` tie it down.
    #[must_use]
    pub fn is_match(&self, name: &[u8]) -> bool {
        self.regex.is_match(name)
    }

    /// Whether its first group matches the same part of a name as in PostgreSQL.
    pub(crate) fn is_certain(&self) -> bool {
        self.is_certain
    }

    /// Whether there is something that a `\1` elsewhere can stand for.
    pub(crate) fn has_group(&self) -> bool {
        self.regex.captures_len() > 1
    }

    /// What the first group matched, if the expression does match.
    pub(crate) fn first_group<'a>(&self, name: &'a [u8]) -> Option<&'a [u8]> {
        self.regex.captures(name)?.get(1).map(|group| group.as_bytes())
    }
}

/// The same expression in the words of the library, and whether its groups match the same.
///
/// PostgreSQL takes the longest match of all and the library the first, so groups are sure only
/// where a name can be matched in one way, but for how much each repetition takes: between `^` and
/// `$`, without alternatives, without groups that are repeated, and without repetitions that take
/// as little as they can.
fn translate(text: &str) -> Result<(String, bool), Fault> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text.chars().peekable();
    let (mut is_certain, mut last) = (text.starts_with('^'), ' ');
    while let Some(next) = rest.next() {
        let is_repetition = matches!(next, '*' | '+' | '?' | '{');
        is_certain &= next != '|';
        is_certain &= !is_repetition || !matches!(last, ')' | '*' | '+' | '?' | '}');
        match next {
            '\\' => match rest.next() {
                Some('d') => out.push_str("[[:digit:]]"),
                Some('s') => out.push_str("[[:space:]]"),
                Some('w') => out.push_str("[[:alnum:]_]"),
                Some('D') => out.push_str("[^[:digit:]]"),
                Some('S') => out.push_str("[^[:space:]]"),
                Some('W') => out.push_str("[^[:alnum:]_]"),
                other => literal(other, &mut out)?,
            },
            '[' => bracket(&mut rest, &mut out)?,
            '(' if rest.next_if_eq(&'?').is_some() => {
                rest.next_if_eq(&':').ok_or(Fault::Special)?;
                out.push_str("(?:");
            }
            '{' if !rest.peek().is_some_and(char::is_ascii_digit) => return Err(Fault::Brace),
            _ => out.push(next),
        }
        last = next;
    }
    // What was escaped stands behind its backslash, so this is the sign for the end.
    Ok((out, is_certain && last == '$'))
}

/// What follows an opening bracket, up to the one that closes it.
fn bracket(rest: &mut Peekable<Chars<'_>>, out: &mut String) -> Result<(), Fault> {
    out.push('[');
    out.extend(rest.next_if_eq(&'^'));
    let (mut is_first, mut is_range) = (true, false);
    loop {
        let next = rest.next().ok_or_else(|| Fault::Invalid("unclosed brackets".to_string()))?;
        let begins_class = match next {
            '[' => true,
            '\\' => matches!(rest.peek(), Some('d' | 's' | 'w')),
            _ => false,
        };
        if is_range && begins_class {
            return Err(Fault::RangeToClass);
        }
        match next {
            ']' if is_first => out.push_str("\\]"),
            ']' => {
                out.push(']');
                return Ok(());
            }
            '[' => class(rest, out)?,
            '\\' => match rest.next() {
                Some('d') => out.push_str("[:digit:]"),
                Some('s') => out.push_str("[:space:]"),
                Some('w') => out.push_str("[:alnum:]_"),
                other => literal(other, out)?,
            },
            '-' | '&' | '~' if rest.peek() == Some(&next) => return Err(Fault::Doubled(next)),
            _ => out.push(next),
        }
        is_range = next == '-' && !is_first;
        is_first = false;
    }
}

/// What follows the opening bracket of a class as `[:alpha:]`.
fn class(rest: &mut Peekable<Chars<'_>>, out: &mut String) -> Result<(), Fault> {
    rest.next_if_eq(&':').ok_or(Fault::Nested)?;
    let mut name = String::new();
    while let Some(letter) = rest.next_if(char::is_ascii_lowercase) {
        name.push(letter);
    }
    let is_closed = rest.next_if_eq(&':').is_some() && rest.next_if_eq(&']').is_some();
    if !is_closed || !CLASSES.contains(&&name[..]) {
        return Err(Fault::Nested);
    }
    out.push_str("[:");
    out.push_str(&name);
    out.push_str(":]");
    Ok(())
}

/// A character behind a backslash, which stands for itself.
fn literal(escaped: Option<char>, out: &mut String) -> Result<(), Fault> {
    match escaped {
        None => Err(Fault::Invalid("a backslash at the end".to_string())),
        Some(letter) if letter.is_alphanumeric() => Err(Fault::Escape(letter)),
        Some(sign) => {
            out.push_str(&regex::escape(sign.encode_utf8(&mut [0; 4])));
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_match(pattern: &str, name: &str) -> bool {
        let pattern = Pattern::new(pattern).unwrap_or_else(|fault| panic!("{pattern}: {fault}"));
        pattern.is_match(name.as_bytes())
    }

    #[test]
    fn patterns_match_what_they_match_in_postgresql() {
        for (pattern, yes, no) in [
            ("", "a", None),
            ("b", "abc", Some("ac")),
            ("^b", "bc", Some("abc")),
            ("^b$", "b", Some("b\n")),
            ("^(a|b.)$", "bx", Some("b")),
            ("^.$", "ä", Some("äb")),
            ("^.$", "\n", None),
            (r"^db\d{1,3}$", "db17", Some("db1234")),
            (r"^\w+$", "a_1", Some("ä")),
            (r"^\W$", "ä", Some("_")),
            (r"^[\w.-]+$", "a.b-c", Some("a b")),
            (r"^[^\d]+$", "ab", Some("a1")),
            ("^[]a]+$", "]a", Some("b")),
            ("^[^]a]$", "b", Some("]")),
            ("^[-a]+$", "a-", Some("b")),
            ("^[a-]+$", "a-", Some("b")),
            ("^[[:upper:]_]+$", "A_", Some("a")),
            (r"^a\.b\<\_\-$", "a.b<_-", Some("axb<_-")),
            (r"^[\]\[\\^]+$", "[\\]^", Some("a")),
            ("^a{2}$", "aa", Some("a")),
            ("^a+?$", "aa", Some("b")),
            ("^(?:ab)*$", "abab", Some("aba")),
        ] {
            assert!(is_match(pattern, yes), "{pattern} must match {yes:?}");
            assert!(no.is_none_or(|no| !is_match(pattern, no)), "{pattern} must not match {no:?}");
        }
    }

    #[test]
    fn what_would_be_read_differently_is_refused() {
        for (pattern, fault) in [
            (r"\bshop\b", Fault::Escape('b')),
            (r"(a)\1", Fault::Escape('1')),
            (r"\x41", Fault::Escape('x')),
            (r"[\D]", Fault::Escape('D')),
            ("(?i)shop", Fault::Special),
            ("a(?=b)", Fault::Special),
            ("(?<n>a)", Fault::Special),
            ("a{,5}", Fault::Brace),
            ("a{x}", Fault::Brace),
            ("[[a]]", Fault::Nested),
            ("[[:^alpha:]]", Fault::Nested),
            ("[[:none:]]", Fault::Nested),
            ("[[:alpha]]", Fault::Nested),
            ("[[.a.]]", Fault::Nested),
            ("[a&&b]", Fault::Doubled('&')),
            ("[+--]", Fault::Doubled('-')),
            ("[a~~b]", Fault::Doubled('~')),
            (r"[!-\d]", Fault::RangeToClass),
            ("[!-[:digit:]]", Fault::RangeToClass),
        ] {
            assert_eq!(Pattern::new(pattern).err(), Some(fault), "{pattern}");
        }
        for pattern in ["(", ")", "*a", "[a", "[]", "[b-a]", "\\", "***=a", "a{3,2}"] {
            let fault = Pattern::new(pattern).expect_err(pattern);
            assert!(matches!(&fault, Fault::Invalid(text) if !text.contains('\n')), "{fault}");
        }
    }

    #[test]
    fn patterns_that_cost_too_much_are_refused() {
        let long = "a".repeat(limits::PATTERN_BYTES_MAX + 1);
        assert_eq!(Pattern::new(&long).err(), Some(Fault::TooLong));
        assert_eq!(Pattern::new("((a{100}){100}){100}").err(), Some(Fault::TooLarge));
        let nested = "(".repeat(500) + &")".repeat(500);
        assert!(Pattern::new(&nested).is_err());
        assert!(Pattern::new(r"^[\w.+-]{1,63}@[\w.-]{1,63}$").is_ok());
        // As slow as it gets where matching is not linear.
        let name = "a".repeat(limits::NAME_BYTES_MAX) + "!";
        assert!(!is_match("^((a+)+)+$", &name));
    }
}
