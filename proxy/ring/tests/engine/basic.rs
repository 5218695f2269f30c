//! Sockets of all kinds: they connect, talk and end.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixListener;

use crate::on_every_engine;
use crate::support::{Recorder, open, pair, pattern, tcp_pair, turn_times, turn_until};
use pgx_ring::{Address, Choice, End, Peer};

on_every_engine![
    accepted_connections_are_echoed_and_end_together,
    connection_over_a_unix_socket_carries_both_ways,
    refused_connections_are_told,
    server_that_closes_at_once_is_heard_to_the_end,
    half_closed_peer_still_gets_its_answer,
    forwards_and_writes_arrive_in_the_order_of_the_calls,
    finish_sends_all_and_then_the_end,
    abort_drops_what_waits_and_is_silent_afterwards,
    broken_connection_is_told_once,
];

fn accepted_connections_are_echoed_and_end_together(choice: Choice) {
    let Some(mut engine) = open(choice) else { return };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    engine.io().listen(listener.into()).unwrap();
    let clients = std::thread::spawn(move || {
        let mut clients: Vec<_> = (0..20).map(|_| TcpStream::connect(address).unwrap()).collect();
        for (client, seed) in clients.iter_mut().zip(1..) {
            let sent = pattern(100_000, seed);
            client.write_all(&sent).unwrap();
            let mut got = vec![0; sent.len()];
            client.read_exact(&mut got).unwrap();
            assert_eq!(got, sent);
        }
        clients.iter().map(|client| client.local_addr().unwrap()).collect::<Vec<_>>()
    });
    let mut handler = Recorder { echoes: true, ..Recorder::default() };
    let mut peers = Vec::new();
    turn_until(&mut engine, &mut handler, "all clients end", |handler, io| {
        for key in &handler.accepted[peers.len()..] {
            peers.push(io.peer(*key));
        }
        handler.ended.len() == 20
    });
    let addresses = clients.join().unwrap();
    assert!(addresses.iter().all(|address| peers.contains(&Some(Peer::Tcp(*address)))));
    turn_until(&mut engine, &mut handler, "all are closed", |_, io| io.sockets() == 1);
}

fn connection_over_a_unix_socket_carries_both_ways(choice: Choice) {
    let Some(mut engine) = open(choice) else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    engine.io().listen(UnixListener::bind(&path).unwrap().into()).unwrap();
    let key = engine.io().connect(&Address::Unix(path)).unwrap();
    engine.io().write(key, b"early");
    let mut handler = Recorder::default();
    turn_until(&mut engine, &mut handler, "early output arrives", |handler, _| {
        handler.accepted.first().is_some_and(|accepted| handler.bytes(*accepted) == b"early")
    });
    assert!(matches!(handler.connected[..], [(connected, Ok(()))] if connected == key));
    let accepted = handler.accepted[0];
    assert_eq!(engine.io().peer(accepted), Some(Peer::Unix));
    engine.io().write_vec(accepted, b"answer".to_vec());
    turn_until(&mut engine, &mut handler, "the answer arrives", |handler, _| {
        handler.bytes(key) == b"answer"
    });
    let missing = folder.path().join("nobody");
    let lost = engine.io().connect(&Address::Unix(missing)).unwrap();
    turn_until(&mut engine, &mut handler, "a missing path is told", |handler, _| {
        handler.connected.iter().any(|(key, result)| *key == lost && result.is_err())
    });
}

