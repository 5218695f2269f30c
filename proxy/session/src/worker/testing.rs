//! A worker with clients and servers made of bytes.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::rc::Rc;
use alloc::string::ToString;
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr};
use core::ops::Range;

use pgx_wire::auth::scram::Work;
use pgx_wire::backend::{self, Status};
use pgx_wire::{Frames, frontend};

use super::desk::Desk;
use super::recount::recount;
use super::{Asker, Owner, Print, Request, Worker};
use crate::attrs::SessionAttrs;
use crate::config::{AuthMethod, Config, Database, Limits, PoolMode};
use crate::ids::ClientId;
use crate::net::{Console, Names, Net, Socket};
use crate::note::Note;
use crate::route::ServerAddress;
use crate::time::Now;

/// The number of the first client, by which it cancels.
pub(super) const FIRST_PROCESS: u32 = (1 << 24) | 1;

/// What the worker did with its sockets.
#[derive(Debug, Default)]
pub(super) struct Wire {
    sent: BTreeMap<Socket, Vec<u8>>,
    piece: Vec<u8>,
    pub(super) paused: BTreeSet<Socket>,
    pub(super) closed: BTreeSet<Socket>,
    pub(super) blocked: BTreeSet<Socket>,
    pub(super) owners: BTreeMap<Socket, Owner>,
    pub(super) connects: Vec<Socket>,
    pub(super) places: BTreeMap<Socket, ServerAddress>,
    pub(super) cancels: Vec<Request>,
    pub(super) cancelled: Vec<Asker>,
    /// What clients of the console did.
    pub(super) console: Vec<alloc::string::String>,
    /// Clients come by Unix sockets, from a process of this user of the system.
    pub(super) is_unix: bool,
    pub(super) peer_user: Option<Vec<u8>>,
    /// How often others were told that tables have changed.
    pub(super) changes: usize,
    /// From which address clients come, counted from this host's.
    pub(super) from: u32,
    /// What is to be hashed.
    pub(super) hashes: Vec<(Print, Work)>,
    /// What the operator was told.
    pub(super) notes: Vec<alloc::string::String>,
    last: u64,
}

impl Net for Wire {
    fn forward(&mut self, to: Socket, range: Range<usize>) {
        let bytes = self.piece[range].to_vec();
        self.write(to, &bytes);
    }

    fn write(&mut self, to: Socket, bytes: &[u8]) {
        assert!(!self.closed.contains(&to), "written to a closed socket");
        self.sent.entry(to).or_default().extend_from_slice(bytes);
    }

    fn is_blocked(&mut self, socket: Socket) -> bool {
        self.blocked.contains(&socket)
    }

    fn pause(&mut self, socket: Socket) {
        assert!(self.paused.insert(socket), "paused twice");
    }

    fn resume(&mut self, socket: Socket) {
        assert!(self.paused.remove(&socket), "resumed without a pause");
    }

    fn finish(&mut self, socket: Socket) {
        assert!(self.closed.insert(socket), "closed twice");
    }

    fn abort(&mut self, socket: Socket) {
        self.finish(socket);
    }

    fn connect(&mut self, to: &ServerAddress) -> Option<Socket> {
        self.last += 1;
        let socket = Socket(self.last);
        self.places.insert(socket, to.clone());
        self.connects.push(socket);
        Some(socket)
    }

    fn own(&mut self, socket: Socket, owner: Owner) {
        self.owners.insert(socket, owner);
    }

    fn cancel(&mut self, request: Request) -> usize {
        self.cancels.push(request);
        1
    }

    fn cancelled(&mut self, by: Asker) {
        self.cancelled.push(by);
    }

    fn accept_tls(&mut self, _socket: Socket, _begun: &[u8]) -> bool {
        true
    }

    fn begin_tls(&mut self, _socket: Socket, _to: &ServerAddress) -> bool {
        true
    }

    fn end_point(&self, _socket: Socket) -> Option<Vec<u8>> {
        None
    }

    fn address(&self, _socket: Socket) -> Option<IpAddr> {
        let from = Ipv4Addr::from_bits(Ipv4Addr::LOCALHOST.to_bits() + self.from);
        (!self.is_unix).then_some(IpAddr::V4(from))
    }

