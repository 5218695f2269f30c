//! The guard: the fence around whatever interfaces and sockets there are, and those that come.

use std::net::{IpAddr, TcpListener};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use libtest_mimic::Trial;
use pgx_bpf::{At, Change, Guard, Hook, Options, Place, Reason, Trial as Tried, rehearse};
use pgx_tests::objects::objects;
use pgx_tests::skip::{Requirement, trial};

use crate::space::{FAR, NEAR, Space, ip};

/// Nothing here takes longer unless it hangs.
const PATIENCE: Duration = Duration::from_secs(5);
const PORT: u16 = 5432;

pub(crate) fn trials() -> Vec<Trial> {
    let needs = &[Requirement::Bpf, Requirement::Lab];
    vec![
        trial("fence_stands_around_each_interface_in_the_best_hook_it_has", needs, best_hooks),
        trial("each_rung_below_the_best_guards_both_ways", needs, rungs),
        trial("interface_that_appears_later_is_guarded_at_once", needs, appears),
        trial("interface_that_is_gone_leaves_no_pin", needs, gone),
        trial("hook_that_somebody_emptied_is_noticed_and_filled_again", needs, emptied),
        trial("busy_xdp_hook_is_left_alone_and_the_next_rung_taken", needs, busy),
        trial("cgroup_of_the_listening_socket_is_found_and_tried_out", needs, sockets),
        trial("rehearsal_shows_every_hook_at_work_and_leaves_nothing", needs, rehearsal),
    ]
}

fn raise(space: &Space, best: Hook) -> anyhow::Result<Guard> {
    Ok(Guard::raise(&objects()?, space.pins()?, Options { port: PORT, best })?)
}

fn place<'a>(guard: &'a Guard, name: &str) -> anyhow::Result<&'a Place> {
    let at = At::Interface(name.to_owned());
    let found = guard.places().find(|place| place.at == at);
    found.with_context(|| format!("nothing is said of {name}"))
}

fn hooks(guard: &Guard, name: &str) -> anyhow::Result<(Option<Hook>, Option<Hook>)> {
    let place = place(guard, name)?;
    ensure!(place.is_guarded() && place.trial == Tried::Seen, "{place}");
    Ok((place.incoming, place.outgoing))
}

fn best_hooks() -> anyhow::Result<()> {
    Space::run(|space| {
        space.cable("")?;
        let guard = raise(space, Hook::Native)?;
        ensure!(hooks(&guard, NEAR)? == (Some(Hook::Native), Some(Hook::Tcx)));
        ensure!(hooks(&guard, "lo")? == (Some(Hook::Tcx), Some(Hook::Tcx)));
        ensure!(place(&guard, NEAR)?.cause.is_empty(), "{}", place(&guard, NEAR)?);
        let listener = TcpListener::bind(("127.0.0.1", PORT))?;
        let refused = std::net::TcpStream::connect(listener.local_addr()?);
        ensure!(refused.is_err(), "the fence lets somebody in");
        Ok(())
    })
}

fn rungs() -> anyhow::Result<()> {
    for (best, incoming, outgoing) in [
        (Hook::Generic, Hook::Generic, Hook::Tcx),
        (Hook::Tcx, Hook::Tcx, Hook::Tcx),
        (Hook::Clsact, Hook::Clsact, Hook::Clsact),
    ] {
        Space::run(|space| {
            space.cable("")?;
            let guard = raise(space, best)?;
            ensure!(hooks(&guard, NEAR)? == (Some(incoming), Some(outgoing)), "{best}");
            let loopback = hooks(&guard, "lo")?;
            ensure!(loopback == (Some(incoming.max(Hook::Tcx)), Some(outgoing)), "{best}");
            // Once more, as a restart does it: nothing is attached twice.
            drop(guard);
            let mut again = raise(space, best)?;
            ensure!(hooks(&again, NEAR)? == (Some(incoming), Some(outgoing)), "{best}");
            ensure!(again.tend()?.is_empty(), "something changes without cause");
            let listener = TcpListener::bind(("127.0.0.1", PORT))?;
            let refused = std::net::TcpStream::connect(listener.local_addr()?);
            ensure!(refused.is_err(), "{best} lets somebody in");
            Ok(())
        })?;
    }
    Ok(())
}

/// Tends as the product does, until a change is such.
fn await_change(guard: &mut Guard, is_it: impl Fn(&Change) -> bool) -> anyhow::Result<Duration> {
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        ensure!(guard.wait(PATIENCE)?, "the kernel did not tell");
        if guard.tend()?.iter().any(&is_it) {
            return Ok(start.elapsed());
        }
    }
    bail!("waited in vain")
}

