//! Threads, clients and servers that do anything in any order: no more servers than may be, and
//! in the end everybody has been answered.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use pgx_wire::backend::Status;

use super::Owner;
use super::hold::{Hold, Scope};
use super::pools_tests::{config, database};
use super::testing::{Bench, done, query};
use crate::limits::TENURE_MS;
use crate::net::Socket;
use crate::route::{Course, Epoch, Gate, ServerAddress, Snapshot};

const THREADS: usize = 3;
const POOL: usize = 2;

/// What the cluster says.
fn course(epoch: u64, writes: Gate) -> Course {
    let backends = alloc::vec![ServerAddress(alloc::format!("db:{epoch}")).into()];
    let primary = Snapshot { epoch: Epoch(epoch), backends };
    Course { standbys: primary.clone(), primary, writes, reads: Gate::Open, is_strict: false }
}

/// A generator of numbers that nobody needs to trust.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040);
        usize::try_from(self.0 >> 33).unwrap() % bound
    }
}

struct World {
    threads: Vec<Bench>,
    clients: Vec<(usize, Socket)>,
    /// How many queries servers have to answer, by their threads.
    asked: BTreeMap<(usize, Socket), usize>,
    epoch: u64,
}

impl World {
    fn new(dice: &mut Dice) -> Self {
        let mut shop = database("db:1", POOL);
        shop.pool_min = dice.below(2);
        shop.servers_max = dice.below(2) * POOL;
        shop.is_clusters = dice.below(2) == 0;
        let threads = Bench::threads(config(alloc::vec![("shop", shop)]), THREADS);
        let mut world = Self { threads, clients: Vec::new(), asked: BTreeMap::new(), epoch: 1 };
        world.follow_all(Gate::Open);
        for thread in 0..THREADS {
            for user in ["ann", "bob"] {
                let client = world.threads[thread].begin_client_of(user, "shop", &[]);
                world.clients.push((thread, client));
            }
        }
        world
    }

    /// Connections that are not made yet.
    fn open(&mut self, thread: usize, may_fail: bool, dice: &mut Dice) {
        let bench = &mut self.threads[thread];
        for socket in core::mem::take(&mut bench.wire.connects) {
            if bench.is_closed(socket) {
                continue;
            }
            if may_fail && dice.below(4) == 0 {
                bench.end_if_open(socket);
            } else if !bench.reach(socket).is_empty() {
                bench.greet(socket);
            }
        }
        self.look();
    }

    /// Which servers have got queries.
    fn look(&mut self) {
        for (thread, bench) in self.threads.iter_mut().enumerate() {
            let sockets: Vec<_> = bench.wire.owners.keys().copied().collect();
            for socket in sockets {
                let sent = bench.take(socket);
                let queries = sent.iter().filter(|byte| **byte == b'Q').count();
                if queries > 0 {
                    *self.asked.entry((thread, socket)).or_default() += queries;
                }
            }
            let closed = |socket: &Socket| bench.wire.closed.contains(socket);
            self.asked.retain(|(of, socket), _| *of != thread || !closed(socket));
        }
    }

    fn answer(&mut self, at: usize) {
        let Some((key, left)) = self.asked.iter_mut().nth(at) else { return };
        let (thread, socket) = *key;
        *left -= 1;
        self.asked.retain(|_, left| *left > 0);
        self.threads[thread].say(socket, &done("SELECT 1", Status::Idle));
        self.look();
    }

    fn step(&mut self, dice: &mut Dice) {
        let thread = dice.below(THREADS);
        match dice.below(8) {
            0 | 1 => {
                let (thread, client) = self.clients[dice.below(self.clients.len())];
                if !self.threads[thread].is_paused(client) {
                    self.threads[thread].say(client, &query("select 1"));
                }
                self.look();
            }
            2 | 3 => self.answer(dice.below(self.asked.len().max(1))),
            4 => self.open(thread, true, dice),
            5 => drop(self.threads[thread].read_mail()),
            6 => {
                let ms = u64::try_from(dice.below(200)).unwrap();
                self.threads[thread].tick(ms);
            }
            _ => self.mishap(thread, dice),
        }
        self.look();
        self.check();
    }

    fn mishap(&mut self, thread: usize, dice: &mut Dice) {
        let bench = &mut self.threads[thread];
        let (now, scope) = (bench.now, Scope::Database(b"shop"));
        match dice.below(10) {
            6 | 7 => {
                let gate = [Gate::Open, Gate::Held, Gate::Shut][dice.below(3)];
                self.epoch += u64::try_from(dice.below(2)).unwrap();
                let course = course(self.epoch, gate);
                bench.worker.follow(&mut bench.wire, &course, now);
            }
            8 => bench.worker.reconnect(&mut bench.wire, scope, now),
            9 if dice.below(20) == 0 => bench.worker.kill(&mut bench.wire, scope, now),
            0 => bench.worker.hold(&mut bench.wire, scope, Hold::default(), now),
            1 | 2 => bench.worker.resume(&mut bench.wire, scope, now),
            _ => {
                let is_server = |owner: &Owner| matches!(owner, Owner::Server(_));
                let owners = bench.wire.owners.iter().filter(|(_, owner)| is_server(owner));
                let alive: Vec<_> = owners.map(|(socket, _)| *socket).collect();
                if let Some(socket) = alive.get(dice.below(alive.len().max(1))) {
                    bench.wire.connects.retain(|each| each != socket);
                    bench.end_if_open(*socket);
                }
            }
        }
        self.threads[thread].check();
    }

    fn follow_all(&mut self, gate: Gate) {
        let course = course(self.epoch, gate);
        for bench in &mut self.threads {
            bench.worker.follow(&mut bench.wire, &course, bench.now);
        }
        self.look();
    }

    fn check(&self) {
        let servers: usize = self.threads.iter().map(|bench| bench.worker.gauges().servers).sum();
        assert!(servers <= 2 * POOL, "more servers than two pools may have");
    }

    fn waiting(&self) -> usize {
        self.threads.iter().map(|bench| bench.worker.gauges().waiting).sum()
    }
}

#[test]
fn whatever_happens_limits_hold_and_in_the_end_everybody_is_served() {
    for seed in 0..100 {
        let mut dice = Dice(seed);
        let mut world = World::new(&mut dice);
        for _ in 0..300 {
            world.step(&mut dice);
        }
        for bench in &mut world.threads {
            bench.worker.resume(&mut bench.wire, Scope::All, bench.now);
        }
        world.follow_all(Gate::Open);
        let mut rounds = 0;
        while world.waiting() > 0 || !world.asked.is_empty() {
            for thread in 0..THREADS {
                world.threads[thread].tick(TENURE_MS);
                world.threads[thread].read_mail();
                world.open(thread, false, &mut dice);
                world.answer(0);
                world.check();
            }
            rounds += 1;
            assert!(rounds < 500, "seed {seed}: {} wait for ever", world.waiting());
        }
    }
}
