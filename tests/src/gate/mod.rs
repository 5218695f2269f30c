//! The gate of PostgreSQL's port and the address of a cluster, while their host fails: what leaves
//! the host, and who answers for the address.

mod clients;
mod ear;
mod vip;

use std::io::Write as _;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};
use serde::Serialize;
use serde_json::{Value, json};

use self::ear::{Ear, PLENTY};
use self::vip::Loss;
use crate::chaos::{Chaos, LIMIT, Trial, sql};
use crate::checker::Rng;
use crate::lab::spec::POSTGRES_PORT;
use crate::lab::{Direction, Fault, KillTarget, Lab, PauseTarget, wait_for};
use crate::tap::{Seen, boot_ns};

const MS: u64 = 1_000_000;
/// Between a packet's judgement and the time that the kernel writes on it, on a busy host.
const TOLERANCE_NS: u64 = 5 * MS;
/// A node that is back has not become a standby again before that.
const BACK_NS: u64 = 200 * MS;

/// Who is refused hears of it before that, in seconds.
const REFUSED_S_MAX: u32 = 5;

/// What happens to a host, in this order; the last is healed first.
type Make = fn(&str) -> Vec<Fault>;

/// What is done to a host of which nothing is left to heal.
type Again = fn(&Lab, &str) -> anyhow::Result<()>;

/// One kind of failure, and of what.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    what: What,
    name: &'static str,
}

#[derive(Clone, Copy, Debug)]
enum What {
    /// The host that has the primary.
    Primary(Make),
    /// The one that has the address.
    Address(Loss),
    /// The host that has the primary, which is back at once.
    Restart(Again),
}

/// What was seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Figures {
    /// Of the primary's host: packets with data of PostgreSQL's port before it failed.
    pub packets: usize,
    /// How long before the lease was over the last one left, in milliseconds.
    pub early_ms: Option<u64>,
    /// Of the address: how often somebody said to have it.
    pub claims: usize,
    /// How many clients that came in by it went on in their sessions, at other hosts.
    pub flows: usize,
    /// How long nobody came in by it, or nobody could write after a restart, in milliseconds.
    pub gap_ms: Option<u64>,
    /// How long after another was named the first came in, in milliseconds.
    pub decided_ms: Option<u64>,
}

/// All kinds. A host without power is not among those of the primary: in a lab the kernel survives
/// it, and sends again what was on its way.
pub const CASES: &[Case] = &[
    of_primary("pgx_stopped", |host| vec![pause(host, PauseTarget::Pgx)]),
    of_primary("pgx_killed", |host| vec![kill(host, KillTarget::Pgx)]),
    of_primary("pgx_and_postgresql_stopped_and_postgresql_wakes_first", |host| {
        vec![pause(host, PauseTarget::Pgx), pause(host, PauseTarget::Postgres)]
    }),
    of_primary("pgx_and_postgresql_killed", |host| {
        vec![kill(host, KillTarget::Pgx), kill(host, KillTarget::Postmaster)]
    }),
    of_primary("host_frozen", |host| vec![pause(host, PauseTarget::All)]),
    of_primary("host_cut_off", |host| vec![cut(host, Direction::Both)]),
    of_primary("host_that_nothing_reaches", |host| vec![cut(host, Direction::Inbound)]),
    of_primary("host_that_nothing_leaves", |host| vec![cut(host, Direction::Outbound)]),
    of_address("a_frozen_host", |host| vec![pause(host, PauseTarget::All)]),
    of_address("a_stopped_pgx", |host| vec![pause(host, PauseTarget::Pgx)]),
    of_address("a_killed_pgx", |host| vec![kill(host, KillTarget::Pgx)]),
    of_address("a_host_cut_off", |host| vec![cut(host, Direction::Both)]),
    of_address("a_host_that_hears_nothing", |host| vec![cut(host, Direction::Inbound)]),
    Case { what: What::Address(Loss::Stop), name: "a_pgx_that_is_stopped_in_order" },
    of_restart("pgx_that_was_killed", |lab, host| {
        lab.heal(lab.fault(&kill(host, KillTarget::Pgx))?)
    }),
    of_restart("pgx_that_was_stopped_in_order", |lab, host| {
        lab.stop_pgx(host)?;
        lab.start_pgx(host)
    }),
    of_restart("a_host_that_boots", |lab, host| {
        lab.heal(lab.fault(&Fault::PowerOff { host: host.to_owned() })?)
    }),
];

const fn of_primary(name: &'static str, make: Make) -> Case {
    Case { what: What::Primary(make), name }
}

