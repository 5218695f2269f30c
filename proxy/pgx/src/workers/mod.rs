//! The threads that serve clients: one engine and one set of sessions each, and nothing shared on
//! the way of a query.
//!
//! What threads have to tell each other goes through mailboxes: requests to cancel that reached
//! the wrong one, and the end. Counts are published a few times a second.

mod consoles;
mod course;
mod doors;
mod driver;
mod hash;
mod hold;
mod lobby;
mod names;
mod outside;
mod permits;
mod tls;
mod view;

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use pgx_ring::{Choice, Engine, Found, Setup, Waker};
use pgx_session::attrs::SessionAttrs;
use pgx_session::config::Config;
use pgx_session::ids::ClientId;
use pgx_session::permits::{Ledger, Word};
use pgx_session::route::ServerAddress;
use pgx_session::time::Now;
use pgx_session::worker::{Print, Request, Worker};
use pgx_wire::auth::Key;
use pgx_wire::auth::scram::SaltedPassword;
use tracing::{error, info, info_span};

pub(crate) use self::consoles::{Said, What};
pub(crate) use self::course::RouteLease;
pub(crate) use self::hold::{Databases, Pause};
pub(crate) use self::tls::REASONS as TLS_REASONS;
pub(crate) use self::view::{Seen, View, Wish};

use self::doors::Entrance;
use self::driver::{Driver, random};
use self::hash::Hasher;
use self::hold::{Order, Pauses};
use self::names::Names;
use self::outside::{OUTSIDE, Outside};
use crate::limits::{NAMES_PAUSE, SOCKETS_MAX, TICK};
use crate::sockets::Door;
use crate::tls::Papers;

/// What a thread is told.
enum Letter {
    /// Somebody asks to cancel a query that may be of this thread's.
    Cancel(Request),
    /// That has been done, or was not for the other thread.
    Cancelled(ClientId),
    /// A client of another thread has changed tables.
    TablesChanged,
    /// A password is hashed.
    Hashed(Print, SaltedPassword),
    /// Something about permits for servers.
    Permit(Word),
    /// New transactions are held, or go on.
    Databases(Databases, Order),
    /// Somebody wants to know what the thread knows.
    View(Wish, view::Reports),
    /// Another configuration is in force.
    Reload(Arc<(Config, Papers)>),
    /// What a client of the console has said is answered.
    Console(ClientId, Vec<u8>),
    /// A client is ended.
    Kill(ClientId),
    /// The cluster says who serves.
    Course(course::Order),
    /// A client that came in by a door of another thread.
    Client(OwnedFd, SessionAttrs),
    /// No new clients from here on.
    Close,
    /// All clients are told that their sessions end.
    ShutDown,
}

/// How others reach a thread.
struct Mailbox {
    letters: mpsc::Sender<Letter>,
    waker: Waker,
}

/// What all threads know.
struct Shared {
    started: Instant,
    mailboxes: Mutex<Vec<Mailbox>>,
    counts: Vec<Counts>,
    ledger: Mutex<Ledger>,
    hasher: Hasher,
    /// By this users who do not exist look like others, on all threads alike.
    mock: Key,
    /// Those of the start; threads have newer ones.
    papers: Papers,
    /// Of the last change of backends by an operator.
    epoch: AtomicU64,
    pauses: Mutex<Pauses>,
    /// Where clients of the console are heard.
    desk: consoles::Desk,
    route_lease: Arc<RouteLease>,
    ends: AtomicBool,
    /// Clients that have come in and are not counted by a thread yet.
    on_their_way: AtomicU64,
    outside: Outside,
}

/// What one thread has counted.
#[derive(Debug, Default)]
struct Counts {
    /// All doors are closed, and who came in by them is counted.
    is_closed: AtomicBool,
    clients: AtomicU64,
    clients_total: AtomicU64,
    refused_total: AtomicU64,
    unreachable_total: AtomicU64,
}

/// What all threads have counted.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Totals {
    pub(crate) clients: u64,
    pub(crate) clients_total: u64,
    pub(crate) refused_total: u64,
    pub(crate) unreachable_total: u64,
}

/// The threads.
pub(crate) struct Workers {
    shared: Arc<Shared>,
    names: Arc<Names>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    consoles: Mutex<Option<tokio::sync::mpsc::UnboundedReceiver<Said>>>,
    /// What is in force.
    config: Mutex<Arc<Config>>,
    /// Which each thread has, and why not a better one.
    engines: Vec<(&'static str, String)>,
    /// What each thread waits for before it serves.
    goes: Mutex<Vec<mpsc::Sender<()>>>,
}

/// How many threads there are to be, on which engine.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) threads: usize,
    pub(crate) engine: Choice,
    pub(crate) setup: Setup,
}

