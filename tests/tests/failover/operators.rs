//! What operators do to a cluster under load.

use anyhow::{Context, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pgx_tests::cluster::{WAIT_MAX, ask, control};
use pgx_tests::lab::wait_for;
use pgx_tests::members::Members;

use crate::binary;

pub(crate) fn switched() -> anyhow::Result<()> {
    let members = Members::start(binary(), 3)?;
    let load = members.load()?;
    load.wait_for_commits(50, WAIT_MAX)?;
    for _ in 0..2 {
        let (primary, epoch) = members.primary()?;
        let to = if primary == 3 { 2 } else { 3 };
        ask(members.node(1), &["switchover", "--to", &to.to_string()])?;
        members.wait_for_calm(epoch + 1)?;
        let (next, newest) = members.primary()?;
        ensure!((next, newest) == (to, epoch + 1), "{}", members.log(primary));
        load.wait_for_commits(50, WAIT_MAX)?;
    }
    let record = members.end(load)?;
    ensure!(record.error_counts.is_empty(), "{:?}\n{}", record.errors, members.log(1));
    Ok(())
}

pub(crate) fn stuck() -> anyhow::Result<()> {
    let members = Members::start(binary(), 3)?;
    let (primary, epoch) = members.primary()?;
    let others = members.sql_at(primary, "select 1")?;
    ensure!(others == "1");
    let mut open = members.session(primary, "begin; select 1; select pg_sleep(600)")?;
    wait_for("the transaction is open", WAIT_MAX, || {
        let text = "select count(*) from pg_stat_activity where query like '%sleep(600)' and \
                    state = 'active'";
        members.sql_at(primary, text).is_ok_and(|said| said == "1")
    })?;
    let to = if primary == 3 { "2" } else { "3" };
    ask(members.node(1), &["edit-config", "--set", "policy.drain_ms_max=1000"])?;
    ask(members.node(1), &["switchover", "--to", to])?;
    // It begins, and is given up: nobody waits longer for somebody else's transaction.
    wait_for("it is given up", WAIT_MAX, || {
        members.node(1).log().contains("SwitchoverCancelled")
            && control(members.node(1)).is_some_and(|seen| seen["epoch"]["handover"].is_null())
    })?;
    ensure!(members.primary()? == (primary, epoch), "{}", members.log(primary));
    ensure!(members.sql(1, "select 'served'")? == "served");
    ensure!(open.try_wait()?.is_none(), "whoever was there goes on");
    open.kill()?;
    open.wait()?;
    Ok(())
}

pub(crate) fn cancelled() -> anyhow::Result<()> {
    let members = Members::start(binary(), 3)?;
    let (primary, _) = members.primary()?;
    members.sql(1, "create table kept (number int)")?;
    let mut receivers = Vec::new();
    for standby in (1..=3).filter(|id| *id != primary) {
        let pid = members.sql_at(standby, "select pid from pg_stat_wal_receiver")?.parse()?;
        kill(Pid::from_raw(pid), Signal::SIGSTOP)?;
        receivers.push(Pid::from_raw(pid));
    }
    let commit = members.session_by_proxy(1, "insert into kept values (1)")?;
    let waits = "pg_stat_activity where wait_event = 'SyncRep'";
    wait_for("the commit waits for standbys", WAIT_MAX, || {
        let said = members.sql_at(primary, &format!("select count(*) from {waits}"));
        said.is_ok_and(|said| said == "1")
    })?;
    members.sql_at(primary, &format!("select pg_cancel_backend(pid) from {waits}"))?;
    let output = commit.wait_with_output()?;
    for receiver in receivers {
        kill(receiver, Signal::SIGCONT)?;
    }
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(!output.status.success() && said.contains("not known"), "{said}");
    Ok(())
}

pub(crate) fn hooks() -> anyhow::Result<()> {
    // Each one tells what it knows, and hangs.
    let told = "echo $PGX_EVENT $PGX_NODE $PGX_EPOCH $PGX_PRIMARY $PGX_RESULT. >>{}/told";
    let hook = format!("[\"/bin/sh\", \"-c\", \"{told}; exec sleep 60\"]");
    let keys = ["promote", "demote", "follow", "rebuild_begin", "rebuild_end"];
    let lines = keys.map(|key| format!("on_{key} = {hook}\n"));
    let more = format!("[postgres.hooks]\nhook_ms_max = 3000\n{}", lines.concat());
    let members = Members::start_with(binary(), 3, &more)?;
    let (primary, epoch) = members.primary()?;
    let told = || std::fs::read_to_string(members.path("told")).unwrap_or_default();
    let wait = |line: String| {
        wait_for(&line, WAIT_MAX, || told().lines().any(|known| known == line))
            .with_context(|| format!("{}{}", told(), members.log(primary)))
    };
    wait(format!("promote {primary} {epoch} {primary} ."))?;
    for id in (1..=3).filter(|id| *id != primary) {
        wait(format!("rebuild_begin {id} {epoch} {primary} ."))?;
        wait(format!("follow {id} {epoch} {primary} ."))?;
    }
    let killed = |id| members.log(id).matches("on_promote has failed").count();
    wait_for("the hook is killed", WAIT_MAX, || killed(primary) > 0)?;

    // The next primary serves while its hook hangs.
    members.kill_postmaster(primary)?;
    let next = members.wait_for_another(primary, epoch)?;
    ensure!(killed(next) == 0, "it was waited for: {}", members.log(next));
    wait(format!("promote {next} {} {next} .", epoch + 1))?;
    wait(format!("follow {primary} {} {next} .", epoch + 1))?;
    let demoted = format!("demote {primary} ");
    ensure!(told().lines().any(|line| line.starts_with(&demoted)), "{}", told());
    members.wait_for_calm(epoch + 1)
}
