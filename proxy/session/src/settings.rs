//! Settings of sessions that move between servers.
//!
//! A client's settings are those of its start-up packet and those that it has changed since; a
//! server's are those that were set on it for the last client. Before another client uses the
//! server, what differs is set, or reset to the server's own default.

use alloc::collections::BTreeMap;
use alloc::rc::Rc;
use alloc::vec::Vec;

/// Names with their values.
pub(crate) type Values = BTreeMap<Vec<u8>, Vec<u8>>;

/// Values that are shared while nobody changes them, so that two that are the same cost a
/// comparison of pointers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Settings(Rc<Values>);

impl Settings {
    /// Settings with these values.
    pub(crate) fn new(values: Values) -> Self {
        Self(Rc::new(values))
    }

    /// The values.
    pub(crate) fn values(&self) -> &Values {
        &self.0
    }

    /// Sets one; however it is written, it is the same setting.
    pub(crate) fn set(&mut self, name: &[u8], value: &[u8]) {
        self.put(&name.to_ascii_lowercase(), value);
    }

    /// Notes one under its name as it is reported, which clients look for.
    pub(crate) fn put(&mut self, name: &[u8], value: &[u8]) {
        if self.0.get(name).is_none_or(|known| known != value) {
            Rc::make_mut(&mut self.0).insert(name.to_vec(), value.to_vec());
        }
    }

    /// Those that say who acts, which RESET ALL leaves as they are.
    pub(crate) fn who_acts(&self) -> Values {
        let is_who = |name: &Vec<u8>| matches!(name.as_slice(), b"role" | b"session_authorization");
        let all = self.0.iter().filter(|(name, _)| is_who(name));
        all.map(|(name, value)| (name.clone(), value.clone())).collect()
    }

    /// Whether both are the same; if so, they share their memory from here on. They take the one at
    /// the lower address, so that all that are the same come to share one when each has met others.
    pub(crate) fn is_same(&mut self, other: &mut Self) -> bool {
        if Rc::ptr_eq(&self.0, &other.0) {
            return true;
        }
        let same = self.0 == other.0;
        if same && Rc::as_ptr(&self.0) < Rc::as_ptr(&other.0) {
            other.0 = Rc::clone(&self.0);
        } else if same {
            self.0 = Rc::clone(&other.0);
        }
        same
    }

    /// The query that makes settings of `self` into those of `wanted`; empty if nothing differs.
    pub(crate) fn change_to(&self, wanted: &Self) -> Vec<u8> {
        let mut query = Vec::new();
        let (ours, theirs) = (self.values(), wanted.values());
        let is_void = |name: &&Vec<u8>| !theirs.contains_key(*name);
        // Who acts comes first: it decides what else may be reset.
        let is_who =
            |name: &&Vec<u8>| matches!(name.as_slice(), b"role" | b"session_authorization");
        let who = ours.keys().filter(is_who);
        for name in who.chain(ours.keys().filter(|name| !is_who(name))).filter(is_void) {
            query.extend_from_slice(b"RESET ");
            query.extend_from_slice(name);
            query.push(b';');
        }
        // By the function, not by SET: it takes lists as they stand in a start-up packet.
        let mut before: &[u8] = b"SELECT ";
        for (name, value) in theirs.iter().filter(|(name, value)| ours.get(*name) != Some(value)) {
            query.extend_from_slice(before);
            query.extend_from_slice(b"pg_catalog.set_config(");
            literal(&mut query, name);
            query.push(b',');
            literal(&mut query, value);
            query.extend_from_slice(b",false)");
            before = b",";
        }
        query
    }
}

/// Whether a setting can have this name: then it needs no quotes.
pub(crate) fn is_name(name: &[u8]) -> bool {
    let is_letter = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$' | b'.');
    name.first().is_some_and(|first| first.is_ascii_alphabetic() || *first == b'_')
        && name.iter().all(is_letter)
}

/// Whether a setting that servers report can be set, and is not who acts.
pub(crate) fn is_settable(name: &[u8]) -> bool {
    const FIXED: [&[u8]; 7] = [
        b"in_hot_standby",
        b"integer_datetimes",
        b"is_superuser",
        b"role",
        b"server_encoding",
        b"server_version",
        b"session_authorization",
    ];
    !FIXED.iter().any(|fixed| fixed.eq_ignore_ascii_case(name))
}

/// Encodings as servers report them. Source: PostgreSQL's documentation, "Supported Character
/// Sets".
const ENCODINGS: [&str; 42] = [
    "BIG5",
    "EUC_CN",
    "EUC_JIS_2004",
    "EUC_JP",
    "EUC_KR",
    "EUC_TW",
    "GB18030",
    "GBK",
    "ISO_8859_5",
    "ISO_8859_6",
    "ISO_8859_7",
    "ISO_8859_8",
    "JOHAB",
    "KOI8R",
    "KOI8U",
    "LATIN1",
    "LATIN10",
    "LATIN2",
    "LATIN3",
    "LATIN4",
    "LATIN5",
    "LATIN6",
    "LATIN7",
    "LATIN8",
    "LATIN9",
    "MULE_INTERNAL",
    "SHIFT_JIS_2004",
    "SJIS",
    "SQL_ASCII",
    "UHC",
    "UTF8",
    "WIN1250",
    "WIN1251",
    "WIN1252",
    "WIN1253",
    "WIN1254",
    "WIN1255",
    "WIN1256",
    "WIN1257",
    "WIN1258",
    "WIN866",
    "WIN874",
];

