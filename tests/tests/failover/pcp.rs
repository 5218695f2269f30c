//! The pcp commands of pgpool-II, as scripts call them: by their names, which lead to pgx.

use std::collections::BTreeMap;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, ensure};
use pgx_tests::cluster::WAIT_MAX;
use pgx_tests::lab::wait_for;
use pgx_tests::members::Members;
use tempfile::TempDir;

use crate::binary;

/// What pgx takes beyond the pcp commands.
const OWN: [&str; 6] = ["socket", "url", "ca", "cert", "key", "version"];

/// The pcp commands that this machine's pgpool-II has.
fn installed() -> anyhow::Result<Vec<PathBuf>> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders = std::env::split_paths(&path);
    let folder = folders.find(|folder| folder.join("pcp_node_info").is_file());
    let files = std::fs::read_dir(folder.context("no pcp commands")?)?.flatten();
    let is_pcp = |file: &PathBuf| file.to_str().is_some_and(|text| text.contains("/pcp_"));
    Ok(files.map(|file| file.path()).filter(is_pcp).collect())
}

/// The options of a help text: by the long name, the letter, and whether a value follows.
fn options(help: &str) -> BTreeMap<String, (String, bool)> {
    let option = |line: &str| {
        let (short, rest) = line.trim().strip_prefix('-')?.split_once(", --").or_else(|| {
            // One without a letter.
            line.trim().strip_prefix("--").map(|rest| ("", rest))
        })?;
        let is_part = |c: char| c.is_alphanumeric() || c == '-';
        let end = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
        let takes = rest[end..].starts_with('=') || rest[end..].starts_with(" <");
        Some((rest[..end].to_owned(), (short.to_owned(), takes)))
    };
    help.lines().filter_map(option).collect()
}

fn help(program: &Path) -> anyhow::Result<BTreeMap<String, (String, bool)>> {
    let said = Command::new(program).arg("--help").output()?;
    ensure!(said.status.success(), "{}: {said:?}", program.display());
    // Those of pgpool-II say it on standard error.
    let text = String::from_utf8([said.stdout, said.stderr].concat())?;
    Ok(options(&text))
}

/// What Debian ships is read whole, and what is made of it is usable.
pub(crate) fn imported() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let made = folder.path().join("pgx.toml");
    let samples =
        ["/etc/pgpool2/pgpool.conf", "/usr/share/doc/pgpool2/examples/pgpool.conf.sample"];
    let there: Vec<_> = samples.iter().filter(|sample| Path::new(sample).exists()).collect();
    // Small systems leave documentation out.
    ensure!(!there.is_empty(), "pgpool2 has no configuration");
    for sample in there {
        let said = Command::new(binary()).args(["import", sample]).output()?;
        ensure!(said.status.success() && !said.stderr.is_empty(), "{sample}: {said:?}");
        std::fs::write(&made, said.stdout)?;
        let check = Command::new(binary()).args(["config", "check"]).arg(&made).output()?;
        ensure!(check.status.success(), "{sample}: {check:?}");
    }
    Ok(())
}

pub(crate) fn alike() -> anyhow::Result<()> {
    let links = tempfile::tempdir()?;
    let installed = installed()?;
    ensure!(installed.len() >= 13, "{installed:?}");
    for theirs in installed {
        let ours = links.path().join(theirs.file_name().context("no name")?);
        symlink(binary(), &ours)?;
        let (theirs_take, mut ours_take) = (help(&theirs)?, help(&ours)?);
        ensure!(theirs_take.len() >= 8, "{}: {theirs_take:?}", theirs.display());
        for name in OWN {
            ensure!(ours_take.remove(name).is_some(), "{}: no --{name}", ours.display());
        }
        ensure!(
            theirs_take == ours_take,
            "{}: {theirs_take:?}, and ours {ours_take:?}",
            theirs.display()
        );
    }
    Ok(())
}

/// A cluster, and a folder with links of the commands' names to pgx.
struct Place {
    members: Members,
    links: TempDir,
}

