//! One engine for a thread: the best driver that this machine allows, or the one asked for.

use std::fmt;
use std::io;
use std::rc::Rc;
use std::str::FromStr;

use rustix::process::{Resource, getrlimit};

use crate::epoll::Epoll;
use crate::handler::Handler;
use crate::io::Io;
use crate::limits::{
    BUFFER_BYTES, BUFFERS, BUFFERS_MAX, COMPLETIONS, FINISH_MS_MAX, LARGE_BUFFER_BYTES,
    LARGE_BUFFERS, SLOTS_MAX, SOCKETS_MAX, SUBMISSIONS, SUBMISSIONS_MIN,
};
use crate::pool::Pool;
use crate::probe::{Missing, exercise};
use crate::ring::{Mode, Ring};
use crate::wake::{Wake, Waker};

/// Which driver is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Choice {
    /// The best one that works.
    #[default]
    Auto,
    /// io_uring with a single issuer and deferred task work (kernel 6.1 and later), or none.
    Full,
    /// io_uring without these, or none.
    Reduced,
    /// epoll.
    Epoll,
}

/// The names of the choices, as on the command line.
const NAMES: [(&str, Choice); 4] = [
    ("auto", Choice::Auto),
    ("full", Choice::Full),
    ("reduced", Choice::Reduced),
    ("epoll", Choice::Epoll),
];

/// A word that names no engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownEngine(pub String);

impl fmt::Display for UnknownEngine {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "there is no engine {:?}; there are", self.0)?;
        NAMES.iter().try_for_each(|(name, _)| write!(out, " {name}"))
    }
}

impl std::error::Error for UnknownEngine {}

impl FromStr for Choice {
    type Err = UnknownEngine;

    fn from_str(text: &str) -> Result<Self, UnknownEngine> {
        let found = NAMES.iter().find(|(name, _)| *name == text).map(|(_, choice)| *choice);
        found.ok_or_else(|| UnknownEngine(text.to_owned()))
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = NAMES.iter().find(|(_, choice)| choice == self).map_or("", |(name, _)| name);
        out.write_str(name)
    }
}

/// Sizes of an engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setup {
    /// Most sockets, listeners included; the limit of descriptors may make it less.
    pub sockets_max: u32,
    /// Receive buffers, a power of two.
    pub buffers: u16,
    /// Bytes of each.
    pub buffer_bytes: u32,
    /// Buffers for peers that send faster than a turn carries, a power of two.
    pub large_buffers: u16,
    /// Bytes of each.
    pub large_buffer_bytes: u32,
    /// Operations that can be queued in one turn; what is beyond waits for the next.
    pub submissions: u32,
    /// Completions that the kernel can tell at once; at least as many as submissions.
    pub completions: u32,
    /// How long `finish` waits for a peer that takes no byte, or does not close.
    pub finish_ms_max: u32,
    /// Sends of at least so many bytes go out without a copy by the kernel (`SEND_ZC`), where it
    /// can; none if zero. Only network cards gain: on loopback and between namespaces the kernel
    /// copies all the same, and it costs a turn more.
    pub zero_copy_bytes_min: u32,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            sockets_max: SOCKETS_MAX,
            buffers: BUFFERS,
            buffer_bytes: BUFFER_BYTES,
            large_buffers: LARGE_BUFFERS,
            large_buffer_bytes: LARGE_BUFFER_BYTES,
            submissions: SUBMISSIONS,
            completions: COMPLETIONS,
            finish_ms_max: FINISH_MS_MAX,
            zero_copy_bytes_min: 0,
        }
    }
}

impl Setup {
    fn check(&self) -> io::Result<()> {
        let kinds = [
            ("", self.buffers, self.buffer_bytes),
            ("large ", self.large_buffers, self.large_buffer_bytes),
        ];
        for (kind, count, bytes) in kinds {
            if !count.is_power_of_two() || count > BUFFERS_MAX || bytes == 0 {
                let text = format!(
                    "{count} {kind}receive buffers of {bytes} bytes: their number must be a power \
                     of two up to {BUFFERS_MAX}, and their size not 0"
                );
                return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
            }
        }
        if self.submissions < SUBMISSIONS_MIN || self.completions < self.submissions {
            let text = format!(
                "{} submissions and {} completions in one turn: there must be at least \
                 {SUBMISSIONS_MIN} submissions, and as many completions",
                self.submissions, self.completions
            );
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        Ok(())
    }
}

/// Which driver an engine has, and why not a better one.
#[derive(Debug)]
pub struct Found {
    /// The driver.
    pub driver: Driven,
    /// What the better ones lacked, best first; none were tried if one was asked for.
    pub missing: Vec<Missing>,
}

/// A driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Driven {
    /// io_uring with all that the engine wants.
    Full,
    /// io_uring without deferred task work.
    Reduced,
    /// epoll.
    Epoll,
}

