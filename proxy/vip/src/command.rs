//! Runs the operator's program: within a time, by nobody else's thread, and never two at once.

use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};

use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};

use crate::clock::{Waiter, boot_ns, ms};
use crate::error::Error;
use crate::limits::KILL_MS_MAX;
use crate::settings::{Lease, Program};

/// What the program is asked for, its first argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verb {
    Take,
    Release,
}

impl Verb {
    fn name(self) -> &'static str {
        match self {
            Self::Take => "take",
            Self::Release => "release",
        }
    }
}

/// Calls `PROGRAM take|release INTERFACE ADDRESS…` and waits, until it ends, its time is over, or
/// `is_over` says that nobody wants it any more; then it and all of its process group are killed.
pub(crate) fn call(
    program: &Program,
    verb: Verb,
    interface: &str,
    lease: &Lease,
    waiter: &Waiter,
    is_over: impl Fn() -> Option<u64>,
) -> Result<(), Error> {
    let failed =
        |how: String| Error::Program { path: program.path.clone(), verb: verb.name(), how };
    let mut command = Command::new(&program.path);
    command.args([verb.name(), interface]);
    command.args(lease.addresses.iter().map(ToString::to_string));
    command.env("PGX_VIP_LEASE", lease.id.to_string()).env("PGX_VIP_ROLE", lease.role.name());
    command.stdin(Stdio::null()).stdout(Stdio::null()).process_group(0);
    let mut child = command.spawn().map_err(|error| failed(format!("cannot be run: {error}")))?;
    let limit = u64::try_from(program.limit.as_nanos()).unwrap_or(u64::MAX);
    let end_ns = boot_ns().saturating_add(limit);
    let ended = wait(&mut child, waiter, || Some(is_over()?.min(end_ns)));
    match ended.map_err(|error| failed(format!("cannot be waited for: {error}")))? {
        Some(status) if status.success() => Ok(()),
        Some(status) => Err(failed(format!("ended with {status}"))),
        None => Err(failed(kill(&mut child, waiter, boot_ns() >= end_ns))),
    }
}

/// Waits until the child has ended or there is no more time: `end` tells the point of the clock, or
/// that there is none left.
fn wait(
    child: &mut Child,
    waiter: &Waiter,
    end: impl Fn() -> Option<u64>,
) -> io::Result<Option<ExitStatus>> {
    let process = pidfd_open(Pid::from_child(child), PidfdFlags::empty())?;
    loop {
        match end() {
            Some(end_ns) if boot_ns() < end_ns => {
                if waiter.wait(Some(end_ns), Some(process.as_fd()))? {
                    return child.wait().map(Some);
                }
            }
            _ => return child.try_wait(),
        }
    }
}

/// Kills a child with all that it has started. What hangs in the kernel is left behind.
fn kill(child: &mut Child, waiter: &Waiter, is_late: bool) -> String {
    let why = if is_late { "took too long" } else { "was no longer wanted" };
    if let Err(error) = kill_process_group(Pid::from_child(child), Signal::KILL) {
        return format!("{why}, and cannot be killed: {error}");
    }
    let end_ns = boot_ns() + ms(KILL_MS_MAX);
    match wait(child, waiter, || Some(end_ns)) {
        Ok(Some(_)) => format!("{why} and was killed"),
        _ => format!("{why} and does not even end when it is killed"),
    }
}
