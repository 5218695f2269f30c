//! Slow, stuck and flooding peers: every byte arrives once and in order, and memory stays flat.

use std::io::{Read, Write};

use std::os::fd::AsFd;

use pgx_ring::limits::{BUFFER_BYTES, BUFFERS, LARGE_BUFFER_BYTES};
use pgx_ring::{Choice, Engine, Io, Key, Setup};
use rustix::net::sockopt;

use crate::on_every_engine;
use crate::support::{
    Recorder, is_alone, open, open_with, pair, pattern, resident_bytes, tcp_pair, turn_times,
    turn_until,
};

on_every_engine![
    partial_sends_lose_and_double_nothing,
    stuck_peer_blocks_and_is_told_to_be_drained_once,
    drained_and_the_end_come_without_another_event,
    paused_socket_is_not_read_and_goes_on_where_it_stopped,
    pause_bounds_what_still_arrives,
    gigabyte_through_a_slow_reader_keeps_memory_flat,
    sockets_that_find_no_buffer_are_served_later,
    stuck_peers_hold_no_buffers,
    flood_from_one_socket_does_not_starve_another,
    idle_sockets_cost_almost_nothing,
];

fn small_send_buffer(io: &Io, key: Key) {
    sockopt::set_socket_send_buffer_size(io.fd(key).unwrap(), 4096).unwrap();
}

/// Thousands of sends of all sizes through the smallest buffers the kernel grants, read in pieces
/// of odd sizes.
fn partial_sends_lose_and_double_nothing(choice: Choice) {
    let Some(mut engine) = open(choice) else { return };
    for is_tcp in [true, false] {
        let mut handler = Recorder::default();
        let (key, mut peer): (Key, Box<dyn Read + std::marker::Send>) = if is_tcp {
            let (key, peer) = tcp_pair(&mut engine);
            sockopt::set_socket_recv_buffer_size(peer.as_fd(), 16 * 1024).unwrap();
            (key, Box::new(peer))
        } else {
            let (key, peer) = pair(&mut engine);
            (key, Box::new(peer))
        };
        small_send_buffer(engine.io(), key);
        let sent = pattern(if is_tcp { 1_500_000 } else { 24_000_000 }, 3);
        let expected = sent.clone();
        let reader = std::thread::spawn(move || {
            let mut piece = vec![0; 8191];
            let mut place = 0;
            let mut size = 1;
            while place < expected.len() {
                let length = peer.read(&mut piece[..size]).unwrap();
                assert!(length > 0, "ended at {place}");
                assert!(piece[..length] == expected[place..place + length], "differs at {place}");
                place += length;
                size = (size * 7 + 13) % 8191 + 1;
            }
        });
        // Up to five pieces at a time, of one byte to some ten thousand.
        let mut place = 0;
        let mut size = 1;
        let before = engine.io().counters().partial_sends_total;
        while place < sent.len() {
            for index in 0..5 {
                let end = (place + size).min(sent.len());
                if index % 2 == 0 {
                    engine.io().write_vec(key, sent[place..end].to_vec());
                } else {
                    engine.io().write(key, &sent[place..end]);
                }
                place = end;
                size = (size * 11 + 7) % 9973 + 1;
            }
            turn_until(&mut engine, &mut handler, "there is room", |_, io| {
                io.backlog(key) < 20_000
            });
        }
        turn_until(&mut engine, &mut handler, "all is sent", |_, io| io.backlog(key) == 0);
        reader.join().unwrap();
        let partial = engine.io().counters().partial_sends_total - before;
        eprintln!("{choice}, tcp {is_tcp}: {partial} partial sends");
        assert!(partial > if is_tcp { 10 } else { 500 }, "only {partial} partial sends");
        turn_times(&mut engine, &mut handler, 2);
        assert!(!engine.io().is_blocked(key));
        engine.io().abort(key);
    }
}

