//! What a lab writes down: its state directory, its lock, and `lab.json` within.
//!
//! Nothing that tear-down needs is only here: processes are found by their cgroup and disks by the
//! directory they lie in, so a torn or missing `lab.json` costs `status` and `heal`, not `down`.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};

use super::fault::Active;
use super::procs::ProcId;
use super::spec::{Plan, Spec};

/// Where the state of every lab lies.
const ROOT: &str = "/var/lib/pgx-lab";
/// Locks lie apart from the state, which `down` removes while it holds one.
const LOCKS: &str = "/run/lock";

/// `lab.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct State {
    /// What was asked for.
    pub(super) spec: Spec,
    /// The directory of PostgreSQL's programs.
    pub(super) postgres_bin: PathBuf,
    /// The hosts that are up so far.
    pub(super) hosts: Vec<HostState>,
    /// Whether everything was brought up.
    pub(super) complete: bool,
    /// The faults that are in force.
    pub(super) faults: Vec<Active>,
    /// The number of the next fault; numbers are never used again within a lab.
    pub(super) next_fault: u32,
}

/// A host that has its namespaces.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct HostState {
    /// Its name, kind and addresses.
    pub(super) plan: Plan,
    /// Its first process, which holds the namespaces.
    pub(super) init: ProcId,
}

/// The directory of one lab.
#[derive(Clone, Debug)]
pub(super) struct StateDir(PathBuf);

impl StateDir {
    /// The directory of the lab with this (checked) name.
    pub(super) fn of_lab(lab: &str) -> Self {
        Self(Path::new(ROOT).join(lab))
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// Makes it and what belongs into it.
    pub(super) fn create(&self) -> anyhow::Result<()> {
        for dir in [self.0.clone(), self.0.join("log"), self.0.join("disk")] {
            make_dirs(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        }
        Ok(())
    }

    /// Removes it with all that is in it, and the directory of all labs if this was the last.
    pub(super) fn remove(&self) -> anyhow::Result<()> {
        match std::fs::remove_dir_all(&self.0) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot remove {}", self.0.display()));
            }
            _ => {}
        }
        // Fails as it must while other labs are up.
        let _ = std::fs::remove_dir(ROOT);
        Ok(())
    }

    /// The log of a service of a host.
    pub(super) fn log(&self, host: &str, service: &str) -> PathBuf {
        self.0.join("log").join(format!("{host}.{service}.log"))
    }

    /// The disk image of a host.
    pub(super) fn disk(&self, host: &str) -> PathBuf {
        self.0.join("disk").join(format!("{host}.img"))
    }

    /// The `/etc/hosts` that the lab's hosts see.
    pub(super) fn hosts_file(&self) -> PathBuf {
        self.0.join("hosts")
    }

    /// Makes a password and keeps it where only root can read it.
    pub(super) fn make_password(&self) -> anyhow::Result<String> {
        let mut random = [0; 16];
        File::open("/dev/urandom")?.read_exact(&mut random)?;
        let password: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
        self.replace("password", &password, 0o600)?;
        Ok(password)
    }

    /// The password of the lab's roles.
    pub(super) fn password(&self) -> anyhow::Result<String> {
        let path = self.0.join("password");
        std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    }

    /// Reads `lab.json`.
    pub(super) fn load(&self) -> anyhow::Result<State> {
        let path = self.0.join("lab.json");
        let text = match std::fs::read_to_string(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => bail!(
                "there is no lab here ({} does not exist); bring one up: cargo xtask lab up",
                path.display()
            ),
            other => other.with_context(|| format!("cannot read {}", path.display()))?,
        };
        serde_json::from_str(&text).with_context(|| {
            format!("{} is damaged; remove the lab: cargo xtask lab down", path.display())
        })
    }

    /// Writes `lab.json`, so that a reader sees the old one or the new one.
    pub(super) fn save(&self, state: &State) -> anyhow::Result<()> {
        self.replace("lab.json", &serde_json::to_string_pretty(state)?, 0o644)
    }

    /// Writes a file of the directory in one step.
    pub(super) fn replace(&self, name: &str, text: &str, mode: u32) -> anyhow::Result<()> {
        let (new, path) = (self.0.join(format!("{name}.new")), self.0.join(name));
        let write = || -> std::io::Result<()> {
            let mut options = File::options();
            let mut file = options.write(true).create(true).truncate(true).mode(mode).open(&new)?;
            file.set_permissions(std::fs::Permissions::from_mode(mode))?;
            std::io::Write::write_all(&mut file, text.as_bytes())?;
            std::fs::rename(&new, &path)
        };
        write().with_context(|| format!("cannot write {}", path.display()))
    }
}

/// Keeps two commands from changing one lab at once; the kernel releases it when a holder dies.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock of a lab, waiting for a holder to finish.
    pub(super) fn take(lab: &str) -> anyhow::Result<Self> {
        std::fs::create_dir_all(LOCKS).with_context(|| format!("cannot make {LOCKS}"))?;
        let path = Path::new(LOCKS).join(format!("pgx-lab-{lab}.lock"));
        let mut options = File::options();
        let file = options
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .with_context(|| format!("cannot open {}; a lab needs root", path.display()))?;
        if file.try_lock().is_err() {
            eprintln!("lab {lab}: another command is changing it; waiting for it to finish");
            file.lock().with_context(|| format!("cannot lock {}", path.display()))?;
        }
        Ok(Self { _file: file })
    }
}
/// Makes a directory with its parents, though another lab that goes down may take away the one of
/// all labs, which is empty for a moment, between two steps of it.
pub(super) fn make_dirs(dir: &Path) -> std::io::Result<()> {
    for _ in 0..9 {
        match std::fs::create_dir_all(dir) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            made => return made,
        }
    }
    std::fs::create_dir_all(dir)
}
