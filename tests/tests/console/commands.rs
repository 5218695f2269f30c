//! What is done.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};
use pgx_tests::lab::wait_for;
use tokio_postgres::NoTls;

use crate::place::{Pgbouncer, Place, psql, rows, said};

/// How long a command may take to have its effect on a busy machine.
const EFFECT_MAX: Duration = Duration::from_secs(20);

/// How often two change something at once.
const ROUNDS: u32 = 20;

/// Each command, in an order in which each can be carried out.
const COMMANDS: [&str; 30] = [
    "PAUSE",
    "RESUME",
    "RESUME",
    "PAUSE postgres",
    "RESUME postgres",
    "DISABLE postgres",
    "ENABLE postgres",
    "RECONNECT",
    "RECONNECT postgres",
    "KILL postgres",
    "RESUME postgres",
    "WAIT_CLOSE",
    "WAIT_CLOSE postgres",
    "SUSPEND",
    "RELOAD",
    "SET default_pool_size = 21",
    "set default_pool_size='22'",
    "SELECT 1",
    "SHOW NOTHING",
    "SHUTDOWN WHEN",
    "KILL",
    "DISABLE",
    "ENABLE",
    "PAUSE a b",
    "RELOAD now",
    "",
    ";",
    "show version; show version",
    "SHOW HELP;",
    "set",
];

/// Programs that send PgBouncer's commands read its answers.
pub(crate) fn answers() -> anyhow::Result<()> {
    let place = Place::start("")?;
    let peer = Pgbouncer::start(&place.database)?;
    for port in [place.port()?, peer.port] {
        psql(port, "postgres", "postgres", "select 1")?;
    }
    for command in COMMANDS {
        let theirs = psql(peer.port, "root", "pgbouncer", command)?;
        let ours = psql(place.port()?, "root", "pgbouncer", command)?;
        let (their_words, our_words) = (said(&theirs), said(&ours));
        let is_help = command.starts_with("SHOW HELP");
        ensure!(
            theirs.stdout == ours.stdout && (is_help || their_words == our_words),
            "{command}: {their_words} {theirs:?}, but here {our_words} {ours:?}"
        );
        ensure!(!is_help || our_words.starts_with("NOTICE:  Console usage"), "{our_words}");
        if command == "SUSPEND" {
            // PgBouncer goes on by itself when everything is flushed.
            place.console("RESUME")?;
        }
    }
    Ok(())
}

/// A client that runs a text on its own time.
fn begin(place: &Place, text: &str) -> anyhow::Result<Child> {
    let port = place.port()?;
    Ok(Command::new("psql")
        .args(["--no-psqlrc", "--tuples-only", "--no-align", "--command", text])
        .arg(format!("host=127.0.0.1 port={port} user=postgres dbname=postgres"))
        .env("HOME", "/nonexistent")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?)
}

pub(crate) fn effects() -> anyhow::Result<()> {
    let place = Place::start("")?;
    let is_in = |table: &str, column: &str, value: &str| {
        place.column(table, column).is_ok_and(|found| found.iter().any(|each| each == value))
    };
    ensure!(place.client("select 1")?.status.success());

    // Held clients wait, and go on.
    place.console("PAUSE")?;
    ensure!(place.column("SERVERS", "state")?.is_empty(), "servers are left");
    let client = begin(&place, "select 'held'")?;
    wait_for("the client waits", EFFECT_MAX, || is_in("POOLS", "cl_waiting", "1"))?;
    ensure!(place.console("SHOW STATE")?.contains("paused|yes"));
    place.console("RESUME")?;
    let output = client.wait_with_output()?;
    ensure!(output.stdout == b"held\n", "{}", said(&output));

    // Others take the place of servers.
    let before = place.column("SERVERS", "remote_pid")?;
    place.console("RECONNECT")?;
    place.console("WAIT_CLOSE")?;
    ensure!(place.client("select 1")?.status.success());
    let after = place.column("SERVERS", "remote_pid")?;
    ensure!(after.iter().all(|number| !before.contains(number)), "{before:?} {after:?}");

    // No client comes in where none may.
    place.console("DISABLE postgres")?;
    let output = place.client("select 1")?;
    ensure!(said(&output).contains("not currently accepting connections"), "{}", said(&output));
    ensure!(is_in("DATABASES", "disabled", "1"));
    place.console("ENABLE postgres")?;
    ensure!(place.client("select 1")?.status.success());

    // A client is ended by its name, and all of a database's by that.
    let mut clients = Vec::new();
    for number in 0..2 {
        clients.push(begin(&place, &format!("select pg_sleep(60), {number}"))?);
    }
    wait_for("both are served", EFFECT_MAX, || is_in("POOLS", "cl_active", "2"))?;
    // In one look: threads answer in any order.
    let clients_now = rows(place.port()?, "pgx", "CLIENTS")?;
    let at = |name: &str| clients_now[0].iter().position(|column| column == name);
    let (user, ptr) = at("user").zip(at("ptr")).context("no such columns")?;
    let one = clients_now.iter().find(|row| row[user] == "postgres").context("nobody is there")?;
    place.console(&format!("KILL_CLIENT {}", one[ptr]))?;
    wait_for("one is left", EFFECT_MAX, || is_in("POOLS", "cl_active", "1"))?;
    place.console("KILL postgres")?;
    for client in clients {
        let output = client.wait_with_output()?;
        let said = said(&output);
        ensure!(said.contains("terminating connection due to administrator command"), "{said}");
    }
    place.console("RESUME postgres")?;
    ensure!(place.client("select 1")?.status.success());
    Ok(())
}

