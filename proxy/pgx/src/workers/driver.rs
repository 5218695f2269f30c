//! Joins the sessions of one thread to its engine: events in one direction, calls in the other.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use nix::sys::socket::{getsockopt, sockopt};
use nix::unistd::{Uid, User};
use pgx_ring::{End, Handler, Io, Key, Peer, Received};
use pgx_session::attrs::SessionAttrs;
use pgx_session::config::Config;
use pgx_session::ids::ClientId;
use pgx_session::net::{Console, Net, Socket};
use pgx_session::note::Note;
use pgx_session::route::{Course, Gate, ServerAddress};
use pgx_session::time::Now;
use pgx_session::worker::{Asker, Owner, Print, Request, Worker, thread_of};
use pgx_wire::auth::scram::Work;
use tracing::{debug, info, warn};

use super::consoles::{Desk, Said};
use super::doors::Doors;
use super::lobby::Lobby;
use super::names::Names;
use super::outside::OUTSIDE;
use super::permits;
use super::tls::{Broken, Secrets, Secured};
use super::{Letter, Shared};
use crate::tls::Papers;

/// The sessions of one thread, with what the engine does not know of its sockets.
pub(super) struct Driver {
    pub(super) worker: Worker,
    number: usize,
    /// Who has each socket, by its slot.
    owners: Vec<Option<(Key, Owner)>>,
    pub(super) doors: Doors,
    names: Arc<Names>,
    shared: Arc<Shared>,
    secrets: Secrets,
    pub(super) papers: Papers,
    /// Bytes of handshakes that have come before their connections were known to be encrypted.
    begun: Vec<(Key, Vec<u8>)>,
    /// What encrypted bytes have said; kept for its memory.
    plain: Vec<u8>,
    /// Requests to cancel, and word of those that are done, with the threads that they are for.
    pub(super) letters: Vec<(usize, Letter)>,
    pub(super) is_woken: bool,
    pub(super) events: Events,
    /// The route lease was found to be over, and nothing is sent on until a new course comes.
    is_shut: bool,
    pub(super) lobby: Lobby,
    /// When the first event of this turn was handled, which is late enough for all of them.
    time: Option<Now>,
}

/// What happened on a thread beside what its sessions count.
#[derive(Clone, Debug, Default)]
pub(crate) struct Events {
    /// Clients that broke the protocol.
    pub(crate) violations: u64,
    /// Clients that keep their servers because of what they have left there.
    pub(crate) pinned: u64,
    /// Standbys that were left out since they were too far behind.
    pub(crate) behind: u64,
    /// Encrypted connections that came to nothing, by the side and the reason.
    pub(crate) tls_failures: BTreeMap<(&'static str, &'static str), u64>,
}

impl Events {
    /// What another thread has counted comes to it.
    pub(super) fn merge(&mut self, other: &Self) {
        self.violations += other.violations;
        self.pinned += other.pinned;
        self.behind += other.behind;
        for (which, count) in &other.tls_failures {
            *self.tls_failures.entry(*which).or_default() += count;
        }
    }

    fn tls_failed(&mut self, owner: Owner, broken: &Broken) {
        let side = if matches!(owner, Owner::Client(_)) { "client" } else { "server" };
        *self.tls_failures.entry((side, broken.reason)).or_default() += 1;
    }
}

impl Driver {
    pub(super) fn new(
        io: &mut Io,
        config: &Config,
        number: u8,
        names: Arc<Names>,
        shared: Arc<Shared>,
    ) -> Self {
        let (mut owners, mut letters, mut begun) = (Vec::new(), Vec::new(), Vec::new());
        let (mut secrets, mut events) = (Secrets::default(), Events::default());
        let threads = shared.counts.len();
        let mut wire = Wire {
            io,
            data: Data::None,
            owners: &mut owners,
            names: &names,
            secrets: &mut secrets,
            events: &mut events,
            begun: &mut begun,
            papers: &shared.papers,
            letters: &mut letters,
            desk: &shared.desk,
            threads,
            number: usize::from(number),
            shared: &shared,
        };
        let permits = Box::new(permits::Desk::new(Arc::clone(&shared), usize::from(number)));
        let mut worker = Worker::new(Rc::new(config.clone()), permits, number, &mut wire);
        worker.hide_by(shared.mock.clone());
        let (doors, is_woken, time) = (Doors::default(), false, None);
        let number = usize::from(number);
        let (plain, papers) = (Vec::new(), shared.papers.clone());
        Self {
            worker,
            number,
            owners,
            doors,
            names,
            shared,
            secrets,
            papers,
            begun,
            plain,
            letters,
            is_woken,
            events,
            is_shut: false,
            lobby: Lobby::default(),
            time,
        }
    }

