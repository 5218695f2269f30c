//! What the proxy's threads know, as metrics.

use std::collections::{BTreeMap, BTreeSet};

use pgx_session::attrs::SessionAttrs;
use pgx_session::config::PoolMode;
use pgx_session::stats::Totals;
use pgx_session::worker::PoolView;

use super::list;
use super::page::{Page, seconds};
use crate::workers::{TLS_REASONS, Totals as Front, View, Wish, Workers};

/// What is asked of threads.
const WISH: Wish = Wish {
    stats: true,
    pools: true,
    databases: true,
    backends: true,
    clients: false,
    servers: false,
};

/// The sides of the proxy that connections are on.
const SIDES: [&str; 2] = ["client", "server"];

/// Why clients are turned away, by the code that they are told.
const REASONS: [(&str, &str); 13] = [
    ("53300", "too_many_connections"),
    ("28P01", "password"),
    ("28000", "authorization"),
    ("3D000", "database"),
    ("08001", "server_unreachable"),
    ("08006", "query_wait_timeout"),
    ("57P03", "login_or_pause_timeout"),
    ("57014", "query_timeout"),
    ("25P03", "idle_transaction_timeout"),
    ("25P04", "transaction_timeout"),
    ("57P05", "client_idle_timeout"),
    ("08P01", "protocol"),
    ("0A000", "unsupported"),
];

/// A proxy that passes bytes on unread.
pub(super) fn through(page: &mut Page, totals: &Front) {
    page.number(list::CLIENTS, &[], totals.clients);
    page.count(list::ACCEPTED, &[], totals.clients_total);
    // Its two errors are not told from each other.
    page.count(list::REFUSED, &["other", ""], totals.refused_total);
    page.count(list::UNREACHABLE, &["", ""], totals.unreachable_total);
}

/// A pool.
pub(super) async fn pooled(page: &mut Page, workers: &Workers) {
    let view = workers.view(WISH).await;
    for (thread, (engine, missing)) in workers.engines().iter().enumerate() {
        page.is(list::ENGINE, &[&thread.to_string(), engine, missing], true);
    }
    page.number(list::MISSING, &[], number(view.missing.len()));
    page.times(list::PAUSES, &[], &workers.pauses());
    if !view.missing.is_empty() {
        // Counters that go back and come again would look like many events.
        return;
    }
    whole(page, &view);
    for ((database, user), totals) in &view.stats {
        let (database, user) = (text(database), text(user));
        counted(page, &[&database, &user], totals);
    }
    pools(page, &view);
    databases(page, &view);
}

fn whole(page: &mut Page, view: &View) {
    let View { counts, gauges, events, .. } = view;
    page.number(list::CLIENTS, &[], number(gauges.clients));
    page.number(list::CLIENTS_MAX, &[], number(gauges.clients_max));
    page.number(list::CLIENTS_WAITING, &[], number(gauges.waiting));
    page.number(list::SERVERS, &[], number(gauges.servers));
    page.count(list::ACCEPTED, &[], counts.clients);
    page.count(list::VIOLATIONS, &[], events.violations);
    page.count(list::PINNED, &[], events.pinned);
    page.count(list::BEHIND, &[], events.behind);
    for (stage, count) in [
        ("asked", counts.cancels.asked),
        ("sent", counts.cancels.sent),
        ("passed_on", counts.cancels.passed_on),
    ] {
        page.count(list::CANCELS, &[stage], count);
    }
    failures(page, view);
}

/// What has happened and what might, with zero: a counter that begins with one has not grown to
/// Prometheus, which would miss the first of each.
fn failures(page: &mut Page, view: &View) {
    let mut refusals: BTreeMap<_, _> = REASONS.iter().map(|(sqlstate, _)| (*sqlstate, 0)).collect();
    refusals.extend(&view.refusals);
    for (sqlstate, count) in refusals {
        let known = REASONS.iter().find(|(known, _)| *known == sqlstate);
        let reason = known.map_or("other", |(_, reason)| reason);
        page.count(list::REFUSED, &[reason, sqlstate], count);
    }
    let all = SIDES.iter().flat_map(|side| TLS_REASONS.map(|reason| ((*side, reason), 0)));
    let mut broken: BTreeMap<_, _> = all.collect();
    broken.extend(&view.events.tls_failures);
    for ((side, reason), count) in broken {
        page.count(list::TLS, &[side, reason], count);
    }
}

