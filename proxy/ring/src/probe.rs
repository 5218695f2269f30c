//! Finds out by trying which driver works here.
//!
//! Version numbers do not tell: containers filter the system calls, sysctls switch them off, and
//! distributions back-port. So a small engine is opened and made to do all that the real one does:
//! to find no buffer, to meet a peer that takes less than there is, to stop a receive, to close.

use std::fmt;
use std::io;
use std::os::unix::net::UnixStream;

use rustix::net::sockopt;

use crate::engine::{Driven, Engine, Setup};
use crate::handler::{End, Handler, Received};
use crate::io::Io;
use crate::limits::{EXERCISE_BYTES, EXERCISE_MS_MAX};
use crate::sys::now_ns;
use crate::table::Key;

/// How much of io_uring works here.
#[derive(Debug)]
pub enum Support {
    /// All that the engine wants (kernel 6.1 and later).
    Full,
    /// A plain ring; says what kept it from more.
    Reduced(Missing),
    /// No ring at all; says why.
    None(Missing),
}

/// What did not work, and with which error of the kernel.
#[derive(Debug)]
pub struct Missing {
    /// The step that failed, as a reader would name it.
    pub step: &'static str,
    /// What the kernel said.
    pub error: io::Error,
}

impl fmt::Display for Missing {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} failed: {}", self.step, self.error)
    }
}

/// Tries io_uring with all that the engine wants, then without deferred task work. Costs two
/// short-lived engines at most, and leaves nothing behind.
#[must_use]
pub fn probe() -> Support {
    let Err(missing) = exercise(Driven::Full) else { return Support::Full };
    match exercise(Driven::Reduced) {
        Ok(()) => Support::Reduced(missing),
        Err(error) => Support::None(error),
    }
}

/// Opens a small engine with this driver and sends bytes through it.
pub(crate) fn exercise(driven: Driven) -> Result<(), Missing> {
    let setup = Setup {
        sockets_max: 8,
        buffers: 4,
        buffer_bytes: 4096,
        large_buffers: 1,
        large_buffer_bytes: 16 * 1024,
        ..Setup::default()
    };
    let mut engine = Engine::open_one(driven, &setup)?;
    let step = "a first exchange of bytes";
    exchange(&mut engine).map_err(|error| Missing { step, error })
}

/// What is seen of the exchange.
#[derive(Default)]
struct Seen {
    received_bytes: usize,
    is_damaged: bool,
    drained: u32,
    end: Option<End>,
}

impl Handler for Seen {
    fn accepted(&mut self, _: &mut Io, _: Key, _: Key) {}

    fn connected(&mut self, _: &mut Io, _: Key, _: io::Result<()>) {}

    fn received(&mut self, _: &mut Io, _: Key, data: &Received<'_>) {
        for byte in data.iter() {
            self.is_damaged |= *byte != value(self.received_bytes);
            self.received_bytes += 1;
        }
    }

    fn ended(&mut self, _: &mut Io, _: Key, end: End) {
        self.end = Some(end);
    }

    fn drained(&mut self, _: &mut Io, _: Key) {
        self.drained += 1;
    }
}

/// What stands at each place of the bytes: a period that no buffer's size is a multiple of.
#[allow(clippy::cast_possible_truncation, reason = "below 251")]
fn value(place: usize) -> u8 {
    (place % 251) as u8
}

/// More bytes than a socket takes go from one end of a pair to the other, then both are closed.
fn exchange(engine: &mut Engine) -> io::Result<()> {
    let (one, other) = UnixStream::pair()?;
    // Whatever size an operator has made the default, the bytes are more than that.
    sockopt::set_socket_send_buffer_size(&one, EXERCISE_BYTES / 16)?;
    let (from, to) = (engine.io().adopt(one.into())?, engine.io().adopt(other.into())?);
    engine.io().pause(to);
    engine.io().write_vec(from, (0..EXERCISE_BYTES).map(value).collect());
    let deadline_ns = now_ns() + EXERCISE_MS_MAX * 1_000_000;
    let mut seen = Seen::default();
    let mut is_closing = false;
    while engine.io().sockets() > 0 {
        // Nothing tells when the last socket has been closed, so that is not waited for.
        let until_ns = if seen.end.is_some() { 0 } else { deadline_ns };
        engine.turn(Some(until_ns), &mut seen)?;
        let is_blocked = engine.io().is_blocked(from);
        if is_blocked && seen.received_bytes == 0 {
            engine.io().resume(to);
        }
        if seen.received_bytes == EXERCISE_BYTES && !is_closing {
            is_closing = true;
            engine.io().finish(from);
        }
        if seen.end.is_some() {
            engine.io().abort(to);
        }
        if now_ns() >= deadline_ns {
            let text = format!(
                "{} of {EXERCISE_BYTES} bytes arrived within {EXERCISE_MS_MAX} ms, end {:?}",
                seen.received_bytes, seen.end
            );
            return Err(io::Error::new(io::ErrorKind::TimedOut, text));
        }
    }
    let is_whole = seen.received_bytes == EXERCISE_BYTES && !seen.is_damaged && seen.drained > 0;
    if !is_whole || !matches!(seen.end, Some(End::Eof)) {
        let text = format!(
            "{} of {EXERCISE_BYTES} bytes arrived{}, drained {} times, end {:?}",
            seen.received_bytes,
            if seen.is_damaged { ", damaged" } else { "" },
            seen.drained,
            seen.end
        );
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probe_names_the_step_that_failed_or_finds_a_ring() {
        match probe() {
            Support::Full => {}
            Support::Reduced(missing) | Support::None(missing) => {
                assert!(!missing.step.is_empty() && missing.to_string().contains("failed"));
            }
        }
    }

    #[test]
    fn epoll_passes_the_exercise_everywhere() {
        exercise(Driven::Epoll).unwrap();
    }
}
