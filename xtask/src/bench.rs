//! `cargo xtask bench`: measures on this machine what the documentation states.

mod cpu;
mod engines;
mod idle;
mod kernel;
mod load;
mod logins;
mod peers;
mod pgbench;
pub(crate) mod stats;
mod xdp;

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use nix::sys::signal::Signal;
use pgx_tests::cluster::{Cluster, WAIT_MAX, ask, control, wait_for_coordinator};
use pgx_tests::database::Database;
use pgx_tests::lab::{build, wait_for, wait_for_some};
use pgx_tests::node::Node;
use serde_json::Value;

use self::cpu::TICKS_PER_S;

/// How long a voter that has started keeps quiet, and some more.
const QUIET_MS: u64 = 3_000;

/// How often a survivor is asked while a coordinator is missing.
const LOOK: Duration = Duration::from_millis(2);

/// Arguments of `bench`.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// Three nodes on loopback: elections after kill -9 under a real primary, and their cost idle
    Control {
        /// How many coordinators are killed
        #[arg(long, default_value_t = 20)]
        rounds: usize,
        /// How long the idle cluster is watched, in seconds
        #[arg(long, default_value_t = 30)]
        idle_s: u64,
        /// Measures an optimised build
        #[arg(long)]
        release: bool,
    },
    /// Bare forwarders on our engine, tokio and tokio-uring under pgbench, beside no forwarder
    Engines(engines::Args),
    /// Memory of pgx for clients that have logged in and say nothing
    Idle(idle::Args),
    /// The fence, and the address under its lease, under pgbench, beside neither
    Kernel(kernel::Args),
    /// Many clients that log in at once or guess passwords, beside one that is in
    Logins(logins::Args),
    /// pgx, pgbouncer, haproxy and no proxy under pgbench, in turn
    Pgbench(pgbench::Args),
    /// The BPF programs, each with its packets: nanoseconds a packet
    Xdp(xdp::Args),
}

/// Measures and prints.
///
/// # Errors
/// When the cluster does not do what is to be measured.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    match &args.what {
        What::Control { rounds, idle_s, release } => {
            let binary = build::pgx(*release)?;
            control_plane(&binary, *rounds, Duration::from_secs(*idle_s))
        }
        What::Engines(args) => engines::run(args),
        What::Idle(args) => idle::run(args),
        What::Kernel(args) => kernel::run(args),
        What::Logins(args) => logins::run(args),
        What::Pgbench(args) => pgbench::run(args),
        What::Xdp(args) => xdp::run(args),
    }
}

fn control_plane(binary: &Path, rounds: usize, idle: Duration) -> anyhow::Result<()> {
    let mut cluster = Cluster::new(binary, 3)?;
    let database = Database::start()?;
    cluster.configure(1, &database.section());
    let mut nodes = cluster.begin(3)?;
    wait_for("the cluster begins", WAIT_MAX, || {
        ask(&nodes[1], &["bootstrap", "--node", "1"]).is_ok()
    })?;
    wait_for("the lease is held", WAIT_MAX, || {
        control(&nodes[0]).is_some_and(|seen| lease(&seen, "remaining_ms").is_some())
    })?;
    measure_idle(&nodes, idle)?;
    let mut took = Vec::new();
    for round in 1..=rounds {
        let each = kill_coordinator(&cluster, &mut nodes)
            .with_context(|| format!("in round {round} of {rounds}"))?;
        took.push(each);
    }
    took.sort_unstable();
    let median = took.get(took.len() / 2).context("no rounds")?;
    let [shortest, .., longest] = &took[..] else { return Ok(()) };
    let seen = control(&nodes[0]).context("node 1 does not answer")?;
    let least = lease(&seen, "remaining_ms_least").context("node 1 holds no lease")?;
    let ms = |time: &Duration| time.as_secs_f64() * 1e3;
    println!("\nkill -9 of the coordinator until another decides, {} rounds", took.len());
    println!("  {:<34} {:>8.0} ms", "shortest", ms(shortest));
    println!("  {:<34} {:>8.0} ms", "median", ms(median));
    println!("  {:<34} {:>8.0} ms", "longest", ms(longest));
    println!("  {:<34} {:>8} ms", "primary's lease: least that was left", least);
    let epoch = &seen["epoch"];
    ensure!(epoch["epoch"] == 0 && epoch["sealed"].is_null(), "the primary was sealed: {epoch}");
    Ok(())
}

