//! The first proxy: passes bytes between a client and a backend, without reading them.
//!
//! It is here so that everything around it is real from the start; the ring engine takes its
//! place. Even so, no client waits without bound: connects have a limit, and a client for whom no
//! backend can be reached is told so in PostgreSQL's own words.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use pgx_session::attrs::SessionAttrs;
use pgx_session::route::{Backend, Epoch, Router, ServerAddress, Snapshot};
use pgx_session::time::Now;
use pgx_wire::limits::STARTUP_BYTES_MAX;
use pgx_wire::{ErrorResponse, Severity, SqlState, Startup, startup};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::{debug, info, warn};

use crate::config;
use crate::limits::{ACCEPT_PAUSE, CONNECT_MAX, CONNECT_TRIES_MAX, STARTUP_MAX};
use crate::sockets::Listener;

/// What the proxy counts; read by the admin socket.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) clients: AtomicU64,
    pub(crate) clients_total: AtomicU64,
    pub(crate) refused_total: AtomicU64,
    pub(crate) connect_failures_total: AtomicU64,
}

/// What clients are accepted from.
enum Accepts {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// A client that has come.
enum Client {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Accepts {
    async fn next(&self) -> io::Result<Client> {
        match self {
            Self::Tcp(listener) => {
                let (client, peer) = listener.accept().await?;
                debug!(%peer, "client connected");
                // Queries are small packets that wait for their answers: never hold one back.
                let _ = client.set_nodelay(true);
                Ok(Client::Tcp(client))
            }
            Self::Unix(listener) => {
                let (client, _) = listener.accept().await?;
                debug!("client connected by a Unix socket");
                Ok(Client::Unix(client))
            }
        }
    }
}

/// The parts that all sessions of a proxy share.
#[derive(Debug)]
pub(crate) struct Forwarder {
    pub(crate) counters: Counters,
    router: Mutex<Router>,
    max_client_conn: u64,
    started: Instant,
}

impl Forwarder {
    /// A forwarder to the backends that the configuration names.
    pub(crate) fn new(config: &config::Proxy) -> Arc<Self> {
        let backends = config.backends.iter().cloned().map(Backend::from).collect();
        let snapshot = Snapshot { epoch: Epoch(0), backends };
        Arc::new(Self {
            counters: Counters::default(),
            router: Mutex::new(Router::new(&snapshot, SessionAttrs::Any)),
            max_client_conn: u64::try_from(config.max_client_conn).unwrap_or(u64::MAX),
            started: Instant::now(),
        })
    }

    /// Accepts clients until `stop` changes, then waits for their sessions to end. Dropping the
    /// future ends them at once.
    ///
    /// # Errors
    /// When the socket cannot be listened to.
    pub(crate) fn serve(
        self: Arc<Self>,
        listener: Listener,
        stop: watch::Receiver<bool>,
    ) -> io::Result<impl Future<Output = ()> + Send> {
        let listener = match listener {
            Listener::Tcp(socket) => Accepts::Tcp(TcpListener::from_std(socket.into())?),
            Listener::Unix(socket) => Accepts::Unix(UnixListener::from_std(socket.into())?),
        };
        Ok(self.accept(listener, stop))
    }

