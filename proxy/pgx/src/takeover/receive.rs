//! The new process: asks a running pgx for its place.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pgx_control::admin::{Body, HandOver, HandOverLine, Reply, Request, Verb};
use pgx_control::limits::ADMIN_REPLY_BYTES_MAX;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tracing::{info, warn};

use super::{next_line, obstacle, read_line, receive_descriptors, write_line};
use crate::config::Config;
use crate::exit::Failure;
use crate::limits::{HAND_OVER_STEP_MAX, PROCESS_END_MAX};

/// The old process, that goes on until this one is ready.
#[derive(Debug)]
pub(crate) struct Elder {
    stream: UnixStream,
    /// Tells whether it lives.
    handle: OwnedFd,
    process: u32,
    peer_id: u8,
}

/// What it has handed over.
#[derive(Debug)]
pub(crate) struct Handed {
    pub(crate) admin: (OwnedFd, OwnedFd),
    pub(crate) pid_file: Option<(PathBuf, OwnedFd)>,
    pub(crate) tcp: Vec<HandedTcp>,
    pub(crate) unix: Vec<HandedUnix>,
}

/// An address, with its sockets.
#[derive(Debug)]
pub(crate) struct HandedTcp {
    pub(crate) asked: String,
    pub(crate) sockets: Vec<OwnedFd>,
}

/// A Unix socket, with its lock.
#[derive(Debug)]
pub(crate) struct HandedUnix {
    pub(crate) path: PathBuf,
    pub(crate) listener: OwnedFd,
    pub(crate) lock: OwnedFd,
}

/// Asks the pgx that runs with the same admin socket for everything that it has.
///
/// # Errors
/// When there is none, or it refuses, or ends meanwhile; it goes on as before then.
pub(crate) fn ask(config: &Config) -> Result<(Elder, Handed), Failure> {
    if let Some(obstacle) = obstacle(config) {
        return Err(Failure::Failed(obstacle));
    }
    let (elder, handed) = ask_at(&config.admin_socket)?;
    let pool = config.proxy.as_ref().and_then(|proxy| proxy.pool.as_ref());
    let (own, theirs) = (pool.map_or(0, |pool| pool.peers.own), elder.peer_id);
    if own == theirs {
        return Ok((elder, handed));
    }
    Err(Failure::Failed(format!(
        "proxy.peer_id is {own} here and {theirs} at the running pgx, by which other nodes find \
         its clients; stop it, then start this one"
    )))
}

fn ask_at(path: &Path) -> Result<(Elder, Handed), Failure> {
    let place = path.display();
    let stream = UnixStream::connect(path).map_err(|error| {
        let next = match error.kind() {
            ErrorKind::NotFound | ErrorKind::ConnectionRefused => {
                "; if none runs, start without --take-over"
            }
            _ => "",
        };
        Failure::Unreachable(format!("there is no pgx to take over from at {place}: {error}{next}"))
    })?;
    receive(stream).map_err(|failure| match failure {
        Unheard::Refused(detail) => Failure::Refused(format!(
            "the running pgx cannot be taken over from: {detail}; it goes on as before"
        )),
        Unheard::Failed(error) => Failure::Failed(format!(
            "the running pgx at {place} did not hand its sockets over: {error}; if it still runs \
             it goes on as before, else start without --take-over"
        )),
    })
}

/// Why nothing was handed over.
enum Unheard {
    Refused(String),
    Failed(io::Error),
}

impl From<io::Error> for Unheard {
    fn from(error: io::Error) -> Self {
        Self::Failed(error)
    }
}

fn receive(mut stream: UnixStream) -> Result<(Elder, Handed), Unheard> {
    stream.set_read_timeout(Some(HAND_OVER_STEP_MAX))?;
    stream.set_write_timeout(Some(HAND_OVER_STEP_MAX))?;
    let mut line = serde_json::to_vec(&Request::new(Verb::TakeOver)).map_err(io::Error::from)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    let reply = read_line(&mut stream, ADMIN_REPLY_BYTES_MAX)?;
    let reply: Reply = serde_json::from_slice(&reply).map_err(io::Error::from)?;
    let offer = match reply.body {
        Body::HandOver(offer) => offer,
        Body::Refused(refusal) => return Err(Unheard::Refused(refusal.to_string())),
        _ => return Err(io::Error::other("it answers something else").into()),
    };
    // The kernel knows who listened on this socket first, which may have been an even older one.
    let process = i32::try_from(offer.process_id).ok().and_then(Pid::from_raw);
    let process = process.ok_or_else(|| io::Error::other("it has no process id"))?;
    let handle = pidfd_open(process, PidfdFlags::empty()).map_err(io::Error::from)?;
    write_line(&mut stream, &HandOverLine::Sockets)?;
    let all = receive_descriptors(&stream, offer.descriptors())?;
    let handed = sorted(&offer, all.into()).ok_or_else(|| io::Error::other("too few sockets"))?;
    let (process, peer_id) = (offer.process_id, offer.peer_id);
    Ok((Elder { stream, handle, process, peer_id }, handed))
}

