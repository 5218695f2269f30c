//! What building the objects needs: the standard library's source, LLVM, `bpf-linker`.
//!
//! Each is installed if it is missing, and announced on standard error.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

use crate::setup;

/// The linker's version. It writes the BTF and decides what is inlined, so another one makes other
/// bytes; it is built against the LLVM that [`setup::LLVM`] installs.
const LINKER_VERSION: &str = "0.13.0";
const LINKER_FEATURE: &str = "llvm-22";
/// Where Debian puts that LLVM.
const LLVM_PREFIX: &str = "/usr/lib/llvm-22";
/// The two variables that tell the linker's build where LLVM is. With the second alone it compiles
/// and then fails to link: "unable to find library -lLLVM".
const LLVM_PREFIX_VARIABLES: [&str; 2] = ["LLVM_PREFIX", "LLVM_SYS_221_PREFIX"];

/// The tools, found or installed.
pub(super) struct Tools {
    /// `bpf-linker`, by full path: it need not be on `PATH`.
    pub(super) linker: PathBuf,
    /// What it says its version is.
    pub(super) linker_version: String,
    /// Removes debug sections from an object.
    pub(super) objcopy: PathBuf,
    /// What the compiler says its version is.
    pub(super) rustc_version: String,
    /// The standard library's source, as the compiler sees it.
    pub(super) rust_src: PathBuf,
}

impl Tools {
    /// Finds the tools and installs what is missing.
    pub(super) fn ensure() -> anyhow::Result<Self> {
        setup::ensure(setup::LLVM)?;
        let rust_src = ensure_rust_src()?;
        let linker = ensure_linker()?;
        Ok(Self {
            linker_version: output(Command::new(&linker).arg("--version"))?,
            linker,
            objcopy: Path::new(LLVM_PREFIX).join("bin/llvm-objcopy"),
            rustc_version: output(Command::new("rustc").arg("--version"))?,
            rust_src,
        })
    }
}

fn ensure_rust_src() -> anyhow::Result<PathBuf> {
    let sysroot = output(Command::new("rustc").args(["--print", "sysroot"]))?;
    let source = Path::new(&sysroot).join("lib/rustlib/src/rust");
    if !source.join("library/core").is_dir() {
        eprintln!("ebpf: installing the component rust-src");
        run(Command::new("rustup").args(["component", "add", "rust-src"]))?;
    }
    Ok(source)
}

fn ensure_linker() -> anyhow::Result<PathBuf> {
    let installed = cargo_home()?.join("bin/bpf-linker");
    let expected = format!("bpf-linker {LINKER_VERSION}");
    if output(Command::new(&installed).arg("--version")).is_ok_and(|found| found == expected) {
        return Ok(installed);
    }
    eprintln!("ebpf: installing {expected} (about a minute)");
    let mut install = Command::new("cargo");
    install.args(["install", "bpf-linker", "--version", LINKER_VERSION, "--locked"]);
    install.args(["--no-default-features", "--features", LINKER_FEATURE]);
    run(install.envs(LLVM_PREFIX_VARIABLES.map(|name| (name, LLVM_PREFIX))))?;
    Ok(installed)
}

/// Where cargo keeps its programs and the sources of dependencies.
pub(super) fn cargo_home() -> anyhow::Result<PathBuf> {
    if let Some(home) = std::env::var_os("CARGO_HOME") {
        return Ok(home.into());
    }
    let home = std::env::home_dir().context("neither CARGO_HOME nor HOME is set")?;
    Ok(home.join(".cargo"))
}

/// Runs a command whose output is for the person who watches.
pub(super) fn run(command: &mut Command) -> anyhow::Result<()> {
    let status = command.status().with_context(|| format!("cannot run {command:?}"))?;
    if !status.success() {
        bail!("{command:?} failed ({status})");
    }
    Ok(())
}

/// Runs a command and returns what it printed, trimmed.
fn output(command: &mut Command) -> anyhow::Result<String> {
    let output = command.output().with_context(|| format!("cannot run {command:?}"))?;
    if !output.status.success() {
        bail!(
            "{command:?} failed ({}): {}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}
