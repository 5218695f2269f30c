//! What a cluster's nodes tell Prometheus is what they tell operators.

use anyhow::{Context, ensure};
use libtest_mimic::Trial;
use nix::sys::signal::Signal;
use pgx_tests::cluster::{WAIT_MAX, control};
use pgx_tests::database::Database;
use pgx_tests::lab::wait_for;
use pgx_tests::node::Node;
use pgx_tests::skip::{self, Requirement};

use crate::cluster;
use crate::postgres::begin;

const SECTION: &str = "[metrics]\nlisten = \"127.0.0.1:0\"\n";

pub(crate) fn trials() -> Vec<Trial> {
    let name = "metrics_of_a_cluster_follow_its_epoch_its_leases_and_its_nodes";
    let test = metrics_of_a_cluster_follow_its_epoch_its_leases_and_its_nodes;
    vec![skip::trial(name, &[Requirement::Root], test)]
}

/// The sum of a metric over nodes.
fn sum(nodes: &[Node], name: &str, labels: &[(&str, &str)]) -> anyhow::Result<f64> {
    nodes.iter().map(|node| Ok(node.scrape()?.sum(name, labels))).sum()
}

fn wait_until(
    node: &Node,
    name: &str,
    labels: &[(&str, &str)],
    expected: f64,
) -> anyhow::Result<()> {
    let is_so = || node.scrape().is_ok_and(|scrape| scrape.sum(name, labels) == expected);
    let scrape = || node.scrape().map(|scrape| scrape.text).unwrap_or_default();
    wait_for(&format!("{name} is {expected}"), WAIT_MAX, is_so)
        .map_err(|error| error.context(format!("{}{name}{labels:?} is not {expected}", scrape())))
}

fn metrics_of_a_cluster_follow_its_epoch_its_leases_and_its_nodes() -> anyhow::Result<()> {
    let mut cluster = cluster(3);
    let database = Database::start()?;
    cluster.configure(1, &format!("{}{SECTION}", database.section()));
    cluster.configure(2, SECTION);
    cluster.configure(3, SECTION);
    let mut nodes = begin(&cluster)?;

    wait_for("one coordinates", WAIT_MAX, || {
        sum(&nodes, "pgx_control_coordinates", &[]).is_ok_and(|count| count == 1.0)
    })?;
    let (status, scrape) = (control(&nodes[0]).context("no status")?, nodes[0].scrape()?);
    let term = status["term"].as_f64().context("no term")?;
    ensure!(scrape.sum("pgx_control_terms_total", &[]) >= term, "{}", scrape.text);
    ensure!(scrape.sum("pgx_control_epoch_established", &[]) == 1.0, "{}", scrape.text);
    ensure!(scrape.sum("pgx_control_primary_node", &[]) == 1.0, "{}", scrape.text);
    ensure!(scrape.sum("pgx_control_stalled", &[]) == 0.0, "{}", scrape.text);
    let lease = scrape.sum("pgx_lease_remaining_seconds", &[("lease", "primary")]);
    ensure!(lease > 0.0 && lease < 60.0, "{lease}");
    ensure!(scrape.text.contains("pgx_postgres_probe_unanswered_seconds{"), "{}", scrape.text);
    let trip = scrape.sum("pgx_peer_round_trip_seconds", &[("node", "2")]);
    ensure!(trip < 10.0, "{trip}");
    wait_until(&nodes[0], "pgx_peer_connected", &[], 2.0)?;

    database.kill()?;
    for node in &nodes {
        wait_until(node, "pgx_control_epoch_sealed", &[], 1.0)?;
    }
    for node in &mut nodes[1..] {
        node.end(Signal::SIGKILL)?;
    }
    wait_until(&nodes[0], "pgx_control_leaderless", &[], 1.0)?;
    wait_until(&nodes[0], "pgx_peer_connected", &[], 0.0)?;
    let text = nodes[0].scrape()?.text;
    ensure!(text.contains("pgx_peer_connected{node=\"3\"} 0"), "{text}");
    Ok(())
}
