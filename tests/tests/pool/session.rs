//! A client that shows what is on the wire.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use pgx_wire::backend::{Fields, tag};
use pgx_wire::{Frames, frontend};

/// How long an answer may take on a busy machine; none is waited for longer.
const ANSWER_MAX: Duration = Duration::from_secs(20);

trait Stream: Read + Write + Send {}

impl<T: Read + Write + Send> Stream for T {}

/// A message as it came.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) tag: u8,
    pub(crate) body: Vec<u8>,
}

impl std::fmt::Debug for Message {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{} {:?}", char::from(self.tag), String::from_utf8_lossy(&self.body))
    }
}

/// A session that has logged in.
pub(crate) struct Session {
    stream: Box<dyn Stream>,
    bytes: Vec<u8>,
    /// By what its queries are cancelled.
    pub(crate) key: Vec<u8>,
}

impl Session {
    /// At PostgreSQL itself.
    pub(crate) fn direct(folder: &Path, parameters: &[(&str, &str)]) -> anyhow::Result<Self> {
        let stream = UnixStream::connect(folder.join(".s.PGSQL.5432"))?;
        stream.set_read_timeout(Some(ANSWER_MAX))?;
        Self::log_in(Box::new(stream), parameters)
    }

    /// At a proxy.
    pub(crate) fn through(at: SocketAddr, parameters: &[(&str, &str)]) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(at)?;
        stream.set_read_timeout(Some(ANSWER_MAX))?;
        stream.set_nodelay(true)?;
        Self::log_in(Box::new(stream), parameters)
    }

    fn log_in(stream: Box<dyn Stream>, parameters: &[(&str, &str)]) -> anyhow::Result<Self> {
        let (mut session, hello) = Self::try_log_in(stream, parameters)?;
        let key = hello.iter().find(|message| message.tag == tag::BACKEND_KEY);
        session.key = key.context("no key to cancel by")?.body.clone();
        Ok(session)
    }

    /// What somebody is told that wants to log in, welcome or not.
    pub(crate) fn told(
        at: SocketAddr,
        parameters: &[(&str, &str)],
    ) -> anyhow::Result<Vec<Message>> {
        let stream = TcpStream::connect(at)?;
        stream.set_read_timeout(Some(ANSWER_MAX))?;
        Ok(Self::try_log_in(Box::new(stream), parameters)?.1)
    }

    /// The same, at PostgreSQL itself.
    pub(crate) fn told_directly(
        folder: &Path,
        parameters: &[(&str, &str)],
    ) -> anyhow::Result<Vec<Message>> {
        let stream = UnixStream::connect(folder.join(".s.PGSQL.5432"))?;
        stream.set_read_timeout(Some(ANSWER_MAX))?;
        Ok(Self::try_log_in(Box::new(stream), parameters)?.1)
    }

    fn try_log_in(
        stream: Box<dyn Stream>,
        parameters: &[(&str, &str)],
    ) -> anyhow::Result<(Self, Vec<Message>)> {
        let mut session = Self { stream, bytes: Vec::new(), key: Vec::new() };
        let own = [("user", "postgres"), ("database", "postgres")];
        let all = own.iter().chain(parameters).map(|(a, b)| (a.as_bytes(), b.as_bytes()));
        let mut packet = Vec::new();
        frontend::write::startup(&mut packet, 0, all);
        session.send(&packet)?;
        let hello = session.answers(1)?;
        Ok((session, hello))
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        Ok(self.stream.write_all(bytes)?)
    }

    /// The next message; `None` when the connection has ended.
    pub(crate) fn next(&mut self) -> anyhow::Result<Option<Message>> {
        loop {
            let mut frames = Frames::new(&self.bytes);
            if let Some(frame) = frames.next_frame()? {
                let message = Message { tag: frame.tag, body: frame.body.to_vec() };
                let taken = frame.wire_bytes();
                self.bytes.drain(..taken);
                return Ok(Some(message));
            }
            let mut more = [0; 16_384];
            match self.stream.read(&mut more) {
                Ok(0) => {
                    ensure!(self.bytes.is_empty(), "the connection ended within a message");
                    return Ok(None);
                }
                Ok(count) => self.bytes.extend_from_slice(&more[..count]),
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {
                    return Ok(None);
                }
                Err(error) => return Err(error).context("no answer"),
            }
        }
    }

    /// All messages up to the given count of `ReadyForQuery`, or to the end of the connection.
    pub(crate) fn answers(&mut self, readies: usize) -> anyhow::Result<Vec<Message>> {
        let (mut messages, mut seen) = (Vec::new(), 0);
        while seen < readies {
            let Some(message) = self.next()? else { break };
            seen += usize::from(message.tag == tag::READY);
            messages.push(message);
        }
        Ok(messages)
    }

    /// Runs a simple query.
    pub(crate) fn query(&mut self, text: &str) -> anyhow::Result<Vec<Message>> {
        self.send(&query(text))?;
        self.answers(1)
    }

    /// Runs a statement by the extended protocol, and prepares it first if there is a text; the
    /// portal is described if that is wished.
    pub(crate) fn extended(
        &mut self,
        name: &str,
        text: Option<&str>,
        describes: bool,
    ) -> anyhow::Result<Vec<Message>> {
        let mut out = Vec::new();
        if let Some(text) = text {
            frontend::write::parse(&mut out, name.as_bytes(), text.as_bytes(), &[]);
        }
        frontend::write::bind_head(&mut out, b"", name.as_bytes(), 6);
        out.extend_from_slice(&[0; 6]);
        if describes {
            frontend::write::describe(&mut out, frontend::PORTAL, b"");
        }
        frontend::write::execute(&mut out, b"", 0);
        frontend::write::sync(&mut out);
        self.send(&out)?;
        self.answers(1)
    }

    /// The only value of a query's only row.
    pub(crate) fn value(&mut self, text: &str) -> anyhow::Result<String> {
        let messages = self.query(text)?;
        let row = messages.iter().find(|message| message.tag == tag::DATA_ROW);
        let Some(row) = row else { bail!("no row: {messages:?}") };
        let value = row.body.get(6..).context("no value")?;
        Ok(String::from_utf8_lossy(value).into_owned())
    }
}

/// A simple query.
pub(crate) fn query(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    frontend::write::query(&mut out, text.as_bytes());
    out
}

/// The SQLSTATEs of all errors among messages.
pub(crate) fn states(messages: &[Message]) -> Vec<String> {
    let errors = messages.iter().filter(|message| message.tag == tag::ERROR);
    let states = errors.filter_map(|message| Fields::new(&message.body).sqlstate());
    states.map(|state| String::from_utf8_lossy(&state).into_owned()).collect()
}

/// What the last message says of the transaction.
pub(crate) fn status(messages: &[Message]) -> Option<char> {
    let last = messages.last().filter(|message| message.tag == tag::READY)?;
    last.body.first().map(|byte| char::from(*byte))
}
