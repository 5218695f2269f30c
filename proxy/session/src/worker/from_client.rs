//! What clients send.

use alloc::borrow::Cow;
use alloc::boxed::Box;
use alloc::vec::Vec;

use pgx_wire::backend::{self, Status};
use pgx_wire::frontend::{self, BindHead, Parse, STATEMENT, tag};
use pgx_wire::limits::HEADER_BYTES;
use pgx_wire::{ErrorResponse, Severity, Share, SqlState};

use super::query::{deallocated, may_deallocate};
use super::state::{ends, note_query, refusal_by_size};
use super::{Worker, adjust, rewrite};
use crate::client::{Act, Client, Phase};
use crate::exchange::Owed;
use crate::flow::Flow;
use crate::ids::ClientId;
use crate::limits::{ANSWERS_MAX, COLLECT_BYTES_MAX, TEXT_BYTES_MAX};
use crate::net::Net;
use crate::note::Note;
use crate::scan::{Scan, Words};
use crate::server::Server;
use crate::statements::Statements;
use crate::stats::Totals;
use crate::strict::is_suspect;
use crate::time::Now;

/// What the walk over a piece does next.
enum Step {
    /// Looks at the next share.
    On,
    /// The client has no server for what begins at this place.
    Wait(usize),
    /// What this message means shows by answers that are owed.
    Hold(Vec<u8>),
    /// The client leaves.
    Leave,
    /// The client cannot be understood.
    Violation(&'static str),
    /// All but the end of a text of so many bytes is with the server, and may set too low what
    /// strict clusters bound.
    Cut(usize),
}

impl Worker {
    /// A client has sent these bytes.
    pub fn client_bytes<N: Net>(&mut self, net: &mut N, id: ClientId, bytes: &[u8], now: Now) {
        self.now = now;
        let Some(client) = self.clients.get_mut(id) else { return };
        match &client.phase {
            Phase::Ready => {
                let pool = client.pool;
                self.totals(pool).received += bytes.len() as u64;
                self.client_piece(net, id, bytes, true);
            }
            Phase::Startup(_) => self.client_startup(net, id, bytes),
            Phase::Login(_) => self.client_login(net, id, bytes),
            Phase::Console(_) => self.console_bytes(net, id, bytes),
            // It has said all that it may.
            Phase::Cancels(_) => {}
        }
    }

    /// A client has closed its side, or its connection is gone.
    pub fn client_ended<N: Net>(&mut self, net: &mut N, id: ClientId, now: Now) {
        self.now = now;
        if let Some(client) = self.clients.get(id) {
            net.abort(client.socket);
            self.forget_client(net, id);
        }
    }

    /// Bytes of a client that is in; those that were held are not the driver's any more.
    pub(super) fn client_piece<N: Net>(
        &mut self,
        net: &mut N,
        id: ClientId,
        piece: &[u8],
        is_live: bool,
    ) {
        let mut at = 0;
        loop {
            let Some(client) = self.clients.get_mut(id) else { return };
            if client.is_waiting || client.awaits.is_some() {
                client.held.extend_from_slice(&piece[at..]);
                return;
            }
            match self.walk(net, id, piece, &mut at, is_live) {
                Step::On => return self.settle(net, id),
                Step::Wait(from) => {
                    at = from;
                    let has_server = self.ask(net, id);
                    let Some(client) = self.clients.get_mut(id) else { return };
                    if has_server && client.held.is_empty() {
                        continue;
                    }
                    client.held.extend_from_slice(&piece[at..]);
                    if !has_server {
                        return;
                    }
                    // Its header came with an earlier piece, which the driver has no more.
                    let held = core::mem::take(&mut client.held);
                    return self.client_piece(net, id, &held, false);
                }
                Step::Hold(begun) => {
                    let Some(client) = self.clients.get_mut(id) else { return };
                    client.held = begun;
                    client.held.extend_from_slice(&piece[at..]);
                    if !client.is_paused {
                        client.is_paused = true;
                        net.pause(client.socket);
                    }
                    return;
                }
                Step::Leave => {
                    let Some(client) = self.clients.get(id) else { return };
                    net.finish(client.socket);
                    return self.forget_client(net, id);
                }
                Step::Cut(bytes) => return self.refuse_cut(net, id, bytes),
                Step::Violation(what) => {
                    net.note(&Note::Violation { client: id, what });
                    let state = SqlState::PROTOCOL_VIOLATION;
                    let error = ErrorResponse::new(Severity::Fatal, state, what);
                    return self.dismiss(net, id, &error);
                }
            }
        }
    }

