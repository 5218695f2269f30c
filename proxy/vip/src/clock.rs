//! The clock that leases go by, and waiting until it has come to a point.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::time::{
    ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, clock_gettime,
    timerfd_create, timerfd_settime,
};

const NS_PER_S: u64 = 1_000_000_000;
const NS_PER_MS: u64 = 1_000_000;

/// Nanoseconds of the boot-time clock, which goes on while the host sleeps.
#[must_use]
pub fn boot_ns() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    // Neither is ever negative for this clock.
    let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
    seconds * NS_PER_S + u64::try_from(now.tv_nsec).unwrap_or_default()
}

/// Milliseconds as nanoseconds.
pub(crate) const fn ms(count: u64) -> u64 {
    count * NS_PER_MS
}

/// Ends another thread's [`Waiter::wait`], or its next one.
#[derive(Clone, Debug)]
pub(crate) struct Waker(Arc<OwnedFd>);

impl Waker {
    pub(crate) fn wake(&self) {
        // It only fails when it was woken 2^64 times and nobody waited.
        let _ = rustix::io::write(&*self.0, &1_u64.to_ne_bytes());
    }
}

/// Waits by the boot-time clock: a host that wakes from sleep is not late by what it slept.
pub(crate) struct Waiter {
    timer: OwnedFd,
    woken: Arc<OwnedFd>,
}

impl Waiter {
    pub(crate) fn new() -> io::Result<(Self, Waker)> {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let timer = timerfd_create(TimerfdClockId::Boottime, flags)?;
        let woken = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        Ok((Self { timer, woken: Arc::clone(&woken) }, Waker(woken)))
    }

    /// Waits for a wake, for that point of the clock, or until `also` can be read. Returns whether
    /// it can. It may return early.
    pub(crate) fn wait(&self, until_ns: Option<u64>, also: Option<BorrowedFd>) -> io::Result<bool> {
        // Zero would disarm the timer, and so wait for ever.
        let until_ns = until_ns.map_or(0, |at| at.max(1));
        let at = Timespec {
            tv_sec: i64::try_from(until_ns / NS_PER_S).unwrap_or(i64::MAX),
            tv_nsec: i64::try_from(until_ns % NS_PER_S).unwrap_or_default(),
        };
        let never = Timespec { tv_sec: 0, tv_nsec: 0 };
        let spec = Itimerspec { it_interval: never, it_value: at };
        timerfd_settime(&self.timer, TimerfdTimerFlags::ABSTIME, &spec)?;
        let mut fds = vec![
            PollFd::from_borrowed_fd(self.timer.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(self.woken.as_fd(), PollFlags::IN),
        ];
        fds.extend(also.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
        match poll(&mut fds, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let is_readable = fds.get(2).is_some_and(|fd| !fd.revents().is_empty());
        // What was not woken has nothing to read, and that is no error.
        let _ = rustix::io::read(&*self.woken, &mut [0_u8; 8]);
        Ok(is_readable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_ends_by_the_clock_by_a_wake_and_at_once_for_what_is_past() {
        let (waiter, waker) = Waiter::new().unwrap();
        let until = boot_ns() + ms(20);
        waiter.wait(Some(until), None).unwrap();
        assert!(boot_ns() >= until);
        waiter.wait(Some(0), None).unwrap();
        waiter.wait(Some(until), None).unwrap();
        waker.wake();
        waiter.wait(None, None).unwrap();
    }
}
