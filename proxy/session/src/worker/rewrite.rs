//! Prepared statements of a client on a server that it shares with others.

use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::vec::Vec;

use pgx_wire::backend::tag as reply;
use pgx_wire::frontend::{self, BindHead, Parse, STATEMENT, tag};
use pgx_wire::limits::HEADER_BYTES;
use pgx_wire::{ErrorResponse, Severity, Share, SqlState};

use super::state::{note, refusal, stays};
use crate::client::{Act, Client, Unnamed};
use crate::exchange::{Owed, Undo};
use crate::flow::Flow;
use crate::net::Net;
use crate::scan::{Words, scan};
use crate::server::Server;
use crate::statements::{PREFIX, Statement, Statements, name};
use crate::stats::Totals;
use crate::strict::{is_suspect, lowered};

/// `ParseComplete` and `CloseComplete`, as they are on the wire.
const PARSE_COMPLETE: &[u8] = &[reply::PARSE_COMPLETE, 0, 0, 0, 4];
const CLOSE_COMPLETE: &[u8] = &[reply::CLOSE_COMPLETE, 0, 0, 0, 4];

/// A name that no server knows: using it makes a batch fail.
const UNKNOWN: &[u8] = b"pgx_unknown";

/// A client has given no statement this name.
pub(super) fn unknown(called: &[u8]) -> Vec<u8> {
    let called = alloc::string::String::from_utf8_lossy(called);
    let message = alloc::format!("prepared statement \"{called}\" does not exist");
    let state = SqlState::INVALID_STATEMENT_NAME;
    ErrorResponse::new(Severity::Error, state, &message).to_bytes()
}

/// Whether a name that a client has not given itself may be one that a server knows another's by.
pub(super) fn is_others(called: &[u8]) -> bool {
    called.starts_with(PREFIX.as_bytes())
}

/// A client with its server, while one of its messages is rewritten.
pub(super) struct Rewriter<'a> {
    pub(super) client: &'a mut Client,
    pub(super) server: &'a mut Server,
    pub(super) statements: &'a mut Statements,
    pub(super) scratch: &'a mut Vec<u8>,
    pub(super) totals: &'a mut Totals,
    pub(super) prepared_max: usize,
    /// What would stay on the server is refused.
    pub(super) refuses: bool,
    /// So is what lets commits be told as done too early.
    pub(super) is_strict: bool,
}

