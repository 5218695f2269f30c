//! `pgx fence`: what is done without a running pgx, at boot or by hand.

use std::path::{Path, PathBuf};

use pgx_bpf::{BPFFS, Gate, PIN_BASE, Pins, Side, destroy, standing};

use super::{Raised, raise};
use crate::cli::{FenceShut, FenceVerb};
use crate::config::{self, Means};
use crate::controller::clock::boot_time;
use crate::exit::Failure;

/// Runs the verb.
pub(crate) fn run(verb: &FenceVerb) -> Result<(), Failure> {
    match verb {
        FenceVerb::Shut(arguments) => shut(arguments),
        FenceVerb::Unit { port } => {
            print!("{}", unit(&program()?, *port));
            Ok(())
        }
    }
}

/// Pins the fence. It writes no lease: what is shut stays shut, what is held stays held.
fn shut(arguments: &FenceShut) -> Result<(), Failure> {
    let failed = |error: pgx_bpf::Error| Failure::Failed(error.to_string());
    let port = arguments.port;
    let best = Means::from_word(&arguments.best).unwrap_or(Means::Nothing);
    let (raised, cause) = raise(config::Fence { port, best })?;
    match raised {
        Raised::Programs(guard, _) => {
            let mut is_whole = true;
            for place in guard.places() {
                println!("{place}");
                is_whole &= place.is_guarded();
            }
            let pins = Pins::open(Path::new(BPFFS), PIN_BASE).map_err(failed)?;
            if standing(&pins).map_err(failed)?.gate(boot_time().0) == Gate::Shut {
                // Connections from before the fence: those that only wait would hear of nothing.
                let ended = destroy(Side::Local(port)).map_err(failed)?;
                println!("port {port} is shut; {ended} connections ended");
            } else {
                println!("port {port} is open under a lease that is held");
            }
            if is_whole { Ok(()) } else { Err(Failure::Trouble) }
        }
        Raised::Nftables(_) => {
            println!("port {port} is guarded by nftables: {cause}");
            Ok(())
        }
        Raised::Nothing => Err(Failure::Failed(cause)),
    }
}

/// Where this program lies.
fn program() -> Result<PathBuf, Failure> {
    std::env::current_exe()
        .map_err(|error| Failure::Failed(format!("cannot tell the path of this program: {error}")))
}

/// The unit. Stopping it does nothing, on purpose.
fn unit(program: &Path, port: u16) -> String {
    format!(
        "# Made by 'pgx fence unit'. Put it into /etc/systemd/system/pgx-fence.service, then
# systemctl enable pgx-fence.service
[Unit]
Description=Shuts PostgreSQL's port until a lease opens it
DefaultDependencies=no
After=local-fs.target
Wants=network-pre.target
Before=network-pre.target postgresql.service pgx.service shutdown.target
Conflicts=shutdown.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart={} fence shut --port {port}

[Install]
WantedBy=sysinit.target
RequiredBy=pgx.service postgresql.service
",
        program.display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unit_runs_before_network_and_postgresql_and_undoes_nothing() {
        let text = unit(Path::new("/usr/bin/pgx"), 5433);
        assert!(text.contains("ExecStart=/usr/bin/pgx fence shut --port 5433\n"), "{text}");
        let before = text.lines().find(|line| line.starts_with("Before=")).unwrap();
        for unit in ["network-pre.target", "postgresql.service", "pgx.service"] {
            assert!(before.contains(unit), "{before}");
        }
        assert!(!text.contains("ExecStop"), "{text}");
    }
}
