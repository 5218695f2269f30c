//! What is measured: programs, their packets, and what stands in the maps.

use anyhow::Context as _;
use aya::Ebpf;
use aya::maps::{Array, HashMap};
use pgx_abi::{
    BUCKETS, BucketWord, FENCE, FENCE_CGROUP_IN, FENCE_CGROUP_OUT, FENCE_IN, FENCE_OUT, FlowKey,
    Gate, LEASES, LINKS, LeaseWord, LinkAddress, PGX_ROOT, Program, REFUSE, STEER, STEER_AWAY,
    STEER_BUCKETS, STEER_FLOWS, STEER_SERVERS, STEER_SERVICES, STEER_TABLES, ServerWord,
    ServiceKey, ServiceWord, Slot, TableWord, VIP, VIPS, Vip, bucket_slot, server_slot,
};
use pgx_rules::{Facts, Transport, facts, heading, question};

#[path = "../../../ebpf/rules/tests/classify/packets.rs"]
#[expect(dead_code, reason = "the table is shared, its reasons are not looked at here")]
mod packets;

/// Those that the root program finds in its array.
pub(super) const BEHIND_ROOT: [(Program, &str); 5] = [
    (Program::Fence, FENCE),
    (Program::Vip, VIP),
    (Program::Steer, STEER),
    (Program::SteerAway, STEER_AWAY),
    (Program::Refuse, REFUSE),
];

/// The interface that the kernel's test-run pretends to have got a frame from: loopback.
const INTERFACE: u32 = 1;
/// Decades of boot time from now.
const NEVER_NS: u64 = 1_000_000_000_000_000_000;
/// The link address that every packet of the table comes to, so this host's.
const OWN: [u8; 6] = [2, 0, 0, 0, 0, 2];
const OTHER: [u8; 6] = [2, 0, 0, 0, 0, 0x22];
/// The table of every steered fixture, and its servers' numbers: this host, and another one.
const TABLE: u8 = 0;
const HERE: u8 = 1;
const THERE: u8 = 2;
const EPOCH: u32 = 7;

/// What stands in the maps.
type Prepare = fn(&mut Ebpf, &[u8]) -> anyhow::Result<()>;

/// A packet for a program.
pub(super) struct Fixture {
    /// The program that gets it first.
    pub(super) program: &'static str,
    /// What it is.
    pub(super) name: String,
    pub(super) frame: Vec<u8>,
    /// Whether the programs behind the root program are there.
    pub(super) is_chain: bool,
    pub(super) prepare: Prepare,
}

const TCP: [&str; 2] = ["IPv4 TCP", "IPv6 TCP"];

/// Every fixture.
pub(super) fn fixtures() -> Vec<Fixture> {
    [fenced(), asked(), steered()].into_iter().flatten().collect()
}

fn fixture(
    program: &'static str,
    packet: &str,
    state: &str,
    is_chain: bool,
    prepare: Prepare,
) -> Fixture {
    let found = packets::all().into_iter().find(|each| each.name == packet);
    let frame = found.unwrap_or_else(|| panic!("no packet {packet:?} in the table")).frame;
    let is_out = [FENCE_OUT, FENCE_CGROUP_OUT].contains(&program);
    let frame = if is_out { turned(frame) } else { frame };
    Fixture { program, name: format!("{packet}, {state}"), frame, is_chain, prepare }
}

/// Classification and the fence.
fn fenced() -> Vec<Fixture> {
    let odd = ["TCP in a VLAN of a provider's", "IPv6 with eight extensions"];
    let alone = TCP.into_iter().chain(odd);
    let mut all: Vec<_> =
        alone.map(|packet| fixture(PGX_ROOT, packet, "alone", false, nothing)).collect();
    for packet in TCP {
        all.push(fixture(PGX_ROOT, packet, "whole chain, gate open", true, open));
        all.push(fixture(PGX_ROOT, packet, "whole chain, another port", true, elsewhere_port));
        all.push(fixture(PGX_ROOT, packet, "whole chain, gate shut", true, nothing));
        for program in [FENCE, FENCE_IN, FENCE_OUT] {
            all.push(fixture(program, packet, "gate open", false, open));
            all.push(fixture(program, packet, "lease over", false, over));
            all.push(fixture(program, packet, "gate shut", false, nothing));
        }
    }
    for program in [FENCE_CGROUP_IN, FENCE_CGROUP_OUT] {
        all.push(fixture(program, TCP[0], "gate open", false, open));
        all.push(fixture(program, TCP[0], "gate shut", false, nothing));
    }
    for program in [FENCE_OUT, FENCE_CGROUP_OUT] {
        all.push(fixture(program, TCP[0], "another port", false, elsewhere_port));
    }
    all
}

