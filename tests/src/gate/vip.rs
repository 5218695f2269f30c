//! The address of a cluster under its lease: who answers for it, and how soon another does.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, anyhow, ensure};
use nix::sched::{CloneFlags, setns};

use super::clients::Clients;
use super::{Figures, MS, Make, lease_ns, wait_a_part_of_a_lease};
use crate::chaos::{Chaos, LIMIT, sql};
use crate::lab::spec::{PROXY_PORT, READERS_HOST, readers_v4, readers_v6, vip_v4, vip_v6};
use crate::lab::{Fault, Lab, PauseTarget, wait_for, wait_for_some};
use crate::tap::{Tap, boot_ns};

/// How often a client tries, and how long it waits for one try.
const TRY_EVERY: Duration = Duration::from_millis(10);
const TRY_MAX: Duration = Duration::from_millis(60);
/// A lease of two seconds, what voters add to it, and a busy machine.
const GAP_MAX: Duration = Duration::from_secs(10);
/// The protocol, and the type of a neighbour advertisement.
const ICMPV6: u8 = 58;
const ADVERTISEMENT: u8 = 136;
/// The leases of the lab, by number.
const WRITERS: u64 = 1;
const READERS: u64 = 2;
/// Microseconds.
const DAY_US: u64 = 86_400_000_000;
/// That many clients show that an address serves.
const SOME: usize = 3;
/// What a client sends first that wants TLS, and is answered with one byte.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

/// How the address is lost.
#[derive(Clone, Copy, Debug)]
pub(super) enum Loss {
    Fault(Make),
    Stop,
}

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
pub(super) fn moves(chaos: &Chaos, loss: Loss, seed: u64) -> anyhow::Result<Figures> {
    let lab = chaos.lab();
    let before = lab.wait_for_calm(1)?;
    let holder = wait_for_some("somebody to have the address", LIMIT, || holder(lab, WRITERS, ""))?;
    if before.host() == holder {
        // Else what its clients have open would end with the primary.
        lab.ask(&holder, &["switchover"])?;
        lab.wait_for_calm(before.number + 1)?;
    }
    let client = format!("/proc/{}/ns/net", lab.host("client")?.init().pid);
    let ends = Ends::default();
    let served = Arc::new(AtomicUsize::new(0));
    let (stop, stops) = channel();
    let (claims, tries) = (claims(&client, &ends.0)?, tries(&client, stops, &served));
    let serve_more = || {
        let before = served.load(Ordering::Relaxed);
        wait_for("clients are served at the address", LIMIT, || {
            served.load(Ordering::Relaxed) > before + SOME
        })
    };
    serve_more()?;
    let mut clients = Clients::start(lab, &holder)?;
    wait_a_part_of_a_lease(lab, &holder, seed)?;
    let at = boot_ns()?;
    let another = || {
        wait_for_some("another to have the address", LIMIT, || {
            self::holder(lab, WRITERS, &holder)
        })?;
        serve_more()
    };
    match loss {
        Loss::Fault(make) => fail(lab, &make(&holder), &mut clients, another)?,
        Loss::Stop => stop_and_start(lab, &mut clients, another)?,
    }
    lab.wait_for_calm(1)?;
    let flows = clients.end()?;
    drop((ends, stop));
    let claims = joined(claims)?;
    let came_in = joined(tries)?;
    for family in [Family::V4, Family::V6] {
        let of_it: Vec<_> = claims.iter().filter(|claim| claim.family == family).collect();
        check_claims(&of_it).with_context(|| format!("{family:?}"))?;
    }
    let gap = gap(&came_in, at)?;
    let gap_max = match loss {
        Loss::Fault(_) => GAP_MAX,
        // No lease has to run out first.
        Loss::Stop => Duration::from_nanos(lease_ns(lab, &holder)?),
    };
    ensure!(gap < gap_max, "nobody came in for {gap:?}");
    let decided = decided(lab, at)?;
    let first = came_in.iter().find(|at| **at > decided).context("nobody since the decision")?;
    Ok(Figures {
        claims: claims.len(),
        flows,
        gap_ms: Some(u64::try_from(gap.as_millis())?),
        decided_ms: Some((first - decided) / MS),
        ..Figures::default()
    })
}

/// Clients of other hosts go on while the host fails.
fn fail(
    lab: &Lab,
    faults: &[Fault],
    clients: &mut Clients<'_>,
    another: impl FnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let faults = faults.iter().map(|fault| lab.fault(fault));
    let faults: Vec<_> = faults.collect::<anyhow::Result<_>>()?;
    // What a frozen proxy has been sent it may carry out later.
    clients.begin()?;
    another()?;
    clients.go_on(|is_there| !is_there)?;
    faults.into_iter().try_for_each(|id| lab.heal(id))
}

