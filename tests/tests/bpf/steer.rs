//! Steering in the kernel: each packet's verdict, bytes and counter are those of the rules on the
//! host, whatever the tables, and whatever sockets there are.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::io::Read as _;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;

use anyhow::{Context as _, ensure};
use aya::maps::{Array, HashMap, MapData, PerCpuArray, ProgramArray};
use aya::programs::Xdp;
use aya::{Ebpf, EbpfLoader, TestRun as _, TestRunOptions};
use libtest_mimic::Trial;
use pgx_abi::{
    BUCKETS, BucketWord, Counter, FENCE, FLOWS_NEW_PER_S_MAX, FlowKey, Gate, LEASES, LINKS,
    LeaseWord, LinkAddress, PGX_ROOT, PROGRAMS, Program, REASONS, REFUSE, Reason, STEER,
    STEER_AWAY, STEER_BUCKETS, STEER_FLOWS, STEER_HOPS, STEER_SERVERS, STEER_SERVICES,
    STEER_TABLES, ServerWord, ServiceKey, ServiceWord, Slot, TableWord, VIP, XDP_DROP, XDP_PASS,
    XDP_TX, bucket_slot, server_slot,
};
use pgx_bpf::{Bucket, Pins, SteerError, Steering, Table};
use pgx_rules::{
    Choice, Heading, Hops, Kind, Limit, Mac, Reset, Server, Steer, direct, facts, heading,
    hop_limit, reset, set_hop_limit, steer,
};
use pgx_tests::objects::objects;
use pgx_tests::skip::{Requirement, trial};

use crate::packets;
use crate::space::{Space, ip, verify};

/// The link address that every packet of the table comes to, so this host's.
const OWN: Mac = [2, 0, 0, 0, 0, 2];
/// The link address that every packet of the table comes from.
const SENDER: Mac = [2, 0, 0, 0, 0, 1];
const OTHER: Mac = [2, 0, 0, 0, 0, 0x22];
const THIRD: Mac = [2, 0, 0, 0, 0, 0x33];
/// The interface that the kernel's test-run pretends to have got a frame from: loopback.
const INTERFACE: u32 = 1;
const NEVER_NS: u64 = 1_000_000_000_000_000_000;
/// The kernel's test-run takes no frame without an Ethernet header.
const FRAME_BYTES_MIN: usize = 14;
const TABLE: u32 = 3;

pub(crate) fn trials() -> Vec<Trial> {
    let needs = &[Requirement::Bpf];
    let lab = &[Requirement::Bpf, Requirement::Lab];
    vec![
        trial("steering_judges_each_packet_in_the_kernel_as_on_the_host", needs, each_packet),
        trial("steering_counts_hops_by_limit_and_peer_and_leaves_others_frames", needs, hops),
        trial("steering_knows_sockets_in_any_state_but_listening", lab, sockets),
        trial("direct_service_resets_flows_from_before_its_epoch", needs, stale),
        trial("direct_service_leaves_a_shut_host_and_never_stays_on_it", needs, shut),
        trial("flood_of_syns_is_steered_and_bounded_and_others_pass", needs, flood),
        trial("services_are_looked_for_at_the_ports_that_are_noted_for_them", lab, ports),
        trial("tables_change_from_one_packet_to_the_next", lab, swap),
    ]
}

/// Who a bucket of the tests' tables belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    Nobody,
    Here,
    Other,
    Third,
}

impl Who {
    const ALL: [Self; 4] = [Self::Nobody, Self::Here, Self::Other, Self::Third];

    fn server(self) -> Option<Server> {
        match self {
            Self::Nobody => None,
            Self::Here => Some(Server { link: OWN, is_local: true }),
            Self::Other => Some(Server { link: OTHER, is_local: false }),
            Self::Third => Some(Server { link: THIRD, is_local: false }),
        }
    }
}

/// The programs with all flows in one kind of bucket.
struct Bench {
    ebpf: Ebpf,
    swaps: u32,
    epoch: u32,
}

