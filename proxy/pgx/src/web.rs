//! What servers of HTTP have in common: so many clients at once, and each for so long.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tracing::{debug, warn};

use crate::limits::ACCEPT_PAUSE;

/// What bounds one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// What it serves, for logs.
    pub(crate) what: &'static str,
    /// Clients at once.
    pub(crate) most: usize,
    /// How long one may take.
    pub(crate) limit: Duration,
}

/// Serves each client by a task of its own, until dropped. Anybody can cause what is said of single
/// clients, as often as he likes, so it is not said unless asked for.
pub(crate) async fn serve<F>(listener: TcpListener, bounds: Bounds, answer: impl Fn(TcpStream) -> F)
where
    F: Future<Output = Result<(), String>> + Send + 'static,
{
    let Bounds { what, most, limit } = bounds;
    let places = Arc::new(Semaphore::new(most));
    loop {
        let (client, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                warn!(what, %error, "cannot accept a client; trying again shortly");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            debug!(what, %peer, most, "too many clients at once; one is turned away");
            continue;
        };
        let answered = timeout(limit, answer(client));
        tokio::spawn(async move {
            match answered.await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => debug!(what, %peer, error, "a request came to nothing"),
                Err(_) => debug!(what, %peer, ?limit, "a client took longer than it may"),
            }
            drop(place);
        });
    }
}
