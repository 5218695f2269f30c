//! The fence's programs in the kernel: each packet's verdict and bytes are those of the rules on
//! the host, whatever the lease.

use anyhow::{Context as _, ensure};
use aya::maps::{Array, HashMap, MapData, ProgramArray};
use aya::programs::{CgroupSkb, SchedClassifier, Xdp};
use aya::{Ebpf, TestRun, TestRunOptions, TestRunResult};
use libtest_mimic::Trial;
use pgx_abi::{
    CGROUP_DROP, CGROUP_PASS, FENCE, FENCE_CGROUP_IN, FENCE_CGROUP_OUT, FENCE_IN, FENCE_OUT,
    FENCED, Gate, LEASES, LeaseWord, PEERS, PGX_ROOT, PROGRAMS, Program, Slot, TC_NEXT, TC_SHOT,
    XDP_DROP, XDP_PASS, XDP_TX,
};
use pgx_rules::{Address, Direction, Fence, Reset, facts, fence, reset, subject};
use pgx_tests::objects::objects;
use pgx_tests::skip::{Requirement, trial};

use crate::packets::{self, DESTINATION_PORT};
use crate::space::verify;

/// The kernel's test-run takes no frame without an Ethernet header.
const FRAME_BYTES_MIN: usize = 14;
/// `TC_ACT_REDIRECT` of `linux/pkt_cls.h`.
const TC_REDIRECT: i32 = 7;
/// Decades of boot time from now.
const NEVER_NS: u64 = 1_000_000_000_000_000_000;
/// The sender of every IPv4 packet of the table.
const SENDER: Address = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 192, 0, 2, 1];

pub(crate) fn trials() -> Vec<Trial> {
    let needs = &[Requirement::Bpf];
    vec![
        trial("fence_is_shut_when_nobody_has_written_a_lease", needs, shut_at_first),
        trial("fence_judges_each_packet_in_the_kernel_as_on_the_host", needs, each_packet),
        trial("fence_in_tc_and_cgroup_judges_as_on_the_host", needs, other_hooks),
        trial("fence_opens_by_deadline_epoch_and_role_alone", needs, words),
        trial("fence_lets_peers_in_and_drops_fenced_backends", needs, addresses),
    ]
}

struct Bench {
    ebpf: Ebpf,
}

impl Bench {
    fn load() -> anyhow::Result<Self> {
        let mut ebpf = Ebpf::load(objects()?.pgx())?;
        for name in [PGX_ROOT, FENCE] {
            let xdp: &mut Xdp = ebpf.program_mut(name).context(name)?.try_into()?;
            verify(|| xdp.load()).with_context(|| format!("load {name}"))?;
        }
        for name in [FENCE_IN, FENCE_OUT] {
            let tc: &mut SchedClassifier = ebpf.program_mut(name).context(name)?.try_into()?;
            verify(|| tc.load()).with_context(|| format!("load {name}"))?;
        }
        for name in [FENCE_CGROUP_IN, FENCE_CGROUP_OUT] {
            let cgroup: &mut CgroupSkb = ebpf.program_mut(name).context(name)?.try_into()?;
            verify(|| cgroup.load()).with_context(|| format!("load {name}"))?;
        }
        let xdp: &Xdp = ebpf.program(FENCE).context("no fence")?.try_into()?;
        let fd = xdp.fd()?.try_clone()?;
        let mut programs = ProgramArray::try_from(ebpf.map_mut(PROGRAMS).context("no array")?)?;
        programs.set(Program::Fence as u32, &fd, 0)?;
        Ok(Self { ebpf })
    }

    fn set(&mut self, slot: Slot, word: u64) -> anyhow::Result<()> {
        let map = self.ebpf.map_mut(LEASES).context("no leases")?;
        Ok(Array::<_, u64>::try_from(map)?.set(slot as u32, word, 0)?)
    }

    fn lease(&mut self, slot: Slot, epoch: u64, until_ns: u64, gate: Gate) -> anyhow::Result<()> {
        let word = LeaseWord::new(epoch, until_ns, gate).context("does not fit")?;
        self.set(slot, word.0)
    }

    fn list(&mut self, map: &str, address: &Address) -> anyhow::Result<()> {
        let map = self.ebpf.map_mut(map).context("no such map")?;
        let mut map: HashMap<&mut MapData, Address, u64> = HashMap::try_from(map)?;
        Ok(map.insert(address, 1, 0)?)
    }

