//! `cargo xtask fuzz`: feeds what reads strangers' bytes with whatever libFuzzer makes up.
//!
//! What must hold stands in `src/properties.rs` of `ebpf/fuzz`, for packets, and in
//! `proxy/fuzz/src` for the proxy. Needs the nightly toolchain, for the compiler's coverage, and
//! `cargo-fuzz`, which is installed if it is missing.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};

use crate::{cargo, execute, root};

/// The version that the flags below are for.
const CARGO_FUZZ_VERSION: &str = "0.13.2";

/// A folder of fuzzed properties, which is no member of this workspace.
struct Home {
    folder: &'static str,
    /// Longest input in bytes. Longer ones find nothing more and are tried less often.
    input_bytes_max: usize,
}

/// A frame with two tags and all extension headers at their usual length.
const RULES: Home = Home { folder: "ebpf/fuzz", input_bytes_max: 512 };
/// Both messages of a side of a SCRAM exchange, or some messages in a row.
const PROXY: Home = Home { folder: "proxy/fuzz", input_bytes_max: 512 };

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
    Frames,
    Startup,
    Readers,
    Stored,
    Server,
    Client,
    Relay,
    Session,
    Hba,
}

impl Target {
    fn name(self) -> String {
        let value = clap::ValueEnum::to_possible_value(&self).expect("no target is skipped");
        value.get_name().to_owned()
    }

    fn home(self) -> &'static Home {
        match self {
            Self::Classify | Self::Fence | Self::Reset | Self::Neighbour | Self::Steering => &RULES,
            Self::Frames
            | Self::Startup
            | Self::Readers
            | Self::Stored
            | Self::Server
            | Self::Client
            | Self::Relay
            | Self::Session
            | Self::Hba => &PROXY,
        }
    }
}

/// Fuzzes.
///
/// # Errors
/// When a property does not hold; the input that shows it is kept and named.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let fuzz = ensure_tools()?;
    let all = clap::ValueEnum::value_variants();
    let targets = args.target.as_ref().map_or(all, std::slice::from_ref);
    for target in targets {
        let (name, home) = (target.name(), target.home());
        // Both folders have an example `seeds`, so each builds in a folder of its own.
        let work = root().join("target/fuzz").join(home.folder);
        let seeds = work.join("seeds");
        let mut write = Command::new(cargo());
        write.args(["run", "--quiet", "--example", "seeds", "--manifest-path"]);
        write.arg(root().join(home.folder).join("Cargo.toml")).arg("--target-dir").arg(&work);
        execute(write.arg("--").arg(&seeds)).context("cannot write the inputs to begin with")?;
        // By rustup: our own cargo and compiler, which its variables name, are the stable ones.
        let mut build = Command::new("rustup");
        build.args(["run", "nightly"]).arg(&fuzz).args(["fuzz", "build", "--fuzz-dir"]);
        build.arg(home.folder).arg("--target-dir").arg(&work).arg(&name);
        for variable in ["CARGO", "RUSTC", "RUSTDOC", "RUSTUP_TOOLCHAIN"] {
            build.env_remove(variable);
        }
        execute(&mut build)?;
        fuzz_one(&work, &seeds, &name, home, args)?;
    }
    Ok(())
}

fn fuzz_one(work: &Path, seeds: &Path, name: &str, home: &Home, args: &Args) -> anyhow::Result<()> {
    let program = work.join(format!("{}/release/{name}", host()?));
    let folder = |of: &str| -> anyhow::Result<PathBuf> {
        let path = work.join(of).join(name);
        std::fs::create_dir_all(&path).with_context(|| format!("{}", path.display()))?;
        Ok(path)
    };
    let (found, failures) = (folder("found")?, folder("failures")?);
    let kept = root().join(home.folder).join("corpus").join(name);
    std::fs::create_dir_all(&kept)?;
    let mut run = Command::new(&program);
    run.arg(&found).arg(&kept).arg(seeds);
    run.arg(format!("-max_total_time={}", args.seconds));
    run.arg(format!("-max_len={}", home.input_bytes_max));
    run.args(["-timeout=5", "-print_final_stats=1"]);
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
