//! The fence at work: real connections on loopback, opened and shut by the keeper's words and the
//! kernel's clock.

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use libtest_mimic::Trial;
use nix::time::{ClockId, clock_gettime};
use pgx_bpf::{Gate, KeepError, Keeper, Plane, Reason, Role, Side, Stale, destroy};
use pgx_tests::lab::wait_for;
use pgx_tests::objects::objects;
use pgx_tests::skip::{Requirement, trial};
use socket2::{Domain, SockRef, Socket, TcpKeepalive, Type};

use crate::space::Space;

/// Nothing here takes longer unless it hangs.
const PATIENCE: Duration = Duration::from_secs(5);
const ADDRESSES: [&str; 2] = ["127.0.0.1:5432", "[::1]:5432"];

pub(crate) fn trials() -> Vec<Trial> {
    let needs = &[Requirement::Bpf, Requirement::Root];
    vec![
        trial("port_is_shut_until_a_lease_opens_it_and_shut_again_when_it_ends", needs, lifetime),
        trial("closing_shuts_at_once_and_for_good", needs, closing),
        trial("late_thread_opens_nothing_and_shortens_nothing", needs, late),
        trial("leases_outlive_their_writer_and_only_one_writes", needs, writers),
        trial("words_of_another_cluster_are_void_and_those_of_the_same_are_not", needs, owners),
        trial("idle_connections_are_told_when_they_are_ended", needs, idle),
        trial("connections_that_answer_nothing_are_ended_and_slow_readers_are_not", needs, left),
        trial("operators_fence_ends_only_by_naming_its_epoch", needs, operators),
    ]
}

fn boot_ns() -> anyhow::Result<u64> {
    let now = clock_gettime(ClockId::CLOCK_BOOTTIME)?;
    let (seconds, ns) = (u64::try_from(now.tv_sec())?, u64::try_from(now.tv_nsec())?);
    Ok(seconds * 1_000_000_000 + ns)
}

pub(crate) fn in_ms(ms: u64) -> anyhow::Result<u64> {
    Ok(boot_ns()? + ms * 1_000_000)
}

/// The fence around loopback, and its keeper.
fn guarded(space: &Space) -> anyhow::Result<(Plane, Keeper)> {
    let pins = space.pins()?;
    let mut plane = Plane::load(&objects()?, pins.clone())?;
    plane.guard()?;
    plane.guard_in("lo")?;
    plane.guard_out("lo")?;
    Ok((plane, Keeper::open(&pins)?))
}