    fn peer_user(&self, _socket: Socket) -> Option<Vec<u8>> {
        self.peer_user.clone()
    }

    fn certificate(&self, _socket: Socket) -> Option<Names> {
        None
    }

    fn console(&mut self, _id: ClientId, what: Console<'_>) {
        self.console.push(alloc::format!("{what:?}"));
    }

    fn tables_changed(&mut self) {
        self.changes += 1;
    }

    fn random(&mut self, bytes: &mut [u8]) {
        bytes.fill(7);
    }

    fn hash(&mut self, print: Print, work: Work) {
        self.hashes.push((print, work));
    }

    fn note(&mut self, note: &Note<'_>) {
        self.notes.push(alloc::format!("{note:?}"));
    }
}

/// A worker, its sockets, and the time.
pub(super) struct Bench {
    pub(super) worker: Worker,
    pub(super) wire: Wire,
    pub(super) now: Now,
    clients: BTreeMap<Socket, ClientId>,
    desk: Desk,
    /// Which servers clients want by where they come in.
    pub(super) listener: SessionAttrs,
}

impl Bench {
    /// One database on one backend, for everybody.
    pub(super) fn new(mode: PoolMode, pool_size: usize) -> Self {
        let backends = alloc::vec![ServerAddress("db:5432".to_string()).into()];
        let database = Database::new(backends, mode, pool_size);
        Self::with(Config {
            databases: BTreeMap::from([(b"*".to_vec(), database)]),
            auth: AuthMethod::Trust,
            limits: Limits { prepared_max: 2, ..Limits::default() },
            ..Config::default()
        })
    }

    /// As configured.
    pub(super) fn with(config: Config) -> Self {
        Self::threads(config, 1).remove(0)
    }

    /// Several workers as configured, which share what there may be.
    pub(super) fn threads(config: Config, threads: usize) -> Vec<Self> {
        let config = Rc::new(config);
        let begin = |desk: Desk| {
            let (mut wire, listener) = (Wire::default(), SessionAttrs::Any);
            let worker = Worker::new(Rc::clone(&config), desk.boxed(), 0, &mut wire);
            Self { worker, wire, now: Now(0), clients: BTreeMap::new(), desk, listener }
        };
        Desk::all(threads).into_iter().map(begin).collect()
    }

    /// The worker reads what it was told by others. Says whether there was anything.
    pub(super) fn read_mail(&mut self) -> bool {
        let mut has_read = false;
        while let Some(word) = self.desk.word() {
            self.worker.told(&mut self.wire, word, self.now);
            has_read = true;
        }
        self.check();
        has_read
    }

    /// Time passes.
    pub(super) fn tick(&mut self, ms: u64) {
        self.now = self.now.after_ms(ms);
        self.worker.tick(&mut self.wire, self.now);
        self.check();
    }

    /// What is to be hashed is.
    pub(super) fn hash_all(&mut self) -> usize {
        let all = core::mem::take(&mut self.wire.hashes);
        for (print, work) in &all {
            self.worker.hashed(&mut self.wire, print, &work.salted(), self.now);
            self.check();
        }
        all.len()
    }

    /// A client that has connected and said nothing.
    pub(super) fn connect(&mut self) -> Socket {
        self.wire.last += 1;
        let socket = Socket(self.wire.last);
        let id = self.worker.accepted(&mut self.wire, socket, self.listener, self.now);
        self.clients.insert(socket, id);
        socket
    }

    /// A client that is in, with these start-up parameters. A server is opened if need be.
    pub(super) fn client_with(&mut self, parameters: &[(&str, &str)]) -> Socket {
        let client = self.begin_client(parameters);
        self.open_all();
        assert!(tags(&self.take(client)).ends_with("Z"), "the client is not let in");
        client
    }

    /// A client that has said who it is.
    pub(super) fn begin_client(&mut self, parameters: &[(&str, &str)]) -> Socket {
        self.begin_client_of("ann", "shop", parameters)
    }

    /// A client that has said that it is somebody else.
    pub(super) fn begin_client_of(
        &mut self,
        user: &str,
        database: &str,
        parameters: &[(&str, &str)],
    ) -> Socket {
        let client = self.connect();
        let own = [("user", user), ("database", database)];
        let all = own.iter().chain(parameters);
        let mut packet = Vec::new();
        frontend::write::startup(&mut packet, 0, all.map(|(a, b)| (a.as_bytes(), b.as_bytes())));
        self.say(client, &packet);
        client
    }