/// Virtual addresses.
fn asked() -> Vec<Fixture> {
    let mut all = Vec::new();
    for packet in ["ARP request", "neighbour solicitation"] {
        all.push(fixture(VIP, packet, "for another host", false, nothing));
        all.push(fixture(VIP, packet, "lease over", false, elsewhere));
        all.push(fixture(VIP, packet, "under the lease", false, held));
        all.push(fixture(PGX_ROOT, packet, "whole chain, under the lease", true, held));
    }
    all
}

/// Steering.
fn steered() -> Vec<Fixture> {
    let mut all = Vec::new();
    for packet in TCP {
        all.push(fixture(STEER, packet, "port not steered", false, nothing));
        all.push(fixture(STEER, packet, "port steered, address not", false, neighbour_service));
        all.push(fixture(STEER, packet, "owner here, no socket", false, owned));
        all.push(fixture(STEER, packet, "owner elsewhere", false, sent));
        all.push(fixture(STEER, packet, "direct, owner elsewhere", false, direct));
        all.push(fixture(STEER, packet, "direct, flow of an older epoch", true, stale));
        all.push(fixture(STEER_AWAY, packet, "direct, owner elsewhere", false, direct));
        all.push(fixture(REFUSE, packet, "refused", false, nothing));
        all.push(fixture(PGX_ROOT, packet, "whole chain, owner elsewhere", true, sent_on));
    }
    all
}

/// The packet with its ports exchanged, so that it comes from the port that it went to.
fn turned(mut frame: Vec<u8>) -> Vec<u8> {
    if let Ok(Facts::Ipv4(Transport::Tcp(tcp)) | Facts::Ipv6(Transport::Tcp(tcp))) = facts(&*frame)
    {
        frame[tcp.at..tcp.at + 4].rotate_left(2);
    }
    frame
}

fn nothing(_: &mut Ebpf, _: &[u8]) -> anyhow::Result<()> {
    Ok(())
}

fn open(ebpf: &mut Ebpf, _: &[u8]) -> anyhow::Result<()> {
    let word = LeaseWord::new(1, NEVER_NS, Gate::Open).context("does not fit")?;
    words(ebpf, &[(Slot::Primary, word.0)])
}

/// Another port than that of the packets is guarded.
fn elsewhere_port(ebpf: &mut Ebpf, _: &[u8]) -> anyhow::Result<()> {
    words(ebpf, &[(Slot::Port, 5433)])
}

fn over(ebpf: &mut Ebpf, _: &[u8]) -> anyhow::Result<()> {
    let word = LeaseWord::new(1, 1_000_000, Gate::Open).context("does not fit")?;
    words(ebpf, &[(Slot::Primary, word.0)])
}

fn words(ebpf: &mut Ebpf, all: &[(Slot, u64)]) -> anyhow::Result<()> {
    let mut map = Array::<_, u64>::try_from(ebpf.map_mut(LEASES).context(LEASES)?)?;
    all.iter().try_for_each(|(slot, word)| Ok(map.set(*slot as u32, word, 0)?))
}

fn owned(ebpf: &mut Ebpf, frame: &[u8]) -> anyhow::Result<()> {
    serve(ebpf, &flow_of(frame)?, HERE, false)
}

fn sent(ebpf: &mut Ebpf, frame: &[u8]) -> anyhow::Result<()> {
    serve(ebpf, &flow_of(frame)?, THERE, false)
}

