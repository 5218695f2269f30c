//! Directories that get another node's history.

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pgx_control::agent::Process;
use pgx_control::ids::{Incarnation, NodeId};
use pgx_tests::lab::wait_for;

use crate::Test;
use crate::nodes::{Node, Nodes, SOON, directory, incarnation};
use crate::postgres::error::Error;
use crate::postgres::hands::Hands;
use crate::postgres::rebuild::Means;
use crate::postgres::{Abort, Peer};

pub(crate) fn tests() -> Vec<(&'static str, Test)> {
    vec![
        ("diverged_primary_is_rewound_and_keeps_its_own_settings", rewound),
        ("primary_whose_processes_were_killed_in_the_middle_of_work_is_rewound", crashed),
        ("standby_that_has_more_than_the_next_primary_is_rewound", ahead),
        ("directory_that_cannot_be_rewound_is_cloned", cloned),
        ("directory_that_operators_do_not_trust_is_cloned_though_it_could_be_rewound", distrusted),
        ("directory_whose_source_has_no_log_since_they_parted_is_cloned", log_gone),
        ("source_that_dies_half_way_is_told_and_the_next_try_goes_on", source_dies),
        ("source_that_is_not_there_leaves_a_whole_directory_as_it_is", source_gone),
        ("source_that_lets_nobody_in_leaves_a_whole_directory_as_it_is", source_refuses),
        ("source_that_is_not_promoted_yet_is_waited_for", source_not_ready),
        ("abort_ends_a_clone_with_its_helpers", aborted),
        ("full_disk_is_told_and_the_next_try_goes_on", disk_full),
        ("copy_keeps_the_directory_and_restore_puts_it_back", kept),
        ("copy_is_not_taken_for_the_directory_that_was_put_aside_and_is_missing", missing),
    ]
}

/// The name of a directory that takes a node's first one's place.
pub(crate) const SECOND: Incarnation = Incarnation(2);

/// Node 1 is promoted, while node 0 goes on for itself and then crashes.
pub(crate) fn diverged() -> anyhow::Result<Nodes> {
    let mut nodes = Nodes::streaming(1)?;
    nodes.all[0].sql("create table kept as select generate_series(1, 1000) as x")?;
    nodes.all[1].wait_sql("select count(*) from kept", "1000")?;
    nodes.all[1].hands().detach()?;
    nodes.all[1].wait_local("all replayed", |local| local.is_drained)?;
    let rule = nodes.rule(0, &[]);
    nodes.all[1].hands().promote(&rule, &[NodeId(0), NodeId(1)])?;
    nodes.all[1].sql("insert into kept select generate_series(1001, 1500)")?;
    nodes.all[0].sql("insert into kept select generate_series(5001, 7000)")?;
    nodes.all[0].sql("create table stray as select 1 as x")?;
    nodes.all[0].hands().kill()?;
    Ok(nodes)
}

/// Node 0 has what node 1 has, and nothing else.
pub(crate) fn check_follows(nodes: &mut Nodes) -> anyhow::Result<()> {
    let old = &mut nodes.all[0];
    old.hands().start_standby()?;
    let local = old.wait_local("a standby that streams", |local| local.is_streaming)?;
    ensure!(local.timeline.0 == 2 && local.process == Process::Standby, "{local:?}");
    old.wait_sql("select count(*), max(x) from kept", "1500|1500")?;
    ensure!(old.sql("select count(*) from pg_class where relname = 'stray'")? == "0");
    ensure!(old.sql("show port")? == old.place.port.to_string());
    ensure!(old.sql("show max_connections")? == "40");
    let found = old.look()?;
    ensure!(directory(&found) == Some(SECOND) && found.half.is_none(), "{found:?}");
    nodes.all[1].sql("insert into kept values (0)")?;
    nodes.all[0].wait_sql("select count(*) from kept", "1501")
}

fn rewound() -> anyhow::Result<()> {
    let mut nodes = diverged()?;
    let upstream = nodes.all[1].peer();
    let means = nodes.all[0].hands().rebuild(&upstream, SECOND, &mut |_| {})?;
    ensure!(means == Means::Rewound);
    check_follows(&mut nodes)
}

