//! Directories of which a part lies elsewhere: the log, and tablespaces.

use std::os::unix::fs::symlink;
use std::path::Path;

use anyhow::{Context, ensure};
use nix::mount::{MsFlags, mount, umount};
use nix::sched::{CloneFlags, unshare};

use crate::Test;
use crate::nodes::{Nodes, incarnation};
use crate::postgres::Place;
use crate::postgres::error::Error;
use crate::rebuild::{SECOND, check_follows, check_restored, diverged};

pub(crate) fn tests() -> Vec<(&'static str, Test)> {
    vec![
        ("log_that_lies_elsewhere_stays_there_and_is_put_aside_with_its_directory", log),
        ("tablespace_is_cloned_put_aside_and_put_back_where_hosts_are_apart", apart),
        ("tablespace_that_another_node_of_the_host_has_is_refused", shared),
        ("restore_that_ended_in_the_middle_gives_way_to_a_copy_and_loses_nothing", half_restored),
    ]
}

fn count(folder: &Path) -> usize {
    std::fs::read_dir(folder).into_iter().flatten().flatten().count()
}

fn log() -> anyhow::Result<()> {
    let mut nodes = diverged()?;
    let (data, log) = (nodes.all[0].place.data.clone(), nodes.folder().join("n0/log"));
    std::fs::rename(data.join("pg_wal"), &log)?;
    std::os::unix::fs::symlink(&log, data.join("pg_wal"))?;
    let upstream = nodes.all[1].peer();
    for _ in 0..2 {
        nodes.all[0].hands().copy(&upstream, incarnation(0), SECOND, &mut |_| {})?;
        ensure!(std::fs::read_link(data.join("pg_wal"))? == log, "the link is lost");
    }
    check_follows(&mut nodes)?;
    nodes.all[0].hands().restore(incarnation(0))?;
    ensure!(std::fs::read_link(data.join("pg_wal"))? == log, "the link is lost");
    check_restored(&mut nodes.all[0])?;
    // What is put aside leaves nothing behind when it is removed.
    nodes.all[0].hands().copy(&upstream, incarnation(0), SECOND, &mut |_| {})?;
    ensure!(count(&nodes.folder().join("n0")) == 5, "data, its folder, sockets, and two logs");
    nodes.all[0].hands().remove_others(Some(SECOND))?;
    ensure!(count(&nodes.folder().join("n0")) == 4, "one log is left");
    // One that was emptied, and died then, still knows.
    begin_to_clone(&nodes.all[0].place, "pg_wal", &log)?;
    std::fs::remove_file(data.join("pg_wal"))?;
    nodes.all[0].hands().rebuild(&upstream, SECOND, &mut |_| {})?;
    ensure!(std::fs::read_link(data.join("pg_wal"))? == log, "the link is lost");
    Ok(())
}

/// The log is back, the directory is not yet, and a copy is wanted once more.
fn half_restored() -> anyhow::Result<()> {
    let mut nodes = diverged()?;
    let (data, log) = (nodes.all[0].place.data.clone(), nodes.folder().join("n0/log"));
    std::fs::rename(data.join("pg_wal"), &log)?;
    symlink(&log, data.join("pg_wal"))?;
    let upstream = nodes.all[1].peer();
    nodes.all[0].hands().copy(&upstream, incarnation(0), SECOND, &mut |_| {})?;
    let beside = nodes.folder().join(format!("n0/log.pgx-kept-{:032x}", incarnation(0).0));
    ensure!(beside.exists(), "the log was put aside");
    // A mount is not removed: what comes after the log fails.
    let obstacle = nodes.all[0].place.folder().join("trash/mount");
    std::fs::create_dir_all(&obstacle)?;
    let nothing: Option<&str> = None;
    mount(Some("pgx-test"), &obstacle, Some("tmpfs"), MsFlags::empty(), nothing)?;
    let outcome = nodes.all[0].hands().restore(incarnation(0));
    umount(&obstacle)?;
    ensure!(outcome.is_err() && !beside.exists(), "{outcome:?}");

    nodes.all[0].hands().copy(&upstream, incarnation(0), SECOND, &mut |_| {})?;
    check_follows(&mut nodes)?;
    nodes.all[0].hands().restore(incarnation(0))?;
    check_restored(&mut nodes.all[0])
}

