//! Keys, descriptors and slots over the whole life of many sockets.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use pgx_ring::{Address, Choice, End, Handler, Io, Key, Received, Setup};
use rustix::net::sockopt;

use crate::on_every_engine;
use crate::support::{
    Recorder, is_alone, open, open_with, pair, pattern, raise_descriptors, tcp_pair, turn_times,
    turn_until,
};

on_every_engine![
    old_keys_mean_nothing_through_thousands_of_connections,
    more_sockets_than_the_queues_hold_are_all_served,
    completions_that_the_kernel_holds_back_are_not_taken_for_success,
    full_table_refuses_and_recovers,
    connection_that_never_stands_can_be_given_up,
    output_queued_before_the_connection_stands_is_sent_first,
    finish_gives_up_on_a_peer_that_takes_nothing,
    finish_waits_for_a_peer_that_is_only_slow,
    sockets_may_be_closed_in_any_call,
    engine_can_be_dropped_in_mid_flight,
    listener_can_be_closed,
    finished_listener_loses_no_connection_to_whoever_has_its_socket_too,
    connection_that_woke_a_ring_which_does_nothing_is_found_by_a_look,
    listener_rests_when_descriptors_run_out,
    long_queue_of_small_pieces_is_sent_whole,
];

/// Echoes, and closes each connection in another way; remembers all keys there ever were.
#[derive(Default)]
struct Churn {
    keys: Vec<Key>,
    accepted: usize,
    ended: Vec<Key>,
}

impl Handler for Churn {
    fn accepted(&mut self, io: &mut Io, _: Key, socket: Key) {
        assert!(!self.keys.contains(&socket), "{socket:?} again");
        self.accepted += 1;
        // Old keys do nothing to whoever has their slots now.
        for old in self.ended.iter().rev().take(50) {
            io.write(*old, b"stale");
            io.pause(*old);
            io.abort(*old);
            assert_eq!(io.backlog(*old), 0);
            assert!(io.peer(*old).is_none());
        }
        self.keys.push(socket);
    }

    fn connected(&mut self, _: &mut Io, _: Key, _: std::io::Result<()>) {}

    fn received(&mut self, io: &mut Io, socket: Key, data: &Received<'_>) {
        io.forward(socket, data, 0..data.len());
        if self.accepted.is_multiple_of(3) {
            io.finish(socket);
            self.ended.push(socket);
        }
    }

    fn ended(&mut self, io: &mut Io, socket: Key, _: End) {
        self.ended.push(socket);
        if self.accepted.is_multiple_of(2) {
            io.finish(socket);
        } else {
            io.abort(socket);
        }
    }
}

fn old_keys_mean_nothing_through_thousands_of_connections(choice: Choice) {
    const COUNT: usize = 3_000;
    let Some(mut engine) = open(choice) else { return };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    engine.io().listen(listener.into()).unwrap();
    let clients = std::thread::spawn(move || {
        for round in 0..COUNT {
            let mut client = TcpStream::connect(address).unwrap();
            let sent = round.to_be_bytes();
            client.write_all(&sent).unwrap();
            let mut got = [0; 8];
            client.read_exact(&mut got).unwrap();
            assert_eq!(got, sent, "in round {round}");
        }
    });
    let mut handler = Churn::default();
    turn_until(&mut engine, &mut handler, "all have come and gone", |handler, io| {
        handler.ended.len() == COUNT && io.sockets() == 1
    });
    clients.join().unwrap();
    assert_eq!(engine.io().counters().accepted_total, COUNT as u64);
    let slots = handler.keys.iter().map(|key| key.slot()).max().unwrap();
    assert!(slots < 100, "slots are used again, but {slots} were");
}

fn more_sockets_than_the_queues_hold_are_all_served(choice: Choice) {
    // More than the submission queue has entries, and with the answers more than completions.
    const COUNT: usize = 6_000;
    raise_descriptors();
    let Some(mut engine) = open(choice) else { return };
    let mut handler = Recorder { echoes: true, ..Recorder::default() };
    let mut peers: Vec<UnixStream> = (0..COUNT).map(|_| pair(&mut engine).1).collect();
    for (peer, number) in peers.iter_mut().zip(0_u64..) {
        peer.write_all(&number.to_be_bytes()).unwrap();
    }
    turn_times(&mut engine, &mut handler, 60);
    for (peer, number) in peers.iter_mut().zip(0_u64..) {
        let mut got = [0; 8];
        peer.set_nonblocking(true).unwrap();
        turn_until(&mut engine, &mut handler, "an answer", |_, _| peer.read(&mut got).is_ok());
        assert_eq!(u64::from_be_bytes(got), number);
    }
    drop(peers);
    turn_until(&mut engine, &mut handler, "all are closed", |_, io| io.sockets() == 0);
    assert_eq!(handler.ended.len(), COUNT);
}