fn crashed() -> anyhow::Result<()> {
    let mut nodes = diverged()?;
    let node = &mut nodes.all[0];
    node.hands().start_founder()?;
    node.wait_ready()?;
    // Much of this is in no data file yet, and the last of it in no log.
    node.sql("create table more as select generate_series(1, 20000) as x")?;
    node.sql("checkpoint")?;
    node.sql("update more set x = x + 1; insert into kept select generate_series(7001, 9000)")?;
    let mut open = node.psql("begin; insert into kept select generate_series(1, 20000)")?;
    node.wait_sql("select count(*) from pg_stat_activity where backend_xid is not null", "1")?;
    let postmaster = node.postmaster()?;
    for pid in [vec![postmaster], node.processes()].concat() {
        // Some of them are faster: they end when the postmaster does.
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
    wait_for("the end of all", SOON, || node.processes().is_empty())?;
    open.wait()?;
    let found = node.look()?.local;
    ensure!(found.process == Process::Stopped && found.was_primary, "{found:?}");
    let upstream = nodes.all[1].peer();
    let means = nodes.all[0].hands().rebuild(&upstream, SECOND, &mut |_| {})?;
    ensure!(means == Means::Rewound);
    ensure!(!nodes.all[0].place.data.join("postmaster.pid").exists());
    check_follows(&mut nodes)?;
    ensure!(nodes.all[0].sql("select count(*) from pg_class where relname = 'more'")? == "0");
    Ok(())
}

fn ahead() -> anyhow::Result<()> {
    let mut nodes = Nodes::streaming(2)?;
    nodes.all[0].sql("create table kept as select generate_series(1, 1000) as x")?;
    for number in [1, 2] {
        nodes.all[number].wait_sql("select count(*) from kept", "1000")?;
    }
    nodes.all[1].hands().detach()?;
    nodes.all[1].wait_local("all replayed", |local| local.is_drained)?;
    nodes.all[0].sql("insert into kept select generate_series(5001, 7000)")?;
    nodes.all[0].sql("create table stray as select 1 as x")?;
    nodes.all[2].wait_sql("select count(*) from stray", "1")?;
    nodes.all[0].hands().kill()?;
    nodes.all[2].hands().kill()?;
    let rule = nodes.rule(0, &[]);
    nodes.all[1].hands().promote(&rule, &[NodeId(0), NodeId(1), NodeId(2)])?;
    nodes.all[1].sql("insert into kept select generate_series(1001, 1500)")?;
    let upstream = nodes.all[1].peer();
    let means = nodes.all[2].hands().rebuild(&upstream, SECOND, &mut |_| {})?;
    ensure!(means == Means::Rewound);
    nodes.all.swap(0, 2);
    check_follows(&mut nodes)
}

fn cloned() -> anyhow::Result<()> {
    let mut nodes = diverged()?;
    let upstream = nodes.all[1].peer();
    // The log that tells what has changed since the two parted is gone.
    let log = nodes.all[0].place.data.join("pg_wal");
    for entry in std::fs::read_dir(&log)?.flatten() {
        if entry.file_type()?.is_file() {
            std::fs::remove_file(entry.path())?;
        }
    }
    let mut last = None;
    let means = nodes.all[0].hands().rebuild(&upstream, SECOND, &mut |told| last = Some(told))?;
    ensure!(means == Means::Cloned);
    ensure!(last.is_some_and(|told| told.done_kb > 0 && told.total_kb >= told.done_kb), "{last:?}");
    check_follows(&mut nodes)
}

fn distrusted() -> anyhow::Result<()> {
    let mut nodes = diverged()?;
    let upstream = nodes.all[1].peer();
    let nobody = Peer { port: 1, ..upstream.clone() };
    let outcome = nodes.all[0].hands().copy_anew(&nobody, SECOND, &mut |_| {});
    ensure!(outcome.is_err(), "{outcome:?}");
    // Who goes on has not heard what operators wanted.
    let means = nodes.all[0].hands().rebuild(&upstream, SECOND, &mut |_| {})?;
    ensure!(means == Means::Cloned, "{means:?}");
    check_follows(&mut nodes)
}

fn log_gone() -> anyhow::Result<()> {
    let mut nodes = diverged()?;
    let source = &nodes.all[1];
    // The slots are for members that are not away for too long.
    source.hands().keep_slots(&[])?;
    ensure!(source.sql("select count(*) from pg_replication_slots")? == "0");
    source.sql("create table filler(x int)")?;
    for _ in 0..4 {
        source.sql("insert into filler values (1)")?;
        source.sql("select pg_switch_wal()")?;
        source.sql("checkpoint")?;
    }
    source.hands().keep_slots(&[(NodeId(0), None)])?;
    let upstream = source.peer();
    let means = nodes.all[0].hands().rebuild(&upstream, SECOND, &mut |_| {})?;
    ensure!(means == Means::Cloned);
    check_follows(&mut nodes)
}

/// Does something once a copy has begun to write there.
pub(crate) fn when_begun<T>(data: &Path, act: impl FnOnce() + Send, run: impl FnOnce() -> T) -> T {
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                if data.join("base").exists() {
                    return act();
                }
                std::thread::yield_now();
            }
        });
        let done = run();
        is_over.store(true, Ordering::Relaxed);
        done
    })
}

