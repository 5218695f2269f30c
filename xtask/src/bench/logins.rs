//! `cargo xtask bench logins`: many clients that log in at once, and many that guess passwords,
//! beside one that is in already and wants nothing but answers.
//!
//! The many are one thread that runs when nobody else wants to: they take what time the others
//! leave. On a machine that is busy with other work, `nice -n -15` before all of it helps. The CPU
//! that is stated is of a run of its own, without the bystander.

mod bystander;
mod places;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail, ensure};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use pgx_tests::crowd::{self, End, Login, Who};
use pgx_tests::lab::build;

use self::bystander::{Bystander, Latencies, try_connect};
use self::places::{Backend, METHODS, PASSWORD, Place, USERS};
use super::cpu;
use super::stats::{median, percentile};
use crate::setup;

/// Descriptors beside those of the clients.
const SPARE: usize = 200;

/// How long the bystander is watched alone.
const CALM: Duration = Duration::from_secs(2);

/// How long somebody who knows the password waits between two logins.
const PAUSE: Duration = Duration::from_millis(50);

/// Arguments of `bench logins`.
#[derive(clap::Args)]
pub(super) struct Args {
    /// Clients that log in at once
    #[arg(long, default_value_t = 2000)]
    clients: usize,
    /// Wrong passwords
    #[arg(long, default_value_t = 10_000)]
    guesses: usize,
    /// How many of those are tried at once
    #[arg(long, default_value_t = 200)]
    at_once: usize,
    /// How often each is measured, in turn with the others
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Threads of pgx; pgbouncer has one
    #[arg(long, default_value_t = 2)]
    threads: u32,
    /// Only these parts
    #[arg(long, value_delimiter = ',', default_values_t = PARTS.map(str::to_owned))]
    parts: Vec<String>,
    /// Measures this pgx instead of building one
    #[arg(long)]
    pgx: Option<PathBuf>,
}

/// All at once in the clear and encrypted, and guesses.
const PARTS: [&str; 3] = ["plain", "tls", "guesses"];

/// What one storm of logins was like.
struct Storm {
    last_ms: f64,
    p99_ms: f64,
    cpu_us: f64,
    calm: Latencies,
    during: Latencies,
}

/// Measures and prints.
///
/// # Errors
/// When something does not start, or a client is not let in that should be.
pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    ensure!(args.clients > 0 && args.rounds > 0 && args.at_once > 0, "nothing to do");
    for part in &args.parts {
        ensure!(PARTS.contains(&&**part), "no part {part}; there are {PARTS:?}");
    }
    setup::ensure(setup::LAB)?;
    setup::ensure(setup::PEERS)?;
    let places = args.clients.max(args.at_once) + SPARE;
    // One that has left may be counted by its thread when the next comes to another.
    raise_descriptors(2 * places)?;
    let binary = build::pgx_or(args.pgx.as_deref())?;
    cpu::tell_others()?;
    let backend = Backend::start()?;
    let pgx = || backend.pgx(&binary, args.threads, 2 * places);
    let pgbouncer = || backend.pgbouncer("scram-sha-256", 2 * places);
    for part in args.parts.iter().filter(|part| *part != "guesses") {
        let is_encrypted = part == "tls";
        println!(
            "\n{} clients log in at once ({part}); times in ms, CPU a login in us",
            args.clients
        );
        println!(
            "{:<22} {:>8} {:>8} {:>7} {:>16} {:>16} {:>7} {:>8}",
            "", "last", "p99", "CPU", "calm p50, p99", "then p50, p99", "p99 x", "worst"
        );
        let ways: [(&str, &str, Place); 3] = [
            ("pgx, verifier", "verifier", pgx()?),
            ("pgx, password", "password", pgx()?),
            ("pgbouncer, verifier", "verifier", pgbouncer()?),
        ];
        let mut storms: Vec<Vec<Storm>> = ways.iter().map(|_| Vec::new()).collect();
        for round in 0..args.rounds {
            for turn in 0..ways.len() {
                let index = (turn + round) % ways.len();
                let (name, user, place) = &ways[index];
                let one = storm(place, user, args.clients, is_encrypted);
                storms[index].push(one.with_context(|| (*name).to_owned())?);
            }
        }
        for ((name, _, _), of) in ways.iter().zip(&storms) {
            print_storms(name, of);
        }
    }
    if args.parts.iter().any(|part| part == "guesses") {
        guesses(args, &pgx, &|method| backend.pgbouncer(method, 2 * places))?;
    }
    Ok(())
}

