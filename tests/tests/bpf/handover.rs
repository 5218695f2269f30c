//! Another version's pins are taken over under traffic: nothing shuts that is open, nothing opens
//! that is shut.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use libtest_mimic::Trial;
use pgx_bpf::{Error, Gate, Guard, Hook, Keeper, Objects, Options, Pins, Role};
use pgx_tests::objects::objects;
use pgx_tests::skip::{Requirement, trial};

use crate::gate::in_ms;
use crate::space::{NEAR, Space};

const PORT: u16 = 5432;
const ADDRESS: &str = "127.0.0.1:5432";
/// Nothing here takes longer unless it hangs.
const PATIENCE: Duration = Duration::from_secs(5);

pub(crate) fn trials() -> Vec<Trial> {
    let needs = &[Requirement::Bpf, Requirement::Lab];
    vec![
        trial("held_lease_passes_to_a_new_pin_version_without_a_lost_byte", needs, held),
        trial("shut_gate_stays_shut_while_a_new_pin_version_takes_over", needs, shut),
        trial("pins_whose_keeper_lives_are_not_taken_over", needs, living),
        trial("words_of_another_version_are_taken_over_once", needs, once),
        trial("smaller_maps_of_another_version_grow_with_their_words", needs, growth),
    ]
}

fn old_pins(space: &Space) -> anyhow::Result<Pins> {
    space.pins()?;
    Ok(Pins::open_version(&space.mount, pgx_abi::PIN_BASE, "v0")?)
}

/// The fence as another version has left it.
fn old_guard(objects: &Objects, pins: &Pins) -> anyhow::Result<Guard> {
    let options = Options { port: PORT, best: Hook::Native };
    Ok(Guard::raise(objects, pins.clone(), options)?)
}

fn new_guard(space: &Space) -> anyhow::Result<Guard> {
    old_guard(&objects()?, &space.pins()?)
}

/// Serves echoes on one connection and asks for one after another; returns how many came back.
fn talk(is_over: &AtomicBool, count: &AtomicU64) -> anyhow::Result<u64> {
    let listener = TcpListener::bind(ADDRESS)?;
    let mut client = TcpStream::connect(ADDRESS).context("the gate is shut")?;
    let (mut server, _) = listener.accept()?;
    client.set_read_timeout(Some(PATIENCE))?;
    server.set_read_timeout(Some(PATIENCE))?;
    let mut byte = [0];
    while !is_over.load(Ordering::Relaxed) {
        client.write_all(b"?")?;
        server.read_exact(&mut byte)?;
        server.write_all(b"!")?;
        client.read_exact(&mut byte)?;
        TcpStream::connect(ADDRESS).context("a newcomer was turned away")?;
        let (newcomer, _) = listener.accept()?;
        drop(newcomer);
        count.fetch_add(1, Ordering::Relaxed);
    }
    Ok(count.load(Ordering::Relaxed))
}

fn held() -> anyhow::Result<()> {
    Space::run(|space| {
        space.cable("")?;
        let old = old_pins(space)?;
        drop(old_guard(&objects()?, &old)?);
        let mut keeper = Keeper::open(&old)?;
        keeper.close(6)?;
        keeper.lease(Role::Primary, 7, in_ms(60_000)?, Gate::Open)?;
        keeper.set_peers(&["192.0.2.9".parse()?, "fd00::9".parse()?].into())?;
        let before = keeper.standing()?;
        drop(keeper);

        let (is_over, count) = (AtomicBool::new(false), AtomicU64::new(0));
        let during = thread::scope(|scope| -> anyhow::Result<u64> {
            let talk = scope.spawn(|| talk(&is_over, &count));
            let begun = await_count(&count, 10).and_then(|_| new_guard(space));
            let at_the_end = count.load(Ordering::Relaxed);
            let more = begun.and_then(|guard| await_count(&count, at_the_end + 10).map(|_| guard));
            is_over.store(true, Ordering::Relaxed);
            let talked = talk.join().expect("it does not panic").context("traffic broke")?;
            more.map(|_| talked)
        })?;
        ensure!(during > 20, "{during} rounds");
        ensure!(!old.dir().exists(), "the old pins are still there");
        let mut keeper = Keeper::open(&space.pins()?)?;
        ensure!(keeper.standing()? == before, "{:?}, not {before:?}", keeper.standing()?);
        // The new words are those that the programs go by.
        keeper.close(7)?;
        let listener = TcpListener::bind(ADDRESS)?;
        ensure!(TcpStream::connect(ADDRESS).is_err(), "the old words still count");
        drop(listener);
        Ok(())
    })
}

fn await_count(count: &AtomicU64, least: u64) -> anyhow::Result<u64> {
    let start = Instant::now();
    loop {
        let found = count.load(Ordering::Relaxed);
        if found >= least {
            return Ok(found);
        }
        ensure!(start.elapsed() < PATIENCE, "only {found} of {least} rounds");
        thread::yield_now();
    }
}

