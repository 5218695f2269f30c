//! What is known of a client when the rules are asked.

use core::net::IpAddr;

use crate::address::Network;
use crate::limits::NAME_BYTES_MAX;

/// A client that wants to log in.
#[derive(Clone, Copy, Debug)]
pub struct Connection<'a> {
    /// Where it comes from; `None` on a Unix socket.
    pub address: Option<IpAddr>,
    /// It speaks TLS.
    pub is_tls: bool,
    /// The database of its start-up packet, or its user's name if it names none.
    pub database: &'a [u8],
    /// The user of its start-up packet.
    pub user: &'a [u8],
    /// It wants physical replication (`replication=true`). One that wants logical replication
    /// (`replication=database`) is judged by its database, as any other.
    pub is_replication: bool,
    /// The addresses and masks of this host's interfaces, which `samehost` and `samenet` look at.
    pub interfaces: &'a [Network],
}

impl<'a> Connection<'a> {
    /// The address, an IPv4 one as such even if it came through an IPv6 socket.
    pub(crate) fn address(&self) -> Option<IpAddr> {
        self.address.map(|address| address.to_canonical())
    }

    pub(crate) fn database(&self) -> &'a [u8] {
        cut(self.database)
    }

    pub(crate) fn user(&self) -> &'a [u8] {
        cut(self.user)
    }
}

/// The part of a name that a server goes by. A longer name is the same user there, so it must not
/// be another one here.
pub(crate) fn cut(name: &[u8]) -> &[u8] {
    &name[..name.len().min(NAME_BYTES_MAX)]
}
