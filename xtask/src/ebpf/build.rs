//! Compiles the programs, links them and strips the result.
//!
//! The bytes must not depend on where the tree, cargo's home or the toolchain are, or no two
//! machines could agree on a committed object. Paths reach an object by DWARF, which is stripped,
//! and by the line information in its BTF, which stays because verifier messages quote it: all
//! three prefixes are therefore remapped.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};
use serde::Deserialize;

use super::record::{self, Record};
use super::tools::{self, Tools};

const PACKAGE: &str = "pgx-progs";
const TARGET: &str = "bpfel-unknown-none";
/// The profile of that name in the root manifest.
const PROFILE: &str = "bpf";
/// BTF carries types and lines, without which the verifier's messages cannot be read.
const EMIT_BTF: &str = "-Clink-arg=--btf";
/// aya-ebpf has a register layout for each host; no program of ours reads registers, but a fixed
/// value keeps the objects the same wherever they are built.
const TARGET_ARCH: &str = "--cfg=bpf_target_arch=\"x86_64\"";

/// Everything here that shapes the bytes, for the hash of the sources.
pub(super) const INPUTS: [&str; 5] = [PACKAGE, TARGET, PROFILE, EMIT_BTF, TARGET_ARCH];

/// Builds every object into `out`, with the record of what it was built from.
///
/// # Errors
/// When a tool is missing and cannot be installed, the build fails, or `out` cannot be written.
pub(crate) fn build(out: &Path) -> anyhow::Result<()> {
    let root = super::root();
    let tools = Tools::ensure()?;
    let sources = record::hash_sources(&root)?;
    fs::create_dir_all(out).with_context(|| format!("cannot make {}", out.display()))?;
    let mut objects = Vec::new();
    for (name, linked) in compile(&root, &tools)? {
        let object = out.join(format!("{name}.o"));
        tools::run(Command::new(&tools.objcopy).arg("--strip-debug").arg(&linked).arg(&object))?;
        objects.push((name, record::hash_file(&object)?));
    }
    let record = Record::new(&root, sources, objects, &tools)?;
    record.write(out)?;
    for name in record.objects.keys() {
        eprintln!("ebpf: built {}", out.join(format!("{name}.o")).display());
    }
    Ok(())
}

/// One line of cargo's `--message-format=json`, as far as we read it.
#[derive(Deserialize)]
struct Message {
    target: Option<Target>,
    executable: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
}

/// Runs cargo and returns name and path of each binary it linked.
fn compile(root: &Path, tools: &Tools) -> anyhow::Result<Vec<(String, PathBuf)>> {
    let mut cargo = Command::new("cargo");
    cargo
        .current_dir(root)
        .args(["build", "--package", PACKAGE, "--features", "bpf", "--bins"])
        .args(["--profile", PROFILE, "--target", TARGET, "-Zbuild-std=core"])
        .args(["--message-format", "json-render-diagnostics", "--target-dir"])
        // A folder of its own: cargo would otherwise wait for the lock that we may run under.
        .arg(root.join("target/bpf"))
        // `-Z` flags are for nightly compilers; this one variable spares everybody a second one.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", &tools.linker)
        .env("CARGO_ENCODED_RUSTFLAGS", rust_flags(root, tools)?)
        .stdout(Stdio::piped());
    let mut child = cargo.spawn().context("cannot run cargo")?;
    let stdout = child.stdout.take().context("cargo has no standard output")?;
    let mut linked = Vec::new();
    for line in BufReader::new(stdout).lines() {
        let message: Message =
            serde_json::from_str(&line?).context("cannot read what cargo printed")?;
        if let Message { target: Some(target), executable: Some(path) } = message {
            linked.push((target.name, path));
        }
    }
    let status = child.wait()?;
    if !status.success() {
        bail!("the BPF programs did not build ({status}); cargo's messages are above");
    }
    if linked.is_empty() {
        bail!("cargo built no BPF object; {PACKAGE} should have one binary for each");
    }
    Ok(linked)
}

/// Flags for the compiler, in the form that keeps spaces in paths.
fn rust_flags(root: &Path, tools: &Tools) -> anyhow::Result<String> {
    let mut flags = vec![TARGET_ARCH.to_owned(), EMIT_BTF.to_owned()];
    let mut remap = |from: &Path, to: &str| {
        flags.push(format!("--remap-path-prefix={}={to}", from.display()));
    };
    remap(root, "pgx");
    remap(&tools.rust_src, "rust");
    let registries = tools::cargo_home()?.join("registry/src");
    let read = fs::read_dir(&registries)
        .with_context(|| format!("cannot list {}", registries.display()))?;
    // The folder's name differs between a registry and a mirror of it.
    for registry in read {
        remap(&registry?.path(), "crates");
    }
    Ok(flags.join("\x1f"))
}
