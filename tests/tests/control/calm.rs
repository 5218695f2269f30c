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

/// A setting that is changed while the disk is slow.
const ATTEMPT_MS: u64 = 6_000;

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
    let (start, mut least) = (Instant::now(), u64::MAX);
    let setting = format!("policy.attempt_ms_max={ATTEMPT_MS}");
    std::thread::scope(|scope| {
        // Work for the slow disk; it may be refused meanwhile, for the quorum waits with it.
        scope.spawn(|| nodes[1].ctl(&["edit-config", "--set", &setting]).map(drop));
        wait_for("the time is over", WAIT_MAX, || {
            // Status waits for the controller, and that for its disk.
            let seen = nodes[0].status_quickly().unwrap_or_default();
            if !seen["control"].is_null() {
                least = least.min(lease(&seen["control"]).unwrap_or_default());
            }
            start.elapsed() > WATCHED
        })
    })?;
    nodes[2].signal(Signal::SIGCONT)?;
    std::fs::remove_file(&delay)?;
    wait_for("the slow disk has worked", WAIT_MAX, || {
        // What was refused is asked again.
        nodes[1].ctl(&["edit-config", "--set", &setting]).is_ok()
            && control(&nodes[0])
                .is_some_and(|seen| seen["settings"]["policy"]["attempt_ms_max"] == ATTEMPT_MS)
    })?;
    let seen = control(&nodes[0]).context("no status")?;
    let leases = seen["leases"].as_array().context("no leases")?;
    let primary = leases.iter().find(|lease| lease["kind"] == "primary").context("no lease")?;
    let at_renewals = primary["remaining_ms_least"].as_u64();
    println!("least left: {least} ms when looked at, {at_renewals:?} ms at a renewal");
    ensure!(least > 0 && at_renewals > Some(0), "{seen}\n{}", nodes[0].log());
    ensure!(seen["epoch"]["epoch"] == 0 && seen["epoch"]["sealed"].is_null(), "{seen}");
    Ok(())
}
