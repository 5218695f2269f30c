//! A primary and a standby: who is sent where, and what happens when one of them goes.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, ensure};
use pgx_tests::database::Database;
use pgx_tests::lab::wait_for;
use pgx_tests::node::Node;

use crate::session::{Session, query, states, status};
use crate::{Place, Test, pool_without_backends};

const WAIT_MAX: Duration = Duration::from_secs(30);

pub(crate) const TESTS: &[(&str, Test)] = &[("clients_are_sent_to_the_role_that_they_want", roles)];

fn socket(database: &Database) -> String {
    format!("{}/.s.PGSQL.5432", database.socket_folder().display())
}

/// Where a client with this target ends up.
fn is_standby(at: SocketAddr, target: &str, database: &str) -> anyhow::Result<bool> {
    let options = format!("-c pgx.target={target}");
    let mut parameters = vec![("database", database)];
    if !target.is_empty() {
        parameters.push(("options", &options));
    }
    let mut session = Session::through(at, &parameters)?;
    Ok(session.value("select pg_is_in_recovery()")? == "t")
}

fn start(place: &Place, primary: &Database, standby: &Database) -> anyhow::Result<Node> {
    let all = format!("[{:?}, {:?}]", socket(primary), socket(standby));
    let more = format!(
        "threads = 1\nbackends = {all}\n[[proxy.listeners]]\nlisten = \"127.0.0.1:0\"\n\
         target = \"standby\"\n[[proxy.databases]]\nname = \"postgres\"\n\
         standby_lag_ms_max = 5000\n[[proxy.databases]]\nname = \"writes\"\n\
         dbname = \"postgres\"\ntarget = \"read-write\"\n"
    );
    pool_without_backends(place, "transaction", &more)
}

fn roles(place: &Place) -> anyhow::Result<()> {
    // Its own, since it is ended and replaced here.
    let primary = Database::start()?;
    let standby = primary.standby()?;
    let node = start(place, &primary, &standby)?;
    let status_of = node.status()?;
    let port = |number: usize| -> anyhow::Result<SocketAddr> {
        let text = status_of["proxy"]["listen"][number].as_str().context("no such listener")?;
        Ok(text.parse()?)
    };
    let (plain, standbys) = (port(0)?, port(1)?);
    for (target, expected) in [
        ("primary", false),
        ("read-write", false),
        ("standby", true),
        ("read-only", true),
        ("prefer-standby", true),
    ] {
        ensure!(is_standby(plain, target, "postgres")? == expected, "{target}");
    }
    ensure!(is_standby(standbys, "", "postgres")?, "by the port");
    ensure!(!is_standby(standbys, "", "writes")?, "by the database, whatever the port");
    ensure!(is_standby(standbys, "standby", "writes")?, "by the client, whatever the database");

    let target = [("options", "-c pgx.target=standby")];
    let mut reader = Session::through(plain, &target)?;
    let mut preferring = Session::through(plain, &[("options", "-c pgx.target=prefer-standby")])?;
    ensure!(preferring.value("select pg_is_in_recovery()")? == "t");
    standby.kill()?;
    // Who wants a standby waits for it; who prefers one goes on with the primary.
    reader.send(&query("select 7"))?;
    ensure!(preferring.value("select pg_is_in_recovery()")? == "f");
    standby.begin()?;
    let told = reader.answers(1)?;
    ensure!(states(&told).is_empty() && status(&told) == Some('I'), "{told:?}\n{}", node.log());

    // A standby that replays nothing falls behind, and is left out until it has caught up.
    let mut at_standby = Session::direct(standby.socket_folder(), &[])?;
    let mut at_primary = Session::direct(primary.socket_folder(), &[])?;
    at_primary.query("create table old(a int)")?;
    at_standby.query("select pg_wal_replay_pause()")?;
    wait_for("the standby is behind", WAIT_MAX, || {
        at_primary.query("insert into old values (1)").is_ok()
            && node.log().contains("a standby is too far behind")
    })?;
    ensure!(preferring.value("select pg_is_in_recovery()")? == "f", "the primary instead");
    at_standby.query("select pg_wal_replay_resume()")?;
    ensure!(reader.value("select pg_is_in_recovery()")? == "t", "once it has caught up");

    // A failover: clients that write go on at the promoted standby.
    let mut writer = Session::through(plain, &[("options", "-c pgx.target=read-write")])?;
    ensure!(writer.value("select pg_is_in_recovery()")? == "f");
    primary.kill()?;
    writer.send(&query("select pg_is_in_recovery()"))?;
    standby.promote()?;
    let told = writer.answers(1)?;
    ensure!(states(&told).is_empty() && status(&told) == Some('I'), "{told:?}\n{}", node.log());
    ensure!(writer.value("select inet_server_port() is null and not pg_is_in_recovery()")? == "t");
    Ok(())
}
