//! What must hold of a worker's sessions whatever clients, servers and the clock do.
//!
//! An input is a row of events: a byte that says which, one for whose, and for what is said a
//! length and bytes. These are a message each by their number, or the very bytes, so that both what
//! the protocol has and what it has not is found soon. The sockets here hold the driver's side of
//! the contract: nothing is written to what is closed, paused twice or forwarded from elsewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::ops::Range;
use std::rc::Rc;

use pgx_session::attrs::SessionAttrs;
use pgx_session::config::{AuthMethod, Config, Database, Limits, PoolMode};
use pgx_session::ids::ClientId;
use pgx_session::net::{Console, Names, Net, Socket};
use pgx_session::note::Note;
use pgx_session::permits::{
    Bounds, Ledger, Need, Offer, Permits, PoolKey, PoolName, Reported, Whose,
};
use pgx_session::route::{Course, Epoch, Gate, ServerAddress, Snapshot};
use pgx_session::time::Now;
use pgx_session::worker::{Asker, Hold, Owner, Print, Request, Scope, Worker};
use pgx_wire::auth::scram::Work;
use pgx_wire::backend::{self, Status};
use pgx_wire::frontend;

const CLIENTS_MAX: usize = 4;

#[derive(Default)]
struct Wire {
    piece_bytes: usize,
    paused: BTreeSet<Socket>,
    closed: BTreeSet<Socket>,
    blocked: BTreeSet<Socket>,
    owners: BTreeMap<Socket, Owner>,
    connecting: BTreeSet<Socket>,
    /// The numbers that clients were told to cancel by.
    processes: BTreeMap<Socket, u32>,
    last: u64,
}

impl Wire {
    fn open(&mut self) -> Socket {
        self.last += 1;
        Socket(self.last)
    }
}

impl Net for Wire {
    fn forward(&mut self, to: Socket, range: Range<usize>) {
        assert!(range.start <= range.end && range.end <= self.piece_bytes, "not of this piece");
        self.write(to, &[]);
    }

    fn write(&mut self, to: Socket, bytes: &[u8]) {
        if let Some((b"K\0\0\0\x0c", told)) = bytes.split_first_chunk()
            && let Some((process, _)) = told.split_first_chunk()
        {
            self.processes.insert(to, u32::from_be_bytes(*process));
        }
        assert!(!self.closed.contains(&to), "written to a closed socket");
        assert!(!self.connecting.contains(&to), "written before it is there");
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
        self.connecting.remove(&socket);
    }

    fn abort(&mut self, socket: Socket) {
        self.finish(socket);
    }

    fn connect(&mut self, _to: &ServerAddress) -> Option<Socket> {
        let socket = self.open();
        self.connecting.insert(socket);
        Some(socket)
    }

    fn own(&mut self, socket: Socket, owner: Owner) {
        self.owners.insert(socket, owner);
    }

    fn cancel(&mut self, _request: Request) -> usize {
        0
    }

