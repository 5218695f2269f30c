//! Virtual addresses that are taken, moved and let go between real hosts: what the network hears
//! and what clients make of it.

use std::io::{BufRead as _, BufReader};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use etherparse::{ArpHardwareId, ArpPacket, EtherType, PacketBuilder};
use libtest_mimic::Trial;
use pgx_bpf::{Mode as XdpMode, Pins, Plane, Wire};
use pgx_tests::objects::objects;
use pgx_tests::skip::{Requirement, trial};
use pgx_vip::{Holder, Lease, LeaseId, Mode, Role, Settings, boot_ns};

use crate::net::{Cable, ETH, Ear, Heard, Host, Net, Saying, wait_for};
use crate::space::{Space, ip};

const LEASE: LeaseId = LeaseId(1);
const VIPS: [&str; 2] = ["192.0.2.200", "fd00::200"];
const MS: u64 = 1_000_000;
/// How far the times of two clocks may be apart that are read one after the other.
const TOLERANCE_NS: u64 = MS;
/// Longer than any of these tests.
const LONG_NS: u64 = 600_000 * MS;
/// Names what the program is to hold when it runs as the helper of a test.
const HELPER: &str = "PGX_TEST_HOLDS";

pub(crate) fn trials() -> Vec<Trial> {
    let needs = &[Requirement::Bpf, Requirement::Lab];
    let address = &[Requirement::Lab];
    vec![
        trial("questions_are_answered_under_the_lease_only_natively", needs, || {
            answered(Cable::Native)
        }),
        trial("questions_are_answered_under_the_lease_only_generically", needs, || {
            answered(Cable::Generic)
        }),
        trial("taking_an_address_moves_the_neighbours_of_clients", needs, || moved(Mode::Xdp)),
        trial("address_mode_moves_the_neighbours_of_clients", address, || moved(Mode::Address)),
        trial("address_mode_works_where_xdp_mode_was_before", needs, mode_changed),
        trial("address_goes_by_its_deadline_though_nobody_asks", address, deadline),
        trial("kernel_takes_the_address_of_a_killed_holder_off", address, killed),
        trial("stack_is_silent_about_addresses_on_loopback", needs, silent),
        trial("what_an_unclean_stop_left_is_undone_at_the_next_start", needs, unclean),
    ]
}

fn vips() -> anyhow::Result<Vec<IpAddr>> {
    Ok(VIPS.iter().map(|text| text.parse()).collect::<Result<_, _>>()?)
}

fn settings(mode: Mode, record: PathBuf) -> anyhow::Result<Settings> {
    let lease = Lease { id: LEASE, role: Role::ReadWrite, addresses: vips()? };
    let interface = ETH.to_owned();
    Ok(Settings { interface, mode, program: None, leases: vec![lease], record })
}

/// A holder on a host, with what it stands on.
struct Station {
    holder: Holder,
    _plane: Option<Plane>,
}

impl Station {
    fn start(
        space: &Space,
        net: &Net,
        host: &Host,
        name: &str,
        mode: Mode,
    ) -> anyhow::Result<Self> {
        let record = net.files.path().join(format!("{name}.json"));
        host.run(|| {
            let pins = pins(space, name)?;
            let plane = (mode == Mode::Xdp).then(|| plane(&pins)).transpose()?;
            let holder = Holder::start(&settings(mode, record)?, Some(&pins))?;
            Ok(Self { holder, _plane: plane })
        })
    }

    fn is_taken(&self) -> bool {
        self.holder.status().iter().all(|lease| lease.is_taken)
    }
}

fn pins(space: &Space, name: &str) -> anyhow::Result<Pins> {
    Ok(Pins::open(&space.mount, name)?)
}

fn plane(pins: &Pins) -> anyhow::Result<Plane> {
    let mut plane = Plane::load(&objects()?, pins.clone())?;
    plane.answer()?;
    plane.attach(ETH)?;
    Ok(plane)
}

/// Asks for both addresses, as a client's stack would, until `until_ns`, and returns what is heard.
/// The second value says how often was asked.
fn ask_until(ear: &Ear, wire: &Wire, until_ns: u64) -> anyhow::Result<(Vec<Heard>, usize)> {
    let own = wire.link_address();
    let (mut heard, mut count) = (Vec::new(), 0);
    while boot_ns() < until_ns {
        for vip in vips()? {
            wire.send(&question(vip, own)?)?;
        }
        count += 1;
        heard.extend(ear.rest()?);
    }
    Ok((heard, count))
}

