//! `cargo xtask demo`: the main job, shown: three hosts, one address and clients that write, while
//! the primary is killed, its host frozen, and another chosen; and what the way through pgx costs.

mod speed;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::{Child, Stdio};

use anyhow::{Context, bail, ensure};
use pgx_tests::chaos::{Chaos, LIMIT, Trial, sql};
use pgx_tests::lab::spec::{POSTGRES_PORT, PROXY_PORT, vip_v4};
use pgx_tests::lab::{Fault, KillTarget, Lab, PauseTarget, Spec, build, wait_for};

use self::speed::Way;
use crate::spread::spread;
use crate::{pgbench, setup};

const NAME: &str = "demo";
/// The load of pgbench while something happens: so many clients, transactions a second, and
/// seconds: longer than what happens takes.
const CLIENTS: usize = 4;
const RATE: usize = 40;
const SECONDS: &str = "8";
/// That many commits more show that clients can write.
const SOME: usize = 20;
/// The room that hosts have, since each change of primary keeps a segment for a while.
const DISK_MB: u32 = 4096;

/// Arguments of `demo`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Lets each happen once instead of three times, and measures shorter
    #[arg(long)]
    quick: bool,
    /// Leaves the lab up and says how to reach it
    #[arg(long)]
    keep: bool,
    /// Concurrent clients while the ways are compared
    #[arg(long, default_value_t = 8)]
    clients: u32,
    /// Shows this pgx instead of building one
    #[arg(long)]
    pgx: Option<PathBuf>,
}

/// What happens.
#[derive(Clone, Copy)]
enum Act {
    Kill,
    Freeze,
    Switchover,
}

/// What came of one kind.
#[derive(Default)]
struct Seen {
    gaps_ms: Vec<u64>,
    commits: u64,
    lost: u64,
    /// What must never be.
    wrong: Vec<String>,
    errors: BTreeMap<String, u64>,
    /// Of pgbench: its transactions, and its clients that were cut off.
    transactions: u64,
    cut_off: usize,
}

impl Act {
    const ALL: [Self; 3] = [Self::Kill, Self::Freeze, Self::Switchover];

    fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill -9 of the primary",
            Self::Freeze => "host of the primary frozen",
            Self::Switchover => "planned switchover",
        }
    }

    fn fault(self, host: String) -> Option<Fault> {
        match self {
            Self::Kill => Some(Fault::Kill { host, target: KillTarget::Postmaster }),
            Self::Freeze => Some(Fault::Pause { host, target: PauseTarget::All }),
            Self::Switchover => None,
        }
    }
}

/// Runs the demo.
///
/// # Errors
/// When the machine lacks something that cannot be installed, or a step fails.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("the demo makes network namespaces and loads BPF, which takes root; use sudo");
    }
    setup::ensure(setup::LAB)?;
    let pgx = build::pgx_or(args.pgx.as_deref())?;
    // An earlier demo that was kept makes room for this one.
    Lab::down(NAME)?;
    let spec = Spec { control: true, kernel: true, plain_vip: false, ..Spec::new(NAME) };
    let lab = Lab::up(&Spec { pgx: Some(pgx), disk_mb: DISK_MB, ..spec })?;
    let mut chaos = Chaos::of(lab);
    let outcome = show(&chaos, args);
    if args.keep {
        chaos.keep();
        println!("\nThe lab is still up:");
        println!("  cargo xtask lab status --name {NAME}");
        let at = format!("-h {} -p {PROXY_PORT} -U postgres", vip_v4());
        println!("  cargo xtask lab exec --name {NAME} client -- psql {at}");
        let pgx = pgx_path(chaos.lab())?;
        println!("  cargo xtask lab exec --name {NAME} n1 -- {pgx} ctl status");
        println!("  cargo xtask lab down --name {NAME}");
    } else {
        eprintln!("demo: taking the lab down");
    }
    outcome
}

fn show(chaos: &Chaos, args: &Args) -> anyhow::Result<()> {
    let lab = chaos.lab();
    let primary = lab.wait_for_calm(1)?.host();
    let vip = vip_v4().to_string();
    wait_for("the address serves", LIMIT, || sql(lab, &vip, PROXY_PORT, "select 1").is_ok())?;
    eprintln!("demo: filling pgbench's tables through the address");
    pgbench::fill(lab, (&vip, &PROXY_PORT.to_string()))?;
    let direct = lab.host(&primary)?.plan().v4().to_string();
    let ways = [Way::new("direct", direct, POSTGRES_PORT), Way::new("VIP -> pgx", vip, PROXY_PORT)];
    let (rounds, load) = if args.quick { (1, (1, 2)) } else { (3, (3, 5)) };
    let speed = speed::compare(lab, load, args.clients, ways)?;
    let mut all: Vec<_> = Act::ALL.iter().map(|act| (*act, Seen::default())).collect();
    for round in 1..=rounds {
        for (act, seen) in &mut all {
            eprintln!("demo: round {round} of {rounds}, {}", act.name());
            if let Err(error) = watch(chaos, *act, seen) {
                return Err(chaos.keep_logs_of(NAME, error).context(act.name()));
            }
        }
    }
    println!("\n{speed}");
    println!("{}", report(&all));
    let status = lab.host("n1")?.output(None, &[&pgx_path(lab)?, "ctl", "status"])?;
    println!("pgx ctl status on n1:\n{status}");
    let wrong: Vec<_> = all.iter().flat_map(|(_, seen)| &seen.wrong).collect();
    ensure!(wrong.is_empty(), "{wrong:#?}");
    Ok(())
}

