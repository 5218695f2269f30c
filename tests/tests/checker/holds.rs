//! Where nothing is wrong, nothing is found, whatever happens to the server.

use std::time::Duration;

use anyhow::ensure;
use pgx_tests::checker::{Checker, Plan, Record};
use pgx_tests::lab::build;
use pgx_tests::node::Node;

use crate::{LIMIT, Server, Test};

pub(crate) const TESTS: &[(&str, Test)] = &[
    ("crash_of_a_server_loses_nothing", crash),
    ("crash_of_a_server_behind_a_pool_loses_nothing", crash_behind_a_pool),
    ("clients_go_to_the_next_proxy", next_proxy),
];

/// Crashes the server twice under the clients; gives the record, and times that are in the gap.
fn crash_twice(server: &Server, plan: Plan) -> anyhow::Result<(Record, [Duration; 2])> {
    let checker = Checker::start(plan)?;
    let mut down = [Duration::ZERO; 2];
    for _ in 0..2 {
        checker.wait_for_commits(100, LIMIT)?;
        server.database.kill()?;
        down = [checker.clock(), down[1]];
        server.database.begin()?;
        checker.wait_for_commits(100, LIMIT)?;
        down[1] = checker.clock();
    }
    Ok((checker.stop()?, down))
}

fn check(server: &Server, record: &Record, down: [Duration; 2]) -> anyhow::Result<()> {
    record.check()?;
    record.compare(&server.place())?.check()?;
    let counts = record.counts();
    ensure!(counts.acknowledged >= 400 && counts.sums_read > 0, "{counts:?}");
    ensure!(counts.errors > 0, "nobody noticed");
    // Nobody can have written between the end of the server and its next beginning.
    let gap = record.longest_gap(down[0], down[1]);
    ensure!(gap.length() > Duration::ZERO && gap.length() <= down[1] - down[0], "{gap:?}");
    ensure!(gap.length() < LIMIT && record.summary().longest_gap.length() >= gap.length());
    let forms = "select count(distinct via) from appends";
    let forms = server.with(async |client| Ok(client.query_one(forms, &[]).await?.get(0)));
    let forms: i64 = forms?;
    ensure!(forms == 4, "{forms} ways to insert");
    Ok(())
}

fn crash(server: &Server) -> anyhow::Result<()> {
    let (record, down) = crash_twice(server, server.plan()?)?;
    check(server, &record, down)
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
    let (record, down) = crash_twice(server, plan)?;
    check(server, &record, down)
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