fn question(vip: IpAddr, own: [u8; 6]) -> anyhow::Result<Vec<u8>> {
    let mut frame = Vec::new();
    match vip {
        IpAddr::V4(vip) => {
            let (ask, ours) = (etherparse::ArpOperation::REQUEST, [192, 0, 2, 100]);
            let (kind, ipv4) = (ArpHardwareId::ETHERNET, EtherType::IPV4);
            let arp = ArpPacket::new(kind, ipv4, ask, &own, &ours, &[0; 6], &vip.octets())?;
            PacketBuilder::ethernet2(own, [0xff; 6]).arp(arp).write(&mut frame)?;
        }
        IpAddr::V6(vip) => {
            let [.., a, b, c] = vip.octets();
            let link = PacketBuilder::ethernet2(own, [0x33, 0x33, 0xff, a, b, c]);
            let group = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c];
            let ours = "fd00::100".parse::<std::net::Ipv6Addr>()?.octets();
            let body = [&vip.octets()[..], &[1, 1], &own].concat();
            link.ipv6(ours, group, 255).icmpv6_raw(135, 0, [0; 4]).write(&mut frame, &body)?;
        }
    }
    Ok(frame)
}

fn of(heard: &[Heard], saying: Saying, vip: IpAddr) -> Vec<Heard> {
    let matching = |each: &&Heard| each.saying == saying && each.address == vip;
    heard.iter().filter(matching).copied().collect()
}

fn answered(cable: Cable) -> anyhow::Result<()> {
    Space::run(|space| {
        let net = Net::make(space, cable)?;
        let station = Station::start(space, &net, &net.one, "one", Mode::Xdp)?;
        let mode = net.one.run(|| Ok(plane(&pins(space, "one")?)?.attach(ETH)?.mode))?;
        let expected = if cable == Cable::Native { XdpMode::Native } else { XdpMode::Generic };
        ensure!(mode == expected, "{mode} at a cable for {expected}");
        station.holder.set_serving(true);
        wait_for("addresses on loopback", || {
            Ok(station.holder.loopback_status().is_some_and(|status| status.is_up))
        })?;
        let own = net.one.link_address()?;
        net.client.run(|| {
            let (ear, wire) = (Ear::open(Duration::from_millis(1))?, Wire::open(ETH)?);
            let (heard, count) = ask_until(&ear, &wire, boot_ns() + 200 * MS)?;
            ensure!(count >= 5, "asked {count} times only");
            for vip in vips()? {
                let early = of(&heard, Saying::Answer, vip);
                ensure!(early.is_empty(), "answered without a lease: {early:?}");
            }
            let until_ns = boot_ns() + 400 * MS;
            station.holder.hold(LEASE, 1, until_ns)?;
            let (mut heard, _) = ask_until(&ear, &wire, until_ns)?;
            let (late, count) = ask_until(&ear, &wire, until_ns + 300 * MS)?;
            ensure!(count >= 5, "asked {count} times only after the end");
            heard.extend(late);
            for vip in vips()? {
                let answers = of(&heard, Saying::Answer, vip);
                let told = of(&heard, Saying::Announcement, vip);
                ensure!(answers.len() >= 5, "{vip}: {} answers", answers.len());
                ensure!(told.len() >= 2, "{vip}: {} announcements", told.len());
                for each in answers.iter().chain(&told) {
                    let late_ns = each.at_ns.saturating_sub(until_ns);
                    ensure!(late_ns <= TOLERANCE_NS, "{late_ns} ns late: {each:?}");
                    ensure!(each.link == own, "from elsewhere: {each:?}");
                }
            }
            Ok(())
        })?;
        ensure!(!station.is_taken(), "still taken");
        Ok(())
    })
}

