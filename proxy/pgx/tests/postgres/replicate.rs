//! A primary and its standbys: whom they follow, whom commits wait for, and who has what.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pgx_control::agent::{Local, Process};
use pgx_control::cluster::sync::Rule;
use pgx_control::ids::{NodeId, Timeline};
use pgx_tests::lab::wait_for;

use crate::Test;
use crate::nodes::{Node, Nodes, SOON, incarnation};
use crate::postgres::Abort;
use crate::postgres::error::Error;
use crate::postgres::hands::Hands;
use crate::postgres::rebuild::Means;

pub(crate) fn tests() -> Vec<(&'static str, Test)> {
    vec![
        ("rule_is_told_as_run_when_all_that_acknowledge_run_it", rules),
        ("rule_is_told_as_run_when_commits_wait_though_a_checkpoint_swallowed_a_signal", swallowed),
        ("rule_that_somebody_overrides_is_not_told_as_run_and_is_put_right", overridden),
        ("detached_standby_replays_what_it_has_and_receives_nothing_more", detached),
        ("detach_ends_queries_that_replay_waits_for", conflict),
        ("promoted_standby_is_followed_by_the_others", promoted),
        ("promotion_that_nobody_wants_any_more_does_not_happen", not_promoted),
        ("clean_handover_loses_nothing_and_the_old_primary_follows", handover),
        ("standby_whose_log_is_gone_from_its_upstream_is_told", lost),
        ("standby_that_pauses_is_made_to_try_its_upstream_sooner", nudged),
        ("standby_starts_though_its_primary_has_more_connections", floors),
    ]
}

fn rules() -> anyhow::Result<()> {
    let mut nodes = Nodes::streaming(2)?;
    let (both, one) = (nodes.rule(1, &[1, 2]), nodes.rule(1, &[2]));
    let node = &mut nodes.all[0];
    node.hands().set_rule(&both)?;
    let first = node.wait_local("the rule", |local| local.runs_rule.as_ref() == Some(&both))?;
    node.sql("create table kept as select 1 as x")?;
    let later = node.wait_local("a flush", |local| local.rule_flushed > first.rule_since)?;
    ensure!(later.rule_since == first.rule_since, "{later:?}");
    // A walsender that is stopped goes on with the rule that it has read.
    let sender = sender_to(&nodes.all[0], 2)?;
    kill(Pid::from_raw(sender), Signal::SIGSTOP)?;
    let node = &mut nodes.all[0];
    node.hands().set_rule(&one)?;
    for _ in 0..3 {
        let local = node.look()?.local;
        ensure!(local.runs_rule.is_none(), "one of its processes has not read it: {local:?}");
    }
    kill(Pid::from_raw(sender), Signal::SIGCONT)?;
    node.wait_local("the rule", |local| local.runs_rule.as_ref() == Some(&one))?;
    // A checkpointer that is stopped lets backends go by what it has read.
    node.hands().set_rule(&Rule::degraded())?;
    node.wait_local("no rule", |local| local.runs_rule.as_ref() == Some(&Rule::degraded()))?;
    let checkpointer = checkpointer_of(node)?;
    kill(checkpointer, Signal::SIGSTOP)?;
    node.hands().set_rule(&both)?;
    ensure!(node.look()?.local.runs_rule.is_none());
    kill(checkpointer, Signal::SIGCONT)?;
    let last = node.wait_local("the rule", |local| local.runs_rule.as_ref() == Some(&both))?;
    ensure!(last.rule_since > first.rule_since, "it came anew: {last:?}");
    // A pgx that starts anew finds it out again, and disturbs nobody for it.
    let senders =
        node.sql("select string_agg(pid::text, ' ' order by pid) from pg_stat_replication")?;
    node.forget();
    node.wait_local("the rule", |local| local.runs_rule.as_ref() == Some(&both))?;
    let now =
        node.sql("select string_agg(pid::text, ' ' order by pid) from pg_stat_replication")?;
    ensure!(now == senders, "{now} {senders}");
    Ok(())
}

