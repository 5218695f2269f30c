//! A database is paused under load, restarted or replaced, and resumed: nobody notices.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, ensure};
use pgx_tests::database::Database;
use pgx_tests::lab::wait_for;
use pgx_tests::node::Node;

use crate::session::{Session, query, states};
use crate::{Place, Test, pool_without_backends};

const WAIT_MAX: Duration = Duration::from_secs(30);
const CLIENTS: usize = 6;

pub(crate) const TESTS: &[(&str, Test)] = &[
    ("clients_under_load_do_not_notice_that_their_server_is_replaced", replaced),
    ("client_that_is_held_too_long_is_told_so", told),
];

fn socket(database: &Database) -> String {
    format!("{}/.s.PGSQL.5432", database.socket_folder().display())
}

fn start(place: &Place, database: &Database) -> anyhow::Result<Node> {
    let more = format!("threads = 2\nbackends = [{:?}]\ndefault_pool_size = 3\n", socket(database));
    pool_without_backends(place, "transaction", &more)
}

fn ctl(node: &Node, words: &[&str]) -> anyhow::Result<String> {
    let output = node.ctl(words)?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(said)
}

fn replaced(place: &Place) -> anyhow::Result<()> {
    let primary = Database::start()?;
    let mut direct = Session::direct(primary.socket_folder(), &[])?;
    direct.query("create table counts(client int primary key, n int)")?;
    direct.query("insert into counts select g, 0 from generate_series(0, 9) g")?;
    drop(direct);
    let standby = primary.standby()?;
    let node = start(place, &primary)?;
    let at = node.address()?;
    let (ends, done) = (AtomicBool::new(false), AtomicU32::new(0));
    let acknowledged = std::thread::scope(|scope| -> anyhow::Result<u32> {
        let (ends, done) = (&ends, &done);
        let load = |client: usize| -> anyhow::Result<u32> {
            let mut session = Session::through(at, &[])?;
            let mut count = 0;
            while !ends.load(Ordering::Relaxed) {
                let change = format!("update counts set n = n + 1 where client = {client}");
                // One as a block of three requests, one by itself.
                for text in ["begin", &change, "commit", &change] {
                    let answer = session.query(text)?;
                    ensure!(states(&answer).is_empty(), "{text}: {answer:?}");
                }
                count += 2;
                done.fetch_add(1, Ordering::Relaxed);
            }
            Ok(count)
        };
        let clients: Vec<_> =
            (0..CLIENTS).map(|client| scope.spawn(move || load(client))).collect();
        let played = replace(&node, &primary, &standby, done);
        ends.store(true, Ordering::Relaxed);
        let mut sum = 0;
        for client in clients {
            let count = client.join().map_err(|_| anyhow::anyhow!("a client's thread panicked"))?;
            sum += count.with_context(|| node.log())?;
        }
        played.map(|()| sum)
    })?;
    let mut direct = Session::direct(standby.socket_folder(), &[])?;
    let counted: u32 = direct.value("select sum(n) from counts")?.parse()?;
    ensure!(counted == acknowledged, "{counted} changes of {acknowledged} acknowledged ones");
    Ok(())
}

/// Restarts the primary, then puts the standby in its place.
fn replace(
    node: &Node,
    primary: &Database,
    standby: &Database,
    done: &AtomicU32,
) -> anyhow::Result<()> {
    let goes_on = || {
        let before = done.load(Ordering::Relaxed);
        wait_for("clients go on", WAIT_MAX, || done.load(Ordering::Relaxed) > before + 50)
    };
    goes_on()?;
    for database in ["postgres", "*"] {
        let said = ctl(node, &["pause", database])?;
        ensure!(said.contains("no server connection is left"), "{said}");
        primary.kill()?;
        primary.begin()?;
        ctl(node, &["resume", database])?;
        goes_on()?;
    }
    let said = ctl(node, &["pause", "postgres", "--wait", "30", "--drain", "20"])?;
    ensure!(said.contains("no server connection is left"), "{said}");
    let mut old = Session::direct(primary.socket_folder(), &[])?;
    let written = old.value("select pg_current_wal_lsn()")?;
    let mut new = Session::direct(standby.socket_folder(), &[])?;
    let has_all = format!("select pg_last_wal_replay_lsn() >= '{written}'");
    wait_for("the standby has everything", WAIT_MAX, || {
        new.value(&has_all).is_ok_and(|has| has == "t")
    })?;
    primary.kill()?;
    standby.promote()?;
    ctl(node, &["resume", "postgres", "--on", &socket(standby)])?;
    goes_on()
}

fn told(place: &Place) -> anyhow::Result<()> {
    let node = start(place, &place.database)?;
    let mut session = Session::through(node.address()?, &[])?;
    let mut block = Session::through(node.address()?, &[])?;
    block.query("begin")?;
    let mut words = vec!["pause", "postgres", "--wait", "1"];
    let said = ctl(&node, &words)?;
    ensure!(said.contains("still in use: 1"), "{said}");
    ensure!(states(&session.query("select 1")?) == ["57P03"], "it is told what is the matter");
    ensure!(session.next()?.is_none());
    ensure!(block.value("select 7")? == "7", "what has begun goes on");
    words.extend(["--drain", "1"]);
    ctl(&node, &words)?;
    ensure!(states(&block.query("select 1")?) == ["40001"], "until its time is up");
    block.query("rollback")?;
    block.send(&query("select 7"))?;
    ctl(&node, &["resume", "postgres"])?;
    ensure!(states(&block.answers(1)?).is_empty());
    let refused = node.ctl(&["resume", "postgres", "--on", "nonsense"])?;
    ensure!(refused.status.code() == Some(5), "{refused:?}");
    Ok(())
}
