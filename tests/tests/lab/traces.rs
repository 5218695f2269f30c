//! What a lab can leave on a machine, found without the lab's own code.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pgx_tests::lab::{Lab, ProcId, wait_for_some};

/// Namespaces end with their last process, whose zombie the machine's init takes a moment to reap.
const GONE: Duration = Duration::from_secs(10);
/// Where hosts mount something of their own; none of it may show in the machine.
const MOUNT_POINTS: [&str; 6] =
    ["/run", "/sys", "/proc", "/var/lib/pgx", "/etc/hosts", "/sys/fs/cgroup"];

/// What a lab that is up consists of.
pub(crate) struct Traces {
    name: String,
    processes: Vec<ProcId>,
    namespaces: BTreeSet<PathBuf>,
}

/// Notes processes and namespaces of a lab that is up.
pub(crate) fn of(lab: &Lab) -> Traces {
    let processes: Vec<_> = lab.hosts().iter().flat_map(|host| host.processes()).collect();
    let inits = lab.hosts().iter().map(|host| host.init().pid);
    let mut namespaces: BTreeSet<_> = inits.flat_map(namespaces_of).collect();
    let own: BTreeSet<_> = namespaces_of(i32::try_from(std::process::id()).unwrap()).collect();
    namespaces.retain(|namespace| !own.contains(namespace));
    Traces { name: lab.spec().name.clone(), processes, namespaces }
}

/// What the machine would have more of if labs leaked: mounts and network devices.
pub(crate) fn machine() -> Vec<String> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    let ours = |line: &&str| line.split(' ').nth(1).is_some_and(|at| MOUNT_POINTS.contains(&at));
    let devices = std::fs::read_dir("/sys/class/net").unwrap().flatten();
    let devices = devices.filter_map(|device| device.file_name().into_string().ok());
    let lab_like = |name: &String| ["n1", "n2", "eth0", "br0", "client"].contains(&name.as_str());
    mounts.lines().filter(ours).map(str::to_owned).chain(devices.filter(lab_like)).collect()
}

impl Traces {
    /// How many namespaces the lab has of its own.
    pub(crate) fn namespace_count(&self) -> usize {
        self.namespaces.len()
    }

    /// Fails if anything of the lab is still there after a moment.
    pub(crate) fn assert_gone(&self) {
        let gone = wait_for_some("the lab's processes and namespaces to be gone", GONE, || {
            let left: Vec<_> = self.processes.iter().filter(|proc| exists(proc.pid)).collect();
            let used: BTreeSet<_> = all_pids().into_iter().flat_map(namespaces_of).collect();
            let held = self.namespaces.intersection(&used).count();
            (left.is_empty() && held == 0).then_some(())
        });
        gone.unwrap();
        assert_nothing_of(&self.name);
    }
}

/// Fails if there is a cgroup, a loop device, a mount, a process or a directory of this lab.
pub(crate) fn assert_nothing_of(name: &str) {
    assert_eq!(cgroup(name), None, "a cgroup is left");
    let state = Path::new("/var/lib/pgx-lab").join(name);
    assert!(!state.exists(), "{} is left", state.display());
    let loops: Vec<_> = loop_images().into_iter().filter(|i| i.starts_with(&state)).collect();
    assert!(loops.is_empty(), "loop devices are left on {loops:?}");
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    let state = state.display().to_string();
    assert!(!mounts.contains(&format!("{state}/")), "a mount is left:\n{mounts}");
    let marked = |pid: &i32| {
        let words = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&words).contains(&format!("{state}/"))
    };
    let left: Vec<_> = all_pids().into_iter().filter(marked).collect();
    assert!(left.is_empty(), "processes {left:?} are left");
}

/// The cgroup of a lab, if there is one, wherever cgroup2 is mounted here.
pub(crate) fn cgroup(name: &str) -> Option<PathBuf> {
    let mounts = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];
    let paths = mounts.iter().map(|mount| Path::new(mount).join("pgx-lab").join(name));
    paths.into_iter().find(|path| path.exists())
}

fn namespaces_of(pid: i32) -> impl Iterator<Item = PathBuf> {
    ["net", "mnt", "pid", "uts", "ipc", "cgroup"]
        .into_iter()
        .filter_map(move |kind| std::fs::read_link(format!("/proc/{pid}/ns/{kind}")).ok())
}

fn all_pids() -> Vec<i32> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

fn exists(pid: i32) -> bool {
    Path::new("/proc").join(pid.to_string()).exists()
}

fn loop_images() -> Vec<PathBuf> {
    let devices = std::fs::read_dir("/sys/block").into_iter().flatten().flatten();
    let images = devices
        .filter_map(|device| std::fs::read_to_string(device.path().join("loop/backing_file")).ok());
    images.map(|image| PathBuf::from(image.trim())).collect()
}
