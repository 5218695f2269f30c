//! The servers of one user in one database: which settings they have, and what logs them in.
//!
//! Clients of a database with a user of its own share that user's servers, whoever they are.

use alloc::collections::BTreeSet;
use alloc::rc::Rc;
use alloc::vec::Vec;

use pgx_wire::SqlState;

use super::login::MINOR_MAX;
use super::{FIRST_EPOCH, Hold, Worker};
use crate::attrs::SessionAttrs;
use crate::config::{Config, Database, PoolMode};
use crate::ids::ClientId;
use crate::limits::FORGET_MS;
use crate::login::Login;
use crate::permits::{Bounds, PoolKey, PoolName};
use crate::pool::Pool;
use crate::route::{Gate, Router, Snapshot};
use crate::secret::{Credentials, Secret};
use crate::settings::Settings;
use crate::time::Now;

/// What tells pools from each other: as whom servers are used, and the database's name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Name {
    pub(super) user: Vec<u8>,
    pub(super) database: Vec<u8>,
    pub(super) attrs: SessionAttrs,
    /// When clients give them back: who came before that was changed is served as it was.
    pub(super) mode: PoolMode,
    /// The start-up parameters of a replication connection, each as two strings that end with NUL.
    /// Its servers get them as they are, since none could be set there later.
    pub(super) replication: Vec<u8>,
}

impl Name {
    /// The start-up parameters of its servers beside user and database.
    pub(super) fn parameters(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let mut words = self.replication.split(|byte| *byte == 0);
        core::iter::from_fn(move || Some((words.next()?, words.next()?)))
    }

    /// Whether its servers are each for one client, and not for the next.
    pub(super) fn is_replication(&self) -> bool {
        !self.replication.is_empty()
    }
}

/// The servers of one user in one database, and how to open more.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) name: Name,
    pub(super) settings: Rc<Database>,
    pub(super) pool: Pool,
    pub(super) router: Router,
    /// What its servers report at their start; `None` until one has.
    pub(super) welcome: Option<Settings>,
    /// Clients that cannot be let in before that.
    pub(super) admission: Vec<ClientId>,
    pub(super) failure: Option<Failure>,
    pub(super) credentials: Credentials,
    /// New transactions wait.
    pub(super) hold: Option<Hold>,
    /// What the cluster lets its servers do.
    pub(super) gate: Gate,
    /// Its clients must not have commits told as done that a failover could lose.
    pub(super) is_strict: bool,
    /// Some of its servers would begin with these too low: all are told otherwise at their start.
    pub(super) raises: BTreeSet<&'static str>,
    /// Until when what has begun may go on.
    pub(super) drain: Option<Now>,
    /// Where it is counted.
    pub(super) stats: usize,
    /// Its number on all threads.
    pub(super) key: PoolKey,
    /// Clients that are in, or about to be.
    pub(super) clients: usize,
    /// There was no permit; it is not asked for again before something changes.
    pub(super) is_denied: bool,
    /// This thread has stated that it wants one.
    pub(super) has_want: bool,
    /// Somebody wants the permits of its servers.
    pub(super) is_wanted: bool,
    /// The minor version of the protocol that its servers are spoken to in.
    pub(super) minor: u16,
    /// Its bounds were changed, so that it may have more servers than it should.
    pub(super) may_be_over: bool,
    /// Since when it has neither clients nor servers.
    pub(super) empty: Option<Now>,
}

/// Servers of a pool cannot be opened.
#[derive(Debug)]
pub(super) struct Failure {
    /// How often in a row.
    pub(super) times: usize,
    /// Why, as the server or the system said last.
    pub(super) reason: Vec<u8>,
    /// The server does not let us in, for this.
    pub(super) refusal: Option<SqlState>,
    /// When it is tried again.
    pub(super) retry: Now,
}

impl Entry {
    fn new(
        name: Name,
        settings: Database,
        snapshot: &Snapshot,
        key: PoolKey,
        stats: usize,
    ) -> Self {
        Self {
            stats,
            router: Router::new(snapshot, name.attrs),
            name,
            settings: Rc::new(settings),
            pool: Pool::default(),
            welcome: None,
            credentials: Credentials::default(),
            admission: Vec::new(),
            failure: None,
            hold: None,
            gate: Gate::Open,
            is_strict: false,
            raises: BTreeSet::new(),
            drain: None,
            key,
            clients: 0,
            is_denied: false,
            has_want: false,
            is_wanted: false,
            minor: MINOR_MAX,
            may_be_over: false,
            empty: None,
        }
    }

    /// Whether nobody new gets a server.
    pub(super) fn is_held(&self) -> bool {
        self.hold.is_some() || self.gate != Gate::Open
    }

    /// Whether nobody new gets a server, and free ones are closed.
    pub(super) fn is_emptied(&self) -> bool {
        self.hold.is_some_and(|hold| !hold.keeps_servers) || self.gate == Gate::Shut
    }

    /// Whether nobody would miss it.
    fn is_empty(&self) -> bool {
        self.clients == 0
            && self.pool.total() == 0
            && self.admission.is_empty()
            && !self.has_want
            && self.pool.waits_since().is_none()
            && self.settings.login.as_ref().is_none_or(|_| self.settings.pool_min == 0)
    }
}

