//! `pgx`: one binary for every role.
//!
//! The shell around the pure crates: it parses the command line and hands over to one module per
//! verb. Called by the name of a pcp command it is that command ([`pcp`]). Read next: [`serve`]
//! (what a running node is made of), [`ctl`] (the operator's tool), [`doctor`] (what this machine
//! allows).
#![forbid(unsafe_code)]

mod admin;
mod claim;
mod cli;
mod config;
mod console;
mod controller;
mod ctl;
mod descriptors;
mod doctor;
mod exit;
mod fence;
mod forward;
mod front;
mod holdings;
mod http;
mod import;
mod init;
mod kernel;
mod limits;
mod manual;
mod metrics;
mod moment;
mod pause;
mod pcp;
mod peer;
mod postgres;
mod private;
mod reloads;
mod serve;
mod served;
mod sockets;
mod steer;
mod takeover;
mod telemetry;
mod tls;
mod unix;
mod vip;
mod web;
mod workers;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let words = pcp::by_name(std::env::args_os().collect());
    let outcome = match cli::Command::parse_from(words).verb {
        cli::Verb::Serve { config, engine, take_over } => serve::run(&config, engine, take_over),
        cli::Verb::Ctl(arguments) => ctl::run(&arguments),
        cli::Verb::Pcp(arguments) => pcp::run(&arguments),
        cli::Verb::Doctor(arguments) => doctor::run(&arguments),
        cli::Verb::Init { verb } => init::run(&verb),
        cli::Verb::Config { verb } => config::command::run(&verb),
        cli::Verb::Import { file, from } => import::run(&file, from),
        cli::Verb::Fence { verb } => fence::command::run(&verb),
        cli::Verb::Completions { shell } => manual::completions(shell),
        cli::Verb::Man { dir } => manual::man(dir.as_deref()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}
