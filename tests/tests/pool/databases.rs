//! Databases and users with settings of their own.

use std::time::Duration;

use anyhow::ensure;
use pgx_tests::lab::wait_for;

use crate::session::{Session, states};
use crate::{Place, Test, pool_with};

pub(crate) const TESTS: &[(&str, Test)] = &[
    ("databases_and_users_have_settings_of_their_own", own_settings),
    ("threads_share_what_there_may_be", shared_limits),
];

fn own_settings(place: &Place) -> anyhow::Result<()> {
    let mut direct = place.direct()?;
    // They may be there from another run on the same server.
    for text in ["create role app login", "create role guest login", "create database shop_v2"] {
        direct.query(text)?;
    }
    let more = "threads = 1\n[[proxy.databases]]\nname = \"shop\"\ndbname = \"shop_v2\"\n\
                user = \"app\"\n\
                pool_size = 1\n[[proxy.databases]]\nname = \"postgres\"\n[[proxy.users]]\n\
                name = \"guest\"\npool_mode = \"session\"\n";
    let node = pool_with(place, "transaction", more)?;
    let at = node.address()?;
    let whom = "select current_user || '@' || current_database() || ' ' || pg_backend_pid()";
    let mut seen = Vec::new();
    for user in ["postgres", "guest"] {
        let mut shop = Session::through(at, &[("user", user), ("database", "shop")])?;
        seen.push(shop.value(whom)?);
        let mut own = Session::through(at, &[("user", user)])?;
        ensure!(own.value(whom)?.starts_with(&format!("{user}@postgres ")));
    }
    ensure!(seen[0].starts_with("app@shop_v2 ") && seen[0] == seen[1], "{seen:?}");

    // A setting that nobody carries over shows whether the session is one's own.
    let mut guest = Session::through(at, &[("user", "guest")])?;
    let process = guest.value("select pg_backend_pid()")?;
    let held = format!("select count(*) from pg_stat_activity where pid = {process}");
    let mut other = Session::through(at, &[("user", "guest")])?;
    ensure!(other.value("select pg_backend_pid()")? != process, "two sessions, two servers");
    ensure!(direct.value(&held)? == "1");

    let told = Session::told(at, &[("database", "none")])?;
    ensure!(states(&told) == ["3D000"], "by PostgreSQL, as all names are passed on: {told:?}");
    let node = {
        drop(node);
        let socket = place.socket();
        let only = format!("[[proxy.databases]]\nname = \"shop\"\nbackends = [{socket:?}]\n");
        crate::pool_without_backends(place, "transaction", &only)?
    };
    let told = Session::told(node.address()?, &[("database", "none")])?;
    ensure!(states(&told) == ["3D000"], "by the proxy: {told:?}");
    Ok(())
}

/// Two threads, two servers, many clients: each is served, and no more servers are there than may
/// be, but for one that ends while another takes its place.
fn shared_limits(place: &Place) -> anyhow::Result<()> {
    let node = pool_with(place, "transaction", "threads = 2\ndefault_pool_size = 2\n")?;
    let at = node.address()?;
    let mut direct = place.direct()?;
    direct.query("create role shared login")?;
    let count = "select count(*) from pg_stat_activity where usename = 'shared'";
    let (mut most, mut served) = (0, 0);
    std::thread::scope(|scope| -> anyhow::Result<()> {
        let work = || -> anyhow::Result<()> {
            let mut session = Session::through(at, &[("user", "shared")])?;
            for _ in 0..40 {
                session.query("select pg_sleep(0.005)")?;
            }
            Ok(())
        };
        let clients: Vec<_> = (0..12).map(|_| scope.spawn(work)).collect();
        while clients.iter().any(|client| !client.is_finished()) {
            most = most.max(direct.value(count)?.parse::<usize>()?);
        }
        for client in clients {
            client.join().map_err(|_| anyhow::anyhow!("a client's thread panicked"))??;
            served += 1;
        }
        Ok(())
    })?;
    ensure!(served == 12 && (1..=4).contains(&most), "{served} served, {most} servers");
    wait_for("no more servers than may be", Duration::from_secs(20), || {
        direct.value(count).is_ok_and(|left| left == "1" || left == "2")
    })?;

    // One server for all: whichever threads the clients are on, each gets it in turn.
    drop(node);
    let node = pool_with(place, "transaction", "threads = 4\ndefault_pool_size = 1\n")?;
    let mut sessions = Vec::new();
    for _ in 0..8 {
        sessions.push(Session::through(node.address()?, &[("user", "shared")])?);
    }
    for session in &mut sessions {
        ensure!(session.value("select 7")? == "7");
    }
    let config = "threads = 2\nmax_client_conn = 3\n";
    let node = pool_with(place, "transaction", config)?;
    let mut sessions = Vec::new();
    for _ in 0..3 {
        sessions.push(Session::through(node.address()?, &[])?);
    }
    let told = Session::told(node.address()?, &[])?;
    ensure!(states(&told) == ["53300"], "{told:?}");
    Ok(())
}
