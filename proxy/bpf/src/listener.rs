//! Who listens on PostgreSQL's port here, and in which cgroup each of those sockets really is.
//!
//! The kernel says it of the socket itself (`INET_DIAG_CGROUP_ID`, Linux 5.9): a process may have
//! been moved since, and then its sockets stay where they were made.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::diag::{self, Id, LISTENING};

/// `INET_DIAG_CGROUP_ID` of linux/inet_diag.h.
const CGROUP_ID: u16 = 21;
/// A family's number as the kernel tells it.
const IPV4: u8 = 2;
/// Cgroups looked at in search of one; a host of containers has some thousands.
const CGROUPS_MAX: usize = 100_000;

/// A socket that listens on the port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Listener {
    /// Where it can be reached from this host.
    pub(crate) address: IpAddr,
    /// The cgroup that it is in, by the kernel's number; none on kernels that do not tell.
    pub(crate) cgroup: Option<u64>,
}

/// Every socket that listens on `port`, sorted.
pub(crate) fn listeners(port: u16) -> io::Result<Vec<Listener>> {
    let socket = diag::open()?;
    let mut all = Vec::new();
    for family in diag::families() {
        for found in diag::list(&socket, family, LISTENING, 0)? {
            if u16::from_be_bytes([found.id[0], found.id[1]]) == port {
                let cgroup = diag::attribute(&found.attributes, CGROUP_ID)
                    .and_then(|value| value.first_chunk())
                    .map(|bytes| u64::from_ne_bytes(*bytes));
                all.push(Listener { address: near_address(&found.id, family), cgroup });
            }
        }
    }
    all.sort();
    all.dedup();
    Ok(all)
}

/// The folder of a cgroup, where its file system is mounted here.
pub(crate) fn cgroup_folder(id: u64) -> io::Result<Option<PathBuf>> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let folders = mounts.lines().filter_map(|line| {
        let (place, kind) = line.split_once(" - ")?;
        let is_cgroup2 = kind.split(' ').next() == Some("cgroup2");
        is_cgroup2.then(|| place.split(' ').nth(4).map(PathBuf::from))?
    });
    for folder in folders {
        if let Some(found) = search(&folder, id) {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// Looks for a folder by its inode, which is the cgroup's number.
fn search(root: &Path, id: u64) -> Option<PathBuf> {
    let mut waiting = vec![root.to_owned()];
    let mut looked_at = 0;
    while let Some(folder) = waiting.pop() {
        looked_at += 1;
        if looked_at > CGROUPS_MAX {
            return None;
        }
        // A cgroup may go while we look.
        let Ok(meta) = fs::metadata(&folder) else { continue };
        if meta.ino() == id {
            return Some(folder);
        }
        let entries = fs::read_dir(&folder).into_iter().flatten().flatten();
        let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        waiting.extend(folders.map(|entry| entry.path()));
    }
    None
}

/// Where the socket can be reached: its own address, or loopback if it takes any.
fn near_address(id: &Id, family: u8) -> IpAddr {
    // Behind the two ports.
    let mut near = [0; 16];
    near.copy_from_slice(&id[4..20]);
    let address = if family == IPV4 {
        let [a, b, c, d, ..] = near;
        IpAddr::V4(Ipv4Addr::new(a, b, c, d))
    } else {
        IpAddr::V6(Ipv6Addr::from(near))
    };
    match address {
        IpAddr::V4(any) if any.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(any) if any.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        address => address,
    }
}
