//! What operators ask of single nodes, under load.

use std::process::Output;

use anyhow::{Context, ensure};
use pgx_tests::cluster::{WAIT_MAX, ask, settled};
use pgx_tests::lab::wait_for;
use pgx_tests::members::Members;
use serde_json::Value;

use crate::binary;

/// A node as the coordinator sees it.
fn seen(members: &Members, id: usize) -> anyhow::Result<Value> {
    let told = ask(members.node(1), &["nodes", "--json"])?;
    let told: Value = serde_json::from_str(&told)?;
    let nodes = told["survey"]["nodes"].as_array().cloned().context("no nodes")?;
    nodes.into_iter().find(|node| node["id"] == id).context("no such node")
}

fn wait_until_seen(members: &Members, id: usize, key: &str, wanted: &Value) -> anyhow::Result<()> {
    let is_so = || seen(members, id).is_ok_and(|node| node.pointer(key) == Some(wanted));
    wait_for(&format!("{key} of node {id} is {wanted}"), WAIT_MAX, is_so)
        .with_context(|| format!("{:?}", seen(members, id)))
}

fn wait_until_it_streams(members: &Members, id: usize) -> anyhow::Result<()> {
    wait_until_seen(members, id, "/postgres/is_steady", &true.into())
}

/// What is asked comes to this exit code, and says these words.
fn comes_to(output: &Output, code: i32, words: &str) -> anyhow::Result<()> {
    let said = [&output.stdout[..], &output.stderr[..]].concat();
    let said = String::from_utf8_lossy(&said);
    ensure!(output.status.code() == Some(code) && said.contains(words), "{:?} {said}", output);
    Ok(())
}

/// What comes of a command, once somebody coordinates.
fn ctl(members: &Members, id: usize, words: &[&str]) -> anyhow::Result<Output> {
    settled(words, || members.node(id).ctl(words))
}

pub(crate) fn spared() -> anyhow::Result<()> {
    let members = Members::start(binary(), 3)?;
    let load = members.load()?;
    load.wait_for_commits(50, WAIT_MAX)?;
    let (primary, epoch) = members.primary()?;
    let others: Vec<_> = (1..=3).filter(|id| *id != primary).collect();
    let [other, spared] = others[..] else { anyhow::bail!("two standbys") };
    let name = spared.to_string();
    wait_until_it_streams(&members, spared)?;

    let mut reader = members.session(spared, "begin; select pg_sleep(600)")?;
    let open = "select count(*) from pg_stat_activity where query like '%sleep(600)%' and \
                xact_start is not null and pid <> pg_backend_pid()";
    wait_for("somebody reads", WAIT_MAX, || {
        members.sql_at(spared, open).is_ok_and(|said| said == "1")
    })?;
    let drained = ctl(&members, 1, &["drain", &name, "--wait", "2"])?;
    comes_to(&drained, 1, "still have transactions open")?;
    ensure!(seen(&members, spared)?["is_detached"] == true);
    // Ending psql ends no query; PostgreSQL does.
    members.sql_at(
        spared,
        "select pg_terminate_backend(pid) from pg_stat_activity where query \
                            like '%sleep(600)%' and pid <> pg_backend_pid()",
    )?;
    reader.wait()?;
    comes_to(&ctl(&members, 1, &["drain", &name])?, 0, "nobody has a transaction open")?;
    let waits = "/postgres/is_sync";
    wait_until_seen(&members, spared, waits, &false.into())?;
    ensure!(ask(members.node(2), &["status"])?.contains(&format!("pgx ctl attach {spared}")));
    let reads_at = |id: usize| {
        let read = members.read(1, "select inet_server_addr()");
        read.is_ok_and(|read| read.ends_with(&format!(".{id}")))
    };
    wait_for("the other standby serves reads", WAIT_MAX, || reads_at(other))?;
    let refused = ctl(&members, 1, &["detach", &primary.to_string()])?;
    comes_to(&refused, 5, "it is primary: switch over first")?;
    ask(members.node(1), &["attach", &name])?;
    wait_until_seen(&members, spared, waits, &true.into())?;
    // An idle server is taken before a new one is made, so the other would go on without this.
    ask(members.node(1), &["detach", &other.to_string()])?;
    wait_for("it serves reads again", WAIT_MAX, || reads_at(spared))?;
    ask(members.node(1), &["attach", &other.to_string()])?;

    drained_primary(&members, (primary, epoch), spared)?;
    planned(&members, (primary, epoch + 2), spared)?;
    load.wait_for_commits(50, WAIT_MAX)?;
    let record = members.end(load)?;
    ensure!(record.error_counts.is_empty(), "{:?}\n{}", record.errors, members.log(1));
    Ok(())
}

