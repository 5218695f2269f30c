//! Several engines in several threads: wake-ups, deadlines, and sockets that move.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use pgx_ring::{Choice, End, Handler, Io, Key, Received, Setup, now_ns};

use crate::on_every_engine;
use crate::support::{
    Recorder, WAIT_MAX, open, open_with, pair, pattern, tcp_pair, turn_times, turn_until,
};

on_every_engine![
    wake_from_another_thread_ends_the_wait,
    every_wake_is_seen,
    deadline_ends_the_wait_and_not_before,
    sockets_move_between_threads_with_data_in_flight,
    taken_socket_has_sent_all_that_was_queued,
];

fn wake_from_another_thread_ends_the_wait(choice: Choice) {
    let Some(mut engine) = open(choice) else { return };
    let waker = engine.waker();
    let mut handler = Recorder::default();
    // Before the first turn, too.
    waker.wake();
    waker.wake();
    engine.turn(None, &mut handler).unwrap();
    turn_until(&mut engine, &mut handler, "the wake-up", |handler, _| handler.woken > 0);
    turn_times(&mut engine, &mut handler, 3);
    assert_eq!(handler.woken, 1, "wake-ups that were not seen are one");
    let thread = std::thread::spawn(move || waker.wake());
    while handler.woken == 1 {
        engine.turn(None, &mut handler).unwrap();
    }
    thread.join().unwrap();
}

/// Counts what the wakers left before they woke it.
struct Inbox<'a> {
    left: &'a AtomicUsize,
    seen: usize,
}

impl Handler for Inbox<'_> {
    fn accepted(&mut self, _: &mut Io, _: Key, _: Key) {}
    fn connected(&mut self, _: &mut Io, _: Key, _: std::io::Result<()>) {}
    fn received(&mut self, _: &mut Io, _: Key, _: &Received<'_>) {}
    fn ended(&mut self, _: &mut Io, _: Key, _: End) {}

    fn woken(&mut self, _: &mut Io) {
        self.seen += self.left.swap(0, Ordering::Relaxed);
    }
}

fn every_wake_is_seen(choice: Choice) {
    const COUNT: usize = 2_000;
    let Some(mut engine) = open(choice) else { return };
    let left = AtomicUsize::new(0);
    let start = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..3 {
            let waker = engine.waker();
            let left = &left;
            scope.spawn(move || {
                for _ in 0..COUNT {
                    left.fetch_add(1, Ordering::Relaxed);
                    waker.wake();
                    // The next one comes when this one has been seen, so none hides another.
                    while left.load(Ordering::Relaxed) > 0 && start.elapsed() < WAIT_MAX {
                        std::thread::yield_now();
                    }
                }
            });
        }
        let mut inbox = Inbox { left: &left, seen: 0 };
        while inbox.seen < 3 * COUNT {
            assert!(start.elapsed() < WAIT_MAX, "saw only {}", inbox.seen);
            // Without a bound: a lost wake-up would hang, and with it the test.
            engine.turn(Some(now_ns() + 10_000_000_000), &mut inbox).unwrap();
        }
        assert!(start.elapsed() < Duration::from_secs(9), "a wake-up was lost");
    });
}

fn deadline_ends_the_wait_and_not_before(choice: Choice) {
    let Some(mut engine) = open(choice) else { return };
    let mut handler = Recorder::default();
    let (_key, _peer) = pair(&mut engine);
    turn_times(&mut engine, &mut handler, 2);
    for wait_ms in [0, 1, 20, 100] {
        let start = now_ns();
        let deadline = start + wait_ms * 1_000_000;
        engine.turn(Some(deadline), &mut handler).unwrap();
        let end = now_ns();
        assert!(end >= deadline, "{} ns early", deadline - end);
        assert!(end < deadline + 5_000_000_000, "{} ns late", end - deadline);
    }
    engine.turn(Some(1), &mut handler).unwrap();
    engine.turn(Some(0), &mut handler).unwrap();
}

/// Echoes so many bytes, then gives the socket away. Whatever it had to deliver until then counts.
struct Station {
    /// Bytes that this one echoes of each socket before it moves on.
    quota: usize,
    echoed: std::collections::HashMap<Key, usize>,
    inbox: mpsc::Receiver<OwnedFd>,
    outbox: mpsc::Sender<OwnedFd>,
    next: pgx_ring::Waker,
    moved: usize,
}

impl Handler for Station {
    fn accepted(&mut self, _: &mut Io, _: Key, _: Key) {}
    fn connected(&mut self, _: &mut Io, _: Key, _: std::io::Result<()>) {}