    fn cancelled(&mut self, _by: Asker) {}

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
        Some(IpAddr::V4(Ipv4Addr::LOCALHOST))
    }

    fn peer_user(&self, _socket: Socket) -> Option<Vec<u8>> {
        None
    }

    fn certificate(&self, _socket: Socket) -> Option<Names> {
        None
    }

    fn console(&mut self, _id: ClientId, _what: Console<'_>) {}

    fn tables_changed(&mut self) {}

    fn random(&mut self, bytes: &mut [u8]) {
        bytes.fill(7);
    }

    fn hash(&mut self, _print: Print, _work: Work) {
        unreachable!("nobody has a password here");
    }

    fn note(&mut self, _note: &Note<'_>) {}
}

/// The bookkeeping of the only thread.
#[derive(Debug)]
struct Desk(Ledger);

impl Permits for Desk {
    fn pool(&mut self, name: PoolName<'_>, bounds: Bounds) -> PoolKey {
        self.0.pool(name, bounds)
    }

    fn rebound(&mut self, pool: PoolKey, bounds: Bounds) {
        self.0.rebound(pool, bounds);
    }

    fn is_over(&mut self, pool: PoolKey) -> bool {
        self.0.is_over(pool)
    }

    fn forget(&mut self, pool: PoolKey) -> bool {
        self.0.forget(0, pool)
    }

    fn take(&mut self, pool: PoolKey, need: Need) -> bool {
        self.0.take(0, pool, Need { insists: false, ..need })
    }

    fn take_for_min(&mut self, pool: PoolKey) -> bool {
        self.0.take_for_min(0, pool)
    }

    fn give(&mut self, pool: PoolKey) {
        self.0.give(0, pool);
    }

    fn give_spare(&mut self, pool: PoolKey) -> bool {
        self.0.give_spare(0, pool)
    }

    fn offer(&mut self, pool: PoolKey, waits: Option<Now>) -> Offer {
        self.0.offer(0, pool, waits)
    }

    fn withdraw(&mut self, pool: PoolKey) {
        self.0.withdraw(0, pool);
    }

    fn tell_reported(&mut self, pool: PoolKey, reported: &Reported) {
        self.0.tell_reported(pool, reported);
    }

    fn reported(&mut self, pool: PoolKey) -> Option<Reported> {
        self.0.reported(pool)
    }

    fn enter(&mut self, whose: Whose<'_>, max: usize) -> bool {
        self.0.enter(whose, max)
    }

    fn leave(&mut self, whose: Whose<'_>) {
        self.0.leave(whose);
    }
}

/// What the cluster says.
fn course(epoch: u64, writes: Gate) -> Course {
    let backends = vec![ServerAddress(format!("db{epoch}:5432")).into()];
    let primary = Snapshot { epoch: Epoch(epoch), backends };
    Course { standbys: primary.clone(), primary, writes, reads: Gate::Open, is_strict: false }
}

struct Play {
    worker: Worker,
    wire: Wire,
    clients: Vec<(Socket, ClientId)>,
    now: Now,
}

/// Whatever happens, the worker keeps its contract with the driver, and does not panic.
pub fn session(input: &[u8]) {
    let Some((first, mut rest)) = input.split_first() else { return };
    let mode = match (first & 1, first >> 4 & 1) {
        (0, 0) => PoolMode::Transaction,
        (0, _) => PoolMode::Statement,
        _ => PoolMode::Session,
    };
    let backends = vec![ServerAddress("db:5432".to_owned()).into()];
    let mut database = Database::new(backends, mode, 1 + usize::from(first >> 1 & 1));
    (database.refuses_state, database.is_clusters) = (first >> 5 & 1 == 1, true);
    let config = Config {
        databases: BTreeMap::from([(b"*".to_vec(), database)]),
        auth: AuthMethod::Trust,
        limits: Limits {
            prepared_max: 2,
            query_ms: u64::from(first >> 2 & 1) * 500,
            idle_transaction_ms: u64::from(first >> 3 & 1) * 500,
            transaction_ms: u64::from(first >> 6 & 1) * 500,
            server_lifetime_ms: u64::from(first >> 7 & 1) * 5_000,
            ..Limits::default()
        },
        ..Config::default()
    };
    let mut wire = Wire::default();
    let mut worker = Worker::new(Rc::new(config), Box::new(Desk(Ledger::new(1))), 0, &mut wire);
    worker.follow(&mut wire, &course(1, Gate::Open), Now(0));
    let mut play = Play { worker, wire, clients: Vec::new(), now: Now(0) };
    while let Some(([event, whose], more)) = rest.split_first_chunk() {
        rest = play.happen(*event, usize::from(*whose), more);
    }
}

impl Play {
    /// Something happens. Gives what is left of the input.
    fn happen<'a>(&mut self, event: u8, whose: usize, rest: &'a [u8]) -> &'a [u8] {
        let (length, said) = rest.split_first().map_or((0, rest), |(at, more)| (*at, more));
        let (said, more) = said.split_at(usize::from(length).min(said.len()));
        match event % 12 {
            0 => self.come(),
            1 => {
                self.client_says(whose, said);
                return more;
            }
            2 => {
                let all: Vec<u8> = said.iter().flat_map(|number| asked(*number)).collect();
                self.client_says(whose, &all);
                return more;
            }
            3 => {
                self.server_says(whose, said);
                return more;
            }
            4 => {
                let all: Vec<u8> = said.iter().flat_map(|number| answered(*number)).collect();
                self.server_says(whose, &all);
                return more;
            }
            5 => self.connect(whose),
            6 => self.end_client(whose),
            7 => self.end_server(whose),
            8 => {
                self.now = self.now.after_ms(100 * (1 + whose as u64));
                self.worker.tick(&mut self.wire, self.now);
            }
            9 => self.block(whose),
            10 if whose & 8 == 8 => self.operate(whose),
            10 if whose & 1 == 0 => {
                let keeps_servers = whose & 4 == 4;
                let wait_ms = 500 * (whose as u64 >> 1 & 1);
                let hold = Hold { wait_ms, drain_ms: 300, keeps_servers };
                self.worker.hold(&mut self.wire, Scope::Database(b"shop"), hold, self.now);
            }
            10 => self.worker.resume(&mut self.wire, Scope::Database(b"shop"), self.now),
            _ => {
                let Some((socket, client)) = self.clients.get(whose % CLIENTS_MAX) else {
                    return rest;
                };
                let process = self.wire.processes.get(socket).copied().unwrap_or_default();
                let by = Asker { thread: 0, client: *client };
                let request = Request { by, process, key: vec![7; 4] };
                self.worker.cancel(&mut self.wire, request, self.now);
            }
        }
        rest
    }

    /// The cluster says who serves, or an operator does something.
    fn operate(&mut self, whose: usize) {
        let (wire, now) = (&mut self.wire, self.now);
        match whose >> 4 & 7 {
            0 => self.worker.reconnect(wire, Scope::All, now),
            1 => self.worker.kill(wire, Scope::Database(b"shop"), now),
            2 => self.worker.enable(b"shop", whose & 1 == 1),
            3 => self.worker.shut(wire, now),
            gate => {
                let gates = [Gate::Open, Gate::Open, Gate::Held, Gate::Shut];
                let epoch = 1 + (whose as u64 & 7);
                self.worker.follow(wire, &course(epoch, gates[gate - 4]), now);
            }
        }
        let closed = &self.wire.closed;
        self.clients.retain(|(socket, _)| !closed.contains(socket));
    }

    fn come(&mut self) {
        if self.clients.len() < CLIENTS_MAX {
            let socket = self.wire.open();
            let id = self.worker.accepted(&mut self.wire, socket, SessionAttrs::Any, self.now);
            self.clients.push((socket, id));
            let parameters = [(&b"user"[..], &b"ann"[..]), (b"database", b"shop")];
            let mut packet = Vec::new();
            frontend::write::startup(&mut packet, 0, parameters.into_iter());
            self.client_says(self.clients.len() - 1, &packet);
        }
    }

    fn client_says(&mut self, whose: usize, bytes: &[u8]) {
        let Some((socket, id)) = self.clients.get(whose % CLIENTS_MAX) else { return };
        if !self.wire.closed.contains(socket) {
            self.wire.piece_bytes = bytes.len();
            self.worker.client_bytes(&mut self.wire, *id, bytes, self.now);
        }
        self.wire.piece_bytes = 0;
        let closed = &self.wire.closed;
        self.clients.retain(|(socket, _)| !closed.contains(socket));
    }

    /// A socket that the worker has connected, and who it is for.
    fn connected(&self, whose: usize) -> Option<(Socket, Owner)> {
        let is_open = |(socket, _): &(&Socket, &Owner)| !self.wire.closed.contains(socket);
        let all: Vec<_> = self.wire.owners.iter().filter(is_open).collect();
        let (socket, owner) = all.get(whose % all.len().max(1))?;
        Some((**socket, **owner))
    }

    fn server_says(&mut self, whose: usize, bytes: &[u8]) {
        if let Some((socket, Owner::Server(id))) = self.connected(whose)
            && !self.wire.connecting.contains(&socket)
        {
            self.wire.piece_bytes = bytes.len();
            self.worker.server_bytes(&mut self.wire, id, bytes, self.now);
            self.wire.piece_bytes = 0;
        }
    }

    fn connect(&mut self, whose: usize) {
        let Some((socket, owner)) = self.connected(whose) else { return };
        if !self.wire.connecting.remove(&socket) {
            return;
        }
        match owner {
            Owner::Server(id) => {
                self.worker.connected(&mut self.wire, id, Ok(()), self.now);
                let hello: Vec<u8> = [20, 21, 22].into_iter().flat_map(answered).collect();
                self.server_says(whose, &hello);
            }
            Owner::Cancel(id) => self.worker.cancel_connected(&mut self.wire, id, whose & 64 == 0),
            Owner::Client(_) => {}
        }
    }

    fn end_client(&mut self, whose: usize) {
        if self.clients.len() > whose % CLIENTS_MAX {
            let (socket, id) = self.clients.remove(whose % CLIENTS_MAX);
            if !self.wire.closed.contains(&socket) {
                self.worker.client_ended(&mut self.wire, id, self.now);
            }
        }
    }

    fn end_server(&mut self, whose: usize) {
        match self.connected(whose) {
            Some((_, Owner::Server(id))) => {
                self.worker.server_ended(&mut self.wire, id, b"reset", self.now);
            }
            Some((_, Owner::Cancel(id))) => self.worker.cancel_ended(&mut self.wire, id),
            _ => {}
        }
    }

    fn block(&mut self, whose: usize) {
        let of_client =
            self.clients.get(whose % 8).map(|(socket, id)| (*socket, Owner::Client(*id)));
        let Some((socket, owner)) = of_client.or_else(|| self.connected(whose)) else { return };
        if self.wire.blocked.remove(&socket) {
            self.worker.drained(&mut self.wire, owner, self.now);
        } else {
            self.wire.blocked.insert(socket);
        }
    }
}

