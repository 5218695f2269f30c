//! A flood of SYNs and of broken packets to a virtual address, with real sockets beside it: it is
//! counted, and whoever else uses the host does not suffer.

use std::fs;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use etherparse::PacketBuilder;
use libtest_mimic::Trial;
use pgx_bpf::{Counters, Mode, Reason, Wire as Cable};
use pgx_control::ids::NodeId;
use pgx_control::steer::{Proxies, Standing};
use pgx_rules::{Verdict, decide, facts};
use pgx_tests::skip::{Requirement, trial};

use crate::flows::{Flow, PORT, VIPS, World, bind, echo};
use crate::hosts::Host;
use crate::net::wait_for;
use crate::packets;
use crate::space::Space;
use crate::wire::Wire;

/// Sent once at least, and again as long as the others have not been asked often enough.
const SYNS: u32 = 200_000;
/// How often they are asked while the flood lasts.
const ROUNDS_MIN: usize = 3;
/// Where another service listens on the holder's own address.
const SSH_PORT: u16 = 22;
/// Loose, for machines that do more than this: what hangs takes far longer.
const ANSWER_MAX: Duration = Duration::from_secs(3);
/// How broken packets are counted.
const BROKEN: [Reason; 2] = [Reason::Truncated, Reason::Malformed];
/// What a veth takes at a time, with room to spare.
const CHUNK: usize = 64;
/// The test-run of the table takes shorter ones, a packet socket does not.
const FRAME_BYTES_MIN: usize = 15;

pub(crate) fn trials() -> Vec<Trial> {
    let needs = &[Requirement::Bpf, Requirement::Lab];
    vec![trial("flood_to_the_address_is_counted_and_harms_no_other_service", needs, flood)]
}

/// What is thrown at the holder, and how it must be counted.
struct Attack {
    syns: Vec<Vec<u8>>,
    odd: Vec<Vec<u8>>,
}

impl Attack {
    fn on(holder: &Host, attacker: &Host) -> anyhow::Result<Self> {
        let mut syns = Vec::new();
        for number in 0..SYNS {
            syns.push(syn(holder, attacker, number)?);
        }
        let mut odd = Vec::new();
        // The switch takes tags off, and drops what it cannot take them off.
        let is_tagged = |packet: &packets::Packet| {
            packet.frame[12..14] != [8, 0] && packet.frame[12..14] != [0x86, 0xdd]
        };
        for packet in packets::all().into_iter().filter(|packet| !is_tagged(packet)) {
            for length in FRAME_BYTES_MIN..packet.frame.len().min(packet.headers + 4).min(256) {
                let mut frame = packet.frame[..length].to_vec();
                frame[..6].copy_from_slice(&holder.link());
                frame[6..12].copy_from_slice(&attacker.link());
                odd.push(frame);
            }
        }
        Ok(Self { syns, odd })
    }

    /// The odd ones no faster than they are counted, so that none is lost on the way; then the SYNs
    /// as fast as they go, all of them until somebody has seen enough.
    fn run(&self, cable: &Cable, counters: &Counters, ends: &AtomicBool) -> anyhow::Result<()> {
        let counted = || -> anyhow::Result<u64> {
            BROKEN.iter().map(|reason| Ok(counters.get(*reason)?.packets)).sum()
        };
        let mut expected = counted()?;
        for some in self.odd.chunks(CHUNK) {
            some.iter().try_for_each(|frame| push(cable, frame))?;
            expected += BROKEN.iter().map(|reason| count(some, *reason)).sum::<u64>();
            wait_for("broken packets to be counted", || Ok(counted()? >= expected))?;
        }
        loop {
            self.syns.iter().try_for_each(|frame| push(cable, frame))?;
            if ends.load(Ordering::Relaxed) {
                return Ok(());
            }
        }
    }
}

/// Sends one, when there is room for it.
fn push(cable: &Cable, frame: &[u8]) -> anyhow::Result<()> {
    loop {
        match cable.send(frame) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::yield_now(),
            done => return Ok(done?),
        }
    }
}

/// How many of the frames are to be counted so.
fn count(frames: &[Vec<u8>], wanted: Reason) -> u64 {
    let is_wanted = |frame: &&Vec<u8>| {
        let Verdict::Pass(reason) = decide(facts(frame.as_slice()));
        reason == wanted
    };
    frames.iter().filter(is_wanted).count() as u64
}

