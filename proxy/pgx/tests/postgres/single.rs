//! One server: founded, started, ended, and what unclean ends leave behind.

use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use anyhow::ensure;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid, chown};
use pgx_control::agent::Process;
use pgx_control::cluster::sync::Rule;
use pgx_tests::lab::wait_for;

use crate::Test;
use crate::nodes::{Nodes, SOON, incarnation};
use crate::postgres::error::Error;
use crate::postgres::postmaster;

pub(crate) fn tests() -> Vec<(&'static str, Test)> {
    vec![
        ("log_that_has_become_long_is_put_aside_while_the_server_writes_on", long_log),
        ("founded_cluster_has_checksums_least_rights_and_closed_files", founded),
        ("kill_leaves_no_process_and_the_next_start_finds_nothing_in_its_way", killed),
        ("orphans_of_a_dead_postmaster_are_ended_before_anything_starts", orphans),
        ("stopped_processes_are_killed_too", stopped),
        ("server_whose_program_has_another_name_is_not_taken_for_gone", other_name),
        ("server_outlives_who_started_it_and_is_found_again", outlives),
        ("clean_end_reports_the_end_of_its_checkpoint", ended),
        ("start_that_fails_says_why", refused),
    ]
}

fn founded() -> anyhow::Result<()> {
    use std::os::unix::fs::MetadataExt;
    let mut nodes = Nodes::founded()?;
    let node = &mut nodes.all[0];
    let local = node.wait_local("a rule that is run", |local| local.runs_rule.is_some())?;
    ensure!(local.process == Process::Primary && local.timeline.0 == 1, "{local:?}");
    ensure!(local.runs_rule == Some(Rule::degraded()), "{local:?}");
    ensure!(local.recovery_end.is_some() && local.rule_since <= local.end, "{local:?}");
    ensure!(node.sql("show data_checksums")? == "on");
    ensure!(node.sql("show restart_after_crash")? == "off");
    let keepalives = "select sum(setting::int) from pg_file_settings \
                      where name like 'tcp_keepalives%' and applied";
    ensure!(node.sql(keepalives)? == "13");
    let role = "select rolsuper, rolreplication, rolcreaterole, rolpassword like 'SCRAM%' \
                from pg_authid where rolname like 'pgx%'";
    ensure!(node.sql(role)? == "f|t|f|t");
    for path in [node.place.folder(), node.place.sockets.clone(), node.place.data.clone()] {
        ensure!(std::fs::metadata(&path)?.mode() & 0o777 == 0o700, "{}", path.display());
    }
    for path in [node.place.pass_file(), node.place.replication_password_file.clone()] {
        ensure!(std::fs::metadata(&path)?.mode() & 0o777 == 0o600, "{}", path.display());
    }
    let again = node.hands().found(incarnation(0), &[]);
    ensure!(again.is_err(), "a directory with a cluster in it is not founded again");
    Ok(())
}

fn killed() -> anyhow::Result<()> {
    let mut nodes = Nodes::founded()?;
    let node = &mut nodes.all[0];
    node.sql("create table kept as select generate_series(1, 1000) as x")?;
    ensure!(node.processes().len() > 3);
    node.hands().kill()?;
    node.hands().kill()?;
    ensure!(node.processes().is_empty());
    let found = node.look()?;
    ensure!(found.local.process == Process::Stopped && found.local.was_primary, "{found:?}");
    ensure!(found.local.shut_down.is_none() && !found.local.is_drained, "{found:?}");
    // A number that is another process's by now would keep PostgreSQL from starting.
    let file = node.place.data.join("postmaster.pid");
    let port = node.place.port;
    let stale = format!("1\n{}\n1\n{port}\n\n\n0 0\n", node.place.data.display());
    std::fs::write(&file, &stale)?;
    std::fs::write(node.place.sockets.join(format!(".s.PGSQL.{port}.lock")), &stale)?;
    std::fs::write(node.place.sockets.join(format!(".s.PGSQL.{port}")), "")?;
    node.hands().start_standby()?;
    let local = node.wait_local("all of its log replayed", |local| local.is_drained)?;
    ensure!(local.process == Process::Standby, "{local:?}");
    ensure!(node.sql("select count(*) from kept")? == "1000");
    Ok(())
}

fn orphans() -> anyhow::Result<()> {
    let nodes = Nodes::founded()?;
    let node = &nodes.all[0];
    let postmaster = node.postmaster()?;
    let children: Vec<_> = node.processes().into_iter().filter(|pid| *pid != postmaster).collect();
    // Stopped, they do not notice that it is gone.
    for child in &children {
        // One that was about to end may have.
        let _ = kill(Pid::from_raw(*child), Signal::SIGSTOP);
    }
    kill(Pid::from_raw(postmaster), Signal::SIGKILL)?;
    wait_for("the postmaster to end", SOON, || node.postmaster().is_err())?;
    ensure!(!node.processes().is_empty());
    node.hands().start_standby()?;
    let now = node.processes();
    ensure!(children.iter().all(|child| !now.contains(child)), "{children:?} {now:?}");
    Ok(())
}

fn stopped() -> anyhow::Result<()> {
    let nodes = Nodes::founded()?;
    let node = &nodes.all[0];
    for pid in node.processes() {
        kill(Pid::from_raw(pid), Signal::SIGSTOP)?;
    }
    node.hands().kill()?;
    ensure!(node.processes().is_empty());
    Ok(())
}