impl Place {
    /// A command as a script says it, on the host of a node.
    fn run(&self, id: usize, line: &str) -> anyhow::Result<Output> {
        let mut words = line.split(' ');
        let name = words.next().context("no command")?;
        let link = self.links.path().join(format!("pcp_{name}"));
        if !link.exists() {
            symlink(binary(), &link)?;
        }
        let mut command = Command::new(link);
        command.env("PGX_SOCKET", self.members.node(id).folder().join("admin.sock"));
        command.args(["-h", "localhost", "-p", "9898", "-U", "pgpool", "-w"]).args(words);
        command.output().context("cannot run it")
    }

    /// What it prints, if it is done.
    fn say(&self, id: usize, line: &str) -> anyhow::Result<String> {
        let said = self.run(id, line)?;
        ensure!(said.status.success(), "{line}: {said:?}");
        Ok(String::from_utf8(said.stdout)?)
    }

    /// Has it done, and sees that it says so.
    fn done(&self, id: usize, line: &str) -> anyhow::Result<()> {
        let name = line.split(' ').next().unwrap_or_default();
        let said = self.say(id, line)?;
        ensure!(said == format!("pcp_{name} -- Command Successful\n"), "{line}: {said}");
        Ok(())
    }

    /// Sees that it is not done, with this exit code, words on standard error and nothing else.
    fn fails(&self, id: usize, line: &str, code: i32, words: &str) -> anyhow::Result<()> {
        let said = self.run(id, line)?;
        let text = String::from_utf8_lossy(&said.stderr);
        let is_told = text.contains(words) && said.stdout.is_empty();
        ensure!(said.status.code() == Some(code) && is_told, "{line}: {said:?}");
        Ok(())
    }

    /// A column of a node's line in `pcp_node_info`.
    fn column(&self, id: usize, node: usize, column: usize) -> anyhow::Result<String> {
        let line = self.say(id, &format!("node_info {node}"))?;
        let words: Vec<_> = line.split_whitespace().collect();
        ensure!(words.len() == 13, "{line}");
        Ok(words[column].to_owned())
    }

    fn wait(&self, node: usize, column: usize, word: &str) -> anyhow::Result<()> {
        let id = if node == 1 { 2 } else { 1 };
        wait_for(&format!("column {column} of node {node} is {word}"), WAIT_MAX, || {
            self.column(id, node, column).is_ok_and(|found| found == word)
        })
        .with_context(|| format!("{:?}", self.run(id, "node_info")))
    }
}

pub(crate) fn scripts() -> anyhow::Result<()> {
    let members = Members::start(binary(), 3)?;
    let (primary, epoch) = members.primary()?;
    let mut place = Place { members, links: tempfile::tempdir()? };
    let others: Vec<_> = (1..=3).filter(|id| *id != primary).collect();
    let [standby, other] = others[..] else { anyhow::bail!("two standbys") };
    looks(&place, primary, standby)?;
    watchdog(&place, standby)?;

    for line in ["reload_config", "reload_config -s local", "log_rotate", "invalidate_query_cache"]
    {
        place.done(standby, line)?;
    }
    place.fails(standby, "reload_config -s cluster", 1, "127.0.0.1:")?;
    place.fails(standby, "attach_node", 2, "--node-id")?;

    place.done(other, &format!("detach_node -g -n {standby}"))?;
    place.wait(standby, 2, "3")?;
    ensure!(place.column(other, standby, 5)? == "up", "its PostgreSQL goes on");
    place.done(other, &format!("attach_node {standby}"))?;
    place.wait(standby, 2, "2")?;
    place.fails(other, &format!("detach_node {primary}"), 5, "")?;

    place.done(other, &format!("promote_node -s {standby}"))?;
    let next = place.members.wait_for_another(primary, epoch)?;
    place.members.wait_for_calm(epoch + 1)?;
    ensure!(next == standby, "{}", place.members.log(standby));
    place.wait(next, 6, "primary")?;

    let before = place.members.directory(other)?;
    place.fails(next, &format!("recovery_node -n {other}"), 1, "--url https://127.0.0.")?;
    place.fails(next, &format!("recovery_node -n {next}"), 5, "")?;
    wait_for("the copy begins", WAIT_MAX, || {
        place.done(other, &format!("recovery_node {other}")).is_ok()
    })?;
    wait_for("it is another directory", WAIT_MAX, || {
        place.members.directory(other).is_ok_and(|directory| directory != before)
    })
    .with_context(|| place.members.log(other))?;
    place.wait(other, 9, "streaming")?;

    place.fails(other, "stop_pgpool --scope cluster", 1, "each of its nodes")?;
    let mut open = place.members.session_by_proxy(other, "begin; select pg_sleep(600)")?;
    place.done(other, "stop_pgpool -m fast")?;
    place.members.node_mut(other).wait_for_end()?;
    open.kill()?;
    open.wait()?;
    place.fails(other, "node_count", 4, "is pgx running on this host")?;
    place.members.start_again(other)?;
    place.done(other, "stop_pgpool")?;
    place.members.node_mut(other).wait_for_end()?;
    wait_for("it is missed", WAIT_MAX, || {
        place
            .say(next, &format!("watchdog_info {other}"))
            .is_ok_and(|said| said.contains(" 8 LOST "))
    })
}