pub(crate) fn rights() -> anyhow::Result<()> {
    let place = Place::start("")?;
    let eve = |text: &str| psql(place.port()?, "eve", "pgx", text);
    ensure!(eve("SHOW POOLS")?.status.success());
    for command in ["PAUSE", "RELOAD", "SET default_pool_size = 1", "SHUTDOWN"] {
        let output = eve(command)?;
        ensure!(said(&output) == "ERROR:  admin access needed", "{command}: {}", said(&output));
    }
    let output = psql(place.port()?, "postgres", "pgx", "SHOW POOLS")?;
    ensure!(!output.status.success() && said(&output).contains("admin_users"), "{output:?}");
    ensure!(place.console("SHOW STATE")?.contains("active|yes"));
    Ok(())
}

pub(crate) fn settings() -> anyhow::Result<()> {
    let place = Place::start("default_pool_size = 3\n")?;
    ensure!(place.client("select 1")?.status.success());
    let size = || place.column("DATABASES", "pool_size");
    ensure!(size()? == ["3", "3"], "{:?}", size()?);
    ensure!(place.console("SET default_pool_size = 5")? == "SET default_pool_size=5");
    ensure!(size()? == ["5", "5"], "{:?}", size()?);
    ensure!(place.console("SHOW CONFIG")?.contains("default_pool_size|5|20|yes"));
    for wrong in ["SET default_pool_size = x", "SET nothing = 1", "SET threads = 9"] {
        let output = psql(place.port()?, "root", "pgx", wrong)?;
        ensure!(said(&output).starts_with("ERROR:  SET failed"), "{wrong}: {}", said(&output));
    }
    // What a file that others may read says is not gone by, whoever names it.
    let users = place.node.folder().join("users");
    std::fs::write(&users, "\"ann\" \"secret\"\n")?;
    std::fs::set_permissions(&users, Permissions::from_mode(0o644))?;
    let command = format!("SET auth_file = '{}'", users.display());
    let output = psql(place.port()?, "root", "pgx", &command)?;
    ensure!(said(&output).contains("open to other users"), "{}", said(&output));
    ensure!(size()? == ["5", "5"]);
    place.console("SET stats_users = 'eve, adam'")?;
    ensure!(psql(place.port()?, "adam", "pgx", "SHOW POOLS")?.status.success());
    let output = place.node.ctl(&["reload"])?;
    ensure!(output.status.success(), "{}", said(&output));
    ensure!(size()? == ["3", "3"], "{:?}", size()?);
    ensure!(!psql(place.port()?, "adam", "pgx", "SHOW POOLS")?.status.success());
    Ok(())
}

pub(crate) fn rivals() -> anyhow::Result<()> {
    let place = Place::start("")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let words = format!("host=127.0.0.1 port={} user=root dbname=pgx", place.port()?);
    runtime.block_on(async {
        let mut clients = Vec::new();
        for _ in 0..2 {
            let (client, connection) = tokio_postgres::connect(&words, NoTls).await?;
            tokio::spawn(connection);
            clients.push(client);
        }
        for number in 1..=ROUNDS {
            let size = format!("SET default_pool_size = {number}");
            let reserve = format!("SET reserve_pool_size = {number}");
            let (one, two) =
                tokio::join!(clients[0].batch_execute(&size), clients[1].batch_execute(&reserve));
            one.and(two)?;
            let config = place.console("SHOW CONFIG")?;
            for key in ["default_pool_size", "reserve_pool_size"] {
                ensure!(config.contains(&format!("{key}|{number}|")), "{number}: {key} is lost");
            }
        }
        Ok(())
    })
}

pub(crate) fn shutdown() -> anyhow::Result<()> {
    for command in ["SHUTDOWN", "SHUTDOWN WAIT_FOR_SERVERS", "SHUTDOWN WAIT_FOR_CLIENTS"] {
        let mut place = Place::start("")?;
        ensure!(place.client("select 1")?.status.success());
        // It may end before its answer is read.
        let _ = psql(place.port()?, "root", "pgx", command)?;
        place.node.wait_for_end()?;
    }
    Ok(())
}
