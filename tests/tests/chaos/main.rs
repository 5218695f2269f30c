//! Hosts of a cluster fail while clients write through all its proxies: service goes on, and no
//! commit that was acknowledged is lost.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, ensure};
use libtest_mimic::Arguments;
use pgx_tests::checker::{Checker, Place, Plan, Record};
use pgx_tests::lab::helper::dispatch;
use pgx_tests::lab::spec::{POSTGRES_PORT, PROXY_PORT};
use pgx_tests::lab::{
    Direction, Epoch, Fault, FaultId, KillTarget, Lab, PauseTarget, Spec, build, wait_for,
    wait_for_some,
};
use pgx_tests::skip::{Requirement, trial};

const NAME: &str = "chaos";
/// How long anything may take on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);
/// That many commits more show that an address serves.
const SOME: usize = 20;

/// What happens to the host of the primary.
type Make = fn(String) -> Fault;

const TESTS: &[(&str, Make)] = &[
    ("killed_postmaster_of_the_primary", |host| Fault::Kill {
        host,
        target: KillTarget::Postmaster,
    }),
    ("killed_pgx_of_the_primary", |host| Fault::Kill { host, target: KillTarget::Pgx }),
    ("paused_pgx_of_the_primary", |host| Fault::Pause { host, target: PauseTarget::Pgx }),
    ("stopped_host_of_the_primary", |host| Fault::Stop { host }),
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
    let shared = Arc::new(Shared::default());
    let trials = TESTS
        .iter()
        .map(|&(name, make)| {
            let shared = Arc::clone(&shared);
            trial(name, &[Requirement::Lab], move || shared.run(name, make))
        })
        .collect();
    let conclusion = libtest_mimic::run(&arguments, trials);
    if let Err(error) = shared.down() {
        eprintln!("{error:#}");
    }
    conclusion.exit_code()
}

/// One lab for all tests, until one fails.
#[derive(Default)]
struct Shared(Mutex<Option<Lab>>);

impl Shared {
    fn run(&self, name: &str, make: Make) -> anyhow::Result<()> {
        let mut place = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let lab = match place.take() {
            Some(lab) => lab,
            None => up()?,
        };
        let outcome = survive(&lab, name, make);
        let Err(error) = outcome else {
            *place = Some(lab);
            return Ok(());
        };
        let kept = keep_logs(&lab, name)?;
        Lab::down(NAME)?;
        Err(error.context(format!("logs are in {}", kept.display())))
    }

    fn down(&self) -> anyhow::Result<()> {
        let mut place = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if place.take().is_some() {
            Lab::down(NAME)?;
        }
        Ok(())
    }
}

fn up() -> anyhow::Result<Lab> {
    let pgx = Some(build::pgx(false)?);
    // A run that was killed may have left one.
    Lab::down(NAME)?;
    Lab::up(&Spec { pgx, control: true, ..Spec::new(NAME) })
}

/// Copies what pgx and PostgreSQL of each host have logged.
fn keep_logs(lab: &Lab, test: &str) -> anyhow::Result<PathBuf> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("chaos").join(test);
    std::fs::create_dir_all(&folder)?;
    for host in lab.data_hosts() {
        let name = &host.plan().name;
        let logs = [
            ("pgx", lab.log(name, "pgx")),
            ("postgresql", host.file("/var/lib/pgx/data.pgx/server.log")),
        ];
        for (service, path) in logs {
            // There may be none.
            let _ = std::fs::copy(path, folder.join(format!("{name}.{service}.log")));
        }
    }
    Ok(folder)
}

/// Makes the fault under load, waits until the others serve, heals it, and looks what is there.
fn survive(lab: &Lab, name: &str, make: Make) -> anyhow::Result<()> {
    let before = lab.wait_for_calm(1)?;
    let plan = plan(lab)?;
    let primary = address(lab, &before.host(), POSTGRES_PORT)?;
    Checker::prepare(&Place::at(primary, &plan), &plan)?;
    let checker = Checker::start(plan.clone())?;
    checker.wait_for_commits(50, LIMIT)?;

    let from = checker.clock();
    let id = lab.fault(&make(before.host()))?;
    let outcome = fail_over(lab, &checker, before, id);
    let (gap_to, next) = match outcome {
        Ok(done) => done,
        Err(error) => {
            let record = checker.record();
            return Err(error.context(format!("clients saw {:?}", record.error_counts)));
        }
    };
    let record = checker.stop()?;
    let gap = record.longest_gap(from, gap_to).length();
    eprintln!(
        "{name}: no commit for {:.2} s; errors {:?}; {} is the primary after {}",
        gap.as_secs_f64(),
        record.error_counts,
        next.host(),
        before.host()
    );
    compare(lab, &plan, &record, next)
}

/// Gives until when to look for the gap, and the epoch after all.
fn fail_over(
    lab: &Lab,
    checker: &Checker,
    before: Epoch,
    id: FaultId,
) -> anyhow::Result<(Duration, Epoch)> {
    let others: Vec<usize> = (0..3).filter(|at| at + 1 != usize::from(before.holder)).collect();
    let witness = format!("n{}", others[0] + 1);
    wait_for_some("another primary", LIMIT, || {
        let seen = lab.epoch(&witness).ok()?;
        (seen.number > before.number && seen.holder != before.holder).then_some(seen)
    })?;
    for at in others {
        let so_far = checker.commits_through(at);
        let what = format!("commits through n{}", at + 1);
        wait_for(&what, LIMIT, || checker.commits_through(at) >= so_far + SOME)?;
    }
    let gap_to = checker.clock();
    lab.heal(id)?;
    let next = lab.wait_for_calm(before.number + 1)?;
    ensure!(next.holder != before.holder, "{next:?} after {before:?}");
    checker.wait_for_commits(50, LIMIT)?;
    Ok((gap_to, next))
}

fn compare(lab: &Lab, plan: &Plan, record: &Record, epoch: Epoch) -> anyhow::Result<()> {
    record.check()?;
    let primary = epoch.host();
    let end = sql(lab, &primary, "select pg_current_wal_insert_lsn()")?;
    for host in lab.data_hosts() {
        let name = &host.plan().name;
        if *name != primary {
            let query = format!("select pg_last_wal_replay_lsn() >= '{end}'");
            wait_for(&format!("{name} has all that {primary} has"), LIMIT, || {
                sql(lab, name, &query).is_ok_and(|said| said == "t")
            })?;
        }
        let place = Place::at(address(lab, name, POSTGRES_PORT)?, plan);
        record.compare(&place)?.check().with_context(|| format!("on {name}"))?;
    }
    Ok(())
}

fn plan(lab: &Lab) -> anyhow::Result<Plan> {
    let proxies: anyhow::Result<Vec<_>> =
        ["n1", "n2", "n3"].iter().map(|host| address(lab, host, PROXY_PORT)).collect();
    let network = format!("/proc/{}/ns/net", lab.host("client")?.init().pid);
    let plan = Plan::new(&proxies?);
    Ok(Plan { network: Some(network.into()), appenders: 6, movers: 2, ..plan })
}

fn address(lab: &Lab, host: &str, port: u16) -> anyhow::Result<SocketAddr> {
    Ok(SocketAddr::new(IpAddr::V4(lab.host(host)?.plan().v4()), port))
}

/// Asks a host's PostgreSQL itself.
fn sql(lab: &Lab, host: &str, query: &str) -> anyhow::Result<String> {
    let at = format!("host={host} port={POSTGRES_PORT} user=postgres dbname=postgres");
    let said = lab.host("client")?.output(None, &["psql", "-XAtc", query, &at])?;
    Ok(said.trim_end().to_owned())
}
