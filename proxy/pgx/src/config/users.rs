//! The file of users and their secrets, in PgBouncer's form: a name and a secret in double quotes
//! on each line, a quote within them doubled.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use pgx_session::secret::Secret;

use crate::private;

/// Reads the file.
///
/// # Errors
/// When it cannot be read or others may read it, or a line is not what it should be; its number is
/// named, not its text.
pub(crate) fn load(path: &Path) -> Result<BTreeMap<Vec<u8>, Secret>, String> {
    let read = || -> std::io::Result<_> {
        let mut file = File::open(path)?;
        let (found, mut text) = (file.metadata()?, Vec::new());
        file.read_to_end(&mut text)?;
        Ok((found, text))
    };
    let (found, text) = read().map_err(|error| format!("cannot be read: {error}"))?;
    private::check_users(path, &found).map_err(|exposed| exposed.to_string())?;
    parse(&text)
}

fn parse(text: &[u8]) -> Result<BTreeMap<Vec<u8>, Secret>, String> {
    let mut users = BTreeMap::new();
    for (number, line) in text.split(|byte| *byte == b'\n').enumerate() {
        let line = line.trim_ascii();
        if line.is_empty() || line.starts_with(b";") || line.starts_with(b"#") {
            continue;
        }
        let read = || {
            let (name, rest) = quoted(line)?;
            let (secret, rest) = quoted(rest.trim_ascii_start())?;
            // PgBouncer ignores what follows as well.
            let _ = rest;
            Some((name, secret))
        };
        let number = number + 1;
        let (name, secret) = read().ok_or_else(|| {
            format!("line {number} is not \"user\" \"secret\", both in double quotes")
        })?;
        if users.insert(name, Secret::parse(&secret)).is_some() {
            return Err(format!("line {number} names a user for the second time"));
        }
    }
    Ok(users)
}

fn quoted(text: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut rest = text.strip_prefix(b"\"")?;
    let mut value = Vec::new();
    loop {
        let (byte, after) = rest.split_first()?;
        rest = after;
        if *byte != b'"' {
            value.push(*byte);
            continue;
        }
        match rest.strip_prefix(b"\"") {
            Some(after) => {
                value.push(b'"');
                rest = after;
            }
            None => return Some((value, rest)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_read_as_pgbouncer_reads_them() {
        let text = b"; a comment\n\"ann\" \"secret\"\n\n\"b\"\"ob\" \"md5abc\" ignored\n";
        let users = parse(text).unwrap();
        let names: Vec<_> = users.keys().map(|name| String::from_utf8_lossy(name)).collect();
        assert_eq!(names, ["ann", "b\"ob"]);
        assert!(matches!(users[&b"ann"[..]], Secret::Password(_)));
    }

    #[test]
    fn wrong_line_is_named_without_its_secret() {
        for wrong in ["ann secret", "\"ann\"", "\"ann\" \"secret"] {
            let error = parse(format!("\n{wrong}\n").as_bytes()).unwrap_err();
            assert!(error.contains("line 2") && !error.contains("secret\"\n"), "{error}");
        }
        assert!(parse(b"\"a\" \"x\"\n\"a\" \"y\"\n").is_err());
    }
}
