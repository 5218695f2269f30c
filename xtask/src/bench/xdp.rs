//! `cargo xtask bench xdp`: nanoseconds a packet for each program and fixture, in the kernel's
//! test-run. Warm caches and no driver: good for comparing, not for promising packets a second.

use std::path::PathBuf;

use anyhow::Context;
use pgx_tests::programs::{Row, measure, verified_instructions};

use crate::root;

/// What the verifier walked when it was last recorded; a BPF test compares.
const RECORD: &str = "tests/tests/bpf/instructions.json";

/// Arguments of `bench xdp`.
#[derive(clap::Args)]
pub(super) struct Args {
    /// How often each program gets its packet
    #[arg(long, default_value_t = 1_000_000)]
    repeats: u32,
    /// Writes the rows as JSON too
    #[arg(long)]
    json: Option<PathBuf>,
    /// Records what the verifier walks, for the test that bounds its growth; measures nothing
    #[arg(long)]
    record: bool,
}

/// Measures and prints, or records.
///
/// # Errors
/// When a program cannot be loaded or run: that needs root.
pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    if args.record {
        let mut text = serde_json::to_string_pretty(&verified_instructions()?)?;
        text.push('\n');
        return std::fs::write(root().join(RECORD), text).context(RECORD);
    }
    let rows = measure(args.repeats)?;
    print(&rows);
    if let Some(file) = &args.json {
        let text = serde_json::to_string_pretty(&rows)?;
        std::fs::write(file, text).with_context(|| format!("{}", file.display()))?;
    }
    Ok(())
}

fn print(rows: &[Row]) {
    println!("{:<15} {:<58} {:<9} {:>7} {:>9}", "program", "fixture", "verdict", "ns", "verified");
    for row in rows {
        let Row { program, fixture, verdict, ns, verified_instructions } = row;
        println!("{program:<15} {fixture:<58} {verdict:<9} {ns:>7.1} {verified_instructions:>9}");
    }
}
