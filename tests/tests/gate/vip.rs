//! The address of a cluster under its lease: who answers for it, and how soon another does.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use nix::sched::{CloneFlags, setns};
use pgx_tests::chaos::{Chaos, LIMIT};
use pgx_tests::lab::spec::{PROXY_PORT, vip_v4, vip_v6};
use pgx_tests::lab::{Direction, Fault, KillTarget, Lab, PauseTarget, wait_for, wait_for_some};
use pgx_tests::tap::{Tap, boot_ns};

use crate::{cut, kill, pause};

/// How often a client tries, and how long it waits for one try.
const TRY_EVERY: Duration = Duration::from_millis(20);
const TRY_MAX: Duration = Duration::from_millis(200);
/// A lease of two seconds, what voters add to it, and a busy machine.
const GAP_MAX: Duration = Duration::from_secs(10);
const MS: u64 = 1_000_000;
/// The protocol, and the type of a neighbour advertisement.
const ICMPV6: u8 = 58;
const ADVERTISEMENT: u8 = 136;
/// That many clients show that an address serves.
const SOME: usize = 3;
/// What a client sends first that wants TLS, and is answered with one byte.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

/// What happens to the host that has the address.
pub(crate) type Make = fn(&str) -> Fault;

pub(crate) const FAULTS: &[(&str, Make)] = &[
    ("a_frozen_host", |host| pause(host, PauseTarget::All)),
    ("a_stopped_pgx", |host| pause(host, PauseTarget::Pgx)),
    ("a_killed_pgx", |host| kill(host, KillTarget::Pgx)),
    ("a_host_cut_off", |host| cut(host, Direction::Both)),
    ("a_host_that_hears_nothing", |host| cut(host, Direction::Inbound)),
];

/// Who said to have the address, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Claim {
    at_ns: u64,
    family: Family,
    link: [u8; 6],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    V4,
    V6,
}

/// The host fails that has the address; clients come to another, and never do two answer.
pub(crate) fn moves(chaos: &Chaos, make: Make) -> anyhow::Result<()> {
    let lab = chaos.lab();
    lab.wait_for_calm(1)?;
    let holder = wait_for_some("somebody to have the address", LIMIT, || holder(lab, ""))?;
    let client = format!("/proc/{}/ns/net", lab.host("client")?.init().pid);
    let ends = Arc::new(AtomicBool::new(false));
    let served = Arc::new(AtomicUsize::new(0));
    let (stop, stops) = channel();
    let (claims, tries) = (claims(&client, &ends)?, tries(&client, stops, &served));
    let serve_more = || {
        let before = served.load(Ordering::Relaxed);
        wait_for("clients are served at the address", LIMIT, || {
            served.load(Ordering::Relaxed) > before + SOME
        })
    };
    serve_more()?;
    let at = boot_ns()?;
    let id = lab.fault(&make(&holder))?;
    let next = wait_for_some("another to have the address", LIMIT, || self::holder(lab, &holder))?;
    serve_more()?;
    lab.heal(id)?;
    lab.wait_for_calm(1)?;
    ends.store(true, Ordering::Relaxed);
    drop(stop);
    let claims = joined(claims)?;
    let came_in = joined(tries)?;
    for family in [Family::V4, Family::V6] {
        let of_it: Vec<_> = claims.iter().filter(|claim| claim.family == family).collect();
        check_claims(&of_it).with_context(|| format!("{family:?}"))?;
    }
    let gap = gap(&came_in, at)?;
    eprintln!("{holder} to {next}: nobody came in for {gap:?}, {} claims", claims.len());
    ensure!(gap < GAP_MAX, "nobody came in for {gap:?}");
    Ok(())
}

/// The host that says to have the address, but for this one.
fn holder(lab: &Lab, but: &str) -> Option<String> {
    let names = lab.members().map(|host| host.plan().name.clone());
    names.filter(|name| name != but).find(|name| {
        lab.pgx_status(name).is_ok_and(|status| status["addresses"]["leases"][0]["is_held"] == true)
    })
}