    /// A client may hold a server that it needs no more: it had begun a message when the server
    /// was free, and the message needs none.
    fn settle<N: Net>(&mut self, net: &mut N, id: ClientId) {
        let server = self.clients.get(id).and_then(|client| client.server);
        let server = server.and_then(|server| self.servers.get(server));
        if let Some(server) = server.filter(|server| server.exchange.is_at_rest()) {
            let server = server.id;
            if self.rest(net, server) {
                self.give_back(net, server);
            }
        }
    }

    /// Walks over a piece until it is used up, or something is missing.
    fn walk<N: Net>(
        &mut self,
        net: &mut N,
        id: ClientId,
        piece: &[u8],
        at: &mut usize,
        is_live: bool,
    ) -> Step {
        let Self { clients, servers, statements, scratch, config, now, entries, stats, .. } = self;
        let Some(client) = clients.get_mut(id) else { return Step::On };
        statements.set_now(*now);
        let totals = stats.at(entries[client.pool].stats);
        let refuses = client.shares() && entries[client.pool].settings.refuses_state;
        let is_strict = entries[client.pool].is_strict;
        let mut server = client.server.and_then(|server| servers.get_mut(server));
        let mut flow = Flow::new(net, piece, is_live);
        flow.aim(server.as_ref().map(|server| server.socket));
        let mut walker = client.walker.clone();
        if let Some(server) = &mut server {
            flow.replay = core::mem::take(&mut server.replay);
        }
        let step = loop {
            let share = match walker.next(piece, at) {
                Ok(Some(share)) => share,
                Ok(None) => break Step::On,
                Err(_) => break Step::Violation("invalid message length"),
            };
            let server = server.as_deref_mut();
            let mut side = Side { client, server, statements, scratch, totals, refuses, is_strict };
            match side.share(&mut flow, &share, config.limits.prepared_max, *now) {
                Step::On => {}
                Step::Wait(_) => {
                    // The header may have come with an earlier piece: it is kept with the rest.
                    client.held.extend(share.straddled.iter().flatten());
                    break Step::Wait(share.range.start);
                }
                other => break other,
            }
        };
        flow.flush();
        if let Some(server) = &mut server {
            server.replay = core::mem::take(&mut flow.replay);
        }
        match step {
            Step::On => client.walker = walker,
            Step::Wait(_) | Step::Hold(_) => {
                client.walker = pgx_wire::Walker::default();
                return step;
            }
            Step::Leave | Step::Violation(_) | Step::Cut(_) => return step,
        }
        // Who does not read what the proxy answers itself is not read from either.
        let is_blocked = server.is_some_and(|server| flow.net.is_blocked(server.socket))
            || flow.net.is_blocked(client.socket);
        if is_blocked && !client.is_paused {
            client.is_paused = true;
            flow.net.pause(client.socket);
        }
        Step::On
    }
}

/// A client with its server while a piece of its bytes is looked at.
struct Side<'a> {
    client: &'a mut Client,
    server: Option<&'a mut Server>,
    statements: &'a mut Statements,
    scratch: &'a mut Vec<u8>,
    totals: &'a mut Totals,
    /// What would stay on the server is refused.
    refuses: bool,
    /// So is what lets commits be told as done too early.
    is_strict: bool,
}

