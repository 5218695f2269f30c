//! Databases and users with settings of their own.

use anyhow::ensure;

use crate::session::{Session, states};
use crate::{Place, Test, pool_with};

pub(crate) const TESTS: &[(&str, Test)] =
    &[("databases_and_users_have_settings_of_their_own", own_settings)];

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
