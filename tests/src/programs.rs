//! The product's programs in the kernel's test-run: what a packet costs, and how much the verifier
//! has to walk.
//!
//! A fixture is a program, a packet, and what stands in the maps. Whoever writes a program adds its
//! fixtures to [`fixtures`], and its name to [`ALL`].

use std::collections::BTreeMap;

use anyhow::{Context as _, ensure};
use aya::maps::{Array, HashMap, ProgramArray};
use aya::programs::{Program as Loaded, Xdp};
use aya::{Ebpf, TestRun as _, TestRunOptions, TestRunResult};
use pgx_abi::{
    FENCE, FENCE_CGROUP_IN, FENCE_CGROUP_OUT, FENCE_IN, FENCE_OUT, Gate, LAB_PASS, LEASES, LINKS,
    LeaseWord, LinkAddress, PGX_ROOT, PROGRAMS, Program, REFUSE, STEER, STEER_AWAY, Slot, VIP,
    VIPS, Vip,
};
use pgx_rules::{Facts, Transport, facts, question};
use serde::Serialize;

use crate::objects::objects;

#[path = "../../ebpf/rules/tests/classify/packets.rs"]
#[expect(dead_code, reason = "the table is shared, its reasons are not looked at here")]
mod packets;

/// Every program of the product.
pub const ALL: [&str; 10] = [
    PGX_ROOT,
    FENCE,
    VIP,
    STEER,
    STEER_AWAY,
    REFUSE,
    FENCE_IN,
    FENCE_OUT,
    FENCE_CGROUP_IN,
    FENCE_CGROUP_OUT,
];

/// Those that the root program finds in its array.
const BEHIND_ROOT: [(Program, &str); 5] = [
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
/// Longest answer to a fixture's packet, in bytes beyond the packet.
const ROOM: usize = 64;

/// What stands in the maps.
type Prepare = fn(&mut Ebpf, &[u8]) -> anyhow::Result<()>;

/// A packet for a program.
pub struct Fixture {
    /// The program that gets it first.
    pub program: &'static str,
    /// What it is.
    pub name: String,
    frame: Vec<u8>,
    /// Whether the programs behind the root program are there.
    is_chain: bool,
    prepare: Prepare,
}

/// What a fixture gave.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// The program.
    pub program: &'static str,
    /// The fixture.
    pub fixture: String,
    /// What became of the packet, in the kernel's words.
    pub verdict: String,
    /// Nanoseconds a packet.
    pub ns: f64,
    /// What the verifier walked of the program.
    pub verified_instructions: u32,
}

