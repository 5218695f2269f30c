//! What an engine says to the code that stands on it, and in which words.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::ops::{Deref, Range};
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use crate::io::Io;
use crate::pool::Pool;
use crate::table::Key;

/// Receives what happened to sockets, in the order in which it happened to each.
///
/// A key is the handler's until it calls `finish` or `abort`, or gets `taken`; no call mentions it
/// afterwards. A socket that failed stays there, silent, until then.
#[allow(unused_variables, reason = "the names tell an implementer what the values are")]
pub trait Handler {
    /// A listener has a new connection. It is being read from now on.
    fn accepted(&mut self, io: &mut Io, listener: Key, socket: Key);

    /// A connection that `connect` began stands, and is being read from now on, or it failed.
    fn connected(&mut self, io: &mut Io, socket: Key, result: io::Result<()>);

    /// Bytes arrived; there is at least one.
    fn received(&mut self, io: &mut Io, socket: Key, data: &Received<'_>);

    /// No more bytes come. After `Eof` output can still be sent, and if that fails, this is called
    /// once more.
    fn ended(&mut self, io: &mut Io, socket: Key, end: End);

    /// All output of a socket that was blocked has been taken by the kernel.
    fn drained(&mut self, io: &mut Io, socket: Key) {}

    /// The descriptor of a socket after `take`: all output is sent, no operation is under way.
    fn taken(&mut self, io: &mut Io, socket: Key, fd: OwnedFd) {}

    /// The engine's waker was used, once or more.
    fn woken(&mut self, io: &mut Io) {}
}

/// Why no more bytes come.
#[derive(Debug)]
pub enum End {
    /// The peer has closed its direction, or the connection.
    Eof,
    /// The connection is broken; output is dropped from now on.
    Failed(io::Error),
}

/// Bytes in the buffer that they arrived in, for the time of one call.
pub struct Received<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) buffer: u16,
    /// Where the bytes start in the buffer.
    pub(crate) start: u32,
    /// Whose buffer it is, to be compared only.
    pub(crate) pool: *const u8,
}

impl Received<'_> {
    /// The part of the buffer that a range of the bytes is.
    ///
    /// # Panics
    /// When the range is not one of the bytes, as a slice does.
    #[allow(clippy::cast_possible_truncation, reason = "a buffer's size is a u32")]
    pub(crate) fn place(&self, range: &Range<usize>) -> (u32, u32) {
        assert!(range.start <= range.end && range.end <= self.bytes.len(), "{range:?} of {self:?}");
        (self.start + range.start as u32, self.start + range.end as u32)
    }

    pub(crate) fn is_from(&self, pool: &Pool) -> bool {
        std::ptr::eq(self.pool, pool.address(0).as_ptr())
    }
}

impl Deref for Received<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.bytes
    }
}

impl fmt::Debug for Received<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} bytes in buffer {}", self.bytes.len(), self.buffer)
    }
}

/// Where to connect to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Address {
    /// A TCP port.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(out),
            Self::Unix(path) => path.display().fmt(out),
        }
    }
}

/// Who is at the other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Peer {
    /// The address of its TCP port.
    Tcp(SocketAddr),
    /// A process on this host, by a Unix socket.
    Unix,
}

impl fmt::Display for Peer {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(out),
            Self::Unix => out.write_str("unix socket"),
        }
    }
}
