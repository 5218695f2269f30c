//! Where nothing is wrong, nothing is found, whatever happens to the server.

use std::time::Duration;

use anyhow::ensure;
use pgx_tests::checker::{Checker, Plan, Record};
use pgx_tests::lab::{build, wait_for};
use pgx_tests::node::Node;

use crate::{LIMIT, Server, Test};

pub(crate) const TESTS: &[(&str, Test)] = &[
    ("crash_of_a_server_loses_nothing", crash),
    ("crash_of_a_server_behind_a_pool_loses_nothing", crash_behind_a_pool),
    ("clients_go_to_the_next_proxy", next_proxy),
];

/// For how long a crashed server stays down, at least.
const DOWN: Duration = Duration::from_millis(300);

/// Crashes the server twice under the clients; gives the record, and from when to when it was down.
fn crash_twice(server: &Server, plan: Plan) -> anyhow::Result<(Record, Vec<[Duration; 2]>)> {
    // As fast as they can, so that some are always waiting for an answer.
    let checker = Checker::start(Plan { rate_per_client: None, ..plan })?;
    let mut downs = Vec::new();
    for _ in 0..2 {
        checker.wait_for_commits(100, LIMIT)?;
        server.database.kill()?;
        let ended = checker.clock();
        wait_for("some time without a server", LIMIT, || checker.clock() > ended + DOWN)?;
        downs.push([ended, checker.clock()]);
        server.database.begin()?;
        checker.wait_for_commits(100, LIMIT)?;
    }
    Ok((checker.stop()?, downs))
}

fn check(server: &Server, record: &Record, downs: &[[Duration; 2]]) -> anyhow::Result<()> {
    record.check()?;
    record.compare(&server.place())?.check()?;
    let counts = record.counts();
    ensure!(counts.acknowledged >= 400 && counts.sums_read > 0, "{counts:?}");
    ensure!(counts.errors > 0, "nobody noticed");
    for [from, to] in downs {
        let gap = record.longest_gap(*from, *to);
        ensure!(gap.length() >= DOWN, "a commit while the server was down: {gap:?}");
    }
    let longest = record.summary().longest_gap;
    ensure!(longest.length() >= DOWN && longest.length() < LIMIT, "{longest:?}");
    let forms = "select count(distinct via) from appends";
    let forms = server.with(async |client| Ok(client.query_one(forms, &[]).await?.get(0)));
    let forms: i64 = forms?;
    ensure!(forms == 5, "{forms} ways to insert");
    Ok(())
}

fn crash(server: &Server) -> anyhow::Result<()> {
    let (record, downs) = crash_twice(server, server.plan()?)?;
    check(server, &record, &downs)
}

fn crash_behind_a_pool(server: &Server) -> anyhow::Result<()> {
    let socket = server.database.socket_folder();
    let socket = format!("{}/.s.PGSQL.{}", socket.display(), server.address.port());
    let sections = format!(
        "[proxy]\nlisten = [\"127.0.0.1:0\"]\npool_mode = \"transaction\"\nauth_type = \"trust\"\n\
         backends = [{socket:?}]\ndefault_pool_size = 4\nthreads = 1\n"
    );
    let node = Node::start(&build::pgx(false)?, &sections)?;
    let plan = Plan { addresses: vec![node.address()?], ..server.plan()? };
    let (record, downs) = crash_twice(server, plan)?;
    check(server, &record, &downs)
}

fn next_proxy(server: &Server) -> anyhow::Result<()> {
    // Nobody listens at the first.
    let plan = server.plan()?;
    let addresses = vec!["127.0.0.1:1".parse()?, server.address];
    let checker = Checker::start(Plan { addresses, ..plan })?;
    checker.wait_for_commits(50, LIMIT)?;
    ensure!(checker.commits_through(0) == 0);
    let record = checker.stop()?;

    record.check()?;
    // Half of the clients began there.
    ensure!(record.error_counts.get("refused") == Some(&4), "{:?}", record.error_counts);
    let whole = Duration::from_micros(record.took_us);
    let there = record.longest_gap_through(0, Duration::ZERO, whole);
    ensure!(there.length() == whole, "{there:?}");
    ensure!(record.longest_gap_through(1, Duration::ZERO, whole).length() < whole);
    record.compare(&server.place())?.check()
}
