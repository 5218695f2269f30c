//! Virtual addresses in the kernel: answered under the lease, by nobody else, and with the bytes
//! that the rules on the host make.

use std::net::{IpAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use aya::maps::{HashMap, ProgramArray};
use aya::programs::Xdp;
use aya::{Ebpf, TestRun as _, TestRunOptions};
use libtest_mimic::Trial;
use pgx_abi::{
    Gate, LINKS, LeaseWord, LinkAddress, PGX_ROOT, PROGRAMS, Program, VIP, VIPS, Vip, XDP_DROP,
    XDP_PASS, XDP_TX,
};
use pgx_bpf::lab::attach_pass;
use pgx_bpf::{Plane, Vips};
use pgx_rules::{Address, Question, advertisement, arp_answer, question};
use pgx_tests::objects::objects;
use pgx_tests::skip::{Requirement, trial};

use crate::packets;
use crate::space::{FAR, FAR_ADDRESS, NEAR, Space, ip, read_ip, verify};

const OWN: [u8; 6] = [2, 0, 0, 0, 0, 9];
const NEVER_NS: u64 = 1_000_000_000_000_000_000;
/// The interface that the kernel's test-run pretends to have got a frame from: loopback.
const INTERFACE: u32 = 1;
/// The stack asks three times, a second apart, before it gives up.
const PATIENCE: Duration = Duration::from_secs(8);

pub(crate) fn trials() -> Vec<Trial> {
    let needs = &[Requirement::Bpf];
    vec![
        trial("address_is_answered_under_its_lease_and_by_nobody_else", needs, answered),
        trial("host_finds_an_address_only_while_its_lease_lasts", &[Requirement::Lab], found),
        trial("question_for_other_addresses_passes_unchanged", needs, others),
    ]
}

struct Bench {
    ebpf: Ebpf,
}

impl Bench {
    fn load() -> anyhow::Result<Self> {
        let mut ebpf = Ebpf::load(objects()?.pgx())?;
        for name in [PGX_ROOT, VIP] {
            let xdp: &mut Xdp = ebpf.program_mut(name).context(name)?.try_into()?;
            verify(|| xdp.load()).with_context(|| format!("load {name}"))?;
        }
        let xdp: &Xdp = ebpf.program(VIP).context("no program")?.try_into()?;
        let fd = xdp.fd()?.try_clone()?;
        let mut programs = ProgramArray::try_from(ebpf.map_mut(PROGRAMS).context("no array")?)?;
        programs.set(Program::Vip as u32, &fd, 0)?;
        let mut links: HashMap<_, u32, LinkAddress> =
            HashMap::try_from(ebpf.map_mut(LINKS).context("no links")?)?;
        let [a, b, c, d, e, f] = OWN;
        links.insert(INTERFACE, [a, b, c, d, e, f, 0, 0], 0)?;
        Ok(Self { ebpf })
    }

    fn hold(&mut self, address: Address, until_ns: u64) -> anyhow::Result<()> {
        let lease = LeaseWord::new(1, until_ns, Gate::Open).context("does not fit")?;
        let map = self.ebpf.map_mut(VIPS).context("no addresses")?;
        let mut vips: HashMap<_, Address, Vip> = HashMap::try_from(map)?;
        Ok(vips.insert(address, Vip { lease }, 0)?)
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
}

fn questions() -> impl Iterator<Item = (packets::Packet, Question)> {
    packets::all().into_iter().filter_map(|packet| {
        let asked = question(&*packet.frame)?;
        Some((packet, asked))
    })
}

fn answered() -> anyhow::Result<()> {
    let mut bench = Bench::load()?;
    let mut count = 0;
    for (packet, asked) in questions() {
        ensure!(bench.run(&packet.frame)?.0 == XDP_PASS, "{}: nobody's", packet.name);
        bench.hold(asked.target(), 1_000_000)?;
        let (verdict, _) = bench.run(&packet.frame)?;
        ensure!(verdict == XDP_DROP, "{}: {verdict} though the lease is over", packet.name);
        bench.hold(asked.target(), NEVER_NS)?;
        let expected = match asked {
            Question::Arp { target, asker, link } => arp_answer(target, asker, link, OWN).to_vec(),
            Question::Solicitation { target, asker, link } => {
                advertisement(target, asker, link, OWN).to_vec()
            }
        };
        let (verdict, bytes) = bench.run(&packet.frame)?;
        ensure!(verdict == XDP_TX && bytes == expected, "{}: {verdict}, {bytes:02x?}", packet.name);
        // Shorter and padded ones get the same answer.
        let padded = [&packet.frame[..], &[0; 18]].concat();
        ensure!(bench.run(&padded)? == (XDP_TX, expected), "{} with padding", packet.name);
        count += 1;
    }
    ensure!(count == 2, "{count} questions in the table");
    Ok(())
}

fn others() -> anyhow::Result<()> {
    let mut bench = Bench::load()?;
    bench.hold([7; 16], NEVER_NS)?;
    for packet in packets::all() {
        let found = bench.run(&packet.frame)?;
        ensure!(found == (XDP_PASS, packet.frame), "{}", packet.name);
    }
    Ok(())
}

/// A real stack asks, on a real cable, and gets its answer from the kernel's program alone.
fn found() -> anyhow::Result<()> {
    Space::run(|space| {
        space.cable("")?;
        let pins = space.pins()?;
        let mut plane = Plane::load(&objects()?, pins.clone())?;
        plane.answer()?;
        plane.attach(NEAR)?;
        // A frame that goes back out of a veth natively needs a program at the other end.
        attach_pass(&objects()?, &pins, FAR)?;
        let mut vips = Vips::open(&pins)?;
        vips.add_interface(NEAR)?;
        let address: IpAddr = "192.0.2.100".parse()?;
        vips.add(address)?;
        let asks = || {
            // Whatever was learned before is forgotten; the datagram makes the stack ask.
            let _ = ip(&format!("neighbour flush dev {FAR}"));
            UdpSocket::bind((FAR_ADDRESS, 0))?.send_to(b"?", (address, 9))?;
            let deadline = Instant::now() + PATIENCE;
            loop {
                let table = read_ip(&format!("neighbour show {address} dev {FAR}"))?;
                if table.contains("REACHABLE") || table.contains("DELAY") {
                    return anyhow::Ok(true);
                }
                if table.contains("FAILED") || Instant::now() > deadline {
                    return Ok(false);
                }
            }
        };
        ensure!(!asks()?, "answered without a lease");
        vips.hold(address, 1, NEVER_NS)?;
        ensure!(asks()?, "not answered under the lease");
        vips.close(address, 1)?;
        ensure!(vips.hold(address, 1, NEVER_NS).is_err(), "a late thread took it again");
        ensure!(!asks()?, "answered after it was closed");
        vips.hold(address, 2, NEVER_NS)?;
        ensure!(asks()?, "not answered by the next holder");
        Ok(())
    })
}
