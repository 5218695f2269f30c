//! Whether PostgreSQL's disks have room, which it tells of in its log alone: a standby on a full
//! one only receives no more.

use std::path::Path;

use rustix::fs::statvfs;

use super::hands::Hands;
use crate::limits::postgres::SCARCE_BELOW_BYTES;

impl Hands {
    /// What disks are nearly full, in words.
    pub(crate) fn scarce_disks(&self) -> Vec<String> {
        let data = &self.place.data;
        let log = super::elsewhere::log(data, data);
        [Some(data.clone()), log].iter().flatten().filter_map(|folder| scarce(folder)).collect()
    }
}

fn scarce(folder: &Path) -> Option<String> {
    let found = statvfs(folder).ok()?;
    let free = found.f_bavail.saturating_mul(found.f_frsize);
    (free < SCARCE_BELOW_BYTES).then(|| {
        format!(
            "the disk of {} has {} MiB left; PostgreSQL ends when it is full, or receives no \
             more: make room",
            folder.display(),
            free >> 20
        )
    })
}
