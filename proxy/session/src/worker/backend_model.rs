//! A server as PostgreSQL is one, as far as sessions can tell.
//!
//! Its queries are words: `select MARK` gives the mark back, `fail` fails,
//! `copy` takes data. A text that begins with `row` gives itself and its parameter. Each row ends
//! with what is set.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use pgx_wire::backend::{self, Status};
use pgx_wire::frontend::{self, BindHead, Parse, tag};
use pgx_wire::{Frames, Startup, Walker, startup};

use super::testing::{error, stale};
use crate::server::Server;
use crate::statements::name;

/// What a server knows of its session.
#[derive(Debug)]
pub(super) struct Model {
    pub(super) input: Vec<u8>,
    /// What it has said that has not arrived yet.
    pub(super) out: Vec<u8>,
    pub(super) status: Status,
    pub(super) skips: bool,
    /// It takes copy data; for a simple query or not.
    pub(super) copies: Option<bool>,
    prepared: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Those whose tables have changed since.
    stale: BTreeSet<Vec<u8>>,
    portal: Option<(String, String)>,
    pub(super) settings: BTreeMap<String, String>,
    defaults: BTreeMap<String, String>,
    pub(super) listens: bool,
    /// A cancel hits what it works on.
    is_hit: bool,
    /// It has lost its place in what it reads, and ends.
    pub(super) has_ended: bool,
}

impl Model {
    pub(super) fn new(process: u32) -> Self {
        let mut out = Vec::new();
        backend::write::authentication_ok(&mut out);
        backend::write::parameter_status(&mut out, b"DateStyle", b"ISO");
        backend::write::backend_key(&mut out, process, b"key!");
        backend::write::ready(&mut out, Status::Idle);
        Self {
            input: Vec::new(),
            out,
            status: Status::Idle,
            skips: false,
            copies: None,
            prepared: BTreeMap::new(),
            stale: BTreeSet::new(),
            portal: None,
            settings: BTreeMap::new(),
            defaults: BTreeMap::new(),
            listens: false,
            is_hit: false,
            has_ended: false,
        }
    }

    /// A server that has got this start-up packet.
    pub(super) fn started(process: u32, packet: &[u8]) -> Self {
        let Ok(Some((Startup::Login { parameters, .. }, _))) = startup::parse(packet) else {
            return Self::new(process);
        };
        let own =
            parameters.into_iter().filter(|(name, _)| !matches!(*name, b"user" | b"database"));
        let own: Vec<_> = own.map(|(name, value)| (text(name), text(value))).collect();
        let mut model = Self::new(process);
        if own.is_empty() {
            return model;
        }
        model.out.clear();
        backend::write::authentication_ok(&mut model.out);
        if own.iter().any(|(name, _)| name == "work_mem") {
            model.out.extend_from_slice(&error("FATAL", "22023"));
            model.has_ended = true;
            return model;
        }
        own.iter().for_each(|(name, value)| model.set(name, Some(value)));
        model.defaults = model.settings.clone();
        backend::write::backend_key(&mut model.out, process, b"key!");
        backend::write::ready(&mut model.out, Status::Idle);
        model
    }

    /// The server of one client, who is in with these parameters.
    pub(super) fn of(parameters: &[(&str, &str)]) -> Self {
        let mut model = Self::new(0);
        parameters.iter().for_each(|(name, value)| model.set(name, Some(value)));
        model.defaults = model.settings.clone();
        model.out.clear();
        model
    }

    /// Works on one message, if there is one. Says so.
    pub(super) fn work(&mut self) -> bool {
        if self.has_ended {
            return false;
        }
        let mut walker = Walker::default();
        let mut at = 0;
        let share = walker.next(&self.input, &mut at).expect("a message");
        let Some(share) = share.filter(|share| share.is_last) else { return false };
        let rest = self.input.split_off(at);
        let message = core::mem::replace(&mut self.input, rest);
        self.message(share.tag, &message[5..]);
        true
    }

    /// Nobody has it: it is in no transaction, and has what the worker knows of and no more.
    pub(super) fn check_clean(&self, known: &Server) {
        assert!(self.status == Status::Idle && self.copies.is_none() && !self.skips, "{self:?}");
        // What is left of a copy that was none means nothing to whoever comes next.
        let frames = take_frames(&mut self.input.clone());
        let means_nothing = [tag::COPY_DATA, tag::COPY_DONE, tag::FLUSH];
        let is_left_over = |(kind, _): &(u8, _)| means_nothing.contains(kind);
        assert!(frames.iter().all(is_left_over), "not at rest: {self:?}");
        assert!(!self.listens, "it listens for somebody: {self:?}");
        let of_worker = known.settings.values().iter();
        let of_worker: BTreeMap<_, _> = of_worker.map(|(k, v)| (text(k), text(v))).collect();
        assert_eq!(self.settings, of_worker);
        let names = || self.prepared.keys().filter(|name| !name.is_empty());
        assert!(names().all(|name| name.starts_with(b"pgx_")), "a client's own name: {self:?}");
        let all = known.prepared.numbers();
        assert!(all.iter().all(|number| self.prepared.contains_key(&name(*number))), "{all:?}");
        let is_sure = !known.prepared.is_unsure && !known.prepared.may_have_more;
        assert!(!is_sure || names().count() == all.len(), "{all:?} {self:?}");
    }

