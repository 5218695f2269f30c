//! What must never reach the primary's clients: other nodes, disks and names that are slow or dead.
//! Its lease goes on without a gap.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use libtest_mimic::Trial;
use nix::sys::signal::Signal;
use pgx_tests::cluster::{WAIT_MAX, control};
use pgx_tests::database::Database;
use pgx_tests::lab::{build, wait_for};
use pgx_tests::skip::{self, Requirement};

use crate::cluster;
use crate::postgres::{begin, lease};

/// Three leases one after the other: a renewal that is missed shows.
const WATCHED: Duration = Duration::from_secs(6);

pub(crate) fn trials() -> Vec<Trial> {
    let name = "frozen_voter_slow_control_disk_and_unknown_names_leave_the_primary_its_lease";
    let test = frozen_voter_slow_control_disk_and_unknown_names_leave_the_primary_its_lease;
    vec![skip::trial(name, &[Requirement::Root], test)]
}

fn frozen_voter_slow_control_disk_and_unknown_names_leave_the_primary_its_lease()
-> anyhow::Result<()> {
    let mut cluster = cluster(3);
    let database = Database::start()?;
    // Nobody answers for it, or a DNS server says so after its time.
    let unknown = "[[control.peers]]\nid = 9\naddress = \"no-such-host.invalid:6433\"\n";
    cluster.configure(1, &format!("{unknown}{}", database.section()));
    let delay = cluster.path("delay");
    cluster.set_variable(1, "LD_PRELOAD", &build::shim()?.display().to_string());
    cluster.set_variable(1, "PGX_LAB_FSYNC_DELAY", &delay.display().to_string());
    let nodes = begin(&cluster)?;

    std::fs::write(&delay, "3000")?;
    nodes[2].signal(Signal::SIGSTOP)?;
    let (start, mut least, mut error) = (Instant::now(), u64::MAX, None);
    wait_for("the time is over", WAIT_MAX, || {
        // The driver of node 1 waits for its disk meanwhile, so its status may be late.
        match nodes[0].status_quickly() {
            Ok(seen) if !seen["control"].is_null() => {
                least = least.min(lease(&seen["control"]).unwrap_or_default());
            }
            Ok(_) => {}
            Err(failed) => error = Some(failed),
        }
        start.elapsed() > WATCHED
    })?;
    nodes[2].signal(Signal::SIGCONT)?;
    std::fs::remove_file(&delay)?;
    ensure!(error.is_none(), "{error:?}");
    let seen = wait_for_status(&nodes[0])?;
    let leases = seen["leases"].as_array().context("no leases")?;
    let primary = leases.iter().find(|lease| lease["kind"] == "primary").context("no lease")?;
    let at_renewals = primary["remaining_ms_least"].as_u64();
    println!("least left: {least} ms when looked at, {at_renewals:?} ms at a renewal");
    ensure!(least > 0 && at_renewals > Some(0), "{seen}\n{}", nodes[0].log());
    ensure!(seen["epoch"]["epoch"] == 1 && seen["epoch"]["sealed"].is_null(), "{seen}");
    Ok(())
}

fn wait_for_status(node: &pgx_tests::node::Node) -> anyhow::Result<serde_json::Value> {
    pgx_tests::lab::wait_for_some("a status", WAIT_MAX, || control(node))
}