fn fill(node: &Node) -> anyhow::Result<()> {
    node.sql("create table big as select generate_series(1, 1500000) as x, repeat('y', 60) as y")?;
    node.sql("checkpoint").map(drop)
}

fn source_dies() -> anyhow::Result<()> {
    let mut nodes = Nodes::founded()?;
    fill(&nodes.all[0])?;
    nodes.add()?;
    let (upstream, source) = (nodes.all[0].peer(), nodes.all[0].hands());
    let node = &mut nodes.all[1];
    let end_source = || drop(source.kill());
    let outcome = when_begun(&node.place.data, end_source, || {
        node.hands().rebuild(&upstream, incarnation(1), &mut |_| {})
    });
    ensure!(matches!(outcome, Err(Error::SourceLost { .. })), "{outcome:?}");
    let started = node.hands().start_standby();
    ensure!(matches!(started, Err(Error::HalfBuilt { .. })), "{started:?}");
    check_half(node)?;
    // An end between two steps leaves less.
    std::fs::remove_dir_all(node.place.data.join("pg_wal"))?;
    check_half(node)?;
    std::fs::remove_dir_all(&node.place.data)?;
    check_half(node)?;
    nodes.all[0].hands().start_founder()?;
    nodes.all[0].wait_ready()?;
    let node = &mut nodes.all[1];
    node.hands().rebuild(&upstream, incarnation(1), &mut |_| {})?;
    node.hands().start_standby()?;
    node.wait_local("a standby that streams", |local| local.is_streaming)?;
    node.wait_sql("select count(*) from big", "1500000")
}

/// It is told as half built, whatever lies there.
fn check_half(node: &mut Node) -> anyhow::Result<()> {
    let found = node.look()?;
    ensure!(found.half.as_ref().is_some_and(|what| what.contains("cloning")), "{found:?}");
    ensure!(directory(&found).is_none() && found.postmaster.is_none(), "{found:?}");
    let local = found.local;
    ensure!(local.process == Process::Stopped && !local.is_drained, "{local:?}");
    ensure!(local.upstream.is_none() && local.shut_down.is_none(), "{local:?}");
    Ok(())
}

fn source_gone() -> anyhow::Result<()> {
    let mut nodes = diverged()?;
    let nobody = Peer { port: 1, ..nodes.all[1].peer() };
    let node = &mut nodes.all[0];
    let outcome = node.hands().rebuild(&nobody, SECOND, &mut |_| {});
    ensure!(outcome.is_err(), "{outcome:?}");
    ensure!(node.look()?.half.is_none(), "it can still be rewound: {:?}", node.look()?);
    let upstream = nodes.all[1].peer();
    let abort = Abort::default();
    abort.abort();
    let node = &mut nodes.all[0];
    let outcome = Hands::new(node.place.clone(), abort).rebuild(&upstream, SECOND, &mut |_| {});
    ensure!(matches!(outcome, Err(Error::Aborted)), "{outcome:?}");
    ensure!(node.look()?.half.is_none(), "nor has this changed anything");
    let means = nodes.all[0].hands().rebuild(&upstream, SECOND, &mut |_| {})?;
    ensure!(means == Means::Rewound);
    check_follows(&mut nodes)
}

