//! The gate of PostgreSQL's port in a real cluster: whatever hangs or dies on the primary's host,
//! nothing of PostgreSQL leaves that host once its lease is over.

mod ear;
mod vip;

use std::io::Write as _;
use std::path::Path;
use std::process::{Child, ExitCode, Stdio};
use std::sync::Arc;

use anyhow::{Context, ensure};
use libtest_mimic::Arguments;
use pgx_tests::chaos::{Chaos, LIMIT, Shared, Trial};
use pgx_tests::lab::helper::dispatch;
use pgx_tests::lab::{Direction, Fault, KillTarget, Lab, PauseTarget, wait_for};
use pgx_tests::skip::{Requirement, trial};
use pgx_tests::tap::{Seen, boot_ns};

use crate::ear::{Ear, PLENTY};

const NAME: &str = "gate-test";
const MS: u64 = 1_000_000;
/// Between a packet's judgement and the time that the kernel writes on it, on a busy host.
const TOLERANCE_NS: u64 = 5 * MS;
/// A node that is back has not become a standby again before that.
const BACK_NS: u64 = 200 * MS;

/// What happens to the host of the primary, in this order; the last is healed first.
type Make = fn(&str) -> Vec<Fault>;

type Test = dyn Fn(&Chaos) -> anyhow::Result<()> + Send;

const FAULTS: &[(&str, Make)] = &[
    ("pgx_stopped", |host| vec![pause(host, PauseTarget::Pgx)]),
    ("pgx_killed", |host| vec![kill(host, KillTarget::Pgx)]),
    ("pgx_and_postgresql_stopped_and_postgresql_wakes_first", |host| {
        vec![pause(host, PauseTarget::Pgx), pause(host, PauseTarget::Postgres)]
    }),
    ("pgx_and_postgresql_killed", |host| {
        vec![kill(host, KillTarget::Pgx), kill(host, KillTarget::Postmaster)]
    }),
    ("host_frozen", |host| vec![pause(host, PauseTarget::All)]),
    ("host_cut_off", |host| vec![cut(host, Direction::Both)]),
    ("host_that_nothing_reaches", |host| vec![cut(host, Direction::Inbound)]),
    ("host_that_nothing_leaves", |host| vec![cut(host, Direction::Outbound)]),
];

pub(crate) fn pause(host: &str, target: PauseTarget) -> Fault {
    Fault::Pause { host: host.to_owned(), target }
}

pub(crate) fn kill(host: &str, target: KillTarget) -> Fault {
    Fault::Kill { host: host.to_owned(), target }
}

pub(crate) fn cut(host: &str, direction: Direction) -> Fault {
    Fault::Cut { host: host.to_owned(), direction }
}

fn main() -> ExitCode {
    match dispatch() {
        Ok(false) => {}
        Ok(true) => return ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            return ExitCode::FAILURE;
        }
    }
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    let shared = Arc::new(Shared::new(NAME, true));
    let in_lab = |name: String, test: Box<Test>| {
        let shared = Arc::clone(&shared);
        let of_test = name.clone();
        trial(&name, &[Requirement::Lab, Requirement::Bpf], move || shared.run(&of_test, &*test))
    };
    let mut trials: Vec<_> = FAULTS
        .iter()
        .map(|&(name, make)| {
            let name = format!("nothing_leaves_after_the_lease_with_{name}");
            in_lab(name, Box::new(move |chaos| shut(chaos, make)))
        })
        .collect();
    for &(name, make) in vip::FAULTS {
        let name = format!("address_is_answered_for_by_one_at_a_time_with_{name}");
        trials.push(in_lab(name, Box::new(move |chaos| vip::moves(chaos, make))));
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    shared.down();
    conclusion.exit_code()
}

/// Makes the faults under load, with clients that come past the proxies as well, and listens to
/// what leaves the host from before them until after they are healed.
fn shut(chaos: &Chaos, make: Make) -> anyhow::Result<()> {
    let trial = chaos.begin(1)?;
    let (lab, primary) = (trial.lab(), trial.before.host());
    let init = lab.host(&primary)?.init().pid;
    let network = format!("/proc/{init}/ns/net");
    let lease_ms = lab.control(&primary)?["settings"]["lease"]["lease_ms"].as_u64();
    let lease = lease_ms.context("its lease")? * MS;
    let ear = Ear::start(Path::new(&network), lab.host(&primary)?.plan().link())?;
    let mut direct = [direct(lab, "client", &primary)?, direct(lab, &primary, &primary)?];
    ear.wait_for_data()?;
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
    let mut healed = None;
    while let Some(fault) = faults.pop() {
        lab.heal(fault)?;
        let at = *healed.insert(boot_ns()?);
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

/// All is well again, and the node is a standby.
fn finish(trial: Trial<'_>, primary: &str) -> anyhow::Result<()> {
    let outcome = trial.end()?;
    outcome.check()?;
    ensure!(outcome.after.host() != primary, "{primary} is the primary again");
    Ok(())
}

/// Nothing but resets, while nobody may let anything out.
fn check(heard: &[Seen], failed: u64, from: u64, to: u64) -> anyhow::Result<()> {
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
    eprintln!("{before} packets before, the last one {early_ms:?} ms before the lease was over");
    Ok(())
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
