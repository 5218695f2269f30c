//! Prepared statements of a client on a server that it shares with others.

use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::vec::Vec;

use pgx_wire::backend::tag as reply;
use pgx_wire::frontend::{self, BindHead, Parse, STATEMENT, tag};
use pgx_wire::limits::HEADER_BYTES;
use pgx_wire::{ErrorResponse, Severity, Share, SqlState};

use crate::client::{Act, Client, Unnamed};
use crate::exchange::{Owed, Undo};
use crate::flow::Flow;
use crate::net::Net;
use crate::scan::{Words, scan};
use crate::server::Server;
use crate::settings::Settings;
use crate::statements::{PREFIX, Statement, Statements, name};

/// `ParseComplete` and `CloseComplete`, as they are on the wire.
const PARSE_COMPLETE: &[u8] = &[reply::PARSE_COMPLETE, 0, 0, 0, 4];
const CLOSE_COMPLETE: &[u8] = &[reply::CLOSE_COMPLETE, 0, 0, 0, 4];

/// A name that no server knows: using it makes a batch fail.
const UNKNOWN: &[u8] = b"pgx_unknown";

/// Whether a name that a client has not given itself may be one that a server knows another's by.
fn is_others(called: &[u8]) -> bool {
    called.starts_with(PREFIX.as_bytes())
}

/// A client with its server, while one of its messages is rewritten.
pub(super) struct Rewriter<'a> {
    pub(super) client: &'a mut Client,
    pub(super) server: &'a mut Server,
    pub(super) statements: &'a mut Statements,
    pub(super) scratch: &'a mut Vec<u8>,
    pub(super) prepared_max: usize,
}

