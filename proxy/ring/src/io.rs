//! The handle by which sockets are made, written to, paused and closed.
//!
//! Nothing here does I/O on data: a call changes what is wanted of a socket and puts it on the list
//! of those that the driver looks at when the next turn begins. So both drivers share all of it.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{SocketFlags, accept_with};

use crate::handler::{Address, End, Peer, Received};
use crate::limits::{ACCEPT_PAUSE_MS, ACCEPTS_MAX};
use crate::output::Piece;
use crate::pool::Pool;
use crate::socket::{Phase, Socket};
use crate::sys;
use crate::table::{Key, Table};

/// The sockets of one engine.
#[derive(Debug)]
pub struct Io {
    pub(crate) sockets: Table<Socket>,
    pub(crate) pool: Pool,
    /// Sockets that the driver must look at, each once.
    pub(crate) dirty: VecDeque<Key>,
    /// What is to be told beside completions, in order.
    pub(crate) events: VecDeque<Event>,
    pub(crate) timers: Timers,
    pub(crate) counters: Counters,
    close_wait_ns: u64,
}

/// What a handler is told that is not the completion of an operation.
#[derive(Debug)]
pub(crate) enum Event {
    Connected(Key, Result<(), Errno>),
    Ended(Key, End),
    Drained(Key),
    Taken(Key, OwnedFd),
    Accepted(Key, OwnedFd),
}

/// Deadlines of the engine itself. Each list has one waiting time, so it is in order.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    /// Sockets that close: when to look, and their progress at the last look.
    pub(crate) closing: VecDeque<(u64, Key, u64)>,
    /// Listeners that rest.
    pub(crate) resting: VecDeque<(u64, Key)>,
}

/// What happened since the engine was opened.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// Connections that were accepted.
    pub accepted_total: u64,
    /// Connections that were accepted and closed at once, as there was no slot for them.
    pub refused_total: u64,
    /// How often a listener rested, as descriptors, memory or slots had run out.
    pub accept_pauses_total: u64,
    /// The error number of the last rest; 0 when slots had run out.
    pub accept_error_last: i32,
    /// How often a socket found no buffer and waited for the next turn.
    pub buffers_missing_total: u64,
    /// How often a peer took less than there was, when before it had taken all.
    pub blocked_total: u64,
    /// Sends of which the kernel took only a part, or nothing.
    pub partial_sends_total: u64,
    /// Bytes that were copied because their peer was blocked.
    pub spilled_bytes_total: u64,
    /// Completions for which the kernel's queue had no room; none is lost.
    pub overflows_total: u64,
    /// Bytes that the kernel was given without a copy; whether it made one itself it does not say.
    pub uncopied_bytes_total: u64,
    /// Sockets that were closed as their peer neither took the rest nor closed.
    pub closed_late_total: u64,
}

impl Io {
    pub(crate) fn new(pool: Pool, sockets_max: u32, finish_ms_max: u32) -> Self {
        Self {
            sockets: Table::new(sockets_max),
            pool,
            dirty: VecDeque::new(),
            events: VecDeque::new(),
            timers: Timers::default(),
            counters: Counters::default(),
            close_wait_ns: u64::from(finish_ms_max) * 1_000_000,
        }
    }

    /// Accepts connections from a listening socket, TCP or Unix.
    ///
    /// # Errors
    /// When there is no slot, or the descriptor cannot be made non-blocking.
    pub fn listen(&mut self, fd: OwnedFd) -> io::Result<Key> {
        sys::prepare(&fd, false)?;
        self.keep(fd, Phase::Listening)
    }

    /// Looks whether connections wait of which no event has told, and accepts them; for listeners
    /// whose socket other rings have too, in this process or another. The kernel wakes but one of
    /// the rings that wait for a connection, and who ends, or is stopped, keeps it from the others.
    pub fn look(&mut self, listener: Key) {
        for _ in 0..ACCEPTS_MAX {
            let Some(socket) = self.sockets.get(listener).filter(|each| each.is_to_accept()) else {
                return;
            };
            // What goes wrong is told to the operation that waits, which rests then.
            match accept_with(&socket.fd, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
                Ok(fd) => self.events.push_back(Event::Accepted(listener, fd)),
                Err(_) => return,
            }
        }
    }

    /// Begins a connection; the handler is told by `connected`, of failures too. Output may be
    /// queued at once.
    ///
    /// # Errors
    /// When there is no slot or descriptor, or the path is too long.
    pub fn connect(&mut self, address: &Address) -> io::Result<Key> {
        let (fd, stands) = sys::begin_connect(address)?;
        let key = self.keep(fd, Phase::Connecting)?;
        match stands {
            Ok(false) => {}
            Ok(true) => self.events.push_back(Event::Connected(key, Ok(()))),
            Err(error) => self.events.push_back(Event::Connected(key, Err(error))),
        }
        Ok(key)
    }

