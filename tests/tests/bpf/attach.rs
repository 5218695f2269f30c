//! Attaching to real interfaces: what survives a restart, and what detaching leaves.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use libtest_mimic::Trial;
use nix::sched::{CloneFlags, unshare};
use pgx_abi::Reason;
use pgx_bpf::{Counters, Mode, Plane, lab, probe};
use pgx_tests::objects::objects;
use pgx_tests::skip::{Requirement, trial};

use crate::space::{NEAR, Space, ip, read_ip};

/// How long packets may take from one end of a veth pair to the other's program.
const ARRIVAL_MAX: Duration = Duration::from_secs(10);

pub(crate) fn trials() -> Vec<Trial> {
    let needs = &[Requirement::Bpf, Requirement::Lab];
    vec![
        trial("counters_and_attachment_survive_a_restart", needs, restart),
        trial("detaching_stops_the_program_and_leaves_no_pin", needs, detach),
        trial("an_interface_is_free_as_soon_as_detaching_returns", needs, detach_at_once),
        trial("an_interface_without_native_xdp_gets_generic_and_says_why", needs, generic),
        trial("a_generic_attachment_is_replaced_in_its_own_mode", needs, generic_again),
        trial("an_interface_that_came_back_is_attached_anew", needs, came_back),
        trial("two_namespaces_can_share_one_file_system", needs, two_namespaces),
        trial("the_probe_tells_native_from_generic_and_touches_nothing", needs, probing),
    ]
}

/// Waits until the program has counted `expected` datagrams, and not one more.
fn await_datagrams(counters: &Counters, expected: u64) -> anyhow::Result<()> {
    let deadline = Instant::now() + ARRIVAL_MAX;
    loop {
        let found = counters.get(Reason::Ipv4Other)?.packets;
        if found == expected {
            return Ok(());
        }
        if found > expected || Instant::now() > deadline {
            bail!("expected {expected} datagrams, counted {found}");
        }
        std::thread::yield_now();
    }
}

fn restart() -> anyhow::Result<()> {
    Space::run(|space| {
        space.cable("")?;
        let mut plane = Plane::load(&objects()?, space.pins()?)?;
        let first = plane.attach(NEAR)?;
        ensure!(first.mode == Mode::Native && !first.is_replacement, "first: {first:?}");
        space.send(5)?;
        await_datagrams(plane.counters(), 5)?;
        let before = program_id()?;

        drop(plane);
        space.send(3)?;
        await_datagrams(&Counters::open(&space.pins()?)?, 8)?;

        let mut plane = Plane::load(&objects()?, space.pins()?)?;
        let second = plane.attach(NEAR)?;
        ensure!(second.mode == Mode::Native && second.is_replacement, "second: {second:?}");
        ensure!(program_id()? != before, "the old program is still there");
        space.send(2)?;
        await_datagrams(plane.counters(), 10)?;

        let counts = plane.counters().read()?;
        ensure!(counts.is_sorted_by_key(|(name, _)| *name), "not sorted: {counts:?}");
        let datagrams = counts.iter().find(|(name, _)| *name == Reason::Ipv4Other.name());
        let (_, counter) = datagrams.context("no such counter")?;
        // Link, IPv4 and UDP header, and three bytes.
        ensure!(counter.bytes == 10 * (14 + 20 + 8 + 3), "{} bytes", counter.bytes);
        Ok(())
    })
}

/// What `ip` says of the program on the near interface: its number in the kernel.
fn program_id() -> anyhow::Result<String> {
    let shown = read_ip(&format!("-details link show dev {NEAR}"))?;
    let mut words = shown.split_whitespace().skip_while(|word| *word != "prog/xdp");
    let id = words.nth(2).with_context(|| format!("no program in: {shown}"))?;
    Ok(id.to_owned())
}