/// What some of them are called as well.
const ENCODINGS_ALSO: [(&str, &str); 13] = [
    ("KOI8R", "KOI8"),
    ("LATIN1", "ISO88591"),
    ("LATIN10", "ISO885916"),
    ("LATIN2", "ISO88592"),
    ("LATIN3", "ISO88593"),
    ("LATIN4", "ISO88594"),
    ("LATIN5", "ISO88599"),
    ("LATIN6", "ISO885910"),
    ("LATIN7", "ISO885913"),
    ("LATIN8", "ISO885914"),
    ("LATIN9", "ISO885915"),
    ("SJIS", "Shift_JIS"),
    ("UTF8", "Unicode"),
];

/// How a server will report a value that a client has asked for, where that is known beforehand.
/// Drivers write encodings in many ways, and look at what they are told of them before they send a
/// query. Other values stand as they came until a server tells.
pub(crate) fn as_reported<'a>(name: &[u8], value: &'a [u8]) -> &'a [u8] {
    if !name.eq_ignore_ascii_case(b"client_encoding") {
        return value;
    }
    let word = |text: &[u8]| -> Vec<u8> {
        let letters = text.iter().filter(|byte| byte.is_ascii_alphanumeric());
        letters.map(u8::to_ascii_lowercase).collect()
    };
    let asked = word(value);
    let known = |(_, other): &&(&'static str, &str)| word(other.as_bytes()) == asked;
    if let Some((encoding, _)) = ENCODINGS_ALSO.iter().find(known) {
        return encoding.as_bytes();
    }
    let encoding = ENCODINGS.iter().find(|encoding| word(encoding.as_bytes()) == asked);
    encoding.map_or(value, |encoding| encoding.as_bytes())
}

/// Writes a literal that means the same in each encoding that the server may take the query for,
/// and under each of its settings: all that could be taken otherwise is written by its number.
fn literal(out: &mut Vec<u8>, text: &[u8]) {
    let is_plain = |byte: &u8| matches!(byte, b' '..=b'~') && !matches!(byte, b'\'' | b'\\');
    if text.iter().all(is_plain) {
        out.push(b'\'');
        out.extend_from_slice(text);
    } else {
        out.extend_from_slice(b"E'");
        for byte in text {
            if is_plain(byte) {
                out.push(*byte);
            } else {
                let octal = |value: u8| b'0' + (value & 7);
                let number = [b'\\', octal(byte >> 6), octal(byte >> 3), octal(*byte)];
                out.extend_from_slice(&number);
            }
        }
    }
    out.push(b'\'');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(values: &[(&str, &str)]) -> Settings {
        let mut settings = Settings::default();
        for (name, value) in values {
            settings.set(name.as_bytes(), value.as_bytes());
        }
        settings
    }

    fn change(from: &[(&str, &str)], to: &[(&str, &str)]) -> alloc::string::String {
        let query = settings(from).change_to(&settings(to));
        alloc::string::String::from_utf8(query).unwrap()
    }

    #[test]
    fn what_differs_is_set_and_what_nobody_asked_for_is_reset() {
        let ours = [("DateStyle", "ISO"), ("a.b", "1")];
        let theirs = [("datestyle", "German"), ("search_path", "a, b")];
        let expected = "RESET a.b;SELECT pg_catalog.set_config('datestyle','German',false),\
                        pg_catalog.set_config('search_path','a, b',false)";
        assert_eq!(change(&ours, &theirs), expected);
        assert_eq!(change(&ours, &ours), "");
    }

    #[test]
    fn encoding_is_told_as_a_server_tells_it() {
        for written in ["utf-8", "'utf-8'", "UTF8", "Unicode", "utf_8"] {
            assert_eq!(as_reported(b"client_encoding", written.as_bytes()), b"UTF8");
            assert_eq!(as_reported(b"TimeZone", written.as_bytes()), written.as_bytes());
        }
        for (written, told) in [("euc-jp", "EUC_JP"), ("latin1", "LATIN1"), ("mine", "mine")] {
            assert_eq!(as_reported(b"client_encoding", written.as_bytes()), told.as_bytes());
        }
    }

    #[test]
    fn values_cannot_end_their_quotes_in_any_encoding() {
        // Where 0x95 0x5c is one letter, a doubled backslash would leave the quote bare.
        let mut wanted = Settings::default();
        wanted.set(b"a", b"\x95\\'; drop table t --");
        let query = Settings::default().change_to(&wanted);
        let expected =
            &b"SELECT pg_catalog.set_config('a',E'\\225\\134\\047; drop table t --',false)"[..];
        assert_eq!(query, expected);
        assert!(!is_name(b"x;y") && !is_name(b"1x") && !is_name(b"") && is_name(b"a_1.b$"));
    }

    #[test]
    fn settings_that_are_the_same_share_their_memory() {
        let (mut one, mut other) = (settings(&[("a", "1")]), settings(&[("A", "1")]));
        assert!(one.is_same(&mut other) && Rc::ptr_eq(&one.0, &other.0));
        one.set(b"a", b"2");
        assert!(!one.is_same(&mut other));
        assert_eq!(other.values()[&b"a"[..]], b"1");
    }

    #[test]
    fn many_that_are_the_same_come_to_share_one_memory() {
        let all = || -> Vec<_> { (0..8).map(|_| settings(&[("a", "1")])).collect() };
        let (mut clients, mut servers) = (all(), all());
        for _ in 0..2 {
            for client in &mut clients {
                servers.iter_mut().for_each(|server| assert!(server.is_same(client)));
            }
        }
        let first = &servers[0].0;
        assert!(clients.iter().chain(&servers).all(|each| Rc::ptr_eq(&each.0, first)));
    }
}