fn swallowed() -> anyhow::Result<()> {
    let mut nodes = Nodes::streaming(1)?;
    let rule = nodes.rule(1, &[1]);
    let node = &mut nodes.all[0];
    node.wait_local("no rule", |local| local.runs_rule.as_ref() == Some(&Rule::degraded()))?;
    // A checkpoint that is late after its first pause makes no other, in which it would look at
    // what it was told in that one.
    node.sql("alter system set checkpoint_timeout = '30s'")?;
    node.sql("alter system set checkpoint_completion_target = 0.01")?;
    node.sql("select pg_reload_conf()")?;
    node.sql("create table dirty(x int)")?;
    let checkpointer = checkpointer_of(node)?;
    wait_for("a checkpoint that pauses", SOON, || paused(node, checkpointer).unwrap_or(false))?;
    node.hands().set_rule(&rule)?;
    for _ in 0..4 {
        ensure!(node.look()?.local.runs_rule.is_none());
    }
    // Now it goes on, and nobody answers for the standby.
    let receiver =
        nodes.all[1].sql("select pid from pg_stat_activity where backend_type = 'walreceiver'")?;
    kill(Pid::from_raw(receiver.parse()?), Signal::SIGSTOP)?;
    kill(checkpointer, Signal::SIGCONT)?;
    let node = &mut nodes.all[0];
    node.wait_local("the rule", |local| local.runs_rule.as_ref() == Some(&rule))?;
    let mut writer = node.psql("insert into dirty values (1)")?;
    let waits = "select count(*) from pg_stat_activity where wait_event = 'SyncRep'";
    let waited = node.wait_sql(waits, "1");
    kill(Pid::from_raw(receiver.parse()?), Signal::SIGCONT)?;
    writer.kill()?;
    writer.wait()?;
    waited
}

fn checkpointer_of(node: &Node) -> anyhow::Result<Pid> {
    let pid = node.sql("select pid from pg_stat_activity where backend_type = 'checkpointer'")?;
    Ok(Pid::from_raw(pid.parse()?))
}

/// Whether a checkpoint was begun and has been stopped in a pause.
fn paused(node: &Node, checkpointer: Pid) -> anyhow::Result<bool> {
    let pauses = "select wait_event = 'CheckpointWriteDelay' from pg_stat_activity \
                  where backend_type = 'checkpointer'";
    node.sql("insert into dirty values (1)")?;
    let mut backup = node.psql("select pg_backup_start('it begins with one', false)")?;
    let has_begun = wait_for("a pause", Duration::from_millis(300), || {
        node.sql(pauses).is_ok_and(|said| said == "t")
    });
    kill(checkpointer, Signal::SIGSTOP)?;
    let is_paused = has_begun.is_ok() && node.sql(pauses)? == "t";
    if !is_paused {
        kill(checkpointer, Signal::SIGCONT)?;
    }
    backup.kill()?;
    backup.wait()?;
    Ok(is_paused)
}

fn overridden() -> anyhow::Result<()> {
    let mut nodes = Nodes::streaming(1)?;
    let rule = nodes.rule(1, &[1]);
    let node = &mut nodes.all[0];
    node.hands().set_rule(&rule)?;
    node.wait_local("the rule", |local| local.runs_rule.as_ref() == Some(&rule))?;
    node.sql("alter system set synchronous_standby_names = ''")?;
    node.sql("select pg_reload_conf()")?;
    node.wait_sql("show synchronous_standby_names", "")?;
    node.wait_local("the rule again", |local| local.runs_rule.as_ref() == Some(&rule))?;
    ensure!(node.sql("show synchronous_standby_names")?.starts_with("ANY 1"));
    // What comes later in the file than pgx's line, and what somebody has written by hand into the
    // file of ALTER SYSTEM: commits must not wait for nobody until something else is to be done.
    let auto = node.place.data.join("postgresql.auto.conf");
    for (path, line) in [
        (node.place.config_file.clone(), "synchronous_standby_names = ''\n"),
        (auto, "\t synchronous_standby_names = ''\n"),
    ] {
        let known = std::fs::read_to_string(&path)?;
        std::fs::write(&path, format!("{known}{line}"))?;
        node.sql("select pg_reload_conf()")?;
        node.wait_sql("show synchronous_standby_names", "")?;
        node.wait_local("the rule again", |local| local.runs_rule.as_ref() == Some(&rule))?;
        ensure!(node.sql("show synchronous_standby_names")?.starts_with("ANY 1"));
    }
    // After a crash it must not come back by itself.
    node.sql("alter system set restart_after_crash = on")?;
    node.sql("select pg_reload_conf()")?;
    node.wait_sql("show restart_after_crash", "on")?;
    node.look()?;
    node.wait_sql("show restart_after_crash", "off")?;
    node.wait_local("the rule again", |local| local.runs_rule.as_ref() == Some(&rule))?;
    Ok(())
}