/// A primary hands over first, and comes back by the same way.
fn drained_primary(
    members: &Members,
    (primary, epoch): (usize, u64),
    other: usize,
) -> anyhow::Result<()> {
    comes_to(&ctl(members, other, &["drain", &primary.to_string()])?, 0, "takes over")?;
    members.wait_for_another(primary, epoch)?;
    wait_until_it_streams(members, primary)?;
    ask(members.node(1), &["attach", &primary.to_string()])?;
    wait_until_seen(members, primary, "/postgres/is_sync", &true.into())?;
    members.wait_for_calm(epoch + 1)?;
    ask(members.node(1), &["promote", &primary.to_string()])?;
    members.wait_for_calm(epoch + 2)?;
    ensure!(members.primary()? == (primary, epoch + 2), "{}", members.log(1));
    Ok(())
}

/// Later is by the clock.
fn planned(members: &Members, (primary, epoch): (usize, u64), to: usize) -> anyhow::Result<()> {
    let later = |words: &[&str]| ask(members.node(2), &[&["switchover"], words].concat());
    later(&["--at", "1h"])?;
    let is_planned = |id: usize| {
        ask(members.node(id), &["status"]).is_ok_and(|said| said.contains("to the best standby at"))
    };
    wait_for("all know of it", WAIT_MAX, || (1..=3).all(is_planned))?;
    later(&["cancel"])?;
    wait_for("none is to come", WAIT_MAX, || !(1..=3).any(is_planned))?;
    ensure!(members.primary()? == (primary, epoch), "{}", members.log(1));
    let past = ctl(members, 1, &["switchover", "--at", "2020-01-01T00:00:00Z"])?;
    comes_to(&past, 5, "that time is over")?;
    later(&["--at", "1s", "--to", &to.to_string()])?;
    members.wait_for_calm(epoch + 1)?;
    ensure!(members.primary()? == (to, epoch + 1), "{}", members.log(1));
    Ok(())
}

pub(crate) fn renewed() -> anyhow::Result<()> {
    let members = Members::start(binary(), 3)?;
    let load = members.load()?;
    load.wait_for_commits(50, WAIT_MAX)?;
    let (primary, epoch) = members.primary()?;
    let others: Vec<_> = (1..=3).filter(|id| *id != primary).collect();
    let [standby, other] = others[..] else { anyhow::bail!("two standbys") };
    wait_until_it_streams(&members, standby)?;
    wait_until_it_streams(&members, other)?;

    for verb in ["restart", "reinit"] {
        comes_to(&ctl(&members, standby, &[verb])?, 1, "say --yes")?;
    }
    let refused = ctl(&members, primary, &["restart", "--yes"])?;
    comes_to(&refused, 5, "'pgx ctl switchover' first")?;
    let refused = ctl(&members, primary, &["reinit", "--yes"])?;
    comes_to(&refused, 5, "nobody to copy from")?;

    let before = members.postmaster(standby)?;
    comes_to(&ctl(&members, standby, &["restart", "--yes"])?, 0, "is being restarted")?;
    wait_for("another postmaster", WAIT_MAX, || {
        members.postmaster(standby).is_ok_and(|pid| pid != before)
    })?;
    wait_until_it_streams(&members, standby)?;

    // What commits depend on is not thrown away.
    let before = members.directory(standby)?;
    let reinit = || ctl(&members, standby, &["reinit", "--yes"]);
    comes_to(&reinit()?, 5, "commits wait for it")?;
    ask(members.node(1), &["detach", &standby.to_string()])?;
    wait_for("others have all that it has", WAIT_MAX, || {
        reinit().is_ok_and(|told| comes_to(&told, 0, "copied anew").is_ok())
    })?;
    ask(members.node(1), &["attach", &standby.to_string()])?;
    wait_for("another directory", WAIT_MAX, || {
        members.directory(standby).is_ok_and(|name| name != before)
    })?;
    wait_until_it_streams(&members, standby)?;
    let log = members.node(standby).log();
    ensure!(log.contains("means=Cloned"), "it was not copied: {log}");
    comes_to(&ctl(&members, standby, &["rejoin"])?, 0, "nothing waits")?;

    // Commits would have nobody else to wait for.
    for id in [standby, other] {
        ask(members.node(1), &["detach", &id.to_string()])?;
    }
    wait_until_seen(&members, standby, "/postgres/is_sync", &true.into())?;
    comes_to(&reinit()?, 5, "commits wait for it")?;
    ensure!(members.primary()? == (primary, epoch));
    let record = members.end(load)?;
    ensure!(record.error_counts.is_empty(), "{:?}\n{}", record.errors, members.log(1));
    Ok(())
}