/// From a host that is not there, so that nobody resets what it opens.
fn syn(holder: &Host, attacker: &Host, number: u32) -> anyhow::Result<Vec<u8>> {
    let ethernet = PacketBuilder::ethernet2(attacker.link(), holder.link());
    let [_, _, high, low] = number.to_be_bytes();
    let port = 1024 + u16::from_be_bytes([high, low]) % 60_000;
    let host = 150 + u8::try_from(number % 100)?;
    let vip: IpAddr = VIPS[number as usize % VIPS.len()].parse()?;
    let addressed = match vip {
        IpAddr::V4(vip) => ethernet.ipv4(Ipv4Addr::new(10, 77, 0, host).octets(), vip.octets(), 64),
        IpAddr::V6(vip) => {
            let from = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 1, host.into());
            ethernet.ipv6(from.octets(), vip.octets(), 64)
        }
    };
    let mut frame = Vec::new();
    addressed.tcp(port, PORT, number, 64_000).syn().write(&mut frame, &[])?;
    Ok(frame)
}

/// Each session answers; the longest time that one took.
fn ask(sessions: &mut [Flow], worst: &mut Duration) -> anyhow::Result<()> {
    for session in sessions {
        let asked = Instant::now();
        ensure!(session.works()?, "a session of {} was reset", session.owner);
        *worst = (*worst).max(asked.elapsed());
    }
    Ok(())
}

/// A switch reads no IP headers; this one would, and drop what is wrong with them.
fn make_switch_blind() -> anyhow::Result<()> {
    for family in ["iptables", "ip6tables"] {
        let setting = format!("/proc/sys/net/bridge/bridge-nf-call-{family}");
        if fs::exists(&setting)? {
            fs::write(setting, "0")?;
        }
    }
    Ok(())
}

fn flood() -> anyhow::Result<()> {
    Space::run(|space| {
        let mut world = World::new(space, Mode::Native)?;
        let serving = Standing::Serving { weight: 1 };
        let living: Proxies = (1..=3).map(|number| (NodeId(number), serving)).collect();
        world.publish(&living)?;
        world.reach(0)?;
        make_switch_blind()?;
        let holder = &world.proxies[0];
        holder.host.run(|| {
            echo(bind("0.0.0.0".parse()?, SSH_PORT)?, 1);
            Ok(())
        })?;
        let attacker = Host::plug("attacker", 200, "")?;
        let attack = Attack::on(&holder.host, &attacker)?;
        let cable = attacker.run(|| Ok(Cable::open("eth0")?))?;

        let wire = Wire::of(&world.client)?;
        let mut sessions = world.open_as_planned()?;
        sessions.push(world.connect("10.77.0.1".parse()?, SSH_PORT)?);
        let [truncated, malformed] = BROKEN;
        let counted = [Reason::SteerHere, Reason::SteerOwner, truncated, malformed];
        let counts = || counted.map(|reason| holder.count(reason));
        let before = counts();
        let counters = Counters::open(&holder.pins)?;
        let (mut worst, mut rounds, ends) = (Duration::ZERO, 0, AtomicBool::new(false));
        thread::scope(|scope| {
            let attack = scope.spawn(|| attack.run(&cable, &counters, &ends));
            let mut go_on = || -> anyhow::Result<()> {
                while !attack.is_finished() {
                    ask(&mut sessions, &mut worst)?;
                    // Who is new gets in as well.
                    sessions.push(world.connect("10.77.0.1".parse()?, SSH_PORT)?);
                    rounds += 1;
                    ends.store(rounds >= ROUNDS_MIN, Ordering::Relaxed);
                }
                Ok(())
            };
            let went = go_on();
            ends.store(true, Ordering::Relaxed);
            attack.join().ok().context("the attack panicked")??;
            went
        })?;
        ask(&mut sessions, &mut worst)?;
        ensure!(rounds >= ROUNDS_MIN, "the flood was over after {rounds} rounds");
        ensure!(worst < ANSWER_MAX, "an answer took {worst:?}");

        let mut grown = Vec::new();
        for (before, after) in before.into_iter().zip(counts()) {
            grown.push(after? - before?);
        }
        let [here, sent, truncated, malformed] = grown[..] else { unreachable!("four counters") };
        // A veth holds few packets, and loses what comes faster than its programs run.
        ensure!(here + sent >= u64::from(SYNS) / 4, "{here} here and {sent} sent on");
        ensure!(here > 0 && sent > 0, "{here} here and {sent} sent on");
        let expected = BROKEN.map(|reason| count(&attack.odd, reason));
        ensure!([truncated, malformed] == expected, "{truncated}, {malformed}, not {expected:?}");
        ensure!(truncated > 1_000 && malformed > 0, "hardly anything odd: {expected:?}");
        let reset = wire.packets()?.into_iter().find(|seen| seen.is_reset);
        ensure!(reset.is_none(), "somebody was reset: {reset:?}");
        eprintln!("{here} SYNs stayed, {sent} were sent on, {} odd packets", attack.odd.len());
        eprintln!("{rounds} rounds of {} sessions, the slowest answer {worst:?}", sessions.len());
        Ok(())
    })
}