impl Rewriter<'_> {
    /// A whole Query, Parse, Describe or Close; it stands in the piece as `share`, if it does.
    pub(super) fn message<N: Net>(
        &mut self,
        flow: &mut Flow<'_, N>,
        kind: u8,
        body: &[u8],
        share: Option<&Share>,
    ) {
        if kind == tag::QUERY {
            return self.query(flow, body, share);
        }
        match (kind, Parse::read(body), frontend::target(body)) {
            (tag::PARSE, Ok(parse), _) => {
                let words = scan(parse.text);
                let leaves = || self.leaves(words, parse.text);
                match self.lowers(words, parse.text).or_else(leaves) {
                    Some(error) => self.fail(flow, error),
                    None if parse.name.is_empty() => {
                        self.parse_unnamed(&parse, words);
                        self.as_it_is(flow, kind, body, share);
                    }
                    None => self.parse(flow, &parse, words),
                }
            }
            (tag::DESCRIBE, _, Ok((STATEMENT, called))) => {
                match self.known(called) {
                    Some(statement) => {
                        self.ensure_first(flow, &statement);
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

    /// The error for a text that would leave something on the server, if that is refused.
    pub(super) fn leaves(&self, words: Words, text: &[u8]) -> Option<Vec<u8>> {
        let is_looked_at = self.refuses && !self.server.exchange.skips();
        is_looked_at.then(|| stays(words, Some(text), &self.server.reported))?.map(refusal)
    }

    /// The error for a text that would set too low what strict clusters bound.
    pub(super) fn lowers(&self, words: Words, text: &[u8]) -> Option<Vec<u8>> {
        let is_looked_at = self.is_strict && is_suspect(words) && !self.server.exchange.skips();
        let what = is_looked_at.then(|| lowered(text))??;
        Some(what.refusal(Severity::Error))
    }

    /// A whole Query or Parse of a client that has its server for itself.
    pub(super) fn text_of_own<N: Net>(
        &mut self,
        flow: &mut Flow<'_, N>,
        kind: u8,
        body: &[u8],
        share: Option<&Share>,
    ) {
        let text = match Parse::read(body) {
            Ok(parse) if kind == tag::PARSE => parse.text,
            _ => body,
        };
        match self.lowers(scan(text), text) {
            Some(error) if kind == tag::QUERY => return self.fail_query(flow, error),
            Some(error) => return self.fail(flow, error),
            None if kind == tag::QUERY => self.server.runs(false, false),
            None => {}
        }
        self.as_it_is(flow, kind, body, share);
    }

    pub(super) fn as_it_is<N: Net>(
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

    fn parse_unnamed(&mut self, parse: &Parse<'_>, words: Words) {
        if self.server.exchange.skips() {
            return;
        }
        note(self.server, words, Some(parse.text));
        let unnamed = self.client.unnamed.get_or_insert_default();
        unnamed.text.clear();
        unnamed.text.extend_from_slice(parse.text);
        unnamed.types.clear();
        unnamed.types.extend_from_slice(parse.types);
        unnamed.words = words;
        self.server.has_unnamed = true;
    }

    fn parse<N: Net>(&mut self, flow: &mut Flow<'_, N>, parse: &Parse<'_>, words: Words) {
        if self.server.exchange.skips() {
            return;
        }
        if self.client.names.contains_key(parse.name) {
            let called = alloc::string::String::from_utf8_lossy(parse.name);
            let message = alloc::format!("prepared statement \"{called}\" already exists");
            let state = SqlState::DUPLICATE_STATEMENT;
            return self
                .fail(flow, ErrorResponse::new(Severity::Error, state, &message).to_bytes());
        }
        self.totals.client_parses += 1;
        if self.server.words.has(Words::CHANGES) {
            // In this transaction, of which others have not heard.
            self.statements.renew();
        }
        let statement = self.statements.get(parse.text, parse.types, words);
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
    pub(super) fn fail<N: Net>(&mut self, flow: &mut Flow<'_, N>, error: Vec<u8>) {
        self.scratch.clear();
        frontend::write::describe(self.scratch, STATEMENT, UNKNOWN);
        flow.write(self.scratch);
        self.server.exchange.owe(Owed::OurFailure(error));
    }

    fn fail_unknown<N: Net>(&mut self, flow: &mut Flow<'_, N>, called: &[u8]) {
        self.fail(flow, unknown(called));
    }

    /// From here on the client's name means this. Says what it meant.
    pub(super) fn call(&mut self, called: &[u8], statement: Option<Rc<Statement>>) -> Undo {
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

    /// The same for what uses the statement next, of which a copy begins if it is the first.
    fn ensure_first<N: Net>(&mut self, flow: &mut Flow<'_, N>, statement: &Rc<Statement>) {
        let is_fresh = self.server.exchange.is_fresh();
        self.ensure(flow, statement);
        if is_fresh {
            flow.replay.begin();
        }
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
        self.totals.server_parses += 1;
    }

    /// The statement without a name, if the client means that and this server has not met it.
    pub(super) fn ensure_unnamed<N: Net>(&mut self, flow: &mut Flow<'_, N>, called: &[u8]) {
        if !called.is_empty() || self.server.has_unnamed || self.server.exchange.skips() {
            return;
        }
        self.server.has_unnamed = true;
        self.scratch.clear();
        if let Some(Unnamed { text, types, .. }) = &self.client.unnamed {
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
        if let Some(act) = self.bind_refused(flow, head) {
            return act;
        }
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
                self.bind_unnamed(flow, head.statement);
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
        if let Some(act) = self.bind_refused(flow, head) {
            return act;
        }
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
                self.bind_unnamed(flow, head.statement);
                header(flow, tag::BIND, body_bytes);
                flow.write(kept);
            }
        }
        Act::Pass
    }

    /// A statement may have been prepared before it was agreed on what it must not set.
    fn bind_refused<N: Net>(&mut self, flow: &mut Flow<'_, N>, head: &BindHead<'_>) -> Option<Act> {
        let error = match self.known(head.statement) {
            Some(known) => self.lowers(known.words, &known.text),
            None => {
                let unnamed = self.client.unnamed.as_ref().filter(|_| head.statement.is_empty())?;
                self.lowers(unnamed.words, &unnamed.text)
            }
        };
        self.fail(flow, error?);
        Some(Act::Drop)
    }

    /// The statement without a name is bound, or one that nobody knows.
    fn bind_unnamed<N: Net>(&mut self, flow: &mut Flow<'_, N>, called: &[u8]) {
        self.ensure_unnamed(flow, called);
        // It may have been prepared long before, elsewhere.
        if let Some(unnamed) = self.client.unnamed.as_ref().filter(|_| called.is_empty()) {
            note(self.server, unnamed.words, Some(&unnamed.text));
        }
        self.server.exchange.owe(Owed::Bind);
    }

    fn bind_to<N: Net>(
        &mut self,
        flow: &mut Flow<'_, N>,
        head: &BindHead<'_>,
        body_bytes: usize,
        statement: &Rc<Statement>,
    ) {
        self.totals.binds += u64::from(!self.server.exchange.skips());
        self.ensure_first(flow, statement);
        note(self.server, statement.words, Some(&statement.text));
        self.server.exchange.owe(Owed::Bind);
        self.scratch.clear();
        let (called, rest) = (name(statement.number), body_bytes - head.rest_at);
        frontend::write::bind_head(self.scratch, head.portal, &called, rest);
        flow.write(self.scratch);
    }
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

/// A whole message.
pub(super) fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut message = Vec::with_capacity(HEADER_BYTES + body.len());
    put_header(&mut message, kind, body.len());
    message.extend_from_slice(body);
    message
}