fn shut() -> anyhow::Result<()> {
    Space::run(|space| {
        let old = old_pins(space)?;
        drop(old_guard(&objects()?, &old)?);
        let _listener = TcpListener::bind(ADDRESS)?;
        let is_over = AtomicBool::new(false);
        let tried = thread::scope(|scope| -> anyhow::Result<u64> {
            let knock = scope.spawn(|| -> anyhow::Result<u64> {
                let mut tried = 0;
                while !is_over.load(Ordering::Relaxed) {
                    ensure!(TcpStream::connect(ADDRESS).is_err(), "attempt {tried} got in");
                    tried += 1;
                }
                Ok(tried)
            });
            let raised = new_guard(space);
            is_over.store(true, Ordering::Relaxed);
            let tried = knock.join().expect("it does not panic")?;
            raised.map(|_| tried)
        })?;
        ensure!(tried > 10, "{tried} attempts");
        ensure!(!old.dir().exists(), "the old pins are still there");
        Ok(())
    })
}

fn living() -> anyhow::Result<()> {
    Space::run(|space| {
        let old = old_pins(space)?;
        drop(old_guard(&objects()?, &old)?);
        let keeper = Keeper::open(&old)?;
        let options = Options { port: PORT, best: Hook::Native };
        match Guard::raise(&objects()?, space.pins()?, options) {
            Err(Error::KeeperBusy { .. }) => {}
            Err(other) => return Err(other.into()),
            Ok(_) => anyhow::bail!("taken over from a living keeper"),
        }
        drop(keeper);
        new_guard(space).map(drop)
    })
}

/// A link that this version has no program for stays, and the other version's folder with it. What
/// was written since the take-over must not be written over by what is still in there.
fn once() -> anyhow::Result<()> {
    Space::run(|space| {
        let old = old_pins(space)?;
        drop(old_guard(&objects()?, &old)?);
        let links = old.dir().join("links");
        let link = std::fs::read_dir(&links)?.next().context("no link")??.path();
        std::fs::rename(link, links.join("pgx_later-1-1"))?;
        let mut keeper = Keeper::open(&old)?;
        keeper.lease(Role::Primary, 5, in_ms(60_000)?, Gate::Open)?;
        drop(keeper);
        drop(new_guard(space)?);
        ensure!(links.join("pgx_later-1-1").exists(), "a foreign link was removed");

        let mut keeper = Keeper::open(&space.pins()?)?;
        ensure!(keeper.standing()?.primary.epoch() == 5, "not taken over");
        keeper.fence(5)?;
        keeper.lease(Role::Primary, 6, in_ms(60_000)?, Gate::Open)?;
        let before = keeper.standing()?;
        // Another process, as `pgx fence shut` is, and then the next start.
        drop(new_guard(space)?);
        ensure!(keeper.standing()? == before, "{:?}, not {before:?}", keeper.standing()?);
        drop(keeper);
        drop(new_guard(space)?);
        let after = Keeper::open(&space.pins()?)?.standing()?;
        ensure!(after == before, "{after:?}, not {before:?}");
        std::fs::remove_file(links.join("pgx_later-1-1"))?;
        Ok(())
    })
}

/// The objects with the lists of addresses made smaller, as an earlier version had them.
fn smaller(space: &Space) -> anyhow::Result<Objects> {
    // Key size, value size and slots of the two lists, as they stand in the object's maps section.
    let list = [16_u32, 8, pgx_abi::PEERS_MAX].map(u32::to_ne_bytes).concat();
    let small = [16_u32, 8, 16].map(u32::to_ne_bytes).concat();
    let ours = objects()?;
    let mut pgx = ours.pgx().to_vec();
    let mut at = 0;
    let mut found = 0;
    while let Some(next) = pgx[at..].windows(list.len()).position(|bytes| bytes == list) {
        at += next;
        pgx[at..at + small.len()].copy_from_slice(&small);
        found += 1;
    }
    ensure!(found >= 2, "{found} lists in the object");
    let dir = space.mount.with_extension("smaller");
    std::fs::create_dir(&dir)?;
    let written = std::fs::write(dir.join("pgx.o"), pgx);
    let written = written.and_then(|()| std::fs::write(dir.join("lab.o"), ours.lab()));
    let objects = Objects::from_dir(&dir);
    std::fs::remove_dir_all(&dir)?;
    written?;
    Ok(objects?)
}

fn growth() -> anyhow::Result<()> {
    Space::run(|space| {
        space.cable("")?;
        let old = old_pins(space)?;
        drop(old_guard(&smaller(space)?, &old)?);
        let many: std::collections::BTreeSet<std::net::IpAddr> =
            (1..=40).map(|host| std::net::IpAddr::from([192, 0, 2, host])).collect();
        let few = many.iter().copied().take(10).collect();
        let mut keeper = Keeper::open(&old)?;
        keeper.lease(Role::Member, 3, in_ms(60_000)?, Gate::Open)?;
        keeper.set_peers(&few)?;
        ensure!(keeper.set_peers(&many).is_err(), "the old list is not smaller");
        keeper.set_peers(&few)?;
        let before = keeper.standing()?;
        drop(keeper);
        let guard = new_guard(space)?;
        ensure!(guard.places().any(|place| place.at.to_string() == NEAR && place.is_guarded()));
        let mut keeper = Keeper::open(&space.pins()?)?;
        ensure!(keeper.standing()? == before, "{:?}", keeper.standing()?);
        keeper.set_peers(&many).context("the list has not grown")?;
        Ok(())
    })
}
