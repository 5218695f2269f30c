//! Brings the kernel to what is wanted of a socket: sends, receives, polls, cancellations, its end.

use std::os::fd::AsRawFd;
use std::ptr;

use io_uring::squeue::Entry;
use io_uring::{opcode, squeue, types};

use super::buffers::group;
use super::token::{Kind, pack};
use super::{Ring, Send};
use crate::io::{Event, Io};
use crate::limits::{CALM_AFTER, ENTRIES_PER_SOCKET, FLOOD_AFTER, PIECES_MAX};
use crate::output::Output;
use crate::pool::{Pool, Size};
use crate::socket::{Phase, Socket};
use crate::table::Key;

/// A send is tried once and says nothing on success; all of it counts as success, not a part.
const SEND_FLAGS: i32 = libc::MSG_DONTWAIT | libc::MSG_WAITALL | libc::MSG_NOSIGNAL;

/// The receive under way for a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Receive {
    #[default]
    None,
    /// Goes on by itself, into small buffers.
    Multi,
    /// Ends with the first bytes, in a large buffer.
    Single,
}

/// What is under way for one socket.
#[derive(Debug, Default)]
pub(crate) struct Ops {
    /// Stands in the kernel's table of files, at its slot.
    is_registered: bool,
    pub(super) receive: Receive,
    pub(super) is_receive_cancelled: bool,
    pub(super) accepts: bool,
    is_accept_cancelled: bool,
    pub(super) polls: bool,
    is_poll_cancelled: bool,
    /// Bytes came while the caller wanted none.
    pub(super) is_overrun: bool,
    /// Waits for a buffer, in a list of the driver.
    pub(super) is_starved: bool,
    /// Receives are to be single ones: the peer sends faster than it is read, or than what it
    /// sends can be passed on.
    is_flooding: bool,
    /// Receives in a row that speak for a change of that.
    signs: u8,
    /// Where this turn's send stands in the list of sends.
    send_place: u32,
    /// The kernel has refused a send without a copy; those of Unix sockets it always does.
    pub(super) is_always_copied: bool,
}

impl Ops {
    pub(super) fn send_place(&self) -> usize {
        self.send_place as usize
    }

    /// Operations refer to the socket.
    fn are_under_way(&self) -> bool {
        self.receive != Receive::None || self.accepts || self.polls
    }

    /// Which buffers the receive under way is given.
    pub(super) fn receive_size(&self) -> Size {
        if self.receive == Receive::Single { Size::Large } else { Size::Small }
    }

    pub(super) fn receive_ended(&mut self) {
        (self.receive, self.is_receive_cancelled) = (Receive::None, false);
    }

    pub(super) fn accept_ended(&mut self) {
        (self.accepts, self.is_accept_cancelled) = (false, false);
    }

    pub(super) fn poll_ended(&mut self) {
        (self.polls, self.is_poll_cancelled) = (false, false);
    }
}

impl Socket {
    /// A receive delivered so many bytes. True when what is under way may have to change.
    pub(super) fn note_received(&mut self, length: usize, small_bytes: usize) -> bool {
        let ops = &mut self.ops;
        let (is_sign, enough) = if ops.is_flooding {
            (length <= small_bytes, CALM_AFTER)
        } else {
            (length >= small_bytes, FLOOD_AFTER)
        };
        ops.signs = if is_sign { ops.signs + 1 } else { 0 };
        let changes = ops.signs >= enough;
        if changes {
            (ops.is_flooding, ops.signs) = (!ops.is_flooding, 0);
        }
        let overruns = !self.wants_input && !ops.is_overrun;
        ops.is_overrun |= overruns;
        changes || overruns
    }
}

/// The header of a send with several pieces, which the kernel reads when it is submitted.
pub(super) struct Message {
    header: libc::msghdr,
    pieces: [libc::iovec; PIECES_MAX],
}

impl Message {
    fn new() -> Box<Self> {
        let piece = libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 };
        // SAFETY: a header of zeroes is a valid one, with nothing in it; its padding is private.
        let header = unsafe { std::mem::zeroed() };
        Box::new(Self { header, pieces: [piece; PIECES_MAX] })
    }
}

impl Ring {
    /// There is room for all that one socket can need.
    pub(super) fn has_room(&mut self) -> bool {
        let queue = self.ring.submission();
        queue.capacity() - queue.len() >= ENTRIES_PER_SOCKET as usize
    }

    /// # Safety
    /// What the entry refers to must last until its operation is complete.
    pub(super) unsafe fn push(&mut self, entry: &Entry) {
        // SAFETY: by the caller.
        let pushed = unsafe { self.ring.submission().push(entry) };
        pushed.expect("`has_room` was asked");
    }