/// What each descriptor is.
fn sorted(offer: &HandOver, mut all: VecDeque<OwnedFd>) -> Option<Handed> {
    let mut next = || all.pop_front();
    let admin = (next()?, next()?);
    let pid_file = match &offer.pid_file {
        Some(path) => Some((PathBuf::from(path), next()?)),
        None => None,
    };
    let tcp = offer.tcp.iter().map(|tcp| {
        let sockets: Option<Vec<_>> = (0..tcp.sockets).map(|_| next()).collect();
        Some(HandedTcp { asked: tcp.asked.clone(), sockets: sockets? })
    });
    let tcp = tcp.collect::<Option<_>>()?;
    let unix = offer.unix.iter().map(|path| {
        let (listener, lock) = (next()?, next()?);
        Some(HandedUnix { path: PathBuf::from(path), listener, lock })
    });
    let unix = unix.collect::<Option<_>>()?;
    Some(Handed { admin, pid_file, tcp, unix })
}

impl Elder {
    /// Says that this process can serve. Afterwards everything is its own, and the connection is
    /// for what the two have to tell each other.
    ///
    /// # Errors
    /// When the old process has not waited so long, and goes on as before.
    pub(crate) fn relieve(mut self) -> Result<UnixStream, Failure> {
        let said = write_line(&mut self.stream, &HandOverLine::Ready)
            .and_then(|()| next_line(&mut self.stream));
        match said {
            Ok(HandOverLine::Yours) => info!(process = self.process, "took over from another pgx"),
            Ok(_) => return Err(self.refused("it says something else")),
            Err(error) if is_timeout(&error) => {
                // It may be stopped; when it goes on it reads what it was told.
                warn!(process = self.process, "the other pgx does not answer; serving without it");
            }
            Err(_) if self.has_ended() => {
                warn!(process = self.process, "the other pgx has ended, and its sessions with it");
            }
            Err(error) => return Err(self.refused(&error.to_string())),
        }
        let timeouts = self.stream.set_read_timeout(None);
        timeouts.map_err(|error| Failure::Failed(format!("cannot listen to it: {error}")))?;
        Ok(self.stream)
    }

    fn refused(&self, why: &str) -> Failure {
        let process = self.process;
        Failure::Failed(format!(
            "the running pgx (process {process}) has given up waiting for this one, and goes on as \
             before: {why}"
        ))
    }

    /// Its files are closed a moment before it counts as ended.
    fn has_ended(&self) -> bool {
        let limit = timespec(PROCESS_END_MAX);
        let mut ends = [PollFd::new(&self.handle, PollFlags::IN)];
        poll(&mut ends, Some(&limit)).is_ok_and(|count| count > 0)
    }
}

fn timespec(time: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(time.subsec_nanos()),
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn elder(stream: UnixStream, process: u32) -> Elder {
        let pid = Pid::from_raw(i32::try_from(process).unwrap()).unwrap();
        let handle = pidfd_open(pid, PidfdFlags::empty()).unwrap();
        Elder { stream, handle, process, peer_id: 0 }
    }

    #[test]
    fn process_that_lives_and_gives_no_word_goes_on_alone() {
        let (own, other) = UnixStream::pair().unwrap();
        let elder = elder(own, std::process::id());
        drop(other);

        let failure = elder.relieve().unwrap_err().to_string();

        assert!(failure.contains("goes on as before"), "{failure}");
    }

    #[test]
    fn process_that_has_died_is_relieved_without_a_word() {
        let (own, other) = UnixStream::pair().unwrap();
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let elder = elder(own, child.id());
        child.kill().unwrap();
        drop(other);

        assert!(elder.relieve().is_ok());
        child.wait().unwrap();
    }

    #[test]
    fn process_that_gives_its_word_is_relieved() {
        let (own, mut other) = UnixStream::pair().unwrap();
        write_line(&mut other, &HandOverLine::Yours).unwrap();

        let mut stream = elder(own, std::process::id()).relieve().unwrap();

        assert_eq!(next_line(&mut other).unwrap(), HandOverLine::Ready);
        write_line(&mut other, &HandOverLine::Cancelled { serial: 1 }).unwrap();
        assert_eq!(next_line(&mut stream).unwrap(), HandOverLine::Cancelled { serial: 1 });
    }
}