fn source_refuses() -> anyhow::Result<()> {
    let mut nodes = diverged()?;
    let upstream = nodes.all[1].peer();
    let rules = nodes.all[1].place.data.join("pg_hba.conf");
    let known = std::fs::read_to_string(&rules)?;
    let set = |nodes: &Nodes, rules_now: &str| -> anyhow::Result<()> {
        std::fs::write(&rules, rules_now)?;
        nodes.all[1].sql("select pg_reload_conf()").map(drop)
    };
    set(&nodes, "local all postgres peer\n")?;
    // It could not be rewound either.
    let log = nodes.all[0].place.data.join("pg_wal");
    let aside = nodes.folder().join("log");
    std::fs::rename(&log, &aside)?;
    for _ in 0..2 {
        let outcome = nodes.all[0].hands().rebuild(&upstream, SECOND, &mut |_| {});
        ensure!(matches!(outcome, Err(Error::SourceRefuses { .. })), "{outcome:?}");
        let outcome = nodes.all[0].hands().copy(&upstream, incarnation(0), SECOND, &mut |_| {});
        ensure!(matches!(outcome, Err(Error::SourceRefuses { .. })), "{outcome:?}");
    }
    std::fs::rename(&aside, &log)?;
    let found = nodes.all[0].look()?;
    ensure!(found.half.is_none() && directory(&found) == Some(incarnation(0)), "{found:?}");
    set(&nodes, &known)?;
    let means = nodes.all[0].hands().rebuild(&upstream, SECOND, &mut |_| {})?;
    ensure!(means == Means::Rewound);
    check_follows(&mut nodes)
}

fn source_not_ready() -> anyhow::Result<()> {
    let mut nodes = Nodes::streaming(1)?;
    nodes.all[0].sql("create table kept as select generate_series(1, 1000) as x")?;
    nodes.all[1].wait_sql("select count(*) from kept", "1000")?;
    nodes.all[1].hands().detach()?;
    nodes.all[1].wait_local("all replayed", |local| local.is_drained)?;
    nodes.all[0].sql("create table stray as select 1 as x")?;
    nodes.all[0].hands().kill()?;
    let upstream = nodes.all[1].peer();
    // Now both are on the same timeline, of which it has more than its source.
    let outcome = nodes.all[0].hands().rebuild(&upstream, SECOND, &mut |_| {});
    ensure!(matches!(outcome, Err(Error::SourceNotReady { .. })), "{outcome:?}");
    ensure!(nodes.all[0].look()?.half.is_none());
    let rule = nodes.rule(0, &[]);
    nodes.all[1].hands().promote(&rule, &[NodeId(0), NodeId(1)])?;
    nodes.all[1].sql("insert into kept select generate_series(1001, 1500)")?;
    let means = nodes.all[0].hands().rebuild(&upstream, SECOND, &mut |_| {})?;
    ensure!(means == Means::Rewound);
    check_follows(&mut nodes)
}

/// Begins to give node 1 the history of node 0, and is interrupted in the midst of it.
pub(crate) fn rebuild_in_vain(nodes: &Nodes) -> anyhow::Result<()> {
    let (place, upstream) = (&nodes.all[1].place, nodes.all[0].peer());
    let abort = Abort::default();
    let hands = Hands::new(place.clone(), abort.clone());
    let outcome = when_begun(
        &place.data,
        || abort.abort(),
        || hands.rebuild(&upstream, incarnation(1), &mut |_| {}),
    );
    ensure!(matches!(outcome, Err(Error::Aborted)), "{outcome:?}");
    Ok(())
}

fn aborted() -> anyhow::Result<()> {
    let mut nodes = Nodes::founded()?;
    fill(&nodes.all[0])?;
    nodes.add()?;
    rebuild_in_vain(&nodes)?;
    let place = &nodes.all[1].place;
    let left = crate::postgres::process::of(&[&place.folder(), &place.data]);
    ensure!(left.is_empty(), "{left:?}");
    Ok(())
}

/// A file system of a few megabytes.
struct Small<'a>(&'a Path);

