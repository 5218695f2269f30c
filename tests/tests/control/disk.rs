//! A full disk under the log: the node stands still, says so, and goes on by itself.

use std::path::Path;

use anyhow::Context;
use libtest_mimic::Trial;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use pgx_tests::cluster::{WAIT_MAX, ask, control, wait_for_coordinator};
use pgx_tests::lab::wait_for;
use pgx_tests::skip::{self, Requirement};

use crate::{cluster, place};

pub(crate) fn trials() -> Vec<Trial> {
    let name = "full_disk_halts_a_node_and_space_heals_it";
    vec![skip::trial(name, &[Requirement::Root], full_disk_halts_a_node_and_space_heals_it)]
}

/// A small disk, gone with the value.
pub(crate) struct Disk<'a>(&'a Path);

impl<'a> Disk<'a> {
    pub(crate) fn new(path: &'a Path, size: &str) -> anyhow::Result<Self> {
        std::fs::create_dir_all(path)?;
        let options = format!("size={size},mode=700");
        mount(Some("tmpfs"), path, Some("tmpfs"), MsFlags::empty(), Some(&*options))
            .context("mount")?;
        Ok(Self(path))
    }
}

impl Drop for Disk<'_> {
    fn drop(&mut self) {
        // Nothing is left to be done about it.
        let _ = umount2(self.0, MntFlags::MNT_DETACH);
    }
}

fn full_disk_halts_a_node_and_space_heals_it() -> anyhow::Result<()> {
    let cluster = cluster(3);
    let data = cluster.data(3);
    let _disk = Disk::new(&data, "8m")?;
    let nodes = cluster.begin(3)?;
    ask(&nodes[0], &["transfer", "--to", "1"]).ok();
    let fill = data.join("fill");
    // As much as there is room for; that there is no more is the point.
    let wrote = std::fs::write(&fill, vec![7; 16 * 1024 * 1024]);
    anyhow::ensure!(wrote.is_err(), "the disk is not full");

    let mut is_paused = false;
    wait_for("node 3 stands still", WAIT_MAX, || {
        is_paused = !is_paused;
        ask(&nodes[0], &[if is_paused { "pause" } else { "resume" }]).ok();
        control(&nodes[2]).is_some_and(|seen| seen["halted"].as_str() != Some(""))
    })
    .with_context(|| nodes[2].log())?;
    anyhow::ensure!(nodes[2].log().contains("leases go on"), "{}", nodes[2].log());
    let first = wait_for_coordinator(&[&nodes[0], &nodes[1]])?;
    anyhow::ensure!(place(first) < 2);

    std::fs::remove_file(&fill)?;
    wait_for("node 3 goes on", WAIT_MAX, || {
        control(&nodes[2]).is_some_and(|seen| seen["halted"] == "" && seen["coordinator"] != 0)
    })
    .with_context(|| nodes[2].log())?;
    wait_for_coordinator(&nodes.iter().collect::<Vec<_>>()).map(|_| ())
}
