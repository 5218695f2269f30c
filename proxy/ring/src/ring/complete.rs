//! Tells what the kernel said of operations, and settles sends, of which it only says the failed.

use std::os::fd::{FromRawFd, OwnedFd};

use io_uring::cqueue;
use rustix::io::Errno;

use super::token::{Kind, unpack};
use super::{Completion, Ring};
use crate::handler::Handler;
use crate::io::Io;
use crate::pool::Size;
use crate::socket::Phase;
use crate::sys;
use crate::table::Key;

impl Ring {
    /// All sends of the turn have been tried: those of which the kernel said nothing went whole.
    pub(super) fn settle_sends(&mut self, io: &mut Io) {
        for index in 0..self.sends.len() {
            let send = &self.sends[index];
            let outcome = match send.result {
                None => Ok(send.tried),
                Some(result) => count(result),
            };
            match (send.uncopied, outcome) {
                (None, outcome) => io.sent(send.key, send.tried, outcome),
                (Some(_), Err(Errno::OPNOTSUPP | Errno::NOMEM | Errno::INVAL)) => {
                    if let Some(socket) = io.sockets.get_mut(send.key) {
                        socket.ops.is_always_copied = true;
                        io.mark(send.key);
                    }
                }
                (Some(number), outcome) => {
                    let kept = io.sent_uncopied(send.key, send.tried, outcome);
                    io.counters.uncopied_bytes_total += outcome.unwrap_or(0) as u64;
                    self.zero_copy.keep(number, kept);
                }
            }
        }
        self.sends.clear();
        self.messages_used = 0;
        self.is_urgent = false;
    }

    pub(super) fn dispatch<H: Handler>(&mut self, io: &mut Io, handler: &mut H) {
        for index in 0..self.completions.len() {
            let completion = self.completions[index];
            let (kind, key) = unpack(completion.token);
            let is_last = !cqueue::more(completion.flags);
            if is_last && !matches!(kind, Kind::Ignored | Kind::Send) {
                self.in_flight -= 1;
            }
            match kind {
                Kind::Receive => self.received(io, handler, key, completion),
                Kind::Accept => accepted(io, handler, key, completion),
                Kind::Poll => polled(io, handler, key, completion),
                Kind::Wake => {
                    self.is_wake_armed = false;
                    self.wake.seen();
                    handler.woken(io);
                }
                Kind::Uncopied => self.zero_copy.end(key.slot, &mut io.pool),
                Kind::Send | Kind::Ignored => {}
            }
        }
    }

    fn received<H: Handler>(&mut self, io: &mut Io, handler: &mut H, key: Key, told: Completion) {
        let buffer = cqueue::buffer_select(told.flags);
        if let Some(buffer) = buffer {
            io.pool.returned(buffer);
            let size = io.pool.size_of(buffer);
            self.buffers(size).returned();
        }
        let small_bytes = io.pool.bytes_each(Size::Small);
        // It is there: a slot is kept while an operation refers to it.
        let Some(socket) = io.sockets.get_mut(key) else { return };
        let size = socket.ops.receive_size();
        if !cqueue::more(told.flags) {
            socket.ops.receive_ended();
            io.mark(key);
        }
        match (count(told.result), buffer) {
            (Ok(length), Some(buffer)) if length > 0 => {
                if let Some(socket) = io.sockets.get_mut(key)
                    && socket.note_received(length, small_bytes)
                {
                    io.mark(key);
                }
                return io.deliver_data(handler, key, buffer, length);
            }
            (_, Some(buffer)) => io.pool.release(buffer),
            (_, None) => {}
        }
        match count(told.result) {
            Ok(_) => io.deliver_end(handler, key, Ok(())),
            Err(Errno::NOBUFS) => {
                io.counters.buffers_missing_total += 1;
                if let Some(socket) = io.sockets.get_mut(key) {
                    socket.ops.is_starved = true;
                    self.buffers(size).starved.push_back(key);
                }
            }
            Err(Errno::CANCELED | Errno::INTR | Errno::AGAIN) => {}
            Err(error) => io.deliver_end(handler, key, Err(error)),
        }
    }
}

fn accepted<H: Handler>(io: &mut Io, handler: &mut H, key: Key, completion: Completion) {
    if let Some(socket) = io.sockets.get_mut(key)
        && !cqueue::more(completion.flags)
    {
        socket.ops.accept_ended();
        io.mark(key);
    }
    match count(completion.result) {
        Ok(_) => io.deliver_accepted(handler, key, descriptor(completion.result)),
        // The last: the connection was gone before it was accepted.
        Err(Errno::CANCELED | Errno::INTR | Errno::AGAIN | Errno::CONNABORTED) => {}
        Err(error) => io.rest(key, error.raw_os_error()),
    }
}

fn polled<H: Handler>(io: &mut Io, handler: &mut H, key: Key, completion: Completion) {
    let Some(socket) = io.sockets.get_mut(key) else { return };
    socket.ops.poll_ended();
    if socket.phase == Phase::Connecting && completion.result >= 0 {
        let result = sys::connect_result(&socket.fd);
        io.deliver_connected(handler, key, result);
    } else {
        socket.is_stuck = false;
    }
    io.mark(key);
}

/// The kernel's way to say a count or an error.
fn count(result: i32) -> Result<usize, Errno> {
    usize::try_from(result).map_err(|_| Errno::from_raw_os_error(-result))
}

fn descriptor(result: i32) -> OwnedFd {
    // SAFETY: the kernel has just opened it for this completion, which is looked at once.
    unsafe { OwnedFd::from_raw_fd(result) }
}

/// Closes a connection that was accepted when nobody listens any more.
pub(super) fn close_accepted(result: i32) {
    drop(descriptor(result));
}
