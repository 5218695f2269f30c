//! A session of pgx's own with the local PostgreSQL. Every wait has a bound, on both sides.

use std::future::Future;
use std::pin::pin;
use std::time::{Duration, Instant};

use tokio::net::UnixStream;
use tokio::runtime::Runtime;
use tokio::time::timeout;
use tokio_postgres::{Client, Config, NoTls, SimpleQueryMessage};

use super::error::Error;
use super::postmaster::Postmaster;
use super::{Abort, Place, owner};
use crate::limits::postgres::{QUERY_MAX, WATCH_EVERY};

/// By this PostgreSQL's views and logs tell it from others.
const APPLICATION: &str = "pgx agent";

/// A row: the text of each column, unless it is null.
pub(super) type Row = Vec<Option<String>>;

/// A session that waits for the next query. Its bytes move only while something is asked.
pub(super) struct Session {
    client: Client,
    runtime: Runtime,
    postmaster: i32,
}

impl Session {
    /// Logs in by the Unix socket.
    pub(super) fn open(place: &Place, postmaster: &Postmaster) -> Result<Self, Error> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Error::System { what: "cannot make a session".to_owned(), error })?;
        let socket = postmaster.socket.as_deref();
        let socket = socket.ok_or_else(|| Error::Silent("it has no Unix socket yet".to_owned()))?;
        let stream = owner::connect(socket, place.owner);
        let stream = stream.map_err(|error| Error::Silent(error.to_string()))?;
        let ms = QUERY_MAX.as_millis();
        let mut config = Config::new();
        config.user(&place.user).dbname(&place.database).application_name(APPLICATION);
        // What an operator has set for everybody must not hold it up, nor end it while it is idle.
        config.options(format!(
            "-c statement_timeout={ms} -c lock_timeout={ms} \
             -c idle_in_transaction_session_timeout=0 -c tcp_user_timeout=0"
        ));
        let (client, connection) = bounded(&runtime, async {
            let stream = UnixStream::from_std(stream).map_err(|error| error.to_string());
            let connected = config.connect_raw(stream?, NoTls).await;
            connected.map_err(|error| words(&error))
        })?
        .map_err(Error::Silent)?;
        // How it ends is seen by the next query.
        runtime.spawn(async move { drop(connection.await) });
        Ok(Self { client, runtime, postmaster: postmaster.pid })
    }

    /// Whether it is one with this postmaster.
    pub(super) fn is_with(&self, postmaster: &Postmaster) -> bool {
        self.postmaster == postmaster.pid && !self.client.is_closed()
    }

    /// The rows of one or several statements. After an error of any other kind than
    /// [`Error::Refused`] it is of no use.
    pub(super) fn ask(&self, sql: &str) -> Result<Vec<Row>, Error> {
        let asked = bounded(&self.runtime, self.client.simple_query(sql))?;
        let messages = asked.map_err(|error| match error.as_db_error() {
            Some(said) if !self.client.is_closed() => Error::Refused {
                code: said.code().code().to_owned(),
                text: said.message().to_owned(),
            },
            _ => Error::Silent(words(&error)),
        })?;
        let rows = messages.into_iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => {
                Some((0..row.len()).map(|at| row.get(at).map(str::to_owned)).collect())
            }
            _ => None,
        });
        Ok(rows.collect())
    }

    /// Has a statement carried out that may take long, and can be interrupted.
    pub(super) fn carry_out(
        &self,
        sql: &str,
        what: &'static str,
        limit: Duration,
        abort: &Abort,
    ) -> Result<(), Error> {
        self.ask("SET statement_timeout = 0")?;
        let deadline = Instant::now() + limit;
        let mut running = pin!(self.client.batch_execute(sql));
        loop {
            let step = self.runtime.block_on(async { timeout(WATCH_EVERY, &mut running).await });
            match step {
                Ok(done) => return done.map_err(|error| Error::Silent(words(&error))),
                Err(_) if Instant::now() >= deadline => return Err(Error::TimeOut { what, limit }),
                Err(_) => abort.check()?,
            }
        }
    }

    /// The one value of a query.
    pub(super) fn value(&self, sql: &str) -> Result<String, Error> {
        let first = self.ask(sql)?.into_iter().next().and_then(|row| row.into_iter().next());
        Ok(first.flatten().unwrap_or_default())
    }
}

fn bounded<T>(runtime: &Runtime, future: impl Future<Output = T>) -> Result<T, Error> {
    // The server gives up first, and says so.
    let limit = QUERY_MAX + Duration::from_millis(500);
    let done = runtime.block_on(async { timeout(limit, future).await });
    done.map_err(|_| Error::Silent(format!("no answer within {limit:?}")))
}

fn words(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(said) => format!("{} (SQLSTATE {})", said.message(), said.code().code()),
        None => error.to_string(),
    }
}

/// Text as an SQL literal.
pub(super) fn literal(text: &str) -> String {
    let text = text.replace('\'', "''");
    if text.contains('\\') {
        format!("E'{}'", text.replace('\\', "\\\\"))
    } else {
        format!("'{text}'")
    }
}

/// A name in SQL.
pub(super) fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
