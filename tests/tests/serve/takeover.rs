//! A new pgx takes the place of a running one.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pgx_tests::database::Database;
use pgx_tests::lab::{build, wait_for};
use pgx_tests::node::Node;
use tempfile::TempDir;

use crate::{ENGINES, free_port, psql};

/// How long anything may take on a busy machine.
const LIMIT: Duration = Duration::from_secs(20);

/// A database, and a folder for what clients need.
struct Lab {
    database: Database,
    folder: TempDir,
    address: SocketAddr,
    backend: u16,
}

impl Lab {
    fn start() -> anyhow::Result<Self> {
        let backend = free_port()?;
        let settings = format!("-c listen_addresses=127.0.0.1 -p {backend} -c max_connections=200");
        let database = Database::start_with(&["--auth=trust"], &settings)?;
        let folder = tempfile::tempdir()?;
        std::fs::write(folder.path().join("load.sql"), "select 1;\n")?;
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()?));
        Ok(Self { database, folder, address, backend })
    }

    /// What a pgx serves here.
    fn sections(&self, settings: &str) -> String {
        let folder = self.folder.path();
        format!(
            "pid_file = {:?}\n[proxy]\nlisten = [\"{}\"]\nunix_socket_dir = {folder:?}\n\
             backends = [\"127.0.0.1:{}\"]\n{settings}",
            folder.join("pid"),
            self.address,
            self.backend,
        )
    }

    fn node(&self, settings: &str) -> anyhow::Result<Node> {
        Node::start(&build::pgx(false)?, &self.sections(settings))
    }

    fn by_tcp(&self) -> String {
        let port = self.address.port();
        format!("host=127.0.0.1 port={port} user=postgres dbname=postgres")
    }

    fn by_unix(&self) -> String {
        let (folder, port) = (self.folder.path().display(), self.address.port());
        format!("host={folder} port={port} user=postgres dbname=postgres")
    }

    fn pgbench(&self, place: &str, words: &[&str]) -> anyhow::Result<Child> {
        Command::new("pgbench")
            .args(["--no-vacuum", "--file"])
            .arg(self.folder.path().join("load.sql"))
            .args(words)
            .arg(place)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot run pgbench")
    }

    /// Runs a text at PostgreSQL itself.
    fn direct(&self, text: &str) -> anyhow::Result<String> {
        let folder = self.database.socket_folder().display();
        let place = format!("host={folder} port={} user=postgres", self.backend);
        Ok(String::from_utf8_lossy(&psql(&place, text)?.stdout).trim().to_owned())
    }
}

fn pool(more: &str) -> String {
    format!("pool_mode = \"transaction\"\nauth_type = \"trust\"\n{more}")
}

