//! Packets through the kernel's test-run: verdict, output bytes and counters.

use anyhow::{Context as _, ensure};
use aya::maps::PerCpuArray;
use aya::programs::Xdp;
use aya::{Ebpf, TestRun as _, TestRunOptions};
use libtest_mimic::Trial;
use pgx_abi::{Counter, LAB_PASS, PGX_ROOT, REASONS, Reason, XDP_PASS};
use pgx_rules::{Verdict, decide, facts};
use pgx_tests::objects::objects;
use pgx_tests::skip::{Requirement, trial};

use crate::packets;
use crate::space::verify;

/// The kernel's test-run takes no frame without an Ethernet header.
const FRAME_BYTES_MIN: usize = 14;

pub(crate) fn trials() -> Vec<Trial> {
    let needs = &[Requirement::Bpf];
    vec![
        trial("each_packet_passes_unchanged_and_is_counted_once", needs, each_packet),
        trial("a_cut_packet_is_judged_in_the_kernel_as_on_the_host", needs, cut_packets),
        trial("a_damaged_packet_is_judged_in_the_kernel_as_on_the_host", needs, damaged_packets),
        trial("the_labs_program_passes_every_packet_unchanged", needs, lab_passes),
    ]
}

/// A loaded object whose program can be given packets.
struct Bench {
    ebpf: Ebpf,
    program: &'static str,
}

impl Bench {
    fn load(object: &[u8], program: &'static str) -> anyhow::Result<Self> {
        let mut ebpf = Ebpf::load(object)?;
        let xdp: &mut Xdp = ebpf.program_mut(program).context("no such program")?.try_into()?;
        verify(|| xdp.load())?;
        Ok(Self { ebpf, program })
    }

    fn root() -> anyhow::Result<Self> {
        Self::load(objects()?.pgx(), PGX_ROOT)
    }

    /// Gives the program one frame, and checks that it passes as it came.
    fn pass(&self, frame: &[u8]) -> anyhow::Result<()> {
        let xdp: &Xdp = self.ebpf.program(self.program).context("no such program")?.try_into()?;
        let mut output = vec![0xa5; frame.len() + 1];
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut output),
            ..TestRunOptions::default()
        };
        let run = xdp.test_run(options)?;
        ensure!(run.return_value == XDP_PASS, "verdict {}, not XDP_PASS", run.return_value);
        ensure!(run.data_size_out as usize == frame.len(), "{} bytes out", run.data_size_out);
        ensure!(output[..frame.len()] == *frame, "the program changed the packet");
        Ok(())
    }

    /// The counters by index, summed over CPUs.
    fn counters(&self) -> anyhow::Result<Vec<Counter>> {
        let map = self.ebpf.map(REASONS).context("no counter map")?;
        let map = PerCpuArray::<_, Counter>::try_from(map)?;
        let mut counters = Vec::new();
        for slot in map.iter() {
            let mut sum = Counter::default();
            for counter in slot?.iter() {
                sum.packets += counter.packets;
                sum.bytes += counter.bytes;
            }
            counters.push(sum);
        }
        Ok(counters)
    }

    /// Passes one frame and checks that exactly `reason` has counted it.
    fn check(&self, frame: &[u8], reason: Reason) -> anyhow::Result<()> {
        let mut expected = self.counters()?;
        self.pass(frame)?;
        let counter = &mut expected[reason.index() as usize];
        counter.packets += 1;
        counter.bytes += frame.len() as u64;
        let found = self.counters()?;
        let counted = Reason::ALL.iter().zip(&found).zip(&expected);
        let counted = counted.filter(|((_, found), expected)| found != expected);
        let wrong: Vec<_> = counted.map(|((reason, _), _)| reason.name()).collect();
        ensure!(found == expected, "expected {}, counted otherwise: {wrong:?}", reason.name());
        Ok(())
    }
}

fn each_packet() -> anyhow::Result<()> {
    let bench = Bench::root()?;
    for packet in packets::all() {
        bench.check(&packet.frame, packet.reason).context(packet.name)?;
    }
    Ok(())
}

fn host_reason(frame: &[u8]) -> Reason {
    let Verdict::Pass(reason) = decide(facts(frame));
    reason
}

fn cut_packets() -> anyhow::Result<()> {
    let bench = Bench::root()?;
    for packet in packets::all() {
        // A long payload adds nothing but runs.
        let lengths = FRAME_BYTES_MIN..=packet.frame.len().min(packet.headers + 8);
        for length in lengths.filter(|length| packet.headers < 256 || length % 64 < 8) {
            let frame = &packet.frame[..length];
            let about = || format!("{}, cut to {length} bytes", packet.name);
            bench.check(frame, host_reason(frame)).with_context(about)?;
        }
    }
    Ok(())
}

fn damaged_packets() -> anyhow::Result<()> {
    const DAMAGES: [u8; 4] = [0x01, 0x10, 0x80, 0xff];
    let bench = Bench::root()?;
    for packet in packets::all() {
        let mut frame = packet.frame.clone();
        for at in 12..packet.headers.min(160) {
            for damage in DAMAGES {
                frame[at] ^= damage;
                let about = || format!("{}, byte {at} damaged by {damage:#x}", packet.name);
                bench.check(&frame, host_reason(&frame)).with_context(about)?;
                frame[at] ^= damage;
            }
        }
    }
    Ok(())
}

fn lab_passes() -> anyhow::Result<()> {
    let bench = Bench::load(objects()?.lab(), LAB_PASS)?;
    for packet in packets::all() {
        bench.pass(&packet.frame).context(packet.name)?;
    }
    Ok(())
}
