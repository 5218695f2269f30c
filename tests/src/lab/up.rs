//! Bringing a lab up, step by step, and taking it down whatever state it is in.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use super::cgroup::Cgroup;
use super::helper::{self, Verb};
use super::host::POSTGRES;
use super::init::InitPlan;
use super::procs::Proc;
use super::run::run;
use super::spec::{Kind, Plan, Spec, check_name, vip_v4, vip_v6};
use super::state::{HostState, Lock, State, StateDir};
use super::wait::wait_for;
use super::{Lab, members, network, pgx, postgres};

/// The kernel frees a loop device soon after its last mount is gone.
const FREE: Duration = Duration::from_secs(10);

/// Brings a lab up; `watch` is told before each step.
pub(super) fn up(spec: &Spec, watch: &mut dyn FnMut(&str)) -> anyhow::Result<Lab> {
    spec.check()?;
    let start = Instant::now();
    let _lock = Lock::take(&spec.name)?;
    let dir = StateDir::of_lab(&spec.name);
    let cgroup = Cgroup::of_lab(&spec.name)?;
    if dir.path().exists() || cgroup.exists() {
        bail!(
            "lab {0} is up already, or what a crash left of it; see it: cargo xtask lab --name \
             {0} status; take it down: the same with `down`; do both: the same with `up --replace`",
            spec.name
        );
    }
    let made = make(spec, &dir, &cgroup, watch);
    match made {
        Ok(lab) => {
            watch(&format!("up in {:.1} s", start.elapsed().as_secs_f64()));
            Ok(lab)
        }
        Err(error) => {
            watch("failed; taking down what there is of it");
            remove(&dir, &cgroup).context("while taking down a lab that did not come up")?;
            Err(error)
        }
    }
}

/// Takes a lab down, whatever there is of it. Says whether there was anything.
pub(super) fn down(name: &str) -> anyhow::Result<bool> {
    check_name(name)?;
    let _lock = Lock::take(name)?;
    let dir = StateDir::of_lab(name);
    let cgroup = Cgroup::of_lab(name)?;
    let found = dir.path().exists() || cgroup.exists();
    remove(&dir, &cgroup)?;
    Ok(found)
}

fn make(
    spec: &Spec,
    dir: &StateDir,
    cgroup: &Cgroup,
    watch: &mut dyn FnMut(&str),
) -> anyhow::Result<Lab> {
    watch("making hosts");
    let postgres_bin = match spec.run_postgres {
        true => postgres::find_programs(spec.postgres.as_deref())?,
        false => "/usr/bin".into(),
    };
    dir.create()?;
    cgroup.create()?;
    let mut state = State {
        spec: spec.clone(),
        postgres_bin,
        hosts: Vec::new(),
        complete: false,
        faults: Vec::new(),
        next_fault: 1,
    };
    dir.save(&state)?;
    let password = dir.make_password()?;
    dir.replace("hosts", &hosts_file(spec), 0o644)?;
    state.hosts = launch_all(spec, dir, cgroup)?;
    dir.save(&state)?;
    watch("plugging hosts into the switch");
    let lab = Lab::from_state(dir.clone(), cgroup, &state)?;
    network::plug_in(spec, lab.switch()?, lab.hosts())?;
    if let Err(error) = network::pass_xdp(lab.switch()?, lab.hosts()) {
        // A machine without XDP runs pgx too, only not the parts that would need this.
        watch(&format!("goes on without XDP, hosts cannot answer by XDP_TX: {error:#}"));
    }
    if let Some(shim) = &spec.shim {
        for host in lab.data_hosts() {
            std::fs::copy(shim, host.file(postgres::SHIM))
                .with_context(|| format!("cannot copy {}", shim.display()))?;
        }
    }
    if spec.control {
        members::make(&lab, &state.postgres_bin, &password, watch)?;
    } else if spec.run_postgres {
        make_cluster(&lab, &password, watch)?;
    }
    if spec.pgx.is_some() && !spec.control {
        watch("starting pgx");
        let primary = lab.host("n1")?.plan();
        for host in lab.hosts().iter().filter(|host| host.plan().kind.runs_pgx()) {
            pgx::configure(host, primary)?;
            lab.start_pgx(&host.plan().name)?;
        }
    }
    state.complete = true;
    dir.save(&state)?;
    Ok(lab)
}

fn make_cluster(lab: &Lab, password: &str, watch: &mut dyn FnMut(&str)) -> anyhow::Result<()> {
    let log = |host: &str| lab.log(host, "postgresql");
    let data: Vec<_> = lab.data_hosts().collect();
    let (primary, standbys) = data.split_first().context("a lab has at least one data host")?;
    watch("making the primary");
    postgres::make_primary(primary, password, standbys, &log(&primary.plan().name))?;
    if standbys.is_empty() {
        return Ok(());
    }
    watch("cloning the standbys");
    in_parallel(standbys.iter(), |standby| {
        postgres::make_standby(standby, primary, password, &log(&standby.plan().name))
    })?;
    postgres::wait_for_standbys(primary, standbys.len())
}

