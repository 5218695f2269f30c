//! What `pgx ctl status` tells of each fault of the lab: the cause and the next step, on a host
//! that is well and, where that can speak, on the one that is hit. `docs/OPERATING.md` has the same
//! table for people. Once the fault is healed, every host must say that all is well again.

use anyhow::Context;
use pgx_tests::chaos::{Chaos, LIMIT};
use pgx_tests::lab::{Direction, Fault, KillTarget, Lab, PauseTarget, wait_for};
use serde_json::Value;

use crate::leader;

/// One fault, and what is told of it: the name of its trial, whose host is hit, how, and the words.
pub(crate) struct Case(pub(crate) &'static str, Hit, fn(&Cast) -> Fault, &'static [Told]);

/// Whose host is hit.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Hit {
    Primary,
    Standby,
    /// Who coordinates.
    Coordinator,
    /// One who does not; nor does the other.
    Follower,
}

/// Where it is told, with words of the cause and of the next step. `HIT` and `OTHER` stand for the
/// numbers of these nodes.
struct Told(At, &'static str, &'static str);

/// Who is asked.
#[derive(Clone, Copy)]
enum At {
    /// A data host that is well.
    Other,
    /// The host that is hit.
    Hit,
    /// The host without PostgreSQL, which hears all others.
    Proxy,
}

/// The hosts that a fault concerns.
pub(crate) struct Cast {
    hit: String,
    other: String,
}

const NOT_HEARD: Told =
    Told(At::Other, "node HIT has not been heard", "systemctl status pgx' and 'pgx ctl status'");
const HANGS: Told =
    Told(At::Other, "PostgreSQL of node HIT, or its disk, does not answer", "which probe fails");
const ENDED: Told = Told(At::Other, "PostgreSQL of node HIT ", "its log on node HIT says why");
const SERVES_NOT: Told = Told(At::Other, "no primary serves: ", "wait");
const REACHES_NOBODY: Told = Told(
    At::Hit,
    "nobody coordinates: no majority of voters is in reach",
    "mend the network to them, first this host's own",
);
const LOST: Told = Told(At::Other, "send each other is lost or late", "'ping' and 'ip -s link'");
const LATE: Told = Told(At::Other, "what node HIT and nodes ", "'ping' and 'ip -s link'");
const FULL: Told = Told(At::Other, "a disk of PostgreSQL on node HIT is full, 0 MB", "make space");

/// The table.
pub(crate) const CASES: &[Case] = &[
    Case(
        "killed_postmaster_of_a_standby_is_told_while_it_lasts",
        Hit::Standby,
        |cast| kill(cast, KillTarget::Postmaster),
        &[ENDED],
    ),
    Case(
        "killed_backend_of_the_primary_is_told_while_it_lasts",
        Hit::Primary,
        |cast| kill(cast, KillTarget::Backend),
        &[ENDED],
    ),
    Case(
        "killed_pgx_of_a_standby_is_told",
        Hit::Standby,
        |cast| kill(cast, KillTarget::Pgx),
        &[NOT_HEARD],
    ),
    Case(
        "killed_pgx_of_the_primary_is_told",
        Hit::Primary,
        |cast| kill(cast, KillTarget::Pgx),
        &[SERVES_NOT, NOT_HEARD],
    ),
    Case(
        "paused_pgx_of_a_standby_is_told",
        Hit::Standby,
        |cast| pause(cast, PauseTarget::Pgx),
        &[NOT_HEARD],
    ),
    Case(
        "paused_backends_are_told_on_their_host",
        Hit::Primary,
        |cast| pause(cast, PauseTarget::Backend),
        &[Told(At::Hit, "this host's query has not answered", "PostgreSQL's log")],
    ),
    Case(
        "paused_postgresql_of_a_standby_is_told",
        Hit::Standby,
        |cast| pause(cast, PauseTarget::Postgres),
        &[Told(At::Hit, "this host's query has not answered", "counts as hung after"), HANGS],
    ),
    Case(
        "paused_postmaster_of_the_primary_is_told",
        Hit::Primary,
        |cast| pause(cast, PauseTarget::Postmaster),
        &[Told(At::Hit, "this host's connection has not answered", "'ps'"), HANGS],
    ),
    Case(
        "frozen_host_of_a_standby_is_told",
        Hit::Standby,
        |cast| pause(cast, PauseTarget::All),
        &[NOT_HEARD],
    ),
    Case(
        "stopped_host_of_the_primary_is_told",
        Hit::Primary,
        |cast| Fault::Stop { host: cast.hit.clone() },
        &[SERVES_NOT, NOT_HEARD],
    ),
    Case(
        "standby_without_power_is_told",
        Hit::Standby,
        |cast| Fault::PowerOff { host: cast.hit.clone() },
        &[NOT_HEARD],
    ),
    Case(
        "cut_host_of_the_primary_is_told",
        Hit::Primary,
        |cast| cut(cast, Direction::Both),
        &[SERVES_NOT, NOT_HEARD, REACHES_NOBODY],
    ),
    Case(
        "host_of_a_standby_that_hears_nobody_is_told",
        Hit::Standby,
        |cast| cut(cast, Direction::Inbound),
        &[NOT_HEARD, REACHES_NOBODY],
    ),
    Case(
        "host_of_a_standby_that_nobody_hears_is_told",
        Hit::Standby,
        |cast| cut(cast, Direction::Outbound),
        &[NOT_HEARD, REACHES_NOBODY],
    ),
    Case(
        "two_hosts_that_do_not_hear_each_other_are_told",
        Hit::Follower,
        part,
        &[Told(
            At::Proxy,
            "nodes HIT and OTHER do not hear each other, and others hear both",
            "mend the network between these hosts",
        )],
    ),
    Case(
        "host_that_does_not_hear_the_coordinators_is_told",
        Hit::Coordinator,
        part,
        // The other may coordinate next.
        &[Told(At::Proxy, "hear", "mend the network between")],
    ),
    Case(
        "host_that_loses_frames_is_told",
        Hit::Standby,
        |cast| Fault::Loss { host: cast.hit.clone(), percent: 20 },
        &[LOST],
    ),
    Case(
        "host_whose_frames_are_late_is_told",
        Hit::Standby,
        |cast| Fault::Delay { host: cast.hit.clone(), ms: 150, jitter_ms: 20 },
        &[LATE],
    ),
    Case(
        "full_disk_of_a_standby_is_told",
        Hit::Standby,
        |cast| Fault::FillDisk { host: cast.hit.clone() },
        &[FULL],
    ),
    Case(
        "full_disk_of_the_primary_is_told",
        Hit::Primary,
        |cast| Fault::FillDisk { host: cast.hit.clone() },
        &[FULL],
    ),
    Case(
        "slow_disk_of_a_standby_is_told",
        Hit::Standby,
        slow,
        &[Told(At::Other, "a disk of PostgreSQL on node HIT is slow", "that standby")],
    ),
    Case(
        "slow_disk_of_the_primary_is_told",
        Hit::Primary,
        slow,
        &[Told(At::Other, "a disk of PostgreSQL on node HIT is slow", "ctl switchover'")],
    ),
];