    /// An operation that refers to no memory of ours.
    fn push_plain(&mut self, entry: Entry, kind: Kind, key: Key) {
        // SAFETY: there is no memory to last. Receives write to buffers that were lent, and those
        // last until all operations have ended.
        unsafe { self.push(&entry.user_data(pack(kind, key))) };
    }

    pub(super) fn reconcile(&mut self, io: &mut Io, key: Key) {
        self.register(io, key);
        if io.sockets.get(key).is_some_and(Socket::is_to_be_sent) {
            self.send(io, key);
        }
        let Some(socket) = io.sockets.get_mut(key) else { return };
        self.reconcile_poll(socket, key);
        self.reconcile_receive(socket, key);
        self.reconcile_accept(socket, key);
        self.close_or_give_away(io, key);
    }

    /// Puts a socket into the kernel's table of files. Where that fails the socket has failed; a
    /// listener tries again later.
    fn register(&mut self, io: &mut Io, key: Key) {
        let Some(socket) = io.sockets.get_mut(key) else { return };
        if socket.ops.is_registered || socket.phase == Phase::Closing || socket.input_over {
            return;
        }
        let fd = socket.fd.as_raw_fd();
        match self.ring.submitter().register_files_update(key.slot, &[fd]) {
            Ok(_) => socket.ops.is_registered = true,
            Err(error) => {
                let code = error.raw_os_error().unwrap_or(libc::ENOMEM);
                if socket.phase == Phase::Listening {
                    io.rest(key, code);
                } else {
                    io.fail(key, rustix::io::Errno::from_raw_os_error(code));
                }
            }
        }
    }

    fn send(&mut self, io: &mut Io, key: Key) {
        let Some(socket) = io.sockets.get_mut(key) else { return };
        let sends_already = self.sends.get(socket.ops.send_place());
        if sends_already.is_some_and(|send| send.key == key) {
            // Its output would go out twice. What came of the first says how to go on.
            return;
        }
        // What is read until the peer has acknowledged it must not use the buffers up.
        let is_uncopied = self.zero_copy.takes(socket.output.bytes())
            && !socket.ops.is_always_copied
            && self.small.are_ample()
            && self.large.are_ample();
        let (tried, entry) = self.describe_send(&socket.output, &io.pool, key, is_uncopied);
        let place = u32::try_from(self.sends.len()).unwrap_or(u32::MAX);
        socket.ops.send_place = place;
        self.is_urgent |=
            socket.is_blocked || socket.phase != Phase::Open || tried < socket.output.bytes();
        let uncopied = is_uncopied.then(|| self.zero_copy.begin(place));
        let number = uncopied.map(|(number, _)| number);
        self.sends.push(Send { key, tried, result: None, uncopied: number });
        let entry = match uncopied {
            Some((_, token)) => entry.user_data(token),
            None => entry.flags(squeue::Flags::SKIP_SUCCESS).user_data(pack(Kind::Send, key)),
        };
        // SAFETY: the send is complete when the call that submits it returns, as it is never left
        // waiting (MSG_DONTWAIT). Until then nobody touches the socket's output or the messages:
        // handlers run after it, and an error of the call ends the engine's work. What is read
        // beyond that is kept by `zero_copy` until it is not.
        unsafe { self.push(&entry) };
    }

    /// A send of the first pieces, and how many bytes they have.
    fn describe_send(
        &mut self,
        output: &Output,
        pool: &Pool,
        key: Key,
        is_uncopied: bool,
    ) -> (usize, Entry) {
        let target = types::Fixed(key.slot);
        let mut slices = output.slices(pool);
        let first = slices.next().unwrap_or_default();
        let Some(second) = slices.next() else {
            // What a u32 does not hold goes in the next turn.
            let length = u32::try_from(first.len()).unwrap_or(u32::MAX);
            let send = if is_uncopied {
                opcode::SendZc::new(target, first.as_ptr(), length).flags(SEND_FLAGS).build()
            } else {
                opcode::Send::new(target, first.as_ptr(), length).flags(SEND_FLAGS).build()
            };
            return (length as usize, send);
        };
        if self.messages_used == self.messages.len() {
            self.messages.push(Message::new());
        }
        let message = &mut self.messages[self.messages_used];
        self.messages_used += 1;
        let mut tried = 0;
        let mut count = 0;
        for slice in [first, second].into_iter().chain(slices) {
            let start = slice.as_ptr().cast_mut().cast();
            message.pieces[count] = libc::iovec { iov_base: start, iov_len: slice.len() };
            tried += slice.len();
            count += 1;
        }
        message.header.msg_iov = message.pieces.as_mut_ptr();
        message.header.msg_iovlen = count as _;
        let (header, flags) = (ptr::from_ref(&message.header), SEND_FLAGS.unsigned_abs());
        let send = if is_uncopied {
            opcode::SendMsgZc::new(target, header).flags(flags).build()
        } else {
            opcode::SendMsg::new(target, header).flags(flags).build()
        };
        (tried, send)
    }

