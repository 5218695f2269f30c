//! What texts leave on servers, and what of it can follow a client to another.

use alloc::vec::Vec;

use pgx_wire::{ErrorResponse, Severity, SqlState};

use crate::limits::COLLECT_BYTES_MAX;
use crate::scan::Words;
use crate::server::Server;
use crate::settings::Settings;
use crate::sql::{first_statement, skip_comments};

/// What a text hints at counts for its server from here on; the text itself is known if it came
/// whole.
pub(super) fn note(server: &mut Server, words: Words, text: Option<&[u8]>) {
    server.words = server.words.and(words);
    if words.has(Words::DISCARD.and(Words::PREPARED)) {
        server.prepared.doubt();
    }
    server.is_kept |= stays(words, text, &server.reported).is_some();
}

/// Whether a query may commit within a block: by ending it, or by what follows its being undone.
pub(super) fn ends(words: Words, text: Option<&[u8]>) -> bool {
    let is_alone = |text: &[u8]| !first_statement(text).1;
    words.has(Words::ENDS) || words.has(Words::UNDOES) && !text.is_some_and(is_alone)
}

/// The same of a simple query. One that only clears what a session may have leaves nothing: pools
/// of drivers send such a query whenever a connection comes back to them. `is_alone` says that the
/// client has no transaction, and awaits no other answer.
pub(super) fn note_query(server: &mut Server, words: Words, text: Option<&[u8]>, is_alone: bool) {
    match text.filter(|text| is_alone && is_clearing(text)) {
        Some(_) if words.has(Words::SETTING) => server.words = server.words.and(Words::RESETS),
        Some(_) => {}
        None => note(server, words, text),
    }
}

/// Whether all statements of a text take away what a session may have, and none can fail.
pub(super) fn is_clearing(text: &[u8]) -> bool {
    const CLEARING: [&[u8]; 5] = [
        b"select pg_advisory_unlock_all()",
        b"select pg_catalog.pg_advisory_unlock_all()",
        b"close all",
        b"unlisten *",
        b"reset all",
    ];
    let text = text.split(|byte| *byte == 0).next().unwrap_or_default();
    let statements = text.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
    let mut statements = statements.filter(|statement| !statement.is_empty()).peekable();
    statements.peek().is_some()
        && statements.all(|statement| {
            let words = statement.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
            let plain = words.collect::<Vec<_>>().join(&b' ').to_ascii_lowercase();
            CLEARING.contains(&&plain[..])
        })
}

/// What a text leaves on its server that cannot follow its client, as clients know it.
pub(super) fn stays(
    words: Words,
    text: Option<&[u8]>,
    reported: &Settings,
) -> Option<&'static str> {
    const KINDS: [(Words, &str); 5] = [
        (Words::LISTEN, "LISTEN"),
        (Words::TEMPORARY, "a temporary table"),
        (Words::LOCK, "a session advisory lock"),
        (Words::HOLD, "a cursor WITH HOLD"),
        (Words::LOAD, "LOAD"),
    ];
    if let Some((_, what)) = KINDS.iter().find(|(kind, _)| words.has(*kind)) {
        return Some(what);
    }
    let leaves_more = words.has(Words::PREPARED.and(Words::SETTING));
    if !leaves_more || text.is_some_and(|text| is_tracked(text, reported)) {
        return None;
    }
    let is_statement = words.has(Words::PREPARED);
    Some(if is_statement { "PREPARE in SQL" } else { "a setting that servers do not report" })
}

/// What a client reads whose text would leave something on a server that others use after it.
pub(super) fn refusal(what: &str) -> Vec<u8> {
    let message = alloc::format!("{what} is not possible on a server that clients share");
    let hint = "Use session mode, or a database whose pool_mode is session.";
    let state = SqlState::FEATURE_NOT_SUPPORTED;
    ErrorResponse { hint, ..ErrorResponse::new(Severity::Error, state, &message) }.to_bytes()
}

/// The same, if it cannot be told what the text would leave.
pub(super) fn refusal_by_size(bytes: usize) -> Vec<u8> {
    let message = alloc::format!(
        "a text of {bytes} bytes is too large to be looked through for what stays on a server"
    );
    let hint = alloc::format!(
        "Send at most {COLLECT_BYTES_MAX} bytes, with values as parameters or by COPY, or use \
         session mode, or a database whose pool_mode is session."
    );
    let state = SqlState::FEATURE_NOT_SUPPORTED;
    let error = ErrorResponse::new(Severity::Error, state, &message);
    ErrorResponse { hint: &hint, ..error }.to_bytes()
}

/// Whether a text sets nothing but settings that servers report, or those of its transaction: then
/// the proxy carries them to other servers, or there is nothing to carry. The words that led here
/// may be about something else.
///
/// Where a text is taken apart at a semicolon that is in a literal, what is behind it is judged as
/// a statement, too: that only errs by finding too much.
fn is_tracked(text: &[u8], reported: &Settings) -> bool {
    let text = text.split(|byte| *byte == 0).next().unwrap_or_default();
    let text = skip_comments(text).trim_ascii_end();
    let text = text.strip_suffix(b";").unwrap_or(text);
    if !text.contains(&b';') {
        return is_tracked_statement(text, reported);
    }
    // A comment could hide where a statement begins.
    let has_comment = text.windows(2).any(|at| at == b"--" || at == b"/*");
    let mut statements = text.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
    !has_comment
        && statements.all(|one| {
            one.is_empty() || is_of_its_transaction(one) || is_tracked_statement(one, reported)
        })
}

