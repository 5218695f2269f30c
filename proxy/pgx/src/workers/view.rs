//! What all threads know, for whoever asks: consoles, metrics, operators.
//!
//! Each thread is asked by a letter and answers between two turns of its engine, so that nothing
//! is shared on the way of a query. One that does not answer in time is left out, and told of.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::time::Duration;

use pgx_ring::{Io, Key, Peer};
use pgx_session::net::Socket;
use pgx_session::stats::{Histogram, Row, Totals};
use pgx_session::worker::{
    BackendView, ClientView, Counts, DatabaseView, Gauges, PoolView, ServerView, Worker,
};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use super::driver::{Driver, Events};
use super::{Letter, Shared, Workers};
use crate::limits::VIEW_WAIT;

/// What is asked for; counters of whole threads are always told.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Wish {
    pub(crate) stats: bool,
    pub(crate) pools: bool,
    pub(crate) databases: bool,
    pub(crate) backends: bool,
    pub(crate) clients: bool,
    pub(crate) servers: bool,
}

/// A connection with its thread and its addresses; those of Unix sockets have none.
#[derive(Clone, Debug)]
#[allow(dead_code, reason = "rows of consoles")]
pub(crate) struct Seen<T> {
    pub(crate) thread: usize,
    pub(crate) view: T,
    pub(crate) remote: Option<SocketAddr>,
    pub(crate) local: Option<SocketAddr>,
    /// The socket's number in this process.
    pub(crate) fd: Option<i32>,
}

/// What threads say, added up.
#[derive(Clone, Debug, Default)]
pub(crate) struct View {
    /// Which of them have not answered.
    pub(crate) missing: Vec<usize>,
    pub(crate) counts: Counts,
    pub(crate) gauges: Gauges,
    pub(crate) events: Events,
    /// With which SQLSTATEs clients were turned away.
    pub(crate) refusals: BTreeMap<&'static str, u64>,
    /// By database and user; empty names are those that have no row of their own.
    pub(crate) stats: BTreeMap<(Vec<u8>, Vec<u8>), Totals>,
    pub(crate) pools: Vec<PoolView>,
    pub(crate) databases: Vec<DatabaseView>,
    pub(crate) backends: Vec<BackendView>,
    /// How many queries each backend has answered, by its address; told with the backends.
    pub(crate) answered: BTreeMap<String, u64>,
    pub(crate) clients: Vec<Seen<ClientView>>,
    pub(crate) servers: Vec<Seen<ServerView>>,
}

/// What one thread says.
#[derive(Default)]
pub(super) struct Report {
    thread: usize,
    counts: Counts,
    gauges: Gauges,
    events: Events,
    refusals: Vec<(&'static str, u64)>,
    stats: Vec<Row>,
    pools: Vec<PoolView>,
    databases: Vec<DatabaseView>,
    backends: Vec<BackendView>,
    answered: Vec<(String, u64)>,
    clients: Vec<Seen<ClientView>>,
    servers: Vec<Seen<ServerView>>,
}

/// Where it says so.
pub(super) type Reports = mpsc::UnboundedSender<Report>;

type Received = mpsc::UnboundedReceiver<Report>;

impl Workers {
    /// What all threads know. Takes [`VIEW_WAIT`] at most.
    pub(crate) async fn view(&self, wish: Wish) -> View {
        let (to, mut reports) = mpsc::unbounded_channel();
        for number in 0..self.shared.counts.len() {
            self.shared.send(number, Letter::View(wish, to.clone()));
        }
        drop(to);
        View::of(self.shared.counts.len(), &mut reports, VIEW_WAIT).await
    }

    /// The addresses of the names of backends, as far as they are known.
    pub(crate) fn addresses(&self) -> Vec<(String, SocketAddr)> {
        self.names.all()
    }

    /// How long databases were paused, each from its pause to its resumption.
    pub(crate) fn pauses(&self) -> Histogram {
        self.shared.pauses().ended.clone()
    }

