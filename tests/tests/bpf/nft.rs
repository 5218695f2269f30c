//! The degraded fence by nftables: what it bounds, and exactly what it does not.

use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::ensure;
use libtest_mimic::Trial;
use pgx_bpf::{Gate, Keeper, Nftables, Plane, Role, Trial as Tried};
use pgx_tests::objects::objects;
use pgx_tests::skip::{Requirement, trial};

use crate::gate::in_ms;
use crate::space::Space;

const PORT: u16 = 5432;
const ADDRESSES: [&str; 2] = ["127.0.0.1:5432", "[::1]:5432"];
/// Nothing here takes longer unless it hangs.
const PATIENCE: Duration = Duration::from_secs(5);

pub(crate) fn trials() -> Vec<Trial> {
    let needs = &[Requirement::Bpf, Requirement::Lab];
    type Test = fn() -> anyhow::Result<()>;
    let trials: [(&str, Test); 3] = [
        ("nftables_shut_by_themselves_when_the_agent_is_dead", dead_agent),
        ("nftables_open_after_the_deadline_when_an_agent_thaws_and_bpf_does_not", thawed),
        ("nftables_let_peers_in_and_keep_a_lease_over_a_restart", peers),
    ];
    let has_nft = Command::new("nft").arg("--version").output().is_ok();
    let made = trials.map(|(name, test)| trial(name, needs, test));
    let missing = "SKIPPED: needs the program nft (Debian: nftables)";
    made.map(|made| match has_nft {
        true => made,
        false => made.with_kind(missing).with_ignored_flag(true),
    })
    .into()
}

fn is_let_in(address: &str) -> bool {
    TcpStream::connect(address).is_ok()
}

/// Waits until the boot-time clock shows this.
fn await_clock(until_ns: u64) -> anyhow::Result<()> {
    let start = Instant::now();
    while in_ms(0)? < until_ns {
        ensure!(start.elapsed() < PATIENCE, "the clock stands still");
        std::thread::yield_now();
    }
    Ok(())
}

fn dead_agent() -> anyhow::Result<()> {
    Space::run(|_| {
        let _listeners = ADDRESSES.map(TcpListener::bind);
        let fence = Nftables::raise(PORT)?;
        ensure!(fence.try_out()? == Tried::Seen, "no packet ends in the rules");
        for address in ADDRESSES {
            ensure!(!is_let_in(address), "{address} is open at first");
        }
        let until = in_ms(700)?;
        fence.renew(fence.reckon(until, Gate::Open))?;
        for address in ADDRESSES {
            ensure!(is_let_in(address), "{address} is shut under a lease");
        }
        let renewed = fence.reckon(until, Gate::Open);
        fence.renew(renewed)?;
        // Nobody does anything from here on. The kernel looks at time-outs by its tick.
        await_clock(until + 20_000_000)?;
        for address in ADDRESSES {
            ensure!(!is_let_in(address), "{address} is open after the deadline");
        }
        Ok(())
    })
}

/// An agent that was stopped after it had reckoned and before it wrote: the same moment for both.
fn thawed() -> anyhow::Result<()> {
    Space::run(|space| {
        let _listener = TcpListener::bind(ADDRESSES[0])?;
        let until = in_ms(300)?;

        let fence = Nftables::raise(PORT)?;
        let renewal = fence.reckon(until, Gate::Open);
        await_clock(until + 100_000_000)?;
        fence.renew(renewal)?;
        ensure!(is_let_in(ADDRESSES[0]), "the window is closed: say so in the documents");
        ensure!(in_ms(0)? > until, "that was before the deadline");
        // As long as was reckoned, and no longer.
        await_clock(in_ms(320)?)?;
        ensure!(!is_let_in(ADDRESSES[0]), "the window does not end");
        Nftables::remove()?;

        let pins = space.pins()?;
        let mut plane = Plane::load(&objects()?, pins.clone())?;
        plane.guard()?;
        plane.guard_in("lo")?;
        plane.guard_out("lo")?;
        Keeper::open(&pins)?.lease(Role::Primary, 1, until, Gate::Open)?;
        ensure!(!is_let_in(ADDRESSES[0]), "BPF opens after the deadline");
        Ok(())
    })
}

fn peers() -> anyhow::Result<()> {
    Space::run(|_| {
        let _listener = TcpListener::bind(ADDRESSES[0])?;
        let fence = Nftables::raise(PORT)?;
        fence.renew(fence.reckon(in_ms(60_000)?, Gate::Peers))?;
        ensure!(!is_let_in(ADDRESSES[0]), "a stranger");
        fence.set_peers(&["127.0.0.1".parse()?, "fd00::1".parse()?].into())?;
        ensure!(is_let_in(ADDRESSES[0]), "a peer");
        let again = Nftables::raise(PORT)?;
        ensure!(is_let_in(ADDRESSES[0]), "a restart shut the gate");
        again.shut()?;
        ensure!(!is_let_in(ADDRESSES[0]), "it was shut");
        Ok(())
    })
}
