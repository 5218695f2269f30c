//! Where maps and links are pinned, so that they outlive the process.
//!
//! `<mount>/<base>/<version>/maps/<map>` and `…/links/<program>-<mode>-<namespace>-<interface>`.
//! The version is the ABI's: two builds that read a map differently never meet in one directory.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};
use pgx_abi::{FENCE, PIN_VERSION};

use crate::attach::Mode;
use crate::device::Device;
use crate::error::is_forbidden;
use crate::{Error, sys};

/// Where the BPF file system is by convention.
pub const BPFFS: &str = "/sys/fs/bpf";

/// Where lock files lie; empty after a boot.
const RUN: &str = "/run";

const MAPS: &str = "maps";
const LINKS: &str = "links";

/// A pinned program of a fence, of whatever pin version: it stands, whoever runs.
#[must_use]
pub fn pinned_fence(mount: &Path, base: &str) -> Option<PathBuf> {
    let links = list(&mount.join(base)).ok()?.into_iter().map(|version| version.join(LINKS));
    let mut all = links.flat_map(|links| list(&links).unwrap_or_default());
    all.find(|link| {
        let name = link.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.starts_with(FENCE)
    })
}

/// A directory of pins, of one pin version.
#[derive(Clone, Debug)]
pub struct Pins {
    dir: PathBuf,
}

impl Pins {
    /// Opens the pins of `base` under the BPF file system at `mount`, which is mounted if it is not
    /// there, and makes the directories. The usual arguments are [`BPFFS`] and
    /// [`PIN_BASE`](crate::PIN_BASE).
    ///
    /// A mount belongs to a mount namespace: what is pinned in a private one goes away with it.
    ///
    /// # Errors
    /// [`Error::BpffsMount`], [`Error::Unprivileged`] or [`Error::Pin`].
    pub fn open(mount: &Path, base: &str) -> Result<Self, Error> {
        Self::open_version(mount, base, PIN_VERSION)
    }