fn connect(address: &str) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address.parse().expect("an address"), PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// One that has a patience ends with `EINTR` when the process was stopped and goes on.
fn read(mut stream: &TcpStream, bytes: &mut [u8]) -> std::io::Result<usize> {
    loop {
        match stream.read(bytes) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

fn refused(address: &str) -> anyhow::Result<()> {
    match connect(address) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(()),
        Err(error) => Err(error).context("told otherwise than by a reset"),
        Ok(_) => anyhow::bail!("{address} let somebody in"),
    }
}

/// A connection with both of its ends.
fn pair(listener: &TcpListener, address: &str) -> anyhow::Result<(TcpStream, TcpStream)> {
    let client = connect(address).context("an open gate refuses")?;
    let (server, _) = listener.accept()?;
    Ok((client, server))
}

fn lifetime() -> anyhow::Result<()> {
    Space::run(|space| {
        for (number, address) in (1..).zip(ADDRESSES) {
            let (plane, mut keeper) = guarded(space)?;
            let listener = TcpListener::bind(address)?;
            refused(address)?;
            let until = in_ms(400)?;
            keeper.lease(Role::Primary, number, until, Gate::Open)?;
            let (mut client, server) = pair(&listener, address)?;
            // Writes until the kernel ends it: no process takes part in that.
            let mut begun = 0;
            server.set_read_timeout(Some(Duration::from_millis(100)))?;
            let ended = loop {
                let now = boot_ns()?;
                match client.write_all(b"?").and_then(|()| read(&server, &mut [0; 1])) {
                    Ok(_) => begun = now,
                    Err(error) => break error,
                }
            };
            let resets = [ErrorKind::ConnectionReset, ErrorKind::BrokenPipe, ErrorKind::WouldBlock];
            ensure!(resets.contains(&ended.kind()), "{ended}");
            // What began after the deadline never came through, however late we were to look.
            ensure!(begun <= until, "began {} ns late and passed", begun.saturating_sub(until));
            ensure!(begun > 0, "nothing passed before the deadline");
            ensure!(read(&client, &mut [0; 1]).is_err(), "the client was not told");
            refused(address)?;
            let resets = plane.counters().get(Reason::FenceReset)?.packets;
            ensure!(resets >= 3, "{resets} resets");
        }
        Ok(())
    })
}

fn closing() -> anyhow::Result<()> {
    Space::run(|space| {
        let (_plane, mut keeper) = guarded(space)?;
        let address = ADDRESSES[0];
        let listener = TcpListener::bind(address)?;
        keeper.lease(Role::Primary, 7, in_ms(60_000)?, Gate::Open)?;
        let (client, mut server) = pair(&listener, address)?;
        keeper.close(7)?;
        refused(address)?;
        // An answer that was on its way does not get out.
        server.write_all(b"COMMIT")?;
        client.set_read_timeout(Some(Duration::from_millis(200)))?;
        let heard = read(&client, &mut [0; 8]);
        ensure!(
            heard.as_ref().is_err_and(|error| error.kind() == ErrorKind::WouldBlock),
            "{heard:?}"
        );
        keeper.lease(Role::Primary, 8, in_ms(60_000)?, Gate::Open)?;
        pair(&listener, address)?;
        Ok(())
    })
}

fn late() -> anyhow::Result<()> {
    Space::run(|space| {
        let (_plane, mut keeper) = guarded(space)?;
        let until = in_ms(60_000)?;
        keeper.lease(Role::Primary, 7, until, Gate::Open)?;
        keeper.lease(Role::Primary, 7, until - 5_000_000_000, Gate::Open)?;
        let kept = keeper.standing()?.primary.deadline_ns();
        ensure!(kept == until / 1_000_000 * 1_000_000, "a late thread moved the deadline back");
        keeper.close(7)?;
        let late = keeper.lease(Role::Primary, 7, in_ms(60_000)?, Gate::Open);
        let closed = Stale::Closed { epoch: 7, floor: 8 };
        ensure!(matches!(late, Err(KeepError::Stale(stale)) if stale == closed), "{late:?}");
        keeper.close(3)?;
        ensure!(keeper.standing()?.floor == 8, "what was closed was opened again");
        keeper.lease(Role::Primary, 9, in_ms(1_000)?, Gate::Open)?;
        let old = keeper.lease(Role::Primary, 8, in_ms(60_000)?, Gate::Open);
        let older = Stale::Older { epoch: 8, newest: 9 };
        ensure!(matches!(old, Err(KeepError::Stale(stale)) if stale == older), "{old:?}");
        Ok(())
    })
}

fn writers() -> anyhow::Result<()> {
    Space::run(|space| {
        let (plane, mut keeper) = guarded(space)?;
        let address = ADDRESSES[0];
        let listener = TcpListener::bind(address)?;
        let second = Keeper::open(&space.pins()?);
        ensure!(second.is_err(), "two write at once");
        keeper.lease(Role::Primary, 1, in_ms(60_000)?, Gate::Open)?;
        drop((plane, keeper));
        pair(&listener, address).context("the gate went with its keeper")?;
        let (_plane, mut keeper) = guarded(space)?;
        pair(&listener, address).context("a second start shut the gate")?;
        keeper.close(1)?;
        drop(keeper);
        refused(address)
    })
}

fn operators() -> anyhow::Result<()> {
    Space::run(|space| {
        let (_plane, mut keeper) = guarded(space)?;
        let address = ADDRESSES[0];
        let listener = TcpListener::bind(address)?;
        keeper.lease(Role::Primary, 4, in_ms(60_000)?, Gate::Open)?;
        keeper.fence(4)?;
        refused(address)?;
        ensure!(!keeper.unfence(3)?, "another epoch's name");
        refused(address)?;
        ensure!(keeper.unfence(4)?);
        pair(&listener, address)?;
        Ok(())
    })
}

fn owners() -> anyhow::Result<()> {
    Space::run(|space| {
        let (plane, mut keeper) = guarded(space)?;
        // Who had the lock's file before is no matter.
        keeper.belong_to("one")?;
        keeper.lease(Role::Member, 12, in_ms(60_000)?, Gate::Open)?;
        keeper.close(11)?;
        drop((plane, keeper));
        let (_plane, mut again) = guarded(space)?;
        ensure!(!again.belong_to("one")?, "a second start made them void");
        ensure!(again.standing()?.gate(boot_ns()?) == Gate::Open, "{:?}", again.standing()?);
        let late = again.lease(Role::Primary, 1, in_ms(60_000)?, Gate::Open);
        ensure!(late.is_err(), "it was closed");
        // Epochs of a cluster that is founded anew begin anew.
        ensure!(again.belong_to("other")?, "{:?}", again.standing()?);
        ensure!(again.standing()?.gate(boot_ns()?) == Gate::Shut, "{:?}", again.standing()?);
        again.lease(Role::Primary, 1, in_ms(60_000)?, Gate::Open)?;
        ensure!(again.standing()?.gate(boot_ns()?) == Gate::Open, "{:?}", again.standing()?);
        Ok(())
    })
}

/// Whose host is gone has an answer on the way, or is asked for a sign of life; who reads nothing
/// says so: whether its window was shut when that came, or is since.
fn left() -> anyhow::Result<()> {
    Space::run(|_| {
        let (dead, slow): (IpAddr, IpAddr) = ("127.0.0.2".parse()?, "127.0.0.3".parse()?);
        let listener = TcpListener::bind(("127.0.0.1", 5432))?;
        let meet = |from: IpAddr| -> anyhow::Result<(Socket, TcpStream)> {
            let client = Socket::new(Domain::IPV4, Type::STREAM, None)?;
            client.bind(&SocketAddr::new(from, 0).into())?;
            client.connect(&listener.local_addr()?.into())?;
            Ok((client, listener.accept()?.0))
        };
        let mut pairs = [meet(dead)?, meet(dead)?, meet(dead)?, meet(slow)?, meet(slow)?];
        let [(_, answers), (_, idle), (_, full), (_, unread), (_, living)] = &mut pairs;
        let second = Duration::from_secs(1);
        let alive = TcpKeepalive::new().with_time(second).with_interval(second).with_retries(9);
        for server in [&*idle, &*living] {
            SockRef::from(server).set_tcp_keepalive(&alive)?;
        }
        for server in [&mut *full, &mut *unread] {
            server.set_nonblocking(true)?;
            while server.write(&[0; 65536]).is_ok() {}
        }
        let (dead, slow) = (BTreeSet::from([dead]), BTreeSet::from([slow]));
        let both = dead.union(&slow).copied().collect();
        ensure!(destroy(Side::Unanswered(&both, 5432))? == 0, "all have answered");

        let rules = "table ip test { chain in { type filter hook input priority 0;
                     ip daddr 127.0.0.2 drop; }; }";
        ensure!(Command::new("nft").arg(rules).status()?.success());
        answers.write_all(b"!")?;
        let mut ended = 0;
        wait_for("those that answer nothing are ended", 4 * PATIENCE, || {
            let other = destroy(Side::Unanswered(&both, 5433));
            let living = destroy(Side::Unanswered(&slow, 5432));
            ended += destroy(Side::Unanswered(&dead, 5432)).unwrap_or(0);
            [other, living].iter().all(|count| matches!(count, Ok(0))) && ended == 3
        })?;
        for server in [answers, idle, full] {
            let kind = server.write(b"?").map_err(|error| error.kind());
            ensure!(kind != Err(ErrorKind::WouldBlock) && kind.is_err(), "{kind:?}");
        }
        ensure!(destroy(Side::Unanswered(&both, 5432))? == 0, "they have answered");
        living.write_all(b"!")?;
        Ok(())
    })
}

