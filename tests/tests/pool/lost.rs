//! The server ends under a client: what the client sees, for each thing that it can be doing.

use anyhow::{Context, ensure};
use pgx_tests::lab::wait_for;
use pgx_tests::node::Node;
use std::time::Duration;

use crate::session::{Message, Session, query, states, status};
use crate::{Place, Test, pool};

const WAIT_MAX: Duration = Duration::from_secs(20);

pub(crate) const TESTS: &[(&str, Test)] = &[
    ("idle_client_goes_on_with_another_server", idle),
    ("client_whose_state_is_lost_is_told_and_let_go", state),
    ("block_is_rolled_back_and_told_at_the_next_request", block),
    ("outcome_of_what_was_under_way_is_unknown", under_way),
    ("failed_batch_is_skipped_up_to_its_sync", batch),
    ("copies_that_lose_their_server_end_with_one_answer", copies),
    ("client_in_session_mode_goes_with_its_server", session_mode),
    ("client_in_session_mode_is_told_whatever_it_does", session_mode_under_way),
    ("clients_wait_while_postgresql_is_away", away),
];

fn start(place: &Place, mode: &str) -> anyhow::Result<(Node, Session)> {
    let node = pool(place, mode, 1)?;
    let session = Session::through(node.address()?, &[])?;
    Ok((node, session))
}

/// Ends a server process, and waits until it is gone.
fn end(place: &Place, process: &str) -> anyhow::Result<()> {
    let mut direct = place.direct()?;
    direct.query(&format!("select pg_terminate_backend({process})"))?;
    wait_for("the server is gone", WAIT_MAX, || {
        let left = format!("select count(*) from pg_stat_activity where pid = {process}");
        direct.value(&left).is_ok_and(|left| left == "0")
    })
}

/// Sends these bytes, waits until the server runs them, and ends it. Gives what the client gets.
fn end_while(
    place: &Place,
    session: &mut Session,
    bytes: &[u8],
    readies: usize,
) -> anyhow::Result<Vec<Message>> {
    let process = session.value("select pg_backend_pid()")?;
    session.send(bytes)?;
    let mut direct = place.direct()?;
    let busy = format!(
        "select count(*) from pg_stat_activity where pid = {process} and state = 'active' and \
         (wait_event = 'PgSleep' or wait_event_type = 'Client')"
    );
    wait_for("the server is busy", WAIT_MAX, || direct.value(&busy).is_ok_and(|busy| busy == "1"))?;
    end(place, &process)?;
    session.answers(readies)
}

fn idle(place: &Place) -> anyhow::Result<()> {
    let (_node, mut session) = start(place, "transaction")?;
    let process = session.value("select pg_backend_pid()")?;
    end(place, &process)?;
    ensure!(session.value("select pg_backend_pid()")? != process, "another server");
    Ok(())
}

fn state(place: &Place) -> anyhow::Result<()> {
    let (_node, mut session) = start(place, "transaction")?;
    session.query("create temp table kept()")?;
    let process = session.value("select pg_backend_pid()")?;
    end(place, &process)?;
    let told = session.answers(1)?;
    ensure!(states(&told) == ["57P01"] && session.next()?.is_none(), "{told:?}");
    Ok(())
}

fn block(place: &Place) -> anyhow::Result<()> {
    let (_node, mut session) = start(place, "transaction")?;
    session.query("begin")?;
    let process = session.value("select pg_backend_pid()")?;
    end(place, &process)?;
    let told = session.query("select 1")?;
    ensure!(states(&told) == ["40001"] && status(&told) == Some('E'), "{told:?}");
    let refused = session.query("select 1")?;
    ensure!(states(&refused) == ["25P02"] && status(&refused) == Some('E'), "{refused:?}");
    let ended = session.query("rollback")?;
    ensure!(states(&ended).is_empty() && status(&ended) == Some('I'), "{ended:?}");
    ensure!(session.value("select 7")? == "7");
    Ok(())
}

/// What a client may wait for while its server ends, and what it does before that. The waiting
/// is what `slow` and `wait` in `lay_out` are for.
const UNDER_WAY: [(&str, &[&str]); 7] = [
    ("insert into kept select 'x' from pg_sleep(60)", &[]),
    ("begin; insert into kept values ('x'); select pg_sleep(60); commit", &[]),
    ("commit", &["begin", "insert into late values (1)"]),
    ("call slow()", &[]),
    ("copy kept from stdin", &[]),
    ("copy (select 'x' from pg_sleep(60)) to stdout", &[]),
    ("prepare transaction 'x'", &["begin", "insert into late values (1)"]),
];