    /// Before anything of a turn is handled: may it still be?
    pub(super) fn begin_turn(&mut self, io: &mut Io) {
        if self.time.is_some() {
            return;
        }
        let now = self.now();
        if !self.is_shut && self.shared.route_lease.is_over() {
            self.is_shut = true;
            warn!(thread = self.number, "the route lease is over; clients of the cluster wait");
            self.with(io, |worker, wire| worker.shut(wire, now));
            self.shared.route_lease.lapse();
        }
    }

    /// Goes by another course.
    pub(super) fn follow(&mut self, io: &mut Io, course: &Course) {
        let now = self.now();
        self.is_shut = self.shared.route_lease.is_over();
        if self.is_shut {
            let shut = Course { writes: Gate::Shut, reads: Gate::Shut, ..course.clone() };
            self.shared.route_lease.lapse();
            return self.with(io, |worker, wire| worker.follow(wire, &shut, now));
        }
        self.with(io, |worker, wire| worker.follow(wire, course, now));
    }

    /// Calls the worker with the engine's handle as its net.
    pub(super) fn with<T>(
        &mut self,
        io: &mut Io,
        call: impl FnOnce(&mut Worker, &mut Wire<'_, '_>) -> T,
    ) -> T {
        self.with_data(io, Data::None, call)
    }

    fn with_data<'a, T>(
        &mut self,
        io: &mut Io,
        data: Data<'a, '_>,
        call: impl FnOnce(&mut Worker, &mut Wire<'_, 'a>) -> T,
    ) -> T {
        let Self { worker, number, owners, names, letters, shared, secrets, .. } = self;
        let Self { begun, papers, events, .. } = self;
        let threads = shared.counts.len();
        let number = *number;
        let mut wire = Wire {
            io,
            data,
            owners,
            names,
            secrets,
            events,
            begun,
            papers,
            letters,
            desk: &shared.desk,
            threads,
            number,
            shared,
        };
        let result = call(worker, &mut wire);
        if secrets.is_dirty() {
            secrets.flush(io);
        }
        result
    }

    /// Bytes of a connection have come, as they were meant.
    fn deliver<'a>(&mut self, io: &mut Io, owner: Owner, data: Data<'a, '_>, bytes: &[u8]) {
        let now = self.now();
        self.with_data(io, data, |worker, wire| match owner {
            Owner::Client(id) => worker.client_bytes(wire, id, bytes, now),
            Owner::Server(id) => worker.server_bytes(wire, id, bytes, now),
            Owner::Cancel(id) => worker.cancel_bytes(wire, id, bytes),
        });
    }

    /// Bytes of an encrypted connection have come.
    fn decrypt(&mut self, io: &mut Io, key: Key, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            // The sessions may have ended it.
            let Some(owner) = self.owner(key) else { return };
            let Some(secured) = self.secrets.get_mut(key) else { return };
            let mut plain = std::mem::take(&mut self.plain);
            plain.clear();
            let read = secured.read(&mut bytes, &mut plain);
            self.secrets.mark(key);
            self.secrets.flush(io);
            if !plain.is_empty() {
                self.deliver(io, owner, Data::Plain(&plain), &plain);
            }
            self.plain = plain;
            match read {
                Ok(false) => {}
                Ok(true) => return self.end(io, owner, "the connection was closed"),
                Err(broken) => {
                    self.events.tls_failed(owner, &broken);
                    info!(?owner, reason = broken.text, "an encrypted connection cannot go on");
                    return self.end(io, owner, &broken.text);
                }
            }
        }
    }

    fn end(&mut self, io: &mut Io, owner: Owner, reason: &str) {
        let now = self.now();
        self.with(io, |worker, wire| match owner {
            Owner::Client(id) => worker.client_ended(wire, id, now),
            Owner::Server(id) => worker.server_ended(wire, id, reason.as_bytes(), now),
            Owner::Cancel(id) => worker.cancel_ended(wire, id),
        });
    }

    fn owner(&self, key: Key) -> Option<Owner> {
        let (known, owner) = self.owners.get(key.slot())?.as_ref()?;
        (*known == key).then_some(*owner)
    }

    pub(super) fn number(&self) -> usize {
        self.number
    }

    /// A client has come in by a door of another thread.
    pub(super) fn admit(&mut self, io: &mut Io, fd: OwnedFd, attrs: SessionAttrs) {
        match io.adopt(fd) {
            Ok(key) => self.begin(io, key, attrs),
            Err(error) => warn!(%error, "no room for a client that another thread has accepted"),
        }
        let clients = u64::try_from(self.worker.gauges().clients).unwrap_or(u64::MAX);
        self.shared.counts[self.number].clients.store(clients, Ordering::Release);
        self.shared.on_their_way.fetch_sub(1, Ordering::AcqRel);
    }

    fn begin(&mut self, io: &mut Io, key: Key, attrs: SessionAttrs) {
        let now = self.now();
        let id = self.with(io, |worker, wire| worker.accepted(wire, socket(key), attrs, now));
        own(&mut self.owners, key, Owner::Client(id));
    }

    pub(super) fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.shared)
    }

    /// Reads the clock once a turn.
    fn now(&mut self) -> Now {
        *self.time.get_or_insert_with(|| self.shared.now())
    }

    /// A turn of the engine is over.
    pub(super) fn end_turn(&mut self) {
        self.time = None;
    }

    /// Hears clients that are not in yet and have waited, as far as there is time.
    pub(super) fn hear_lobby(&mut self, io: &mut Io) {
        while let Some((key, bytes)) = self.lobby.next(pgx_ring::now_ns()) {
            self.begin_turn(io);
            self.hear(io, key, &bytes);
        }
        self.time = None;
    }

    /// Hears what a client has said that is not in yet.
    fn hear(&mut self, io: &mut Io, key: Key, bytes: &[u8]) {
        let Some(owner) = self.owner(key) else { return };
        let start_ns = pgx_ring::now_ns();
        if self.secrets.get(key).is_some() {
            self.decrypt(io, key, bytes);
        } else {
            self.deliver(io, owner, Data::Plain(bytes), bytes);
        }
        while let Some((key, bytes)) = self.begun.pop() {
            self.decrypt(io, key, &bytes);
        }
        self.lobby.spend(pgx_ring::now_ns() - start_ns);
    }
}