const fn of_address(name: &'static str, make: Make) -> Case {
    Case { what: What::Address(Loss::Fault(make)), name }
}

const fn of_restart(name: &'static str, again: Again) -> Case {
    Case { what: What::Restart(again), name }
}

fn pause(host: &str, target: PauseTarget) -> Fault {
    Fault::Pause { host: host.to_owned(), target }
}

fn kill(host: &str, target: KillTarget) -> Fault {
    Fault::Kill { host: host.to_owned(), target }
}

fn cut(host: &str, direction: Direction) -> Fault {
    Fault::Cut { host: host.to_owned(), direction }
}

impl Case {
    /// What must hold.
    #[must_use]
    pub fn title(&self) -> String {
        match self.what {
            What::Primary(_) => format!("nothing_leaves_after_the_lease_with_{}", self.name),
            What::Address(_) => {
                format!("address_is_answered_for_by_one_at_a_time_with_{}", self.name)
            }
            What::Restart(_) => format!("no_gate_stays_shut_after_the_start_of_{}", self.name),
        }
    }

    /// Lets it happen, at a moment that the seed names, and heals it.
    ///
    /// # Errors
    /// When something leaves that must not, two answer for the address, a commit is lost, or the
    /// cluster is not as before at the end.
    pub fn run(&self, chaos: &Chaos, seed: u64) -> anyhow::Result<Figures> {
        match self.what {
            What::Primary(make) => shut(chaos, make, seed),
            What::Address(loss) => vip::moves(chaos, loss, seed),
            What::Restart(again) => restart(chaos, again, seed),
        }
    }
}

/// The address of readers goes to the host with the priority, and leads to standbys.
///
/// # Errors
/// When it does not.
pub fn readers(chaos: &Chaos) -> anyhow::Result<()> {
    vip::readers(chaos)
}

/// Renewals go on meanwhile, so what comes next comes at any moment between two of them.
fn wait_a_part_of_a_lease(lab: &Lab, host: &str, seed: u64) -> anyhow::Result<()> {
    let length = Duration::from_nanos(lease_ns(lab, host)?).mul_f64(Rng::new(seed).share());
    let at = boot_ns()? + u64::try_from(length.as_nanos())?;
    wait_for("the moment of this seed", LIMIT, || boot_ns().is_ok_and(|now| now >= at))
}

fn lease_ns(lab: &Lab, host: &str) -> anyhow::Result<u64> {
    let ms = lab.control(host)?["settings"]["lease"]["lease_ms"].as_u64();
    Ok(ms.context("its lease")? * MS)
}

/// Makes the faults under load, with clients that come past the proxies as well, and listens to
/// what leaves the host from before them until after they are healed.
fn shut(chaos: &Chaos, make: Make, seed: u64) -> anyhow::Result<Figures> {
    let trial = chaos.begin(seed)?;
    let (lab, primary) = (trial.lab(), trial.before.host());
    let init = lab.host(&primary)?.init().pid;
    let network = format!("/proc/{init}/ns/net");
    let lease = lease_ns(lab, &primary)?;
    let ear = Ear::start(Path::new(&network), lab.host(&primary)?.plan().link())?;
    let mut direct = [direct(lab, "client", &primary)?, direct(lab, &primary, &primary)?];
    ear.wait_for_data()?;
    wait_a_part_of_a_lease(lab, &primary, seed)?;
    let failed = boot_ns()?;
    let mut faults = Vec::new();
    for fault in make(&primary) {
        faults.push(lab.fault(&fault)?);
    }
    // It was renewed before the last of them at the latest.
    let deadline = boot_ns()? + lease;
    let witness = other(lab, &primary)?;
    trial.wait_for_another(witness)?;
    trial.wait_for_proxies_but(&[&primary])?;
    wait_for("the lease is over", LIMIT, || boot_ns().is_ok_and(|now| now > deadline + lease / 4))?;
    keep_off(lab, witness, &primary)?;
    let mut healed = None;
    while let Some(fault) = faults.pop() {
        // What comes back may be a standby with a lease of its own by the time that it is there.
        let at = *healed.insert(boot_ns()?);
        lab.heal(fault)?;
        if !faults.is_empty() {
            // What wakes says what it has to say.
            wait_for("who woke has had its time", LIMIT, || {
                boot_ns().is_ok_and(|now| now > at + lease / 4)
            })?;
        }
    }
    let healed = healed.context("no fault")?;
    let calm = finish(trial, &primary);
    for load in &mut direct {
        // They end by themselves when they are told.
        let _ = load.kill();
        load.wait()?;
    }
    let heard = ear.end()?;
    calm?;
    check(&heard, failed, deadline + TOLERANCE_NS, healed + BACK_NS)
}

