//! Real clusters on loopback: their PostgreSQL lives and dies, and pgx goes on.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::OnceLock;

use anyhow::ensure;
use libtest_mimic::Arguments;
use pgx_tests::lab::build;
use pgx_tests::members::Members;
use pgx_tests::skip::{Requirement, trial};

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // Elections are timed, and two cores have room for one cluster.
    arguments.test_threads = Some(1);
    let root = &[Requirement::Root];
    let trials = vec![trial("dead_primary_is_replaced_and_rejoins", root, replaced)];
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// The binary under test, built once.
fn binary() -> &'static PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| build::pgx(false).expect("pgx must build"))
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