fn lay_out(place: &Place) -> anyhow::Result<()> {
    let mut direct = place.direct()?;
    direct.query("create table if not exists kept(a text)")?;
    direct.query(
        "create or replace procedure slow() language plpgsql as \
         $$ begin insert into kept values ('call'); commit; perform pg_sleep(60); end $$",
    )?;
    direct.query(
        "create or replace function wait() returns trigger language plpgsql as \
         $$ begin perform pg_sleep(60); return null; end $$",
    )?;
    direct.query("drop table if exists late")?;
    direct.query("create table late(a int)")?;
    direct.query(
        "create constraint trigger late after insert on late deferrable initially deferred \
         for each row execute function wait()",
    )?;
    Ok(())
}

fn under_way(place: &Place) -> anyhow::Result<()> {
    lay_out(place)?;
    for (text, before) in UNDER_WAY {
        let (node, mut session) = start(place, "transaction")?;
        for each in before {
            session.query(each)?;
        }
        let told = end_while(place, &mut session, &query(text), 1)?;
        ensure!(
            states(&told) == ["08007"] && status(&told) == Some('I'),
            "{text}: {told:?}\n{}",
            node.log()
        );
        ensure!(session.value("select 7")? == "7", "{text}");
    }
    let (_node, mut session) = start(place, "transaction")?;
    session.query("begin")?;
    let told = end_while(place, &mut session, &query("select pg_sleep(60)"), 1)?;
    ensure!(states(&told) == ["40001"] && status(&told) == Some('E'), "{told:?}");
    session.query("rollback")?;
    Ok(())
}

fn batch(place: &Place) -> anyhow::Result<()> {
    use pgx_wire::frontend::write;
    let (_node, mut session) = start(place, "transaction")?;
    let mut bytes = Vec::new();
    write::parse(&mut bytes, b"", b"select pg_sleep(60)", &[]);
    write::bind_head(&mut bytes, b"", b"", 6);
    bytes.extend_from_slice(&[0; 6]);
    write::execute(&mut bytes, b"", 0);
    let one = bytes.clone();
    write::sync(&mut bytes);
    bytes.extend_from_slice(&one);
    write::sync(&mut bytes);
    let told = end_while(place, &mut session, &bytes, 2)?;
    ensure!(states(&told) == ["08007", "08007"] && status(&told) == Some('I'), "{told:?}");
    ensure!(session.value("select 7")? == "7");
    Ok(())
}

/// The client learns of the loss once. What it had already sent of its copy, or sends before it has
/// read that, is no request of its own.
fn copies(place: &Place) -> anyhow::Result<()> {
    use pgx_wire::frontend::write;
    lay_out(place)?;
    let rest = b"d\0\0\0\x061\nc\0\0\0\x04";

    let (_node, mut session) = start(place, "transaction")?;
    let told = end_while(place, &mut session, &query("copy kept from stdin"), 1)?;
    ensure!(states(&told) == ["08007"] && status(&told) == Some('I'), "{told:?}");
    session.send(rest)?;
    ensure!(session.value("select 7")? == "7");

    let (_node, mut session) = start(place, "transaction")?;
    let mut bytes = Vec::new();
    write::parse(&mut bytes, b"", b"copy kept from stdin", &[]);
    write::bind_head(&mut bytes, b"", b"", 6);
    bytes.extend_from_slice(&[0; 6]);
    write::execute(&mut bytes, b"", 0);
    end_while(place, &mut session, &bytes, 0)?;
    let mut bytes = rest.to_vec();
    write::sync(&mut bytes);
    session.send(&bytes)?;
    let told = session.answers(1)?;
    ensure!(states(&told) == ["08007"] && status(&told) == Some('I'), "{told:?}");
    ensure!(session.value("select count(*) from kept where a = '1'")? == "0");
    Ok(())
}

fn session_mode_under_way(place: &Place) -> anyhow::Result<()> {
    lay_out(place)?;
    for (text, before) in UNDER_WAY {
        let (node, mut session) = start(place, "session")?;
        for each in before {
            session.query(each)?;
        }
        let told = end_while(place, &mut session, &query(text), 1)?;
        ensure!(
            states(&told) == ["57P01"] && session.next()?.is_none(),
            "{text}: {told:?}\n{}",
            node.log()
        );
        let mut next = Session::through(node.address()?, &[])?;
        ensure!(next.value("select 7")? == "7", "{text}");
    }
    Ok(())
}

fn session_mode(place: &Place) -> anyhow::Result<()> {
    let (_node, mut session) = start(place, "session")?;
    let process = session.value("select pg_backend_pid()")?;
    end(place, &process)?;
    let told = session.answers(1)?;
    ensure!(states(&told) == ["57P01"] && session.next()?.is_none(), "{told:?}");
    Ok(())
}

fn away(place: &Place) -> anyhow::Result<()> {
    let (_node, mut session) = start(place, "transaction")?;
    session.value("select 1")?;
    place.database.kill()?;
    session.send(&query("select 7"))?;
    place.database.begin()?;
    let told = session.answers(1)?;
    ensure!(states(&told).is_empty() && status(&told) == Some('I'), "{told:?}");
    session.value("select 1").map(drop).context("the session goes on")
}
