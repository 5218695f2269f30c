//! Clients that share servers do not notice each other.

use std::io::Write;
use std::net::TcpStream;
use std::time::Duration;

use anyhow::ensure;
use pgx_tests::lab::wait_for;
use pgx_wire::frontend::write;

use crate::session::{Session, query, states, status};
use crate::{Place, Test, pool, pool_with};

pub(crate) const TESTS: &[(&str, Test)] = &[
    ("settings_and_state_of_one_client_never_meet_another", apart),
    ("statements_work_on_every_server", statements),
    ("cancel_ends_the_query_it_was_meant_for", cancel),
    ("client_that_does_not_read_stops_its_server_and_costs_little", stuck),
    ("start_up_parameters_are_honoured", parameters),
    ("query_in_one_piece_with_a_goodbye_runs", goodbye),
    ("statement_is_about_tables_as_they_are", tables),
    ("what_pools_of_drivers_clear_leaves_servers_to_others", clearing),
];

fn apart(place: &Place) -> anyhow::Result<()> {
    let node = pool(place, "transaction", 1)?;
    let mut first = Session::through(node.address()?, &[("datestyle", "German")])?;
    let mut second = Session::through(node.address()?, &[])?;
    for _ in 0..3 {
        ensure!(first.value("show datestyle")? == "German, DMY");
        ensure!(second.value("show datestyle")? == "ISO, MDY");
    }
    second.query("set time zone 'Asia/Tokyo'")?;
    ensure!(first.value("show timezone")? != "Asia/Tokyo");
    ensure!(second.value("show timezone")? == "Asia/Tokyo");
    second.query("begin")?;
    second.query("set local work_mem = '9MB'")?;
    second.query("rollback")?;
    ensure!(first.value("show work_mem")? == "4MB");
    Ok(())
}

fn statements(place: &Place) -> anyhow::Result<()> {
    let node = pool(place, "transaction", 2)?;
    let mut sessions = Vec::new();
    for _ in 0..3 {
        sessions.push(Session::through(node.address()?, &[])?);
    }
    let mut blocker = Session::through(node.address()?, &[])?;
    for (number, session) in sessions.iter_mut().enumerate() {
        let mut bytes = Vec::new();
        let text = format!("select {}", number / 2);
        write::parse(&mut bytes, b"mine", text.as_bytes(), &[]);
        write::sync(&mut bytes);
        session.send(&bytes)?;
        session.answers(1)?;
    }
    for round in 0..10 {
        // Now and then one server is taken, so that the others' next is another.
        if round % 2 == 0 {
            blocker.query("begin")?;
        }
        for (number, session) in sessions.iter_mut().enumerate() {
            let mut bytes = Vec::new();
            write::bind_head(&mut bytes, b"", b"mine", 6);
            bytes.extend_from_slice(&[0; 6]);
            write::execute(&mut bytes, b"", 0);
            write::sync(&mut bytes);
            session.send(&bytes)?;
            let answers = session.answers(1)?;
            let row = answers.iter().find(|message| message.tag == b'D');
            let value = row.map(|row| row.body[6..].to_vec());
            ensure!(value == Some((number / 2).to_string().into_bytes()), "{answers:?}");
        }
        if round % 2 == 1 {
            blocker.query("rollback")?;
        }
    }
    Ok(())
}

fn cancel(place: &Place) -> anyhow::Result<()> {
    let node = pool(place, "transaction", 1)?;
    let mut session = Session::through(node.address()?, &[])?;
    session.send(&query("select pg_sleep(60)"))?;
    let mut direct = place.direct()?;
    let busy = "select count(*) from pg_stat_activity where wait_event = 'PgSleep'";
    wait_for("the query runs", Duration::from_secs(20), || {
        direct.value(busy).is_ok_and(|busy| busy == "1")
    })?;
    let mut wrong = session.key.clone();
    wrong[7] ^= 1;
    for key in [wrong, session.key.clone()] {
        let mut packet = Vec::new();
        let process = u32::from_be_bytes([key[0], key[1], key[2], key[3]]);
        write::cancel(&mut packet, process, &key[4..]);
        TcpStream::connect(node.address()?)?.write_all(&packet)?;
    }
    let told = session.answers(1)?;
    ensure!(states(&told) == ["57014"] && status(&told) == Some('I'), "{told:?}");
    ensure!(session.value("select 7")? == "7");
    Ok(())
}