fn detach() -> anyhow::Result<()> {
    Space::run(|space| {
        space.cable("")?;
        let pins = space.pins()?;
        let mut plane = Plane::load(&objects()?, pins.clone())?;
        plane.attach(NEAR)?;
        space.send(1)?;
        await_datagrams(plane.counters(), 1)?;

        ensure!(Plane::detach(&pins, NEAR)?, "there was nothing to detach");
        ensure!(program_id().is_err(), "the program is still attached");
        ensure!(fs::read_dir(pins.dir().join("links"))?.next().is_none(), "a pin is left");
        ensure!(!Plane::detach(&pins, NEAR)?, "it was detached twice");

        let again = plane.attach(NEAR)?;
        ensure!(!again.is_replacement, "attached over nothing: {again:?}");
        space.send(1)?;
        await_datagrams(plane.counters(), 2)?;

        pins.remove()?;
        ensure!(program_id().is_err(), "removing the pins left the program");
        let base = space.mount.join(pgx_abi::PIN_BASE);
        ensure!(!base.exists(), "{} is left", base.display());
        Ok(())
    })
}

fn detach_at_once() -> anyhow::Result<()> {
    // The kernel could free the link just in time once, and not every time.
    const ROUNDS: usize = 20;
    Space::run(|space| {
        space.cable("")?;
        let pins = space.pins()?;
        let mut plane = Plane::load(&objects()?, pins.clone())?;
        for round in 0..ROUNDS {
            plane.attach(NEAR)?;
            Plane::detach(&pins, NEAR)?;
            // Another program, so that nothing of ours could be replaced.
            lab::attach_pass(&objects()?, &pins, NEAR).with_context(|| format!("{round}"))?;
            lab::detach_pass(&pins, NEAR)?;
        }
        Ok(())
    })
}

fn generic() -> anyhow::Result<()> {
    Space::run(|space| {
        let attachment = Plane::load(&objects()?, space.pins()?)?.attach("lo")?;
        ensure!(attachment.mode == Mode::Generic, "{attachment:?}");
        ensure!(attachment.native_refused.is_some(), "no reason: {attachment:?}");
        Ok(())
    })
}

fn generic_again() -> anyhow::Result<()> {
    Space::run(|space| {
        Plane::load(&objects()?, space.pins()?)?.attach("lo")?;
        let again = Plane::load(&objects()?, space.pins()?)?.attach("lo")?;
        ensure!(again.mode == Mode::Generic && again.is_replacement, "{again:?}");
        Ok(())
    })
}

fn came_back() -> anyhow::Result<()> {
    Space::run(|space| {
        let mut plane = Plane::load(&objects()?, space.pins()?)?;
        space.cable("index 100")?;
        plane.attach(NEAR)?;
        ip(&format!("link delete {NEAR}"))?;
        space.cable("index 100")?;
        let again = plane.attach(NEAR)?;
        ensure!(!again.is_replacement, "a link to a dead interface was taken: {again:?}");
        space.send(1)?;
        await_datagrams(plane.counters(), 1)
    })
}

fn two_namespaces() -> anyhow::Result<()> {
    Space::run(|space| {
        let pins = space.pins()?;
        lab::attach_pass(&objects()?, &pins, "lo")?;
        // An open file keeps the first namespace, and so its link, while the thread moves on.
        let first = fs::File::open("/proc/thread-self/ns/net")?;
        unshare(CloneFlags::CLONE_NEWNET)?;
        let second = lab::attach_pass(&objects()?, &pins, "lo")?;
        ensure!(!second.is_replacement, "the other namespace's link was taken: {second:?}");
        let links = fs::read_dir(pins.dir().join("links"))?.count();
        ensure!(links == 2, "{links} links are pinned");
        drop(first);
        Ok(())
    })
}

fn probing() -> anyhow::Result<()> {
    Space::run(|space| {
        space.cable("")?;
        let features = probe(&objects()?, &space.mount, &[NEAR, "lo"]);
        let met: Vec<_> = features.iter().map(|feature| feature.is_met).collect();
        ensure!(met == [true, false, true, true], "{features:#?}");
        ensure!(features[2].found == "native", "{features:#?}");
        ensure!(features[3].found.starts_with("generic only"), "{features:#?}");
        ensure!(program_id().is_err(), "the probe left a program");
        space.pins()?;
        ensure!(probe(&objects()?, &space.mount, &[])[1].is_met, "a mount is not seen");
        Ok(())
    })
}