    pub(super) fn client(&mut self) -> Socket {
        self.client_with(&[])
    }

    /// Each server that the worker connects to accepts it. Gives them.
    pub(super) fn open_all(&mut self) -> Vec<Socket> {
        let opened = core::mem::take(&mut self.wire.connects);
        for socket in &opened {
            if self.reach(*socket).is_empty() {
                continue;
            }
            self.greet(*socket);
        }
        opened
    }

    /// A server that was told who logs in lets it in.
    pub(super) fn greet(&mut self, socket: Socket) {
        self.greet_as(socket, &[]);
    }

    /// The same, with more settings that it reports.
    pub(super) fn greet_as(&mut self, socket: Socket, reported: &[(&str, &str)]) {
        let mut hello = Vec::new();
        for (name, value) in reported {
            backend::write::parameter_status(&mut hello, name.as_bytes(), value.as_bytes());
        }
        backend::write::authentication_ok(&mut hello);
        backend::write::parameter_status(&mut hello, b"DateStyle", b"ISO");
        backend::write::parameter_status(&mut hello, b"TimeZone", b"UTC");
        backend::write::backend_key(&mut hello, 99, b"key!");
        backend::write::ready(&mut hello, Status::Idle);
        self.say(socket, &hello);
    }

    /// The connection to a server is there. Gives the start-up packet; nothing if it is one to no
    /// server.
    pub(super) fn reach(&mut self, socket: Socket) -> Vec<u8> {
        let owner = self.wire.owners.get(&socket).copied();
        let Some(Owner::Server(id)) = owner else { return Vec::new() };
        self.worker.connected(&mut self.wire, id, Ok(()), self.now);
        let packet = self.take(socket);
        assert!(!packet.is_empty(), "no start-up packet");
        packet
    }

    /// Who a client is.
    pub(super) fn id(&self, socket: Socket) -> ClientId {
        self.clients[&socket]
    }

    /// A socket has sent what it was given.
    pub(super) fn drained(&mut self, socket: Socket) {
        let owner = self.wire.owners.get(&socket).copied();
        let owner = owner.unwrap_or_else(|| Owner::Client(self.clients[&socket]));
        self.worker.drained(&mut self.wire, owner, self.now);
        self.check();
    }

    /// A client or a server says this.
    pub(super) fn say(&mut self, socket: Socket, bytes: &[u8]) {
        self.wire.piece = bytes.to_vec();
        let (wire, now) = (&mut self.wire, self.now);
        match (self.clients.get(&socket), wire.owners.get(&socket).copied()) {
            (Some(id), _) => self.worker.client_bytes(wire, *id, bytes, now),
            (None, Some(Owner::Server(id))) => self.worker.server_bytes(wire, id, bytes, now),
            _ => panic!("nobody's socket"),
        }
        self.wire.piece.clear();
        self.check();
    }

    /// The numbers are right, and who may be read from is.
    pub(super) fn check(&self) {
        recount(&self.worker);
        for (place, entry) in self.worker.entries.iter().enumerate() {
            if self.worker.by_name.get(&entry.name) != Some(&place) {
                // It was forgotten: what there is of its key is another place's.
                continue;
            }
            let (held, mailed) = self.desk.held(entry.key);
            assert_eq!(held, entry.pool.total() + mailed, "permits and servers");
        }
        for client in self.worker.clients.iter() {
            let is_paused = self.wire.paused.contains(&client.socket);
            assert_eq!(is_paused, client.is_paused, "{client:?}");
        }
        for server in self.worker.servers.iter() {
            let is_paused = self.wire.paused.contains(&server.socket);
            assert_eq!(is_paused, server.is_paused, "{server:?}");
        }
    }

    /// A cancel has got its connection.
    pub(super) fn cancel(&mut self, process: u32) -> Option<Socket> {
        let before = self.wire.connects.len();
        let by = Asker { thread: 0, client: ClientId::new(u32::MAX, 0) };
        let request = Request { by, process, key: [7; 4].to_vec() };
        self.worker.cancel(&mut self.wire, request, self.now);
        if self.wire.connects.len() == before {
            return None;
        }
        let socket = self.wire.connects.pop()?;
        let Some(Owner::Cancel(id)) = self.wire.owners.get(&socket).copied() else { return None };
        self.worker.cancel_connected(&mut self.wire, id, true);
        Some(socket)
    }