    /// Which engine each thread has, and why not a better one.
    pub(crate) fn engines(&self) -> &[(&'static str, String)] {
        &self.engines
    }
}

/// A thread tells what it is asked for.
pub(super) fn report(io: &Io, driver: &Driver, wish: Wish, shared: &Shared) -> Report {
    let (worker, now, thread): (&Worker, _, _) = (&driver.worker, shared.now(), driver.number());
    let mut report = Report {
        thread,
        counts: worker.counts(),
        gauges: worker.gauges(),
        events: driver.events.clone(),
        refusals: worker.refusals().iter().map(|(state, count)| (state.text(), *count)).collect(),
        ..Report::default()
    };
    if wish.stats {
        report.stats = worker.stats().cloned().collect();
    }
    if wish.pools {
        report.pools = worker.pools(now);
    }
    if wish.databases {
        report.databases = worker.databases();
    }
    if wish.backends {
        report.backends = worker.backends(now);
        let answered = worker.answered();
        report.answered = answered.map(|(address, count)| (address.0.clone(), count)).collect();
    }
    if wish.clients {
        let views = worker.client_views(now);
        report.clients = views.map(|view| see(io, thread, view.socket, view)).collect();
    }
    if wish.servers {
        let views = worker.server_views(now);
        report.servers = views.map(|view| see(io, thread, view.socket, view)).collect();
    }
    report
}

fn see<T>(io: &Io, thread: usize, socket: Socket, view: T) -> Seen<T> {
    let key = Key::from_bits(socket.0);
    let remote = match io.peer(key) {
        Some(Peer::Tcp(address)) => Some(address),
        Some(Peer::Unix) | None => None,
    };
    let fd = io.fd(key).map(|fd| fd.as_raw_fd());
    let local = io.fd(key).and_then(|fd| rustix::net::getsockname(fd).ok());
    let local = local.and_then(|address| SocketAddr::try_from(address).ok());
    Seen { thread, view, remote, local, fd }
}

impl View {
    /// Adds reports up until all threads have answered, or have had their time.
    async fn of(threads: usize, reports: &mut Received, within: Duration) -> Self {
        let (mut view, end) = (Self::default(), Instant::now() + within);
        view.missing = (0..threads).collect();
        // One that has ended drops its letters, and the channel ends with the last.
        while let Ok(Some(report)) = timeout_at(end, reports.recv()).await {
            view.missing.retain(|number| *number != report.thread);
            view.add(report);
        }
        view
    }

    fn add(&mut self, report: Report) {
        let Report { counts, gauges, events, refusals, .. } = report;
        self.counts.clients += counts.clients;
        self.counts.refused += counts.refused;
        self.counts.unreachable += counts.unreachable;
        self.counts.cancels.asked += counts.cancels.asked;
        self.counts.cancels.sent += counts.cancels.sent;
        self.counts.cancels.passed_on += counts.cancels.passed_on;
        self.gauges.clients += gauges.clients;
        self.gauges.waiting += gauges.waiting;
        self.gauges.servers += gauges.servers;
        self.gauges.clients_max = gauges.clients_max;
        self.events.merge(&events);
        for (state, count) in refusals {
            *self.refusals.entry(state).or_default() += count;
        }
        for Row { database, user, totals } in report.stats {
            self.stats.entry((database, user)).or_default().merge(&totals);
        }
        for pool in report.pools {
            match self.pools.iter_mut().find(|known| is_same(known, &pool)) {
                Some(known) => known.merge(&pool),
                None => self.pools.push(pool),
            }
        }
        for database in report.databases {
            match self.databases.iter_mut().find(|known| known.name == database.name) {
                Some(known) => {
                    known.connections += database.connections;
                    known.client_connections += database.client_connections;
                }
                None => self.databases.push(database),
            }
        }
        for backend in report.backends {
            let is_same = |known: &&mut BackendView| {
                (&known.database, &known.address) == (&backend.database, &backend.address)
            };
            match self.backends.iter_mut().find(is_same) {
                Some(known) => known.is_out |= backend.is_out,
                None => self.backends.push(backend),
            }
        }
        for (address, count) in report.answered {
            *self.answered.entry(address).or_default() += count;
        }
        self.clients.extend(report.clients);
        self.servers.extend(report.servers);
    }
}

fn is_same(one: &PoolView, other: &PoolView) -> bool {
    let key = |view: &PoolView| (view.mode, view.attrs, view.is_replication);
    one.database == other.database && one.user == other.user && key(one) == key(other)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(thread: usize, clients: u64) -> Report {
        let counts = Counts { clients, ..Counts::default() };
        let totals = Totals { sent: clients, ..Totals::default() };
        let row = Row { database: b"shop".to_vec(), user: b"ann".to_vec(), totals };
        Report { thread, counts, stats: vec![row], ..Report::default() }
    }

    #[tokio::test]
    async fn what_threads_say_is_added_up_and_ends_with_the_last() {
        let (to, mut reports) = mpsc::unbounded_channel();
        for thread in [1, 0] {
            assert!(to.send(report(thread, 5)).is_ok());
        }
        drop(to);
        let view = View::of(2, &mut reports, Duration::from_secs(60)).await;
        assert_eq!((view.counts.clients, view.missing), (10, Vec::new()));
        let sent: Vec<u64> = view.stats.values().map(|totals| totals.sent).collect();
        assert_eq!(sent, [10]);
    }

    #[tokio::test]
    async fn thread_that_does_not_answer_in_time_is_left_out_and_named() {
        let (to, mut reports) = mpsc::unbounded_channel();
        assert!(to.send(report(0, 5)).is_ok());
        let view = View::of(2, &mut reports, Duration::from_millis(1)).await;
        assert_eq!((view.counts.clients, view.missing), (5, vec![1]));
        drop(to);
    }
}
