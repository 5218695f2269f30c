//! Proxies that follow the cluster: where clients go, and that they go nowhere without a lease.

use std::net::TcpListener;
use std::process::{Child, Command, Output, Stdio};

use anyhow::{Context, ensure};
use libtest_mimic::Trial;
use nix::sys::signal::Signal;
use pgx_tests::cluster::{WAIT_MAX, ask, control};
use pgx_tests::database::Database;
use pgx_tests::lab::wait_for;
use pgx_tests::node::Node;
use pgx_tests::skip::{self, Requirement};

use crate::{cluster, postgres};

pub(crate) fn trials() -> Vec<Trial> {
    let name = "clients_are_led_to_the_primary_while_their_proxy_holds_its_lease_and_no_longer";
    vec![skip::trial(name, &[Requirement::Root], led)]
}

/// A client that runs a text.
fn client(node: &Node, text: &str) -> anyhow::Result<Child> {
    let port = node.address()?.port();
    Command::new("psql")
        .args(["--no-psqlrc", "--tuples-only", "--no-align", "--command", text])
        .arg(format!("host=127.0.0.1 port={port} user=postgres dbname=postgres"))
        .env("HOME", "/nonexistent")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot run psql")
}

fn run(node: &Node, text: &str) -> anyhow::Result<Output> {
    Ok(client(node, text)?.wait_with_output()?)
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Whether a query of somebody's runs at the server.
fn runs(database: &Database, text: &str) -> bool {
    let folder = database.socket_folder().display().to_string();
    let words = format!(
        "select count(*) from pg_stat_activity where query = '{text}' and state = 'active'"
    );
    let port = std::fs::read_to_string(database.data().join("postmaster.pid"));
    let port = port.ok().and_then(|text| text.lines().nth(3).map(str::to_owned));
    let Some(port) = port else { return false };
    let output = Command::new("psql")
        .args(["--no-psqlrc", "--tuples-only", "--no-align", "--command", &words])
        .arg(format!("host={folder} port={port} user=postgres dbname=postgres"))
        .output();
    output.is_ok_and(|output| output.stdout.trim_ascii() == b"1")
}

fn led() -> anyhow::Result<()> {
    let mut cluster = cluster(3);
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let settings = format!("-c listen_addresses=127.0.0.1 -p {port}");
    let database = Database::start_with(&["--auth=trust"], &settings)?;
    let proxy = format!(
        "[proxy]\nlisten = [\"127.0.0.1:0\"]\npool_mode = \"transaction\"\nauth_type = \"trust\"\n\
         threads = 2\ncluster_port = {port}\n"
    );
    cluster.configure(1, &format!("{}{proxy}", database.section()));
    cluster.configure(2, &proxy);
    cluster.configure(3, &proxy);
    let nodes = postgres::begin(&cluster)?;
    for node in &nodes {
        let output = run(node, "select 'served'")?;
        ensure!(output.stdout == b"served\n", "{}\n{}", said(&output), node.log());
    }
    // A silence that the test makes is to seal nothing.
    ask(&nodes[0], &["pause"])?;
    let long = "select pg_sleep(600)";
    let served = client(&nodes[1], long)?;
    wait_for("the query runs", WAIT_MAX, || runs(&database, long))?;

    for node in [&nodes[0], &nodes[2]] {
        node.signal(Signal::SIGSTOP)?;
    }
    // The lease runs out, and nothing of the server's is passed on after that.
    let output = served.wait_with_output()?;
    ensure!(said(&output).contains("whether it committed is not known"), "{}", said(&output));
    let mut waits = client(&nodes[1], "select 'later'")?;
    wait_for("it says so", WAIT_MAX, || nodes[1].log().contains("writes=Shut"))?;
    ensure!(waits.try_wait()?.is_none(), "who comes waits");

    for node in [&nodes[0], &nodes[2]] {
        node.signal(Signal::SIGCONT)?;
    }
    let output = waits.wait_with_output()?;
    ensure!(output.stdout == b"later\n", "{}\n{}", said(&output), nodes[1].log());
    wait_for("all is as before", WAIT_MAX, || {
        control(&nodes[1]).is_some_and(|seen| !seen["coordinator"].is_null())
    })
}
