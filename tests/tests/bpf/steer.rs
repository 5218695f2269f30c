//! Steering in the kernel: each packet's verdict, bytes and counter are those of the rules on the
//! host, whatever the tables, and whatever sockets there are.

use std::net::{SocketAddr, TcpListener, TcpStream};

use anyhow::{Context as _, ensure};
use aya::maps::{Array, HashMap, MapData, PerCpuArray, ProgramArray};
use aya::programs::Xdp;
use aya::{Ebpf, TestRun as _, TestRunOptions};
use libtest_mimic::Trial;
use pgx_abi::{
    BUCKETS, BucketWord, Counter, FENCE, FLOWS_NEW_PER_S_MAX, FlowKey, Gate, LEASES, LINKS,
    LeaseWord, LinkAddress, PGX_ROOT, PROGRAMS, Program, REASONS, REFUSE, Reason, STEER,
    STEER_AWAY, STEER_BUCKETS, STEER_FLOWS, STEER_HOPS, STEER_SERVERS, STEER_SERVICES,
    STEER_TABLES, ServerWord, ServiceKey, ServiceWord, Slot, TableWord, VIP, XDP_DROP, XDP_PASS,
    XDP_TX, bucket_slot, server_slot,
};
use pgx_rules::{
    Choice, Heading, Hops, Kind, Limit, Mac, Reset, Server, Steer, direct, facts, hash, heading,
    hop_limit, reset, set_hop_limit, steer,
};
use pgx_tests::objects::objects;
use pgx_tests::skip::{Requirement, trial};

use crate::packets::{self, DESTINATION_PORT, SOURCE_PORT};
use crate::space::{Space, ip};

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
    vec![trial("steering_judges_each_packet_in_the_kernel_as_on_the_host", needs, each_packet)]
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
        let mut ebpf = Ebpf::load(objects()?.pgx())?;
        let root: &mut Xdp = ebpf.program_mut(PGX_ROOT).context(PGX_ROOT)?.try_into()?;
        root.load()?;
        for (place, name) in chain {
            let xdp: &mut Xdp = ebpf.program_mut(name).context(*name)?.try_into()?;
            xdp.load().with_context(|| format!("load {name}"))?;
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
        for length in FRAME_BYTES_MIN..=packet.frame.len().min(packet.headers + 8) {
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