/// A send that says nothing has succeeded: so nothing may be concluded while completions wait in
/// the kernel for room in the queue.
fn completions_that_the_kernel_holds_back_are_not_taken_for_success(choice: Choice) {
    const COUNT: usize = 60;
    let setup = Setup { submissions: 256, completions: 256, ..Setup::default() };
    let Some(mut engine) = open_with(choice, &setup) else { return };
    let mut handler = Recorder::default();
    let mut peers: Vec<_> = (0..COUNT).map(|_| pair(&mut engine)).collect();
    for (key, peer) in &mut peers {
        sockopt::set_socket_send_buffer_size(engine.io().fd(*key).unwrap(), 4096).unwrap();
        // Fills what the peer's kernel side holds, so that the send below takes a part at most.
        peer.set_nonblocking(true).unwrap();
        for _ in 0..100 {
            if peer.write(&[5; 4096]).is_err() {
                break;
            }
        }
    }
    let sent = pattern(200_000, 3);
    for (key, _) in &peers {
        engine.io().write_vec(*key, sent.clone());
    }
    // The receives come first in this turn, each with many completions, and then the sends fail.
    turn_times(&mut engine, &mut handler, 3);
    let mut got = vec![Vec::new(); COUNT];
    let mut piece = vec![0; 65_536];
    turn_until(&mut engine, &mut handler, "all was read", |_, _| {
        for ((_, peer), got) in peers.iter_mut().zip(&mut got) {
            while let Ok(length) = peer.read(&mut piece) {
                got.extend_from_slice(&piece[..length]);
            }
        }
        got.iter().all(|got| got.len() >= sent.len())
    });
    assert!(got.iter().all(|got| *got == sent), "the bytes differ");
    let counters = engine.io().counters();
    assert!(counters.partial_sends_total >= COUNT as u64, "{counters:?}");
    if choice != Choice::Epoll {
        assert!(counters.overflows_total > 0, "{counters:?}");
    }
}

fn full_table_refuses_and_recovers(choice: Choice) {
    let setup = Setup { sockets_max: 4, ..Setup::default() };
    let Some(mut engine) = open_with(choice, &setup) else { return };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    engine.io().listen(listener.into()).unwrap();
    let mut handler = Recorder { echoes: true, ..Recorder::default() };
    let mut clients: Vec<_> = (0..3).map(|_| TcpStream::connect(address).unwrap()).collect();
    turn_until(&mut engine, &mut handler, "three", |handler, _| handler.accepted.len() == 3);
    assert!(engine.io().connect(&Address::Tcp(address)).is_err(), "there is no slot");
    let mut late = TcpStream::connect(address).unwrap();
    late.write_all(b"late").unwrap();
    turn_times(&mut engine, &mut handler, 5);
    drop(clients.pop());
    // The late one waits in the kernel, or was refused: then it comes again.
    let start = Instant::now();
    let mut got = [0; 4];
    late.set_nonblocking(true).unwrap();
    turn_until(&mut engine, &mut handler, "the late one is served", |_, _| {
        match late.read(&mut got) {
            Ok(4) => true,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => false,
            _ => {
                late = TcpStream::connect(address).unwrap();
                late.write_all(b"late").unwrap();
                late.set_nonblocking(true).unwrap();
                false
            }
        }
    });
    assert_eq!(&got, b"late");
    assert!(start.elapsed() < Duration::from_secs(5));
    assert!(engine.io().counters().accept_pauses_total > 0);
}

