//! Pools whose commits must not be told as done before a failover could not lose them: what their
//! clients and servers may begin with, and what becomes of those that are there when that is agreed
//! on. Texts are looked at in [`super::from_client`], by [`crate::strict`].

use alloc::collections::BTreeSet;
use alloc::vec::Vec;

use pgx_wire::backend::tag;
use pgx_wire::{Severity, SqlState, frontend};

use super::Worker;
use crate::ids::{ClientId, ServerId};
use crate::net::Net;
use crate::note::Note;
use crate::server::{Phase, Server};
use crate::settings::Settings;
use crate::strict::{BOUNDED, Bounded, refusal_by_size};

/// Asks a server what it begins with, in the order of [`BOUNDED`]. No `search_path` can make this
/// mean anything else.
const QUERY: &[u8] = b"SHOW synchronous_commit;SHOW client_min_messages";

impl Worker {
    /// A client asks at its start for what it may not have.
    pub(super) fn refuse_lowered<N: Net>(&mut self, net: &mut N, id: ClientId, what: &Bounded) {
        self.end_refused(net, id, what.name, &what.refusal(Severity::Fatal));
    }

    /// A client has sent all but the end of a text that may lower such a setting, and that is with
    /// its server already: the server gets no end of it, and so runs nothing of it.
    pub(super) fn refuse_cut<N: Net>(&mut self, net: &mut N, id: ClientId, bytes: usize) {
        let server = self.clients.get_mut(id).and_then(|client| client.server.take());
        let server = server.and_then(|server| self.servers.remove(server));
        let reason = "a large text names a setting that a strict cluster bounds";
        self.end_refused(net, id, reason, &refusal_by_size(bytes));
        let Some(Server { id, socket, pool, .. }) = server else { return };
        net.abort(socket);
        self.entries[pool].pool.lost(id);
        self.give_permit(pool);
        self.serve(net, pool);
    }

    fn end_refused<N: Net>(&mut self, net: &mut N, id: ClientId, reason: &str, error: &[u8]) {
        let Some(client) = self.clients.get(id) else { return };
        let socket = client.socket;
        self.count_refusal(SqlState::INVALID_PARAMETER_VALUE);
        net.note(&Note::Refused { client: id, reason });
        net.write(socket, error);
        net.finish(socket);
        self.forget_client(net, id);
    }

    /// A server has let us in: does it begin with enough? `None` while it has to be asked.
    ///
    /// What a role, a database or a configuration file has set shows only there. Where it is too
    /// low, the connection is made once more and begins with what it must: neither RESET nor
    /// DISCARD ALL goes below that.
    ///
    /// # Errors
    /// Why it is not to be used.
    pub(super) fn begins_high_enough<N: Net>(
        &mut self,
        net: &mut N,
        id: ServerId,
    ) -> Option<Result<(), Vec<u8>>> {
        let server = self.servers.get_mut(id)?;
        let Phase::Login(login) = &mut server.phase else { return None };
        let entry = &mut self.entries[server.pool];
        // A replication connection may take no queries.
        if !entry.is_strict || entry.name.is_replication() {
            return Some(Ok(()));
        }
        let Some(values) = &login.begins else {
            login.begins = Some(Vec::new());
            self.scratch.clear();
            frontend::write::query(&mut self.scratch, QUERY);
            net.write(server.socket, &self.scratch);
            return None;
        };
        let value = |at: usize| values.get(at).map_or(&b""[..], Vec::as_slice);
        let low = BOUNDED.iter().enumerate().filter(|(at, bounded)| !bounded.allows(value(*at)));
        let low: Vec<_> = low.map(|(_, bounded)| bounded.name).collect();
        if let Some(name) = low.iter().find(|name| login.raised.contains(*name)) {
            let reason = alloc::format!("the server begins with too low a \"{name}\" all the same");
            return Some(Err(reason.into_bytes()));
        }
        if low.is_empty() {
            return Some(Ok(()));
        }
        server.is_void = true;
        entry.raises.extend(low);
        Some(Err(Vec::new()))
    }

    /// What a server answers that was asked what it begins with. Says whether the message is of
    /// that.
    pub(super) fn beginning_answer(&mut self, id: ServerId, kind: u8, body: &[u8]) -> bool {
        let Some(server) = self.servers.get_mut(id) else { return false };
        let Phase::Login(login) = &mut server.phase else { return false };
        let Some(values) = &mut login.begins else { return false };
        if kind == tag::DATA_ROW && values.len() < BOUNDED.len() {
            // Behind the count of columns and the value's length.
            values.push(body.get(6..).unwrap_or_default().to_vec());
        }
        matches!(kind, tag::ROW_DESCRIPTION | tag::DATA_ROW | tag::COMMAND_COMPLETE)
    }

    /// It was agreed on, for clients of a pool, that no commit may be told as done too early, or
    /// that this is up to them.
    pub(super) fn set_strict<N: Net>(&mut self, net: &mut N, pool: usize, is_strict: bool) {
        let entry = &mut self.entries[pool];
        if core::mem::replace(&mut entry.is_strict, is_strict) == is_strict {
            return;
        }
        entry.raises.clear();
        // What these began with is not known, or not wanted any more.
        for server in self.servers.iter_mut().filter(|server| server.pool == pool) {
            // With a client, or between two: reset, cancelled, or asked how it stands.
            server.is_leaving |= matches!(server.phase, Phase::Ready);
        }
        if is_strict {
            self.raise_clients(pool);
        }
        self.close_all_idle(net, pool);
    }

    /// What clients have set too low, or may have, is set anew before their next transactions.
    fn raise_clients(&mut self, pool: usize) {
        let Self { clients, servers, .. } = self;
        let all = clients.iter_mut().filter(|client| client.counted.in_pool && client.pool == pool);
        for client in all.filter(|client| !client.is_replicating) {
            let server = client.server.and_then(|server| servers.get(server));
            let keeps = |server: &Server| !client.shares() || server.is_kept;
            // By texts that nobody has looked at.
            let may_have_set = server.is_some_and(keeps);
            for bounded in &BOUNDED {
                raise(&mut client.base, bounded, false);
                raise(&mut client.startup, bounded, false);
                raise(&mut client.settings, bounded, may_have_set);
            }
        }
    }
}

/// Raises a setting where it is too low, or where it is not there and `is_unknown`.
fn raise(settings: &mut Settings, bounded: &Bounded, is_unknown: bool) {
    let value = settings.values().get(bounded.name.as_bytes());
    if value.map_or(is_unknown, |value| !bounded.allows(value)) {
        settings.set(bounded.name.as_bytes(), bounded.least.as_bytes());
    }
}

/// What servers are told at their start that would begin too low with these.
pub(super) fn raised<'a>(
    names: &'a BTreeSet<&'static str>,
) -> impl Iterator<Item = (&'a [u8], &'a [u8])> {
    let all = BOUNDED.iter().filter(|bounded| names.contains(bounded.name));
    all.map(|bounded| (bounded.name.as_bytes(), bounded.least.as_bytes()))
}