fn launch_all(spec: &Spec, dir: &StateDir, cgroup: &Cgroup) -> anyhow::Result<Vec<HostState>> {
    in_parallel(spec.plans().into_iter(), |plan| {
        let name = &plan.name;
        launch(spec, &plan, dir, cgroup).with_context(|| format!("cannot make host {name}"))
    })
}

fn launch(spec: &Spec, plan: &Plan, dir: &StateDir, cgroup: &Cgroup) -> anyhow::Result<HostState> {
    let own = cgroup.host(&plan.name);
    own.create()?;
    let disk = (plan.kind == Kind::Data).then(|| dir.disk(&plan.name));
    if let Some(disk) = &disk {
        make_disk(disk, spec.disk_mb)?;
    }
    let words = helper::words(
        Verb::Launch,
        &InitPlan {
            host: plan.name.clone(),
            cgroup: own.path().to_owned(),
            log: dir.log(&plan.name, "init"),
            disk,
            hosts_file: dir.hosts_file(),
            ipv6: plan.kind != Kind::Switch,
        },
    )?;
    let printed = run(Command::new(&words[0]).args(&words[1..]))?;
    let pid = printed.trim().parse().with_context(|| {
        format!("{} did not serve as a helper, it printed {printed:?}", words.join(" "))
    })?;
    let init = Proc::read(pid).context("its init ended at once")?.id;
    Ok(HostState { plan: plan.clone(), init })
}

fn make_disk(image: &Path, size_mb: u32) -> anyhow::Result<()> {
    let file = std::fs::File::create(image)
        .with_context(|| format!("cannot make the disk {}", image.display()))?;
    file.set_len(u64::from(size_mb) << 20)?;
    // No block is kept for root, so that a full disk is as full for everybody.
    run(Command::new("mkfs.ext4").args(["-q", "-F", "-m", "0"]).arg(image))?;
    Ok(())
}

/// Does `work` for each item on a thread of its own; the first error wins, after all have ended.
fn in_parallel<I: Send, T: Send>(
    items: impl Iterator<Item = I>,
    work: impl Fn(I) -> anyhow::Result<T> + Sync,
) -> anyhow::Result<Vec<T>> {
    let work = &work;
    std::thread::scope(|scope| {
        let threads: Vec<_> = items.map(|item| scope.spawn(move || work(item))).collect();
        let results: Vec<_> = threads.into_iter().map(|thread| thread.join()).collect();
        results
            .into_iter()
            .map(|result| result.map_err(|_| anyhow::anyhow!("a thread of the lab panicked"))?)
            .collect()
    })
}

fn hosts_file(spec: &Spec) -> String {
    let mut text = "127.0.0.1 localhost\n::1 localhost\n".to_owned();
    for plan in spec.plans().iter().filter(|plan| plan.kind != Kind::Switch) {
        text += &format!("{} {1}\n{2} {1}\n", plan.v4(), plan.name, plan.v6());
    }
    text + &format!("{} vip\n{} vip\n", vip_v4(), vip_v6())
}

/// Kills every process of the lab, which makes the kernel free namespaces, cables, mounts and
/// pinned objects, then removes what lies in files.
fn remove(dir: &StateDir, cgroup: &Cgroup) -> anyhow::Result<()> {
    if cgroup.exists() {
        cgroup.kill_and_remove()?;
    }
    let disks = dir.path().join("disk");
    let freed =
        wait_for("loop devices of the lab to be free", FREE, || loop_devices(&disks).is_empty());
    if freed.is_err() {
        // Somebody outside of the lab holds a mount of it; the device goes when that does.
        for device in loop_devices(&disks) {
            run(Command::new("losetup").args(["--detach", &device]).stdin(Stdio::null()))?;
        }
    }
    dir.remove()
}

/// The loop devices whose images lie in a directory; see `/sys/block/loop*/loop` in the kernel's
/// `Documentation/ABI/testing/sysfs-block-loop`.
fn loop_devices(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir("/sys/block").into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let backed = |name: &String| {
        let file = Path::new("/sys/block").join(name).join("loop/backing_file");
        std::fs::read_to_string(file).is_ok_and(|image| Path::new(image.trim()).starts_with(dir))
    };
    names.filter(backed).map(|name| format!("/dev/{name}")).collect()
}

/// Refuses early, in one line each, what would fail later in many.
pub(super) fn check_machine(spec: &Spec) -> anyhow::Result<()> {
    helper::refuse_in_helper()?;
    if !nix::unistd::geteuid().is_root() {
        bail!("a lab makes namespaces and mounts and so needs root; run it with sudo");
    }
    if spec.run_postgres && nix::unistd::User::from_name(POSTGRES)?.is_none() {
        bail!("there is no user {POSTGRES} here; install PostgreSQL: apt-get install postgresql");
    }
    for path in [&spec.pgx, &spec.shim].into_iter().flatten() {
        if !path.is_file() {
            bail!("{} does not exist; build it, or name another", path.display());
        }
    }
    Ok(())
}
