//! What clients, operators, roles and databases may set while durability is strict.

use anyhow::{Context, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pgx_tests::cluster::{WAIT_MAX, ask};
use pgx_tests::lab::wait_for;
use pgx_tests::members::Members;
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;
use tokio_postgres::{Client, Config, NoTls, SimpleQueryMessage};

use crate::binary;

/// Whose role is set to lose commits.
const CARELESS: &str = "careless";

pub(crate) fn kept() -> anyhow::Result<()> {
    let members = Members::start(binary(), 3)?;
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let (primary, _) = members.primary()?;
    members.sql(1, "create table kept (number int)")?;
    refused(&members, &runtime).context("refused")?;
    files(&members, primary).context("files")?;
    roles(&members, &runtime, primary).context("roles")?;
    available(&members, &runtime).context("available")
}

/// A session through the proxy of node 1.
fn client(
    members: &Members,
    runtime: &Runtime,
    user: &str,
    options: &str,
) -> anyhow::Result<Client> {
    let address = members.node(1).address()?;
    let mut config = Config::new();
    config.host(address.ip().to_string()).port(address.port()).user(user).dbname("postgres");
    config.options(options).connect_timeout(WAIT_MAX);
    runtime.block_on(async {
        let (client, connection) = config.connect(NoTls).await?;
        tokio::spawn(connection);
        Ok(client)
    })
}

/// The first value that a text gives.
fn value(runtime: &Runtime, client: &Client, text: &str) -> anyhow::Result<String> {
    let done = async { timeout(WAIT_MAX, client.simple_query(text)).await };
    let messages = runtime.block_on(done)??;
    let rows = messages.into_iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
        _ => None,
    });
    rows.last().context("no row")
}

/// The code of an error.
fn code<T>(outcome: Result<T, tokio_postgres::Error>) -> anyhow::Result<String> {
    match outcome {
        Ok(_) => bail!("it is not refused"),
        Err(error) => Ok(error.code().with_context(|| error.to_string())?.code().to_owned()),
    }
}

/// By nothing that is sent can it be lowered.
fn refused(members: &Members, runtime: &Runtime) -> anyhow::Result<()> {
    for options in ["-c synchronous_commit=off", "-c client_min_messages=error"] {
        let Err(error) = client(members, runtime, "postgres", options) else {
            bail!("{options} is let in")
        };
        let error = error.downcast::<tokio_postgres::Error>()?;
        ensure!(code::<()>(Err(error))? == "22023", "{options}");
    }
    let client = client(members, runtime, "postgres", "-c synchronous_commit=remote_apply")?;
    ensure!(value(runtime, &client, "show synchronous_commit")? == "remote_apply");
    for text in [
        "set synchronous_commit = off",
        "set session synchronous_commit to local",
        "select set_config('synchronous_commit', 'off', false)",
        "select 1; set local synchronous_commit = remote_write; insert into kept values (0)",
        "insert into kept values (0); set client_min_messages = error",
        "do $$ begin set local synchronous_commit = off; insert into kept values (0); end $$",
        "alter role postgres set synchronous_commit = off",
        "alter system set synchronous_commit = off",
    ] {
        let found = code(runtime.block_on(client.simple_query(text)))?;
        ensure!(found == "22023", "{text}: {found}");
        // Only as the statement of a batch can it be prepared, or not at all.
        let found = code(runtime.block_on(client.prepare(text)))?;
        ensure!(found == "22023", "{text}, prepared: {found}");
    }
    // A block fails as after any error.
    runtime.block_on(client.simple_query("begin; insert into kept values (0)"))?;
    let found = code(runtime.block_on(client.simple_query("set synchronous_commit = off")))?;
    ensure!(found == "22023", "in a block: {found}");
    let found = code(runtime.block_on(client.simple_query("select 1")))?;
    ensure!(found == "25P02", "behind it: {found}");
    runtime.block_on(client.simple_query("commit"))?;
    ensure!(value(runtime, &client, "select count(*) from kept")? == "0");
    // What is enough passes.
    let text = "set synchronous_commit = on; reset synchronous_commit; show synchronous_commit";
    ensure!(value(runtime, &client, text)? == "on");
    Ok(())
}

