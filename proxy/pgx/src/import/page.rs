//! The configuration as it is made, line by line, with what is to be said about it. It knows TOML,
//! and nothing of the tool whose configuration is carried over.

use std::fmt::Write as _;

use super::{Entry, Made};

/// The text as it is made.
pub(super) struct Page {
    pub(super) text: String,
    pub(super) todo: Vec<String>,
    pub(super) left: Vec<String>,
}

impl Page {
    pub(super) fn new() -> Self {
        let text = "# Made by pgx import; see pgx config example for what each key means.\n";
        Self { text: text.to_owned(), todo: Vec::new(), left: Vec::new() }
    }

    pub(super) fn into_made(self) -> Made {
        let lines = |all: Vec<String>| all.iter().map(|line| printable(line)).collect();
        Made { text: self.text, todo: lines(self.todo), left: lines(self.left) }
    }

    /// Begins a section.
    pub(super) fn section(&mut self, name: &str) {
        // Into memory, as all below.
        let _ = writeln!(self.text, "\n{name}");
    }

    pub(super) fn number(&mut self, entry: &Entry, key: &str, value: &str) {
        let is_number = value.parse::<f64>().is_ok_and(|number| number >= 0.0);
        if is_number {
            self.line(key, value);
        } else {
            self.leave(entry, &format!("{value:?} is not a number"));
        }
    }

    pub(super) fn word(&mut self, key: &str, value: &str) {
        self.line(key, &quoted(value));
    }

    /// What commas part.
    pub(super) fn words(&mut self, key: &str, value: &str) {
        let words = value.split(',').map(str::trim).filter(|word| !word.is_empty());
        self.list(key, words);
    }

    pub(super) fn list<T: AsRef<str>>(&mut self, key: &str, words: impl IntoIterator<Item = T>) {
        let words: Vec<String> = words.into_iter().map(|word| quoted(word.as_ref())).collect();
        self.line(key, &format!("[{}]", words.join(", ")));
    }

    pub(super) fn line(&mut self, key: &str, value: &str) {
        let _ = writeln!(self.text, "{key} = {value}");
    }

    /// Lines that say something to people, however many the text has.
    pub(super) fn comment(&mut self, text: &str) {
        for line in text.lines() {
            let _ = writeln!(self.text, "# {}", printable(line));
        }
    }

    /// There is nothing to carry over, as pgx does so anyway.
    pub(super) fn anyway(&mut self, entry: &Entry, why: &str) {
        self.comment(&printable(&format!("{}: {why}", entry.key)));
    }

    pub(super) fn leave(&mut self, entry: &Entry, why: &str) {
        self.left.push(format!("{}: {}: {why}", entry.place, entry.key));
    }
}

/// A string in TOML: as in JSON.
pub(super) fn quoted(value: &str) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

/// A text without what would end its line, or steer a terminal.
pub(super) fn printable(text: &str) -> String {
    text.chars().map(|char| if char.is_control() && char != '\t' { '?' } else { char }).collect()
}

/// A host with its port; names of IPv6 addresses stand in brackets.
pub(super) fn with_port(host: &str, port: &str) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// A place of PostgreSQL's: the path of a Unix socket, or a host with its port.
pub(super) fn server(host: &str, port: &str) -> String {
    match host {
        path if path.starts_with('/') => format!("{path}/.s.PGSQL.{port}"),
        host => with_port(host, port),
    }
}

/// Addresses to listen on, parted by commas, in the words that such tools share.
pub(super) fn listening(addresses: &str, port: &str) -> Vec<String> {
    let all = addresses.split(',').flat_map(|address| match address.trim() {
        "*" => vec![format!("0.0.0.0:{port}"), format!("[::]:{port}")],
        "localhost" => vec![format!("127.0.0.1:{port}"), format!("[::1]:{port}")],
        address => vec![with_port(address, port)],
    });
    all.collect()
}
