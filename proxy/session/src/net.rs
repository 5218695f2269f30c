//! What a worker asks of whoever drives it.

use alloc::vec::Vec;
use core::net::IpAddr;
use core::ops::Range;

use pgx_wire::auth::scram::Work;

use crate::ids::ClientId;
use crate::note::Note;
use crate::route::ServerAddress;
use crate::worker::{Asker, Owner, Print, Request};

/// A connection, as the driver names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Socket(pub u64);

/// Who a certificate is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    /// The last common name; empty if there is none.
    pub common: Vec<u8>,
    /// The distinguished name, in the form of RFC 2253.
    pub distinguished: Vec<u8>,
}

/// What a client of the console does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Console<'a> {
    /// It is in.
    Begins {
        /// As whom.
        user: &'a [u8],
        /// Whether it may change anything.
        is_admin: bool,
    },
    /// It has said this: whole messages, of which the last has to be answered.
    Says(Vec<u8>),
    /// It is gone.
    Ends,
}

/// The driver's side. Calls for one socket take effect in the order in which they are made.
pub trait Net {
    /// Sends a part of the bytes that are being handled, from where they are.
    fn forward(&mut self, to: Socket, range: Range<usize>);

    /// Sends these bytes.
    fn write(&mut self, to: Socket, bytes: &[u8]);

    /// Whether the socket takes no more for now. When that ends, the worker is told.
    fn is_blocked(&mut self, socket: Socket) -> bool;

    /// Reads no more from it for now. Bytes that are on their way are still handed over.
    fn pause(&mut self, socket: Socket);

    /// Reads from it again.
    fn resume(&mut self, socket: Socket);

    /// Closes it when all that it was given is sent.
    fn finish(&mut self, socket: Socket);

    /// Closes it at once.
    fn abort(&mut self, socket: Socket);

    /// Begins to connect; the worker is told of the end. `None` if not even that can be done.
    fn connect(&mut self, to: &ServerAddress) -> Option<Socket>;

    /// A socket from [`Self::connect`] is for this: its events go there.
    fn own(&mut self, socket: Socket, owner: Owner);

    /// Encrypts a client's connection from here on. What has come of its handshake is handed over,
    /// which is something if the client began with that, and has to say so there. `false` if that
    /// cannot be done: nothing may be sent on it then.
    fn accept_tls(&mut self, socket: Socket, begun: &[u8]) -> bool;

    /// Encrypts a connection to a server from here on. `false` as above.
    fn begin_tls(&mut self, socket: Socket, to: &ServerAddress) -> bool;

    /// The hash of the certificate that an encrypted connection goes by, by which a login can be
    /// bound to it (RFC 5929, `tls-server-end-point`); `None` if there is none.
    fn end_point(&self, socket: Socket) -> Option<Vec<u8>>;

    /// Where a client's connection comes from; `None` for a Unix socket.
    fn address(&self, socket: Socket) -> Option<IpAddr>;

    /// The name of the system's user whose process is at the other end of a Unix socket; `None` if
    /// that is not known.
    fn peer_user(&self, socket: Socket) -> Option<Vec<u8>>;

    /// The names in the certificate that a client has shown and that an authority of ours has
    /// signed, if it has.
    fn certificate(&self, socket: Socket) -> Option<Names>;

    /// Hands a request to cancel to all workers of this node whose client may be meant. Says how
    /// many these are; each of them answers by [`Self::cancelled`].
    fn cancel(&mut self, request: Request) -> usize;

    /// Tells the asker's worker that a request has had its effect, or none.
    fn cancelled(&mut self, by: Asker);

    /// Hands over what a client of the console does. What it says is answered by
    /// [`crate::worker::Worker::console_answers`].
    fn console(&mut self, id: ClientId, what: Console<'_>);

    /// Tells all other workers of this node that tables may have changed.
    fn tables_changed(&mut self);

    /// Bytes that nobody can foretell.
    fn random(&mut self, bytes: &mut [u8]);

    /// Hashes a password, where nobody waits for it; the worker is told of the end, with the same
    /// print: see [`hashed`](crate::worker::Worker::hashed).
    fn hash(&mut self, print: Print, work: Work);

    /// Something that an operator may want to know.
    fn note(&mut self, note: &Note<'_>);
}