impl Rewriter<'_> {
    /// A whole Parse, Describe or Close; it stands in the piece as `share`, if it does.
    pub(super) fn message<N: Net>(
        &mut self,
        flow: &mut Flow<'_, N>,
        kind: u8,
        body: &[u8],
        share: Option<&Share>,
    ) {
        match (kind, Parse::read(body), frontend::target(body)) {
            (tag::PARSE, Ok(parse), _) if parse.name.is_empty() => {
                self.parse_unnamed(&parse);
                self.as_it_is(flow, kind, body, share);
            }
            (tag::PARSE, Ok(parse), _) => self.parse(flow, &parse),
            (tag::DESCRIBE, _, Ok((STATEMENT, called))) => {
                match self.known(called) {
                    Some(statement) => {
                        self.ensure(flow, &statement);
                        self.server.exchange.owe(Owed::Describe);
                        self.scratch.clear();
                        let called = name(statement.number);
                        frontend::write::describe(self.scratch, STATEMENT, &called);
                        flow.write(self.scratch);
                    }
                    None if is_others(called) => self.fail_unknown(flow, called),
                    None => {
                        self.ensure_unnamed(flow, called);
                        self.as_it_is(flow, kind, body, share);
                    }
                };
            }
            // Others may use it: it stays on the server until it has to make room.
            (tag::CLOSE, _, Ok((STATEMENT, called))) if !called.is_empty() => {
                let undo = self.call(called, None);
                self.server.exchange.owe(Owed::Answer(CLOSE_COMPLETE, Some(undo)));
            }
            (tag::CLOSE, _, Ok((STATEMENT, _))) if !self.server.exchange.skips() => {
                // The one without a name is none from here on, here and elsewhere.
                self.client.unnamed = None;
                self.server.has_unnamed = true;
                self.as_it_is(flow, kind, body, share);
            }
            // Broken messages, too: the server has the words for them.
            _ => self.as_it_is(flow, kind, body, share),
        }
    }

    fn as_it_is<N: Net>(
        &mut self,
        flow: &mut Flow<'_, N>,
        kind: u8,
        body: &[u8],
        share: Option<&Share>,
    ) {
        self.server.exchange.send(kind);
        if let Some(share) = share {
            flow.pass(share);
        } else {
            header(flow, kind, body.len());
            flow.write(body);
        }
    }

    fn parse_unnamed(&mut self, parse: &Parse<'_>) {
        if self.server.exchange.skips() {
            return;
        }
        note(self.server, scan(parse.text), Some(parse.text));
        let unnamed = self.client.unnamed.get_or_insert_default();
        unnamed.text.clear();
        unnamed.text.extend_from_slice(parse.text);
        unnamed.types.clear();
        unnamed.types.extend_from_slice(parse.types);
        self.server.has_unnamed = true;
    }

    fn parse<N: Net>(&mut self, flow: &mut Flow<'_, N>, parse: &Parse<'_>) {
        if self.server.exchange.skips() {
            return;
        }
        if self.client.names.contains_key(parse.name) {
            let called = alloc::string::String::from_utf8_lossy(parse.name);
            let message = alloc::format!("prepared statement \"{called}\" already exists");
            let state = SqlState::DUPLICATE_STATEMENT;
            return self.fail(flow, &ErrorResponse::new(Severity::Error, state, &message));
        }
        let statement = self.statements.get(parse.text, parse.types, scan(parse.text));
        let (number, words) = (statement.number, statement.words);
        note(self.server, words, Some(parse.text));
        let undo = self.call(parse.name, Some(Rc::clone(&statement)));
        let may_have_failed = self.server.exchange.may_have_failed();
        if self.server.prepared.touch(number) && !may_have_failed {
            self.server.exchange.owe(Owed::Answer(PARSE_COMPLETE, Some(undo)));
        } else {
            self.prepare(flow, &statement);
            self.server.exchange.owe(Owed::Parse(Some(number), Some(undo)));
        }
    }

    /// The batch fails here, in the server's eyes as well; the client reads this error.
    fn fail<N: Net>(&mut self, flow: &mut Flow<'_, N>, error: &ErrorResponse<'_>) {
        self.scratch.clear();
        frontend::write::describe(self.scratch, STATEMENT, UNKNOWN);
        flow.write(self.scratch);
        self.server.exchange.owe(Owed::OurFailure(error.to_bytes()));
    }

    fn fail_unknown<N: Net>(&mut self, flow: &mut Flow<'_, N>, called: &[u8]) {
        let called = alloc::string::String::from_utf8_lossy(called);
        let message = alloc::format!("prepared statement \"{called}\" does not exist");
        let state = SqlState::INVALID_STATEMENT_NAME;
        self.fail(flow, &ErrorResponse::new(Severity::Error, state, &message));
    }

    /// From here on the client's name means this. Says what it meant.
    fn call(&mut self, called: &[u8], statement: Option<Rc<Statement>>) -> Undo {
        let before = match statement {
            Some(statement) => self.client.names.insert(Box::from(called), statement),
            None => self.client.names.remove(called),
        };
        Undo { name: Box::from(called), before }
    }

    fn known(&self, called: &[u8]) -> Option<Rc<Statement>> {
        self.client.names.get(called).cloned()
    }

    /// Prepares a statement of the client's on a server that does not have it.
    fn ensure<N: Net>(&mut self, flow: &mut Flow<'_, N>, statement: &Rc<Statement>) {
        if self.server.exchange.skips() || self.server.prepared.touch(statement.number) {
            return;
        }
        self.prepare(flow, statement);
        self.server.exchange.owe(Owed::OurParse(statement.number));
    }

    /// Sends a statement to the server, and makes room for it there first.
    fn prepare<N: Net>(&mut self, flow: &mut Flow<'_, N>, statement: &Statement) {
        self.scratch.clear();
        // Closing what is not there does no harm.
        let Server { prepared, exchange, .. } = &*self.server;
        let is_unsure = prepared.is_unsure || prepared.may_have_more || exchange.may_have_failed();
        let unsure = is_unsure.then_some(statement.number);
        let evicted = self.server.prepared.add(statement.number, self.prepared_max);
        for number in unsure.into_iter().chain(evicted) {
            frontend::write::close(self.scratch, STATEMENT, &name(number));
            self.server.exchange.owe(Owed::OurClose);
        }
        let called = name(statement.number);
        frontend::write::parse(self.scratch, &called, &statement.text, &statement.types);
        flow.write(self.scratch);
    }

    /// The statement without a name, if the client means that and this server has not met it.
    pub(super) fn ensure_unnamed<N: Net>(&mut self, flow: &mut Flow<'_, N>, called: &[u8]) {
        if !called.is_empty() || self.server.has_unnamed || self.server.exchange.skips() {
            return;
        }
        self.server.has_unnamed = true;
        self.scratch.clear();
        if let Some(Unnamed { text, types }) = &self.client.unnamed {
            frontend::write::parse(self.scratch, b"", text, types);
            self.server.exchange.owe(Owed::OurParse(0));
        } else {
            // Another client's may be there: this one must not meet it.
            frontend::write::close(self.scratch, STATEMENT, b"");
            self.server.exchange.owe(Owed::OurClose);
        }
        flow.write(self.scratch);
    }

    /// A Bind whose names are in the piece. Says what becomes of the rest of it.
    pub(super) fn bind<N: Net>(
        &mut self,
        flow: &mut Flow<'_, N>,
        head: &BindHead<'_>,
        body_bytes: usize,
        share: &Share,
        here: usize,
    ) -> Act {
        match self.known(head.statement) {
            Some(statement) => {
                self.bind_to(flow, head, body_bytes, &statement);
                let rest = share.range.end - (here - head.rest_at)..share.range.end;
                flow.pass_range(rest);
            }
            None if is_others(head.statement) => {
                self.fail_unknown(flow, head.statement);
                return Act::Drop;
            }
            None => {
                self.ensure_unnamed(flow, head.statement);
                self.server.exchange.owe(Owed::Bind);
                flow.pass(share);
            }
        }
        Act::Pass
    }

    /// A Bind whose names came in several pieces; `kept` is what has come of its body.
    pub(super) fn bind_kept<N: Net>(
        &mut self,
        flow: &mut Flow<'_, N>,
        head: &BindHead<'_>,
        body_bytes: usize,
        kept: &[u8],
    ) -> Act {
        match self.known(head.statement) {
            Some(statement) => {
                self.bind_to(flow, head, body_bytes, &statement);
                flow.write(&kept[head.rest_at..]);
            }
            None if is_others(head.statement) => {
                self.fail_unknown(flow, head.statement);
                return Act::Drop;
            }
            None => {
                self.ensure_unnamed(flow, head.statement);
                self.server.exchange.owe(Owed::Bind);
                header(flow, tag::BIND, body_bytes);
                flow.write(kept);
            }
        }
        Act::Pass
    }

    fn bind_to<N: Net>(
        &mut self,
        flow: &mut Flow<'_, N>,
        head: &BindHead<'_>,
        body_bytes: usize,
        statement: &Rc<Statement>,
    ) {
        self.ensure(flow, statement);
        note(self.server, statement.words, Some(&statement.text));
        self.server.exchange.owe(Owed::Bind);
        self.scratch.clear();
        let (called, rest) = (name(statement.number), body_bytes - head.rest_at);
        frontend::write::bind_head(self.scratch, head.portal, &called, rest);
        flow.write(self.scratch);
    }
}

