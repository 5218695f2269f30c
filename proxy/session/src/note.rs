//! What a worker tells the operator: facts, without secrets.

use core::net::IpAddr;

use crate::ids::{ClientId, ServerId};
use crate::route::ServerAddress;

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note<'a> {
    /// A client was turned away.
    Refused {
        /// Who.
        client: ClientId,
        /// Why, as the client was told.
        reason: &'a str,
    },
    /// A client did not prove who it is.
    Unproved {
        /// Which.
        client: ClientId,
        /// Who it says it is.
        user: &'a str,
        /// What was wrong; the client is told less.
        reason: &'a str,
    },
    /// From one address many clients did not prove who they are: somebody guesses, or has an old
    /// password. Each of them is not told of any more.
    Guessing {
        /// The address, or the network of one of IPv6; `None` for this host's Unix sockets.
        address: Option<IpAddr>,
        /// How many there were.
        failures: u32,
    },
    /// A user could not be looked up.
    NotLookedUp {
        /// Which client waits for it.
        client: ClientId,
        /// Who it says it is.
        user: &'a str,
        /// What went wrong; a server's own message is quoted.
        reason: &'a [u8],
    },
    /// A client broke the protocol.
    Violation {
        /// Who.
        client: ClientId,
        /// What it sent.
        what: &'a str,
    },
    /// A server connection could not be opened.
    Unreachable {
        /// Where.
        address: &'a ServerAddress,
        /// Why, as far as it is known; a server's own message is quoted.
        reason: &'a [u8],
    },
    /// A server is not of the kind that clients want, such as a standby.
    OtherKind {
        /// Where.
        address: &'a ServerAddress,
    },
    /// A standby is too far behind, and left out for a while.
    Behind {
        /// Where.
        address: &'a ServerAddress,
        /// How far, in milliseconds; `None` if it cannot tell.
        found_ms: Option<u64>,
        /// How far it may be.
        max_ms: u64,
    },
    /// A server connection ended while a client had it.
    Lost {
        /// Which.
        server: ServerId,
        /// Whose.
        client: ClientId,
        /// What the server said, if it did.
        reason: &'a [u8],
    },
    /// A server's replies did not fit what it was asked; nobody else uses the connection.
    Doubtful {
        /// Which.
        server: ServerId,
    },
    /// A client keeps its server, because it has left state there that cannot be carried over.
    Pinned {
        /// Who.
        client: ClientId,
        /// The server.
        server: ServerId,
    },
}
