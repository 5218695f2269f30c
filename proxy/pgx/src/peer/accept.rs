//! Incoming connections: from a stranger to a peer whose messages are passed on.
//!
//! Nothing is said before the handshake, and who has not shown who it is costs a place for a
//! bounded time. One more than there are places cuts the oldest: a peer is through in milliseconds,
//! so a flood of idle connections displaces itself.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pgx_control::ids::NodeId;
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tracing::{info, warn};

use super::cause::Cause;
use super::frame::{self, Class};
use super::hello::Hello;
use super::journal::Side;
use super::verify::peer_of;
use super::{Message, Shared, socket};
use crate::limits::ACCEPT_PAUSE;
use crate::limits::peer::{HANDSHAKE_MAX, HANDSHAKES_MAX};

/// Accepts for ever; its connections end with it.
pub(super) async fn serve(shared: Arc<Shared>, listener: TcpListener) {
    let strangers = Arc::new(Places::default());
    let mut tasks = JoinSet::new();
    loop {
        tokio::select! {
            Some(_) = tasks.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, from)) => {
                    let place = strangers.take();
                    tasks.spawn(admit(Arc::clone(&shared), place, stream, from));
                }
                Err(error) => {
                    warn!(%error, "cannot accept a peer; trying again shortly");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

async fn admit(shared: Arc<Shared>, place: Place, stream: TcpStream, from: SocketAddr) {
    let config = shared.server();
    let Place { guard, cut } = place;
    let welcomed = tokio::select! {
        welcomed = timeout(HANDSHAKE_MAX, welcome(config, stream)) => {
            welcomed.unwrap_or(Err(Cause::Slow(HANDSHAKE_MAX)))
        }
        _ = cut => Err(Cause::Crowded),
    };
    drop(guard);
    let (stream, peer, class) = match welcomed {
        Ok(welcomed) => welcomed,
        Err(cause) => {
            let place = from.ip().to_string();
            return shared.journal.report(Side::Incoming, &from.to_string(), &place, &cause);
        }
    };
    info!(%peer, %from, %class, "a peer has connected");
    let cause = tokio::select! {
        cause = receive(&shared, stream, peer, class) => cause,
        cause = shared.replace(peer, class) => cause,
    };
    let who = format!("node {peer} from {from} ({class})");
    shared.journal.report(Side::Incoming, &who, &format!("node {peer}"), &cause);
}

/// Handshake and hello.
async fn welcome(
    config: Arc<ServerConfig>,
    stream: TcpStream,
) -> Result<(TlsStream<TcpStream>, NodeId, Class), Cause> {
    socket::keep_alive(&stream)?;
    let mut stream = TlsAcceptor::from(config).accept(stream).await?;
    let peer = peer_of(stream.get_ref().1.peer_certificates())?;
    let ours = Hello::ours(None);
    ours.write(&mut stream).await?;
    let theirs = Hello::read(&mut stream).await?;
    ours.agree(theirs)?;
    let class = theirs.class()?;
    socket::tune(stream.get_ref().0, class)?;
    Ok((stream, peer, class))
}

/// Passes messages on until the connection ends, and says why it did.
async fn receive(
    shared: &Shared,
    stream: TlsStream<TcpStream>,
    from: NodeId,
    class: Class,
) -> Cause {
    // Whole records are read at once: a header of five bytes is no reason to ask the system.
    let mut stream = tokio::io::BufReader::new(stream);
    loop {
        match frame::read(&mut stream, class).await {
            Ok((channel, bytes)) => shared.deliver(Message { from, channel, bytes }),
            Err(cause) => return cause,
        }
    }
}

/// The places of those who have not shown who they are, by age.
#[derive(Debug, Default)]
struct Places(Mutex<Taken>);

#[derive(Debug, Default)]
struct Taken {
    next: u64,
    /// Dropping the sender cuts whoever holds the place.
    by_age: BTreeMap<u64, oneshot::Sender<()>>,
}

/// A place, for as long as its guard lives, unless it is cut.
struct Place {
    guard: Guard,
    /// Resolves, always by an error, when the place is cut.
    cut: oneshot::Receiver<()>,
}

struct Guard {
    places: Arc<Places>,
    number: u64,
}

impl Places {
    fn take(self: &Arc<Self>) -> Place {
        let (sender, cut) = oneshot::channel();
        let mut taken = self.lock();
        if taken.by_age.len() >= HANDSHAKES_MAX {
            taken.by_age.pop_first();
        }
        let number = taken.next;
        taken.next += 1;
        taken.by_age.insert(number, sender);
        Place { guard: Guard { places: Arc::clone(self), number }, cut }
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        // The map is whole between any two statements, so a panic elsewhere spoils nothing.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.places.lock().by_age.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn oldest_stranger_gives_way_and_places_come_back() {
        let places = Arc::new(Places::default());
        let mut oldest = places.take();
        let mut others: Vec<_> = (1..HANDSHAKES_MAX).map(|_| places.take()).collect();
        let open =
            |place: &mut Place| place.cut.try_recv() == Err(oneshot::error::TryRecvError::Empty);
        assert!(open(&mut oldest));

        others.push(places.take());
        assert!(!open(&mut oldest));
        assert!(others.iter_mut().all(open));

        drop(others);
        assert_eq!(places.lock().by_age.len(), 0);
    }
}
