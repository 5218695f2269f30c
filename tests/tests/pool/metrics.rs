//! What is counted of a pool is what was run, exactly.

use std::io::Write;
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, ensure};
use pgx_tests::lab::wait_for;
use pgx_tests::node::Node;
use pgx_tests::scrape::Scrape;

use crate::session::{Session, query, states};
use crate::{Place, Test, pool_with};

const WAIT_MAX: Duration = Duration::from_secs(20);

pub(crate) const TESTS: &[(&str, Test)] = &[
    ("metrics_tell_exactly_what_was_run", exact),
    ("metrics_tell_who_waits_and_for_how_long", waits),
    ("metrics_tell_who_was_turned_away_cancelled_and_lost", troubles),
    ("metrics_tell_how_long_a_database_was_paused", paused),
];

const OF_POOL: &[(&str, &str)] = &[("database", "postgres"), ("user", "postgres")];

fn start(place: &Place, threads: usize) -> anyhow::Result<Node> {
    let more = format!("default_pool_size = 1\nthreads = {threads}\n");
    pool_with(place, "transaction", &format!("{more}[metrics]\nlisten = \"127.0.0.1:0\"\n"))
}

/// Fails unless a metric is what it should be.
fn is(scrape: &Scrape, name: &str, labels: &[(&str, &str)], expected: f64) -> anyhow::Result<()> {
    let found = scrape.sum(name, labels);
    ensure!((found - expected).abs() < 1e-9, "{name}{labels:?}: {found}, not {expected}");
    Ok(())
}

fn exact(place: &Place) -> anyhow::Result<()> {
    let node = start(place, 2)?;
    let (mut transactions, mut queries, mut waits) = (0.0, 0.0, 0.0);
    let mut ran = |all: f64, ended: f64, had: f64| {
        (queries, transactions, waits) = (queries + all, transactions + ended, waits + had);
    };
    let mut received = 0;
    for _ in 0..3 {
        let mut session = Session::through(node.address()?, &[])?;
        for text in
            ["begin", "select 1", "commit", "select 2", "select 1/0", "copy (select 1) to stdout"]
        {
            session.query(text)?;
            received += query(text).len();
        }
        ran(6.0, 4.0, 4.0);
        let flight = [query("select 1"), query("select 2"), query("select 3")].concat();
        session.send(&flight)?;
        session.answers(3)?;
        received += flight.len();
        ran(3.0, 3.0, 1.0);
        let answer = session.query("create table if not exists copied(n int)")?;
        ensure!(states(&answer).is_empty(), "{answer:?}");
        session.send(&query("copy copied from stdin"))?;
        session.send(b"d\0\0\0\x061\nc\0\0\0\x04")?;
        session.answers(1)?;
        received += query("create table if not exists copied(n int)").len();
        received += query("copy copied from stdin").len() + 12;
        ran(2.0, 2.0, 2.0);
    }
    let scrape = node.scrape()?;
    is(&scrape, "pgx_received_bytes_total", OF_POOL, received as f64)?;
    ensure!(scrape.sum("pgx_sent_bytes_total", OF_POOL) > 0.0, "{}", scrape.text);
    let mut session = Session::through(node.address()?, &[])?;
    for round in 0..4 {
        session.extended("s", (round == 0).then_some("select 4"), true)?;
        session.extended("", Some("select 5"), false)?;
        ran(2.0, 2.0, 2.0);
    }
    let scrape = node.scrape()?;
    for (name, expected) in [
        ("pgx_transaction_seconds_count", transactions),
        ("pgx_query_seconds_count", queries),
        ("pgx_transfer_seconds_count", queries),
        ("pgx_wait_seconds_count", waits),
        ("pgx_client_login_seconds_count", 4.0),
        ("pgx_client_parses_total", 1.0),
        ("pgx_server_parses_total", 1.0),
        ("pgx_binds_total", 4.0),
        ("pgx_servers_lost_total", 0.0),
        ("pgx_servers_doubtful_total", 0.0),
    ] {
        is(&scrape, name, OF_POOL, expected)?;
    }
    for (name, least) in [("pgx_query_seconds", 1e-6), ("pgx_transaction_seconds", 1e-6)] {
        let times = scrape.times(name, OF_POOL);
        ensure!(times.sum > least && times.sum < 60.0, "{name}: {times:?}");
    }
    is(&scrape, "pgx_clients_accepted_total", &[], 4.0)?;
    is(&scrape, "pgx_threads_unanswered", &[], 0.0)?;
    is(&scrape, "pgx_engine_info", &[], 2.0)?;
    is(&scrape, "pgx_pool_servers_max", OF_POOL, 1.0)
}

