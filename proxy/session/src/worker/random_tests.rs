//! Clients and servers who do what they may at any time, by the numbers of a seed.
//!
//! Each request carries its asker's mark, which comes back with the answer. What must hold: nobody
//! reads another's mark, text or setting; each request is answered in its order, or by an error;
//! nobody is left waiting; servers at rest have nothing of anybody's; and the numbers recount.

extern crate std;

use alloc::collections::{BTreeMap, VecDeque};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use pgx_wire::frontend;

use super::Owner;
use super::backend_model::{Model, take_frames};
use super::client_model::{Asker, Unit};
use super::hold::{Hold, Scope};
use super::testing::{Bench, error, query};
use crate::config::PoolMode;
use crate::net::Socket;

const CLIENTS: usize = 4;
const RUNS: u64 = 800;
const STEPS: usize = 120;
/// Every so many runs is as many times longer, so that clients use again what they have prepared.
const LONG: u64 = 16;

/// Numbers that a seed decides.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % bound as u64).expect("below the bound")
    }

    fn one_in(&mut self, bound: usize) -> bool {
        self.below(bound) == 0
    }
}

struct Play {
    bench: Bench,
    random: Random,
    askers: Vec<Asker>,
    models: BTreeMap<Socket, Model>,
    cancels: Vec<Socket>,
    marks: usize,
    /// No server is lost, and nobody cancels: the proxy cannot be told from a server.
    is_peaceful: bool,
    is_calm: bool,
    mode: PoolMode,
    /// Clients wait for each answer before they ask again.
    is_patient: bool,
}

impl Play {
    fn new(seed: u64) -> Self {
        let mut random = Random(seed);
        let mode = match random.below(6) {
            0 => PoolMode::Session,
            1 => PoolMode::Statement,
            _ => PoolMode::Transaction,
        };
        let pool_size = if mode == PoolMode::Session { CLIENTS } else { 1 + random.below(2) };
        let bench = Bench::new(mode, pool_size);
        let (askers, models, cancels) = (Vec::new(), BTreeMap::new(), Vec::new());
        let is_peaceful = random.one_in(2);
        let (marks, is_calm) = (0, false);
        let is_patient = random.one_in(3);
        let mut play = Self {
            bench,
            random,
            askers,
            models,
            cancels,
            marks,
            is_peaceful,
            is_calm,
            mode,
            is_patient,
        };
        for _ in 0..CLIENTS {
            play.come();
        }
        play
    }

    fn come(&mut self) {
        self.marks += 1;
        let name = format!("c{}", self.marks);
        let style = format!("{name}.s");
        let parameters = [("datestyle", style.as_str()), ("work_mem", "wrong")];
        let taken = match self.random.below(12) {
            0..4 => &parameters[..1],
            4 => &parameters[1..],
            _ => &[],
        };
        let socket = self.bench.begin_client(taken);
        let is_taken = taken.iter().all(|(name, _)| *name == "datestyle");
        // No server refuses transaction blocks.
        let is_alike = self.is_peaceful && self.mode != PoolMode::Statement;
        let direct = (is_alike && is_taken).then(|| Model::of(taken));
        let units = VecDeque::from([Unit::default()]);
        let (outbox, inbox) = (Vec::new(), Vec::new());
        let (open, has_cancelled) = (false, false);
        let (half_said, ends_said, ends_read) = (Vec::new(), 1, 0);
        self.askers.push(Asker {
            name,
            socket,
            outbox,
            inbox,
            units,
            half_said,
            ends_said,
            ends_read,
            open,
            has_cancelled,
            direct,
            ahead: VecDeque::new(),
            has_settings: !taken.is_empty(),
        });
    }

    fn step(&mut self) {
        let who = self.random.below(self.askers.len());
        // Who has patience is left in peace, and uses again what it has prepared.
        let rarely = if self.is_patient { 40 } else { 3 };
        match self.random.below(if self.is_calm { 16 } else { 20 }) {
            0..4 => self.say(who),
            4..7 => self.deliver(),
            7..11 => self.work(),
            11..13 if !self.is_calm => self.ask(who),
            13 => self.open(),
            14 => self.arrive(),
            15 => self.pass_time(),
            16 if !self.is_peaceful && self.random.one_in(rarely) => self.lose_server(),
            17 if self.random.one_in(rarely) => {
                let asker = self.askers.remove(who);
                self.bench.end(asker.socket);
                self.come();
            }
            18 if !self.is_peaceful => self.cancel(who),
            19 if !self.is_patient => self.block(),
            _ => {}
        }
        if self.is_patient && !self.is_calm {
            self.ask(who);
            self.say(who);
            self.work();
            self.deliver();
        }
        // A server of one's own would say so each time.
        if !self.is_peaceful && !self.is_calm && self.random.one_in(4) {
            self.models.values_mut().for_each(Model::alter);
        }
        if self.random.one_in(2) {
            self.bench.read_mail();
        }
        self.read_all();
        self.bench.check();
        self.check_idle();
    }