    /// Takes on a connected socket that was made elsewhere; it is being read from now on.
    ///
    /// # Errors
    /// When there is no slot, or the descriptor cannot be made non-blocking.
    pub fn adopt(&mut self, fd: OwnedFd) -> io::Result<Key> {
        sys::prepare(&fd, false)?;
        self.keep(fd, Phase::Open)
    }

    /// Gives the descriptor away, to another thread for example: by `taken`, once all output is
    /// sent and no operation is under way. What arrives until then is still delivered.
    pub fn take(&mut self, key: Key) {
        if let Some(socket) = self.known(key)
            && socket.phase == Phase::Open
        {
            socket.phase = Phase::Leaving;
            self.mark(key);
        }
    }

    /// Sends a part of what is being received, from the buffer in which it is.
    ///
    /// # Panics
    /// When the range is not one of the data.
    pub fn forward(&mut self, to: Key, data: &Received<'_>, range: Range<usize>) {
        let (start, end) = data.place(&range);
        let shares = data.is_from(&self.pool);
        let Some(socket) = self.sockets.get_mut(to).filter(|socket| socket.takes_output()) else {
            return;
        };
        if shares && !socket.is_blocked && socket.phase != Phase::Connecting {
            socket.output.share(&mut self.pool, data.buffer, start, end);
        } else {
            socket.output.copy(&data[range]);
        }
        self.mark(to);
    }

    /// Sends a copy of the bytes.
    pub fn write(&mut self, to: Key, bytes: &[u8]) {
        if let Some(socket) = self.known(to)
            && socket.takes_output()
        {
            socket.output.copy(bytes);
            self.mark(to);
        }
    }

    /// Sends the bytes, without copying them unless they are few.
    pub fn write_vec(&mut self, to: Key, bytes: Vec<u8>) {
        if let Some(socket) = self.known(to)
            && socket.takes_output()
        {
            socket.output.own(bytes);
            self.mark(to);
        }
    }

    /// Bytes that wait to be sent.
    #[must_use]
    pub fn backlog(&self, key: Key) -> usize {
        self.sockets.get(key).map_or(0, |socket| socket.output.bytes())
    }

    /// The kernel took less than there was, and output has not been empty since; `drained` says
    /// when it is.
    #[must_use]
    pub fn is_blocked(&self, key: Key) -> bool {
        self.sockets.get(key).is_some_and(|socket| socket.is_blocked)
    }

    /// Reads no more from a socket, or accepts no more from a listener. What comes before the
    /// kernel has been told is still delivered, and it is told when something comes: so a pause of
    /// a silent socket costs nothing. `docs/ENGINE.md` says how much that can be.
    pub fn pause(&mut self, key: Key) {
        self.set_wants_input(key, false);
    }

    /// Reads again.
    pub fn resume(&mut self, key: Key) {
        self.set_wants_input(key, true);
    }

    /// Closes the socket in good order: what is queued is sent, then the peer is told that no more
    /// comes, and what it still sends is dropped until it closes too, or a time has passed. The
    /// handler hears nothing more of it.
    ///
    /// A listener accepts no more. What the kernel had accepted for it already is still told, by
    /// `accepted`, until the listener is no more there: see [`Self::is_there`].
    pub fn finish(&mut self, key: Key) {
        let close_at_ns = sys::now_ns() + self.close_wait_ns;
        let Some(socket) = self.known(key) else { return };
        socket.phase = match socket.phase {
            Phase::Listening => Phase::Retiring,
            Phase::Connecting => Phase::Closing,
            _ if socket.failed.is_some() => Phase::Closing,
            _ => Phase::Finishing,
        };
        socket.wants_input = true;
        if socket.phase == Phase::Finishing {
            let progress = socket.progress;
            self.timers.closing.push_back((close_at_ns, key, progress));
            self.go_on_finishing(key);
        }
        self.mark(key);
    }

    /// Closes the socket now; output that waits is dropped. The handler hears nothing more of it.
    pub fn abort(&mut self, key: Key) {
        if self.known(key).is_some() {
            self.close(key);
        }
    }

    /// Whether the socket is still there, be it only to be closed.
    #[must_use]
    pub fn is_there(&self, key: Key) -> bool {
        self.sockets.get(key).is_some()
    }

    /// Who is at the other end; `None` when there is nobody any more.
    #[must_use]
    pub fn peer(&self, key: Key) -> Option<Peer> {
        sys::peer(self.fd(key)?)
    }

