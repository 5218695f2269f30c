//! What a pool does not allow, and what it mends.

use std::time::Duration;

use anyhow::ensure;
use pgx_tests::lab::wait_for;
use pgx_wire::frontend::{STATEMENT, write};

use crate::session::{Session, query, states, status};
use crate::{Place, Test, pool, pool_with};

pub(crate) const TESTS: &[(&str, Test)] = &[
    ("block_is_refused_and_rolled_back_in_statement_mode", statement_mode),
    ("transaction_that_takes_too_long_and_server_that_is_used_once_end", times),
    ("state_that_cannot_follow_its_client_is_refused", no_state),
    ("name_of_the_protocol_is_taken_back_in_sql", deallocate),
    ("statement_whose_tables_have_changed_is_prepared_anew_where_nobody_can_tell", stale),
];

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

fn no_state(place: &Place) -> anyhow::Result<()> {
    let more = "threads = 1\ndefault_pool_size = 1\nsession_state = \"refuse\"\n";
    let node = pool_with(place, "transaction", more)?;
    let mut first = Session::through(node.address()?, &[])?;
    let mut second = Session::through(node.address()?, &[])?;
    let texts = [
        "listen c",
        "create temp table t()",
        "select pg_advisory_lock(1)",
        "prepare p as select 1",
        "set work_mem = '9MB'",
        "load 'auto_explain'",
    ];
    for text in texts {
        let told = first.query(text)?;
        ensure!(states(&told) == ["0A000"] && status(&told) == Some('I'), "{text}: {told:?}");
        let mut batch = Vec::new();
        write::parse(&mut batch, b"", text.as_bytes(), &[]);
        write::sync(&mut batch);
        first.send(&batch)?;
        let told = first.answers(1)?;
        ensure!(states(&told) == ["0A000"] && status(&told) == Some('I'), "{text}: {told:?}");
        ensure!(second.value("show work_mem")? == "4MB", "{text}: the server is free");
    }
    first.query("begin")?;
    let told = first.query("listen c")?;
    ensure!(states(&told) == ["0A000"] && status(&told) == Some('E'), "{told:?}");
    ensure!(states(&first.query("select 1")?) == ["25P02"]);
    let told = first.query("rollback")?;
    ensure!(status(&told) == Some('I'), "{told:?}");
    first.query("set datestyle = 'German'")?;
    ensure!(second.value("show datestyle")? == "ISO, MDY");
    ensure!(first.value("show datestyle")? == "German, DMY", "it follows its client");
    Ok(())
}

/// As drivers do that bound what they keep prepared.
fn deallocate(place: &Place) -> anyhow::Result<()> {
    let node = pool(place, "transaction", 1)?;
    let mut first = Session::through(node.address()?, &[])?;
    let mut second = Session::through(node.address()?, &[])?;
    for session in [&mut first, &mut second] {
        let told = session.extended("_pg3_0", Some("select 7"), false)?;
        ensure!(states(&told).is_empty(), "{told:?}");
    }
    let told = first.query("DEALLOCATE \"_pg3_0\"")?;
    ensure!(told.len() == 2 && told[0].body == b"DEALLOCATE\0", "{told:?}");
    ensure!(states(&first.extended("_pg3_0", None, false)?) == ["26000"], "the name is gone");
    ensure!(states(&first.query("DEALLOCATE _pg3_0")?) == ["26000"]);
    ensure!(states(&second.extended("_pg3_0", None, false)?).is_empty(), "the other's is not");
    ensure!(states(&first.extended("_pg3_0", Some("select 8"), false)?).is_empty());

    first.query("begin")?;
    ensure!(states(&first.query("select 1/0")?) == ["22012"]);
    ensure!(states(&first.query("deallocate _pg3_0")?) == ["25P02"]);
    first.query("rollback")?;
    ensure!(states(&first.extended("_pg3_0", None, false)?).is_empty(), "it was not taken back");
    first.query("deallocate all")?;
    ensure!(states(&first.extended("_pg3_0", None, false)?) == ["26000"]);
    ensure!(states(&second.extended("_pg3_0", None, false)?).is_empty());
    Ok(())
}