/// Lets it happen while clients write through the address.
fn watch(chaos: &Chaos, act: Act, seen: &mut Seen) -> anyhow::Result<()> {
    let lab = chaos.lab();
    let vip = SocketAddr::new(IpAddr::V4(vip_v4()), PROXY_PORT);
    let trial = chaos.begin_at(&[vip], 1)?;
    let load = start_pgbench(lab)?;
    writes_go_on(&trial)?;
    let primary = trial.before.host();
    let from = trial.checker.clock();
    let fault = act.fault(primary.clone()).map(|fault| lab.fault(&fault)).transpose()?;
    if fault.is_none() {
        lab.ask(&primary, &["switchover"])?;
    }
    let mut names = lab.data_hosts().map(|host| host.plan().name.as_str());
    let witness = names.find(|name| *name != primary).context("one data host")?;
    trial.wait_for_another(witness)?;
    writes_go_on(&trial)?;
    let to = trial.checker.clock();
    fault.map(|id| lab.heal(id)).transpose()?;
    let outcome = trial.end()?;
    let said = load.wait_with_output()?;
    let (text, complained) =
        (String::from_utf8_lossy(&said.stdout), String::from_utf8_lossy(&said.stderr));
    let gap = outcome.record.longest_gap(from, to).length();
    seen.gaps_ms.push(u64::try_from(gap.as_millis())?);
    seen.commits += outcome.record.counts().acknowledged;
    seen.lost += outcome.lost();
    seen.wrong.extend(outcome.check().err().map(|error| format!("{error:#}")));
    for (error, count) in outcome.record.error_counts {
        *seen.errors.entry(error).or_default() += count;
    }
    // One whose clients were all cut off says nothing of them.
    seen.transactions += pgbench::number::<u64>(&text, pgbench::TRANSACTIONS).unwrap_or(0);
    seen.cut_off += complained.lines().filter(|line| line.contains("aborted in")).count();
    Ok(())
}

fn writes_go_on(trial: &Trial<'_>) -> anyhow::Result<()> {
    let before = trial.checker.commits_through(0);
    wait_for("commits through the address", LIMIT, || {
        trial.checker.commits_through(0) >= before + SOME
    })
}

/// The load of an application that knows nothing of all this.
fn start_pgbench(lab: &Lab) -> anyhow::Result<Child> {
    let (vip, port) = (vip_v4().to_string(), PROXY_PORT.to_string());
    let (clients, rate) = (CLIENTS.to_string(), RATE.to_string());
    let load = ["--no-vacuum", "--client", &clients, "--rate", &rate, "--time", SECONDS];
    let words = pgbench::words((&vip, &port), &load);
    let mut command = lab.host("client")?.command(&words)?;
    Ok(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?)
}

fn pgx_path(lab: &Lab) -> anyhow::Result<String> {
    let path = lab.spec().pgx.as_ref().context("the lab runs no pgx")?;
    Ok(path.display().to_string())
}

fn report(all: &[(Act, Seen)]) -> String {
    let rounds = all.first().map_or(0, |(_, seen)| seen.gaps_ms.len());
    let mut text = format!(
        "clients write through the address while this happens, {rounds} times each\n\n\
         {:<28} {:>10} {:>9} {:>9} {:>5}  {:<36} clients were told\n",
        "", "write gap", "longest", "commits", "lost", "pgbench beside them"
    );
    for (act, seen) in all {
        let gaps = &seen.gaps_ms;
        let [_, median, longest] = spread(gaps.iter().copied()).unwrap_or_default();
        let errors: Vec<_> =
            seen.errors.iter().map(|(error, count)| format!("{error} x{count}")).collect();
        let errors = if errors.is_empty() { "nothing".to_owned() } else { errors.join(", ") };
        let Seen { commits, lost, transactions, cut_off, .. } = seen;
        let clients = CLIENTS * gaps.len();
        let beside = format!("{transactions} done, {cut_off} of {clients} cut off");
        text += &format!(
            "{:<28} {median:>7} ms {longest:>6} ms {commits:>9} {lost:>5}  {beside:<36} {errors}\n",
            act.name()
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn report_has_a_line_for_each_that_happened() {
        let seen = Seen { gaps_ms: vec![400, 300, 900], commits: 7, ..Seen::default() };
        let text = report(&[(Act::Kill, seen)]);
        let line = text.lines().last().unwrap();
        assert!(line.contains("400 ms") && line.contains("900 ms"), "{line}");
        assert!(line.ends_with("nothing"), "{line}");
    }
}