fn counted(page: &mut Page, labels: &[&str], totals: &Totals) {
    for (metric, count) in [
        (list::RECEIVED, totals.received),
        (list::SENT, totals.sent),
        (list::CLIENT_PARSES, totals.client_parses),
        (list::SERVER_PARSES, totals.server_parses),
        (list::BINDS, totals.binds),
        (list::UNREACHABLE, totals.unreachable),
        (list::LOST, totals.lost),
        (list::DOUBTFUL, totals.doubtful),
    ] {
        page.count(metric, labels, count);
    }
    for (metric, times) in [
        (list::WAITS, &totals.waits),
        (list::TRANSACTIONS, &totals.transactions),
        (list::QUERIES, &totals.queries),
        (list::TRANSFERS, &totals.transfers),
        (list::CLIENT_LOGINS, &totals.client_logins),
        (list::SERVER_LOGINS, &totals.server_logins),
    ] {
        page.times(metric, labels, times);
    }
}

/// Pools that look the same by their labels are told as one.
fn pools(page: &mut Page, view: &View) {
    let mut all: Vec<(Labels, PoolView)> = Vec::new();
    for pool in &view.pools {
        let labels = Labels::of(pool);
        match all.iter_mut().find(|(known, _)| *known == labels) {
            Some((_, known)) => known.merge(pool),
            None => all.push((labels, pool.clone())),
        }
    }
    for (Labels { database, user, mode, target }, pool) in &all {
        let labels = [database.as_str(), user, mode, target];
        let with = |state: &'static str| [database.as_str(), user, *mode, *target, state];
        for (state, count) in [("active", pool.cl_active), ("waiting", pool.cl_waiting)] {
            page.number(list::POOL_CLIENTS, &with(state), count);
        }
        for (state, count) in [
            ("active", pool.sv_active),
            ("idle", pool.sv_idle),
            ("login", pool.sv_login),
            ("tested", pool.sv_tested),
            ("being_canceled", pool.sv_being_canceled),
        ] {
            page.number(list::POOL_SERVERS, &with(state), count);
        }
        for (state, count) in
            [("active", pool.cl_active_cancel_req), ("waiting", pool.cl_waiting_cancel_req)]
        {
            page.number(list::POOL_CANCELS, &with(state), count);
        }
        page.gauge(list::POOL_MAXWAIT, &labels, seconds(pool.maxwait_us));
        page.number(list::POOL_MAX, &labels, number(pool.pool_size + pool.reserve));
    }
}

#[derive(PartialEq, Eq)]
struct Labels {
    database: String,
    user: String,
    mode: &'static str,
    target: &'static str,
}

impl Labels {
    fn of(pool: &PoolView) -> Self {
        let mode = match pool.mode {
            _ if pool.is_replication => "replication",
            PoolMode::Session => "session",
            PoolMode::Transaction => "transaction",
            PoolMode::Statement => "statement",
        };
        let word = SessionAttrs::WORDS.iter().find(|(_, attrs)| *attrs == pool.attrs);
        // Names may be without end: those without a row of their own have none here either.
        let name = |name: &[u8]| if pool.is_counted_apart { text(name) } else { String::new() };
        Self {
            database: name(&pool.database),
            user: name(&pool.user),
            mode,
            target: word.map_or("", |(word, _)| word),
        }
    }
}

fn databases(page: &mut Page, view: &View) {
    let counted: BTreeSet<&[u8]> = view.stats.keys().map(|(name, _)| &name[..]).collect();
    for database in view.databases.iter().filter(|each| counted.contains(&each.name[..])) {
        let name = text(&database.name);
        let labels: [&str; 1] = [&name];
        page.number(list::DATABASE_SERVERS, &labels, number(database.connections));
        page.number(list::DATABASE_CLIENTS, &labels, number(database.client_connections));
        page.is(list::DATABASE_PAUSED, &labels, database.hold.is_some());
        for (metric, max) in [
            (list::DATABASE_SERVERS_MAX, database.max_connections),
            (list::DATABASE_CLIENTS_MAX, database.max_client_connections),
        ] {
            if max > 0 {
                page.number(metric, &labels, number(max));
            }
        }
    }
    for backend in view.backends.iter().filter(|each| counted.contains(&each.database[..])) {
        let labels: [&str; 2] = [&text(&backend.database), &backend.address.0];
        page.is(list::BACKEND_OUT, &labels, backend.is_out);
    }
}

fn text(name: &[u8]) -> String {
    String::from_utf8_lossy(name).into_owned()
}

fn number(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_told_from_the_start_so_that_the_first_counts() {
        let mut view = View::default();
        view.refusals.extend([("28P01", 2), ("XX000", 1)]);
        view.events.tls_failures.insert(("client", "refused"), 3);
        let mut page = Page::default();
        failures(&mut page, &view);
        let text = page.into_text().expect("text");
        for line in [
            r#"pgx_clients_refused_total{reason="password",sqlstate="28P01"} 2"#,
            r#"pgx_clients_refused_total{reason="other",sqlstate="XX000"} 1"#,
            r#"pgx_clients_refused_total{reason="too_many_connections",sqlstate="53300"} 0"#,
            r#"pgx_tls_failures_total{side="client",reason="refused"} 3"#,
            r#"pgx_tls_failures_total{side="server",reason="certificate"} 0"#,
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
    }
}