/// What logs a user in at a database's servers.
pub(super) fn secret<'a>(
    config: &'a Config,
    settings: &'a Database,
    user: &[u8],
) -> Option<&'a Secret> {
    let forced = settings.login.as_ref().and_then(|login| login.secret.as_ref());
    forced.or_else(|| config.users.get(user))
}

impl Worker {
    /// Pools that have servers before any client comes: of databases with a user of their own.
    pub(super) fn enter_those_with_min(&mut self) {
        let config = Rc::clone(&self.config);
        for (name, database) in config.databases.iter().filter(|(name, _)| *name != b"*") {
            if let Some(login) = database.login.as_ref().filter(|_| database.pool_min > 0) {
                let user = login.user.clone();
                self.entry(user, name, SessionAttrs::Any, Vec::new());
            }
        }
    }

    /// The pool for a client that has said who it is; `None` if there is no such database. A client
    /// that names servers comes before its database, and that before its listener.
    ///
    /// All statements of a client are sent to this pool: to send single statements elsewhere, the
    /// pool would be chosen again where a client asks for a server.
    pub(super) fn entry_for(&mut self, login: &Login, listener: SessionAttrs) -> Option<usize> {
        let settings = self.config.database(&login.database)?;
        let user = settings.login.as_ref().map_or(&login.user, |forced| &forced.user).clone();
        let attrs = login.attrs.or(settings.attrs).unwrap_or(listener);
        self.entry(user, &login.database, attrs, login.replication.clone())
    }

    pub(super) fn entry(
        &mut self,
        user: Vec<u8>,
        database: &[u8],
        attrs: SessionAttrs,
        replication: Vec<u8>,
    ) -> Option<usize> {
        let (settings, bounds) = self.settings_of(&user, database, !replication.is_empty())?;
        let mode = settings.mode;
        let name = Name { user, database: database.to_vec(), attrs, mode, replication };
        if let Some(known) = self.by_name.get(&name) {
            return Some(*known);
        }
        let (user, replication) = (&name.user[..], &name.replication[..]);
        let of = PoolName { user, database, attrs, mode, replication };
        let key = self.permits.pool(of, bounds);
        let stats = self.stats.place(database, &name.user);
        let (snapshot, gate) = self.course_for(&settings, database, attrs);
        let mut entry = Entry::new(name.clone(), settings, &snapshot, key, stats);
        entry.gate = gate;
        entry.is_strict = self.is_strict(&entry.settings, attrs);
        entry.hold = self.hold_of(database);
        entry.router.set_back_off(self.config.limits.server_retry_ms);
        let place = self.free_entries.pop().unwrap_or(self.entries.len());
        match self.entries.get_mut(place) {
            Some(free) => *free = entry,
            None => self.entries.push(entry),
        }
        self.by_name.insert(name, place);
        Some(place)
    }

    /// Where a pool's servers are, and what may be done there.
    pub(super) fn course_for(
        &self,
        settings: &Database,
        database: &[u8],
        attrs: SessionAttrs,
    ) -> (Snapshot, Gate) {
        let configured = || Snapshot { epoch: FIRST_EPOCH, backends: settings.backends.clone() };
        if settings.is_clusters {
            // Before the cluster has said who serves, nobody does.
            let Some(course) = &self.course else { return (configured(), Gate::Held) };
            let (snapshot, gate) = course.of(attrs);
            return (snapshot.clone(), gate);
        }
        (self.snapshot_of(database).cloned().unwrap_or_else(configured), Gate::Open)
    }

    /// Whether clients of such a pool must not have commits told as done that a failover could
    /// lose.
    pub(super) fn is_strict(&self, settings: &Database, attrs: SessionAttrs) -> bool {
        let is_strict = self.course.as_ref().is_some_and(|course| course.is_strict);
        is_strict && settings.is_clusters && attrs.may_write()
    }

    /// What the configuration says of a pool; `None` if there is no such database.
    pub(super) fn settings_of(
        &self,
        user: &[u8],
        database: &[u8],
        is_replication: bool,
    ) -> Option<(Database, Bounds)> {
        let mut settings = self.config.database(database)?.clone();
        let special = *self.config.special.get(user).unwrap_or(&self.config.usual);
        settings.mode = special.mode.unwrap_or(settings.mode);
        settings.pool_size = special.pool_size.unwrap_or(settings.pool_size);
        // Who is looked up is so as somebody else.
        settings.login = settings.login.filter(|login| login.user == user);
        if is_replication {
            (settings.mode, settings.pool_min, settings.reserve) = (PoolMode::Session, 0, 0);
        }
        let bounds = Bounds {
            pool: settings.pool_size,
            reserve: settings.reserve,
            min: settings.pool_min.min(settings.pool_size),
            database: settings.servers_max,
            user: special.servers_max,
        };
        Some((settings, bounds))
    }

    /// Forgets a pool that has had no clients and no servers for long: names of databases and
    /// users may be without end.
    pub(super) fn forget_empty(&mut self, pool: usize) {
        let entry = &mut self.entries[pool];
        if !entry.is_empty() {
            entry.empty = None;
            return;
        }
        let since = *entry.empty.get_or_insert(self.now);
        let is_known = self.by_name.get(&entry.name) == Some(&pool);
        if is_known && self.now >= since.after_ms(FORGET_MS) && self.permits.forget(entry.key) {
            self.by_name.remove(&entry.name);
            self.free_entries.push(pool);
        }
    }
}
