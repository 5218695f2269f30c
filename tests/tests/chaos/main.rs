//! Hosts of a cluster fail while clients write through all its proxies: service goes on, and no
//! commit that was acknowledged is lost.

mod told;

use std::io::Write as _;
use std::process::{Child, ExitCode, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use libtest_mimic::Arguments;
use pgx_tests::chaos::{Chaos, LIMIT, Shared, sql};
use pgx_tests::lab::helper::dispatch;
use pgx_tests::lab::spec::PROXY_PORT;
use pgx_tests::lab::{Direction, Fault, KillTarget, Lab, PauseTarget, wait_for, wait_for_some};
use pgx_tests::skip::{Requirement, trial};

const NAME: &str = "chaos-test";
/// A machine that builds and tests is slower than what operators have.
const GAP_MAX: Duration = Duration::from_secs(20);
/// A few of the sequences that `cargo xtask chaos` has many of.
const SEEDS: std::ops::Range<u64> = 1..4;

type Test = dyn Fn(&Chaos) -> anyhow::Result<()> + Send;

/// What happens to the host of the primary.
type Make = fn(String) -> Fault;

const FAULTS: &[(&str, Make)] = &[
    ("killed_postmaster_of_the_primary", |host| Fault::Kill {
        host,
        target: KillTarget::Postmaster,
    }),
    ("killed_pgx_of_the_primary", |host| Fault::Kill { host, target: KillTarget::Pgx }),
    ("paused_pgx_of_the_primary", |host| Fault::Pause { host, target: PauseTarget::Pgx }),
    ("frozen_host_of_the_primary", |host| Fault::Pause { host, target: PauseTarget::All }),
    ("primary_without_power", |host| Fault::PowerOff { host }),
    ("cut_host_of_the_primary", |host| Fault::Cut { host, direction: Direction::Both }),
];

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
    let shared = Arc::new(Shared::new(NAME, None, false).with_slow_disks());
    let in_lab = |name: String, test: Box<Test>| {
        let shared = Arc::clone(&shared);
        let of_test = name.clone();
        trial(&name, &[Requirement::Lab], move || shared.run(&of_test, test))
    };
    let mut trials: Vec<_> = FAULTS
        .iter()
        .map(|&(name, make)| {
            in_lab(name.to_owned(), Box::new(move |chaos| survive(chaos, name, make)))
        })
        .collect();
    trials.extend(
        told::CASES
            .iter()
            .map(|case| in_lab(case.0.to_owned(), Box::new(move |chaos| told::tell(chaos, case)))),
    );
    trials.push(in_lab("cut_host_of_the_coordinator".to_owned(), Box::new(coordinator)));
    trials.push(in_lab("proxy_without_power_in_mid_transaction".to_owned(), Box::new(locks)));
    for seed in SEEDS {
        let name = format!("random_faults_of_seed_{seed}");
        trials.push(in_lab(name, Box::new(move |chaos| random(chaos, seed))));
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    shared.down();
    conclusion.exit_code()
}

/// Makes the fault under load, waits until the others serve, heals it, and looks what is there.
fn survive(chaos: &Chaos, name: &str, make: Make) -> anyhow::Result<()> {
    let trial = chaos.begin(1)?;
    let (lab, before) = (trial.lab(), trial.before);
    let from = trial.checker.clock();
    let id = lab.fault(&make(before.host()))?;
    trial.wait_for_another(other(lab, &before.host())?)?;
    trial.wait_for_proxies_but(&[&before.host()])?;
    let to = trial.checker.clock();
    lab.heal(id)?;
    let outcome = trial.end()?;
    outcome.check()?;
    let (after, record) = (outcome.after, outcome.record);
    ensure!(after.holder != before.holder, "{after:?} after {before:?}");
    let gap = record.longest_gap(from, to).length();
    eprintln!("{name}: no commit for {gap:.2?}; errors {:?}", record.error_counts);
    ensure!(gap < GAP_MAX, "no commit for {gap:?}");
    Ok(())
}

/// Who leads the quorum, and is not the primary, loses its network.
fn coordinator(chaos: &Chaos) -> anyhow::Result<()> {
    let lab = chaos.lab();
    let before = lab.wait_for_calm(1)?;
    if leader(lab, &before.host())? == before.host() {
        lab.ask("n1", &["switchover"])?;
        lab.wait_for_calm(before.number + 1)?;
    }
    let trial = chaos.begin(1)?;
    let before = trial.before;
    let cut = leader(lab, &before.host())?;
    ensure!(cut != before.host(), "{cut} is both");
    let from = trial.checker.clock();
    let id = lab.fault(&Fault::Cut { host: cut.clone(), direction: Direction::Both })?;
    wait_for_some("another coordinator", LIMIT, || {
        leader(lab, &before.host()).ok().filter(|host| *host != cut)
    })?;
    // Clients of the cut host come to the others, with new connections.
    trial.wait_for_proxies_but(&[&cut])?;
    let to = trial.checker.clock();
    let others: anyhow::Result<Vec<_>> = lab
        .hosts()
        .iter()
        .map(|host| host.plan())
        .filter(|plan| plan.kind.runs_pgx() && plan.name != cut)
        .map(|plan| trial.proxy(&plan.name))
        .collect();
    let others = others?;
    lab.heal(id)?;
    let outcome = trial.end()?;
    outcome.check()?;
    ensure!(outcome.after == before, "{:?} after {before:?}", outcome.after);
    for at in others {
        let wait = outcome.record.longest_wait_through(at, from, to);
        ensure!(wait < GAP_MAX, "an answer took {wait:?}");
    }
    let gap = outcome.record.longest_gap(from, to).length();
    eprintln!("no commit for {gap:.2?}; errors {:?}", outcome.record.error_counts);
    Ok(())
}

/// What transactions have locked is free again, though nobody tells PostgreSQL that they are over:
/// of one that has its answer, and of one whose answer nobody takes.
fn locks(chaos: &Chaos) -> anyhow::Result<()> {
    let lab = chaos.lab();
    let primary = lab.wait_for_calm(1)?.host();
    let ask = |text: &str| sql(lab, &primary, PROXY_PORT, text);
    ask("create table held (); create table held_by_busy ()")?;
    let at = format!("host=p1 port={PROXY_PORT} user=postgres dbname=postgres");
    let holder = |text: &[u8]| -> anyhow::Result<Child> {
        let mut psql = lab.host("client")?.command(&["psql", "-Xq", &at])?;
        let mut psql = psql.stdin(Stdio::piped()).spawn()?;
        psql.stdin.as_mut().context("no input")?.write_all(text)?;
        Ok(psql)
    };
    let idle = holder(b"begin; lock table held;\n")?;
    let busy = holder(b"begin; lock table held_by_busy; select pg_sleep(4);\n")?;
    let counts = |what: &str, text: &str, count: &str| {
        wait_for(what, LIMIT, || ask(text).is_ok_and(|said| said == count))
    };
    let sleeps = "select count(*) from pg_stat_activity where wait_event = 'PgSleep'";
    let locks = "select count(*) from pg_locks join pg_class on pg_class.oid = relation
                 where relname like 'held%' and mode = 'AccessExclusiveLock'";
    let begun = || counts("one is busy", sleeps, "1").and_then(|()| counts("locks", locks, "2"));
    let tried = begun().and_then(|()| {
        let id = lab.fault(&Fault::PowerOff { host: "p1".to_owned() })?;
        let since = Instant::now();
        let free = counts("no locks", locks, "0");
        eprintln!("locks were held for {:.1?} more", since.elapsed());
        lab.heal(id)?;
        free
    });
    for mut psql in [idle, busy] {
        psql.kill()?;
        psql.wait()?;
    }
    ask("drop table held, held_by_busy")?;
    tried
}

fn random(chaos: &Chaos, seed: u64) -> anyhow::Result<()> {
    let run = chaos.run(seed, &mut |step| eprintln!("seed {seed}: {step}"))?;
    ensure!(run.is_good(), "{run:#?}");
    Ok(())
}

/// The host of who leads the quorum, as another sees it.
fn leader(lab: &Lab, witness: &str) -> anyhow::Result<String> {
    let seen = lab.control(witness)?;
    Ok(format!("n{}", seen["coordinator"].as_u64().context("nobody coordinates")?))
}

/// A data host but this one.
fn other<'a>(lab: &'a Lab, host: &str) -> anyhow::Result<&'a str> {
    let mut names = lab.data_hosts().map(|host| host.plan().name.as_str());
    names.find(|name| *name != host).context("a lab with one data host")
}
