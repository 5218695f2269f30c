//! Real clusters on loopback: their PostgreSQL lives and dies, and pgx goes on.

use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::sync::OnceLock;

use anyhow::ensure;
use libtest_mimic::Arguments;
use pgx_tests::cluster::{WAIT_MAX, ask};
use pgx_tests::lab::{build, wait_for};
use pgx_tests::members::Members;
use pgx_tests::skip::{Requirement, trial};

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // Elections are timed, and two cores have room for one cluster.
    arguments.test_threads = Some(1);
    let root = &[Requirement::Root];
    let trials = vec![
        trial("dead_primary_is_replaced_and_rejoins", root, replaced),
        trial("no_client_sees_an_error_when_operators_change_the_primary", root, switched),
    ];
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// The binary under test, built once.
fn binary() -> &'static PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| build::pgx(false).expect("pgx must build"))
}

fn switched() -> anyhow::Result<()> {
    let members = Members::start(binary(), 3)?;
    members.sql(1, "create table kept (client int, number bigserial)")?;
    let script = members.path("insert.sql");
    std::fs::write(&script, "insert into kept (client) values (:client_id);\n")?;
    let address = members.node(1).address()?;
    let load = Command::new("pgbench")
        .args(["--no-vacuum", "--client=8", "--rate=100", "--time=8", "--progress=1", "--file"])
        .arg(&script)
        .arg(format!("host={} port={} user=postgres dbname=postgres", address.ip(), address.port()))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    wait_for("the load runs", WAIT_MAX, || {
        members.sql(2, "select count(*) > 20 from kept").is_ok_and(|said| said == "t")
    })?;
    let (primary, epoch) = members.primary()?;
    let to = if primary == 3 { 2 } else { 3 };
    ask(members.node(1), &["switchover", "--to", &to.to_string()])?;
    members.wait_for_calm(epoch + 1)?;
    ensure!(members.primary()?.0 == to, "{}", members.log(primary));
    let output = load.wait_with_output()?;
    let (out, err) = (String::from_utf8(output.stdout)?, String::from_utf8(output.stderr)?);
    ensure!(output.status.success() && !err.contains("error"), "{out}\n{err}");
    Ok(())
}

fn replaced() -> anyhow::Result<()> {
    let members = Members::start(binary(), 3)?;
    let (primary, epoch) = members.primary()?;
    members.sql(2, "create table kept (number int); insert into kept values (1)")?;
    members.kill_postmaster(primary)?;
    members.wait_for_calm(epoch + 1)?;
    let (next, _) = members.primary()?;
    ensure!(next != primary, "{}", members.log(primary));
    members.sql(1, "insert into kept values (2)")?;
    for id in 1..=3 {
        ensure!(members.sql(id, "select sum(number) from kept")? == "3");
    }
    Ok(())
}