impl Shared {
    fn new(threads: usize, papers: Papers, desk: consoles::Desk) -> Self {
        let mut mock = [0; 32];
        random(&mut mock);
        Self {
            hasher: Hasher::default(),
            mock: Key::from(mock),
            started: Instant::now(),
            mailboxes: Mutex::new(Vec::new()),
            counts: (0..threads).map(|_| Counts::default()).collect(),
            ledger: Mutex::new(Ledger::new(threads)),
            papers,
            epoch: AtomicU64::new(0),
            pauses: Mutex::default(),
            desk,
            route_lease: Arc::default(),
            ends: AtomicBool::new(false),
            on_their_way: AtomicU64::new(0),
            outside: Outside::default(),
        }
    }

    fn now(&self) -> Now {
        Now(u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    fn send(&self, to: usize, letter: Letter) {
        if to == usize::from(OUTSIDE) {
            return self.send_outside(letter);
        }
        let mailboxes = self.mailboxes.lock().unwrap_or_else(PoisonError::into_inner);
        // A thread that has ended has no clients any more.
        if let Some(mailbox) = mailboxes.get(to)
            && mailbox.letters.send(letter).is_ok()
        {
            mailbox.waker.wake();
        }
    }
}

impl Workers {
    /// Starts the threads; `listen` makes each its own listening sockets. They serve when they are
    /// told to [`Self::go`].
    ///
    /// # Errors
    /// When a socket or an engine cannot be had; what has begun ends.
    pub(crate) fn start(
        config: &Config,
        plan: Plan,
        papers: Papers,
        listen: impl Fn(usize) -> Result<Vec<Door>, String>,
    ) -> Result<Self, String> {
        let (desk, consoles) = tokio::sync::mpsc::unbounded_channel();
        let shared = Arc::new(Shared::new(plan.threads, papers, desk));
        let names = Arc::new(Names::default());
        let mut goes = Vec::new();
        let mut workers = Self {
            shared: Arc::clone(&shared),
            names: Arc::clone(&names),
            threads: Mutex::new(Vec::new()),
            consoles: Mutex::new(Some(consoles)),
            config: Mutex::new(Arc::new(config.clone())),
            engines: Vec::new(),
            goes: Mutex::new(Vec::new()),
        };
        for number in 0..plan.threads {
            let (config, names) = (config.clone(), Arc::clone(&names));
            let (shared, doors) = (Arc::clone(&shared), listen(number)?);
            let (ready, is_ready) = mpsc::channel();
            let (go, may_go) = mpsc::channel::<()>();
            let run = move || {
                let _span = info_span!("proxy", thread = number).entered();
                let begun = begin(number, &config, plan, doors, names, shared);
                match begun {
                    Ok((engine, driver, letters, waker)) => {
                        let found = engine.found();
                        let _ = ready.send(Ok((found.to_string(), lacks(found), waker)));
                        // Whoever serves may write to any of the others.
                        if may_go.recv().is_ok() {
                            turn(engine, driver, &letters, number);
                        }
                    }
                    Err(problem) => {
                        let _ = ready.send(Err(problem));
                    }
                }
            };
            let name = format!("proxy-{number}");
            let thread = thread::Builder::new().name(name).spawn(run);
            let thread = thread.map_err(|error| format!("cannot start a thread: {error}"))?;
            workers.threads.lock().unwrap_or_else(PoisonError::into_inner).push(thread);
            let found = is_ready.recv().unwrap_or_else(|_| Err("a thread ended".to_owned()));
            let (found, lacks, mailbox) = found.inspect_err(|_| {
                goes.clear();
                workers.end();
            })?;
            goes.push(go);
            info!(thread = number, engine = found, "proxy thread is ready");
            workers.engines.push(lacks);
            let mut mailboxes = workers.shared.mailboxes.lock();
            mailboxes.as_mut().unwrap_or_else(|poisoned| poisoned.get_mut()).push(mailbox);
        }
        *workers.goes.lock().unwrap_or_else(PoisonError::into_inner) = goes;
        let hasher = hash::start(Arc::clone(&shared))?;
        workers.threads.lock().unwrap_or_else(PoisonError::into_inner).push(hasher);
        names.add(named(config));
        look_names_up(names, shared)?;
        Ok(workers)
    }

    /// Lets clients in.
    pub(crate) fn go(&self) {
        for go in self.goes.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            // One that has ended has said why.
            let _ = go.send(());
        }
    }

    /// What all threads have counted.
    pub(crate) fn totals(&self) -> Totals {
        let mut all = Totals::default();
        for counts in &self.shared.counts {
            let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
            all.clients += read(&counts.clients);
            all.clients_total += read(&counts.clients_total);
            all.refused_total += read(&counts.refused_total);
            all.unreachable_total += read(&counts.unreachable_total);
        }
        all
    }

    /// Lets all threads go by this configuration. Connections stay as they are.
    pub(crate) fn reload(&self, config: &Config, papers: &Papers) {
        self.names.add(named(config));
        self.names.look_up(named(config));
        let both = Arc::new((config.clone(), papers.clone()));
        let mut own = self.config.lock().unwrap_or_else(PoisonError::into_inner);
        *own = Arc::new(config.clone());
        drop(own);
        for number in 0..self.shared.counts.len() {
            self.shared.send(number, Letter::Reload(Arc::clone(&both)));
        }
    }

    /// What sessions go by.
    pub(crate) fn config(&self) -> Arc<Config> {
        Arc::clone(&self.config.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Accepts no more clients.
    pub(crate) fn close(&self) {
        for number in 0..self.shared.counts.len() {
            self.shared.send(number, Letter::Close);
        }
    }

    /// Ends all sessions, whose clients are told so.
    pub(crate) fn shut_down(&self) {
        for number in 0..self.shared.counts.len() {
            self.shared.send(number, Letter::ShutDown);
        }
    }

    /// Ends the threads with all their sessions, and waits for that.
    pub(crate) fn end(&self) {
        self.shared.ends.store(true, Ordering::Release);
        // Threads that were never told to serve end without.
        self.goes.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.shared.hasher.end();
        let mailboxes = self.shared.mailboxes.lock().unwrap_or_else(PoisonError::into_inner);
        for mailbox in mailboxes.iter() {
            mailbox.waker.wake();
        }
        drop(mailboxes);
        let threads =
            std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            if thread.join().is_err() {
                error!("a proxy thread ended by a panic");
            }
        }
    }
}

type Begun = (Engine, Driver, mpsc::Receiver<Letter>, Mailbox);

fn begin(
    number: usize,
    config: &Config,
    plan: Plan,
    doors: Vec<Door>,
    names: Arc<Names>,
    shared: Arc<Shared>,
) -> Result<Begun, String> {
    // The kernel may lead all clients to one thread.
    let clients = u32::try_from(config.clients_max).unwrap_or(u32::MAX);
    let sockets_max = clients.saturating_add(plan.setup.sockets_max).min(SOCKETS_MAX);
    let mut engine = Engine::open(plan.engine, &Setup { sockets_max, ..plan.setup })
        .map_err(|error| format!("the engine of a proxy thread cannot be opened: {error}"))?;
    let number = u8::try_from(number).map_err(|_| "too many threads".to_owned())?;
    let mut driver = Driver::new(engine.io(), config, number, names, shared);
    for Door { socket, attrs, is_only } in doors {
        let key = engine.io().listen(socket).map_err(|error| format!("cannot listen: {error}"))?;
        driver.doors.open.push((key, Entrance { attrs, is_only }));
    }
    let (letters, received) = mpsc::channel();
    let mailbox = Mailbox { letters, waker: engine.waker() };
    Ok((engine, driver, received, mailbox))
}

/// Which engine it is, and what better ones lacked.
fn lacks(found: &Found) -> (&'static str, String) {
    let missing: Vec<String> = found.missing.iter().map(ToString::to_string).collect();
    (found.driver.name(), missing.join("; "))
}

/// Serves until the end.
fn turn(mut engine: Engine, mut driver: Driver, letters: &mpsc::Receiver<Letter>, number: usize) {
    let shared = driver.shared();
    let tick_ns = u64::try_from(TICK.as_nanos()).unwrap_or(u64::MAX);
    let mut due = pgx_ring::now_ns() + tick_ns;
    while !shared.ends.load(Ordering::Acquire) {
        // Whatever was done since the last one, what comes now is handled by a new look at the
        // clock and at the lease.
        driver.end_turn();
        let wait = driver.lobby.due_ns().map_or(due, |lobby| lobby.min(due));
        if let Err(error) = engine.turn(Some(wait), &mut driver) {
            error!(%error, "a proxy thread's engine failed; its sessions end");
            break;
        }
        driver.end_turn();
        driver.hear_lobby(engine.io());
        if std::mem::take(&mut driver.is_woken) {
            read_letters(&mut engine, &mut driver, letters, &shared);
        }
        for (to, letter) in driver.letters.drain(..) {
            shared.send(to, letter);
        }
        if driver.doors.are_shut(engine.io()) {
            publish(&driver.worker, &shared.counts[number]);
            shared.counts[number].is_closed.store(true, Ordering::Release);
        }
        if pgx_ring::now_ns() >= due {
            due = pgx_ring::now_ns() + tick_ns;
            driver.begin_turn(engine.io());
            let now = shared.now();
            driver.with(engine.io(), |worker, wire| worker.tick(wire, now));
            publish(&driver.worker, &shared.counts[number]);
            driver.doors.look(engine.io());
        }
    }
}

fn read_letters(
    engine: &mut Engine,
    driver: &mut Driver,
    letters: &mpsc::Receiver<Letter>,
    shared: &Shared,
) {
    // What a letter leads to may send what clients have said before.
    driver.begin_turn(engine.io());
    let now = shared.now();
    while let Ok(letter) = letters.try_recv() {
        match letter {
            Letter::Cancel(request) => {
                driver.with(engine.io(), |worker, wire| worker.cancel(wire, request, now));
            }
            Letter::Cancelled(client) => {
                driver.with(engine.io(), |worker, wire| worker.cancelled(wire, client, now));
            }
            Letter::Hashed(print, salted) => {
                driver.with(engine.io(), |worker, wire| worker.hashed(wire, &print, &salted, now));
            }
            Letter::TablesChanged => driver.worker.tables_changed(),
            Letter::Permit(word) => {
                driver.with(engine.io(), |worker, wire| worker.told(wire, word, now));
            }
            Letter::Databases(databases, order) => {
                hold::carry_out(engine.io(), driver, &databases, order, shared);
            }
            Letter::View(wish, to) => {
                // Who asked may have lost patience.
                let _ = to.send(view::report(engine.io(), driver, wish, shared));
            }
            Letter::Reload(both) => {
                let (config, papers) = &*both;
                driver.papers = papers.clone();
                let config = std::rc::Rc::new(config.clone());
                driver.with(engine.io(), |worker, wire| worker.reload(wire, config, now));
            }
            Letter::Console(client, answer) => {
                driver.with(engine.io(), |worker, wire| {
                    worker.console_answers(wire, client, &answer);
                });
            }
            Letter::Course((course, told)) => {
                driver.follow(engine.io(), &course);
                // Who waits may have lost patience.
                let _ = told.send(());
            }
            Letter::Kill(client) => {
                driver.with(engine.io(), |worker, wire| worker.kill_client(wire, client, now));
            }
            Letter::Client(socket, attrs) => driver.admit(engine.io(), socket, attrs),
            Letter::Close => {
                driver.with(engine.io(), |worker, wire| worker.close_consoles(wire));
                driver.doors.close(engine.io());
            }
            Letter::ShutDown => {
                driver.with(engine.io(), |worker, wire| worker.shut_down(wire, now));
            }
        }
    }
}

fn publish(worker: &Worker, counts: &Counts) {
    let (total, gauges) = (worker.counts(), worker.gauges());
    let clients = u64::try_from(gauges.clients).unwrap_or(u64::MAX);
    counts.clients.store(clients, Ordering::Relaxed);
    counts.clients_total.store(total.clients, Ordering::Relaxed);
    counts.refused_total.store(total.refused, Ordering::Relaxed);
    counts.unreachable_total.store(total.unreachable, Ordering::Relaxed);
}

/// All servers that a configuration names.
fn named(config: &Config) -> impl Iterator<Item = &ServerAddress> {
    let backends = config.databases.values().flat_map(|database| &database.backends);
    backends.map(|each| &each.address).chain(config.peers.others.values())
}

/// Looks names up now and again, until the end.
fn look_names_up(names: Arc<Names>, shared: Arc<Shared>) -> Result<(), String> {
    let run = move || {
        while !shared.ends.load(Ordering::Acquire) {
            names.look_all_up();
            thread::park_timeout(NAMES_PAUSE);
        }
    };
    let spawned = thread::Builder::new().name("proxy-names".to_owned()).spawn(run);
    spawned.map(drop).map_err(|error| format!("cannot start a thread: {error}"))
}

/// As many threads as the process may use processors.
pub(crate) fn threads() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// Waits for the last client, and for whoever else needs this process, once no more are accepted.
/// How long that may take is the caller's to decide.
pub(crate) async fn wait_for_last(workers: &Workers, pause: Duration) {
    let shared = &workers.shared;
    let are_closed = || shared.counts.iter().all(|each| each.is_closed.load(Ordering::Acquire));
    // In this order: who is counted is on the way no more.
    while !are_closed()
        || shared.on_their_way.load(Ordering::Acquire) > 0
        || workers.totals().clients > 0
        || workers.is_needed_for_elder()
    {
        tokio::time::sleep(pause).await;
    }
}