/// All clients go on while the host leaves, which waits for its own.
fn stop_and_start(
    lab: &Lab,
    clients: &mut Clients<'_>,
    another: impl FnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let host = clients.host().to_owned();
    std::thread::scope(|scope| {
        let stopped = scope.spawn(|| lab.stop_pgx(&host));
        let done = another().and_then(|()| clients.begin());
        let done = done.and_then(|()| clients.go_on(|_| true)).and_then(|()| clients.leave());
        stopped.join().map_err(|_| anyhow!("the thread that stops it died"))??;
        done
    })?;
    lab.start_pgx(&host)
}

/// When another was named for the address, by the log of whoever knew it first.
fn decided(lab: &Lab, after: u64) -> anyhow::Result<u64> {
    let (now, clock) = (boot_ns()?, SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?);
    let today_us = u64::try_from(clock.as_micros())? % DAY_US;
    let mut first = None;
    for host in lab.members() {
        // The host may have lost its log with its power.
        let text = std::fs::read_to_string(lab.log(&host.plan().name, "pgx")).unwrap_or_default();
        for line in text.lines().filter(|line| line.contains("entry=GiveVip")) {
            let logged = time_of_day_us(line).with_context(|| format!("no time: {line}"))?;
            let ago_us = (today_us + DAY_US - logged) % DAY_US;
            let at = now.saturating_sub(ago_us * 1_000);
            first = first.into_iter().chain((at > after).then_some(at)).min();
        }
    }
    first.context("nobody has logged who is to have the address")
}

/// Microseconds since midnight of a line that begins like `2026-01-31T12:30:00.000000Z`.
fn time_of_day_us(line: &str) -> Option<u64> {
    let (_, time) = line.split_once('T')?;
    let (time, _) = time.split_once('Z')?;
    let (clock, part) = time.split_once('.')?;
    let seconds = clock.split(':').try_fold(0, |sum, field| {
        let number: u64 = field.parse().ok()?;
        Some(sum * 60 + number)
    })?;
    Some(seconds * 1_000_000 + part.parse::<u64>().ok()?)
}

/// The host that says to have the addresses of a lease, but for this one.
fn holder(lab: &Lab, lease: u64, but: &str) -> Option<String> {
    let names = lab.members().map(|host| host.plan().name.clone());
    names.filter(|name| name != but).find(|name| {
        let status = lab.pgx_status(name).unwrap_or_default();
        let mut leases = status["addresses"]["leases"].as_array().into_iter().flatten();
        leases.any(|one| one["id"] == lease && one["is_held"] == true)
    })
}

/// See [`super::readers`].
pub(super) fn readers(chaos: &Chaos) -> anyhow::Result<()> {
    let lab = chaos.lab();
    lab.wait_for_calm(1)?;
    let at = |but: &str| {
        wait_for_some("somebody to have the address of readers", LIMIT, || {
            holder(lab, READERS, but)
        })
    };
    let mut found = at("")?;
    if found != READERS_HOST {
        let id = lab.fault(&super::pause(&found, PauseTarget::Pgx))?;
        let next = at(&found);
        lab.heal(id)?;
        found = next?;
    }
    ensure!(found == READERS_HOST, "{found} has it");
    for address in [IpAddr::V4(readers_v4()), IpAddr::V6(readers_v6())] {
        wait_for(&format!("{address} leads to a standby"), LIMIT, || {
            sql(lab, &address.to_string(), PROXY_PORT, "select pg_is_in_recovery()")
                .is_ok_and(|said| said == "t")
        })?;
    }
    lab.wait_for_calm(1).map(drop)
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

/// Ends who listens, however a test ends.
#[derive(Default)]
struct Ends(Arc<AtomicBool>);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_of_a_log_line_is_read() {
        let line = "2026-01-31T12:30:01.000002Z  INFO pgx: applied";
        assert_eq!(time_of_day_us(line), Some(45_001_000_002));
        assert_eq!(time_of_day_us("nothing"), None);
    }

    #[test]
    fn who_answers_again_after_another_did_is_found() {
        let claim = |at_ns, link| Claim { at_ns, family: Family::V4, link: [link; 6] };
        let check = |claims: &[Claim]| check_claims(&claims.iter().collect::<Vec<_>>());
        assert!(check(&[]).is_err());
        check(&[claim(1, 1), claim(2, 1), claim(3, 2), claim(4, 2)]).unwrap();
        let error = check(&[claim(1, 1), claim(2, 2), claim(7, 1)]).unwrap_err().to_string();
        assert!(error.contains("answers"), "{error}");
    }
}