fn stuck(place: &Place) -> anyhow::Result<()> {
    let node = pool(place, "transaction", 2)?;
    let mut session = Session::through(node.address()?, &[])?;
    let mut other = Session::through(node.address()?, &[])?;
    let before = resident(node.process_id())?;
    session.send(&query("select repeat('x', 100000) from generate_series(1, 10000)"))?;
    let mut direct = place.direct()?;
    let waits = "select count(*) from pg_stat_activity where wait_event = 'ClientWrite'";
    wait_for("the server waits for its reader", Duration::from_secs(20), || {
        direct.value(waits).is_ok_and(|waits| waits == "1")
    })?;
    ensure!(other.value("select 7")? == "7", "the other client is served");
    let grown = resident(node.process_id())?.saturating_sub(before);
    ensure!(grown < 16 << 20, "{grown} bytes more for a result of a gigabyte");
    let mut rows = 0;
    while let Some(message) = session.next()? {
        match message.tag {
            b'D' => rows += 1,
            b'Z' => break,
            _ => {}
        }
    }
    ensure!(rows == 10_000, "{rows} rows");
    let grown = resident(node.process_id())?.saturating_sub(before);
    ensure!(grown < 16 << 20, "{grown} bytes more after a result of a gigabyte");
    Ok(())
}

/// Bytes of a process that are in memory.
fn resident(process: u32) -> anyhow::Result<usize> {
    let text = std::fs::read_to_string(format!("/proc/{process}/statm"))?;
    let pages: usize = text.split(' ').nth(1).unwrap_or_default().parse()?;
    Ok(pages * 4096)
}

/// Each time somebody prepares a text it is about tables as they are then, whoever changed them.
fn tables(place: &Place) -> anyhow::Result<()> {
    let node = pool_with(place, "transaction", "default_pool_size = 2\nthreads = 2\n")?;
    let mut describe = Vec::new();
    write::parse(&mut describe, b"s", b"insert into tables_as_they_are values ($1)", &[]);
    write::describe(&mut describe, b'S', b"s");
    write::sync(&mut describe);
    for (kind, oid) in [("int4", 23_u32), ("text", 25), ("date", 1082), ("int8", 20)] {
        let mut changer = Session::through(node.address()?, &[])?;
        changer.query("drop table if exists tables_as_they_are")?;
        changer.query(&format!("create table tables_as_they_are(v {kind})"))?;
        for _ in 0..6 {
            let mut session = Session::through(node.address()?, &[])?;
            session.send(&describe)?;
            let told = session.answers(1)?;
            let found = told.iter().find(|message| message.tag == b't');
            let found = found.map(|message| message.body[2..].to_vec());
            ensure!(found == Some(oid.to_be_bytes().to_vec()), "{kind}: {told:?}");
        }
    }
    Ok(())
}

/// Queries of a pool of a driver, which clears a session each time it comes back to it.
fn clearing(place: &Place) -> anyhow::Result<()> {
    const CLEARING: &str = "SELECT pg_advisory_unlock_all();\nCLOSE ALL;\nUNLISTEN *;\nRESET ALL;";
    let node = pool(place, "transaction", 1)?;
    let mut first = Session::through(node.address()?, &[("datestyle", "German")])?;
    let mut second = Session::through(node.address()?, &[])?;
    for _ in 0..3 {
        first.query("set timezone = 'Asia/Tokyo'")?;
        first.query(CLEARING)?;
        ensure!(second.value("show datestyle")? == "ISO, MDY", "it has the only server");
        ensure!(second.value("show timezone")? != "Asia/Tokyo");
        ensure!(first.value("show datestyle")? == "German, DMY");
        ensure!(first.value("show timezone")? != "Asia/Tokyo");
        second.query(CLEARING)?;
    }
    Ok(())
}

fn goodbye(place: &Place) -> anyhow::Result<()> {
    for mode in ["transaction", "session"] {
        let node = pool(place, mode, 1)?;
        let mut direct = place.direct()?;
        direct.query("drop table if exists last; create table last(word text)")?;
        let mut session = Session::through(node.address()?, &[])?;
        let mut packet = query("insert into last values ('word')");
        write::terminate(&mut packet);
        session.send(&packet)?;
        session.answers(1)?;
        ensure!(session.next()?.is_none(), "the connection ends");
        wait_for("it has run", Duration::from_secs(20), || {
            direct.value("select word from last").is_ok_and(|word| word == "word")
        })?;
    }
    Ok(())
}

fn parameters(place: &Place) -> anyhow::Result<()> {
    let node = pool(place, "transaction", 1)?;
    let own = [("options", r"-c work_mem=7MB --search-path=a,\ b"), ("application_name", "it's")];
    let mut session = Session::through(node.address()?, &own)?;
    ensure!(session.value("show work_mem")? == "7MB");
    ensure!(session.value("show search_path")? == "a, b");
    ensure!(session.value("show application_name")? == "it's");
    let mut plain = Session::through(node.address()?, &[])?;
    ensure!(plain.value("show work_mem")? == "4MB");
    Ok(())
}