/// The gate is shut: what the kernel sends for an ended socket still gets out, and nothing else.
fn idle() -> anyhow::Result<()> {
    Space::run(|space| {
        let (_plane, mut keeper) = guarded(space)?;
        let mut pairs = Vec::new();
        keeper.lease(Role::Primary, 1, in_ms(60_000)?, Gate::Open)?;
        let other = TcpListener::bind("127.0.0.1:0")?;
        let elsewhere = other.local_addr()?;
        let (bystander, mut far) = pair(&other, &elsewhere.to_string())?;
        for address in ADDRESSES {
            let listener = TcpListener::bind(address)?;
            pairs.push(pair(&listener, address)?);
        }
        keeper.close(1)?;
        let ended = destroy(Side::Local(5432))?;
        ensure!(ended == 2, "{ended} connections, expected one for each address");
        for (client, mut server) in pairs {
            let told = read(&client, &mut [0; 1]);
            let is_reset = |error: &std::io::Error| error.kind() == ErrorKind::ConnectionReset;
            ensure!(told.as_ref().is_err_and(is_reset), "{told:?}");
            ensure!(server.write_all(b"?").is_err(), "the process that had it was not told");
        }
        far.write_all(b"!")?;
        ensure!(read(&bystander, &mut [0; 1])? == 1, "somebody else was ended");
        let ended = destroy(Side::Remote(elsewhere.ip(), elsewhere.port()))?;
        ensure!(ended == 1, "{ended} connections to a server");
        Ok(())
    })
}