fn connection_that_never_stands_can_be_given_up(choice: Choice) {
    let Some(mut engine) = open(choice) else { return };
    let mut handler = Recorder::default();
    // A listener whose queue is full answers no more.
    let listener = rustix::net::socket(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::STREAM,
        None,
    )
    .unwrap();
    let any = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    rustix::net::bind(&listener, &any).unwrap();
    rustix::net::listen(&listener, 0).unwrap();
    let listener = TcpListener::from(listener);
    let address = listener.local_addr().unwrap();
    let mut keys: Vec<_> =
        (0..4).map(|_| engine.io().connect(&Address::Tcp(address)).unwrap()).collect();
    turn_times(&mut engine, &mut handler, 10);
    keys.retain(|key| !handler.connected.iter().any(|(connected, _)| connected == key));
    assert!(!keys.is_empty(), "all connected");
    let told = handler.connected.len();
    for key in &keys {
        engine.io().write(*key, b"never sent");
        engine.io().abort(*key);
    }
    turn_until(&mut engine, &mut handler, "closed", |_, io| io.sockets() == told);
    assert_eq!(handler.connected.len(), told);
}

fn output_queued_before_the_connection_stands_is_sent_first(choice: Choice) {
    let Some(mut engine) = open(choice) else { return };
    let mut handler = Recorder::default();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let key = engine.io().connect(&Address::Tcp(listener.local_addr().unwrap())).unwrap();
    engine.io().write(key, b"one ");
    engine.io().write_vec(key, vec![b'-'; 1000]);
    assert_eq!(engine.io().backlog(key), 1004);
    turn_until(&mut engine, &mut handler, "connected", |handler, _| !handler.connected.is_empty());
    engine.io().write(key, b" two");
    engine.io().finish(key);
    let mut peer = listener.accept().unwrap().0;
    turn_times(&mut engine, &mut handler, 3);
    let mut all = Vec::new();
    peer.read_to_end(&mut all).unwrap();
    assert_eq!(all.len(), 1008);
    assert!(all.starts_with(b"one -") && all.ends_with(b"- two"));
}

fn finish_gives_up_on_a_peer_that_takes_nothing(choice: Choice) {
    let setup = Setup { finish_ms_max: 50, ..Setup::default() };
    let Some(mut engine) = open_with(choice, &setup) else { return };
    let mut handler = Recorder::default();
    let (stuck, _peer) = pair(&mut engine);
    engine.io().write_vec(stuck, vec![1; 10_000_000]);
    engine.io().finish(stuck);
    // And on one that has all, and never closes.
    let (silent, _other) = pair(&mut engine);
    engine.io().write(silent, b"bye");
    engine.io().finish(silent);
    turn_until(&mut engine, &mut handler, "both are closed", |_, io| io.sockets() == 0);
    assert_eq!(engine.io().counters().closed_late_total, 2);
}

fn finish_waits_for_a_peer_that_is_only_slow(choice: Choice) {
    let setup = Setup { finish_ms_max: 300, ..Setup::default() };
    let Some(mut engine) = open_with(choice, &setup) else { return };
    let mut handler = Recorder::default();
    let (key, mut peer) = pair(&mut engine);
    sockopt::set_socket_send_buffer_size(engine.io().fd(key).unwrap(), 4096).unwrap();
    let sent = pattern(300_000, 8);
    engine.io().write_vec(key, sent.clone());
    engine.io().finish(key);
    let start = Instant::now();
    let mut got = Vec::new();
    let mut piece = [0; 4096];
    peer.set_nonblocking(true).unwrap();
    // A piece at a time, each later than the engine's turns, for longer than the bound.
    let mut next = Instant::now();
    turn_until(&mut engine, &mut handler, "all was read", |_, _| {
        if next <= Instant::now()
            && let Ok(length) = peer.read(&mut piece)
        {
            got.extend_from_slice(&piece[..length]);
            next = Instant::now() + Duration::from_millis(8);
        }
        got.len() == sent.len()
    });
    assert!(start.elapsed() > Duration::from_millis(500), "{:?}", start.elapsed());
    assert!(got == sent);
    drop(peer);
    turn_until(&mut engine, &mut handler, "closed", |_, io| io.sockets() == 0);
    assert_eq!(engine.io().counters().closed_late_total, 0);
}

/// Closes sockets, its own and others, from within every call.
struct Reckless {
    all: Vec<Key>,
    calls: usize,
}

