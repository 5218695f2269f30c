//! What is known of one socket: its phase, its output, and what its driver has under way for it.

use std::os::fd::OwnedFd;

use rustix::io::Errno;

use crate::epoll::Edge;
use crate::output::Output;
use crate::ring::Ops;

/// Where a socket is in its life. The caller knows it in the first four phases only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Accepts connections.
    Listening,
    /// Waits for the connection to stand.
    Connecting,
    /// Connected.
    Open,
    /// Is to be given away, once output is sent and no operation is under way.
    Leaving,
    /// Accepts no more; what the kernel had accepted already is still told.
    Retiring,
    /// Sends what is queued; what arrives is dropped, so that it cannot reset the connection.
    Finishing,
    /// Has said that no more comes, and drops what arrives until the peer's end.
    Lingering,
    /// Is closed once no operation is under way.
    Closing,
}

#[derive(Debug)]
pub(crate) struct Socket {
    pub(crate) fd: OwnedFd,
    pub(crate) phase: Phase,
    /// The caller wants to read, or connections to be accepted.
    pub(crate) wants_input: bool,
    /// The end of input was seen.
    pub(crate) input_over: bool,
    pub(crate) output: Output,
    /// The kernel took less than there was, and output has not been empty since.
    pub(crate) is_blocked: bool,
    /// There is no room until the driver hears of some.
    pub(crate) is_stuck: bool,
    /// Why output is dropped.
    pub(crate) failed: Option<Errno>,
    /// Stands in the list of sockets that the driver must look at.
    pub(crate) is_dirty: bool,
    /// Grows with bytes that the kernel takes, and with the end of output; tells a slow peer from
    /// a dead one.
    pub(crate) progress: u64,
    /// A listener rests until this time, in nanoseconds; 0 for not.
    pub(crate) rests_until_ns: u64,
    pub(crate) ops: Ops,
    pub(crate) edge: Edge,
}

impl Socket {
    pub(crate) fn new(fd: OwnedFd, phase: Phase) -> Self {
        Self {
            fd,
            phase,
            wants_input: true,
            input_over: false,
            output: Output::default(),
            is_blocked: false,
            is_stuck: false,
            failed: None,
            is_dirty: false,
            progress: 0,
            rests_until_ns: 0,
            ops: Ops::default(),
            edge: Edge::default(),
        }
    }

    /// The caller still knows this socket.
    pub(crate) fn is_known(&self) -> bool {
        matches!(self.phase, Phase::Listening | Phase::Connecting | Phase::Open | Phase::Leaving)
    }

    /// Output of the caller is taken; else it is dropped, as the connection is broken or gone.
    pub(crate) fn takes_output(&self) -> bool {
        self.failed.is_none()
            && matches!(self.phase, Phase::Connecting | Phase::Open | Phase::Leaving)
    }

    /// A send is due.
    pub(crate) fn is_to_be_sent(&self) -> bool {
        let sends = matches!(self.phase, Phase::Open | Phase::Leaving | Phase::Finishing);
        sends && !self.is_stuck && !self.output.is_empty()
    }

    /// Receives are due.
    pub(crate) fn is_to_be_read(&self) -> bool {
        let reads = matches!(self.phase, Phase::Open | Phase::Finishing | Phase::Lingering);
        reads && self.wants_input && !self.input_over
    }

    /// Connections are to be accepted.
    pub(crate) fn is_to_accept(&self) -> bool {
        self.phase == Phase::Listening && self.wants_input && self.rests_until_ns == 0
    }
}

// What each open socket costs in the table, whether idle or not.
const _: () = assert!(size_of::<Socket>() <= 128);