    /// A cancel arrives: it hits what is being worked on, if anything is.
    pub(super) fn cancel(&mut self) {
        self.is_hit = true;
        self.work();
        self.is_hit = false;
    }

    fn message(&mut self, kind: u8, body: &[u8]) {
        if let Some(is_simple) = self.copies {
            return self.copy(is_simple, kind);
        }
        match kind {
            tag::SYNC => {
                self.skips = false;
                backend::write::ready(&mut self.out, self.status);
            }
            tag::COPY_DATA | tag::COPY_DONE | tag::FLUSH | tag::TERMINATE => {}
            _ if self.skips => {}
            tag::QUERY => self.query(&text(frontend::query(body).expect("a query"))),
            tag::PARSE => self.parse(&Parse::read(body).expect("a Parse")),
            tag::BIND => {
                let head = BindHead::read(body).expect("a Bind");
                let Some(found) = self.prepared.get(head.statement) else {
                    return self.fail("26000");
                };
                let found = text(found);
                if self.is_void(&found) {
                    return self.fail("25P02");
                }
                if self.stale.contains(head.statement) {
                    return self.fail_stale();
                }
                let parameter = text(&body[head.rest_at + 8..body.len() - 2]);
                self.portal = Some((found, parameter));
                backend::write::bind_complete(&mut self.out);
            }
            tag::DESCRIBE => match frontend::target(body).expect("a Describe") {
                (frontend::STATEMENT, name) if !self.prepared.contains_key(name) => {
                    self.fail("26000");
                }
                (frontend::STATEMENT, name) if self.is_void(&text(&self.prepared[name])) => {
                    self.fail("25P02");
                }
                (frontend::STATEMENT, name) => {
                    self.out.extend_from_slice(b"t\0\0\0\x06\0\0");
                    if self.stale.contains(name) {
                        return self.fail_stale();
                    }
                    backend::write::no_data(&mut self.out);
                }
                _ => backend::write::no_data(&mut self.out),
            },
            tag::CLOSE => {
                let (_, name) = frontend::target(body).expect("a Close");
                self.prepared.remove(name);
                backend::write::close_complete(&mut self.out);
            }
            tag::EXECUTE => {
                let Some((text, mark)) = self.portal.take() else { return self.fail("34000") };
                self.run(&text, &mark, false);
            }
            _ => panic!("what is {}?", char::from(kind)),
        }
    }

    fn parse(&mut self, parse: &Parse<'_>) {
        let is_taken = !parse.name.is_empty() && self.prepared.contains_key(parse.name);
        if is_taken {
            return self.fail("42P05");
        }
        if parse.text == b"bad" {
            return self.fail("42601");
        }
        if self.is_void(&text(parse.text)) {
            return self.fail("25P02");
        }
        self.stale.remove(parse.name);
        self.prepared.insert(parse.name.to_vec(), parse.text.to_vec());
        backend::write::parse_complete(&mut self.out);
    }

    fn copy(&mut self, is_simple: bool, kind: u8) {
        match kind {
            tag::COPY_DATA | tag::FLUSH | tag::SYNC => return,
            tag::COPY_DONE => backend::write::command_complete(&mut self.out, b"COPY 1"),
            _ => {
                // It has read no more than the tag of it.
                self.fail("08P01");
                self.out.extend_from_slice(&error("FATAL", "08P01"));
                self.has_ended = true;
                return;
            }
        }
        self.copies = None;
        if is_simple {
            self.skips = false;
            backend::write::ready(&mut self.out, self.status);
        }
    }

    /// The tables of all that is prepared change.
    pub(super) fn alter(&mut self) {
        self.stale = self.prepared.keys().filter(|name| !name.is_empty()).cloned().collect();
    }

    fn fail_stale(&mut self) {
        self.fail_with(&stale());
    }

    fn fail(&mut self, code: &str) {
        self.fail_with(&error("ERROR", code));
    }

    fn fail_with(&mut self, error: &[u8]) {
        self.out.extend_from_slice(error);
        self.skips = true;
        if self.status == Status::Block {
            self.status = Status::Failed;
        }
    }

    /// Whether a failed block does not take it.
    fn is_void(&self, text: &str) -> bool {
        self.status == Status::Failed && !text.eq_ignore_ascii_case("rollback") && text != "commit"
    }

    fn query(&mut self, text: &str) {
        self.prepared.remove(&b""[..]);
        if text.starts_with("RESET ") || text.starts_with("SELECT pg_catalog.") {
            self.set_all(text);
        } else {
            self.run(text, "", true);
        }
        if self.copies.is_none() {
            self.skips = false;
            backend::write::ready(&mut self.out, self.status);
        }
    }