    /// The descriptor, for options and questions; data must go through the engine.
    #[must_use]
    pub fn fd(&self, key: Key) -> Option<BorrowedFd<'_>> {
        self.sockets.get(key).filter(|socket| socket.is_known()).map(|socket| socket.fd.as_fd())
    }

    /// Sockets that are open, listeners and those that are closing included.
    #[must_use]
    pub fn sockets(&self) -> usize {
        self.sockets.len()
    }

    /// How many sockets there can be: what was asked for, or less by the limit of descriptors.
    #[must_use]
    pub fn sockets_max(&self) -> u32 {
        self.sockets.slots_max()
    }

    /// What happened since the engine was opened.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.counters
    }

    fn keep(&mut self, fd: OwnedFd, phase: Phase) -> io::Result<Key> {
        match self.sockets.insert(Socket::new(fd, phase)) {
            Ok(key) => {
                self.mark(key);
                Ok(key)
            }
            Err(_) => {
                let text = format!("all {} slots for sockets are in use", self.sockets_max());
                Err(io::Error::new(io::ErrorKind::QuotaExceeded, text))
            }
        }
    }

    fn known(&mut self, key: Key) -> Option<&mut Socket> {
        self.sockets.get_mut(key).filter(|socket| socket.is_known())
    }

    fn set_wants_input(&mut self, key: Key, wants: bool) {
        if let Some(socket) = self.known(key)
            && socket.wants_input != wants
        {
            socket.wants_input = wants;
            self.mark(key);
        }
    }
}

/// What the drivers need.
impl Io {
    /// Puts a socket on the list of those to be looked at.
    pub(crate) fn mark(&mut self, key: Key) {
        if let Some(socket) = self.sockets.get_mut(key)
            && !socket.is_dirty
        {
            socket.is_dirty = true;
            self.dirty.push_back(key);
        }
    }

    /// The next socket to be looked at.
    pub(crate) fn next_dirty(&mut self) -> Option<Key> {
        loop {
            let key = self.dirty.pop_front()?;
            if let Some(socket) = self.sockets.get_mut(key) {
                socket.is_dirty = false;
                return Some(key);
            }
        }
    }

    /// Keeps an accepted connection; it is closed when there is no slot.
    pub(crate) fn admit(&mut self, listener: Key, fd: OwnedFd) -> Option<Key> {
        self.counters.accepted_total += 1;
        // A connection whose options cannot be set is broken, and its first read says how.
        let _ = sys::prepare(&fd, true);
        let kept = self.keep(fd, Phase::Open).ok();
        if kept.is_none() {
            self.counters.refused_total += 1;
        }
        if self.sockets.is_full() {
            self.rest(listener, 0);
        }
        kept
    }

    /// Lets a listener accept nothing for a while: what it cannot get now comes back by itself.
    pub(crate) fn rest(&mut self, listener: Key, error: i32) {
        let until_ns = sys::now_ns() + ACCEPT_PAUSE_MS * 1_000_000;
        let Some(socket) = self.sockets.get_mut(listener) else { return };
        if socket.rests_until_ns == 0 {
            socket.rests_until_ns = until_ns;
            self.timers.resting.push_back((until_ns, listener));
            self.counters.accept_pauses_total += 1;
            self.counters.accept_error_last = error;
            self.mark(listener);
        }
    }

    /// The kernel was asked to send `tried` bytes and said this.
    pub(crate) fn sent(&mut self, key: Key, tried: usize, outcome: Result<usize, Errno>) {
        let Some(socket) = self.sockets.get_mut(key) else { return };
        match taken(outcome) {
            Ok(taken) => {
                socket.output.advance(&mut self.pool, taken);
                self.go_on_sending(key, tried, taken);
            }
            Err(error) => self.output_failed(key, error),
        }
    }

    /// As `sent`, where the kernel goes on reading what is returned.
    pub(crate) fn sent_uncopied(
        &mut self,
        key: Key,
        tried: usize,
        outcome: Result<usize, Errno>,
    ) -> Vec<Piece> {
        let Some(socket) = self.sockets.get_mut(key) else { return Vec::new() };
        let outcome = taken(outcome);
        let read = outcome.unwrap_or(tried);
        let kept = socket.output.advance_and_keep(&mut self.pool, read);
        match outcome {
            Ok(taken) => self.go_on_sending(key, tried, taken),
            Err(error) => self.output_failed(key, error),
        }
        kept
    }

