//! The driver on io_uring: one ring for a thread, one system call for a turn.
//!
//! - Receives are multishot, into buffers that the kernel takes from a shared ring.
//! - A send is tried once, at submission: it says nothing when all of it went, and fails at once
//!   with what went when not. Its memory has to last until the call returns, and no longer.
//! - So between turns the kernel owns nothing of ours but lent buffers and the waker's eight bytes.
//!
//! `submit.rs` brings the kernel to what is wanted of each socket, `complete.rs` tells what came of
//! it. It must not know who uses the sockets.

mod buffers;
mod complete;
mod submit;
mod token;
mod zero_copy;

use std::io;
use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::sync::Arc;

use io_uring::types::{SubmitArgs, Timespec};
use io_uring::{EnterFlags, IoUring, cqueue, opcode, types};

use self::buffers::BufferRing;
use self::submit::Message;
use self::token::Kind;
use self::zero_copy::ZeroCopy;
use crate::engine::Setup;
use crate::handler::Handler;
use crate::io::Io;
use crate::limits::{ENTER_TRIES_MAX, QUIESCE_MS_MAX};
use crate::pool::{Memory, Size};
use crate::probe::Missing;
use crate::sys;
use crate::table::Key;
use crate::wake::Wake;

pub(crate) use self::submit::Ops;

/// How much of io_uring is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Work is done only when the thread asks for completions (kernel 6.1).
    Full,
    /// Work is done whenever the thread enters the kernel.
    Reduced,
}

pub(crate) struct Ring {
    ring: IoUring,
    small: BufferRing,
    large: BufferRing,
    wake: Arc<Wake>,
    /// What the lent buffers are part of.
    memory: Rc<Memory>,
    /// What the kernel reads the waker's counter into.
    wake_count: Box<[u8; 8]>,
    is_wake_armed: bool,
    /// Sends of this turn.
    sends: Vec<Send>,
    /// Headers of those sends that have several pieces; kept for the next turn.
    #[allow(clippy::vec_box, reason = "the kernel is told their addresses")]
    messages: Vec<Box<Message>>,
    messages_used: usize,
    zero_copy: ZeroCopy,
    /// What the kernel said in this turn, taken out of the shared queue.
    completions: Vec<Completion>,
    /// Operations that will complete some time.
    in_flight: usize,
    /// A send of this turn says nothing if it succeeds, but something is to be done then.
    is_urgent: bool,
    /// Operations are queued, and the call that submits them has not returned in order. They refer
    /// to output that may change if that never happens, so they are never submitted then.
    is_broken: bool,
}

/// A send under way. It ends with the call that submits it.
#[derive(Debug)]
struct Send {
    key: Key,
    /// Bytes that the kernel was given.
    tried: usize,
    /// What the kernel said; nothing if all went.
    result: Option<i32>,
    /// Its number among those that are not copied.
    uncopied: Option<u32>,
}

#[derive(Debug, Clone, Copy)]
struct Completion {
    token: u64,
    result: i32,
    flags: u32,
}