fn kill(cast: &Cast, target: KillTarget) -> Fault {
    Fault::Kill { host: cast.hit.clone(), target }
}

fn pause(cast: &Cast, target: PauseTarget) -> Fault {
    Fault::Pause { host: cast.hit.clone(), target }
}

fn cut(cast: &Cast, direction: Direction) -> Fault {
    Fault::Cut { host: cast.hit.clone(), direction }
}

fn part(cast: &Cast) -> Fault {
    Fault::Part { a: cast.hit.clone(), b: cast.other.clone() }
}

fn slow(cast: &Cast) -> Fault {
    Fault::SlowFsync { host: cast.hit.clone(), ms: 1_200 }
}

/// Makes the fault, waits until all of it is told, heals, and waits until nothing is.
pub(crate) fn tell(chaos: &Chaos, Case(_, hit, make, told): &Case) -> anyhow::Result<()> {
    let lab = chaos.lab();
    let primary = lab.wait_for_calm(1)?.host();
    wait_until_well(lab)?;
    let cast = cast(lab, *hit, &primary)?;
    let id = lab.fault(&make(&cast))?;
    let seen = told.iter().try_for_each(|told| wait_until_told(lab, &cast, told));
    lab.heal(id)?;
    seen?;
    wait_until_well(lab)
}

fn cast(lab: &Lab, hit: Hit, primary: &str) -> anyhow::Result<Cast> {
    let names = lab.data_hosts().map(|host| host.plan().name.clone());
    let coordinator = leader(lab, primary)?;
    let (hit, apart) = match hit {
        Hit::Primary => (Some(primary.to_owned()), primary),
        Hit::Standby => (None, primary),
        Hit::Coordinator => (Some(coordinator.clone()), &*coordinator),
        Hit::Follower => (None, &*coordinator),
    };
    let mut rest = names.filter(|name| *name != apart);
    let hit = hit.or_else(|| rest.next()).context("nobody to be hit")?;
    Ok(Cast { hit, other: rest.next().context("nobody else")? })
}

fn wait_until_told(lab: &Lab, cast: &Cast, Told(at, cause, next): &Told) -> anyhow::Result<()> {
    let host = match at {
        At::Other => &cast.other,
        At::Hit => &cast.hit,
        At::Proxy => "p1",
    };
    let filled =
        |words: &str| words.replace("HIT", &cast.hit[1..]).replace("OTHER", &cast.other[1..]);
    let (cause, next) = (filled(cause), filled(next));
    let has = |trouble: &Value, key: &str, words: &str| {
        trouble[key].as_str().is_some_and(|text| text.contains(words))
    };
    wait_for(&format!("{host} tells {cause:?} and {next:?}"), LIMIT, || {
        let found = troubles(lab, host).unwrap_or_default();
        found.iter().any(|one| has(one, "cause", &cause) && has(one, "next", &next))
    })
    .with_context(|| format!("it tells {:?}", troubles(lab, host)))
}

/// No host tells anything any more, what has passed included.
fn wait_until_well(lab: &Lab) -> anyhow::Result<()> {
    for host in lab.members().map(|host| &host.plan().name) {
        wait_for(&format!("{host} tells nothing"), LIMIT, || {
            troubles(lab, host).is_some_and(|found| found.is_empty())
        })
        .with_context(|| format!("it tells {:?}", troubles(lab, host)))?;
    }
    Ok(())
}

fn troubles(lab: &Lab, host: &str) -> Option<Vec<Value>> {
    lab.pgx_status(host).ok()?["troubles"].as_array().cloned()
}
