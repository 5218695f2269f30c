//! What is wrong is found and named.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use pgx_tests::checker::{Checker, Plan};
use pgx_tests::lab::wait_for;

use crate::{LIMIT, Server, Test};

pub(crate) const TESTS: &[(&str, Test)] = &[
    ("acknowledged_row_that_vanished_is_lost", lost),
    ("row_that_was_refused_or_never_sent_is_invented", invented),
    ("sum_that_does_not_hold_is_seen_by_reader_and_verdict", sum),
    ("number_that_a_server_had_already_is_repeated", repeated),
    ("server_that_never_answers_a_login_is_a_hang", silent_login),
    ("query_that_is_never_answered_is_a_hang_and_in_doubt", silent_query),
    ("network_that_cannot_be_entered_is_an_error", no_network),
];

/// A wait for an answer that is long for a server that answers, and short for a test.
const ANSWER_MAX: Duration = Duration::from_secs(1);

fn lost(server: &Server) -> anyhow::Result<()> {
    // Its own network, entered anew: what clients in another network do.
    let plan = Plan { network: Some("/proc/self/ns/net".into()), ..server.plan()? };
    let checker = Checker::start(plan)?;
    checker.wait_for_commits(50, LIMIT)?;
    let record = checker.stop()?;
    record.compare(&server.place())?.check()?;

    let of_two = record.appenders.iter().position(|one| one.acknowledged.len() >= 2);
    let client = of_two.context("no client has two numbers acknowledged")?;
    let (number, _) =
        record.appenders[client].acknowledged.first_key_value().context("it has two")?;
    server.run(&format!("delete from appends where client = {client} and number = {number}"))?;

    let verdict = record.compare(&server.place())?;
    ensure!(verdict.lost == [(i32::try_from(client)?, *number)], "{verdict:?}");
    ensure!(verdict.invented.is_empty() && verdict.sum_holds, "{verdict:?}");
    ensure!(verdict.check().is_err());
    Ok(())
}

fn invented(server: &Server) -> anyhow::Result<()> {
    let plan = server.plan()?;
    server.run("alter table appends add constraint odd check (number % 5 <> 0)")?;
    let checker = Checker::start(Plan { movers: 0, ..plan })?;
    wait_for("numbers refused", LIMIT, || checker.counts().refused >= 10)?;
    let record = checker.stop()?;
    record.compare(&server.place())?.check()?;
    // Blocks that were open at the end are refused too, and no errors.
    let refused = record.error_counts.get("23514").copied().unwrap_or_default();
    ensure!((6..=record.counts().refused).contains(&refused), "{:?}", record.error_counts);
    ensure!(record.appenders[0].refused.contains(&5), "{:?}", record.appenders[0]);

    let number = record.appenders[0].sent + 1;
    server.run("alter table appends drop constraint odd")?;
    server.run(&format!("insert into appends values (0, 5, 'late'), (0, {number}, 'never')"))?;

    let verdict = record.compare(&server.place())?;
    ensure!(verdict.invented == [(0, 5), (0, number)], "{verdict:?}");
    ensure!(verdict.lost.is_empty() && verdict.sum_holds, "{verdict:?}");
    ensure!(verdict.check().is_err());
    Ok(())
}

fn sum(server: &Server) -> anyhow::Result<()> {
    let checker = Checker::start(server.plan()?)?;
    wait_for("sums read", LIMIT, || checker.counts().sums_read >= 5)?;
    let before = checker.record().wrong_sums;
    ensure!(before.is_empty(), "{before:?}");
    server.run("update accounts set balance = balance - 7 where id = 3")?;
    wait_for("a wrong sum", LIMIT, || !checker.record().wrong_sums.is_empty())?;
    let record = checker.stop()?;

    ensure!(record.wrong_sums[0].sum == (record.sum - 7).to_string(), "{record:?}");
    ensure!(record.check().is_err());
    let verdict = record.compare(&server.place())?;
    ensure!(!verdict.sum_holds && verdict.sum == record.sum - 7, "{verdict:?}");
    ensure!(verdict.lost.is_empty() && verdict.invented.is_empty(), "{verdict:?}");
    Ok(())
}

fn repeated(server: &Server) -> anyhow::Result<()> {
    let plan = server.plan()?;
    server.run("insert into appends values (0, 2, 'by somebody who ran it before')")?;
    let checker = Checker::start(Plan { appenders: 1, movers: 0, ..plan })?;
    wait_for("number three", LIMIT, || checker.record().appenders[0].sent >= 3)?;
    let record = checker.stop()?;
    ensure!(record.repeated == [(0, 2)], "{record:?}");
    ensure!(record.check().is_err());
    Ok(())
}

fn silent_login(_: &Server) -> anyhow::Result<()> {
    // The kernel accepts; nobody reads.
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let plan = Plan { answer_max: ANSWER_MAX, ..Plan::new(&[listener.local_addr()?]) };
    let clients = u64::try_from(plan.appenders + plan.movers + 1)?;
    let checker = Checker::start(plan)?;
    wait_for("a hang of each client", LIMIT, || checker.counts().hangs >= clients)?;

    let start = Instant::now();
    let record = checker.stop()?;
    // The clients are at their next login, which they do not wait for longer either.
    ensure!(start.elapsed() < ANSWER_MAX * 5, "it took {:?} to stop", start.elapsed());
    ensure!(record.hangs.iter().all(|hang| hang.request == "login"), "{:?}", record.hangs);
    ensure!(record.counts().acknowledged == 0 && record.counts().in_doubt == 0, "{record:?}");
    ensure!(record.check().is_err());
    Ok(())
}

fn silent_query(server: &Server) -> anyhow::Result<()> {
    let plan = Plan { answer_max: ANSWER_MAX, movers: 0, ..server.plan()? };
    let checker = Checker::start(plan)?;
    checker.wait_for_commits(20, LIMIT)?;
    let record = server.with(async |client| {
        client.batch_execute("begin; lock table appends").await?;
        wait_for("hangs", LIMIT, || checker.counts().hangs >= 20)?;
        let start = Instant::now();
        let record = checker.stop()?;
        ensure!(start.elapsed() < ANSWER_MAX * 5, "it took {:?} to stop", start.elapsed());
        client.batch_execute("rollback").await?;
        Ok(record)
    })?;

    let texts: Vec<_> = record.hangs.iter().map(|hang| hang.request.as_str()).collect();
    ensure!(texts.iter().all(|text| text.contains("insert into appends")), "{texts:?}");
    // Those in a block were never asked to commit; the others happen once the lock is gone.
    let counts = record.counts();
    ensure!(counts.in_doubt > 0 && counts.refused > 0, "{counts:?}");
    let is_quiet = "select count(*) from pg_stat_activity where query like 'insert%'";
    wait_for("the last insert is done", LIMIT, || {
        let left = async |client: &tokio_postgres::Client| {
            Ok(client.query_one(is_quiet, &[]).await?.get::<_, i64>(0))
        };
        server.with(left).is_ok_and(|left| left == 0)
    })?;
    let verdict = record.compare(&server.place())?;
    verdict.check()?;
    let rows = u64::try_from(verdict.rows)?;
    ensure!(rows > counts.acknowledged, "none in doubt came about: {verdict:?}");
    Ok(())
}

fn no_network(server: &Server) -> anyhow::Result<()> {
    let plan = Plan::new(&[server.address]);
    let started = Checker::start(Plan { network: Some("/proc/self/ns/mnt".into()), ..plan });
    let error = started.err().context("a mount namespace is no network")?;
    ensure!(error.to_string().contains("cannot enter the network"), "{error:#}");
    Ok(())
}