    fn run(&self, name: &str, frame: &[u8], output: &mut [u8]) -> anyhow::Result<TestRunResult> {
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(output),
            ..TestRunOptions::default()
        };
        let program = self.ebpf.program(name).context("no such program")?;
        Ok(match name {
            PGX_ROOT | FENCE => <&Xdp>::try_from(program)?.test_run(options)?,
            FENCE_IN | FENCE_OUT => <&SchedClassifier>::try_from(program)?.test_run(options)?,
            _ => <&CgroupSkb>::try_from(program)?.test_run(options)?,
        })
    }

    /// Gives the XDP programs a frame; verdict and what became of the frame.
    fn xdp(&self, frame: &[u8]) -> anyhow::Result<(u32, Vec<u8>)> {
        let mut output = vec![0; frame.len()];
        let run = self.run(PGX_ROOT, frame, &mut output)?;
        output.truncate(run.data_size_out as usize);
        Ok((run.return_value, output))
    }
}

fn judge(frame: &[u8], direction: Direction, gate: Gate, port: u16) -> Fence {
    let whose = subject(facts(frame), direction, port);
    fence(frame, whose, direction, || gate, |_| false, |_| false)
}

/// What the rules on the host make of a frame that comes in: verdict and bytes.
fn expected(frame: &[u8], gate: Gate) -> (u32, Vec<u8>) {
    match judge(frame, Direction::In, gate, DESTINATION_PORT) {
        Fence::Ignore | Fence::Pass(_) => (XDP_PASS, frame.to_vec()),
        Fence::Drop(_) | Fence::Refuse(_) => (XDP_DROP, frame.to_vec()),
        Fence::Reset(segment) => match reset(frame, &segment) {
            Some(Reset::Ipv4(bytes)) => (XDP_TX, answer(&frame[..segment.ip], &bytes)),
            Some(Reset::Ipv6(bytes)) => (XDP_TX, answer(&frame[..segment.ip], &bytes)),
            None => (XDP_DROP, frame.to_vec()),
        },
    }
}

fn answer(link: &[u8], bytes: &[u8]) -> Vec<u8> {
    [&link[6..12], &link[..6], &link[12..], bytes].concat()
}

fn frames() -> Vec<(String, Vec<u8>)> {
    let mut frames = Vec::new();
    for packet in packets::all() {
        let lengths = FRAME_BYTES_MIN..=packet.frame.len().min(packet.headers + 8);
        // A long payload, and every length of a long walk, add nothing but runs.
        for length in lengths.filter(|length| packet.headers < 256 || length % 64 < 8) {
            let name = format!("{}, {length} bytes", packet.name);
            frames.push((name, packet.frame[..length].to_vec()));
        }
        for at in 12..packet.frame.len().min(packet.headers).min(160) {
            let mut frame = packet.frame.clone();
            frame[at] ^= 0x41;
            frames.push((format!("{}, byte {at} damaged", packet.name), frame));
        }
    }
    frames
}

fn shut_at_first() -> anyhow::Result<()> {
    let bench = Bench::load()?;
    for packet in packets::all() {
        let found = bench.xdp(&packet.frame)?;
        ensure!(found == expected(&packet.frame, Gate::Shut), "{}: {found:?}", packet.name);
    }
    Ok(())
}

fn each_packet() -> anyhow::Result<()> {
    let mut bench = Bench::load()?;
    let mut answered = 0;
    for gate in [Gate::Shut, Gate::Peers, Gate::Open] {
        bench.lease(Slot::Primary, 1, NEVER_NS, gate)?;
        for (name, frame) in frames() {
            let (found, expected) = (bench.xdp(&frame)?, expected(&frame, gate));
            ensure!(found == expected, "{name}, {gate:?}: {found:02x?}, not {expected:02x?}");
            answered += usize::from(found.0 == XDP_TX);
        }
    }
    ensure!(answered > 1_000, "only {answered} answers");
    Ok(())
}

fn other_hooks() -> anyhow::Result<()> {
    let mut bench = Bench::load()?;
    for gate in [Gate::Shut, Gate::Open] {
        bench.lease(Slot::Primary, 1, NEVER_NS, gate)?;
        for (port, direction) in [(5432, Direction::In), (40_000, Direction::Out)] {
            // Seen from 40000 the table's packets leave.
            bench.set(Slot::Port, port)?;
            let port = u16::try_from(port)?;
            for packet in packets::all() {
                let judged = judge(&packet.frame, direction, gate, port);
                check_tc(&bench, &packet, direction, judged)?;
                check_cgroup(&bench, &packet, direction, judged)?;
            }
        }
    }
    Ok(())
}

