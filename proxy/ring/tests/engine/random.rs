//! Many streams at once, passed on by whatever calls a random number picks: each arrives whole.

use std::collections::HashMap;
use std::io::{Read, Write};

use pgx_ring::{Choice, End, Handler, Io, Key, Received, Setup};
use rustix::net::sockopt;

use crate::on_every_engine;
use crate::support::{open_with, pair, pattern, tcp_pair, turn_until};

on_every_engine![streams_arrive_whole_whatever_calls_carry_them];

/// Bytes of one stream.
const BYTES: usize = 700_000;

/// xorshift: the same seed gives the same calls, if not the same sizes of receives.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % bound as u64).expect("below a usize")
    }
}

struct Mesh {
    random: Random,
    targets: HashMap<Key, Key>,
    paused: Vec<Key>,
    ended: usize,
}

impl Handler for Mesh {
    fn accepted(&mut self, _: &mut Io, _: Key, _: Key) {}
    fn connected(&mut self, _: &mut Io, _: Key, _: std::io::Result<()>) {}

    fn received(&mut self, io: &mut Io, socket: Key, data: &Received<'_>) {
        let to = self.targets[&socket];
        let mut start = 0;
        while start < data.len() {
            let end = (start + 1 + self.random.below(data.len())).min(data.len());
            match self.random.below(3) {
                0 => io.forward(to, data, start..end),
                1 => io.write(to, &data[start..end]),
                _ => io.write_vec(to, data[start..end].to_vec()),
            }
            start = end;
        }
        if io.backlog(to) > 100_000 || self.random.below(8) == 0 {
            io.pause(socket);
            self.paused.push(socket);
        }
        // Now and then somebody else goes on, or does not stop at all.
        if self.random.below(3) == 0 {
            self.resume_one(io);
        }
    }

    fn ended(&mut self, io: &mut Io, socket: Key, end: End) {
        assert!(matches!(end, End::Eof), "{end:?}");
        self.ended += 1;
        io.finish(self.targets[&socket]);
        io.abort(socket);
    }
}

impl Mesh {
    fn resume_one(&mut self, io: &mut Io) {
        if !self.paused.is_empty() {
            let place = self.random.below(self.paused.len());
            io.resume(self.paused.swap_remove(place));
        }
    }
}

fn streams_arrive_whole_whatever_calls_carry_them(choice: Choice) {
    for seed in 1..=6_u64 {
        let mut random = Random(seed * 0x2545_F491_4F6C_DD1D);
        let setup = Setup {
            buffers: 1 << random.below(6),
            buffer_bytes: 1 << (9 + random.below(6)),
            large_buffers: 1 << random.below(3),
            large_buffer_bytes: 1 << (12 + random.below(5)),
            submissions: 8 << random.below(5),
            completions: 256,
            zero_copy_bytes_min: [1, 0, 2_000][usize::try_from(seed % 3).unwrap()],
            ..Setup::default()
        };
        let Some(mut engine) = open_with(choice, &setup) else { return };
        let mut targets = HashMap::new();
        let mut threads = Vec::new();
        for stream in 0..12 {
            let (from, mut sender) = pair(&mut engine);
            let (to, mut receiver): (Key, Box<dyn Read + Send>) = if stream % 2 == 0 {
                let (to, receiver) = tcp_pair(&mut engine);
                (to, Box::new(receiver))
            } else {
                let (to, receiver) = pair(&mut engine);
                let small = 2048 << random.below(6);
                let fd = engine.io().fd(to).unwrap();
                sockopt::set_socket_send_buffer_size(fd, small).unwrap();
                (to, Box::new(receiver))
            };
            targets.insert(from, to);
            threads.push(std::thread::spawn(move || {
                for piece in pattern(BYTES, stream).chunks(3_331) {
                    sender.write_all(piece).unwrap();
                }
            }));
            threads.push(std::thread::spawn(move || {
                let mut got = Vec::new();
                receiver.read_to_end(&mut got).unwrap();
                assert_eq!(got.len(), BYTES, "stream {stream} of seed {seed}");
                assert!(got == pattern(BYTES, stream), "stream {stream} of seed {seed} differs");
            }));
        }
        let mut mesh = Mesh { random, targets, paused: Vec::new(), ended: 0 };
        turn_until(&mut engine, &mut mesh, "all streams end", |mesh, io| {
            mesh.resume_one(io);
            mesh.ended == 12 && io.sockets() == 0
        });
        for thread in threads {
            thread.join().unwrap();
        }
        // Nothing is copied where that was asked for, a driver can do it, and a socket can.
        let is_asked = setup.zero_copy_bytes_min > 0 && choice != Choice::Epoll;
        assert_eq!(engine.io().counters().uncopied_bytes_total > 0, is_asked, "seed {seed}");
    }
}
