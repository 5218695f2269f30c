//! A unit for systemd by which `pgx serve` runs beside the PostgreSQL that it has started.

use std::path::{Path, PathBuf};

use crate::config;
use crate::exit::Failure;

/// The unit for this program and this configuration.
///
/// # Errors
/// When the configuration cannot be read, or the path of this program, or of that, not be told.
pub(super) fn unit(config: &Path) -> Result<String, Failure> {
    let known = config::load(config)?;
    let data = known.postgres.map(|postgres| postgres.data_directory);
    let mounts: Vec<_> = data.into_iter().chain(known.control.map(|own| own.data)).collect();
    let failed = |error| Failure::Failed(format!("cannot tell the paths for the unit: {error}"));
    let program = std::env::current_exe().map_err(failed)?;
    let config = std::path::absolute(config).map_err(failed)?;
    Ok(text(&program, &config, &mounts))
}

/// A word as systemd reads it: `%` and `$` mean something there.
fn word(path: &Path) -> String {
    place(path).replace('$', "$$")
}

/// The same where nothing is run, and `$` means itself.
fn place(path: &Path) -> String {
    let text = path.display().to_string().replace('\\', "\\\\").replace('"', "\\\"");
    format!("\"{}\"", text.replace('%', "%%"))
}

/// What PostgreSQL inherits is chosen with it in mind: no file system of its own, no rule against
/// code that is made at run time (its JIT), and rights that hooks may need stay.
fn text(program: &Path, config: &Path, mounts: &[PathBuf]) -> String {
    // A directory whose disk is mounted later would be missed.
    let mounts: String =
        mounts.iter().map(|path| format!("RequiresMountsFor={}\n", place(path))).collect();
    format!(
        "# Made by 'pgx init systemd'. Put it into /etc/systemd/system/pgx.service, then
# systemctl enable --now pgx.service, and switch off what else starts PostgreSQL.
[Unit]
Description=pgx, which runs PostgreSQL and leads its clients
Wants=network-online.target
After=network-online.target local-fs.target time-sync.target pgx-fence.service
{mounts}StartLimitIntervalSec=0

[Service]
Type=exec
ExecStart={} serve --config {}
ExecReload=/bin/kill -HUP $MAINPID
Restart=always
RestartSec=1
# A wrong command line or configuration does not get better by itself.
RestartPreventExitStatus=2 3
# PostgreSQL lives in this control group, and goes on when pgx ends, is killed, or one of its own
# processes has no memory left.
KillMode=process
OOMPolicy=continue
# Longer than proxy.drain_timeout.
TimeoutStopSec=90
LimitNOFILE=1048576
LimitMEMLOCK=infinity
TasksMax=infinity
# What neither pgx nor PostgreSQL does. io_uring, BPF and the file systems are as everywhere.
CapabilityBoundingSet=~CAP_SYS_MODULE CAP_SYS_BOOT CAP_SYS_RAWIO CAP_SYS_TIME CAP_MAC_ADMIN
LockPersonality=yes
SystemCallArchitectures=native

[Install]
WantedBy=multi-user.target
",
        word(program),
        word(config)
    )
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn postgresql_outlives_pgx_and_is_not_fenced_in_by_its_unit() {
        let mounts = [PathBuf::from("/srv/a b/data")];
        let text = text(Path::new("/usr/bin/pgx"), Path::new("/etc/a b/100%.toml"), &mounts);
        let run = "ExecStart=\"/usr/bin/pgx\" serve --config \"/etc/a b/100%%.toml\"\n";
        let waits = "RequiresMountsFor=\"/srv/a b/data\"\n";
        for line in [run, waits, "KillMode=process\n", "OOMPolicy=continue\n", "Restart=always\n"] {
            assert!(text.contains(line), "{line}: {text}");
        }
        for word in ["MemoryDenyWriteExecute", "SystemCallFilter", "NoNewPrivileges", "Protect"] {
            assert!(!text.contains(word), "{word}: {text}");
        }
    }

    #[test]
    fn unit_is_one_that_systemd_takes_without_a_word() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pgx.service");
        let mounts = [PathBuf::from("/srv/a b/data"), PathBuf::from("/var/lib/pgx")];
        let text = text(Path::new("/bin/true"), Path::new("/etc/pgx/pgx.toml"), &mounts);
        std::fs::write(&path, text).unwrap();
        let verified = Command::new("systemd-analyze").arg("verify").arg(&path).output();
        // Where there is none, the other test has to do.
        let Ok(output) = verified else { return };
        let said = String::from_utf8_lossy(&output.stderr);
        let about_us = said.lines().filter(|line| line.contains("pgx.service"));
        assert_eq!(about_us.collect::<Vec<_>>(), Vec::<&str>::new());
    }
}
