//! The lab that tests of faults share, and how they look at its hosts.

use std::path::Path;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use pgx_tests::lab::postgres::SOCKET_DIR;
use pgx_tests::lab::{Fault, FaultId, Host, Lab, Spec, build, wait_for};

const NAME: &str = "test-shared";
/// How long a healed network or a recovered PostgreSQL may take to be as before.
pub(crate) const SETTLE: Duration = Duration::from_secs(20);

static LAB: OnceLock<Lab> = OnceLock::new();

/// The shared lab, brought up by the first test that asks, without faults of an earlier test.
pub(crate) fn lab() -> anyhow::Result<&'static Lab> {
    if let Some(lab) = LAB.get() {
        lab.heal_all()?;
        return Ok(lab);
    }
    // A test run that was killed could not take its lab down.
    Lab::down(NAME)?;
    let lab = Lab::up(&Spec { shim: Some(build::shim()?), ..Spec::new(NAME) })?;
    Ok(LAB.get_or_init(|| lab))
}

/// Takes the shared lab down, if a test brought it up.
pub(crate) fn down() -> anyhow::Result<()> {
    if LAB.get().is_some() {
        Lab::down(NAME)?;
    }
    Ok(())
}

/// A fault that heals when the test ends, whichever way.
pub(crate) struct Faulty<'a> {
    lab: &'a Lab,
    id: Option<FaultId>,
}

impl<'a> Faulty<'a> {
    pub(crate) fn new(lab: &'a Lab, fault: &Fault) -> anyhow::Result<Self> {
        Ok(Self { lab, id: Some(lab.fault(fault)?) })
    }

    pub(crate) fn heal(mut self) -> anyhow::Result<()> {
        self.id.take().map_or(Ok(()), |id| self.lab.heal(id))
    }
}

impl Drop for Faulty<'_> {
    fn drop(&mut self) {
        if let Some(Err(error)) = self.id.take().map(|id| self.lab.heal(id)) {
            eprintln!("cannot heal after the test: {error:#}");
        }
    }
}

/// Whether one packet to `address` comes back within a second.
pub(crate) fn reaches(from: &Host, address: &str) -> anyhow::Result<bool> {
    let output = from.exec(&["ping", "-n", "-c1", "-W1", address])?;
    Ok(output.status.success())
}

/// Waits until `from` reaches `address`.
pub(crate) fn wait_reached(from: &Host, address: &str) -> anyhow::Result<()> {
    let what = format!("{} to reach {address}", from.plan().name);
    wait_for(&what, SETTLE, || reaches(from, address).unwrap_or(false))
}

/// How many echo requests have arrived at `host`, counted by its own kernel. Read from outside,
/// as RFC 1213's icmpInEchos in `/proc/PID/net/snmp`.
pub(crate) fn echoes_heard(host: &Host) -> anyhow::Result<u64> {
    let path = Path::new("/proc").join(host.init().pid.to_string()).join("net/snmp");
    let text = std::fs::read_to_string(path)?;
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Icmp: "));
    let (names, values) = lines.next().zip(lines.next()).context("no counters of ICMP")?;
    let column = names.split(' ').position(|name| name == "InEchos").context("no InEchos")?;
    Ok(values.split(' ').nth(column).context("no value of InEchos")?.parse()?)
}

/// Runs SQL in `host` as the superuser, over the Unix socket.
pub(crate) fn sql(host: &Host, query: &str) -> anyhow::Result<String> {
    let words = ["psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-h", SOCKET_DIR, "-c", query];
    let output = host.exec_as(Some("postgres"), &words)?;
    if !output.status.success() {
        bail!("{query}: {}", String::from_utf8_lossy(&output.stderr).trim_end());
    }
    Ok(String::from_utf8(output.stdout)?.trim_end().to_owned())
}

/// How long `work` takes.
pub(crate) fn timed<T>(work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<Duration> {
    let start = Instant::now();
    work()?;
    Ok(start.elapsed())
}