/// What a text hints at counts for its server from here on; the text itself is known if it came
/// whole.
pub(super) fn note(server: &mut Server, words: Words, text: Option<&[u8]>) {
    server.words = server.words.and(words);
    if words.has(Words::DISCARD.and(Words::PREPARED)) {
        server.prepared.doubt();
    }
    let is_carried = |text: &[u8]| is_tracked(text, &server.reported);
    let leaves_more = words.has(Words::PREPARED.and(Words::SETTING));
    server.is_kept |= words.has(Words::KEPT) || (leaves_more && !text.is_some_and(is_carried));
}

/// Writes a message's header.
pub(super) fn header<N: Net>(flow: &mut Flow<'_, N>, kind: u8, body_bytes: usize) {
    let mut header = Vec::with_capacity(HEADER_BYTES);
    put_header(&mut header, kind, body_bytes);
    flow.write(&header);
}

/// The same, into memory.
pub(super) fn put_header(out: &mut Vec<u8>, kind: u8, body_bytes: usize) {
    out.push(kind);
    // A message is no longer than its length word can tell.
    let length = u32::try_from(body_bytes + 4).unwrap_or(u32::MAX);
    out.extend_from_slice(&length.to_be_bytes());
}

/// Whether a text is one statement that sets nothing but a setting that servers report, or one of
/// its transaction: then the proxy carries it to other servers, or there is nothing to carry. The
/// words that led here may be about something else.
pub(super) fn is_tracked(text: &[u8], reported: &Settings) -> bool {
    let text = text.split(|byte| *byte == 0).next().unwrap_or_default();
    let text = skip_comments(text).trim_ascii_end();
    let text = text.strip_suffix(b";").unwrap_or(text);
    if text.contains(&b';') {
        return false;
    }
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
        // These set columns, or what others will begin with.
        (b"update" | b"insert" | b"merge" | b"with" | b"create" | b"alter", _) => {
            !text.to_ascii_lowercase().windows(10).any(|at| at == b"set_config")
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

/// What is behind the white space and the comments that a text begins with.
fn skip_comments(mut text: &[u8]) -> &[u8] {
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

#[cfg(test)]
mod tests {
    use super::*;

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
            "create trigger t after insert on t execute function f()",
            "/* a /* set */ */ -- set\n update t set a = 1 -- b",
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
        ] {
            assert!(!is(text), "{text}");
        }
    }
}