impl Handler for Driver {
    fn accepted(&mut self, io: &mut Io, listener: Key, key: Key) {
        self.begin_turn(io);
        let threads = self.shared.counts.len();
        let (thread, attrs) = self.doors.whose(listener, self.number, threads);
        if thread == self.number {
            self.lobby.spend(0);
            return self.begin(io, key, attrs);
        }
        self.shared.on_their_way.fetch_add(1, Ordering::Relaxed);
        self.doors.leaves(key, thread, attrs);
        // Nothing has been read from it yet, so nothing is left behind.
        io.take(key);
    }

    fn taken(&mut self, io: &mut Io, key: Key, fd: OwnedFd) {
        self.begin_turn(io);
        if let Some((thread, attrs)) = self.doors.left(key) {
            self.letters.push((thread, Letter::Client(fd, attrs)));
        }
    }

    fn connected(&mut self, io: &mut Io, key: Key, result: io::Result<()>) {
        self.begin_turn(io);
        let now = self.now();
        let said = result.map_err(|error| error.to_string());
        match self.owner(key) {
            Some(Owner::Server(id)) => self.with(io, |worker, wire| {
                let result = said.as_ref().copied().map_err(|text| text.as_bytes());
                worker.connected(wire, id, result, now);
            }),
            Some(Owner::Cancel(id)) => {
                self.with(io, |worker, wire| worker.cancel_connected(wire, id, said.is_ok()));
            }
            _ => {}
        }
    }

    fn received(&mut self, io: &mut Io, key: Key, data: &Received<'_>) {
        self.begin_turn(io);
        let Some(owner) = self.owner(key) else { return };
        if let Owner::Client(id) = owner
            && (self.worker.is_outside(id) || self.lobby.keeps(key))
        {
            if self.lobby.hears(key, data, pgx_ring::now_ns()) {
                self.hear(io, key, data);
            } else if let Some(bytes) = self.lobby.take(key, false) {
                self.hear(io, key, &bytes);
            }
        } else if self.secrets.get(key).is_some() {
            self.decrypt(io, key, data);
        } else {
            self.deliver(io, owner, Data::Received(data), data);
        }
    }

    fn ended(&mut self, io: &mut Io, key: Key, end: End) {
        self.begin_turn(io);
        if let Some(bytes) = self.lobby.take(key, true) {
            self.hear(io, key, &bytes);
        }
        let Some(owner) = self.owner(key) else { return };
        match end {
            End::Eof => self.end(io, owner, "the server closed the connection"),
            End::Failed(error) => self.end(io, owner, &error.to_string()),
        }
    }

