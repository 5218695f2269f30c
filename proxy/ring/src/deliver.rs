//! Hands to the handler what the drivers have found, unless the caller has closed the socket.

use std::io;
use std::os::fd::OwnedFd;

use rustix::io::Errno;

use crate::handler::{End, Handler, Received};
use crate::io::{Event, Io};
use crate::socket::Phase;
use crate::table::Key;

/// Why `deliver_end` was called.
pub(crate) type InputEnd = Result<(), Errno>;

impl Io {
    /// Hands over `length` bytes in a buffer to which the driver has the one reference, and gives
    /// that up.
    #[allow(clippy::cast_possible_truncation, reason = "a buffer's size is a u32")]
    pub(crate) fn deliver_data<H: Handler>(
        &mut self,
        handler: &mut H,
        key: Key,
        buffer: u16,
        length: usize,
    ) {
        let is_heard = self.sockets.get(key).is_some_and(|socket| {
            // A failed send may have ended a socket that was paused, with a receive under way.
            matches!(socket.phase, Phase::Open | Phase::Leaving) && !socket.input_over
        });
        if is_heard && length > 0 {
            // SAFETY: the buffer's memory lives until the engine is dropped, which a handler cannot
            // do; our reference keeps it from being given back or filled during the call, and the
            // handler's borrow ends with the call.
            let bytes =
                unsafe { std::slice::from_raw_parts(self.pool.address(buffer).as_ptr(), length) };
            let pool = self.pool.address(0).as_ptr();
            handler.received(self, key, &Received { bytes, buffer, start: 0, pool });
        }
        self.pool.release(buffer);
    }

    /// Input has ended, in order or with an error.
    pub(crate) fn deliver_end<H: Handler>(&mut self, handler: &mut H, key: Key, end: InputEnd) {
        let Some(socket) = self.sockets.get_mut(key) else { return };
        if socket.input_over {
            return;
        }
        socket.input_over = true;
        let error = end.err().or(socket.failed);
        if let Some(error) = error {
            socket.output.clear(&mut self.pool);
            (socket.is_blocked, socket.is_stuck) = (false, false);
            socket.failed = Some(error);
        }
        match socket.phase {
            Phase::Open | Phase::Leaving => {
                let end = error.map_or(End::Eof, |error| End::Failed(error.into()));
                self.mark(key);
                handler.ended(self, key, end);
            }
            Phase::Finishing if error.is_none() => self.mark(key),
            Phase::Finishing | Phase::Lingering => self.close(key),
            Phase::Listening | Phase::Retiring | Phase::Connecting | Phase::Closing => {}
        }
    }

    /// A listener got a connection.
    pub(crate) fn deliver_accepted<H: Handler>(
        &mut self,
        handler: &mut H,
        listener: Key,
        fd: OwnedFd,
    ) {
        let phase = self.sockets.get(listener).map(|socket| socket.phase);
        let listens = matches!(phase, Some(Phase::Listening | Phase::Retiring));
        if listens && let Some(socket) = self.admit(listener, fd) {
            handler.accepted(self, listener, socket);
        }
    }

    /// A connection stands, or does not.
    pub(crate) fn deliver_connected<H: Handler>(
        &mut self,
        handler: &mut H,
        key: Key,
        result: Result<(), Errno>,
    ) {
        let Some(socket) = self.sockets.get_mut(key) else { return };
        if socket.phase != Phase::Connecting {
            return;
        }
        socket.phase = Phase::Open;
        if let Err(error) = result {
            socket.output.clear(&mut self.pool);
            (socket.failed, socket.input_over) = (Some(error), true);
        }
        self.mark(key);
        handler.connected(self, key, result.map_err(io::Error::from));
    }

    /// Tells what has come up beside completions, as far as it had when this was called.
    pub(crate) fn deliver_events<H: Handler>(&mut self, handler: &mut H) {
        for _ in 0..self.events.len() {
            match self.events.pop_front() {
                Some(Event::Connected(key, result)) => {
                    self.deliver_connected(handler, key, result);
                }
                Some(Event::Ended(key, end)) if self.is_known(key) => {
                    handler.ended(self, key, end);
                }
                Some(Event::Drained(key)) if self.is_known(key) => handler.drained(self, key),
                Some(Event::Taken(key, fd)) => handler.taken(self, key, fd),
                Some(Event::Accepted(listener, fd)) => {
                    self.deliver_accepted(handler, listener, fd);
                }
                _ => {}
            }
        }
    }

    fn is_known(&self, key: Key) -> bool {
        self.sockets.get(key).is_some_and(crate::socket::Socket::is_known)
    }
}
