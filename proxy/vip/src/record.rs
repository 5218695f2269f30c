//! What this host was like before pgx changed it, in a file, so that an unclean stop can be undone.
//!
//! It is written before the change, and lies where a boot empties the folder: a boot undoes the
//! changes too.

use std::io::ErrorKind;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use crate::LOOPBACK;
use crate::error::Error;
use crate::netlink::Netlink;

/// A setting of the kernel's that was changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Changed {
    /// Its file below `/proc/sys`.
    pub(crate) path: PathBuf,
    /// What it was.
    pub(crate) before: String,
    /// What we made of it.
    pub(crate) after: String,
}

/// All that was changed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) changed: Vec<Changed>,
    /// Addresses that were put on loopback.
    pub(crate) addresses: Vec<IpAddr>,
}

impl Record {
    /// Reads the record; `None` where a clean stop, a boot or nobody has left one.
    pub(crate) fn read(path: &Path) -> Result<Option<Self>, Error> {
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(failed("read", path)(source)),
        };
        match serde_json::from_slice(&bytes) {
            Ok(record) => Ok(Some(record)),
            // It is replaced whole, so somebody else wrote it; what is in it cannot be undone.
            Err(error) => {
                warn!(path = %path.display(), %error, "a record that cannot be read is left aside");
                Ok(None)
            }
        }
    }

    /// Writes the record in place of the old one, whole or not at all.
    pub(crate) fn write(&self, path: &Path) -> Result<(), Error> {
        let bytes = serde_json::to_vec(self).map_err(std::io::Error::other);
        let bytes = bytes.map_err(failed("write", path))?;
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(failed("make the folder of", path))?;
        }
        let new = path.with_extension("new");
        std::fs::write(&new, bytes).map_err(failed("write", path))?;
        std::fs::rename(&new, path).map_err(failed("write", path))
    }

    /// Makes the host what it was: addresses go first, so that the kernel never answers for them.
    /// A setting that somebody else has changed since is left as it is.
    pub(crate) fn undo(&self, netlink: &Netlink) -> Result<(), Error> {
        for address in &self.addresses {
            remove(netlink, *address)?;
        }
        for Changed { path, before, after } in &self.changed {
            let found = get(path)?;
            if found == *after {
                set(path, before)?;
            } else {
                info!(path = %path.display(), found, "not restored: changed by somebody else");
            }
        }
        Ok(())
    }
}

/// Undoes what an unclean stop has left.
pub(crate) fn clean(path: &Path) -> Result<(), Error> {
    let Some(record) = Record::read(path)? else { return Ok(()) };
    let netlink = Netlink::open().map_err(|source| Error::Netlink { source })?;
    record.undo(&netlink)?;
    forget(path)?;
    info!(addresses = ?record.addresses, "took back what an unclean stop had left");
    Ok(())
}

/// Removes the record, once all is undone.
pub(crate) fn forget(path: &Path) -> Result<(), Error> {
    std::fs::remove_file(path).map_err(failed("remove", path))
}

/// Takes an address off loopback.
pub(crate) fn remove(netlink: &Netlink, address: IpAddr) -> Result<bool, Error> {
    netlink.remove(LOOPBACK, address).map_err(|source| Error::Address {
        doing: "remove",
        address,
        interface: LOOPBACK.to_owned(),
        source,
    })
}

/// Reads a setting of the kernel, in the network namespace of this thread.
pub(crate) fn get(path: &Path) -> Result<String, Error> {
    let text = std::fs::read_to_string(path).map_err(|source| {
        let path = path.to_owned();
        Error::Setting { doing: "read", path, source }
    })?;
    Ok(text.trim().to_owned())
}

/// Writes it.
pub(crate) fn set(path: &Path, value: &str) -> Result<(), Error> {
    std::fs::write(path, value).map_err(|source| {
        let path = path.to_owned();
        Error::Setting { doing: "write", path, source }
    })
}

fn failed(doing: &'static str, path: &Path) -> impl Fn(std::io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Record { doing, path: path.clone(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn record_is_read_back_and_a_torn_one_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run/vip.json");
        assert_eq!(Record::read(&path).unwrap(), None);
        let changed = vec![Changed {
            path: "/proc/sys/net/ipv4/conf/all/arp_ignore".into(),
            before: "0".to_owned(),
            after: "1".to_owned(),
        }];
        let record = Record { changed, addresses: vec!["fd00::1".parse().unwrap()] };
        record.write(&path).unwrap();
        assert_eq!(Record::read(&path).unwrap(), Some(record));
        std::fs::write(&path, "{\"changed\":[").unwrap();
        assert_eq!(Record::read(&path).unwrap(), None);
    }
}