/// Every fixture.
#[must_use]
pub fn fixtures() -> Vec<Fixture> {
    let mut all = Vec::new();
    let mut add = |program, packet: &str, state: &str, is_chain, prepare: Prepare| {
        let found = packets::all().into_iter().find(|each| each.name == packet);
        let frame = found.unwrap_or_else(|| panic!("no packet {packet:?} in the table")).frame;
        let is_out = [FENCE_OUT, FENCE_CGROUP_OUT].contains(&program);
        let frame = if is_out { turned(frame) } else { frame };
        let name = format!("{packet}, {state}");
        all.push(Fixture { program, name, frame, is_chain, prepare });
    };
    let tcp = ["IPv4 TCP", "IPv6 TCP"];
    for packet in
        tcp.into_iter().chain(["TCP in a VLAN of a provider's", "IPv6 with eight extensions"])
    {
        add(PGX_ROOT, packet, "alone", false, nothing);
    }
    for packet in tcp {
        add(PGX_ROOT, packet, "whole chain, gate open", true, open);
        add(PGX_ROOT, packet, "whole chain, gate shut", true, nothing);
        add(FENCE, packet, "gate open", false, open);
        add(FENCE, packet, "gate shut", false, nothing);
        for program in [FENCE_IN, FENCE_OUT] {
            add(program, packet, "gate open", false, open);
            add(program, packet, "gate shut", false, nothing);
        }
    }
    for program in [FENCE_CGROUP_IN, FENCE_CGROUP_OUT] {
        add(program, tcp[0], "gate open", false, open);
        add(program, tcp[0], "gate shut", false, nothing);
    }
    for packet in ["ARP request", "neighbour solicitation"] {
        add(VIP, packet, "for another host", false, nothing);
        add(VIP, packet, "lease over", false, elsewhere);
        add(VIP, packet, "under the lease", false, held);
        add(PGX_ROOT, packet, "whole chain, under the lease", true, held);
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
    let map = ebpf.map_mut(LEASES).context(LEASES)?;
    Ok(Array::<_, u64>::try_from(map)?.set(Slot::Primary as u32, word.0, 0)?)
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
    let map = ebpf.map_mut(LINKS).context(LINKS)?;
    let mut links = HashMap::<_, u32, LinkAddress>::try_from(map)?;
    Ok(links.insert(INTERFACE, [2, 0, 0, 0, 0, 9, 0, 0], 0)?)
}

/// What the verifier walks of each program.
///
/// # Errors
/// When a program cannot be loaded, or the kernel does not tell (before Linux 5.16).
pub fn verified_instructions() -> anyhow::Result<BTreeMap<String, u32>> {
    let mut ebpf = Ebpf::load(objects()?.pgx())?;
    let count = |name: &&str| Ok((String::from(*name), load(&mut ebpf, name)?));
    ALL.iter().map(count).collect()
}

/// Runs every fixture `repeats` times.
///
/// # Errors
/// When a program cannot be loaded or run.
pub fn measure(repeats: u32) -> anyhow::Result<Vec<Row>> {
    let floor_ns = floor(repeats)?;
    let rows = fixtures().into_iter().map(|fixture| {
        let name = fixture.name.clone();
        measure_one(fixture, repeats, floor_ns).with_context(|| name)
    });
    rows.collect()
}

fn measure_one(fixture: Fixture, repeats: u32, floor_ns: f64) -> anyhow::Result<Row> {
    let Fixture { program, name, frame, is_chain, prepare } = fixture;
    let mut ebpf = Ebpf::load(objects()?.pgx())?;
    let verified_instructions = load(&mut ebpf, program)?;
    if is_chain {
        install(&mut ebpf)?;
    }
    prepare(&mut ebpf, &frame)?;
    let loaded = ebpf.program(program).context(program)?;
    let mut output = vec![0; frame.len() + ROOM];
    let first = run(loaded, &frame, Some(&mut output), 1)?;
    let length = usize::try_from(first.data_size_out)?;
    let is_rewritten = output.get(..length) != Some(&*frame);
    let ns = if is_rewritten {
        // The kernel repeats a run over what the last one left. So each gets its packet anew, and
        // what that and the reading of clocks cost, by a program that only passes, is taken off.
        (one_by_one(loaded, &frame, repeats)? - floor_ns).max(0.0)
    } else {
        run(loaded, &frame, None, repeats)?.duration.as_secs_f64() * 1e9
    };
    let verdict = verdict(loaded, first.return_value);
    Ok(Row { program, fixture: name, verdict, ns, verified_instructions })
}

/// Nanoseconds that a run of its own costs where nothing is done.
fn floor(repeats: u32) -> anyhow::Result<f64> {
    let mut ebpf = Ebpf::load(objects()?.lab())?;
    let xdp: &mut Xdp = ebpf.program_mut(LAB_PASS).context(LAB_PASS)?.try_into()?;
    xdp.load()?;
    one_by_one(ebpf.program(LAB_PASS).context(LAB_PASS)?, &[0; 64], repeats)
}

/// The median of single runs: an interrupt in one of them does not count.
fn one_by_one(program: &Loaded, frame: &[u8], repeats: u32) -> anyhow::Result<f64> {
    let each = (0..repeats).map(|_| Ok(run(program, frame, None, 1)?.duration.as_secs_f64() * 1e9));
    let mut all = each.collect::<anyhow::Result<Vec<_>>>()?;
    all.sort_unstable_by(f64::total_cmp);
    all.get(all.len() / 2).copied().context("no runs")
}

fn run(
    program: &Loaded,
    data: &[u8],
    data_out: Option<&mut [u8]>,
    repeat: u32,
) -> anyhow::Result<TestRunResult> {
    let options = TestRunOptions { data_in: Some(data), data_out, repeat, ..Default::default() };
    Ok(match program {
        Loaded::Xdp(xdp) => xdp.test_run(options)?,
        Loaded::SchedClassifier(classifier) => classifier.test_run(options)?,
        Loaded::CgroupSkb(cgroup) => cgroup.test_run(options)?,
        other => anyhow::bail!("{:?} cannot be run here", other.prog_type()),
    })
}

/// Loads a program, and returns what the verifier walked of it.
fn load(ebpf: &mut Ebpf, name: &str) -> anyhow::Result<u32> {
    let program = ebpf.program_mut(name).with_context(|| format!("no program {name}"))?;
    let info = match program {
        Loaded::Xdp(xdp) => {
            xdp.load()?;
            xdp.info()?
        }
        Loaded::SchedClassifier(classifier) => {
            classifier.load()?;
            classifier.info()?
        }
        Loaded::CgroupSkb(cgroup) => {
            cgroup.load()?;
            cgroup.info()?
        }
        other => anyhow::bail!("{name} is a {:?}", other.prog_type()),
    };
    info.verified_instruction_count().context("this kernel does not tell what it verified")
}

fn install(ebpf: &mut Ebpf) -> anyhow::Result<()> {
    for (place, name) in BEHIND_ROOT {
        load(ebpf, name)?;
        let xdp: &Xdp = ebpf.program(name).context(name)?.try_into()?;
        let fd = xdp.fd()?.try_clone()?;
        let map = ebpf.map_mut(PROGRAMS).context(PROGRAMS)?;
        ProgramArray::try_from(map)?.set(place as u32, &fd, 0)?;
    }
    Ok(())
}

/// The kernel's word for what a program returned.
fn verdict(program: &Loaded, value: u32) -> String {
    let words: &[&str] = match program {
        Loaded::Xdp(_) => &["aborted", "drop", "pass", "tx", "redirect"],
        Loaded::SchedClassifier(_) => {
            &["ok", "reclassify", "shot", "pipe", "stolen", "queued", "repeat", "redirect"]
        }
        _ => &["drop", "pass"],
    };
    let known = usize::try_from(value).ok().and_then(|at| words.get(at));
    // Classifiers say "next" by a number below zero.
    known.map_or_else(|| value.cast_signed().to_string(), |word| (*word).to_owned())
}

/// Compares what the verifier walks with what was recorded: a fifth more is too much.
///
/// # Errors
/// Naming every program that grew, is new or is gone.
pub fn compare_instructions(
    recorded: &BTreeMap<String, u32>,
    found: &BTreeMap<String, u32>,
) -> anyhow::Result<()> {
    let mut wrong = Vec::new();
    for (name, count) in found {
        match recorded.get(name) {
            None => wrong.push(format!("{name} is not recorded ({count})")),
            Some(before) if u64::from(*count) * 5 > u64::from(*before) * 6 => {
                wrong.push(format!("{name} grew from {before} to {count}"));
            }
            Some(_) => {}
        }
    }
    let gone = recorded.keys().filter(|name| !found.contains_key(*name));
    wrong.extend(gone.map(|name| format!("{name} is gone")));
    ensure!(
        wrong.is_empty(),
        "what the verifier walks: {}; if that is meant: cargo xtask bench xdp --record",
        wrong.join(", ")
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fifth_more_is_allowed_and_no_more_than_that() {
        let counts = |count| BTreeMap::from([("pgx_root".to_owned(), count)]);
        compare_instructions(&counts(100), &counts(120)).unwrap();
        let grown = compare_instructions(&counts(100), &counts(121)).unwrap_err();
        assert!(grown.to_string().contains("grew from 100 to 121"), "{grown}");
        assert!(compare_instructions(&BTreeMap::new(), &counts(1)).is_err());
        assert!(compare_instructions(&counts(1), &BTreeMap::new()).is_err());
    }
}
