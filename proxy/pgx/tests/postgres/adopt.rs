//! Clusters that were there before pgx.

use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use anyhow::ensure;
use pgx_control::agent::Process;

use crate::Test;
use crate::nodes::{Node, Nodes, directory, incarnation};
use crate::postgres::adopt::Remedy;
use crate::postgres::settings::Managed;

pub(crate) fn tests() -> Vec<(&'static str, Test)> {
    vec![("running_cluster_is_taken_over_without_a_restart_and_told_what_it_lacks", adopted)]
}

fn run(node: &Node, program: &str, words: &[&str]) -> anyhow::Result<()> {
    let owner = node.place.owner;
    let user = nix::unistd::User::from_uid(owner.into())?;
    let group = user.map_or(owner, |user| user.gid.as_raw());
    let mut command = Command::new(node.place.programs.join(program));
    command.args(words).uid(owner).gid(group).current_dir("/");
    let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status()?;
    ensure!(status.success(), "{program} failed");
    Ok(())
}

fn adopted() -> anyhow::Result<()> {
    let mut nodes = Nodes::new()?;
    nodes.add()?;
    let elsewhere = nodes.folder().display().to_string();
    let node = &mut nodes.all[0];
    let data = node.place.data.display().to_string();
    run(node, "initdb", &["-D", &data, "-U", "postgres", "--no-sync", "-A", "trust"])?;
    let mut mine = std::fs::read_to_string(&node.place.config_file)?;
    mine += &format!(
        "port = {}\nunix_socket_directories = '{elsewhere}'\nlisten_addresses = '127.0.0.1'\n\
         fsync = off\nwork_mem = 7MB\n",
        node.place.port
    );
    std::fs::write(&node.place.config_file, &mine)?;
    std::fs::write(node.place.config_file.with_file_name("start.conf"), "auto\n")?;
    let log = nodes.folder().join("n0/log").display().to_string();
    let node = &mut nodes.all[0];
    run(node, "pg_ctl", &["-D", &data, "-l", &log, "-w", "start"])?;
    let postmaster = node.postmaster()?;
    let found = node.look()?;
    ensure!(directory(&found).is_none() && found.local.process == Process::Primary, "{found:?}");

    let managed = Managed::new(incarnation(0));
    let adoption = node.hands().adopt(&managed)?;
    ensure!(node.hands().adopt(&managed)? == adoption, "twice is as once");
    ensure!(node.postmaster()? == postmaster, "it runs on");
    ensure!(adoption.autostart.is_some());
    let local = node.wait_local("a rule", |local| local.runs_rule.is_some())?;
    ensure!(local.process == Process::Primary, "{local:?}");
    let now = std::fs::read_to_string(&node.place.config_file)?;
    ensure!(now.starts_with(&mine), "the rest of the file is untouched");

    node.hands().shut_down()?;
    node.hands().start_founder()?;
    node.wait_ready()?;
    let lacks = node.hands().adopt(&managed)?.lacks;
    ensure!(lacks.len() == 1 && lacks[0].remedy == Remedy::Operator, "{lacks:?}");
    let mut wanted =
        vec![("fsync", Remedy::Operator), ("unix_socket_directories", Remedy::Restart)];
    // Checksums, which initdb makes from version 18 on, are as good.
    if node.sql("show data_checksums")? == "off" {
        wanted.push(("wal_log_hints", Remedy::Restart));
    }
    let lacked: Vec<_> =
        adoption.lacks.iter().map(|lack| (lack.setting.as_str(), lack.remedy)).collect();
    ensure!(lacked == wanted, "{lacked:?}");
    ensure!(node.sql("show work_mem")? == "7MB");
    // It can be copied from.
    let peer = node.peer();
    nodes.add()?;
    let copy = &mut nodes.all[1];
    copy.hands().rebuild(&peer, incarnation(1), &mut |_| {})?;
    Ok(())
}