    /// The same for another pin version than that of this build.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_version(mount: &Path, base: &str, version: &str) -> Result<Self, Error> {
        ensure_bpffs(mount)?;
        let dir = mount.join(base).join(version);
        for part in [MAPS, LINKS] {
            let path = dir.join(part);
            // Whoever may open a pin may change the map behind it.
            let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&path);
            made.map_err(|source| Error::Pin { doing: "make", path, source })?;
        }
        Ok(Self { dir })
    }

    /// The directory of this pin version.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Detaches every program that is attached by a pin here and removes all pins of this version,
    /// and the base directory with it if nothing else is in there.
    ///
    /// # Errors
    /// [`Error::Pin`]; what was removed before stays removed, and a second call goes on.
    pub fn remove(self) -> Result<(), Error> {
        for link in list(&self.dir.join(LINKS))? {
            unlink(&link)?;
        }
        self.forget_maps()?;
        for dir in [&self.dir.join(LINKS), &self.dir.join(MAPS), &self.dir] {
            fs::remove_dir(dir).map_err(|source| removing(dir, source))?;
        }
        match self.dir.parent().map_or(Ok(()), fs::remove_dir) {
            Err(source) if source.kind() != io::ErrorKind::DirectoryNotEmpty => {
                Err(removing(&self.dir, source))
            }
            _ => Ok(()),
        }
    }

    /// The pins that other versions left beside these.
    pub(crate) fn others(&self) -> Result<Vec<Self>, Error> {
        let Some(base) = self.dir.parent() else { return Ok(Vec::new()) };
        let is_version = |dir: &PathBuf| {
            let name = dir.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let number = name.strip_prefix('v').unwrap_or_default();
            *dir != self.dir && number.parse::<u32>().is_ok()
        };
        Ok(list(base)?.into_iter().filter(is_version).map(|dir| Self { dir }).collect())
    }

    /// Removes the pins of all maps. Programs that use them keep them.
    pub(crate) fn forget_maps(&self) -> Result<(), Error> {
        for map in list(&self.dir.join(MAPS))? {
            fs::remove_file(&map).map_err(|source| removing(&map, source))?;
        }
        Ok(())
    }

    /// Every pinned link, sorted.
    pub(crate) fn links(&self) -> Result<Vec<PathBuf>, Error> {
        list(&self.dir.join(LINKS))
    }

    /// Where a link of that name is pinned.
    pub(crate) fn link_named(&self, name: &std::ffi::OsStr) -> PathBuf {
        self.dir.join(LINKS).join(name)
    }

    /// Where a map is pinned.
    pub(crate) fn map(&self, name: &str) -> PathBuf {
        self.dir.join(MAPS).join(name)
    }

    /// Removes the pins of links whose names end so, and detaches what they hold.
    pub(crate) fn forget(&self, ending: &str) -> Result<(), Error> {
        for link in list(&self.dir.join(LINKS))? {
            if link.to_string_lossy().ends_with(ending) {
                unlink(&link)?;
            }
        }
        Ok(())
    }

    /// Where the link of a hook's program is pinned: `place` and `number` tell the interface or the
    /// cgroup.
    pub(crate) fn hook(&self, program: &str, place: &str, number: u64) -> PathBuf {
        self.dir.join(LINKS).join(format!("{program}-{place}-{number}"))
    }

    /// The lock of whoever writes the fence's words. Not among the pins: those are no files that
    /// could be locked.
    pub(crate) fn keeper_lock(&self) -> PathBuf {
        self.lock("keeper")
    }

    /// The lock of whoever writes the steering tables.
    pub(crate) fn steer_lock(&self) -> PathBuf {
        self.lock("steer")
    }

    fn lock(&self, what: &str) -> PathBuf {
        let name = self.dir.to_string_lossy().replace('/', "-");
        PathBuf::from(RUN).join(format!("pgx-{what}{name}.lock"))
    }

    /// Where the link of a program on a device is pinned.
    ///
    /// The device is named by network namespace and index, not by its name: many namespaces can
    /// share one file system and each has an `eth0`, and an interface that is renamed keeps its
    /// program.
    pub(crate) fn link(&self, program: &str, mode: Mode, device: &Device) -> PathBuf {
        let Device { namespace, index, .. } = device;
        self.dir.join(LINKS).join(format!("{program}-{}-{namespace}-{index}", mode.name()))
    }
}

/// Removes the pin of a link and detaches its program before returning.
///
/// Removing the pin alone would detach it as well, but some time later: the kernel frees the link
/// in the background.
pub(crate) fn unlink(path: &Path) -> Result<(), Error> {
    sys::detach_link(path).map_err(|source| removing(path, source))?;
    fs::remove_file(path).map_err(|source| removing(path, source))
}

/// Whether a BPF file system is mounted at `mount`.
pub(crate) fn is_bpffs(mount: &Path) -> bool {
    statfs(mount).is_ok_and(|found| found.filesystem_type() == BPF_FS_MAGIC)
}

fn ensure_bpffs(at: &Path) -> Result<(), Error> {
    if is_bpffs(at) {
        return Ok(());
    }
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("bpf"), at, Some("bpf"), flags, Some("mode=0700")).map_err(|errno| {
        let source = io::Error::from(errno);
        if is_forbidden(&source) {
            let doing = "mount the BPF file system";
            return Error::Unprivileged { doing, capability: "CAP_SYS_ADMIN" };
        }
        Error::BpffsMount { at: at.to_owned(), source }
    })
}

fn list(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let read = |source| Error::Pin { doing: "list", path: dir.to_owned(), source };
    let entries = fs::read_dir(dir).map_err(read)?;
    let mut paths = Vec::new();
    for entry in entries {
        paths.push(entry.map_err(read)?.path());
    }
    paths.sort();
    Ok(paths)
}

fn removing(path: &Path, source: io::Error) -> Error {
    Error::Pin { doing: "remove", path: path.to_owned(), source }
}