fn appears() -> anyhow::Result<()> {
    Space::run(|space| {
        let mut guard = raise(space, Hook::Native)?;
        space.cable("")?;
        let is_near = |change: &Change| match change {
            Change::Stands(place) => {
                place.at == At::Interface(NEAR.to_owned()) && place.trial == Tried::Seen
            }
            Change::Gone(_) => false,
        };
        await_change(&mut guard, is_near)?;
        ensure!(hooks(&guard, NEAR)? == (Some(Hook::Native), Some(Hook::Tcx)));
        ensure!(hooks(&guard, FAR)?.0 == Some(Hook::Native));
        Ok(())
    })
}

fn gone() -> anyhow::Result<()> {
    Space::run(|space| {
        space.cable("")?;
        let mut guard = raise(space, Hook::Native)?;
        let links = || std::fs::read_dir(space.pins()?.dir().join("links")).map_err(Into::into);
        let count = || links().map(Iterator::count);
        let before: usize = count().map_err(|error: anyhow::Error| error)?;
        ensure!(before >= 6, "{before} links");
        ip(&format!("link delete {NEAR}"))?;
        await_change(&mut guard, |change| *change == Change::Gone(At::Interface(NEAR.to_owned())))?;
        let left = count()?;
        ensure!(left == 2, "{left} links are left, expected the two of loopback");
        space.cable("")?;
        guard.tend()?;
        hooks(&guard, NEAR).map(drop)
    })
}

fn emptied() -> anyhow::Result<()> {
    Space::run(|space| {
        space.cable("")?;
        let mut guard = raise(space, Hook::Native)?;
        // Removing a pin is how an operator takes a program off.
        for entry in std::fs::read_dir(space.pins()?.dir().join("links"))? {
            std::fs::remove_file(entry?.path())?;
        }
        let probes = |guard: &Guard| guard.plane().counters().get(Reason::FenceProbe);
        let start = Instant::now();
        // The kernel detaches some time after the pin is gone.
        while std::fs::read_dir(space.pins()?.dir().join("links"))?.count() < 4 {
            ensure!(start.elapsed() < PATIENCE, "nobody has noticed");
            guard.tend()?;
        }
        let before = probes(&guard)?.packets;
        ensure!(guard.tend()?.is_empty(), "it is not settled");
        ensure!(probes(&guard)?.packets >= before + 3, "the hooks are still empty");
        hooks(&guard, NEAR)?;
        hooks(&guard, "lo").map(drop)
    })
}

fn busy() -> anyhow::Result<()> {
    Space::run(|space| {
        space.cable("")?;
        pgx_bpf::lab::attach_pass(&objects()?, &space.pins()?, NEAR)?;
        let guard = raise(space, Hook::Native)?;
        ensure!(hooks(&guard, NEAR)? == (Some(Hook::Tcx), Some(Hook::Tcx)));
        let cause = &place(&guard, NEAR)?.cause;
        ensure!(cause.contains("another XDP program"), "{cause}");
        Ok(())
    })
}

fn sockets() -> anyhow::Result<()> {
    Space::run(|space| {
        let mut guard = raise(space, Hook::Native)?;
        for address in ["127.0.0.1", "::1"].map(|text| text.parse::<IpAddr>().unwrap()) {
            let listener = TcpListener::bind((address, PORT))?;
            guard.tend()?;
            let found = guard.places().find(|place| matches!(place.at, At::Cgroup(_)));
            let found = found.context("the socket's cgroup was not found")?;
            ensure!(found.is_guarded() && found.trial == Tried::Seen, "{address}: {found}");
            ensure!(found.incoming == Some(Hook::Cgroup), "{found}");
            drop(listener);
            guard.tend()?;
            ensure!(!guard.places().any(|place| matches!(place.at, At::Cgroup(_))), "still there");
        }
        // What was attached to this process's own cgroup goes with the pins.
        space.pins()?.remove()?;
        Ok(())
    })
}

fn rehearsal() -> anyhow::Result<()> {
    Space::run(|_| {
        let shown = rehearse(&objects()?);
        ensure!(shown.iter().map(|one| one.hook).eq(Hook::INTERFACE));
        for one in shown {
            one.result.with_context(|| one.hook.to_string())?;
        }
        Ok(())
    })
}
