//! Runs the fixtures: interleaved, in rounds, and the least of the rounds counts, because whatever
//! else the machine does only adds to it.
//!
//! The kernel repeats a run over what the last one left. So where the packet is rewritten, a
//! program of the lab makes it anew and then goes on to the program in question; what that costs is
//! measured with an empty program behind it, and taken off.

use anyhow::Context as _;
use aya::maps::{Array, MapData, ProgramArray};
use aya::programs::{Program as Loaded, ProgramFd, Xdp};
use aya::{Ebpf, EbpfLoader, TestRun as _, TestRunOptions, TestRunResult};
use pgx_abi::{
    LAB_AGAIN, LAB_AGAIN_TC, LAB_FRAME, LAB_NEXT, LAB_NEXT_TC, LAB_PASS, LAB_PASS_CGROUP,
    LAB_PASS_TC, LabFrame, PROGRAMS, STEER_FLOWS,
};
use serde::Serialize;

use super::fixtures::{BEHIND_ROOT, Fixture, fixtures};
use super::load;
use crate::objects::objects;

/// Rounds that the repeats are spread over.
const ROUNDS: u32 = 20;
/// Longest answer to a fixture's packet, in bytes beyond the packet.
const ROOM: usize = 64;
/// Flows that a fixture's map holds: the real size would take long to make for each of them.
const FLOWS: u32 = 1024;

/// What a fixture gave.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// The program.
    pub program: &'static str,
    /// The fixture.
    pub fixture: String,
    /// What became of the packet, in the kernel's words.
    pub verdict: String,
    /// Nanoseconds a packet, with those of an empty program in it.
    pub ns: f64,
    /// What the verifier walked of the program.
    pub verified_instructions: u32,
}

/// A fixture that can be run.
struct Ready {
    program: &'static str,
    fixture: String,
    frame: Vec<u8>,
    verdict: String,
    verified_instructions: u32,
    ebpf: Ebpf,
    /// Where the packet is made anew, by whom, and by whom without the program in question.
    again: Option<[(Ebpf, &'static str); 2]>,
    /// The least of all rounds: the program's, or that of both in `again`.
    least_ns: [f64; 2],
}

/// Runs every fixture `repeats` times. The first rows are those of empty programs.
///
/// # Errors
/// When a program cannot be loaded or run.
pub fn measure(repeats: u32) -> anyhow::Result<Vec<Row>> {
    let empty = [LAB_PASS, LAB_PASS_TC, LAB_PASS_CGROUP].map(empty);
    let mut all = empty.into_iter().collect::<anyhow::Result<Vec<_>>>()?;
    for fixture in fixtures() {
        let name = fixture.name.clone();
        all.push(ready(fixture).with_context(|| name)?);
    }
    for _ in 0..ROUNDS {
        for each in &mut all {
            each.round(repeats.div_ceil(ROUNDS)).with_context(|| each.fixture.clone())?;
        }
    }
    let empty_ns: Vec<_> = all.iter().take(2).map(|each| each.least_ns[0]).collect();
    let rows = all.into_iter().map(|each| {
        let [with, without] = each.least_ns;
        let ns = match &each.again {
            None => with,
            Some([(_, LAB_AGAIN_TC), _]) => with - without + empty_ns[1],
            Some(_) => with - without + empty_ns[0],
        };
        let Ready { program, fixture, verdict, verified_instructions, .. } = each;
        Row { program, fixture, verdict, ns, verified_instructions }
    });
    Ok(rows.collect())
}

impl Ready {
    fn round(&mut self, repeats: u32) -> anyhow::Result<()> {
        let runs = match &self.again {
            None => vec![(&self.ebpf, self.program)],
            Some(both) => both.iter().map(|(ebpf, name)| (ebpf, *name)).collect(),
        };
        for ((ebpf, name), least) in runs.into_iter().zip(&mut self.least_ns) {
            let program = ebpf.program(name).context(name)?;
            let took = run(program, &self.frame, None, repeats)?.duration;
            *least = least.min(took.as_secs_f64() * 1e9);
        }
        Ok(())
    }
}

fn empty(program: &'static str) -> anyhow::Result<Ready> {
    let mut ebpf = Ebpf::load(objects()?.lab())?;
    let verified_instructions = load(&mut ebpf, program)?;
    let fixture = "nothing is done".to_owned();
    finish(program, fixture, vec![0; 74], ebpf, verified_instructions)
}

fn ready(fixture: Fixture) -> anyhow::Result<Ready> {
    let Fixture { program, name, frame, is_chain, prepare } = fixture;
    let mut loader = EbpfLoader::new();
    let mut ebpf = loader.map_max_entries(STEER_FLOWS, FLOWS).load(objects()?.pgx())?;
    let verified_instructions = load(&mut ebpf, program)?;
    if is_chain {
        install(&mut ebpf)?;
    }
    prepare(&mut ebpf, &frame)?;
    finish(program, name, frame, ebpf, verified_instructions)
}

fn finish(
    program: &'static str,
    fixture: String,
    frame: Vec<u8>,
    ebpf: Ebpf,
    verified_instructions: u32,
) -> anyhow::Result<Ready> {
    let loaded = ebpf.program(program).context(program)?;
    let mut output = vec![0; frame.len() + ROOM];
    let first = run(loaded, &frame, Some(&mut output), 1)?;
    let length = usize::try_from(first.data_size_out)?;
    // A cgroup's program cannot write, and its packet comes back without its link header.
    let may_write = !matches!(loaded, Loaded::CgroupSkb(_));
    let is_rewritten = may_write && output.get(..length) != Some(&*frame);
    let verdict = verdict(loaded, first.return_value);
    let again = is_rewritten.then(|| again(loaded, &frame)).transpose()?;
    let least_ns = [f64::MAX; 2];
    Ok(Ready { program, fixture, frame, verdict, verified_instructions, ebpf, again, least_ns })
}

/// The lab's program before this one, and before an empty one.
fn again(program: &Loaded, frame: &[u8]) -> anyhow::Result<[(Ebpf, &'static str); 2]> {
    let (name, next, empty) = match program {
        Loaded::Xdp(_) => (LAB_AGAIN, LAB_NEXT, LAB_PASS),
        _ => (LAB_AGAIN_TC, LAB_NEXT_TC, LAB_PASS_TC),
    };
    let frame = LabFrame::of(frame).context("the packet is too long")?;
    let make = |of: Option<&ProgramFd>| -> anyhow::Result<(Ebpf, &'static str)> {
        let mut ebpf = Ebpf::load(objects()?.lab())?;
        load(&mut ebpf, name)?;
        load(&mut ebpf, empty)?;
        let fd = match of {
            Some(fd) => fd.try_clone()?,
            None => ebpf.program(empty).context(empty)?.fd()?.try_clone()?,
        };
        let map = ebpf.map_mut(LAB_FRAME).context(LAB_FRAME)?;
        Array::<_, LabFrame>::try_from(map)?.set(0, frame, 0)?;
        let mut programs: ProgramArray<&mut MapData> =
            ebpf.map_mut(next).context(next)?.try_into()?;
        programs.set(0, &fd, 0)?;
        Ok((ebpf, name))
    };
    Ok([make(Some(program.fd()?))?, make(None)?])
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

fn install(ebpf: &mut Ebpf) -> anyhow::Result<()> {
    for (place, name) in BEHIND_ROOT {
        // The one that is measured is there already.
        if ebpf.program(name).context(name)?.fd().is_err() {
            load(ebpf, name)?;
        }
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
