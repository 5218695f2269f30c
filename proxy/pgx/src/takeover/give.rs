//! The old process: hands everything to the one that asks, and keeps serving until that is ready.

use std::io;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::socket::{getsockopt, sockopt};
use pgx_control::admin::{Body, HandOverLine, Refusal, Reply};
use tokio::sync::mpsc;
use tracing::{info, warn};

use super::{link, next_line, obstacle, send_descriptors, write_line};
use crate::config::Config;
use crate::front::Front;
use crate::holdings::Kept;
use crate::limits::{HAND_OVER_STEP_MAX, TAKE_OVER_MAX};

/// What this process could hand over, and whom it tells when it has.
pub(crate) struct Hand {
    obstacle: Option<String>,
    peer_id: u8,
    holdings: Kept,
    front: Option<Front>,
    is_busy: AtomicBool,
    taken: mpsc::UnboundedSender<u32>,
}

impl Hand {
    /// Of this process; `taken` hears which one has taken its place.
    pub(crate) fn new(
        config: &Config,
        holdings: Kept,
        front: Option<Front>,
        taken: mpsc::UnboundedSender<u32>,
    ) -> Self {
        let pool = config.proxy.as_ref().and_then(|proxy| proxy.pool.as_ref());
        Self {
            obstacle: obstacle(config),
            peer_id: pool.map_or(0, |pool| pool.peers.own),
            holdings,
            front,
            is_busy: AtomicBool::new(false),
            taken,
        }
    }

    /// Hands over to the process at the other end of an admin connection. Takes as long as that
    /// needs to get ready; while sessions go on this serves its requests to cancel.
    pub(crate) fn over(&self, stream: UnixStream) {
        let process = getsockopt(&stream, sockopt::PeerCredentials).map_or(0, |who| who.pid());
        let process = u32::try_from(process).unwrap_or_default();
        if self.is_busy.swap(true, Ordering::AcqRel) {
            let detail = "another process is about to take over".to_owned();
            // Who asks may have left.
            return drop(say(stream, &Body::Refused(Refusal::TakeOver { detail })));
        }
        match self.try_over(stream) {
            Ok(Some(stream)) => {
                // The end of the process may be under way already.
                let _ = self.taken.send(process);
                if let Some(Front::Pooled(workers)) = &self.front {
                    link::serve_younger(stream, workers);
                }
            }
            Ok(None) => self.is_busy.store(false, Ordering::Release),
            Err(error) => {
                self.is_busy.store(false, Ordering::Release);
                warn!(process, %error, "a process was to take over and did not; serving on");
            }
        }
    }

    fn try_over(&self, mut stream: UnixStream) -> io::Result<Option<UnixStream>> {
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(HAND_OVER_STEP_MAX))?;
        stream.set_write_timeout(Some(HAND_OVER_STEP_MAX))?;
        if let Some(detail) = self.obstacle.clone() {
            say(stream, &Body::Refused(Refusal::TakeOver { detail }))?;
            return Ok(None);
        }
        let Some(offer) = self.holdings.offer(self.peer_id) else {
            let detail = "it is about to end".to_owned();
            say(stream, &Body::Refused(Refusal::TakeOver { detail }))?;
            return Ok(None);
        };
        let (offer, descriptors) = offer?;
        stream = say(stream, &Body::HandOver(offer))?;
        expect(&mut stream, &HandOverLine::Sockets)?;
        send_descriptors(&stream, &descriptors)?;
        drop(descriptors);
        info!("another process is getting ready to take over");
        stream.set_read_timeout(Some(TAKE_OVER_MAX))?;
        expect(&mut stream, &HandOverLine::Ready)?;
        self.holdings.hand_on(|| write_line(&mut stream, &HandOverLine::Yours))?;
        stream.set_read_timeout(None)?;
        Ok(Some(stream))
    }
}

fn say(mut stream: UnixStream, body: &Body) -> io::Result<UnixStream> {
    let mut line = serde_json::to_vec(&Reply::new(body.clone()))?;
    line.push(b'\n');
    io::Write::write_all(&mut stream, &line)?;
    Ok(stream)
}

fn expect(stream: &mut UnixStream, line: &HandOverLine) -> io::Result<()> {
    let found = next_line(stream)?;
    let what = || io::Error::other(format!("it said {found:?}, expected {line:?}"));
    (found == *line).then_some(()).ok_or_else(what)
}