fn raise_descriptors(wanted: usize) -> anyhow::Result<()> {
    let wanted = u64::try_from(wanted)?;
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < wanted {
        // Ours and, by inheritance, the proxies'.
        setrlimit(Resource::RLIMIT_NOFILE, wanted, hard.max(wanted))
            .with_context(|| format!("{wanted} descriptors are needed, {soft} allowed"))?;
    }
    Ok(())
}

fn storm(place: &Place, user: &str, count: usize, is_encrypted: bool) -> anyhow::Result<Storm> {
    let mut who = Who::new(place.address, user, METHODS[0], PASSWORD);
    let bystander = Bystander::start(&who)?;
    who.tls = is_encrypted.then(crowd::trusting);
    let who = Arc::new(who);
    let calm = watch(&bystander)?;
    let start = Instant::now();
    let logins = crowd::log_in(&who, count, count, true)?;
    let last_ms = start.elapsed().as_secs_f64() * 1e3;
    let during = bystander.look()?;
    bystander.end()?;
    if let Some(login) = logins.iter().find(|login| login.end != End::In) {
        bail!("a client did not get in: {login:?}");
    }
    let (p99_ms, cpu_us) = (took_ms(&logins, 990)?, cost_us(place, &who, count, count, true)?);
    Ok(Storm { last_ms, p99_ms, cpu_us, calm, during })
}

/// What so many logins cost a proxy while it has nothing else to do, each in microseconds.
fn cost_us(
    place: &Place,
    who: &Arc<Who>,
    count: usize,
    at_once: usize,
    stays: bool,
) -> anyhow::Result<f64> {
    let before = cpu::process_ns(place.process)?;
    crowd::log_in(who, count, at_once, stays)?;
    let ns = cpu::process_ns(place.process)? - before;
    Ok(Duration::from_nanos(ns).as_secs_f64() * 1e6 / f64::from(u32::try_from(count)?))
}

/// Watches the bystander alone.
fn watch(bystander: &Bystander) -> anyhow::Result<Latencies> {
    std::thread::sleep(CALM);
    bystander.look()
}

/// Below what so many of a thousand logins took.
fn took_ms(logins: &[Login], per_mille: usize) -> anyhow::Result<f64> {
    let all: Result<Vec<u64>, _> =
        logins.iter().map(|login| u64::try_from(login.took.as_micros())).collect();
    let mut all = all?;
    all.sort_unstable();
    let us = percentile(&all, per_mille).context("no logins")?;
    Ok(Duration::from_micros(us).as_secs_f64() * 1e3)
}

fn print_storms(name: &str, storms: &[Storm]) {
    let of = |field: fn(&Storm) -> f64| median(storms.iter().map(field));
    println!(
        "{name:<22} {:>8.0} {:>8.0} {:>7.0} {:>16} {:>16} {:>7.2} {:>8.1}",
        of(|storm| storm.last_ms),
        of(|storm| storm.p99_ms),
        of(|storm| storm.cpu_us),
        format!("{:.2}, {:.2}", of(|storm| storm.calm.p50_ms), of(|storm| storm.calm.p99_ms)),
        format!("{:.2}, {:.2}", of(|storm| storm.during.p50_ms), of(|storm| storm.during.p99_ms)),
        of(|storm| storm.during.p99_ms / storm.calm.p99_ms),
        of(|storm| storm.during.worst_ms),
    );
}