    /// Servers that nobody has are as they are known to be, and clean.
    fn check_idle(&self) {
        let worker = &self.bench.worker;
        let idle = worker.entries.iter().flat_map(|entry| entry.pool.idle());
        for server in idle.filter_map(|id| worker.servers.get(id)) {
            let Some(model) = self.models.get(&server.socket) else { continue };
            assert!(model.out.is_empty(), "not at rest: {model:?}");
            model.check_clean(server);
        }
    }

    /// A client says the next bytes.
    fn say(&mut self, who: usize) {
        let asker = &mut self.askers[who];
        if asker.outbox.is_empty() || self.bench.wire.paused.contains(&asker.socket) {
            return;
        }
        let cut = self.random.below(asker.outbox.len()) + 1;
        let cut = if self.random.one_in(2) { asker.outbox.len() } else { cut };
        let rest = asker.outbox.split_off(cut);
        let said = core::mem::replace(&mut asker.outbox, rest);
        asker.has_said(&said);
        self.bench.say(asker.socket, &said);
    }

    /// What a server has said arrives, or some of it.
    fn deliver(&mut self) {
        let Some(socket) = self.some_server() else { return };
        let model = self.models.get_mut(&socket).expect("it is there");
        if model.out.is_empty() || self.bench.wire.paused.contains(&socket) {
            return;
        }
        let cut = self.random.below(model.out.len()) + 1;
        let cut = if self.random.one_in(2) { model.out.len() } else { cut };
        let rest = model.out.split_off(cut);
        let said = core::mem::replace(&mut model.out, rest);
        let has_ended = model.has_ended && model.out.is_empty();
        self.bench.say(socket, &said);
        if has_ended {
            self.models.remove(&socket);
            self.bench.end_if_open(socket);
        }
    }

    fn some_server(&mut self) -> Option<Socket> {
        let all: Vec<Socket> = self.models.keys().copied().collect();
        (!all.is_empty()).then(|| all[self.random.below(all.len())])
    }

    fn work(&mut self) {
        if let Some(socket) = self.some_server() {
            let model = self.models.get_mut(&socket).expect("it is there");
            model.work();
            if self.random.one_in(9) {
                model.work();
                model.work();
            }
        }
    }

    /// Servers that are being opened are reached, or not.
    fn open(&mut self) {
        for socket in core::mem::take(&mut self.bench.wire.connects) {
            if self.bench.is_closed(socket) {
                continue;
            }
            let fails = !self.is_calm && !self.is_peaceful && self.random.one_in(6);
            if fails && self.random.one_in(2) {
                self.bench.end(socket);
                continue;
            }
            let packet = self.bench.reach(socket);
            let number = u32::try_from(socket.0).expect("few sockets");
            let mut model = Model::started(number, &packet);
            if fails {
                model.out = error("FATAL", "57P03");
            }
            self.models.insert(socket, model);
        }
    }

    /// A cancel has its effect.
    fn arrive(&mut self) {
        let Some(socket) = self.cancels.pop() else { return };
        self.bench.take(socket);
        // All servers have the same key here: it is meant for the one that its client has.
        let hit = self.bench.wire.owners.get(&socket).copied();
        if let Some(Owner::Cancel(id)) = hit
            && let Some(server) = self.bench.worker.cancels.get(id).and_then(|cancel| cancel.server)
            && let Some(server) = self.bench.worker.servers.get(server)
            && let Some(model) = self.models.get_mut(&server.socket)
        {
            model.cancel();
        }
        self.bench.end_if_open(socket);
    }

