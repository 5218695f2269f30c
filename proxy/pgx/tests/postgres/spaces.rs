//! Directories that lie outside of the data directory.

use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, anyhow, ensure};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{Uid, chown};
use pgx_tests::lab::wait_for;

use crate::Test;
use crate::nodes::{Nodes, SOON, incarnation};
use crate::postgres::Abort;
use crate::postgres::error::Error;
use crate::postgres::hands::Hands;
use crate::rebuild::SECOND;

pub(crate) fn tests() -> Vec<(&'static str, Test)> {
    vec![
        ("clone_that_ended_in_the_middle_of_a_tablespace_is_repeated", spaces),
        ("link_to_a_directory_of_another_user_is_not_put_aside", foreign_space),
    ]
}

/// Does something where another directory is in the place of this one, as on another host.
fn elsewhere<T: Send>(
    place: &Path,
    other: &Path,
    act: impl FnOnce() -> anyhow::Result<T> + Send,
) -> anyhow::Result<T> {
    let mount = |words: &[&str]| -> anyhow::Result<()> {
        ensure!(Command::new("mount").args(words).status()?.success(), "mount {words:?}");
        Ok(())
    };
    let other = other.to_str().context("a path that is not UTF-8")?;
    let place = place.to_str().context("a path that is not UTF-8")?;
    std::thread::scope(|scope| {
        let there = scope.spawn(|| {
            unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS)?;
            mount(&["--make-rprivate", "/"])?;
            mount(&["--bind", other, place])?;
            act()
        });
        there.join().map_err(|_| anyhow!("it panicked"))?
    })
}

fn spaces() -> anyhow::Result<()> {
    let mut nodes = Nodes::founded()?;
    let (spaces, others) = (nodes.folder().join("spaces"), nodes.folder().join("others"));
    let space = spaces.join("one");
    for path in [&spaces, &others, &space, &others.join("one")] {
        std::fs::create_dir(path)?;
        chown(path, Some(Uid::from_raw(nodes.all[0].place.owner)), None)?;
    }
    let source = &nodes.all[0];
    source.sql(&format!("create tablespace one location '{}'", space.display()))?;
    source.sql(
        "create table big tablespace one as \
         select generate_series(1, 1000000) as x, repeat('y', 60) as y",
    )?;
    source.sql("checkpoint")?;
    let upstream = source.peer();
    nodes.add()?;
    let node = &mut nodes.all[1];
    let place = node.place.clone();
    elsewhere(&spaces, &others, || {
        let abort = Abort::default();
        let hands = Hands::new(place.clone(), abort.clone());
        let outcome = std::thread::scope(|scope| {
            let copying = scope.spawn(|| hands.rebuild(&upstream, incarnation(1), &mut |_| {}));
            wait_for("some of the tablespace", SOON, || {
                copying.is_finished()
                    || std::fs::read_dir(&space).is_ok_and(|mut all| all.next().is_some())
            })?;
            abort.abort();
            copying.join().map_err(|_| anyhow!("it panicked"))
        })?;
        ensure!(matches!(outcome, Err(Error::Aborted)), "{outcome:?}");
        let links = std::fs::read_dir(place.data.join("pg_tblspc"));
        ensure!(links.into_iter().flatten().next().is_none(), "too late");
        let hands = Hands::new(place.clone(), Abort::default());
        hands.rebuild(&upstream, incarnation(1), &mut |_| {})?;
        Ok(hands.start_standby()?)
    })?;
    node.wait_local("a standby that streams", |local| local.is_streaming)?;
    node.wait_sql("select count(*) from big", "1000000")
}

fn foreign_space() -> anyhow::Result<()> {
    let mut nodes = Nodes::streaming(1)?;
    // As root's directories lie: their parent is root's as well.
    let folder = tempfile::tempdir()?;
    let victim = folder.path().join("etc");
    std::fs::create_dir(&victim)?;
    std::fs::write(victim.join("passwd"), "root")?;
    nodes.all[1].hands().kill()?;
    symlink(&victim, nodes.all[1].place.data.join("pg_tblspc/99999"))?;
    let upstream = nodes.all[0].peer();
    let hands = nodes.all[1].hands();
    let outcome = hands.copy(&upstream, incarnation(1), SECOND, &mut |_| {});
    ensure!(outcome.is_err(), "{outcome:?}");
    ensure!(victim.metadata()?.uid() == 0 && victim.join("passwd").exists(), "{outcome:?}");
    ensure!(std::fs::read_dir(folder.path())?.count() == 1);
    // Nor when something lies where it would be put.
    let mut aside = victim.clone().into_os_string();
    aside.push(format!(".pgx-kept-{:032x}", incarnation(1).0));
    std::fs::create_dir(&aside)?;
    let outcome = hands.copy(&upstream, incarnation(1), SECOND, &mut |_| {});
    ensure!(outcome.is_err(), "{outcome:?}");
    let outcome = hands.restore(incarnation(1));
    ensure!(outcome.is_err(), "{outcome:?}");
    ensure!(victim.metadata()?.uid() == 0 && victim.join("passwd").exists(), "{outcome:?}");
    let node = &mut nodes.all[1];
    std::fs::remove_file(node.place.data.join("pg_tblspc/99999"))?;
    node.hands().restore(incarnation(1))?;
    ensure!(node.look()?.half.is_none());
    Ok(())
}
