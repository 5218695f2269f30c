//! What servers send.

use alloc::vec::Vec;

use pgx_wire::Share;
use pgx_wire::backend::{self, Fields, Status, tag};
use pgx_wire::frontend;

use super::from_client::is_unsettled;
use super::standby::lag_of;
use super::{Worker, rewrite, tell};
use crate::attrs::ServerKind;
use crate::client::Client;
use crate::config::PoolMode;
use crate::exchange::{Fate, Lost, Owed};
use crate::flow::Flow;
use crate::ids::ServerId;
use crate::limits::{COLLECT_BYTES_MAX, LOOKUP_ROWS_MAX};
use crate::net::Net;
use crate::scan::Words;
use crate::server::{Act, Lag, Phase, Server};
use crate::settings::{Values, is_settable};
use crate::statements::{Statements, name};
use crate::stats::Totals;
use crate::time::Now;

/// What a server says when it has discarded a session's state.
const DISCARD_ALL: &[u8] = b"DISCARD ALL";

/// Where a commit waits for standbys in PostgreSQL: what it says from there is that it waits no
/// more, because somebody has cancelled it or ends the session, and that it counts as committed.
const WAIT_FOR_STANDBYS: &[u8] = b"SyncRepWaitForLSN";

/// Where in PostgreSQL it is noticed that a statement's result would have other types than when it
/// was prepared. The error's code is one of many, and its words are in the server's language.
const STALE_PLAN: &[u8] = b"RevalidateCachedQuery";

/// What the walk over a piece found.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    /// Nothing that others need to know.
    On,
    /// The server may be used by somebody else from here on.
    Rest,
    /// Its client's settings are none that it takes: the client reads this, and leaves.
    Refused(Vec<u8>),
    /// Its client is in a transaction block, and may not be.
    Block,
    /// It ends, or cannot be understood any more.
    Broken(&'static str),
}

impl Worker {
    /// A client of another worker has changed tables.
    pub fn tables_changed(&mut self) {
        self.statements.renew();
    }

    /// A server has sent these bytes.
    pub fn server_bytes<N: Net>(&mut self, net: &mut N, id: ServerId, bytes: &[u8], now: Now) {
        self.now = now;
        let (mut at, mut is_free) = (0, false);
        if let Some(server) = self.servers.get(id).filter(|server| server.client.is_some()) {
            let pool = server.pool;
            self.totals(pool).sent += bytes.len() as u64;
        }
        loop {
            let Some(server) = self.servers.get(id) else { return };
            match server.phase {
                Phase::Ready => {}
                Phase::Asked => return self.server_answers_tls(net, id, bytes),
                _ => match self.server_login(net, id, bytes, &mut at) {
                    true => continue,
                    false => return,
                },
            }
            match self.server_walk(net, id, bytes, &mut at) {
                Step::On => break,
                Step::Rest => is_free |= self.rest(net, id),
                Step::Refused(error) => self.settings_refused(net, id, &error),
                Step::Block => self.block_refused(net, id),
                Step::Broken(why) => return self.server_lost(net, id, why.as_bytes()),
            }
        }
        // Only now: what is left of the piece was not the next client's to read.
        let Some(server) = self.servers.get(id) else { return };
        let exchange = &server.exchange;
        if let Some(client_id) = server.client {
            let Some(client) = self.clients.get_mut(client_id) else { return };
            if let Some(name) = &client.awaits {
                if !is_unsettled(client, server, name) {
                    self.go_on(net, client_id);
                }
                return;
            }
            let client = Some(client).filter(|client| client.is_waiting);
            if let Some(client) = client.filter(|_| exchange.is_answered()) {
                client.proven = client.settings.clone();
                self.go_on(net, client_id);
            }
            return;
        }
        if exchange.is_doubtful() || exchange.is_answered() && !exchange.is_at_rest() {
            self.close_server(net, id);
        } else if is_free {
            self.give_back(net, id);
        }
    }