fn refused_connections_are_told(choice: Choice) {
    let Some(mut engine) = open(choice) else { return };
    let mut handler = Recorder::default();
    let address = {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap()
    };
    let key = engine.io().connect(&Address::Tcp(address)).unwrap();
    engine.io().write(key, b"nobody reads this");
    turn_until(&mut engine, &mut handler, "the refusal", |handler, _| {
        !handler.connected.is_empty()
    });
    let (told, result) = &handler.connected[0];
    assert_eq!(*told, key);
    assert_eq!(result.as_ref().unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
    turn_times(&mut engine, &mut handler, 3);
    assert!(handler.ended.is_empty() && handler.connected.len() == 1);
    engine.io().abort(key);
    turn_until(&mut engine, &mut handler, "it is closed", |_, io| io.sockets() == 0);
}

fn server_that_closes_at_once_is_heard_to_the_end(choice: Choice) {
    let Some(mut engine) = open(choice) else { return };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = Address::Tcp(listener.local_addr().unwrap());
    for _ in 0..50 {
        let mut handler = Recorder::default();
        let key = engine.io().connect(&address).unwrap();
        // All of it is there before the engine looks for the first time.
        let mut peer = listener.accept().unwrap().0;
        peer.write_all(b"too many clients").unwrap();
        drop(peer);
        turn_until(&mut engine, &mut handler, "the end", |handler, _| handler.has_ended(key));
        assert!(matches!(handler.connected[..], [(_, Ok(()))]));
        assert_eq!(handler.bytes(key), b"too many clients");
        engine.io().abort(key);
    }
}

fn half_closed_peer_still_gets_its_answer(choice: Choice) {
    let Some(mut engine) = open(choice) else { return };
    for is_tcp in [true, false] {
        let mut handler = Recorder::default();
        let (key, mut reader) = if is_tcp {
            let (key, mut peer) = tcp_pair(&mut engine);
            peer.write_all(b"question").unwrap();
            peer.shutdown(Shutdown::Write).unwrap();
            (key, Box::new(peer) as Box<dyn Read>)
        } else {
            let (key, mut peer) = pair(&mut engine);
            peer.write_all(b"question").unwrap();
            peer.shutdown(Shutdown::Write).unwrap();
            (key, Box::new(peer) as Box<dyn Read>)
        };
        turn_until(&mut engine, &mut handler, "the end", |handler, _| handler.has_ended(key));
        assert_eq!(handler.bytes(key), b"question");
        assert!(matches!(handler.ended[..], [(_, End::Eof)]));
        engine.io().write(key, b"answer");
        engine.io().finish(key);
        turn_until(&mut engine, &mut handler, "it is closed", |_, io| io.sockets() == 0);
        let mut answer = Vec::new();
        reader.read_to_end(&mut answer).unwrap();
        assert_eq!(answer, b"answer");
    }
}

fn forwards_and_writes_arrive_in_the_order_of_the_calls(choice: Choice) {
    let Some(mut engine) = open(choice) else { return };
    let (from, mut sender) = pair(&mut engine);
    let (to, mut receiver) = tcp_pair(&mut engine);
    // Each piece that arrives goes out in three parts with writes of all kinds between them.
    let mut expected_marks = 0_u64;
    let mut handler = Recorder {
        on_received: Some(Box::new(move |io, key, data| {
            assert_eq!(key, from);
            let (one, two) = (data.len() / 3, data.len() / 2);
            io.write(to, &expected_marks.to_be_bytes());
            io.forward(to, data, 0..one);
            io.write_vec(to, vec![7; 1000]);
            io.forward(to, data, one..two);
            io.forward(to, data, two..data.len());
            io.write(to, &u64::try_from(data.len()).unwrap().to_be_bytes());
            expected_marks += 1;
        })),
        ..Recorder::default()
    };
    let sent = pattern(3_000_000, 5);
    let copy = sent.clone();
    let writer = std::thread::spawn(move || sender.write_all(&copy).unwrap());
    let reader = std::thread::spawn(move || {
        let mut all = Vec::new();
        receiver.read_to_end(&mut all).unwrap();
        all
    });
    turn_until(&mut engine, &mut handler, "all went through", |handler, io| {
        handler.has_ended(from) && io.backlog(to) == 0
    });
    engine.io().finish(to);
    turn_until(&mut engine, &mut handler, "it is closed", |_, io| io.sockets() == 1);
    writer.join().unwrap();
    let all = reader.join().unwrap();
    check_marks(&all, &sent);
}

/// Takes apart what `forwards_and_writes…` sent. The length of a piece stands after it, so the
/// pieces are found from the back.
fn check_marks(all: &[u8], sent: &[u8]) {
    let mut pieces = Vec::new();
    let mut end = all.len();
    while end > 0 {
        let length = u64::from_be_bytes(all[end - 8..end].try_into().unwrap());
        let length = usize::try_from(length).unwrap();
        let start = end - 8 - length - 1000 - 8;
        let (one, body) = (length / 3, &all[start + 8..end - 8]);
        assert!(body[one..one + 1000].iter().all(|byte| *byte == 7));
        let mark = u64::from_be_bytes(all[start..start + 8].try_into().unwrap());
        pieces.push((mark, [&body[..one], &body[one + 1000..]].concat()));
        end = start;
    }
    pieces.reverse();
    assert!(pieces.iter().zip(0..).all(|((mark, _), expected)| *mark == expected));
    let joined: Vec<u8> = pieces.into_iter().flat_map(|(_, piece)| piece).collect();
    assert!(joined == sent, "the bytes differ");
}

fn finish_sends_all_and_then_the_end(choice: Choice) {
    let Some(mut engine) = open(choice) else { return };
    let mut handler = Recorder::default();
    let (key, mut peer) = tcp_pair(&mut engine);
    // What the peer sent and nobody read must not become a reset that destroys the answer.
    peer.write_all(&pattern(10_000, 1)).unwrap();
    engine.io().pause(key);
    let sent = pattern(8_000_000, 2);
    engine.io().write_vec(key, sent.clone());
    engine.io().finish(key);
    let reader = std::thread::spawn(move || {
        let mut all = Vec::new();
        peer.read_to_end(&mut all).unwrap();
        all
    });
    turn_until(&mut engine, &mut handler, "it is closed", |_, io| io.sockets() == 0);
    assert!(reader.join().unwrap() == sent, "the bytes differ");
    assert!(handler.ended.is_empty() && handler.drained.is_empty() && handler.received.is_empty());
}

fn abort_drops_what_waits_and_is_silent_afterwards(choice: Choice) {
    let Some(mut engine) = open(choice) else { return };
    let mut handler = Recorder::default();
    let (key, mut peer) = pair(&mut engine);
    engine.io().write_vec(key, vec![1; 50_000_000]);
    turn_until(&mut engine, &mut handler, "the peer is stuck", |_, io| io.is_blocked(key));
    peer.write_all(b"unheard").unwrap();
    engine.io().abort(key);
    assert_eq!(engine.io().backlog(key), 0);
    assert!(engine.io().fd(key).is_none());
    engine.io().write(key, b"nothing");
    turn_until(&mut engine, &mut handler, "it is closed", |_, io| io.sockets() == 0);
    let mut all = Vec::new();
    // What the kernel had taken is there; then the end, or a reset for what was unheard.
    let _ = peer.read_to_end(&mut all);
    assert!(!all.is_empty() && all.len() < 50_000_000, "{}", all.len());
    assert!(handler.received.is_empty() && handler.ended.is_empty());
}

fn broken_connection_is_told_once(choice: Choice) {
    let Some(mut engine) = open(choice) else { return };
    for is_paused in [false, true] {
        let mut handler = Recorder::default();
        let (key, peer) = tcp_pair(&mut engine);
        turn_times(&mut engine, &mut handler, 2);
        if is_paused {
            engine.io().pause(key);
        }
        engine.io().write(key, b"unread bytes make the close a reset");
        turn_times(&mut engine, &mut handler, 2);
        drop(peer);
        turn_until(&mut engine, &mut handler, "the reset is told", |handler, io| {
            io.write(key, b"more");
            handler.has_ended(key)
        });
        turn_times(&mut engine, &mut handler, 3);
        assert!(matches!(handler.ended[..], [(_, End::Failed(_))]), "{:?}", handler.ended);
        engine.io().abort(key);
        turn_until(&mut engine, &mut handler, "it is closed", |_, io| io.sockets() == 0);
    }
}
