//! The first process of a host: makes the host's own view of the machine, then reaps.
//!
//! It must reap: a postmaster that was killed and not reaped would keep its process id, and the
//! next one would refuse to start because it believes that the old one lives.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{User, chown, sethostname, setsid};
use serde::{Deserialize, Serialize};

use super::host::{DISK, POSTGRES};
use super::run::run;

/// What init prints when the host can be used.
pub(super) const READY: &str = "ready";

/// What a host's init needs to know.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct InitPlan {
    /// The host's name.
    pub(super) host: String,
    /// The host's cgroup, as the machine sees it.
    pub(super) cgroup: PathBuf,
    /// Where init complains.
    pub(super) log: PathBuf,
    /// The image of the host's disk; without one it gets memory instead.
    pub(super) disk: Option<PathBuf>,
    /// The file to show as `/etc/hosts`.
    pub(super) hosts_file: PathBuf,
    /// Whether the host speaks IPv6; the switch must not, it would only talk to itself.
    pub(super) ipv6: bool,
}

/// Runs until the lab is torn down.
pub(super) fn serve(plan: &InitPlan) -> anyhow::Result<()> {
    // Blocked before there can be a child, so that no child's end is missed.
    let mut ends = SigSet::empty();
    ends.add(Signal::SIGCHLD);
    ends.thread_block()?;
    setsid().context("cannot leave the starter's session")?;
    sethostname(&plan.host).context("cannot set the hostname")?;
    mounts(plan)?;
    network(plan)?;
    let mut out = std::io::stdout();
    writeln!(out, "{READY}")?;
    out.flush()?;
    loop {
        reap()?;
        ends.wait()?;
    }
}

fn mounts(plan: &InitPlan) -> anyhow::Result<()> {
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
        .context("cannot make the mounts private")?;
    // The disk is opened before anything hides the way to its image.
    let owner = User::from_name(POSTGRES)?;
    std::fs::create_dir_all(DISK).with_context(|| format!("cannot make {DISK}"))?;
    if let Some(image) = &plan.disk {
        run(Command::new("mount").args(["-o", "loop,noatime"]).arg(image).arg(DISK))?;
    } else {
        fresh("tmpfs", DISK)?;
    }
    for (kind, target) in [
        ("proc", "/proc"),
        ("sysfs", "/sys"),
        ("cgroup2", "/sys/fs/cgroup"),
        ("bpf", "/sys/fs/bpf"),
        ("tmpfs", "/run"),
        // PostgreSQL's shared memory segments have names that another host's could have too.
        ("tmpfs", "/dev/shm"),
    ] {
        fresh(kind, target)?;
    }
    std::fs::set_permissions("/dev/shm", PermissionsExt::from_mode(0o1777))?;
    for (dir, mode) in [("/run/postgresql", 0o755), ("/run/lab", 0o755), ("/run/pgx", 0o755)] {
        std::fs::create_dir(dir).with_context(|| format!("cannot make {dir}"))?;
        std::fs::set_permissions(dir, PermissionsExt::from_mode(mode))?;
    }
    if let Some(owner) = owner {
        for dir in [DISK, "/run/postgresql"] {
            chown(dir, Some(owner.uid), Some(owner.gid))?;
        }
    }
    if Path::new("/etc/hosts").exists() {
        bind(&plan.hosts_file, "/etc/hosts")?;
    }
    Ok(())
}

fn fresh(kind: &str, target: &str) -> anyhow::Result<()> {
    // A tmpfs lets everybody write unless told otherwise.
    let options = (kind == "tmpfs").then_some("mode=0755");
    mount(Some(kind), target, Some(kind), MsFlags::empty(), options)
        .with_context(|| format!("cannot mount {kind} on {target}"))
}

fn bind(source: &Path, target: &str) -> anyhow::Result<()> {
    mount(Some(source), target, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .with_context(|| format!("cannot show {} as {target}", source.display()))
}

fn network(plan: &InitPlan) -> anyhow::Result<()> {
    let settings: &[(&str, &str)] = if plan.ipv6 {
        &[
            // Addresses are usable at once: nobody else can have them here.
            ("ipv6/conf/default/accept_dad", "0"),
            // A link that comes back announces the addresses behind it.
            ("ipv6/conf/default/ndisc_notify", "1"),
            ("ipv4/conf/default/arp_notify", "1"),
        ]
    } else {
        &[("ipv6/conf/default/disable_ipv6", "1")]
    };
    for (name, value) in settings {
        std::fs::write(Path::new("/proc/sys/net").join(name), value)
            .with_context(|| format!("cannot set net/{name} to {value}"))?;
    }
    run(Command::new("ip").args(["link", "set", "lo", "up"]))?;
    Ok(())
}

/// Takes the exit status of every child that has ended.
fn reap() -> anyhow::Result<()> {
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return Ok(()),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error).context("cannot wait for children"),
        }
    }
}
