//! Every command of the README: `cargo xtask …`.
//!
//! One file per command; this one only parses the line and reports the error. Commands that change
//! the tree (`fix`, `ebpf`) are never run by those that check it (`verify`, `test`).

mod ebpf;
mod lab;
mod setup;
mod tidy;

use clap::{Parser, Subcommand};

/// The tasks of the pgx workspace.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", disable_help_subcommand = true)]
struct Command {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Builds the BPF objects from source and commits-ready copies of them
    Ebpf(ebpf::Args),
    /// Runs hosts in miniature: network namespaces with their own PostgreSQL and pgx
    Lab(lab::Args),
    /// Checks what the style guide says and a program can check
    Tidy(tidy::Args),
}

fn main() -> anyhow::Result<()> {
    match Command::parse().verb {
        Verb::Ebpf(args) => ebpf::run(&args),
        Verb::Lab(args) => lab::run(args),
        Verb::Tidy(args) => tidy::run(&args),
    }
}