    fn pass_time(&mut self) {
        self.bench.tick(60);
        if self.random.one_in(10) && !self.is_calm && !self.is_patient {
            let is_held = self.random.one_in(2);
            let (scope, now) = (Scope::Database(b"shop"), self.bench.now);
            if is_held {
                self.bench.worker.hold(&mut self.bench.wire, scope, Hold::default(), now);
            } else {
                self.bench.worker.resume(&mut self.bench.wire, scope, now);
            }
        }
    }

    fn lose_server(&mut self) {
        let Some(socket) = self.some_server() else { return };
        self.models.remove(&socket);
        if self.random.one_in(2) {
            let state = if self.random.one_in(2) { "57P01" } else { "25P03" };
            // Only between its messages, as servers do.
            let id = self.bench.wire.owners.get(&socket).copied();
            if let Some(Owner::Server(id)) = id
                && let Some(server) = self.bench.worker.servers.get(id)
                && server.walker.is_between()
            {
                self.bench.say(socket, &error("FATAL", state));
            }
        }
        self.bench.end_if_open(socket);
    }

    fn cancel(&mut self, who: usize) {
        let asker = &mut self.askers[who];
        let id = self.bench.id(asker.socket);
        let process = self.bench.worker.clients.get(id).map_or(0, |client| client.process);
        if let Some(socket) = self.bench.cancel(process) {
            asker.has_cancelled = true;
            self.cancels.push(socket);
        }
    }

    /// A socket takes no more for a while, or takes all again.
    fn block(&mut self) {
        let sockets: Vec<Socket> =
            self.models.keys().copied().chain(self.askers.iter().map(|one| one.socket)).collect();
        let socket = sockets[self.random.below(sockets.len())];
        if self.bench.wire.blocked.remove(&socket) {
            self.bench.drained(socket);
        } else {
            self.bench.wire.blocked.insert(socket);
        }
    }

    fn mark(&mut self, who: usize) -> String {
        self.marks += 1;
        format!("{}.{}", self.askers[who].name, self.marks)
    }

    /// A client thinks of its next request.
    fn ask(&mut self, who: usize) {
        let (most, asker) = (if self.is_patient { 0 } else { 5 }, &self.askers[who]);
        if asker.units.len() > most && !(self.is_patient && asker.open) {
            return;
        }
        if self.askers[who].open || self.random.one_in(2) {
            return self.extend(who);
        }
        let mark = self.mark(who);
        let mut marks = VecDeque::new();
        let text = match self.random.below(14) {
            0..3 if !self.is_patient || self.random.one_in(4) => "begin".into(),
            3..5 => "commit".into(),
            5 => "rollback".into(),
            6 => "fail".into(),
            7 => format!("set datestyle = {mark}"),
            8 => ["deallocate all", "deallocate a", "DEALLOCATE b;"][self.random.below(3)].into(),
            9 if self.random.one_in(3) => "listen c".into(),
            // Behind it, in the same flight, start-up settings are not there yet.
            9 if self.askers[who].has_settings => "listen c".into(),
            9 => "discard all".into(),
            10 => "copy".into(),
            11 => {
                marks.push_back(mark.clone());
                format!("show {mark}")
            }
            _ => {
                marks.push_back(mark.clone());
                format!("select {mark}")
            }
        };
        let asker = &mut self.askers[who];
        asker.outbox.extend_from_slice(&query(&text));
        if self.random.one_in(12) {
            // The rest of a copy that was none.
            asker.outbox.extend_from_slice(b"d\0\0\0\x05x");
        }
        asker.units.push_back(Unit { marks, ..Unit::default() });
    }

