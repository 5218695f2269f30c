//! `cargo xtask verify` checks and never edits; `cargo xtask fix` edits what can be mended.

use std::process::Command;

use anyhow::Context;

use crate::{cargo, ebpf, execute, planted, root, run_cargo, tidy};

/// Documented copies of what pgx prints.
const PRINTED: [(&str, &str); 2] =
    [("example", "docs/pgx.example.toml"), ("openapi", "docs/openapi.json")];

/// Checks formatting, lints, the style guide, the committed BPF objects, and that the
/// planted bugs still apply.
///
/// # Errors
/// At the first check that fails; it says how to mend.
pub(crate) fn verify() -> anyhow::Result<()> {
    run_cargo(&["fmt", "--all", "--check"]).context("run: cargo xtask fix")?;
    run_cargo(&["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"])?;
    let mut docs = Command::new(cargo());
    docs.args(["doc", "--workspace", "--no-deps", "--document-private-items", "--quiet"]);
    execute(docs.env("RUSTDOCFLAGS", "-D warnings"))?;
    tidy::run(&tidy::Args {})?;
    ebpf::check()?;
    planted::check()?;
    eprintln!("verify: all is well");
    Ok(())
}

/// Formats the sources and writes generated documentation anew.
///
/// # Errors
/// When a tool fails.
pub(crate) fn fix() -> anyhow::Result<()> {
    run_cargo(&["fmt", "--all"])?;
    for (what, copy) in PRINTED {
        let mut pgx = Command::new(cargo());
        pgx.args(["run", "--quiet", "--package", "pgx", "--", "config", what]);
        let output = pgx.current_dir(root()).output().context("cannot run pgx")?;
        anyhow::ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        std::fs::write(root().join(copy), output.stdout).context(copy)?;
    }
    Ok(())
}