/// The client's entry goes from one host to the other, without the client asking anything.
fn moved(mode: Mode) -> anyhow::Result<()> {
    Space::run(|space| {
        let net = Net::make(space, Cable::Native)?;
        let one = Station::start(space, &net, &net.one, "one", mode)?;
        let two = Station::start(space, &net, &net.two, "two", mode)?;
        let text = |link: [u8; 6]| link.map(|byte| format!("{byte:02x}")).join(":");
        let (at_one, at_two) = (text(net.one.link_address()?), text(net.two.link_address()?));
        one.holder.hold(LEASE, 1, boot_ns() + LONG_NS)?;
        wait_for("the first host has taken them", || Ok(one.is_taken()))?;
        for vip in vips()? {
            net.client.send_to(vip)?;
            wait_for("the client knows the first host", || {
                Ok(net.client.neighbour(vip)?.is_some_and(|link| link == at_one))
            })?;
        }
        let ear = net.client.run(|| Ear::open(Duration::from_millis(1)))?;
        one.holder.release(LEASE, 1)?;
        wait_for("the first host has let them go", || Ok(!one.is_taken()))?;
        ear.rest()?;
        two.holder.hold(LEASE, 2, boot_ns() + LONG_NS)?;
        let mut heard = Vec::new();
        for vip in vips()? {
            wait_for("the client knows the second host", || {
                Ok(net.client.neighbour(vip)?.is_some_and(|link| link == at_two))
            })?;
            heard.extend(ear.rest()?);
            let asked = of(&heard, Saying::Question, vip);
            ensure!(asked.is_empty(), "the client had to ask: {asked:?}");
            ensure!(!of(&heard, Saying::Announcement, vip).is_empty(), "{vip} was not announced");
        }
        let refused = one.holder.hold(LEASE, 1, boot_ns() + LONG_NS);
        ensure!(refused.is_err(), "a late thread took them again");
        Ok(())
    })
}

/// The programs of the first run stay attached when it ends.
fn mode_changed() -> anyhow::Result<()> {
    Space::run(|space| {
        let net = Net::make(space, Cable::Native)?;
        let station = Station::start(space, &net, &net.one, "one", Mode::Xdp)?;
        station.holder.hold(LEASE, 1, boot_ns() + LONG_NS)?;
        wait_for("taken by XDP", || Ok(station.is_taken()))?;
        drop(station);
        let station = Station::start(space, &net, &net.one, "one", Mode::Address)?;
        station.holder.hold(LEASE, 2, boot_ns() + LONG_NS)?;
        wait_for("taken as an address", || Ok(station.is_taken()))?;
        // Asked for, not only announced: a program that drops questions would hide behind that.
        let (heard, _) = net.client.run(|| {
            let (ear, wire) = (Ear::open(Duration::from_millis(1))?, Wire::open(ETH)?);
            ask_until(&ear, &wire, boot_ns() + 300 * MS)
        })?;
        for vip in vips()? {
            let answers = of(&heard, Saying::Answer, vip);
            ensure!(!answers.is_empty(), "{vip}: the stack does not answer");
        }
        Ok(())
    })
}

fn deadline() -> anyhow::Result<()> {
    Space::run(|space| {
        let net = Net::make(space, Cable::Native)?;
        let station = Station::start(space, &net, &net.one, "one", Mode::Address)?;
        let until_ns = boot_ns() + 500 * MS;
        station.holder.hold(LEASE, 1, until_ns)?;
        for vip in vips()? {
            wait_for("the address is there", || net.one.has(ETH, vip))?;
        }
        ensure!(boot_ns() < until_ns, "too slow a machine to tell");
        for vip in vips()? {
            wait_for("the address is gone", || Ok(!net.one.has(ETH, vip)?))?;
        }
        let late_ns = boot_ns().saturating_sub(until_ns);
        // The kernel alone would need a second more.
        ensure!(boot_ns() >= until_ns && late_ns < 400 * MS, "gone {late_ns} ns after its end");
        Ok(())
    })
}

/// Runs as another process what is to be killed; returns whether this process is that one.
pub(crate) fn helper() -> anyhow::Result<bool> {
    let Ok(text) = std::env::var(HELPER) else { return Ok(false) };
    let words: Vec<_> = text.split(' ').collect();
    let [mode, mount, record, hold_ms] = &words[..] else { anyhow::bail!("{text:?}") };
    let mode = if *mode == "xdp" { Mode::Xdp } else { Mode::Address };
    let pins = Pins::open(Path::new(mount), "killed")?;
    let _plane = (mode == Mode::Xdp).then(|| plane(&pins)).transpose()?;
    let holder = Holder::start(&settings(mode, PathBuf::from(record))?, Some(&pins))?;
    let until_ns = boot_ns() + hold_ms.parse::<u64>()? * MS;
    holder.hold(LEASE, 1, until_ns)?;
    holder.set_serving(true);
    wait_for("taken", || {
        let is_up = holder.loopback_status().is_none_or(|status| status.is_up);
        Ok(is_up && holder.status().iter().all(|lease| lease.is_taken))
    })?;
    println!("{until_ns}");
    // Until it is killed.
    loop {
        std::thread::park();
    }
}

/// Starts the helper on a host; returns until when it holds the addresses.
fn start_helper(host: &Host, what: &str) -> anyhow::Result<(Child, u64)> {
    host.run(|| {
        let mut command = Command::new(std::env::current_exe()?);
        let mut child = command.env(HELPER, what).stdout(Stdio::piped()).spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("no output")?).read_line(&mut line)?;
        let until_ns = line.trim().parse().with_context(|| format!("the helper says {line:?}"))?;
        Ok((child, until_ns))
    })
}

