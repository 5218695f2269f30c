//! `pcp_stop_pgpool`: ends the pgx of this host by signals, as the admin socket has no word for it.

use std::fs;

use pgx_control::admin::Status;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::options::Mode;
use crate::cli::Whom;
use crate::exit::Failure;

/// Asks the process to end: with smart its sessions have their time, else they are cut. Gives what
/// an operator should know.
///
/// # Errors
/// When pgx is elsewhere, or cannot be signalled.
pub(super) fn run(whom: &Whom, status: &Status, mode: Mode) -> Result<Option<String>, Failure> {
    if whom.url.is_some() {
        let text = "pgx is stopped on its own host: there by 'pgx pcp stop_pgpool', or by \
                    'systemctl stop pgx'";
        return Err(Failure::Failed(text.to_owned()));
    }
    let process = status.process_id;
    let elsewhere = || {
        Failure::Failed(format!(
            "pgx says that it is process {process}, which is none of its here: stop it where it \
             runs, such as by its container"
        ))
    };
    let id = i32::try_from(process).ok().and_then(Pid::from_raw).ok_or_else(elsewhere)?;
    // The handle comes first: what is looked at next is the process that it stands for, or gone.
    let handle = pidfd_open(id, PidfdFlags::empty()).map_err(|_| elsewhere())?;
    let is_ours = program(&format!("/proc/{process}")) == program("/proc/self");
    if !is_ours || !is_pgx(&fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default()) {
        return Err(elsewhere());
    }
    let cgroup = fs::read_to_string(format!("/proc/{process}/cgroup")).unwrap_or_default();
    // Who is asked a second time cuts what is left. Two signals of one kind might count as one.
    let signals: &[Signal] = match mode {
        Mode::Smart => &[Signal::TERM],
        Mode::Fast | Mode::Immediate => &[Signal::TERM, Signal::INT],
    };
    for signal in signals {
        pidfd_send_signal(&handle, *signal).map_err(|error| {
            Failure::Failed(format!("cannot signal pgx, process {process}: {error}"))
        })?;
    }
    Ok(unit(&cgroup).map(|unit| {
        format!(
            "pgx runs as {unit}, which systemd starts again if it is told to; 'systemctl stop \
             {unit}' stops it for good"
        )
    }))
}

/// The name of a process' program, which may have been replaced since by another release.
fn program(process: &str) -> Option<String> {
    let path = fs::read_link(format!("{process}/exe")).ok()?;
    let name = path.file_name()?.to_str()?;
    Some(name.trim_end_matches(" (deleted)").to_owned())
}

/// Whether a command line is that of a `pgx serve`, and not of another process that has this number
/// on this host.
fn is_pgx(command_line: &[u8]) -> bool {
    command_line.split(|byte| *byte == 0).any(|word| word == b"serve")
}

/// The unit of systemd that a process is in; none for what somebody has started in a session.
fn unit(cgroup: &str) -> Option<&str> {
    let mut units = cgroup.lines().filter_map(|line| line.rsplit('/').next());
    units.find(|unit| unit.ends_with(".service") && !unit.starts_with("user@"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_process_of_that_number_is_left_alone() {
        assert!(is_pgx(b"/usr/bin/pgx\0serve\0--config\0/etc/pgx/pgx.toml\0"));
        assert!(!is_pgx(b"/sbin/init\0"));
        assert!(!is_pgx(b"/sbin/observe\0"));
        assert!(!is_pgx(b""));
    }

    #[test]
    fn unit_of_systemd_is_told_from_sessions() {
        assert_eq!(unit("0::/system.slice/pgx.service\n"), Some("pgx.service"));
        assert_eq!(unit("1:name=systemd:/system.slice/pgx.service\n0::/\n"), Some("pgx.service"));
        for other in ["0::/user.slice/user-0.slice/session-3.scope\n", "0::/\n", ""] {
            assert_eq!(unit(other), None, "{other}");
        }
    }
}