    fn server_walk<N: Net>(
        &mut self,
        net: &mut N,
        id: ServerId,
        piece: &[u8],
        at: &mut usize,
    ) -> Step {
        let Self { clients, servers, statements, scratch, entries, stats, now, .. } = self;
        let Some(server) = servers.get_mut(id) else { return Step::On };
        let (totals, is_clusters) = {
            let entry = &entries[server.pool];
            (stats.at(entry.stats), entry.settings.is_clusters)
        };
        let mut client = server.client.and_then(|client| clients.get_mut(client));
        let mut flow = Flow::new(net, piece, true);
        flow.aim(client.as_ref().map(|client| client.socket));
        let mut walker = core::mem::take(&mut server.walker);
        let mut step = Step::On;
        while step == Step::On {
            let share = match walker.next(piece, at) {
                Ok(Some(share)) => share,
                Ok(None) => break,
                Err(_) => {
                    step = Step::Broken("invalid message length");
                    break;
                }
            };
            let client = client.as_deref_mut();
            let mut side = Side { client, server, statements, scratch, totals, is_clusters };
            step = side.share(&mut flow, &share, *now);
        }
        flow.flush();
        server.walker = walker;
        let is_blocked = client.is_some_and(|client| flow.net.is_blocked(client.socket));
        if is_blocked && !server.is_paused && step != Step::Rest {
            server.is_paused = true;
            flow.net.pause(server.socket);
        }
        step
    }

    /// A server owes nothing and is in no transaction. Says whether nobody has it any more.
    pub(super) fn rest<N: Net>(&mut self, net: &mut N, id: ServerId) -> bool {
        let Some(server) = self.servers.get_mut(id) else { return false };
        if server.words.has(Words::CHANGES) {
            server.words = server.words.without(Words::CHANGES);
            self.statements.renew();
            net.tables_changed();
        }
        let Some(client_id) = server.client else { return true };
        let Some(client) = self.clients.get_mut(client_id) else { return false };
        let is_settled =
            !client.is_waiting && client.awaits.is_none() && client.walker.is_between();
        if !client.shares() || server.is_kept || !is_settled {
            return false;
        }
        server.client = None;
        server.words = Words::default();
        server.has_unnamed = false;
        server.prepared.settle();
        client.server = None;
        client.since = self.now;
        if server.is_paused {
            server.is_paused = false;
            net.resume(server.socket);
        }
        if client.is_paused {
            client.is_paused = false;
            net.resume(client.socket);
        }
        true
    }
}

/// Whether a notice says that a commit waits for standbys no more. It would be told as done now,
/// and nobody knows what becomes of it.
fn lets_go(notice: &[u8]) -> bool {
    Fields::new(notice).routine() == Some(WAIT_FOR_STANDBYS)
}

/// A server with its client while a piece of its bytes is looked at.
struct Side<'a> {
    client: Option<&'a mut Client>,
    server: &'a mut Server,
    statements: &'a mut Statements,
    scratch: &'a mut Vec<u8>,
    totals: &'a mut Totals,
    /// Whether commits wait for standbys that could take over.
    is_clusters: bool,
}

