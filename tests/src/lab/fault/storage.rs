//! Disks that are full or slow.

use std::fs::File;
use std::io::{ErrorKind, Write};

use anyhow::Context;
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};

use crate::lab::host::Host;
use crate::lab::postgres::FSYNC_DELAY_FILE;

/// Takes all the space; its blocks are allocated and never written, so filling costs no time.
const FILLER: &str = "/var/lib/pgx/lab-filler";
const CHUNK_MAX: i64 = 1 << 30;
/// The block size of the disk's file system: what is left is less than this.
const CHUNK_MIN: i64 = 1 << 10;

pub(super) fn fill(host: &Host) -> anyhow::Result<()> {
    let path = host.file(FILLER);
    let mut file = File::create(&path).with_context(|| format!("cannot make {FILLER}"))?;
    // What PostgreSQL wrote and the file system has not placed yet must have its blocks first.
    file.write_all(b"lab")?;
    file.sync_all()?;
    let (mut size, mut chunk) = (0, CHUNK_MAX);
    while chunk >= CHUNK_MIN {
        match fallocate(&file, FallocateFlags::FALLOC_FL_KEEP_SIZE, size, chunk) {
            Ok(()) => size += chunk,
            Err(Errno::ENOSPC) => chunk /= 2,
            Err(error) => return Err(error).context("cannot fill the disk"),
        }
    }
    Ok(())
}

pub(super) fn empty(host: &Host) -> anyhow::Result<()> {
    remove(host, FILLER)
}

pub(super) fn slow_fsync(host: &Host, ms: u32) -> anyhow::Result<()> {
    std::fs::write(host.file(FSYNC_DELAY_FILE), ms.to_string())
        .with_context(|| format!("cannot write {FSYNC_DELAY_FILE}"))
}

pub(super) fn normal_fsync(host: &Host) -> anyhow::Result<()> {
    remove(host, FSYNC_DELAY_FILE)
}

fn remove(host: &Host, path: &str) -> anyhow::Result<()> {
    match std::fs::remove_file(host.file(path)) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {path}"))
        }
        _ => Ok(()),
    }
}
