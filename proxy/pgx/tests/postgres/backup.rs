//! Directories that the operator's program fills from a backup.

use std::path::Path;

use anyhow::ensure;
use pgx_control::ids::NodeId;
use pgx_tests::lab::wait_for;

use crate::Test;
use crate::nodes::{Nodes, SOON, incarnation};
use crate::postgres::rebuild::Means;
use crate::rebuild::rebuild_in_vain;

pub(crate) fn tests() -> Vec<(&'static str, Test)> {
    vec![
        ("backup_is_followed_by_the_archive_and_then_streams", restored),
        ("backup_that_is_of_no_use_makes_way_for_a_clone", useless),
        ("archiving_that_fails_or_would_end_with_the_primary_is_told", archiving),
        ("abort_ends_the_program_that_restores_with_all_it_has_started", aborted),
    ]
}

fn archiving() -> anyhow::Result<()> {
    let mut nodes = backed_up()?;
    ensure!(nodes.all[0].hands().archive_troubles()?.is_empty());
    nodes.all[1].hands().rebuild(&nodes.all[0].peer(), incarnation(1), &mut |_| {})?;
    let own = &nodes.all[1].place.config_file;
    let config = std::fs::read_to_string(own)?;
    std::fs::write(own, config.replace("archive_mode = on", "archive_mode = off"))?;
    let standby = &mut nodes.all[1];
    standby.hands().start_standby()?;
    standby.wait_local("a standby that streams", |local| local.is_streaming)?;
    let told = standby.hands().archive_troubles()?;
    ensure!(told.len() == 1 && told[0].contains("off here and on at the primary"), "{told:?}");

    let primary = &nodes.all[0];
    primary.sql("alter system set archive_command = 'false'")?;
    primary.sql("select pg_reload_conf()")?;
    wait_for("archiving to fail", SOON, || {
        // The archiver may still go by the command from before.
        let more = primary.sql("select txid_current(), pg_switch_wal()");
        let failed = primary.sql("select failed_count > 0 from pg_stat_archiver");
        more.is_ok() && failed.is_ok_and(|said| said == "t")
    })?;
    let told = primary.hands().archive_troubles()?;
    ensure!(told.len() == 1 && told[0].contains("archiving fails"), "{told:?}");
    primary.sql("alter system set archive_command = ''")?;
    primary.sql("select pg_reload_conf()")?;
    let told = primary.hands().archive_troubles()?;
    ensure!(told.iter().any(|told| told.contains("pg_wal grows until")), "{told:?}");
    Ok(())
}

fn shell(script: &str) -> Vec<String> {
    ["/bin/sh", "-ec", script].map(str::to_owned).to_vec()
}

/// A primary with an archive and a backup, since which its own log is gone, and a node without
/// anything.
fn backed_up() -> anyhow::Result<Nodes> {
    let mut nodes = Nodes::new()?;
    nodes.add()?;
    nodes.add()?;
    let (node, folder) = (&nodes.all[0], nodes.folder());
    node.found()?;
    let config = std::fs::read_to_string(&node.place.config_file)?;
    let archive =
        "archive_mode = on\narchive_command = 'mkdir -p FOLDER/log && cp %p FOLDER/log'\n";
    let archive = archive.replace("FOLDER", &folder.display().to_string());
    std::fs::write(&node.place.config_file, format!("{archive}{config}"))?;
    node.hands().start_founder()?;
    node.wait_ready()?;
    node.sql("create table kept as select generate_series(1, 1000) as x")?;
    let (sockets, port) = (node.place.sockets.display().to_string(), node.place.port.to_string());
    let backup = folder.join("backup").display().to_string();
    let words = ["-D", &backup, "-X", "none", "-c", "fast", "-h", &sockets, "-p", &port];
    node.program("pg_basebackup", &words)?;
    for _ in 0..4 {
        node.sql("insert into kept values (1)")?;
        node.sql("select pg_switch_wal()")?;
        node.sql("checkpoint")?;
    }
    let last = node.sql("select pg_walfile_name(pg_switch_wal())")?;
    node.wait_sql(&format!("select last_archived_wal >= '{last}' from pg_stat_archiver"), "t")?;
    node.sql("checkpoint")?;
    node.hands().keep_slots(&[(NodeId(1), None)])?;
    Ok(nodes)
}

