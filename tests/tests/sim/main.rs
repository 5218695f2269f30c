//! Whole clusters in one process, with virtual time: the real controller, engine, store, leases
//! and agent on simulated clocks, disks, networks, kernels, servers and clients.
//!
//! One seed gives one run. `cargo xtask sim --help` lists what can be chosen; without arguments a
//! few seeds run. `world.rs` is where to read on; the invariants are in `invariant/`.

mod agent;
mod client;
mod control;
mod counters;
mod event;
mod fault;
mod host;
mod invariant;
mod lease;
mod life;
mod network;
mod operator;
mod postgres;
mod proxy;
mod server;
mod stream;
mod trace;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::Instant;

use counters::Counters;
use invariant::Failure;
use world::{Outcome, World};

/// What can be chosen.
struct Arguments {
    seeds: u64,
    first: u64,
    nodes: Option<u64>,
    /// Prints the story of each run, also where nothing fails.
    story: bool,
    /// Prints nothing but the first failure's invariant and how many seeds it took.
    brief: bool,
    /// Prints the names of the invariants, and runs nothing.
    names: bool,
}

fn main() -> ExitCode {
    let arguments = match parse(std::env::args().skip(1)) {
        Ok(arguments) => arguments,
        Err(text) => {
            eprintln!("{text}");
            return ExitCode::FAILURE;
        }
    };
    if arguments.names {
        println!("{}", invariant::NAMES.join("\n"));
        return ExitCode::SUCCESS;
    }
    run(&arguments)
}

const USAGE: &str = "cargo xtask sim [--seeds N] [--first SEED] [--nodes 3|5] [--story] [--brief]";

fn parse(words: impl Iterator<Item = String>) -> Result<Arguments, String> {
    let mut arguments =
        Arguments { seeds: 12, first: 1, nodes: None, story: false, brief: false, names: false };
    let mut words = words;
    while let Some(word) = words.next() {
        let mut number = || {
            let value = words.next().ok_or(format!("{word} wants a number; {USAGE}"))?;
            value.parse::<u64>().map_err(|error| format!("{word} {value}: {error}"))
        };
        match &*word {
            "--seeds" => arguments.seeds = number()?,
            "--first" => arguments.first = number()?,
            "--nodes" => arguments.nodes = Some(number()?),
            "--story" => arguments.story = true,
            "--brief" => arguments.brief = true,
            "--invariants" => arguments.names = true,
            // What test runners pass to every target.
            "--quiet" | "-q" | "--nocapture" | "--show-output" => {}
            other if other.starts_with('-') => return Err(format!("{other}? {USAGE}")),
            _ => {}
        }
    }
    match arguments.nodes {
        None | Some(3 | 5) => Ok(arguments),
        Some(other) => Err(format!("{other} nodes, expected 3 or 5; {USAGE}")),
    }
}

fn run(arguments: &Arguments) -> ExitCode {
    let began = Instant::now();
    let mut sum = Counters::default();
    for seed in arguments.first..arguments.first.saturating_add(arguments.seeds) {
        // Two thirds of the runs are of three nodes, which are faster and fail in more ways.
        let nodes = arguments.nodes.unwrap_or(if seed % 3 == 0 { 5 } else { 3 });
        let outcome = one(seed, nodes);
        if arguments.story {
            println!("{}", outcome.story);
        }
        if let Some(failure) = &outcome.failure {
            report(arguments, seed, nodes, &outcome, failure);
            return ExitCode::FAILURE;
        }
        sum.add(&outcome.counters);
        let is_first = seed == arguments.first;
        if is_first && one(seed, nodes).hash != outcome.hash {
            println!("seed {seed} gives two different runs");
            return ExitCode::FAILURE;
        }
    }
    if arguments.brief {
        println!("held {}", arguments.seeds);
        return ExitCode::SUCCESS;
    }
    let took = began.elapsed();
    println!("{sum}");
    let each = took.as_secs_f64() * 1e3 / (arguments.seeds.max(1)) as f64;
    println!("processor time           {:.1} s, {each:.1} ms a seed", took.as_secs_f64());
    println!("all invariants held: {}", invariant::NAMES.join(", "));
    ExitCode::SUCCESS
}

/// One run; code under test that panics has failed, too.
fn one(seed: u64, nodes: u64) -> Outcome {
    let ran = catch_unwind(AssertUnwindSafe(|| World::new(seed, nodes).run()));
    ran.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        let what = text.unwrap_or_else(|| "no text".to_owned());
        Outcome {
            failure: Some(Failure { invariant: "panic", what }),
            counters: Counters::default(),
            hash: 0,
            story: String::new(),
        }
    })
}

fn report(arguments: &Arguments, seed: u64, nodes: u64, outcome: &Outcome, failure: &Failure) {
    let tried = seed - arguments.first + 1;
    if arguments.brief {
        println!("failed {}: {tried}", failure.invariant);
        return;
    }
    if !arguments.story {
        println!("{}", outcome.story);
    }
    println!("\nseed {seed}: {}: {}", failure.invariant, failure.what);
    println!("again: cargo xtask sim --seeds 1 --first {seed} --nodes {nodes}");
}