/// Kills a coordinator that is not the primary's node, and brings it back.
fn kill_coordinator(cluster: &Cluster, nodes: &mut [Node]) -> anyhow::Result<Duration> {
    let all: Vec<_> = nodes.iter().collect();
    if wait_for_coordinator(&all)? == 1 {
        ask(&nodes[0], &["transfer", "--to", "2"])?;
        wait_for("node 1 hands its office on", WAIT_MAX, || {
            control(&nodes[0]).is_some_and(|seen| seen["coordinator"].as_u64() > Some(1))
        })?;
    }
    let old = wait_for_coordinator(&nodes.iter().collect::<Vec<_>>())?;
    let place = usize::try_from(old)? - 1;
    let others: Vec<_> = (0..nodes.len()).filter(|at| *at != place).collect();
    let start = Instant::now();
    nodes[place].end(Signal::SIGKILL)?;
    let took = loop {
        ensure!(start.elapsed() < WAIT_MAX, "nobody took over from node {old}");
        let decides = |at: &usize| {
            let status = nodes[*at].status_quickly();
            status.is_ok_and(|status| status["control"]["decides"] == true)
        };
        if others.iter().any(decides) {
            break start.elapsed();
        }
        std::thread::sleep(LOOK);
    };
    nodes[place].start_again(&cluster.sections(place + 1))?;
    // Before it promises again, one more loss would take the primary's lease.
    wait_for_some("the node that came back counts", WAIT_MAX, || {
        let up_ms = nodes[place].status_quickly().ok()?["up_ms"].as_u64()?;
        (up_ms > QUIET_MS).then_some(())
    })?;
    Ok(took)
}

fn measure_idle(nodes: &[Node], idle: Duration) -> anyhow::Result<()> {
    let look = |node: &Node| -> anyhow::Result<(f64, u64)> {
        Ok((cpu_s(node.process_id())?, sent(&node.status_quickly()?)?))
    };
    let before: anyhow::Result<Vec<_>> = nodes.iter().map(look).collect();
    let start = Instant::now();
    std::thread::sleep(idle);
    let after: anyhow::Result<Vec<_>> = nodes.iter().map(look).collect();
    let elapsed = start.elapsed().as_secs_f64();
    let coordinator = wait_for_coordinator(&nodes.iter().collect::<Vec<_>>())?;
    println!("idle for {elapsed:.0} s, with a primary on node 1 that renews its lease");
    println!("  {:<8} {:>10} {:>16}", "node", "% of a CPU", "messages/s sent");
    for (number, (before, after)) in (1..).zip(before?.into_iter().zip(after?)) {
        let cpu = (after.0 - before.0) / elapsed * 100.0;
        let messages = f64::from(u32::try_from(after.1 - before.1)?) / elapsed;
        let role = if number == coordinator { "coordinates" } else { "" };
        println!("  {number:<8} {cpu:>10.2} {messages:>16.1}  {role}");
    }
    Ok(())
}

/// Seconds of CPU that a process has used.
fn cpu_s(process: u32) -> anyhow::Result<f64> {
    let text = std::fs::read_to_string(format!("/proc/{process}/stat"))?;
    // The name in parentheses may have spaces; user and system time are fields 14 and 15.
    let rest = text.rsplit_once(')').context("no name in stat")?.1;
    let ticks = |field: usize| -> anyhow::Result<u32> {
        Ok(rest.split_whitespace().nth(field - 3).context("stat is short")?.parse()?)
    };
    Ok(f64::from(ticks(14)? + ticks(15)?) / TICKS_PER_S)
}

fn sent(status: &Value) -> anyhow::Result<u64> {
    let peers = status["peers"].as_array().context("no peers")?;
    Ok(peers.iter().filter_map(|peer| peer["sent_total"].as_u64()).sum())
}

fn lease(seen: &Value, field: &str) -> Option<u64> {
    let leases = seen["leases"].as_array()?;
    leases.iter().find(|lease| lease["kind"] == "primary")?[field].as_u64()
}