impl Side<'_> {
    fn share<N: Net>(
        &mut self,
        flow: &mut Flow<'_, N>,
        share: &Share,
        prepared_max: usize,
        now: Now,
    ) -> Step {
        if share.is_first {
            flow.replay.is_followed();
            match self.begin(flow, share, now) {
                Ok(act) => self.client.act = act,
                Err(step) => return step,
            }
        }
        if self.client.act == Act::Pass
            && let Some(step) = self.text(flow.piece(), share)
        {
            return step;
        }
        match self.client.act {
            Act::Pass => {
                flow.pass(share);
                if share.tag == tag::SYNC {
                    flow.replay.end();
                }
            }
            Act::Drop => {}
            Act::Collect => return self.collect(flow, share, prepared_max),
            Act::Head => return self.head(flow, share, prepared_max),
        }
        Step::On
    }

    /// A message begins: what is to become of it?
    fn begin<N: Net>(
        &mut self,
        flow: &mut Flow<'_, N>,
        share: &Share,
        now: Now,
    ) -> Result<Act, Step> {
        let kind = share.tag;
        if kind == tag::TERMINATE {
            return Err(Step::Leave);
        }
        if !is_known(kind) {
            return Err(Step::Violation("invalid frontend message type"));
        }
        if self.client.stand_in.is_some() {
            return Ok(Act::Collect);
        }
        let (shares, is_bounded) = (self.client.shares(), self.is_bounded(kind));
        let Some(server) = self.server.as_deref_mut() else {
            return match kind {
                // The rest of a copy that the server has ended.
                tag::COPY_DATA | tag::COPY_DONE | tag::COPY_FAIL | tag::FLUSH => Ok(Act::Drop),
                tag::SYNC => {
                    self.scratch.clear();
                    backend::write::ready(self.scratch, Status::Idle);
                    flow.net.write(self.client.socket, self.scratch);
                    Ok(Act::Drop)
                }
                _ => Err(Step::Wait(share.range.start)),
            };
        };
        if !server.exchange.in_transaction() {
            server.begun = Some(now);
        }
        if server.exchange.is_answered() {
            self.client.since = now;
            (server.since, server.asked) = (now, now);
            if server.exchange.is_at_rest() {
                flow.flush();
                adjust(flow.net, self.scratch, self.client, server);
            }
        }
        match kind {
            // Only whoever shares servers has statements that are called otherwise there.
            tag::PARSE | tag::DESCRIBE | tag::CLOSE if shares => return Ok(Act::Collect),
            tag::BIND if shares => return Ok(Act::Head),
            tag::QUERY if self.refuses || shares && may_deallocate(flow.piece(), share) => {
                return Ok(Act::Collect);
            }
            _ if is_bounded && may_be_kept(share) => return Ok(Act::Collect),
            tag::PARSE => self.client.scan = Scan::default(),
            tag::QUERY => {
                self.client.scan = Scan::default();
                self.client.unnamed = None;
                server.has_unnamed = false;
            }
            _ => {}
        }
        // Whether a query ends a block shows in its text.
        if matches!(kind, tag::QUERY | tag::EXECUTE | tag::FUNCTION_CALL) {
            server.runs(shares, kind == tag::EXECUTE && server.words.has(Words::ENDS));
        }
        server.exchange.send(kind);
        Ok(Act::Pass)
    }

    /// A text goes on as it comes, and is looked at meanwhile.
    fn text(&mut self, piece: &[u8], share: &Share) -> Option<Step> {
        let is_query = share.tag == tag::QUERY && self.client.shares();
        if !is_query && !self.is_bounded(share.tag) {
            return None;
        }
        self.client.scan.feed(&piece[share.body()]);
        if !share.is_last {
            return None;
        }
        if self.is_bounded(share.tag) && is_suspect(self.client.scan.end()) {
            return Some(Step::Cut(share.body_bytes));
        }
        if is_query {
            let whole = share.is_whole().then(|| &piece[share.body()]);
            self.end_query(whole);
        }
        None
    }

    /// Whether a message has a text that may not lower what strict clusters bound.
    fn is_bounded(&self, kind: u8) -> bool {
        let skips = self.server.as_ref().is_some_and(|server| server.exchange.skips());
        self.is_strict && !skips && matches!(kind, tag::QUERY | tag::PARSE)
    }

    /// A query's text is known: does it leave something on the server?
    fn end_query(&mut self, whole: Option<&[u8]>) {
        let words = core::mem::take(&mut self.client.scan).end();
        let Some(server) = self.server.as_deref_mut() else { return };
        server.may_commit |= ends(words, whole);
        let is_alone =
            server.exchange.status() == Status::Idle && server.exchange.readies_owed() == 1;
        note_query(server, words, whole, is_alone);
    }

    /// Keeps a message until it is whole, then looks at it.
    fn collect<N: Net>(
        &mut self,
        flow: &mut Flow<'_, N>,
        share: &Share,
        prepared_max: usize,
    ) -> Step {
        if share.body_bytes > COLLECT_BYTES_MAX && self.client.stand_in.is_none() {
            return self.too_large(flow, share);
        }
        let body = &flow.piece()[share.body()];
        if share.is_whole() && share.straddled.is_none() {
            let name = named(share.tag, body);
            if let Some(step) = self.hold(share.tag, share.body_bytes, &name, body) {
                return step;
            }
            self.message(flow, share.tag, body, Some(share), prepared_max);
            return self.bounded();
        }
        if self.client.stand_in.is_none() || self.client.partial.len() < COLLECT_BYTES_MAX {
            self.client.partial.extend_from_slice(body);
        }
        if share.is_last {
            let partial = core::mem::take(&mut self.client.partial);
            let name = named(share.tag, &partial);
            if let Some(step) = self.hold(share.tag, share.body_bytes, &name, &partial) {
                return step;
            }
            self.message(flow, share.tag, &partial, None, prepared_max);
        }
        self.bounded()
    }

    /// Holds a message whose name may come to mean something else by the answers that are owed:
    /// a batch that changes it may fail, or the server may be about to forget all names.
    fn hold(&mut self, kind: u8, body_bytes: usize, name: &[u8], begun: &[u8]) -> Option<Step> {
        let has_name = !name.is_empty() && self.client.shares();
        let server = self.server.as_deref().filter(|_| has_name)?;
        if !is_unsettled(self.client, server, name) {
            return None;
        }
        self.client.awaits = Some(Box::from(name));
        let mut message = Vec::with_capacity(HEADER_BYTES + begun.len());
        rewrite::put_header(&mut message, kind, body_bytes);
        message.extend_from_slice(begun);
        Some(Step::Hold(message))
    }

    /// Nobody slows down a client that asks for replies that need no server.
    fn bounded(&self) -> Step {
        let answers = self.server.as_ref().map_or(0, |server| server.exchange.answers_owed());
        if answers > ANSWERS_MAX {
            return Step::Violation("too many statements are prepared or closed at once");
        }
        Step::On
    }

    /// A message that is too large to be kept goes on as it is; its server stays with the client,
    /// since only there its name means what it should. Where that is refused, it is.
    fn too_large<N: Net>(&mut self, flow: &mut Flow<'_, N>, share: &Share) -> Step {
        let Some(mut rewriter) = self.rewriter(0) else { return Step::On };
        if rewriter.refuses {
            let error = refusal_by_size(share.body_bytes);
            if share.tag == tag::QUERY {
                rewriter.fail_query(flow, error);
            } else {
                rewriter.fail(flow, error);
            }
            self.client.act = Act::Drop;
            return Step::On;
        }
        // The statement without a name may be this one: nothing is prepared behind it.
        rewriter.ensure_unnamed(flow, b"");
        rewriter.server.exchange.send(share.tag);
        rewriter.server.is_kept = true;
        self.client.act = Act::Pass;
        self.client.scan = Scan::default();
        if let Some(step) = self.text(flow.piece(), share) {
            return step;
        }
        flow.pass(share);
        Step::On
    }

    fn rewriter(&mut self, prepared_max: usize) -> Option<rewrite::Rewriter<'_>> {
        Some(rewrite::Rewriter {
            client: self.client,
            server: self.server.as_deref_mut()?,
            statements: self.statements,
            scratch: self.scratch,
            totals: self.totals,
            prepared_max,
            refuses: self.refuses,
            is_strict: self.is_strict,
        })
    }

    /// A whole message, which stands in the piece as this share, if it does.
    fn message<N: Net>(
        &mut self,
        flow: &mut Flow<'_, N>,
        kind: u8,
        body: &[u8],
        share: Option<&Share>,
        prepared_max: usize,
    ) {
        if let Some(stand_in) = &mut self.client.stand_in {
            if kind == tag::CLOSE
                && !stand_in.skips()
                && let Ok((STATEMENT, name)) = frontend::target(body)
                && let Some(statement) = self.client.names.remove(name)
            {
                self.statements.give_back(&statement);
            }
            self.scratch.clear();
            let has_ended = stand_in.answer(kind, body, &self.client.names, self.scratch);
            flow.net.write(self.client.socket, self.scratch);
            if has_ended {
                self.client.stand_in = None;
            }
            return;
        }
        let shares = self.client.shares();
        let Some(mut rewriter) = self.rewriter(prepared_max) else { return };
        if !shares {
            return rewriter.text_of_own(flow, kind, body, share);
        }
        rewriter.message(flow, kind, body, share);
        // Within a message of the server's there is no place for another.
        while !rewriter.server.is_cut()
            && let Some(answer) = rewriter.server.exchange.next_answer()
        {
            flow.net.write(rewriter.client.socket, answer);
        }
    }

    /// A Bind: its names, then the values as they come.
    fn head<N: Net>(&mut self, flow: &mut Flow<'_, N>, share: &Share, prepared_max: usize) -> Step {
        let mut partial = core::mem::take(&mut self.client.partial);
        let body = &flow.piece()[share.body()];
        let is_here = share.is_first && share.straddled.is_none();
        let head = if is_here { BindHead::read(body) } else { None };
        if head.is_none() {
            partial.extend_from_slice(body);
        }
        let begun = if head.is_some() { body } else { &partial };
        let head = head.or_else(|| BindHead::read(&partial));
        if let Some(head) = &head
            && let Some(step) = self.hold(tag::BIND, share.body_bytes, head.statement, begun)
        {
            return step;
        }
        let Some(mut rewriter) = self.rewriter(prepared_max) else { return Step::On };
        match head {
            Some(head) if partial.is_empty() => {
                let act = rewriter.bind(flow, &head, share.body_bytes, share, body.len());
                self.client.act = act;
            }
            Some(head) => {
                let act = rewriter.bind_kept(flow, &head, share.body_bytes, &partial);
                self.client.act = act;
            }
            // Broken, or names of a length that nobody uses: the server says what it thinks of it.
            None if share.is_last || partial.len() > COLLECT_BYTES_MAX => {
                rewriter.server.exchange.owe(Owed::Bind);
                rewrite::header(flow, tag::BIND, share.body_bytes);
                flow.write(&partial);
                self.client.act = Act::Pass;
            }
            None => self.client.partial = partial,
        }
        Step::On
    }
}

