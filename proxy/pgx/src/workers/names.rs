//! Where backends are, by the names that the configuration gives them.
//!
//! Names are looked up on a thread of their own, so that no session waits for a name server; what
//! was known stays in use while it does not answer.

use std::collections::BTreeMap;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use pgx_ring::Address;
use pgx_session::route::ServerAddress;
use tracing::{info, warn};

/// The addresses of backends: of each name that was ever asked for, so that it can be looked up
/// again.
#[derive(Debug, Default)]
pub(super) struct Names(RwLock<BTreeMap<ServerAddress, Known>>);

#[derive(Clone, Copy, Debug, Default)]
struct Known {
    address: Option<SocketAddr>,
    /// The last look gave nothing, which was told.
    fails: bool,
}

impl Names {
    /// The address of a backend; `None` while it is not known. A socket's path is its own address.
    pub(super) fn get(&self, name: &ServerAddress) -> Option<Address> {
        if name.0.starts_with('/') {
            return Some(Address::Unix(name.0.clone().into()));
        }
        if let Ok(address) = name.0.parse() {
            return Some(Address::Tcp(address));
        }
        self.read().get(name)?.address.map(Address::Tcp)
    }

    /// All names that have an address.
    pub(super) fn all(&self) -> Vec<(String, SocketAddr)> {
        let known = self.read();
        let found =
            known.iter().filter_map(|(name, known)| Some((name.to_string(), known.address?)));
        found.collect()
    }

    /// Names that are to be looked up, now and again.
    pub(super) fn add<'a>(&self, names: impl IntoIterator<Item = &'a ServerAddress>) {
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        for name in names {
            if !name.0.starts_with('/') && name.0.parse::<SocketAddr>().is_err() {
                known.entry(name.clone()).or_default();
            }
        }
    }

    /// Looks names up that were added. Takes as long as the name servers take.
    pub(super) fn look_up<'a>(&self, names: impl IntoIterator<Item = &'a ServerAddress>) {
        for name in names {
            let Some(before) = self.read().get(name).copied() else { continue };
            let found = name.0.to_socket_addrs().map(|mut found| found.next());
            let address = found.as_ref().ok().copied().flatten();
            match (found, address) {
                (_, Some(address)) if before.address != Some(address) => {
                    info!(backend = %name, %address, "backend's address");
                }
                (Ok(None), _) if !before.fails => {
                    warn!(backend = %name, "a backend's name has no address");
                }
                (Err(error), _) if !before.fails => {
                    warn!(backend = %name, %error, "a backend's name is not known");
                }
                _ => {}
            }
            let known = Known { address: address.or(before.address), fails: address.is_none() };
            self.0.write().unwrap_or_else(PoisonError::into_inner).insert(name.clone(), known);
        }
    }

    /// Looks all up.
    pub(super) fn look_all_up(&self) {
        let all: Vec<_> = self.read().keys().cloned().collect();
        self.look_up(&all);
    }

    fn read(&self) -> RwLockReadGuard<'_, BTreeMap<ServerAddress, Known>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_every_later_configuration_are_looked_up_with_the_first() {
        let names = Names::default();
        let name = |text: &str| ServerAddress(text.into());
        names.add(&[name("/run/postgresql/.s.PGSQL.5432"), name("192.0.2.1:5432")]);
        names.look_all_up();
        assert!(names.all().is_empty(), "they are addresses already");
        let later = name("localhost:5432");
        names.add(std::slice::from_ref(&later));
        assert!(names.get(&later).is_none());
        names.look_all_up();
        assert!(names.get(&later).is_some());
        // What was known stays when another configuration names it again.
        names.add(std::slice::from_ref(&later));
        assert!(names.get(&later).is_some());
    }
}