/// The same behind a fence that guards another port.
fn sent_on(ebpf: &mut Ebpf, frame: &[u8]) -> anyhow::Result<()> {
    sent(ebpf, frame)?;
    words(ebpf, &[(Slot::Port, 5433)])
}

fn direct(ebpf: &mut Ebpf, frame: &[u8]) -> anyhow::Result<()> {
    serve(ebpf, &flow_of(frame)?, THERE, true)
}

fn stale(ebpf: &mut Ebpf, frame: &[u8]) -> anyhow::Result<()> {
    let flow = flow_of(frame)?;
    serve(ebpf, &flow, HERE, true)?;
    let map = ebpf.map_mut(STEER_FLOWS).context(STEER_FLOWS)?;
    Ok(HashMap::<_, FlowKey, u32>::try_from(map)?.insert(flow, EPOCH - 1, 0)?)
}

/// Something else is served at the port.
fn neighbour_service(ebpf: &mut Ebpf, frame: &[u8]) -> anyhow::Result<()> {
    let mut flow = flow_of(frame)?;
    flow.vip[15] ^= 0xff;
    serve(ebpf, &flow, HERE, false)
}

fn flow_of(frame: &[u8]) -> anyhow::Result<FlowKey> {
    Ok(heading(frame, facts(frame)).context("belongs to no flow")?.flow)
}

/// All flows to where this one goes have this owner.
fn serve(ebpf: &mut Ebpf, flow: &FlowKey, owner: u8, is_direct: bool) -> anyhow::Result<()> {
    let (table, header) = (u32::from(TABLE), TableWord::new(EPOCH, 1));
    let mut set = |name: &str, slot: u32, word: u64| -> anyhow::Result<()> {
        let map = ebpf.map_mut(name).with_context(|| name.to_owned())?;
        Ok(Array::<_, u64>::try_from(map)?.set(slot, word, 0)?)
    };
    for (number, link) in [(HERE, OWN), (THERE, OTHER)] {
        let word = ServerWord::new(link, number == HERE, header.swaps());
        set(STEER_SERVERS, server_slot(table, header.half(), number.into()), word.0)?;
    }
    let word = BucketWord::new(owner, 0, header.swaps());
    for bucket in 0..BUCKETS {
        set(STEER_BUCKETS, bucket_slot(table, header.half(), bucket), word.0)?;
    }
    set(STEER_TABLES, table, header.0)?;
    set(LEASES, Slot::Ports as u32, u64::MAX)?;
    let key = ServiceKey { address: flow.vip, port: flow.port };
    let map = ebpf.map_mut(STEER_SERVICES).context(STEER_SERVICES)?;
    let word = ServiceWord::new(TABLE, is_direct);
    HashMap::<_, ServiceKey, u64>::try_from(map)?.insert(key, word.0, 0)?;
    links(ebpf, OWN)
}

fn links(ebpf: &mut Ebpf, [a, b, c, d, e, f]: [u8; 6]) -> anyhow::Result<()> {
    let map = ebpf.map_mut(LINKS).context(LINKS)?;
    let mut links = HashMap::<_, u32, LinkAddress>::try_from(map)?;
    Ok(links.insert(INTERFACE, [a, b, c, d, e, f, 0, 0], 0)?)
}

fn held(ebpf: &mut Ebpf, frame: &[u8]) -> anyhow::Result<()> {
    vip(ebpf, frame, NEVER_NS)
}

fn elsewhere(ebpf: &mut Ebpf, frame: &[u8]) -> anyhow::Result<()> {
    vip(ebpf, frame, 1_000_000)
}

fn vip(ebpf: &mut Ebpf, frame: &[u8], until_ns: u64) -> anyhow::Result<()> {
    let asked = question(frame).context("no question")?;
    let lease = LeaseWord::new(1, until_ns, Gate::Open).context("does not fit")?;
    let map = ebpf.map_mut(VIPS).context(VIPS)?;
    HashMap::<_, [u8; 16], Vip>::try_from(map)?.insert(asked.target(), Vip { lease }, 0)?;
    links(ebpf, [2, 0, 0, 0, 0, 9])
}
