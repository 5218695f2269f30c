//! The driver for machines without io_uring: edge-triggered epoll, the same buffers and queues.
//!
//! A socket is registered once. What its edges said is remembered, so that pausing costs nothing:
//! a paused socket is readable and not read.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;

use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SocketFlags, accept_with, recv};

use crate::handler::Handler;
use crate::io::{Event, Io};
use crate::limits::{ACCEPTS_MAX, EVENTS_MAX, READS_MAX};
use crate::pool::{Memory, Size};
use crate::socket::Phase;
use crate::sys;
use crate::table::Key;
use crate::wake::Wake;

/// What epoll says of the waker; no slot has this number.
const WAKER: u64 = u64::MAX;

/// What the edges of one socket said.
#[derive(Debug, Default)]
pub(crate) struct Edge {
    is_registered: bool,
    /// There may be something to read or accept.
    is_readable: bool,
    /// The peer has closed its direction: reads go on until one says so.
    is_ending: bool,
    /// Stands in the list of sockets to be read.
    is_ready: bool,
}

pub(crate) struct Epoll {
    fd: OwnedFd,
    wake: Arc<Wake>,
    memory: Rc<Memory>,
    events: Vec<epoll::Event>,
    /// Sockets that are to be read in this turn or the next.
    ready: VecDeque<Key>,
}