fn waits(place: &Place) -> anyhow::Result<()> {
    let node = start(place, 1)?;
    let mut first = Session::through(node.address()?, &[])?;
    let mut second = Session::through(node.address()?, &[])?;
    let of = |state: &'static str| [OF_POOL[0], OF_POOL[1], ("state", state)];
    for round in 1..=3 {
        first.query("begin")?;
        second.send(&query("select 1"))?;
        wait_for("the second waits", WAIT_MAX, || {
            let scrape = node.scrape();
            let waits = |scrape: &Scrape| {
                scrape.sum("pgx_pool_maxwait_seconds", OF_POOL) > 0.05
                    && scrape.sum("pgx_pool_clients", &of("waiting")) == 1.0
            };
            scrape.is_ok_and(|scrape| waits(&scrape))
        })?;
        let scrape = node.scrape()?;
        is(&scrape, "pgx_clients_waiting", &[], 1.0)?;
        is(&scrape, "pgx_pool_clients", &of("active"), 1.0)?;
        is(&scrape, "pgx_pool_servers", &of("active"), 1.0)?;
        first.query("commit")?;
        second.answers(1)?;
        let waits = node.scrape()?.times("pgx_wait_seconds", OF_POOL);
        ensure!(waits.count == 2.0 * f64::from(round), "{waits:?}");
        ensure!(waits.sum > 0.05 * f64::from(round), "{waits:?}");
    }
    let scrape = node.scrape()?;
    let at_once = r#"{database="postgres",user="postgres",le="1.6e-05"} 3"#;
    ensure!(
        scrape.text.contains(&format!("pgx_wait_seconds_bucket{at_once}\n")),
        "{}",
        scrape.text
    );
    is(&scrape, "pgx_pool_servers", &of("idle"), 1.0)?;
    is(&scrape, "pgx_pool_maxwait_seconds", OF_POOL, 0.0)
}

fn troubles(place: &Place) -> anyhow::Result<()> {
    let node = start(place, 1)?;
    for _ in 0..2 {
        let told = Session::told(node.address()?, &[("database", "nowhere")])?;
        ensure!(states(&told) == ["3D000"], "{told:?}");
    }
    let mut session = Session::through(node.address()?, &[])?;
    session.send(&query("select pg_sleep(60)"))?;
    wait_for("the query runs", WAIT_MAX, || {
        let scrape = node.scrape();
        scrape.is_ok_and(|scrape| {
            let state = ("state", "active");
            scrape.sum("pgx_pool_servers", &[OF_POOL[0], OF_POOL[1], state]) == 1.0
        })
    })?;
    let request = [b"\0\0\0\x10\x04\xd2\x16\x2e", &session.key[..]].concat();
    // The query may not have come to its server yet, and then there is nothing to cancel.
    let mut asked = 0.0;
    wait_for("it is cancelled", WAIT_MAX, || {
        asked += 1.0;
        let sent = TcpStream::connect(node.address().expect("an address"))
            .and_then(|mut stream| stream.write_all(&request));
        let scrape = node.scrape();
        let is_sent =
            |scrape: Scrape| scrape.sum("pgx_cancel_requests_total", &[("stage", "sent")]) == 1.0;
        sent.is_ok() && scrape.is_ok_and(is_sent)
    })?;
    let answer = session.answers(1)?;
    ensure!(states(&answer) == ["57014"], "{answer:?}");
    session.query("begin")?;
    let process = session.value("select pg_backend_pid()")?;
    place.direct()?.query(&format!("select pg_terminate_backend({process})"))?;
    wait_for("the loss is counted", WAIT_MAX, || {
        let lost = node.scrape().map(|scrape| scrape.sum("pgx_servers_lost_total", OF_POOL));
        lost.is_ok_and(|lost| lost == 1.0)
    })?;
    let scrape = node.scrape()?;
    is(&scrape, "pgx_cancel_requests_total", &[("stage", "asked")], asked)?;
    let refused = [("reason", "database"), ("sqlstate", "3D000")];
    is(&scrape, "pgx_clients_refused_total", &refused, 2.0)?;
    is(&scrape, "pgx_servers_unreachable_total", &[("database", "nowhere")], 2.0)?;
    session.query("rollback").map(drop).context("the client goes on")
}

fn paused(place: &Place) -> anyhow::Result<()> {
    let node = start(place, 2)?;
    let mut session = Session::through(node.address()?, &[])?;
    session.query("select 1")?;
    ensure!(node.ctl(&["pause", "postgres"])?.status.success(), "{}", node.log());
    is(&node.scrape()?, "pgx_database_paused", &[("database", "postgres")], 1.0)?;
    is(&node.scrape()?, "pgx_pause_seconds_count", &[], 0.0)?;
    ensure!(node.ctl(&["resume", "postgres"])?.status.success(), "{}", node.log());
    session.query("select 1")?;
    let scrape = node.scrape()?;
    is(&scrape, "pgx_database_paused", &[("database", "postgres")], 0.0)?;
    let pauses = scrape.times("pgx_pause_seconds", &[]);
    ensure!(pauses.count == 1.0 && pauses.sum > 0.0, "{pauses:?}");
    Ok(())
}
