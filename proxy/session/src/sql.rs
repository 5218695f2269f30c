//! As much of SQL as it takes to tell where a text's first statement begins and ends.
//!
//! No parser: what is none of the words that are looked for only has to be told from them.

use alloc::vec::Vec;

/// Words of a statement that are looked at. Nothing that matters has more.
const WORDS_MAX: usize = 8;

/// The words that a text's first statement begins with, in small letters, and whether the text goes
/// on behind that statement. What is no word stands there as one byte of it; of a statement that
/// has quotes, which may hide its end, nothing behind them is known, and it counts as going on.
pub(crate) fn first_statement(text: &[u8]) -> (Vec<Vec<u8>>, bool) {
    let mut rest = text.split(|byte| *byte == 0).next().unwrap_or_default();
    let mut words = Vec::new();
    loop {
        rest = skip_comments(rest);
        match rest.first() {
            None => return (words, false),
            Some(b';') if words.is_empty() => rest = &rest[1..],
            Some(b';') => return (words, !is_nothing(&rest[1..])),
            Some(_) if words.len() == WORDS_MAX => return (words, true),
            Some(first) if is_word(first) => {
                let end = rest.iter().position(|byte| !is_word(byte)).unwrap_or(rest.len());
                words.push(rest[..end].to_ascii_lowercase());
                rest = &rest[end..];
            }
            Some(other) => {
                words.push([*other].to_vec());
                if matches!(other, b'\'' | b'"' | b'$') {
                    return (words, true);
                }
                rest = &rest[1..];
            }
        }
    }
}

/// What is behind the white space and the comments that a text begins with.
pub(crate) fn skip_comments(mut text: &[u8]) -> &[u8] {
    loop {
        text = text.trim_ascii_start();
        if text.starts_with(b"--") {
            let end = text.iter().position(|byte| matches!(byte, b'\n' | b'\r'));
            text = &text[end.unwrap_or(text.len())..];
        } else if text.starts_with(b"/*") {
            // They nest.
            let (mut at, mut depth) = (2, 1);
            while depth > 0 {
                match text.get(at..at + 2) {
                    Some(b"/*") => (at, depth) = (at + 2, depth + 1),
                    Some(b"*/") => (at, depth) = (at + 2, depth - 1),
                    Some(_) => at += 1,
                    None => return b"",
                }
            }
            text = &text[at..];
        } else {
            return text;
        }
    }
}

/// Whether there is no statement.
fn is_nothing(mut text: &[u8]) -> bool {
    loop {
        text = skip_comments(text);
        match text.split_first() {
            None => return true,
            Some((b';', rest)) => text = rest,
            Some(_) => return false,
        }
    }
}

fn is_word(byte: &u8) -> bool {
    byte.is_ascii_alphanumeric() || *byte == b'_' || !byte.is_ascii()
}

#[cfg(test)]
mod tests {
    use alloc::string::String;

    use super::*;

    #[test]
    fn first_statement_is_told_from_comments_and_from_what_follows() {
        for (text, words, has_more) in [
            ("", "", false),
            (" ; -- x\n;/* y */", "", false),
            ("/* a /* b */ */ ROLLBACK -- c", "rollback", false),
            ("rollback;;\n", "rollback", false),
            ("rollback; select 1", "rollback", true),
            ("rollback to savepoint s", "rollback to savepoint s", false),
            ("select 1", "select 1", false),
            ("select 'a;b'", "select '", true),
            ("insert into t(a) values (1); x", "insert into t ( a ) values (", true),
        ] {
            let (found, more) = first_statement(text.as_bytes());
            let found: Vec<_> = found.iter().map(|word| String::from_utf8_lossy(word)).collect();
            assert_eq!((found.join(" ").as_str(), more), (words, has_more), "{text}");
        }
    }
}