/// What is printed of nodes and of the pool.
fn looks(place: &Place, primary: usize, standby: usize) -> anyhow::Result<()> {
    ensure!(place.say(standby, "node_count")? == "3\n");
    ensure!(place.say(standby, "node_count -v")?.ends_with("\n 3\n"));
    let all = place.say(standby, "node_info -a")?;
    let (host, port) = place.members.server(primary);
    let start = format!("{host} {port} 2 0.000000 up up primary primary 0 none none 20");
    ensure!(all.lines().count() == 3 && all.lines().any(|line| line.starts_with(&start)), "{all}");
    for id in 1..=3 {
        let one = place.say(standby, &format!("node_info -n {id}"))?;
        ensure!(all.contains(&one) && one.lines().count() == 1, "{all}{one}");
        let health = place.say(standby, &format!("health_check_stats {id}"))?;
        let start = format!("{id} 127.0.0.{id} {port} up ");
        ensure!(health.starts_with(&start) && health.ends_with("  \n"), "{health}");
    }
    let labelled = place.say(standby, &format!("node_info --verbose {standby}"))?;
    ensure!(labelled.contains("\nReplication State      : streaming\n"), "{labelled}");
    place.fails(standby, "node_info 0", 1, "a cluster's numbers begin with 1")?;

    ensure!(place.members.sql(primary, "select 1")? == "1");
    let process = place.members.node(primary).process_id();
    ensure!(place.say(primary, "proc_count")? == format!("{process} \n"));
    let processes = place.say(primary, &format!("proc_info -P {process}"))?;
    let line = processes.lines().find(|line| line.starts_with("postgres postgres 20"));
    let end = format!(" 0 {process} {primary} Idle");
    ensure!(line.is_some_and(|line| line.ends_with(&end)), "{processes}");
    place.fails(primary, "proc_info 1", 1, "pgx is one process")?;
    let settings = place.say(primary, "pool_status")?;
    ensure!(settings.contains("name : pool_mode\nvalue: transaction\ndesc : "), "{settings}");
    Ok(())
}

fn watchdog(place: &Place, id: usize) -> anyhow::Result<()> {
    let quorum = place.say(id, "watchdog_info")?;
    let head = quorum.lines().next().unwrap_or_default();
    ensure!(head.starts_with("3 3 NO 127.0.0.") && quorum.lines().count() == 5, "{quorum}");
    ensure!(quorum.matches(" LEADER 0 MEMBER\n").count() == 1, "{quorum}");
    ensure!(quorum.matches(" STANDBY 0 MEMBER\n").count() == 2, "{quorum}");
    let own = place.say(id, "watchdog_info -n 0")?;
    let port = place.members.node(id).address()?.port();
    ensure!(own.contains(&format!(" pgx {id} 127.0.0.{id} {port} ")), "{own}");
    let labelled = place.say(id, "watchdog_info -v")?;
    ensure!(labelled.contains("\nQuorum state             : QUORUM EXIST\n"), "{labelled}");
    Ok(())
}
