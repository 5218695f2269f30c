//! What must hold of a worker's numbers at any time, counted anew.

use alloc::vec::Vec;

use super::Worker;
use super::from_client::is_unsettled;
use crate::client;
use crate::server;

/// Counts servers and clients anew, and compares.
pub(super) fn recount(worker: &Worker) {
    for exchange in worker.servers.iter().map(|server| &server.exchange) {
        assert_eq!(exchange.readies_owed(), exchange.count_readies(), "{exchange:?}");
    }
    for (number, entry) in worker.entries.iter().enumerate() {
        let servers = || worker.servers.iter().filter(|server| server.pool == number);
        let is_ready = |server: &&server::Server| matches!(server.phase, server::Phase::Ready);
        let ready = servers().filter(is_ready).count();
        let idle: Vec<_> = entry.pool.idle().collect();
        let (busy, opening) = entry.pool.counts();
        assert_eq!(opening, servers().count() - ready, "servers that are being opened");
        assert_eq!(busy + idle.len(), ready, "busy and idle servers");
        let most = entry.settings.pool_size + entry.settings.reserve;
        assert!(entry.pool.total() <= most, "more servers than allowed");
        let admitted = |client: &&client::Client| client.counted.in_pool && client.pool == number;
        assert_eq!(entry.clients, worker.clients.iter().filter(admitted).count(), "clients");
        for id in &idle {
            let server = worker.servers.get(*id).expect("an idle server that is gone");
            assert!(server.client.is_none() && server.exchange.is_at_rest(), "{server:?}");
            assert!(!server.is_kept && !server.has_unnamed && server.cancels == 0, "{server:?}");
            assert!(!server.is_paused, "an idle server that is not read from");
        }
        for server in servers().filter(|server| !idle.contains(&server.id)) {
            assert!(server.client.is_some() || is_in_work(server), "nobody's: {server:?}");
        }
        for id in entry.pool.waiting() {
            let client = worker.clients.get(id).expect("one who waits is gone");
            assert!(client.is_waiting && client.server.is_none(), "{client:?}");
        }
        let fits = |client, server: &_| {
            super::are_fit(worker.clients.get(client), worker.servers.get(*server))
        };
        let is_starved = entry.pool.waiting().any(|one| idle.iter().any(|each| fits(one, each)));
        assert!(entry.is_held() || !is_starved, "clients wait while servers are idle");
    }
    worker.clients.iter().for_each(|client| of_client(worker, client));
    of_views(worker);
    for server in worker.servers.iter() {
        if let Some(client) = server.client {
            let client = worker.clients.get(client).expect("a server of one who is gone");
            assert_eq!(client.server, Some(server.id), "a server that its client does not have");
        }
        let cancels =
            worker.cancels.iter().filter(|cancel| cancel.server == Some(server.id)).count();
        assert_eq!(server.cancels as usize, cancels, "cancels on their way");
    }
}

/// A server of nobody's that will be idle, or is being opened.
fn is_in_work(server: &server::Server) -> bool {
    !matches!(server.phase, server::Phase::Ready)
        || server.cancels > 0
        || !server.exchange.is_answered()
}

/// Pools are told as they are.
fn of_views(worker: &Worker) {
    let pools = worker.pools(worker.now);
    for view in &pools {
        let is_it = |entry: &&super::entry::Entry| {
            let name = &entry.name;
            (&name.database, &name.user, name.attrs) == (&view.database, &view.user, view.attrs)
                && (name.mode, name.is_replication()) == (view.mode, view.is_replication)
        };
        let known = || worker.by_name.values().map(|place| &worker.entries[*place]).filter(is_it);
        let servers = view.sv_active + view.sv_idle + view.sv_tested + view.sv_login;
        let clients = view.cl_active + view.cl_waiting;
        // Replication connections that ask for something else are pools that look the same.
        if known().count() == 1 {
            let total: usize = known().map(|entry| entry.pool.total()).sum();
            assert_eq!(servers + view.sv_being_canceled, total as u64, "{view:?}");
            let total: usize = known().map(|entry| entry.clients).sum();
            assert_eq!(clients, total as u64, "{view:?}");
        }
    }
}

fn of_client(worker: &Worker, client: &client::Client) {
    if let Some(server) = client.server {
        let server = worker.servers.get(server).expect("a client whose server is gone");
        assert_eq!(server.client, Some(client.id), "a client with the server of another");
        assert!(client.stand_in.is_none(), "a server and a stand-in for it");
        let is_held = !client.held.is_empty();
        let awaited = client.awaits.as_deref();
        let waits = awaited.is_some_and(|name| is_unsettled(client, server, name));
        assert!(!is_held || client.is_waiting || waits, "held bytes that nobody will look at");
    } else if client.is_waiting {
        let mut waiting = worker.entries[client.pool].pool.waiting();
        assert!(waiting.any(|id| id == client.id), "one who waits and is not served");
    }
    assert!(!client.is_waiting || client.is_paused, "one who waits is read from");
}
