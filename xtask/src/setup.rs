//! Brings the machine to where a command can run, saying what it does.
//!
//! A command names what it needs; what is missing is installed when we are root, else the one
//! command that installs it is printed. Debian and Ubuntu are known; elsewhere the names of the
//! missing programs are printed.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};

/// Something a command needs from the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Need {
    /// How to tell that it is there.
    pub(crate) probe: Probe,
    /// The Debian package that has it.
    pub(crate) package: &'static str,
}

/// How to tell that a need is met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Probe {
    /// A program of this name on `PATH` or in the system's `sbin` folders.
    Program(&'static str),
    /// A file or folder at this path.
    Path(&'static str),
    /// PostgreSQL's server programs of any version under `/usr/lib/postgresql`.
    PostgresServer,
}

/// What the lab needs: PostgreSQL, network tools, file system tools, poolers to compare with.
pub(crate) const LAB: &[Need] = &[
    need(Probe::PostgresServer, "postgresql"),
    need(Probe::Program("psql"), "postgresql-client"),
    need(Probe::Program("openssl"), "openssl"),
    need(Probe::Program("curl"), "curl"),
    need(Probe::Program("ip"), "iproute2"),
    need(Probe::Program("tc"), "iproute2"),
    need(Probe::Program("nft"), "nftables"),
    need(Probe::Program("ping"), "iputils-ping"),
    need(Probe::Program("mkfs.ext4"), "e2fsprogs"),
    need(Probe::Program("pgbouncer"), "pgbouncer"),
    need(Probe::Program("pcp_node_info"), "pgpool2"),
    need(Probe::Program("unshare"), "util-linux"),
    need(Probe::Program("runuser"), "util-linux"),
];

/// What tries out the alerts, Prometheus' own tool, and the dashboard, Prometheus itself.
pub(crate) const ALERTS: &[Need] =
    &[need(Probe::Program(PROMTOOL), "prometheus"), need(Probe::Program(PROMETHEUS), "prometheus")];

/// The tool's name.
pub(crate) const PROMTOOL: &str = "promtool";
/// The server's.
pub(crate) const PROMETHEUS: &str = "prometheus";

/// What building the BPF objects needs beside Rust: the LLVM that `bpf-linker` is built against.
pub(crate) const LLVM: &[Need] = &[
    need(Probe::Path("/usr/lib/llvm-22/lib/libLLVM-22.so"), "llvm-22-dev"),
    need(Probe::Path("/usr/lib/llvm-22/lib/libPolly.a"), "libpolly-22-dev"),
    need(Probe::Path("/usr/include/zstd.h"), "libzstd-dev"),
    need(Probe::Program("c++"), "g++"),
];

/// What pgx is compared with under load.
pub(crate) const PEERS: &[Need] =
    &[need(Probe::Program("pgbouncer"), "pgbouncer"), need(Probe::Program("haproxy"), "haproxy")];

/// By this file packages ask whether their services may be started; see Debian's
/// /usr/share/doc/init-system-helpers/README.policy-rc.d.gz.
const POLICY: &str = "/usr/sbin/policy-rc.d";

const fn need(probe: Probe, package: &'static str) -> Need {
    Need { probe, package }
}

/// Installs what is missing of `needs`, or says how to.
///
/// # Errors
/// When something is missing and we are not root, are not on Debian, or the installation fails.
pub(crate) fn ensure(needs: &[Need]) -> anyhow::Result<()> {
    let packages = missing(needs);
    if packages.is_empty() {
        return Ok(());
    }
    let names = packages.join(" ");
    if find_program("apt-get").is_none() {
        bail!("missing here, please install: {names} (named as Debian names them)");
    }
    if !nix::unistd::geteuid().is_root() {
        bail!("missing here; please run: sudo apt-get install -y {names}");
    }
    eprintln!("setup: installing {names}");
    // Without it Debian's postgresql package makes and starts a cluster that nobody asked for.
    let _ = std::fs::create_dir_all("/etc/postgresql-common");
    apt(&["update", "-q"])?;
    // We want programs, not services that take ports.
    let _quiet = Quiet::begin();
    let mut args = vec!["install", "-y", "-q", "--no-install-recommends"];
    args.extend(packages.iter().copied());
    apt(&args)?;
    let still = missing(needs);
    if !still.is_empty() {
        bail!("installed {names}, but still missing what {} should bring", still.join(" "));
    }
    Ok(())
}

/// The packages of `needs` that are not there, each once, sorted.
pub(crate) fn missing(needs: &[Need]) -> Vec<&'static str> {
    let mut packages: Vec<_> =
        needs.iter().filter(|need| !need.probe.met()).map(|need| need.package).collect();
    packages.sort_unstable();
    packages.dedup();
    packages
}

impl Probe {
    fn met(self) -> bool {
        match self {
            Self::Program(name) => find_program(name).is_some(),
            Self::Path(path) => Path::new(path).exists(),
            Self::PostgresServer => std::fs::read_dir("/usr/lib/postgresql")
                .is_ok_and(|all| all.flatten().any(|v| v.path().join("bin/initdb").exists())),
        }
    }
}

/// Finds a program as a root shell would; `sbin` is often missing from a user's `PATH`.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
}

/// While it lives, packages that are installed start no services. A policy that is there already
/// is the owner's, and stays.
struct Quiet(bool);

impl Quiet {
    fn begin() -> Self {
        let mut options = std::fs::File::options();
        let made = options.write(true).create_new(true).mode(0o755).open(POLICY);
        // Without it services start, which is a nuisance and no more.
        Self(made.and_then(|mut file| file.write_all(b"#!/bin/sh\nexit 101\n")).is_ok())
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        if self.0 {
            let _ = std::fs::remove_file(POLICY);
        }
    }
}

fn apt(args: &[&str]) -> anyhow::Result<()> {
    // The output goes to standard error: standard output belongs to the command that asked.
    let output = Command::new("apt-get")
        .args(args)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null())
        .output()
        .context("cannot run apt-get")?;
    if !output.status.success() {
        bail!(
            "apt-get {} failed ({}):\n{}",
            args.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(())
}