    fn drained(&mut self, io: &mut Io, key: Key) {
        self.begin_turn(io);
        let now = self.now();
        if let Some(owner) = self.owner(key) {
            self.with(io, |worker, wire| worker.drained(wire, owner, now));
        }
    }

    fn woken(&mut self, _io: &mut Io) {
        self.is_woken = true;
    }
}

/// The bytes that are being handled.
#[derive(Clone, Copy)]
pub(super) enum Data<'data, 'a> {
    None,
    /// In the buffer that they arrived in.
    Received(&'a Received<'data>),
    /// As they were before they were encrypted.
    Plain(&'a [u8]),
}

/// What the sessions may ask of the engine during one call.
pub(super) struct Wire<'a, 'data> {
    io: &'a mut Io,
    data: Data<'data, 'a>,
    owners: &'a mut Vec<Option<(Key, Owner)>>,
    names: &'a Names,
    secrets: &'a mut Secrets,
    events: &'a mut Events,
    begun: &'a mut Vec<(Key, Vec<u8>)>,
    papers: &'a Papers,
    letters: &'a mut Vec<(usize, Letter)>,
    desk: &'a Desk,
    threads: usize,
    /// Which of them this is.
    number: usize,
    shared: &'a Shared,
}

impl Net for Wire<'_, '_> {
    fn forward(&mut self, to: Socket, range: Range<usize>) {
        match self.data {
            Data::Received(data) if !self.secrets.write(key(to), &data[range.clone()]) => {
                self.io.forward(key(to), data, range);
            }
            Data::Plain(bytes) => self.write(to, &bytes[range]),
            Data::Received(_) | Data::None => {}
        }
    }

    fn write(&mut self, to: Socket, bytes: &[u8]) {
        if !self.secrets.write(key(to), bytes) {
            self.io.write(key(to), bytes);
        }
    }

    fn is_blocked(&mut self, socket: Socket) -> bool {
        if self.secrets.is_dirty() {
            self.secrets.flush(self.io);
        }
        self.io.is_blocked(key(socket))
    }

    fn pause(&mut self, socket: Socket) {
        self.io.pause(key(socket));
    }

    fn resume(&mut self, socket: Socket) {
        self.io.resume(key(socket));
    }

    fn finish(&mut self, socket: Socket) {
        self.secrets.end(self.io, key(socket), true);
        self.io.finish(key(socket));
    }

    fn abort(&mut self, socket: Socket) {
        if self.secrets.end(self.io, key(socket), false) {
            // The other side is to read why.
            return self.io.finish(key(socket));
        }
        self.io.abort(key(socket));
    }

    fn connect(&mut self, to: &ServerAddress) -> Option<Socket> {
        let address = self.names.get(to)?;
        match self.io.connect(&address) {
            Ok(key) => Some(socket(key)),
            Err(error) => {
                warn!(backend = %to, %error, "no connection can be begun");
                None
            }
        }
    }

    fn own(&mut self, socket: Socket, owner: Owner) {
        own(self.owners, key(socket), owner);
    }

    fn cancel(&mut self, request: Request) -> usize {
        let named = thread_of(request.process).map(usize::from);
        let is_meant = |thread: &usize| named.is_none_or(|named| named == *thread);
        let before = self.letters.len();
        for thread in (0..self.threads).filter(is_meant) {
            self.letters.push((thread, Letter::Cancel(request.clone())));
        }
        if self.shared.outside.has_elder() {
            self.letters.push((OUTSIDE.into(), Letter::Cancel(request)));
        }
        self.letters.len() - before
    }

    fn cancelled(&mut self, by: Asker) {
        self.letters.push((usize::from(by.thread), Letter::Cancelled(by.client)));
    }

    fn accept_tls(&mut self, socket: Socket, begun: &[u8]) -> bool {
        let Some(papers) = &self.papers.accept else { return false };
        match Secured::accept(papers, !begun.is_empty()) {
            Ok(secured) => self.secrets.add(key(socket), secured),
            Err(broken) => {
                warn!(reason = broken.text, "a client's connection cannot be encrypted");
                return false;
            }
        }
        if !begun.is_empty() {
            self.begun.push((key(socket), begun.to_vec()));
        }
        true
    }