/// Other hosts send nothing to the host's PostgreSQL any more, whatever its own gate does.
fn keep_off(lab: &Lab, witness: &str, host: &str) -> anyhow::Result<()> {
    let address = lab.host(host)?.plan().v4().to_string();
    let fence = || Ok::<_, anyhow::Error>(lab.pgx_status(witness)?["fence"].clone());
    let lists = |value: &Value| value.as_array().is_some_and(|all| all.contains(&json!(address)));
    wait_for(&format!("{witness} keeps off {host}"), LIMIT, || {
        fence().is_ok_and(|fence| lists(&fence["fenced"]))
    })?;
    let refused = || -> anyhow::Result<u64> {
        let packets = fence()?["packets"].as_array().cloned().unwrap_or_default();
        let found = packets.iter().find(|one| one[0] == "fenced_reset");
        Ok(found.and_then(|one| one[1].as_u64()).unwrap_or_default())
    };
    let before = refused()?;
    let server = format!(
        "host={address} port={POSTGRES_PORT} user=postgres connect_timeout={REFUSED_S_MAX}"
    );
    let comes_in = lab.host(witness)?.output(None, &["psql", &server, "-c", "select 1"]);
    ensure!(comes_in.is_err(), "{witness} comes in at {host}");
    ensure!(refused()? > before, "{witness} was not told by its own kernel");
    Ok(())
}

/// What was open is shut or open as it is to be, wherever it was when its host came back.
fn restart(chaos: &Chaos, again: Again, seed: u64) -> anyhow::Result<Figures> {
    let trial = chaos.begin(seed)?;
    let (lab, primary) = (chaos.lab(), trial.before.host());
    wait_a_part_of_a_lease(lab, &primary, seed)?;
    let from = trial.checker.clock();
    again(lab, &primary)?;
    trial.wait_for_proxies_but(&[&primary])?;
    let to = trial.checker.clock();
    let outcome = trial.end()?;
    outcome.check()?;
    for host in lab.data_hosts() {
        let name = &host.plan().name;
        wait_for(&format!("PostgreSQL of {name} answers"), LIMIT, || {
            sql(lab, name, POSTGRES_PORT, "select 1").is_ok()
        })?;
    }
    let gap = outcome.record.longest_gap(from, to).length();
    Ok(Figures { gap_ms: Some(u64::try_from(gap.as_millis())?), ..Figures::default() })
}

/// All is well again, and the node is a standby.
fn finish(trial: Trial<'_>, primary: &str) -> anyhow::Result<()> {
    let outcome = trial.end()?;
    outcome.check()?;
    ensure!(outcome.after.host() != primary, "{primary} is the primary again");
    Ok(())
}

/// Nothing but resets, while nobody may let anything out.
fn check(heard: &[Seen], failed: u64, from: u64, to: u64) -> anyhow::Result<Figures> {
    let before = heard.iter().filter(|one| one.at_ns < failed && one.data > 0).count();
    ensure!(before > PLENTY, "hardly any load: {before} packets");
    let late: Vec<_> =
        heard.iter().filter(|one| one.data > 0 && (from..to).contains(&one.at_ns)).collect();
    if let Some(first) = late.first() {
        let ms = (first.at_ns - from) / MS;
        anyhow::bail!(
            "{} packets with data, the first {ms} ms after the lease: {first:?}",
            late.len()
        );
    }
    let last = heard.iter().filter(|one| one.at_ns < from && one.data > 0).map(|one| one.at_ns);
    let early_ms = last.max().map(|last| (from - last) / MS);
    Ok(Figures { packets: before, early_ms, ..Figures::default() })
}

/// Clients that come past the proxies, and ask without a pause.
fn direct(lab: &Lab, from: &str, primary: &str) -> anyhow::Result<Child> {
    let address = lab.host(primary)?.plan().v4().to_string();
    let words = ["psql", "-XAtq", "-h", &address, "-p", "5432", "-U", "postgres", "postgres"];
    let mut command = lab.host(from)?.command(&words)?;
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn()?;
    let mut input = child.stdin.take().context("no input")?;
    writeln!(input, "select repeat('x', 100) \\watch 0.01")?;
    Ok(child)
}

fn other<'a>(lab: &'a Lab, primary: &str) -> anyhow::Result<&'a str> {
    let mut names = lab.data_hosts().map(|host| host.plan().name.as_str());
    names.find(|name| *name != primary).context("another data host")
}