    /// The same, byte by byte.
    pub(super) fn say_slowly(&mut self, socket: Socket, bytes: &[u8]) {
        for byte in bytes {
            self.say(socket, core::slice::from_ref(byte));
        }
    }

    /// A connection ends.
    pub(super) fn end(&mut self, socket: Socket) {
        let (wire, now) = (&mut self.wire, self.now);
        match (self.clients.get(&socket), wire.owners.get(&socket).copied()) {
            (Some(id), _) => self.worker.client_ended(wire, *id, now),
            (None, Some(Owner::Server(id))) => {
                self.worker.server_ended(wire, id, b"reset", now);
            }
            (None, Some(Owner::Cancel(id))) => self.worker.cancel_ended(wire, id),
            _ => panic!("nobody's socket"),
        }
        self.check();
    }

    /// A connection ends, unless the worker has closed it.
    pub(super) fn end_if_open(&mut self, socket: Socket) {
        if !self.is_closed(socket) {
            self.end(socket);
        }
    }

    /// What was sent to a socket since the last look.
    pub(super) fn take(&mut self, socket: Socket) -> Vec<u8> {
        self.wire.sent.remove(&socket).unwrap_or_default()
    }

    /// The tags of what was sent.
    pub(super) fn tags(&mut self, socket: Socket) -> alloc::string::String {
        tags(&self.take(socket))
    }

    pub(super) fn is_paused(&self, socket: Socket) -> bool {
        self.wire.paused.contains(&socket)
    }

    pub(super) fn is_closed(&self, socket: Socket) -> bool {
        self.wire.closed.contains(&socket)
    }
}

/// The tags of whole messages.
pub(super) fn tags(bytes: &[u8]) -> alloc::string::String {
    let mut frames = Frames::new(bytes);
    let mut tags = alloc::string::String::new();
    while let Some(frame) = frames.next_frame().expect("messages") {
        tags.push(char::from(frame.tag));
    }
    assert!(frames.rest().is_empty(), "half a message");
    tags
}

/// A simple query.
pub(super) fn query(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    frontend::write::query(&mut out, text.as_bytes());
    out
}

/// What a server answers to a simple query.
pub(super) fn done(command: &str, status: Status) -> Vec<u8> {
    let mut out = Vec::new();
    backend::write::command_complete(&mut out, command.as_bytes());
    backend::write::ready(&mut out, status);
    out
}

/// Parse, Bind, Execute, as a driver sends them.
pub(super) fn batch(name: &str, text: Option<&str>, has_sync: bool) -> Vec<u8> {
    let mut out = Vec::new();
    if let Some(text) = text {
        frontend::write::parse(&mut out, name.as_bytes(), text.as_bytes(), &[]);
    }
    frontend::write::bind_head(&mut out, b"", name.as_bytes(), 6);
    out.extend_from_slice(&[0; 6]);
    frontend::write::execute(&mut out, b"", 0);
    if has_sync {
        frontend::write::sync(&mut out);
    }
    out
}

/// A server's answer to those.
pub(super) fn batch_done(has_parse: bool, status: Status) -> Vec<u8> {
    let mut out = Vec::new();
    if has_parse {
        backend::write::parse_complete(&mut out);
    }
    backend::write::bind_complete(&mut out);
    backend::write::command_complete(&mut out, b"SELECT 0");
    backend::write::ready(&mut out, status);
    out
}

/// What a server says where a statement's result would have other types than it had.
pub(super) fn stale() -> Vec<u8> {
    b"E\0\0\0\x2aSERROR\0C0A000\0RRevalidateCachedQuery\0\0".to_vec()
}

/// An error.
pub(super) fn error(severity: &str, code: &str) -> Vec<u8> {
    let body = alloc::format!("S{severity}\0V{severity}\0C{code}\0Mfailed\0\0");
    let length = u32::try_from(body.len() + 4).expect("short");
    [b"E", &length.to_be_bytes()[..], body.as_bytes()].concat()
}
