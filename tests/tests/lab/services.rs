//! Faults of processes and disks: PostgreSQL suffers as it would, and recovers.

use std::time::Duration;

use libtest_mimic::Trial;
use pgx_tests::lab::postgres::Postgres;
use pgx_tests::lab::{Fault, FaultId, KillTarget, Lab, PauseTarget, wait_for};

use crate::shared::{Faulty, SETTLE, lab, reaches, sql, timed, wait_reached};
use crate::trial;

const N2: &str = "10.77.0.12";

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("killed_standby_comes_back_and_catches_up", killed_standby_catches_up),
        trial("killed_primary_comes_back_with_its_standbys", killed_primary_comes_back),
        trial("killed_backend_loses_its_session", killed_backend_loses_its_session),
        trial("paused_postmaster_takes_nobody_in", paused_postmaster_takes_nobody_in),
        trial("paused_host_keeps_its_link", paused_host_keeps_its_link),
        trial("stopped_host_is_gone_until_healed", stopped_host_is_gone_until_healed),
        trial("full_disk_refuses_writes_and_postgres_lives", full_disk_refuses_writes),
        trial("commit_takes_as_long_as_its_slow_fsync", commit_takes_as_long_as_its_fsync),
        trial("impossible_faults_are_refused", impossible_faults_are_refused),
    ]
}

fn killed_standby_catches_up() -> anyhow::Result<()> {
    let lab = lab()?;
    let (n1, n2) = (lab.host("n1")?, lab.host("n2")?);
    let kill = Faulty::new(lab, &kill("n2", KillTarget::Postmaster))?;
    wait_for("n2's PostgreSQL to be down", SETTLE, || is(lab, "n2", Postgres::Down))?;
    sql(n1, "drop table if exists news; create table news as select 4711 as number")?;
    kill.heal()?;
    assert!(is(lab, "n2", Postgres::Standby));
    wait_for("the news to reach n2", SETTLE, || {
        sql(n2, "select number from news").is_ok_and(|number| number == "4711")
    })
}

fn killed_primary_comes_back() -> anyhow::Result<()> {
    let lab = lab()?;
    let n1 = lab.host("n1")?;
    let kill = Faulty::new(lab, &kill("n1", KillTarget::Postmaster))?;
    wait_for("n1's PostgreSQL to be down", SETTLE, || is(lab, "n1", Postgres::Down))?;
    kill.heal()?;
    assert!(is(lab, "n1", Postgres::Primary));
    wait_for("both standbys to stream again", SETTLE, || {
        sql(n1, "select count(*) from pg_stat_replication").is_ok_and(|count| count == "2")
    })
}

fn killed_backend_loses_its_session() -> anyhow::Result<()> {
    let lab = lab()?;
    let n1 = lab.host("n1")?;
    let sleeper = lab.host("client")?.command(&["psql", "-Xqc", "select pg_sleep(60)"])?;
    let mut sleeper = quiet(sleeper).spawn()?;
    let count = "select count(*) from pg_stat_activity where query like '%sleep(60)' and pid <> \
                 pg_backend_pid()";
    wait_for("a session to sleep", SETTLE, || sql(n1, count).is_ok_and(|count| count == "1"))?;
    let kill = Faulty::new(lab, &kill("n1", KillTarget::Backend))?;
    assert!(!sleeper.wait()?.success(), "the session ended well");
    kill.heal()?;
    wait_for("n1 to have recovered", SETTLE, || is(lab, "n1", Postgres::Primary))
}

fn paused_postmaster_takes_nobody_in() -> anyhow::Result<()> {
    let lab = lab()?;
    let n1 = lab.host("n1")?;
    let fault = Fault::Pause { host: "n1".to_owned(), target: PauseTarget::Postmaster };
    let pause = Faulty::new(lab, &fault)?;
    assert!(is(lab, "n1", Postgres::Paused));
    let ready = ["pg_isready", "-q", "-t", "1", "-h", "/run/postgresql"];
    assert!(!n1.exec(&ready)?.status.success(), "a paused postmaster answered");
    pause.heal()?;
    wait_for("n1 to answer", SETTLE, || is(lab, "n1", Postgres::Primary))
}