/// Guesses, by each method and for each form of secret.
fn guesses(
    args: &Args,
    pgx: &dyn Fn() -> anyhow::Result<Place>,
    pgbouncer: &dyn Fn(&str) -> anyhow::Result<Place>,
) -> anyhow::Result<()> {
    println!(
        "\n{} wrong passwords from one address, {} at once; CPU an attempt in us, times in ms",
        args.guesses, args.at_once
    );
    println!(
        "{:<34} {:>7} {:>8} {:>9} {:>9} {:>12} {:>16} {:>7} {:>12}",
        "", "CPU", "CPU s", "all, s", "p50", "p99, ms", "then p50, p99", "p99 x", "right in"
    );
    for (method, user) in METHODS.iter().flat_map(|method| USERS.map(|user| (*method, user))) {
        guess(&format!("pgx, {method}, {user}"), pgx, args, (method, user))?;
    }
    guess("pgx, scram-sha-256, nobody", pgx, args, (METHODS[0], "nobody"))?;
    guess("pgx, password, nobody", pgx, args, (METHODS[2], "nobody"))?;
    let name = "pgbouncer, scram-sha-256, verifier";
    guess(name, &|| pgbouncer(METHODS[0]), args, (METHODS[0], USERS[2]))?;
    guess("pgbouncer, plain, password", &|| pgbouncer("plain"), args, (METHODS[0], USERS[0]))
}

fn guess(
    name: &str,
    start: &dyn Fn() -> anyhow::Result<Place>,
    args: &Args,
    (method, user): (&str, &str),
) -> anyhow::Result<()> {
    let place = start()?;
    let alone = Arc::new(Who::new(place.address, user, method, "wrong"));
    let each_us = cost_us(&place, &alone, args.guesses, args.at_once, false)?;
    // Nothing of that is remembered by another.
    let place = start()?;
    let who = |user: &str, method: &str, password: &str| {
        Arc::new(Who::new(place.address, user, method, password))
    };
    let bystander = Bystander::start(&who(USERS[0], METHODS[2], PASSWORD))?;
    let calm = watch(&bystander)?;
    let right = who(USERS[0], method, PASSWORD);
    let is_over = Arc::new(AtomicBool::new(false));
    let ends = Arc::clone(&is_over);
    let thread = std::thread::spawn(move || -> anyhow::Result<(u32, u32)> {
        let (mut tried, mut got_in) = (0, 0);
        while !ends.load(Ordering::Relaxed) {
            let (_, end) = try_connect(&right)?;
            (tried, got_in) = (tried + 1, got_in + u32::from(end == End::In));
            std::thread::sleep(PAUSE);
        }
        Ok((tried, got_in))
    });
    let start = Instant::now();
    let logins = crowd::log_in(&who(user, method, "wrong"), args.guesses, args.at_once, false);
    let all_s = start.elapsed().as_secs_f64();
    is_over.store(true, Ordering::Relaxed);
    let logins = logins?;
    let during = bystander.look()?;
    let (tried, got_in) = thread.join().map_err(|_| anyhow!("a client has panicked"))??;
    bystander.end()?;
    ensure!(!logins.iter().any(|login| login.end == End::In), "{name}: a guess got in");
    println!(
        "{name:<34} {each_us:>7.0} {:>8.2} {all_s:>9.1} {:>9.1} {:>12.1} {:>16} {:>7.2} {:>12}",
        each_us * f64::from(u32::try_from(args.guesses)?) / 1e6,
        took_ms(&logins, 500)?,
        took_ms(&logins, 990)?,
        format!("{:.2}, {:.2}", during.p50_ms, during.p99_ms),
        during.p99_ms / calm.p99_ms,
        format!("{got_in} of {tried}"),
    );
    Ok(())
}
