//! What servers say of their role, and how far behind standbys are.

use pgx_wire::backend::tag;
use pgx_wire::frontend;

use super::Worker;
use crate::attrs::ServerKind;
use crate::exchange::Owed;
use crate::ids::ServerId;
use crate::limits::LAG_CHECK_MS;
use crate::net::Net;
use crate::server::{Lag, Phase};

/// Asks a server before PostgreSQL 14, which does not report it, for its role.
const ROLE_QUERY: &[u8] = b"SELECT pg_catalog.pg_is_in_recovery()";

/// Asks how many milliseconds old the newest thing is that a standby shows, or would show had there
/// been anything new; no answer where it cannot tell. What has replayed everything while its
/// stream stands is not behind, however long ago the last transaction was.
const LAG_QUERY: &[u8] = b"SELECT CASE WHEN NOT pg_catalog.pg_is_in_recovery() THEN 0 \
    WHEN pg_catalog.pg_last_wal_receive_lsn() = pg_catalog.pg_last_wal_replay_lsn() \
    AND EXISTS (SELECT FROM pg_catalog.pg_stat_wal_receiver) THEN 0 \
    ELSE pg_catalog.ceil(1000 * pg_catalog.date_part('epoch', pg_catalog.clock_timestamp() \
    - pg_catalog.pg_last_xact_replay_timestamp()))::bigint END";

impl Worker {
    /// A server has let us in: is it one that is wanted? `None` while it has to be asked.
    pub(super) fn is_wanted_kind<N: Net>(&mut self, net: &mut N, id: ServerId) -> Option<bool> {
        let Some(server) = self.servers.get_mut(id) else { return Some(false) };
        let Phase::Login(login) = &mut server.phase else { return Some(false) };
        match ServerKind::reported(&server.reported) {
            Some(kind) => {
                let router = &mut self.entries[server.pool].router;
                Some(router.handle_kind(&server.address, kind, self.now))
            }
            // Whoever takes all servers need not know.
            None if server.attrs == Default::default() || login.is_asked => Some(true),
            // It may take no queries.
            None if self.entries[server.pool].name.is_replication() => Some(true),
            None => {
                login.is_asked = true;
                self.scratch.clear();
                frontend::write::query(&mut self.scratch, ROLE_QUERY);
                net.write(server.socket, &self.scratch);
                None
            }
        }
    }

    /// What a server answers that was asked for its role. Says whether the message is of that.
    pub(super) fn role_answer(&mut self, id: ServerId, kind: u8, body: &[u8]) -> bool {
        let Some(server) = self.servers.get_mut(id) else { return false };
        let Phase::Login(login) = &server.phase else { return false };
        if kind == tag::DATA_ROW && login.is_asked {
            let value: &[u8] = if body.ends_with(b"t") { b"on" } else { b"off" };
            server.reported.put(b"in_hot_standby", value);
        }
        login.is_asked
            && matches!(kind, tag::ROW_DESCRIPTION | tag::DATA_ROW | tag::COMMAND_COMPLETE)
    }

    /// Asks a server that nobody has how far behind it is, if that is limited and due. Says whether
    /// it is being asked; then it counts as one that is in use.
    pub(super) fn ask_lag<N: Net>(&mut self, net: &mut N, id: ServerId) -> bool {
        let Some(server) = self.servers.get_mut(id) else { return false };
        let entry = &self.entries[server.pool];
        let is_asked = entry.name.attrs.reads_standbys() && !entry.name.is_replication();
        if entry.settings.lag_ms_max == 0 || !is_asked {
            return false;
        }
        let asked = server.lag_asked;
        if asked.is_some_and(|asked| self.now < asked.after_ms(LAG_CHECK_MS)) {
            return false;
        }
        (server.lag_asked, server.lag, server.since) = (Some(self.now), Some(Lag::Asked), self.now);
        self.scratch.clear();
        frontend::write::query(&mut self.scratch, LAG_QUERY);
        net.write(server.socket, &self.scratch);
        server.exchange.owe(Owed::OurQuery);
        true
    }

    /// Idle servers are asked when that is due.
    pub(super) fn ask_idle_lags<N: Net>(&mut self, net: &mut N, pool: usize) {
        if self.entries[pool].settings.lag_ms_max == 0 {
            return;
        }
        let idle: alloc::vec::Vec<_> = self.entries[pool].pool.idle().collect();
        for id in idle {
            if self.ask_lag(net, id) {
                self.entries[pool].pool.borrow(id);
            }
        }
    }

    /// A server that nobody has is at rest: if it was asked, is it too far behind? Says whether it
    /// may be used.
    pub(super) fn is_near<N: Net>(&mut self, net: &mut N, id: ServerId) -> bool {
        let Some(server) = self.servers.get_mut(id) else { return false };
        let Some(lag) = server.lag.take() else { return true };
        let (pool, address) = (server.pool, server.address.clone());
        let entry = &mut self.entries[pool];
        let max = entry.settings.lag_ms_max;
        let found = match lag {
            Lag::Ms(found) if found <= max => {
                entry.router.handle_success(&address);
                return true;
            }
            Lag::Ms(found) => Some(found),
            Lag::Asked => None,
        };
        entry.router.handle_failure(&address, self.now);
        net.note(&crate::note::Note::Behind { address: &address, found_ms: found, max_ms: max });
        let is_there =
            |id: &ServerId| self.servers.get(*id).is_some_and(|server| server.address == address);
        let others: alloc::vec::Vec<_> = self.entries[pool].pool.idle().filter(is_there).collect();
        for other in others {
            self.close_idle(net, other);
        }
        false
    }
}

/// The number of milliseconds in a row.
pub(super) fn lag_of(body: &[u8]) -> Option<Lag> {
    let text = core::str::from_utf8(body.get(6..)?).ok()?;
    Some(Lag::Ms(text.parse::<i64>().ok()?.max(0).unsigned_abs()))
}