/// Whether a statement leaves nothing behind, or what ends with its transaction.
fn is_of_its_transaction(statement: &[u8]) -> bool {
    const VERBS: [&[u8]; 11] = [
        b"begin",
        b"start",
        b"commit",
        b"end",
        b"rollback",
        b"abort",
        b"savepoint",
        b"release",
        b"select",
        b"delete",
        b"values",
    ];
    let end = statement.iter().position(|byte| !byte.is_ascii_alphabetic());
    let verb = &statement[..end.unwrap_or(statement.len())];
    VERBS.iter().any(|known| known.eq_ignore_ascii_case(verb)) && !has_set_config(statement)
}

fn has_set_config(text: &[u8]) -> bool {
    text.to_ascii_lowercase().windows(10).any(|at| at == b"set_config")
}

fn is_tracked_statement(text: &[u8], reported: &Settings) -> bool {
    let is_word = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.');
    let mut words = text.split(|byte| !is_word(byte)).filter(|word| !word.is_empty());
    let mut next = || words.next().unwrap_or_default().to_ascii_lowercase();
    let verb = next();
    let has_comment = text.windows(2).any(|at| at == b"--" || at == b"/*");
    if has_comment && matches!(verb.as_slice(), b"set" | b"reset" | b"prepare") {
        // Its words are not the statement's.
        return false;
    }
    let mut first = next();
    if verb == b"set" && first == b"session" {
        first = next();
    }
    match (verb.as_slice(), first.as_slice()) {
        (b"set", b"local" | b"transaction" | b"constraints") => true,
        (b"prepare", b"transaction") => true,
        // It takes away.
        (b"deallocate", _) => true,
        // These set columns, or what others will begin with.
        (b"update" | b"insert" | b"merge" | b"with" | b"create" | b"alter", _) => {
            !has_set_config(text)
        }
        (b"set", b"names") => true,
        (b"set" | b"reset", b"time") => next() == b"zone",
        (b"set" | b"reset", name) => {
            // These name who acts, which a client must not hand on.
            !matches!(name, b"role" | b"session_authorization" | b"authorization" | b"is_superuser")
                && reported.values().keys().any(|known| known.eq_ignore_ascii_case(name))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_that_only_clears_a_session_is_known_and_no_other_is_taken_for_one() {
        for text in [
            "SELECT pg_advisory_unlock_all();\nCLOSE ALL;\nUNLISTEN *;\nRESET ALL;",
            "reset  all",
            "unlisten *;;\0",
        ] {
            assert!(is_clearing(text.as_bytes()), "{text}");
        }
        for text in [
            "",
            ";",
            "reset all; discard all",
            "reset work_mem",
            "close all -- a",
            "select 1; reset all",
        ] {
            assert!(!is_clearing(text.as_bytes()), "{text}");
        }
    }

    #[test]
    fn settings_that_servers_report_or_that_end_with_the_transaction_are_carried() {
        let mut reported = Settings::default();
        for name in [&b"DateStyle"[..], b"TimeZone", b"client_encoding", b"is_superuser"] {
            reported.put(name, b"");
        }
        let is = |text: &str| is_tracked(text.as_bytes(), &reported);
        for text in [
            "set datestyle = iso",
            "SET SESSION DateStyle TO 'German';",
            "set time zone 'UTC'",
            "set names 'utf8'",
            "set local work_mem = 1",
            "reset timezone",
            "update t set a = 1",
            "SET TRANSACTION READ ONLY",
            "prepare transaction 'x'",
            "deallocate all",
            "create trigger t after insert on t execute function f()",
            "/* a /* set */ */ -- set\n update t set a = 1 -- b",
            "BEGIN; update t set a = a - 1 where b = 'x'; update t set a = 2;; COMMIT;",
            "set datestyle = iso; select 1",
            "begin; set local work_mem = 1; insert into t values (1); end",
        ] {
            assert!(is(text), "{text}");
        }
        for text in [
            "set work_mem = 1",
            "set role ann",
            "set session authorization ann",
            "set datestyle = iso; set work_mem = 1",
            "select set_config('a.b', '1', false)",
            "update t set a = set_config('a.b', '1', false)",
            "reset all",
            "set time",
            "-- set local\nset role ann",
            "/* update */ set role ann",
            "set /* local */ role ann",
            "set -- local\n role ann",
            "/* update",
            "begin; update t set a = 1; set work_mem = 1; commit",
            "begin; select set_config('a.b', '1', false); commit",
            "begin; /* a; */ set role ann; commit",
            "begin; -- a\n set role ann; commit",
            "update t set a = ';set role ann;'; commit",
            "do $$ begin perform 1; end $$; update t set a = 1",
            "begin; prepare p as select 1; commit",
        ] {
            assert!(!is(text), "{text}");
        }
    }
}
