//! Lines of a file, and the words of a line, split where PostgreSQL splits them.
//!
//! It must not know what a word means. Quotes and commas follow `next_token` of `hba.c`, with its
//! corners: a quote may begin amid a word, and one that is not closed ends with the line.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

/// A word, and whether it was quoted from its start: then it is no keyword.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Word {
    pub(crate) text: String,
    pub(crate) is_quoted: bool,
}

impl Word {
    pub(crate) fn is_keyword(&self, keyword: &str) -> bool {
        !self.is_quoted && self.text == keyword
    }
}

/// A word as it stands in the line.
#[derive(Debug)]
pub(crate) struct Token {
    pub(crate) bytes: Vec<u8>,
    pub(crate) is_quoted: bool,
    /// A comma follows, so the next word belongs to the same field.
    pub(crate) has_next: bool,
}

/// What is left of a line.
pub(crate) struct Tokens<'a>(&'a [u8]);

impl<'a> Tokens<'a> {
    pub(crate) fn new(line: &'a [u8]) -> Self {
        Self(line)
    }

    pub(crate) fn is_at_end(&self) -> bool {
        self.0.is_empty()
    }

    /// The next word, or `None` if only blanks, commas and a comment are left.
    pub(crate) fn next_token(&mut self) -> Option<Token> {
        let start = self.0.iter().position(|&byte| !is_blank(byte) && byte != b',');
        self.0 = &self.0[start.unwrap_or(self.0.len())..];
        let mut token = Token { bytes: Vec::new(), is_quoted: false, has_next: false };
        let (mut is_inside, mut was_closed, mut has_quotes) = (false, false, false);
        let mut taken = 0;
        for &byte in self.0 {
            match byte {
                b'#' if !is_inside => {
                    taken = self.0.len();
                    break;
                }
                b',' if !is_inside => {
                    token.has_next = true;
                    break;
                }
                _ if is_blank(byte) && !is_inside => break,
                b'"' => {
                    // Two quotes within quotes are one of the text.
                    if was_closed {
                        token.bytes.push(byte);
                    }
                    was_closed = is_inside;
                    is_inside = !is_inside;
                    has_quotes = true;
                    token.is_quoted |= token.bytes.is_empty();
                }
                _ => {
                    was_closed = false;
                    token.bytes.push(byte);
                }
            }
            taken += 1;
        }
        self.0 = &self.0[taken..];
        (has_quotes || !token.bytes.is_empty()).then_some(token)
    }
}

fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r')
}

/// Takes a line off the front, with the lines that continue it, and says how many these were.
pub(crate) fn next_line(rest: &mut &[u8]) -> Option<(Vec<u8>, u32)> {
    if rest.is_empty() {
        return None;
    }
    let (mut line, mut joined_at, mut count) = (Vec::new(), 0, 0);
    while !rest.is_empty() {
        let end = rest.iter().position(|&byte| byte == b'\n');
        line.extend_from_slice(&rest[..end.unwrap_or(rest.len())]);
        *rest = end.map_or(&[], |end| &rest[end + 1..]);
        count += 1;
        while line.last() == Some(&b'\r') {
            line.pop();
        }
        // A backslash counts once: not again when an empty line follows the one that it joined.
        if line.len() <= joined_at || line.last() != Some(&b'\\') {
            break;
        }
        line.pop();
        joined_at = line.len();
    }
    Some((line, count))
}

/// Writes a word so that it is read again as the same one, with quotes only where they are needed.
pub(crate) struct Written<'a> {
    pub(crate) text: &'a str,
    /// Without quotes it would be a keyword.
    pub(crate) is_keyword: bool,
}

impl fmt::Display for Written<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_plain = |byte: u8| !is_blank(byte) && !matches!(byte, b',' | b'#' | b'"');
        let text = self.text;
        let is_list = text.starts_with('@') && text.len() > 1;
        if !self.is_keyword && !is_list && !text.is_empty() && text.bytes().all(is_plain) {
            return out.write_str(text);
        }
        write!(out, "\"{}\"", text.replace('"', "\"\""))
    }
}

#[cfg(test)]
mod tests {
    use alloc::format;
    use alloc::string::ToString;

    use super::*;

    /// The fields of a line: words by commas, a quoted one behind a `'`.
    fn fields(line: &str) -> String {
        let mut tokens = Tokens::new(line.as_bytes());
        let mut out = String::new();
        while let Some(token) = tokens.next_token() {
            let mark = if token.is_quoted { "'" } else { "" };
            let behind = if token.has_next { "," } else { " " };
            out += &format!("{mark}{}{behind}", str::from_utf8(&token.bytes).unwrap());
        }
        assert!(tokens.is_at_end() || tokens.next_token().is_none());
        out.trim_end().to_string()
    }

    #[test]
    fn words_end_where_postgresql_ends_them() {
        for (line, expected) in [
            ("", ""),
            (" \t\r", ""),
            ("# all", ""),
            ("host  all\tall", "host all all"),
            ("a,b c", "a,b c"),
            ("a, b", "a,b"),
            ("a ,b", "a b"),
            (",,a,,b,", "a,b,"),
            ("all#comment", "all"),
            ("a,#comment", "a,"),
            (r##""a b,c#d" e"##, "'a b,c#d e"),
            (r#""a""b""#, r#"'a"b"#),
            (r#"a"ll" "b"c"#, "all 'bc"),
            (r#""" x"#, "' x"),
            (r#""""" x"#, r#"'" x"#),
            (r#"a "b c"#, "a 'b c"),
            (r#"@"my list" "@all""#, "@my list '@all"),
        ] {
            assert_eq!(fields(line), expected, "{line}");
        }
    }

    #[test]
    fn backslash_joins_lines_before_anything_else_is_looked_at() {
        for (text, expected) in [
            ("a\nb", "a|b"),
            ("a\r\n\n", "a|"),
            ("a\\\nb\nc", "ab|c"),
            ("# a\\\nb\nc", "# ab|c"),
            ("a\\\r\nb", "ab"),
            ("a\\\\\n\nb", "a\\|b"),
            ("a\\", "a"),
            ("a\\\n", "a"),
            ("a\\ \nb", "a\\ |b"),
        ] {
            let (mut rest, mut lines) = (text.as_bytes(), Vec::new());
            while let Some((line, _)) = next_line(&mut rest) {
                lines.push(String::from_utf8(line).unwrap());
            }
            assert_eq!(lines.join("|"), expected, "{text:?}");
        }
        assert_eq!(next_line(&mut &b"a\\\nb\\\nc\nd"[..]).unwrap().1, 3);
    }

    #[test]
    fn words_are_quoted_only_where_they_must_be() {
        for (text, expected) in [
            ("shop", "shop"),
            ("", r#""""#),
            ("a b", r#""a b""#),
            (r#"a"b"#, r#""a""b""#),
            ("@list", r#""@list""#),
            ("@", "@"),
            (r"a\", r"a\"),
        ] {
            assert_eq!(Written { text, is_keyword: false }.to_string(), expected);
        }
    }
}
