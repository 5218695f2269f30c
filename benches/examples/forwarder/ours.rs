//! The forwarder on our engine, by whichever driver is asked for.

use std::net::{SocketAddr, TcpListener};

use pgx_ring::{Address, Choice, End, Engine, Handler, Io, Key, Received, Setup};

/// A peer that has not taken this much pauses whoever sends to it.
const BACKLOG_MAX: usize = 256 * 1024;

struct Forwarder {
    backend: Address,
    /// The other end of each connection, by slot.
    others: Vec<Option<Key>>,
}

impl Forwarder {
    fn join(&mut self, one: Key, other: Key) {
        let most = one.slot().max(other.slot());
        if self.others.len() <= most {
            self.others.resize(most + 1, None);
        }
        self.others[one.slot()] = Some(other);
        self.others[other.slot()] = Some(one);
    }

    fn part(&mut self, io: &mut Io, one: Key) {
        if let Some(other) = self.others[one.slot()].take() {
            self.others[other.slot()] = None;
            io.finish(other);
        }
        io.finish(one);
    }
}

impl Handler for Forwarder {
    fn accepted(&mut self, io: &mut Io, _: Key, socket: Key) {
        match io.connect(&self.backend) {
            Ok(server) => self.join(socket, server),
            Err(error) => {
                eprintln!("cannot connect to {}: {error}", self.backend);
                io.abort(socket);
            }
        }
    }

    fn connected(&mut self, io: &mut Io, socket: Key, result: std::io::Result<()>) {
        if let Err(error) = result {
            eprintln!("cannot connect to {}: {error}", self.backend);
            self.part(io, socket);
        }
    }

    fn received(&mut self, io: &mut Io, socket: Key, data: &Received<'_>) {
        let Some(other) = self.others[socket.slot()] else { return };
        io.forward(other, data, 0..data.len());
        if io.backlog(other) > BACKLOG_MAX && io.is_blocked(other) {
            io.pause(socket);
        }
    }

    fn ended(&mut self, io: &mut Io, socket: Key, _: End) {
        self.part(io, socket);
    }

    fn drained(&mut self, io: &mut Io, socket: Key) {
        if let Some(other) = self.others[socket.slot()] {
            io.resume(other);
        }
    }
}

/// One loop.
///
/// # Errors
/// When there is no such engine here, or it fails.
pub(crate) fn run(listener: TcpListener, backend: SocketAddr, engine: &str) -> anyhow::Result<()> {
    let choice: Choice = engine.parse()?;
    let mut engine = Engine::open(choice, &Setup::default())?;
    engine.io().listen(listener.into())?;
    let mut forwarder = Forwarder { backend: Address::Tcp(backend), others: Vec::new() };
    loop {
        engine.turn(None, &mut forwarder)?;
    }
}