    fn go_on_sending(&mut self, key: Key, tried: usize, taken: usize) {
        let Some(socket) = self.sockets.get_mut(key) else { return };
        socket.progress += taken as u64;
        if taken < tried {
            self.counters.partial_sends_total += 1;
            self.counters.blocked_total += u64::from(!socket.is_blocked);
            (socket.is_blocked, socket.is_stuck) = (true, true);
            self.counters.spilled_bytes_total += socket.output.spill(&mut self.pool) as u64;
            self.mark(key);
        } else if !socket.output.is_empty() {
            self.mark(key);
        } else {
            if std::mem::take(&mut socket.is_blocked) && socket.is_known() {
                self.events.push_back(Event::Drained(key));
            }
            match socket.phase {
                Phase::Finishing => self.go_on_finishing(key),
                Phase::Leaving => self.mark(key),
                _ => {}
            }
        }
    }

    /// Output is dropped from now on. The next read says that the connection is broken, after what
    /// has arrived before; only where nobody reads it has to be said here.
    fn output_failed(&mut self, key: Key, error: Errno) {
        let Some(socket) = self.sockets.get_mut(key) else { return };
        socket.output.clear(&mut self.pool);
        (socket.is_blocked, socket.is_stuck) = (false, false);
        socket.failed = Some(error);
        match socket.phase {
            Phase::Open if socket.input_over || !socket.wants_input => {
                socket.input_over = true;
                self.events.push_back(Event::Ended(key, End::Failed(error.into())));
            }
            Phase::Finishing => self.close(key),
            _ => self.mark(key),
        }
    }

    /// The driver can do nothing with this socket.
    pub(crate) fn fail(&mut self, key: Key, error: Errno) {
        let Some(socket) = self.sockets.get_mut(key) else { return };
        socket.output.clear(&mut self.pool);
        (socket.failed, socket.input_over) = (Some(error), true);
        match socket.phase {
            Phase::Connecting => {
                socket.input_over = false;
                // Before one that says it stands: only the first is told.
                self.events.push_front(Event::Connected(key, Err(error)));
            }
            Phase::Open | Phase::Leaving => {
                self.events.push_back(Event::Ended(key, End::Failed(error.into())));
            }
            _ => self.close(key),
        }
    }

    /// All that was queued is sent, perhaps: then tells the peer that no more comes.
    fn go_on_finishing(&mut self, key: Key) {
        let Some(socket) = self.sockets.get_mut(key) else { return };
        if socket.phase != Phase::Finishing || !socket.output.is_empty() {
            return;
        }
        let said = rustix::net::shutdown(&socket.fd, rustix::net::Shutdown::Write);
        if socket.input_over || said.is_err() {
            self.close(key);
        } else {
            socket.phase = Phase::Lingering;
            socket.progress += 1;
            self.mark(key);
        }
    }

    /// Drops output and closes the socket when its driver has nothing under way for it.
    pub(crate) fn close(&mut self, key: Key) {
        if let Some(socket) = self.sockets.get_mut(key) {
            socket.output.clear(&mut self.pool);
            socket.phase = Phase::Closing;
            self.mark(key);
        }
    }

    /// The first of the engine's own deadlines.
    pub(crate) fn next_deadline_ns(&self) -> Option<u64> {
        let closing = self.timers.closing.front().map(|entry| entry.0);
        let resting = self.timers.resting.front().map(|entry| entry.0);
        closing.into_iter().chain(resting).min()
    }

    /// Does what is due: closes sockets whose peers do nothing, lets listeners accept again.
    pub(crate) fn expire(&mut self, now_ns: u64) {
        while let Some((_, key)) = self.timers.resting.pop_front_if(|entry| entry.0 <= now_ns) {
            if let Some(socket) = self.sockets.get_mut(key) {
                socket.rests_until_ns = 0;
                self.mark(key);
            }
        }
        while let Some(&(at_ns, key, seen)) = self.timers.closing.front() {
            // Most have been closed long before; they must not make the engine wake up.
            let socket = self.sockets.get(key).filter(|socket| socket.phase != Phase::Closing);
            if socket.is_some() && at_ns > now_ns {
                return;
            }
            self.timers.closing.pop_front();
            let Some(socket) = socket else { continue };
            if socket.progress > seen {
                let entry = (now_ns + self.close_wait_ns, key, socket.progress);
                self.timers.closing.push_back(entry);
            } else {
                self.counters.closed_late_total += 1;
                self.close(key);
            }
        }
    }
}

/// How many bytes went; an error ends the output.
fn taken(outcome: Result<usize, Errno>) -> Result<usize, Errno> {
    match outcome {
        // The second when the kernel is short of memory for now; there is room later.
        Err(Errno::AGAIN | Errno::NOBUFS | Errno::INTR) => Ok(0),
        outcome => outcome,
    }
}