impl Epoll {
    pub(crate) fn new(io: &Io, wake: Arc<Wake>) -> io::Result<Self> {
        let fd = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&fd, &wake.fd, epoll::EventData::new_u64(WAKER), epoll::EventFlags::IN)?;
        let events = Vec::with_capacity(EVENTS_MAX);
        let memory = io.pool.memory().clone();
        Ok(Self { fd, wake, memory, events, ready: VecDeque::new() })
    }

    pub(crate) fn memory(&self) -> &Rc<Memory> {
        &self.memory
    }

    pub(crate) fn turn<H: Handler>(
        &mut self,
        io: &mut Io,
        deadline_ns: Option<u64>,
        handler: &mut H,
    ) -> io::Result<()> {
        // As many as there are now: a socket with more output than one send takes comes again.
        for _ in 0..io.dirty.len() {
            let Some(key) = io.next_dirty() else { break };
            self.reconcile(io, key);
        }
        let goes_on = !self.ready.is_empty() || !io.dirty.is_empty() || !io.events.is_empty();
        self.wait(io, if goes_on { Some(0) } else { deadline_ns })?;
        io.expire(sys::now_ns());
        io.deliver_events(handler);
        self.note_events(io, handler);
        for _ in 0..self.ready.len() {
            let Some(key) = self.ready.pop_front() else { break };
            self.read(io, key, handler);
        }
        Ok(())
    }

    /// Brings the kernel to what is wanted of a socket.
    fn reconcile(&mut self, io: &mut Io, key: Key) {
        self.register(io, key);
        let Some(socket) = io.sockets.get_mut(key) else { return };
        if socket.is_to_be_sent() {
            let (tried, outcome) = sys::send(&socket.fd, &socket.output, &io.pool);
            io.sent(key, tried, outcome);
        }
        self.close_or_give_away(io, key);
        self.ready_if_wanted(io, key);
    }

    /// Asks for the edges of a socket, once. Where that fails the socket has failed; a listener
    /// tries again later.
    fn register(&self, io: &mut Io, key: Key) {
        let Some(socket) = io.sockets.get_mut(key) else { return };
        if socket.edge.is_registered || socket.phase == Phase::Closing || socket.input_over {
            return;
        }
        let flags = match socket.phase {
            Phase::Listening => epoll::EventFlags::IN,
            _ => epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::RDHUP,
        };
        let data = epoll::EventData::new_u64(pack(key));
        match epoll::add(&self.fd, &socket.fd, data, flags | epoll::EventFlags::ET) {
            Ok(()) => socket.edge.is_registered = true,
            Err(error) if socket.phase == Phase::Listening => io.rest(key, error.raw_os_error()),
            Err(error) => io.fail(key, error),
        }
    }

    fn close_or_give_away(&mut self, io: &mut Io, key: Key) {
        let Some(socket) = io.sockets.get(key) else { return };
        match socket.phase {
            Phase::Closing => drop(io.sockets.remove(key)),
            Phase::Retiring => {
                let Some(socket) = io.sockets.remove(key) else { return };
                // As below: whoever goes on with the socket would wake this thread each time.
                let _ = epoll::delete(&self.fd, &socket.fd);
            }
            Phase::Leaving if socket.output.is_empty() => {
                let Some(socket) = io.sockets.remove(key) else { return };
                // Another process could hold the socket open, and then it would stay registered.
                let _ = epoll::delete(&self.fd, &socket.fd);
                io.events.push_back(Event::Taken(key, socket.fd));
            }
            _ => {}
        }
    }

    fn ready_if_wanted(&mut self, io: &mut Io, key: Key) {
        let Some(socket) = io.sockets.get_mut(key) else { return };
        let wanted = socket.is_to_be_read() || socket.is_to_accept();
        if wanted && socket.edge.is_readable && !socket.edge.is_ready {
            socket.edge.is_ready = true;
            self.ready.push_back(key);
        }
    }

    fn wait(&mut self, io: &Io, deadline_ns: Option<u64>) -> io::Result<()> {
        let deadline_ns = deadline_ns.into_iter().chain(io.next_deadline_ns()).min();
        let timeout = deadline_ns.map(|deadline| {
            let left = if deadline == 0 { 0 } else { deadline.saturating_sub(sys::now_ns()) };
            Timespec {
                tv_sec: i64::try_from(left / 1_000_000_000).unwrap_or(i64::MAX),
                tv_nsec: i64::try_from(left % 1_000_000_000).unwrap_or(0),
            }
        });
        self.events.clear();
        match epoll::wait(&self.fd, spare_capacity(&mut self.events), timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Remembers what the edges say, and makes ready what is to be read.
    fn note_events<H: Handler>(&mut self, io: &mut Io, handler: &mut H) {
        for index in 0..self.events.len() {
            let event = self.events[index];
            let (data, flags) = (event.data.u64(), event.flags);
            if data == WAKER {
                self.wake.read();
                self.wake.seen();
                handler.woken(io);
                continue;
            }
            let key = unpack(data);
            let Some(socket) = io.sockets.get_mut(key) else { continue };
            let broken = epoll::EventFlags::ERR | epoll::EventFlags::HUP;
            let ends = epoll::EventFlags::RDHUP | broken;
            socket.edge.is_readable |= flags.intersects(epoll::EventFlags::IN | ends);
            socket.edge.is_ending |= flags.intersects(ends);
            if flags.intersects(epoll::EventFlags::OUT | broken) {
                if socket.phase == Phase::Connecting {
                    let result = sys::connect_result(&socket.fd);
                    io.deliver_connected(handler, key, result);
                } else if std::mem::take(&mut socket.is_stuck) {
                    io.mark(key);
                }
            }
            self.ready_if_wanted(io, key);
        }
    }

    /// Reads or accepts, up to a bound; what has more to give stays ready.
    fn read<H: Handler>(&mut self, io: &mut Io, key: Key, handler: &mut H) {
        let Some(socket) = io.sockets.get_mut(key) else { return };
        socket.edge.is_ready = false;
        if socket.phase == Phase::Listening {
            accept_some(io, key, handler);
        } else {
            read_some(io, key, handler);
        }
        self.ready_if_wanted(io, key);
    }
}

fn pack(key: Key) -> u64 {
    u64::from(key.generation) << 32 | u64::from(key.slot)
}

#[allow(clippy::cast_possible_truncation, reason = "two halves that were joined")]
fn unpack(data: u64) -> Key {
    Key { slot: data as u32, generation: (data >> 32) as u32 }
}

fn accept_some<H: Handler>(io: &mut Io, key: Key, handler: &mut H) {
    for _ in 0..ACCEPTS_MAX {
        let Some(socket) = io.sockets.get_mut(key) else { return };
        if !socket.is_to_accept() {
            return;
        }
        match accept_with(&socket.fd, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
            Ok(fd) => io.deliver_accepted(handler, key, fd),
            Err(Errno::AGAIN) => {
                socket.edge.is_readable = false;
                return;
            }
            // The connection was gone before it was accepted, or a signal came.
            Err(Errno::CONNABORTED | Errno::INTR) => {}
            Err(error) => return io.rest(key, error.raw_os_error()),
        }
    }
}

fn read_some<H: Handler>(io: &mut Io, key: Key, handler: &mut H) {
    for _ in 0..READS_MAX {
        let Some(socket) = io.sockets.get_mut(key) else { return };
        if !socket.is_to_be_read() {
            return;
        }
        let Some(buffer) = io.pool.acquire(Size::Small) else {
            io.counters.buffers_missing_total += 1;
            return;
        };
        let room = io.pool.writable(buffer);
        let size = room.len();
        let result = recv(&socket.fd, &mut *room, RecvFlags::empty()).map(|(length, _)| length);
        match result {
            Ok(0) => {
                io.pool.release(buffer);
                return io.deliver_end(handler, key, Ok(()));
            }
            Ok(length) => {
                // Less than there was room for: nothing is left, unless the end is.
                let is_last = length < size && !socket.edge.is_ending;
                socket.edge.is_readable = !is_last;
                io.deliver_data(handler, key, buffer, length);
                if is_last {
                    return;
                }
            }
            Err(error) => {
                io.pool.release(buffer);
                match error {
                    Errno::INTR => {}
                    Errno::AGAIN => {
                        socket.edge.is_readable = false;
                        return;
                    }
                    error => return io.deliver_end(handler, key, Err(error)),
                }
            }
        }
    }
}
