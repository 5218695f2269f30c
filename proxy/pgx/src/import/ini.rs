//! PgBouncer's form of configuration files: sections, `key = value`, `%include`, and connection
//! strings as values.

use super::Entry;
use super::file::{File, Files};

/// Reads a file and what it includes.
///
/// # Errors
/// When one cannot be read, or a line is none of the form.
pub(super) fn read(file: &File, files: &mut Files) -> Result<Vec<Entry>, String> {
    let (mut entries, mut section) = (Vec::new(), String::new());
    read_into(file, files, &mut entries, &mut section)?;
    Ok(entries)
}

fn read_into(
    file: &File,
    files: &mut Files,
    entries: &mut Vec<Entry>,
    section: &mut String,
) -> Result<(), String> {
    let name = file.path.display();
    for (number, line) in file.text.lines().enumerate() {
        let place = format!("{name}:{}", number + 1);
        let line = line.trim();
        if line.is_empty() || line.starts_with(';') || line.starts_with('#') {
            continue;
        }
        if let Some(included) = line.strip_prefix("%include") {
            let included = files.included(file, included.trim())?;
            read_into(&included, files, entries, section)?;
        } else if let Some(name) = line.strip_prefix('[') {
            let name = name.strip_suffix(']').ok_or(format!("{place}: a section without its ]"))?;
            *section = name.trim().to_owned();
        } else {
            let (key, value) =
                line.split_once('=').ok_or(format!("{place}: expected key = value"))?;
            let key = unquoted(key.trim());
            let (section, value) = (section.clone(), value.trim().to_owned());
            entries.push(Entry { place, section, key, value });
        }
    }
    Ok(())
}

/// A database's name may stand in double quotes.
fn unquoted(key: &str) -> String {
    match key.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        Some(inner) => inner.replace("\"\"", "\""),
        None => key.to_owned(),
    }
}

/// The pairs of a connection string: `key=value` with white space between, values in single quotes
/// if need be, quotes in them doubled.
///
/// # Errors
/// When something is no pair; it is named.
pub(super) fn pairs(text: &str) -> Result<Vec<(String, String)>, String> {
    let (mut pairs, mut rest) = (Vec::new(), text.trim_start());
    while !rest.is_empty() {
        let (key, after) =
            rest.split_once('=').ok_or(format!("expected key=value, found {rest:?}"))?;
        let after = after.trim_start();
        let (value, behind) = match after.strip_prefix('\'') {
            Some(quoted) => quoted_value(quoted)?,
            None => {
                let end = after.find(char::is_whitespace).unwrap_or(after.len());
                (after[..end].to_owned(), &after[end..])
            }
        };
        pairs.push((key.trim().to_owned(), value));
        rest = behind.trim_start();
    }
    Ok(pairs)
}

fn quoted_value(text: &str) -> Result<(String, &str), String> {
    let (mut value, mut rest) = (String::new(), text);
    loop {
        let (part, after) = rest.split_once('\'').ok_or("a quote is not closed")?;
        value.push_str(part);
        match after.strip_prefix('\'') {
            Some(after) => {
                value.push('\'');
                rest = after;
            }
            None => return Ok((value, after)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_with_what_they_include() {
        let read = |path: &std::path::Path| {
            let mut files = Files::default();
            read(&files.first(path)?, &mut files)
        };
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.ini");
        let text = "; x\n[databases]\n\"a\"\"b\" = host=x\n%include b.ini\n";
        std::fs::write(&path, text).unwrap();
        std::fs::write(folder.path().join("b.ini"), "# y\n[pgbouncer]\npool_mode = session\n")
            .unwrap();
        let found = read(&path).unwrap();
        let found: Vec<_> =
            found.iter().map(|e| (e.section.as_str(), e.key.as_str(), e.value.as_str())).collect();
        let expected = [("databases", "a\"b", "host=x"), ("pgbouncer", "pool_mode", "session")];
        assert_eq!(found, expected);
        std::fs::write(folder.path().join("b.ini"), "%include b.ini\n").unwrap();
        assert!(read(&path).unwrap_err().contains("deep"));
        std::fs::write(&path, "nonsense\n").unwrap();
        assert!(read(&path).unwrap_err().contains("a.ini:1"));
    }

    #[test]
    fn connection_strings_are_read_with_their_quotes() {
        let found = pairs("host=a  port = 5 password='it''s one' x=").unwrap();
        let expected = [("host", "a"), ("port", "5"), ("password", "it's one"), ("x", "")];
        assert_eq!(found, expected.map(|(a, b)| (a.to_owned(), b.to_owned())));
        assert!(pairs("").unwrap().is_empty());
        assert!(pairs("host").is_err() && pairs("a='b").is_err());
    }
}
