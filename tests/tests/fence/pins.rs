//! What is pinned outlives its loader; what is lost is put back before anything answers.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::Stdio;

use anyhow::{Context as _, ensure};
use pgx_tests::lab::{Fault, KillTarget, Lab, wait_for};
use pgx_tests::tap::boot_ns;

use crate::inside::{self, lease};
use crate::operate::{configure, status};
use crate::{LIMIT, ensure_answers, fresh, pgx};

const MINUTE_NS: u64 = 60_000_000_000;

pub(crate) fn loader_killed(lab: &Lab) -> anyhow::Result<()> {
    fresh(lab)?;
    configure(lab, "native")?;
    lab.start_pgx("n1")?;
    ensure_answers(lab, false, "behind a fence that nobody has opened")?;
    let kill = lab.fault(&Fault::Kill { host: "n1".to_owned(), target: KillTarget::Pgx })?;
    ensure_answers(lab, false, "the loader was killed")?;

    lease(lab, 5, boot_ns()? + MINUTE_NS)?;
    ensure_answers(lab, true, "under a lease")?;
    inside::run(lab, "n1", &["close", "5"])?;
    ensure_answers(lab, false, "closed")?;
    for old in [4, 5] {
        let refused = lease(lab, old, boot_ns()? + MINUTE_NS);
        let said = format!("{:#}", refused.err().context("a closed epoch was opened")?);
        ensure!(said.contains("was closed here"), "{said}");
        ensure_answers(lab, false, "closed for good")?;
    }
    lease(lab, 6, boot_ns()? + MINUTE_NS)?;
    ensure_answers(lab, true, "under a newer epoch")?;

    // The next start replaces every program and ends no session.
    let mut session = Session::open(lab)?;
    session.ask()?;
    lab.heal(kill)?;
    session.ask().context("a restart of pgx ended a session under a lease")?;
    let fence = status(lab)?;
    ensure!(fence["primary"]["epoch"] == 6 && fence["gate"] == "open", "{fence}");
    ensure_answers(lab, true, "after a restart of pgx")
}

pub(crate) fn late_fence(lab: &Lab) -> anyhow::Result<()> {
    fresh(lab)?;
    let mut session = Session::open(lab)?;
    session.ask()?;
    let shut = pgx(lab, &["fence", "shut"])?;
    ensure!(shut.status.success(), "{shut:?}");
    let said = String::from_utf8_lossy(&shut.stdout);
    ensure!(said.contains("port 5432 is shut") && !said.contains(" 0 connections"), "{said}");
    ensure!(said.contains("cgroup: in cgroup, out cgroup, tried out"), "{said}");
    ensure_answers(lab, false, "shut after PostgreSQL")?;
    ensure!(session.ask().is_err(), "a session from before the fence goes on");
    Ok(())
}

pub(crate) fn boot_order(lab: &Lab) -> anyhow::Result<()> {
    fresh(lab)?;
    lab.stop_postgres("n1")?;
    let shut = pgx(lab, &["fence", "shut"])?;
    ensure!(shut.status.success(), "{shut:?}");
    lab.start_postgres("n1")?;
    ensure_answers(lab, false, "started behind a shut fence")?;
    lease(lab, 1, boot_ns()? + MINUTE_NS)?;
    ensure_answers(lab, true, "opened by a lease")
}

pub(crate) fn idempotent(lab: &Lab) -> anyhow::Result<()> {
    fresh(lab)?;
    let shut = || pgx(lab, &["fence", "shut"]);
    ensure!(shut()?.status.success());
    lease(lab, 3, boot_ns()? + MINUTE_NS)?;
    let mut session = Session::open(lab)?;
    session.ask()?;
    for _ in 0..2 {
        let again = shut()?;
        let said = String::from_utf8_lossy(&again.stdout);
        ensure!(again.status.success() && said.contains("open under a lease"), "{again:?}");
        session.ask().context("shutting again ended a session")?;
    }
    ensure_answers(lab, true, "under the same lease")
}

/// A psql that stays connected, from the client host.
struct Session {
    psql: std::process::Child,
    answers: BufReader<std::process::ChildStdout>,
}

impl Session {
    fn open(lab: &Lab) -> anyhow::Result<Self> {
        let words = ["psql", "-XAtq", "-h", "10.77.0.11", "-p", "5432", "-U", "app", "-d", "app"];
        let mut command = lab.host("client")?.command(&words)?;
        command.env("PGPASSWORD", lab.password()?).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut psql = command.stderr(Stdio::null()).spawn()?;
        let answers = BufReader::new(psql.stdout.take().context("no output")?);
        Ok(Self { psql, answers })
    }

    fn ask(&mut self) -> anyhow::Result<()> {
        let input = self.psql.stdin.as_mut().context("no input")?;
        // An end without notice closes the pipe, at once or after the next answer.
        writeln!(input, "select 41 + 1;")?;
        input.flush()?;
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        ensure!(line.trim_end() == "42", "the session has ended: {line:?}");
        Ok(())
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        drop(self.psql.stdin.take());
        let _ = wait_for("psql to end", LIMIT, || matches!(self.psql.try_wait(), Ok(Some(_))));
    }
}