fn copies(folder: &Path, with_archive: bool) -> Vec<String> {
    let folder = folder.display();
    let copy = format!("cp -a {folder}/backup/. \"$PGX_DATA_DIRECTORY\"");
    if !with_archive {
        return shell(&copy);
    }
    let set = format!("restore_command = 'cp {folder}/log/%f %p'");
    shell(&format!("{copy}; echo \"{set}\" >>\"$PGX_DATA_DIRECTORY/postgresql.auto.conf\""))
}

fn rebuild(nodes: &Nodes) -> anyhow::Result<Means> {
    let upstream = nodes.all[0].peer();
    Ok(nodes.all[1].hands().rebuild(&upstream, incarnation(1), &mut |_| {})?)
}

fn restored() -> anyhow::Result<()> {
    let mut nodes = backed_up()?;
    nodes.all[1].place.clone_command = copies(nodes.folder(), true);
    ensure!(rebuild(&nodes)? == Means::FromBackup);
    let unproven = nodes.all[1].place.folder().join("from_backup");
    ensure!(unproven.exists());
    let node = &mut nodes.all[1];
    node.hands().start_standby()?;
    node.wait_local("a standby that streams", |local| local.is_streaming)?;
    node.wait_sql("select count(*) from kept", "1004")?;
    ensure!(node.sql("show restore_command")?.starts_with("cp "), "it is the operator's");
    ensure!(node.sql("show port")? == node.place.port.to_string());
    node.hands().settle_backup()?;
    ensure!(!unproven.exists(), "it streams");
    Ok(())
}

fn useless() -> anyhow::Result<()> {
    let mut nodes = backed_up()?;
    let initdb = nodes.all[0].place.programs.join("initdb").display().to_string();
    let other = format!(
        "{initdb} --no-sync -D \"$PGX_DATA_DIRECTORY\"; \
         echo \"restore_command = 'false'\" >>\"$PGX_DATA_DIRECTORY/postgresql.auto.conf\""
    );
    for words in [
        shell("mkdir \"$PGX_DATA_DIRECTORY/base\"; exit 3"),
        vec!["/nonexistent/program".to_owned()],
        shell(&other),
        // The log since then is in the archive alone, and nobody fetches it.
        copies(nodes.folder(), false),
    ] {
        nodes.all[1].place.clone_command = words.clone();
        ensure!(rebuild(&nodes)? == Means::Cloned, "{words:?}");
        // There is something to rewind now.
        nodes.all[1].hands().kill()?;
        std::fs::remove_dir_all(&nodes.all[1].place.data)?;
    }
    // What was restored has never streamed, and has to be built anew.
    nodes.all[1].place.clone_command = copies(nodes.folder(), true);
    for means in [Means::FromBackup, Means::Cloned, Means::FromBackup] {
        ensure!(rebuild(&nodes)? == means);
        std::fs::remove_dir_all(&nodes.all[1].place.data)?;
    }
    ensure!(rebuild(&nodes)? == Means::Cloned);
    let node = &mut nodes.all[1];
    node.hands().start_standby()?;
    node.wait_local("a standby that streams", |local| local.is_streaming)?;
    node.wait_sql("select count(*) from kept", "1004")
}

fn aborted() -> anyhow::Result<()> {
    let mut nodes = backed_up()?;
    let child = nodes.folder().join("child");
    let script = "setsid sleep 600 & echo $! >CHILD; mkdir \"$PGX_DATA_DIRECTORY/base\"; wait";
    let script = script.replace("CHILD", &child.display().to_string());
    nodes.all[1].place.clone_command = shell(&script);
    rebuild_in_vain(&nodes)?;
    let process = Path::new("/proc").join(std::fs::read_to_string(&child)?.trim());
    wait_for("what it has started is gone", SOON, || !process.join("cwd").exists())?;
    ensure!(nodes.all[1].is_half(), "nobody may start it");
    nodes.all[1].place.clone_command = copies(nodes.folder(), true);
    ensure!(rebuild(&nodes)? == Means::FromBackup, "the next try begins anew");
    Ok(())
}