fn other_name() -> anyhow::Result<()> {
    let mut nodes = Nodes::new()?;
    nodes.add()?;
    let node = &nodes.all[0];
    node.found()?;
    let (programs, data) = (&node.place.programs, &node.place.data);
    std::fs::create_dir(&node.place.sockets)?;
    chown(&node.place.sockets, Some(Uid::from_raw(node.place.owner)), None)?;
    let wrapped = nodes.folder().join("postgres-wrapped");
    std::fs::copy(programs.join("postgres"), &wrapped)?;
    let mut command = Command::new("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups", "bash", "-c"]);
    command.arg(r#"exec -a "$0" "$@""#).arg(programs.join("postgres")).arg(&wrapped).arg("-D");
    command.arg(data).stdout(Stdio::null()).stderr(Stdio::null()).current_dir("/");
    let mut server = command.process_group(0).spawn()?;
    wait_for("a server", SOON, || postmaster::find(data).is_some_and(|found| found.has_begun))?;
    let pid = Pid::from_raw(node.postmaster()?);
    // As one that waits for its disk.
    kill(pid, Signal::SIGSTOP)?;
    let ended = node.hands().kill();
    let is_gone = server.try_wait()?.is_some();
    let _ = kill(pid, Signal::SIGKILL);
    server.wait()?;
    ensure!(is_gone || ended.is_err(), "it lived, and was told as gone");
    Ok(())
}

fn outlives() -> anyhow::Result<()> {
    let mut nodes = Nodes::founded()?;
    let node = &mut nodes.all[0];
    let postmaster = node.postmaster()?;
    let stat = std::fs::read_to_string(format!("/proc/{postmaster}/stat"))?;
    let fields: Vec<_> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let (parent, session) = (fields[1].to_owned(), fields[3].to_owned());
    ensure!(parent != std::process::id().to_string(), "it is nobody's child");
    ensure!(session == postmaster.to_string(), "its session is its own");
    for end in 0..3 {
        let to = std::fs::read_link(format!("/proc/{postmaster}/fd/{end}"))?;
        ensure!(to.starts_with("/dev/null") || to == node.place.log(), "{}", to.display());
    }
    node.forget();
    node.hands().start_founder()?;
    ensure!(node.look()?.postmaster.is_some_and(|found| found.pid == postmaster));
    Ok(())
}

fn ended() -> anyhow::Result<()> {
    let mut nodes = Nodes::founded()?;
    let node = &mut nodes.all[0];
    node.sql("create table kept as select generate_series(1, 1000) as x")?;
    let end = node.hands().shut_down()?;
    ensure!(node.hands().shut_down()? == end, "it is not ended twice");
    let found = node.look()?.local;
    ensure!(found.shut_down == Some(end) && found.is_drained && found.end == end, "{found:?}");
    // A standby that has all of it says so in PostgreSQL's own words.
    node.hands().start_standby()?;
    let local = node.wait_local("all of its log replayed", |local| local.is_drained)?;
    ensure!(local.end == end, "{local:?}");
    Ok(())
}

fn refused() -> anyhow::Result<()> {
    let nodes = Nodes::founded()?;
    let node = &nodes.all[0];
    node.hands().kill()?;
    let known = std::fs::read_to_string(&node.place.config_file)?;
    std::fs::write(&node.place.config_file, format!("{known}shared_buffers = 'much'\n"))?;
    // Standbys ask for its settings first, a founder does not.
    for started in [node.hands().start_founder(), node.hands().start_standby()] {
        let said = started.err().map(|error| error.to_string()).unwrap_or_default();
        ensure!(said.contains("shared_buffers"), "{said}");
    }
    std::fs::remove_file(node.place.config_file.with_file_name("pgx.conf"))?;
    let started = node.hands().start_standby();
    ensure!(matches!(started, Err(Error::NotManaged(_))), "{started:?}");
    Ok(())
}

fn long_log() -> anyhow::Result<()> {
    let nodes = Nodes::founded()?;
    let node = &nodes.all[0];
    let log = node.place.log();
    let old = |number: u32| node.place.folder().join(format!("server.log.{number}"));
    node.hands().bound_log()?;
    ensure!(!old(1).exists(), "it is short");
    for round in 1..=5_u32 {
        let file = std::fs::OpenOptions::new().write(true).open(&log)?;
        file.set_len((32 << 20) + u64::from(round))?;
        node.hands().bound_log()?;
        ensure!(log.metadata()?.len() < 1 << 20, "nothing was cut");
        ensure!(node.sql("select 1/0").is_err());
        let said = std::fs::read_to_string(&log)?;
        ensure!(said.contains("division by zero") && !said.contains('\0'), "{said:?}");
    }
    let lengths: Vec<_> = (1..=4).map(|number| old(number).metadata().ok()).collect();
    let lengths: Vec<_> =
        lengths.iter().map(|found| found.as_ref().map(|found| found.len())).collect();
    let expected = |round: u64| Some((32 << 20) + round);
    ensure!(lengths == [expected(5), expected(4), expected(3), None], "{lengths:?}");
    Ok(())
}
