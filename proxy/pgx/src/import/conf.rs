//! pgpool-II's form of configuration files, which is that of `postgresql.conf`: `key = value`, with
//! the sign left out if one likes, quotes, comments behind values, and `include`.

use super::Entry;
use super::file::{File, Files};

/// Reads a file and what it includes. Keys are in small letters, as their case does not matter.
///
/// # Errors
/// When one cannot be read, or a line is none of the form.
pub(super) fn read(file: &File, files: &mut Files) -> Result<Vec<Entry>, String> {
    let mut entries = Vec::new();
    read_into(file, files, &mut entries)?;
    Ok(entries)
}

fn read_into(file: &File, files: &mut Files, entries: &mut Vec<Entry>) -> Result<(), String> {
    for (number, line) in file.text.lines().enumerate() {
        let place = format!("{}:{}", file.path.display(), number + 1);
        let setting = setting(line.trim()).map_err(|problem| format!("{place}: {problem}"))?;
        match setting {
            None => {}
            Some((key, value)) if key == "include" => {
                read_into(&files.included(file, &value)?, files, entries)?;
            }
            Some((key, value)) => {
                entries.push(Entry { place, section: String::new(), key, value });
            }
        }
    }
    Ok(())
}

/// What a line sets, if it sets anything.
fn setting(line: &str) -> Result<Option<(String, String)>, String> {
    if line.is_empty() || line.starts_with('#') {
        return Ok(None);
    }
    let is_in_key = |char: char| char.is_ascii_alphanumeric() || char == '_';
    let end = line.find(|char| !is_in_key(char)).unwrap_or(line.len());
    let (key, rest) = line.split_at(end);
    if key.is_empty() {
        return Err(format!("expected key = value, found {line:?}"));
    }
    let rest = rest.trim_start();
    let rest = rest.strip_prefix('=').unwrap_or(rest).trim_start();
    let (value, behind) = match rest.strip_prefix('\'') {
        Some(inner) => quoted(inner).ok_or("a quote is not closed")?,
        None => {
            let end = rest.find(|char: char| char.is_whitespace() || char == '#');
            let (value, behind) = rest.split_at(end.unwrap_or(rest.len()));
            if value.is_empty() {
                return Err(format!("{key} has no value"));
            }
            (value.to_owned(), behind)
        }
    };
    let behind = behind.trim_start();
    if !behind.is_empty() && !behind.starts_with('#') {
        return Err(format!("{key}: {behind:?} stands behind its value"));
    }
    Ok(Some((key.to_ascii_lowercase(), value)))
}

/// What stands before the closing quote, and what behind it.
fn quoted(text: &str) -> Option<(String, &str)> {
    let (mut value, mut chars) = (String::new(), text.char_indices().peekable());
    while let Some((at, char)) = chars.next() {
        match char {
            '\'' if chars.peek().is_some_and(|(_, next)| *next == '\'') => {
                chars.next();
                value.push('\'');
            }
            '\'' => return Some((value, &text[at + 1..])),
            '\\' => {
                let (_, escaped) = chars.next()?;
                value.push(match escaped {
                    'n' => '\n',
                    't' => '\t',
                    'r' => '\r',
                    'b' => '\u{8}',
                    'f' => '\u{c}',
                    other => other,
                });
            }
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_as_postgresql_reads_its_own() {
        for (line, key, value) in [
            ("port = 9999", "port", "9999"),
            ("port 9999 # the usual one", "port", "9999"),
            ("port=9999#x", "port", "9999"),
            ("delegate_IP = ''", "delegate_ip", ""),
            (
                "a_b0 = 'it''s \\'one\\' \\\\ # no comment'  # one",
                "a_b0",
                "it's 'one' \\ # no comment",
            ),
            ("x='a\\tb'", "x", "a\tb"),
        ] {
            let expected = Some((key.to_owned(), value.to_owned()));
            assert_eq!(setting(line), Ok(expected), "{line}");
        }
        assert_eq!(setting("# port = 1"), Ok(None));
        for (line, expected) in [
            ("port", "port has no value"),
            ("port = # none", "port has no value"),
            ("port = 'x", "not closed"),
            ("port = 'x\\", "not closed"),
            ("port = 1 2", "\"2\" stands behind"),
            ("= 1", "expected key = value"),
        ] {
            assert!(setting(line).unwrap_err().contains(expected), "{line}");
        }
    }

    #[test]
    fn included_files_are_read_in_their_place() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pgpool.conf");
        std::fs::write(&path, "port = 1\ninclude = 'b.conf'\n").unwrap();
        std::fs::write(folder.path().join("b.conf"), "\nport = 2\n").unwrap();
        let mut files = Files::default();
        let file = files.first(&path).unwrap();
        let found = read(&file, &mut files).unwrap();
        let found: Vec<_> = found.iter().map(|entry| entry.value.as_str()).collect();
        assert_eq!(found, ["1", "2"]);
        std::fs::write(folder.path().join("b.conf"), "include 'b.conf'\n").unwrap();
        assert!(read(&file, &mut files).unwrap_err().contains("deep"));
    }
}
