//! A network interface, as the kernel tells it apart from all others.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use nix::net::if_::if_nametoindex;

use crate::Error;

/// The network namespace of this thread; a thread can be in another one than its process.
const NAMESPACE: &str = "/proc/thread-self/ns/net";

/// A network interface of the caller's network namespace.
#[derive(Clone, Debug)]
pub(crate) struct Device {
    /// Its name now.
    pub(crate) name: String,
    /// Its index in its namespace.
    pub(crate) index: u32,
    /// The inode that stands for its namespace on this host.
    pub(crate) namespace: u64,
}

impl Device {
    /// Finds the interface that has this name now.
    pub(crate) fn find(name: &str) -> Result<Self, Error> {
        let index =
            if_nametoindex(name).map_err(|_| Error::InterfaceUnknown { name: name.to_owned() })?;
        Ok(Self { name: name.to_owned(), index, namespace: namespace()? })
    }
}

/// The inode that stands for the network namespace of this thread on this host.
pub(crate) fn namespace() -> Result<u64, Error> {
    let found = fs::metadata(NAMESPACE).map_err(|source| Error::Pin {
        doing: "read",
        path: PathBuf::from(NAMESPACE),
        source,
    })?;
    Ok(found.ino())
}
