//! Clients with servers of their own notice no proxy: sessions, replication, and cancels from
//! wherever they come.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use pgx_tests::lab::{postgres, wait_for};
use pgx_wire::backend::{Fields, tag};
use pgx_wire::frontend::write;

use crate::session::{Message, Session, query, states};
use crate::{Place, Test, pool, pool_with};

pub(crate) const TESTS: &[(&str, Test)] = &[
    ("login_of_a_session_says_what_the_server_says", logins),
    ("settings_go_back_to_those_that_a_session_began_with", resets),
    ("start_up_parameters_cannot_say_who_logs_in_where", parameters),
    ("session_has_the_number_of_its_server", numbers),
    ("cancel_of_a_session_comes_to_any_thread", cancel),
    ("cancel_at_another_node_reaches_the_query", cancel_elsewhere),
    ("replication_passes", replication),
    ("base_backup_passes", backup),
];

fn logins(place: &Place) -> anyhow::Result<()> {
    let node = pool(place, "session", 2)?;
    let long = "a".repeat(70);
    let all: [&[(&str, &str)]; 7] = [
        &[],
        &[("application_name", &long)],
        &[("timezone", "Asia/Tokyo"), ("client_encoding", "latin1"), ("datestyle", "German")],
        &[("options", r"-c search_path=a,\ b -c datestyle=iso,dmy")],
        &[("datestyle", "nonsense")],
        &[("options", "-c nothing_like=1")],
        &[("lc_messages", "C"), ("work_mem", "1kB")],
    ];
    for parameters in all {
        let direct =
            comparable(&Session::told_directly(place.database.socket_folder(), parameters)?);
        let through = comparable(&Session::told(node.address()?, parameters)?);
        ensure!(direct == through, "{parameters:?}: {through:?}, directly {direct:?}");
    }
    Ok(())
}

/// What is the same for each login. PostgreSQL tells settings in no order that means anything.
fn comparable(messages: &[Message]) -> Vec<(u8, Vec<u8>)> {
    let mut all: Vec<_> = messages
        .iter()
        .map(|Message { tag, body }| match *tag {
            tag::BACKEND_KEY => (*tag, body[4..].iter().map(|_| 0).collect()),
            tag::ERROR | tag::NOTICE => {
                let fields = Fields::new(body).filter(|(code, _)| b"SVCMDH".contains(code));
                (*tag, fields.flat_map(|(code, text)| [&[code], text].concat()).collect())
            }
            _ => (*tag, body.clone()),
        })
        .collect();
    all.sort_by_key(|(tag, body)| (*tag == b'Z', *tag == b'K', *tag, body.clone()));
    all
}

fn resets(place: &Place) -> anyhow::Result<()> {
    let node = pool(place, "session", 1)?;
    let parameters = [("datestyle", "German"), ("options", "-c work_mem=7MB")];
    let texts = [
        "set datestyle = 'ISO, DMY'; set work_mem = '9MB'; reset datestyle",
        "show datestyle; show work_mem",
        "set datestyle = 'ISO, DMY'; reset all",
        "show datestyle; show work_mem",
        "set datestyle = 'ISO, DMY'; set work_mem = '9MB'",
        "discard all",
        "show datestyle; show work_mem",
    ];
    let folder = place.database.socket_folder();
    // The second has the first's server, and the third one of its own.
    for own in [&parameters[..], &parameters[..], &[]] {
        let mut direct = Session::direct(folder, own)?;
        let mut through = Session::through(node.address()?, own)?;
        for text in texts {
            let (expected, seen) = (direct.query(text)?, through.query(text)?);
            ensure!(expected == seen, "{own:?} {text}: {seen:?}, directly {expected:?}");
        }
    }
    Ok(())
}

/// Names of start-up parameters that servers take for more than settings get nowhere, however they
/// are written.
fn parameters(place: &Place) -> anyhow::Result<()> {
    place.direct()?.query("create role nobody_else login")?;
    for mode in ["session", "transaction"] {
        let node = pool(place, mode, 2)?;
        for (name, value) in [
            ("USER", "postgres"),
            ("Database", "template1"),
            ("Replication", "database"),
            ("options", "-c user=postgres"),
            ("options", "-c Database=template1"),
            ("options", "--replication=true"),
            ("OPTIONS", "-c user=postgres"),
        ] {
            for more in [&[][..], &[("replication", "database")]] {
                let own = [&[("user", "nobody_else"), (name, value)][..], more].concat();
                let told = Session::told(node.address()?, &own)?;
                let is_let_in = told.iter().any(|message| message.tag == tag::READY);
                ensure!(!is_let_in && states(&told).len() == 1, "{own:?}: {told:?}");
            }
        }
    }
    Ok(())
}