    fn received(&mut self, io: &mut Io, socket: Key, data: &Received<'_>) {
        io.forward(socket, data, 0..data.len());
        let echoed = self.echoed.entry(socket).or_default();
        *echoed += data.len();
        if *echoed >= self.quota {
            io.take(socket);
        }
    }

    fn ended(&mut self, io: &mut Io, socket: Key, _: End) {
        io.finish(socket);
    }

    fn taken(&mut self, _: &mut Io, socket: Key, fd: OwnedFd) {
        self.echoed.remove(&socket);
        self.moved += 1;
        // The other one may have ended at the end of the test.
        let _ = self.outbox.send(fd);
        self.next.wake();
    }

    fn woken(&mut self, io: &mut Io) {
        while let Ok(fd) = self.inbox.try_recv() {
            io.adopt(fd).unwrap();
        }
    }
}

fn sockets_move_between_threads_with_data_in_flight(choice: Choice) {
    const SOCKETS: usize = 8;
    const BYTES: usize = 1_000_000;
    // Few buffers, so that a socket does not deliver all it has before it moves on.
    let setup = Setup { buffers: 2, large_buffer_bytes: 32 * 1024, ..Setup::default() };
    let Some(mut first) = open_with(choice, &setup) else { return };
    let is_over = AtomicBool::new(false);
    let (to_second, at_second) = mpsc::channel();
    let (to_first, at_first) = mpsc::channel();
    let (waker_out, waker_in) = mpsc::channel();
    let first_waker = first.waker();
    let mut peers: Vec<_> = (0..SOCKETS).map(|_| tcp_pair(&mut first).1).collect();
    std::thread::scope(|scope| {
        let over = &is_over;
        let second = scope.spawn(move || {
            let mut engine = open_with(choice, &setup).unwrap();
            waker_out.send(engine.waker()).unwrap();
            let mut station = Station {
                quota: 30_000,
                echoed: Default::default(),
                inbox: at_second,
                outbox: to_first,
                next: first_waker,
                moved: 0,
            };
            turn_until(&mut engine, &mut station, "the end", |_, _| over.load(Ordering::SeqCst));
            station.moved
        });
        let echoes: Vec<_> = peers
            .drain(..)
            .zip(1..)
            .map(|(mut peer, seed)| {
                scope.spawn(move || {
                    let sent = pattern(BYTES, seed);
                    let mut reader = peer.try_clone().unwrap();
                    let copy = sent.clone();
                    let writer = std::thread::spawn(move || peer.write_all(&copy).unwrap());
                    let mut got = vec![0; BYTES];
                    reader.read_exact(&mut got).unwrap();
                    writer.join().unwrap();
                    assert!(got == sent, "the echo differs");
                })
            })
            .collect();
        let mut station = Station {
            quota: 20_000,
            echoed: Default::default(),
            inbox: at_first,
            outbox: to_second,
            next: waker_in.recv().unwrap(),
            moved: 0,
        };
        turn_until(&mut first, &mut station, "all echoes", |_, _| {
            echoes.iter().all(std::thread::ScopedJoinHandle::is_finished)
        });
        is_over.store(true, Ordering::SeqCst);
        let moved = station.moved + second.join().unwrap();
        assert!(moved > 3 * SOCKETS, "only {moved} moves");
    });
}

fn taken_socket_has_sent_all_that_was_queued(choice: Choice) {
    let Some(mut engine) = open(choice) else { return };
    let mut handler = Recorder::default();
    let (key, mut peer) = pair(&mut engine);
    let sent = pattern(3_000_000, 7);
    engine.io().write_vec(key, sent.clone());
    engine.io().take(key);
    peer.write_all(b"for the next owner").unwrap();
    turn_times(&mut engine, &mut handler, 3);
    assert!(handler.taken.is_empty(), "output waits");
    let reader = std::thread::spawn(move || {
        let mut got = vec![0; 3_000_000];
        peer.read_exact(&mut got).unwrap();
        (peer, got)
    });
    turn_until(&mut engine, &mut handler, "taken", |handler, _| !handler.taken.is_empty());
    let (_peer, got) = reader.join().unwrap();
    assert!(got == sent);
    assert_eq!(engine.io().sockets(), 0);
    let (taken, fd) = handler.taken.pop().unwrap();
    assert_eq!(taken, key);
    // What came meanwhile was delivered, or is still there: nothing is lost.
    let mut all = handler.bytes(key).to_vec();
    let again = engine.io().adopt(fd).unwrap();
    turn_until(&mut engine, &mut handler, "the rest", |handler, _| {
        all.len() + handler.bytes(again).len() == 18
    });
    all.extend_from_slice(handler.bytes(again));
    assert_eq!(all, b"for the next owner");
}