impl Ring {
    /// Sets up a ring with its table of files and its buffers, all of which it has when this
    /// returns.
    pub(crate) fn open(
        mode: Mode,
        setup: &Setup,
        io: &Io,
        wake: Arc<Wake>,
    ) -> Result<Self, Missing> {
        let mut builder = IoUring::builder();
        builder.setup_submit_all().setup_cqsize(setup.completions);
        let step = match mode {
            Mode::Full => {
                builder.setup_single_issuer().setup_defer_taskrun();
                "a ring with deferred task work"
            }
            Mode::Reduced => {
                builder.setup_coop_taskrun();
                "a plain ring"
            }
        };
        let ring = builder.build(setup.submissions).map_err(|error| Missing { step, error })?;
        let step = "a table of files";
        let files = io.sockets_max();
        ring.submitter().register_files_sparse(files).map_err(|error| Missing { step, error })?;
        let step = "a ring of buffers";
        let lend = |size| {
            BufferRing::register(&ring, &io.pool, size).map_err(|error| Missing { step, error })
        };
        let (small, large) = (lend(Size::Small)?, lend(Size::Large)?);
        let zero_copy = ZeroCopy::new(&ring, setup.zero_copy_bytes_min);
        Ok(Self {
            ring,
            small,
            large,
            wake,
            memory: io.pool.memory().clone(),
            wake_count: Box::default(),
            is_wake_armed: false,
            sends: Vec::new(),
            messages: Vec::new(),
            messages_used: 0,
            zero_copy,
            completions: Vec::new(),
            in_flight: 0,
            is_urgent: false,
            is_broken: false,
        })
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
        if self.is_broken {
            return Err(io::Error::other("the ring has failed before; open a new engine"));
        }
        self.is_broken = true;
        self.arm_wake();
        for size in [Size::Small, Size::Large] {
            self.buffers(size).lend(&mut io.pool);
            self.serve_starved(io, size);
        }
        // As many as there are now: a socket with more output than one send takes comes again.
        for _ in 0..io.dirty.len() {
            if !self.has_room() {
                break;
            }
            let Some(key) = io.next_dirty() else { break };
            self.reconcile(io, key);
        }
        // What is starved still can try again after this turn's sends have given buffers back.
        self.is_urgent |= !self.small.starved.is_empty() || !self.large.starved.is_empty();
        let goes_on = self.is_urgent || !io.dirty.is_empty() || !io.events.is_empty();
        let deadline_ns = deadline_ns.into_iter().chain(io.next_deadline_ns()).min();
        self.enter(io, if goes_on { Some(0) } else { deadline_ns })?;
        self.is_broken = false;
        self.settle_sends(io);
        if io.next_deadline_ns().is_some() {
            io.expire(sys::now_ns());
        }
        io.deliver_events(handler);
        self.dispatch(io, handler);
        Ok(())
    }

    fn buffers(&mut self, size: Size) -> &mut BufferRing {
        match size {
            Size::Small => &mut self.small,
            Size::Large => &mut self.large,
        }
    }

    /// Lets sockets that found no buffer try again, before all others, as many as there are
    /// buffers. That is less than the queue has entries, so sends always find some.
    fn serve_starved(&mut self, io: &mut Io, size: Size) {
        for _ in 0..self.buffers(size).can_serve() {
            if !self.has_room() {
                return;
            }
            let Some(key) = self.buffers(size).starved.pop_front() else { return };
            if let Some(socket) = io.sockets.get_mut(key) {
                socket.ops.is_starved = false;
                self.reconcile_receive(socket, key);
            }
        }
    }

    /// Submits what is queued, waits for a completion or the deadline, and takes the completions
    /// out of the queue. When this returns without an error, the kernel has seen all submissions.
    fn enter(&mut self, io: &mut Io, deadline_ns: Option<u64>) -> io::Result<()> {
        self.completions.clear();
        let mut tries = 0;
        let mut waits = deadline_ns != Some(0);
        loop {
            let entered = self.enter_once(true, if waits { deadline_ns } else { Some(0) });
            let is_overflowing = self.reap(io);
            let is_submitted = self.ring.submission().is_empty();
            waits = false;
            match entered.map_err(|error| (error.raw_os_error(), error)) {
                Ok(_) | Err((Some(libc::ETIME | libc::EINTR), _)) => {}
                // The kernel is short of memory, or wants completions taken first.
                Err((Some(libc::EAGAIN | libc::EBUSY), error)) => {
                    if tries == ENTER_TRIES_MAX {
                        return Err(error);
                    }
                    tries += 1;
                    std::thread::yield_now();
                }
                Err((_, error)) => return Err(error),
            }
            if is_submitted && !is_overflowing {
                return Ok(());
            }
        }
    }

