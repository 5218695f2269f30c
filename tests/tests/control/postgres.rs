//! A real PostgreSQL under a watching agent: its lease, its loss, and that it is left alone.

use anyhow::{Context, ensure};
use libtest_mimic::Trial;
use pgx_tests::cluster::{Cluster, WAIT_MAX, ask, control, wait_for_coordinator};
use pgx_tests::database::Database;
use pgx_tests::lab::wait_for;
use pgx_tests::node::Node;
use pgx_tests::skip::{self, Requirement};
use serde_json::Value;

use crate::cluster;

pub(crate) fn trials() -> Vec<Trial> {
    let name = "primary_holds_its_lease_through_elections_and_its_death_is_sealed";
    let test = primary_holds_its_lease_through_elections_and_its_death_is_sealed;
    vec![skip::trial(name, &[Requirement::Root], test)]
}

/// A cluster of three that has begun with this database on node 1.
pub(crate) fn begin(cluster: &Cluster) -> anyhow::Result<Vec<Node>> {
    let nodes = cluster.begin(3)?;
    wait_for("the agent tells", WAIT_MAX, || {
        control(&nodes[0]).is_some_and(|seen| seen["agent"]["postgres"] == "primary")
    })
    .with_context(|| nodes[0].log())?;
    // A coordinator that has not heard of the directory yet refuses.
    wait_for("the cluster begins", WAIT_MAX, || {
        ask(&nodes[1], &["bootstrap", "--node", "1"]).is_ok()
    })?;
    wait_for("the lease is held", WAIT_MAX, || {
        control(&nodes[0]).is_some_and(|seen| lease(&seen).is_some_and(|left| left > 0))
    })?;
    Ok(nodes)
}

pub(crate) fn lease(seen: &Value) -> Option<u64> {
    let leases = seen["leases"].as_array()?;
    leases.iter().find(|lease| lease["kind"] == "primary")?["remaining_ms"].as_u64()
}

fn primary_holds_its_lease_through_elections_and_its_death_is_sealed() -> anyhow::Result<()> {
    let mut cluster = cluster(3);
    let database = Database::start()?;
    cluster.configure(1, &database.section());
    let nodes = begin(&cluster)?;
    for to in ["2", "3"] {
        ask(&nodes[0], &["transfer", "--to", to])?;
        wait_for_coordinator(&nodes.iter().collect::<Vec<_>>())?;
        let left = control(&nodes[0]).and_then(|seen| lease(&seen));
        ensure!(left > Some(500), "{left:?} ms are left in the middle of an election");
    }
    let plan = ask(&nodes[2], &["failover", "--dry-run"])?;
    ensure!(plan.contains("would propose Seal"), "{plan}");
    let before = control(&nodes[0]).map(|seen| seen["epoch"].clone());
    ensure!(before == control(&nodes[0]).map(|seen| seen["epoch"].clone()));

    database.kill()?;
    for node in &nodes {
        wait_for("the epoch is sealed", WAIT_MAX, || {
            control(node).is_some_and(|seen| seen["epoch"]["sealed"] == 1)
        })?;
    }
    wait_for("the lease runs out", WAIT_MAX, || {
        control(&nodes[0]).is_some_and(|seen| lease(&seen).is_none_or(|left| left == 0))
    })?;
    // pgx only watches: PostgreSQL starts as if it were not there.
    database.begin()
}