    async fn accept(self: Arc<Self>, listener: Accepts, mut stop: watch::Receiver<bool>) {
        let mut sessions = JoinSet::new();
        loop {
            tokio::select! {
                _ = stop.changed() => break,
                Some(_) = sessions.join_next() => {}
                accepted = listener.next() => match accepted {
                    Ok(Client::Tcp(client)) => {
                        sessions.spawn(Arc::clone(&self).session(client));
                    }
                    Ok(Client::Unix(client)) => {
                        sessions.spawn(Arc::clone(&self).session(client));
                    }
                    Err(error) => {
                        warn!(%error, "cannot accept a client; trying again shortly");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                }
            }
        }
        drop(listener);
        info!(sessions = sessions.len(), "stopped accepting, waiting for sessions to end");
        while sessions.join_next().await.is_some() {}
    }

    async fn session<C: AsyncRead + AsyncWrite + Unpin>(self: Arc<Self>, mut client: C) {
        self.counters.clients_total.fetch_add(1, Ordering::Relaxed);
        let _open = Open::new(&self.counters.clients);
        if self.counters.clients.load(Ordering::Relaxed) > self.max_client_conn {
            let state = SqlState::TOO_MANY_CONNECTIONS;
            return self.refuse(client, state, "too many clients already", "").await;
        }
        let Some(mut server) = self.connect().await else {
            let hint = "The log of pgx names the backends that were tried.";
            let state = SqlState::CANNOT_CONNECT;
            return self.refuse(client, state, "no backend can be reached", hint).await;
        };
        if let Err(error) = copy_bidirectional(&mut client, &mut server).await {
            debug!(%error, "session ended by an error");
        }
    }

    async fn connect(&self) -> Option<TcpStream> {
        for _ in 0..CONNECT_TRIES_MAX {
            let backend = self.with_router(|router, now| router.pick(now))?;
            let connected = tokio::time::timeout(CONNECT_MAX, TcpStream::connect(&backend.0)).await;
            match connected.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into())) {
                Ok(server) => {
                    self.with_router(|router, _| router.handle_success(&backend));
                    let _ = server.set_nodelay(true);
                    return Some(server);
                }
                Err(error) => self.connect_failed(&backend, &error),
            }
        }
        None
    }

    fn connect_failed(&self, backend: &ServerAddress, error: &std::io::Error) {
        warn!(%backend, %error, "cannot connect to a backend; it is left out for a while");
        self.counters.connect_failures_total.fetch_add(1, Ordering::Relaxed);
        self.with_router(|router, now| router.handle_failure(backend, now));
    }

    /// Answers the client's start-up packet with an error, so that it shows a reason and not a
    /// dropped connection.
    async fn refuse<C: AsyncRead + AsyncWrite + Unpin>(
        &self,
        mut client: C,
        state: SqlState,
        message: &str,
        hint: &str,
    ) {
        self.counters.refused_total.fetch_add(1, Ordering::Relaxed);
        let answer = async {
            if wait_for_login(&mut client).await? {
                let plain = ErrorResponse::new(Severity::Fatal, state, message);
                let error = ErrorResponse { hint, ..plain };
                client.write_all(&error.to_bytes()).await?;
            }
            client.shutdown().await
        };
        if let Ok(Err(error)) = tokio::time::timeout(STARTUP_MAX, answer).await {
            debug!(%error, "client left before it could be told why");
        }
    }

    fn with_router<T>(&self, use_it: impl FnOnce(&mut Router, Now) -> T) -> T {
        let us = u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX);
        // A router is valid between any two of its calls, so a panic elsewhere spoils nothing.
        let mut router = self.router.lock().unwrap_or_else(PoisonError::into_inner);
        use_it(&mut router, Now(us))
    }
}

/// Reads until the client's login request is there, declining encryption on the way. `false` when
/// the client is owed no answer.
async fn wait_for_login<C: AsyncRead + AsyncWrite + Unpin>(client: &mut C) -> io::Result<bool> {
    let mut bytes = Vec::with_capacity(1024);
    while bytes.len() <= STARTUP_BYTES_MAX {
        let taken = match startup::parse(&bytes) {
            Ok(Some((Startup::TlsRequest | Startup::GssRequest, taken))) => taken,
            Ok(Some((Startup::Login { .. }, _))) => return Ok(true),
            Ok(Some((Startup::Cancel { .. }, _))) | Err(_) => return Ok(false),
            Ok(None) => {
                if client.read_buf(&mut bytes).await? == 0 {
                    return Ok(false);
                }
                continue;
            }
        };
        if bytes.len() > taken {
            // Bytes behind the request were meant to pass as encrypted: whoever sent them is not
            // answered.
            return Ok(false);
        }
        bytes.clear();
        client.write_all(b"N").await?;
    }
    Ok(false)
}

/// Counts one client for as long as it lives, however its task ends.
struct Open<'a>(&'a AtomicU64);

impl<'a> Open<'a> {
    fn new(gauge: &'a AtomicU64) -> Self {
        gauge.fetch_add(1, Ordering::Relaxed);
        Self(gauge)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
