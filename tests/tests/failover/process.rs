//! Processes and directories that go.

use anyhow::{Context, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pgx_tests::cluster::{WAIT_MAX, ask, control};
use pgx_tests::lab::{wait_for, wait_for_some};
use pgx_tests::members::Members;

use crate::binary;

/// Ends something of the primary's node under load, and compares what clients know with what is
/// there once all take part again.
fn under_load(
    members: &mut Members,
    what: &str,
    act: impl FnOnce(&mut Members, usize) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let load = members.load()?;
    load.wait_for_commits(50, WAIT_MAX)?;
    let (primary, epoch) = members.primary()?;
    let from = load.clock();
    act(members, primary).with_context(|| what.to_owned())?;
    members.wait_for_calm(epoch + 1).with_context(|| what.to_owned())?;
    load.wait_for_commits(50, WAIT_MAX).with_context(|| what.to_owned())?;
    let to = load.clock();
    let record = members.end(load).with_context(|| what.to_owned())?;
    eprintln!("{what}: no write for {:?}", record.longest_gap(from, to).length());
    Ok(())
}

pub(crate) fn ends() -> anyhow::Result<()> {
    let mut members = Members::start(binary(), 3)?;
    under_load(&mut members, "the postmaster ends", |members, primary| {
        members.kill_postmaster(primary)
    })?;
    under_load(&mut members, "a backend ends", |members, primary| {
        // A crash under a living postmaster is a crash.
        let text = "select pid from pg_stat_activity where backend_type = 'client backend' and \
                    pid <> pg_backend_pid() and application_name not like 'pgx%' limit 1";
        let pid = members.sql_at(primary, text)?.parse()?;
        kill(Pid::from_raw(pid), Signal::SIGKILL).context("no such backend")
    })?;
    under_load(&mut members, "pgx ends, and PostgreSQL goes on", |members, primary| {
        let (_, epoch) = members.primary()?;
        let postmaster = members.postmaster(primary)?;
        members.node_mut(primary).end(Signal::SIGKILL)?;
        members.wait_for_another(primary, epoch)?;
        ensure!(members.postmaster(primary)? == postmaster, "PostgreSQL went with pgx");
        members.start_again(primary)
    })?;
    under_load(&mut members, "pgx is stopped, and PostgreSQL goes on", |members, primary| {
        let (_, epoch) = members.primary()?;
        members.node(primary).signal(Signal::SIGSTOP)?;
        // Its own clients wait with it, and are told when it goes on.
        let another = members.wait_for_another(primary, epoch);
        members.node(primary).signal(Signal::SIGCONT)?;
        another.map(drop)
    })?;
    under_load(&mut members, "two primaries end, one after the other", |members, primary| {
        let (_, epoch) = members.primary()?;
        members.kill_postmaster(primary)?;
        let second = members.wait_for_another(primary, epoch)?;
        members.kill_postmaster(second)
    })
}

pub(crate) fn astray() -> anyhow::Result<()> {
    let mut members = Members::start(binary(), 3)?;
    let load = members.load()?;
    load.wait_for_commits(50, WAIT_MAX)?;
    let (primary, epoch) = members.primary()?;
    let standby = (1..=3).find(|id| *id != primary).context("a standby")?;

    // What somebody promotes by hand is nobody's primary, and made a standby again.
    let before = members.directory(standby)?;
    members.promote_by_hand(standby)?;
    wait_for("it is another directory", WAIT_MAX, || {
        members.directory(standby).is_ok_and(|found| found != before)
    })
    .with_context(|| members.log(standby))?;
    members.wait_for_calm(epoch)?;
    ensure!(members.primary()? == (primary, epoch), "{}", members.log(standby));

    // One that is wiped is cloned, and the primary may die right after it has come back.
    members.node_mut(standby).end(Signal::SIGTERM)?;
    members.kill_postmaster(standby)?;
    wait_for("its processes end", WAIT_MAX, || members.processes(standby).is_empty())?;
    std::fs::remove_dir_all(members.data(standby))?;
    members.start_again(standby)?;
    wait_for("it streams again", WAIT_MAX, || {
        members
            .sql_at(standby, "select status from pg_stat_wal_receiver")
            .is_ok_and(|said| said == "streaming")
    })
    .with_context(|| members.log(standby))?;
    members.kill_postmaster(primary)?;
    members.wait_for_calm(epoch + 1)?;
    load.wait_for_commits(50, WAIT_MAX)?;
    members.end(load).map(drop)
}

/// The rule cannot do without both standbys, and so would depend for ever on what is gone.
pub(crate) fn wiped() -> anyhow::Result<()> {
    let mut members = Members::start(binary(), 3)?;
    members.sql(1, "create table kept (number int); insert into kept values (1)")?;
    let (primary, epoch) = members.primary()?;
    let standbys: Vec<_> = (1..=3).filter(|id| *id != primary).collect();
    // One pgx at a time, or the primary would lose its lease.
    for id in standbys.iter().copied() {
        end_host(&mut members, id)?;
        std::fs::remove_dir_all(members.data(id))?;
    }
    // Without them nobody could agree on another rule.
    for id in standbys.iter().copied() {
        members.start_again(id)?;
    }
    // Who coordinates may have seen that one of them is missing, and have taken it out of the rule.
    let gives_up =
        |id: &usize| members.node(*id).log().contains("still not there, and is given up");
    wait_for("one is given up", WAIT_MAX, || standbys.iter().any(gives_up))
        .with_context(|| members.log(standbys[0]))?;
    for id in standbys {
        let is_there = || members.sql_at(id, "select number from kept").is_ok_and(|it| it == "1");
        wait_for("it is cloned", WAIT_MAX, is_there).with_context(|| members.log(id))?;
    }
    members.wait_for_calm(epoch)?;
    ensure!(members.primary()?.0 == primary, "{}", members.log(primary));
    Ok(())
}

/// What is done by hand to the places of directories, and what that must not cost.
pub(crate) fn misplaced() -> anyhow::Result<()> {
    let mut members = Members::start(binary(), 3)?;
    members.sql(1, "create table kept (number int); insert into kept values (1)")?;
    let (primary, epoch) = members.primary()?;
    let standby = (1..=3).find(|id| *id != primary).context("a standby")?;
    for id in [primary, standby] {
        end_host(&mut members, id)?;
    }
    // The host comes up, and the disk that alone has all commits for certain is mounted later.
    let (data, folder) = (members.data(primary), members.path(&format!("pg{primary}.pgx")));
    let (data_aside, folder_aside) = (members.path("data"), members.path("folder"));
    std::fs::rename(&data, &data_aside)?;
    std::fs::rename(&folder, &folder_aside)?;
    members.start_again(primary)?;
    wait_for("the disk is missed", WAIT_MAX, || {
        members.node(primary).log().contains("mount its disk")
    })
    .with_context(|| members.log(primary))?;
    std::fs::rename(&folder_aside, &folder)?;
    std::fs::rename(&data_aside, &data)?;
    members.wait_for_another(standby, epoch)?;
    ensure!(members.sql(primary, "select number from kept")? == "1");
    members.start_again(standby)?;
    members.wait_for_calm(epoch + 1)?;

    // Another directory in the place of a primary's that runs is not that primary.
    let (primary, epoch) = members.primary()?;
    let postmaster = Pid::from_raw(members.postmaster(primary)?);
    std::fs::rename(members.data(primary), members.path("moved"))?;
    members.found_another(primary)?;
    wait_for("it is left out", WAIT_MAX, || {
        members.node(primary).log().contains("another database system")
    })
    .with_context(|| members.log(primary))?;
    kill(postmaster, Signal::SIGKILL)?;
    members.wait_for_another(primary, epoch).map(drop)
}

pub(crate) fn restarts() -> anyhow::Result<()> {
    let mut members = Members::start(binary(), 3)?;
    let (primary, epoch) = members.primary()?;
    for id in 1..=3 {
        let postmaster = members.postmaster(id)?;
        members.node_mut(id).end(Signal::SIGTERM)?;
        ensure!(members.postmaster(id)? == postmaster, "PostgreSQL went with pgx");
        members.start_again(id)?;
        // A primary whose pgx was away for longer than its lease would be another by now.
        if id != primary {
            ensure!(members.postmaster(id)? == postmaster, "{}", members.log(id));
        }
        members.wait_for_calm(epoch)?;
    }
    ensure!(members.sql(1, "select 'served'")? == "served");
    Ok(())
}

pub(crate) fn taken_over() -> anyhow::Result<()> {
    let mut members = Members::take_over(binary(), 3)?;
    under_load(&mut members, "the postmaster ends that was taken over", |members, primary| {
        members.kill_postmaster(primary)
    })
}

pub(crate) fn lost() -> anyhow::Result<()> {
    let members = Members::start(binary(), 3)?;
    let (primary, epoch) = members.primary()?;
    members.sql(1, "create table kept (number int); insert into kept values (1)")?;
    let left = (1..=3).rfind(|id| *id != primary).context("a standby")?;
    for id in (1..=3).filter(|id| *id != left) {
        members.kill_postmaster(id)?;
        std::fs::remove_dir_all(members.data(id))?;
    }
    // What the last one has may lack a commit that the other standby had.
    wait_for("status says what is missing", WAIT_MAX, || {
        (1..=3).any(|id| waits_for_reports(&members, id))
    })
    .with_context(|| members.log(left))?;
    let seen = control(members.node(left)).context("its status")?;
    ensure!(seen["epoch"]["epoch"] == epoch && !seen["epoch"]["sealed"].is_null(), "{seen}");
    ensure!(members.sql_at(left, "select pg_is_in_recovery()")? == "t", "nobody promotes it");

    // Only an operator can go on, and then all take part again.
    ask(members.node(1), &["failover", "--accept-loss", "--yes"])?;
    members.wait_for_calm(epoch + 1)?;
    ensure!(members.primary()?.0 == left, "{}", members.log(left));
    ensure!(members.sql(1, "select number from kept")? == "1");
    Ok(())
}

/// The only directory with a commit is away while an operator goes on without it, and comes back.
pub(crate) fn given_up() -> anyhow::Result<()> {
    let mut members = Members::start(binary(), 3)?;
    let (primary, epoch) = members.primary()?;
    let others: Vec<_> = (1..=3).filter(|id| *id != primary).collect();
    let [behind, gone] = others[..] else { anyhow::bail!("{others:?}") };
    members.sql(primary, "create table kept (number int); insert into kept values (1)")?;
    end_host(&mut members, behind)?;
    members.sql(primary, "insert into kept values (2)")?;
    end_host(&mut members, gone)?;
    end_host(&mut members, primary)?;
    std::fs::remove_dir_all(members.data(gone))?;
    for id in [behind, gone] {
        members.start_again(id)?;
    }
    wait_for("status says what is missing", WAIT_MAX, || {
        [behind, gone].iter().any(|id| waits_for_reports(&members, *id))
    })
    .with_context(|| members.log(gone))?;
    ask(members.node(behind), &["failover", "--accept-loss", "--yes"])?;
    let served = members.wait_for_another(primary, epoch)?;
    ensure!(served == behind, "{served}");
    ensure!(members.sql(behind, "select string_agg(number::text, ',') from kept")? == "1");

    members.start_again(primary)?;
    members.wait_for_calm(epoch + 1)?;
    let folder = members.path(&format!("pg{primary}.pgx"));
    let kept = || {
        let entries = std::fs::read_dir(&folder).into_iter().flatten().flatten();
        let named = |name: &str| name.starts_with("lost-");
        entries
            .map(|entry| entry.path())
            .find(|path| path.file_name().and_then(|name| name.to_str()).is_some_and(named))
    };
    let kept = wait_for_some("it is kept", WAIT_MAX, kept).with_context(|| members.log(primary))?;
    let said = members.read_alone(&kept, "select max(number) from kept")?;
    ensure!(said.contains("\"2\""), "{said}");
    Ok(())
}

/// Whether a node coordinates, and says that it elects nobody.
fn waits_for_reports(members: &Members, id: usize) -> bool {
    control(members.node(id)).is_some_and(|seen| {
        seen["waits"].as_str().is_some_and(|said| said.contains("may lack an acknowledged commit"))
    })
}

/// Ends pgx and PostgreSQL of a node.
fn end_host(members: &mut Members, id: usize) -> anyhow::Result<()> {
    members.node_mut(id).end(Signal::SIGTERM)?;
    members.kill_postmaster(id)?;
    wait_for("its processes end", WAIT_MAX, || members.processes(id).is_empty())
}