/// What an operator writes into files does not count, and is told.
fn files(members: &Members, primary: usize) -> anyhow::Result<()> {
    let file = members.data(primary).join("postgresql.conf");
    let text = std::fs::read_to_string(&file)?;
    std::fs::write(&file, format!("synchronous_commit = off\n{text}"))?;
    members.sql_at(primary, "select pg_reload_conf()")?;
    let shown = || members.sql_at(primary, "show synchronous_commit");
    ensure!(shown()? == "on");
    let is_told = |what: &str| members.node(primary).log().contains(what);
    wait_for("the file is told of", WAIT_MAX, || is_told("which does not count"))?;
    members.sql_at(primary, "alter system set synchronous_commit = local")?;
    members.sql_at(primary, "select pg_reload_conf()")?;
    wait_for("what ALTER SYSTEM has set is taken out", WAIT_MAX, || {
        let file = members.data(primary).join("postgresql.auto.conf");
        let is_out = std::fs::read_to_string(file).is_ok_and(|text| !text.contains("synchronous_"));
        is_out && shown().is_ok_and(|shown| shown == "on")
    })?;
    // More than is needed is the operator's to have.
    std::fs::write(&file, format!("synchronous_commit = remote_apply\n{text}"))?;
    members.sql_at(primary, "select pg_reload_conf()")?;
    wait_for("what is higher counts", WAIT_MAX, || {
        shown().is_ok_and(|shown| shown == "remote_apply")
    })?;
    std::fs::write(&file, text)?;
    members.sql_at(primary, "select pg_reload_conf()").map(drop)
}

/// What a role begins with does not reach who comes by a proxy, whose commits wait.
fn roles(members: &Members, runtime: &Runtime, primary: usize) -> anyhow::Result<()> {
    let alter = |value: &str| {
        let text = format!("alter role {CARELESS} set synchronous_commit = {value}");
        members.sql_at(primary, &text)
    };
    members.sql_at(primary, &format!("create role {CARELESS} superuser login"))?;
    alter("off")?;
    wait_for("the role is told of", WAIT_MAX, || {
        members.node(primary).log().contains("role careless has synchronous_commit")
    })?;
    let client = client(members, runtime, CARELESS, "")?;
    for text in ["", "reset all;", "set synchronous_commit to default;", "discard all"] {
        runtime.block_on(client.simple_query(text))?;
        let found = value(runtime, &client, "show synchronous_commit")?;
        ensure!(found == "on", "behind {text:?}: {found}");
    }
    let mut receivers = Vec::new();
    for standby in (1..=3).filter(|id| *id != primary) {
        let pid = members.sql_at(standby, "select pid from pg_stat_wal_receiver")?.parse()?;
        kill(Pid::from_raw(pid), Signal::SIGSTOP)?;
        receivers.push(Pid::from_raw(pid));
    }
    let commit = runtime.spawn(async move {
        client.simple_query("insert into kept values (1)").await.map(drop).map(|()| client)
    });
    let waited = wait_for("the commit waits for standbys", WAIT_MAX, || {
        // The runtime has one thread, which is this one.
        runtime.block_on(tokio::task::yield_now());
        let waits = format!(
            "select count(*) from pg_stat_activity where wait_event = 'SyncRep' \
             and usename = '{CARELESS}'"
        );
        members.sql_at(primary, &waits).is_ok_and(|said| said == "1")
    });
    let is_done = commit.is_finished();
    for receiver in receivers {
        kill(receiver, Signal::SIGCONT)?;
    }
    waited?;
    ensure!(!is_done, "it was told as done");
    runtime.block_on(async { timeout(WAIT_MAX, commit).await })???;
    Ok(())
}

/// Whoever chooses that commits may be lost gets that, until it is taken back.
fn available(members: &Members, runtime: &Runtime) -> anyhow::Result<()> {
    let choose = |word: &str| ask(members.node(1), &["edit-config", "--set", word]);
    choose("durability=available")?;
    let low = "set synchronous_commit = off; show synchronous_commit";
    wait_for("it may be lowered", WAIT_MAX, || {
        client(members, runtime, "postgres", "-c synchronous_commit=local")
            .and_then(|client| value(runtime, &client, low))
            .is_ok_and(|shown| shown == "off")
    })?;
    // This session keeps its server by that.
    let client = client(members, runtime, "postgres", "-c synchronous_commit=local")?;
    ensure!(value(runtime, &client, low)? == "off");
    choose("durability=strict")?;
    wait_for("it may not be lowered", WAIT_MAX, || {
        members.sql(1, "set synchronous_commit = off").is_err()
    })?;
    ensure!(value(runtime, &client, "show synchronous_commit")? == "on");
    Ok(())
}