/// Inserts rows until it is killed.
pub(crate) fn writer(node: &Node) -> anyhow::Result<Child> {
    node.sql("create table if not exists written(x int)")?;
    let script = "while true; do echo 'insert into written select generate_series(1, 50);'; done";
    let psql = format!(
        "{script} | {} -XAtq -U postgres -h {} -p {} postgres",
        node.place.programs.join("psql").display(),
        node.place.sockets.display(),
        node.place.port
    );
    let words = ["--reuid=postgres", "--regid=postgres", "--clear-groups", "sh", "-c", &psql];
    let mut command = Command::new("setpriv");
    Ok(command.args(words).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?)
}

fn detached() -> anyhow::Result<()> {
    let mut nodes = Nodes::streaming(1)?;
    let mut writer = writer(&nodes.all[0])?;
    for round in 0..5 {
        let end = nodes.all[0].look()?.local.end;
        let node = &mut nodes.all[1];
        node.wait_local("some of it", |local| local.is_streaming && local.end > end)?;
        node.sql("select pg_wal_replay_pause()")?;
        node.hands().detach()?;
        if round == 1 {
            node.forget();
        }
        let still = node.wait_local("nothing more to come", |local| local.is_drained)?;
        ensure!(still.upstream.is_none() && !still.is_streaming, "{still:?}");
        // The primary writes on.
        let end = nodes.all[0].look()?.local.end;
        nodes.all[0].wait_local("more", |local| local.end.0 > end.0 + 100_000)?;
        let node = &mut nodes.all[1];
        let later = node.look()?.local;
        ensure!(later.is_drained && later.end == still.end, "{still:?} {later:?}");
        if round == 2 {
            // It stays so over an end of any kind.
            node.hands().kill()?;
            ensure!(node.look()?.local.upstream.is_none());
            node.hands().start_standby()?;
            let again = node.wait_local("nothing more", |local| local.is_drained)?;
            ensure!(again.end >= still.end, "{again:?} {still:?}");
        }
        let upstream = nodes.all[0].peer();
        nodes.all[1].hands().follow(&upstream)?;
    }
    writer.kill()?;
    writer.wait()?;
    Ok(())
}

fn conflict() -> anyhow::Result<()> {
    let mut nodes = Nodes::streaming(1)?;
    let [primary, standby] = &mut nodes.all[..] else { anyhow::bail!("two nodes") };
    let known = std::fs::read_to_string(&standby.place.config_file)?;
    let never = "max_standby_streaming_delay = -1\n";
    std::fs::write(&standby.place.config_file, format!("{never}{known}"))?;
    standby.sql("select pg_reload_conf()")?;
    standby.wait_sql("show max_standby_streaming_delay", "-1")?;
    for (dead, alive, harm) in [
        ("dead", "delete from dead; vacuum dead", "RecoveryConflictSnapshot"),
        ("locked", "alter table locked add y int", "relation"),
    ] {
        primary.sql(&format!("create table {dead} as select generate_series(1, 1000) as x"))?;
        primary.sql(&format!("create table after_{dead}(x int)"))?;
        let count = format!("select count(*) from {dead}");
        standby.wait_sql(&count, "1000")?;
        let mut reader =
            standby.psql(&format!("begin isolation level repeatable read; {count}"))?;
        standby
            .wait_sql("select count(*) from pg_stat_activity where wait_event = 'PgSleep'", "1")?;
        for statement in alive.split("; ") {
            primary.sql(statement)?;
        }
        primary.sql(&format!("insert into after_{dead} values (1)"))?;
        let waits = "select wait_event from pg_stat_activity where backend_type = 'startup'";
        standby.wait_sql(waits, harm)?;
        standby.hands().detach()?;
        let receives = "select count(*) from pg_stat_activity where backend_type = 'walreceiver'";
        ensure!(standby.sql(receives)? == "0");
        standby.wait_local("all replayed", |local| local.is_drained)?;
        reader.wait()?;
        ensure!(standby.sql(&format!("select count(*) from after_{dead}"))? == "1");
        ensure!(standby.sql("show max_standby_streaming_delay")? == "0");
        standby.hands().follow(&primary.peer())?;
        standby.wait_local("a standby that streams", |local| local.is_streaming)?;
        standby.wait_sql("show max_standby_streaming_delay", "-1")?;
    }
    Ok(())
}