fn paused_host_keeps_its_link() -> anyhow::Result<()> {
    let lab = lab()?;
    let fault = Fault::Pause { host: "n2".to_owned(), target: PauseTarget::All };
    let pause = Faulty::new(lab, &fault)?;
    assert!(is(lab, "n2", Postgres::Paused));
    // The kernel answers for a host whose processes do not run.
    assert!(reaches(lab.host("n1")?, N2)?);
    pause.heal()?;
    wait_for("n2 to answer", SETTLE, || is(lab, "n2", Postgres::Standby))
}

fn stopped_host_is_gone_until_healed() -> anyhow::Result<()> {
    let lab = lab()?;
    let n1 = lab.host("n1")?;
    let stop = Faulty::new(lab, &Fault::Stop { host: "n2".to_owned() })?;
    assert!(!reaches(n1, N2)?, "the kernel of a stopped host answered");
    let refused = lab.host("n2")?.exec(&["true"]).unwrap_err().to_string();
    assert!(refused.contains("n2 is frozen by a fault"), "{refused}");
    assert!(is(lab, "n2", Postgres::Paused));
    stop.heal()?;
    wait_reached(n1, N2)?;
    wait_for("n2 to answer", SETTLE, || is(lab, "n2", Postgres::Standby))
}

fn full_disk_refuses_writes() -> anyhow::Result<()> {
    let lab = lab()?;
    let n1 = lab.host("n1")?;
    sql(n1, "drop table if exists heap; create table heap (words text); checkpoint")?;
    let write = "insert into heap select repeat('x', 1000) from generate_series(1, 2000)";
    let full = Faulty::new(lab, &Fault::FillDisk { host: "n1".to_owned() })?;
    let error = sql(n1, write).unwrap_err().to_string();
    assert!(error.contains("No space left on device"), "{error}");
    assert_eq!(sql(n1, "select 1")?, "1", "PostgreSQL did not survive");
    full.heal()?;
    sql(n1, write)?;
    assert_eq!(sql(n1, "select count(*) from heap")?, "2000");
    Ok(())
}

fn commit_takes_as_long_as_its_fsync() -> anyhow::Result<()> {
    let lab = lab()?;
    let n1 = lab.host("n1")?;
    sql(n1, "drop table if exists slow; create table slow (number int)")?;
    let commit = || timed(|| sql(n1, "insert into slow values (1)"));
    // The quickest of some: now and then the disk itself is slow.
    let quickest = || -> anyhow::Result<Duration> {
        let all: Vec<Duration> = (0..5).map(|_| commit()).collect::<anyhow::Result<_>>()?;
        Ok(all.into_iter().min().unwrap_or_default())
    };
    let usual = quickest()?;
    let fault = Fault::SlowFsync { host: "n1".to_owned(), ms: 500 };
    let slow = Faulty::new(lab, &fault)?;
    let slowed = commit()?;
    assert!(slowed >= Duration::from_millis(500), "a commit took {slowed:?}");
    slow.heal()?;
    let healed = quickest()?;
    let limit = Duration::from_millis(400);
    assert!(usual < limit && healed < limit, "{usual:?} before, {healed:?} after");
    Ok(())
}

fn impossible_faults_are_refused() -> anyhow::Result<()> {
    let lab = lab()?;
    let stop = |host: &str| Fault::Stop { host: host.to_owned() };
    for (fault, why) in [
        (stop("n9"), "has no host \"n9\""),
        (stop("switch"), "the lab's network"),
        (Fault::FillDisk { host: "client".to_owned() }, "has no disk"),
        (Fault::Loss { host: "n1".to_owned(), percent: 101 }, "give 1 to 100"),
        (kill("n1", KillTarget::Pgx), "runs no Pgx"),
    ] {
        let error = format!("{:#}", lab.fault(&fault).unwrap_err());
        assert!(error.contains(why), "{error}");
    }
    let error = lab.heal(FaultId(9999)).unwrap_err().to_string();
    assert!(error.contains("has no fault 9999"), "{error}");
    assert_eq!(lab.faults()?, [], "a refused fault is on record");
    Ok(())
}

fn kill(host: &str, target: KillTarget) -> Fault {
    Fault::Kill { host: host.to_owned(), target }
}

/// Whether the lab's status shows a host's PostgreSQL in this state.
fn is(lab: &Lab, host: &str, state: Postgres) -> bool {
    let status = lab.status().expect("the lab has a status");
    let host = status.hosts.into_iter().find(|h| h.name == host).expect("the host has a status");
    host.postgres.is_some_and(|postgres| postgres.state == state)
}

fn quiet(mut command: std::process::Command) -> std::process::Command {
    use std::process::Stdio;
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}