fn stuck_peer_blocks_and_is_told_to_be_drained_once(choice: Choice) {
    let Some(mut engine) = open(choice) else { return };
    let mut handler = Recorder::default();
    let (key, mut peer) = pair(&mut engine);
    engine.io().write(key, b"small");
    turn_times(&mut engine, &mut handler, 2);
    assert!(!engine.io().is_blocked(key) && engine.io().backlog(key) == 0);
    assert!(handler.drained.is_empty(), "was never blocked");
    let sent = pattern(2_000_000, 1);
    engine.io().write_vec(key, sent.clone());
    turn_until(&mut engine, &mut handler, "blocked", |_, io| io.is_blocked(key));
    let backlog = engine.io().backlog(key);
    assert!(backlog > 0 && backlog < sent.len(), "{backlog}");
    turn_times(&mut engine, &mut handler, 3);
    assert_eq!(engine.io().backlog(key), backlog, "nobody reads");
    let mut got = vec![0; 5 + sent.len()];
    let reader = std::thread::spawn(move || {
        peer.read_exact(&mut got).unwrap();
        (peer, got)
    });
    turn_until(&mut engine, &mut handler, "drained", |handler, _| !handler.drained.is_empty());
    assert!(!engine.io().is_blocked(key) && engine.io().backlog(key) == 0);
    let (_peer, got) = reader.join().unwrap();
    assert!(got[5..] == sent);
    turn_times(&mut engine, &mut handler, 3);
    assert_eq!(handler.drained, [key]);
}

/// A send says nothing when it succeeds, yet what follows from it must not wait for anything else.
fn drained_and_the_end_come_without_another_event(choice: Choice) {
    const LONG_NS: u64 = 20_000_000_000;
    let Some(mut engine) = open(choice) else { return };
    let mut handler = Recorder::default();
    let (key, mut peer) = pair(&mut engine);
    engine.io().write_vec(key, pattern(1_000_000, 1));
    turn_until(&mut engine, &mut handler, "blocked", |_, io| io.is_blocked(key));
    let start = std::time::Instant::now();
    let reader = std::thread::spawn(move || {
        let mut got = Vec::new();
        peer.read_to_end(&mut got).unwrap();
        got
    });
    while handler.drained.is_empty() {
        assert!(start.elapsed().as_secs() < 10, "drained came late");
        engine.turn(Some(pgx_ring::now_ns() + LONG_NS), &mut handler).unwrap();
    }
    engine.io().write(key, b"bye");
    engine.io().finish(key);
    while engine.io().sockets() > 0 {
        assert!(start.elapsed().as_secs() < 10, "the end came late");
        engine.turn(Some(pgx_ring::now_ns() + 100_000_000), &mut handler).unwrap();
    }
    assert!(start.elapsed().as_secs() < 10, "something came late");
    assert_eq!(reader.join().unwrap().len(), 1_000_003);
}

fn paused_socket_is_not_read_and_goes_on_where_it_stopped(choice: Choice) {
    let Some(mut engine) = open(choice) else { return };
    let mut handler = Recorder::default();
    let (key, mut peer) = pair(&mut engine);
    let sent = pattern(20_000, 9);
    let mut place = 0;
    // Often, so that single receives and the return to multishot are all passed through.
    for round in 0..40 {
        engine.io().pause(key);
        turn_times(&mut engine, &mut handler, 2);
        peer.write_all(&sent[place..place + 200]).unwrap();
        turn_times(&mut engine, &mut handler, 2);
        let paused_at = handler.bytes(key).len();
        assert!(paused_at <= place + 200);
        peer.write_all(&sent[place + 200..place + 400]).unwrap();
        turn_times(&mut engine, &mut handler, 2);
        assert!(handler.bytes(key).len() <= place + 200, "read on in round {round}");
        engine.io().resume(key);
        place += 400;
        turn_until(&mut engine, &mut handler, "goes on", |handler, _| {
            handler.bytes(key).len() == place
        });
        peer.write_all(&sent[place..place + 100]).unwrap();
        place += 100;
        turn_until(&mut engine, &mut handler, "goes on", |handler, _| {
            handler.bytes(key).len() == place
        });
    }
    assert!(handler.bytes(key) == sent);
    engine.io().pause(key);
    drop(peer);
    turn_times(&mut engine, &mut handler, 3);
    engine.io().resume(key);
    turn_until(&mut engine, &mut handler, "the end", |handler, _| handler.has_ended(key));
}