    fn enter_once(&mut self, submits: bool, deadline_ns: Option<u64>) -> io::Result<usize> {
        let queued = if submits { self.ring.submission().len() } else { 0 };
        let to_submit = u32::try_from(queued).unwrap_or(u32::MAX);
        let left_ns = match deadline_ns {
            None => None,
            Some(0) => Some(0),
            Some(deadline) => Some(deadline.saturating_sub(sys::now_ns())),
        };
        let submitter = self.ring.submitter();
        let flags = EnterFlags::GETEVENTS;
        match left_ns {
            // SAFETY: without an argument nothing is read; the queued entries refer to memory that
            // lasts until they are complete, as `reconcile` and `arm_wake` see to.
            None => unsafe { submitter.enter::<u8>(to_submit, 1, flags.bits(), None) },
            Some(left) if left > 0 => {
                // Below a billion, so that it fits.
                let nanoseconds = u32::try_from(left % 1_000_000_000).unwrap_or(0);
                let time = Timespec::new().sec(left / 1_000_000_000).nsec(nanoseconds);
                let args = SubmitArgs::new().timespec(&time);
                let flags = flags | EnterFlags::EXT_ARG;
                // SAFETY: as above; the argument lasts until the call returns.
                unsafe { submitter.enter(to_submit, 1, flags.bits(), Some(&args)) }
            }
            // SAFETY: as above.
            Some(_) => unsafe { submitter.enter::<u8>(to_submit, 0, flags.bits(), None) },
        }
    }

    /// Takes completions out of the shared queue; true if the kernel still holds some back.
    fn reap(&mut self, io: &mut Io) -> bool {
        for entry in self.ring.completion() {
            let completion = Completion {
                token: entry.user_data(),
                result: entry.result(),
                flags: entry.flags(),
            };
            let (kind, key) = token::unpack(completion.token);
            match kind {
                Kind::Send => {
                    // Failed sends only, which are part of this turn.
                    let place = io.sockets.get(key).map(|socket| socket.ops.send_place());
                    let send = place.and_then(|place| self.sends.get_mut(place));
                    if let Some(send) = send.filter(|send| send.key == key) {
                        send.result = Some(completion.result);
                    }
                }
                Kind::Uncopied if !cqueue::notif(completion.flags) => {
                    let send = self.sends.get_mut(key.generation as usize);
                    if let Some(send) = send.filter(|send| send.uncopied == Some(key.slot)) {
                        send.result = Some(completion.result);
                    }
                    self.in_flight += 1;
                    if !cqueue::more(completion.flags) {
                        // No notice will come; its memory is let go when all is settled.
                        self.completions.push(completion);
                    }
                }
                _ => self.completions.push(completion),
            }
        }
        let is_overflowing = self.ring.submission().cq_overflow();
        io.counters.overflows_total += u64::from(is_overflowing);
        is_overflowing
    }

    fn arm_wake(&mut self) {
        if self.is_wake_armed {
            return;
        }
        let fd = types::Fd(self.wake.fd.as_raw_fd());
        let read = opcode::Read::new(fd, self.wake_count.as_mut_ptr(), 8).build();
        let key = Key { slot: 0, generation: 0 };
        // SAFETY: the eight bytes are boxed, and live until the read has ended: `quiesce`.
        unsafe { self.push(&read.user_data(token::pack(Kind::Wake, key))) };
        self.is_wake_armed = true;
        self.in_flight += 1;
    }

    /// Ends all operations, so that the kernel uses no memory of ours any more. False if it could
    /// not.
    fn quiesce(&mut self) -> bool {
        let deadline_ns = sys::now_ns() + QUIESCE_MS_MAX * 1_000_000;
        let wait = Timespec::new().sec(QUIESCE_MS_MAX / 1_000);
        while self.in_flight > 0 && sys::now_ns() < deadline_ns {
            // Its result does not matter: what counts is that all operations say their last.
            let all = types::CancelBuilder::any();
            let _ = self.ring.submitter().register_sync_cancel(Some(wait), all);
            if self.enter_once(false, Some(0)).is_err() {
                break;
            }
            for entry in self.ring.completion() {
                let (kind, _) = token::unpack(entry.user_data());
                let ends = !cqueue::more(entry.flags());
                if ends && !matches!(kind, Kind::Ignored | Kind::Send) {
                    self.in_flight -= 1;
                }
                if entry.result() >= 0 && kind == Kind::Accept {
                    complete::close_accepted(entry.result());
                }
            }
        }
        self.in_flight == 0
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        if !self.quiesce() {
            self.memory.keep_for_ever();
            self.zero_copy.keep_for_ever();
            Box::leak(std::mem::take(&mut self.wake_count));
        }
    }
}
