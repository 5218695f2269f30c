//! Cgroups: what makes tear-down certain.
//!
//! Every process of a lab lives below `<cgroup2>/pgx-lab/NAME`, so that the kernel itself knows
//! which processes belong to it: no list of ours can be torn or out of date.
//! See `Documentation/admin-guide/cgroup-v2.rst` in the kernel's tree for `cgroup.kill`,
//! `cgroup.freeze` and `cgroup.events`.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;

use super::procs::Proc;
use super::state::make_dirs;
use super::wait::wait_for;

/// The cgroup of all labs, below the mount of cgroup2.
const ROOT: &str = "pgx-lab";
/// Killing and freezing are asynchronous but quick; more than this means a process in the kernel.
const SETTLE: Duration = Duration::from_secs(10);

/// One cgroup, which may not exist (any more).
#[derive(Clone, Debug)]
pub(super) struct Cgroup(PathBuf);

impl Cgroup {
    /// The cgroup of a lab.
    ///
    /// # Errors
    /// When cgroup2 is not mounted anywhere.
    pub(super) fn of_lab(lab: &str) -> anyhow::Result<Self> {
        let mounts = std::fs::read_to_string("/proc/mounts").context("cannot read /proc/mounts")?;
        let mount = find_mount(&mounts).context(
            "cgroup2 is not mounted here, and a lab needs it to find its processes again; \
             mount it: mkdir -p /sys/fs/cgroup && mount -t cgroup2 cgroup2 /sys/fs/cgroup",
        )?;
        Ok(Self(mount.join(ROOT).join(lab)))
    }

    /// The cgroup of one host of this lab.
    pub(super) fn host(&self, host: &str) -> Self {
        Self(self.0.join(host))
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// Makes it, with its parents.
    pub(super) fn create(&self) -> anyhow::Result<()> {
        make_dirs(&self.0).with_context(|| format!("cannot make the cgroup {}", self.0.display()))
    }

    /// Whether it is there.
    pub(super) fn exists(&self) -> bool {
        self.0.is_dir()
    }

    /// All its processes, those of cgroups below it included.
    pub(super) fn procs(&self) -> Vec<Proc> {
        let mut all = Vec::new();
        for dir in descendants(&self.0) {
            let pids = std::fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
            all.extend(pids.lines().filter_map(|pid| Proc::read(pid.parse().ok()?)));
        }
        all
    }

    /// Stops every process of it from running, or lets them run again, and waits until it is so.
    pub(super) fn freeze(&self, frozen: bool) -> anyhow::Result<()> {
        self.write("cgroup.freeze", if frozen { "1" } else { "0" })?;
        let what = format!("cgroup {} to become frozen={frozen}", self.0.display());
        wait_for(&what, SETTLE, || self.frozen() == frozen)
    }

    /// Whether all its processes are frozen.
    pub(super) fn frozen(&self) -> bool {
        self.event("frozen") == Some(true)
    }

    /// Kills every process of it, frozen ones too, and removes it and what is below it.
    pub(super) fn kill_and_remove(&self) -> anyhow::Result<()> {
        self.write("cgroup.kill", "1")?;
        let what = format!("the processes of {} to be gone", self.0.display());
        wait_for(&what, SETTLE, || self.event("populated") != Some(true))?;
        for dir in descendants(&self.0).iter().rev() {
            // A process that just exited may hold the group for another moment.
            let what = format!("the cgroup {} to be removable", dir.display());
            wait_for(&what, SETTLE, || match std::fs::remove_dir(dir) {
                Ok(()) => true,
                Err(error) => error.kind() == ErrorKind::NotFound,
            })?;
        }
        if let Some(root) = self.0.parent() {
            // Fails as it must while other labs are up.
            let _ = std::fs::remove_dir(root);
        }
        Ok(())
    }

    fn write(&self, file: &str, value: &str) -> anyhow::Result<()> {
        let path = self.0.join(file);
        std::fs::write(&path, value)
            .with_context(|| format!("cannot write {value:?} to {}", path.display()))
    }

    fn event(&self, key: &str) -> Option<bool> {
        parse_event(&std::fs::read_to_string(self.0.join("cgroup.events")).ok()?, key)
    }
}

/// A directory and all below it, parents before children.
fn descendants(dir: &Path) -> Vec<PathBuf> {
    let mut found = vec![dir.to_owned()];
    let mut next = 0;
    while let Some(dir) = found.get(next) {
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        let below: Vec<_> =
            entries.filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path()).collect();
        found.extend(below);
        next += 1;
    }
    found
}

fn find_mount(mounts: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let mut words = line.split(' ');
        let (_source, target, kind) = (words.next()?, words.next()?, words.next()?);
        (kind == "cgroup2").then(|| PathBuf::from(target))
    })
}

fn parse_event(events: &str, key: &str) -> Option<bool> {
    events.lines().find_map(|line| {
        let (name, value) = line.split_once(' ')?;
        (name == key).then_some(value == "1")
    })
}

#[cfg(test)]
mod tests {
    use super::{find_mount, parse_event};
    use std::path::PathBuf;

    #[test]
    fn cgroup2_is_found_wherever_it_is_mounted() {
        let hybrid = "cgroup /sys/fs/cgroup/cpu cgroup rw 0 0\n\
                      cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        assert_eq!(find_mount(hybrid), Some(PathBuf::from("/sys/fs/cgroup/unified")));
        let plain = "cgroup2 /sys/fs/cgroup cgroup2 rw,nsdelegate 0 0\n";
        assert_eq!(find_mount(plain), Some(PathBuf::from("/sys/fs/cgroup")));
        assert_eq!(find_mount("tmpfs /tmp tmpfs rw 0 0\n"), None);
    }

    #[test]
    fn events_are_read_by_name() {
        let events = "populated 1\nfrozen 0\n";
        assert_eq!(parse_event(events, "populated"), Some(true));
        assert_eq!(parse_event(events, "frozen"), Some(false));
        assert_eq!(parse_event(events, "other"), None);
    }
}