fn stale(place: &Place) -> anyhow::Result<()> {
    let node = pool(place, "transaction", 1)?;
    let mut direct = place.direct()?;
    direct.query("drop table if exists changed; create table changed (a int)")?;
    direct.query("insert into changed values (1)")?;
    let mut first = Session::through(node.address()?, &[])?;
    let mut second = Session::through(node.address()?, &[])?;
    let text = Some("select * from changed");
    for session in [&mut first, &mut second] {
        ensure!(states(&session.extended("s", text, true)?).is_empty());
    }
    for (columns, session) in [(2, &mut first), (3, &mut second)] {
        direct.query(&format!("alter table changed add column c{columns} int default 7"))?;
        let told = session.extended("s", None, true)?;
        let tags: String = told.iter().map(|message| char::from(message.tag)).collect();
        ensure!(tags == "2TDCZ", "{told:?}");
        ensure!(told[1].body[..2] == [0, columns] && told[2].body[..2] == [0, columns]);
    }
    for session in [&mut first, &mut second] {
        ensure!(states(&session.extended("s", None, true)?).is_empty(), "the server has it anew");
    }

    // Somebody who prepares what others had before.
    direct.query("alter table changed add column c4 int")?;
    let mut third = Session::through(node.address()?, &[])?;
    let mut prepares = Vec::new();
    write::parse(&mut prepares, b"t", b"select * from changed", &[]);
    write::describe(&mut prepares, STATEMENT, b"t");
    write::sync(&mut prepares);
    third.send(&prepares)?;
    let told = third.answers(1)?;
    let tags: String = told.iter().map(|message| char::from(message.tag)).collect();
    ensure!(tags == "1tTZ" && told[2].body[..2] == [0, 4], "{told:?}");

    // Where it could be noticed, it is told.
    direct.query("alter table changed add column c5 int")?;
    ensure!(states(&first.extended("s", None, false)?) == ["0A000"]);
    second.query("begin")?;
    let told = second.extended("s", None, true)?;
    ensure!(states(&told) == ["0A000"] && status(&told) == Some('E'), "{told:?}");
    second.query("rollback")?;
    ensure!(states(&second.extended("s", None, true)?).is_empty());
    ensure!(states(&first.extended("s", None, false)?).is_empty(), "its next try is served");

    // What cannot be prepared any more is told as that.
    direct.query("drop table changed")?;
    ensure!(states(&first.extended("s", None, true)?) == ["42P01"]);
    Ok(())
}

fn times(place: &Place) -> anyhow::Result<()> {
    let more = "threads = 1\ndefault_pool_size = 1\ntransaction_timeout = 1\nserver_lifetime = 0\n";
    let node = pool_with(place, "transaction", more)?;
    let mut direct = place.direct()?;
    let mut first = Session::through(node.address()?, &[])?;
    let mut second = Session::through(node.address()?, &[])?;
    let whom = "select pg_backend_pid()";
    let used = [first.value(whom)?, first.value(whom)?, second.value(whom)?];
    ensure!(used[0] != used[1] && used[1] != used[2], "each is used once: {used:?}");

    first.query("begin")?;
    let process = first.value(whom)?;
    first.send(&query("select pg_sleep(60)"))?;
    let told = first.answers(1)?;
    ensure!(states(&told) == ["25P04"] && first.next()?.is_none(), "{told:?}");
    ensure!(second.value("select 7")? == "7", "another server takes its place");
    let left = format!("select count(*) from pg_stat_activity where pid = {process}");
    // What it does for nobody it notices late; that is told it here.
    direct.query(&format!("select pg_cancel_backend({process})"))?;
    wait_for("the server is gone", Duration::from_secs(20), || {
        direct.value(&left).is_ok_and(|left| left == "0")
    })
}
