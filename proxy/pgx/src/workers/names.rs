//! Where backends are, by the names that the configuration gives them.
//!
//! Names are looked up on a thread of their own, so that no session waits for a name server; what
//! was known stays in use while it does not answer.

use std::collections::BTreeMap;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::{PoisonError, RwLock};

use pgx_ring::Address;
use pgx_session::route::ServerAddress;
use tracing::{info, warn};

/// The addresses of backends.
#[derive(Debug, Default)]
pub(super) struct Names(RwLock<BTreeMap<ServerAddress, SocketAddr>>);

impl Names {
    /// The address of a backend; `None` while it is not known. A socket's path is its own address.
    pub(super) fn get(&self, name: &ServerAddress) -> Option<Address> {
        if name.0.starts_with('/') {
            return Some(Address::Unix(name.0.clone().into()));
        }
        if let Ok(address) = name.0.parse() {
            return Some(Address::Tcp(address));
        }
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        known.get(name).copied().map(Address::Tcp)
    }

    /// All names that were looked up.
    pub(super) fn all(&self) -> Vec<(String, SocketAddr)> {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        known.iter().map(|(name, address)| (name.to_string(), *address)).collect()
    }

    /// Looks all names up. Takes as long as the name servers take.
    pub(super) fn look_up(&self, names: &[ServerAddress]) {
        for name in names {
            if name.0.starts_with('/') || name.0.parse::<SocketAddr>().is_ok() {
                continue;
            }
            match name.0.to_socket_addrs().map(|mut found| found.next()) {
                Ok(Some(address)) => {
                    let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
                    if known.insert(name.clone(), address) != Some(address) {
                        info!(backend = %name, %address, "backend's address");
                    }
                }
                Ok(None) => warn!(backend = %name, "a backend's name has no address"),
                Err(error) => warn!(backend = %name, %error, "a backend's name is not known"),
            }
        }
    }
}
