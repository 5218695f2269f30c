//! A pgx that is killed in the middle of a step: the next one repeats the step, and no harm is
//! done.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail, ensure};

use crate::Test;
use crate::nodes::{Nodes, incarnation};
use crate::postgres::hands::Hands;
use crate::postgres::{Abort, Peer, process};
use crate::rebuild::{SECOND, check_follows, check_restored, diverged};

/// What a process that this program starts is to do.
const WORK: &str = "PGX_TEST_WORK";

/// So many milliseconds it has for that, one after another.
const LIVES_MS: [u64; 7] = [5, 25, 60, 120, 250, 450, 800];

pub(crate) fn tests() -> Vec<(&'static str, Test)> {
    vec![
        ("rebuild_that_was_killed_is_repeated", rebuilt),
        ("copy_that_was_killed_is_repeated_and_loses_nothing", copied),
        ("restore_that_was_killed_is_repeated_and_loses_nothing", restored),
        ("founding_that_was_killed_is_repeated", founded),
        ("changes_of_settings_that_were_killed_are_repeated", changed),
    ]
}

/// The work of a process that is to be killed, if this is one.
pub(crate) fn work() -> Option<anyhow::Result<()>> {
    let order = std::env::var(WORK).ok()?;
    Some(carry_out(&order))
}

fn carry_out(order: &str) -> anyhow::Result<()> {
    let (what, place, port) = {
        let mut words = order.split('|');
        let mut next = || words.next().context("a word is missing").map(str::to_owned);
        (next()?, next()?, next()?.parse()?)
    };
    let (number, ports, folder) = {
        let mut words = place.split(',');
        let mut next = || words.next().context("a word is missing").map(str::to_owned);
        (next()?.parse::<usize>()?, next()?.parse::<u16>()?, next()?)
    };
    let place = Nodes::place_in(folder.as_ref(), number, ports)?;
    let hands = Hands::new(place, Abort::default());
    let node = pgx_control::ids::NodeId(1);
    let upstream = Peer { node, host: "127.0.0.1".to_owned(), port };
    match what.as_str() {
        "rebuild" => hands.rebuild(&upstream, SECOND, &mut |_| {}).map(drop)?,
        "copy" => hands.copy(&upstream, incarnation(0), SECOND, &mut |_| {})?,
        "restore" => hands.restore(incarnation(0))?,
        "found" => hands.found(incarnation(0), &["--no-sync".to_owned()])?,
        "change" => loop {
            hands.detach()?;
            hands.follow(&upstream)?;
        },
        other => bail!("{other}?"),
    }
    Ok(())
}

fn begin(what: &str, nodes: &Nodes, port: u16) -> anyhow::Result<Child> {
    let place = &nodes.all[0].place;
    let order = format!("{what}|0,{},{}|{port}", place.port, nodes.folder().display());
    let mut command = Command::new(std::env::current_exe()?);
    command.env(WORK, order).stdout(Stdio::null()).stderr(Stdio::null());
    Ok(command.spawn()?)
}

/// Lets a process do it for so long, then kills it. Whether it was done by then.
fn for_ms(what: &str, nodes: &Nodes, port: u16, ms: u64) -> anyhow::Result<bool> {
    let mut child = begin(what, nodes, port)?;
    let handle = process::open(i32::try_from(child.id())?);
    let ended = handle.is_none_or(|handle| process::wait(&handle, Duration::from_millis(ms)));
    child.kill()?;
    let status = child.wait()?;
    ensure!(!ended || status.success(), "{what} failed");
    Ok(ended)
}

fn rebuilt() -> anyhow::Result<()> {
    let mut nodes = diverged()?;
    let upstream = nodes.all[1].peer();
    for ms in LIVES_MS {
        if for_ms("rebuild", &nodes, upstream.port, ms)? {
            break;
        }
        let node = &nodes.all[0];
        // A directory that is not marked is whole: it starts and is one of the two.
        if node.hands().start_standby().is_ok() {
            node.wait_sql("select count(*) >= 1000 from kept", "t")?;
        }
    }
    nodes.all[0].hands().rebuild(&upstream, SECOND, &mut |_| {})?;
    check_follows(&mut nodes)
}

fn copied() -> anyhow::Result<()> {
    let mut nodes = diverged()?;
    let upstream = nodes.all[1].peer();
    for ms in LIVES_MS {
        let is_done = for_ms("copy", &nodes, upstream.port, ms)?;
        if is_done {
            break;
        }
        if ms == LIVES_MS[2] || ms == LIVES_MS[4] {
            // Some other time it is wanted back in the middle.
            nodes.all[0].hands().restore(incarnation(0))?;
            check_restored(&mut nodes.all[0])?;
        }
    }
    nodes.all[0].hands().copy(&upstream, incarnation(0), SECOND, &mut |_| {})?;
    check_follows(&mut nodes)?;
    nodes.all[0].hands().restore(incarnation(0))?;
    check_restored(&mut nodes.all[0])
}

fn restored() -> anyhow::Result<()> {
    let mut nodes = diverged()?;
    let upstream = nodes.all[1].peer();
    for ms in LIVES_MS {
        nodes.all[0].hands().copy(&upstream, incarnation(0), SECOND, &mut |_| {})?;
        for_ms("restore", &nodes, upstream.port, ms / 4)?;
        nodes.all[0].hands().restore(incarnation(0))?;
        check_restored(&mut nodes.all[0])?;
    }
    Ok(())
}

fn founded() -> anyhow::Result<()> {
    let mut nodes = Nodes::new()?;
    nodes.add()?;
    for ms in LIVES_MS {
        if for_ms("found", &nodes, 1, ms)? {
            break;
        }
        let started = nodes.all[0].hands().start_founder();
        ensure!(started.is_err(), "it was started half made");
    }
    let node = &nodes.all[0];
    if node.is_half() {
        node.found()?;
    }
    node.hands().start_founder()?;
    node.wait_ready()?;
    ensure!(node.sql("select count(*) from pg_roles where rolname like 'pgx%'")? == "1");
    Ok(())
}

fn changed() -> anyhow::Result<()> {
    let mut nodes = Nodes::streaming(1)?;
    // The worker speaks for node 0: make that the standby.
    nodes.all.swap(0, 1);
    let port = nodes.all[1].place.port;
    for ms in LIVES_MS {
        let place = nodes.all[0].place.clone();
        let order = format!("change|1,{},{}|{port}", place.port, nodes.folder().display());
        let mut command = Command::new(std::env::current_exe()?);
        command.env(WORK, order).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn()?;
        let handle = process::open(i32::try_from(child.id())?).context("it has ended")?;
        ensure!(!process::wait(&handle, Duration::from_millis(ms)), "it has ended");
        child.kill()?;
        child.wait()?;
        let upstream = nodes.all[1].peer();
        let node = &mut nodes.all[0];
        node.hands().follow(&upstream)?;
        node.wait_local("a standby that streams", |local| local.is_streaming)?;
        node.hands().detach()?;
        node.wait_local("all replayed", |local| local.is_drained)?;
    }
    Ok(())
}