fn killed() -> anyhow::Result<()> {
    Space::run(|space| {
        let net = Net::make(space, Cable::Native)?;
        let record = net.files.path().join("one.json");
        let what = format!("address {} {} 1000", space.mount.display(), record.display());
        let (mut child, until_ns) = start_helper(&net.one, &what)?;
        child.kill()?;
        child.wait()?;
        for vip in vips()? {
            ensure!(net.one.has(ETH, vip)? || boot_ns() >= until_ns, "{vip} gone early");
        }
        for vip in vips()? {
            wait_for("the kernel takes the address off", || Ok(!net.one.has(ETH, vip)?))?;
        }
        let late_ns = boot_ns().saturating_sub(until_ns);
        ensure!(late_ns < 2_500 * MS, "{} ms after its end", late_ns / MS);
        Ok(())
    })
}

/// Addresses on loopback with no program on the interface: who keeps silent is the stack.
fn silent() -> anyhow::Result<()> {
    Space::run(|space| {
        let net = Net::make(space, Cable::Native)?;
        let ask = |expected: bool| {
            net.client.run(|| {
                let (ear, wire) = (Ear::open(Duration::from_millis(1))?, Wire::open(ETH)?);
                let (heard, _) = ask_until(&ear, &wire, boot_ns() + 100 * MS)?;
                let answers = of(&heard, Saying::Answer, vips()?[0]);
                ensure!(answers.is_empty() != expected, "{} answers", answers.len());
                Ok(())
            })
        };
        let vip = VIPS[0];
        net.one.run(|| ip(&format!("address add {vip}/32 dev lo")))?;
        ask(true).context("without silence; else this test shows nothing")?;
        net.one.run(|| ip(&format!("address delete {vip}/32 dev lo")))?;
        let station = Station::start(space, &net, &net.one, "one", Mode::Xdp)?;
        net.one.run(|| ip(&format!("link set {ETH} xdp off")).or_else(|_| detach(space)))?;
        let is_up = || Ok(station.holder.loopback_status().is_some_and(|status| status.is_up));
        station.holder.set_serving(true);
        wait_for("the addresses are on loopback", is_up)?;
        ensure!(net.one.has("lo", vip.parse()?)?, "not on loopback");
        ask(false)?;
        let groups = net.one.run(|| crate::space::read_ip(&format!("maddress show dev {ETH}")))?;
        ensure!(groups.contains("ff02::1:ff00:200"), "not in the group: {groups}");

        station.holder.set_serving(false);
        wait_for("the addresses are off loopback", || Ok(!net.one.has("lo", vip.parse()?)?))?;
        drop(station);
        ensure!(arp_settings(&net.one)? == ["0", "0"], "not restored");
        Ok(())
    })
}

fn detach(space: &Space) -> anyhow::Result<()> {
    Plane::detach(&pins(space, "one")?, ETH)?;
    Ok(())
}

fn arp_settings(host: &Host) -> anyhow::Result<Vec<String>> {
    host.run(|| {
        let all = ["arp_ignore", "arp_announce"]
            .map(|name| std::fs::read_to_string(format!("/proc/sys/net/ipv4/conf/all/{name}")));
        all.into_iter().map(|text| Ok(text?.trim().to_owned())).collect()
    })
}

fn unclean() -> anyhow::Result<()> {
    Space::run(|space| {
        let net = Net::make(space, Cable::Native)?;
        let record = net.files.path().join("one.json");
        let what = format!("xdp {} {} 60000", space.mount.display(), record.display());
        let (mut child, _) = start_helper(&net.one, &what)?;
        child.kill()?;
        child.wait()?;
        for vip in vips()? {
            ensure!(net.one.has("lo", vip)?, "{vip} did not stay: nothing to undo");
        }
        ensure!(arp_settings(&net.one)? == ["1", "2"], "not silent");
        // The next start is of another mode: what was left is undone all the same.
        let next =
            net.one.run(|| Ok(Holder::start(&settings(Mode::None, record.clone())?, None)?))?;
        for vip in vips()? {
            ensure!(!net.one.has("lo", vip)?, "{vip} is still there");
        }
        ensure!(arp_settings(&net.one)? == ["0", "0"], "not restored");
        ensure!(!record.exists(), "the record is still there");
        drop(next);
        Ok(())
    })
}