    /// The same, of the extended protocol.
    fn extend(&mut self, who: usize) {
        let mark = self.mark(who);
        let name = self.askers[who].name.clone();
        let called = ["", "", "a", "b", "pgx_1"][self.random.below(5)];
        let texts = [
            "row shared",
            "row other",
            "bad",
            "copy",
            "begin",
            "commit",
            "rollback",
            "deallocate all",
            "fail",
        ];
        let own = format!("row {name}");
        let index = self.random.below(texts.len() + 4);
        let text = texts.get(index).copied().unwrap_or(&own);
        let mut out = Vec::new();
        // What all names mean is known behind a Sync only.
        let forgets = text == "deallocate all";
        // As drivers do for what they have prepared before.
        let is_usual =
            !forgets && (self.is_patient || self.random.one_in(3)) && self.random.one_in(2);
        let called = match is_usual {
            _ if forgets => "",
            true => ["a", "b"][self.random.below(2)],
            false => called,
        };
        let parses = !is_usual && (forgets || self.random.below(3) > 0);
        let closes = !is_usual && self.random.one_in(5);
        let describes = is_usual || self.random.one_in(5);
        if closes {
            frontend::write::close(&mut out, b'S', called.as_bytes());
        }
        if parses {
            frontend::write::parse(&mut out, called.as_bytes(), text.as_bytes(), &[]);
        }
        if describes {
            frontend::write::describe(&mut out, b'S', called.as_bytes());
        }
        let runs = forgets || is_usual || self.random.below(4) > 0;
        if runs {
            let bytes = u32::try_from(mark.len()).expect("short").to_be_bytes();
            let rest = [&[0, 0, 0, 1][..], &bytes, mark.as_bytes(), &[0, 0]].concat();
            frontend::write::bind_head(&mut out, b"", called.as_bytes(), rest.len());
            out.extend_from_slice(&rest);
            frontend::write::execute(&mut out, b"", 0);
        }
        let ends = forgets || is_usual || self.random.below(3) > 0;
        if ends {
            frontend::write::sync(&mut out);
        } else if self.random.one_in(2) {
            frontend::write::flush(&mut out);
        }
        let asker = &mut self.askers[who];
        if !asker.open {
            asker.units.push_back(Unit { is_batch: true, ..Unit::default() });
        }
        let unit = asker.units.back_mut().expect("it is open");
        if runs {
            unit.marks.push_back(mark);
        }
        asker.open = !ends;
        asker.outbox.extend_from_slice(&out);
    }

    /// Everybody reads.
    fn read_all(&mut self) {
        let closed = &self.bench.wire.closed;
        self.models.retain(|socket, _| !closed.contains(socket));
        let sockets: Vec<Socket> = self.models.keys().copied().collect();
        for socket in sockets {
            let taken = self.bench.take(socket);
            self.models.get_mut(&socket).expect("it is there").input.extend_from_slice(&taken);
        }
        for who in 0..self.askers.len() {
            let socket = self.askers[who].socket;
            let taken = self.bench.take(socket);
            let asker = &mut self.askers[who];
            asker.inbox.extend_from_slice(&taken);
            for (kind, body) in take_frames(&mut asker.inbox) {
                asker.read(kind, &body);
            }
        }
        let mut who = 0;
        while who < self.askers.len() {
            if self.bench.is_closed(self.askers[who].socket) {
                self.askers.remove(who);
                self.come();
            } else {
                who += 1;
            }
        }
    }

    /// Nothing bad happens any more: all is answered in the end.
    fn end(&mut self) {
        while !self.cancels.is_empty() {
            self.arrive();
        }
        self.is_calm = true;
        let scope = Scope::Database(b"shop");
        self.bench.worker.resume(&mut self.bench.wire, scope, self.bench.now);
        for socket in core::mem::take(&mut self.bench.wire.blocked) {
            if !self.bench.is_closed(socket) {
                self.bench.drained(socket);
            }
        }
        for asker in &mut self.askers {
            if core::mem::take(&mut asker.open) {
                frontend::write::sync(&mut asker.outbox);
            }
            for text in ["rollback", "discard all"] {
                asker.outbox.extend_from_slice(&query(text));
                asker.units.push_back(Unit::default());
            }
        }
        for _ in 0..5_000 {
            if self.askers.iter().all(|asker| asker.units.is_empty()) {
                let is_even = |asker: &Asker| asker.ahead.is_empty();
                assert!(self.askers.iter().all(is_even), "more than without the proxy");
                return;
            }
            self.step();
            for asker in 0..self.askers.len() {
                self.say(asker);
            }
        }
        let left: Vec<_> = self.askers.iter().filter(|asker| !asker.units.is_empty()).collect();
        panic!("left without an answer: {left:?}");
    }
}

fn play(seed: u64) {
    let mut play = Play::new(seed);
    let times = if seed.is_multiple_of(LONG) { 16 } else { 1 };
    for _ in 0..STEPS * times {
        play.step();
    }
    play.end();
}

#[test]
fn everybody_gets_their_own_answers_whatever_happens() {
    for seed in 0..RUNS {
        let outcome = std::panic::catch_unwind(|| play(seed));
        assert!(outcome.is_ok(), "seed {seed}");
    }
}