/// What `docs/ENGINE.md` says of one socket: at its first pause all small buffers can arrive,
/// after that one large buffer.
fn pause_bounds_what_still_arrives(choice: Choice) {
    let Some(mut engine) = open(choice) else { return };
    let all_buffers = usize::from(BUFFERS) * BUFFER_BYTES as usize;
    for is_tcp in [true, false] {
        let (key, writer) = flood(&mut engine, is_tcp);
        let mut handler = Recorder::default();
        let mut total = 0;
        for round in 0..40 {
            let arrived = std::rc::Rc::new(std::cell::Cell::new(0));
            let count = arrived.clone();
            handler.on_received = Some(Box::new(move |io, key, data| {
                io.pause(key);
                count.set(count.get() + data.len());
            }));
            engine.io().resume(key);
            let mut before = usize::MAX;
            turn_until(&mut engine, &mut handler, "nothing more comes", |_, _| {
                let is_over = arrived.get() == before && before > 0;
                before = arrived.get();
                is_over
            });
            // What a busy machine brings late counts in the next round.
            total += arrived.get();
            let most = all_buffers + round * LARGE_BUFFER_BYTES as usize;
            assert!(total <= most, "{total} bytes by round {round}");
        }
        engine.io().abort(key);
        turn_until(&mut engine, &mut handler, "closed", |_, io| io.sockets() == 0);
        writer.join().unwrap();
    }
}

/// A peer that writes as fast as it can, until the connection is closed.
fn flood(engine: &mut Engine, is_tcp: bool) -> (Key, std::thread::JoinHandle<()>) {
    let (key, mut peer): (Key, Box<dyn Write + std::marker::Send>) = if is_tcp {
        let (key, peer) = tcp_pair(engine);
        (key, Box::new(peer))
    } else {
        let (key, peer) = pair(engine);
        (key, Box::new(peer))
    };
    let thread = std::thread::spawn(move || {
        let bytes = vec![1; 256 * 1024];
        while peer.write_all(&bytes).is_ok() {}
    });
    (key, thread)
}

fn gigabyte_through_a_slow_reader_keeps_memory_flat(choice: Choice) {
    if !is_alone() {
        return;
    }
    let Some(mut engine) = open(choice) else { return };
    const TOTAL: usize = 1 << 30;
    const HIGH: usize = 256 * 1024;
    let (from, mut sender) = tcp_pair(&mut engine);
    let (to, mut receiver) = tcp_pair(&mut engine);
    let writer = std::thread::spawn(move || {
        let bytes = pattern(1 << 20, 4);
        for _ in 0..TOTAL / bytes.len() {
            sender.write_all(&bytes).unwrap();
        }
    });
    // Slow at first, a piece at a time; then as fast as it can, or the test would take minutes.
    let reader = std::thread::spawn(move || {
        let expected = pattern(1 << 20, 4);
        let mut piece = vec![0; 1 << 18];
        let mut place = 0;
        while place < TOTAL {
            let most = if place < TOTAL / 64 { 4096 } else { piece.len() };
            let length = receiver.read(&mut piece[..most]).unwrap();
            assert!(length > 0, "ended at {place}");
            let start = place % expected.len();
            let first = length.min(expected.len() - start);
            assert!(piece[..first] == expected[start..start + first], "differs at {place}");
            assert!(piece[first..length] == expected[..length - first], "differs at {place}");
            place += length;
        }
    });
    let mut handler = Recorder {
        on_received: Some(Box::new(move |io, key, data| {
            io.forward(to, data, 0..data.len());
            if io.backlog(to) > HIGH && io.is_blocked(to) {
                io.pause(key);
            }
        })),
        ..Recorder::default()
    };
    turn_times(&mut engine, &mut handler, 20);
    let before = resident_bytes();
    let mut backlog_most = 0;
    let mut resident_most = before;
    let mut turns = 0_u64;
    turn_until(&mut engine, &mut handler, "a gigabyte went through", |handler, io| {
        backlog_most = backlog_most.max(io.backlog(to));
        if turns.is_multiple_of(64) {
            resident_most = resident_most.max(resident_bytes());
        }
        turns += 1;
        if !handler.drained.is_empty() {
            handler.drained.clear();
            io.resume(from);
        }
        handler.has_ended(from) && io.backlog(to) == 0
    });
    writer.join().unwrap();
    reader.join().unwrap();
    let grown = resident_most.saturating_sub(before);
    let spilled = engine.io().counters().spilled_bytes_total;
    eprintln!(
        "{choice}: backlog at most {backlog_most}, memory grew by {grown}, spilled {spilled}, \
         {turns} turns"
    );
    let burst = usize::from(BUFFERS) * BUFFER_BYTES as usize;
    let bound = HIGH + burst + LARGE_BUFFER_BYTES as usize;
    assert!(backlog_most <= bound, "{backlog_most} bytes waited, at most {bound} may");
    assert!(grown < 24 << 20, "memory grew by {grown}");
}