/// What clients ask, by number.
fn asked(number: u8) -> Vec<u8> {
    let mut out = Vec::new();
    let texts: [&[u8]; 8] = [
        b"select 1",
        b"begin",
        b"commit",
        b"listen c",
        b"discard all",
        b"copy",
        b"set a = 1",
        b"deallocate a",
    ];
    let name: &[u8] = [&b""[..], b"a", b"b", b"pgx_1"][usize::from(number >> 3 & 3)];
    match number % 8 {
        0 => frontend::write::query(&mut out, texts[usize::from(number >> 3 & 7)]),
        1 => frontend::write::parse(&mut out, name, texts[usize::from(number >> 5)], &[]),
        2 => {
            frontend::write::bind_head(&mut out, b"", name, 6);
            out.extend_from_slice(&[0; 6]);
        }
        3 => frontend::write::execute(&mut out, b"", 0),
        4 => frontend::write::sync(&mut out),
        5 => frontend::write::describe(&mut out, b'S', name),
        6 => frontend::write::close(&mut out, b'S', name),
        _ => out.extend_from_slice(match number >> 3 & 3 {
            0 => b"d\0\0\0\x05x",
            1 => b"c\0\0\0\x04",
            2 => b"H\0\0\0\x04",
            _ => b"X\0\0\0\x04",
        }),
    }
    out
}

