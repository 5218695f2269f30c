//! What a pool does not allow, and what it mends.

use std::time::Duration;

use anyhow::ensure;
use pgx_tests::lab::wait_for;

use crate::session::{Session, query, states, status};
use crate::{Place, Test, pool};

pub(crate) const TESTS: &[(&str, Test)] =
    &[("block_is_refused_and_rolled_back_in_statement_mode", statement_mode)];

fn statement_mode(place: &Place) -> anyhow::Result<()> {
    let node = pool(place, "statement", 1)?;
    let mut direct = place.direct()?;
    direct.query("drop table if exists ruled; create table ruled (n int)")?;
    let mut first = Session::through(node.address()?, &[])?;
    let mut second = Session::through(node.address()?, &[])?;
    let process = first.value("select pg_backend_pid()")?;
    ensure!(second.value("select pg_backend_pid()")? == process, "they share one server");

    let told = first.query("begin; insert into ruled values (1); commit")?;
    ensure!(states(&told).is_empty() && status(&told) == Some('I'), "{told:?}");
    first.send(&query("begin; insert into ruled values (2)"))?;
    let told = first.answers(1)?;
    ensure!(states(&told) == ["0A000"] && first.next()?.is_none(), "{told:?}");

    ensure!(second.value("select pg_backend_pid()")? == process, "the server goes on");
    ensure!(second.value("select sum(n) from ruled")? == "1", "the block is rolled back");
    wait_for("nobody holds a lock", Duration::from_secs(20), || {
        direct
            .value("select count(*) from pg_locks where relation = 'ruled'::regclass")
            .is_ok_and(|locks| locks == "0")
    })
}