fn sockets_that_find_no_buffer_are_served_later(choice: Choice) {
    let mut missing = 0;
    // From one socket that starves itself to many that starve each other.
    for (buffers, sockets) in [(1, 1), (2, 30), (2, 3), (4, 5), (8, 3), (16, 10)] {
        let setup = Setup { buffers, buffer_bytes: 1024, large_buffers: 1, ..Setup::default() };
        let Some(mut engine) = open_with(choice, &setup) else { return };
        let mut handler = Recorder { echoes: true, ..Recorder::default() };
        let mut threads = Vec::new();
        for seed in 0..sockets {
            let (_, mut peer) = pair(&mut engine);
            let mut reader = peer.try_clone().unwrap();
            threads.push(std::thread::spawn(move || {
                // Pieces of all sizes, so that some fill buffers and some do not.
                let mut left = &pattern(200_000, seed)[..];
                let mut size = 1;
                while !left.is_empty() {
                    let (piece, rest) = left.split_at(size.min(left.len()));
                    peer.write_all(piece).unwrap();
                    left = rest;
                    size = (size * 17 + 5) % 3001 + 1;
                }
            }));
            threads.push(std::thread::spawn(move || {
                let mut got = vec![0; 200_000];
                reader.read_exact(&mut got).unwrap();
                assert!(got == pattern(200_000, seed), "the echo differs");
            }));
        }
        turn_until(&mut engine, &mut handler, "all are answered", |_, _| {
            threads.iter().all(std::thread::JoinHandle::is_finished)
        });
        for thread in threads {
            thread.join().unwrap();
        }
        missing += engine.io().counters().buffers_missing_total;
    }
    if choice != Choice::Epoll {
        assert!(missing > 0, "the test tests nothing");
    }
}