    /// What the proxy sets for a client.
    fn set_all(&mut self, text: &str) {
        if self.is_hit {
            return self.fail("57014");
        }
        for reset in text.split(';').filter_map(|part| part.strip_prefix("RESET ")) {
            self.set(reset, None);
        }
        for call in text.split("set_config('").skip(1) {
            let mut parts = call.split('\'');
            let name = parts.next().unwrap_or_default();
            let value = parts.nth(1).unwrap_or_default();
            if value == "wrong" {
                return self.fail("22023");
            }
            self.set(name, Some(value));
        }
        backend::write::command_complete(&mut self.out, b"SET");
    }

    fn set(&mut self, name: &str, value: Option<&str>) {
        match value {
            Some(value) => self.settings.insert(name.to_string(), value.to_string()),
            None => self.settings.remove(name),
        };
        if name == "datestyle" {
            let value = value.unwrap_or("ISO").as_bytes();
            backend::write::parameter_status(&mut self.out, b"DateStyle", value);
        }
    }

    fn run(&mut self, text: &str, mark: &str, is_simple: bool) {
        if text.is_empty() {
            return self.out.extend_from_slice(b"I\0\0\0\x04");
        }
        if self.is_void(text) {
            return self.fail("25P02");
        }
        if self.is_hit {
            return self.fail("57014");
        }
        let mut words = text.split(' ');
        let verb = words.next().unwrap_or_default().to_ascii_lowercase();
        let rest = words.next().unwrap_or_default().to_string();
        match (verb.as_str(), rest.as_str()) {
            ("select" | "show", mark) => self.row(&["", mark]),
            ("row", _) => self.row(&[text, mark]),
            ("begin", _) => self.status = Status::Block,
            ("commit" | "rollback", _) => self.status = Status::Idle,
            ("set", name) => {
                let value = text.rsplit(' ').next();
                self.set(name, value);
            }
            ("listen", _) => self.listens = true,
            ("deallocate", "all") => self.prepared.retain(|name, _| name.is_empty()),
            ("deallocate", name) => {
                let name = name.trim_end_matches(';');
                if self.prepared.remove(name.as_bytes()).is_none() {
                    return self.fail("26000");
                }
            }
            ("discard" | "DISCARD", _) if self.status != Status::Idle => return self.fail("25001"),
            ("discard", _) => {
                self.listens = false;
                self.prepared.clear();
                for name in ["datestyle", "work_mem"] {
                    self.set(name, None);
                }
                self.settings = self.defaults.clone();
            }
            ("copy", _) => {
                self.out.extend_from_slice(b"G\0\0\0\x07\0\0\0");
                self.copies = Some(is_simple);
                return;
            }
            _ => return self.fail("XX001"),
        }
        let done = text.to_ascii_uppercase();
        let is_all = matches!(done.as_str(), "DISCARD ALL" | "DEALLOCATE ALL");
        let done = if is_all { done } else { verb.to_ascii_uppercase() };
        backend::write::command_complete(&mut self.out, done.as_bytes());
    }

    /// A row ends with what is set, so that nobody can use a server without seeing that.
    fn row(&mut self, columns: &[&str]) {
        let settings: Vec<_> = self.settings.values().cloned().collect();
        let settings = settings.join(",");
        let columns = [columns, &[settings.as_str()]].concat();
        let mut body = Vec::from(u16::try_from(columns.len()).expect("few").to_be_bytes());
        for column in columns {
            let bytes = u32::try_from(column.len()).expect("short");
            body.extend_from_slice(&bytes.to_be_bytes());
            body.extend_from_slice(column.as_bytes());
        }
        self.out.push(b'D');
        let bytes = u32::try_from(body.len() + 4).expect("short");
        self.out.extend_from_slice(&bytes.to_be_bytes());
        self.out.extend_from_slice(&body);
    }
}

/// The columns of a row.
pub(super) fn columns(mut body: &[u8]) -> Vec<String> {
    let mut all = Vec::new();
    body = &body[2..];
    while let Some((bytes, rest)) = body.split_first_chunk() {
        let (column, rest) = rest.split_at(u32::from_be_bytes(*bytes) as usize);
        all.push(text(column));
        body = rest;
    }
    all
}

pub(super) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The first whole message, which is taken away.
pub(super) fn take_frame(bytes: &mut Vec<u8>) -> Option<(u8, Vec<u8>)> {
    let mut frames = Frames::new(bytes);
    let frame = frames.next_frame().expect("messages")?;
    let taken = (frame.tag, frame.body.to_vec());
    *bytes = frames.rest().to_vec();
    Some(taken)
}

/// Whole messages at the beginning of some bytes, which are taken away.
pub(super) fn take_frames(bytes: &mut Vec<u8>) -> Vec<(u8, Vec<u8>)> {
    let mut frames = Frames::new(bytes);
    let mut all = Vec::new();
    while let Some(frame) = frames.next_frame().expect("messages") {
        all.push((frame.tag, frame.body.to_vec()));
    }
    *bytes = frames.rest().to_vec();
    all
}
