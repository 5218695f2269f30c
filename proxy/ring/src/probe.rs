//! Finds out by trying whether io_uring can be used, and how much of it.
//!
//! Version numbers do not tell: containers filter the system calls, sysctls switch them off, and
//! distributions back-port. So a ring is made and an operation sent through it.

use std::fmt;
use std::io;

use io_uring::{IoUring, Probe, opcode};

/// Entries of the ring made for the probe; it carries one operation.
const ENTRIES: u32 = 8;

/// How much of io_uring works here.
#[derive(Debug)]
pub enum Support {
    /// A ring with a single issuer and deferred task work (kernel 6.1 and later).
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

/// Tries a ring with all that the engine wants, then a plain one. Costs two short-lived rings at
/// most, and leaves nothing behind.
#[must_use]
pub fn probe() -> Support {
    let mut full = IoUring::builder();
    full.setup_single_issuer().setup_defer_taskrun().setup_submit_all();
    let missing = match full.build(ENTRIES) {
        Ok(ring) => match exercise(ring) {
            Ok(()) => return Support::Full,
            Err(missing) => missing,
        },
        Err(error) => Missing { step: "a ring with deferred task work", error },
    };
    let plain = IoUring::new(ENTRIES).map_err(|error| Missing { step: "a plain ring", error });
    match plain.and_then(exercise) {
        Ok(()) => Support::Reduced(missing),
        Err(error) => Support::None(error),
    }
}

/// Sends one operation through the ring and checks that the ones the engine needs are known.
fn exercise(mut ring: IoUring) -> Result<(), Missing> {
    let step = "a first operation";
    let operation = opcode::Nop::new().build().user_data(1);
    // SAFETY: a no-op refers to no memory, so nothing has to outlive it.
    let pushed = unsafe { ring.submission().push(&operation) };
    pushed.map_err(|_| Missing { step, error: io::Error::other("submission queue is full") })?;
    ring.submit_and_wait(1).map_err(|error| Missing { step, error })?;
    match ring.completion().next().map(|entry| entry.result()) {
        Some(0) => {}
        Some(code) => return Err(Missing { step, error: io::Error::from_raw_os_error(-code) }),
        None => return Err(Missing { step, error: io::ErrorKind::UnexpectedEof.into() }),
    }
    let mut known = Probe::new();
    let step = "the list of operations";
    ring.submitter().register_probe(&mut known).map_err(|error| Missing { step, error })?;
    let needed = [
        opcode::Accept::CODE,
        opcode::Connect::CODE,
        opcode::Recv::CODE,
        opcode::Send::CODE,
        opcode::AsyncCancel::CODE,
        opcode::Close::CODE,
    ];
    match needed.into_iter().find(|code| !known.is_supported(*code)) {
        None => Ok(()),
        Some(code) => {
            let error = io::Error::other(format!("operation {code} is not known"));
            Err(Missing { step, error })
        }
    }
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
}
