//! Asks a PostgreSQL server: for a first answer on a new connection, and for a query's result on a
//! session that is kept.
//!
//! All waits here are of one thread that waits for nothing else. What is silent gets a second try
//! beside it, and the first is still waited for: so neither one frozen session nor a slow answer
//! is taken for a frozen server, and a server that is frozen finds two connections of ours when it
//! wakes, not hundreds.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use pgx_wire::startup::TLS_REQUEST;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinHandle;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Config, NoTls};

use super::Target;
use crate::limits::probe::ABANDON;
use crate::postgres::owner;

/// By this PostgreSQL's views and logs tell the probe from others.
const APPLICATION: &str = "pgx probe";

const QUERY: &str = "SELECT 1";

/// Why there was no result.
#[derive(Debug)]
pub(in crate::controller) enum Trouble {
    /// The server lives and says no; `passes` if it says that for now.
    Refused { text: String, passes: bool },
    /// No answer: it cannot be reached, or the connection broke.
    Lost(String),
}

/// A session that waits for the next query.
pub(super) struct Session {
    client: Client,
    _connection: Connection,
}

/// The task that moves a session's bytes; it ends with the value.
struct Connection(JoinHandle<()>);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A connection by the Unix socket, or by TCP where there is none.
enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

/// Opens a connection and waits for the first answer to the question for TLS, which any PostgreSQL
/// answers, also one that lets nobody in. That it is left then costs the server no line in its log.
pub(super) async fn knock(target: &Target) -> Result<(), Trouble> {
    match connect(target).await.map_err(|error| Trouble::Lost(error.to_string()))? {
        Stream::Unix(stream) => first_answer(stream).await,
        Stream::Tcp(stream) => first_answer(stream).await,
    }
}

async fn first_answer(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> Result<(), Trouble> {
    let lost = |error: io::Error| Trouble::Lost(error.to_string());
    stream.write_all(&TLS_REQUEST).await.map_err(lost)?;
    // Also an error is an answer: of a server that has no memory for a session.
    stream.read_u8().await.map(|_| ()).map_err(lost)
}

/// Has a query answered on a session, or on a new one, and gives the session back.
pub(super) async fn query(session: Option<Session>, target: &Target) -> Result<Session, Trouble> {
    let session = match session {
        Some(session) => session,
        None => log_in(target).await?,
    };
    match session.client.simple_query(QUERY).await {
        Ok(_) => Ok(session),
        // An error of the server's is its answer, whatever it says: a time-out of statements too.
        Err(error) if error.as_db_error().is_some() && !session.client.is_closed() => Ok(session),
        Err(error) => Err(Trouble::Lost(words(&error))),
    }
}

async fn log_in(target: &Target) -> Result<Session, Trouble> {
    let stream = connect(target).await.map_err(|error| Trouble::Lost(error.to_string()))?;
    let mut config = Config::new();
    config.user(&target.user).dbname(&target.database).application_name(APPLICATION);
    if let Ok(Some(password)) = &target.password {
        config.password(password);
    }
    let started = match stream {
        Stream::Unix(stream) => start(&config, stream).await,
        Stream::Tcp(stream) => start(&config, stream).await,
    };
    match (started, &target.password) {
        (Err(Trouble::Refused { text, passes }), Err(why)) => {
            Err(Trouble::Refused { text: format!("{text}; {why}"), passes })
        }
        (started, _) => started,
    }
}

async fn start<S>(config: &Config, stream: S) -> Result<Session, Trouble>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (client, connection) = config.connect_raw(stream, NoTls).await.map_err(|error| {
        let is_broken = std::error::Error::source(&error)
            .is_some_and(|source| source.downcast_ref::<io::Error>().is_some());
        if is_broken || error.is_closed() {
            return Trouble::Lost(words(&error));
        }
        let passing = [SqlState::CANNOT_CONNECT_NOW, SqlState::TOO_MANY_CONNECTIONS];
        let passes = error.code().is_some_and(|code| passing.contains(code));
        Trouble::Refused { text: words(&error), passes }
    })?;
    // How it ends is seen by the next query.
    let connection = Connection(tokio::spawn(async move { drop(connection.await) }));
    Ok(Session { client, _connection: connection })
}

fn words(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(said) => format!("{} (SQLSTATE {})", said.message(), said.code().code()),
        None => error.to_string(),
    }
}

async fn connect(target: &Target) -> io::Result<Stream> {
    let by_socket = target.socket.as_deref().map(|path| unix(path, target.owner));
    match (by_socket, target.address) {
        (Some(Ok(stream)), _) => Ok(Stream::Unix(stream)),
        (_, Some(address)) => tcp(address).await.map(Stream::Tcp),
        (Some(Err(error)), None) => Err(error),
        (None, None) => Err(io::Error::other("postmaster.pid does not say yet where it listens")),
    }
}

fn unix(path: &Path, owner: u32) -> io::Result<UnixStream> {
    UnixStream::from_std(owner::connect(path, owner)?)
}

async fn tcp(address: SocketAddr) -> io::Result<TcpStream> {
    let connected = TcpStream::connect(address).await;
    connected.map_err(|error| io::Error::new(error.kind(), format!("{address}: {error}")))
}

/// The outcome of a try, or of a second one that is made beside it when the first is silent for so
/// long. The second's refusal does not excuse the first's silence. `None` when both were given up.
pub(super) async fn hedged<T>(
    patience: Duration,
    first: impl Future<Output = Result<T, Trouble>>,
    second: impl Future<Output = Result<T, Trouble>>,
) -> Option<Result<T, Trouble>> {
    tokio::pin!(first);
    if let Ok(outcome) = tokio::time::timeout(patience, &mut first).await {
        return Some(outcome);
    }
    let both = async {
        tokio::pin!(second);
        tokio::select! {
            outcome = &mut first => match outcome {
                Ok(value) => Ok(value),
                Err(_) => second.await,
            },
            outcome = &mut second => match outcome {
                Ok(value) => Ok(value),
                Err(_) => first.await,
            },
        }
    };
    tokio::time::timeout(ABANDON, both).await.ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::{pending, ready};
    use tokio::sync::oneshot;

    fn run<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
    }

    fn refused<T>() -> Result<T, Trouble> {
        Err(Trouble::Refused { text: "no".to_owned(), passes: true })
    }

    #[test]
    fn second_try_answers_for_a_first_that_is_silent() {
        let outcome = run(hedged(Duration::ZERO, pending(), ready(Ok(2))));
        assert!(matches!(outcome, Some(Ok(2))), "{outcome:?}");
    }

    #[test]
    fn first_is_not_second_guessed_while_it_answers_in_time() {
        let outcome = run(hedged(ABANDON, ready(refused::<u8>()), pending()));
        assert!(matches!(outcome, Some(Err(Trouble::Refused { .. }))), "{outcome:?}");
    }

    #[test]
    fn refusal_of_the_second_does_not_excuse_the_silence_of_the_first() {
        let (sender, receiver) = oneshot::channel();
        let first = async { receiver.await.map_err(|error| Trouble::Lost(error.to_string())) };
        let second = async {
            sender.send(1).unwrap();
            refused()
        };
        let outcome = run(hedged(Duration::ZERO, first, second));
        assert!(matches!(outcome, Some(Ok(1))), "{outcome:?}");
    }
}