fn promoted() -> anyhow::Result<()> {
    let mut nodes = Nodes::streaming(2)?;
    nodes.all[0].sql("create table kept as select generate_series(1, 1000) as x")?;
    for number in [1, 2] {
        nodes.all[number].wait_sql("select count(*) from kept", "1000")?;
    }
    nodes.all[0].hands().kill()?;
    let mut ends = Vec::new();
    for number in [1, 2] {
        let node = &mut nodes.all[number];
        node.hands().detach()?;
        ends.push(node.wait_local("all replayed", |local| local.is_drained)?.end);
    }
    ensure!(ends[0] == ends[1], "{ends:?}");
    let rule = nodes.rule(1, &[2]);
    let members = [NodeId(0), NodeId(1), NodeId(2)];
    nodes.all[1].hands().promote(&rule, &members)?;
    nodes.all[1].sql("checkpoint")?;
    nodes.all[1].hands().promote(&rule, &members)?;
    let upstream = nodes.all[1].peer();
    nodes.all[2].hands().follow(&upstream)?;
    let primary = &mut nodes.all[1];
    let local = primary.wait_local("a follower that has all", |local| {
        let end = local.recovery_end;
        local.runs_rule.as_ref() == Some(&rule) && end.is_some_and(|end| local.rule_flushed >= end)
    })?;
    ensure!(local.process == Process::Primary && local.timeline == Timeline(2), "{local:?}");
    ensure!(local.switch >= ends[0] && local.switch <= local.end, "{local:?}");
    // What the dead one needs to be rewound is kept for it.
    primary.hands().keep_slots(&members.map(|member| (member, None)))?;
    let slots = "select string_agg(slot_name, ' ' order by slot_name) from pg_replication_slots";
    ensure!(primary.sql(slots)? == "pgx_node_0 pgx_node_2");
    let keeps = format!(
        "select restart_lsn < '{}' from pg_replication_slots where slot_name = 'pgx_node_0'",
        local.switch
    );
    ensure!(primary.sql(&keeps)? == "t");
    let follower = &mut nodes.all[2];
    let theirs = follower.wait_local("its timeline", |local| local.timeline == Timeline(2))?;
    ensure!(theirs.is_streaming && theirs.switch == local.switch, "{theirs:?}");
    ensure!(theirs.upstream == Some(NodeId(1)));
    // Slots of a standby move with the members that it may have to feed one day.
    let end = theirs.end;
    follower.hands().keep_slots(&[(NodeId(0), Some(end)), (NodeId(1), None)])?;
    ensure!(follower.sql(slots)? == "pgx_node_0 pgx_node_1");
    Ok(())
}

fn not_promoted() -> anyhow::Result<()> {
    let mut nodes = Nodes::streaming(1)?;
    let rule = nodes.rule(0, &[]);
    let node = &mut nodes.all[1];
    node.hands().detach()?;
    let abort = Abort::default();
    abort.abort();
    let outcome = Hands::new(node.place.clone(), abort).promote(&rule, &[]);
    ensure!(matches!(outcome, Err(Error::Aborted)), "{outcome:?}");
    node.wait_local("all replayed", |local| local.is_drained)?;
    ensure!(node.sql("select pg_is_in_recovery()")? == "t", "it was promoted");
    Ok(())
}

fn handover() -> anyhow::Result<()> {
    let mut nodes = Nodes::streaming(1)?;
    nodes.all[0].sql("create table kept as select generate_series(1, 5000) as x")?;
    let end = nodes.all[0].hands().shut_down()?;
    let next = &mut nodes.all[1];
    next.wait_local("the last word", |local| local.end >= end)?;
    next.hands().detach()?;
    let last = next.wait_local("all replayed", |local| local.is_drained)?;
    ensure!(last.end == end, "{last:?} {end}");
    let rule = nodes.rule(1, &[0]);
    nodes.all[1].hands().promote(&rule, &[NodeId(0), NodeId(1)])?;
    let upstream = nodes.all[1].peer();
    let old = &mut nodes.all[0];
    old.hands().follow(&upstream)?;
    old.hands().start_standby()?;
    old.wait_local("the old primary as a standby", |local| local.is_streaming)?;
    nodes.all[1].wait_local("the rule fulfilled", |local| {
        local.runs_rule.as_ref() == Some(&rule) && local.rule_flushed >= local.end
    })?;
    nodes.all[1].sql("insert into kept values (0)")?;
    nodes.all[0].wait_sql("select count(*) from kept", "5001")?;
    Ok(())
}