impl Reckless {
    fn act(&mut self, io: &mut Io, key: Key) {
        self.calls += 1;
        let other = self.all[self.calls % self.all.len()];
        match self.calls % 4 {
            0 => io.abort(key),
            1 => io.finish(other),
            2 => io.abort(other),
            _ => io.write(other, b"more"),
        }
    }
}

impl Handler for Reckless {
    fn accepted(&mut self, _: &mut Io, _: Key, _: Key) {}
    fn connected(&mut self, _: &mut Io, _: Key, _: std::io::Result<()>) {}

    fn received(&mut self, io: &mut Io, socket: Key, data: &Received<'_>) {
        let before = data.to_vec();
        self.act(io, socket);
        for key in self.all.clone() {
            io.forward(key, data, 0..data.len());
        }
        self.act(io, socket);
        assert_eq!(&**data, before, "the data changed under the handler");
    }

    fn ended(&mut self, io: &mut Io, socket: Key, _: End) {
        self.act(io, socket);
    }

    fn drained(&mut self, io: &mut Io, socket: Key) {
        self.act(io, socket);
    }
}

fn sockets_may_be_closed_in_any_call(choice: Choice) {
    let Some(mut engine) = open(choice) else { return };
    for round in 0..30 {
        let mut peers = Vec::new();
        let mut all = Vec::new();
        for index in 0..20 {
            if index % 2 == 0 {
                let (key, peer) = pair(&mut engine);
                peers.push(Box::new(peer) as Box<dyn Write>);
                all.push(key);
            } else {
                let (key, peer) = tcp_pair(&mut engine);
                peers.push(Box::new(peer));
                all.push(key);
            }
        }
        let mut handler = Reckless { all, calls: round };
        for (peer, seed) in peers.iter_mut().zip(1..) {
            // It may be closed already.
            let _ = peer.write_all(&pattern(3_000, seed));
            turn_times(&mut engine, &mut handler, 1);
        }
        drop(peers);
        for key in handler.all.clone() {
            engine.io().finish(key);
        }
        turn_until(&mut engine, &mut handler, "all are closed", |_, io| io.sockets() == 0);
    }
}

fn engine_can_be_dropped_in_mid_flight(choice: Choice) {
    for _ in 0..20 {
        let Some(mut engine) = open(choice) else { return };
        let mut handler = Recorder::default();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        engine.io().listen(listener.into()).unwrap();
        let (key, mut peer) = pair(&mut engine);
        let (_other, mut writer) = tcp_pair(&mut engine);
        turn_times(&mut engine, &mut handler, 2);
        let _waiting = TcpStream::connect(address).unwrap();
        writer.write_all(&pattern(100_000, 1)).unwrap();
        engine.io().write_vec(key, vec![1; 5_000_000]);
        turn_times(&mut engine, &mut handler, 1);
        writer.write_all(&pattern(100_000, 1)).unwrap();
        engine.io().write(key, b"queued and never submitted");
        drop(engine);
        // Everything is closed: the peers see an end.
        let mut rest = Vec::new();
        let _ = peer.read_to_end(&mut rest);
        let _ = writer.read_to_end(&mut rest);
    }
}