/// Whether it shows only by answers that are owed what a client's name means.
pub(super) fn is_unsettled(client: &Client, server: &Server, name: &[u8]) -> bool {
    let exchange = &server.exchange;
    // A client that copies has to go on, whatever comes of it.
    let may_forget = server.prepared.is_unsure && exchange.readies_owed() > 0;
    let may_forget = may_forget && client.names.contains_key(name) && !exchange.is_new(name);
    (may_forget || exchange.is_unsettled(name)) && !exchange.copies()
}

/// Whether a text is small enough, or here already, to be looked at before any of it goes on.
fn may_be_kept(share: &Share) -> bool {
    share.body_bytes <= TEXT_BYTES_MAX || share.is_whole() && share.body_bytes <= COLLECT_BYTES_MAX
}

/// The statement that a message names that is kept until it is whole.
fn named(kind: u8, body: &[u8]) -> Cow<'_, [u8]> {
    if kind == tag::QUERY {
        return Cow::Owned(deallocated(body).unwrap_or_default());
    }
    Cow::Borrowed(match (kind, frontend::target(body)) {
        (tag::PARSE, _) => Parse::read(body).map_or(b"", |parse| parse.name),
        (_, Ok((STATEMENT, name))) => name,
        _ => b"",
    })
}

fn is_known(kind: u8) -> bool {
    matches!(
        kind,
        tag::QUERY
            | tag::PARSE
            | tag::BIND
            | tag::DESCRIBE
            | tag::EXECUTE
            | tag::CLOSE
            | tag::SYNC
            | tag::FLUSH
            | tag::FUNCTION_CALL
            | tag::COPY_DATA
            | tag::COPY_DONE
            | tag::COPY_FAIL
    )
}
