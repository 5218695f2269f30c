//! What a cluster whose `durability` is strict lets nobody set: that commits are told as done
//! before standbys have them, or that the warning is not sent by which one that has not waited is
//! known.
//!
//! No parser: a text that sets something and names one of these settings passes only if each place
//! where it does is one of few forms with a value that is high enough. That errs to the safe side;
//! literals, comments and bodies of functions count as well. A name that is put together when the
//! text runs, or comes as a parameter, is not seen: docs/PROXY.md says what that leaves out.

use alloc::vec::Vec;

use pgx_wire::{ErrorResponse, Severity, SqlState};

use crate::scan::Words;

/// Whether commits wait for standbys.
pub const COMMIT: &str = "synchronous_commit";

/// Which messages of a server its client gets.
pub const MESSAGES: &str = "client_min_messages";

/// All of these settings.
pub const NAMES: [&str; 2] = [COMMIT, MESSAGES];

/// A setting that must not be lowered.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Bounded {
    /// Its name.
    pub(crate) name: &'static str,
    /// What it is set to where it would be lower.
    pub(crate) least: &'static str,
    /// All that it may be.
    enough: &'static [&'static str],
    /// Why no more.
    why: &'static str,
}

/// These settings. Values are those that PostgreSQL has words for; `default` stands in SET alone,
/// and servers' defaults are seen to when they are opened.
pub(crate) const BOUNDED: [Bounded; 2] = [
    Bounded {
        name: COMMIT,
        least: "on",
        enough: &["on", "remote_apply", "true", "yes", "1", "default"],
        why: "commits would be told as done before standbys have them",
    },
    Bounded {
        name: MESSAGES,
        least: "warning",
        enough: &[
            "warning", "notice", "info", "log", "debug", "debug1", "debug2", "debug3", "debug4",
            "debug5", "default",
        ],
        why: "it could not be told that a commit has not waited for standbys",
    },
];

impl Bounded {
    /// Whether a value is high enough.
    pub(crate) fn allows(&self, value: &[u8]) -> bool {
        self.enough.iter().any(|word| word.as_bytes().eq_ignore_ascii_case(value))
    }

    /// What a client reads that sets it lower.
    pub(crate) fn refusal(&self, severity: Severity) -> Vec<u8> {
        let message = alloc::format!("\"{}\" cannot be set below \"{}\"", self.name, self.least);
        refused(severity, &message, self.why)
    }
}

/// What a client reads whose text has gone on before it was found to name such a setting.
pub(crate) fn refusal_by_size(bytes: usize) -> Vec<u8> {
    let message = alloc::format!(
        "a text of {bytes} bytes names \"{COMMIT}\" or \"{MESSAGES}\", and is too large to be \
         looked through"
    );
    refused(Severity::Fatal, &message, "it may set it too low")
}

fn refused(severity: Severity, message: &str, why: &str) -> Vec<u8> {
    let detail = alloc::format!("The cluster's durability is strict, and {why}.");
    let hint = "Leave it as it is; operators choose by pgx ctl edit-config --set \
                durability=available whether commits may be lost.";
    let error = ErrorResponse::new(severity, SqlState::INVALID_PARAMETER_VALUE, message);
    ErrorResponse { detail: &detail, hint, ..error }.to_bytes()
}

/// Whether a value is too low for the setting of that name, if it is one of these.
#[must_use]
pub fn is_low(name: &str, value: &str) -> bool {
    lowered_by(name.as_bytes(), value.as_bytes()).is_some()
}

/// The setting of that name, however it is written, if the value is too low for it.
pub(crate) fn lowered_by(name: &[u8], value: &[u8]) -> Option<&'static Bounded> {
    bounded(name).filter(|found| !found.allows(value))
}

/// Whether a text that hints at `words` is to be looked at.
pub(crate) fn is_suspect(words: Words) -> bool {
    words.has(Words::BOUNDED) && words.has(Words::SETTING)
}

/// A setting that a suspect text may lower.
pub(crate) fn lowered(text: &[u8]) -> Option<&'static Bounded> {
    let (mut rest, mut before) = (text, &b""[..]);
    while let Some(start) = rest.iter().position(is_word) {
        let from = &rest[start..];
        let (word, after) = split_word(from);
        if let Some(found) = bounded(word)
            && !is_harmless(found, before, after)
        {
            return Some(found);
        }
        (before, rest) = (word, after);
    }
    None
}

