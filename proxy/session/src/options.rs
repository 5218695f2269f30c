//! The settings in a start-up packet's `options`: the command line of a server process.
//!
//! Source: PostgreSQL's `pg_split_opts` and `process_postgres_switches`.

use alloc::vec::Vec;

/// Reads `-c name=value` and `--name=value`; `None` if anything else is there.
pub(crate) fn parse(text: &[u8]) -> Option<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut words = split(text).into_iter();
    let mut settings = Vec::new();
    while let Some(word) = words.next() {
        let setting = if let Some(long) = word.strip_prefix(b"--") {
            long.to_vec()
        } else {
            match word.strip_prefix(b"-c")? {
                b"" => words.next()?,
                glued => glued.to_vec(),
            }
        };
        let at = setting.iter().position(|byte| *byte == b'=')?;
        // A dash in a name stands for an underscore there, and names are the same in any case.
        let letter = |byte: &u8| if *byte == b'-' { b'_' } else { byte.to_ascii_lowercase() };
        let name = setting[..at].iter().map(letter);
        settings.push((name.collect(), setting[at + 1..].to_vec()));
    }
    Some(settings)
}

/// Words between white space; a backslash takes the next byte as it is.
fn split(text: &[u8]) -> Vec<Vec<u8>> {
    let (mut words, mut word, mut has_word) = (Vec::new(), Vec::new(), false);
    let mut bytes = text.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => {
                word.extend(bytes.next());
                has_word = true;
            }
            _ if byte.is_ascii_whitespace() => {
                if core::mem::take(&mut has_word) {
                    words.push(core::mem::take(&mut word));
                }
            }
            _ => {
                word.push(*byte);
                has_word = true;
            }
        }
    }
    if has_word {
        words.push(word);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_read_in_each_form_and_with_escapes() {
        let read = |text: &str| {
            let pairs = parse(text.as_bytes())?;
            let show = |bytes: Vec<u8>| alloc::string::String::from_utf8(bytes).unwrap();
            Some(pairs.into_iter().map(|(a, b)| (show(a), show(b))).collect::<Vec<_>>())
        };
        let pair = |a: &str, b: &str| (a.into(), b.into());
        let expected = alloc::vec![pair("a", "1"), pair("b_c", "x y"), pair("d", "")];
        assert_eq!(read(r"-c a=1  --b-c=x\ y -cd="), Some(expected));
        assert_eq!(read(""), Some(alloc::vec![]));
        for bad in ["-c", "-c a", "-d 5", "a=1"] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }
}