    fn begin_tls(&mut self, socket: Socket, to: &ServerAddress) -> bool {
        let Some(config) = &self.papers.connect else { return false };
        match Secured::connect(config, to) {
            Ok(secured) => self.secrets.add(key(socket), secured),
            Err(broken) => {
                let reason = broken.text;
                warn!(backend = %to, reason, "a connection cannot be encrypted");
                return false;
            }
        }
        true
    }

    fn end_point(&self, socket: Socket) -> Option<Vec<u8>> {
        self.secrets.get(key(socket))?.end_point()
    }

    fn address(&self, socket: Socket) -> Option<IpAddr> {
        match self.io.peer(key(socket)) {
            Some(Peer::Tcp(address)) => Some(address.ip()),
            Some(Peer::Unix) => None,
            // Who has gone comes from nowhere: least of all from this host by a Unix socket, which
            // rules may trust. What it sent before is still read.
            None => Some(Ipv4Addr::UNSPECIFIED.into()),
        }
    }

    fn peer_user(&self, socket: Socket) -> Option<Vec<u8>> {
        let who = getsockopt(&self.io.fd(key(socket))?, sockopt::PeerCredentials).ok()?;
        match User::from_uid(Uid::from_raw(who.uid())) {
            Ok(user) => user.map(|user| user.name.into_bytes()),
            Err(errno) => {
                warn!(user_id = who.uid(), %errno, "the system cannot look a user up");
                None
            }
        }
    }

    fn certificate(&self, socket: Socket) -> Option<pgx_session::net::Names> {
        self.secrets.get(key(socket))?.names()
    }

    fn console(&mut self, id: ClientId, what: Console<'_>) {
        // It may be closed, with all of pgx.
        let _ = self.desk.send(Said::new(self.number, id, what));
    }

    fn tables_changed(&mut self) {
        for thread in (0..self.threads).filter(|thread| *thread != self.number) {
            self.letters.push((thread, Letter::TablesChanged));
        }
    }

    fn random(&mut self, bytes: &mut [u8]) {
        random(bytes);
    }

    fn hash(&mut self, print: Print, work: Work) {
        self.shared.hasher.hash(self.number, print, work);
    }

    fn note(&mut self, note: &Note<'_>) {
        match note {
            Note::Refused { client, reason } => info!(?client, reason, "client turned away"),
            Note::Unproved { client, user, reason } => {
                info!(?client, user, reason, "a client did not prove who it is");
            }
            Note::Guessing { address, failures } => {
                let from = address.map_or("this host".to_owned(), |address| address.to_string());
                warn!(from, failures, "many logins with a wrong password");
            }
            Note::NotLookedUp { client, user, reason } => {
                let reason = String::from_utf8_lossy(reason);
                warn!(?client, user, %reason, "auth_query told nothing of a user");
            }
            Note::Violation { client, what } => {
                self.events.violations += 1;
                info!(?client, what, "client broke the protocol");
            }
            Note::Unreachable { address, reason } => {
                let reason = String::from_utf8_lossy(reason);
                warn!(backend = %address, %reason, "cannot use a backend");
            }
            Note::OtherKind { address } => {
                debug!(backend = %address, "a backend is not of the kind that is wanted");
            }
            Note::Behind { address, found_ms, max_ms } => {
                self.events.behind += 1;
                warn!(backend = %address, ?found_ms, max_ms, "a standby is too far behind");
            }
            Note::Lost { server, client, reason } => {
                let reason = String::from_utf8_lossy(reason);
                warn!(?server, ?client, %reason, "a server connection in use was lost");
            }
            Note::Doubtful { server } => {
                warn!(?server, "a server's replies did not fit; its connection is given up");
            }
            Note::Pinned { client, server } => {
                self.events.pinned += 1;
                debug!(?client, ?server, "a client keeps its server");
            }
        }
    }
}

/// Bytes that nobody can foretell.
pub(super) fn random(bytes: &mut [u8]) {
    // Fails only before the kernel has gathered its first randomness, long before we run.
    let done = rustix::rand::getrandom(&mut *bytes, rustix::rand::GetRandomFlags::empty());
    assert!(matches!(done, Ok(count) if count == bytes.len()), "the kernel gives no randomness");
}

fn own(owners: &mut Vec<Option<(Key, Owner)>>, key: Key, owner: Owner) {
    if owners.len() <= key.slot() {
        owners.resize(key.slot() + 1, None);
    }
    owners[key.slot()] = Some((key, owner));
}

fn socket(key: Key) -> Socket {
    Socket(key.to_bits())
}

fn key(socket: Socket) -> Key {
    Key::from_bits(socket.0)
}