impl Bench {
    fn load(chain: &[(Program, &'static str)]) -> anyhow::Result<Self> {
        Self::chain(Ebpf::load(objects()?.pgx())?, chain)
    }

    fn chain(mut ebpf: Ebpf, chain: &[(Program, &'static str)]) -> anyhow::Result<Self> {
        let root: &mut Xdp = ebpf.program_mut(PGX_ROOT).context(PGX_ROOT)?.try_into()?;
        verify(|| root.load())?;
        for (place, name) in chain {
            let xdp: &mut Xdp = ebpf.program_mut(name).context(*name)?.try_into()?;
            verify(|| xdp.load()).with_context(|| format!("load {name}"))?;
            let fd = xdp.fd()?.try_clone()?;
            let mut programs = ProgramArray::try_from(ebpf.map_mut(PROGRAMS).context("array")?)?;
            programs.set(*place as u32, &fd, 0)?;
        }
        let mut bench = Self { ebpf, swaps: 0, epoch: 1 };
        let [a, b, c, d, e, f] = OWN;
        let mut links: HashMap<_, u32, LinkAddress> = bench.hash(LINKS)?;
        links.insert(INTERFACE, [a, b, c, d, e, f, 0, 0], 0)?;
        Ok(bench)
    }

    /// The same, with the tables pinned where the typed writer finds them.
    fn pinned(pins: &Pins) -> anyhow::Result<Self> {
        let maps = pins.dir().join("maps");
        let mut loader = EbpfLoader::new();
        let shared =
            [STEER_TABLES, STEER_BUCKETS, STEER_SERVERS, STEER_SERVICES, STEER_HOPS, LEASES];
        for name in shared {
            loader.map_pin_path(name, maps.join(name));
        }
        Self::chain(loader.load(objects()?.pgx())?, &[(Program::Steer, STEER)])
    }

    /// How many flows of direct services are written down.
    fn hash_of_flows(&mut self) -> anyhow::Result<u64> {
        let flows: HashMap<_, FlowKey, u32> = self.hash(STEER_FLOWS)?;
        Ok(flows.keys().count() as u64)
    }

    /// Steering without a fence before it.
    fn steering() -> anyhow::Result<Self> {
        Self::load(&[
            (Program::Vip, VIP),
            (Program::Steer, STEER),
            (Program::SteerAway, STEER_AWAY),
            (Program::Refuse, REFUSE),
        ])
    }

    fn hash<K: aya::Pod, V: aya::Pod>(
        &mut self,
        name: &str,
    ) -> anyhow::Result<HashMap<&mut MapData, K, V>> {
        Ok(HashMap::try_from(self.ebpf.map_mut(name).context("no such map")?)?)
    }

    fn set(&mut self, name: &str, slot: u32, word: u64) -> anyhow::Result<()> {
        let map = self.ebpf.map_mut(name).context("no such map")?;
        Ok(Array::<_, u64>::try_from(map)?.set(slot, word, 0)?)
    }

    /// A table in which all flows have this owner and this previous one.
    fn table(&mut self, owner: Who, previous: Who) -> anyhow::Result<()> {
        self.swaps += 1;
        let header = TableWord::new(self.epoch, self.swaps);
        for who in [Who::Here, Who::Other, Who::Third] {
            let server = who.server().context("nobody")?;
            let word = ServerWord::new(server.link, server.is_local, self.swaps);
            let slot = server_slot(TABLE, header.half(), who as u32);
            self.set(STEER_SERVERS, slot, word.0)?;
        }
        let map = self.ebpf.map_mut(STEER_BUCKETS).context("no buckets")?;
        let mut buckets = Array::<_, u64>::try_from(map)?;
        let word = BucketWord::new(owner as u8, previous as u8, self.swaps);
        for bucket in 0..BUCKETS {
            buckets.set(bucket_slot(TABLE, header.half(), bucket), word.0, 0)?;
        }
        self.set(STEER_TABLES, TABLE, header.0)
    }

    fn serve(&mut self, flow: &FlowKey, is_direct: bool) -> anyhow::Result<()> {
        // Every port may be steered.
        self.set(LEASES, Slot::Ports as u32, u64::MAX)?;
        let word = ServiceWord::new(u8::try_from(TABLE)?, is_direct);
        let key = ServiceKey { address: flow.vip, port: flow.port };
        Ok(self.hash::<ServiceKey, u64>(STEER_SERVICES)?.insert(key, word.0, 0)?)
    }

    fn peer(&mut self, [a, b, c, d, e, f]: Mac) -> anyhow::Result<()> {
        let key: LinkAddress = [a, b, c, d, e, f, 0, 0];
        Ok(self.hash::<LinkAddress, u64>(STEER_HOPS)?.insert(key, 1_u64, 0)?)
    }

    fn run(&self, frame: &[u8]) -> anyhow::Result<(u32, Vec<u8>)> {
        let xdp: &Xdp = self.ebpf.program(PGX_ROOT).context("no program")?.try_into()?;
        let mut output = vec![0; frame.len() + 64];
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut output),
            ..TestRunOptions::default()
        };
        let run = xdp.test_run(options)?;
        output.truncate(run.data_size_out as usize);
        Ok((run.return_value, output))
    }

    fn count(&self, reason: Reason) -> anyhow::Result<u64> {
        let map = PerCpuArray::<_, Counter>::try_from(self.ebpf.map(REASONS).context("no map")?)?;
        Ok(map.get(&reason.index(), 0)?.iter().map(|counter| counter.packets).sum())
    }

    /// Gives the programs a frame and compares with what the rules on the host say.
    fn check(&self, about: &str, frame: &[u8], judged: Option<Steer>) -> anyhow::Result<()> {
        let reason = judged.map(reason);
        let before = reason.map(|reason| self.count(reason)).transpose()?;
        let found = self.run(frame)?;
        let expected = expected(frame, judged);
        ensure!(found == expected, "{about}: {found:02x?}, not {expected:02x?}, {judged:?}");
        if let (Some(reason), Some(before)) = (reason, before) {
            let counted = self.count(reason)? - before;
            ensure!(counted == 1, "{about}: {counted} times {}", reason.name());
        }
        Ok(())
    }
}

fn reason(judged: Steer) -> Reason {
    match judged {
        Steer::Pass(reason)
        | Steer::Send { reason, .. }
        | Steer::Reset(reason)
        | Steer::Drop(reason) => reason,
    }
}

/// Verdict and bytes.
fn expected(frame: &[u8], judged: Option<Steer>) -> (u32, Vec<u8>) {
    let heading = heading(frame, facts(frame));
    match (judged, heading) {
        (None | Some(Steer::Pass(_)), _) | (_, None) => (XDP_PASS, frame.to_vec()),
        (Some(Steer::Drop(_)), _) => (XDP_DROP, frame.to_vec()),
        (Some(Steer::Reset(_)), Some(Heading { kind, .. })) => {
            let segment = kind.segment().expect("a segment");
            let link = [&frame[6..12], &frame[..6], &frame[12..segment.ip]].concat();
            match reset(frame, &segment).expect("an answer") {
                Reset::Ipv4(bytes) => (XDP_TX, [&link[..], &bytes].concat()),
                Reset::Ipv6(bytes) => (XDP_TX, [&link[..], &bytes].concat()),
            }
        }
        (Some(Steer::Send { to, limit, .. }), Some(Heading { ip, .. })) => {
            let mut sent = frame.to_vec();
            match set_hop_limit(frame, ip, limit).expect("a header") {
                Limit::Ipv4(at, bytes) => sent[at..at + 4].copy_from_slice(&bytes),
                Limit::Ipv6(at, bytes) => sent[at..at + 1].copy_from_slice(&bytes),
            }
            sent[..6].copy_from_slice(&to);
            sent[6..12].copy_from_slice(&OWN);
            (XDP_TX, sent)
        }
    }
}

/// Every packet that belongs to a flow, and those that do not.
fn frames() -> Vec<(String, Vec<u8>)> {
    let mut frames = Vec::new();
    for packet in packets::all() {
        for length in FRAME_BYTES_MIN..=packet.frame.len() {
            // Every length of a long walk adds nothing but runs.
            if packet.headers < 256 || length % 64 < 8 {
                let name = format!("{}, {length} bytes", packet.name);
                frames.push((name, packet.frame[..length].to_vec()));
            }
        }
    }
    frames
}

fn each_packet() -> anyhow::Result<()> {
    let mut bench = Bench::steering()?;
    for packet in packets::all() {
        ensure!(bench.run(&packet.frame)? == (XDP_PASS, packet.frame), "steered without tables");
    }
    for packet in packets::all() {
        if let Some(heading) = heading(&*packet.frame, facts(&*packet.frame)) {
            bench.serve(&heading.flow, false)?;
        }
    }
    let mut sent = 0;
    for owner in Who::ALL {
        for previous in Who::ALL {
            bench.table(owner, previous)?;
            let choice = Choice { owner: owner.server(), previous: previous.server() };
            for (name, frame) in frames() {
                let judged = heading(&*frame, facts(&*frame)).and_then(|heading| {
                    let hops = Hops::of(hop_limit(&*frame, heading.ip)?, false);
                    Some(steer(heading.kind, hops, choice, || false))
                });
                bench.check(&format!("{name}, {owner:?}, {previous:?}"), &frame, judged)?;
                sent += usize::from(matches!(judged, Some(Steer::Send { .. })));
            }
        }
    }
    ensure!(sent > 1_000, "only {sent} were sent on");
    Ok(())
}

fn find(name: &str) -> anyhow::Result<Vec<u8>> {
    let packet = packets::all().into_iter().find(|packet| packet.name == name);
    Ok(packet.context("no such packet")?.frame)
}

fn heading_of(frame: &[u8]) -> anyhow::Result<Heading> {
    heading(frame, facts(frame)).context("belongs to no flow")
}

fn hops() -> anyhow::Result<()> {
    let mut bench = Bench::steering()?;
    bench.table(Who::Other, Who::Third)?;
    let choice = Choice { owner: Who::Other.server(), previous: Who::Third.server() };
    for is_from_peer in [false, true] {
        if is_from_peer {
            bench.peer(SENDER)?;
        }
        for name in ["IPv4 TCP", "IPv6 TCP", "TCP in a VLAN of a provider's"] {
            let mut frame = find(name)?;
            let Heading { flow, kind, ip } = heading_of(&frame)?;
            bench.serve(&flow, false)?;
            let at = if frame[ip] >> 4 == 4 { ip + 8 } else { ip + 7 };
            for limit in [0, 1, 2, 3, 64, 255] {
                frame[at] = limit;
                let judged = steer(kind, Hops::of(limit, is_from_peer), choice, || false);
                bench.check(&format!("{name}, limit {limit}"), &frame, Some(judged))?;
            }
            // An interface that listens to everything sees this as well.
            frame[5] ^= 1;
            bench.check("somebody else's frame", &frame, None)?;
            frame[..6].fill(0xff);
            bench.check("a broadcast", &frame, None)?;
        }
    }
    Ok(())
}

/// A segment of this flow, made of the table's.
fn segment_of(client: SocketAddr, vip: SocketAddr) -> anyhow::Result<Vec<u8>> {
    let (mut frame, at) = match (client, vip) {
        (SocketAddr::V4(client), SocketAddr::V4(vip)) => {
            let mut frame = find("IPv4 TCP")?;
            frame[26..30].copy_from_slice(&client.ip().octets());
            frame[30..34].copy_from_slice(&vip.ip().octets());
            (frame, 34)
        }
        (SocketAddr::V6(client), SocketAddr::V6(vip)) => {
            let mut frame = find("IPv6 TCP")?;
            frame[22..38].copy_from_slice(&client.ip().octets());
            frame[38..54].copy_from_slice(&vip.ip().octets());
            (frame, 54)
        }
        _ => anyhow::bail!("two families"),
    };
    frame[at..at + 2].copy_from_slice(&client.port().to_be_bytes());
    frame[at + 2..at + 4].copy_from_slice(&vip.port().to_be_bytes());
    Ok(frame)
}

fn sockets() -> anyhow::Result<()> {
    Space::run(|_space| {
        ip("address add 192.0.2.2/32 dev lo")?;
        ip("address add fd77::50/128 dev lo nodad")?;
        for vip in ["192.0.2.2:6432", "[fd77::50]:6432"] {
            let mut bench = Bench::steering()?;
            let listener = TcpListener::bind(vip)?;
            let mut client = TcpStream::connect(vip)?;
            let (server, _) = listener.accept()?;
            let frame = segment_of(client.local_addr()?, listener.local_addr()?)?;
            bench.serve(&heading_of(&frame)?.flow, false)?;
            let stays = Some(Steer::Pass(Reason::SteerSocket));
            let sent = |to| Some(Steer::Send { to, limit: 2, reason: Reason::SteerPrevious });
            bench.table(Who::Here, Who::Other)?;
            bench.check("established", &frame, stays)?;
            bench.table(Who::Other, Who::Here)?;
            bench.check("established with the previous owner", &frame, stays)?;
            bench.table(Who::Here, Who::Other)?;
            // Who closes first stays behind in TIME-WAIT.
            drop(server);
            ensure!(client.read(&mut [0; 1])? == 0, "no end");
            drop(client);
            bench.check("in TIME-WAIT", &frame, stays)?;
            let mut other = frame.clone();
            let at = heading_of(&frame)?.kind.segment().context("a segment")?.at;
            other[at + 1] ^= 1;
            bench.check("a listener alone", &other, sent(OTHER))?;
            drop(listener);
            bench.check("nothing", &other, sent(OTHER))?;
        }
        Ok(())
    })
}

fn stale() -> anyhow::Result<()> {
    let mut bench = Bench::steering()?;
    for (name, begins) in [("IPv4 TCP", "IPv4 SYN with TCP options"), ("IPv6 TCP", "IPv6 TCP")] {
        let going = find(name)?;
        let Heading { flow, kind, .. } = heading_of(&going)?;
        let Kind::Going(segment) = kind else { anyhow::bail!("{kind:?}") };
        let flags = segment.at + 13;
        let mut opening = find(begins)?;
        let begin = heading_of(&opening)?.kind.segment().context("a segment")?.at;
        opening[begin + 13] = 2;
        let mut ending = going.clone();
        ending[flags] = 4;
        bench.serve(&flow, true)?;
        let epoch = |bench: &mut Bench, epoch| {
            bench.epoch = epoch;
            bench.table(Who::Other, Who::Third)
        };
        let send = Some(Steer::Send { to: OTHER, limit: 2, reason: Reason::SteerOwner });
        epoch(&mut bench, 1)?;
        bench.check("not known: the owner knows", &going, send)?;
        bench.check("begins", &opening, send)?;
        bench.check("goes on", &going, send)?;
        epoch(&mut bench, 2)?;
        bench.check("is over", &going, Some(Steer::Reset(Reason::SteerStale)))?;
        bench.check("is over still", &going, Some(Steer::Reset(Reason::SteerStale)))?;
        bench.check("a reset", &ending, Some(Steer::Drop(Reason::SteerStaleDropped)))?;
        bench.check("begins anew", &opening, send)?;
        bench.check("goes on again", &going, send)?;
        ensure!(
            direct(kind, Hops::Two, None, Some(Ordering::Equal), || true, || true)
                == Steer::Reset(Reason::SteerNobody)
        );
        bench.epoch = 3;
        bench.table(Who::Nobody, Who::Third)?;
        bench.check("nobody serves", &opening, Some(Steer::Reset(Reason::SteerNobody)))?;
    }
    Ok(())
}

/// The whole chain: PostgreSQL's port is shut here, and the packet may be for another host.
fn shut() -> anyhow::Result<()> {
    let mut bench = Bench::load(&[
        (Program::Fence, FENCE),
        (Program::Vip, VIP),
        (Program::Steer, STEER),
        (Program::SteerAway, STEER_AWAY),
        (Program::Refuse, REFUSE),
    ])?;
    let reset = |reason| Some(Steer::Reset(reason));
    for name in ["IPv4 TCP", "IPv6 TCP", "TCP in a VLAN"] {
        let frame = find(name)?;
        let flow = heading_of(&frame)?.flow;
        for gate in [Gate::Shut, Gate::Open] {
            let lease = LeaseWord::new(1, NEVER_NS, gate).context("does not fit")?;
            bench.set(LEASES, Slot::Primary as u32, lease.0)?;
            bench.serve(&flow, true)?;
            bench.table(Who::Other, Who::Nobody)?;
            let send = Steer::Send { to: OTHER, limit: 2, reason: Reason::SteerOwner };
            bench.check("for another host", &frame, Some(send))?;
            bench.table(Who::Nobody, Who::Nobody)?;
            bench.check("for nobody", &frame, reset(Reason::SteerNobody))?;
            bench.table(Who::Here, Who::Nobody)?;
            let (stays, not_served) = match gate {
                Gate::Open => (Some(Steer::Pass(Reason::SteerHere)), None),
                _ => (reset(Reason::SteerShut), reset(Reason::FenceReset)),
            };
            bench.check("for here", &frame, stays)?;
            // As if it were no virtual address: the fence's own word.
            let key = ServiceKey { address: flow.vip, port: flow.port };
            bench.hash::<ServiceKey, u64>(STEER_SERVICES)?.remove(&key)?;
            bench.check("not steered", &frame, not_served)?;
            bench.serve(&flow, false)?;
            bench.table(Who::Other, Who::Nobody)?;
            let steered = if gate == Gate::Open { Some(send) } else { not_served };
            bench.check("a proxy behind PostgreSQL's port", &frame, steered)?;
        }
    }
    Ok(())
}

fn flood() -> anyhow::Result<()> {
    let mut bench = Bench::steering()?;
    bench.table(Who::Other, Who::Nobody)?;
    let mut frame = find("IPv4 SYN with TCP options")?;
    let Heading { flow, kind, .. } = heading_of(&frame)?;
    bench.serve(&flow, true)?;
    let at = kind.segment().context("a segment")?.at;
    // Other packets on the same host, and to other ports of the same address.
    let mut ssh = frame.clone();
    ssh[at + 2..at + 4].copy_from_slice(&22_u16.to_be_bytes());
    // More than two processors may write down in two seconds.
    let count = u16::try_from(5 * FLOWS_NEW_PER_S_MAX)?;
    for number in 0..count {
        frame[at..at + 2].copy_from_slice(&number.to_be_bytes());
        frame[29] = 7;
        ensure!(bench.run(&frame)?.0 == XDP_TX, "flow {number} was not steered");
        if number % 256 == 0 {
            bench.check("ssh", &ssh, None)?;
            for packet in packets::all().iter().filter(|one| one.name.contains("UDP")) {
                bench.check(packet.name, &packet.frame, None)?;
            }
        }
    }
    let (flooded, steered) = (bench.count(Reason::SteerFlood)?, bench.count(Reason::SteerOwner)?);
    let known = bench.hash_of_flows()?;
    ensure!(steered == u64::from(count), "{steered} of {count} steered");
    ensure!(flooded > 0 && flooded + known == u64::from(count), "{flooded} and {known}");
    Ok(())
}

/// The typed writer of another thread against packets: each sees one table or the other.
fn swap() -> anyhow::Result<()> {
    const SWAPS: u32 = 300;
    Space::run(|space| {
        let pins = space.pins()?;
        let mut bench = Bench::pinned(&pins)?;
        let frame = find("IPv4 TCP")?;
        bench.serve(&heading_of(&frame)?.flow, false)?;
        let mut writer = Steering::open(&pins)?;
        ensure!(Steering::open(&pins).is_err(), "two write at once");
        let number = u8::try_from(TABLE)?;
        let servers = [[OTHER, THIRD], [THIRD, OTHER]];
        let publish = move |writer: &mut Steering, epoch: u32| {
            // The same server by two numbers: half a table would be another server.
            let which = epoch as usize / 2 % 2;
            let owner = (epoch as usize + which) % 2;
            let bucket = Bucket { owner: Some(owner), previous: None };
            let buckets = vec![bucket; BUCKETS as usize];
            let servers = &servers[which];
            writer.publish(number, &Table { epoch, servers, local: None, buckets: &buckets })
        };
        publish(&mut writer, 0)?;
        let mut seen = BTreeMap::new();
        thread::scope(|scope| {
            let writing = scope.spawn(|| -> anyhow::Result<()> {
                for epoch in 1..SWAPS {
                    publish(&mut writer, epoch)?;
                }
                let late = publish(&mut writer, 1);
                ensure!(matches!(late, Err(SteerError::Stale(_))), "{late:?}");
                let small = Table { epoch: SWAPS, servers: &[], local: None, buckets: &[] };
                let small = writer.publish(number, &small);
                ensure!(matches!(small, Err(SteerError::Shape { .. })), "{small:?}");
                ensure!(writer.epoch(number)? == Some(SWAPS - 1), "an old table took over");
                Ok(())
            });
            while !writing.is_finished() {
                let (verdict, bytes) = bench.run(&frame)?;
                let to: Mac = bytes[..6].try_into()?;
                *seen.entry((verdict, to)).or_insert(0_u64) += 1;
            }
            writing.join().map_err(|_| anyhow::anyhow!("the writer panicked"))?
        })?;
        let torn = seen.remove(&(XDP_DROP, OWN)).unwrap_or(0);
        ensure!(torn == bench.count(Reason::SteerTorn)?, "{torn} dropped");
        let expected = [(XDP_TX, OTHER), (XDP_TX, THIRD)];
        ensure!(seen.keys().eq(&expected), "{seen:?}, {torn} torn");
        Ok(())
    })
}

fn ports() -> anyhow::Result<()> {
    Space::run(|space| {
        let pins = space.pins()?;
        let mut bench = Bench::pinned(&pins)?;
        bench.table(Who::Other, Who::Nobody)?;
        let frame = find("IPv4 TCP")?;
        let port = heading_of(&frame)?.flow.port;
        let vip = "192.0.2.2".parse()?;
        let number = u8::try_from(TABLE)?;
        let noted = |bench: &Bench| -> anyhow::Result<u64> {
            let map = bench.ebpf.map(LEASES).context("no words")?;
            Ok(Array::<_, u64>::try_from(map)?.get(&(Slot::Ports as u32), 0)?)
        };
        let mut writer = Steering::open(&pins)?;
        ensure!(bench.run(&frame)?.0 == XDP_PASS, "steered, and nothing is served");
        writer.serve(vip, port, number, false)?;
        ensure!(bench.run(&frame)?.0 == XDP_TX, "not steered");
        // Another service, whose port has the same bit, comes and goes.
        writer.serve(vip, port + 64, number, false)?;
        writer.withdraw(vip, port + 64)?;
        ensure!(bench.run(&frame)?.0 == XDP_TX, "forgotten with another service");
        // Who begins anew finds what an earlier release did not note.
        drop(writer);
        bench.set(LEASES, Slot::Ports as u32, 0)?;
        ensure!(bench.run(&frame)?.0 == XDP_PASS, "looked for where nothing is noted");
        let mut writer = Steering::open(&pins)?;
        ensure!(bench.run(&frame)?.0 == XDP_TX, "not noted anew");
        writer.withdraw(vip, port)?;
        ensure!(bench.run(&frame)?.0 == XDP_PASS && noted(&bench)? == 0, "still noted");
        Ok(())
    })
}