fn stuck_peers_hold_no_buffers(choice: Choice) {
    let setup = Setup { buffers: 8, ..Setup::default() };
    let Some(mut engine) = open_with(choice, &setup) else { return };
    // Each of twenty clients sends what its own stuck peer does not take.
    let mut stuck = Vec::new();
    let mut targets = std::collections::HashMap::new();
    for _ in 0..20 {
        let (from, sender) = pair(&mut engine);
        let (to, receiver) = pair(&mut engine);
        small_send_buffer(engine.io(), to);
        targets.insert(from, to);
        stuck.push((from, to, sender, receiver));
    }
    let routes = targets.clone();
    let mut handler = Recorder {
        on_received: Some(Box::new(move |io, key, data| match routes.get(&key) {
            Some(to) => io.forward(*to, data, 0..data.len()),
            None => io.forward(key, data, 0..data.len()),
        })),
        ..Recorder::default()
    };
    for (_, _, sender, _) in &mut stuck {
        sender.write_all(&pattern(60_000, 1)).unwrap();
    }
    turn_until(&mut engine, &mut handler, "all are stuck", |_, io| {
        targets.values().all(|to| io.is_blocked(*to))
    });
    turn_times(&mut engine, &mut handler, 3);
    // The one that is not stuck gets its echo.
    let (_, mut peer) = pair(&mut engine);
    peer.write_all(&pattern(50_000, 2)).unwrap();
    let mut reader = peer.try_clone().unwrap();
    let read = std::thread::spawn(move || {
        let mut got = vec![0; 50_000];
        reader.read_exact(&mut got).unwrap();
        got
    });
    turn_until(&mut engine, &mut handler, "the echo", |_, _| read.is_finished());
    assert!(read.join().unwrap() == pattern(50_000, 2));
    for (_, to, _, receiver) in &mut stuck {
        let to = *to;
        let mut receiver = receiver.try_clone().unwrap();
        let read = std::thread::spawn(move || {
            let mut got = vec![0; 60_000];
            receiver.read_exact(&mut got).unwrap();
            got
        });
        turn_until(&mut engine, &mut handler, "it drains", |_, io| {
            read.is_finished() && io.backlog(to) == 0
        });
        assert!(read.join().unwrap() == pattern(60_000, 1));
    }
}

fn flood_from_one_socket_does_not_starve_another(choice: Choice) {
    let Some(mut engine) = open(choice) else { return };
    let mut handler = Recorder::default();
    let (flooding, writer) = flood(&mut engine, true);
    let (quiet, mut peer) = pair(&mut engine);
    let flooded = std::rc::Rc::new(std::cell::Cell::new(0_usize));
    let answered = std::rc::Rc::new(std::cell::Cell::new(0_usize));
    let (count, answers) = (flooded.clone(), answered.clone());
    handler.on_received = Some(Box::new(move |_, key, data| {
        if key == flooding {
            count.set(count.get() + data.len());
        } else {
            answers.set(answers.get() + 1);
        }
    }));
    turn_until(&mut engine, &mut handler, "the flood", |_, _| flooded.get() > 10 << 20);
    for round in 1..=100 {
        peer.write_all(b"x").unwrap();
        let before = flooded.get();
        turn_until(&mut engine, &mut handler, "an answer", |_, _| answered.get() == round);
        let between = flooded.get() - before;
        assert!(between <= 4 << 20, "{between} bytes of the flood came before one byte");
    }
    engine.io().abort(flooding);
    engine.io().abort(quiet);
    turn_until(&mut engine, &mut handler, "closed", |_, io| io.sockets() == 0);
    writer.join().unwrap();
}

fn idle_sockets_cost_almost_nothing(choice: Choice) {
    const COUNT: usize = 2_000;
    if !is_alone() {
        return;
    }
    crate::support::raise_descriptors();
    let Some(mut engine) = open(choice) else { return };
    let mut handler = Recorder { echoes: true, ..Recorder::default() };
    let mut peers = Vec::new();
    for _ in 0..50 {
        peers.push(pair(&mut engine).1);
    }
    turn_times(&mut engine, &mut handler, 2);
    let before = resident_bytes();
    for _ in 0..COUNT {
        peers.push(pair(&mut engine).1);
    }
    turn_times(&mut engine, &mut handler, 20);
    for peer in &mut peers {
        // Each has sent and received before it is idle.
        peer.write_all(&[1; 3000]).unwrap();
        turn_times(&mut engine, &mut handler, 1);
    }
    let mut answer = [0; 3000];
    turn_times(&mut engine, &mut handler, 20);
    for peer in &mut peers {
        peer.read_exact(&mut answer).unwrap();
    }
    let each = resident_bytes().saturating_sub(before) / COUNT;
    eprintln!("{choice}: {each} bytes for an idle socket, with 4 MiB of buffers touched");
    // The buffers themselves are 2 KiB each here.
    assert!(each < 4096, "{each} bytes for an idle socket");
}