fn check_tc(
    bench: &Bench,
    packet: &packets::Packet,
    direction: Direction,
    judged: Fence,
) -> anyhow::Result<()> {
    let name = if direction == Direction::In { FENCE_IN } else { FENCE_OUT };
    let mut output = vec![0; packet.frame.len()];
    let run = bench.run(name, &packet.frame, &mut output)?;
    let verdict = run.return_value.cast_signed();
    let wanted = match judged {
        Fence::Ignore | Fence::Pass(_) => TC_NEXT,
        Fence::Drop(_) => TC_SHOT,
        Fence::Reset(_) | Fence::Refuse(_) => TC_REDIRECT,
    };
    ensure!(verdict == wanted, "{name}, {}: {verdict}, {judged:?}", packet.name);
    if verdict == TC_REDIRECT {
        output.truncate(run.data_size_out as usize);
        let (_, bytes) = expected(&packet.frame, Gate::Shut);
        ensure!(output == bytes, "{name}, {}: {output:02x?}, not {bytes:02x?}", packet.name);
    }
    Ok(())
}

fn check_cgroup(
    bench: &Bench,
    packet: &packets::Packet,
    direction: Direction,
    judged: Fence,
) -> anyhow::Result<()> {
    // A cgroup's programs begin at the IP header, and see what the stack takes for IP.
    let is_ip = packet.frame[12..14] == [8, 0] || packet.frame[12..14] == [0x86, 0xdd];
    let is_sound = packet.reason != pgx_abi::Reason::Malformed;
    if !is_ip || !is_sound {
        return Ok(());
    }
    let name = if direction == Direction::In { FENCE_CGROUP_IN } else { FENCE_CGROUP_OUT };
    let mut output = vec![0; packet.frame.len()];
    let run = bench.run(name, &packet.frame, &mut output)?;
    let verdict = run.return_value.cast_signed();
    let wanted = match judged {
        Fence::Ignore | Fence::Pass(_) => CGROUP_PASS,
        Fence::Drop(_) | Fence::Reset(_) | Fence::Refuse(_) => CGROUP_DROP,
    };
    ensure!(verdict == wanted, "{name}, {}: {verdict}, {judged:?}", packet.name);
    Ok(())
}

/// A packet to PostgreSQL's port passes only at these words.
fn words() -> anyhow::Result<()> {
    let mut bench = Bench::load()?;
    let frame = packets::all().into_iter().find(|packet| packet.name == "IPv4 TCP");
    let frame = frame.context("no such packet")?.frame;
    let passes = |about: &str, wanted: bool, bench: &Bench| {
        let (verdict, _) = bench.xdp(&frame)?;
        let expected = if wanted { XDP_PASS } else { XDP_TX };
        ensure!(verdict == expected, "{about}: {verdict}");
        Ok(())
    };
    bench.lease(Slot::Primary, 7, 1_000_000, Gate::Open)?;
    passes("a deadline in the first millisecond since boot", false, &bench)?;
    bench.lease(Slot::Primary, 7, NEVER_NS, Gate::Open)?;
    passes("before the deadline", true, &bench)?;
    bench.set(Slot::Floor, 7)?;
    passes("at the floor", true, &bench)?;
    bench.set(Slot::Floor, 8)?;
    passes("below the floor", false, &bench)?;
    bench.lease(Slot::Member, 8, NEVER_NS, Gate::Open)?;
    passes("by the member lease", true, &bench)?;
    bench.set(Slot::Operator, 9)?;
    passes("fenced by an operator", false, &bench)?;
    bench.set(Slot::Operator, 0)?;
    bench.lease(Slot::Member, 8, NEVER_NS, Gate::Shut)?;
    passes("shut within the lease", false, &bench)?;
    bench.set(Slot::Port, 22)?;
    passes("another port", true, &bench)
}

fn addresses() -> anyhow::Result<()> {
    let mut bench = Bench::load()?;
    let find = |name: &str| packets::all().into_iter().find(|packet| packet.name == name);
    let frame = find("IPv4 TCP").context("no such packet")?.frame;
    bench.lease(Slot::Primary, 1, NEVER_NS, Gate::Peers)?;
    ensure!(bench.xdp(&frame)?.0 == XDP_TX, "a stranger");
    bench.list(PEERS, &SENDER)?;
    ensure!(bench.xdp(&frame)?.0 == XDP_PASS, "a peer");
    // The sender's port is PostgreSQL's now: it is a backend that a proxy here speaks with.
    bench.set(Slot::Port, 40_000)?;
    ensure!(bench.xdp(&frame)?.0 == XDP_PASS, "a backend");
    bench.list(FENCED, &SENDER)?;
    ensure!(bench.xdp(&frame)?.0 == XDP_DROP, "a fenced backend");
    Ok(())
}
