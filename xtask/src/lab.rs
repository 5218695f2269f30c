//! `cargo xtask lab`: the command line of the lab.
//!
//! This file parses and prints; everything else is in `pgx_tests::lab`, so that tests and
//! benchmarks do the same without a command line.

mod fault;

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, bail};
use clap::Subcommand;
use pgx_tests::lab::spec::{DISK_MB_DEFAULT, Spec};
use pgx_tests::lab::{FaultId, Lab, build};

use crate::setup;

/// Arguments of this command.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Which lab; labs of different names live side by side
    #[arg(long, global = true, default_value = "default")]
    name: String,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Brings a lab up: hosts, network, PostgreSQL with its standbys, pgx
    Up(UpArgs),
    /// Takes a lab down, whatever a crash left of it
    Down,
    /// Shows hosts, services and faults
    Status {
        /// For programs
        #[arg(long)]
        json: bool,
    },
    /// Prints how to reach the lab, as lines for a shell to evaluate
    Env {
        /// For programs
        #[arg(long)]
        json: bool,
    },
    /// Runs a command in a host and ends with its exit code
    Exec {
        /// The user to run it as
        #[arg(long)]
        user: Option<String>,
        /// The host
        host: String,
        /// The command
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Makes something go wrong, and prints the number that heals it
    #[command(subcommand)]
    Fault(fault::Verb),
    /// Takes faults back
    Heal {
        /// The faults' numbers, as `status` shows them
        #[arg(required_unless_present = "all")]
        ids: Vec<u32>,
        /// All of them
        #[arg(long, conflicts_with = "ids")]
        all: bool,
    },
    /// Prints the log of a service
    Logs {
        /// The host
        host: String,
        /// The service
        #[arg(value_parser = ["postgresql", "pgx", "init", "relay"], default_value = "postgresql")]
        service: String,
        /// Goes on printing what is appended
        #[arg(long)]
        follow: bool,
    },
}

#[derive(clap::Args)]
struct UpArgs {
    /// Hosts with PostgreSQL and pgx: n1, the first primary, n2, …
    #[arg(long, default_value_t = 3)]
    data: u8,
    /// Hosts with pgx only: p1, p2, …
    #[arg(long, default_value_t = 0)]
    proxies: u8,
    /// A host w1 without data and without clients
    #[arg(long)]
    witness: bool,
    /// The size of each data host's disk
    #[arg(long, default_value_t = DISK_MB_DEFAULT)]
    disk_mb: u32,
    /// The PostgreSQL version; the highest installed if not given
    #[arg(long)]
    pg: Option<String>,
    /// Hosts without PostgreSQL
    #[arg(long, conflicts_with = "pg")]
    no_pg: bool,
    /// The pgx to run; built if not given
    #[arg(long)]
    pgx: Option<PathBuf>,
    /// Builds pgx optimised
    #[arg(long, conflicts_with = "pgx")]
    release: bool,
    /// Hosts without pgx
    #[arg(long, conflicts_with_all = ["pgx", "release"])]
    no_pgx: bool,
    /// Leaves the VIP to pgx instead of giving it to the first proxy as a plain address
    #[arg(long)]
    no_vip: bool,
    /// Takes down a lab of this name first
    #[arg(long)]
    replace: bool,
}

/// Runs the command.
pub(crate) fn run(args: Args) -> anyhow::Result<()> {
    let name = args.name;
    match args.verb {
        Verb::Up(args) => up(&name, args),
        Verb::Down => {
            let found = Lab::down(&name)?;
            eprintln!("lab {name}: {}", if found { "down" } else { "there was none" });
            Ok(())
        }
        Verb::Status { json } => status(&name, json),
        Verb::Env { json } => env(&name, json),
        Verb::Exec { user, host, command } => {
            let lab = Lab::open(&name)?;
            let error = lab.host(&host)?.command_as(user.as_deref(), &command)?.exec();
            Err(error).context("cannot run sh")
        }
        Verb::Fault(verb) => {
            let fault = verb.into_fault();
            let id = Lab::open(&name)?.fault(&fault)?;
            eprintln!("lab {name}: {fault}; heal it: cargo xtask lab --name {name} heal {id}");
            println!("{id}");
            Ok(())
        }
        Verb::Heal { ids, all } => heal(&name, &ids, all),
        Verb::Logs { host, service, follow } => logs(&name, &host, &service, follow),
    }
}

fn up(name: &str, args: UpArgs) -> anyhow::Result<()> {
    setup::ensure(setup::LAB)?;
    let pgx = match (args.no_pgx, args.pgx) {
        (true, _) => None,
        (false, Some(path)) => Some(path.canonicalize().with_context(|| {
            format!(
                "there is no {}; build pgx, or leave --pgx out to have it built",
                path.display()
            )
        })?),
        (false, None) => Some(build::pgx(args.release)?),
    };
    let spec = Spec {
        data: args.data,
        proxies: args.proxies,
        witness: args.witness,
        disk_mb: args.disk_mb,
        postgres: args.pg,
        run_postgres: !args.no_pg,
        pgx,
        shim: Some(build::shim()?),
        plain_vip: !args.no_vip,
        ..Spec::new(name)
    };
    if args.replace && Lab::down(name)? {
        eprintln!("lab {name}: took down the one before");
    }
    Lab::up(&spec)?;
    status(name, false)
}

fn status(name: &str, json: bool) -> anyhow::Result<()> {
    let status = Lab::open(name)?.status()?;
    if json {
        println!("{}", serde_json::to_string_pretty(&status)?);
    } else {
        print!("{}", status.table());
    }
    Ok(())
}

fn env(name: &str, json: bool) -> anyhow::Result<()> {
    let program = std::env::current_exe()?.display().to_string();
    let exec = [&program, "lab", "--name", name, "exec"].map(str::to_owned);
    let env = Lab::open(name)?.env(exec.into())?;
    if json {
        println!("{}", serde_json::to_string_pretty(&env)?);
        return Ok(());
    }
    for (key, value) in env.variables() {
        println!("export {key}='{value}'");
    }
    Ok(())
}

fn heal(name: &str, ids: &[u32], all: bool) -> anyhow::Result<()> {
    let lab = Lab::open(name)?;
    let healed = if all {
        lab.heal_all()?
    } else {
        let ids: Vec<_> = ids.iter().copied().map(FaultId).collect();
        ids.iter().try_for_each(|id| lab.heal(*id))?;
        ids
    };
    for id in healed {
        eprintln!("lab {name}: fault {id} healed");
    }
    Ok(())
}

fn logs(name: &str, host: &str, service: &str, follow: bool) -> anyhow::Result<()> {
    let lab = Lab::open(name)?;
    let log = lab.log(&lab.host(host)?.plan().name, service);
    if !log.exists() {
        bail!("{host} has no log of {service}: it was never started there");
    }
    let mut tail = Command::new("tail");
    tail.args(["--lines=+1"]).args(follow.then_some("--follow")).arg(log);
    Err(tail.exec()).context("cannot run tail")
}