fn told(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// Nothing that clients do fails, while one process after the other takes over.
pub(crate) fn under_load() -> anyhow::Result<()> {
    for engine in ENGINES {
        let threads = |count| pool(&format!("threads = {count}\nengine = {engine:?}\n"));
        passes_on(&[threads(2), threads(1), threads(3), threads(2)])?;
    }
    passes_on(&[String::new(), String::new(), pool(""), String::new()])
}

fn passes_on(all: &[String]) -> anyhow::Result<()> {
    let lab = Lab::start()?;
    let (first, later) = all.split_first().context("nothing to serve")?;
    let mut node = lab.node(first)?;
    let long = ["--client", "8", "--time", "7"];
    let each = ["--connect", "--client", "4", "--time", "6"];
    let loads = [
        lab.pgbench(&lab.by_tcp(), &long)?,
        lab.pgbench(&lab.by_unix(), &long)?,
        lab.pgbench(&lab.by_tcp(), &each)?,
        lab.pgbench(&lab.by_unix(), &each)?,
    ];
    let total = |node: &Node| {
        let status = node.status_quickly().ok();
        status.and_then(|status| status["proxy"]["clients_total"].as_u64()).unwrap_or_default()
    };
    let mut lasting = Lasting::begin(&lab.by_tcp())?;
    let mut elders = Vec::new();
    for settings in later {
        wait_for("clients come and go", LIMIT, || total(&node) > 20)?;
        elders.push(node.take_over(&lab.sections(settings))?);
        let pid = std::fs::read_to_string(lab.folder.path().join("pid"))?;
        ensure!(pid.trim() == node.process_id().to_string(), "{pid}");
    }
    ensure!(elders[0].runs(), "it has a session that lasts");
    ensure!(lasting.ask("select 8")? == "8");
    lasting.end()?;
    for load in loads {
        let output = load.wait_with_output()?;
        let told = told(&output);
        ensure!(output.status.success() && !told.contains("error"), "{told}");
        ensure!(told.contains("number of failed transactions: 0 "), "{told}");
        let tps = told.lines().filter(|line| line.contains("actually processed"));
        println!("{}", tps.collect::<Vec<_>>().join(" "));
    }
    for elder in &mut elders {
        elder.wait()?;
    }
    ensure!(!node.log().contains("are cut"), "{}", node.log());
    node.end(Signal::SIGTERM)?;
    let left: Vec<_> = std::fs::read_dir(lab.folder.path())?.filter_map(Result::ok).collect();
    ensure!(left.len() == 1, "only the script of the load is left: {left:?}");
    Ok(())
}

/// A client that asks now and then.
struct Lasting {
    psql: Child,
    said: BufReader<ChildStdout>,
}

impl Lasting {
    fn begin(place: &str) -> anyhow::Result<Self> {
        let mut psql = Command::new("psql")
            .args(["--no-psqlrc", "--quiet", "--tuples-only", "--no-align", place])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let said = BufReader::new(psql.stdout.take().context("it is piped")?);
        let mut lasting = Self { psql, said };
        ensure!(lasting.ask("select 7")? == "7");
        Ok(lasting)
    }

    fn ask(&mut self, text: &str) -> anyhow::Result<String> {
        let input = self.psql.stdin.as_mut().context("it is piped")?;
        writeln!(input, "{text};")?;
        let mut line = String::new();
        self.said.read_line(&mut line)?;
        Ok(line.trim().to_owned())
    }

    fn end(mut self) -> anyhow::Result<()> {
        drop(self.psql.stdin.take());
        ensure!(self.psql.wait()?.success());
        Ok(())
    }
}

/// Clients ask the newest process to cancel what the oldest one does.
pub(crate) fn cancels() -> anyhow::Result<()> {
    for mode in ["session", "transaction"] {
        let lab = Lab::start()?;
        let settings = format!("pool_mode = {mode:?}\nauth_type = \"trust\"\nthreads = 2\n");
        let mut node = lab.node(&settings)?;
        let sleeper = Command::new("psql")
            .args(["--no-psqlrc", "--command", "select pg_sleep(60)", &lab.by_tcp()])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        let busy = "select count(*) from pg_stat_activity where wait_event = 'PgSleep'";
        wait_for("the query runs", LIMIT, || lab.direct(busy).is_ok_and(|busy| busy == "1"))?;
        let mut first = node.take_over(&lab.sections(&settings))?;
        let mut second = node.take_over(&lab.sections(&settings))?;
        ensure!(second.runs(), "without it the first one's clients could cancel nothing");

        kill(Pid::from_raw(i32::try_from(sleeper.id())?), Signal::SIGINT)?;

        let output = sleeper.wait_with_output()?;
        let told = told(&output);
        ensure!(told.contains("canceling statement due to user request"), "{mode}: {told}");
        first.wait()?;
        second.wait()?;
    }
    Ok(())
}

/// A connection that asks to take over, and the first line that it is answered.
fn ask_to_take_over(node: &Node) -> anyhow::Result<(UnixStream, String)> {
    let mut stream = UnixStream::connect(node.folder().join("admin.sock"))?;
    stream.write_all(b"{\"version\":1,\"verb\":\"take-over\"}\n")?;
    let mut answer = String::new();
    BufReader::new(&stream).read_line(&mut answer)?;
    Ok((stream, answer))
}

/// A process that does not get ready changes nothing.
pub(crate) fn given_up() -> anyhow::Result<()> {
    let lab = Lab::start()?;
    let mut node = lab.node(&pool(""))?;
    let process = node.process_id();
    let serves = |node: &mut Node| -> anyhow::Result<()> {
        ensure!(node.runs() && node.process_id() == process);
        ensure!(psql(&lab.by_tcp(), "select 7")?.stdout == b"7\n");
        ensure!(psql(&lab.by_unix(), "select 7")?.stdout == b"7\n");
        Ok(())
    };
    let count = node.log().matches("serving on").count();
    // One that cannot have all that it needs.
    let taken = std::net::TcpListener::bind("127.0.0.1:0")?;
    let more =
        format!("[[proxy.listeners]]\nlisten = \"{}\"\ntarget = \"any\"\n", taken.local_addr()?);
    let failed = node.take_over(&lab.sections(&pool(&more)));
    let failed = format!("{:#}", failed.err().context("an address is in use")?);
    ensure!(failed.contains("cannot listen on"), "{failed}");
    serves(&mut node)?;
    // One that has all, and ends before it says that it is ready.
    for says_sockets in [false, true] {
        // The end of the one before is noticed a moment after it.
        let mut asked = None;
        wait_for("it is offered", LIMIT, || {
            asked = ask_to_take_over(&node).ok();
            asked.as_ref().is_some_and(|(_, offer)| offer.contains("hand-over"))
        })?;
        let (mut stream, offer) = asked.context("it was offered")?;
        ensure!(offer.contains(&lab.address.to_string()), "{offer}");
        if says_sockets {
            stream.write_all(b"\"sockets\"\n")?;
            BufReader::with_capacity(1, &stream).read_until(b's', &mut Vec::new())?;
        }
        let (_late, refused) = ask_to_take_over(&node)?;
        ensure!(refused.contains("another process is about to take over"), "{refused}");
    }
    wait_for("it is noticed", LIMIT, || node.log().matches("serving on").count() == count + 3)?;
    serves(&mut node)?;
    node.take_over(&lab.sections(&pool("")))?.wait()?;
    ensure!(psql(&lab.by_tcp(), "select 7")?.stdout == b"7\n");
    Ok(())
}

/// Whatever has become of the two, somebody serves or can be started.
pub(crate) fn killed() -> anyhow::Result<()> {
    let lab = Lab::start()?;
    let settings = pool("");
    let sections = lab.sections(&settings);
    let mut node = lab.node(&settings)?;
    // The old one, once sessions of its own are all that it has.
    let elder = node.take_over(&sections)?;
    elder.signal(Signal::SIGKILL)?;
    ensure!(psql(&lab.by_unix(), "select 7")?.stdout == b"7\n");
    // The new one, while the old one has sessions still.
    let sleeper = Command::new("psql")
        .args(["--no-psqlrc", "--command", "select pg_sleep(60)", &lab.by_tcp()])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    let busy = "select count(*) from pg_stat_activity where wait_event = 'PgSleep'";
    wait_for("the query runs", LIMIT, || lab.direct(busy).is_ok_and(|busy| busy == "1"))?;
    let mut elder = node.take_over(&sections)?;
    node.end(Signal::SIGKILL)?;
    node.start_again(&sections)?;
    ensure!(elder.runs() && psql(&lab.by_tcp(), "select 7")?.stdout == b"7\n");
    // Asked to end, it cuts its sessions at once.
    elder.signal(Signal::SIGTERM)?;
    elder.wait()?;
    let told = told(&sleeper.wait_with_output()?);
    ensure!(told.contains("terminating connection due to administrator command"), "{told}");
    // The old one, at whatever moment.
    for _ in 0..3 {
        let pid = Pid::from_raw(i32::try_from(node.process_id())?);
        let log = node.folder().join("log");
        let (said, before) = ("getting ready to take over", said(&log));
        let killer = std::thread::spawn(move || {
            wait_for("it is half way", LIMIT, || self::said(&log) > before)?;
            kill(pid, Signal::SIGKILL)?;
            anyhow::Ok(said)
        });
        let taken = node.take_over(&sections);
        killer.join().ok().context("a panic")??;
        if let Err(error) = taken {
            println!("the new one did not take over: {error:#}");
            node.end(Signal::SIGKILL).ok();
            node.start_again(&sections)?;
        }
        ensure!(psql(&lab.by_tcp(), "select 7")?.stdout == b"7\n");
        ensure!(psql(&lab.by_unix(), "select 7")?.stdout == b"7\n");
    }
    Ok(())
}

fn said(log: &Path) -> usize {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    text.matches("getting ready to take over").count()
}

/// What cannot be taken over is said, and nothing happens.
pub(crate) fn refused() -> anyhow::Result<()> {
    let lab = Lab::start()?;
    let mut node = lab.node(&pool(""))?;
    for (settings, expected) in [
        (pool("[vip]\ninterface = \"lo\"\n"), "has [vip]"),
        (pool("[fence]\n"), "has [fence]"),
        (pool("peer_id = 3\n"), "proxy.peer_id is 3 here and 0"),
    ] {
        let refused = node.take_over(&lab.sections(&settings));
        let refused = format!("{:#}", refused.err().context("it must be refused")?);
        ensure!(refused.contains(expected), "{refused}");
        ensure!(node.runs());
    }
    node.end(Signal::SIGTERM)?;
    let config = node.folder().join("pgx.toml");
    std::fs::write(
        &config,
        format!("[admin]\nsocket = \"/nowhere\"\n{}", lab.sections(&pool(""))),
    )?;
    let output = Command::new(build::pgx(false)?)
        .args(["serve", "--take-over", "--config"])
        .arg(&config)
        .output()?;
    ensure!(output.status.code() == Some(4), "{output:?}");
    ensure!(told(&output).contains("start without --take-over"), "{}", told(&output));
    Ok(())
}