/// Whether a setting that is named between these is set to what it may be, or not set.
fn is_harmless(found: &Bounded, before: &[u8], after: &[u8]) -> bool {
    let after = unquoted(after);
    let value = match after.first() {
        Some(b'=' | b',') => Some(&after[1..]),
        Some(first) if is_word(first) => {
            let (word, behind) = split_word(after);
            word.eq_ignore_ascii_case(b"to").then_some(behind)
        }
        // It ends here: what stands before it says what becomes of it.
        None | Some(b';' | b')' | 0) => {
            const ASKS: [&[u8]; 3] = [b"reset", b"show", b"current_setting"];
            return ASKS.iter().any(|word| before.eq_ignore_ascii_case(word));
        }
        Some(_) => None,
    };
    value.is_some_and(|value| found.allows(split_word(unquoted(value)).0))
}

fn bounded(name: &[u8]) -> Option<&'static Bounded> {
    BOUNDED.iter().find(|each| each.name.as_bytes().eq_ignore_ascii_case(name))
}

/// What is behind white space and quotes.
fn unquoted(text: &[u8]) -> &[u8] {
    let is_mark = |byte: &u8| byte.is_ascii_whitespace() || matches!(byte, b'\'' | b'"');
    let start = text.iter().position(|byte| !is_mark(byte)).unwrap_or(text.len());
    &text[start..]
}

fn split_word(text: &[u8]) -> (&[u8], &[u8]) {
    text.split_at(text.iter().position(|byte| !is_word(byte)).unwrap_or(text.len()))
}

fn is_word(byte: &u8) -> bool {
    byte.is_ascii_alphanumeric() || *byte == b'_'
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scan::scan;

    fn look(text: &str) -> Option<&'static str> {
        let text = text.as_bytes();
        let found = is_suspect(scan(text)).then(|| lowered(text)).flatten();
        found.map(|found| found.name)
    }

    #[test]
    fn what_lowers_is_found_in_each_form() {
        for text in [
            "SET synchronous_commit = off",
            "set session synchronous_commit to 'local';",
            "SET LOCAL \"Synchronous_Commit\"=remote_write\0",
            "set synchronous_commit=0",
            "select set_config('synchronous_commit', 'off', false)",
            "select set_config('synchronous_commit', $1, true)",
            "begin; insert into t values (1); set local synchronous_commit = off; commit",
            "alter role ann set synchronous_commit = off",
            "ALTER SYSTEM SET synchronous_commit TO off",
            "alter database shop set synchronous_commit from current",
            "create function f() returns int language sql set synchronous_commit = off as 'x'",
            "do $$ begin set local synchronous_commit = off; end $$",
            "update pg_settings set setting = 'off' where name = 'synchronous_commit'",
            "set synchronous_commit /* = on */ = off",
            "set synchronous_commit = /* on */ off",
            "set -- reset\n synchronous_commit = off",
            "set /* reset */ synchronous_commit -- a\n= off",
            "set synchronous_commit = on; set synchronous_commit = off",
            "set synchronous_commit = on_or_so",
        ] {
            assert_eq!(look(text), Some("synchronous_commit"), "{text}");
        }
        for text in [
            "set client_min_messages = error",
            "SET client_min_messages TO 'PANIC'",
            "select set_config('client_min_messages', 'fatal', true)",
        ] {
            assert_eq!(look(text), Some("client_min_messages"), "{text}");
        }
    }

    #[test]
    fn what_is_high_enough_or_sets_nothing_passes() {
        for text in [
            "set synchronous_commit = on",
            "SET LOCAL synchronous_commit TO 'remote_apply'; select 1",
            "set synchronous_commit to default",
            "reset synchronous_commit",
            "RESET \"synchronous_commit\";",
            "show synchronous_commit",
            "set a = 1; show synchronous_commit",
            "select set_config('synchronous_commit', 'on', false)",
            "select set_config('a', current_setting('synchronous_commit'), false)",
            "select setting from pg_settings where name = 'synchronous_commit'",
            "set client_min_messages = warning",
            "SET client_min_messages TO 'DEBUG1'",
            "set work_mem = 1",
            "insert into docs values ('synchronous_commit = off')",
        ] {
            assert_eq!(look(text), None, "{text}");
        }
    }

    #[test]
    fn start_up_values_are_judged_by_name_in_any_case() {
        let name = |name: &str, value: &str| {
            lowered_by(name.as_bytes(), value.as_bytes()).map(|found| found.name)
        };
        assert_eq!(name("Synchronous_Commit", "OFF"), Some("synchronous_commit"));
        assert_eq!(name("synchronous_commit", "Remote_Apply"), None);
        assert_eq!(name("client_min_messages", "error"), Some("client_min_messages"));
        assert_eq!(name("work_mem", "off"), None);
    }
}