    fn reconcile_poll(&mut self, socket: &mut Socket, key: Key) {
        let waits_for_room =
            matches!(socket.phase, Phase::Open | Phase::Leaving | Phase::Finishing)
                && socket.is_stuck;
        let wanted = waits_for_room || socket.phase == Phase::Connecting;
        if wanted && !socket.ops.polls && socket.ops.is_registered {
            let events = u32::from(libc::POLLOUT.unsigned_abs());
            let poll = opcode::PollAdd::new(types::Fixed(key.slot), events).build();
            self.push_plain(poll, Kind::Poll, key);
            socket.ops.polls = true;
            self.in_flight += 1;
        } else if !wanted && socket.ops.polls && !socket.ops.is_poll_cancelled {
            self.cancel(Kind::Poll, key);
            socket.ops.is_poll_cancelled = true;
        }
    }

    pub(super) fn reconcile_receive(&mut self, socket: &mut Socket, key: Key) {
        let wanted = socket.is_to_be_read();
        let ops = &mut socket.ops;
        ops.is_overrun &= !wanted;
        if wanted && ops.receive == Receive::None {
            if !ops.is_registered || ops.is_starved {
                return;
            }
            let target = types::Fixed(key.slot);
            let entry = if ops.is_flooding {
                ops.receive = Receive::Single;
                let receive = opcode::Recv::new(target, ptr::null_mut(), 0);
                let entry = receive.buf_group(group(Size::Large)).build();
                entry.flags(squeue::Flags::BUFFER_SELECT)
            } else {
                ops.receive = Receive::Multi;
                opcode::RecvMulti::new(target, group(Size::Small)).build()
            };
            self.in_flight += 1;
            return self.push_plain(entry, Kind::Receive, key);
        }
        let stays = socket.phase == Phase::Open;
        let is_surplus = match ops.receive {
            Receive::None => false,
            // While nothing comes, a pause need not cost a cancellation.
            Receive::Multi => ops.is_flooding || (!wanted && (ops.is_overrun || !stays)),
            // One of a paused socket may stay: it is bounded by itself.
            Receive::Single => !wanted && !stays,
        };
        if is_surplus && !ops.is_receive_cancelled {
            ops.is_receive_cancelled = true;
            // Whoever was paused once is likely to be again, and a single receive need not be
            // cancelled for it.
            (ops.is_flooding, ops.signs) = (true, 0);
            self.cancel(Kind::Receive, key);
        }
    }

    fn reconcile_accept(&mut self, socket: &mut Socket, key: Key) {
        let wanted = socket.is_to_accept();
        if wanted && !socket.ops.accepts && socket.ops.is_registered {
            let flags = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
            let accept = opcode::AcceptMulti::new(types::Fixed(key.slot)).flags(flags).build();
            self.push_plain(accept, Kind::Accept, key);
            socket.ops.accepts = true;
            self.in_flight += 1;
        } else if !wanted && socket.ops.accepts && !socket.ops.is_accept_cancelled {
            self.cancel(Kind::Accept, key);
            socket.ops.is_accept_cancelled = true;
        }
    }

    fn cancel(&mut self, kind: Kind, key: Key) {
        let cancel = opcode::AsyncCancel::new(pack(kind, key)).build();
        self.push_plain(cancel, Kind::Ignored, key);
    }

    /// A descriptor is let go only when no operation refers to it, or its slot's next user would
    /// be told what belongs to this one.
    fn close_or_give_away(&mut self, io: &mut Io, key: Key) {
        let Some(socket) = io.sockets.get(key) else { return };
        let is_due = match socket.phase {
            Phase::Closing | Phase::Retiring => true,
            Phase::Leaving => socket.output.is_empty(),
            _ => false,
        };
        if !is_due || socket.ops.are_under_way() {
            return;
        }
        let Some(socket) = io.sockets.remove(key) else { return };
        if socket.ops.is_registered {
            // The table holds the file open. The slot's next user puts its own in place if this
            // fails, which it does not: nothing is allocated.
            let _ = self.ring.submitter().register_files_update(key.slot, &[-1]);
        }
        if socket.phase == Phase::Leaving {
            io.events.push_back(Event::Taken(key, socket.fd));
        }
    }
}
