//! Processes that die, stop or freeze.

use std::io::ErrorKind;
use std::time::Duration;

use anyhow::{Context, bail};
use nix::sys::signal::Signal;

use super::{KillTarget, PauseTarget};
use crate::lab::Lab;
use crate::lab::host::Host;
use crate::lab::network::ip_batch;
use crate::lab::procs::{Proc, ProcId};
use crate::lab::spec::Kind;
use crate::lab::wait::wait_for;
use crate::lab::{pgx, postgres};

/// Signals are delivered, and processes end, in moments; a loaded machine takes longer.
const SETTLE: Duration = Duration::from_secs(10);

/// The process that a kill will end.
pub(super) fn to_kill(host: &Host, target: KillTarget) -> anyhow::Result<ProcId> {
    let victim = match target {
        KillTarget::Postmaster => postgres::postmaster(host),
        KillTarget::Backend => client_backends(host).into_iter().next(),
        KillTarget::Pgx => pgx::process(host),
    };
    Ok(victim.with_context(|| format!("{} runs no {target:?}", host.plan().name))?.id)
}

pub(super) fn kill(victims: &[ProcId]) -> anyhow::Result<()> {
    victims.iter().try_for_each(|victim| victim.signal(Signal::SIGKILL))?;
    wait_for("what was killed to be gone", SETTLE, || victims.iter().all(|proc| !proc.alive()))
}

/// Starts again what was killed, unless it runs.
pub(super) fn revive(lab: &Lab, host: &Host, target: KillTarget) -> anyhow::Result<()> {
    let name = &host.plan().name;
    match target {
        // pgx has started it again, or will.
        KillTarget::Postmaster if lab.spec().control => Ok(()),
        KillTarget::Postmaster if postgres::postmaster(host).is_none() => {
            postgres::wait_until_gone(host)?;
            lab.start_postgres(name)
        }
        KillTarget::Pgx if pgx::process(host).is_none() => lab.start_pgx(name),
        // A backend belongs to a session; who lost it connects again.
        KillTarget::Postmaster | KillTarget::Pgx | KillTarget::Backend => Ok(()),
    }
}

/// The processes that a pause will stop; none for the whole host, which has a freezer.
pub(super) fn to_pause(host: &Host, target: PauseTarget) -> anyhow::Result<Vec<ProcId>> {
    let procs = match target {
        PauseTarget::All => return Ok(Vec::new()),
        PauseTarget::Postmaster => postgres::postmaster(host).into_iter().collect(),
        PauseTarget::Postgres => postgres::processes(host),
        PauseTarget::Backend => client_backends(host),
        PauseTarget::Pgx => pgx::process(host).into_iter().collect(),
    };
    if procs.is_empty() {
        bail!("{} runs no {target:?} that could be paused", host.plan().name);
    }
    Ok(procs.iter().map(|proc| proc.id).collect())
}

pub(super) fn pause(host: &Host, target: PauseTarget, procs: &[ProcId]) -> anyhow::Result<()> {
    if target == PauseTarget::All {
        return host.cgroup().freeze(true);
    }
    procs.iter().try_for_each(|proc| proc.signal(Signal::SIGSTOP))?;
    let stopped = |proc: &ProcId| !proc.alive() || proc.stopped();
    wait_for("what was paused to stop", SETTLE, || procs.iter().all(stopped))
}

pub(super) fn resume(host: &Host, target: PauseTarget, procs: &[ProcId]) -> anyhow::Result<()> {
    if target == PauseTarget::All {
        return host.cgroup().freeze(false);
    }
    procs.iter().try_for_each(|proc| proc.signal(Signal::SIGCONT))
}

/// Takes the link down at the switch's end, which the host's own end sees as a lost carrier.
pub(super) fn stop(lab: &Lab, host: &Host) -> anyhow::Result<()> {
    ip_batch(lab.switch()?, &format!("link set {} down\n", host.plan().name))?;
    host.cgroup().freeze(true)
}

pub(super) fn unstop(lab: &Lab, host: &Host) -> anyhow::Result<()> {
    host.cgroup().freeze(false)?;
    ip_batch(lab.switch()?, &format!("link set {} up\n", host.plan().name))
}

/// What a host without power loses.
pub(super) fn all_but_init(host: &Host) -> Vec<ProcId> {
    let mut procs = host.processes();
    procs.retain(|proc| *proc != host.init());
    procs
}

/// Ends all at one moment: frozen first, nobody sees another's end, and nothing leaves the host.
pub(super) fn power_off(lab: &Lab, host: &Host) -> anyhow::Result<()> {
    stop(lab, host)?;
    // What was started since the fault was written down is in it too.
    all_but_init(host).iter().try_for_each(|proc| proc.signal(Signal::SIGKILL))?;
    host.cgroup().freeze(false)?;
    wait_for("the host's processes to be gone", SETTLE, || all_but_init(host).is_empty())?;
    let pins = host.file("/sys/fs/bpf");
    for pin in std::fs::read_dir(&pins)?.flatten() {
        let path = pin.path();
        let removed = match pin.file_type()?.is_dir() {
            true => std::fs::remove_dir_all(&path),
            false => std::fs::remove_file(&path),
        };
        match removed {
            // The kernel has files of its own there.
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {}
            removed => removed.with_context(|| format!("cannot remove {}", path.display()))?,
        }
    }
    Ok(())
}

/// Starts what a host is there to run, unless it runs.
pub(super) fn boot(lab: &Lab, host: &Host) -> anyhow::Result<()> {
    unstop(lab, host)?;
    let (spec, kind) = (lab.spec(), host.plan().kind);
    if kind == Kind::Data && spec.run_postgres {
        revive(lab, host, KillTarget::Postmaster)?;
    }
    if kind.runs_pgx() && spec.pgx.is_some() {
        revive(lab, host, KillTarget::Pgx)?;
    }
    Ok(())
}

fn client_backends(host: &Host) -> Vec<Proc> {
    let mut found = postgres::processes(host);
    found.retain(Proc::is_client_backend);
    found.sort_by_key(|proc| proc.inner_pid);
    found
}