impl Small<'_> {
    fn mount(&self, options: &str) -> anyhow::Result<()> {
        let mut command = Command::new("mount");
        command.args(["-t", "tmpfs", "-o", options, "pgx-test"]).arg(self.0);
        ensure!(command.status()?.success(), "cannot mount {}", self.0.display());
        Ok(())
    }
}

impl Drop for Small<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0).status();
    }
}

fn disk_full() -> anyhow::Result<()> {
    let mut nodes = Nodes::founded()?;
    fill(&nodes.all[0])?;
    nodes.add()?;
    let upstream = nodes.all[0].peer();
    let home = nodes.all[1].place.data.parent().context("no parent")?.to_owned();
    let small = Small(&home);
    small.mount("size=60m,mode=0755")?;
    let node = &mut nodes.all[1];
    let outcome = node.hands().rebuild(&upstream, incarnation(1), &mut |_| {});
    ensure!(matches!(outcome, Err(Error::DiskFull { .. })), "{outcome:?}");
    let told = node.hands().scarce_disks();
    ensure!(told.len() == 1 && told[0].contains("make room"), "{told:?}");
    ensure!(matches!(node.hands().start_standby(), Err(Error::HalfBuilt { .. })));
    small.mount("remount,size=1g")?;
    ensure!(node.hands().scarce_disks().is_empty());
    node.hands().rebuild(&upstream, incarnation(1), &mut |_| {})?;
    node.hands().start_standby()?;
    node.wait_local("a standby that streams", |local| local.is_streaming)?;
    node.hands().kill()?;
    Ok(())
}

fn kept() -> anyhow::Result<()> {
    let mut nodes = diverged()?;
    let upstream = nodes.all[1].peer();
    for _ in 0..2 {
        nodes.all[0].hands().copy(&upstream, incarnation(0), SECOND, &mut |_| {})?;
    }
    check_follows(&mut nodes)?;
    let old = &mut nodes.all[0];
    old.hands().remove_others(Some(incarnation(0)))?;
    for _ in 0..2 {
        old.hands().restore(incarnation(0))?;
    }
    ensure!(old.look()?.local.was_primary, "it was not started since");
    check_restored(old)?;
    // What is put aside under another name is removed.
    nodes.all[0].hands().copy(&upstream, incarnation(0), SECOND, &mut |_| {})?;
    nodes.all[0].hands().remove_others(Some(SECOND))?;
    let left = std::fs::read_dir(nodes.all[0].place.folder())?.flatten();
    let left: Vec<_> = left.map(|entry| entry.file_name()).collect();
    ensure!(left.iter().all(|name| !name.to_string_lossy().starts_with("kept")), "{left:?}");
    Ok(())
}

/// The directory is the first one again, with all that it had.
pub(crate) fn check_restored(old: &mut Node) -> anyhow::Result<()> {
    let found = old.look()?;
    ensure!(directory(&found) == Some(incarnation(0)) && found.half.is_none(), "{found:?}");
    ensure!(found.local.upstream.is_none(), "{found:?}");
    old.hands().start_standby()?;
    let local = old.wait_local("all of its log replayed", |local| local.is_drained)?;
    ensure!(local.timeline.0 == 1, "{local:?}");
    ensure!(old.sql("select count(*), max(x) from kept")? == "3000|7000");
    ensure!(old.sql("select count(*) from stray")? == "1");
    Ok(())
}

fn missing() -> anyhow::Result<()> {
    let nodes = diverged()?;
    let (upstream, node) = (nodes.all[1].peer(), &nodes.all[0]);
    node.hands().copy(&upstream, incarnation(0), SECOND, &mut |_| {})?;
    let aside = node.place.folder().join(format!("kept-{:032x}", incarnation(0).0));
    let elsewhere = nodes.folder().join("unmounted");
    std::fs::rename(&aside, &elsewhere)?;
    let outcome = node.hands().restore(incarnation(0));
    ensure!(matches!(outcome, Err(Error::NothingAside(_))), "{outcome:?}");
    ensure!(node.place.data.join("standby.signal").exists(), "the copy is as it was");
    std::fs::rename(&elsewhere, &aside)?;
    node.hands().restore(incarnation(0))?;
    Ok(node.hands().restore(incarnation(0))?)
}