impl Side<'_> {
    fn share<N: Net>(&mut self, flow: &mut Flow<'_, N>, share: &Share, now: Now) -> Step {
        if share.is_first {
            if share.tag != tag::ERROR || share.body_bytes > COLLECT_BYTES_MAX {
                self.release(flow);
            }
            self.server.act = self.begin(share.tag, share.body_bytes, now);
        }
        match self.server.act {
            Act::Pass => flow.pass(share),
            Act::Drop => {}
            Act::Collect => {
                let body = &flow.piece()[share.body()];
                if share.is_whole() && share.straddled.is_none() {
                    return self.message(flow, share.tag, body, Some(share), now);
                }
                self.server.partial.extend_from_slice(body);
                if share.is_last {
                    let partial = core::mem::take(&mut self.server.partial);
                    return self.message(flow, share.tag, &partial, None, now);
                }
            }
        }
        if share.is_last { self.answers(flow) } else { Step::On }
    }

    /// A message begins: what is to become of it?
    fn begin(&mut self, kind: u8, body_bytes: usize, now: Now) -> Act {
        let is_read = match kind {
            tag::READY | tag::ERROR | tag::PARAMETER_STATUS | tag::NOTIFICATION => true,
            // In a session's own server texts are not looked at; the length tells which to read.
            tag::COMMAND_COMPLETE if self.server.words == Words::default() => {
                body_bytes == DISCARD_ALL.len() + 1
            }
            // It may stand for something else.
            tag::COMMAND_COMPLETE | tag::EMPTY_QUERY => true,
            tag::PARAMETER_DESCRIPTION => self.server.replay.is_whole(),
            tag::DATA_ROW => {
                let is_asked = self.server.lag == Some(Lag::Asked) || self.server.lookup.is_some();
                is_asked && self.client.is_none()
            }
            // It may say that a commit has not waited.
            tag::NOTICE => self.is_clusters,
            _ => false,
        };
        if is_read && body_bytes <= COLLECT_BYTES_MAX {
            return Act::Collect;
        }
        if kind == tag::NOTICE && self.client.as_ref().is_some_and(|each| each.is_logging_in()) {
            // About its own settings.
            return Act::Pass;
        }
        let mut lost = Vec::new();
        let fate = self.server.exchange.receive(kind, &mut lost);
        self.undo(lost);
        match fate {
            Fate::Forward if self.client.is_some() => {
                if kind != tag::NOTICE {
                    self.server.replied.get_or_insert(now);
                    self.server.replay.stop();
                }
                Act::Pass
            }
            _ => Act::Drop,
        }
    }

    /// A whole message that the proxy reads; it stands in the piece as `share`, if it does.
    fn message<N: Net>(
        &mut self,
        flow: &mut Flow<'_, N>,
        kind: u8,
        body: &[u8],
        share: Option<&Share>,
        now: Now,
    ) -> Step {
        let is_ours = self.server.exchange.front() == Some(&Owed::OurQuery);
        let fate = match kind {
            tag::READY => match backend::ready(body) {
                Ok(status) => self.server.exchange.receive_ready(status),
                Err(_) => return Step::Broken("invalid transaction status"),
            },
            tag::ERROR if is_ours && self.client.is_some() && !Fields::new(body).is_fatal() => {
                return self.refused(body);
            }
            tag::ERROR if self.retry(flow.net, body) => return Step::On,
            tag::ERROR => match self.error(body) {
                Ok(fate) => fate,
                Err(step) => return step,
            },
            tag::PARAMETER_STATUS => self.parameter(body),
            tag::DATA_ROW if self.server.lookup.is_some() => {
                self.looked_up(body);
                Fate::Swallow
            }
            tag::DATA_ROW => {
                self.server.lag = lag_of(body).or(self.server.lag);
                Fate::Swallow
            }
            tag::NOTIFICATION => self.notification(body),
            tag::NOTICE if lets_go(body) => {
                return Step::Broken("a commit did not wait for standbys");
            }
            tag::NOTICE => self.server.exchange.receive(kind, &mut Vec::new()),
            _ => {
                self.complete(body);
                let mut lost = Vec::new();
                let fate = self.server.exchange.receive(kind, &mut lost);
                self.undo(lost);
                fate
            }
        };
        if kind == tag::READY && fate == Fate::Forward && self.is_refused_block() {
            return Step::Block;
        }
        if kind == tag::PARAMETER_DESCRIPTION && fate == Fate::Forward {
            // Nothing was said of the batch yet if its tables turn out to have changed.
            let mut message = Vec::new();
            rewrite::put_header(&mut message, kind, body.len());
            message.extend_from_slice(body);
            self.server.replay.hold(message);
            return Step::On;
        }
        let is_swallowed = fate == Fate::Swallow;
        self.deliver(flow, kind, body, share, fate, now);
        if kind != tag::READY {
            return self.answers(flow);
        }
        if is_ours && let Some(client) = self.client.as_deref_mut() {
            flow.flush();
            tell(flow.net, self.scratch, client, self.server);
        }
        self.answers(flow);
        if !is_swallowed {
            self.count(now);
        }
        self.ready(now)
    }

    /// The client gets a message, or what takes its place.
    fn deliver<N: Net>(
        &mut self,
        flow: &mut Flow<'_, N>,
        kind: u8,
        body: &[u8],
        share: Option<&Share>,
        fate: Fate,
        now: Now,
    ) {
        let is_answer = !matches!(kind, tag::PARAMETER_STATUS | tag::NOTIFICATION | tag::NOTICE);
        if is_answer && fate != Fate::Swallow {
            self.release(flow);
            self.server.replied.get_or_insert(now);
            self.server.replay.stop();
        }
        match (fate, share) {
            (Fate::Forward, Some(share)) => flow.pass(share),
            (Fate::Forward, None) => {
                rewrite::header(flow, kind, body.len());
                flow.write(body);
            }
            (Fate::Replace(bytes), _) => flow.write(&bytes),
            (Fate::Swallow, _) => {}
        }
    }

    /// The client gets what was held back for it; the batch cannot be sent once more from here on.
    fn release<N: Net>(&mut self, flow: &mut Flow<'_, N>) {
        let held = self.server.replay.take_held();
        if !held.is_empty() {
            flow.write(&held);
            self.server.replay.stop();
        }
    }

    /// The server does not take its client's settings.
    fn refused(&self, body: &[u8]) -> Step {
        if !self.client.as_ref().is_some_and(|client| client.is_waiting) {
            // They have been taken before: what is behind them may run without them.
            return Step::Broken("the settings of a client could not be set once more");
        }
        Step::Refused(rewrite::message(tag::ERROR, body))
    }

    /// Whether the server has told of a transaction block that its client may not have.
    fn is_refused_block(&self) -> bool {
        let exchange = &self.server.exchange;
        let is_block = exchange.status() != Status::Idle && !exchange.is_opaque();
        is_block && self.client.as_ref().is_some_and(|each| each.mode == PoolMode::Statement)
    }

    /// The proxy's own replies that are due now.
    fn answers<N: Net>(&mut self, flow: &mut Flow<'_, N>) -> Step {
        while let Some(answer) = self.server.exchange.next_answer() {
            flow.write(answer);
        }
        Step::On
    }

    /// The server has answered a query of its client's.
    fn count(&mut self, now: Now) {
        let Self { server, totals, .. } = self;
        totals.queries.add(now.us_since(server.asked));
        server.answered.set(server.answered.get() + 1);
        let replied = server.replied.take().unwrap_or(now);
        totals.transfers.add(now.us_since(replied));
        // What is behind it in the same flight begins now.
        server.asked = now;
        if server.exchange.status() == Status::Idle {
            totals.transactions.add(now.us_since(server.begun.unwrap_or(now)));
        }
    }

    /// The server has answered a request: may somebody else use it?
    fn ready(&mut self, now: Now) -> Step {
        // The query that was to clear the session came first of those that are owed an answer.
        self.server.words = self.server.words.without(Words::RESETS);
        let exchange = &self.server.exchange;
        if exchange.status() == Status::Idle && self.client.is_some() {
            // What is behind it in the same flight is another transaction.
            self.server.begun = Some(now);
        }
        if exchange.is_answered() {
            (self.server.may_commit, self.server.has_run) = (false, false);
            self.server.since = now;
            if let Some(client) = &mut self.client {
                client.since = now;
            }
        }
        if self.server.exchange.is_at_rest() { Step::Rest } else { Step::On }
    }

    /// An error: the end of a batch, or of the server.
    fn error(&mut self, body: &[u8]) -> Result<Fate, Step> {
        let fields = Fields::new(body);
        if fields.is_fatal() {
            self.server.farewell = fields.message().unwrap_or_default().to_vec();
            self.server.is_leaving = true;
            if self.client.is_none() {
                return Err(Step::Broken("the server ended the session"));
            }
            if self.is_final() {
                // There is nothing that the proxy could add.
                self.server.has_told = true;
                return Ok(Fate::Forward);
            }
            let state = fields.sqlstate();
            let ends = matches!(state.as_ref(), Some(b"57P01" | b"57P02" | b"57P03" | b"57P05"));
            let is_ours = self.server.exchange.front() == Some(&Owed::OurQuery);
            if ends || is_ours || self.server.exchange.is_answered() {
                // What the client is told follows from where it stands when the connection ends.
                return Err(Step::On);
            }
            self.server.has_told = true;
        }
        if fields.routine() == Some(STALE_PLAN) {
            self.statements.renew();
        }
        if let Some(lookup) = &mut self.server.lookup {
            lookup.error = Some(fields.message().unwrap_or_default().to_vec());
        }
        // Whether its settings were reset cannot be told any more.
        self.server.is_leaving |= self.server.words.has(Words::RESETS);
        let mut lost = Vec::new();
        let fate = self.server.exchange.receive(tag::ERROR, &mut lost);
        self.undo(lost);
        Ok(if self.client.is_some() { fate } else { Fate::Swallow })
    }

    /// The statement of a batch was prepared for tables as they were: it is prepared anew, and the
    /// batch sent once more, if nothing was said of it and that is safe. Says whether it was.
    fn retry<N: Net>(&mut self, net: &mut N, body: &[u8]) -> bool {
        let fields = Fields::new(body);
        if fields.routine() != Some(STALE_PLAN) || fields.sqlstate() != Some(*b"0A000") {
            return false;
        }
        let (Some(client), Some(number)) = (&self.client, self.server.replay.statement()) else {
            return false;
        };
        let known = client.names.values().find(|statement| statement.number == number);
        let Some(statement) = known.filter(|_| self.server.exchange.retry(number)) else {
            return false;
        };
        let called = name(number);
        self.scratch.clear();
        frontend::write::close(self.scratch, frontend::STATEMENT, &called);
        frontend::write::parse(self.scratch, &called, &statement.text, &statement.types);
        self.scratch.extend_from_slice(self.server.replay.bytes());
        net.write(self.server.socket, self.scratch);
        self.server.replay.take_held();
        self.server.replay.stop();
        self.statements.renew();
        true
    }

    /// Whether the client's session cannot outlive its server's, and the client may be told so in
    /// the server's own words.
    fn is_final(&self) -> bool {
        let is_ours = self.server.exchange.front() == Some(&Owed::OurQuery);
        let has_state = |client: &Client| !client.shares() || self.server.is_kept;
        !is_ours && self.client.as_deref().is_some_and(|each| has_state(each) && !each.is_waiting)
    }

    /// Somebody has notified. Clients know their own notifications by the number that they were
    /// told at the start, which may be the proxy's, not the server's.
    fn notification(&self, body: &[u8]) -> Fate {
        let Some(client) = self.client.as_deref() else { return Fate::Swallow };
        let (own, process) = (self.server.key.0.to_be_bytes(), client.process.to_be_bytes());
        let Some(rest) = body.strip_prefix(&own).filter(|_| own != process) else {
            return Fate::Forward;
        };
        let mut bytes = Vec::new();
        rewrite::put_header(&mut bytes, tag::NOTIFICATION, process.len() + rest.len());
        bytes.extend_from_slice(&process);
        bytes.extend_from_slice(rest);
        Fate::Replace(bytes)
    }

    /// What failed or was skipped has not happened.
    fn undo(&mut self, lost: Vec<Lost>) {
        for Lost { number, undo, is_close } in lost.into_iter().rev() {
            if is_close {
                self.server.prepared.may_have_more = true;
                continue;
            }
            match number {
                Some(0) => self.server.has_unnamed = false,
                Some(number) => self.server.prepared.lose(number),
                None => {}
            }
            if let (None, None, Some(client)) = (number, &undo, self.client.as_deref_mut()) {
                // The one without a name was not prepared.
                client.unnamed = None;
            }
            let (Some(undo), Some(client)) = (undo, self.client.as_deref_mut()) else { continue };
            let after = match undo.before {
                Some(before) => client.names.insert(undo.name, before),
                None => client.names.remove(&undo.name),
            };
            if let Some(statement) = after {
                self.statements.give_back(&statement);
            }
        }
    }

    /// A setting has changed, or is told at the start.
    fn parameter(&mut self, body: &[u8]) -> Fate {
        let mut none = Vec::new();
        let fate = self.server.exchange.receive(tag::PARAMETER_STATUS, &mut none);
        let Ok((name, value)) = backend::parameter_status(body) else { return fate };
        self.server.reported.put(name, value);
        let kind = ServerKind::reported(&self.server.reported);
        if name == b"in_hot_standby" && kind.is_some_and(|kind| !self.server.attrs.accepts(kind)) {
            // It was promoted: another takes its place in this pool.
            self.server.is_leaving = true;
        }
        let Some(client) = self.client.as_deref_mut().filter(|_| fate == Fate::Forward) else {
            return Fate::Swallow;
        };
        client.reported.put(name, value);
        // What RESET ALL leads to is nobody's wish.
        let is_wished =
            self.server.words.has(Words::SETTING) && !self.server.words.has(Words::RESETS);
        if is_wished && client.shares() && is_settable(name) {
            let is_proven = client.settings.is_same(&mut client.proven);
            client.settings.set(name, value);
            self.server.settings.set(name, value);
            if is_proven {
                client.proven = client.settings.clone();
            }
        }
        fate
    }

    /// A row about the user that was asked for.
    fn looked_up(&mut self, body: &[u8]) {
        let Some(lookup) = &mut self.server.lookup else { return };
        if lookup.rows.len() < LOOKUP_ROWS_MAX {
            lookup.rows.push(body.to_vec());
        }
    }

    /// A command that may have changed the session has ended.
    fn complete(&mut self, body: &[u8]) {
        let Ok(done) = backend::command_tag(body) else { return };
        let Some(client) = self.client.as_deref_mut() else { return };
        if matches!(done, DISCARD_ALL | b"DEALLOCATE ALL") {
            let exchange = &self.server.exchange;
            let is_last = exchange.readies_owed() <= 1;
            self.server.prepared.forgotten(&exchange.numbers(), !is_last);
            // What was named behind the command stays.
            let later = self.server.exchange.forget_names();
            for (name, statement) in core::mem::take(&mut client.names) {
                if later.contains(&name) {
                    client.names.insert(name, statement);
                } else {
                    self.statements.give_back(&statement);
                }
            }
        }
        if done == DISCARD_ALL {
            self.server.is_kept = false;
        }
        let resets = done == b"RESET" && self.server.words.has(Words::RESETS);
        if done == DISCARD_ALL || resets {
            let left = if resets { self.server.settings.who_acts() } else { Values::new() };
            self.server.settings = self.server.base.clone();
            left.iter().for_each(|(name, value)| self.server.settings.set(name, value));
            client.settings = client.startup.clone();
        }
    }
}