fn listener_can_be_closed(choice: Choice) {
    // No other listener, of a test beside this one, gets the port that is free in the end.
    static HOSTS: AtomicU8 = AtomicU8::new(1);
    let Some(mut engine) = open(choice) else { return };
    let mut handler = Recorder::default();
    let host = Ipv4Addr::new(127, 0, 1, HOSTS.fetch_add(1, Ordering::Relaxed));
    let listener = TcpListener::bind((host, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let key = engine.io().listen(listener.into()).unwrap();
    let _first = TcpStream::connect(address).unwrap();
    turn_until(&mut engine, &mut handler, "accepts", |handler, _| handler.accepted.len() == 1);
    engine.io().pause(key);
    turn_times(&mut engine, &mut handler, 3);
    let _second = TcpStream::connect(address).unwrap();
    turn_times(&mut engine, &mut handler, 5);
    assert_eq!(handler.accepted.len(), 1, "paused");
    engine.io().resume(key);
    turn_until(&mut engine, &mut handler, "accepts", |handler, _| handler.accepted.len() == 2);
    engine.io().abort(key);
    turn_until(&mut engine, &mut handler, "closed", |_, io| io.sockets() == 2);
    assert!(TcpStream::connect(address).is_err());
}

fn finished_listener_loses_no_connection_to_whoever_has_its_socket_too(choice: Choice) {
    const CLIENTS: usize = 8;
    let Some(mut engine) = open(choice) else { return };
    for _ in 0..50 {
        let mut handler = Recorder::default();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let key = engine.io().listen(listener.try_clone().unwrap().into()).unwrap();
        turn_times(&mut engine, &mut handler, 2);
        let clients: Vec<_> = (0..CLIENTS).map(|_| TcpStream::connect(address).unwrap()).collect();

        engine.io().finish(key);
        turn_until(&mut engine, &mut handler, "it is gone", |_, io| !io.is_there(key));

        listener.set_nonblocking(true).unwrap();
        let left = std::iter::from_fn(|| listener.accept().ok()).count();
        assert_eq!(handler.accepted.len() + left, CLIENTS);
        let late = TcpStream::connect(address).unwrap();
        turn_times(&mut engine, &mut handler, 2);
        assert!(listener.accept().is_ok(), "it is nobody else's");
        for accepted in handler.accepted.drain(..) {
            engine.io().abort(accepted);
        }
        drop((clients, late));
        turn_until(&mut engine, &mut handler, "all are closed", |_, io| io.sockets() == 0);
    }
}

fn connection_that_woke_a_ring_which_does_nothing_is_found_by_a_look(choice: Choice) {
    if choice == Choice::Reduced {
        // Its rings of one thread do their work in any call, be it for another of them.
        return;
    }
    let (Some(mut idle), Some(mut engine)) = (open(choice), open(choice)) else { return };
    let mut nobody = Recorder::default();
    let mut handler = Recorder::default();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    // It waits first, so it is woken, and takes no turn any more.
    idle.io().listen(listener.try_clone().unwrap().into()).unwrap();
    turn_times(&mut idle, &mut nobody, 2);
    let key = engine.io().listen(listener.into()).unwrap();
    turn_times(&mut engine, &mut handler, 2);
    let _client = TcpStream::connect(address).unwrap();
    turn_times(&mut engine, &mut handler, 2);

    engine.io().look(key);

    turn_until(&mut engine, &mut handler, "it is accepted", |handler, _| {
        handler.accepted.len() == 1
    });
}

fn listener_rests_when_descriptors_run_out(choice: Choice) {
    if !is_alone() {
        return;
    }
    let Some(mut engine) = open(choice) else { return };
    let mut handler = Recorder { echoes: true, ..Recorder::default() };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    engine.io().listen(listener.into()).unwrap();
    let mut clients: Vec<_> = (0..10).map(|_| TcpStream::connect(address).unwrap()).collect();
    // The next descriptor has the lowest free number; only three of the ten can be accepted.
    let next = std::fs::File::open("/dev/null").unwrap();
    let number = u64::try_from(std::os::fd::AsRawFd::as_raw_fd(&next)).unwrap();
    drop(next);
    let mut limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    limit.current = Some(number + 3);
    rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).unwrap();
    turn_until(&mut engine, &mut handler, "it rests", |_, io| {
        io.counters().accept_pauses_total > 0
    });
    assert_eq!(engine.io().counters().accept_error_last, 24, "EMFILE");
    assert_eq!(handler.accepted.len(), 3);
    // Those that are served go on, and each that goes makes room for one that waits.
    for client in &mut clients {
        client.write_all(b"hello").unwrap();
    }
    for mut client in clients {
        client.set_nonblocking(true).unwrap();
        let mut got = [0; 5];
        turn_until(&mut engine, &mut handler, "an echo", |_, _| client.read(&mut got).is_ok());
        assert_eq!(&got, b"hello");
    }
}

fn long_queue_of_small_pieces_is_sent_whole(choice: Choice) {
    let Some(mut engine) = open(choice) else { return };
    let mut handler = Recorder::default();
    let (key, mut peer) = tcp_pair(&mut engine);
    let sent = pattern(300 * 1_000, 6);
    for piece in sent.chunks(300) {
        engine.io().write_vec(key, piece.to_vec());
    }
    turn_until(&mut engine, &mut handler, "sent", |_, io| io.backlog(key) == 0);
    let mut got = vec![0; sent.len()];
    peer.read_exact(&mut got).unwrap();
    assert!(got == sent);
}