/// What is on disk once a clone has begun that writes there as well.
fn begin_to_clone(place: &Place, what: &str, there: &Path) -> anyhow::Result<()> {
    let own = place.folder().join("own");
    ensure!(!own.join(what).exists(), "a whole directory says so by its links alone");
    std::fs::write(own.join(what), format!("{}\n", there.display()))?;
    Ok(std::fs::write(place.folder().join("rebuilding"), "cloning")?)
}

/// A primary with a tablespace, and a table in it.
fn with_tablespace() -> anyhow::Result<Nodes> {
    let mut nodes = Nodes::founded()?;
    nodes.add()?;
    let owner = Some(nix::unistd::Uid::from_raw(nodes.all[0].place.owner));
    for name in ["spaces", "spaces/one"] {
        let path = nodes.folder().join(name);
        std::fs::create_dir(&path)?;
        nix::unistd::chown(&path, owner, None)?;
    }
    let space = nodes.folder().join("spaces/one");
    nodes.all[0].sql(&format!("create tablespace one location '{}'", space.display()))?;
    nodes.all[0].sql("create table t tablespace one as select generate_series(1, 1000) as x")?;
    Ok(nodes)
}

fn shared() -> anyhow::Result<()> {
    let nodes = with_tablespace()?;
    let upstream = nodes.all[0].peer();
    let outcome = nodes.all[1].hands().rebuild(&upstream, incarnation(1), &mut |_| {});
    ensure!(matches!(outcome, Err(Error::SpaceInUse(_))), "{outcome:?}");
    ensure!(!nodes.all[1].place.folder().join("rebuilding").exists(), "nothing was begun");
    ensure!(nodes.all[0].sql("select count(*) from t")? == "1000", "the other's is untouched");
    Ok(())
}

fn apart() -> anyhow::Result<()> {
    let mut nodes = with_tablespace()?;
    // What this thread starts sees another file system there, as another host does.
    std::thread::scope(|scope| {
        let other = scope.spawn(|| on_another_host(&mut nodes));
        other.join().map_err(|_| anyhow::anyhow!("the other host died"))?
    })
}

fn on_another_host(nodes: &mut Nodes) -> anyhow::Result<()> {
    unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS)?;
    let nothing: Option<&str> = None;
    mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing)?;
    let spaces = nodes.folder().join("spaces");
    mount(Some("pgx-test"), &spaces, Some("tmpfs"), MsFlags::empty(), Some("mode=0777"))
        .context("cannot mount")?;
    let space = spaces.join("one");
    let upstream = nodes.all[0].peer();
    // An earlier try has left something, and no link to it.
    std::fs::create_dir(&space)?;
    nix::unistd::chown(&space, Some(nix::unistd::Uid::from_raw(nodes.all[1].place.owner)), None)?;
    nodes.all[1].hands().rebuild(&upstream, incarnation(1), &mut |_| {})?;
    begin_to_clone(&nodes.all[1].place, "pg_tblspc", &space)?;
    std::fs::remove_dir_all(nodes.all[1].place.data.join("pg_tblspc"))?;
    ensure!(count(&space) == 1, "it is in the way");
    nodes.all[1].hands().rebuild(&upstream, incarnation(1), &mut |_| {})?;
    let check = |nodes: &mut Nodes, rows: &str| -> anyhow::Result<()> {
        let node = &mut nodes.all[1];
        node.hands().start_standby()?;
        node.wait_local("a standby that streams", |local| local.is_streaming)?;
        node.wait_sql("select count(*) from t", rows)
    };
    check(nodes, "1000")?;
    nodes.all[1].hands().copy(&upstream, incarnation(1), SECOND, &mut |_| {})?;
    nodes.all[0].sql("insert into t values (0)")?;
    check(nodes, "1001")?;
    ensure!(count(&spaces) == 2, "the tablespace was put aside, too");
    let node = &mut nodes.all[1];
    node.hands().restore(incarnation(1))?;
    ensure!(count(&spaces) == 1, "it is back");
    node.hands().start_standby()?;
    node.wait_local("all of its log replayed", |local| local.is_drained)?;
    ensure!(node.sql("select count(*) from t")? == "1000", "as it was put aside");
    node.hands().copy(&upstream, incarnation(1), SECOND, &mut |_| {})?;
    let kept = node.hands().retain(incarnation(1))?;
    ensure!(node.hands().retain(incarnation(1))? == kept, "twice is as once");
    node.hands().remove_others(None)?;
    let kept = kept.context("it is kept")?;
    ensure!(kept.join("global/pg_control").exists() && count(&spaces) == 2, "for good");
    Ok(())
}