/// Once somebody else has said to have it, the one before says so no more.
fn check_claims(claims: &[&Claim]) -> anyhow::Result<()> {
    ensure!(!claims.is_empty(), "nobody has answered");
    let mut gone: Vec<[u8; 6]> = Vec::new();
    let mut now: Option<&Claim> = None;
    for claim in claims {
        if let Some(before) = now.filter(|before| before.link != claim.link) {
            gone.push(before.link);
            ensure!(
                !gone.contains(&claim.link),
                "{:x?} answers {} ms after {:x?}: {claims:?}",
                claim.link,
                (claim.at_ns - before.at_ns) / MS,
                before.link
            );
        }
        now = Some(claim);
    }
    Ok(())
}

/// How long nobody came in, from then on.
fn gap(came_in: &[u64], from: u64) -> anyhow::Result<Duration> {
    let last = came_in.iter().rfind(|at| **at <= from).copied().context("nobody before")?;
    let later = came_in.iter().filter(|at| **at > from);
    let mut before = last;
    let mut longest = 0;
    for at in later {
        longest = longest.max(at - before);
        before = *at;
    }
    ensure!(before > from, "nobody came in again");
    Ok(Duration::from_nanos(longest))
}

type Listening<T> = JoinHandle<anyhow::Result<T>>;

fn joined<T>(thread: Listening<T>) -> anyhow::Result<T> {
    thread.join().map_err(|_| anyhow::anyhow!("who listens has died"))?
}

/// Listens for answers and announcements in a network.
fn claims(network: &str, ends: &Arc<AtomicBool>) -> anyhow::Result<Listening<Vec<Claim>>> {
    let (network, ends) = (File::open(network)?, Arc::clone(ends));
    Ok(std::thread::spawn(move || {
        setns(&network, CloneFlags::CLONE_NEWNET).context("cannot enter the network")?;
        let tap = Tap::open()?;
        let mut all = Vec::new();
        while !ends.load(Ordering::Relaxed) {
            let Some(frame) = tap.frame(50)? else { continue };
            let said = claim(&frame.bytes);
            all.extend(said.map(|(family, link)| Claim { at_ns: frame.at_ns, family, link }));
        }
        Ok(all)
    }))
}

/// Whose link address a frame gives to the address: the sender's in ARP (RFC 826), or that of an
/// advertisement (RFC 4861, section 4.4), whose sender's link address is the one that it tells.
fn claim(frame: &[u8]) -> Option<(Family, [u8; 6])> {
    match frame.get(12..14)? {
        [8, 6] => {
            let is_of_it = frame.get(28..32)? == vip_v4().octets();
            frame.get(22..28)?.try_into().ok().filter(|_| is_of_it).map(|link| (Family::V4, link))
        }
        [0x86, 0xdd] => {
            let is_advertisement = (*frame.get(20)?, *frame.get(54)?) == (ICMPV6, ADVERTISEMENT);
            let is_of_it = is_advertisement && frame.get(62..78)? == vip_v6().octets();
            frame.get(6..12)?.try_into().ok().filter(|_| is_of_it).map(|link| (Family::V6, link))
        }
        _ => None,
    }
}

/// Comes in by the address again and again; when that worked out.
fn tries(network: &str, stops: Receiver<()>, served: &Arc<AtomicUsize>) -> Listening<Vec<u64>> {
    let (network, served) = (network.to_owned(), Arc::clone(served));
    std::thread::spawn(move || {
        let file = File::open(&network)?;
        setns(&file, CloneFlags::CLONE_NEWNET).context("cannot enter the network")?;
        let mut all = Vec::new();
        while stops.recv_timeout(TRY_EVERY) == Err(RecvTimeoutError::Timeout) {
            // In turns, so that both are asked for.
            let address = match all.len() % 2 {
                0 => IpAddr::V4(vip_v4()),
                _ => IpAddr::V6(vip_v6()),
            };
            if is_served(address) {
                all.push(boot_ns()?);
                served.fetch_add(1, Ordering::Relaxed);
            }
        }
        Ok(all)
    })
}

/// Whether a proxy says something: the kernel accepts for one that is frozen.
fn is_served(address: IpAddr) -> bool {
    let address = SocketAddr::new(address, PROXY_PORT);
    let ask = || -> std::io::Result<()> {
        let mut stream = TcpStream::connect_timeout(&address, TRY_MAX)?;
        stream.set_read_timeout(Some(TRY_MAX))?;
        stream.write_all(&SSL_REQUEST)?;
        stream.read_exact(&mut [0])
    };
    ask().is_ok()
}