impl Driven {
    /// As in logs and metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Full => "io_uring",
            Self::Reduced => "io_uring (reduced)",
            Self::Epoll => "epoll",
        }
    }
}

impl fmt::Display for Found {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.driver.name())?;
        for (index, missing) in self.missing.iter().enumerate() {
            write!(out, "{} {missing}", if index == 0 { ", as" } else { ";" })?;
        }
        Ok(())
    }
}

/// The sockets of one thread and what moves their bytes. It stays on the thread that opened it.
pub struct Engine {
    driver: Driver,
    io: Io,
    waker: Waker,
    found: Found,
}

enum Driver {
    Ring(Box<Ring>),
    Epoll(Epoll),
}

impl Engine {
    /// Opens the engine that was asked for; for `Auto` the first that works of full, reduced and
    /// epoll, tried by real operations.
    ///
    /// # Errors
    /// When it does not work, or there is no memory or descriptor.
    pub fn open(choice: Choice, setup: &Setup) -> io::Result<Self> {
        setup.check()?;
        let ladder: &[Driven] = match choice {
            Choice::Auto => &[Driven::Full, Driven::Reduced, Driven::Epoll],
            Choice::Full => &[Driven::Full],
            Choice::Reduced => &[Driven::Reduced],
            Choice::Epoll => &[Driven::Epoll],
        };
        let mut all_missing = Vec::new();
        for driver in ladder {
            let opened = exercise(*driver).and_then(|()| Self::open_one(*driver, setup));
            match opened {
                Ok(mut engine) => {
                    engine.found.missing = all_missing;
                    return Ok(engine);
                }
                Err(missing) => all_missing.push(missing),
            }
        }
        let last = all_missing.pop().expect("each rung of the ladder has failed");
        let text = format!("the engine {choice} does not work here: {last}");
        Err(io::Error::new(last.error.kind(), text))
    }

    /// Opens an engine with this driver, without trying it.
    pub(crate) fn open_one(driven: Driven, setup: &Setup) -> Result<Self, Missing> {
        let wrong = |step| move |error| Missing { step, error };
        let wake = Wake::new().map_err(wrong("an event for wake-ups"))?;
        let pool = Pool::new(
            (setup.buffers, setup.buffer_bytes),
            (setup.large_buffers, setup.large_buffer_bytes),
        );
        let pool = pool.map_err(wrong("memory for receive buffers"))?;
        let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        let sockets_max = u32::try_from(descriptors).unwrap_or(u32::MAX);
        let sockets_max = sockets_max.min(setup.sockets_max).min(SLOTS_MAX);
        let io = Io::new(pool, sockets_max, setup.finish_ms_max);
        let driver = match driven {
            Driven::Full => {
                Driver::Ring(Box::new(Ring::open(Mode::Full, setup, &io, wake.clone())?))
            }
            Driven::Reduced => {
                Driver::Ring(Box::new(Ring::open(Mode::Reduced, setup, &io, wake.clone())?))
            }
            Driven::Epoll => Driver::Epoll(Epoll::new(&io, wake.clone()).map_err(wrong("epoll"))?),
        };
        let found = Found { driver: driven, missing: Vec::new() };
        Ok(Self { driver, io, waker: Waker(wake), found })
    }

    /// Which driver this is, and why not a better one; to be logged.
    #[must_use]
    pub fn found(&self) -> &Found {
        &self.found
    }

    /// What wakes this engine from another thread.
    #[must_use]
    pub fn waker(&self) -> Waker {
        self.waker.clone()
    }

    /// The handle that handlers get, for use between turns.
    pub fn io(&mut self) -> &mut Io {
        &mut self.io
    }

    /// One turn of the loop: sends what is queued, waits until something happens but not longer
    /// than the deadline (`CLOCK_MONOTONIC`, in nanoseconds), and tells the handler all of it.
    /// May return early without having told anything.
    ///
    /// # Errors
    /// When the driver itself fails; what happens to a socket is told to the handler.
    pub fn turn<H: Handler>(
        &mut self,
        deadline_ns: Option<u64>,
        handler: &mut H,
    ) -> io::Result<()> {
        // Handles of two engines could have been swapped, which must not swap their buffers.
        let memory = match &self.driver {
            Driver::Ring(driver) => driver.memory(),
            Driver::Epoll(driver) => driver.memory(),
        };
        assert!(Rc::ptr_eq(memory, self.io.pool.memory()), "this handle is another engine's");
        match &mut self.driver {
            Driver::Ring(driver) => driver.turn(&mut self.io, deadline_ns, handler),
            Driver::Epoll(driver) => driver.turn(&mut self.io, deadline_ns, handler),
        }
    }
}