/// What servers answer, by number.
fn answered(number: u8) -> Vec<u8> {
    let mut out = Vec::new();
    let failed = |severity: &str, code: &str| {
        let body = format!("S{severity}\0V{severity}\0C{code}\0Mfailed\0\0");
        let length = u32::try_from(body.len() + 4).unwrap_or_default().to_be_bytes();
        [b"E", &length[..], body.as_bytes()].concat()
    };
    match number % 25 {
        0 => backend::write::ready(&mut out, Status::Idle),
        1 => backend::write::ready(&mut out, Status::Block),
        2 => backend::write::ready(&mut out, Status::Failed),
        3 => backend::write::parse_complete(&mut out),
        4 => backend::write::bind_complete(&mut out),
        5 => backend::write::close_complete(&mut out),
        6 => backend::write::no_data(&mut out),
        7 => backend::write::command_complete(&mut out, b"SELECT 1"),
        8 => backend::write::command_complete(&mut out, b"DISCARD ALL"),
        9 => backend::write::command_complete(&mut out, b"DEALLOCATE ALL"),
        10 => out = failed("ERROR", "42601"),
        11 => {
            let body = b"SERROR\0C0A000\0RRevalidateCachedQuery\0\0";
            out.push(b'E');
            out.extend_from_slice(&u32::try_from(body.len() + 4).unwrap_or_default().to_be_bytes());
            out.extend_from_slice(body);
        }
        12 => out = failed("FATAL", "57P01"),
        13 => out = failed("FATAL", "08P01"),
        14 => out.extend_from_slice(b"G\0\0\0\x07\0\0\0"),
        15 => out.extend_from_slice(b"W\0\0\0\x07\0\0\0"),
        16 => out.extend_from_slice(b"I\0\0\0\x04"),
        17 => out.extend_from_slice(b"s\0\0\0\x04"),
        18 => out.extend_from_slice(b"D\0\0\0\x06\0\0"),
        19 => backend::write::parameter_status(&mut out, b"DateStyle", b"German"),
        20 => backend::write::authentication_ok(&mut out),
        21 => backend::write::backend_key(&mut out, 99, b"key!"),
        23 => out.extend_from_slice(b"t\0\0\0\x06\0\0"),
        22 => {
            backend::write::parameter_status(&mut out, b"DateStyle", b"ISO");
            backend::write::ready(&mut out, Status::Idle);
        }
        _ => out.extend_from_slice(b"A\0\0\0\x08\0\0\0\0"),
    }
    out
}