fn lost() -> anyhow::Result<()> {
    let mut nodes = Nodes::streaming(1)?;
    nodes.all[1].hands().kill()?;
    // One that was away for so long that its slot went, and came back.
    let primary = &nodes.all[0];
    primary.hands().keep_slots(&[])?;
    primary.sql("create table kept(x int)")?;
    for _ in 0..8 {
        primary.sql("insert into kept values (1); select pg_switch_wal()")?;
        primary.sql("checkpoint")?;
    }
    primary.hands().keep_slots(&[(NodeId(1), None)])?;
    let standby = &mut nodes.all[1];
    standby.hands().start_standby()?;
    let mut last = None;
    wait_for("the loss to be told", SOON, || {
        last = Some(standby.look());
        last.as_ref().is_some_and(|found| found.as_ref().is_ok_and(|found| found.lost_wal))
    })
    .with_context(|| format!("{last:?}"))?;
    ensure!(!standby.look()?.local.is_streaming);
    let upstream = nodes.all[0].peer();
    let standby = &mut nodes.all[1];
    // Nothing has parted, and yet it cannot be left as it is.
    let means = standby.hands().rebuild(&upstream, incarnation(1), &mut |_| {})?;
    ensure!(means == Means::Cloned);
    standby.hands().start_standby()?;
    standby.wait_local("a standby that streams", |local| local.is_streaming)?;
    ensure!(!standby.look()?.lost_wal);
    standby.wait_sql("select count(*) from kept", "8")
}

fn nudged() -> anyhow::Result<()> {
    let mut nodes = Nodes::streaming(1)?;
    let standby = &nodes.all[1];
    // Whoever waits for that pause waits for longer than this test does.
    let own = standby.place.data.join("pgx.conf");
    let known = std::fs::read_to_string(&own)?;
    let longer = known.replace("'200ms'", "'1h'");
    ensure!(longer != known, "{known}");
    std::fs::write(&own, longer)?;
    standby.sql("select pg_reload_conf()")?;
    nodes.all[0].hands().shut_down()?;
    let pauses = "select wait_event = 'RecoveryRetrieveRetryInterval' from pg_stat_activity \
                  where backend_type = 'startup'";
    nodes.all[1].wait_sql(pauses, "t")?;
    nodes.all[0].hands().start_founder()?;
    nodes.all[0].wait_ready()?;
    nodes.all[1].wait_local("a standby that streams", |local| local.is_streaming)?;
    ensure!(nodes.all[1].sql("show wal_retrieve_retry_interval")? == "1h");
    Ok(())
}

fn floors() -> anyhow::Result<()> {
    let mut nodes = Nodes::streaming(1)?;
    let primary = &nodes.all[0];
    let known = std::fs::read_to_string(&primary.place.config_file)?;
    std::fs::write(&primary.place.config_file, known.replace("= 40", "= 60"))?;
    primary.hands().shut_down()?;
    primary.hands().start_founder()?;
    primary.wait_ready()?;
    primary.sql("create table later as select 1")?;
    let end = nodes.all[0].look()?.local.end;
    // Replay stops at the change, until the standby starts with as many; before version 14 the
    // standby ends there.
    let standby = &mut nodes.all[1];
    let has_come = |local: &Local| local.end >= end || local.process == Process::Stopped;
    standby.wait_local("the log, or the end", has_come)?;
    standby.hands().kill()?;
    standby.hands().start_standby()?;
    standby.wait_local("a standby that streams", |local| local.is_streaming)?;
    standby.wait_sql("select count(*) from later", "1")?;
    Ok(())
}

fn sender_to(node: &Node, number: usize) -> anyhow::Result<i32> {
    let name = crate::postgres::settings::name(crate::nodes::incarnation(number));
    let sql = format!("select pid from pg_stat_replication where application_name = '{name}'");
    Ok(node.sql(&sql)?.parse()?)
}