fn numbers(place: &Place) -> anyhow::Result<()> {
    let node = pool(place, "session", 2)?;
    let mut session = Session::through(node.address()?, &[])?;
    let told = u32::from_be_bytes(session.key[..4].try_into()?);
    ensure!(session.value("select pg_backend_pid()")? == told.to_string());
    let heard = session.query("listen here; notify here")?;
    let own = heard.iter().any(|each| each.tag == b'A' && each.body[..4] == told.to_be_bytes());
    ensure!(own, "{heard:?}");
    place.direct()?.query(&format!("select pg_terminate_backend({told})"))?;
    let last = session.query("select 1")?;
    ensure!(states(&last) == ["57P01"] && session.next()?.is_none(), "{last:?}");
    Ok(())
}

fn cancel(place: &Place) -> anyhow::Result<()> {
    let node = pool_with(place, "session", "default_pool_size = 4\nthreads = 4\n")?;
    for _ in 0..4 {
        let mut session = Session::through(node.address()?, &[])?;
        cancelled(place, &mut session, node.address()?)?;
        ensure!(session.value("select 7")? == "7", "nothing that was sent later is hit");
    }
    Ok(())
}

/// Runs a query and cancels it there.
fn cancelled(place: &Place, session: &mut Session, at: SocketAddr) -> anyhow::Result<()> {
    session.send(&query("select pg_sleep(60)"))?;
    let mut direct = place.direct()?;
    let busy = "select count(*) from pg_stat_activity where wait_event = 'PgSleep'";
    wait_for("the query runs", Duration::from_secs(20), || {
        direct.value(busy).is_ok_and(|busy| busy == "1")
    })?;
    let mut packet = Vec::new();
    let process = u32::from_be_bytes(session.key[..4].try_into()?);
    write::cancel(&mut packet, process, &session.key[4..]);
    let mut asker = TcpStream::connect(at)?;
    asker.set_read_timeout(Some(Duration::from_secs(20)))?;
    asker.write_all(&packet)?;
    ensure!(asker.read(&mut [0])? == 0, "who asks is told nothing");
    let told = session.answers(1)?;
    ensure!(states(&told) == ["57014"], "{told:?}");
    Ok(())
}

fn cancel_elsewhere(place: &Place) -> anyhow::Result<()> {
    for mode in ["session", "transaction"] {
        let home = pool_with(place, mode, "threads = 2\npeer_id = 2\n")?;
        let others =
            format!("threads = 2\npeer_id = 1\npeers = {{ 2 = \"{}\" }}\n", home.address()?);
        let away = pool_with(place, mode, &others)?;
        let mut session = Session::through(home.address()?, &[])?;
        cancelled(place, &mut session, away.address()?)?;
        ensure!(session.value("select 7")? == "7");
    }
    Ok(())
}

fn replication(place: &Place) -> anyhow::Result<()> {
    let node = pool(place, "transaction", 2)?;
    let own = [("replication", "database"), ("application_name", "follower")];
    let mut follower = Session::through(node.address()?, &own)?;
    let system = follower.query("IDENTIFY_SYSTEM")?;
    ensure!(system.iter().any(|message| message.tag == tag::DATA_ROW), "{system:?}");
    let name = "select application_name from pg_stat_activity where backend_type = 'walsender'";
    ensure!(place.direct()?.value(name)? == "follower");
    let from = place.direct()?.value("select pg_current_wal_lsn()")?;
    follower.send(&query(&format!("START_REPLICATION PHYSICAL {from}")))?;
    let begun = follower.next()?.context("no answer")?;
    ensure!(begun.tag == b'W', "{begun:?}");
    place.direct()?.query("select pg_logical_emit_message(false, 'pgx', 'something new')")?;
    place.direct()?.query("select pg_switch_wal()")?;
    loop {
        let message = follower.next()?.context("the stream ended")?;
        ensure!(message.tag == b'd', "{message:?}");
        if message.body.windows(13).any(|window| window == b"something new") {
            break;
        }
    }
    // The client ends the stream, and the server says so.
    follower.send(b"c\0\0\0\x04")?;
    while follower.next()?.context("the stream ended badly")?.tag != tag::READY {}
    drop(follower);
    let mut direct = place.direct()?;
    wait_for("its server is gone", Duration::from_secs(20), || {
        let left = "select count(*) from pg_stat_activity where backend_type = 'walsender'";
        direct.value(left).is_ok_and(|left| left == "0")
    })
}

fn backup(place: &Place) -> anyhow::Result<()> {
    let node = pool(place, "transaction", 2)?;
    let folder = tempfile::tempdir()?;
    let program = postgres::find_programs(None)?.join("pg_basebackup");
    let output = Command::new(program)
        .args(["--username", "postgres", "--host", "127.0.0.1", "--checkpoint", "fast"])
        .args(["--wal-method", "stream", "--port", &node.address()?.port().to_string()])
        .arg("--pgdata")
        .arg(folder.path().join("data"))
        .output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    ensure!(folder.path().join("data/backup_manifest").exists());
    Ok(())
}
