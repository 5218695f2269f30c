//! `cargo xtask fuzz`: feeds the rules of packets with whatever bytes libFuzzer makes up.
//!
//! What must hold stands in `ebpf/fuzz/src/properties.rs`. Needs the nightly toolchain, for the
//! compiler's coverage, and `cargo-fuzz`, which is installed if it is missing.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};

use crate::{cargo, execute, root};

/// The version that the flags below are for.
const CARGO_FUZZ_VERSION: &str = "0.13.2";
/// The folder of the fuzzed crate, which is no member of this workspace.
const CRATE: &str = "ebpf/fuzz";
/// Longest input in bytes: a frame with two tags and all extension headers at their usual length.
/// Longer ones find nothing more and are tried less often.
const INPUT_BYTES_MAX: usize = 512;

/// Arguments of `fuzz`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// What is fuzzed; all, one after the other, if none is named
    target: Option<Target>,
    /// How long each is fuzzed
    #[arg(long, default_value_t = 60)]
    seconds: u32,
    /// Keeps of the committed inputs and the new ones as few as reach the same code
    #[arg(long)]
    minimise: bool,
}

/// The properties, each by the name of its function.
#[derive(Clone, Copy, clap::ValueEnum)]
enum Target {
    Classify,
    Fence,
    Reset,
    Neighbour,
    Steering,
}

impl Target {
    const ALL: [Self; 5] =
        [Self::Classify, Self::Fence, Self::Reset, Self::Neighbour, Self::Steering];

    fn name(self) -> &'static str {
        match self {
            Self::Classify => "classify",
            Self::Fence => "fence",
            Self::Reset => "reset",
            Self::Neighbour => "neighbour",
            Self::Steering => "steering",
        }
    }
}

/// Fuzzes.
///
/// # Errors
/// When a property does not hold; the input that shows it is kept and named.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let fuzz = ensure_tools()?;
    let work = root().join("target/fuzz");
    let seeds = work.join("seeds");
    let mut write = Command::new(cargo());
    write.args(["run", "--quiet", "--example", "seeds", "--manifest-path"]);
    write.arg(root().join(CRATE).join("Cargo.toml")).arg("--target-dir").arg(&work);
    execute(write.arg("--").arg(&seeds)).context("cannot write the packets to begin with")?;
    let all = Target::ALL;
    let targets = args.target.as_ref().map_or(&all[..], std::slice::from_ref);
    for target in targets {
        let name = target.name();
        // By rustup: our own cargo and compiler, which its variables name, are the stable ones.
        let mut build = Command::new("rustup");
        build.args(["run", "nightly"]).arg(&fuzz).args(["fuzz", "build", "--fuzz-dir", CRATE]);
        build.arg("--target-dir").arg(&work).arg(name);
        for variable in ["CARGO", "RUSTC", "RUSTDOC", "RUSTUP_TOOLCHAIN"] {
            build.env_remove(variable);
        }
        execute(&mut build)?;
        fuzz_one(&work, &seeds, name, args)?;
    }
    Ok(())
}

fn fuzz_one(work: &Path, seeds: &Path, name: &str, args: &Args) -> anyhow::Result<()> {
    let program = work.join(format!("{}/release/{name}", host()?));
    let folder = |of: &str| -> anyhow::Result<PathBuf> {
        let path = work.join(of).join(name);
        std::fs::create_dir_all(&path).with_context(|| format!("{}", path.display()))?;
        Ok(path)
    };
    let (found, failures) = (folder("found")?, folder("failures")?);
    let kept = root().join(CRATE).join("corpus").join(name);
    std::fs::create_dir_all(&kept)?;
    let mut run = Command::new(&program);
    run.arg(&found).arg(&kept).arg(seeds);
    run.arg(format!("-max_total_time={}", args.seconds));
    run.args([&format!("-max_len={INPUT_BYTES_MAX}"), "-timeout=5", "-print_final_stats=1"]);
    run.arg(format!("-artifact_prefix={}/", failures.display()));
    execute(&mut run)
        .with_context(|| format!("{name} does not hold; the input is in {}", failures.display()))?;
    if args.minimise {
        let smaller = folder("smaller")?;
        std::fs::remove_dir_all(&smaller)?;
        std::fs::create_dir(&smaller)?;
        let mut merge = Command::new(&program);
        // By the code that is reached, not by how often: some hundred small files, not thousands.
        merge.args(["-set_cover_merge=1", "-use_counters=0"]);
        execute(merge.arg(&smaller).arg(&kept).arg(&found))?;
        std::fs::remove_dir_all(&kept)?;
        std::fs::create_dir_all(&kept)?;
        for input in std::fs::read_dir(&smaller)? {
            let input = input?;
            std::fs::copy(input.path(), kept.join(input.file_name()))?;
        }
    }
    Ok(())
}

/// Finds cargo-fuzz, or installs it beside the builds.
fn ensure_tools() -> anyhow::Result<PathBuf> {
    let tools = root().join("target/tools");
    let program = tools.join("bin/cargo-fuzz");
    if !program.exists() {
        eprintln!("fuzz: installing cargo-fuzz {CARGO_FUZZ_VERSION} (about a minute)");
        let mut install = Command::new(cargo());
        install.args(["install", "cargo-fuzz", "--version", CARGO_FUZZ_VERSION, "--locked"]);
        execute(install.arg("--root").arg(&tools))?;
    }
    let nightly = Command::new("rustup").args(["run", "nightly", "rustc", "--version"]).output();
    let is_there = nightly.is_ok_and(|output| output.status.success());
    ensure!(is_there, "needs the nightly toolchain: rustup toolchain install nightly");
    Ok(program)
}

/// The compiler's name for this machine, below which its builds lie.
fn host() -> anyhow::Result<String> {
    let output = Command::new("rustc").arg("-vV").output().context("cannot run rustc")?;
    let text = String::from_utf8(output.stdout)?;
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("rustc does not name its host")?.to_owned())
}
