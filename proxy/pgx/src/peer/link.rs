//! One outgoing connection: dialled, shown to be the right peer, fed from its outbox, and dialled
//! again when it ends.
//!
//! Messages travel one way on a connection. Each side dials for what it sends, so nobody has to
//! settle which of two crossing connections lives.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use pgx_control::ids::NodeId;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tracing::info;

use super::cause::Cause;
use super::frame::{Class, header};
use super::hello::Hello;
use super::journal::Side;
use super::socket;
use super::{Peer, Shared};
use crate::limits::peer::{DIAL_MAX, HANDSHAKE_MAX, RETRY_MAX, RETRY_MIN, WRITE_MAX};

/// Keeps one connection to `peer`; ends only with its task.
pub(super) async fn keep(shared: Arc<Shared>, state: Arc<Peer>, class: Class) {
    let (peer, state) = (state.node, &*state);
    let mut failures = 0;
    loop {
        let begun = Instant::now();
        let cause = match connect(&shared, peer, state, class).await {
            Ok(stream) => {
                info!(%peer, address = %state.address, %class, "connected to a peer");
                state.link(class).up();
                feed(stream, state, class).await
            }
            Err(cause) => cause,
        };
        let who = format!("node {peer} at {}", state.address);
        shared.journal.report(Side::Outgoing, &format!("{who} ({class})"), &who, &cause);
        state.link(class).down(cause.to_string());
        // One that comes and goes at once is no better than one that does not come.
        failures = if begun.elapsed() > RETRY_MAX * 2 { 0 } else { failures + 1 };
        tokio::time::sleep(pause(shared.node, peer, class, failures)).await;
    }
}

/// How long to wait after so many failures in a row. It doubles up to its bound, and a part that
/// differs by node, peer and try keeps nodes that lost a peer together from coming back together.
fn pause(node: NodeId, peer: NodeId, class: Class, failures: u32) -> Duration {
    let longest = RETRY_MIN.saturating_mul(1 << failures.min(16)).min(RETRY_MAX);
    let mut spread = 0xcbf2_9ce4_8422_2325_u64;
    for part in [node.0, peer.0, u64::from(class.code()), u64::from(failures)] {
        // A step of FNV-1a over words, and a shift that carries high bits down.
        spread = (spread ^ part).wrapping_mul(0x0100_0000_01b3);
        spread ^= spread >> 29;
    }
    let per_mille = u32::try_from(spread % 500).unwrap_or_default();
    longest / 2 + longest * per_mille / 1000
}

async fn connect(
    shared: &Shared,
    peer: NodeId,
    state: &Peer,
    class: Class,
) -> Result<TlsStream<TcpStream>, Cause> {
    let address = &*state.address.0;
    let stream = match timeout(DIAL_MAX, TcpStream::connect(address)).await {
        Ok(connected) => connected.map_err(Cause::Connect)?,
        Err(_) => return Err(Cause::Connect(std::io::ErrorKind::TimedOut.into())),
    };
    socket::tune(&stream, class)?;
    let config = shared.certificates().client(peer);
    let name = name_of(&stream)?;
    let handshake = async {
        let mut stream = TlsConnector::from(config).connect(name, stream).await?;
        let theirs = Hello::read(&mut stream).await?;
        let ours = Hello::ours(Some(class));
        // Ours goes out in any case, so that the other side can log the same reason.
        ours.write(&mut stream).await?;
        ours.agree(theirs)?;
        Ok(stream)
    };
    timeout(HANDSHAKE_MAX, handshake).await.unwrap_or(Err(Cause::Slow(HANDSHAKE_MAX)))
}

/// rustls wants a name to connect to; ours is not sent and not checked, the identity is.
fn name_of(stream: &TcpStream) -> Result<ServerName<'static>, Cause> {
    Ok(ServerName::from(stream.peer_addr().map(|address: SocketAddr| address.ip())?))
}

/// Sends what the outbox has until the connection ends, and says why it did.
async fn feed(stream: TlsStream<TcpStream>, state: &Peer, class: Class) -> Cause {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let outbox = &state.link(class).outbox;
    tokio::select! {
        cause = end_of(&mut reader) => cause,
        cause = async {
            loop {
                match write_all(&mut writer, state, class).await {
                    Ok(()) => outbox.filled().await,
                    Err(cause) => return cause,
                }
            }
        } => cause,
    }
}

/// Nothing comes on an outgoing connection but its end.
async fn end_of(reader: &mut ReadHalf<TlsStream<TcpStream>>) -> Cause {
    match reader.read(&mut [0]).await {
        Ok(0) => Cause::Closed,
        Ok(_) => Cause::NoHello,
        Err(error) => error.into(),
    }
}

/// Empties the outbox; each message has its own bound, so that a long queue is no fault.
async fn write_all(
    writer: &mut WriteHalf<TlsStream<TcpStream>>,
    state: &Peer,
    class: Class,
) -> Result<(), Cause> {
    while let Some((channel, bytes)) = state.link(class).outbox.pop() {
        let write = async {
            writer.write_all(&header(channel, &bytes)).await?;
            writer.write_all(&bytes).await?;
            writer.flush().await
        };
        timeout(WRITE_MAX, write).await.map_err(|_| Cause::Stalled(WRITE_MAX))??;
        state.counters.sent.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_their_bound_and_stay_there() {
        for failures in 1..100 {
            let found = pause(NodeId(1), NodeId(2), Class::Bulk, failures);
            assert!(found >= RETRY_MIN && found <= RETRY_MAX, "{failures}: {found:?}");
        }
        assert!(pause(NodeId(1), NodeId(2), Class::Bulk, 1) < RETRY_MIN * 2);
        assert!(pause(NodeId(1), NodeId(2), Class::Bulk, 50) >= RETRY_MAX / 2);
    }

    #[test]
    fn nodes_that_lost_a_peer_together_come_back_apart() {
        let mut pauses: Vec<_> = (1..=20)
            .flat_map(|node| Class::ALL.map(|class| pause(NodeId(node), NodeId(99), class, 50)))
            .collect();
        pauses.sort_unstable();
        pauses.dedup();
        assert!(pauses.len() >= 36, "{pauses:?}");
    }
}
